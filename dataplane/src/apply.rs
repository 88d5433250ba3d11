//! A configuration becomes the workers' tables: they are given the new ones, and what may only be done when all have taken
//! them up is done when the last one has.

use crate::handle::Handle;
use crate::publish::{self, Compiled, Places};
use crate::worker::Command;
use crate::{Dataplane, MAX_PORTS};
use dray_config::{Mac, ValidConfig};
use dray_switch::egress::Egress;
use std::collections::{BTreeSet, HashMap, HashSet};
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long a change waits for the workers to take it up. One that is not done by then does it later, and is not waited for any more
/// until it has.
const WAIT: Duration = Duration::from_millis(100);

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

/// What a configuration says, as far as it can't be so before all workers know it: before, one may still find or learn what was, and
/// would take a number that is another's by now for the old one's.
pub(crate) struct Pending {
    places: Places,
    pub(crate) statics: HashMap<u64, Egress>,
    /// Whether any place was taken away.
    lost: bool,
    ports: HashSet<String>,
    bridges: HashSet<String>,
    vteps: HashSet<Ipv4Addr>,
}

impl Dataplane {
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
    pub(crate) fn settle(&mut self) {
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
    pub(crate) fn is_settled(&self) -> bool {
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
}
