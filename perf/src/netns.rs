//! Network namespaces, which stand for containers and hosts.

use crate::peer::run;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

/// A network namespace. It goes when it is dropped, and what was started in it must have ended.
pub(crate) struct Netns(String);

impl Netns {
    /// A new one, with its loopback up.
    pub(crate) fn new(label: &str) -> Result<Netns, String> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let name = format!("dray-perf-{}-{label}{}", std::process::id(), NUMBER.fetch_add(1, Relaxed));
        words(&format!("ip netns add {name}"))?;
        let netns = Netns(name);
        netns.ip("link set lo up")?;
        Ok(netns)
    }

    /// Its name.
    pub(crate) fn name(&self) -> &str {
        &self.0
    }

    /// Runs `ip` for it.
    pub(crate) fn ip(&self, line: &str) -> Result<(), String> {
        words(&format!("ip -n {} {line}", self.0)).map(drop)
    }

    /// A command that runs in it.
    pub(crate) fn command(&self, program: &str) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.0, program]);
        command
    }

    /// Its file.
    pub(crate) fn path(&self) -> String {
        format!("/run/netns/{}", self.0)
    }

    /// A pair of veth devices that are up: `here` in this one, `there` in the other.
    pub(crate) fn veth(&self, here: &str, other: &Netns, there: &str) -> Result<(), String> {
        self.ip(&format!("link add {here} type veth peer name {there} netns {}", other.0))?;
        self.ip(&format!("link set {here} up"))?;
        other.ip(&format!("link set {there} up"))
    }
}

impl Drop for Netns {
    fn drop(&mut self) {
        let _ = words(&format!("ip netns del {}", self.0));
    }
}

/// Runs a command whose words have no spaces.
fn words(line: &str) -> Result<String, String> {
    let words: Vec<&str> = line.split_whitespace().collect();
    run(Command::new(words[0]).args(&words[1..])).map_err(|e| format!("{line}: {e}"))
}
