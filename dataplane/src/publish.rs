//! From the steps of a plan to the workers' tables: what a step does not touch is taken over from the tables that they have.

use crate::Underlay;
use crate::numbers::Numbers;
use dray_config::{Action, Bridge, BridgeChange, Local, Mac, Member, StaticMac, StaticTo, ValidConfig};
use dray_switch::adjacency::{Adjacencies, Encap, Tunnel};
use dray_switch::egress::Egress;
use dray_switch::fdb::key;
use dray_switch::tables::{Group, NO_BRIDGE, Overlay, Port, PortTable, Tables};
use std::collections::{BTreeSet, HashMap, HashSet};
use std::net::Ipv4Addr;
use std::sync::Arc;

/// Names and the numbers that the tables and the FDB know them by. A number is given to another name only after the
/// FDB has forgotten the old one.
pub(crate) struct Names {
    pub(crate) ports: Numbers<String>,
    pub(crate) bridges: Numbers<String>,
    pub(crate) vteps: Numbers<Ipv4Addr>,
}

impl Default for Names {
    fn default() -> Self {
        Names {
            ports: Numbers::starting_at(0),
            bridges: Numbers::starting_at(NO_BRIDGE + 1),
            vteps: Numbers::starting_at(0),
        }
    }
}

impl Names {
    /// Where a static entry points.
    pub(crate) fn egress(&mut self, to: &StaticTo) -> Egress {
        match to {
            StaticTo::Port(member) => Egress::port(self.ports.number(&member.port), member.vlan.unwrap_or(0)),
            StaticTo::Vtep(vtep) => Egress::tunnel(self.vteps.number(vtep)),
        }
    }
}

/// What a configuration says, as far as it can't be so before all workers know it: before, one may still find or learn what was, and
/// would take a number that is another's by now for the old one's.
#[derive(Default)]
pub(crate) struct Pending {
    /// Static entries by their keys in the FDB; none: the entry goes.
    pub(crate) statics: HashMap<u64, Option<Egress>>,
    /// Places where a bridge's MACs may not be any more: members that have left.
    pub(crate) lost: HashSet<(u16, Egress)>,
    /// Bridges of which nothing is behind tunnels any more that was: they have another VNI or none.
    pub(crate) no_tunnels: HashSet<u16>,
    /// Bridges that went and came back meanwhile.
    pub(crate) emptied: HashSet<u16>,
    /// Ports that are gone, and whose numbers are to be others' when the FDB has forgotten them.
    pub(crate) ports: HashSet<String>,
    /// Bridges that are.
    pub(crate) bridges: HashSet<String>,
    /// VTEPs that are.
    pub(crate) vteps: HashSet<Ipv4Addr>,
}

/// What outer headers and next hops depend on.
#[derive(Clone, Copy, PartialEq)]
struct Seat {
    port: u16,
    mac: Mac,
    local: Local,
    gateway: Option<Ipv4Addr>,
    udp_port: u16,
}

/// What the overlay's tables were made of.
#[derive(Default)]
pub(crate) struct Made {
    seat: Option<Seat>,
    /// The list of all bridges that have none of their own, and the tunnels that this is.
    everyone: (Vec<Ipv4Addr>, Vec<Egress>),
    /// Those bridges.
    sharing: BTreeSet<u16>,
    /// What was known of the underlay.
    pub(crate) underlay: Underlay,
    /// VTEPs that the configuration names.
    named: HashSet<Ipv4Addr>,
}

impl Made {
    pub(crate) fn underlay_port(&self) -> Option<u16> {
        self.seat.map(|seat| seat.port)
    }
}

/// What has changed in a configuration.
#[derive(Clone, Copy, Debug, Default)]
pub struct Change<'a> {
    /// The steps that have made it what it is.
    pub actions: &'a [Action],
    /// VTEPs that it has come to name, in whatever place.
    pub come: &'a [Ipv4Addr],
    /// VTEPs that it does not name any more.
    pub gone: &'a [Ipv4Addr],
}

/// Tables that are being made.
pub(crate) struct Build<'a> {
    pub(crate) config: &'a ValidConfig,
    pub(crate) names: &'a mut Names,
    pub(crate) pending: &'a mut Pending,
    pub(crate) made: &'a mut Made,
    /// The tables that the workers have.
    before: &'a Tables,
    tables: Tables,
    /// Ports that are another's now.
    touched: BTreeSet<u16>,
    /// Bridges whose VNI is another one, and that: 0 for none.
    vnis: Vec<(u16, u32)>,
    /// Bridges whose groups are others.
    groups: BTreeSet<u16>,
}

impl<'a> Build<'a> {
    pub(crate) fn new(
        config: &'a ValidConfig,
        names: &'a mut Names,
        pending: &'a mut Pending,
        made: &'a mut Made,
        before: &'a Tables,
    ) -> Self {
        let (touched, groups) = Default::default();
        Build { config, names, pending, made, before, tables: before.clone(), touched, vnis: vec![], groups }
    }

    /// The tables after `change`, with what is known of the underlay if that is news.
    pub(crate) fn tables(mut self, change: Change<'_>, underlay: Option<&Underlay>) -> Tables {
        for action in change.actions {
            self.act(action);
        }
        let vteps = self.vteps(change, underlay);
        self.overlay(&vteps, underlay);
        for bridge in std::mem::take(&mut self.groups) {
            self.group(bridge);
        }
        for number in std::mem::take(&mut self.touched) {
            let at = usize::from(number);
            let bridges = std::mem::take(&mut self.tables.ports[at].bridges);
            let config = self.names.ports.name(number).and_then(|name| self.config.port(name));
            self.tables.ports[at] = match config {
                Some(config) => Port::new(bridges, config, self.before.ports.get(at)),
                None => PortTable::Unused.into(),
            };
        }
        self.tables
    }

    fn act(&mut self, action: &Action) {
        match action {
            Action::RemoveBridge { name } => {
                let Some(number) = self.names.bridges.get(name) else { return };
                let members = std::mem::take(&mut self.tables.groups[usize::from(number)].members);
                let ports = members.iter().filter(|member| !member.is_tunnel());
                ports.for_each(|member| self.leave(member.index(), member.vlan(), number));
                let vni = |encap: &Encap| encap.vnis.get(usize::from(number)).is_some_and(|vni| *vni != 0);
                if self.tables.adjacencies.encaps.iter().any(vni) {
                    self.vnis.push((number, 0));
                }
                self.made.sharing.remove(&number);
                self.pending.bridges.insert(name.clone());
            }
            Action::RemovePort { name } if self.config.port(name).is_none() => {
                let Some(number) = self.names.ports.get(name) else { return };
                self.tables.ports[usize::from(number)].bridges = PortTable::Unused;
                self.touched.insert(number);
                self.pending.ports.insert(name.clone());
            }
            Action::AddPort(port) | Action::UpdatePort { new: port, .. } => {
                let number = self.port(&port.name);
                self.touched.insert(number);
                self.pending.ports.remove(&port.name);
            }
            Action::ChangeBridge(change) => self.change_bridge(change),
            Action::AddBridge(bridge) => self.add_bridge(bridge),
            Action::RemovePort { .. } | Action::SetVxlan { .. } | Action::Restart { .. } | Action::SetKeys { .. } => {}
        }
    }

    fn change_bridge(&mut self, change: &BridgeChange) {
        let Some(number) = self.names.bridges.get(&change.bridge.name) else { return };
        for Member { port, vlan } in &change.removed {
            let Some(of) = self.names.ports.get(port) else { continue };
            let vlan = vlan.unwrap_or(0);
            self.leave(of, vlan, number);
            // What was behind a port that is gone is forgotten with it.
            if !self.pending.ports.contains(port) {
                self.pending.lost.insert((number, Egress::port(of, vlan)));
            }
        }
        for member in &change.added {
            self.join(member, number);
        }
        if change.keys.iter().any(|change| change.key == "vni") {
            self.vnis.push((number, change.bridge.vni.unwrap_or(0)));
            self.pending.no_tunnels.insert(number);
            self.groups.insert(number);
        }
        if change.peers || !change.added.is_empty() || !change.removed.is_empty() {
            self.groups.insert(number);
        }
        for entry in &change.statics_removed {
            self.pending.statics.insert(key(number, entry.mac.0), None);
        }
        self.add_statics(number, &change.statics_added);
    }

    fn add_bridge(&mut self, bridge: &Bridge) {
        let number = self.names.bridges.number(&bridge.name);
        if self.tables.groups.len() <= usize::from(number) {
            self.tables.groups.resize(usize::from(number) + 1, Group::default());
        }
        if self.pending.bridges.remove(&bridge.name) {
            self.pending.emptied.insert(number);
        }
        for member in &bridge.ports {
            self.join(member, number);
        }
        self.vnis.extend(bridge.vni.map(|vni| (number, vni)));
        self.groups.insert(number);
        self.add_statics(number, &bridge.statics);
    }

    fn add_statics(&mut self, bridge: u16, entries: &[StaticMac]) {
        for entry in entries {
            let egress = self.names.egress(&entry.to);
            self.pending.statics.insert(key(bridge, entry.mac.0), Some(egress));
        }
    }

    /// The number of a port, which has a place in the tables.
    fn port(&mut self, name: &String) -> u16 {
        let number = self.names.ports.number(name);
        if self.tables.ports.len() <= usize::from(number) {
            self.tables.ports.resize_with(usize::from(number) + 1, || PortTable::Unused.into());
        }
        number
    }

    fn join(&mut self, member: &Member, bridge: u16) {
        let (port, vlan) = (self.port(&member.port), member.vlan.unwrap_or(0));
        join(&mut self.tables.ports[usize::from(port)].bridges, vlan, bridge);
        self.touched.insert(port);
        self.pending.lost.remove(&(bridge, Egress::port(port, vlan)));
    }

    fn leave(&mut self, port: u16, vlan: u16, bridge: u16) {
        leave(&mut self.tables.ports[usize::from(port)].bridges, vlan, bridge);
        self.touched.insert(port);
    }

    /// Makes a bridge's group.
    fn group(&mut self, number: u16) {
        let Some(bridge) = self.names.bridges.name(number).and_then(|name| self.config.bridge(name)) else { return };
        let mut members: Vec<Egress> = Vec::with_capacity(bridge.ports.len());
        for Member { port, vlan } in &bridge.ports {
            members.push(Egress::port(self.names.ports.number(port), vlan.unwrap_or(0)));
        }
        if bridge.vni.is_some() {
            match &bridge.peers {
                Some(own) => members.extend(own.iter().map(|vtep| Egress::tunnel(self.names.vteps.number(vtep)))),
                None => members.extend_from_slice(&self.made.everyone.1),
            }
        }
        if bridge.vni.is_some() && bridge.peers.is_none() {
            self.made.sharing.insert(number);
        } else {
            self.made.sharing.remove(&number);
        }
        self.tables.groups[usize::from(number)] = Group { members: members.into() };
    }

    /// The VTEPs that have come and gone: named by the configuration, or learned.
    fn vteps(&mut self, change: Change<'_>, underlay: Option<&Underlay>) -> (Vec<Ipv4Addr>, Vec<Ipv4Addr>) {
        let named = &mut self.made.named;
        named.extend(change.come);
        for vtep in change.gone {
            named.remove(vtep);
        }
        let before = &self.made.underlay.learned;
        let learned = underlay.map_or(before, |underlay| &underlay.learned);
        let come = change.come.iter().chain(learned.difference(before)).copied().collect();
        let gone = change.gone.iter().chain(before.difference(learned)).copied();
        let gone: Vec<Ipv4Addr> = gone.filter(|vtep| !named.contains(vtep) && !learned.contains(vtep)).collect();
        self.pending.vteps.extend(&gone);
        (come, gone)
    }

    /// Makes what belongs to the overlay, as far as it is not what it was.
    fn overlay(&mut self, (come, gone): &(Vec<Ipv4Addr>, Vec<Ipv4Addr>), news: Option<&Underlay>) {
        for vtep in come {
            self.names.vteps.number(vtep);
            self.pending.vteps.remove(vtep);
        }
        let hops = news.map_or_else(HashSet::new, |news| changed(&self.made.underlay.neighbours, &news.neighbours));
        if let Some(news) = news {
            self.made.underlay = news.clone();
        }
        let config = self.config;
        let seat = config.vxlan.as_ref().map(|vxlan| {
            let port = self.port(&vxlan.port);
            let configured = config.port(&vxlan.port).map(|port| port.mac).unwrap_or_default();
            let mac = self.made.underlay.mac.unwrap_or(configured);
            Seat { port, mac, local: vxlan.local, gateway: vxlan.gateway, udp_port: vxlan.udp_port }
        });
        let before = std::mem::replace(&mut self.made.seat, seat);
        self.underlay_port(before.map(|seat| seat.port), seat.map(|seat| seat.port));
        let (Some(vxlan), Some(seat)) = (&config.vxlan, seat) else {
            (self.tables.adjacencies, self.tables.overlay) = (Adjacencies::default(), None);
            self.made.everyone = Default::default();
            return;
        };
        let is_new = before != Some(seat);
        let underlay = &self.made.underlay;

        let Adjacencies { encaps, tunnels } = &mut self.tables.adjacencies;
        let mut encap = match encaps.pop() {
            Some(encap) if !is_new => encap,
            old => {
                let mut encap = Encap::new(seat.port, seat.mac, seat.local.address, seat.udp_port);
                match old {
                    Some(old) => encap.vnis = old.vnis,
                    None => {
                        let all = config.bridges.iter().filter_map(|bridge| Some((&bridge.name, bridge.vni?)));
                        self.vnis = all.map(|(name, vni)| (self.names.bridges.number(name), vni)).collect();
                    }
                }
                encap
            }
        };
        encap.mtu = underlay.mtu.unwrap_or(vxlan.mtu);
        encap.vnis.resize(self.tables.groups.len(), 0);
        let old = self.tables.overlay.take();
        let (mut vnis, mut vteps) = old.map_or_else(Default::default, |old| (old.vnis, old.vteps));
        for &(bridge, vni) in &self.vnis {
            let old = std::mem::replace(&mut encap.vnis[usize::from(bridge)], vni);
            // It may be another bridge's by now.
            if old != 0 && vnis.get(old) == Some(bridge) {
                vnis.set(old, None);
            }
            if vni != 0 {
                vnis.set(vni, Some(bridge));
            }
        }

        tunnels.resize(self.names.vteps.end(), Tunnel::default());
        let is_router_new = vxlan.gateway.is_some_and(|gateway| hops.contains(&gateway));
        let tunnel = |vtep: Ipv4Addr| {
            let neighbour = vxlan.next_hop(vtep).and_then(|hop| underlay.neighbours.get(&hop));
            neighbour.map_or_else(Tunnel::default, |mac| encap.tunnel(0, vtep, *mac))
        };
        if is_new || is_router_new {
            for (vtep, number) in self.names.vteps.iter().filter(|(vtep, _)| !self.pending.vteps.contains(*vtep)) {
                tunnels[usize::from(number)] = tunnel(*vtep);
            }
        } else {
            for vtep in come.iter().chain(&hops) {
                if let Some(number) = self.names.vteps.get(vtep).filter(|_| !self.pending.vteps.contains(vtep)) {
                    tunnels[usize::from(number)] = tunnel(*vtep);
                }
            }
        }
        for number in gone.iter().filter_map(|vtep| self.names.vteps.get(vtep)) {
            tunnels[usize::from(number)] = Tunnel::default();
        }

        gone.iter().for_each(|vtep| vteps.set((*vtep).into(), None));
        for vtep in come {
            vteps.set((*vtep).into(), self.names.vteps.get(vtep));
        }
        let mut overlay = Overlay::new(seat.mac, seat.local.address, seat.udp_port);
        (overlay.learn_vteps, overlay.vnis, overlay.vteps) = (vxlan.learn_vteps, vnis, vteps);
        encaps.push(encap);
        self.tables.overlay = Some(overlay);

        if self.made.everyone.0 != vxlan.peers {
            let numbers = vxlan.peers.iter().map(|vtep| Egress::tunnel(self.names.vteps.number(vtep)));
            self.made.everyone = (vxlan.peers.clone(), numbers.collect());
            for &bridge in &self.made.sharing {
                // Its own members come first.
                let members = &mut self.tables.groups[usize::from(bridge)].members;
                let own = members.iter().take_while(|member| !member.is_tunnel());
                *members = own.chain(&self.made.everyone.1).copied().collect();
            }
        }
    }

    /// Makes the port `new` the underlay, in the place of `old`.
    fn underlay_port(&mut self, old: Option<u16>, new: Option<u16>) {
        if let Some(port) = old.filter(|old| Some(*old) != new) {
            let bridges = &mut self.tables.ports[usize::from(port)].bridges;
            if matches!(bridges, PortTable::Underlay) {
                *bridges = PortTable::Unused;
            }
            self.touched.insert(port);
        }
        if let Some(port) = new {
            let bridges = &mut self.tables.ports[usize::from(port)].bridges;
            if !matches!(bridges, PortTable::Underlay) {
                *bridges = PortTable::Underlay;
                self.touched.insert(port);
            }
        }
    }
}

/// The next hops that are another MAC's now, or nobody's.
fn changed(old: &HashMap<Ipv4Addr, Mac>, new: &HashMap<Ipv4Addr, Mac>) -> HashSet<Ipv4Addr> {
    let gone = old.keys().filter(|hop| !new.contains_key(*hop));
    let come = new.iter().filter(|(hop, mac)| old.get(*hop) != Some(*mac)).map(|(hop, _)| hop);
    gone.chain(come).copied().collect()
}

/// Puts `vlan` (0: untagged) of a port into a bridge.
fn join(port: &mut PortTable, vlan: u16, bridge: u16) {
    match port {
        // Also if it is to leave another one for that, or is not the underlay any more.
        PortTable::Unused | PortTable::Access(_) | PortTable::Underlay if vlan == 0 => {
            *port = PortTable::Access(bridge)
        }
        PortTable::Trunk(by_vlan) => Arc::make_mut(by_vlan)[usize::from(vlan)] = bridge,
        _ => {
            let mut by_vlan = [NO_BRIDGE; 4096];
            if let PortTable::Access(untagged) = port {
                by_vlan[0] = *untagged;
            }
            by_vlan[usize::from(vlan)] = bridge;
            *port = PortTable::Trunk(Arc::new(by_vlan));
        }
    }
}

/// Takes `vlan` (0: untagged) of a port out of a bridge, if it is in that.
fn leave(port: &mut PortTable, vlan: u16, bridge: u16) {
    match port {
        PortTable::Access(untagged) if vlan == 0 && *untagged == bridge => *port = PortTable::Unused,
        PortTable::Trunk(by_vlan) if by_vlan[usize::from(vlan)] == bridge => {
            let by_vlan = Arc::make_mut(by_vlan);
            by_vlan[usize::from(vlan)] = NO_BRIDGE;
            let untagged = by_vlan[0];
            if by_vlan[1..].iter().all(|bridge| *bridge == NO_BRIDGE) {
                *port = if untagged == NO_BRIDGE { PortTable::Unused } else { PortTable::Access(untagged) };
            }
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use dray_config::{Running, plan};
    use std::collections::BTreeMap;
    use std::fmt::Write;

    /// Numbers that look random, the same ones each time (Knuth's MMIX).
    struct Random(u64);

    impl Random {
        fn below(&mut self, n: u64) -> u64 {
            self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (self.0 >> 33) % n
        }

        /// Any configuration of few things, and what is known of its underlay.
        fn config(&mut self) -> (ValidConfig, Underlay) {
            let has_overlay = self.below(4) != 0;
            let mut text = String::new();
            let ports: Vec<u64> = (0..6).filter(|_| self.below(3) != 0).collect();
            for id in &ports {
                let key = self.below(3);
                let _ = write!(
                    text,
                    "[[port]]\nname = 'p{id}'\nkind = 'memif'\nsocket = '@s'\nid = {id}\nqueues = {}\n",
                    key + 1
                );
                if self.below(3) == 0 {
                    let _ = writeln!(text, "max-broadcast = {}", self.below(3) + 1);
                }
            }
            let underlay = ports.first().filter(|_| has_overlay);
            let bridges: Vec<u64> = (0..5).filter(|_| self.below(3) != 0).collect();
            let mut members: BTreeMap<u64, Vec<(u64, u64)>> = BTreeMap::new();
            for port in ports.iter().skip(usize::from(underlay.is_some())) {
                for vlan in [0, 7, 4094] {
                    if self.below(2) == 0 && !bridges.is_empty() {
                        let bridge = bridges[self.below(bridges.len() as u64) as usize];
                        members.entry(bridge).or_default().push((*port, vlan));
                    }
                }
            }
            let vtep = |n: u64| format!("'10.9.{}.{}'", n % 2, n + 2);
            for bridge in &bridges {
                let _ = writeln!(text, "[[bridge]]\nname = 'b{bridge}'");
                let vlan = |vlan: u64| if vlan == 0 { String::new() } else { format!(", vlan = {vlan}") };
                let of_bridge = members.remove(bridge).unwrap_or_default();
                let member = |&(port, of): &(u64, u64)| format!("{{ port = 'p{port}'{} }}", vlan(of));
                let _ = writeln!(text, "ports = [{}]", of_bridge.iter().map(member).collect::<Vec<_>>().join(", "));
                let mut statics = Vec::new();
                for (n, (port, of)) in of_bridge.iter().enumerate().filter(|_| self.below(2) == 0).collect::<Vec<_>>() {
                    statics.push(format!("{{ mac = '02:00:00:00:00:0{n}', port = 'p{port}'{} }}", vlan(*of)));
                }
                if underlay.is_some() && self.below(3) != 0 {
                    let _ = writeln!(text, "vni = {}", bridge + 1 + 5 * self.below(2));
                    if self.below(2) == 0 {
                        let _ = writeln!(text, "peers = [{}]", vtep(self.below(4)));
                    }
                    let to = vtep(self.below(6));
                    statics.push(format!("{{ mac = '02:00:00:00:01:00', vtep = {to} }}"));
                }
                let _ = writeln!(text, "static = [{}]", statics.join(", "));
            }
            let mut known = Underlay::default();
            if let Some(port) = underlay {
                let peers: Vec<String> = (0..4).filter(|_| self.below(2) == 0).map(vtep).collect();
                let local = 100 + self.below(2);
                let _ = write!(
                    text,
                    "[vxlan]\nport = 'p{port}'\nlocal = '10.9.0.{local}/24'\ngateway = '10.9.0.254'\npeers = [{}]\n",
                    peers.join(", ")
                );
                for host in (2..8).chain([254]).filter(|_| self.below(3) != 0).collect::<Vec<_>>() {
                    known
                        .neighbours
                        .insert(Ipv4Addr::new(10, 9, 0, host), Mac([2, 1, 0, 0, self.below(2) as u8, host]));
                }
                known.learned =
                    (0..3).filter(|_| self.below(2) == 0).map(|n| Ipv4Addr::new(10, 9, 0, 50 + n)).collect();
            }
            (dray_config::parse_for("test", &text, &[0]).unwrap_or_else(|errors| panic!("{errors}\n{text}")), known)
        }
    }

    /// What tables were made of, one after the other, and what the FDB would have of static entries.
    #[derive(Default)]
    struct State {
        names: Names,
        made: Made,
        tables: Tables,
        statics: BTreeMap<String, String>,
    }

    impl State {
        fn change_to(&mut self, old: &ValidConfig, new: &ValidConfig, underlay: &Underlay) {
            let mut running = Running::new(old.clone());
            let actions = plan(old, new);
            running.perform(&actions);
            let (come, gone) = running.take_vteps();
            let mut pending = Pending::default();
            let change = Change { actions: &actions, come: &come, gone: &gone };
            let build = Build::new(new, &mut self.names, &mut pending, &mut self.made, &self.tables);
            self.tables = build.tables(change, Some(underlay));
            for name in &pending.bridges {
                let number = self.names.bridges.get(name).unwrap();
                self.statics.retain(|at, _| !at.starts_with(&format!("b{number} ")));
            }
            for (key, egress) in pending.statics {
                let at = format!("b{} {key:x}", key >> 48);
                match egress {
                    Some(egress) => drop(self.statics.insert(at, self.place(egress))),
                    None => drop(self.statics.remove(&at)),
                }
            }
            let ports: Vec<u16> = pending.ports.iter().filter_map(|name| self.names.ports.forget(name)).collect();
            ports.into_iter().for_each(|number| self.names.ports.release(number));
            let bridges: Vec<u16> = pending.bridges.iter().filter_map(|name| self.names.bridges.forget(name)).collect();
            bridges.into_iter().for_each(|number| self.names.bridges.release(number));
            let vteps: Vec<u16> = pending.vteps.iter().filter_map(|vtep| self.names.vteps.forget(vtep)).collect();
            vteps.into_iter().for_each(|number| self.names.vteps.release(number));
        }

        fn place(&self, egress: Egress) -> String {
            if egress.is_tunnel() {
                format!("vtep {:?}", self.names.vteps.name(egress.index()))
            } else {
                format!("port {:?} {}", self.names.ports.name(egress.index()), egress.vlan())
            }
        }

        /// All that frames are switched by, with names in the place of numbers.
        fn seen(&self) -> Vec<String> {
            let mut lines = Vec::new();
            let bridge = |number: &u16| format!("{:?}", self.names.bridges.name(*number));
            for (name, number) in self.names.ports.iter() {
                let port = &self.tables.ports[usize::from(number)];
                let bridges = match &port.bridges {
                    PortTable::Unused => "unused".into(),
                    PortTable::Underlay => "underlay".into(),
                    PortTable::Access(number) => bridge(number),
                    PortTable::Trunk(by_vlan) => {
                        let used = by_vlan.iter().enumerate().filter(|(_, number)| **number != NO_BRIDGE);
                        used.map(|(vlan, number)| format!("{vlan} {}", bridge(number))).collect::<Vec<_>>().join(",")
                    }
                };
                lines.push(format!("{name}: {bridges}"));
            }
            let encap = self.tables.adjacencies.encaps.first();
            for (name, number) in self.names.bridges.iter() {
                let members = &self.tables.groups[usize::from(number)].members;
                let mut members: Vec<String> = members.iter().map(|member| self.place(*member)).collect();
                members.sort();
                let vni = encap.map_or(0, |encap| encap.vnis[usize::from(number)]);
                let back = self.tables.overlay.as_ref().and_then(|overlay| overlay.vnis.get(vni)).filter(|_| vni != 0);
                lines.push(format!("{name}: {members:?} vni {vni} {:?}", back.map(|number| bridge(&number))));
                let of_bridge = format!("b{number} ");
                let statics = self.statics.iter().filter(|(at, _)| at.starts_with(&of_bridge));
                // Without the bridge's number.
                lines.extend(statics.map(|(at, place)| format!("{name}: {} at {place}", &at[at.len() - 12..])));
            }
            for (vtep, number) in self.names.vteps.iter() {
                let tunnel = self.tables.adjacencies.tunnels.get(usize::from(number));
                let mut headers = [0; 50];
                if let (Some(encap), Some(tunnel)) = (encap, tunnel.filter(|tunnel| tunnel.sum.is_some())) {
                    encap.write_headers(tunnel, &mut headers);
                }
                let known = self.tables.overlay.as_ref().and_then(|overlay| overlay.vteps.get((*vtep).into()));
                lines.push(format!("{vtep}: {headers:?} {}", known == Some(number)));
            }
            lines.push(format!("{:?}", encap.map(|encap| (self.names.ports.name(encap.port), encap.mtu))));
            lines.sort();
            lines
        }
    }

    #[test]
    fn step_by_step_the_tables_are_what_they_are_at_once() {
        let mut random = Random(1);
        let nothing = dray_config::parse_for("nothing", "", &[0]).unwrap();
        for _ in 0..40 {
            let (mut state, mut config) = (State::default(), nothing.clone());
            for _ in 0..15 {
                let (new, underlay) = random.config();
                state.change_to(&config, &new, &underlay);
                let mut at_once = State::default();
                at_once.change_to(&nothing, &new, &underlay);
                assert_eq!(
                    state.seen(),
                    at_once.seen(),
                    "{}\nto\n{}",
                    dray_config::render(&config),
                    dray_config::render(&new)
                );
                config = new;
            }
        }
    }
}
