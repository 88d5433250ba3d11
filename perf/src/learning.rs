//! RFC 2889: how many addresses a switch can hold (section 5.7, address caching capacity), and how fast it learns them
//! (section 5.8, address learning rate).
//!
//! Addresses are learned from link B, whose frames go to the one station behind A. Then two things show whether all of them
//! are known, with two links only, so that any switch can be tested that has two ports to spare:
//!
//! - Frames from A to each of the addresses have to come out of B, all of them.
//! - Frames from B to each of them must come out nowhere: a switch that knows the address behind B filters them (IEEE 802.1Q,
//!   8.6.1 and 8.6.3), one that doesn't floods them, and they come out of A. In the RFC a third port watches for flooded frames; with
//!   this one the frames need not be told from those that were meant for it.

use crate::cpu;
use crate::frames::{Frames, Shape, Tag, Walk};
use crate::generator::{Link, Options};
use crate::links::LinkArgs;
use crate::throughput::{self, Goal, Limit, Trial, percent, percentage, say};
use crate::traffic::{ring_size, stop_flag};
use clap::{Args, ValueEnum};
use serde::Serialize;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Frames sent at a time before those that come of them are waited for.
const BATCH: u16 = 32;
/// How long nothing has to come until what is missing is lost.
const REST: Duration = Duration::from_millis(200);

/// Batches that come back incomplete until no more are sent: there is no more to learn, and each takes a [`REST`].
const GAPS: u32 = 10;
/// Longer than the switch's ageing time is waited, because switches look for old addresses now and then only.
const AGEING_MORE: Duration = Duration::from_secs(2);
/// Batches between two looks at the links' state.
const TURNS: u32 = 256;

/// Walks of link B, and the queues in its frames' tags. Link A has only one, to the addresses behind B.
const LEARN: usize = 0;
const PROBE: usize = 1;

/// What became of addresses that a switch was to learn.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Learned {
    /// How many there were.
    pub addresses: u32,
    /// Million frames a second, each with an address of its own, at which they were to be learned.
    pub rate_mpps: f64,
    /// How many the switch knew thereafter: frames to them were not flooded.
    pub known: u32,
    /// How many of the frames to them came out of their link. No more are sent after some are missing.
    pub reached: u32,
}

impl Learned {
    /// Whether all were learned.
    pub fn all(&self) -> bool {
        self.known == self.addresses && self.reached == self.addresses
    }
}

/// How fast a switch is taught.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Pace {
    /// Each batch of frames when the one before has come.
    Careful,
    /// Million frames a second.
    Rate(f64),
    /// As fast as possible.
    Full,
}

/// A switch between two links, to be taught addresses.
pub trait Teach {
    /// Teaches it the first `addresses`, and looks which it knows.
    ///
    /// # Errors
    /// If no frame gets through, a link goes down, or `stop` becomes true.
    fn teach(&mut self, addresses: u32, pace: Pace, stop: &AtomicBool) -> Result<Learned, String>;
}

/// The stations: one behind link A, many behind link B.
pub struct Stations<L: Link> {
    links: [L; 2],
    /// A's walk to the addresses, and B's two.
    test: Walk,
    learn: Walk,
    probe: Walk,
    size: u32,
    tag_at: usize,
    timeout: Duration,
    came: Came,
    turns: u32,
}

/// Frames that have come.
#[derive(Clone, Copy, Debug, Default)]
struct Came {
    /// Out of A, of those that teach.
    learn: u64,
    /// Out of A, of those that look who is known: flooded.
    flooded: u64,
    /// Out of B.
    test: u64,
}

impl Came {
    fn all(&self) -> u64 {
        self.learn + self.flooded + self.test
    }
}

impl<L: Link> Stations<L> {
    /// Prepares the frames of `addresses` stations behind link B and connects both links. Of the options, flows, rates, windows
    /// and samples mean nothing here.
    ///
    /// # Errors
    /// Why not.
    pub fn connect(options: &Options<L::End>, addresses: u32) -> Result<Stations<L>, String> {
        let shape = |reverse| Shape { vlan: options.vlan, reverse, tunnel: None };
        let size = options.sizes.max();
        let frames = |reverse, walks: usize| {
            Frames::lay_out(&vec![addresses; walks], options.stride, L::HEADER, |walk, i, frame| {
                let tag = Tag { reverse, queue: walk as u8, sequence: i, time: None };
                shape(reverse).build(size, i, tag, frame);
                // Destination and source: A's only station is its first, and B's first asks who is known.
                match (reverse, walk) {
                    (false, _) => frame[8..12].fill(0),
                    (true, LEARN) => frame[2..6].fill(0),
                    (true, _) => {
                        frame.copy_within(6..12, 0);
                        frame[8..12].fill(0);
                    }
                }
            })
        };
        let (a, b) = (frames(false, 1)?, frames(true, 2)?);
        let links = L::connect(options, [&a, &b])?;
        Ok(Stations {
            links,
            test: a.walks[0],
            learn: b.walks[LEARN],
            probe: b.walks[PROBE],
            size: size as u32,
            tag_at: shape(false).tag_at(),
            timeout: options.timeout,
            came: Came::default(),
            turns: 0,
        })
    }

    fn receive(&mut self) {
        let Stations { links: [a, b], came, tag_at, .. } = self;
        // Every frame is looked at; what isn't ours is left out.
        for rx in a.rx() {
            L::take(rx, 2 * BATCH, 1, 1, *tag_at, |_, read| match Tag::of(read, *tag_at) {
                Some(Tag { reverse: true, queue, .. }) if usize::from(queue) == PROBE => came.flooded += 1,
                Some(Tag { reverse: true, .. }) => came.learn += 1,
                _ => {}
            });
        }
        for rx in b.rx() {
            L::take(rx, 2 * BATCH, 1, 1, *tag_at, |_, read| {
                came.test += u64::from(Tag::of(read, *tag_at).is_some_and(|tag| !tag.reverse));
            });
        }
    }

    /// Receives until `done`, or nothing has come for [`REST`]. Whether `done`.
    fn wait(&mut self, done: impl Fn(&Came) -> bool) -> bool {
        let (mut seen, mut since) = (self.came.all(), Instant::now());
        loop {
            self.receive();
            if done(&self.came) {
                return true;
            }
            if self.came.all() != seen {
                (seen, since) = (self.came.all(), Instant::now());
            } else if since.elapsed() >= REST {
                return false;
            }
            std::hint::spin_loop();
        }
    }

    /// Sends `count` frames of `walk` from link A (0) or B (1), and receives while there is no room for them.
    fn send(&mut self, link: usize, walk: &mut Walk, mut count: u64) -> Result<(), String> {
        let end = Instant::now() + self.timeout;
        loop {
            let ring = self.links[link].tx().first_mut().ok_or("a link without a queue")?;
            let n = u64::from(L::free(ring)).min(count);
            L::fill(ring, (0..n).map(|_| (walk.step(), self.size)));
            count -= n;
            if count == 0 {
                L::wake(ring);
                return Ok(());
            }
            if Instant::now() > end {
                return Err("the switch takes no more frames".into());
            }
            self.receive();
        }
    }

    /// Sees to it, once in a while, that it can go on.
    fn check(&mut self, stop: &AtomicBool) -> Result<(), String> {
        self.turns += 1;
        if !self.turns.is_multiple_of(TURNS) {
            return Ok(());
        }
        for (link, name) in self.links.iter().zip(["A", "B"]) {
            if let Some(reason) = link.down() {
                return Err(format!("link {name} is down: {reason}"));
            }
        }
        if stop.load(Ordering::Relaxed) { Err("interrupted".into()) } else { Ok(()) }
    }

    /// Has A's station known, and sees to it that frames get through both ways.
    fn introduce(&mut self, stop: &AtomicBool) -> Result<(), String> {
        let end = Instant::now() + self.timeout;
        loop {
            let before = self.came;
            let (mut test, mut learn) = (self.test, self.learn);
            self.send(0, &mut test, 1)?;
            let through = self.wait(|came| came.test > before.test);
            self.send(1, &mut learn, 1)?;
            if self.wait(|came| came.learn > before.learn) && through {
                return Ok(());
            }
            self.check(stop)?;
            if Instant::now() > end {
                return Err("no frame gets through between the links, in both directions".into());
            }
        }
    }

    /// Sends frames that teach `addresses`. Million frames a second.
    fn lessons(&mut self, addresses: u32, pace: Pace, stop: &AtomicBool) -> Result<f64, String> {
        let (mut walk, begin) = (self.learn, Instant::now());
        let (all, before) = (u64::from(addresses), self.came.learn);
        let (mut sent, mut gaps) = (0, 0);
        while sent < all {
            let due = match pace {
                Pace::Rate(mpps) => (begin.elapsed().as_secs_f64() * mpps * 1e6) as u64,
                Pace::Careful | Pace::Full => all,
            };
            let n = due.min(all).saturating_sub(sent).min(BATCH.into());
            let had = self.came.learn;
            if n != 0 {
                self.send(1, &mut walk, n)?;
                sent += n;
            }
            if pace == Pace::Careful && gaps < GAPS {
                gaps += u32::from(!self.wait(|came| came.learn - had >= n));
            } else {
                self.receive();
            }
            self.check(stop)?;
        }
        let seconds = begin.elapsed().as_secs_f64();
        self.wait(|came| came.learn - before >= all);
        Ok(f64::from(addresses) / seconds / 1e6)
    }

    /// How many of the addresses, but for the first, which asks, are not known: frames from their own link to them are flooded.
    fn flooded(&mut self, addresses: u32, stop: &AtomicBool) -> Result<u32, String> {
        let (mut walk, before) = (self.probe, self.came.flooded);
        walk.step();
        let (mut left, mut gaps) = (addresses.saturating_sub(1), 0);
        while left != 0 {
            let n = left.min(BATCH.into());
            let (mut mark, had) = (self.learn, self.came.learn);
            self.send(1, &mut walk, n.into())?;
            // A frame that comes out of A after all that are flooded.
            self.send(1, &mut mark, 1)?;
            gaps += u32::from(!self.wait(|came| came.learn > had));
            if gaps == GAPS {
                return Err("frames from link B to the station behind link A are lost".into());
            }
            left -= n;
            self.check(stop)?;
        }
        Ok((self.came.flooded - before).min(addresses.into()) as u32)
    }

    /// How many of the addresses frames from A get to.
    fn reached(&mut self, addresses: u32, stop: &AtomicBool) -> Result<u32, String> {
        let (mut walk, before) = (self.test, self.came.test);
        let (mut sent, mut gaps) = (0, 0);
        while sent < u64::from(addresses) && gaps < GAPS {
            let n = (u64::from(addresses) - sent).min(BATCH.into());
            let had = self.came.test;
            self.send(0, &mut walk, n)?;
            sent += n;
            gaps += u32::from(!self.wait(|came| came.test - had >= n));
            self.check(stop)?;
        }
        Ok((self.came.test - before).min(addresses.into()) as u32)
    }
}

impl<L: Link> Teach for Stations<L> {
    fn teach(&mut self, addresses: u32, pace: Pace, stop: &AtomicBool) -> Result<Learned, String> {
        self.introduce(stop)?;
        let rate_mpps = self.lessons(addresses, pace, stop)?;
        let known = addresses - self.flooded(addresses, stop)?;
        Ok(Learned { addresses, rate_mpps, known, reached: self.reached(addresses, stop)? })
    }
}

/// What address caching capacity was found.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Capacity {
    /// The largest number of addresses of which all were learned; 0 if there was none.
    pub addresses: u32,
    /// What it is limited by.
    pub limit: Limit,
    /// All trials, in the order in which they were made.
    pub trials: Vec<Learned>,
}

/// What address learning rate was found.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Rate {
    /// Addresses that were learned in each trial.
    pub addresses: u32,
    /// Million addresses a second, the highest rate at which all were learned; 0 if there was none.
    pub rate_mpps: f64,
    /// What it is limited by.
    pub limit: Limit,
    /// All trials, in the order in which they were made. Loss is what was not learned.
    pub trials: Vec<Trial>,
}

/// Searches for the most addresses that a switch can hold (RFC 2889 section 5.7): first `max` of them, then each time half-way
/// between the highest number that it held and the lowest that it didn't, until these differ by no more than `resolution`
/// percent. `trial` teaches a switch that knows nothing so many.
///
/// # Errors
/// Those of `trial`.
pub fn capacity(
    max: u32,
    resolution: f64,
    mut trial: impl FnMut(u32) -> Result<Learned, String>,
) -> Result<Capacity, String> {
    let (mut low, mut high) = (0, max);
    let mut found = Capacity { addresses: 0, limit: Limit::Maximum, trials: Vec::new() };
    let mut next = max;
    loop {
        let learned = trial(next)?;
        found.trials.push(learned);
        if learned.all() {
            (low, found.addresses) = (next, next);
        } else {
            (high, found.limit) = (next, Limit::Switch);
        }
        if f64::from(high - low) <= (f64::from(high) * resolution / 100.0).max(1.0) {
            if found.addresses == 0 {
                found.limit = Limit::None;
            }
            return Ok(found);
        }
        next = low + (high - low) / 2;
    }
}

/// Searches for the highest rate at which a switch learns `addresses` (RFC 2889 section 5.8), as [`throughput::search`] does.
/// `trial` teaches a switch that knows nothing.
///
/// # Errors
/// Those of `trial`.
pub fn rate(
    addresses: u32,
    goal: &Goal,
    mut trial: impl FnMut(Pace) -> Result<Learned, String>,
) -> Result<Rate, String> {
    let found = throughput::search(goal, |intended_mpps| {
        let learned = trial(intended_mpps.map_or(Pace::Full, Pace::Rate))?;
        let known = if learned.all() { addresses } else { learned.known.min(addresses - 1) };
        let loss = percent((addresses - known).into(), addresses.into());
        Ok(Trial { intended_mpps, rate_mpps: learned.rate_mpps, loss, ..Trial::default() })
    })?;
    let rate_mpps = found.best.map_or(0.0, |best| best.rate_mpps);
    Ok(Rate { addresses, rate_mpps, limit: found.limit, trials: found.trials })
}

/// A test of RFC 2889.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Test {
    /// How many addresses the switch can hold (section 5.7)
    Capacity,
    /// How fast it learns them (section 5.8)
    Rate,
}

/// `rfc2889`
#[derive(Args, Clone, Debug)]
pub struct LearningArgs {
    #[command(flatten)]
    links: LinkArgs,
    /// The test; may be given several times [default: all]
    #[arg(long = "test", value_name = "TEST")]
    tests: Vec<Test>,
    /// The most addresses whose caching is tried
    #[arg(long, value_name = "ADDRESSES", default_value_t = 1_000_000, value_parser = clap::value_parser!(u32).range(2..=8_000_000))]
    max: u32,
    /// Addresses that are learned in each trial of the learning rate; no more than the switch can hold
    #[arg(long, default_value_t = 100_000, value_parser = clap::value_parser!(u32).range(2..=8_000_000))]
    addresses: u32,
    /// Percent of the result that it may be off by
    #[arg(long, value_name = "PERCENT", default_value_t = 1.0, value_parser = percentage)]
    resolution: f64,
    /// Seconds after which the switch forgets addresses: so long is waited between two trials
    #[arg(long, value_name = "SECONDS", default_value_t = 300, conflicts_with = "flush")]
    ageing: u64,
    /// A shell command that has the switch forget all addresses, such as "dray fdb flush", instead of waiting
    #[arg(long, value_name = "COMMAND")]
    flush: Option<String>,
    /// Bytes of a frame, without FCS
    #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u64).range(60..=9216))]
    size: u64,
    /// 802.1Q tag of the frames
    #[arg(long, value_name = "ID", value_parser = clap::value_parser!(u16).range(1..=4094))]
    vlan: Option<u16>,
    /// Descriptors in a ring, a power of two; memif: 256 to 16384, vhost-user: 64 to 32768
    #[arg(long, default_value_t = 1024, value_parser = ring_size)]
    pub(crate) ring_size: u32,
    /// The CPU to run on
    #[arg(long)]
    cpu: Option<usize>,
    /// Print one JSON object instead of text
    #[arg(long)]
    json: bool,
}

/// What `rfc2889` found.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Results {
    /// Kind of the links: "memif", "vhost-user" or "eth".
    pub link: &'static str,
    /// Bytes of a frame, without FCS.
    pub size: usize,
    /// Address caching capacity.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub capacity: Option<Capacity>,
    /// Address learning rate.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rate: Option<Rate>,
}

impl LearningArgs {
    /// Options for links to these ends.
    pub fn options<E>(&self, [a, b]: [E; 2]) -> Options<E> {
        let options = Options::new(a, b).size(self.size as usize);
        Options { vlan: self.vlan, ring_size: self.ring_size, ..options }
    }

    fn wants(&self, test: Test) -> bool {
        self.tests.is_empty() || self.tests.contains(&test)
    }

    /// Has the switch forget all addresses, or waits until it has.
    fn forget(&self, stop: &AtomicBool) -> Result<(), String> {
        if let Some(command) = &self.flush {
            let status = Command::new("sh").args(["-c", command]).stdout(Stdio::null()).status();
            return match status {
                Ok(status) if status.success() => Ok(()),
                Ok(status) => Err(format!("--flush {command:?}: {status}")),
                Err(e) => Err(format!("--flush {command:?}: {e}")),
            };
        }
        let end = Instant::now() + Duration::from_secs(self.ageing) + AGEING_MORE;
        while Instant::now() < end {
            if stop.load(Ordering::Relaxed) {
                return Err("interrupted".into());
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(())
    }
}

/// Tests a switch as RFC 2889 says, and reports.
///
/// # Errors
/// What went wrong.
pub fn run(args: &LearningArgs) -> Result<(), String> {
    if let Some(cpu) = args.cpu {
        cpu::pin(cpu)?;
    }
    let stop = stop_flag()?;
    let tests = [(Test::Capacity, args.max), (Test::Rate, args.addresses)];
    let most = tests.iter().filter(|(test, _)| args.wants(*test)).map(|(_, n)| *n).max().unwrap_or(2);
    let mut switch = args.links.stations(args, most)?;
    let mut results = Results { link: args.links.name(), size: args.size as usize, capacity: None, rate: None };
    let mut first = true;
    let mut trial = |addresses, pace| {
        if !std::mem::take(&mut first) {
            say(&format!("{addresses} addresses: waiting until the switch has forgotten the last ones"));
            args.forget(&stop)?;
        }
        say(&format!("{addresses} addresses: being learned"));
        let learned = switch.teach(addresses, pace, &stop)?;
        say("");
        Ok(learned)
    };
    if args.wants(Test::Capacity) {
        results.capacity = Some(capacity(args.max, args.resolution, |n| trial(n, Pace::Careful))?);
    }
    if args.wants(Test::Rate) {
        let goal = Goal { max_mpps: None, loss: 0.0, resolution: args.resolution };
        results.rate = Some(rate(args.addresses, &goal, |pace| trial(args.addresses, pace))?);
    }
    if args.json {
        println!("{}", serde_json::to_string(&results).map_err(|e| e.to_string())?);
    } else {
        print!("{}", results.text());
    }
    Ok(())
}

impl Results {
    /// For people.
    pub fn text(&self) -> String {
        let mut text = String::new();
        if let Some(capacity) = &self.capacity {
            let known = match capacity.limit {
                Limit::Maximum => format!("at least {}, the most that were tried", capacity.addresses),
                Limit::None => "none of the numbers that were tried".into(),
                _ => capacity.addresses.to_string(),
            };
            text += &format!("Address caching capacity (RFC 2889 section 5.7): {known}\n");
            text += "  addresses      known    reached\n";
            for t in &capacity.trials {
                text += &format!("{:11}{:11}{:11}\n", t.addresses, t.known, t.reached);
            }
        }
        if let Some(rate) = &self.rate {
            let limit = match rate.limit {
                Limit::Generator => ", as fast as frames could be sent: it may be more",
                _ => "",
            };
            text += &format!(
                "Address learning rate (RFC 2889 section 5.8), {} addresses: {:.4} million a second{limit}\n",
                rate.addresses, rate.rate_mpps
            );
            text += "       Mpps  not learned, %\n";
            for t in &rate.trials {
                text += &format!("{:11.4}{:16.4}\n", t.rate_mpps, t.loss);
            }
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A switch that holds so many addresses, and learns so many million a second.
    fn switch(holds: u32, learns: f64) -> impl FnMut(u32, Pace) -> Result<Learned, String> {
        move |addresses, pace| {
            let rate_mpps = match pace {
                Pace::Careful => 0.1,
                Pace::Rate(mpps) => mpps,
                Pace::Full => 20.0,
            };
            let known =
                if rate_mpps <= learns { addresses } else { (f64::from(addresses) * learns / rate_mpps) as u32 };
            Ok(Learned { addresses, rate_mpps, known: known.min(holds), reached: addresses })
        }
    }

    fn caching(holds: u32, max: u32, resolution: f64) -> Capacity {
        let mut switch = switch(holds, f64::MAX);
        capacity(max, resolution, |n| switch(n, Pace::Careful)).unwrap()
    }

    #[test]
    fn a_capacity_is_found() {
        for holds in [1, 2, 3, 8191, 8192, 500_000, 999_999] {
            let found = caching(holds, 1_000_000, 0.0);
            assert_eq!((found.addresses, found.limit), (holds, Limit::Switch), "{found:?}");
        }
        let roughly = caching(8192, 1_000_000, 5.0);
        assert!((7782..=8192).contains(&roughly.addresses), "{roughly:?}");
        assert!(roughly.trials.len() < 16, "{roughly:?}");
    }

    #[test]
    fn a_capacity_beyond_what_is_tried() {
        let found = caching(2_000_000, 1_000_000, 1.0);
        assert_eq!((found.addresses, found.limit, found.trials.len()), (1_000_000, Limit::Maximum, 1));
        let none = caching(0, 1000, 1.0);
        assert_eq!((none.addresses, none.limit), (0, Limit::None));
    }

    #[test]
    fn addresses_that_frames_do_not_get_to_are_not_learned() {
        let lost = |n| Ok(Learned { addresses: n, rate_mpps: 1.0, known: n, reached: n.min(700) });
        assert_eq!(capacity(1000, 0.0, lost).unwrap().addresses, 700);
    }

    #[test]
    fn a_learning_rate_is_found() {
        let goal = Goal { max_mpps: None, loss: 0.0, resolution: 1.0 };
        let found = |learns| {
            let mut switch = switch(u32::MAX, learns);
            rate(1000, &goal, |pace| switch(1000, pace)).unwrap()
        };
        let slow = found(3.0);
        assert!((2.8..=3.0).contains(&slow.rate_mpps) && slow.limit == Limit::Switch, "{slow:?}");
        assert_eq!(slow.trials[0].loss, 85.0);
        let fast = found(1e9);
        assert_eq!((fast.rate_mpps, fast.limit), (20.0, Limit::Generator));
    }
}
