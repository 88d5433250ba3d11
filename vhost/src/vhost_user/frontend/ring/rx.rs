//! Receiving: buffers are on offer, and frames looked at where they arrived.

use super::Queue;
use super::layout::*;
use crate::vhost_user::frontend::VNET_HEADER;
use dray_switch::mem::{copy, prefetch_read};
use std::marker::PhantomData;
use std::ops::Deref;
use std::ptr::NonNull;
use std::sync::atomic::Ordering;

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

    /// Where the bytes are. They stay as they are until the buffer is given back, if the back end keeps to its contract.
    #[inline]
    pub fn as_ptr(&self) -> *const u8 {
        self.ptr.as_ptr()
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
pub struct RawRx(pub(in crate::vhost_user::frontend) Queue);

impl Deref for RawRx {
    type Target = Queue;

    #[inline(always)]
    fn deref(&self) -> &Queue {
        &self.0
    }
}

impl RawRx {
    /// A receive ring with all buffers on offer.
    pub(in crate::vhost_user::frontend) fn new(mut queue: Queue) -> RawRx {
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

    /// As [`RawRx::available`], and 0 also if they did not come in the order in which they were offered, which breaks the ring.
    #[inline]
    pub fn arrived(&mut self) -> u16 {
        let n = self.available();
        let (ring, done) = (self.0.ring, self.0.done);
        if (0..n).any(|i| ring.length(done.wrapping_add(i)).is_none()) {
            self.0.broken("buffers are not completed in order");
            return 0;
        }
        n
    }

    /// What a look for buffers that have come reads first, for a cache to be asked for it.
    pub fn watched(&self) -> *const u8 {
        self.0.ring.used_index().as_ptr().cast_const().cast()
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
}
