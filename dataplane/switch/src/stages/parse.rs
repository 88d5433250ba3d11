//! Addresses: the FDB keys of source and destination, hashed, and the buckets that will be looked into asked for, for the whole burst at
//! once.
//!
//! Drops: `parse.truncated`, `parse.bad_source`, `vlan.unknown_vlan`.

use super::{Context, Live, Verdict, learn::Sources, vlan};
use crate::burst::Burst;
use crate::drops::Drop;
use crate::fdb::Egress;
use crate::tables::NO_BRIDGE;
use crate::wire::{self, be16};

/// The group bit of an address in the lower 48 bits of a key.
pub(crate) const GROUP: u64 = 1 << 40;

/// On an ordinary port: finds each frame's bridge by its VLAN (0: none), and reads its addresses.
#[inline(never)]
pub(crate) fn run(
    burst: &mut Burst,
    live: &mut Live,
    cx: Context,
    sources: &mut Sources,
    bridge_of: impl Fn(u16) -> u16,
) {
    let untagged = bridge_of(0);
    live.each(burst, |burst, i| {
        let Some(ethernet) = burst.frames[i].received() else {
            return Verdict::Drop(Drop::ParseTruncated);
        };
        if be16(ethernet, 12) == wire::VLAN {
            return tagged(burst, i, cx, sources, &bridge_of);
        }
        if untagged == NO_BRIDGE {
            return Verdict::Drop(Drop::VlanUnknown);
        }
        let addresses = Addresses::read(ethernet);
        addresses.note(burst, i, cx, untagged, Egress::port(cx.port, 0), sources)
    });
}

#[cold]
#[inline(never)]
fn tagged(burst: &mut Burst, i: u16, cx: Context, sources: &mut Sources, bridge_of: impl Fn(u16) -> u16) -> Verdict {
    let (vlan, priority) = match vlan::pop(&mut burst.frames[i]) {
        Ok(tci) => (tci & 0xfff, tci & 0xf000),
        Err(reason) => return Verdict::Drop(reason),
    };
    match bridge_of(vlan) {
        NO_BRIDGE => Verdict::Drop(Drop::VlanUnknown),
        bridge => {
            let verdict = addresses(burst, i, cx, bridge, Egress::port(cx.port, vlan), sources);
            burst.meta[i].priority = priority;
            verdict
        }
    }
}

/// Reads the addresses of frame `i`, which came from `ingress` into `bridge`.
pub(crate) fn addresses(
    burst: &mut Burst,
    i: u16,
    cx: Context,
    bridge: u16,
    ingress: Egress,
    sources: &mut Sources,
) -> Verdict {
    match burst.frames[i].head().first_chunk() {
        Some(ethernet) => Addresses::read(ethernet).note(burst, i, cx, bridge, ingress, sources),
        None => Verdict::Drop(Drop::ParseTruncated),
    }
}

/// Destination and source in the lower 48 bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Addresses(u64, u64);

impl Addresses {
    #[inline(always)]
    pub(crate) fn read(ethernet: &[u8; 14]) -> Self {
        let word = |at: usize| u64::from_be_bytes(ethernet[at..at + 8].try_into().expect("8 bytes"));
        Addresses(word(0) >> 16, word(6) >> 16)
    }

    /// Makes them FDB keys and asks for their buckets.
    #[inline(always)]
    pub(crate) fn note(
        self,
        burst: &mut Burst,
        i: u16,
        cx: Context,
        bridge: u16,
        ingress: Egress,
        sources: &mut Sources,
    ) -> Verdict {
        let Addresses(dst, src) = self;
        // The highest bit is the group bit, or what is borrowed to take one from nothing.
        if (src << (63 - GROUP.trailing_zeros()) | src.wrapping_sub(1)) >> 63 != 0 {
            return Verdict::Drop(Drop::ParseBadSource);
        }
        let key = (bridge as u64) << 48;
        let (dst, src) = (key | dst, key | src);
        let dst_bucket = cx.fdb.home(dst);
        cx.fdb.prefetch(dst_bucket);
        sources.note(i, src, ingress, cx);
        // Not as a whole: `egress` is another stage's.
        let meta = &mut burst.meta[i];
        (meta.dst, meta.dst_bucket, meta.ingress, meta.priority) = (dst, dst_bucket, ingress, 0);
        Verdict::Go
    }
}
