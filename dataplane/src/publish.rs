//! From the validated configuration to the workers' tables.

use crate::Underlay;
use crate::numbers::Numbers;
use dray_config::{StaticTo, ValidConfig};
use dray_switch::adjacency::{Adjacencies, Encap, Tunnel};
use dray_switch::egress::Egress;
use dray_switch::fdb::key;
use dray_switch::tables::{Group, IntMap, NO_BRIDGE, Overlay, Port, PortTable, Tables};
use std::collections::{HashMap, HashSet};
use std::net::Ipv4Addr;

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

/// What a configuration comes down to.
pub(crate) struct Compiled {
    pub(crate) tables: Tables,
    /// What the FDB may hold.
    pub(crate) places: Places,
    /// Static entries: key and place.
    pub(crate) statics: HashMap<u64, Egress>,
}

/// The places where a bridge's MACs may be: its members, and, if it has a VNI, every tunnel. Thousands of bridges and of
/// tunnels are millions of pairs, so only their numbers are kept.
#[derive(Default)]
pub(crate) struct Places {
    members: HashSet<(u16, Egress)>,
    /// Bridges with a VNI.
    overlay: HashSet<u16>,
    /// Numbers of tunnels.
    tunnels: HashSet<u16>,
}

impl Places {
    pub(crate) fn contains(&self, bridge: u16, egress: Egress) -> bool {
        if egress.is_tunnel() {
            self.overlay.contains(&bridge) && self.tunnels.contains(&egress.index())
        } else {
            self.members.contains(&(bridge, egress))
        }
    }

    /// Whether all of these are in `other`.
    pub(crate) fn is_subset(&self, other: &Places) -> bool {
        let no_pairs = self.overlay.is_empty() || self.tunnels.is_empty();
        self.members.is_subset(&other.members)
            && (no_pairs || self.overlay.is_subset(&other.overlay) && self.tunnels.is_subset(&other.tunnels))
    }
}

/// Builds the tables that are to take the place of `before`, giving numbers to names that have none yet.
pub(crate) fn compile(config: &ValidConfig, underlay: &Underlay, names: &mut Names, before: &Tables) -> Compiled {
    let mut ports = vec![PortTable::Unused; names.ports.end()];
    let mut configured = HashMap::new();
    for port in &config.ports {
        let number = names.ports.number(&port.name) as usize;
        ports.resize(ports.len().max(number + 1), PortTable::Unused);
        configured.insert(number, port);
    }
    let mut groups = vec![Group::default(); names.bridges.end()];
    let mut places = Places::default();
    let mut statics = HashMap::new();
    let mut vnis = Vec::new();

    let vteps: HashSet<Ipv4Addr> = config.vteps().into_iter().chain(underlay.learned.iter().copied()).collect();
    places.tunnels = vteps.iter().map(|vtep| names.vteps.number(vtep)).collect();
    // The list of all bridges that have none of their own.
    let everyone: Vec<Egress> =
        config.vxlan.iter().flat_map(|v| &v.peers).map(|vtep| Egress::tunnel(names.vteps.number(vtep))).collect();
    for bridge in &config.bridges {
        let number = names.bridges.number(&bridge.name);
        groups.resize(groups.len().max(number as usize + 1), Group::default());
        let Group { members } = &mut groups[number as usize];
        for member in &bridge.ports {
            let port = names.ports.number(&member.port);
            let vlan = member.vlan.unwrap_or(0);
            join(&mut ports[port as usize], vlan, number);
            members.push(Egress::port(port, vlan));
            places.members.insert((number, Egress::port(port, vlan)));
        }
        if let Some(vni) = bridge.vni {
            vnis.push((vni, number));
            match &bridge.peers {
                Some(own) => members.extend(own.iter().map(|vtep| Egress::tunnel(names.vteps.number(vtep)))),
                None => members.extend_from_slice(&everyone),
            }
            places.overlay.insert(number);
        }
        for entry in &bridge.statics {
            statics.insert(key(number, entry.mac.0), names.egress(&entry.to));
        }
    }
    let mut adjacencies = Adjacencies::default();
    let overlay = config.vxlan.as_ref().map(|vxlan| {
        let port = names.ports.number(&vxlan.port);
        ports[port as usize] = PortTable::Underlay;
        let mac = config.ports.iter().find(|p| p.name == vxlan.port).map(|p| underlay.mac.unwrap_or(p.mac));
        let mac = mac.expect("the underlay port is a configured port");

        let mut encap = Encap::new(port, mac, vxlan.local.address, vxlan.udp_port);
        encap.mtu = vxlan.mtu;
        encap.vnis.resize(groups.len(), 0);
        vnis.iter().for_each(|&(vni, bridge)| encap.vnis[bridge as usize] = vni);
        adjacencies.tunnels.resize(names.vteps.end(), Tunnel::default());
        for &vtep in &vteps {
            let neighbour = vxlan.next_hop(vtep).and_then(|hop| underlay.neighbours.get(&hop));
            if let Some(&neighbour) = neighbour {
                adjacencies.tunnels[names.vteps.number(&vtep) as usize] = encap.tunnel(0, vtep, neighbour);
            }
        }
        adjacencies.encaps.push(encap);

        let mut overlay = Overlay::new(mac, vxlan.local.address, vxlan.udp_port);
        overlay.learn_vteps = vxlan.learn_vteps;
        overlay.vnis = IntMap::new(vnis.into_iter());
        overlay.vteps = IntMap::new(vteps.iter().map(|&v| (v.into(), names.vteps.number(&v))));
        overlay
    });
    let ports = ports.into_iter().enumerate().map(|(number, bridges)| match configured.get(&number) {
        Some(config) => Port::new(bridges, config, before.ports.get(number)),
        None => bridges.into(),
    });
    let ports = ports.collect();
    Compiled { tables: Tables { ports, groups, adjacencies, overlay }, places, statics }
}

/// Puts `vlan` (0: untagged) of a port into a bridge.
fn join(port: &mut PortTable, vlan: u16, bridge: u16) {
    if let (PortTable::Unused, 0) = (&*port, vlan) {
        *port = PortTable::Access(bridge);
        return;
    }
    let mut by_vlan = match std::mem::take(port) {
        PortTable::Trunk(by_vlan) => by_vlan,
        PortTable::Access(untagged) => {
            let mut by_vlan = Box::new([NO_BRIDGE; 4096]);
            by_vlan[0] = untagged;
            by_vlan
        }
        _ => Box::new([NO_BRIDGE; 4096]),
    };
    by_vlan[vlan as usize] = bridge;
    *port = PortTable::Trunk(by_vlan);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_members_and_pairs_of_bridge_and_tunnel() {
        let places = |members: &[u16], overlay: &[u16], tunnels: &[u16]| Places {
            members: members.iter().map(|&port| (1, Egress::port(port, 0))).collect(),
            overlay: overlay.iter().copied().collect(),
            tunnels: tunnels.iter().copied().collect(),
        };
        let some = places(&[1, 2], &[1, 2], &[5, 6]);
        assert!(some.contains(1, Egress::port(2, 0)) && !some.contains(2, Egress::port(2, 0)));
        assert!(!some.contains(1, Egress::port(2, 7)));
        assert!(some.contains(2, Egress::tunnel(6)) && !some.contains(3, Egress::tunnel(6)));
        assert!(!some.contains(2, Egress::tunnel(7)));
        for (of, is_subset) in [
            (places(&[1], &[1], &[5]), true),
            (places(&[1, 3], &[1], &[5]), false),
            (places(&[1], &[1, 3], &[5]), false),
            (places(&[1], &[1], &[5, 7]), false),
            // No pair is no place, whatever the numbers are.
            (places(&[], &[3], &[]), true),
            (places(&[], &[], &[7]), true),
        ] {
            assert_eq!(of.is_subset(&some), is_subset);
        }
    }
}
