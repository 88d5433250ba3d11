//! The validated configuration: what every other crate may trust without checking again.

use serde::{Deserialize, Serialize};
use std::collections::HashSet;
use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// A MAC address, first byte on the wire first.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Mac(pub [u8; 6]);

/// A configuration in which every name resolves and every value is in range.
#[derive(Clone, Debug, PartialEq)]
pub struct ValidConfig {
    /// The control socket and metrics.
    pub control: Control,
    /// At least one worker.
    pub workers: Vec<Worker>,
    /// How receive queues are spread over them.
    pub balance: Balance,
    /// What is logged.
    pub log: Log,
    /// Ports in the order of the file.
    pub ports: Vec<Port>,
    /// Bridges in the order of the file.
    pub bridges: Vec<Bridge>,
    /// The overlay, if any bridge may join it.
    pub vxlan: Option<Vxlan>,
    /// FDB capacity and ageing.
    pub fdb: Fdb,
}

/// `[control]`
#[derive(Clone, Debug, PartialEq)]
pub struct Control {
    /// Path of the control socket; default [`CONTROL_SOCKET`].
    pub socket: PathBuf,
    /// Who may connect to it.
    pub access: Access,
    /// Where OpenMetrics is served, if anywhere.
    pub metrics: Option<SocketAddr>,
}

/// The default of [`Control::socket`]: in a directory of its own, beside those of the tenants' sockets.
pub const CONTROL_SOCKET: &str = "/run/dray/control/dray.sock";

/// What stands for a secret that is not shown. No port can have it, so that a configuration without its secrets is not
/// applied by mistake.
pub const HIDDEN_SECRET: &str = "***";

/// Who may connect to a Unix socket that Dray listens on: whoever may write to its file (unix(7)).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Access {
    /// Permission bits of the file, at most 0777; default 0660.
    pub mode: u32,
    /// Its owner; drayd's user if absent.
    pub owner: Option<Account>,
    /// Its group; drayd's if absent.
    pub group: Option<Account>,
}

/// A user or a group of this host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Account {
    /// As the file has it, a name or a number.
    pub name: String,
    /// Its number.
    pub id: u32,
}

/// `[[worker]]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Worker {
    /// The CPU this worker is pinned to.
    pub cpu: usize,
    /// Microseconds to sleep at a time while there is nothing to do; 0, the default: poll always.
    pub idle_sleep: u16,
}

/// `[balance]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Balance {
    /// Seconds between two looks at the workers' loads; default 5. 0: never.
    pub interval: u16,
}

/// `[log]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Log {
    /// A level or several `target=level`; default `info`.
    pub level: String,
}

/// `[fdb]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fdb {
    /// How many MACs the table holds; default 1,048,576.
    pub size: usize,
    /// Seconds after which a MAC that was not seen is forgotten; default 300, at most 32,767.
    pub ageing: u16,
}

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

/// `kind = "memif"`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Memif {
    /// The control channel's socket.
    pub socket: SocketName,
    /// Who may connect to it, if we are the server and it has a path. The ports of one socket have the same.
    pub access: Access,
    /// Interface id on that socket, unique per socket.
    pub id: u32,
    /// Which side of the connection we are.
    pub role: Role,
    /// At most 23 bytes, compared with what the peer sends (memif.h: `MEMIF_SECRET_SIZE` is 24, but libmemif, VPP and DPDK keep
    /// the last for a NUL).
    pub secret: Option<String>,
    /// Descriptors a ring, a power of two, 256..=16384, default 1024. Only the client decides; a
    /// server takes what the client offers up to this.
    pub ring_size: u32,
    /// Bytes a buffer when we are the client, 2^8..=2^16 power of two not needed; default 2048.
    pub buffer_size: u32,
    /// Queue pairs, 1..=16, default 1.
    pub queues: u16,
}

/// `kind = "vhost-user"`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VhostUser {
    /// The socket.
    pub socket: SocketName,
    /// Who may connect to it, if we are the server and it has a path.
    pub access: Access,
    /// Which side of the connection we are; default client: the VM's side listens, so that our restart does not hurt it.
    pub role: Role,
    /// The most queue pairs that the VM may use, 1..=16, default 16.
    pub queues: u16,
}

/// A Unix socket's name.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum SocketName {
    /// A path in the file system.
    Path(PathBuf),
    /// Linux's abstract namespace, written `@name`.
    Abstract(String),
}

/// Which side of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Listens. With memif ("master" there) it maps the client's memory.
    Server,
    /// Connects. With memif ("slave" there) it brings the memory; with vhost-user the VM's side does, whatever its role.
    Client,
}

/// `kind = "eth"`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Eth {
    /// A PCI address or a DPDK vdev string, `net_af_packet0,iface=eth1`.
    pub device: String,
    /// Queue pairs asked for, 1..=16, default 1; the device may have fewer.
    pub queues: u16,
    /// Descriptors a queue, a power of two 64..=4096, default 1024; the device may have fewer.
    pub ring_size: u32,
}

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

/// A port's membership in a bridge.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Member {
    /// The port's name.
    pub port: String,
    /// The VLAN (1..=4094) that is this bridge on that port; untagged if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vlan: Option<u16>,
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

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let m = self.0;
        write!(f, "{:02x}:{:02x}:{:02x}:{:02x}:{:02x}:{:02x}", m[0], m[1], m[2], m[3], m[4], m[5])
    }
}

impl fmt::Debug for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl FromStr for Mac {
    type Err = String;

    /// Reads six two-digit hexadecimal bytes with colons between them.
    fn from_str(s: &str) -> Result<Self, String> {
        let wrong = || "a MAC address is six hexadecimal bytes, like \"02:00:00:00:00:01\"".to_string();
        let mut mac = [0; 6];
        let mut parts = s.split(':');
        for byte in &mut mac {
            let part = parts.next().filter(|p| p.len() == 2 && p.bytes().all(|c| c.is_ascii_hexdigit()));
            *byte = part.and_then(|p| u8::from_str_radix(p, 16).ok()).ok_or_else(wrong)?;
        }
        if parts.next().is_some() { Err(wrong()) } else { Ok(Mac(mac)) }
    }
}

impl TryFrom<String> for Mac {
    type Error = String;

    fn try_from(s: String) -> Result<Self, String> {
        s.parse()
    }
}

impl From<Mac> for String {
    fn from(mac: Mac) -> String {
        mac.to_string()
    }
}

impl Mac {
    /// Whether it is the address of one station: not a group address and not all zeros.
    pub fn is_unicast(self) -> bool {
        self.0[0] & 1 == 0 && self.0 != [0; 6]
    }

    /// The default MAC of the port `name`: locally administered, the same at every start. The underlay port's is
    /// mixed with the VTEP's address, so that hosts with the same port names differ on a common network.
    pub fn of_name(name: &str, underlay: Option<Ipv4Addr>) -> Mac {
        // FNV-1a, 64 bits (draft-eastlake-fnv), folded to the 40 bits there is room for.
        let bytes = name.bytes().chain(underlay.into_iter().flat_map(|ip| ip.octets()));
        let hash = bytes.fold(0xcbf2_9ce4_8422_2325_u64, |h, b| (h ^ u64::from(b)).wrapping_mul(0x100_0000_01b3));
        let b = (hash ^ (hash >> 40)).to_be_bytes();
        Mac([0x02, b[3], b[4], b[5], b[6], b[7]])
    }
}

/// Bytes of a Unix socket's name: `sun_path` without the final (or, if abstract, first) NUL (unix(7)).
const SOCKET_NAME_MAX: usize = 107;

impl FromStr for SocketName {
    type Err = String;

    /// Reads an absolute path or `@name`.
    fn from_str(s: &str) -> Result<Self, String> {
        let (name, abstract_name) = match s.strip_prefix('@') {
            Some(name) => (name, true),
            None => (s, false),
        };
        if name.len() > SOCKET_NAME_MAX {
            Err(format!("a socket's name has at most {SOCKET_NAME_MAX} bytes, not {}", name.len()))
        } else if name.is_empty()
            || name.contains(char::is_control)
            || !(abstract_name || Path::new(name).is_absolute())
        {
            Err("a socket is an absolute path, or \"@name\" in the abstract namespace".into())
        } else if abstract_name {
            Ok(SocketName::Abstract(name.into()))
        } else {
            Ok(SocketName::Path(name.into()))
        }
    }
}

impl fmt::Display for SocketName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SocketName::Path(path) => write!(f, "{}", path.display()),
            SocketName::Abstract(name) => write!(f, "@{name}"),
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Role::Server => "server",
            Role::Client => "client",
        })
    }
}

impl fmt::Display for Member {
    /// `port`, or `port:vlan`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.vlan {
            Some(vlan) => write!(f, "{}:{vlan}", self.port),
            None => f.write_str(&self.port),
        }
    }
}

impl FromStr for Member {
    type Err = String;

    /// Reads `port` or `port:vlan`. A name may contain colons: only digits after the last one are a VLAN.
    fn from_str(s: &str) -> Result<Self, String> {
        match s.rsplit_once(':') {
            Some((port, vlan)) if !vlan.is_empty() && vlan.bytes().all(|c| c.is_ascii_digit()) => {
                let vlan = vlan.parse().ok().filter(|vlan| (1..=4094).contains(vlan));
                Ok(Member { port: port.into(), vlan: Some(vlan.ok_or("a VLAN is 1 to 4094")?) })
            }
            _ => Ok(Member { port: s.into(), vlan: None }),
        }
    }
}

impl Default for Control {
    fn default() -> Self {
        Control { socket: CONTROL_SOCKET.into(), access: Access::default(), metrics: None }
    }
}

impl Default for Access {
    fn default() -> Self {
        Access { mode: 0o660, owner: None, group: None }
    }
}

impl Default for Balance {
    fn default() -> Self {
        Balance { interval: 5 }
    }
}

impl Default for Log {
    fn default() -> Self {
        Log { level: "info".into() }
    }
}

impl Default for Fdb {
    fn default() -> Self {
        Fdb { size: 1 << 20, ageing: 300 }
    }
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

impl ValidConfig {
    /// The configuration with [`HIDDEN_SECRET`] in the place of every secret.
    pub fn without_secrets(mut self) -> ValidConfig {
        self.ports = self.ports.into_iter().map(Port::without_secret).collect();
        self
    }

    /// The port of that name.
    pub fn port(&self, name: &str) -> Option<&Port> {
        self.ports.iter().find(|port| port.name == name)
    }

    /// The bridge of that name.
    pub fn bridge(&self, name: &str) -> Option<&Bridge> {
        self.bridges.iter().find(|bridge| bridge.name == name)
    }

    /// Every VTEP that is named: in head-end replication lists and by static entries.
    pub fn vteps(&self) -> HashSet<Ipv4Addr> {
        let Some(vxlan) = &self.vxlan else { return HashSet::new() };
        let statics = self.bridges.iter().flat_map(|bridge| &bridge.statics).filter_map(|entry| match entry.to {
            StaticTo::Vtep(ip) => Some(ip),
            StaticTo::Port(_) => None,
        });
        let own = self.bridges.iter().filter(|bridge| bridge.vni.is_some()).filter_map(|bridge| bridge.peers.as_ref());
        vxlan.peers.iter().chain(own.flatten()).copied().chain(statics).collect()
    }

    /// Default of [`Port::max_macs`]: half of the FDB for what has a network behind it, and for one host no more than 4,096.
    pub fn default_max_macs(&self, port: &Port) -> u32 {
        let half = (self.fdb.size / 2) as u32;
        let is_underlay = self.vxlan.as_ref().is_some_and(|vxlan| vxlan.port == port.name);
        match port.kind {
            PortKind::Memif(_) | PortKind::VhostUser(_) if !is_underlay => half.min(4096),
            _ => half,
        }
    }

    /// The default MAC of the port `name` in this configuration.
    pub fn default_mac(&self, name: &str) -> Mac {
        Mac::of_name(name, self.vxlan.as_ref().filter(|vxlan| vxlan.port == name).map(|vxlan| vxlan.local))
    }
}
