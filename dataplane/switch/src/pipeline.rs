//! The way of a burst through the stages, in one place. Each takes the frames that are still under way and hands on what
//! remains.

use crate::burst::Burst;
use crate::clock::{Stage, StageClock};
use crate::counts::Counts;
use crate::port::Output;
use crate::stages::leaving::{Leaving, SETS};
use crate::stages::{Pass, Stages, learn::Seen};
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
    /// The frames of the burst by where they leave: adjacencies, and groups of these.
    leaving: [Vec<Leaving>; 2],
    stages: Stages,
    /// What a port is of which the tables don't know.
    unused: Port,
}

impl Default for Pipeline {
    fn default() -> Self {
        Pipeline {
            clock: StageClock::default(),
            seen: Seen::default(),
            leaving: [SETS, SETS].map(Vec::with_capacity),
            stages: Stages::default(),
            unused: PortTable::Unused.into(),
        }
    }
}

impl Pipeline {
    /// Runs `burst` to completion: every frame is sent, punted or dropped with a reason.
    pub fn run(&mut self, burst: &mut Burst, cx: Context, out: &mut impl Output) -> Tally {
        // The stages that run again for what flooding had no room for the first time.
        const FROM_FLOOD: u32 = u32::MAX << Stage::Flood as u32;
        let Pipeline { clock, seen, leaving, stages, unused } = self;
        let port = cx.tables.ports.get(cx.port as usize).unwrap_or(unused);
        let mut pass = Pass::new(burst, &cx, port, out, seen, leaving);
        let mut wanted = port.wanted;
        loop {
            stages.run(wanted, &mut pass, clock);
            if !pass.is_left {
                return pass.tally;
            }
            wanted &= FROM_FLOOD;
        }
    }
}
