//! The generator: sends prepared frames into one link of a switch, and counts and checks what comes out of the other.
//!
//! While it runs it touches only rings: sending is writing descriptors, receiving is reading their lengths and giving them
//! back. So one core is faster than any switch, which has to copy the frames.

use crate::frames::{Frames, Shape, Tag, Walk};
use crate::sequence::{Found, Sequence};
use serde::Serialize;
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

    /// Hands the switch the frames of `len` bytes at these offsets (of their headers) in the [`Frames`].
    fn fill(tx: &mut Self::Tx, len: u32, offsets: impl Iterator<Item = u32>);

    /// Wakes a switch that sleeps.
    fn wake(tx: &mut Self::Tx);

    /// Takes at most `max` frames and gives their buffers back; how many there were, and their bytes together. The tag that is
    /// `tag_at` bytes into a frame is looked at in every one whose number is a multiple of `every`; the first has number
    /// `count`.
    fn take(
        rx: &mut Self::Rx,
        max: u16,
        count: u64,
        every: u64,
        tag_at: usize,
        look: impl FnMut(u64, Option<Tag>),
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
    /// Bytes of a frame, without FCS.
    pub size: usize,
    /// 802.1Q tag.
    pub vlan: Option<u16>,
    /// Flows of each direction.
    pub flows: u32,
    /// Bytes from one prepared frame to the next, without their headers; at least `size`.
    pub stride: usize,
    /// Frames a second of each direction; 0: as fast as possible.
    pub rate: u64,
    /// Whether B sends too.
    pub bidirectional: bool,
    /// Queue pairs of each link.
    pub queues: u16,
    /// On how many of them frames are sent, at most; 0: on all.
    pub senders: u16,
    /// Descriptors a ring.
    pub ring_size: u32,
    /// Bytes of a receive buffer; at least `size`.
    pub buffer_size: u32,
    /// Frames of a direction that may be under way; 0: as many as the rings hold.
    pub window: u64,
    /// One in this many received frames is looked at; 0: none.
    pub sample: u64,
    /// How long to wait until the links and the way between them are there.
    pub timeout: Duration,
}

impl<E> Options<E> {
    /// One flow of 60-byte frames from link `a` to link `b`, as fast as possible.
    pub fn new(a: E, b: E) -> Options<E> {
        Options {
            ends: [a, b],
            size: 60,
            vlan: None,
            flows: 1,
            stride: 64,
            rate: 0,
            bidirectional: false,
            queues: 1,
            senders: 0,
            ring_size: 1024,
            buffer_size: 2048,
            window: 0,
            sample: 64,
            timeout: Duration::from_secs(10),
        }
    }

    /// Sets the frame's size in bytes without FCS, the distance of frames to the next multiple of 64, and makes buffers
    /// at least as large.
    pub fn size(mut self, size: usize) -> Options<E> {
        self.size = size;
        self.stride = size.next_multiple_of(64);
        self.buffer_size = self.buffer_size.max(size.next_multiple_of(64) as u32);
        self
    }
}

/// What became of one direction's frames.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Direction {
    /// Frames sent.
    pub sent: u64,
    /// Frames received, those that came after the end of sending included.
    pub received: u64,
    /// Frames that never came: sent minus received.
    pub lost: u64,
    /// Frames received that were looked at.
    pub sampled: u64,
    /// Of those: times that a frame came later than its successors, which may be of other flows.
    pub reordered: u64,
    /// Frames that came more than once, seen in the sample or by more frames received than sent.
    pub duplicated: u64,
    /// Of those looked at: not ours.
    pub foreign: u64,
    /// Million frames received a second while sending.
    pub mpps: f64,
    /// Gigabit received a second while sending: frames without FCS, preamble and gap.
    pub gbps: f64,
}

/// What a run gave.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Report {
    /// Kind of the links: "memif" or "vhost-user".
    pub link: &'static str,
    /// Bytes of a frame, without FCS.
    pub size: usize,
    /// Flows of each direction.
    pub flows: u32,
    /// Seconds of sending.
    pub seconds: f64,
    /// Million frames received a second, all directions.
    pub mpps: f64,
    /// Gigabit received a second, all directions.
    pub gbps: f64,
    /// From A to B.
    pub a_to_b: Direction,
    /// From B to A, if B sent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub b_to_a: Option<Direction>,
}

impl Report {
    /// The directions that there were.
    pub fn directions(&self) -> impl Iterator<Item = &Direction> {
        std::iter::once(&self.a_to_b).chain(&self.b_to_a)
    }
}

/// What came out of one receive queue.
#[derive(Default)]
struct Input {
    count: u64,
    bytes: u64,
    foreign: u64,
    /// One check for each queue of the sender.
    checks: Vec<Sequence>,
}

/// One link.
struct Side<L> {
    link: L,
    /// For each transmit queue.
    walks: Vec<Walk>,
    /// For each receive queue.
    inputs: Vec<Input>,
    sends: bool,
    sent: u64,
    received: u64,
    bytes: u64,
}

/// What all turns of a run have in common.
#[derive(Clone, Copy)]
struct Turn {
    size: u32,
    sample: u64,
    tag_at: usize,
}

/// Writes descriptors for at most `budget` frames. How many there were.
#[inline(always)]
fn send<L: Link>(ring: &mut L::Tx, walk: &mut Walk, size: u32, budget: u64) -> u64 {
    let want = budget.min(BATCH.into()) as u16;
    let n = L::free(ring).min(want);
    if n == 0 || (n < BATCH / 2 && n < want) {
        return 0;
    }
    // A copy, because the compiler can't know that writing to the ring does not change the walk.
    let mut w = *walk;
    L::fill(ring, size, (0..n).map(|_| w.step()));
    *walk = w;
    n.into()
}

impl<L: Link> Side<L> {
    /// Writes descriptors for at most `budget` frames.
    #[inline(always)]
    fn send(&mut self, size: u32, mut budget: u64) {
        for (ring, walk) in self.link.tx().iter_mut().zip(&mut self.walks) {
            let n = send::<L>(ring, walk, size, budget);
            self.sent += n;
            budget -= n;
        }
    }

    /// Takes what has come.
    #[inline(always)]
    fn receive(&mut self, turn: Turn, reverse: bool) {
        // Without samples: one that never comes.
        let every = if turn.sample == 0 { u64::MAX / 2 } else { turn.sample };
        for (ring, input) in self.link.rx().iter_mut().zip(&mut self.inputs) {
            let Input { count, bytes, foreign, checks } = input;
            let (n, b) = L::take(ring, 2 * BATCH, *count + 1, every, turn.tag_at, |number, tag| match tag {
                Some(tag) if tag.reverse == reverse && (tag.queue as usize) < checks.len() => {
                    checks[tag.queue as usize].sample(number, tag.sequence);
                }
                _ => *foreign += 1,
            });
            *count += u64::from(n);
            *bytes += b;
            self.received += u64::from(n);
            self.bytes += b;
        }
    }

    /// Begins counting and walking anew.
    fn reset(&mut self, peer_walks: &[Walk]) {
        (self.sent, self.received, self.bytes) = (0, 0, 0);
        let alone = peer_walks.len() == 1;
        for input in &mut self.inputs {
            (input.count, input.bytes, input.foreign) = (0, 0, 0);
            input.checks = peer_walks.iter().map(|w| Sequence::new(w.count().into(), alone)).collect();
        }
        for walk in &mut self.walks {
            walk.restart();
        }
    }
}

/// The token bucket of one direction.
#[derive(Clone, Copy)]
struct Bucket {
    /// Frames a second; 0: without limit.
    rate: u64,
    /// Frames that may be sent at once: what could not be sent in time is made up for as far as this.
    depth: u64,
    origin: Instant,
    /// Frames that were due at `origin`.
    base: u64,
}

impl Bucket {
    /// How many frames may be sent now, if `sent` were until now.
    #[inline(always)]
    fn budget(&mut self, now: Instant, sent: u64) -> u64 {
        if self.rate == 0 {
            return u64::MAX;
        }
        let due = self.base + ((now - self.origin).as_secs_f64() * self.rate as f64) as u64;
        if due > sent + self.depth {
            (self.origin, self.base) = (now, sent + self.depth);
            return self.depth;
        }
        due.saturating_sub(sent)
    }
}

/// Two links, with frames prepared.
pub struct Generator<L: Link> {
    options: Options<L::End>,
    sides: [Side<L>; 2],
    turn: Turn,
}

/// How the last second went, and all until then.
#[derive(Clone, Copy, Debug, Default)]
pub struct Progress {
    /// Seconds of sending so far.
    pub seconds: f64,
    /// Million frames received in the last second, all directions.
    pub mpps: f64,
    /// Frames sent so far.
    pub sent: u64,
    /// Frames received so far.
    pub received: u64,
}

impl<L: Link> Generator<L> {
    /// Prepares the frames of both directions and connects both links.
    ///
    /// # Errors
    /// Why not.
    pub fn connect(options: &Options<L::End>) -> Result<Generator<L>, String> {
        let shape = |reverse| Shape { size: options.size, vlan: options.vlan, reverse };
        // Rings without frames of their own are not sent on.
        let senders = if options.senders == 0 { options.queues } else { options.senders.min(options.queues) };
        let frames = |reverse| {
            // Several queues may come out of one, in which samples lie further apart.
            let least = options.ring_size * if senders > 1 { 8 } else { 1 };
            Frames::build(shape(reverse), options.flows, senders, least, options.stride, L::HEADER)
        };
        let frames = [frames(false)?, frames(true)?];
        let [a, b] = L::connect(options, [&frames[0], &frames[1]])?;
        let [a_frames, b_frames] = frames;
        let side = |mut link: L, frames: Frames, sends| Side {
            inputs: link.rx().iter().map(|_| Input::default()).collect(),
            link,
            walks: frames.walks,
            sends,
            sent: 0,
            received: 0,
            bytes: 0,
        };
        let turn = Turn { size: options.size as u32, sample: options.sample, tag_at: shape(false).tag_at() };
        let sides = [side(a, a_frames, true), side(b, b_frames, options.bidirectional)];
        let mut generator = Generator { options: options.clone(), sides, turn };
        generator.reset();
        Ok(generator)
    }

    fn reset(&mut self) {
        let [a, b] = &mut self.sides;
        a.reset(&b.walks);
        b.reset(&a.walks);
    }

    /// The least a switch could do, in the place of the one that the links lead to.
    ///
    /// # Errors
    /// What it lacks.
    pub fn null_switch(&self) -> Result<L::Null, String> {
        L::null_switch(&self.sides[0].link, &self.sides[1].link)
    }

    fn receive(&mut self) {
        self.sides[0].receive(self.turn, true);
        self.sides[1].receive(self.turn, false);
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
        let received = |g: &Self| g.sides[0].received + g.sides[1].received;
        let sent = self.sides[0].sent + self.sides[1].sent;
        let (mut seen, mut since) = (received(self), Instant::now());
        // A switch that never stops sending is not waited for.
        let end = since + Duration::from_secs(5);
        loop {
            self.receive();
            let now = Instant::now();
            if received(self) != seen {
                (seen, since) = (received(self), now);
            }
            if now - since >= quiet || now >= end || (all && seen >= sent && now - since >= quiet / 10) {
                return;
            }
            std::hint::spin_loop();
        }
    }

    /// Waits until frames get from each link to the other, and sends every frame once, so that a switch knows all MACs.
    ///
    /// # Errors
    /// If nothing gets through within the options' timeout, a link goes down, or `stop` becomes true.
    pub fn learn(&mut self, stop: &AtomicBool) -> Result<(), String> {
        let end = Instant::now() + self.options.timeout;
        let mut through = [false; 2];
        while through != [true; 2] {
            for (i, side) in self.sides.iter_mut().enumerate() {
                // B's frames come out of A.
                if !through[1 - i] {
                    side.send(self.turn.size, 16);
                }
            }
            self.drain(Duration::from_millis(10), false);
            through = [self.sides[0].received != 0, self.sides[1].received != 0];
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
                for ((ring, walk), left) in side.link.tx().iter_mut().zip(&mut side.walks).zip(&mut left) {
                    let n = send::<L>(ring, walk, self.turn.size, *left);
                    side.sent += n;
                    *left -= n;
                }
            }
            self.receive();
            turns += 1;
            if turns.is_multiple_of(1024) {
                self.down()?;
                if stop.load(Ordering::Relaxed) {
                    return Err("interrupted".into());
                }
                let sent = self.sides[0].sent + self.sides[1].sent;
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

    /// Sends for `duration` (or until `stop` becomes true) and receives what comes, then waits for the rest.
    /// `progress` is called once a second.
    ///
    /// # Errors
    /// If a link goes down.
    pub fn run(
        &mut self,
        duration: Duration,
        stop: &AtomicBool,
        mut progress: impl FnMut(Progress),
    ) -> Result<Report, String> {
        let Options { rate, window, ring_size, .. } = self.options;
        let begin = Instant::now();
        let bucket = Bucket { rate, depth: ring_size.into(), origin: begin, base: 0 };
        let mut buckets = [bucket; 2];
        let (mut next_check, mut last) = (begin + Duration::from_millis(100), Progress::default());
        let mut now = begin;
        let seconds = loop {
            for _ in 0..if rate == 0 { TURNS } else { 1 } {
                let came = [self.sides[1].received, self.sides[0].received];
                for ((side, bucket), came) in self.sides.iter_mut().zip(&mut buckets).zip(came) {
                    if side.sends {
                        let room = if window == 0 { u64::MAX } else { (window + came).saturating_sub(side.sent) };
                        side.send(self.turn.size, bucket.budget(now, side.sent).min(room));
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
                let seconds = elapsed.as_secs_f64();
                if seconds - last.seconds >= 1.0 {
                    let received = self.sides[0].received + self.sides[1].received;
                    let mpps = (received - last.received) as f64 / (seconds - last.seconds) / 1e6;
                    last = Progress { seconds, mpps, sent: self.sides[0].sent + self.sides[1].sent, received };
                    progress(last);
                }
            }
        };
        let while_sending = [0, 1].map(|i: usize| (self.sides[i].received, self.sides[i].bytes));
        self.drain(REST, true);
        self.down()?;
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
            }
        };
        let a_to_b = direction(0);
        let b_to_a = self.sides[1].sends.then(|| direction(1));
        let Options { size, flows, .. } = self.options;
        let mut report = Report { link: L::NAME, size, flows, seconds, a_to_b, b_to_a, ..Report::default() };
        report.mpps = report.directions().map(|d| d.mpps).sum();
        report.gbps = report.directions().map(|d| d.gbps).sum();
        Ok(report)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
