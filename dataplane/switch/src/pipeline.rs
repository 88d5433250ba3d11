//! The way of a burst through [the stages](crate::stages), in one place. Each takes the frames that are still under way and hands on what
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

impl From<PortTable> for Port {
    fn from(bridges: PortTable) -> Port {
        Port { wanted: Stages::wanted(&bridges), bridges }
    }
}

/// The stages' working memory; one a worker.
#[derive(Default)]
pub struct Pipeline {
    /// How long the stages take. The burst begins and ends with whoever receives it.
    pub clock: StageClock,
    seen: Seen,
    lists: TxLists,
    stages: Stages,
}

impl Pipeline {
    /// Runs `burst` to completion: every frame is sent, punted or dropped with a reason.
    pub fn run(&mut self, burst: &mut Burst, cx: Context, out: &mut impl Output) -> Tally {
        let Pipeline { clock, seen, lists, stages } = self;
        let (bridges, wanted) = match cx.tables.ports.get(cx.port as usize) {
            Some(port) => (&port.bridges, port.wanted),
            None => (&PortTable::Unused, Stages::wanted(&PortTable::Unused)),
        };
        let mut pass = Pass::new(burst, &cx, bridges, out, (seen, lists));
        stages.run(wanted, &mut pass, clock);
        pass.tally
    }
}
