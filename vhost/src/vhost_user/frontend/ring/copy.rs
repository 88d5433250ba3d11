//! Sending copies: frames of any length are written one after the other into the memory of the ring's buffers.

use super::layout::INDENT;
use super::{Queue, RawTx};
use std::collections::VecDeque;
use std::ptr::NonNull;

/// Bytes that the place of a frame is a multiple of: a cache line.
const LINE: u64 = 64;

/// A transmit ring whose buffers' memory is taken as one piece, in which every frame has as much as it needs, and one descriptor. What is
/// under way is bounded by the ring's size and by that memory.
#[derive(Debug)]
pub struct CopyTx {
    raw: RawTx,
    /// Descriptors that are free, beside those of `waiting`.
    free: u16,
    /// Offset in its region and bytes of the frames that are not handed over yet.
    waiting: Vec<(u32, u32)>,
    /// Where the frames under way end, the oldest first, those that wait included.
    ends: VecDeque<u64>,
    /// Where the oldest one begins, and the next one. The memory begins at each multiple of its size.
    tail: u64,
    head: u64,
}

impl CopyTx {
    /// On a ring that was not used before.
    pub(in crate::vhost_user::frontend) fn new(queue: Queue) -> CopyTx {
        let size = queue.ring.shape.size;
        let (waiting, ends) = (Vec::with_capacity(size.into()), VecDeque::with_capacity(size.into()));
        CopyTx { raw: RawTx(queue), free: size, waiting, ends, tail: 0, head: 0 }
    }

    /// What the back end did wrong on this ring, if it did.
    pub fn fault(&self) -> Option<&'static str> {
        self.raw.fault()
    }

    /// Bytes for all frames under way.
    fn bytes(&self) -> u64 {
        self.raw.0.ring.stride as u64 * u64::from(self.raw.size())
    }

    /// Takes back what the back end has done with.
    fn reclaim(&mut self) {
        let waiting = self.waiting.len() as u16;
        self.free = self.raw.free().saturating_sub(waiting);
        let under_way = usize::from(self.raw.size() - self.free);
        while self.ends.len() > under_way {
            self.tail = self.ends.pop_front().expect("more than none");
        }
        if self.ends.is_empty() {
            // What was written last is in the cache.
            (self.tail, self.head) = (0, 0);
        }
    }

    /// The place of a frame of `len` bytes with its header, if there is room for it, to be written before [`CopyTx::publish`]. It is valid
    /// until then.
    #[inline]
    pub fn place(&mut self, len: u32) -> Option<NonNull<u8>> {
        if self.waiting.is_empty() {
            self.reclaim();
        }
        let at = self.room(len).or_else(|| {
            self.reclaim();
            self.room(len)
        })?;
        let queue = &self.raw.0;
        let offset = queue.ring.buffers + (at % self.bytes()) as usize + INDENT;
        self.head = at + (INDENT as u64 + u64::from(len)).next_multiple_of(LINE);
        self.ends.push_back(self.head);
        self.free -= 1;
        self.waiting.push((queue.offset + offset as u32, len));
        // SAFETY: `room` found that the frame ends within the memory of the buffers, which `Shape::bytes` counts and the queue found in its region.
        Some(unsafe { queue.ring.base.add(offset) })
    }

    /// Where a frame of `len` bytes begins, if there is room for it: not beyond the end of the memory, and not where others are.
    fn room(&self, len: u32) -> Option<u64> {
        let (bytes, all) = ((INDENT as u64 + u64::from(len)).next_multiple_of(LINE), self.bytes());
        let left = all - self.head % all;
        let at = self.head + if bytes > left { left } else { 0 };
        (self.free > 0 && at + bytes - self.tail <= all && bytes <= all).then_some(at)
    }

    /// Hands the frames whose places were taken to the back end, and wakes it if it sleeps.
    #[inline]
    pub fn publish(&mut self) {
        if !self.waiting.is_empty() {
            let region = self.raw.0.region as u16;
            self.raw.fill(region, self.waiting.drain(..));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vhost_user::frontend::kernel::fake;

    /// Writes a frame and hands it over, if there is room.
    fn send(tx: &mut CopyTx, frame: &[u8]) -> bool {
        let place = tx.place(frame.len() as u32);
        if let Some(place) = place {
            // SAFETY: there is room for so many bytes.
            unsafe { std::ptr::copy_nonoverlapping(frame.as_ptr(), place.as_ptr(), frame.len()) };
        }
        tx.publish();
        place.is_some()
    }

    #[test]
    fn frames_of_all_lengths_go_round_and_are_not_written_over() {
        let (_, mut tx, mut kernel) = fake().unwrap();
        let (mut sent, mut received) = (0u32, 0u32);
        let frame = |n: u32| {
            let len = [60, 1514, 65_549, 12, 9000, 64_000][n as usize % 6];
            (0..len).map(|i| (i as u32 * 7 + n) as u8).collect::<Vec<u8>>()
        };
        for round in 0..2000 {
            // Now and then until it is full, by descriptors or by memory.
            while send(&mut tx, &frame(sent)) {
                sent += 1;
                if round % 50 != 0 && sent - received > round % 40 {
                    break;
                }
            }
            for _ in 0..(round % 60) {
                let Some(got) = kernel.take() else { break };
                assert!(got == frame(received), "frame {received}");
                received += 1;
            }
        }
        assert!(sent > 10_000 && tx.fault().is_none(), "{sent} frames, {:?}", tx.fault());
    }

    #[test]
    fn what_is_full_takes_nothing_until_something_comes_back() {
        let (_, mut tx, mut kernel) = fake().unwrap();
        let small = (0..).take_while(|_| send(&mut tx, &[1; 72])).count();
        assert_eq!(small, 256, "descriptors");
        kernel.take().unwrap();
        assert!(send(&mut tx, &[1; 72]) && !send(&mut tx, &[1; 72]));
        while kernel.take().is_some() {}
        let large = (0..).take_while(|_| send(&mut tx, &[1; 65_569])).count();
        assert_eq!(large, 64, "memory");
        kernel.take().unwrap();
        assert!(send(&mut tx, &[1; 65_569]) && !send(&mut tx, &[1; 65_569]));
        assert!(!send(&mut tx, &vec![0; 5 << 20]), "longer than all of it");
    }

    #[test]
    fn the_kernel_is_woken_when_it_sleeps_and_only_then() {
        let (_, mut tx, mut kernel) = fake().unwrap();
        for awake in [false, true, false] {
            kernel.stay_awake(awake);
            assert!(send(&mut tx, &[1; 72]));
            assert_eq!(kernel.was_woken(), !awake);
            assert!(kernel.take().is_some());
        }
    }

    #[test]
    fn a_used_index_that_jumps_ends_the_ring() {
        let (_, mut tx, mut kernel) = fake().unwrap();
        assert!(send(&mut tx, &[1; 72]));
        kernel.use_tx(300, 0);
        assert!(!send(&mut tx, &[1; 72]));
        assert_eq!(tx.fault(), Some("the used index jumped"));
        let (_, mut tx, mut kernel) = fake().unwrap();
        assert!(send(&mut tx, &[1; 72]));
        kernel.use_tx(1, 77);
        assert!(!send(&mut tx, &[1; 72]));
        assert_eq!(tx.fault(), Some("frames are not completed in order"));
    }
}
