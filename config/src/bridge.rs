//! `[[bridge]]`: bridges, their members and static entries.

use crate::error::{Report, quote, suggest};
use crate::read::{Reader, Table, show};
use crate::schema::{self, DESCRIPTION, MAC, NAME, PEERS, REQUIRED, Section, VLAN, Value, key};
use crate::validate::{Places, first_use};
use crate::value::{address, description, unicast};
use crate::vxlan::check_peer;
use crate::{Mac, Member, ValidConfig};
use std::collections::HashMap;
use std::net::Ipv4Addr;
use std::ops::Range;
use toml::de::DeValue;

type Span = Range<usize>;

/// `[[bridge]]`
#[derive(Clone, Debug, PartialEq)]
pub struct Bridge {
    /// Unique name.
    pub name: String,
    /// What people call it.
    pub description: Option<String>,
    /// VXLAN network identifier, 1..=16,777,215, if the bridge joins the overlay.
    pub vni: Option<u32>,
    /// Members.
    pub ports: Vec<Member>,
    /// Head-end replication list of this bridge; the overlay's if absent. IPv4 so far.
    pub peers: Option<Vec<Ipv4Addr>>,
    /// Static FDB entries.
    pub statics: Vec<StaticMac>,
}

/// A static FDB entry.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct StaticMac {
    /// The unicast MAC address.
    pub mac: Mac,
    /// Where it is.
    pub to: StaticTo,
}

/// Where a static MAC is.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum StaticTo {
    /// Behind a member port (and its VLAN, if that port is several members).
    Port(Member),
    /// Behind a VTEP of the bridge's head-end replication list or any other address.
    Vtep(Ipv4Addr),
}

/// `[[bridge]]`
pub static BRIDGE: Section = Section {
    header: "[[bridge]]",
    meaning: "A learning bridge. At most 4096.",
    keys: &[
        key("name", NAME, REQUIRED, "Its name in commands."),
        key("description", DESCRIPTION, "none", "What people call it: `dray bridge show` has it."),
        key(
            "vni",
            Value::Integer(1, 16_777_215),
            "none",
            "VXLAN network identifier, unique. With it the bridge joins the overlay; needs `[vxlan]`.",
        ),
        key(
            "ports",
            Value::Array("port names (untagged), or `{ port, vlan }`"),
            "[]",
            "Its members. A port is untagged in at most one bridge, and each of its VLANs is in at most one.",
        ),
        key(
            "peers",
            PEERS,
            "those of `[vxlan]`",
            "Head-end replication list of this bridge: VTEPs that get its broadcasts. Needs `vni`.",
        ),
        key("static", Value::Array("tables `{ mac, port, vlan }` or `{ mac, vtep }`"), "[]", "Static FDB entries."),
    ],
};

/// An entry of `ports` in `[[bridge]]`.
pub static MEMBER: Section = Section {
    header: "`ports` of `[[bridge]]`",
    meaning: "A member. The string `\"web\"` is short for `{ port = \"web\" }`.",
    keys: &[
        key("port", Value::String("the name of a `[[port]]`"), REQUIRED, "The port."),
        key("vlan", VLAN, "untagged", "The VLAN that is this bridge on that port. Its tag is popped and pushed."),
    ],
};

/// An entry of `static` in `[[bridge]]`.
pub static STATIC: Section = Section {
    header: "`static` of `[[bridge]]`",
    meaning: "A MAC address that is not learned and does not age. It has either `port` or `vtep`.",
    keys: &[
        key("mac", MAC, REQUIRED, "The address, once in a bridge."),
        key("port", Value::String("a member of the bridge"), "none", "The port it is behind."),
        key("vlan", VLAN, "the port's only membership", "Which of the port's memberships, if it has several."),
        key("vtep", Value::String("an IPv4 address"), "none", "The VTEP it is behind. Needs `vni`."),
    ],
};

#[derive(Default)]
pub(crate) struct BridgePlaces {
    pub name: Option<Span>,
    pub has_vni: bool,
    pub vni: Option<Span>,
    /// As [`Bridge::ports`].
    pub ports: Vec<Span>,
    pub peers_key: Option<Span>,
    /// As [`Bridge::peers`].
    pub peers: Vec<Span>,
    /// As [`Bridge::statics`].
    pub statics: Vec<StaticPlaces>,
}

pub(crate) struct StaticPlaces {
    pub mac: Span,
    pub to: Span,
}

impl Reader {
    pub(crate) fn bridge(&mut self, mut t: Table<'_>) -> (Bridge, BridgePlaces) {
        let (name, name_place) = self.name(&mut t);
        self.unknown_keys(&t);
        let description = self.string(&t, "description", description).0;
        let (vni, vni_place) = self.integer(&t, "vni", 0);
        let mut place =
            BridgePlaces { name: name_place, has_vni: t.has("vni"), vni: vni_place.clone(), ..BridgePlaces::default() };

        let mut ports = Vec::new();
        for item in self.array(&t, "ports").unwrap_or_default() {
            let (port, vlan, span) = match item.get_ref() {
                DeValue::String(port) => (Some(port.to_string()), Some(None), item.span()),
                DeValue::Table(_) => {
                    let Some(m) = self.inline(item, &schema::MEMBER, &t) else { continue };
                    let (port, span) = self.string(&m, "port", |s| Ok(s.to_string()));
                    (port, self.vlan(&m), span.unwrap_or_else(|| item.span()))
                }
                other => {
                    self.report.add(&item.span(), || {
                        format!("ports: {} is no member: a port's name, or {{ port, vlan }}", show(other))
                    });
                    continue;
                }
            };
            if let (Some(port), Some(vlan)) = (port, vlan) {
                ports.push(Member { port, vlan });
                place.ports.push(span);
            }
        }

        let peers = self.peers(&t, &mut place.peers);
        place.peers_key = self.place(&t, "peers");

        let mut statics = Vec::new();
        for item in self.array(&t, "static").unwrap_or_default() {
            let Some(s) = self.inline(item, &schema::STATIC, &t) else { continue };
            let (mac, mac_place) = self.string(&s, "mac", unicast);
            let (port, port_place) = self.string(&s, "port", |s| Ok(s.to_string()));
            let (vtep, vtep_place) = self.string(&s, "vtep", address);
            let vlan = self.vlan(&s);
            let (to, to_place) = match (s.has("port"), s.has("vtep")) {
                (true, false) => (port.zip(vlan).map(|(port, vlan)| StaticTo::Port(Member { port, vlan })), port_place),
                (false, true) => {
                    if let Some(span) = self.place(&s, "vlan") {
                        self.report.add(&span, || "vlan goes with port, not with vtep: leave it out".into());
                    }
                    (vtep.map(StaticTo::Vtep), vtep_place)
                }
                (both, _) => {
                    let has = if both { "both port and vtep" } else { "neither port nor vtep" };
                    self.report.add(&item.span(), || format!("static entry with {has}: give one of them"));
                    (None, None)
                }
            };
            if let (Some(mac), Some(mac_place), Some(to), Some(to_place)) = (mac, mac_place, to, to_place) {
                statics.push(StaticMac { mac, to });
                place.statics.push(StaticPlaces { mac: mac_place, to: to_place });
            }
        }
        (Bridge { name, description, vni: vni_place.map(|_| vni as u32), ports, peers, statics }, place)
    }

    /// The key `vlan`: `None` if it is wrong, `Some(None)` if it is not there.
    pub(crate) fn vlan(&mut self, t: &Table<'_>) -> Option<Option<u16>> {
        if !t.has("vlan") {
            return Some(None);
        }
        let (vlan, place) = self.integer(t, "vlan", 0);
        place.map(|_| Some(vlan as u16))
    }
}

/// Gives every static entry the membership it means: the only one of its port, if it names no VLAN.
pub(crate) fn resolve_statics(config: &mut ValidConfig, places: &Places, report: &mut Report) {
    for (bridge, place) in config.bridges.iter_mut().zip(&places.bridges) {
        for (entry, at) in bridge.statics.iter_mut().zip(&place.statics) {
            let StaticTo::Port(wanted) = &mut entry.to else { continue };
            if bridge.ports.contains(wanted) {
                continue;
            }
            let mut of_port = bridge.ports.iter().filter(|member| member.port == wanted.port);
            match (of_port.next(), of_port.next(), wanted.vlan) {
                (Some(only), None, None) => wanted.vlan = only.vlan,
                (Some(_), Some(_), None) => report.add(&at.to, || {
                    format!(
                        "port {} is several members of bridge {:?}: say which by vlan",
                        quote(&wanted.port),
                        bridge.name
                    )
                }),
                (Some(_), _, Some(vlan)) => report.add(&at.to, || {
                    format!("port {} is not in bridge {:?} with vlan {vlan}", quote(&wanted.port), bridge.name)
                }),
                (None, ..) => report.add(&at.to, || {
                    let members = bridge.ports.iter().map(|member| member.port.as_str());
                    let suggestion = suggest(&wanted.port, members, ": a static entry's port is a member");
                    format!("port {} is not in bridge {:?}{suggestion}", quote(&wanted.port), bridge.name)
                }),
            }
        }
    }
}

pub(crate) fn bridges(config: &ValidConfig, places: &Places, report: &mut Report) {
    let known: HashMap<&str, ()> = config.ports.iter().map(|port| (port.name.as_str(), ())).collect();
    let underlay = config.vxlan.as_ref().filter(|_| places.vxlan.port.is_some()).map(|vxlan| vxlan.port.as_str());
    let mut names = HashMap::new();
    let mut vnis = HashMap::new();
    let mut members: HashMap<_, (&str, &Span)> = HashMap::new();
    for (bridge, place) in config.bridges.iter().zip(&places.bridges) {
        if let Some(name) = &place.name
            && let Some(first) = first_use(&mut names, &bridge.name, name)
        {
            let message = || format!("bridge name {:?} is already used: names are unique", bridge.name);
            report.add_with_note(name, message, first, "first used here");
        }
        if let (Some(vni), Some(at)) = (bridge.vni, &place.vni) {
            if let Some(first) = first_use(&mut vnis, vni, at) {
                let message = || format!("vni = {vni} is already used: each bridge has its own");
                report.add_with_note(at, message, first, "first used here");
            }
            if !places.has_vxlan {
                report.add(at, || format!("vni = {vni} needs the overlay: add [vxlan] with port and local"));
            }
        }
        for (member, at) in bridge.ports.iter().zip(&place.ports) {
            let port = member.port.as_str();
            if !known.contains_key(port) {
                report.add(at, || {
                    let names = config.ports.iter().map(|port| port.name.as_str());
                    format!("unknown port {}{}", quote(port), suggest(port, names, ": no [[port]] has this name"))
                });
                continue;
            }
            if underlay == Some(port) {
                let message = || format!("port {port:?} is the underlay and can be in no bridge");
                let at_vxlan = places.vxlan.port.as_ref().unwrap_or(at);
                report.add_with_note(at, message, at_vxlan, "the underlay");
            }
            let (other, first) = *members.entry((port, member.vlan)).or_insert((&bridge.name, at));
            if !std::ptr::eq(first, at) {
                let message = || {
                    let how = match member.vlan {
                        Some(vlan) => format!("with vlan {vlan}"),
                        None => "untagged".into(),
                    };
                    let right = match member.vlan {
                        Some(_) => "each of its VLANs can be in one bridge only",
                        None => "it can be untagged in one bridge only; { port, vlan } puts a VLAN of it in another",
                    };
                    format!("port {port:?} is already in bridge {other:?} {how}: {right}")
                };
                report.add_with_note(at, message, first, "first used here");
            }
        }
        overlay_of(bridge, place, config, places, report);
    }
}

/// What a bridge has to do with other VTEPs: its own peers and static entries.
fn overlay_of(bridge: &Bridge, place: &BridgePlaces, config: &ValidConfig, places: &Places, report: &mut Report) {
    if let (Some(at), false) = (&place.peers_key, place.has_vni) {
        report.add(at, || "peers is for a bridge in the overlay: give it a vni, or leave peers out".into());
    }
    let mut peers = HashMap::new();
    for (peer, at) in bridge.peers.iter().flatten().zip(&place.peers) {
        let first = first_use(&mut peers, *peer, at);
        check_peer("peers", *peer, at, first, config, places, report);
    }
    let mut macs = HashMap::new();
    for (entry, at) in bridge.statics.iter().zip(&place.statics) {
        if let Some(first) = first_use(&mut macs, entry.mac, &at.mac) {
            let message = || format!("mac = \"{}\" is already in bridge {:?}: one entry each", entry.mac, bridge.name);
            report.add_with_note(&at.mac, message, first, "first used here");
        }
        if let StaticTo::Vtep(vtep) = entry.to {
            if !place.has_vni {
                report.add(&at.to, || format!("vtep = \"{vtep}\" is for a bridge in the overlay: give it a vni"));
            }
            check_peer("vtep", vtep, &at.to, None, config, places, report);
        }
    }
}
