//! The other way to a TAP device's frames: a thread of the kernel's (vhost-net) copies them between the device and rings of ours, so that a
//! worker makes no system call for a frame, but for waking that thread when it sleeps.
#![allow(unsafe_code)]

use crate::device::HEADER;
use crate::queue::{Parts, Shared};
use dray_switch::burst::CHAIN_MAX;
use dray_switch::mem::copy;
use dray_switch::offload::Accepts;
use dray_switch::{Burst, Drop as Reason, Dropped, Rx, Sent, Tx};
use dray_vhost::vhost_user::frontend::kernel::{PATH, Pair};
use dray_vhost::vhost_user::frontend::{CopyTx, RawRx};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use std::io;
use std::sync::{Arc, Mutex, OnceLock};

/// What the queues of a device that vhost-net serves have in common beside what all have: what the kernel did wrong on a ring, if it did. That
/// ring moves nothing from then on.
pub(crate) type Fault = Arc<OnceLock<&'static str>>;

/// `n` pairs of rings whose threads, one each, are kept off the CPUs `workers` where there are others. None if this kernel has no vhost-net.
///
/// # Errors
/// Why it has, and it can't be used.
pub(crate) fn open(n: u16, workers: &[usize]) -> Result<Option<Vec<Pair>>, String> {
    let pairs: io::Result<Vec<Pair>> = off_cpus(workers, || (0..n).map(|_| Pair::open()).collect());
    match pairs {
        Ok(pairs) => Ok(Some(pairs)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(format!("{PATH}: {}", crate::namespace::text(error))),
    }
}

/// Does `what` while this thread may not run on these CPUs, if there are others: a thread that the kernel makes for it has its CPUs from it.
fn off_cpus<R>(cpus: &[usize], what: impl FnOnce() -> R) -> R {
    let before = sched_getaffinity(None);
    if let Ok(mut others) = before {
        cpus.iter().filter(|&&cpu| cpu < CpuSet::MAX_CPU).for_each(|&cpu| others.unset(cpu));
        if others.count() > 0 {
            let _ = sched_setaffinity(None, &others);
        }
    }
    let result = what();
    if let Ok(before) = before {
        let _ = sched_setaffinity(None, &before);
    }
    result
}

/// A receive queue: what the device's owner sends.
pub(crate) struct RxQueue {
    ring: RawRx,
    shared: Arc<Shared>,
    fault: Fault,
    /// Buffers of the burst that was received last.
    taken: u16,
}

impl RxQueue {
    pub(crate) fn new(ring: RawRx, shared: Arc<Shared>, fault: Fault) -> RxQueue {
        RxQueue { ring, shared, fault, taken: 0 }
    }
}

impl Rx for RxQueue {
    fn receive(&mut self, burst: &mut Burst) {
        let arrived = self.ring.arrived();
        let mut at = 0;
        // Frames that are dropped count: what a burst looks at is bounded.
        for _ in 0..burst.room() {
            if at == arrived {
                break;
            }
            let mut header = [0; HEADER];
            let complete = self.ring.peek(at).read(0, &mut header) == HEADER;
            let buffers = u16::from_le_bytes([header[10], header[11]]);
            // All buffers of a frame come at once (virtio 1.2, section 5.1.6.4).
            if !complete || buffers == 0 || buffers > arrived - at || usize::from(buffers) > CHAIN_MAX + 1 {
                burst.drop(Dropped::Count(1), Reason::RxBadDescriptor);
                at += 1;
                continue;
            }
            let ring = &self.ring;
            let pieces = (at..at + buffers).map(|i| {
                let (piece, skip) = (ring.peek(i), if i == at { HEADER } else { 0 });
                (piece.as_ptr().wrapping_add(skip), (piece.len() - skip) as u32)
            });
            let len = pieces.clone().map(|(_, len)| len as usize).sum();
            // SAFETY: the pieces are within the ring's buffers, which are not given back before `release`. There is room.
            unsafe { self.shared.take(burst, &header, len, pieces) };
            at += buffers;
        }
        self.taken = at;
        note(&self.fault, self.ring.fault());
    }

    fn release(&mut self, _burst: &mut Burst) {
        self.ring.give_back(std::mem::take(&mut self.taken));
    }

    fn watched(&self) -> *const u8 {
        self.ring.watched()
    }
}

/// A transmit queue: what the device's owner receives. Workers may share a ring.
pub(crate) struct TxQueue {
    ring: Arc<Mutex<CopyTx>>,
    shared: Arc<Shared>,
    fault: Fault,
}

impl TxQueue {
    pub(crate) fn new(ring: Arc<Mutex<CopyTx>>, shared: Arc<Shared>, fault: Fault) -> TxQueue {
        TxQueue { ring, shared, fault }
    }
}

impl Tx for TxQueue {
    fn send(&mut self, burst: &mut Burst, frames: &[u16]) -> Sent {
        let Ok(mut ring) = self.ring.lock() else {
            burst.drop(frames, Reason::TxLinkDown);
            return Sent::default();
        };
        let sent = self.shared.send(burst, frames, &mut |parts| write(&mut ring, parts));
        ring.publish();
        note(&self.fault, ring.fault());
        sent
    }

    fn accepts(&self) -> Accepts {
        self.shared.accepts()
    }
}

/// Copies a frame into the ring's memory.
fn write(ring: &mut CopyTx, parts: &Parts<'_>) -> Result<(), Reason> {
    let Some(place) = ring.place(parts.len() as u32) else {
        return Err(if ring.fault().is_some() { Reason::TxBadDescriptor } else { Reason::TxRingFull });
    };
    let mut to = place.as_ptr();
    for part in parts.iter() {
        // SAFETY: the place has room for all parts, each of which is readable for as long as it says.
        to = unsafe {
            copy(part.iov_base.cast(), to, part.iov_len);
            to.add(part.iov_len)
        };
    }
    Ok(())
}

/// Passes on what a ring says is wrong.
#[inline]
fn note(fault: &Fault, found: Option<&'static str>) {
    if let Some(found) = found {
        let _ = fault.set(found);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::queue::Way;
    use dray_switch::burst::BURST;
    use dray_switch::offload::{Gso, Offload};
    use dray_vhost::vhost_user::frontend::kernel::fake;
    use std::sync::atomic::{AtomicBool, AtomicU32};

    fn shared() -> Arc<Shared> {
        Arc::new(Shared { way: Way::Tap, max_frame: AtomicU32::new(1522), uso: AtomicBool::new(true), gro: true })
    }

    /// All bytes of frame `i`.
    fn bytes(burst: &Burst, i: usize) -> Vec<u8> {
        let frame = burst.frame(i as u16);
        let mut all = frame.head().to_vec();
        for segment in burst.segments(frame) {
            // SAFETY: the burst has not been released.
            all.extend_from_slice(unsafe { std::slice::from_raw_parts(segment.as_ptr(), segment.len() as usize) });
        }
        all
    }

    fn drops(burst: &mut Burst) -> Vec<(Reason, u32)> {
        let mut all = Vec::new();
        burst.drops.take(|reason, n| all.push((reason, n)));
        burst.tx_drops.take(|reason, n| all.push((reason, n)));
        all
    }

    /// From 10.0.0.1 to 10.0.0.2, with so many bytes of TCP in all.
    fn frame(len: usize) -> Vec<u8> {
        let mut frame: Vec<u8> = (0..len).map(|i| (i * 7) as u8).collect();
        frame[..14].copy_from_slice(&[2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1, 8, 0]);
        frame[14..34].copy_from_slice(&[0x45, 0, 0, 0, 0, 7, 0x40, 0, 64, 6, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
        frame[16..18].copy_from_slice(&((len - 14) as u16).to_be_bytes());
        // Data offset: no options; flags: ACK.
        frame[46..48].copy_from_slice(&[0x50, 0x10]);
        frame
    }

    /// A header that leaves the checksum, and segmentation into pieces of so many bytes if that is not 0.
    fn undone(gso_size: u16) -> [u8; HEADER] {
        let [low, high] = gso_size.to_le_bytes();
        [1, u8::from(gso_size != 0), 54, 0, low, high, 34, 0, 16, 0, 0, 0]
    }

    #[test]
    fn frames_come_whole_from_however_many_buffers() {
        let (ring, _, mut kernel) = fake().unwrap();
        let fault = Fault::default();
        let mut rx = RxQueue::new(ring, shared(), fault.clone());
        let mut burst = Burst::default();
        let sent = [
            ([0; HEADER], frame(60)),
            (undone(1448), frame(60_000)),
            ([0; HEADER], frame(1514)),
            (undone(0), frame(1000)),
            (undone(1448), frame(4096)),
            (undone(1448), frame(4097)),
        ];
        for round in 0..200 {
            for (header, frame) in &sent {
                assert!(kernel.give(&[&header[..], frame].concat()));
            }
            burst.clear();
            rx.receive(&mut burst);
            assert_eq!(burst.len(), sent.len(), "round {round}");
            for (i, (header, frame)) in sent.iter().enumerate() {
                assert!(bytes(&burst, i) == *frame, "frame {i}");
                let gso = if header[1] == 0 { (Gso::None, 0) } else { (Gso::Tcp4, 1448) };
                let offload = |o: Offload| (o.csum_start, o.csum_offset, o.gso, o.gso_size);
                let wanted = (header[0] == 1).then_some((34, 16, gso.0, gso.1));
                assert_eq!(burst.frame(i as u16).offload().map(offload), wanted, "frame {i}");
            }
            assert_eq!(kernel.offered(), 256 - 1 - 15 - 1 - 1 - 1 - 2);
            rx.release(&mut burst);
            assert_eq!(kernel.offered(), 256);
        }
        assert_eq!((drops(&mut burst), fault.get()), (vec![], None));
    }

    #[test]
    fn what_is_no_frame_is_dropped_by_name_and_its_buffers_go_back() {
        let (ring, _, mut kernel) = fake().unwrap();
        let fault = Fault::default();
        let mut rx = RxQueue::new(ring, shared(), fault.clone());
        let mut burst = Burst::default();
        let plain = |buffers: u16| {
            let mut header = [0; HEADER];
            header[10..].copy_from_slice(&buffers.to_le_bytes());
            [&header[..], &frame(60)].concat()
        };
        let good = plain(1);
        // None, more than came, half a header, no frame, a long one that is not to be cut, and what asks for nothing known.
        let unknown = [&[1, 9, 0, 0, 0, 0, 34, 0, 16, 0, 1, 0][..], &frame(60)].concat();
        let long = [&good[..HEADER], &frame(1600)].concat();
        let pieces = [&plain(0)[..], &plain(9), &good[..5], &good[..HEADER], &long, &unknown, &good];
        kernel.give_pieces(&pieces, |id| id);
        rx.receive(&mut burst);
        assert_eq!(burst.len(), 1);
        assert!(bytes(&burst, 0) == frame(60));
        let wanted = [(Reason::RxBadDescriptor, 4), (Reason::RxTooBig, 1), (Reason::RxBadOffload, 1)];
        let mut got = drops(&mut burst);
        got.sort_by_key(|&(_, n)| std::cmp::Reverse(n));
        assert_eq!(got.iter().map(|&(_, n)| n).sum::<u32>(), 6);
        assert!(wanted.iter().all(|one| got.contains(one)), "{got:?}");
        rx.release(&mut burst);
        assert_eq!((kernel.offered(), fault.get()), (256, None));
    }

    #[test]
    fn a_burst_has_at_most_as_many_frames_as_there_is_room_for() {
        let (ring, _, mut kernel) = fake().unwrap();
        let mut rx = RxQueue::new(ring, shared(), Fault::default());
        let mut burst = Burst::default();
        while kernel.give(&[&[0; HEADER][..], &frame(60)].concat()) {}
        for left in [192, 128, 64, 0] {
            burst.clear();
            rx.receive(&mut burst);
            rx.release(&mut burst);
            assert_eq!((burst.len(), kernel.offered()), (BURST, 256 - left));
        }
    }

    #[test]
    fn a_ring_that_is_broken_moves_nothing_and_says_why() {
        for (why, order) in [("the used index jumped", false), ("buffers are not completed in order", true)] {
            let (ring, _, mut kernel) = fake().unwrap();
            let fault = Fault::default();
            let mut rx = RxQueue::new(ring, shared(), fault.clone());
            let mut burst = Burst::default();
            if order {
                let frame = [&[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0][..], &frame(60)].concat();
                kernel.give_pieces(&[&frame, &frame], |id| id ^ 1);
            } else {
                kernel.set_used(257);
            }
            for _ in 0..2 {
                rx.receive(&mut burst);
                rx.release(&mut burst);
            }
            assert_eq!((burst.len(), kernel.offered(), fault.get()), (0, if order { 254 } else { 256 }, Some(&why)));
        }
    }

    #[test]
    fn frames_go_with_what_is_left_to_be_done() {
        let (_, ring, mut kernel) = fake().unwrap();
        let fault = Fault::default();
        let ring = Arc::new(Mutex::new(ring));
        let mut queues = [0, 1].map(|_| TxQueue::new(ring.clone(), shared(), fault.clone()));
        let mut burst = Burst::default();
        let (short, long) = (frame(60), frame(60_000));
        // SAFETY: both outlive the burst, whose room they are.
        unsafe {
            burst.push(short.as_ptr(), 60, 0);
            burst.set_head_len(192);
            burst.push(long.as_ptr(), 60_000, 0);
        }
        let offload = Offload { csum_start: 34, csum_offset: 16, gso: Gso::Tcp4, gso_size: 1448, ecn: false };
        assert!(burst.set_offload(offload));
        // Two workers have the ring.
        for tx in &mut queues {
            let sent = tx.send(&mut burst, &[0, 1]);
            assert_eq!((sent.packets, sent.bytes), (2, 60_060));
        }
        for _ in 0..2 {
            assert!(kernel.take().unwrap() == [&[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0][..], &short].concat());
            let header = [1, 1, 54, 0, 0xa8, 5, 34, 0, 16, 0, 1, 0];
            assert!(kernel.take().unwrap() == [&header[..], &long].concat());
        }
        assert!(kernel.take().is_none());
        // Until it is full.
        let sent: u32 = (0..100).map(|_| queues[0].send(&mut burst, &[1, 0]).packets).sum();
        let lost = drops(&mut burst);
        assert!(lost.len() == 1 && lost[0] == (Reason::TxRingFull, 200 - sent), "{sent} sent, {lost:?}");
        kernel.use_tx(1000, 0);
        assert_eq!(queues[1].send(&mut burst, &[0]).packets, 0);
        assert_eq!(drops(&mut burst), [(Reason::TxBadDescriptor, 1)]);
        assert_eq!(fault.get(), Some(&"the used index jumped"));
    }

    #[test]
    fn a_thread_is_kept_off_cpus_only_where_there_are_others() {
        let all = sched_getaffinity(None).unwrap();
        let cpus: Vec<usize> = (0..CpuSet::MAX_CPU).filter(|&cpu| all.is_set(cpu)).collect();
        let inside = |workers: &[usize]| off_cpus(workers, || sched_getaffinity(None).unwrap());
        assert_eq!(inside(&cpus), all);
        assert_eq!(inside(&[]), all);
        if cpus.len() > 1 {
            let others = inside(&cpus[..1]);
            assert!(!others.is_set(cpus[0]) && others.count() == all.count() - 1);
        }
        assert_eq!(sched_getaffinity(None).unwrap(), all);
    }
}
