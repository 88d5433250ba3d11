//! UDP datagrams without a checksum that follow each other in one flow, as the outer packets of a tunnel do, become one write: the kernel, or
//! the NIC, cuts it again where it must be (UDP segmentation offload). It gives each a checksum, which nobody minds (RFC 7348, section 5), and
//! counts the identifications of packets that are not fragmented (RFC 6864, section 4.1).

use dray_switch::offload::{Gso, Offload};
use dray_switch::wire::{ETH, IPV4, UDP, be16, fold, sum};

/// Bytes of the headers that all have in common: Ethernet, IPv4 and UDP.
pub(crate) const HEADERS: usize = UDP_AT + 8;

const UDP_AT: usize = ETH + 20;

/// The longest IP packet, bytes.
const IP_MAX: usize = 65_535;

/// Datagrams that become one packet.
pub(crate) struct Datagrams {
    /// The first one's headers, and then the packet's.
    pub headers: [u8; HEADERS],
    /// Bytes that the first one carries.
    size: usize,
    /// All that they carry, bytes.
    len: usize,
    /// Nothing may follow: the last one was short.
    closed: bool,
}

/// Bytes that a frame of `len` bytes carries which begins with `headers`, if it can be part of a run: UDP without a checksum, over IPv4
/// without fragments, options and tags.
fn payload(headers: &[u8; HEADERS], len: usize) -> Option<usize> {
    let h = headers;
    let is_plain = (be16(h, 12), h[ETH], h[23], be16(h, 40)) == (IPV4, 0x45, UDP, 0) && be16(h, 20) & 0xbfff == 0;
    let is_whole = [be16(h, 16), be16(h, 38)].map(usize::from) == [len.checked_sub(ETH)?, len.checked_sub(UDP_AT)?];
    let good = is_plain && is_whole && len > HEADERS && fold(sum(&h[ETH..UDP_AT])) == 0xffff;
    good.then(|| len - HEADERS)
}

impl Datagrams {
    /// Begins with a frame of `len` bytes that begins with `headers`, if it can be part of a run.
    pub(crate) fn new(headers: &[u8; HEADERS], len: usize) -> Option<Datagrams> {
        let size = payload(headers, len)?;
        Some(Datagrams { headers: *headers, size, len: size, closed: false })
    }

    /// Takes one more, if it is what follows.
    pub(crate) fn take(&mut self, headers: &[u8; HEADERS], len: usize) -> bool {
        let same = |from: usize, to: usize| self.headers[from..to] == headers[from..to];
        // All but lengths, identification and checksum.
        if self.closed || !same(0, ETH + 2) || !same(ETH + 6, ETH + 10) || !same(ETH + 12, UDP_AT + 4) {
            return false;
        }
        let Some(more) = payload(headers, len) else { return false };
        if more > self.size || HEADERS - ETH + self.len + more > IP_MAX {
            return false;
        }
        self.len += more;
        self.closed = more < self.size;
        true
    }

    /// Makes the headers the packet's, and says what is left to be done to it.
    pub(crate) fn finish(&mut self) -> Offload {
        let h = &mut self.headers;
        let datagram = 8 + self.len;
        h[16..18].copy_from_slice(&((datagram + 20) as u16).to_be_bytes());
        h[24..26].fill(0);
        let checksum = !fold(sum(&h[ETH..UDP_AT]));
        h[24..26].copy_from_slice(&checksum.to_be_bytes());
        h[38..40].copy_from_slice(&(datagram as u16).to_be_bytes());
        let pseudo = fold(sum(&h[ETH + 12..UDP_AT]) + u32::from(UDP) + datagram as u32);
        h[40..42].copy_from_slice(&pseudo.to_be_bytes());
        Offload { csum_start: UDP_AT as u16, csum_offset: 6, gso: Gso::Udp4, gso_size: self.size as u16, ecn: false }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A datagram that carries `len` bytes, from 10.9.0.1 to 10.9.0.2, as encapsulation makes them.
    fn datagram(len: usize) -> ([u8; HEADERS], usize) {
        let [ip, udp] = [len as u16 + 28, len as u16 + 8].map(u16::to_be_bytes);
        #[rustfmt::skip]
        let mut h = [
            2, 0, 0, 0, 0, 2,  2, 0, 0, 0, 0, 1,  8, 0,
            0x45, 0, ip[0], ip[1],  0, 0, 0x40, 0,  64, 17, 0, 0,  10, 9, 0, 1,  10, 9, 0, 2,
            0xc0, 1, 0x12, 0xb5,  udp[0], udp[1], 0, 0,
        ];
        complete(&mut h);
        (h, HEADERS + len)
    }

    fn complete(h: &mut [u8; HEADERS]) {
        h[24..26].fill(0);
        let checksum = !fold(sum(&h[ETH..UDP_AT]));
        h[24..26].copy_from_slice(&checksum.to_be_bytes());
    }

    fn begin(len: usize) -> Datagrams {
        let (headers, len) = datagram(len);
        Datagrams::new(&headers, len).unwrap()
    }

    #[test]
    fn datagrams_of_one_length_become_one_packet() {
        let mut run = begin(1450);
        let (headers, len) = datagram(1450);
        assert!(run.take(&headers, len) && run.take(&headers, len));
        let (headers, len) = datagram(99);
        assert!(run.take(&headers, len));
        assert!(!run.take(&headers, len), "nothing follows a short one");
        let expected = Offload { csum_start: 34, csum_offset: 6, gso: Gso::Udp4, gso_size: 1450, ecn: false };
        assert_eq!(run.finish(), expected);
        let h = &run.headers;
        assert_eq!((be16(h, 16), be16(h, 38)), (3 * 1450 + 99 + 28, 3 * 1450 + 99 + 8));
        assert_eq!(fold(sum(&h[14..34])), 0xffff);
        assert_eq!(be16(h, 40), fold(0x0a09 + 1 + 0x0a09 + 2 + 17 + 3 * 1450 + 99 + 8));
    }

    #[test]
    fn what_differs_stays_as_it_is() {
        let follows = |change: &dyn Fn(&mut [u8; HEADERS])| {
            let (mut headers, len) = datagram(1450);
            change(&mut headers);
            complete(&mut headers);
            begin(1450).take(&headers, len)
        };
        assert!(follows(&|_| ()));
        assert!(follows(&|h| h[19] = 7), "the identification of what is not fragmented");
        for (what, at) in [
            ("source", 6),
            ("class", 15),
            ("TTL", 22),
            ("destination", 33),
            ("port", 35),
            ("checksum", 41),
            ("length", 39),
        ] {
            assert!(!follows(&|h| h[at] ^= 4), "{what}");
        }
        assert!(!begin(1449).take(&datagram(1450).0, datagram(1450).1), "a longer one");
        let (mut headers, len) = datagram(100);
        assert!(Datagrams::new(&headers, len + 4).is_none(), "padding");
        headers[24] ^= 1;
        assert!(Datagrams::new(&headers, len).is_none(), "the IP header's checksum");
        assert!(Datagrams::new(&datagram(0).0, HEADERS).is_none(), "nothing");
        assert!(Datagrams::new(&[0; HEADERS], 14).is_none() && Datagrams::new(&[0xff; HEADERS], 60).is_none());
    }

    #[test]
    fn a_packet_has_at_most_65535_bytes() {
        let mut run = begin(1450);
        let (headers, len) = datagram(1450);
        let more = (0..100).take_while(|_| run.take(&headers, len)).count();
        assert_eq!(more + 1, (IP_MAX - 28) / 1450);
    }
}
