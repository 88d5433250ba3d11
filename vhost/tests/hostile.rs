//! A peer that breaks every rule: it loses its own link and nothing else happens. No root, no DPDK.

use dray_config::{Access, Memif, Role, SocketName};
use dray_switch::{Burst, Drop as Reason, Tx};
use dray_testing::{Random, memfd};
use dray_vhost::mem::guard;
use dray_vhost::memif::{Client, ClientOptions, LinkState, PortSpec, Supervisor};
use dray_vhost::{Event, Link, Refusal};
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use rustix::fs::{OFlags, fcntl_setfl, ftruncate};
use rustix::net::{
    AddressFamily, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags,
    SocketType, connect, recv, sendmsg, socket_with,
};
use std::fs::File;
use std::io::IoSlice;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// One test at a time: file descriptors are counted.
static ONE: Mutex<()> = Mutex::new(());

const SOON: Duration = Duration::from_secs(5);
const SIZE: u64 = 1 << 20;
/// Where the S2M ring of 256 descriptors is, where the M2S ring is, and where buffers begin.
const S2M: u64 = 0;
const M2S: u64 = 8192;
const BUFFERS: u64 = 16384;

fn message(parts: &[&[u8]]) -> Vec<u8> {
    let mut m = parts.concat();
    assert!(m.len() <= 128);
    m.resize(128, 0);
    m
}

fn init(version: u16, id: u32, mode: u8, secret: &[u8; 24]) -> Vec<u8> {
    message(&[&[3, 0], &version.to_le_bytes(), &id.to_le_bytes(), &[mode], secret, b"hostile"])
}

fn add_region(index: u16, size: u64) -> Vec<u8> {
    message(&[&[4, 0], &index.to_le_bytes(), &size.to_le_bytes()])
}

fn add_ring(flags: u16, index: u16, region: u16, offset: u32, log2: u8, private: u16) -> Vec<u8> {
    let (f, i, r) = (flags.to_le_bytes(), index.to_le_bytes(), region.to_le_bytes());
    message(&[&[5, 0], &f, &i, &r, &offset.to_le_bytes(), &[log2], &private.to_le_bytes()])
}

fn connect_message() -> Vec<u8> {
    message(&[&[6, 0], b"eth0"])
}

/// Messages, and what each comes with ([`Test::fds`]).
type Messages = Vec<(Vec<u8>, u8)>;

struct Peer(OwnedFd);

impl Peer {
    fn new(test: &Test) -> Peer {
        let fd = socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).unwrap();
        let end = Instant::now() + SOON;
        while let Err(e) = connect(&fd, &SocketAddrUnix::new(test.path()).unwrap()) {
            assert!(Instant::now() < end, "{e}");
        }
        Peer(fd)
    }

    /// Sends, if the other end is still there.
    fn send(&self, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> bool {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(253))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !fds.is_empty() {
            assert!(control.push(SendAncillaryMessage::ScmRights(fds)));
        }
        sendmsg(&self.0, &[IoSlice::new(bytes)], &mut control, SendFlags::NOSIGNAL).is_ok()
    }

    /// The next message, or nothing when the connection is closed.
    fn recv(&self) -> Option<Vec<u8>> {
        let mut fds = [PollFd::new(&self.0, PollFlags::IN)];
        let n = poll(&mut fds, Some(&Timespec { tv_sec: 7, tv_nsec: 0 })).unwrap();
        assert!(n == 1, "neither an answer nor an end");
        for _ in 0..2 {
            let mut bytes = vec![0; 256];
            match recv(&self.0, &mut bytes, RecvFlags::empty()) {
                Ok((0, _)) => return None,
                Ok((n, _)) => return Some(bytes[..n].to_vec()),
                Err(_) => {}
            }
        }
        None
    }

    /// The reason of the DISCONNECT that ends the connection.
    fn reason(&self) -> String {
        let mut reason = String::new();
        while let Some(m) = self.recv() {
            if m[0] == 8 {
                reason = String::from_utf8(m[6..102].split(|&b| b == 0).next().unwrap().to_vec()).unwrap();
            }
        }
        reason
    }
}

/// A server with a port for the hostile peer (id 0, with a secret) and one for an honest client (id 1).
struct Test {
    s: Supervisor,
    events: Receiver<Event>,
    dir: tempfile::TempDir,
    honest: (Client, Link),
    memory: File,
    event: OwnedFd,
    _one: MutexGuard<'static, ()>,
}

const SECRET: &[u8; 24] = b"abcdefghijklmnopqrstuvwx";

impl Test {
    fn new() -> Test {
        let one = ONE.lock().unwrap_or_else(PoisonError::into_inner);
        let dir = tempfile::tempdir().unwrap();
        let socket = SocketName::Path(dir.path().join("s"));
        let (tx, events) = channel();
        let s = Supervisor::start(move |e| drop(tx.send(e))).unwrap();
        for (id, secret) in [(0, Some(String::from_utf8(SECRET.to_vec()).unwrap())), (1, None)] {
            let role = Role::Server;
            let memif = Memif {
                socket: socket.clone(),
                access: Access::default(),
                id,
                role,
                secret,
                ring_size: 1024,
                buffer_size: 2048,
                queues: 1,
            };
            s.add(PortSpec { name: format!("p{id}"), memif, max_frame: 9216 }).unwrap();
        }
        let client = Client::connect(&socket, 1, &ClientOptions::default()).unwrap();
        let link = match events.recv_timeout(SOON).unwrap() {
            Event::Up { link, .. } => link,
            Event::Down { reason, .. } | Event::Refused(Refusal { reason, .. }) => panic!("{reason}"),
        };
        let event = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).unwrap();
        Test { s, events, dir, honest: (client, link), memory: memfd(SIZE).into(), event, _one: one }
    }

    fn path(&self) -> PathBuf {
        self.dir.path().join("s")
    }

    /// The messages of a correct handshake, and whether each comes with the region's (1) or an eventfd (2).
    fn good() -> Messages {
        vec![
            (init(0x200, 0, 0, SECRET), 0),
            (add_region(0, SIZE), 1),
            (add_ring(1, 0, 0, S2M as u32, 8, 0), 2),
            (add_ring(0, 0, 0, M2S as u32, 8, 0), 2),
            (connect_message(), 0),
        ]
    }

    fn fds(&self, kind: u8) -> Vec<BorrowedFd<'_>> {
        match kind {
            0 => vec![],
            1 => vec![self.memory.as_fd()],
            2 => vec![self.event.as_fd()],
            _ => vec![self.event.as_fd(); 253],
        }
    }

    /// Empty rings; every M2S buffer has 2048 bytes.
    fn write_rings(&self) {
        self.memory.write_all_at(&vec![0; BUFFERS as usize], 0).unwrap();
        for ring in [S2M, M2S] {
            self.memory.write_all_at(&0x3E3_1F20u32.to_le_bytes(), ring).unwrap();
        }
        for i in 0..256 {
            self.desc(M2S, i, 0, 0, 2048, (BUFFERS + i * 2048) as u32);
        }
    }

    fn desc(&self, ring: u64, i: u64, flags: u16, region: u16, len: u32, offset: u32) {
        let d = [&flags.to_le_bytes()[..], &region.to_le_bytes(), &len.to_le_bytes(), &offset.to_le_bytes()].concat();
        self.memory.write_all_at(&d, ring + 128 + i % 256 * 16).unwrap();
    }

    fn set_head(&self, ring: u64, head: u16) {
        self.memory.write_all_at(&head.to_le_bytes(), ring + 6).unwrap();
    }

    /// Connects correctly.
    fn link(&self) -> (Peer, Link) {
        self.s.forgive("p0");
        self.write_rings();
        let peer = Peer::new(self);
        for (m, fd) in Self::good() {
            assert!(peer.send(&m, &self.fds(fd)));
        }
        loop {
            match self.events.recv_timeout(SOON).expect("the link comes up") {
                Event::Up { port, link } if port == "p0" => return (peer, link),
                Event::Up { .. } => panic!("the honest link came up again"),
                Event::Down { port, .. } => assert_eq!(port, "p0"),
                Event::Refused(Refusal { port, .. }) => assert!(port.is_none_or(|port| port == "p0")),
            }
        }
    }

    /// Sends `messages` after one another; why the server ends the connection.
    fn refused(&self, messages: &[(Vec<u8>, u8)]) -> String {
        self.s.forgive("p0");
        let peer = Peer::new(self);
        for (m, fd) in messages {
            if !peer.send(m, &self.fds(*fd)) {
                break;
            }
        }
        peer.reason()
    }

    /// Who was refused since the last event that was looked at.
    fn refusals(&self) -> Vec<Refusal> {
        let refusal = |event| match event {
            Event::Refused(refusal) => Some(refusal),
            _ => None,
        };
        // Answered when all that was read until now is dealt with.
        assert!(!self.s.remove("no such port"));
        self.events.try_iter().filter_map(refusal).collect()
    }

    fn down(&self) -> String {
        match self.events.recv_timeout(SOON).expect("the link goes down") {
            Event::Down { port, reason } if port == "p0" => reason,
            _ => panic!("something else happened"),
        }
    }

    /// The honest client's link works.
    fn check_honest(&mut self) {
        assert!(matches!(self.s.state("p1"), Some(LinkState::Up(_))));
        let (client, link) = &mut self.honest;
        assert_eq!(client.down(), None);
        assert!(client.tx[0].send(b"an honest frame of sixty bytes, which is all there is to it!"));
        let mut burst = Burst::default();
        link.rx[0].receive(&mut burst);
        assert_eq!((burst.len(), burst.frame(0).len(), burst.drops.total()), (1, 60, 0));
        link.rx[0].release(&mut burst);
    }
}

/// The good handshake with message `i` replaced.
fn with(i: usize, m: Vec<u8>, fd: u8) -> Messages {
    let mut all = Test::good();
    all[i] = (m, fd);
    all
}

#[test]
fn every_wrong_message_is_named() {
    let mut t = Test::new();
    t.write_rings();
    let wrong: [(Messages, &str); 30] = [
        (with(0, init(0x100, 0, 0, SECRET), 0), "version 0x100"),
        (with(0, init(0x201, 0, 0, SECRET), 0), "version 0x201"),
        (with(0, init(0x200, 5, 0, SECRET), 0), "id 5 is not served"),
        (with(0, init(0x200, 1, 0, SECRET), 0), "id 1 is already connected"),
        (with(0, init(0x200, 0, 1, SECRET), 0), "mode 1"),
        (with(0, init(0x200, 0, 0, b"abcdefghijklmnopqrstuvwy"), 0), "secret"),
        (with(0, init(0x200, 0, 0, &[0; 24]), 0), "secret"),
        (with(0, add_region(0, SIZE), 1), "unexpected message AddRegion"),
        (with(1, init(0x200, 0, 0, SECRET), 0), "unexpected message Init"),
        (with(1, add_region(1, SIZE), 1), "region index 1"),
        (with(1, add_region(0, SIZE), 0), "without a file"),
        (with(1, add_region(0, SIZE), 2), "not a memfd"),
        (with(1, add_region(0, SIZE), 3), "more than one file"),
        (with(1, add_region(0, SIZE + 1), 1), "1048577"),
        (with(1, add_region(0, SIZE - 1), 1), "1048575"),
        (with(1, add_region(0, 0), 1), "0 bytes"),
        (with(1, add_region(0, u64::MAX), 1), "the region is said"),
        (with(2, add_ring(1, 1, 0, 0, 8, 0), 2), "ring index 1"),
        (with(2, add_ring(1, 0, 0, 0, 8, 0), 0), "without a file"),
        (with(2, add_ring(1, 0, 0, 0, 8, 0), 1), "not an eventfd"),
        (with(2, add_ring(1, 0, 1, 0, 8, 0), 2), "region 1 is outside"),
        (with(2, add_ring(1, 0, 0, SIZE as u32 - 4096, 8, 0), 2), "outside"),
        (with(2, add_ring(1, 0, 0, u32::MAX, 8, 0), 2), "outside"),
        (with(2, add_ring(1, 0, 0, 8, 8, 0), 2), "aligned"),
        (with(2, add_ring(1, 0, 0, 4096, 8, 0), 2), "cookie"),
        (with(2, add_ring(1, 0, 0, 0, 7, 0), 2), "2^7"),
        (with(2, add_ring(1, 0, 0, 0, 255, 0), 2), "2^255"),
        (with(2, add_ring(1, 0, 0, 0, 8, 4), 2), "private"),
        (with(3, add_ring(1, 1, 0, 0, 8, 0), 2), "each direction"),
        (with(4, message(&[&[9, 0]]), 0), "unknown message type 9"),
    ];
    for (messages, reason) in wrong {
        let got = t.refused(&messages);
        assert!(got.contains(reason), "{got:?} instead of {reason:?}");
    }
    let mut short = connect_message();
    short.pop();
    assert!(t.refused(&[(short, 0)]).contains("128 bytes"));
    assert!(t.refused(&[(vec![0; 129], 0)]).contains("128 bytes"));
    assert!(t.refused(&[(vec![0; 100_000], 0)]).contains("128 bytes"));
    let bytewise: Vec<_> = init(0x200, 0, 0, SECRET).iter().map(|&b| (vec![b], 0)).collect();
    assert!(t.refused(&bytewise).contains("128 bytes"));
    let mut many = Test::good()[..1].to_vec();
    many.extend((0..17).map(|i| (add_ring(1, i, 0, 0, 8, 0), 2)));
    assert!(t.refused(&many).contains("ring index 16"));
    assert!(t.refused(&[(message(&[&[8, 0]]), 0)]).is_empty());
    t.check_honest();
}

#[test]
fn half_open_connections_are_bounded_in_number_and_time() {
    let mut t = Test::new();
    let start = Instant::now();
    let idle: Vec<_> = (0..64).map(|_| Peer::new(&t)).collect();
    for p in &idle {
        assert_eq!(p.recv().unwrap()[0], 2);
    }
    // Who comes now gets in: the oldest one gives up its place.
    drop(t.link());
    assert!(idle[0].reason().contains("too many half-open"));
    assert_eq!(t.down(), "the peer closed the connection");
    // Here it is known which port was wanted.
    assert!(idle[1].send(&init(0x200, 0, 0, SECRET), &[]));
    assert_eq!(idle[1].recv().unwrap()[0], 1);
    t.check_honest();
    for p in &idle[1..] {
        assert!(p.reason().contains("too long"));
    }
    let took = start.elapsed();
    assert!((4..7).contains(&took.as_secs()), "{took:?}");
    let late: Vec<_> = t.refusals().into_iter().filter(|late| late.reason.contains("too long")).collect();
    assert_eq!(late.len(), 63);
    let pid = format!("pid {}, ", std::process::id());
    assert!(late.iter().all(|late| late.peer.as_ref().unwrap().starts_with(&pid) && !late.secret));
    assert_eq!(late.iter().filter_map(|late| late.port.as_deref()).collect::<Vec<_>>(), ["p0"]);
    drop(t.link());
}

/// How far the switch lets `peer` come, within `ms`: the types of the messages that it sends.
fn heard(peer: &Peer, ms: i64) -> Vec<u8> {
    let mut heard = Vec::new();
    let wait = Timespec { tv_sec: ms / 1000, tv_nsec: ms % 1000 * 1_000_000 };
    while poll(&mut [PollFd::new(&peer.0, PollFlags::IN)], Some(&wait)) == Ok(1) {
        match peer.recv() {
            Some(message) => heard.push(message[0]),
            None => break,
        }
    }
    heard
}

#[test]
fn who_reconnects_without_a_breath_waits() {
    let mut t = Test::new();
    t.write_rings();
    let attempt = || {
        let peer = Peer::new(&t);
        // The switch may refuse it before it has said all.
        Test::good().iter().all(|(m, fd)| peer.send(m, &t.fds(*fd)));
        peer
    };
    // One after the other: each leaves as soon as it is connected.
    let (start, mut links) = (Instant::now(), 0);
    while start.elapsed() < Duration::from_millis(1500) {
        let peer = attempt();
        links += usize::from(std::iter::from_fn(|| peer.recv()).any(|message| message[0] == 7));
    }
    assert!((4..20).contains(&links), "{links}");
    // Of several at the same time one waits, and is served when it is its turn.
    let many: Vec<Peer> = (0..8).map(|_| attempt()).collect();
    let reasons: Vec<Vec<u8>> = many.iter().map(|peer| heard(peer, 3000)).collect();
    assert!(reasons.iter().any(|heard| heard[..] == [2, 8]), "HELLO, DISCONNECT: {reasons:?}");
    assert!(reasons.iter().any(|heard| heard.contains(&7)), "CONNECTED: {reasons:?}");
    let breathless = |r: &Refusal| r.port.as_deref() == Some("p0") && r.reason.contains("in a short time");
    assert!(t.refusals().iter().any(breathless));
    drop(many);
    t.check_honest();
}

#[test]
fn secrets_are_not_guessed_in_a_hurry() {
    let mut t = Test::new();
    t.s.forgive("p0");
    let guess = |n: u64| {
        let mut secret = [0; 24];
        secret[..8].copy_from_slice(&n.to_le_bytes());
        let peer = Peer::new(&t);
        peer.send(&init(0x200, 0, 0, &secret), &[]);
        peer.reason()
    };
    let start = Instant::now();
    let reasons: Vec<String> = (0..6).map(guess).collect();
    assert!(reasons.iter().all(|reason| reason == "secret does not match"), "{reasons:?}");
    // The fifth waits for 50 ms, the sixth for 100 ms.
    assert!(start.elapsed() >= Duration::from_millis(150));
    let refusals = t.refusals();
    assert_eq!(refusals.len(), 6);
    assert!(refusals.iter().all(|refusal| refusal.port.as_deref() == Some("p0") && refusal.secret));
    // Those that come in parallel are not even looked at, but for one.
    let all: Vec<Peer> = (6..40)
        .map(|n| {
            let peer = Peer::new(&t);
            peer.send(&init(0x200, 0, 0, &[n; 24]), &[]);
            peer
        })
        .collect();
    let looked_at = all.iter().filter(|peer| peer.reason() == "secret does not match").count();
    assert!((1..10).contains(&looked_at), "{looked_at}");
    t.check_honest();
}

/// A link is brought up, `act` misuses its S2M ring, and the next receive finds it out.
fn misuse(t: &mut Test, act: impl Fn(&Test)) -> (usize, String) {
    let (_peer, mut link) = t.link();
    act(t);
    let mut burst = Burst::default();
    link.rx[0].receive(&mut burst);
    let n = burst.len();
    assert_eq!((burst.drops.get(Reason::RxBadDescriptor), burst.drops.total()), (1, 1));
    link.rx[0].release(&mut burst);
    // Nothing moves any more, however good it is.
    (0..3).for_each(|i| t.desc(S2M, i, 0, 0, 60, BUFFERS as u32));
    t.set_head(S2M, 3);
    burst.clear();
    link.rx[0].receive(&mut burst);
    assert_eq!((burst.len(), burst.drops.total()), (0, 1), "the one from before");
    (n, t.down())
}

#[test]
fn bad_descriptors_end_the_link() {
    let mut t = Test::new();
    let bad = |flags, region, len, offset| {
        move |t: &Test| {
            t.desc(S2M, 0, 0, 0, 60, BUFFERS as u32);
            t.desc(S2M, 1, flags, region, len, offset);
            t.set_head(S2M, 2);
        }
    };
    for act in [
        bad(0, 1, 60, 0),
        bad(0, 0xffff, 60, 0),
        bad(0, 0, 60, SIZE as u32 - 59),
        bad(0, 0, 60, u32::MAX - 10),
        bad(0, 0, u32::MAX, 0),
        bad(0, 0, u32::MAX, u32::MAX),
    ] {
        let (n, reason) = misuse(&mut t, act);
        assert_eq!((n, reason.as_str()), (1, "ring s2m 0: a bad descriptor"));
    }
    let (n, reason) = misuse(&mut t, |t| {
        (0..256).for_each(|i| t.desc(S2M, i, 1, 0, 1, BUFFERS as u32));
        t.set_head(S2M, 256);
    });
    assert_eq!((n, reason.as_str()), (0, "ring s2m 0: a bad descriptor"));
    for head in [257, 0x8000, 0xffff] {
        let (n, reason) = misuse(&mut t, |t| t.set_head(S2M, head));
        assert_eq!((n, reason.as_str()), (0, "ring s2m 0: the ring's index jumped"));
    }

    // The ring we send on.
    for (index, what) in
        [(1, "a bad descriptor"), (300, "the ring's index jumped"), (0xffff, "the ring's index jumped")]
    {
        let (peer, link) = t.link();
        t.desc(M2S, 0, 0, 7, 2048, 0);
        t.set_head(M2S, index);
        assert!(t.honest.0.tx[0].send(&[1; 60]));
        let mut burst = Burst::default();
        t.honest.1.rx[0].receive(&mut burst);
        let mut tx = link.tx.handles(1);
        assert_eq!(tx[0].send(&mut burst, &[0]).packets, 0);
        assert_eq!((burst.tx_drops.get(Reason::TxBadDescriptor), burst.tx_drops.total()), (1, 1));
        t.honest.1.rx[0].release(&mut burst);
        assert_eq!(t.down(), format!("ring m2s 0: {what}"));
        assert_eq!(peer.reason(), format!("ring m2s 0: {what}"));
    }
    t.check_honest();
}

#[test]
fn a_shrunk_region_ends_its_link_only() {
    let mut t = Test::new();
    let (peer, mut link) = t.link();
    t.desc(S2M, 0, 0, 0, 9000, BUFFERS as u32 + 4096);
    t.set_head(S2M, 1);
    let mut burst = Burst::default();
    link.rx[0].receive(&mut burst);
    assert_eq!(burst.len(), 1);
    // Its body is gone before it is sent on.
    ftruncate(&t.memory, 0).unwrap();
    let mut tx = std::mem::take(&mut t.honest.1.tx).handles(1);
    assert_eq!(tx[0].send(&mut burst, &[0]).packets, 1);
    link.rx[0].release(&mut burst);
    burst.clear();
    link.rx[0].receive(&mut burst);
    assert_eq!(burst.len(), 0);
    assert!(t.down().contains("shrunk"));
    assert!(peer.reason().contains("shrunk"));
    let mut frame = [0; 10_000];
    assert_eq!(t.honest.0.rx[0].recv(&mut frame), Some(9000));
    t.check_honest();
    ftruncate(&t.memory, SIZE).unwrap();
    drop(t.link());
}

/// The threads whose names begin with `name`.
fn threads(name: &str) -> usize {
    let tasks = std::fs::read_dir("/proc/self/task").unwrap();
    // One that ends meanwhile has no name.
    let comm = |path: PathBuf| std::fs::read_to_string(path.join("comm")).unwrap_or_default();
    tasks.filter(|t| comm(t.as_ref().unwrap().path()).starts_with(name)).count()
}

fn open_fds() -> usize {
    // The process's own, which come with the first region.
    guard::sees_holes();
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

/// Waits until so many descriptors are open: a peer sees its connection end before all of it is closed.
fn until_closed(fds: usize) {
    let end = Instant::now() + SOON;
    while open_fds() != fds && Instant::now() < end {
        std::thread::sleep(Duration::from_millis(5));
    }
    assert_eq!(open_fds(), fds);
}

#[test]
fn mutated_messages() {
    let mut t = Test::new();
    t.write_rings();
    let fds = open_fds();
    let mut random = Random(0x5eed_0001);
    let mut sent = 0;
    while sent < 100_000 {
        let mut messages = Test::good();
        for _ in 0..1 + random.below(3) {
            let i = random.below(messages.len() as u64) as usize;
            match random.below(10) {
                0 => drop(messages.remove(i)),
                1 => messages.insert(i, messages[i].clone()),
                2 => messages[i].1 = random.below(4) as u8,
                3 => messages[i].0.truncate(random.below(129) as usize),
                4 => messages[i].0.push(0),
                5 => messages[i].0[0] = random.below(10) as u8,
                6 => messages[i].0.iter_mut().for_each(|b| *b = random.word() as u8),
                _ => {
                    let (at, value) = (random.below(20) as usize, random.word() as u8);
                    if let Some(b) = messages[i].0.get_mut(at) {
                        *b = value;
                    }
                }
            }
            if messages.is_empty() {
                break;
            }
        }
        t.s.forgive("p0");
        let peer = Peer::new(&t);
        for (m, fd) in &messages {
            sent += 1;
            if m.is_empty() || !peer.send(m, &t.fds(*fd)) {
                break;
            }
        }
        // Answered when the connections so far have had their turn: not too many are half-open.
        assert!(!t.s.remove("no such port"));
        if sent % 50 == 0 {
            t.check_honest();
        }
        while t.events.try_recv().is_ok() {}
    }
    // The server still answers, and has closed everything.
    drop(t.link());
    assert_eq!(t.down(), "the peer closed the connection");
    t.check_honest();
    until_closed(fds);
}

#[test]
fn mutated_descriptors() {
    let mut t = Test::new();
    let fds = open_fds();
    let mut random = Random(0x5eed_0002);
    let (mut peer, mut link) = t.link();
    let mut tx = std::mem::take(&mut link.tx).handles(1);
    let (mut written, mut links, mut frames) = (0, 0, 0u64);
    let (mut s2m, mut m2s) = (0u16, 0u16);
    let mut burst = Burst::default();
    let wild = |random: &mut Random, sane: u64| if random.below(400) == 0 { random.word() } else { sane };
    // On a busy machine, much more may be written before the server gets to look.
    while written < 100_000 || written < 10_000_000 && (links <= 50 || frames <= 1_000) {
        for ring in [S2M, M2S] {
            let head = if ring == S2M { &mut s2m } else { &mut m2s };
            let n = random.below(40);
            for _ in 0..n {
                let flags = random.below(8) / 7;
                let flags = wild(&mut random, flags) as u16;
                let region = wild(&mut random, 0) as u16;
                let len = random.below(3000);
                let len = wild(&mut random, len) as u32;
                let offset = BUFFERS + random.below(SIZE - BUFFERS - 3000);
                let offset = wild(&mut random, offset) as u32;
                t.desc(ring, (*head).into(), flags, region, len, offset);
                *head = head.wrapping_add(1);
                written += 1;
            }
            // A chain ends, mostly.
            if n != 0 && random.below(20) != 0 {
                t.desc(ring, head.wrapping_sub(1).into(), 0, 0, 60, BUFFERS as u32);
            }
            let jump = wild(&mut random, 0) as u16;
            t.set_head(ring, head.wrapping_add(jump));
        }
        for _ in 0..3 {
            burst.clear();
            link.rx[0].receive(&mut burst);
            for i in 0..burst.len() as u16 {
                assert!((1..=9216).contains(&burst.frame(i).len()));
            }
            let all: Vec<u16> = (0..burst.len() as u16).collect();
            let before = burst.tx_drops.total();
            let sent = tx[0].send(&mut burst, &all);
            assert_eq!(sent.packets + burst.tx_drops.total() - before, all.len() as u32);
            frames += u64::from(sent.packets);
            link.rx[0].release(&mut burst);
        }
        if !matches!(t.s.state("p0"), Some(LinkState::Up(_))) {
            links += 1;
            drop((peer, link, tx));
            (peer, link) = t.link();
            tx = std::mem::take(&mut link.tx).handles(1);
            (s2m, m2s) = (0, 0);
        }
    }
    assert!(links > 50 && frames > 1_000, "{links} {frames}");
    drop((peer, link, tx));
    until_closed(fds);
    t.check_honest();
}

/// Waits for it.
fn until(what: &str, done: impl Fn() -> bool) {
    let end = Instant::now() + SOON;
    while !done() {
        assert!(Instant::now() < end, "{what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

impl Test {
    /// [`Test::link`], with all buffers of the ring to the hostile peer on offer.
    fn open_link(&self) -> (Peer, Link) {
        let link = self.link();
        self.set_head(M2S, 256);
        link
    }

    /// Sends a frame from the honest link.
    fn send(&mut self, tx: &mut dyn Tx) {
        let (client, link) = &mut self.honest;
        assert!(client.tx[0].send(&[1; 60]));
        let mut burst = Burst::default();
        link.rx[0].receive(&mut burst);
        assert_eq!(tx.send(&mut burst, &[0]).packets, 1);
        link.rx[0].release(&mut burst);
    }

    fn mask(&self, ring: u64, masked: bool) {
        self.memory.write_all_at(&[masked.into()], ring + 4).unwrap();
    }

    /// How often the hostile peer was woken, when it was within `ms`.
    fn woken(&self, ms: i64) -> Option<u64> {
        let mut fds = [PollFd::new(&self.event, PollFlags::IN)];
        if poll(&mut fds, Some(&Timespec { tv_sec: ms / 1000, tv_nsec: ms % 1000 * 1_000_000 })).unwrap() == 0 {
            return None;
        }
        let mut count = [0; 8];
        rustix::io::read(&self.event, &mut count).unwrap();
        Some(u64::from_ne_bytes(count))
    }

    /// Makes the hostile peer's eventfd one that a write to hangs in.
    fn fill(&self) {
        // A thread of the link before may still write to it.
        fcntl_setfl(&self.event, OFlags::NONBLOCK).unwrap();
        while rustix::io::write(&self.event, &(u64::MAX - 1).to_ne_bytes()).is_err() {
            let _ = rustix::io::read(&self.event, &mut [0; 8]);
        }
        fcntl_setfl(&self.event, OFlags::empty()).unwrap();
    }
}

#[test]
fn a_sleeping_peer_is_woken() {
    let mut t = Test::new();
    // It blocks in a read, for which its eventfd has to stay as it made it.
    fcntl_setfl(&t.event, OFlags::empty()).unwrap();
    let (_peer, link) = t.open_link();
    let mut tx = link.tx.handles(1);
    let event = t.event.try_clone().unwrap();
    let (woken, wakes) = channel();
    let sleeper = std::thread::spawn(move || {
        let mut count = [0; 8];
        while rustix::io::read(&event, &mut count).is_ok() && u64::from_ne_bytes(count) == 1 {
            woken.send(()).unwrap();
        }
    });
    for _ in 0..100 {
        t.send(&mut *tx[0]);
        wakes.recv_timeout(SOON).unwrap();
    }
    assert_eq!(threads("memif-kick"), 1);
    rustix::io::write(&t.event, &2u64.to_ne_bytes()).unwrap();
    sleeper.join().unwrap();
}

#[test]
fn a_peer_that_polls_is_not_woken() {
    let mut t = Test::new();
    t.mask(M2S, true);
    let (_peer, link) = t.open_link();
    t.mask(M2S, true);
    let mut tx = link.tx.handles(1);
    // It was seen asleep at most before its flags were written.
    let _ = t.woken(250);
    let threads_before = threads("memif-kick");
    (0..100).for_each(|_| t.send(&mut *tx[0]));
    assert_eq!(t.woken(250), None);
    assert_eq!((threads_before, threads("memif-kick")), (0, 0));
}

#[test]
fn a_peer_that_falls_asleep_unnoticed_is_woken_soon() {
    let mut t = Test::new();
    let (_peer, link) = t.open_link();
    t.mask(M2S, true);
    let mut tx = link.tx.handles(1);
    // Other load may delay some.
    let mut fastest = SOON;
    for _ in 0..5 {
        t.send(&mut *tx[0]);
        assert_eq!(t.woken(250), None);
        t.mask(M2S, false);
        let start = Instant::now();
        assert_eq!(t.woken(20_000), Some(1));
        fastest = fastest.min(start.elapsed());
        // Once is enough.
        assert_eq!(t.woken(250), None);
        t.mask(M2S, true);
    }
    assert!(fastest < Duration::from_millis(150), "{fastest:?}");
}

#[test]
fn an_interrupt_that_is_no_eventfd_is_named() {
    let mut t = Test::new();
    let (_read, write) = rustix::pipe::pipe().unwrap();
    let socket = Peer::new(&t).0;
    for fd in [write.as_fd(), t.memory.as_fd(), socket.as_fd()] {
        let peer = Peer::new(&t);
        let good = Test::good();
        assert!(peer.send(&good[0].0, &[]) && peer.send(&good[1].0, &t.fds(1)) && peer.send(&good[2].0, &[fd]));
        let reason = peer.reason();
        assert!(reason == "a ring's interrupt is not an eventfd", "{reason}");
    }
    t.check_honest();
}

/// Whether a thread that wakes a peer hangs in write(2), system call 1 of x86-64.
fn kicker_hangs() -> bool {
    let read = |path: PathBuf| std::fs::read_to_string(path).unwrap_or_default();
    std::fs::read_dir("/proc/self/task").unwrap().map(|t| t.unwrap().path()).any(|t| {
        read(t.join("comm")).starts_with("memif-kick") && read(t.join("syscall")).split(' ').next() == Some("1")
    })
}

#[test]
fn an_eventfd_that_blocks_hurts_its_own_link_only() {
    let mut t = Test::new();
    let (peer, link) = t.open_link();
    let mut tx = link.tx.handles(1);
    // Another peer that sleeps.
    let memif = Memif {
        socket: SocketName::Path(t.path()),
        access: Access::default(),
        id: 2,
        role: Role::Server,
        secret: None,
        ring_size: 1024,
        buffer_size: 2048,
        queues: 1,
    };
    t.s.add(PortSpec { name: "p2".into(), memif, max_frame: 9216 }).unwrap();
    let memory = File::from(memfd(SIZE));
    let mut rings = vec![0; BUFFERS as usize];
    t.memory.read_exact_at(&mut rings, 0).unwrap();
    memory.write_all_at(&rings, 0).unwrap();
    let event = eventfd(0, EventfdFlags::CLOEXEC).unwrap();
    let other_peer = Peer::new(&t);
    for (m, fd) in with(0, init(0x200, 2, 0, &[0; 24]), 0) {
        let fds = [memory.as_fd(), event.as_fd()];
        assert!(other_peer.send(&m, if fd == 0 { &[] } else { &fds[fd as usize - 1..][..1] }));
    }
    let Event::Up { port, link: other } = t.events.recv_timeout(SOON).unwrap() else { panic!() };
    assert_eq!(port, "p2");
    let mut other_tx = other.tx.handles(1);

    t.fill();
    t.send(&mut *tx[0]);
    until("the kicker hangs", kicker_hangs);
    // Were this to write to the eventfd, it would never return.
    for _ in 0..200 {
        t.send(&mut *tx[0]);
        t.send(&mut *other_tx[0]);
        let mut fds = [PollFd::new(&event, PollFlags::IN)];
        assert_eq!(poll(&mut fds, Some(&Timespec { tv_sec: 5, tv_nsec: 0 })), Ok(1));
        rustix::io::read(&event, &mut [0; 8]).unwrap();
    }
    assert!(kicker_hangs());
    assert_eq!(threads("memif-kick"), 2);
    t.check_honest();

    // It reads after all: what was held up comes.
    assert_eq!(t.woken(0), Some(u64::MAX - 1));
    assert!(t.woken(5_000).is_some());
    // And hangs again, while its link ends.
    t.fill();
    t.send(&mut *tx[0]);
    until("the kicker hangs", kicker_hangs);
    drop(peer);
    assert_eq!(t.down(), "the peer closed the connection");
    until("the kicker ends", || threads("memif-kick") == 1);
    t.send(&mut *other_tx[0]);
    let mut fds = [PollFd::new(&event, PollFlags::IN)];
    assert_eq!(poll(&mut fds, Some(&Timespec { tv_sec: 5, tv_nsec: 0 })), Ok(1));
    t.check_honest();
}

#[test]
fn links_that_hang_leave_nothing_behind() {
    let mut t = Test::new();
    let before = (open_fds(), threads(""), mappings());
    for i in 0..200 {
        let (peer, link) = t.open_link();
        let mut tx = link.tx.handles(1);
        t.fill();
        t.send(&mut *tx[0]);
        // Some end before their thread hangs, or has even begun.
        match i % 4 {
            0 => {}
            1 => std::thread::sleep(Duration::from_micros(50)),
            _ => until("the kicker hangs", kicker_hangs),
        }
        drop(peer);
        t.down();
    }
    until("threads end", || threads("memif-kick") == 0 && threads("") <= before.1);
    until("descriptors are closed", || open_fds() == before.0);
    // Stacks of threads that have ended are kept for the next ones, a few.
    assert!(mappings() < before.2 + 50, "{} {}", before.2, mappings());
    // Also when all ends at once.
    let (_peer, link) = t.open_link();
    t.fill();
    t.send(&mut *link.tx.handles(1)[0]);
    until("the kicker hangs", kicker_hangs);
    drop(t);
    until("the kicker ends", || threads("memif") == 0);
}

fn mappings() -> usize {
    std::fs::read_to_string("/proc/self/maps").unwrap().lines().count()
}
