//! Source guard: what a container sends with another's addresses goes nowhere, whatever its root does; and what is honest goes on.

use crate::harness::*;
use crate::tap::{connect, container, inside, port, transfer};
use dray_switch::Burst;
use dray_tap::Interface;
use std::net::UdpSocket;

/// What a container's root puts on its device by a packet socket.
fn put(ns: &Netns, frames: &[Vec<u8>]) {
    let (eth0, _) = inside(ns, || Interface::open("eth0").unwrap());
    let mut tx = eth0.tx_queues(1).remove(0);
    let mut burst = Burst::default();
    frames.iter().for_each(|frame| burst.push_owned(frame.clone()));
    let all: Vec<u16> = (0..frames.len() as u16).collect();
    assert_eq!(tx.send(&mut burst, &all).packets as usize, frames.len());
}

/// An answer to all that `spa` is at `sha`.
fn arp(src: [u8; 6], sha: [u8; 6], spa: [u8; 4]) -> Vec<u8> {
    [&[255; 6][..], &src, &[8, 6, 0, 1, 8, 0, 6, 4, 0, 2], &sha, &spa, &[255; 6], &spa].concat()
}

/// ICMPv6 to all nodes, of this type, with its checksum.
fn icmp6(src: [u8; 6], from: [u8; 16], message: &[u8]) -> Vec<u8> {
    const ALL: [u8; 16] = [0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
    let len = message.len() as u8;
    let pseudo = [&from[..], &ALL, &[0, 0, 0, len, 0, 0, 0, 58], message].concat();
    let mut sum: u32 = pseudo.chunks(2).map(|w| u32::from(w[0]) << 8 | u32::from(w[1])).sum();
    sum = (sum & 0xffff) + (sum >> 16);
    let [high, low] = (!(sum + (sum >> 16)) as u16).to_be_bytes();
    let header = [0x60, 0, 0, 0, 0, len, 58, 255];
    let message = [&message[..2], &[high, low], &message[4..]].concat();
    [&[0x33, 0x33, 0, 0, 0, 1][..], &src, &[0x86, 0xdd], &header, &from, &ALL, &message].concat()
}

fn link_local([a, b, c, d, e, f]: [u8; 6]) -> [u8; 16] {
    [0xfe, 0x80, 0, 0, 0, 0, 0, 0, a ^ 2, b, c, 0xff, 0xfe, d, e, f]
}

/// Advertises that this address is at `mac`.
fn neighbour(mac: [u8; 6], address: [u8; 16]) -> Vec<u8> {
    icmp6(mac, link_local(mac), &[&[136, 0, 0, 0, 0x20, 0, 0, 0][..], &address, &[2, 1], &mac].concat())
}

/// Advertises a router of fd66::/64 for half an hour (RFC 4861, section 4.2).
fn router(mac: [u8; 6]) -> Vec<u8> {
    let prefix = [3, 4, 64, 0xc0, 0, 0, 7, 8, 0, 0, 7, 8, 0, 0, 0, 0, 0xfd, 0x66];
    let message = [&[134, 0, 0, 0, 64, 0, 7, 8, 0, 0, 0, 0, 0, 0, 0, 0][..], &prefix, &[0; 14]].concat();
    icmp6(mac, link_local(mac), &message)
}

const fn fd00(last: u8) -> [u8; 16] {
    [0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, last]
}

#[test]
fn a_containers_root_sends_with_its_own_addresses_only() {
    let Some(test) = Test::begin() else { return };
    let (a, b, c) = (container("a"), container("b"), container("c"));
    // Whoever sees what the switch lets pass.
    let others = port("b", &b, 2) + &port("c", &c, 3) + &bridge("blue", &["a", "b", "c"]);
    let drayd = Drayd::start(&test, &(port("a", &a, 1) + &others));
    ["a", "b", "c"].iter().for_each(|name| drayd.wait_link(name, "up"));
    let honest = || {
        a.ping("10.32.0.2", 5, 56);
        a.ping("fd00::2", 5, 1400);
        let (mut client, mut server) = connect(&a, &b, "10.32.0.2");
        transfer(&mut client, &mut server, 1 << 20);
        let (mut client, mut server) = connect(&b, &a, "fd00::1");
        transfer(&mut client, &mut server, 1 << 20);
    };
    honest();
    let shown = drayd.port("a");
    let mac = shown.mac.0;
    assert_eq!(shown.allowed_addresses, [shown.mac.to_string(), "10.32.0.1".into(), "fd00::1".into()]);
    assert!(shown.drops.is_empty(), "honest traffic is not dropped: {:?}", shown.drops);
    assert!(drayd.dray("port show a").contains("allowed addresses"));
    // What it does, and what the drops are named; c sees nothing of it.
    let c_knows = |what: &str| c.run(&format!("ip neigh show {what} dev eth0"));
    let spoof = |reason: &str, what: &dyn Fn()| {
        let before = drayd.drops("a", reason);
        what();
        wait_for(reason, || (drayd.drops("a", reason) > before).then_some(()));
    };
    spoof("guard.source_ipv4", &|| {
        a.run("ip addr add 10.32.0.66/24 dev eth0");
        let socket = inside(&a, || UdpSocket::bind("10.32.0.66:7000").unwrap());
        socket.send_to(b"x", "10.32.0.2:7000").unwrap();
    });
    spoof("guard.arp", &|| assert!(!b.answers("10.32.0.66")));
    // It asks whether anybody has the address; or does not, and answers for it.
    spoof("guard.neighbour", &|| drop(a.run("ip addr add fd00::67/64 dev eth0")));
    spoof("guard.source_ipv6", &|| {
        a.run("ip addr add fd00::66/64 dev eth0 nodad");
        assert!(!b.answers("fd00::66"));
    });
    spoof("guard.source_ipv6", &|| {
        let socket = inside(&a, || UdpSocket::bind("[fd00::66]:7000").unwrap());
        socket.send_to(b"x", "[fd00::2]:7000").unwrap();
    });
    spoof("guard.arp", &|| put(&a, &[arp(mac, mac, [10, 32, 0, 2])]));
    spoof("guard.neighbour", &|| put(&a, &[neighbour(mac, fd00(2))]));
    spoof("guard.router", &|| put(&a, &[router(mac)]));
    spoof("guard.source_mac", &|| put(&a, &[arp(drayd.port("b").mac.0, mac, [10, 32, 0, 1])]));
    assert_eq!(c.run("ip -6 route show fd66::/64"), "", "no router was heard");
    assert!(!c_knows("10.32.0.2").contains(&shown.mac.to_string()));
    // It is not learned where it says to be.
    let places = drayd.dray("fdb show --bridge blue");
    assert!(
        places.lines().filter(|line| line.contains(&drayd.port("b").mac.to_string())).all(|line| line.contains(" b "))
    );
    spoof("guard.source_mac", &|| {
        a.run("ip link set eth0 address 02:00:00:00:00:66");
        assert!(!a.answers("10.32.0.2"));
    });
    a.run(&format!("ip link set eth0 address {}", shown.mac));
    a.run_all("ip addr del 10.32.0.66/24 dev eth0\nip addr del fd00::66/64 dev eth0\nip addr del fd00::67/64 dev eth0");
    honest();

    // Off, while it runs: the same device and the same connection.
    let (mut client, mut server) = connect(&a, &b, "10.32.0.2");
    drayd.dray("port set a allowed-addresses any");
    assert_eq!(drayd.port("a").allowed_addresses, ["any"]);
    transfer(&mut client, &mut server, 1 << 20);
    let before: u64 = drayd.port("a").drops.values().sum();
    a.run_all("ip addr add 10.32.0.77/24 dev eth0\nip addr add fd00::77/64 dev eth0 nodad");
    b.ping("10.32.0.77", 3, 56);
    b.ping("fd00::77", 3, 56);
    put(&a, &[router(mac)]);
    wait_for("a router", || (!c.run("ip -6 route show fd66::/64").is_empty()).then_some(()));
    assert_eq!(drayd.port("a").drops.values().sum::<u64>(), before);
    // And on again, with one more.
    drayd.dray("port set a allowed-addresses 10.32.0.77 fd00::/64");
    b.ping("10.32.0.77", 3, 56);
    b.ping("fd00::77", 3, 56);
    spoof("guard.router", &|| put(&a, &[router(mac)]));
    drayd.finish();
}

/// Whoever has a stack of its own is held to the port's `mac`, and to what the list has.
#[test]
fn a_memif_peer_is_guarded_if_it_is_asked_for() {
    let Some(test) = Test::begin() else { return };
    let b = container("b");
    let config = memif_ports(&["m"]) + &port("b", &b, 2) + &bridge("blue", &["m", "b"]);
    let drayd = Drayd::start(&test, &config);
    drayd.wait_link("b", "up");
    let mut m = test.memif(0);
    drayd.wait_link("m", "up");
    let own = drayd.port("m").mac.0;
    assert_eq!(drayd.port("m").allowed_addresses, ["any"]);
    let learns =
        |ip: &str| wait_for("a neighbour", || b.run(&format!("ip neigh show {ip}")).contains("lladdr").then_some(()));
    // An answer that was not asked for makes nobody's neighbour, a question does.
    let asks = |src: [u8; 6], sha: [u8; 6], spa: [u8; 4]| {
        [&[255; 6][..], &src, &[8, 6, 0, 1, 8, 0, 6, 4, 0, 1], &sha, &spa, &[0; 6], &[10, 32, 0, 2]].concat()
    };
    send(&mut m, &[asks(mac(7), mac(7), [10, 32, 0, 7])]);
    learns("10.32.0.7");
    drayd.dray("port set m allowed-addresses 10.32.0.8");
    send(&mut m, &[asks(own, own, [10, 32, 0, 8])]);
    learns("10.32.0.8");
    send(
        &mut m,
        &[asks(mac(7), mac(7), [10, 32, 0, 8]), asks(own, own, [10, 32, 0, 9]), asks(own, mac(7), [10, 32, 0, 8])],
    );
    wait_for("three drops", || {
        (drayd.drops("m", "guard.source_mac") + drayd.drops("m", "guard.arp") == 3).then_some(())
    });
    assert_eq!(b.run("ip neigh show 10.32.0.9"), "");
    drayd.finish();
}
