//! What the stages look things up in: built on the control thread from the validated configuration, published as one
//! immutable whole, never changed afterwards.

use crate::fdb::Egress;
use crate::wire;
use dray_config::Mac;
use std::net::Ipv4Addr;

/// No bridge: bridges count from 1.
pub const NO_BRIDGE: u16 = 0;

/// One published snapshot.
#[derive(Default)]
pub struct Tables {
    /// By port number.
    pub ports: Vec<PortTable>,
    /// By bridge number; number 0 is nobody's.
    pub bridges: Vec<BridgeTable>,
    /// The VXLAN overlay, if there is one.
    pub overlay: Option<Overlay>,
}

/// What a port's frames belong to.
#[derive(Clone, Default)]
pub enum PortTable {
    /// In no bridge: all frames are dropped.
    #[default]
    Unused,
    /// The overlay's underlay port.
    Underlay,
    /// Untagged in one bridge.
    Access(u16),
    /// By VLAN: entry 0 is the untagged bridge, [`NO_BRIDGE`] where there is none.
    Trunk(Box<[u16; 4096]>),
}

/// Who gets a bridge's flooded frames.
#[derive(Clone, Default)]
pub struct BridgeTable {
    /// Member ports and, if the bridge has a VNI, the tunnels of its head-end replication list.
    pub flood: Vec<Egress>,
    /// VXLAN network identifier; 0 if the bridge is local.
    pub vni: u32,
}

/// The VXLAN overlay (RFC 7348) over IPv4.
pub struct Overlay {
    /// Underlay port number.
    pub port: u16,
    /// The VTEP's own MAC on the underlay.
    pub mac: Mac,
    /// The VTEP's own address.
    pub local: Ipv4Addr,
    /// UDP destination port.
    pub udp_port: u16,
    /// Longest outer IP packet, bytes.
    pub mtu: u16,
    /// Whether packets of unknown VTEPs are taken.
    pub learn_vteps: bool,
    /// VNI -> bridge number.
    pub vnis: IntMap,
    /// VTEP address -> tunnel number.
    pub vteps: IntMap,
    /// By tunnel number.
    pub tunnels: Vec<Tunnel>,
}

/// Bytes that encapsulation puts before a frame: Ethernet, IPv4, UDP, VXLAN.
pub const OUTER: usize = 14 + 20 + 8 + 8;

/// One remote VTEP.
#[derive(Clone, Default)]
pub struct Tunnel {
    /// The outer headers but for lengths, checksum, source port and VNI; none while the next hop isn't resolved.
    pub template: Option<[u8; OUTER]>,
    /// Sum of the template's IPv4 header as 16-bit words, with a length of zero (RFC 1071).
    pub sum: u32,
}

impl Tunnel {
    /// Outer headers from `mac`/`local` to the VTEP `remote` by way of the neighbour `next_hop`. DF is set, TTL is 64.
    pub fn new(mac: Mac, local: Ipv4Addr, udp_port: u16, remote: Ipv4Addr, next_hop: Mac) -> Self {
        let mut t = [0; OUTER];
        t[0..6].copy_from_slice(&next_hop.0);
        t[6..12].copy_from_slice(&mac.0);
        t[12..16].copy_from_slice(&[0x08, 0x00, 0x45, 0x00]);
        t[20..24].copy_from_slice(&[0x40, 0x00, 64, 17]);
        t[26..30].copy_from_slice(&local.octets());
        t[30..34].copy_from_slice(&remote.octets());
        t[36..38].copy_from_slice(&udp_port.to_be_bytes());
        t[42] = 0x08;
        let sum = wire::sum(&t[14..34]);
        Tunnel { template: Some(t), sum }
    }
}

/// A small map from u32 to u16 that is built once: open addressing, at most a quarter full.
#[derive(Clone, Default)]
pub struct IntMap {
    /// Key and value; a value of `u16::MAX` is an empty place.
    places: Vec<(u32, u16)>,
    shift: u32,
}

impl IntMap {
    /// A map of `pairs`, whose keys are distinct and whose values are below `u16::MAX`.
    pub fn new(pairs: impl ExactSizeIterator<Item = (u32, u16)>) -> Self {
        let size = (pairs.len() * 4).next_power_of_two().max(16);
        let mut map = IntMap { places: vec![(0, u16::MAX); size], shift: 32 - size.ilog2() };
        for (key, value) in pairs {
            let mut at = map.start(key);
            while map.places[at].1 != u16::MAX {
                at = (at + 1) & (size - 1);
            }
            map.places[at] = (key, value);
        }
        map
    }

    #[inline(always)]
    fn start(&self, key: u32) -> usize {
        // Fibonacci hashing: the keys are the operator's own, so nothing needs to be hidden from anybody.
        (key.wrapping_mul(0x9e37_79b1) >> self.shift) as usize
    }

    /// The value of `key`.
    #[inline(always)]
    pub fn get(&self, key: u32) -> Option<u16> {
        if self.places.is_empty() {
            return None;
        }
        let mut at = self.start(key);
        loop {
            match self.places[at] {
                (_, u16::MAX) => return None,
                (k, value) if k == key => return Some(value),
                _ => at = (at + 1) & (self.places.len() - 1),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_int_map_finds_all_it_was_given_and_nothing_else() {
        let map = IntMap::new((0..4096u32).map(|n| (n * 7 + 1, n as u16)));
        assert!((0..4096u32).all(|n| map.get(n * 7 + 1) == Some(n as u16) && map.get(n * 7 + 2).is_none()));
        assert_eq!(IntMap::default().get(5), None);
    }

    #[test]
    fn a_template_is_an_ipv4_udp_vxlan_header() {
        let t = Tunnel::new(
            Mac([2, 0, 0, 0, 0, 1]),
            Ipv4Addr::new(10, 9, 0, 1),
            4789,
            Ipv4Addr::new(10, 9, 0, 2),
            Mac([2, 0, 0, 0, 0, 2]),
        );
        #[rustfmt::skip]
        let expected = [
            2, 0, 0, 0, 0, 2,  2, 0, 0, 0, 0, 1,  0x08, 0x00,
            0x45, 0, 0, 0,  0, 0, 0x40, 0,  64, 17, 0, 0,  10, 9, 0, 1,  10, 9, 0, 2,
            0, 0, 0x12, 0xb5,  0, 0, 0, 0,
            0x08, 0, 0, 0,  0, 0, 0, 0,
        ];
        assert_eq!(t.template, Some(expected));
        assert_eq!(t.sum, 0x4500 + 0x4000 + 0x4011 + 0x0a09 + 1 + 0x0a09 + 2);
    }
}
