//! ARP (RFC 826) on the underlay: our address is announced and defended (RFC 5227), whoever asks for it is answered, and the next hops
//! towards the other VTEPs are asked for. An address is only ever learned if we need it to reach a VTEP.

use super::{Desk, ETH, Host, Protocol};
use dray_config::Mac;
use dray_dataplane::PuntReason;
use smoltcp::wire::{ArpOperation, ArpPacket, ArpRepr, EthernetAddress, EthernetFrame, EthernetProtocol};
use std::collections::btree_map::{BTreeMap, Entry};
use std::collections::{HashMap, HashSet};
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
/// Requests at a time, so that thousands of VTEPs don't make a burst.
const MAX_REQUESTS: usize = 256;

const BROADCAST: EthernetAddress = EthernetAddress::BROADCAST;
const NOBODY: EthernetAddress = EthernetAddress([0; 6]);

#[derive(Default)]
pub(super) struct Arp {
    /// All next hops, resolved or not.
    neighbours: BTreeMap<Ipv4Addr, Neighbour>,
    announce: bool,
    /// Who else claims our address.
    rival: Option<Mac>,
    defended: Option<Instant>,
}

#[derive(Default)]
struct Neighbour {
    /// Its address, and when it last said so.
    known: Option<(Mac, Instant)>,
    asked: Option<Instant>,
}

impl Protocol for Arp {
    const REASON: PuntReason = PuntReason::Arp;

    fn take(&mut self, frame: &EthernetFrame<&[u8]>, desk: &mut Desk<'_>) {
        let repr = ArpPacket::new_checked(frame.payload()).and_then(|packet| ArpRepr::parse(&packet));
        let Ok(ArpRepr::EthernetIpv4 {
            operation,
            source_hardware_addr: from_mac,
            source_protocol_addr: from,
            target_protocol_addr: target,
            ..
        }) = repr
        else {
            return;
        };
        let (host, mac) = (desk.host, Mac(from_mac.0));
        if !from_mac.is_unicast() || mac == host.mac {
            return;
        }
        if from == host.address() {
            if self.rival != Some(mac) {
                self.rival = Some(mac);
                desk.notice(|| format!("{mac} claims our address {from} too"));
            }
            // Whoever heard that should know better (RFC 5227, section 2.4).
            if self.defended.is_none_or(|at| desk.now.saturating_duration_since(at) >= DEFEND) {
                (self.announce, self.defended) = (true, Some(desk.now));
            }
            return;
        }
        // RFC 826's merge: an address that we need is updated by whatever its owner says; others are never entered.
        if let Some(neighbour) = self.neighbours.get_mut(&from)
            && !host.fixed.contains_key(&from)
        {
            let old = neighbour.known.replace((mac, desk.now)).map(|(mac, _)| mac);
            if old != Some(mac) {
                *desk.changed = true;
                desk.notice(|| format!("next hop {from} is at {mac}"));
            }
        }
        if operation == ArpOperation::Request && target == host.address() {
            desk.sent.push(packet(host, ArpOperation::Reply, from_mac, from_mac, from));
        }
    }

    fn tick(&mut self, desk: &mut Desk<'_>) {
        let host = desk.host;
        if std::mem::take(&mut self.announce) {
            // An announcement is a request for one's own address (RFC 5227, section 3).
            desk.sent.push(request(host, BROADCAST, host.address()));
        }
        let mut requests = 0;
        for (ip, neighbour) in self.neighbours.iter_mut().filter(|(ip, _)| !host.fixed.contains_key(ip)) {
            let age = neighbour.known.map(|(mac, at)| (mac, desk.now.saturating_duration_since(at)));
            let to = match age {
                Some((_, age)) if age < REFRESH => continue,
                Some((mac, age)) if age < REFRESH_ALL => EthernetAddress(mac.0),
                Some((_, age)) if age < EXPIRE => BROADCAST,
                Some((mac, _)) => {
                    neighbour.known = None;
                    *desk.changed = true;
                    desk.notice(|| format!("next hop {ip} at {mac} does not answer"));
                    BROADCAST
                }
                None => BROADCAST,
            };
            let is_due = neighbour.asked.is_none_or(|asked| desk.now.saturating_duration_since(asked) >= ASK);
            if is_due && requests < MAX_REQUESTS {
                neighbour.asked = Some(desk.now);
                requests += 1;
                desk.sent.push(request(host, to, *ip));
            }
        }
    }

    fn begin(&mut self) {
        (self.announce, self.rival) = (true, None);
        self.neighbours.values_mut().for_each(|neighbour| neighbour.asked = None);
    }
}

impl Arp {
    /// From now on these are all next hops. What is known of those that were so before stays.
    pub(super) fn need_only(&mut self, hops: HashSet<Ipv4Addr>) {
        self.neighbours.retain(|ip, _| hops.contains(ip));
        for hop in hops {
            self.neighbours.entry(hop).or_default();
        }
    }

    /// From now on this is a next hop, too. It is asked for at once if it was none.
    pub(super) fn need(&mut self, hop: Ipv4Addr, desk: &mut Desk<'_>) {
        if let Entry::Vacant(place) = self.neighbours.entry(hop) {
            let asked = (!desk.host.fixed.contains_key(&hop)).then_some(desk.now);
            place.insert(Neighbour { asked, ..Neighbour::default() });
            desk.sent.extend(asked.map(|_| request(desk.host, BROADCAST, hop)));
        }
    }

    /// The underlay is another one: nothing is known of who is there.
    pub(super) fn forget(&mut self) {
        self.neighbours.clear();
    }

    /// Where the next hop `ip` is, as configured or else as it said.
    pub(super) fn mac_of(&self, host: &Host, ip: Ipv4Addr) -> Option<Mac> {
        let neighbour = self.neighbours.get(&ip)?;
        host.fixed.get(&ip).copied().or(neighbour.known.map(|(mac, _)| mac))
    }

    /// All next hops of which it is known where they are.
    pub(super) fn known(&self, host: &Host) -> HashMap<Ipv4Addr, Mac> {
        self.neighbours.keys().filter_map(|&ip| Some((ip, self.mac_of(host, ip)?))).collect()
    }

    /// All next hops.
    #[cfg(test)]
    pub(super) fn hops(&self) -> Vec<Ipv4Addr> {
        self.neighbours.keys().copied().collect()
    }
}

/// A question of ours to `to`: who has `target`?
fn request(host: &Host, to: EthernetAddress, target: Ipv4Addr) -> Vec<u8> {
    packet(host, ArpOperation::Request, to, NOBODY, target)
}

/// An ARP packet of ours to `to`, with the target addresses `target_mac` and `target`.
fn packet(
    host: &Host,
    operation: ArpOperation,
    to: EthernetAddress,
    target_mac: EthernetAddress,
    target: Ipv4Addr,
) -> Vec<u8> {
    let arp = ArpRepr::EthernetIpv4 {
        operation,
        source_hardware_addr: EthernetAddress(host.mac.0),
        source_protocol_addr: host.address(),
        target_hardware_addr: target_mac,
        target_protocol_addr: target,
    };
    let mut frame = host.frame_to(to, EthernetProtocol::Arp, arp.buffer_len());
    arp.emit(&mut ArpPacket::new_unchecked(&mut frame[ETH..]));
    frame
}
