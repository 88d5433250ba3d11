//! The FDB by names: its entries, and what the control thread adds, removes, forgets and lets age.

use crate::Dataplane;
use dray_config::{Mac, StaticTo};
use dray_switch::egress::Egress;
use dray_switch::fdb::key;
use dray_switch::tables::Port;
use std::collections::{HashMap, HashSet};
use std::net::Ipv4Addr;

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

/// What the FDB is to know nothing of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Forgotten {
    /// What was learned behind a port.
    Port(u16),
    /// What was learned behind a VTEP.
    Tunnel(u16),
    /// All of a bridge.
    Bridge(u16),
}

/// Something that is being forgotten.
pub(crate) struct Forgetting {
    what: Forgotten,
    /// How many buckets of the FDB are still to be searched for it.
    left: usize,
    /// Whether its number is nobody's any more.
    is_gone: bool,
}

/// In how many steps, one a [`Dataplane::tick`], the whole FDB is searched for old entries that are forgotten after `ageing` seconds: so
/// that it takes an eighth of that time, but no more than a minute. A worker that has to share its CPU waits for as long as a step takes.
pub(crate) fn ageing_parts(ageing: u16) -> usize {
    let seconds = (usize::from(ageing) / 8).clamp(2, 60);
    seconds * 1000 / Dataplane::TICK.as_millis() as usize
}

impl Dataplane {
    /// Forgets what was learned behind a port: its link is down, and its stations may be back behind another one. Static entries stay;
    /// so does what is behind tunnels, for VTEPs stay where they are when the underlay's link is down.
    pub fn forget(&mut self, port: &str) {
        if let Some(number) = self.names.ports.get(port) {
            self.forget_place(number);
        }
    }

    pub(crate) fn forget_place(&mut self, number: u16) {
        if self.fdb.learned(Egress::port(number, 0)) != 0 {
            self.begin(Forgetting { what: Forgotten::Port(number), left: self.fdb.buckets(), is_gone: false });
        }
    }

    /// Forgets all of what nobody has any more, whose number is somebody else's then.
    pub(crate) fn forget_all(&mut self, what: Forgotten) {
        self.begin(Forgetting { what, left: self.fdb.buckets(), is_gone: true });
    }

    fn begin(&mut self, new: Forgetting) {
        let Forgetting { what, is_gone, .. } = new;
        self.forgetting.retain(|other| other.what != what);
        if !self.is_there(what) {
            if is_gone {
                self.release(what);
            }
            return;
        }
        let is_first = self.forgetting.is_empty();
        self.forgetting.push(new);
        // Who comes and goes without end does not keep us: all that are to be forgotten are searched for together. For what is gone
        // nobody looks any more.
        if is_first && !is_gone {
            self.forget_some();
        }
    }

    /// Whether the FDB may have something of it.
    fn is_there(&self, what: Forgotten) -> bool {
        match what {
            Forgotten::Port(number) => self.fdb.learned(Egress::port(number, 0)) != 0,
            Forgotten::Tunnel(number) => self.fdb.learned(Egress::tunnel(number)) != 0,
            Forgotten::Bridge(_) => self.fdb.used() != 0,
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
        let (mut places, mut bridges) = (Vec::new(), Vec::new());
        for Forgetting { what, .. } in &self.forgetting {
            match *what {
                Forgotten::Port(number) => places.push(Egress::port(number, 0)),
                Forgotten::Tunnel(number) => places.push(Egress::tunnel(number)),
                Forgotten::Bridge(number) => bridges.push(number),
            }
        }
        self.fdb.forget(from..to, &places, &bridges);
        self.bucket = if to == self.fdb.buckets() { 0 } else { to };
        let (mut left, mut done) = (Vec::new(), Vec::new());
        for mut forgetting in std::mem::take(&mut self.forgetting) {
            forgetting.left = forgetting.left.saturating_sub(to - from);
            let is_done = forgetting.left == 0 || !self.is_there(forgetting.what);
            if is_done { &mut done } else { &mut left }.push(forgetting);
        }
        self.forgetting = left;
        for Forgetting { what, is_gone, .. } in done {
            if is_gone {
                self.release(what);
            }
        }
    }

    /// Forgets until that is `enough`, or there is nothing more to be forgotten.
    pub(crate) fn forget_until(&mut self, enough: impl Fn(&Dataplane) -> bool) {
        while !enough(self) && self.is_forgetting() {
            self.forget_some();
        }
    }

    /// A number may be somebody else's.
    fn release(&mut self, what: Forgotten) {
        match what {
            Forgotten::Port(number) => {
                self.retired.merge(&self.counts(number));
                self.lost.remove(&number);
                self.workers.iter().for_each(|w| w.counters.ports[usize::from(number)].clear());
                self.names.ports.release(number);
            }
            Forgotten::Bridge(number) => self.names.bridges.release(number),
            Forgotten::Tunnel(number) => self.names.vteps.release(number),
        }
    }

    /// Numbers of ports that are gone and still counted.
    pub(crate) fn gone_ports(&self) -> impl Iterator<Item = u16> {
        self.forgetting.iter().filter_map(|forgetting| match forgetting.what {
            Forgotten::Port(number) if forgetting.is_gone => Some(number),
            _ => None,
        })
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
        let pending = self.pending.as_mut().and_then(|pending| pending.statics.remove(&key));
        self.fdb.remove(key) || matches!(pending, Some(Some(_)))
    }

    /// Adds a static entry or gives it a new place, which is as [`Dataplane::apply`] would take it. If that is a VTEP that no
    /// configuration has named so far, its frames are dropped until one does. False if the FDB has no room.
    pub fn fdb_set(&mut self, bridge: &str, mac: Mac, to: &StaticTo) -> bool {
        let Some(number) = self.names.bridges.get(bridge) else { return false };
        let (key, egress) = (key(number, mac.0), self.names.egress(to));
        let is_set = self.fdb.set_static(key, egress);
        if is_set && let Some(pending) = &mut self.pending {
            pending.statics.remove(&key);
        }
        is_set
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fdb_is_searched_in_an_eighth_of_the_ageing_time() {
        let seconds = [1, 16, 300, 480, 32_767].map(|ageing| ageing_parts(ageing) as f64 / 10.0);
        assert_eq!(seconds, [2.0, 2.0, 37.0, 60.0, 60.0]);
    }
}
