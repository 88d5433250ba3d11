//! NICs that are missing, refuse, go away and come back, by the kernel's interfaces.

use crate::harness::*;

/// An eth port over the kernel's interface of the same name.
fn af_packet(names: &[&str]) -> String {
    let port =
        |(n, name)| format!("[[port]]\nname = {name:?}\nkind = \"eth\"\ndevice = \"net_af_packet{n},iface={name}\"\n");
    names.iter().enumerate().map(port).collect()
}

/// A switch and two hosts, 10.5.0.1 and 10.5.0.2.
struct Hosts {
    switch: Netns,
    hosts: [Netns; 2],
}

impl Hosts {
    fn new() -> Hosts {
        Hosts { switch: Netns::new("switch"), hosts: [Netns::new("a"), Netns::new("b")] }
    }

    /// Joins host `n` to the switch's interface `nic`N.
    fn plug(&self, n: usize) {
        let host = &self.hosts[n];
        host.veth("eth0", &self.switch, &format!("nic{n}"));
        host.run(&format!("ip addr add 10.5.0.{}/24 dev eth0", n + 1));
    }

    /// Waits until one host reaches the other: what is learned may be of before. What the kernels know of each other's addresses is
    /// forgotten, which they would do by themselves within a minute.
    fn reach(&self) {
        self.hosts.iter().for_each(|host| drop(host.run("ip neigh flush all")));
        wait_for("a ping", || self.hosts[0].answers("10.5.0.2").then_some(()));
    }
}

/// Everything else runs while a device is missing, whoever asks for it; it is opened as soon as it is there.
#[test]
fn a_missing_device_costs_its_own_port_only() {
    let Some(test) = Test::begin() else { return };
    let net = Hosts::new();
    net.plug(0);
    let others = memif_ports(&["a", "b"]) + &bridge("memif", &["a", "b"]) + &bridge("wire", &["nic0", "nic1"]);
    let config = others + &af_packet(&["nic0", "nic1"]);
    let mut drayd = Drayd::start_in(&test, &net.switch, &config);
    let exchange = Exchange::start(&test, &drayd);
    drayd.wait_link("nic0", "up");
    let port = drayd.port("nic1");
    assert_eq!(port.link, "down");
    assert!(port.reason.as_ref().is_some_and(|why| why.contains("there is no interface \"nic1\"")), "{port:?}");
    assert_eq!(drayd.log().matches("port nic1: down: ").count(), 1, "{}", drayd.log());

    // The same at run time: by a command, a file, and a signal.
    drayd.dray("port add --name late --kind eth --device net_af_packet7,iface=late");
    assert!(drayd.port("late").reason.unwrap().contains("there is no interface \"late\""));
    drayd.dray("port del late");
    let more = format!("{config}{}", af_packet(&["x", "y", "z"]).replace("af_packet", "af_packet1"));
    drayd.apply(&test, &more);
    assert!(drayd.port("z").reason.unwrap().contains("there is no interface \"z\""));
    drayd.apply(&test, &config);
    test.file("dray.toml", &format!("{more}\n[control]\nsocket = \"DIR/dray.sock\"\n"));
    drayd.process().signal(libc::SIGHUP);
    wait_for("the file to be read", || (drayd.ports().len() == 7).then_some(()));
    assert!(drayd.port("z").reason.unwrap().contains("there is no interface \"z\""));

    // A device that DPDK refuses is one that may do better later; one that can't be on any machine is refused at once.
    drayd.dray("port add --name bad --kind eth --device net_af_packet8,iface=nic0,nonsense=1");
    wait_for("the refusal", || drayd.port("bad").reason.filter(|why| why.contains("DPDK can't have it")));
    drayd.dray("port add --name none --kind eth --device net_nosuch0");
    wait_for("the refusal", || drayd.port("none").reason.filter(|why| why.contains("no driver net_nosuch")));
    let message = drayd.refused("port add --name w --kind eth --device net_af_packet9", 1);
    assert!(message.contains("says no interface"), "{message}");

    exchange.more(1000);
    net.plug(1);
    drayd.wait_link("nic1", "up");
    net.reach();
    exchange.more(1000);
    drop(exchange.stop());
    drayd.finish();
}

/// A veth that is deleted, and one that is made anew, are seen, said and opened again.
#[test]
fn a_device_that_was_replaced_is_opened_again() {
    let Some(test) = Test::begin() else { return };
    let net = Hosts::new();
    net.plug(0);
    net.plug(1);
    let config = bridge("wire", &["nic0", "nic1"]) + &af_packet(&["nic0", "nic1"]);
    let drayd = Drayd::start_in(&test, &net.switch, &config);
    drayd.wait_link("nic0", "up");
    drayd.wait_link("nic1", "up");
    net.reach();

    net.switch.run("ip link del nic1");
    let gone = |text: &str| wait_for(text, || drayd.port("nic1").reason.filter(|why| why.contains("nic1\"")));
    gone("the loss to be seen");
    assert!(drayd.log().contains("port nic1: down: the interface \"nic1\" is gone"), "{}", drayd.log());
    net.plug(1);
    drayd.wait_link("nic1", "up");
    net.reach();

    // Within less than the time between two looks: the name never seems to be missing, unless the machine is very busy.
    net.hosts[1].veth("eth1", &net.switch, "other");
    let renames = test.file("renames", "link set nic1 name old\nlink set other name nic1\nlink del old\n");
    net.switch.run(&format!("ip -batch {}", renames.display()));
    net.hosts[1].run("ip addr add 10.5.0.2/24 dev eth1");
    wait_for("the other interface to be seen", || {
        let log = drayd.log();
        let is_seen = log.contains("is another one than was opened") || log.matches("is gone").count() > 1;
        is_seen.then_some(())
    });
    drayd.wait_link("nic1", "up");
    net.reach();
    drayd.finish();
}

/// The overlay waits for its port, and takes the address and MTU of the device when there is one.
#[test]
fn the_underlay_may_come_later() {
    let Some(test) = Test::begin() else { return };
    let (switch, kernel) = (Netns::new("switch"), Netns::new("kernel"));
    let config = memif_ports(&["web"])
        + "[[port]]\nname = \"uplink\"\nkind = \"eth\"\ndevice = \"net_af_packet0,iface=nic\"\n\
           [[bridge]]\nname = \"blue\"\nvni = 42\nports = [\"web\"]\n\
           [vxlan]\nport = \"uplink\"\nlocal = \"10.9.0.1/24\"\npeers = [\"10.9.0.2\"]\n";
    let drayd = Drayd::start_in(&test, &switch, &config);
    assert_eq!(drayd.port("uplink").link, "down");
    let mut web = Testpmd::client(&test, 0, "icmpecho");
    web.start();
    kernel.veth("under", &switch, "nic");
    kernel.run_all(
        "ip addr add 10.9.0.2/24 dev under
         ip link add vx type vxlan id 42 local 10.9.0.2 remote 10.9.0.1 dstport 4789
         ip link set vx up
         ip addr add 192.168.7.2/24 dev vx",
    );
    drayd.wait_link("uplink", "up");
    wait_for("a ping", || kernel.answers("192.168.7.1").then_some(()));
    kernel.ping("192.168.7.1", 20, 1400);

    // The kernel of the switch's host is to keep its hands off the VTEP's address.
    assert_eq!(drayd.port("uplink").warnings, Vec::<String>::new());
    switch.run("ip addr add 10.9.0.1/24 dev nic");
    let warnings = drayd.port("uplink").warnings;
    let mend = "ip addr del 10.9.0.1/24 dev nic";
    assert!(warnings.len() == 1 && warnings[0].ends_with(mend), "{warnings:?}");
    wait_for("a line in the log", || drayd.log().contains(mend).then_some(()));
    switch.run(mend);
    assert_eq!(drayd.port("uplink").warnings, Vec::<String>::new());
    drop(web);
    drayd.finish();
}

/// Sends `count` frames to the other host at once; nobody needs to answer.
fn flood(from: &Netns, to: &str, count: u32, size: u32) {
    let args = format!("-q -c {count} -l {count} -W 1 -s {size} {to}");
    let mut ping = from.command("ping");
    ping.args(args.split(' ')).stdout(std::process::Stdio::null());
    ping.status().unwrap();
}

/// What the kernel, the device and a link that is down cost has a name, and the sums are true.
#[test]
fn what_a_device_loses_is_a_drop() {
    let Some(test) = Test::begin() else { return };
    let net = Hosts::new();
    net.plug(0);
    net.plug(1);
    let ports = af_packet(&["nic0", "nic1"]).replacen("kind", "ring-size = 64\nkind", 1);
    let mut drayd = Drayd::start_in(&test, &net.switch, &(bridge("wire", &["nic0", "nic1"]) + &ports));
    drayd.wait_link("nic0", "up");
    drayd.wait_link("nic1", "up");
    net.reach();
    for (n, host) in net.hosts.iter().enumerate() {
        let other = net.hosts[1 - n].run("cat /sys/class/net/eth0/address");
        host.run(&format!("ip neigh replace 10.5.0.{} lladdr {} nud permanent dev eth0", 2 - n, other.trim()));
    }

    // Nobody empties the socket's ring of 64: the kernel drops the rest.
    let sent = || net.hosts[0].run("cat /sys/class/net/eth0/statistics/tx_packets").trim().parse::<u64>().unwrap();
    let before = (sent(), drayd.port("nic0").rx_packets);
    drayd.freeze();
    flood(&net.hosts[0], "10.5.0.2", 1000, 56);
    drayd.process().signal(libc::SIGCONT);
    let came = sent() - before.0;
    wait_for("all that was sent to be counted", || (drayd.port("nic0").rx_packets - before.1 == came).then_some(()));
    assert!(drayd.drops("nic0", "rx.missed") >= 900, "{:?}", drayd.port("nic0"));
    let metrics: Vec<dray_api::DropInfo> = drayd.json("drop show");
    assert!(metrics.iter().any(|drop| drop.name == "rx.missed" && drop.port == "nic0"), "{metrics:?}");

    // No link: not one counts as sent.
    net.reach();
    net.hosts[0].run("ip link set eth0 down");
    drayd.wait_link("nic0", "down");
    let before = drayd.port("nic0");
    flood(&net.hosts[1], "10.5.0.1", 50, 56);
    wait_for("the drops", || {
        let now = drayd.port("nic0");
        let more = |reason: &str| now.drops.get(reason).unwrap_or(&0) - before.drops.get(reason).unwrap_or(&0);
        (more("tx.link_down") == 50 && now.tx_packets == before.tx_packets).then_some(())
    });
    net.hosts[0].run("ip link set eth0 up");
    drayd.wait_link("nic0", "up");
    net.hosts[0].run("ip neigh flush all");

    // The interface's MTU is lowered under the port, and raised again.
    net.switch.run("ip link set nic0 mtu 1000");
    wait_for("the MTU to be seen", || (drayd.port("nic0").mtu == 1000).then_some(()));
    let warnings = drayd.port("nic0").warnings;
    assert!(warnings.iter().any(|line| line.contains("MTU is 1000, the port's 1500")), "{warnings:?}");
    let before = drayd.port("nic0").tx_packets;
    flood(&net.hosts[1], "10.5.0.1", 20, 1200);
    wait_for("the drops", || (drayd.drops("nic0", "tx.too_big") == 20).then_some(()));
    assert_eq!(drayd.port("nic0").tx_packets, before);
    net.switch.run("ip link set nic0 mtu 1500");
    wait_for("the MTU to be seen", || (drayd.port("nic0").mtu == 1500).then_some(()));
    assert_eq!(drayd.port("nic0").warnings, [""; 0]);
    drayd.finish();
}

/// What Dray changes of a kernel's interface it says, and puts back: when the port is deleted, and at the end.
#[test]
fn an_interface_is_left_as_it_was() {
    let Some(test) = Test::begin() else { return };
    let net = Hosts::new();
    net.plug(0);
    let state = || {
        let link = net.switch.run("ip -o link show nic0");
        let word = |after: &str| link.split(after).nth(1).unwrap().split_whitespace().next().unwrap().to_string();
        (word(" mtu "), word("link/ether "))
    };
    let before = state();
    let config = af_packet(&["nic0"]) + "mtu = 2000\nmac = \"02:00:00:00:00:77\"\n";
    let drayd = Drayd::start_in(&test, &net.switch, &config);
    drayd.wait_link("nic0", "up");
    let changed = ("2000".to_string(), "02:00:00:00:00:77".to_string());
    assert_eq!(state(), changed);
    for what in ["MTU 2000 now, not 1500", "address 02:00:00:00:00:77 now, not"] {
        assert!(drayd.log().contains(what), "{}", drayd.log());
    }
    drayd.dray("port del nic0");
    wait_for("the interface as it was", || (state() == before).then_some(()));

    // What somebody else has changed since is not Dray's to put back.
    drayd.apply(&test, &config);
    drayd.wait_link("nic0", "up");
    net.switch.run("ip link set nic0 mtu 1800");
    drayd.finish();
    wait_for("its own address", || (state() == ("1800".into(), before.1.clone())).then_some(()));
}
