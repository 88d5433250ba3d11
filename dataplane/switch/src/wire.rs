//! The header fields that the stages read and write, by offset in a frame's head.

/// Ethernet header, bytes.
pub const ETH: usize = 14;
/// An 802.1Q tag, bytes.
pub const TAG: usize = 4;
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
fn be64(bytes: &[u8], at: usize) -> u64 {
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

const K: u64 = 0x9e37_79b9_7f4a_7c15;

/// DSCP and ECN of the IP packet in a frame that begins with `head`, as the byte that IPv4 has them in (RFC 2474, RFC 3168); 0 if it is
/// none. `None` if the frame has a VLAN tag.
#[inline(always)]
pub fn traffic_class(head: &[u8]) -> Option<u8> {
    // As long as what [`flow_hash`] looks at, so that both look once.
    match head.first_chunk::<38>() {
        Some(h) if be16(h, 12) == IPV4 => Some(h[15]),
        _ => traffic_class_of_others(head),
    }
}

/// [`traffic_class`] of what is not IPv4.
#[inline(never)]
fn traffic_class_of_others(head: &[u8]) -> Option<u8> {
    if head.len() < 16 {
        return (head.len() < ETH || !is_tag(be16(head, 12))).then_some(0);
    }
    match be16(head, 12) {
        IPV4 => Some(head[15]),
        IPV6 => Some(head[14] << 4 | head[15] >> 4),
        other => (!is_tag(other)).then_some(0),
    }
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

/// A hash of the flow that a frame's head belongs to: addresses, protocol and ports as far as they are there. Both
/// fragments of a datagram have one hash.
#[inline]
pub fn flow_hash(head: &[u8]) -> u32 {
    let mix = |h: u64, w: u64| {
        let p = (h ^ w) as u128 * K as u128;
        p as u64 ^ (p >> 64) as u64
    };
    // Nearly all: IPv4 without options, whole, with ports.
    if let Some(h) = head.first_chunk::<38>()
        && be16(h, 12) == IPV4
        && h[14] == 0x45
        && be16(h, 20) & 0x3fff == 0
        && matches!(h[23], TCP | UDP)
    {
        let h = mix(mix(K, be64(h, 26)), u64::from(be32(h, 34)) << 8 | u64::from(h[23]));
        return (h ^ h >> 32) as u32;
    }
    flow_hash_of_others(head, mix)
}

/// [`flow_hash`] of what it does not read itself.
#[cold]
fn flow_hash_of_others(head: &[u8], mix: impl Fn(u64, u64) -> u64) -> u32 {
    let word = |at: usize| be64(head, at);
    let ports = |at: usize| if head.len() >= at + 4 { be32(head, at) as u64 } else { 0 };
    let has_ports = |protocol: u8| matches!(protocol, 6 | 17 | 132 | 33);
    let h = match be16(head, 12) {
        IPV4 if head.len() >= ETH + 20 => {
            let protocol = head[23];
            let whole = be16(head, 20) & 0x3fff == 0;
            let l4 = ETH + (head[14] & 15) as usize * 4;
            let ports = if whole && has_ports(protocol) { ports(l4) } else { 0 };
            mix(mix(K, word(26)), ports << 8 | protocol as u64)
        }
        IPV6 if head.len() >= ETH + 40 => {
            let next = head[20];
            let ports = if has_ports(next) { ports(ETH + 40) } else { 0 };
            let source = mix(mix(K, word(22)), word(30));
            mix(mix(mix(source, word(38)), word(46)), ports << 8 | next as u64)
        }
        // Both addresses; the EtherType comes along with the second word.
        _ => mix(mix(K, word(0)), word(6)),
    };
    (h ^ h >> 32) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    fn udp(sport: u16, flags: u16) -> Vec<u8> {
        let mut f = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 8, 0, 0x45, 0, 0, 46, 0, 7, 0, 0, 64, 17, 0, 0];
        f[20..22].copy_from_slice(&flags.to_be_bytes());
        f.extend([10, 0, 0, 1, 10, 0, 0, 2]);
        f.extend(sport.to_be_bytes());
        f.extend([0, 53, 0, 26, 0, 0]);
        f.resize(60, 0);
        f
    }

    #[test]
    fn flows_differ_by_ports_but_not_by_payload_or_fragment() {
        assert_ne!(flow_hash(&udp(1000, 0)), flow_hash(&udp(1001, 0)));
        let mut other = udp(1000, 0);
        other[50] = 9;
        assert_eq!(flow_hash(&udp(1000, 0)), flow_hash(&other));
        assert_eq!(flow_hash(&udp(1000, 0x2000)), flow_hash(&udp(7, 0x0010)));
    }

    #[test]
    fn short_heads_have_a_hash_too() {
        for n in 14..60 {
            flow_hash(&udp(1000, 0)[..n]);
            let mut six = udp(1000, 0);
            six[12..14].copy_from_slice(&[0x86, 0xdd]);
            flow_hash(&six[..n]);
        }
    }

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
    fn traffic_classes_are_found_and_set() {
        let mut four = udp(1000, 0);
        four[15] = 0xb9;
        let sum = !fold(sum(&four[14..34]));
        four[24..26].copy_from_slice(&sum.to_be_bytes());
        assert_eq!(traffic_class(&four), Some(0xb9));
        set_ecn(&mut four, 3);
        assert_eq!((four[15], fold(super::sum(&four[14..34]))), (0xbb, 0xffff));

        let mut six = vec![0; 54];
        six[12..16].copy_from_slice(&[0x86, 0xdd, 0x6b, 0x91]);
        assert_eq!(traffic_class(&six), Some(0xb9));
        set_ecn(&mut six, 3);
        assert_eq!(six[12..16], [0x86, 0xdd, 0x6b, 0xb1]);

        // What is no IP has none, however short it is; what has a tag is not looked into.
        assert_eq!(
            (traffic_class(&four[..15]), traffic_class(&four[..14]), traffic_class(&[0; 60])),
            (Some(0), Some(0), Some(0))
        );
        for ether_type in [[0x81, 0], [0x88, 0xa8]] {
            four[12..14].copy_from_slice(&ether_type);
            assert_eq!((traffic_class(&four), traffic_class(&four[..14])), (None, None));
            let before = four.clone();
            set_ecn(&mut four, 0);
            assert_eq!(four, before);
        }
    }

    #[test]
    fn source_ports_spread() {
        let mut seen = std::collections::HashSet::new();
        (0..1000).for_each(|p| {
            seen.insert(flow_hash(&udp(p, 0)) & 0x3fff);
        });
        assert!(seen.len() > 950, "{} of 1000", seen.len());
    }
}
