//! Virtual machines' ports with DPDK's driver (`net_virtio_user`) at the other end, in either role and with either kind of ring.

use crate::harness::*;
use dray_config::rpc::{ConnectInfo, PortInfo};
use serde_json::{Value, json};
use std::collections::BTreeSet;
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
            assert_eq!(port.detail["faults"], json!({}), "{port:?}");
        }
    }
}

fn has(port: &PortInfo, feature: &str) -> bool {
    port.detail["features"].as_array().unwrap().contains(&json!(feature))
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
        let detail = |key: &str| port.detail[key].clone();
        assert_eq!(has(&port, "VIRTIO_F_RING_PACKED"), packed, "{port:?}");
        assert_eq!(has(&port, "VIRTIO_F_IN_ORDER"), keys.contains("in_order=1"), "{port:?}");
        assert_eq!(has(&port, "VIRTIO_NET_F_MRG_RXBUF"), keys.contains("mrg_rxbuf=1"), "{port:?}");
        assert!(has(&port, "VIRTIO_F_VERSION_1"), "{port:?}");
        assert!(port.detail["protocol_features"].as_array().unwrap().contains(&json!("VHOST_USER_PROTOCOL_F_MQ")));
        assert_eq!((detail("role"), detail("connected"), detail("regions")), (json!(role), json!(true), json!(1)));
        assert_eq!((detail("layout"), detail("ring_size")), (json!(if packed { "packed" } else { "split" }), json!(size)));
        assert_eq!((port.queues, detail("bytes")), (1, json!(256 << 20)));
        let ring = |index: usize, key: &str| port.detail["rings"][index][key].clone();
        assert_eq!(port.detail["rings"].as_array().unwrap().len(), 2);
        for index in 0..2 {
            assert_eq!((ring(index, "index"), ring(index, "size")), (json!(index), json!(size)));
            assert_eq!((ring(index, "packed"), ring(index, "started")), (json!(packed), json!(true)));
            assert_eq!(ring(index, "enabled"), json!(true));
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
    let lens = [64, 512, 1514, 2036, 2047, 2048, 2049, 2060, 4107, 4108, 4109, 6168, 8227, 8228, 8229, 8999, 9000, 9014];
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
