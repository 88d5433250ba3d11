//! The data plane: workers, their queues, the publishing of tables, counters.
//!
//! [`Dataplane`] belongs to the control thread. Workers own their queues; what changes reaches them by message, is taken
//! up between two bursts, and what they no longer use comes back to be freed here. A worker never waits, and nobody waits
//! long for a worker: what may only be done when all have taken up a change is done when the last one has.

mod balance;
mod counters;
mod handle;
mod numbers;
mod publish;
mod rotation;
mod shares;
mod worker;

pub use counters::{DeviceLosses, MAX_PORTS, PortCounts};
pub use dray_switch::port::Punt;

use balance::{Load, decide};
use counters::{Counters, QueueCounters};
use crossbeam_channel::{Receiver, bounded, unbounded};
use dray_config::{Mac, StaticTo, ValidConfig};
use dray_switch::clock::{Stage, StageTime};
use dray_switch::egress::Egress;
use dray_switch::fdb::{Fdb, key};
use dray_switch::tables::{Port, Tables};
use dray_switch::{Rx, Tx};
use handle::Handle;
use publish::{Compiled, Names, Places};
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::hash::{BuildHasher, RandomState};
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering::Relaxed};
use std::time::{Duration, Instant};
use std::{io, thread};
use worker::{Command, Queue, Worker};

/// Frames and notices for the control thread that may wait; more are refused and counted.
const PUNTS: usize = 1024;

/// How long a change waits for the workers to take it up. One that is not done by then does it later, and is not waited for any more
/// until it has.
const WAIT: Duration = Duration::from_millis(100);

/// How long the end of all workers is waited for.
const END: Duration = Duration::from_secs(1);

/// What the control thread has found out about the underlay.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Underlay {
    /// Resolved next hops.
    pub neighbours: HashMap<Ipv4Addr, Mac>,
    /// VTEPs that are not configured but were heard (`learn-vteps`).
    pub learned: BTreeSet<Ipv4Addr>,
    /// The underlay port's MAC if the device keeps its own rather than the configured one.
    pub mac: Option<Mac>,
}

/// Where an FDB entry points, by name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// Behind a port; with the VLAN if tagged there.
    Port {
        /// Port name.
        port: String,
        /// VLAN, 1..=4094, if tagged.
        vlan: Option<u16>,
    },
    /// Behind a remote VTEP.
    Vtep(Ipv4Addr),
}

/// An FDB entry, by names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FdbEntry {
    /// Bridge name.
    pub bridge: String,
    /// MAC address.
    pub mac: Mac,
    /// Where it is.
    pub place: Place,
    /// Configured: neither moves nor ages.
    pub is_static: bool,
    /// Seconds since it was last seen.
    pub age: u16,
}

/// What a worker has done since it started.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WorkerStats {
    /// The CPU it is pinned to.
    pub cpu: usize,
    /// Receive queues it polls, by port name and index.
    pub queues: Vec<QueueStats>,
    /// Times it went round all its queues.
    pub loops: u64,
    /// Bursts received.
    pub bursts: u64,
    /// Frames received.
    pub packets: u64,
    /// Time-stamp ticks spent on bursts.
    pub busy_ticks: u64,
    /// Time-stamp ticks since it started.
    pub total_ticks: u64,
    /// What each stage took, in the bursts that were timed; by [`Stage`]'s number.
    pub stages: [StageTime; Stage::COUNT],
    /// For how long it has not run, if that is a second or more: it gets no CPU time.
    pub silence: Option<Duration>,
    /// Changes that it has yet to take up.
    pub unanswered: usize,
}

/// What a receive queue has brought since its link came up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QueueStats {
    /// The port's name.
    pub port: String,
    /// Which of the port's queues.
    pub index: u16,
    /// Frames received.
    pub packets: u64,
    /// Time-stamp ticks spent on them, on whichever worker.
    pub ticks: u64,
    /// Tells it from the queue of another link of the port.
    link: u64,
}

/// A queue that was given to another worker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Moved {
    /// The port's name.
    pub port: String,
    /// Which of the port's queues.
    pub index: u16,
    /// The CPU of the worker that had it.
    pub from: usize,
    /// The CPU of the worker that has it.
    pub to: usize,
}

impl WorkerStats {
    /// What it has done since `before`, an earlier look at the same worker.
    pub fn since(&self, before: &WorkerStats) -> WorkerStats {
        // Time-stamp counters of two CPUs may differ a little, and counters are read while they change.
        let mut stages = self.stages;
        for (now, then) in stages.iter_mut().zip(&before.stages) {
            now.ticks = now.ticks.saturating_sub(then.ticks);
            now.frames = now.frames.saturating_sub(then.frames);
            now.bursts = now.bursts.saturating_sub(then.bursts);
        }
        let same = |a: &QueueStats, b: &QueueStats| a.port == b.port && a.index == b.index && a.link == b.link;
        let mut queues = self.queues.clone();
        for now in &mut queues {
            // What it did on another worker is not known here.
            let (packets, ticks) = before
                .queues
                .iter()
                .find(|then| same(now, then))
                .map_or((now.packets, now.ticks), |then| (then.packets, then.ticks));
            now.packets = now.packets.saturating_sub(packets);
            now.ticks = now.ticks.saturating_sub(ticks);
        }
        WorkerStats {
            queues,
            loops: self.loops.saturating_sub(before.loops),
            bursts: self.bursts.saturating_sub(before.bursts),
            packets: self.packets.saturating_sub(before.packets),
            busy_ticks: self.busy_ticks.saturating_sub(before.busy_ticks),
            total_ticks: self.total_ticks.saturating_sub(before.total_ticks),
            stages,
            cpu: self.cpu,
            silence: self.silence,
            unanswered: self.unanswered,
        }
    }

    /// Share of the time spent on bursts, 0..=1.
    pub fn busy(&self) -> f64 {
        (self.busy_ticks as f64 / self.total_ticks.max(1) as f64).clamp(0.0, 1.0)
    }
}

/// Who polls a receive queue.
struct Polled {
    worker: usize,
    counters: Arc<QueueCounters>,
    /// The number of the link that it belongs to.
    link: u64,
}

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
    /// Ports behind which nothing is to be known any more, and how many buckets of the FDB are still to be searched for each.
    forgetting: Vec<(Egress, usize)>,
    /// The next of them.
    bucket: usize,
    /// Ports behind which nothing is to be known when the workers have taken up that their links are down.
    again: Vec<u16>,
    names: Names,
    places: Places,
    statics: HashMap<u64, Egress>,
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

/// What a configuration says, as far as it can't be so before all workers know it: before, one may still find or learn what was, and
/// would take a number that is another's by now for the old one's.
struct Pending {
    places: Places,
    statics: HashMap<u64, Egress>,
    /// Whether any place was taken away.
    lost: bool,
    ports: HashSet<String>,
    bridges: HashSet<String>,
    vteps: HashSet<Ipv4Addr>,
}

/// In how many steps, one a [`Dataplane::tick`], the whole FDB is searched for old entries that are forgotten after `ageing` seconds: so
/// that it takes an eighth of that time, but no more than a minute. A worker that has to share its CPU waits for as long as a step takes.
fn ageing_parts(ageing: u16) -> usize {
    let seconds = (usize::from(ageing) / 8).clamp(2, 60);
    seconds * 1000 / Dataplane::TICK.as_millis() as usize
}

impl Dataplane {
    /// Starts a worker pinned to each CPU of `config`. The receiver gets what workers leave to the control thread: the port's
    /// name is found by [`Dataplane::port_name`].
    pub fn start(config: &ValidConfig) -> io::Result<(Self, Receiver<(u16, Punt)>)> {
        let random = RandomState::new();
        let fdb = Arc::new(Fdb::new(config.fdb.size, [random.hash_one(1), random.hash_one(2)]));
        let clock = Arc::new(AtomicU16::new(0));
        let (punts, punted) = bounded(PUNTS);
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
            places: Places::default(),
            statics: HashMap::new(),
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

    /// Whether there are numbers for the ports of `config`, beside those of ports that are gone and that a worker may still know.
    ///
    /// # Errors
    /// There are not.
    pub fn has_room(&self, config: &ValidConfig) -> Result<(), String> {
        let new = config.ports.iter().filter(|port| self.names.ports.get(&port.name).is_none()).count();
        let known = self.names.ports.iter().count();
        if known + new <= MAX_PORTS {
            return Ok(());
        }
        let late: Vec<String> =
            self.workers.iter().filter(|w| !w.is_done()).map(|w| format!("CPU {}", w.cpu)).collect();
        Err(format!(
            "{new} new ports beside {known} are more than {MAX_PORTS}, and ports that are gone count until the worker on {} has \
             taken that up",
            late.join(", ")
        ))
    }

    /// Makes `config` and what is known of the underlay the workers' tables. Ports that are not in it any more lose
    /// their queues first. When all workers use the new tables, which is mostly when this returns, the FDB has no entry that
    /// contradicts them. Nothing else is disturbed.
    pub fn apply(&mut self, config: &ValidConfig, underlay: &Underlay) {
        let kept: HashSet<&str> = config.ports.iter().map(|p| p.name.as_str()).collect();
        let gone: Vec<u16> =
            self.names.ports.iter().filter(|(name, _)| !kept.contains(name.as_str())).map(|(_, n)| n).collect();
        gone.iter().for_each(|&number| self.detach(number));
        let Compiled { tables, places, statics } = publish::compile(config, underlay, &mut self.names, &self.tables);
        for port in &config.ports {
            let Some(number) = self.names.ports.get(&port.name) else { continue };
            let is_underlay = config.vxlan.as_ref().is_some_and(|vxlan| vxlan.port == port.name);
            let place = if is_underlay { Egress::tunnel(0) } else { Egress::port(number, 0) };
            self.fdb.set_limit(place, port.max_macs as usize);
        }
        self.tables = Arc::new(tables);
        self.workers.iter_mut().for_each(|worker| worker.say(Command::Publish(self.tables.clone())));
        let before = self.pending.as_ref().map(|pending| (&pending.places, pending.lost));
        let lost = !self.places.is_subset(&places)
            || before.is_some_and(|(between, lost)| lost || !between.is_subset(&places));
        self.pending = Some(Pending {
            places,
            statics,
            lost,
            ports: config.ports.iter().map(|p| p.name.clone()).collect(),
            bridges: config.bridges.iter().map(|b| b.name.clone()).collect(),
            vteps: config.vteps().into_iter().chain(underlay.learned.iter().copied()).collect(),
        });
        self.ageing = config.fdb.ageing;
        self.settle();
        if self.pending.is_some() {
            // What is behind ports that are gone is searched for again when nothing leads there any more.
            gone.into_iter().for_each(|number| self.forget_place(number));
        }
    }

    /// Takes what the workers give back. Once they have all taken up the newest tables, what had to wait for that is done.
    fn settle(&mut self) {
        let deadline = Instant::now() + WAIT;
        loop {
            let mut released = Vec::new();
            for worker in &mut self.workers {
                // What else is in the reply is freed here.
                worker.collect(deadline, |reply| released.extend(reply.released));
            }
            if released.is_empty() {
                break;
            }
            for (port, queue) in released {
                // The link that it is of may be gone.
                let polled = self.queues.get(&(port, queue.index));
                if let Some(polled) = polled.filter(|polled| Arc::ptr_eq(&polled.counters, &queue.counters)) {
                    self.workers[polled.worker].say(Command::Take { port, queue });
                }
            }
        }
        if self.is_settled() {
            if let Some(pending) = self.pending.take() {
                self.complete(pending);
            }
            for number in std::mem::take(&mut self.again) {
                self.forget_place(number);
            }
        }
    }

    /// Whether the workers have taken up everything.
    fn is_settled(&self) -> bool {
        self.workers.iter().all(Handle::is_done)
    }

    /// All workers use the newest tables.
    fn complete(&mut self, pending: Pending) {
        let Pending { places, statics, lost, ports, bridges, vteps } = pending;
        if lost {
            self.fdb.flush(|e| !places.contains(e.bridge, e.egress));
        }
        for key in self.statics.keys().filter(|key| !statics.contains_key(key)) {
            self.fdb.remove(*key);
        }
        for (&key, &egress) in &statics {
            if lost || self.statics.get(&key) != Some(&egress) {
                self.fdb.set_static(key, egress);
            }
        }
        (self.places, self.statics) = (places, statics);

        // Only now may the numbers be somebody else's.
        for number in self.names.ports.retain(|name| ports.contains(name)) {
            self.forgetting.retain(|(place, _)| place.index() != number);
            self.again.retain(|other| *other != number);
            self.retired.merge(&self.counts(number));
            self.lost.remove(&number);
            self.workers.iter().for_each(|w| w.counters.ports[number as usize].clear());
        }
        self.names.bridges.retain(|name| bridges.contains(name));
        self.names.vteps.retain(|vtep| vteps.contains(vtep));
    }

    /// Gives a configured port its queues: each receive queue goes to the worker that polls the fewest, of those that run, and each worker
    /// gets one of `tx`, which are as many as [`Dataplane::workers`]. Whatever queues the port had are dropped. `in_order`: what
    /// one worker has sent is received before what another one sends later, if they are of one flow.
    pub fn link_up(&mut self, port: &str, rx: Vec<Box<dyn Rx>>, tx: Vec<Box<dyn Tx>>, in_order: bool) {
        assert_eq!(tx.len(), self.workers.len(), "one transmit handle for each worker");
        let Some(number) = self.names.ports.get(port) else { return };
        self.detach(number);
        self.links += 1;
        if !in_order {
            self.unordered.insert(number);
        }
        let mut shares: Vec<Vec<Queue>> = self.workers.iter().map(|_| Vec::new()).collect();
        for (index, rx) in (0..).zip(rx) {
            let load = |w: usize| self.queues.values().filter(|queue| queue.worker == w).count();
            let cost = |&w: &usize| (self.workers[w].silence().is_some(), load(w));
            let worker = (0..shares.len()).min_by_key(cost).expect("there is a worker");
            let counters = Arc::new(QueueCounters::default());
            self.queues.insert((number, index), Polled { worker, counters: counters.clone(), link: self.links });
            shares[worker].push(Queue { index, rx, counters });
        }
        for ((worker, rx), tx) in self.workers.iter_mut().zip(shares).zip(tx) {
            worker.say(Command::Attach { port: number, rx, tx });
        }
        self.settle();
    }

    /// Takes a port's queues from the workers, drops them here as soon as they have given them back, and forgets what was learned behind
    /// it. Frames towards it are then dropped as `tx.link_down`.
    pub fn link_down(&mut self, port: &str) {
        let Some(number) = self.names.ports.get(port) else { return };
        self.detach(number);
        self.settle();
        self.forget_place(number);
        if !self.is_settled() {
            // Until it has taken that up, a worker may learn it anew.
            self.again.retain(|other| *other != number);
            self.again.push(number);
        }
    }

    /// Forgets what was learned behind a port: its link is down, and its stations may be back behind another one. Static entries stay;
    /// so does what is behind tunnels, for VTEPs stay where they are when the underlay's link is down.
    pub fn forget(&mut self, port: &str) {
        if let Some(number) = self.names.ports.get(port) {
            self.forget_place(number);
        }
    }

    fn forget_place(&mut self, number: u16) {
        let place = Egress::port(number, 0);
        if self.fdb.learned(place) == 0 {
            return;
        }
        let is_first = self.forgetting.is_empty();
        self.forgetting.retain(|(other, _)| *other != place);
        self.forgetting.push((place, self.fdb.buckets()));
        // Who comes and goes without end does not keep us: all that are to be forgotten are searched for together.
        if is_first {
            self.forget_some();
        }
    }

    /// Whether [`Dataplane::forget_some`] has something to do: then it is to be called about once in a millisecond.
    pub fn is_forgetting(&self) -> bool {
        !self.forgetting.is_empty()
    }

    /// Searches a part of the FDB, of 2 MiB, for what is to be forgotten.
    pub fn forget_some(&mut self) {
        const PART: usize = 1 << 15;
        let from = self.bucket;
        let to = (from + PART).min(self.fdb.buckets());
        let places: Vec<Egress> = self.forgetting.iter().map(|(place, _)| *place).collect();
        self.fdb.forget(from..to, &places);
        self.bucket = if to == self.fdb.buckets() { 0 } else { to };
        self.forgetting.retain_mut(|(place, left)| {
            *left = left.saturating_sub(to - from);
            *left != 0 && self.fdb.learned(*place) != 0
        });
    }

    fn detach(&mut self, number: u16) {
        self.queues.retain(|(port, _), _| *port != number);
        self.unordered.remove(&number);
        self.workers.iter_mut().for_each(|worker| worker.say(Command::Detach { port: number }));
    }

    /// Sends `frame` (at most 9,216 bytes) through a port, from the control thread. It is lost if no worker runs.
    pub fn inject(&self, port: &str, frame: Vec<u8>) {
        if let Some(port) = self.names.ports.get(port) {
            // Any worker can: the first one that takes up what it is told, for those that come one after the other to stay in order.
            if let Some(worker) = self.workers.iter().find(|worker| worker.is_done() && worker.silence().is_none()) {
                worker.tell(Command::Inject { port, frame });
            }
        }
    }

    /// The name of port `number`, as punts give it.
    pub fn port_name(&self, number: u16) -> Option<&str> {
        self.names.ports.iter().find(|(_, n)| *n == number).map(|(name, _)| name.as_str())
    }

    /// A port's counts.
    pub fn port_counts(&self, port: &str) -> Option<PortCounts> {
        self.names.ports.get(port).map(|number| self.counts(number))
    }

    fn counts(&self, number: u16) -> PortCounts {
        let mut counts = PortCounts::default();
        self.workers.iter().for_each(|w| counts.add(&w.counters.ports[number as usize]));
        if let Some(losses) = self.lost.get(&number) {
            counts.lose(losses);
        }
        counts
    }

    /// Has the port's counts say what its device has lost meanwhile.
    pub fn device_lost(&mut self, port: &str, more: DeviceLosses) {
        if let Some(number) = self.names.ports.get(port) {
            let lost = self.lost.entry(number).or_default();
            lost.missed += more.missed;
            lost.rx_errors += more.rx_errors;
            lost.tx += more.tx;
        }
    }

    /// The whole switch's counts, ports that are gone included.
    pub fn total(&self) -> PortCounts {
        let mut total = self.retired.clone();
        self.names.ports.iter().for_each(|(_, number)| total.merge(&self.counts(number)));
        total
    }

    /// Of each worker, by its CPU: for how long it has not run, if that is a second or more.
    pub fn silence(&self) -> impl Iterator<Item = (usize, Option<Duration>)> {
        self.workers.iter().map(|w| (w.cpu, w.silence()))
    }

    /// What each worker has done.
    pub fn worker_stats(&self) -> Vec<WorkerStats> {
        let now = dray_switch::mem::ticks();
        let names: HashMap<u16, &String> = self.names.ports.iter().map(|(name, number)| (number, name)).collect();
        let stats = |(n, w): (usize, &Handle)| {
            let polled = self.queues.iter().filter(|(_, queue)| queue.worker == n);
            let queue = |(&(port, index), queue): (&(u16, u16), &Polled)| QueueStats {
                port: names.get(&port).map(|name| (*name).clone()).unwrap_or_default(),
                index,
                packets: queue.counters.packets.get(),
                ticks: queue.counters.ticks.get(),
                link: queue.link,
            };
            let mut queues: Vec<QueueStats> = polled.map(queue).collect();
            queues.sort_by(|a, b| (&a.port, a.index).cmp(&(&b.port, b.index)));
            WorkerStats {
                cpu: w.cpu,
                queues,
                loops: w.counters.worker.loops.get(),
                bursts: w.counters.worker.bursts.get(),
                packets: w.counters.worker.packets.get(),
                busy_ticks: w.counters.worker.busy_ticks.get(),
                total_ticks: now - w.started,
                stages: std::array::from_fn(|stage| w.counters.worker.stages[stage].get()),
                silence: w.silence(),
                unanswered: w.unanswered(),
            }
        };
        self.workers.iter().enumerate().map(stats).collect()
    }

    /// Gives a queue of the busiest worker to another one if that brings their loads clearly closer. `period` is what the workers
    /// did of late ([`WorkerStats::since`]).
    pub fn balance(&mut self, period: &[WorkerStats]) -> Option<Moved> {
        // One that gets no CPU time is no help, though it seems to have nothing to do.
        if self.workers.iter().any(|worker| !worker.is_done() || worker.silence().is_some()) {
            return None;
        }
        let load = |stats: &WorkerStats| {
            let share = |queue: &QueueStats| queue.ticks as f64 / stats.total_ticks.max(1) as f64;
            let queues = stats.queues.iter().filter_map(|queue| {
                let port = self.names.ports.get(&queue.port)?;
                self.keeps_order(port).then_some(((port, queue.index), share(queue)))
            });
            Load { busy: stats.busy(), queues: queues.collect() }
        };
        let (key, to) = decide(&period.iter().map(load).collect::<Vec<_>>())?;
        self.give(key, to)
    }

    /// Gives a queue, by port number and index, to the worker number `to`.
    fn give(&mut self, (port, index): (u16, u16), to: usize) -> Option<Moved> {
        let name = self.port_name(port)?.to_owned();
        let from = std::mem::replace(&mut self.queues.get_mut(&(port, index))?.worker, to);
        self.workers[from].say(Command::Release { port, index });
        self.settle();
        Some(Moved { port: name, index, from: self.workers[from].cpu, to: self.workers[to].cpu })
    }

    /// Whether what `port` brings stays in order when another worker polls it: through every port that it may leave by.
    fn keeps_order(&self, port: u16) -> bool {
        let is_member = |to: &Egress| !to.is_tunnel() && to.index() == port;
        self.tables.groups.iter().enumerate().all(|(bridge, group)| {
            let encaps = self.tables.adjacencies.encaps.iter().filter(|encap| encap.vnis[bridge] != 0);
            let underlays = encaps.map(|encap| encap.port);
            let is_here = underlays.clone().any(|underlay| underlay == port) || group.members.iter().any(is_member);
            let members = group.members.iter().filter(|to| !to.is_tunnel()).map(|to| to.index());
            let mut ports = members.chain(underlays);
            !is_here || ports.all(|to| !self.unordered.contains(&to))
        })
    }

    /// Time-stamp ticks in a nanosecond, the more exact the longer it has run.
    pub fn ticks_per_ns(&self) -> f64 {
        let (started, at) = self.started;
        dray_switch::mem::ticks().saturating_sub(at) as f64 / started.elapsed().as_nanos().max(1) as f64
    }

    /// MACs in the FDB, and how many it may hold.
    pub fn fdb_usage(&self) -> (usize, usize) {
        (self.fdb.used(), self.fdb.size())
    }

    /// How many MACs are learned behind a port; behind all tunnels, if it is the underlay port.
    pub fn fdb_learned(&self, port: &str) -> usize {
        let Some(number) = self.names.ports.get(port) else { return 0 };
        let is_underlay = self.tables.ports.get(usize::from(number)).is_some_and(Port::is_underlay);
        self.fdb.learned(if is_underlay { Egress::tunnel(0) } else { Egress::port(number, 0) })
    }

    /// All FDB entries, by bridge and MAC; those of `bridge` if given.
    pub fn fdb_entries(&self, bridge: Option<&str>) -> Vec<FdbEntry> {
        let bridges: HashMap<u16, &String> = self.names.bridges.iter().map(|(k, n)| (n, k)).collect();
        let ports: HashMap<u16, &String> = self.names.ports.iter().map(|(k, n)| (n, k)).collect();
        let vteps: HashMap<u16, Ipv4Addr> = self.names.vteps.iter().map(|(k, n)| (n, *k)).collect();
        let mut entries: Vec<FdbEntry> = Vec::new();
        for e in self.fdb.entries(self.now()) {
            let Some(&name) = bridges.get(&e.bridge).filter(|name| bridge.is_none_or(|b| b == **name)) else {
                continue;
            };
            let place = if e.egress.is_tunnel() {
                vteps.get(&e.egress.index()).map(|&v| Place::Vtep(v))
            } else {
                let vlan = Some(e.egress.vlan()).filter(|&v| v != 0);
                ports.get(&e.egress.index()).map(|&port| Place::Port { port: port.clone(), vlan })
            };
            let Some(place) = place else { continue };
            entries.push(FdbEntry { bridge: name.clone(), mac: Mac(e.mac), place, is_static: e.is_static, age: e.age });
        }
        entries.sort_by(|a, b| (&a.bridge, a.mac).cmp(&(&b.bridge, b.mac)));
        entries
    }

    /// How many MACs the FDB has of each bridge.
    pub fn fdb_macs(&self) -> HashMap<String, usize> {
        let mut counts: HashMap<u16, usize> = HashMap::new();
        self.fdb.entries(self.now()).iter().for_each(|e| *counts.entry(e.bridge).or_default() += 1);
        let count = |(name, n): (&String, u16)| counts.get(&n).map(|&count| (name.clone(), count));
        self.names.bridges.iter().filter_map(count).collect()
    }

    /// The remote VTEPs that FDB entries point to.
    pub fn fdb_vteps(&self) -> HashSet<Ipv4Addr> {
        let entries = self.fdb.entries(self.now());
        let used: HashSet<u16> = entries.iter().filter(|e| e.egress.is_tunnel()).map(|e| e.egress.index()).collect();
        self.names.vteps.iter().filter(|(_, n)| used.contains(n)).map(|(vtep, _)| *vtep).collect()
    }

    /// Forgets the learned entries of `bridge` and `port` (all, where not given). How many.
    pub fn fdb_flush(&self, bridge: Option<&str>, port: Option<&str>) -> usize {
        let bridge = bridge.map(|b| self.names.bridges.get(b));
        let port = port.map(|p| self.names.ports.get(p));
        self.fdb.flush(|e| {
            !e.is_static
                && bridge.is_none_or(|b| b == Some(e.bridge))
                && port.is_none_or(|p| !e.egress.is_tunnel() && p == Some(e.egress.index()))
        })
    }

    /// Forgets one entry, learned or static. Whether it was there.
    pub fn fdb_remove(&mut self, bridge: &str, mac: Mac) -> bool {
        let Some(number) = self.names.bridges.get(bridge) else { return false };
        let key = key(number, mac.0);
        let was_pending = self.pending.as_mut().is_some_and(|pending| pending.statics.remove(&key).is_some());
        let was_static = self.statics.remove(&key).is_some() || was_pending;
        self.fdb.remove(key) || was_static
    }

    /// Adds a static entry or gives it a new place, which is as [`Dataplane::apply`] would take it. If that is a VTEP that no
    /// configuration has named so far, its frames are dropped until one does. False if the FDB has no room.
    pub fn fdb_set(&mut self, bridge: &str, mac: Mac, to: &StaticTo) -> bool {
        let Some(number) = self.names.bridges.get(bridge) else { return false };
        let (key, egress) = (key(number, mac.0), self.names.egress(to));
        let is_set = self.fdb.set_static(key, egress);
        if is_set {
            self.statics.insert(key, egress);
            if let Some(pending) = &mut self.pending {
                pending.statics.insert(key, egress);
            }
        }
        is_set
    }

    /// Whether there is a static entry.
    pub fn fdb_is_static(&self, bridge: &str, mac: Mac) -> bool {
        let statics = self.pending.as_ref().map_or(&self.statics, |pending| &pending.statics);
        self.names.bridges.get(bridge).is_some_and(|number| statics.contains_key(&key(number, mac.0)))
    }

    fn now(&self) -> u16 {
        self.started.0.elapsed().as_secs() as u16
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
}

impl Dataplane {
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

#[cfg(test)]
impl Dataplane {
    /// Waits until the workers have taken up everything, however little CPU time they get.
    fn settle_all(&mut self) {
        let begin = Instant::now();
        while !self.is_settled() || self.pending.is_some() {
            self.settle();
            assert!(begin.elapsed() < Duration::from_secs(30), "a worker does not answer");
            thread::sleep(Duration::from_millis(1));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use dray_switch::Burst;
    use dray_switch::port::Sent;
    use std::sync::Mutex;
    use std::sync::atomic::AtomicU64;

    /// Always has frames, each with a number.
    struct Source {
        next: Arc<AtomicU64>,
    }

    impl Rx for Source {
        fn receive(&mut self, burst: &mut Burst) {
            while burst.room() > 0 {
                let mut frame = [[2, 0, 0, 0, 0, 2], [2, 0, 0, 0, 0, 1]].concat();
                frame.extend(self.next.fetch_add(1, Relaxed).to_be_bytes());
                frame.resize(60, 0);
                burst.push_owned(frame);
            }
        }

        fn release(&mut self, _: &mut Burst) {}
    }

    /// Takes everything, and notes the first frame that is not the one after the last.
    #[derive(Clone, Default)]
    struct Sink {
        got: Arc<Mutex<(u64, Option<String>)>>,
    }

    impl Tx for Sink {
        fn send(&mut self, burst: &mut Burst, frames: &[u16]) -> Sent {
            let mut got = self.got.lock().unwrap();
            for &i in frames {
                let number = u64::from_be_bytes(burst.frame(i).head()[12..20].try_into().unwrap());
                if number != got.0 {
                    let fault = format!("{number} instead of {}", got.0);
                    got.1.get_or_insert(fault);
                }
                got.0 = number + 1;
            }
            Sent { packets: frames.len() as u32, bytes: 60 * frames.len() as u64 }
        }
    }

    fn sinks(sink: &Sink) -> Vec<Box<dyn Tx>> {
        (0..2).map(|_| Box::new(sink.clone()) as _).collect()
    }

    /// Two workers and two ports in a bridge; `None` on a machine with one CPU.
    fn start() -> Option<Dataplane> {
        let Some([a, b]) = dray_config::allowed_cpus().first_chunk().copied() else {
            eprintln!("SKIPPED: needs two CPUs");
            return None;
        };
        let worker = |cpu| format!("[[worker]]\ncpu = {cpu}\n");
        let port = |id| format!("[[port]]\nname = \"p{id}\"\nkind = \"memif\"\nsocket = \"@none\"\nid = {id}\n");
        let bridge = "[[bridge]]\nname = \"b\"\nports = [\"p0\", \"p1\"]\n";
        let text = worker(a) + &worker(b) + &port(0) + &port(1) + bridge;
        let config = dray_config::parse("test", &text).expect("a good configuration");
        let (mut dataplane, _punts) = Dataplane::start(&config).expect("workers");
        dataplane.apply(&config, &Underlay::default());
        Some(dataplane)
    }

    #[test]
    fn the_fdb_is_searched_in_an_eighth_of_the_ageing_time() {
        let seconds = [1, 16, 300, 480, 32_767].map(|ageing| ageing_parts(ageing) as f64 / 10.0);
        assert_eq!(seconds, [2.0, 2.0, 37.0, 60.0, 60.0]);
    }

    #[test]
    fn a_queue_that_is_moved_again_and_again_keeps_order_and_loses_nothing() {
        let Some(mut dataplane) = start() else { return };
        let (sink, next) = (Sink::default(), Arc::new(AtomicU64::new(0)));
        dataplane.link_up("p1", Vec::new(), sinks(&sink), true);
        dataplane.link_up("p0", vec![Box::new(Source { next: next.clone() })], sinks(&Sink::default()), true);
        let p0 = dataplane.names.ports.get("p0").expect("it is configured");
        let mut last = 0;
        for n in 1..=200 {
            let moved = dataplane.give((p0, 0), n % 2).expect("it is there");
            assert_eq!((moved.port.as_str(), moved.index), ("p0", 0));
            let begin = Instant::now();
            while next.load(Relaxed) == last {
                dataplane.settle();
                assert!(begin.elapsed() < Duration::from_secs(30), "nobody polls the queue after {n} moves");
                thread::yield_now();
            }
            last = next.load(Relaxed);
        }
        let polled = dataplane.worker_stats();
        assert!(polled.iter().all(|w| w.packets > 0), "{polled:?}");
        dataplane.link_down("p0");
        dataplane.settle_all();
        let got = sink.got.lock().unwrap();
        assert_eq!(*got, (next.load(Relaxed), None));
    }

    /// Keeps its worker for as long as the other end of the channel is there.
    struct Stuck {
        until: Receiver<()>,
        _memory: Arc<()>,
    }

    impl Rx for Stuck {
        fn receive(&mut self, _: &mut Burst) {
            let _ = self.until.recv();
        }

        fn release(&mut self, _: &mut Burst) {}
    }

    /// What changes while a worker gets no CPU time is taken up when it does, and only then is memory freed, are numbers given to
    /// others, and is the FDB rid of what may not be there any more.
    #[test]
    fn a_worker_that_does_not_answer_keeps_nobody_waiting() {
        let Some(mut dataplane) = start() else { return };
        let config = |ports: &[&str]| {
            let port =
                |(id, name)| format!("[[port]]\nname = {name:?}\nkind = \"memif\"\nsocket = \"@none\"\nid = {id}\n");
            let ports_text: String = ports.iter().enumerate().map(port).collect();
            let text = format!("{ports_text}[[bridge]]\nname = \"b\"\nports = {ports:?}\n");
            dray_config::parse("test", &text).expect("a good configuration")
        };
        dataplane.settle_all();
        let (go, until) = bounded(0);
        let memory = Arc::new(());
        dataplane.link_up(
            "p0",
            vec![Box::new(Stuck { until, _memory: memory.clone() })],
            sinks(&Sink::default()),
            true,
        );
        let learned = [2, 0, 0, 0, 0, 9];
        let entries = |dataplane: &Dataplane| dataplane.fdb.entries(1).iter().filter(|e| e.mac == learned).count();
        let (p1, b) = (dataplane.names.ports.get("p1").unwrap(), dataplane.names.bridges.get("b").unwrap());

        let begin = Instant::now();
        dataplane.apply(&config(&["p0", "p2"]), &Underlay::default());
        let first = begin.elapsed();
        dataplane.apply(&config(&["p2", "p3"]), &Underlay::default());
        for _ in 0..1000 {
            dataplane.link_up("p2", Vec::new(), sinks(&Sink::default()), true);
            dataplane.link_down("p2");
            dataplane.tick();
        }
        assert!(begin.elapsed() - first < Duration::from_secs(10), "it was waited for again");
        let stats = dataplane.worker_stats();
        assert!(stats.iter().any(|w| (1..10).contains(&w.unanswered)), "{stats:?}");
        assert_eq!(dataplane.names.ports.iter().count(), 4, "p0 and p1 keep their numbers");
        // As the worker may, by what it was told last.
        let at = key(b, learned);
        dataplane.fdb.view().learn(at, dataplane.fdb.view().home(at), Egress::port(p1, 0), 1);
        assert_eq!((entries(&dataplane), Arc::strong_count(&memory)), (1, 2));
        let begin = Instant::now();
        while dataplane.worker_stats().iter().all(|w| w.silence.is_none()) {
            assert!(begin.elapsed() < Duration::from_secs(30), "nobody says that the worker is silent");
            thread::sleep(Duration::from_millis(10));
        }

        drop(go);
        dataplane.settle_all();
        assert_eq!((entries(&dataplane), Arc::strong_count(&memory)), (0, 1));
        let names: HashSet<&String> = dataplane.names.ports.iter().map(|(name, _)| name).collect();
        assert_eq!(names, HashSet::from([&"p2".to_owned(), &"p3".to_owned()]));
        let begin = Instant::now();
        while dataplane.worker_stats().iter().any(|w| w.silence.is_some() || w.unanswered != 0) {
            assert!(begin.elapsed() < Duration::from_secs(30), "it runs again");
            dataplane.tick();
        }
    }

    /// A worker that never comes back is left behind.
    #[test]
    fn the_end_does_not_wait_for_a_worker_for_ever() {
        let Some(mut dataplane) = start() else { return };
        dataplane.settle_all();
        let (go, until) = bounded(0);
        let stuck = Stuck { until, _memory: Arc::default() };
        dataplane.link_up("p0", vec![Box::new(stuck)], sinks(&Sink::default()), true);
        dataplane.link_down("p0");
        assert_eq!(dataplane.stop().len(), 1);
        drop(go);
    }

    #[test]
    fn queues_stay_where_their_frames_could_overtake_each_other() {
        let Some(mut dataplane) = start() else { return };
        let idle = || -> Vec<Box<dyn Rx>> {
            struct Idle;
            impl Rx for Idle {
                fn receive(&mut self, _: &mut Burst) {}
                fn release(&mut self, _: &mut Burst) {}
            }
            (0..3).map(|_| Box::new(Idle) as _).collect()
        };
        // Two of the queues are the first worker's, and take half of its time each.
        let balance = |dataplane: &mut Dataplane| {
            let mut period = dataplane.worker_stats();
            assert_eq!([period[0].queues.len(), period[1].queues.len()], [2, 1]);
            (period[0].busy_ticks, period[1].busy_ticks) = (period[0].total_ticks, 0);
            let half = period[0].total_ticks / 2;
            period[0].queues.iter_mut().for_each(|queue| queue.ticks = half);
            dataplane.balance(&period)
        };
        let sink = Sink::default();
        dataplane.link_up("p0", idle(), sinks(&sink), true);
        dataplane.link_up("p1", Vec::new(), sinks(&sink), false);
        assert_eq!(balance(&mut dataplane), None, "p1 has rings of its own for each worker");
        dataplane.link_up("p1", Vec::new(), sinks(&sink), true);
        let moved = balance(&mut dataplane).expect("nothing is in the way");
        assert_eq!([dataplane.worker_stats()[0].queues.len(), dataplane.worker_stats()[1].queues.len()], [1, 2]);
        assert_eq!(moved.port, "p0");
    }
}
