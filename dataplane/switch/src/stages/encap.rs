//! VXLAN encapsulation (RFC 7348, section 5): outer headers from the tunnel's template, written into the headroom.
//!
//! Drops: `vxlan.too_big`, `vxlan.no_neighbour`.

use super::{Context, Live, egress::Lists};
use crate::burst::{Burst, Frame};
use crate::drops::Drop;
use crate::fdb::Egress;
use crate::offload;
use crate::tables::{NO_BRIDGE, OUTER, Tables};
use crate::wire::{self, ETH};

/// Encapsulates `frames`, each for the tunnel that its metadata say, and puts them into the underlay port's list.
pub(crate) fn run(burst: &mut Burst, frames: Live, cx: Context, lists: &mut Lists) {
    // Frames of a burst often go into one tunnel, one after the other.
    let (mut last, mut outer) = ((NO_BRIDGE, Egress::NOWHERE), None);
    let mut done = Live::NONE;
    for i in frames.iter() {
        let (bridge, egress) = (burst.meta.bridge(i), burst.meta.egress[i]);
        if last != (bridge, egress) {
            last = (bridge, egress);
            outer = Outer::find(cx.tables, bridge, egress.index());
        }
        match wrap(&mut burst.frames[i], outer.as_ref()) {
            Ok(()) => done.add(i),
            Err(reason) => burst.drops.add(reason, 1),
        }
    }
    if let Some(overlay) = &cx.tables.overlay {
        lists.push_all(Egress::port(overlay.port, 0), done);
    }
}

/// Encapsulates frame `i` for `tunnel`.
pub(crate) fn one(burst: &mut Burst, cx: Context, lists: &mut Lists, i: u16, tunnel: u16) {
    let outer = Outer::find(cx.tables, burst.meta.bridge(i), tunnel);
    match (wrap(&mut burst.frames[i], outer.as_ref()), outer) {
        (Ok(()), Some(outer)) => lists.push(outer.port, i),
        (Err(reason), _) => burst.drops.add(reason, 1),
        (Ok(()), None) => {}
    }
}

/// The outer headers of a bridge's frames in a tunnel.
struct Outer<'a> {
    template: &'a [u8; OUTER],
    /// Of the template's IPv4 header, folded to 16 bits.
    sum: u32,
    /// The last word: a VNI, and a byte that is reserved and zero.
    vni: [u8; 4],
    mtu: usize,
    port: u16,
}

impl<'a> Outer<'a> {
    /// An FDB entry may name a tunnel that the newest tables don't have any more; and one's next hop may not be known yet.
    fn find(tables: &'a Tables, bridge: u16, tunnel: u16) -> Option<Self> {
        let overlay = tables.overlay.as_ref()?;
        let tunnel = overlay.tunnels.get(tunnel as usize)?;
        Some(Outer {
            template: tunnel.template.as_ref()?,
            sum: wire::fold(tunnel.sum).into(),
            vni: (tables.bridges[bridge as usize].vni << 8).to_be_bytes(),
            mtu: overlay.mtu.into(),
            port: overlay.port,
        })
    }
}

/// Puts `outer` before `frame`.
#[inline(always)]
fn wrap(frame: &mut Frame, outer: Option<&Outer>) -> Result<(), Drop> {
    let outer = outer.ok_or(Drop::VxlanNoNeighbour)?;
    // Of a frame that is to be cut, each piece gets its own lengths and checksum when it is.
    let ip_len = offload::longest_piece(frame) + OUTER - ETH;
    if ip_len > outer.mtu {
        return Err(Drop::VxlanTooBig);
    }
    let source_port = 0xc000 | wire::flow_hash(frame.head()) as u16 & 0x3fff;
    let bytes = frame.push_front::<OUTER, OUTER>();
    *bytes = *outer.template;
    let sum = outer.sum + ip_len as u32;
    bytes[16..18].copy_from_slice(&(ip_len as u16).to_be_bytes());
    bytes[24..26].copy_from_slice(&(!(sum + (sum >> 16)) as u16).to_be_bytes());
    bytes[34..36].copy_from_slice(&source_port.to_be_bytes());
    bytes[38..40].copy_from_slice(&(ip_len as u16 - 20).to_be_bytes());
    bytes[46..50].copy_from_slice(&outer.vni);
    Ok(())
}
