//! Containers with sockets: their TCP/IP stack is the kernel's, and their device is a TAP of the switch's.

use crate::harness::*;
use dray_tap::Namespace;
use dray_vhost::memif::Client;
use nix::sys::socket::{setsockopt, sockopt::UdpGsoSegment};
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

/// A namespace of a container, with IPv6.
pub fn container(label: &str) -> Netns {
    let ns = Netns::new(label);
    ns.run("sysctl -qw net.ipv6.conf.all.disable_ipv6=0 net.ipv6.conf.default.disable_ipv6=0");
    ns
}

/// A port for it, with the last byte of its addresses.
pub fn port(name: &str, ns: &Netns, host: u8) -> String {
    format!(
        "[[port]]\nname = {name:?}\nkind = \"tap\"\nnetns = {:?}\naddresses = [\"10.32.0.{host}/24\", \"fd00::{host}/64\"]\n",
        ns.path()
    )
}

/// Two containers, `a` and `b`, in one bridge.
fn two(a: &Netns, b: &Netns) -> String {
    port("a", a, 1) + &port("b", b, 2) + &bridge("blue", &["a", "b"])
}

pub fn inside<R: Send>(ns: &Netns, what: impl FnOnce() -> R + Send) -> R {
    Namespace::open(&ns.path()).unwrap().inside(|| Ok(what())).unwrap()
}

/// A TCP connection between two namespaces, to an address in the second.
pub fn connect(from: &Netns, to: &Netns, address: &str) -> (TcpStream, TcpStream) {
    let address: IpAddr = address.parse().unwrap();
    let listener = inside(to, || TcpListener::bind(SocketAddr::new(address, 0)).unwrap());
    let at = listener.local_addr().unwrap();
    let client =
        inside(from, || wait_for("a connection", || TcpStream::connect_timeout(&at, Duration::from_secs(1)).ok()));
    let server = listener.accept().unwrap().0;
    for stream in [&client, &server] {
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
    }
    (client, server)
}

/// Sends so many bytes, each of which must arrive as it was.
pub fn transfer(from: &mut TcpStream, to: &mut TcpStream, len: usize) {
    let bytes: Vec<u8> = (0..len).map(|i| (i * 7 + i / 251) as u8).collect();
    let mut got = vec![0; len];
    thread::scope(|scope| {
        scope.spawn(|| from.write_all(&bytes).unwrap());
        to.read_exact(&mut got).unwrap();
    });
    assert!(got == bytes, "what arrived is not what was sent");
}

#[test]
fn sockets_talk_and_segments_cross_whole() {
    let Some(test) = Test::begin() else { return };
    let (a, b) = (container("a"), container("b"));
    let drayd = Drayd::start(&test, &two(&a, &b));
    drayd.wait_link("a", "up");
    drayd.wait_link("b", "up");
    a.ping("10.32.0.2", 20, 56);
    a.ping("fd00::2", 20, 1400);
    for address in ["10.32.0.2", "fd00::2"] {
        let before = drayd.port("a");
        let (mut client, mut server) = connect(&a, &b, address);
        transfer(&mut client, &mut server, 16 << 20);
        transfer(&mut server, &mut client, 1 << 20);
        let after = drayd.port("a");
        let (packets, bytes) = (after.rx_packets - before.rx_packets, after.rx_bytes - before.rx_bytes);
        assert!(bytes / packets > 4 * 1514, "{packets} frames for {bytes} bytes to {address}");
    }
    // A datagram that its sender leaves to be cut is cut by the receiver's kernel, or here.
    let receiver = inside(&b, || UdpSocket::bind("10.32.0.2:0").unwrap());
    receiver.set_read_timeout(Some(PATIENCE)).unwrap();
    let sender = inside(&a, || UdpSocket::bind("10.32.0.1:0").unwrap());
    setsockopt(&sender.as_fd(), UdpGsoSegment, &1000).unwrap();
    let bytes: Vec<u8> = (0..4500).map(|i| (i / 7) as u8).collect();
    sender.send_to(&bytes, receiver.local_addr().unwrap()).unwrap();
    let mut got = Vec::new();
    let mut buffer = [0; 9000];
    while got.len() < bytes.len() {
        let n = receiver.recv(&mut buffer).unwrap();
        assert!(n <= 1000);
        got.extend_from_slice(&buffer[..n]);
    }
    assert_eq!(got, bytes);
    drayd.finish();
}

/// What the container leaves undone is done where the receiver does not do it: in a tunnel. What comes out of a tunnel is put together.
#[test]
fn a_kernel_behind_a_tunnel_gets_every_byte_and_every_checksum() {
    let Some(test) = Test::begin() else { return };
    let (a, switch, kernel) = (container("a"), Netns::new("switch"), Netns::new("kernel"));
    kernel.veth("under", &switch, "nic");
    kernel.run_all(
        "ip addr add 10.9.0.2/24 dev under
         ip link add vx type vxlan id 42 local 10.9.0.2 remote 10.9.0.1 dstport 4789
         ip link set vx up
         ip addr add 10.32.0.2/24 dev vx",
    );
    let config = port("a", &a, 1)
        + "[[port]]\nname = \"uplink\"\nkind = \"eth\"\ndevice = \"nic\"\n\
           [[bridge]]\nname = \"blue\"\nvni = 42\nports = [\"a\"]\n\
           [vxlan]\nport = \"uplink\"\nlocal = \"10.9.0.1/24\"\npeers = [\"10.9.0.2\"]\n";
    let capture = Capture::start(&test, &kernel, "under");
    let drayd = Drayd::start_in(&test, &switch, &config);
    drayd.wait_link("uplink", "up");
    drayd.wait_link("a", "up");
    assert_eq!(drayd.port("a").mtu, 1450, "what fits the tunnel");
    kernel.ping("10.32.0.1", 10, 1400);
    let (mut client, mut server) = connect(&a, &kernel, "10.32.0.2");
    transfer(&mut client, &mut server, 2 << 20);
    transfer(&mut server, &mut client, 8 << 20);
    let frames = capture.stop();
    frames.assert_correct();
    // Of some 7,500 of them; a capture on a busy machine does not see all.
    assert!(frames.count("vxlan && tcp.len > 0") > 100, "they were captured");
    // What came in a burst was received as one.
    let received: u64 = a.run("cat /sys/class/net/eth0/statistics/rx_packets").trim().parse().unwrap();
    let sent = drayd.port("a").tx_packets;
    assert!(received < sent, "{sent} frames were received as {received}");
    drayd.finish();
}

/// A container's checksum that is left undone is complete when it gets to a peer that asks for nothing.
#[test]
fn a_memif_peer_gets_complete_checksums() {
    let Some(test) = Test::begin() else { return };
    let a = container("a");
    let config = memif_ports(&["m"]) + &port("a", &a, 1) + &bridge("blue", &["a", "m"]);
    let drayd = Drayd::start(&test, &config);
    drayd.wait_link("a", "up");
    let mut peer = test.memif(0);
    drayd.wait_link("m", "up");
    a.run("ip neigh add 10.32.0.9 lladdr 02:00:00:00:00:09 dev eth0");
    let sender = inside(&a, || UdpSocket::bind("10.32.0.1:5000").unwrap());
    sender.send_to(&[0x5a; 101], "10.32.0.9:6000").unwrap();
    let is_it = |frame: &Vec<u8>| frame.len() == 14 + 20 + 8 + 101 && frame[12..14] == [8, 0] && frame[23] == 17;
    let frame = wait_for("the datagram", || receive(&mut peer).into_iter().find(is_it));
    let mut sum: u32 = 17 + 109;
    sum += frame[26..].chunks(2).map(|w| u32::from(w[0]) << 8 | w.get(1).map_or(0, |&b| u32::from(b))).sum::<u32>();
    sum = (sum & 0xffff) + (sum >> 16);
    assert_eq!((sum & 0xffff) + (sum >> 16), 0xffff, "{frame:02x?}");
    drayd.finish();
}

/// A container's kernel cuts what goes into a tunnel of its own before the device has it: nobody promised to do that.
#[test]
fn a_tunnel_between_containers_is_carried() {
    let Some(test) = Test::begin() else { return };
    let (a, b) = (container("a"), container("b"));
    let drayd = Drayd::start(&test, &two(&a, &b));
    drayd.wait_link("a", "up");
    drayd.wait_link("b", "up");
    for (ns, local, remote) in [(&a, 1, 2), (&b, 2, 1)] {
        ns.run_all(&format!(
            "ip link add vx type vxlan id 7 local 10.32.0.{local} remote 10.32.0.{remote} dstport 4789
             ip link set vx up
             ip addr add 192.168.9.{local}/24 dev vx"
        ));
    }
    a.ping("192.168.9.2", 10, 1300);
    let before = drayd.port("a");
    let (mut client, mut server) = connect(&a, &b, "192.168.9.2");
    transfer(&mut client, &mut server, 4 << 20);
    transfer(&mut server, &mut client, 1 << 20);
    let after = drayd.port("a");
    let (packets, bytes) = (after.rx_packets - before.rx_packets, after.rx_bytes - before.rx_bytes);
    assert!(bytes / packets <= 1514 && packets > (4 << 20) / 1514, "{packets} frames for {bytes} bytes");
    drayd.finish();
}

#[test]
fn a_connection_outlives_the_switch() {
    let Some(test) = Test::begin() else { return };
    let (a, b) = (container("a"), container("b"));
    let drayd = Drayd::start(&test, &two(&a, &b));
    drayd.wait_link("b", "up");
    let (mut client, mut server) = connect(&a, &b, "10.32.0.2");
    transfer(&mut client, &mut server, 1 << 20);
    let addresses = || a.run("ip -o addr show dev eth0");
    let before = addresses();
    drayd.kill();
    let killed = a.run("ip -br addr show dev eth0");
    assert!(killed.contains("DOWN") && killed.contains("10.32.0.1/24"), "{killed}");
    let drayd = Drayd::start(&test, &two(&a, &b));
    drayd.wait_link("b", "up");
    transfer(&mut client, &mut server, 1 << 20);
    assert_eq!(addresses(), before);
    // An orderly end leaves them as well.
    drayd.finish();
    let drayd = Drayd::start(&test, &two(&a, &b));
    drayd.wait_link("b", "up");
    transfer(&mut server, &mut client, 1 << 20);
    // Who takes the port away takes the device.
    drayd.dray("port del a");
    wait_for("the device to go", || (!a.run("ip -br link").contains("eth0")).then_some(()));
    drayd.finish();
}

#[test]
fn a_container_that_goes_takes_its_device_and_nothing_else() {
    let Some(test) = Test::begin() else { return };
    let (a, b) = (container("a"), container("b"));
    let c = container("c");
    let config = two(&a, &b).replace("ports = [\"a\", ", "ports = [\"a\", \"c\", ") + &port("c", &c, 3);
    let drayd = Drayd::start(&test, &config);
    ["a", "b", "c"].iter().for_each(|name| drayd.wait_link(name, "up"));
    let descriptors = || std::fs::read_dir(format!("/proc/{}/fd", drayd.pid())).unwrap().count();
    let before = descriptors();

    // Whoever is root there does what he likes: renames, sets down, sends what contradicts itself, deletes.
    c.run("ip link set eth0 down");
    c.run("ip link set eth0 name other");
    c.run("ip link set other up mtu 68");
    a.ping("10.32.0.2", 10, 56);
    assert_eq!(drayd.port("c").link, "up");
    c.run("ip link del other");
    wait_for("a new device", || c.run("ip -br addr").contains("10.32.0.3/24").then_some(()));
    drayd.wait_link("c", "up");
    a.ping("10.32.0.3", 10, 56);

    let path = c.path();
    drop(c);
    drayd.wait_link("c", "down");
    let gone = drayd.port("c").reason.unwrap();
    assert!(gone.contains("network namespace"), "{gone}");
    wait_for("its descriptors to be closed", || (descriptors() < before).then_some(()));
    assert!(!path.exists());
    a.ping("10.32.0.2", 10, 56);
    drayd.finish();
}

/// The host's own device is steered off the worker's CPU, and no other device of the host's.
/// Moves frames between two memif interfaces in both directions until it is told to stop, and keeps them.
fn cable(mut m: Client, mut n: Client, stop: &AtomicBool) -> Vec<Vec<u8>> {
    let mut kept = Vec::new();
    while !stop.load(Relaxed) {
        let there = receive(&mut m);
        send(&mut n, &there);
        let back = receive(&mut n);
        send(&mut m, &back);
        if there.is_empty() && back.is_empty() {
            thread::yield_now();
        }
        kept.extend(there);
        kept.extend(back);
    }
    kept
}

/// Says stop when it is dropped, also by a test that fails.
struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Relaxed);
    }
}

/// memif leaves nothing undone: segments are cut and checksums completed on the way there, whatever their sender left.
#[test]
fn what_reaches_memif_is_complete() {
    let Some(test) = Test::begin() else { return };
    let (a, b) = (container("a"), container("b"));
    let config = port("a", &a, 1)
        + &port("b", &b, 2)
        + &memif_ports(&["m", "n"])
        + &bridge("red", &["a", "m"])
        + &bridge("blue", &["n", "b"]);
    let drayd = Drayd::start(&test, &config);
    let ends = [test.memif(0), test.memif(1)];
    for name in ["a", "b", "m", "n"] {
        drayd.wait_link(name, "up");
    }
    let stop = AtomicBool::new(false);
    let frames = thread::scope(|scope| {
        let [m, n] = ends;
        let cable = scope.spawn(|| cable(m, n, &stop));
        let stopped = Stop(&stop);
        for offloads in ["on", "off"] {
            for ns in [&a, &b] {
                ns.run(&format!("ethtool -K eth0 tx {offloads} tso {offloads} gso {offloads}"));
            }
            for address in ["10.32.0.2", "fd00::2"] {
                let (mut client, mut server) = connect(&a, &b, address);
                transfer(&mut client, &mut server, 4 << 20);
                transfer(&mut server, &mut client, 1 << 20);
            }
        }
        drop(stopped);
        cable.join().unwrap()
    });
    assert!(frames.iter().all(|frame| frame.len() <= 1514));
    let frames = Frames::of(&test, &frames);
    frames.assert_correct();
    let right = frames.count("tcp.checksum.status == 1 && tcp.len > 0");
    assert!(right > 4 * (5 << 20) / 1460, "{right} segments");
    drayd.finish();
}

#[test]
fn the_host_takes_part_and_is_left_as_it_was() {
    let Some(test) = Test::begin() else { return };
    let (a, host) = (container("a"), container("host"));
    let default = || host.run("sysctl -n net.core.rps_default_mask");
    let before = default();
    let config = port("a", &a, 1)
        + "[[port]]\nname = \"host\"\nkind = \"tap\"\nifname = \"dray0\"\nrps = \"on\"\naddresses = [\"10.32.0.254/24\"]\n"
        + &bridge("blue", &["a", "host"]);
    let drayd = Drayd::start_in(&test, &host, &config);
    drayd.wait_link("host", "up");
    drayd.wait_link("a", "up");
    a.ping("10.32.0.254", 10, 56);
    assert_eq!(default(), before);
    let steered = host.run("cat /sys/class/net/dray0/queues/rx-0/rps_cpus");
    assert_eq!(steered.trim() == "0", thread::available_parallelism().unwrap().get() == 1, "{steered}");
    drayd.dray("port del host");
    wait_for("the device to go", || (!host.run("ip -br link").contains("dray0")).then_some(()));
    drayd.finish();
}

#[test]
fn what_a_namespace_or_a_device_is_not_is_said() {
    let Some(test) = Test::begin() else { return };
    let a = container("a");
    a.run("ip link add eth0 type veth peer name eth1");
    let config = port("a", &a, 1) + "[[port]]\nname = \"n\"\nkind = \"tap\"\nnetns = \"/etc/hostname\"\n";
    let drayd = Drayd::start(&test, &config);
    let why = |name: &str| wait_for("a reason", || drayd.port(name).reason.filter(|why| !why.contains("being made")));
    assert!(why("a").contains("\"eth0\"") && why("a").contains("no TAP device"), "{}", why("a"));
    assert!(why("n").contains("/etc/hostname is no network namespace"), "{}", why("n"));
    a.run("ip link del eth0");
    let begin = Instant::now();
    drayd.wait_link("a", "up");
    println!("the device was made {:?} after what was in its way had gone", begin.elapsed());
    drayd.finish();
}

/// What a device's owner sees of its carrier.
fn has_carrier(ns: &Netns) -> bool {
    let link = ns.run("ip -o link show dev eth0");
    assert!(link.contains("UP"), "it is administratively up: {link}");
    !link.contains("NO-CARRIER")
}

/// How long that takes to be so.
fn sees_carrier(ns: &Netns, carrier: bool) -> Duration {
    let begin = Instant::now();
    wait_for("the carrier", || (has_carrier(ns) == carrier).then_some(()));
    begin.elapsed()
}

#[test]
fn the_carrier_follows_the_port_and_the_underlay_if_that_is_wanted() {
    let Some(test) = Test::begin() else { return };
    let (a, b, switch, far) = (container("a"), container("b"), Netns::new("switch"), Netns::new("far"));
    far.veth("far0", &switch, "under");
    let config = port("a", &a, 1)
        + "link-follows = \"underlay\"\n"
        + &port("b", &b, 2)
        + "[[port]]\nname = \"uplink\"\nkind = \"eth\"\ndevice = \"under\"\n\
           [[bridge]]\nname = \"blue\"\nvni = 42\nports = [\"a\", \"b\"]\n\
           [vxlan]\nport = \"uplink\"\nlocal = \"10.9.0.1/24\"\npeers = [\"10.9.0.2\"]\n";
    let drayd = Drayd::start_in(&test, &switch, &config);
    ["uplink", "a", "b"].iter().for_each(|name| drayd.wait_link(name, "up"));
    sees_carrier(&a, true);
    a.ping("10.32.0.2", 5, 56);

    far.run("ip link set far0 down");
    let took = sees_carrier(&a, false);
    assert!(took < Duration::from_secs(1), "{took:?}");
    let shown = drayd.port("a");
    assert_eq!((shown.link.as_str(), has_carrier(&b)), ("down", true));
    assert!(shown.reason.is_some_and(|why| why.contains("underlay")));
    // Whoever wants it otherwise has it at once.
    drayd.dray("port set a link-follows port");
    sees_carrier(&a, true);
    a.ping("10.32.0.2", 5, 56);
    drayd.dray("port set a link-follows underlay");
    sees_carrier(&a, false);
    far.run("ip link set far0 up");
    let took = sees_carrier(&a, true);
    assert!(took < Duration::from_secs(1), "{took:?}");
    a.ping("10.32.0.2", 5, 56);

    // A port that is down keeps its device, with what root in the container has given it, and its connections.
    let (mut client, mut server) = connect(&a, &b, "10.32.0.2");
    a.run("ip addr add 10.40.0.1/24 dev eth0");
    drayd.dray("port down a");
    let took = sees_carrier(&a, false);
    assert!(took < Duration::from_secs(1), "{took:?}");
    drayd.dray("port up a");
    drayd.wait_link("a", "up");
    sees_carrier(&a, true);
    assert!(a.run("ip -o addr show dev eth0").contains("10.40.0.1/24"));
    transfer(&mut client, &mut server, 1 << 20);
    // Also one that is down goes with its port.
    drayd.dray("port down a");
    sees_carrier(&a, false);
    drayd.dray("port del a");
    wait_for("the device to go", || (!a.run("ip -br link").contains("eth0")).then_some(()));
    drayd.finish();
}
