//! Feature bits, and what of them is offered.

use dray_switch::offload::Accepts;

/// Device features (virtio 1.2, sections 5.1.3 and 6), and those that vhost-user adds.
pub const NET_F_CSUM: u64 = 1 << 0;
pub const NET_F_GUEST_CSUM: u64 = 1 << 1;
pub const NET_F_MTU: u64 = 1 << 3;
pub const NET_F_GUEST_TSO4: u64 = 1 << 7;
pub const NET_F_GUEST_TSO6: u64 = 1 << 8;
pub const NET_F_GUEST_ECN: u64 = 1 << 9;
pub const NET_F_HOST_TSO4: u64 = 1 << 11;
pub const NET_F_HOST_TSO6: u64 = 1 << 12;
pub const NET_F_HOST_ECN: u64 = 1 << 13;
pub const NET_F_MRG_RXBUF: u64 = 1 << 15;
pub const NET_F_CTRL_VQ: u64 = 1 << 17;
pub const NET_F_CTRL_RX: u64 = 1 << 18;
pub const NET_F_CTRL_VLAN: u64 = 1 << 19;
pub const NET_F_GUEST_ANNOUNCE: u64 = 1 << 21;
pub const NET_F_MQ: u64 = 1 << 22;
pub const NET_F_CTRL_MAC_ADDR: u64 = 1 << 23;
pub const F_LOG_ALL: u64 = 1 << 26;
pub const F_ANY_LAYOUT: u64 = 1 << 27;
pub const RING_F_INDIRECT_DESC: u64 = 1 << 28;
pub const RING_F_EVENT_IDX: u64 = 1 << 29;
pub const F_PROTOCOL_FEATURES: u64 = 1 << 30;
pub const F_VERSION_1: u64 = 1 << 32;
pub const F_RING_PACKED: u64 = 1 << 34;
pub const F_IN_ORDER: u64 = 1 << 35;
pub const F_RING_RESET: u64 = 1 << 40;
pub const NET_F_GUEST_USO4: u64 = 1 << 54;
pub const NET_F_GUEST_USO6: u64 = 1 << 55;
pub const NET_F_HOST_USO: u64 = 1 << 56;

/// What is offered of them, with their names.
///
/// The control queue is the front end's to serve (QEMU, virtio-user and Cloud Hypervisor all do, and no ring of it is ever described to
/// us), and so are the device's registers. Its features are offered because front ends leave out what the back end
/// doesn't have. Not so `VIRTIO_NET_F_MAC`, `STATUS` and `SPEED_DUPLEX`: these say that a register holds something. QEMU
/// and virtio-user add them by themselves, and a front end that passed them on from us without filling the register would show its
/// driver a link that is down. `CTRL_GUEST_OFFLOADS` would let the driver change what it accepts, and nothing tells us.
const DEVICE: [(u64, &str); 28] = [
    (NET_F_CSUM, "VIRTIO_NET_F_CSUM"),
    (NET_F_GUEST_CSUM, "VIRTIO_NET_F_GUEST_CSUM"),
    (NET_F_MTU, "VIRTIO_NET_F_MTU"),
    (NET_F_GUEST_TSO4, "VIRTIO_NET_F_GUEST_TSO4"),
    (NET_F_GUEST_TSO6, "VIRTIO_NET_F_GUEST_TSO6"),
    (NET_F_GUEST_ECN, "VIRTIO_NET_F_GUEST_ECN"),
    (NET_F_HOST_TSO4, "VIRTIO_NET_F_HOST_TSO4"),
    (NET_F_HOST_TSO6, "VIRTIO_NET_F_HOST_TSO6"),
    (NET_F_HOST_ECN, "VIRTIO_NET_F_HOST_ECN"),
    (NET_F_MRG_RXBUF, "VIRTIO_NET_F_MRG_RXBUF"),
    (NET_F_CTRL_VQ, "VIRTIO_NET_F_CTRL_VQ"),
    (NET_F_CTRL_RX, "VIRTIO_NET_F_CTRL_RX"),
    (NET_F_CTRL_VLAN, "VIRTIO_NET_F_CTRL_VLAN"),
    (NET_F_GUEST_ANNOUNCE, "VIRTIO_NET_F_GUEST_ANNOUNCE"),
    (NET_F_MQ, "VIRTIO_NET_F_MQ"),
    (NET_F_CTRL_MAC_ADDR, "VIRTIO_NET_F_CTRL_MAC_ADDR"),
    (F_LOG_ALL, "VHOST_F_LOG_ALL"),
    (F_ANY_LAYOUT, "VIRTIO_F_ANY_LAYOUT"),
    (RING_F_INDIRECT_DESC, "VIRTIO_F_INDIRECT_DESC"),
    (RING_F_EVENT_IDX, "VIRTIO_F_EVENT_IDX"),
    (F_PROTOCOL_FEATURES, "VHOST_USER_F_PROTOCOL_FEATURES"),
    (F_VERSION_1, "VIRTIO_F_VERSION_1"),
    (F_RING_PACKED, "VIRTIO_F_RING_PACKED"),
    (F_IN_ORDER, "VIRTIO_F_IN_ORDER"),
    (F_RING_RESET, "VIRTIO_F_RING_RESET"),
    (NET_F_GUEST_USO4, "VIRTIO_NET_F_GUEST_USO4"),
    (NET_F_GUEST_USO6, "VIRTIO_NET_F_GUEST_USO6"),
    (NET_F_HOST_USO, "VIRTIO_NET_F_HOST_USO"),
];

/// Protocol features (`vhost-user.rst`, "Protocol features").
pub const PROTOCOL_F_MQ: u64 = 1 << 0;
pub const PROTOCOL_F_LOG_SHMFD: u64 = 1 << 1;
pub const PROTOCOL_F_REPLY_ACK: u64 = 1 << 3;
pub const PROTOCOL_F_MTU: u64 = 1 << 4;
pub const PROTOCOL_F_CONFIGURE_MEM_SLOTS: u64 = 1 << 15;
pub const PROTOCOL_F_STATUS: u64 = 1 << 16;

/// What is offered of them, with their names.
///
/// `RARP` is not: drivers have announced themselves after a migration (`VIRTIO_NET_F_GUEST_ANNOUNCE`) since 2011. Nor are host notifiers
/// and the channel for requests of ours: we poll, and have none.
const PROTOCOL: [(u64, &str); 6] = [
    (PROTOCOL_F_MQ, "VHOST_USER_PROTOCOL_F_MQ"),
    (PROTOCOL_F_LOG_SHMFD, "VHOST_USER_PROTOCOL_F_LOG_SHMFD"),
    (PROTOCOL_F_REPLY_ACK, "VHOST_USER_PROTOCOL_F_REPLY_ACK"),
    (PROTOCOL_F_MTU, "VHOST_USER_PROTOCOL_F_NET_MTU"),
    (PROTOCOL_F_CONFIGURE_MEM_SLOTS, "VHOST_USER_PROTOCOL_F_CONFIGURE_MEM_SLOTS"),
    (PROTOCOL_F_STATUS, "VHOST_USER_PROTOCOL_F_STATUS"),
];

/// The device features offered.
pub const OFFERED: u64 = bits(&DEVICE);

/// The protocol features offered.
pub const PROTOCOL_OFFERED: u64 = bits(&PROTOCOL);

const fn bits(table: &[(u64, &str)]) -> u64 {
    let (mut all, mut i) = (0, 0);
    while i < table.len() {
        all |= table[i].0;
        i += 1;
    }
    all
}

fn names(table: &[(u64, &'static str)], bits: u64) -> Vec<&'static str> {
    table.iter().filter(|(bit, _)| bits & bit != 0).map(|&(_, name)| name).collect()
}

/// The names of device features.
pub fn device_names(bits: u64) -> Vec<&'static str> {
    names(&DEVICE, bits)
}

/// The names of protocol features.
pub fn protocol_names(bits: u64) -> Vec<&'static str> {
    names(&PROTOCOL, bits)
}

/// What a driver that negotiated `features` takes.
pub(super) fn accepts(features: u64) -> Accepts {
    let csum = features & NET_F_GUEST_CSUM != 0;
    let has = |bit: u64| csum && features & bit != 0;
    Accepts {
        csum,
        tso4: has(NET_F_GUEST_TSO4),
        tso6: has(NET_F_GUEST_TSO6),
        ecn: has(NET_F_GUEST_ECN),
        uso4: has(NET_F_GUEST_USO4),
        uso6: has(NET_F_GUEST_USO6),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_bit_has_one_name() {
        assert_eq!(OFFERED.count_ones() as usize, DEVICE.len());
        assert_eq!(PROTOCOL_OFFERED.count_ones() as usize, PROTOCOL.len());
        assert_eq!(device_names(NET_F_CSUM | F_VERSION_1), ["VIRTIO_NET_F_CSUM", "VIRTIO_F_VERSION_1"]);
        assert_eq!(protocol_names(PROTOCOL_F_MQ), ["VHOST_USER_PROTOCOL_F_MQ"]);
        assert_eq!(device_names(1 << 5), Vec::<&str>::new());
    }
}
