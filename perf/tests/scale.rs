//! `dray-perf scale` from end to end, with small sizes: needs a drayd, which is in another package.

use dray_testing::{Turn, drayd_beside, is_root};
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
fn every_axis_is_measured_and_nothing_is_left_behind() {
    let Some(drayd) = drayd() else { return };
    let _turn = Turn::alone();
    let mut command = Command::new(env!("CARGO_BIN_EXE_dray-perf"));
    let folder = tempfile::tempdir().unwrap();
    command.args(["scale", "--quick", "--json", "--drayd"]).arg(drayd).env("TMPDIR", folder.path());
    let output = command.output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");
    let results: Value = serde_json::from_slice(&output.stdout).unwrap();
    let growth = results["growth"].as_array().unwrap();
    let names: Vec<&str> = growth.iter().map(|growth| growth["axis"].as_str().unwrap()).collect();
    let mut expected = vec!["ports", "taps", "bridges", "vnis", "tunnels", "decap", "macs", "flood"];
    expected.retain(|axis| *axis != "taps" || is_root());
    assert_eq!(names, expected);
    for growth in growth {
        let sizes = growth["sizes"].as_array().unwrap();
        assert_eq!(sizes.len(), 2, "{growth}");
        assert!((sizes[0]["ratio"]["median"].as_f64().unwrap() - 1.0).abs() < 1e-9, "{growth}");
        for size in sizes {
            let [sent, lost] = ["sent", "lost"].map(|key| size[key].as_u64().unwrap());
            // Beside other tests this may not get to run for longer than rings last: then some find them full.
            assert!(sent > 0 && lost < sent, "{growth}");
            assert!(size["ns"].as_f64().unwrap() > 0.0 && size["rounds"].as_array().unwrap().len() == 2, "{growth}");
        }
    }
    assert_eq!(results["memory"].as_array().unwrap().len(), 10);
    for batch in results["batches"].as_array().unwrap() {
        assert!(batch["seconds"].as_f64().unwrap() < 20.0, "{batch}");
    }
    assert!(results["report"]["sections"].as_array().unwrap().len() >= 10);
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0, "files are left");
}

#[test]
fn what_is_wrong_is_said() {
    let run = |args: &[&str]| {
        let output = Command::new(env!("CARGO_BIN_EXE_dray-perf")).arg("scale").args(args).output().unwrap();
        assert!(!output.status.success());
        String::from_utf8(output.stderr).unwrap()
    };
    let error = run(&["--drayd", "/nonexistent/drayd"]);
    assert!(error.contains("/nonexistent/drayd is not there"), "{error}");
    let error = run(&["--drayd", "/bin/true", "--cpu", "1", "--switch-cpu", "1"]);
    assert!(error.contains("--cpu, --switch-cpu"), "{error}");
}
