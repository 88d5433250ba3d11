//! What the stories are told with: drayd, its peers and its judges, each a guard that leaves nothing behind.

use dray_api::{PortInfo, Status};
use dray_config::SocketName;
use dray_vhost::memif::{Client, ClientOptions};
use serde::de::DeserializeOwned;
use std::fmt::Debug;
use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::thread::{self, sleep};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// Generous: it only decides how long a broken switch takes to fail.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// What a test owns: a folder, and the machine for itself.
pub struct Test {
    dir: TempDir,
    /// Workers and peers poll on cores of their own, so one test runs at a time, whoever started it.
    _alone: File,
}

impl Test {
    /// `None` without root, as which namespaces, packet sockets and other processes' CPUs are out of reach.
    pub fn begin() -> Option<Test> {
        if !rustix::process::geteuid().is_root() {
            eprintln!("SKIPPED: needs root");
            return None;
        }
        let alone = File::create(std::env::temp_dir().join("dray-integration-tests.lock")).unwrap();
        rustix::fs::flock(&alone, rustix::fs::FlockOperation::LockExclusive).unwrap();
        let dir = tempfile::Builder::new().prefix("dray-test-").tempdir().unwrap();
        Some(Test { dir, _alone: alone })
    }

    /// A path in the test's folder.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// A configuration's text, with `DIR` in it replaced by the test's folder, as a file.
    pub fn file(&self, name: &str, text: &str) -> PathBuf {
        let path = self.path(name);
        std::fs::write(&path, text.replace("DIR", self.dir.path().to_str().unwrap())).unwrap();
        path
    }

    /// Connects as a memif client to interface `id` behind `DIR/memif.sock`.
    pub fn memif(&self, id: u32) -> Client {
        let socket = SocketName::Path(self.path("memif.sock"));
        let options = ClientOptions { name: format!("test{id}"), timeout: PATIENCE, ..ClientOptions::default() };
        Client::connect(&socket, id, &options).unwrap_or_else(|why| panic!("memif {id}: {why}"))
    }
}

/// Configuration of memif server ports on `DIR/memif.sock`, in this order with the ids 0, 1, 2...
pub fn memif_ports(names: &[&str]) -> String {
    let port =
        |(id, name)| format!("[[port]]\nname = {name:?}\nkind = \"memif\"\nsocket = \"DIR/memif.sock\"\nid = {id}\n");
    names.iter().enumerate().map(port).collect()
}

/// Configuration of an untagged bridge.
pub fn bridge(name: &str, ports: &[&str]) -> String {
    format!("[[bridge]]\nname = {name:?}\nports = {ports:?}\n")
}

/// Waits until `get` gives what is wanted.
pub fn wait_for<T>(what: &str, mut get: impl FnMut() -> Option<T>) -> T {
    let begin = Instant::now();
    loop {
        if let Some(found) = get() {
            return found;
        }
        assert!(begin.elapsed() < PATIENCE, "waited {PATIENCE:?} for {what}");
        sleep(Duration::from_millis(10));
    }
}

/// Runs a command to its end. Panics with its output unless it succeeds.
pub fn run(command: &str) -> String {
    let words: Vec<&str> = command.split_whitespace().collect();
    let output = Command::new(words[0]).args(&words[1..]).stdin(Stdio::null()).output();
    let output = output.unwrap_or_else(|error| panic!("{command}: {error}"));
    let (out, err) = texts(&output);
    assert!(output.status.success(), "{command}: {}\n{out}{err}", output.status);
    out
}

fn texts(output: &Output) -> (String, String) {
    (String::from_utf8_lossy(&output.stdout).into(), String::from_utf8_lossy(&output.stderr).into())
}

/// A number that no other running test has.
fn unique() -> String {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    format!("{}-{}", std::process::id(), COUNT.fetch_add(1, Relaxed))
}

/// A network namespace without IPv6, whose chatter would be in the counts.
pub struct Netns {
    name: String,
}

impl Netns {
    pub fn new(label: &str) -> Netns {
        let ns = Netns { name: format!("dray-{}-{label}", unique()) };
        run(&format!("ip netns add {}", ns.name));
        ns.run("sysctl -qw net.ipv6.conf.all.disable_ipv6=1 net.ipv6.conf.default.disable_ipv6=1");
        ns.run("ip link set lo up");
        ns
    }

    /// Runs a command in it.
    pub fn run(&self, command: &str) -> String {
        run(&format!("ip netns exec {} {command}", self.name))
    }

    /// As [`Netns::run`], for each line.
    pub fn run_all(&self, commands: &str) {
        commands.lines().map(str::trim).filter(|line| !line.is_empty()).for_each(|line| drop(self.run(line)));
    }

    /// A pair of veth devices, `here` in this namespace and `there` in the other. Both are up, and leave no checksum for a
    /// device to fill in that does not exist.
    pub fn veth(&self, here: &str, other: &Netns, there: &str) {
        run(&format!("ip link add {here} netns {} type veth peer name {there} netns {}", self.name, other.name));
        for (ns, device) in [(self, here), (other, there)] {
            ns.run(&format!("ip link set {device} up"));
            ns.run(&format!("ethtool -K {device} tx off rx off tso off gso off gro off"));
        }
    }

    /// Pings `count` times; every one must be answered, once.
    pub fn ping(&self, to: &str, count: u32, size: u32) {
        // Until so many are answered: without a deadline ping waits for no more than two round trips, which is little for answers
        // that wait for a CPU.
        let printed = self.run(&format!("ping -n -q -c {count} -i 0.02 -w 20 -s {size} {to}"));
        assert!(printed.contains(&format!(" {count} received,")), "{printed}");
    }

    /// Whether a single ping is answered.
    pub fn answers(&self, to: &str) -> bool {
        let status = self.command("ping").args(["-n", "-q", "-c", "1", "-W", "1", to]).stdout(Stdio::null()).status();
        status.unwrap().success()
    }

    /// A command that will run in it.
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.name, program]);
        command
    }
}

impl Drop for Netns {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["netns", "del", &self.name]).stderr(Stdio::null()).status();
    }
}

/// A child process that does not outlive the test, with what it printed.
pub struct Process {
    child: Child,
    printed: Arc<Mutex<String>>,
}

impl Process {
    pub fn start(mut command: Command) -> Process {
        let printed = Arc::new(Mutex::new(String::new()));
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}"));
        fn keep(from: impl std::io::Read + Send + 'static, to: &Arc<Mutex<String>>) {
            let to = to.clone();
            thread::spawn(move || {
                let mut from = BufReader::new(from);
                let mut line = Vec::new();
                while from.read_until(b'\n', &mut line).is_ok_and(|n| n > 0) {
                    to.lock().unwrap().push_str(&String::from_utf8_lossy(&line));
                    line.clear();
                }
            });
        }
        keep(child.stdout.take().unwrap(), &printed);
        keep(child.stderr.take().unwrap(), &printed);
        Process { child, printed }
    }

    /// Standard output and error so far.
    pub fn printed(&self) -> String {
        self.printed.lock().unwrap().clone()
    }

    /// Its end, if it came.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().unwrap()
    }

    /// Its number.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Waits for its end.
    pub fn wait(&mut self) -> ExitStatus {
        wait_for("the process to end", || self.ended())
    }

    pub fn signal(&self, signal: i32) {
        // SAFETY: a plain system call; the child has not been waited for, so the number is still its own.
        unsafe { libc::kill(self.child.id() as i32, signal) };
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if !matches!(self.child.try_wait(), Ok(Some(_))) {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

/// A running drayd.
pub struct Drayd {
    process: Process,
    socket: PathBuf,
    stopped: bool,
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
        self.process.child.id()
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
        let mut command = Command::new(env!("CARGO_BIN_EXE_dray"));
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
            let begin = Instant::now();
            while begin.elapsed() < Duration::from_secs(3) && matches!(self.process.child.try_wait(), Ok(None)) {
                sleep(Duration::from_millis(10));
            }
        }
    }
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

/// A dpdk-testpmd.
pub struct Testpmd {
    process: Process,
    /// EAL's name for its files.
    prefix: String,
    stdin: std::process::ChildStdin,
}

/// Counts of a testpmd's port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TestpmdStats {
    pub rx: u64,
    pub tx: u64,
}

impl Testpmd {
    /// A client of interface `id` behind `DIR/memif.sock`, in a forwarding mode. Waits until its link is up; [`Testpmd::start`]
    /// makes it forward.
    pub fn client(test: &Test, id: u32, mode: &str) -> Testpmd {
        let mut testpmd = Self::begin(test, "memif.sock", id, "client", mode);
        testpmd.wait_up();
        testpmd
    }

    /// A server of interface 0 behind `DIR/SOCKET`, in a forwarding mode.
    pub fn server(test: &Test, socket: &str, mode: &str) -> Testpmd {
        Self::begin(test, socket, 0, "server", mode)
    }

    /// The driver of a virtual machine with a port for each of `devices`, which say how it is reached and what it can do:
    /// `path=DIR/vm.sock,server=1`. The options, separated by blanks, go to testpmd. Those that listen wait for drayd.
    pub fn virtio(test: &Test, devices: &[String], options: &str) -> Testpmd {
        let dir = test.dir.path().to_str().unwrap();
        let device = |(i, keys): (usize, &String)| format!("net_virtio_user{i},{}", keys.replace("DIR", dir));
        Self::run(&devices.iter().enumerate().map(device).collect::<Vec<_>>(), options)
    }

    fn begin(test: &Test, socket: &str, id: u32, role: &str, mode: &str) -> Testpmd {
        let socket = test.path(socket);
        let device = format!("net_memif0,role={role},id={id},socket={},socket-abstract=no", socket.display());
        Self::run(&[device], &format!("--total-num-mbufs=8192 --forward-mode {mode}"))
    }

    fn run(devices: &[String], options: &str) -> Testpmd {
        // It prints through a buffer that only stdbuf makes it empty line by line. Its lcores leave CPU 1, where drayd's worker is,
        // alone.
        let prefix = format!("dray-test-{}", unique());
        let mut command = Command::new("stdbuf");
        command.args(["-oL", "dpdk-testpmd", "--no-huge", "-m", "256", "--no-pci", "--no-telemetry"]);
        // It uses wide registers only if it is asked to.
        command.args(["--lcores", "0@0,1@0", "--force-max-simd-bitwidth=512", "--file-prefix", &prefix]);
        command.args(devices.iter().flat_map(|device| ["--vdev", device]));
        command.args(["--", "-i", "--no-mlockall"]).args(options.split_whitespace());
        command.stdin(Stdio::piped());
        let mut process = Process::start(command);
        let stdin = process.child.stdin.take().unwrap();
        wait_for("testpmd to start", || {
            let printed = process.printed();
            assert!(process.ended().is_none(), "testpmd ended\n{printed}");
            printed.contains("Done\n").then_some(())
        });
        Testpmd { process, prefix, stdin }
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
    pub fn kill(mut self) {
        self.process.signal(libc::SIGKILL);
        self.process.wait();
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
        let begin = Instant::now();
        while begin.elapsed() < Duration::from_secs(3) && matches!(self.process.child.try_wait(), Ok(None)) {
            sleep(Duration::from_millis(10));
        }
        let _ = self.process.child.kill();
        let _ = self.process.child.wait();
        let _ = std::fs::remove_dir_all(Path::new("/var/run/dpdk").join(&self.prefix));
    }
}

/// tshark capturing on a device.
pub struct Capture {
    process: Process,
    file: PathBuf,
}

impl Capture {
    /// Captures what passes `device`, from when this returns.
    pub fn start(test: &Test, ns: &Netns, device: &str) -> Capture {
        let file = test.path(&format!("{device}.pcap"));
        let mut command = ns.command("tshark");
        command.args(["-q", "-n", "-i", device, "-F", "pcap", "-w"]).arg(&file).stdin(Stdio::null());
        let process = Process::start(command);
        // It says so a little before it is true: the file has its header once the device is open.
        wait_for("tshark to capture", || {
            let header = std::fs::metadata(&file).is_ok_and(|file| file.len() >= 24);
            (header && process.printed().contains("Capturing on")).then_some(())
        });
        Capture { process, file }
    }

    /// Ends it, and hands what it captured to the judge.
    pub fn stop(mut self) -> Frames {
        // What has passed reaches the file a little later.
        let mut last = (0, Instant::now());
        wait_for("an end of the frames", || {
            let len = std::fs::metadata(&self.file).unwrap().len();
            if len != last.0 {
                last = (len, Instant::now());
            }
            (last.1.elapsed() > Duration::from_secs(1)).then_some(())
        });
        self.process.signal(libc::SIGINT);
        let status = self.process.wait();
        assert!(status.success(), "tshark: {status}\n{}", self.process.printed());
        Frames { file: self.file.clone() }
    }
}

/// The display filter for malformed frames and wrong checksums. 0xffff is as right as 0 for TCP, which tshark denies: Linux writes
/// it where it has no other device to complete checksums (`skb_checksum_help`), for one segment of 65,536.
const WRONG: &str = "_ws.malformed || ip.checksum.status == 0 || udp.checksum.status == 0 || icmp.checksum.status == 0 \
                     || (tcp.checksum.status == 0 && !tcp.checksum.ffff)";

/// Captured frames, and tshark's judgement of them.
pub struct Frames {
    file: PathBuf,
}

impl Frames {
    /// For every frame that the display filter takes, these fields; several of one name are joined by commas.
    pub fn fields(&self, filter: &str, fields: &[&str]) -> Vec<Vec<String>> {
        let mut command = Self::tshark(&self.file);
        command.args(["-Y", filter, "-T", "fields"]);
        for field in fields {
            command.args(["-e", field]);
        }
        let output = command.output().unwrap();
        let (out, err) = texts(&output);
        assert!(output.status.success(), "tshark -Y {filter:?}: {err}");
        out.lines().map(|line| line.split('\t').map(str::to_string).collect()).collect()
    }

    /// How many frames the display filter takes.
    pub fn count(&self, filter: &str) -> usize {
        self.fields(filter, &["frame.number"]).len()
    }

    /// Asserts that there are frames and that not one is malformed, has a wrong checksum or length, or anything else that tshark
    /// would warn of.
    pub fn assert_clean(&self) {
        assert!(self.count("frame") > 0, "nothing was captured");
        self.assert_none(&format!("_ws.expert.severity >= warning || {WRONG}"));
    }

    /// Asserts that not one is malformed or has a wrong checksum.
    pub fn assert_correct(&self) {
        self.assert_none(WRONG);
    }

    /// Asserts that the display filter takes no frame; else shows those that it takes.
    fn assert_none(&self, filter: &str) {
        let output = Self::tshark(&self.file).args(["-V", "-Y", filter]).output().unwrap();
        let (out, err) = texts(&output);
        assert!(output.status.success(), "{err}");
        assert!(out.is_empty(), "tshark finds fault with:\n{out}");
    }

    fn tshark(file: &Path) -> Command {
        let mut command = Command::new("tshark");
        command.arg("-n").arg("-r").arg(file).stdin(Stdio::null());
        for preference in ["ip.check_checksum", "udp.check_checksum", "tcp.check_checksum"] {
            command.args(["-o", &format!("{preference}:TRUE")]);
        }
        // What is in a file is nothing that it might look like: dissected as some protocol it can take minutes.
        command.args(["-d", &format!("tcp.port=={FILE_PORT},data")]);
        command
    }
}

/// The TCP port at which files are to be had; `.ci/guest` serves them there, too.
pub const FILE_PORT: u16 = 9000;

/// A frame of our own kind, number `number` of the flow from `source` to `destination`: its length and every byte follow from that.
pub fn numbered(source: [u8; 6], destination: [u8; 6], number: u64) -> Vec<u8> {
    const LENGTHS: [usize; 12] = [60, 61, 64, 96, 127, 128, 191, 192, 193, 256, 700, 1514];
    let mut frame = vec![0; LENGTHS[(number % LENGTHS.len() as u64) as usize]];
    frame[..6].copy_from_slice(&destination);
    frame[6..12].copy_from_slice(&source);
    frame[12..14].copy_from_slice(&EXPERIMENTAL);
    frame[14..22].copy_from_slice(&number.to_be_bytes());
    for (at, byte) in frame.iter_mut().enumerate().skip(22) {
        *byte = (at as u64).wrapping_mul(7).wrapping_add(number) as u8;
    }
    frame
}

/// IEEE 802's EtherType for local experiments.
pub const EXPERIMENTAL: [u8; 2] = [0x88, 0xb5];

/// A locally administered address with this number.
pub fn mac(number: u32) -> [u8; 6] {
    let n = number.to_be_bytes();
    [0x02, 0xd0, n[0], n[1], n[2], n[3]]
}

/// Two memif clients that send each other numbered frames as fast as they arrive, in a thread of its own. Each frame must arrive
/// once, whole and in order: as no more are on their way than the rings hold, one that is missing was lost by the switch.
pub struct Exchange {
    thread: Option<thread::JoinHandle<(Client, Client)>>,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    stop: std::sync::atomic::AtomicBool,
    arrived: [std::sync::atomic::AtomicU64; 2],
    fault: Mutex<Option<String>>,
}

/// Frames on their way in one direction, at most.
const WINDOW: u64 = 256;

impl Exchange {
    /// Begins, between port `a` with the id 0 and port `b` with the id 1; returns when both directions flow.
    pub fn start(test: &Test, drayd: &Drayd) -> Exchange {
        let (a, b) = (test.memif(0), test.memif(1));
        drayd.wait_link("a", "up");
        drayd.wait_link("b", "up");
        let shared = Arc::new(Shared::default());
        let to = shared.clone();
        let thread = thread::Builder::new().name("exchange".into()).spawn(move || exchange(a, b, &to)).unwrap();
        let exchange = Exchange { thread: Some(thread), shared };
        exchange.more(1000);
        exchange
    }

    /// Frames that have arrived so far, in the direction in which there are fewer.
    pub fn arrived(&self) -> u64 {
        if let Some(fault) = &*self.shared.fault.lock().unwrap() {
            panic!("{fault}");
        }
        self.shared.arrived.iter().map(|n| n.load(Relaxed)).min().unwrap()
    }

    /// Waits until `n` more frames have arrived in both directions.
    pub fn more(&self, n: u64) {
        let goal = self.arrived() + n;
        wait_for("frames to arrive", || (self.arrived() >= goal).then_some(()));
    }

    /// Ends it. What is on its way must still arrive. Returns how many frames arrived in all, and the clients.
    pub fn stop(mut self) -> (u64, Client, Client) {
        self.shared.stop.store(true, Relaxed);
        let (a, b) = self.thread.take().unwrap().join().expect("the exchange's thread ends");
        self.arrived();
        let arrived = self.shared.arrived.iter().map(|n| n.load(Relaxed)).sum();
        (arrived, a, b)
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        self.shared.stop.store(true, Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn exchange(mut a: Client, mut b: Client, shared: &Shared) -> (Client, Client) {
    let macs = [mac(0xa), mac(0xb)];
    // By direction: 0 from a to b, 1 from b to a.
    let (mut sent, mut arrived) = ([0u64; 2], [0u64; 2]);
    let mut progress = [Instant::now(); 2];
    let mut buffer = vec![0; 16384];
    let fault = loop {
        let stop = shared.stop.load(Relaxed);
        if stop && sent == arrived {
            break None;
        }
        let before = arrived;
        for way in 0..2 {
            let (from, to) = if way == 0 { (&mut a, &mut b) } else { (&mut b, &mut a) };
            // The first frame each way is alone, so that the others find its source in the FDB and need no flooding.
            let window = if arrived[way] == 0 { 1 } else { WINDOW };
            while !stop && sent[way] - arrived[way] < window {
                if !from.tx[0].send(&numbered(macs[way], macs[1 - way], sent[way])) {
                    break;
                }
                sent[way] += 1;
            }
            while let Some(len) = to.rx[0].recv(&mut buffer) {
                let frame = &buffer[..len];
                if frame.len() < 14 || frame[6..12] != macs[way] || frame[12..14] != EXPERIMENTAL {
                    continue; // flooded by somebody else
                }
                let expected = numbered(macs[way], macs[1 - way], arrived[way]);
                if frame != expected {
                    let number = frame.get(14..22).map(|n| u64::from_be_bytes(n.try_into().unwrap()));
                    *shared.fault.lock().unwrap() = Some(format!(
                        "lost, repeated, out of order or damaged: frame {number:?} of {len} bytes instead of {} of {} \
                         bytes (way {way})",
                        arrived[way],
                        expected.len()
                    ));
                    return (a, b);
                }
                arrived[way] += 1;
                shared.arrived[way].store(arrived[way], Relaxed);
            }
        }
        for way in 0..2 {
            if arrived[way] != before[way] {
                progress[way] = Instant::now();
            }
        }
        if progress.iter().any(|since| since.elapsed() > PATIENCE / 2) {
            let down = (a.down(), b.down());
            break Some(format!("lost: {sent:?} frames were sent, {arrived:?} arrived; links {down:?}"));
        }
        if arrived == before {
            thread::yield_now();
        }
    };
    *shared.fault.lock().unwrap() = fault;
    (a, b)
}

/// All frames of ours that have arrived at `client`.
pub fn receive(client: &mut Client) -> Vec<Vec<u8>> {
    let mut buffer = vec![0; 16384];
    let mut frames = Vec::new();
    while let Some(len) = client.rx[0].recv(&mut buffer) {
        frames.push(buffer[..len].to_vec());
    }
    frames
}

/// Waits until exactly these frames have arrived at `client`, and a moment more for those that should not.
#[track_caller]
pub fn expect(client: &mut Client, wanted: &[Vec<u8>]) {
    let begin = Instant::now();
    let mut got = Vec::new();
    while got.len() < wanted.len() && begin.elapsed() < PATIENCE {
        got.extend(receive(client));
        sleep(Duration::from_millis(1));
    }
    sleep(Duration::from_millis(30));
    got.extend(receive(client));
    assert_eq!(got, wanted);
}

/// Sends frames, waiting for room in the ring.
pub fn send<T: AsRef<[u8]> + Debug>(client: &mut Client, frames: &[T]) {
    for frame in frames {
        wait_for("room in the ring", || client.tx[0].send(frame.as_ref()).then_some(()));
    }
}

/// Sleeps.
pub fn sleep_ms(ms: u64) {
    sleep(Duration::from_millis(ms));
}
