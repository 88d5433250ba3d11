//! The comparison with other switches, side by side: every figure of Dray's stands beside theirs from the same seconds.
//!
//! A round measures each switch. All of them are started anew, connected and sent every frame once; then they are stopped
//! where they are, and one after the other runs while it is measured, and nothing else. They take turns, each second time
//! in the other order: what slows a machine down for a while, such as its neighbours on the same host, hits all alike, and
//! a ratio is less uncertain than a rate. Between turns it is looked how fast the two CPUs talk to each other; if that changes in
//! a round, all are measured again, and the rounds of a case that count are those of the latency regime in which most were.

mod args;
mod case;
mod latency;
mod page;
mod results;

pub use args::{BenchArgs, run};
pub use case::{CASES, Case, Way};
pub use results::{FdbFigures, Figures, Measured, Results, Same};

use crate::cpu;
use crate::generator::{self, Generator, Link, Options, Report};
use crate::memif::{self, Memif};
use crate::peer::{Dray, HugePages, Kind, Memory, Overlay, Ovs, Peer, Setup, Switch, TempDir, Testpmd, Vpp};
use crate::regime;
use crate::stats::{self, median};
use crate::vhost::{self, VhostUser};
use crate::vtep::Tunnel;
use crate::workers::{self, Work};
use dray_config::{Access, Role, SocketName};
use dray_vhost::memif::{PortSpec, Supervisor};
use results::{Contestant, Machine, Method, Started};
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// Huge pages of 2 MiB that the switches of a round need together.
const PAGES: u64 = 640;
/// The tunnel of cases with VXLAN.
const OVERLAY: Overlay = Overlay { vni: 42, local: Ipv4Addr::new(10, 9, 0, 1), remote: Ipv4Addr::new(10, 9, 0, 2) };
/// Turns that each switch has in a round.
const TURNS: u32 = 4;
/// Flows from which on a switch has one turn. What it does once a second for each of them, such as to note their ages, it does after
/// each pause: with many flows and short turns it would do little else.
const MANY_FLOWS: u32 = 100_000;
/// How often the switches of a round are measured at most, until the machine does not change meanwhile.
const PASSES: usize = 4;
/// How often a peer that does not come up is started once more.
const RESTARTS: usize = 2;

/// What is measured, and how.
#[derive(Clone, Debug)]
pub struct Bench {
    /// The daemon.
    pub dray: Dray,
    /// Another one to be measured beside it.
    pub before: Option<Dray>,
    /// The command.
    pub command: PathBuf,
    /// The yardstick.
    pub testpmd: Testpmd,
    /// Whether OVS-DPDK and VPP are measured too.
    pub peers: bool,
    /// The generator's CPU.
    pub generator_cpu: usize,
    /// The switch's CPU.
    pub switch_cpu: usize,
    /// Rounds of each case; each measures all switches once.
    pub rounds: usize,
    /// Rounds in which testpmd and Dray are measured against themselves.
    pub same_rounds: usize,
    /// For how long a switch is measured in a round.
    pub duration: Duration,
    /// Descriptors a ring.
    pub ring_size: u32,
    /// Bytes a buffer.
    pub buffer_size: u32,
    /// Whether DPDK gets huge pages if there are any.
    pub huge_pages: bool,
    /// Cases.
    pub cases: Vec<Case>,
}

/// Frames for a switch, from links of either kind.
trait Source {
    fn learn(&mut self, stop: &AtomicBool) -> Result<(), String>;
    fn run(&mut self, rate: u64, duration: Duration, stop: &AtomicBool) -> Result<Report, String>;
}

impl<L: Link> Source for Generator<L> {
    fn learn(&mut self, stop: &AtomicBool) -> Result<(), String> {
        Generator::learn(self, stop)
    }

    fn run(&mut self, rate: u64, duration: Duration, stop: &AtomicBool) -> Result<Report, String> {
        self.set_rate(rate);
        Generator::run(self, duration, stop, |_| {})
    }
}

/// A switch that has seen every frame once, and is paused.
struct Seat {
    // Before the switch, which it would miss.
    source: Box<dyn Source>,
    switch: Switch,
    /// Its private memory when its links had come up, and now.
    memory: [u64; 2],
    /// Dray: what its workers had done when it had been taught.
    done: Option<Vec<dray_api::WorkerInfo>>,
    /// Dray: what its worker has done since.
    work: Option<Work>,
}

/// A run that goes on.
struct Run<'a> {
    bench: &'a Bench,
    memory: Memory,
    stop: &'a AtomicBool,
    say: &'a mut dyn FnMut(&str),
    started: Vec<Started>,
}

/// What a round gave.
struct Round {
    /// One of each switch.
    reports: Vec<Report>,
    /// Before, between and after turns.
    probes: Vec<f64>,
    /// How often it was measured until the machine did not change meanwhile.
    passes: usize,
    /// What Dray's worker did, if that was looked at.
    stages: Option<Work>,
}

impl Bench {
    /// Measures everything. `say` gets a line for every step.
    ///
    /// # Errors
    /// What went wrong, or that `stop` became true. Everything that was started has ended.
    pub fn run(&self, stop: &AtomicBool, say: &mut dyn FnMut(&str)) -> Result<Results, String> {
        let pages = if self.huge_pages { HugePages::get(PAGES) } else { HugePages::none() };
        let (ovs, vpp) = (Ovs::default(), Vpp::default());
        let mut peers: Vec<&dyn Peer> = vec![&self.dray, &self.testpmd];
        peers.extend(self.before.as_ref().map(|dray| dray as &dyn Peer));
        let mut switches = Vec::new();
        for peer in &peers {
            switches.push(contestant(*peer, peer.version()?));
        }
        let mut missing = Vec::new();
        if self.peers {
            for peer in [&ovs as &dyn Peer, &vpp] {
                match peer.version() {
                    Ok(version) => {
                        switches.push(contestant(peer, version));
                        peers.push(peer);
                    }
                    Err(e) => {
                        say(&format!("without {}: {e}", peer.name()));
                        missing.push((peer.name(), e));
                    }
                }
            }
        }
        let mut results = Results {
            void: None,
            machine: self.machine(pages.memory),
            method: Method {
                ring_size: self.ring_size,
                buffer_size: self.buffer_size,
                seconds: self.duration.as_secs_f64(),
                rounds: self.rounds,
            },
            switches,
            missing,
            same: Vec::new(),
            cases: Vec::new(),
            latency: Vec::new(),
            fdb: None,
            started: Vec::new(),
        };
        let mut run = Run { bench: self, memory: pages.memory, stop, say, started: Vec::new() };
        results.same = run.same()?;
        results.void = void(&results.same);
        if let Some(why) = &results.void {
            (run.say)(&format!("VOID: {why}"));
        }
        for &case in &self.cases {
            results.cases.push(run.case(case, &peers)?);
            results.latency.extend(run.latency(case)?);
        }
        results.started = run.started;
        let plain = self.cases.iter().filter(|c| c.link == Kind::Memif && c.way == Way::Plain);
        if let Some(&case) = plain.max_by_key(|c| c.flows) {
            say(&format!("{case}: drayd's memory"));
            results.fdb = Some(self.fdb(case, stop)?);
        }
        Ok(results)
    }

    /// What a switch is asked for: testpmd has no VXLAN, and moves plain frames where others wrap or unwrap them.
    fn asked(&self, case: Case, peer: &dyn Peer) -> Case {
        if peer.name() == self.testpmd.name() { case.plain() } else { case }
    }

    fn setup(&self, case: Case, memory: Memory) -> Setup {
        Setup {
            cpu: self.switch_cpu,
            other_cpu: self.generator_cpu,
            kind: case.link,
            overlay: (case.way != Way::Plain).then_some(OVERLAY),
            ring_size: self.ring_size,
            macs: case.macs(),
            memory,
        }
    }

    /// Starts a switch, connects a generator to it, sends every frame once, and pauses it.
    fn seat(
        &self,
        case: Case,
        peer: &dyn Peer,
        memory: Memory,
        latency: bool,
        stop: &AtomicBool,
    ) -> Result<Seat, String> {
        let case = self.asked(case, peer);
        let mut switch = peer.start(&self.setup(case, memory))?;
        let (sockets, queues) = (switch.sockets(), switch.queues());
        let connected = cpu::on(self.generator_cpu, || {
            let mut source: Box<dyn Source> = match case.link {
                Kind::Memif => {
                    let mut options = self.memif(case, sockets);
                    (options.queues, options.senders, options.latency) = (queues, 1, latency);
                    Box::new(Generator::<Memif>::connect(&options)?)
                }
                Kind::VhostUser => {
                    let mut options = self.vhost_user(case, sockets.map(Some));
                    options.latency = latency;
                    Box::new(Generator::<VhostUser>::connect(&options)?)
                }
            };
            switch.start()?;
            let before = switch.private_memory();
            source.learn(stop)?;
            Ok((source, before))
        });
        // Only Dray has a control socket.
        let is_dray = peer.name() == self.dray.name();
        let done = is_dray.then(|| workers::totals(&switch.control()));
        let paused = switch.pause();
        if stop.load(Ordering::Relaxed) {
            return Err("interrupted".into());
        }
        paused?;
        let failed = |e| format!("{case}, {}: {e}\nits last words:\n{}", peer.name(), switch.log());
        let (source, before) = connected.map_err(failed)?;
        let done = done.transpose().map_err(failed)?;
        let memory = [before, switch.private_memory()];
        Ok(Seat { source, switch, memory, done, work: None })
    }

    /// Lets a switch run, and measures it, with so many frames a second; 0: as many as it takes.
    fn measure(&self, seat: &mut Seat, rate: u64, time: Duration, stop: &AtomicBool) -> Result<Report, String> {
        seat.switch.resume();
        let report = cpu::on(self.generator_cpu, || seat.source.run(rate, time, stop));
        if stop.load(Ordering::Relaxed) {
            return Err("interrupted".into());
        }
        // Its counters are asked for when all is measured, so that nothing is asked of it meanwhile.
        let now = seat.done.is_some().then(|| workers::totals(&seat.switch.control()));
        seat.switch.pause()?;
        let failed = |e| format!("{e}\nits last words:\n{}", seat.switch.log());
        let report = report.map_err(failed)?;
        if let (Some(before), Some(now)) = (&seat.done, now.transpose().map_err(failed)?) {
            seat.work = workers::since(before, &now).into_iter().next();
        }
        Ok(report)
    }

    fn options<E>(&self, case: Case, ends: [E; 2]) -> Options<E> {
        let [a, b] = ends;
        let mut options = Options::new(a, b);
        options.ring_size = self.ring_size;
        options.buffer_size = self.buffer_size;
        (options.flows, options.read) = (case.flows, case.read);
        if case.way != Way::Plain {
            let Overlay { vni, local, remote } = OVERLAY;
            options.tunnel = Some(Tunnel { vni, local: remote, switch: local });
        }
        if case.way == Way::Decapsulate {
            options.way = generator::Way::BToA;
        }
        options.size(case.size)
    }

    fn memif(&self, case: Case, [a, b]: [SocketName; 2]) -> Options<memif::End> {
        self.options(case, [memif::End::new(a, 0), memif::End::new(b, 1)])
    }

    fn vhost_user(&self, case: Case, sockets: [Option<SocketName>; 2]) -> Options<vhost::End> {
        self.options(case, sockets.map(|socket| vhost::End { socket, role: Role::Client, packed: case.packed }))
    }

    /// What the FDB takes.
    fn fdb(&self, case: Case, stop: &AtomicBool) -> Result<FdbFigures, String> {
        let mut seat = self.seat(case, &self.dray, Memory::Ordinary, false, stop)?;
        seat.switch.resume();
        let status = self.status(&seat.switch)?;
        let [memory_before, memory_after] = seat.memory;
        drop(seat);
        let few = Case { flows: 1, ..case };
        let switch = self.dray.start(&Setup { macs: 1024, ..self.setup(few, Memory::Ordinary) })?;
        let _links = Generator::<Memif>::connect(&self.memif(few, switch.sockets()))?;
        Ok(FdbFigures {
            macs: 2 * u64::from(case.flows),
            learned: status.fdb_used,
            size: status.fdb_size,
            memory_small: switch.private_memory(),
            memory_before,
            memory_after,
        })
    }

    /// What `dray status` says of this drayd.
    fn status(&self, switch: &Switch) -> Result<dray_api::Status, String> {
        let output = Command::new(&self.command)
            .arg("--socket")
            .arg(switch.control())
            .args(["--json", "status"])
            .output()
            .map_err(|e| format!("start {}: {e}", self.command.display()))?;
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
                access: Access::default(),
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

    fn machine(&self, memory: Memory) -> Machine {
        let read = |file: &str| std::fs::read_to_string(file).unwrap_or_default();
        let date = Command::new("date").args(["-u", "+%F %R UTC"]).output().map(|o| o.stdout).unwrap_or_default();
        Machine {
            date: String::from_utf8_lossy(&date).trim().to_owned(),
            cpu: cpu::model(),
            cpus: dray_config::allowed_cpus().len(),
            used: [self.generator_cpu, self.switch_cpu],
            kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
            huge_pages: memory == Memory::Huge,
            load: read("/proc/loadavg").split_whitespace().take(3).collect::<Vec<_>>().join(" "),
        }
    }
}

impl Run<'_> {
    /// testpmd and Dray, each against itself.
    fn same(&mut self) -> Result<Vec<Same>, String> {
        let (case, bench) = (Case::memif(60, 1_000), self.bench);
        (self.say)(&format!("{case}: testpmd io and Dray, each against itself"));
        let peers: [&dyn Peer; 4] = [&bench.testpmd, &bench.dray, &bench.testpmd, &bench.dray];
        // What is one and the same switch is equal in any regime.
        let (rounds, _) = self.rounds(case, &peers, bench.same_rounds, false)?;
        let rate = |which: usize| -> Vec<f64> { rounds.iter().map(|r| r.reports[which].mpps).collect() };
        Ok([0, 1]
            .map(|which| Same { switch: peers[which].name(), ratio: results::ratios(&rate(which), &rate(which + 2)) })
            .into())
    }

    /// Measures all switches that can do it.
    fn case(&mut self, case: Case, peers: &[&dyn Peer]) -> Result<Measured, String> {
        let bench = self.bench;
        let ceiling = bench.ceiling(case.plain(), self.stop)?.mpps;
        (self.say)(&format!("{case} (the generator alone: {ceiling:.0} Mpps)"));
        let mut absent = Vec::new();
        let mut able = Vec::new();
        for &peer in peers {
            match peer.lacks(&bench.setup(bench.asked(case, peer), self.memory)) {
                Some(why) => absent.push((peer.name(), why)),
                None => able.push(peer),
            }
        }
        let (rounds, repeated) = self.rounds(case, &able, bench.rounds, true)?;
        let of = |which: usize| -> Vec<Report> { rounds.iter().map(|r| r.reports[which].clone()).collect() };
        let rate = |name: &str| -> Vec<f64> {
            let which = able.iter().position(|p| p.name() == name);
            which.map_or(Vec::new(), |which| of(which).iter().map(|r| r.mpps).collect())
        };
        let (dray, testpmd) = (rate(bench.dray.name()), rate(bench.testpmd.name()));
        let figures = |(which, peer): (usize, &&dyn Peer)| Figures::new(peer.name(), case, &of(which), &dray, &testpmd);
        Ok(Measured {
            case,
            target: case.target(),
            ceiling,
            figures: able.iter().enumerate().map(figures).collect(),
            absent,
            probes: rounds.iter().map(|r| r.probes.clone()).collect(),
            repeated,
            stages: stats::middle(&dray).and_then(|which| rounds[which].stages.clone()),
        })
    }

    /// That many rounds, and how many more there were.
    fn rounds(
        &mut self,
        case: Case,
        peers: &[&dyn Peer],
        wanted: usize,
        of_one_regime: bool,
    ) -> Result<(Vec<Round>, usize), String> {
        self.collect(case, wanted, of_one_regime, |run, reversed| {
            let round = run.round(case, peers, reversed)?;
            let rates = peers.iter().zip(&round.reports).map(|(p, r)| format!("{} {:.2}", p.name(), r.mpps));
            let rates = rates.collect::<Vec<_>>().join(", ");
            (run.say)(&format!("  {rates} Mpps; {:.0} ns between the CPUs", median(&round.probes)));
            Ok(round)
        })
    }

    /// Rounds, of one regime if that is asked for, and how many rounds and passes there were that don't count. There are fewer than
    /// wanted if the machine changes too often.
    fn collect(
        &mut self,
        case: Case,
        wanted: usize,
        of_one_regime: bool,
        mut round: impl FnMut(&mut Self, bool) -> Result<Round, String>,
    ) -> Result<(Vec<Round>, usize), String> {
        let mut passes = 0;
        let next = |tried: usize| {
            let round = round(self, tried % 2 == 1)?;
            passes += round.passes;
            // On a machine that others keep busy a switch may not get to run at all.
            if round.reports.iter().any(|r| r.mpps == 0.0) {
                (self.say)("  does not count: nothing came through a switch");
            } else if !regime::steady(&round.probes) {
                (self.say)("  does not count: it changed meanwhile, again and again");
            } else {
                return Ok(Some(round));
            }
            Ok(None)
        };
        let rounds = regime::collect(wanted, of_one_regime, next, |round| &round.probes)?;
        if rounds.is_empty() {
            return Err(format!("{case}: the machine changes all the time, or a switch passes nothing on"));
        }
        let more = passes - rounds.len();
        Ok((rounds, more))
    }

    /// Measures the switches of a round until the machine did not change meanwhile, or it has done so too often. The last
    /// pass is the one that counts.
    fn passes(
        &mut self,
        mut pass: impl FnMut(&mut Self) -> Result<(Vec<Report>, Vec<f64>), String>,
    ) -> Result<Round, String> {
        let mut passes = 0;
        loop {
            passes += 1;
            let (reports, probes) = pass(self)?;
            if regime::steady(&probes) || passes == PASSES {
                return Ok(Round { reports, probes, passes, stages: None });
            }
            let (first, last) = (probes.first().unwrap_or(&0.0), probes.last().unwrap_or(&0.0));
            (self.say)(&format!("  once more: from {first:.0} to {last:.0} ns between the CPUs"));
        }
    }

    /// [`Bench::seat`]; a peer that does not come up is started once more. VPP 26.10 sometimes never answers its second memif link.
    fn seat(&mut self, case: Case, peer: &dyn Peer) -> Result<Seat, String> {
        let bench = self.bench;
        let again = if peer.name() == bench.dray.name() { 0 } else { RESTARTS };
        for _ in 0..again {
            match bench.seat(case, peer, self.memory, false, self.stop) {
                Err(e) if !self.stop.load(Ordering::Relaxed) => {
                    (self.say)(&format!("  once more: {}", e.lines().next().unwrap_or_default()));
                }
                result => return result,
            }
        }
        bench.seat(case, peer, self.memory, false, self.stop)
    }

    /// One round, of fresh processes.
    fn round(&mut self, case: Case, peers: &[&dyn Peer], reversed: bool) -> Result<Round, String> {
        let bench = self.bench;
        let mut order: Vec<usize> = (0..peers.len()).collect();
        if reversed {
            order.reverse();
        }
        let mut seats: Vec<(usize, Seat)> = Vec::new();
        for &which in &order {
            seats.push((which, self.seat(case, peers[which])?));
        }
        for (which, seat) in &seats {
            let (path, switch) = (case.path(), peers[*which].name());
            if !self.started.iter().any(|s| (s.path, s.switch) == (path, switch)) {
                self.started.push(how(case, switch, &seat.switch));
            }
        }
        let turns = if case.flows < MANY_FLOWS { TURNS } else { 1 };
        let round = self.passes(|run| {
            let mut reports: Vec<Option<Report>> = vec![None; peers.len()];
            let mut probes = vec![run.probe()?];
            for turn in 0..turns {
                for (which, seat) in &mut seats {
                    let report = bench.measure(seat, 0, bench.duration / turns, run.stop)?;
                    let all = &mut reports[*which];
                    *all = Some(match all.take() {
                        Some(sum) => sum.and(report),
                        None => report,
                    });
                }
                // So that all have all places, and each comes as often before each other as after it: A B C, C B A, B C A, A C B, ...
                seats.reverse();
                if turn % 2 == 1 {
                    seats.rotate_left(1);
                }
                probes.push(run.probe()?);
            }
            Ok((reports.into_iter().flatten().collect(), probes))
        })?;
        let dray = seats.into_iter().find(|(which, _)| peers[*which].name() == bench.dray.name());
        Ok(Round { stages: dray.and_then(|(_, seat)| seat.work), ..round })
    }
}

fn contestant(peer: &dyn Peer, version: String) -> Contestant {
    Contestant { switch: peer.name(), version, about: peer.about() }
}

/// Command lines and files of a switch, with its directory left out.
fn how(case: Case, name: &'static str, switch: &Switch) -> Started {
    let dir = switch.directory().display().to_string();
    let plain = |text: &str| text.replace(&dir, "DIR");
    Started {
        path: case.path(),
        switch: name,
        commands: switch.commands().iter().map(|c| plain(c)).collect(),
        configuration: plain(&switch.configuration()),
    }
}

/// Why a run is void, if it is.
fn void(same: &[Same]) -> Option<String> {
    let differ: Vec<String> =
        same.iter().filter(|s| s.void()).map(|s| format!("{} {}", s.switch, s.ratio.text())).collect();
    (!differ.is_empty()).then(|| {
        format!(
            "measured against itself, this differs by more than {:.0} %: {}. None of the figures may be used.",
            100.0 * results::NOISE,
            differ.join(", ")
        )
    })
}

/// How long all measurements will take, about: a switch takes a second to start and learn.
pub fn expected(bench: &Bench) -> Duration {
    let switches = 2 + usize::from(bench.peers) + usize::from(bench.before.is_some());
    let one = bench.duration + Duration::from_secs(1);
    one * (4 * bench.same_rounds + bench.rounds * switches * bench.cases.len()) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_least_switch_loses_nothing() {
        let cpus = dray_config::allowed_cpus();
        let bench = Bench {
            dray: Dray::new(PathBuf::new()),
            before: None,
            command: PathBuf::new(),
            testpmd: Testpmd::default(),
            peers: false,
            generator_cpu: cpus[0],
            switch_cpu: cpus[cpus.len() - 1],
            rounds: 1,
            same_rounds: 1,
            duration: Duration::from_millis(200),
            ring_size: 256,
            buffer_size: 2048,
            huge_pages: false,
            cases: Vec::new(),
        };
        for case in ["100x300", "vhost:100x300", "packed:100x300", "1514x300+read", "vhost:1514x300+read"] {
            let report = bench.ceiling(case.parse().unwrap(), &AtomicBool::new(false)).unwrap();
            let d = report.a_to_b.unwrap();
            assert!(d.sent > 0 && d.received == d.sent && d.lost == 0, "{report:?}");
            // It does not move any bytes, so what is looked at is nobody's.
            assert_eq!((d.sampled, d.foreign), (d.received / 64, d.received / 64));
            assert!(report.b_to_a.is_none());
        }
    }
}
