//! The way of a burst through the stages, in one place. Each takes the frames that are still under way and hands on what
//! remains.

use crate::burst::{ADDED_MAX, Burst, HEAD_LONG};
use crate::clock::{Stage, StageClock};
use crate::counts::Counts;
use crate::drops::{Drop, Dropped};
use crate::egress::Egress;
use crate::fdb::key;
use crate::offload;
use crate::port::Output;
use crate::stages::leaving::{Leaving, SETS};
use crate::stages::{Pass, Selection, Stages, learn::Seen};
use crate::tables::{Port, PortTable};

pub use crate::stages::Context;

/// What became of a burst, beside [`Burst::drops`]: received + copies + segments = switched + punted + drops.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Frames handed to ports.
    pub switched: u32,
    /// Frames that flooding added.
    pub copies: u32,
    /// Frames more than were received, for some were several outer packets in one.
    pub segments: u32,
    /// Frames handed to the control thread.
    pub punted: u32,
    /// What stages counted.
    pub counts: Counts,
}

impl Tally {
    /// Adds what became of another one.
    fn add(&mut self, other: &Tally) {
        self.switched += other.switched;
        self.copies += other.copies;
        self.segments += other.segments;
        self.punted += other.punted;
        self.counts.iter_mut().zip(&other.counts).for_each(|(count, more)| *count += more);
    }
}

/// Where what the control thread sends enters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Entry {
    /// Into a bridge, by number: it goes to where its destination is, or to all members.
    Bridge(u16),
    /// Out of an adjacency, which is no group: what is to be written before it is.
    Adjacency {
        /// Its number.
        egress: Egress,
        /// The number of the bridge that the frame is in, which a tunnel needs to know.
        bridge: u16,
    },
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
    /// For outer packets that came as one, from when some did; empty.
    scratch: Option<Box<Burst>>,
}

impl Default for Pipeline {
    fn default() -> Self {
        Pipeline {
            clock: StageClock::default(),
            seen: Seen::default(),
            leaving: [SETS, SETS].map(Vec::with_capacity),
            stages: Stages::default(),
            unused: PortTable::Unused.into(),
            scratch: None,
        }
    }
}

impl Pipeline {
    /// Runs `burst` to completion: every frame is sent, punted or dropped with a reason.
    #[inline(always)]
    pub fn run(&mut self, burst: &mut Burst, cx: Context, out: &mut impl Output) -> Tally {
        if burst.has_offloads() && cx.tables.ports.get(cx.port as usize).is_some_and(Port::is_underlay) {
            return self.run_cut(burst, cx, out);
        }
        self.run_whole(burst, cx, out)
    }

    /// On the underlay's port: cuts UDP datagrams that came as one, each of which is an outer packet, and runs all frames in their order.
    #[cold]
    #[inline(never)]
    fn run_cut(&mut self, burst: &mut Burst, cx: Context, out: &mut impl Output) -> Tally {
        let mut scratch = self.scratch.take().unwrap_or_default();
        scratch.set_head_len(HEAD_LONG);
        let mut tally = Tally::default();
        for i in 0..burst.len() as u16 {
            let frame = burst.frame(i);
            let is_datagrams = offload::is_datagrams(frame);
            if scratch.room() == 0 || is_datagrams && !scratch.is_empty() {
                tally.add(&self.run_whole(&mut scratch, cx, out));
                scratch.clear();
            }
            if !is_datagrams {
                scratch.push_frame(burst, i);
                continue;
            }
            let pieces = offload::pieces(frame);
            if burst.pieces + pieces > ADDED_MAX {
                burst.drop(i, Drop::UnderlayGso);
                continue;
            }
            burst.pieces += pieces;
            tally.segments += pieces - 1;
            offload::cut(burst, i, &mut scratch, |scratch| tally.add(&self.run_whole(scratch, cx, out)));
        }
        if !scratch.is_empty() {
            tally.add(&self.run_whole(&mut scratch, cx, out));
            scratch.clear();
        }
        scratch.drops.take(|reason, n| burst.drop(Dropped::Count(n), reason));
        self.scratch = Some(scratch);
        tally
    }

    /// [`Pipeline::run`] of frames none of which is several outer packets.
    #[inline(never)]
    fn run_whole(&mut self, burst: &mut Burst, cx: Context, out: &mut impl Output) -> Tally {
        let Pipeline { clock, seen, leaving, stages, unused, .. } = self;
        let port = cx.tables.ports.get(cx.port as usize).unwrap_or(unused);
        let pass = Pass::new(burst, &cx, port, out, seen, leaving);
        complete(stages, clock, port.wanted, pass)
    }

    /// Sends the only frame of `burst`, which the control thread made and which came from no port: `cx.port` is any number.
    pub fn inject(&mut self, burst: &mut Burst, entry: Entry, cx: Context, out: &mut impl Output) -> Tally {
        let Pipeline { clock, seen, leaving, stages, unused, .. } = self;
        if matches!(entry, Entry::Bridge(bridge) if !(1..cx.tables.groups.len()).contains(&bridge.into())) {
            burst.drop(0, Drop::FloodNoTarget);
            return Tally::default();
        }
        let [adjacencies, _] = &mut *leaving;
        let (bridge, first) = match entry {
            Entry::Bridge(bridge) => (bridge, Stage::Forward),
            Entry::Adjacency { egress, bridge } => {
                adjacencies.push(Leaving::new(egress, Selection::all(1)));
                (bridge, Stage::Rewrite)
            }
        };
        let dst = burst.frame(0).head().first_chunk().copied();
        let meta = &mut burst.meta;
        meta.dst[0] = key(bridge, dst.unwrap_or_default());
        meta.dst_bucket[0] = cx.fdb.home(meta.dst[0]);
        (meta.ingress[0], meta.priority[0]) = (Egress::OURSELVES, 0);
        clock.begin();
        let pass = Pass::new(burst, &cx, unused, out, seen, leaving);
        complete(stages, clock, unused.wanted & u32::MAX << first as u32, pass)
    }
}

/// Runs the stages that are wanted.
#[inline(always)]
fn complete<O: Output>(stages: &mut Stages, clock: &mut StageClock, mut wanted: u32, mut pass: Pass<O>) -> Tally {
    // The stages that run again for what flooding had no room for the first time.
    const FROM_FLOOD: u32 = u32::MAX << Stage::Flood as u32;
    loop {
        stages.run(wanted, &mut pass, clock);
        if !pass.is_left {
            return pass.tally;
        }
        wanted &= FROM_FLOOD;
    }
}
