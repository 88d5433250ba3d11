//! `dray-demo`: the switch at work, on one machine.

use clap::{Parser, Subcommand};
use dray_perf::demo::{self, container};
use std::path::PathBuf;
use std::process::ExitCode;

#[derive(Parser)]
#[command(version, about = "Three hosts, an overlay and traffic, on one machine")]
struct Arguments {
    /// Where drayd and dray are [default: where this program is]
    #[arg(long, value_name = "DIRECTORY")]
    bin_dir: Option<PathBuf>,
    #[command(subcommand)]
    role: Option<Role>,
}

#[derive(Subcommand)]
enum Role {
    /// Be a container: a TCP/IP stack on a memif interface, driven by lines of JSON on standard input
    Container(container::Options),
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if let Some(Role::Container(options)) = arguments.role {
        return match container::run(&options) {
            Ok(()) => ExitCode::SUCCESS,
            Err(reason) => {
                eprintln!("{reason}");
                ExitCode::FAILURE
            }
        };
    }
    let here = || std::env::current_exe().ok().and_then(|path| Some(path.parent()?.to_path_buf()));
    let bin = arguments.bin_dir.or_else(here).unwrap_or_default();
    ExitCode::from(demo::main(&bin))
}
