//! Where the layers of what a frame carries begin, and which flow it is of: read once for all that want to know, and only if somebody does.
//!
//! They are those of the frame as its bridge has it: behind outer headers that were taken off, and before others are put on. Who puts outer
//! headers before a frame asks first, for they hide what it carries; a tag hides nothing.

use crate::burst::{BURST, Burst, FRAMES, Frame, Lanes};
use crate::stages::Selection;
use crate::wire::{self, ETH, TAG, be16, be32, be64};

/// What a frame carries, as far as its head has it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub(crate) struct Layers {
    /// A hash of its flow: addresses, protocol, and ports if there are any behind IP headers of 40 bytes at most, which is where heads of
    /// all lengths have them. All fragments of a datagram have one, and all pieces of a frame that is cut.
    pub flow: u32,
    /// Where begins what follows Ethernet and up to two tags, in the frame's bytes, so that what is written before the frame does not move
    /// it; 0: the frame is shorter.
    pub l3: u16,
    /// So many bytes behind `l3` begins the transport header, of which the first four bytes are in the head: whatever has ports has them
    /// there. 0: there is none to be read, in a fragment for example, or it is not in the head.
    pub l3_len: u8,
    /// What is at `l3`.
    pub network: Network,
    /// The head ends before the network or the transport header does, and the frame goes on: what is not known here may be there.
    pub is_cut: bool,
    /// The IP protocol of the transport; of the header before it, if that is as far as it goes.
    pub protocol: u8,
    /// DSCP and ECN, as the byte that IPv4 has them in (RFC 2474, RFC 3168); 0 if it is not IP.
    pub class: u8,
}

/// What a frame carries behind Ethernet and its tags.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Network {
    /// Anything else, or no whole header of these.
    #[default]
    Other,
    /// A packet with an IPv4 header.
    Ipv4,
    /// A packet with an IPv6 header.
    Ipv6,
}

impl Layers {
    /// Reads the head of `frame`.
    pub(crate) fn of(frame: &Frame) -> Layers {
        Layers::of_usual(frame).unwrap_or_else(|| Layers::of_others(frame))
    }

    /// Of nearly all that are not empty: IPv4 without options or a tag, whole, with ports.
    #[inline(always)]
    fn of_usual(frame: &Frame) -> Option<Layers> {
        const LEN: usize = 38;
        const IPV4: u32 = word([8, 0, 0x45, 0]);
        const UDP: u32 = word([0, 0, 0, wire::UDP]);
        const TCP: u32 = word([0, 0, 0, wire::TCP]);
        let start = usize::from(frame.start);
        let h: &[u8; LEN] = frame.bytes.get(start..start + LEN)?.try_into().ok()?;
        let at = |offset: usize| word(h[offset..offset + 4].try_into().expect("four bytes"));
        // EtherType, version and length, class; fragment, TTL, protocol.
        let (first, third) = (at(12), at(20) & word([0x3f, 0xff, 0, 0xff]));
        let is_usual = first & word([0xff, 0xff, 0xff, 0]) == IPV4 && matches!(third, TCP | UDP);
        if usize::from(frame.end) < start + LEN || !is_usual {
            return None;
        }
        let protocol = (third >> 24) as u8;
        Some(Layers {
            flow: flow4(be64(h, 26), be32(h, 34), protocol),
            l3: frame.start + ETH as u16,
            l3_len: 20,
            network: Network::Ipv4,
            is_cut: false,
            protocol,
            class: (first >> 24) as u8,
        })
    }

    /// [`Layers::of`] what it does not read itself.
    #[cold]
    #[inline(never)]
    fn of_others(frame: &Frame) -> Layers {
        let head = frame.head();
        let goes_on = frame.len() > head.len();
        let Some((ether_type, l3)) = network(head) else {
            return Layers { is_cut: goes_on, ..Layers::default() };
        };
        let flow = flow_of_addresses(head, ether_type);
        let none = Layers { flow, l3: frame.start + l3 as u16, ..Layers::default() };
        let Some(Ip { class, protocol, transport }) = ip(head, ether_type, l3) else {
            return Layers { is_cut: goes_on && matches!(ether_type, wire::IPV4 | wire::IPV6), ..none };
        };
        let (l4, is_cut) = match transport {
            Transport::At(offset) if offset + 4 <= head.len() => (Some(offset), false),
            Transport::At(_) | Transport::Beyond => (None, goes_on),
            Transport::Fragment(_) | Transport::Elsewhere => (None, false),
        };
        let has_ports = matches!(protocol, wire::TCP | wire::UDP | wire::DCCP | wire::SCTP);
        let ports = l4.filter(|l4| has_ports && l4 - l3 <= 40).map_or(0, |l4| be32(head, l4));
        let (network, flow) = match ether_type {
            wire::IPV4 => (Network::Ipv4, flow4(be64(head, l3 + 12), ports, protocol)),
            _ => (Network::Ipv6, flow6([8, 16, 24, 32].map(|n| be64(head, l3 + n)), ports, protocol)),
        };
        Layers { flow, l3_len: l4.map_or(0, |l4| (l4 - l3) as u8), network, protocol, class, is_cut, ..none }
    }

    /// Where the transport header begins, in the frame's bytes, if it is there to be read.
    pub(crate) fn l4(&self) -> Option<u16> {
        (self.l3_len != 0).then(|| self.l3 + u16::from(self.l3_len))
    }

    /// Whether there is a tag in the frame, which begins at `start` in its bytes.
    #[inline(always)]
    pub(crate) fn is_tagged(&self, start: u16) -> bool {
        self.l3 != start + ETH as u16
    }
}

/// Four bytes as one word, the first one lowest.
const fn word(bytes: [u8; 4]) -> u32 {
    u32::from_le_bytes(bytes)
}

/// The EtherType behind up to two tags, and the offset of what follows it.
pub(crate) fn network(head: &[u8]) -> Option<(u16, usize)> {
    let mut at = ETH;
    loop {
        let ether_type = be16(head.get(..at)?, at - 2);
        if !wire::is_tag(ether_type) || at == ETH + 2 * TAG {
            return Some((ether_type, at));
        }
        at += TAG;
    }
}

/// What an IP header says.
struct Ip {
    /// DSCP and ECN.
    class: u8,
    /// Of the transport, or of the header before it that leads nowhere.
    protocol: u8,
    /// Where the transport header is.
    transport: Transport,
}

/// Where a packet's transport header is.
pub(crate) enum Transport {
    /// It begins at this offset.
    At(usize),
    /// Behind extension headers that are not all in the head.
    Beyond,
    /// Behind IPv6's fragment header, which begins at this offset: of the first fragment it may be in this packet.
    Fragment(usize),
    /// Not in this packet, a fragment; or what is there is for another host than the packet's destination, behind a routing header with
    /// segments left.
    Elsewhere,
}

/// Reads the IP header at the offset `l3`, if one is wholly there.
fn ip(head: &[u8], ether_type: u16, l3: usize) -> Option<Ip> {
    let ip = head.get(l3..)?;
    match ether_type {
        wire::IPV4 => {
            let header = (ip.first()? & 15) as usize * 4;
            if ip[0] >> 4 != 4 || header < 20 || ip.len() < 20 {
                return None;
            }
            let whole = be16(ip, 6) & 0x3fff == 0;
            let transport = if whole { Transport::At(l3 + header) } else { Transport::Elsewhere };
            Some(Ip { class: ip[1], protocol: ip[9], transport })
        }
        wire::IPV6 => {
            if ip.len() < 40 || ip[0] >> 4 != 6 {
                return None;
            }
            let (protocol, transport) = behind_extensions(head, ip[6], l3 + 40);
            Some(Ip { class: ip[0] << 4 | ip[1] >> 4, protocol, transport })
        }
        _ => None,
    }
}

/// Where the transport header is of an IPv6 packet whose first header behind the IP header is `next`, at the offset `at` (RFC 8200,
/// section 4).
pub(crate) fn behind_extensions(head: &[u8], mut next: u8, mut at: usize) -> (u8, Transport) {
    const HOP_BY_HOP: u8 = 0;
    const ROUTING: u8 = 43;
    const FRAGMENT: u8 = 44;
    const DESTINATION: u8 = 60;
    loop {
        match next {
            FRAGMENT => return (next, Transport::Fragment(at)),
            HOP_BY_HOP | ROUTING | DESTINATION => {}
            _ => return (next, Transport::At(at)),
        }
        let Some(extension) = head.get(at..at + 8) else { return (next, Transport::Beyond) };
        if next == ROUTING && extension[3] != 0 {
            return (next, Transport::Elsewhere);
        }
        next = extension[0];
        at += (usize::from(extension[1]) + 1) * 8;
    }
}

const K: u64 = 0x9e37_79b9_7f4a_7c15;

#[inline(always)]
fn mix(hash: u64, word: u64) -> u64 {
    let product = u128::from(hash ^ word) * u128::from(K);
    product as u64 ^ (product >> 64) as u64
}

#[inline(always)]
fn fold(hash: u64) -> u32 {
    (hash ^ hash >> 32) as u32
}

/// The hash of an IPv4 flow.
#[inline(always)]
fn flow4(addresses: u64, ports: u32, protocol: u8) -> u32 {
    fold(mix(mix(K, addresses), u64::from(ports) << 8 | u64::from(protocol)))
}

/// The hash of an IPv6 flow.
fn flow6(addresses: [u64; 4], ports: u32, protocol: u8) -> u32 {
    fold(mix(addresses.into_iter().fold(K, mix), u64::from(ports) << 8 | u64::from(protocol)))
}

/// The hash of a flow that is known by its Ethernet addresses and its EtherType only, wherever that is.
fn flow_of_addresses(head: &[u8], ether_type: u16) -> u32 {
    fold(mix(mix(K, be64(head, 0)), be64(head, 6) & !0xffff | u64::from(ether_type)))
}

/// The layers of a burst's frames and copies, as far as anybody has asked.
pub(crate) struct Known {
    layers: Lanes<Layers>,
    /// A bit for each frame, and for each copy, of which somebody has.
    known: [u64; FRAMES / BURST],
}

impl Default for Known {
    fn default() -> Self {
        Known { layers: Lanes([Layers::default(); FRAMES]), known: [0; FRAMES / BURST] }
    }
}

impl Known {
    /// Those of frame `i`, if they are known.
    #[inline(always)]
    pub(crate) fn get(&self, i: u16) -> Option<Layers> {
        let (word, bit) = (usize::from(i) / BURST % (FRAMES / BURST), usize::from(i) % BURST);
        (self.known[word] >> bit & 1 != 0).then(|| self.layers[i])
    }

    /// Says that frame `i` has those of another one, if they are known.
    #[inline(always)]
    pub(crate) fn hand_on(&mut self, layers: Option<Layers>, i: u16) {
        if let Some(layers) = layers {
            self.layers[i] = layers;
            self.known[usize::from(i) / BURST % (FRAMES / BURST)] |= 1 << (usize::from(i) % BURST);
        }
    }

    /// Forgets all.
    #[inline(always)]
    pub(crate) fn forget(&mut self) {
        self.known = [0; FRAMES / BURST];
    }

    /// Forgets what is known of copies.
    #[inline(always)]
    pub(crate) fn forget_copies(&mut self) {
        self.known[1..].fill(0);
    }
}

impl Burst {
    /// Reads what `frames` carry, of which nobody has asked before; `copies`, too.
    #[inline(always)]
    pub(crate) fn read_layers(&mut self, frames: Selection, copies: Selection) {
        let [of_frames, of_copies] = &mut self.meta.layers.known;
        let unknown = [frames.bits() & !*of_frames, copies.bits() & !*of_copies];
        *of_frames |= unknown[0];
        *of_copies |= unknown[1];
        if unknown[0] != 0 {
            self.read_unknown::<0>(unknown[0]);
        }
        if unknown[1] != 0 {
            self.read_unknown::<{ BURST as u16 }>(unknown[1]);
        }
    }

    /// Reads what those frames carry whose bit is set, of which `FIRST` is the first.
    #[inline(never)]
    fn read_unknown<const FIRST: u16>(&mut self, frames: u64) {
        for i in Selection::of_bits(frames).iter() {
            let (frame, layers) = (&self.frames[FIRST + i], &mut self.meta.layers.layers[FIRST + i]);
            // Written here and there, so that it is not first made elsewhere.
            match Layers::of_usual(frame) {
                Some(usual) => *layers = usual,
                None => *layers = Layers::of_others(frame),
            }
        }
    }

    /// What frame `i` carries, if somebody has asked for it.
    #[inline(always)]
    pub(crate) fn layers(&self, i: u16) -> &Layers {
        debug_assert!(self.meta.layers.get(i).is_some());
        &self.meta.layers.layers[i]
    }

    /// Each of `frames` with a hash of the flow that it is of, whatever it was put into: addresses, protocol and ports, as far as they
    /// are there.
    #[inline(always)]
    pub fn flows(&mut self, frames: &[u16]) -> impl Iterator<Item = (u16, u32)> {
        let mut wanted = [0; FRAMES / BURST];
        for &i in frames {
            wanted[usize::from(i) / BURST % (FRAMES / BURST)] |= 1 << (usize::from(i) % BURST);
        }
        let [of_frames, of_copies] = wanted.map(Selection::of_bits);
        self.read_layers(of_frames, of_copies);
        frames.iter().map(|&i| (i, self.layers(i).flow))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::burst::{HEAD, HEAD_MAX, HEADROOM};
    use crate::stages::vlan;
    use std::collections::HashSet;

    const ADDRESSES: [u8; 12] = [2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2];
    /// TCP from port 1000 to port 80.
    const TCP: [u8; 20] = [3, 0xe8, 0, 80, 0, 0, 0, 1, 0, 0, 0, 1, 0x50, 0x10, 1, 0, 0, 0, 0, 0];
    const IP6: [u8; 32] =
        [0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2];

    /// IPv4 with these words of options, this class, fragment and protocol, and what follows.
    fn four(options: u8, class: u8, fragment: u16, protocol: u8, payload: &[u8]) -> Vec<u8> {
        let [f0, f1] = fragment.to_be_bytes();
        let header = [0x45 + options, class, 0, 200, 0, 7, f0, f1, 64, protocol, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2];
        [&ADDRESSES[..], &[8, 0], &header, &vec![1; 4 * usize::from(options)], payload].concat()
    }

    /// IPv6 of class 0xb9, with this first header, and what follows.
    fn six(next: u8, payload: &[u8]) -> Vec<u8> {
        [&ADDRESSES[..], &[0x86, 0xdd], &[0x6b, 0x91, 0, 0, 0, 200, next, 64], &IP6, payload].concat()
    }

    /// As it would be received with heads of `head_len` bytes.
    fn burst(frame: &[u8], head_len: usize) -> Burst {
        let mut burst = Burst::default();
        burst.set_head_len(head_len);
        burst.push_owned(frame.to_vec());
        burst
    }

    fn read_first(burst: &mut Burst) -> Layers {
        burst.read_layers(Selection::all(1), Selection::NONE);
        *burst.layers(0)
    }

    /// With its position from the frame's beginning; 0 stays.
    fn read(frame: &[u8], head_len: usize) -> Layers {
        let layers = read_first(&mut burst(frame, head_len));
        Layers { l3: layers.l3.saturating_sub(HEADROOM as u16), ..layers }
    }

    fn tags(frame: &[u8], tags: &[u8]) -> Vec<u8> {
        [&frame[..12], tags, &frame[12..]].concat()
    }

    #[test]
    fn layers_are_where_they_begin() {
        let (udp, hop_by_hop) = (&TCP[..8], [6, 0, 1, 4, 0, 0, 0, 0]);
        let extensions = [&[60, 0, 1, 4, 0, 0, 0, 0][..], &[43, 1], &[1; 14], &[6, 0, 4, 1, 0, 0, 0, 0], &TCP].concat();
        let v4 = Layers { l3: 14, network: Network::Ipv4, class: 0xb9, ..Layers::default() };
        let v6 = Layers { network: Network::Ipv6, ..v4 };
        let cases: [(&str, Vec<u8>, Layers); 17] = [
            ("TCP", four(0, 0xb9, 0, 6, &TCP), Layers { l3_len: 20, protocol: 6, ..v4 }),
            ("UDP", four(0, 0xb9, 0x4000, 17, udp), Layers { l3_len: 20, protocol: 17, ..v4 }),
            ("ICMP", four(0, 0xb9, 0, 1, udp), Layers { l3_len: 20, protocol: 1, ..v4 }),
            ("options", four(5, 0xb9, 0, 17, udp), Layers { l3_len: 40, protocol: 17, ..v4 }),
            ("more fragments", four(0, 0xb9, 0x2000, 17, udp), Layers { protocol: 17, ..v4 }),
            ("another fragment", four(0, 0xb9, 5, 17, udp), Layers { protocol: 17, ..v4 }),
            ("no payload", four(0, 0xb9, 0, 59, &[]), Layers { protocol: 59, ..v4 }),
            ("TCP over IPv6", six(6, &TCP), Layers { l3_len: 40, protocol: 6, ..v6 }),
            ("hop by hop", six(0, &[&hop_by_hop[..], &TCP].concat()), Layers { l3_len: 48, protocol: 6, ..v6 }),
            ("segments left", six(0, &extensions), Layers { protocol: 43, ..v6 }),
            ("a fragment", six(44, &[6, 0, 0, 1, 0, 0, 0, 7, 0, 0]), Layers { protocol: 44, ..v6 }),
            (
                "a tag",
                tags(&four(0, 0xb9, 0, 6, &TCP), &[0x81, 0, 0, 7]),
                Layers { l3: 18, l3_len: 20, protocol: 6, ..v4 },
            ),
            (
                "two tags",
                tags(&six(17, udp), &[0x88, 0xa8, 0, 7, 0x81, 0, 0, 7]),
                Layers { l3: 22, l3_len: 40, protocol: 17, ..v6 },
            ),
            (
                "not version 4",
                {
                    let mut frame = four(0, 0xb9, 0, 6, &TCP);
                    frame[14] = 0x55;
                    frame
                },
                Layers { l3: 14, ..Layers::default() },
            ),
            (
                "another protocol",
                [&ADDRESSES[..], &[0x88, 0xb5, 1, 2, 3]].concat(),
                Layers { l3: 14, ..Layers::default() },
            ),
            ("half a header", four(0, 0xb9, 0, 6, &[])[..30].to_vec(), Layers { l3: 14, ..Layers::default() }),
            ("half of Ethernet", ADDRESSES.to_vec(), Layers::default()),
        ];
        for (what, frame, expected) in cases {
            let found = read(&frame, HEAD_MAX);
            assert_eq!(Layers { flow: 0, ..found }, expected, "{what}");
        }
    }

    /// What is not known because the head ends is told from what is not there.
    #[test]
    fn a_head_that_is_too_short_says_so() {
        let udp = &TCP[..8];
        let long = [6, 4].iter().chain(&[0; 38]).copied().collect::<Vec<u8>>();
        for (frame, network, protocol) in [
            (four(8, 0, 0, 6, &TCP), Network::Ipv4, 6),
            (four(10, 0, 0, 17, udp), Network::Ipv4, 17),
            (six(0, &[&long[..], &TCP].concat()), Network::Ipv6, 6),
            (tags(&six(0, &[&long[..], &TCP].concat()), &[0x81, 0, 0, 7]), Network::Ipv6, 0),
            (tags(&six(6, &TCP), &[0x88, 0xa8, 0, 7, 0x81, 0, 0, 7]), Network::Ipv6, 6),
        ] {
            let short = read(&frame, HEAD);
            assert_eq!((short.l4(), short.is_cut, short.network, short.protocol), (None, true, network, protocol));
            assert!(!read(&frame, HEAD_MAX).is_cut);
            // The same frame, of which there is no more.
            assert!(!read(&frame[..HEAD.min(frame.len())], HEAD).is_cut);
        }
        let found = |head_len| read(&six(6, &TCP), head_len);
        assert_eq!([13, 20, 53, 57, 58].map(|head_len| found(head_len).is_cut), [true, true, true, true, false]);
    }

    #[test]
    fn flows_differ_by_ports_but_not_by_payload_fragment_tag_or_head() {
        let flow = |frame: &[u8]| read(frame, HEAD).flow;
        let port = |port: u8| [&[3, port], &TCP[2..]].concat();
        let [one, other] = [1, 2].map(|n| four(0, 0, 0, 6, &port(n)));
        assert_ne!(flow(&one), flow(&other));
        let mut later = one.clone();
        later[45] = 9;
        assert_eq!(flow(&one), flow(&later));
        let [first, last] = [(0x2000, 1), (0x0010, 2)].map(|(fragment, n)| four(0, 0, fragment, 17, &port(n)));
        assert_eq!(flow(&first), flow(&last));
        assert_ne!(flow(&six(6, &port(1))), flow(&six(6, &port(2))));
        // What only longer heads have is in no hash.
        for frame in
            [one, six(6, &TCP), four(8, 0, 0, 6, &TCP), six(0, &[&[6, 0, 1, 4, 0, 0, 0, 0][..], &TCP].concat())]
        {
            assert_eq!(flow(&frame), read(&frame, HEAD_MAX).flow);
            let mut tagged = burst(&frame, HEAD_MAX);
            vlan::push(&mut tagged.frames[0], 7);
            assert_eq!(flow(&frame), tagged.flows(&[0]).next().unwrap().1);
        }
        // What is not IP has its addresses.
        let arp = |last: u8| [&ADDRESSES[..11], &[last], &[8, 6, 0, 1]].concat();
        assert_eq!((flow(&arp(1)) == flow(&arp(2)), flow(&arp(1))), (false, flow(&tags(&arp(1), &[0x81, 0, 0, 7]))));
        let flows: HashSet<u32> = (0..1000u16)
            .map(|n| flow(&four(0, 0, 0, 17, &[n.to_be_bytes(), [0, 53], [0, 8], [0, 0]].concat())) & 0x3fff)
            .collect();
        assert!(flows.len() > 950, "{} of 1000", flows.len());
    }

    /// Whatever the bytes are: the short way agrees with the other one, and what is found is in the head.
    #[test]
    fn any_bytes_are_read_alike_on_both_ways() {
        let seeds =
            [four(0, 0, 0, 6, &TCP), four(3, 0, 0, 17, &TCP), six(6, &TCP), six(0, &[0, 1, 5, 2, 60, 0, 0, 0, 43])];
        let mut x = 88172645463325252u64;
        let (mut usual, mut found) = (0, 0);
        for round in 0..200_000 {
            let mut frame = seeds[round % seeds.len()].clone();
            for _ in 0..round % 3 {
                x ^= x << 13;
                x ^= x >> 7;
                x ^= x << 17;
                let at = (x >> 8) as usize % frame.len();
                frame[at] = if x & 3 == 0 { (x >> 32) as u8 } else { frame[at] ^ 1 << (x >> 32 & 7) };
            }
            frame.truncate(if round % 7 == 6 { (x >> 40) as usize % (frame.len() + 1) } else { frame.len() });
            let mut burst = burst(&frame, HEAD);
            let (layers, others) = (read_first(&mut burst), Layers::of_others(&burst.frames[0]));
            assert_eq!(layers, others, "{frame:02x?}");
            let end = burst.frames[0].end;
            assert!(layers.l3 <= end && layers.l4().is_none_or(|l4| l4 >= layers.l3 + 20 && l4 + 4 <= end));
            usual += u32::from(Layers::of_usual(&burst.frames[0]).is_some());
            found += u32::from(layers.l4().is_some());
        }
        assert!(usual > 30_000 && found - usual > 50_000, "{usual} {found}");
    }

    /// Read once, handed on to copies, and forgotten with the frames.
    #[test]
    fn what_is_known_is_of_this_burst() {
        let mut burst = burst(&four(0, 0, 0, 6, &TCP), HEAD);
        let before = burst.copy(0).unwrap();
        let layers = read_first(&mut burst);
        let after = burst.copy(0).unwrap();
        let known = |burst: &Burst| [0, before, after].map(|i| burst.meta.layers.get(i));
        assert_eq!(known(&burst), [Some(layers), None, Some(layers)]);
        burst.frames[0].bytes.fill(0);
        assert_eq!(
            (read_first(&mut burst), burst.flows(&[0]).next().unwrap().1),
            (layers, layers.flow),
            "nobody looks again"
        );
        burst.forget_copies();
        assert_eq!(known(&burst), [Some(layers), None, None]);
        burst.clear();
        assert_eq!(known(&burst), [None; 3]);
    }
}
