//! The switches that are measured, as processes of this one. Each kind of switch is a file: how it is started, when it is
//! ready, and what a report has to say about it.

mod dray;
mod ovs;
mod testpmd;
mod vpp;

pub use dray::Dray;
pub use ovs::Ovs;
pub use testpmd::Testpmd;
pub use vpp::Vpp;

use crate::cpu;
use dray_config::SocketName;
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process, waitid};
use serde::{Deserialize, Serialize};
use std::fs::{self, File};
use std::io::Write;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// How long a switch may take until it listens.
const PATIENCE: Duration = Duration::from_secs(30);

/// A directory that is removed with what is in it.
pub struct TempDir(PathBuf);

impl TempDir {
    /// A new one below the system's directory for temporary files.
    ///
    /// # Errors
    /// If it can't be made.
    pub fn new() -> Result<TempDir, String> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("dray-perf-{}-{number}", std::process::id()));
        fs::create_dir(&path).map_err(|e| format!("make {}: {e}", path.display()))?;
        Ok(TempDir(path))
    }

    /// Its path.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// The path of a file in it.
    fn file(&self, name: &str) -> String {
        self.0.join(name).display().to_string()
    }

    /// Writes a file in it, and gives its path.
    fn write(&self, name: &str, text: &str) -> Result<String, String> {
        let path = self.file(name);
        fs::write(&path, text).map_err(|e| format!("write {path}: {e}"))?;
        Ok(path)
    }
}

impl Drop for TempDir {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// The kind of a switch's ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// memif: interfaces 0 and 1 on one socket.
    Memif,
    /// vhost-user: the switch listens on a socket for each.
    VhostUser,
}

impl Kind {
    /// Names of the ports' sockets.
    fn sockets(self) -> [&'static str; 2] {
        match self {
            Kind::Memif => ["memif.sock"; 2],
            Kind::VhostUser => ["a.sock", "b.sock"],
        }
    }

    /// What it is called.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Memif => "memif",
            Kind::VhostUser => "vhost-user",
        }
    }
}

/// The overlay of a switch whose port B is the underlay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Overlay {
    /// The bridge's VXLAN network identifier.
    pub vni: u32,
    /// The switch's VTEP; its network has 24 bits.
    pub local: Ipv4Addr,
    /// The only other VTEP, behind port B.
    pub remote: Ipv4Addr,
}

/// What a switch is to be.
#[derive(Clone, Copy, Debug)]
pub struct Setup {
    /// The CPU of all its threads, or of all that move frames.
    pub cpu: usize,
    /// A CPU for a thread that sleeps, of a switch that can't do without one.
    pub other_cpu: usize,
    /// Its ports.
    pub kind: Kind,
    /// Without: a bridge with both ports.
    pub overlay: Option<Overlay>,
    /// Descriptors a ring.
    pub ring_size: u32,
    /// MACs that it has to know at most.
    pub macs: usize,
    /// What DPDK gets.
    pub memory: Memory,
}

/// A kind of switch.
pub trait Peer {
    /// What it is called in tables.
    fn name(&self) -> &'static str;

    /// Its version, and that of DPDK if it has it.
    ///
    /// # Errors
    /// If it isn't here.
    fn version(&self) -> Result<String, String>;

    /// What it does with a frame, and what it was told beside its command line, in a few sentences.
    fn about(&self) -> &'static str;

    /// Why it can't be what it is to be, if so.
    fn lacks(&self, setup: &Setup) -> Option<&'static str>;

    /// Starts it, and waits until it listens.
    ///
    /// # Errors
    /// If it does not.
    fn start(&self, setup: &Setup) -> Result<Switch, String>;
}

/// A switch between two ports. It ends when it is dropped.
pub struct Switch {
    name: &'static str,
    /// The last one moves frames, the others serve it.
    processes: Vec<Child>,
    sockets: [SocketName; 2],
    /// What it is told when its links are up.
    begin: Option<&'static str>,
    queues: u16,
    commands: Vec<String>,
    dir: TempDir,
}

/// How DPDK gets its memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Memory {
    /// Huge pages of the kernel's pool.
    Huge,
    /// Ordinary pages.
    Ordinary,
}

/// Which CPUs a process may use.
#[derive(Clone, Copy)]
enum On {
    /// One, with all its threads: what its control threads cost is its own affair.
    Cpu(usize),
    /// All of ours.
    Any,
}

impl Switch {
    /// One without processes, whose ports have these sockets in `dir`.
    fn new(name: &'static str, kind: Kind, dir: TempDir) -> Switch {
        let sockets = kind.sockets().map(|socket| SocketName::Path(dir.path().join(socket)));
        Switch { name, processes: Vec::new(), sockets, begin: None, queues: 1, commands: Vec::new(), dir }
    }

    /// Starts one of its processes. It is killed if this process ends without doing so itself.
    fn spawn(&mut self, on: On, program: &str, args: &[&str]) -> Result<(), String> {
        let number = self.processes.len();
        let log = File::create(self.dir.path().join(format!("log{number}"))).map_err(|e| e.to_string())?;
        let errors = log.try_clone().map_err(|e| e.to_string())?;
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "--", program]).args(args);
        // Programs of OVS look for what they don't find on their command line in this.
        command.env("OVS_RUNDIR", self.dir.path());
        command.stdin(Stdio::piped()).stdout(log).stderr(errors);
        let mut spawned = || command.spawn().map_err(|e| format!("start setpriv {program}: {e}"));
        self.processes.push(match on {
            On::Cpu(cpu) => cpu::on(cpu, spawned)?,
            On::Any => spawned()?,
        });
        self.note(program, args);
        Ok(())
    }

    /// Runs a command of it to its end, and gives what it prints.
    fn command(&mut self, program: &str, args: &[&str]) -> Result<String, String> {
        let text = run(Command::new(program).args(args).env("OVS_RUNDIR", self.dir.path()))?;
        self.note(program, args);
        Ok(text)
    }

    /// Keeps a command line for the report.
    fn note(&mut self, program: &str, args: &[&str]) {
        let quoted = |word: &str| {
            let plain = word.chars().all(|c| c.is_ascii_alphanumeric() || "-_=/.,:@%+".contains(c));
            if plain && !word.is_empty() { word.to_owned() } else { format!("'{word}'") }
        };
        let words: Vec<String> = std::iter::once(&program).chain(args).map(|word| quoted(word)).collect();
        self.commands.push(words.join(" "));
    }

    /// Waits until `ready` says so.
    fn wait(&mut self, what: &str, mut ready: impl FnMut(&Switch) -> bool) -> Result<(), String> {
        let end = Instant::now() + PATIENCE;
        while !ready(self) {
            self.alive()?;
            if Instant::now() > end {
                return Err(format!("{} {what}:\n{}", self.name, self.log()));
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    }

    /// Waits until its ports' sockets are there.
    fn wait_for_sockets(&mut self) -> Result<(), String> {
        self.wait("does not listen", |switch| switch.sockets.iter().all(exists))
    }

    /// Makes it move frames, now that its links are up.
    ///
    /// # Errors
    /// If it has ended.
    pub fn start(&mut self) -> Result<(), String> {
        if let (Some(words), Some(process)) = (self.begin, self.processes.last_mut())
            && let Some(stdin) = &mut process.stdin
        {
            let _ = stdin.write_all(words.as_bytes());
        }
        self.alive()
    }

    /// Whether it is still running.
    ///
    /// # Errors
    /// If not: what it said at last.
    pub fn alive(&mut self) -> Result<(), String> {
        for process in &mut self.processes {
            if let Ok(Some(status)) = process.try_wait() {
                return Err(format!("{} has ended ({status}):\n{}", self.name, self.log()));
            }
        }
        Ok(())
    }

    /// Stops it where it is: it takes no time of any CPU until [`Switch::resume`].
    ///
    /// # Errors
    /// If it has ended.
    pub fn pause(&mut self) -> Result<(), String> {
        for process in &self.processes {
            if let Some(pid) = Pid::from_raw(process.id() as i32) {
                let _ = kill_process(pid, Signal::STOP);
                // Returns when all its threads stand, or it has ended; what is found out is for `alive` to take.
                let options = WaitIdOptions::STOPPED | WaitIdOptions::EXITED | WaitIdOptions::NOWAIT;
                let _ = waitid(WaitId::Pid(pid), options);
            }
        }
        self.alive()
    }

    /// Lets it go on.
    pub fn resume(&mut self) {
        for process in &self.processes {
            if let Some(pid) = Pid::from_raw(process.id() as i32) {
                let _ = kill_process(pid, Signal::CONT);
            }
        }
    }

    /// The end of what it said.
    pub fn log(&self) -> String {
        let mut text = String::new();
        for number in 0..self.processes.len() {
            let log = fs::read(self.dir.path().join(format!("log{number}"))).unwrap_or_default();
            text += &String::from_utf8_lossy(&log);
        }
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(15)..].join("\n")
    }

    /// The sockets of the ports.
    pub fn sockets(&self) -> [SocketName; 2] {
        self.sockets.clone()
    }

    /// Queue pairs that links to it have to have. Frames are sent on the first only.
    pub fn queues(&self) -> u16 {
        self.queues
    }

    /// The command lines of its processes, and of what set it up.
    pub fn commands(&self) -> &[String] {
        &self.commands
    }

    /// drayd's control socket.
    pub fn control(&self) -> PathBuf {
        self.dir.path().join(dray::CONTROL)
    }

    /// drayd's configuration, as it was written; empty of another switch.
    pub fn configuration(&self) -> String {
        [dray::FILE, vpp::FILE, vpp::COMMANDS]
            .iter()
            .filter_map(|file| fs::read_to_string(self.dir.path().join(file)).ok())
            .collect::<Vec<_>>()
            .join("\n")
    }

    /// The directory that it was started in, which its command lines name.
    pub fn directory(&self) -> &Path {
        self.dir.path()
    }

    /// Bytes of its private memory that are in use; 0 if it has ended.
    pub fn private_memory(&self) -> u64 {
        let id = self.processes.last().map_or(0, Child::id);
        let status = fs::read_to_string(format!("/proc/{id}/status")).unwrap_or_default();
        let line = status.lines().find_map(|l| l.strip_prefix("RssAnon:"));
        let kib = line.and_then(|l| l.trim().strip_suffix(" kB")?.parse::<u64>().ok());
        kib.unwrap_or(0) * 1024
    }
}

impl Drop for Switch {
    fn drop(&mut self) {
        // All that they have is in the directory, or goes with them.
        for process in self.processes.iter_mut().rev() {
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}

fn exists(socket: &SocketName) -> bool {
    matches!(socket, SocketName::Path(path) if path.exists())
}

/// Runs a command to its end, and gives what it prints.
pub(crate) fn run(command: &mut Command) -> Result<String, String> {
    let program = command.get_program().display().to_string();
    let output = command.stdin(Stdio::null()).output().map_err(|e| format!("start {program}: {e}"))?;
    if !output.status.success() {
        return Err(format!("{program}: {}", String::from_utf8_lossy(&output.stderr).trim()));
    }
    // testpmd and vpp say some of it on standard error.
    Ok(String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned())
}

/// The word that follows `before` in `text`.
fn word_after(text: &str, before: &str) -> Option<String> {
    let word = text.split_once(before)?.1.split_whitespace().next()?;
    Some(word.trim_matches(['\'', '"', ',']).to_owned())
}

/// Huge pages of the kernel's pool; those that were added are given back when this is dropped.
pub struct HugePages {
    before: Option<String>,
    /// What DPDK is to use.
    pub memory: Memory,
}

impl HugePages {
    const POOL: &str = "/proc/sys/vm/nr_hugepages";

    /// Without any.
    pub fn none() -> HugePages {
        HugePages { before: None, memory: Memory::Ordinary }
    }

    /// Sees to it that this many of 2 MiB are free, if this process may and the machine has them.
    pub fn get(need: u64) -> HugePages {
        let count = |name: &str| -> u64 {
            let info = fs::read_to_string("/proc/meminfo").unwrap_or_default();
            let value = info.lines().find_map(|l| l.strip_prefix(name)).and_then(|v| v.split_whitespace().next());
            value.and_then(|v| v.parse().ok()).unwrap_or(0)
        };
        let two_mib = count("Hugepagesize:") == 2048;
        let free = || count("HugePages_Free:");
        if two_mib && free() >= need {
            return HugePages { before: None, memory: Memory::Huge };
        }
        let before = fs::read_to_string(Self::POOL).ok();
        let add = |old: &String| -> Option<()> {
            let old: u64 = old.trim().parse().ok()?;
            fs::write(Self::POOL, (old + need).to_string()).ok()
        };
        let before = before.filter(|old| two_mib && add(old).is_some());
        let memory = if before.is_some() && free() >= need { Memory::Huge } else { Memory::Ordinary };
        HugePages { before, memory }
    }
}

impl Drop for HugePages {
    fn drop(&mut self) {
        if let Some(before) = &self.before {
            let _ = fs::write(Self::POOL, before);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_is_removed() {
        let dir = TempDir::new().unwrap();
        let path = dir.path().to_owned();
        dir.write("file", "").unwrap();
        drop(dir);
        assert!(!path.exists());
    }

    #[test]
    fn a_paused_process_does_nothing_until_it_goes_on() {
        let mut switch = Switch::new("sh", Kind::Memif, TempDir::new().unwrap());
        switch.spawn(On::Any, "sh", &["-c", "while :; do echo x >> \"$OVS_RUNDIR/lines\"; done"]).unwrap();
        let lines = switch.dir.path().join("lines");
        let length = || fs::metadata(&lines).map_or(0, |m| m.len());
        let grows = || {
            let end = Instant::now() + Duration::from_secs(10);
            let before = length();
            while length() == before {
                assert!(Instant::now() < end, "nothing happens");
                std::thread::sleep(Duration::from_millis(1));
            }
        };
        grows();
        switch.pause().unwrap();
        let before = length();
        std::thread::sleep(Duration::from_millis(50));
        assert_eq!(length(), before);
        switch.resume();
        grows();
        let id = switch.processes[0].id();
        drop(switch);
        assert!(!Path::new(&format!("/proc/{id}")).exists());
    }

    #[test]
    fn one_that_ends_is_found_out() {
        let mut switch = Switch::new("sh", Kind::Memif, TempDir::new().unwrap());
        switch.spawn(On::Any, "sh", &["-c", "echo last words; exit 3"]).unwrap();
        let error = switch.wait_for_sockets().unwrap_err();
        assert!(error.contains("exit status: 3") && error.contains("last words"), "{error}");
        assert_eq!(switch.commands(), ["sh -c 'echo last words; exit 3'"]);
        assert!(switch.pause().is_err());
    }

    #[test]
    fn words() {
        assert_eq!(word_after("EAL: RTE Version: 'DPDK 22.11.11'\n", "DPDK ").as_deref(), Some("22.11.11"));
        assert_eq!(word_after("nothing", "DPDK "), None);
    }
}
