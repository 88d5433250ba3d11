//! The header fields that the stages read and write, by offset in a frame's head.

/// Ethernet header, bytes.
pub const ETH: usize = 14;
/// An 802.1Q tag, bytes.
pub const TAG: usize = 4;
/// Bytes that a frame has beyond its MTU: Ethernet header and one VLAN tag.
pub const OVERHEAD: u32 = (ETH + TAG) as u32;
/// EtherType of IPv4.
pub const IPV4: u16 = 0x0800;
/// EtherType of ARP.
pub const ARP: u16 = 0x0806;
/// EtherType of IPv6.
pub const IPV6: u16 = 0x86dd;
/// EtherType of an 802.1Q tag.
pub const VLAN: u16 = 0x8100;
/// EtherType of an 802.1ad tag.
pub const SERVICE_VLAN: u16 = 0x88a8;
/// Whether an EtherType is a VLAN tag's.
#[inline(always)]
pub fn is_tag(ether_type: u16) -> bool {
    matches!(ether_type, VLAN | SERVICE_VLAN)
}

/// IP protocol ICMP.
pub const ICMP: u8 = 1;
/// IP protocol TCP.
pub const TCP: u8 = 6;
/// IP protocol UDP.
pub const UDP: u8 = 17;
/// IP protocol DCCP.
pub const DCCP: u8 = 33;
/// IP protocol SCTP.
pub const SCTP: u8 = 132;
/// IP protocol ICMPv6.
pub const ICMPV6: u8 = 58;
/// UDP header, bytes.
pub const UDP_HEADER: usize = 8;

/// The 16-bit word at `at`, network order.
#[inline(always)]
pub fn be16(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}

/// The 32-bit word at `at`, network order.
#[inline(always)]
pub fn be32(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

/// The 64-bit word at `at`, network order.
#[inline(always)]
pub fn be64(bytes: &[u8], at: usize) -> u64 {
    u64::from_be_bytes(bytes[at..at + 8].try_into().expect("8 bytes"))
}

/// The sum of an even number of bytes as 16-bit words (RFC 1071), not yet folded.
#[inline]
pub fn sum(bytes: &[u8]) -> u32 {
    bytes.chunks_exact(2).map(|w| u32::from(be16(w, 0))).sum()
}

/// The one's-complement sum of 16-bit words folded to 16 bits (RFC 1071).
#[inline(always)]
pub fn fold(mut sum: u32) -> u16 {
    sum = (sum & 0xffff) + (sum >> 16);
    sum = (sum & 0xffff) + (sum >> 16);
    sum as u16
}

/// The bits of a traffic class that are for ECN (RFC 3168, section 5).
pub const ECN: u8 = 3;
/// ECN: a router was congested. ECT(1) is 1, ECT(0) 2, and 0 says that the transport does not know ECN.
pub const CE: u8 = 3;

/// What ECN an inner packet has after it was in a tunnel whose outer header has `outer` (RFC 6040, section 4.2, figure 4). `None`: it is
/// to be dropped, for its transport would not hear of the congestion.
pub fn ecn_of_inner(inner: u8, outer: u8) -> Option<u8> {
    const NOT_ECT: u8 = 0;
    const ECT_1: u8 = 1;
    match (inner & ECN, outer & ECN) {
        (NOT_ECT, CE) => None,
        (NOT_ECT, _) => Some(NOT_ECT),
        (_, CE) => Some(CE),
        (CE, _) => Some(CE),
        (_, ECT_1) => Some(ECT_1),
        (inner, _) => Some(inner),
    }
}

/// Sets the ECN bits of the IP packet in a frame that begins with `head`, and corrects its header's checksum.
pub fn set_ecn(head: &mut [u8], ecn: u8) {
    match head {
        [_, _, _, _, _, _, _, _, _, _, _, _, 0x08, 0x00, ip @ ..] if ip.len() >= 20 => {
            let (old, checksum) = (be16(ip, 0), be16(ip, 10));
            ip[1] = ip[1] & !ECN | ecn;
            // RFC 1624, equation 3.
            let sum = u32::from(!checksum) + u32::from(!old) + u32::from(be16(ip, 0));
            ip[10..12].copy_from_slice(&(!fold(sum)).to_be_bytes());
        }
        [_, _, _, _, _, _, _, _, _, _, _, _, 0x86, 0xdd, _, class, ..] => *class = *class & !(ECN << 4) | ecn << 4,
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Figure 4 of RFC 6040: rows are the inner header's, columns the outer one's, both in the order Not-ECT, ECT(0), ECT(1), CE.
    #[test]
    fn ecn_is_combined_as_rfc_6040_says() {
        let order = [0, 2, 1, 3];
        let table = [
            [Some(0), Some(0), Some(0), None],
            [Some(2), Some(2), Some(1), Some(3)],
            [Some(1), Some(1), Some(1), Some(3)],
            [Some(3), Some(3), Some(3), Some(3)],
        ];
        for (inner, row) in order.into_iter().zip(table) {
            for (outer, expected) in order.into_iter().zip(row) {
                assert_eq!(ecn_of_inner(0xb8 | inner, 0x28 | outer), expected, "inner {inner}, outer {outer}");
            }
        }
    }

    #[test]
    fn ecn_is_set_and_the_checksum_with_it() {
        #[rustfmt::skip]
        let mut four = vec![
            2, 0, 0, 0, 0, 1,  2, 0, 0, 0, 0, 2,  8, 0,
            0x45, 0xb9, 0, 46,  0, 7, 0, 0,  64, 17, 0x65, 0xfd,  10, 0, 0, 1,  10, 0, 0, 2,
        ];
        assert_eq!(fold(sum(&four[14..34])), 0xffff);
        set_ecn(&mut four, 3);
        assert_eq!((four[15], fold(sum(&four[14..34]))), (0xbb, 0xffff));

        let mut six = vec![0; 54];
        six[12..16].copy_from_slice(&[0x86, 0xdd, 0x6b, 0x91]);
        set_ecn(&mut six, 3);
        assert_eq!(six[12..16], [0x86, 0xdd, 0x6b, 0xb1]);

        // What is no IP has none; what has a tag is not looked into.
        for ether_type in [[0x81, 0], [0x88, 0xa8], [0x88, 0xb5]] {
            four[12..14].copy_from_slice(&ether_type);
            let before = four.clone();
            set_ecn(&mut four, 0);
            assert_eq!(four, before);
        }
    }
}
