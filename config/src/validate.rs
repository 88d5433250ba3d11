//! What must fit together: names resolve, nothing is used twice, addresses are reachable.

use crate::error::{Report, quote, suggest};
use crate::schema::MAX_VTEPS;
use crate::{Access, Bridge, Port, PortKind, Role, SocketName, StaticTo, ValidConfig, Vxlan, read};
use std::collections::{HashMap, HashSet};
use std::net::Ipv4Addr;
use std::ops::Range;

type Span = Range<usize>;

/// Where things are in the file. `None`: not there, or not readable and already reported.
#[derive(Default)]
pub(crate) struct Places {
    pub control_socket: Option<Span>,
    pub workers: Vec<Option<Span>>,
    pub ports: Vec<PortPlaces>,
    pub bridges: Vec<BridgePlaces>,
    /// Whether there is something that should be `[vxlan]`.
    pub has_vxlan: bool,
    pub vxlan: VxlanPlaces,
}

#[derive(Default)]
pub(crate) struct PortPlaces {
    pub name: Option<Span>,
    pub socket: Option<Span>,
    /// The first of the keys of who may connect.
    pub access: Option<Span>,
    pub id: Option<Span>,
    pub role_right: bool,
    pub device: Option<Span>,
}

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

/// Reports everything in `config` that does not fit together.
pub(crate) fn validate(config: &ValidConfig, places: &Places, cpus: &[usize], report: &mut Report) {
    workers(config, places, cpus, report);
    ports(config, places, report);
    bridges(config, places, report);
    if let Some(overlay) = &config.vxlan {
        vxlan(overlay, config, places, report);
        number_of_vteps(overlay, config, places, report);
    }
}

/// Reports the first VTEP that is one too many.
fn number_of_vteps(vxlan: &Vxlan, config: &ValidConfig, places: &Places, report: &mut Report) {
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

fn workers(config: &ValidConfig, places: &Places, cpus: &[usize], report: &mut Report) {
    let mut used: HashMap<usize, &Span> = HashMap::new();
    for (worker, place) in config.workers.iter().zip(&places.workers) {
        let Some(place) = place else { continue };
        if let Some(first) = used.insert(worker.cpu, place) {
            let message = || format!("cpu = {} already has a worker: every worker needs its own", worker.cpu);
            report.add_with_note(place, message, first, "its first worker");
        }
        if !cpus.is_empty() && !cpus.contains(&worker.cpu) {
            report.add(place, || format!("cpu = {}: this process may only use {}", worker.cpu, cpu_list(cpus)));
        }
    }
}

/// CPUs as the kernel lists them, `0-3,8`; `cpus` is ascending.
fn cpu_list(cpus: &[usize]) -> String {
    let ranges = cpus.chunk_by(|a, b| a + 1 == *b);
    let text = |range: &[usize]| match range {
        [one] => one.to_string(),
        _ => format!("{}-{}", range[0], range[range.len() - 1]),
    };
    ranges.map(text).collect::<Vec<_>>().join(",")
}

fn ports(config: &ValidConfig, places: &Places, report: &mut Report) {
    let mut names = HashMap::new();
    let mut sockets: HashMap<&SocketName, (&Port, &Span)> = HashMap::new();
    let mut roles: HashMap<&SocketName, (Role, &Span)> = HashMap::new();
    let mut accesses: HashMap<&SocketName, (&Port, &Access, &Span)> = HashMap::new();
    let mut ids = HashMap::new();
    let mut devices = HashMap::new();
    let control = SocketName::Path(config.control.socket.clone());
    for (port, place) in config.ports.iter().zip(&places.ports) {
        if let Some(name) = &place.name
            && let Some(first) = first_use(&mut names, &port.name, name)
        {
            let message = || format!("port name {:?} is already used: names are unique", port.name);
            report.add_with_note(name, message, first, "first used here");
        }
        if let (Some(name), Some(at)) = (port.kind.socket(), &place.socket) {
            let shown = || quote(&name.to_string());
            if *name == control {
                let message =
                    || format!("socket = {} is the control socket's: give {} its own", shown(), port.kind.name());
                match &places.control_socket {
                    Some(control) => report.add_with_note(at, message, control, "the control socket"),
                    None => report.add(at, message),
                }
            }
            let (other, first) = *sockets.entry(name).or_insert((port, at));
            if !std::ptr::eq(first, at) && [other, port].iter().any(|port| matches!(port.kind, PortKind::VhostUser(_)))
            {
                let message = || {
                    format!(
                        "socket = {} of port {:?} is already port {:?}'s: a vhost-user port has its own",
                        shown(),
                        port.name,
                        other.name
                    )
                };
                report.add_with_note(at, message, first, "first used here");
            }
        }
        match &port.kind {
            PortKind::Memif(memif) => {
                let Some(socket) = &place.socket else { continue };
                if place.role_right {
                    let (role, first) = *roles.entry(&memif.socket).or_insert((memif.role, socket));
                    if role != memif.role {
                        let message = || {
                            let name = quote(&memif.socket.to_string());
                            format!(
                                "socket = {name} has a {role} already and cannot have a {}: one role per socket",
                                memif.role
                            )
                        };
                        report.add_with_note(socket, message, first, "first used here");
                    }
                }
                let at = place.access.as_ref().unwrap_or(socket);
                let (other, access, first) = *accesses.entry(&memif.socket).or_insert((port, &memif.access, at));
                if *access != memif.access {
                    let message = || {
                        format!(
                            "socket-mode, socket-owner or socket-group of port {:?} is not port {:?}'s: they have one socket",
                            port.name, other.name
                        )
                    };
                    report.add_with_note(at, message, first, "what the other has");
                }
                if let Some(id) = &place.id
                    && let Some(first) = first_use(&mut ids, (&memif.socket, memif.id), id)
                {
                    let message =
                        || format!("id = {} is already used on this socket: give each port its own id", memif.id);
                    report.add_with_note(id, message, first, "first used here");
                }
            }
            PortKind::VhostUser(_) => {}
            PortKind::Eth(eth) => {
                let Some(device) = &place.device else { continue };
                // The arguments don't make it another device.
                let name = eth.device.split(',').next().unwrap_or_default();
                let key = read::pci(name).unwrap_or_else(|| name.to_string());
                if let Some(first) = first_use(&mut devices, key, device) {
                    let message = || format!("device {} already has a port: one port per device", quote(name));
                    report.add_with_note(device, message, first, "first used here");
                }
            }
        }
    }
}

/// Notes the use of `key` at `place`; where it was used first, if this is not the first.
fn first_use<'a, K: std::hash::Hash + Eq>(
    used: &mut HashMap<K, &'a Span>,
    key: K,
    place: &'a Span,
) -> Option<&'a Span> {
    let first = *used.entry(key).or_insert(place);
    (!std::ptr::eq(first, place)).then_some(first)
}

fn bridges(config: &ValidConfig, places: &Places, report: &mut Report) {
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

fn vxlan(vxlan: &Vxlan, config: &ValidConfig, places: &Places, report: &mut Report) {
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
fn check_peer(
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
