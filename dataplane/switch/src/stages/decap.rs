//! VXLAN decapsulation (RFC 7348, section 5) on the underlay port. What is ours but not VXLAN (ARP, ICMP) goes to the
//! slow path.
//!
//! Drops: `parse.truncated`, `underlay.gso`, `underlay.not_for_us`, `underlay.punt_full`, `vxlan.bad_outer`, `vxlan.bad_flags`,
//! `vxlan.unknown_vni`, `vxlan.unknown_vtep`, `vxlan.inner_tag`.

use super::{Context, Live, Verdict, learn::Sources, parse};
use crate::burst::Burst;
use crate::drops::Drop;
use crate::fdb::Egress;
use crate::mem;
use crate::offload::{self, Gso};
use crate::port::{Output, Punt};
use crate::tables::{OUTER, Overlay};
use crate::wire::{self, ETH, UDP_HEADER as UDP, be16, be32};
use std::net::Ipv4Addr;

const VXLAN: usize = 8;

/// On the underlay port: finds each inner frame and its bridge, and reads its addresses. How many frames went to the slow
/// path.
#[inline(never)]
pub(crate) fn run(
    burst: &mut Burst,
    live: &mut Live,
    cx: Context,
    sources: &mut Sources,
    out: &mut impl Output,
) -> u32 {
    let Some(overlay) = &cx.tables.overlay else {
        live.each(burst, |_, _| Verdict::Drop(Drop::UnderlayNotForUs));
        return 0;
    };
    if burst.has_offloads() {
        live.each(burst, |burst, i| match burst.frames[i].pending.gso {
            Gso::None => Verdict::Go,
            _ => Verdict::Drop(Drop::UnderlayGso),
        });
    }
    let mut punted = 0;
    // Frames of a burst often come from one tunnel, one after the other.
    let mut last = None;
    live.each(burst, |burst, i| {
        let frame = &burst.frames[i];
        let found = match usual(frame.head(), frame.len(), overlay) {
            Some(found) => Ok(found),
            None => outer(frame.head(), frame.len(), overlay),
        };
        match found {
            Ok(Outer::Vxlan { at, len, vni, from }) => {
                let (bridge, ingress) = match last {
                    Some((tunnel, places)) if tunnel == (vni, from) => places,
                    _ => match places(vni, from, overlay, cx, out) {
                        Ok(places) => {
                            last = Some(((vni, from), places));
                            places
                        }
                        Err(reason) => return Verdict::Drop(reason),
                    },
                };
                // What follows the outer packet is padding of a short Ethernet frame.
                if burst.frames[i].len() != at + len {
                    burst.truncate(i, at + len);
                }
                burst.frames[i].pull_front(at);
                if burst.has_offloads() {
                    offload::forget_outer(&mut burst.frames[i]);
                }
                if be16(burst.frames[i].head(), 12) == wire::VLAN {
                    return Verdict::Drop(Drop::VxlanInnerTag);
                }
                parse::addresses(burst, i, cx, bridge, ingress, sources)
            }
            Ok(Outer::Host) => {
                offload::complete(burst, i);
                if out.punt(cx.port, Punt::Frame(mem::to_vec(burst, &burst.frames[i]))) {
                    punted += 1;
                    Verdict::Taken
                } else {
                    Verdict::Drop(Drop::UnderlayPuntFull)
                }
            }
            Err(reason) => Verdict::Drop(reason),
        }
    });
    punted
}

/// The bridge of `vni`, and where frames of the VTEP `from` are from.
#[inline]
fn places(vni: u32, from: u32, overlay: &Overlay, cx: Context, out: &mut impl Output) -> Result<(u16, Egress), Drop> {
    let bridge = overlay.vnis.get(vni).ok_or(Drop::VxlanUnknownVni)?;
    match overlay.vteps.get(from) {
        Some(tunnel) => Ok((bridge, Egress::tunnel(tunnel))),
        None if overlay.learn_vteps => {
            // Known from the next publishing on; until then its frames pass, but their sources can't be learned.
            out.punt(cx.port, Punt::Vtep(Ipv4Addr::from(from)));
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
    /// For the VTEP's own address.
    Host,
}

/// Reads outer headers as nearly all VXLAN frames have them, without IP options and with nothing wrong: with few instructions. `None`
/// of any other, which [`outer`] is to read.
#[inline(always)]
fn usual(head: &[u8], len: usize, overlay: &Overlay) -> Option<Outer> {
    const IP: usize = 20;
    const LEAST: usize = IP + UDP + VXLAN + ETH;
    let h: &[u8; OUTER + ETH] = head.first_chunk()?;
    let word = |at: usize| u32::from_ne_bytes([h[at], h[at + 1], h[at + 2], h[at + 3]]);
    let total = be16(h, 16) as usize;
    let udp_len = be16(h, 38) as usize;
    // Words of 32 bits have the sum of their halves, in either byte order.
    let sum: u64 = [14, 18, 22, 26, 30].map(|at| u64::from(word(at))).iter().sum();
    let sum = (sum & 0xffff_ffff) + (sum >> 32);
    let sum = (sum & 0xffff) + (sum >> 16);
    let ours = h[..6] == overlay.mac.0
        && be16(h, 12) == wire::IPV4
        && h[14] == 0x45
        && be16(h, 20) & 0x3fff == 0
        && h[23] == wire::UDP
        && be32(h, 30) == u32::from(overlay.local)
        && be16(h, 36) == overlay.udp_port
        && h[42] & 0x08 != 0;
    let whole = (LEAST..=len - ETH).contains(&total) && (LEAST - IP..=total - IP).contains(&udp_len);
    (ours && whole && wire::fold(sum as u32) == 0xffff).then(|| Outer::Vxlan {
        at: OUTER,
        len: udp_len - UDP - VXLAN,
        vni: be32(h, 46) >> 8,
        from: be32(h, 26),
    })
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
        wire::ARP => return Ok(Outer::Host),
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
        wire::ICMP => return Ok(Outer::Host),
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
    use crate::tables::Tunnel;
    use dray_config::Mac;

    /// What is read with few instructions is what is read with all checks, whatever the bytes are.
    #[test]
    fn the_usual_way_agrees_with_the_other() {
        let (local, peer) = (Ipv4Addr::new(10, 9, 0, 1), Ipv4Addr::new(10, 9, 0, 2));
        let (ours, theirs) = (Mac([2, 9, 0, 0, 0, 1]), Mac([2, 9, 0, 0, 0, 2]));
        let overlay = Overlay {
            port: 0,
            mac: ours,
            local,
            udp_port: 4789,
            mtu: 1500,
            learn_vteps: false,
            vnis: Default::default(),
            vteps: Default::default(),
            tunnels: Vec::new(),
        };
        let sent = Tunnel::new(theirs, peer, 4789, local, ours);
        let mut good = sent.template.unwrap().to_vec();
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
        let expected = Outer::Vxlan { at: OUTER, len: 60, vni: 42, from: peer.into() };
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
            if let Some(found) = usual(head, len, &overlay) {
                assert_eq!(Ok(found), outer(head, len, &overlay), "{frame:02x?}");
                usual_ones += 1;
            }
        }
        let frame = sealed(good);
        assert_eq!(usual(&frame, frame.len(), &overlay), Some(expected));
        assert!(usual_ones > 50_000, "{usual_ones}");
    }
}
