//! The validated configuration: what every other crate may trust without checking again.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;

/// A MAC address, first byte on the wire first.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Mac(pub [u8; 6]);

/// A configuration in which every name resolves and every value is in range.
#[derive(Clone, Debug, PartialEq)]
pub struct ValidConfig {
    /// The control socket and metrics.
    pub control: Control,
    /// At least one worker.
    pub workers: Vec<Worker>,
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
    /// Path of the control socket; default `/run/dray/dray.sock`.
    pub socket: PathBuf,
    /// Where OpenMetrics is served, if anywhere.
    pub metrics: Option<SocketAddr>,
}

/// `[[worker]]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Worker {
    /// The CPU this worker is pinned to.
    pub cpu: usize,
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
    /// What the port is attached to.
    pub kind: PortKind,
    /// The port's own MAC address: the VTEP's if the underlay uses this port; else only shown.
    /// Default: locally administered and derived from the name.
    pub mac: Mac,
    /// Largest Ethernet payload sent and accepted, bytes: 68..=9198, default 9198 for memif (so that
    /// frames reach 9,216 bytes with header and one tag), 1500 for eth.
    pub mtu: u16,
}

/// What a port is attached to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PortKind {
    /// Shared memory with a container.
    Memif(Memif),
    /// A NIC or DPDK virtual device.
    Eth(Eth),
}

/// `kind = "memif"`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Memif {
    /// The control channel's socket.
    pub socket: SocketName,
    /// Interface id on that socket, unique per socket.
    pub id: u32,
    /// Which side of the connection we are.
    pub role: Role,
    /// At most 24 bytes, compared with what the peer sends (memif.h, `MEMIF_SECRET_SIZE`).
    pub secret: Option<String>,
    /// Descriptors a ring, a power of two, 256..=16384, default 1024. Only the client decides; a
    /// server takes what the client offers up to this.
    pub ring_size: u32,
    /// Bytes a buffer when we are the client, 2^8..=2^16 power of two not needed; default 2048.
    pub buffer_size: u32,
    /// Queue pairs, 1..=16, default 1.
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

/// Which side of a memif connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Listens; maps the client's memory (memif "master").
    Server,
    /// Connects and brings the memory (memif "slave").
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
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// The port's name.
    pub port: String,
    /// The VLAN (1..=4094) that is this bridge on that port; untagged if absent.
    pub vlan: Option<u16>,
}

/// A static FDB entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StaticMac {
    /// The unicast MAC address.
    pub mac: Mac,
    /// Where it is.
    pub to: StaticTo,
}

/// Where a static MAC is.
#[derive(Clone, Debug, PartialEq, Eq)]
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
    /// UDP destination port, default 4789 (RFC 7348).
    pub udp_port: u16,
    /// Whether packets of VTEPs that are not configured are taken, and their address learned.
    pub learn_vteps: bool,
    /// The tunnels' outer DF bit and TTL are fixed (DF set, TTL 64); this is the underlay's MTU: the port's.
    pub mtu: u16,
}

impl Vxlan {
    /// Whether `ip` is on the underlay's own network, and the next hop towards it otherwise.
    pub fn next_hop(&self, ip: Ipv4Addr) -> Option<Ipv4Addr> {
        let mask = if self.prefix == 0 { 0 } else { u32::MAX << (32 - self.prefix) };
        if u32::from(ip) & mask == u32::from(self.local) & mask { Some(ip) } else { self.gateway }
    }
}


impl std::fmt::Display for Mac {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let m = self.0;
        write!(f, "{:02x}:{:02x}:{:02x}:{:02x}:{:02x}:{:02x}", m[0], m[1], m[2], m[3], m[4], m[5])
    }
}

impl std::fmt::Debug for Mac {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{self}")
    }
}
