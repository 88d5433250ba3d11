//! Queues for a program that makes and looks at frames itself, as a packet generator does: no bursts of the pipeline.

use crate::device::Device;
use crate::eal;
use crate::mbuf::{self, Mbuf};
use dray_switch::burst::BURST;
use dray_switch::mem::prefetch_read;
use std::slice;
use std::sync::Arc;

/// Mbufs that a [`RawTx`] has at most: what a port's pool reckons with for a transmit queue beside its ring.
const HELD: usize = 2 * BURST;

/// A transmit queue. What the device has no room for is kept and sent before everything else, so that nothing is lost
/// and nothing is overtaken.
pub struct RawTx {
    device: Arc<Device>,
    queue: u16,
    /// The first `left` have a frame, the others are empty.
    mbufs: Vec<Mbuf>,
    left: usize,
}

impl RawTx {
    /// Queue `queue` of `device`, which is started, has it, and hands it out once.
    pub(crate) fn new(device: Arc<Device>, queue: u16) -> RawTx {
        RawTx { device, queue, mbufs: Vec::with_capacity(HELD), left: 0 }
    }

    /// How many frames [`RawTx::send`] takes now: none as long as the device has no room for earlier ones.
    #[inline]
    pub fn free(&mut self) -> u16 {
        eal::register_thread();
        self.flush();
        if self.left != 0 {
            return 0;
        }
        let held = self.mbufs.len();
        if held < HELD {
            self.mbufs.resize(HELD, Mbuf::NULL);
            if !self.device.pool.alloc(&mut self.mbufs[held..]) {
                self.mbufs.truncate(held);
            }
        }
        self.mbufs.len() as u16
    }

    /// Copies these frames and gives the copies to the device. Returns how many it took: as many as [`RawTx::free`] said
    /// at most, and none that is longer than the port's `max_frame`.
    #[inline]
    pub fn send<'a>(&mut self, frames: impl IntoIterator<Item = &'a [u8]>) -> usize {
        let before = self.left;
        for frame in frames {
            if frame.len() > self.device.max_frame as usize {
                continue;
            }
            let Some(&mbuf) = self.mbufs.get(self.left) else { break };
            // SAFETY: the mbuf is ours and empty; its room is `max_frame` or more, which was just compared. The frame is
            // nobody's mbuf, for nothing hands one out as a slice beyond a call.
            unsafe {
                mbuf.data().copy_from_nonoverlapping(frame.as_ptr(), frame.len());
                mbuf.set_len(frame.len() as u16);
            }
            self.left += 1;
        }
        let taken = self.left - before;
        self.flush();
        taken
    }

    /// Offers the device again what it had no room for. Whether nothing is left.
    #[inline]
    pub fn flush(&mut self) -> bool {
        if self.left != 0 {
            let frames = &mut self.mbufs[..self.left];
            // SAFETY: the device is started as long as `self.device` is held, and this is the queue's only handle. The
            // mbufs are ours, and those that the driver takes are forgotten.
            let n = unsafe { mbuf::tx_burst(self.device.id, self.queue, frames) };
            self.mbufs.drain(..n);
            self.left -= n;
        }
        self.left == 0
    }
}

impl Drop for RawTx {
    fn drop(&mut self) {
        // SAFETY: all that are held are ours.
        unsafe { mbuf::free(&self.mbufs) }
    }
}

/// A receive queue.
pub struct RawRx {
    device: Arc<Device>,
    queue: u16,
}

impl RawRx {
    /// Queue `queue` of `device`, which is started, has it, and hands it out once.
    pub(crate) fn new(device: Arc<Device>, queue: u16) -> RawRx {
        RawRx { device, queue }
    }

    /// Takes at most `max` frames, lets `each` look at them and gives their mbufs back. `each` gets the first segment's
    /// bytes, which are all in most cases, and the frame's length. How many there were.
    #[inline]
    pub fn receive(&mut self, max: u16, mut each: impl FnMut(&[u8], u32)) -> u16 {
        eal::register_thread();
        let mut taken = 0;
        while taken < max {
            let mut mbufs = [Mbuf::NULL; BURST];
            let want = BURST.min((max - taken).into());
            // SAFETY: the device is started as long as `self.device` is held, and this is the queue's only handle.
            let n = unsafe { mbuf::rx_burst(self.device.id, self.queue, &mut mbufs[..want]) };
            let mbufs = &mbufs[..n];
            for mbuf in mbufs {
                // SAFETY: just received, so it is ours.
                prefetch_read(unsafe { mbuf.data() });
            }
            for mbuf in mbufs {
                // SAFETY: just received, so it is ours and readable, and it isn't freed before `each` is done.
                unsafe { each(slice::from_raw_parts(mbuf.data(), mbuf.data_len() as usize), mbuf.pkt_len()) }
            }
            // SAFETY: just received, so they are ours.
            unsafe { mbuf::free(mbufs) }
            taken += n as u16;
            if n < want {
                break;
            }
        }
        taken
    }
}
