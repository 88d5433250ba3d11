//! Replication: what has a group for its egress goes to each of the group's members. Never back to where it came from, and never from a
//! tunnel to a tunnel (split horizon: every VTEP is asked by the first one itself).
//!
//! Members that get frames as they came share their heads; where something is to be written before them each has copies of its own, of
//! heads and never of bodies. There is room for so many copies at a time: when it is used up the rest waits until these were sent
//! ([`Pass::is_left`]).

use super::leaving::{Leaving, SETS};
use super::{Context, Pass, Process, Selection};
use crate::burst::{ADDED_MAX, BURST, Burst};
use crate::drops::Drop;
use crate::egress::Egress;
use crate::names::{Named, declare};
use crate::port::Output;

declare! { REASONS of Drop;
    /// A destination reserved for link-local protocols (IEEE 802.1Q, 01:80:c2:00:00:0x).
    FloodLinkLocal = "flood.link_local" {
        cause: "A neighbour speaks spanning tree, LLDP or LACP, which are not to go beyond the next switch.",
        remedy: "Nothing, this is in order. To be rid of it, switch the protocol off in the peer.",
    };
    /// A flooded frame had nobody to go to.
    FloodNoTarget = "flood.no_target" {
        cause: "The bridge has no other member.",
        remedy: "`dray bridge show BRIDGE` has its members, `dray bridge join BRIDGE PORT` adds one; with a VNI, \
            `dray vtep add IP` the other hosts.",
    };
    /// Flooding had made 8,192 copies of the frames before it in its burst, or of long ones fewer: one sender must not hold up all others.
    FloodTooManyCopies = "flood.too_many_copies" {
        cause: "Broadcasts into a bridge of many members, from a sender that sends little else.",
        remedy: "Limit it: `dray port set NAME max-broadcast N`, and `max-multicast`, `max-unknown-unicast`. Or \
            split the bridge.",
    };
}

const MAC: u64 = (1 << 48) - 1;
/// 01:80:c2:00:00:00 to :0f stay on their link (IEEE 802.1Q, table 8-1).
const LINK_LOCAL: u64 = 0x0180_c200_0000;

/// A copy counts once more for so many bytes, which take as long to write.
const LONG: usize = 1024;

/// Frames of one group that go to the same members of it.
struct Flooding {
    group: u16,
    ingress: Egress,
    frames: Selection,
    /// How many members get them.
    targets: u32,
    /// The member that is next.
    next: usize,
    /// Those of the frames that it has not got yet.
    waiting: Selection,
}

impl Flooding {
    /// Of frames from `ingress`, none yet.
    fn new(group: u16, ingress: Egress, members: &[Egress]) -> Self {
        let targets = members.iter().filter(|to| is_target(**to, ingress)).count() as u32;
        Flooding { group, ingress, frames: Selection::NONE, targets, next: 0, waiting: Selection::NONE }
    }

    /// Whether what comes from `ingress` goes to the same members.
    #[inline(always)]
    fn is_from(&self, ingress: Egress) -> bool {
        self.ingress == ingress || self.ingress.is_tunnel() && ingress.is_tunnel()
    }
}

/// Whether frames from `ingress` may go to the member `to` of their group.
#[inline(always)]
fn is_target(to: Egress, ingress: Egress) -> bool {
    !(to == ingress || to.is_tunnel() && ingress.is_tunnel())
}

pub(crate) struct Flood {
    /// Of this burst.
    floods: Vec<Flooding>,
    /// Which of these is next.
    next: usize,
}

impl Default for Flood {
    fn default() -> Self {
        Flood { floods: Vec::with_capacity(BURST), next: 0 }
    }
}

impl Process for Flood {
    const REASONS: &[Named] = REASONS;

    #[inline(always)]
    fn run<O: Output>(&mut self, pass: &mut Pass<O>) -> usize {
        if pass.groups.is_empty() & !pass.is_left {
            return 0;
        }
        let frames = pass.groups.iter().map(Leaving::len).sum();
        if !pass.is_left {
            self.gather(pass.burst, pass.groups, pass.cx, &mut pass.tally.copies);
        }
        pass.is_left = self.replicate(pass.burst, pass.leaving, pass.cx);
        frames
    }
}

impl Flood {
    /// Takes the frames that have a group for their egress, and counts the copies that will be made of them.
    #[inline(never)]
    fn gather(&mut self, burst: &mut Burst, groups: &mut Vec<Leaving>, cx: &Context, copies: &mut u32) {
        let (mut reserved, mut over) = (Selection::NONE, Selection::NONE);
        let mut cost = 0;
        self.next = 0;
        self.floods.clear();
        for set in groups.drain(..) {
            let Some(first) = set.frames.iter().next() else { continue };
            let group = set.egress.index();
            let members = &cx.tables.groups[usize::from(group)].members;
            let mut flooding = Flooding::new(group, burst.meta.ingress[first], members);
            for i in set.frames.iter() {
                let ingress = burst.meta.ingress[i];
                if burst.meta.dst[i] & MAC & !0xf == LINK_LOCAL {
                    reserved.add(i);
                    continue;
                }
                if cost >= ADDED_MAX {
                    over.add(i);
                    continue;
                }
                if !flooding.is_from(ingress) {
                    let from_elsewhere = Flooding::new(group, ingress, members);
                    self.add(std::mem::replace(&mut flooding, from_elsewhere), burst, copies);
                }
                flooding.frames.add(i);
                cost += flooding.targets * (1 + burst.frame(i).len() / LONG) as u32;
            }
            self.add(flooding, burst, copies);
        }
        reserved.drop(burst, Drop::FloodLinkLocal);
        over.drop(burst, Drop::FloodTooManyCopies);
    }

    /// Adds these frames, if there are any and anybody gets them.
    fn add(&mut self, flooding: Flooding, burst: &mut Burst, copies: &mut u32) {
        let frames = flooding.frames;
        if flooding.targets == 0 {
            frames.drop(burst, Drop::FloodNoTarget);
        } else if frames.len() != 0 {
            *copies += (flooding.targets - 1) * frames.len() as u32;
            self.floods.push(Flooding { waiting: frames, ..flooding });
        }
    }

    /// Says by which adjacencies the frames leave, and makes their copies, as far as there is room. Whether something is left.
    #[inline(never)]
    fn replicate(&mut self, burst: &mut Burst, leaving: &mut Vec<Leaving>, cx: &Context) -> bool {
        burst.forget_copies();
        while let Some(flooding) = self.floods.get_mut(self.next) {
            let members = &cx.tables.groups[usize::from(flooding.group)].members;
            while let Some(&to) = members.get(flooding.next) {
                if !is_target(to, flooding.ingress) {
                    flooding.next += 1;
                    continue;
                }
                if leaving.len() == SETS {
                    return true;
                }
                let mut set = Leaving::new(to, flooding.frames);
                if !to.is_untagged_port() && flooding.targets != 1 {
                    set.frames = Selection::NONE;
                    if to.is_tunnel() {
                        // Not for each of the copies, which are all wrapped.
                        burst.read_layers(flooding.waiting, Selection::NONE);
                    }
                    for i in flooding.waiting.iter() {
                        let Some(copy) = burst.copy(i) else {
                            leaving.push(set);
                            return true;
                        };
                        set.copies.add(copy - BURST as u16);
                        flooding.waiting.remove(i);
                    }
                    flooding.waiting = flooding.frames;
                }
                leaving.push(set);
                flooding.next += 1;
            }
            self.next += 1;
        }
        false
    }
}
