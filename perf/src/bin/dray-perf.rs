//! dray-perf: packet generator and benchmark.
#![forbid(unsafe_code)]

use clap::{Args, Parser, Subcommand};
use dray_config::{Role, SocketName};
use dray_perf::bench::BenchArgs;
use dray_perf::eth::EthArgs;
use dray_perf::memif::{self, Memif};
use dray_perf::report::ReportArgs;
use dray_perf::scale::ScaleArgs;
use dray_perf::traffic::{TrafficArgs, generate, role, socket};
use dray_perf::vhost::{self, VhostUser};
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
    /// Compare Dray with other switches, side by side
    Bench(BenchArgs),
    /// Measure what frames, ports, bridges, tunnels and MACs cost as they grow in number
    Scale(ScaleArgs),
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

fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Memif(args) => memif(&args),
        Command::Vhost(args) => vhost(&args),
        Command::Eth(args) => dray_perf::eth::run(&args),
        Command::Bench(args) => dray_perf::bench::run(&args),
        Command::Scale(args) => dray_perf::scale::run(&args),
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
