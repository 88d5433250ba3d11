//! The forwarding database, seen from outside.

use crate::harness::*;
use dray_api::{ErrorCode, FdbEntry, FdbFlushed, FdbLoaded, FdbRefused, Status};
use dray_vhost::memif::Client;
use std::fmt::Write as _;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::process::{Output, Stdio};
use std::time::Instant;

/// Sends `count` frames and sees that each arrives at `to`, in order. `frame(i)` is the `i`th.
fn pump(from: &mut Client, to: &mut Client, count: u32, frame: impl Fn(u32) -> Vec<u8>) {
    let (mut sent, mut arrived) = (0, 0);
    let mut buffer = [0; 2048];
    let mut progress = Instant::now();
    while arrived < count {
        while sent < count && sent - arrived < 512 && from.tx[0].send(&frame(sent)) {
            sent += 1;
        }
        while let Some(len) = to.rx[0].recv(&mut buffer) {
            assert!(buffer[..len] == frame(arrived)[..], "frame {arrived}");
            arrived += 1;
            progress = Instant::now();
        }
        assert!(progress.elapsed() < PATIENCE, "{sent} sent, {arrived} arrived");
    }
}

fn short(source: [u8; 6], destination: [u8; 6]) -> Vec<u8> {
    let mut frame = vec![0; 60];
    frame[..6].copy_from_slice(&destination);
    frame[6..12].copy_from_slice(&source);
    frame[12..14].copy_from_slice(&EXPERIMENTAL);
    frame
}

#[test]
fn a_million_macs_are_learned_from_traffic() {
    const COUNT: u32 = 1_000_000;
    let Some(test) = Test::begin() else { return };
    let ports = memif_ports(&["a", "b", "c"]).replace("[[port]]", "[[port]]\nmax-macs = 1000000");
    let drayd = Drayd::start(&test, &(ports + &bridge("blue", &["a", "b", "c"])));
    let (mut a, mut b, mut c) = (test.memif(0), test.memif(1), test.memif(2));
    for port in ["a", "b", "c"] {
        drayd.wait_link(port, "up");
    }
    let server = mac(COUNT);
    send(&mut b, &[short(server, [0xff; 6])]);
    expect(&mut a, &[short(server, [0xff; 6])]);
    expect(&mut c, &[short(server, [0xff; 6])]);

    pump(&mut a, &mut b, COUNT, |i| short(mac(i), server));
    let status = drayd.status();
    assert_eq!(status.fdb_used, u64::from(COUNT) + 1);
    assert!(status.fdb_size >= status.fdb_used);
    let copies = status.flood_copies;

    // Every one of them is known now: a gets its answers, c gets nothing.
    pump(&mut b, &mut a, COUNT, |i| short(server, mac(i)));
    expect(&mut c, &[]);
    assert_eq!(drayd.status().flood_copies, copies);

    let flushed: FdbFlushed = drayd.json("fdb flush");
    assert_eq!(flushed.entries, u64::from(COUNT) + 1);
    assert_eq!(drayd.status().fdb_used, 0);
    drayd.finish();
}

#[test]
fn macs_age_move_and_are_flushed() {
    let Some(test) = Test::begin() else { return };
    let config = memif_ports(&["a", "b", "c"]) + &bridge("blue", &["a", "b", "c"]) + "[fdb]\nageing = 3\n";
    let drayd = Drayd::start(&test, &config);
    let (mut a, mut b, mut c) = (test.memif(0), test.memif(1), test.memif(2));
    for port in ["a", "b", "c"] {
        drayd.wait_link(port, "up");
    }
    let hello = |source| short(source, [0xff; 6]);
    let fdb = || -> Vec<FdbEntry> { drayd.json("fdb show") };
    let port_of = |number: u32| {
        let of = |entry: &FdbEntry| entry.mac.0 == mac(number);
        fdb().into_iter().find(of).map(|entry| (entry.port.unwrap(), entry.is_static))
    };

    // Learned: from now on only a gets it.
    send(&mut a, &[hello(mac(1))]);
    expect(&mut b, &[hello(mac(1))]);
    expect(&mut c, &[hello(mac(1))]);
    assert_eq!(port_of(1), Some(("a".into(), false)));
    send(&mut b, &[short(mac(2), mac(1))]);
    expect(&mut a, &[short(mac(2), mac(1))]);
    expect(&mut c, &[]);

    // Moved to c.
    send(&mut c, &[hello(mac(1))]);
    expect(&mut a, &[hello(mac(1))]);
    expect(&mut b, &[hello(mac(1))]);
    assert_eq!(port_of(1), Some(("c".into(), false)));
    send(&mut b, &[short(mac(2), mac(1))]);
    expect(&mut c, &[short(mac(2), mac(1))]);
    expect(&mut a, &[]);

    // Back where it came from: dropped, with its reason.
    send(&mut c, &[short(mac(3), mac(1))]);
    wait_for("the drop", || (drayd.drops("c", "forward.same_port") == 1).then_some(()));

    // A static entry neither moves nor ages, and is not flushed.
    drayd.dray("fdb add blue 02:d0:00:00:00:09 --port a");
    send(&mut b, &[hello(mac(9))]);
    expect(&mut a, &[hello(mac(9))]);
    assert_eq!(port_of(9), Some(("a".into(), true)));

    // All that were learned are forgotten when they were not seen for three seconds, and flooded then.
    wait_for("ageing", || (fdb().len() == 1).then_some(()));
    for client in [&mut a, &mut b, &mut c] {
        receive(client);
    }
    send(&mut b, &[short(mac(2), mac(1))]);
    expect(&mut a, &[short(mac(2), mac(1))]);
    expect(&mut c, &[short(mac(2), mac(1))]);
    let flushed: FdbFlushed = drayd.json("fdb flush --port b");
    assert_eq!(flushed.entries, 1);
    assert_eq!(port_of(9), Some(("a".into(), true)));
    drayd.dray("fdb del blue 02:d0:00:00:00:09");
    assert_eq!(fdb(), []);
    drayd.finish();
}

/// A host moves between two ports, and says so once (RFC 5227's announcement, as after a migration or of VRRP): the very next frame
/// follows it, however little time has passed since it was last seen at its old place.
#[test]
fn a_host_that_has_moved_is_found_by_the_next_frame() {
    let Some(test) = Test::begin() else { return };
    let drayd = Drayd::start(&test, &(memif_ports(&["a", "b", "c"]) + &bridge("blue", &["a", "b", "c"])));
    let (mut here, mut other, mut there) = (test.memif(0), test.memif(1), test.memif(2));
    for port in ["a", "b", "c"] {
        drayd.wait_link(port, "up");
    }
    let announcement = || {
        let host = mac(1);
        let arp = [0x08, 0x06, 0, 1, 8, 0, 6, 4, 0, 1];
        let mut frame = [&[0xff; 6][..], &host, &arp, &host, &[10, 1, 0, 1], &[0; 6], &[10, 1, 0, 1]].concat();
        frame.resize(60, 0);
        frame
    };
    for pause in [0, 20, 100, 0, 20, 100, 600] {
        send(&mut here, &[announcement(), short(mac(1), mac(2))]);
        expect(&mut other, &[announcement(), short(mac(1), mac(2))]);
        receive(&mut there);
        sleep_ms(pause);
        send(&mut there, &[announcement()]);
        expect(&mut other, &[announcement()]);
        send(&mut other, &[short(mac(2), mac(1))]);
        expect(&mut there, &[short(mac(2), mac(1))]);
        expect(&mut here, &[announcement()]);
        std::mem::swap(&mut here, &mut there);
    }
    // To c first, and back and forth.
    let moves = |port: &str| drayd.port(port).counters["mac_moves"];
    wait_for("the moves", || (["a", "b", "c"].map(moves) == [3, 0, 4]).then_some(()));
    assert!(drayd.dray("port show c").lines().any(|line| line.split_whitespace().eq(["mac", "moves", "4"])));
    // Told once for each port, not for each move.
    let mut socket = UnixStream::connect(test.path("dray.sock")).unwrap();
    let request = r#"{"jsonrpc": "2.0", "id": 1, "method": "watch", "params": {"kinds": ["fdb"], "since": 1}}"#;
    writeln!(socket, "{request}").unwrap();
    socket.set_read_timeout(Some(std::time::Duration::from_secs(10))).unwrap();
    let told = BufReader::new(socket).lines().map(|line| line.unwrap()).filter(|line| line.contains("have moved here"));
    let mut ports: Vec<String> = told
        .take(2)
        .map(|line| {
            let event: serde_json::Value = serde_json::from_str(&line).unwrap();
            event["params"]["port"].as_str().unwrap().to_owned()
        })
        .collect();
    ports.sort();
    assert_eq!(ports, ["a", "c"]);
    drayd.finish();
}

/// What was learned behind a port is forgotten with its link and with the port, and only that: its stations may be back behind another
/// one, to which their frames are flooded at once.
#[test]
fn what_is_behind_a_link_is_forgotten_with_it() {
    let Some(test) = Test::begin() else { return };
    let drayd = Drayd::start(&test, &(memif_ports(&["a", "b", "c"]) + &bridge("blue", &["a", "b", "c"])));
    let (mut a, mut b, mut c) = (test.memif(0), test.memif(1), test.memif(2));
    for port in ["a", "b", "c"] {
        drayd.wait_link(port, "up");
    }
    let fdb = || -> Vec<(u32, String)> {
        let entries: Vec<FdbEntry> = drayd.json("fdb show");
        let number = |entry: &FdbEntry| u32::from(entry.mac.0[5]);
        entries.into_iter().map(|entry| (number(&entry), entry.port.unwrap())).collect()
    };
    let places = |places: &[(u32, &str)]| places.iter().map(|(n, port)| (*n, (*port).to_owned())).collect::<Vec<_>>();
    let hello = |source| short(source, [0xff; 6]);
    drayd.dray("fdb add blue 02:d0:00:00:00:09 --port a");
    send(&mut a, &[hello(mac(1)), hello(mac(2))]);
    expect(&mut c, &[hello(mac(1)), hello(mac(2))]);
    send(&mut b, &[hello(mac(3))]);
    expect(&mut c, &[hello(mac(3))]);
    receive(&mut b);
    assert_eq!(fdb(), places(&[(1, "a"), (2, "a"), (3, "b"), (9, "a")]));

    drop(a);
    drayd.wait_link("a", "down");
    wait_for("it is forgotten", || (fdb() == places(&[(3, "b"), (9, "a")])).then_some(()));
    // The frames that went to the link are for all now, and who says nothing is found all the same.
    let before = drayd.drops("a", "tx.link_down");
    send(&mut b, &[short(mac(3), mac(1))]);
    expect(&mut c, &[short(mac(3), mac(1))]);
    assert_eq!(drayd.drops("a", "tx.link_down"), before + 1, "its copy of the flood");

    // Who is there again at once, and speaks, is learned at once.
    let mut a = test.memif(0);
    drayd.wait_link("a", "up");
    send(&mut a, &[hello(mac(1))]);
    expect(&mut c, &[hello(mac(1))]);
    assert_eq!(fdb(), places(&[(1, "a"), (3, "b"), (9, "a")]));

    drayd.dray("port del b");
    assert_eq!(fdb(), places(&[(1, "a"), (9, "a")]));
    drayd.finish();
}

/// One port's flood of addresses ends at its share: nobody else loses an entry or finds no room. The limit changes while it runs.
#[test]
fn a_flood_of_macs_is_one_ports_own() {
    let Some(test) = Test::begin() else { return };
    let config = |limit: u32| {
        let ports = memif_ports(&["a", "b", "c"]).replacen("[[port]]", &format!("[[port]]\nmax-macs = {limit}"), 1);
        ports + &bridge("blue", &["a", "b", "c"]) + "[fdb]\nsize = 2048\n"
    };
    let drayd = Drayd::start(&test, &config(100));
    let (mut a, mut b, mut c) = (test.memif(0), test.memif(1), test.memif(2));
    for port in ["a", "b", "c"] {
        drayd.wait_link(port, "up");
    }
    let hello = |source| short(source, [0xff; 6]);
    send(&mut b, &[hello(mac(1))]);
    expect(&mut c, &[hello(mac(1))]);
    receive(&mut a);
    // The last is another port's, which keeps it.
    let flood: Vec<_> = (1000..3000).map(mac).chain([mac(1)]).map(hello).collect();
    for frames in flood.chunks(256) {
        send(&mut a, frames);
        expect(&mut c, frames);
        receive(&mut b);
    }
    let (at_a, at_b) = (drayd.port("a"), drayd.port("b"));
    assert_eq!((at_a.macs, at_a.max_macs, at_a.over_max_macs, at_a.not_learned), (100, 100, 1901, 0));
    assert_eq!((at_b.macs, at_b.max_macs, at_b.over_max_macs), (1, 1024, 0));
    assert_eq!(drayd.status().fdb_used, 101);
    send(&mut c, &[short(mac(2), mac(1))]);
    expect(&mut b, &[short(mac(2), mac(1))]);
    expect(&mut a, &[]);
    let line = "port a: more MACs than its max-macs of 100 are there: the others are not learned";
    wait_for("a line in the log", || drayd.log().contains(line).then_some(()));
    assert_eq!(drayd.log().matches(line).count(), 1);

    let said = drayd.apply(&test, &config(150));
    assert!(said.contains("max-macs 100 -> 150"), "{said}");
    send(&mut a, &flood[1000..1100]);
    expect(&mut c, &flood[1000..1100]);
    assert_eq!((drayd.port("a").macs, drayd.port("a").over_max_macs), (150, 1951));
    drayd.finish();
}

/// `dray --json fdb load -` with these lines.
fn load(drayd: &Drayd, lines: &str, more: &[&str]) -> (Output, FdbLoaded) {
    let mut command = drayd.command(&["--json", "fdb", "load", "-"]);
    let mut child =
        command.args(more).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(lines.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let loaded = serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"));
    (output, loaded)
}

#[test]
fn a_hundred_thousand_entries_are_loaded_in_a_batch() {
    const COUNT: u32 = 100_000;
    // Not the exchange's.
    const FIRST: u32 = 1_000;
    let Some(test) = Test::begin() else { return };
    let config = memif_ports(&["a", "b", "c", "d"]) + &bridge("blue", &["a", "b", "c", "d"]);
    let drayd = Drayd::start(&test, &config);
    let exchange = Exchange::start(&test, &drayd);
    let (mut c, mut d) = (test.memif(2), test.memif(3));
    drayd.wait_link("c", "up");
    drayd.wait_link("d", "up");
    let before = drayd.status().fdb_used;

    let mut lines = String::new();
    for i in FIRST..FIRST + COUNT {
        let _ = writeln!(lines, "blue {} d", dray_config::Mac(mac(i)));
    }
    let begin = Instant::now();
    let (output, loaded) = load(&drayd, &lines, &[]);
    println!("{COUNT} entries loaded in {:?}", begin.elapsed());
    assert!(output.status.success(), "{output:?}");
    assert_eq!(loaded, FdbLoaded { done: COUNT.into(), refused: vec![] });
    assert_eq!(drayd.status().fdb_used, before + u64::from(COUNT));
    let shown: Vec<FdbEntry> = drayd.json("fdb show");
    assert_eq!(
        shown.iter().filter(|entry| entry.is_static && entry.port.as_deref() == Some("d")).count(),
        COUNT as usize
    );

    // Traffic finds every one of them: nothing is flooded to the others.
    let copies = drayd.status().flood_copies;
    pump(&mut c, &mut d, COUNT, |i| short(mac(1), mac(FIRST + i)));
    assert_eq!(drayd.status().flood_copies, copies);

    // They are part of the running configuration, and saved with it.
    drayd.dray(&format!("config save {}", test.path("saved.toml").display()));
    let saved = std::fs::read_to_string(test.path("saved.toml")).unwrap();
    assert_eq!(saved.matches("port = \"d\"").count(), COUNT as usize, "{saved:.1000}");

    // All move to c: as many as before, and c gets what d got.
    let moved = lines.replace(" d\n", " c\n");
    assert_eq!(load(&drayd, &moved, &[]).1.done, u64::from(COUNT));
    pump(&mut d, &mut c, 1000, |i| short(mac(2), mac(FIRST + i)));
    let (output, loaded) = load(&drayd, &moved, &["--delete"]);
    assert!(output.status.success());
    assert_eq!(loaded.done, u64::from(COUNT));
    // Besides those of the exchange, what c and d sent was learned.
    assert_eq!(drayd.status().fdb_used, before + 2);
    drayd.dray(&format!("config save {}", test.path("saved.toml").display()));
    assert!(!std::fs::read_to_string(test.path("saved.toml")).unwrap().contains("static"));

    // Beside all this nobody lost a frame.
    exchange.more(1000);
    exchange.stop();
    drayd.finish();
}

#[test]
fn what_a_batch_has_wrong_is_named_and_the_rest_is_done() {
    let Some(test) = Test::begin() else { return };
    let config = memif_ports(&["a", "b"]) + &bridge("blue", &["a", "b"]) + "[fdb]\nsize = 1024\n";
    let drayd = Drayd::start(&test, &config);
    let refused = |line, code, reason: &str| FdbRefused { line, code, reason: reason.into() };
    let lines = "# bridge MAC place\n\
                 blue 02:00:00:00:00:01 a\n\
                 bleu 02:00:00:00:00:02 a\n\
                 blue 02:00:00:00:00 a\n\
                 blue 03:00:00:00:00:03 a\n\
                 blue 02:00:00:00:00:04 c\n\
                 blue 02:00:00:00:00:05 10.9.0.2\n\
                 blue 02:00:00:00:00:01 b\n";
    let (output, loaded) = load(&drayd, lines, &[]);
    assert_eq!(output.status.code(), Some(1));
    let wrong = [
        refused(3, ErrorCode::NotFound, "there is no bridge \"bleu\""),
        refused(
            4,
            ErrorCode::Invalid,
            "mac \"02:00:00:00:00\": a MAC address is six hexadecimal bytes, like \"02:00:00:00:00:01\"",
        ),
        refused(
            5,
            ErrorCode::Invalid,
            "mac = \"03:00:00:00:00:03\": a group address: the first byte of a station's is even",
        ),
        refused(6, ErrorCode::Invalid, "port \"c\" is not in bridge \"blue\"; did you mean \"a\"?"),
        refused(7, ErrorCode::Conflict, "vtep = \"10.9.0.2\" is for a bridge in the overlay: give it a vni"),
    ];
    assert_eq!(loaded, FdbLoaded { done: 2, refused: wrong.to_vec() });
    // Of two lines for one address the last one counts.
    let entries: Vec<FdbEntry> = drayd.json("fdb show");
    assert_eq!(entries.len(), 1);
    assert_eq!((entries[0].port.as_deref(), entries[0].is_static), (Some("b"), true));
    // For people: the lines on standard error.
    let file = test.file("lines", lines);
    let output = drayd.command(&["fdb", "load", file.to_str().unwrap()]).output().unwrap();
    let (out, err) = (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap());
    assert_eq!((output.status.code(), out.as_str()), (Some(1), "2 entries added\n"));
    assert!(err.starts_with("error: line 3: there is no bridge \"bleu\"\n") && err.lines().count() == 5, "{err}");

    // What isn't there can't be deleted.
    let (_, loaded) = load(&drayd, "blue 02:00:00:00:00:01\nblue 02:00:00:00:00:09\n", &["--delete"]);
    let nothing = refused(2, ErrorCode::NotFound, "bridge \"blue\" has no entry 02:00:00:00:00:09");
    assert_eq!(loaded, FdbLoaded { done: 1, refused: vec![nothing] });

    // The table is full: the last ones are refused, are not in the configuration either, and are taken when there is room.
    let lines: Vec<String> = (0..1030).map(|i| format!("blue {} a\n", dray_config::Mac(mac(i)))).collect();
    let (_, loaded) = load(&drayd, &lines.concat(), &[]);
    assert_eq!((loaded.done, loaded.refused.len()), (1024, 6));
    assert_eq!(
        loaded.refused[0],
        refused(1025, ErrorCode::Conflict, "the FDB is full: it holds 1024 MACs (size in [fdb])")
    );
    let shown = drayd.dray("config show");
    assert_eq!(shown.matches("mac = ").count(), 1024);
    assert_eq!(load(&drayd, &lines[..6].concat(), &["--delete"]).1.done, 6);
    assert_eq!(load(&drayd, &lines[1024..].concat(), &[]).1.done, 6);

    // Too many at once: refused as a whole, and the connection goes on.
    let entry = r#"{"bridge":"blue","mac":"02:00:00:00:00:01"},"#;
    let entries = entry.repeat(100_001);
    let request = format!(
        r#"{{"jsonrpc":"2.0","id":1,"method":"fdb.load","params":{{"delete":true,"entries":[{}]}}}}"#,
        entries.trim_end_matches(',')
    );
    let mut stream = BufReader::new(UnixStream::connect(test.path("dray.sock")).unwrap());
    for (request, answer) in [
        (request.as_str(), "a batch has at most 100000 entries, not 100001: send several"),
        (r#"{"jsonrpc":"2.0","id":2,"method":"status"}"#, "\"fdb_used\":1024"),
    ] {
        writeln!(stream.get_mut(), "{request}").unwrap();
        let mut line = String::new();
        stream.read_line(&mut line).unwrap();
        assert!(line.contains(answer), "{line}");
    }
    drayd.finish();
}

/// Static entries behind VTEPs: those that no peer list names become tunnels, and go with their last entry.
#[test]
fn vteps_come_and_go_with_their_entries() {
    let Some(test) = Test::begin() else { return };
    let config = memif_ports(&["a", "up"])
        + "[[bridge]]\nname = \"blue\"\nvni = 42\nports = [\"a\"]\n\
           [vxlan]\nport = \"up\"\nlocal = \"10.9.0.1/16\"\n";
    let drayd = Drayd::start(&test, &config);
    let vteps = || drayd.json::<Status>("status").vteps;
    assert_eq!(vteps(), 0);
    let line = |i: u32| format!("blue {} 10.9.{}.{}\n", dray_config::Mac(mac(i)), 1 + i / 200, 1 + i % 200);
    let lines: Vec<String> = (0..4000).map(line).collect();
    assert_eq!(load(&drayd, &lines.concat(), &[]).1.done, 4000);
    assert_eq!(vteps(), 4000);
    let entries: Vec<FdbEntry> = drayd.json("fdb show");
    assert!(entries.iter().all(|entry| entry.vtep.is_some()) && entries.len() == 4000);
    // To other places: the first 200 to one VTEP, the next to a port.
    let others: Vec<String> = (0..400)
        .map(|i| format!("blue {} {}\n", dray_config::Mac(mac(i)), if i < 200 { "10.9.200.1" } else { "a" }))
        .collect();
    assert_eq!(load(&drayd, &others.concat(), &[]).1.done, 400);
    assert_eq!(vteps(), 3601);
    assert_eq!(load(&drayd, &lines.concat(), &["--delete"]).1.done, 4000);
    assert_eq!((vteps(), drayd.status().fdb_used), (0, 0));
    drayd.finish();
}
