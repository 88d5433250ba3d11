//! The generator: sends prepared frames into one link of a switch, and counts and checks what comes out of the other.
//!
//! While it runs it touches only rings: sending is writing descriptors, receiving is reading their lengths and giving them
//! back. So one core is faster than any switch, which has to copy the frames. Real receivers are not: if it is asked to, it reads
//! what it receives, too, whose bytes then have to come from the switch's CPU.

mod bucket;
mod report;
mod side;

pub use report::{Direction, Report};

use crate::frames::{Frames, Layout, Read, Shape, Sizes, Tag, VLAN_TAG};
use crate::latency::{Clock, Latency, Recorder};
use crate::sequence::Found;
use crate::vtep::{self, Tunnel};
use bucket::Bucket;
use side::*;
use std::fmt::Debug;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Descriptors written or read at a time. Half of a turn's batch has to be free before any is written: else each of the peer's
/// bursts would be answered with a write to the index that it polls.
const BATCH: u16 = 128;
/// Turns between two looks at the clock, if there is no rate to keep.
const TURNS: u32 = 64;
/// How long nothing has to come until what is missing is lost: a switch whose CPU others use too may pause for a while.
const REST: Duration = Duration::from_millis(500);
/// Up to so many frames a second each of them can be looked at, and have a time.
const LEISURE: u64 = 1_000_000;
/// Above that, one in so many frames has a time: a power of two, and what is looked at is an odd one in so many, so that
/// they meet also after losses.
const TIMED: u32 = 8;
/// Between two signs of life of the VTEP. Switches ask again after 30 seconds or more.
const ANNOUNCE: Duration = Duration::from_secs(5);
/// Between two requests for the switch's address.
const ASK: Duration = Duration::from_millis(100);

/// Which links send.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Way {
    /// The first link, to the second.
    #[default]
    AToB,
    /// The second link, to the first.
    BToA,
    /// Both.
    Both,
}

impl Way {
    /// Whether link A and link B send.
    fn senders(self) -> [bool; 2] {
        [self != Way::BToA, self != Way::AToB]
    }
}

/// A kind of link to a switch: memif or vhost-user.
pub trait Link: Sized {
    /// What a link is connected to.
    type End: Clone + Debug;
    /// A ring to the switch.
    type Tx;
    /// A ring from the switch.
    type Rx;
    /// The least that a switch could do.
    type Null: Send;
    /// What it is called.
    const NAME: &str;
    /// Bytes of zeros that a frame has before it.
    const HEADER: usize;
    /// Whether [`Link::take`] counts only frames that have a tag, and lets the others be looked at all.
    const FILTERS: bool = false;

    /// Connects the links A and B, which get the frames that they will send.
    ///
    /// # Errors
    /// Why not.
    fn connect(options: &Options<Self::End>, frames: [&Frames; 2]) -> Result<[Self; 2], String>;

    /// All rings to the switch.
    fn tx(&mut self) -> &mut [Self::Tx];

    /// All rings from the switch.
    fn rx(&mut self) -> &mut [Self::Rx];

    /// Why the link is down, if it is.
    fn down(&self) -> Option<String>;

    /// How many descriptors are free.
    fn free(tx: &mut Self::Tx) -> u16;

    /// Hands the switch frames, given as the offset (of its header) in the [`Frames`] and the length without header of each.
    fn fill(tx: &mut Self::Tx, frames: impl Iterator<Item = (u32, u32)>);

    /// Writes into the [`Frames`], from an offset on.
    fn write(&mut self, at: usize, bytes: &[u8]);

    /// Wakes a switch that sleeps.
    fn wake(tx: &mut Self::Tx);

    /// Takes at most `max` frames and gives their buffers back; how many there were, and their bytes together. Before that,
    /// `look` is called for every one whose number is a multiple of `every`; the first has number `count`. Frames of ours have
    /// a [`Tag`] at `tag_at` bytes.
    fn take(
        rx: &mut Self::Rx,
        max: u16,
        count: u64,
        every: u64,
        tag_at: usize,
        look: impl FnMut(u64, Read<'_>),
    ) -> (u16, u64);

    /// The least a switch could do, between these links.
    ///
    /// # Errors
    /// What it lacks.
    fn null_switch(a: &Self, b: &Self) -> Result<Self::Null, String>;

    /// Lets it pass on a burst in each direction. How many frames there were.
    fn step(null: &mut Self::Null) -> usize;
}

/// What to send, and where.
#[derive(Clone, Debug)]
pub struct Options<E> {
    /// What the links A and B are connected to.
    pub ends: [E; 2],
    /// Bytes of a frame, without FCS and outer headers.
    pub sizes: Sizes,
    /// 802.1Q tag. With a tunnel, frames of link A have it.
    pub vlan: Option<u16>,
    /// The tunnel that link B's frames are in.
    pub tunnel: Option<Tunnel>,
    /// Flows of each direction.
    pub flows: u32,
    /// Bytes from one prepared frame to the next, without their headers; at least the largest size. In a tunnel it is more.
    pub stride: usize,
    /// Frames a second of each direction; 0: as fast as possible.
    pub rate: u64,
    /// Which links send.
    pub way: Way,
    /// Whether to take the time that frames are under way.
    pub latency: bool,
    /// Queue pairs of each link.
    pub queues: u16,
    /// On how many of them frames are sent, at most; 0: on all.
    pub senders: u16,
    /// Descriptors a ring.
    pub ring_size: u32,
    /// Bytes of a receive buffer; at least the largest size. Where frames are in a tunnel it may be more.
    pub buffer_size: u32,
    /// Frames of a direction that may be under way; 0: as many as the rings hold.
    pub window: u64,
    /// One in this many received frames is looked at; 0: none.
    pub sample: u64,
    /// Whether all bytes of every received frame are read, as a host's network stack does.
    pub read: bool,
    /// How long to wait until the links and the way between them are there.
    pub timeout: Duration,
}

impl<E> Options<E> {
    /// One flow of 60-byte frames from link `a` to link `b`, as fast as possible.
    pub fn new(a: E, b: E) -> Options<E> {
        Options {
            ends: [a, b],
            sizes: Sizes::from(60),
            vlan: None,
            tunnel: None,
            flows: 1,
            stride: 64,
            rate: 0,
            way: Way::AToB,
            latency: false,
            queues: 1,
            senders: 0,
            ring_size: 1024,
            buffer_size: 2048,
            window: 0,
            sample: 64,
            read: false,
            timeout: Duration::from_secs(10),
        }
    }

    /// Sets the frames' size, or sizes, in bytes without FCS, the distance of frames to the next multiple of 64, and makes
    /// buffers at least as large.
    pub fn size(mut self, sizes: impl Into<Sizes>) -> Options<E> {
        self.sizes = sizes.into();
        self.stride = self.sizes.max().next_multiple_of(64);
        self.buffer_size = self.buffer_size.max(self.stride as u32);
        self
    }

    /// The mean of the frames' lengths in bytes without FCS, with the outer headers if there is a tunnel.
    pub fn mean_length(&self) -> f64 {
        self.sizes.mean() + if self.tunnel.is_some() { vtep::OUTER as f64 } else { 0.0 }
    }
}

/// Two links, with frames prepared.
pub struct Generator<L: Link> {
    options: Options<L::End>,
    sides: [Side<L>; 2],
    clock: Clock,
    /// One received frame in so many is looked at.
    every: u64,
}

/// How the last second went, and all until then.
#[derive(Clone, Copy, Debug, Default)]
pub struct Progress {
    /// Seconds of sending so far.
    pub seconds: f64,
    /// Million frames received in the last second, all directions.
    pub mpps: f64,
    /// Gigabit received in the last second, all directions: frames without FCS, preamble and gap.
    pub gbps: f64,
    /// Frames sent so far.
    pub sent: u64,
    /// Frames received so far: those that are missing are lost or under way.
    pub received: u64,
    /// Times so far, of the direction that has the larger 99th percentile.
    pub latency: Option<Latency>,
}

impl<L: Link> Generator<L> {
    /// Prepares the frames of both directions and connects both links.
    ///
    /// # Errors
    /// Why not.
    pub fn connect(options: &Options<L::End>) -> Result<Generator<L>, String> {
        // A tag is only between the switch and link A if there is a tunnel.
        let tunnel = options.tunnel;
        let shapes = [
            Shape { vlan: options.vlan, reverse: false, tunnel: None },
            Shape { vlan: options.vlan.filter(|_| tunnel.is_none()), reverse: true, tunnel },
        ];
        // Then link B's inner frames are shorter by the tag, and longer by the outer headers, when they are on the link.
        let less = if options.vlan.is_some() && tunnel.is_some() { VLAN_TAG } else { 0 };
        let inner: Vec<usize> = options.sizes.list().iter().map(|size| size - less).collect();
        let sizes = [options.sizes.list(), &inner];
        let outer = shapes[1].outer();
        let mut options = options.clone();
        options.buffer_size = options.buffer_size.max((options.sizes.max() + outer).next_multiple_of(64) as u32);
        // Rings without frames of their own are not sent on.
        let senders = if options.senders == 0 { options.queues } else { options.senders.min(options.queues) };
        let timed = match options.latency {
            false => 0,
            true if (1..=LEISURE).contains(&options.rate) => 1,
            true => TIMED,
        };
        let frames = |i: usize| {
            let layout = Layout {
                sizes: sizes[i],
                flows: options.flows,
                queues: senders,
                // Several queues may come out of one, in which samples lie further apart.
                least: options.ring_size * if senders > 1 { 8 } else { 1 },
                stride: options.stride.max((options.sizes.max() + shapes[i].outer()).next_multiple_of(64)),
                header: L::HEADER,
                timed,
            };
            Frames::build(shapes[i], layout)
        };
        let frames = [frames(0)?, frames(1)?];
        let links = L::connect(&options, [&frames[0], &frames[1]])?;
        let side = |i: usize, mut link: L, frames: &Frames| -> Result<Side<L>, String> {
            Ok(Side {
                inputs: link.rx().iter().map(|_| Input::default()).collect(),
                link,
                walks: frames.walks.clone(),
                lengths: sizes[i].iter().map(|size| (size + shapes[i].outer()) as u32).collect(),
                stamps: (timed != 0).then(|| Stamps { at: L::HEADER + shapes[i].tag_at() + Tag::TIME, every: timed }),
                // What is encapsulated comes as what is sent there to be decapsulated looks.
                tag_at: shapes[i].tag_at(),
                vtep: shapes[i].tunnel.map(|tunnel| Vtep {
                    tunnel,
                    switch: None,
                    reply: None,
                    scratch: frames.scratch,
                }),
                times: options.latency.then(Recorder::new),
                copy: options.read.then(|| vec![0; options.buffer_size as usize].into()),
                sends: options.way.senders()[i],
                batches: 0,
                held_up: 0,
                sent: 0,
                received: 0,
                bytes: 0,
            })
        };
        let [a, b] = links;
        let sides = [side(0, a, &frames[0])?, side(1, b, &frames[1])?];
        let mut generator = Generator { options, sides, clock: Clock::start(), every: 1 };
        generator.reset();
        Ok(generator)
    }

    /// How many frames a second each direction is to send from now on; 0: as many as possible.
    pub fn set_rate(&mut self, frames_per_second: u64) {
        self.options.rate = frames_per_second;
        self.reset();
    }

    fn reset(&mut self) {
        let [a, b] = &mut self.sides;
        a.reset(&b.walks);
        b.reset(&a.walks);
        let Options { rate, sample, latency, .. } = self.options;
        self.every = match (latency, sample) {
            (true, _) if (1..=LEISURE).contains(&rate) => 1,
            (true, 0) => 65,
            (true, sample) => sample | 1,
            // One that never comes.
            (false, 0) => u64::MAX / 2,
            (false, sample) => sample,
        };
    }

    /// The least a switch could do, in the place of the one that the links lead to.
    ///
    /// # Errors
    /// What it lacks.
    pub fn null_switch(&self) -> Result<L::Null, String> {
        L::null_switch(&self.sides[0].link, &self.sides[1].link)
    }

    fn receive(&mut self) {
        self.sides[0].receive(self.every, true);
        self.sides[1].receive(self.every, false);
    }

    /// Frames sent and received, and bytes received, of both directions.
    fn sums(&self) -> (u64, u64, u64) {
        let [a, b] = &self.sides;
        (a.sent + b.sent, a.received + b.received, a.bytes + b.bytes)
    }

    /// Why a link is down, if one is.
    fn down(&self) -> Result<(), String> {
        for (side, name) in self.sides.iter().zip(["A", "B"]) {
            if let Some(reason) = side.link.down() {
                return Err(format!("link {name} is down: {reason}"));
            }
        }
        Ok(())
    }

    /// Receives until nothing has come for `quiet`; if `all`, for a tenth of it when nothing is missing.
    fn drain(&mut self, quiet: Duration, all: bool) {
        for ring in self.sides.iter_mut().flat_map(|s| s.link.tx()) {
            L::wake(ring);
        }
        let (sent, mut seen, _) = self.sums();
        let mut since = Instant::now();
        // A switch that never stops sending is not waited for.
        let end = since + Duration::from_secs(5);
        loop {
            self.receive();
            self.sides[1].answer();
            let now = Instant::now();
            let (_, received, _) = self.sums();
            if received != seen {
                (seen, since) = (received, now);
            }
            if now - since >= quiet || now >= end || (all && seen >= sent && now - since >= quiet / 10) {
                return;
            }
            std::hint::spin_loop();
        }
    }

    /// Learns the switch's MAC address on the underlay, and tells it ours.
    fn resolve(&mut self, stop: &AtomicBool) -> Result<(), String> {
        let Some(tunnel) = self.options.tunnel else { return Ok(()) };
        let end = Instant::now() + self.options.timeout;
        loop {
            if let Some(switch) = self.sides[1].vtep.as_ref().and_then(|vtep| vtep.switch) {
                self.sides[1].address(switch);
                return Ok(());
            }
            self.sides[1].send_scratch(&tunnel.request());
            self.drain(ASK, false);
            self.down()?;
            if stop.load(Ordering::Relaxed) {
                return Err("interrupted".into());
            }
            if Instant::now() > end {
                return Err(format!("the switch's VTEP {} does not answer ARP on link B", tunnel.switch));
            }
        }
    }

    /// Waits until frames get from each link to the other, and sends every frame once, so that a switch knows all MACs.
    ///
    /// # Errors
    /// If nothing gets through within the options' timeout, a link goes down, or `stop` becomes true.
    pub fn learn(&mut self, stop: &AtomicBool) -> Result<(), String> {
        self.reset();
        if self.options.tunnel.is_some() {
            // What the switch asks for is not to be missed.
            self.every = 1;
        }
        self.resolve(stop)?;
        let end = Instant::now() + self.options.timeout;
        let mut through = [false; 2];
        let from = [self.sides[0].received, self.sides[1].received];
        while through != [true; 2] {
            for (i, side) in self.sides.iter_mut().enumerate() {
                // B's frames come out of A.
                if !through[1 - i] {
                    side.send(16);
                }
            }
            self.drain(Duration::from_millis(10), false);
            through = [0, 1].map(|i: usize| self.sides[i].received != from[i]);
            self.down()?;
            if stop.load(Ordering::Relaxed) {
                return Err("interrupted".into());
            }
            if Instant::now() > end {
                let what = match through {
                    [false, false] => "between the links, in either direction",
                    [false, true] => "from link B to link A",
                    _ => "from link A to link B",
                };
                return Err(format!("no frame gets through {what}"));
            }
        }
        self.drain(REST, true);
        self.reset();
        let mut left: Vec<u64> = self.sides.iter().flat_map(|s| &s.walks).map(|w| w.count().into()).collect();
        let (mut turns, mut moved, mut since) = (0u32, 0, Instant::now());
        while left.iter().any(|&n| n != 0) {
            let mut left = left.iter_mut();
            for side in &mut self.sides {
                for (queue, left) in (0..side.walks.len()).zip(&mut left) {
                    *left -= side.send_on(queue, *left);
                }
            }
            self.receive();
            turns += 1;
            if turns.is_multiple_of(1024) {
                self.down()?;
                if stop.load(Ordering::Relaxed) {
                    return Err("interrupted".into());
                }
                self.sides[1].answer();
                let (sent, ..) = self.sums();
                if sent != moved {
                    (moved, since) = (sent, Instant::now());
                } else if since.elapsed() > self.options.timeout {
                    return Err("the switch takes no more frames".into());
                }
            }
        }
        self.drain(REST, true);
        self.reset();
        Ok(())
    }

    /// Sends for `duration` (or until `stop` becomes true) and receives what comes, then waits for the rest. Counts from zero.
    /// `progress` is called once a second; what it takes is neither sent later nor part of a frame's time.
    ///
    /// # Errors
    /// If a link goes down.
    pub fn run(
        &mut self,
        duration: Duration,
        stop: &AtomicBool,
        mut progress: impl FnMut(Progress),
    ) -> Result<Report, String> {
        self.reset();
        let Options { rate, window, ring_size, .. } = self.options;
        let begin = Instant::now();
        let bucket = Bucket { rate, depth: ring_size.into(), origin: begin, base: 0 };
        let mut buckets = [bucket; 2];
        let (mut next_check, mut last, mut last_bytes) = (begin + Duration::from_millis(100), Progress::default(), 0);
        let mut next_announcement = begin + ANNOUNCE;
        let mut now = begin;
        let seconds = loop {
            for _ in 0..if rate == 0 { TURNS } else { 1 } {
                let came = [self.sides[1].received, self.sides[0].received];
                for ((side, bucket), came) in self.sides.iter_mut().zip(&mut buckets).zip(came) {
                    if side.sends {
                        let room = if window == 0 { u64::MAX } else { (window + came).saturating_sub(side.sent) };
                        side.send(bucket.budget(now, side.sent).min(room));
                    }
                }
                self.receive();
            }
            now = Instant::now();
            let elapsed = now - begin;
            if elapsed >= duration || stop.load(Ordering::Relaxed) {
                break elapsed.as_secs_f64();
            }
            if now >= next_check {
                next_check = now + Duration::from_millis(100);
                self.down()?;
                self.sides[1].answer();
                if let Some(tunnel) = self.options.tunnel.filter(|_| now >= next_announcement) {
                    next_announcement = now + ANNOUNCE;
                    self.sides[1].send_scratch(&tunnel.announcement());
                }
                let seconds = elapsed.as_secs_f64();
                if seconds - last.seconds >= 1.0 {
                    let (sent, received, bytes) = self.sums();
                    let per_second = |n: u64| n as f64 / (seconds - last.seconds);
                    let mpps = per_second(received - last.received) / 1e6;
                    let gbps = per_second(bytes - last_bytes) * 8.0 / 1e9;
                    last_bytes = bytes;
                    last = Progress { seconds, mpps, gbps, sent, received, latency: self.latency_so_far() };
                    progress(last);
                    now = Instant::now();
                    for (side, bucket) in self.sides.iter_mut().zip(&mut buckets) {
                        bucket.skip(now, side.sent);
                        side.times.iter_mut().for_each(Recorder::skip);
                    }
                }
            }
        };
        let while_sending = [0, 1].map(|i: usize| (self.sides[i].received, self.sides[i].bytes));
        self.drain(REST, true);
        self.down()?;
        let tick = self.clock.tick();
        let direction = |from: usize| {
            let (tx, rx) = (&self.sides[from], &self.sides[1 - from]);
            let (received, bytes) = while_sending[1 - from];
            let mut found = Found::default();
            for check in rx.inputs.iter().flat_map(|i| &i.checks) {
                let f = check.found();
                found.sampled += f.sampled;
                found.reordered += f.reordered;
                found.duplicated += f.duplicated;
            }
            let foreign = rx.inputs.iter().map(|i| i.foreign).sum();
            Direction {
                sent: tx.sent,
                received: rx.received,
                lost: tx.sent.saturating_sub(rx.received),
                sampled: found.sampled + foreign,
                reordered: found.reordered,
                duplicated: found.duplicated.max(rx.received.saturating_sub(tx.sent)),
                foreign,
                mpps: received as f64 / seconds / 1e6,
                gbps: bytes as f64 * 8.0 / seconds / 1e9,
                held_up: 100.0 * tx.held_up as f64 / (tx.held_up + tx.batches).max(1) as f64,
                latency: rx.times.as_ref().and_then(|times| times.latency(tick)),
            }
        };
        let sizes = &self.options.sizes;
        let mut report = Report {
            link: L::NAME,
            size: sizes.mean().round() as usize,
            mix: if sizes.list().len() > 1 { sizes.list().to_vec() } else { Vec::new() },
            vlan: self.options.vlan,
            vni: self.options.tunnel.map(|tunnel| tunnel.vni),
            flows: self.options.flows,
            read: self.options.read,
            rate,
            seconds,
            a_to_b: self.sides[0].sends.then(|| direction(0)),
            b_to_a: self.sides[1].sends.then(|| direction(1)),
            ..Report::default()
        };
        report.sum();
        Ok(report)
    }

    /// The times of the direction that has the larger 99th percentile.
    fn latency_so_far(&self) -> Option<Latency> {
        let tick = self.clock.tick();
        let latencies = self.sides.iter().filter_map(|side| side.times.as_ref()?.latency(tick));
        latencies.max_by(|a, b| a.p99.total_cmp(&b.p99))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_are_added_up() {
        let run = |seconds, received, mpps, held_up| Report {
            seconds,
            a_to_b: Some(Direction {
                sent: 100,
                received,
                lost: 100 - received,
                mpps,
                held_up,
                ..Direction::default()
            }),
            mpps,
            ..Report::default()
        };
        let both = run(0.1, 98, 40.0, 80.0).and(run(0.3, 99, 20.0, 60.0));
        let d = both.a_to_b.unwrap();
        assert_eq!((d.sent, d.received, d.lost, d.held_up), (200, 197, 3, 65.0));
        assert_eq!((both.seconds, both.mpps, d.mpps, both.b_to_a), (0.4, 25.0, 25.0, None));
    }

    #[test]
    fn a_rate_is_kept() {
        let origin = Instant::now();
        let at = |ms| origin + Duration::from_millis(ms);
        let mut bucket = Bucket { rate: 10_000, depth: 256, origin, base: 0 };
        assert_eq!(bucket.budget(at(0), 0), 0);
        assert_eq!(bucket.budget(at(10), 0), 100);
        assert_eq!(bucket.budget(at(10), 100), 0);
        assert_eq!(bucket.budget(at(20), 130), 70);
        // A second without a frame is made up for by no more than the bucket holds.
        assert_eq!(bucket.budget(at(1020), 200), 256);
        assert_eq!(bucket.budget(at(1020), 456), 0);
        assert_eq!(bucket.budget(at(1030), 456), 100);
        assert_eq!(Bucket { rate: 0, ..bucket }.budget(at(2000), 0), u64::MAX);
    }
}
