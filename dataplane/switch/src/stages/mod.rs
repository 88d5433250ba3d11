//! The stages, in order, a file each: what it does, its drop reasons and counters, its state, who wants it, `run`, its tests.

#[macro_use]
mod list;

pub(crate) mod decap;
pub(crate) mod flood;
pub(crate) mod forward;
pub(crate) mod guard;
pub(crate) mod learn;
pub(crate) mod leaving;
pub(crate) mod moves;
pub(crate) mod parse;
pub(crate) mod rewrite;
pub(crate) mod send;
pub(crate) mod storm;
pub(crate) mod vlan;

use crate::burst::{BURST, Burst};
use crate::clock::StageClock;
use crate::drops::{Drop, Dropped};
use crate::fdb::View;
use crate::names::Named;
use crate::pipeline::Tally;
use crate::port::{self, Output};
use crate::tables::{Port, Tables};
use learn::Seen;
use leaving::Leaving;

stages! {
first:
    /// takes frames from the receive queue
    Receive = "receive";
stages:
    /// underlay port only: checks the outer headers, finds the bridge by VNI and the VTEP by address, moves the start of the frame behind
    /// them; ARP and ICMP for the VTEP go to the control thread
    Decap in decap;
    /// all other ports: finds the bridge by port and VLAN, takes the tag out, makes the FDB keys of both addresses and asks the cache for
    /// their buckets
    Parse in parse;
    /// drops what a port sends with an address that is not its own: MAC, IPv4 or IPv6, also in ARP and neighbour discovery
    Guard in guard by guard::Addresses;
    /// notes where the source address is
    Learn in learn;
    /// counts the addresses that came from another port
    Moves in moves;
    /// finds where the destination is: an adjacency, or the group of its bridge
    Forward in forward;
    /// drops what is for all members beyond what the port may send of it in a second
    Storm in storm by storm::Limits;
    /// gives what is for a group to all its members; whoever needs other bytes gets a head of its own, never a body
    Flood in flood;
    /// writes a tag or a tunnel's outer headers into the headroom
    Rewrite in rewrite;
    /// calls each port once with all its frames
    Send in send;
last:
    /// gives the sender its slots back
    Release = "release";
}

/// A stage of the pipeline. Its value is what a worker keeps for it from burst to burst.
pub(crate) trait Process: Default {
    /// What it drops frames for.
    const REASONS: &[Named] = &[];

    /// What it leaves frames to the control thread for.
    const PUNTS: &[Named] = &[];

    /// What it counts beside its drops.
    const COUNTS: &[Named] = &[];

    /// Whether it has to do with frames that `port` receives. Asked when the tables are made: for a burst of any other port it costs a
    /// test of a bit.
    fn wanted(_port: &Port) -> bool {
        true
    }

    /// Does its work on a burst. How many frames it had to do with.
    fn run<O: Output>(&mut self, pass: &mut Pass<O>) -> usize;
}

/// A burst on its way through the stages.
pub(crate) struct Pass<'a, O> {
    /// The burst.
    pub burst: &'a mut Burst,
    /// What it is looked up in.
    pub cx: &'a Context<'a>,
    /// The port that received it.
    pub port: &'a Port,
    /// Where its frames leave.
    pub out: &'a mut O,
    /// What this worker has learned this second.
    pub seen: &'a mut Seen,
    /// Frames whose destination is not found yet: until forward.
    pub live: Selection,
    /// Of these, from parse on, those whose source is to be learned.
    pub unseen: Selection,
    /// Of these, from learn on, those that were behind another port.
    pub moved: Selection,
    /// From forward on: the frames that have an adjacency for their egress.
    pub leaving: &'a mut Vec<Leaving>,
    /// From forward to flood: those that have a group.
    pub groups: &'a mut Vec<Leaving>,
    /// Whether flooding goes on when what it has made so far was sent.
    pub is_left: bool,
    /// What became of it so far.
    pub tally: Tally,
}

impl<'a, O> Pass<'a, O> {
    /// At the beginning of its way.
    #[inline(always)]
    pub(crate) fn new(
        burst: &'a mut Burst,
        cx: &'a Context<'a>,
        port: &'a Port,
        out: &'a mut O,
        seen: &'a mut Seen,
        [leaving, groups]: &'a mut [Vec<Leaving>; 2],
    ) -> Self {
        let live = Selection::all(burst.len());
        Pass {
            burst,
            cx,
            port,
            out,
            seen,
            live,
            unseen: Selection::NONE,
            moved: Selection::NONE,
            leaving,
            groups,
            is_left: false,
            tally: Tally::default(),
        }
    }
}

/// What every stage may look at while it runs one burst.
#[derive(Clone, Copy)]
pub struct Context<'a> {
    /// The published tables.
    pub tables: &'a Tables,
    /// The forwarding database.
    pub fdb: View<'a>,
    /// The current second, for ages.
    pub now: u16,
    /// The port that the burst was received on.
    pub port: u16,
}

/// The frames of a burst that are still under way: a bit each.
#[derive(Clone, Copy, Default)]
pub(crate) struct Selection(u64);

const _: () = assert!(BURST <= 64);

impl Selection {
    pub(crate) fn all(n: usize) -> Self {
        Selection(if n == 0 { 0 } else { u64::MAX >> (64 - n) })
    }

    /// How many they are.
    #[inline(always)]
    pub(crate) fn len(self) -> usize {
        self.0.count_ones() as usize
    }

    /// Those whose bits are set.
    #[inline(always)]
    pub(crate) fn of_bits(bits: u64) -> Self {
        Selection(bits)
    }

    /// One bit for each.
    #[inline(always)]
    pub(crate) fn bits(self) -> u64 {
        self.0
    }

    /// No frames.
    pub(crate) const NONE: Selection = Selection(0);

    /// Adds frame `i`.
    #[inline(always)]
    pub(crate) fn add(&mut self, i: u16) {
        self.0 |= 1 << i;
    }

    /// Takes frame `i` out.
    #[inline(always)]
    pub(crate) fn remove(&mut self, i: u16) {
        self.0 &= !(1 << i);
    }

    /// Adds frame `i`, or doesn't, without a branch.
    #[inline(always)]
    pub(crate) fn add_if(&mut self, yes: bool, i: u16) {
        self.0 |= u64::from(yes) << i;
    }

    /// All but the first `n`.
    #[inline(always)]
    pub(crate) fn after(self, n: u32) -> Selection {
        Selection((0..n).fold(self.0, |left, _| left & left.wrapping_sub(1)))
    }

    /// Those that are not among `others`.
    #[inline(always)]
    pub(crate) fn without(self, others: Selection) -> Selection {
        Selection(self.0 & !others.0)
    }

    /// Those that are also among `others`.
    #[inline(always)]
    pub(crate) fn of(self, others: Selection) -> Selection {
        Selection(self.0 & others.0)
    }

    /// Their numbers, in order.
    #[inline(always)]
    pub(crate) fn iter(self) -> impl Iterator<Item = u16> {
        let mut left = self.0;
        std::iter::from_fn(move || {
            (left != 0).then(|| {
                let i = left.trailing_zeros();
                left &= left - 1;
                i as u16
            })
        })
    }

    /// Drops them, if there are any.
    #[inline(always)]
    pub(crate) fn drop(self, burst: &mut Burst, reason: Drop) {
        if self.0 != 0 {
            burst.drop(Dropped::Mask(self.0), reason);
        }
    }

    /// Goes on with the frames for which `stage` says so, which are nearly all; those it gives a reason for are dropped.
    #[inline(always)]
    pub(crate) fn each(&mut self, burst: &mut Burst, mut stage: impl FnMut(&mut Burst, u16) -> Verdict) {
        for i in self.iter() {
            let verdict = stage(burst, i);
            if verdict == Verdict::GO {
                continue;
            }
            if let Some(reason) = verdict.reason() {
                burst.drop(i, reason);
            }
            self.remove(i);
        }
    }
}

/// What becomes of a frame after a stage. One byte, for every frame has one.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Verdict(u8);

impl Verdict {
    /// On to the next stage.
    pub(crate) const GO: Verdict = Verdict(u8::MAX);
    /// It left the pipeline here and is counted there.
    pub(crate) const TAKEN: Verdict = Verdict(u8::MAX - 1);

    /// Given up.
    #[inline(always)]
    pub(crate) fn drop(reason: Drop) -> Verdict {
        Verdict(reason.index() as u8)
    }

    /// Why, if it is given up.
    #[inline(always)]
    fn reason(self) -> Option<Drop> {
        Drop::ALL.get(usize::from(self.0)).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tables::PortTable;

    /// docs/architecture.md has the stages of this list, in this order.
    #[test]
    fn the_documents_table_is_the_list() {
        let page = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/architecture.md");
        let page = std::fs::read_to_string(page).unwrap();
        let mut table = String::from("   | stage | file | what it does |\n   |---|---|---|\n");
        for stage in &Stage::ALL[1..Stage::COUNT - 1] {
            let (name, does) = (stage.name(), stage.description());
            table += &format!("   | {name} | `stages/{name}.rs` | {does} |\n");
        }
        assert!(page.contains(&table), "docs/architecture.md is to have:\n{table}");
    }

    #[test]
    fn a_port_wants_what_its_frames_need() {
        let wants = |port: PortTable, stage: Stage| Port::from(port).wanted & 1 << stage as u32 != 0;
        for (port, decap) in [(PortTable::Underlay, true), (PortTable::Access(1), false), (PortTable::Unused, false)] {
            assert_eq!((wants(port.clone(), Stage::Decap), wants(port.clone(), Stage::Parse)), (decap, !decap));
            assert!(wants(port, Stage::Forward));
        }
    }
}
