//! Sending.
#![allow(unsafe_code)]

use super::{A_LINE, FLAG_NEXT, NO_SLOTS, Queue, Slot, Word, plain};
use crate::scatter::scatter;
use dray_switch::burst::{BURST, CHAIN_MAX, Frame};
use dray_switch::mem::{prefetch_write, write_bodies, write_frame, write_head};
use dray_switch::{Burst, Drop as Reason, Dropped, Sent, Tx};
use std::sync::atomic::Ordering;
/// A transmit queue; `CLIENT`: of the side that owns the memory.
pub(super) struct TxQueue<const CLIENT: bool>(pub(super) Queue);

impl<const CLIENT: bool> TxQueue<CLIENT> {
    /// How many descriptors can be filled, by the peer's index as last read.
    #[inline(always)]
    fn seen(&self) -> usize {
        let q = &self.0;
        let n =
            if CLIENT { q.ring.size().wrapping_sub(q.next.wrapping_sub(q.peer)) } else { q.peer.wrapping_sub(q.next) };
        n.into()
    }

    /// Reads the peer's index; how many descriptors can be filled.
    #[inline(always)]
    fn free(&mut self) -> Result<usize, &'static str> {
        let q = &mut self.0;
        q.peer = if CLIENT { q.ring.tail() } else { q.ring.head() }.load(Ordering::Acquire);
        let free = self.seen();
        if free > self.0.ring.size().into() { Err("the ring's index jumped") } else { Ok(free) }
    }

    /// As [`Tx::send`] for at most [`BURST`] frames. Whether the peer kept the rules.
    #[inline(always)]
    fn send_some(&mut self, burst: &mut Burst, frames: &[u16], sent: &mut Sent) -> Result<(), &'static str> {
        // What was free when last asked still is: only we use it up.
        let mut free = self.seen();
        if free < frames.len() {
            free = self.free()?;
        }
        let q = &mut self.0;
        let max = q.shared.max_frame.load(Ordering::Relaxed) as usize;
        let base = q.next;
        let ready = free.min(frames.len()).min(BURST);
        let place = (q.region, q.shared.regions.extent(q.region));
        let mut slots = NO_SLOTS;
        let slots = &mut slots[..ready];
        // SAFETY: AVX2 is in the baseline.
        if CLIENT || unsafe { plain::read::<false>(q.ring, base, place, 0, slots) }.is_none() {
            let mut reader = q.reader();
            for (place, i) in slots.iter_mut().zip(0..) {
                let slot = reader.read::<CLIENT, false>(base.wrapping_add(i)).ok_or("a bad descriptor")?;
                prefetch_write(slot.ptr.as_ptr());
                place.write(slot);
            }
            q.region = reader.region;
        }
        // SAFETY: all were written, by this loop or before it.
        let slots = unsafe { slots.assume_init_mut() };
        let ring = q.ring;

        // Nearly always each frame fits the buffer that was prepared for it. Bodies are a loop of their own: frames that have none are
        // written without a call.
        let (mut used, mut bytes, mut bodies) = (0, 0, false);
        for (&i, slot) in frames.iter().zip(&mut *slots) {
            let frame = burst.frame(i);
            let len = frame.len();
            if len > max.min(slot.len() as usize) {
                break;
            }
            // SAFETY: `read` found `slot.len` bytes within a region that `shared` keeps mapped, and the frame has no
            // more; its pieces are in other buffers than those the peer offered to be filled, or the peer's frame is
            // the peer's loss.
            bodies |= unsafe { write_head(frame, slot.ptr.as_ptr()) };
            slot.word = Word::new(0, slot.word.region(), len as u32);
            used += 1;
            bytes += len as u64;
        }
        if bodies {
            // SAFETY: as above.
            unsafe { write_bodies(burst, frames[..used].iter().zip(&*slots).map(|(&i, slot)| (i, slot.ptr.as_ptr()))) };
        }
        // The descriptors at last, all at once: the peer is at work on those before them, and has their cache lines again and again.
        for (slot, i) in slots[..used].iter().zip(0..) {
            ring.write_word(base.wrapping_add(i), slot.word);
        }
        sent.packets += used as u32;
        sent.bytes += bytes;
        if used < frames.len() {
            (used, free) = self.send_rest(burst, frames, slots, (used, free), sent)?;
        }

        let q = &mut self.0;
        if used != 0 {
            q.next = base.wrapping_add(used as u16);
            if CLIENT { q.ring.head() } else { q.ring.tail() }.store(q.next, Ordering::Release);
            if q.asleep() {
                q.interrupt.raise();
            }
            // The next burst's descriptors, as far as the peer is known to have filled them: owned by the time they are used, in one
            // transfer instead of one to read and one to write.
            let ahead = free.saturating_sub(used).min(BURST);
            for i in (0..ahead).step_by(A_LINE) {
                prefetch_write(q.ring.desc(q.next.wrapping_add(i as u16)));
            }
        }
        Ok(())
    }

    /// Goes on from the frame that does not fit its buffer, or has none; the `used` before it do. How many descriptors are used
    /// in the end, of how many that were free.
    #[cold]
    #[inline(never)]
    fn send_rest(
        &mut self,
        burst: &mut Burst,
        frames: &[u16],
        slots: &[Slot],
        (mut used, mut free): (usize, usize),
        sent: &mut Sent,
    ) -> Result<(usize, usize), &'static str> {
        let max = self.0.shared.max_frame.load(Ordering::Relaxed) as usize;
        let base = self.0.next;
        let mut asked = false;
        for &i in &frames[used..] {
            let frame = burst.frame(i);
            let len = frame.len();
            if len > max {
                burst.drop(i, Reason::TxTooBig);
                continue;
            }
            let q = &mut self.0;
            if let Some(slot) = slots.get(used).filter(|slot| len <= slot.len() as usize) {
                // SAFETY: as in `send_some`.
                unsafe { write_frame(burst, frame, slot.ptr.as_ptr()) };
                q.ring.write(base.wrapping_add(used as u16), 0, slot.word.region(), len as u32);
                used += 1;
            } else {
                // The room may not do after all, for there are frames that need several buffers: looks again, once a burst.
                if !asked {
                    asked = true;
                    free = self.free()?;
                }
                if used >= free {
                    burst.drop(i, Reason::TxRingFull);
                    continue;
                }
                match self.0.send_chained::<CLIENT>(burst, frame, base, slots, used, free)? {
                    Ok(n) => used += n,
                    Err(reason) => {
                        burst.drop(i, reason);
                        continue;
                    }
                }
            }
            sent.packets += 1;
            sent.bytes += len as u64;
        }
        Ok((used, free))
    }
}

impl Queue {
    /// Writes a frame that needs several buffers, or for which none was prepared, to those from `used` on. How many it took,
    /// or why it was dropped.
    #[cold]
    fn send_chained<const CLIENT: bool>(
        &mut self,
        burst: &Burst,
        frame: &Frame,
        base: u16,
        slots: &[Slot],
        used: usize,
        free: usize,
    ) -> Result<Result<usize, Reason>, &'static str> {
        let mut parts = [Slot::EMPTY; CHAIN_MAX + 1];
        let (mut n, mut room) = (0, 0);
        while n == 0 || room < frame.len() {
            let i = used + n;
            if n > CHAIN_MAX {
                return Ok(Err(Reason::TxTooBig));
            }
            if i >= free {
                return Ok(Err(Reason::TxRingFull));
            }
            let next = || self.read::<CLIENT, false>(base.wrapping_add(i as u16));
            let slot = slots.get(i).copied().or_else(next).ok_or("a bad descriptor")?;
            if slot.len() == 0 {
                return Err("a buffer of no length");
            }
            parts[n] = slot;
            n += 1;
            room += slot.len() as usize;
        }
        let mut filled = parts.map(|part| (part.ptr, part.len()));
        // SAFETY: the parts are within regions (`read`) and have room for the whole frame; else as in `send_some`.
        unsafe { scatter(&[], burst, frame, &mut filled[..n]) };
        for (i, (part, (_, len))) in parts.iter().zip(filled).take(n).enumerate() {
            let flags = if i + 1 < n { FLAG_NEXT } else { 0 };
            self.ring.write(base.wrapping_add((used + i) as u16), flags, part.word.region(), len);
        }
        Ok(Ok(n))
    }
}

impl<const CLIENT: bool> Tx for TxQueue<CLIENT> {
    fn send(&mut self, burst: &mut Burst, frames: &[u16]) -> Sent {
        let mut sent = Sent::default();
        for frames in frames.chunks(BURST) {
            if !self.0.good() {
                burst.drop(frames, Reason::TxLinkDown);
                continue;
            }
            let before = (sent, burst.tx_drops.total());
            if let Err(what) = self.send_some(burst, frames, &mut sent) {
                // Nothing of this burst was published.
                self.0.fault(what);
                sent = before.0;
                let named = burst.tx_drops.total() - before.1;
                burst.drop(Dropped::Count(frames.len() as u32 - named), Reason::TxBadDescriptor);
            }
        }
        sent
    }
}
