//! Receiving.
#![allow(unsafe_code)]

use super::{A_LINE, FLAG_NEXT, NO_SLOTS, Queue, Slot, Word, plain, prefetch_frame};
use dray_switch::burst::{BURST, CHAIN_MAX};
use dray_switch::mem::prefetch_read;
use dray_switch::{Burst, Drop as Reason, Dropped, Rx};
use std::sync::atomic::Ordering;

/// A receive queue; `CLIENT`: of the side that owns the memory.
pub(super) struct RxQueue<const CLIENT: bool>(pub(super) Queue);

impl<const CLIENT: bool> Rx for RxQueue<CLIENT> {
    fn receive(&mut self, burst: &mut Burst) {
        let q = &mut self.0;
        let ring = q.ring;
        q.check_memory();
        // The peer moves its index all the time, so to read it is to wait for the cache line.
        let mut available = q.peer.wrapping_sub(q.next);
        if usize::from(available) < BURST {
            q.peer = if CLIENT { ring.tail() } else { ring.head() }.load(Ordering::Acquire);
            available = q.peer.wrapping_sub(q.next);
        }
        if available == 0 || q.shared.fault.get().is_some() {
            return;
        }
        if available > ring.size() {
            burst.drop(Dropped::Count(1), Reason::RxBadDescriptor);
            return q.fault("the ring's index jumped");
        }
        let max = q.shared.max_frame.load(Ordering::Relaxed);

        // First all descriptors, so that the fetching of the frames' bytes overlaps.
        let room = (available as usize).min(burst.room()).min(BURST);
        let mut slots = NO_SLOTS;
        if !CLIENT {
            let place = (q.region, q.shared.regions.extent(q.region));
            // SAFETY: AVX2 is in the baseline.
            if let Some(slots) = unsafe { plain::read::<true>(ring, q.next, place, max, &mut slots[..room]) } {
                let frames = slots.iter().map(|slot| (slot.ptr.as_ptr().cast_const(), slot.len()));
                // SAFETY: the frames are within a region that `shared` keeps mapped; there is room.
                unsafe { burst.push_all(frames) };
                q.next = q.next.wrapping_add(room as u16);
                return;
            }
        }
        let (mut n, mut bad) = (0, false);
        let mut words = 0;
        let mut reader = q.reader();
        for place in &mut slots[..room] {
            let Some(slot) = reader.read::<CLIENT, true>(q.next.wrapping_add(n as u16)) else {
                bad = true;
                break;
            };
            prefetch_frame(slot.ptr, slot.len());
            words |= slot.word.0;
            place.write(slot);
            n += 1;
        }
        q.region = reader.region;
        // SAFETY: so many were just written.
        let slots = unsafe { slots[..n].assume_init_ref() };

        if Word(words).flags() & FLAG_NEXT == 0 {
            for slot in slots {
                if slot.len() == 0 {
                    burst.drop(Dropped::Count(1), Reason::RxBadDescriptor);
                } else if slot.len() > max {
                    burst.drop(Dropped::Count(1), Reason::RxTooBig);
                } else {
                    // SAFETY: `read` found the piece within a region that `shared` keeps mapped; there is room, as `n` is
                    // at most `burst.room()`.
                    unsafe { burst.push(slot.ptr.as_ptr(), slot.len(), 0) };
                }
            }
            q.next = q.next.wrapping_add(n as u16);
        } else {
            bad |= !receive_chains::<CLIENT>(q, burst, slots, available, max);
        }
        if bad {
            burst.drop(Dropped::Count(1), Reason::RxBadDescriptor);
            q.fault("a bad descriptor");
        }
    }

    fn release(&mut self, _burst: &mut Burst) {
        if CLIENT {
            self.0.offer()
        } else {
            self.0.ring.tail().store(self.0.next, Ordering::Release)
        }
        let Queue { ring, next, peer, .. } = self.0;
        // The next burst's descriptors, if the peer is known to have filled them: before that it would have to fetch them back.
        if usize::from(peer.wrapping_sub(next)) >= BURST {
            for line in 0..=BURST / A_LINE {
                prefetch_read(ring.desc(next.wrapping_add((line * A_LINE) as u16)));
            }
        }
    }

    fn watched(&self) -> *const u8 {
        let ring = &self.0.ring;
        if CLIENT { ring.tail() } else { ring.head() }.as_ptr().cast()
    }
}

/// Receives when some of the descriptors in `slots` have a successor. Whether all were in order. A chain whose end is not published yet stays
/// in the ring, as peers may publish descriptors one by one: its sender waits for nobody but itself.
#[cold]
fn receive_chains<const CLIENT: bool>(
    q: &mut Queue,
    burst: &mut Burst,
    slots: &[Slot],
    available: u16,
    max: u32,
) -> bool {
    let (base, n) = (q.next, slots.len());
    let mut i = 0;
    let mut parts = [Slot::EMPTY; CHAIN_MAX + 1];
    while i < n {
        let (mut count, mut len) = (0, 0);
        loop {
            if count > CHAIN_MAX {
                return false;
            }
            if i >= available as usize {
                return true;
            }
            let next = || q.read::<CLIENT, true>(base.wrapping_add(i as u16));
            let slot = slots.get(i).copied().or_else(next);
            let Some(slot) = slot else { return false };
            parts[count] = slot;
            count += 1;
            i += 1;
            len += u64::from(slot.len());
            if slot.word.flags() & FLAG_NEXT == 0 {
                break;
            }
        }
        q.next = base.wrapping_add(i as u16);
        if len == 0 {
            burst.drop(Dropped::Count(1), Reason::RxBadDescriptor);
        } else if len > max.into() {
            burst.drop(Dropped::Count(1), Reason::RxTooBig);
        } else {
            // SAFETY: as in `receive`: the parts are within regions; frames are at most `n`.
            unsafe {
                burst.push(parts[0].ptr.as_ptr(), parts[0].len(), 0);
                for part in &parts[1..count] {
                    burst.chain(part.ptr.as_ptr(), part.len());
                }
            }
        }
    }
    true
}
