//! The comparison with testpmd, side by side: every figure of Dray's stands beside one of testpmd's from the same minute.

use crate::cpu;
use crate::generator::{Generator, Link, Options, Report};
use crate::memif::{self, Memif};
use crate::peer::{Dray, HugePages, Kind, Memory, Peer, Setup, Switch, TempDir, Testpmd};
use crate::vhost::{self, VhostUser};
use dray_config::{Role, SocketName, rpc};
use dray_vhost::memif::{PortSpec, Supervisor};
use serde::Serialize;
use std::fmt::Write;
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// What is measured, and how.
#[derive(Clone, Debug)]
pub struct Bench {
    /// The daemon.
    pub drayd: PathBuf,
    /// The command.
    pub dray: PathBuf,
    /// The peer.
    pub testpmd: PathBuf,
    /// The generator's CPU.
    pub generator_cpu: usize,
    /// The switch's CPU.
    pub switch_cpu: usize,
    /// Rounds of each case; each measures both once.
    pub rounds: usize,
    /// How long one measurement takes.
    pub duration: Duration,
    /// Descriptors a ring.
    pub ring_size: u32,
    /// Bytes a buffer.
    pub buffer_size: u32,
    /// Whether testpmd gets huge pages if there are any.
    pub huge_pages: bool,
    /// Cases.
    pub cases: Vec<Case>,
}

/// Frames of a size, in a number of flows, between ports of a kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Case {
    /// The ports.
    pub link: Kind,
    /// Bytes of a frame, without FCS.
    pub size: usize,
    /// Flows; a switch learns two MACs of each.
    pub flows: u32,
}

/// The cases of a whole run.
pub const CASES: [Case; 10] = [
    Case::memif(60, 1),
    Case::memif(60, 1_000),
    Case::memif(60, 10_000),
    Case::memif(60, 100_000),
    Case::memif(60, 1_000_000),
    Case::memif(512, 1_000),
    Case::memif(1514, 1_000),
    Case::vhost_user(60, 1),
    Case::vhost_user(60, 1_000),
    Case::vhost_user(1514, 1_000),
];

impl Case {
    /// Between memif ports.
    const fn memif(size: usize, flows: u32) -> Case {
        Case { link: Kind::Memif, size, flows }
    }

    /// Between vhost-user ports.
    const fn vhost_user(size: usize, flows: u32) -> Case {
        Case { link: Kind::VhostUser, size, flows }
    }
}

impl std::str::FromStr for Case {
    type Err = String;

    /// Reads SIZExFLOWS or vhost:SIZExFLOWS.
    fn from_str(s: &str) -> Result<Case, String> {
        use crate::frames::{FLOWS_MAX, SIZE_MAX, SIZE_MIN};
        let (link, rest) = match s.strip_prefix("vhost:") {
            Some(rest) => (Kind::VhostUser, rest),
            None => (Kind::Memif, s),
        };
        let case = rest
            .split_once('x')
            .and_then(|(size, flows)| Some(Case { link, size: size.parse().ok()?, flows: flows.parse().ok()? }));
        case.filter(|c| (SIZE_MIN..=SIZE_MAX).contains(&c.size) && (1..=FLOWS_MAX).contains(&c.flows))
            .ok_or_else(|| "a case is SIZExFLOWS, like 60x1000, or vhost:SIZExFLOWS".into())
    }
}

impl std::fmt::Display for Case {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.link == Kind::VhostUser {
            f.write_str("vhost-user ")?;
        }
        write!(f, "{} B, {}", self.size, flows(self.flows))
    }
}

fn flows(n: u32) -> String {
    if n == 1 { "1 flow".into() } else { format!("{} flows", thousands(n.into())) }
}

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Who {
    Dray,
    Testpmd,
}

/// What one switch reached in the rounds of a case.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Figures {
    /// Million frames a second, the median of the rounds.
    pub mpps: f64,
    /// Gigabit a second at that, frames without FCS.
    pub gbps: f64,
    /// Nanoseconds a frame at that.
    pub ns: f64,
    /// Million frames a second, round by round.
    pub rounds: Vec<f64>,
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

/// Two switches side by side.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Comparison {
    /// What was sent.
    #[serde(flatten)]
    pub case: Case,
    /// The first.
    pub first: Figures,
    /// The second: testpmd.
    pub second: Figures,
    /// Median of the rounds' ratios, first to second.
    pub ratio: f64,
    /// The smallest of the rounds' ratios.
    pub ratio_min: f64,
    /// The largest of the rounds' ratios.
    pub ratio_max: f64,
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

/// All that a run gave.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Results {
    /// The CPU's name.
    pub cpu: String,
    /// The kernel's release.
    pub kernel: String,
    /// Version of Dray.
    pub dray: String,
    /// Version of the DPDK that testpmd is of.
    pub testpmd: String,
    /// Whether testpmd had huge pages.
    pub huge_pages: bool,
    /// Descriptors a ring.
    pub ring_size: u32,
    /// Bytes a buffer.
    pub buffer_size: u32,
    /// Seconds of each measurement.
    pub seconds: f64,
    /// What the generator reaches against a switch that touches no frame, for each number of flows.
    pub ceiling: Vec<Report>,
    /// testpmd against itself: what of a ratio is noise.
    pub same: Option<Comparison>,
    /// Dray (first) against testpmd.
    pub cases: Vec<Comparison>,
    /// The FDB in the case of the most flows.
    pub fdb: Option<FdbFigures>,
}

/// The middle value; of an even number, the mean of the middle two. 0 of none.
pub fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    match sorted.len() {
        0 => 0.0,
        n if n % 2 == 1 => sorted[n / 2],
        n => (sorted[n / 2 - 1] + sorted[n / 2]) / 2.0,
    }
}

/// 1234567 as 1,234,567.
fn thousands(n: u64) -> String {
    let digits = n.to_string();
    let mut out = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i != 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

impl Figures {
    fn new(size: usize, reports: &[Report]) -> Figures {
        let rounds: Vec<f64> = reports.iter().map(|r| r.mpps).collect();
        let mpps = median(&rounds);
        let directions = || reports.iter().flat_map(Report::directions);
        Figures {
            mpps,
            gbps: mpps * size as f64 * 8.0 / 1e3,
            ns: 1e3 / mpps,
            rounds,
            sent: directions().map(|d| d.sent).sum(),
            lost: directions().map(|d| d.lost).sum(),
            sampled: directions().map(|d| d.sampled).sum(),
            reordered: directions().map(|d| d.reordered).sum(),
            wrong: directions().map(|d| d.duplicated + d.foreign).sum(),
        }
    }
}

impl Comparison {
    fn new(case: Case, first: &[Report], second: &[Report]) -> Comparison {
        let ratios: Vec<f64> = first.iter().zip(second).map(|(a, b)| a.mpps / b.mpps).collect();
        Comparison {
            case,
            first: Figures::new(case.size, first),
            second: Figures::new(case.size, second),
            ratio: median(&ratios),
            ratio_min: ratios.iter().copied().fold(f64::INFINITY, f64::min),
            ratio_max: ratios.iter().copied().fold(0.0, f64::max),
        }
    }
}

impl Bench {
    /// Measures everything. `say` gets a line for every step.
    ///
    /// # Errors
    /// What went wrong, or that `stop` became true. Everything that was started has ended.
    pub fn run(&self, stop: &AtomicBool, say: &mut dyn FnMut(&str)) -> Result<Results, String> {
        let testpmd = Testpmd { program: self.testpmd.clone() }.version()?;
        let pages = if self.huge_pages { HugePages::get(256) } else { HugePages::none() };
        let mut results = Results {
            cpu: cpu_name(),
            kernel: std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default().trim().to_owned(),
            dray: env!("CARGO_PKG_VERSION").into(),
            testpmd,
            huge_pages: pages.memory == Memory::Huge,
            ring_size: self.ring_size,
            buffer_size: self.buffer_size,
            seconds: self.duration.as_secs_f64(),
            ceiling: Vec::new(),
            same: None,
            cases: Vec::new(),
            fdb: None,
        };
        let mut small: Vec<Case> = self.cases.iter().copied().filter(|c| c.size == 60).collect();
        small.dedup();
        for case in small {
            let report = self.ceiling(case, stop)?;
            say(&format!("generator's ceiling, {case}: {:.1} Mpps", report.mpps));
            results.ceiling.push(report);
        }
        let same = Case::memif(60, 1_000);
        say(&format!("{same}, testpmd against itself"));
        results.same = Some(self.compare(Who::Testpmd, same, pages.memory, &mut None, stop, say)?);
        let memif = self.cases.iter().filter(|c| c.link == Kind::Memif);
        let most = memif.max_by_key(|c| c.flows).copied();
        for &case in &self.cases {
            say(&format!("{case}"));
            let mut fdb = None;
            results.cases.push(self.compare(Who::Dray, case, pages.memory, &mut fdb, stop, say)?);
            if most.is_some_and(|most| (case.link, case.flows) == (most.link, most.flows)) {
                results.fdb = fdb;
            }
        }
        Ok(results)
    }

    /// Measures `first` and testpmd, in turn the one and the other first.
    fn compare(
        &self,
        first: Who,
        case: Case,
        memory: Memory,
        fdb: &mut Option<FdbFigures>,
        stop: &AtomicBool,
        say: &mut dyn FnMut(&str),
    ) -> Result<Comparison, String> {
        let mut reports = [Vec::new(), Vec::new()];
        for round in 0..self.rounds {
            let order = if round % 2 == 0 { [0, 1] } else { [1, 0] };
            for which in order {
                let who = if which == 0 { first } else { Who::Testpmd };
                let mut report = self.measure(who, case, memory, fdb, stop)?;
                for _ in 0..2 {
                    // On a machine that others keep busy a switch may not get to run at all.
                    if report.mpps == 0.0 {
                        report = self.measure(who, case, memory, fdb, stop)?;
                    }
                }
                if report.mpps == 0.0 {
                    return Err(format!("{case}: {who:?} passes nothing on while it is measured"));
                }
                reports[which].push(report);
            }
            let [a, b] = [&reports[0][round], &reports[1][round]];
            let name = if first == Who::Dray { "dray" } else { "testpmd" };
            say(&format!(
                "  round {}/{}: {name} {:.2}, testpmd {:.2} Mpps, ratio {:.3}",
                round + 1,
                self.rounds,
                a.mpps,
                b.mpps,
                a.mpps / b.mpps
            ));
        }
        Ok(Comparison::new(case, &reports[0], &reports[1]))
    }

    fn options<E>(&self, case: Case, ends: [E; 2]) -> Options<E> {
        let [a, b] = ends;
        let mut options = Options::new(a, b);
        options.ring_size = self.ring_size;
        options.buffer_size = self.buffer_size;
        options.flows = case.flows;
        options.size(case.size)
    }

    fn memif(&self, case: Case, [a, b]: [SocketName; 2]) -> Options<memif::End> {
        self.options(case, [memif::End::new(a, 0), memif::End::new(b, 1)])
    }

    fn vhost_user(&self, case: Case, sockets: [Option<SocketName>; 2]) -> Options<vhost::End> {
        self.options(case, sockets.map(|socket| vhost::End { socket, role: Role::Client, packed: false }))
    }

    fn dray(&self) -> Dray {
        Dray { drayd: self.drayd.clone() }
    }

    fn setup(&self, kind: Kind, macs: usize, memory: Memory) -> Setup {
        Setup {
            cpu: self.switch_cpu,
            other_cpu: self.generator_cpu,
            kind,
            overlay: None,
            ring_size: self.ring_size,
            macs,
            memory,
        }
    }

    /// One measurement of a fresh process.
    fn measure(
        &self,
        who: Who,
        case: Case,
        memory: Memory,
        fdb: &mut Option<FdbFigures>,
        stop: &AtomicBool,
    ) -> Result<Report, String> {
        // Twice the flows are MACs; the default size for most cases.
        let macs = (2 * case.flows as usize).max(1 << 20).next_power_of_two();
        let setup = self.setup(case.link, macs, memory);
        let mut switch = match who {
            Who::Dray => self.dray().start(&setup)?,
            Who::Testpmd => Testpmd { program: self.testpmd.clone() }.start(&setup)?,
        };
        let sockets = switch.sockets();
        let report = cpu::on(self.generator_cpu, || {
            let (memory_before, report) = match case.link {
                Kind::Memif => self.send::<Memif>(&mut switch, &self.memif(case, sockets), stop)?,
                Kind::VhostUser => {
                    self.send::<VhostUser>(&mut switch, &self.vhost_user(case, sockets.map(Some)), stop)?
                }
            };
            if who == Who::Dray && fdb.is_none() {
                let status = self.status(&switch)?;
                *fdb = Some(FdbFigures {
                    macs: 2 * u64::from(case.flows),
                    learned: status.fdb_used,
                    size: status.fdb_size,
                    memory_small: self.memory_of_small(case)?,
                    memory_before,
                    memory_after: switch.private_memory(),
                });
            }
            Ok(report)
        });
        if stop.load(Ordering::Relaxed) {
            return Err("interrupted".into());
        }
        switch.alive()?;
        report.map_err(|e| format!("{e}\nits last words:\n{}", switch.log()))
    }

    /// Connects a generator to `switch` and lets it send: the switch's private memory when the links were up, and what came.
    fn send<L: Link>(
        &self,
        switch: &mut Switch,
        options: &Options<L::End>,
        stop: &AtomicBool,
    ) -> Result<(u64, Report), String> {
        let mut generator = Generator::<L>::connect(options)?;
        switch.start()?;
        let memory_before = switch.private_memory();
        generator.learn(stop)?;
        Ok((memory_before, generator.run(self.duration, stop, |_| {})?))
    }

    /// Private memory of a drayd with a small FDB whose links are up.
    fn memory_of_small(&self, case: Case) -> Result<u64, String> {
        let switch = self.dray().start(&self.setup(Kind::Memif, 1024, Memory::Ordinary))?;
        let _links = Generator::<Memif>::connect(&self.memif(Case { flows: 1, ..case }, switch.sockets()))?;
        Ok(switch.private_memory())
    }

    /// What `dray status` says of this drayd.
    fn status(&self, switch: &Switch) -> Result<rpc::Status, String> {
        let output = Command::new(&self.dray)
            .arg("--socket")
            .arg(switch.control())
            .args(["--json", "status"])
            .output()
            .map_err(|e| format!("start {}: {e}", self.dray.display()))?;
        if !output.status.success() {
            return Err(format!("dray status: {}", String::from_utf8_lossy(&output.stderr).trim()));
        }
        serde_json::from_slice(&output.stdout).map_err(|e| format!("what dray status says: {e}"))
    }

    /// What the generator reaches against the least that a switch could do, on the switch's CPU.
    ///
    /// # Errors
    /// If there are no links, or `stop` became true.
    pub fn ceiling(&self, case: Case, stop: &AtomicBool) -> Result<Report, String> {
        if case.link == Kind::VhostUser {
            return self.against_null(Generator::<VhostUser>::connect(&self.vhost_user(case, [None, None]))?, stop);
        }
        let dir = TempDir::new()?;
        let socket = SocketName::Path(dir.path().join("memif.sock"));
        let supervisor = Supervisor::start(|_| {})?;
        for (id, name) in [(0, "a"), (1, "b")] {
            let memif = dray_config::Memif {
                socket: socket.clone(),
                id,
                role: Role::Server,
                secret: None,
                ring_size: self.ring_size,
                buffer_size: self.buffer_size,
                queues: 1,
            };
            supervisor.add(PortSpec { name: name.into(), memif, max_frame: 9216 })?;
        }
        self.against_null(Generator::<Memif>::connect(&self.memif(case, [socket.clone(), socket]))?, stop)
    }

    /// Lets a generator send to the least that a switch could do.
    fn against_null<L: Link>(&self, mut generator: Generator<L>, stop: &AtomicBool) -> Result<Report, String> {
        // Nothing but lengths reaches the receiver, so there is nothing to look at; the bytes of samples are read all the
        // same, as they are in a measurement.
        let mut null = generator.null_switch()?;
        let ended = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let ended = &ended;
            let switch = scope.spawn(move || {
                cpu::pin(self.switch_cpu)?;
                while !ended.load(Ordering::Relaxed) {
                    if L::step(&mut null) == 0 {
                        std::hint::spin_loop();
                    }
                }
                Ok(())
            });
            let report = cpu::on(self.generator_cpu, || {
                generator.learn(stop)?;
                generator.run(self.duration, stop, |_| {})
            });
            ended.store(true, Ordering::Relaxed);
            let switch: Result<(), String> = switch.join().unwrap_or_else(|_| Err("the null switch panicked".into()));
            switch?;
            if stop.load(Ordering::Relaxed) { Err("interrupted".into()) } else { report }
        })
    }
}

fn cpu_name() -> String {
    let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let line = info.lines().find_map(|l| l.strip_prefix("model name"));
    line.map(|l| l.trim_start_matches([' ', '\t', ':']).to_owned()).unwrap_or_default()
}

impl Results {
    /// What the switches are, and how they were measured.
    fn setting(&self) -> String {
        format!(
            "Dray {} and testpmd io ({}) on {}, Linux {}: one core for the switch, one for the generator; rings of {} \
             descriptors, buffers of {} bytes; {} s a measurement, {} rounds, one after the other in the order A B B A; testpmd {} \
             huge pages.",
            self.dray,
            self.testpmd,
            self.cpu,
            self.kernel,
            self.ring_size,
            self.buffer_size,
            self.seconds,
            self.cases.first().map_or(0, |c| c.first.rounds.len()),
            if self.huge_pages { "with" } else { "without" }
        )
    }

    /// Sentences below the table.
    fn notes(&self) -> Vec<String> {
        let mut notes = Vec::new();
        let ceiling = |r: &Report| format!("{:.0} Mpps ({}, {})", r.mpps, r.link, flows(r.flows));
        if !self.ceiling.is_empty() {
            let all: Vec<String> = self.ceiling.iter().map(ceiling).collect();
            notes.push(format!("The generator alone, against a switch that touches no frame: {}.", all.join(", ")));
        }
        if let Some(s) = &self.same {
            notes.push(format!(
                "testpmd against itself ({}): {:.3} ({:.3} to {:.3}); this much of a ratio is noise.",
                s.case, s.ratio, s.ratio_min, s.ratio_max
            ));
        }
        if let Some(f) = &self.fdb {
            let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
            notes.push(format!(
                "The FDB knows {} of {} MACs after one frame of each. It takes {:.1} MiB with room for {} ({:.1} bytes each): \
                 drayd's private memory is {:.1} MiB with room for 1,024, {:.1} MiB with that, {:.1} MiB when they are learned.",
                thousands(f.learned),
                thousands(f.macs),
                mib(f.memory_after.saturating_sub(f.memory_small)),
                thousands(f.size),
                f.memory_after.saturating_sub(f.memory_small) as f64 / f.size.max(1) as f64,
                mib(f.memory_small),
                mib(f.memory_before),
                mib(f.memory_after),
            ));
        }
        let at = |flows: u32| self.cases.iter().find(|c| c.case == Case::memif(60, flows));
        if let (Some(few), Some(many)) = (at(1_000), at(1_000_000)) {
            notes.push(format!(
                "With 2,000 MACs Dray takes {:.1} ns a frame, with 2,000,000 {:.1} ns: {:.1} ns more, of which {:.1} ns are \
                 not the lookup's, because testpmd, which looks nothing up, takes them too (the frames no longer fit the cache).",
                few.first.ns,
                many.first.ns,
                many.first.ns - few.first.ns,
                many.second.ns - few.second.ns
            ));
        }
        for c in &self.cases {
            for (name, f) in [("Dray", &c.first), ("testpmd", &c.second)] {
                // Within a flow the order has to be kept; a few frames of one flow may overtake those of another, such as
                // known unicast that overtakes what is flooded.
                if f.wrong != 0 || f.reordered > if c.case.flows == 1 { 0 } else { f.sampled / 1000 } {
                    notes.push(format!(
                        "INVALID ({}): of {} frames looked at, {name} reordered {} and repeated or changed {}.",
                        c.case,
                        thousands(f.sampled),
                        f.reordered,
                        f.wrong
                    ));
                } else if f.reordered != 0 {
                    notes.push(format!(
                        "{}: of {} frames that {name} passed on and that were looked at, {} came after a later one of another flow.",
                        c.case,
                        thousands(f.sampled),
                        f.reordered
                    ));
                }
            }
            let link = match c.case.link {
                Kind::Memif => Memif::NAME,
                Kind::VhostUser => VhostUser::NAME,
            };
            let same = |r: &&Report| (r.link, r.size, r.flows) == (link, c.case.size, c.case.flows);
            let reached = self.ceiling.iter().find(same);
            if let Some(r) = reached
                && c.first.mpps.max(c.second.mpps) > 0.9 * r.mpps
            {
                notes.push(format!("The generator may be the limit in: {}.", c.case));
            }
        }
        notes
    }

    /// A table in Markdown, with what has to be known about it.
    pub fn markdown(&self) -> String {
        let mut out = format!("{}\n\n", self.setting());
        out +=
            "| frames | Dray Mpps | Gbit/s | testpmd io Mpps | Dray / testpmd | spread | Dray lost | testpmd lost |\n";
        out += "|---|---:|---:|---:|---:|---|---:|---:|\n";
        for c in &self.cases {
            let _ = writeln!(
                out,
                "| {} | {:.1} | {:.1} | {:.1} | **{:.2}** | {:.2} to {:.2} | {} | {} |",
                c.case,
                c.first.mpps,
                c.first.gbps,
                c.second.mpps,
                c.ratio,
                c.ratio_min,
                c.ratio_max,
                percent(&c.first),
                percent(&c.second)
            );
        }
        for note in self.notes() {
            let _ = write!(out, "\n- {note}");
        }
        out + "\n"
    }

    /// A table for the terminal, with what has to be known about it.
    pub fn text(&self) -> String {
        let mut out = format!("{}\n\n", self.setting());
        let _ = writeln!(
            out,
            "{:<30}{:>11}{:>9}{:>14}{:>8}   {:<14}{:>10}{:>13}",
            "frames", "Dray Mpps", "Gbit/s", "testpmd Mpps", "ratio", "spread", "Dray lost", "testpmd lost"
        );
        for c in &self.cases {
            let _ = writeln!(
                out,
                "{:<30}{:>11.2}{:>9.1}{:>14.2}{:>8.2}   {:<14}{:>10}{:>13}",
                c.case.to_string(),
                c.first.mpps,
                c.first.gbps,
                c.second.mpps,
                c.ratio,
                format!("{:.2} to {:.2}", c.ratio_min, c.ratio_max),
                percent(&c.first),
                percent(&c.second)
            );
        }
        for note in self.notes() {
            let _ = write!(out, "\n{note}");
        }
        out + "\n"
    }
}

fn percent(f: &Figures) -> String {
    if f.lost == 0 { "0".into() } else { format!("{:.4} %", 100.0 * f.lost as f64 / f.sent.max(1) as f64) }
}

/// How long all measurements will take, about: starting and ending a switch takes two seconds.
pub fn expected(bench: &Bench) -> Duration {
    let one = bench.duration + Duration::from_secs(2);
    one * (2 * bench.rounds * (bench.cases.len() + 1) + bench.cases.len()) as u32
}

/// A line of progress on standard error, with the time since `begin`.
pub fn say(begin: Instant, line: &str) {
    eprintln!("[{:6.1} s] {line}", begin.elapsed().as_secs_f64());
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::generator::Direction;

    fn report(mpps: f64) -> Report {
        let a_to_b = Direction { sent: 100, received: 99, lost: 1, mpps, ..Direction::default() };
        Report { mpps, a_to_b, ..Report::default() }
    }

    #[test]
    fn ratios_are_of_rounds() {
        let case = Case::memif(60, 1_000);
        let (a, b) = ([10.0, 20.0, 33.0].map(report), [10.0, 10.0, 11.0].map(report));
        let c = Comparison::new(case, &a, &b);
        // The median of 1, 2 and 3, not the ratio of the medians.
        assert_eq!((c.ratio, c.ratio_min, c.ratio_max), (2.0, 1.0, 3.0));
        assert_eq!((c.first.mpps, c.second.mpps, c.second.ns), (20.0, 10.0, 100.0));
        assert_eq!((c.first.sent, c.first.lost, c.first.wrong), (300, 3, 0));
        assert_eq!(c.first.gbps, 9.6);
    }

    #[test]
    fn the_least_switch_loses_nothing() {
        let cpus = dray_config::allowed_cpus();
        let bench = Bench {
            drayd: PathBuf::new(),
            dray: PathBuf::new(),
            testpmd: PathBuf::new(),
            generator_cpu: cpus[0],
            switch_cpu: cpus[cpus.len() - 1],
            rounds: 1,
            duration: Duration::from_millis(200),
            ring_size: 256,
            buffer_size: 2048,
            huge_pages: false,
            cases: Vec::new(),
        };
        for case in [Case::memif(100, 300), Case::vhost_user(100, 300)] {
            let report = bench.ceiling(case, &AtomicBool::new(false)).unwrap();
            let d = report.a_to_b;
            assert!(d.sent > 0 && d.received == d.sent && d.lost == 0, "{report:?}");
            // It does not move any bytes, so what is looked at is nobody's.
            assert_eq!((d.sampled, d.foreign), (d.received / 64, d.received / 64));
            assert!(report.b_to_a.is_none());
        }
    }

    #[test]
    fn medians() {
        assert_eq!(median(&[]), 0.0);
        assert_eq!(median(&[3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), 2.5);
    }

    #[test]
    fn names() {
        assert_eq!(Case::memif(60, 1).to_string(), "60 B, 1 flow");
        assert_eq!("vhost:60x1000".parse::<Case>().unwrap().to_string(), "vhost-user 60 B, 1,000 flows");
        assert_eq!("1514x1000000".parse::<Case>().unwrap().to_string(), "1514 B, 1,000,000 flows");
        assert!("59x1".parse::<Case>().is_err());
        assert!("60".parse::<Case>().is_err());
    }
}
