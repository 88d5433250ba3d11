//! What goes wrong with one peer is nobody else's business.

use crate::harness::*;
use dray_config::SocketName;
use dray_vhost::memif::{Client, ClientOptions};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::Command;
use std::time::{Duration, Instant};

/// Two quiet ports `a` and `b`, and two for the one who misbehaves: `c`, and `d` where its frames go.
fn config() -> String {
    memif_ports(&["a", "b", "c", "d"])
        + "[[bridge]]\nname = \"blue\"\nports = [\"a\", \"b\", \"c\", \"d\"]\n\
           static = [{ mac = \"02:d0:00:00:00:0d\", port = \"d\" }]\n"
}

#[test]
fn a_killed_client_takes_nobody_with_it() {
    let Some(test) = Test::alone() else { return };
    let drayd = Drayd::start(&test, &config());
    let exchange = Exchange::start(&test, &drayd);
    let mut quickest = PATIENCE;
    for _ in 0..3 {
        let mut victim = Testpmd::client(&test, 2, "txonly");
        drayd.wait_link("c", "up");
        victim.command("set eth-peer 0 02:d0:00:00:00:0d");
        victim.start();
        let before = drayd.port("c").rx_packets;
        wait_for("load from the victim", || (drayd.port("c").rx_packets > before + 10_000).then_some(()));
        exchange.more(10_000);
        victim.kill();
        let died = Instant::now();
        drayd.wait_link("c", "down");
        quickest = quickest.min(died.elapsed());
        exchange.more(10_000);
    }
    let (arrived, _a, _b) = exchange.stop();
    println!("{arrived} frames, none lost; a dead peer's link was down after {quickest:?}");
    assert!(quickest < Duration::from_secs(1));
    assert!(drayd.port("a").drops.is_empty() && drayd.port("b").drops.is_empty(), "{:?}", drayd.ports());
    drayd.finish();
}

#[test]
fn a_client_that_writes_garbage_only_loses_its_own_link() {
    let Some(test) = Test::begin() else { return };
    let drayd = Drayd::start(&test, &config());
    let exchange = Exchange::start(&test, &drayd);
    let mut random = Random(1);
    let mut resets = 0;
    // Whoever comes again and again waits for a second each time.
    for round in 0..30 {
        let mut c = test.memif(2);
        drayd.wait_link("c", "up");
        // A word of the descriptor is flags, region and length; the other offset and metadata (memif.h, memif_desc_t).
        for slot in 0..c.tx[0].size() {
            let words = match round % 5 {
                0 => [random.word(), random.word()],
                1 => [1 | 60 << 32, 0], // a chain without an end
                2 => [((random.word() % 4) << 16) | (60 << 32), random.word()], // any region, any offset
                3 => [u64::from(u32::MAX) << 32, 0], // a length up to the end of everything
                _ => [1500 << 32, u64::from(u32::MAX - 700)], // past the end of the region
            };
            c.tx[0].set_raw(slot, words);
        }
        let head = if round % 3 == 0 { random.word() as u16 } else { c.tx[0].next().wrapping_add(c.tx[0].size()) };
        c.tx[0].set_head(head);
        sleep_ms(5);
        resets += u32::from(c.down().is_some());
        drop(c);
        drayd.wait_link("c", "down");
    }
    assert!(resets > 10, "who breaks the rules is disconnected: {resets} times");
    assert!(drayd.drops("c", "rx.bad_descriptor") > 0, "{:?}", drayd.port("c"));
    exchange.more(10_000);
    let (_, mut a, b) = exchange.stop();

    // It can come back at once, and be good.
    let mut c = test.memif(2);
    drayd.wait_link("c", "up");
    receive(&mut a);
    send(&mut c, &[numbered(mac(0xc), mac(0xa), 5)]);
    expect(&mut a, &[numbered(mac(0xc), mac(0xa), 5)]);
    drop((b, c));
    drayd.finish();
}

/// Random messages, half of handshakes and floods of connections on memif's control channel.
#[test]
fn garbage_on_the_control_channel_hurts_nobody() {
    use dray_vhost::memif::proto::{Message, SIZE};
    use rustix::net::{AddressFamily, SendFlags, SocketAddrUnix, SocketType, connect, send, socket};
    let Some(test) = Test::begin() else { return };
    let drayd = Drayd::start(&test, &config());
    let exchange = Exchange::start(&test, &drayd);
    let mut random = Random(2);
    let address = SocketAddrUnix::new(test.path("memif.sock")).unwrap();
    let mut held = Vec::new();
    for round in 0..2_000 {
        let fd = socket(AddressFamily::UNIX, SocketType::SEQPACKET, None).unwrap();
        connect(&fd, &address).unwrap();
        for _ in 0..1 + round % 4 {
            let mut bytes = [0u8; SIZE + 8];
            bytes.iter_mut().for_each(|byte| *byte = random.word() as u8);
            match round % 4 {
                0 => bytes[..2].copy_from_slice(&[random.word() as u8 % 9, 0]),
                // Knocks at everybody's door, with whatever follows.
                1 => bytes[..SIZE].copy_from_slice(
                    &Message::Init {
                        version: 0x200,
                        id: (round % 5) as u32,
                        mode: 0,
                        secret: [0; 24],
                        name: "x".into(),
                    }
                    .encode(),
                ),
                2 => bytes[..SIZE].copy_from_slice(&Message::AddRegion { index: 0, size: random.word() }.encode()),
                _ => {}
            }
            let len = if random.word().is_multiple_of(8) { random.word() as usize % bytes.len() } else { SIZE };
            let _ = send(&fd, &bytes[..len], SendFlags::NOSIGNAL | SendFlags::DONTWAIT);
        }
        if held.len() < 100 {
            held.push(fd); // says no more, and does not go
        }
    }
    exchange.more(10_000);
    drop(held);
    let c = test.memif(2);
    drayd.wait_link("c", "up");
    drop(c);
    exchange.stop();
    assert!(drayd.port("a").drops.is_empty() && drayd.port("b").drops.is_empty(), "{:?}", drayd.ports());
    drayd.finish();
}

#[test]
fn out_of_descriptors_only_who_comes_then_is_refused() {
    let Some(test) = Test::begin() else { return };
    let ports = ["p0", "p1", "p2", "p3", "p4", "p5", "p6", "p7", "p8"];
    let mut config = memif_ports(&ports).replace("kind =", "queues = 16\nkind =") + &bridge("blue", &ports);
    config += "[[port]]\nname = \"guarded\"\nkind = \"memif\"\nsocket = \"DIR/memif.sock\"\nid = 99\nsecret = \"x\"\n";
    // A port that is free now.
    let metrics = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    config += &format!("[control]\nsocket = \"DIR/dray.sock\"\nmetrics = \"{metrics}\"\n");
    let file = test.file("check.toml", &config);
    let mut check = Command::new("prlimit");
    check.args(["--nofile=320", "--", env!("CARGO_BIN_EXE_drayd"), "--check", "--config"]).arg(&file);
    let checked = check.output().unwrap();
    let warned = String::from_utf8(checked.stderr).unwrap();
    assert!(checked.status.success() && warned.contains("RLIMIT_NOFILE is 320"), "{warned}");
    assert!(warned.starts_with(&format!("warning: {}: file descriptors: ", file.display())), "{warned}");
    // Of 320 descriptors peers get 240; each link needs 33.
    let drayd = Drayd::start_around(&test, &["prlimit", "--nofile=256:320", "--"], &config);
    let limits = std::fs::read_to_string(format!("/proc/{}/limits", drayd.pid())).unwrap();
    let files = limits.lines().find(|line| line.starts_with("Max open files")).unwrap();
    assert_eq!(files.split_whitespace().nth(3), Some("320"), "the limit is raised: {files}");
    let log = drayd.log();
    assert!(log.contains("warning: file descriptors: peers may need up to 1"), "{log}");
    let connect = |id: usize, secret: Option<&str>, timeout| {
        let options = ClientOptions {
            queues: 16,
            ring_size: 256,
            secret: secret.map(str::to_owned),
            timeout: Duration::from_millis(timeout),
            ..ClientOptions::default()
        };
        Client::connect(&SocketName::Path(test.path("memif.sock")), id as u32, &options)
    };
    let mut links = Vec::new();
    let why = loop {
        assert!(links.len() < ports.len(), "all have found descriptors");
        match connect(links.len(), None, 1000) {
            Ok(link) => links.push(link),
            Err(why) => break why,
        }
    };
    assert!(why.contains("no file descriptors left (RLIMIT_NOFILE is 320)"), "{why}");
    assert!(links.len() >= 4, "{}", links.len());
    // The control socket answers all the same, and says who found none.
    let last = wait_for("the refusal to be known", || {
        let port = drayd.port(ports[links.len()]);
        port.refusal.is_some().then_some(port)
    });
    let refusal = last.refusal.unwrap();
    assert!(last.link == "down" && refusal.contains("RLIMIT_NOFILE is 320"), "{refusal}");
    assert!(refusal.ends_with(&format!("(pid {}, uid 0)", std::process::id())), "{refusal}");
    ports[..links.len()].iter().for_each(|name| drayd.wait_link(name, "up"));
    // Who goes makes room.
    let next = links.len();
    drop(links.pop());
    drayd.wait_link(ports[next - 1], "down");
    links.push(connect(next, None, 60_000).unwrap());
    // A wrong secret has a name and a count of its own.
    drop(links);
    assert_eq!(connect(99, Some("y"), 1000).err().unwrap(), "secret does not match");
    let guarded = wait_for("wrong secrets to be counted", || {
        let port = drayd.port("guarded");
        (port.wrong_secrets > 0).then_some(port)
    });
    assert!(guarded.refused >= guarded.wrong_secrets);
    let guesser = format!("secret does not match (pid {}, uid 0)", std::process::id());
    assert!(drayd.log().contains(&format!("port guarded: a peer was refused: {guesser}")), "{}", drayd.log());
    assert!(drayd.dray("port show guarded").contains("for a wrong secret"));
    let mut stream = TcpStream::connect(metrics).unwrap();
    stream.write_all(b"GET /metrics HTTP/1.1\r\n\r\n").unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    let count = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(&format!("{name}{{port=\"guarded\"}} ")));
        line.unwrap_or_else(|| panic!("{text}")).parse::<u64>().unwrap()
    };
    assert!(count("dray_wrong_secrets_total") >= guarded.wrong_secrets);
    assert!(count("dray_refused_peers_total") >= guarded.refused);
    drayd.finish();
}
