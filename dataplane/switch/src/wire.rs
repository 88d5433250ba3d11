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

    #[test]
    fn source_ports_spread() {
        let mut seen = std::collections::HashSet::new();
        (0..1000).for_each(|p| {
            seen.insert(flow_hash(&udp(p, 0)) & 0x3fff);
        });
        assert!(seen.len() > 950, "{} of 1000", seen.len());
    }
}
