//! Where frames leave: the one number that all lookups produce.

pub use crate::sizes::MAX_PORTS;

/// Where a frame leaves, or how others reach the place it came from: the number of an *adjacency*, which is a port and what is written
/// before a frame that leaves there, or of a *group* of adjacencies. One word, so that an FDB entry can hold it.
///
/// The number of a port's adjacency says all there is to it: the port and the VLAN tag to push. Those of tunnels and groups are places in
/// [`Tables::adjacencies`](crate::tables::Tables::adjacencies) and [`Tables::groups`](crate::tables::Tables::groups).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Egress(u32);

const TUNNEL: u32 = 1 << 31;
const GROUP: u32 = 1 << 30;

impl Egress {
    /// Port `port`, untagged (`vlan` 0) or tagged.
    #[inline(always)]
    pub const fn port(port: u16, vlan: u16) -> Self {
        Egress((vlan as u32) << 16 | port as u32)
    }

    /// Tunnel number `tunnel` of the tables.
    #[inline(always)]
    pub const fn tunnel(tunnel: u16) -> Self {
        Egress(TUNNEL | tunnel as u32)
    }

    /// Group number `group` of the tables.
    #[inline(always)]
    pub const fn group(group: u16) -> Self {
        Egress(GROUP | group as u32)
    }

    /// The switch itself, as a place that frames come from: none go there. It is the group of no bridge.
    pub const OURSELVES: Egress = Egress::group(0);

    /// A tunnel that isn't known yet: [`View::learn`](crate::fdb::View::learn) learns nothing there.
    pub const NOWHERE: Egress = Egress(u32::MAX);

    /// The egress whose [`Egress::bits`] these are.
    #[inline(always)]
    pub(crate) const fn from_bits(bits: u32) -> Self {
        Egress(bits)
    }

    /// Another number for each egress.
    #[inline(always)]
    pub(crate) const fn bits(self) -> u32 {
        self.0
    }

    /// Whether it is a port without a tag: frames leave as they are.
    #[inline(always)]
    pub const fn is_untagged_port(self) -> bool {
        self.0 <= u16::MAX as u32
    }

    /// Whether it is a port, with or without a tag.
    #[inline(always)]
    pub const fn is_port(self) -> bool {
        self.0 < GROUP
    }

    /// Whether it is a tunnel.
    #[inline(always)]
    pub const fn is_tunnel(self) -> bool {
        self.0 & TUNNEL != 0
    }

    /// The number of the port, tunnel or group.
    #[inline(always)]
    pub const fn index(self) -> u16 {
        self.0 as u16
    }

    /// The VLAN tag to push; 0 for none.
    #[inline(always)]
    pub const fn vlan(self) -> u16 {
        (self.0 >> 16) as u16 & 0xfff
    }

    /// Whose share of the FDB it counts for: its port's, whatever the VLAN. All tunnels have one, the last.
    #[inline(always)]
    pub(crate) const fn share(self) -> usize {
        if self.is_tunnel() { MAX_PORTS } else { self.0 as usize % MAX_PORTS }
    }
}
