//! Memory of each thing that there may be many of, the start with many, and FDB entries in batches.

use crate::peer::{Dray, Switch};
use crate::scale::case::{head, memif};
use crate::scale::{Results, START, ScaleArgs, load, wait};
use dray_api::{FdbBatch, FdbStatic, StatusShow};
use dray_client::Client as Control;
use dray_config::{Mac, Member, Role, SocketName};
use dray_report::{Column, Document, Table, Tone};
use dray_vhost::memif::{Client, ClientOptions};
use dray_vhost::vhost_user::frontend::{self, Frontend, Meeting};
use serde::{Deserialize, Serialize};
use std::fmt::Write;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// What one of many takes of drayd's private memory.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Memory {
    /// What it is.
    pub what: String,
    /// How many there were.
    pub count: u32,
    /// Bytes without them.
    pub before: u64,
    /// Bytes with them.
    pub after: u64,
}

impl Memory {
    /// Bytes of one.
    pub fn each(&self) -> f64 {
        (self.after as f64 - self.before as f64) / f64::from(self.count)
    }
}

/// A start.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Start {
    /// Ports.
    pub ports: u32,
    /// Bridges.
    pub bridges: u32,
    /// Seconds until the control socket answers.
    pub seconds: f64,
}

/// Static FDB entries, added or deleted over the control socket.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Batch {
    /// What was done.
    pub what: String,
    /// Entries.
    pub entries: u32,
    /// Seconds.
    pub seconds: f64,
}

/// A configuration to be measured.
#[derive(Clone, Copy, Default)]
struct Many {
    memif: u32,
    vhost_user: u32,
    bridges: u32,
    /// VLANs of each of two trunks, one for each bridge.
    vlans: u32,
    /// Bridges with a VNI.
    vnis: u32,
    /// MACs that the FDB may hold; 0: 64 Ki.
    fdb: u32,
}

fn vhost_user_socket(dir: &Path, id: u32) -> PathBuf {
    dir.join(format!("v{id}.sock"))
}

impl Many {
    fn configuration(self, dir: &Path, cpu: usize) -> String {
        let mut text = head(dir, cpu, if self.fdb == 0 { 1 << 16 } else { self.fdb as usize });
        // Two at least: the trunks, and the underlay.
        (0..self.memif.max(2)).for_each(|id| memif(&mut text, dir, id));
        for id in 0..self.vhost_user {
            let socket = vhost_user_socket(dir, id);
            let _ = writeln!(
                text,
                "[[port]]\nname = \"v{id}\"\nkind = \"vhost-user\"\nsocket = {socket:?}\nrole = \"server\""
            );
        }
        for n in 1..=self.bridges {
            let _ = writeln!(text, "[[bridge]]\nname = \"b{n}\"");
            if n <= self.vnis {
                let _ = writeln!(text, "vni = {n}");
            }
            let trunk = |port: &str| format!("{{ port = \"{port}\", vlan = {n} }}");
            let members = match (n <= self.vlans, self.vnis) {
                (true, 0) => format!("{}, {}", trunk("p0"), trunk("p1")),
                (true, _) => trunk("p0"),
                (false, _) => String::new(),
            };
            let _ = writeln!(text, "ports = [{members}]");
        }
        if self.vnis != 0 {
            text += "[vxlan]\nport = \"p1\"\nlocal = \"10.9.0.1/24\"\ngateway = \"10.9.0.254\"\n";
        }
        text
    }

    /// Starts it, and says how long it took until it answered.
    fn start(self, dray: &Dray, cpu: usize) -> Result<(Switch, Control, f64), String> {
        let begin = Instant::now();
        let switch = dray.start_with(cpu, |dir| self.configuration(dir, cpu))?;
        let mut control = Control::wait(&switch.control(), START)?;
        let status = control.call(&StatusShow {})?;
        let seconds = begin.elapsed().as_secs_f64();
        if status.bridges != self.bridges as usize {
            return Err(format!("drayd has {} bridges instead of {}", status.bridges, self.bridges));
        }
        Ok((switch, control, seconds))
    }
}

/// Entries for bridge b1, each behind its own place.
fn entries(count: u32, place: impl Fn(u32) -> FdbStatic) -> FdbBatch {
    let entry = |i: u32| {
        let n = i.to_be_bytes();
        FdbStatic { bridge: "b1".into(), mac: Mac([2, 0xc0, n[0], n[1], n[2], n[3]]), ..place(i) }
    };
    FdbBatch { entries: (0..count).map(entry).collect(), refused: vec![] }
}

fn behind_port(_: u32) -> FdbStatic {
    FdbStatic { port: Some(Member { port: "p0".into(), vlan: Some(1) }), ..FdbStatic::default() }
}

fn behind_vteps(of: u32) -> impl Fn(u32) -> FdbStatic {
    move |i| {
        let vtep = u32::from(Ipv4Addr::new(10, 64, 1, 0)) + i % of;
        FdbStatic { vtep: Some(vtep.into()), ..FdbStatic::default() }
    }
}

/// Measures everything.
pub(super) fn measure(dray: &Dray, args: &ScaleArgs, results: &mut Results, stop: &AtomicBool) -> Result<(), String> {
    let cpu = args.switch_cpu;
    let scale = if args.quick { 16 } else { 1 };
    let interrupted = || if stop.load(Ordering::Relaxed) { Err("interrupted".to_owned()) } else { Ok(()) };
    let mut note = |what: &str, count: u32, before: u64, after: u64| {
        results.memory.push(Memory { what: what.into(), count, before, after });
    };
    let idle = |many: Many| -> Result<u64, String> {
        interrupted()?;
        Ok(many.start(dray, cpu)?.0.private_memory())
    };

    let base = idle(Many::default())?;
    let ports = 256 / scale;
    let (switch, mut control, _) = Many { memif: ports, ..Many::default() }.start(dray, cpu)?;
    let down = switch.private_memory();
    note("memif port, link down", ports - 2, base, down);
    let [socket, _] = switch.sockets();
    let client = |id| {
        let options = ClientOptions { name: format!("p{id}"), ..ClientOptions::default() };
        Client::connect(&socket, id, &options)
    };
    let clients = (0..ports).map(client).collect::<Result<Vec<_>, _>>()?;
    let up = |control: &mut Control, count: u32| {
        wait("the links", || Ok(control.call(&StatusShow {})?.ports_up == count as usize))
    };
    up(&mut control, ports)?;
    note("memif link, one queue pair", ports, down, switch.private_memory());
    drop((clients, switch, control));

    let ports = 128 / scale;
    let (switch, mut control, _) = Many { vhost_user: ports, ..Many::default() }.start(dray, cpu)?;
    let down = switch.private_memory();
    note("vhost-user port, no VM", ports, base, down);
    let vm = |id| {
        let socket = SocketName::Path(vhost_user_socket(switch.directory(), id));
        let options = frontend::Options { role: Role::Client, ..frontend::Options::default() };
        Frontend::meet(Meeting::new(&socket, Role::Client)?, &options)
    };
    let vms = (0..ports).map(vm).collect::<Result<Vec<_>, _>>()?;
    up(&mut control, ports)?;
    note("VM at a vhost-user port, one queue pair", ports, down, switch.private_memory());
    drop((vms, switch, control));

    let many = 4096 / scale;
    let bridges = idle(Many { bridges: many - 2, ..Many::default() })?;
    note("bridge without members", many - 2, base, bridges);
    let vlans = idle(Many { bridges: many - 2, vlans: many - 2, ..Many::default() })?;
    note("VLAN of two trunks, with its bridge", many - 2, base, vlans);
    let local = idle(Many { bridges: many - 2, vlans: many - 2, vnis: 1, ..Many::default() })?;
    let vnis = idle(Many { bridges: many - 2, vlans: many - 2, vnis: many - 2, ..Many::default() })?;
    note("VNI of a bridge", many - 3, local, vnis);
    let fdb = |fdb| idle(Many { fdb, ..Many::default() });
    note("MAC that the FDB has room for", (1 << 20) - (1 << 16), base, fdb(1 << 20)?);

    let overlay = Many { bridges: 1, vlans: 1, vnis: 1, fdb: 1 << 20, ..Many::default() };
    let mut of_tunnels = [0; 2];
    for (memory, vteps) in of_tunnels.iter_mut().zip([1, many]) {
        interrupted()?;
        let (switch, mut control, _) = overlay.start(dray, cpu)?;
        load(&mut control, entries(many, behind_vteps(vteps)), false)?;
        // They are asked for a little later.
        std::thread::sleep(Duration::from_millis(300));
        *memory = switch.private_memory();
    }
    note("tunnel (VTEP)", many - 1, of_tunnels[0], of_tunnels[1]);

    let count = 100_000 / scale;
    let (switch, mut control, _) = overlay.start(dray, cpu)?;
    let before = switch.private_memory();
    let batches = [
        ("added", entries(count, behind_port), false),
        ("moved to one VTEP", entries(count, behind_vteps(1)), false),
        ("deleted", entries(count, behind_port), true),
    ];
    let mut batch_figures = Vec::new();
    for (at, (what, batch, delete)) in batches.into_iter().enumerate() {
        interrupted()?;
        let begin = Instant::now();
        load(&mut control, batch, delete)?;
        batch_figures.push(Batch { what: what.into(), entries: count, seconds: begin.elapsed().as_secs_f64() });
        if at == 0 {
            note("static entry, beside its place in the FDB", count, before, switch.private_memory());
        }
    }
    results.batches = batch_figures;
    drop((switch, control));

    let of_start = Many { memif: 256 / scale, bridges: many, ..Many::default() };
    for _ in 0..3 {
        interrupted()?;
        let (_, _, seconds) = of_start.start(dray, cpu)?;
        results.starts.push(Start { ports: of_start.memif, bridges: of_start.bridges, seconds });
    }
    Ok(())
}

/// Adds what there is to a report.
pub(super) fn sections(results: &Results, document: &mut Document) {
    if !results.memory.is_empty() {
        let section = document.section("Memory");
        section.paragraph(
            "drayd's private memory (RssAnon): what one of many adds. Rings and buffers of a link are the peer's memory and not in \
             it. Pages are whole, so single bytes mean nothing.",
        );
        let columns = ["", "count", "KiB without", "KiB with", "bytes each"];
        let columns = columns.map(|name| if name.is_empty() { Column::left("one") } else { Column::right(name) });
        let mut table = Table::new("Private memory", columns);
        for m in &results.memory {
            let kib = |bytes: u64| (bytes >> 10).to_string();
            table.row([m.what.clone(), m.count.to_string(), kib(m.before), kib(m.after), format!("{:.0}", m.each())]);
        }
        section.add(table);
    }
    if !results.starts.is_empty() {
        let section = document.section("Start");
        section.paragraph(
            "From the start of the process until its control socket answers, with memif ports and without EAL.",
        );
        let mut table =
            Table::new("Starts", [Column::right("ports"), Column::right("bridges"), Column::right("seconds")]);
        for s in &results.starts {
            let tone = if s.seconds < 1.0 { Tone::Good } else { Tone::Bad };
            table.verdict(tone, [s.ports.to_string(), s.bridges.to_string(), format!("{:.3}", s.seconds)]);
        }
        section.add(table);
    }
    if !results.batches.is_empty() {
        let section = document.section("The FDB over the control socket");
        section.paragraph(
            "Static entries in requests of at most 10,000, one after the other, until the last is answered.",
        );
        let names = ["entries", "count", "seconds", "entries a second"];
        let columns = names.map(|name| if name == "entries" { Column::left(name) } else { Column::right(name) });
        let mut table = Table::new("Batches", columns);
        for b in &results.batches {
            let rate = f64::from(b.entries) / b.seconds;
            let tone = if rate >= 100_000.0 { Tone::Good } else { Tone::Bad };
            table.verdict(
                tone,
                [b.what.clone(), b.entries.to_string(), format!("{:.3}", b.seconds), format!("{rate:.0}")],
            );
        }
        section.add(table);
    }
}
