//! A CPU older than the baseline gets a message, not SIGILL.

use crate::harness::dray;
use std::path::Path;
use std::process::Command;

#[test]
fn an_old_cpu_is_told_so() {
    let Some(_test) = crate::harness::Test::begin() else { return };
    let run = |cpu: &str, program: &Path| {
        let output = Command::new("qemu-x86_64").args(["-cpu", cpu]).arg(program).arg("--version").output();
        let output = output.expect("qemu-x86_64 of the package qemu-user");
        let text = [output.stdout, output.stderr].concat();
        (output.status.code(), String::from_utf8_lossy(&text).to_string())
    };
    for program in [Path::new(env!("CARGO_BIN_EXE_drayd")), &dray()] {
        let (status, text) = run("Nehalem", program);
        assert_eq!(status, Some(2), "{text}");
        assert!(text.contains("x86-64-v3"), "{text}");
        let (status, text) = run("max", program);
        assert_eq!(status, Some(0), "{text}");
        assert!(text.contains(env!("CARGO_PKG_VERSION")), "{text}");
    }
}
