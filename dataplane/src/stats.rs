//! What workers, their queues and the ports have done, read from the counters that the workers write.

use crate::Dataplane;
use crate::counters::{DeviceLosses, ITSELF, PortCounts};
use crate::handle::Handle;
use crate::links::Polled;
use dray_switch::clock::{Stage, StageTime};
use std::time::Duration;

/// What a worker has done since it started.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WorkerStats {
    /// The CPU it is pinned to.
    pub cpu: usize,
    /// Receive queues it polls, in the order of port name and index.
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
        let mut queues = self.queues.clone();
        for now in &mut queues {
            // What it did on another worker is not known here.
            if let Some(then) = before.queue(&now.port, now.index).filter(|then| then.link == now.link) {
                now.packets = now.packets.saturating_sub(then.packets);
                now.ticks = now.ticks.saturating_sub(then.ticks);
            } else {
                (now.packets, now.ticks) = (0, 0);
            }
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

    /// The receive queue `index` of `port`, if it polls that.
    pub fn queue(&self, port: &str, index: u16) -> Option<&QueueStats> {
        let at = self.queues.binary_search_by(|queue| (queue.port.as_str(), queue.index).cmp(&(port, index)));
        at.ok().map(|at| &self.queues[at])
    }

    /// Share of the time spent on bursts, 0..=1.
    pub fn busy(&self) -> f64 {
        (self.busy_ticks as f64 / self.total_ticks.max(1) as f64).clamp(0.0, 1.0)
    }
}

impl Dataplane {
    /// A port's counts.
    pub fn port_counts(&self, port: &str) -> Option<PortCounts> {
        self.names.ports.get(port).map(|number| self.counts(number))
    }

    pub(crate) fn counts(&self, number: u16) -> PortCounts {
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
        total.merge(&self.counts(ITSELF));
        let numbers = self.names.ports.iter().map(|(_, number)| number).chain(self.gone_ports());
        numbers.for_each(|number| total.merge(&self.counts(number)));
        total
    }

    /// Of each worker, by its CPU: for how long it has not run, if that is a second or more.
    pub fn silence(&self) -> impl Iterator<Item = (usize, Option<Duration>)> {
        self.workers.iter().map(|w| (w.cpu, w.silence()))
    }

    /// What each worker has done.
    pub fn worker_stats(&self) -> Vec<WorkerStats> {
        let now = dray_switch::mem::ticks();
        let stats = |(n, w): (usize, &Handle)| {
            let polled = self.queues.iter().filter(|(_, queue)| queue.worker == n);
            let queue = |(&(port, index), queue): (&(u16, u16), &Polled)| QueueStats {
                port: self.names.ports.name(port).cloned().unwrap_or_default(),
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
}
