//! Receive and transmit queues of a port, as the pipeline sees them.

use crate::device::Device;
use crate::eal;
use crate::mbuf::{self, Mbuf};
use crate::options::ROOM_MIN;
use dray_switch::burst::{BURST, CHAIN_MAX};
use dray_switch::mem::{prefetch_read, write_frame};
use dray_switch::wire::{ETH, TAG, be16, is_tag};
use dray_switch::{Burst, Drop, Dropped, Frame, Rx, Sent, Tx};
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex, PoisonError};

/// The shortest frame sent, without FCS: Ethernet's 64 less 4 (IEEE 802.3, minFrameSize). Padded with zeros.
pub(crate) const FRAME_MIN: usize = 60;

const _: () = assert!(ROOM_MIN as usize >= FRAME_MIN);

/// A receive queue.
pub(crate) struct RxQueue {
    device: Arc<Device>,
    queue: u16,
    /// The frames of the burst, from the first, that have an mbuf of this queue until released.
    held: u16,
}

impl RxQueue {
    /// Queue `queue` of `device`, which is started, has it, and hands it out once.
    pub fn new(device: Arc<Device>, queue: u16) -> RxQueue {
        RxQueue { device, queue, held: 0 }
    }
}

impl Rx for RxQueue {
    fn receive(&mut self, burst: &mut Burst) {
        eal::register_thread();
        let mut mbufs = [Mbuf::NULL; BURST];
        // SAFETY: the device is started as long as `self.device` is held, and this is the only handle of the queue.
        let n = unsafe { mbuf::rx_burst(self.device.id, self.queue, &mut mbufs[..burst.room()]) };
        let mbufs = &mbufs[..n];
        for mbuf in mbufs {
            // SAFETY: just received, so it is ours.
            prefetch_read(unsafe { mbuf.data() });
        }
        for &mbuf in mbufs {
            // SAFETY: just received, so it and all its segments are ours, and readable until freed: by `release`, or
            // by whoever took it out of the frame. There is room, as no more were asked for. The chain's length is
            // checked.
            unsafe {
                let segments = mbuf.segments() as usize;
                if mbuf.pkt_len() > self.device.max_frame || segments > 1 + CHAIN_MAX {
                    mbuf::free(&[mbuf]);
                    burst.drop(Dropped::Count(1), Drop::RxTooBig);
                    continue;
                }
                burst.push(mbuf.data(), mbuf.data_len(), mbuf.addr());
                let mut segment = mbuf;
                for _ in 1..segments {
                    segment = segment.next();
                    burst.chain(segment.data(), segment.data_len());
                }
            }
        }
        self.held = burst.len() as u16;
    }

    fn release(&mut self, burst: &mut Burst) {
        let mut mbufs = [Mbuf::NULL; BURST];
        let mut n = 0;
        for i in 0..std::mem::take(&mut self.held) {
            let addr = burst.take_mbuf(i);
            if addr != 0 {
                mbufs[n] = Mbuf::from_addr(addr);
                n += 1;
            }
        }
        // SAFETY: put into the burst by `receive`, and not taken out by anybody else: they are ours.
        unsafe { mbuf::free(&mbufs[..n]) }
    }
}

/// A transmit queue, or one of several handles of it.
pub(crate) struct TxQueue {
    device: Arc<Device>,
    queue: u16,
    /// Held while sending if other handles name the same queue.
    shared: Option<Arc<Mutex<()>>>,
}

impl TxQueue {
    /// Queue `queue` of `device`, which is started and has it. If there is another handle of the queue, both have the
    /// same mutex.
    pub fn new(device: Arc<Device>, queue: u16, shared: Option<Arc<Mutex<()>>>) -> TxQueue {
        TxQueue { device, queue, shared }
    }

    /// Sends up to [`BURST`] frames.
    fn send_some(&mut self, burst: &mut Burst, frames: &[u16], sent: &mut Sent) {
        let mut mbufs = [Mbuf::NULL; BURST];
        let mbufs = &mut mbufs[..frames.len()];
        if !self.device.pool.alloc(mbufs) {
            burst.drop(frames, Drop::TxNoBuffer);
            return;
        }
        // The mbufs that are filled come first, `lengths` beside them; the rest are left over.
        let mut lengths = [0u32; BURST];
        let mut filled = 0;
        let plain = self.device.tx_mtu.load(Relaxed) as usize + ETH;
        for &i in frames {
            let frame = burst.frame(i);
            // A VLAN tag does not count; the kernel silently drops what is longer.
            if frame.len() > plain && (frame.len() > plain + TAG || !is_tag(be16(frame.head(), 12))) {
                burst.drop(i, Drop::TxTooBig);
                continue;
            }
            lengths[filled] = frame.len() as u32;
            // SAFETY: the mbuf is ours and empty; its room is `max_frame` or more, which is no less than what was just
            // compared: `tx_mtu` is never above the MTU that `max_frame` was made of.
            unsafe { copy_into(burst, frame, mbufs[filled]) };
            filled += 1;
        }

        let n = {
            let _guard = self.shared.as_ref().map(|queue| queue.lock().unwrap_or_else(PoisonError::into_inner));
            // SAFETY: the device is started as long as `self.device` is held; this is the queue's only handle, or has
            // its mutex. The mbufs are ours.
            unsafe { mbuf::tx_burst(self.device.id, self.queue, &mut mbufs[..filled]) }
        };
        sent.packets += n as u32;
        sent.bytes += lengths[..n].iter().map(|&len| len as u64).sum::<u64>();
        if n < filled {
            burst.drop(Dropped::Count((filled - n) as u32), Drop::TxRingFull);
        }
        // SAFETY: the driver has taken the first `n`; the others are still ours.
        unsafe { mbuf::free(&mbufs[n..]) }
    }
}

impl Tx for TxQueue {
    /// Frames shorter than 60 bytes are padded with zeros to that; [`Sent::bytes`] counts them unpadded, so that what
    /// was received adds up with what was sent.
    fn send(&mut self, burst: &mut Burst, frames: &[u16]) -> Sent {
        eal::register_thread();
        let mut sent = Sent::default();
        if !self.device.up.load(Relaxed) {
            burst.drop(frames, Drop::TxLinkDown);
            return sent;
        }
        for some in frames.chunks(BURST) {
            self.send_some(burst, some, &mut sent);
        }
        sent
    }
}

/// Writes `frame` into an empty mbuf, head and body in one piece.
///
/// The way without a copy belongs beside this: an mbuf that `Frame::mbuf` names can itself go on, with the head
/// written back before its body, if this is the last use of the frame. A flooded frame is sent to several ports, one
/// after the other, and does not say so yet.
///
/// # Safety
/// The mbuf is the caller's, fresh from its pool, with room for the frame and for [`FRAME_MIN`] bytes. The frame
/// belongs to `burst`, which is received and not released.
#[inline(always)]
unsafe fn copy_into(burst: &Burst, frame: &Frame, mbuf: Mbuf) {
    let len = frame.len();
    // SAFETY: as above; the mbuf's buffer is nobody else's, so it is not part of the frame.
    unsafe {
        let data = mbuf.data();
        write_frame(burst, frame, data);
        if len < FRAME_MIN {
            data.add(len).write_bytes(0, FRAME_MIN - len);
        }
        mbuf.set_len(len.max(FRAME_MIN) as u16);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{EthOptions, EthPort};
    use dray_dpdk_sys as sys;
    use std::slice;

    /// Makes one frame of mbufs with these data.
    fn chain(device: &Device, pieces: &[&[u8]]) -> Mbuf {
        let mut mbufs = vec![Mbuf::NULL; pieces.len()];
        assert!(device.pool.alloc(&mut mbufs));
        for (i, piece) in pieces.iter().enumerate() {
            // SAFETY: the mbufs are ours, and have room for the small pieces.
            unsafe {
                mbufs[i].data().copy_from(piece.as_ptr(), piece.len());
                mbufs[i].set_len(piece.len() as u16);
                if let Some(next) = mbufs.get(i + 1) {
                    *mbufs[i].field::<Mbuf>(sys::DRAY_MBUF_NEXT) = *next;
                }
            }
        }
        let len: usize = pieces.iter().map(|piece| piece.len()).sum();
        // SAFETY: as above.
        unsafe {
            *mbufs[0].field::<u16>(sys::DRAY_MBUF_NB_SEGS) = pieces.len() as u16;
            *mbufs[0].field::<u32>(sys::DRAY_MBUF_PKT_LEN) = len as u32;
        }
        mbufs[0]
    }

    /// Needs DPDK, but neither root nor a NIC.
    #[test]
    fn chains_of_mbufs_become_segments() {
        let mut port = EthPort::open("net_ring0", &EthOptions::default()).unwrap();
        let device = port.device();
        let mut rx = port.rx_queues().pop().unwrap();
        let bytes: Vec<u8> = (0..1400).map(|i| i as u8).collect();
        let mut pieces: Vec<&[u8]> = bytes.chunks(100).collect();
        // The first piece is shorter than a head.
        pieces.splice(..1, [&bytes[..20], &bytes[20..100]]);
        let long: Vec<&[u8]> = bytes.chunks(1).take(2 + CHAIN_MAX).collect();
        let mut frames = [
            chain(&device, &pieces),
            chain(&device, &long),
            chain(&device, &long[1..]),
            chain(&device, &[&bytes, &bytes]),
        ];
        // SAFETY: the port is started; nobody else sends; the mbufs are ours.
        assert_eq!(unsafe { mbuf::tx_burst(device.id, 0, &mut frames) }, 4);

        let mut burst = Burst::default();
        rx.receive(&mut burst);
        // One has too many segments, one is longer than the MTU allows.
        assert_eq!((burst.len(), burst.drops.get(Drop::RxTooBig), burst.drops.total()), (2, 2, 2));
        for (i, expected) in [(0, &bytes[..]), (1, &bytes[1..2 + CHAIN_MAX])] {
            let frame = burst.frame(i);
            let mut got = frame.head().to_vec();
            assert_eq!(got, expected[..got.len()]);
            for segment in burst.segments(frame) {
                // SAFETY: the burst is not released.
                got.extend_from_slice(unsafe { slice::from_raw_parts(segment.as_ptr(), segment.len() as usize) });
            }
            assert_eq!(got, expected);
        }
        assert_eq!(port.stats().buffers_used, pieces.len() as u32 + long.len() as u32 - 1);
        rx.release(&mut burst);
        assert_eq!(port.stats().buffers_used, 0, "every segment is back");
    }
}
