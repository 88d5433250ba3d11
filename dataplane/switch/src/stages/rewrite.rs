//! What is written before frames that leave: a VLAN tag, or the outer headers of a tunnel, in the headroom. Nothing else does, so that
//! what is between this and send has each frame as it leaves, and its port.
//!
//! VXLAN encapsulation is RFC 7348, section 5. The outer header has the inner one's DSCP and ECN (RFC 6040, section 4.1, normal mode; RFC
//! 2983, uniform model).

use super::{Pass, Process, leaving::Leaving, vlan};
use crate::adjacency::{Adjacencies, OUTER};
use crate::burst::{Burst, Frame};
use crate::drops::Drop;
use crate::layers::Layers;
use crate::names::{Named, declare};
use crate::offload;
use crate::port::Output;
use crate::wire::ETH;

declare! { REASONS of Drop;
    /// The encapsulated frame does not fit the underlay's MTU.
    VxlanTooBig = "vxlan.too_big" {
        cause: "The underlay's MTU is not 50 bytes more than the senders'.",
        remedy: "`dray bridge show` has the MTU that fits: set it in the senders, `ip link set DEV mtu 1450`. Or \
            raise the underlay's: `dray port set NAME mtu 1550`, and that of each device on the way.",
    };
    /// The next hop towards the VTEP is not resolved (yet).
    VxlanNoNeighbour = "vxlan.no_neighbour" {
        cause: "Nobody answers ARP for the VTEP, or for the gateway. One or two at the beginning are in order.",
        remedy: "`dray vtep show` says which. Look at `local` and `gateway` of `[vxlan]`, at the underlay's port \
            in `dray port show`, and whether the other host is up; `neighbours` does without ARP.",
    };
}

#[derive(Default)]
pub(crate) struct Rewrite {
    /// The outer headers of the tunnel at hand: in memory, from where they are copied at once and not word by word.
    headers: Headers,
}

struct Headers([u8; OUTER]);

impl Default for Headers {
    fn default() -> Self {
        Headers([0; OUTER])
    }
}

impl Process for Rewrite {
    const REASONS: &[Named] = REASONS;

    fn run<O: Output>(&mut self, pass: &mut Pass<O>) -> usize {
        let mut rewritten = 0;
        for set in pass.leaving.iter_mut() {
            if set.egress.is_untagged_port() {
                set.port = set.egress.index();
                continue;
            }
            rewritten += set.len();
            if set.egress.is_tunnel() {
                encapsulate(pass.burst, set, &pass.cx.tables.adjacencies, &mut self.headers.0);
            } else {
                tag(pass.burst, set);
            }
        }
        rewritten
    }
}

/// Puts a tag into the frames of `set`, with the priority that they came with.
#[inline(never)]
fn tag(burst: &mut Burst, set: &mut Leaving) {
    set.port = set.egress.index();
    let vlan = set.egress.vlan();
    set.each(burst, |burst, i| {
        vlan::push(&mut burst.frames[i], vlan | burst.meta.priority[i]);
        Ok(())
    });
}

/// Encapsulates the frames of `set`, which leave by a tunnel.
#[inline(never)]
fn encapsulate(burst: &mut Burst, set: &mut Leaving, adjacencies: &Adjacencies, headers: &mut [u8; OUTER]) {
    let Some((tunnel, encap, sum)) = adjacencies.resolved(set.egress.index()) else {
        return set.each(burst, |_, _| Err(Drop::VxlanNoNeighbour));
    };
    set.port = encap.port;
    encap.write_headers(tunnel, headers);
    burst.read_layers(set.frames, set.copies);
    let (vnis, mtu) = (&encap.vnis[..], encap.mtu);
    set.each(burst, |burst, i| {
        let vni = vnis.get(usize::from(burst.meta.bridge(i))).copied().unwrap_or(0);
        let layers = *burst.layers(i);
        wrap(&mut burst.frames[i], layers, headers, sum, vni, mtu)
    });
}

/// Puts the outer `headers`, whose sum is `sum`, before `frame`, which carries `layers` and is in the network `vni`. The outer packet is
/// `mtu` bytes at most.
#[inline(always)]
fn wrap(frame: &mut Frame, layers: Layers, headers: &[u8; OUTER], sum: u16, vni: u32, mtu: u16) -> Result<(), Drop> {
    // Of a frame that is to be cut, each piece gets its own lengths and checksum when it is.
    let ip_len = offload::longest_piece(frame) + OUTER - ETH;
    if ip_len > mtu.into() {
        return Err(Drop::VxlanTooBig);
    }
    if layers.is_tagged(frame.start) {
        return Err(Drop::VxlanInnerTag);
    }
    let (class, source_port) = (layers.class, 0xc000 | layers.flow as u16 & 0x3fff);
    let bytes = frame.push_front::<OUTER, OUTER>();
    *bytes = *headers;
    bytes[15] = class;
    // Together less than 0x1_ff00, for an MTU is less than 0xfe00: what is carried carries nothing again.
    let sum = u32::from(sum) + ip_len as u32 + u32::from(class);
    bytes[16..18].copy_from_slice(&(ip_len as u16).to_be_bytes());
    bytes[24..26].copy_from_slice(&(!(sum + (sum >> 16)) as u16).to_be_bytes());
    bytes[34..36].copy_from_slice(&source_port.to_be_bytes());
    bytes[38..40].copy_from_slice(&(ip_len as u16 - 20).to_be_bytes());
    bytes[46..50].copy_from_slice(&(vni << 8).to_be_bytes());
    Ok(())
}
