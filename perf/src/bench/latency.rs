//! How long frames are under way at a given load, beside testpmd io in the same round.

use super::case::Case;
use super::results::Results;
use super::{Round, Run, Way};
use crate::generator::Report;
use crate::latency::Latency;
use crate::peer::{Kind, Peer};
use crate::regime;
use crate::stats::{self, Estimate};
use dray_report::{Axis, Column, Lines, Point, Section, Table, Tone};
use serde::Serialize;

/// Shares of what testpmd io reaches in the same round.
const LOADS: [f64; 5] = [0.1, 0.25, 0.5, 0.75, 0.9];
/// The load at which Dray is compared.
const HALF: f64 = 0.5;
/// By how many microseconds Dray's 99th percentile may be above testpmd's at half load.
const BEHIND: f64 = 5.0;

/// One switch's times at a load, in microseconds.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Times {
    /// Its name.
    pub switch: &'static str,
    /// The rounds' medians.
    pub p50: Estimate,
    /// The rounds' 99th percentiles.
    pub p99: Estimate,
    /// The rounds' 99.9th percentiles.
    pub p99_9: Estimate,
    /// Frames that never came, of a million.
    pub lost: f64,
}

/// A load.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct AtLoad {
    /// As a share of what testpmd io reaches.
    pub load: f64,
    /// Million frames a second, the median of the rounds.
    pub mpps: f64,
    /// Of Dray and testpmd io.
    pub times: [Times; 2],
    /// By how many microseconds Dray's 99th percentile is above testpmd's in the same round.
    pub behind: Estimate,
}

/// A case, at all loads.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Latencies {
    /// What was sent.
    #[serde(flatten)]
    pub case: Case,
    /// Load by load.
    pub loads: Vec<AtLoad>,
    /// Nanoseconds that a number took between the CPUs and back, round by round.
    pub probes: Vec<Vec<f64>>,
}

impl Latencies {
    /// Whether half the load takes no longer than it may.
    pub fn reached(&self) -> Option<bool> {
        self.loads.iter().find(|l| l.load == HALF).map(|l| l.behind.median <= BEHIND)
    }
}

impl Run<'_> {
    /// Measures Dray and testpmd io at all loads, if times are asked of such frames.
    pub fn latency(&mut self, case: Case) -> Result<Option<Latencies>, String> {
        if case.way != Way::Plain || case.packed || (case.size, case.flows) != (60, 1_000) {
            return Ok(None);
        }
        (self.say)(&format!("{case}: latency"));
        let (rounds, _) =
            self.collect(case, self.bench.rounds, true, |run, reversed| run.latency_round(case, reversed))?;
        let loads = LOADS.iter().enumerate().map(|(i, &load)| at_load(load, i, &rounds));
        let loads =
            loads.collect::<Option<_>>().ok_or_else(|| format!("{case}: no frame came whose time was taken"))?;
        Ok(Some(Latencies { case, loads, probes: rounds.into_iter().map(|r| r.probes).collect() }))
    }

    /// The reports of Dray and testpmd io at the first load, then of both at the second, and so on.
    fn latency_round(&mut self, case: Case, reversed: bool) -> Result<Round, String> {
        let bench = self.bench;
        let peers: [&dyn Peer; 2] = [&bench.dray, &bench.testpmd];
        let mut seats = [self.timed_seat(case, peers[0])?, self.timed_seat(case, peers[1])?];
        self.passes(|run| {
            let full = bench.measure(&mut seats[1], 0, bench.duration, run.stop)?.mpps * 1e6;
            let mut probes = vec![run.probe()?];
            let mut reports = Vec::new();
            for load in LOADS {
                let mut pair = [Report::default(), Report::default()];
                for which in if reversed { [1, 0] } else { [0, 1] } {
                    // Not 0, which would be without limit.
                    let rate = ((full * load) as u64).max(1);
                    pair[which] = bench.measure(&mut seats[which], rate, bench.duration, run.stop)?;
                }
                reports.extend(pair);
                probes.push(run.probe()?);
            }
            Ok((reports, probes))
        })
    }

    fn timed_seat(&self, case: Case, peer: &dyn Peer) -> Result<super::Seat, String> {
        self.bench.seat(case, peer, self.memory, true, self.stop)
    }

    /// How fast the two CPUs talk to each other.
    pub fn probe(&self) -> Result<f64, String> {
        regime::probe(self.bench.generator_cpu, self.bench.switch_cpu)
    }
}

/// The `i`th load in all rounds.
fn at_load(load: f64, i: usize, rounds: &[Round]) -> Option<AtLoad> {
    let reports = |which: usize| rounds.iter().map(move |r| &r.reports[2 * i + which]);
    let latency = |which: usize| -> Option<Vec<Latency>> {
        reports(which).map(|r| r.directions().next().and_then(|d| d.latency)).collect()
    };
    let both = [latency(0)?, latency(1)?];
    let times = [(0, "Dray"), (1, "testpmd io")].map(|(which, switch)| {
        let of = |f: fn(&Latency) -> f64| Estimate::of(&both[which].iter().map(|l| f(l) / 1e3).collect::<Vec<_>>());
        let count = |f: fn(&crate::generator::Direction) -> u64| -> u64 {
            reports(which).flat_map(Report::directions).map(f).sum()
        };
        Times {
            switch,
            p50: of(|l| l.p50),
            p99: of(|l| l.p99),
            p99_9: of(|l| l.p99_9),
            lost: 1e6 * count(|d| d.lost) as f64 / count(|d| d.sent).max(1) as f64,
        }
    });
    let behind: Vec<f64> = both[0].iter().zip(&both[1]).map(|(dray, testpmd)| (dray.p99 - testpmd.p99) / 1e3).collect();
    let mpps = stats::median(&reports(0).map(|r| r.mpps).collect::<Vec<_>>());
    Some(AtLoad { load, mpps, times, behind: Estimate::of(&behind) })
}

impl Results {
    /// Times by load.
    pub fn latency_section(&self, section: &mut Section, charts: bool) {
        section.paragraph(format!(
            "How long 60-byte frames of 1,000 flows are under way, from the generator and back to it, at shares of what testpmd \
             io reaches in the same round; medians of the rounds, in microseconds. At half the load Dray's 99th percentile may \
             be {BEHIND} us above testpmd's at most."
        ));
        let columns = [
            Column::left("frames"),
            Column::right("load"),
            Column::right("Mpps"),
            Column::left("Dray p50 / p99 / p99.9"),
            Column::left("testpmd io p50 / p99 / p99.9"),
            Column::left("Dray's p99 minus testpmd's"),
            Column::right("lost of 10^6"),
            Column::left("reached"),
        ];
        let mut table = Table::new("How long 60-byte frames are under way, by load, in microseconds", columns);
        for c in &self.latency {
            for l in &c.loads {
                let reached = c.reached().filter(|_| l.load == HALF);
                let (tone, verdict) = match reached {
                    _ if self.void.is_some() => (Tone::Bad, "VOID"),
                    Some(true) => (Tone::Good, "yes"),
                    Some(false) => (Tone::Bad, "NO"),
                    None => (Tone::Plain, ""),
                };
                let times = |t: &Times| format!("{:.1} / {:.1} / {:.1}", t.p50.median, t.p99.median, t.p99_9.median);
                table.verdict(
                    tone,
                    [
                        c.case.path().to_owned(),
                        format!("{:.0} %", 100.0 * l.load),
                        format!("{:.1}", l.mpps),
                        times(&l.times[0]),
                        times(&l.times[1]),
                        l.behind.text(),
                        format!("{:.1}; {:.1}", l.times[0].lost, l.times[1].lost),
                        verdict.to_owned(),
                    ],
                );
            }
        }
        section.add(table);
        for kind in [Kind::Memif, Kind::VhostUser].into_iter().filter(|_| charts) {
            for c in self.latency.iter().filter(|c| c.case.link == kind) {
                let (x, y) = (Axis::linear("load", "% of testpmd io's most"), Axis::log("under way", "us"));
                let mut lines = Lines::new(format!("{}: times by load", kind.name()), x, y);
                for which in [0, 1] {
                    let curve = |f: fn(&Times) -> Estimate| {
                        let point = move |l: &AtLoad| {
                            let e = f(&l.times[which]);
                            Point::within(100.0 * l.load, e.median, e.low, e.high)
                        };
                        c.loads.iter().map(point).collect::<Vec<_>>()
                    };
                    let name = c.loads.first().map_or("", |l| l.times[which].switch);
                    lines.series(format!("{name} p50"), curve(|t| t.p50));
                    lines.series(format!("{name} p99"), curve(|t| t.p99));
                }
                section.add(lines);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::generator::Direction;

    #[test]
    fn times_are_compared_round_by_round() {
        let report = |p99: f64| {
            let latency = Some(Latency { p50: p99 / 2.0, p99, p99_9: p99, ..Latency::default() });
            let d = Direction { sent: 1_000_000, lost: 2, latency, ..Direction::default() };
            Report { mpps: 3.0, a_to_b: Some(d), ..Report::default() }
        };
        // The second load: Dray 4 and 6 us behind, then 5 us ahead.
        let round = |dray, testpmd| Round {
            reports: [0.0, 0.0, dray, testpmd].map(report).into(),
            probes: vec![100.0],
            passes: 1,
            stages: None,
        };
        let rounds = [round(10_000.0, 6_000.0), round(20_000.0, 14_000.0), round(10_000.0, 15_000.0)];
        let l = at_load(HALF, 1, &rounds).unwrap();
        assert_eq!((l.behind.median, l.behind.low, l.behind.high), (4.0, -5.0, 6.0));
        assert_eq!((l.times[0].p99.median, l.times[0].p50.median, l.times[1].p99.median), (10.0, 5.0, 14.0));
        assert_eq!((l.times[0].switch, l.times[0].lost, l.mpps), ("Dray", 2.0, 3.0));
        let of = |behind| Latencies {
            case: Case::memif(60, 1_000),
            loads: vec![AtLoad { behind: Estimate { median: behind, ..l.behind }, ..l }],
            probes: Vec::new(),
        };
        assert_eq!((of(5.0).reached(), of(5.1).reached()), (Some(true), Some(false)));
        let none = [Round { reports: vec![Report::default(); 2], probes: Vec::new(), passes: 1, stages: None }];
        assert_eq!(at_load(HALF, 0, &none), None);
    }
}
