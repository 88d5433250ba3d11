//! `[[port]]`: the ports of the switch.

mod eth;
mod memif;
mod vhost_user;

pub use eth::Eth;
pub use memif::{HIDDEN_SECRET, Memif};
pub use vhost_user::VhostUser;

use crate::error::{Report, quote, suggest};
use crate::read::{Reader, Table};
use crate::schema::{
    ACCOUNT, DESCRIPTION, MAC, MODE, NAME, PACKETS_A_SECOND, QUEUES, REQUIRED, ROLE, SOCKET, Section, Value, eth, key,
    memif, of, vhost_user,
};
use crate::validate::{Places, first_use};
use crate::value::{description, unicast};
use crate::{Access, Mac, Role, SocketName, ValidConfig};
use eth::{device_name, pci};
use std::collections::HashMap;
use std::num::NonZeroU32;
use std::ops::Range;

type Span = Range<usize>;

/// `[[port]]`
#[derive(Clone, Debug, PartialEq)]
pub struct Port {
    /// Unique name.
    pub name: String,
    /// What people call it.
    pub description: Option<String>,
    /// Whether it is to be open; default true.
    pub admin_up: bool,
    /// What the port is attached to.
    pub kind: PortKind,
    /// The port's own MAC address: the VTEP's if the underlay uses this port; else only shown.
    /// Default: [`Mac::of_name`], for the underlay with its address.
    pub mac: Mac,
    /// Largest Ethernet payload sent and accepted, bytes: 68..=9198, default 9198 for memif and vhost-user (so that
    /// frames reach 9,216 bytes with header and one tag), 1500 for eth. A segment that a VM leaves to be cut may be longer.
    pub mtu: u16,
    /// How many MACs are learned behind it; behind all VTEPs if the underlay uses this port.
    /// Default: [`ValidConfig::default_max_macs`].
    pub max_macs: u32,
    /// Storm control.
    pub storm: StormLimits,
}

/// How many frames for all members of a bridge a port may send into it in a second; none: any number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StormLimits {
    /// Broadcasts.
    pub broadcast: Option<NonZeroU32>,
    /// Multicasts.
    pub multicast: Option<NonZeroU32>,
    /// Unicasts to addresses that the FDB does not have.
    pub unknown_unicast: Option<NonZeroU32>,
}

impl StormLimits {
    /// Each with its key.
    pub fn limits(&self) -> [(&'static str, Option<NonZeroU32>); 3] {
        [
            ("max-broadcast", self.broadcast),
            ("max-multicast", self.multicast),
            ("max-unknown-unicast", self.unknown_unicast),
        ]
    }
}

/// What a port is attached to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PortKind {
    /// Shared memory with a container.
    Memif(Memif),
    /// Shared memory with a virtual machine.
    VhostUser(VhostUser),
    /// A NIC or DPDK virtual device.
    Eth(Eth),
}

impl PortKind {
    /// The kind's name in the configuration file.
    pub fn name(&self) -> &'static str {
        match self {
            PortKind::Memif(_) => "memif",
            PortKind::VhostUser(_) => "vhost-user",
            PortKind::Eth(_) => "eth",
        }
    }

    /// The socket on which its peer is met, if it has one.
    pub fn socket(&self) -> Option<&SocketName> {
        match self {
            PortKind::Memif(memif) => Some(&memif.socket),
            PortKind::VhostUser(vhost_user) => Some(&vhost_user.socket),
            PortKind::Eth(_) => None,
        }
    }

    /// Who may connect to that socket, if it has one.
    pub fn access(&self) -> Option<&Access> {
        match self {
            PortKind::Memif(memif) => Some(&memif.access),
            PortKind::VhostUser(vhost_user) => Some(&vhost_user.access),
            PortKind::Eth(_) => None,
        }
    }

    /// Default of [`Port::mtu`].
    pub fn default_mtu(&self) -> u16 {
        match self {
            PortKind::Memif(_) | PortKind::VhostUser(_) => 9198,
            PortKind::Eth(_) => 1500,
        }
    }
}

impl Port {
    /// The value of `admin`.
    pub fn admin(&self) -> &'static str {
        if self.admin_up { "up" } else { "down" }
    }

    /// The port with [`HIDDEN_SECRET`] in the place of its secret, if it has one.
    pub fn without_secret(mut self) -> Port {
        if let PortKind::Memif(Memif { secret: Some(secret), .. }) = &mut self.kind {
            *secret = HIDDEN_SECRET.into();
        }
        self
    }
}

/// `[[port]]`
pub static PORT: Section = Section {
    header: "[[port]]",
    meaning: "A port of the switch. At most 1024. A port may be in no bridge yet.",
    keys: &[
        key("name", NAME, REQUIRED, "Its name in bridges, commands and counters."),
        key("description", DESCRIPTION, "none", "What people call it: `dray port show` has it."),
        key(
            "admin",
            Value::String("`\"up\"`, `\"down\"`"),
            "\"up\"",
            "`down` closes the port: its peer is told, its socket or device is released, and no frame is taken or sent. It stays in \
             its bridges, and keeps its counters. `dray port up` and `dray port down` change it.",
        ),
        key(
            "kind",
            Value::String("`\"memif\"`, `\"vhost-user\"`, `\"eth\"`"),
            REQUIRED,
            "`memif` is shared memory with a container, `vhost-user` with a virtual machine, \
             `eth` a NIC or a DPDK virtual device.",
        ),
        of(
            &["memif", "vhost-user"],
            key(
                "socket",
                SOCKET,
                REQUIRED,
                "The control channel's socket. Several memif servers may share one; a vhost-user port has its own.",
            ),
        ),
        of(
            &["memif", "vhost-user"],
            key(
                "socket-mode",
                MODE,
                "\"0660\"",
                "Who may connect to a server's socket: its permission bits. The ports of one socket have the same, as with \
                 owner and group.",
            ),
        ),
        of(
            &["memif", "vhost-user"],
            key("socket-owner", ACCOUNT, "the user of `drayd`", "The owner of a server's socket."),
        ),
        of(
            &["memif", "vhost-user"],
            key("socket-group", ACCOUNT, "the group of `drayd`", "The group of a server's socket."),
        ),
        memif("id", Value::Integer(0, u32::MAX as u64), "0", "Interface id, unique on the socket."),
        memif(
            "role",
            ROLE,
            "\"server\"",
            "A server listens and maps the client's memory; a client connects and brings it. \
             The ports of one socket have one role.",
        ),
        vhost_user(
            "role",
            ROLE,
            "\"client\"",
            "A client connects to the VM's side, which listens: then a restart of the switch does not hurt the VM. \
             A server listens.",
        ),
        memif("secret", Value::String("1 to 23 bytes"), "none", "Must be the same on both sides."),
        memif(
            "ring-size",
            Value::PowerOfTwo(256, 16384),
            "1024",
            "Descriptors in a ring. The client decides; a server takes what is offered up to this.",
        ),
        memif(
            "buffer-size",
            Value::Integer(256, 65536),
            "2048",
            "Bytes in a buffer, as a client. Longer frames take several.",
        ),
        eth(
            "device",
            Value::String("a PCI address, or a DPDK vdev that begins with `net_`"),
            REQUIRED,
            "The device: `\"0000:3b:00.0\"`, `\"net_af_packet0,iface=eth1\"`.",
        ),
        eth("ring-size", Value::PowerOfTwo(64, 4096), "1024", "Descriptors in a queue. The device may have fewer."),
        of(&["memif", "eth"], key("queues", QUEUES, "1", "Queue pairs. The peer or the device may have fewer.")),
        vhost_user("queues", QUEUES, "16", "The most queue pairs that the VM may use."),
        key(
            "mac",
            MAC,
            "made from the name",
            "The port's own address. Only the underlay port uses it: it is the VTEP's. \
             For `vhost-user` it is what `dray port show NAME --connect` proposes as the VM's.",
        ),
        key(
            "mtu",
            Value::Integer(68, 9198),
            "9198 (memif, vhost-user), 1500 (eth)",
            "Longest Ethernet payload sent and accepted, bytes. VLAN tags don't count. What fits all of a bridge is the smallest of \
             its members, and with a `vni` of the underlay port's less 50, which VXLAN takes: `dray bridge show` has it, and \
             `dray port show NAME --connect` proposes it to the guest. `drayd --check`, the log and `dray port show NAME` \
             warn of members with more, though that is no error: frames that are longer may go between these.",
        ),
        key(
            "max-macs",
            Value::Integer(1, 1 << 26),
            "half of `size` in `[fdb]`; for memif and vhost-user that are not the underlay 4096 at most",
            "How many MAC addresses are learned behind it, so that no port fills the FDB for all. What it has stays its own; one more, \
             or one that moves there, is not learned: it is flooded, counted and logged. Static entries don't count. On the underlay \
             port: how many behind all VTEPs together.",
        ),
        key(
            "max-broadcast",
            PACKETS_A_SECOND,
            "no limit",
            "How many broadcasts the port may send into its bridges in a second (storm control). What is more is dropped and counted \
             as `storm.broadcast`; on the underlay port that goes for all VTEPs together.",
        ),
        key("max-multicast", PACKETS_A_SECOND, "no limit", "The same of multicasts: `storm.multicast`."),
        key(
            "max-unknown-unicast",
            PACKETS_A_SECOND,
            "no limit",
            "The same of unicasts to addresses that the FDB does not have: `storm.unknown_unicast`.",
        ),
    ],
};

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

impl Reader {
    pub(crate) fn port(&mut self, mut t: Table<'_>) -> (Port, bool, PortPlaces) {
        let (name, name_place) = self.name(&mut t);
        let kind = self
            .string(&t, "kind", |s| match s {
                "memif" => Ok("memif"),
                "vhost-user" => Ok("vhost-user"),
                "eth" => Ok("eth"),
                _ => {
                    let kinds = ["memif", "vhost-user", "eth"].into_iter();
                    Err(format!("no such kind{}", suggest(s, kinds, ": \"memif\", \"vhost-user\" or \"eth\"")))
                }
            })
            .0;
        t.kind = kind;
        self.unknown_keys(&t);
        let mut place = PortPlaces { name: name_place, ..PortPlaces::default() };
        let queues = self.integer(&t, "queues", if kind == Some("vhost-user") { 16 } else { 1 }).0 as u16;
        let kind = match kind {
            Some("memif") => {
                let (socket, socket_place) = self.string(&t, "socket", str::parse::<SocketName>);
                place.socket = socket_place;
                let (id, id_place) = self.integer(&t, "id", 0);
                // Two ports that leave `id` out collide just as two that give it.
                let id_right = id_place.is_some() || !t.has("id");
                place.id = id_right.then(|| id_place.unwrap_or_else(|| t.span.clone()));
                let role = self.string(&t, "role", role);
                place.role_right = role.0.is_some() || !t.has("role");
                let socket = socket.unwrap_or(SocketName::Abstract(String::new()));
                let (access, access_place) = self.port_access(&t, &socket, role.0.unwrap_or(Role::Server));
                place.access = access_place;
                let secret = self.string(&t, "secret", |s| match s.len() {
                    _ if s == HIDDEN_SECRET => Err("it was hidden: put the secret itself here, or have the file \
                                                    written with --secrets"
                        .into()),
                    1..=23 if !s.contains('\0') => Ok(s.to_string()),
                    24 => {
                        Err("1 to 23 bytes without NUL, not 24: the protocol has 24, but peers keep the last for a NUL"
                            .into())
                    }
                    n => Err(format!("1 to 23 bytes without NUL, not {n}")),
                });
                PortKind::Memif(Memif {
                    socket,
                    access,
                    id: id as u32,
                    role: role.0.unwrap_or(Role::Server),
                    secret: secret.0,
                    ring_size: self.integer(&t, "ring-size", 1024).0 as u32,
                    buffer_size: self.integer(&t, "buffer-size", 2048).0 as u32,
                    queues,
                })
            }
            Some("vhost-user") => {
                let (socket, socket_place) = self.string(&t, "socket", str::parse::<SocketName>);
                place.socket = socket_place;
                let socket = socket.unwrap_or(SocketName::Abstract(String::new()));
                let role = self.string(&t, "role", role).0.unwrap_or(Role::Client);
                let access = self.port_access(&t, &socket, role).0;
                PortKind::VhostUser(VhostUser { socket, access, role, queues })
            }
            _ => {
                let mut device = (None, None);
                let mut ring_size = 1024;
                if kind.is_some() {
                    device = self.string(&t, "device", device_name);
                    ring_size = self.integer(&t, "ring-size", 1024).0 as u32;
                }
                place.device = device.1;
                PortKind::Eth(Eth { device: device.0.unwrap_or_default(), queues, ring_size })
            }
        };
        let description = self.string(&t, "description", description).0;
        let admin_up = self.string(&t, "admin", |s| match s {
            "up" => Ok(true),
            "down" => Ok(false),
            _ => Err("not an administrative state: \"up\" or \"down\"".into()),
        });
        let mac = self.string(&t, "mac", unicast).0;
        let mtu = self.integer(&t, "mtu", kind.default_mtu().into()).0 as u16;
        // Zero stands for the default until the whole configuration is there.
        let max_macs = self.integer(&t, "max-macs", 0).0 as u32;
        let mut limit = |key| NonZeroU32::new(self.integer(&t, key, 0).0 as u32);
        let storm = StormLimits {
            broadcast: limit("max-broadcast"),
            multicast: limit("max-multicast"),
            unknown_unicast: limit("max-unknown-unicast"),
        };
        let port = Port {
            name,
            description,
            admin_up: admin_up.0.unwrap_or(true),
            kind,
            mac: mac.unwrap_or_default(),
            mtu,
            max_macs,
            storm,
        };
        (port, mac.is_some(), place)
    }
}

fn role(s: &str) -> Result<Role, String> {
    match s {
        "server" => Ok(Role::Server),
        "client" => Ok(Role::Client),
        _ => Err("not a role: \"server\" or \"client\"".into()),
    }
}

pub(crate) fn ports(config: &ValidConfig, places: &Places, report: &mut Report) {
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
                let key = pci(name).unwrap_or_else(|| name.to_string());
                if let Some(first) = first_use(&mut devices, key, device) {
                    let message = || format!("device {} already has a port: one port per device", quote(name));
                    report.add_with_note(device, message, first, "first used here");
                }
            }
        }
    }
}
