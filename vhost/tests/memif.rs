//! Links within one process: supervisor to supervisor, supervisor to client. No root, no DPDK.

use dray_config::{Access, Memif, Role, SocketName};
use dray_switch::{Burst, Drop as Reason, Rx, Tx};
use dray_vhost::mem::Region;
use dray_vhost::memif::proto::{Message, SIZE, VERSION};
use dray_vhost::memif::{Client, ClientOptions, LinkState, PortSpec, Supervisor};
use dray_vhost::{Event, Link, Listening, Refusal};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{RecvFlags, SendFlags, SocketType, recv};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

fn spec(name: &str, socket: &SocketName, id: u32, role: Role) -> PortSpec {
    let memif = Memif {
        socket: socket.clone(),
        access: Access::default(),
        id,
        role,
        secret: None,
        ring_size: 1024,
        buffer_size: 2048,
        queues: 1,
    };
    PortSpec { name: name.into(), memif, max_frame: 9216 }
}

fn supervisor() -> (Supervisor, Receiver<Event>) {
    let (tx, rx) = channel();
    (Supervisor::start(move |e| drop(tx.send(e))).unwrap(), rx)
}

const SOON: Duration = Duration::from_secs(2);

fn up(events: &Receiver<Event>, name: &str) -> Link {
    let end = Instant::now() + SOON;
    loop {
        match events.recv_timeout(end - Instant::now()).expect("the link comes up") {
            Event::Up { port, link } if port == name => return link,
            Event::Up { port, .. } => panic!("{port} came up"),
            Event::Down { .. } | Event::Refused(_) => {}
        }
    }
}

fn down(events: &Receiver<Event>, name: &str) -> String {
    match events.recv_timeout(SOON).expect("the link goes down") {
        Event::Down { port, reason } if port == name => reason,
        _ => panic!("something else happened"),
    }
}

fn path(dir: &tempfile::TempDir) -> SocketName {
    SocketName::Path(dir.path().join("memif.sock"))
}

/// A frame of `len` bytes whose content is known.
fn frame(len: usize, seed: usize) -> Vec<u8> {
    (0..len).map(|i| (i * 7 + seed * 13 + i / 251) as u8).collect()
}

/// All bytes of the frames received.
fn take(rx: &mut dyn Rx, burst: &mut Burst) -> Vec<Vec<u8>> {
    let mut frames = Vec::new();
    loop {
        let n = frames.len();
        take_burst(rx, burst, &mut frames);
        if frames.len() == n {
            return frames;
        }
    }
}

fn take_burst(rx: &mut dyn Rx, burst: &mut Burst, frames: &mut Vec<Vec<u8>>) {
    burst.clear();
    rx.receive(burst);
    for i in 0..burst.len() {
        let f = burst.frame(i as u16);
        assert!(f.head().len() >= f.len().min(burst.head_len()));
        let mut bytes = f.head().to_vec();
        for s in burst.segments(f) {
            // SAFETY: the segment is readable until release.
            bytes.extend_from_slice(unsafe { std::slice::from_raw_parts(s.as_ptr(), s.len() as usize) });
        }
        assert_eq!(bytes.len(), f.len());
        frames.push(bytes);
    }
    rx.release(burst);
}

/// Passes all that `rx` has to `tx`; frames sent.
fn forward(rx: &mut dyn Rx, tx: &mut dyn Tx, burst: &mut Burst) -> u32 {
    let mut sent = 0;
    loop {
        burst.clear();
        rx.receive(burst);
        if burst.is_empty() {
            return sent;
        }
        let all: Vec<u16> = (0..burst.len() as u16).collect();
        sent += tx.send(burst, &all).packets;
        rx.release(burst);
    }
}

const LENGTHS: [usize; 12] = [1, 14, 60, 64, 65, 128, 129, 1514, 2048, 2049, 9215, 9216];

#[test]
fn frames_arrive_whole_in_both_roles_and_directions() {
    let dir = tempfile::tempdir().unwrap();
    let socket = path(&dir);
    let (s, events) = supervisor();
    // A client's port and a raw client, both towards our server.
    s.add(spec("server", &socket, 0, Role::Server)).unwrap();
    s.add(spec("server1", &socket, 1, Role::Server)).unwrap();
    let mut port = spec("client", &socket, 0, Role::Client);
    port.memif.buffer_size = 512;
    s.add(port).unwrap();
    let (mut server, mut client) = (None, None);
    while server.is_none() || client.is_none() {
        match events.recv_timeout(SOON).unwrap() {
            Event::Up { port, link } if port == "server" => server = Some(link),
            Event::Up { port, link } if port == "client" => client = Some(link),
            _ => panic!("unexpected event"),
        }
    }
    let (mut server, mut client) = (server.unwrap(), client.unwrap());
    assert_eq!(server.info.memif().unwrap().interface, "client");
    assert_eq!(client.info.memif().unwrap().interface, "server");
    assert!(server.info.memif().unwrap().sealed && server.info.memif().unwrap().peer.starts_with("dray"));
    assert_eq!((server.info.memif().unwrap().ring_size, client.info.memif().unwrap().buffer_size), (1024, 512));
    let mut raw = Client::connect(&socket, 1, &ClientOptions::default()).unwrap();
    let mut link1 = up(&events, "server1");
    let (mut tx1, mut rx1) = (link1.tx.handles(1), link1.rx.pop().unwrap());
    let (mut server_tx, mut client_tx) = (server.tx.handles(1), client.tx.handles(1));
    let mut burst = Burst::default();

    for round in 0..600 {
        let sent: Vec<_> = LENGTHS.iter().map(|&len| frame(len, round)).collect();
        for f in &sent {
            assert!(raw.tx[0].send(f));
        }
        // raw client -> server1 (chained above 2048) -> the other link's client (512-byte buffers) -> its server -> back.
        assert_eq!(forward(&mut *rx1, &mut *client_tx[0], &mut burst), 12);
        assert_eq!(take(&mut *server.rx[0], &mut burst), sent);
        for f in &sent {
            assert!(raw.tx[0].send(f));
        }
        assert_eq!(forward(&mut *rx1, &mut *server_tx[0], &mut burst), 12);
        assert_eq!(forward(&mut *client.rx[0], &mut *tx1[0], &mut burst), 12);
        for f in &sent {
            let mut to = vec![0; 10_000];
            let n = raw.rx[0].recv(&mut to).unwrap();
            assert_eq!(to[..n], f[..]);
        }
        assert_eq!(raw.rx[0].recv(&mut [0; 10]), None);
    }
    assert_eq!((burst.tx_drops.total(), burst.drops.total()), (0, 0));
}

#[test]
fn a_client_gets_no_more_than_its_port_has() {
    let dir = tempfile::tempdir().unwrap();
    let socket = path(&dir);
    let (s, events) = supervisor();
    let mut small = spec("small", &socket, 0, Role::Server);
    (small.memif.queues, small.memif.ring_size) = (2, 512);
    s.add(small).unwrap();
    let ask = |queues, ring_size| {
        s.forgive("small");
        let timeout = Duration::from_millis(200);
        Client::connect(&socket, 0, &ClientOptions { queues, ring_size, timeout, ..Default::default() })
    };
    // HELLO tells what any port on the socket has.
    let client = ask(4, 1024).unwrap();
    assert_eq!((client.info.rx_rings, client.info.tx_rings, client.info.ring_size), (2, 2, 512));
    drop(client);
    let mut big = spec("big", &socket, 1, Role::Server);
    (big.memif.queues, big.memif.ring_size) = (16, 4096);
    s.add(big).unwrap();
    assert_eq!(ask(4, 512).err().unwrap(), "4 queues, the port's `queues` is 2");
    assert_eq!(ask(1, 1024).err().unwrap(), "a ring of 1024 descriptors, the port's `ring-size` is 512");
    drop(ask(2, 512).unwrap());
    let refused = |e: Event| matches!(e, Event::Refused(Refusal { port, .. }) if port.as_deref() == Some("small"));
    assert!(events.try_iter().any(refused));
}

/// A server whose HELLO offers more queues than its interface has, and that ends the connection at the first that is too many without saying why.
#[test]
fn a_client_takes_as_many_queues_as_the_server_has() {
    let dir = tempfile::tempdir().unwrap();
    let socket = path(&dir);
    let listening = Listening::new(&socket, SocketType::SEQPACKET, &Access::default()).unwrap();
    let (s, events) = supervisor();
    let mut port = spec("client", &socket, 0, Role::Client);
    port.memif.queues = 4;
    s.add(port).unwrap();
    let send = |fd: &OwnedFd, message: Message| {
        rustix::net::send(fd, &message.encode(), SendFlags::NOSIGNAL).unwrap();
    };
    // Rings of both directions that it is offered, of which it takes `most`, and whether it is asked for a link then.
    let serve = |most: u16| -> (u16, u16, Option<OwnedFd>) {
        let ready = |fd: &OwnedFd| {
            let timeout = Timespec { tv_sec: 5, tv_nsec: 0 };
            assert_eq!(poll(&mut [PollFd::new(fd, PollFlags::IN)], Some(&timeout)), Ok(1));
        };
        ready(&listening.fd);
        let fd = rustix::net::accept(&listening.fd).unwrap();
        let (min_version, max_version) = (VERSION, VERSION);
        let (max_m2s_ring, max_s2m_ring, max_region, max_log2_ring_size) = (255, 255, 255, 14);
        let name = "few".into();
        send(
            &fd,
            Message::Hello {
                name,
                min_version,
                max_version,
                max_region,
                max_m2s_ring,
                max_s2m_ring,
                max_log2_ring_size,
            },
        );
        let (mut s2m, mut m2s) = (0, 0);
        loop {
            ready(&fd);
            let mut bytes = [0; SIZE];
            assert_eq!(recv(&fd, &mut bytes, RecvFlags::empty()).unwrap().1, SIZE);
            match Message::decode(&bytes).unwrap() {
                Message::AddRing { index, .. } if index >= most => return (s2m, m2s, None),
                Message::AddRing { s2m: true, .. } => s2m += 1,
                Message::AddRing { .. } => m2s += 1,
                Message::Connect { .. } => {
                    send(&fd, Message::Connected { interface: "few".into() });
                    return (s2m, m2s, Some(fd));
                }
                _ => {}
            }
            send(&fd, Message::Ack);
        }
    };
    assert!(matches!(serve(2), (2, 0, None)));
    let (s2m, m2s, link) = serve(2);
    assert_eq!((s2m, m2s), (2, 2));
    let info = up(&events, "client").info.memif().cloned().unwrap();
    assert_eq!((info.rx_rings, info.tx_rings), (2, 2));
    // Who serves next may have more.
    drop(link);
    assert!(matches!(serve(16), (4, 4, Some(_))));
}

/// libmemif hands on the pieces of a frame as it fills them: what of a chain is not there yet is waited for, and nothing behind it overtakes it.
#[test]
fn a_frame_may_be_published_piece_by_piece() {
    let dir = tempfile::tempdir().unwrap();
    let socket = path(&dir);
    let (s, events) = supervisor();
    s.add(spec("server", &socket, 0, Role::Server)).unwrap();
    let mut raw = Client::connect(&socket, 0, &ClientOptions { buffer_size: 256, ..Default::default() }).unwrap();
    let mut link = up(&events, "server");
    let mut burst = Burst::default();
    let long = frame(600, 1);
    for round in 0..2000 {
        // A whole frame, and then three pieces one after the other.
        let first = frame(60, round);
        assert!(raw.tx[0].send(&first));
        let mut wanted = vec![first];
        for (i, part) in long.chunks(256).enumerate() {
            let slot = raw.tx[0].next();
            raw.tx[0].write(slot, 0, part);
            raw.tx[0].set_len(slot, part.len() as u32, i < 2);
            raw.tx[0].publish(1);
            if i == 2 {
                wanted.push(long.clone());
            }
            assert_eq!(take(&mut *link.rx[0], &mut burst), std::mem::take(&mut wanted), "piece {i}");
        }
    }
    assert_eq!(burst.drops.total(), 0);
    assert!(events.try_recv().is_err(), "the link stays");
}

/// Frames from a file, and then copies.
#[test]
fn a_client_sends_copies_after_frames_of_a_file() {
    let dir = tempfile::tempdir().unwrap();
    let socket = path(&dir);
    let (s, events) = supervisor();
    s.add(spec("server", &socket, 0, Role::Server)).unwrap();
    let (mut frames, file) = Region::create("frames", 4096).unwrap();
    let (filed, copied) = (frame(60, 1), frame(60, 2));
    frames.write(0, &filed);
    let options = ClientOptions { ring_size: 256, frames: Some(Arc::new(file)), ..Default::default() };
    let mut raw = Client::connect(&socket, 0, &options).unwrap();
    let mut link = up(&events, "server");
    let mut burst = Burst::default();
    raw.tx[0].fill(1, (0..256).map(|_| (0, 60)));
    assert_eq!(take(&mut *link.rx[0], &mut burst), vec![filed; 256]);
    assert!(raw.tx[0].send(&copied));
    assert_eq!(take(&mut *link.rx[0], &mut burst), [copied]);
}

#[test]
fn a_full_ring_and_long_frames_are_counted() {
    let dir = tempfile::tempdir().unwrap();
    let socket = path(&dir);
    let (s, events) = supervisor();
    s.add(spec("a", &socket, 0, Role::Server)).unwrap();
    s.add(spec("b", &socket, 1, Role::Server)).unwrap();
    let mut a = Client::connect(&socket, 0, &ClientOptions::default()).unwrap();
    let mut from = up(&events, "a");
    let _b = Client::connect(&socket, 1, &ClientOptions { ring_size: 256, ..Default::default() }).unwrap();
    let mut to = up(&events, "b").tx.handles(3);
    let mut burst = Burst::default();
    let mut sent = 0;
    for i in 0..300 {
        assert!(a.tx[0].send(&frame(60, i)));
        sent += forward(&mut *from.rx[0], &mut *to[i % 3], &mut burst);
    }
    assert_eq!(sent, 256);
    assert_eq!((burst.tx_drops.get(Reason::TxRingFull), burst.tx_drops.total()), (44, 44));

    s.set_max_frame("a", 1518);
    let end = Instant::now() + SOON;
    let mut taken = 0;
    while burst.drops.get(Reason::RxTooBig) == 0 && Instant::now() < end {
        assert!(a.tx[0].send(&frame(1519, 0)) && a.tx[0].send(&frame(1518, 0)));
        taken += take(&mut *from.rx[0], &mut burst).iter().filter(|f| f.len() == 1518).count();
    }
    assert!(taken > 0 && burst.drops.total() == burst.drops.get(Reason::RxTooBig));
    // A frame of no length is dropped, and does not end the link.
    let slot = a.tx[0].next();
    a.tx[0].set_len(slot, 0, false);
    a.tx[0].publish(1);
    assert!(take(&mut *from.rx[0], &mut burst).is_empty());
    assert_eq!(burst.drops.get(Reason::RxBadDescriptor), 1);
    assert!(matches!(s.state("a"), Some(LinkState::Up(_))));
}

#[test]
fn links_come_and_go() {
    let dir = tempfile::tempdir().unwrap();
    let socket = SocketName::Path(dir.path().join("made/memif.sock"));
    let (s, events) = supervisor();
    s.add(spec("c", &socket, 7, Role::Client)).unwrap();
    let why = down(&events, "c");
    assert!(why.starts_with("connect /") && why.ends_with("No such file or directory"), "{why}");

    let (other, other_events) = supervisor();
    other.add(spec("s", &socket, 3, Role::Server)).unwrap();
    assert_eq!(down(&events, "c"), "the peer disconnected: id 7 is not served here");
    assert!(other.add(spec("t", &socket, 3, Role::Server)).unwrap_err().contains("\"s\""));
    assert!(s.add(spec("t", &socket, 4, Role::Server)).unwrap_err().contains("a running process is using it"));

    let mut guarded = spec("s7", &socket, 7, Role::Server);
    guarded.memif.secret = Some("xyz".into());
    guarded.memif.queues = 3;
    other.add(guarded.clone()).unwrap();
    assert_eq!(down(&events, "c"), "the peer disconnected: secret does not match");
    s.remove("c");
    let mut client = spec("c", &socket, 7, Role::Client);
    client.memif.secret = Some("xyz".into());
    client.memif.queues = 3;
    client.memif.ring_size = 512;
    s.add(client.clone()).unwrap();
    let link = up(&events, "c");
    let peer = up(&other_events, "s7");
    assert_eq!(
        (
            link.info.memif().unwrap().rx_rings,
            link.info.memif().unwrap().tx_rings,
            peer.rx.len(),
            peer.tx.handles(1).len()
        ),
        (3, 3, 3, 1)
    );
    assert_eq!((link.info.memif().unwrap().ring_size, peer.info.memif().unwrap().ring_size), (512, 512));

    // A second client of the same id is refused, the first stays.
    let options =
        ClientOptions { secret: Some("xyz".into()), timeout: Duration::from_millis(100), ..Default::default() };
    assert_eq!(Client::connect(&socket, 7, &options).err().unwrap(), "id 7 is already connected");
    assert!(matches!(other.state("s7"), Some(LinkState::Up(_))));

    // The server goes and comes back: the client sees both. Queues of the old link move nothing.
    other.remove("s7");
    assert_eq!(down(&events, "c"), "the peer disconnected: the port is removed");
    let mut burst = Burst::default();
    assert_eq!(link.tx.handles(1)[0].send(&mut burst, &[0, 0]).packets, 0);
    assert_eq!(burst.tx_drops.get(Reason::TxLinkDown), 2);
    other.add(guarded).unwrap();
    let _link = up(&events, "c");
    up(&other_events, "s7");
    drop(s);
    assert!(down(&other_events, "s7").contains("shuts down"));
    let SocketName::Path(file) = &socket else { unreachable!() };
    assert!(file.exists());
    other.remove("s7");
    assert!(file.exists());
    other.remove("s");
    assert!(!file.exists());
}

#[test]
fn sockets_are_replaced_only_if_stale() {
    let dir = tempfile::tempdir().unwrap();
    let (s, events) = supervisor();
    let stale = dir.path().join("stale.sock");
    drop(std::os::unix::net::UnixListener::bind(&stale).unwrap());
    assert!(stale.exists());
    s.add(spec("a", &SocketName::Path(stale.clone()), 0, Role::Server)).unwrap();
    let _client = Client::connect(&SocketName::Path(stale), 0, &ClientOptions::default()).unwrap();
    up(&events, "a");

    let live = dir.path().join("live.sock");
    let _listener = std::os::unix::net::UnixListener::bind(&live).unwrap();
    let e = s.add(spec("b", &SocketName::Path(live.clone()), 0, Role::Server)).unwrap_err();
    assert!(e.contains("live.sock") && e.contains("running"), "{e}");
    assert!(live.exists());

    let file = dir.path().join("file");
    std::fs::write(&file, "precious").unwrap();
    assert!(s.add(spec("b", &SocketName::Path(file.clone()), 0, Role::Server)).unwrap_err().contains("not a socket"));
    assert_eq!(std::fs::read(&file).unwrap(), b"precious");
    let long = Path::new("/tmp").join("x".repeat(200));
    assert!(s.add(spec("b", &SocketName::Path(long), 0, Role::Server)).unwrap_err().contains("too long"));

    let name = SocketName::Abstract(format!("dray-test-{}", std::process::id()));
    s.add(spec("b", &name, 9, Role::Server)).unwrap();
    let client = Client::connect(&name, 9, &ClientOptions::default()).unwrap();
    assert_eq!(client.info.interface, "b");
    up(&events, "b");
    // It can come back at once.
    drop(client);
    for _ in 0..20 {
        s.forgive("b");
        Client::connect(&name, 9, &ClientOptions { timeout: Duration::from_secs(1), ..Default::default() }).unwrap();
    }
    let end = Instant::now() + SOON;
    while !matches!(s.state("b"), Some(LinkState::Down(_))) && Instant::now() < end {
        std::thread::sleep(Duration::from_millis(5));
    }
    assert_eq!(s.state("b"), Some(LinkState::Down("the peer disconnected: the client disconnects".into())));
}

/// A server whose thread hangs until what is returned is dropped, or for some seconds.
fn hanging(dir: &tempfile::TempDir) -> (Supervisor, Sender<()>) {
    let (hangs, is_hanging) = channel();
    let (go_on, may_go_on) = channel::<()>();
    let server = Supervisor::start(move |_| {
        let _ = hangs.send(());
        let _ = may_go_on.recv_timeout(5 * SOON);
    })
    .unwrap();
    server.add(spec("absent", &SocketName::Path(dir.path().join("nobody")), 0, Role::Client)).unwrap();
    is_hanging.recv_timeout(SOON).unwrap();
    (server, go_on)
}

#[test]
fn a_thread_that_hangs_holds_nobody_up() {
    let dir = tempfile::tempdir().unwrap();
    let (server, _go_on) = hanging(&dir);
    let late = server.add(spec("late", &path(&dir), 0, Role::Server));
    assert_eq!(late, Err("the memif thread has not answered for 1s".into()));
    assert!(!server.remove("absent"));
    let begin = Instant::now();
    drop(server);
    assert!(begin.elapsed() < 3 * SOON, "{:?}", begin.elapsed());
}

#[test]
fn a_port_that_is_added_too_late_is_not_there() {
    let dir = tempfile::tempdir().unwrap();
    let (server, go_on) = hanging(&dir);
    server.add(spec("late", &path(&dir), 0, Role::Server)).unwrap_err();
    drop(go_on);
    // One after the other: what came before is done.
    server.add(spec("next", &path(&dir), 0, Role::Server)).unwrap();
    assert_eq!(server.state("late"), None);
}
