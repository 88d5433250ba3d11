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
use crate::tables::Overlay;
use crate::wire::{self, ETH, UDP_HEADER as UDP, be16, be32};
use std::net::Ipv4Addr;

const VXLAN: usize = 8;

/// On the underlay port: finds each inner frame and its bridge, and reads its addresses. How many frames went to the slow
/// path.
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
    live.each(burst, |burst, i| {
        match outer(burst.frames[i].head(), burst.frames[i].len(), overlay) {
            Ok(Outer::Vxlan { at, len, vni, from }) => {
                let Some(bridge) = overlay.vnis.get(vni) else {
                    return Verdict::Drop(Drop::VxlanUnknownVni);
                };
                let ingress = match overlay.vteps.get(from) {
                    Some(tunnel) => Egress::tunnel(tunnel),
                    None if overlay.learn_vteps => {
                        // Known from the next publishing on; until then its frames pass, but their sources can't be learned.
                        out.punt(cx.port, Punt::Vtep(Ipv4Addr::from(from)));
                        Egress::NOWHERE
                    }
                    None => return Verdict::Drop(Drop::VxlanUnknownVtep),
                };
                // What follows the outer packet is padding of a short Ethernet frame.
                burst.truncate(i, at + len);
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

/// What an underlay frame is.
#[derive(Debug, PartialEq, Eq)]
enum Outer {
    /// An inner frame of `len` bytes from offset `at` on, sent by the VTEP `from`.
    Vxlan { at: usize, len: usize, vni: u32, from: u32 },
    /// For the VTEP's own address.
    Host,
}

/// Reads the outer headers of a frame of `len` bytes from its `head`.
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
