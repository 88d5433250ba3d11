//! Ports, and front ends that keep to the rules and that don't. No root, no DPDK.

use dray_config::{Access, Role, SocketName, VhostUser};
use dray_switch::Burst;
use dray_testing::memfd;
use dray_vhost::vhost_user::frontend::message::{Connection, Meeting, RegionMessage, RingAddresses};
use dray_vhost::vhost_user::frontend::message::{NEED_REPLY, REPLY, VERSION, request};
use dray_vhost::vhost_user::frontend::{Frontend, Options, feature};
use dray_vhost::vhost_user::{LinkInfo, Port, PortSpec, Status};
use dray_vhost::{Event, Link, Refusal};
use rustix::event::{EventfdFlags, eventfd};
use std::io::Write;
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::sync::{PoisonError, RwLock};
use std::time::{Duration, Instant};

/// Long enough for anything that happens at once.
const SOON: Duration = Duration::from_secs(4);
/// Long enough for a peer to be given up.
const LATER: Duration = Duration::from_secs(12);
const IDLE: &str = "the driver has not started the device";

/// Tests run at the same time, but for the one that counts this process's descriptors.
static ALONE: RwLock<()> = RwLock::new(());

macro_rules! not_alone {
    () => {
        let _guard = ALONE.read().unwrap_or_else(PoisonError::into_inner);
    };
}

/// A port, and where its peer is to be.
struct Test {
    port: Port,
    events: Receiver<Event>,
    role: Role,
    socket: SocketName,
    _dir: tempfile::TempDir,
}

impl Test {
    fn new(role: Role, queues: u16) -> Test {
        let dir = tempfile::tempdir().unwrap();
        let socket = SocketName::Path(dir.path().join("vm/vhost.sock"));
        let (port, events) = open(&socket, role, queues).unwrap();
        Test { port, events, role, socket, _dir: dir }
    }

    fn options(&self) -> Options {
        let role = if self.role == Role::Client { Role::Server } else { Role::Client };
        Options { role, timeout: SOON, ..Options::default() }
    }

    fn frontend(&self, change: impl FnOnce(&mut Options)) -> Frontend {
        let mut options = self.options();
        change(&mut options);
        Frontend::connect(&self.socket, &options).unwrap()
    }

    /// A connection on which nothing was said.
    fn connection(&self) -> (Meeting, Connection) {
        let meeting = Meeting::new(&self.socket, self.options().role).unwrap();
        let connection = meeting.connection(SOON).unwrap();
        (meeting, connection)
    }

    /// A connection on which features and protocol features were negotiated.
    fn negotiated(&self) -> (Meeting, Connection) {
        let (meeting, mut connection) = self.connection();
        negotiate(&mut connection);
        (meeting, connection)
    }

    fn event(&self, timeout: Duration) -> Event {
        self.events.recv_timeout(timeout).expect("something happens")
    }

    fn up(&self) -> Link {
        loop {
            if let Event::Up { port, link } = self.event(SOON) {
                assert_eq!(port, "vm");
                return link;
            }
        }
    }

    /// Waits for the link to be down for a reason that begins so. It doesn't come up.
    fn down(&self, reason: &str) {
        loop {
            match self.event(LATER) {
                Event::Down { reason: r, .. } if r.starts_with(reason) => return,
                Event::Down { .. } | Event::Refused(_) => {}
                Event::Up { .. } => panic!("it comes up"),
            }
        }
    }

    /// Waits for the port's state to be so.
    fn status(&self, what: impl Fn(&Status) -> bool) -> Status {
        let end = Instant::now() + SOON;
        loop {
            let status = self.port.status();
            if what(&status) {
                return status;
            }
            assert!(Instant::now() < end, "{status:#?}");
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

fn open(socket: &SocketName, role: Role, queues: u16) -> Result<(Port, Receiver<Event>), String> {
    let (tx, events) = channel();
    let vhost_user = VhostUser { socket: socket.clone(), access: Access::default(), role, queues };
    let spec = PortSpec { name: "vm".into(), vhost_user, max_frame: 1518 };
    Ok((Port::open(spec, move |e| drop(tx.send(e)))?, events))
}

fn negotiate(connection: &mut Connection) {
    connection.features().unwrap();
    let protocol = connection.protocol_features().unwrap();
    connection.set_protocol_features(protocol).unwrap();
    connection.set_features(feature::VERSION_1 | feature::PROTOCOL_FEATURES).unwrap();
}

fn info(link: &Link) -> &LinkInfo {
    match &link.info {
        dray_vhost::LinkInfo::VhostUser(info) => info,
        _ => panic!("not a vhost-user link"),
    }
}

/// Waits until the back end has closed the connection.
fn closed(connection: &Connection) {
    let end = Instant::now() + LATER;
    while connection.down().is_none() {
        assert!(Instant::now() < end, "the connection stays");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Sends a frame from the driver through the link and back.
fn echo(link: &mut Link, tx: &mut Vec<Box<dyn dray_switch::Tx>>, frontend: &mut Frontend, pair: usize) {
    if tx.is_empty() {
        *tx = std::mem::take(&mut link.tx).handles(1);
    }
    let frame: Vec<u8> = (0..100u8).map(|i| i ^ pair as u8).collect();
    assert!(frontend.tx[pair].send(&frame));
    let mut burst = Burst::default();
    link.rx[pair].receive(&mut burst);
    assert_eq!(burst.len(), 1);
    assert_eq!(tx[0].send(&mut burst, &[0]).packets, 1, "{:?}", burst.tx_drops);
    link.rx[pair].release(&mut burst);
    let mut to = [0; 2048];
    let back: Vec<usize> = frontend.rx.iter_mut().filter_map(|rx| Some(rx.recv(&mut to)?.1)).collect();
    assert_eq!((back, &to[..100]), (vec![100], &frame[..]));
}

fn event_fd() -> OwnedFd {
    eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).unwrap()
}

/// Memory of 1 MiB at guest-physical address 0.
const REGION: RegionMessage = RegionMessage { gpa: 0, size: 1 << 20, uva: 1 << 40, offset: 0 };

/// Where a ring is in it: rings have 64 KiB each.
fn place(ring: u32) -> RingAddresses {
    let at = REGION.uva + (u64::from(ring) << 16);
    RingAddresses { desc: at, avail: at + 4096, used: at + 8192, ..RingAddresses::default() }
}

/// Describes and starts a ring in [`REGION`]. Whether it was taken.
fn describe(c: &Connection, ring: u32, size: u32) -> bool {
    c.set_vring_num(ring, size).is_ok()
        && c.set_vring_addr(ring, &place(ring)).is_ok()
        && c.set_vring_kick(ring, Some(event_fd().as_fd())).is_ok()
}

#[test]
fn frames_go_through_in_both_roles_and_layouts() {
    not_alone!();
    for (role, packed) in [(Role::Client, false), (Role::Client, true), (Role::Server, false), (Role::Server, true)] {
        let test = Test::new(role, 16);
        let mut frontend = test.frontend(|o| o.packed = packed);
        let (mut link, mut tx) = (test.up(), Vec::new());
        let expected = LinkInfo { rx_rings: 1, tx_rings: 1, packed, ring_size: 1024, sealed: true };
        assert_eq!(info(&link), &expected);
        for _ in 0..3000 {
            echo(&mut link, &mut tx, &mut frontend, 0);
        }
        drop(frontend);
        test.down("the peer closed the connection");
        // The queues are still there, and move nothing.
        let mut burst = Burst::default();
        link.rx[0].receive(&mut burst);
        assert!(burst.is_empty());
        burst.push_owned(vec![0; 60]);
        assert_eq!(tx[0].send(&mut burst, &[0]).packets, 0);
    }
}

#[test]
fn what_was_negotiated_is_shown() {
    not_alone!();
    let test = Test::new(Role::Client, 4);
    let mut frontend = test.frontend(|o| (o.queues, o.interrupts) = (4, true));
    let (mut link, mut tx) = (test.up(), Vec::new());
    // All pairs are told of at once.
    assert_eq!((info(&link).rx_rings, info(&link).tx_rings), (4, 4));
    for pair in 0..4 {
        echo(&mut link, &mut tx, &mut frontend, pair);
    }
    let connection = frontend.connection.as_ref().unwrap();
    connection.set_mtu(1400).unwrap();
    let status = test.status(|s| s.rings.len() == 8 && s.rings[0].kicks != 0 && s.rings[1].interrupts != 0);
    assert!(status.connected && status.sealed && !status.logging, "{status:#?}");
    let features = ["VIRTIO_NET_F_MRG_RXBUF", "VHOST_USER_F_PROTOCOL_FEATURES", "VIRTIO_F_VERSION_1"];
    assert_eq!(status.features, features);
    let protocol_features = ["MQ", "LOG_SHMFD", "REPLY_ACK", "NET_MTU", "CONFIGURE_MEM_SLOTS", "STATUS"];
    assert_eq!(status.protocol_features, protocol_features.map(|name| format!("VHOST_USER_PROTOCOL_F_{name}")));
    for (i, ring) in (0..).zip(&status.rings) {
        assert_eq!((ring.index, ring.size, ring.packed, ring.started, ring.enabled), (i, 1024, false, true, true));
    }
    assert_eq!((status.mtu, status.device_status), (Some(1400), 15));
    assert_eq!((status.regions, status.bytes), (1, frontend.regions().next().unwrap().size));
    assert_eq!(connection.status().unwrap(), 15);
    // What can't be an MTU is refused, and nothing else happens.
    assert!(connection.set_mtu(67).is_err());
    assert!(connection.tell(request::NET_SET_MTU, &65536u64.to_ne_bytes(), &[]).is_err());
    assert_eq!(test.port.status().mtu, Some(1400));
    assert!(frontend.tx[0].interrupts(SOON) != 0);
}

/// By what they carry, behind a tag, too: each flow stays on its ring, and every ring has its share.
#[test]
fn flows_are_spread_over_rings() {
    not_alone!();
    const FLOWS: usize = 1000;
    let test = Test::new(Role::Client, 4);
    let mut frontend = test.frontend(|o| o.queues = 4);
    let mut tx = test.up().tx.handles(1);
    for tag in [&[][..], &[0x81, 0, 0, 7]] {
        let frame = |flow: usize| {
            let mut frame = [&[2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2][..], tag, &[8, 0, 0x45, 0, 0, 46, 0, 0]].concat();
            frame.extend([0, 0, 64, 17, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
            frame.extend([(flow as u16).to_be_bytes(), [0, 53]].concat());
            frame.resize(64, 0);
            frame
        };
        let (mut rings, mut counts) = (vec![None; FLOWS], [0; 4]);
        let mut burst = Burst::default();
        for n in 0..3 * FLOWS {
            burst.clear();
            burst.push_owned(frame(n % FLOWS));
            assert_eq!(tx[0].send(&mut burst, &[0]).packets, 1);
            let mut to = [0; 2048];
            let got = (0..4).filter(|&ring| frontend.rx[ring].recv(&mut to).is_some()).collect::<Vec<_>>();
            assert_eq!((got.len(), &to[..64]), (1, &frame(n % FLOWS)[..]));
            assert_eq!(*rings[n % FLOWS].get_or_insert(got[0]), got[0], "a flow stays where it is");
            counts[got[0]] += 1;
        }
        assert!(counts.iter().all(|n| (600..900).contains(n)), "tag {tag:?}: {counts:?}");
    }
}

#[test]
fn rings_stop_and_go_on() {
    not_alone!();
    let test = Test::new(Role::Client, 2);
    let mut frontend = test.frontend(|o| o.queues = 2);
    let (mut link, mut tx) = (test.up(), Vec::new());
    for _ in 0..5 {
        echo(&mut link, &mut tx, &mut frontend, 0);
    }
    assert_eq!(frontend.stop().unwrap(), [5, 5, 0, 0]);
    test.down(IDLE);
    assert!(test.port.status().rings.iter().all(|r| !r.started));
    // Asked again, the answer is the same. Nothing but a kick descriptor starts a ring.
    let connection = frontend.connection.as_ref().unwrap();
    assert_eq!(connection.vring_base(1).unwrap(), 5);
    for ring in 0..4 {
        connection.set_vring_num(ring, 1024).unwrap();
    }
    assert!(test.port.status().rings.iter().all(|r| !r.started));
    // The first pair comes back, where it was; then the other. The old queues serve as well.
    let kick = event_fd();
    for ring in 0..2 {
        connection.set_vring_kick(ring, Some(kick.as_fd())).unwrap();
    }
    assert_eq!(info(&test.up()).rx_rings, 1);
    echo(&mut link, &mut tx, &mut frontend, 0);
    let connection = frontend.connection.as_ref().unwrap();
    for ring in 2..4 {
        connection.set_vring_kick(ring, Some(kick.as_fd())).unwrap();
    }
    let mut again = test.up();
    assert_eq!(info(&again).rx_rings, 2);
    echo(&mut again, &mut Vec::new(), &mut frontend, 1);
    // Enabling and disabling is no event, but works.
    let connection = frontend.connection.as_ref().unwrap();
    connection.set_vring_enable(3, false).unwrap();
    assert!(frontend.tx[1].send(&[0; 60]));
    let mut burst = Burst::default();
    again.rx[1].receive(&mut burst);
    assert!(burst.is_empty());
    frontend.connection.as_ref().unwrap().set_vring_enable(3, true).unwrap();
    again.rx[1].receive(&mut burst);
    assert_eq!(burst.len(), 1);
    again.rx[1].release(&mut burst);
    // A reset of the device stops all.
    frontend.connection.as_ref().unwrap().set_status(0).unwrap();
    test.down(IDLE);
}

#[test]
fn without_protocol_features_rings_are_enabled_from_the_start() {
    not_alone!();
    let test = Test::new(Role::Client, 1);
    let (_meeting, connection) = test.connection();
    // No answer tells when a message was dealt with, so the next that has one is waited for.
    connection.set_mem_table(&[(REGION, memfd(1 << 20).as_fd())]).unwrap();
    assert!(describe(&connection, 0, 256) && describe(&connection, 1, 256));
    assert!(connection.features().is_ok_and(|f| f & feature::VERSION_1 != 0));
    assert!(test.port.status().rings.iter().all(|r| !r.started), "features are not acknowledged");
    connection.set_features(feature::VERSION_1).unwrap();
    let link = test.up();
    assert_eq!((info(&link).rx_rings, info(&link).ring_size), (1, 256));
    // A ring that is elsewhere all of a sudden, and other features: they start anew, where they were.
    connection.set_vring_addr(1, &place(2)).unwrap();
    connection.set_features(feature::VERSION_1 | feature::EVENT_IDX).unwrap();
    connection.features().unwrap();
    let status = test.port.status();
    assert_eq!((status.rings.iter().filter(|r| r.started).count(), status.features.len()), (2, 2));
    assert_eq!(connection.vring_base(1).unwrap(), 0);
    const RESET_OWNER: u32 = 4;
    connection.send(RESET_OWNER, VERSION, &[], &[]).unwrap();
    test.down(IDLE);
}

#[test]
fn a_fault_on_a_ring_resets_the_connection() {
    not_alone!();
    let test = Test::new(Role::Client, 1);
    let frontend = test.frontend(|_| {});
    let mut link = test.up();
    let err = event_fd();
    frontend.connection.as_ref().unwrap().set_vring_err(1, Some(err.as_fd())).unwrap();
    // A descriptor of 64 bytes where there is no memory.
    frontend.tx[0].set_raw(0, [u64::MAX - 100, 64]);
    frontend.tx[0].set_available(0, 0);
    frontend.tx[0].set_index(1);
    let mut burst = Burst::default();
    link.rx[0].receive(&mut burst);
    link.rx[0].release(&mut burst);
    test.down("reset: ring 1: a descriptor names memory outside the regions");
    closed(frontend.connection.as_ref().unwrap());
    assert_eq!(test.port.status().faults.into_iter().collect::<Vec<_>>(), [("bad_descriptor", 1)]);
    assert_eq!(rustix::io::read(&err, &mut [0u8; 8]), Ok(8));
    drop(frontend);
    let mut frontend = test.frontend(|_| {});
    echo(&mut test.up(), &mut Vec::new(), &mut frontend, 0);
}

#[test]
fn memory_is_replaced_under_running_rings() {
    not_alone!();
    let test = Test::new(Role::Client, 1);
    let frames = std::sync::Arc::new(memfd(1 << 20));
    let mut frontend = test.frontend(|o| o.frames = Some(frames.clone()));
    let (mut link, mut tx) = (test.up(), Vec::new());
    let regions: Vec<RegionMessage> = frontend.regions().copied().collect();
    assert_eq!((regions.len(), test.port.status().regions), (2, 2));
    for _ in 0..100 {
        let connection = frontend.connection.as_ref().unwrap();
        connection.rem_mem_reg(&regions[1]).unwrap();
        // QEMU names every region once for each pair of rings.
        connection.rem_mem_reg(&regions[1]).unwrap();
        echo(&mut link, &mut tx, &mut frontend, 0);
        let connection = frontend.connection.as_ref().unwrap();
        (0..2).for_each(|_| connection.add_mem_reg(&regions[1], frames.as_fd()).unwrap());
        test.status(|s| s.regions == 2);
        echo(&mut link, &mut tx, &mut frontend, 0);
    }
    // The rings' own region: they stop without being told, and start when there is memory for them.
    let connection = frontend.connection.as_ref().unwrap();
    connection.rem_mem_reg(&regions[0]).unwrap();
    test.down(IDLE);
    let new = memfd(regions[0].size);
    connection.set_mem_table(&[(regions[0], new.as_fd())]).unwrap();
    let link = test.up();
    assert!(!info(&link).sealed || test.port.status().sealed);
    assert_eq!(test.port.status().regions, 1);
}

#[test]
fn a_log_covers_what_is_written_while_it_is_on() {
    not_alone!();
    let test = Test::new(Role::Client, 1);
    let mut frontend = test.frontend(|_| {});
    let (mut link, mut tx) = (test.up(), Vec::new());
    // Frames take one buffer each, of half a page.
    let mut four = |frontend: &mut Frontend| (0..4).for_each(|_| echo(&mut link, &mut tx, frontend, 0));
    four(&mut frontend);
    let first = frontend.log().unwrap();
    assert!(test.status(|s| s.logging).features.contains(&"VHOST_F_LOG_ALL"));
    four(&mut frontend);
    let buffer = |slot| frontend.rx[0].address(slot);
    assert!(!first.is_dirty(buffer(1)).unwrap() && first.is_dirty(buffer(6)).unwrap());
    let region = *frontend.regions().next().unwrap();
    for ring in 0..2 {
        assert!(first.is_dirty(frontend.ring_addresses(ring).used - region.uva + region.gpa).unwrap());
    }
    // Another log takes over, as when memory grows.
    let second = frontend.log().unwrap();
    four(&mut frontend);
    let buffer = |slot| frontend.rx[0].address(slot);
    assert!(!first.is_dirty(buffer(10)).unwrap() && second.is_dirty(buffer(10)).unwrap());
    // And it ends.
    frontend.connection.as_ref().unwrap().set_features(frontend.features).unwrap();
    test.status(|s| !s.logging);
    four(&mut frontend);
    assert!(!second.is_dirty(frontend.rx[0].address(14)).unwrap());
    assert!(test.events.try_recv().is_err(), "rings did not stop for it");
}

#[test]
fn a_client_comes_back() {
    not_alone!();
    let test = Test::new(Role::Client, 1);
    test.down("connect ");
    for _ in 0..3 {
        std::thread::sleep(Duration::from_millis(700));
        let frontend = test.frontend(|_| {});
        test.up();
        drop(frontend);
        test.down("the peer closed the connection");
        test.down("connect ");
    }
    // The same reason is not told twice.
    assert_eq!(test.events.recv_timeout(Duration::from_millis(1200)).map(drop), Err(RecvTimeoutError::Timeout));
}

#[test]
fn a_server_s_socket_is_replaced_only_if_stale() {
    not_alone!();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("vhost.sock");
    let socket = SocketName::Path(path.clone());
    drop(UnixListener::bind(&path).unwrap());
    let (port, _events) = open(&socket, Role::Server, 1).unwrap();
    assert!(open(&socket, Role::Server, 1).err().unwrap().contains("a running process is using it"));
    drop(port);
    assert!(!path.exists());
    std::fs::write(&path, "mine").unwrap();
    assert!(open(&socket, Role::Server, 1).err().unwrap().contains("not a socket"));
    assert_eq!(std::fs::read(&path).unwrap(), b"mine");
}

#[test]
fn a_server_has_one_peer_at_a_time() {
    not_alone!();
    let test = Test::new(Role::Server, 1);
    let mut frontend = test.frontend(|_| {});
    let (mut link, mut tx) = (test.up(), Vec::new());
    for _ in 0..3 {
        let second = Meeting::new(&test.socket, Role::Client).unwrap().connection(SOON).unwrap();
        closed(&second);
        // It has a name.
        let Event::Refused(Refusal { port, reason, peer, .. }) = test.event(SOON) else {
            panic!("something else happened")
        };
        assert_eq!((port.as_deref(), &*reason), (Some("vm"), "another front end is connected"));
        assert!(peer.unwrap().starts_with(&format!("pid {}, uid ", std::process::id())));
        echo(&mut link, &mut tx, &mut frontend, 0);
    }
    drop(frontend);
    let mut frontend = test.frontend(|_| {});
    test.down("the peer closed the connection");
    echo(&mut test.up(), &mut Vec::new(), &mut frontend, 0);
}

#[test]
fn who_comes_and_goes_in_a_loop_waits() {
    not_alone!();
    let test = Test::new(Role::Server, 1);
    // The last of the connections before it was served already: each is told of.
    let served = || {
        let Event::Down { reason, .. } = test.event(SOON) else { panic!("something else happened") };
        reason == "the driver has not started the device"
    };
    let (begin, mut connections) = (Instant::now(), 0);
    while begin.elapsed() < Duration::from_millis(1200) {
        let connection = test.connection();
        while !served() {}
        drop(connection);
        connections += 1;
    }
    // 4 at once, and one each after 50, 100, 200, 400 and 800 ms.
    assert!((5..12).contains(&connections), "{connections}");
}

#[test]
fn a_ring_may_be_enabled_before_features_are_acknowledged() {
    not_alone!();
    let test = Test::new(Role::Client, 1);
    let (_meeting, mut connection) = test.connection();
    connection.set_vring_enable(0, true).unwrap();
    connection.set_vring_enable(1, true).unwrap();
    negotiate(&mut connection);
    connection.set_vring_num(0, 256).unwrap();
    assert!(test.status(|s| !s.rings.is_empty()).rings[0].enabled);
}

#[test]
fn what_is_not_offered_is_refused() {
    not_alone!();
    let test = Test::new(Role::Client, 1);
    // SEND_RARP, SET_BACKEND_REQ_FD, GET_CONFIG, POSTCOPY_ADVISE, GET_INFLIGHT_FD, RESET_DEVICE, VRING_KICK, GET_SHARED_OBJECT,
    // SET_DEVICE_STATE_FD, GET_SHMEM_CONFIG, and what nobody knows.
    let requests = [19, 21, 24, 28, 31, 34, 35, 41, 42, 44, 45, 0, 1000];
    let (_meeting, connection) = test.negotiated();
    let event = event_fd();
    for number in requests {
        let fds: &[BorrowedFd<'_>] = if [21, 42].contains(&number) { &[event.as_fd()] } else { &[] };
        connection.send(number, VERSION | NEED_REPLY, &[0; 16], fds).unwrap();
        let reply = connection.recv().unwrap();
        assert_eq!(
            (reply.request, reply.flags, &reply.payload[..]),
            (number, VERSION | REPLY, &1u64.to_ne_bytes()[..])
        );
    }
    assert_eq!(connection.queue_num().unwrap(), 1);
    assert_eq!(test.port.status().faults.len(), 0);
    // Who does not ask goes on as if it were there: that must not be.
    connection.send(24, VERSION, &[0; 16], &[]).unwrap();
    test.down("reset: the front end asks for GET_CONFIG, which was not offered");
    closed(&connection);
    assert_eq!(test.port.status().faults.into_iter().collect::<Vec<_>>(), [("bad_message", 1)]);
}

#[test]
fn messages_come_byte_by_byte() {
    not_alone!();
    let test = Test::new(Role::Client, 1);
    let (_meeting, connection) = test.connection();
    let bytes = [request::GET_FEATURES, VERSION, 0].map(u32::to_ne_bytes).concat();
    let enable = [request::SET_VRING_ENABLE, VERSION, 8, 0, 1].map(u32::to_ne_bytes).concat();
    for byte in bytes.iter().chain(&enable).chain(&bytes) {
        connection.send_raw(&[*byte], &[]).unwrap();
        std::thread::sleep(Duration::from_millis(1));
    }
    for _ in 0..2 {
        assert_eq!(connection.recv().unwrap().request, request::GET_FEATURES);
    }
    // With descriptors on the first byte, the header can't be looked at as a whole. That is given up, not waited for for ever.
    connection.send_raw(&bytes[..1], &[event_fd().as_fd()]).unwrap();
    connection.send_raw(&bytes[1..], &[]).unwrap();
    test.down("reset: the peer sent half a message");
    closed(&connection);
}

#[test]
fn a_peer_that_never_reads_is_given_up() {
    not_alone!();
    let test = Test::new(Role::Client, 1);
    let (_meeting, connection) = test.connection();
    while connection.send(request::GET_FEATURES, VERSION, &[], &[]).is_ok() {}
    test.down("reset: the peer does not read its answers");
}

#[test]
fn dropping_a_port_takes_no_time_whatever_its_peer_does() {
    not_alone!();
    let begin = Instant::now();
    // Nobody there; a peer that says nothing, half a message, or too much.
    drop(Test::new(Role::Client, 1));
    drop(Test::new(Role::Server, 1));
    for messages in [0, 1, 10_000] {
        let test = Test::new(Role::Client, 1);
        let connection = Meeting::new(&test.socket, Role::Server).unwrap();
        let connection = connection.connection(Duration::from_millis(100)).unwrap();
        if messages == 1 {
            connection.send_raw(&[1, 0, 0], &[]).unwrap();
        }
        // Until nobody reads them.
        let _ = (0..messages).try_for_each(|_| connection.send(request::GET_FEATURES, VERSION, &[], &[]));
        std::thread::sleep(Duration::from_millis(50));
        drop(test.port);
        closed(&connection);
    }
    assert!(begin.elapsed() < SOON, "{:?}", begin.elapsed());
}

/// Rings whose driver's eventfd blocks whoever writes to it.
fn blocked() -> (Test, Frontend, OwnedFd) {
    let test = Test::new(Role::Client, 1);
    let frontend = test.frontend(|_| {});
    test.up();
    let full = eventfd(0, EventfdFlags::CLOEXEC).unwrap();
    rustix::io::write(&full, &(u64::MAX - 1).to_ne_bytes()).unwrap();
    // A running ring with a new descriptor is interrupted at once.
    frontend.connection.as_ref().unwrap().set_vring_call(0, Some(full.as_fd())).unwrap();
    (test, frontend, full)
}

#[test]
fn an_interrupt_that_blocks_costs_its_own_link_only() {
    not_alone!();
    let (test, frontend, full) = blocked();
    test.down("reset: the interrupt of ring 0 is full, and blocks");
    assert_eq!(test.port.status().faults["bad_message"], 1);
    closed(frontend.connection.as_ref().unwrap());
    drop((frontend, full));
    // And the port ends while it hangs, too.
    let (test, frontend, full) = blocked();
    let begin = Instant::now();
    drop(test.port);
    assert!(begin.elapsed() < Duration::from_millis(900), "{:?}", begin.elapsed());
    drop((frontend, full));
}

#[test]
fn a_peer_that_is_always_wrong_is_met_ever_more_rarely() {
    not_alone!();
    let test = Test::new(Role::Client, 1);
    let meeting = Meeting::new(&test.socket, Role::Server).unwrap();
    let (begin, mut met) = (Instant::now(), 0);
    while begin.elapsed() < Duration::from_secs(4) {
        if let Ok(connection) = meeting.connection(Duration::from_millis(100)) {
            connection.send_raw(&[0xff; 12], &[]).unwrap();
            closed(&connection);
            met += 1;
        }
    }
    // 50, 100, 200, 400, 800, 1000 ms and so on.
    assert!((4..=8).contains(&met), "{met}");
    assert_eq!(test.status(|s| !s.connected).faults["bad_message"], met);
}

type Wrong = (&'static str, Box<dyn Fn(&Connection)>);

/// What is wrong with a connection on which features are negotiated, and is a fault: it costs the connection.
fn wrongs() -> Vec<Wrong> {
    fn wrong(what: &'static str, how: impl Fn(&Connection) + 'static) -> Wrong {
        (what, Box::new(how))
    }
    fn send(c: &Connection, number: u32, payload: &[u8], fds: &[BorrowedFd<'_>]) {
        let _ = c.send(number, VERSION | NEED_REPLY, payload, fds);
    }
    fn region(offset: u64, size: u64, gpa: u64, uva: u64) -> impl Fn(&Connection) {
        move |c| {
            let region = RegionMessage { gpa, size, uva, offset };
            assert!(c.add_mem_reg(&region, memfd(1 << 20).as_fd()).is_err());
        }
    }
    vec![
        wrong("a version that isn't 1", |c| drop(c.send(request::GET_FEATURES, 2, &[], &[]))),
        wrong("a reply", |c| drop(c.send(request::GET_FEATURES, VERSION | REPLY, &[], &[]))),
        wrong("flags that aren't", |c| drop(c.send(request::GET_FEATURES, VERSION | 0x100, &[], &[]))),
        wrong("a message of 4 GiB", |c| drop(c.send_raw(&[[1, 0, 0, 0], [1, 0, 0, 0], [0xff; 4]].concat(), &[]))),
        wrong("a body where there is none", |c| send(c, request::GET_FEATURES, &[0; 8], &[])),
        wrong("a body that is too short", |c| send(c, request::SET_VRING_NUM, &[0; 4], &[])),
        wrong("a body of an own message that is too short", |c| send(c, request::SET_STATUS, &[0; 4], &[])),
        wrong("a descriptor where there is none", |c| send(c, request::GET_FEATURES, &[], &[event_fd().as_fd()])),
        wrong("33 descriptors", |c| send(c, request::SET_MEM_TABLE, &[0; 40], &[event_fd().as_fd(); 33])),
        wrong("253 descriptors", |c| send(c, request::SET_MEM_TABLE, &[0; 40], &[event_fd().as_fd(); 253])),
        wrong("descriptors in the middle of a body", |c| {
            let bytes = [request::SET_VRING_NUM, VERSION, 8, 0, 256].map(u32::to_ne_bytes).concat();
            c.send_raw(&bytes[..13], &[]).unwrap();
            c.send_raw(&bytes[13..16], &[event_fd().as_fd()]).unwrap();
            c.send_raw(&bytes[16..], &[]).unwrap();
        }),
        wrong("features not offered", |c| assert!(c.set_features(1 << 20).is_err())),
        wrong("protocol features not offered", |c| {
            send(c, request::SET_PROTOCOL_FEATURES, &(1u64 << 9).to_ne_bytes(), &[])
        }),
        // CVE-2020-10723
        wrong("the size of a ring that isn't", |c| assert!(c.set_vring_num(4, 256).is_err())),
        wrong("the address of a ring that isn't", |c| {
            assert!(c.set_vring_addr(u32::MAX, &Default::default()).is_err())
        }),
        wrong("the base of a ring that isn't", |c| assert!(c.set_vring_base(4, 0).is_err())),
        wrong("asking for the base of a ring that isn't", |c| assert!(c.vring_base(4).is_err())),
        wrong("enabling a ring that isn't", |c| assert!(c.set_vring_enable(4, true).is_err())),
        wrong("a kick for a ring that isn't", |c| assert!(c.set_vring_kick(4, Some(event_fd().as_fd())).is_err())),
        wrong("a call for a ring that isn't", |c| assert!(c.set_vring_call(255, Some(event_fd().as_fd())).is_err())),
        wrong("an error for a ring that isn't", |c| assert!(c.set_vring_err(4, None).is_err())),
        wrong("a call that is no eventfd", |c| assert!(c.set_vring_call(0, Some(memfd(4096).as_fd())).is_err())),
        wrong("a kick that is no eventfd", |c| assert!(c.set_vring_kick(0, Some(memfd(4096).as_fd())).is_err())),
        wrong("half enabled", |c| send(c, request::SET_VRING_ENABLE, &[0, 0, 0, 0, 2, 0, 0, 0], &[])),
        wrong("no descriptors", |c| assert!(c.set_vring_num(0, 0).is_err())),
        wrong("too many descriptors", |c| assert!(c.set_vring_num(0, 32769).is_err())),
        wrong("a device status of more than a byte", |c| send(c, request::SET_STATUS, &256u64.to_ne_bytes(), &[])),
        // CVE-2018-1059
        wrong("a region beyond its file", region(4096, 1 << 20, 0, 0)),
        wrong("a region beyond all addresses", region(0, 1 << 20, u64::MAX - 4096, 0)),
        wrong("a region beyond the front end's addresses", region(0, 1 << 20, 0, u64::MAX - 4096)),
        wrong("a region whose end overflows", region(u64::MAX - 4096, 1 << 20, 0, 0)),
        wrong("a region that overlaps", |c| {
            c.add_mem_reg(&REGION, memfd(1 << 20).as_fd()).unwrap();
            let other = RegionMessage { gpa: REGION.gpa + 4096, ..REGION };
            assert!(c.add_mem_reg(&other, memfd(1 << 20).as_fd()).is_err());
        }),
        wrong("65 regions", |c| {
            for i in 0..65 {
                let region = RegionMessage { gpa: i << 20, size: 4096, uva: i << 20, offset: 0 };
                assert_eq!(c.add_mem_reg(&region, memfd(4096).as_fd()).is_ok(), i < 64);
            }
        }),
        wrong("a table that names more regions than it has", |c| {
            send(
                c,
                request::SET_MEM_TABLE,
                &[&[2, 0, 0, 0, 0, 0, 0, 0][..], &[1; 32]].concat(),
                &[memfd(4096).as_fd()],
            );
        }),
        // CVE-2020-10722
        wrong("a log whose end overflows", |c| {
            assert!(c.set_log_base(u64::MAX - 4096, 8192, memfd(1 << 20).as_fd()).is_err())
        }),
        wrong("a log beyond its file", |c| assert!(c.set_log_base(1 << 21, 0, memfd(1 << 20).as_fd()).is_err())),
        // CVE-2019-14818
        wrong("a ring that changes its size while it runs", |c| {
            assert!(c.add_mem_reg(&REGION, memfd(1 << 20).as_fd()).is_ok() && describe(c, 1, 256));
            for _ in 0..100 {
                c.set_vring_num(1, 256).unwrap();
            }
            assert!(c.set_vring_num(1, 512).is_err());
        }),
        wrong("a ring that is moved while it runs", |c| {
            assert!(c.add_mem_reg(&REGION, memfd(1 << 20).as_fd()).is_ok() && describe(c, 1, 256));
            assert!(c.set_vring_base(1, 7).is_err());
        }),
        wrong("a ring that crosses the end of its region", |c| {
            assert!(c.add_mem_reg(&REGION, memfd(1 << 20).as_fd()).is_ok() && describe(c, 1, 256));
            let at = (1 << 40) + (1 << 20) - 16;
            let at = RingAddresses { desc: at, avail: 1 << 40, used: 1 << 40, ..Default::default() };
            assert!(c.set_vring_addr(1, &at).is_err());
        }),
        wrong("a split ring whose size is no power of two", |c| {
            c.add_mem_reg(&REGION, memfd(1 << 20).as_fd()).unwrap();
            assert!(!describe(c, 1, 255));
        }),
    ]
}

fn descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

fn mappings() -> usize {
    std::fs::read_to_string("/proc/self/maps").unwrap().lines().filter(|l| l.contains("memfd:test")).count()
}

#[test]
fn every_fault_resets_the_connection_and_leaves_nothing_behind() {
    let _alone = ALONE.write().unwrap_or_else(PoisonError::into_inner);
    let mut before = None;
    for (what, how) in &wrongs() {
        let test = Test::new(Role::Server, 2);
        let (meeting, connection) = test.negotiated();
        how(&connection);
        closed(&connection);
        drop((meeting, connection));
        let status = test.status(|s| !s.faults.is_empty() && !s.connected);
        assert!(status.rings.is_empty() && status.regions == 0, "{what}: {status:#?}");
        test.down("reset: ");
        assert_eq!(mappings(), 0, "{what}");
        // The port looks ten times a second whether what its peer left is closed.
        let end = Instant::now() + SOON;
        while before.is_some_and(|before| before != descriptors()) {
            assert!(Instant::now() < end, "{what}: {} descriptors, {before:?} before", descriptors());
            std::thread::sleep(Duration::from_millis(10));
        }
        before.get_or_insert_with(descriptors);
        // The port is as good as ever.
        let mut frontend = test.frontend(|_| {});
        echo(&mut test.up(), &mut Vec::new(), &mut frontend, 0);
    }
}

/// Files whose close takes as long as their maker likes, and the ends that they wait for.
fn lingering(n: usize) -> (Vec<OwnedFd>, Vec<TcpStream>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let one = |_| {
        let ours = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        rustix::net::sockopt::set_socket_linger(&ours, Some(Duration::from_secs(3600))).unwrap();
        ours.set_nonblocking(true).unwrap();
        while (&ours).write(&[0; 1 << 16]).is_ok() {}
        (OwnedFd::from(ours), listener.accept().unwrap().0)
    };
    (0..n).map(one).unzip()
}

/// Whatever the port's thread waits for, nobody who asks for the port's state does.
#[test]
fn a_port_shows_its_state_while_a_peer_holds_it_up() {
    not_alone!();
    let test = Test::new(Role::Client, 1);
    let (_meeting, connection) = test.negotiated();
    let (files, _others) = lingering(8);
    let regions = (0..8).flat_map(|n: u64| [n << 20, 1 << 20, n << 20, 0]);
    let payload: Vec<u8> = [8].into_iter().chain(regions).flat_map(u64::to_ne_bytes).collect();
    let header: Vec<u8> = [request::SET_MEM_TABLE, VERSION, payload.len() as u32].map(u32::to_ne_bytes).concat();
    connection.send_raw(&header, &files.iter().map(AsFd::as_fd).collect::<Vec<_>>()).unwrap();
    // The last copies are the message's, which the port takes when it is complete.
    drop(files);
    connection.send_raw(&payload, &[]).unwrap();
    let begin = Instant::now();
    let mut longest = Duration::ZERO;
    while begin.elapsed() < Duration::from_secs(2) {
        let asked = Instant::now();
        test.port.status();
        longest = longest.max(asked.elapsed());
        std::thread::sleep(Duration::from_millis(1));
    }
    assert!(longest < Duration::from_millis(500), "{longest:?}");
}

/// A thread that hangs where nothing ends it: the port ends nevertheless, and the next one on its path begins.
#[test]
fn a_port_whose_thread_hangs_is_left_behind() {
    not_alone!();
    let dir = tempfile::tempdir().unwrap();
    for name in
        [SocketName::Path(dir.path().join("socket")), SocketName::Abstract(format!("dray-{}", std::process::id()))]
    {
        let (hangs, hanging) = channel();
        let (release, released) = channel::<()>();
        let vhost_user = VhostUser { socket: name.clone(), access: Access::default(), role: Role::Server, queues: 1 };
        let spec = PortSpec { name: "vm".into(), vhost_user, max_frame: 1518 };
        let port = Port::open(spec, move |_| {
            let _ = hangs.send(());
            let _ = released.recv();
        });
        let port = port.unwrap();
        let connection = Meeting::new(&name, Role::Client).unwrap().connection(SOON).unwrap();
        hanging.recv_timeout(SOON).expect("it hangs");
        let (ended, end) = channel();
        std::thread::spawn(move || {
            drop(port);
            let _ = ended.send(());
        });
        end.recv_timeout(SOON).expect("the port ends");
        closed(&connection);
        let next = open(&name, Role::Server, 1);
        assert!(next.is_ok(), "{:?}", next.err());
        drop(release);
    }
}
