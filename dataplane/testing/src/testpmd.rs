//! DPDK's testpmd.

use crate::{PATIENCE, Process, unique, wait_for};
use std::io::Write;
use std::path::Path;
use std::process::{ChildStdin, Command, Stdio};
use std::thread::{self, sleep};
use std::time::{Duration, Instant};

/// Whether there is one to be started. Says so if not.
pub fn has_testpmd() -> bool {
    let is_there = Command::new("dpdk-testpmd").arg("--version").output().is_ok();
    if !is_there {
        eprintln!("SKIPPED: dpdk-testpmd is not installed");
    }
    is_there
}

/// A dpdk-testpmd.
pub struct Testpmd {
    process: Process,
    /// EAL's name for its files.
    prefix: String,
    stdin: ChildStdin,
}

/// Counts of a testpmd's port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TestpmdStats {
    /// Packets it received.
    pub rx: u64,
    /// Packets it sent.
    pub tx: u64,
}

impl Testpmd {
    /// A client of interface `id` behind the memif socket `dir/memif.sock`, in a forwarding mode. Waits until its link is up;
    /// [`Testpmd::start`] makes it forward.
    pub fn client(dir: impl AsRef<Path>, id: u32, mode: &str) -> Testpmd {
        let mut testpmd = Self::memif(&dir.as_ref().join("memif.sock"), id, "client", mode);
        testpmd.wait_up();
        testpmd
    }

    /// A server of interface 0 behind the memif socket `dir/socket`, in a forwarding mode.
    pub fn server(dir: impl AsRef<Path>, socket: &str, mode: &str) -> Testpmd {
        Self::memif(&dir.as_ref().join(socket), 0, "server", mode)
    }

    /// The driver of a virtual machine with a port for each of `devices`, which say how it is reached and what it can do:
    /// `path=DIR/vm.sock,server=1`, with `dir` for DIR. The options, separated by blanks, go to testpmd. Those that listen wait for
    /// drayd.
    pub fn virtio(dir: impl AsRef<Path>, devices: &[String], options: &str) -> Testpmd {
        let dir = dir.as_ref().to_str().expect("a path in UTF-8");
        let device = |(i, keys): (usize, &String)| format!("net_virtio_user{i},{}", keys.replace("DIR", dir));
        Self::run("", &devices.iter().enumerate().map(device).collect::<Vec<_>>(), options)
    }

    fn memif(socket: &Path, id: u32, role: &str, mode: &str) -> Testpmd {
        let device = format!("net_memif0,role={role},id={id},socket={},socket-abstract=no", socket.display());
        Self::run("", &[device], &format!("--total-num-mbufs=8192 --forward-mode {mode}"))
    }

    /// One with these devices, and options of EAL and its own, separated by blanks. Waits until it takes commands, which is some
    /// seconds later if a device has no link.
    pub fn run(eal: &str, devices: &[String], options: &str) -> Testpmd {
        let mut testpmd = Self::spawn(eal, devices, options);
        wait_for("testpmd to start", || {
            let printed = testpmd.process.printed();
            assert!(testpmd.process.ended().is_none(), "testpmd ended\n{printed}");
            printed.contains("Done\n").then_some(())
        });
        testpmd
    }

    /// As [`Testpmd::run`], without waiting.
    pub fn spawn(eal: &str, devices: &[String], options: &str) -> Testpmd {
        // It prints through a buffer that only stdbuf makes it empty line by line. Its lcores leave CPU 1, where a worker is, alone.
        let prefix = format!("dray-test-{}", unique());
        let mut command = Command::new("stdbuf");
        command.args(["-oL", "dpdk-testpmd", "--no-huge", "-m", "256", "--no-pci", "--no-telemetry"]);
        // It uses wide registers only if it is asked to.
        command.args(["--lcores", "0@0,1@0", "--force-max-simd-bitwidth=512", "--file-prefix", &prefix]);
        command.args(eal.split_whitespace()).args(devices.iter().flat_map(|device| ["--vdev", device]));
        command.args(["--", "-i", "--no-mlockall"]).args(options.split_whitespace());
        command.stdin(Stdio::piped());
        let mut process = Process::start(command);
        let stdin = process.stdin();
        Testpmd { process, prefix, stdin }
    }

    /// Gives it a command line, which it carries out when it can.
    pub fn say(&mut self, line: &str) {
        writeln!(self.stdin, "{line}").unwrap();
    }

    /// Gives it a command line, and waits until it was carried out.
    pub fn command(&mut self, line: &str) -> String {
        // The end of this command's output is where that of the next begins.
        let end = "NIC statistics for port 0";
        let before = self.process.printed().len();
        writeln!(self.stdin, "{line}\nshow port stats 0").unwrap();
        wait_for(&format!("testpmd's answer to {line:?}"), || {
            let printed = self.process.printed();
            let count = 1 + usize::from(matches!(line, "show port stats 0" | "show port stats all"));
            let block = |text: &str| text.match_indices(end).nth(count - 1).map(|(at, _)| text[at..].to_string());
            let answer = &printed[before..];
            block(answer)
                .filter(|last| last.contains("Tx-bps") && last.trim_end().ends_with('#'))
                .map(|_| answer.into())
        })
    }

    /// Begins to forward.
    pub fn start(&mut self) {
        self.command("start");
    }

    /// Waits until its link is up.
    pub fn wait_up(&mut self) {
        let deadline = Instant::now() + PATIENCE;
        while !self.command("show port info 0").contains("Link status: up") {
            assert!(Instant::now() < deadline, "testpmd's link stays down\n{}", self.process.printed());
            sleep(Duration::from_millis(50));
        }
    }

    /// What its only port has received and sent.
    pub fn stats(&mut self) -> TestpmdStats {
        self.all_stats()[0]
    }

    /// What its ports have received and sent.
    pub fn all_stats(&mut self) -> Vec<TestpmdStats> {
        let answer = self.command("show port stats all");
        let mut ports: Vec<&str> = answer.split("NIC statistics for port ").skip(1).collect();
        ports.pop(); // is that of `command`
        let stats = |port: &&str| {
            let number = |name: &str| {
                let at = port.find(name).unwrap_or_else(|| panic!("no {name} in\n{port}")) + name.len();
                port[at..].split_whitespace().next().unwrap().parse().unwrap()
            };
            TestpmdStats { rx: number("RX-packets:"), tx: number("TX-packets:") }
        };
        ports.iter().map(stats).collect()
    }

    /// One of the extended statistics of a port: `rx_q3_good_packets`.
    pub fn xstat(&mut self, port: usize, name: &str) -> u64 {
        let answer = self.command(&format!("show port xstats {port}"));
        let found = answer.lines().find_map(|line| line.trim().strip_prefix(name)?.strip_prefix(": "));
        found.unwrap_or_else(|| panic!("no {name} in\n{answer}")).trim().parse().unwrap()
    }

    /// It ends as a crash ends it.
    pub fn kill(&mut self) {
        self.process.kill();
    }
}

impl Drop for Testpmd {
    fn drop(&mut self) {
        if thread::panicking() {
            let printed = self.process.printed();
            let lines: Vec<&str> = printed.lines().collect();
            eprintln!("--- testpmd ---\n{}\n---------------", lines[lines.len().saturating_sub(60)..].join("\n"));
        }
        let _ = writeln!(self.stdin, "quit");
        self.process.end_within(Duration::from_secs(3));
        let _ = std::fs::remove_dir_all(Path::new("/var/run/dpdk").join(&self.prefix));
    }
}
