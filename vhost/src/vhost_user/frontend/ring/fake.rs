//! The device's side of a pair of rings, as the kernel has it, for tests.

use super::Queue;
use super::layout::{INDENT, SUPPRESS};
use crate::mem::Regions;
use dray_switch::mem::copy;
use std::os::fd::OwnedFd;
use std::sync::atomic::Ordering;

/// What takes the place of the kernel: see [`fake`](super::super::kernel::fake).
pub struct FakeKernel {
    /// The ring that frames come on, and the one that they go on.
    tx: Queue,
    rx: Queue,
    /// The driver's eventfd of the former.
    kick: OwnedFd,
}

impl FakeKernel {
    /// The other side of these, which were not used before.
    pub(in crate::vhost_user::frontend) fn new(rx: &Queue, tx: &Queue) -> Result<FakeKernel, String> {
        let kick = tx.kick.try_clone().map_err(|e| e.to_string())?;
        let fake = FakeKernel { tx: tx.device()?, rx: rx.device()?, kick };
        fake.stay_awake(false);
        Ok(fake)
    }

    /// Whether it asks for no notification of frames that come.
    pub fn stay_awake(&self, awake: bool) {
        self.tx.ring.half(self.tx.ring.device).store(u16::from(awake) * SUPPRESS, Ordering::SeqCst);
    }

    /// Whether it was notified since this was asked last.
    pub fn was_woken(&self) -> bool {
        rustix::io::read(&self.kick, &mut [0; 8]).is_ok()
    }

    /// The next frame that was sent, with its header. Its descriptor goes back.
    pub fn take(&mut self) -> Option<Vec<u8>> {
        let q = &mut self.tx;
        if q.ring.available_index().load(Ordering::Acquire) == q.done {
            return None;
        }
        let id = q.ring.available_entry(q.done).load(Ordering::Relaxed);
        // SAFETY: a masked index is within the descriptors, which are aligned.
        let (address, len) = unsafe { (*q.ring.desc(id), *q.ring.desc(id).add(1) as u32) };
        let at = (address - q.memory.table[q.region].gpa) as u32;
        let from = Regions::resolve(&q.memory.mapped, q.region as u16, at, len).expect("it is in the region");
        let mut frame = vec![0; len as usize];
        // SAFETY: `resolve` found so many bytes.
        unsafe { copy(from.as_ptr(), frame.as_mut_ptr(), frame.len()) };
        self.use_tx(1, id.into());
        Some(frame)
    }

    /// Moves the used index on by `n`, after writing this id into its first entry.
    pub fn use_tx(&mut self, n: u16, id: u32) {
        let q = &mut self.tx;
        q.ring.used_entry(q.done)[0].store(id, Ordering::Relaxed);
        q.done = q.done.wrapping_add(n);
        q.ring.used_index().store(q.done, Ordering::Release);
    }

    /// Sends a frame with its header over as many buffers as it takes, if there are so many. The header says how many that were, unless it
    /// does already.
    pub fn give(&mut self, frame: &[u8]) -> bool {
        let size = self.rx.ring.shape.buffer_size as usize;
        let n = frame.len().div_ceil(size) as u16;
        if self.rx.ring.available_index().load(Ordering::Acquire).wrapping_sub(self.rx.done) < n {
            return false;
        }
        let mut frame = frame.to_vec();
        if frame.get(10..12) == Some(&[0, 0]) {
            frame[10..12].copy_from_slice(&n.to_le_bytes());
        }
        let pieces: Vec<&[u8]> = frame.chunks(size).collect();
        self.give_pieces(&pieces, |at| at);
        true
    }

    /// Fills the next buffers, one with each piece, and says that these were `id` of their descriptors.
    pub fn give_pieces(&mut self, pieces: &[&[u8]], id: impl Fn(u32) -> u32) {
        let q = &mut self.rx;
        for (i, piece) in (0..).zip(pieces) {
            let at = q.done.wrapping_add(i);
            let (to, len) = (q.ring.buffer(at), piece.len().min(q.ring.stride - INDENT));
            // SAFETY: a buffer has its stride of bytes, less what it begins behind.
            unsafe { copy(piece.as_ptr(), to.as_ptr(), len) };
            let [entry, length] = q.ring.used_entry(at);
            entry.store(id(u32::from(at & q.ring.mask)), Ordering::Relaxed);
            length.store(len as u32, Ordering::Relaxed);
        }
        q.done = q.done.wrapping_add(pieces.len() as u16);
        q.ring.used_index().store(q.done, Ordering::Release);
    }

    /// Writes whatever it is given as the used index of what it sends.
    pub fn set_used(&mut self, index: u16) {
        self.rx.ring.used_index().store(index, Ordering::Release);
    }

    /// Buffers that are on offer.
    pub fn offered(&self) -> u16 {
        self.rx.ring.available_index().load(Ordering::Acquire).wrapping_sub(self.rx.done)
    }
}
