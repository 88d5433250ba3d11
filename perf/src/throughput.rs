//! RFC 2544: throughput by binary search (section 26.1), latency at the throughput and below (26.2) and the frame loss
//! rate (26.3), by frame size.

use crate::cpu;
use crate::frames::{SIZE_MAX, SIZE_MIN, Sizes};
use crate::generator::{Direction, Progress, Report};
use crate::latency::Latency;
use crate::links::{LinkArgs, RELEARN, Source};
use crate::rate::Rate;
use crate::traffic::{StreamArgs, seconds, stop_flag};
use crate::vtep;
use clap::{Args, ValueEnum};
use serde::Serialize;
use std::io::{IsTerminal, Write};
use std::str::FromStr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Bytes of the frame check sequence, which the RFC's sizes have in them.
const FCS: usize = 4;

/// What a trial gave: frames were sent at a rate for some time, and counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Trial {
    /// Million frames a second of each direction that were to be sent; absent: as many as possible.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub intended_mpps: Option<f64>,
    /// Million frames a second of each direction that were sent. Fewer than intended if the generator was too slow, or the
    /// switch didn't take them off a ring.
    pub rate_mpps: f64,
    /// Percent of the frames sent that never came.
    pub loss: f64,
    /// Times that a frame came later than its successors, in the sample that was looked at.
    pub reordered: u64,
    /// Frames that came more than once, as far as that was seen.
    pub duplicated: u64,
    /// Percent of the attempts to send that found the ring full.
    pub held_up: f64,
}

/// What the throughput is limited by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Limit {
    /// The switch: it loses frames at a rate that is higher by no more than the resolution.
    Switch,
    /// The switch, which loses no more than it may: it leaves its rings full, so that frames can't be sent faster.
    Rings,
    /// The generator: frames can't be sent faster, and the switch loses no more than it may.
    Generator,
    /// What was allowed at most: the switch may be able to do more.
    Maximum,
    /// Nothing: frames are lost at every rate that was tried.
    None,
}

/// What to search for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Goal {
    /// Million frames a second of each direction, at most; `None`: as many as can be sent.
    pub max_mpps: Option<f64>,
    /// Percent of the frames that may be lost.
    pub loss: f64,
    /// When to stop: percent of the highest rate between one that is kept and one that isn't.
    pub resolution: f64,
}

impl Goal {
    /// Whether the switch keeps up in this trial. One that repeats frames doesn't: what is lost could not be told.
    pub fn kept(&self, trial: &Trial) -> bool {
        trial.rate_mpps > 0.0 && trial.loss <= self.loss && trial.duplicated == 0
    }
}

/// What a search found.
#[derive(Clone, Debug, PartialEq)]
pub struct Found {
    /// The trial with the highest rate that was kept.
    pub best: Option<Trial>,
    /// What it is limited by.
    pub limit: Limit,
    /// Million frames a second of each direction that the first trial sent: the highest rate.
    pub top_mpps: f64,
    /// All trials, in the order in which they were made.
    pub trials: Vec<Trial>,
}

/// Searches for the highest rate at which no more is lost than the goal allows: the first trial is as fast as can be, each
/// next one half-way between the highest rate that was kept and the lowest that wasn't. `trial` sends at the rate that it
/// is given, million frames a second of each direction, or as fast as possible.
///
/// What it finds was kept in a trial, whatever the switch does: one that loses frames now and then, or at lower rates only,
/// is given a rate that is too low, never one at which it failed.
///
/// # Errors
/// Those of `trial`.
pub fn search(goal: &Goal, mut trial: impl FnMut(Option<f64>) -> Result<Trial, String>) -> Result<Found, String> {
    let first = trial(goal.max_mpps)?;
    let top = first.rate_mpps;
    let mut found = Found { best: None, limit: Limit::None, top_mpps: top, trials: vec![first] };
    if goal.kept(&first) {
        found.limit = if goal.max_mpps.is_some() && first.reached() { Limit::Maximum } else { first.slowed_by() };
        found.best = Some(first);
        return Ok(found);
    }
    let (mut low, mut high) = (0.0, top);
    // At most as many halves as a number has bits, also if the resolution is nothing.
    for _ in 0..52 {
        if high - low <= top * goal.resolution / 100.0 {
            break;
        }
        let middle = (low + high) / 2.0;
        let trial = trial(Some(middle))?;
        found.trials.push(trial);
        if goal.kept(&trial) {
            low = middle;
            if found.best.is_none_or(|best| best.rate_mpps < trial.rate_mpps) {
                found.limit = if trial.reached() { Limit::Switch } else { trial.slowed_by() };
                found.best = Some(trial);
            }
        } else {
            high = middle;
        }
    }
    Ok(found)
}

/// The frame loss rate (RFC 2544 section 26.3): trials from the highest rate downwards in steps of a tenth, until two in a row
/// lose nothing. Each with the percentage of the highest rate.
///
/// # Errors
/// Those of `trial`.
pub fn loss_rates(
    top_mpps: f64,
    mut trial: impl FnMut(Option<f64>) -> Result<Trial, String>,
) -> Result<Vec<(u32, Trial)>, String> {
    let mut trials = Vec::new();
    let mut without = 0;
    for percent in (10..=100).rev().step_by(10) {
        let trial = trial(Some(top_mpps * f64::from(percent) / 100.0))?;
        trials.push((percent, trial));
        without = if trial.loss == 0.0 { without + 1 } else { 0 };
        if without == 2 {
            break;
        }
    }
    Ok(trials)
}

/// `part` of `all`, in percent.
pub(crate) fn percent(part: u64, all: u64) -> f64 {
    100.0 * part as f64 / all.max(1) as f64
}

impl Trial {
    /// Whether the rate that was intended, if any, was sent, or a little less: it is not kept exactly.
    fn reached(&self) -> bool {
        self.intended_mpps.is_none_or(|mpps| self.rate_mpps >= 0.98 * mpps)
    }

    /// Why no more was sent.
    fn slowed_by(&self) -> Limit {
        if self.held_up > 50.0 { Limit::Rings } else { Limit::Generator }
    }

    /// The trial that gave this report.
    fn new(intended_mpps: Option<f64>, report: &Report) -> Trial {
        let sum = |count: fn(&Direction) -> u64| report.directions().map(count).sum::<u64>();
        let sent = sum(|d| d.sent);
        let directions = report.directions().count() as f64;
        Trial {
            intended_mpps,
            rate_mpps: sent as f64 / directions / report.seconds / 1e6,
            loss: percent(sum(|d| d.lost), sent),
            reordered: sum(|d| d.reordered),
            duplicated: sum(|d| d.duplicated),
            held_up: report.directions().map(|d| d.held_up).sum::<f64>() / directions,
        }
    }
}

/// Size of a trial's frames.
#[derive(Clone, Debug, PartialEq)]
pub struct FrameSize {
    /// Bytes with FCS, or "imix".
    name: String,
    sizes: Sizes,
}

impl FromStr for FrameSize {
    type Err = String;

    /// Reads a size with FCS, or "imix".
    fn from_str(s: &str) -> Result<FrameSize, String> {
        let name = s.trim().to_ascii_lowercase();
        if name == "imix" {
            return Ok(FrameSize { sizes: name.parse()?, name });
        }
        let size = name.parse().ok().and_then(|size: usize| size.checked_sub(FCS));
        match size.filter(|size| (SIZE_MIN..=SIZE_MAX).contains(size)) {
            Some(size) => Ok(FrameSize { name, sizes: size.into() }),
            None => Err(format!(
                "\"{s}\": a frame has {} to {} bytes with FCS, or the size is \"imix\"",
                SIZE_MIN + FCS,
                SIZE_MAX + FCS
            )),
        }
    }
}

/// A percentage of less than 100.
///
/// # Errors
/// If it is none.
pub fn percentage(s: &str) -> Result<f64, String> {
    s.parse().ok().filter(|p| (0.0..100.0).contains(p)).ok_or_else(|| "0 or more, and less than 100 percent".into())
}

/// Shows what is going on, if somebody looks; nothing takes it away again.
pub(crate) fn say(line: &str) {
    let mut err = std::io::stderr();
    if err.is_terminal() {
        let _ = write!(err, "\r{line}\x1b[K").and_then(|()| err.flush());
    }
}

/// A test of RFC 2544.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Test {
    /// The throughput only (section 26.1), which the others need anyway
    Throughput,
    /// Latency at 10 to 100 % of the throughput (section 26.2)
    Latency,
    /// Frame loss at 100 % of the highest rate and below (section 26.3)
    Loss,
}

/// `rfc2544`
#[derive(Args, Clone, Debug)]
pub struct ThroughputArgs {
    #[command(flatten)]
    links: LinkArgs,
    #[command(flatten)]
    stream: StreamArgs,
    /// Sizes of frames, each in bytes with FCS, as in the RFC, or imix
    #[arg(long, value_name = "SIZE,...", value_delimiter = ',', default_value = "64,128,256,512,1024,1280,1518")]
    sizes: Vec<FrameSize>,
    /// The test; may be given several times [default: all]
    #[arg(long = "test", value_name = "TEST")]
    tests: Vec<Test>,
    /// Percent of the frames that may be lost
    #[arg(long, value_name = "PERCENT", default_value_t = 0.0, value_parser = percentage)]
    loss: f64,
    /// Seconds that a trial sends, or a time like 500ms or 1m
    #[arg(long, value_name = "TIME", default_value = "10", value_parser = seconds)]
    duration: f64,
    /// When the search ends: percent of the highest rate between one that is kept and one that isn't
    #[arg(long, value_name = "PERCENT", default_value_t = 1.0, value_parser = percentage)]
    resolution: f64,
    /// What is sent at most of each direction, such as the line rate: frames a second, like 1.5M, or what they take up on an
    /// Ethernet link, like 10Gbit; 0: as many as can be sent
    #[arg(long, value_name = "RATE", default_value = "0")]
    max_rate: Rate,
    /// Print one JSON object instead of text
    #[arg(long)]
    json: bool,
}

/// What `rfc2544` found.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Results {
    /// Kind of the links: "memif", "vhost-user" or "eth".
    pub link: &'static str,
    /// Flows of each direction.
    pub flows: u32,
    /// Which links sent: "a-to-b", "b-to-a" or "both". Rates are of each direction.
    pub direction: String,
    /// Seconds that each trial sent.
    pub seconds: f64,
    /// Percent of the frames that were allowed to be lost.
    pub loss: f64,
    /// Percent of the highest rate at which the searches ended.
    pub resolution: f64,
    /// By frame size, in the order asked for.
    pub sizes: Vec<SizeResult>,
}

/// What was found with frames of one size.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct SizeResult {
    /// Bytes with FCS, or "imix".
    pub size: String,
    /// The throughput: million frames a second of each direction; 0 if there is none.
    pub rate_mpps: f64,
    /// The same in gigabit a second: frames without FCS, preamble and gap.
    pub gbps: f64,
    /// Percent of the frames that were lost at this rate.
    pub loss: f64,
    /// What the throughput is limited by.
    pub limit: Limit,
    /// Million frames a second of each direction that were sent at most.
    pub top_mpps: f64,
    /// The trials of the search, in the order in which they were made.
    pub trials: Vec<Trial>,
    /// Latency by load; empty if not asked for, or without throughput.
    pub latency: Vec<Load>,
    /// Frame loss rate by load; empty if not asked for.
    pub loss_rate: Vec<Load>,
}

/// A trial at a part of a rate.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Load {
    /// Percent: of the throughput for latency, of the highest rate for the loss rate.
    pub percent: u32,
    /// What it gave.
    #[serde(flatten)]
    pub trial: Trial,
    /// How long frames took from A to B.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub latency: Option<Latency>,
}

/// A switch under test, between links that are connected.
struct Tester<'a> {
    source: Box<dyn Source>,
    name: &'a str,
    duration: Duration,
    stop: &'a AtomicBool,
    /// When the switch was told all addresses.
    learned: Instant,
}

impl Tester<'_> {
    /// Sends at a rate, million frames a second of each direction.
    fn trial(&mut self, what: &str, intended_mpps: Option<f64>) -> Result<(Trial, Report), String> {
        let rate = intended_mpps.map_or(0, |mpps| ((mpps * 1e6).round() as u64).max(1));
        let at = intended_mpps.map_or("full speed".into(), |mpps| format!("{mpps:.4} Mpps"));
        let line = format!("{} bytes: {what} at {at}", self.name);
        say(&line);
        if self.learned.elapsed() > RELEARN {
            self.source.learn(self.stop)?;
            self.learned = Instant::now();
        }
        self.source.set_rate(rate);
        let live = &mut |p: Progress| say(&format!("{line}: {:.0} s, {:.3} Mpps received", p.seconds, p.mpps));
        let report = self.source.run(self.duration, self.stop, live)?;
        say("");
        if self.stop.load(Ordering::Relaxed) {
            return Err("interrupted".into());
        }
        Ok((Trial::new(intended_mpps, &report), report))
    }
}

impl ThroughputArgs {
    fn wants(&self, test: Test) -> bool {
        self.tests.is_empty() || self.tests.contains(&test)
    }

    fn test(&self, size: &FrameSize, stop: &AtomicBool) -> Result<SizeResult, String> {
        say(&format!("{} bytes: connecting", size.name));
        let mut source = self.links.connect(&self.stream, &size.sizes, self.wants(Test::Latency))?;
        source.learn(stop)?;
        let duration = Duration::from_secs_f64(self.duration);
        let mut tester = Tester { source, name: &size.name, duration, stop, learned: Instant::now() };
        let outer = if self.stream.vxlan.is_some() { vtep::OUTER as f64 } else { 0.0 };
        let max = self.max_rate.frames(size.sizes.mean() + outer);
        let max_mpps = (max != 0).then_some(max as f64 / 1e6);
        let goal = Goal { max_mpps, loss: self.loss, resolution: self.resolution };
        let found = search(&goal, |mpps| Ok(tester.trial("throughput", mpps)?.0))?;
        let best = found.best.unwrap_or_default();
        let mut latency = Vec::new();
        if self.wants(Test::Latency) && found.best.is_some() {
            for percent in (10..=100).step_by(10) {
                let mpps = best.rate_mpps * f64::from(percent) / 100.0;
                let (trial, report) = tester.trial("latency", Some(mpps))?;
                let latencies = report.directions().filter_map(|d| d.latency);
                let latency_of = latencies.max_by(|a, b| a.p99.total_cmp(&b.p99));
                latency.push(Load { percent, trial, latency: latency_of });
            }
        }
        let mut loss_rate = Vec::new();
        if self.wants(Test::Loss) {
            let trials = loss_rates(found.top_mpps, |mpps| Ok(tester.trial("loss rate", mpps)?.0))?;
            loss_rate.extend(trials.into_iter().map(|(percent, trial)| Load { percent, trial, latency: None }));
        }
        Ok(SizeResult {
            size: size.name.clone(),
            rate_mpps: best.rate_mpps,
            gbps: best.rate_mpps * size.sizes.mean() * 8.0 / 1e3,
            loss: best.loss,
            limit: found.limit,
            top_mpps: found.top_mpps,
            trials: found.trials,
            latency,
            loss_rate,
        })
    }
}

/// Tests a switch as RFC 2544 says, and reports.
///
/// # Errors
/// What went wrong.
pub fn run(args: &ThroughputArgs) -> Result<(), String> {
    if let Some(cpu) = args.stream.cpu {
        cpu::pin(cpu)?;
    }
    let stop = stop_flag()?;
    let mut results = Results {
        link: args.links.name(),
        flows: args.stream.flows,
        direction: args.stream.direction.to_possible_value().map_or_else(String::new, |way| way.get_name().into()),
        seconds: args.duration,
        loss: args.loss,
        resolution: args.resolution,
        sizes: Vec::new(),
    };
    // What was found until something goes wrong is worth knowing.
    let tested = args.sizes.iter().try_for_each(|size| {
        results.sizes.push(args.test(size, &stop)?);
        Ok(())
    });
    if args.json {
        println!("{}", serde_json::to_string(&results).map_err(|e| e.to_string())?);
    } else {
        print!("{}", results.text());
    }
    tested
}

impl Results {
    /// For people: a table for each test.
    pub fn text(&self) -> String {
        let mut text = format!(
            "RFC 2544 over {}: {} flows, {}, trials of {} s. Sizes with FCS, rates of each direction.\n\n\
             Throughput (section 26.1), loss of at most {} %, resolution {} %\n\
             {:>6}{:>12}{:>12}{:>10}  limited by\n",
            self.link,
            self.flows,
            self.direction,
            self.seconds,
            self.loss,
            self.resolution,
            "bytes",
            "Mpps",
            "Gbit/s",
            "loss %"
        );
        for s in &self.sizes {
            let limit = match s.limit {
                Limit::Switch => "the switch",
                Limit::Rings => "the switch, which leaves its rings full",
                Limit::Generator => "the generator",
                Limit::Maximum => "--max-rate",
                Limit::None => "loss at every rate that was tried",
            };
            text += &format!("{:>6}{:12.4}{:12.3}{:10.4}  {limit}\n", s.size, s.rate_mpps, s.gbps, s.loss);
        }
        if self.sizes.iter().any(|s| !s.latency.is_empty()) {
            text += "\nLatency in us (section 26.2), by load in percent of the throughput\n";
            text += &format!("{:>6}{:>6}{:>12}{:>10}", "bytes", "load", "Mpps", "loss %");
            text += &["p50", "p90", "p99", "p99.9", "p99.99", "max"].map(|name| format!("{name:>10}")).concat();
            text += "\n";
        }
        for (s, load) in self.sizes.iter().flat_map(|s| s.latency.iter().map(move |load| (s, load))) {
            text += &format!("{:>6}{:6}{:12.4}{:10.4}", s.size, load.percent, load.trial.rate_mpps, load.trial.loss);
            if let Some(l) = load.latency {
                text +=
                    &[l.p50, l.p90, l.p99, l.p99_9, l.p99_99, l.max].map(|ns| format!("{:10.1}", ns / 1e3)).concat();
            }
            text += "\n";
        }
        if self.sizes.iter().any(|s| !s.loss_rate.is_empty()) {
            text += "\nFrame loss rate (section 26.3), by load in percent of the highest rate\n";
            text += &format!("{:>6}{:>6}{:>12}{:>10}\n", "bytes", "load", "Mpps", "loss %");
        }
        for (s, load) in self.sizes.iter().flat_map(|s| s.loss_rate.iter().map(move |load| (s, load))) {
            text += &format!("{:>6}{:6}{:12.4}{:10.4}\n", s.size, load.percent, load.trial.rate_mpps, load.trial.loss);
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOAL: Goal = Goal { max_mpps: None, loss: 0.0, resolution: 1.0 };

    /// A generator of at most 100 Mpps, and a switch that loses this percentage at a rate.
    fn device(mut loss: impl FnMut(f64) -> f64) -> impl FnMut(Option<f64>) -> Result<Trial, String> {
        move |intended| {
            let rate = intended.unwrap_or(100.0).min(100.0);
            Ok(Trial { intended_mpps: intended, rate_mpps: rate, loss: loss(rate), ..Trial::default() })
        }
    }

    /// What a switch loses that does so many and no more.
    fn steady(most: f64) -> impl FnMut(f64) -> f64 {
        move |rate| (100.0 * (1.0 - most / rate)).max(0.0)
    }

    fn rate(found: &Found) -> f64 {
        found.best.map_or(0.0, |best| best.rate_mpps)
    }

    #[test]
    fn it_converges() {
        for most in [2.0, 10.0, 33.3, 50.0, 77.7, 99.5] {
            let found = search(&GOAL, device(steady(most))).unwrap();
            assert_eq!((found.limit, found.top_mpps), (Limit::Switch, 100.0));
            assert!(rate(&found) <= most && rate(&found) >= most - 1.0, "{most}: {found:?}");
            // One at full speed, and then half the interval each time.
            assert_eq!(found.trials.len(), 1 + 7);
        }
        let fine = search(&Goal { resolution: 0.001, ..GOAL }, device(steady(42.0))).unwrap();
        assert!((rate(&fine) - 42.0).abs() < 0.001, "{fine:?}");
        let finest = search(&Goal { resolution: 0.0, ..GOAL }, device(steady(42.0))).unwrap();
        assert!((rate(&finest) - 42.0).abs() < 1e-9 && finest.trials.len() <= 53);
    }

    #[test]
    fn some_loss_may_be_tolerated() {
        // 10 % of 50 Mpps are lost if 45 get through.
        let goal = Goal { loss: 10.0, ..GOAL };
        let found = search(&goal, device(steady(45.0))).unwrap();
        assert!((49.0..=50.0).contains(&rate(&found)), "{found:?}");
        assert!(found.best.unwrap().loss > 5.0);
    }

    #[test]
    fn a_switch_faster_than_the_generator() {
        let found = search(&GOAL, device(|_| 0.0)).unwrap();
        assert_eq!((found.limit, rate(&found), found.trials.len()), (Limit::Generator, 100.0, 1));
        // The highest rate allowed is another matter, if it was reached.
        let found = search(&Goal { max_mpps: Some(40.0), ..GOAL }, device(|_| 0.0)).unwrap();
        assert_eq!((found.limit, rate(&found)), (Limit::Maximum, 40.0));
        let found = search(&Goal { max_mpps: Some(400.0), ..GOAL }, device(|_| 0.0)).unwrap();
        assert_eq!((found.limit, rate(&found)), (Limit::Generator, 100.0));
    }

    #[test]
    fn a_switch_that_leaves_its_rings_full() {
        let mut device = device(|_| 0.0);
        let mut full = |held_up| search(&GOAL, |mpps| Ok(Trial { held_up, ..device(mpps)? })).unwrap().limit;
        assert_eq!((full(90.0), full(5.0)), (Limit::Rings, Limit::Generator));
    }

    #[test]
    fn a_generator_that_does_not_get_to_the_rate() {
        // At full speed something is lost, at a rate of more than 30 Mpps it isn't sent.
        let slow = |intended: Option<f64>| {
            let (rate_mpps, loss) = intended.map_or((100.0, 1.0), |mpps| (mpps.min(30.0), 0.0));
            Ok(Trial { intended_mpps: intended, rate_mpps, loss, ..Trial::default() })
        };
        let found = search(&GOAL, slow).unwrap();
        assert_eq!((found.limit, rate(&found)), (Limit::Generator, 30.0));
    }

    #[test]
    fn the_highest_rate_allowed_bounds_the_search() {
        let mut highest = 0.0f64;
        let mut loss = steady(30.0);
        let found = search(
            &Goal { max_mpps: Some(64.0), ..GOAL },
            device(|rate| {
                highest = highest.max(rate);
                loss(rate)
            }),
        );
        let found = found.unwrap();
        assert!((29.0..=30.0).contains(&rate(&found)), "{found:?}");
        assert_eq!(highest, 64.0);
    }

    #[test]
    fn no_throughput_at_all() {
        let found = search(&GOAL, device(|_| 0.5)).unwrap();
        assert_eq!((found.limit, found.best), (Limit::None, None));
        assert_eq!(found.trials.len(), 8);
        // Nothing can even be sent.
        let none = |intended| Ok(Trial { intended_mpps: intended, ..Trial::default() });
        let found = search(&GOAL, none).unwrap();
        assert_eq!((found.limit, found.best, found.trials.len()), (Limit::None, None, 1));
    }

    #[test]
    fn a_switch_that_is_worse_at_lower_rates() {
        // Keeps up to 20 and from 40 to 60.
        let keeps = |rate: f64| rate <= 20.0 || (40.0..=60.0).contains(&rate);
        let found = search(&GOAL, device(|rate| if keeps(rate) { 0.0 } else { 1.0 })).unwrap();
        assert_eq!(found.limit, Limit::Switch);
        assert!(keeps(rate(&found)) && !keeps(rate(&found) + 1.0), "{found:?}");
        // Loses something every third time.
        let mut n = 0;
        let mut most = steady(80.0);
        let fickle = device(|rate| {
            n += 1;
            if n % 3 == 0 { 0.1 } else { most(rate) }
        });
        let found = search(&GOAL, fickle).unwrap();
        let best = found.best.unwrap();
        assert!(best.loss == 0.0 && best.rate_mpps <= 80.0, "{found:?}");
    }

    #[test]
    fn frames_that_come_twice_are_not_kept() {
        let twice = |intended: Option<f64>| {
            let rate = intended.unwrap_or(100.0);
            let duplicated = if rate > 10.0 { 5 } else { 0 };
            Ok(Trial { intended_mpps: intended, rate_mpps: rate, duplicated, ..Trial::default() })
        };
        let found = search(&GOAL, twice).unwrap();
        assert!((9.0..=10.0).contains(&rate(&found)), "{found:?}");
    }

    #[test]
    fn errors_end_a_search() {
        let mut n = 0;
        let breaks = |intended| {
            n += 1;
            if n == 3 { Err("link A is down".into()) } else { device(steady(1.0))(intended) }
        };
        assert_eq!(search(&GOAL, breaks), Err("link A is down".into()));
    }

    #[test]
    fn loss_rates_end_with_two_that_lose_nothing() {
        let rates = loss_rates(100.0, device(steady(75.0))).unwrap();
        let table: Vec<(u32, f64)> = rates.iter().map(|(p, t)| (*p, t.loss.round())).collect();
        assert_eq!(table, [(100, 25.0), (90, 17.0), (80, 6.0), (70, 0.0), (60, 0.0)]);
        assert_eq!(loss_rates(100.0, device(|_| 0.0)).unwrap().len(), 2);
        assert_eq!(loss_rates(100.0, device(|_| 1.0)).unwrap().len(), 10);
        // One alone is not enough.
        let rates = loss_rates(100.0, device(|rate| if rate == 80.0 { 0.0 } else { 1.0 })).unwrap();
        assert_eq!(rates.len(), 10);
    }
}
