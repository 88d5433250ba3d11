use super::vtep::MAX_LEARNED;
use super::*;
use dray_config::Local;
use std::collections::BTreeSet;

const OURS: Mac = Mac([2, 0, 0, 0, 0, 1]);
const LOCAL: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 1);
const PEER: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 2);
const FAR: Ipv4Addr = Ipv4Addr::new(10, 8, 0, 7);

fn vxlan() -> Vxlan {
    Vxlan {
        port: "uplink".into(),
        local: Local { address: LOCAL, prefix: 24 },
        gateway: Some(Ipv4Addr::new(10, 9, 0, 254)),
        peers: vec![PEER],
        neighbours: vec![],
        udp_port: 4789,
        learn_vteps: false,
        mtu: 1500,
    }
}

fn slowpath() -> SlowPath {
    let mut slowpath = SlowPath::new(&vxlan(), OURS, HashSet::from([PEER]));
    slowpath.take_change();
    slowpath
}

/// Gives it a frame as workers do. What it sends: one frame at most.
fn take(slowpath: &mut SlowPath, frame: &[u8], now: Instant) -> Option<Vec<u8>> {
    let reason = if frame.get(12..14) == Some(&[0x08, 0x06]) { PuntReason::Arp } else { PuntReason::Icmp };
    let mut sent = slowpath.take(&Punt { reason, port: 3, bridge: 0, frame: frame.to_vec() }, now);
    assert!(sent.len() <= 1, "{sent:02x?}");
    sent.pop()
}

/// A VTEP has sent something, of which workers leave the head. What it sends.
fn hear(slowpath: &mut SlowPath, vtep: Ipv4Addr, now: Instant) -> Vec<Vec<u8>> {
    let mut frame = [&OURS.0[..], &THEIRS, &[0x08, 0x00, 0x45, 0, 5, 220, 0, 0, 0, 0, 64, 17, 0, 0]].concat();
    frame.extend([vtep.octets(), LOCAL.octets()].concat());
    slowpath.take(&Punt { reason: PuntReason::Vtep, port: 3, bridge: 1, frame }, now)
}

fn after(seconds: u64) -> Instant {
    static START: std::sync::OnceLock<Instant> = std::sync::OnceLock::new();
    *START.get_or_init(Instant::now) + Duration::from_secs(seconds)
}

/// An ARP packet with the operation, sender and target given, padded to 60 bytes.
fn arp(to: [u8; 6], op: u8, mac: [u8; 6], ip: [u8; 4], target_mac: [u8; 6], target: [u8; 4]) -> Vec<u8> {
    let header = [0x08, 0x06, 0, 1, 8, 0, 6, 4, 0, op];
    let mut bytes = [&to[..], &mac, &header, &mac, &ip, &target_mac, &target].concat();
    bytes.resize(60, 0);
    bytes
}

const ALL: [u8; 6] = [0xff; 6];
const THEIRS: [u8; 6] = [2, 0, 0, 0, 0, 9];

#[test]
fn announces_itself_and_asks_once_a_second() {
    let mut slowpath = slowpath();
    let announcement = arp(ALL, 1, OURS.0, [10, 9, 0, 1], [0; 6], [10, 9, 0, 1]);
    let request = arp(ALL, 1, OURS.0, [10, 9, 0, 1], [0; 6], [10, 9, 0, 2]);
    assert_eq!(slowpath.tick(after(0)), [announcement, request.clone()]);
    assert!(slowpath.tick(after(0) + Duration::from_millis(900)).is_empty());
    assert_eq!(slowpath.tick(after(1)), [request]);
}

#[test]
fn resolves_refreshes_and_expires() {
    let mut slowpath = slowpath();
    slowpath.tick(after(0));
    assert_eq!(slowpath.vteps()[0].state, "resolving");
    assert_eq!(take(&mut slowpath, &arp(OURS.0, 2, THEIRS, [10, 9, 0, 2], OURS.0, [10, 9, 0, 1]), after(0)), None);
    assert!(slowpath.take_change());
    assert_eq!(slowpath.underlay().neighbours, HashMap::from([(PEER, Mac(THEIRS))]));
    assert_eq!(slowpath.vteps()[0].state, "resolved");
    assert!(slowpath.tick(after(29)).is_empty());

    let to_it = arp(THEIRS, 1, OURS.0, [10, 9, 0, 1], [0; 6], [10, 9, 0, 2]);
    let to_all = arp(ALL, 1, OURS.0, [10, 9, 0, 1], [0; 6], [10, 9, 0, 2]);
    assert_eq!(slowpath.tick(after(30)), [to_it]);
    assert_eq!(slowpath.tick(after(45)), std::slice::from_ref(&to_all));
    assert!(!slowpath.take_change());
    assert_eq!(slowpath.tick(after(60)), [to_all]);
    assert!(slowpath.take_change());
    assert!(slowpath.underlay().neighbours.is_empty());
}

#[test]
fn answers_for_its_own_address_only() {
    let mut slowpath = slowpath();
    let who = |target| arp(ALL, 1, THEIRS, [10, 9, 0, 77], [0; 6], target);
    let answer = take(&mut slowpath, &who([10, 9, 0, 1]), after(0));
    assert_eq!(answer, Some(arp(THEIRS, 2, OURS.0, [10, 9, 0, 1], THEIRS, [10, 9, 0, 77])));
    assert_eq!(take(&mut slowpath, &who([10, 9, 0, 3]), after(0)), None);
    assert!(!slowpath.take_change(), "10.9.0.77 leads to no VTEP and must not be entered");
    // A probe (RFC 5227) has no sender address.
    let probe = arp(ALL, 1, THEIRS, [0; 4], [0; 6], [10, 9, 0, 1]);
    assert_eq!(take(&mut slowpath, &probe, after(0)), Some(arp(THEIRS, 2, OURS.0, [10, 9, 0, 1], THEIRS, [0; 4])));
}

#[test]
fn reports_who_claims_its_address_once() {
    let mut slowpath = slowpath();
    slowpath.tick(after(0));
    for _ in 0..3 {
        assert_eq!(take(&mut slowpath, &arp(ALL, 1, THEIRS, [10, 9, 0, 1], [0; 6], [10, 9, 0, 1]), after(0)), None);
    }
    assert_eq!(slowpath.take_notices(), ["02:00:00:00:00:09 claims our address 10.9.0.1 too"]);
    let defence = arp(ALL, 1, OURS.0, [10, 9, 0, 1], [0; 6], [10, 9, 0, 1]);
    assert_eq!(slowpath.tick(after(0)), std::slice::from_ref(&defence));
    // Two that claim one address must not drive each other on.
    take(&mut slowpath, &arp(ALL, 1, THEIRS, [10, 9, 0, 1], [0; 6], [10, 9, 0, 1]), after(9));
    assert!(!slowpath.tick(after(9)).contains(&defence));
    take(&mut slowpath, &arp(ALL, 1, THEIRS, [10, 9, 0, 1], [0; 6], [10, 9, 0, 1]), after(10));
    assert!(slowpath.tick(after(10)).contains(&defence));
}

#[test]
fn a_group_address_is_nobodys() {
    let mut slowpath = slowpath();
    take(&mut slowpath, &arp(OURS.0, 2, [1, 0, 0x5e, 0, 0, 1], [10, 9, 0, 2], OURS.0, [10, 9, 0, 1]), after(0));
    take(&mut slowpath, &arp(OURS.0, 2, ALL, [10, 9, 0, 2], OURS.0, [10, 9, 0, 1]), after(0));
    assert!(slowpath.underlay().neighbours.is_empty());
}

#[rustfmt::skip]
const PING: [u8; 60] = [
    2, 0, 0, 0, 0, 1,  2, 0, 0, 0, 0, 9,  0x08, 0x00,
    0x45, 0, 0, 32,  0, 7, 0, 0,  64, 1, 0x66, 0xc1,  10, 9, 0, 2,  10, 9, 0, 1,
    8, 0, 0x52, 0xda,  0x12, 0x34, 0, 1,  b'd', b'r', b'a', b'y',
    0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
];

/// The Internet checksum (RFC 1071).
fn checksum(bytes: &[u8]) -> u16 {
    let mut sum: u32 = bytes.chunks(2).map(|w| u32::from(w[0]) << 8 | u32::from(*w.get(1).unwrap_or(&0))).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

/// [`PING`] with right checksums.
fn ping() -> [u8; 60] {
    let mut ping = PING;
    (ping[16], ping[17]) = (0, 32);
    for (range, at) in [(14..34, 24), (34..46, 36)] {
        ping[at..at + 2].fill(0);
        let sum = checksum(&ping[range]);
        ping[at..at + 2].copy_from_slice(&sum.to_be_bytes());
    }
    ping
}

#[test]
fn answers_a_ping() {
    let answer = take(&mut slowpath(), &ping(), after(0)).unwrap();
    assert_eq!(answer.len(), 60);
    assert_eq!(answer[..14], [2, 0, 0, 0, 0, 9, 2, 0, 0, 0, 0, 1, 0x08, 0x00]);
    assert_eq!(answer[14..18], [0x45, 0, 0, 32]);
    assert_eq!(answer[22..24], [64, 1]);
    assert_eq!(answer[26..34], [10, 9, 0, 1, 10, 9, 0, 2]);
    assert_eq!(answer[34..36], [0, 0]);
    assert_eq!(answer[38..46], [0x12, 0x34, 0, 1, b'd', b'r', b'a', b'y']);
    assert_eq!((checksum(&answer[14..34]), checksum(&answer[34..46])), (0, 0));
}

#[test]
fn a_flood_of_pings_is_answered_in_part_and_arp_all_the_same() {
    let mut slowpath = slowpath();
    let answered = |slowpath: &mut SlowPath, second| {
        (0..5000).filter(|_| take(slowpath, &ping(), after(second)).is_some()).count()
    };
    assert_eq!(answered(&mut slowpath, 0), 1000);
    assert!(take(&mut slowpath, &arp(ALL, 1, THEIRS, [10, 9, 0, 77], [0; 6], [10, 9, 0, 1]), after(0)).is_some());
    assert_eq!(answered(&mut slowpath, 1), 1000);
    let said = "more than 1000 pings in a second: the others are not answered";
    assert_eq!(slowpath.take_notices(), [said, said]);
}

#[test]
fn a_configured_neighbour_is_not_asked_for_and_stays() {
    let mut slowpath = slowpath();
    let mac = Mac([2, 0, 0, 0, 0, 7]);
    let neighbours = vec![dray_config::Neighbour { address: PEER, mac }];
    let with = Vxlan { neighbours, learn_vteps: true, ..vxlan() };
    slowpath.configure(&with, OURS, HashSet::from([PEER]));
    assert!(slowpath.tick(after(0)).iter().all(|frame| frame[38..42] != PEER.octets()), "it is asked for");
    slowpath.take_change();
    take(&mut slowpath, &arp(OURS.0, 2, THEIRS, [10, 9, 0, 2], OURS.0, [10, 9, 0, 1]), after(0));
    assert!(!slowpath.take_change() && slowpath.take_notices().is_empty());
    assert!(slowpath.tick(after(100)).is_empty());
    assert_eq!(slowpath.underlay().neighbours, HashMap::from([(PEER, mac)]));
    assert_eq!((slowpath.vteps()[0].mac, slowpath.vteps()[0].state.as_str()), (Some(mac), "static"));
    // It may ask us, as all may.
    assert!(take(&mut slowpath, &arp(ALL, 1, mac.0, [10, 9, 0, 2], [0; 6], [10, 9, 0, 1]), after(0)).is_some());
    slowpath.configure(&vxlan(), OURS, HashSet::from([PEER]));
    assert!(slowpath.take_change() && slowpath.underlay().neighbours.is_empty());
}

#[test]
fn does_not_answer_what_is_not_a_ping_for_us() {
    let mut slowpath = slowpath();
    let cases: [(usize, u8); 6] = [(5, 2), (20, 0x20), (23, 17), (33, 3), (34, 0), (45, b'!')];
    for (at, byte) in cases {
        let mut frame = ping();
        frame[at] = byte;
        assert_eq!(take(&mut slowpath, &frame, after(0)), None, "byte {at}");
    }
    for len in 0..46 {
        assert_eq!(take(&mut slowpath, &ping()[..len], after(0)), None, "{len} bytes");
    }
}

#[test]
fn any_bytes_are_survived() {
    let mut slowpath = slowpath();
    let mut state = 1u64;
    for _ in 0..100_000 {
        let mut frame = if state & 1 == 0 { ping().to_vec() } else { arp(ALL, 1, THEIRS, [0; 4], ALL, [0; 4]) };
        for _ in 0..4 {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let at = (state >> 33) as usize % frame.len();
            frame[at] = (state >> 56) as u8;
        }
        frame.truncate((state >> 20) as usize % 61);
        take(&mut slowpath, &frame, after(0));
    }
    assert_eq!(slowpath.protocols.arp.hops().len(), 1);
}

#[test]
fn learns_vteps_only_if_told_to_and_not_too_many() {
    let mut slowpath = slowpath();
    hear(&mut slowpath, FAR, after(0));
    assert!(!slowpath.take_change());

    let vxlan = Vxlan { learn_vteps: true, ..vxlan() };
    slowpath.configure(&vxlan, OURS, HashSet::from([PEER]));
    slowpath.take_change();
    for ip in [PEER, LOCAL, Ipv4Addr::BROADCAST, Ipv4Addr::UNSPECIFIED, Ipv4Addr::new(224, 0, 0, 1)] {
        hear(&mut slowpath, ip, after(0));
        assert!(!slowpath.take_change(), "{ip}");
    }
    let request = arp(ALL, 1, OURS.0, [10, 9, 0, 1], [0; 6], [10, 9, 0, 254]);
    assert_eq!(hear(&mut slowpath, FAR, after(0)), [request], "a far VTEP is reached by way of the gateway");
    assert!(hear(&mut slowpath, FAR, after(0)).is_empty());
    assert!(slowpath.take_change());
    assert_eq!(slowpath.underlay().learned, BTreeSet::from([FAR]));
    let learned = (0..10_000u32).filter(|n| {
        hear(&mut slowpath, Ipv4Addr::from(0x0b00_0000 + n), after(0));
        slowpath.take_change()
    });
    assert_eq!(learned.count(), MAX_LEARNED - 1);
    assert_eq!(slowpath.underlay().learned.len(), MAX_LEARNED);
}

#[test]
fn learned_vteps_age() {
    let mut slowpath = slowpath();
    slowpath.configure(&Vxlan { learn_vteps: true, ..vxlan() }, OURS, HashSet::from([PEER]));
    hear(&mut slowpath, FAR, after(0));
    let ageing = Duration::from_secs(300);
    slowpath.age(&HashSet::from([FAR]), ageing, after(200));
    slowpath.age(&HashSet::new(), ageing, after(499));
    assert!(slowpath.has_learned());
    slowpath.take_change();
    slowpath.age(&HashSet::new(), ageing, after(500));
    assert!(!slowpath.has_learned() && slowpath.take_change());
    assert_eq!(slowpath.protocols.arp.hops(), [PEER]);
}

#[test]
fn a_new_configuration_keeps_what_is_still_right() {
    let mut slowpath = slowpath();
    slowpath.tick(after(0));
    take(&mut slowpath, &arp(OURS.0, 2, THEIRS, [10, 9, 0, 2], OURS.0, [10, 9, 0, 1]), after(0));
    slowpath.configure(&vxlan(), OURS, HashSet::from([PEER, Ipv4Addr::new(10, 9, 0, 3)]));
    assert_eq!(slowpath.underlay().neighbours.len(), 1);
    // Only the new one is asked for; nothing is announced, as nothing about us has changed.
    assert_eq!(slowpath.tick(after(1)), [arp(ALL, 1, OURS.0, [10, 9, 0, 1], [0; 6], [10, 9, 0, 3])]);
    slowpath.configure(&vxlan(), Mac(THEIRS), HashSet::from([PEER]));
    assert_eq!(slowpath.tick(after(1)), [arp(ALL, 1, THEIRS, [10, 9, 0, 1], [0; 6], [10, 9, 0, 1])]);
}
