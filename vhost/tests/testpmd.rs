//! Links with DPDK's memif (`dpdk-testpmd`) in both roles. Skipped, and said so, where it is not installed.

use dray_config::{Access, Memif, Role, SocketName};
use dray_switch::{Burst, Rx, Tx};
use dray_testing::{Testpmd, Turn, has_testpmd};
use dray_vhost::memif::{PortSpec, Supervisor};
use dray_vhost::{Event, Link};
use std::path::Path;
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

/// One with one memif port, that sends back what comes once it is started.
fn testpmd(vdev: &str) -> Testpmd {
    // Without it nothing is mapped that `zero-copy` could name.
    Testpmd::run("--single-file-segments", &[vdev.into()], "--total-num-mbufs=4096 --forward-mode io")
}

fn supervisor() -> (Supervisor, Receiver<Event>) {
    let (tx, rx) = channel();
    (Supervisor::start(move |e| drop(tx.send(e))).unwrap(), rx)
}

fn port(name: &str, socket: &Path, role: Role) -> PortSpec {
    let socket = SocketName::Path(socket.to_owned());
    let memif = Memif {
        socket,
        access: Access::default(),
        id: 0,
        role,
        secret: None,
        ring_size: 1024,
        buffer_size: 2048,
        queues: 1,
    };
    PortSpec { name: name.into(), memif, max_frame: 9216 }
}

fn up(events: &Receiver<Event>) -> Link {
    let end = Instant::now() + Duration::from_secs(15);
    loop {
        match events.recv_timeout(end.saturating_duration_since(Instant::now())).expect("the link comes up") {
            Event::Up { link, .. } => return link,
            Event::Down { .. } | Event::Refused(_) => {}
        }
    }
}

fn down(events: &Receiver<Event>) -> String {
    match events.recv_timeout(Duration::from_secs(1)).expect("the link goes down within a second") {
        Event::Down { reason, .. } => reason,
        Event::Up { .. } | Event::Refused(_) => panic!("it did not go down"),
    }
}

/// Sends back what comes until `done` of the frames so far or ten seconds; frames received, and those of them sent.
fn echo(rx: &mut dyn Rx, tx: &mut dyn Tx, done: impl Fn(u64) -> bool) -> (u64, u64) {
    let mut burst = Burst::default();
    let (mut received, mut sent) = (0, 0);
    let end = Instant::now() + Duration::from_secs(10);
    while !done(received) && Instant::now() < end {
        burst.clear();
        rx.receive(&mut burst);
        if burst.is_empty() {
            std::thread::sleep(Duration::from_micros(50));
            continue;
        }
        for i in 0..burst.len() as u16 {
            // testpmd's txonly: UDP in IPv4, 64 bytes.
            let head = burst.frame(i).head();
            assert_eq!((burst.frame(i).len(), &head[12..15]), (64, &[8, 0, 0x45][..]));
        }
        let all: Vec<u16> = (0..burst.len() as u16).collect();
        sent += u64::from(tx.send(&mut burst, &all).packets);
        received += burst.len() as u64;
        rx.release(&mut burst);
    }
    assert_eq!(burst.drops.total(), 0);
    assert_eq!(received, sent + u64::from(burst.tx_drops.total()));
    (received, sent)
}

/// testpmd sends a fixed number of frames and loops what comes back (`io`): they go round and round.
fn circulate(pmd: &mut Testpmd, rx: &mut [Box<dyn Rx>], tx: &mut dyn Tx) {
    pmd.wait_up();
    pmd.command("start tx_first 4");
    let (received, sent) = echo(&mut *rx[0], tx, |n| n >= 20_000);
    assert!(received >= 20_000 && sent == received, "{received} {sent}");
    pmd.command("stop");
    // What it sent until then is still to be received.
    let stats = pmd.stats();
    let deadline = Instant::now() + Duration::from_millis(300);
    let (late, _) = echo(&mut *rx[0], tx, |_| Instant::now() > deadline);
    assert!(stats.rx <= sent && stats.rx + 1024 >= sent, "{stats:?} of {sent}");
    assert_eq!(stats.tx, received + late);
}

#[test]
fn testpmd_is_the_client() {
    if !has_testpmd() {
        return;
    }
    let _turn = Turn::alone();
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("memif.sock");
    let (s, events) = supervisor();
    s.add(port("web", &socket, Role::Server)).unwrap();
    let vdev = format!("net_memif0,role=client,id=0,socket={},socket-abstract=no", socket.display());
    let mut pmd = testpmd(&vdev);
    for round in 0..2 {
        let link = up(&events);
        assert!(link.info.memif().unwrap().peer.starts_with("DPDK"), "{:?}", link.info);
        assert_eq!(link.info.memif().unwrap().regions, 1 + round);
        let Link { mut rx, tx, .. } = link;
        let mut tx = tx.handles(1);
        circulate(&mut pmd, &mut rx, &mut *tx[0]);
        pmd.kill();
        assert_eq!(down(&events), "the peer closed the connection");
        if round == 0 {
            // Again, with descriptors that point into its own packet buffers, in a second region.
            pmd = testpmd(&format!("{vdev},zero-copy=yes"));
        }
    }
}

#[test]
fn testpmd_is_the_server() {
    if !has_testpmd() {
        return;
    }
    let _turn = Turn::alone();
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("memif.sock");
    let (s, events) = supervisor();
    s.add(port("web", &socket, Role::Client)).unwrap();
    let vdev = format!("net_memif0,role=server,id=0,socket={},socket-abstract=no", socket.display());
    let mut pmd = testpmd(&vdev);
    for round in 0..2 {
        let link = up(&events);
        let Link { mut rx, tx, .. } = link;
        let mut tx = tx.handles(1);
        circulate(&mut pmd, &mut rx, &mut *tx[0]);
        pmd.kill();
        assert_eq!(down(&events), "the peer closed the connection");
        if round == 0 {
            // Killed, it left its socket, and does not replace it itself.
            std::fs::remove_file(&socket).unwrap();
            pmd = testpmd(&vdev);
        }
    }
}
