//! dray, the command.

use std::process::ExitCode;

fn main() -> ExitCode {
    dray_cli::run()
}
