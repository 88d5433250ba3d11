//! What is asked of the switch while it is attacked, and what it takes of the machine.

use super::place::{GUEST, Place, Urgency};
use crate::control::Control;
use dray_config::rpc::{PortRequest, Request};
use dray_vhost::memif::{Client, ClientOptions};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// How long an honest client tries to connect.
pub(super) const CONNECT: Duration = Duration::from_secs(5);
/// Between two questions to the control socket.
const POLL: Duration = Duration::from_millis(50);
/// Between two connections of an honest client. The switch may make one that comes back wait a little.
const REST: Duration = Duration::from_millis(400);

/// What the control socket took, and the most of what the daemon had.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Asked {
    pub slowest: Duration,
    pub memory: u64,
    pub files: u64,
}

/// Asks for the status and the ports, each over a connection of its own, until `end`.
pub(super) fn control(place: &Place, socket: &Path, end: &AtomicBool) -> Asked {
    place.take_place(Urgency::First);
    let mut most = Asked::default();
    let requests =
        [Request::Status {}, Request::Port(PortRequest::Show { name: None, connect: false, secrets: false })];
    for request in requests.iter().cycle() {
        if end.load(Ordering::Relaxed) {
            break;
        }
        let begin = Instant::now();
        // One that is refused or cut off took as long as that.
        let _ = Control::connect(socket).and_then(|mut control| control.call::<serde_json::Value>(request));
        most.slowest = most.slowest.max(begin.elapsed());
        let usage = usage(place.pid);
        (most.memory, most.files) = (most.memory.max(usage.0), most.files.max(usage.1));
        std::thread::sleep(POLL.saturating_sub(begin.elapsed()));
    }
    most
}

/// Bytes of private memory of a process, and its open descriptors.
pub(super) fn usage(pid: u32) -> (u64, u64) {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:"));
    let kib = line.and_then(|line| line.trim().strip_suffix(" kB")?.parse::<u64>().ok()).unwrap_or(0);
    let files = std::fs::read_dir(format!("/proc/{pid}/fd")).map_or(0, Iterator::count);
    (kib << 10, files as u64)
}

/// An honest client that comes and goes: the slowest connection, and how many were not made at all.
pub(super) fn guest(place: &Place, end: &AtomicBool) -> (Duration, u64) {
    place.take_place(Urgency::First);
    let options = ClientOptions { name: "guest".into(), timeout: CONNECT, ..ClientOptions::default() };
    let (mut slowest, mut refused) = (Duration::ZERO, 0);
    while !end.load(Ordering::Relaxed) {
        let begin = Instant::now();
        let client = Client::connect(&place.memif_name(), GUEST, &options);
        slowest = slowest.max(begin.elapsed());
        refused += u64::from(client.is_err());
        drop(client);
        let rest = Instant::now() + REST;
        while Instant::now() < rest && !end.load(Ordering::Relaxed) {
            std::thread::sleep(Duration::from_millis(10));
        }
    }
    (slowest, refused)
}

/// Function call interrupts on a CPU until now: what one CPU makes another do, such as membarrier(2) and changes of mappings.
pub(super) fn interrupts(cpu: usize) -> u64 {
    let text = std::fs::read_to_string("/proc/interrupts").unwrap_or_default();
    let column = text.lines().next().and_then(|line| {
        let name = format!("CPU{cpu}");
        line.split_whitespace().position(|word| word == name)
    });
    let line = text.lines().find_map(|line| line.trim_start().strip_prefix("CAL:"));
    column.zip(line).and_then(|(column, line)| line.split_whitespace().nth(column)?.parse().ok()).unwrap_or(0)
}
