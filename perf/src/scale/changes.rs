//! What a change costs at the control socket, with few and with many of everything beside it.

use crate::peer::Dray;
use crate::scale::case::{head, memif};
use crate::scale::{Results, START, ScaleArgs};
use crate::stats::median;
use dray_api::{
    BridgeAdd, BridgeDel, BridgeSet, ConfigSet, FdbAdd, FdbDel, PortAdd, PortDel, PortKeys, Request, StatusShow,
    VtepAdd, VtepDel,
};
use dray_client::Client;
use dray_config::{Mac, Member};
use dray_report::{Column, Document, Table, Tone};
use serde::{Deserialize, Serialize};
use std::fmt::Write;
use std::net::Ipv4Addr;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

/// The most that a change may take, milliseconds.
const BOUND: f64 = 2.0;
/// How often each is done.
const TIMES: u32 = 100;

/// What changes cost at one size.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Changes {
    /// Ports, and bridges.
    pub ports: u32,
    /// Static entries, half of them in one bridge.
    pub statics: u32,
    /// Seconds from the start until the control socket answers.
    pub start: f64,
    /// Each request.
    pub requests: Vec<Cost>,
}

/// What a request takes, from when it is written until the answer is read, milliseconds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Cost {
    /// The method.
    pub request: String,
    /// The median.
    pub median: f64,
    /// The longest.
    pub max: f64,
}

/// Ports in a bridge each, which has a VNI; but for one, the underlay. Static entries behind the ports.
fn configuration(dir: &Path, cpu: usize, ports: u32, statics: u32) -> String {
    let mut text = head(dir, cpu, 1 << 20);
    (0..ports).for_each(|id| memif(&mut text, dir, id));
    let mut station = 0u32;
    for n in 0..ports {
        let _ = write!(text, "[[bridge]]\nname = \"b{n}\"\nvni = {}\nports = [", n + 1);
        if n != 1 {
            let _ = write!(text, "\"p{n}\"");
        }
        text += "]\nstatic = [\n";
        let here = match n {
            0 => statics / 2,
            1 => 0,
            _ => statics / 2 / (ports - 2),
        };
        for _ in 0..here {
            station += 1;
            let m = station.to_be_bytes();
            let _ = writeln!(text, "{{ mac = \"{}\", port = \"p{n}\" }},", Mac([2, 0xc0, m[0], m[1], m[2], m[3]]));
        }
        text += "]\n";
    }
    text += "[vxlan]\nport = \"p1\"\nlocal = \"10.9.0.1/16\"\npeers = [";
    let peers: Vec<String> = (2..18).map(|n| format!("\"10.9.0.{n}\"")).collect();
    text + &peers.join(", ") + "]\n"
}

fn time<R: Request>(control: &mut Client, request: &R, into: &mut Vec<f64>) -> Result<(), String> {
    let begin = Instant::now();
    control.call(request).map_err(|error| format!("{}: {error}", R::METHOD))?;
    into.push(begin.elapsed().as_secs_f64() * 1e3);
    Ok(())
}

fn cost(request: &str, times: &[f64]) -> Cost {
    let max = times.iter().copied().fold(0.0, f64::max);
    Cost { request: request.into(), median: median(times), max }
}

/// Adds and deletes one thing again and again.
fn pair<A: Request, D: Request>(control: &mut Client, add: &A, del: &D, to: &mut Vec<Cost>) -> Result<(), String> {
    let (mut added, mut deleted) = (Vec::new(), Vec::new());
    for _ in 0..TIMES {
        time(control, add, &mut added)?;
        time(control, del, &mut deleted)?;
    }
    to.extend([cost(A::METHOD, &added), cost(D::METHOD, &deleted)]);
    Ok(())
}

/// Sets a key to each of two values again and again.
fn both<R: Request>(control: &mut Client, what: &str, values: [R; 2], to: &mut Vec<Cost>) -> Result<(), String> {
    let mut set = Vec::new();
    for _ in 0..TIMES {
        values.iter().try_for_each(|value| time(control, value, &mut set))?;
    }
    to.push(cost(&format!("{} {what}", R::METHOD), &set));
    Ok(())
}

fn at(dray: &Dray, cpu: usize, ports: u32, statics: u32) -> Result<Changes, String> {
    let begin = Instant::now();
    let switch = dray.start_with(cpu, |dir| configuration(dir, cpu, ports, statics))?;
    let mut control = Client::wait(&switch.control(), START)?;
    let status = control.call(&StatusShow {})?;
    let start = begin.elapsed().as_secs_f64();
    if (status.ports, status.bridges) != (ports as usize, ports as usize) {
        return Err(format!("drayd has {} ports and {} bridges instead of {ports}", status.ports, status.bridges));
    }
    let mut requests = Vec::new();
    let socket = switch.directory().join("new.sock").display().to_string();
    let name = || "new".to_owned();
    let keys = PortKeys::from([("kind", "memif".into()), ("socket", socket.into())]);
    let port = PortAdd { name: name(), keys, bridges: vec!["b0".into()] };
    pair(&mut control, &port, &PortDel { name: name() }, &mut requests)?;
    let ports_of = vec![Member { port: "p2".into(), vlan: Some(7) }];
    let bridge = BridgeAdd { name: name(), keys: [("vni", 9_999.into())].into(), ports: ports_of };
    pair(&mut control, &bridge, &BridgeDel { name: name() }, &mut requests)?;
    let vteps = vec![Ipv4Addr::new(10, 9, 1, 1)];
    let peer = VtepAdd { vteps: vteps.clone(), bridge: None };
    pair(&mut control, &peer, &VtepDel { vteps, bridge: None }, &mut requests)?;
    let mac = Mac([2, 0xd0, 0, 0, 0, 1]);
    let entry =
        FdbAdd { bridge: "b0".into(), mac, port: Some(Member { port: "p0".into(), vlan: None }), ..FdbAdd::default() };
    pair(&mut control, &entry, &FdbDel { bridge: "b0".into(), mac }, &mut requests)?;
    for (key, values) in [
        ("local", ["10.9.0.1/16", "10.9.0.254/16"]),
        ("learn-vteps", ["true", "false"]),
        ("udp-port", ["4790", "4789"]),
    ] {
        let set = |value: &str| ConfigSet { table: "vxlan".into(), key: key.into(), values: vec![value.into()] };
        both(&mut control, key, values.map(set), &mut requests)?;
    }
    // Static entries are behind the port that stays.
    let lists: [(&str, &str, [&[&str]; 2]); 3] = [
        ("b0", "vni", [&["9999"], &["1"]]),
        ("b0", "peers", [&["10.9.0.7"], &["10.9.0.8"]]),
        ("b2", "ports", [&["p2", "{ port = 'p0', vlan = 9 }"], &["p2"]]),
    ];
    for (name, key, values) in lists {
        let set = |values: &[&str]| {
            let values = values.iter().map(|&value| value.into()).collect();
            BridgeSet { name: name.into(), key: key.into(), values }
        };
        both(&mut control, key, values.map(set), &mut requests)?;
    }
    Ok(Changes { ports, statics, start, requests })
}

/// Measures everything.
pub(super) fn measure(dray: &Dray, args: &ScaleArgs, results: &mut Results, stop: &AtomicBool) -> Result<(), String> {
    let many = if args.quick { (100, 1000) } else { (4000, 100_000) };
    for (ports, statics) in [(10, 0), many] {
        if stop.load(Ordering::Relaxed) {
            return Err("interrupted".into());
        }
        results.changes.push(at(dray, args.switch_cpu, ports, statics)?);
    }
    Ok(())
}

/// Adds what there is to a report.
pub(super) fn sections(results: &Results, document: &mut Document) {
    if results.changes.is_empty() {
        return;
    }
    let section = document.section("Changes");
    section.paragraph(
        "From when a request is written to the control socket until its answer is read. There are as many bridges as ports, and half \
         of the static entries are in one bridge.",
    );
    for size in &results.changes {
        let title = format!(
            "{} ports and bridges, {} static entries; started in {:.2} s",
            size.ports, size.statics, size.start
        );
        let columns = [Column::left("request"), Column::right("median ms"), Column::right("longest ms")];
        let mut table = Table::new(title, columns);
        for Cost { request, median, max } in &size.requests {
            let tone = if *median <= BOUND { Tone::Good } else { Tone::Bad };
            table.verdict(tone, [request.clone(), format!("{median:.2}"), format!("{max:.2}")]);
        }
        section.add(table);
    }
}
