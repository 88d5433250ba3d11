//! testpmd in `io` mode, which moves what comes to one port to the other and decides nothing: the yardstick.

use super::{Kind, Memory, On, Peer, Setup, Switch, TempDir, run, word_after};
use std::path::PathBuf;
use std::process::Command;

/// testpmd.
#[derive(Clone, Debug)]
pub struct Testpmd {
    /// The program.
    pub program: PathBuf,
}

impl Default for Testpmd {
    /// The one of Debian's package dpdk-dev.
    fn default() -> Testpmd {
        Testpmd { program: "dpdk-testpmd".into() }
    }
}

impl Peer for Testpmd {
    fn name(&self) -> &'static str {
        "testpmd io"
    }

    fn version(&self) -> Result<String, String> {
        let text = run(Command::new(&self.program).args(["-v", "-h"]))
            .map_err(|e| format!("{e} (Debian: package dpdk-dev)"))?;
        Ok(format!("DPDK {}", word_after(&text, "DPDK ").as_deref().unwrap_or("unknown")))
    }

    fn about(&self) -> &'static str {
        "Moves whatever comes to one port to the other: it looks nothing up, learns nothing and counts only bursts. It is \
         told to start when both links are up. Where Dray wraps frames in VXLAN or unwraps them, testpmd still moves plain \
         frames of the inner size between two ports."
    }

    fn lacks(&self, setup: &Setup) -> Option<&'static str> {
        setup.overlay.map(|_| "it has no VXLAN")
    }

    fn start(&self, setup: &Setup) -> Result<Switch, String> {
        let mut switch = Switch::new("testpmd", setup.kind, TempDir::new()?);
        let device = |id: usize| {
            let socket = switch.dir.file(setup.kind.sockets()[id]);
            match setup.kind {
                Kind::Memif => {
                    let rings = setup.ring_size.ilog2();
                    format!("net_memif{id},role=server,id={id},socket={socket},socket-abstract=no,rsize={rings}")
                }
                // The front end says how large rings are.
                Kind::VhostUser => format!("net_vhost{id},iface={socket},queues=1,client=0"),
            }
        };
        let (a, b, lcores) = (device(0), device(1), format!("(0,1)@{}", setup.cpu));
        let mut args = vec!["--no-pci", "--lcores", &lcores];
        // 16,384 packet buffers are enough for all rings and caches. They take some 40 MiB of huge pages, and more than 64 of ordinary
        // ones. Neither leaves files behind.
        args.extend_from_slice(match setup.memory {
            Memory::Huge => &["--in-memory", "-m", "64"][..],
            Memory::Ordinary => &["--no-huge", "--no-shconf", "-m", "256"],
        });
        // -i, because else it begins before the links are up.
        args.extend_from_slice(&["--vdev", &a, "--vdev", &b, "--", "--total-num-mbufs=16384", "-i"]);
        args.extend_from_slice(&["--forward-mode=io", "--port-topology=paired"]);
        switch.spawn(On::Cpu(setup.cpu), &self.program.display().to_string(), &args)?;
        switch.begin = Some("start\n");
        switch.wait_for_sockets()?;
        Ok(switch)
    }
}
