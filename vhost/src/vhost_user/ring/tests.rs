//! Rings against a driver of literal bytes, which writes to the shared file.

use super::super::memory::{MappedRegion, RegionSpec};
use super::*;
use dray_switch::Drops;
use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
use rustix::io::{pread, pwrite};
use std::os::fd::OwnedFd;

const MRG: u64 = NET_F_MRG_RXBUF;
const EVENT: u64 = RING_F_EVENT_IDX;
const PACKED: u64 = F_RING_PACKED;

/// Guest-physical and the front end's own address of the file's beginning.
const GPA: u64 = 0x10_0000;
const UVA: u64 = 0x7f00_0000_0000;
const BYTES: u64 = 0x10_0000;
/// Where things are in the file.
const DESC_AT: u64 = 0x1000;
const AVAIL_AT: u64 = 0x2000;
const USED_AT: u64 = 0x3000;
const TABLE_AT: u64 = 0x4000;
const DATA_AT: u64 = 0x8000;
const SIZE: u32 = 8;

const MAX: u32 = 1518;

struct Driver {
    fd: OwnedFd,
    memory: Arc<Memory>,
    features: u64,
}

/// Header and frame of `len` bytes.
fn sent(len: usize) -> Vec<u8> {
    let mut bytes = vec![0; LONG];
    bytes.extend((0..len).map(|n| n as u8));
    bytes
}

impl Driver {
    fn new(features: u64) -> Driver {
        let fd = memfd_create("driver", MemfdFlags::CLOEXEC).unwrap();
        ftruncate(&fd, BYTES).unwrap();
        let spec = RegionSpec { gpa: GPA, len: BYTES, uva: UVA, offset: 0, fd: fd.try_clone().unwrap() };
        let memory = Arc::new(Memory::new(vec![Arc::new(MappedRegion::map(spec, &Arc::default()).unwrap())]).unwrap());
        Driver { fd, memory, features: features | F_VERSION_1 }
    }

    fn config(&self) -> RingConfig {
        RingConfig {
            index: 1,
            size: SIZE,
            features: self.features,
            desc: UVA + DESC_AT,
            avail: UVA + AVAIL_AT,
            used: UVA + USED_AT,
            log_used: None,
            base: if self.features & PACKED != 0 { 0x8000_8000 } else { 0 },
        }
    }

    fn start(&self) -> Ring {
        Ring::start(&self.config(), self.memory.clone(), None).unwrap()
    }

    fn write(&self, at: u64, bytes: &[u8]) {
        assert_eq!(pwrite(&self.fd, bytes, at).unwrap(), bytes.len());
    }

    fn read<const N: usize>(&self, at: u64) -> [u8; N] {
        let mut bytes = [0; N];
        assert_eq!(pread(&self.fd, &mut bytes, at).unwrap(), N);
        bytes
    }

    fn word(&self, at: u64) -> u16 {
        u16::from_le_bytes(self.read(at))
    }

    /// A split descriptor of the table at `at`.
    fn desc(&self, at: u64, index: u64, addr: u64, len: u32, flags: u16, next: u16) {
        let mut bytes = addr.to_le_bytes().to_vec();
        bytes.extend(len.to_le_bytes());
        bytes.extend(flags.to_le_bytes());
        bytes.extend(next.to_le_bytes());
        self.write(at + index * 16, &bytes);
    }

    /// Makes chains available in a split ring whose index was `from`.
    fn offer(&self, from: u16, heads: &[u16]) {
        for (n, head) in heads.iter().enumerate() {
            let slot = u64::from(from.wrapping_add(n as u16)) % u64::from(SIZE);
            self.write(AVAIL_AT + 4 + 2 * slot, &head.to_le_bytes());
        }
        self.write(AVAIL_AT + 2, &from.wrapping_add(heads.len() as u16).to_le_bytes());
    }

    /// A packed descriptor; `lap`: its wrap counter.
    fn packed(&self, index: u64, addr: u64, len: u32, id: u16, flags: u16, lap: bool) {
        let flags = flags | if lap { 1 << 7 } else { 1 << 15 };
        let mut bytes = addr.to_le_bytes().to_vec();
        bytes.extend(len.to_le_bytes());
        bytes.extend(id.to_le_bytes());
        bytes.extend(flags.to_le_bytes());
        self.write(DESC_AT + index * 16, &bytes);
    }

    /// Length, id and flags of a packed descriptor.
    fn used(&self, index: u64) -> (u32, u16, u16) {
        let bytes: [u8; 16] = self.read(DESC_AT + index * 16);
        let word = |at: usize| u16::from_le_bytes([bytes[at], bytes[at + 1]]);
        (u32::from(word(8)) | u32::from(word(10)) << 16, word(12), word(14))
    }
}

fn receive(ring: &mut Ring) -> Result<Box<Burst>, Bad> {
    let mut burst = Box::<Burst>::default();
    ring.receive(&mut burst, MAX).map(|()| burst)
}

fn bytes(burst: &Burst, i: u16) -> Vec<u8> {
    dray_switch::mem::to_vec(burst, burst.frame(i))
}

fn send(ring: &mut Ring, frames: &[Vec<u8>]) -> (Result<bool, Bad>, Sent, Drops) {
    let mut burst = Box::<Burst>::default();
    frames.iter().for_each(|frame| burst.push_owned(frame.clone()));
    let mut sent = Sent::default();
    let which: Vec<u16> = (0..frames.len() as u16).collect();
    (ring.send(&mut burst, &which, &mut sent, 9018), sent, burst.tx_drops)
}

#[test]
fn split_frames_are_received_and_given_back() {
    let d = Driver::new(0);
    d.write(DATA_AT, &sent(60));
    d.write(DATA_AT + 0x1000, &sent(100));
    d.desc(DESC_AT, 3, GPA + DATA_AT, 72, 0, 0);
    d.desc(DESC_AT, 5, GPA + DATA_AT + 0x1000, 112, 0, 0);
    let mut ring = d.start();
    // No notifications, please.
    assert_eq!(d.word(USED_AT), 1);
    assert!(receive(&mut ring).unwrap().is_empty());
    d.offer(0, &[3, 5]);
    let burst = receive(&mut ring).unwrap();
    assert_eq!((bytes(&burst, 0), bytes(&burst, 1)), (sent(60)[12..].to_vec(), sent(100)[12..].to_vec()));
    assert_eq!((burst.len(), d.word(USED_AT + 2), ring.base()), (2, 0, 0));
    assert!(ring.release());
    assert_eq!(d.read(USED_AT + 2), [2, 0, 3, 0, 0, 0, 0, 0, 0, 0, 5, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!(ring.base(), 2);
}

/// Bursts of every size around the ring's end, received and sent: what is used is told in order, and nothing beside it is written.
#[test]
fn split_bursts_go_around_the_rings_end() {
    for from in 0..SIZE as u16 {
        for n in 1..=SIZE as u16 {
            for tx in [false, true] {
                let d = Driver::new(0);
                let base = 0xfff8 + from;
                d.write(USED_AT, &[0xa5; 4 + 8 * SIZE as usize + 8]);
                d.write(USED_AT + 2, &base.to_le_bytes());
                // Each has its own number, length and place, in no order.
                let heads: Vec<u16> = (0..n).map(|i| i * 3 % SIZE as u16).collect();
                for &head in &heads {
                    let (at, len) = (DATA_AT + 0x1000 * u64::from(head), 72 + u32::from(head));
                    d.write(at, &sent(60 + usize::from(head)));
                    d.desc(DESC_AT, head.into(), GPA + at, len, if tx { WRITE } else { 0 }, 0);
                }
                d.offer(base, &heads);
                let mut ring =
                    Ring::start(&RingConfig { base: base.into(), ..d.config() }, d.memory.clone(), None).unwrap();
                if tx {
                    let frames: Vec<_> = heads.iter().map(|head| vec![n as u8; 60 + usize::from(*head)]).collect();
                    assert_eq!(send(&mut ring, &frames).1.packets, u32::from(n));
                } else {
                    let burst = receive(&mut ring).unwrap();
                    let lens: Vec<_> = (0..n).map(|i| burst.frame(i).len() as u16 - 60).collect();
                    assert_eq!(lens, heads);
                    ring.release();
                }
                let mut used = [[0xa5; 8]; SIZE as usize];
                for (i, head) in (0..).zip(&heads) {
                    let len = if tx { 72 + u32::from(*head) } else { 0 };
                    let entry = u64::from(*head) | u64::from(len) << 32;
                    used[usize::from(base.wrapping_add(i)) % SIZE as usize] = entry.to_le_bytes();
                }
                let what = format!("{n} from {from}, sent: {tx}");
                assert_eq!(d.word(USED_AT + 2), base.wrapping_add(n), "{what}");
                assert_eq!(d.read::<{ 8 * SIZE as usize }>(USED_AT + 4), *used.as_flattened(), "{what}");
                assert_eq!(d.word(USED_AT + 4 + 8 * u64::from(SIZE) + 2), 0xa5a5, "{what}");
            }
        }
    }
}

#[test]
fn a_disabled_ring_gives_back_what_it_was_sent() {
    let d = Driver::new(0);
    d.desc(DESC_AT, 3, GPA + DATA_AT, 72, 0, 0);
    d.offer(0, &[3, 3, 3]);
    let mut ring = d.start();
    let mut burst = Box::<Burst>::default();
    ring.discard(&mut burst).unwrap();
    assert_eq!((burst.len(), burst.drops.get(Reason::RxDisabled)), (0, 3));
    ring.release();
    assert_eq!((d.word(USED_AT + 2), ring.base()), (3, 3));
}

#[test]
fn split_chains_and_tables_are_followed() {
    let d = Driver::new(0);
    let frame = sent(1000);
    // The header in pieces, then the frame in pieces: 7, 5 + 3, the rest.
    d.write(DATA_AT, &frame[..7]);
    d.write(DATA_AT + 0x100, &frame[7..15]);
    d.write(DATA_AT + 0x200, &frame[15..]);
    d.desc(DESC_AT, 0, GPA + DATA_AT, 7, NEXT, 4);
    d.desc(DESC_AT, 4, GPA + DATA_AT + 0x100, 8, NEXT, 2);
    d.desc(DESC_AT, 2, GPA + DATA_AT + 0x200, 997, 0, 9);
    // The same in a table, whose successors go by their own numbers.
    d.desc(TABLE_AT, 0, GPA + DATA_AT, 7, NEXT, 2);
    d.desc(TABLE_AT, 2, GPA + DATA_AT + 0x100, 8, NEXT, 1);
    d.desc(TABLE_AT, 1, GPA + DATA_AT + 0x200, 997, 0, 0);
    d.desc(DESC_AT, 1, GPA + TABLE_AT, 48, INDIRECT, 0);
    d.offer(0, &[0, 1]);
    let mut ring = d.start();
    let burst = receive(&mut ring).unwrap();
    assert_eq!((burst.len(), bytes(&burst, 0)), (2, frame[12..].to_vec()));
    assert_eq!(bytes(&burst, 1), frame[12..]);
    ring.release();
    assert_eq!((d.word(USED_AT + 2), d.word(USED_AT + 4), d.word(USED_AT + 12)), (2, 0, 1));
}

#[test]
fn frames_that_cannot_be_are_dropped_and_the_ring_goes_on() {
    let d = Driver::new(0);
    let mut header = [0; 12];
    header[0] = 1;
    header[6] = 200;
    d.write(DATA_AT + 0x4000, &header);
    d.write(DATA_AT + 0x5000, &sent(60));
    d.desc(DESC_AT, 0, GPA + DATA_AT, 12, 0, 0);
    d.desc(DESC_AT, 1, GPA + DATA_AT, 12 + MAX + 1, 0, 0);
    // The checksum's place is beyond the frame (CVE-2024-11614).
    d.desc(DESC_AT, 2, GPA + DATA_AT + 0x4000, 72, 0, 0);
    d.desc(DESC_AT, 3, GPA + DATA_AT + 0x5000, 72, 0, 0);
    d.offer(0, &[0, 1, 2, 3]);
    let mut ring = d.start();
    let burst = receive(&mut ring).unwrap();
    assert_eq!((burst.len(), bytes(&burst, 0)), (1, sent(60)[12..].to_vec()));
    for reason in [Reason::RxBadDescriptor, Reason::RxTooBig, Reason::RxBadOffload] {
        assert_eq!(burst.drops.get(reason), 1, "{reason:?}");
    }
    ring.release();
    assert_eq!(d.word(USED_AT + 2), 4);
}

#[test]
fn what_a_driver_asks_for_stays_with_the_frame() {
    let d = Driver::new(0);
    let mut frame = vec![1, 0, 0, 0, 0, 0, 34, 0, 6, 0, 0, 0];
    frame.extend([2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 8, 0, 0x45]);
    frame.resize(12 + 100, 0);
    d.write(DATA_AT, &frame);
    d.desc(DESC_AT, 0, GPA + DATA_AT, 112, 0, 0);
    d.offer(0, &[0]);
    let burst = receive(&mut d.start()).unwrap();
    let offload = burst.frame(0).offload().unwrap();
    assert_eq!((offload.csum_start, offload.csum_offset, offload.gso), (34, 6, Gso::None));
    assert_eq!(burst.frame(0).head().len(), 100);
}

/// Each ring that a driver must not make, and what it is called.
#[test]
fn split_rings_that_cannot_be_are_faults() {
    type Make = fn(&Driver);
    let cases: &[(&str, Fault, Make)] = &[
        ("the index jumps (beyond the ring)", Fault::Index, |d| d.write(AVAIL_AT + 2, &9u16.to_le_bytes())),
        ("the index goes back", Fault::Index, |d| d.write(AVAIL_AT + 2, &0xffffu16.to_le_bytes())),
        ("a head beyond the ring", Fault::Index, |d| d.offer(0, &[8])),
        ("a successor beyond the ring", Fault::Index, |d| {
            d.desc(DESC_AT, 0, GPA + DATA_AT, 20, NEXT, 8);
            d.offer(0, &[0]);
        }),
        ("a circle (CVE-2022-2132)", Fault::Chain, |d| {
            d.desc(DESC_AT, 0, GPA + DATA_AT, 20, NEXT, 1);
            d.desc(DESC_AT, 1, GPA + DATA_AT, 20, NEXT, 0);
            d.offer(0, &[0]);
        }),
        ("shorter than its header (CVE-2022-2132)", Fault::Chain, |d| {
            d.desc(DESC_AT, 0, GPA + DATA_AT, 11, 0, 0);
            d.offer(0, &[0]);
        }),
        ("a chain shorter than its header", Fault::Chain, |d| {
            d.desc(DESC_AT, 0, GPA + DATA_AT, 5, NEXT, 1);
            d.desc(DESC_AT, 1, GPA + DATA_AT, 6, 0, 0);
            d.offer(0, &[0]);
        }),
        ("no length", Fault::Descriptor, |d| {
            d.desc(DESC_AT, 0, GPA + DATA_AT, 0, 0, 0);
            d.offer(0, &[0]);
        }),
        ("outside the regions", Fault::Descriptor, |d| {
            d.desc(DESC_AT, 0, GPA - 1, 72, 0, 0);
            d.offer(0, &[0]);
        }),
        ("across the region's end", Fault::Descriptor, |d| {
            d.desc(DESC_AT, 0, GPA + BYTES - 71, 72, 0, 0);
            d.offer(0, &[0]);
        }),
        ("around the end of all addresses", Fault::Descriptor, |d| {
            d.desc(DESC_AT, 0, u64::MAX - 10, 72, 0, 0);
            d.offer(0, &[0]);
        }),
        ("to be written, by one who sends", Fault::Descriptor, |d| {
            d.desc(DESC_AT, 0, GPA + DATA_AT, 72, WRITE, 0);
            d.offer(0, &[0]);
        }),
        ("a table in a table", Fault::Chain, |d| {
            d.desc(TABLE_AT, 0, GPA + TABLE_AT, 16, INDIRECT, 0);
            d.desc(DESC_AT, 0, GPA + TABLE_AT, 16, INDIRECT, 0);
            d.offer(0, &[0]);
        }),
        ("a table that goes on", Fault::Chain, |d| {
            d.desc(DESC_AT, 0, GPA + TABLE_AT, 16, INDIRECT | NEXT, 1);
            d.offer(0, &[0]);
        }),
        ("a table of odd length", Fault::Chain, |d| {
            d.desc(DESC_AT, 0, GPA + TABLE_AT, 17, INDIRECT, 0);
            d.offer(0, &[0]);
        }),
        ("a table at an odd address", Fault::Chain, |d| {
            d.desc(DESC_AT, 0, GPA + TABLE_AT + 1, 16, INDIRECT, 0);
            d.offer(0, &[0]);
        }),
        ("a table outside the regions", Fault::Descriptor, |d| {
            d.desc(DESC_AT, 0, GPA + BYTES, 16, INDIRECT, 0);
            d.offer(0, &[0]);
        }),
        ("a table whose successor is beyond it", Fault::Index, |d| {
            d.desc(TABLE_AT, 0, GPA + DATA_AT, 20, NEXT, 1);
            d.desc(DESC_AT, 0, GPA + TABLE_AT, 16, INDIRECT, 0);
            d.offer(0, &[0]);
        }),
    ];
    for (what, fault, make) in cases {
        let d = Driver::new(0);
        make(&d);
        assert_eq!(receive(&mut d.start()).err().map(|bad| bad.0), Some(*fault), "{what}");
    }
}

#[test]
fn packed_rings_that_cannot_be_are_faults() {
    type Make = fn(&Driver);
    let cases: &[(&str, Fault, Make)] = &[
        ("no length (CVE-2020-10725)", Fault::Descriptor, |d| d.packed(0, GPA + DATA_AT, 0, 0, 0, true)),
        ("a bad address (CVE-2020-10725)", Fault::Descriptor, |d| d.packed(0, GPA + BYTES, 72, 0, 0, true)),
        ("shorter than its header", Fault::Chain, |d| d.packed(0, GPA + DATA_AT, 11, 0, 0, true)),
        ("a circle", Fault::Chain, |d| (0..8).for_each(|n| d.packed(n, GPA + DATA_AT, 72, 0, NEXT, true))),
        ("a chain that goes on beyond the lap", Fault::Chain, |d| {
            (0..4).for_each(|n| d.packed(n, GPA + DATA_AT, 72, 0, 0, true));
            (4..8).for_each(|n| d.packed(n, GPA + DATA_AT, 72, 0, NEXT, true));
        }),
        ("a table in a chain", Fault::Chain, |d| {
            d.packed(0, GPA + DATA_AT, 72, 0, NEXT, true);
            d.packed(1, GPA + TABLE_AT, 16, 0, INDIRECT, true);
        }),
        ("a table in a table", Fault::Chain, |d| {
            d.desc(TABLE_AT, 0, GPA + TABLE_AT, 16, 0, INDIRECT);
            d.packed(0, GPA + TABLE_AT, 16, 0, INDIRECT, true);
        }),
        ("a table that is too long", Fault::Chain, |d| d.packed(0, GPA + TABLE_AT, 16 * 129, 0, INDIRECT, true)),
        ("a table with a bad address", Fault::Descriptor, |d| {
            d.desc(TABLE_AT, 0, GPA + BYTES, 72, 0, 0);
            d.packed(0, GPA + TABLE_AT, 16, 0, INDIRECT, true);
        }),
        ("to be written, by one who sends", Fault::Descriptor, |d| d.packed(0, GPA + DATA_AT, 72, 0, WRITE, true)),
    ];
    for (what, fault, make) in cases {
        let d = Driver::new(PACKED);
        make(&d);
        assert_eq!(receive(&mut d.start()).err().map(|bad| bad.0), Some(*fault), "{what}");
    }
}

/// As DPDK's driver writes it: its header's flag says that we write it (`vring_desc_init_indirect_packed`).
#[test]
fn a_table_that_is_sent_may_have_flags_for_writing() {
    let d = Driver::new(PACKED);
    d.write(DATA_AT, &sent(60));
    d.desc(TABLE_AT, 0, GPA + DATA_AT, 12, 7, WRITE);
    d.desc(TABLE_AT, 1, GPA + DATA_AT + 12, 60, 7, 0);
    d.packed(0, GPA + TABLE_AT, 32, 5, INDIRECT, true);
    let burst = receive(&mut d.start()).unwrap();
    assert_eq!((burst.len(), bytes(&burst, 0)), (1, sent(60)[12..].to_vec()));
}

#[test]
fn packed_frames_are_received_and_given_back_in_every_lap() {
    let d = Driver::new(PACKED);
    d.write(DATA_AT, &sent(60));
    let mut ring = d.start();
    assert_eq!(d.read(USED_AT), [0, 0, 1, 0]);
    for round in 0..40u64 {
        let (at, lap) = (round * 3 % 8, (round * 3 / 8).is_multiple_of(2));
        // One alone, and a chain of two, whose id is with its last.
        d.packed(at, GPA + DATA_AT, 72, 100, 0, lap);
        let lap_of = |place: u64| (place / 8).is_multiple_of(2);
        let place = |n: u64| ((at + n) % 8, lap_of(round * 3 + n));
        let ((first, lap1), (second, lap2)) = (place(1), place(2));
        d.packed(second, GPA + DATA_AT + 12, 60, 101, 0, lap2);
        d.packed(first, GPA + DATA_AT, 12, 0, NEXT, lap1);
        let burst = receive(&mut ring).unwrap();
        assert_eq!(burst.len(), 2);
        assert_eq!((bytes(&burst, 0), bytes(&burst, 1)), (sent(60)[12..].to_vec(), sent(60)[12..].to_vec()));
        ring.release();
        let flags = |lap| if lap { 1 << 7 | 1 << 15 } else { 0 };
        assert_eq!(d.used(at), (0, 100, flags(lap)));
        assert_eq!(d.used(first), (0, 101, flags(lap1)));
        let next = ((round * 3 + 3) % 8) | if lap_of(round * 3 + 3) { 0x8000 } else { 0 };
        assert_eq!(u64::from(ring.base()), next | next << 16);
        // One who was killed finds the place again.
        drop(ring);
        ring = d.start();
        assert_eq!(u64::from(ring.base()), next | next << 16, "round {round}");
    }
}

/// Bursts of every size around the ring's end, in either lap, received and sent, of chains of one place, and with one of two among them:
/// what is used is told in its place, and nothing beside it is written.
#[test]
fn packed_bursts_go_around_the_rings_end() {
    const PLACES: u64 = SIZE as u64;
    let cases = (0..PLACES).flat_map(|from| (1..=PLACES).flat_map(move |n| (0..n).map(move |chain| (from, n, chain))));
    for ((from, n, chain), (lap, tx)) in
        cases.flat_map(|c| [(true, true), (true, false), (false, true), (false, false)].map(|f| (c, f)))
    {
        let d = Driver::new(PACKED);
        let write = if tx { WRITE } else { 0 };
        let place = |i: u64| ((from + i) % PLACES, lap ^ (from + i >= PLACES));
        // A chain in the last place would have no second one: there is none then.
        let is_chain = |i: u64| i == chain && i + 1 < n;
        let mut used = [(0, 0, 0); SIZE as usize];
        let mut frames = Vec::new();
        let mut i = 0;
        while i < n {
            let ((index, wrap), at, frame) = (place(i), DATA_AT + 0x1000 * i, sent(60 + i as usize));
            let (len, id) = (frame.len() as u32, 10 + i as u16);
            let flags = |wrap| if wrap { 1 << 7 | 1 << 15 } else { 0 } | write;
            used[index as usize] = (if tx { len } else { 0 }, id, flags(wrap));
            d.write(at, &frame);
            if is_chain(i) {
                let (second, wrap2) = place(i + 1);
                d.packed(second, GPA + at + 40, len - 40, id, write, wrap2);
                d.packed(index, GPA + at, 40, 0, NEXT | write, wrap);
                used[second as usize] = (0, 0, flags(wrap2) & !write);
                i += 1;
            } else {
                d.packed(index, GPA + at, len, id, write, wrap);
            }
            frames.push(frame[LONG..].to_vec());
            i += 1;
        }
        let base = from as u32 | u32::from(lap) << 15;
        let mut ring =
            Ring::start(&RingConfig { base: base | base << 16, ..d.config() }, d.memory.clone(), None).unwrap();
        let what = format!("{n} from {from}, a chain at {chain}, lap {lap}, sent: {tx}");
        if tx {
            assert_eq!(send(&mut ring, &frames).1.packets as usize, frames.len(), "{what}");
        } else {
            let burst = receive(&mut ring).unwrap();
            let got: Vec<_> = (0..burst.len() as u16).map(|i| bytes(&burst, i)).collect();
            assert_eq!(got, frames, "{what}");
            ring.release();
        }
        let told: Vec<_> = (0..PLACES).map(|index| d.used(index)).collect();
        assert_eq!(told, used, "{what}");
        let (next, wrap) = place(n);
        assert_eq!(ring.base() & 0xffff, next as u32 | u32::from(wrap) << 15, "{what}");
    }
}

#[test]
fn the_first_of_a_packed_burst_is_seen_last() {
    let d = Driver::new(PACKED);
    d.write(DATA_AT, &sent(60));
    (0..3).for_each(|n| d.packed(n, GPA + DATA_AT, 72, n as u16, 0, true));
    let mut ring = d.start();
    assert_eq!(receive(&mut ring).unwrap().len(), 3);
    each!(&mut ring.layout, r => r.complete(&ring.heads[..3], &[0; BURST]));
    assert_eq!((d.used(0).2, d.used(1).2, d.used(2).2), (1 << 7, 1 << 7 | 1 << 15, 1 << 7 | 1 << 15));
    each!(&mut ring.layout, r => r.publish());
    assert_eq!(d.used(0).2, 1 << 7 | 1 << 15);
}

#[test]
fn frames_are_sent_to_one_buffer_or_several() {
    for features in [MRG, MRG | PACKED] {
        let d = Driver::new(features);
        let packed = features & PACKED != 0;
        for n in 0..4u64 {
            let addr = GPA + DATA_AT + n * 0x1000;
            if packed {
                d.packed(n, addr, 100, n as u16, WRITE, true);
            } else {
                d.desc(DESC_AT, n, addr, 100, WRITE, 0);
            }
        }
        d.offer(0, &[0, 1, 2, 3]);
        let mut ring = d.start();
        let frames = [(0..60).collect::<Vec<u8>>(), (0..200).collect(), (0..88).collect()];
        let (result, sent, drops) = send(&mut ring, &frames);
        assert_eq!((result, sent.packets, sent.bytes, drops.total()), (Ok(true), 2, 260, 1));
        assert_eq!(drops.get(Reason::TxRingFull), 1);
        let header = |n: u8| [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, n, 0];
        let buffer = |n: u64| d.read::<100>(DATA_AT + n * 0x1000);
        assert_eq!((&buffer(0)[..12], &buffer(0)[12..72]), (&header(1)[..], &frames[0][..]));
        assert_eq!((&buffer(1)[..12], &buffer(1)[12..]), (&header(3)[..], &frames[1][..88]));
        assert_eq!((&buffer(2)[..], &buffer(3)[..12]), (&frames[1][88..188], &frames[1][188..]));
        if packed {
            let flags = 1 << 7 | 1 << 15 | WRITE;
            assert_eq!(
                [d.used(0), d.used(1), d.used(2), d.used(3)],
                [(72, 0, flags), (100, 1, flags), (100, 2, flags), (12, 3, flags)]
            );
        } else {
            let used: [u8; 34] = d.read(USED_AT + 2);
            assert_eq!(used[..2], [4, 0]);
            let entries: Vec<u32> = used[2..].chunks(4).map(|w| u32::from_le_bytes(w.try_into().unwrap())).collect();
            assert_eq!(entries, [0, 72, 1, 100, 2, 100, 3, 12]);
        }
    }
}

#[test]
fn a_burst_ends_when_many_descriptors_were_looked_at() {
    for features in [0, PACKED] {
        let d = Driver::new(features);
        // A header and a frame of 63 bytes, each in a piece of its own.
        for piece in 0..64 {
            let len = if piece == 0 { 12 } else { 1 };
            let (flags, next) = if features == 0 && piece != 63 { (NEXT, piece as u16 + 1) } else { (0, 0) };
            d.desc(TABLE_AT, piece, GPA + DATA_AT + 64 * piece, len, flags, next);
        }
        for n in 0..8 {
            if features == PACKED {
                d.packed(n, GPA + TABLE_AT, 64 * 16, n as u16, INDIRECT, true);
            } else {
                d.desc(DESC_AT, n, GPA + TABLE_AT, 64 * 16, INDIRECT, 0);
            }
        }
        d.offer(0, &[0, 1, 2, 3, 4, 5, 6, 7]);
        let mut ring = d.start();
        for frames in [4, 4, 0] {
            let burst = receive(&mut ring).unwrap();
            assert_eq!((burst.len(), burst.drops.total()), (frames, 0));
            assert!((0..frames as u16).all(|i| bytes(&burst, i) == [0; 63]));
            ring.release();
        }
    }
}

#[test]
fn buffers_of_a_few_bytes_are_not_filled_and_no_more_are_looked_at_than_needed() {
    for features in [0, MRG, PACKED] {
        let d = Driver::new(features);
        // In a packed table, flags are where the other has a successor.
        let desc = |index: u64, addr, len, last| match features {
            PACKED => d.desc(TABLE_AT, index, addr, len, 0, WRITE),
            _ => d.desc(TABLE_AT, index, addr, len, WRITE | if last { 0 } else { NEXT }, index as u16 + 1),
        };
        for piece in 0..100 {
            desc(piece, GPA + DATA_AT + 64 * piece, 1, piece == 99);
        }
        let table = |len| match features {
            PACKED => d.packed(0, GPA + TABLE_AT, len, 0, INDIRECT, true),
            _ => d.desc(DESC_AT, 0, GPA + TABLE_AT, len, INDIRECT, 0),
        };
        table(100 * 16);
        d.offer(0, &[0]);
        let mut ring = d.start();
        let (result, sent, drops) = send(&mut ring, &[vec![1; 60], vec![2; 60]]);
        assert_eq!((result, sent.packets, drops.get(Reason::TxTooManyPieces)), (Ok(false), 0, 2));
        // The first has room for header and frame: what the others are doesn't matter.
        desc(0, GPA + DATA_AT, 72, false);
        desc(1, GPA + BYTES, 1, false);
        let (result, sent, drops) = send(&mut ring, &[vec![3; 60]]);
        assert_eq!((result.is_ok(), sent.packets, drops.total()), (true, 1, 0));
        assert_eq!(d.read::<60>(DATA_AT + 12), [3; 60]);
    }
}

#[test]
fn without_mergeable_buffers_a_frame_needs_one_chain() {
    let d = Driver::new(0);
    d.desc(DESC_AT, 0, GPA + DATA_AT, 100, WRITE | NEXT, 1);
    d.desc(DESC_AT, 1, GPA + DATA_AT + 0x1000, 100, WRITE, 0);
    d.offer(0, &[0]);
    let mut ring = d.start();
    let (result, sent, drops) = send(&mut ring, &[vec![7; 200], vec![8; 188]]);
    assert_eq!((result, sent.packets, drops.get(Reason::TxTooBig)), (Ok(true), 1, 1));
    assert_eq!(d.read::<100>(DATA_AT + 0x1000), [8; 100]);
    assert_eq!(d.read(USED_AT + 4), [0, 0, 0, 0, 200, 0, 0, 0]);
}

#[test]
fn a_bad_buffer_to_be_filled_is_a_fault() {
    for (addr, len, flags) in [(GPA + BYTES, 100, WRITE), (GPA + DATA_AT, 0, WRITE), (GPA + DATA_AT, 100, 0)] {
        let d = Driver::new(MRG);
        d.desc(DESC_AT, 0, addr, len, flags, 0);
        d.offer(0, &[0]);
        assert_eq!(send(&mut d.start(), &[vec![1; 60]]).0.unwrap_err().0, Fault::Descriptor);
        let d = Driver::new(MRG | PACKED);
        d.packed(0, addr, len, 0, flags, true);
        assert_eq!(send(&mut d.start(), &[vec![1; 60]]).0.unwrap_err().0, Fault::Descriptor);
    }
}

#[test]
fn interrupts_are_sent_as_the_driver_asks() {
    // Split: by flag.
    let d = Driver::new(0);
    d.write(DATA_AT, &sent(60));
    d.desc(DESC_AT, 0, GPA + DATA_AT, 72, 0, 0);
    let mut ring = d.start();
    for (round, no) in [(0u16, 0u16), (1, 1), (2, 0)] {
        d.write(AVAIL_AT, &no.to_le_bytes());
        d.offer(round, &[0]);
        receive(&mut ring).unwrap();
        assert_eq!(ring.release(), no == 0);
        assert_eq!(Ring::asks(&d.config(), &d.memory), no == 0);
    }
    // Split: when an index is passed.
    let d = Driver::new(EVENT);
    d.desc(DESC_AT, 0, GPA + DATA_AT, 72, 0, 0);
    let mut ring = d.start();
    let mut when = Vec::new();
    for round in 0..6u16 {
        d.write(AVAIL_AT + 4 + 2 * u64::from(SIZE), &3u16.to_le_bytes());
        d.offer(round, &[0]);
        receive(&mut ring).unwrap();
        if ring.release() {
            when.push(round);
        }
        // Seen from outside, it was not missed before.
        assert_eq!(Ring::asks(&d.config(), &d.memory), round >= 3);
    }
    assert_eq!(when, [3]);
    // Packed: never, always, when a descriptor is reached.
    for (event, expected) in [([0, 0, 1, 0], vec![]), ([0, 0, 0, 0], (0..6).collect()), ([4, 0x80, 2, 0], vec![4u64])] {
        let d = Driver::new(EVENT | PACKED);
        d.write(AVAIL_AT, &event);
        let mut ring = d.start();
        assert_eq!(Ring::asks(&d.config(), &d.memory), event[2] != 1);
        let mut when = Vec::new();
        for round in 0..6 {
            d.packed(round, GPA + DATA_AT, 72, 0, 0, true);
            receive(&mut ring).unwrap();
            if ring.release() {
                when.push(round);
            }
        }
        assert_eq!(when, expected);
    }
}

#[test]
fn a_split_ring_goes_on_where_the_used_ring_says() {
    let d = Driver::new(0);
    d.write(DATA_AT, &sent(60));
    d.desc(DESC_AT, 0, GPA + DATA_AT, 72, 0, 0);
    d.write(USED_AT + 2, &0xfffeu16.to_le_bytes());
    d.offer(0xfffe, &[0, 0, 0]);
    let mut ring = d.start();
    assert_eq!((ring.base(), receive(&mut ring).unwrap().len()), (0xfffe, 3));
    ring.release();
    assert_eq!((ring.base(), d.word(USED_AT + 2)), (1, 1));
}

#[test]
fn every_page_that_is_written_is_logged() {
    for packed in [false, true] {
        let d = Driver::new(MRG | if packed { PACKED } else { 0 });
        let fd = memfd_create("log", MemfdFlags::CLOEXEC).unwrap();
        ftruncate(&fd, 4096).unwrap();
        let log = Arc::new(DirtyLog::map(fd.try_clone().unwrap(), 0, 4096, &Arc::default()).unwrap());
        for n in 0..2u64 {
            // The second crosses into another page.
            let addr = GPA + DATA_AT + n * 0x2fc0;
            if packed {
                d.packed(n, addr, 100, n as u16, WRITE, true);
            } else {
                d.desc(DESC_AT, n, addr, 100, WRITE, 0);
            }
        }
        d.offer(0, &[0, 1]);
        let mut ring = d.start();
        let pages = || {
            let mut bytes = [0; 4096];
            pread(&fd, &mut bytes, 0).unwrap();
            (0..4096 * 8)
                .filter(|n| bytes[n / 8] >> (n % 8) & 1 != 0)
                .map(|n| n as u64 * 4096 - GPA)
                .collect::<Vec<_>>()
        };
        ring.set_log(Some(log), None);
        assert_eq!(pages(), [USED_AT]);
        assert_eq!(send(&mut ring, &[vec![1; 88], vec![2; 88]]).1.packets, 2);
        let ring_at = if packed { vec![DESC_AT, USED_AT] } else { vec![USED_AT] };
        let expected: Vec<u64> = ring_at.into_iter().chain([DATA_AT, DATA_AT + 0x2000, DATA_AT + 0x3000]).collect();
        assert_eq!(pages(), expected);
    }
}

#[test]
fn rings_that_cannot_be_are_not_started() {
    let d = Driver::new(0);
    let start = |change: fn(&mut RingConfig)| {
        let mut config = d.config();
        change(&mut config);
        Ring::start(&config, d.memory.clone(), None).err().unwrap()
    };
    assert!(start(|c| c.size = 0).contains("0 descriptors"));
    assert!(start(|c| c.size = 65_536).contains("65536 descriptors"));
    assert!(start(|c| c.size = 7).contains("power of two"));
    assert!(start(|c| c.desc += 8).contains("descriptor table at 0x7f0000001008 is not aligned to 16"));
    assert!(start(|c| c.used = UVA + BYTES - 69).contains("aligned"));
    assert!(start(|c| c.used = UVA + BYTES - 68).contains("used ring is outside the regions"));
    assert!(start(|c| c.avail = 0).contains("available ring is outside the regions"));
    assert!(start(|c| c.desc = u64::MAX - 15).contains("outside the regions"));
}
