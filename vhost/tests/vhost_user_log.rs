//! The log of written pages, by which a virtual machine is migrated: a page that changed and isn't marked is a page that is wrong where the
//! machine goes on. Memory is compared before and after, page by page. No root, no DPDK.

use dray_config::{Access, Role, SocketName, VhostUser};
use dray_switch::Burst;
use dray_testing::memfd;
use dray_vhost::vhost_user::frontend::feature;
use dray_vhost::vhost_user::frontend::message::{Connection, Meeting, RegionMessage, RingAddresses, protocol};
use dray_vhost::vhost_user::{Port, PortSpec};
use dray_vhost::{Event, Link};
use rustix::event::{EventfdFlags, eventfd};
use std::fs::File;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

const SOON: Duration = Duration::from_secs(10);
const PAGE: u64 = 4096;
/// Two regions, apart from each other in the guest and the other way round in the front end. Rings are in the first, buffers in both.
const BYTES: u64 = 4 << 20;
const REGIONS: [RegionMessage; 2] = [
    RegionMessage { gpa: 0x10_0000, size: BYTES, uva: 0x7f00_8000_0000, offset: 0 },
    RegionMessage { gpa: 0x4000_0000, size: BYTES, uva: 0x7f00_0000_0000, offset: 0x1000 },
];
/// Where the log begins in its file.
const LOG_OFFSET: u64 = 0x2000;
/// Descriptors of a ring: it is of several pages, and so are its parts.
const SIZE: u16 = 1024;
/// A ring's parts, each on pages of its own.
const AVAIL: u64 = 0x8000;
const USED: u64 = 0xa000;
const RING: u64 = 0x10000;
const TABLES: u64 = 0x4_0000;
const BUFFERS: u64 = 0x8_0000;

const NEXT: u16 = 1;
const WRITE: u16 = 2;
const INDIRECT: u16 = 4;

/// How guest buffers are made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Buffers {
    /// One descriptor each, large enough for any frame.
    Whole,
    /// Small ones, of which a frame takes several (VIRTIO_NET_F_MRG_RXBUF).
    Merged,
    /// Chains of three descriptors.
    Chained,
    /// Indirect tables of three descriptors.
    Tables,
}

struct Guest {
    connection: Connection,
    memory: [File; 2],
    log: File,
    packed: bool,
    _port: Port,
    events: Receiver<Event>,
    _dir: tempfile::TempDir,
}

fn addresses(ring: u32, log: bool) -> RingAddresses {
    let at = REGIONS[0].uva + u64::from(ring) * RING;
    RingAddresses {
        flags: log.into(),
        desc: at,
        avail: at + AVAIL,
        used: at + USED,
        log: if log { REGIONS[0].gpa + u64::from(ring) * RING + USED } else { 0 },
    }
}

impl Guest {
    /// A device that is described but for the rings' start.
    fn new(packed: bool, features: u64) -> Guest {
        let dir = tempfile::tempdir().unwrap();
        let socket = SocketName::Path(dir.path().join("s"));
        let (sender, events) = channel();
        let vhost_user = VhostUser { socket: socket.clone(), access: Access::default(), role: Role::Server, queues: 1 };
        let spec = PortSpec { name: "vm".into(), vhost_user, max_frame: 9018 };
        let port = Port::open(spec, move |event| drop(sender.send(event))).unwrap();
        let mut connection = Meeting::new(&socket, Role::Client).unwrap().connection(SOON).unwrap();
        connection.features().unwrap();
        connection.set_protocol_features(protocol::LOG_SHMFD | protocol::REPLY_ACK).unwrap();
        let features = features | feature::VERSION_1 | feature::PROTOCOL_FEATURES;
        let features = features | if packed { feature::RING_PACKED } else { 0 };
        connection.set_features(features).unwrap();
        let memory = REGIONS.map(|r| File::from(memfd(r.offset + r.size)));
        let table: Vec<_> = REGIONS.iter().zip(&memory).map(|(r, file)| (*r, file.as_fd())).collect();
        connection.set_mem_table(&table).unwrap();
        let end = REGIONS[1].gpa + REGIONS[1].size;
        let log_bytes = end / PAGE / 8;
        let log = File::from(memfd(LOG_OFFSET + log_bytes));
        connection.set_log_base(log_bytes, LOG_OFFSET, log.as_fd()).unwrap();
        Guest { connection, memory, log, packed, _port: port, events, _dir: dir }
    }

    fn start(&self, log: bool) {
        let c = &self.connection;
        for ring in 0..2 {
            c.set_vring_num(ring, SIZE.into()).unwrap();
            c.set_vring_base(ring, if self.packed { 0x8000_8000 } else { 0 }).unwrap();
            c.set_vring_addr(ring, &addresses(ring, log)).unwrap();
            let event = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).unwrap();
            c.set_vring_kick(ring, Some(event.as_fd())).unwrap();
            c.set_vring_call(ring, Some(event.as_fd())).unwrap();
            c.set_vring_enable(ring, true).unwrap();
        }
    }

    fn up(&self) -> Link {
        loop {
            if let Event::Up { link, .. } = self.events.recv_timeout(SOON).unwrap() {
                return link;
            }
        }
    }

    /// Writes to guest-physical memory.
    fn write(&self, gpa: u64, bytes: &[u8]) {
        let i = usize::from(gpa >= REGIONS[1].gpa);
        self.memory[i].write_all_at(bytes, gpa - REGIONS[i].gpa + REGIONS[i].offset).unwrap();
    }

    /// Descriptor `i` of the table at `at`; in the packed ring's first lap, and available.
    fn desc(&self, at: u64, i: u16, (addr, len, flags): (u64, u32, u16), id: u16) {
        let (third, fourth) = if self.packed { (id, flags | 1 << 7) } else { (flags, i + 1) };
        let bytes = [&addr.to_le_bytes()[..], &len.to_le_bytes(), &third.to_le_bytes(), &fourth.to_le_bytes()].concat();
        self.write(at + 16 * u64::from(i), &bytes);
    }

    /// Fills a ring with `n` chains, in buffers of both regions that begin in the middle of pages and go over their ends.
    fn fill(&self, ring: u32, n: u16, how: Buffers) {
        let desc = REGIONS[0].gpa + u64::from(ring) * RING;
        let right = if ring == 0 { WRITE } else { 0 };
        let buffer = |i: u16, len: u64| {
            let base = BUFFERS + u64::from(ring) * (BYTES - BUFFERS) / 2;
            REGIONS[usize::from(i % 2)].gpa + base + u64::from(i / 2) * (len + 500) % ((BYTES - BUFFERS) / 2 - len)
        };
        let pieces = |i: u16, len: u64| [0, 1, 2].map(|k| (buffer(i, 3 * len) + k * len, len as u32, right));
        let len = if ring == 0 { 3000 } else { 400 };
        let mut heads = Vec::new();
        for i in 0..n {
            match how {
                Buffers::Whole | Buffers::Merged => {
                    let len = if how == Buffers::Merged { 700 } else { 3 * len };
                    self.desc(desc, i, (buffer(i, len), len as u32, right), i);
                    heads.push(i);
                }
                Buffers::Chained => {
                    for (k, (addr, len, flags)) in (0..).zip(pieces(i, len)) {
                        self.desc(desc, 3 * i + k, (addr, len, flags | if k < 2 { NEXT } else { 0 }), i);
                    }
                    heads.push(3 * i);
                }
                Buffers::Tables => {
                    let table = REGIONS[1].gpa + TABLES + u64::from(ring) * (BUFFERS - TABLES) / 2 + u64::from(i) * 48;
                    for (k, (addr, len, flags)) in (0..).zip(pieces(i, len)) {
                        let more = if k < 2 && !self.packed { NEXT } else { 0 };
                        self.desc(table, k, (addr, len, flags | more), i);
                    }
                    self.desc(desc, i, (table, 48, INDIRECT), i);
                    heads.push(i);
                }
            }
        }
        if !self.packed {
            let entries: Vec<u8> = heads.iter().flat_map(|head| head.to_le_bytes()).collect();
            self.write(desc + AVAIL + 4, &entries);
            self.write(desc + AVAIL + 2, &n.to_le_bytes());
        }
    }

    fn snapshot(&self) -> [Vec<u8>; 2] {
        [0, 1].map(|i| {
            let mut bytes = vec![0; BYTES as usize];
            self.memory[i].read_exact_at(&mut bytes, REGIONS[i].offset).unwrap();
            bytes
        })
    }

    /// The pages that are marked, by guest-physical address.
    fn marked(&self) -> Vec<u64> {
        let mut bytes = vec![0; ((REGIONS[1].gpa + BYTES) / PAGE / 8) as usize];
        self.log.read_exact_at(&mut bytes, LOG_OFFSET).unwrap();
        let bits = (0..)
            .zip(bytes)
            .flat_map(|(i, byte)| (0..8).filter(move |bit| byte >> bit & 1 != 0).map(move |b| i * 8 + b));
        bits.map(|page: u64| page * PAGE).collect()
    }

    fn clear_log(&self) {
        self.log.write_all_at(&vec![0; ((REGIONS[1].gpa + BYTES) / PAGE / 8) as usize], LOG_OFFSET).unwrap();
    }
}

/// The pages, by guest-physical address, that differ.
fn changed(before: &[Vec<u8>; 2], after: &[Vec<u8>; 2]) -> Vec<u64> {
    let mut pages = Vec::new();
    for (i, region) in REGIONS.iter().enumerate() {
        let both = before[i].chunks(PAGE as usize).zip(after[i].chunks(PAGE as usize));
        pages.extend((0..).zip(both).filter(|(_, (a, b))| a != b).map(|(n, _): (u64, _)| region.gpa + n * PAGE));
    }
    pages
}

/// Takes all that the guest sends, sends it `n` frames of different lengths, and gives everything back.
fn traffic(link: &mut Link, tx: &mut dyn dray_switch::Tx, n: u64) -> u32 {
    let (mut burst, mut sent, mut number) = (Burst::default(), 0, 0);
    while number < n {
        burst.clear();
        for _ in 0..(n - number).min(32) {
            number += 1;
            burst.push_owned(vec![number as u8 | 1; 60 + (number * 97 % 1400) as usize]);
        }
        let all: Vec<u16> = (0..burst.len() as u16).collect();
        sent += tx.send(&mut burst, &all).packets;
    }
    loop {
        burst.clear();
        link.rx[0].receive(&mut burst);
        let some = !burst.is_empty();
        link.rx[0].release(&mut burst);
        if !some {
            return sent;
        }
    }
}

/// Every page that changes is marked, and none outside of what the device may write.
fn check(packed: bool, how: Buffers, event_idx: bool) {
    let what = format!("packed: {packed}, {how:?}, event indices: {event_idx}");
    let merged = if how == Buffers::Merged { feature::NET_MRG_RXBUF } else { 0 };
    let events = if event_idx { feature::EVENT_IDX } else { 0 };
    let guest = Guest::new(packed, merged | events | feature::LOG_ALL | feature::INDIRECT_DESC);
    let chains = if how == Buffers::Chained { SIZE / 3 } else { SIZE };
    (0..2).for_each(|ring| guest.fill(ring, chains, how));
    let before = guest.snapshot();
    // What is written at the start, as flags and event structures are, is marked as well.
    guest.start(true);
    let mut link = guest.up();
    let started = guest.snapshot();
    let marked = guest.marked();
    let first = changed(&before, &started);
    assert!(!first.is_empty(), "{what}");
    assert!(first.iter().all(|page| marked.contains(page)), "{what}: {first:x?} of {marked:x?}");
    let mut tx = std::mem::take(&mut link.tx).handles(1);
    let (mut before, mut pages) = (started, 0);
    // In several steps, as a migration looks again and again.
    for step in 0..4 {
        guest.clear_log();
        let sent = traffic(&mut link, &mut *tx[0], 70);
        assert!(sent > 50, "{what}: {sent}");
        let (after, marked) = (guest.snapshot(), guest.marked());
        let changed = changed(&before, &after);
        assert!(changed.len() > 20, "{what}: {changed:x?}");
        let missed: Vec<_> = changed.iter().filter(|page| !marked.contains(page)).collect();
        assert!(missed.is_empty(), "{what}, step {step}: {missed:x?} changed and are not marked");
        // Not all of memory: that would be right, and useless.
        assert!(marked.len() < changed.len() * 2 + 8, "{what}: {} of {}", marked.len(), changed.len());
        pages += changed.len();
        before = after;
    }
    assert!(pages > 100, "{what}: {pages}");
}

#[test]
fn every_page_that_is_written_is_marked() {
    for packed in [false, true] {
        for how in [Buffers::Whole, Buffers::Merged, Buffers::Chained, Buffers::Tables] {
            for event_idx in [false, true] {
                check(packed, how, event_idx);
            }
        }
    }
}

/// A migration begins under traffic: from the moment that the last message is acknowledged everything is marked, and nothing before.
#[test]
fn a_log_that_is_turned_on_covers_all_from_then_on() {
    for packed in [false, true] {
        let guest = Guest::new(packed, 0);
        (0..2).for_each(|ring| guest.fill(ring, SIZE, Buffers::Whole));
        guest.start(false);
        let mut link = guest.up();
        let mut tx = std::mem::take(&mut link.tx).handles(1);
        traffic(&mut link, &mut *tx[0], 100);
        assert!(guest.marked().is_empty(), "nobody asked for it");
        let features = feature::VERSION_1 | feature::PROTOCOL_FEATURES | feature::LOG_ALL;
        guest.connection.set_features(features | if packed { feature::RING_PACKED } else { 0 }).unwrap();
        (0..2).for_each(|ring| guest.connection.set_vring_addr(ring, &addresses(ring, true)).unwrap());
        let before = guest.snapshot();
        guest.clear_log();
        traffic(&mut link, &mut *tx[0], 300);
        let (changed, marked) = (changed(&before, &guest.snapshot()), guest.marked());
        assert!(changed.len() > 100, "{}", changed.len());
        let missed: Vec<_> = changed.iter().filter(|page| !marked.contains(page)).collect();
        assert!(missed.is_empty(), "packed: {packed}: {missed:x?}");
    }
}
