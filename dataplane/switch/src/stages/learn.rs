//! Notes where each source address is. Never drops: what can't be learned is flooded, and counted as not learned.

use super::{Context, Live};
use crate::burst::Burst;
use crate::fdb::Learned;

/// How many frames' sources did not fit the FDB.
pub(crate) fn run(burst: &Burst, live: Live, cx: Context) -> u32 {
    let mut full = 0;
    for i in live.iter() {
        let meta = &burst.meta[i];
        full += (cx.fdb.learn(meta.src, meta.src_bucket, meta.ingress, cx.now) == Learned::Full) as u32;
    }
    full
}
