//! Counters: each worker writes its own, everybody may read them.

pub use dray_switch::egress::MAX_PORTS;

use dray_switch::clock::{Stage, StageTime};
use dray_switch::{Count, Drop};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// The number by which the switch's own frames are counted: those that the control thread sends but not through one port, and what becomes
/// of all that it sends. No port has it.
pub(crate) const ITSELF: u16 = MAX_PORTS as u16;

/// A counter that one thread writes: no locked instruction is needed.
#[derive(Default)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    #[inline(always)]
    pub(crate) fn add(&self, n: u64) {
        self.0.store(self.0.load(Relaxed) + n, Relaxed);
    }

    pub(crate) fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }

    /// For the control thread, once no worker counts here any more.
    pub(crate) fn clear(&self) {
        self.0.store(0, Relaxed);
    }
}

macro_rules! port_counters {
    ($($(#[doc = $doc:literal])+ $name:ident,)*) => {
        /// One port's counters of one worker, on cache lines of their own.
        #[repr(align(64))]
        pub(crate) struct PortCounters {
            $(pub(crate) $name: Counter,)*
            pub(crate) counts: [Counter; Count::COUNT],
            pub(crate) drops: [Counter; Drop::COUNT],
        }

        /// A port's counts, of all workers together.
        #[derive(Clone, Debug, PartialEq, Eq)]
        pub struct PortCounts {
            $($(#[doc = $doc])+ pub $name: u64,)*
            /// What stages counted, by [`Count::index`].
            pub counts: [u64; Count::COUNT],
            /// Frames dropped, by [`Drop::index`]. Reasons named `tx.` count frames that were to leave through the port,
            /// all others frames that came from it.
            pub drops: [u64; Drop::COUNT],
        }

        // Not derived: arrays have a default up to 32 elements only.
        impl Default for PortCounters {
            fn default() -> Self {
                PortCounters {
                    $($name: Counter::default(),)*
                    counts: std::array::from_fn(|_| Counter::default()),
                    drops: std::array::from_fn(|_| Counter::default()),
                }
            }
        }

        impl Default for PortCounts {
            fn default() -> Self {
                PortCounts { $($name: 0,)* counts: [0; Count::COUNT], drops: [0; Drop::COUNT] }
            }
        }

        impl PortCounts {
            pub(crate) fn add(&mut self, from: &PortCounters) {
                $(self.$name += from.$name.get();)*
                self.counts.iter_mut().zip(&from.counts).for_each(|(to, from)| *to += from.get());
                self.drops.iter_mut().zip(&from.drops).for_each(|(to, from)| *to += from.get());
            }

            /// Adds another port's counts.
            pub fn merge(&mut self, other: &PortCounts) {
                $(self.$name += other.$name;)*
                self.counts.iter_mut().zip(&other.counts).for_each(|(to, from)| *to += from);
                self.drops.iter_mut().zip(&other.drops).for_each(|(to, from)| *to += from);
            }

            /// What was counted since `before`, an earlier look at the same port.
            pub fn since(&self, before: &PortCounts) -> PortCounts {
                let mut since = self.clone();
                $(since.$name = since.$name.saturating_sub(before.$name);)*
                since.counts.iter_mut().zip(&before.counts).for_each(|(now, then)| *now = now.saturating_sub(*then));
                since.drops.iter_mut().zip(&before.drops).for_each(|(now, then)| *now = now.saturating_sub(*then));
                since
            }
        }

        impl PortCounters {
            pub(crate) fn clear(&self) {
                $(self.$name.clear();)*
                self.counts.iter().for_each(Counter::clear);
                self.drops.iter().for_each(Counter::clear);
            }
        }
    };
}

port_counters! {
    /// Frames received.
    rx_packets,
    /// Bytes received, without FCS.
    rx_bytes,
    /// Frames sent.
    tx_packets,
    /// Bytes sent, without FCS.
    tx_bytes,
    /// Frames that flooding added to those received here.
    copies,
    /// Frames that segmentation added to those that were to leave through this port: pieces, less one for each frame cut.
    segments,
    /// Frames received here, copies included, that were handed to other ports.
    switched,
    /// Frames received here that the control thread took (ARP and ICMP to the VTEP).
    punted,
    /// Frames that the control thread sent through this port.
    injected,
}

/// Frames of a port that its device or the kernel has lost, as they say themselves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DeviceLosses {
    /// Before they were received.
    pub missed: u64,
    /// Received with an error.
    pub rx_errors: u64,
    /// Taken to be sent.
    pub tx: u64,
}

impl PortCounts {
    /// What the device has lost belongs to what it received and did not send.
    pub(crate) fn lose(&mut self, losses: &DeviceLosses) {
        // On a kernel's interface others may send, too, and lose.
        let tx = losses.tx.min(self.tx_packets);
        self.rx_packets += losses.missed + losses.rx_errors;
        self.tx_packets -= tx;
        for (reason, n) in [(Drop::RxMissed, losses.missed), (Drop::RxError, losses.rx_errors), (Drop::TxDevice, tx)] {
            self.drops[reason.index()] += n;
        }
    }

    /// What stages counted as `count`.
    pub fn count(&self, count: Count) -> u64 {
        self.counts[count.index()]
    }

    /// Frames from this port that were dropped.
    pub fn rx_drops(&self) -> u64 {
        Drop::ALL.iter().filter(|d| !d.is_tx()).map(|&d| self.drops[d.index()]).sum()
    }

    /// Frames towards this port that were dropped.
    pub fn tx_drops(&self) -> u64 {
        Drop::ALL.iter().filter(|d| d.is_tx()).map(|&d| self.drops[d.index()]).sum()
    }

    /// Whether every frame received here is accounted for: received + copies = switched + punted + dropped.
    pub fn is_conserved(&self) -> bool {
        self.rx_packets + self.copies == self.switched + self.punted + self.rx_drops()
    }
}

/// What one worker does with its time.
#[derive(Default)]
#[repr(align(64))]
pub(crate) struct WorkerCounters {
    pub(crate) loops: Counter,
    pub(crate) bursts: Counter,
    pub(crate) packets: Counter,
    pub(crate) busy_ticks: Counter,
    /// By [`Stage`]'s number.
    pub(crate) stages: [StageCounters; Stage::COUNT],
}

/// What one receive queue brought, whichever worker polled it; on a cache line of its own.
#[derive(Default)]
#[repr(align(64))]
pub(crate) struct QueueCounters {
    pub(crate) packets: Counter,
    /// Time-stamp ticks spent on its bursts.
    pub(crate) ticks: Counter,
}

/// What one stage of a worker took, in the bursts that were timed.
#[derive(Default)]
pub(crate) struct StageCounters {
    ticks: Counter,
    frames: Counter,
    bursts: Counter,
}

impl StageCounters {
    pub(crate) fn add(&self, time: StageTime) {
        self.ticks.add(time.ticks);
        self.frames.add(time.frames);
        self.bursts.add(time.bursts);
    }

    pub(crate) fn get(&self) -> StageTime {
        StageTime { ticks: self.ticks.get(), frames: self.frames.get(), bursts: self.bursts.get() }
    }
}

/// All counters of one worker.
pub(crate) struct Counters {
    pub(crate) worker: WorkerCounters,
    pub(crate) ports: Box<[PortCounters]>,
}

impl Counters {
    pub(crate) fn new() -> Self {
        let ports = (0..=ITSELF).map(|_| PortCounters::default()).collect();
        Counters { worker: WorkerCounters::default(), ports }
    }
}
