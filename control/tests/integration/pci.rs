//! NICs by PCI address: drayd inside a guest, whose NICs QEMU emulates. The test is at the other ends of their wires.

use crate::guest::*;
use crate::harness::*;
use dray_config::rpc::PortInfo;
use serde::de::DeserializeOwned;
use serde_json::json;
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;
use std::process::Command;
use std::thread;

/// The guest's NICs: the port's name, QEMU's name of the device, and where it is in the guest. Each has a PCI Express port of
/// its own, so that it can be pulled out.
const NICS: [(&str, &str, &str); 3] = [
    ("intel", "e1000e", "0000:01:00.0"),
    ("vmware", "vmxnet3", "0000:02:00.0"),
    ("virtio", "virtio-net-pci", "0000:03:00.0"),
];

/// Frames on their way at a time: fewer than a Unix socket queues.
const WINDOW: u64 = 8;

/// The other end of a NIC's wire.
struct Wire {
    socket: UnixDatagram,
    nic: PathBuf,
}

impl Wire {
    fn new(test: &Test, name: &str) -> Wire {
        let socket = UnixDatagram::bind(test.path(&format!("{name}.wire"))).unwrap();
        socket.set_nonblocking(true).unwrap();
        Wire { socket, nic: test.path(&format!("{name}.nic")) }
    }

    /// Sends a frame, unless the queue is full.
    fn send(&self, frame: &[u8]) -> bool {
        self.socket.send_to(frame, &self.nic).is_ok()
    }

    fn receive(&self) -> Option<Vec<u8>> {
        let mut frame = vec![0; 65536];
        let len = self.socket.recv(&mut frame).ok()?;
        frame.truncate(len);
        Some(frame)
    }
}

/// A guest with NICs, and their wires.
struct Machine<'a> {
    test: &'a Test,
    guest: Guest,
    wires: Vec<Wire>,
    /// Times that drayd was started in it.
    starts: u32,
}

impl<'a> Machine<'a> {
    /// With an IOMMU or without, and some hugepages of 2 MiB.
    fn boot(test: &'a Test, iommu: bool, hugepages: u32) -> Machine<'a> {
        let mut command = Command::new("qemu-system-x86_64");
        // Dray wants AVX2.
        command.args(["-machine", "q35", "-smp", "2", "-cpu", "max", "-m", "1024"]);
        // The programs that the test runs in it, and their libraries, are this machine's.
        command.args(["-fsdev", "local,id=host,path=/,security_model=none,readonly=on,multidevs=remap"]);
        command.args(["-device", "virtio-9p-pci,fsdev=host,mount_tag=host"]);
        if iommu {
            // Interrupts have to be remapped, or VFIO refuses.
            command.args(["-device", "intel-iommu,intremap=on"]);
        }
        let mut wires = Vec::new();
        for (slot, (name, ..)) in (1..).zip(NICS) {
            let wire = Wire::new(test, name);
            let path = |end: &str| test.path(&format!("{name}.{end}")).display().to_string();
            command.args(["-device", &format!("pcie-root-port,id=slot{slot},slot={slot}")]);
            let (nic, other) = (path("nic"), path("wire"));
            let netdev = "local.type=unix,remote.type=unix";
            command.args(["-netdev", &format!("dgram,id={name},{netdev},local.path={nic},remote.path={other}")]);
            command.args(["-device", &device(slot).to_string()]);
            wires.push(wire);
        }
        let parameters = format!("intel_iommu=on hugepages={hugepages}");
        let mut guest = Guest::boot(test, "machine", command, "nic", &parameters);
        guest.wait_ready();
        Machine { test, guest, wires, starts: 0 }
    }

    /// Gives a NIC to this driver of the kernel.
    fn bind(&mut self, address: &str, driver: &str) {
        let device = format!("/sys/bus/pci/devices/{address}");
        self.guest.run(&format!("echo {driver} >{device}/driver_override"));
        self.guest.attempt(&format!("echo {address} >{device}/driver/unbind"));
        self.guest.run(&format!("echo {address} >/sys/bus/pci/drivers_probe"));
        let bound = self.guest.run(&format!("readlink {device}/driver"));
        assert!(bound.trim().ends_with(&format!("/{driver}")), "{bound}");
    }

    /// Starts drayd with these ports and bridges and waits until it is ready.
    fn start(&mut self, config: &str) {
        self.starts += 1;
        let worker = "[[worker]]\ncpu = 1\nidle-sleep = 100\n";
        let control = "[control]\nsocket = \"/run/dray.sock\"\n";
        // A new name each time: the guest may believe that it knows what is in a file.
        let file = self.test.file(&format!("{}.toml", self.starts), &format!("{worker}{config}{control}"));
        let drayd = env!("CARGO_BIN_EXE_drayd");
        let run = format!("chroot /host {drayd} --config {} >/host/run/drayd.log 2>&1", file.display());
        self.guest.run(&format!("{run} & echo $! >/host/run/drayd.pid"));
        wait_for("drayd to be ready", || {
            assert!(self.runs(), "drayd ended:\n{}", self.log());
            self.log().contains("ready: control socket").then_some(())
        });
    }

    /// Every packet is accounted for, and SIGTERM ends it cleanly.
    fn stop(&mut self) {
        let (status, ports) = (self.json("status"), self.json::<Vec<PortInfo>>("port show"));
        assert!(is_conserved(&status, &ports), "{status:#?}\n{ports:#?}");
        self.guest.run("kill $(cat /host/run/drayd.pid)");
        wait_for("drayd to end", || (!self.runs()).then_some(()));
        let log = self.log();
        assert!(log.contains("ended after") && !log.contains("panicked at"), "{log}");
    }

    /// Whether drayd has not ended.
    fn runs(&mut self) -> bool {
        self.guest.attempt("test -e /proc/$(cat /host/run/drayd.pid)/exe").0 == 0
    }

    fn log(&mut self) -> String {
        self.guest.attempt("cat /host/run/drayd.log").1
    }

    /// What `dray --json ARGS` answers in the guest.
    fn json<T: DeserializeOwned>(&mut self, args: &str) -> T {
        let dray = env!("CARGO_BIN_EXE_dray");
        let (status, out) = self.guest.attempt(&format!("chroot /host {dray} --socket /run/dray.sock --json {args}"));
        assert_eq!(status, 0, "dray {args}: {out}\n{}", self.log());
        serde_json::from_str(&out).unwrap_or_else(|error| panic!("dray {args}: {error}\n{out}"))
    }

    fn port(&mut self, name: &str) -> PortInfo {
        self.json::<Vec<PortInfo>>(&format!("port show {name}")).remove(0)
    }

    /// Waits until the port's link is `up` or `down`. What is known of it then.
    fn wait_link(&mut self, name: &str, link: &str) -> PortInfo {
        wait_for(&format!("{name} to be {link}"), || Some(self.port(name)).filter(|port| port.link == link))
    }

    /// Every NIC sends every other one frames through the switch, which must arrive whole and in order.
    fn exchange(&mut self, nics: &[usize], count: u64) {
        for &from in nics {
            for &to in nics.iter().filter(|&&to| to != from) {
                self.send(from, to, count);
            }
        }
    }

    fn send(&self, from: usize, to: usize, count: u64) {
        let (source, destination) = (mac(from as u32), mac(to as u32));
        let (mut sent, mut arrived) = (0, 0);
        wait_for(&format!("frames from {} to {}", NICS[from].0, NICS[to].0), || {
            while sent < count && sent - arrived < WINDOW && self.wires[from].send(&numbered(source, destination, sent))
            {
                sent += 1;
            }
            for (at, wire) in self.wires.iter().enumerate() {
                while let Some(frame) = wire.receive() {
                    if at == to && frame[..6] == destination && frame[6..12] == source {
                        assert_eq!(frame, numbered(source, destination, arrived));
                        arrived += 1;
                    }
                }
            }
            (arrived == count).then_some(())
        });
    }
}

/// QEMU's device in a slot, from 1.
fn device(slot: usize) -> serde_json::Value {
    let (name, driver, _) = NICS[slot - 1];
    let mut device = json!({
        "driver": driver, "id": format!("nic-{name}"), "netdev": name, "bus": format!("slot{slot}"),
        "mac": format!("02:00:00:00:00:0{slot}"), "romfile": ""
    });
    if driver == "virtio-net-pci" {
        // It does what the IOMMU says.
        device["iommu_platform"] = true.into();
        device["disable-legacy"] = "on".into();
    }
    device
}

impl Drop for Machine<'_> {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("--- drayd's log ---\n{}\n-------------------", self.log());
        }
    }
}

/// Ports on NICs, and a bridge of them.
fn ports(nics: &[usize]) -> String {
    let port = |&at: &usize| {
        let (name, _, address) = NICS[at];
        format!("[[port]]\nname = {name:?}\nkind = \"eth\"\ndevice = {address:?}\n")
    };
    let names: Vec<&str> = nics.iter().map(|&at| NICS[at].0).collect();
    nics.iter().map(port).collect::<String>() + &bridge("lan", &names)
}

#[test]
fn nics_behind_an_iommu() {
    let Some(test) = Test::begin() else { return };
    let mut machine = Machine::boot(&test, true, 64);
    for (_, _, address) in NICS {
        machine.bind(address, "vfio-pci");
    }
    let all = [0, 1, 2];
    machine.start(&ports(&all));
    for (name, ..) in NICS {
        machine.wait_link(name, "up");
    }
    machine.exchange(&all, 100);
    for (name, ..) in NICS {
        machine.guest.monitor("set_link", json!({ "name": name, "up": false }));
        let port = machine.wait_link(name, "down");
        assert_eq!(port.reason.as_deref(), Some("the device has no link"));
        machine.guest.monitor("set_link", json!({ "name": name, "up": true }));
        machine.wait_link(name, "up");
        machine.exchange(&all, 20);
    }
    machine.stop();
    assert!(machine.log().contains("hugepages\n") && !machine.log().contains("no hugepages"), "{}", machine.log());

    machine.guest.run("echo 0 >/proc/sys/vm/nr_hugepages");
    machine.start(&ports(&all));
    for (name, ..) in NICS {
        machine.wait_link(name, "up");
    }
    machine.exchange(&all, 100);
    assert!(machine.log().contains("no hugepages"), "{}", machine.log());
    machine.stop();
}
