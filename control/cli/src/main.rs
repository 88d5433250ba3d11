//! dray, the command.

// Looks at the CPU before `main`.
use dray_switch as _;
use std::process::ExitCode;

fn main() -> ExitCode {
    dray_cli::run()
}
