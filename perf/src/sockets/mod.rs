//! What programs with sockets get: two containers over TAP devices and a switch, beside the same two over the kernel's bridge and veth
//! devices, and a container and a host over VXLAN.
//!
//! Everything that is compared is set up first, and its switch stopped where it is; then all take turns, round by round, each second round
//! in the other order, and nothing else runs. The generator and judge is iperf3.

mod hosts;
mod report;
mod traffic;

use crate::peer::HugePages;
use crate::stats::Estimate;
use crate::traffic::stop_flag;
use clap::Args;
use hosts::{Rivals, Way};
use serde::{Deserialize, Serialize};
use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::time::Instant;
use traffic::Run;

/// How `dray-perf sockets` is told what to measure.
#[derive(Args, Clone, Debug)]
pub struct SocketsArgs {
    /// The daemon [default: drayd beside this program]
    #[arg(long, value_name = "FILE")]
    drayd: Option<PathBuf>,
    /// The switch's CPU; programs run wherever the kernel puts them
    #[arg(long, default_value_t = 1)]
    switch_cpu: usize,
    /// Rounds; each measures everything
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..=1000))]
    rounds: u16,
    /// Seconds of each in a round
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..=3600))]
    duration: u16,
    /// TCP's congestion control; may be given several times [default: this host's]
    #[arg(long, value_name = "NAME")]
    congestion: Vec<String>,
    /// Measure OVS-DPDK, too, with its TAP devices and userspace TSO
    #[arg(long)]
    peers: bool,
    /// One short round: whether it works, not how fast it is
    #[arg(long)]
    quick: bool,
    /// Print one JSON object instead of text
    #[arg(long)]
    json: bool,
}

/// What is measured.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Measure {
    /// One TCP stream from the first to the second, with this congestion control; Gbit/s.
    Tcp(String),
    /// One TCP stream from the second to the first.
    TcpBack(String),
    /// Datagrams of 18 bytes that arrive, million a second.
    Udp,
    /// Round trips, microseconds: the median.
    Ping,
}

/// What a measurement gave, round by round.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Figures {
    /// Between what: containers of one host, or a container and another host.
    pub place: String,
    /// What was measured.
    pub measure: Measure,
    /// By what they are connected, and the figure of each round; the first is the kernel.
    pub ways: Vec<(String, Vec<f64>)>,
    /// How much of the switch's CPU softirqs had, of each way, the median in percent.
    pub softirq: Vec<f64>,
}

impl Figures {
    /// The ratios of way `i` to the kernel, of the same rounds.
    fn ratio(&self, i: usize) -> Estimate {
        let ratios: Vec<f64> = self.ways[i].1.iter().zip(&self.ways[0].1).map(|(a, b)| a / b).collect();
        Estimate::of(&ratios)
    }
}

/// All that a run gave.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Results {
    /// Version of Dray.
    pub dray: String,
    /// The CPU's name, and how many this process may use.
    pub cpu: String,
    /// The kernel.
    pub kernel: String,
    /// What could not be measured, and why.
    pub absent: Vec<String>,
    /// The figures.
    pub figures: Vec<Figures>,
}

/// Runs `dray-perf sockets`.
///
/// # Errors
/// What could not be measured.
pub fn run(args: &SocketsArgs) -> Result<(), String> {
    let own = std::env::current_exe().map_err(|e| e.to_string())?;
    let drayd = args.drayd.clone().unwrap_or_else(|| own.with_file_name("drayd"));
    if !drayd.exists() {
        return Err(format!("{} is not there: build it, or say where it is (--drayd)", drayd.display()));
    }
    if cfg!(debug_assertions) && !args.quick {
        eprintln!("dray-perf: this is a debug build, its figures mean nothing (build with --release)");
    }
    let mut args = args.clone();
    if args.quick {
        (args.rounds, args.duration) = (1, 1);
    }
    if args.congestion.is_empty() {
        args.congestion.push(traffic::congestion()?);
    }
    let stop = stop_flag()?;
    let begin = Instant::now();
    let say = |line: &str| eprintln!("[{:6.1} s] {line}", begin.elapsed().as_secs_f64());
    let pages = if args.peers { HugePages::get(512) } else { HugePages::none() };
    let (cpu, kernel) = traffic::machine();
    let mut results =
        Results { dray: env!("CARGO_PKG_VERSION").into(), cpu, kernel, absent: Vec::new(), figures: Vec::new() };
    let tcp = |back: bool| args.congestion.iter().cloned().map(if back { Measure::TcpBack } else { Measure::Tcp });
    let mut ways = vec![Way::Kernel, Way::Dray, Way::DrayRps];
    if args.peers {
        ways.push(Way::Ovs(pages.memory));
    }
    let steered: Vec<Measure> = tcp(false).chain([Measure::Udp, Measure::Ping]).collect();
    let tunnel: Vec<Measure> = tcp(false).chain(tcp(true)).chain([Measure::Ping]).collect();
    let places = [
        ("two containers of one host", hosts::bridge as hosts::Connect, ways, steered),
        ("a container and the kernel's VTEP", hosts::tunnel, vec![Way::Kernel, Way::Dray], tunnel),
        (
            "the same, and the host sends segments as a wire carries them",
            hosts::cut_tunnel,
            vec![Way::Kernel, Way::Dray, Way::DrayWithoutGro],
            tcp(true).collect(),
        ),
    ];
    for (place, connect, ways, measures) in places {
        let (mut rivals, absent) = Rivals::start(connect, &ways, &drayd, args.switch_cpu)?;
        absent.iter().for_each(|why| say(&format!("without {why}")));
        results.absent.extend(absent);
        for measure in measures {
            let mut rounds = vec![(Vec::new(), Vec::new()); rivals.len()];
            for round in 0..args.rounds {
                let order: Vec<usize> = (0..rivals.len()).collect();
                let order = if round % 2 == 0 { order } else { order.into_iter().rev().collect() };
                for i in order {
                    if stop.load(Ordering::Relaxed) {
                        return Err("interrupted".into());
                    }
                    let Run { figure, softirq } = rivals.measure(i, &measure, args.duration, args.switch_cpu)?;
                    rounds[i].0.push(figure);
                    rounds[i].1.push(softirq);
                }
            }
            let softirq = rounds.iter().map(|(_, softirq)| crate::stats::median(softirq)).collect();
            let ways = rivals.names().zip(rounds).map(|(name, (figures, _))| (name.to_owned(), figures)).collect();
            let figures = Figures { place: place.into(), measure, ways, softirq };
            say(&report::line(&figures));
            results.figures.push(figures);
        }
    }
    let document = report::document(&results);
    if args.json {
        println!("{}", serde_json::to_string_pretty(&results).map_err(|e| e.to_string())?);
    } else {
        print!("{}", document.text()?);
    }
    Ok(())
}
