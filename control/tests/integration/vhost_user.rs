//! Virtual machines' ports with DPDK's driver (`net_virtio_user`) at the other end, in either role and with either kind of ring.

use crate::harness::*;
use crate::overlay::{Overlay, UPLINK};
use dray_api::{PortInfo, RingLayout, WorkerInfo};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// A vhost-user port on `DIR/NAME.sock`.
fn port(name: &str, keys: &str) -> String {
    format!("[[port]]\nname = {name:?}\nkind = \"vhost-user\"\nsocket = \"DIR/{name}.sock\"\n{keys}\n")
}

/// The driver's side of it, which has the other role.
fn device(name: &str, role: &str, keys: &str) -> String {
    let listens = if role == "client" { "server=1," } else { "" };
    format!("path=DIR/{name}.sock,{listens}{keys}")
}

/// Ports `p0`, `p1`... of a testpmd in `io` mode, which hands on what comes in by one port of a pair, (0, 1), (2, 3)..., by the other.
/// Bridges join the pairs to a line that has the memif ports `a` and `b` at its ends: what one sends, the other must get.
struct Line {
    drayd: Drayd,
    testpmd: Testpmd,
    ports: Vec<String>,
}

impl Line {
    /// For each port: our role, and what the driver can do.
    fn start(test: &Test, ports: &[(&str, String)], options: &str) -> Line {
        let names: Vec<String> = (0..ports.len()).map(|i| format!("p{i}")).collect();
        let mut config = memif_ports(&["a", "b"]);
        let mut devices = Vec::new();
        for (name, (role, keys)) in names.iter().zip(ports) {
            config += &port(name, &format!("role = {role:?}"));
            devices.push(device(name, role, keys));
        }
        let members: Vec<&str> = ["a"].into_iter().chain(names.iter().map(String::as_str)).chain(["b"]).collect();
        for (i, pair) in members.chunks(2).enumerate() {
            config += &bridge(&format!("bridge{i}"), pair);
        }
        let drayd = Drayd::start(test, &config);
        let options = format!("--total-num-mbufs=24000 --forward-mode io {options}");
        let mut testpmd = Testpmd::virtio(test, &devices, &options);
        names.iter().for_each(|name| drayd.wait_link(name, "up"));
        testpmd.start();
        Line { drayd, testpmd, ports: names }
    }

    /// Drayd and the driver have counted the same, and nothing was dropped but what `drops` names.
    fn agree(&mut self, drops: &[(&str, &str, u64)]) {
        let stats = self.testpmd.all_stats();
        assert_eq!(stats.len(), self.ports.len());
        for (name, stats) in self.ports.iter().zip(stats) {
            let port = self.drayd.port(name);
            assert_eq!((port.rx_packets, port.tx_packets), (stats.tx, stats.rx), "{port:?}");
            for (reason, n) in &port.drops {
                assert!(drops.contains(&(name, reason, *n)), "{port:?}");
            }
            assert!(vm(&port).faults.is_empty(), "{port:?}");
        }
    }
}

fn has(port: &PortInfo, feature: &str) -> bool {
    vm(port).features.iter().any(|name| name == feature)
}

/// Frames that we made, of every length that memory is read and written by in different ways, cross every kind of ring in both
/// roles; every byte of each arrives, once and in order.
#[test]
fn every_kind_of_ring_carries_every_byte() {
    let Some(test) = Test::begin() else { return };
    let mut ports = Vec::new();
    for kind in 0..8 {
        let (packed, in_order, mergeable) = (kind >> 2, kind >> 1 & 1, kind & 1);
        let role = if (packed ^ in_order ^ mergeable) == 0 { "client" } else { "server" };
        ports.push((role, format!("packed_vq={packed},in_order={in_order},mrg_rxbuf={mergeable},queue_size=1024")));
    }
    // The driver's other ways through the same rings.
    for (role, kind) in [
        ("client", "packed_vq=0,in_order=0,mrg_rxbuf=0"),
        ("server", "packed_vq=1,in_order=1,mrg_rxbuf=0"),
        ("client", "packed_vq=0,in_order=1,mrg_rxbuf=1"),
        ("server", "packed_vq=1,in_order=1,mrg_rxbuf=1"),
    ] {
        ports.push((role, format!("{kind},queue_size=512,vectorized=1")));
    }
    let mut line = Line::start(&test, &ports, "");
    for (name, (role, keys)) in line.ports.iter().zip(&ports) {
        let port = line.drayd.port(name);
        let packed = keys.contains("packed_vq=1");
        let size = if keys.contains("1024") { 1024 } else { 512 };
        let detail = vm(&port);
        assert_eq!(has(&port, "VIRTIO_F_RING_PACKED"), packed, "{port:?}");
        assert_eq!(has(&port, "VIRTIO_F_IN_ORDER"), keys.contains("in_order=1"), "{port:?}");
        assert_eq!(has(&port, "VIRTIO_NET_F_MRG_RXBUF"), keys.contains("mrg_rxbuf=1"), "{port:?}");
        assert!(has(&port, "VIRTIO_F_VERSION_1"), "{port:?}");
        assert!(detail.protocol_features.contains(&"VHOST_USER_PROTOCOL_F_MQ".to_owned()));
        assert_eq!((detail.role.to_string().as_str(), detail.connected, detail.regions), (*role, true, 1));
        let layout = if packed { RingLayout::Packed } else { RingLayout::Split };
        assert_eq!((detail.layout, detail.ring_size), (Some(layout), Some(size)));
        assert_eq!((port.queues, detail.bytes), (1, 256 << 20));
        assert_eq!(detail.rings.len(), 2);
        for (index, ring) in (0..).zip(&detail.rings) {
            assert_eq!((ring.index, ring.size, ring.packed), (index, size, packed));
            assert!(ring.started && ring.enabled, "{ring:?}");
        }
    }
    let exchange = Exchange::start(&test, &line.drayd);
    exchange.more(5_000);
    let (arrived, mut a, mut b) = exchange.stop();
    println!("{arrived} frames through {} rings, none lost", 2 * ports.len());
    line.agree(&[]);

    // A buffer of the first port has 2048 bytes for a frame, which can't have two.
    let frame = |len: usize| {
        let mut frame = numbered(mac(0xa), mac(0xb), 11);
        frame.resize(len, 7);
        frame
    };
    receive(&mut b);
    send(&mut a, &[frame(2049), frame(2048)]);
    expect(&mut b, &[frame(2048)]);
    wait_for("the drop", || (line.drayd.drops("p0", "tx.too_big") == 1).then_some(()));
    line.agree(&[("p0", "tx.too_big", 1)]);
    line.drayd.finish();
}

/// Frames that take several buffers, one way and the other.
#[test]
fn jumbo_frames_take_several_buffers() {
    let Some(test) = Test::begin() else { return };
    let ports: Vec<_> = (0..4)
        .map(|kind| {
            let role = if kind == 1 || kind == 2 { "server" } else { "client" };
            (role, format!("packed_vq={},in_order={},mrg_rxbuf=1,queue_size=1024", kind >> 1, kind & 1))
        })
        .collect();
    // RTE_ETH_RX_OFFLOAD_SCATTER and RTE_ETH_TX_OFFLOAD_MULTI_SEGS
    let mut line = Line::start(&test, &ports, "--max-pkt-len=9216 --rx-offloads=0x2000 --tx-offloads=0x8000");
    let (mut a, mut b) = (test.memif(0), test.memif(1));
    line.drayd.wait_link("a", "up");
    line.drayd.wait_link("b", "up");
    let frame = |from: u32, to: u32, len: usize| {
        let mut frame: Vec<u8> = (0..len).map(|i| (i * 7 + len) as u8).collect();
        frame[..6].copy_from_slice(&mac(to));
        frame[6..12].copy_from_slice(&mac(from));
        frame[12..14].copy_from_slice(&EXPERIMENTAL);
        frame
    };
    let lens =
        [64, 512, 1514, 2036, 2047, 2048, 2049, 2060, 4107, 4108, 4109, 6168, 8227, 8228, 8229, 8999, 9000, 9014];
    for round in 0..10 {
        let there: Vec<_> = lens.iter().map(|len| frame(1, 2, len + round)).collect();
        let back: Vec<_> = lens.iter().map(|len| frame(2, 1, len + round)).collect();
        send(&mut a, &there);
        send(&mut b, &back);
        for (client, wanted) in [(&mut b, &there), (&mut a, &back)] {
            let mut got = Vec::new();
            wait_for("the frames", || {
                got.extend(receive(client));
                (got.len() >= wanted.len()).then_some(())
            });
            for (got, wanted) in got.iter().zip(wanted) {
                assert!(got == wanted, "a frame of {} bytes arrived as {}", wanted.len(), got.len());
            }
            assert_eq!(got.len(), wanted.len());
        }
    }
    line.agree(&[]);
    drop((a, b));
    line.drayd.finish();
}

const TWO_WORKERS: &str = "[[worker]]\ncpu = 0\nidle-sleep = 50\n[[worker]]\ncpu = 1\nidle-sleep = 50\n";

/// How many rings of the port are enabled.
fn enabled(drayd: &Drayd, name: &str) -> usize {
    let port = drayd.port(name);
    vm(&port).rings.iter().filter(|ring| ring.enabled).count()
}

/// Flows are spread over all queues, both ways, with two workers at them; then the driver uses fewer and more of them under load.
#[test]
fn all_queues_are_used_and_their_number_changes() {
    let Some(test) = Test::begin() else { return };
    let ports = memif_ports(&["a"]) + &port("vm0", "") + &port("vm1", "role = \"server\"");
    let drayd = Drayd::start(&test, &(TWO_WORKERS.to_string() + &ports + &bridge("blue", &["a", "vm0", "vm1"])));
    let devices = [
        device("vm0", "client", "queues=8,queue_size=256,packed_vq=1"),
        device("vm1", "server", "queues=8,queue_size=256"),
    ];
    let options = "--total-num-mbufs=24000 --forward-mode flowgen --rxq=8 --txq=8";
    let mut testpmd = Testpmd::virtio(&test, &devices, options);
    let up = |queues: usize| {
        for name in ["vm0", "vm1"] {
            drayd.wait_link(name, "up");
            wait_for("the rings", || (enabled(&drayd, name) == 2 * queues).then_some(()));
        }
    };
    up(8);
    assert_eq!((drayd.port("vm0").queues, drayd.port("vm1").queues), (8, 8));
    testpmd.start();
    let counts = |testpmd: &mut Testpmd, way: &str, queues: usize| -> Vec<u64> {
        let queue = |i| testpmd.xstat(i / queues, &format!("{way}_q{}_good_packets", i % queues));
        (0..2 * queues).map(queue).collect()
    };
    let all_used = |testpmd: &mut Testpmd, way: &str, queues: usize| {
        let before = counts(testpmd, way, queues);
        wait_for(&format!("{queues} queues to be used"), || {
            let now = counts(testpmd, way, queues);
            now.iter().zip(&before).all(|(now, before)| now > before).then_some(())
        });
    };
    all_used(&mut testpmd, "rx", 8);
    all_used(&mut testpmd, "tx", 8);
    testpmd.command("stop");
    // What is still in the rings.
    testpmd.command("set fwd rxonly");
    testpmd.start();
    wait_for("the counts to agree", || {
        let stats = testpmd.all_stats();
        let ports = [drayd.port("vm0"), drayd.port("vm1")];
        let agree =
            |(port, stats): (&PortInfo, &TestpmdStats)| (port.rx_packets, port.tx_packets) == (stats.tx, stats.rx);
        ports.iter().zip(&stats).all(agree).then_some(())
    });
    let shown: Vec<WorkerInfo> = drayd.json("worker show");
    assert!(shown.len() == 2 && shown.iter().all(|worker| worker.packets > 1000), "{shown:?}");

    // Now frames of many flows come from a third, while the driver stops, uses other queues, and goes on.
    let mut a = test.memif(0);
    drayd.wait_link("a", "up");
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let end = EndOf(&stop);
        scope.spawn(|| {
            for number in 0.. {
                if stop.load(Ordering::Relaxed) {
                    return;
                }
                a.tx[0].send(&numbered(mac(number as u32 % 1000), [0xff; 6], number));
            }
        });
        for queues in [4, 1, 8] {
            testpmd.command("stop");
            testpmd.command("port stop all");
            testpmd.command(&format!("port config all rxq {queues}"));
            testpmd.command(&format!("port config all txq {queues}"));
            testpmd.command("port start all");
            up(queues);
            testpmd.start();
            all_used(&mut testpmd, "rx", queues);
        }
        drop(end);
    });
    for name in ["vm0", "vm1"] {
        assert!(vm(&drayd.port(name)).faults.is_empty());
    }
    drop(testpmd);
    drop(a);
    drayd.finish();
}

/// Sets it when dropped, also by a panic: a scope waits for its threads.
struct EndOf<'a>(&'a AtomicBool);

impl Drop for EndOf<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn a_killed_vm_comes_back_and_nobody_else_notices() {
    let Some(test) = Test::alone() else { return };
    let config = memif_ports(&["a", "b"])
        + &port("c", "")
        + &port("d", "role = \"server\"")
        + "[[bridge]]\nname = \"blue\"\nports = [\"a\", \"b\", \"c\", \"d\"]\n\
           static = [{ mac = \"02:d0:00:00:00:0c\", port = \"c\" }, { mac = \"02:d0:00:00:00:0d\", port = \"d\" }]\n";
    let drayd = Drayd::start(&test, &config);
    let exchange = Exchange::start(&test, &drayd);
    let devices =
        [device("c", "client", "mac=02:d0:00:00:00:0c"), device("d", "server", "mac=02:d0:00:00:00:0d,packed_vq=1")];
    for _ in 0..3 {
        let mut victim = Testpmd::virtio(&test, &devices, "--total-num-mbufs=16000 --forward-mode io");
        let begin = Instant::now();
        drayd.wait_link("c", "up");
        drayd.wait_link("d", "up");
        assert!(begin.elapsed() < Duration::from_secs(2), "{:?}", begin.elapsed());
        victim.command("set eth-peer 0 02:d0:00:00:00:0d");
        victim.command("set eth-peer 1 02:d0:00:00:00:0c");
        // These go round.
        victim.command("start tx_first 4");
        wait_for("load", || victim.all_stats().iter().all(|stats| stats.rx > 10_000).then_some(()));
        exchange.more(5_000);
        victim.kill();
        drayd.wait_link("c", "down");
        drayd.wait_link("d", "down");
        // DPDK does not remove the socket of a predecessor.
        std::fs::remove_file(test.path("c.sock")).unwrap();
        exchange.more(5_000);
    }
    let (arrived, a, b) = exchange.stop();
    println!("{arrived} frames, none lost");
    for name in ["a", "b"] {
        assert!(drayd.port(name).drops.is_empty(), "{:?}", drayd.port(name));
    }
    drop((a, b));
    drayd.finish();
}

/// The driver listens, as is our default; so all that can happen to us does not touch it.
#[test]
fn traffic_goes_on_when_drayd_comes_back() {
    let Some(test) = Test::begin() else { return };
    let names = ["split0", "split1", "packed0", "packed1"];
    let of_kind = |kind: &str| {
        let other = |name| port(name, "").replace("vhost-user", kind);
        other("split0")
            + &port("split1", "")
            + &other("packed0")
            + &port("packed1", "")
            + &bridge("red", &["split0", "split1"])
            + &bridge("blue", &["packed0", "packed1"])
    };
    let config = of_kind("vhost-user");
    let mut drayd = Drayd::start(&test, &config);
    let devices = names
        .map(|name| device(name, "client", if name.starts_with("packed") { "packed_vq=1" } else { "packed_vq=0" }));
    let mut testpmd = Testpmd::virtio(&test, &devices, "--total-num-mbufs=24000 --forward-mode flowgen");
    testpmd.start();
    let mut flows = |drayd: &Drayd| {
        names.iter().for_each(|name| drayd.wait_link(name, "up"));
        let before = testpmd.all_stats();
        wait_for("traffic", || {
            let more = |(now, before): (&TestpmdStats, &TestpmdStats)| {
                now.rx > before.rx + 5_000 && now.tx > before.tx + 5_000
            };
            testpmd.all_stats().iter().zip(&before).all(more).then_some(())
        });
        for name in names {
            assert!(vm(&drayd.port(name)).faults.is_empty(), "{name}");
        }
    };
    flows(&drayd);
    for _ in 0..2 {
        drayd.kill();
        drayd = Drayd::start(&test, &config);
        flows(&drayd);
    }
    for (name, bridge) in [("split0", "red"), ("packed0", "blue")] {
        drayd.dray(&format!("port del {name}"));
        let socket = test.path(&format!("{name}.sock"));
        drayd
            .dray(&format!("port add --name {name} --kind vhost-user --socket {} --bridge {bridge}", socket.display()));
    }
    flows(&drayd);
    drayd.apply(&test, &of_kind("memif").replace("0.sock", "0.memif"));
    assert!(drayd.ports().iter().any(|port| port.name == "packed0" && port.kind == "memif"));
    drayd.apply(&test, &config);
    flows(&drayd);
    drayd.finish();
}

#[test]
fn the_kernel_pings_a_vm_across_vxlan() {
    let Some(test) = Test::begin() else { return };
    let net = Overlay::new("10.9.0.2");
    let capture = Capture::start(&test, &net.kernel, "under");
    let config = port("vm", "role = \"server\"") + UPLINK + &overlay(&["vm"]);
    let drayd = Drayd::start_in(&test, &net.switch, &config);
    drayd.wait_link("uplink", "up");
    let devices = [device("vm", "server", "packed_vq=1")];
    let mut vm = Testpmd::virtio(&test, &devices, "--total-num-mbufs=8192 --forward-mode icmpecho");
    drayd.wait_link("vm", "up");
    vm.start();
    net.kernel.ping("192.168.7.1", 20, 56);
    net.kernel.ping("192.168.7.1", 20, 1400);
    let frames = capture.stop();
    frames.assert_clean();
    assert!(frames.count("vxlan.vni == 42 && icmp.type == 0") >= 40);
    drop(vm);
    drayd.finish();
}

/// A bridge on VNI 42, with the kernel's VTEP as its only peer.
fn overlay(ports: &[&str]) -> String {
    format!(
        "[[bridge]]\nname = \"out\"\nvni = 42\nports = {ports:?}\n\
         [vxlan]\nport = \"uplink\"\nlocal = \"10.9.0.1/24\"\npeers = [\"10.9.0.2\"]\n"
    )
}

/// TCP from a driver that leaves checksums and segmentation to us, towards a NIC and a VTEP that can do neither.
#[test]
fn what_a_driver_leaves_to_us_is_done() {
    let Some(test) = Test::begin() else { return };
    let net = Overlay::new("10.9.0.2");
    let lan = Netns::new("lan");
    lan.veth("eth0", &net.switch, "lan");
    let config = memif_ports(&["a"])
        + UPLINK
        + "[[port]]\nname = \"lan\"\nkind = \"eth\"\ndevice = \"net_af_packet1,iface=lan\"\n"
        + &port("p0", "role = \"server\"")
        + &port("p1", "")
        + &bridge("in", &["a", "p0"])
        + &overlay(&["p1", "lan"]);
    let captures = [Capture::start(&test, &net.kernel, "under"), Capture::start(&test, &lan, "eth0")];
    let drayd = Drayd::start_in(&test, &net.switch, &config);
    for packed in [0, 1] {
        let devices = [device("p0", "server", ""), device("p1", "client", &format!("packed_vq={packed}"))];
        // RTE_ETH_RX_OFFLOAD_SCATTER, RTE_ETH_TX_OFFLOAD_MULTI_SEGS, _TCP_TSO, _TCP_CKSUM
        let options =
            "--total-num-mbufs=16000 --max-pkt-len=9216 --rx-offloads=0x2000 --tx-offloads=0x8028 --forward-mode csum";
        let mut testpmd = Testpmd::virtio(&test, &devices, options);
        for command in ["port stop all", "csum set tcp hw 1", "tso set 800 1", "port start all"] {
            testpmd.command(command);
        }
        for name in ["uplink", "lan", "p0", "p1"] {
            drayd.wait_link(name, "up");
        }
        assert!(has(&drayd.port("p1"), "VIRTIO_NET_F_HOST_TSO4"), "{:?}", drayd.port("p1"));
        testpmd.command("set eth-peer 1 02:d0:00:00:00:0f");
        testpmd.start();
        let mut a = test.memif(0);
        drayd.wait_link("a", "up");
        let before = drayd.port("p1").rx_packets;
        let mut number: u32 = packed << 20;
        for len in LENGTHS {
            send(&mut a, &[tcp(number, len)]);
            number += len as u32;
        }
        let arrived = || drayd.port("p1").rx_packets - before;
        wait_for("the frames", || (arrived() == LENGTHS.len() as u64).then_some(()));
        testpmd.command("stop");
        std::fs::remove_file(test.path("p1.sock")).unwrap_or_default();
    }
    let segments: usize = LENGTHS.iter().map(|len| len.div_ceil(800)).sum();
    for capture in captures {
        let frames = capture.stop();
        frames.assert_clean();
        let segments_of = |packed: u32| {
            let filter = format!("tcp.seq_raw >= {} && tcp.seq_raw < {}", packed << 20, (packed + 1) << 20);
            frames.fields(&filter, &["tcp.seq_raw", "tcp.payload"])
        };
        for packed in [0, 1] {
            let found = segments_of(packed);
            assert_eq!(found.len(), segments);
            let mut next = packed << 20;
            for segment in found {
                let number: u32 = segment[0].parse().unwrap();
                assert_eq!(number, next);
                let payload: Vec<u8> = (number..).map(byte).take(segment[1].len() / 2).collect();
                let hex: String = payload.iter().map(|byte| format!("{byte:02x}")).collect();
                assert_eq!(segment[1], hex);
                assert!(payload.len() <= 800);
                next += payload.len() as u32;
            }
            assert_eq!(next, (packed << 20) + LENGTHS.iter().sum::<usize>() as u32);
        }
    }
    // One of each segment went each way.
    assert_eq!(drayd.status().segments, 2 * 2 * (segments - LENGTHS.len()) as u64);
    drayd.finish();
}

/// Of the payloads that are to be 800 bytes at most.
const LENGTHS: [usize; 9] = [1, 100, 799, 800, 801, 1600, 1601, 4000, 8900];

/// Byte number `number` of a stream.
fn byte(number: u32) -> u8 {
    (number.wrapping_mul(7) >> 3) as u8
}

/// A piece of a TCP stream over IPv4, without the checksums, which testpmd fills in.
fn tcp(number: u32, len: usize) -> Vec<u8> {
    let mut frame = [mac(0xff), mac(0xa)].concat();
    frame.extend([0x08, 0x00, 0x45, 0]);
    frame.extend((40 + len as u16).to_be_bytes());
    frame.extend([0, 1, 0x40, 0, 64, 6, 0, 0, 192, 168, 7, 1, 192, 168, 7, 77]);
    // Ports that no other protocol has.
    frame.extend((50_000 + (number >> 20) as u16).to_be_bytes());
    frame.extend(50_100u16.to_be_bytes());
    frame.extend(number.to_be_bytes());
    frame.extend([0, 0, 0, 0, 0x50, 0x10, 0xff, 0xff, 0, 0, 0, 0]);
    frame.extend((number..).map(byte).take(len));
    frame
}
