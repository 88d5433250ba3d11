//! Which bridge a frame belongs to: by its port and 802.1Q tag, which is popped. A priority tag (VLAN 0) counts as none.
//!
//! Drops: `vlan.no_bridge`, `vlan.unknown_vlan`, `parse.truncated`.

use super::{Context, Live, Verdict};
use crate::burst::{Burst, Frame};
use crate::drops::Drop;
use crate::fdb::Egress;
use crate::tables::{NO_BRIDGE, PortTable};
use crate::wire::{self, ETH, TAG, be16};

pub(crate) fn run(burst: &mut Burst, live: &mut Live, cx: Context) {
    match cx.tables.ports.get(cx.port as usize) {
        Some(PortTable::Access(bridge)) => {
            classify(burst, live, cx, |vlan| if vlan == 0 { *bridge } else { NO_BRIDGE })
        }
        Some(PortTable::Trunk(bridges)) => classify(burst, live, cx, |vlan| bridges[vlan as usize & 0xfff]),
        _ => live.each(burst, |_, _| Verdict::Drop(Drop::VlanNoBridge)),
    }
}

#[inline(always)]
fn classify(burst: &mut Burst, live: &mut Live, cx: Context, bridge_of: impl Fn(u16) -> u16) {
    live.each(burst, |burst, i| {
        let frame = &mut burst.frames[i as usize];
        if frame.head().len() < ETH {
            return Verdict::Drop(Drop::ParseTruncated);
        }
        let mut vlan = 0;
        if be16(frame.head(), 12) == wire::VLAN {
            if frame.head().len() < ETH + TAG {
                return Verdict::Drop(Drop::ParseTruncated);
            }
            vlan = be16(frame.head(), 14) & 0xfff;
            pop(frame);
        }
        let meta = &mut burst.meta[i as usize];
        meta.bridge = bridge_of(vlan);
        meta.ingress = Egress::port(cx.port, vlan);
        if meta.bridge == NO_BRIDGE { Verdict::Drop(Drop::VlanUnknown) } else { Verdict::Go }
    })
}

/// Takes the tag out: the addresses move up over it.
fn pop(frame: &mut Frame) {
    frame.head_mut().copy_within(0..12, TAG);
    frame.pull_front(TAG);
}

/// Puts a tag in: the addresses move down into the headroom.
#[inline]
pub(crate) fn push(frame: &mut Frame, vlan: u16) {
    frame.push_front::<TAG>();
    let head = frame.head_mut();
    head.copy_within(TAG..TAG + 12, 0);
    head[12..14].copy_from_slice(&wire::VLAN.to_be_bytes());
    head[14..16].copy_from_slice(&vlan.to_be_bytes());
}
