//! Where each frame goes: to the place its destination was last seen at, or, if it is a group's or not known, to all.
//!
//! Drops: `forward.same_port`, `forward.split_horizon`.

use super::{Context, Live, Verdict, egress::Lists, parse::GROUP, vlan};
use crate::burst::Burst;
use crate::drops::Drop;

/// Puts frames for ports into `lists`, frames for tunnels into `tunnels`; what must be flooded stays in `live`.
pub(crate) fn run(burst: &mut Burst, live: &mut Live, cx: Context, lists: &mut Lists, tunnels: &mut Vec<(u16, u16)>) {
    live.each(burst, |burst, i| {
        let meta = &burst.meta[i];
        if meta.dst & GROUP != 0 {
            return Verdict::Go;
        }
        let Some(egress) = cx.fdb.lookup(meta.dst, meta.dst_bucket) else {
            return Verdict::Go;
        };
        if egress == meta.ingress {
            return Verdict::Drop(Drop::ForwardSamePort);
        }
        if egress.is_untagged_port() {
            lists.push(egress.index(), i);
        } else if !egress.is_tunnel() {
            vlan::push(&mut burst.frames[i], egress.vlan() | meta.priority);
            lists.push(egress.index(), i);
        } else if meta.ingress.is_tunnel() {
            return Verdict::Drop(Drop::ForwardSplitHorizon);
        } else {
            tunnels.push((i, egress.index()));
        }
        Verdict::Taken
    })
}
