//! What a sender may leave undone because a NIC would do it: the transport checksum, and cutting one large frame into many
//! (virtio 1.2, section 5.1.6.2). A receiver that takes it so gets it as it is ([`crate::Tx::accepts`]); for any other it is done
//! here, on the way out: a checksum in the frame itself, whose other receivers it suits as well; pieces with heads of their own,
//! whose bodies are slices of the frame's, so that the payload is still copied once. Pieces are made once for all receivers.
//!
//! What is asked for must be in the head, the first [`HEAD_MAX`](crate::burst::HEAD_MAX) bytes: a checksum field beyond is refused,
//! and so is segmentation of a frame with longer headers. What VXLAN carries may be asked for, too: so the kernel leaves it to devices.

use crate::adjacency::OUTER;
use crate::burst::{Burst, Frame, HEADROOM};
use crate::layers::{Layers, Network, network};
use crate::mem::{self, Segment};
use crate::wire::{self, ETH, be16, be32};

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
    /// Whether `frame`, as it was received, has the headers that are to be rewritten in each piece, all of them in its head; the offset
    /// `l3` is its IP header's.
    fn can_cut(self, frame: &Frame, l3: usize) -> Option<()> {
        let head = frame.head();
        let l4 = self.csum_start as usize;
        let (protocol, csum_offset) = self.gso.transport();
        let network = if self.gso.is_ipv6() { Network::Ipv6 } else { Network::Ipv4 };
        let layers = Layers::of(frame);
        let found = (layers.network, layers.protocol, layers.l4());
        if found != (network, protocol, Some(frame.start + self.csum_start)) || self.csum_offset != csum_offset {
            return None;
        }
        let transport = if self.gso.is_tcp() { tcp_header(*head.get(l4 + 12)?) } else { wire::UDP_HEADER };
        let payload = l4 + transport;
        let least = if self.gso.is_tcp() { 20 } else { wire::UDP_HEADER };
        if transport < least || payload > head.len() || payload >= frame.len() || frame.len() - l3 > IP_MAX {
            return None;
        }
        let few = self.gso_size != 0 && (frame.len() - payload).div_ceil(self.gso_size as usize) <= PIECES_MAX;
        (few && (!self.ecn || self.gso.is_tcp())).then_some(())
    }

    /// [`Offload::can_cut`] for what VXLAN carries in `frame`, behind IPv4 without options. Only decapsulation goes on with it: the checksum
    /// of the outer UDP header, if it has one, is not rewritten in each piece.
    fn can_cut_inside(self, frame: &mut Frame) -> Option<()> {
        let outer: &[u8; OUTER] = frame.head().first_chunk()?;
        let is_plain = (be16(outer, 12), outer[ETH], outer[23]) == (wire::IPV4, 0x45, wire::UDP);
        if !is_plain || be16(outer, 20) & 0x3fff != 0 || frame.len() - ETH > IP_MAX {
            return None;
        }
        let inside = Offload { csum_start: self.csum_start.checked_sub(OUTER as u16)?, ..self };
        let (start, len) = (frame.start, frame.len);
        frame.pull_front(OUTER);
        let can = matches!(network(frame.head()), Some((_, ETH))).then(|| inside.can_cut(frame, ETH)).flatten();
        (frame.start, frame.len) = (start, len);
        can
    }
}

/// Length of a TCP header, bytes, by its thirteenth.
fn tcp_header(data_offset: u8) -> usize {
    (data_offset >> 4) as usize * 4
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
    pub fn new(offload: Offload, frame: &mut Frame) -> Option<Pending> {
        debug_assert!(frame.start as usize == HEADROOM);
        let head = frame.head();
        let Offload { csum_start, csum_offset, gso, gso_size, ecn } = offload;
        let (_, mut l3) = network(head)?;
        if (csum_start as usize) < l3 || csum_start as usize + csum_offset as usize + 2 > head.len() {
            return None;
        }
        if gso != Gso::None && offload.can_cut(frame, l3).is_none() {
            offload.can_cut_inside(frame)?;
            l3 = OUTER + ETH;
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

impl Accepts {
    /// Whether a frame of which this is left to be done may be given to the receiver as it is.
    pub fn takes(self, offload: Offload) -> bool {
        self.csum
            && (self.ecn || !offload.ecn)
            && match offload.gso {
                Gso::None => true,
                Gso::Tcp4 => self.tso4,
                Gso::Tcp6 => self.tso6,
                Gso::Udp4 => self.uso4,
                Gso::Udp6 => self.uso6,
            }
    }
}

/// Whether a receiver that takes `accepts` gets `frame` as it is. What is in VXLAN is never left undone: receivers look for it behind
/// the outer headers.
pub(crate) fn goes_whole(frame: &Frame, accepts: Accepts) -> bool {
    frame.offload().is_none_or(|offload| accepts.takes(offload) && !is_encapsulated(frame))
}

/// Whether `frame` is to be cut for receivers that don't take it as it is.
pub(crate) fn is_long(frame: &Frame) -> bool {
    frame.pending.gso != Gso::None
}

/// Into how many pieces `frame` is cut.
pub(crate) fn pieces(frame: &Frame) -> u32 {
    let headers = payload_at(frame) - frame.start as usize;
    (frame.len() - headers).div_ceil(frame.pending.gso_size as usize) as u32
}

/// Whether `frame` is several UDP datagrams over IPv4, not something that it carries in a tunnel.
pub(crate) fn is_datagrams(frame: &Frame) -> bool {
    frame.pending.gso == Gso::Udp4 && !is_encapsulated(frame)
}

/// Cuts frame `i` into pieces, which `send` gets in `scratch`, up to [`BURST`] at a time. That is empty before and after.
pub(crate) fn cut(burst: &Burst, i: u16, scratch: &mut Burst, mut send: impl FnMut(&mut Burst)) {
    let frame = burst.frame(i);
    let at = payload_at(frame);
    let mut left = frame.len() - (at - frame.start as usize);
    let mut head = &frame.bytes[at..frame.end as usize];
    let mut body = burst.segments(frame);
    let mut segment = Segment::EMPTY;
    let layers = burst.meta.layers.get(i);
    for n in 0.. {
        if left == 0 || scratch.room() == 0 {
            send(scratch);
            scratch.clear();
        }
        if left == 0 {
            return;
        }
        let mut want = left.min(frame.pending.gso_size as usize);
        left -= want;
        // Payload that came with the head goes with a head again: there is no memory but the frame's to name.
        let of_head = head.split_off(..want.min(head.len())).expect("no more than there is");
        scratch.push_piece(frame, at, of_head);
        scratch.meta.layers.hand_on(layers, scratch.len() as u16 - 1);
        want -= of_head.len();
        while want != 0 {
            if segment.is_empty() {
                segment = body.next().expect("head and segments are as long as the frame");
            }
            let (part, rest) = segment.split_at(want);
            scratch.extend(part);
            want -= part.len() as usize;
            segment = rest;
        }
        rewrite(scratch, frame.pending, n, left == 0);
    }
}

/// Makes the headers of the frame pushed last those of piece number `n`, counted from 0, of a frame with `pending`: lengths,
/// identification (RFC 791), sequence number and flags (RFC 9293, RFC 3168), checksums, and lengths and checksum of what is
/// around it.
fn rewrite(scratch: &mut Burst, pending: Pending, n: u32, last: bool) {
    let i = scratch.len() as u16 - 1;
    let frame = &mut scratch.frames[i];
    frame.pending = Pending { gso: Gso::None, gso_size: 0, ..pending };
    let encapsulated = is_encapsulated(frame);
    let Pending { l3, l4, csum_offset, gso, .. } = pending;
    let (start, l3, l4) = (frame.start as usize, l3 as usize, l4 as usize);
    // Where it would end if all of it were in `bytes`.
    let end = start + frame.len();
    let bytes = &mut frame.bytes;
    let mut put = |at: usize, value: usize| bytes[at..at + 2].copy_from_slice(&(value as u16).to_be_bytes());

    if encapsulated {
        let ip = start + ETH;
        put(ip + 2, end - ip);
        put(ip + 24, end - ip - 20);
    }
    if gso.is_ipv6() {
        put(l3 + 4, end - l3 - 40);
    } else {
        put(l3 + 2, end - l3);
    }
    if !gso.is_tcp() {
        put(l4 + 4, end - l4);
    }

    if encapsulated {
        ipv4_checksum(&mut bytes[start + ETH..start + ETH + 20]);
    }
    if !gso.is_ipv6() {
        let id = be16(bytes, l3 + 4).wrapping_add(n as u16);
        bytes[l3 + 4..l3 + 6].copy_from_slice(&id.to_be_bytes());
        ipv4_checksum(&mut bytes[l3..l4]);
    }
    if gso.is_tcp() {
        const FIN: u8 = 0x01;
        const PSH: u8 = 0x08;
        const CWR: u8 = 0x80;
        let sequence = be32(bytes, l4 + 4).wrapping_add(n * u32::from(pending.gso_size));
        bytes[l4 + 4..l4 + 8].copy_from_slice(&sequence.to_be_bytes());
        if !last {
            bytes[l4 + 13] &= !(FIN | PSH);
        }
        if n != 0 && pending.ecn {
            bytes[l4 + 13] &= !CWR;
        }
    }

    let addresses = if gso.is_ipv6() { l3 + 8..l3 + 40 } else { l3 + 12..l3 + 20 };
    let pseudo = wire::sum(&bytes[addresses]) + u32::from(gso.transport().0) + (end - l4) as u32;
    let field = l4 + csum_offset as usize;
    bytes[field..field + 2].copy_from_slice(&wire::fold(pseudo).to_be_bytes());
    complete(scratch, i);
}

/// Writes the checksum of an IPv4 header into it.
fn ipv4_checksum(header: &mut [u8]) {
    header[10..12].fill(0);
    let sum = !wire::fold(wire::sum(header));
    header[10..12].copy_from_slice(&sum.to_be_bytes());
}

/// Where the payload begins in the bytes of `frame`, which is to be cut.
fn payload_at(frame: &Frame) -> usize {
    let l4 = frame.pending.l4 as usize;
    l4 + if frame.pending.gso.is_tcp() { tcp_header(frame.bytes[l4 + 12]) } else { wire::UDP_HEADER }
}

/// Whether VXLAN's headers are before what `frame` has pending: they were put there here, or it came so. Tags are much shorter.
pub(crate) fn is_encapsulated(frame: &Frame) -> bool {
    (frame.pending.l3 - frame.start) as usize >= OUTER + ETH
}

/// The length in bytes of the longest frame that `frame` leaves as, wherever it goes.
#[inline(always)]
pub(crate) fn longest_piece(frame: &Frame) -> usize {
    match frame.pending.gso {
        Gso::None => frame.len(),
        _ => frame.len().min(payload_at(frame) - frame.start as usize + frame.pending.gso_size as usize),
    }
}

/// Forgets what was left to be done to the outer headers of `frame`, which was just decapsulated: nobody asks for it any more.
pub(crate) fn forget_outer(frame: &mut Frame) {
    let Pending { l4, csum_offset, .. } = frame.pending;
    let l3 = frame.start + ETH as u16;
    let is_inner = l4 >= l3 && l4 + u16::from(csum_offset) + 2 <= frame.end;
    frame.pending = if is_inner { Pending { l3, ..frame.pending } } else { Pending::NONE };
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

#[cfg(test)]
pub(crate) mod tests;
