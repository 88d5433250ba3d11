//! Network namespaces.

use crate::{run, unique};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// A network namespace without IPv6, whose chatter would be in the counts.
pub struct Netns {
    name: String,
}

impl Netns {
    /// Makes one, with this in its name.
    pub fn new(label: &str) -> Netns {
        let ns = Netns { name: format!("dray-{}-{label}", unique()) };
        run(&format!("ip netns add {}", ns.name));
        ns.run("sysctl -qw net.ipv6.conf.all.disable_ipv6=1 net.ipv6.conf.default.disable_ipv6=1");
        ns.run("ip link set lo up");
        ns
    }

    /// Its file.
    pub fn path(&self) -> PathBuf {
        Path::new("/run/netns").join(&self.name)
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

    /// Pings `count` times, or more often while answers are late; so many must be answered, and none twice.
    pub fn ping(&self, to: &str, count: u32, size: u32) {
        // Until so many are answered: without a deadline ping waits for no more than two round trips, which is little for answers
        // that wait for a CPU.
        let printed = self.run(&format!("ping -n -q -c {count} -i 0.02 -w 20 -s {size} {to}"));
        let received =
            printed.split(" received").next().and_then(|text| text.split(' ').next_back()?.parse::<u32>().ok());
        assert!(received >= Some(count) && !printed.contains("duplicates"), "{printed}");
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
