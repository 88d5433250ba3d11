//! Where an attack takes place: a daemon of its own, with a folder, honest ports, and a port "x" for the attacker.

use crate::cpu;
use crate::peer::TempDir;
use dray_api::PortDel;
use dray_client::Client;
use dray_config::SocketName;
use rustix::process::{Pid, Signal, kill_process, setpriority_process};
use std::fmt::Write;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How long drayd may take to be there.
const START: Duration = Duration::from_secs(20);
/// How long SIGTERM may take before SIGKILL.
const TERM: Duration = Duration::from_secs(10);
/// How long SIGKILL may take before it is said that it does not help.
const KILL: Duration = Duration::from_secs(3);

/// The socket that all memif ports share.
pub(super) const MEMIF: &str = "memif.sock";
/// The attacker's vhost-user port's.
pub(super) const VM: &str = "x.sock";
/// The honest vhost-user port's.
pub(super) const HONEST_VM: &str = "v.sock";
const CONTROL: &str = "dray.sock";

/// Ids of the honest memif ports: two that exchange frames, one that none is meant for, one that connects again and again, and one
/// whose peer sleeps.
pub(super) const A: u32 = 0;
pub(super) const B: u32 = 1;
pub(super) const WITNESS: u32 = 2;
pub(super) const GUEST: u32 = 3;
pub(super) const SLEEPER: u32 = 4;
/// Of the attacker's port, and from which on its helpers' are.
pub(super) const X: u32 = 10;
pub(super) const HELPER: u32 = 11;
/// Descriptors of the honest rings.
pub(super) const RING: u32 = 4096;

/// The table of a memif port; `more` has further keys.
pub(super) fn memif(dir: &Path, name: &str, id: u32, more: &str) -> String {
    let socket = dir.join(MEMIF);
    format!("[[port]]\nname = \"{name}\"\nkind = \"memif\"\nsocket = {socket:?}\nid = {id}\n{more}\n")
}

/// The table of a vhost-user port that listens.
pub(super) fn vhost_user(dir: &Path, name: &str, socket: &str) -> String {
    let socket = dir.join(socket);
    format!("[[port]]\nname = \"{name}\"\nkind = \"vhost-user\"\nsocket = {socket:?}\nrole = \"server\"\n")
}

/// The table of the attacker's bridge.
pub(super) fn bridge(ports: &str) -> String {
    format!("[[bridge]]\nname = \"hostile\"\nports = [{ports}]\n")
}

/// The honest half of the configuration.
fn honest(dir: &Path, cpu: usize) -> String {
    let mut text =
        format!("[control]\nsocket = {:?}\n[fdb]\nsize = 65536\n[[worker]]\ncpu = {cpu}\n", dir.join(CONTROL));
    let ring = format!("ring-size = {RING}");
    for (name, id, more) in [
        ("a", A, &*ring),
        ("b", B, &*ring),
        ("witness", WITNESS, &*ring),
        ("guest", GUEST, ""),
        ("sleeper", SLEEPER, ""),
    ] {
        text += &memif(dir, name, id, more);
    }
    text += &vhost_user(dir, "v", HONEST_VM);
    let _ = writeln!(text, "[[bridge]]\nname = \"honest\"\nports = [\"a\", \"b\", \"v\", \"witness\", \"sleeper\"]");
    let _ = writeln!(text, "[[bridge]]\nname = \"guests\"\nports = [\"guest\"]");
    text
}

/// A daemon. It is killed if it is still there when this is dropped.
pub(super) struct Daemon {
    child: Child,
    dir: TempDir,
}

impl Daemon {
    /// Starts it, with one worker on `cpu` and all other threads where the kernel puts them.
    ///
    /// # Errors
    /// If it does not answer.
    pub fn start(drayd: &Path, cpu: usize, attack: fn(&Path) -> String) -> Result<Daemon, String> {
        let dir = TempDir::new()?;
        let io = |e: std::io::Error| format!("{}: {e}", dir.path().display());
        let file = dir.path().join("dray.toml");
        std::fs::write(&file, honest(dir.path(), cpu) + &attack(dir.path())).map_err(io)?;
        let log = File::create(dir.path().join("log")).map_err(io)?;
        let errors = log.try_clone().map_err(io)?;
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "--"]).arg(drayd).arg("--config").arg(&file);
        command.stdin(Stdio::null()).stdout(log).stderr(errors);
        let child = command.spawn().map_err(|e| format!("start setpriv {}: {e}", drayd.display()))?;
        let mut daemon = Daemon { child, dir };
        match Client::wait(&daemon.control(), START) {
            Ok(_) => Ok(daemon),
            Err(e) => Err(format!("{e}\n{}", daemon.last_words())),
        }
    }

    pub fn control(&self) -> PathBuf {
        self.dir.path().join(CONTROL)
    }

    pub fn directory(&self) -> &Path {
        self.dir.path()
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Whether it still runs; if not, what it said at last.
    ///
    /// # Errors
    /// If not.
    pub fn alive(&mut self) -> Result<(), String> {
        match self.child.try_wait() {
            Ok(None) => Ok(()),
            other => Err(format!("drayd has ended ({other:?}):\n{}", self.last_words())),
        }
    }

    fn last_words(&mut self) -> String {
        let text = std::fs::read(self.dir.path().join("log")).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(8)..].join("\n")
    }

    /// Deletes a port: how long that took, or how long it was until that failed.
    ///
    /// # Errors
    /// If the daemon refuses.
    pub fn delete(&self, name: &str) -> Result<Duration, String> {
        let begin = Instant::now();
        let request = PortDel { name: name.into() };
        let deleted = Client::connect(&self.control()).and_then(|mut client| client.call(&request));
        let took = begin.elapsed();
        // An answer that does not come is a figure too.
        deleted.map(|_| took).or_else(|e| if took > Duration::from_secs(1) { Ok(took) } else { Err(e.into()) })
    }

    /// Ends it: how long it took, and what was needed beside SIGTERM.
    pub fn end(&mut self) -> (Duration, Option<&'static str>) {
        let begin = Instant::now();
        let gone = |child: &mut Child, patience: Duration| {
            let end = Instant::now() + patience;
            loop {
                match child.try_wait() {
                    Ok(None) if Instant::now() > end => return false,
                    Ok(None) => std::thread::sleep(Duration::from_millis(2)),
                    _ => return true,
                }
            }
        };
        if let Some(pid) = Pid::from_raw(self.child.id() as i32) {
            let _ = kill_process(pid, Signal::TERM);
        }
        if gone(&mut self.child, TERM) {
            return (begin.elapsed(), None);
        }
        let _ = self.child.kill();
        let killed = gone(&mut self.child, KILL);
        (begin.elapsed(), Some(if killed { "SIGTERM does not end it" } else { "SIGKILL does not end it" }))
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What an attack knows, and what it says.
pub(super) struct Place {
    dir: PathBuf,
    /// The CPU of the worker.
    pub switch_cpu: usize,
    /// Of all who attack and measure.
    cpu: usize,
    /// The daemon's process.
    pub pid: u32,
    stop: AtomicBool,
    ready: AtomicBool,
    tries: AtomicU64,
    won: Mutex<Option<String>>,
}

impl Place {
    pub fn new(daemon: &Daemon, cpu: usize, switch_cpu: usize) -> Place {
        Place {
            dir: daemon.directory().to_owned(),
            switch_cpu,
            cpu,
            pid: daemon.pid(),
            stop: AtomicBool::new(false),
            ready: AtomicBool::new(false),
            tries: AtomicU64::new(0),
            won: Mutex::new(None),
        }
    }

    pub fn directory(&self) -> &Path {
        &self.dir
    }

    /// The path of the socket that all memif ports share.
    pub fn memif(&self) -> PathBuf {
        self.dir.join(MEMIF)
    }

    /// The same as a name.
    pub fn memif_name(&self) -> SocketName {
        SocketName::Path(self.memif())
    }

    /// The attacker's vhost-user port's socket.
    pub fn vm(&self) -> SocketName {
        SocketName::Path(self.dir.join(VM))
    }

    /// Puts this thread where all are that attack or measure. The more `urgent`, the sooner it gets to run, if this process may say so:
    /// on a host of two CPUs the measuring must not wait for the attack, nor the switch's own threads.
    pub fn take_place(&self, urgency: Urgency) {
        let _ = cpu::pin(self.cpu);
        let _ = setpriority_process(Some(rustix::thread::gettid()), urgency as i32);
        // 1 us: a sleep of 100 us is to be no longer.
        let _ = rustix::thread::set_current_timer_slack(std::num::NonZeroU64::new(1000));
    }

    /// Whether the attack is to go on.
    pub fn goes_on(&self) -> bool {
        !self.stop.load(Ordering::Relaxed)
    }

    /// Lets it end.
    pub fn stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
    }

    /// The attack has begun in full.
    pub fn begin(&self) {
        self.ready.store(true, Ordering::Relaxed);
    }

    pub fn has_begun(&self) -> bool {
        self.ready.load(Ordering::Relaxed)
    }

    /// The attack was made so many times more.
    pub fn tried(&self, times: u64) {
        self.tries.fetch_add(times, Ordering::Relaxed);
    }

    pub fn tries(&self) -> u64 {
        self.tries.load(Ordering::Relaxed)
    }

    /// The attacker has what it must not get.
    pub fn won(&self, what: String) {
        *self.won.lock().unwrap_or_else(PoisonError::into_inner) = Some(what);
    }

    pub fn prize(&self) -> Option<String> {
        self.won.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// A pause in which the attack may end: whether it goes on.
    pub fn pause(&self, pause: Duration) -> bool {
        let end = Instant::now() + pause;
        while self.goes_on() && Instant::now() < end {
            std::thread::sleep(pause.min(Duration::from_millis(5)));
        }
        self.goes_on()
    }
}

/// Nice values.
#[derive(Clone, Copy)]
pub(super) enum Urgency {
    /// Who measures.
    First = -20,
    /// This process, and so the daemon.
    Daemon = -19,
    /// Who attacks: on a host with more CPUs it would have its own.
    Attack = 0,
}
