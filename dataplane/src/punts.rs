//! What workers leave to the control thread, and how much of it may be there. Each port has places for each reason: who sends more than
//! is taken loses what is more, and takes the places of nobody else, of no other port and for no other reason.

use crate::MAX_PORTS;
use crossbeam_channel::{Receiver, Sender, unbounded};
use dray_switch::{Punt, PuntReason};
use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

/// Frames of a port and for a reason that the control thread may have: as many as there are answers to what it asks for at a time.
const PLACES: u32 = 256;

/// How many of these are taken, by port number and reason.
struct Taken(Box<[[AtomicU32; PuntReason::COUNT]]>);

/// A worker's way to the control thread.
#[derive(Clone)]
pub(crate) struct Punts {
    sender: Sender<Punted>,
    taken: Arc<Taken>,
}

/// What a worker has left to the control thread. Its place is somebody else's when this is dropped.
pub struct Punted {
    punt: Punt,
    taken: Arc<Taken>,
}

impl Deref for Punted {
    type Target = Punt;

    fn deref(&self) -> &Punt {
        &self.punt
    }
}

impl Drop for Punted {
    fn drop(&mut self) {
        self.taken.of(self.punt.port, self.punt.reason).fetch_sub(1, Relaxed);
    }
}

impl Taken {
    fn of(&self, port: u16, reason: PuntReason) -> &AtomicU32 {
        &self.0[usize::from(port)][reason.index()]
    }
}

/// The ends of the way, for workers and for the control thread.
pub(crate) fn channel() -> (Punts, Receiver<Punted>) {
    // Nobody sends without a place.
    let (sender, receiver) = unbounded();
    let taken = (0..MAX_PORTS).map(|_| std::array::from_fn(|_| AtomicU32::new(0))).collect();
    (Punts { sender, taken: Arc::new(Taken(taken)) }, receiver)
}

impl Punts {
    /// Leaves `frame` to the control thread, if there is a place.
    pub(crate) fn punt(&self, reason: PuntReason, port: u16, bridge: u16, frame: impl FnOnce() -> Vec<u8>) -> bool {
        let taken = self.taken.of(port, reason);
        // Under a flood nothing is written where other workers read.
        if taken.load(Relaxed) >= PLACES {
            return false;
        }
        if taken.fetch_add(1, Relaxed) >= PLACES {
            taken.fetch_sub(1, Relaxed);
            return false;
        }
        let punt = Punt { reason, port, bridge, frame: frame() };
        self.sender.send(Punted { punt, taken: self.taken.clone() }).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_takes_the_places_of_no_other_reason_and_of_no_other_port() {
        let (punts, punted) = channel();
        let flood = |reason, port| (0..1000).filter(|n| punts.punt(reason, port, 0, || vec![*n as u8])).count();
        let places = PLACES as usize;
        assert_eq!([flood(PuntReason::Arp, 1), flood(PuntReason::Arp, 1)], [places, 0]);
        assert_eq!([flood(PuntReason::Icmp, 1), flood(PuntReason::Arp, 2)], [places, places]);
        assert_eq!(punted.len(), 3 * places);
        // Who is done with a frame makes room for one more of its kind, and of no other.
        let mut of = [0; 2];
        for _ in 0..places + 10 {
            let punt = punted.recv().unwrap();
            of[usize::from(punt.reason == PuntReason::Icmp)] += 1;
        }
        assert_eq!(of, [places, 10]);
        assert_eq!([flood(PuntReason::Icmp, 1), flood(PuntReason::Arp, 2), flood(PuntReason::Arp, 1)], [10, 0, places]);
    }

    #[test]
    fn a_frame_that_is_held_has_its_place_for_so_long() {
        let (punts, punted) = channel();
        let one = || punts.punt(PuntReason::Vtep, 7, 3, || vec![1, 2, 3]);
        (0..PLACES).for_each(|_| assert!(one()));
        let held = punted.recv().unwrap();
        assert_eq!(*held, Punt { reason: PuntReason::Vtep, port: 7, bridge: 3, frame: vec![1, 2, 3] });
        assert!(!one(), "it is taken out of the queue, and not done with");
        drop(held);
        assert_eq!([one(), one()], [true, false]);
        // What nobody takes any more has no place.
        drop(punted);
        assert_eq!([one(), one()], [false, false]);
        assert!((0..2 * PLACES).all(|_| !one()));
    }
}
