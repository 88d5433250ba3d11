//! What is written before frames that leave by tunnels.

use crate::wire;
use dray_config::Mac;
use std::net::Ipv4Addr;
use std::num::NonZeroU16;

/// Bytes that encapsulation puts before a frame: Ethernet, IPv4, UDP, VXLAN.
pub const OUTER: usize = 14 + 20 + 8 + 8;

/// The adjacencies that need more than a number.
#[derive(Clone, Default)]
pub struct Adjacencies {
    /// Tunnels, by number.
    pub tunnels: Vec<Tunnel>,
    /// What tunnels have in common, by the number in each.
    pub encaps: Vec<Encap>,
}

impl Adjacencies {
    /// Tunnel number `tunnel`, what it shares with others, and the sum of its outer IPv4 header. None if its next hop is not resolved, or
    /// if there is no such tunnel: an FDB entry may name one that the newest tables don't have any more.
    #[inline(always)]
    pub(crate) fn resolved(&self, tunnel: u16) -> Option<(&Tunnel, &Encap, u16)> {
        let tunnel = self.tunnels.get(usize::from(tunnel))?;
        let sum = tunnel.sum?.get();
        Some((tunnel, self.encaps.get(usize::from(tunnel.encap))?, sum))
    }
}

/// What the tunnels that begin at one VTEP have in common: VXLAN (RFC 7348) over IPv4.
#[derive(Clone)]
pub struct Encap {
    /// Underlay port number.
    pub port: u16,
    /// Longest outer IP packet, bytes.
    pub mtu: u16,
    /// Bridge number -> VNI. Of each frame's bridge encapsulation reads nothing else, so they lie close together.
    pub vnis: Vec<u32>,
    /// Outer headers.
    template: [u8; OUTER],
}

impl Encap {
    /// Of the VTEP with the addresses `mac` and `local` on underlay port `port`, whose peers listen on `udp_port`. Without networks, with
    /// an MTU of 1500. DF is set, TTL is 64.
    pub fn new(port: u16, mac: Mac, local: Ipv4Addr, udp_port: u16) -> Self {
        let mut t = [0; OUTER];
        t[6..12].copy_from_slice(&mac.0);
        t[12..16].copy_from_slice(&[0x08, 0x00, 0x45, 0x00]);
        t[20..24].copy_from_slice(&[0x40, 0x00, 64, 17]);
        t[26..30].copy_from_slice(&local.octets());
        t[36..38].copy_from_slice(&udp_port.to_be_bytes());
        t[42] = 0x08;
        Encap { port, mtu: 1500, vnis: Vec::new(), template: t }
    }

    /// A tunnel to the VTEP `remote` by way of the neighbour `next_hop`; this is number `of` in the tables.
    pub fn tunnel(&self, of: u16, remote: Ipv4Addr, next_hop: Mac) -> Tunnel {
        let mut start = *self.template.first_chunk().expect("longer");
        start[..6].copy_from_slice(&next_hop.0);
        let mut tunnel = Tunnel { start, remote: remote.octets(), sum: None, encap: of };
        let mut headers = [0; OUTER];
        self.write_headers(&tunnel, &mut headers);
        tunnel.sum = NonZeroU16::new(wire::fold(wire::sum(&headers[14..34])));
        tunnel
    }

    /// Writes the outer headers in `tunnel`, but for lengths, checksum, source port and VNI, which are zero.
    #[inline(always)]
    pub fn write_headers(&self, tunnel: &Tunnel, headers: &mut [u8; OUTER]) {
        *headers = self.template;
        headers[..8].copy_from_slice(&tunnel.start);
        headers[30..34].copy_from_slice(&tunnel.remote);
    }
}

/// One remote VTEP: what is its own in the outer headers. A quarter of a cache line, for each frame may go into another tunnel.
#[derive(Clone, Copy, Default)]
#[repr(align(16))]
pub struct Tunnel {
    /// The next hop's MAC and the beginning of our own: one word is written sooner than two pieces of it.
    start: [u8; 8],
    remote: [u8; 4],
    /// Sum of the outer IPv4 header as 16-bit words, with a length of zero (RFC 1071); none while the next hop isn't resolved.
    pub sum: Option<NonZeroU16>,
    /// Where in [`Adjacencies::encaps`] the rest is.
    encap: u16,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_are_ethernet_ipv4_udp_vxlan() {
        let encap = Encap::new(0, Mac([2, 0, 0, 0, 0, 1]), Ipv4Addr::new(10, 9, 0, 1), 4789);
        let tunnel = encap.tunnel(0, Ipv4Addr::new(10, 9, 0, 2), Mac([2, 0, 0, 0, 0, 2]));
        #[rustfmt::skip]
        let expected = [
            2, 0, 0, 0, 0, 2,  2, 0, 0, 0, 0, 1,  0x08, 0x00,
            0x45, 0, 0, 0,  0, 0, 0x40, 0,  64, 17, 0, 0,  10, 9, 0, 1,  10, 9, 0, 2,
            0, 0, 0x12, 0xb5,  0, 0, 0, 0,
            0x08, 0, 0, 0,  0, 0, 0, 0,
        ];
        let mut headers = [0xff; OUTER];
        encap.write_headers(&tunnel, &mut headers);
        assert_eq!(headers, expected);
        assert_eq!(tunnel.sum.unwrap().get(), 0x4500 + 0x4000 + 0x4011 + 0x0a09 + 1 + 0x0a09 + 2);
        assert_eq!(size_of::<Tunnel>(), 16);
    }

    #[test]
    fn a_tunnel_is_resolved_or_not_there() {
        let encap = |port| Encap::new(port, Mac([2, 0, 0, 0, 0, 1]), Ipv4Addr::new(10, 9, 0, 1), 4789);
        let tunnel = |of| encap(of).tunnel(of, Ipv4Addr::new(10, 9, 0, 2), Mac([2, 0, 0, 0, 0, 2]));
        let adjacencies = Adjacencies {
            tunnels: vec![tunnel(1), Tunnel::default(), tunnel(0), tunnel(2)],
            encaps: vec![encap(7), encap(8)],
        };
        let port = |number| adjacencies.resolved(number).map(|(_, encap, _)| encap.port);
        assert_eq!([0, 1, 2, 3, 4].map(port), [Some(8), None, Some(7), None, None]);
    }
}
