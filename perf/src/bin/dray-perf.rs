//! dray-perf: packet generator and benchmark.
#![forbid(unsafe_code)]

use clap::{Args, Parser, Subcommand};
use dray_config::{Role, SocketName};
use dray_perf::bench::{Bench, CASES, Case, expected, say};
use dray_perf::frames::{FLOWS_MAX, SIZE_MAX, SIZE_MIN};
use dray_perf::generator::{Generator, Link, Options, Progress, Report};
use dray_perf::memif::{self, Memif};
use dray_perf::vhost::{self, VhostUser};
use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Packet generator and benchmark
#[derive(Parser)]
#[command(name = "dray-perf", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Send frames into one memif interface of a switch, and count and check what comes out of another
    Memif(MemifArgs),
    /// The same with vhost-user ports of a switch, as a virtual machine
    Vhost(VhostArgs),
    /// Compare drayd with testpmd, side by side
    Bench(BenchArgs),
}

/// What to send.
#[derive(Args)]
struct TrafficArgs {
    /// Bytes of a frame, without FCS
    #[arg(long, default_value_t = 60, value_parser = size)]
    size: usize,
    /// 802.1Q tag of the frames
    #[arg(long, value_name = "ID", value_parser = clap::value_parser!(u16).range(1..=4094))]
    vlan: Option<u16>,
    /// Flows of each direction, each with its own pair of MAC and IP addresses
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=i64::from(FLOWS_MAX)))]
    flows: u32,
    /// Bytes from one prepared frame to the next in memory [default: the size, rounded up to 64]
    #[arg(long, value_name = "BYTES")]
    stride: Option<usize>,
    /// Seconds to send
    #[arg(long, default_value_t = 10.0, value_parser = seconds)]
    duration: f64,
    /// Send from both links
    #[arg(long)]
    bidirectional: bool,
    /// Queue pairs of each link
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=16))]
    queues: u16,
    /// Descriptors in a ring, a power of two; memif: 256 to 16384, vhost-user: 64 to 32768
    #[arg(long, default_value_t = 1024, value_parser = ring_size)]
    ring_size: u32,
    /// Bytes of a receive buffer [default: 2048, or the size if that is more]
    #[arg(long)]
    buffer_size: Option<u32>,
    /// The CPU to run on
    #[arg(long)]
    cpu: Option<usize>,
    /// Frames a second of each direction; 0: as fast as possible
    #[arg(long, value_name = "PPS", default_value_t = 0)]
    rate: u64,
    /// Frames of each direction that may be under way; 0: as many as the rings hold
    #[arg(long, value_name = "FRAMES", default_value_t = 0)]
    window: u64,
    /// Look at one in this many received frames; 0: at none
    #[arg(long, value_name = "N", default_value_t = 64)]
    sample: u64,
    /// Print one JSON object instead of text
    #[arg(long)]
    json: bool,
}

#[derive(Args)]
struct MemifArgs {
    /// The memif socket, a path or "@name"; given twice: the sockets of the first and the second link
    #[arg(long, required = true, value_parser = socket)]
    socket: Vec<SocketName>,
    /// The links' interface ids; given twice [default: 0 and 1]
    #[arg(long)]
    id: Vec<u32>,
    /// The links' secret
    #[arg(long)]
    secret: Option<String>,
    #[command(flatten)]
    traffic: TrafficArgs,
}

#[derive(Args)]
struct VhostArgs {
    /// The sockets of the first and the second link, paths or "@name"; given twice
    #[arg(long, required = true, value_parser = socket)]
    socket: Vec<SocketName>,
    /// Whether to listen on the sockets (server), as virtual machines do for drayd's default, or to connect (client)
    #[arg(long, value_name = "ROLE", default_value = "server", value_parser = role)]
    role: Role,
    /// Packed rings instead of split ones
    #[arg(long)]
    packed: bool,
    #[command(flatten)]
    traffic: TrafficArgs,
}

#[derive(Args)]
struct BenchArgs {
    /// The daemon [default: drayd beside this program]
    #[arg(long, value_name = "FILE")]
    drayd: Option<PathBuf>,
    /// The command [default: dray beside the daemon]
    #[arg(long, value_name = "FILE")]
    dray: Option<PathBuf>,
    /// The peer
    #[arg(long, value_name = "FILE", default_value = "dpdk-testpmd")]
    testpmd: PathBuf,
    /// The generator's CPU
    #[arg(long, default_value_t = 0)]
    cpu: usize,
    /// The switch's CPU
    #[arg(long, default_value_t = 1)]
    switch_cpu: usize,
    /// Rounds; each measures both switches once
    #[arg(long, default_value_t = 5, value_parser = rounds)]
    rounds: usize,
    /// Seconds of one measurement
    #[arg(long, default_value_t = 1.5, value_parser = seconds)]
    duration: f64,
    /// What to send; may be given several times [default: memif from 60x1 to 1514x1000 and vhost-user]
    #[arg(long = "case", value_name = "[vhost:]SIZExFLOWS")]
    cases: Vec<Case>,
    /// Small cases, two short rounds: whether it works, not how fast it is
    #[arg(long)]
    quick: bool,
    /// Give testpmd ordinary memory even if it could have huge pages
    #[arg(long)]
    no_huge: bool,
    /// Only measure what the generator reaches against a switch that touches no frame
    #[arg(long)]
    ceiling: bool,
    /// Print a table in Markdown
    #[arg(long, conflicts_with = "json")]
    markdown: bool,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

fn rounds(s: &str) -> Result<usize, String> {
    s.parse().ok().filter(|n| (1..=1000).contains(n)).ok_or_else(|| "1 to 1000 rounds".into())
}

fn size(s: &str) -> Result<usize, String> {
    let size = s.parse().ok().filter(|size| (SIZE_MIN..=SIZE_MAX).contains(size));
    size.ok_or_else(|| format!("a frame has {SIZE_MIN} to {SIZE_MAX} bytes"))
}

fn seconds(s: &str) -> Result<f64, String> {
    s.parse().ok().filter(|s| (0.001..=1e6).contains(s)).ok_or_else(|| "seconds, more than 0".into())
}

fn ring_size(s: &str) -> Result<u32, String> {
    let size = s.parse().ok().filter(|n: &u32| n.is_power_of_two() && (64..=32768).contains(n));
    size.ok_or_else(|| "a ring has 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384 or 32768 descriptors".into())
}

fn role(s: &str) -> Result<Role, String> {
    match s {
        "server" => Ok(Role::Server),
        "client" => Ok(Role::Client),
        _ => Err("server or client".into()),
    }
}

fn socket(s: &str) -> Result<SocketName, String> {
    // A path may be relative on the command line.
    if s.starts_with('@') || s.starts_with('/') {
        return s.parse();
    }
    std::path::absolute(s).map_err(|e| e.to_string())?.to_string_lossy().parse()
}

impl TrafficArgs {
    /// Options for links to these ends.
    fn options<E>(&self, [a, b]: [E; 2]) -> Result<Options<E>, String> {
        let mut options = Options::new(a, b).size(self.size);
        if let Some(stride) = self.stride {
            if stride < self.size {
                return Err(format!("frames of {} bytes do not fit {stride} bytes apart", self.size));
            }
            options.stride = stride;
        }
        if let Some(buffer_size) = self.buffer_size {
            if (buffer_size as usize) < self.size {
                return Err(format!("a frame of {} bytes does not fit a buffer of {buffer_size}", self.size));
            }
            options.buffer_size = buffer_size;
        }
        options.vlan = self.vlan;
        options.flows = self.flows;
        options.bidirectional = self.bidirectional;
        options.queues = self.queues;
        options.ring_size = self.ring_size;
        (options.rate, options.window, options.sample) = (self.rate, self.window, self.sample);
        Ok(options)
    }
}

/// Becomes true when the user interrupts.
fn stop_flag() -> Result<Arc<AtomicBool>, String> {
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
        // The second time it ends the process at once.
        signal_hook::flag::register_conditional_default(signal, stop.clone()).map_err(|e| e.to_string())?;
        signal_hook::flag::register(signal, stop.clone()).map_err(|e| e.to_string())?;
    }
    Ok(stop)
}

/// The sum of the report, and what each direction lost, for people.
fn print(report: &Report) {
    println!(
        "{:.2} Mpps, {:.2} Gbit/s ({} byte frames without FCS, {} flows, {:.2} s)",
        report.mpps, report.gbps, report.size, report.flows, report.seconds
    );
    for (name, d) in [("A to B", Some(report.a_to_b)), ("B to A", report.b_to_a)] {
        let Some(d) = d else { continue };
        println!(
            "{name}: sent {}, received {}, lost {} ({:.4} %), reordered {}, duplicated {}, sampled {}, foreign {}",
            d.sent,
            d.received,
            d.lost,
            100.0 * d.lost as f64 / d.sent.max(1) as f64,
            d.reordered,
            d.duplicated,
            d.sampled,
            d.foreign
        );
    }
}

fn memif(args: &MemifArgs) -> Result<(), String> {
    let sockets = match &args.socket[..] {
        [both] => [both, both],
        [a, b] => [a, b],
        _ => return Err("--socket is given once or twice".into()),
    };
    let ids = match args.id[..] {
        [] if sockets[0] != sockets[1] => [0, 0],
        [] => [0, 1],
        [a, b] => [a, b],
        _ => return Err("--id is given twice".into()),
    };
    if !(256..=16384).contains(&args.traffic.ring_size) {
        return Err("a memif ring has 256 to 16384 descriptors (--ring-size)".into());
    }
    let end = |i: usize| memif::End { socket: sockets[i].clone(), id: ids[i], secret: args.secret.clone() };
    generate::<Memif>(&args.traffic, [end(0), end(1)])
}

fn vhost(args: &VhostArgs) -> Result<(), String> {
    let [a, b] = &args.socket[..] else { return Err("--socket is given twice".into()) };
    let end = |socket: &SocketName| vhost::End { socket: Some(socket.clone()), role: args.role, packed: args.packed };
    generate::<VhostUser>(&args.traffic, [end(a), end(b)])
}

/// Sends and reports.
fn generate<L: Link>(args: &TrafficArgs, ends: [L::End; 2]) -> Result<(), String> {
    let options = args.options(ends)?;
    if let Some(cpu) = args.cpu {
        dray_perf::cpu::pin(cpu)?;
    }
    let stop = stop_flag()?;
    let mut generator = Generator::<L>::connect(&options)?;
    generator.learn(&stop)?;
    let live = std::io::stderr().is_terminal();
    let show = |p: Progress| {
        if live {
            let under_way = p.sent.saturating_sub(p.received);
            eprint!("\r{:7.1} s  {:8.3} Mpps  {under_way} lost or under way\x1b[K", p.seconds, p.mpps);
            let _ = std::io::stderr().flush();
        }
    };
    let report = generator.run(Duration::from_secs_f64(args.duration), &stop, show);
    if live {
        eprint!("\r\x1b[K");
    }
    let report = report?;
    if args.json {
        println!("{}", serde_json::to_string(&report).map_err(|e| e.to_string())?);
    } else {
        print(&report);
    }
    if stop.load(Ordering::Relaxed) { Err("interrupted".into()) } else { Ok(()) }
}

fn bench(args: &BenchArgs) -> Result<(), String> {
    let beside = |file: &Path, name: &str| file.parent().map(|dir| dir.join(name)).unwrap_or_else(|| name.into());
    let own = std::env::current_exe().map_err(|e| e.to_string())?;
    let drayd = args.drayd.clone().unwrap_or_else(|| beside(&own, "drayd"));
    let dray = args.dray.clone().unwrap_or_else(|| beside(&drayd, "dray"));
    let mut bench = Bench {
        drayd,
        dray,
        testpmd: args.testpmd.clone(),
        generator_cpu: args.cpu,
        switch_cpu: args.switch_cpu,
        rounds: args.rounds,
        duration: Duration::from_secs_f64(args.duration),
        ring_size: 1024,
        buffer_size: 2048,
        huge_pages: !args.no_huge,
        cases: if args.cases.is_empty() { CASES.to_vec() } else { args.cases.clone() },
    };
    if args.quick {
        bench.rounds = 2;
        bench.duration = Duration::from_millis(300);
        if args.cases.is_empty() {
            bench.cases.retain(|c| c.flows <= 1000 && c.size != 512);
        }
    }
    if args.cpu == args.switch_cpu {
        return Err("the generator and the switch need a CPU each (--cpu, --switch-cpu)".into());
    }
    let stop = stop_flag()?;
    if args.ceiling {
        for &case in &bench.cases {
            println!("{case}: {:.1} Mpps", bench.ceiling(case, &stop)?.mpps);
        }
        return Ok(());
    }
    if !bench.drayd.exists() {
        return Err(format!("{} is not there: build it, or say where it is (--drayd)", bench.drayd.display()));
    }
    if cfg!(debug_assertions) {
        eprintln!("dray-perf: this is a debug build, its figures mean nothing (build with --release)");
    }
    let begin = Instant::now();
    say(begin, &format!("about {} s", expected(&bench).as_secs()));
    let results = bench.run(&stop, &mut |line| say(begin, line))?;
    if args.json {
        println!("{}", serde_json::to_string_pretty(&results).map_err(|e| e.to_string())?);
    } else if args.markdown {
        print!("{}", results.markdown());
    } else {
        print!("{}", results.text());
    }
    Ok(())
}

fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Memif(args) => memif(&args),
        Command::Vhost(args) => vhost(&args),
        Command::Bench(args) => bench(&args),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("dray-perf: {e}");
            ExitCode::FAILURE
        }
    }
}
