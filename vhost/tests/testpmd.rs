//! Links with DPDK's memif (`dpdk-testpmd`) in both roles. Skipped, and said so, where it is not installed.

use dray_config::{Access, Memif, Role, SocketName};
use dray_switch::{Burst, Rx, Tx};
use dray_vhost::memif::{PortSpec, Supervisor};
use dray_vhost::{Event, Link};
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// One test at a time: each testpmd keeps two CPUs busy.
static ONE: Mutex<()> = Mutex::new(());

/// A testpmd process, killed when dropped.
struct Testpmd {
    prefix: String,
    child: Child,
    stdin: ChildStdin,
    lines: Receiver<String>,
}

impl Testpmd {
    /// Starts it with one memif port and a forwarding mode, not forwarding yet.
    fn start(name: &str, vdev: &str, mode: &str) -> Testpmd {
        let prefix = format!("dray-{}-{name}", std::process::id());
        // Its output is to come line by line, also through a pipe. `stdbuf` becomes it: the process id is testpmd's.
        let mut child = Command::new("stdbuf")
            .args(["-oL", "dpdk-testpmd"])
            .args([
                "--lcores",
                "0@1,1@0",
                "--no-huge",
                "--single-file-segments",
                "-m",
                "128",
                "--no-pci",
                "--file-prefix",
                &prefix,
            ])
            .args(["--vdev", vdev, "--", "-i", "--total-num-mbufs=4096", "--forward-mode", mode])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("dpdk-testpmd starts");
        let stdin = child.stdin.take().unwrap();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        let (tx, lines) = channel();
        std::thread::spawn(move || stdout.lines().map_while(Result::ok).try_for_each(|l| tx.send(l)));
        Testpmd { prefix, child, stdin, lines }
    }

    fn say(&mut self, command: &str) {
        writeln!(self.stdin, "{command}").unwrap();
    }

    /// The number after `key` in what it prints from now on.
    fn number(&self, key: &str) -> u64 {
        let end = Instant::now() + Duration::from_secs(10);
        loop {
            let line = self.lines.recv_timeout(end.saturating_duration_since(Instant::now())).expect(key);
            if let Some(rest) = line.split(key).nth(1) {
                return rest.split_whitespace().next().unwrap().parse().unwrap();
            }
        }
    }

    fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        // EAL's run-time directory, which it does not remove when killed.
        let _ = std::fs::remove_dir_all(Path::new("/run/dpdk").join(&self.prefix));
    }
}

impl Drop for Testpmd {
    fn drop(&mut self) {
        self.kill();
    }
}

fn missing() -> bool {
    let missing = Command::new("dpdk-testpmd").arg("--version").output().is_err();
    if missing {
        eprintln!("dpdk-testpmd is not installed: nothing tested");
    }
    missing
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
            Event::Down { .. } | Event::Refused { .. } => {}
        }
    }
}

fn down(events: &Receiver<Event>) -> String {
    match events.recv_timeout(Duration::from_secs(1)).expect("the link goes down within a second") {
        Event::Down { reason, .. } => reason,
        Event::Up { .. } | Event::Refused { .. } => panic!("it did not go down"),
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
    pmd.say("start tx_first 4");
    let (received, sent) = echo(&mut *rx[0], tx, |n| n >= 20_000);
    assert!(received >= 20_000 && sent == received, "{received} {sent}");
    pmd.say("stop");
    // Its figures come when it has stopped. What it sent until then is still to be received.
    let rx_packets = pmd.number("RX-packets:");
    let deadline = Instant::now() + Duration::from_millis(300);
    let (late, _) = echo(&mut *rx[0], tx, |_| Instant::now() > deadline);
    assert!(rx_packets <= sent && rx_packets + 1024 >= sent, "{rx_packets} of {sent}");
    pmd.say("show port stats 0");
    let tx_packets = pmd.number("TX-packets:");
    assert_eq!(tx_packets, received + late);
}

#[test]
fn testpmd_is_the_client() {
    if missing() {
        return;
    }
    let _one = ONE.lock().unwrap_or_else(PoisonError::into_inner);
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("memif.sock");
    let (s, events) = supervisor();
    s.add(port("web", &socket, Role::Server)).unwrap();
    let vdev = format!("net_memif0,role=client,id=0,socket={},socket-abstract=no", socket.display());
    let mut pmd = Testpmd::start("c", &vdev, "io");
    for round in 0..2 {
        let link = up(&events);
        assert!(link.info.memif().unwrap().peer.starts_with("DPDK"), "{:?}", link.info);
        assert_eq!(link.info.memif().unwrap().regions, 1 + round);
        let Link { mut rx, tx, .. } = link;
        let mut tx = tx.handles(1);
        std::thread::sleep(Duration::from_millis(1500));
        circulate(&mut pmd, &mut rx, &mut *tx[0]);
        pmd.kill();
        assert_eq!(down(&events), "the peer closed the connection");
        if round == 0 {
            // Again, with descriptors that point into its own packet buffers, in a second region.
            pmd = Testpmd::start("c2", &format!("{vdev},zero-copy=yes"), "io");
        }
    }
}

#[test]
fn testpmd_is_the_server() {
    if missing() {
        return;
    }
    let _one = ONE.lock().unwrap_or_else(PoisonError::into_inner);
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("memif.sock");
    let (s, events) = supervisor();
    s.add(port("web", &socket, Role::Client)).unwrap();
    let vdev = format!("net_memif0,role=server,id=0,socket={},socket-abstract=no", socket.display());
    let mut pmd = Testpmd::start("s", &vdev, "io");
    for round in 0..2 {
        let link = up(&events);
        let Link { mut rx, tx, .. } = link;
        let mut tx = tx.handles(1);
        std::thread::sleep(Duration::from_millis(1500));
        circulate(&mut pmd, &mut rx, &mut *tx[0]);
        pmd.kill();
        assert_eq!(down(&events), "the peer closed the connection");
        if round == 0 {
            // Killed, it left its socket, and does not replace it itself.
            std::fs::remove_file(&socket).unwrap();
            pmd = Testpmd::start("s2", &vdev, "io");
        }
    }
}
