//! Front ends that break every rule: each loses its own connection and nothing else happens. No root, no DPDK.
//!
//! All the while a worker moves numbered frames between two honest front ends, and copies them to the hostile ones as flooding does.
//! Every attack is made a thousand times. After that nothing may be lost, and nothing left behind.

mod client;
mod fuzz;
mod messages;
mod rings;

use dray_config::{Access, Role, SocketName, VhostUser};
use dray_switch::{Burst, Drop as Reason, Rx, Tx};
use dray_testing::{Random, memfd};
use dray_vhost::vhost_user::frontend::message::{Connection, Meeting, RegionMessage, RingAddresses, protocol};
use dray_vhost::vhost_user::frontend::{Frontend, Options, feature};
use dray_vhost::vhost_user::{Port, PortSpec};
use dray_vhost::{Event, Link};
use rustix::event::{EventfdFlags, eventfd};
use rustix::fs::ftruncate;
use std::collections::BTreeMap;
use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// One test at a time: file descriptors, threads and memory of the process are counted.
static ONE: Mutex<()> = Mutex::new(());

/// Long enough for anything that happens at once.
const SOON: Duration = Duration::from_secs(10);
/// How often an attack is made.
const REPEATS: u64 = 1000;
/// Ports that are attacked at the same time: rings take 20 ms to be told of.
const PORTS: usize = 50;
/// Honest frames under way.
const WINDOW: u64 = 64;

/// What the threads of a test share.
#[derive(Default)]
struct Shared {
    /// The worker ends.
    end: AtomicBool,
    /// The honest pair sends nothing more.
    quiet: AtomicBool,
    /// Honest frames that came back.
    back: AtomicU64,
    /// Hostile ports whose queues the worker has.
    held: AtomicU64,
    /// How often links of honest ports (once each) and of hostile ones came up.
    honest_ups: AtomicU64,
    ups: AtomicU64,
    /// Frames dropped, by reason: received from hostile ports.
    drops: Mutex<BTreeMap<&'static str, u64>>,
}

/// A hostile peer's port.
struct Victim {
    port: Port,
    socket: SocketName,
}

/// A worker, two honest ports with their front ends, and [`PORTS`] ports for hostile ones.
struct Test {
    victims: Vec<Victim>,
    /// The honest front ends' ports.
    honest: Vec<Port>,
    shared: Arc<Shared>,
    worker: Option<JoinHandle<()>>,
    sender: Option<JoinHandle<(u64, [Frontend; 2])>>,
    events: Sender<(usize, Event)>,
    before: Option<Usage>,
    faults: BTreeMap<&'static str, u64>,
    dir: tempfile::TempDir,
    _one: MutexGuard<'static, ()>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Waits for it.
fn until(what: &str, mut done: impl FnMut() -> bool) {
    let end = Instant::now() + SOON;
    while !done() {
        assert!(Instant::now() < end, "{what}");
        std::thread::sleep(Duration::from_micros(500));
    }
}

fn open(dir: &Path, number: usize, role: Role, events: &Sender<(usize, Event)>) -> (Port, SocketName) {
    let socket = SocketName::Path(dir.join(format!("{number}")));
    let vhost_user = VhostUser { socket: socket.clone(), access: Access::default(), role, queues: 2 };
    let events = events.clone();
    let spec = PortSpec { name: format!("p{number}"), vhost_user, max_frame: 1518 };
    let port = Port::open(spec, move |event| drop(events.send((number, event)))).unwrap();
    port.hurry();
    (port, socket)
}

impl Test {
    fn new() -> Test {
        let one = lock_one();
        // Small as long as there is little that it is a copy of.
        dray_vhost::quarantine::start().unwrap();
        let dir = tempfile::tempdir().unwrap();
        let (events, receiver) = channel();
        let shared = Arc::new(Shared::default());
        let (mut honest, mut frontends) = (Vec::new(), Vec::new());
        for number in 0..2 {
            let (port, socket) = open(dir.path(), number, Role::Server, &events);
            let options = Options { role: Role::Client, packed: number == 1, timeout: SOON, ..Options::default() };
            frontends.push(Frontend::connect(&socket, &options).unwrap());
            honest.push(port);
        }
        let victims = (2..2 + PORTS).map(|number| {
            let (port, socket) = open(dir.path(), number, Role::Server, &events);
            Victim { port, socket }
        });
        let victims = victims.collect();
        let worker = {
            let shared = shared.clone();
            std::thread::Builder::new().name("worker".into()).spawn(move || work(&receiver, &shared)).unwrap()
        };
        until("the honest links come up", || shared.honest_ups.load(Ordering::Relaxed) == 2);
        let sender = {
            let shared = shared.clone();
            let [a, b] = <[Frontend; 2]>::try_from(frontends).ok().unwrap();
            std::thread::Builder::new().name("honest".into()).spawn(move || talk(a, b, &shared)).unwrap()
        };
        // Until every buffer of theirs was used: memory touched later would look like some that an attack left behind.
        let buffers = u64::from(Options::default().ring_size);
        until("the honest pair's frames flow", || shared.back.load(Ordering::Relaxed) > buffers);
        Test {
            victims,
            honest,
            shared,
            worker: Some(worker),
            sender: Some(sender),
            events,
            before: None,
            faults: BTreeMap::new(),
            dir,
            _one: one,
        }
    }

    fn victim(&self, i: u64) -> &Victim {
        &self.victims[i as usize % self.victims.len()]
    }

    /// Resets of all hostile ports, by reason.
    fn all_faults(&self) -> BTreeMap<&'static str, u64> {
        let mut all = BTreeMap::new();
        for victim in &self.victims {
            for (name, n) in victim.port.status().faults {
                *all.entry(name).or_default() += n;
            }
        }
        all
    }

    /// Frames of hostile ports that were dropped for `reason`.
    fn dropped(&self, reason: Reason) -> u64 {
        lock(&self.shared.drops).get(reason.name()).copied().unwrap_or(0)
    }

    /// No hostile port has a peer, and the worker has let go of its queues.
    fn wait_gone(&self) {
        until("hostile ports are left", || {
            let gone = |victim: &Victim| !victim.port.status().connected;
            self.victims.iter().all(gone) && self.shared.held.load(Ordering::Relaxed) == 0
        });
        // What was said last may still be on its way to the worker.
        std::thread::sleep(Duration::from_millis(20));
        until("hostile ports' queues are dropped", || self.shared.held.load(Ordering::Relaxed) == 0);
    }

    /// Takes stock; what comes after must leave nothing behind.
    fn begin(&mut self) {
        self.wait_gone();
        // Ports look ten times a second whether what peers left is closed.
        std::thread::sleep(Duration::from_millis(300));
        (self.before, self.faults) = (Some(Usage::now()), self.all_faults());
    }

    /// As many resets as these happened since [`Test::begin`]; nothing is left behind, and nothing honest was lost.
    fn finish(self, faults: &[(&'static str, u64)]) {
        self.wait_gone();
        assert_eq!(self.new_faults().into_iter().collect::<Vec<_>>(), faults);
        self.finish_clean();
    }

    /// [`Test::finish`] with [`REPEATS`] resets for one of two reasons, and some for each.
    fn finish_either(self, one: &str, other: &str) {
        let faults = self.new_faults();
        let [one, other] = [one, other].map(|name| faults.get(name).copied().unwrap_or(0));
        assert!(faults.len() == 2 && one != 0 && other != 0 && one + other == REPEATS, "{faults:?}");
        self.finish_clean();
    }

    /// Resets since [`Test::begin`].
    fn new_faults(&self) -> BTreeMap<&'static str, u64> {
        let mut now = self.all_faults();
        for (name, n) in &self.faults {
            *now.get_mut(name).unwrap() -= n;
        }
        now.retain(|_, n| *n != 0);
        now
    }

    /// [`Test::finish`] where faults were counted otherwise.
    fn finish_clean(mut self) {
        self.wait_gone();
        let before = self.before.take().expect("begun");
        let (end, mut now) = (Instant::now() + SOON, Usage::now());
        while !now.fits(&before) {
            assert!(Instant::now() < end, "something is left behind: {now:?} after {before:?}");
            std::thread::sleep(Duration::from_millis(5));
            now = Usage::now();
        }
        for port in &self.honest {
            let status = port.status();
            assert!(status.connected && status.faults.is_empty(), "{status:?}");
        }
        self.shared.quiet.store(true, Ordering::Relaxed);
        // Its front ends are closed after the worker has ended, to which a link that goes down is a failure.
        let (sent, _frontends) = self.sender.take().unwrap().join().expect("the honest pair loses nothing");
        assert!(sent > 1000, "{sent}");
        assert_eq!(sent, self.shared.back.load(Ordering::Relaxed));
        self.shared.end.store(true, Ordering::Relaxed);
        self.worker.take().unwrap().join().expect("the worker lives");
    }
}

fn lock_one() -> MutexGuard<'static, ()> {
    lock(&ONE)
}

impl Drop for Test {
    fn drop(&mut self) {
        self.shared.quiet.store(true, Ordering::Relaxed);
        // What it returns is closed after the worker has ended.
        let _sender = self.sender.take().map(JoinHandle::join);
        self.shared.end.store(true, Ordering::Relaxed);
        let _ = self.worker.take().map(JoinHandle::join);
    }
}

/// What the process uses.
#[derive(Debug)]
struct Usage {
    fds: usize,
    threads: usize,
    mappings: usize,
    /// Resident memory, KiB.
    resident: u64,
}

impl Usage {
    fn now() -> Usage {
        // Descriptors of the process's own come with the first region.
        dray_vhost::mem::guard::sees_holes();
        let entries = |dir: &str| std::fs::read_dir(dir).unwrap().count();
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        Usage {
            fds: entries("/proc/self/fd"),
            threads: entries("/proc/self/task"),
            mappings: std::fs::read_to_string("/proc/self/maps").unwrap().lines().count(),
            resident: resident.trim().strip_suffix(" kB").unwrap().parse().unwrap(),
        }
    }

    /// Whether nothing was left behind since `before`. The allocator may have taken a little more, and neighbouring mappings are joined
    /// or not; a leak of one page a repeat would be 4,000 KiB.
    fn fits(&self, before: &Usage) -> bool {
        self.fds == before.fds
            && self.threads == before.threads
            && self.mappings <= before.mappings + 16
            && self.resident <= before.resident + 3500
    }
}

/// What a worker has of a port.
#[derive(Default)]
struct Queues {
    rx: Vec<Box<dyn Rx>>,
    tx: Vec<Box<dyn Tx>>,
}

/// A worker: from port 0 to port 1 and to all hostile ones, from port 1 to port 0, from hostile ones to themselves.
fn work(events: &Receiver<(usize, Event)>, shared: &Shared) {
    let mut ports: BTreeMap<usize, Queues> = BTreeMap::new();
    let mut burst = Burst::default();
    while !shared.end.load(Ordering::Relaxed) {
        for (number, event) in events.try_iter() {
            match event {
                Event::Up { link: Link { rx, tx, .. }, .. } => {
                    ports.insert(number, Queues { rx, tx: tx.handles(1) });
                    let ups = if number < 2 { &shared.honest_ups } else { &shared.ups };
                    ups.fetch_add(1, Ordering::Relaxed);
                }
                Event::Down { reason, .. } => {
                    let had = ports.remove(&number).is_some();
                    assert!(number >= 2 || !had, "an honest link went down: {reason}");
                }
                Event::Refused(_) => {}
            }
        }
        shared.held.store(ports.keys().filter(|number| **number >= 2).count() as u64, Ordering::Relaxed);
        let mut idle = true;
        for number in ports.keys().copied().collect::<Vec<_>>() {
            let mut rx = std::mem::take(&mut ports.get_mut(&number).unwrap().rx);
            for queue in &mut rx {
                burst.clear();
                queue.receive(&mut burst);
                let all: Vec<u16> = (0..burst.len() as u16).collect();
                idle &= all.is_empty();
                let mut drops = std::mem::take(&mut burst.drops);
                assert!(number >= 2 || drops.total() == 0, "{drops:?}");
                drops.take(|reason, n| *lock(&shared.drops).entry(reason.name()).or_default() += u64::from(n));
                for &i in &all {
                    assert!((1..=65_557).contains(&burst.frame(i).len()));
                }
                for (to, queues) in ports.iter_mut().filter(|_| !all.is_empty()) {
                    let wanted = match number {
                        0 => *to != 0,
                        1 => *to == 0,
                        number => *to == number,
                    };
                    if wanted && let Some(tx) = queues.tx.first_mut() {
                        let sent = tx.send(&mut burst, &all);
                        let drops = std::mem::take(&mut burst.tx_drops);
                        assert_eq!(sent.packets + drops.total(), all.len() as u32);
                        assert!(*to >= 2 || drops.total() == 0, "an honest frame was lost: {drops:?}");
                    }
                }
                queue.release(&mut burst);
            }
            ports.get_mut(&number).unwrap().rx = rx;
        }
        if idle {
            std::thread::yield_now();
        }
    }
}

/// An honest frame.
fn frame(number: u64) -> Vec<u8> {
    let mut bytes = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 0x88, 0xb5];
    bytes.extend(number.to_le_bytes());
    bytes.resize(60 + (number * 37 % 1440) as usize, number as u8);
    bytes
}

/// Sends numbered frames from `a` to `b` and back, and misses none. How many.
fn talk(mut a: Frontend, mut b: Frontend, shared: &Shared) -> (u64, [Frontend; 2]) {
    let (mut sent, mut there, mut back) = (0, 0, 0);
    let mut to = [0; 2048];
    let mut end = Instant::now() + SOON;
    loop {
        let quiet = shared.quiet.load(Ordering::Relaxed);
        if quiet && back == sent {
            return (sent, [a, b]);
        }
        let before = (sent, there, back);
        while !quiet && sent - back < WINDOW && a.tx[0].send(&frame(sent)) {
            sent += 1;
        }
        while let Some((_, n)) = b.rx[0].recv(&mut to) {
            assert_eq!(&to[..n], frame(there), "frame {there} on its way there");
            assert!(b.tx[0].send(&to[..n]));
            there += 1;
        }
        while let Some((_, n)) = a.rx[0].recv(&mut to) {
            assert_eq!(&to[..n], frame(back), "frame {back} on its way back");
            back += 1;
        }
        assert_eq!((a.down(), b.down()), (None, None));
        shared.back.store(back, Ordering::Relaxed);
        if before == (sent, there, back) {
            assert!(Instant::now() < end, "frames are lost: {before:?}");
            std::thread::sleep(Duration::from_micros(50));
        } else {
            end = Instant::now() + SOON;
        }
    }
}

fn event_fd() -> OwnedFd {
    eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).unwrap()
}

/// Waits until the back end has closed the connection.
fn closed(connection: &Connection) {
    closed_for(connection, 0);
}

/// The same, of the attack of this number.
fn closed_for(connection: &Connection, number: u64) {
    loop {
        match connection.recv() {
            Ok(_) => {}
            Err(e) => {
                assert!(!e.contains("does not answer"), "{number}: the connection stays");
                return;
            }
        }
    }
}

/// All protocol features that are offered.
const PROTOCOL: u64 = protocol::MQ
    | protocol::LOG_SHMFD
    | protocol::REPLY_ACK
    | protocol::MTU
    | protocol::CONFIGURE_MEM_SLOTS
    | protocol::STATUS;

impl Victim {
    /// A connection on which nothing was said.
    fn connection(&self) -> Connection {
        Meeting::new(&self.socket, Role::Client).unwrap().connection(SOON).unwrap()
    }

    /// One on which features were negotiated.
    fn negotiated(&self, features: u64, protocol_features: u64) -> Connection {
        negotiate(self.connection(), features, protocol_features)
    }
}

fn negotiate(mut connection: Connection, features: u64, protocol_features: u64) -> Connection {
    connection.features().unwrap();
    connection.set_protocol_features(protocol_features).unwrap();
    connection.set_features(feature::VERSION_1 | feature::PROTOCOL_FEATURES | features).unwrap();
    connection
}

/// Guest-physical and the front end's own address of the memory's beginning, and its bytes.
const GPA: u64 = 0x10_0000;
const UVA: u64 = 0x7f00_0000_0000;
const BYTES: u64 = 0x4_0000;
/// Descriptors of a ring.
const SIZE: u16 = 16;
/// Where tables and buffers are, of each ring.
const TABLE: u64 = 0x4000;
const DATA: u64 = 0x8000;
const BUFFER: u64 = 2048;
/// Flags of descriptors.
const NEXT: u16 = 1;
const WRITE: u16 = 2;
const INDIRECT: u16 = 4;

/// Whose a packed ring's descriptor is.
const LAP: u16 = 1 << 15 | 1 << 7;

/// A hostile front end: memory with a ring of each direction, written byte by byte. Ring 0 it receives on, ring 1 it sends on.
struct Hostile {
    connection: Connection,
    memory: File,
    packed: bool,
    call: OwnedFd,
}

impl Hostile {
    /// Connects, and describes memory and rings but for what starts them.
    fn new(victim: &Victim, packed: bool, features: u64) -> Hostile {
        Self::on(victim.connection(), packed, features)
    }

    /// The same on a connection on which nothing was said.
    fn on(connection: Connection, packed: bool, features: u64) -> Hostile {
        let features = features | if packed { feature::RING_PACKED } else { 0 };
        let connection = negotiate(connection, features, PROTOCOL & !protocol::REPLY_ACK);
        let hostile = Hostile { connection, memory: memfd(BYTES).into(), packed, call: event_fd() };
        hostile.set_memory();
        for ring in 0..2 {
            let c = &hostile.connection;
            c.set_vring_num(ring, SIZE.into()).unwrap();
            c.set_vring_base(ring, if packed { 0x8000_8000 } else { 0 }).unwrap();
            c.set_vring_addr(ring, &addresses(ring, false)).unwrap();
            c.set_vring_call(ring, Some(hostile.call.as_fd())).unwrap();
        }
        hostile
    }

    /// Starts the rings.
    fn start(&self) {
        for ring in 0..2 {
            // It may have been found out already. What is sent on a ring that is started and not enabled is dropped unread.
            let _ = self.connection.set_vring_enable(ring, true);
            let _ = self.connection.set_vring_kick(ring, Some(event_fd().as_fd()));
        }
    }

    fn region() -> RegionMessage {
        RegionMessage { gpa: GPA, size: BYTES, uva: UVA, offset: 0 }
    }

    fn set_memory(&self) {
        let _ = self.connection.set_mem_table(&[(Self::region(), self.memory.as_fd())]);
    }

    fn write(&self, at: u64, bytes: &[u8]) {
        self.memory.write_all_at(bytes, at).unwrap();
    }

    fn read_word(&self, at: u64) -> u16 {
        let mut bytes = [0; 2];
        self.memory.read_exact_at(&mut bytes, at).unwrap();
        u16::from_le_bytes(bytes)
    }

    /// The guest-physical address of the buffer of a descriptor.
    fn buffer(ring: u32, i: u16) -> u64 {
        GPA + DATA + (u64::from(ring) * u64::from(SIZE) + u64::from(i)) * BUFFER
    }

    /// Writes descriptor `i` of the table or ring at `at`; in a packed ring it is available in the first lap, and with both bits
    /// of [`LAP`] turned in the second.
    fn desc(&self, at: u64, i: u16, addr: u64, len: u32, flags: u16, next: u16) {
        let (third, fourth) = if self.packed { (i, flags ^ 1 << 7) } else { (flags, next) };
        let bytes = [&addr.to_le_bytes()[..], &len.to_le_bytes(), &third.to_le_bytes(), &fourth.to_le_bytes()].concat();
        self.write(at + 16 * u64::from(i), &bytes);
    }

    /// Writes a descriptor of ring `ring`.
    fn ring_desc(&self, ring: u32, i: u16, addr: u64, len: u32, flags: u16, next: u16) {
        self.desc(desc_at(ring), i, addr, len, flags, next);
    }

    /// A good one, with a frame of 60 bytes or room for one of 1518.
    fn good(&self, ring: u32, i: u16) {
        let (len, flags) = if ring == 0 { (BUFFER as u32, WRITE) } else { (72, 0) };
        self.ring_desc(ring, i, Self::buffer(ring, i), len, flags, 0);
    }

    /// Makes the split ring's entries 0.. `n` available, each the chain of that number.
    fn offer(&self, ring: u32, n: u16) {
        if !self.packed {
            let at = desc_at(ring) + AVAIL;
            let entries: Vec<u8> = (0..SIZE).flat_map(u16::to_le_bytes).collect();
            self.write(at + 4, &entries);
            self.write(at + 2, &n.to_le_bytes());
        }
    }

    /// Good descriptors all over ring `ring`.
    fn all_good(&self, ring: u32) {
        (0..SIZE).for_each(|i| self.good(ring, i));
        self.offer(ring, SIZE);
    }
}

/// Offsets of a ring, and in a ring.
const AVAIL: u64 = 0x400;
const USED: u64 = 0x800;

fn desc_at(ring: u32) -> u64 {
    u64::from(ring) * 0x1000
}

fn addresses(ring: u32, log: bool) -> RingAddresses {
    let at = UVA + desc_at(ring);
    RingAddresses { flags: log.into(), desc: at, avail: at + AVAIL, used: at + USED, log: GPA + desc_at(ring) + USED }
}

impl Test {
    /// Says what is wrong, a thousand times; each time the connection is closed. `attack` is given the number of the time, for
    /// variants.
    fn refused(&mut self, attack: impl Fn(&Victim, u64) -> Connection) {
        (0..PORTS as u64).for_each(|i| closed_for(&attack(self.victim(i), i), i));
        self.begin();
        (0..REPEATS).for_each(|i| closed_for(&attack(self.victim(i), i), i));
    }

    /// [`Test::refused`] for a fault that is the same every time.
    fn message(mut self, fault: &'static str, attack: impl Fn(&Connection, u64)) {
        self.refused(|victim, i| {
            let connection = victim.negotiated(0, if i % 2 == 0 { PROTOCOL } else { PROTOCOL & !protocol::REPLY_ACK });
            attack(&connection, i);
            connection
        });
        self.finish(&[(fault, REPEATS)]);
    }

    /// Starts rings of both layouts that are wrong as `attack` writes them, a thousand times; each time the connection is closed. `attack`
    /// is given the number of the time, for variants.
    fn ring(mut self, fault: &'static str, features: u64, attack: impl Fn(&Hostile, u64)) {
        for round in 0..=REPEATS / PORTS as u64 {
            let first = round * PORTS as u64;
            let hostile = self.start_all(features, |hostile, i| attack(hostile, first + i));
            (first..).zip(&hostile).for_each(|(i, h)| closed_for(&h.connection, i));
            drop(hostile);
            if round == 0 {
                self.begin();
            }
        }
        self.finish(&[(fault, REPEATS)]);
    }

    /// A hostile front end at each port, of alternating layout, with rings as `prepare` writes them.
    fn start_all(&self, features: u64, prepare: impl Fn(&Hostile, u64)) -> Vec<Hostile> {
        let one = |(i, victim): (u64, &Victim)| {
            let hostile = Hostile::new(victim, i % 2 == 1, features);
            prepare(&hostile, i);
            hostile.start();
            hostile
        };
        (0..).zip(&self.victims).map(one).collect()
    }
}
