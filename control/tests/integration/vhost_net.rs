//! vhost-net: drayd inside a guest, whose kernel has it. Two containers of the guest's have a TAP device each.

use crate::guest::*;
use crate::harness::*;
use dray_api::PortDetail;
use serde_json::Value;
use std::path::Path;
use std::process::Command;

/// A container's port.
fn port(name: &str, host: u8, more: &str) -> String {
    format!(
        "[[port]]\nname = {name:?}\nkind = \"tap\"\nnetns = \"/run/netns/{name}\"\n\
         addresses = [\"10.32.0.{host}/24\"]\n{more}\n"
    )
}

/// Containers `a` and `b` in a bridge, each with these keys.
fn two(more: &str) -> String {
    port("a", 1, more) + &port("b", 2, more) + &bridge("blue", &["a", "b"])
}

/// What the ports' frames are carried by, once they are up.
fn transports(machine: &mut Inside<'_>) -> [String; 2] {
    ["a", "b"].map(|name| {
        machine.wait_up(name);
        let PortDetail::Tap(detail) = machine.port(name).detail else { panic!("{name} is no tap port") };
        detail.transport
    })
}

/// A command in one of the containers, whose file names are the guest's.
fn net(name: &str, command: &str) -> String {
    format!("nsenter --net=/host/run/netns/{name} {command}")
}

/// As [`net`], with this machine's files and room for those that it makes.
fn within(name: &str, command: &str) -> String {
    format!("TMPDIR=/run {}", net(name, &format!("chroot /host /usr/bin/{command}")))
}

/// What iperf3's client in `a` reports of its test.
fn iperf3(machine: &mut Inside<'_>, arguments: &str) -> Value {
    let printed = machine.guest.run(&within("a", &format!("iperf3 -c 10.32.0.2 -J {arguments}")));
    serde_json::from_str(&printed).unwrap_or_else(|error| panic!("{error}: {printed}"))
}

fn megabits(report: &Value, whose: &str) -> f64 {
    report["end"][whose]["bits_per_second"].as_f64().unwrap_or_else(|| panic!("{report}")) / 1e6
}

#[test]
fn the_kernels_thread_carries_frames_and_connections_outlive_the_switch() {
    let Some(test) = Test::guests() else { return };
    let mut machine = Inside::boot(&test, Command::new("qemu-system-x86_64"), "");
    let ip = ["/bin/ip", "/sbin/ip"].into_iter().find(|path| Path::new(path).exists()).unwrap();
    for name in ["a", "b"] {
        machine.guest.run(&format!("chroot /host {ip} netns add {name}"));
        machine.guest.run(&net(name, "ip link set lo up"));
    }
    machine.start(&two("transport = \"vhost-net\""));
    assert_eq!(transports(&mut machine), ["vhost-net", "vhost-net"]);
    for size in [56, 1400] {
        let printed = machine.guest.run(&within("a", &format!("ping -q -c 20 -i 0.05 -s {size} 10.32.0.2")));
        assert!(printed.contains(" 0% packet loss"), "{printed}");
    }

    machine.guest.run(&within("b", "iperf3 -s -D"));
    machine.guest.run(&format!("{} >/dev/null 2>&1 &", net("b", "nc -ll -p 5000 -e cat /srv/file")));
    let before = machine.port("a");
    let tcp = iperf3(&mut machine, "-t 4");
    let after = machine.port("a");
    let (packets, bytes) = (after.rx_packets - before.rx_packets, after.rx_bytes - before.rx_bytes);
    assert!(bytes / packets > 4 * 1514, "segments cross whole: {packets} frames for {bytes} bytes");
    let udp = iperf3(&mut machine, "-u -b 20M -l 1000 -t 2");
    let lost = udp["end"]["sum"]["lost_percent"].as_f64().unwrap();
    assert!(lost < 20.0, "{lost} % of the datagrams");
    println!("iperf3: {:.0} Mbit/s", megabits(&tcp, "sum_received"));
    // Every byte arrives as it was.
    let sum = machine.guest.make_file(16);
    let got = machine.guest.run(&format!("{} </dev/null | sha256sum", net("a", "nc -w 30 10.32.0.2 5000")));
    assert_eq!(first_word(&got), sum);

    // The same connection before and after.
    let long = within("a", "iperf3 -c 10.32.0.2 -J -t 16");
    machine.guest.run(&format!("{long} >/tmp/long 2>&1 & echo $! >/tmp/long.pid"));
    sleep_ms(3000);
    machine.guest.run("kill -9 $(cat /host/run/drayd.pid)");
    sleep_ms(1000);
    machine.start(&two("transport = \"vhost-net\""));
    assert_eq!(transports(&mut machine), ["vhost-net", "vhost-net"]);
    wait_for("iperf3 to end", || {
        let ended = machine.guest.attempt("test -e /proc/$(cat /tmp/long.pid)").0 != 0;
        if !ended {
            sleep_ms(500);
        }
        ended.then_some(())
    });
    let printed = machine.guest.run("cat /tmp/long");
    let report: Value = serde_json::from_str(&printed).unwrap_or_else(|error| panic!("{error}: {printed}"));
    let intervals = report["intervals"].as_array().unwrap_or_else(|| panic!("{printed}"));
    let moved: Vec<u64> = intervals.iter().map(|i| i["sum"]["bytes"].as_u64().unwrap()).collect();
    println!("bytes a second: {moved:?}");
    assert!(moved.len() >= 15 && moved[moved.len() - 3..].iter().all(|&bytes| bytes > 0), "{moved:?}");
    machine.stop();

    // A thread for each of several queues.
    let anew = |machine: &mut Inside<'_>| {
        for name in ["a", "b"] {
            machine.guest.run(&net(name, "ip link del eth0"));
        }
    };
    anew(&mut machine);
    machine.start(&two("queues = 2"));
    assert_eq!(transports(&mut machine), ["vhost-net", "vhost-net"]);
    let threads = machine.guest.run("cat /proc/[0-9]*/comm | grep -c ^vhost-");
    assert_eq!(threads.trim(), "4");
    println!("iperf3: {:.0} Mbit/s", megabits(&iperf3(&mut machine, "-t 3 -P 4"), "sum_received"));
    machine.stop();
    let left = machine.guest.attempt("cat /proc/[0-9]*/comm | grep ^vhost-").1;
    assert_eq!(left, "", "they end with drayd");

    // Where it can't be used, the worker does it, unless it is not to.
    anew(&mut machine);
    machine.guest.run("mv /dev/vhost-net /dev/other; mkdir /dev/vhost-net");
    machine.start(&two(""));
    assert_eq!(transports(&mut machine), ["syscall", "syscall"]);
    machine.guest.run(&within("a", "ping -q -c 3 10.32.0.2"));
    let said = machine.log().matches("without vhost-net, by a system call for each frame: /dev/vhost-net: ").count();
    assert_eq!(said, 1, "{}", machine.log());
    machine.stop();
    machine.guest.run("rmdir /dev/vhost-net");
    machine.start(&two("transport = \"vhost-net\""));
    let why = wait_for("a reason", || machine.port("a").reason.filter(|why| !why.contains("being made")));
    assert!(why.contains("there is no /dev/vhost-net"), "{why}");
    machine.stop();
}
