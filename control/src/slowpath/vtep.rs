//! The other VTEPs: those that are configured, and, with `learn-vteps`, those that were heard.

use super::{Desk, Host, Protocol};
use dray_dataplane::PuntReason;
use smoltcp::wire::EthernetFrame;
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

/// VTEPs that may be learned; more are ignored.
pub(super) const MAX_LEARNED: usize = 4096;

/// IPv4 header without options, bytes.
const IPV4: usize = 20;

#[derive(Default)]
pub(super) struct Vteps {
    configured: BTreeSet<Ipv4Addr>,
    /// With the time when the FDB last had an entry behind it.
    learned: BTreeMap<Ipv4Addr, Instant>,
}

impl Protocol for Vteps {
    const REASON: PuntReason = PuntReason::Vtep;

    /// A VTEP that is not configured sent a packet, of which this is the beginning.
    fn take(&mut self, frame: &EthernetFrame<&[u8]>, desk: &mut Desk<'_>) {
        // Not smoltcp's view, which wants all of the packet.
        if let Some(&[_, _, _, _, _, _, _, _, _, _, _, _, a, b, c, d, ..]) = frame.payload().first_chunk::<IPV4>() {
            self.hear(Ipv4Addr::new(a, b, c, d), desk);
        }
    }
}

impl Vteps {
    /// Learns a VTEP that sent something, unless it can be none.
    fn hear(&mut self, vtep: Ipv4Addr, desk: &mut Desk<'_>) {
        let vxlan = &desk.host.vxlan;
        let is_host = !(vtep.is_unspecified() || vtep.is_multicast() || vtep.is_broadcast() || vtep.is_loopback());
        let is_known = self.configured.contains(&vtep) || self.learned.contains_key(&vtep);
        let Some(hop) = vxlan.next_hop(vtep).filter(|_| vtep != desk.host.address()) else { return };
        if !vxlan.learn_vteps || !is_host || is_known || self.learned.len() >= MAX_LEARNED {
            return;
        }
        self.learned.insert(vtep, desk.now);
        *desk.changed = true;
        desk.hops.push(hop);
    }

    /// From now on `configured` are all that are configured. Of those that were learned the ones stay that could be learned now.
    pub(super) fn configure(&mut self, host: &Host, configured: HashSet<Ipv4Addr>) {
        self.configured = configured.into_iter().collect();
        let (configured, vxlan) = (&self.configured, &host.vxlan);
        self.learned.retain(|vtep, _| {
            let is_reachable = *vtep != host.address() && vxlan.next_hop(*vtep).is_some();
            vxlan.learn_vteps && is_reachable && !configured.contains(vtep)
        });
    }

    /// As [`SlowPath::age`](super::SlowPath::age). Whether any was forgotten.
    pub(super) fn age(&mut self, used: &HashSet<Ipv4Addr>, ageing: Duration, now: Instant) -> bool {
        self.learned.iter_mut().filter(|(vtep, _)| used.contains(vtep)).for_each(|(_, seen)| *seen = now);
        let before = self.learned.len();
        self.learned.retain(|_, seen| now.saturating_duration_since(*seen) < ageing);
        self.learned.len() != before
    }

    /// All of them, in order.
    pub(super) fn all(&self) -> impl Iterator<Item = Ipv4Addr> {
        let all: BTreeSet<Ipv4Addr> = self.configured.iter().copied().chain(self.learned()).collect();
        all.into_iter()
    }

    /// Those that were learned, in order.
    pub(super) fn learned(&self) -> impl Iterator<Item = Ipv4Addr> {
        self.learned.keys().copied()
    }

    /// Whether it was learned.
    pub(super) fn is_learned(&self, vtep: Ipv4Addr) -> bool {
        self.learned.contains_key(&vtep)
    }
}
