//! NICs by PCI address: drayd inside a guest, whose NICs QEMU emulates. The test is at the other ends of their wires.

use crate::guest::*;
use crate::harness::*;
use dray_api::WorkerInfo;
use serde_json::json;
use std::ops::{Deref, DerefMut};
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Instant;

/// The guest's NICs: the port's name, QEMU's name of the device, and where it is in the guest. Each has a PCI Express port of
/// its own, so that it can be pulled out.
const NICS: [(&str, &str, &str); 3] = [
    ("intel", "e1000e", "0000:01:00.0"),
    ("vmware", "vmxnet3", "0000:02:00.0"),
    ("virtio", "virtio-net-pci", "0000:03:00.0"),
];

const ALL: [usize; 3] = [0, 1, 2];

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
    inside: Inside<'a>,
    wires: Vec<Wire>,
}

impl<'a> Deref for Machine<'a> {
    type Target = Inside<'a>;

    fn deref(&self) -> &Inside<'a> {
        &self.inside
    }
}

impl DerefMut for Machine<'_> {
    fn deref_mut(&mut self) -> &mut Self::Target {
        &mut self.inside
    }
}

impl<'a> Machine<'a> {
    /// With an IOMMU or without, and some hugepages of 2 MiB. `more` are QEMU's arguments for other devices.
    fn boot(test: &'a Test, ns: &Netns, iommu: bool, hugepages: u32, more: &[&str]) -> Machine<'a> {
        let mut command = ns.command("qemu-system-x86_64");
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
        command.args(more);
        let inside = Inside::boot(test, command, &format!("intel_iommu=on hugepages={hugepages}"));
        Machine { inside, wires }
    }

    /// Gives a NIC, once it is there, to this driver of the kernel.
    fn bind(&mut self, address: &str, driver: &str) {
        let device = format!("/sys/bus/pci/devices/{address}");
        wait_for(address, || (self.guest.attempt(&format!("test -e {device}")).0 == 0).then_some(()));
        self.guest.run(&format!("echo {driver} >{device}/driver_override"));
        self.guest.attempt(&format!("echo {address} >{device}/driver/unbind"));
        self.guest.run(&format!("echo {address} >/sys/bus/pci/drivers_probe"));
        let bound = self.guest.run(&format!("readlink {device}/driver"));
        assert!(bound.trim().ends_with(&format!("/{driver}")), "{bound}");
    }

    /// Waits until the port is down for a reason that says all of this.
    fn wait_down(&mut self, name: &str, says: &[&str]) {
        let mut last = None;
        let begin = Instant::now();
        while !last.as_ref().is_some_and(|reason: &String| says.iter().all(|part| reason.contains(part))) {
            assert!(begin.elapsed() < PATIENCE, "{name} is not down because of {says:?}, but: {last:?}");
            last = self.port(name).reason;
            sleep_ms(100);
        }
    }

    /// Pulls a NIC out while frames are sent to it, puts it back, and gives it to this driver again.
    fn replug(&mut self, at: usize, driver: &str) {
        let (name, _, address) = NICS[at];
        let others: Vec<usize> = (0..NICS.len()).filter(|&other| other != at).collect();
        let stop = AtomicBool::new(false);
        let (wires, guest) = (&self.wires, &mut self.inside.guest);
        thread::scope(|scope| {
            scope.spawn(|| {
                let mut frame = numbered(mac(99), [0xff; 6], 0);
                while !stop.load(Ordering::Relaxed) {
                    frame[14] = frame[14].wrapping_add(1);
                    for &other in &others {
                        wires[other].send(&frame);
                    }
                    wires.iter().for_each(|wire| while wire.receive().is_some() {});
                    sleep_ms(1);
                }
            });
            let _stop = Stop(&stop);
            sleep_ms(500);
            guest.unplug(&format!("nic-{name}"));
        });
        self.wait_down(name, &[address, "no such PCI device"]);
        self.exchange(&others, 20);
        self.guest.monitor("device_add", device(at + 1));
        self.bind(address, driver);
        self.wait_up(name);
        self.exchange(&ALL, 20);
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

/// Ends a thread that looks at it, however the test goes on.
struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
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
    let Some(test) = Test::guests() else { return };
    let ns = Netns::new("iommu");
    let mut machine = Machine::boot(&test, &ns, true, 64, &[]);
    machine.start(&ports(&ALL));
    for (name, _, address) in NICS {
        machine.wait_down(name, &["the kernel's driver", &format!("dpdk-devbind.py -b vfio-pci {address}")]);
        machine.bind(address, "vfio-pci");
    }
    NICS.iter().for_each(|(name, ..)| machine.wait_up(name));
    machine.exchange(&ALL, 100);
    for (name, ..) in NICS {
        machine.guest.monitor("set_link", json!({ "name": name, "up": false }));
        machine.wait_down(name, &["the device has no link"]);
        machine.guest.monitor("set_link", json!({ "name": name, "up": true }));
        machine.wait_up(name);
        machine.exchange(&ALL, 20);
    }
    ALL.iter().for_each(|&at| machine.replug(at, "vfio-pci"));
    assert!(machine.log().contains(", hugepages\n"), "{}", machine.log());
    machine.stop();

    machine.guest.run("echo 0 >/proc/sys/vm/nr_hugepages");
    machine.start(&ports(&ALL));
    NICS.iter().for_each(|(name, ..)| machine.wait_up(name));
    machine.exchange(&ALL, 100);
    assert!(machine.log().contains("no hugepages"), "{}", machine.log());
    machine.stop();
}

/// A virtio NIC with two queues and RSS is the guest's fourth; the kernel of a namespace is at its other end.
#[test]
fn nics_without_an_iommu() {
    const QUEUES: &str = "0000:04:00.0";
    let Some(test) = Test::guests() else { return };
    let ns = Netns::new("tap");
    let tap = "tap,id=queues,ifname=tap0,script=no,downscript=no,queues=2";
    let queues = "virtio-net-pci,netdev=queues,bus=slot4,mq=on,rss=on,vectors=6,mac=02:00:00:00:00:04,romfile=";
    let more = ["-device", "pcie-root-port,id=slot4,slot=4", "-netdev", tap, "-device", queues];
    let mut machine = Machine::boot(&test, &ns, false, 64, &more);
    let config = ports(&ALL).replace(
        "[[bridge]]",
        &format!("[[port]]\nname = \"queues\"\nkind = \"eth\"\ndevice = \"{QUEUES}\"\nqueues = 2\n[[bridge]]"),
    );
    let config = config.replace("ports = [", "ports = [\"queues\", ");

    let (intel, vmware, virtio) = (NICS[0], NICS[1], NICS[2]);
    let interface = machine.guest.run(&format!("ls /sys/bus/pci/devices/{}/net", intel.2)).trim().to_owned();
    let route = "ip route add default via 192.0.2.2";
    machine.guest.run(&format!("ip link set {interface} up && ip addr add 192.0.2.1/24 dev {interface} && {route}"));
    machine.start(&config);
    machine.wait_down(intel.0, &["default route", &interface]);
    let bind = format!("dpdk-devbind.py -b uio_pci_generic {}", vmware.2);
    machine.wait_down(vmware.0, &["the kernel's driver vmxnet3 has it as interface", &bind, "no IOMMU"]);
    machine.wait_down(virtio.0, &["the kernel's driver virtio-pci has it as interface"]);
    // It has an IOMMU do the work, and there is none.
    let device = format!("/sys/bus/pci/devices/{}", vmware.2);
    let give = format!("echo vfio-pci >{device}/driver_override; echo {} >{device}/driver/unbind", vmware.2);
    machine.guest.run(&format!("{give}; echo {} >/sys/bus/pci/drivers_probe; true", vmware.2));
    machine.wait_down(vmware.0, &["no driver has it", &bind]);

    for address in NICS.map(|nic| nic.2).into_iter().chain([QUEUES]) {
        machine.bind(address, "uio_pci_generic");
    }
    NICS.iter().for_each(|(name, ..)| machine.wait_up(name));
    machine.wait_up("queues");
    machine.exchange(&ALL, 100);

    machine.start_another("second", &ports(&ALL));
    let first = machine.guest.run("cat /host/run/drayd.pid").trim().to_owned();
    let refusal = format!("port {}: down: device \"{}\": another process has it: {first} (drayd)", virtio.0, virtio.2);
    wait_for("the second to be refused", || {
        machine.guest.run("cat /host/run/second.log").contains(&refusal).then_some(())
    });
    machine.guest.run("kill $(cat /host/run/second.pid)");
    machine.exchange(&ALL, 20);

    ns.run("ip link set tap0 up");
    ns.run("ip addr add 192.0.2.1/24 dev tap0");
    ns.run("ip neigh add 192.0.2.2 lladdr 02:d0:00:00:00:00 dev tap0");
    let flows = "for port in $(seq 64); do echo x >/dev/udp/192.0.2.2/$port; done";
    assert!(ns.command("bash").args(["-c", flows]).status().unwrap().success());
    let mut arrived = 0;
    wait_for("the flows", || {
        // To UDP.
        while let Some(frame) = machine.wires[0].receive() {
            arrived += u32::from(frame[..6] == mac(0) && frame[23] == 17);
        }
        (arrived == 64).then_some(())
    });
    let port = machine.port("queues");
    assert_eq!((port.queues, port.detail.eth().unwrap().rss), (2, Some(true)));
    let workers: Vec<WorkerInfo> = machine.json("worker show");
    let queues = workers[0].loads.iter().filter(|queue| queue.port == "queues");
    let packets: Vec<u64> = queues.map(|queue| queue.packets).collect();
    assert!(packets.len() == 2 && packets.iter().all(|&packets| packets >= 16), "{packets:?}");

    ALL.iter().for_each(|&at| machine.replug(at, "uio_pci_generic"));
    machine.stop();

    machine.guest.run("echo 0 >/proc/sys/vm/nr_hugepages");
    machine.start(&ports(&ALL));
    machine.wait_down(intel.0, &["uio_pci_generic", "needs hugepages", "IOMMU"]);
    machine.guest.run("echo 64 >/proc/sys/vm/nr_hugepages");
    NICS.iter().for_each(|(name, ..)| machine.wait_up(name));
    machine.exchange(&ALL, 20);
    machine.stop();
}
