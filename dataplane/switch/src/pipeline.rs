//! The way of a burst, in one place. Every stage takes the frames that are still under way and hands on what remains.

use crate::burst::Burst;
use crate::clock::{Stage, StageClock};
use crate::drops::Drop;
use crate::port::Output;
use crate::stages::{Selection, Verdict, decap, egress::TxLists, encap, flood, forward, learn, parse};
use crate::tables::PortTable;

pub use crate::stages::Context;

/// What became of a burst, beside [`Burst::drops`]: received + copies = switched + punted + drops.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Frames handed to ports.
    pub switched: u32,
    /// Frames that flooding added.
    pub copies: u32,
    /// Frames handed to the control thread.
    pub punted: u32,
    /// Frames whose source did not fit the FDB.
    pub not_learned: u32,
    /// Frames whose source their port may not have as well.
    pub over_max_macs: u32,
}

/// The stages' working memory; one a worker.
#[derive(Default)]
pub struct Pipeline {
    /// How long the stages take. The burst begins and ends with whoever receives it.
    pub clock: StageClock,
    seen: learn::Seen,
    lists: TxLists,
}

impl Pipeline {
    /// Runs `burst` to completion: every frame is sent, punted or dropped with a reason.
    pub fn run(&mut self, burst: &mut Burst, cx: Context, out: &mut impl Output) -> Tally {
        let mut tally = Tally::default();
        let mut live = Selection::all(burst.len());
        let clock = &mut self.clock;

        let from = cx.tables.ports.get(cx.port as usize);
        match from {
            Some(&PortTable::Access(bridge)) => parse::access(burst, &mut live, cx, bridge),
            Some(PortTable::Trunk(bridges)) => {
                parse::run(burst, &mut live, cx, |vlan| bridges[vlan as usize % bridges.len()]);
            }
            Some(PortTable::Underlay) => tally.punted = decap::run(burst, &mut live, cx, out),
            Some(PortTable::Unused) | None => live.each(burst, |_, _| Verdict::Drop(Drop::VlanNoBridge)),
        }
        let unseen = parse::hash(burst, live, cx, &self.seen);
        let first = if let Some(PortTable::Underlay) = from { Stage::Decap } else { Stage::Parse };
        clock.mark(first, burst.len());
        (tally.not_learned, tally.over_max_macs) = learn::run(burst, unseen, cx, &mut self.seen);
        clock.mark(Stage::Learn, unseen.len());
        let frames = live.len();
        let tunnels = forward::run(burst, &mut live, cx, &mut self.lists);
        clock.mark(Stage::Forward, frames);
        encap::run(burst, tunnels, cx, &mut self.lists);
        clock.mark(Stage::Encap, tunnels.len());
        tally.copies = flood::run(burst, live, cx, &mut self.lists, out);
        clock.mark(Stage::Flood, live.len());
        self.lists.flush(burst, out);

        tally.switched = std::mem::take(&mut self.lists.switched);
        clock.mark(Stage::Send, tally.switched as usize);
        tally
    }
}
