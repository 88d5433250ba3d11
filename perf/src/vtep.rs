//! The VXLAN tunnel endpoint (VTEP) that the generator plays at the other end of a switch's tunnel: the outer headers of
//! its frames (RFC 7348, section 5), and ARP (RFC 826) for its address.

use crate::frames::checksum;
use smoltcp::wire::{ArpOperation, ArpPacket, ArpRepr, EthernetAddress, EthernetFrame, EthernetProtocol};
use std::net::Ipv4Addr;

/// Outer headers: Ethernet, IPv4, UDP, VXLAN.
pub const OUTER: usize = ETH + 20 + 8 + 8;
/// VXLAN's UDP port (RFC 7348, section 8).
const PORT: u16 = 4789;
const ETH: usize = 14;
/// The generator's MAC address on the underlay.
const OUR_MAC: EthernetAddress = EthernetAddress([0x02, 0xc0, 0, 0, 0, 1]);
/// An ARP packet in the smallest Ethernet frame.
pub const ARP_LEN: usize = 60;

/// A tunnel between the generator and the switch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tunnel {
    /// VXLAN network identifier, 24 bits.
    pub vni: u32,
    /// The generator's address.
    pub local: Ipv4Addr,
    /// The switch's address, on the same network.
    pub switch: Ipv4Addr,
}

impl Tunnel {
    /// The outer headers of an inner frame of `size` bytes and of `flow`. The switch's MAC address, the first 6 bytes, is zeros
    /// until it is known. There is no UDP checksum, and the source port is the flow's, as RFC 7348 has it.
    pub fn outer(&self, size: usize, flow: u32) -> [u8; OUTER] {
        let mut b = [0; OUTER];
        b[6..12].copy_from_slice(&OUR_MAC.0);
        b[12..14].copy_from_slice(&[0x08, 0x00]);
        // DF, TTL 64, UDP.
        b[14..16].copy_from_slice(&[0x45, 0]);
        b[16..18].copy_from_slice(&((OUTER - ETH + size) as u16).to_be_bytes());
        b[20..24].copy_from_slice(&[0x40, 0, 64, 17]);
        b[26..30].copy_from_slice(&self.local.octets());
        b[30..34].copy_from_slice(&self.switch.octets());
        let sum = checksum(&[&b[14..34]]);
        b[24..26].copy_from_slice(&sum.to_be_bytes());
        b[34..36].copy_from_slice(&(49152 + (flow % 16384) as u16).to_be_bytes());
        b[36..38].copy_from_slice(&PORT.to_be_bytes());
        b[38..40].copy_from_slice(&((16 + size) as u16).to_be_bytes());
        // The flag that says that there is a VNI.
        b[42] = 0x08;
        b[46..50].copy_from_slice(&(self.vni << 8).to_be_bytes());
        b
    }

    fn arp(&self, operation: ArpOperation, to: EthernetAddress, target: (EthernetAddress, Ipv4Addr)) -> [u8; ARP_LEN] {
        let mut bytes = [0; ARP_LEN];
        let mut eth = EthernetFrame::new_unchecked(&mut bytes[..]);
        eth.set_dst_addr(to);
        eth.set_src_addr(OUR_MAC);
        eth.set_ethertype(EthernetProtocol::Arp);
        let arp = ArpRepr::EthernetIpv4 {
            operation,
            source_hardware_addr: OUR_MAC,
            source_protocol_addr: self.local,
            target_hardware_addr: target.0,
            target_protocol_addr: target.1,
        };
        arp.emit(&mut ArpPacket::new_unchecked(&mut bytes[ETH..]));
        bytes
    }

    /// Asks for the switch's MAC address.
    pub fn request(&self) -> [u8; ARP_LEN] {
        self.arp(ArpOperation::Request, EthernetAddress::BROADCAST, (EthernetAddress([0; 6]), self.switch))
    }

    /// Says who we are, which nobody answers (RFC 5227, section 3). Whoever knows us takes it as a sign of life, and need not
    /// ask.
    pub fn announcement(&self) -> [u8; ARP_LEN] {
        self.arp(ArpOperation::Request, EthernetAddress::BROADCAST, (EthernetAddress([0; 6]), self.local))
    }

    /// What the frame says, if it is of ARP.
    pub fn read(&self, frame: &[u8]) -> Option<Heard> {
        let eth = EthernetFrame::new_checked(frame).ok()?;
        if eth.ethertype() != EthernetProtocol::Arp {
            return None;
        }
        let ArpRepr::EthernetIpv4 {
            operation,
            source_hardware_addr: mac,
            source_protocol_addr: from,
            target_protocol_addr: target,
            ..
        } = ArpRepr::parse(&ArpPacket::new_checked(eth.payload()).ok()?).ok()?
        else {
            return None;
        };
        let asks = operation == ArpOperation::Request && target == self.local;
        Some(Heard {
            switch: (from == self.switch && mac.is_unicast()).then_some(mac.0),
            reply: asks.then(|| self.arp(ArpOperation::Reply, mac, (mac, from))),
        })
    }
}

/// What an ARP packet said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Heard {
    /// The switch's MAC address, if it was the switch.
    pub switch: Option<[u8; 6]>,
    /// The answer, if there is to be one.
    pub reply: Option<[u8; ARP_LEN]>,
}

#[cfg(test)]
mod tests {
    use super::*;

    const TUNNEL: Tunnel =
        Tunnel { vni: 0x01_0203, local: Ipv4Addr::new(10, 9, 0, 2), switch: Ipv4Addr::new(10, 9, 0, 1) };

    #[test]
    fn outer_headers() {
        #[rustfmt::skip]
        let expected = [
            0, 0, 0, 0, 0, 0, 0x02, 0xc0, 0, 0, 0, 1, 0x08, 0x00,
            0x45, 0, 0, 96, 0, 0, 0x40, 0, 64, 17, 0x26, 0x79, 10, 9, 0, 2, 10, 9, 0, 1,
            0xc1, 0x02, 0x12, 0xb5, 0, 76, 0, 0,
            0x08, 0, 0, 0, 1, 2, 3, 0,
        ];
        assert_eq!(TUNNEL.outer(60, 0x0102), expected);
    }

    #[test]
    fn arp() {
        let mut request = [0; ARP_LEN];
        #[rustfmt::skip]
        request[..42].copy_from_slice(&[
            0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x02, 0x99, 0, 0, 0, 7, 0x08, 0x06,
            0, 1, 8, 0, 6, 4, 0, 1,
            0x02, 0x99, 0, 0, 0, 7, 10, 9, 0, 1,
            0, 0, 0, 0, 0, 0, 10, 9, 0, 2,
        ]);
        let mut reply = [0; ARP_LEN];
        #[rustfmt::skip]
        reply[..42].copy_from_slice(&[
            0x02, 0x99, 0, 0, 0, 7, 0x02, 0xc0, 0, 0, 0, 1, 0x08, 0x06,
            0, 1, 8, 0, 6, 4, 0, 2,
            0x02, 0xc0, 0, 0, 0, 1, 10, 9, 0, 2,
            0x02, 0x99, 0, 0, 0, 7, 10, 9, 0, 1,
        ]);
        assert_eq!(TUNNEL.read(&request), Some(Heard { switch: Some([0x02, 0x99, 0, 0, 0, 7]), reply: Some(reply) }));
        // For somebody else's address: it is heard, and not answered.
        request[41] = 3;
        assert_eq!(TUNNEL.read(&request), Some(Heard { switch: Some([0x02, 0x99, 0, 0, 0, 7]), reply: None }));
        // From somebody else.
        request[31] = 9;
        assert_eq!(TUNNEL.read(&request), Some(Heard { switch: None, reply: None }));
        request[13] = 0;
        assert_eq!(TUNNEL.read(&request), None);
        assert_eq!(TUNNEL.read(&request[..30]), None);
        let (ask, tell) = (TUNNEL.request(), TUNNEL.announcement());
        assert_eq!(
            (&ask[..6], &ask[20..22], &ask[28..32], &ask[38..42]),
            (&[0xff; 6][..], &[0, 1][..], &[10, 9, 0, 2][..], &[10, 9, 0, 1][..])
        );
        assert_eq!(
            (&tell[..6], &tell[20..22], &tell[28..32], &tell[38..42]),
            (&[0xff; 6][..], &[0, 1][..], &[10, 9, 0, 2][..], &[10, 9, 0, 2][..])
        );
    }
}
