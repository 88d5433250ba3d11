//! Where each frame goes: to the place its destination was last seen at, or, if it is a group's or not known, to the group of its bridge.

use super::{Context, Pass, Process, Selection, leaving::Leaving, parse::GROUP};
use crate::burst::Burst;
use crate::drops::Drop;
use crate::egress::Egress;
use crate::names::{Named, declare};
use crate::port::Output;

declare! { REASONS of Drop;
    /// The destination is behind the port the frame came from.
    ForwardSamePort = "forward.same_port" {
        cause: "A switch behind the port floods what it has not learned yet: a few of these are in order. Many: \
            a loop, or two senders with one MAC address.",
        remedy: "`dray fdb show --mac MAC` says where the address is; `mac moves` in `dray port show NAME` grows \
            if there are two.",
    };
    /// From a tunnel towards a tunnel of the same overlay.
    ForwardSplitHorizon = "forward.split_horizon" {
        cause: "Another VTEP floods what it has not learned yet: a few of these are in order. Many: it does not \
            reach the right VTEP itself.",
        remedy: "Give each VTEP all others as peers, here by `dray vtep add IP`.",
    };
}

#[derive(Default)]
pub(crate) struct Forward;

impl Process for Forward {
    const REASONS: &[Named] = REASONS;

    fn run<O: Output>(&mut self, pass: &mut Pass<O>) -> usize {
        run(pass.burst, pass.live, pass.cx, pass.leaving, pass.groups);
        pass.live.len()
    }
}

/// Adds the frames that leave by one adjacency to `leaving`, and those that are for all of their bridge to `groups`.
#[inline(never)]
fn run(burst: &mut Burst, live: Selection, cx: &Context, leaving: &mut Vec<Leaving>, groups: &mut Vec<Leaving>) {
    let (mut same_port, mut split_horizon, mut unknown) = (Selection::NONE, Selection::NONE, Selection::NONE);
    // Frames of a burst often leave one way, one after the other.
    let (mut last, mut run) = (Egress::NOWHERE, Selection::NONE);
    for i in live.iter() {
        let (dst, ingress) = (burst.meta.dst[i], burst.meta.ingress[i]);
        if dst & GROUP != 0 {
            unknown.add(i);
            continue;
        }
        let Some(egress) = cx.fdb.lookup(dst, burst.meta.dst_bucket[i]) else {
            unknown.add(i);
            continue;
        };
        if egress == ingress {
            same_port.add(i);
        } else if egress == last {
            run.add(i);
        } else if egress.is_tunnel() && ingress.is_tunnel() {
            split_horizon.add(i);
        } else {
            add(leaving, last, run);
            (last, run) = (egress, Selection::NONE);
            run.add(i);
        }
    }
    add(leaving, last, run);
    if unknown.bits() != 0 {
        to_all(burst, unknown, groups);
    }
    same_port.drop(burst, Drop::ForwardSamePort);
    split_horizon.drop(burst, Drop::ForwardSplitHorizon);
}

/// Frames that leave by the groups of their bridges.
#[inline(never)]
fn to_all(burst: &Burst, frames: Selection, groups: &mut Vec<Leaving>) {
    let (mut last, mut run) = (Egress::NOWHERE, Selection::NONE);
    for i in frames.iter() {
        let egress = Egress::group(burst.meta.bridge(i));
        if egress != last {
            add(groups, last, run);
            (last, run) = (egress, Selection::NONE);
        }
        run.add(i);
    }
    add(groups, last, run);
}

/// Adds `frames`, if there are any, as a set.
#[inline(never)]
fn add(sets: &mut Vec<Leaving>, egress: Egress, frames: Selection) {
    if frames.bits() != 0 {
        sets.push(Leaving::new(egress, frames));
    }
}
