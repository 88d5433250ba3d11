//! The forwarding database, seen from outside.

use crate::harness::*;
use dray_config::rpc::{FdbEntry, FdbFlushed};
use dray_vhost::memif::Client;
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
    let drayd = Drayd::start(&test, &(memif_ports(&["a", "b", "c"]) + &bridge("blue", &["a", "b", "c"])));
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

    // Moved to c. A host that has just moved may have to wait a second until it is believed.
    wait_for("the move", || {
        send(&mut c, &[hello(mac(1))]);
        sleep_ms(100);
        (port_of(1) == Some(("c".into(), false))).then_some(())
    });
    for client in [&mut a, &mut b] {
        receive(client);
    }
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
