//! Dray: drayd with one worker.

use super::{Kind, On, Peer, Setup, Switch, TempDir, run, word_after};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Its control socket.
pub(super) const CONTROL: &str = "dray.sock";
/// Its configuration.
pub(super) const FILE: &str = "dray.toml";

/// Dray.
#[derive(Clone, Debug)]
pub struct Dray {
    /// The daemon.
    pub drayd: PathBuf,
    /// What it is called in tables: another one than [`Dray::new`]'s where there are two.
    pub name: &'static str,
}

impl Dray {
    /// This daemon.
    pub fn new(drayd: PathBuf) -> Dray {
        Dray { drayd, name: "Dray" }
    }

    /// Starts it with all its threads on `cpu` and with a configuration of one's own, made from the folder that it is in. Its
    /// memif ports are on `memif.sock` there, its control socket is `dray.sock`.
    ///
    /// # Errors
    /// If it does not listen.
    pub fn start_with(&self, cpu: usize, configuration: impl FnOnce(&Path) -> String) -> Result<Switch, String> {
        let mut switch = self.start_on(On::Cpu(cpu), configuration)?;
        switch.wait_for_sockets()?;
        Ok(switch)
    }

    /// As [`Dray::start_with`], but only the workers are kept where the configuration says, as a user has it, and nothing is waited for.
    ///
    /// # Errors
    /// If it can't be started.
    pub fn start_anywhere_with(&self, configuration: impl FnOnce(&Path) -> String) -> Result<Switch, String> {
        self.start_on(On::Any, configuration)
    }

    fn start_on(&self, on: On, configuration: impl FnOnce(&Path) -> String) -> Result<Switch, String> {
        let mut switch = Switch::new("drayd", Kind::Memif, TempDir::new()?);
        let file = switch.dir.write(FILE, &configuration(switch.dir.path()))?;
        switch.spawn(on, &self.drayd.display().to_string(), &["--config", &file])?;
        Ok(switch)
    }
}

impl Dray {
    /// Starts it in the network namespace `netns`, with its threads where it puts them, and waits until its control socket is there.
    ///
    /// # Errors
    /// If it is not.
    pub fn start_in(&self, netns: &str, configuration: impl FnOnce(&Path) -> String) -> Result<Switch, String> {
        let mut switch = Switch::new("drayd", Kind::Memif, TempDir::new()?);
        let file = switch.dir.write(FILE, &configuration(switch.dir.path()))?;
        let program = self.drayd.display().to_string();
        switch.spawn(On::Any, "ip", &["netns", "exec", netns, &program, "--config", &file])?;
        switch.wait("has no control socket", |switch| switch.control().exists())?;
        Ok(switch)
    }
}

impl Peer for Dray {
    fn name(&self) -> &'static str {
        self.name
    }

    fn version(&self) -> Result<String, String> {
        let text = run(Command::new(&self.drayd).arg("--version"))?;
        Ok(word_after(&text, "drayd ").unwrap_or_else(|| text.trim().to_owned()))
    }

    fn about(&self) -> &'static str {
        "One worker and a bridge, which learns, ages and counts. All else as it comes."
    }

    fn lacks(&self, _: &Setup) -> Option<&'static str> {
        None
    }

    fn start(&self, setup: &Setup) -> Result<Switch, String> {
        let mut switch = Switch::new("drayd", setup.kind, TempDir::new()?);
        let file = switch.dir.write(FILE, &configuration(switch.dir.path(), setup))?;
        switch.spawn(On::Cpu(setup.cpu), &self.drayd.display().to_string(), &["--config", &file])?;
        switch.wait_for_sockets()?;
        Ok(switch)
    }
}

/// Two ports below `dir`, one worker, one bridge.
fn configuration(dir: &Path, setup: &Setup) -> String {
    // Strings of TOML, with their quotes.
    let control = format!("{:?}", dir.join(CONTROL));
    let [a, b] = setup.kind.sockets().map(|socket| format!("{:?}", dir.join(socket)));
    let [a, b] = match setup.kind {
        Kind::Memif => [(0, a), (1, b)].map(|(id, socket)| format!("kind = \"memif\"\nsocket = {socket}\nid = {id}")),
        Kind::VhostUser => [a, b].map(|socket| format!("kind = \"vhost-user\"\nsocket = {socket}\nrole = \"server\"")),
    };
    let [a, b] = [a, b].map(|keys| format!("{keys}\nmax-macs = {}", setup.macs));
    let bridge = match setup.overlay {
        None => "ports = [\"a\", \"b\"]\n".to_owned(),
        Some(overlay) => format!(
            "vni = {}
ports = [\"a\"]

[vxlan]
port = \"b\"
local = \"{}/24\"
peers = [\"{}\"]
",
            overlay.vni, overlay.local, overlay.remote
        ),
    };
    format!(
        "[control]
socket = {control}

[fdb]
size = {}

[[worker]]
cpu = {}

[[port]]
name = \"a\"
{a}

[[port]]
name = \"b\"
{b}

[[bridge]]
name = \"bench\"
{bridge}",
        setup.macs, setup.cpu
    )
}

#[cfg(test)]
mod tests {
    use super::super::{Memory, Overlay};
    use super::*;

    #[test]
    fn the_configuration_is_valid() {
        let overlay = Overlay { vni: 42, local: [10, 9, 0, 1].into(), remote: [10, 9, 0, 2].into() };
        for kind in [Kind::Memif, Kind::VhostUser] {
            let setup = Setup {
                cpu: 1,
                other_cpu: 0,
                kind,
                overlay: None,
                ring_size: 1024,
                macs: 2_097_152,
                memory: Memory::Ordinary,
            };
            let read = |setup: &Setup| {
                let text = configuration(Path::new("/tmp/a \"dir\""), setup);
                dray_config::parse_for("dray.toml", &text, &[0, 1]).unwrap()
            };
            let config = read(&setup);
            assert_eq!((config.ports.len(), config.bridges[0].ports.len(), config.fdb.size), (2, 2, 2_097_152));
            assert_eq!(config.control.socket, Path::new("/tmp/a \"dir\"/dray.sock"));
            let config = read(&Setup { overlay: Some(overlay), ..setup });
            assert_eq!((config.bridges[0].vni, config.bridges[0].ports.len()), (Some(42), 1));
        }
    }
}
