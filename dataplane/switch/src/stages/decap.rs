//! VXLAN decapsulation (RFC 7348, section 5) on the underlay port. What is ours but not VXLAN (ARP, ICMP) goes to the
//! slow path. Priority tags (VLAN 0) count as none. What the underlay says by ECN is told to the inner packet (RFC 6040, section 4.2);
//! its DSCP stays as it was (RFC 2983, pipe model).

use super::{Context, Pass, Process, Selection, Verdict, parse, parse::Addresses, vlan};
use crate::PuntReason;
use crate::adjacency::OUTER;
use crate::burst::{BURST, Burst, Frame};
use crate::drops::Drop;
use crate::egress::Egress;
use crate::layers::{Layers, Network};
use crate::mem;
use crate::names::{Named, declare};
use crate::offload::{self, Gso};
use crate::port::Output;
use crate::tables::{NO_BRIDGE, Overlay, Port};
use crate::wire::{self, ETH, UDP_HEADER as UDP, be16, be32};
use dray_config::Mac;

declare! { REASONS of Drop;
    /// An underlay frame that is neither ours nor VXLAN: not addressed to us, or not a protocol we speak.
    UnderlayNotForUs = "underlay.not_for_us" {
        cause: "What is for others on the same network: IPv6, LLDP, spanning tree, broadcasts. A few of these \
            are in order.",
        remedy: "If a tunnel does not work: the sender's remote address and port must be `local` and `udp-port` \
            of `[vxlan]`, untagged; its neighbour table must have the `mac` of the underlay's port.",
    };
    /// An underlay frame that is itself still to be segmented, not what it carries, and is not UDP datagrams; or that would be cut into too
    /// many.
    UnderlayGso = "underlay.gso" {
        cause: "The underlay's port is a virtual machine that leaves segmentation to the device.",
        remedy: "In that guest, for its device: `ethtool -K DEV tso off gso off`.",
    };
    /// Slow-path frames (ARP, ICMP to our own address) came faster than they are answered.
    UnderlayPuntFull = "underlay.punt_full" {
        cause: "Somebody floods the VTEP's address with ARP or ping.",
        remedy: "Find the sender in the underlay: `tcpdump -c 100 -ni DEV 'arp or icmp'` on a host there. \
            Entries in `neighbours` of `[vxlan]` need no ARP meanwhile.",
    };
    /// The outer IPv4 or UDP header is malformed, a fragment, or contradicts the frame's length.
    VxlanBadOuter = "vxlan.bad_outer" {
        cause: "The outer packets are fragmented on the way (RFC 7348 forbids it), because they are longer than \
            an MTU there; or damaged.",
        remedy: "The MTU of every device on the way must be 50 bytes more than the bridge's, which `dray bridge \
            show` has; the other VTEP is to set DF (`df set` of Linux's vxlan).",
    };
    /// The VXLAN header's I flag is not set (RFC 7348, section 5).
    VxlanBadFlags = "vxlan.bad_flags" {
        cause: "Something that is not VXLAN is sent to this UDP port.",
        remedy: "Look at the sender; `udp-port` of `[vxlan]` is 4789 for VXLAN.",
    };
    /// No bridge has this VNI.
    VxlanUnknownVni = "vxlan.unknown_vni" {
        cause: "The other VTEP has an overlay that this host does not take part in, or the number differs.",
        remedy: "`dray bridge show` has the VNIs here; `dray bridge set BRIDGE vni N` changes one. Or take this \
            host out of the other VTEP's list.",
    };
    /// The sender is not a configured VTEP and `learn-vteps` is off.
    VxlanUnknownVtep = "vxlan.unknown_vtep" {
        cause: "The other host is in no `peers`.",
        remedy: "`dray vtep add IP`. Or `dray config set vxlan learn-vteps true`, which takes packets of whoever \
            can reach the underlay.",
    };
    /// The encapsulated frame, or one that was to be, has a VLAN tag (RFC 7348, section 6.1).
    VxlanInnerTag = "vxlan.inner_tag" {
        cause: "The other VTEP has a trunk in its overlay; or a port here sends 802.1ad tags (0x88a8).",
        remedy: "Give each VLAN a bridge and a VNI of its own: `dray bridge join BRIDGE PORT:VLAN` takes the tag \
            off.",
    };
    /// The outer header tells of congestion (CE), and the transport inside does not know ECN (RFC 6040, section 4.2).
    VxlanEcn = "vxlan.ecn" {
        cause: "The sending VTEP says of all its packets that they know ECN, and a router on the way was \
            congested.",
        remedy: "Have that VTEP copy the ECN bits of the inner packet. The congestion itself is in the routers' \
            queues.",
    };
}

declare! { PUNTS of PuntReason;
    /// ARP on the underlay port.
    Arp = "arp";
    /// ICMP to the VTEP's own address.
    Icmp = "icmp";
    /// Sent by a VTEP that is not configured, and `learn-vteps` is on. It goes on all the same: what is punted is to be known of.
    Vtep = "vtep";
}

const VXLAN: usize = 8;

#[derive(Default)]
pub(crate) struct Decap;

impl Process for Decap {
    const REASONS: &[Named] = REASONS;
    const PUNTS: &[Named] = PUNTS;

    fn wanted(port: &Port) -> bool {
        port.is_underlay()
    }

    fn run<O: Output>(&mut self, pass: &mut Pass<O>) -> usize {
        pass.tally.punted = run(pass.burst, &mut pass.live, pass.cx, pass.out);
        parse::hash(pass, Egress::tunnel(0))
    }
}

/// On the underlay port: finds each inner frame and its bridge, and reads its addresses. How many frames went to the slow
/// path.
#[inline(never)]
fn run(burst: &mut Burst, live: &mut Selection, cx: &Context, out: &mut impl Output) -> u32 {
    let Some(overlay) = &cx.tables.overlay else {
        live.each(burst, |_, _| Verdict::drop(Drop::UnderlayNotForUs));
        return 0;
    };
    let offloads = burst.has_offloads();
    if offloads {
        live.each(burst, |burst, i| {
            let frame = &burst.frames[i];
            let is_whole = frame.pending.gso == Gso::None || offload::is_encapsulated(frame);
            if is_whole { Verdict::GO } else { Verdict::drop(Drop::UnderlayGso) }
        });
    }
    burst.meta.priority.0[..BURST].fill(0);
    let mut punted = 0;
    let usual = Usual::of(overlay);
    // Frames of a burst often come from one tunnel, one after the other.
    let mut last = None;
    live.each(burst, |burst, i| {
        let frame = &mut burst.frames[i];
        let Some((origin, addresses)) = frame.received().and_then(|head| usual.read(head, frame.len())) else {
            return unusual(burst, i, cx, overlay, out, &mut punted);
        };
        let (bridge, ingress) = match last {
            Some((known, places)) if known == origin => places,
            _ => match places(frame, origin.vni(), origin.vtep(), overlay, cx, out) {
                Ok(places) => {
                    last = Some((origin, places));
                    places
                }
                Err(reason) => return Verdict::drop(reason),
            },
        };
        frame.pull_front(OUTER);
        if offloads {
            offload::forget_outer(frame);
        }
        addresses.note(burst, i, bridge, ingress)
    });
    punted
}

/// The same for a frame whose outer headers are not as nearly all are.
#[cold]
#[inline(never)]
fn unusual(
    burst: &mut Burst,
    i: u16,
    cx: &Context,
    overlay: &Overlay,
    out: &mut impl Output,
    punted: &mut u32,
) -> Verdict {
    let frame = &mut burst.frames[i];
    if frame.head().get(12..ETH).is_some_and(|ether_type| be16(ether_type, 0) == wire::VLAN) {
        match vlan::pop(frame) {
            Ok(tci) if tci & 0xfff == 0 => {}
            Ok(_) => return Verdict::drop(Drop::UnderlayNotForUs),
            Err(reason) => return Verdict::drop(reason),
        }
    }
    let frame = &burst.frames[i];
    match outer(frame.head(), frame.len(), overlay) {
        Ok(Outer::Vxlan { at, len, vni, from }) => {
            let (bridge, ingress) = match places(frame, vni, from, overlay, cx, out) {
                Ok(places) => places,
                Err(reason) => return Verdict::drop(reason),
            };
            // What follows the outer packet is padding of a short Ethernet frame.
            if burst.frames[i].len() != at + len {
                if offload::is_long(&burst.frames[i]) {
                    return Verdict::drop(Drop::VxlanBadOuter);
                }
                burst.truncate(i, at + len);
            }
            let outer = burst.frames[i].head()[ETH + 1];
            burst.frames[i].pull_front(at);
            if burst.has_offloads() {
                offload::forget_outer(&mut burst.frames[i]);
            }
            let frame = &mut burst.frames[i];
            let inner = Layers::of(frame);
            if inner.is_tagged(frame.start) {
                return Verdict::drop(Drop::VxlanInnerTag);
            }
            // Nothing but IP has ECN.
            if inner.network != Network::Other {
                match wire::ecn_of_inner(inner.class, outer) {
                    Some(ecn) if ecn == inner.class & wire::ECN => {}
                    Some(ecn) => wire::set_ecn(frame.head_mut(), ecn),
                    None => return Verdict::drop(Drop::VxlanEcn),
                }
            }
            parse::addresses(burst, i, bridge, ingress)
        }
        Ok(Outer::Ours(reason)) => {
            offload::complete(burst, i);
            if out.punt(reason, cx.port, NO_BRIDGE, || mem::to_vec(burst, &burst.frames[i])) {
                *punted += 1;
                Verdict::TAKEN
            } else {
                Verdict::drop(Drop::UnderlayPuntFull)
            }
        }
        Err(reason) => Verdict::drop(reason),
    }
}

/// The bridge of `vni`, and where frames of the VTEP `from` are from, of which this one is.
#[inline]
fn places(
    frame: &Frame,
    vni: u32,
    from: u32,
    overlay: &Overlay,
    cx: &Context,
    out: &mut impl Output,
) -> Result<(u16, Egress), Drop> {
    let bridge = overlay.vnis.get(vni).ok_or(Drop::VxlanUnknownVni)?;
    match overlay.vteps.get(from) {
        Some(tunnel) => Ok((bridge, Egress::tunnel(tunnel))),
        None if overlay.learn_vteps => {
            // Known from the next publishing on; until then its frames pass, but their sources can't be learned.
            out.punt(PuntReason::Vtep, cx.port, bridge, || frame.head().to_vec());
            Ok((bridge, Egress::NOWHERE))
        }
        None => Err(Drop::VxlanUnknownVtep),
    }
}

/// What an underlay frame is.
#[derive(Debug, PartialEq, Eq)]
enum Outer {
    /// An inner frame of `len` bytes from offset `at` on, sent by the VTEP `from`.
    Vxlan { at: usize, len: usize, vni: u32, from: u32 },
    /// Ours, and for the slow path.
    Ours(PuntReason),
}

/// How nearly all VXLAN frames begin: without IP options or an inner tag, with nothing wrong and nothing behind them. They are told with
/// few instructions; whatever begins otherwise [`outer`] is to read.
struct Usual([u64; WORDS.len()]);

/// Where the words are that are always the same, and which of their bits are.
const WORDS: [(usize, u64); 5] = [
    // Destination.
    (0, word([0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0])),
    // EtherType, version and length of the IP header, and that bit of ECN without which the inner packet's stays as it is.
    (12, word([0xff, 0xff, 0xff, 0x01, 0, 0, 0, 0])),
    // Fragment, protocol.
    (20, word([0x3f, 0xff, 0, 0xff, 0, 0, 0, 0])),
    // IP destination, UDP destination port.
    (30, word([0xff, 0xff, 0xff, 0xff, 0, 0, 0xff, 0xff])),
    // VXLAN flags.
    (42, word([0x08, 0, 0, 0, 0, 0, 0, 0])),
];

const fn word(bytes: [u8; 8]) -> u64 {
    u64::from_ne_bytes(bytes)
}

impl Usual {
    fn of(overlay: &Overlay) -> Usual {
        let Mac([a, b, c, d, e, f]) = overlay.mac;
        let [w, x, y, z] = overlay.local.octets();
        let [h, l] = overlay.udp_port.to_be_bytes();
        let ([high, low], udp) = (wire::IPV4.to_be_bytes(), wire::UDP);
        Usual([
            word([a, b, c, d, e, f, 0, 0]),
            word([high, low, 0x45, 0, 0, 0, 0, 0]),
            word([0, 0, 0, udp, 0, 0, 0, 0]),
            word([w, x, y, z, 0, 0, h, l]),
            word([0x08, 0, 0, 0, 0, 0, 0, 0]),
        ])
    }

    /// If a frame of `len` bytes that begins with `h` is a usual one: which bytes say what tunnel and network it is from, and its inner
    /// addresses.
    #[inline(always)]
    fn read(&self, h: &[u8; OUTER + ETH], len: usize) -> Option<(Origin, Addresses)> {
        let mut differs = 0;
        for ((at, same), usual) in WORDS.into_iter().zip(self.0) {
            differs |= (word(h[at..at + 8].try_into().expect("8 bytes")) ^ usual) & same;
        }
        let (ip, udp) = (be16(h, 16) as usize, be16(h, 38) as usize);
        differs |= ((ip + ETH) ^ len | (udp + OUTER - UDP - VXLAN) ^ len) as u64;
        let four = |at: usize| u32::from_ne_bytes([h[at], h[at + 1], h[at + 2], h[at + 3]]);
        // Words of 32 bits have the sum of their halves, in either byte order. A sum and itself with the halves exchanged add up to
        // both, with what is carried, in the upper half.
        let sum: u64 = [14, 18, 22, 26, 30].map(|at| u64::from(four(at))).iter().sum();
        let sum = (sum.wrapping_add(sum.rotate_left(32)) >> 32) as u32;
        let sum = sum.wrapping_add(sum.rotate_left(16)) >> 16;
        if differs != 0 || sum != 0xffff || wire::is_tag(be16(h, OUTER + 12)) {
            return None;
        }
        Some((Origin { vni: four(46), vtep: four(26) }, Addresses::read(h.last_chunk().expect("longer"))))
    }
}

/// Where a frame is from, as its bytes say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Origin {
    /// The VNI, and a byte that is reserved and ignored.
    vni: u32,
    vtep: u32,
}

impl Origin {
    fn vni(self) -> u32 {
        u32::from_be(self.vni) >> 8
    }

    fn vtep(self) -> u32 {
        u32::from_be(self.vtep)
    }
}

/// Reads the outer headers of a frame of `len` bytes from its `head`.
#[cold]
fn outer(head: &[u8], len: usize, overlay: &Overlay) -> Result<Outer, Drop> {
    if head.len() < ETH {
        return Err(Drop::ParseTruncated);
    }
    let broadcast = head[..6] == [0xff; 6];
    if !broadcast && head[..6] != overlay.mac.0 {
        return Err(Drop::UnderlayNotForUs);
    }
    match be16(head, 12) {
        wire::ARP => return Ok(Outer::Ours(PuntReason::Arp)),
        wire::IPV4 if !broadcast => {}
        _ => return Err(Drop::UnderlayNotForUs),
    }
    let ip = &head[ETH..];
    if ip.len() < 20 {
        return Err(Drop::ParseTruncated);
    }
    let header = (ip[0] & 15) as usize * 4;
    let total = be16(ip, 2) as usize;
    if ip[0] >> 4 != 4 || header < 20 || ip.len() < header || total < header || total > len - ETH {
        return Err(Drop::VxlanBadOuter);
    }
    if wire::fold(wire::sum(&ip[..header])) != 0xffff {
        return Err(Drop::VxlanBadOuter);
    }
    if be32(ip, 16) != u32::from(overlay.local) {
        return Err(Drop::UnderlayNotForUs);
    }
    match ip[9] {
        wire::ICMP => return Ok(Outer::Ours(PuntReason::Icmp)),
        wire::UDP => {}
        _ => return Err(Drop::UnderlayNotForUs),
    }
    // More fragments, or not the first: VTEPs must not fragment (RFC 7348, section 4.3).
    if be16(ip, 6) & 0x3fff != 0 {
        return Err(Drop::VxlanBadOuter);
    }
    let udp = &ip[header..];
    if udp.len() < UDP + VXLAN {
        return Err(Drop::VxlanBadOuter);
    }
    if be16(udp, 2) != overlay.udp_port {
        return Err(Drop::UnderlayNotForUs);
    }
    let udp_len = be16(udp, 4) as usize;
    let at = ETH + header + UDP + VXLAN;
    if udp_len > total - header || udp_len < UDP + VXLAN + ETH || head.len() < at + ETH {
        return Err(Drop::VxlanBadOuter);
    }
    // The other flags and reserved bits are ignored on receipt.
    if udp[UDP] & 0x08 == 0 {
        return Err(Drop::VxlanBadFlags);
    }
    Ok(Outer::Vxlan { at, len: udp_len - UDP - VXLAN, vni: be32(udp, UDP + 4) >> 8, from: be32(ip, 12) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::adjacency::Encap;
    use std::net::Ipv4Addr;

    /// What is read with few instructions is what is read with all checks, whatever the bytes are.
    #[test]
    fn the_usual_way_agrees_with_the_other() {
        let (local, peer) = (Ipv4Addr::new(10, 9, 0, 1), Ipv4Addr::new(10, 9, 0, 2));
        let (ours, theirs) = (Mac([2, 9, 0, 0, 0, 1]), Mac([2, 9, 0, 0, 0, 2]));
        let overlay = Overlay::new(ours, local, 4789);
        let sender = Encap::new(0, theirs, peer, 4789);
        let mut good = [0; OUTER];
        sender.write_headers(&sender.tunnel(0, local, ours), &mut good);
        let mut good = good.to_vec();
        good.resize(OUTER + 60, 0);
        good[16..18].copy_from_slice(&96u16.to_be_bytes());
        good[38..40].copy_from_slice(&76u16.to_be_bytes());
        good[48] = 42;
        let sealed = |mut frame: Vec<u8>| {
            frame[24..26].fill(0);
            let sum = !wire::fold(wire::sum(&frame[14..34]));
            frame[24..26].copy_from_slice(&sum.to_be_bytes());
            frame
        };
        let usual = Usual::of(&overlay);
        let mut x = 88172645463325252u64;
        let mut usual_ones = 0;
        for round in 0..200_000 {
            let mut frame = good.clone();
            for _ in 0..round % 4 {
                x ^= x << 13;
                x ^= x >> 7;
                x ^= x << 17;
                // Mostly the headers, and of these mostly a bit.
                let at = (x >> 8) as usize % (OUTER + 10);
                frame[at] = if x & 3 == 0 { (x >> 32) as u8 } else { frame[at] ^ 1 << (x >> 32 & 7) };
            }
            let frame = if round % 5 == 4 { frame } else { sealed(frame) };
            let len = frame.len() - if round % 7 == 6 { (x >> 40) as usize % frame.len() } else { 0 };
            let head = &frame[..len.min(128)];
            if let Some((origin, addresses)) = head.first_chunk().and_then(|head| usual.read(head, len)) {
                let (vni, from) = (origin.vni(), origin.vtep());
                let found = Outer::Vxlan { at: OUTER, len: len - OUTER, vni, from };
                assert_eq!(Ok(found), outer(head, len, &overlay), "{frame:02x?}");
                assert_eq!(addresses, Addresses::read(head[OUTER..].first_chunk().unwrap()));
                assert!(!wire::is_tag(be16(head, OUTER + 12)) && head[15] & 1 == 0);
                usual_ones += 1;
            }
        }
        let frame = sealed(good);
        let (origin, _) = usual.read(frame.first_chunk().unwrap(), frame.len()).unwrap();
        assert_eq!((origin.vni(), origin.vtep()), (42, peer.into()));
        assert!(usual_ones > 50_000, "{usual_ones}");
    }
}
