//! VXLAN encapsulation (RFC 7348, section 5): outer headers from the tunnel's template, written into the headroom.
//!
//! Drops: `vxlan.too_big`, `vxlan.no_neighbour`.

use super::{Context, Live, egress::Lists};
use crate::burst::Burst;
use crate::drops::Drop;
use crate::offload;
use crate::tables::OUTER;
use crate::wire::{self, ETH};

/// Encapsulates `frames`, each for the tunnel that its metadata say, and puts them into the underlay port's list.
pub(crate) fn run(burst: &mut Burst, frames: Live, cx: Context, lists: &mut Lists) {
    for i in frames.iter() {
        one(burst, cx, lists, i, burst.meta[i].egress.index());
    }
}

/// Encapsulates frame `i` for `tunnel`.
#[inline]
pub(crate) fn one(burst: &mut Burst, cx: Context, lists: &mut Lists, i: u16, tunnel: u16) {
    let vni = cx.tables.bridges[burst.meta[i].bridge() as usize].vni;
    let frame = &mut burst.frames[i];
    // An FDB entry may name a tunnel that the newest tables don't have any more.
    let Some(overlay) = &cx.tables.overlay else {
        return burst.drops.add(Drop::VxlanNoNeighbour, 1);
    };
    let Some((template, sum)) =
        overlay.tunnels.get(tunnel as usize).and_then(|t| t.template.as_ref().map(|template| (template, t.sum)))
    else {
        return burst.drops.add(Drop::VxlanNoNeighbour, 1);
    };
    // Of a frame that is to be cut, each piece gets its own lengths and checksum when it is.
    let ip_len = offload::longest_piece(frame) + OUTER - ETH;
    if ip_len > overlay.mtu as usize {
        return burst.drops.add(Drop::VxlanTooBig, 1);
    }
    let source_port = 0xc000 | wire::flow_hash(frame.head()) as u16 & 0x3fff;
    let outer = frame.push_front::<OUTER>();
    *outer = *template;
    outer[16..18].copy_from_slice(&(ip_len as u16).to_be_bytes());
    outer[24..26].copy_from_slice(&(!wire::fold(sum + ip_len as u32)).to_be_bytes());
    outer[34..36].copy_from_slice(&source_port.to_be_bytes());
    outer[38..40].copy_from_slice(&(ip_len as u16 - 20).to_be_bytes());
    // The template's last word is the VNI's place; the byte after a VNI is reserved and zero.
    outer[46..50].copy_from_slice(&(vni << 8).to_be_bytes());
    lists.push(overlay.port, i);
}
