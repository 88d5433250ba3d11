//! The way of a burst through the stages, in one place. Each takes the frames that are still under way and hands on what
//! remains.

use crate::burst::Burst;
use crate::clock::StageClock;
use crate::counts::Counts;
use crate::port::Output;
use crate::stages::{Pass, Stages, learn::Seen, send::TxLists};
use crate::tables::{Port, PortTable};

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
    /// What stages counted.
    pub counts: Counts,
}

/// The stages' working memory; one a worker.
pub struct Pipeline {
    /// How long the stages take. The burst begins and ends with whoever receives it.
    pub clock: StageClock,
    seen: Seen,
    lists: TxLists,
    stages: Stages,
    /// What a port is of which the tables don't know.
    unused: Port,
}

impl Default for Pipeline {
    fn default() -> Self {
        Pipeline {
            clock: StageClock::default(),
            seen: Seen::default(),
            lists: TxLists::default(),
            stages: Stages::default(),
            unused: PortTable::Unused.into(),
        }
    }
}

impl Pipeline {
    /// Runs `burst` to completion: every frame is sent, punted or dropped with a reason.
    pub fn run(&mut self, burst: &mut Burst, cx: Context, out: &mut impl Output) -> Tally {
        let Pipeline { clock, seen, lists, stages, unused } = self;
        let port = cx.tables.ports.get(cx.port as usize).unwrap_or(unused);
        let mut pass = Pass::new(burst, &cx, port, out, (seen, lists));
        stages.run(port.wanted, &mut pass, clock);
        pass.tally
    }
}
