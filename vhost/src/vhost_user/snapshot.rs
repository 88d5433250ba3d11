//! What is shown of a connection: taken after each message, read by whoever asks, who so waits for no peer.

use super::status::Status;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// A connection as it was after a message, and where to see what has been counted since.
pub(super) struct Snapshot {
    /// All that messages change.
    pub status: Status,
    /// Of each of its rings.
    pub counters: Vec<Counters>,
}

/// What is counted of a ring.
pub(super) struct Counters {
    /// The driver's notifications: an eventfd.
    pub kick: Option<Arc<OwnedFd>>,
    /// Ours.
    pub interrupts: Arc<AtomicU64>,
}

impl Snapshot {
    /// With what was counted until now.
    pub fn status(&self) -> Status {
        let mut status = self.status.clone();
        for (ring, counters) in status.rings.iter_mut().zip(&self.counters) {
            ring.kicks = counters.kick.as_ref().and_then(|kick| count(kick)).unwrap_or(0);
            ring.interrupts = counters.interrupts.load(Ordering::Relaxed);
        }
        status
    }
}

/// What an eventfd has counted. Nobody reads those of rings that are polled, so that is how often the driver kicked.
fn count(event: &OwnedFd) -> Option<u64> {
    let info = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", event.as_raw_fd())).ok()?;
    let count = info.lines().find_map(|line| line.strip_prefix("eventfd-count:"))?;
    u64::from_str_radix(count.trim(), 16).ok()
}
