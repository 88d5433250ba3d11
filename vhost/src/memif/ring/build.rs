//! The queues of a link: a ring each, or rings that several workers share.

use super::layout::Layout;
use super::rx::RxQueue;
use super::tx::TxQueue;
use super::{MASK_INT, Queue, Ring, Shared};
use crate::link::TxQueues;
use crate::memif::kick::Kicker;
use dray_switch::{Burst, Drop as Reason, Rx, Sent, Tx};
use std::os::fd::OwnedFd;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
/// A ring as its `ADD_RING` message tells it.
pub(crate) struct RingSpec {
    pub region: u16,
    pub offset: u32,
    pub log2: u8,
    pub event: OwnedFd,
}

/// The queues of one side of a link, and who wakes its peer.
pub(crate) type Queues = (Vec<Box<dyn Rx>>, TxQueues, Kicker);

/// A server's queues on the rings that its client described.
///
/// # Errors
/// What is wrong with a ring.
pub(crate) fn server_queues(shared: &Arc<Shared>, s2m: Vec<RingSpec>, m2s: Vec<RingSpec>) -> Result<Queues, String> {
    let open = |spec: RingSpec, name: String| -> Result<Queue, String> {
        let ring =
            Ring::new(&shared.regions, spec.region, spec.offset, spec.log2).map_err(|e| format!("{name}: {e}"))?;
        if !ring.check_cookie() {
            return Err(format!("{name}: wrong cookie"));
        }
        Ok(Queue::new(ring, shared, None, spec.event, name))
    };
    let mut rx: Vec<Box<dyn Rx>> = Vec::new();
    for (i, spec) in s2m.into_iter().enumerate() {
        let queue = open(spec, format!("ring s2m {i}"))?;
        queue.ring.flags().store(MASK_INT, Ordering::Release);
        rx.push(Box::new(RxQueue::<false>(queue)));
    }
    let mut tx: Vec<Box<dyn Tx>> = Vec::new();
    let mut interrupts = Vec::new();
    for (i, spec) in m2s.into_iter().enumerate() {
        let queue = open(spec, format!("ring m2s {i}"))?;
        interrupts.push(queue.interrupt.clone());
        tx.push(Box::new(TxQueue::<false>(queue)));
    }
    Ok((rx, TxQueues::new(|n| handles(tx, n)), Kicker::new(interrupts)))
}

/// A client's queues on its rings.
pub(crate) fn client_queues(rings: ClientRings) -> Queues {
    rings.offer_again();
    let kicker = Kicker::new(rings.s2m.iter().map(|q| q.interrupt.clone()).collect());
    let rx = rings.m2s.into_iter().map(|q| Box::new(RxQueue::<true>(q)) as Box<dyn Rx>);
    let tx: Vec<_> = rings.s2m.into_iter().map(|q| Box::new(TxQueue::<true>(q)) as Box<dyn Tx>).collect();
    (rx.collect(), TxQueues::new(|n| handles(tx, n)), kicker)
}

/// A client's rings.
pub(crate) struct ClientRings {
    pub(super) s2m: Vec<Queue>,
    pub(super) m2s: Vec<Queue>,
}

impl ClientRings {
    /// Writes the indices once more, when the server is connected: DPDK's zeroes them as it connects.
    pub(super) fn offer_again(&self) {
        for q in &self.m2s {
            q.ring.head().store(q.offered, Ordering::Release);
        }
    }
}

/// Makes a client's rings in its own memory, which was made for `layout`: S2M empty, M2S with all buffers on offer and interrupts
/// masked. `events` are their eventfds, S2M first.
pub(crate) fn client_rings(shared: &Arc<Shared>, layout: Layout, events: Vec<OwnedFd>) -> ClientRings {
    let mut rings = ClientRings { s2m: Vec::new(), m2s: Vec::new() };
    for (i, event) in (0..layout.s2m + layout.m2s).zip(events) {
        let (ring, buffers) = layout.client(&shared.regions, i);
        if i < layout.s2m {
            rings.s2m.push(Queue::new(ring, shared, Some(buffers), event, format!("ring s2m {i}")));
        } else {
            let name = format!("ring m2s {}", i - layout.s2m);
            let mut queue = Queue::new(ring, shared, Some(buffers), event, name);
            ring.flags().store(MASK_INT, Ordering::Release);
            queue.offer();
            rings.m2s.push(queue);
        }
    }
    rings
}

/// A transmit queue that several workers share.
struct SharedTx(Arc<Mutex<Box<dyn Tx>>>);

impl Tx for SharedTx {
    fn send(&mut self, burst: &mut Burst, frames: &[u16]) -> Sent {
        match self.0.lock() {
            Ok(mut tx) => tx.send(burst, frames),
            Err(_) => {
                burst.drop(frames, Reason::TxLinkDown);
                Sent::default()
            }
        }
    }
}

/// One handle for each of `n` workers. With fewer rings than workers, workers share rings behind a lock.
fn handles(rings: Vec<Box<dyn Tx>>, n: usize) -> Vec<Box<dyn Tx>> {
    if rings.is_empty() {
        return Vec::new();
    }
    if rings.len() >= n {
        return rings.into_iter().take(n).collect();
    }
    let shared: Vec<_> = rings.into_iter().map(|tx| Arc::new(Mutex::new(tx))).collect();
    (0..n).map(|i| Box::new(SharedTx(shared[i % shared.len()].clone())) as Box<dyn Tx>).collect()
}
