//! dray-perf: packet generator and benchmark.
#![forbid(unsafe_code)]

use clap::{Args, Parser, Subcommand};
use dray_config::{Role, SocketName};
use dray_perf::bench::{Bench, CASES, Case, expected, say};
use dray_perf::memif::{self, Memif};
use dray_perf::report::ReportArgs;
use dray_perf::traffic::{TrafficArgs, generate, role, seconds, socket, stop_flag};
use dray_perf::vhost::{self, VhostUser};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
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
    /// Show a saved report again, as a page or as text
    Report(ReportArgs),
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
        Command::Report(args) => dray_perf::report::run(&args),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("dray-perf: {e}");
            ExitCode::FAILURE
        }
    }
}
