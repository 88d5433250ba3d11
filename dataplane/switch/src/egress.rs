//! Where frames leave.

/// Port numbers are below this: 1,024 configured ones, and as many that are about to go while an apply is under way.
pub const MAX_PORTS: usize = 2048;

/// Where a frame leaves, or how others reach the place it came from: a port with the VLAN tag to push (0: none), or a
/// tunnel. One word, so that an FDB entry can hold it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Egress(u32);

const TUNNEL: u32 = 1 << 31;

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

    /// A tunnel that isn't known yet: [`View::learn`](crate::fdb::View::learn) learns nothing there.
    pub const NOWHERE: Egress = Egress(u32::MAX);

    /// The place whose [`Egress::bits`] these are.
    #[inline(always)]
    pub(crate) const fn from_bits(bits: u32) -> Self {
        Egress(bits)
    }

    /// Another number for each place.
    #[inline(always)]
    pub(crate) const fn bits(self) -> u32 {
        self.0
    }

    /// Whether it is a port without a tag.
    #[inline(always)]
    pub const fn is_untagged_port(self) -> bool {
        self.0 <= u16::MAX as u32
    }

    /// Whether it is a tunnel.
    #[inline(always)]
    pub const fn is_tunnel(self) -> bool {
        self.0 & TUNNEL != 0
    }

    /// The port's or tunnel's number.
    #[inline(always)]
    pub const fn index(self) -> u16 {
        self.0 as u16
    }

    /// The VLAN tag to push; 0 for none.
    #[inline(always)]
    pub const fn vlan(self) -> u16 {
        (self.0 >> 16) as u16 & 0xfff
    }

    /// Whose share of the table it counts for: its port's, whatever the VLAN. All tunnels have one, the last.
    #[inline(always)]
    pub(crate) const fn share(self) -> usize {
        if self.is_tunnel() { MAX_PORTS } else { self.0 as usize % MAX_PORTS }
    }
}
