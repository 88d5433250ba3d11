//! What the stories are told with: drayd, its peers and its judges, each a guard that leaves nothing behind.

mod drayd;
mod exchange;

pub use dray_testing::*;
pub use drayd::{Drayd, dray, is_conserved, stat, vm};
pub use exchange::*;

use dray_config::SocketName;
use dray_vhost::memif::{Client, ClientOptions};
use std::path::{Path, PathBuf};
use tempfile::TempDir;

/// What a test owns: a folder, and its turn.
pub struct Test {
    dir: TempDir,
    _turn: Turn,
}

impl Test {
    /// One that runs beside others: see [`Turn::shared`]. `None` without root, if such tests are left out: namespaces, packet sockets
    /// and other processes' CPUs are out of reach then.
    pub fn begin() -> Option<Test> {
        Self::new(Turn::shared)
    }

    /// One with virtual machines.
    pub fn guests() -> Option<Test> {
        Self::new(Turn::guests)
    }

    /// One that has the machine for itself.
    pub fn alone() -> Option<Test> {
        Self::new(Turn::alone)
    }

    fn new(turn: fn() -> Turn) -> Option<Test> {
        if !is_root() {
            return None;
        }
        let turn = turn();
        let dir = tempfile::Builder::new().prefix("dray-test-").tempdir().unwrap();
        Some(Test { dir, _turn: turn })
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

/// The test's folder.
impl AsRef<Path> for Test {
    fn as_ref(&self) -> &Path {
        self.dir.path()
    }
}
