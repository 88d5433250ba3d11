//! Raw rings at the speed of a packet generator: descriptors are written and read in batches, frames are not touched.
#![allow(unsafe_code)]

use super::build::ClientRings;
use super::{A_LINE, FLAG_NEXT, Queue, Ring, Slot};
use crate::memif::Client;
use dray_switch::mem::{copy, prefetch_read, prefetch_write};
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// A client's transmit ring for tools: frames are prepared in its buffers and published without touching them again.
/// It trusts its server: waking one that sleeps may block.
pub struct RawTx(Queue);

/// A client's receive ring for tools: frames are looked at where they arrived.
pub struct RawRx(Queue);

/// A client's raw rings.
pub(crate) fn raw_queues(rings: ClientRings) -> (Vec<RawTx>, Vec<RawRx>) {
    rings.offer_again();
    (rings.s2m.into_iter().map(RawTx).collect(), rings.m2s.into_iter().map(RawRx).collect())
}

impl RawTx {
    /// Descriptors, and buffers.
    pub fn size(&self) -> u16 {
        self.0.ring.size()
    }

    /// Bytes of a buffer.
    pub fn buffer_size(&self) -> usize {
        self.0.own.map_or(0, |own| own.size as usize)
    }

    /// The slot (index of a buffer) that is published next.
    #[inline]
    pub fn next(&self) -> u16 {
        self.0.next & self.0.ring.mask
    }

    /// How many slots are free. 0 when the peer broke the ring.
    #[inline]
    pub fn free(&mut self) -> u16 {
        self.0.peer = self.0.ring.tail().load(Ordering::Acquire);
        let busy = self.0.next.wrapping_sub(self.0.peer);
        self.0.ring.size().saturating_sub(busy)
    }

    /// Copies `frame` into the buffer of `slot` (modulo the ring's size) at byte `at`, and as much as fits.
    #[inline]
    pub fn write(&mut self, slot: u16, at: usize, frame: &[u8]) {
        let Some(own) = &self.0.own else { return };
        let at = at.min(own.size as usize);
        let n = frame.len().min(own.size as usize - at);
        // SAFETY: `at + n` is at most the buffer's size; `frame` is private memory.
        unsafe { copy(frame.as_ptr(), own.at(slot & self.0.ring.mask).as_ptr().add(at), n) }
    }

    /// Makes the frame in `slot` `len` bytes long, in its own buffer (as it is not after [`RawTx::fill`]); `more`: it goes on in the
    /// next slot. This stays so until it is set again.
    #[inline]
    pub fn set_len(&mut self, slot: u16, len: u32, more: bool) {
        let Some(own) = &self.0.own else { return };
        let slot = slot & self.0.ring.mask;
        self.0.ring.write(slot, u16::from(more) & FLAG_NEXT, 0, len);
        self.0.ring.write_offset(slot, own.offset + u32::from(slot) * own.stride);
    }

    /// Hands the next `n` slots (at most [`RawTx::free`]) to the peer.
    #[inline]
    pub fn publish(&mut self, n: u16) {
        self.0.next = self.0.next.wrapping_add(n);
        self.0.ring.head().store(self.0.next, Ordering::Release);
        self.wake();
    }

    /// Sends a copy of `frame`, over several buffers if need be. `false` if there is no room (now, or ever if it is longer than all
    /// buffers together).
    pub fn send(&mut self, frame: &[u8]) -> bool {
        let size = self.buffer_size();
        let n = frame.len().div_ceil(size).max(1);
        if n > self.free() as usize {
            return false;
        }
        for (i, part) in frame.chunks(size).enumerate() {
            let slot = self.next().wrapping_add(i as u16);
            self.write(slot, 0, part);
            self.set_len(slot, part.len() as u32, i + 1 < n);
        }
        self.publish(n as u16);
        true
    }

    /// Writes whatever it is given into a descriptor, for tests of the other side.
    #[doc(hidden)]
    pub fn set_raw(&mut self, slot: u16, words: [u64; 2]) {
        let p = self.0.ring.desc(slot);
        // SAFETY: `desc` is within the ring and aligned to 16 bytes.
        unsafe {
            p.write_volatile(words[0]);
            p.add(1).write_volatile(words[1]);
        }
    }

    /// Writes whatever it is given as head, for tests of the other side.
    #[doc(hidden)]
    pub fn set_head(&mut self, head: u16) {
        self.0.next = head;
        self.0.ring.head().store(head, Ordering::Release);
    }
}

/// A received piece, where it arrived. The peer can still change it.
pub struct Peek<'a> {
    slot: Slot,
    queue: std::marker::PhantomData<&'a RawRx>,
}

impl Peek<'_> {
    /// Length in bytes.
    #[inline]
    pub fn len(&self) -> usize {
        self.slot.len() as usize
    }

    /// Whether there are no bytes.
    pub fn is_empty(&self) -> bool {
        self.slot.len() == 0
    }

    /// Whether the frame goes on in the next slot.
    #[inline]
    pub fn more(&self) -> bool {
        self.slot.word.flags() & FLAG_NEXT != 0
    }

    /// Copies the bytes from `at` on to `to`; how many there were.
    #[inline]
    pub fn read(&self, at: usize, to: &mut [u8]) -> usize {
        let at = at.min(self.len());
        let n = to.len().min(self.len() - at);
        // SAFETY: `at + n` is at most the piece's length, which was found within its buffer; the queue, and so the memory,
        // is borrowed; `to` is private memory.
        unsafe { copy(self.slot.ptr.as_ptr().add(at), to.as_mut_ptr(), n) };
        n
    }
}

impl RawRx {
    /// Descriptors, and buffers.
    pub fn size(&self) -> u16 {
        self.0.ring.size()
    }

    /// How many slots have arrived and were not given back. 0 when the peer broke the ring.
    #[inline]
    pub fn available(&mut self) -> u16 {
        self.0.peer = self.0.ring.tail().load(Ordering::Acquire);
        let n = self.0.peer.wrapping_sub(self.0.next);
        if n > self.0.ring.size() { 0 } else { n }
    }

    /// The `i`th slot that was not given back; a length beyond the buffer's reads as 0.
    #[inline]
    pub fn peek(&self, i: u16) -> Peek<'_> {
        let slot = self.0.read::<true, true>(self.0.next.wrapping_add(i)).unwrap_or(Slot::EMPTY);
        Peek { slot, queue: std::marker::PhantomData }
    }

    /// Gives the first `n` slots (at most [`RawRx::available`]) back to the peer, to be filled again.
    #[inline]
    pub fn give_back(&mut self, n: u16) {
        self.0.next = self.0.next.wrapping_add(n);
        self.0.offer();
    }

    /// Receives a frame into `to`, cut if it is longer; its length, if there was one.
    pub fn recv(&mut self, to: &mut [u8]) -> Option<usize> {
        let available = self.available();
        let (mut n, mut len) = (0, 0);
        while n < available {
            let piece = self.peek(n);
            len += piece.read(0, &mut to[len..]);
            let more = piece.more();
            n += 1;
            if !more {
                break;
            }
        }
        self.give_back(n);
        (n != 0).then_some(len)
    }
}

/// Asks for the cache lines of the `n` descriptors from `from` on, to be written: else a line that is first read and then
/// written comes from the peer's cache in two steps.
#[inline(always)]
fn prefetch(ring: &Ring, from: u16, n: u16) {
    for i in (0..n + A_LINE as u16 - 1).step_by(A_LINE) {
        prefetch_write(ring.desc(from.wrapping_add(i)).cast_const());
    }
}

impl RawTx {
    /// Points the next descriptors at frames in region `region`, given as offset and length in bytes, one a frame, and hands
    /// them to the peer. At most [`RawTx::free`] are to be given; no more than the ring's size are used.
    ///
    /// Unlike [`RawTx::publish`] it may miss that the peer has just gone to sleep, until the next call: this saves the
    /// full memory fence of every batch.
    #[inline(always)]
    pub fn fill(&mut self, region: u16, frames: impl Iterator<Item = (u32, u32)>) {
        let q = &mut self.0;
        let ring = q.ring;
        let mut next = q.next;
        for (offset, len) in frames.take(ring.size() as usize) {
            ring.write(next, 0, region, len);
            ring.write_offset(next, offset);
            next = next.wrapping_add(1);
        }
        q.next = next;
        ring.head().store(next, Ordering::Release);
        if !ring.masked() {
            let _ = q.interrupt.write();
        }
    }

    /// Wakes the peer if it sleeps, for certain.
    #[inline(always)]
    pub fn wake(&mut self) {
        if self.0.asleep() {
            let _ = self.0.interrupt.write();
        }
    }
}

impl RawRx {
    /// Takes at most `max` of the frames that have arrived and gives their buffers back at once. How many there were and
    /// their bytes together, as far as the buffers go. A frame over several buffers counts as several.
    ///
    /// `look` is called before that for every frame whose number is a multiple of `every` (not 0), where the first of these
    /// frames has number `count`.
    #[inline(always)]
    pub fn take(
        &mut self,
        max: u16,
        count: u64,
        every: u64,
        mut look: impl FnMut(u64, &super::Peek<'_>),
    ) -> (u16, u64) {
        let n = self.available().min(max);
        if n == 0 {
            return (0, 0);
        }
        let q = &mut self.0;
        let Some(own) = q.own else { return (0, 0) };
        let (ring, first) = (q.ring, q.next);
        prefetch(&ring, first, n);
        // The samples' bytes are in the peer's cache: ask for all before looking at any.
        let samples = move || (count.next_multiple_of(every)..count + u64::from(n)).step_by(every as usize);
        for number in samples() {
            prefetch_read(own.at(first.wrapping_add((number - count) as u16) & ring.mask).as_ptr().cast_const());
        }
        let mut bytes = 0;
        for number in samples() {
            let slot = q.read::<true, true>(first.wrapping_add((number - count) as u16)).unwrap_or(super::Slot::EMPTY);
            look(number, &super::Peek { slot, queue: std::marker::PhantomData });
        }
        for i in 0..n {
            let index = first.wrapping_add(i);
            // Flags, region and length share a word.
            bytes += u64::from(ring.read(index).0.len().min(own.size));
            ring.write(index, 0, 0, own.size);
        }
        q.next = first.wrapping_add(n);
        q.offered = q.next.wrapping_add(ring.size());
        ring.head().store(q.offered, Ordering::Release);
        (n, bytes)
    }
}

/// A ring from a client and one to a client, seen from the server's side.
struct NullPath {
    from: Ring,
    to: Ring,
    next: u16,
    filled: u16,
    /// Holds the memory of both rings.
    _shared: [Arc<super::Shared>; 2],
}

/// The least that a switch between two clients of this process could do: it passes on the lengths of frames, and neither
/// reads nor writes a byte of them. Nothing is faster, so what a generator reaches against it is the generator's ceiling.
///
/// It is to take the place of the server, whose own queues nobody polls.
pub struct NullSwitch(Vec<NullPath>);

impl NullSwitch {
    /// Between `a` and `b`, in both directions.
    pub fn new(a: &Client, b: &Client) -> NullSwitch {
        let path = |(tx, rx): (&RawTx, &RawRx)| {
            tx.0.ring.flags().store(super::MASK_INT, Ordering::Release);
            NullPath {
                from: tx.0.ring,
                to: rx.0.ring,
                next: tx.0.ring.tail().load(Ordering::Relaxed),
                filled: rx.0.ring.tail().load(Ordering::Relaxed),
                _shared: [tx.0.shared.clone(), rx.0.shared.clone()],
            }
        };
        NullSwitch(a.tx.iter().zip(&b.rx).chain(b.tx.iter().zip(&a.rx)).map(path).collect())
    }

    /// Passes on a burst of at most 64 frames in each direction. How many there were.
    #[inline]
    pub fn step(&mut self) -> usize {
        let mut moved = 0;
        for p in &mut self.0 {
            let ready = p.from.head().load(Ordering::Acquire).wrapping_sub(p.next).min(p.from.size());
            let room = p.to.head().load(Ordering::Acquire).wrapping_sub(p.filled).min(p.to.size());
            let n = ready.min(room).min(64);
            if n == 0 {
                continue;
            }
            prefetch(&p.to, p.filled, n);
            for i in 0..n {
                let len = p.from.read(p.next.wrapping_add(i)).0.len();
                p.to.write(p.filled.wrapping_add(i), 0, 0, len);
            }
            p.next = p.next.wrapping_add(n);
            p.filled = p.filled.wrapping_add(n);
            p.to.tail().store(p.filled, Ordering::Release);
            p.from.tail().store(p.next, Ordering::Release);
            moved += n as usize;
        }
        moved
    }
}
