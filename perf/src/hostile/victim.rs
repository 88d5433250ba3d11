//! The honest ports: two memif peers and a virtual machine, which send each other numbered frames with their times.
//!
//! A turn of a tenth of a millisecond sends what is due and takes what has come. Between turns the thread sleeps, for there may be only
//! one CPU for all that attack and measure. What was under way when a turn was late is not counted as the switch's time.

use super::memif::{Offer, RawLink};
use super::place::{A, B, HONEST_VM, Place, RING, SLEEPER, Urgency, WITNESS};
use crate::latency::{Clock, Recorder};
use dray_config::{Role, SocketName};
use dray_switch::mem::ticks;
use dray_vhost::mem::Region;
use dray_vhost::memif::{Client, ClientOptions};
use dray_vhost::vhost_user::frontend::{self, Frontend, Meeting};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Frames a second of each of three flows.
const RATE: f64 = 20_000.0;
/// Between two turns.
const TURN: Duration = Duration::from_micros(100);
/// A turn that begins later than this after the last is this process's own fault.
const LATE: Duration = Duration::from_micros(500);
/// The most frames of a flow that a turn sends: what a late turn leaves out was never offered.
const MOST: f64 = 32.0;
/// Between two frames to the sleeper, and two stations that appear.
const RARELY: Duration = Duration::from_millis(20);
/// How long nothing has to come until what is missing is lost.
const REST: Duration = Duration::from_millis(300);
/// How long it may take until all that can be sent is.
const PATIENCE: Duration = Duration::from_secs(10);
/// Bytes of every frame.
const FRAME: usize = 60;
/// Bytes of those that are sent as often as can be: so many that a full ring lasts for longer than this thread sleeps.
const LONG: usize = 1514;
/// Stands in every frame of ours.
const MARK: [u8; 6] = *b"honest";
/// Region 1 of the first link has the frame that is sent as often as can be.
const REGION: u16 = 1;

/// What the victim does.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Mode {
    /// Frames at their rate.
    Paced = 0,
    /// As many frames from the first to the second link as the worker takes.
    Saturated = 1,
    /// Takes what is still under way, and returns.
    End = 2,
}

/// What the victim is told, and how far it is.
#[derive(Default)]
pub(super) struct Told {
    /// A [`Mode`].
    mode: AtomicU8,
    /// Microseconds for which it has sent all that it can, and frames of these that have come.
    saturated: (AtomicU64, AtomicU64),
}

impl Told {
    pub fn set(&self, mode: Mode) {
        self.mode.store(mode as u8, Ordering::Relaxed);
    }

    /// Has the victim send all that it can for so long: million frames a second that come, and what `look` saw at the beginning and at the
    /// end.
    pub fn saturate<T>(&self, duration: Duration, look: impl Fn() -> T) -> (f64, [T; 2]) {
        let now = || (self.saturated.0.load(Ordering::Relaxed), self.saturated.1.load(Ordering::Relaxed));
        let before = now();
        let patience = Instant::now() + PATIENCE + duration;
        let wait = |time: u64| {
            while now().0 < time && Instant::now() < patience {
                std::thread::sleep(Duration::from_millis(1));
            }
        };
        self.set(Mode::Saturated);
        // What is under way is taken first.
        wait(before.0 + 1);
        let first = look();
        wait(before.0 + duration.as_micros() as u64);
        let last = look();
        self.set(Mode::Paced);
        let after = now();
        ((after.1 - before.1) as f64 / (after.0 - before.0).max(1) as f64, [first, last])
    }
}

/// What a frame is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Of flow 0, 1 or 2.
    Flow(u8),
    /// From a station that appears, behind the first link.
    Appears,
    /// To one that has.
    Answer,
    /// To the sleeper.
    Wake,
}

impl Kind {
    fn byte(self) -> u8 {
        match self {
            Kind::Flow(flow) => flow,
            Kind::Appears => 3,
            Kind::Answer => 4,
            Kind::Wake => 5,
        }
    }
}

/// The stations: those of the links are 0 to 2, the sleeper is 3.
fn station(number: u16) -> [u8; 6] {
    let [high, low] = number.to_be_bytes();
    [2, 0xd0, 0, 0, high, low]
}

fn frame(to: u16, from: u16, kind: Kind, sequence: u64) -> [u8; FRAME] {
    let mut bytes = [0; FRAME];
    bytes[..6].copy_from_slice(&station(to));
    bytes[6..12].copy_from_slice(&station(from));
    bytes[12..14].copy_from_slice(&[0x88, 0xb5]);
    bytes[14..20].copy_from_slice(&MARK);
    bytes[20] = kind.byte();
    bytes[24..32].copy_from_slice(&sequence.to_le_bytes());
    bytes[32..40].copy_from_slice(&ticks().to_le_bytes());
    bytes
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(std::array::from_fn(|i| bytes[at + i]))
}

/// What the victim saw.
#[derive(Clone, Debug, Default)]
pub(super) struct Seen {
    pub offered: u64,
    pub lost: u64,
    pub again: u64,
    pub flooded: u64,
    pub p99_us: f64,
    pub longest_us: f64,
    /// Share of the frames whose time is not known.
    pub unmeasured: f64,
}

/// The honest links.
pub(super) struct Victim {
    a: Client,
    b: Client,
    witness: Client,
    v: Frontend,
    offered: [u64; 3],
    received: [u64; 3],
    /// Of each flow: the number that is expected next.
    next: [u64; 3],
    again: u64,
    flooded: u64,
    unmeasured: u64,
    /// Times of this turn, in ticks.
    turn: Vec<u64>,
    times: Recorder,
    clock: Clock,
    /// Frames due and not sent, of each flow.
    due: f64,
    /// The last station that appeared, and whether it is still to be answered.
    newcomer: (u16, bool),
    wakes: u64,
    _frames: Region,
}

impl Victim {
    /// Connects the links, and lets the switch learn where they are.
    ///
    /// # Errors
    /// Why not.
    pub fn connect(place: &Place) -> Result<Victim, String> {
        let (mut frames, file) = Region::create("honest", 4096)?;
        let mut long = frame(1, 0, Kind::Appears, 0).to_vec();
        long.resize(LONG, 0);
        frames.write(0, &long);
        let frames_file = Arc::new(file);
        let options = ClientOptions { ring_size: RING, name: "honest".into(), ..ClientOptions::default() };
        let socket = place.memif_name();
        let a = Client::connect(&socket, A, &ClientOptions { frames: Some(frames_file), ..options.clone() })?;
        let b = Client::connect(&socket, B, &options)?;
        let witness = Client::connect(&socket, WITNESS, &options)?;
        let socket = SocketName::Path(place.directory().join(HONEST_VM));
        let vm = frontend::Options { role: Role::Client, ..frontend::Options::default() };
        let v = Frontend::meet(Meeting::new(&socket, Role::Client)?, &vm)?;
        let mut victim = Victim {
            a,
            b,
            witness,
            v,
            offered: [0; 3],
            received: [0; 3],
            next: [0; 3],
            again: 0,
            flooded: 0,
            unmeasured: 0,
            turn: Vec::with_capacity(1024),
            times: Recorder::new(),
            clock: Clock::start(),
            due: 0.0,
            newcomer: (16, false),
            wakes: 0,
            _frames: frames,
        };
        let end = Instant::now() + Duration::from_secs(10);
        while victim.received.contains(&0) {
            if Instant::now() > end {
                return Err(format!("honest frames don't come through: {:?}", victim.received));
            }
            victim.send(1);
            std::thread::sleep(Duration::from_millis(2));
            victim.receive();
        }
        victim.rest(REST);
        victim.offered = [0; 3];
        victim.received = [0; 3];
        victim.next = [0; 3];
        (victim.again, victim.flooded) = (0, 0);
        victim.turn.clear();
        Ok(victim)
    }

    /// Sends so many frames of each flow.
    fn send(&mut self, count: u64) {
        for _ in 0..count {
            let [first, second, third] = self.offered;
            // One that finds no room was offered all the same.
            self.a.tx[0].send(&frame(1, 0, Kind::Flow(0), first));
            self.b.tx[0].send(&frame(2, 1, Kind::Flow(1), second));
            self.v.tx[0].send(&frame(0, 2, Kind::Flow(2), third));
            self.offered = [first + 1, second + 1, third + 1];
        }
    }

    /// Takes what has come at all links.
    fn receive(&mut self) {
        let mut bytes = [0; 2048];
        while let Some(length) = self.a.rx[0].recv(&mut bytes) {
            self.came(0, &bytes[..length.min(2048)]);
        }
        while let Some(length) = self.b.rx[0].recv(&mut bytes) {
            self.came(1, &bytes[..length.min(2048)]);
        }
        while let Some((_, length)) = self.v.rx[0].recv(&mut bytes) {
            self.came(2, &bytes[..length.min(2048)]);
        }
        while let Some(length) = self.witness.rx[0].recv(&mut bytes) {
            self.came(3, &bytes[..length.min(2048)]);
        }
    }

    /// A frame came at link `at`.
    fn came(&mut self, at: u8, bytes: &[u8]) {
        if bytes.len() != FRAME || bytes[14..20] != MARK {
            return;
        }
        let (kind, sequence) = (bytes[20], u64_at(bytes, 24));
        let to = [1, 2, 0];
        match kind {
            0..=2 if to[kind as usize] == at => {
                let flow = kind as usize;
                self.received[flow] += 1;
                self.again += u64::from(sequence < self.next[flow]);
                self.next[flow] = sequence + 1;
                self.turn.push(ticks().wrapping_sub(u64_at(bytes, 32)));
            }
            4 if at == 0 => {}
            0..=2 | 4 => self.flooded += 1,
            _ => {}
        }
    }

    /// Takes what comes until nothing has for `quiet`.
    fn rest(&mut self, quiet: Duration) {
        let end = Instant::now() + Duration::from_secs(3);
        let mut since = Instant::now();
        while since.elapsed() < quiet && Instant::now() < end {
            let before = self.received;
            self.receive();
            if self.received != before {
                since = Instant::now();
            }
            std::thread::sleep(TURN);
        }
    }

    /// A turn, `passed` after the one before.
    fn turn(&mut self, passed: Duration) {
        self.due = (self.due + passed.as_secs_f64() * RATE).min(MOST);
        let count = self.due as u64;
        self.due -= count as f64;
        self.receive();
        self.send(count);
        if passed > LATE {
            self.unmeasured += self.turn.len() as u64;
            self.turn.clear();
        }
        for took in self.turn.drain(..) {
            self.times.add(took);
        }
    }

    /// What happens rarely: a station appears behind the first link and is answered a while later; the sleeper is woken.
    fn rarely(&mut self) {
        let (number, asked) = self.newcomer;
        if asked {
            self.b.tx[0].send(&frame(number, 1, Kind::Answer, 0));
            self.newcomer = (number + 1, false);
        } else {
            self.a.tx[0].send(&frame(1, number, Kind::Appears, 0));
            self.newcomer = (number, true);
        }
        self.b.tx[0].send(&frame(3, 1, Kind::Wake, self.wakes));
        self.wakes += 1;
    }

    /// Sends as many as the worker takes, for a turn. Frames that came.
    fn saturate(&mut self) -> u64 {
        let free = self.a.tx[0].free();
        self.a.tx[0].fill(REGION, (0..free).map(|_| (0, LONG as u32)));
        let (count, _) = self.b.rx[0].take(u16::MAX, 1, u64::MAX / 2, |_, _| {});
        count.into()
    }

    /// Goes on until it is told [`Mode::End`]. What it saw, and the links, which are to be kept until the switch has ended.
    ///
    /// # Errors
    /// If an honest link went down.
    pub fn run(mut self, place: &Place, told: &Told) -> Result<(Seen, Victim), String> {
        place.take_place(Urgency::First);
        let mut last = Instant::now();
        let (mut rarely, mut before) = (last + RARELY, Mode::Paced as u8);
        loop {
            let now = Instant::now();
            let passed = now - last;
            last = now;
            let mode = told.mode.load(Ordering::Relaxed);
            if mode != before {
                self.rest(REST);
                while self.b.rx[0].take(u16::MAX, 1, u64::MAX / 2, |_, _| {}).0 != 0 {}
                (before, last) = (mode, Instant::now());
                continue;
            }
            if mode == Mode::End as u8 {
                break;
            }
            if mode == Mode::Saturated as u8 {
                told.saturated.1.fetch_add(self.saturate(), Ordering::Relaxed);
                told.saturated.0.fetch_add(passed.as_micros() as u64, Ordering::Relaxed);
                std::thread::sleep(Duration::from_micros(20));
                continue;
            }
            self.turn(passed);
            if now > rarely {
                rarely = now + RARELY;
                self.rarely();
            }
            std::thread::sleep(TURN.saturating_sub(now.elapsed()));
        }
        for (name, down) in [("a", self.a.down()), ("b", self.b.down()), ("v", self.v.down())] {
            if let Some(reason) = down {
                return Err(format!("honest port {name} is down: {reason}"));
            }
        }
        let latency = self.times.latency(self.clock.tick()).unwrap_or_default();
        let sum = |counts: [u64; 3]| counts.iter().sum::<u64>();
        let seen = Seen {
            offered: sum(self.offered),
            lost: sum(self.offered).saturating_sub(sum(self.received)),
            again: self.again,
            flooded: self.flooded,
            p99_us: latency.p99 / 1e3,
            longest_us: latency.max / 1e3,
            unmeasured: self.unmeasured as f64 / sum(self.received).max(1) as f64,
        };
        Ok((seen, self))
    }
}

/// An honest memif peer that sleeps until it is woken.
pub(super) struct Sleeper(RawLink);

impl Sleeper {
    /// Connects, and lets the switch learn where it is.
    ///
    /// # Errors
    /// Why not.
    pub fn connect(place: &Place) -> Result<Sleeper, String> {
        let link = RawLink::open(&place.memif(), Offer::of(SLEEPER))?;
        let at = link.write(255, &frame(1, 3, Kind::Appears, 0));
        link.describe(0, 0, 0, FRAME as u32, at);
        link.set_head(0, 1);
        Ok(Sleeper(link))
    }

    /// Sleeps and wakes as long as the attack goes on. Nanoseconds of the slowest waking are left in `slowest`.
    pub fn run(mut self, place: &Place, slowest: &AtomicU64) {
        use std::os::fd::AsFd;
        place.take_place(Urgency::First);
        let clock = Clock::start();
        let mut bytes = [0; FRAME];
        while place.goes_on() {
            if !super::memif::readable(self.0.event.as_fd(), Duration::from_millis(50)) {
                continue;
            }
            let now = ticks();
            let _ = rustix::io::read(&self.0.event, &mut [0; 8]);
            while self.0.take(&mut bytes) {
                if bytes[14..20] == MARK && bytes[20] == Kind::Wake.byte() {
                    let took = now.saturating_sub(u64_at(&bytes, 32)) as f64 * clock.tick();
                    slowest.fetch_max(took as u64, Ordering::Relaxed);
                }
            }
        }
    }
}
