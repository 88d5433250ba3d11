//! The pipeline as it runs, with literal bytes and ports that only note what they are given. Every test ends with all
//! frames accounted for.

use crate::adjacency::{Adjacencies, Encap, Tunnel};
use crate::burst::{BURST, Burst, FRAME_MAX, HEAD_MAX};
use crate::egress::Egress;
use crate::fdb::Fdb;
use crate::offload::tests::*;
use crate::offload::{Accepts, Gso, Offload};
use crate::pipeline::{Context, Entry, Pipeline, Tally};
use crate::port::Output;
use crate::tables::{Group, IntMap, NO_BRIDGE, Overlay, Port as TablePort, PortTable, Tables};
use crate::{Count, Drop, Punt, PuntReason, Tx, wire};
use dray_config::Mac;
use std::collections::{HashMap, HashSet};
use std::net::Ipv4Addr;

/// What ports and the control thread were given, in order.
#[derive(Default)]
struct Sink {
    /// What ports take undone; those that aren't here take nothing.
    accepts: HashMap<u16, Accepts>,
    sent: Vec<(u16, Vec<u8>)>,
    /// Of the frames sent, those with something left to be done.
    undone: Vec<(u16, Offload)>,
    /// Frames that segmentation added.
    segments: u32,
    /// The flows of the frames sent, in order.
    flows: Vec<u32>,
    punts: Vec<Punt>,
    full: bool,
}

impl Output for Sink {
    fn send(&mut self, port: u16, burst: &mut Burst, frames: &[u16]) {
        let mut tx = Port::new(self.accepts.get(&port).copied().unwrap_or_default());
        let sent = tx.send(burst, frames);
        assert_eq!(sent.packets as usize, tx.sent.len());
        self.undone.extend(tx.sent.iter().filter_map(|(_, undone)| undone.map(|undone| (port, undone))));
        self.sent.extend(tx.sent.into_iter().map(|(bytes, _)| (port, bytes)));
        self.flows.extend(burst.flows(frames).map(|(_, flow)| flow));
    }

    fn accepts(&self, port: u16) -> Option<Accepts> {
        Some(self.accepts.get(&port).copied().unwrap_or_default())
    }

    fn segmented(&mut self, _: u16, added: u32) {
        self.segments += added;
    }

    fn dropped(&mut self, port: u16, burst: &mut Burst) {
        panic!("port {port}: {:?}", burst.tx_drops);
    }

    fn punt(&mut self, reason: PuntReason, port: u16, bridge: u16, frame: impl FnOnce() -> Vec<u8>) -> bool {
        if !self.full {
            self.punts.push(Punt { reason, port, bridge, frame: frame() });
        }
        !self.full
    }
}

pub(crate) struct Switch {
    pub(crate) tables: Tables,
    pub(crate) fdb: Fdb,
    pub(crate) now: u16,
    pipeline: Pipeline,
    pub(crate) drops: Vec<(Drop, u32)>,
    pub(crate) tally: Tally,
    sink: Sink,
}

impl Switch {
    fn new(tables: Tables) -> Self {
        Switch {
            tables,
            fdb: Fdb::new(1024, [1, 2]),
            now: 0,
            pipeline: Pipeline::default(),
            drops: Vec::new(),
            tally: Tally::default(),
            sink: Sink::default(),
        }
    }

    /// Runs one burst received on `port`; returns what was sent.
    pub(crate) fn run(&mut self, port: u16, frames: Vec<Vec<u8>>) -> Vec<(u16, Vec<u8>)> {
        self.run_undone(port, frames.into_iter().map(|f| (f, None)).collect())
    }

    /// The same, of frames to which something is left to be done.
    fn run_undone(&mut self, port: u16, frames: Vec<(Vec<u8>, Option<Offload>)>) -> Vec<(u16, Vec<u8>)> {
        let mut burst = Burst::default();
        burst.set_head_len(self.tables.ports[port as usize].head_len());
        let received = frames.len() as u32;
        let head_len = burst.head_len();
        for (frame, undone) in frames {
            burst.set_head_len(if undone.is_some() { HEAD_MAX } else { head_len });
            burst.push_owned(frame);
            assert!(undone.is_none_or(|undone| burst.set_offload(undone)));
        }
        self.now += 1;
        self.end(burst, received, |pipeline, burst, cx, sink| pipeline.run(burst, Context { port, ..cx }, sink))
    }

    /// Sends a frame of the control thread; returns what was sent.
    fn inject(&mut self, entry: Entry, frame: Vec<u8>) -> Vec<(u16, Vec<u8>)> {
        let mut burst = Burst::default();
        burst.push_owned(frame);
        self.end(burst, 1, |pipeline, burst, cx, sink| pipeline.inject(burst, entry, cx, sink))
    }

    /// Does that with a burst of so many frames; returns what was sent.
    fn end(
        &mut self,
        mut burst: Burst,
        received: u32,
        run: impl FnOnce(&mut Pipeline, &mut Burst, Context, &mut Sink) -> Tally,
    ) -> Vec<(u16, Vec<u8>)> {
        self.sink.undone.clear();
        self.sink.segments = 0;
        self.sink.flows.clear();
        let cx = Context { tables: &self.tables, fdb: self.fdb.view(), now: self.now, port: u16::MAX };
        self.tally = run(&mut self.pipeline, &mut burst, cx, &mut self.sink);
        let t = self.tally;
        let came = received + t.copies + t.segments;
        assert_eq!(came, t.switched + t.punted + burst.drops.total(), "every frame is accounted for");
        self.drops.clear();
        burst.drops.take(|reason, n| self.drops.push((reason, n)));
        let sent = std::mem::take(&mut self.sink.sent);
        assert_eq!(sent.len() as u32, t.switched + self.sink.segments);
        sent
    }
}

pub(crate) const A: [u8; 6] = [2, 0, 0, 0, 0, 0xa];
pub(crate) const B: [u8; 6] = [2, 0, 0, 0, 0, 0xb];
pub(crate) const C: [u8; 6] = [2, 0, 0, 0, 0, 0xc];
pub(crate) const ALL: [u8; 6] = [0xff; 6];

/// An untagged frame of `len` bytes whose payload tells bytes apart.
pub(crate) fn frame(dst: [u8; 6], src: [u8; 6], len: usize) -> Vec<u8> {
    let mut f = [&dst[..], &src, &[0x88, 0xb5]].concat();
    f.extend((14..len).map(|i| i as u8));
    f
}

fn tagged(dst: [u8; 6], src: [u8; 6], vlan: u16, len: usize) -> Vec<u8> {
    let mut f = frame(dst, src, len - 4);
    f.splice(12..12, [0x81, 0x00, (vlan >> 8) as u8, vlan as u8]);
    f
}

fn bridge(members: &[Egress]) -> Group {
    Group { members: members.into() }
}

/// Ports 0, 1 and 2 untagged in bridge 1.
pub(crate) fn three_ports() -> Switch {
    Switch::new(Tables {
        ports: vec![PortTable::Access(1).into(); 3],
        groups: vec![Group::default(), bridge(&[Egress::port(0, 0), Egress::port(1, 0), Egress::port(2, 0)])],
        ..Tables::default()
    })
}

#[test]
fn unknown_is_flooded_and_known_is_forwarded() {
    let mut s = three_ports();
    let f = frame(B, A, 60);
    assert_eq!(s.run(0, vec![f.clone()]), [(1, f.clone()), (2, f)]);
    assert_eq!(s.tally.copies, 1);
    let back = frame(A, B, 1514);
    assert_eq!(s.run(1, vec![back.clone()]), [(0, back)]);
    let again = frame(B, A, 64);
    assert_eq!(s.run(0, vec![again.clone()]), [(1, again)]);
    assert_eq!(s.tally, Tally { switched: 1, ..Tally::default() });
}

#[test]
fn a_moved_address_is_found_at_its_new_place() {
    let mut s = three_ports();
    s.run(0, vec![frame(ALL, A, 60)]);
    s.run(2, vec![frame(ALL, A, 60)]);
    assert_eq!(s.run(1, vec![frame(A, B, 60)]), [(2, frame(A, B, 60))]);
}

#[test]
fn what_was_learned_this_second_is_learned_again_when_it_was_taken_out() {
    let mut s = three_ports();
    let again = |s: &mut Switch, port| {
        s.now -= 1;
        s.run(port, vec![frame(ALL, A, 60)]);
        s.fdb.entries(s.now).iter().map(|e| (e.mac, e.egress)).collect::<Vec<_>>()
    };
    s.run(0, vec![frame(ALL, A, 60)]);
    assert_eq!(again(&mut s, 0), [(A, Egress::port(0, 0))]);
    s.fdb.flush(|_| true);
    assert_eq!(again(&mut s, 0), [(A, Egress::port(0, 0))]);
    assert!(s.fdb.remove(crate::fdb::key(1, A)));
    assert_eq!(again(&mut s, 0), [(A, Egress::port(0, 0))]);
}

/// Within one second, too, and to the next frame.
#[test]
fn a_move_is_learned_at_once() {
    let mut s = three_ports();
    s.run(0, vec![frame(ALL, A, 60)]);
    for port in [2, 0, 2, 1, 0] {
        s.now -= 1;
        s.run(port, vec![frame(ALL, A, 60)]);
        assert_eq!(s.fdb.entries(s.now).iter().map(|e| e.egress).collect::<Vec<_>>(), [Egress::port(port, 0)]);
    }
    // A static entry does not move.
    s.fdb.set_static(crate::fdb::key(1, A), Egress::port(1, 0));
    s.now -= 1;
    s.run(2, vec![frame(ALL, A, 60)]);
    assert_eq!(s.fdb.entries(s.now)[0].egress, Egress::port(1, 0));
}

/// What one worker has seen does not keep it from seeing that another worker has learned something else since.
#[test]
fn a_move_that_another_worker_learned_is_learned_back() {
    let mut s = three_ports();
    let mut other = Pipeline::default();
    let at = |s: &Switch| s.fdb.entries(s.now)[0].egress.index();
    s.run(0, vec![frame(ALL, A, 60)]);
    for (port, n) in [(2, 0), (0, 1), (1, 0), (0, 1), (0, 1), (2, 0), (0, 1)] {
        if n == 0 {
            std::mem::swap(&mut s.pipeline, &mut other);
        }
        s.now -= 1;
        s.run(port, vec![frame(ALL, A, 60)]);
        assert_eq!(at(&s), port);
        if n == 0 {
            std::mem::swap(&mut s.pipeline, &mut other);
        }
    }
}

#[test]
fn no_frame_goes_back_to_its_port() {
    let mut s = three_ports();
    s.run(0, vec![frame(ALL, A, 60), frame(ALL, B, 60)]);
    assert_eq!(s.run(0, vec![frame(B, A, 60)]), []);
    assert_eq!(s.drops, [(Drop::ForwardSamePort, 1)]);
}

#[test]
fn every_length_arrives_whole() {
    let mut s = three_ports();
    s.run(1, vec![frame(ALL, B, 60)]);
    for len in (14..300).chain([1514, 9018, FRAME_MAX]) {
        assert_eq!(s.run(0, vec![frame(B, A, len)]), [(1, frame(B, A, len))], "{len} bytes");
    }
}

#[test]
fn bad_addresses_are_dropped_by_name() {
    let mut s = three_ports();
    let short = frame(B, A, 14)[..13].to_vec();
    let stp = frame([0x01, 0x80, 0xc2, 0, 0, 0], A, 60);
    let sent = s.run(0, vec![short, frame(B, ALL, 60), frame(B, [0; 6], 60), stp, tagged(B, A, 7, 64), vec![]]);
    assert_eq!(sent, []);
    assert_eq!(
        s.drops,
        [(Drop::ParseTruncated, 2), (Drop::ParseBadSource, 2), (Drop::VlanUnknown, 1), (Drop::FloodLinkLocal, 1)]
    );
}

/// One frame that is not as the others are, at every place of bursts of every size: it goes its way, and they go theirs.
#[test]
fn one_frame_of_a_burst_is_another() {
    let odd: [(Vec<u8>, Option<Drop>); 9] = [
        (tagged(B, A, 7, 64), Some(Drop::VlanUnknown)),
        (tagged(B, A, 0, 64), None),
        (frame(B, [0; 6], 60), Some(Drop::ParseBadSource)),
        (frame(B, [3, 0, 0, 0, 0, 9], 60), Some(Drop::ParseBadSource)),
        (frame(B, ALL, 60), Some(Drop::ParseBadSource)),
        (frame(B, A, 60)[..13].to_vec(), Some(Drop::ParseTruncated)),
        (tagged(B, A, 0, 64)[..16].to_vec(), Some(Drop::ParseTruncated)),
        (frame(B, A, 14), None),
        (frame(B, [0, 0, 0, 0, 0, 1], 60), None),
    ];
    let mut s = three_ports();
    s.run(1, vec![frame(A, B, 60)]);
    for (other, reason) in &odd {
        for n in (1..10).chain([63, 64]) {
            for place in 0..n {
                // Each of its own, so that their order can be seen.
                let usual = |i: usize| frame(B, [2, 0, 0, 0, 1, i as u8], 60 + i);
                let frames = (0..n).map(|i| if i == place { other.clone() } else { usual(i) });
                let mut expected: Vec<_> = (0..n).filter(|&i| i != place).map(|i| (1, usual(i))).collect();
                if reason.is_none() {
                    let mut bytes = other.clone();
                    if bytes[12..14] == [0x81, 0] {
                        bytes.drain(12..16);
                    }
                    expected.insert(place, (1, bytes));
                }
                assert_eq!(s.run(0, frames.collect()), expected, "{other:02x?} at {place} of {n}");
                assert_eq!(s.drops, reason.iter().map(|&reason| (reason, 1)).collect::<Vec<_>>());
            }
        }
    }
    // And what a source that can't be one was dropped with is not learned.
    let entries = s.fdb.entries(s.now);
    assert!(entries.iter().all(|e| e.mac[0] & 1 == 0 && e.mac != [0; 6] && e.bridge == 1), "{entries:?}");
}

#[test]
fn a_port_without_a_bridge_and_a_bridge_without_others() {
    let mut s = three_ports();
    s.tables.ports[1] = PortTable::Unused.into();
    s.tables.groups[1] = bridge(&[Egress::port(0, 0)]);
    assert_eq!(s.run(1, vec![frame(B, A, 60)]), []);
    assert_eq!(s.drops, [(Drop::VlanNoBridge, 1)]);
    assert_eq!(s.run(0, vec![frame(B, A, 60)]), []);
    assert_eq!(s.drops, [(Drop::FloodNoTarget, 1)]);
}

/// Port 0 is a trunk: VLAN 10 is bridge 1, VLAN 20 is bridge 2, untagged is bridge 3. Ports 1, 2 and 3 are untagged in one
/// of them each.
fn trunk() -> Switch {
    let mut vlans = Box::new([NO_BRIDGE; 4096]);
    (vlans[10], vlans[20], vlans[0]) = (1, 2, 3);
    Switch::new(Tables {
        ports: [PortTable::Trunk(vlans.into()), PortTable::Access(1), PortTable::Access(2), PortTable::Access(3)]
            .map(TablePort::from)
            .into(),
        groups: vec![
            Group::default(),
            bridge(&[Egress::port(0, 10), Egress::port(1, 0)]),
            bridge(&[Egress::port(0, 20), Egress::port(2, 0)]),
            bridge(&[Egress::port(0, 0), Egress::port(3, 0)]),
        ],
        ..Tables::default()
    })
}

#[test]
fn a_trunk_pops_and_pushes_tags() {
    let mut s = trunk();
    // To and from the bridges, flooded first, then known.
    for _ in 0..2 {
        assert_eq!(s.run(0, vec![tagged(B, A, 10, 64)]), [(1, frame(B, A, 60))]);
        assert_eq!(s.run(1, vec![frame(A, B, 60)]), [(0, tagged(A, B, 10, 64))]);
        assert_eq!(s.run(0, vec![tagged(C, A, 20, 1518)]), [(2, frame(C, A, 1514))]);
        assert_eq!(s.run(2, vec![frame(A, C, 1514)]), [(0, tagged(A, C, 20, 1518))]);
        assert_eq!(s.run(0, vec![frame(B, A, 60)]), [(3, frame(B, A, 60))]);
        assert_eq!(s.run(3, vec![frame(A, B, 60)]), [(0, frame(A, B, 60))]);
    }
    // From one VLAN of a trunk to another the priority stays.
    s.tables.groups[2] = bridge(&[Egress::port(0, 20), Egress::port(0, 40)]);
    assert_eq!(s.run(0, vec![tagged(ALL, A, 0xb000 | 20, 64)]), [(0, tagged(ALL, A, 0xb000 | 40, 64))]);
    s.fdb.set_static(crate::fdb::key(2, B), Egress::port(0, 40));
    assert_eq!(s.run(0, vec![tagged(B, A, 0xb000 | 20, 64)]), [(0, tagged(B, A, 0xb000 | 40, 64))]);
    // A priority tag is no VLAN.
    assert_eq!(s.run(0, vec![tagged(B, A, 0, 64)]), [(3, frame(B, A, 60))]);
    assert_eq!(s.run(0, vec![tagged(B, A, 30, 64)]), []);
    assert_eq!(s.drops, [(Drop::VlanUnknown, 1)]);
    let cut = tagged(B, A, 10, 64)[..17].to_vec();
    assert_eq!(s.run(0, vec![cut]), []);
    assert_eq!(s.drops, [(Drop::ParseTruncated, 1)]);
}

/// As they came, with a tag, to one and to all, one after the other: each port gets its frames in order, copies after the frames themselves.
#[test]
fn frames_of_one_burst_leave_every_way() {
    let mut s = trunk();
    s.tables.groups[2] = bridge(&[Egress::port(0, 20), Egress::port(2, 0), Egress::port(1, 40)]);
    s.fdb.set_static(crate::fdb::key(1, B), Egress::port(1, 0));
    s.fdb.set_static(crate::fdb::key(2, C), Egress::port(2, 30));
    let burst = (0..BURST).map(|n| match n % 4 {
        0 => tagged(B, A, 10, 64 + n),
        1 => tagged(C, A, 0xb000 | 20, 64 + n),
        2 => tagged(ALL, A, 0xb000 | 20, 64 + n),
        _ => frame(ALL, A, 60 + n),
    });
    let sent = s.run(0, burst.collect());
    let to = |port| sent.iter().filter(|(p, _)| *p == port).map(|(_, frame)| frame.clone()).collect::<Vec<_>>();
    let of = |kind, make: &dyn Fn(usize) -> Vec<u8>| (kind..BURST).step_by(4).map(make).collect::<Vec<_>>();
    let known = of(0, &|n| frame(B, A, 60 + n));
    assert_eq!(to(1), [known, of(2, &|n| tagged(ALL, A, 0xb000 | 40, 64 + n))].concat());
    let mut both = of(1, &|n| tagged(C, A, 0xb000 | 30, 64 + n));
    both.extend(of(2, &|n| frame(ALL, A, 60 + n)));
    // By the lengths that they came with, less the tag.
    both.sort_by_key(|frame| frame.len() - if frame[12] == 0x81 { wire::TAG } else { 0 });
    assert_eq!(to(2), both);
    assert_eq!(to(3), of(3, &|n| frame(ALL, A, 60 + n)));
    assert_eq!((s.tally.copies, &s.drops[..]), (BURST as u32 / 4, &[][..]));
}

/// A tag behind a popped one would be the first one behind an untagged member, and say another bridge on a mixed trunk.
#[test]
fn a_tag_behind_a_popped_one_is_dropped_by_name() {
    let behind = |outer: [u8; 4], inner: [u8; 4]| {
        let mut f = frame(B, A, 60);
        f.splice(12..12, [outer, inner].concat());
        f
    };
    for inner in [[0x81, 0, 0, 10], [0x88, 0xa8, 0, 10], [0x81, 0, 0, 0]] {
        let mut s = trunk();
        // Port 3 is untagged in the bridge of the trunk's frames without a tag.
        assert_eq!(s.run(3, vec![behind([0x81, 0, 0, 0], inner)]), []);
        assert_eq!(s.drops, [(Drop::VlanDoubleTag, 1)]);
        // Between VLANs of trunks, too.
        s.tables.groups[1] = bridge(&[Egress::port(0, 10), Egress::port(1, 0), Egress::port(1, 20)]);
        assert_eq!(s.run(0, vec![behind([0x81, 0, 0xe0, 10], inner), behind([0x81, 0, 0, 0], inner)]), []);
        assert_eq!(s.drops, [(Drop::VlanDoubleTag, 2)]);
    }
    // A service tag is no tag of ours, and leaves as it came.
    let mut s = trunk();
    let mut service = frame(B, A, 60);
    service.splice(12..12, [0x88, 0xa8, 0, 10, 0x81, 0, 0, 20]);
    assert_eq!(s.run(3, vec![service.clone()]), [(0, service)]);
}

#[test]
fn flooding_more_copies_than_a_burst_has_room_for() {
    // 100 trunk ports and one untagged in one bridge: each flooded frame needs 100 heads of its own.
    let mut vlans = Box::new([NO_BRIDGE; 4096]);
    vlans[10] = 1;
    let mut ports = vec![TablePort::from(PortTable::Trunk(vlans.into())); 100];
    ports.push(PortTable::Access(1).into());
    let members = (0..100).map(|p| Egress::port(p, 10)).chain([Egress::port(100, 0)]).collect();
    let mut s = Switch::new(Tables { ports, groups: vec![Group::default(), Group { members }], ..Tables::default() });
    let burst: Vec<_> = (0..BURST).map(|n| frame(ALL, [2, 0, 0, 0, 1, n as u8], 60 + n)).collect();
    let sent = s.run(100, burst.clone());
    assert_eq!(sent.len(), 100 * BURST);
    for port in 0..100 {
        let got: Vec<_> = sent.iter().filter(|(p, _)| *p == port).map(|(_, f)| f.clone()).collect();
        let want: Vec<_> = (0..BURST).map(|n| tagged(ALL, [2, 0, 0, 0, 1, n as u8], 10, 64 + n)).collect();
        assert_eq!(got, want, "port {port} gets all, in order");
    }
    assert_eq!(s.tally.copies, 99 * BURST as u32);
}

/// Whatever a bridge's size, a burst makes a bounded number of copies; of long frames fewer.
#[test]
fn flooding_more_copies_than_a_burst_may_make() {
    for (size, len, whole) in [(1000, 60, 9), (1000, 1500, 5), (129, 60, 64), (129, 1500, 32), (1000, 9000, 1)] {
        let members = (0..size).map(|p| Egress::port(p, 0)).collect();
        let mut s = Switch::new(Tables {
            ports: vec![PortTable::Access(1).into(); size as usize],
            groups: vec![Group::default(), Group { members }],
            ..Tables::default()
        });
        let sent = s.run(0, (0..BURST).map(|n| frame(ALL, [2, 0, 0, 0, 1, n as u8], len)).collect());
        assert_eq!(sent.len(), (size as usize - 1) * whole, "{size} members, {len} bytes");
        let refused = (BURST - whole) as u32;
        assert_eq!(s.drops.iter().map(|(_, n)| n).sum::<u32>(), refused);
        assert!(s.drops.iter().all(|(reason, _)| *reason == Drop::FloodTooManyCopies), "{:?}", s.drops);
    }
}

const VTEP_MAC: Mac = Mac([2, 0x99, 0, 0, 0, 1]);
const PEER_MAC: Mac = Mac([2, 0x99, 0, 0, 0, 2]);
const LOCAL: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 1);
const PEER: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 2);
const OTHER: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 3);

/// Port 0 is the underlay, port 1 is in bridge 1 with VNI 42, which floods to tunnels 0 and 1; tunnel 1 isn't resolved.
fn overlay() -> Switch {
    let members = [Egress::port(1, 0), Egress::tunnel(0), Egress::tunnel(1)].into();
    let mut encap = Encap::new(0, VTEP_MAC, LOCAL, 4789);
    encap.vnis = vec![0, 42];
    let mut overlay = Overlay::new(VTEP_MAC, LOCAL, 4789);
    overlay.vnis = IntMap::new([(42, 1)].into_iter());
    overlay.vteps = IntMap::new([(PEER.into(), 0), (OTHER.into(), 1)].into_iter());
    let tunnels = vec![encap.tunnel(0, PEER, PEER_MAC), Tunnel::default()];
    Switch::new(Tables {
        ports: [PortTable::Underlay, PortTable::Access(1)].map(TablePort::from).into(),
        groups: vec![Group::default(), Group { members }],
        adjacencies: Adjacencies { tunnels, encaps: vec![encap] },
        overlay: Some(overlay),
    })
}

/// The outer headers that PEER puts before an inner frame of `inner` bytes, VNI 42.
#[rustfmt::skip]
fn from_peer(inner: usize) -> Vec<u8> {
    let (ip, udp) = (inner as u16 + 36, inner as u16 + 16);
    let mut h = vec![
        2, 0x99, 0, 0, 0, 1,  2, 0x99, 0, 0, 0, 2,  0x08, 0x00,
        0x45, 0, (ip >> 8) as u8, ip as u8,  0, 0, 0x40, 0,  64, 17, 0, 0,  10, 9, 0, 2,  10, 9, 0, 1,
        0xd0, 0x01, 0x12, 0xb5,  (udp >> 8) as u8, udp as u8, 0, 0,
        0x08, 0, 0, 0,  0, 0, 42, 0,
    ];
    checksum(&mut h);
    h
}

fn checksum(h: &mut [u8]) {
    h[24..26].fill(0);
    let sum = h[14..34].chunks(2).map(|w| u16::from_be_bytes([w[0], w[1]]) as u32).sum();
    h[24..26].copy_from_slice(&(!wire::fold(sum)).to_be_bytes());
}

#[test]
fn encapsulates_byte_for_byte() {
    let mut s = overlay();
    s.fdb.set_static(crate::fdb::key(1, B), Egress::tunnel(0));
    let inner = frame(B, A, 60);
    let sent = s.run(1, vec![inner.clone()]);
    let [(0, outer)] = &sent[..] else { panic!("{sent:?}") };
    let source_port = u16::from_be_bytes([outer[34], outer[35]]);
    assert!((49152..=65535).contains(&source_port), "{source_port}");
    #[rustfmt::skip]
    let expected = [
        2, 0x99, 0, 0, 0, 2,  2, 0x99, 0, 0, 0, 1,  0x08, 0x00,
        // Total length 96, DF, TTL 64, UDP; 0x2679 is the checksum of these twenty bytes.
        0x45, 0, 0, 96,  0, 0, 0x40, 0,  64, 17, 0x26, 0x79,  10, 9, 0, 1,  10, 9, 0, 2,
        outer[34], outer[35], 0x12, 0xb5,  0, 76, 0, 0,
        0x08, 0, 0, 0,  0, 0, 42, 0,
    ];
    assert_eq!(outer[..50], expected);
    assert_eq!(outer[50..], inner);
}

#[test]
fn an_inner_frame_that_does_not_fit_is_dropped_by_name() {
    let mut s = overlay();
    s.fdb.set_static(crate::fdb::key(1, B), Egress::tunnel(0));
    s.fdb.set_static(crate::fdb::key(1, C), Egress::tunnel(1));
    assert_eq!(s.run(1, vec![frame(B, A, 1464)])[0].1.len(), 1514);
    assert_eq!(s.run(1, vec![frame(B, A, 1465), frame(C, A, 60)]), []);
    assert_eq!(s.drops, [(Drop::VxlanTooBig, 1), (Drop::VxlanNoNeighbour, 1)]);
}

#[test]
fn decapsulates_learns_and_splits_the_horizon() {
    let mut s = overlay();
    for len in [14, 60, 78, 79, 200, 1464] {
        let inner = frame(ALL, B, len);
        let mut outer = [from_peer(len), inner.clone()].concat();
        outer.extend([0xee; 6]); // Padding after the outer packet isn't the inner frame's.
        assert_eq!(s.run(0, vec![outer]), [(1, inner)], "{len} bytes");
        assert_eq!(s.drops, [], "a tunnel's frames don't go to tunnels, and nobody misses them");
    }
    let sent = s.run(1, vec![frame(B, A, 60)]);
    assert_eq!((sent.len(), sent[0].0, &sent[0].1[30..34]), (1, 0, &PEER.octets()[..]));
    let hairpin = [from_peer(60), frame(B, C, 60)].concat();
    assert_eq!(s.run(0, vec![hairpin]), []);
    assert_eq!(s.drops, [(Drop::ForwardSamePort, 1)]);
    s.fdb.set_static(crate::fdb::key(1, C), Egress::tunnel(1));
    assert_eq!(s.run(0, vec![[from_peer(60), frame(C, B, 60)].concat()]), []);
    assert_eq!(s.drops, [(Drop::ForwardSplitHorizon, 1)]);
}

#[test]
fn flooding_into_the_overlay_asks_every_resolved_tunnel() {
    let mut s = overlay();
    let sent = s.run(1, vec![frame(ALL, A, 60)]);
    assert_eq!((sent.len(), sent[0].0, &sent[0].1[30..34]), (1, 0, &PEER.octets()[..]));
    assert_eq!((s.tally.copies, &s.drops[..]), (1, &[(Drop::VxlanNoNeighbour, 1)][..]));
}

#[test]
fn outer_headers_are_checked() {
    let drop_of = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut s = overlay();
        let mut outer = [from_peer(60), frame(ALL, B, 60)].concat();
        change(&mut outer);
        assert_eq!(s.run(0, vec![outer]), []);
        assert_eq!(s.sink.punts, []);
        s.drops[0].0
    };
    assert_eq!(drop_of(&|f| f[0] = 4), Drop::UnderlayNotForUs, "another's MAC");
    assert_eq!(drop_of(&|f| f[12] = 0x86), Drop::UnderlayNotForUs, "another protocol");
    assert_eq!(drop_of(&|f| f.truncate(13)), Drop::ParseTruncated);
    assert_eq!(drop_of(&|f| f.truncate(33)), Drop::ParseTruncated);
    assert_eq!(drop_of(&|f| f[14] = 0x65), Drop::VxlanBadOuter, "version");
    assert_eq!(drop_of(&|f| f[14] = 0x44), Drop::VxlanBadOuter, "header length below 20");
    assert_eq!(drop_of(&|f| f[17] += 1), Drop::VxlanBadOuter, "total length beyond the frame");
    assert_eq!(drop_of(&|f| f[24] ^= 1), Drop::VxlanBadOuter, "checksum");
    let fixed = |change: &'static dyn Fn(&mut Vec<u8>)| {
        drop_of(&|f| {
            change(f);
            checksum(f);
        })
    };
    assert_eq!(fixed(&|f| f[33] = 9), Drop::UnderlayNotForUs, "another's address");
    assert_eq!(fixed(&|f| f[23] = 6), Drop::UnderlayNotForUs, "TCP");
    assert_eq!(fixed(&|f| f[20] = 0x20), Drop::VxlanBadOuter, "more fragments");
    assert_eq!(fixed(&|f| f[21] = 1), Drop::VxlanBadOuter, "not the first fragment");
    assert_eq!(fixed(&|f| f[37] = 53), Drop::UnderlayNotForUs, "another UDP port");
    assert_eq!(fixed(&|f| f[39] += 1), Drop::VxlanBadOuter, "UDP longer than IP");
    assert_eq!(fixed(&|f| f[39] = 29), Drop::VxlanBadOuter, "no room for an inner Ethernet header");
    assert_eq!(fixed(&|f| f[42] = 0), Drop::VxlanBadFlags);
    assert_eq!(fixed(&|f| f[48] = 43), Drop::VxlanUnknownVni);
    assert_eq!(fixed(&|f| f[29] = 77), Drop::VxlanUnknownVtep);
    assert_eq!(fixed(&|f| f[62..66].copy_from_slice(&[0x81, 0, 0, 7])), Drop::VxlanInnerTag);
}

/// An IPv4 packet in a frame of 60 bytes, with that byte of DSCP and ECN.
fn with_class(class: u8) -> Vec<u8> {
    let mut f = frame(B, A, 60);
    f[12..14].copy_from_slice(&[8, 0]);
    f[14..34].copy_from_slice(&[0x45, class, 0, 46, 0, 1, 0, 0, 64, 253, 0, 0, 10, 1, 0, 1, 10, 1, 0, 2]);
    checksum(&mut f);
    f
}

#[test]
fn the_outer_header_has_dscp_and_ecn_of_the_inner_one() {
    let mut s = overlay();
    s.fdb.set_static(crate::fdb::key(1, B), Egress::tunnel(0));
    for class in [0, 1, 2, 3, 0xb8, 0xbb, 0xff] {
        let mut six = frame(B, A, 60);
        six[12..16].copy_from_slice(&[0x86, 0xdd, 0x60 | class >> 4, class << 4 | 0xd]);
        for inner in [with_class(class), six] {
            let sent = s.run(1, vec![inner.clone()]);
            let [(0, outer)] = &sent[..] else { panic!("{sent:?}") };
            assert_eq!((outer[14], outer[15], &outer[50..]), (0x45, class, &inner[..]));
            assert_eq!(wire::fold(wire::sum(&outer[14..34])), 0xffff);
        }
    }
    // What is no IP has none, and what has a tag does not leave.
    assert_eq!(s.run(1, vec![frame(B, A, 60)])[0].1[15], 0);
    let mut service = frame(B, A, 60);
    service[12..14].copy_from_slice(&[0x88, 0xa8]);
    assert_eq!(s.run(1, vec![service]), []);
    assert_eq!(s.drops, [(Drop::VxlanInnerTag, 1)]);
}

#[test]
fn congestion_in_the_underlay_is_told_to_the_inner_packet() {
    let mut s = overlay();
    let mut run = |outer: u8, inner: Vec<u8>| {
        let mut frame = [from_peer(inner.len()), inner].concat();
        frame[15] = outer;
        checksum(&mut frame);
        let sent = s.run(0, vec![frame]);
        (sent.into_iter().map(|(_, frame)| frame).next(), s.drops.first().map(|(reason, _)| *reason))
    };
    // The DSCP stays, whatever the outer one is.
    for (outer, inner, expected) in [
        (0x00, 0xb8, Some(0xb8)),
        (0x29, 0xb8, Some(0xb8)),
        (0x2b, 0xb8, None),
        (0x28, 0xba, Some(0xba)),
        (0x29, 0xba, Some(0xb9)),
        (0x2b, 0xba, Some(0xbb)),
        (0x2b, 0xb9, Some(0xbb)),
        (0x29, 0xbb, Some(0xbb)),
        (0x03, 0x03, Some(0x03)),
    ] {
        let (got, reason) = run(outer, with_class(inner));
        assert_eq!(got, expected.map(with_class), "{outer:02x} {inner:02x}");
        assert_eq!(reason, expected.is_none().then_some(Drop::VxlanEcn));
        let six = |class: u8| {
            let mut f = frame(B, A, 60);
            f[12..16].copy_from_slice(&[0x86, 0xdd, 0x60 | class >> 4, class << 4]);
            f
        };
        assert_eq!(run(outer, six(inner)).0, expected.map(six), "{outer:02x} {inner:02x}");
    }
    // What is no IP packet has nobody to tell.
    assert_eq!(run(0x03, frame(ALL, A, 60)), (Some(frame(ALL, A, 60)), None));
    let mut service = frame(ALL, A, 60);
    service[12..14].copy_from_slice(&[0x88, 0xa8]);
    assert_eq!(run(0x00, service), (None, Some(Drop::VxlanInnerTag)));
}

/// On the underlay, as everywhere: it is taken out, and what is behind it is read.
#[test]
fn a_priority_tag_on_the_underlay_is_none() {
    let mut s = overlay();
    let tag = |mut frame: Vec<u8>, tag: [u8; 4]| {
        frame.splice(12..12, tag);
        frame
    };
    let vxlan = [from_peer(60), frame(ALL, B, 60)].concat();
    assert_eq!(s.run(0, vec![tag(vxlan.clone(), [0x81, 0, 0xe0, 0])]), [(1, frame(ALL, B, 60))]);
    let mut arp = frame(ALL, PEER_MAC.0, 60);
    arp[12..14].copy_from_slice(&[8, 6]);
    assert_eq!(s.run(0, vec![tag(arp.clone(), [0x81, 0, 0xe0, 0])]), []);
    assert_eq!(s.sink.punts, [for_host(PuntReason::Arp, &arp)]);
    assert_eq!(s.run(0, vec![tag(vxlan.clone(), [0x81, 0, 0, 7])]), []);
    assert_eq!(s.drops, [(Drop::UnderlayNotForUs, 1)]);
    assert_eq!(s.run(0, vec![tag(tag(vxlan, [0x81, 0, 0, 0]), [0x81, 0, 0, 0])]), []);
    assert_eq!(s.drops, [(Drop::VlanDoubleTag, 1)]);
}

/// What the underlay's port has left to the control thread.
fn for_host(reason: PuntReason, frame: &[u8]) -> Punt {
    Punt { reason, port: 0, bridge: NO_BRIDGE, frame: frame.to_vec() }
}

/// What the control thread sends into a bridge goes the way of what comes from its ports, tunnels too, and nobody learns from it.
#[test]
fn a_frame_enters_a_bridge() {
    let mut s = overlay();
    let wrapped = |s: &mut Switch, frame: &[u8]| s.run(1, vec![frame.to_vec()]).remove(0);
    s.fdb.set_static(crate::fdb::key(1, B), Egress::tunnel(0));
    let known = frame(B, C, 60);
    let expected = wrapped(&mut s, &known);
    assert_eq!(s.inject(Entry::Bridge(1), known), [expected]);
    let all = frame(ALL, C, 60);
    s.fdb.remove(crate::fdb::key(1, C));
    let expected = wrapped(&mut s, &all);
    s.fdb.remove(crate::fdb::key(1, C));
    // To all members: the port, and the tunnel that is resolved.
    assert_eq!(s.inject(Entry::Bridge(1), all.clone()), [(1, all.clone()), expected]);
    assert_eq!((s.tally.copies, &s.drops[..]), (2, &[(Drop::VxlanNoNeighbour, 1)][..]));
    assert!(s.fdb.entries(0).iter().all(|entry| entry.mac != C), "nobody learns where we are");
    for bridge in [0, 2, u16::MAX] {
        assert_eq!(
            (s.inject(Entry::Bridge(bridge), all.clone()), &s.drops[..]),
            (vec![], &[(Drop::FloodNoTarget, 1)][..])
        );
    }
    let mut s = trunk();
    let to_all = [(0, tagged(ALL, C, 10, 64)), (1, frame(ALL, C, 60))];
    let mut sent = s.inject(Entry::Bridge(1), frame(ALL, C, 60));
    sent.sort();
    assert_eq!(sent, to_all);
}

/// Nobody is asked where it goes: what an adjacency writes is before it.
#[test]
fn a_frame_leaves_by_an_adjacency() {
    let mut s = trunk();
    let out = |egress| Entry::Adjacency { egress, bridge: NO_BRIDGE };
    assert_eq!(s.inject(out(Egress::port(3, 0)), frame(ALL, C, 60)), [(3, frame(ALL, C, 60))]);
    assert_eq!(s.inject(out(Egress::port(0, 20)), frame(B, C, 60)), [(0, tagged(B, C, 20, 64))]);
    let mut s = overlay();
    let tunnel = |n| Entry::Adjacency { egress: Egress::tunnel(n), bridge: 1 };
    s.fdb.set_static(crate::fdb::key(1, B), Egress::tunnel(0));
    let expected = s.run(1, vec![frame(B, C, 60)]);
    assert_eq!(s.inject(tunnel(0), frame(B, C, 60)), expected);
    assert_eq!((s.inject(tunnel(1), frame(B, C, 60)), &s.drops[..]), (vec![], &[(Drop::VxlanNoNeighbour, 1)][..]));
}

#[test]
fn an_unknown_vtep_may_be_learned() {
    let mut s = overlay();
    s.tables.overlay.as_mut().unwrap().learn_vteps = true;
    let mut outer = [from_peer(60), frame(ALL, B, 60)].concat();
    outer[29] = 77;
    checksum(&mut outer);
    assert_eq!(s.run(0, vec![outer.clone()]), [(1, frame(ALL, B, 60))]);
    assert_eq!(s.sink.punts, [Punt { bridge: 1, ..for_host(PuntReason::Vtep, &outer) }]);
    assert_eq!(s.tally.punted, 0, "it goes on");
    assert_eq!(s.fdb.used(), 0, "its place has no number yet");
}

#[test]
fn arp_and_ping_go_to_the_slow_path() {
    let mut s = overlay();
    let mut arp = frame(ALL, PEER_MAC.0, 60);
    arp[12..14].copy_from_slice(&[0x08, 0x06]);
    let mut ping = from_peer(60);
    ping.resize(200, 7);
    ping[23] = 1;
    checksum(&mut ping);
    assert_eq!(s.run(0, vec![arp.clone(), ping.clone()]), []);
    let expected = [for_host(PuntReason::Arp, &arp), for_host(PuntReason::Icmp, &ping)];
    assert_eq!((s.tally.punted, &s.sink.punts[..]), (2, &expected[..]));
    s.sink.full = true;
    s.run(0, vec![arp]);
    assert_eq!(s.drops, [(Drop::UnderlayPuntFull, 1)]);
}

#[test]
fn a_full_fdb_floods_and_says_so() {
    let mut s = three_ports();
    s.fdb = Fdb::new(1, [1, 2]);
    s.run(0, vec![frame(ALL, A, 60)]);
    assert_eq!(s.run(1, vec![frame(A, B, 60)]), [(0, frame(A, B, 60))]);
    assert_eq!(s.tally.counts[Count::NotLearned.index()], 1);
    assert_eq!(s.run(0, vec![frame(B, A, 60)]).len(), 2);
}

/// 100,000 frames, random and mutated from valid ones, on every kind of port: no panic, and all are accounted for (`run`).
#[test]
fn any_bytes_are_accounted_for() {
    let mut x = 0x2545_f491_4f6c_dd1du64;
    let mut random = move |n: usize| {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        (x >> 11) as usize % n
    };
    let mut switches = [three_ports(), trunk(), overlay()];
    switches[2].tables.overlay.as_mut().unwrap().learn_vteps = true;
    let seeds = [
        frame(B, A, 60),
        frame(ALL, C, 1514),
        tagged(B, A, 10, 64),
        [from_peer(60), frame(ALL, B, 60)].concat(),
        [from_peer(1400), frame(A, B, 1400)].concat(),
    ];
    let mut reasons = HashSet::new();
    for _ in 0..100_000 / 20 {
        let switch = &mut switches[random(3)];
        let port = random(switch.tables.ports.len()) as u16;
        let mut burst = Vec::new();
        for _ in 0..20 {
            let mut f = seeds[random(seeds.len())].clone();
            match random(4) {
                0 => (0..random(200)).for_each(|i| f[i % 60] = random(256) as u8),
                1 => f.truncate(random(f.len() + 1)),
                2 => {
                    let at = random(60);
                    f[at] ^= 1 << random(8);
                    if f.len() > 50 {
                        checksum(&mut f);
                    }
                }
                _ => f.resize(random(2000), 0x5a),
            }
            burst.push(f);
        }
        switch.run(port, burst);
        switch.sink.punts.clear();
        reasons.extend(switch.drops.iter().map(|(reason, _)| reason.name()));
    }
    assert!(reasons.len() >= 10, "the frames reached {} drop reasons: {reasons:?}", reasons.len());
}

const TAKES_TSO: Accepts = Accepts { csum: true, tso4: true, tso6: false, ecn: true, uso4: false, uso6: false };

#[test]
fn a_frame_leaves_whole_or_in_pieces_as_each_receiver_takes_it() {
    let mut s = three_ports();
    s.sink.accepts.insert(2, TAKES_TSO);
    let pieces = [(1, TSO4_0.to_vec()), (1, TSO4_1.to_vec()), (1, TSO4_2.to_vec())];
    // Flooded: one head for both.
    let sent = s.run_undone(0, vec![(TSO4.to_vec(), Some(ASK_TSO4))]);
    assert_eq!((&sent[..3], &sent[3..]), (&pieces[..], &[(2, TSO4.to_vec())][..]));
    assert_eq!((&s.sink.undone[..], s.sink.segments), (&[(2, ASK_TSO4)][..], 2));
    // Known: to the one, to the other.
    for (port, sent) in [(1, &pieces[..]), (2, &[(2, TSO4.to_vec())])] {
        s.run(port, vec![frame(ALL, B, 60)]);
        assert_eq!(s.run_undone(0, vec![(TSO4.to_vec(), Some(ASK_TSO4))]), sent);
    }
    let sent = s.run_undone(0, vec![(UDP4.to_vec(), Some(ASK_UDP)), (UDP4_DONE.to_vec(), None)]);
    assert_eq!(sent, [(2, UDP4.to_vec()), (2, UDP4_DONE.to_vec())]);
    assert_eq!(s.sink.undone, [(2, ASK_UDP)]);
}

/// `frame` with tags after its addresses.
fn with_tags(frame: &[u8], tags: &[u8]) -> Vec<u8> {
    [&frame[..12], tags, &frame[12..]].concat()
}

#[test]
fn tags_come_and_go_around_what_is_undone() {
    let mut s = trunk();
    let (blue, inner) = (&[0x81, 0, 0, 10], &[0x88, 0xa8, 0, 7]);
    let later = |offload: Offload, n: u16| Offload { csum_start: offload.csum_start + n, ..offload };
    s.sink.accepts.insert(3, TAKES_TSO);
    for tags in [&[][..], inner] {
        let n = tags.len() as u16;
        let inside = |f: &[u8]| with_tags(f, tags);
        let outside = |f: &[u8]| with_tags(f, &[blue, tags].concat());
        s.sink.accepts.remove(&0);
        s.run(0, vec![tagged(ALL, B, 10, 64)]);
        // Pushed, in pieces and whole.
        let sent =
            s.run_undone(1, vec![(inside(TSO4), Some(later(ASK_TSO4, n))), (inside(UDP4), Some(later(ASK_UDP, n)))]);
        assert_eq!(sent, [TSO4_0, TSO4_1, TSO4_2, UDP4_DONE].map(|f| (0, outside(f))));
        s.sink.accepts.insert(0, TAKES_TSO);
        let sent =
            s.run_undone(1, vec![(inside(TSO4), Some(later(ASK_TSO4, n))), (inside(UDP4), Some(later(ASK_UDP, n)))]);
        assert_eq!(sent, [TSO4, UDP4].map(|f| (0, outside(f))));
        assert_eq!(s.sink.undone, [(0, later(ASK_TSO4, n + 4)), (0, later(ASK_UDP, n + 4))]);
        // Popped, but not if there is another one behind it.
        s.run(1, vec![frame(ALL, B, 60)]);
        if !tags.is_empty() {
            assert_eq!(s.run_undone(0, vec![(outside(TSO4), Some(later(ASK_TSO4, n + 4)))]), []);
            assert_eq!(s.drops, [(Drop::VlanDoubleTag, 1)]);
            continue;
        }
        let sent = s.run_undone(0, vec![(outside(TSO4), Some(later(ASK_TSO4, n + 4)))]);
        assert_eq!(sent, [TSO4_0, TSO4_1, TSO4_2].map(|f| (1, inside(f))));
        s.sink.accepts.insert(1, TAKES_TSO);
        let sent = s.run_undone(0, vec![(outside(TSO4), Some(later(ASK_TSO4, n + 4)))]);
        assert_eq!((sent, &s.sink.undone[..]), (vec![(1, inside(TSO4))], &[(1, later(ASK_TSO4, n))][..]));
        s.sink.accepts.remove(&1);
    }
}

#[test]
fn nothing_is_left_undone_inside_vxlan() {
    let mut s = overlay();
    s.fdb.set_static(crate::fdb::key(1, B), Egress::tunnel(0));
    s.sink.accepts.insert(0, TAKES_TSO);
    let sent = s.run_undone(1, vec![(TSO4.to_vec(), Some(ASK_TSO4)), (UDP4.to_vec(), Some(ASK_UDP))]);
    let inner = [TSO4_0, TSO4_1, TSO4_2, UDP4_DONE];
    assert_eq!((sent.len(), s.sink.segments, &s.sink.undone[..]), (4, 2, &[][..]));
    // Inner lengths are 62, 62, 59 and 45; the checksums were computed apart from this code.
    for (((_, outer), inner), (len, checksum)) in
        sent.iter().zip(inner).zip([(98, [0x26, 0x77]), (98, [0x26, 0x77]), (95, [0x26, 0x7a]), (81, [0x26, 0x88])])
    {
        let class = inner[15];
        #[rustfmt::skip]
        let expected = [
            2, 0x99, 0, 0, 0, 2,  2, 0x99, 0, 0, 0, 1,  0x08, 0x00,
            0x45, class, 0, len,  0, 0, 0x40, 0,  64, 17, checksum[0], checksum[1] - class,  10, 9, 0, 1,  10, 9, 0, 2,
            outer[34], outer[35], 0x12, 0xb5,  0, len - 20, 0, 0,
            0x08, 0, 0, 0,  0, 0, 42, 0,
        ];
        assert_eq!(outer[..50], expected);
        assert_eq!(outer[50..], *inner);
    }
    // All pieces are one flow.
    assert!(sent[..3].iter().all(|(_, f)| f[34..36] == sent[0].1[34..36]));
    // Of copies that flooding makes, too.
    s.fdb.remove(crate::fdb::key(1, B));
    let sent = s.run_undone(1, vec![(TSO4.to_vec(), Some(ASK_TSO4))]);
    let inner: Vec<_> = sent.iter().map(|(_, f)| &f[50..]).collect();
    assert_eq!(inner, [TSO4_0, TSO4_1, TSO4_2]);
    assert!(sent.iter().all(|(_, f)| f[16..18] == (f.len() as u16 - 14).to_be_bytes()));
}

/// Whatever it was put into on its way: a port that spreads flows over its rings has no need to look behind tags and outer headers.
#[test]
fn a_port_is_told_the_flow_of_what_is_inside() {
    let mut s = trunk();
    s.run(0, vec![tagged(ALL, A, 10, 64)]);
    s.sink.accepts.insert(1, TAKES_TSO);
    // To an untagged port, behind a tag, in a tunnel, in copies for two; whole and in pieces.
    let other = [&TSO4[..35], &[TSO4[35] ^ 1], &TSO4[36..]].concat();
    let burst = || vec![(TSO4.to_vec(), Some(ASK_TSO4)), (other.clone(), Some(ASK_TSO4)), (frame(B, A, 60), None)];
    s.sink.accepts.insert(3, TAKES_TSO);
    assert_eq!(s.run_undone(0, burst()).iter().map(|(port, _)| *port).collect::<Vec<_>>(), [3, 3, 3]);
    let [one, two, plain] = s.sink.flows[..] else { panic!("{:?}", s.sink.flows) };
    assert!(one != two && two != plain);
    let pieces = [&[one; 3][..], &[two; 3], &[plain]].concat();
    s.run_undone(1, burst());
    assert_eq!(s.sink.flows, pieces, "tagged, in pieces");
    s.sink.accepts.insert(0, TAKES_TSO);
    s.run_undone(1, burst());
    assert_eq!(s.sink.flows, [one, two, plain], "tagged, whole");
    let mut s = overlay();
    s.tables.adjacencies.tunnels[1] = s.tables.adjacencies.encaps[0].tunnel(0, OTHER, PEER_MAC);
    for tunnels in [2, 1] {
        let sent = s.run_undone(1, burst());
        let mut expected = pieces.repeat(tunnels);
        let mut flows = s.sink.flows.clone();
        expected.sort();
        flows.sort();
        assert_eq!(flows, expected, "by {tunnels} tunnels");
        for ((_, outer), flow) in sent.iter().zip(&s.sink.flows) {
            assert_eq!(outer[34..36], (0xc000 | *flow as u16 & 0x3fff).to_be_bytes());
        }
        s.fdb.set_static(crate::fdb::key(1, B), Egress::tunnel(0));
    }
}

#[test]
fn the_underlays_mtu_is_for_the_longest_piece() {
    let mut s = overlay();
    s.fdb.set_static(crate::fdb::key(1, B), Egress::tunnel(0));
    let long = |payload: usize| [&TSO4[..54], &vec![7; payload]].concat();
    let ask = |gso_size| Some(Offload { gso_size, ..ASK_TSO4 });
    // 1,500 bytes are left for 36 of outer headers, 54 of inner ones, and 1,410 of payload.
    let sent = s.run_undone(1, vec![(long(9000), ask(1410)), (long(1410), ask(9000))]);
    assert_eq!(sent.iter().map(|(_, f)| f.len()).max(), Some(1514));
    assert_eq!(sent.len(), 8);
    assert_eq!(s.run_undone(1, vec![(long(9000), ask(1411)), (long(1411), ask(9000))]), []);
    assert_eq!(s.drops, [(Drop::VxlanTooBig, 2)]);
}

#[test]
fn of_an_outer_packet_only_what_is_inside_stays_undone() {
    let mut s = overlay();
    s.sink.accepts.insert(1, TAKES_TSO);
    s.run(1, vec![frame(ALL, B, 60)]);
    let outer = [from_peer(UDP4.len()), UDP4.to_vec()].concat();
    let ask = |csum_start, csum_offset| Some(Offload { csum_start, csum_offset, ..ASK_UDP });
    // The inner packet's checksum.
    assert_eq!(s.run_undone(0, vec![(outer.clone(), ask(84, 6))]), [(1, UDP4.to_vec())]);
    assert_eq!(s.sink.undone, [(1, ASK_UDP)]);
    // The outer one's; one that begins outside and ends within; one in the padding.
    let padded = [&outer[..], &[0; 6]].concat();
    for ask in [ask(34, 6), ask(34, 60), ask(60, 34), ask(95, 0)] {
        assert_eq!(s.run_undone(0, vec![(padded.clone(), ask)]), [(1, UDP4.to_vec())]);
        assert_eq!(s.sink.undone, []);
    }
    // An outer packet that is itself to be cut.
    assert_eq!(s.run_undone(0, vec![(TSO4.to_vec(), Some(ASK_TSO4))]), []);
    assert_eq!(s.drops, [(Drop::UnderlayGso, 1)]);
    assert_eq!(s.sink.punts, []);
}

/// What another Dray hands to a veth device: outer packets of one flow as one packet of datagrams.
#[test]
fn outer_packets_that_come_as_one_are_taken_apart() {
    let mut s = overlay();
    s.run(1, vec![frame(ALL, B, 60)]);
    let inner = |n: u8, len: usize| [&frame(B, A, 60)[..], &vec![n; len - 60]].concat();
    let datagrams = |all: &[Vec<u8>]| {
        let mut bytes = from_peer(all[0].len());
        let payloads: Vec<u8> = all.iter().flat_map(|inner| [&bytes[42..50], inner].concat()).collect();
        bytes.truncate(42);
        bytes.extend(payloads);
        let (ip, udp) = ((bytes.len() - 14) as u16, (bytes.len() - 34) as u16);
        bytes[16..18].copy_from_slice(&ip.to_be_bytes());
        bytes[38..40].copy_from_slice(&udp.to_be_bytes());
        checksum(&mut bytes);
        let gso_size = all[0].len() as u16 + 8;
        (bytes, Some(Offload { csum_start: 34, csum_offset: 6, gso: Gso::Udp4, gso_size, ecn: false }))
    };
    let single = |n| ([from_peer(300), inner(n, 300)].concat(), None);
    // In order, the last of each packet shorter, and more of them than a burst has.
    let many: Vec<Vec<u8>> = (0..80).map(|n| inner(n, 100)).chain([inner(80, 99)]).collect();
    let few = [inner(101, 1400), inner(102, 1400)];
    let sent = s.run_undone(0, vec![single(200), datagrams(&many), single(201), datagrams(&few)]);
    let expected = [&[inner(200, 300)][..], &many, &[inner(201, 300)], &few].concat();
    assert_eq!(sent.len(), expected.len());
    assert!(sent.iter().zip(&expected).all(|((port, bytes), inner)| *port == 1 && bytes == inner));
    assert_eq!(s.tally.segments, 80 + 1);
    assert_eq!(s.drops, []);
    // As many as one may have are taken; then it is enough for this burst.
    let tiny = |bytes: usize| {
        let ask = Offload { csum_start: 34, csum_offset: 6, gso: Gso::Udp4, gso_size: 1, ecn: false };
        ([&datagrams(&few).0[..42], &vec![0; bytes]].concat(), Some(ask))
    };
    assert_eq!(s.run_undone(0, (0..9).map(|_| tiny(1024)).collect()), []);
    assert_eq!(s.drops.iter().find(|(reason, _)| *reason == Drop::UnderlayGso), Some(&(Drop::UnderlayGso, 1)));
}

/// What the kernel's own vxlan device hands to a veth device: one large packet, of which what is inside is still to be cut.
#[test]
fn what_vxlan_carries_may_be_left_to_be_cut() {
    let mut s = overlay();
    s.run(1, vec![frame(ALL, B, 60)]);
    let mut outer = [from_peer(TSO4.len()), TSO4.to_vec()].concat();
    // The sum of a pseudo-header: an outer checksum is left undone, too.
    outer[40..42].copy_from_slice(&[0x2f, 0xc6]);
    let ask = Offload { csum_start: 84, ..ASK_TSO4 };
    s.sink.accepts.insert(1, TAKES_TSO);
    assert_eq!(s.run_undone(0, vec![(outer.clone(), Some(ask))]), [(1, TSO4.to_vec())]);
    assert_eq!(s.sink.undone, [(1, ASK_TSO4)]);
    s.sink.accepts.clear();
    let pieces = [TSO4_0, TSO4_1, TSO4_2].map(|piece| (1, piece.to_vec()));
    assert_eq!(s.run_undone(0, vec![(outer.clone(), Some(ask))]), pieces);
    // Bytes behind the outer packet, which would be in the last piece; and a port that is not the underlay's.
    let padded = [&outer[..], &[0; 6]].concat();
    for (port, bytes, reason) in [(0, padded, Drop::VxlanBadOuter), (1, outer.clone(), Drop::RxBadOffload)] {
        assert_eq!(s.run_undone(port, vec![(bytes, Some(ask))]), []);
        assert_eq!(s.drops, [(reason, 1)]);
    }
    // An IP option, another protocol, a fragment, and what is inside another one.
    for (at, value) in [(14, 0x46), (23, wire::TCP), (20, 0x20), (50 + 13, 6)] {
        let mut other = outer.clone();
        other[at] = value;
        let mut burst = Burst::default();
        burst.set_head_len(HEAD_MAX);
        burst.push_owned(other);
        assert!(!burst.set_offload(ask), "byte {at}");
    }
}

#[test]
fn what_goes_to_the_slow_path_is_complete() {
    let mut s = overlay();
    let mut ping = from_peer(60);
    ping.resize(111, 7);
    ping[23] = 1;
    checksum(&mut ping);
    ping[34..38].copy_from_slice(&[8, 0, 0, 0]);
    let undone = Offload { csum_start: 34, csum_offset: 2, gso: Gso::None, gso_size: 0, ecn: false };
    s.run_undone(0, vec![(ping.clone(), Some(undone))]);
    let [Punt { reason: PuntReason::Icmp, frame: done, .. }] = &s.sink.punts[..] else { panic!("{:?}", s.sink.punts) };
    assert_ne!(done[36..38], [0, 0]);
    let words = done[34..].chunks(2).map(|w| u16::from_be_bytes([w[0], *w.get(1).unwrap_or(&0)]) as u64);
    assert_eq!(words.sum::<u64>() % 0xffff, 0);
    assert_eq!((&done[..36], &done[38..]), (&ping[..36], &ping[38..]));
}
