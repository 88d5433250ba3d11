//! Memory shared with a peer: mapping it, finding addresses in it, and surviving its disappearance.
//!
//! A peer can truncate a file that we have mapped. Touching what is gone raises SIGBUS, which would kill the process. A
//! region is therefore sealed against shrinking where the file allows that, and every region is known to a SIGBUS handler
//! ([`guard`]) that puts a page of our own in the place of one that is gone, so that the thread goes on and the link is closed.
//!
//! A peer's file may have holes: pages that nobody wrote yet. The kernel would make them when we touch them, and charge them to us
//! for as long as the peer keeps the file. Touching a hole therefore raises SIGBUS too (userfaultfd), and the handler has the page made
//! if the port's [`Budget`] allows it. Pages that are there cost nothing of this.
#![allow(unsafe_code)]

pub mod guard;
mod region;
pub(crate) mod signal;
#[cfg(test)]
mod tests;

pub use region::{Extent, Region, Regions};
use std::sync::atomic::{AtomicU64, Ordering};

/// The largest region taken, bytes: a peer can name a sparse file of any size, and addresses are finite.
pub const REGION_MAX: u64 = 1 << 36;

/// The most ordinary memory taken from a peer, bytes: descriptors reach 4 GiB of a region at most.
pub const ORDINARY_MAX: u64 = 1 << 32;

/// The largest pages whose holes are filled, bytes: a worker clears them.
const FILLED_MAX: u64 = 2 << 20;

/// What may be made of the holes in a port's peers' memory, whatever links it has one after the other. The kernel charges such pages to
/// our control group until the peer gives up its file, which we are not told.
///
/// A token bucket (GCRA: the one word is the time at which it will be full again), as the handler of a signal takes from it.
#[derive(Debug, Default)]
pub struct Budget(AtomicU64);

impl Budget {
    /// Bytes that may be made at once, of holes that are written.
    pub const BYTES: u64 = 256 << 20;
    /// Bytes that may be made again for each second that passes.
    pub const BYTES_A_SECOND: u64 = 256 << 10;
    /// How many times a byte of a hole counts that is read: there is nothing in it, so only a peer that wants to do harm sends many.
    const READ: u64 = 4;
    /// How many bytes of huge pages count as one: their pool is bounded by itself.
    const HUGE: u64 = 16;
    const NANOS_A_BYTE: u64 = 1_000_000_000 / Self::BYTES_A_SECOND;

    /// Takes what making a page costs at a time in nanoseconds, if it is there. Safe in a signal's handler.
    fn take(&self, page: usize, huge: bool, write: bool, now: u64) -> bool {
        let bytes = page as u64 * if write { 1 } else { Self::READ } / if huge { Self::HUGE } else { 1 };
        let cost = bytes * Self::NANOS_A_BYTE;
        let most = now + Self::BYTES * Self::NANOS_A_BYTE;
        let due = |full: u64| Some(full.max(now) + cost).filter(|&due| due <= most);
        self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, due).is_ok()
    }
}

/// Why a region can't be used any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Lost {
    /// A part of the file is not there any more.
    Shrunk = 1,
    /// More of its holes were touched than the port's [`Budget`] has room for.
    Holes,
    /// It has a hole of a huge page that is too large to be made by a worker.
    HugeHole,
    /// The kernel has no memory for a hole.
    NoMemory,
    /// The memory itself is broken.
    Broken,
}

impl Lost {
    const ALL: [Lost; 5] = [Lost::Shrunk, Lost::Holes, Lost::HugeHole, Lost::NoMemory, Lost::Broken];

    /// What happened, for people.
    pub fn text(self) -> &'static str {
        match self {
            Lost::Shrunk => "a region's file was shrunk",
            Lost::Holes => {
                "more holes in its memory were touched than the switch makes pages for (256 MiB at once, 256 KiB a second; \
                 holes that are read count four times): the peer is to allocate its memory (QEMU: prealloc=on)"
            }
            Lost::HugeHole => {
                "a hole in its huge pages of more than 2 MiB was touched: the peer is to allocate its memory (QEMU: prealloc=on)"
            }
            Lost::NoMemory => "this machine, or the switch's control group, has no memory for a hole in its memory",
            Lost::Broken => "this machine reports an error of the hardware in its memory",
        }
    }
}
