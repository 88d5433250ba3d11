//! What a peer passes can take for ever to close. Nobody waits for that but who has to close it.
//!
//! These tests are alone also because others start programs, which close what they have of this one's files.

use crate::harness::*;
use dray_config::{Role, SocketName};
use dray_testing::fuse::{self, Fuse};
use dray_vhost::memif::proto::{MODE_ETHERNET, Message, SECRET_SIZE, VERSION};
use dray_vhost::vhost_user::frontend::message::{self, Connection, Meeting, request};
use dray_vhost::vhost_user::frontend::{Frontend, Options};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::sockopt::set_socket_linger;
use rustix::net::{
    AddressFamily, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags, SocketType,
    connect, sendmsg, socket_with,
};
use std::fs::File;
use std::io::{IoSlice, Write};
use std::mem::MaybeUninit;
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::time::{Duration, Instant};

/// How long a socket lingers; and what is below that whatever the machine does meanwhile.
const LINGER: Duration = Duration::from_secs(40);
const SOON: Duration = Duration::from_secs(20);

/// A hostile and an honest peer's port of each kind. The honest ones are in a bridge.
fn config() -> String {
    let vm = |name| format!("[[port]]\nname = {name:?}\nkind = \"vhost-user\"\nsocket = \"DIR/{name}.sock\"\n");
    let vms = ["bad-vm", "good-vm"].map(|name| vm(name) + "role = \"server\"\n").concat();
    memif_ports(&["bad", "good"]) + &vms + &bridge("blue", &["good", "good-vm"])
}

/// A file whose closing hangs, if told so. Must be dropped before a drayd that can hang in it.
struct Hanging {
    fuse: Fuse,
    hangs: Arc<AtomicBool>,
    /// Closes that wait.
    waiting: Arc<AtomicUsize>,
}

impl Hanging {
    /// `None` where the kernel has no FUSE.
    fn mount(test: &Test) -> Option<Hanging> {
        if let Err(why) = Fuse::check() {
            eprintln!("SKIPPED: {why}");
            return None;
        }
        let mount = test.path("mount");
        std::fs::create_dir(&mount).unwrap();
        let (hangs, waiting): (Arc<AtomicBool>, Arc<AtomicUsize>) = Default::default();
        let (does_hang, hung) = (hangs.clone(), waiting.clone());
        let answers = move |request: fuse::Request| {
            let hangs = request.operation == fuse::FLUSH && does_hang.load(SeqCst);
            hung.fetch_add(hangs.into(), SeqCst);
            !hangs
        };
        Some(Hanging { fuse: Fuse::mount(&mount, answers).unwrap(), hangs, waiting })
    }

    /// Sends the file with `send` to a drayd that is stopped meanwhile, and waits until somebody hangs in closing it, and nobody else is
    /// still closing something. This process has closed its own by then.
    fn pass<T>(&self, drayd: &mut Drayd, send: impl FnOnce(BorrowedFd<'_>) -> T) -> T {
        let (before, closing_before) = (self.waiting.load(SeqCst), closing(drayd));
        self.hangs.store(false, SeqCst);
        let file = File::open(self.fuse.file()).unwrap();
        drayd.freeze();
        let sent = send(file.as_fd());
        drop(file);
        self.hangs.store(true, SeqCst);
        drayd.process().signal(libc::SIGCONT);
        wait_for("somebody to hang", || (self.waiting.load(SeqCst) > before).then_some(()));
        wait_for("one to be left", || (closing(drayd) == closing_before + 1).then_some(()));
        sent
    }
}

/// How many processes close something for it.
fn closing(drayd: &Drayd) -> usize {
    let names = std::fs::read_dir("/proc").unwrap().flatten();
    let parents: Vec<(u32, u32)> = names
        .filter_map(|name| name.file_name().into_string().ok())
        .filter_map(|pid| Some((pid.parse().ok()?, stat(&pid)?.get(1)?.parse().ok()?)))
        .collect();
    let children = |of: u32| parents.iter().filter(move |(_, parent)| *parent == of).map(|(pid, _)| *pid);
    // One waits for what is to be closed next.
    children(drayd.pid()).flat_map(children).count().saturating_sub(1)
}

/// A memif peer that does what it likes.
struct Peer(OwnedFd);

impl Peer {
    fn connect(test: &Test) -> Peer {
        let fd = socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).unwrap();
        let path = test.path("memif.sock");
        wait_for("a place", || connect(&fd, &SocketAddrUnix::new(path.as_path()).unwrap()).ok());
        Peer(fd)
    }

    fn send(&self, message: &Message, fds: &[BorrowedFd<'_>]) {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(253))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !fds.is_empty() {
            assert!(control.push(SendAncillaryMessage::ScmRights(fds)));
        }
        // The other end may be gone already.
        let _ = sendmsg(&self.0, &[IoSlice::new(&message.encode())], &mut control, SendFlags::NOSIGNAL);
    }

    fn wait_end(&self) {
        wait_for("the connection's end", || {
            let mut fds = [PollFd::new(&self.0, PollFlags::HUP)];
            poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })).unwrap();
            fds[0].revents().contains(PollFlags::HUP).then_some(())
        });
    }
}

const INIT: fn() -> Message =
    || Message::Init { version: VERSION, id: 0, mode: MODE_ETHERNET, secret: [0; SECRET_SIZE], name: "hostile".into() };
const REGION: Message = Message::AddRegion { index: 0, size: 4096 };
const RING: Message = Message::AddRing { s2m: true, index: 0, region: 0, offset: 0, log2_size: 10, private_header: 0 };

fn socket(test: &Test, vm: &str) -> SocketName {
    SocketName::Path(test.path(&format!("{vm}.sock")))
}

/// A front end of `bad-vm` that does what it likes.
fn bad_vm(test: &Test) -> Connection {
    Meeting::new(&socket(test, "bad-vm"), Role::Client).unwrap().connection(PATIENCE).unwrap()
}

/// A table of one region.
fn send_table(to: &Connection, fds: &[BorrowedFd<'_>]) {
    let table = [1, 0x10_0000, 0x1000, 0x7f00_0000_0000, 0].map(u64::to_ne_bytes).concat();
    to.send(request::SET_MEM_TABLE, message::VERSION, &table, fds).unwrap();
}

/// All others connect, and the daemon answers, soon.
fn others_go_on(test: &Test, drayd: &Drayd) {
    let begin = Instant::now();
    drayd.status();
    assert_eq!(drayd.ports().len(), 4);
    let _client = test.memif(1);
    let options = Options { role: Role::Client, timeout: PATIENCE, ..Options::default() };
    let _vm = Frontend::connect(&socket(test, "good-vm"), &options).unwrap();
    drayd.wait_link("good", "up");
    drayd.wait_link("good-vm", "up");
    assert!(begin.elapsed() < SOON, "{:?}", begin.elapsed());
}

fn delete_bad_ports(drayd: &Drayd) {
    let begin = Instant::now();
    drayd.dray("port del bad");
    drayd.dray("port del bad-vm");
    assert!(begin.elapsed() < SOON, "{:?}", begin.elapsed());
}

#[test]
fn a_file_that_never_closes_hangs_nobody() {
    let Some(test) = Test::alone() else { return };
    let mut drayd = Drayd::start(&test, &config());
    let Some(fuse) = Hanging::mount(&test) else { return };
    let pass = |drayd: &mut Drayd| {
        let peer = fuse.pass(drayd, |file| {
            let peer = Peer::connect(&test);
            peer.send(&INIT(), &[]);
            peer.send(&REGION, &[file]);
            peer
        });
        peer.wait_end();
        let vm = fuse.pass(drayd, |file| {
            let vm = bad_vm(&test);
            send_table(&vm, &[file]);
            vm
        });
        assert!(vm.recv().is_err());
    };
    let why = "a region is not a memfd nor a file on tmpfs or hugetlbfs";
    let stuck = "4 earlier connections left what cannot be closed";

    pass(&mut drayd);
    let port = wait_for("the refusal", || Some(drayd.port("bad")).filter(|port| port.refused > 0));
    assert_eq!(port.reason.as_deref(), Some(why));
    assert!(port.refusal.as_deref().is_some_and(|refusal| refusal.starts_with(why)), "{:?}", port.refusal);
    let reset = format!("reset: {why}");
    wait_for("the reset", || drayd.port("bad-vm").reason.filter(|why| *why == reset));
    others_go_on(&test, &drayd);
    // A few of these, and nobody is taken for these ports: what hangs would never end.
    (0..3).for_each(|_| pass(&mut drayd));
    let (peer, _vm) = (Peer::connect(&test), bad_vm(&test));
    peer.send(&INIT(), &[]);
    wait_for("the port to be closed to all", || drayd.port("bad").refusal.filter(|why| why.starts_with(stuck)));
    wait_for("the other one, too", || drayd.port("bad-vm").reason.filter(|why| why == stuck));
    others_go_on(&test, &drayd);
    assert_eq!(fuse.waiting.load(SeqCst), 8);
    delete_bad_ports(&drayd);

    // It ends, and the next one begins, while the files still hang.
    drayd.crash();
    drayd = Drayd::start(&test, &config());
    others_go_on(&test, &drayd);
    pass(&mut drayd);
    others_go_on(&test, &drayd);
    drayd.conserved();
    drayd.stop();
    drayd = Drayd::start(&test, &config());
    others_go_on(&test, &drayd);
    drayd.conserved();
    drayd.stop();
    assert_eq!(fuse.waiting.load(SeqCst), 10);
}

/// A socket whose closing waits until its other end reads; and that end.
fn lingering() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let ours = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (theirs, _) = listener.accept().unwrap();
    ours.set_nonblocking(true).unwrap();
    while (&ours).write(&[0; 1 << 16]).is_ok() {}
    set_socket_linger(&ours, Some(LINGER)).unwrap();
    (ours, theirs)
}

/// What a peer of each kind sends, with these.
type Send<'a> = &'a dyn Fn(&[BorrowedFd<'_>]) -> (Peer, Connection);

#[test]
fn sockets_that_linger_hold_nobody_up() {
    let Some(test) = Test::alone() else { return };
    let mut drayd = Drayd::start(&test, &config());
    let mut ends = Vec::new();
    // Drayd is stopped while they are sent: the last to close one is not this process.
    let mut stopped = |drayd: &mut Drayd, send: Send<'_>| {
        drayd.freeze();
        let (sockets, others): (Vec<_>, Vec<_>) = (0..24).map(|_| lingering()).unzip();
        ends.extend(others);
        let peers = send(&sockets.iter().map(AsFd::as_fd).collect::<Vec<_>>());
        drop(sockets);
        drayd.process().signal(libc::SIGCONT);
        peers
    };
    let in_messages_that_have_none = |fds: &[BorrowedFd<'_>]| {
        let (peer, vm) = (Peer::connect(&test), bad_vm(&test));
        peer.send(&INIT(), fds);
        vm.send(request::SET_OWNER, message::VERSION, &[], fds).unwrap();
        (peer, vm)
    };
    let instead_of_others = |fds: &[BorrowedFd<'_>]| {
        let (peer, vm) = (Peer::connect(&test), bad_vm(&test));
        peer.send(&INIT(), &[]);
        peer.send(&RING, &fds[..1]);
        vm.send(request::SET_VRING_CALL, message::VERSION, &[0; 8], fds).unwrap();
        (peer, vm)
    };
    let in_masses = |fds: &[BorrowedFd<'_>]| {
        let (peer, vm) = (Peer::connect(&test), bad_vm(&test));
        let many: Vec<BorrowedFd<'_>> = fds.iter().copied().cycle().take(200).collect();
        peer.send(&INIT(), &[]);
        peer.send(&REGION, &many);
        send_table(&vm, &many);
        (peer, vm)
    };
    let unread = |fds: &[BorrowedFd<'_>]| {
        let (peer, vm) = (Peer::connect(&test), bad_vm(&test));
        // Wrong, so that nothing behind it is read.
        peer.send(&Message::Ack, &[]);
        vm.send_raw(&[0xff; 12], &[]).unwrap();
        for fd in fds {
            peer.send(&REGION, &[*fd]);
            send_table(&vm, &[*fd]);
        }
        (peer, vm)
    };
    let kinds: [Send<'_>; 4] = [&in_messages_that_have_none, &instead_of_others, &in_masses, &unread];
    for kind in kinds {
        let (peer, vm) = stopped(&mut drayd, kind);
        let begin = Instant::now();
        peer.wait_end();
        assert!(vm.recv().is_err());
        assert!(begin.elapsed() < SOON, "{:?}", begin.elapsed());
        others_go_on(&test, &drayd);
    }
    wait_for("all to be counted", || {
        let refused = drayd.port("bad").refused + drayd.status().strangers;
        (refused >= 4 && drayd.port("bad-vm").reason?.starts_with("reset: ")).then_some(())
    });
    // Connections that nobody has accepted when their ports go, and when the daemon ends.
    let _last = stopped(&mut drayd, &unread);
    delete_bad_ports(&drayd);
    drayd.conserved();
    drayd.stop();
    drayd = Drayd::start(&test, &config());
    let _last = stopped(&mut drayd, &in_masses);
    let begin = Instant::now();
    drayd.stop();
    assert!(begin.elapsed() < SOON, "{:?}", begin.elapsed());
    drayd = Drayd::start(&test, &config());
    others_go_on(&test, &drayd);
    drayd.conserved();
    drayd.stop();
}
