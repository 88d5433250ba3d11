//! What workers poll: a port's rings as receive and transmit queues.
#![allow(unsafe_code)]

use super::fault::Fault;
use super::features;
use super::gate::Gate;
use super::ring::{Bad, Ring};
use dray_switch::burst::FRAMES;
use dray_switch::offload::Accepts;
use dray_switch::{Burst, Drop as Reason, Dropped, Rx, Sent, Tx};
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

/// What the rings of a connection share with the port's thread.
pub(super) struct Shared {
    /// Longest frame in bytes that isn't to be segmented. It may be changed while the link is up.
    pub max_frame: Arc<AtomicU32>,
    /// What the peer did wrong on a ring, if it did. No ring moves anything from then on.
    pub fault: OnceLock<(Fault, String)>,
    /// The port's thread's eventfd: written when there is a fault, or an interrupt is pending.
    pub wake: Arc<OwnedFd>,
}

impl Shared {
    /// Ends all rings and has the port's thread close the connection.
    #[cold]
    fn set_fault(&self, index: u16, (fault, what): Bad) {
        if self.fault.set((fault, format!("ring {index}: {what}"))).is_ok() {
            self.wake();
        }
    }

    /// Its eventfd is our own and does not block.
    fn wake(&self) {
        let _ = rustix::io::write(&self.wake, &1u64.to_ne_bytes());
    }
}

/// A ring's place in a port: between worker and port's thread. There is one for each index as long as the connection lasts.
pub(super) struct Vring {
    gate: Gate<Option<Ring>>,
    enabled: AtomicBool,
    /// Whether there is a ring.
    started: AtomicBool,
    /// An interrupt is to be sent.
    interrupt: AtomicBool,
    /// Something was given back to the driver, and it was not seen to want an interrupt.
    unsaid: AtomicBool,
    /// The negotiated features of the ring that is there.
    features: AtomicU64,
    index: u16,
    shared: Arc<Shared>,
}

impl Vring {
    /// The place of ring `index`, in which there is none yet.
    pub fn new(index: u16, shared: Arc<Shared>) -> Vring {
        Vring {
            gate: Gate::new(None),
            enabled: AtomicBool::new(false),
            started: AtomicBool::new(false),
            interrupt: AtomicBool::new(false),
            unsaid: AtomicBool::new(false),
            features: AtomicU64::new(0),
            index,
            shared,
        }
    }

    /// Waits until no worker uses the ring, keeps workers out, and lets `change` start, stop or change it. For the port's
    /// thread.
    pub fn change<R>(&self, change: impl FnOnce(&mut Option<Ring>) -> R) -> R {
        self.gate.change(|ring| {
            let result = change(ring);
            self.started.store(ring.is_some(), Ordering::Release);
            self.features.store(ring.as_ref().map_or(0, |ring| ring.config().features), Ordering::Relaxed);
            result
        })
    }

    /// Whether frames are moved. On a ring that is started but not enabled the driver's frames are taken and dropped, and it gets none
    /// (`vhost-user.rst`, "Ring states").
    pub fn set_enabled(&self, enabled: bool) {
        self.enabled.store(enabled, Ordering::Release);
    }

    /// Whether an interrupt is to be sent to the driver now; asked (and so cleared) by the port's thread when it is woken.
    pub fn take_interrupt(&self) -> bool {
        self.interrupt.swap(false, Ordering::AcqRel)
    }

    /// Whether something was given back to the driver since this was last asked, and it was not seen to want an interrupt.
    pub fn take_unsaid(&self) -> bool {
        self.unsaid.swap(false, Ordering::AcqRel)
    }

    fn is_enabled(&self) -> bool {
        self.enabled.load(Ordering::Acquire)
    }

    /// After something was given back to the driver: if it `wants` an interrupt, has the port's thread send it, for the driver's
    /// eventfd may block whoever writes to it.
    #[inline(always)]
    fn tell(&self, wants: bool) {
        if wants {
            self.raise();
        } else {
            self.unsaid.store(true, Ordering::Release);
        }
    }

    #[cold]
    fn raise(&self) {
        if !self.interrupt.swap(true, Ordering::AcqRel) {
            self.shared.wake();
        }
    }
}

/// A receive queue: a ring that the driver sends on.
struct RxQueue {
    vring: Arc<Vring>,
    /// Whether we are behind the gate, with a burst that is not yet released.
    inside: bool,
}

impl Rx for RxQueue {
    #[inline]
    fn receive(&mut self, burst: &mut Burst) {
        let vring = &*self.vring;
        let started = vring.started.load(Ordering::Acquire);
        if !started || vring.shared.fault.get().is_some() || !vring.gate.enter() {
            return;
        }
        // SAFETY: just entered.
        if let Some(ring) = unsafe { vring.gate.value() } {
            let max = vring.shared.max_frame.load(Ordering::Relaxed);
            let result = if vring.is_enabled() { ring.receive(burst, max) } else { ring.discard(burst) };
            if let Err(bad) = result {
                burst.drop(Dropped::Count(1), Reason::RxBadDescriptor);
                vring.shared.set_fault(vring.index, ring.blame(bad));
            }
            if !burst.is_empty() || burst.drops.total() != 0 {
                self.inside = true;
                return;
            }
        }
        vring.gate.leave();
    }

    #[inline]
    fn release(&mut self, _burst: &mut Burst) {
        if !std::mem::take(&mut self.inside) {
            return;
        }
        // SAFETY: `receive` entered and did not leave.
        let wants = unsafe { self.vring.gate.value() }.as_mut().is_some_and(Ring::release);
        self.vring.gate.leave();
        self.vring.tell(wants);
    }
    fn watched(&self) -> *const u8 {
        Arc::as_ptr(&self.vring).cast()
    }
}

impl Drop for RxQueue {
    /// A burst that was not released keeps nobody out.
    fn drop(&mut self) {
        if self.inside {
            self.vring.gate.leave();
        }
    }
}

/// The most rings of one direction.
const RINGS: usize = 16;

/// A transmit queue on all rings that the driver receives on. Flows are spread over those that are enabled, so that all of the
/// virtual machine's CPUs have their share; a flow stays on its ring.
struct TxQueue {
    vrings: Arc<[Arc<Vring>]>,
    /// Whether other workers have such queues.
    shared: bool,
    /// For the frames of each ring; empty.
    lists: Vec<Vec<u16>>,
}

/// How often to look again whether a gate is open: some 20 microseconds, in which most changes are done. Its frames would be lost, and
/// the worker has others to serve.
const LOOKS: u32 = 1000;

impl TxQueue {
    #[inline(always)]
    fn enter(&self, vring: &Vring) -> bool {
        let enter = || if self.shared { vring.gate.enter_shared() } else { vring.gate.enter() };
        enter() || self.enter_later(enter)
    }

    #[cold]
    fn enter_later(&self, enter: impl Fn() -> bool) -> bool {
        (0..LOOKS).any(|_| {
            std::hint::spin_loop();
            enter()
        })
    }

    /// Sends on one ring.
    fn send_on(&self, vring: &Vring, burst: &mut Burst, frames: &[u16]) -> Sent {
        let mut sent = Sent::default();
        if !self.enter(vring) {
            burst.drop(frames, Reason::TxLinkDown);
            return sent;
        }
        let mut wants = false;
        // SAFETY: just entered.
        match unsafe { vring.gate.value() } {
            Some(ring) => {
                let max = vring.shared.max_frame.load(Ordering::Relaxed);
                let before = burst.tx_drops.total();
                match ring.send(burst, frames, &mut sent, max) {
                    Ok(interrupt) => wants = interrupt,
                    Err(bad) => {
                        // Nothing of this burst was published.
                        sent = Sent::default();
                        let named = burst.tx_drops.total() - before;
                        burst.drop(Dropped::Count(frames.len() as u32 - named), Reason::TxBadDescriptor);
                        vring.shared.set_fault(vring.index, ring.blame(bad));
                    }
                }
            }
            None => burst.drop(frames, Reason::TxLinkDown),
        }
        vring.gate.leave();
        vring.tell(wants);
        sent
    }

    /// Sends each frame on the ring of its flow.
    #[inline(never)]
    fn spread(&self, vrings: &[&Vring], lists: &mut [Vec<u16>], burst: &mut Burst, frames: &[u16]) -> Sent {
        for (i, flow) in burst.flows(frames) {
            let ring = ((u64::from(flow) * vrings.len() as u64) >> 32) as usize;
            lists[ring].push(i);
        }
        let mut sent = Sent::default();
        for (vring, list) in vrings.iter().zip(lists).filter(|(_, list)| !list.is_empty()) {
            let some = self.send_on(vring, burst, list);
            list.clear();
            sent.packets += some.packets;
            sent.bytes += some.bytes;
        }
        sent
    }
}

impl Tx for TxQueue {
    #[inline]
    fn send(&mut self, burst: &mut Burst, frames: &[u16]) -> Sent {
        let mut enabled: [&Vring; RINGS] = match self.vrings.first() {
            Some(vring) if vring.shared.fault.get().is_none() => [vring; RINGS],
            _ => {
                burst.drop(frames, Reason::TxLinkDown);
                return Sent::default();
            }
        };
        let mut n = 0;
        for vring in self.vrings.iter().filter(|vring| vring.is_enabled()).take(RINGS) {
            enabled[n] = vring;
            n += 1;
        }
        match n {
            0 => {
                burst.drop(frames, Reason::TxLinkDown);
                Sent::default()
            }
            1 => self.send_on(enabled[0], burst, frames),
            n => {
                let mut lists = std::mem::take(&mut self.lists);
                let sent = self.spread(&enabled[..n], &mut lists, burst, frames);
                self.lists = lists;
                sent
            }
        }
    }

    fn accepts(&self) -> Accepts {
        let vring = self.vrings.iter().find(|vring| vring.is_enabled());
        vring.map_or(Accepts::default(), |vring| features::accepts(vring.features.load(Ordering::Relaxed)))
    }
}

/// Receive queues on the rings that the driver sends on.
pub(super) fn rx_queues(vrings: &[Arc<Vring>]) -> Vec<Box<dyn Rx>> {
    vrings.iter().map(|vring| Box::new(RxQueue { vring: vring.clone(), inside: false }) as Box<dyn Rx>).collect()
}

/// One transmit queue for each of `workers` on the rings that the driver receives on, as far as these are enabled.
pub(super) fn tx_queues(vrings: &[Arc<Vring>], workers: usize) -> Vec<Box<dyn Tx>> {
    let vrings: Arc<[Arc<Vring>]> = vrings.into();
    let shared = workers > 1;
    let lists = || (0..vrings.len().min(RINGS)).map(|_| Vec::with_capacity(FRAMES)).collect();
    (0..workers).map(|_| Box::new(TxQueue { vrings: vrings.clone(), shared, lists: lists() }) as Box<dyn Tx>).collect()
}
