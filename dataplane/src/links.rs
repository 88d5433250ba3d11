//! Links: which worker polls which receive queue of a port, from when its link comes up until it goes down.

use crate::balance::{Load, decide};
use crate::counters::QueueCounters;
use crate::worker::{Command, Queue};
use crate::{Dataplane, QueueStats, WorkerStats};
use dray_switch::egress::Egress;
use dray_switch::{Rx, Tx};
use std::sync::Arc;

/// Who polls a receive queue.
pub(crate) struct Polled {
    pub(crate) worker: usize,
    pub(crate) counters: Arc<QueueCounters>,
    /// The number of the link that it belongs to.
    pub(crate) link: u64,
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

impl Dataplane {
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

    pub(crate) fn detach(&mut self, number: u16) {
        let of_port: Vec<(u16, u16)> = self.queues.range((number, 0)..=(number, u16::MAX)).map(|(at, _)| *at).collect();
        of_port.iter().for_each(|at| drop(self.queues.remove(at)));
        self.unordered.remove(&number);
        self.workers.iter_mut().for_each(|worker| worker.say(Command::Detach { port: number }));
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
    pub(crate) fn give(&mut self, (port, index): (u16, u16), to: usize) -> Option<Moved> {
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
}
