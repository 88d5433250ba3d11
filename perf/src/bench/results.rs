//! What a run found.

use super::case::Case;
use super::latency::Latencies;
use crate::generator::Report;
use crate::stats::{Estimate, median};
use crate::workers::Work;
use serde::Serialize;

/// What one switch reached in the rounds of a case.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Figures {
    /// Its name.
    pub switch: &'static str,
    /// Million frames a second, the median of the rounds.
    pub mpps: f64,
    /// Gigabit a second at that, frames without FCS.
    pub gbps: f64,
    /// Nanoseconds a frame at that.
    pub ns: f64,
    /// Million frames a second, round by round.
    pub rounds: Vec<f64>,
    /// The rounds' ratios to testpmd io.
    pub to_testpmd: Estimate,
    /// The rounds' ratios of Dray to this.
    pub of_dray: Estimate,
    /// Frames sent in all rounds.
    pub sent: u64,
    /// Frames that never came, in all rounds.
    pub lost: u64,
    /// Received frames that were looked at, in all rounds.
    pub sampled: u64,
    /// Of those: times that a frame came later than its successors, which may be of other flows.
    pub reordered: u64,
    /// Frames that came twice or were not ours. Not 0: the figures mean nothing.
    pub wrong: u64,
}

impl Figures {
    /// Of the reports of its rounds, with the rates of Dray and testpmd io in the same rounds.
    pub fn new(switch: &'static str, case: Case, reports: &[Report], dray: &[f64], testpmd: &[f64]) -> Figures {
        let rounds: Vec<f64> = reports.iter().map(|r| r.mpps).collect();
        let mpps = median(&rounds);
        let directions = || reports.iter().flat_map(Report::directions);
        Figures {
            switch,
            mpps,
            gbps: mpps * case.size as f64 * 8.0 / 1e3,
            ns: 1e3 / mpps,
            to_testpmd: ratios(&rounds, testpmd),
            of_dray: ratios(dray, &rounds),
            rounds,
            sent: directions().map(|d| d.sent).sum(),
            lost: directions().map(|d| d.lost).sum(),
            sampled: directions().map(|d| d.sampled).sum(),
            reordered: directions().map(|d| d.reordered).sum(),
            wrong: directions().map(|d| d.duplicated + d.foreign).sum(),
        }
    }

    /// Whether the frames that came were the frames that were sent, and every flow's in their order: a few frames of one flow
    /// may overtake those of another, such as known unicast that overtakes what is flooded.
    pub fn valid(&self, case: Case) -> bool {
        self.wrong == 0 && self.reordered <= if case.flows == 1 { 0 } else { self.sampled / 1000 }
    }
}

/// What of the first is of the second, round by round.
pub fn ratios(first: &[f64], second: &[f64]) -> Estimate {
    Estimate::of(&first.iter().zip(second).map(|(a, b)| a / b).collect::<Vec<_>>())
}

/// A case.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Measured {
    /// What was sent.
    #[serde(flatten)]
    pub case: Case,
    /// What Dray is to reach, as a multiple of testpmd io.
    pub target: Option<f64>,
    /// What the generator reaches against a switch that touches no frame, in million frames a second.
    pub ceiling: f64,
    /// Of each switch that was measured; Dray is the first, testpmd io the second.
    pub figures: Vec<Figures>,
    /// Switches that were not, and why.
    pub absent: Vec<(&'static str, &'static str)>,
    /// Nanoseconds that a number took between the CPUs and back, before, between and after the turns of each round.
    pub probes: Vec<Vec<f64>>,
    /// Measurements of all switches that do not count, because the machine changed while they went on or was not in the state
    /// that it was in in most rounds, or because a switch passed nothing on.
    pub repeated: usize,
    /// Where the time of Dray's worker went, in the round in which its rate was the median one, the lower of two.
    pub stages: Option<Work>,
}

impl Measured {
    /// Whether the ratio to testpmd io is what it is to be. `None` if it isn't to be anything.
    pub fn reached(&self) -> Option<bool> {
        Some(self.figures.first()?.to_testpmd.median >= self.target?)
    }

    /// Of this switch, if it was measured.
    pub fn of(&self, switch: &str) -> Option<&Figures> {
        self.figures.iter().find(|f| f.switch == switch)
    }

    /// Switches that come so near to the ceiling that the generator may hold them back.
    pub fn limited(&self) -> Vec<&'static str> {
        self.figures.iter().filter(|f| f.mpps > 0.8 * self.ceiling).map(|f| f.switch).collect()
    }
}

/// A switch against itself: what of a ratio is noise.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Same {
    /// Its name.
    pub switch: &'static str,
    /// The rounds' ratios.
    pub ratio: Estimate,
}

/// By how much the median may differ from 1 if a switch is measured against itself.
pub const NOISE: f64 = 0.03;

impl Same {
    /// Whether the run is void.
    pub fn void(&self) -> bool {
        !((1.0 - NOISE)..=(1.0 + NOISE)).contains(&self.ratio.median)
    }
}

/// The FDB, filled by traffic.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct FdbFigures {
    /// MACs that the generator has.
    pub macs: u64,
    /// MACs that drayd knows then.
    pub learned: u64,
    /// MACs that it was configured for.
    pub size: u64,
    /// drayd's private memory in bytes with a table for 1,024 MACs, when its links have just come up.
    pub memory_small: u64,
    /// The same with a table for `size` MACs.
    pub memory_before: u64,
    /// The same when it knows them all.
    pub memory_after: u64,
}

/// A switch of the run.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Contestant {
    /// Its name.
    pub switch: &'static str,
    /// Its version, and that of its DPDK.
    pub version: String,
    /// What it does, and what it was told.
    pub about: &'static str,
}

/// How a switch was started, the first time on each path.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Started {
    /// What [`Case::path`] says.
    pub path: &'static str,
    /// The switch.
    pub switch: &'static str,
    /// Command lines, in order; a directory for temporary files is called DIR.
    pub commands: Vec<String>,
    /// Its configuration files.
    pub configuration: String,
}

/// The machine.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Machine {
    /// The day and the time, UTC.
    pub date: String,
    /// The CPU's name.
    pub cpu: String,
    /// CPUs that this process may use.
    pub cpus: usize,
    /// The generator's and the switches' CPU.
    pub used: [usize; 2],
    /// The kernel's release.
    pub kernel: String,
    /// Whether DPDK had huge pages.
    pub huge_pages: bool,
    /// Minutes' load averages before the run.
    pub load: String,
}

/// How it was measured.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Method {
    /// Descriptors a ring.
    pub ring_size: u32,
    /// Bytes a buffer.
    pub buffer_size: u32,
    /// Seconds for which each switch is measured in a round.
    pub seconds: f64,
    /// Rounds of each case.
    pub rounds: usize,
}

/// All that a run gave.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Results {
    /// Why none of the figures may be used, if so.
    pub void: Option<String>,
    /// The machine.
    pub machine: Machine,
    /// How it was measured.
    pub method: Method,
    /// The switches.
    pub switches: Vec<Contestant>,
    /// Those that could not be measured, and why.
    pub missing: Vec<(&'static str, String)>,
    /// Switches against themselves.
    pub same: Vec<Same>,
    /// The cases.
    pub cases: Vec<Measured>,
    /// Times under way.
    pub latency: Vec<Latencies>,
    /// The FDB in the case of the most flows.
    pub fdb: Option<FdbFigures>,
    /// How the switches were started.
    pub started: Vec<Started>,
}

impl Results {
    /// The cases' worst news first: what was not reached.
    pub fn missed(&self) -> Vec<Case> {
        self.cases.iter().filter(|c| c.reached() == Some(false)).map(|c| c.case).collect()
    }

    /// The case, if it was measured.
    pub fn case(&self, case: Case) -> Option<&Measured> {
        self.cases.iter().find(|c| c.case == case)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::generator::Direction;

    fn report(mpps: f64) -> Report {
        let a_to_b = Direction { sent: 100, received: 99, lost: 1, mpps, ..Direction::default() };
        Report { mpps, a_to_b: Some(a_to_b), ..Report::default() }
    }

    #[test]
    fn ratios_are_of_rounds() {
        let case = Case::memif(60, 1_000);
        let (dray, testpmd) = ([10.0, 20.0, 33.0], [10.0, 10.0, 11.0]);
        let f = Figures::new("Dray", case, &dray.map(report), &dray, &testpmd);
        // The median of 1, 2 and 3, not the ratio of the medians.
        assert_eq!((f.to_testpmd.median, f.to_testpmd.low, f.to_testpmd.high), (2.0, 1.0, 3.0));
        assert_eq!(f.of_dray.median, 1.0);
        assert_eq!((f.mpps, f.ns, f.gbps), (20.0, 50.0, 9.6));
        assert_eq!((f.sent, f.lost, f.wrong), (300, 3, 0));
        let f = Figures::new("testpmd io", case, &testpmd.map(report), &dray, &testpmd);
        assert_eq!((f.to_testpmd.median, f.of_dray.median, f.ns), (1.0, 2.0, 100.0));
    }

    #[test]
    fn order_within_a_flow() {
        let f = Figures { sampled: 5_000, reordered: 5, ..Figures::default() };
        assert!(f.valid(Case::memif(60, 2)) && !f.valid(Case::memif(60, 1)));
        assert!(!Figures { reordered: 6, ..f.clone() }.valid(Case::memif(60, 2)));
        assert!(!Figures { wrong: 1, reordered: 0, ..f }.valid(Case::memif(60, 1)));
    }

    #[test]
    fn what_is_reached() {
        let of = |ratio: f64, target, mpps| Measured {
            case: Case::memif(60, 1),
            target,
            ceiling: 100.0,
            figures: vec![Figures {
                switch: "Dray",
                mpps,
                to_testpmd: Estimate { median: ratio, ..Estimate::default() },
                ..Figures::default()
            }],
            absent: Vec::new(),
            probes: Vec::new(),
            repeated: 0,
            stages: None,
        };
        assert_eq!(of(1.25, Some(1.25), 80.0).reached(), Some(true));
        assert_eq!(of(1.24, Some(1.25), 80.0).reached(), Some(false));
        assert_eq!(of(1.24, None, 80.0).reached(), None);
        assert!(of(1.0, None, 80.0).limited().is_empty());
        assert_eq!(of(1.0, None, 80.1).limited(), ["Dray"]);
    }

    #[test]
    fn a_run_is_void_if_a_switch_differs_from_itself() {
        let same = |median| Same { switch: "Dray", ratio: Estimate { median, ..Estimate::default() } };
        assert!(!same(0.971).void() && !same(1.029).void());
        assert!(same(0.969).void() && same(1.031).void() && same(f64::NAN).void());
    }
}
