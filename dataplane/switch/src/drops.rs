//! The names of all drops, and the one way to drop. A frame is never freed silently: whoever gives one up names it here.

use crate::burst::Burst;

macro_rules! drops {
    ($($(#[doc = $doc:literal])+ $variant:ident = $name:literal;)*) => {
        /// Why a frame was dropped. The name is the counter's, `stage.reason`, in the command, the API and the metrics.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(u8)]
        pub enum Drop { $($(#[doc = $doc])+ $variant,)* }

        impl Drop {
            /// All reasons, in the order of their numbers.
            pub const ALL: &'static [Drop] = &[$(Drop::$variant,)*];

            /// The counter's name.
            pub const fn name(self) -> &'static str {
                match self { $(Drop::$variant => $name,)* }
            }

            /// What happened, for people.
            pub const fn description(self) -> &'static str {
                match self { $(Drop::$variant => concat!($($doc),+),)* }
            }
        }
    };
}

drops! {
    /// The peer's descriptor named memory outside its regions, an endless chain or a frame of no length.
    RxBadDescriptor = "rx.bad_descriptor";
    /// The frame is longer than the port's MTU allows.
    RxTooBig = "rx.too_big";
    /// The frame's checksum or segmentation request contradicts its headers, points beyond their first 192 bytes, or asks for more
    /// than 1,024 segments (virtio 1.2, section 5.1.6.2).
    RxBadOffload = "rx.bad_offload";
    /// The driver sent it on a ring that is not enabled.
    RxDisabled = "rx.disabled";
    /// The NIC or the kernel had no room or no buffer, by their own counters; counted as received, too.
    RxMissed = "rx.missed";
    /// The NIC received it with an error, by its own counter; counted as received, too.
    RxError = "rx.error";
    /// The frame is shorter than an Ethernet header with its tag. Through `net_af_packet` so is every frame whose outer tag is not
    /// 802.1Q's (0x8100): DPDK would make it one.
    ParseTruncated = "parse.truncated";
    /// The source address is a group address or all zeros.
    ParseBadSource = "parse.bad_source";
    /// The port is in no bridge (for this frame's VLAN).
    VlanUnknown = "vlan.unknown_vlan";
    /// The port is in no bridge at all.
    VlanNoBridge = "vlan.no_bridge";
    /// There is another VLAN tag behind the one that says the VLAN, or says none: it would say another one at the next switch.
    VlanDoubleTag = "vlan.double_tag";
    /// An underlay frame that is neither ours nor VXLAN: not addressed to us, or not a protocol we speak.
    UnderlayNotForUs = "underlay.not_for_us";
    /// An underlay frame that is still to be segmented: an outer packet holds one inner frame and can't be cut.
    UnderlayGso = "underlay.gso";
    /// Slow-path frames (ARP, ICMP to our own address) came faster than they are answered.
    UnderlayPuntFull = "underlay.punt_full";
    /// The outer IPv4 or UDP header is malformed, a fragment, or contradicts the frame's length.
    VxlanBadOuter = "vxlan.bad_outer";
    /// The VXLAN header's I flag is not set (RFC 7348, section 5).
    VxlanBadFlags = "vxlan.bad_flags";
    /// No bridge has this VNI.
    VxlanUnknownVni = "vxlan.unknown_vni";
    /// The sender is not a configured VTEP and `learn-vteps` is off.
    VxlanUnknownVtep = "vxlan.unknown_vtep";
    /// The encapsulated frame, or one that was to be, has a VLAN tag (RFC 7348, section 6.1).
    VxlanInnerTag = "vxlan.inner_tag";
    /// The outer header tells of congestion (CE), and the transport inside does not know ECN (RFC 6040, section 4.2).
    VxlanEcn = "vxlan.ecn";
    /// The encapsulated frame does not fit the underlay's MTU.
    VxlanTooBig = "vxlan.too_big";
    /// The next hop towards the VTEP is not resolved (yet).
    VxlanNoNeighbour = "vxlan.no_neighbour";
    /// The destination is behind the port the frame came from.
    ForwardSamePort = "forward.same_port";
    /// From a tunnel towards a tunnel of the same overlay.
    ForwardSplitHorizon = "forward.split_horizon";
    /// A destination reserved for link-local protocols (IEEE 802.1Q, 01:80:c2:00:00:0x).
    FloodLinkLocal = "flood.link_local";
    /// A flooded frame had nobody to go to.
    FloodNoTarget = "flood.no_target";
    /// Flooding had made 8,192 copies of the frames before it in its burst, or of long ones fewer: one sender must not hold up all others.
    FloodTooManyCopies = "flood.too_many_copies";
    /// The egress port has no peer.
    TxLinkDown = "tx.link_down";
    /// The receiver's ring had no free slot.
    TxRingFull = "tx.ring_full";
    /// The frame is longer than the egress port's MTU or buffers allow.
    TxTooBig = "tx.too_big";
    /// The receiver's descriptor named memory outside its regions.
    TxBadDescriptor = "tx.bad_descriptor";
    /// The NIC or the kernel took the frame and did not send it after all, by their own counters: no room, or no link.
    TxDevice = "tx.device";
    /// No mbuf was left for the frame.
    TxNoBuffer = "tx.no_buffer";
    /// The frame was to be segmented for this receiver, and with it there would have been more than 8,192 segments in its burst, those
    /// for each receiver counted: one sender must not hold up all others. Or its receiver offers buffers of less than 128 bytes.
    TxTooManyPieces = "tx.too_many_pieces";
}

impl Drop {
    /// How many reasons there are.
    pub const COUNT: usize = Self::ALL.len();

    /// Whether it happens to a frame on its way out, and so counts for the port it was to leave through.
    pub fn is_tx(self) -> bool {
        self.name().starts_with("tx.")
    }
}

/// Which frames are dropped.
#[derive(Clone, Copy, Debug)]
pub enum Dropped<'a> {
    /// A frame of the burst, or a copy in it.
    One(u16),
    /// Several of these.
    Many(&'a [u16]),
    /// Those of the received frames whose bit is set.
    Mask(u64),
    /// So many that nobody can look at: a ring refused to take them into the burst, or failed before it had sent them.
    Count(u32),
}

impl From<u16> for Dropped<'_> {
    fn from(i: u16) -> Self {
        Dropped::One(i)
    }
}

impl<'a> From<&'a [u16]> for Dropped<'a> {
    fn from(frames: &'a [u16]) -> Self {
        Dropped::Many(frames)
    }
}

impl Burst {
    /// Gives frames up, for `reason`: the one way to do so, for stages and for rings. It is counted for the port that the frames came
    /// from ([`Burst::drops`]), or, if it happens on their way out, for the port that they were to leave through
    /// ([`Burst::tx_drops`]). Whoever is to see dropped frames, with their bytes, stands here: it is off the way of all others.
    #[cold]
    #[inline(never)]
    pub fn drop<'a>(&mut self, frames: impl Into<Dropped<'a>>, reason: Drop) {
        let n = match frames.into() {
            Dropped::One(_) => 1,
            Dropped::Many(frames) => frames.len() as u32,
            Dropped::Mask(bits) => bits.count_ones(),
            Dropped::Count(n) => n,
        };
        let drops = if reason.is_tx() { &mut self.tx_drops } else { &mut self.drops };
        drops.add(reason, n);
    }
}

/// How many frames were dropped, by reason, since this was last emptied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Drops {
    counts: [u32; Drop::COUNT],
    total: u32,
}

impl Default for Drops {
    fn default() -> Self {
        Drops { counts: [0; Drop::COUNT], total: 0 }
    }
}

impl Drops {
    /// Counts `n` frames dropped for `reason`. Private, so that [`Burst::drop`] is the one way.
    fn add(&mut self, reason: Drop, n: u32) {
        self.counts[reason as usize] += n;
        self.total += n;
    }

    /// All frames dropped, whatever the reason.
    #[inline]
    pub fn total(&self) -> u32 {
        self.total
    }

    /// Frames dropped for `reason`.
    pub fn get(&self, reason: Drop) -> u32 {
        self.counts[reason as usize]
    }

    /// Hands every non-zero count to `f` and starts again from zero.
    #[inline]
    pub fn take(&mut self, mut f: impl FnMut(Drop, u32)) {
        if self.total != 0 {
            for &reason in Drop::ALL {
                let n = std::mem::take(&mut self.counts[reason as usize]);
                if n != 0 {
                    f(reason, n);
                }
            }
            self.total = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_drop_counts_for_the_port_that_the_frames_came_from_or_were_to_leave_through() {
        let mut burst = Burst::default();
        burst.drop(3, Drop::ForwardSamePort);
        burst.drop(Dropped::Count(5), Drop::RxTooBig);
        burst.drop(Dropped::Mask(1 << 63 | 1), Drop::ForwardSamePort);
        burst.drop(&[1, 2, 64][..], Drop::TxRingFull);
        let counts = |drops: &mut Drops| {
            let mut counts = Vec::new();
            drops.take(|reason, n| counts.push((reason, n)));
            assert_eq!(drops.total(), 0);
            counts
        };
        assert_eq!((burst.drops.total(), burst.tx_drops.total()), (8, 3));
        assert_eq!(counts(&mut burst.drops), [(Drop::RxTooBig, 5), (Drop::ForwardSamePort, 3)]);
        assert_eq!(counts(&mut burst.tx_drops), [(Drop::TxRingFull, 3)]);
    }
}
