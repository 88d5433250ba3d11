//! The data plane: workers, their queues, the publishing of tables, counters.
//!
//! [`Dataplane`] belongs to the control thread. Workers own their queues; what changes reaches them by message, is taken
//! up between two bursts, and what they no longer use comes back to be freed here. A worker never waits, and nobody waits
//! long for a worker: what may only be done when all have taken up a change is done when the last one has.

mod apply;
mod balance;
mod channel;
mod counters;
mod fdb;
mod handle;
mod inject;
mod links;
mod numbers;
mod publish;
mod punts;
mod rotation;
mod shares;
mod stats;
mod worker;

pub use apply::Underlay;
pub use counters::{DeviceLosses, MAX_PORTS, PortCounts};
pub use dray_switch::{Punt, PuntReason};
pub use fdb::{FdbEntry, Place};
pub use inject::Entry;
pub use links::Moved;
pub use publish::Change;
pub use punts::Punted;
pub use stats::{QueueStats, WorkerStats};

use channel::unbounded;
use counters::Counters;
use crossbeam_channel::{Receiver, bounded};
use dray_config::ValidConfig;
use dray_switch::fdb::Fdb;
use dray_switch::tables::Tables;
use fdb::{Forgetting, ageing_parts};
use handle::Handle;
use links::Polled;
use publish::{Made, Names, Pending};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering::Relaxed};
use std::time::{Duration, Instant};
use std::{io, thread};
use worker::Worker;

/// How long the end of all workers is waited for.
const END: Duration = Duration::from_secs(1);

/// The switch's workers and all they share.
pub struct Dataplane {
    workers: Vec<Handle>,
    fdb: Arc<Fdb>,
    clock: Arc<AtomicU16>,
    /// With the ticks at that time.
    started: (Instant, u64),
    ageing: u16,
    /// The next part of the FDB to be searched for old entries.
    part: usize,
    /// What nothing is to be known of any more.
    forgetting: Vec<Forgetting>,
    /// The next bucket of the FDB to be searched for it.
    bucket: usize,
    /// Ports behind which nothing is to be known when the workers have taken up that their links are down.
    again: Vec<u16>,
    names: Names,
    /// What the newest tables were made of.
    made: Made,
    /// Who polls which receive queue, by port number and index.
    queues: BTreeMap<(u16, u16), Polled>,
    /// Ports whose link is up and through which frames of two workers may overtake each other.
    unordered: HashSet<u16>,
    /// What the workers have.
    tables: Arc<Tables>,
    /// What is to be done when all workers have taken up the newest tables.
    pending: Option<Pending>,
    /// Links that have come up so far.
    links: u64,
    /// What devices have lost, by port number.
    lost: HashMap<u16, DeviceLosses>,
    /// Counts of ports that are gone, so that the switch's sums stay true.
    retired: PortCounts,
}

impl Dataplane {
    /// Starts a worker pinned to each CPU of `config`. The receiver gets what workers leave to the control thread: the port's
    /// name is found by [`Dataplane::port_name`].
    pub fn start(config: &ValidConfig) -> io::Result<(Self, Receiver<Punted>)> {
        let random = RandomState::new();
        let fdb = Arc::new(Fdb::new(config.fdb.size, [random.hash_one(1), random.hash_one(2)]));
        let clock = Arc::new(AtomicU16::new(0));
        let (punts, punted) = punts::channel();
        let mut workers = Vec::new();
        for (n, worker) in config.workers.iter().enumerate() {
            let (commands, commands_rx) = unbounded();
            let (replies_tx, replies) = unbounded();
            let counters = Arc::new(Counters::new());
            let (cpu, fdb, clock, punts) = (worker.cpu, fdb.clone(), clock.clone(), punts.clone());
            let idle_sleep = Duration::from_micros(worker.idle_sleep.into());
            let for_thread = counters.clone();
            let (pinned, is_pinned) = bounded(1);
            let thread = thread::Builder::new().name(format!("dray-worker{n}")).spawn(move || {
                let _ = pinned.send(core_affinity::set_for_current(core_affinity::CoreId { id: cpu }));
                let tables = Arc::new(Tables::default());
                let counters = for_thread;
                Worker { commands: commands_rx, replies: replies_tx, punts, tables, fdb, counters, clock, idle_sleep }
                    .run()
            })?;
            if is_pinned.recv() != Ok(true) {
                return Err(io::Error::other(format!("worker {n} can't be pinned to CPU {cpu}")));
            }
            workers.push(Handle::new(cpu, counters, (commands, replies), thread));
        }
        let dataplane = Dataplane {
            workers,
            fdb,
            clock,
            started: (Instant::now(), dray_switch::mem::ticks()),
            ageing: config.fdb.ageing,
            part: 0,
            forgetting: Vec::new(),
            bucket: 0,
            again: Vec::new(),
            names: Names::default(),
            made: Made::default(),
            queues: BTreeMap::new(),
            unordered: HashSet::new(),
            tables: Arc::default(),
            pending: None,
            links: 0,
            lost: HashMap::new(),
            retired: PortCounts::default(),
        };
        Ok((dataplane, punted))
    }

    /// How many workers there are: [`Dataplane::link_up`] wants a transmit handle for each.
    pub fn workers(&self) -> usize {
        self.workers.len()
    }

    /// The name of port `number`, as punts give it.
    pub fn port_name(&self, number: u16) -> Option<&str> {
        self.names.ports.name(number).map(String::as_str)
    }

    fn now(&self) -> u16 {
        self.started.0.elapsed().as_secs() as u16
    }

    /// Time-stamp ticks in a nanosecond, the more exact the longer it has run.
    pub fn ticks_per_ns(&self) -> f64 {
        let (started, at) = self.started;
        dray_switch::mem::ticks().saturating_sub(at) as f64 / started.elapsed().as_nanos().max(1) as f64
    }

    /// Housekeeping, to be called about ten times a second: the workers' clock, what waited for workers, and a part of the ageing.
    pub fn tick(&mut self) {
        self.workers.iter_mut().for_each(Handle::watch);
        self.settle();
        self.clock.store(self.now(), Relaxed);
        let parts = ageing_parts(self.ageing);
        self.part %= parts;
        self.fdb.age(self.part, parts, self.now(), self.ageing);
        self.part += 1;
        if self.is_forgetting() {
            self.forget_some();
        }
    }

    /// How often [`Dataplane::tick`] wants to be called.
    pub const TICK: Duration = Duration::from_millis(100);

    /// Ends the workers. Those that don't within a second go on to hold what they have; the CPUs that they are on.
    pub fn stop(&mut self) -> Vec<usize> {
        self.workers.iter_mut().for_each(Handle::stop);
        let deadline = Instant::now() + END;
        self.workers.drain(..).filter_map(|mut worker| (!worker.join(deadline)).then_some(worker.cpu)).collect()
    }
}

impl std::ops::Drop for Dataplane {
    fn drop(&mut self) {
        self.stop();
    }
}

#[cfg(all(test, not(feature = "loom")))]
mod tests;
