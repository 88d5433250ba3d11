//! The demo from end to end, and that it leaves nothing behind, however it ends. Needs root.

use dray_testing::{Turn, drayd_beside, is_root};
use rustix::process::{Pid, Signal, kill_process};
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::{Duration, Instant};

const DEMO: &str = env!("CARGO_BIN_EXE_dray-demo");

/// The machine: each demo has workers on the same CPUs. `None` without root.
fn turn() -> Option<Turn> {
    drayd_beside(DEMO);
    is_root().then(Turn::alone)
}

fn start() -> Child {
    Command::new(DEMO).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

/// Reads standard output until `text` has come.
fn read_until(demo: &mut Child, text: &str) {
    let (mut seen, mut byte) = (Vec::new(), [0]);
    let out = demo.stdout.as_mut().unwrap();
    while !String::from_utf8_lossy(&seen).contains(text) {
        assert_eq!(out.read(&mut byte).unwrap(), 1, "it ended: {}", String::from_utf8_lossy(&seen));
        seen.push(byte[0]);
    }
}

fn wait(demo: &mut Child, timeout: Duration) -> ExitStatus {
    let end = Instant::now() + timeout;
    loop {
        if let Some(status) = demo.try_wait().unwrap() {
            return status;
        }
        if Instant::now() > end {
            demo.kill().unwrap();
            panic!("the demo does not end");
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Namespaces, files and processes of the demo with that process id.
fn left_by(demo: u32) -> Vec<String> {
    let name = format!("dray-demo-{demo}");
    let mut left = Vec::new();
    for dir in [Path::new("/run/netns"), Path::new("/dev/shm"), &std::env::temp_dir()] {
        for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
            let found = entry.file_name().to_string_lossy().into_owned();
            if found == name || found.starts_with(&format!("{name}-")) {
                left.push(entry.path().display().to_string());
            }
        }
    }
    // Every process that it starts has the directory's name in its arguments.
    left.extend(processes(&name));
    left
}

fn processes(name: &str) -> Vec<String> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc").unwrap().flatten() {
        let arguments = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let arguments = String::from_utf8_lossy(&arguments).replace('\0', " ");
        if arguments.contains(&format!("{name}/")) {
            found.push(arguments);
        }
    }
    found
}

/// Runs the demo to its end.
fn run() -> (u32, Output) {
    let demo = start();
    let pid = demo.id();
    (pid, demo.wait_with_output().unwrap())
}

#[test]
fn it_shows_what_it_promises_even_after_one_that_was_killed() {
    let Some(_turn) = turn() else { return };
    let mut killed = start();
    read_until(&mut killed, "[ 7/11]");
    assert!(!processes(&format!("dray-demo-{}", killed.id())).is_empty());
    killed.kill().unwrap();
    killed.wait().unwrap();

    let (pid, output) = run();
    let text = String::from_utf8(output.stdout).unwrap();
    let complaints = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{:?}\n{text}{complaints}", output.status);
    assert_eq!(complaints, "");

    for step in 1..=11 {
        let line = text.lines().find(|l| l.starts_with(&format!("[{step:>2}/11] "))).unwrap();
        assert!(line.contains(" ok "), "{line}");
    }
    assert!(text.contains("42 pairs, 210 of 210 answered"), "{text}");
    let rows: Vec<&str> = text.lines().filter(|l| l.starts_with("  from ")).collect();
    assert_eq!(rows.len(), 7, "{text}");
    for (i, row) in rows.iter().enumerate() {
        let cells: Vec<&str> = row.split_whitespace().skip(4).collect();
        assert_eq!(cells.len(), 7, "{row}");
        for (j, cell) in cells.iter().enumerate() {
            assert!(if i == j { *cell == "·" } else { cell.parse::<f64>().is_ok_and(|ms| ms > 0.0) }, "{row}");
        }
    }
    assert!(text.contains("16 MiB each, equal sha256 "), "{text}");
    assert!(text.contains("bit/s from a3 to a4, "), "{text}");
    assert!(text.contains("bit/s in VXLAN from a3 to b2, "), "{text}");
    assert!(text.contains(" Mpps, memif to memif"), "{text}");
    assert!(text.contains("sent, dropped or consumed, none is missing"), "{text}");
    for port in [
        "a    a1      memif  up",
        "a    a3.eth0 tap    up",
        "a    a4.eth0 tap    up",
        "a    uplink  eth    up",
        "b    b1      memif  up",
        "b    b2.eth0 tap    up",
        "b    uplink  eth    up",
    ] {
        assert!(text.contains(port), "{port}\n{text}");
    }
    // Not a terminal: no colours, and no line that is drawn twice.
    assert!(!text.contains(['\x1b', '\r']));
    assert!(text.lines().all(|line| line.chars().count() <= 100), "{text}");
    assert_eq!(left_by(pid), [""; 0]);
    assert_eq!(left_by(killed.id()), [""; 0]);
}

#[test]
fn a_signal_leaves_nothing_behind() {
    let Some(_turn) = turn() else { return };
    for (step, signal) in
        [("[ 3/11]", Signal::TERM), ("[ 8/11]", Signal::INT), ("[ 9/11]", Signal::INT), ("[10/11]", Signal::INT)]
    {
        let mut demo = start();
        read_until(&mut demo, step);
        std::thread::sleep(Duration::from_millis(300));
        kill_process(Pid::from_child(&demo), signal).unwrap();
        let status = wait(&mut demo, Duration::from_secs(15));
        assert_eq!(status.code(), Some(128 + signal.as_raw()), "{step}");
        let mut rest = String::new();
        demo.stdout.take().unwrap().read_to_string(&mut rest).unwrap();
        assert!(rest.contains("interrupted") && rest.ends_with("everything is cleaned up\n"), "{step}: {rest}");
        assert_eq!(left_by(demo.id()), [""; 0], "{step}");
    }
}

#[test]
fn without_root_it_says_what_it_needs() {
    let Some(_turn) = turn() else { return };
    // Nobody may not look into the folder that this was built in, so gets a copy.
    let dir = tempfile::tempdir().unwrap();
    let demo = dir.path().join("dray-demo");
    std::fs::copy(DEMO, &demo).unwrap();
    std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    let output = Command::new(&demo).uid(65534).gid(65534).current_dir("/").output().unwrap();
    let complaints = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{complaints}");
    assert!(complaints.contains("root, to make network namespaces"), "{complaints}");
}
