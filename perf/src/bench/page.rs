//! The results for people: a report, and tables in Markdown for documents.

use super::case::{Case, Way, thousands};
use super::results::{Figures, Measured, NOISE, Results};
use crate::peer::Kind;
use crate::regime;
use crate::stats::{Estimate, median, middle};
use crate::workers::Work;
use dray_api::StageInfo;
use dray_report::{Axis, Bar, Bars, Column, Document, Lines, Point, Section, Stacks, Table, Tone};
use dray_switch::clock::Stage;
use std::fmt::Write;

impl Results {
    /// The report; without `charts`, what a terminal has room for.
    pub fn document(&self, charts: bool) -> Document {
        let void = if self.void.is_some() { "VOID: " } else { "" };
        let mut document = Document::new(format!("{void}Dray and other switches, side by side"));
        for sentence in self.summary() {
            document.summary(sentence);
        }
        self.facts(&mut document);
        let section = document.section("Frames a second");
        self.throughput(section);
        if charts {
            self.ratio_chart(section);
            self.charts(document.section("By MACs and by size"));
        }
        self.stages(document.section("Where the time goes"), charts);
        // A few cases make no curve.
        document.sections.retain(|s| !s.blocks.is_empty());
        if !self.latency.is_empty() {
            self.latency_section(document.section("Latency"), charts);
        }
        let section = document.section("What else must be known");
        for note in self.notes() {
            section.paragraph(note);
        }
        self.fairness(document.section("What was compared"), charts);
        document
    }

    /// What was found, in a few sentences.
    fn summary(&self) -> Vec<String> {
        let mut out = Vec::new();
        if let Some(why) = &self.void {
            out.push(format!("VOID: {why}"));
        }
        let aims: Vec<bool> = self.cases.iter().filter_map(Measured::reached).collect();
        if !aims.is_empty() {
            let reached = aims.iter().filter(|&&r| r).count();
            out.push(format!("Dray reaches what it is to reach in {reached} of {} cases.", aims.len()));
        }
        let missed: Vec<String> = self.missed().iter().map(Case::to_string).collect();
        if !missed.is_empty() {
            out.push(format!("Not in: {}.", missed.join("; ")));
        }
        let late: Vec<&str> =
            self.latency.iter().filter(|c| c.reached() == Some(false)).map(|c| c.case.link.name()).collect();
        match (self.latency.is_empty(), late.is_empty()) {
            (true, _) => {}
            (false, true) => out.push("At half load its 99th percentile is where it is to be.".into()),
            (false, false) => out.push(format!("At half load its 99th percentile is too late: {}.", late.join(", "))),
        }
        for contestant in self.switches.iter().skip(1) {
            let ratios: Vec<f64> =
                self.cases.iter().filter_map(|c| Some(c.of(contestant.switch)?.of_dray.median)).collect();
            if let (Some(least), Some(most)) = (least(&ratios), ratios.iter().copied().reduce(f64::max)) {
                let name = contestant.switch;
                out.push(format!("Dray passes on {least:.2} to {most:.2} times what {name} does."));
            }
        }
        out
    }

    fn facts(&self, document: &mut Document) {
        let m = &self.machine;
        document.fact("Date", &m.date);
        document.fact("CPU", format!("{}, {} of them for this", m.cpu, m.cpus));
        document.fact("Kernel", format!("Linux {}", m.kernel));
        document.fact("Huge pages", if m.huge_pages { "2 MiB, for DPDK's memory" } else { "none" });
        document.fact("Load before", &m.load);
        for s in &self.switches {
            document.fact(s.switch, &s.version);
        }
        for (name, why) in &self.missing {
            document.fact(*name, format!("not measured: {why}"));
        }
        let probes: Vec<f64> = self.cases.iter().flat_map(|c| c.probes.iter().flatten()).copied().collect();
        if let (Some(low), Some(high)) = (least(&probes), probes.iter().copied().reduce(f64::max)) {
            let text =
                format!("{:.0} ns there and back ({low:.0} to {high:.0} while it was measured)", median(&probes));
            document.fact("Between the two CPUs", text);
        }
    }

    fn throughput(&self, section: &mut Section) {
        section.paragraph(format!(
            "Million frames a second, the median of {} rounds, in each of which all switches were measured for {} s, taking turns. \
             A ratio is the median of the rounds' ratios, with the interval that it lies in with a probability of \
             {:.0} % whatever the distribution. \"To reach\" is the least that Dray is to have, as a multiple of testpmd io. \"CPUs ns\" is what a number \
             took between the two CPUs and back while it was measured, which on a virtual machine depends on where its host \
             has put them, and which figures and ratios depend on.",
            self.method.rounds,
            self.method.seconds,
            100.0 * self.cases.first().and_then(|c| c.figures.first()).map_or(0.0, |f| f.to_testpmd.level)
        ));
        let others: Vec<&str> = self.switches.iter().skip(1).map(|s| s.switch).collect();
        let mut columns = vec![Column::left("frames"), Column::right("Dray Mpps")];
        columns.extend(others.iter().map(|name| Column::right(*name)));
        columns.extend([Column::left("Dray / testpmd io"), Column::right("to reach"), Column::left("reached")]);
        let rest = &others[1.min(others.len())..];
        columns.extend(rest.iter().map(|name| Column::left(format!("Dray / {name}"))));
        columns.push(Column::right("CPUs ns"));
        let mut table = Table::new("Million frames a second of each switch, and their ratios", columns);
        for c in &self.cases {
            let tone = match c.reached() {
                _ if self.void.is_some() => Tone::Bad,
                Some(true) => Tone::Good,
                Some(false) => Tone::Bad,
                None => Tone::Plain,
            };
            let mut cells = vec![c.case.to_string(), mpps(c.figures.first())];
            cells.extend(others.iter().map(|name| mpps(c.of(name))));
            cells.push(c.figures.first().map_or(String::new(), |f| f.to_testpmd.text()));
            cells.push(c.target.map_or("–".into(), |t| format!("{t:.2}")));
            cells.push(verdict(self.void.is_some(), c).into());
            cells.extend(rest.iter().map(|name| c.of(name).map_or("–".into(), |f| f.of_dray.text())));
            cells.push(format!("{:.0}", median(&c.probes.concat())));
            table.verdict(tone, cells);
        }
        section.add(table);
    }

    fn ratio_chart(&self, section: &mut Section) {
        let mut bars = Bars::new(
            "Frames a second as multiples of testpmd io",
            Axis::linear("ratio", ""),
            self.switches.iter().map(|s| s.switch),
        );
        for c in &self.cases {
            let bar = |name| c.of(name).map(|f| Bar::within(f.to_testpmd.median, f.to_testpmd.low, f.to_testpmd.high));
            bars.group(c.case.to_string(), c.target, self.switches.iter().map(|s| bar(s.switch)));
        }
        section.add(bars);
    }

    fn charts(&self, section: &mut Section) {
        let kinds = [Kind::Memif, Kind::VhostUser];
        let plain = |kind| {
            move |c: &&Measured| c.case == Case { link: kind, packed: false, way: Way::Plain, read: false, ..c.case }
        };
        for kind in kinds {
            let of = || self.cases.iter().filter(plain(kind)).filter(|c| c.case.size == 60);
            let title = format!("{}: 60-byte frames, by MACs", kind.name());
            let x = |c: Case| 2.0 * f64::from(c.flows);
            self.curves(section, title, Axis::log("MACs", ""), of().collect(), x);
        }
        for kind in kinds {
            let of = || self.cases.iter().filter(plain(kind)).filter(|c| c.case.flows == 1_000);
            let title = format!("{}: 1,000 flows, by frame size", kind.name());
            let x = |c: Case| c.size as f64;
            self.curves(section, title, Axis::linear("frame size without FCS", "B"), of().collect(), x);
        }
    }

    /// A curve for each switch. Nothing, if there is only one point.
    fn curves(
        &self,
        section: &mut Section,
        title: String,
        x: Axis,
        mut cases: Vec<&Measured>,
        at: impl Fn(Case) -> f64,
    ) {
        cases.sort_by(|a, b| at(a.case).total_cmp(&at(b.case)));
        cases.dedup_by_key(|c| c.case);
        if cases.len() < 2 {
            return;
        }
        let mut lines = Lines::new(title, x, Axis::linear("throughput", "Mpps"));
        for s in &self.switches {
            let points = cases.iter().filter_map(|c| {
                let f = c.of(s.switch)?;
                let e = Estimate::of(&f.rounds);
                Some(Point::within(at(c.case), f.mpps, e.low, e.high))
            });
            lines.series(s.switch, points);
        }
        section.add(lines);
    }

    /// What the stages of Dray take.
    fn stages(&self, section: &mut Section, charts: bool) {
        let cases: Vec<(Case, &Work, f64)> = self
            .cases
            .iter()
            .filter_map(|c| {
                let rounds = &c.figures.first()?.rounds;
                Some((c.case, c.stages.as_ref()?, 1e3 / rounds[middle(rounds)?]))
            })
            .collect();
        let has = |name: &str| cases.iter().any(|(_, work, _)| work.stages.iter().any(|s| s.stage == name));
        let names: Vec<&str> = Stage::ALL.iter().map(|s| s.name()).filter(|name| has(name)).collect();
        if names.is_empty() {
            return;
        }
        section.paragraph(
            "What the stages of Dray's worker took of a frame, in the round of each case in which its rate was the median one \
             (the lower of two). drayd's own counters tell, which time one burst in 31: what they said after the \
             measurement, less what they said before it. What a stage took is divided by all frames received, so that the \
             stages add up, also those that have to do with few frames, such as learning and flooding. \"Frame to frame\" \
             is what passed from one frame to the next, in which there is also what lies between the stages, and what a \
             worker that waits for the generator polls in vain. Only Dray is shown: the other switches have no counters of \
             these stages.",
        );
        // Of a frame, one for each name; none where no frame came by.
        let of = |work: &Work, figure: fn(&StageInfo) -> f64| -> Vec<Option<f64>> {
            let stage = |name: &&str| work.stages.iter().find(|s| s.stage == *name);
            names.iter().map(|name| stage(name).map(|s| figure(s) * work.part(s))).collect()
        };
        let ns = |s: &StageInfo| s.ns_per_packet;
        let ticks = |s: &StageInfo| s.ticks_per_packet;
        // Without what the worker took in all: switches take turns, and one that is stopped in the middle of a burst counts that time as
        // the burst's.
        let table = |unit: &str, last: &str| {
            let mut columns = vec![Column::left("frames")];
            columns.extend(names.iter().chain(&["stages", last]).map(|name| Column::right(*name)));
            Table::new(format!("Dray: {unit} that a frame takes, by stage, in the median round"), columns)
        };
        let row = |case: Case, stages: &[Option<f64>], last: f64| {
            let sum = stages.iter().flatten().sum();
            let figures = stages.iter().copied().chain([sum, last].map(Some));
            let text = |figure: Option<f64>| figure.map_or("–".into(), |v| format!("{v:.1}"));
            std::iter::once(case.to_string()).chain(figures.map(text)).collect::<Vec<_>>()
        };
        let y = Axis::linear("time of a frame", "ns");
        let mut stacks = Stacks::new("Dray: the time of a frame by stage, in the median round", y, names.clone());
        let (mut in_ns, mut in_ticks) = (table("nanoseconds", "frame to frame"), table("ticks", "frames a burst"));
        for &(case, work, frame_to_frame) in &cases {
            stacks.stack(case.to_string(), of(work, ns).into_iter().map(Option::unwrap_or_default));
            in_ns.row(row(case, &of(work, ns), frame_to_frame));
            in_ticks.row(row(case, &of(work, ticks), work.packets_per_burst));
        }
        if charts {
            section.add(stacks);
        }
        section.add(in_ns);
        if charts {
            section.add(in_ticks);
        }
    }

    /// Sentences below the table.
    fn notes(&self) -> Vec<String> {
        let mut notes = Vec::new();
        let same: Vec<String> = self.same.iter().map(|s| format!("{} {}", s.switch, s.ratio.text())).collect();
        if !same.is_empty() {
            notes.push(format!(
                "Each against itself, measured like two switches in the case of {}: {}. If one of the medians differed from 1 \
                 by more than {:.0} %, the run would be void.",
                Case::memif(60, 1_000),
                same.join(", "),
                100.0 * NOISE
            ));
        }
        let (mut ceilings, mut lost) = (Vec::new(), Vec::new());
        for c in &self.cases {
            if c.case.way == Way::Plain {
                ceilings.push(format!("{:.0} Mpps ({})", c.ceiling, c.case));
            }
            let limited = c.limited();
            if !limited.is_empty() {
                notes.push(format!(
                    "{}: the generator may be what limits {}, which come within 80 % of what it reaches alone.",
                    c.case,
                    limited.join(" and ")
                ));
            }
            for (name, why) in &c.absent {
                notes.push(format!("{}: without {name}, because {why}.", c.case));
            }
            for f in &c.figures {
                if !f.valid(c.case) {
                    notes.push(format!(
                        "INVALID ({}): of {} frames looked at, {} reordered {} and repeated or changed {}.",
                        c.case,
                        thousands(f.sampled),
                        f.switch,
                        f.reordered,
                        f.wrong
                    ));
                } else if f.reordered != 0 {
                    notes.push(format!(
                        "{}: of {} frames that {} passed on and that were looked at, {} came after a later one of another flow.",
                        c.case,
                        thousands(f.sampled),
                        f.switch,
                        f.reordered
                    ));
                }
                if f.lost != 0 {
                    lost.push(format!("{} {} ({})", f.switch, percent(f), c.case));
                }
            }
        }
        if !lost.is_empty() {
            notes.push(format!("Lost of what was sent: {}.", lost.join(", ")));
        }
        if !ceilings.is_empty() {
            notes.push(format!(
                "The generator alone, against a switch that touches no frame, reaches {}.",
                ceilings.join(", ")
            ));
        }
        let repeated: usize = self.cases.iter().map(|c| c.repeated).sum();
        notes.push(format!(
            "Measurements of all switches that do not count: {repeated}. While they went on the time that a number takes \
             between the CPUs changed by more than a quarter, or it was not what it was in most rounds of the case, or a switch \
             did not get to run."
        ));
        let short = |c: &&Measured| c.probes.len() < self.method.rounds;
        for c in self.cases.iter().filter(short) {
            notes.push(format!("{}: only {} rounds, because the machine changed too often.", c.case, c.probes.len()));
        }
        notes.extend(self.fdb_note());
        let at =
            |flows: u32| self.case(Case::memif(60, flows)).map(|c| (c.figures.as_slice(), median(&c.probes.concat())));
        // What is of two latency regimes can't be subtracted.
        if let (Some(([few, few_testpmd, ..], one)), Some(([many, many_testpmd, ..], other))) =
            (at(1_000), at(1_000_000))
            && regime::steady(&[one, other])
        {
            notes.push(format!(
                "With 2,000 MACs Dray takes {:.1} ns a frame, with 2,000,000 {:.1} ns: {:.1} ns more, of which {:.1} ns are \
                 not the lookup's, because testpmd, which looks nothing up, takes them too (the frames no longer fit the cache).",
                few.ns,
                many.ns,
                many.ns - few.ns,
                many_testpmd.ns - few_testpmd.ns
            ));
        }
        notes
    }

    fn fdb_note(&self) -> Option<String> {
        let f = self.fdb?;
        let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
        let table = f.memory_after.saturating_sub(f.memory_small);
        Some(format!(
            "The FDB knows {} of {} MACs after one frame of each. It takes {:.1} MiB with room for {} ({:.1} bytes each): \
             drayd's private memory is {:.1} MiB with room for 1,024, {:.1} MiB with that, {:.1} MiB when they are learned.",
            thousands(f.learned),
            thousands(f.macs),
            mib(table),
            thousands(f.size),
            table as f64 / f.size.max(1) as f64,
            mib(f.memory_small),
            mib(f.memory_before),
            mib(f.memory_after),
        ))
    }

    /// What a switch's author wants to know.
    fn fairness(&self, section: &mut Section, listings: bool) {
        let [generator, switch] = self.machine.used;
        section.paragraph(format!(
            "One generator for all, on CPU {generator}: links with rings of {} descriptors and buffers of {} bytes, prepared \
             frames, every flow's in turn, as fast as the switch takes them, from port A to port B. It touches rings only, \
             and looks at one received frame in 64; where it says \"read\", it copies every frame that it receives to memory of its \
             own, as a host's network stack does, so that its bytes have to come from the switch's CPU to the generator's. Before it is measured, a switch gets every frame once from both sides, so \
             that it knows all MACs.",
            self.method.ring_size, self.method.buffer_size
        ));
        section.paragraph(format!(
            "Each switch has CPU {switch} for all its threads unless said. In each round all are started anew, connected and \
             taught, and then paused (SIGSTOP); one after the other goes on while it is measured, and nothing else runs. They \
             take several turns (one, with very many flows), each second time in the other order, as each second round begins."
        ));
        for s in &self.switches {
            section.paragraph(format!("{}, {}. {}", s.switch, s.version, s.about));
        }
        if !listings {
            return;
        }
        let columns = ["frames", "round", "ns between the CPUs", "Mpps"].map(Column::left);
        let mut table =
            Table::new("Round by round: the probes between turns, and the rates in the order above", columns);
        for c in &self.cases {
            for (i, probes) in c.probes.iter().enumerate() {
                let list = |values: Vec<f64>, digits: usize| {
                    values.iter().map(|v| format!("{v:.digits$}")).collect::<Vec<_>>().join(" ")
                };
                let rates = c.figures.iter().filter_map(|f| f.rounds.get(i).copied()).collect();
                table.row([c.case.to_string(), (i + 1).to_string(), list(probes.clone(), 0), list(rates, 2)]);
            }
        }
        section.add(table);
        for s in &self.started {
            let mut text = s.commands.join("\n") + "\n";
            if !s.configuration.is_empty() {
                let _ = write!(text, "\n{}", s.configuration);
            }
            section.listing(format!("{}, {}", s.switch, s.path), text);
        }
    }

    /// A table in Markdown, with what has to be known about it.
    pub fn markdown(&self) -> String {
        let mut out = String::new();
        if let Some(why) = &self.void {
            let _ = writeln!(out, "**VOID: {why}**\n");
        }
        let versions: Vec<String> = self.switches.iter().map(|s| format!("{} ({})", s.switch, s.version)).collect();
        let _ = writeln!(
            out,
            "{} on {}, Linux {}: one core for the switch, one for the generator; rings of {} descriptors, buffers of {} bytes; \
             {} rounds of {} s for each; DPDK {} huge pages.\n",
            versions.join(", "),
            self.machine.cpu,
            self.machine.kernel,
            self.method.ring_size,
            self.method.buffer_size,
            self.method.rounds,
            self.method.seconds,
            if self.machine.huge_pages { "with" } else { "without" }
        );
        let others: Vec<&str> = self.switches.iter().skip(1).map(|s| s.switch).collect();
        let rates = others.iter().map(|name| format!(" {name} Mpps |")).collect::<String>();
        let ratios = others.iter().map(|name| format!(" Dray / {name} |")).collect::<String>();
        let _ = writeln!(out, "| frames | Dray Mpps | Gbit/s |{rates}{ratios} lost |");
        let _ = writeln!(out, "|---|---:|---:|{}{}---:|", "---:|".repeat(others.len()), "---|".repeat(others.len()));
        for c in &self.cases {
            let Some(dray) = c.figures.first() else { continue };
            let _ = write!(out, "| {} | {} | {:.1} |", c.case, mpps(Some(dray)), dray.gbps);
            for name in &others {
                let _ = write!(out, " {} |", mpps(c.of(name)));
            }
            for name in &others {
                let _ = write!(out, " {} |", c.of(name).map_or("–".into(), |f| bold(&f.of_dray.text())));
            }
            let _ = writeln!(out, " {} |", percent(dray));
        }
        for note in self.notes() {
            let _ = write!(out, "\n- {note}");
        }
        out + "\n"
    }
}

/// Mpps with a digit after the point, below 1 two: what is slow isn't nothing.
fn mpps(f: Option<&Figures>) -> String {
    f.map_or("–".into(), |f| format!("{:.*}", if f.mpps < 1.0 { 2 } else { 1 }, f.mpps))
}

/// Makes the first word of "1.25 (1.20 to 1.31)" stand out.
fn bold(text: &str) -> String {
    text.split_once(' ').map_or(text.into(), |(figure, rest)| format!("**{figure}** {rest}"))
}

fn verdict(void: bool, c: &Measured) -> &'static str {
    let sure = |f: &Figures, target: f64| f.to_testpmd.low >= target || f.to_testpmd.high < target;
    match (c.reached(), c.figures.first().zip(c.target).is_some_and(|(f, t)| sure(f, t))) {
        _ if void => "VOID",
        (None, _) => "",
        (Some(true), true) => "yes",
        (Some(false), true) => "NO",
        // What is to be reached lies in the interval.
        (Some(true), false) => "yes, barely",
        (Some(false), false) => "NO, barely",
    }
}

fn least(values: &[f64]) -> Option<f64> {
    values.iter().copied().reduce(f64::min)
}

fn percent(f: &Figures) -> String {
    if f.lost == 0 { "0".into() } else { format!("{:.4} %", 100.0 * f.lost as f64 / f.sent.max(1) as f64) }
}

#[cfg(test)]
mod tests {
    use super::super::results::{Contestant, Machine, Method, Same, Started};
    use super::*;
    use dray_report::Block;

    fn figures(switch: &'static str, mpps: f64, testpmd: f64, dray: f64) -> Figures {
        let (r, d) = ([mpps, mpps, 1.1 * mpps], [dray; 3]);
        let reports = r.map(|mpps| crate::generator::Report { mpps, ..Default::default() });
        Figures::new(switch, Case::memif(60, 1), &reports, &d, &[testpmd; 3])
    }

    fn results(void: Option<String>) -> Results {
        let measured = |case: Case, ratio: f64| Measured {
            case,
            target: case.target(),
            ceiling: 75.0,
            figures: vec![
                figures("Dray", ratio * 50.0, 50.0, ratio * 50.0),
                figures("testpmd io", 50.0, 50.0, ratio * 50.0),
                figures("OVS-DPDK", 10.0, 50.0, ratio * 50.0),
            ],
            absent: vec![("VPP", "it is asleep")],
            probes: vec![vec![100.0, 101.0, 102.0, 103.0]; 3],
            repeated: 1,
            stages: None,
        };
        Results {
            void,
            machine: Machine {
                date: "2026-01-02 03:04 UTC".into(),
                cpu: "A CPU".into(),
                cpus: 2,
                used: [0, 1],
                kernel: "6.1".into(),
                huge_pages: true,
                load: "0 0 0".into(),
            },
            method: Method { ring_size: 1024, buffer_size: 2048, seconds: 0.4, rounds: 3 },
            switches: ["Dray", "testpmd io", "OVS-DPDK"]
                .map(|switch| Contestant { switch, version: "1".into(), about: "Moves." })
                .into(),
            missing: vec![("VPP", "it is not there".into())],
            same: vec![Same { switch: "Dray", ratio: Estimate::of(&[1.0, 1.01, 0.99]) }],
            cases: vec![
                measured(Case::memif(60, 1), 1.3),
                measured(Case::memif(60, 1_000), 1.2),
                measured(Case::memif(512, 1_000), 2.5),
                measured(Case { packed: true, ..Case::vhost_user(60, 1_000) }, 1.0),
            ],
            latency: Vec::new(),
            fdb: None,
            started: vec![Started {
                path: "memif",
                switch: "Dray",
                commands: vec!["drayd --config DIR/dray.toml".into()],
                configuration: "[control]\n".into(),
            }],
        }
    }

    #[test]
    fn a_report_says_what_was_reached_and_what_was_not() {
        let results = results(None);
        let text = results.document(false).text().unwrap();
        let line = |start: &str| text.lines().find(|l| l.contains(start)).unwrap_or_else(|| panic!("{start}:\n{text}"));
        assert!(text.contains("Dray reaches what it is to reach in 2 of 3 cases."), "{text}");
        assert!(text.contains("Not in: memif 60 B, 1,000 flows."), "{text}");
        assert!(text.contains("Dray passes on 5.00 to 12.50 times what OVS-DPDK does."), "{text}");
        assert!(line("VPP").contains("not measured: it is not there"), "{text}");
        assert!(text.contains("without VPP, because it is asleep"), "{text}");
        assert!(text.contains("limits Dray"), "{text}");
        assert!(text.contains("that do not count: 4."), "{text}");
        let page = results.document(true).html().unwrap();
        for part in
            ["drayd --config DIR/dray.toml", "100 101 102 103", "by MACs", "by frame size", "multiples of testpmd"]
        {
            assert!(page.contains(part), "{part}");
        }
    }

    #[test]
    fn what_is_slow_is_not_nothing() {
        let rate = |mpps| super::mpps(Some(&figures("OVS-DPDK", mpps, 50.0, 50.0)));
        assert_eq!([67.24, 9.96, 0.226, 0.04].map(rate), ["67.2", "10.0", "0.23", "0.04"]);
        assert_eq!(super::mpps(None), "–");
    }

    /// What a worker did, with a clock of two ticks a nanosecond: (stage, ticks for each of its packets, packets).
    fn work(ticks: f64, stages: &[(&str, f64, u64)]) -> Work {
        let stage = |&(stage, ticks, sampled): &(&str, f64, u64)| StageInfo {
            stage: stage.into(),
            ticks_per_packet: ticks,
            ns_per_packet: ticks / 2.0,
            sampled,
            ..StageInfo::default()
        };
        Work {
            packets_per_burst: 63.5,
            ticks_per_packet: ticks,
            ns_per_packet: ticks / 2.0,
            stages: stages.iter().map(stage).collect(),
            ..Work::default()
        }
    }

    #[test]
    fn stages_add_up() {
        let mut results = results(None);
        let no_stages = |r: &Results| !r.document(true).sections.iter().any(|s| s.heading == "Where the time goes");
        assert!(no_stages(&results));
        results.cases[0].stages =
            Some(work(41.0, &[("receive", 12.0, 1_000), ("send", 20.0, 900), ("release", 8.0, 1_000)]));
        // Learning is dear, but there is little of it.
        let some = [("receive", 12.0, 1_000), ("learn", 300.0, 10), ("send", 24.0, 1_000)];
        results.cases[2].stages = Some(work(40.0, &some));
        let document = results.document(true);
        let section = document.sections.iter().find(|s| s.heading == "Where the time goes").unwrap();
        let [Block::Paragraph(_), Block::Stacks(stacks), Block::Table(ns), Block::Table(ticks)] = &section.blocks[..]
        else {
            panic!("{section:?}")
        };
        assert_eq!(stacks.parts, ["receive", "learn", "send", "release"]);
        let values: Vec<_> = stacks.stacks.iter().map(|s| (s.name.as_str(), s.values.clone())).collect();
        let wanted =
            [("memif 60 B, 1 flow", vec![6.0, 0.0, 9.0, 4.0]), ("memif 512 B, 1,000 flows", vec![6.0, 1.5, 12.0, 0.0])];
        assert_eq!(values, wanted);
        // The median of the case's rounds was 65 Mpps, and 125.
        let row = |table: &Table, i: usize| table.rows[i].cells[1..].join(" ");
        assert_eq!((row(ns, 0), row(ns, 1)), ("6.0 – 9.0 4.0 19.0 15.4".into(), "6.0 1.5 12.0 – 19.5 8.0".into()));
        assert_eq!(
            (row(ticks, 0), row(ticks, 1)),
            ("12.0 – 18.0 8.0 38.0 63.5".into(), "12.0 3.0 24.0 – 39.0 63.5".into())
        );
        assert!(results.document(false).text().unwrap().contains("nanoseconds that a frame takes, by stage"));
    }

    #[test]
    fn every_table_says_what_it_shows() {
        let mut results = results(None);
        results.cases[0].stages = Some(work(41.0, &[("receive", 12.0, 1_000)]));
        let document = results.document(true);
        let tables: Vec<&Table> = document
            .sections
            .iter()
            .flat_map(|s| &s.blocks)
            .filter_map(|b| match b {
                Block::Table(table) => Some(table),
                _ => None,
            })
            .collect();
        assert_eq!(tables.len(), 4);
        assert!(tables.iter().all(|t| t.caption.len() > 10), "{tables:?}");
    }

    #[test]
    fn what_is_of_two_regimes_is_not_subtracted() {
        let mut results = results(None);
        results.cases[0].case = Case::memif(60, 1_000_000);
        let said = |r: &Results| r.notes().iter().any(|n| n.starts_with("With 2,000 MACs"));
        assert!(said(&results));
        results.cases[0].probes = vec![vec![500.0; 4]; 3];
        assert!(!said(&results));
    }

    #[test]
    fn a_verdict_says_whether_noise_could_change_it() {
        let r = results(None);
        let of = |c: &Measured| verdict(false, c);
        // 1.3 to 1.43 for 1.25; 1.2 to 1.32 for 1.25; 2.5 to 2.75 for 2; nothing.
        assert_eq!(r.cases.iter().map(of).collect::<Vec<_>>(), ["yes", "NO, barely", "yes", ""]);
        assert_eq!(verdict(true, &r.cases[0]), "VOID");
    }

    #[test]
    fn a_void_run_says_so_everywhere() {
        let results = results(Some("Dray differs from itself.".into()));
        assert!(results.document(true).title.starts_with("VOID: "));
        let json = serde_json::to_string(&results).unwrap();
        let all = [
            results.document(false).text().unwrap(),
            results.document(true).html().unwrap(),
            results.markdown(),
            json.replace("\"void\":\"", "VOID: "),
        ];
        for text in all {
            assert!(text.contains("VOID: Dray differs from itself."), "{text}");
        }
    }

    #[test]
    fn markdown_has_a_row_for_each_case() {
        let text = results(None).markdown();
        let rows = text.lines().filter(|l| l.starts_with('|')).collect::<Vec<_>>();
        assert_eq!(rows.len(), 2 + 4, "{text}");
        assert!(rows.iter().all(|r| r.matches('|').count() == rows[0].matches('|').count()), "{text}");
        assert!(rows[2].starts_with("| memif 60 B, 1 flow | 65.0 | 31.2 | 50.0 | 10.0 | **1.30** ("), "{}", rows[2]);
    }
}
