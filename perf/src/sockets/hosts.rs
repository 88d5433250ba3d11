//! Network namespaces that stand for containers and hosts, and what connects them.

use super::Measure;
use super::traffic::{self, Run};
use crate::netns::Netns;
use crate::peer::{Dray, Memory, Ovs, Switch, run};
use std::path::Path;
use std::time::{Duration, Instant};

/// By what they are connected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    /// The kernel's bridge and veth devices.
    Kernel,
    /// TAP devices and drayd.
    Dray,
    /// The same with the receivers' work on other CPUs than the worker's.
    DrayRps,
    /// The same, and segments are not joined.
    DrayWithoutGro,
    /// TAP devices and OVS-DPDK, which has such memory.
    Ovs(Memory),
}

impl Way {
    pub(super) fn name(self) -> &'static str {
        match self {
            Way::Kernel => "kernel",
            Way::Dray => "Dray",
            Way::DrayRps => "Dray, rps on",
            Way::DrayWithoutGro => "Dray, gro off",
            Way::Ovs(_) => "OVS-DPDK",
        }
    }

    /// Lines for a port of Dray's.
    fn keys(self) -> &'static str {
        match self {
            Way::DrayRps => "rps = \"on\"\n",
            Way::DrayWithoutGro => "gro = false\n",
            _ => "",
        }
    }
}

/// Two that talk, and what connects them.
pub(super) struct Pair {
    /// It ends first.
    switch: Option<Switch>,
    pub(super) first: Netns,
    pub(super) second: Netns,
    /// The second one's address.
    pub(super) address: &'static str,
    _host: Netns,
}

/// How a pair is made.
pub(super) type Connect = fn(Way, &Path, usize) -> Result<Pair, String>;

/// drayd in the namespace `host`, with such ports and bridges.
fn drayd(program: &Path, cpu: usize, host: &Netns, ports: &str) -> Result<Switch, String> {
    Dray::new(program.into()).start_in(host.name(), |dir| {
        format!("[control]\nsocket = {:?}\n[[worker]]\ncpu = {cpu}\n{ports}", dir.join("dray.sock"))
    })
}

fn tap(name: &str, netns: &Netns, address: &str, way: Way) -> String {
    let (path, keys) = (netns.path(), way.keys());
    format!("[[port]]\nname = \"{name}\"\nkind = \"tap\"\nnetns = \"{path}\"\naddresses = [\"{address}/24\"]\n{keys}")
}

/// Two containers of one host.
pub(super) fn bridge(way: Way, program: &Path, cpu: usize) -> Result<Pair, String> {
    let [first, second, host] = [Netns::new("a")?, Netns::new("b")?, Netns::new("host")?];
    let switch = match way {
        Way::Kernel => {
            host.ip("link add bridge0 type bridge mcast_snooping 0")?;
            host.ip("link set bridge0 up")?;
            for (container, name, address) in [(&first, "port1", "10.32.0.1"), (&second, "port2", "10.32.0.2")] {
                host.veth(name, container, "eth0")?;
                host.ip(&format!("link set {name} master bridge0"))?;
                container.ip(&format!("addr add {address}/24 dev eth0"))?;
            }
            None
        }
        Way::Ovs(memory) => Some(Ovs::default().start_taps(memory, cpu, [first.name(), second.name()])?),
        _ => {
            let ports = tap("a", &first, "10.32.0.1", way) + &tap("b", &second, "10.32.0.2", way);
            let bridge = "[[bridge]]\nname = \"blue\"\nports = [\"a\", \"b\"]\n";
            Some(drayd(program, cpu, &host, &(ports + bridge))?)
        }
    };
    Pair { switch, first, second, address: "10.32.0.2", _host: host }.ready()
}

/// A container of one host, and another host with the kernel's own vxlan device.
pub(super) fn tunnel(way: Way, program: &Path, cpu: usize) -> Result<Pair, String> {
    over_vxlan(way, program, cpu, true)
}

/// The same, and the other host's NIC can't cut what is in tunnels: as on a wire, packets come one by one.
pub(super) fn cut_tunnel(way: Way, program: &Path, cpu: usize) -> Result<Pair, String> {
    over_vxlan(way, program, cpu, false)
}

fn over_vxlan(way: Way, program: &Path, cpu: usize, whole: bool) -> Result<Pair, String> {
    let [first, second, host] = [Netns::new("a")?, Netns::new("k")?, Netns::new("host")?];
    host.veth("nic", &second, "nic")?;
    if !whole {
        let features = ["tx-udp_tnl-segmentation", "tx-udp_tnl-csum-segmentation", "tx-udp-segmentation"];
        for feature in features {
            run(second.command("ethtool").args(["-K", "nic", feature, "off"]))?;
        }
    }
    let vtep = |netns: &Netns, own: &str, other: &str| -> Result<(), String> {
        netns.ip(&format!("addr add {own}/24 dev nic"))?;
        netns.ip(&format!("link add vxlan0 type vxlan id 42 local {own} remote {other} dstport 4789 dev nic"))?;
        netns.ip("link set vxlan0 up")
    };
    vtep(&second, "10.9.0.2", "10.9.0.1")?;
    second.ip("addr add 10.32.0.2/24 dev vxlan0")?;
    let switch = if way == Way::Kernel {
        vtep(&host, "10.9.0.1", "10.9.0.2")?;
        host.ip("link add bridge0 type bridge mcast_snooping 0")?;
        host.veth("port1", &first, "eth0")?;
        for device in ["port1", "vxlan0"] {
            host.ip(&format!("link set {device} master bridge0"))?;
        }
        host.ip("link set bridge0 up")?;
        first.ip("link set eth0 mtu 1450")?;
        first.ip("addr add 10.32.0.1/24 dev eth0")?;
        None
    } else {
        let ports = tap("a", &first, "10.32.0.1", way)
            + "[[port]]\nname = \"nic\"\nkind = \"eth\"\ndevice = \"nic\"\n\
               [[bridge]]\nname = \"blue\"\nvni = 42\nports = [\"a\"]\n\
               [vxlan]\nport = \"nic\"\nlocal = \"10.9.0.1/24\"\npeers = [\"10.9.0.2\"]\n";
        Some(drayd(program, cpu, &host, &ports)?)
    };
    Pair { switch, first, second, address: "10.32.0.2", _host: host }.ready()
}

impl Pair {
    /// Waits until they reach each other.
    fn ready(self) -> Result<Pair, String> {
        let end = Instant::now() + Duration::from_secs(20);
        loop {
            let answer = run(self.first.command("ping").args(["-c", "1", "-W", "1", self.address]));
            match answer {
                Ok(_) => return Ok(self),
                Err(why) if Instant::now() > end => {
                    let log = self.switch.as_ref().map(Switch::log).unwrap_or_default();
                    return Err(format!("the two don't reach each other: {why}\n{log}"));
                }
                Err(_) => std::thread::sleep(Duration::from_millis(100)),
            }
        }
    }

    fn measure(&mut self, measure: &Measure, duration: u16, cpu: usize) -> Result<Run, String> {
        if let Some(switch) = &mut self.switch {
            switch.resume();
        }
        let result = traffic::measure(self, measure, duration, cpu);
        match &mut self.switch {
            Some(switch) => {
                let paused = switch.pause();
                let log = || format!("\n{}", switch.log());
                let run = result.map_err(|e| e + &log())?;
                paused.map(|()| run)
            }
            None => result,
        }
    }
}

/// All that are compared.
pub(super) struct Rivals(Vec<(Way, Pair)>);

impl Rivals {
    /// Starts each; with why some could not be.
    pub(super) fn start(
        connect: Connect,
        ways: &[Way],
        program: &Path,
        cpu: usize,
    ) -> Result<(Rivals, Vec<String>), String> {
        let (mut all, mut absent) = (Vec::new(), Vec::new());
        for &way in ways {
            let pair = connect(way, program, cpu).and_then(|mut pair| {
                pair.switch.as_mut().map_or(Ok(()), Switch::pause)?;
                Ok(pair)
            });
            match (pair, way) {
                (Ok(pair), _) => all.push((way, pair)),
                (Err(why), Way::Ovs(_)) => absent.push(format!("{}: {why}", way.name())),
                (Err(why), _) => return Err(format!("{}: {why}", way.name())),
            }
        }
        Ok((Rivals(all), absent))
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    pub(super) fn names(&self) -> impl Iterator<Item = &'static str> {
        self.0.iter().map(|(way, _)| way.name())
    }

    /// Measures number `i`.
    pub(super) fn measure(&mut self, i: usize, measure: &Measure, duration: u16, cpu: usize) -> Result<Run, String> {
        let (way, pair) = &mut self.0[i];
        pair.measure(measure, duration, cpu).map_err(|why| format!("{}: {why}", way.name()))
    }
}
