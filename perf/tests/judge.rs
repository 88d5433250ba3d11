//! The judging commands (RFC 2544, RFC 2889, soak) from end to end, against a real drayd.

use dray_testing::{Process, Turn, drayd_beside, start_drayd, wait_for};
use rustix::process::Signal;
use serde_json::Value;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::Duration;
use tempfile::TempDir;

const PERF: &str = env!("CARGO_BIN_EXE_dray-perf");

/// drayd with two ports of each kind, of which the first two are in a bridge, and so are the last two.
struct Drayd {
    process: Process,
    dir: TempDir,
    /// One at a time: each keeps CPUs busy.
    _turn: Turn,
}

/// MACs that it holds.
const MACS: u64 = 1024;

impl Drayd {
    fn start() -> Drayd {
        let turn = Turn::alone();
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| format!("{:?}", dir.path().join(name));
        let mut config = format!("[control]\nsocket = {}\n[fdb]\nsize = {MACS}\n", path("dray.sock"));
        for id in 0..2 {
            config += &format!(
                "[[port]]\nname = \"m{id}\"\nkind = \"memif\"\nsocket = {}\nid = {id}\nmax-macs = {MACS}\n",
                path("memif.sock")
            );
            config += &format!(
                "[[port]]\nname = \"v{id}\"\nkind = \"vhost-user\"\nsocket = {}\n",
                path(&format!("vm{id}.sock"))
            );
        }
        for kind in ["m", "v"] {
            config += &format!("[[bridge]]\nname = \"{kind}\"\nports = [\"{kind}0\", \"{kind}1\"]\n");
        }
        let process = start_drayd(&drayd_beside(PERF), dir.path(), &config, &["dray.sock", "memif.sock"]);
        Drayd { process, dir, _turn: turn }
    }

    fn file(&self, name: &str) -> std::path::PathBuf {
        self.dir.path().join(name)
    }

    /// dray-perf with these arguments, on links to this switch of the kind that comes first.
    fn command(&self, command: &str, kind: &str, args: &str) -> Command {
        let mut perf = Command::new(PERF);
        perf.args([command, "--link", kind]);
        let sockets = if kind == "memif" { &["memif.sock"][..] } else { &["vm0.sock", "vm1.sock"] };
        for socket in sockets {
            perf.arg("--socket").arg(self.file(socket));
        }
        perf.args(args.split_whitespace()).stdout(Stdio::piped()).stderr(Stdio::piped());
        perf
    }

    /// What dray-perf prints, as JSON.
    fn judge(&self, command: &str, kind: &str, args: &str) -> Value {
        json(&self.command(command, kind, args).output().unwrap())
    }

    /// Stops it where it is (STOP), or lets it go on (CONT).
    fn signal(&self, signal: Signal) {
        self.process.signal(signal.as_raw());
    }
}

fn json(output: &Output) -> Value {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or_else(|| panic!("{value} is no number"))
}

/// What a size's result has to be if no more is under way than the rings hold, so that nothing is ever lost.
fn check_size(size: &Value, loads: usize) {
    assert_eq!((number(&size["loss"]), size["trials"].as_array().unwrap().len()), (0.0, 1), "{size}");
    let rate = number(&size["rate_mpps"]);
    assert!(rate > 0.0 && rate == number(&size["top_mpps"]) && number(&size["gbps"]) > rate * 0.4, "{size}");
    let latency = size["latency"].as_array().unwrap();
    assert_eq!(latency.len(), loads, "{size}");
    for (i, load) in latency.iter().enumerate() {
        let percent = 10.0 * (i + 1) as f64;
        assert_eq!(number(&load["percent"]), percent, "{load}");
        assert!((number(&load["intended_mpps"]) - rate * percent / 100.0).abs() < 1e-9, "{load}");
        let [p50, p99, max] = ["p50", "p99", "max"].map(|p| number(&load["latency"][p]));
        assert!(0.0 < p50 && p50 <= p99 && p99 <= max, "{load}");
    }
}

#[test]
fn throughput_by_frame_size() {
    let drayd = Drayd::start();
    let results = drayd.judge("rfc2544", "memif", "--sizes 64,imix --duration 30ms --window 256 --flows 10 --json");
    assert_eq!((&results["link"], &results["direction"]), (&"memif".into(), &"a-to-b".into()), "{results}");
    let sizes = results["sizes"].as_array().unwrap();
    assert_eq!(sizes.iter().map(|s| s["size"].as_str().unwrap()).collect::<Vec<_>>(), ["64", "imix"]);
    for size in sizes {
        check_size(size, 10);
        // Two trials in a row without loss end the table.
        let loss_rate = size["loss_rate"].as_array().unwrap();
        assert_eq!(loss_rate.iter().map(|l| number(&l["percent"])).collect::<Vec<_>>(), [100.0, 90.0], "{size}");
    }
    // Bytes of a frame without FCS: 60, and the mix's mean.
    let bytes = |size: &Value| number(&size["gbps"]) * 1000.0 / 8.0 / number(&size["rate_mpps"]);
    assert!((bytes(&sizes[0]) - 60.0).abs() < 1e-6 && (bytes(&sizes[1]) - 357.833_333).abs() < 1e-3, "{results}");

    // A highest rate is kept, and named as what the result is limited by.
    let args = "--sizes 64 --test throughput --duration 200ms --window 256 --max-rate 20k --direction both --json";
    let results = drayd.judge("rfc2544", "memif", args);
    let size = &results["sizes"][0];
    check_size(size, 0);
    assert_eq!(number(&size["trials"][0]["intended_mpps"]), 0.02, "{results}");
    let limit = size["limit"].as_str().unwrap();
    assert!(number(&size["rate_mpps"]) < 0.0201 && ["maximum", "generator"].contains(&limit), "{results}");

    // As text there is a table for each test.
    let output = drayd.command("rfc2544", "memif", "--sizes 64 --duration 10ms --window 256").output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    for section in ["(section 26.1)", "(section 26.2)", "(section 26.3)"] {
        assert!(text.contains(section), "{text}");
    }
}

#[test]
fn throughput_over_vhost_user() {
    let drayd = Drayd::start();
    // The links come and go with each size.
    let args = "--sizes 64,1518 --test latency --duration 20ms --window 256 --json";
    let results = drayd.judge("rfc2544", "vhost", args);
    assert_eq!(results["link"], "vhost-user", "{results}");
    results["sizes"].as_array().unwrap().iter().for_each(|size| check_size(size, 10));
}

#[test]
fn addresses_held_and_learned() {
    let drayd = Drayd::start();
    let dray = Path::new(PERF).with_file_name("dray");
    let flush = format!("{dray:?} --socket {:?} fdb flush", drayd.file("dray.sock"));
    let args = "--max 3000 --addresses 500 --resolution 0 --json";
    let results = json(&drayd.command("rfc2889", "memif", args).args(["--flush", &flush]).output().unwrap());
    let capacity = &results["capacity"];
    // One is the other link's.
    let found = capacity["addresses"].as_u64().unwrap();
    assert!((MACS - 64..MACS).contains(&found) && capacity["limit"] == "switch", "{results}");
    for trial in capacity["trials"].as_array().unwrap() {
        let [addresses, known, reached] = ["addresses", "known", "reached"].map(|name| trial[name].as_u64().unwrap());
        assert_eq!((known == addresses, reached), (addresses <= found, addresses), "{results}");
    }
    let rate = &results["rate"];
    assert!(number(&rate["rate_mpps"]) > 0.0 && rate["addresses"] == 500, "{results}");

    // What the user has it forget with may fail.
    let output = drayd.command("rfc2889", "memif", "--max 3000 --json --flush false").output().unwrap();
    assert!(String::from_utf8_lossy(&output.stderr).contains("--flush \"false\""), "{output:?}");
}

#[test]
fn a_soak_that_passes_and_one_that_does_not() {
    let drayd = Drayd::start();
    let log = drayd.file("log");
    let args = format!(
        "--duration 1s --interval 200ms --rate 20k --window 256 --direction both --json --log {}",
        log.display()
    );
    let verdict = drayd.judge("soak", "memif", &args);
    assert_eq!((&verdict["passed"], &verdict["lost"]), (&true.into(), &0.into()), "{verdict}");
    assert_eq!(verdict["sent"], verdict["received"], "{verdict}");
    assert!(number(&verdict["worst_latency"]["p99"]) > 0.0, "{verdict}");
    let lines = std::fs::read_to_string(&log).unwrap();
    let lines: Vec<Value> = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.len() as u64, verdict["intervals"].as_u64().unwrap());
    let sent = |l: &Value| l["a_to_b"]["sent"].as_u64().unwrap() + l["b_to_a"]["sent"].as_u64().unwrap();
    assert_eq!(lines.iter().map(sent).sum::<u64>(), verdict["sent"].as_u64().unwrap(), "{verdict}");
    assert!(lines.windows(2).all(|pair| number(&pair[0]["at"]) < number(&pair[1]["at"])));

    // A switch that stands still for longer than frames are waited for.
    let log = drayd.file("other-log");
    let args = format!("--duration 3s --interval 300ms --rate 20k --log {}", log.display());
    let soak = drayd.command("soak", "memif", &args).spawn().unwrap();
    wait_for("the first interval", || std::fs::metadata(&log).is_ok_and(|file| file.len() > 0).then_some(()));
    drayd.signal(Signal::STOP);
    std::thread::sleep(Duration::from_millis(1200));
    drayd.signal(Signal::CONT);
    let output = soak.wait_with_output().unwrap();
    let (text, errors) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert_eq!(output.status.code(), Some(1), "{text}{errors}");
    assert!(text.contains("FAILED") && errors.contains("frames lost"), "{text}{errors}");
}
