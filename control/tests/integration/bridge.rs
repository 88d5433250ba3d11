//! Containers on a bridge.

use crate::harness::*;

/// 512 packets go round between two testpmds in `io` mode, which return whatever they get. None may get lost.
fn packets_go_round(drayd: &Drayd, a: &mut Testpmd, b: &mut Testpmd) {
    a.start();
    b.command("start tx_first 16");
    wait_for("packets to go round", || (a.stats().rx > 5_000).then_some(()));
    // The packets come to rest in b's ring.
    b.command("stop");
    let total = 512;
    wait_for("the packets to come to rest", || (b.stats().rx + total == drayd.port("b").tx_packets).then_some(()));
    let (a_stats, b_stats) = (a.stats(), b.stats());
    let (a_port, b_port) = (drayd.port("a"), drayd.port("b"));
    assert_eq!((a_port.rx_packets, a_port.tx_packets), (a_stats.tx, a_stats.rx));
    assert_eq!((b_port.rx_packets, b_port.tx_packets), (b_stats.tx, b_stats.rx + total));
    assert_eq!((a_port.rx_bytes, a_port.tx_bytes), (64 * a_stats.tx, 64 * a_stats.rx));
    assert!(a_port.drops.is_empty() && b_port.drops.is_empty(), "{a_port:?} {b_port:?}");
}

#[test]
fn two_testpmd_clients_loop_through_a_bridge() {
    let Some(test) = Test::begin() else { return };
    let drayd = Drayd::start(&test, &(memif_ports(&["a", "b"]) + &bridge("blue", &["a", "b"])));
    let mut a = Testpmd::client(&test, 0, "io");
    let mut b = Testpmd::client(&test, 1, "io");
    drayd.wait_link("a", "up");
    drayd.wait_link("b", "up");
    packets_go_round(&drayd, &mut a, &mut b);
    drayd.finish();
}

/// Of 30 broadcasts 5 pass, or up to 10, if a second ends between them; unicasts and what others send always do. Without the key all pass.
#[test]
fn a_storm_of_broadcasts_is_cut_off_where_it_comes_in() {
    let Some(test) = Test::alone() else { return };
    let ports = memif_ports(&["a", "b"]).replacen("[[port]]", "[[port]]\nmax-broadcast = 5", 1);
    let drayd = Drayd::start(&test, &(ports + &bridge("blue", &["a", "b"])));
    let (mut a, mut b) = (test.memif(0), test.memif(1));
    for port in ["a", "b"] {
        drayd.wait_link(port, "up");
    }
    let storm = |source| -> Vec<_> { (0..30).map(|number| numbered(source, [0xff; 6], number)).collect() };
    send(&mut b, &storm(mac(2)));
    expect(&mut a, &storm(mac(2)));
    send(&mut a, &storm(mac(1)));
    send(&mut a, &[numbered(mac(1), mac(2), 99)]);
    let dropped = || drayd.drops("a", "storm.broadcast");
    wait_for("all to be sent or dropped", || (drayd.port("b").tx_packets + dropped() == 31).then_some(()));
    assert!((20..=25).contains(&dropped()), "{:?}", drayd.port("a"));
    let mut passed = receive(&mut b);
    assert_eq!(passed.pop(), Some(numbered(mac(1), mac(2), 99)));
    assert!(passed.len() as u64 == 30 - dropped() && passed.iter().all(|frame| storm(mac(1)).contains(frame)));

    assert_eq!(drayd.dray("port set a max-broadcast"), "~ port a: max-broadcast 5 -> none\n");
    send(&mut a, &storm(mac(1)));
    expect(&mut b, &storm(mac(1)));
    drayd.finish();
}

#[test]
fn testpmd_may_be_the_server() {
    let Some(test) = Test::begin() else { return };
    let a = "[[port]]\nname = \"a\"\nkind = \"memif\"\nsocket = \"DIR/testpmd.sock\"\nrole = \"client\"\n";
    let b = "[[port]]\nname = \"b\"\nkind = \"memif\"\nsocket = \"DIR/memif.sock\"\nid = 7\n";
    let drayd = Drayd::start(&test, &format!("{a}{b}{}", bridge("blue", &["a", "b"])));
    // It says why it can't connect yet, and tries again.
    let port = drayd.port("a");
    assert_eq!(port.link, "down");
    assert!(port.reason.unwrap().contains("testpmd.sock"), "{:?}", drayd.port("a"));
    let mut a = Testpmd::server(&test, "testpmd.sock", "io");
    let mut b = Testpmd::client(&test, 7, "io");
    a.wait_up();
    drayd.wait_link("a", "up");
    drayd.wait_link("b", "up");
    packets_go_round(&drayd, &mut a, &mut b);
    drop(a);
    drayd.wait_link("a", "down");
    let mut a = Testpmd::server(&test, "testpmd.sock", "io");
    drayd.wait_link("a", "up");
    a.wait_up();
    drayd.finish();
}

#[test]
fn the_kernel_pings_a_container() {
    let Some(test) = Test::begin() else { return };
    let (host, switch) = (Netns::new("host"), Netns::new("switch"));
    host.veth("eth0", &switch, "nic");
    host.run("ip addr add 192.168.7.2/24 dev eth0");
    let config = format!(
        "{}[[port]]\nname = \"nic\"\nkind = \"eth\"\ndevice = \"net_af_packet0,iface=nic\"\n{}",
        memif_ports(&["web"]),
        bridge("blue", &["web", "nic"])
    );
    let drayd = Drayd::start_in(&test, &switch, &config);
    drayd.wait_link("nic", "up");
    let mut web = Testpmd::client(&test, 0, "icmpecho");
    web.start();
    host.ping("192.168.7.1", 20, 56);
    host.ping("192.168.7.1", 20, 1472);
    assert!(web.stats().rx >= 40);
    drayd.finish();
}

/// Frames of every length, heads and bodies and chains of buffers, arrive as they were sent; those that are too long are counted.
#[test]
fn frames_of_every_length_arrive_whole() {
    let Some(test) = Test::begin() else { return };
    let drayd = Drayd::start(&test, &(memif_ports(&["a", "b"]) + &bridge("blue", &["a", "b"])));
    let (mut a, mut b) = (test.memif(0), test.memif(1));
    drayd.wait_link("a", "up");
    drayd.wait_link("b", "up");
    let frame = |len: usize| {
        let mut frame: Vec<u8> = (0..len).map(|i| (i * 7 + len) as u8).collect();
        frame[..6].copy_from_slice(&mac(2));
        frame[6..12].copy_from_slice(&mac(1));
        frame[12..14].copy_from_slice(&EXPERIMENTAL);
        frame
    };
    // 9198 bytes of payload are the default; the longest frame with its tag has 9216.
    for len in (14..400).chain([1513, 1514, 1515, 2047, 2048, 2049, 4095, 4096, 4097, 8999, 9000, 9211, 9212]) {
        send(&mut a, &[frame(len)]);
        let arrived = wait_for(&format!("a frame of {len} bytes"), || receive(&mut b).pop());
        assert_eq!(arrived, frame(len));
    }
    send(&mut a, &[frame(9300), vec![0; 13], frame(100)]);
    expect(&mut b, &[frame(100)]);
    assert_eq!((drayd.drops("a", "rx.too_big"), drayd.drops("a", "parse.truncated")), (1, 1));
    drayd.finish();
}
