//! How many frames are due.

use std::time::Instant;

/// The token bucket of one direction.
#[derive(Clone, Copy)]
pub(super) struct Bucket {
    /// Frames a second; 0: without limit.
    pub(super) rate: u64,
    /// Frames that may be sent at once: what could not be sent in time is made up for as far as this.
    pub(super) depth: u64,
    pub(super) origin: Instant,
    /// Frames that were due at `origin`.
    pub(super) base: u64,
}

impl Bucket {
    /// What was due until now, when `sent` were, is not made up for.
    pub(super) fn skip(&mut self, now: Instant, sent: u64) {
        (self.origin, self.base) = (now, sent);
    }

    /// How many frames may be sent now, if `sent` were until now.
    #[inline(always)]
    pub(super) fn budget(&mut self, now: Instant, sent: u64) -> u64 {
        if self.rate == 0 {
            return u64::MAX;
        }
        let due = self.base + ((now - self.origin).as_secs_f64() * self.rate as f64) as u64;
        if due > sent + self.depth {
            (self.origin, self.base) = (now, sent + self.depth);
            return self.depth;
        }
        due.saturating_sub(sent)
    }
}
