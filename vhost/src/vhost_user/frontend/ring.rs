//! A driver's rings, split (virtio 1.2, section 2.7) and packed (section 2.8), at the speed of a packet generator: descriptors
//! are written and read in batches, frames are not touched.
//!
//! Descriptors are used one after the other, and the back end is taken to complete in order, as all that are known do. So descriptor
//! tables and available rings hold the same values all the time and are written only where they change, and no id that a
//! back end writes is ever used as an index: one that is not the expected one is a fault, after which nothing moves.
#![allow(unsafe_code)]

mod copy;
pub(super) mod fake;
mod layout;
mod null;
mod rx;
mod tx;

pub use copy::CopyTx;
pub use null::NullSwitch;
pub use rx::{Peek, RawRx};
pub use tx::RawTx;

pub(super) use layout::Shape;

use super::Memory;
use super::message::RingAddresses;
use crate::descriptor::event;
use crate::mem::Regions;
use layout::{INDENT, Ring, SUPPRESS};
use rustix::event::PollFlags;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{Ordering, fence};
use std::time::{Duration, Instant};

/// A ring with its buffers, one for each descriptor of a transmit ring: what is the same in both directions.
#[derive(Debug)]
pub struct Queue {
    memory: Arc<Memory>,
    ring: Ring,
    /// Its region, and where it is in it.
    pub(super) region: usize,
    offset: u32,
    /// Split: the available index. Packed: descriptors that were made available. Both run freely.
    next: u16,
    /// Split: the used index as far as was looked. Packed: descriptors that came back.
    done: u16,
    /// Descriptors that were made available, and that came back.
    desc_next: u16,
    desc_done: u16,
    /// Descriptors of the frame at an index of the available ring (packed: of the one that begins at a descriptor).
    counts: Box<[u16]>,
    /// Frames under way that have another number of descriptors than 1.
    chained: u32,
    /// Of a receive ring: buffers that have come and are not given back.
    seen: u16,
    fault: Option<&'static str>,
    pub(super) kick: OwnedFd,
    pub(super) call: OwnedFd,
}

// SAFETY: a queue's addresses are of memory that it holds, which is only touched by atomic and volatile accesses and copies
// through raw pointers; nothing in it is tied to a thread.
unsafe impl Send for Queue {}

impl Queue {
    /// A ring at `offset` of region `region`, which has room for it.
    pub(super) fn new(memory: Arc<Memory>, region: usize, offset: u32, shape: Shape) -> Result<Queue, String> {
        let base = Regions::resolve(&memory.mapped, region as u16, offset, shape.bytes() as u32);
        let queue = Queue {
            ring: Ring::new(base.ok_or("a ring does not fit its region")?, shape),
            memory,
            region,
            offset,
            next: 0,
            done: 0,
            desc_next: 0,
            desc_done: 0,
            counts: vec![1; shape.size.into()].into(),
            chained: 0,
            seen: 0,
            fault: None,
            kick: event()?,
            call: event()?,
        };
        // The driver's word on interrupts: flags first, or in a packed ring second. A used_event of 0 (or -1) is the first (last) frame.
        if shape.packed {
            queue.ring.half(shape.driver_offset() + 2).store(u16::from(!shape.interrupts), Ordering::Relaxed);
        } else {
            queue.ring.half(shape.driver_offset()).store(u16::from(!shape.interrupts) & SUPPRESS, Ordering::Relaxed);
            queue.want_interrupt();
        }
        Ok(queue)
    }

    /// Where its parts are, as a back end is told; `log`: it is to log what it writes to the used ring.
    pub(super) fn addresses(&self, log: bool) -> RingAddresses {
        let region = &self.memory.table[self.region];
        let at = |part: usize| u64::from(self.offset) + part as u64;
        RingAddresses {
            flags: log.into(),
            desc: region.uva + at(0),
            avail: region.uva + at(self.ring.driver),
            used: region.uva + at(self.ring.device),
            log: if log { region.gpa + at(self.ring.device) } else { 0 },
        }
    }

    /// What the back end did wrong on this ring, if it did.
    pub fn fault(&self) -> Option<&'static str> {
        self.fault
    }

    /// The guest-physical address of a slot's buffer, for tests of the other side.
    #[doc(hidden)]
    pub fn address(&self, slot: u16) -> u64 {
        let at = self.ring.buffers + (slot & self.ring.mask) as usize * self.ring.stride + INDENT;
        self.memory.table[self.region].gpa + u64::from(self.offset) + at as u64
    }

    #[cold]
    fn broken(&mut self, what: &'static str) {
        self.fault = Some(what);
    }

    #[inline(always)]
    fn notify(&self, old: u16) {
        if self.ring.shape.sleeps {
            // What was made available is seen by a back end that asks for a notification after this looks whether it does.
            fence(Ordering::SeqCst);
        }
        if self.ring.wanted(old, self.next) {
            let _ = rustix::io::write(&self.kick, &1u64.to_ne_bytes());
        }
    }

    /// Notifies the back end if it wants that, for certain.
    pub fn wake(&self) {
        fence(Ordering::SeqCst);
        self.notify(self.next.wrapping_sub(self.ring.shape.size));
    }

    /// With event indices: says when to interrupt, at the next frame, or as late as can be.
    #[inline(always)]
    fn want_interrupt(&self) {
        let s = &self.ring.shape;
        if s.event_idx && !s.packed {
            let event = if s.interrupts { self.done } else { self.done.wrapping_sub(1) };
            self.ring.half(s.driver_offset() + 4 + 2 * s.size as usize).store(event, Ordering::Relaxed);
        }
    }

    /// Where a back end that knows nothing of this ring has to begin, as `SET_VRING_BASE` has it: with what it did not give back.
    pub(super) fn base(&self) -> u32 {
        if self.ring.shape.packed {
            let at =
                |index: u16| u32::from(index & self.ring.mask) | u32::from(index & self.ring.shape.size == 0) << 15;
            at(self.done) | at(self.done) << 16
        } else {
            self.ring.used_index().load(Ordering::Acquire).into()
        }
    }

    /// Waits for an interrupt, for at most `timeout`: how many there were since the last call.
    pub fn interrupts(&self, timeout: Duration) -> u64 {
        super::message::wait(self.call.as_fd(), PollFlags::IN, Instant::now() + timeout);
        let mut count = [0; 8];
        rustix::io::read(&self.call, &mut count).map_or(0, |_| u64::from_ne_bytes(count))
    }

    /// Writes whatever it is given into a descriptor, for tests of the other side.
    #[doc(hidden)]
    pub fn set_raw(&self, index: u16, words: [u64; 2]) {
        self.ring.set_address(index, words[0]);
        self.ring.state(index).store(words[1], Ordering::Release);
    }

    /// Writes whatever it is given as an entry of a split available ring, for tests of the other side.
    #[doc(hidden)]
    pub fn set_available(&self, index: u16, id: u16) {
        self.ring.available_entry(index).store(id, Ordering::Release);
    }

    /// Writes whatever it is given as index of a split available ring, for tests of the other side.
    #[doc(hidden)]
    pub fn set_index(&self, index: u16) {
        self.ring.available_index().store(index, Ordering::Release);
    }
}
