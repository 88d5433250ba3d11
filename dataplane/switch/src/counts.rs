//! What stages count of a port's frames beside its drops: declared where it is counted, as those are.

use crate::names::numbered;
use crate::stages::COUNTS;

numbered! {
    /// What a stage counts of the frames that a port receives.
    Count of COUNTS
}

/// How often each of these was counted, by [`Count::index`].
pub type Counts = [u32; Count::COUNT];
