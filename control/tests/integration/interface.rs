//! Interfaces that the kernel drives, without DPDK: hosts behind veth devices as they are by default, with all that these leave undone.

use crate::harness::*;
use crate::tap::{connect, inside, transfer};
use dray_switch::Burst;
use dray_switch::mem::to_vec;
use dray_tap::Interface;

/// A host behind a veth device, which is `name` in the switch's namespace and `eth0` in the host's.
fn host(label: &str, switch: &Netns, name: &str, address: &str) -> Netns {
    let host = Netns::new(label);
    let ns = |ns: &Netns| ns.path().file_name().unwrap().to_str().unwrap().to_owned();
    run(&format!("ip link add eth0 netns {} type veth peer name {name} netns {}", ns(&host), ns(switch)));
    host.run_all(&format!("ip addr add {address} dev eth0\nip link set eth0 up"));
    switch.run(&format!("ip link set {name} up"));
    host
}

fn port(name: &str) -> String {
    format!("[[port]]\nname = {name:?}\nkind = \"eth\"\ndevice = {name:?}\n")
}

#[test]
fn hosts_with_default_offloads_talk() {
    let Some(test) = Test::begin() else { return };
    let switch = Netns::new("switch");
    let (a, b) = (host("a", &switch, "na", "10.32.0.1/24"), host("b", &switch, "nb", "10.32.0.2/24"));
    let config = port("na") + &port("nb") + &bridge("blue", &["na", "nb"]);
    let drayd = Drayd::start_in(&test, &switch, &config);
    drayd.wait_link("na", "up");
    drayd.wait_link("nb", "up");
    assert!(!drayd.log().contains("dpdk"), "{}", drayd.log());
    a.ping("10.32.0.2", 20, 1400);
    let (mut client, mut server) = connect(&a, &b, "10.32.0.2");
    let before = drayd.port("na");
    transfer(&mut client, &mut server, 16 << 20);
    let after = drayd.port("na");
    let (packets, bytes) = (after.rx_packets - before.rx_packets, after.rx_bytes - before.rx_bytes);
    assert!(bytes / packets > 4 * 1514, "{packets} frames for {bytes} bytes");
    transfer(&mut server, &mut client, 1 << 20);
    drayd.finish();
}

/// A container and a host with the kernel's own vxlan device: what either leaves to be cut stays whole on the way, in a tunnel.
#[test]
fn segments_cross_tunnels_whole() {
    let Some(test) = Test::begin() else { return };
    let (switch, a) = (Netns::new("switch"), Netns::new("a"));
    let k = host("k", &switch, "nic", "10.9.0.2/24");
    k.run_all(
        "ip link add vxlan0 type vxlan id 42 local 10.9.0.2 remote 10.9.0.1 dstport 4789 dev eth0
         ip addr add 10.33.0.2/24 dev vxlan0
         ip link set vxlan0 up",
    );
    let tap =
        format!("[[port]]\nname = \"a\"\nkind = \"tap\"\nnetns = {:?}\naddresses = [\"10.33.0.1/24\"]\n", a.path());
    let overlay = "[[bridge]]\nname = \"blue\"\nvni = 42\nports = [\"a\"]\n
        [vxlan]\nport = \"nic\"\nlocal = \"10.9.0.1/24\"\npeers = [\"10.9.0.2\"]\n";
    let drayd = Drayd::start_in(&test, &switch, &(tap + &port("nic") + overlay));
    drayd.wait_link("a", "up");
    drayd.wait_link("nic", "up");
    a.ping("10.33.0.2", 20, 1400);
    let (mut client, mut server) = connect(&a, &k, "10.33.0.2");
    let received =
        |what: &str| -> u64 { k.run(&format!("cat /sys/class/net/eth0/statistics/rx_{what}")).trim().parse().unwrap() };
    let before = [received("packets"), received("bytes")];
    transfer(&mut client, &mut server, 16 << 20);
    let [packets, bytes] = [received("packets") - before[0], received("bytes") - before[1]];
    assert!(bytes / packets > 4 * 1514, "{packets} packets for {bytes} bytes to the kernel");
    let before = drayd.port("nic");
    transfer(&mut server, &mut client, 16 << 20);
    let after = drayd.port("nic");
    let (packets, bytes) = (after.rx_packets - before.rx_packets, after.rx_bytes - before.rx_bytes);
    assert!(bytes / packets > 4 * 1514, "{packets} packets for {bytes} bytes from the kernel");
    drayd.finish();
}

/// The kernel takes tags out of frames, and says so beside them.
#[test]
fn tags_are_what_they_were() {
    let Some(test) = Test::begin() else { return };
    let switch = Netns::new("switch");
    let a = host("a", &switch, "na", "10.1.0.1/24");
    let config = memif_ports(&["m"])
        + &port("na")
        + "[[bridge]]\nname = \"ten\"\nports = [\"m\", { port = \"na\", vlan = 10 }]\n";
    let drayd = Drayd::start_in(&test, &switch, &config);
    drayd.wait_link("na", "up");
    let mut m = test.memif(0);
    drayd.wait_link("m", "up");
    let (eth0, _) = inside(&a, || Interface::open("eth0").unwrap());
    let (mut rx, mut tx) = (eth0.rx_queue(), eth0.tx_queues(1).remove(0));
    let mut burst = Burst::default();
    let mut put = |frames: &[Vec<u8>]| {
        burst.clear();
        frames.iter().for_each(|frame| burst.push_owned(frame.clone()));
        let all: Vec<u16> = (0..frames.len() as u16).collect();
        assert_eq!(tx.send(&mut burst, &all).packets as usize, frames.len());
    };
    let plain = |last: u8| [&[255; 6][..], &mac(1), &EXPERIMENTAL, &[last; 60]].concat();
    let tagged = |tag: [u8; 4], last: u8| [&plain(last)[..12], &tag, &plain(last)[12..]].concat();

    // Of three the middle one is in VLAN 10.
    put(&[plain(1), tagged([0x81, 0, 0, 10], 2), tagged([0x88, 0xa8, 0, 10], 3), tagged([0x81, 0, 0, 11], 4)]);
    expect(&mut m, &[plain(2)]);
    assert_eq!(drayd.port("na").drops.values().sum::<u64>(), 3, "{:?}", drayd.port("na").drops);

    send(&mut m, &[plain(5)]);
    let is_it = |frame: &Vec<u8>| frame.last() == Some(&5);
    let mut burst = Burst::default();
    let frame = wait_for("a frame", || {
        burst.clear();
        rx.receive(&mut burst);
        let frames: Vec<_> = (0..burst.len() as u16).map(|i| to_vec(&burst, burst.frame(i))).collect();
        rx.release(&mut burst);
        frames.into_iter().find(is_it)
    });
    assert_eq!(frame, tagged([0x81, 0, 0, 10], 5));
    drayd.finish();
}

#[test]
fn an_interface_goes_down_and_comes_back_and_is_replaced() {
    let Some(test) = Test::begin() else { return };
    let switch = Netns::new("switch");
    let a = host("a", &switch, "na", "10.32.0.1/24");
    let b = host("b", &switch, "nb", "10.32.0.2/24");
    let drayd = Drayd::start_in(&test, &switch, &(port("na") + &port("nb") + &bridge("blue", &["na", "nb"])));
    drayd.wait_link("na", "up");
    drayd.wait_link("nb", "up");
    a.ping("10.32.0.2", 5, 56);
    b.run("ip link set eth0 down");
    drayd.wait_link("nb", "down");
    b.run("ip link set eth0 up");
    drayd.wait_link("nb", "up");
    a.ping("10.32.0.2", 5, 56);
    switch.run("ip link set nb mtu 1000");
    wait_for("the MTU", || drayd.log().contains("1000 fit now").then_some(()));
    switch.run("ip link del nb");
    drayd.wait_link("nb", "down");
    let gone = drayd.port("nb").reason.unwrap();
    assert!(gone.contains("\"nb\""), "{gone}");
    drop(b);
    let _b = host("b2", &switch, "nb", "10.32.0.2/24");
    drayd.wait_link("nb", "up");
    a.run("ip neigh flush dev eth0");
    a.ping("10.32.0.2", 5, 56);
    drayd.finish();
}
