//! What the tests of all crates share: who may run and when, processes, namespaces, testpmd, captures, a file system that hangs, random
//! numbers. Each is a guard that leaves nothing behind.

mod capture;
pub mod fuse;
mod netns;
mod process;
mod testpmd;
mod turn;

pub use capture::{Capture, FILE_PORT, Frames};
pub use netns::Netns;
pub use process::Process;
pub use testpmd::{Testpmd, TestpmdStats, has_testpmd};
pub use turn::Turn;

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::Once;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::thread::sleep;
use std::time::{Duration, Instant, SystemTime};

/// Generous: it only decides how long a broken switch takes to fail.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Whether a test may make namespaces, mounts and packet sockets.
///
/// # Panics
/// Without root, so that nobody takes what was left out for tested; unless the environment's `SKIP_ROOT` says that it is to be left out.
pub fn is_root() -> bool {
    if rustix::process::geteuid().is_root() {
        return true;
    }
    assert!(
        std::env::var_os("SKIP_ROOT").is_some_and(|skip| !skip.is_empty()),
        "this test needs root; SKIP_ROOT=1 in the environment leaves out those that do"
    );
    eprintln!("SKIPPED: needs root");
    false
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

/// What a process printed on standard output and on standard error.
pub fn texts(output: &Output) -> (String, String) {
    (String::from_utf8_lossy(&output.stdout).into(), String::from_utf8_lossy(&output.stderr).into())
}

/// A number that no other running test has.
pub fn unique() -> String {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    format!("{}-{}", std::process::id(), COUNT.fetch_add(1, Relaxed))
}

/// drayd as the workspace's tests build it, beside this program of theirs.
///
/// # Panics
/// If it is not built.
pub fn drayd_beside(program: &str) -> PathBuf {
    beside(program, "drayd", "dray-control")
}

/// dray, the same way. A test of another package alone does not build it anew.
///
/// # Panics
/// If it is not built, or older than what it is made of.
pub fn dray_beside(program: &str) -> PathBuf {
    static LOOKED: Once = Once::new();
    let dray = beside(program, "dray", "dray-cli");
    LOOKED.call_once_force(|_| {
        for of in ["config", "control/api", "control/client", "control/cli"] {
            let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(of).join("src");
            if let Some(newer) = newer(&sources, modified(&dray)) {
                panic!("{} is newer than dray: cargo build -p dray-cli, with this test's profile", newer.display());
            }
        }
    });
    dray
}

/// A file in `directory` that was changed after this time.
fn newer(directory: &Path, than: SystemTime) -> Option<PathBuf> {
    let files = std::fs::read_dir(directory).into_iter().flatten().filter_map(|entry| Some(entry.ok()?.path()));
    files
        .into_iter()
        .find_map(|path| if path.is_dir() { newer(&path, than) } else { (modified(&path) > than).then_some(path) })
}

fn modified(path: &Path) -> SystemTime {
    std::fs::metadata(path).and_then(|meta| meta.modified()).unwrap_or(SystemTime::UNIX_EPOCH)
}

fn beside(program: &str, name: &str, package: &str) -> PathBuf {
    let path = Path::new(program).with_file_name(name);
    assert!(path.exists(), "{} is not built: cargo build -p {package}, with this test's profile", path.display());
    path
}

/// Starts `drayd` with this configuration, which becomes a file in `dir`, and waits until these sockets of it are there.
pub fn start_drayd(drayd: &Path, dir: &Path, config: &str, sockets: &[&str]) -> Process {
    let file = dir.join("dray.toml");
    std::fs::write(&file, config).unwrap();
    let mut command = Command::new(drayd);
    command.arg("--config").arg(file).stdin(Stdio::null());
    let mut process = Process::start(command);
    wait_for("drayd to listen", || {
        let ended = process.ended();
        assert!(ended.is_none(), "drayd ended: {ended:?}\n{}", process.printed());
        sockets.iter().all(|name| dir.join(name).exists()).then_some(())
    });
    process
}

/// A memfd of so many bytes.
pub fn memfd(size: u64) -> OwnedFd {
    let fd = rustix::fs::memfd_create("test", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
    rustix::fs::ftruncate(&fd, size).unwrap();
    fd
}

/// xorshift64 (Marsaglia, 2003): the same numbers at every run. Begins with any number but 0.
pub struct Random(pub u64);

impl Random {
    /// The next 64 bits.
    pub fn word(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    /// One below `n`.
    pub fn below(&mut self, n: u64) -> u64 {
        self.word() % n
    }
}
