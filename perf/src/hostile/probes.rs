//! What is asked of the switch while it is attacked, and what it takes of the machine.

use super::place::{GUEST, Place, Urgency};
use dray_api::{AnyRequest, PortShow, StatusShow, WorkerShow};
use dray_config::SocketName;
use dray_switch::mem::ticks;
use dray_vhost::memif::{Client, ClientOptions};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// How long an honest client tries to connect.
pub(super) const CONNECT: Duration = Duration::from_secs(5);
/// Between two questions to the control socket.
const POLL: Duration = Duration::from_millis(50);
/// Between two connections of an honest client. One that comes back sooner, again and again, would have to wait.
const REST: Duration = Duration::from_millis(1100);

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
    let requests: [AnyRequest; 2] = [StatusShow {}.into(), PortShow::default().into()];
    for request in requests.iter().cycle() {
        if end.load(Ordering::Relaxed) {
            break;
        }
        let begin = Instant::now();
        // One that is refused or cut off took as long as that.
        let _ = dray_client::Client::connect(socket).and_then(|mut client| client.ask(request));
        most.slowest = most.slowest.max(begin.elapsed());
        let usage = usage(place.pid);
        (most.memory, most.files) = (most.memory.max(usage.0), most.files.max(usage.1));
        std::thread::sleep(POLL.saturating_sub(begin.elapsed()));
    }
    most
}

/// The time now, in ticks, and what the worker has spent of it on the frames of `port`.
///
/// # Errors
/// If the control socket does not tell.
pub(super) fn time_of(socket: &Path, port: &str) -> Result<(u64, u64), String> {
    let workers = dray_client::Client::connect(socket)?.call(&WorkerShow { total: true })?;
    let queues = workers.iter().flat_map(|worker| &worker.loads).filter(|queue| queue.port == port);
    Ok((ticks(), queues.map(|queue| queue.ticks).sum()))
}

/// Share of the time between two looks that was spent.
///
/// # Errors
/// Those of the looks.
pub(super) fn share([first, last]: [Result<(u64, u64), String>; 2]) -> Result<f64, String> {
    let ((begin, before), (end, after)) = (first?, last?);
    Ok(after.saturating_sub(before) as f64 / end.saturating_sub(begin).max(1) as f64)
}

/// Bytes of private memory of a process, and its open descriptors.
pub(super) fn usage(pid: u32) -> (u64, u64) {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:"));
    let kib = line.and_then(|line| line.trim().strip_suffix(" kB")?.parse::<u64>().ok()).unwrap_or(0);
    let files = std::fs::read_dir(format!("/proc/{pid}/fd")).map_or(0, Iterator::count);
    (kib << 10, files as u64)
}

/// An honest client that comes and goes, until `end`: the slowest connection, and how many were not made at all. It is a process of its
/// own ([`guest`]): the switch tells processes apart.
///
/// # Errors
/// If there is none.
pub(super) fn run_guest(place: &Place, end: &AtomicBool) -> Result<(Duration, u64), String> {
    // The process has this thread's place.
    place.take_place(Urgency::First);
    let failed = |e: std::io::Error| format!("the guest's process: {e}");
    let mut command = Command::new(std::env::current_exe().map_err(failed)?);
    command.arg("hostile-guest").arg(place.memif()).stdin(Stdio::piped()).stdout(Stdio::piped());
    let child = command.spawn().map_err(failed)?;
    while !end.load(Ordering::Relaxed) {
        std::thread::sleep(Duration::from_millis(10));
    }
    // Closes its input.
    let output = child.wait_with_output().map_err(failed)?;
    let text = String::from_utf8_lossy(&output.stdout);
    let mut figures = text.split_whitespace().map(str::parse::<u64>);
    match (figures.next(), figures.next()) {
        (Some(Ok(slowest)), Some(Ok(refused))) => Ok((Duration::from_micros(slowest), refused)),
        _ => Err(format!("the guest's process ends: {}", output.status)),
    }
}

/// That client, until its standard input ends. Prints the microseconds that the slowest connection took, and how many were not made.
pub fn guest(socket: &Path) {
    let socket = SocketName::Path(socket.to_owned());
    let end = Arc::new(AtomicBool::new(false));
    let ended = end.clone();
    std::thread::spawn(move || {
        let _ = std::io::copy(&mut std::io::stdin(), &mut std::io::sink());
        ended.store(true, Ordering::Relaxed);
    });
    let options = ClientOptions { name: "guest".into(), timeout: CONNECT, ..ClientOptions::default() };
    let (mut slowest, mut refused) = (Duration::ZERO, 0);
    while !end.load(Ordering::Relaxed) {
        let begin = Instant::now();
        let client = Client::connect(&socket, GUEST, &options);
        slowest = slowest.max(begin.elapsed());
        refused += u64::from(client.is_err());
        drop(client);
        let rest = Instant::now() + REST;
        while Instant::now() < rest && !end.load(Ordering::Relaxed) {
            std::thread::sleep(Duration::from_millis(10));
        }
    }
    println!("{} {refused}", slowest.as_micros());
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
