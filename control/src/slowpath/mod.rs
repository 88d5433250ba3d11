//! The slow path: what workers leave to the control thread, a file for each protocol. All of it is the VTEP's so far: its own address, its
//! neighbours and the other VTEPs.
//!
//! Pure: frames and time go in, frames come out. Frames are what the workers could not decide by themselves, so their content is hostile.

use dray_api::VtepInfo;
use dray_config::{Mac, Vxlan};
use dray_dataplane::{Punt, PuntReason, Underlay};
use smoltcp::wire::{EthernetAddress, EthernetFrame, EthernetProtocol};
use std::collections::{HashMap, HashSet};
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

/// Makes all that there is of each protocol from one list: its file, its state, its turn.
macro_rules! protocols {
    ($($module:ident by $protocol:ident;)*) => {
        $(mod $module;)*

        /// The protocols' state.
        #[derive(Default)]
        struct Protocols {
            $($module: $module::$protocol,)*
        }

        impl Protocols {
            /// Gives a frame to the protocol that it was left for.
            fn take(&mut self, reason: PuntReason, frame: &EthernetFrame<&[u8]>, desk: &mut Desk<'_>) {
                $(if reason == <$module::$protocol as Protocol>::REASON {
                    return self.$module.take(frame, desk);
                })*
            }

            fn tick(&mut self, desk: &mut Desk<'_>) {
                $(self.$module.tick(desk);)*
            }

            fn begin(&mut self) {
                $(self.$module.begin();)*
            }
        }
    };
}

protocols! {
    arp by Arp;
    icmp by Icmp;
    vtep by Vteps;
}

/// A protocol of the slow path.
trait Protocol: Default {
    /// What workers leave frames to it for.
    const REASON: PuntReason;

    /// Takes a frame that one of them left, whose sender's address is no group's.
    fn take(&mut self, frame: &EthernetFrame<&[u8]>, desk: &mut Desk<'_>);

    /// About ten times a second: does what is due.
    fn tick(&mut self, _desk: &mut Desk<'_>) {}

    /// The host is there anew: its link came up, or it has another address or another port.
    fn begin(&mut self) {}
}

/// Lines for the log between two calls of [`SlowPath::take_notices`]; a neighbour can cause as many as it likes.
const MAX_NOTICES: usize = 16;
/// Ethernet header, bytes.
const ETH: usize = 14;

/// Who we are on the underlay.
struct Host {
    vxlan: Vxlan,
    mac: Mac,
    /// The neighbours whose address is configured: they are not asked for, and nobody changes them.
    fixed: HashMap<Ipv4Addr, Mac>,
}

impl Host {
    fn new(vxlan: &Vxlan, mac: Mac) -> Host {
        let fixed = vxlan.neighbours.iter().map(|neighbour| (neighbour.address, neighbour.mac)).collect();
        Host { vxlan: vxlan.clone(), mac, fixed }
    }

    fn address(&self) -> Ipv4Addr {
        self.vxlan.local.address
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

/// What a protocol works with.
struct Desk<'a> {
    host: &'a Host,
    now: Instant,
    /// What it sends through the underlay's port.
    sent: Vec<Vec<u8>>,
    /// Next hops that are needed from now on.
    hops: Vec<Ipv4Addr>,
    /// Whether there is something new that the workers are to know.
    changed: &'a mut bool,
    notices: &'a mut Vec<String>,
}

impl Desk<'_> {
    /// Has the log say that, unless it has much to say already.
    fn notice(&mut self, line: impl FnOnce() -> String) {
        if self.notices.len() < MAX_NOTICES {
            self.notices.push(line());
        }
    }
}

/// The slow path of a host with an overlay.
pub struct SlowPath {
    host: Host,
    protocols: Protocols,
    changed: bool,
    notices: Vec<String>,
}

impl SlowPath {
    /// Of the overlay `vxlan`, whose underlay port has the address `mac`, with all configured VTEPs.
    pub fn new(vxlan: &Vxlan, mac: Mac, configured: HashSet<Ipv4Addr>) -> Self {
        let (host, protocols) = (Host::new(vxlan, mac), Protocols::default());
        let mut slowpath = SlowPath { host, protocols, changed: true, notices: Vec::new() };
        slowpath.protocols.begin();
        slowpath.set_vteps(configured);
        slowpath
    }

    /// The configuration has changed. What is known of neighbours that are still needed, stays.
    pub fn configure(&mut self, vxlan: &Vxlan, mac: Mac, configured: HashSet<Ipv4Addr>) {
        let old = std::mem::replace(&mut self.host, Host::new(vxlan, mac));
        if (old.address(), &old.vxlan.port, old.mac) != (self.host.address(), &vxlan.port, mac) {
            self.protocols.begin();
        }
        if old.vxlan.port != vxlan.port {
            self.protocols.arp.forget();
        }
        self.changed = true;
        self.set_vteps(configured);
    }

    fn set_vteps(&mut self, configured: HashSet<Ipv4Addr>) {
        self.protocols.vtep.configure(&self.host, configured);
        self.need();
    }

    /// Neighbours that lead to no VTEP are forgotten, those that do are asked for.
    fn need(&mut self) {
        let Protocols { arp, vtep, .. } = &mut self.protocols;
        arp.need_only(vtep.all().filter_map(|vtep| self.host.vxlan.next_hop(vtep)).collect());
    }

    /// The underlay's link came up: tell everybody who we are, and ask at once for who is not known.
    pub fn link_up(&mut self) {
        self.protocols.begin();
    }

    /// Takes what a worker left from the underlay's port. What is to be sent through it.
    pub fn take(&mut self, punt: &Punt, now: Instant) -> Vec<Vec<u8>> {
        match EthernetFrame::new_checked(&punt.frame[..]) {
            Ok(frame) if frame.src_addr().is_unicast() => {
                self.work(now, |protocols, desk| protocols.take(punt.reason, &frame, desk))
            }
            _ => Vec::new(),
        }
    }

    /// What is to be sent now. To be called about ten times a second.
    pub fn tick(&mut self, now: Instant) -> Vec<Vec<u8>> {
        self.work(now, Protocols::tick)
    }

    fn work(&mut self, now: Instant, work: impl FnOnce(&mut Protocols, &mut Desk<'_>)) -> Vec<Vec<u8>> {
        let SlowPath { host, protocols, changed, notices } = self;
        let mut desk = Desk { host, now, sent: Vec::new(), hops: Vec::new(), changed, notices };
        work(protocols, &mut desk);
        for hop in std::mem::take(&mut desk.hops) {
            protocols.arp.need(hop, &mut desk);
        }
        desk.sent
    }

    /// Forgets learned VTEPs that no FDB entry has pointed to for `ageing`; `used` are those that one points to now.
    pub fn age(&mut self, used: &HashSet<Ipv4Addr>, ageing: Duration, now: Instant) {
        if self.protocols.vtep.age(used, ageing, now) {
            self.changed = true;
            self.need();
        }
    }

    /// Whether any VTEP was learned.
    pub fn has_learned(&self) -> bool {
        self.protocols.vtep.learned().next().is_some()
    }

    /// Whether what the workers are to know has changed since this was last asked.
    pub fn take_change(&mut self) -> bool {
        std::mem::take(&mut self.changed)
    }

    /// Lines for the log.
    pub fn take_notices(&mut self) -> Vec<String> {
        std::mem::take(&mut self.notices)
    }

    /// What the workers are to know.
    pub fn underlay(&self) -> Underlay {
        let Protocols { arp, vtep, .. } = &self.protocols;
        let (neighbours, learned) = (arp.known(&self.host), vtep.learned().collect());
        Underlay { neighbours, learned, mac: Some(self.host.mac), mtu: None }
    }

    /// All VTEPs, for people.
    pub fn vteps(&self) -> Vec<VtepInfo> {
        let Protocols { arp, vtep, .. } = &self.protocols;
        let info = |address: Ipv4Addr| {
            let next_hop = self.host.vxlan.next_hop(address);
            let mac = next_hop.and_then(|hop| arp.mac_of(&self.host, hop));
            let state = match (next_hop, mac) {
                (None, _) => "no route",
                (Some(hop), _) if self.host.fixed.contains_key(&hop) => "static",
                (_, None) => "resolving",
                _ => "resolved",
            };
            VtepInfo { address, next_hop, mac, state: state.into(), learned: vtep.is_learned(address), owners: vec![] }
        };
        vtep.all().map(info).collect()
    }
}

#[cfg(test)]
mod tests;
