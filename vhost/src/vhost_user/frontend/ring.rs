//! A driver's rings, split (virtio 1.2, section 2.7) and packed (section 2.8), at the speed of a packet generator: descriptors
//! are written and read in batches, frames are not touched.
//!
//! Descriptors are used one after the other, and the back end is taken to complete in order, as all that are known do. So descriptor
//! tables and available rings hold the same values all the time and are written only where they change, and no id that a
//! back end writes is ever used as an index: one that is not the expected one is a fault, after which nothing moves.
#![allow(unsafe_code)]

mod null;

pub use null::NullSwitch;

use super::{Memory, VNET_HEADER};
use crate::mem::Regions;
use crate::socket::event;
use dray_switch::mem::{copy, prefetch_read, prefetch_write};
use rustix::event::PollFlags;
use std::marker::PhantomData;
use std::os::fd::{AsFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, AtomicU32, AtomicU64, Ordering, fence};
use std::time::{Duration, Instant};

/// Bytes of a descriptor.
const DESC: usize = 16;
/// Flags of a descriptor: the frame goes on in the next one; the device writes; it describes a table of descriptors.
const NEXT: u16 = 1;
const WRITE: u16 = 2;
const INDIRECT: u16 = 4;
/// Flags of a packed ring's descriptor, which say with the wrap counter whose it is.
const AVAIL: u16 = 1 << 7;
const USED: u16 = 1 << 15;
/// A split available ring's flags: no interrupts; a used ring's: no notifications. Also "disable" in packed rings' event suppression.
const SUPPRESS: u16 = 1;
/// Buffers begin this far into a cache line, so that the frame behind the header begins one, as DPDK's drivers have it.
const INDENT: usize = 64 - VNET_HEADER;

/// What all rings of a front end have in common.
#[derive(Clone, Copy, Debug)]
pub(super) struct Shape {
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
}

impl Shape {
    fn driver_offset(&self) -> usize {
        DESC * self.size as usize
    }

    fn device_offset(&self) -> usize {
        (self.driver_offset() + 6 + 2 * self.size as usize).next_multiple_of(64)
    }

    fn buffers_offset(&self) -> usize {
        (self.device_offset() + 6 + 8 * self.size as usize).next_multiple_of(4096)
    }

    /// An odd number of cache lines, so that the beginnings of buffers spread over all sets of a cache.
    fn stride(&self) -> usize {
        ((INDENT + self.buffer_size as usize).div_ceil(64) | 1) * 64
    }

    /// Bytes of a ring with its buffers.
    pub fn bytes(&self) -> u64 {
        (self.buffers_offset() as u64 + self.stride() as u64 * u64::from(self.size)).next_multiple_of(4096)
    }
}

/// Offsets of a ring's three parts in its region.
#[derive(Clone, Copy, Debug)]
pub(super) struct Places {
    pub desc: u64,
    pub driver: u64,
    pub device: u64,
}

/// Where a ring is. Small and copied, because the compiler can't know that what is read from memory that is shared does not change it.
#[derive(Clone, Copy, Debug)]
struct Ring {
    base: NonNull<u8>,
    mask: u16,
    shape: Shape,
    /// Offsets of its parts after the descriptors, and of its buffers.
    driver: usize,
    device: usize,
    buffers: usize,
    /// Bytes from one buffer to the next.
    stride: usize,
}

impl Ring {
    fn new(base: NonNull<u8>, shape: Shape) -> Ring {
        let (driver, device, buffers) = (shape.driver_offset(), shape.device_offset(), shape.buffers_offset());
        Ring { base, mask: shape.size - 1, shape, driver, device, buffers, stride: shape.stride() }
    }

    #[inline(always)]
    fn half(&self, at: usize) -> &AtomicU16 {
        debug_assert!(at < self.buffers);
        // SAFETY: `at` is even and within the ring's bytes, which its queue found in a region and keeps mapped.
        unsafe { AtomicU16::from_ptr(self.base.as_ptr().add(at).cast()) }
    }

    #[inline(always)]
    fn desc(&self, index: u16) -> *mut u64 {
        // SAFETY: the masked index is below the ring's size, so this is within the descriptors at the ring's beginning.
        unsafe { self.base.as_ptr().add((index & self.mask) as usize * DESC).cast() }
    }

    /// A descriptor's second word.
    #[inline(always)]
    fn state(&self, index: u16) -> &AtomicU64 {
        // SAFETY: within the ring and aligned, as `desc` is.
        unsafe { AtomicU64::from_ptr(self.desc(index).add(1)) }
    }

    /// Makes a descriptor what it is to be, without writing what it is already: a line that only the driver writes stays in both
    /// caches.
    #[inline(always)]
    fn set(&self, index: u16, words: [u64; 2]) {
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
    fn set_address(&self, index: u16, address: u64) {
        // SAFETY: as in `set`.
        unsafe { self.desc(index).write_volatile(address) }
    }

    #[inline(always)]
    fn available_index(&self) -> &AtomicU16 {
        self.half(self.driver + 2)
    }

    #[inline(always)]
    fn available_entry(&self, index: u16) -> &AtomicU16 {
        self.half(self.driver + 4 + 2 * (index & self.mask) as usize)
    }

    #[inline(always)]
    fn used_index(&self) -> &AtomicU16 {
        self.half(self.device + 2)
    }

    /// An entry of the used ring: id and length. Entries begin 4 bytes into a cache line.
    #[inline(always)]
    fn used_entry(&self, index: u16) -> [&AtomicU32; 2] {
        let at = self.device + 4 + 8 * (index & self.mask) as usize;
        debug_assert!(at + 8 <= self.buffers);
        // SAFETY: within the ring's bytes and aligned, as in `half`.
        [0, 4].map(|half| unsafe { AtomicU32::from_ptr(self.base.as_ptr().add(at + half).cast()) })
    }

    /// The flags of a packed ring's descriptor that is made available as number `index`.
    #[inline(always)]
    fn available_flags(&self, index: u16) -> u16 {
        if index & self.shape.size == 0 { AVAIL } else { USED }
    }

    /// Whether a packed ring's descriptor with these flags, made available as number `index`, came back.
    #[inline(always)]
    fn is_used(&self, flags: u16, index: u16) -> bool {
        let both = AVAIL | USED;
        flags & both == if index & self.shape.size == 0 { both } else { 0 }
    }

    /// The buffer of a slot, the header first.
    #[inline(always)]
    fn buffer(&self, slot: u16) -> NonNull<u8> {
        let at = self.buffers + (slot & self.mask) as usize * self.stride + INDENT;
        // SAFETY: the masked slot is below the ring's size; `Shape::bytes`, which the queue found in a region, counts a stride
        // for each.
        unsafe { self.base.add(at) }
    }

    /// Whether the back end wants to be notified of what was made available from `old` to `new`.
    #[inline(always)]
    fn wanted(&self, old: u16, new: u16) -> bool {
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
    fn prefetch(&self, from: u16, n: u16) {
        for i in (0..n + 3).step_by(64 / DESC) {
            prefetch_write(self.desc(from.wrapping_add(i)).cast_const());
        }
    }

    /// Length of the buffer that came back as number `at`; `None` if it is not the one that it should be.
    #[inline(always)]
    fn length(&self, at: u16) -> Option<u32> {
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

/// A ring with its buffers, one for each descriptor of a transmit ring.
#[derive(Debug)]
pub(super) struct Queue {
    memory: Arc<Memory>,
    ring: Ring,
    /// Its region, and where it is in it.
    pub region: usize,
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
    pub kick: OwnedFd,
    pub call: OwnedFd,
}

// SAFETY: a queue's addresses are of memory that it holds, which is only touched by atomic and volatile accesses and copies
// through raw pointers; nothing in it is tied to a thread.
unsafe impl Send for Queue {}

impl Queue {
    /// A ring at `offset` of region `region`, which has room for it.
    pub fn new(memory: Arc<Memory>, region: usize, offset: u32, shape: Shape) -> Result<Queue, String> {
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

    pub fn places(&self) -> Places {
        let at = |offset: usize| u64::from(self.offset) + offset as u64;
        Places { desc: at(0), driver: at(self.ring.driver), device: at(self.ring.device) }
    }

    /// The guest-physical address of a slot's buffer.
    fn address(&self, slot: u16) -> u64 {
        let at = self.ring.buffers + (slot & self.ring.mask) as usize * self.ring.stride + INDENT;
        self.memory.table[self.region].message.gpa + u64::from(self.offset) + at as u64
    }

    #[cold]
    fn broken(&mut self, what: &'static str) {
        self.fault = Some(what);
    }

    #[inline(always)]
    fn notify(&self, old: u16) {
        if self.ring.wanted(old, self.next) {
            let _ = rustix::io::write(&self.kick, &1u64.to_ne_bytes());
        }
    }

    /// Notifies a back end that wants it, for certain.
    fn wake(&self) {
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
    pub fn base(&self) -> u32 {
        if self.ring.shape.packed {
            let at =
                |index: u16| u32::from(index & self.ring.mask) | u32::from(index & self.ring.shape.size == 0) << 15;
            at(self.done) | at(self.done) << 16
        } else {
            self.ring.used_index().load(Ordering::Acquire).into()
        }
    }

    /// Waits for an interrupt, for at most `timeout`: how many there were.
    fn interrupts(&self, timeout: Duration) -> u64 {
        super::message::wait(self.call.as_fd(), PollFlags::IN, Instant::now() + timeout);
        let mut count = [0; 8];
        rustix::io::read(&self.call, &mut count).map_or(0, |_| u64::from_ne_bytes(count))
    }

    /// Whatever it is given as descriptor `index`, for tests of the other side.
    #[doc(hidden)]
    fn set_raw(&mut self, index: u16, words: [u64; 2]) {
        self.ring.set_address(index, words[0]);
        self.ring.state(index).store(words[1], Ordering::Release);
    }
}

/// A transmit ring for tools. Frames have their header ([`VNET_HEADER`] bytes) before them.
#[derive(Debug)]
pub struct RawTx(pub(super) Queue);

impl RawTx {
    /// Descriptors, and buffers.
    pub fn size(&self) -> u16 {
        self.0.ring.shape.size
    }

    /// Bytes of a buffer, with the header.
    pub fn buffer_size(&self) -> usize {
        self.0.ring.shape.buffer_size as usize
    }

    /// What the back end did wrong on this ring, if it did.
    pub fn fault(&self) -> Option<&'static str> {
        self.0.fault
    }

    /// How many descriptors are free. 0 when the back end broke the ring.
    #[inline]
    pub fn free(&mut self) -> u16 {
        let q = &mut self.0;
        if q.fault.is_none() {
            if q.ring.shape.packed { q.reclaim_packed() } else { q.reclaim_split() }
        }
        if q.fault.is_some() { 0 } else { q.ring.shape.size - q.desc_next.wrapping_sub(q.desc_done) }
    }

    /// Points the next descriptors at headers with frames in region `region`, given as offset and length of both together in
    /// bytes, one a frame, and hands them to the back end. At most [`RawTx::free`] are to be given; no more than the ring's
    /// size are used.
    ///
    /// Unlike [`RawTx::wake`] it may miss that the back end has just asked for notifications: this saves the full memory
    /// fence of every batch.
    #[inline(always)]
    pub fn fill(&mut self, region: u16, frames: impl Iterator<Item = (u32, u32)>) {
        let q = &mut self.0;
        let Some(gpa) = q.memory.table.get(region as usize).map(|r| r.message.gpa) else { return };
        let frames = frames.take(q.ring.shape.size as usize).map(|(offset, len)| (gpa + u64::from(offset), len));
        if q.ring.shape.packed { q.fill_packed(frames) } else { q.fill_split(frames) }
    }

    /// Notifies the back end if it wants that, for certain.
    pub fn wake(&mut self) {
        self.0.wake();
    }

    /// Sends a copy of `frame` behind a header of zeros, over several buffers if need be. `false` if there is no room (now, or
    /// ever if it is longer than all buffers together).
    pub fn send(&mut self, frame: &[u8]) -> bool {
        self.send_with_header([0; VNET_HEADER], frame)
    }

    /// As [`RawTx::send`], with this header (virtio 1.2, section 5.1.6).
    pub fn send_with_header(&mut self, header: [u8; VNET_HEADER], frame: &[u8]) -> bool {
        let bytes = [&header, frame].concat();
        let parts: Vec<&[u8]> = bytes.chunks(self.buffer_size()).collect();
        self.send_parts(&parts)
    }

    /// Sends a chain of descriptors, one for each part; together the parts are header and frame. `false` if there is no room
    /// (now, or ever).
    pub fn send_parts(&mut self, parts: &[&[u8]]) -> bool {
        let n = parts.len();
        if n == 0 || n > self.free().into() || parts.iter().any(|p| p.len() > self.buffer_size()) {
            return false;
        }
        let q = &mut self.0;
        let head = q.desc_next;
        let list: Vec<(u64, u32, u16)> = (0..)
            .zip(parts)
            .map(|(i, part)| {
                let slot = head.wrapping_add(i);
                // SAFETY: the part is not longer than the buffer, and private memory.
                unsafe { copy(part.as_ptr(), q.ring.buffer(slot).as_ptr(), part.len()) };
                (q.address(slot), part.len() as u32, if i as usize + 1 < n { NEXT } else { 0 })
            })
            .collect();
        q.publish(&list);
        true
    }

    /// As [`RawTx::send_parts`] by one descriptor, which describes a table of them (virtio 1.2, section 2.7.5.3).
    pub fn send_indirect(&mut self, parts: &[&[u8]]) -> bool {
        let (n, bytes) = (parts.len(), parts.iter().map(|p| p.len()).sum::<usize>());
        if n == 0 || self.free() == 0 || VNET_HEADER + n * DESC + bytes > self.buffer_size() {
            return false;
        }
        let q = &mut self.0;
        let slot = q.desc_next;
        let mut table = Vec::with_capacity(n * DESC);
        // The table begins where a frame would: at the beginning of a cache line.
        let mut at = VNET_HEADER + n * DESC;
        for (i, part) in parts.iter().enumerate() {
            let more = u64::from(!q.ring.shape.packed && i + 1 < n);
            table.extend((q.address(slot) + at as u64).to_ne_bytes());
            table.extend((part.len() as u64 | more << 32 | (more * (i as u64 + 1)) << 48).to_ne_bytes());
            // SAFETY: all parts together end within the buffer (checked above); `part` is private memory.
            unsafe { copy(part.as_ptr(), q.ring.buffer(slot).as_ptr().add(at), part.len()) };
            at += part.len();
        }
        // SAFETY: the table and the parts behind it end within the buffer (checked above); `table` is private memory.
        unsafe { copy(table.as_ptr(), q.ring.buffer(slot).as_ptr().add(VNET_HEADER), table.len()) };
        q.publish(&[(q.address(slot) + VNET_HEADER as u64, table.len() as u32, INDIRECT)]);
        true
    }

    /// Waits for an interrupt, for at most `timeout`: how many there were since the last call.
    pub fn interrupts(&self, timeout: Duration) -> u64 {
        self.0.interrupts(timeout)
    }

    /// The guest-physical address of a slot's buffer, for tests of the other side.
    #[doc(hidden)]
    pub fn address(&self, slot: u16) -> u64 {
        self.0.address(slot)
    }

    /// Writes whatever it is given into a descriptor, for tests of the other side.
    #[doc(hidden)]
    pub fn set_raw(&mut self, index: u16, words: [u64; 2]) {
        self.0.set_raw(index, words);
    }

    /// Writes whatever it is given as an entry of a split available ring, for tests of the other side.
    #[doc(hidden)]
    pub fn set_available(&mut self, index: u16, id: u16) {
        self.0.ring.available_entry(index).store(id, Ordering::Release);
    }

    /// Writes whatever it is given as index of a split available ring, for tests of the other side.
    #[doc(hidden)]
    pub fn set_index(&mut self, index: u16) {
        self.0.ring.available_index().store(index, Ordering::Release);
    }
}

impl Queue {
    #[inline(always)]
    fn reclaim_split(&mut self) {
        let ring = self.ring;
        let used = ring.used_index().load(Ordering::Acquire);
        let n = used.wrapping_sub(self.done);
        if n > self.next.wrapping_sub(self.done) {
            return self.broken("the used index jumped");
        }
        if ring.shape.in_order && self.chained == 0 {
            // In order, not even all entries need be written.
            self.desc_done = self.desc_done.wrapping_add(n);
        } else {
            for i in 0..n {
                let at = self.done.wrapping_add(i);
                let id = ring.used_entry(at)[0].load(Ordering::Relaxed);
                if !ring.shape.in_order && id != u32::from(self.desc_done & ring.mask) {
                    return self.broken("frames are not completed in order");
                }
                self.came_back((at & ring.mask) as usize);
            }
        }
        self.done = used;
        if ring.shape.interrupts {
            self.want_interrupt();
        }
    }

    /// The frame whose descriptors are counted at `at` came back. How many it had.
    #[inline(always)]
    fn came_back(&mut self, at: usize) -> u16 {
        let count = std::mem::replace(&mut self.counts[at], 1);
        self.chained -= u32::from(count != 1);
        self.desc_done = self.desc_done.wrapping_add(count);
        count
    }

    #[inline(always)]
    fn reclaim_packed(&mut self) {
        let ring = self.ring;
        while self.done != self.next {
            let state = ring.state(self.done).load(Ordering::Acquire);
            if !ring.is_used((state >> 48) as u16, self.done) {
                return;
            }
            let id = (state >> 32) as u16;
            // In order, the last frame's may stand for those before it.
            while id != self.done & ring.mask {
                let count = self.came_back((self.done & ring.mask) as usize);
                self.done = self.done.wrapping_add(count);
                if !ring.shape.in_order || self.done == self.next {
                    return self.broken("a frame that is not under way was completed");
                }
            }
            let count = self.came_back((self.done & ring.mask) as usize);
            self.done = self.done.wrapping_add(count);
        }
    }

    #[inline(always)]
    fn fill_split(&mut self, frames: impl Iterator<Item = (u64, u32)>) {
        let ring = self.ring;
        let old = self.next;
        let (mut next, mut desc) = (old, self.desc_next);
        for (address, len) in frames {
            let id = desc & ring.mask;
            ring.set(id, [address, len.into()]);
            let entry = ring.available_entry(next);
            if entry.load(Ordering::Relaxed) != id {
                entry.store(id, Ordering::Relaxed);
            }
            (next, desc) = (next.wrapping_add(1), desc.wrapping_add(1));
        }
        (self.next, self.desc_next) = (next, desc);
        ring.available_index().store(next, Ordering::Release);
        self.notify(old);
    }

    #[inline(always)]
    fn fill_packed(&mut self, mut frames: impl Iterator<Item = (u64, u32)>) {
        let ring = self.ring;
        let old = self.next;
        let Some(first) = frames.next() else { return };
        let state = |at: u16, len: u32| {
            u64::from(len) | u64::from(at & ring.mask) << 32 | u64::from(ring.available_flags(at)) << 48
        };
        let mut next = old.wrapping_add(1);
        for (address, len) in frames {
            ring.set_address(next, address);
            ring.state(next).store(state(next, len), Ordering::Release);
            next = next.wrapping_add(1);
        }
        // The back end stops at a descriptor that is not available: with the first, all are.
        ring.set_address(old, first.0);
        ring.state(old).store(state(old, first.1), Ordering::Release);
        (self.next, self.desc_next) = (next, next);
        self.notify(old);
    }

    /// Makes a chain of descriptors available: address, length and flags of each.
    fn publish(&mut self, list: &[(u64, u32, u16)]) {
        let (old, head, n) = (self.next, self.desc_next, list.len() as u16);
        let id = head & self.ring.mask;
        for (i, &(address, len, flags)) in (0..n).zip(list).rev() {
            let at = head.wrapping_add(i);
            let state = if self.ring.shape.packed {
                u64::from(len) | u64::from(id) << 32 | u64::from(flags | self.ring.available_flags(at)) << 48
            } else {
                let next = if flags & NEXT != 0 { at.wrapping_add(1) & self.ring.mask } else { 0 };
                u64::from(len) | u64::from(flags) << 32 | u64::from(next) << 48
            };
            self.ring.set_address(at, address);
            self.ring.state(at).store(state, Ordering::Release);
        }
        self.chained += u32::from(n != 1);
        self.desc_next = head.wrapping_add(n);
        if self.ring.shape.packed {
            self.counts[id as usize] = n;
            self.next = self.desc_next;
        } else {
            self.counts[(old & self.ring.mask) as usize] = n;
            self.ring.available_entry(old).store(id, Ordering::Relaxed);
            self.next = old.wrapping_add(1);
            self.ring.available_index().store(self.next, Ordering::Release);
        }
        fence(Ordering::SeqCst);
        self.notify(old);
    }
}

/// A received piece, where it arrived. The back end can still change it.
pub struct Peek<'a> {
    ptr: NonNull<u8>,
    len: u32,
    queue: PhantomData<&'a RawRx>,
}

impl Peek<'_> {
    /// Length in bytes; in the first of a frame's buffers with the header.
    #[inline]
    pub fn len(&self) -> usize {
        self.len as usize
    }

    /// Whether there are no bytes.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Copies the bytes from `at` on to `to`; how many there were.
    #[inline]
    pub fn read(&self, at: usize, to: &mut [u8]) -> usize {
        let at = at.min(self.len());
        let n = to.len().min(self.len() - at);
        // SAFETY: `at + n` is at most the piece's length, which is at most its buffer's; the queue, and so the memory, is borrowed; `to`
        // is private memory.
        unsafe { copy(self.ptr.as_ptr().add(at), to.as_mut_ptr(), n) };
        n
    }
}

/// A receive ring for tools: frames are looked at where they arrived.
#[derive(Debug)]
pub struct RawRx(pub(super) Queue);

impl RawRx {
    /// A receive ring with all buffers on offer.
    pub(super) fn new(mut queue: Queue) -> RawRx {
        let q = &mut queue;
        let parts = q.ring.shape.parts;
        let piece = q.ring.shape.buffer_size / u32::from(parts);
        for desc in 0..q.ring.shape.size {
            let address = q.address(desc / parts) + u64::from(u32::from(desc % parts) * piece);
            let flags = WRITE | if desc % parts + 1 < parts { NEXT } else { 0 };
            let state = if q.ring.shape.packed {
                // Made available below.
                u64::from(piece)
            } else {
                u64::from(piece) | u64::from(flags) << 32 | u64::from((desc + 1) & q.ring.mask) << 48
            };
            q.ring.set(desc, [address, state]);
            if !q.ring.shape.packed {
                q.ring.available_entry(desc).store((desc & (q.ring.shape.size / parts - 1)) * parts, Ordering::Relaxed);
            }
        }
        let mut rx = RawRx(queue);
        rx.offer(rx.size());
        rx
    }

    /// Buffers.
    pub fn size(&self) -> u16 {
        self.0.ring.shape.size / self.0.ring.shape.parts
    }

    /// What the back end did wrong on this ring, if it did.
    pub fn fault(&self) -> Option<&'static str> {
        self.0.fault
    }

    /// Looks for more that has come, until `max` buffers are known.
    #[inline(always)]
    fn look(&mut self, max: u16) {
        let all = self.size();
        let q = &mut self.0;
        if q.fault.is_some() {
            q.seen = 0;
        } else if q.ring.shape.packed {
            while q.seen < max.min(all) {
                let at = q.done.wrapping_add(q.seen).wrapping_mul(q.ring.shape.parts);
                if !q.ring.is_used((q.ring.state(at).load(Ordering::Acquire) >> 48) as u16, at) {
                    break;
                }
                q.seen += 1;
            }
        } else {
            let n = q.ring.used_index().load(Ordering::Acquire).wrapping_sub(q.done);
            if n > all {
                q.broken("the used index jumped");
            }
            q.seen = if n > all { 0 } else { n };
        }
    }

    /// How many buffers have arrived and were not given back. 0 when the back end broke the ring.
    #[inline]
    pub fn available(&mut self) -> u16 {
        self.look(u16::MAX);
        self.0.seen
    }

    /// The `i`th buffer that was not given back.
    #[inline]
    pub fn peek(&self, i: u16) -> Peek<'_> {
        let len = self.0.ring.length(self.0.done.wrapping_add(i)).unwrap_or(0);
        let slot = self.0.done.wrapping_add(i) & (self.size() - 1);
        Peek { ptr: self.0.ring.buffer(slot), len, queue: PhantomData }
    }

    /// Offers `n` more buffers, those after the ones that are on offer.
    #[inline(always)]
    fn offer(&mut self, n: u16) {
        let q = &mut self.0;
        let ring = q.ring;
        let old = q.next;
        q.next = old.wrapping_add(n);
        if ring.shape.packed {
            let (parts, first) = (ring.shape.parts, old.wrapping_mul(ring.shape.parts));
            let piece = u64::from(ring.shape.buffer_size / u32::from(parts));
            let state = |at: u16| {
                let id = at & ring.mask & !(parts - 1);
                let flags = WRITE | if at & (parts - 1) == parts - 1 { 0 } else { NEXT } | ring.available_flags(at);
                piece | u64::from(id) << 32 | u64::from(flags) << 48
            };
            for i in 1..n * parts {
                let at = first.wrapping_add(i);
                ring.state(at).store(state(at), Ordering::Release);
            }
            if n != 0 {
                ring.state(first).store(state(first), Ordering::Release);
            }
        } else {
            ring.available_index().store(q.next, Ordering::Release);
        }
        q.notify(old);
    }

    /// Gives the first `n` buffers (at most [`RawRx::available`]) back to the back end, to be filled again.
    #[inline]
    pub fn give_back(&mut self, n: u16) {
        let n = n.min(self.0.seen);
        self.0.done = self.0.done.wrapping_add(n);
        self.0.seen -= n;
        if self.0.ring.shape.interrupts {
            self.0.want_interrupt();
        }
        self.offer(n);
    }

    /// Receives a frame into `to`, cut if it is longer; its header and length, if there was one, whole.
    pub fn recv(&mut self, to: &mut [u8]) -> Option<([u8; VNET_HEADER], usize)> {
        let available = self.available();
        if available == 0 {
            return None;
        }
        let mut header = [0; VNET_HEADER];
        let first = self.peek(0);
        if first.read(0, &mut header) < VNET_HEADER {
            self.0.broken("a frame without a header");
            return None;
        }
        let mut len = first.read(VNET_HEADER, to);
        // The header's last field: buffers of the frame.
        let n = u16::from_le_bytes([header[10], header[11]]).max(1);
        if n > available {
            return None;
        }
        for i in 1..n {
            len += self.peek(i).read(0, &mut to[len..]);
        }
        self.give_back(n);
        Some((header, len))
    }

    /// Takes at most `max` of the buffers that have arrived and gives them back at once. How many there were and their
    /// bytes together, headers included.
    ///
    /// `look` is called before that for every buffer whose number is a multiple of `every` (not 0), where the first of these
    /// has number `count`.
    #[inline(always)]
    pub fn take(&mut self, max: u16, count: u64, every: u64, mut look: impl FnMut(u64, &Peek<'_>)) -> (u16, u64) {
        self.look(max);
        let n = self.0.seen.min(max);
        if n == 0 {
            return (0, 0);
        }
        if self.0.ring.shape.packed && self.0.ring.shape.parts == 1 {
            self.0.ring.prefetch(self.0.done, n);
        }
        // The samples' bytes are in the back end's cache: ask for all before looking at any.
        let samples = move || (count.next_multiple_of(every)..count + u64::from(n)).step_by(every as usize);
        for number in samples() {
            let p = self.0.ring.buffer(self.0.done.wrapping_add((number - count) as u16) & (self.size() - 1)).as_ptr();
            prefetch_read(p.wrapping_add(VNET_HEADER).cast_const());
        }
        let (mut bytes, mut good) = (0, true);
        let (ring, done) = (self.0.ring, self.0.done);
        for i in 0..n {
            let len = ring.length(done.wrapping_add(i));
            good &= len.is_some();
            bytes += u64::from(len.unwrap_or(0));
        }
        if !good {
            self.0.broken("buffers are not completed in order");
            return (0, 0);
        }
        for number in samples() {
            look(number, &self.peek((number - count) as u16));
        }
        self.give_back(n);
        (n, bytes)
    }

    /// Notifies the back end if it wants that, for certain.
    pub fn wake(&mut self) {
        self.0.wake();
    }

    /// Waits for an interrupt, for at most `timeout`: how many there were since the last call.
    pub fn interrupts(&self, timeout: Duration) -> u64 {
        self.0.interrupts(timeout)
    }

    /// The guest-physical address of a slot's buffer, for tests of the other side.
    #[doc(hidden)]
    pub fn address(&self, slot: u16) -> u64 {
        self.0.address(slot)
    }

    /// Writes whatever it is given into a descriptor, for tests of the other side.
    #[doc(hidden)]
    pub fn set_raw(&mut self, index: u16, words: [u64; 2]) {
        self.0.set_raw(index, words);
    }

    /// Writes whatever it is given as an entry of a split available ring, for tests of the other side.
    #[doc(hidden)]
    pub fn set_available(&mut self, index: u16, id: u16) {
        self.0.ring.available_entry(index).store(id, Ordering::Release);
    }

    /// Writes whatever it is given as index of a split available ring, for tests of the other side.
    #[doc(hidden)]
    pub fn set_index(&mut self, index: u16) {
        self.0.ring.available_index().store(index, Ordering::Release);
    }
}
