//! Why frames are dropped, and the one way to drop. A frame is never freed silently: whoever gives one up says why. Reasons are declared
//! where they happen: in a stage's file, or, what rings have in common, in [`crate::port`].

use crate::burst::Burst;
use crate::names::{at, numbered};
use crate::stages::REASONS;

numbered! {
    /// Why a frame was dropped. Its name is the counter's, `stage.reason`.
    Drop of REASONS
}

// Nobody is left alone with a reason.
const _: () = {
    let mut i = 0;
    while i < Drop::COUNT {
        assert!(!Drop::ALL[i].cause().is_empty() && !Drop::ALL[i].remedy().is_empty());
        i += 1;
    }
};

impl Drop {
    /// What usually makes it happen, for whoever runs the switch.
    pub const fn cause(self) -> &'static str {
        at(REASONS, self.index()).cause
    }

    /// What to do about it, with the command that shows or mends it.
    pub const fn remedy(self) -> &'static str {
        at(REASONS, self.index()).remedy
    }

    /// Whether it happens to a frame on its way out, and so counts for the port it was to leave through.
    pub const fn is_tx(self) -> bool {
        const IS_TX: [bool; Drop::COUNT] = {
            let mut is_tx = [false; Drop::COUNT];
            let mut i = 0;
            while i < is_tx.len() {
                is_tx[i] = matches!(Drop::ALL[i].name().as_bytes(), [b't', b'x', b'.', ..]);
                i += 1;
            }
            is_tx
        };
        IS_TX[self.index()]
    }
}

/// Which frames are dropped.
#[derive(Clone, Copy, Debug)]
pub enum Dropped<'a> {
    /// A frame of the burst, or a copy in it.
    One(u16),
    /// Several of these.
    Many(&'a [u16]),
    /// Those of the received frames whose bit is set.
    Mask(u64),
    /// So many that nobody can look at: a ring refused to take them into the burst, or failed before it had sent them.
    Count(u32),
}

impl From<u16> for Dropped<'_> {
    fn from(i: u16) -> Self {
        Dropped::One(i)
    }
}

impl<'a> From<&'a [u16]> for Dropped<'a> {
    fn from(frames: &'a [u16]) -> Self {
        Dropped::Many(frames)
    }
}

impl Burst {
    /// Gives frames up, for `reason`: the one way to do so, for stages and for rings. It is counted for the port that the frames came
    /// from ([`Burst::drops`]), or, if it happens on their way out, for the port that they were to leave through
    /// ([`Burst::tx_drops`]). Whoever is to see dropped frames, with their bytes, stands here: it is off the way of all others.
    #[cold]
    #[inline(never)]
    pub fn drop<'a>(&mut self, frames: impl Into<Dropped<'a>>, reason: Drop) {
        let n = match frames.into() {
            Dropped::One(_) => 1,
            Dropped::Many(frames) => frames.len() as u32,
            Dropped::Mask(bits) => bits.count_ones(),
            Dropped::Count(n) => n,
        };
        let drops = if reason.is_tx() { &mut self.tx_drops } else { &mut self.drops };
        drops.add(reason, n);
    }
}

/// How many frames were dropped, by reason, since this was last emptied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Drops {
    counts: [u32; Drop::COUNT],
    total: u32,
}

impl Default for Drops {
    fn default() -> Self {
        Drops { counts: [0; Drop::COUNT], total: 0 }
    }
}

impl Drops {
    /// Counts `n` frames dropped for `reason`. Private, so that [`Burst::drop`] is the one way.
    fn add(&mut self, reason: Drop, n: u32) {
        self.counts[reason.index()] += n;
        self.total += n;
    }

    /// All frames dropped, whatever the reason.
    #[inline]
    pub fn total(&self) -> u32 {
        self.total
    }

    /// Frames dropped for `reason`.
    pub fn get(&self, reason: Drop) -> u32 {
        self.counts[reason.index()]
    }

    /// Hands every non-zero count to `f` and starts again from zero.
    #[inline]
    pub fn take(&mut self, mut f: impl FnMut(Drop, u32)) {
        if self.total != 0 {
            for &reason in Drop::ALL {
                let n = std::mem::take(&mut self.counts[reason.index()]);
                if n != 0 {
                    f(reason, n);
                }
            }
            self.total = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_drop_counts_for_the_port_that_the_frames_came_from_or_were_to_leave_through() {
        let mut burst = Burst::default();
        burst.drop(3, Drop::ForwardSamePort);
        burst.drop(Dropped::Count(5), Drop::RxTooBig);
        burst.drop(Dropped::Mask(1 << 63 | 1), Drop::ForwardSamePort);
        burst.drop(&[1, 2, 64][..], Drop::TxRingFull);
        let counts = |drops: &mut Drops| {
            let mut counts = Vec::new();
            drops.take(|reason, n| counts.push((reason, n)));
            assert_eq!(drops.total(), 0);
            counts
        };
        assert_eq!((burst.drops.total(), burst.tx_drops.total()), (8, 3));
        assert_eq!(counts(&mut burst.drops), [(Drop::RxTooBig, 5), (Drop::ForwardSamePort, 3)]);
        assert_eq!(counts(&mut burst.tx_drops), [(Drop::TxRingFull, 3)]);
    }
}
