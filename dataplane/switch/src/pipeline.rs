//! The way of a burst, in one place. Every stage takes the frames that are still under way and hands on what remains.

use crate::burst::Burst;
use crate::clock::StageClock;
use crate::counts::Counts;
use crate::names::Named;
use crate::port::{self, Output};
use crate::stages::{Pass, Process, Selection, learn::Seen, send::TxLists};
use crate::tables::{Port, PortTable};

pub use crate::stages::Context;

/// Makes all that there is of each stage from one list: its number, its name, its time, its state, whether a port wants it, its turn, its
/// reasons and counters, its row in docs/architecture.md, its column in dataplane/benches. Its file is named as it is.
macro_rules! stages {
    (
        first: $(#[doc = $first_doc:literal])+ $first:ident = $first_name:literal;
        stages: $($(#[doc = $doc:literal])+ $stage:ident in $module:ident;)*
        last: $(#[doc = $last_doc:literal])+ $last:ident = $last_name:literal;
    ) => {
        /// What a worker does with a burst, in order: what ports do first and last, and the stages of the pipeline between.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Stage {
            $(#[doc = $first_doc])+ $first,
            $($(#[doc = $doc])+ $stage,)*
            $(#[doc = $last_doc])+ $last,
        }

        impl Stage {
            /// All of them, in order.
            pub const ALL: &[Stage] = &[Stage::$first, $(Stage::$stage,)* Stage::$last];

            /// How many there are.
            pub const COUNT: usize = Stage::ALL.len();

            /// Its name for people and programs.
            pub fn name(self) -> &'static str {
                match self {
                    Stage::$first => $first_name,
                    $(Stage::$stage => stringify!($module),)*
                    Stage::$last => $last_name,
                }
            }

            /// What it does, for people.
            pub fn description(self) -> &'static str {
                match self {
                    Stage::$first => concat!($($first_doc),+),
                    $(Stage::$stage => concat!($($doc),+),)*
                    Stage::$last => concat!($($last_doc),+),
                }
                .trim_ascii()
            }
        }

        /// The reasons of all, in order.
        pub(crate) const REASONS: &[&[Named]] =
            &[port::RX_REASONS, $(<crate::stages::$module::$stage as Process>::REASONS,)* port::TX_REASONS];

        /// The counters of all, in order.
        pub(crate) const COUNTS: &[&[Named]] = &[$(<crate::stages::$module::$stage as Process>::COUNTS,)*];

        /// What a worker keeps for each stage.
        #[derive(Default)]
        struct Stages {
            $($module: crate::stages::$module::$stage,)*
        }

        impl Stages {
            /// A bit for each stage that a port wants.
            fn wanted(port: &PortTable) -> u32 {
                const { assert!(Stage::COUNT <= u32::BITS as usize) };
                0 $(| u32::from(<crate::stages::$module::$stage as Process>::wanted(port)) << Stage::$stage as u32)*
            }

            /// Runs those that are wanted.
            #[inline(always)]
            fn run<O: Output>(&mut self, wanted: u32, pass: &mut Pass<O>, clock: &mut StageClock) {
                $(if wanted & 1 << Stage::$stage as u32 != 0 {
                    let frames = self.$module.run(pass);
                    clock.mark(Stage::$stage, frames);
                })*
            }
        }
    };
}

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
    /// notes where the source address is
    Learn in learn;
    /// finds where the destination is; puts a tag in if it is behind a trunk
    Forward in forward;
    /// writes the tunnel's outer headers into the headroom
    Encap in encap;
    /// gives what isn't known to all members; whoever needs other headers gets a head of its own, never a body
    Flood in flood;
    /// calls each port once with all its frames
    Send in send;
last:
    /// gives the sender its slots back
    Release = "release";
}

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
        let (live, none) = (Selection::all(burst.len()), Selection::NONE);
        let tally = Tally::default();
        let mut pass = Pass { burst, cx: &cx, bridges, out, seen, lists, live, unseen: none, tunnels: none, tally };
        stages.run(wanted, &mut pass, clock);
        pass.tally
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
