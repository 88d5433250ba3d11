//! Virtual machines on vhost-user ports: Linux's virtio-net driver in QEMU.

use crate::guest::*;
use crate::harness::*;
use crate::overlay::{Overlay, UPLINK};
use dray_api::{PortInfo, RingLayout};
use dray_config::Role;
use std::io::Write;
use std::time::{Duration, Instant};

/// The files that travel, in MB: some hundred rounds of a ring.
const FILE: u32 = 16;

/// A bridge of two guests.
fn two_guests() -> String {
    WORKER.to_owned() + &vhost_ports(&["vm1", "vm2"]) + &bridge("blue", &["vm1", "vm2"])
}

/// A bridge of two guests and a container that the kernel is in too, across VXLAN.
fn with_overlay(test: &Test) -> (Overlay, Drayd) {
    let net = Overlay::new("10.9.0.2");
    // What the kernel tells TCP to send and to ask for.
    net.kernel.run("ip link set vx mtu 1450");
    let config = format!(
        "{WORKER}{}{}{UPLINK}[[bridge]]\nname = \"blue\"\nvni = 42\nports = [\"web\", \"vm1\", \"vm2\"]\n\
         [vxlan]\nport = \"uplink\"\nlocal = \"10.9.0.1/24\"\npeers = [\"10.9.0.2\"]\n",
        memif_ports(&["web"]),
        vhost_ports(&["vm1", "vm2"])
    );
    let drayd = Drayd::start_in(test, &net.switch, &config);
    drayd.wait_link("uplink", "up");
    (net, drayd)
}

fn negotiated(port: &PortInfo, feature: &str) -> bool {
    vm(port).features.iter().any(|name| name == feature)
}

/// How many of a port's rings are enabled.
fn enabled(port: &PortInfo) -> usize {
    vm(port).rings.iter().filter(|ring| ring.enabled).count()
}

/// Guest `to` gets the file, of hash `sum`, of guest number `from`. Returns the average length of the frames that it received.
fn transfer(drayd: &Drayd, from: u8, sum: &str, to: &mut Guest, port: &str) -> u64 {
    let before = drayd.port(port);
    assert_eq!(to.fetch(&Guest::address(from)), sum);
    assert_eq!(to.fetch(&Guest::address6(from)), sum);
    let after = drayd.port(port);
    let average = (after.tx_bytes - before.tx_bytes) / (after.tx_packets - before.tx_packets);
    println!("{port} received {FILE} MB twice in frames of {average} bytes");
    average
}

/// The kernel in `net` and a guest get each other's file.
fn transfer_both_ways(test: &Test, net: &Netns, guest: &mut Guest, number: u8, sum: &str) {
    let get = format!("timeout 60 busybox {} </dev/null | sha256sum", fetch(&Guest::address(number)));
    let output = net.command("sh").args(["-c", &get]).output().unwrap();
    assert_eq!(first_word(&String::from_utf8_lossy(&output.stdout)), sum, "{output:?}");

    let file = test.path("file");
    let mut text = std::fs::File::create(&file).unwrap();
    (0..1_000_000).for_each(|line| writeln!(text, "{line}").unwrap());
    let sum = first_word(&run(&format!("sha256sum {}", file.display())));
    let port = FILE_PORT.to_string();
    let mut server = net.command("busybox");
    server.args(["nc", "-l", "-p", &port, "-e", "cat"]).arg(&file);
    let _server = Process::start(server);
    let listening = format!("ss -Hltn sport = {port}");
    wait_for("the kernel's side to listen", || net.run(&listening).contains(&port).then_some(()));
    assert_eq!(guest.fetch("192.168.7.2"), sum);
}

/// Frames of a capture, of a kind, whose checksum was looked at, and all of them right.
fn assert_checksums(kind: &str, frames: &Frames) {
    frames.assert_correct();
    let right = frames.count(&format!("{kind} && tcp.checksum.status == 1 && tcp.len > 0"));
    assert!(right > 10_000, "{right} segments");
}

#[test]
fn guests_reach_containers_the_overlay_and_each_other() {
    let Some(test) = Test::guests() else { return };
    let (net, drayd) = with_overlay(&test);
    let mut vm1 = Guest::start(&test, "vm1", 1, Device::default());
    {
        // It answers whatever address is asked for, so it must go before others are.
        let mut web = Testpmd::client(&test, 0, "icmpecho");
        web.start();
        vm1.ping("192.168.7.1", 20, 56);
        vm1.ping("192.168.7.1", 20, 1400);
    }
    let mut vm2 = Guest::start(&test, "vm2", 2, Device::default());
    vm1.ping(&Guest::address(2), 20, 56);
    vm1.ping(&Guest::address(2), 20, 4000);
    vm2.ping(&Guest::address6(1), 20, 1400);
    vm1.ping("192.168.7.2", 20, 56);
    net.kernel.ping(&Guest::address(2), 20, 1400);

    for (guest, port) in [(&mut vm1, "vm1"), (&mut vm2, "vm2")] {
        let on = guest.features();
        for feature in ["tx-checksumming", "rx-checksumming", "tx-tcp-segmentation", "tx-tcp6-segmentation"] {
            assert!(on.iter().any(|name| name == feature), "{feature} in {on:?}");
        }
        let port = drayd.port(port);
        assert_eq!((port.link.as_str(), vm(&port).layout), ("up", Some(RingLayout::Split)));
        for feature in ["CSUM", "GUEST_CSUM", "HOST_TSO4", "HOST_TSO6", "GUEST_TSO4", "GUEST_TSO6", "MRG_RXBUF"] {
            assert!(negotiated(&port, &format!("VIRTIO_NET_F_{feature}")), "{feature} in {:?}", port.detail);
        }
    }
    let sum = vm1.make_file(FILE);
    let average = transfer(&drayd, 1, &sum, &mut vm2, "vm2");
    assert!(average > 2 * 1514, "segments travel whole");
    assert_eq!(drayd.status().segments, 0);
    let capture = Capture::start(&test, &net.kernel, "under");
    transfer_both_ways(&test, &net.kernel, &mut vm1, 1, &sum);
    assert_checksums("vxlan", &capture.stop());
    assert!(drayd.port("uplink").segments > 0, "towards the underlay they are cut");
    drayd.finish();
}

#[test]
fn a_guest_without_offloads_gets_what_it_can_take() {
    let Some(test) = Test::guests() else { return };
    let (net, drayd) = with_overlay(&test);
    let properties = format!("{NO_OFFLOADS},mrg_rxbuf=off");
    let [mut vm1, mut vm2] = Guest::start_two(
        &test,
        [("vm1", 1, Device::default()), ("vm2", 2, Device { properties: &properties, ..Device::default() })],
    );
    vm1.ping(&Guest::address(2), 20, 1400);
    let on = vm2.features();
    assert!(!on.iter().any(|name| name == "tx-checksumming" || name == "tx-tcp-segmentation"), "{on:?}");
    for feature in ["CSUM", "GUEST_CSUM", "HOST_TSO4", "GUEST_TSO4", "MRG_RXBUF"] {
        assert!(!negotiated(&drayd.port("vm2"), &format!("VIRTIO_NET_F_{feature}")), "{feature}");
    }
    let sum = vm1.make_file(FILE);
    let average = transfer(&drayd, 1, &sum, &mut vm2, "vm2");
    assert!((1000..=1514).contains(&average) && drayd.port("vm2").segments > 0);
    let sum = vm2.make_file(FILE);
    transfer(&drayd, 2, &sum, &mut vm1, "vm1");
    let capture = Capture::start(&test, &net.kernel, "under");
    transfer_both_ways(&test, &net.kernel, &mut vm2, 2, &sum);
    assert_checksums("vxlan", &capture.stop());
    assert_eq!(drayd.port("uplink").segments, 0, "it cuts its own");
    drayd.finish();
}

/// What either leaves undone crosses undone or is done, so that every byte and every checksum is right.
#[test]
fn guests_and_containers_with_sockets() {
    let Some(test) = Test::guests() else { return };
    let c = Netns::new("c");
    let tap = format!(
        "[[port]]\nname = \"c\"\nkind = \"tap\"\nnetns = {:?}\naddresses = [\"192.168.7.2/24\"]\ngro = false\n",
        c.path()
    );
    let config = WORKER.to_owned() + &vhost_ports(&["vm1", "vm2"]) + &tap + &bridge("blue", &["vm1", "vm2", "c"]);
    let drayd = Drayd::start(&test, &config);
    drayd.wait_link("c", "up");
    let properties = format!("{NO_OFFLOADS},mrg_rxbuf=off");
    let guests = Guest::start_two(
        &test,
        [("vm1", 1, Device::default()), ("vm2", 2, Device { properties: &properties, ..Device::default() })],
    );
    for (mut guest, number) in guests.into_iter().zip(1..) {
        guest.ping("192.168.7.2", 20, 1400);
        let sum = guest.make_file(FILE);
        for offloads in ["on", "off"] {
            c.run(&format!("ethtool -K eth0 tx {offloads} tso {offloads} gso {offloads}"));
            // Where neither leaves anything undone the device shows what was on the way.
            let capture = (number == 2 && offloads == "off").then(|| Capture::start(&test, &c, "eth0"));
            transfer_both_ways(&test, &c, &mut guest, number, &sum);
            if let Some(capture) = capture {
                assert_checksums("ip", &capture.stop());
            }
        }
    }
    drayd.finish();
}

/// One of them with buffers of 64 KB in chains, on a socket where Dray listens.
#[test]
fn guests_with_packed_rings() {
    let Some(test) = Test::guests() else { return };
    let ports = WORKER.to_owned() + &vhost_ports(&["vm1", "vm2"]) + "role = \"server\"\n";
    let drayd = Drayd::start(&test, &(ports + &bridge("blue", &["vm1", "vm2"])));
    let chains = Device { properties: "packed=on,mrg_rxbuf=off", dray: Role::Server, ..Device::default() };
    let [mut vm1, mut vm2] = Guest::start_two(
        &test,
        [("vm1", 1, Device { properties: "packed=on", ..Device::default() }), ("vm2", 2, chains)],
    );
    vm1.ping(&Guest::address(2), 20, 1400);
    for name in ["vm1", "vm2"] {
        let port = drayd.port(name);
        assert_eq!(vm(&port).layout, Some(RingLayout::Packed));
        assert_eq!(negotiated(&port, "VIRTIO_NET_F_MRG_RXBUF"), name == "vm1");
    }
    let sum = vm1.make_file(FILE);
    assert!(transfer(&drayd, 1, &sum, &mut vm2, "vm2") > 2 * 1514);
    let sum = vm2.make_file(FILE);
    assert!(transfer(&drayd, 2, &sum, &mut vm1, "vm1") > 2 * 1514);
    drayd.finish();
}

/// Guests with four queues change how many they use while files travel.
#[test]
fn guests_change_their_queues_under_load() {
    let Some(test) = Test::guests() else { return };
    let workers = "[[worker]]\ncpu = 0\nidle-sleep = 50\n[[worker]]\ncpu = 1\nidle-sleep = 50\n";
    let drayd = Drayd::start(&test, &two_guests().replace(WORKER, workers));
    let device = Device { queues: 4, ..Device::default() };
    let [mut vm1, mut vm2] =
        Guest::start_two(&test, [("vm1", 1, device), ("vm2", 2, Device { properties: "packed=on", ..device })]);
    vm1.ping(&Guest::address(2), 20, 1400);
    let sum = vm1.make_file(FILE);
    for _ in 0..3 {
        let get = fetch(&Guest::address(1));
        let get = format!("{get} </dev/null | sha256sum >>/tmp/sums");
        vm2.run(&format!("while ! [ -e /tmp/enough ]; do {get}; done >/dev/null 2>&1 &"));
    }
    let arrived = |vm2: &mut Guest| vm2.attempt("cat /tmp/sums").1.lines().count();
    for queues in [1, 4, 2, 1, 4] {
        for (guest, port) in [(&mut vm1, "vm1"), (&mut vm2, "vm2")] {
            guest.run(&format!("ethtool -L eth0 combined {queues}"));
            wait_for("the rings", || (enabled(&drayd.port(port)) == 2 * queues).then_some(()));
        }
        let before = arrived(&mut vm2);
        wait_for("files to arrive", || (arrived(&mut vm2) >= before + 4).then_some(()));
    }
    vm2.run("touch /tmp/enough");
    wait_for("the last", || (vm2.attempt("pgrep sha256sum").0 != 0).then_some(()));
    let sums = vm2.run("cat /tmp/sums");
    println!("{} files", sums.lines().count());
    assert!(sums.lines().all(|line| first_word(line) == sum), "{sums}");
    drayd.finish();
}

/// The guests, one with split rings and one with packed rings, need not do anything.
#[test]
fn a_killed_drayd_comes_back_under_running_guests() {
    let Some(test) = Test::alone() else { return };
    let mut drayd = Drayd::start(&test, &two_guests());
    let [mut vm1, mut vm2] = Guest::start_two(
        &test,
        [("vm1", 1, Device::default()), ("vm2", 2, Device { properties: "packed=on", ..Device::default() })],
    );
    vm1.ping(&Guest::address(2), 20, 1400);
    // It dies under load: the file arrives all the same.
    let sum = vm1.make_file(FILE);
    let get = fetch(&Guest::address(1));
    vm2.run(&format!("{get} </dev/null | sha256sum >/tmp/sum &"));
    wait_for("load", || (drayd.port("vm2").tx_bytes > 1_000_000).then_some(()));
    drayd.kill();
    drayd = Drayd::start(&test, &two_guests());
    wait_for("the file", || (first_word(&vm2.run("cat /tmp/sum")) == sum).then_some(()));

    // When its carrier goes Linux forgets its neighbours, and it asks for them once a second. This is about Dray's part.
    for (guest, other) in [(&mut vm1, 2), (&mut vm2, 1)] {
        guest.run(&format!("arp -s {} {}", Guest::address(other), Guest::mac(other)));
    }
    vm1.run(&format!("ping -i 0.02 {} >/tmp/pings &", Guest::address(2)));
    let answered = |vm1: &mut Guest| -> usize { first_word(&vm1.run("wc -l /tmp/pings")).parse().unwrap() };
    let mut quickest = PATIENCE;
    for _ in 0..3 {
        let before = answered(&mut vm1);
        wait_for("pings", || (answered(&mut vm1) > before + 20).then_some(()));
        drayd.kill();
        sleep_ms(500);
        let before = answered(&mut vm1);
        let start = Instant::now();
        drayd = Drayd::start(&test, &two_guests());
        let ready = Instant::now();
        wait_for("an answer", || (answered(&mut vm1) > before).then_some(()));
        println!("drayd was ready after {:?}, and a ping answered {:?} later", ready - start, ready.elapsed());
        quickest = quickest.min(ready.elapsed());
    }
    assert!(quickest < Duration::from_secs(1), "{quickest:?}");
    vm1.run("kill $(pidof ping)");
    vm1.ping(&Guest::address(2), 20, 1400);
    drayd.finish();
}

/// Whatever becomes of guests, their ports come back by themselves, and others lose nothing.
#[test]
fn guests_come_and_go() {
    let Some(test) = Test::guests() else { return };
    let quiet = memif_ports(&["a", "b"]) + &bridge("quiet", &["a", "b"]);
    let drayd = Drayd::start(&test, &(quiet + &two_guests()));
    let packed = Device { properties: "packed=on", ..Device::default() };
    let [mut vm1, mut vm2] = Guest::start_two(&test, [("vm1", 1, Device::default()), ("vm2", 2, packed)]);
    let exchange = Exchange::start(&test, &drayd);
    fn meet(vm1: &mut Guest, vm2: &mut Guest, exchange: &Exchange) {
        let since = Instant::now();
        wait_for("the guests to meet", || vm1.answers(&Guest::address(2)).then_some(()));
        println!("they meet after {:?}", since.elapsed());
        vm1.ping(&Guest::address(2), 10, 1400);
        vm2.ping(&Guest::address6(1), 10, 1400);
        exchange.more(1000);
    }
    meet(&mut vm1, &mut vm2, &exchange);
    vm1.reset();
    meet(&mut vm1, &mut vm2, &exchange);
    vm2.reboot();
    meet(&mut vm1, &mut vm2, &exchange);
    for guest in [&mut vm1, &mut vm2] {
        guest.rebind();
        exchange.more(1000);
    }
    meet(&mut vm1, &mut vm2, &exchange);

    // Killed under load.
    vm1.make_file(FILE);
    let load = format!("while true; do {} </dev/null; done >/dev/null 2>&1 &", fetch(&Guest::address(1)));
    for name in ["vm1", "vm2"] {
        let before = drayd.port("vm2").tx_bytes;
        vm2.run(&load);
        wait_for("load", || (drayd.port("vm2").tx_bytes > before + 1_000_000).then_some(()));
        let (guest, number, device) = match name {
            "vm1" => (&mut vm1, 1, Device::default()),
            _ => (&mut vm2, 2, packed),
        };
        guest.kill();
        drayd.wait_link(name, "down");
        exchange.more(1000);
        *guest = Guest::start(&test, name, number, device);
        meet(&mut vm1, &mut vm2, &exchange);
        vm1.make_file(FILE);
    }
    let (arrived, _a, _b) = exchange.stop();
    println!("{arrived} frames of others, none lost");
    assert!(drayd.port("a").drops.is_empty() && drayd.port("b").drops.is_empty(), "{:?}", drayd.ports());
    for name in ["vm1", "vm2"] {
        let port = drayd.port(name);
        assert!(vm(&port).faults.is_empty(), "{:?}", port.detail);
    }
    drayd.finish();
}

/// A guest moves from one QEMU to another, each on a port of its own, while files arrive in it.
#[test]
fn a_guest_migrates_under_load() {
    let Some(test) = Test::guests() else { return };
    for properties in ["", "packed=on"] {
        let config = WORKER.to_owned() + &vhost_ports(&["vm1", "vm2", "new"]) + &bridge("blue", &["vm1", "vm2", "new"]);
        let drayd = Drayd::start(&test, &config);
        let device = Device { properties, ..Device::default() };
        let [mut vm1, mut vm2] = Guest::start_two(&test, [("vm1", 1, device), ("vm2", 2, device)]);
        let mut new = Guest::incoming(&test, "new", 1, device);
        vm1.ping(&Guest::address(2), 20, 1400);
        let sum = vm2.make_file(FILE);
        let get = fetch(&Guest::address(2));
        vm1.run(&format!("while true; do {get} </dev/null | sha256sum >>/tmp/sums; done >/dev/null 2>&1 &"));
        let arrived = |guest: &mut Guest| guest.attempt("cat /tmp/sums").1.lines().count();
        wait_for("files", || (arrived(&mut vm1) >= 2).then_some(()));

        vm1.migrate(&test, &mut new);
        vm1.kill();
        let moved = Instant::now();
        wait_for("a ping from where it is now", || new.answers(&Guest::address(2)).then_some(()));
        println!("a guest with {properties:?} moved, and was there after {:?}", moved.elapsed());
        vm2.ping(&Guest::address(1), 20, 1400);
        let before = arrived(&mut new);
        wait_for("files", || (arrived(&mut new) >= before + 2).then_some(()));
        let sums = new.run("cat /tmp/sums");
        assert!(sums.lines().all(|line| first_word(line) == sum), "{sums}");
        assert!(drayd.port("new").tx_packets > 0);
        drop((vm2, new));
        drayd.finish();
    }
}
