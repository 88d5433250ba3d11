//! What a second worker brings, and what it costs the first one: without a generator, which would need a CPU of its own. Frames
//! circulate through wires, each of which is two memif ports of the switch that are connected to each other, all in one
//! bridge and so with one FDB; whatever arrives at a wire's one end is sent into the other one.
//!
//!     cargo bench -p dray-dataplane --bench workers
//!
//! It takes the first two CPUs that it may use for itself.

#![allow(missing_docs)]

use dray_config::{PortKind, ValidConfig};
use dray_dataplane::{Change, Dataplane, Entry, WorkerStats};
use dray_vhost::memif::{PortSpec, Supervisor};
use dray_vhost::{Event, Link};
use std::collections::HashMap;
use std::fmt::Write;
use std::sync::mpsc::channel;
use std::time::Duration;

/// Frames on each wire, all of different flows.
const FRAMES: u32 = 512;
const ROUNDS: usize = 6;
const TIME: Duration = Duration::from_secs(1);
const TIMEOUT: Duration = Duration::from_secs(10);

/// What is measured: the workers, and on how many of the two wires there are frames.
#[derive(Clone, Copy)]
struct Case {
    name: &'static str,
    workers: usize,
    wires: u32,
}

const CASES: [Case; 4] = [
    Case { name: "one worker, one wire", workers: 1, wires: 1 },
    Case { name: "one worker, both wires", workers: 1, wires: 2 },
    Case { name: "two workers, one wire: the other worker polls", workers: 2, wires: 1 },
    Case { name: "two workers, a wire each", workers: 2, wires: 2 },
];

/// Million frames a second of all workers, and ticks a frame of the first one.
type Figures = (f64, f64);

fn main() {
    let Some(cpus) = dray_config::allowed_cpus().first_chunk::<2>().copied() else {
        println!("SKIPPED: this needs two CPUs");
        return;
    };
    let mut rounds: Vec<[Figures; CASES.len()]> = Vec::new();
    for round in 0..ROUNDS {
        let mut figures = [(0.0, 0.0); CASES.len()];
        // There and back, so that what drifts meets all.
        let order: Vec<usize> =
            if round % 2 == 0 { (0..CASES.len()).collect() } else { (0..CASES.len()).rev().collect() };
        for case in order {
            figures[case] = measure(CASES[case], &cpus[..CASES[case].workers]);
        }
        rounds.push(figures);
    }
    for (i, case) in CASES.iter().enumerate() {
        let (mpps, ticks) = (spread(&rounds, |round| round[i].0), spread(&rounds, |round| round[i].1));
        println!("{:<48} {mpps} Mpps, {ticks} ticks a frame on the first", case.name);
    }
    println!("two workers / one, a wire each: {}", spread(&rounds, |round| round[3].0 / round[0].0));
    println!("two workers / one, both wires: {}", spread(&rounds, |round| round[3].0 / round[1].0));
    println!(
        "ticks a frame, the other worker switching / polling: {}",
        spread(&rounds, |round| round[3].1 / round[2].1)
    );
}

/// The rounds' median, smallest and largest.
fn spread(rounds: &[[Figures; CASES.len()]], figure: impl Fn(&[Figures; CASES.len()]) -> f64) -> String {
    let mut figures: Vec<f64> = rounds.iter().map(figure).collect();
    figures.sort_by(f64::total_cmp);
    format!("{:.2} ({:.2} to {:.2})", figures[figures.len() / 2], figures[0], figures[figures.len() - 1])
}

fn measure(case: Case, cpus: &[usize]) -> Figures {
    let dir = tempfile::tempdir().expect("a folder");
    // A socket has one role, so that one end of the wires knows it by another name.
    let socket = dir.path().join("memif.sock");
    std::os::unix::fs::symlink(&socket, dir.path().join("alias.sock")).expect("a link");
    let mut text = String::new();
    for cpu in cpus {
        let _ = writeln!(text, "[[worker]]\ncpu = {cpu}");
    }
    for wire in 0..2 {
        for (end, file, role) in [("x", "memif", "server"), ("y", "alias", "client")] {
            let socket = dir.path().join(file).display().to_string();
            let _ = writeln!(text, "[[port]]\nname = \"{end}{wire}\"\nkind = \"memif\"\nsocket = \"{socket}.sock\"");
            let _ = writeln!(text, "id = {wire}\nrole = \"{role}\"");
        }
    }
    let _ = writeln!(text, "[[bridge]]\nname = \"b\"\nports = [\"x0\", \"y0\", \"x1\", \"y1\"]\nstatic = [");
    for wire in 0..2u8 {
        for n in 0..FRAMES {
            let _ = writeln!(text, "{{ mac = \"{}\", port = \"x{wire}\" }},", dray_config::Mac(mac(2, wire, n)));
        }
    }
    text.push(']');
    let config = dray_config::parse("bench", &text).unwrap_or_else(|errors| panic!("{errors}"));

    let (mut dataplane, _punts) = Dataplane::start(&config).expect("workers");
    let nothing = dray_config::parse("nothing", "").unwrap_or_else(|errors| panic!("{errors}"));
    let actions = dray_config::plan(&nothing, &config);
    dataplane.apply(&config, Change { actions: &actions, ..Change::default() }, None);
    let (mut links, supervisor) = connect(&config);
    // The wires' busy ends first: each goes to a worker of its own.
    for port in ["y0", "y1", "x0", "x1"] {
        let link = links.remove(port).expect("it is up");
        dataplane.link_up(port, link.rx, link.tx.handles(cpus.len()), true);
    }
    for wire in 0..case.wires as u8 {
        for n in 0..FRAMES {
            let mut frame = [mac(2, wire, n), mac(1, wire, n)].concat();
            frame.resize(60, 0);
            dataplane.inject(&Entry::port(&format!("x{wire}")), frame);
        }
    }
    std::thread::sleep(TIME / 4);
    let before = dataplane.worker_stats();
    std::thread::sleep(TIME);
    let period: Vec<WorkerStats> =
        dataplane.worker_stats().iter().zip(&before).map(|(new, old)| new.since(old)).collect();
    let total = dataplane.total();
    assert_eq!(total.drops.iter().sum::<u64>(), 0, "{total:?}");
    let ns = period[0].total_ticks as f64 / dataplane.ticks_per_ns();
    drop(dataplane);
    drop(links);
    supervisor.shutdown();
    let packets: u64 = period.iter().map(|w| w.packets).sum();
    (packets as f64 / ns * 1e3, period[0].busy_ticks as f64 / period[0].packets.max(1) as f64)
}

/// All links, up, and what keeps them.
fn connect(config: &ValidConfig) -> (HashMap<String, Link>, Supervisor) {
    let (sender, events) = channel();
    let supervisor = Supervisor::start(move |event| drop(sender.send(event))).expect("a supervisor");
    for port in &config.ports {
        let PortKind::Memif(memif) = &port.kind else { continue };
        supervisor.add(PortSpec { name: port.name.clone(), memif: memif.clone(), max_frame: 9216 }).expect("a port");
    }
    let mut links = HashMap::new();
    while links.len() < config.ports.len() {
        match events.recv_timeout(TIMEOUT).expect("the links come up") {
            Event::Up { port, link } => drop(links.insert(port, link)),
            Event::Down { .. } | Event::Refused(_) => {}
        }
    }
    (links, supervisor)
}

fn mac(side: u8, wire: u8, n: u32) -> [u8; 6] {
    [2, side, wire, 0, (n >> 8) as u8, n as u8]
}
