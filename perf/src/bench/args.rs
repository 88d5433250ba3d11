//! `dray-perf bench`.

use super::{Bench, CASES, Case, expected};
use crate::peer::{Dray, Testpmd};
use crate::traffic::{seconds, stop_flag};
use clap::Args;
use dray_report::Document;
use serde::Serialize;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// What to measure, and what to do with it.
#[derive(Args, Clone, Debug)]
pub struct BenchArgs {
    /// The daemon [default: drayd beside this program]
    #[arg(long, value_name = "FILE")]
    drayd: Option<PathBuf>,
    /// Another daemon, of an earlier build, say, to be measured beside it
    #[arg(long, value_name = "FILE")]
    before: Option<PathBuf>,
    /// The command [default: dray beside the daemon]
    #[arg(long, value_name = "FILE")]
    dray: Option<PathBuf>,
    /// The yardstick
    #[arg(long, value_name = "FILE", default_value = "dpdk-testpmd")]
    testpmd: PathBuf,
    /// Measure OVS-DPDK too, and VPP, where they are installed
    #[arg(long)]
    peers: bool,
    /// The generator's CPU
    #[arg(long, default_value_t = 0)]
    cpu: usize,
    /// The switch's CPU
    #[arg(long, default_value_t = 1)]
    switch_cpu: usize,
    /// Rounds; each measures all switches once
    #[arg(long, default_value_t = 6, value_parser = rounds)]
    rounds: usize,
    /// Seconds for which a switch is measured in a round
    #[arg(long, default_value_t = 0.4, value_parser = seconds)]
    duration: f64,
    /// What to send; may be given several times [default: the whole table]
    #[arg(long = "case", value_name = "[KIND:]SIZExFLOWS[+read]")]
    cases: Vec<Case>,
    /// Small cases, two short rounds: whether it works, not how fast it is
    #[arg(long)]
    quick: bool,
    /// Give DPDK ordinary memory even if it could have huge pages
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
    /// Write a page with tables and charts to this file
    #[arg(long, value_name = "FILE.html")]
    report: Option<PathBuf>,
    /// Write the JSON object to this file
    #[arg(long, value_name = "FILE.json")]
    save: Option<PathBuf>,
    /// Exit with 0 also if the run is void
    #[arg(long)]
    allow_void: bool,
}

fn rounds(s: &str) -> Result<usize, String> {
    s.parse().ok().filter(|n| (1..=1000).contains(n)).ok_or_else(|| "1 to 1000 rounds".into())
}

/// What `--json` prints.
#[derive(Serialize)]
struct Saved {
    #[serde(flatten)]
    results: super::Results,
    /// What `dray-perf report` shows.
    report: Document,
}

/// Measures and reports.
///
/// # Errors
/// What went wrong, or that the run is void.
pub fn run(args: &BenchArgs) -> Result<(), String> {
    let beside = |file: &Path, name: &str| file.parent().map(|dir| dir.join(name)).unwrap_or_else(|| name.into());
    let own = std::env::current_exe().map_err(|e| e.to_string())?;
    let drayd = args.drayd.clone().unwrap_or_else(|| beside(&own, "drayd"));
    let command = args.dray.clone().unwrap_or_else(|| beside(&drayd, "dray"));
    let whole = CASES.iter().map(|(case, _)| *case);
    let mut bench = Bench {
        dray: Dray::new(drayd),
        before: args.before.clone().map(|drayd| Dray { drayd, name: "Dray before" }),
        command,
        testpmd: Testpmd { program: args.testpmd.clone() },
        peers: args.peers,
        generator_cpu: args.cpu,
        switch_cpu: args.switch_cpu,
        rounds: args.rounds,
        // More is asked of their median than of others'.
        same_rounds: 4 * args.rounds,
        duration: Duration::from_secs_f64(args.duration),
        ring_size: 1024,
        buffer_size: 2048,
        huge_pages: !args.no_huge,
        cases: if args.cases.is_empty() { whole.collect() } else { args.cases.clone() },
    };
    if args.quick {
        (bench.rounds, bench.same_rounds) = (2, 1);
        bench.duration = Duration::from_millis(100);
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
            println!("{case}: {:.1} Mpps", bench.ceiling(case.plain(), &stop)?.mpps);
        }
        return Ok(());
    }
    if !bench.dray.drayd.exists() {
        return Err(format!("{} is not there: build it, or say where it is (--drayd)", bench.dray.drayd.display()));
    }
    if cfg!(debug_assertions) {
        eprintln!("dray-perf: this is a build with assertions, its figures mean nothing (build with --release)");
    }
    let begin = Instant::now();
    let mut say = |line: &str| eprintln!("[{:6.1} s] {line}", begin.elapsed().as_secs_f64());
    say(&format!("about {} s", expected(&bench).as_secs()));
    let results = bench.run(&stop, &mut say)?;
    let report = results.document(true);
    if let Some(file) = &args.report {
        write(file, &report.html()?)?;
    }
    let (void, markdown, text) = (results.void.clone(), results.markdown(), results.document(false).text()?);
    let json = serde_json::to_string_pretty(&Saved { results, report }).map_err(|e| e.to_string())?;
    if let Some(file) = &args.save {
        write(file, &json)?;
    }
    if args.json {
        println!("{json}");
    } else if args.markdown {
        print!("{markdown}");
    } else {
        print!("{text}");
    }
    for file in args.report.iter().chain(&args.save) {
        say(&format!("written: {}", file.display()));
    }
    match void {
        Some(why) if !args.allow_void => Err(format!("VOID: {why}")),
        _ => Ok(()),
    }
}

fn write(file: &Path, text: &str) -> Result<(), String> {
    std::fs::write(file, text).map_err(|e| format!("{}: {e}", file.display()))
}
