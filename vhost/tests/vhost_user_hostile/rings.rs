//! Rings that can't be.

use super::*;

/// How the chains of an attack are written.
#[derive(Clone, Copy)]
enum Way {
    /// In the ring's own descriptors.
    Direct,
    /// In an indirect table.
    Table,
}

impl Hostile {
    /// Makes a chain of `parts` (address, length and flags but for [`NEXT`]) the ring's first.
    fn chain(&self, ring: u32, way: Way, parts: &[(u64, u32, u16)]) {
        let table = TABLE + desc_at(ring);
        for (i, &(addr, len, flags)) in (0..).zip(parts) {
            let more = if usize::from(i) + 1 < parts.len() { NEXT } else { 0 };
            match way {
                Way::Direct => self.ring_desc(ring, i, addr, len, flags | more, i + 1),
                Way::Table => self.desc(table, i, addr, len, flags | if self.packed { 0 } else { more }, i + 1),
            }
        }
        if let Way::Table = way {
            self.ring_desc(ring, 0, GPA + table, 16 * parts.len() as u32, INDIRECT, 0);
        }
        self.offer(ring, 1);
    }

    /// Flags of a packed ring's last place.
    fn packed_flags(&self, ring: u32) -> u16 {
        self.read_word(desc_at(ring) + 16 * u64::from(SIZE) - 2)
    }

    /// Whether all that was offered first was given back.
    fn given_back(&self, ring: u32) -> bool {
        match self.packed {
            true => self.packed_flags(ring) & 1 << 15 != 0,
            false => self.read_word(desc_at(ring) + USED + 2) == SIZE,
        }
    }
}

fn way(i: u64) -> Way {
    if (i / 4).is_multiple_of(2) { Way::Direct } else { Way::Table }
}

/// The ring of attack `i`, and the flags that its buffers have.
fn direction(i: u64) -> (u32, u16) {
    if (i / 2).is_multiple_of(2) { (0, WRITE) } else { (1, 0) }
}

/// CVE-2018-1059: a buffer that begins in a region and ends behind it, in which DPDK checked the beginning only; with chains and tables,
/// too.
#[test]
fn cve_2018_1059_buffer_beyond_its_region() {
    Test::new().ring("bad_descriptor", feature::INDIRECT_DESC, |hostile, i| {
        let (ring, flags) = direction(i);
        let end = GPA + BYTES;
        let (addr, len) = [(end - 1, 1518), (end - 100, 101), (end - 1, u32::MAX), (GPA, BYTES as u32 + 1), (end, 1)]
            [i as usize / 8 % 5];
        hostile.chain(ring, way(i), &[(Hostile::buffer(ring, 1), 12, flags), (addr, len, flags)]);
    });
}

/// CVE-2020-10725: addresses that are nowhere and lengths of 0 in packed rings' descriptors, which crashed; and the same in split ones.
#[test]
fn cve_2020_10725_bad_addresses_and_zero_lengths() {
    Test::new().ring("bad_descriptor", feature::INDIRECT_DESC, |hostile, i| {
        let (ring, flags) = direction(i);
        let bad = [
            (0, 72),
            (u64::MAX, 72),
            (u64::MAX - 71, 72),
            (GPA - 1, 72),
            (1 << 47, 72),
            (Hostile::buffer(ring, 0), 0),
            (u64::MAX, 0),
            (GPA - 72, 72),
        ][i as usize / 16 % 8];
        let bad = (bad.0, bad.1, flags);
        let good = (Hostile::buffer(ring, 1), 72, flags);
        match i / 8 % 2 {
            0 => hostile.chain(ring, way(i), &[bad]),
            _ => hostile.chain(ring, way(i), &[(good.0, 6, flags), bad, good]),
        }
    });
}

/// Buffers to be written that the device is to read, and the other way round.
#[test]
fn descriptors_for_the_wrong_direction() {
    Test::new().ring("bad_descriptor", feature::INDIRECT_DESC, |hostile, i| {
        let (ring, flags) = direction(i);
        let buffer = Hostile::buffer(ring, 0);
        // DPDK's driver gives the wrong one in packed rings' tables, where it is ignored.
        let way = if hostile.packed && ring == 1 { Way::Direct } else { way(i) };
        match i / 8 % 2 {
            0 => hostile.chain(ring, way, &[(buffer, 1000, flags ^ WRITE)]),
            _ => hostile.chain(ring, way, &[(buffer, 6, flags), (buffer, 1000, flags ^ WRITE)]),
        }
    });
}

/// CVE-2022-2132: chains shorter than the header before a frame, of which a length was taken that is negative then.
#[test]
fn cve_2022_2132_chains_shorter_than_the_header() {
    Test::new().ring("bad_chain", feature::INDIRECT_DESC, |hostile, i| {
        let buffer = Hostile::buffer(1, 0);
        let parts: &[(u64, u32, u16)] = match i / 8 % 4 {
            0 => &[(buffer, 1, 0)],
            1 => &[(buffer, 11, 0)],
            2 => &[(buffer, 1, 0), (buffer, 10, 0)],
            _ => &[(buffer, 2, 0); 5],
        };
        hostile.chain(1, way(i), parts);
    });
}

/// CVE-2022-2132: chains that are circular, or longer than any can be.
#[test]
fn cve_2022_2132_circular_chains() {
    Test::new().ring("bad_chain", feature::INDIRECT_DESC, |hostile, i| {
        let (ring, flags) = direction(i);
        // A packed chain goes on with the next place, whatever it says, so it is one that does not end. The first is large enough for no
        // frame.
        for n in 0..SIZE {
            let next = [n, (n + 1) % SIZE, 0][i as usize / 8 % 3];
            hostile.ring_desc(ring, n, Hostile::buffer(ring, n), 1, flags | NEXT, next);
        }
        hostile.offer(ring, 1);
        if way(i) as u8 != 0 {
            // Long enough for a packed one to be too long, too.
            let table = TABLE + desc_at(ring);
            for n in 0..200 {
                hostile.desc(table, n, Hostile::buffer(ring, 0), 1, flags | NEXT, if n == 199 { 0 } else { n + 1 });
            }
            hostile.ring_desc(ring, 0, GPA + table, 16 * 200, INDIRECT, 0);
        }
    });
}

/// Indirect tables in indirect tables, in chains, of odd lengths and at odd addresses.
#[test]
fn indirect_tables_in_indirect_tables() {
    Test::new().ring("bad_chain", feature::INDIRECT_DESC, |hostile, i| {
        let (ring, flags) = direction(i);
        let (table, buffer) = (GPA + TABLE + desc_at(ring), Hostile::buffer(ring, 0));
        match i / 4 % 6 {
            // Of the same, and of another.
            0 => hostile.chain(ring, Way::Table, &[(table, 16, INDIRECT)]),
            1 => hostile.chain(ring, Way::Table, &[(buffer, 6, flags), (table + 0x800, 32, INDIRECT)]),
            2 => hostile.chain(ring, Way::Direct, &[(table, 16, INDIRECT), (buffer, 100, flags)]),
            3 => hostile.chain(ring, Way::Direct, &[(table, 17, INDIRECT)]),
            4 => hostile.chain(ring, Way::Direct, &[(table + 8, 16, INDIRECT)]),
            _ => hostile.chain(ring, Way::Direct, &[(table, 0, INDIRECT)]),
        }
    });
}

/// Indirect tables that are not in memory, or reach beyond it.
#[test]
fn indirect_tables_beyond_memory() {
    Test::new().ring("bad_descriptor", feature::INDIRECT_DESC, |hostile, i| {
        let end = GPA + BYTES;
        let (addr, len) = [(0, 16), (u64::MAX - 15, 16), (end - 16, 32), (GPA, 1 << 31), (end, 16)][i as usize / 4 % 5];
        hostile.chain(direction(i).0, Way::Direct, &[(addr, len, INDIRECT)]);
    });
}

/// Available indices that jump further than the ring is long, entries beyond it, and successors beyond it or their table. Packed
/// rings have none of these: there, a chain that does not end.
#[test]
fn ring_indices_that_jump() {
    let mut test = Test::new();
    let attack = |hostile: &Hostile, i: u64| {
        let (ring, flags) = direction(i);
        let at = desc_at(ring) + AVAIL;
        hostile.all_good(ring);
        match i / 4 % 5 {
            _ if hostile.packed => {
                (0..SIZE).for_each(|n| hostile.ring_desc(ring, n, Hostile::buffer(ring, n), 1, flags | NEXT, 0))
            }
            0 => hostile.write(at + 2, &(SIZE + 1).to_le_bytes()),
            1 => hostile.write(at + 2, &[0xff; 2]),
            2 => hostile.write(at + 4, &SIZE.to_le_bytes()),
            3 => hostile.write(at + 4, &[0xff; 2]),
            _ => hostile.ring_desc(ring, 0, Hostile::buffer(ring, 0), 1, flags | NEXT, 0xffff),
        }
    };
    for round in 0..=REPEATS / PORTS as u64 {
        let hostile = test.start_all(0, |hostile, i| attack(hostile, round * PORTS as u64 + i));
        hostile.iter().for_each(|h| closed(&h.connection));
        drop(hostile);
        if round == 0 {
            test.begin();
        }
    }
    test.finish(&[("bad_chain", REPEATS / 2), ("bad_index", REPEATS / 2)]);
}

/// Begins that can't be: a split ring goes on where its used ring says, a packed one at its beginning. Neither is a fault, and what the
/// ring then has is looked at as ever.
#[test]
fn vring_bases_that_jump() {
    Test::new().ring("bad_descriptor", 0, |hostile, i| {
        let bases = [u32::MAX, 0x7fff_7fff, 0x8000, 0xffff, u32::from(SIZE), 0x1_0000];
        for ring in 0..2 {
            let _ = hostile.connection.set_vring_base(ring, bases[i as usize / 2 % 6]);
            let used = (i as u16).wrapping_mul(0x1001);
            hostile.write(desc_at(ring) + USED, &[0, 0, used as u8, (used >> 8) as u8]);
            // Bad ones in either lap, wherever it begins.
            for n in 0..SIZE {
                let lap = if i / 12 % 2 == 0 { 1 << 7 } else { 1 << 15 };
                let flags = if hostile.packed { lap ^ 1 << 7 } else { 0 };
                hostile.ring_desc(ring, n, u64::MAX, 72, flags | if ring == 0 { WRITE } else { 0 }, 0);
            }
            hostile.offer(ring, used.wrapping_add(1));
        }
        if hostile.packed {
            // A base with the other wrap counter finds the ring empty: that would not be an end.
            (0..2).for_each(|ring| drop(hostile.connection.set_vring_base(ring, 0x8000_8000)));
            (0..2).for_each(|ring| (0..SIZE).for_each(|n| hostile.ring_desc(ring, n, 0, 72, 0, 0)));
        }
    });
}

/// CVE-2024-11614: a checksum to be completed beyond the frame, segments of no length, and requests that nobody knows. They cost the
/// frame, and are counted; the port goes on, for a driver hands on what its programs ask for.
#[test]
fn cve_2024_11614_csum_start_beyond_the_frame() {
    let mut test = Test::new();
    let offloads = feature::NET_CSUM | feature::NET_HOST_TSO4 | feature::NET_HOST_TSO6;
    let requests: Vec<[u8; 12]> = {
        let header = |flags: u8, gso: u8, size: u16, start: u16, offset: u16| {
            let words = [54, size, start, offset, 0].map(u16::to_le_bytes).concat();
            [&[flags, gso][..], &words].concat().try_into().unwrap()
        };
        vec![
            header(1, 0, 0, 60, 0),
            header(1, 0, 0, 59, 0),
            header(1, 0, 0, 34, 25),
            header(1, 0, 0, 0xffff, 0xffff),
            header(1, 0, 0, 0xffff, 1),
            header(1, 0, 0, 0, 0xffff),
            header(1, 1, 1448, 0xfff0, 16),
            header(1, 1, 0, 34, 16),
            header(0, 1, 1448, 34, 16),
            header(1, 0x7f, 1448, 34, 16),
            header(1, 4, 1, 54, 16),
        ]
    };
    let round = |test: &Test, round: u64| {
        let before = test.dropped(Reason::RxBadOffload);
        let hostile = test.start_all(offloads, |hostile, i| {
            hostile.all_good(1);
            for n in 0..SIZE {
                let header = requests[(round as usize + i as usize + usize::from(n)) % requests.len()];
                hostile.write(Hostile::buffer(1, n) - GPA, &header);
                hostile.write(Hostile::buffer(1, n) - GPA + 12, &[0x45; 60]);
            }
        });
        let all = (PORTS * usize::from(SIZE)) as u64;
        until("all are dropped", || test.dropped(Reason::RxBadOffload) >= before + all);
        assert_eq!(test.dropped(Reason::RxBadOffload), before + all);
        for (hostile, victim) in hostile.iter().zip(&test.victims) {
            assert!(victim.port.status().connected);
            until("all are given back", || hostile.given_back(1));
        }
    };
    round(&test, 0);
    test.begin();
    // Each is sixteen requests at each port.
    (1..=REPEATS.div_ceil(16)).for_each(|n| round(&test, n));
    test.finish(&[]);
}

/// Memory that is truncated while frames are moved. Files that can't be sealed against it only: a sealed one stays.
#[test]
fn memory_truncated_under_traffic() {
    let mut test = Test::new();
    for round in 0..=REPEATS / PORTS as u64 {
        let ups = test.shared.ups.load(Ordering::Relaxed);
        let hostile = test.start_all(0, |hostile, _| (0..2).for_each(|ring| hostile.all_good(ring)));
        until("links come up", || test.shared.ups.load(Ordering::Relaxed) == ups + PORTS as u64);
        for (i, h) in hostile.iter().enumerate() {
            // All of it, rings included, or the buffers only, which are then offered again.
            let left = if i % 3 == 0 { 0 } else { DATA };
            if left != 0 {
                // Whoever offers a second ring full of buffers before the first was taken lets the index jump: another fault.
                until("all are given back", || (0..2).all(|ring| h.given_back(ring)));
            }
            ftruncate(&h.memory, left).unwrap();
            if left != 0 {
                for ring in 0..2 {
                    let lap = if h.packed { LAP } else { 0 };
                    // Of the packed ring's second lap, in which the flags are the other way round.
                    for n in 0..SIZE {
                        let (len, flags) = if ring == 0 { (2048, WRITE) } else { (72, 0) };
                        h.ring_desc(ring, n, Hostile::buffer(ring, n), len, flags ^ lap, 0);
                    }
                    h.offer(ring, 2 * SIZE);
                }
            }
        }
        for (h, victim) in hostile.iter().zip(&test.victims) {
            // Where nothing is touched any more nothing is noticed, until there is something to be done.
            until("what is gone is noticed", || {
                h.set_memory();
                !victim.port.status().connected
            });
        }
        drop(hostile);
        if round == 0 {
            test.begin();
        }
    }
    test.finish(&[("bad_memory", REPEATS)]);
}

/// The memory table is replaced while frames are moved, a thousand times, by the same and by other memory; and features, rings and their
/// state are changed. None of it is a fault: the port goes on.
#[test]
fn memory_replaced_under_traffic() {
    let mut test = Test::new();
    let hostile = Hostile::new(&test.victims[0], false, 0);
    hostile.start();
    drop(hostile);
    test.begin();
    for packed in [false, true] {
        let hostile = Hostile::new(&test.victims[0], packed, 0);
        (0..2).for_each(|ring| hostile.all_good(ring));
        let other = memfd(2 * BYTES);
        hostile.start();
        let ups = test.shared.ups.load(Ordering::Relaxed);
        until("the link comes up", || test.shared.ups.load(Ordering::Relaxed) > ups);
        let c = &hostile.connection;
        for i in 0..REPEATS / 2 {
            let far = RegionMessage { gpa: GPA + (1 << 30), uva: UVA + (1 << 30), ..Hostile::region() };
            match i % 8 {
                0 | 1 => hostile.set_memory(),
                2 => c.set_mem_table(&[(Hostile::region(), hostile.memory.as_fd()), (far, other.as_fd())]).unwrap(),
                3 => c.add_mem_reg(&far, other.as_fd()).unwrap(),
                4 => c.rem_mem_reg(&far).unwrap(),
                5 => (0..2).for_each(|ring| c.set_vring_enable(ring, ring == 0).unwrap()),
                6 => (0..2).for_each(|ring| c.set_vring_addr(ring, &addresses(ring, i % 16 == 6)).unwrap()),
                _ => {
                    let features = feature::VERSION_1 | feature::PROTOCOL_FEATURES | if i % 16 == 7 { 0 } else { 1 };
                    c.set_features(features | if packed { feature::RING_PACKED } else { 0 }).unwrap();
                    (0..2).for_each(|ring| c.set_vring_enable(ring, true).unwrap());
                }
            }
            if i % 8 == 2 {
                // So that the region can be added next.
                hostile.set_memory();
            }
        }
        // It still has frames moved: what is offered anew is given back.
        for ring in 0..2 {
            until("all is given back", || hostile.given_back(ring));
            for n in 0..SIZE {
                let (len, flags) = if ring == 0 { (BUFFER as u32, WRITE) } else { (72, 0) };
                // In a packed ring's second lap the flags are the other way round.
                let lap = if packed { LAP } else { 0 };
                hostile.ring_desc(ring, n, Hostile::buffer(ring, n), len, flags ^ lap, 0);
            }
            hostile.offer(ring, 2 * SIZE);
            let last = || match packed {
                true => hostile.packed_flags(ring) & LAP == 0,
                false => hostile.read_word(desc_at(ring) + USED + 2) == 2 * SIZE,
            };
            until("all is given back again", last);
        }
        assert!(test.victims[0].port.status().connected);
        drop(hostile);
        test.wait_gone();
    }
    test.finish(&[]);
}

/// Descriptors that another thread rewrites while we read them: address and length change between being looked at and being used, if we
/// were to read them twice.
#[test]
fn descriptors_rewritten_while_they_are_read() {
    let mut test = Test::new();
    for round in 0..=REPEATS / PORTS as u64 {
        let hostile = test.start_all(feature::INDIRECT_DESC, |hostile, _| {
            (0..2).for_each(|ring| hostile.all_good(ring));
        });
        let ups = test.shared.ups.load(Ordering::Relaxed);
        let (begin, mut random) = (Instant::now(), Random(0x5eed_0010 + round));
        while test.shared.ups.load(Ordering::Relaxed) == ups {
            hostile.iter().for_each(|h| scribble(h, &mut random));
            assert!(begin.elapsed() < SOON, "no link comes up");
        }
        // The others come up meanwhile, or are found out before.
        let begin = Instant::now();
        while begin.elapsed() < Duration::from_millis(300) {
            hostile.iter().for_each(|h| scribble(h, &mut random));
        }
        // Those that were never seen in a bad moment.
        hostile.iter().for_each(|h| drop(h.connection.send_raw(&[0xff; 12], &[])));
        hostile.iter().for_each(|h| closed(&h.connection));
        drop(hostile);
        if round == 0 {
            test.begin();
        }
    }
    let faults = test.new_faults();
    assert_eq!(faults.values().sum::<u64>(), REPEATS, "{faults:?}");
    assert!(faults["bad_descriptor"] > REPEATS / 4, "{faults:?}");
    test.finish_clean();
}

/// Rewrites a descriptor of each ring, good or bad, and goes on offering them.
fn scribble(h: &Hostile, random: &mut Random) {
    for ring in 0..2 {
        let n = random.below(SIZE.into()) as u16;
        let buffer = Hostile::buffer(ring, n);
        let flags = if ring == 0 { WRITE } else { 0 };
        let addr = [buffer, GPA + BYTES - 1, buffer + 1, u64::MAX][random.below(4) as usize];
        let len = [72, 1518, 0, u32::MAX][random.below(4) as usize];
        let lap = if h.packed && random.below(2) == 0 { LAP } else { 0 };
        h.ring_desc(ring, n, addr, len, flags ^ lap, 0);
        // Bad for an instant only, mostly.
        if random.below(64) != 0 {
            h.good(ring, n);
        }
        if !h.packed {
            let used = h.read_word(desc_at(ring) + USED + 2);
            h.write(desc_at(ring) + AVAIL + 2, &used.wrapping_add(SIZE).to_le_bytes());
        }
    }
}
