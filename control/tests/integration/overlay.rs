//! VXLAN, with the kernel's vxlan device at the other end and tshark as judge of what is between them.

use crate::harness::*;
use dray_api::{FdbEntry, VtepInfo};
use std::net::Ipv4Addr;

/// A switch with a container on VNI 42, joined by a veth to a kernel that has the addresses 10.9.0.2 and, inside VNI 42, 192.168.7.2.
pub struct Overlay {
    pub switch: Netns,
    pub kernel: Netns,
}

/// What every configuration of the switch begins with.
pub const UPLINK: &str = "[[port]]\nname = \"uplink\"\nkind = \"eth\"\ndevice = \"net_af_packet0,iface=nic\"\n";

impl Overlay {
    /// The kernel's VTEP has the address `vtep`.
    pub fn new(vtep: &str) -> Overlay {
        let (switch, kernel) = (Netns::new("switch"), Netns::new("kernel"));
        kernel.veth("under", &switch, "nic");
        kernel.run_all(&format!(
            "ip addr add 10.9.0.2/24 dev under
             ip link add vx type vxlan id 42 local {vtep} remote 10.9.0.1 dstport 4789
             ip link set vx up
             ip addr add 192.168.7.2/24 dev vx"
        ));
        Overlay { switch, kernel }
    }

    fn config(vxlan: &str) -> String {
        let ports = memif_ports(&["web"]);
        format!(
            "{ports}{UPLINK}[[bridge]]\nname = \"blue\"\nvni = 42\nports = [\"web\"]\n\
             [vxlan]\nport = \"uplink\"\nlocal = \"10.9.0.1/24\"\n{vxlan}\n"
        )
    }
}

#[test]
fn the_kernel_pings_a_container_across_vxlan() {
    let Some(test) = Test::begin() else { return };
    let net = Overlay::new("10.9.0.2");
    let capture = Capture::start(&test, &net.kernel, "under");
    let drayd = Drayd::start_in(&test, &net.switch, &Overlay::config("peers = [\"10.9.0.2\"]"));
    drayd.wait_link("uplink", "up");
    let mut web = Testpmd::client(&test, 0, "icmpecho");
    web.start();

    net.kernel.ping("192.168.7.1", 20, 56);
    net.kernel.ping("192.168.7.1", 20, 1400);
    // The VTEP's own address answers, too, ARP first.
    net.kernel.run("ip neigh flush dev under");
    net.kernel.ping("10.9.0.1", 5, 56);
    net.kernel.ping("10.9.0.1", 5, 1400);

    let frames = capture.stop();
    frames.assert_clean();
    assert_eq!(frames.count("arp.isgratuitous && arp.src.proto_ipv4 == 10.9.0.1"), 1, "one announcement at start");
    assert!(frames.count("!vxlan && arp.opcode == 2 && arp.src.proto_ipv4 == 10.9.0.1") >= 1, "it answers ARP");
    assert!(frames.count("!vxlan && arp.opcode == 1 && arp.dst.proto_ipv4 == 10.9.0.2") >= 1, "it asks by ARP");
    // On a busy machine ping asks more often than it was told to.
    assert!(frames.count("!vxlan && icmp.type == 0 && ip.src == 10.9.0.1") >= 10);
    let asked = frames.count("vxlan.vni == 42 && icmp.type == 8");
    assert!(asked >= 40, "{asked}");
    let fields = ["ip.src", "ip.flags.df", "ip.ttl", "udp.srcport", "udp.dstport", "vxlan.flags", "udp.checksum"];
    let answers = frames.fields("vxlan.vni == 42 && icmp.type == 0", &fields);
    assert_eq!(answers.len(), asked);
    for answer in &answers {
        // Of two headers the outer comes first.
        let outer: Vec<&str> = answer.iter().map(|field| field.split(',').next().unwrap()).collect();
        assert!(matches!(outer[1], "1" | "True"), "DF: {answer:?}");
        assert_eq!((outer[0], outer[2], outer[4], outer[5]), ("10.9.0.1", "64", "4789", "0x0800"), "{answer:?}");
        assert!((49152..=65535).contains(&outer[3].parse().unwrap()), "{answer:?}");
        // RFC 7348, section 5: zero over IPv4.
        assert_eq!(outer[6], "0x0000", "{answer:?}");
    }
    let ports: std::collections::BTreeSet<_> = answers.iter().map(|answer| &answer[3]).collect();
    assert_eq!(ports.len(), 1, "one flow, one path: {ports:?}");

    // The kernel's MAC was learned behind its VTEP.
    let fdb: Vec<FdbEntry> = drayd.json("fdb show");
    assert!(
        fdb.iter().any(|entry| entry.vtep == Some(Ipv4Addr::new(10, 9, 0, 2)) && entry.bridge == "blue"),
        "{fdb:?}"
    );
    assert!(fdb.iter().any(|entry| entry.port.as_deref() == Some("web")), "{fdb:?}");
    let vteps: Vec<VtepInfo> = drayd.json("vtep show");
    assert_eq!((vteps.len(), vteps[0].address, vteps[0].state.as_str()), (1, Ipv4Addr::new(10, 9, 0, 2), "resolved"));
    drayd.finish();
}

/// Outer headers have the inner ones' DSCP and ECN (RFC 6040), and a neighbour that is given is not asked for.
#[test]
fn tunnels_carry_dscp_and_ecn_to_a_neighbour_that_is_given() {
    let Some(test) = Test::begin() else { return };
    let net = Overlay::new("10.9.0.2");
    let mac = net.kernel.run("cat /sys/class/net/under/address");
    let given =
        format!("peers = [\"10.9.0.2\"]\nneighbours = [{{ address = \"10.9.0.2\", mac = \"{}\" }}]", mac.trim());
    let capture = Capture::start(&test, &net.kernel, "under");
    let drayd = Drayd::start_in(&test, &net.switch, &Overlay::config(&given));
    drayd.wait_link("uplink", "up");
    let mut web = Testpmd::client(&test, 0, "icmpecho");
    web.start();
    // Expedited forwarding and ECT(0).
    net.kernel.run("ping -c 5 -i 0.2 -W 5 -Q 0xba 192.168.7.1");
    let frames = capture.stop();
    frames.assert_clean();
    let answers = frames.fields("vxlan.vni == 42 && icmp.type == 0", &["ip.dsfield"]);
    assert_eq!(answers, vec![vec!["0xba,0xba".to_owned()]; 5], "outer and inner header");
    assert_eq!(frames.count("!vxlan && arp.opcode == 1 && arp.dst.proto_ipv4 == 10.9.0.2"), 0, "nobody asks");
    let vteps: Vec<VtepInfo> = drayd.json("vtep show");
    assert_eq!((vteps[0].state.as_str(), vteps[0].mac.unwrap().to_string()), ("static", mac.trim().to_owned()));
    drayd.finish();
}

#[test]
fn a_vtep_that_is_not_on_link_is_reached_through_the_gateway() {
    let Some(test) = Test::begin() else { return };
    let net = Overlay::new("10.8.0.2");
    net.kernel.run_all("ip addr add 10.9.0.254/24 dev under\n ip addr add 10.8.0.2/32 dev lo");
    let config = Overlay::config("gateway = \"10.9.0.254\"\npeers = [\"10.8.0.2\"]");
    let capture = Capture::start(&test, &net.kernel, "under");
    let drayd = Drayd::start_in(&test, &net.switch, &config);
    drayd.wait_link("uplink", "up");
    let mut web = Testpmd::client(&test, 0, "icmpecho");
    web.start();
    net.kernel.ping("192.168.7.1", 20, 56);
    let vteps: Vec<VtepInfo> = drayd.json("vtep show");
    assert_eq!((vteps[0].address, vteps[0].next_hop), (Ipv4Addr::new(10, 8, 0, 2), Some(Ipv4Addr::new(10, 9, 0, 254))));
    let frames = capture.stop();
    frames.assert_clean();
    assert!(frames.count("arp.opcode == 1 && arp.dst.proto_ipv4 == 10.9.0.254 && arp.src.proto_ipv4 == 10.9.0.1") >= 1);
    assert_eq!(frames.count("arp.dst.proto_ipv4 == 10.8.0.2"), 0, "nobody asks for what is not on the link");
    drayd.finish();
}

#[test]
fn a_vtep_that_does_not_answer_is_counted() {
    let Some(test) = Test::begin() else { return };
    let net = Overlay::new("10.9.0.2");
    let capture = Capture::start(&test, &net.kernel, "under");
    let drayd = Drayd::start_in(&test, &net.switch, &Overlay::config("peers = [\"10.9.0.77\"]"));
    drayd.wait_link("uplink", "up");
    let mut web = test.memif(0);
    drayd.wait_link("web", "up");
    let frames: Vec<_> = (0..10).map(|number| numbered(mac(1), mac(2), number * 12)).collect();
    send(&mut web, &frames);
    wait_for("the drops", || (drayd.drops("web", "vxlan.no_neighbour") == 10).then_some(()));
    let vteps: Vec<VtepInfo> = drayd.json("vtep show");
    assert_eq!((vteps[0].state.as_str(), vteps[0].mac), ("resolving", None));
    wait_for("a second question", || {
        sleep_ms(500);
        (drayd.status().originated >= 3).then_some(())
    });
    let frames = capture.stop();
    frames.assert_clean();
    assert!(frames.count("arp.opcode == 1 && arp.dst.proto_ipv4 == 10.9.0.77") >= 2, "it asks again");
    assert_eq!(frames.count("vxlan"), 0);
    drayd.finish();
}

/// Who is not configured is not believed; a wrong VNI and an inner frame that no longer fits have their reasons.
#[test]
fn what_the_overlay_refuses_has_its_reason() {
    let Some(test) = Test::begin() else { return };
    let net = Overlay::new("10.9.0.2");
    net.kernel.run_all(
        "ip addr add 10.9.0.3/24 dev under
         ip link add stranger type vxlan id 42 local 10.9.0.3 remote 10.9.0.1 dstport 4790
         ip link set stranger up
         ip link add other type vxlan id 43 local 10.9.0.2 remote 10.9.0.1 dstport 4789
         ip link set other up
         ip addr add 192.168.43.2/24 dev other",
    );
    let drayd = Drayd::start_in(&test, &net.switch, &Overlay::config("peers = [\"10.9.0.2\"]"));
    drayd.wait_link("uplink", "up");
    let mut web = Testpmd::client(&test, 0, "icmpecho");
    web.start();
    net.kernel.ping("192.168.7.1", 3, 56);
    assert!(!net.kernel.answers("192.168.43.1"));
    let port = drayd.port("uplink");
    assert!(port.drops["vxlan.unknown_vni"] > 0, "{port:?}");

    // The configured peer goes: from now on the kernel is a stranger.
    drayd.apply(&test, &Overlay::config("peers = [\"10.9.0.4\"]"));
    assert!(!net.kernel.answers("192.168.7.1"));
    assert!(drayd.drops("uplink", "vxlan.unknown_vtep") > 0);
    // Unless strangers are welcome.
    drayd.apply(&test, &Overlay::config("peers = []\nlearn-vteps = true"));
    // What comes back meanwhile is dropped until the stranger's neighbour is known.
    wait_for("the stranger to be answered", || net.kernel.answers("192.168.7.1").then_some(()));
    net.kernel.ping("192.168.7.1", 3, 56);
    let vteps: Vec<VtepInfo> = drayd.json("vtep show");
    assert!(vteps.iter().any(|vtep| vtep.address == Ipv4Addr::new(10, 9, 0, 2) && vtep.learned), "{vteps:?}");
    drop(web);

    drayd.apply(&test, &Overlay::config("peers = [\"10.9.0.2\"]"));
    // 1,464 bytes of inner frame and 50 of tunnel fit an underlay of 1,500 and its 14 of Ethernet; one more does not.
    let mut web = test.memif(0);
    drayd.wait_link("web", "up");
    let frame = |len: usize| {
        let mut frame = vec![0; len];
        frame[..6].copy_from_slice(&[0xff; 6]);
        frame[6..12].copy_from_slice(&mac(1));
        frame[12..14].copy_from_slice(&EXPERIMENTAL);
        frame
    };
    let before = drayd.port("uplink").tx_packets;
    send(&mut web, &[frame(1464), frame(1465)]);
    wait_for("the drop", || (drayd.drops("web", "vxlan.too_big") == 1).then_some(()));
    wait_for("the frame", || (drayd.port("uplink").tx_packets > before).then_some(()));
    drayd.finish();
}
