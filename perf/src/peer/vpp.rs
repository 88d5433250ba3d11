//! VPP: a bridge domain that learns, and one worker. Debian has no package of it, so it takes part where it is installed
//! (`vpp` and `vppctl`, with the plugins memif, vhost and vxlan; tried with 26.10-rc0).

use super::{Kind, On, Peer, Setup, Switch, TempDir, run, word_after};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Its start-up configuration.
pub(super) const FILE: &str = "startup.conf";
/// What it is told then.
pub(super) const COMMANDS: &str = "commands";

/// VPP.
#[derive(Clone, Debug)]
pub struct Vpp {
    /// The daemon.
    pub program: PathBuf,
}

impl Default for Vpp {
    /// The one that is installed.
    fn default() -> Vpp {
        Vpp { program: "vpp".into() }
    }
}

impl Peer for Vpp {
    fn name(&self) -> &'static str {
        "VPP"
    }

    fn version(&self) -> Result<String, String> {
        let missing = |e| format!("{e} (VPP is not installed; Debian has no package of it)");
        let text = run(Command::new(&self.program).arg("--version")).map_err(missing)?;
        Ok(word_after(&text, "vpp ").unwrap_or_else(|| text.trim().to_owned()))
    }

    fn about(&self) -> &'static str {
        "A bridge domain that learns, and one worker, whose interfaces are polled. VPP does not let its main thread share the \
         worker's CPU: it is on the generator's, where it sleeps."
    }

    fn lacks(&self, _: &Setup) -> Option<&'static str> {
        None
    }

    fn start(&self, setup: &Setup) -> Result<Switch, String> {
        let mut switch = Switch::new("VPP", setup.kind, TempDir::new()?);
        switch.dir.write(COMMANDS, &commands(setup, switch.dir.path()))?;
        let file = switch.dir.write(FILE, &configuration(setup, switch.dir.path()))?;
        switch.spawn(On::Any, &self.program.display().to_string(), &["-c", &file])?;
        let cli = switch.dir.file("cli.sock");
        // The last command has been run when it shows.
        let last = if setup.overlay.is_some() { TUNNEL } else { names(setup.kind)[1] };
        switch.wait("has not run its commands", |_| {
            run(Command::new("vppctl").args(["-s", &cli, "show", "bridge-domain", "1", "detail"]))
                .is_ok_and(|text| text.contains(last))
        })?;
        switch.wait_for_sockets()?;
        Ok(switch)
    }
}

fn configuration(setup: &Setup, dir: &Path) -> String {
    let dir = dir.display();
    format!(
        "unix {{ nodaemon nosyslog runtime-dir {dir} cli-listen {dir}/cli.sock exec {dir}/{COMMANDS} }}
socksvr {{ socket-name {dir}/api.sock }}
statseg {{ socket-name {dir}/stats.sock }}
cpu {{ main-core {} corelist-workers {} }}
plugins {{ plugin dpdk_plugin.so {{ disable }} }}
",
        setup.other_cpu, setup.cpu
    )
}

/// What it calls its only tunnel.
const TUNNEL: &str = "vxlan_tunnel0";

/// What it calls its interfaces.
fn names(kind: Kind) -> [&'static str; 2] {
    match kind {
        Kind::Memif => ["memif1/0", "memif1/1"],
        Kind::VhostUser => ["VirtualEthernet0/0/0", "VirtualEthernet0/0/1"],
    }
}

/// What it is told: the bridge domain and its interfaces.
fn commands(setup: &Setup, dir: &Path) -> String {
    let mut lines = Vec::new();
    let names = names(setup.kind);
    if setup.kind == Kind::Memif {
        lines.push(format!("create memif socket id 1 filename {}", dir.join(setup.kind.sockets()[0]).display()));
    }
    for (id, (name, socket)) in names.iter().zip(setup.kind.sockets()).enumerate() {
        lines.push(match setup.kind {
            Kind::Memif => format!("create interface memif id {id} socket-id 1 ring-size {} master", setup.ring_size),
            Kind::VhostUser => format!("create vhost-user socket {} server packed", dir.join(socket).display()),
        });
        lines.push(format!("set interface state {name} up"));
        lines.push(format!("set interface rx-mode {name} polling"));
    }
    lines.push("create bridge-domain 1 learn 1 forward 1 flood 1 uu-flood 1 arp-term 0".into());
    lines.push(format!("set interface l2 bridge {} 1", names[0]));
    match setup.overlay {
        None => lines.push(format!("set interface l2 bridge {} 1", names[1])),
        Some(overlay) => {
            lines.push(format!("set interface ip address {} {}/24", names[1], overlay.local));
            lines.push(format!("create vxlan tunnel src {} dst {} vni {}", overlay.local, overlay.remote, overlay.vni));
            lines.push(format!("set interface l2 bridge {TUNNEL} 1"));
        }
    }
    lines.join("\n") + "\n"
}
