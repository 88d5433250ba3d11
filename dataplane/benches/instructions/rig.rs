//! Ports with a peer each, and a worker's turn between them.

use dray_config::{Access, Mac, Memif, Role, SocketName, VhostUser};
use dray_switch::adjacency::{Adjacencies, Encap, OUTER};
use dray_switch::burst::{BURST, Burst};
use dray_switch::clock::Stage;
use dray_switch::egress::Egress;
use dray_switch::fdb::{Fdb, key};
use dray_switch::offload::Accepts;
use dray_switch::pipeline::{Context, Pipeline};
use dray_switch::port::Output;
use dray_switch::tables::{Group, IntMap, NO_BRIDGE, Overlay, Port, PortTable, Tables};
use dray_switch::{PuntReason, Rx, Tx};
use dray_vhost::memif::{Client, ClientOptions, PortSpec, Supervisor};
use dray_vhost::vhost_user::frontend::{self, Frontend, Meeting};
use dray_vhost::{Event, vhost_user};
use std::net::Ipv4Addr;
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

/// Frames that are counted.
pub const MEASURED_FRAMES: usize = 64 * BURST;

/// What is counted.
pub struct Case {
    pub name: &'static str,
    /// What the frames come from and go to.
    link: Link,
    what: What,
    flows: usize,
    /// Bytes of a frame, of an inner one if it is encapsulated.
    size: usize,
    /// Frames that arrive together.
    burst: usize,
}

#[derive(Clone, Copy, PartialEq)]
enum Link {
    Memif,
    VhostUser { packed: bool, queues: u16 },
}

#[derive(Clone, Copy, PartialEq)]
enum What {
    /// From port to port.
    Switch,
    /// From one trunk to another.
    Vlan,
    /// To three ports.
    Flood,
    Encap,
    Decap,
    /// From a port that sends with its own address only.
    Guarded,
}

/// `size` bytes a frame.
const fn case(name: &'static str, link: Link, what: What, flows: usize, size: usize) -> Case {
    Case { name, link, what, flows, size, burst: BURST }
}

const SPLIT: Link = Link::VhostUser { packed: false, queues: 1 };
const PACKED: Link = Link::VhostUser { packed: true, queues: 1 };
/// Flows are spread over two rings.
const SPREAD: Link = Link::VhostUser { packed: false, queues: 2 };

pub const CASES: [Case; 13] = [
    case("l2-1", Link::Memif, What::Switch, 1, 60),
    case("l2-1000", Link::Memif, What::Switch, 1000, 60),
    Case { burst: 4, ..case("l2-bursts-of-4", Link::Memif, What::Switch, 1000, 60) },
    case("l2-1514-bytes", Link::Memif, What::Switch, 1000, 1514),
    case("vlan", Link::Memif, What::Vlan, 1000, 60),
    case("encap", Link::Memif, What::Encap, 1000, 60),
    case("decap", Link::Memif, What::Decap, 1000, 60),
    case("guard", Link::Memif, What::Guarded, 1, 60),
    case("flood", Link::Memif, What::Flood, 1000, 60),
    case("vhost-split", SPLIT, What::Switch, 1000, 60),
    case("vhost-packed", PACKED, What::Switch, 1000, 60),
    case("spread", SPREAD, What::Switch, 1000, 60),
    case("encap-spread", SPREAD, What::Encap, 1000, 60),
];

const OURS: (Mac, Ipv4Addr) = (Mac([2, 9, 0, 0, 0, 1]), Ipv4Addr::new(10, 9, 0, 1));
const THEIRS: (Mac, Ipv4Addr) = (Mac([2, 9, 0, 0, 0, 2]), Ipv4Addr::new(10, 9, 0, 2));
const UDP_PORT: u16 = 4789;
const VNI: u32 = 42;
const BRIDGE: u16 = 1;
const VLANS: [u16; 2] = [10, 20];
const TIMEOUT: Duration = Duration::from_secs(60);

/// The peer of a port.
enum Peer {
    Memif(Client),
    VhostUser(Frontend),
}

impl Peer {
    fn send(&mut self, frame: &[u8]) {
        let sent = match self {
            Peer::Memif(client) => client.tx[0].send(frame),
            Peer::VhostUser(front) => front.tx[0].send(frame),
        };
        assert!(sent, "there is room for a burst");
    }

    fn receive(&mut self, buffer: &mut [u8]) -> bool {
        match self {
            Peer::Memif(client) => client.rx[0].recv(buffer).is_some(),
            Peer::VhostUser(front) => front.rx.iter_mut().any(|rx| rx.recv(buffer).is_some()),
        }
    }
}

/// What holds the links.
enum Keeper {
    Memif(#[allow(dead_code)] Supervisor),
    VhostUser(#[allow(dead_code)] vhost_user::Port),
}

/// The switch's side of all ports.
struct Switch {
    rx: Box<dyn Rx>,
    out: Out,
    burst: Box<Burst>,
    pipeline: Pipeline,
    tables: Tables,
    fdb: Fdb,
}

struct Out(Vec<Box<dyn Tx>>);

impl Output for Out {
    #[inline]
    fn send(&mut self, port: u16, burst: &mut Burst, frames: &[u16]) {
        self.0[port as usize].send(burst, frames);
        assert_eq!(burst.tx_drops.total(), 0, "nothing is dropped on the way out");
    }

    fn accepts(&self, _: u16) -> Option<Accepts> {
        None
    }

    fn segmented(&mut self, _: u16, _: u32) {}

    fn dropped(&mut self, _: u16, _: &mut Burst) {}

    fn punt(&mut self, _: PuntReason, _: u16, _: u16, _: impl FnOnce() -> Vec<u8>) -> bool {
        false
    }
}

/// Runs the case `name`.
///
/// # Panics
/// If there is no such case or anything is not as it should be: then nothing is to be counted.
pub fn run(name: &str) {
    let case = CASES.iter().find(|case| case.name == name).unwrap_or_else(|| panic!("there is no case {name:?}"));
    let dir = tempfile::tempdir().expect("a folder");
    let ports = if case.what == What::Flood { 4 } else { 2 };
    let (sender, events) = channel();
    let mut keepers = Vec::new();
    let mut peers = Vec::new();
    match case.link {
        Link::Memif => {
            let socket = SocketName::Path(dir.path().join("memif.sock"));
            let supervisor = Supervisor::start(move |event| drop(sender.send(event))).expect("a supervisor");
            for id in 0..ports {
                let memif = Memif {
                    socket: socket.clone(),
                    access: Access::default(),
                    id,
                    role: Role::Server,
                    secret: None,
                    ring_size: 1024,
                    buffer_size: 2048,
                    queues: 1,
                };
                supervisor.add(PortSpec { name: id.to_string(), memif, max_frame: 9216 }).expect("a port");
                let options = ClientOptions { timeout: TIMEOUT, ..ClientOptions::default() };
                peers.push(Peer::Memif(Client::connect(&socket, id, &options).expect("a link")));
            }
            keepers.push(Keeper::Memif(supervisor));
        }
        Link::VhostUser { packed, queues } => {
            for id in 0..ports {
                let socket = SocketName::Path(dir.path().join(id.to_string()));
                let vhost_user =
                    VhostUser { socket: socket.clone(), access: Access::default(), role: Role::Server, queues };
                let spec = vhost_user::PortSpec { name: id.to_string(), vhost_user, max_frame: 9216 };
                let sender = sender.clone();
                let port = vhost_user::Port::open(spec, move |event| drop(sender.send(event))).expect("a port");
                keepers.push(Keeper::VhostUser(port));
                let meeting = Meeting::new(&socket, Role::Client).expect("a socket");
                let options = frontend::Options {
                    role: Role::Client,
                    queues,
                    ring_size: 1024,
                    packed,
                    in_order: true,
                    timeout: TIMEOUT,
                    ..frontend::Options::default()
                };
                peers.push(Peer::VhostUser(Frontend::meet(meeting, &options).expect("a link")));
            }
        }
    }
    let (rx, tx) = links(&events, ports);
    let mut switch = Switch {
        rx,
        out: Out(tx),
        burst: Box::default(),
        pipeline: Pipeline::default(),
        tables: tables(case.what),
        fdb: fdb(case),
    };
    let frames: Vec<Vec<u8>> = (0..case.flows.max(BURST)).map(|n| frame(case, (n % case.flows) as u32)).collect();
    let mut frames = frames.iter().cycle();
    // Not only the FDB but also the rings have been gone through once.
    for _ in 0..(2 * 1024 / case.burst) {
        round(case, &mut switch, &mut peers, &mut frames);
    }
    measured(case, &mut switch, &mut peers, &mut frames);
    drop(keepers);
}

/// The first port's receive queue, and all transmit queues.
fn links(events: &Receiver<Event>, ports: u32) -> (Box<dyn Rx>, Vec<Box<dyn Tx>>) {
    let (mut rx, mut tx) = (None, Vec::new());
    tx.resize_with(ports as usize, || None);
    while tx.iter().any(Option::is_none) {
        match events.recv_timeout(TIMEOUT) {
            Ok(Event::Up { port, link }) => {
                let n: usize = port.parse().expect("its number");
                if n == 0 {
                    rx = link.rx.into_iter().next();
                }
                tx[n] = link.tx.handles(1).pop();
            }
            Ok(Event::Down { .. } | Event::Refused(_)) => {}
            Err(why) => panic!("the links don't come up: {why}"),
        }
    }
    (rx.expect("a receive queue"), tx.into_iter().flatten().collect())
}

/// What callgrind counts.
#[inline(never)]
fn measured<'a>(case: &Case, switch: &mut Switch, peers: &mut [Peer], frames: &mut impl Iterator<Item = &'a Vec<u8>>) {
    for _ in 0..MEASURED_FRAMES / case.burst {
        round(case, switch, peers, frames);
    }
}

/// A burst is sent, switched, and received.
fn round<'a>(case: &Case, switch: &mut Switch, peers: &mut [Peer], frames: &mut impl Iterator<Item = &'a Vec<u8>>) {
    for frame in frames.take(case.burst) {
        peers[0].send(frame);
    }
    turn(switch);
    let mut buffer = [0; 2048];
    for peer in &mut peers[1..] {
        for _ in 0..case.burst {
            assert!(peer.receive(&mut buffer), "every frame arrives");
        }
    }
}

/// What a worker does with a burst.
#[inline(never)]
fn turn(switch: &mut Switch) {
    let Switch { rx, out, burst, pipeline, tables, fdb } = switch;
    burst.clear();
    burst.set_head_len(tables.ports[0].head_len());
    pipeline.clock.begin();
    rx.receive(burst);
    pipeline.clock.mark(Stage::Receive, burst.len());
    pipeline.run(burst, Context { tables, fdb: fdb.view(), now: 1, port: 0 }, out);
    rx.release(burst);
    pipeline.clock.mark(Stage::Release, burst.len());
    pipeline.clock.end(|stage, time| {
        std::hint::black_box((stage, time));
    });
    assert_eq!(burst.drops.total(), 0, "nothing is dropped");
}

fn tables(what: What) -> Tables {
    let trunk = |vlan: u16| {
        let mut bridges = Box::new([NO_BRIDGE; 4096]);
        bridges[vlan as usize] = BRIDGE;
        PortTable::Trunk(bridges.into())
    };
    let ports = match what {
        What::Switch | What::Guarded => vec![PortTable::Access(BRIDGE), PortTable::Access(BRIDGE)],
        What::Vlan => vec![trunk(VLANS[0]), trunk(VLANS[1])],
        What::Flood => (0..4).map(|_| PortTable::Access(BRIDGE)).collect(),
        What::Encap => vec![PortTable::Access(BRIDGE), PortTable::Underlay],
        What::Decap => vec![PortTable::Underlay, PortTable::Access(BRIDGE)],
    };
    let underlay = ports.iter().position(|port| matches!(port, PortTable::Underlay));
    let members = (0..ports.len() as u16).map(|port| Egress::port(port, 0)).collect();
    let mut adjacencies = Adjacencies::default();
    let overlay = underlay.map(|port| {
        let mut encap = Encap::new(port as u16, OURS.0, OURS.1, UDP_PORT);
        encap.vnis = vec![0, VNI];
        adjacencies.tunnels = vec![encap.tunnel(0, THEIRS.1, THEIRS.0)];
        adjacencies.encaps = vec![encap];
        let mut overlay = Overlay::new(OURS.0, OURS.1, UDP_PORT);
        overlay.vnis = IntMap::new([(VNI, BRIDGE)].into_iter());
        overlay.vteps = IntMap::new([(THEIRS.1.into(), 0)].into_iter());
        overlay
    });
    let mut ports: Vec<Port> = ports.into_iter().map(Port::from).collect();
    if what == What::Guarded {
        let text = format!(
            "[[port]]\nname='p'\nkind='memif'\nsocket='@p'\nmac='{}'\nallowed-addresses=['10.0.0.0']",
            Mac(mac(1, 0))
        );
        let config = dray_config::parse_for("rig", &text, &[0]).expect("a port");
        ports[0] = Port::new(PortTable::Access(BRIDGE), &config.ports[0], None);
    }
    Tables { ports, groups: vec![Group::default(), Group { members }], adjacencies, overlay }
}

/// A FDB that knows everybody.
fn fdb(case: &Case) -> Fdb {
    let fdb = Fdb::new(4096, [0x1234_5678_9abc_def0, 0xfedc_ba98_7654_3211]);
    let (from, to) = match case.what {
        What::Switch | What::Flood | What::Guarded => (Egress::port(0, 0), Egress::port(1, 0)),
        What::Vlan => (Egress::port(0, VLANS[0]), Egress::port(1, VLANS[1])),
        What::Encap => (Egress::port(0, 0), Egress::tunnel(0)),
        What::Decap => (Egress::tunnel(0), Egress::port(1, 0)),
    };
    for n in 0..case.flows as u32 {
        for (mac, at) in [(mac(1, n), from), (mac(2, n), to)] {
            let key = key(BRIDGE, mac);
            fdb.view().learn(key, fdb.view().home(key), at, 1);
        }
    }
    fdb
}

fn mac(side: u8, n: u32) -> [u8; 6] {
    let n = n.to_be_bytes();
    [2, side, n[0], n[1], n[2], n[3]]
}

/// The frame of flow `n`: UDP over IPv4.
fn frame(case: &Case, n: u32) -> Vec<u8> {
    let to = if case.what == What::Flood { [0xff; 6] } else { mac(2, n) };
    let mut frame = [to, mac(1, n)].concat();
    if case.what == What::Vlan {
        frame.extend([0x81, 0, 0, VLANS[0] as u8]);
    }
    frame.extend([8, 0, 0x45, 0, 0, 46, 0, 0, 0, 0, 64, 17, 0, 0]);
    frame.extend([10, 0, (n >> 8) as u8, n as u8, 10, 1, (n >> 8) as u8, n as u8, 4, 0, 4, 0]);
    frame.resize(case.size, 0);
    if case.what != What::Decap {
        return frame;
    }
    let sender = Encap::new(0, THEIRS.0, THEIRS.1, UDP_PORT);
    let tunnel = sender.tunnel(0, OURS.1, OURS.0);
    let mut outer = [0; OUTER];
    sender.write_headers(&tunnel, &mut outer);
    let len = (OUTER - 14 + frame.len()) as u16;
    outer[16..18].copy_from_slice(&len.to_be_bytes());
    let sum = u32::from(tunnel.sum.expect("it was just made").get()) + u32::from(len);
    outer[24..26].copy_from_slice(&(!(sum as u16).wrapping_add((sum >> 16) as u16)).to_be_bytes());
    outer[34..36].copy_from_slice(&(0xc000 | n as u16).to_be_bytes());
    outer[38..40].copy_from_slice(&(len - 20).to_be_bytes());
    outer[46..50].copy_from_slice(&(VNI << 8).to_be_bytes());
    [&outer[..], &frame].concat()
}
