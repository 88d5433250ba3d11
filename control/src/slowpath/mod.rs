//! The VTEP's slow path: ARP (RFC 826) and ping (RFC 792) on the underlay, and the VTEPs that were learned.
//!
//! Pure: frames and time go in, frames come out. Frames are what the workers could not decide by themselves, so their
//! content is hostile: an address is only ever learned if we need it to reach a VTEP.

use dray_api::VtepInfo;
use dray_config::{Mac, Vxlan};
use dray_dataplane::Underlay;
use smoltcp::phy::ChecksumCapabilities;
use smoltcp::wire::{
    ArpOperation, ArpPacket, ArpRepr, EthernetAddress, EthernetFrame, EthernetProtocol, Icmpv4Packet, Icmpv4Repr,
    IpProtocol, Ipv4Packet, Ipv4Repr,
};
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

/// An address that is not known, or no longer sure, is asked for so often.
const ASK: Duration = Duration::from_secs(1);
/// A known address is asked for again, at the neighbour itself.
const REFRESH: Duration = Duration::from_secs(30);
/// It did not answer: everybody is asked.
const REFRESH_ALL: Duration = Duration::from_secs(45);
/// It is given up.
const EXPIRE: Duration = Duration::from_secs(60);
/// Between two defences of our address (RFC 5227, section 2.4, DEFEND_INTERVAL).
const DEFEND: Duration = Duration::from_secs(10);
/// VTEPs that may be learned; more are ignored.
const MAX_LEARNED: usize = 4096;
/// Lines for the log between two calls of [`Overlay::take_notices`]; a neighbour can cause as many as it likes.
const MAX_NOTICES: usize = 16;
/// Echo requests that are answered in a second. ARP comes first, and whoever asks for more has no right to our time.
const MAX_PINGS: u32 = 1000;
/// Requests a call of [`Overlay::tick`], so that thousands of VTEPs don't make a burst.
const MAX_REQUESTS: usize = 256;

const BROADCAST: EthernetAddress = EthernetAddress::BROADCAST;
/// Ethernet header, bytes.
const ETH: usize = 14;

/// The VTEP's own address, its neighbours and the other VTEPs.
pub struct Overlay {
    vxlan: Vxlan,
    mac: Mac,
    configured: BTreeSet<Ipv4Addr>,
    /// With the time when the FDB last had an entry behind it.
    learned: BTreeMap<Ipv4Addr, Instant>,
    /// All next hops, resolved or not.
    neighbours: BTreeMap<Ipv4Addr, Neighbour>,
    /// Those whose address is configured: they are not asked for, and nobody changes them.
    fixed: HashMap<Ipv4Addr, Mac>,
    /// Since when pings are counted, and how many came.
    pings: (Option<Instant>, u32),
    announce: bool,
    changed: bool,
    /// Who else claims our address.
    rival: Option<Mac>,
    defended: Option<Instant>,
    notices: Vec<String>,
}

#[derive(Default)]
struct Neighbour {
    /// Its address, and when it last said so.
    known: Option<(Mac, Instant)>,
    asked: Option<Instant>,
}

impl Overlay {
    /// The overlay of `vxlan`, whose underlay port has the address `mac`, with all configured VTEPs.
    pub fn new(vxlan: &Vxlan, mac: Mac, configured: HashSet<Ipv4Addr>) -> Self {
        let mut overlay = Overlay {
            vxlan: vxlan.clone(),
            mac,
            configured: configured.into_iter().collect(),
            learned: BTreeMap::new(),
            neighbours: BTreeMap::new(),
            fixed: fixed(vxlan),
            pings: (None, 0),
            announce: true,
            changed: true,
            rival: None,
            defended: None,
            notices: Vec::new(),
        };
        overlay.need();
        overlay
    }

    /// The configuration has changed. What is known of neighbours that are still needed, stays.
    pub fn configure(&mut self, vxlan: &Vxlan, mac: Mac, configured: HashSet<Ipv4Addr>) {
        if (self.vxlan.local.address, &self.vxlan.port, self.mac) != (vxlan.local.address, &vxlan.port, mac) {
            (self.announce, self.rival) = (true, None);
        }
        if self.vxlan.port != vxlan.port {
            self.neighbours.clear();
        }
        self.vxlan = vxlan.clone();
        self.fixed = fixed(vxlan);
        self.mac = mac;
        self.configured = configured.into_iter().collect();
        let learn = vxlan.learn_vteps;
        let (configured, local) = (&self.configured, vxlan.local.address);
        self.learned.retain(|ip, _| learn && *ip != local && !configured.contains(ip) && vxlan.next_hop(*ip).is_some());
        self.changed = true;
        self.need();
    }

    /// Drops the neighbours that lead to no VTEP, and adds those that are missing.
    fn need(&mut self) {
        let vteps = self.configured.iter().chain(self.learned.keys());
        let hops: HashSet<Ipv4Addr> = vteps.filter_map(|vtep| self.vxlan.next_hop(*vtep)).collect();
        self.neighbours.retain(|ip, _| hops.contains(ip));
        for hop in hops {
            self.neighbours.entry(hop).or_default();
        }
    }

    /// The underlay's link came up: tell everybody who we are, and ask at once for who is not known.
    pub fn link_up(&mut self) {
        self.announce = true;
        self.neighbours.values_mut().for_each(|neighbour| neighbour.asked = None);
    }

    /// A VTEP that is not configured sent a packet. Whether it is new, and was learned.
    pub fn heard(&mut self, vtep: Ipv4Addr, now: Instant) -> bool {
        let is_host = !(vtep.is_unspecified() || vtep.is_multicast() || vtep.is_broadcast() || vtep.is_loopback());
        let is_known = self.configured.contains(&vtep) || self.learned.contains_key(&vtep);
        let is_reachable = vtep != self.vxlan.local.address && self.vxlan.next_hop(vtep).is_some();
        if !self.vxlan.learn_vteps || !is_host || is_known || !is_reachable || self.learned.len() >= MAX_LEARNED {
            return false;
        }
        self.learned.insert(vtep, now);
        self.changed = true;
        if let Some(hop) = self.vxlan.next_hop(vtep) {
            self.neighbours.entry(hop).or_default();
        }
        true
    }

    /// Forgets learned VTEPs that no FDB entry has pointed to for `ageing`; `used` are those that one points to now.
    pub fn age(&mut self, used: &HashSet<Ipv4Addr>, ageing: Duration, now: Instant) {
        self.learned.iter_mut().filter(|(ip, _)| used.contains(ip)).for_each(|(_, seen)| *seen = now);
        let before = self.learned.len();
        self.learned.retain(|_, seen| now.saturating_duration_since(*seen) < ageing);
        if self.learned.len() != before {
            self.changed = true;
            self.need();
        }
    }

    /// Whether any VTEP was learned.
    pub fn has_learned(&self) -> bool {
        !self.learned.is_empty()
    }

    /// What the workers are to know, if it has changed since it was last asked.
    pub fn take_change(&mut self) -> bool {
        std::mem::take(&mut self.changed)
    }

    /// Lines for the log.
    pub fn take_notices(&mut self) -> Vec<String> {
        std::mem::take(&mut self.notices)
    }

    /// What the workers are to know.
    pub fn underlay(&self) -> Underlay {
        let known = |(ip, n): (&Ipv4Addr, &Neighbour)| self.mac_of(ip, n).map(|mac| (*ip, mac));
        let neighbours: HashMap<Ipv4Addr, Mac> = self.neighbours.iter().filter_map(known).collect();
        Underlay { neighbours, learned: self.learned.keys().copied().collect(), mac: Some(self.mac), mtu: None }
    }

    /// All VTEPs, for people.
    pub fn vteps(&self) -> Vec<VtepInfo> {
        let all: BTreeSet<&Ipv4Addr> = self.configured.iter().chain(self.learned.keys()).collect();
        let info = |&ip: &Ipv4Addr| {
            let next_hop = self.vxlan.next_hop(ip);
            let neighbour = next_hop.and_then(|hop| self.neighbours.get_key_value(&hop));
            let mac = neighbour.and_then(|(hop, n)| self.mac_of(hop, n));
            let state = match (next_hop, mac) {
                (None, _) => "no route",
                (Some(hop), _) if self.fixed.contains_key(&hop) => "static",
                (_, None) => "resolving",
                _ => "resolved",
            };
            VtepInfo { address: ip, next_hop, mac, state: state.into(), learned: !self.configured.contains(&ip) }
        };
        all.into_iter().map(info).collect()
    }

    /// Takes a frame that came in on the underlay for us. The answer, if there is one.
    pub fn frame(&mut self, frame: &[u8], now: Instant) -> Option<Vec<u8>> {
        let eth = EthernetFrame::new_checked(frame).ok()?;
        if !eth.src_addr().is_unicast() {
            return None;
        }
        match eth.ethertype() {
            EthernetProtocol::Arp => self.arp(&eth, now),
            EthernetProtocol::Ipv4 if self.may_answer(now) => self.ping(&eth),
            _ => None,
        }
    }

    /// Where the next hop `ip` is, as configured or else as it said.
    fn mac_of(&self, ip: &Ipv4Addr, neighbour: &Neighbour) -> Option<Mac> {
        self.fixed.get(ip).copied().or(neighbour.known.map(|(mac, _)| mac))
    }

    /// Whether another ping is answered in this second.
    fn may_answer(&mut self, now: Instant) -> bool {
        let (since, count) = &mut self.pings;
        if since.is_none_or(|since| now.saturating_duration_since(since) >= Duration::from_secs(1)) {
            (*since, *count) = (Some(now), 0);
        }
        *count = count.saturating_add(1);
        if *count == MAX_PINGS + 1 {
            notice(&mut self.notices, || {
                format!("more than {MAX_PINGS} pings in a second: the others are not answered")
            });
        }
        *count <= MAX_PINGS
    }

    fn arp(&mut self, eth: &EthernetFrame<&[u8]>, now: Instant) -> Option<Vec<u8>> {
        let ArpRepr::EthernetIpv4 {
            operation,
            source_hardware_addr: from_mac,
            source_protocol_addr: from,
            target_protocol_addr: target,
            ..
        } = ArpRepr::parse(&ArpPacket::new_checked(eth.payload()).ok()?).ok()?
        else {
            return None;
        };
        let mac = Mac(from_mac.0);
        if !from_mac.is_unicast() || mac == self.mac {
            return None;
        }
        if from == self.vxlan.local.address {
            if self.rival != Some(mac) {
                self.rival = Some(mac);
                notice(&mut self.notices, || format!("{mac} claims our address {from} too"));
            }
            // Whoever heard that should know better (RFC 5227, section 2.4).
            if self.defended.is_none_or(|at| now.saturating_duration_since(at) >= DEFEND) {
                (self.announce, self.defended) = (true, Some(now));
            }
            return None;
        }
        // RFC 826's merge: an address that we need is updated by whatever its owner says; others are never entered.
        if let Some(neighbour) = self.neighbours.get_mut(&from)
            && !self.fixed.contains_key(&from)
        {
            let old = neighbour.known.replace((mac, now)).map(|(mac, _)| mac);
            if old != Some(mac) {
                self.changed = true;
                notice(&mut self.notices, || format!("next hop {from} is at {mac}"));
            }
        }
        let asks_us = operation == ArpOperation::Request && target == self.vxlan.local.address;
        asks_us.then(|| self.arp_frame(ArpOperation::Reply, from_mac, from_mac, from))
    }

    fn ping(&self, eth: &EthernetFrame<&[u8]>) -> Option<Vec<u8>> {
        if eth.dst_addr().0 != self.mac.0 {
            return None;
        }
        let packet = Ipv4Packet::new_checked(eth.payload()).ok()?;
        if packet.more_frags() || packet.frag_offset() != 0 {
            return None;
        }
        let checksums = ChecksumCapabilities::default();
        let ip = Ipv4Repr::parse(&packet, &checksums).ok()?;
        let from = ip.src_addr;
        let is_host = !(from.is_unspecified() || from.is_multicast() || from.is_broadcast());
        if ip.dst_addr != self.vxlan.local.address || !is_host || ip.next_header != IpProtocol::Icmp {
            return None;
        }
        let request = Icmpv4Packet::new_checked(packet.payload()).ok()?;
        let Icmpv4Repr::EchoRequest { ident, seq_no, data } = Icmpv4Repr::parse(&request, &checksums).ok()? else {
            return None;
        };
        let reply = Icmpv4Repr::EchoReply { ident, seq_no, data };
        let ip = Ipv4Repr {
            src_addr: self.vxlan.local.address,
            dst_addr: from,
            next_header: IpProtocol::Icmp,
            payload_len: reply.buffer_len(),
            hop_limit: 64,
        };
        // Back the way it came: that is right for a neighbour and for what is behind a router.
        let mut frame = self.frame_to(eth.src_addr(), EthernetProtocol::Ipv4, ip.buffer_len() + reply.buffer_len());
        let mut packet = Ipv4Packet::new_unchecked(&mut frame[ETH..]);
        ip.emit(&mut packet, &checksums);
        reply.emit(&mut Icmpv4Packet::new_unchecked(packet.payload_mut()), &checksums);
        Some(frame)
    }

    /// What is to be sent now. To be called about ten times a second.
    pub fn tick(&mut self, now: Instant) -> Vec<Vec<u8>> {
        let mut frames = Vec::new();
        if std::mem::take(&mut self.announce) {
            // An announcement is a request for one's own address (RFC 5227, section 3).
            frames.push(self.arp_frame(
                ArpOperation::Request,
                BROADCAST,
                EthernetAddress([0; 6]),
                self.vxlan.local.address,
            ));
        }
        let mut requests = Vec::new();
        for (ip, neighbour) in self.neighbours.iter_mut().filter(|(ip, _)| !self.fixed.contains_key(ip)) {
            let age = neighbour.known.map(|(mac, at)| (mac, now.saturating_duration_since(at)));
            let to = match age {
                Some((_, age)) if age < REFRESH => continue,
                Some((mac, age)) if age < REFRESH_ALL => EthernetAddress(mac.0),
                Some((_, age)) if age < EXPIRE => BROADCAST,
                Some((mac, _)) => {
                    neighbour.known = None;
                    self.changed = true;
                    notice(&mut self.notices, || format!("next hop {ip} at {mac} does not answer"));
                    BROADCAST
                }
                None => BROADCAST,
            };
            let is_due = neighbour.asked.is_none_or(|asked| now.saturating_duration_since(asked) >= ASK);
            if is_due && requests.len() < MAX_REQUESTS {
                neighbour.asked = Some(now);
                requests.push((to, *ip));
            }
        }
        let zero = EthernetAddress([0; 6]);
        frames.extend(requests.into_iter().map(|(to, ip)| self.arp_frame(ArpOperation::Request, to, zero, ip)));
        frames
    }

    /// An ARP packet of ours to `to`, with the target addresses `target_mac` and `target`.
    fn arp_frame(
        &self,
        operation: ArpOperation,
        to: EthernetAddress,
        target_mac: EthernetAddress,
        target: Ipv4Addr,
    ) -> Vec<u8> {
        let arp = ArpRepr::EthernetIpv4 {
            operation,
            source_hardware_addr: EthernetAddress(self.mac.0),
            source_protocol_addr: self.vxlan.local.address,
            target_hardware_addr: target_mac,
            target_protocol_addr: target,
        };
        let mut frame = self.frame_to(to, EthernetProtocol::Arp, arp.buffer_len());
        arp.emit(&mut ArpPacket::new_unchecked(&mut frame[ETH..]));
        frame
    }

    /// A frame from us with room for `len` bytes; at least as long as Ethernet wants it.
    fn frame_to(&self, to: EthernetAddress, ethertype: EthernetProtocol, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; (ETH + len).max(60)];
        let mut eth = EthernetFrame::new_unchecked(&mut bytes);
        eth.set_dst_addr(to);
        eth.set_src_addr(EthernetAddress(self.mac.0));
        eth.set_ethertype(ethertype);
        bytes
    }
}

/// The configured neighbours.
fn fixed(vxlan: &Vxlan) -> HashMap<Ipv4Addr, Mac> {
    vxlan.neighbours.iter().map(|neighbour| (neighbour.address, neighbour.mac)).collect()
}

fn notice(notices: &mut Vec<String>, line: impl FnOnce() -> String) {
    if notices.len() < MAX_NOTICES {
        notices.push(line());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use dray_config::Local;

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

    fn overlay() -> Overlay {
        let mut overlay = Overlay::new(&vxlan(), OURS, HashSet::from([PEER]));
        overlay.take_change();
        overlay
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
        let mut overlay = overlay();
        let announcement = arp(ALL, 1, OURS.0, [10, 9, 0, 1], [0; 6], [10, 9, 0, 1]);
        let request = arp(ALL, 1, OURS.0, [10, 9, 0, 1], [0; 6], [10, 9, 0, 2]);
        assert_eq!(overlay.tick(after(0)), [announcement, request.clone()]);
        assert!(overlay.tick(after(0) + Duration::from_millis(900)).is_empty());
        assert_eq!(overlay.tick(after(1)), [request]);
    }

    #[test]
    fn resolves_refreshes_and_expires() {
        let mut overlay = overlay();
        overlay.tick(after(0));
        assert_eq!(overlay.vteps()[0].state, "resolving");
        assert_eq!(overlay.frame(&arp(OURS.0, 2, THEIRS, [10, 9, 0, 2], OURS.0, [10, 9, 0, 1]), after(0)), None);
        assert!(overlay.take_change());
        assert_eq!(overlay.underlay().neighbours, HashMap::from([(PEER, Mac(THEIRS))]));
        assert_eq!(overlay.vteps()[0].state, "resolved");
        assert!(overlay.tick(after(29)).is_empty());

        let to_it = arp(THEIRS, 1, OURS.0, [10, 9, 0, 1], [0; 6], [10, 9, 0, 2]);
        let to_all = arp(ALL, 1, OURS.0, [10, 9, 0, 1], [0; 6], [10, 9, 0, 2]);
        assert_eq!(overlay.tick(after(30)), [to_it]);
        assert_eq!(overlay.tick(after(45)), std::slice::from_ref(&to_all));
        assert!(!overlay.take_change());
        assert_eq!(overlay.tick(after(60)), [to_all]);
        assert!(overlay.take_change());
        assert!(overlay.underlay().neighbours.is_empty());
    }

    #[test]
    fn answers_for_its_own_address_only() {
        let mut overlay = overlay();
        let who = |target| arp(ALL, 1, THEIRS, [10, 9, 0, 77], [0; 6], target);
        let answer = overlay.frame(&who([10, 9, 0, 1]), after(0));
        assert_eq!(answer, Some(arp(THEIRS, 2, OURS.0, [10, 9, 0, 1], THEIRS, [10, 9, 0, 77])));
        assert_eq!(overlay.frame(&who([10, 9, 0, 3]), after(0)), None);
        assert!(!overlay.take_change(), "10.9.0.77 leads to no VTEP and must not be entered");
        // A probe (RFC 5227) has no sender address.
        let probe = arp(ALL, 1, THEIRS, [0; 4], [0; 6], [10, 9, 0, 1]);
        assert_eq!(overlay.frame(&probe, after(0)), Some(arp(THEIRS, 2, OURS.0, [10, 9, 0, 1], THEIRS, [0; 4])));
    }

    #[test]
    fn reports_who_claims_its_address_once() {
        let mut overlay = overlay();
        overlay.tick(after(0));
        for _ in 0..3 {
            assert_eq!(overlay.frame(&arp(ALL, 1, THEIRS, [10, 9, 0, 1], [0; 6], [10, 9, 0, 1]), after(0)), None);
        }
        assert_eq!(overlay.take_notices(), ["02:00:00:00:00:09 claims our address 10.9.0.1 too"]);
        let defence = arp(ALL, 1, OURS.0, [10, 9, 0, 1], [0; 6], [10, 9, 0, 1]);
        assert_eq!(overlay.tick(after(0)), std::slice::from_ref(&defence));
        // Two that claim one address must not drive each other on.
        overlay.frame(&arp(ALL, 1, THEIRS, [10, 9, 0, 1], [0; 6], [10, 9, 0, 1]), after(9));
        assert!(!overlay.tick(after(9)).contains(&defence));
        overlay.frame(&arp(ALL, 1, THEIRS, [10, 9, 0, 1], [0; 6], [10, 9, 0, 1]), after(10));
        assert!(overlay.tick(after(10)).contains(&defence));
    }

    #[test]
    fn a_group_address_is_nobodys() {
        let mut overlay = overlay();
        overlay.frame(&arp(OURS.0, 2, [1, 0, 0x5e, 0, 0, 1], [10, 9, 0, 2], OURS.0, [10, 9, 0, 1]), after(0));
        overlay.frame(&arp(OURS.0, 2, ALL, [10, 9, 0, 2], OURS.0, [10, 9, 0, 1]), after(0));
        assert!(overlay.underlay().neighbours.is_empty());
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
        let answer = overlay().frame(&ping(), after(0)).unwrap();
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
        let mut overlay = overlay();
        let answered = |overlay: &mut Overlay, second| {
            (0..5000).filter(|_| overlay.frame(&ping(), after(second)).is_some()).count()
        };
        assert_eq!(answered(&mut overlay, 0), 1000);
        assert!(overlay.frame(&arp(ALL, 1, THEIRS, [10, 9, 0, 77], [0; 6], [10, 9, 0, 1]), after(0)).is_some());
        assert_eq!(answered(&mut overlay, 1), 1000);
        let said = "more than 1000 pings in a second: the others are not answered";
        assert_eq!(overlay.take_notices(), [said, said]);
    }

    #[test]
    fn a_configured_neighbour_is_not_asked_for_and_stays() {
        let mut overlay = overlay();
        let mac = Mac([2, 0, 0, 0, 0, 7]);
        let neighbours = vec![dray_config::Neighbour { address: PEER, mac }];
        let with = Vxlan { neighbours, learn_vteps: true, ..vxlan() };
        overlay.configure(&with, OURS, HashSet::from([PEER]));
        assert!(overlay.tick(after(0)).iter().all(|frame| frame[38..42] != PEER.octets()), "it is asked for");
        overlay.take_change();
        overlay.frame(&arp(OURS.0, 2, THEIRS, [10, 9, 0, 2], OURS.0, [10, 9, 0, 1]), after(0));
        assert!(!overlay.take_change() && overlay.take_notices().is_empty());
        assert!(overlay.tick(after(100)).is_empty());
        assert_eq!(overlay.underlay().neighbours, HashMap::from([(PEER, mac)]));
        assert_eq!((overlay.vteps()[0].mac, overlay.vteps()[0].state.as_str()), (Some(mac), "static"));
        // It may ask us, as all may.
        assert!(overlay.frame(&arp(ALL, 1, mac.0, [10, 9, 0, 2], [0; 6], [10, 9, 0, 1]), after(0)).is_some());
        overlay.configure(&vxlan(), OURS, HashSet::from([PEER]));
        assert!(overlay.take_change() && overlay.underlay().neighbours.is_empty());
    }

    #[test]
    fn does_not_answer_what_is_not_a_ping_for_us() {
        let mut overlay = overlay();
        let cases: [(usize, u8); 6] = [(5, 2), (20, 0x20), (23, 17), (33, 3), (34, 0), (45, b'!')];
        for (at, byte) in cases {
            let mut frame = ping();
            frame[at] = byte;
            assert_eq!(overlay.frame(&frame, after(0)), None, "byte {at}");
        }
        for len in 0..46 {
            assert_eq!(overlay.frame(&ping()[..len], after(0)), None, "{len} bytes");
        }
    }

    #[test]
    fn any_bytes_are_survived() {
        let mut overlay = overlay();
        let mut state = 1u64;
        for _ in 0..100_000 {
            let mut frame = if state & 1 == 0 { ping().to_vec() } else { arp(ALL, 1, THEIRS, [0; 4], ALL, [0; 4]) };
            for _ in 0..4 {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                let at = (state >> 33) as usize % frame.len();
                frame[at] = (state >> 56) as u8;
            }
            frame.truncate((state >> 20) as usize % 61);
            overlay.frame(&frame, after(0));
        }
        assert!(overlay.neighbours.len() == 1);
    }

    #[test]
    fn learns_vteps_only_if_told_to_and_not_too_many() {
        let mut overlay = overlay();
        overlay.heard(FAR, after(0));
        assert!(!overlay.take_change());

        let vxlan = Vxlan { learn_vteps: true, ..vxlan() };
        overlay.configure(&vxlan, OURS, HashSet::from([PEER]));
        overlay.take_change();
        for ip in [PEER, LOCAL, Ipv4Addr::BROADCAST, Ipv4Addr::UNSPECIFIED, Ipv4Addr::new(224, 0, 0, 1)] {
            overlay.heard(ip, after(0));
            assert!(!overlay.take_change(), "{ip}");
        }
        overlay.heard(FAR, after(0));
        assert!(overlay.take_change());
        assert_eq!(overlay.underlay().learned, BTreeSet::from([FAR]));
        let request = arp(ALL, 1, OURS.0, [10, 9, 0, 1], [0; 6], [10, 9, 0, 254]);
        assert!(overlay.tick(after(0)).contains(&request), "a far VTEP is reached by way of the gateway");
        let learned = (0..10_000u32).filter(|n| overlay.heard(Ipv4Addr::from(0x0b00_0000 + n), after(0)));
        assert_eq!(learned.count(), MAX_LEARNED - 1);
        assert_eq!(overlay.underlay().learned.len(), MAX_LEARNED);
    }

    #[test]
    fn learned_vteps_age() {
        let mut overlay = overlay();
        overlay.configure(&Vxlan { learn_vteps: true, ..vxlan() }, OURS, HashSet::from([PEER]));
        overlay.heard(FAR, after(0));
        let ageing = Duration::from_secs(300);
        overlay.age(&HashSet::from([FAR]), ageing, after(200));
        overlay.age(&HashSet::new(), ageing, after(499));
        assert!(overlay.has_learned());
        overlay.take_change();
        overlay.age(&HashSet::new(), ageing, after(500));
        assert!(!overlay.has_learned() && overlay.take_change());
        assert_eq!(overlay.neighbours.keys().copied().collect::<Vec<_>>(), [PEER]);
    }

    #[test]
    fn a_new_configuration_keeps_what_is_still_right() {
        let mut overlay = overlay();
        overlay.tick(after(0));
        overlay.frame(&arp(OURS.0, 2, THEIRS, [10, 9, 0, 2], OURS.0, [10, 9, 0, 1]), after(0));
        overlay.configure(&vxlan(), OURS, HashSet::from([PEER, Ipv4Addr::new(10, 9, 0, 3)]));
        assert_eq!(overlay.underlay().neighbours.len(), 1);
        // Only the new one is asked for; nothing is announced, as nothing about us has changed.
        assert_eq!(overlay.tick(after(1)), [arp(ALL, 1, OURS.0, [10, 9, 0, 1], [0; 6], [10, 9, 0, 3])]);
        overlay.configure(&vxlan(), Mac(THEIRS), HashSet::from([PEER]));
        assert_eq!(overlay.tick(after(1)), [arp(ALL, 1, THEIRS, [10, 9, 0, 1], [0; 6], [10, 9, 0, 1])]);
    }
}
