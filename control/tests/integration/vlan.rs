//! 802.1Q: trunks, access ports, and what is in between.

use crate::harness::*;

/// Two trunks of the switch are joined by a bridge of the kernel's, which carries frames with their tags. On one side of it are
/// kernel hosts, on the other containers: what is between them was pushed, carried and popped.
#[test]
fn hosts_reach_containers_over_trunks_of_a_kernel_bridge() {
    let Some(test) = Test::begin() else { return };
    let (switch, kernel) = (Netns::new("switch"), Netns::new("kernel"));
    let (ten, twenty) = (Netns::new("ten"), Netns::new("twenty"));
    kernel.veth("left", &switch, "nic0");
    kernel.veth("right", &switch, "nic1");
    ten.veth("eth0", &switch, "nic2");
    twenty.veth("eth0", &switch, "nic3");
    kernel.run_all(
        "ip link add br0 type bridge mcast_snooping 0
         ip link set br0 up
         ip link set left master br0
         ip link set right master br0",
    );
    ten.run("ip addr add 192.168.10.2/24 dev eth0");
    twenty.run("ip addr add 192.168.20.2/24 dev eth0");
    let mut config = memif_ports(&["a", "b", "spy"]);
    for (i, name) in ["left", "right", "ten", "twenty"].iter().enumerate() {
        config += &format!("[[port]]\nname = {name:?}\nkind = \"eth\"\ndevice = \"net_af_packet{i},iface=nic{i}\"\n");
    }
    config += r#"
        [[bridge]]
        name = "hosts10"
        ports = ["ten", { port = "left", vlan = 10 }]

        [[bridge]]
        name = "containers10"
        ports = ["a", "spy", { port = "right", vlan = 10 }]

        [[bridge]]
        name = "hosts20"
        ports = ["twenty", { port = "left", vlan = 20 }]

        [[bridge]]
        name = "containers20"
        ports = ["b", { port = "right", vlan = 20 }]
        "#;
    let drayd = Drayd::start_in(&test, &switch, &config);
    for port in ["left", "right", "ten", "twenty"] {
        drayd.wait_link(port, "up");
    }
    let mut spy = test.memif(2);
    let mut a = Testpmd::client(&test, 0, "icmpecho");
    let mut b = Testpmd::client(&test, 1, "icmpecho");
    a.start();
    b.start();
    let capture = Capture::start(&test, &kernel, "left");

    // icmpecho answers whoever asks for whatever address: who got how much says which bridge it went through.
    ten.ping("192.168.10.1", 20, 56);
    let (at_a, at_b) = (a.stats(), b.stats());
    assert!(at_a.rx >= 20 && at_b.rx == 0, "{at_a:?} {at_b:?}");
    twenty.ping("192.168.20.1", 20, 1472);
    assert_eq!(a.stats(), at_a);
    assert!(b.stats().rx >= 20);

    // On the trunk everything has its tag; behind it nothing has.
    let frames = capture.stop();
    frames.assert_clean();
    assert_eq!(frames.count("!vlan"), 0);
    // Each ping and its answer; on a busy machine there may be more than were asked for.
    let (at_ten, at_twenty) = (frames.count("vlan.id == 10 && icmp"), frames.count("vlan.id == 20 && icmp"));
    assert!(at_ten >= 40 && at_twenty >= 40, "{at_ten} {at_twenty}");
    assert_eq!(frames.count("vlan.id == 20 && frame.len == 1518 && icmp"), at_twenty);
    let seen = receive(&mut spy);
    assert!(seen.iter().any(|frame| frame[..6] == [0xff; 6]), "the ARP request is flooded to the whole bridge");
    for frame in &seen {
        assert_eq!(frame[12..14], [0x08, 0x06], "only the broadcast ARP request, and without a tag: {frame:02x?}");
    }

    // A frame without a tag ends at the trunk, with its reason.
    kernel.run("ip addr add 192.168.30.2/24 dev br0");
    assert!(!kernel.answers("192.168.30.1"));
    assert!(drayd.drops("left", "vlan.unknown_vlan") > 0, "{:?}", drayd.port("left"));
    drayd.finish();
}

/// Between memif ports, byte by byte: access to trunk pushes, trunk to access pops, trunk to trunk changes the tag, and the
/// priority stays.
#[test]
fn tags_are_pushed_popped_and_changed() {
    let Some(test) = Test::begin() else { return };
    let config = memif_ports(&["access", "red", "green"])
        + r#"
        [[bridge]]
        name = "one"
        ports = ["access", { port = "red", vlan = 100 }, { port = "green", vlan = 4094 }]

        [[bridge]]
        name = "two"
        ports = [{ port = "red", vlan = 1 }, "green"]
        "#;
    let drayd = Drayd::start(&test, &config);
    let (mut access, mut red, mut green) = (test.memif(0), test.memif(1), test.memif(2));
    for port in ["access", "red", "green"] {
        drayd.wait_link(port, "up");
    }
    let plain = numbered(mac(1), [0xff; 6], 9);
    let tagged = |tag: [u8; 2]| {
        let mut frame = plain.clone();
        frame.splice(12..12, [0x81, 0x00, tag[0], tag[1]]);
        frame
    };
    send(&mut access, &[&plain]);
    expect(&mut red, &[tagged([0x00, 100])]);
    expect(&mut green, &[tagged([0x0f, 0xfe])]);
    // Priority 5 in VLAN 100.
    send(&mut red, &[tagged([0xa0, 100])]);
    expect(&mut access, std::slice::from_ref(&plain));
    expect(&mut green, &[tagged([0xaf, 0xfe])]);
    // Green's untagged frames are bridge two's, where red has VLAN 1.
    send(&mut green, &[&plain]);
    expect(&mut red, &[tagged([0x00, 1])]);
    expect(&mut access, &[]);
    // Red has no untagged bridge.
    send(&mut red, &[&plain]);
    send(&mut red, &[tagged([0x00, 2])]);
    wait_for("the drops", || (drayd.drops("red", "vlan.unknown_vlan") == 2).then_some(()));
    drayd.finish();
}
