//! Raw rings at the speed of a packet generator: descriptors are written and read in batches, frames are not touched.

use super::{A_LINE, RawRx, RawTx, Ring};
use crate::memif::Client;
use dray_switch::mem::{prefetch_read, prefetch_write};
use std::sync::Arc;
use std::sync::atomic::Ordering;

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
