//! dray-perf: packet generator and benchmark.
#![forbid(unsafe_code)]

use clap::{Args, Parser, Subcommand};
use dray_config::{Role, SocketName};
use dray_perf::bench::BenchArgs;
use dray_perf::eth::EthArgs;
use dray_perf::hostile::HostileArgs;
use dray_perf::learning::LearningArgs;
use dray_perf::links;
use dray_perf::memif::Memif;
use dray_perf::scale::ScaleArgs;
use dray_perf::soak::SoakArgs;
use dray_perf::sockets::SocketsArgs;
use dray_perf::throughput::ThroughputArgs;
use dray_perf::traffic::{TrafficArgs, generate, role, socket};
use dray_perf::vhost::VhostUser;
use dray_report::ReportArgs;
use std::path::PathBuf;
use std::process::ExitCode;

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
    /// The same between two NICs, through DPDK
    Eth(EthArgs),
    /// Throughput, latency and frame loss rate by frame size (RFC 2544)
    Rfc2544(ThroughputArgs),
    /// How many addresses a switch can hold, and how fast it learns them (RFC 2889)
    Rfc2889(LearningArgs),
    /// Send for long, and judge: nothing may be lost, come twice, late or damaged
    Soak(SoakArgs),
    /// Compare Dray with other switches, side by side
    Bench(BenchArgs),
    /// Measure what frames, ports, bridges, tunnels and MACs cost as they grow in number
    Scale(ScaleArgs),
    /// Compare what programs with sockets get over TAP devices with what they get over the kernel's bridge and veth devices
    Sockets(SocketsArgs),
    /// Attack a switch as hostile peers do, and measure what that does to others
    Hostile(HostileArgs),
    /// The honest client of `hostile`, for that alone
    #[command(hide = true)]
    HostileGuest { socket: PathBuf },
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

fn memif(args: &MemifArgs) -> Result<(), String> {
    let ends = links::memif(&args.socket, &args.id, args.secret.as_ref(), args.traffic.stream.ring_size)?;
    generate::<Memif>(&args.traffic, ends)
}

fn vhost(args: &VhostArgs) -> Result<(), String> {
    generate::<VhostUser>(&args.traffic, links::vhost(&args.socket, args.role, args.packed)?)
}

fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Memif(args) => memif(&args),
        Command::Vhost(args) => vhost(&args),
        Command::Eth(args) => dray_perf::eth::run(&args),
        Command::Rfc2544(args) => dray_perf::throughput::run(&args),
        Command::Rfc2889(args) => dray_perf::learning::run(&args),
        Command::Soak(args) => dray_perf::soak::run(&args),
        Command::Bench(args) => dray_perf::bench::run(&args),
        Command::Scale(args) => dray_perf::scale::run(&args),
        Command::Sockets(args) => dray_perf::sockets::run(&args),
        Command::Hostile(args) => dray_perf::hostile::run(&args),
        Command::HostileGuest { socket } => {
            dray_perf::hostile::guest(&socket);
            Ok(())
        }
        Command::Report(args) => dray_report::run(&args),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("dray-perf: {e}");
            ExitCode::FAILURE
        }
    }
}
