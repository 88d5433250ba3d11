//! What only ports of one kind have: `detail` in the reply to `port.show`.

use dray_config::Role;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeMap;

/// What only ports of one kind have. Their fields tell the kinds apart.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
#[schemars(inline)]
pub enum PortDetail {
    /// Of a `memif` port.
    Memif(MemifDetail),
    /// Of a `vhost-user` port.
    VhostUser(VhostUserDetail),
    /// Of a `tap` port.
    Tap(TapDetail),
    /// Of an `eth` port.
    Eth(EthDetail),
    /// Of a kind that this version does not know.
    #[schemars(skip)]
    Other(BTreeMap<String, Value>),
}

impl Default for PortDetail {
    fn default() -> Self {
        PortDetail::Other(BTreeMap::new())
    }
}

impl PortDetail {
    /// If it is a `memif` port's.
    pub fn memif(&self) -> Option<&MemifDetail> {
        if let PortDetail::Memif(detail) = self { Some(detail) } else { None }
    }

    /// If it is a `vhost-user` port's.
    pub fn vhost_user(&self) -> Option<&VhostUserDetail> {
        if let PortDetail::VhostUser(detail) = self { Some(detail) } else { None }
    }

    /// If it is a `tap` port's.
    pub fn tap(&self) -> Option<&TapDetail> {
        if let PortDetail::Tap(detail) = self { Some(detail) } else { None }
    }

    /// If it is an `eth` port's.
    pub fn eth(&self) -> Option<&EthDetail> {
        if let PortDetail::Eth(detail) = self { Some(detail) } else { None }
    }
}

/// What only a `memif` port has. What its peer brings is left out while the link is down.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct MemifDetail {
    /// The control channel's socket, a path or `@name`.
    pub socket: String,
    /// Of a server's socket that is a file: its permission bits, octal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub socket_mode: Option<String>,
    /// Of a server's socket that is a file: its owner, if that is configured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub socket_owner: Option<String>,
    /// Of a server's socket that is a file: its group, if that is configured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub socket_group: Option<String>,
    /// Interface id on that socket.
    pub id: u32,
    /// Which side of the connection we are.
    pub role: Role,
    /// Descriptors in a ring: configured, or of the link.
    pub ring_size: u32,
    /// Bytes in a buffer: configured, or of the link. 0: the peer's, which may all differ.
    pub buffer_size: u32,
    /// What the peer calls itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peer: Option<String>,
    /// What the peer calls its interface.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peer_interface: Option<String>,
    /// Rings that we receive on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rx_rings: Option<u16>,
    /// Rings that we send on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tx_rings: Option<u16>,
    /// Whether none of the shared memory can shrink.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sealed: Option<bool>,
}

/// What only a `vhost-user` port has.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct VhostUserDetail {
    /// The control channel's socket, a path or `@name`.
    pub socket: String,
    /// Of a server's socket that is a file: its permission bits, octal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub socket_mode: Option<String>,
    /// Of a server's socket that is a file: its owner, if that is configured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub socket_owner: Option<String>,
    /// Of a server's socket that is a file: its group, if that is configured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub socket_group: Option<String>,
    /// Which side of the connection we are.
    pub role: Role,
    /// Whether a front end is connected.
    pub connected: bool,
    /// Names of the negotiated device features, as the virtio standard writes them.
    pub features: Vec<String>,
    /// Names of the negotiated protocol features.
    pub protocol_features: Vec<String>,
    /// Device status, as the front end told it (virtio 1.2, section 2.1).
    pub device_status: u8,
    /// The rings' layout, once there are rings.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub layout: Option<RingLayout>,
    /// Descriptors in the largest ring, once there are rings.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ring_size: Option<u32>,
    /// The rings that the driver has described.
    pub rings: Vec<RingInfo>,
    /// Regions of shared memory.
    pub regions: usize,
    /// Their bytes.
    pub bytes: u64,
    /// Whether none of them can shrink.
    pub sealed: bool,
    /// Whether written pages are logged: a migration is under way.
    pub logging: bool,
    /// The MTU that the front end told; null if it did not.
    pub guest_mtu: Option<u16>,
    /// Connections that were reset for what the peer did wrong, by reason.
    pub faults: BTreeMap<String, u64>,
}

/// A ring's layout (virtio 1.2, sections 2.7 and 2.8).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[schemars(inline)]
pub enum RingLayout {
    /// Descriptors, what is available and what is used are apart.
    Split,
    /// They are in one ring.
    Packed,
}

/// A ring of a `vhost-user` port.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct RingInfo {
    /// Its index: even where the driver receives, odd where it sends.
    pub index: u16,
    /// Descriptors.
    pub size: u32,
    /// Whether it is packed, else split.
    pub packed: bool,
    /// Whether it was started.
    pub started: bool,
    /// Whether it is enabled.
    pub enabled: bool,
    /// Notifications from the driver.
    pub kicks: u64,
    /// Interrupts to the driver.
    pub interrupts: u64,
}

/// What only a `tap` port has.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct TapDetail {
    /// The device's name; once there is one, as it is now: whoever is root in the container may change it.
    pub ifname: String,
    /// The file of its network namespace; left out if it is the host's own, or its container does not run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub netns: Option<String>,
    /// The container that it is in, if that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub container: Option<String>,
    /// The addresses that it was given.
    pub addresses: Vec<String>,
    /// The routes through it that were added.
    pub routes: Vec<String>,
    /// Without what the device has no carrier: `port` or `underlay`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub link_follows: Option<String>,
    /// Whether UDP datagrams cross unsegmented, too, in both directions; left out while there is no device.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uso: Option<bool>,
    /// Who copies frames between the switch and the kernel: `vhost-net` or `syscall`; `auto` while there is no device and it is not known.
    #[serde(default)]
    pub transport: String,
}

/// What only an `eth` port has. What the device says is left out while it is not open; its counts begin when it is opened.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct EthDetail {
    /// The device.
    pub device: String,
    /// Descriptors in a queue: configured, or of the device.
    pub ring_size: u32,
    /// DPDK's driver for it, or `packet` if the kernel drives it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub driver: Option<String>,
    /// Whether the device spreads flows over the queues.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rss: Option<bool>,
    /// The link's speed, Mbit/s; null if it is not known.
    pub speed_mbps: Option<u32>,
    /// Packets that the device had no room for: in the drops as `rx.missed`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub missed: Option<u64>,
    /// Packets that there was no buffer for: in the drops as `rx.missed`, too.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub no_buffer: Option<u64>,
    /// Packets received with an error: in the drops as `rx.error`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rx_errors: Option<u64>,
    /// Packets that the device took and did not send: in the drops as `tx.device`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tx_errors: Option<u64>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{from_value, json, to_value};

    /// What an older or a newer drayd says, too.
    #[test]
    fn fields_tell_the_kinds_apart() {
        let memif = json!({ "socket": "/m", "id": 1, "role": "server", "ring_size": 1024, "buffer_size": 2048 });
        let eth = json!({ "device": "net_tap0", "ring_size": 1024, "speed_mbps": null, "rss": true });
        let vm = PortDetail::VhostUser(VhostUserDetail { role: Role::Client, ..VhostUserDetail::default() });
        let later = json!({ "device": "tap0", "netns": "web" });
        let read = |value: &Value| from_value::<PortDetail>(value.clone()).unwrap();
        assert!(read(&memif).memif().is_some_and(|detail| detail.role == Role::Server));
        assert!(read(&eth).eth().is_some_and(|detail| detail.rss == Some(true)));
        assert_eq!(read(&to_value(&vm).unwrap()), vm);
        assert!(matches!(read(&later), PortDetail::Other(_)));
        for value in [&memif, &eth, &later] {
            assert_eq!(to_value(read(value)).unwrap(), *value);
        }
    }
}
