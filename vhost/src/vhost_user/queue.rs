//! What workers poll: a port's rings as receive and transmit queues.

use super::ring::Ring;
use dray_switch::{Rx, Tx};
use std::os::fd::OwnedFd;
use std::sync::atomic::AtomicU32;
use std::sync::{Arc, OnceLock};

/// What a peer did wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    /// A message that is malformed, out of order, or asks for what can't be.
    Message,
    /// A region that can't be mapped, or was shrunk.
    Memory,
    /// A descriptor that names memory outside the regions, or has no length.
    Descriptor,
    /// A chain that is circular, too long, shorter than its header, or indirect within indirect.
    Chain,
    /// A ring's index that jumped, or an entry beyond the ring.
    Index,
}

impl Fault {
    /// The name, as counters have it.
    pub fn name(self) -> &'static str {
        match self {
            Fault::Message => "bad_message",
            Fault::Memory => "bad_memory",
            Fault::Descriptor => "bad_descriptor",
            Fault::Chain => "bad_chain",
            Fault::Index => "bad_index",
        }
    }
}

/// What the rings of a connection share with the port's thread.
pub(super) struct Shared {
    /// Longest frame in bytes that isn't to be segmented. It may be changed while the link is up.
    pub max_frame: Arc<AtomicU32>,
    /// What the peer did wrong on a ring, if it did. No ring moves anything from then on.
    pub fault: OnceLock<(Fault, String)>,
    /// The port's thread's eventfd: written when there is a fault, or an interrupt is pending.
    pub wake: Arc<OwnedFd>,
}

/// A ring's place in a port: between worker and port's thread. There is one for each index as long as the connection lasts.
pub(super) struct Vring {}

impl Vring {
    /// The place of ring `index`, in which there is none yet.
    pub fn new(index: u16, shared: Arc<Shared>) -> Vring {
        let _ = (index, shared);
        todo!()
    }

    /// Waits until no worker uses the ring, keeps workers out, and lets `change` start, stop or change it. For the port's
    /// thread.
    pub fn change<R>(&self, change: impl FnOnce(&mut Option<Ring>) -> R) -> R {
        let _ = change;
        todo!()
    }

    /// Whether frames are moved; a ring that isn't enabled or started moves none.
    pub fn set_enabled(&self, enabled: bool) {
        let _ = enabled;
        todo!()
    }

    /// Whether an interrupt is to be sent to the driver now; asked (and so cleared) by the port's thread when it is woken.
    pub fn take_interrupt(&self) -> bool {
        todo!()
    }

    /// Whether the driver wants an interrupt for what was sent since the last one and the worker missed it. To be asked about ten
    /// times a second.
    pub fn missed_interrupt(&self) -> bool {
        todo!()
    }
}

/// Receive queues on the rings that the driver sends on.
pub(super) fn rx_queues(vrings: &[Arc<Vring>]) -> Vec<Box<dyn Rx>> {
    let _ = vrings;
    todo!()
}

/// One transmit queue for each of `workers` on the rings that the driver receives on, as far as these are enabled.
pub(super) fn tx_queues(vrings: &[Arc<Vring>], workers: usize) -> Vec<Box<dyn Tx>> {
    let _ = (vrings, workers);
    todo!()
}
