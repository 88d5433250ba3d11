//! One copy for everybody in the bridge: broadcast, multicast and what isn't known. Never back to where it came from,
//! and never from a tunnel to a tunnel (split horizon: every VTEP is asked by the first one itself).

use super::{Context, Pass, Process, Selection, encap, send::TxLists, vlan};
use crate::burst::{ADDED_MAX, Burst};
use crate::drops::Drop;
use crate::names::{Named, declare};
use crate::port::Output;

declare! { REASONS of Drop;
    /// A destination reserved for link-local protocols (IEEE 802.1Q, 01:80:c2:00:00:0x).
    FloodLinkLocal = "flood.link_local";
    /// A flooded frame had nobody to go to.
    FloodNoTarget = "flood.no_target";
    /// Flooding had made 8,192 copies of the frames before it in its burst, or of long ones fewer: one sender must not hold up all others.
    FloodTooManyCopies = "flood.too_many_copies";
}

#[derive(Default)]
pub(crate) struct Flood;

impl Process for Flood {
    const REASONS: &[Named] = REASONS;

    fn run<O: Output>(&mut self, pass: &mut Pass<O>) -> usize {
        pass.tally.copies = run(pass.burst, pass.live, pass.cx, pass.lists, pass.out);
        pass.live.len()
    }
}

const MAC: u64 = (1 << 48) - 1;
/// 01:80:c2:00:00:00 to :0f stay on their link (IEEE 802.1Q, table 8-1).
const LINK_LOCAL: u64 = 0x0180_c200_0000;

/// A copy counts once more for so many bytes, which take as long to write.
const LONG: usize = 1024;

/// How many copies were made beyond the frames themselves.
fn run(burst: &mut Burst, live: Selection, cx: &Context, lists: &mut TxLists, out: &mut impl Output) -> u32 {
    let (mut copies, mut cost) = (0, 0);
    for i in live.iter() {
        let (ingress, priority) = (burst.meta.ingress[i], burst.meta.priority[i]);
        if burst.meta.dst[i] & MAC & !0xf == LINK_LOCAL {
            burst.drop(i, Drop::FloodLinkLocal);
            continue;
        }
        if cost >= ADDED_MAX {
            burst.drop(i, Drop::FloodTooManyCopies);
            continue;
        }
        let mut targets = 0;
        for &to in &cx.tables.bridges[burst.meta.bridge(i) as usize].flood {
            if to == ingress || to.is_tunnel() && ingress.is_tunnel() {
                continue;
            }
            targets += 1;
            if !to.is_tunnel() && to.vlan() == 0 {
                // As it came: all such ports share the one head.
                lists.push(to.index(), i);
                continue;
            }
            let copy = burst.copy(i).unwrap_or_else(|| {
                lists.flush(burst, out);
                burst.forget_copies();
                burst.copy(i).expect("no copies are left over from before")
            });
            if to.is_tunnel() {
                encap::one(burst, cx, lists, copy, to.index());
            } else {
                vlan::push(&mut burst.frames[copy], to.vlan() | priority);
                lists.push(to.index(), copy);
            }
        }
        cost += targets * (1 + burst.frame(i).len() / LONG) as u32;
        match targets {
            0 => burst.drop(i, Drop::FloodNoTarget),
            n => copies += n - 1,
        }
    }
    copies
}
