//! `dray-demo`: the switch at work, on one machine.

use clap::{Parser, Subcommand};
use dray_perf::demo::container;
use std::process::ExitCode;

#[derive(Parser)]
#[command(version, about = "Three hosts, an overlay and traffic, on one machine")]
struct Arguments {
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
    let result = match arguments.role {
        Some(Role::Container(options)) => container::run(&options),
        None => Ok(()),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(reason) => {
            eprintln!("dray-demo: {reason}");
            ExitCode::FAILURE
        }
    }
}
