//! `[[port]]`: the ports of the switch. The keys of each kind are in a file of their own.

mod allowed;
mod eth;
mod memif;
mod tap;
mod vhost_user;

pub use allowed::Allowed;
pub use eth::Eth;
pub use memif::{HIDDEN_SECRET, Memif};
use tap::check_tap;
pub use tap::{ENGINES, LinkFollows, Prefix, Route, Rps, Tap, Transport, engine};
pub(crate) use tap::{tap_is_right, tap_place};
pub use vhost_user::VhostUser;

use crate::error::{Report, quote, suggest};
use crate::read::Table;
use crate::schema::{
    Field, Group, Key, KeyChange, Keys, Takes, Valued, Written, array, integer, key, keys, text, word,
};
use crate::validate::{Context, Places, Taken, device};
use crate::value::{DESCRIPTION, NAME, description, name, unicast};
use crate::{Access, Keyed, Mac, SocketName, access};
use std::num::NonZeroU32;
use std::ops::Range;

pub(crate) use eth::pci;

type Span = Range<usize>;

keys! {
    /// A port of the switch. At most 4096. A port may be in no bridge yet.
    pub struct Port = PORT "[[port]]" {
        /// Its name in bridges, commands and counters.
        name: String = key("name", word(NAME, name, String::clone)).required();
        /// What people call it: `dray port show` has it.
        description: Option<String> = key("description", text(DESCRIPTION, description)).optional("none");
        /// `down` closes the port: its peer is told, its socket or device is released, and no frame is taken or sent. It
        /// stays in its bridges, and keeps its counters. `dray port up` and `dray port down` change it.
        admin_up: bool = key("admin", word("`\"up\"`, `\"down\"`", admin, |up| admin_name(*up).into())).default(true);
        /// What the port is attached to.
        kind: PortKind = Group(None);
        /// The port's own address. The underlay port's is the VTEP's, for `tap` it is the device's, for `vhost-user` what
        /// `dray port show NAME --connect` proposes as the VM's. A port with `allowed-addresses` sends with it.
        mac: Mac = key("mac", word("a unicast MAC address", unicast, Mac::to_string)).computed("made from the name, and for the underlay and `tap` from the VTEP's address");
        /// Longest Ethernet payload sent and accepted. VLAN tags don't count. What fits all of a bridge is the smallest of
        /// its members, and with a `vni` of the underlay port's less 50, which VXLAN takes: `dray bridge show` has it, and
        /// `dray port show NAME --connect` proposes it to the guest. `drayd --check`, the log and `dray port show NAME`
        /// warn of members with more, though that is no error: frames that are longer may go between these.
        mtu: u16 = key("mtu", integer(68, 9198))
            .unit("bytes")
            .takes(Takes::ReopenOf("eth"))
            .computed("9198 (memif, vhost-user), 1500 (eth), 1500 or what fits the tunnels of `[vxlan]` (tap)");
        /// How many MAC addresses are learned behind it, so that no port fills the FDB for all. What it has stays its own;
        /// one more, or one that moves there, is not learned: it is flooded, counted and logged. Static entries don't
        /// count. On the underlay port: how many behind all VTEPs together.
        max_macs: u32 = key("max-macs", integer(1, 1 << 26))
            .computed("half of `size` in `[fdb]`; for memif, vhost-user and tap that are not the underlay 4096 at most");
        /// What it may send with beside its `mac` and, of `tap`, its `addresses` (source guard): IP addresses, prefixes, and
        /// MAC addresses. IPv6's link-local addresses of these MACs (EUI-64) always are. A frame with another source, ARP and
        /// neighbour discovery that claim another address, and router advertisements are dropped: `guard.source_mac` and
        /// others. `["any"]` allows everything, `[]` nothing more.
        allowed_addresses: Option<Vec<Allowed>> = key(
            "allowed-addresses",
            array("at most 64, like `\"10.32.7.9\"`, `\"fd00::/64\"`, `\"02:00:00:00:00:01\"`, or `\"any\"`", allowed::allowed, |all| tap::written(all)),
        )
        .optional("`[]` for `tap` with `addresses` and `netns` or `container`, else `[\"any\"]`");
        /// How many frames for all members of a bridge it may send into it in a second.
        storm: StormLimits = Group(None);
    }
}

keys! {
    #[derive(Copy, Default)]
    /// How many frames for all members of a bridge a port may send into it in a second; none: any number.
    pub struct StormLimits {
        /// How many broadcasts the port may send into its bridges in a second (storm control). What is more is dropped and
        /// counted as `storm.broadcast`; on the underlay port that goes for all VTEPs together.
        broadcast: Option<NonZeroU32> = key("max-broadcast", integer(1, u32::MAX as u64)).optional("no limit");
        /// How many multicasts the port may send into its bridges in a second: `storm.multicast`.
        multicast: Option<NonZeroU32> = key("max-multicast", integer(1, u32::MAX as u64)).optional("no limit");
        /// How many unicasts to addresses that the FDB does not have the port may send into its bridges in a second:
        /// `storm.unknown_unicast`.
        unknown_unicast: Option<NonZeroU32> = key("max-unknown-unicast", integer(1, u32::MAX as u64)).optional("no limit");
    }
}

/// Declares the kinds of port, each with its keys and its name.
macro_rules! kinds {
    ($($(#[doc = $about:literal])+ $Kind:ident = $name:literal;)*) => {
        /// What a port is attached to.
        #[derive(Clone, Debug, PartialEq, Eq)]
        pub enum PortKind {
            $($(#[doc = $about])+ $Kind($Kind),)*
        }

        /// The values of the key `kind`.
        pub static KINDS: &[&str] = &[$($name),*];

        impl PortKind {
            /// The kind's name in the configuration file.
            pub fn name(&self) -> &'static str {
                match self {
                    $(PortKind::$Kind(_) => $name,)*
                }
            }

            /// The same kind without any key.
            pub(crate) fn bare(&self) -> PortKind {
                match self {
                    $(PortKind::$Kind(_) => PortKind::$Kind($Kind::initial()),)*
                }
            }
        }

        impl Keys for PortKind {
            const MEANING: &str = "What a port is attached to.";

            fn describe(to: &mut Vec<Key>) {
                kind().describe(
                    "`memif` is shared memory with a container, `vhost-user` with a virtual machine, `tap` a network device of \
                     the kernel's for the sockets of a container or this host, `eth` a NIC or a DPDK virtual device.",
                    to,
                );
                $(
                    let first = to.len();
                    $Kind::describe(to);
                    to[first..].iter_mut().for_each(|key| key.kind = Some($name));
                )*
            }

            fn initial() -> Self {
                PortKind::Eth(Eth::initial())
            }

            fn read(&mut self, t: &mut Table<'_>, report: &mut Report) {
                let mut name = "";
                kind().read(&mut name, t, report);
                match name {
                    $(
                        $name => {
                            t.kind = Some($name);
                            let mut keys = $Kind::initial();
                            keys.read(t, report);
                            *self = PortKind::$Kind(keys);
                        }
                    )*
                    _ => {}
                }
            }

            fn write(&self, default: &Self, to: &mut Written) {
                kind().write(&self.name(), &"", to);
                match (self, default) {
                    $(
                        (PortKind::$Kind(keys), PortKind::$Kind(default)) => keys.write(default, to),
                        (PortKind::$Kind(keys), _) => keys.write(&$Kind::initial(), to),
                    )*
                }
            }

            fn compare(&self, new: &Self, to: &mut Vec<KeyChange>) {
                match (self, new) {
                    $((PortKind::$Kind(old), PortKind::$Kind(new)) => old.compare(new, to),)*
                    _ => kind().compare(&self.name(), &new.name(), to),
                }
            }
        }
    };
}

kinds! {
    /// Shared memory with a container.
    Memif = "memif";
    /// Shared memory with a virtual machine.
    VhostUser = "vhost-user";
    /// The kernel's sockets.
    Tap = "tap";
    /// A NIC or DPDK virtual device.
    Eth = "eth";
}

/// The key `kind`.
fn kind() -> Valued<&'static str> {
    let parse = |s: &str| match KINDS.iter().find(|kind| **kind == s) {
        Some(kind) => Ok(*kind),
        None => {
            let kinds = KINDS.iter().copied();
            Err(format!("no such kind{}", suggest(s, kinds, ": \"memif\", \"vhost-user\", \"tap\" or \"eth\"")))
        }
    };
    let words = "`\"memif\"`, `\"vhost-user\"`, `\"tap\"`, `\"eth\"`";
    key("kind", word(words, parse, |kind| (*kind).into())).takes(Takes::Reopen).required()
}

fn admin(s: &str) -> Result<bool, String> {
    match s {
        "up" => Ok(true),
        "down" => Ok(false),
        _ => Err("not an administrative state: \"up\" or \"down\"".into()),
    }
}

fn admin_name(up: bool) -> &'static str {
    if up { "up" } else { "down" }
}

impl Port {
    /// The value of `admin`.
    pub fn admin(&self) -> &'static str {
        admin_name(self.admin_up)
    }

    /// The port with [`HIDDEN_SECRET`] in the place of its secret, if it has one.
    pub fn without_secret(mut self) -> Port {
        if let PortKind::Memif(Memif { secret: Some(secret), .. }) = &mut self.kind {
            *secret = HIDDEN_SECRET.into();
        }
        self
    }
}

impl StormLimits {
    /// All three: of broadcasts, multicasts, and unicasts to unknown addresses.
    pub fn limits(&self) -> [Option<NonZeroU32>; 3] {
        [self.broadcast, self.multicast, self.unknown_unicast]
    }
}

impl PortKind {
    /// The socket on which its peer is met, if it has one.
    pub fn socket(&self) -> Option<&SocketName> {
        match self {
            PortKind::Memif(memif) => Some(&memif.socket),
            PortKind::VhostUser(vhost_user) => Some(&vhost_user.socket),
            PortKind::Tap(_) | PortKind::Eth(_) => None,
        }
    }

    /// Who may connect to that socket, if it has one.
    pub fn access(&self) -> Option<&Access> {
        match self {
            PortKind::Memif(memif) => Some(&memif.access),
            PortKind::VhostUser(vhost_user) => Some(&vhost_user.access),
            PortKind::Tap(_) | PortKind::Eth(_) => None,
        }
    }

    /// Default of [`Port::mtu`].
    pub fn default_mtu(&self) -> u16 {
        match self {
            PortKind::Memif(_) | PortKind::VhostUser(_) => 9198,
            PortKind::Tap(_) | PortKind::Eth(_) => 1500,
        }
    }
}

/// What must fit together in a port, and with others.
pub(crate) fn check(port: &Port, t: &dyn Places, cx: Context<'_>, report: &mut Report) {
    let taken = cx.taken;
    if let Some(name) = t.at("name")
        && let Some(first) = taken.ports.get(&port.name)
    {
        let message = || format!("port name {:?} is already used: names are unique", port.name);
        report.add_with_note(&name, message, first, "first used here");
    }
    allowed::check(port, cx.config.is_underlay(&port.name), t, report);
    if let (Some(name), Some(at)) = (port.kind.socket(), t.at("socket")) {
        socket(port, name, &at, cx, report);
    }
    match &port.kind {
        PortKind::Memif(memif) => check_memif(port, memif, t, taken, report),
        PortKind::VhostUser(vhost_user) => {
            access::check(&vhost_user.access, &vhost_user.socket, vhost_user.role, t, report);
        }
        PortKind::Tap(tap) => check_tap(port, tap, t, taken, report),
        PortKind::Eth(eth) => {
            let Some(at) = t.at("device") else { return };
            if let Some(first) = taken.devices.get(&device(&eth.device)) {
                let name = eth.device.split(',').next().unwrap_or_default();
                let message = || format!("device {} already has a port: one port per device", quote(name));
                report.add_with_note(&at, message, first, "first used here");
            }
        }
    }
}

/// Whose else the socket `name` of a port must not be.
fn socket(port: &Port, name: &SocketName, at: &Span, cx: Context<'_>, report: &mut Report) {
    let shown = || quote(&name.to_string());
    if matches!(name, SocketName::Path(path) if *path == cx.config.control.socket) {
        let message = || format!("socket = {} is the control socket's: give {} its own", shown(), port.kind.name());
        match cx.control.and_then(|t| t.at("socket")) {
            Some(control) => report.add_with_note(at, message, &control, "the control socket"),
            None => report.add(at, message),
        }
    }
    let Some(other) = cx.taken.sockets.get(name).and_then(|holders| holders.first()) else { return };
    if other.shared.is_none() || !matches!(port.kind, PortKind::Memif(_)) {
        let message = || {
            format!(
                "socket = {} of port {:?} is already port {:?}'s: a vhost-user port has its own",
                shown(),
                port.name,
                other.port
            )
        };
        report.add_with_note(at, message, &other.at, "first used here");
    }
}

/// What ports that share a socket have alike, and what each has for itself.
fn check_memif(port: &Port, memif: &Memif, t: &dyn Places, taken: &Taken, report: &mut Report) {
    access::check(&memif.access, &memif.socket, memif.role, t, report);
    let Some(socket) = t.at("socket") else { return };
    let others = || taken.sockets.get(&memif.socket).into_iter().flatten();
    let mut roles = others().filter_map(|other| Some((other.shared.as_ref()?.role?, &other.at)));
    if !t.is_wrong("role")
        && let Some((role, first)) = roles.next()
        && role != memif.role
    {
        let message = || {
            let name = quote(&memif.socket.to_string());
            format!("socket = {name} has a {role} already and cannot have a {}: one role per socket", memif.role)
        };
        report.add_with_note(&socket, message, first, "first used here");
    }
    if let Some((other, shared)) = others().find_map(|other| Some((&other.port, other.shared.as_ref()?)))
        && shared.access != memif.access
    {
        let at = access::place(t).unwrap_or(socket);
        let message = || {
            format!(
                "socket-mode, socket-owner or socket-group of port {:?} is not port {other:?}'s: they have one socket",
                port.name
            )
        };
        report.add_with_note(&at, message, &shared.access_at, "what the other has");
    }
    // Two ports that leave `id` out collide just as two that give it.
    let id = t.at("id").unwrap_or_else(|| t.whole());
    if !t.is_wrong("id")
        && let Some(first) = taken.ids.get(&(memif.socket.clone(), memif.id))
    {
        let message = || format!("id = {} is already used on this socket: give each port its own id", memif.id);
        report.add_with_note(&id, message, first, "first used here");
    }
}

impl Keyed for Port {
    type Key = String;

    fn key(&self) -> &String {
        &self.name
    }
}
