//! A drayd that runs, and the command that asks it.

use super::Test;
use dray_api::{PortInfo, Status, VhostUserDetail};
use dray_testing::*;
use serde::de::DeserializeOwned;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::thread::{self, sleep};
use std::time::{Duration, Instant};

/// A running drayd.
pub struct Drayd {
    process: Process,
    socket: PathBuf,
    stopped: bool,
}

/// The command.
pub fn dray() -> PathBuf {
    dray_beside(env!("CARGO_BIN_EXE_drayd"))
}

/// What only a vhost-user port has.
pub fn vm(port: &PortInfo) -> &VhostUserDetail {
    port.detail.vhost_user().expect("a vhost-user port")
}

impl Drayd {
    /// Starts it with this configuration (`[control]` is added) and waits until it answers.
    pub fn start(test: &Test, config: &str) -> Drayd {
        Self::spawn(test, config, None).wait_answer()
    }

    /// As [`Drayd::start`], in a namespace.
    pub fn start_in(test: &Test, ns: &Netns, config: &str) -> Drayd {
        Self::spawn(test, config, Some(ns)).wait_answer()
    }

    /// As [`Drayd::start`], by a command that becomes drayd.
    pub fn start_around(test: &Test, around: &[&str], config: &str) -> Drayd {
        let mut command = Command::new(around[0]);
        command.args(&around[1..]).arg(env!("CARGO_BIN_EXE_drayd"));
        Self::spawn_by(test, config, command).wait_answer()
    }

    /// As [`Drayd::start`], by this command, which has an environment of its own.
    pub fn start_by(test: &Test, config: &str, command: Command) -> Drayd {
        Self::spawn_by(test, config, command).wait_answer()
    }

    fn wait_answer(self) -> Drayd {
        let mut drayd = self;
        wait_for("drayd to answer", || {
            let ended = drayd.process.ended();
            assert!(ended.is_none(), "drayd ended: {ended:?}\n{}", drayd.log());
            drayd.command(&["status"]).output().unwrap().status.success().then_some(())
        });
        drayd
    }

    /// Starts it and does not wait.
    pub fn spawn(test: &Test, config: &str, ns: Option<&Netns>) -> Drayd {
        let program = env!("CARGO_BIN_EXE_drayd");
        let command = match ns {
            Some(ns) => ns.command(program),
            None => Command::new(program),
        };
        Self::spawn_by(test, config, command)
    }

    fn spawn_by(test: &Test, config: &str, mut command: Command) -> Drayd {
        let file = test.file("dray.toml", &with_control(config));
        command.arg("--config").arg(file).stdin(Stdio::null());
        Drayd { process: Process::start(command), socket: test.path("dray.sock"), stopped: false }
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.process.id()
    }

    /// What it logged.
    pub fn log(&self) -> String {
        self.process.printed()
    }

    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    /// The `dray` command, talking to it.
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(dray());
        command.arg("--socket").arg(&self.socket).args(args).stdin(Stdio::null());
        command
    }

    /// What `dray ARGS` prints; it must succeed.
    pub fn dray(&self, args: &str) -> String {
        let words: Vec<&str> = args.split_whitespace().collect();
        let output = self.command(&words).output().unwrap();
        let (out, err) = texts(&output);
        assert!(output.status.success(), "dray {args}: {}\n{out}{err}\nlog:\n{}", output.status, self.log());
        out
    }

    /// What `dray --json ARGS` answers.
    pub fn json<T: DeserializeOwned>(&self, args: &str) -> T {
        let text = self.dray(&format!("--json {args}"));
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("dray --json {args}: {error}\n{text}"))
    }

    /// What `dray ARGS` says on standard error when it exits with `status`.
    pub fn refused(&self, args: &str, status: i32) -> String {
        let words: Vec<&str> = args.split_whitespace().collect();
        let output = self.command(&words).output().unwrap();
        let (out, err) = texts(&output);
        assert_eq!(output.status.code(), Some(status), "dray {args}:\n{out}{err}");
        assert_eq!(out, "", "dray {args}");
        err
    }

    /// As [`Drayd::refused`] with status 1, by this command.
    pub fn refused_by(&self, command: &mut Command) -> String {
        let output = command.output().unwrap();
        let (out, err) = texts(&output);
        assert_eq!((output.status.code(), out.as_str()), (Some(1), ""), "{err}");
        err
    }

    /// Makes this the running configuration (`[control]` is added).
    pub fn apply(&self, test: &Test, config: &str) -> String {
        let file = test.file("apply.toml", &with_control(config));
        self.dray(&format!("config apply {}", file.display()))
    }

    pub fn status(&self) -> Status {
        self.json("status")
    }

    pub fn ports(&self) -> Vec<PortInfo> {
        self.json("port show")
    }

    pub fn port(&self, name: &str) -> PortInfo {
        let mut ports: Vec<PortInfo> = self.json(&format!("port show {name}"));
        assert_eq!(ports.len(), 1);
        ports.remove(0)
    }

    /// How many packets of port `name` were dropped for `reason`.
    pub fn drops(&self, name: &str, reason: &str) -> u64 {
        self.port(name).drops.get(reason).copied().unwrap_or(0)
    }

    /// Waits until the port's link is `up` or `down`.
    pub fn wait_link(&self, name: &str, link: &str) {
        wait_for(&format!("{name} to be {link}"), || (self.port(name).link == link).then_some(()));
    }

    /// Asserts that every packet is accounted for. Those that are on their way get a moment to arrive.
    pub fn conserved(&self) {
        let begin = Instant::now();
        loop {
            let (s, ports) = (self.status(), self.ports());
            if is_conserved(&s, &ports) {
                return;
            }
            assert!(begin.elapsed() < Duration::from_secs(5), "not conserved\n{s:#?}\n{ports:#?}");
            sleep(Duration::from_millis(50));
        }
    }

    /// The end of every story: packets are conserved, and SIGTERM ends drayd cleanly.
    pub fn finish(mut self) {
        self.conserved();
        self.stop();
    }

    /// Stops it, all of its threads, until it gets a SIGCONT.
    pub fn freeze(&self) {
        self.process.signal(libc::SIGSTOP);
        let pid = self.pid();
        let is_stopped = |task: std::fs::DirEntry| {
            let task = task.file_name();
            stat(&format!("{pid}/task/{}", task.to_str().unwrap())).is_none_or(|stat| stat[0] == "T")
        };
        wait_for("all threads to stop", || {
            std::fs::read_dir(format!("/proc/{pid}/task")).unwrap().flatten().all(is_stopped).then_some(())
        });
    }

    /// It ends as a crash ends it.
    pub fn kill(mut self) {
        self.crash();
    }

    /// As [`Drayd::kill`]; if it does not end, the caller still has it.
    pub fn crash(&mut self) {
        self.stopped = true;
        self.process.signal(libc::SIGKILL);
        self.process.wait();
    }

    /// SIGTERM, after which it must exit with status 0, have removed its socket, and never have panicked.
    pub fn stop(&mut self) {
        self.stopped = true;
        self.process.signal(libc::SIGTERM);
        let status = self.process.wait();
        let log = self.log();
        assert!(status.code() == Some(0) && status.signal().is_none(), "drayd ended: {status}\n{log}");
        assert!(!log.contains("panicked at"), "{log}");
        assert!(!self.socket.exists(), "the control socket is still there\n{log}");
    }
}

impl Drop for Drayd {
    fn drop(&mut self) {
        if !self.stopped {
            if thread::panicking() {
                eprintln!("--- drayd's log ---\n{}", self.log());
                for args in [["port", "show"], ["drop", "show"], ["worker", "show"]] {
                    let _ = self.command(&args).stdout(Stdio::inherit()).status();
                }
                eprintln!("-------------------");
            }
            self.process.signal(libc::SIGTERM);
            self.process.end_within(Duration::from_secs(3));
        }
    }
}

/// A line of a process or thread in /proc, behind its name: the state, the parent...
pub fn stat(of: &str) -> Option<Vec<String>> {
    let stat = std::fs::read_to_string(format!("/proc/{of}/stat")).ok()?;
    Some(stat.rsplit_once(')')?.1.split_whitespace().map(str::to_owned).collect())
}

fn with_control(config: &str) -> String {
    // Not in front: the lines of errors should be those that a test wrote.
    if config.contains("[control]") {
        config.into()
    } else {
        format!("{config}\n[control]\nsocket = \"DIR/dray.sock\"\n")
    }
}

/// Whether every packet is accounted for.
pub fn is_conserved(s: &Status, ports: &[PortInfo]) -> bool {
    let came = s.received + s.originated + s.flood_copies + s.segments;
    let went = s.sent + s.consumed + s.dropped;
    let of_ports = |count: fn(&PortInfo) -> u64| ports.iter().map(count).sum::<u64>();
    let sums = (of_ports(|p| p.rx_packets), of_ports(|p| p.tx_packets), of_ports(|p| p.drops.values().sum()));
    // Ports that were deleted stay in the status' totals.
    came == went && sums.0 <= s.received && sums.1 <= s.sent && sums.2 <= s.dropped
}
