//! `[[bridge]]`: bridges, their members and static entries.

use crate::error::{Report, quote, suggest};
use crate::read::{Item, Table, inline, inline_keys, items, show};
use crate::render;
use crate::schema::{Keys, array, integer, key, keys, text, word};
use crate::validate::{Context, Places, first_use};
use crate::value::{DESCRIPTION, NAME, PEERS, address, description, name, unicast};
use crate::vxlan::{check_number, check_peer, peers, written_peers};
use crate::{Keyed, Mac, Member, Statics};
use std::collections::HashMap;
use std::net::Ipv4Addr;
use std::ops::Range;
use toml::Spanned;
use toml::de::DeValue;

type Span = Range<usize>;

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
            .by_items()
            .default(vec![]);
        /// Head-end replication list of this bridge: VTEPs that get its broadcasts. Needs `vni`.
        peers: Option<Vec<Ipv4Addr>> = key("peers", array(PEERS, peers, |peers| written_peers(peers)))
            .by_items()
            .optional("those of `[vxlan]`");
        /// Static FDB entries.
        statics: Statics = key("static", array("tables `{ mac, port, vlan }` or `{ mac, vtep }`", statics, |all| written_statics(all)))
            .by_items()
            .default(Statics::default());
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

impl StaticTo {
    /// Whether it is behind a tunnel.
    pub(crate) fn is_vtep(&self) -> bool {
        matches!(self, StaticTo::Vtep(_))
    }
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

pub(crate) fn written_members(members: &[Member]) -> Vec<String> {
    let written = |member: &Member| match member.vlan {
        Some(vlan) => {
            let keys = MemberKeys { port: member.port.clone(), vlan: Some(vlan) };
            render::inline(&keys, &MemberKeys::initial())
        }
        None => render::text(&member.port),
    };
    members.iter().map(written).collect()
}

fn statics<'a>(key: &'static str, list: &'a [Spanned<DeValue<'a>>], t: &mut Table<'a>, report: &mut Report) -> Statics {
    let all = items(key, list, t, report, usize::MAX, |item, t, report| {
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
    });
    all.into_iter().collect()
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

impl Keyed for Bridge {
    type Key = String;

    fn key(&self) -> &String {
        &self.name
    }
}

impl Keyed for StaticMac {
    type Key = Mac;

    fn key(&self) -> &Mac {
        &self.mac
    }
}

/// Gives every static entry the membership it means: the only one of its port, if it names no VLAN.
pub(crate) fn resolve_statics(bridge: &mut Bridge, t: &dyn Places, report: &mut Report) {
    if bridge.statics.is_empty() {
        return;
    }
    let mut vlans: HashMap<&str, Vec<Option<u16>>> = HashMap::new();
    bridge.ports.iter().for_each(|member| vlans.entry(&member.port).or_default().push(member.vlan));
    let resolved = bridge.statics.iter().enumerate().map(|(n, entry)| {
        let StaticTo::Port(wanted) = &entry.to else { return entry.clone() };
        let of_port = vlans.get(wanted.port.as_str()).map_or(&[][..], |vlans| vlans);
        let member = resolve(bridge, wanted, of_port).unwrap_or_else(|why| {
            report.add(&t.item("static", n, "port"), || why);
            wanted.clone()
        });
        StaticMac { mac: entry.mac, to: StaticTo::Port(member) }
    });
    bridge.statics = resolved.collect();
}

/// The member of `bridge` that a static entry means. `vlans`: those of its port's memberships there.
///
/// # Errors
/// There is none, or it may be several.
pub(crate) fn resolve(bridge: &Bridge, wanted: &Member, vlans: &[Option<u16>]) -> Result<Member, String> {
    let port = quote(&wanted.port);
    match (vlans, wanted.vlan) {
        (vlans, vlan) if vlans.contains(&vlan) => Ok(wanted.clone()),
        ([only], None) => Ok(Member { vlan: *only, ..wanted.clone() }),
        ([], _) => {
            let members = bridge.ports.iter().map(|member| member.port.as_str());
            let suggestion = suggest(&wanted.port, members, ": a static entry's port is a member");
            Err(format!("port {port} is not in bridge {:?}{suggestion}", bridge.name))
        }
        (_, Some(vlan)) => Err(format!("port {port} is not in bridge {:?} with vlan {vlan}", bridge.name)),
        (_, None) => Err(format!("port {port} is several members of bridge {:?}: say which by vlan", bridge.name)),
    }
}

/// What must fit together in a bridge, and with others; but for what is in its lists of members and static entries.
pub(crate) fn check(bridge: &Bridge, t: &dyn Places, cx: Context<'_>, report: &mut Report) {
    if let Some(name) = t.at("name")
        && let Some(first) = cx.taken.bridges.get(&bridge.name)
    {
        let message = || format!("bridge name {:?} is already used: names are unique", bridge.name);
        report.add_with_note(&name, message, first, "first used here");
    }
    if let (Some(vni), Some(at)) = (bridge.vni, t.at("vni")) {
        if let Some(first) = cx.taken.vnis.get(&vni) {
            let message = || format!("vni = {vni} is already used: each bridge has its own");
            report.add_with_note(&at, message, first, "first used here");
        }
        if !cx.has_vxlan {
            report.add(&at, || format!("vni = {vni} needs the overlay: add [vxlan] with port and local"));
        }
    }
    if bridge.peers.is_some() && !has_vni(bridge, t) {
        let at = t.at("peers").unwrap_or_else(|| t.whole());
        report.add(&at, || "peers is for a bridge in the overlay: give it a vni, or leave peers out".into());
    }
    let mut peers = HashMap::new();
    for (n, peer) in bridge.peers.iter().flatten().enumerate() {
        let at = t.item("peers", n, "");
        check_peer("peers", *peer, &at, first_use(&mut peers, *peer, &at), cx, report);
    }
}

/// Whether it has a VNI, or one that is wrong, which was said.
fn has_vni(bridge: &Bridge, t: &dyn Places) -> bool {
    bridge.vni.is_some() || t.is_wrong("vni")
}

/// Whether a bridge can have the member.
pub(crate) fn check_member(member: &Member, at: &Span, cx: Context<'_>, report: &mut Report) {
    let port = member.port.as_str();
    if !cx.taken.ports.contains_key(port) {
        report.add(at, || {
            let names = cx.config.ports.iter().map(|port| port.name.as_str());
            format!("unknown port {}{}", quote(port), suggest(port, names, ": no [[port]] has this name"))
        });
        return;
    }
    if let (Some(vxlan), Some(at_vxlan)) = (&cx.config.vxlan, cx.vxlan.and_then(|t| t.at("port")))
        && vxlan.port == port
    {
        report.add_with_note(at, || is_underlay(port), &at_vxlan, "the underlay");
    }
    if let Some((other, first)) = cx.taken.members.get(port).and_then(|vlans| vlans.get(&member.vlan)) {
        let message = || {
            let (how, right) = match member.vlan {
                Some(vlan) => (format!("with vlan {vlan}"), "each of its VLANs can be in one bridge only"),
                None => (
                    "untagged".into(),
                    "it can be untagged in one bridge only; { port, vlan } puts a VLAN of it in another",
                ),
            };
            format!("port {port:?} is already in bridge {other:?} {how}: {right}")
        };
        report.add_with_note(at, message, first, "first used here");
    }
}

/// Why it can be no member.
pub(crate) fn is_underlay(port: &str) -> String {
    format!("port {port:?} is the underlay and can be in no bridge")
}

/// Whether a bridge can have an entry of this address at `at`. `first`: where it has one already.
pub(crate) fn check_once(bridge: &Bridge, mac: Mac, first: Option<Span>, at: &Span, report: &mut Report) {
    if let Some(first) = first {
        let message = || format!("mac = \"{mac}\" is already in bridge {:?}: one entry each", bridge.name);
        report.add_with_note(at, message, &first, "first used here");
    }
}

/// Whether a bridge can have the static entry, whose VTEP is at `at`.
pub(crate) fn check_static(
    bridge: &Bridge,
    t: &dyn Places,
    entry: &StaticMac,
    at: &Span,
    cx: Context<'_>,
    report: &mut Report,
) {
    if let StaticTo::Vtep(vtep) = entry.to {
        if !has_vni(bridge, t) {
            report.add(at, || format!("vtep = \"{vtep}\" is for a bridge in the overlay: give it a vni"));
        }
        check_peer("vtep", vtep, at, None, cx, report);
        check_number("vtep", vtep, at, cx, report);
    }
}
