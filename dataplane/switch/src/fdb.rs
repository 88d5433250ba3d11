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

use crate::mem::{self, Line as Bucket, Lines};
use std::sync::atomic::{AtomicU16, AtomicU64, AtomicUsize, Ordering::*};

/// Where a frame leaves, or how others reach the place it came from: a port with the VLAN tag to push (0: none), or a
/// tunnel. One word, so that an FDB entry can hold it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Egress(u32);

const TUNNEL: u32 = 1 << 31;

impl Egress {
    /// Port `port`, untagged (`vlan` 0) or tagged.
    #[inline(always)]
    pub const fn port(port: u16, vlan: u16) -> Self {
        Egress((vlan as u32) << 16 | port as u32)
    }

    /// Tunnel number `tunnel` of the tables.
    #[inline(always)]
    pub const fn tunnel(tunnel: u16) -> Self {
        Egress(TUNNEL | tunnel as u32)
    }

    /// A tunnel that isn't known yet: [`View::learn`] learns nothing there.
    pub const NOWHERE: Egress = Egress(u32::MAX);

    /// Another number for each place.
    #[inline(always)]
    pub(crate) const fn bits(self) -> u32 {
        self.0
    }

    /// Whether it is a port without a tag.
    #[inline(always)]
    pub const fn is_untagged_port(self) -> bool {
        self.0 <= u16::MAX as u32
    }

    /// Whether it is a tunnel.
    #[inline(always)]
    pub const fn is_tunnel(self) -> bool {
        self.0 & TUNNEL != 0
    }

    /// The port's or tunnel's number.
    #[inline(always)]
    pub const fn index(self) -> u16 {
        self.0 as u16
    }

    /// The VLAN tag to push; 0 for none.
    #[inline(always)]
    pub const fn vlan(self) -> u16 {
        (self.0 >> 16) as u16 & 0xfff
    }
}

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
const SLOTS: usize = 4;
/// How many buckets, from its home on, a key may be in: those of a table that is as full as it may be of MACs that count up are filled
/// four at a time, so that some stretches of it are much fuller than others.
const WINDOW: usize = 64;

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

/// The forwarding database.
pub struct Fdb {
    buckets: Lines,
    seed: Seed,
    used: AtomicUsize,
    limit: usize,
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

    /// Another number whenever entries may have been taken out that were fresh.
    #[inline(always)]
    pub(crate) fn epoch(self) -> u16 {
        self.epoch
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
        self.find(key, home).map(|(_, value)| Egress(value as u32))
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

    /// Notes that `key` was seen at `egress` in second `now`. Writes at most once a second and entry, even if a MAC
    /// appears at two places in turn, and never to a static entry.
    #[inline(always)]
    pub fn learn(self, key: u64, home: u32, egress: Egress, now: u16) -> Learned {
        let fresh = egress.0 as u64 | (now as u64) << 32;
        match self.find(key, home) {
            Some((_, old)) if (old >> 32) as u16 == now => Learned::Known,
            Some((word, old)) => self.fdb.refresh(word, old, fresh),
            None => self.fdb.insert(key, home, fresh),
        }
    }
}

/// What [`View::learn`] did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Learned {
    /// Nothing: the entry was fresh.
    Known,
    /// A new entry, or an old one with a new place or time.
    Updated,
    /// No: the table holds as many as it may.
    Full,
}

impl Fdb {
    /// A table for `size` MACs (32 bytes each), hashed with `seed`.
    pub fn new(size: usize, seed: [u64; 2]) -> Self {
        // Half full at most, so that a key is nearly always in its home bucket.
        let buckets = (size * 2 / SLOTS).next_power_of_two().max(WINDOW);
        let buckets = Lines::zeroed(buckets);
        Fdb { buckets, seed: Seed::new(seed), used: AtomicUsize::new(0), limit: size, epoch: AtomicU16::new(0) }
    }

    /// How many MACs it holds now.
    pub fn used(&self) -> usize {
        self.used.load(Relaxed)
    }

    /// How many MACs it may hold.
    pub fn size(&self) -> usize {
        self.limit
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

    #[cold]
    fn refresh(&self, word: &AtomicU64, old: u64, fresh: u64) -> Learned {
        // Exchanged, not stored: if the slot was given to another key meanwhile, the value is not `old` any more.
        if old & STATIC != 0
            || Egress(fresh as u32) == Egress::NOWHERE
            || word.compare_exchange(old, fresh, AcqRel, Relaxed).is_err()
        {
            return Learned::Known;
        }
        Learned::Updated
    }

    #[cold]
    fn insert(&self, key: u64, home: u32, value: u64) -> Learned {
        if Egress(value as u32) == Egress::NOWHERE {
            return Learned::Known;
        }
        // Counted first, so that many workers together keep the limit.
        if self.used.fetch_add(1, Relaxed) >= self.limit {
            self.used.fetch_sub(1, Relaxed);
            return Learned::Full;
        }
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
                    self.used.fetch_sub(1, Relaxed);
                    return Learned::Known;
                }
            }
        }
        self.used.fetch_sub(1, Relaxed);
        Learned::Full
    }

    /// Adds or replaces a static entry. Control thread only. False if there is no room.
    pub fn set_static(&self, key: u64, egress: Egress) -> bool {
        let (home, value) = (self.view().home(key), egress.0 as u64 | STATIC);
        for _ in 0..100 {
            match self.view().find(key, home) {
                Some((word, old)) => {
                    if word.compare_exchange(old, value, AcqRel, Relaxed).is_ok() {
                        return true;
                    }
                }
                None => match self.insert(key, home, value) {
                    Learned::Updated => return true,
                    Learned::Full => return false,
                    Learned::Known => {}
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

    fn sweep(&self, range: std::ops::Range<usize>, now: u16, mut gone: impl FnMut(&Entry, u64) -> bool) -> usize {
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
                    egress: Egress(value as u32),
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
        let freed = bucket.key(slot).compare_exchange(key, free, AcqRel, Relaxed).is_ok();
        if freed {
            self.used.fetch_sub(1, Relaxed);
        }
        freed
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

#[cfg(test)]
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
        assert_eq!(fdb.view().learn(a, fdb.view().home(a), Egress::port(4, 7), 11), Learned::Updated);
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

    /// Random operations against a map that can't be wrong.
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
}
