//! dray, the command.

use std::process::ExitCode;

fn main() -> ExitCode {
    dray_control::client::run()
}
