//! `[vxlan]`: the overlay.

use crate::error::{Report, quote, suggest};
use crate::read::{Reader, Table, show};
use crate::schema::{self, MAC, MAX_VTEPS, PEERS, REQUIRED, Section, Value, key};
use crate::validate::{Places, first_use};
use crate::value::{address, unicast};
use crate::{Mac, StaticTo, ValidConfig};
use std::collections::{HashMap, HashSet};
use std::net::Ipv4Addr;
use std::ops::Range;
use toml::de::DeValue;

type Span = Range<usize>;

/// `[vxlan]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Vxlan {
    /// Name of the underlay port; it is in no bridge.
    pub port: String,
    /// The VTEP's own address. IPv4 so far.
    pub local: Ipv4Addr,
    /// Prefix length of the underlay network, 0..=32.
    pub prefix: u8,
    /// Next hop for peers that are not on-link.
    pub gateway: Option<Ipv4Addr>,
    /// Head-end replication list of the bridges that have none of their own.
    pub peers: Vec<Ipv4Addr>,
    /// Next hops whose addresses are not asked for.
    pub neighbours: Vec<Neighbour>,
    /// UDP destination port, default 4789 (RFC 7348).
    pub udp_port: u16,
    /// Whether packets of VTEPs that are not configured are taken, and their address learned.
    pub learn_vteps: bool,
    /// The tunnels' outer DF bit and TTL are fixed (DF set, TTL 64); this is the underlay's MTU: the port's.
    pub mtu: u16,
}

/// A host of the underlay's network whose MAC is known.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Neighbour {
    /// On-link: a VTEP or the gateway.
    pub address: Ipv4Addr,
    /// Its MAC.
    pub mac: Mac,
}

impl Vxlan {
    /// Whether `ip` is on the underlay's own network, and the next hop towards it otherwise.
    pub fn next_hop(&self, ip: Ipv4Addr) -> Option<Ipv4Addr> {
        if self.on_link(ip) { Some(ip) } else { self.gateway }
    }

    /// Whether `ip` is on the underlay's own network.
    pub fn on_link(&self, ip: Ipv4Addr) -> bool {
        u32::from(ip) & self.mask() == u32::from(self.local) & self.mask()
    }

    /// The underlay's network mask.
    pub(crate) fn mask(&self) -> u32 {
        if self.prefix == 0 { 0 } else { u32::MAX << (32 - self.prefix) }
    }
}

/// `[vxlan]`
pub static VXLAN: Section = Section {
    header: "[vxlan]",
    meaning: "The overlay: VXLAN (RFC 7348) over IPv4. The outer DF bit is set, the outer TTL is 64; DSCP and ECN are those of the \
              inner packet, which is told of congestion (RFC 6040). At most 16384 VTEPs in all lists and static entries together.",
    keys: &[
        key("port", Value::String("the name of a `[[port]]`"), REQUIRED, "The underlay: a port in no bridge."),
        key(
            "local",
            Value::String("an IPv4 address with prefix length"),
            REQUIRED,
            "The VTEP's own address and the underlay's network: `\"10.9.0.1/24\"`.",
        ),
        key("gateway", Value::String("an IPv4 address on that network"), "none", "Next hop to all other networks."),
        key("peers", PEERS, "[]", "Head-end replication list of the bridges that have none of their own."),
        key(
            "neighbours",
            Value::Array("tables `{ address, mac }`, at most 4096"),
            "[]",
            "Hosts of the underlay's network whose MAC is given: VTEPs, or the gateway. They are not asked for, and no ARP packet \
             changes them.",
        ),
        key("udp-port", Value::Integer(1, 65535), "4789", "UDP destination port."),
        key(
            "learn-vteps",
            Value::Boolean,
            "false",
            "Whether packets of VTEPs that are not configured are taken, and their addresses learned.",
        ),
    ],
};

/// An entry of `neighbours` in `[vxlan]`.
pub static NEIGHBOUR: Section = Section {
    header: "`neighbours` of `[vxlan]`",
    meaning: "A next hop whose MAC address is not asked for.",
    keys: &[
        key(
            "address",
            Value::String("an IPv4 address on the underlay's network"),
            REQUIRED,
            "Its address, once in the list.",
        ),
        key("mac", MAC, REQUIRED, "Its MAC address."),
    ],
};

#[derive(Default)]
pub(crate) struct VxlanPlaces {
    pub port: Option<Span>,
    pub local: Option<Span>,
    pub gateway: Option<Span>,
    pub has_gateway: bool,
    /// As [`Vxlan::peers`].
    pub peers: Vec<Span>,
    /// Of the addresses, as [`Vxlan::neighbours`].
    pub neighbours: Vec<Span>,
}

impl Reader {
    pub(crate) fn vxlan(&mut self, t: &Table<'_>) -> (Vxlan, VxlanPlaces) {
        let (port, port_place) = self.string(t, "port", |s| Ok(s.to_string()));
        let (local, local_place) = self.string(t, "local", |s| {
            let Some((ip, prefix)) = s.split_once('/') else {
                return Err(match address(s) {
                    Ok(ip) => format!("the prefix length is missing: \"{ip}/24\", say"),
                    Err(why) => why,
                });
            };
            let ip = address(ip)?;
            match prefix.parse::<u8>() {
                Ok(length @ 0..=32) if prefix.bytes().all(|c| c.is_ascii_digit()) => Ok((ip, length)),
                _ => Err(format!("a prefix length is 0 to 32, as in \"{ip}/24\"")),
            }
        });
        let (gateway, gateway_place) = self.string(t, "gateway", address);
        let mut places = VxlanPlaces {
            port: port_place,
            local: local_place,
            gateway: gateway_place,
            has_gateway: t.has("gateway"),
            peers: vec![],
            neighbours: vec![],
        };
        let peers = self.peers(t, &mut places.peers).unwrap_or_default();
        let mut neighbours = Vec::new();
        let items = self.array(t, "neighbours").unwrap_or_default();
        for item in items {
            let Some(n) = self.inline(item, &schema::NEIGHBOUR, t) else { continue };
            let (ip, ip_place) = self.string(&n, "address", address);
            let (mac, _) = self.string(&n, "mac", unicast);
            if let (Some(address), Some(mac), Some(place)) = (ip, mac, ip_place) {
                neighbours.push(Neighbour { address, mac });
                places.neighbours.push(place);
            }
        }
        if items.len() > schema::MAX_PEERS {
            self.report.add(&items[schema::MAX_PEERS].span(), || {
                format!("{} neighbours: at most {}", items.len(), schema::MAX_PEERS)
            });
        }
        let (local, prefix) = local.unwrap_or((Ipv4Addr::UNSPECIFIED, 0));
        let vxlan = Vxlan {
            port: port.unwrap_or_default(),
            local,
            prefix,
            gateway,
            peers,
            neighbours,
            udp_port: self.integer(t, "udp-port", 4789).0 as u16,
            learn_vteps: self.boolean(t, "learn-vteps", false),
            mtu: 0,
        };
        (vxlan, places)
    }

    /// The list `peers`, if there is one, and the places of its entries.
    pub(crate) fn peers(&mut self, t: &Table<'_>, places: &mut Vec<Span>) -> Option<Vec<Ipv4Addr>> {
        let items = self.array(t, "peers")?;
        let mut peers = Vec::new();
        for item in items {
            let read = match item.get_ref() {
                DeValue::String(s) => address(s),
                _ => Err("an IPv4 address in quotes".into()),
            };
            match read {
                Ok(ip) => {
                    peers.push(ip);
                    places.push(item.span());
                }
                Err(why) => self.report.add(&item.span(), || format!("peers: {}: {why}", show(item.get_ref()))),
            }
        }
        if items.len() > schema::MAX_PEERS {
            self.report.add(&items[schema::MAX_PEERS].span(), || {
                format!("{} peers: at most {}", items.len(), schema::MAX_PEERS)
            });
        }
        Some(peers)
    }
}

/// Reports the first VTEP that is one too many.
pub(crate) fn number_of_vteps(vxlan: &Vxlan, config: &ValidConfig, places: &Places, report: &mut Report) {
    let mut all = HashSet::new();
    let mut count = |key: &str, vtep: Ipv4Addr, at: &Span| {
        let is_new = all.len() <= MAX_VTEPS && all.insert(vtep);
        if is_new && all.len() > MAX_VTEPS {
            report.add(at, || {
                format!(
                    "{key}: \"{vtep}\" is VTEP number {}: at most {MAX_VTEPS} in all lists and entries together",
                    all.len()
                )
            });
        }
    };
    for (vtep, at) in vxlan.peers.iter().zip(&places.vxlan.peers) {
        count("peers", *vtep, at);
    }
    for (bridge, place) in config.bridges.iter().zip(&places.bridges) {
        for (vtep, at) in bridge.peers.iter().flatten().zip(&place.peers) {
            count("peers", *vtep, at);
        }
        for (entry, at) in bridge.statics.iter().zip(&place.statics) {
            if let StaticTo::Vtep(vtep) = entry.to {
                count("vtep", vtep, &at.to);
            }
        }
    }
}

pub(crate) fn vxlan(vxlan: &Vxlan, config: &ValidConfig, places: &Places, report: &mut Report) {
    let place = &places.vxlan;
    if let Some(at) = &place.port
        && config.port(&vxlan.port).is_none()
    {
        report.add(at, || {
            let names = config.ports.iter().map(|port| port.name.as_str());
            let suggestion = suggest(&vxlan.port, names, ": no [[port]] has this name");
            format!("unknown port {}{suggestion}", quote(&vxlan.port))
        });
    }
    if let (Some(at), Some(gateway), Some(local)) = (&place.gateway, vxlan.gateway, &place.local) {
        let network = network(vxlan);
        if gateway == vxlan.local {
            let message = || format!("gateway = \"{gateway}\" is our own address: another on {network}");
            report.add_with_note(at, message, local, "our own address");
        } else if !vxlan.on_link(gateway) {
            report.add_with_note(
                at,
                || format!("gateway = \"{gateway}\" is not on-link: an address of {network}"),
                local,
                "the underlay's network",
            );
        }
    }
    if let Some(at) = &place.local
        && let Some(what) = not_a_host(vxlan)
    {
        report.add(at, || format!("local = \"{}/{}\" is {what}", vxlan.local, vxlan.prefix));
    }
    let mut neighbours = HashMap::new();
    for (neighbour, at) in vxlan.neighbours.iter().zip(&place.neighbours) {
        let ip = neighbour.address;
        if let Some(first) = first_use(&mut neighbours, ip, at) {
            let message = || format!("neighbours: \"{ip}\" is listed twice: once is enough");
            report.add_with_note(at, message, first, "first used here");
        }
        if place.local.is_some() && ip == vxlan.local {
            report.add(at, || format!("neighbours: \"{ip}\" is our own address (local): only others"));
        } else if place.local.is_some() && !vxlan.on_link(ip) {
            report.add(at, || format!("neighbours: \"{ip}\" is not on-link: an address of {}", network(vxlan)));
        }
    }
    let mut peers = HashMap::new();
    for (peer, at) in vxlan.peers.iter().zip(&place.peers) {
        let first = first_use(&mut peers, *peer, at);
        check_peer("peers", *peer, at, first, config, places, report);
    }
}

/// A VTEP that is named must be another one, reachable, and named once.
pub(crate) fn check_peer(
    key: &str,
    peer: Ipv4Addr,
    at: &Span,
    first: Option<&Span>,
    config: &ValidConfig,
    places: &Places,
    report: &mut Report,
) {
    if let Some(first) = first {
        let message = || format!("{key}: \"{peer}\" is listed twice: once is enough");
        report.add_with_note(at, message, first, "first used here");
    }
    let Some(vxlan) = config.vxlan.as_ref().filter(|_| places.vxlan.local.is_some()) else { return };
    if peer == vxlan.local {
        report.add(at, || format!("{key}: \"{peer}\" is our own address (local): only other VTEPs"));
    } else if vxlan.next_hop(peer).is_none() && !places.vxlan.has_gateway {
        report.add(at, || {
            format!(
                "{key}: \"{peer}\" is not on the network {} and there is no gateway: give one in [vxlan]",
                network(vxlan)
            )
        });
    }
}

fn network(vxlan: &Vxlan) -> String {
    format!("{}/{}", Ipv4Addr::from(u32::from(vxlan.local) & vxlan.mask()), vxlan.prefix)
}

/// The network's own address or its broadcast address; networks of one or two addresses have neither (RFC 3021).
fn not_a_host(vxlan: &Vxlan) -> Option<&'static str> {
    let host = u32::from(vxlan.local) & !vxlan.mask();
    match vxlan.prefix {
        1..=30 if host == 0 => Some("the network itself: a host's address on it"),
        1..=30 if host == !vxlan.mask() => Some("the network's broadcast address: a host's address on it"),
        _ => None,
    }
}
