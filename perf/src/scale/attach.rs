//! How long a container waits for its device, beside few and many others, and that it leaves nothing when it goes.

use crate::peer::Dray;
use crate::scale::case::head;
use crate::scale::{Results, START, ScaleArgs, wait};
use crate::stats::median;
use dray_api::{Attach, StatusShow};
use dray_client::Client;
use dray_report::{Column, Document, Table, Tone};
use serde::{Deserialize, Serialize};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

/// The most that attaching may take, milliseconds: the median.
const BOUND: f64 = 3.0;

/// Containers that came and went, one after the other.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Attached {
    /// Containers that were there all the time.
    pub beside: u32,
    /// How many came and went.
    pub times: u32,
    /// From when the request is written until the answer is read and the device is there, milliseconds: the median.
    pub median: f64,
    /// The longest, milliseconds.
    pub longest: f64,
    /// From when the namespace is deleted until the port is, milliseconds: the median.
    pub gone: f64,
    /// File descriptors that drayd has more than after a tenth of them.
    pub descriptors: i64,
    /// Resident memory that it has more, KiB.
    pub memory: i64,
}

/// A network namespace, until this is dropped.
struct Netns(String);

impl Netns {
    fn new(name: &str) -> Result<Netns, String> {
        let netns = Netns(format!("dray-perf-{}-{name}", std::process::id()));
        ip(&["netns", "add", &netns.0])?;
        Ok(netns)
    }

    /// Gives it a device with this address. Milliseconds.
    fn attach(&self, control: &mut Client, ip: String) -> Result<f64, String> {
        let netns = Some(Path::new("/run/netns").join(&self.0).display().to_string());
        let (container, bridge) = (self.0.clone(), "blue".into());
        let request = Attach { container, bridge, ips: vec![ip], netns, ..Attach::default() };
        let begin = Instant::now();
        control.call(&request).map_err(|error| format!("attach: {error}"))?;
        Ok(begin.elapsed().as_secs_f64() * 1e3)
    }
}

impl Drop for Netns {
    fn drop(&mut self) {
        let _ = ip(&["netns", "del", &self.0]);
    }
}

fn ip(words: &[&str]) -> Result<(), String> {
    let output =
        Command::new("ip").args(words).stdin(Stdio::null()).output().map_err(|error| format!("ip: {error}"))?;
    let said = || String::from_utf8_lossy(&output.stderr).trim().to_owned();
    if output.status.success() { Ok(()) } else { Err(format!("ip {}: {}", words.join(" "), said())) }
}

/// File descriptors and resident memory in KiB of a process.
fn taken(pid: u32) -> Result<(i64, i64), String> {
    let failed = |error: std::io::Error| format!("process {pid}: {error}");
    let descriptors = std::fs::read_dir(format!("/proc/{pid}/fd")).map_err(failed)?.count();
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).map_err(failed)?;
    let memory = status.lines().find_map(|line| line.strip_prefix("VmRSS:")?.trim().strip_suffix(" kB")?.parse().ok());
    Ok((descriptors as i64, memory.unwrap_or(0)))
}

fn at(dray: &Dray, cpu: usize, beside: u32, times: u32, stop: &AtomicBool) -> Result<Attached, String> {
    let configuration = |dir: &Path| head(dir, cpu, 1 << 16) + "[[bridge]]\nname = \"blue\"\n";
    let switch = dray.start_anywhere_with(configuration)?;
    let mut control = Client::wait(&switch.control(), START)?;
    let mut others = Vec::new();
    for n in 0..beside.max(1) {
        let netns = Netns::new(&n.to_string())?;
        netns.attach(&mut control, format!("10.32.{}.{}/16", n >> 8, n & 0xff | 1))?;
        others.push(netns);
    }
    let ports = |control: &mut Client| Ok::<usize, String>(control.call(&StatusShow {})?.ports);
    let pid = control.call(&StatusShow {})?.pid;
    let (mut attached, mut gone, mut before) = (Vec::new(), Vec::new(), (0, 0));
    for n in 0..times {
        if stop.load(Ordering::Relaxed) {
            return Err("interrupted".into());
        }
        let netns = Netns::new("new")?;
        attached.push(netns.attach(&mut control, "10.32.255.1/16".into())?);
        // The device is there, and the switch has it.
        ip(&["netns", "exec", &netns.0, "ping", "-n", "-q", "-c", "1", "-W", "5", "10.32.0.1"])?;
        let begin = Instant::now();
        drop(netns);
        wait("the port to go", || Ok(ports(&mut control)? == others.len()))?;
        gone.push(begin.elapsed().as_secs_f64() * 1e3);
        if n == times / 10 {
            before = taken(pid)?;
        }
    }
    // The last one's queues are on their way.
    wait("nothing to be left", || Ok(taken(pid)?.0 <= before.0))?;
    let (descriptors, memory) = taken(pid)?;
    let longest = attached.iter().copied().fold(0.0, f64::max);
    let (descriptors, memory) = (descriptors - before.0, memory - before.1);
    Ok(Attached { beside, times, median: median(&attached), longest, gone: median(&gone), descriptors, memory })
}

/// Measures everything.
pub(super) fn measure(dray: &Dray, args: &ScaleArgs, results: &mut Results, stop: &AtomicBool) -> Result<(), String> {
    let (many, times) = if args.quick { (10, 20) } else { (500, 1000) };
    for beside in [1, many] {
        results.attached.push(at(dray, args.switch_cpu, beside, times, stop)?);
    }
    Ok(())
}

/// Adds what there is to a report.
pub(super) fn sections(results: &Results, document: &mut Document) {
    if results.attached.is_empty() {
        return;
    }
    let section = document.section("Containers that come and go");
    section.paragraph(
        "Again and again: make a network namespace, attach it, ping from it, delete it. The time of attaching is from when the request is \
         written to the control socket until it is answered, when the device is there. More are what drayd has more of at the end than after a \
         tenth of the times.",
    );
    let columns = [
        Column::right("others"),
        Column::right("times"),
        Column::right("median ms"),
        Column::right("longest ms"),
        Column::right("gone after ms"),
        Column::right("more descriptors"),
        Column::right("more KiB"),
    ];
    let mut table = Table::new("Attaching".to_owned(), columns);
    for of in &results.attached {
        let tone = if of.median <= BOUND && of.descriptors <= 0 { Tone::Good } else { Tone::Bad };
        let cells = [
            of.beside.to_string(),
            of.times.to_string(),
            format!("{:.2}", of.median),
            format!("{:.2}", of.longest),
            format!("{:.1}", of.gone),
            of.descriptors.to_string(),
            of.memory.to_string(),
        ];
        table.verdict(tone, cells);
    }
    section.add(table);
}
