//! Where the time of drayd's workers goes while frames are sent: what its counters say at the end, less what they said before.

use dray_api::{StageInfo, WorkerInfo, WorkerShow};
use dray_client::Client;
use serde::Serialize;
use std::fmt::Write;
use std::path::Path;
use std::sync::mpsc::{self, Sender};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// By how much at most [`Watch`] asks before the end of sending.
const BEFORE_END: Duration = Duration::from_millis(100);

/// What a worker did in some time.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Work {
    /// The CPU it is pinned to.
    pub cpu: usize,
    /// Packets received.
    pub packets: u64,
    /// Packets per poll that found some.
    pub packets_per_burst: f64,
    /// Ticks of the CPU's time-stamp counter spent on each of them; 0 if there were none.
    pub ticks_per_packet: f64,
    /// The same in nanoseconds.
    pub ns_per_packet: f64,
    /// Where they were spent, in a packet's order: the stages that had any packets.
    pub stages: Vec<StageInfo>,
}

/// What a worker did while frames were sent.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Worker {
    /// What it did.
    #[serde(flatten)]
    pub work: Work,
    /// Share of the time in which it found nothing to do, 0..=1.
    pub idle: f64,
}

/// `part` of `all`; 0 of nothing.
fn per(part: f64, all: f64) -> f64 {
    if all > 0.0 { part / all } else { 0.0 }
}

/// The sums that means of so many packets were made of: ticks, and bursts.
fn sums(packets: u64, ticks_per_packet: f64, packets_per_burst: f64) -> [f64; 2] {
    [ticks_per_packet * packets as f64, per(packets as f64, packets_per_burst)]
}

/// What was done between two answers to `worker.show`, both with `total`.
pub fn since(before: &[WorkerInfo], now: &[WorkerInfo]) -> Vec<Work> {
    before.iter().zip(now).map(|(before, now)| work(before, now)).collect()
}

fn work(before: &WorkerInfo, now: &WorkerInfo) -> Work {
    let packets = now.packets.saturating_sub(before.packets);
    let of = |w: &WorkerInfo| sums(w.packets, w.ticks_per_packet.unwrap_or(0.0), w.burst);
    let ([ticks_before, bursts_before], [ticks, bursts]) = (of(before), of(now));
    let ticks_per_packet = per((ticks - ticks_before).max(0.0), packets as f64);
    let ns_per_tick = per(now.ns_per_packet.unwrap_or(0.0), now.ticks_per_packet.unwrap_or(0.0));
    let mut stages: Vec<StageInfo> = now.stages.iter().filter_map(|now| stage(&before.stages, now)).collect();
    let all: f64 = stages.iter().map(|s| s.share).sum();
    stages.iter_mut().for_each(|s| s.share = per(s.share, all));
    Work {
        cpu: now.cpu,
        packets,
        packets_per_burst: per(packets as f64, bursts - bursts_before),
        ticks_per_packet,
        ns_per_packet: ticks_per_packet * ns_per_tick,
        stages,
    }
}

/// One stage, with its ticks for a share; none if it had no packets.
fn stage(before: &[StageInfo], now: &StageInfo) -> Option<StageInfo> {
    let before = before.iter().find(|s| s.stage == now.stage).cloned().unwrap_or_default();
    let sampled = now.sampled.checked_sub(before.sampled).filter(|&n| n != 0)?;
    let of = |s: &StageInfo| sums(s.sampled, s.ticks_per_packet, s.packets_per_burst);
    let ([ticks_before, bursts_before], [ticks, bursts]) = (of(&before), of(now));
    let ticks = (ticks - ticks_before).max(0.0);
    let ticks_per_packet = ticks / sampled as f64;
    Some(StageInfo {
        stage: now.stage.clone(),
        ticks_per_packet,
        ns_per_packet: ticks_per_packet * per(now.ns_per_packet, now.ticks_per_packet),
        packets_per_burst: per(sampled as f64, bursts - bursts_before),
        share: ticks,
        sampled,
    })
}

impl Work {
    /// What part of the packets received this stage had to do with: times its time for each of those, it is what the stage
    /// takes of a packet received.
    pub fn part(&self, stage: &StageInfo) -> f64 {
        let received = self.stages.iter().find(|s| s.stage == "receive").map_or(0, |s| s.sampled);
        per(stage.sampled as f64, received as f64)
    }
}

/// What the workers of the drayd with this control socket did since they started.
///
/// # Errors
/// If there is none, or what it says.
pub fn totals(socket: &Path) -> Result<Vec<WorkerInfo>, String> {
    let workers = Client::connect(socket)?.call(&WorkerShow { total: true });
    workers.map_err(|e| format!("{}: {e}", socket.display()))
}

/// Asks a drayd what its workers do while frames are sent, from a thread of its own.
pub struct Watch {
    /// Says for how long frames will be sent; closed: no more are.
    sending: Sender<Duration>,
    thread: JoinHandle<Result<Vec<Worker>, String>>,
}

impl Watch {
    /// Looks whether there is a drayd. The thread runs where the calling one may, so it is started before that is pinned.
    ///
    /// # Errors
    /// As [`totals`].
    pub fn start(socket: &Path) -> Result<Watch, String> {
        totals(socket)?;
        let (sending, told) = mpsc::channel::<Duration>();
        let socket = socket.to_owned();
        let ask = move || {
            let Ok(duration) = told.recv() else { return Ok(Vec::new()) };
            let (before, begin) = (totals(&socket)?, Instant::now());
            // Nothing more is said: it times out, or it is closed.
            let _ = told.recv_timeout(duration - BEFORE_END.min(duration / 10));
            let (now, time) = (totals(&socket)?, begin.elapsed().as_nanos() as f64);
            let idle = |work: &Work| (1.0 - per(work.packets as f64 * work.ns_per_packet, time)).clamp(0.0, 1.0);
            Ok(since(&before, &now).into_iter().map(|work| Worker { idle: idle(&work), work }).collect())
        };
        let thread = thread::Builder::new().name("watch".into()).spawn(ask).map_err(|e| e.to_string())?;
        Ok(Watch { sending, thread })
    }

    /// Frames are sent from now on, for so long.
    pub fn begin(&self, duration: Duration) {
        // If the thread has ended, `end` tells why.
        let _ = self.sending.send(duration);
    }

    /// What the workers did from then until shortly before the end. It asks at once if it has not yet.
    ///
    /// # Errors
    /// As [`totals`].
    pub fn end(self) -> Result<Vec<Worker>, String> {
        drop(self.sending);
        self.thread.join().unwrap_or_else(|_| Err("the thread that asks has panicked".into()))
    }
}

/// The workers for people: a line and a table for each.
pub fn text(workers: &[Worker]) -> String {
    let mut out = String::new();
    for Worker { work, idle } in workers {
        let _ = writeln!(
            out,
            "worker on CPU {}: {:.1} ticks, {:.1} ns a packet, {:.1} packets a burst, idle {:.1} %",
            work.cpu,
            work.ticks_per_packet,
            work.ns_per_packet,
            work.packets_per_burst,
            100.0 * idle
        );
        if work.stages.is_empty() {
            continue;
        }
        let head = ["stage", "ticks/packet", "ns/packet", "packets/burst", "share"];
        let _ = writeln!(out, "  {:<8} {:>12} {:>10} {:>14} {:>8}", head[0], head[1], head[2], head[3], head[4]);
        for s in &work.stages {
            let _ = writeln!(
                out,
                "  {:<8} {:>12.1} {:>10.1} {:>14.1} {:>6.1} %",
                s.stage,
                s.ticks_per_packet,
                s.ns_per_packet,
                s.packets_per_burst,
                100.0 * s.share
            );
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of a clock with two ticks a nanosecond.
    fn info(stage: &str, ticks: f64, sampled: u64, bursts: f64) -> StageInfo {
        StageInfo {
            stage: stage.into(),
            ticks_per_packet: ticks / sampled as f64,
            ns_per_packet: ticks / sampled as f64 / 2.0,
            packets_per_burst: sampled as f64 / bursts,
            share: 0.5,
            sampled,
        }
    }

    fn worker(packets: u64, ticks: f64, bursts: f64, stages: Vec<StageInfo>) -> WorkerInfo {
        let ticks_per_packet = (packets != 0).then_some(ticks / packets as f64);
        WorkerInfo {
            cpu: 3,
            packets,
            burst: packets as f64 / bursts,
            ticks_per_packet,
            ns_per_packet: ticks_per_packet.map(|ticks| ticks / 2.0),
            stages,
            ..WorkerInfo::default()
        }
    }

    fn example() -> Work {
        // Learned 100 packets at the great expense of 1,000 ticks each; after that, two of 200, at 8 each.
        let before =
            worker(1_000, 200_000.0, 100.0, vec![info("receive", 400.0, 100, 10.0), info("learn", 1e5, 100, 10.0)]);
        let now = worker(
            9_000,
            520_000.0,
            225.0,
            vec![
                info("receive", 1_200.0, 300, 14.0),
                info("learn", 100_016.0, 102, 11.0),
                info("send", 784.0, 196, 4.0),
            ],
        );
        since(&[before], &[now]).remove(0)
    }

    #[test]
    fn what_was_before_does_not_count() {
        let work = example();
        assert_eq!((work.cpu, work.packets), (3, 8_000));
        assert_eq!((work.ticks_per_packet, work.ns_per_packet, work.packets_per_burst), (40.0, 20.0, 64.0));
        let near = |a: f64, b: f64| (a - b).abs() < 1e-6;
        let wanted = [("receive", 4.0, 50.0, 0.5, 200), ("learn", 8.0, 2.0, 0.01, 2), ("send", 4.0, 49.0, 0.49, 196)];
        assert_eq!(work.stages.len(), wanted.len());
        for (s, (name, ticks, burst, share, sampled)) in work.stages.iter().zip(wanted) {
            assert_eq!((s.stage.as_str(), s.sampled), (name, sampled));
            assert!(near(s.ticks_per_packet, ticks) && near(s.ns_per_packet, ticks / 2.0), "{s:?}");
            assert!(near(s.packets_per_burst, burst) && near(s.share, share), "{s:?}");
        }
        let parts: Vec<f64> = work.stages.iter().map(|s| work.part(s)).collect();
        assert_eq!(parts, [1.0, 0.01, 0.98]);
    }

    #[test]
    fn a_worker_without_packets_and_one_that_began_anew() {
        let idle = [worker(0, 0.0, 0.0, Vec::new())];
        assert_eq!(since(&idle, &idle), [Work { cpu: 3, ..Work::default() }]);
        let before = worker(1_000, 200_000.0, 100.0, vec![info("receive", 400.0, 100, 10.0)]);
        let now = worker(10, 2_000.0, 1.0, vec![info("receive", 40.0, 10, 1.0)]);
        assert_eq!(since(&[before], &[now]), [Work { cpu: 3, ..Work::default() }]);
    }

    #[test]
    fn the_table() {
        let expected = "\
worker on CPU 3: 40.0 ticks, 20.0 ns a packet, 64.0 packets a burst, idle 2.5 %
  stage    ticks/packet  ns/packet  packets/burst    share
  receive           4.0        2.0           50.0   50.0 %
  learn             8.0        4.0            2.0    1.0 %
  send              4.0        2.0           49.0   49.0 %
";
        assert_eq!(text(&[Worker { work: example(), idle: 0.025 }]), expected);
        let idle = Worker { work: Work { cpu: 1, ..Work::default() }, idle: 1.0 };
        assert_eq!(text(&[idle]), "worker on CPU 1: 0.0 ticks, 0.0 ns a packet, 0.0 packets a burst, idle 100.0 %\n");
    }

    #[test]
    fn without_a_drayd_nothing_begins() {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("dray.sock");
        let error = Watch::start(&socket).err().unwrap();
        assert!(error.starts_with(&format!("no switch at {}: ", socket.display())), "{error}");
    }
}
