//! A configuration becomes the workers' tables: they are given the new ones, and what may only be done when all have taken
//! them up is done when the last one has.

use crate::fdb::Forgotten;
use crate::handle::Handle;
use crate::publish::{Build, Change, Pending};
use crate::worker::Command;
use crate::{Dataplane, MAX_PORTS};
use dray_config::schema::MAX_VTEPS;
use dray_config::{Action, Mac, ValidConfig};
use dray_switch::egress::Egress;
use std::collections::{BTreeSet, HashMap};
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long a change waits for the workers to take it up. One that is not done by then does it later, and is not waited for any more
/// until it has.
const WAIT: Duration = Duration::from_millis(100);

/// At most so many VTEPs are learned at a time.
const MAX_LEARNED: usize = 4096;

/// What the control thread has found out about the underlay.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Underlay {
    /// Resolved next hops.
    pub neighbours: HashMap<Ipv4Addr, Mac>,
    /// VTEPs that are not configured but were heard (`learn-vteps`).
    pub learned: BTreeSet<Ipv4Addr>,
    /// The underlay port's MAC if the device keeps its own rather than the configured one.
    pub mac: Option<Mac>,
    /// The longest packet that the underlay's device carries, bytes, if that is less than its port may have.
    pub mtu: Option<u16>,
}

impl Dataplane {
    /// Whether there are numbers for the ports that `actions` open, beside those of ports that are gone and that a worker may still know.
    ///
    /// # Errors
    /// There are not.
    pub fn has_room(&mut self, actions: &[Action]) -> Result<(), String> {
        let is_new =
            |action: &&Action| matches!(action, Action::AddPort(port) if self.names.ports.get(&port.name).is_none());
        let new = actions.iter().filter(is_new).count();
        self.forget_until(|dataplane| dataplane.names.ports.used() + new <= MAX_PORTS);
        let known = self.names.ports.used();
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

    /// Makes `config`, which `change` has made what it is, and what is known of the underlay, if that is news, the workers' tables.
    /// Ports that are not in it any more lose their queues first. When all workers use the new tables, which is mostly when this returns,
    /// the FDB leads nowhere that contradicts them; what it has of ports, bridges and VTEPs that are gone is forgotten bit by bit
    /// ([`Dataplane::forget_some`]), and until then their numbers are nobody's. Nothing else is disturbed.
    pub fn apply(&mut self, config: &ValidConfig, change: Change<'_>, underlay: Option<&Underlay>) {
        // Numbers are of 16 bits.
        let most = usize::from(u16::MAX) - MAX_VTEPS - MAX_LEARNED;
        self.forget_until(|dataplane| dataplane.names.vteps.used().max(dataplane.names.bridges.used()) < most);
        let gone = change.actions.iter().filter_map(|action| match action {
            Action::RemovePort { name } if config.port(name).is_none() => self.names.ports.get(name),
            _ => None,
        });
        let gone: Vec<u16> = gone.collect();
        gone.iter().for_each(|&number| self.detach(number));
        let underlay_port = self.made.underlay_port().and_then(|number| self.names.ports.name(number).cloned());
        let pending = self.pending.get_or_insert_default();
        let build = Build::new(config, &mut self.names, pending, &mut self.made, &self.tables);
        self.tables = Arc::new(build.tables(change, underlay));
        self.set_limits(config, change.actions, underlay_port.as_deref());
        self.workers.iter_mut().for_each(|worker| worker.say(Command::Publish(self.tables.clone())));
        self.ageing = config.fdb.ageing;
        self.settle();
        if self.pending.is_some() {
            // What is behind ports that are gone is searched for again when nothing leads there any more.
            gone.into_iter().for_each(|number| self.forget_place(number));
        }
    }

    /// How many MACs may be learned behind the ports that have changed. `underlay`: which was the underlay so far.
    fn set_limits(&self, config: &ValidConfig, actions: &[Action], underlay: Option<&str>) {
        let limit = |name: &str| {
            let (Some(port), Some(number)) = (config.port(name), self.names.ports.get(name)) else { return };
            let place = if config.is_underlay(name) { Egress::tunnel(0) } else { Egress::port(number, 0) };
            self.fdb.set_limit(place, port.max_macs as usize);
        };
        for action in actions {
            match action {
                Action::AddPort(port) | Action::UpdatePort { new: port, .. } => limit(&port.name),
                Action::SetVxlan { new, .. } => {
                    new.iter().map(|vxlan| vxlan.port.as_str()).chain(underlay).for_each(limit);
                }
                _ => {}
            }
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
        let Pending { statics, lost, no_tunnels, emptied, ports, bridges, vteps } = pending;
        let is_learned = |place: Egress| self.fdb.learned(place) != 0;
        let has_lost = lost.iter().any(|(_, place)| is_learned(*place));
        if has_lost || !emptied.is_empty() || !no_tunnels.is_empty() && is_learned(Egress::tunnel(0)) {
            self.fdb.flush(|e| {
                emptied.contains(&e.bridge)
                    || lost.contains(&(e.bridge, e.egress))
                    || e.egress.is_tunnel() && no_tunnels.contains(&e.bridge)
            });
        }
        for (key, egress) in statics {
            match egress {
                Some(egress) => drop(self.fdb.set_static(key, egress)),
                None => drop(self.fdb.remove(key)),
            }
        }
        let ports: Vec<u16> = ports.iter().filter_map(|name| self.names.ports.forget(name)).collect();
        let bridges: Vec<u16> = bridges.iter().filter_map(|name| self.names.bridges.forget(name)).collect();
        let vteps: Vec<u16> = vteps.iter().filter_map(|vtep| self.names.vteps.forget(vtep)).collect();
        self.again.retain(|number| !ports.contains(number));
        ports.into_iter().for_each(|number| self.forget_all(Forgotten::Port(number)));
        bridges.into_iter().for_each(|number| self.forget_all(Forgotten::Bridge(number)));
        vteps.into_iter().for_each(|number| self.forget_all(Forgotten::Tunnel(number)));
    }
}
