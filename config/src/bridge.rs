//! `[[bridge]]`: bridges, their members and static entries.

use crate::error::{Report, quote, suggest};
use crate::read::{Item, Table, inline, inline_keys, items, show};
use crate::render;
use crate::schema::{Keys, array, integer, key, keys, text, word};
use crate::validate::{Tables, first_use};
use crate::value::{DESCRIPTION, NAME, PEERS, address, description, name, unicast};
use crate::vxlan::{check_peer, peers, written_peers};
use crate::{Mac, Member, ValidConfig};
use std::collections::HashMap;
use std::net::Ipv4Addr;
use toml::Spanned;
use toml::de::DeValue;

keys! {
    /// A learning bridge. At most 4096.
    pub struct Bridge = BRIDGE "[[bridge]]" {
        /// Its name in commands.
        name: String = key("name", word(NAME, name, String::clone)).required();
        /// What people call it: `dray bridge show` has it.
        description: Option<String> = key("description", text(DESCRIPTION, description)).optional("none");
        /// VXLAN network identifier, unique. With it the bridge joins the overlay; needs `[vxlan]`.
        vni: Option<u32> = key("vni", integer(1, 16_777_215)).optional("none");
        /// The MTU of whoever is attached, where what is behind the bridge carries less than its members and tunnels: `dray
        /// bridge show` has it, and `dray port show NAME --connect` proposes it to the guest. Longer frames are switched all
        /// the same.
        mtu: Option<u16> = key("mtu", integer(68, 9198)).unit("bytes").optional("the smallest of its members and tunnels");
        /// Its members. A port is untagged in at most one bridge, and each of its VLANs is in at most one.
        ports: Vec<Member> = key("ports", array("port names (untagged), or `{ port, vlan }`", members, |all| written_members(all)))
            .default(vec![]);
        /// Head-end replication list of this bridge: VTEPs that get its broadcasts. Needs `vni`.
        peers: Option<Vec<Ipv4Addr>> = key("peers", array(PEERS, peers, |peers| written_peers(peers)))
            .optional("those of `[vxlan]`");
        /// Static FDB entries.
        statics: Vec<StaticMac> = key("static", array("tables `{ mac, port, vlan }` or `{ mac, vtep }`", statics, |all| written_statics(all)))
            .default(vec![]);
    }
}

impl Default for Bridge {
    /// A bridge without a name and without any key.
    fn default() -> Self {
        Bridge::initial()
    }
}

keys! {
    /// A member. The string `"web"` is short for `{ port = "web" }`.
    pub struct MemberKeys = MEMBER "`ports` of `[[bridge]]`" {
        /// The port.
        port: String = key("port", word("the name of a `[[port]]`", any, String::clone)).required();
        /// The VLAN that is this bridge on that port. Its tag is popped and pushed.
        vlan: Option<u16> = key("vlan", integer(1, 4094)).optional("untagged");
    }
}

keys! {
    /// A MAC address that is not learned and does not age. It has either `port` or `vtep`.
    pub struct StaticKeys = STATIC "`static` of `[[bridge]]`" {
        /// The address, once in a bridge.
        mac: Mac = key("mac", word("a unicast MAC address", unicast, Mac::to_string)).required();
        /// The port it is behind.
        port: Option<String> = key("port", word("a member of the bridge", any, String::clone)).optional("none");
        /// Which of the port's memberships, if it has several.
        vlan: Option<u16> = key("vlan", integer(1, 4094)).optional("the port's only membership");
        /// The VTEP it is behind. Needs `vni`.
        vtep: Option<Ipv4Addr> = key("vtep", word("an IPv4 address", address, Ipv4Addr::to_string)).optional("none");
    }
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

fn any(s: &str) -> Result<String, String> {
    Ok(s.into())
}

fn members<'a>(
    key: &'static str,
    list: &'a [Spanned<DeValue<'a>>],
    t: &mut Table<'a>,
    report: &mut Report,
) -> Vec<Member> {
    items(key, list, t, report, usize::MAX, |item, t, report| match item.get_ref() {
        DeValue::String(port) => Some((Member { port: port.to_string(), vlan: None }, Item::of(item))),
        DeValue::Table(_) => inline::<MemberKeys>(item, &MEMBER, t, report)
            .map(|(MemberKeys { port, vlan }, at)| (Member { port, vlan }, at)),
        other => {
            let right = "a port's name, or { port, vlan }";
            report.add(&item.span(), || format!("ports: {} is no member: {right}", show(other)));
            None
        }
    })
}

fn written_members(members: &[Member]) -> Vec<String> {
    let written = |member: &Member| match member.vlan {
        Some(vlan) => {
            let keys = MemberKeys { port: member.port.clone(), vlan: Some(vlan) };
            render::inline(&keys, &MemberKeys::initial())
        }
        None => render::text(&member.port),
    };
    members.iter().map(written).collect()
}

fn statics<'a>(
    key: &'static str,
    list: &'a [Spanned<DeValue<'a>>],
    t: &mut Table<'a>,
    report: &mut Report,
) -> Vec<StaticMac> {
    items(key, list, t, report, usize::MAX, |item, t, report| {
        // What is wrong with `port` and `vtep` together is said of other wrong keys, too.
        let (keys, at, is_right) = inline_keys::<StaticKeys>(item, &STATIC, t, report)?;
        let to = match (at.has("port"), at.has("vtep")) {
            (true, false) => keys.port.map(|port| StaticTo::Port(Member { port, vlan: keys.vlan })),
            (false, true) => {
                if at.has("vlan") {
                    report.add(&at.at("vlan"), || "vlan goes with port, not with vtep: leave it out".into());
                }
                keys.vtep.map(StaticTo::Vtep)
            }
            (both, _) => {
                let has = if both { "both port and vtep" } else { "neither port nor vtep" };
                report.add(&item.span(), || format!("static entry with {has}: give one of them"));
                None
            }
        };
        to.filter(|_| is_right).map(|to| (StaticMac { mac: keys.mac, to }, at))
    })
}

fn written_statics(statics: &[StaticMac]) -> Vec<String> {
    let written = |entry: &StaticMac| {
        let (port, vlan, vtep) = match &entry.to {
            StaticTo::Port(member) => (Some(member.port.clone()), member.vlan, None),
            StaticTo::Vtep(vtep) => (None, None, Some(*vtep)),
        };
        render::inline(&StaticKeys { mac: entry.mac, port, vlan, vtep }, &StaticKeys::initial())
    };
    statics.iter().map(written).collect()
}

/// Gives every static entry the membership it means: the only one of its port, if it names no VLAN.
pub(crate) fn resolve_statics(config: &mut ValidConfig, tables: &[Table<'_>], report: &mut Report) {
    for (bridge, t) in config.bridges.iter_mut().zip(tables) {
        for (entry, at) in bridge.statics.iter_mut().zip(t.items("static")) {
            let StaticTo::Port(wanted) = &mut entry.to else { continue };
            if bridge.ports.contains(wanted) {
                continue;
            }
            let mut of_port = bridge.ports.iter().filter(|member| member.port == wanted.port);
            match (of_port.next(), of_port.next(), wanted.vlan) {
                (Some(only), None, None) => wanted.vlan = only.vlan,
                (Some(_), Some(_), None) => report.add(&at.at("port"), || {
                    format!(
                        "port {} is several members of bridge {:?}: say which by vlan",
                        quote(&wanted.port),
                        bridge.name
                    )
                }),
                (Some(_), _, Some(vlan)) => report.add(&at.at("port"), || {
                    format!("port {} is not in bridge {:?} with vlan {vlan}", quote(&wanted.port), bridge.name)
                }),
                (None, ..) => report.add(&at.at("port"), || {
                    let members = bridge.ports.iter().map(|member| member.port.as_str());
                    let suggestion = suggest(&wanted.port, members, ": a static entry's port is a member");
                    format!("port {} is not in bridge {:?}{suggestion}", quote(&wanted.port), bridge.name)
                }),
            }
        }
    }
}

/// What must fit together among the bridges, and with their ports and the overlay.
pub(crate) fn check(config: &ValidConfig, tables: &Tables<'_>, report: &mut Report) {
    let known: HashMap<&str, ()> = config.ports.iter().map(|port| (port.name.as_str(), ())).collect();
    let at_vxlan = tables.vxlan.as_ref().and_then(|t| t.at("port"));
    let underlay = config.vxlan.as_ref().filter(|_| at_vxlan.is_some()).map(|vxlan| vxlan.port.as_str());
    let mut names = HashMap::new();
    let mut vnis = HashMap::new();
    let mut members = HashMap::new();
    for (bridge, t) in config.bridges.iter().zip(&tables.bridges) {
        if let Some(name) = t.at("name")
            && let Some(first) = first_use(&mut names, &bridge.name, &name)
        {
            let message = || format!("bridge name {:?} is already used: names are unique", bridge.name);
            report.add_with_note(&name, message, &first, "first used here");
        }
        if let (Some(vni), Some(at)) = (bridge.vni, t.at("vni")) {
            if let Some(first) = first_use(&mut vnis, vni, &at) {
                let message = || format!("vni = {vni} is already used: each bridge has its own");
                report.add_with_note(&at, message, &first, "first used here");
            }
            if !tables.has_vxlan {
                report.add(&at, || format!("vni = {vni} needs the overlay: add [vxlan] with port and local"));
            }
        }
        for (member, item) in bridge.ports.iter().zip(t.items("ports")) {
            let at = &item.at("port");
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
                report.add_with_note(at, message, at_vxlan.as_ref().unwrap_or(at), "the underlay");
            }
            let (other, first): &(&String, _) =
                members.entry((port, member.vlan)).or_insert((&bridge.name, at.clone()));
            if first != at {
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
        overlay_of(bridge, t, config, tables, report);
    }
}

/// What a bridge has to do with other VTEPs: its own peers and static entries.
fn overlay_of(bridge: &Bridge, t: &Table<'_>, config: &ValidConfig, tables: &Tables<'_>, report: &mut Report) {
    if t.has("peers") && !t.has("vni") {
        report.add(&t.place("peers"), || {
            "peers is for a bridge in the overlay: give it a vni, or leave peers out".into()
        });
    }
    let mut peers = HashMap::new();
    for (peer, item) in bridge.peers.iter().flatten().zip(t.items("peers")) {
        let first = first_use(&mut peers, *peer, &item.span);
        check_peer("peers", *peer, &item.span, first, config, tables, report);
    }
    let mut macs = HashMap::new();
    for (entry, item) in bridge.statics.iter().zip(t.items("static")) {
        let at = item.at("mac");
        if let Some(first) = first_use(&mut macs, entry.mac, &at) {
            let message = || format!("mac = \"{}\" is already in bridge {:?}: one entry each", entry.mac, bridge.name);
            report.add_with_note(&at, message, &first, "first used here");
        }
        if let StaticTo::Vtep(vtep) = entry.to {
            let at = item.at("vtep");
            if !t.has("vni") {
                report.add(&at, || format!("vtep = \"{vtep}\" is for a bridge in the overlay: give it a vni"));
            }
            check_peer("vtep", vtep, &at, None, config, tables, report);
        }
    }
}
