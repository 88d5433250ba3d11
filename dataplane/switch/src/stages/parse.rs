//! Addresses: the FDB keys of source and destination, hashed, and their buckets asked for, for the whole burst at once.
//!
//! Drops: `parse.bad_source`, `forward.link_local`.

use super::{Context, Live, Verdict};
use crate::burst::Burst;
use crate::drops::Drop;

/// The group bit of an address in the lower 48 bits of a key.
pub(crate) const GROUP: u64 = 1 << 40;
const MAC: u64 = (1 << 48) - 1;
/// 01:80:c2:00:00:00 to :0f stay on their link (IEEE 802.1Q, table 8-1).
const LINK_LOCAL: u64 = 0x0180_c200_0000;

pub(crate) fn run(burst: &mut Burst, live: &mut Live, cx: Context) {
    live.each(burst, |burst, i| {
        // `vlan` and `decap` let nothing through whose head is shorter than an Ethernet header.
        let head: &[u8; 14] = burst.frames[i as usize].head().first_chunk().expect("an Ethernet header");
        let word = |at: usize| u64::from_be_bytes(head[at..at + 8].try_into().expect("8 bytes"));
        let (dst, src) = (word(0) >> 16, word(6) >> 16);
        if src & GROUP != 0 || src & MAC == 0 {
            return Verdict::Drop(Drop::ParseBadSource);
        }
        if dst & !0xf == LINK_LOCAL {
            return Verdict::Drop(Drop::ForwardLinkLocal);
        }
        let meta = &mut burst.meta[i as usize];
        let bridge = (meta.bridge as u64) << 48;
        meta.dst = bridge | dst;
        meta.src = bridge | src;
        meta.dst_bucket = cx.fdb.home(meta.dst);
        meta.src_bucket = cx.fdb.home(meta.src);
        cx.fdb.prefetch(meta.src_bucket);
        cx.fdb.prefetch(meta.dst_bucket);
        Verdict::Go
    })
}
