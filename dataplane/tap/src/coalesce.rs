//! Segments of one TCP flow that follow each other become one write, as the kernel's own GRO makes them one packet: a system call for up to
//! 64 KB rather than for each 1,448 bytes. Only what segmentation would undo to the same bytes, but for the IPv4 identification of
//! packets that are not fragmented, is put together (`tcp_gro_receive` and `inet_gro_receive` of Linux).

use dray_switch::offload::{Gso, Offload};
use dray_switch::wire::{ETH, IPV4, IPV6, TCP, be16, be32, fold, sum};

/// The longest headers that are looked at, bytes: Ethernet, IPv6 and TCP with all options is 114.
pub(crate) const HEADERS: usize = 128;

/// The longest IP packet, bytes.
const IP_MAX: usize = 65_535;

const ACK: u8 = 0x10;
const PSH: u8 = 0x08;

/// Where in a frame what is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Segment {
    ipv6: bool,
    /// The TCP header.
    pub l4: usize,
    /// What it carries.
    pub payload: usize,
    /// Bytes of that.
    len: usize,
}

impl Segment {
    /// Of a frame of `len` bytes that begins with `bytes` and can be part of a run: TCP with data and no flags but ACK and PSH, over IP
    /// without fragments, options and tags.
    pub(crate) fn read(bytes: &[u8; HEADERS], len: usize) -> Option<Segment> {
        let (ipv6, l4, packet) = match be16(bytes, 12) {
            // Don't-fragment is the only bit that may be set.
            IPV4 if bytes[ETH] == 0x45 && be16(bytes, 20) & 0xbfff == 0 && bytes[23] == TCP => {
                (false, ETH + 20, usize::from(be16(bytes, 16)))
            }
            IPV6 if bytes[ETH] >> 4 == 6 && bytes[20] == TCP => (true, ETH + 40, usize::from(be16(bytes, 18)) + 40),
            _ => return None,
        };
        let payload = l4 + usize::from(bytes[l4 + 12] >> 4) * 4;
        // No padding, and nothing in the reserved bits.
        let plain = Some(packet) == len.checked_sub(ETH) && bytes[l4 + 12] & 0x0f == 0 && bytes[l4 + 13] & !PSH == ACK;
        let good = plain && payload >= l4 + 20 && len > payload && (ipv6 || fold(sum(&bytes[ETH..l4])) == 0xffff);
        good.then(|| Segment { ipv6, l4, payload, len: len - payload })
    }

    /// The sum of the pseudo-header of a packet with these headers and so many bytes from its TCP header on.
    pub(crate) fn pseudo(self, bytes: &[u8; HEADERS], len: usize) -> u32 {
        let addresses = if self.ipv6 { ETH + 8..ETH + 40 } else { ETH + 12..ETH + 20 };
        sum(&bytes[addresses]) + u32::from(TCP) + len as u32
    }
}

/// Segments that become one packet.
pub(crate) struct Run {
    /// The first one's headers, and then the packet's.
    pub headers: [u8; HEADERS],
    first: Segment,
    /// All that it carries, bytes.
    len: usize,
    /// The identification that the next one's IPv4 header is to have, and whether the second one had it.
    id: u16,
    counts: Option<bool>,
    /// Nothing may follow: the last one was short, or pushed.
    closed: bool,
}

impl Run {
    /// Begins with `first`, whose frame begins with `headers`.
    pub(crate) fn new(headers: [u8; HEADERS], first: Segment) -> Run {
        let closed = headers[first.l4 + 13] & PSH != 0;
        Run { headers, first, len: first.len, id: be16(&headers, 18), counts: None, closed }
    }

    /// Takes one more, if it is what follows.
    pub(crate) fn take(&mut self, bytes: &[u8; HEADERS], next: Segment) -> bool {
        let Segment { ipv6, l4, payload, len: size } = self.first;
        let all = self.len + next.len;
        if self.closed
            || next.ipv6 != ipv6
            || next.payload != payload
            || next.len > size
            || payload - ETH + all > IP_MAX
        {
            return false;
        }
        let same = |from: usize, to: usize| self.headers[from..to] == bytes[from..to];
        let ip = if ipv6 {
            // All but the length.
            same(0, ETH + 4) && same(ETH + 6, l4)
        } else {
            // All but length, identification and checksum.
            same(0, ETH + 2) && same(ETH + 6, ETH + 10) && same(ETH + 12, l4)
        };
        // Ports; acknowledgement, header length, window; options. The flags may differ in PSH only (`Segment::read`).
        let tcp = same(l4, l4 + 4) && same(l4 + 8, l4 + 13) && same(l4 + 14, l4 + 16) && same(l4 + 20, payload);
        if !ip || !tcp || be32(bytes, l4 + 4) != be32(&self.headers, l4 + 4).wrapping_add(self.len as u32) {
            return false;
        }
        if !ipv6 {
            // One more each time, or always the same, which segmentation doesn't bring back: it doesn't matter to what isn't fragmented.
            let counts = be16(bytes, 18) == self.id.wrapping_add(1);
            let stays = be16(bytes, 18) == self.id && be16(bytes, 20) != 0;
            if !(counts || stays) || self.counts.is_some_and(|before| before != counts) {
                return false;
            }
            self.counts = Some(counts);
            self.id = be16(bytes, 18);
        }
        self.len = all;
        self.headers[l4 + 13] |= bytes[l4 + 13];
        self.closed = next.len < size || bytes[l4 + 13] & PSH != 0;
        true
    }

    /// Makes the headers the packet's, and says what is left to be done to it. The headers end where what the segments carry begins.
    pub(crate) fn finish(&mut self) -> (Offload, usize) {
        let Segment { ipv6, l4, payload, len: size } = self.first;
        let segment = payload - l4 + self.len;
        if ipv6 {
            self.headers[18..20].copy_from_slice(&(segment as u16).to_be_bytes());
        } else {
            self.headers[16..18].copy_from_slice(&((segment + 20) as u16).to_be_bytes());
            self.headers[24..26].fill(0);
            let checksum = !fold(sum(&self.headers[ETH..l4]));
            self.headers[24..26].copy_from_slice(&checksum.to_be_bytes());
        }
        let pseudo = fold(self.first.pseudo(&self.headers, segment));
        self.headers[l4 + 16..l4 + 18].copy_from_slice(&pseudo.to_be_bytes());
        let gso = if ipv6 { Gso::Tcp6 } else { Gso::Tcp4 };
        let offload = Offload { csum_start: l4 as u16, csum_offset: 16, gso, gso_size: size as u16, ecn: false };
        (offload, payload)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A segment of 100 bytes with timestamps, from 10.0.0.1 to 10.0.0.2; its number says what identification and sequence number it has.
    fn v4(n: u16) -> ([u8; HEADERS], usize) {
        let mut h = [0; HEADERS];
        h[..ETH].copy_from_slice(&[2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1, 8, 0]);
        h[14..34].copy_from_slice(&[0x45, 0, 0, 152, 0, 7, 0x40, 0, 64, 6, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
        h[18..20].copy_from_slice(&(7 + n).to_be_bytes());
        h[34..66].copy_from_slice(&[
            0x9c, 0x40, 0x14, 0x51, 0, 0, 0, 0, 0, 0, 0, 9, 0x80, 0x10, 2, 0, 0, 0, 0, 0, 1, 1, 8, 10, 0, 0, 0, 1, 0,
            0, 0, 2,
        ]);
        h[38..42].copy_from_slice(&(0xffff_ff00_u32.wrapping_add(u32::from(n) * 100)).to_be_bytes());
        let checksum = !fold(sum(&h[14..34]));
        h[24..26].copy_from_slice(&checksum.to_be_bytes());
        (h, 166)
    }

    /// The same over IPv6.
    fn v6(n: u16) -> ([u8; HEADERS], usize) {
        let (four, _) = v4(n);
        let mut h = [0; HEADERS];
        h[..12].copy_from_slice(&four[..12]);
        h[12..22].copy_from_slice(&[0x86, 0xdd, 0x60, 1, 2, 3, 0, 132, 6, 64]);
        (h[22], h[37], h[38], h[53]) = (0xfd, 1, 0xfd, 2);
        h[54..86].copy_from_slice(&four[34..66]);
        (h, 186)
    }

    fn segment((bytes, len): &([u8; HEADERS], usize)) -> Segment {
        Segment::read(bytes, *len).unwrap()
    }

    fn begin(first: ([u8; HEADERS], usize)) -> Run {
        Run::new(first.0, segment(&first))
    }

    /// Whether `second`, changed so, follows the first.
    fn follows(change: impl Fn(&mut [u8; HEADERS])) -> bool {
        let mut second = v4(1);
        change(&mut second.0);
        second.0[24..26].fill(0);
        let checksum = !fold(sum(&second.0[14..34]));
        second.0[24..26].copy_from_slice(&checksum.to_be_bytes());
        let mut run = begin(v4(0));
        Segment::read(&second.0, second.1).is_some_and(|next| run.take(&second.0, next))
    }

    #[test]
    fn segments_that_follow_each_other_become_one_packet() {
        for (make, l3, csum_start, gso) in [(v4 as fn(u16) -> _, 20, 34, Gso::Tcp4), (v6, 40, 54, Gso::Tcp6)] {
            let mut run = begin(make(0));
            for n in 1..4 {
                assert!(run.take(&make(n).0, segment(&make(n))));
            }
            let mut last = make(4);
            last.0[csum_start + 13] |= PSH;
            assert!(run.take(&last.0, segment(&last)));
            assert!(!run.take(&make(5).0, segment(&make(5))), "nothing follows what is pushed");
            let (offload, payload) = run.finish();
            assert_eq!(
                offload,
                Offload { csum_start: csum_start as u16, csum_offset: 16, gso, gso_size: 100, ecn: false }
            );
            assert_eq!(payload, csum_start + 32);
            let h = &run.headers;
            assert_eq!((h[csum_start + 13], be32(h, csum_start + 4)), (ACK | PSH, 0xffff_ff00));
            let length = if l3 == 20 { be16(h, 16) - 20 } else { be16(h, 18) };
            assert_eq!(length, 32 + 500);
            assert!(l3 == 40 || fold(sum(&h[14..34])) == 0xffff);
            // Over the addresses, the protocol and the length, by hand.
            let addresses: u32 = if l3 == 20 { 0x0a00 + 1 + 0x0a00 + 2 } else { 0xfd00 + 1 + 0xfd00 + 2 };
            assert_eq!(be16(h, csum_start + 16), fold(addresses + 6 + 532));
        }
    }

    #[test]
    fn what_segmentation_would_not_bring_back_stays_as_it_is() {
        assert!(follows(|_| ()));
        // The identification may stay, if nobody may fragment.
        assert!(follows(|h| h[19] = 7));
        assert!(!follows(|h| h[19] = 9));
        for (what, at) in [
            ("source address", 6),
            ("traffic class", 15),
            ("TTL", 22),
            ("destination", 33),
            ("port", 35),
            ("sequence number", 41),
            ("acknowledgement", 45),
            ("window", 49),
            ("option", 61),
        ] {
            assert!(!follows(|h| h[at] ^= 4), "{what}");
        }
        for flags in [0x11, 0x12, 0x14, 0x18 | 0x20, 0x50, 0x90] {
            assert!(!follows(|h| h[47] = flags), "flags {flags:#x}");
        }
        assert!(!follows(|h| h[46] |= 1), "reserved bits");
        assert!(!follows(|h| h[20] = 0x20), "a fragment");
        assert!(!follows(|h| h[14] = 0x46), "IP options");
    }

    #[test]
    fn what_is_short_is_the_last_one() {
        let mut run = begin(v4(0));
        let mut short = v4(1);
        (short.0[17], short.1) = (151, 165);
        short.0[24..26].fill(0);
        let checksum = !fold(sum(&short.0[14..34]));
        short.0[24..26].copy_from_slice(&checksum.to_be_bytes());
        assert!(run.take(&short.0, segment(&short)));
        let mut next = v4(2);
        next.0[38..42].copy_from_slice(&(0xffff_ff00_u32.wrapping_add(199)).to_be_bytes());
        assert!(!run.take(&next.0, segment(&next)));
        // One that is longer than the first can't be in the middle.
        let mut run = begin(short);
        assert!(!run.take(&v4(1).0, segment(&v4(1))));
    }

    #[test]
    fn damaged_and_padded_frames_are_left_alone() {
        let (mut h, len) = v4(0);
        assert_eq!(Segment::read(&h, len + 4), None, "padding");
        assert_eq!(Segment::read(&h, 66), None, "no data");
        h[24] ^= 1;
        assert_eq!(Segment::read(&h, len), None, "the IP header's checksum");
        assert_eq!(Segment::read(&[0xff; HEADERS], 14), None);
        assert_eq!(Segment::read(&[0; HEADERS], 0), None);
    }

    #[test]
    fn a_packet_has_at_most_65535_bytes() {
        let mut run = begin(v4(0));
        let fit = (IP_MAX - 52) / 100;
        for n in 1..fit as u16 {
            assert!(run.take(&v4(n).0, segment(&v4(n))), "{n}");
        }
        let one_more = v4(fit as u16);
        assert!(!run.take(&one_more.0, segment(&one_more)));
    }
}
