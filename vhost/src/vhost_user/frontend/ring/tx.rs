//! Sending: frames are written to buffers of the ring's own, or named in a region.

use super::Queue;
use super::layout::*;
use crate::vhost_user::frontend::VNET_HEADER;
use dray_switch::mem::copy;
use std::ops::Deref;
use std::sync::atomic::{Ordering, fence};

/// A transmit ring for tools. Frames have their header ([`VNET_HEADER`] bytes) before them.
#[derive(Debug)]
pub struct RawTx(pub(in crate::vhost_user::frontend) Queue);

impl Deref for RawTx {
    type Target = Queue;

    #[inline(always)]
    fn deref(&self) -> &Queue {
        &self.0
    }
}

impl RawTx {
    /// Descriptors, and buffers.
    pub fn size(&self) -> u16 {
        self.0.ring.shape.size
    }

    /// Bytes of a buffer, with the header.
    pub fn buffer_size(&self) -> usize {
        self.0.ring.shape.buffer_size as usize
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
    /// Unlike [`Queue::wake`] it may miss that a back end that polls has just asked for notifications: this saves the full memory fence of
    /// every batch.
    #[inline(always)]
    pub fn fill(&mut self, region: u16, frames: impl Iterator<Item = (u32, u32)>) {
        let q = &mut self.0;
        let Some(gpa) = q.memory.table.get(region as usize).map(|r| r.gpa) else { return };
        let frames = frames.take(q.ring.shape.size as usize).map(|(offset, len)| (gpa + u64::from(offset), len));
        if q.ring.shape.packed { q.fill_packed(frames) } else { q.fill_split(frames) }
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
