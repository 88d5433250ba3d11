//! `dray-perf bench` from end to end, small and short: needs root, dpdk-testpmd and, for OVS-DPDK, huge pages.

use dray_testing::{Turn, drayd_beside, has_testpmd, is_root};
use serde_json::Value;
use std::path::PathBuf;
use std::process::Command;

fn drayd() -> PathBuf {
    drayd_beside(env!("CARGO_BIN_EXE_dray-perf"))
}

/// Whether all that is measured is there; if not, it says so.
fn ready() -> bool {
    is_root() && has_testpmd()
}

#[test]
fn all_switches_are_measured() {
    if !ready() {
        return;
    }
    let _turn = Turn::alone();
    let dir = tempfile::tempdir().unwrap();
    let [page, saved] = ["page.html", "saved.json"].map(|name| dir.path().join(name));
    let before = std::fs::read_to_string("/proc/sys/vm/nr_hugepages").unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_dray-perf"))
        // On a machine that tests keep busy nothing equals itself.
        .args(["bench", "--peers", "--quick", "--allow-void", "--case", "60x1", "--case", "encap:60x100"])
        .args(["--case", "vhost:1514x100+read"])
        .arg("--report")
        .arg(&page)
        .arg("--save")
        .arg(&saved)
        .arg("--before")
        .arg(drayd())
        // Whoever looks for what is left looks here.
        .env("TMPDIR", dir.path())
        .output()
        .unwrap();
    let (text, log) = (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap());
    assert!(output.status.success(), "{text}\n{log}");
    let json: Value = serde_json::from_str(&std::fs::read_to_string(&saved).unwrap()).unwrap();
    let cases = json["cases"].as_array().unwrap();
    assert_eq!(cases.len(), 3, "{log}");
    assert_eq!(cases[2]["read"], true);
    for case in cases {
        let figures = case["figures"].as_array().unwrap();
        let absent = case["absent"].as_array().unwrap();
        let names: Vec<&str> = figures.iter().map(|f| f["switch"].as_str().unwrap()).collect();
        // Without huge pages there is no OVS-DPDK, which is said.
        let ovs =
            names.contains(&"OVS-DPDK") || absent.iter().any(|a| a[0] == "OVS-DPDK") || log.contains("without OVS");
        assert!(names.starts_with(&["Dray", "testpmd io", "Dray before"]) && ovs, "{names:?} {absent:?}\n{log}");
        let stages = case["stages"]["stages"].as_array().unwrap_or_else(|| panic!("{case}\n{log}"));
        let names: Vec<&str> = stages.iter().map(|s| s["stage"].as_str().unwrap()).collect();
        let first_and_last = names.starts_with(&["receive", "parse"]) && names.ends_with(&["send", "release"]);
        assert!(first_and_last, "{names:?}\n{log}");
        assert_eq!(names.contains(&"rewrite"), case["way"] == "encapsulate", "{names:?}\n{log}");
        for f in figures {
            assert!(f["mpps"].as_f64().unwrap() > 0.0 && f["wrong"] == 0, "{f}\n{log}");
        }
    }
    assert_eq!(json["same"].as_array().unwrap().len(), 2);
    let page = std::fs::read_to_string(&page).unwrap();
    for part in [
        "Where the time goes",
        "memif 60 B, 1 flow",
        "VXLAN encapsulation 60 B, 100 flows",
        "vhost-user 1514 B, 100 flows, read",
        "--forward-mode=io",
        "DIR/dray.toml",
    ] {
        assert!(page.contains(part) || text.contains(part), "{part}");
    }
    // Nothing is left but what was asked for.
    let mut left: Vec<_> = std::fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
    left.sort();
    assert_eq!(left, ["page.html", "saved.json"]);
    assert_eq!(std::fs::read_to_string("/proc/sys/vm/nr_hugepages").unwrap(), before);
}
