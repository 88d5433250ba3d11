//! `dray-perf hostile`, short and with generous limits: a few attacks of each family. `make hostile` makes all of them, and has the
//! limits that hold on a machine that does nothing else.

use dray_testing::{Turn, drayd_beside};
use serde_json::Value;
use std::path::PathBuf;
use std::process::Command;

/// drayd; `None` if there is but one CPU, which it says.
fn drayd() -> Option<PathBuf> {
    let has_two = std::thread::available_parallelism().is_ok_and(|cpus| cpus.get() > 1);
    if !has_two {
        eprintln!("SKIPPED: there is one CPU only");
    }
    has_two.then(|| drayd_beside(env!("CARGO_BIN_EXE_dray-perf")))
}

#[test]
fn attacks_harm_nobody_else() {
    let Some(drayd) = drayd() else { return };
    let _turn = Turn::alone();
    let folder = tempfile::tempdir().unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_dray-perf"));
    command.args(["hostile", "--quick", "--json", "--drayd"]).arg(drayd).env("TMPDIR", folder.path());
    let attacks = ["memif-linger", "memif-fuse", "memif-reconnect", "memory-huge", "tso-8", "mac-flood", "tags"];
    command.args(attacks.iter().flat_map(|attack| ["--case", attack]));
    let output = command.output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    // Another program may keep the machine so busy that nothing can be said.
    if errors.contains("too busy for this") {
        eprintln!("SKIPPED: {errors}");
        return;
    }
    assert!(output.status.success(), "{errors}");
    let results: Value = serde_json::from_slice(&output.stdout).unwrap();
    let rows = results["attacks"].as_array().unwrap();
    assert_eq!(rows.len(), 1 + attacks.len());
    for row in rows {
        if row["verdict"] == "skipped" {
            eprintln!("SKIPPED: {}: {}", row["attack"], row["why"]);
            continue;
        }
        assert!(row["figures"]["offered"].as_u64().unwrap() > 1000, "{row}");
    }
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0, "files are left");
}

#[test]
fn what_is_wrong_is_said() {
    let run = |args: &[&str]| {
        let output = Command::new(env!("CARGO_BIN_EXE_dray-perf")).arg("hostile").args(args).output().unwrap();
        assert!(!output.status.success());
        String::from_utf8(output.stderr).unwrap()
    };
    let error = run(&["--drayd", "/nonexistent/drayd"]);
    assert!(error.contains("/nonexistent/drayd is not there"), "{error}");
    let error = run(&["--case", "tso"]);
    assert!(error.contains("there is no such attack; there are memif-linger, "), "{error}");
    let error = run(&["--drayd", "/bin/true", "--cpu", "1", "--switch-cpu", "1"]);
    assert!(error.contains("--cpu, --switch-cpu"), "{error}");
}
