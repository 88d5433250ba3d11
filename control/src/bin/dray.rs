//! dray, the command.

use std::process::ExitCode;

fn main() -> ExitCode {
    dray_control::cpu::require();
    run()
}

/// Apart from `main`, so that nothing of it runs before the CPU is known to be able to.
#[inline(never)]
fn run() -> ExitCode {
    dray_control::client::run()
}
