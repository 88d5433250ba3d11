//! `[vxlan]`: the overlay.

use crate::Mac;
use crate::error::{Report, quote, suggest};
use crate::read::{Item, Table, inline, items, show};
use crate::render;
use crate::schema::{Derived, Keys, MAX_PEERS, MAX_VTEPS, array, boolean, integer, key, keys, word};
use crate::validate::{Context, Places, first_use};
use crate::value::{PEERS, address, unicast};
use std::collections::HashMap;
use std::net::Ipv4Addr;
use std::ops::Range;
use toml::Spanned;
use toml::de::DeValue;

type Span = Range<usize>;

keys! {
    /// The overlay: VXLAN (RFC 7348) over IPv4. The outer DF bit is set, the outer TTL is 64; DSCP and ECN are those of the
    /// inner packet, which is told of congestion (RFC 6040). At most 16384 VTEPs in all lists and static entries together.
    pub struct Vxlan = VXLAN "[vxlan]" {
        /// The underlay: a port in no bridge.
        port: String = key("port", word("the name of a `[[port]]`", |s| Ok(s.into()), String::clone)).required();
        /// The VTEP's own address and the underlay's network: `"10.9.0.1/24"`.
        local: Local = key("local", word("an IPv4 address with prefix length", local, Local::to_string))
            .required_with(Local { address: Ipv4Addr::UNSPECIFIED, prefix: 0 });
        /// Next hop to all other networks.
        gateway: Option<Ipv4Addr> = key("gateway", word("an IPv4 address on that network", address, Ipv4Addr::to_string))
            .optional("none");
        /// Head-end replication list of the bridges that have none of their own.
        peers: Vec<Ipv4Addr> = key("peers", array(PEERS, peers, |peers| written_peers(peers))).by_items().default(vec![]);
        /// Hosts of the underlay's network whose MAC is given: VTEPs, or the gateway. They are not asked for, and no ARP
        /// packet changes them.
        neighbours: Vec<Neighbour> =
            key("neighbours", array("tables `{ address, mac }`, at most 4096", neighbours, |all| written_neighbours(all)))
                .by_items()
                .default(vec![]);
        /// UDP destination port.
        udp_port: u16 = key("udp-port", integer(1, 65535)).default(4789);
        /// Whether packets of VTEPs that are not configured are taken, and their addresses learned.
        learn_vteps: bool = key("learn-vteps", boolean()).default(false);
        /// The underlay's MTU, bytes: the port's.
        mtu: u16 = Derived;
    }
}

keys! {
    #[derive(Hash)]
    /// A next hop whose MAC address is not asked for.
    pub struct Neighbour = NEIGHBOUR "`neighbours` of `[vxlan]`" {
        /// Its address, once in the list.
        address: Ipv4Addr = key("address", word("an IPv4 address on the underlay's network", address, Ipv4Addr::to_string))
            .required_with(Ipv4Addr::UNSPECIFIED);
        /// Its MAC address.
        mac: Mac = key("mac", word("a unicast MAC address", unicast, Mac::to_string)).required();
    }
}

/// The VTEP's own address, and how much of it is the network's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Local {
    /// The address. IPv4 so far.
    pub address: Ipv4Addr,
    /// Prefix length of the underlay's network, 0..=32.
    pub prefix: u8,
}

impl std::fmt::Display for Local {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix)
    }
}

fn local(s: &str) -> Result<Local, String> {
    let Some((ip, prefix)) = s.split_once('/') else {
        return Err(match address(s) {
            Ok(ip) => format!("the prefix length is missing: \"{ip}/24\", say"),
            Err(why) => why,
        });
    };
    let address = address(ip)?;
    match prefix.parse::<u8>() {
        Ok(length @ 0..=32) if prefix.bytes().all(|c| c.is_ascii_digit()) => Ok(Local { address, prefix: length }),
        _ => Err(format!("a prefix length is 0 to 32, as in \"{address}/24\"")),
    }
}

impl Vxlan {
    /// Whether `ip` is on the underlay's own network, and the next hop towards it otherwise.
    pub fn next_hop(&self, ip: Ipv4Addr) -> Option<Ipv4Addr> {
        if self.on_link(ip) { Some(ip) } else { self.gateway }
    }

    /// Whether `ip` is on the underlay's own network.
    pub fn on_link(&self, ip: Ipv4Addr) -> bool {
        u32::from(ip) & self.mask() == u32::from(self.local.address) & self.mask()
    }

    /// The underlay's network mask.
    pub(crate) fn mask(&self) -> u32 {
        if self.local.prefix == 0 { 0 } else { u32::MAX << (32 - self.local.prefix) }
    }
}

pub(crate) fn peers<'a>(
    key: &'static str,
    list: &'a [Spanned<DeValue<'a>>],
    t: &mut Table<'a>,
    report: &mut Report,
) -> Vec<Ipv4Addr> {
    items(key, list, t, report, MAX_PEERS, |item, _, report| {
        let read = match item.get_ref() {
            DeValue::String(s) => address(s),
            _ => Err("an IPv4 address in quotes".into()),
        };
        match read {
            Ok(ip) => Some((ip, Item::of(item))),
            Err(why) => {
                report.add(&item.span(), || format!("peers: {}: {why}", show(item.get_ref())));
                None
            }
        }
    })
}

pub(crate) fn written_peers(peers: &[Ipv4Addr]) -> Vec<String> {
    peers.iter().map(render::text).collect()
}

fn neighbours<'a>(
    key: &'static str,
    list: &'a [Spanned<DeValue<'a>>],
    t: &mut Table<'a>,
    report: &mut Report,
) -> Vec<Neighbour> {
    items(key, list, t, report, MAX_PEERS, |item, t, report| inline(item, &NEIGHBOUR, t, report))
}

fn written_neighbours(neighbours: &[Neighbour]) -> Vec<String> {
    neighbours.iter().map(|neighbour| render::inline(neighbour, &Neighbour::initial())).collect()
}

/// Reports the first VTEP that is one too many.
pub(crate) fn check_number(key: &str, vtep: Ipv4Addr, at: &Span, cx: Context<'_>, report: &mut Report) {
    let named = &cx.taken.vteps;
    if named.len() == MAX_VTEPS && !named.contains_key(&vtep) {
        report.add(at, || {
            format!(
                "{key}: \"{vtep}\" is VTEP number {}: at most {MAX_VTEPS} in all lists and entries together",
                MAX_VTEPS + 1
            )
        });
    }
}

/// What must fit together in the overlay, and with the ports.
pub(crate) fn check(vxlan: &Vxlan, t: &dyn Places, cx: Context<'_>, report: &mut Report) {
    let has_local = t.at("local").is_some();
    if let Some(at) = t.at("port")
        && cx.config.port(&vxlan.port).is_none()
    {
        report.add(&at, || {
            let names = cx.config.ports.iter().map(|port| port.name.as_str());
            let suggestion = suggest(&vxlan.port, names, ": no [[port]] has this name");
            format!("unknown port {}{suggestion}", quote(&vxlan.port))
        });
    }
    if let (Some(at), Some(gateway), Some(local)) = (t.at("gateway"), vxlan.gateway, t.at("local")) {
        let network = network(vxlan);
        if gateway == vxlan.local.address {
            let message = || format!("gateway = \"{gateway}\" is our own address: another on {network}");
            report.add_with_note(&at, message, &local, "our own address");
        } else if !vxlan.on_link(gateway) {
            report.add_with_note(
                &at,
                || format!("gateway = \"{gateway}\" is not on-link: an address of {network}"),
                &local,
                "the underlay's network",
            );
        }
    }
    if let Some(at) = t.at("local")
        && let Some(what) = not_a_host(vxlan)
    {
        report.add(&at, || format!("local = \"{}\" is {what}", vxlan.local));
    }
    let mut neighbours = HashMap::new();
    for (n, neighbour) in vxlan.neighbours.iter().enumerate() {
        let at = &t.item("neighbours", n, "address");
        let ip = neighbour.address;
        if let Some(first) = first_use(&mut neighbours, ip, at) {
            let message = || format!("neighbours: \"{ip}\" is listed twice: once is enough");
            report.add_with_note(at, message, &first, "first used here");
        }
        if has_local && ip == vxlan.local.address {
            report.add(at, || format!("neighbours: \"{ip}\" is our own address (local): only others"));
        } else if has_local && !vxlan.on_link(ip) {
            report.add(at, || format!("neighbours: \"{ip}\" is not on-link: an address of {}", network(vxlan)));
        }
    }
    let mut peers = HashMap::new();
    for (n, peer) in vxlan.peers.iter().enumerate() {
        let at = t.item("peers", n, "");
        check_peer("peers", *peer, &at, first_use(&mut peers, *peer, &at), cx, report);
    }
}

/// A VTEP that is named must be another one, reachable, and named once.
pub(crate) fn check_peer(
    key: &str,
    peer: Ipv4Addr,
    at: &Span,
    first: Option<Span>,
    cx: Context<'_>,
    report: &mut Report,
) {
    if let Some(first) = first {
        let message = || format!("{key}: \"{peer}\" is listed twice: once is enough");
        report.add_with_note(at, message, &first, "first used here");
    }
    let (Some(vxlan), Some(t)) = (&cx.config.vxlan, cx.vxlan) else { return };
    if t.at("local").is_none() {
        return;
    }
    if peer == vxlan.local.address {
        report.add(at, || format!("{key}: \"{peer}\" is our own address (local): only other VTEPs"));
    } else if vxlan.next_hop(peer).is_none() && !t.is_wrong("gateway") {
        report.add(at, || {
            format!(
                "{key}: \"{peer}\" is not on the network {} and there is no gateway: give one in [vxlan]",
                network(vxlan)
            )
        });
    }
}

fn network(vxlan: &Vxlan) -> String {
    format!("{}/{}", Ipv4Addr::from(u32::from(vxlan.local.address) & vxlan.mask()), vxlan.local.prefix)
}

/// The network's own address or its broadcast address; networks of one or two addresses have neither (RFC 3021).
fn not_a_host(vxlan: &Vxlan) -> Option<&'static str> {
    let host = u32::from(vxlan.local.address) & !vxlan.mask();
    match vxlan.local.prefix {
        1..=30 if host == 0 => Some("the network itself: a host's address on it"),
        1..=30 if host == !vxlan.mask() => Some("the network's broadcast address: a host's address on it"),
        _ => None,
    }
}
