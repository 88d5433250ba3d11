//! OVS-DPDK: Open vSwitch with its userspace datapath, and the action NORMAL, which learns and forwards by MAC.

use super::{Kind, Memory, On, Overlay, Peer, Setup, Switch, TempDir, run, word_after};
use std::path::{Path, PathBuf};
use std::process::Command;

/// What the databases look like.
const SCHEMA: &str = "/usr/share/openvswitch/vswitch.ovsschema";

const NEEDS_HUGE_PAGES: &str = "it does not start without huge pages";

/// OVS-DPDK.
#[derive(Clone, Debug)]
pub struct Ovs {
    /// The daemon that moves frames.
    pub program: PathBuf,
}

impl Default for Ovs {
    /// The one of Debian's package openvswitch-switch-dpdk.
    fn default() -> Ovs {
        Ovs { program: "/usr/lib/openvswitch-switch-dpdk/ovs-vswitchd-dpdk".into() }
    }
}

impl Peer for Ovs {
    fn name(&self) -> &'static str {
        "OVS-DPDK"
    }

    fn version(&self) -> Result<String, String> {
        if !self.program.exists() {
            let program = self.program.display();
            return Err(format!("{program} is not there (Debian: package openvswitch-switch-dpdk)"));
        }
        let text = run(Command::new(&self.program).arg("--version"))?;
        let [ovs, dpdk] = ["vSwitch) ", "DPDK "].map(|before| word_after(&text, before));
        Ok(format!("{}, DPDK {}", ovs.as_deref().unwrap_or("unknown"), dpdk.as_deref().unwrap_or("unknown")))
    }

    fn about(&self) -> &'static str {
        "The userspace datapath with one PMD thread and the action NORMAL, which learns and forwards by MAC. All its threads \
         are on the switch's CPU, also those that handle misses and revalidate flows: once flows are known they have little to \
         do, but it is more than on a machine with CPUs to spare. The tables for MACs and flows are as large as the case needs \
         (mac-table-size, flow-limit); each port has its own pool of packet buffers, as large as OVS makes it. Its PMD thread \
         sends on the second queue of a memif port, so the generator has two there, and sends on the first."
    }

    fn lacks(&self, setup: &Setup) -> Option<&'static str> {
        (setup.memory == Memory::Ordinary).then_some(NEEDS_HUGE_PAGES)
    }

    fn start(&self, setup: &Setup) -> Result<Switch, String> {
        let Daemons { mut switch, db, control, .. } = self.daemons(setup.kind, setup.cpu, setup.macs, &[])?;
        // Returns when all is in place.
        let words = bridges(setup, switch.dir.path());
        vsctl(&mut switch, &db, &words)?;
        if let Some(overlay) = setup.overlay {
            self.underlay(&mut switch, overlay, &control)?;
        }
        if setup.kind == Kind::Memif {
            switch.queues = 2;
        }
        switch.wait_for_sockets()?;
        Ok(switch)
    }
}

/// OVS without a bridge.
struct Daemons {
    switch: Switch,
    /// The database's socket, as programs are told it.
    db: String,
    /// The socket for ovs-appctl.
    control: String,
    /// What programs run in that are to see its TAP devices: `nsenter`'s argument.
    net: String,
}

impl Ovs {
    /// Starts its daemons, with these further settings.
    fn daemons(&self, kind: Kind, cpu: usize, macs: usize, more: &[&str]) -> Result<Daemons, String> {
        let mut switch = Switch::new("OVS-DPDK", kind, TempDir::new()?);
        let dir = switch.dir.path().display().to_string();
        let (conf, db, control) = (format!("{dir}/conf.db"), format!("unix:{dir}/db.sock"), format!("{dir}/ovs.ctl"));
        switch.command("ovsdb-tool", &["create", &conf, SCHEMA])?;
        let (remote, unixctl) = (format!("--remote=p{db}"), format!("--unixctl={dir}/db.ctl"));
        switch.spawn(On::Cpu(cpu), "ovsdb-server", &[&conf, &remote, &unixctl])?;
        switch.wait("has no database", |switch| switch.dir.path().join("db.sock").exists())?;

        let mask = format!("{:x}", 1u128 << cpu);
        let mut options: Vec<String> = ["--no-wait", "init", "--", "set", "Open_vSwitch", "."].map(String::from).into();
        options.extend([
            "other_config:dpdk-init=true".into(),
            "other_config:dpdk-extra=--no-pci --file-prefix ovs".into(),
            format!("other_config:dpdk-lcore-mask={mask}"),
            format!("other_config:pmd-cpu-mask={mask}"),
            "other_config:per-port-memory=true".into(),
            format!("other_config:flow-limit={}", macs.max(200_000)),
        ]);
        options.extend(more.iter().map(|setting| format!("other_config:{setting}")));
        vsctl(&mut switch, &db, &options)?;
        // In a network namespace of its own, because each bridge makes a TAP device.
        let unixctl = format!("--unixctl={control}");
        let program = self.program.display().to_string();
        switch.spawn(On::Cpu(cpu), "unshare", &["--net", "--", &program, &db, &unixctl])?;
        let id = switch.processes.last().map_or(0, std::process::Child::id);
        Ok(Daemons { switch, db, control, net: format!("--net=/proc/{id}/ns/net") })
    }

    /// Starts it with a TAP device in each of two network namespaces, `eth0` with 10.32.0.1 and 10.32.0.2, between which segments cross
    /// whole.
    ///
    /// # Errors
    /// If it does not start, or something is missing.
    pub fn start_taps(&self, memory: Memory, cpu: usize, containers: [&str; 2]) -> Result<Switch, String> {
        self.version()?;
        if memory == Memory::Ordinary {
            return Err(NEEDS_HUGE_PAGES.into());
        }
        let Daemons { mut switch, db, net, .. } = self.daemons(Kind::Memif, cpu, 0, &["userspace-tso-enable=true"])?;
        let mut words: Vec<String> =
            "add-br bench -- set bridge bench datapath_type=netdev".split(' ').map(String::from).collect();
        for n in [1, 2] {
            let add = format!("-- add-port bench tap{n} -- set interface tap{n} type=internal");
            words.extend(add.split(' ').map(String::from));
        }
        vsctl(&mut switch, &db, &words)?;
        for (n, container) in (1..).zip(containers) {
            let tap = format!("tap{n}");
            switch.command("nsenter", &[&net, "ip", "link", "set", &tap, "netns", container, "name", "eth0"])?;
            let address = format!("10.32.0.{n}/24");
            switch.command("ip", &["-n", container, "address", "add", &address, "dev", "eth0"])?;
            switch.command("ip", &["-n", container, "link", "set", "eth0", "up"])?;
        }
        Ok(switch)
    }

    /// Gives the bridge of the underlay its address. OVS finds the way to its tunnel's other end by the kernel's routes.
    fn underlay(&self, switch: &mut Switch, overlay: Overlay, control: &str) -> Result<(), String> {
        let id = switch.processes.last().map_or(0, std::process::Child::id);
        let (net, address) = (format!("--net=/proc/{id}/ns/net"), format!("{}/24", overlay.local));
        // Else the kernel sends what nobody asked for, which would be counted.
        let quiet = "f=/proc/sys/net/ipv6/conf/underlay/disable_ipv6; [ ! -e $f ] || echo 1 > $f";
        switch.command("nsenter", &[&net, "sh", "-c", quiet])?;
        switch.command("nsenter", &[&net, "ip", "address", "add", &address, "dev", "underlay"])?;
        switch.command("nsenter", &[&net, "ip", "link", "set", "underlay", "up"])?;
        let route = |_: &Switch| {
            let mut command = Command::new("ovs-appctl");
            command.args(["-t", control, "ovs/route/lookup", &overlay.remote.to_string()]);
            run(&mut command).is_ok_and(|text| text.contains("dev underlay"))
        };
        switch.wait("does not see its own address", route)
    }
}

/// Runs ovs-vsctl.
fn vsctl(switch: &mut Switch, db: &str, words: &[String]) -> Result<String, String> {
    let db = format!("--db={db}");
    let mut args = vec![db.as_str(), "--timeout=30"];
    args.extend(words.iter().map(String::as_str));
    let result = switch.command("ovs-vsctl", &args);
    result.map_err(|e| format!("{e}\n{}", switch.log()))
}

/// What ovs-vsctl is told: the bridges and their ports.
fn bridges(setup: &Setup, dir: &Path) -> Vec<String> {
    let mut words = Vec::new();
    let mut say = |text: &str| {
        if !words.is_empty() {
            words.push("--".to_owned());
        }
        words.extend(text.split(' ').map(String::from));
    };
    let table = setup.macs;
    let mut bridge = |name: &str| {
        say(&format!(
            "add-br {name} -- set bridge {name} datapath_type=netdev other_config:mac-table-size={table} \
             other_config:hwaddr=02:99:00:00:00:01"
        ));
    };
    bridge("bench");
    if setup.overlay.is_some() {
        bridge("underlay");
    }
    let far = if setup.overlay.is_some() { "underlay" } else { "bench" };
    for (id, (bridge, port)) in ["bench", far].iter().zip(setup.kind.sockets()).enumerate() {
        match setup.kind {
            Kind::Memif => {
                let socket = dir.join(port);
                say(&format!(
                    "add-port {bridge} memif{id} -- set interface memif{id} type=dpdk options:n_rxq=2 \
                     options:dpdk-devargs=net_memif{id},role=server,id={id},socket={},socket-abstract=no,rsize={}",
                    socket.display(),
                    setup.ring_size.ilog2()
                ));
            }
            // The port is called as its socket in OVS's directory.
            Kind::VhostUser => say(&format!("add-port {bridge} {port} -- set interface {port} type=dpdkvhostuser")),
        }
    }
    if let Some(Overlay { vni, local, remote }) = setup.overlay {
        say(&format!(
            "add-port bench vxlan -- set interface vxlan type=vxlan options:key={vni} options:local_ip={local} \
             options:remote_ip={remote}"
        ));
    }
    words
}
