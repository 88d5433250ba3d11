//! Ping (RFC 792): echo requests to the VTEP's own address are answered.

use super::{Desk, ETH, Host, Protocol};
use dray_dataplane::PuntReason;
use smoltcp::phy::ChecksumCapabilities;
use smoltcp::wire::{
    EthernetFrame, EthernetProtocol, Icmpv4Packet, Icmpv4Repr, IpProtocol, Ipv4Packet, Ipv4Repr,
};
use std::time::{Duration, Instant};

/// Echo requests that are answered in a second: whoever asks for more has no right to our time.
const MAX_PINGS: u32 = 1000;

#[derive(Default)]
pub(super) struct Icmp {
    /// Since when requests are counted.
    since: Option<Instant>,
    /// How many came since then.
    requests: u32,
}

impl Protocol for Icmp {
    const REASON: PuntReason = PuntReason::Icmp;

    fn take(&mut self, frame: &EthernetFrame<&[u8]>, desk: &mut Desk<'_>) {
        if self.may_answer(desk) {
            desk.sent.extend(answer(desk.host, frame));
        }
    }
}

impl Icmp {
    /// Whether another ping is answered in this second.
    fn may_answer(&mut self, desk: &mut Desk<'_>) -> bool {
        let is_over = |since| desk.now.saturating_duration_since(since) >= Duration::from_secs(1);
        if self.since.is_none_or(is_over) {
            (self.since, self.requests) = (Some(desk.now), 0);
        }
        self.requests = self.requests.saturating_add(1);
        if self.requests == MAX_PINGS + 1 {
            desk.notice(|| format!("more than {MAX_PINGS} pings in a second: the others are not answered"));
        }
        self.requests <= MAX_PINGS
    }
}

/// The answer, if it is a ping for us.
fn answer(host: &Host, frame: &EthernetFrame<&[u8]>) -> Option<Vec<u8>> {
    if frame.dst_addr().0 != host.mac.0 {
        return None;
    }
    let packet = Ipv4Packet::new_checked(frame.payload()).ok()?;
    if packet.more_frags() || packet.frag_offset() != 0 {
        return None;
    }
    let checksums = ChecksumCapabilities::default();
    let ip = Ipv4Repr::parse(&packet, &checksums).ok()?;
    let from = ip.src_addr;
    let is_host = !(from.is_unspecified() || from.is_multicast() || from.is_broadcast());
    if ip.dst_addr != host.address() || !is_host || ip.next_header != IpProtocol::Icmp {
        return None;
    }
    let request = Icmpv4Packet::new_checked(packet.payload()).ok()?;
    let Icmpv4Repr::EchoRequest { ident, seq_no, data } = Icmpv4Repr::parse(&request, &checksums).ok()? else {
        return None;
    };
    let reply = Icmpv4Repr::EchoReply { ident, seq_no, data };
    let ip = Ipv4Repr {
        src_addr: host.address(),
        dst_addr: from,
        next_header: IpProtocol::Icmp,
        payload_len: reply.buffer_len(),
        hop_limit: 64,
    };
    // Back the way it came: that is right for a neighbour and for what is behind a router.
    let mut frame = host.frame_to(frame.src_addr(), EthernetProtocol::Ipv4, ip.buffer_len() + reply.buffer_len());
    let mut packet = Ipv4Packet::new_unchecked(&mut frame[ETH..]);
    ip.emit(&mut packet, &checksums);
    reply.emit(&mut Icmpv4Packet::new_unchecked(packet.payload_mut()), &checksums);
    Some(frame)
}
