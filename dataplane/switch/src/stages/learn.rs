//! Notes where each source address is. Never drops: what can't be learned is flooded, and counted as not learned.
//!
//! An entry that stays where it is is written at most once a second, so nearly every frame's source needs no look at the FDB: that it is
//! there, and fresh, is known from a table of the worker's own, of four bytes for each address, in which addresses that count up are
//! neighbours. When another worker sees an address at another place, the FDB gives the port that it was at a new epoch, and with it all
//! that any worker knows of that port's addresses is void.

use super::{Context, Pass, Process, Selection};
use crate::burst::Burst;
use crate::egress::Egress;
use crate::fdb::Learned;
use crate::mem;
use crate::names::{Named, declare};
use crate::port::Output;
use crate::{Count, Counts};

declare! { COUNTS of Count;
    /// Frames whose source found no room in the FDB. They were forwarded all the same.
    NotLearned = "not_learned";
    /// Frames whose source was one more than max-macs. They were forwarded all the same.
    OverMaxMacs = "over_max_macs";
}

#[derive(Default)]
pub(crate) struct Learn;

impl Process for Learn {
    const COUNTS: &[Named] = COUNTS;

    #[inline(always)]
    fn run<O: Output>(&mut self, pass: &mut Pass<O>) -> usize {
        if pass.unseen.bits() == 0 {
            return 0;
        }
        let from = if pass.port.is_underlay() { Egress::tunnel(0) } else { Egress::port(pass.cx.port, 0) };
        let marker = Marker::new(pass.cx, from);
        pass.moved = run(pass.burst, pass.unseen, pass.cx, marker, pass.seen, &mut pass.tally.counts);
        pass.unseen.len()
    }
}

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
    pub(crate) fn place(key: u64) -> u32 {
        (key ^ key >> 24 ^ key >> 37) as u32 % SLOTS as u32
    }

    /// Whether that mark is there.
    #[inline(always)]
    pub(crate) fn has(&self, place: u32, mark: u32) -> bool {
        self.0[place as usize % SLOTS] == mark
    }
}

/// Makes what is in a source's place if it was learned where it is now, in this second, and neither moved nor was taken out of the FDB
/// since. That it is
/// there for another reason has a chance of one in 2^32, whatever addresses a peer chooses, and then the next second helps: sums of
/// 32-bit words times secret factors are strongly universal in their upper halves (multilinear hashing).
#[derive(Clone, Copy)]
pub(crate) struct Marker {
    factors: [u64; 3],
    time: u64,
}

impl Marker {
    /// Of sources behind `from`'s port, or, if it is a tunnel, behind any.
    pub(crate) fn new(cx: &Context, from: Egress) -> Self {
        let [low, high, ingress, time] = cx.fdb.factors();
        let now = u64::from(cx.now) | u64::from(cx.fdb.epoch(from)) << 16;
        Marker { factors: [low, high, ingress], time: now.wrapping_mul(time) }
    }

    /// Of the source `key` at `ingress`.
    #[inline(always)]
    pub(crate) fn mark(self, key: u64, ingress: Egress) -> u32 {
        let words = [key & u64::from(u32::MAX), key >> 32, ingress.bits().into()];
        let products = words.into_iter().zip(self.factors).map(|(word, factor)| word.wrapping_mul(factor));
        (products.fold(self.time, u64::wrapping_add) >> 32) as u32
    }
}

/// Learns the sources of `unseen` frames. Those of them that were behind another port.
fn run(
    burst: &Burst,
    unseen: Selection,
    cx: &Context,
    marker: Marker,
    seen: &mut Seen,
    counts: &mut Counts,
) -> Selection {
    let mut moved = Selection::NONE;
    for i in unseen.iter() {
        let (key, ingress) = (burst.meta.src[i], burst.meta.ingress[i]);
        match cx.fdb.learn(key, cx.fdb.home(key), ingress, cx.now) {
            Learned::Full => counts[Count::NotLearned.index()] += 1,
            Learned::Limited => counts[Count::OverMaxMacs.index()] += 1,
            Learned::Again => {}
            _ if ingress == Egress::NOWHERE => {}
            learned => {
                moved.add_if(learned == Learned::Moved, i);
                seen.0[Seen::place(key) as usize % SLOTS] = marker.mark(key, ingress);
            }
        }
    }
    moved
}
