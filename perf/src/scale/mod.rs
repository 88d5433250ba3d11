//! What a frame costs as ports, bridges, VNIs, tunnels, MACs and receivers grow, what each takes of memory, and how fast the
//! FDB is filled over the control socket.
//!
//! All sizes of an axis are started first, connected and taught, and stopped where they are; then each runs for some hundredths of a
//! second in turn, a few times a round, so that the figures of a round are from the same second or two. What counts is the median of
//! the rounds' ratios to the first size, of those rounds that were of the latency regime in which most were.

mod attach;
mod case;
mod changes;
mod memory;
mod wire;

pub use attach::Attached;
pub use case::Axis;
pub use changes::{Changes, Cost};
pub use memory::{Batch, Memory, Start};

use crate::cpu;
use crate::netns::Netns;
use crate::peer::{Dray, Switch};
use crate::regime;
use crate::stats::{Estimate, median};
use crate::traffic::{seconds, stop_flag};
use case::Case;
use clap::{Args, ValueEnum};
use dray_api::{FdbBatch, FdbLoaded, StatusShow, Terms, VtepShow};
use dray_client::Client;
use dray_report::{Column, Document, Lines, Point as Dot, Table, Tone};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde::{Deserialize, Serialize};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use wire::{Counts, Links};

/// Turns that each size has in a round.
const TURNS: u32 = 4;

/// How `dray-perf scale` is told what to measure.
#[derive(Args, Clone, Debug)]
pub struct ScaleArgs {
    /// The daemon [default: drayd beside this program]
    #[arg(long, value_name = "FILE")]
    drayd: Option<PathBuf>,
    /// The generator's CPU
    #[arg(long, default_value_t = 0)]
    cpu: usize,
    /// The switch's CPU
    #[arg(long, default_value_t = 1)]
    switch_cpu: usize,
    /// Rounds that count; each measures every size of an axis
    #[arg(long, default_value_t = 9, value_parser = clap::value_parser!(u16).range(1..=1000))]
    rounds: u16,
    /// Seconds of each size in a round
    #[arg(long, default_value_t = 0.3, value_parser = seconds)]
    duration: f64,
    /// What is to grow; may be given several times [default: everything]
    #[arg(long = "axis", value_name = "AXIS")]
    axes: Vec<Axis>,
    /// Flows, where it is not MACs that grow; sizes beyond it are left out
    #[arg(long, default_value_t = 4096, value_parser = clap::value_parser!(u32).range(64..=1_000_000))]
    flows: u32,
    /// Measure memory, the start and the filling of the FDB, and of the axes only those that are named
    #[arg(long)]
    memory: bool,
    /// Measure what changes cost at the control socket, and else only what is named
    #[arg(long)]
    changes: bool,
    /// Measure how containers come and go, which takes root and makes network namespaces, and else only what is named
    #[arg(long)]
    attach: bool,
    /// Small sizes, two short rounds: whether it works, not how fast it is
    #[arg(long)]
    quick: bool,
    /// Print one JSON object instead of text
    #[arg(long)]
    json: bool,
}

/// One size on an axis.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Size {
    /// How many.
    pub n: u32,
    /// Nanoseconds a frame received from the switch, the median of the rounds.
    pub ns: f64,
    /// Million frames a second at that; of copies, where the switch makes them.
    pub mpps: f64,
    /// Of the rounds' ratios of nanoseconds to those of the first size.
    pub ratio: Estimate,
    /// Bytes of frames, FDB entries, tables, rings and buffers that all frames together touch.
    pub working_set: u64,
    /// Cache lines of those that one frame touches.
    pub lines: u32,
    /// Frames sent in all rounds, times the receivers of each.
    pub sent: u64,
    /// Frames that never came.
    pub lost: u64,
    /// Nanoseconds, round by round.
    pub rounds: Vec<f64>,
}

/// What growing costs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Growth {
    /// What grows.
    pub axis: Axis,
    /// Nanoseconds from one CPU to the other and back, the median of the rounds.
    pub probe: f64,
    /// Rounds that don't count, for the latency regime changed or was another one.
    pub repeated: usize,
    /// The sizes, the first as the others' measure.
    pub sizes: Vec<Size>,
}

/// All that a run gave.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Results {
    /// Version of Dray.
    pub dray: String,
    /// Bytes of the second-level cache of the switch's CPU; 0: unknown.
    pub l2: u64,
    /// The axes.
    pub growth: Vec<Growth>,
    /// Memory of each thing.
    pub memory: Vec<Memory>,
    /// Starts.
    pub starts: Vec<Start>,
    /// Static FDB entries over the control socket.
    pub batches: Vec<Batch>,
    /// Changes at the control socket.
    #[serde(default)]
    pub changes: Vec<Changes>,
    /// Containers that come and go.
    #[serde(default)]
    pub attached: Vec<Attached>,
}

/// A switch of one size, stopped but when it is measured.
struct Subject {
    case: Case,
    switch: Switch,
    links: Links,
    /// Where TAP devices are. It goes after the switch.
    _netns: Option<Netns>,
}

/// How long drayd may take to be there.
const START: Duration = Duration::from_secs(20);

/// Adds or deletes static entries.
///
/// # Errors
/// If one was refused.
fn load(control: &mut Client, batch: FdbBatch, delete: bool) -> Result<(), String> {
    let mut loaded = FdbLoaded::default();
    control.load(&Terms::default(), batch, delete, &mut loaded)?;
    match loaded.refused.first() {
        Some(refused) => Err(format!("drayd refuses an FDB entry: {}", refused.reason)),
        None => Ok(()),
    }
}

impl Subject {
    fn start(dray: &Dray, on: usize, case: Case) -> Result<Subject, String> {
        let netns = if case.taps() == 0 { None } else { Some(quiet()?) };
        let path = netns.as_ref().map(Netns::path).unwrap_or_default();
        let mut switch = dray.start_with(on, |dir| case.configuration(dir, on, &path))?;
        let [socket, _] = switch.sockets();
        let with_log = |switch: &Switch, e: String| format!("{e}\ndrayd's last words:\n{}", switch.log());
        let mut links = Links::connect(case, &socket).map_err(|e| with_log(&switch, e))?;
        let mut control = Client::wait(&switch.control(), START)?;
        let ready = |control: &mut Client, links: &mut Links| -> Result<(), String> {
            wait("the links", || Ok(control.call(&StatusShow {})?.ports_up == (case.ports() + case.taps()) as usize))?;
            load(control, FdbBatch { entries: case.statics(), refused: vec![] }, false)?;
            if case.has_overlay() {
                links.answer_arp()?;
                wait("the tunnels", || {
                    let vteps = control.call(&VtepShow {})?;
                    Ok(vteps.iter().all(|vtep| vtep.state == "resolved"))
                })?;
            }
            links.teach();
            let known = control.call(&StatusShow {})?.fdb_used;
            let macs = if case.axis == Axis::Flood { 1 } else { 2 * u64::from(case.flows()) };
            if known == macs { Ok(()) } else { Err(format!("drayd has learned {known} of {macs} MACs")) }
        };
        ready(&mut control, &mut links).map_err(|e| with_log(&switch, format!("{:?} {}: {e}", case.axis, case.n)))?;
        switch.pause()?;
        Ok(Subject { case, switch, links, _netns: netns })
    }

    /// Ports that are received at.
    fn receivers(&self) -> usize {
        if self.case.axis == Axis::Flood { self.case.ports() as usize } else { 2 }
    }

    fn measure(&mut self, duration: Duration) -> Result<Counts, String> {
        self.switch.resume();
        let receivers = self.receivers();
        self.links.run(duration / 8, receivers);
        let counts = self.links.run(duration, receivers);
        self.switch.pause()?;
        if counts.received == 0 {
            return Err(format!("{:?} {}: nothing comes out of the switch", self.case.axis, self.case.n));
        }
        Ok(counts)
    }
}

/// A network namespace in which devices say nothing by themselves.
fn quiet() -> Result<Netns, String> {
    let netns = Netns::new("quiet")?;
    let _ = netns.command("sysctl").args(["-qw", "net.ipv6.conf.default.disable_ipv6=1"]).status();
    Ok(netns)
}

/// Waits until `ready` says so.
fn wait(what: &str, mut ready: impl FnMut() -> Result<bool, String>) -> Result<(), String> {
    let end = Instant::now() + Duration::from_secs(20);
    while !ready()? {
        if Instant::now() > end {
            return Err(format!("waited too long for {what}"));
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}

impl Case {
    /// What all frames together touch, and in how many cache lines one frame, besides its descriptors and buffer: the frame
    /// itself, two FDB buckets, and an entry of each table. The switch's tables aren't in reach here: these are their sizes.
    fn working_set(self) -> (u64, u32) {
        let (flows, n) = (u64::from(self.flows().max(1024)), u64::from(self.n));
        let frame = if self.axis == Axis::Decap { 128 } else { 64 };
        let (tables, lines) = match self.axis {
            Axis::Ports | Axis::Taps | Axis::Macs | Axis::Flood => (0, 3),
            // A u16 for each VLAN.
            Axis::Bridges => (2 * n, 4),
            // That, and the VNI in a bridge's 32 bytes.
            Axis::Vnis => ((2 + 32) * n, 5),
            // The tunnel's headers.
            Axis::Tunnels => (56 * n, 4),
            // Two maps from 32 bits, a quarter full.
            Axis::Decap => (2 * 32 * n, 7),
        };
        // A descriptor in and one out, and the receiver's buffer.
        let rings = 1024 * (16 + (16 + 128) * u64::from(self.copies()));
        (flows * (frame + 2 * 64) + tables + rings, lines)
    }
}

/// Measures an axis.
fn growth(dray: &Dray, args: &ScaleArgs, axis: Axis, stop: &AtomicBool, say: &dyn Fn(&str)) -> Result<Growth, String> {
    let sizes = axis.sizes(args.quick).iter().filter(|&&n| n <= args.flows || !axis.is_by_flow());
    let cases = sizes.map(|&n| Case { axis, n, flows: args.flows });
    let mut subjects = Vec::new();
    for case in cases {
        subjects.push(Subject::start(dray, args.switch_cpu, case)?);
        say(&format!("{}: {} are ready", axis.what(), case.n));
    }
    let mut tried = 0;
    let next = |before: usize| {
        tried = before + 1;
        let round = round(&mut subjects, args, before % 2 == 1, stop)?;
        // Two short rounds say whether it works, in whatever regime.
        Ok((args.quick || regime::steady(&round.probes)).then_some(round))
    };
    let kept = regime::collect(args.rounds.into(), !args.quick, next, |round: &Round| &round.probes)?;
    if kept.is_empty() {
        return Err(format!("{}: the machine changes all the time", axis.what()));
    }
    let probe = median(&kept.iter().map(|round| median(&round.probes)).collect::<Vec<_>>());
    let repeated = tried - kept.len();
    say(&format!(
        "{}: {} rounds ({repeated} more don't count), {probe:.0} ns between the CPUs",
        axis.what(),
        kept.len()
    ));
    let counts: Vec<Vec<Counts>> =
        (0..subjects.len()).map(|i| kept.iter().map(|round| round.counts[i]).collect()).collect();
    let ns = |counts: &[Counts]| -> Vec<f64> { counts.iter().map(|c| 1e9 * c.seconds / c.received as f64).collect() };
    let first = ns(&counts[0]);
    let sizes = subjects.iter().zip(&counts).map(|(subject, counts)| {
        let rounds = ns(counts);
        let ratios: Vec<f64> = rounds.iter().zip(&first).map(|(a, b)| a / b).collect();
        let sent = counts.iter().map(|c| c.sent).sum::<u64>() * u64::from(subject.case.copies());
        let (working_set, lines) = subject.case.working_set();
        Size {
            n: subject.case.n,
            ns: median(&rounds),
            mpps: 1e3 / median(&rounds),
            ratio: Estimate::of(&ratios),
            working_set,
            lines,
            sent,
            lost: sent.saturating_sub(counts.iter().map(|c| c.arrived).sum()),
            rounds,
        }
    });
    Ok(Growth { axis, probe, repeated, sizes: sizes.collect() })
}

/// What a round gave.
struct Round {
    /// Of each size.
    counts: Vec<Counts>,
    /// Nanoseconds between the CPUs, before and after each turn.
    probes: Vec<f64>,
}

/// Measures each size in turn, a few times.
fn round(subjects: &mut [Subject], args: &ScaleArgs, reversed: bool, stop: &AtomicBool) -> Result<Round, String> {
    // What the switch does once a second for each MAC, such as to note its age, it does after each pause. And short rounds in short turns
    // would be over, beside other programs, before the switch gets to run.
    let by_macs = subjects.iter().any(|subject| subject.case.axis == Axis::Macs);
    let turns = if by_macs || args.quick { 1 } else { TURNS };
    let duration = Duration::from_secs_f64(args.duration) / turns;
    let mut order: Vec<usize> = (0..subjects.len()).collect();
    if reversed {
        order.reverse();
    }
    let probe = || regime::probe(args.cpu, args.switch_cpu);
    let mut counts = vec![Counts::default(); subjects.len()];
    let mut probes = vec![probe()?];
    for _ in 0..turns {
        for &i in &order {
            if stop.load(Ordering::Relaxed) {
                return Err("interrupted".into());
            }
            counts[i].add(subjects[i].measure(duration)?);
        }
        order.reverse();
        probes.push(probe()?);
    }
    Ok(Round { counts, probes })
}

/// Bytes of the second-level cache.
fn l2(cpu: usize) -> u64 {
    let file = format!("/sys/devices/system/cpu/cpu{cpu}/cache/index2/size");
    let text = std::fs::read_to_string(file).unwrap_or_default();
    text.trim().strip_suffix('K').and_then(|kib| kib.parse::<u64>().ok()).unwrap_or(0) * 1024
}

impl Results {
    /// Puts everything into a report.
    pub fn document(&self) -> Document {
        let mut document = Document::new("Dray: what growing costs");
        document.fact("Dray", &self.dray);
        document.fact("L2 cache", if self.l2 == 0 { "unknown".into() } else { format!("{} KiB", self.l2 >> 10) });
        for growth in &self.growth {
            self.section(growth, &mut document);
        }
        memory::sections(self, &mut document);
        changes::sections(self, &mut document);
        attach::sections(self, &mut document);
        document
    }

    fn section(&self, growth: &Growth, document: &mut Document) {
        let what = growth.axis.what();
        let section = document.section(format!("Cost of a frame by {what}"));
        section.paragraph(
            "60-byte frames, one worker. A ratio is that of nanoseconds to the first row's in the same round: the median of the \
             rounds, and the interval it lies in. Touched are the frames, FDB entries, table entries, rings and buffers \
             that all flows together use; lines are cache lines for one frame, without descriptors and buffer.",
        );
        section.paragraph(format!(
            "{} rounds of one latency regime, with {:.0} ns from one CPU to the other and back; {} more don't count.",
            growth.sizes.first().map_or(0, |size| size.rounds.len()),
            growth.probe,
            growth.repeated
        ));
        let copies = growth.axis == Axis::Flood;
        let columns = [
            Column::right(growth.axis.what().split([' ', ',']).next().unwrap_or(what)),
            Column::right(if copies { "ns a copy" } else { "ns" }),
            Column::right(if copies { "M copies/s" } else { "Mpps" }),
            Column::right("ratio"),
            Column::left("interval"),
            Column::right("touched KiB"),
            Column::right("lines"),
            Column::right("lost"),
        ];
        let mut table = Table::new(format!("By {what}"), columns);
        for size in &growth.sizes {
            let cells = [
                size.n.to_string(),
                format!("{:.1}", size.ns),
                format!("{:.2}", size.mpps),
                format!("{:.3}", size.ratio.median),
                format!("{:.3} to {:.3}", size.ratio.low, size.ratio.high),
                (size.working_set >> 10).to_string(),
                size.lines.to_string(),
                if size.lost == 0 {
                    "0".into()
                } else {
                    format!("{:.4} %", 100.0 * size.lost as f64 / size.sent as f64)
                },
            ];
            // Beyond the cache it costs what the misses cost.
            let tone = match size.ratio.median {
                _ if self.l2 != 0 && size.working_set > self.l2 => Tone::Plain,
                ratio if ratio <= 1.1 => Tone::Good,
                _ => Tone::Bad,
            };
            table.verdict(tone, cells);
        }
        section.add(table);
        let label = if copies { "time of a copy" } else { "time of a frame" };
        let mut lines =
            Lines::new(format!("By {what}"), dray_report::Axis::log(what, ""), dray_report::Axis::linear(label, "ns"));
        lines.series("Dray", growth.sizes.iter().map(|size| Dot::new(f64::from(size.n), size.ns)));
        section.add(lines);
    }
}

/// Runs `dray-perf scale`.
///
/// # Errors
/// What could not be measured.
pub fn run(args: &ScaleArgs) -> Result<(), String> {
    let own = std::env::current_exe().map_err(|e| e.to_string())?;
    let drayd = args.drayd.clone().unwrap_or_else(|| own.with_file_name("drayd"));
    if !drayd.exists() {
        return Err(format!("{} is not there: build it, or say where it is (--drayd)", drayd.display()));
    }
    if args.cpu == args.switch_cpu {
        return Err("the generator and the switch need a CPU each (--cpu, --switch-cpu)".into());
    }
    if cfg!(debug_assertions) && !args.quick {
        eprintln!("dray-perf: this is a debug build, its figures mean nothing (build with --release)");
    }
    let mut args = args.clone();
    if args.quick {
        (args.rounds, args.duration) = (2, 0.05);
    }
    if args.axes.is_empty() && !args.memory && !args.changes && !args.attach {
        (args.axes, args.memory, args.changes) = (Axis::value_variants().to_vec(), true, true);
        if !rustix::process::geteuid().is_root() {
            eprintln!("dray-perf: without TAP ports, which need root");
            args.axes.retain(|axis| *axis != Axis::Taps);
        }
    }
    // Hundreds of links have some descriptors each.
    let limit = getrlimit(Resource::Nofile);
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit });
    let stop = stop_flag()?;
    let begin = Instant::now();
    let say = |line: &str| eprintln!("[{:6.1} s] {line}", begin.elapsed().as_secs_f64());
    let dray = Dray::new(drayd);
    let mut results = Results { dray: env!("CARGO_PKG_VERSION").into(), l2: l2(args.switch_cpu), ..Results::default() };
    cpu::on(args.cpu, || {
        for &axis in &args.axes {
            results.growth.push(growth(&dray, &args, axis, &stop, &say)?);
        }
        if args.memory {
            say("memory, start and FDB");
            memory::measure(&dray, &args, &mut results, &stop)?;
        }
        if args.changes {
            say("changes");
            changes::measure(&dray, &args, &mut results, &stop)?;
        }
        Ok(())
    })?;
    if args.attach {
        say("containers that come and go");
        attach::measure(&dray, &args, &mut results, &stop)?;
    }
    let document = results.document();
    if args.json {
        #[derive(Serialize)]
        struct WithReport {
            #[serde(flatten)]
            results: Results,
            report: Document,
        }
        let all = WithReport { results, report: document };
        println!("{}", serde_json::to_string_pretty(&all).map_err(|e| e.to_string())?);
    } else {
        print!("{}", document.text()?);
    }
    Ok(())
}
