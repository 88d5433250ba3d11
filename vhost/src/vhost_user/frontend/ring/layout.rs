//! Where the parts of a ring are, and its words.

use super::super::VNET_HEADER;
use dray_switch::mem::prefetch_write;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU16, AtomicU32, AtomicU64, Ordering};

/// Bytes of a descriptor.
pub(super) const DESC: usize = 16;
/// Flags of a descriptor: the frame goes on in the next one; the device writes; it describes a table of descriptors.
pub(super) const NEXT: u16 = 1;
pub(super) const WRITE: u16 = 2;
pub(super) const INDIRECT: u16 = 4;
/// Flags of a packed ring's descriptor, which say with the wrap counter whose it is.
pub(super) const AVAIL: u16 = 1 << 7;
pub(super) const USED: u16 = 1 << 15;
/// A split available ring's flags: no interrupts; a used ring's: no notifications. Also "disable" in packed rings' event suppression.
pub(super) const SUPPRESS: u16 = 1;
/// Buffers begin this far into a cache line, so that the frame behind the header begins one, as DPDK's drivers have it.
pub(super) const INDENT: usize = 64 - VNET_HEADER;

/// What all rings of a front end have in common.
#[derive(Clone, Copy, Debug)]
pub(in crate::vhost_user::frontend) struct Shape {
    /// Descriptors, a power of two.
    pub size: u16,
    /// Bytes of a buffer, with the header.
    pub buffer_size: u32,
    /// Descriptors of a receive buffer, a power of two.
    pub parts: u16,
    pub packed: bool,
    pub in_order: bool,
    pub event_idx: bool,
    pub interrupts: bool,
    /// The back end sleeps when it has nothing to do: no notification that it wants may be missed.
    pub sleeps: bool,
}

impl Shape {
    pub(super) fn driver_offset(&self) -> usize {
        DESC * self.size as usize
    }

    pub(super) fn device_offset(&self) -> usize {
        (self.driver_offset() + 6 + 2 * self.size as usize).next_multiple_of(64)
    }

    pub(super) fn buffers_offset(&self) -> usize {
        (self.device_offset() + 6 + 8 * self.size as usize).next_multiple_of(4096)
    }

    /// An odd number of cache lines, so that the beginnings of buffers spread over all sets of a cache.
    pub(super) fn stride(&self) -> usize {
        ((INDENT + self.buffer_size as usize).div_ceil(64) | 1) * 64
    }

    /// Bytes of a ring with its buffers.
    pub fn bytes(&self) -> u64 {
        (self.buffers_offset() as u64 + self.stride() as u64 * u64::from(self.size)).next_multiple_of(4096)
    }
}

/// Where a ring is. Small and copied, because the compiler can't know that what is read from memory that is shared does not change it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ring {
    pub(super) base: NonNull<u8>,
    pub(super) mask: u16,
    pub(super) shape: Shape,
    /// Offsets of its parts after the descriptors, and of its buffers.
    pub(super) driver: usize,
    pub(super) device: usize,
    pub(super) buffers: usize,
    /// Bytes from one buffer to the next.
    pub(super) stride: usize,
}

impl Ring {
    pub(super) fn new(base: NonNull<u8>, shape: Shape) -> Ring {
        let (driver, device, buffers) = (shape.driver_offset(), shape.device_offset(), shape.buffers_offset());
        Ring { base, mask: shape.size - 1, shape, driver, device, buffers, stride: shape.stride() }
    }

    #[inline(always)]
    pub(super) fn half(&self, at: usize) -> &AtomicU16 {
        debug_assert!(at < self.buffers);
        // SAFETY: `at` is even and within the ring's bytes, which its queue found in a region and keeps mapped.
        unsafe { AtomicU16::from_ptr(self.base.as_ptr().add(at).cast()) }
    }

    #[inline(always)]
    pub(super) fn desc(&self, index: u16) -> *mut u64 {
        // SAFETY: the masked index is below the ring's size, so this is within the descriptors at the ring's beginning.
        unsafe { self.base.as_ptr().add((index & self.mask) as usize * DESC).cast() }
    }

    /// A descriptor's second word.
    #[inline(always)]
    pub(super) fn state(&self, index: u16) -> &AtomicU64 {
        // SAFETY: within the ring and aligned, as `desc` is.
        unsafe { AtomicU64::from_ptr(self.desc(index).add(1)) }
    }

    /// Makes a descriptor what it is to be, without writing what it is already: a line that only the driver writes stays in both
    /// caches.
    #[inline(always)]
    pub(super) fn set(&self, index: u16, words: [u64; 2]) {
        let p = self.desc(index);
        // SAFETY: `desc` is within the ring and aligned to 16 bytes.
        unsafe {
            if p.read_volatile() != words[0] {
                p.write_volatile(words[0]);
            }
            if p.add(1).read_volatile() != words[1] {
                p.add(1).write_volatile(words[1]);
            }
        }
    }

    #[inline(always)]
    pub(super) fn set_address(&self, index: u16, address: u64) {
        // SAFETY: as in `set`.
        unsafe { self.desc(index).write_volatile(address) }
    }

    #[inline(always)]
    pub(super) fn available_index(&self) -> &AtomicU16 {
        self.half(self.driver + 2)
    }

    #[inline(always)]
    pub(super) fn available_entry(&self, index: u16) -> &AtomicU16 {
        self.half(self.driver + 4 + 2 * (index & self.mask) as usize)
    }

    #[inline(always)]
    pub(super) fn used_index(&self) -> &AtomicU16 {
        self.half(self.device + 2)
    }

    /// An entry of the used ring: id and length. Entries begin 4 bytes into a cache line.
    #[inline(always)]
    pub(super) fn used_entry(&self, index: u16) -> [&AtomicU32; 2] {
        let at = self.device + 4 + 8 * (index & self.mask) as usize;
        debug_assert!(at + 8 <= self.buffers);
        // SAFETY: within the ring's bytes and aligned, as in `half`.
        [0, 4].map(|half| unsafe { AtomicU32::from_ptr(self.base.as_ptr().add(at + half).cast()) })
    }

    /// The flags of a packed ring's descriptor that is made available as number `index`.
    #[inline(always)]
    pub(super) fn available_flags(&self, index: u16) -> u16 {
        if index & self.shape.size == 0 { AVAIL } else { USED }
    }

    /// Whether a packed ring's descriptor with these flags, made available as number `index`, came back.
    #[inline(always)]
    pub(super) fn is_used(&self, flags: u16, index: u16) -> bool {
        let both = AVAIL | USED;
        flags & both == if index & self.shape.size == 0 { both } else { 0 }
    }

    /// The buffer of a slot, the header first.
    #[inline(always)]
    pub(super) fn buffer(&self, slot: u16) -> NonNull<u8> {
        let at = self.buffers + (slot & self.mask) as usize * self.stride + INDENT;
        // SAFETY: the masked slot is below the ring's size; `Shape::bytes`, which the queue found in a region, counts a stride
        // for each.
        unsafe { self.base.add(at) }
    }

    /// Whether the back end wants to be notified of what was made available from `old` to `new`.
    #[inline(always)]
    pub(super) fn wanted(&self, old: u16, new: u16) -> bool {
        let s = &self.shape;
        if s.packed {
            // With an index that is not looked at: notifying too often is allowed.
            return self.half(self.device + 2).load(Ordering::Relaxed) != SUPPRESS;
        }
        if s.event_idx {
            let event = self.half(self.device + 4 + 8 * s.size as usize).load(Ordering::Relaxed);
            return new.wrapping_sub(event).wrapping_sub(1) < new.wrapping_sub(old);
        }
        self.half(self.device).load(Ordering::Relaxed) & SUPPRESS == 0
    }

    /// Asks for the lines of the `n` descriptors from `from` on, to be written.
    #[inline(always)]
    pub(super) fn prefetch(&self, from: u16, n: u16) {
        for i in (0..n + 3).step_by(64 / DESC) {
            prefetch_write(self.desc(from.wrapping_add(i)).cast_const());
        }
    }

    /// Length of the buffer that came back as number `at`; `None` if it is not the one that it should be.
    #[inline(always)]
    pub(super) fn length(&self, at: u16) -> Option<u32> {
        let (id, len) = if self.shape.packed {
            let state = self.state(at.wrapping_mul(self.shape.parts)).load(Ordering::Relaxed);
            (u32::from((state >> 32) as u16), state as u32)
        } else {
            self.used_entry(at).map(|half| half.load(Ordering::Relaxed)).into()
        };
        let expected = at.wrapping_mul(self.shape.parts) & self.mask;
        (id == u32::from(expected)).then(|| len.min(self.shape.buffer_size))
    }
}
