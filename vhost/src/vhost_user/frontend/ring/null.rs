//! The least that a back end could do.

use super::{Queue, RawRx, RawTx, Ring};
use crate::descriptor::event;
use crate::vhost_user::frontend::Frontend;
use dray_switch::mem::prefetch_write;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// A ring from a driver and one to a driver, seen from the device's side.
struct NullPath {
    from: Queue,
    to: Queue,
}

/// The least that a switch between two front ends of this process could do: it passes on the lengths of frames, and neither
/// reads nor writes a byte of them. Nothing is faster, so what a generator reaches against it is the generator's ceiling.
///
/// It takes the place of back ends: see [`Frontend::alone`].
pub struct NullSwitch(Vec<NullPath>);

impl NullSwitch {
    /// Between `a` and `b`, whose rings are of the same kind, in both directions.
    ///
    /// # Errors
    /// If the kernel gives no eventfds.
    pub fn new(a: &Frontend, b: &Frontend) -> Result<NullSwitch, String> {
        let path = |(tx, rx): (&RawTx, &RawRx)| -> Result<NullPath, String> {
            Ok(NullPath { from: tx.0.device()?, to: rx.0.device()? })
        };
        a.tx.iter().zip(&b.rx).chain(b.tx.iter().zip(&a.rx)).map(path).collect::<Result<_, _>>().map(NullSwitch)
    }

    /// Passes on a burst of at most 64 frames in each direction. How many there were.
    #[inline]
    pub fn step(&mut self) -> usize {
        let packed = self.0.first().is_some_and(|p| p.from.ring.shape.packed);
        self.0.iter_mut().map(|p| if packed { p.step_packed() } else { p.step_split() }).sum()
    }
}

impl Queue {
    /// The same ring, from the device's side, before it was used.
    pub(super) fn device(&self) -> Result<Queue, String> {
        let device = Queue {
            memory: Arc::clone(&self.memory),
            counts: Box::default(),
            fault: None,
            kick: event()?,
            call: event()?,
            next: 0,
            done: 0,
            desc_next: 0,
            desc_done: 0,
            chained: 0,
            seen: 0,
            ..*self
        };
        // No notifications.
        let flags = device.ring.device + if device.ring.shape.packed { 2 } else { 0 };
        device.ring.half(flags).store(super::SUPPRESS, Ordering::Release);
        Ok(device)
    }
}

impl Ring {
    /// Whether a packed ring's descriptor is available as number `index`, and its length.
    #[inline(always)]
    fn available_packed(&self, index: u16) -> Option<u32> {
        let state = self.state(index).load(Ordering::Acquire);
        let both = super::layout::AVAIL | super::layout::USED;
        ((state >> 48) as u16 & both == self.available_flags(index)).then_some(state as u32)
    }

    #[inline(always)]
    fn put_packed(&self, index: u16, len: u32) {
        let flags = if index & self.shape.size == 0 { super::layout::AVAIL | super::layout::USED } else { 0 };
        let state = u64::from(len) | u64::from(index & self.mask) << 32 | u64::from(flags) << 48;
        self.state(index).store(state, Ordering::Release);
    }
}

impl NullPath {
    fn step_split(&mut self) -> usize {
        let NullPath { from, to } = self;
        let (f, t) = (from.ring, to.ring);
        let ready =
            |q: &Queue| q.ring.available_index().load(Ordering::Acquire).wrapping_sub(q.done).min(q.ring.shape.size);
        let n = ready(from).min(ready(to)).min(64);
        if n == 0 {
            return 0;
        }
        // Eight used entries a cache line, and those are in the driver's cache.
        for i in (0..n + 7).step_by(8) {
            prefetch_write(t.used_entry(to.done.wrapping_add(i))[0].as_ptr().cast_const());
        }
        for i in 0..n {
            let len = f.state(from.done.wrapping_add(i)).load(Ordering::Relaxed) as u32;
            let at = to.done.wrapping_add(i);
            let [id, length] = t.used_entry(at);
            id.store(u32::from(at & t.mask), Ordering::Relaxed);
            length.store(len, Ordering::Relaxed);
            if !f.shape.in_order {
                let at = from.done.wrapping_add(i);
                f.used_entry(at)[0].store(u32::from(at & f.mask), Ordering::Relaxed);
            }
        }
        for q in [to, from] {
            q.done = q.done.wrapping_add(n);
            q.ring.used_index().store(q.done, Ordering::Release);
        }
        n.into()
    }

    fn step_packed(&mut self) -> usize {
        let NullPath { from, to } = self;
        let (f, t) = (from.ring, to.ring);
        let mut n = 0;
        t.prefetch(to.done, 64);
        while n < 64 {
            let Some(len) = f.available_packed(from.done.wrapping_add(n)) else { break };
            let at = to.done.wrapping_add(n);
            if t.available_packed(at).is_none() {
                break;
            }
            t.put_packed(at, len);
            if !f.shape.in_order {
                f.put_packed(from.done.wrapping_add(n), 0);
            }
            n += 1;
        }
        if n != 0 && f.shape.in_order {
            // The last one's id stands for all, at the place of the first.
            let last = u64::from(from.done.wrapping_add(n - 1) & f.mask);
            let flags = if from.done & f.shape.size == 0 { super::layout::AVAIL | super::layout::USED } else { 0 };
            f.state(from.done).store(last << 32 | u64::from(flags) << 48, Ordering::Release);
        }
        from.done = from.done.wrapping_add(n);
        to.done = to.done.wrapping_add(n);
        n.into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vhost_user::frontend::{Options, VNET_HEADER};

    fn pair(options: &Options) -> (Frontend, Frontend, NullSwitch) {
        let (a, b) = (Frontend::alone(options).unwrap(), Frontend::alone(options).unwrap());
        let null = NullSwitch::new(&a, &b).unwrap();
        (a, b, null)
    }

    #[test]
    fn lengths_go_round_many_times() {
        for packed in [false, true] {
            for in_order in [false, true] {
                let options = Options { packed, in_order, ring_size: 64, ..Options::default() };
                let (mut a, mut b, mut null) = pair(&options);
                let (mut sent, mut received, mut sampled) = (0u64, 0u64, Vec::new());
                while received < 100_000 {
                    let free = a.tx[0].free();
                    let n = free.min(1 + (sent % 50) as u16);
                    a.tx[0].fill(0, (0..u32::from(n)).map(|i| (i * 64, 100)));
                    assert_eq!(a.tx[0].free(), free - n);
                    sent += u64::from(n);
                    null.step();
                    let (n, bytes) = b.rx[0].take(48, received, 7, |number, peek| {
                        assert_eq!(peek.len(), 100);
                        sampled.push(number);
                    });
                    assert_eq!(bytes, u64::from(n) * 100);
                    received += u64::from(n);
                }
                assert!(sent - received <= 128 && a.tx[0].fault().is_none() && b.rx[0].fault().is_none());
                assert!(sampled.iter().enumerate().all(|(i, &number)| number == 7 * i as u64));
                assert_eq!(sampled.len() as u64, received.div_ceil(7));
            }
        }
    }

    #[test]
    fn bytes_of_a_frame_are_behind_its_header() {
        let options = Options { ring_size: 8, buffer_size: 100, ..Options::default() };
        let (mut a, b, _null) = pair(&options);
        assert!(a.tx[0].send_with_header([7; VNET_HEADER], &[9; 150]));
        // Two buffers of 8 are used up.
        assert_eq!((a.tx[0].free(), b.rx[0].size()), (6, 8));
        assert!(!a.tx[0].send(&[1; 6 * 100]));
        assert!(a.tx[0].send(&[1; 6 * 100 - VNET_HEADER]));
        assert_eq!(a.tx[0].free(), 0);
        assert!(!a.tx[0].send(&[]));
    }

    #[test]
    fn a_back_end_that_breaks_a_ring_moves_nothing() {
        for packed in [false, true] {
            let options = Options { packed, ring_size: 16, ..Options::default() };
            let (mut a, mut b, mut null) = pair(&options);
            a.tx[0].fill(0, [(0, 60); 4].into_iter());
            null.step();
            let rx = &b.rx[0].0;
            if packed {
                let state = rx.ring.state(2).load(Ordering::Relaxed);
                rx.ring.state(2).store(state ^ (1 << 33), Ordering::Relaxed);
            } else {
                rx.ring.used_entry(2)[0].store(9, Ordering::Relaxed);
            }
            assert_eq!(b.rx[0].take(16, 0, 1, |_, _| panic!("nothing is looked at")), (0, 0));
            assert!(b.rx[0].fault().is_some());
            assert_eq!(b.rx[0].available(), 0);
            assert_eq!(a.tx[0].free(), 16);
            if packed {
                a.tx[0].fill(0, [(0, 60); 4].into_iter());
                // Completes the third of four, and frames are not said to be in order.
                a.tx[0].0.ring.put_packed(4, 0);
                let state = a.tx[0].0.ring.state(4).load(Ordering::Relaxed);
                a.tx[0].0.ring.state(4).store(state ^ (2 << 32), Ordering::Relaxed);
            } else {
                a.tx[0].0.ring.used_index().store(5, Ordering::Relaxed);
            }
            assert_eq!(a.tx[0].free(), 0);
            assert!(a.tx[0].fault().is_some());
        }
    }
}
