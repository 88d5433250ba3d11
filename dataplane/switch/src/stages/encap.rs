//! VXLAN encapsulation (RFC 7348, section 5): outer headers, written into the headroom.
//!
//! The outer header has the inner one's DSCP and ECN (RFC 6040, section 4.1, normal mode; RFC 2983, uniform model).

use super::{Context, Pass, Process, Selection, send::TxLists};
use crate::burst::{Burst, Frame};
use crate::drops::Drop;
use crate::egress::Egress;
use crate::names::{Named, declare};
use crate::offload;
use crate::port::Output;
use crate::tables::{OUTER, Overlay};
use crate::wire::{self, ETH};

declare! { REASONS of Drop;
    /// The encapsulated frame does not fit the underlay's MTU.
    VxlanTooBig = "vxlan.too_big";
    /// The next hop towards the VTEP is not resolved (yet).
    VxlanNoNeighbour = "vxlan.no_neighbour";
}

#[derive(Default)]
pub(crate) struct Encap;

impl Process for Encap {
    const REASONS: &[Named] = REASONS;

    fn run<O: Output>(&mut self, pass: &mut Pass<O>) -> usize {
        run(pass.burst, pass.tunnels, pass.cx, pass.lists);
        pass.tunnels.len()
    }
}

/// Encapsulates `frames`, each for the tunnel that its metadata say, and puts them into the underlay port's list.
fn run(burst: &mut Burst, frames: Selection, cx: &Context, lists: &mut TxLists) {
    let Some(overlay) = &cx.tables.overlay else {
        return frames.drop(burst, Drop::VxlanNoNeighbour);
    };
    let mut done = Selection::NONE;
    for i in frames.iter() {
        let (bridge, tunnel) = (burst.meta.bridge(i), burst.meta.egress[i].index());
        match wrap(&mut burst.frames[i], overlay, bridge, tunnel) {
            Ok(()) => done.add(i),
            Err(reason) => burst.drop(i, reason),
        }
    }
    lists.push_all(Egress::port(overlay.port, 0), done);
}

/// Encapsulates frame `i` for `tunnel`.
pub(crate) fn one(burst: &mut Burst, cx: &Context, lists: &mut TxLists, i: u16, tunnel: u16) {
    let bridge = burst.meta.bridge(i);
    let wrapped = cx.tables.overlay.as_ref().ok_or(Drop::VxlanNoNeighbour).and_then(|overlay| {
        wrap(&mut burst.frames[i], overlay, bridge, tunnel)?;
        Ok(overlay.port)
    });
    match wrapped {
        Ok(port) => lists.push(port, i),
        Err(reason) => burst.drop(i, reason),
    }
}

/// Puts the headers of `bridge`'s frames in `tunnel` before `frame`.
#[inline(always)]
fn wrap(frame: &mut Frame, overlay: &Overlay, bridge: u16, tunnel: u16) -> Result<(), Drop> {
    // An FDB entry may name a tunnel that the newest tables don't have any more; and one's next hop may not be known yet.
    let tunnel = overlay.tunnels.get(tunnel as usize).ok_or(Drop::VxlanNoNeighbour)?;
    let sum = tunnel.sum.ok_or(Drop::VxlanNoNeighbour)?;
    let vni = overlay.bridges.get(bridge as usize).copied().unwrap_or(0);
    // Of a frame that is to be cut, each piece gets its own lengths and checksum when it is.
    let ip_len = offload::longest_piece(frame) + OUTER - ETH;
    if ip_len > overlay.mtu.into() {
        return Err(Drop::VxlanTooBig);
    }
    let class = wire::traffic_class(frame.head()).ok_or(Drop::VxlanInnerTag)?;
    let source_port = 0xc000 | wire::flow_hash(frame.head()) as u16 & 0x3fff;
    let bytes = frame.push_front::<OUTER, OUTER>();
    overlay.write_headers(tunnel, bytes);
    bytes[15] = class;
    // Together less than 0x1_ff00, for an MTU is less than 0xfe00: what is carried carries nothing again.
    let sum = u32::from(sum.get()) + ip_len as u32 + u32::from(class);
    bytes[16..18].copy_from_slice(&(ip_len as u16).to_be_bytes());
    bytes[24..26].copy_from_slice(&(!(sum + (sum >> 16)) as u16).to_be_bytes());
    bytes[34..36].copy_from_slice(&source_port.to_be_bytes());
    bytes[38..40].copy_from_slice(&(ip_len as u16 - 20).to_be_bytes());
    bytes[46..50].copy_from_slice(&(vni << 8).to_be_bytes());
    Ok(())
}
