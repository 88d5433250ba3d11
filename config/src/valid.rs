//! The validated configuration: what every other crate may trust without checking again.

use crate::list::List;
use crate::mtu::VXLAN_OVERHEAD;
use crate::schema::Keys;
use crate::{Allowed, Balance, Bridge, Control, Fdb, Log, Mac, Port, PortKind, StaticTo, Vxlan, Worker};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::HashSet;
use std::fmt;
use std::net::Ipv4Addr;
use std::str::FromStr;

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
    pub ports: List<Port>,
    /// Bridges in the order of the file.
    pub bridges: List<Bridge>,
    /// The overlay, if any bridge may join it.
    pub vxlan: Option<Vxlan>,
    /// FDB capacity and ageing.
    pub fdb: Fdb,
}

impl ValidConfig {
    /// The configuration with [`crate::HIDDEN_SECRET`] in the place of every secret.
    pub fn without_secrets(mut self) -> ValidConfig {
        self.ports = self.ports.into_iter().map(Port::without_secret).collect();
        self
    }

    /// The configuration without ports, bridges and overlay.
    pub fn without_objects(self) -> ValidConfig {
        ValidConfig { ports: List::default(), bridges: List::default(), vxlan: None, ..self }
    }

    /// The port of that name.
    pub fn port(&self, name: &str) -> Option<&Port> {
        self.ports.get(name)
    }

    /// The bridge of that name.
    pub fn bridge(&self, name: &str) -> Option<&Bridge> {
        self.bridges.get(name)
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

    /// Fills in what follows from other keys where the file does not say it.
    pub(crate) fn compute(&mut self) {
        if let Some(vxlan) = &mut self.vxlan {
            let mtu = |port: &Port| if port.mtu == 0 { port.kind.default_mtu() } else { port.mtu };
            vxlan.mtu = self.ports.get(&vxlan.port).map_or(0, mtu);
        }
        let mut ports = std::mem::take(&mut self.ports);
        ports.iter_mut().for_each(|port| self.compute_port(port));
        self.ports = ports;
    }

    /// Fills in what follows from other keys of a port where it is not said.
    pub(crate) fn compute_port(&self, port: &mut Port) {
        let default = self.default_port(port);
        if port.mac == Mac::default() {
            port.mac = default.mac;
        }
        if port.mtu == 0 {
            port.mtu = default.mtu;
        }
        if port.max_macs == 0 {
            port.max_macs = default.max_macs;
        }
    }

    /// What `port` would be without any key that may be left out.
    pub(crate) fn default_port(&self, port: &Port) -> Port {
        Port {
            kind: port.kind.bare(),
            mac: self.default_mac(port),
            mtu: Self::default_mtu(port, self.vxlan.as_ref()),
            max_macs: self.default_max_macs(port),
            ..Port::initial()
        }
    }

    /// Default of [`Port::max_macs`]: half of the FDB for what has a network behind it, and for one host no more than 4,096.
    fn default_max_macs(&self, port: &Port) -> u32 {
        let half = (self.fdb.size / 2) as u32;
        let is_underlay = self.is_underlay(&port.name);
        match port.kind {
            PortKind::Memif(_) | PortKind::VhostUser(_) | PortKind::Tap(_) if !is_underlay => half.min(4096),
            _ => half,
        }
    }

    /// Whether it is the name of the overlay's underlay port.
    pub fn is_underlay(&self, port: &str) -> bool {
        self.vxlan.as_ref().is_some_and(|vxlan| vxlan.port == port)
    }

    /// What `port` may send with: what [`Port::allowed`] has, and the underlay anything, for its frames are the tunnels'.
    pub fn allowed(&self, port: &Port) -> Vec<Allowed> {
        if self.is_underlay(&port.name) { vec![Allowed::Any] } else { port.allowed() }
    }

    /// Default of [`Port::mtu`], if the overlay is `vxlan`.
    pub(crate) fn default_mtu(port: &Port, vxlan: Option<&Vxlan>) -> u16 {
        let mtu = port.kind.default_mtu();
        match (&port.kind, vxlan) {
            (PortKind::Tap(_), Some(vxlan)) if vxlan.port != port.name => {
                mtu.min(vxlan.mtu.saturating_sub(VXLAN_OVERHEAD))
            }
            _ => mtu,
        }
    }

    /// Default of [`Port::mac`]. What is seen from other hosts differs from host to host.
    fn default_mac(&self, port: &Port) -> Mac {
        let is_seen = |vxlan: &&Vxlan| vxlan.port == port.name || matches!(port.kind, PortKind::Tap(_));
        Mac::of_name(&port.name, self.vxlan.as_ref().filter(is_seen).map(|vxlan| vxlan.local.address))
    }
}

/// A port's membership in a bridge.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Member {
    /// The port's name.
    pub port: String,
    /// The VLAN (1..=4094) that is this bridge on that port; untagged if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vlan: Option<u16>,
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
