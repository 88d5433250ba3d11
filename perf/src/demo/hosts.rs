//! The demo's hosts: network namespaces, switches and containers, and how all of it goes away again.
//!
//! Host a and host b are namespaces with a `drayd` each, whose NIC is one end of a veth pair. Host k is the kernel: a bridge that
//! joins the other ends is the underlay, and its own vxlan device is the third VTEP. Containers on memif have a namespace without
//! any interface: what they exchange can only go through memif. Those with sockets have one with the device that `dray attach` gives
//! them.

use super::container::{Command as Say, Reply};
use super::progress::{Interrupt, Stop};
use crate::memif::{End, Options};
use dray_api::{PortInfo, Status};
use dray_config::{SocketName, allowed_cpus};
use rustix::process::{Pid, Signal, kill_process};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use std::ffi::OsStr;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::Ipv4Addr;
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

/// The overlay's identifier.
pub const VNI: u32 = 42;
/// Longest IP packet in the overlay: the underlay's 1500 less outer IPv4 (20), UDP (8), VXLAN (8) and inner Ethernet (14).
pub const OVERLAY_MTU: u16 = 1450;

/// A host with a switch of ours.
#[derive(Debug)]
pub struct Host {
    /// `a` or `b`.
    pub name: &'static str,
    /// Its VTEP's address.
    pub vtep: Ipv4Addr,
    /// Memif ports of a bridge of their own, for the throughput test.
    pub bench: &'static [&'static str],
}

/// The hosts with a switch.
pub const HOSTS: [Host; 2] = [
    Host { name: "a", vtep: Ipv4Addr::new(10, 9, 0, 1), bench: &["gen0", "gen1"] },
    Host { name: "b", vtep: Ipv4Addr::new(10, 9, 0, 2), bench: &[] },
];
/// The kernel's VTEP.
pub const KERNEL_VTEP: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 3);

/// How a station takes part in the overlay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A container with a TCP/IP stack of its own, on a memif port.
    Memif,
    /// A container with the kernel's sockets, on a TAP port.
    Tap,
    /// Host k itself, with its vxlan device.
    Vxlan,
}

impl Kind {
    /// As it is shown: a port's kind, or the kernel's device.
    pub fn label(self) -> &'static str {
        match self {
            Kind::Memif => "memif",
            Kind::Tap => "tap",
            Kind::Vxlan => "vxlan",
        }
    }
}

/// Who is in the overlay.
#[derive(Debug)]
pub struct Station {
    /// What it is called; for a container on memif also its port's name.
    pub name: &'static str,
    /// The host it is on.
    pub host: &'static str,
    /// What it is.
    pub kind: Kind,
    /// Its address in the overlay.
    pub ip: Ipv4Addr,
}

impl Station {
    const fn new(name: &'static str, host: &'static str, kind: Kind, last: u8) -> Station {
        Station { name, host, kind, ip: Ipv4Addr::new(10, 1, 0, last) }
    }

    /// The switch's port that leads to it, or the kernel's.
    pub fn port(&self) -> String {
        match self.kind {
            Kind::Memif => self.name.into(),
            // As attach makes it of container and device.
            Kind::Tap => format!("{}.{IFNAME}", self.name),
            Kind::Vxlan => "vx".into(),
        }
    }
}

/// The device of a container with sockets.
const IFNAME: &str = "eth0";

/// The containers, and the kernel as the last.
pub const STATIONS: [Station; 7] = [
    Station::new("a1", "a", Kind::Memif, 11),
    Station::new("a2", "a", Kind::Memif, 12),
    Station::new("a3", "a", Kind::Tap, 13),
    Station::new("a4", "a", Kind::Tap, 14),
    Station::new("b1", "b", Kind::Memif, 21),
    Station::new("b2", "b", Kind::Tap, 22),
    KERNEL,
];

/// The kernel's station.
pub const KERNEL: Station = Station::new("k", "k", Kind::Vxlan, 31);

/// The stations of a kind.
pub fn stations(kind: Kind) -> impl Iterator<Item = &'static Station> {
    STATIONS.iter().filter(move |s| s.kind == kind)
}

/// The CPU of the worker of the `i`th host: the last ones, each its own as far as there are any.
pub fn worker_cpu(i: usize) -> usize {
    let cpus = allowed_cpus();
    cpus.get(cpus.len().saturating_sub(1 + i)).copied().unwrap_or(0)
}

/// The configuration file of a host's switch.
fn config(host: &Host, dir: &Path, cpu: usize) -> String {
    let dir = dir.display();
    // More processes than CPUs: whatever a worker that polls all the time keeps waiting (the kernel's RCU, for tens of seconds) keeps
    // the demo waiting too.
    let mut file = format!(
        "[control]\nsocket = \"{dir}/dray.sock\"\n\n[[worker]]\ncpu = {cpu}\nidle-sleep = 50\n\n[fdb]\nsize = 65536\n"
    );
    let members: Vec<&str> = stations(Kind::Memif).filter(|s| s.host == host.name).map(|s| s.name).collect();
    for (id, name) in members.iter().chain(host.bench).enumerate() {
        file += &format!("\n[[port]]\nname = \"{name}\"\nkind = \"memif\"\nsocket = \"{dir}/memif.sock\"\nid = {id}\n");
    }
    file += "\n[[port]]\nname = \"uplink\"\nkind = \"eth\"\ndevice = \"eth1\"\n";
    file += &format!("\n[[bridge]]\nname = \"blue\"\nvni = {VNI}\nports = {members:?}\n");
    if !host.bench.is_empty() {
        file += &format!("\n[[bridge]]\nname = \"bench\"\nports = {:?}\n", host.bench);
    }
    let peers: Vec<String> = HOSTS.iter().map(|h| h.vtep).chain([KERNEL_VTEP]).map(|ip| ip.to_string()).collect();
    let peers: Vec<String> = peers.into_iter().filter(|ip| *ip != host.vtep.to_string()).collect();
    file + &format!("\n[vxlan]\nport = \"uplink\"\nlocal = \"{}/24\"\npeers = {peers:?}\n", host.vtep)
}

/// Runs a program to its end; what it wrote on standard output.
///
/// # Errors
/// Why it could not run or what it complained about.
pub fn run(program: &str, arguments: &[&str]) -> Result<String, Stop> {
    let line = || format!("{program} {}", arguments.join(" "));
    // In a process group of its own: Ctrl-C is for the demo, which then ends what it started in order.
    let output = Command::new(program).args(arguments).stdin(Stdio::null()).process_group(0).output();
    let output = output.map_err(|e| format!("{}: {e}", line()))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let complaint = String::from_utf8_lossy(&output.stderr);
    Err(Stop::Failed(format!("{}: {}: {}", line(), output.status, complaint.trim())))
}

/// [`run`] with words that contain no spaces.
fn words(line: &str) -> Result<String, Stop> {
    let words: Vec<&str> = line.split_whitespace().collect();
    run(words[0], &words[1..])
}

/// A container's process.
#[derive(Debug)]
struct Container {
    name: &'static str,
    child: Child,
    replies: Receiver<String>,
}

/// Everything the demo makes on this machine. Dropping it removes all of it.
#[derive(Debug)]
pub struct Lab {
    /// The signals that end the demo.
    pub interrupt: Interrupt,
    /// Where the sockets, configurations, logs and files are.
    pub dir: PathBuf,
    bin: PathBuf,
    prefix: String,
    switches: Vec<(&'static str, Child)>,
    containers: Vec<Container>,
    /// What runs in the containers with sockets.
    programs: Vec<Child>,
}

/// Beginning of the names of all demos' namespaces and directories; the process id follows.
const PREFIX: &str = "dray-demo-";

/// Where demos have their directories: in memory, if there is a place for that, for it is a network that is shown and not a disk.
fn base() -> PathBuf {
    let memory = Path::new("/dev/shm");
    if memory.is_dir() { memory.into() } else { std::env::temp_dir() }
}

impl Lab {
    /// Makes the directory, nothing else. `bin` has the executables.
    ///
    /// # Errors
    /// Why not.
    pub fn new(interrupt: Interrupt, bin: PathBuf) -> Result<Lab, Stop> {
        sweep();
        let prefix = format!("{PREFIX}{}", std::process::id());
        let dir = base().join(&prefix);
        let (switches, containers, programs) = (Vec::new(), Vec::new(), Vec::new());
        let lab = Lab { interrupt, dir, bin, prefix, switches, containers, programs };
        for host in &HOSTS {
            let dir = lab.dir.join(host.name);
            fs::create_dir_all(&dir).map_err(|e| format!("{}: {e}", dir.display()))?;
        }
        Ok(lab)
    }

    /// The network namespace of a host, or of a container with sockets.
    pub fn namespace(&self, of: &str) -> String {
        format!("{}-{of}", self.prefix)
    }

    fn make_namespace(&self, of: &str) -> Result<(), Stop> {
        let namespace = self.namespace(of);
        words(&format!("ip netns add {namespace}"))?;
        words(&format!("ip -n {namespace} link set lo up")).map(drop)
    }

    /// `program`, to be started in a namespace; should the demo be killed outright, it ends as well.
    fn command(&self, namespace_of: &str, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.namespace(namespace_of), "setpriv", "--pdeathsig", "KILL", "--"]);
        command.arg(program).stdin(Stdio::null()).process_group(0);
        command
    }

    fn socket(&self, host: &str) -> PathBuf {
        self.dir.join(host).join("dray.sock")
    }

    /// Makes the hosts and the network between them.
    ///
    /// # Errors
    /// What `ip` or `bridge` complained about; a signal.
    pub fn make_network(&self) -> Result<(), Stop> {
        let k = self.namespace("k");
        for host in ["a", "b", "k"] {
            self.make_namespace(host)?;
        }
        words(&format!("ip -n {k} link add underlay type bridge mcast_snooping 0"))?;
        words(&format!("ip -n {k} addr add {KERNEL_VTEP}/24 dev underlay"))?;
        words(&format!("ip -n {k} link set underlay addrgenmode none up"))?;
        for host in &HOSTS {
            self.interrupt.check()?;
            let (h, name) = (self.namespace(host.name), host.name);
            words(&format!("ip -n {k} link add to-{name} type veth peer name eth1 netns {h}"))?;
            words(&format!("ip -n {k} link set to-{name} master underlay addrgenmode none up"))?;
            words(&format!("ip -n {h} link set eth1 addrgenmode none up"))?;
        }
        words(&format!("ip -n {k} link add vx{VNI} type vxlan id {VNI} local {KERNEL_VTEP} dstport 4789"))?;
        words(&format!("ip -n {k} addr add {}/24 dev vx{VNI}", KERNEL.ip))?;
        words(&format!("ip -n {k} link set vx{VNI} mtu {OVERLAY_MTU} addrgenmode none up"))?;
        for host in &HOSTS {
            words(&format!("bridge -n {k} fdb append 00:00:00:00:00:00 dev vx{VNI} dst {}", host.vtep))?;
        }
        self.interrupt.check()
    }

    /// Starts the switches, and waits until they take commands.
    ///
    /// # Errors
    /// Why one does not, with the end of its log; a signal.
    pub fn start_switches(&mut self) -> Result<(), Stop> {
        for (i, host) in HOSTS.iter().enumerate() {
            let dir = self.dir.join(host.name);
            let file = dir.join("dray.toml");
            fs::write(&file, config(host, &dir, worker_cpu(i))).map_err(|e| format!("{}: {e}", file.display()))?;
            let log = dir.join("log");
            let log = fs::File::create(&log).map_err(|e| format!("{}: {e}", log.display()))?;
            let also = log.try_clone().map_err(|e| format!("a log: {e}"))?;
            let mut drayd = self.command(host.name, self.bin.join("drayd"));
            let child = drayd.arg("--config").arg(&file).stdout(log).stderr(also).spawn();
            self.switches.push((host.name, child.map_err(|e| format!("drayd: {e}"))?));
        }
        for host in &HOSTS {
            self.wait_for(host.name, "the switch takes commands", Duration::from_secs(15), |lab| {
                Ok(lab.dray(host.name, &["status"]).ok())
            })?;
        }
        Ok(())
    }

    /// Waits for `ready`, as long as the switch of `host` runs.
    fn wait_for<T>(
        &mut self,
        host: &str,
        what: &str,
        timeout: Duration,
        mut ready: impl FnMut(&Lab) -> Result<Option<T>, Stop>,
    ) -> Result<T, Stop> {
        let interrupt = self.interrupt.clone();
        interrupt.wait(&format!("host {host}: {what}"), timeout, || {
            for (name, child) in &mut self.switches {
                if let Ok(Some(status)) = child.try_wait() {
                    return Err(Stop::Failed(format!("the switch of host {name} has ended: {status}")));
                }
            }
            ready(self)
        })
    }

    /// The last lines of the switches' logs.
    pub fn logs(&self) -> String {
        let mut all = String::new();
        for (name, _) in &self.switches {
            let log = fs::read_to_string(self.dir.join(name).join("log")).unwrap_or_default();
            let lines: Vec<&str> = log.lines().collect();
            for line in &lines[lines.len().saturating_sub(12)..] {
                all += &format!("host {name}: {line}\n");
            }
        }
        all
    }

    /// What `dray --json` answers for the switch of `host`.
    fn dray(&self, host: &str, arguments: &[&str]) -> Result<String, Stop> {
        let (dray, socket) = (self.bin.join("dray"), self.socket(host));
        let mut all = vec!["--socket", socket.to_str().unwrap_or_default(), "--json"];
        all.extend(arguments);
        run(dray.to_str().unwrap_or_default(), &all)
    }

    /// The ports of `host` as `dray port show` has them.
    ///
    /// # Errors
    /// Why the command failed.
    pub fn ports(&self, host: &str) -> Result<Vec<PortInfo>, Stop> {
        let text = self.dray(host, &["port", "show"])?;
        serde_json::from_str(&text).map_err(|e| Stop::Failed(format!("dray port show: {e}: {text}")))
    }

    /// Waits until the switches' counters add up: `received + originated + copies + segments = sent + dropped + consumed`. They
    /// are read while packets may be under way, so that it takes a quiet moment. How many packets were received on all hosts.
    ///
    /// # Errors
    /// How many packets are not accounted for; why the command failed; a signal.
    pub fn accounts(&mut self) -> Result<u64, Stop> {
        let mut received = 0;
        for host in &HOSTS {
            let mut missing = 0;
            let waited = self.wait_for(host.name, "counters add up", Duration::from_secs(3), |lab| {
                let text = lab.dray(host.name, &["status"])?;
                let s: Status = serde_json::from_str(&text).map_err(|e| format!("dray status: {e}: {text}"))?;
                let arrived = s.received + s.originated + s.flood_copies + s.segments;
                missing = i128::from(arrived) - i128::from(s.sent + s.dropped + s.consumed);
                Ok((missing == 0).then_some(s.received))
            });
            received += match waited {
                Err(Stop::Failed(why)) => return Err(Stop::Failed(format!("{why}: {missing} packets are missing"))),
                waited => waited?,
            };
        }
        Ok(received)
    }

    /// Bytes the kernel's vxlan device received and sent.
    ///
    /// # Errors
    /// Why `ip` failed.
    pub fn kernel_bytes(&self) -> Result<(u64, u64), Stop> {
        let text = words(&format!("ip -n {} -json -stats link show vx{VNI}", self.namespace("k")))?;
        let value: serde_json::Value = serde_json::from_str(&text).map_err(|e| format!("ip -json: {e}"))?;
        let bytes = |way: &str| value[0]["stats64"][way]["bytes"].as_u64().unwrap_or(0);
        Ok((bytes("rx"), bytes("tx")))
    }

    /// The memif socket of the switch of `host`.
    fn memif(&self, host: &str) -> PathBuf {
        self.dir.join(host).join("memif.sock")
    }

    /// What a generator sends on the two ports of host a that are there for it.
    pub fn bench_options(&self) -> Options {
        let socket = SocketName::Path(self.memif("a"));
        // The containers' ports come first.
        let first = stations(Kind::Memif).filter(|s| s.host == "a").count() as u32;
        let options = Options::new(End::new(socket.clone(), first), End::new(socket, first + 1));
        Options { flows: 1000, ..options }
    }

    /// Starts the containers on memif.
    ///
    /// # Errors
    /// Why one does not start or get its link; a signal.
    pub fn start_containers(&mut self) -> Result<(), Stop> {
        let me = std::env::current_exe().map_err(|e| format!("this program's own path: {e}"))?;
        for host in &HOSTS {
            for (id, station) in stations(Kind::Memif).filter(|s| s.host == host.name).enumerate() {
                let ip = station.ip.octets();
                let mut child = Command::new("unshare")
                    .args(["--net", "--"])
                    .arg(&me)
                    .args(["container", "--id", &id.to_string(), "--socket"])
                    .arg(self.memif(host.name))
                    .args(["--ip", &format!("{}/24", station.ip)])
                    .args(["--mac", &format!("02:00:{:02x}:{:02x}:{:02x}:{:02x}", ip[0], ip[1], ip[2], ip[3])])
                    .args(["--mtu", &OVERLAY_MTU.to_string()])
                    .stdin(Stdio::piped())
                    .stdout(Stdio::piped())
                    .stderr(Stdio::piped())
                    .process_group(0)
                    .spawn()
                    .map_err(|e| format!("unshare: {e}"))?;
                let (send, replies) = channel();
                if let (Some(out), Some(err)) = (child.stdout.take(), child.stderr.take()) {
                    // What it complains about comes last, when it has ended.
                    std::thread::spawn(move || {
                        let lines = BufReader::new(out).lines().chain(BufReader::new(err).lines());
                        lines.map_while(Result::ok).all(|line| send.send(line).is_ok());
                    });
                }
                self.containers.push(Container { name: station.name, child, replies });
            }
        }
        for station in stations(Kind::Memif) {
            match self.answer(station.name, Duration::from_secs(10))? {
                Reply::Up { .. } => {}
                other => return Err(Stop::Failed(format!("container {}: {other:?}", station.name))),
            }
        }
        Ok(())
    }

    /// Makes the containers with sockets, attaches each to its host's switch, and starts an iperf3 server in it. How long the slowest
    /// `dray attach` took.
    ///
    /// # Errors
    /// What `ip`, `dray` or iperf3 complained about; a signal.
    pub fn attach_containers(&mut self) -> Result<Duration, Stop> {
        let mut slowest = Duration::ZERO;
        for station in stations(Kind::Tap) {
            self.interrupt.check()?;
            self.make_namespace(station.name)?;
            let netns = format!("/run/netns/{}", self.namespace(station.name));
            let ip = format!("{}/24", station.ip);
            let start = Instant::now();
            let attach = ["attach", station.name, "--netns", &netns, "--bridge", "blue", "--name", IFNAME, "--ip", &ip];
            self.dray(station.host, &attach)?;
            slowest = slowest.max(start.elapsed());

            let log = self.dir.join(station.name);
            let mut server = self.command(station.name, "iperf3");
            server
                .args(["--server", "--forceflush", "--logfile"])
                .arg(&log)
                .stdout(Stdio::null())
                .stderr(Stdio::null());
            self.programs.push(server.spawn().map_err(|e| format!("iperf3: {e}"))?);
            let what = format!("container {}: iperf3 listens", station.name);
            self.interrupt.wait(&what, Duration::from_secs(5), || {
                let said = fs::read_to_string(&log).unwrap_or_default();
                Ok(said.contains("listening").then_some(()))
            })?;
        }
        Ok(slowest)
    }

    /// One TCP stream by iperf3 between two containers with sockets, for so many seconds; bits a second that arrived.
    ///
    /// # Errors
    /// What iperf3 complained about; a signal.
    pub fn iperf3(&mut self, from: &Station, to: &Station, seconds: u64) -> Result<f64, Stop> {
        let what = format!("iperf3 from {} to {}", from.name, to.name);
        let report = self.dir.join(format!("{}-{}.json", from.name, to.name));
        let (to, time) = (to.ip.to_string(), seconds.to_string());
        let mut client = self.command(from.name, "iperf3");
        client
            .args(["--client", &to, "--time", &time, "--connect-timeout", "3000", "--json", "--logfile"])
            .arg(&report);
        let child = client.stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        self.programs.push(child.map_err(|e| format!("{what}: {e}"))?);
        let interrupt = self.interrupt.clone();
        let timeout = Duration::from_secs(seconds + 10);
        interrupt.wait(&what, timeout, || {
            // The last one is the client.
            let status = self.programs.last_mut().map(Child::try_wait);
            Ok(matches!(status, Some(Ok(Some(_)) | Err(_)) | None).then_some(()))
        })?;
        self.programs.pop();
        let text = fs::read_to_string(&report).unwrap_or_default();
        let value: serde_json::Value =
            serde_json::from_str(&text).map_err(|e| format!("{what}: its report: {e}: {text}"))?;
        match (value["end"]["sum_received"]["bits_per_second"].as_f64(), value["error"].as_str()) {
            (Some(rate), None) => Ok(rate),
            (_, error) => Err(Stop::Failed(format!("{what}: {}", error.unwrap_or("its report has no rate")))),
        }
    }

    fn container(&mut self, name: &str) -> Result<&mut Container, Stop> {
        let found = self.containers.iter_mut().find(|c| c.name == name);
        found.ok_or_else(|| Stop::Failed(format!("there is no container {name}")))
    }

    /// Tells a container what to do, and waits for its answer.
    ///
    /// # Errors
    /// The container's reason; that there is no answer; a signal.
    pub fn say(&mut self, name: &'static str, command: &Say, timeout: Duration) -> Result<Reply, Stop> {
        let line = serde_json::to_string(command).map_err(|e| format!("{command:?}: {e}"))?;
        if let Some(pipe) = &mut self.container(name)?.child.stdin {
            writeln!(pipe, "{line}").map_err(|e| format!("container {name}: {e}"))?;
        }
        match self.answer(name, timeout)? {
            Reply::Failed { reason } => Err(Stop::Failed(format!("container {name}: {reason}"))),
            reply => Ok(reply),
        }
    }

    fn answer(&mut self, name: &'static str, timeout: Duration) -> Result<Reply, Stop> {
        let interrupt = self.interrupt.clone();
        let container = self.container(name)?;
        let line = interrupt.wait(&format!("container {name} answers"), timeout, || {
            match container.replies.recv_timeout(Duration::from_millis(20)) {
                Ok(line) => Ok(Some(line)),
                Err(RecvTimeoutError::Timeout) => Ok(None),
                Err(RecvTimeoutError::Disconnected) => Err(Stop::Failed(format!("container {name} has ended"))),
            }
        })?;
        serde_json::from_str(&line).map_err(|_| Stop::Failed(format!("container {name}: {line}")))
    }

    /// Waits until all ports that should have a link have one.
    ///
    /// # Errors
    /// Which have none; a signal.
    pub fn wait_for_links(&mut self) -> Result<usize, Stop> {
        let mut up = 0;
        for host in &HOSTS {
            let down = |lab: &Lab| -> Result<Vec<String>, Stop> {
                let ports = lab.ports(host.name)?;
                let down = ports.iter().filter(|p| p.link != "up" && !host.bench.contains(&p.name.as_str()));
                Ok(down.map(|p| format!("{}: {}", p.name, p.reason.as_deref().unwrap_or("down"))).collect())
            };
            let waited = self.wait_for(host.name, "all links up", Duration::from_secs(10), |lab| {
                Ok(down(lab)?.is_empty().then_some(()))
            });
            if let Err(Stop::Failed(why)) = waited {
                return Err(Stop::Failed(format!("{why} ({})", down(self)?.join(", "))));
            }
            waited?;
            up += self.ports(host.name)?.iter().filter(|p| p.link == "up").count();
        }
        Ok(up)
    }

    /// Does `work` in a thread that is in the network of a host, or of a container with sockets.
    ///
    /// # Errors
    /// That there is no such network; those of `work`.
    pub fn inside<T: Send>(&self, of: &str, work: impl FnOnce() -> Result<T, Stop> + Send) -> Result<T, Stop> {
        let path = Path::new("/run/netns").join(self.namespace(of));
        let namespace = fs::File::open(&path).map_err(|e| format!("{}: {e}", path.display()))?;
        std::thread::scope(|scope| {
            let thread = scope.spawn(move || {
                // Only this thread moves, and it ends with the work.
                move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))
                    .map_err(|e| format!("{}: {e}", path.display()))?;
                work()
            });
            thread.join().unwrap_or_else(|_| Err(Stop::Failed("a thread panicked".into())))
        })
    }

    /// Ends the processes and removes namespaces and files; what is left all the same. Twice does no harm.
    pub fn clean_up(&mut self) -> Vec<String> {
        let mut left = Vec::new();
        for container in &mut self.containers {
            // The end of its standard input is its end.
            drop(container.child.stdin.take());
        }
        for child in self.programs.iter().chain(self.switches.iter().map(|(_, child)| child)) {
            let _ = kill_process(Pid::from_child(child), Signal::TERM);
        }
        for child in self.containers.iter_mut().map(|container| &mut container.child).chain(&mut self.programs) {
            end(child, Duration::from_secs(1));
        }
        for (name, child) in &mut self.switches {
            if !end(child, Duration::from_secs(3)) {
                left.push(format!("the switch of host {name} did not end by itself, and was killed"));
            }
        }
        self.containers.clear();
        self.programs.clear();
        self.switches.clear();
        remove(&self.prefix);
        left.extend(namespaces().filter(|name| is_of(name, &self.prefix)).map(|name| format!("/run/netns/{name}")));
        if self.dir.exists() {
            left.push(self.dir.display().to_string());
        }
        left
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        self.clean_up();
    }
}

/// Waits for a process that was asked to end, and kills it if it does not; whether it did.
fn end(child: &mut Child, timeout: Duration) -> bool {
    let deadline = Instant::now() + timeout;
    while Instant::now() < deadline {
        if !matches!(child.try_wait(), Ok(None)) {
            return true;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    let _ = child.kill();
    let _ = child.wait();
    false
}

/// The names of all network namespaces that have one.
fn namespaces() -> impl Iterator<Item = String> {
    fs::read_dir("/run/netns").into_iter().flatten().flatten().filter_map(|entry| entry.file_name().into_string().ok())
}

/// Whether a namespace is one of the demo `prefix`.
fn is_of(namespace: &str, prefix: &str) -> bool {
    namespace.strip_prefix(prefix).is_some_and(|rest| rest.starts_with('-'))
}

/// Removes the namespaces and the directory of the demo `prefix`.
fn remove(prefix: &str) {
    for namespace in namespaces().filter(|name| is_of(name, prefix)) {
        let _ = run("ip", &["netns", "del", &namespace]);
    }
    let _ = fs::remove_dir_all(base().join(prefix));
}

/// Removes what demos left that were killed outright: namespaces named after a process that is no more.
fn sweep() {
    for name in namespaces() {
        let pid = name.strip_prefix(PREFIX).and_then(|rest| rest.split_once('-')).map(|(pid, _)| pid);
        if let Some(pid) = pid.and_then(|pid| pid.parse::<u32>().ok())
            && !Path::new(&format!("/proc/{pid}")).exists()
        {
            remove(&format!("{PREFIX}{pid}"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_switches_configurations_are_valid() {
        let dir = Path::new("/tmp/dray-demo-1/a");
        for host in &HOSTS {
            let text = config(host, dir, worker_cpu(0));
            let valid = dray_config::parse("dray.toml", &text).unwrap_or_else(|e| panic!("{e}\n{text}"));
            assert_eq!(valid.bridge("blue").unwrap().vni, Some(VNI));
            assert_eq!(valid.vxlan.unwrap().peers.len(), 2);
        }
    }

    #[test]
    fn programs_that_fail_say_why() {
        let Err(Stop::Failed(why)) = run("sh", &["-c", "echo no such thing >&2; exit 3"]) else { panic!() };
        assert!(why.contains("exit status: 3: no such thing"), "{why}");
        assert_eq!(run("echo", &["x"]), Ok("x\n".into()));
        assert!(matches!(run("/nonexistent/program", &[]), Err(Stop::Failed(_))));
    }
}
