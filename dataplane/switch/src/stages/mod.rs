//! The stages, a file each: what it does, its drop reasons, `run`, its tests. [`crate::pipeline`] lists their order.

pub(crate) mod decap;
pub(crate) mod egress;
pub(crate) mod encap;
pub(crate) mod flood;
pub(crate) mod forward;
pub(crate) mod learn;
pub(crate) mod parse;
pub(crate) mod vlan;

use crate::burst::{BURST, Burst};
use crate::drops::{Drop, Dropped};
use crate::fdb::View;
use crate::tables::Tables;

/// What every stage may look at while it runs one burst.
#[derive(Clone, Copy)]
pub struct Context<'a> {
    /// The published tables.
    pub tables: &'a Tables,
    /// The forwarding database.
    pub fdb: View<'a>,
    /// The current second, for ages.
    pub now: u16,
    /// The port that the burst was received on.
    pub port: u16,
}

/// The frames of a burst that are still under way: a bit each.
#[derive(Clone, Copy)]
pub(crate) struct Selection(u64);

const _: () = assert!(BURST <= 64);

impl Selection {
    pub(crate) fn all(n: usize) -> Self {
        Selection(if n == 0 { 0 } else { u64::MAX >> (64 - n) })
    }

    /// How many they are.
    #[inline(always)]
    pub(crate) fn len(self) -> usize {
        self.0.count_ones() as usize
    }

    /// One bit for each.
    #[inline(always)]
    pub(crate) fn bits(self) -> u64 {
        self.0
    }

    /// No frames.
    pub(crate) const NONE: Selection = Selection(0);

    /// Adds frame `i`.
    #[inline(always)]
    pub(crate) fn add(&mut self, i: u16) {
        self.0 |= 1 << i;
    }

    /// Adds frame `i`, or doesn't, without a branch.
    #[inline(always)]
    pub(crate) fn add_if(&mut self, yes: bool, i: u16) {
        self.0 |= u64::from(yes) << i;
    }

    /// Those that are also among `others`.
    #[inline(always)]
    pub(crate) fn of(self, others: Selection) -> Selection {
        Selection(self.0 & others.0)
    }

    /// Their numbers, in order.
    #[inline(always)]
    pub(crate) fn iter(self) -> impl Iterator<Item = u16> {
        let mut left = self.0;
        std::iter::from_fn(move || {
            (left != 0).then(|| {
                let i = left.trailing_zeros();
                left &= left - 1;
                i as u16
            })
        })
    }

    /// Drops them, if there are any.
    #[inline(always)]
    pub(crate) fn drop(self, burst: &mut Burst, reason: Drop) {
        if self.0 != 0 {
            burst.drop(Dropped::Mask(self.0), reason);
        }
    }

    /// Goes on with the frames for which `stage` says so, which are nearly all; those it gives a reason for are dropped.
    #[inline(always)]
    pub(crate) fn each(&mut self, burst: &mut Burst, mut stage: impl FnMut(&mut Burst, u16) -> Verdict) {
        for i in self.iter() {
            match stage(burst, i) {
                Verdict::Go => continue,
                Verdict::Drop(reason) => burst.drop(i, reason),
                Verdict::Taken => {}
            }
            self.0 &= !(1 << i);
        }
    }
}

/// What becomes of a frame after a stage.
pub(crate) enum Verdict {
    /// On to the next stage.
    Go,
    /// Given up.
    Drop(Drop),
    /// It left the pipeline here and is counted there.
    Taken,
}
