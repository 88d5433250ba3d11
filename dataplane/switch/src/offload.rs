//! What a sender may leave undone because a NIC would do it: the transport checksum, and cutting one large frame into many
//! (virtio 1.2, section 5.1.6.2). A receiver that takes it so gets it as it is ([`crate::Tx::accepts`]); for any other it is done
//! here.

use crate::burst::{Frame, HEADROOM};

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

/// An [`Offload`] with positions in [`Frame`]'s bytes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pending {
    /// The IP header, if it is to be cut.
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
        let _ = (offload, frame);
        todo!()
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
