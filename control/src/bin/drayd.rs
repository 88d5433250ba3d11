//! drayd, the daemon.

use std::process::ExitCode;

fn main() -> ExitCode {
    dray_control::daemon::run()
}
