//! Frames by where they leave. Those of a burst often leave one way, one after the other, so that what is to be done with them is looked
//! up once for all.

use super::Selection;
use crate::burst::{BURST, Burst};
use crate::drops::Drop;
use crate::egress::Egress;

/// Frames of a burst, and copies of them, that have one egress.
#[derive(Clone, Copy)]
pub(crate) struct Leaving {
    /// Their egress: an adjacency or a group.
    pub egress: Egress,
    /// Port number of the adjacency; from rewrite on.
    pub port: u16,
    /// Frames of the burst. Flooding gives one frame to several adjacencies if it leaves each as it came.
    pub frames: Selection,
    /// Copies, by number from [`BURST`] on.
    pub copies: Selection,
}

impl Leaving {
    /// Frames of the burst that leave by `egress`.
    #[inline(always)]
    pub(crate) fn new(egress: Egress, frames: Selection) -> Self {
        Leaving { egress, port: 0, frames, copies: Selection::NONE }
    }

    /// How many they are.
    #[inline(always)]
    pub(crate) fn len(&self) -> usize {
        self.frames.len() + self.copies.len()
    }

    /// Does something with each frame and each copy, by number. Those for which that gives a reason are dropped and leave no more.
    #[inline(always)]
    pub(crate) fn each(&mut self, burst: &mut Burst, mut action: impl FnMut(&mut Burst, u16) -> Result<(), Drop>) {
        for (selection, first) in [(&mut self.frames, 0), (&mut self.copies, BURST as u16)] {
            for i in selection.iter() {
                if let Err(reason) = action(burst, first + i) {
                    burst.drop(first + i, reason);
                    selection.remove(i);
                }
            }
        }
    }
}

/// Sets that flooding makes before it lets them be sent. Those of the frames themselves are [`BURST`] at most.
pub(crate) const SETS: usize = 256;
