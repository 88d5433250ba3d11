//! Notes where each source address is. Never drops: what can't be learned is flooded, and counted as not learned.
//!
//! An entry is written at most once a second, so nearly every frame's source needs no look at the FDB: that it is there, and fresh, is
//! known from a table of the worker's own, of four bytes for each address, in which addresses that count up are neighbours.

use super::{Context, Live};
use crate::burst::Burst;
use crate::fdb::{Egress, Learned, key};
use crate::mem;

/// Addresses that a worker's table has room for. Of two that meet in one place each makes the other's frames look into the FDB. The
/// memory is the kernel's to give when it is used: 4 MiB at most.
const SLOTS: usize = 1 << 20;

/// Sources that were learned this second, as far as there is room.
pub(crate) struct Seen(Box<[u32; SLOTS]>);

impl Default for Seen {
    fn default() -> Self {
        // Not by way of an array on the stack.
        let seen: Box<[u32]> = vec![0; SLOTS].into();
        mem::advise_huge(&seen);
        Seen(seen.try_into().expect("as many"))
    }
}

impl Seen {
    /// The place of a source. Who chooses addresses that meet only makes his own frames slower.
    #[inline(always)]
    fn slot(key: u64) -> usize {
        (key ^ key >> 24 ^ key >> 37) as usize % SLOTS
    }

    /// What is in its place if the source was learned at `ingress` in this second, and not taken out of the FDB since. That it is there
    /// for another reason has a chance of one in 2^31, whatever addresses a peer chooses (multiply-shift hashing with secret factors
    /// is universal), and then the next second helps.
    #[inline(always)]
    fn tag(key: u64, ingress: Egress, cx: Context) -> u32 {
        let state = u64::from(ingress.bits()) | u64::from(cx.now) << 32 | u64::from(cx.fdb.epoch()) << 48;
        let [a, b] = cx.fdb.factors();
        (key.wrapping_mul(a).wrapping_add(state.wrapping_mul(b)) >> 32) as u32
    }
}

/// The sources of a burst, as they are read.
pub(crate) struct Sources<'a> {
    seen: &'a [u32; SLOTS],
    /// The frames whose sources are to be learned.
    pub(crate) unseen: Live,
}

impl<'a> Sources<'a> {
    pub(crate) fn new(seen: &'a Seen) -> Self {
        Sources { seen: &seen.0, unseen: Live::NONE }
    }

    /// Frame `i` has the source `key` and came from `ingress`.
    #[inline(always)]
    pub(crate) fn note(&mut self, i: u16, key: u64, ingress: Egress, cx: Context) {
        if self.seen[Seen::slot(key)] != Seen::tag(key, ingress, cx) {
            cx.fdb.prefetch(cx.fdb.home(key));
            self.unseen.add(i);
        }
    }
}

/// Learns the sources of `unseen` frames. How many did not fit the FDB.
pub(crate) fn run(burst: &Burst, unseen: Live, cx: Context, seen: &mut Seen) -> u32 {
    let mut full = 0;
    for i in unseen.iter() {
        let meta = &burst.meta[i];
        let mac = burst.frames[i].head()[6..].first_chunk().expect("parse has read both addresses");
        let (key, ingress) = (key(meta.bridge(), *mac), meta.ingress);
        match cx.fdb.learn(key, cx.fdb.home(key), ingress, cx.now) {
            Learned::Full => full += 1,
            _ if ingress == Egress::NOWHERE => {}
            _ => seen.0[Seen::slot(key)] = Seen::tag(key, ingress, cx),
        }
    }
    full
}
