//! `dray-perf sockets` from end to end, short: needs root.

use dray_testing::{Turn, drayd_beside, is_root, run};
use serde_json::Value;
use std::process::Command;

#[test]
fn everything_is_measured_and_nothing_is_left_behind() {
    if !is_root() {
        return;
    }
    let drayd = drayd_beside(env!("CARGO_BIN_EXE_dray-perf"));
    let _turn = Turn::alone();
    let folder = tempfile::tempdir().unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_dray-perf"));
    command.args(["sockets", "--quick", "--json", "--peers", "--drayd"]).arg(drayd).env("TMPDIR", folder.path());
    let child = command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped()).spawn().unwrap();
    let id = child.id();
    let output = child.wait_with_output().unwrap();
    let log = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{log}");
    let results: Value = serde_json::from_slice(&output.stdout).unwrap();
    let figures = results["figures"].as_array().unwrap();
    let places = ["two containers", "a container and the kernel's VTEP", "the same, and the host sends segments"];
    for place in places {
        assert!(figures.iter().any(|figures| figures["place"].as_str().unwrap().starts_with(place)), "{place}: {log}");
    }
    for figures in figures {
        let ways = figures["ways"].as_array().unwrap();
        assert_eq!((&ways[0][0], &ways[1][0]), (&"kernel".into(), &"Dray".into()));
        assert!(ways.iter().all(|way| way[1][0].as_f64().unwrap() > 0.0), "{figures}\n{log}");
    }
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0, "files are left");
    let left = format!("dray-perf-{id}-");
    assert!(!run("ip netns list").contains(&left), "namespaces are left");
}
