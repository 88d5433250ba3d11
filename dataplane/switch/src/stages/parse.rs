//! Addresses: the FDB keys of source and destination, and, when they are read, [`hash`]: the buckets that will be looked into are asked for.

use super::{Context, Pass, Process, Selection, Verdict, vlan};
use crate::burst::{BURST, Burst, Meta};
use crate::drops::Drop;
use crate::egress::Egress;
use crate::names::{Named, declare};
use crate::offload;
use crate::port::Output;
use crate::stages::learn::{Marker, Seen};
use crate::tables::{NO_BRIDGE, Port, PortTable};
use crate::wire::{self, ETH, be16};

declare! { REASONS of Drop;
    /// The frame is shorter than an Ethernet header with its tag. Through `net_af_packet` so is every frame whose outer tag is not
    /// 802.1Q's (0x8100): DPDK would make it one.
    ParseTruncated = "parse.truncated" {
        cause: "A fault in the sender; or 802.1ad tags (0x88a8) on a device of `net_af_packet`.",
        remedy: "Use 802.1Q tags there, or give DPDK the NIC itself by its PCI address.",
    };
    /// The source address is a group address or all zeros.
    ParseBadSource = "parse.bad_source" {
        cause: "A fault in the sender: often a generator or a device that has no address yet.",
        remedy: "Give it one: `ip link set DEV address 02:00:00:00:00:01`.",
    };
    /// The port is in no bridge (for this frame's VLAN).
    VlanUnknown = "vlan.unknown_vlan" {
        cause: "The port sends a VLAN that it is no member with, or untagged frames as a trunk, or tagged ones \
            as an untagged member.",
        remedy: "`dray bridge show` has the members; `dray bridge join BRIDGE PORT:VLAN` adds the VLAN, `dray \
            bridge join NAME PORT` what is untagged.",
    };
    /// The port is in no bridge at all.
    VlanNoBridge = "vlan.no_bridge" {
        cause: "It was added without a bridge, or taken out of it.",
        remedy: "`dray bridge join BRIDGE PORT`.",
    };
    /// There is another VLAN tag behind the one that says the VLAN, or says none: it would say another one at the next switch.
    VlanDoubleTag = "vlan.double_tag" {
        cause: "Provider tags (QinQ), or somebody who tries to get into another VLAN.",
        remedy: "Send one tag. Dray carries no second one.",
    };
}

#[derive(Default)]
pub(crate) struct Parse;

impl Process for Parse {
    const REASONS: &[Named] = REASONS;

    fn wanted(port: &Port) -> bool {
        !port.is_underlay()
    }

    fn run<O: Output>(&mut self, pass: &mut Pass<O>) -> usize {
        let (burst, live, cx) = (&mut *pass.burst, &mut pass.live, pass.cx);
        if burst.has_offloads() {
            refuse_tunnels(burst, live);
        }
        match &pass.port.bridges {
            &PortTable::Access(bridge) => access(burst, live, cx, bridge),
            PortTable::Trunk(bridges) => run(burst, live, cx, |vlan| bridges[vlan as usize % bridges.len()]),
            PortTable::Unused | PortTable::Underlay => std::mem::take(live).drop(burst, Drop::VlanNoBridge),
        }
        hash(pass, Egress::port(pass.cx.port, 0))
    }
}

/// Drops what is to be cut inside of a tunnel that isn't ours: it would be in two of them then.
#[cold]
#[inline(never)]
fn refuse_tunnels(burst: &mut Burst, live: &mut Selection) {
    live.each(burst, |burst, i| {
        let inside = offload::is_long(&burst.frames[i]) && offload::is_encapsulated(&burst.frames[i]);
        if inside { Verdict::drop(Drop::RxBadOffload) } else { Verdict::GO }
    });
}

/// The group bit of an address in the lower 48 bits of a key.
pub(crate) const GROUP: u64 = 1 << 40;

/// On a port that is untagged in `bridge`: reads each frame's addresses.
#[inline(never)]
fn access(burst: &mut Burst, live: &mut Selection, cx: &Context, bridge: u16) {
    if !untagged(burst, bridge) {
        return run(burst, live, cx, |vlan| if vlan == 0 { bridge } else { NO_BRIDGE });
    }
    let meta = &mut burst.meta;
    meta.priority.0[..BURST].fill(0);
    meta.ingress.0[..BURST].fill(Egress::port(cx.port, 0));
}

/// Makes the FDB keys of a burst's frames if all are as nearly all are: untagged, and with a source that can be one. Whether they are.
fn untagged(burst: &mut Burst, bridge: u16) -> bool {
    if bridge == NO_BRIDGE {
        return false;
    }
    let n = burst.len().min(BURST);
    let Meta { dst, src, .. } = &mut burst.meta;
    // Short loops, of which the compiler makes the second one a loop over four frames at a time.
    let mut whole = true;
    for (frame, (dst, src)) in burst.frames.0[..n].iter().zip(dst.0[..n].iter_mut().zip(&mut src.0[..n])) {
        let (ethernet, all) = frame.beginning();
        [*dst, *src] = words(ethernet);
        whole &= all;
    }
    let key = u64::from(bridge) << 48;
    let mut unusual = 0;
    for (dst, src) in dst.0[..n].iter_mut().zip(&mut src.0[..n]) {
        let ethertype = *src >> 48;
        let addresses = Addresses::of([*dst, *src]);
        (*dst, *src) = (key | addresses.0, key | addresses.1);
        // The highest bits count. To take one from nothing sets all.
        unusual |= addresses.bad_source() | (ethertype ^ u64::from(wire::VLAN.to_be())).wrapping_sub(1);
    }
    whole && unusual >> 63 == 0
}

/// The words that a header begins with, from its first byte and from its seventh.
#[inline(always)]
fn words(ethernet: &[u8; ETH]) -> [u64; 2] {
    [0, 6].map(|at| u64::from_ne_bytes(ethernet[at..at + 8].try_into().expect("8 bytes")))
}

/// On an ordinary port: finds each frame's bridge by its VLAN (0: none), and reads its addresses.
#[inline(never)]
fn run(burst: &mut Burst, live: &mut Selection, cx: &Context, bridge_of: impl Fn(u16) -> u16) {
    let untagged = bridge_of(0);
    burst.meta.priority.0[..BURST].fill(0);
    live.each(burst, |burst, i| {
        let Some(ethernet) = burst.frames[i].received() else {
            return Verdict::drop(Drop::ParseTruncated);
        };
        if be16(ethernet, 12) == wire::VLAN {
            return tagged(burst, i, cx, &bridge_of);
        }
        if untagged == NO_BRIDGE {
            return Verdict::drop(Drop::VlanUnknown);
        }
        let addresses = Addresses::read(ethernet);
        addresses.note(burst, i, untagged, Egress::port(cx.port, 0))
    });
}

#[cold]
#[inline(never)]
fn tagged(burst: &mut Burst, i: u16, cx: &Context, bridge_of: impl Fn(u16) -> u16) -> Verdict {
    let (vlan, priority) = match vlan::pop(&mut burst.frames[i]) {
        Ok(tci) => (tci & 0xfff, tci & 0xf000),
        Err(reason) => return Verdict::drop(reason),
    };
    match bridge_of(vlan) {
        NO_BRIDGE => Verdict::drop(Drop::VlanUnknown),
        bridge => {
            let verdict = addresses(burst, i, bridge, Egress::port(cx.port, vlan));
            burst.meta.priority[i] = priority;
            verdict
        }
    }
}

/// Reads the addresses of frame `i`, which came from `ingress` into `bridge`.
pub(crate) fn addresses(burst: &mut Burst, i: u16, bridge: u16, ingress: Egress) -> Verdict {
    match burst.frames[i].head().first_chunk() {
        Some(ethernet) => Addresses::read(ethernet).note(burst, i, bridge, ingress),
        None => Verdict::drop(Drop::ParseTruncated),
    }
}

/// Frames that are hashed together: as many as make whole registers.
const LANES: usize = 8;

/// Ends parsing, and decapsulation: finds the sources that are to be learned behind `from`. How many frames there were.
#[inline(always)]
pub(super) fn hash<O>(pass: &mut Pass<O>, from: Egress) -> usize {
    pass.unseen = find(pass.burst, pass.live, pass.cx, pass.seen, from);
    pass.burst.len()
}

/// Hashes the keys of the burst's frames and asks for what will be looked into for those under way. Returns those whose sources are to be
/// learned.
#[inline(never)]
fn find(burst: &mut Burst, live: Selection, cx: &Context, seen: &Seen, from: Egress) -> Selection {
    let fdb = cx.fdb;
    let (mut places, mut marks) = ([0; BURST], [0; BURST]);
    // Short loops over all frames, which the compiler makes loops over four at a time. What is there of frames that were dropped, or of
    // none, does no harm.
    let n = burst.len().next_multiple_of(LANES).min(BURST);
    let Meta { dst, src, dst_bucket, ingress, .. } = &mut burst.meta;
    for (bucket, key) in dst_bucket.0[..n].iter_mut().zip(&dst.0[..n]) {
        *bucket = fdb.home(*key);
    }
    let marker = Marker::new(cx, from);
    for ((place, mark), (key, ingress)) in
        places[..n].iter_mut().zip(&mut marks[..n]).zip(src.0[..n].iter().zip(&ingress.0[..n]))
    {
        *place = Seen::place(*key);
        *mark = marker.mark(*key, *ingress);
    }
    let mut unseen = Selection::NONE;
    for (i, (bucket, (place, mark))) in (0..).zip(dst_bucket.0[..n].iter().zip(places[..n].iter().zip(&marks[..n]))) {
        fdb.prefetch(*bucket);
        unseen.add_if(!seen.has(*place, *mark), i);
    }
    let unseen = unseen.of(live);
    for i in unseen.iter() {
        fdb.prefetch(fdb.home(src[i]));
    }
    unseen
}

/// Destination and source in the lower 48 bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Addresses(u64, u64);

impl Addresses {
    #[inline(always)]
    pub(crate) fn read(ethernet: &[u8; ETH]) -> Self {
        Addresses::of(words(ethernet))
    }

    /// Those in [`words`].
    #[inline(always)]
    fn of(words: [u64; 2]) -> Self {
        let [dst, src] = words.map(|word| u64::from_be(word) >> 16);
        Addresses(dst, src)
    }

    /// The highest bit says whether the source can't be one: it is the group bit, or what is borrowed to take one from nothing.
    #[inline(always)]
    fn bad_source(self) -> u64 {
        self.1 << (63 - GROUP.trailing_zeros()) | self.1.wrapping_sub(1)
    }

    /// Makes them FDB keys of frame `i`, which came from `ingress` into `bridge`.
    #[inline(always)]
    pub(crate) fn note(self, burst: &mut Burst, i: u16, bridge: u16, ingress: Egress) -> Verdict {
        let Addresses(dst, src) = self;
        if self.bad_source() >> 63 != 0 {
            return Verdict::drop(Drop::ParseBadSource);
        }
        let key = (bridge as u64) << 48;
        let meta = &mut burst.meta;
        (meta.dst[i], meta.src[i], meta.ingress[i]) = (key | dst, key | src, ingress);
        Verdict::GO
    }
}
