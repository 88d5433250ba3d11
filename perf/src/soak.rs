//! A long run at a rate, in intervals that are judged one by one: nothing may be lost beyond what is tolerated, nothing may come
//! twice, late or damaged.

use crate::cpu;
use crate::frames::Sizes;
use crate::generator::{Direction, Progress, Report};
use crate::latency::Latency;
use crate::links::{LinkArgs, RELEARN, Source};
use crate::rate::Rate;
use crate::throughput::{percent, percentage, say};
use crate::traffic::{StreamArgs, seconds, stop_flag};
use crate::vtep;
use clap::Args;
use serde::Serialize;
use std::fs::File;
use std::io::Write;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// `soak`
#[derive(Args, Clone, Debug)]
pub struct SoakArgs {
    #[command(flatten)]
    links: LinkArgs,
    #[command(flatten)]
    stream: StreamArgs,
    /// Bytes of a frame, without FCS; several with commas between them, or "imix", are sent in turn
    #[arg(long, default_value = "60")]
    size: Sizes,
    /// How long to run: seconds, or a time like 10m, 1h or 2d
    #[arg(long, value_name = "TIME", default_value = "1h", value_parser = seconds)]
    duration: f64,
    /// How long an interval is, after which sending pauses until all that is under way has come
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = seconds)]
    interval: f64,
    /// Frames a second of each direction, like 250k or 1.5M, or what they take up on an Ethernet link, like 2.5Gbit; 0: as fast
    /// as possible
    #[arg(long, default_value = "100k")]
    rate: Rate,
    /// Percent of all frames that may be lost
    #[arg(long, value_name = "PERCENT", default_value_t = 0.0, value_parser = percentage)]
    loss: f64,
    /// Write each interval into this file, as one JSON object a line
    #[arg(long, value_name = "FILE")]
    log: Option<PathBuf>,
    /// Print the verdict as one JSON object instead of text
    #[arg(long)]
    json: bool,
}

/// An interval, as it is logged.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Interval<'a> {
    /// Seconds from the beginning of the run to the interval's end.
    pub at: f64,
    /// What it gave.
    #[serde(flatten)]
    pub report: &'a Report,
}

/// What a soak came to.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Verdict {
    /// Whether all was as it should be.
    pub passed: bool,
    /// What was not, in words.
    pub faults: Vec<String>,
    /// Seconds of sending.
    pub seconds: f64,
    /// How many intervals there were.
    pub intervals: u64,
    /// In how many of them something was not as it should be, lost frames included.
    pub bad_intervals: u64,
    /// Frames sent, in all directions.
    pub sent: u64,
    /// Frames received.
    pub received: u64,
    /// Frames that never came.
    pub lost: u64,
    /// Percent of the frames sent that never came.
    pub loss: f64,
    /// Times that a frame came later than its successors, in the sample that was looked at.
    pub reordered: u64,
    /// Frames that came more than once, as far as that was seen.
    pub duplicated: u64,
    /// Of the frames looked at: damaged, or not ours.
    pub foreign: u64,
    /// The latency of the interval and direction with the longest 99th percentile.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub worst_latency: Option<Latency>,
}

impl Verdict {
    /// Adds an interval. `filters`: frames that are not ours are the network's own, and nobody's fault: a damaged one of ours is
    /// missing then.
    fn add(&mut self, report: &Report, filters: bool) {
        let sum = |count: fn(&Direction) -> u64| report.directions().map(count).sum::<u64>();
        let (lost, reordered, duplicated) = (sum(|d| d.lost), sum(|d| d.reordered), sum(|d| d.duplicated));
        let foreign = if filters { 0 } else { sum(|d| d.foreign) };
        self.intervals += 1;
        self.bad_intervals += u64::from(lost + reordered + duplicated + foreign != 0);
        self.seconds += report.seconds;
        self.sent += sum(|d| d.sent);
        self.received += sum(|d| d.received);
        self.lost += lost;
        self.reordered += reordered;
        self.duplicated += duplicated;
        self.foreign += foreign;
        let latencies = self.worst_latency.into_iter().chain(report.directions().filter_map(|d| d.latency));
        self.worst_latency = latencies.max_by(|a, b| a.p99.total_cmp(&b.p99));
    }

    /// Comes to an end: at most `tolerance` percent may be lost.
    fn judge(&mut self, tolerance: f64) {
        self.loss = percent(self.lost, self.sent);
        let mut fault = |is: bool, what: String| {
            if is {
                self.faults.push(what);
            }
        };
        fault(self.sent == 0, "nothing was sent".into());
        fault(self.loss > tolerance, format!("{} frames lost ({:.6} %)", self.lost, self.loss));
        fault(self.reordered != 0, format!("{} reordered", self.reordered));
        fault(self.duplicated != 0, format!("{} duplicated", self.duplicated));
        fault(self.foreign != 0, format!("{} damaged or foreign", self.foreign));
        self.passed = self.faults.is_empty();
    }

    /// For people.
    pub fn text(&self) -> String {
        let mut text = format!(
            "{}: {:.1} s in {} intervals, {} of them not clean\nsent {}, received {}, lost {} ({:.6} %), reordered {}, duplicated \
             {}, damaged or foreign {}\n",
            if self.passed { "passed" } else { "FAILED" },
            self.seconds,
            self.intervals,
            self.bad_intervals,
            self.sent,
            self.received,
            self.lost,
            self.loss,
            self.reordered,
            self.duplicated,
            self.foreign
        );
        if let Some(l) = &self.worst_latency {
            text += &format!("worst interval: {}\n", times(l));
        }
        text
    }
}

/// Times, in microseconds.
fn times(l: &Latency) -> String {
    let [p50, p99, p99_9, p99_99, max] = [l.p50, l.p99, l.p99_9, l.p99_99, l.max].map(|ns| format!("{:.1}", ns / 1e3));
    format!("us: p50 {p50}, p99 {p99}, p99.9 {p99_9}, p99.99 {p99_99}, max {max}")
}

/// An interval, for people.
fn line(at: f64, report: &Report) -> String {
    let mut interval = Verdict::default();
    interval.add(report, false);
    let Verdict { lost, reordered, duplicated, .. } = interval;
    let mut line = format!(
        "{at:8.1} s  {:9.4} Mpps  {:8.3} Gbit/s  lost {lost}, reordered {reordered}, duplicated {duplicated}",
        report.mpps, report.gbps
    );
    if let Some(l) = &interval.worst_latency {
        line += &format!(", {}", times(l));
    }
    line
}

/// Runs for `duration`, or until `stop` becomes true, in intervals, each of which is given to `each` with the seconds since
/// the beginning.
fn soak(
    source: &mut dyn Source,
    duration: Duration,
    interval: Duration,
    stop: &AtomicBool,
    mut each: impl FnMut(f64, &Report) -> Result<(), String>,
) -> Result<(), String> {
    let begin = Instant::now();
    let mut learned = begin;
    while let Some(left) = duration.checked_sub(begin.elapsed()).filter(|left| !left.is_zero()) {
        let live = &mut |p: Progress| {
            let missing = p.sent.saturating_sub(p.received);
            let at = begin.elapsed().as_secs_f64();
            say(&format!("{at:8.0} s  {:9.4} Mpps  {:8.3} Gbit/s  {missing} lost or under way", p.mpps, p.gbps));
        };
        if learned.elapsed() > RELEARN {
            source.learn(stop)?;
            learned = Instant::now();
        }
        let report = source.run(interval.min(left), stop, live)?;
        say("");
        each(begin.elapsed().as_secs_f64(), &report)?;
        if stop.load(Ordering::Relaxed) {
            break;
        }
    }
    Ok(())
}

/// Runs for long, and judges.
///
/// # Errors
/// What went wrong, a verdict that isn't good included.
pub fn run(args: &SoakArgs) -> Result<(), String> {
    if let Some(cpu) = args.stream.cpu {
        cpu::pin(cpu)?;
    }
    let failed = |e: std::io::Error| match &args.log {
        Some(path) => format!("--log {}: {e}", path.display()),
        None => e.to_string(),
    };
    let mut log = args.log.as_ref().map(File::create).transpose().map_err(failed)?;
    let stop = stop_flag()?;
    let mut source = args.links.connect(&args.stream, &args.size, true)?;
    let outer = if args.stream.vxlan.is_some() { vtep::OUTER as f64 } else { 0.0 };
    source.set_rate(args.rate.frames(args.size.mean() + outer));
    source.learn(&stop)?;
    let (duration, interval) = (Duration::from_secs_f64(args.duration), Duration::from_secs_f64(args.interval));
    let mut verdict = Verdict::default();
    let result = soak(source.as_mut(), duration, interval, &stop, |at, report| {
        verdict.add(report, args.links.filters());
        if let Some(log) = &mut log {
            let line = serde_json::to_string(&Interval { at, report }).map_err(|e| e.to_string())?;
            writeln!(log, "{line}").map_err(failed)?;
        }
        if !args.json {
            println!("{}", line(at, report));
        }
        Ok(())
    });
    verdict.judge(args.loss);
    // A link that goes down ends the run, but what was found until then is worth knowing.
    if let Err(e) = &result {
        (verdict.passed, verdict.faults) = (false, [std::mem::take(&mut verdict.faults), vec![e.clone()]].concat());
    }
    if args.json {
        println!("{}", serde_json::to_string(&verdict).map_err(|e| e.to_string())?);
    } else {
        print!("{}", verdict.text());
    }
    if !verdict.passed {
        return Err(format!("the soak failed: {}", verdict.faults.join(", ")));
    }
    if stop.load(Ordering::Relaxed) { Err("interrupted".into()) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What each interval gives, one after the other.
    struct Script(Vec<Direction>);

    impl Source for Script {
        fn learn(&mut self, _: &AtomicBool) -> Result<(), String> {
            Ok(())
        }

        fn set_rate(&mut self, _: u64) {}

        fn run(
            &mut self,
            duration: Duration,
            stop: &AtomicBool,
            _: &mut dyn FnMut(Progress),
        ) -> Result<Report, String> {
            std::thread::sleep(duration);
            if self.0.is_empty() {
                return Err("link A is down".into());
            }
            let direction = self.0.remove(0);
            stop.store(self.0.is_empty(), Ordering::Relaxed);
            Ok(Report { seconds: duration.as_secs_f64(), a_to_b: Some(direction), ..Report::default() })
        }
    }

    const CLEAN: Direction = Direction {
        sent: 1000,
        received: 1000,
        lost: 0,
        sampled: 10,
        reordered: 0,
        duplicated: 0,
        foreign: 0,
        mpps: 0.0,
        gbps: 0.0,
        held_up: 0.0,
        latency: None,
    };

    fn judge(directions: &[Direction], tolerance: f64, filters: bool) -> Verdict {
        let mut verdict = Verdict::default();
        let (hour, interval) = (Duration::from_secs(3600), Duration::from_millis(1));
        let mut source = Script(directions.to_vec());
        let each = |at: f64, report: &Report| {
            assert!(at > 0.0);
            verdict.add(report, filters);
            Ok(())
        };
        soak(&mut source, hour, interval, &AtomicBool::new(false), each).unwrap();
        verdict.judge(tolerance);
        verdict
    }

    #[test]
    fn a_clean_run_passes() {
        let verdict = judge(&[CLEAN; 5], 0.0, false);
        assert!(verdict.passed && verdict.faults.is_empty(), "{verdict:?}");
        assert_eq!((verdict.intervals, verdict.bad_intervals, verdict.sent, verdict.received), (5, 0, 5000, 5000));
        assert!(verdict.text().starts_with("passed"));
    }

    #[test]
    fn every_fault_fails() {
        let faults = [
            (Direction { received: 999, lost: 1, ..CLEAN }, "1 frames lost (0.050000 %)"),
            (Direction { reordered: 2, ..CLEAN }, "2 reordered"),
            (Direction { received: 1003, duplicated: 3, ..CLEAN }, "3 duplicated"),
            (Direction { foreign: 4, ..CLEAN }, "4 damaged or foreign"),
        ];
        for (direction, fault) in faults {
            let verdict = judge(&[direction, CLEAN], 0.0, false);
            assert_eq!((verdict.passed, &verdict.faults[..]), (false, &[fault.to_owned()][..]), "{verdict:?}");
            assert_eq!(verdict.bad_intervals, 1);
            assert!(verdict.text().starts_with("FAILED"));
        }
        assert_eq!(judge(&[Direction { sent: 0, received: 0, ..CLEAN }], 0.0, false).faults, ["nothing was sent"]);
    }

    #[test]
    fn some_loss_may_be_tolerated() {
        let lossy = Direction { received: 990, lost: 10, ..CLEAN };
        // Of all frames, not of each interval's.
        assert!(judge(&[lossy, CLEAN], 0.5, false).passed);
        assert!(!judge(&[lossy, CLEAN], 0.49, false).passed);
    }

    #[test]
    fn on_a_network_other_frames_are_no_fault() {
        assert!(judge(&[Direction { foreign: 4, ..CLEAN }], 0.0, true).passed);
    }

    #[test]
    fn the_worst_latency_is_kept() {
        let with = |p99| Direction { latency: Some(Latency { p99, ..Latency::default() }), ..CLEAN };
        let verdict = judge(&[with(5.0), with(9.0), with(7.0)], 0.0, false);
        assert_eq!(verdict.worst_latency.unwrap().p99, 9.0);
    }

    #[test]
    fn it_ends_in_time() {
        let mut source = Script(vec![CLEAN; 1000]);
        let mut n = 0;
        let (all, interval) = (Duration::from_millis(50), Duration::from_millis(10));
        soak(&mut source, all, interval, &AtomicBool::new(false), |_, _| {
            n += 1;
            Ok(())
        })
        .unwrap();
        assert!((1..=5).contains(&n), "{n}");
    }
}
