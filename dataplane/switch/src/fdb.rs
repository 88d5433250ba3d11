//! The forwarding database: where each MAC of each bridge was last seen.
//!
//! It is state, not configuration: it survives the publishing of tables, and all workers and the control thread use
//! it at once without locks. An entry is two words, four entries are one cache line (a bucket), and a key lives in its
//! home bucket or one of the next few. Four MACs that count up have one home, where each has its slot: so many can't fill it,
//! those of one vendor or of virtual machines take few cache lines, and the first slot looked into is nearly always the right one. The
//! hash is seeded, so that a peer can't choose more MACs than these that meet in one bucket.
//!
//! Order of writes: a slot is claimed by exchanging its key for `RESERVED`, then the value is written, then the key.
//! A reader compares the key before and after it reads the value, so it never takes one bridge's value for another's.
//! To free a slot its key is exchanged for `RESERVED` too, then its value for `GONE`: who changes a value exchanges what he has seen,
//! so that one of both knows what was there last, and each port's count of entries stays exact without a lock.

use crate::egress::{Egress, MAX_PORTS};
use crate::mem::{self, Line as Bucket, Lines};
use crate::sizes::WINDOW;
use std::ops::Range;

#[cfg(all(test, feature = "loom"))]
mod models;

#[cfg(feature = "loom")]
use loom::sync::atomic::{AtomicU16, AtomicU64, AtomicUsize, Ordering::*};
#[cfg(not(feature = "loom"))]
use std::sync::atomic::{AtomicU16, AtomicU64, AtomicUsize, Ordering::*};

/// A key: bridge in the upper 16 bits, MAC in the lower 48, first byte on the wire highest.
#[inline(always)]
pub const fn key(bridge: u16, mac: [u8; 6]) -> u64 {
    (bridge as u64) << 48 | u64::from_be_bytes([0, 0, mac[0], mac[1], mac[2], mac[3], mac[4], mac[5]])
}

/// One entry, as shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Bridge number.
    pub bridge: u16,
    /// MAC address.
    pub mac: [u8; 6],
    /// Where it is.
    pub egress: Egress,
    /// Whether it was configured and neither moves nor ages.
    pub is_static: bool,
    /// Seconds since it was last seen (0 for a static one).
    pub age: u16,
}

/// Never used: nothing was ever pushed on to the next bucket. No key of ours is this or one of the next two, because bridges
/// count from 1.
const EMPTY: u64 = 0;
/// Free again in a bucket that was full: a search goes on past it.
const FREE: u64 = 1;
/// Claimed by a writer.
const RESERVED: u64 = 2;

const STATIC: u64 = 1 << 48;
/// The value of a slot that is being freed: no entry's, and static, so that nobody changes it.
const GONE: u64 = u64::MAX;
const SLOTS: usize = 4;

/// The `n`th slot in which `key` is looked for.
#[inline(always)]
const fn nth_slot(key: u64, n: usize) -> usize {
    (key as usize + n) % SLOTS
}

/// Secret numbers to hash with.
#[derive(Clone, Copy)]
struct Seed {
    mask: u64,
    /// Odd.
    factors: [u32; 2],
    marks: [u64; 4],
}

impl Seed {
    /// From two random numbers.
    fn new(random: [u64; 2]) -> Seed {
        // SplitMix64 (Steele, Lea and Flood, 2014).
        let mut state = random[0];
        let mut next = || {
            state = state.wrapping_add(GOLDEN);
            let mut z = state ^ random[1];
            z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
            z ^ z >> 31
        };
        Seed {
            mask: next(),
            factors: [next(), next()].map(|factor| factor as u32 | 1),
            marks: [(); 4].map(|()| next()),
        }
    }
}

/// 2^64 divided by the golden ratio.
const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;
const LOW: u64 = u32::MAX as u64;

/// A bucket: the slots' keys, then their values.
impl Bucket {
    #[inline(always)]
    fn key(&self, slot: usize) -> &AtomicU64 {
        &self.0[slot]
    }

    #[inline(always)]
    fn value(&self, slot: usize) -> &AtomicU64 {
        &self.0[SLOTS + slot]
    }

    fn keys(&self) -> impl Iterator<Item = u64> {
        self.0[..SLOTS].iter().map(|key| key.load(Acquire))
    }

    /// The value word of `key` and its content.
    #[inline(always)]
    fn find(&self, key: u64) -> Option<(&AtomicU64, u64)> {
        for n in 0..SLOTS {
            let slot = nth_slot(key, n);
            if self.key(slot).load(Acquire) == key {
                let value = self.value(slot).load(Acquire);
                if self.key(slot).load(Acquire) == key {
                    return Some((self.value(slot), value));
                }
            }
        }
        None
    }

    /// Whether a search need not go on to the next bucket.
    fn is_last(&self) -> bool {
        self.keys().any(|key| key == EMPTY)
    }
}

/// A number that many threads count and that keeps its limit.
struct Count {
    now: AtomicUsize,
    limit: AtomicUsize,
}

impl Count {
    fn new(limit: usize) -> Count {
        Count { now: AtomicUsize::new(0), limit: AtomicUsize::new(limit) }
    }

    /// One more, unless these are as many as may be.
    fn take(&self) -> bool {
        let limit = self.limit.load(Relaxed);
        // Looked at first: who asks in vain, and again with every frame, must not write.
        if self.now.load(Relaxed) >= limit {
            return false;
        }
        // Counted first, so that many workers together keep the limit.
        let is_taken = self.now.fetch_add(1, Relaxed) < limit;
        if !is_taken {
            self.give_back();
        }
        is_taken
    }

    /// One less.
    fn give_back(&self) {
        self.now.fetch_sub(1, Relaxed);
    }
}

/// What a port, or all tunnels together, have of the table. On cache lines of their own: what one port learns costs no other a miss.
#[repr(align(64))]
struct Share {
    /// Learned entries.
    macs: Count,
    /// How often entries moved away or were forgotten other than by age.
    epoch: AtomicU16,
}

/// The forwarding database.
pub struct Fdb {
    buckets: Lines,
    seed: Seed,
    used: Count,
    /// By [`Egress::share`].
    shares: Box<[Share]>,
    /// How often entries were taken out other than by age.
    epoch: AtomicU16,
}

/// The workers' side of an [`Fdb`]. By value, so that writes to frames don't make the compiler read it again each time.
#[derive(Clone, Copy)]
pub struct View<'a> {
    buckets: &'a [Bucket],
    seed: Seed,
    epoch: u16,
    fdb: &'a Fdb,
}

impl<'a> View<'a> {
    /// The home bucket of `key`. Made so that the compiler can do it for several keys at a time: products are of 32 bits by 32.
    #[inline(always)]
    pub fn home(self, key: u64) -> u32 {
        // Twice: MACs that count up, as those of one vendor or of virtual machines do, lie on a line, which a single
        // multiplication by an unlucky seed folds onto few buckets.
        let Seed { mask, factors: [low, high], .. } = self.seed;
        let key = (key / SLOTS as u64) ^ mask;
        let once = ((key & LOW) * u64::from(low)).wrapping_add((key >> 32) * u64::from(high));
        let twice = ((once ^ once >> 32) & LOW) * (GOLDEN >> 32);
        (twice ^ twice >> 32) as u32 & self.mask() as u32
    }

    /// Secret numbers.
    #[inline(always)]
    pub(crate) fn factors(self) -> [u64; 4] {
        self.seed.marks
    }

    /// Another number whenever entries that point to `place`'s port, or, if it is a tunnel, to any, may have moved away or been taken
    /// out that were fresh. What is looked up after this was called is as new.
    #[inline(always)]
    pub(crate) fn epoch(self, place: Egress) -> u16 {
        self.epoch.wrapping_add(self.fdb.shares[place.share()].epoch.load(Acquire))
    }

    /// The number of buckets is a power of two. Written so, the compiler sees that a masked index needs no check.
    #[inline(always)]
    fn mask(self) -> usize {
        self.buckets.len() - 1
    }

    /// Asks the cache for a home bucket.
    #[inline(always)]
    pub fn prefetch(self, home: u32) {
        mem::prefetch_read(self.buckets.as_ptr().wrapping_add(home as usize));
    }

    /// Where `key`, whose home is `home`, is.
    #[inline(always)]
    pub fn lookup(self, key: u64, home: u32) -> Option<Egress> {
        self.find(key, home).map(|(_, value)| Egress::from_bits(value as u32))
    }

    /// The slot's value word and its content.
    #[inline(always)]
    fn find(self, key: u64, home: u32) -> Option<(&'a AtomicU64, u64)> {
        let bucket = &self.buckets[home as usize & self.mask()];
        if let Some(found) = bucket.find(key) {
            return Some(found);
        }
        if bucket.is_last() { None } else { self.find_further(key, home) }
    }

    /// [`View::find`] for a key that is not in its home bucket, which was full.
    #[cold]
    #[inline(never)]
    fn find_further(self, key: u64, home: u32) -> Option<(&'a AtomicU64, u64)> {
        for step in 1..WINDOW {
            let bucket = &self.buckets[(home as usize + step) & self.mask()];
            let found = bucket.find(key);
            if found.is_some() || bucket.is_last() {
                return found;
            }
        }
        None
    }

    /// Notes that `key` was seen at `egress` in second `now`. Writes at most once a second and entry that stays where it is, at once
    /// if it is another place, and never to a static entry.
    #[inline(always)]
    pub fn learn(self, key: u64, home: u32, egress: Egress, now: u16) -> Learned {
        let fresh = egress.bits() as u64 | (now as u64) << 32;
        match self.find(key, home) {
            Some((_, old)) if old == fresh => Learned::Known,
            Some((word, old)) => self.fdb.refresh(word, old, fresh),
            None => self.fdb.insert(key, home, fresh),
        }
    }
}

/// What [`View::learn`] did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Learned {
    /// Nothing: the entry was fresh, or is not to be changed.
    Known,
    /// A new entry, or an old one with a new time, or a new VLAN or VTEP of the same port.
    Updated,
    /// An entry that pointed to another port.
    Moved,
    /// Nothing: another worker wrote at the same time. The next frame is to try again.
    Again,
    /// No: the table holds as many as it may.
    Full,
    /// No: the port has as many as it may. An entry that was to move there stays where it is.
    Limited,
}

impl Fdb {
    /// A table for `size` MACs (32 bytes each), hashed with `seed`.
    pub fn new(size: usize, seed: [u64; 2]) -> Self {
        // Half full at most, so that a key is nearly always in its home bucket.
        let buckets = (size * 2 / SLOTS).next_power_of_two().max(WINDOW);
        let buckets = Lines::zeroed(buckets);
        let share = |_| Share { macs: Count::new(usize::MAX), epoch: AtomicU16::new(0) };
        let shares = (0..=MAX_PORTS).map(share).collect();
        Fdb { buckets, seed: Seed::new(seed), used: Count::new(size), shares, epoch: AtomicU16::new(0) }
    }

    /// How many MACs it holds now.
    pub fn used(&self) -> usize {
        self.used.now.load(Relaxed)
    }

    /// How many MACs it may hold.
    pub fn size(&self) -> usize {
        self.used.limit.load(Relaxed)
    }

    /// How many learned MACs are behind `place`'s port, or, if it is a tunnel, behind all tunnels.
    pub fn learned(&self, place: Egress) -> usize {
        self.shares[place.share()].macs.now.load(Relaxed)
    }

    /// How many may be from now on; at first any number. If there are more already, they stay.
    pub fn set_limit(&self, place: Egress, macs: usize) {
        self.shares[place.share()].macs.limit.store(macs, Relaxed);
    }

    /// Bytes of memory.
    pub fn memory(&self) -> usize {
        std::mem::size_of_val(&*self.buckets)
    }

    /// What workers use: the few words that a loop keeps in registers.
    #[inline(always)]
    pub fn view(&self) -> View<'_> {
        View { buckets: &self.buckets, seed: self.seed, epoch: self.epoch.load(Relaxed), fdb: self }
    }

    fn mask(&self) -> usize {
        self.view().mask()
    }

    /// The share that a value's entry counts for.
    fn share(&self, value: u64) -> &Share {
        &self.shares[Egress::from_bits(value as u32).share()]
    }

    #[cold]
    fn refresh(&self, word: &AtomicU64, old: u64, fresh: u64) -> Learned {
        if old & STATIC != 0 || Egress::from_bits(fresh as u32) == Egress::NOWHERE {
            return Learned::Known;
        }
        let (from, to) = (self.share(old), self.share(fresh));
        let changes_hands = !std::ptr::eq(from, to);
        if changes_hands && !to.macs.take() {
            return Learned::Limited;
        }
        // Exchanged, not stored: if the slot was given to another key meanwhile, the value is not `old` any more.
        if word.compare_exchange(old, fresh, AcqRel, Relaxed).is_err() {
            if changes_hands {
                to.macs.give_back();
            }
            return Learned::Again;
        }
        if changes_hands {
            from.macs.give_back();
        }
        if old as u32 != fresh as u32 {
            // After the exchange: whoever reads this finds the new place.
            from.epoch.fetch_add(1, Release);
        }
        if changes_hands { Learned::Moved } else { Learned::Updated }
    }

    #[cold]
    fn insert(&self, key: u64, home: u32, value: u64) -> Learned {
        if Egress::from_bits(value as u32) == Egress::NOWHERE {
            return Learned::Known;
        }
        let share = (value & STATIC == 0).then(|| &self.share(value).macs);
        if share.is_some_and(|share| !share.take()) {
            return Learned::Limited;
        }
        let learned = if self.used.take() { self.put(key, home, value) } else { Learned::Full };
        if learned != Learned::Updated {
            share.inspect(|share| share.give_back());
        }
        learned
    }

    /// [`Fdb::insert`], after it was counted.
    fn put(&self, key: u64, home: u32, value: u64) -> Learned {
        for step in 0..WINDOW {
            let bucket = &self.buckets[(home as usize + step) & self.mask()];
            for n in 0..SLOTS {
                let slot = nth_slot(key, n);
                let word = bucket.key(slot);
                let mut k = word.load(Acquire);
                if k == EMPTY || k == FREE {
                    match word.compare_exchange(k, RESERVED, AcqRel, Acquire) {
                        Ok(_) => {
                            bucket.value(slot).store(value, Release);
                            word.store(key, Release);
                            return Learned::Updated;
                        }
                        Err(other) => k = other,
                    }
                }
                if k == key {
                    self.used.give_back();
                    return Learned::Again;
                }
            }
        }
        self.used.give_back();
        Learned::Full
    }

    /// Adds or replaces a static entry. Control thread only. False if there is no room.
    pub fn set_static(&self, key: u64, egress: Egress) -> bool {
        let (home, value) = (self.view().home(key), egress.bits() as u64 | STATIC);
        for _ in 0..100 {
            match self.view().find(key, home) {
                Some((word, old)) => {
                    if word.compare_exchange(old, value, AcqRel, Relaxed).is_ok() {
                        if old & STATIC == 0 {
                            self.share(old).macs.give_back();
                        }
                        return true;
                    }
                }
                None => match self.insert(key, home, value) {
                    Learned::Updated => return true,
                    Learned::Full => return false,
                    _ => {}
                },
            }
        }
        false
    }

    /// Removes `key`, static or not. Control thread only. Whether it was there.
    pub fn remove(&self, key: u64) -> bool {
        let home = self.view().home(key) as usize;
        let removed = (0..WINDOW).any(|step| {
            let bucket = &self.buckets[(home + step) & self.mask()];
            (0..SLOTS).any(|slot| bucket.key(slot).load(Acquire) == key && self.free(bucket, slot, key))
        });
        self.epoch.fetch_add(1, Release);
        removed
    }

    /// Removes all entries for which `gone` says so. Control thread only. How many.
    pub fn flush(&self, mut gone: impl FnMut(&Entry) -> bool) -> usize {
        let removed = self.sweep(0..self.buckets.len(), 0, |entry, _| gone(entry));
        self.epoch.fetch_add(1, Release);
        removed
    }

    /// Forgets what was learned behind the ports and the tunnels that `places` are, and all of `bridges`, in those of the table's
    /// [`Fdb::buckets`], so that the control thread can spread the work. How many were forgotten.
    pub fn forget(&self, buckets: Range<usize>, places: &[Egress], bridges: &[u16]) -> usize {
        // Looked at for each entry.
        let set = |numbers: &mut dyn Iterator<Item = usize>| {
            let mut set = vec![false; 1 << 16];
            numbers.for_each(|number| set[number] = true);
            set
        };
        let index = |place: &Egress| usize::from(place.index());
        let ports = set(&mut places.iter().filter(|place| !place.is_tunnel()).map(index));
        let tunnels = set(&mut places.iter().filter(|place| place.is_tunnel()).map(index));
        let gone = set(&mut bridges.iter().map(|bridge| usize::from(*bridge)));
        let removed = self.sweep(buckets, 0, |entry, _| {
            let behind = if entry.egress.is_tunnel() { &tunnels } else { &ports };
            !entry.is_static && behind[index(&entry.egress)] || gone[usize::from(entry.bridge)]
        });
        if removed != 0 {
            for place in places {
                self.shares[place.share()].epoch.fetch_add(1, Release);
            }
            if !bridges.is_empty() {
                self.epoch.fetch_add(1, Release);
            }
        }
        removed
    }

    /// How many buckets the table has.
    pub fn buckets(&self) -> usize {
        self.buckets.len()
    }

    /// Forgets what was not seen for `ageing` seconds, in one part of `parts` of the table, so that the control thread
    /// can spread the work. How many were forgotten.
    pub fn age(&self, part: usize, parts: usize, now: u16, ageing: u16) -> usize {
        let n = self.buckets.len();
        self.sweep(part * n / parts..(part + 1) * n / parts, now, |entry, _| !entry.is_static && entry.age > ageing)
    }

    /// All entries, in no order.
    pub fn entries(&self, now: u16) -> Vec<Entry> {
        let mut all = Vec::new();
        self.sweep(0..self.buckets.len(), now, |entry, _| {
            all.push(*entry);
            false
        });
        all
    }

    fn sweep(&self, range: Range<usize>, now: u16, mut gone: impl FnMut(&Entry, u64) -> bool) -> usize {
        let mut removed = 0;
        for at in range {
            let bucket = &self.buckets[at];
            for slot in 0..SLOTS {
                let key = bucket.key(slot).load(Acquire);
                if key == FREE {
                    self.reclaim(at, slot);
                }
                if key <= RESERVED {
                    continue;
                }
                let value = bucket.value(slot).load(Acquire);
                let is_static = value & STATIC != 0;
                let mac = key.to_be_bytes();
                let entry = Entry {
                    bridge: (key >> 48) as u16,
                    mac: [mac[2], mac[3], mac[4], mac[5], mac[6], mac[7]],
                    egress: Egress::from_bits(value as u32),
                    is_static,
                    // A worker's clock may be a step ahead of ours: that is no age, not 65,535 seconds.
                    age: match now.wrapping_sub((value >> 32) as u16) {
                        _ if is_static => 0,
                        age if age > u16::MAX - 60 => 0,
                        age => age,
                    },
                };
                if gone(&entry, key) && self.free(bucket, slot, key) {
                    removed += 1;
                }
            }
        }
        removed
    }

    /// Frees a slot that has `key`.
    fn free(&self, bucket: &Bucket, slot: usize, key: u64) -> bool {
        // In a bucket with an empty slot nothing was ever pushed on to the next one; a full one must stay passable.
        let free = if bucket.is_last() { EMPTY } else { FREE };
        if bucket.key(slot).compare_exchange(key, RESERVED, AcqRel, Relaxed).is_err() {
            return false;
        }
        let value = bucket.value(slot).swap(GONE, AcqRel);
        bucket.key(slot).store(free, Release);
        self.used.give_back();
        if value & STATIC == 0 {
            self.share(value).macs.give_back();
        }
        true
    }

    /// Makes a free slot empty again once no key is further along because this bucket was full; searches then end here.
    fn reclaim(&self, at: usize, slot: usize) {
        let mut passed = false;
        for step in 1..WINDOW {
            let next = &self.buckets[(at + step) & self.mask()];
            passed |= next.keys().any(|k| {
                k == RESERVED
                    || k > RESERVED && (at.wrapping_sub(self.view().home(k) as usize) & self.mask()) < WINDOW - step
            });
            // Nothing was pushed on beyond such a bucket.
            if passed || next.is_last() {
                break;
            }
        }
        if !passed {
            // A worker that passes by at this very moment may still put a key further along: that entry is then not
            // found, the frame is flooded and its MAC learned again here.
            let _ = self.buckets[at].key(slot).compare_exchange(FREE, EMPTY, AcqRel, Relaxed);
        }
    }
}

#[cfg(all(test, not(feature = "loom")))]
mod tests {
    use super::*;
    use std::collections::HashMap;

    fn mac(n: u32) -> [u8; 6] {
        let n = n.to_be_bytes();
        [2, 0, n[0], n[1], n[2], n[3]]
    }

    fn find(fdb: &Fdb, key: u64) -> Option<Egress> {
        fdb.view().lookup(key, fdb.view().home(key))
    }

    #[test]
    fn a_key_is_bridge_and_mac() {
        assert_eq!(key(0x0102, [0xa, 0xb, 0xc, 0xd, 0xe, 0xf]), 0x0102_0a0b_0c0d_0e0f);
    }

    #[test]
    fn an_egress_keeps_its_parts() {
        let e = Egress::port(1023, 4094);
        assert!((e.index(), e.vlan(), e.is_tunnel()) == (1023, 4094, false));
        assert!((Egress::tunnel(4095).index(), Egress::tunnel(4095).is_tunnel()) == (4095, true));
    }

    #[test]
    fn learns_moves_ages_and_keeps_statics() {
        let fdb = Fdb::new(64, [1, 2]);
        let (a, b) = (key(1, mac(1)), key(1, mac(2)));
        assert_eq!(fdb.view().learn(a, fdb.view().home(a), Egress::port(3, 0), 10), Learned::Updated);
        assert_eq!(fdb.view().learn(a, fdb.view().home(a), Egress::port(3, 0), 10), Learned::Known);
        assert_eq!(find(&fdb, a), Some(Egress::port(3, 0)));
        assert_eq!(find(&fdb, key(2, mac(1))), None, "another bridge's MAC is another MAC");
        assert_eq!(fdb.view().learn(a, fdb.view().home(a), Egress::port(3, 0), 11), Learned::Updated);
        assert_eq!(fdb.view().learn(a, fdb.view().home(a), Egress::port(4, 7), 11), Learned::Moved);
        assert_eq!(find(&fdb, a), Some(Egress::port(4, 7)));
        assert!(fdb.set_static(b, Egress::tunnel(9)));
        assert_eq!(fdb.view().learn(b, fdb.view().home(b), Egress::port(1, 0), 12), Learned::Known);
        assert_eq!(find(&fdb, b), Some(Egress::tunnel(9)));
        assert_eq!(fdb.age(0, 1, 12, 1), 0);
        assert_eq!(fdb.age(0, 1, 13, 1), 1);
        assert_eq!((find(&fdb, a), fdb.used()), (None, 1));
        assert!(fdb.remove(b) && !fdb.remove(b));
        assert_eq!(fdb.used(), 0);
    }

    #[test]
    fn a_clock_that_is_ahead_is_no_age() {
        let fdb = Fdb::new(64, [1, 2]);
        let a = key(1, mac(1));
        fdb.view().learn(a, fdb.view().home(a), Egress::port(3, 0), 11);
        assert_eq!(fdb.age(0, 1, 10, 1), 0);
        assert_eq!(fdb.entries(10)[0].age, 0);
        // The longest ageing there is ends too.
        assert_eq!(fdb.age(0, 1, 11 + 32_767, 32_767), 0);
        assert_eq!(fdb.age(0, 1, 11 + 32_768, 32_767), 1);
    }

    #[test]
    fn holds_its_limit_and_no_more() {
        let fdb = Fdb::new(1000, [3, 4]);
        for n in 0..1000 {
            let k = key(1, mac(n));
            assert_eq!(fdb.view().learn(k, fdb.view().home(k), Egress::port(1, 0), 0), Learned::Updated, "MAC {n}");
        }
        let k = key(1, mac(1000));
        assert_eq!(fdb.view().learn(k, fdb.view().home(k), Egress::port(1, 0), 0), Learned::Full);
        assert!((0..1000).all(|n| find(&fdb, key(1, mac(n))).is_some()));
        assert_eq!(fdb.flush(|e| e.egress.index() == 1), 1000);
        assert_eq!(fdb.used(), 0);
    }

    /// Whatever the seed is, and wherever in the address the MACs count.
    #[test]
    fn a_million_macs_fit_in_64_mib() {
        let mut fdb = Fdb::new(1 << 20, [0, 0]);
        assert!(fdb.memory() <= 64 << 20);
        for seed in 0..24u64 {
            fdb.seed = Seed::new([seed, 3]);
            // Those that count up fill buckets four at a time.
            let (shift, least) = [(0, 700_000), (8, 950_000)][seed as usize % 2];
            let nth = |n: u64| key(1, [2, 0, 0, 0, 0, 0]) + (n << shift);
            for n in 0..1 << 20 {
                let k = nth(n);
                let learned = fdb.view().learn(k, fdb.view().home(k), Egress::port(1, 0), 0);
                assert_eq!(learned, Learned::Updated, "MAC {n} of seed {seed}");
            }
            assert!((0..1 << 20).all(|n| find(&fdb, nth(n)).is_some()));
            let at_home = (0..1 << 20).filter(|&n| {
                let k = nth(n);
                fdb.buckets[fdb.view().home(k) as usize].keys().any(|slot| slot == k)
            });
            assert!(at_home.count() > least, "most are where they are looked for first");
            assert_eq!(fdb.flush(|_| true), 1 << 20);
            assert_eq!(fdb.age(0, 1, 0, 1), 0);
        }
    }

    /// However addresses are alike, and whatever the seed, few are beside their home: as few as if they were random, 4 % of a table that
    /// is half full.
    #[test]
    fn keys_that_are_alike_spread() {
        const KEYS: u64 = 1 << 13;
        let patterns: [fn(u64) -> u64; 8] = [
            |n| n << 2,
            |n| n << 8,
            |n| n << 16,
            |n| n << 32,
            |n| n * 1000,
            |n| (n % 64) << 36 | (n / 64) << 2,
            |n| n << 34 | n << 2,
            |n| (n % 4096) << 48 | (n / 4096) << 2,
        ];
        for (which, pattern) in patterns.into_iter().enumerate() {
            for seed in 0..50 {
                let fdb = Fdb::new(KEYS as usize, [seed, 1]);
                let mut buckets = vec![0; fdb.buckets.len()];
                for n in 0..KEYS {
                    buckets[fdb.view().home((1 << 48) + pattern(n)) as usize] += 1;
                }
                let beside: u64 = buckets.iter().map(|&keys: &u64| keys.saturating_sub(SLOTS as u64)).sum();
                assert!(beside < KEYS / 20, "{beside} of {KEYS} keys of pattern {which} with seed {seed}");
            }
        }
    }

    /// Random operations against a map that can't be wrong.
    #[test]
    fn agrees_with_a_naive_model() {
        let fdb = Fdb::new(256, [7, 8]);
        let mut model: HashMap<u64, Egress> = HashMap::new();
        let mut x = 88172645463325252u64;
        for round in 0..60_000u32 {
            x ^= x << 13;
            x ^= x >> 7;
            x ^= x << 17;
            let k = key(1 + (x >> 40) as u16 % 3, mac((x >> 8) as u32 % 80));
            match x % 8 {
                0 => assert_eq!(fdb.remove(k), model.remove(&k).is_some()),
                1 if round % 100 == 0 => {
                    let port = (x >> 20) as u16 % 5;
                    let before = model.len();
                    model.retain(|_, e| e.index() != port);
                    assert_eq!(fdb.flush(|e| e.egress.index() == port), before - model.len());
                }
                2..=4 => {
                    let egress = Egress::port((x >> 20) as u16 % 5, 0);
                    // The round is the second, so every move is taken.
                    assert_ne!(fdb.view().learn(k, fdb.view().home(k), egress, round as u16), Learned::Full);
                    model.insert(k, egress);
                }
                _ => assert_eq!(find(&fdb, k), model.get(&k).copied()),
            }
            assert_eq!(fdb.used(), model.len());
        }
    }

    #[test]
    fn a_move_gives_its_old_port_a_new_epoch() {
        let fdb = Fdb::new(64, [1, 2]);
        let epochs =
            || [Egress::port(3, 0), Egress::port(4, 0), Egress::tunnel(0)].map(|place| fdb.view().epoch(place));
        let learn = |egress, now| fdb.view().learn(key(1, mac(1)), fdb.view().home(key(1, mac(1))), egress, now);
        let mut expected = epochs();
        for (egress, now, left, learned) in [
            (Egress::port(3, 0), 1, None, Learned::Updated),
            (Egress::port(3, 0), 2, None, Learned::Updated),
            (Egress::port(3, 7), 2, Some(0), Learned::Updated),
            (Egress::port(4, 0), 2, Some(0), Learned::Moved),
            (Egress::tunnel(5), 2, Some(1), Learned::Moved),
            (Egress::tunnel(6), 3, Some(2), Learned::Updated),
            (Egress::port(3, 0), 3, Some(2), Learned::Moved),
        ] {
            assert_eq!(learn(egress, now), learned, "{egress:?}");
            left.inspect(|&port: &usize| expected[port] += 1);
            assert_eq!(epochs(), expected, "{egress:?}");
        }
    }

    /// Whoever has its share keeps it, gets no more, and takes nothing of the others'.
    #[test]
    fn a_port_has_its_share_and_no_more() {
        let fdb = Fdb::new(100, [1, 2]);
        let learn = |n: u32, egress| fdb.view().learn(key(1, mac(n)), fdb.view().home(key(1, mac(n))), egress, 0);
        let (few, many, tunnel) = (Egress::port(1, 0), Egress::port(2, 0), Egress::tunnel(3));
        fdb.set_limit(few, 10);
        fdb.set_limit(tunnel, 5);
        let learned = || [few, many, tunnel].map(|place| fdb.learned(place));
        (0..10).for_each(|n| assert_eq!(learn(n, few), Learned::Updated));
        assert_eq!((learn(10, few), learn(10, Egress::port(1, 7))), (Learned::Limited, Learned::Limited));
        (20..25).for_each(|n| assert_eq!(learn(n, Egress::tunnel(n as u16)), Learned::Updated));
        assert_eq!(learn(25, tunnel), Learned::Limited, "all tunnels share");
        (30..115).for_each(|n| assert_eq!(learn(n, many), Learned::Updated));
        assert_eq!((learn(115, many), learn(11, few), fdb.used()), (Learned::Full, Learned::Limited, 100));
        // A move counts at the new place, and is refused if that is full.
        assert_eq!((learn(30, few), find(&fdb, key(1, mac(30)))), (Learned::Limited, Some(many)));
        assert_eq!((learn(0, Egress::port(1, 7)), learn(0, many)), (Learned::Updated, Learned::Moved));
        assert_eq!((learn(30, few), learned()), (Learned::Moved, [10, 85, 5]));
        // What is configured is nobody's share.
        assert!(fdb.set_static(key(1, mac(30)), few));
        assert_eq!(learned(), [9, 85, 5]);
        assert!(fdb.remove(key(1, mac(30))) && fdb.remove(key(1, mac(31))));
        assert_eq!(learned(), [9, 84, 5]);
        // A lower limit takes nothing away.
        fdb.set_limit(many, 3);
        assert_eq!((learn(0, many), learn(200, many), learned()), (Learned::Known, Learned::Limited, [9, 84, 5]));
        fdb.set_limit(many, 1000);
        assert_eq!(learn(200, many), Learned::Updated);
        assert_eq!(fdb.age(0, 1, 9, 3), 99);
        assert_eq!(learned(), [0, 0, 0]);
    }

    #[test]
    fn what_was_learned_behind_a_port_is_forgotten_in_parts() {
        let fdb = Fdb::new(1000, [1, 2]);
        let places = [Egress::port(1, 0), Egress::port(1, 7), Egress::port(2, 0), Egress::tunnel(1)];
        for n in 0..400 {
            let k = key(1, mac(n));
            fdb.view().learn(k, fdb.view().home(k), places[n as usize % 4], 0);
        }
        assert!(fdb.set_static(key(2, mac(0)), Egress::port(1, 0)));
        let epochs = || places.map(|place| fdb.view().epoch(place));
        let before = epochs();
        let forget = |of: &[Egress], bridges: &[u16]| {
            let (parts, n) = (8, fdb.buckets());
            (0..parts).map(|part| fdb.forget(part * n / parts..(part + 1) * n / parts, of, bridges)).sum::<usize>()
        };
        assert_eq!((forget(&places[..1], &[]), fdb.used()), (200, 201));
        assert!(fdb.entries(0).iter().all(|e| e.is_static || e.egress != places[0] && e.egress != places[1]));
        assert_eq!(places.map(|place| fdb.learned(place)), [0, 0, 100, 100]);
        // What workers know of others' addresses stays valid.
        let after = epochs();
        assert!(after[0] != before[0] && after[2..] == before[2..]);
        assert_eq!((forget(&places[..1], &[]), epochs()), (0, after));
        // Behind a tunnel, not behind all.
        assert_eq!((forget(&[Egress::tunnel(2)], &[]), forget(&places[3..], &[]), fdb.used()), (0, 100, 101));
        assert_eq!((forget(&places[2..], &[3]), fdb.used()), (100, 1));
        // Of a bridge static ones too; and who has found one looks again.
        let before = epochs();
        assert_eq!((forget(&[], &[2]), fdb.used()), (1, 0));
        assert!(epochs().iter().zip(before).all(|(now, then)| *now != then));
    }

    #[test]
    fn workers_may_learn_at_once() {
        let fdb = Fdb::new(4096, [9, 10]);
        std::thread::scope(|s| {
            for port in 0..4 {
                let fdb = &fdb;
                s.spawn(move || {
                    for n in 0..200_000u32 {
                        let k = key(1 + port, mac(n % 1000));
                        fdb.view().learn(k, fdb.view().home(k), Egress::port(port, 0), (n / 1000) as u16);
                        if let Some(e) = find(fdb, k) {
                            assert_eq!(e.index(), port, "one bridge's value is never another's");
                        }
                    }
                });
            }
            for _ in 0..200 {
                fdb.flush(|e| e.mac[5] % 3 == 0);
            }
        });
    }

    /// However many workers learn, move and forget the same addresses: each port's count is that of its entries.
    #[test]
    fn counts_stay_exact() {
        let fdb = Fdb::new(4096, [9, 10]);
        let learned = |port| fdb.learned(Egress::port(port, 0));
        (0..4).for_each(|port| fdb.set_limit(Egress::port(port, 0), 100));
        std::thread::scope(|s| {
            for port in 0..4 {
                let (fdb, learned) = (&fdb, &learned);
                s.spawn(move || {
                    for n in 0..200_000u32 {
                        let k = key(1, mac(n.wrapping_mul(n) % 211));
                        fdb.view().learn(k, fdb.view().home(k), Egress::port(port, 0), (n / 1000) as u16);
                        assert!(learned(port) <= 100 + 4, "those that are refused are counted for a moment");
                    }
                });
            }
            for n in 0..200 {
                fdb.flush(|e| e.mac[5] % 3 == 0);
                fdb.set_static(key(1, mac(n)), Egress::port(5, 0));
                fdb.remove(key(1, mac(n)));
                std::thread::yield_now();
            }
        });
        let entries = fdb.entries(0);
        for port in 0..4 {
            assert_eq!(entries.iter().filter(|e| e.egress.index() == port).count(), learned(port), "port {port}");
        }
        assert!(!entries.is_empty() && entries.len() == fdb.used());
    }
}
