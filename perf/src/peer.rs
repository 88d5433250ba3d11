//! The switches that are measured, as processes of this one.

use crate::cpu;
use dray_config::SocketName;
use serde::Serialize;
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

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
}

impl Drop for TempDir {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// The kind of a switch's ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
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
}

/// A switch between two ports. It ends when it is dropped.
pub struct Switch {
    name: &'static str,
    kind: Kind,
    child: Child,
    stdin: Option<ChildStdin>,
    dir: TempDir,
}

/// How testpmd gets its memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Memory {
    /// Huge pages of the kernel's pool.
    Huge,
    /// Ordinary pages.
    Ordinary,
}

impl Switch {
    /// Starts testpmd, which moves what comes to one port to the other and decides nothing. `start` is to be called when
    /// the links are up.
    ///
    /// # Errors
    /// If it does not start.
    pub fn testpmd(program: &Path, on: usize, kind: Kind, ring_size: u32, memory: Memory) -> Result<Switch, String> {
        let dir = TempDir::new()?;
        let device = |id: usize| {
            let socket = dir.path().join(kind.sockets()[id]);
            let socket = socket.display();
            match kind {
                Kind::Memif => {
                    let rings = ring_size.ilog2();
                    format!("net_memif{id},role=server,id={id},socket={socket},socket-abstract=no,rsize={rings}")
                }
                // The front end says how large rings are.
                Kind::VhostUser => format!("net_vhost{id},iface={socket},queues=1,client=0"),
            }
        };
        let mut command = Command::new(program);
        command.args(["--no-pci", "-m", "256", "--lcores", &format!("(0,1)@{on}")]);
        // Neither leaves files behind.
        command.args(match memory {
            Memory::Huge => &["--in-memory"][..],
            Memory::Ordinary => &["--no-huge", "--no-shconf"],
        });
        // 16,384 packet buffers are enough for all rings and caches; -i, because else it begins before the links are up.
        command.args(["--vdev", &device(0), "--vdev", &device(1), "--", "--total-num-mbufs=16384", "-i"]);
        command.args(["--forward-mode=io", "--port-topology=paired"]);
        Self::spawn("testpmd", kind, command, on, dir)
    }

    /// Starts drayd with one worker, and both ports in a bridge of `macs` MACs at most.
    ///
    /// # Errors
    /// If it does not start.
    pub fn dray(program: &Path, on: usize, kind: Kind, macs: usize) -> Result<Switch, String> {
        let dir = TempDir::new()?;
        let file = dir.path().join("dray.toml");
        fs::write(&file, dray_config(dir.path(), on, kind, macs))
            .map_err(|e| format!("write {}: {e}", file.display()))?;
        let mut command = Command::new(program);
        command.arg("--config").arg(&file);
        Self::spawn("drayd", kind, command, on, dir)
    }

    fn spawn(name: &'static str, kind: Kind, mut command: Command, on: usize, dir: TempDir) -> Result<Switch, String> {
        let log = File::create(dir.path().join("log")).map_err(|e| e.to_string())?;
        let errors = log.try_clone().map_err(|e| e.to_string())?;
        command.stdin(Stdio::piped()).stdout(log).stderr(errors);
        let spawned = || command.spawn().map_err(|e| format!("start {}: {e}", command.get_program().display()));
        // The whole process stays on the switch's CPU: what its control threads cost is its own affair.
        let mut child = cpu::on(on, spawned)?;
        let stdin = child.stdin.take();
        let mut switch = Switch { name, kind, child, stdin, dir };
        let end = Instant::now() + Duration::from_secs(10);
        while !switch.kind.sockets().iter().all(|socket| switch.dir.path().join(socket).exists()) {
            switch.alive()?;
            if Instant::now() > end {
                return Err(format!("{name} does not listen:\n{}", switch.log()));
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(switch)
    }

    /// Makes it move frames.
    ///
    /// # Errors
    /// If it has ended.
    pub fn start(&mut self) -> Result<(), String> {
        if self.name == "testpmd"
            && let Some(stdin) = &mut self.stdin
        {
            let _ = stdin.write_all(b"start\n");
        }
        self.alive()
    }

    /// Whether it is still running.
    ///
    /// # Errors
    /// If not: what it said at last.
    pub fn alive(&mut self) -> Result<(), String> {
        match self.child.try_wait() {
            Ok(Some(status)) => Err(format!("{} has ended ({status}):\n{}", self.name, self.log())),
            _ => Ok(()),
        }
    }

    /// The end of what it said.
    pub fn log(&self) -> String {
        let text = fs::read(self.dir.path().join("log")).unwrap_or_default();
        let text = String::from_utf8_lossy(&text).into_owned();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(15)..].join("\n")
    }

    /// The sockets of the ports.
    pub fn sockets(&self) -> [SocketName; 2] {
        self.kind.sockets().map(|socket| SocketName::Path(self.dir.path().join(socket)))
    }

    /// drayd's control socket.
    pub fn control(&self) -> PathBuf {
        self.dir.path().join("dray.sock")
    }

    /// Bytes of its private memory that are in use; 0 if it has ended.
    pub fn private_memory(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap_or_default();
        let line = status.lines().find_map(|l| l.strip_prefix("RssAnon:"));
        let kib = line.and_then(|l| l.trim().strip_suffix(" kB")?.parse::<u64>().ok());
        kib.unwrap_or(0) * 1024
    }
}

impl Drop for Switch {
    fn drop(&mut self) {
        use rustix::process::{Pid, Signal, kill_process};
        if let Some(pid) = Pid::from_raw(self.child.id() as i32)
            && matches!(self.child.try_wait(), Ok(None))
        {
            let _ = kill_process(pid, Signal::TERM);
        }
        drop(self.stdin.take());
        let end = Instant::now() + Duration::from_secs(3);
        while matches!(self.child.try_wait(), Ok(None)) {
            if Instant::now() > end {
                let _ = self.child.kill();
                let _ = self.child.wait();
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

/// drayd's configuration: two ports below `dir`, one worker, one bridge.
fn dray_config(dir: &Path, cpu: usize, kind: Kind, macs: usize) -> String {
    // Strings of TOML, with their quotes.
    let control = format!("{:?}", dir.join("dray.sock"));
    let [a, b] = kind.sockets().map(|socket| format!("{:?}", dir.join(socket)));
    let [a, b] = match kind {
        Kind::Memif => [(0, a), (1, b)].map(|(id, socket)| format!("kind = \"memif\"\nsocket = {socket}\nid = {id}")),
        Kind::VhostUser => [a, b].map(|socket| format!("kind = \"vhost-user\"\nsocket = {socket}\nrole = \"server\"")),
    };
    format!(
        "[control]
socket = {control}

[fdb]
size = {macs}

[[worker]]
cpu = {cpu}

[[port]]
name = \"a\"
{a}

[[port]]
name = \"b\"
{b}

[[bridge]]
name = \"bench\"
ports = [\"a\", \"b\"]
"
    )
}

/// Huge pages of the kernel's pool for testpmd; those that were added are given back when this is dropped.
pub struct HugePages {
    before: Option<String>,
    /// What testpmd is to use.
    pub memory: Memory,
}

impl HugePages {
    const POOL: &str = "/proc/sys/vm/nr_hugepages";

    /// Without any.
    pub fn none() -> HugePages {
        HugePages { before: None, memory: Memory::Ordinary }
    }

    /// Sees to it that 512 MiB are free, if this process may and the machine has them.
    pub fn get() -> HugePages {
        let need = 256;
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
    fn the_configuration_is_valid() {
        for kind in [Kind::Memif, Kind::VhostUser] {
            let text = dray_config(Path::new("/tmp/a \"dir\""), 1, kind, 2_097_152);
            let config = dray_config::parse_for("dray.toml", &text, &[0, 1]).unwrap();
            assert_eq!((config.ports.len(), config.bridges[0].ports.len(), config.fdb.size), (2, 2, 2_097_152));
            assert_eq!(config.control.socket, Path::new("/tmp/a \"dir\"/dray.sock"));
        }
    }

    #[test]
    fn a_directory_is_removed() {
        let dir = TempDir::new().unwrap();
        let path = dir.path().to_owned();
        fs::write(path.join("file"), "").unwrap();
        drop(dir);
        assert!(!path.exists());
    }
}
