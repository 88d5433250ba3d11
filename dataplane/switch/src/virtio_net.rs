//! The header that virtio-net has before every frame (virtio 1.2, section 5.1.6): with the virtual machines' rings, and with the kernel's TAP
//! devices.

use crate::layers::network;
use crate::offload::{Gso, Offload};
use crate::wire::IPV6;

/// Bytes of the header with the number of buffers, which VIRTIO_NET_F_MRG_RXBUF and VIRTIO_F_VERSION_1 bring.
pub const LONG: usize = 12;
/// Bytes of the header without.
pub const SHORT: usize = 10;

const NEEDS_CSUM: u8 = 1;
const GSO_TCPV4: u8 = 1;
const GSO_TCPV6: u8 = 4;
const GSO_UDP_L4: u8 = 5;
const GSO_ECN: u8 = 0x80;

/// A frame that is whole: nothing to be done, in one buffer.
pub const PLAIN: [u8; LONG] = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0];

/// Whether the header's first eight bytes ask for anything.
#[inline(always)]
pub fn asks(first: u64) -> bool {
    first & (0xff00 | NEEDS_CSUM as u64) != 0
}

/// What a header asks for; UDP segmentation is taken for IPv4's, as the header does not tell ([`of_frame`] does). `None` if that is nothing
/// known, or nothing.
pub fn read(header: &[u8; LONG]) -> Option<Offload> {
    let word = |at: usize| u16::from_le_bytes([header[at], header[at + 1]]);
    let ecn = header[1] & GSO_ECN != 0;
    let gso = match header[1] & !GSO_ECN {
        0 if !ecn => Gso::None,
        GSO_TCPV4 => Gso::Tcp4,
        GSO_TCPV6 => Gso::Tcp6,
        GSO_UDP_L4 if !ecn => Gso::Udp4,
        _ => return None,
    };
    // A segment's checksum is part of segmentation.
    if header[0] & NEEDS_CSUM == 0 {
        return None;
    }
    let gso_size = if gso == Gso::None { 0 } else { word(4) };
    Some(Offload { csum_start: word(6), csum_offset: word(8), gso, gso_size, ecn })
}

/// `offload` as it is meant for a frame that begins with `head`.
pub fn of_frame(mut offload: Offload, head: &[u8]) -> Offload {
    if offload.gso == Gso::Udp4 && matches!(network(head), Some((IPV6, _))) {
        offload.gso = Gso::Udp6;
    }
    offload
}

/// The header that asks for `offload` of a frame that begins with `head`, in one buffer.
pub fn write(offload: Offload, head: &[u8]) -> [u8; LONG] {
    let Offload { csum_start, csum_offset, gso, gso_size, ecn } = offload;
    let at = usize::from(csum_start);
    let (kind, transport) = match gso {
        Gso::None => (0, 0),
        Gso::Tcp4 | Gso::Tcp6 => {
            let words = head.get(at + 12).map_or(5, |b| b >> 4);
            (if gso == Gso::Tcp4 { GSO_TCPV4 } else { GSO_TCPV6 }, u16::from(words) * 4)
        }
        Gso::Udp4 | Gso::Udp6 => (GSO_UDP_L4, 8),
    };
    let mut header = PLAIN;
    header[0] = NEEDS_CSUM;
    header[1] = kind | if ecn { GSO_ECN } else { 0 };
    if gso != Gso::None {
        header[2..4].copy_from_slice(&(csum_start + transport).to_le_bytes());
    }
    header[4..6].copy_from_slice(&gso_size.to_le_bytes());
    header[6..8].copy_from_slice(&csum_start.to_le_bytes());
    header[8..10].copy_from_slice(&csum_offset.to_le_bytes());
    header
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tso_header_reads_as_it_was_written() {
        let offload = Offload { csum_start: 34, csum_offset: 16, gso: Gso::Tcp4, gso_size: 1448, ecn: true };
        let mut head = [0; 66];
        head[34 + 12] = 0x80;
        let header = write(offload, &head);
        assert_eq!(header, [1, 0x81, 66, 0, 0xa8, 5, 34, 0, 16, 0, 1, 0]);
        assert_eq!(read(&header), Some(offload));
    }

    #[test]
    fn what_is_not_known_is_refused() {
        // UFO (3), no checksum with segmentation, ECN without TCP.
        for header in [
            [1, 3, 0, 0, 8, 0, 34, 0, 16, 0, 0, 0],
            [0, 1, 0, 0, 8, 0, 34, 0, 16, 0, 0, 0],
            [1, 0x80, 0, 0, 0, 0, 34, 0, 16, 0, 0, 0],
        ] {
            assert_eq!(read(&header), None);
        }
        assert!(
            asks(u64::from_le_bytes([1, 0, 0, 0, 0, 0, 0, 0])) && asks(u64::from_le_bytes([0, 1, 0, 0, 0, 0, 0, 0]))
        );
        assert!(!asks(u64::from_le_bytes([2, 0, 9, 9, 9, 9, 9, 9])));
    }
}
