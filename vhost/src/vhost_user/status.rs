//! What a port shows of itself.

use std::collections::BTreeMap;

/// What there is to tell when a link comes up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LinkInfo {
    /// Receive queues: rings that the driver sends on.
    pub rx_rings: u16,
    /// Transmit queues: rings that the driver receives on.
    pub tx_rings: u16,
    /// Whether the rings are packed, else split.
    pub packed: bool,
    /// Descriptors of the largest ring.
    pub ring_size: u32,
    /// Whether none of the regions can shrink.
    pub sealed: bool,
}

/// A port as it is now.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Status {
    /// Whether a front end is connected.
    pub connected: bool,
    /// Names of the negotiated device features, as the virtio standard writes them: `VIRTIO_NET_F_MRG_RXBUF`.
    pub features: Vec<&'static str>,
    /// Names of the negotiated protocol features: `VHOST_USER_PROTOCOL_F_MQ`.
    pub protocol_features: Vec<&'static str>,
    /// All rings that were described, by index.
    pub rings: Vec<RingStatus>,
    /// Regions of shared memory.
    pub regions: usize,
    /// Their bytes.
    pub bytes: u64,
    /// Whether none of them can shrink.
    pub sealed: bool,
    /// Whether written pages are logged (a migration is under way).
    pub logging: bool,
    /// The MTU that the front end told us (`VHOST_USER_NET_SET_MTU`), if it did.
    pub mtu: Option<u16>,
    /// Device status as the front end told it (virtio 1.2, section 2.1).
    pub device_status: u8,
    /// How often the connection was reset for what the peer did wrong, by reason ([`super::Fault::name`]).
    pub faults: BTreeMap<&'static str, u64>,
}

/// A ring as it is now.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RingStatus {
    /// Its index: even ones the driver receives on, odd ones it sends on.
    pub index: u16,
    /// Descriptors.
    pub size: u32,
    /// Whether it is packed, else split.
    pub packed: bool,
    /// Whether it was started (it has addresses and a kick descriptor).
    pub started: bool,
    /// Whether it is enabled.
    pub enabled: bool,
    /// Notifications that the driver sent us, which we don't need; as counted by its eventfd.
    pub kicks: u64,
    /// Interrupts that we sent the driver.
    pub interrupts: u64,
}
