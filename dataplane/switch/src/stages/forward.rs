//! Where each frame goes: to the place its destination was last seen at, or, if it is a group's or not known, to all.

use super::{Context, Pass, Process, Selection, parse::GROUP, send::TxLists, vlan};
use crate::burst::Burst;
use crate::drops::Drop;
use crate::egress::Egress;
use crate::names::{Named, declare};
use crate::port::Output;

declare! { REASONS of Drop;
    /// The destination is behind the port the frame came from.
    ForwardSamePort = "forward.same_port";
    /// From a tunnel towards a tunnel of the same overlay.
    ForwardSplitHorizon = "forward.split_horizon";
}

#[derive(Default)]
pub(crate) struct Forward;

impl Process for Forward {
    const REASONS: &[Named] = REASONS;

    fn run<O: Output>(&mut self, pass: &mut Pass<O>) -> usize {
        let frames = pass.live.len();
        pass.tunnels = run(pass.burst, &mut pass.live, pass.cx, pass.lists);
        frames
    }
}

/// Puts frames for ports into `lists`. Returns those for tunnels, whose numbers are in their metadata; what must be flooded stays in
/// `live`.
#[inline(never)]
fn run(burst: &mut Burst, live: &mut Selection, cx: &Context, lists: &mut TxLists) -> Selection {
    let (mut tunnels, mut flooded) = (Selection::NONE, Selection::NONE);
    let (mut same_port, mut split_horizon) = (Selection::NONE, Selection::NONE);
    // Frames of a burst often leave through one port, one after the other.
    let (mut last, mut run) = (Egress::NOWHERE, Selection::NONE);
    for i in live.iter() {
        let (dst, ingress) = (burst.meta.dst[i], burst.meta.ingress[i]);
        if dst & GROUP != 0 {
            flooded.add(i);
            continue;
        }
        let Some(egress) = cx.fdb.lookup(dst, burst.meta.dst_bucket[i]) else {
            flooded.add(i);
            continue;
        };
        if egress == ingress {
            same_port.add(i);
        } else if egress == last {
            run.add(i);
        } else if egress.is_untagged_port() {
            lists.push_all(last, run);
            (last, run) = (egress, Selection::NONE);
            run.add(i);
        } else if !egress.is_tunnel() {
            vlan::push(&mut burst.frames[i], egress.vlan() | burst.meta.priority[i]);
            lists.push(egress.index(), i);
        } else if ingress.is_tunnel() {
            split_horizon.add(i);
        } else {
            burst.meta.egress[i] = egress;
            tunnels.add(i);
        }
    }
    lists.push_all(last, run);
    same_port.drop(burst, Drop::ForwardSamePort);
    split_horizon.drop(burst, Drop::ForwardSplitHorizon);
    *live = flooded;
    tunnels
}
