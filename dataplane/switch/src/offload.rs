//! What a sender may leave undone because a NIC would do it: the transport checksum, and cutting one large frame into many
//! (virtio 1.2, section 5.1.6.2). A receiver that takes it so gets it as it is ([`crate::Tx::accepts`]); for any other it is done
//! here, on the way out: a checksum in the frame itself, whose other receivers it suits as well; pieces with heads of their own,
//! whose bodies are slices of the frame's, so that the payload is still copied once.
//!
//! What is asked for must be in the head, the first [`HEAD_MAX`](crate::burst::HEAD_MAX) bytes: a checksum field beyond is refused,
//! and so is segmentation of a frame with longer headers.

use crate::burst::{Burst, Frame, HEADROOM};
use crate::mem;
use crate::wire::{self, ETH, TAG, be16};

/// Into how many pieces a frame may be cut; a request for more is refused. One frame must not hold up a worker, nor fill a ring of
/// ordinary size by itself. It allows 64 bytes a piece whatever the frame's length; Linux sends no segments below 48.
pub const PIECES_MAX: usize = 1024;

/// The longest IP packet, bytes.
const IP_MAX: usize = 65_535;
/// Where the checksum is in a TCP header.
const TCP_CHECKSUM: u16 = 16;
/// Where the checksum is in a UDP header.
const UDP_CHECKSUM: u16 = 6;

/// Into what a frame is to be cut.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u8)]
pub enum Gso {
    /// It stays whole.
    #[default]
    None,
    /// TCP segments over IPv4.
    Tcp4,
    /// TCP segments over IPv6.
    Tcp6,
    /// UDP datagrams over IPv4.
    Udp4,
    /// UDP datagrams over IPv6.
    Udp6,
}

impl Gso {
    fn is_ipv6(self) -> bool {
        matches!(self, Gso::Tcp6 | Gso::Udp6)
    }

    fn is_tcp(self) -> bool {
        matches!(self, Gso::Tcp4 | Gso::Tcp6)
    }

    /// The transport's IP protocol and where its header has the checksum.
    fn transport(self) -> (u8, u16) {
        if self.is_tcp() { (wire::TCP, TCP_CHECKSUM) } else { (wire::UDP, UDP_CHECKSUM) }
    }
}

/// What is left to be done to a frame. Its sender has put the sum of the pseudo-header into the checksum field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Offload {
    /// From where on to sum, bytes from the frame's beginning: the transport header.
    pub csum_start: u16,
    /// Where the checksum belongs, bytes from `csum_start`.
    pub csum_offset: u16,
    /// Into what it is to be cut.
    pub gso: Gso,
    /// Payload bytes of each piece but the last; 0 if it stays whole.
    pub gso_size: u16,
    /// TCP with ECN: CWR only on the first segment.
    pub ecn: bool,
}

impl Offload {
    /// Whether `frame`, as it was received, has the headers that are to be rewritten in each piece, all of them in its head;
    /// `ether_type` and the offset `l3` are its IP header's.
    fn can_cut(self, frame: &Frame, ether_type: u16, l3: usize) -> Option<()> {
        let head = frame.head();
        let l4 = self.csum_start as usize;
        let (protocol, csum_offset) = self.gso.transport();
        let expected = if self.gso.is_ipv6() { wire::IPV6 } else { wire::IPV4 };
        let found = if self.gso.is_ipv6() { ipv6_transport(head, l3)? } else { ipv4_transport(head, l3)? };
        if ether_type != expected || found != (protocol, l4) || self.csum_offset != csum_offset {
            return None;
        }
        let transport = if self.gso.is_tcp() { tcp_header(head.get(l4 + 12)?) } else { wire::UDP_HEADER };
        let payload = l4 + transport;
        let least = if self.gso.is_tcp() { 20 } else { wire::UDP_HEADER };
        if transport < least || payload > head.len() || payload >= frame.len() || frame.len() - l3 > IP_MAX {
            return None;
        }
        let few = self.gso_size != 0 && (frame.len() - payload).div_ceil(self.gso_size as usize) <= PIECES_MAX;
        (few && (!self.ecn || self.gso.is_tcp())).then_some(())
    }
}

/// Length of a TCP header, bytes, by its thirteenth.
fn tcp_header(data_offset: &u8) -> usize {
    (data_offset >> 4) as usize * 4
}

/// The EtherType behind up to two tags, and the offset of what follows it.
fn network(head: &[u8]) -> Option<(u16, usize)> {
    let mut at = ETH;
    loop {
        let ether_type = be16(head.get(..at)?, at - 2);
        if !matches!(ether_type, wire::VLAN | wire::SERVICE_VLAN) || at == ETH + 2 * TAG {
            return Some((ether_type, at));
        }
        at += TAG;
    }
}

/// Protocol and offset of what an unfragmented IPv4 packet at `l3` carries.
fn ipv4_transport(head: &[u8], l3: usize) -> Option<(u8, usize)> {
    let ip = head.get(l3..)?;
    let header = (ip.first()? & 15) as usize * 4;
    let good = ip.len() >= 20 && ip[0] >> 4 == 4 && header >= 20 && be16(ip, 6) & 0x3fff == 0;
    good.then(|| (ip[9], l3 + header))
}

/// Protocol and offset of what the IPv6 packet at `l3` carries behind its extension headers. Not behind a routing header with
/// segments left: the pseudo-header's destination would be another than the packet's (RFC 8200, section 8.1).
fn ipv6_transport(head: &[u8], l3: usize) -> Option<(u8, usize)> {
    const HOP_BY_HOP: u8 = 0;
    const ROUTING: u8 = 43;
    const DESTINATION: u8 = 60;
    let mut at = l3 + 40;
    if head.len() < at || head[l3] >> 4 != 6 {
        return None;
    }
    let mut next = head[l3 + 6];
    while matches!(next, HOP_BY_HOP | ROUTING | DESTINATION) {
        let extension = head.get(at..at + 8)?;
        if next == ROUTING && extension[3] != 0 {
            return None;
        }
        next = extension[0];
        at += (extension[1] as usize + 1) * 8;
    }
    Some((next, at))
}

/// An [`Offload`] with positions in [`Frame`]'s bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Pending {
    /// What follows the Ethernet header and its tags: the IP header, if it is to be cut.
    pub l3: u16,
    /// The transport header; 0: nothing is pending.
    pub l4: u16,
    pub gso_size: u16,
    pub csum_offset: u8,
    pub gso: Gso,
    pub ecn: bool,
}

impl Pending {
    pub const NONE: Pending = Pending { l3: 0, l4: 0, gso_size: 0, csum_offset: 0, gso: Gso::None, ecn: false };

    /// `offload` for `frame` as it was received; `None` if it contradicts the frame.
    pub fn new(offload: Offload, frame: &Frame) -> Option<Pending> {
        debug_assert!(frame.start as usize == HEADROOM);
        let head = frame.head();
        let Offload { csum_start, csum_offset, gso, gso_size, ecn } = offload;
        let (ether_type, l3) = network(head)?;
        if (csum_start as usize) < l3 || csum_start as usize + csum_offset as usize + 2 > head.len() {
            return None;
        }
        if gso != Gso::None {
            offload.can_cut(frame, ether_type, l3)?;
        }
        Some(Pending {
            l3: (HEADROOM + l3) as u16,
            l4: HEADROOM as u16 + csum_start,
            gso_size: if gso == Gso::None { 0 } else { gso_size },
            csum_offset: csum_offset as u8,
            gso,
            ecn,
        })
    }

    /// As others see it, for a frame that begins at `start`.
    pub fn offload(self, start: u16) -> Option<Offload> {
        debug_assert!(self.l4 == 0 || self.l4 as usize >= HEADROOM);
        (self.l4 != 0).then(|| Offload {
            csum_start: self.l4 - start,
            csum_offset: self.csum_offset.into(),
            gso: self.gso,
            gso_size: self.gso_size,
            ecn: self.ecn,
        })
    }
}

/// What a receiver does itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Accepts {
    /// Takes frames whose transport checksum is not completed.
    pub csum: bool,
    /// Takes [`Gso::Tcp4`].
    pub tso4: bool,
    /// Takes [`Gso::Tcp6`].
    pub tso6: bool,
    /// Takes TSO with ECN.
    pub ecn: bool,
    /// Takes [`Gso::Udp4`].
    pub uso4: bool,
    /// Takes [`Gso::Udp6`].
    pub uso6: bool,
}

/// Completes the checksum of frame `i`, which is not to be cut, if that is pending.
pub(crate) fn complete(burst: &mut Burst, i: u16) {
    let frame = burst.frame(i);
    let Pending { l4, csum_offset, .. } = frame.pending;
    if l4 == 0 {
        return;
    }
    // The checksum field has the sum of the pseudo-header and so adds that.
    let checksum = match !mem::sum_frame(burst, frame, (l4 - frame.start) as usize) {
        // For UDP zero means that there is none (RFC 768).
        0 if u16::from(csum_offset) == UDP_CHECKSUM => 0xffff,
        sum => sum,
    };
    let frame = &mut burst.frames[i];
    let at = l4 as usize + csum_offset as usize;
    frame.bytes[at..at + 2].copy_from_slice(&checksum.to_be_bytes());
    frame.pending = Pending::NONE;
}
