//! Source guard: a port sends with its own addresses only, those that `allowed-addresses` has. What claims another one is dropped before it is
//! learned: as the source of a frame or a packet, as the sender of ARP (RFC 826), or in neighbour discovery (RFC 4861).
//!
//! A frame's source is where a window of 32 bytes is, MAC, protocol and IP address of IPv4, IPv6 and ARP alike: after one frame that was read,
//! those with the same source are told by one compare. Fragments have their source as all packets have. Frames that are neither IP nor ARP
//! have a MAC only; and what is inside of a tunnel is another network's.

use super::{Pass, Process, Verdict};
use crate::burst::Frame;
use crate::drops::Drop;
use crate::layers::{self, Transport};
use crate::names::{Named, declare};
use crate::port::Output;
use crate::tables::Port;
use crate::wire::{self, ETH, be16, be32};
use dray_config::{Allowed, Mac, Prefix};
use std::net::IpAddr;
use std::sync::Arc;

declare! { REASONS of Drop;
    /// The source MAC is not one of the port's.
    GuardSourceMac = "guard.source_mac" {
        cause: "Whoever is attached has another MAC than the port: it was changed, is that of a bridge, a macvlan or a virtual machine behind \
            it; or somebody takes on another's.",
        remedy: "`dray port show NAME` has what it may send with. Give the device that MAC, or add its own: `dray port set NAME \
            allowed-addresses MAC`; `any` instead of MAC if a network is behind the port.",
    };
    /// The source address of IPv4 is not one of the port's.
    GuardSourceIpv4 = "guard.source_ipv4" {
        cause: "An address was added in the container that its port does not have, or it forwards for others; or it sends with \
            another's.",
        remedy: "`dray port show NAME` has what it may send with; `dray port set NAME allowed-addresses IP` sets what that is beside its own, \
            prefixes too, and `any` if it is a router.",
    };
    /// The source address of IPv6 is neither one of the port's nor the link-local one of its MAC.
    GuardSourceIpv6 = "guard.source_ipv6" {
        cause: "As with guard.source_ipv4; or link-local and temporary addresses that are not made from the MAC (RFC 7217, RFC 8981).",
        remedy: "As with guard.source_ipv4. `fe80::/10` allows all link-local addresses; in the container `sysctl \
            net.ipv6.conf.all.addr_gen_mode=0 net.ipv6.conf.all.use_tempaddr=0` has them made from the MAC.",
    };
    /// ARP whose sender is not the port: its MAC or its IPv4 address. A probe (RFC 5227) may ask for an address of its own.
    GuardArp = "guard.arp" {
        cause: "ARP spoofing; an address that the port does not have; or proxy ARP.",
        remedy: "As with guard.source_ipv4. In the container, `ip addr` shows what it answers for, and `sysctl \
            net.ipv4.conf.all.proxy_arp` whether it does for others.",
    };
    /// Neighbour discovery that claims what is not the port's: an advertised address, one that is to be taken, or a link-layer address. Or
    /// it is a fragment (RFC 6980).
    GuardNeighbour = "guard.neighbour" {
        cause: "As with guard.arp, for IPv6: spoofing, an address that the port does not have, or `proxy_ndp`.",
        remedy: "As with guard.source_ipv6.",
    };
    /// A router advertisement, or a redirect: they are a router's.
    GuardRouter = "guard.router" {
        cause: "radvd or another router runs in the container; or somebody takes others' traffic by it (RFC 6104).",
        remedy: "If it is the router: `dray port set NAME allowed-addresses any`.",
    };
    /// Its source can't be told: the headers are not whole, contradict themselves, or are longer than 128 bytes; or there are more than two
    /// tags.
    GuardUnreadable = "guard.unreadable" {
        cause: "A fault in the sender; or headers that are so long to hide what is behind them (RFC 7113).",
        remedy: "Send less options and extension headers. `dray port set NAME allowed-addresses any` if this is meant.",
    };
}

/// A network: the bits that count, and what they are.
#[derive(Clone, Copy)]
struct Net<T> {
    address: T,
    mask: T,
}

impl<T: Copy + PartialEq + std::ops::BitAnd<Output = T>> Net<T> {
    #[inline(always)]
    fn has(&self, address: T) -> bool {
        address & self.mask == self.address
    }
}

/// What a port may send with; none: anything.
#[derive(Clone, Default)]
pub(crate) struct Addresses(Option<Arc<Known>>);

struct Known {
    macs: Vec<[u8; 6]>,
    ipv4: Vec<Net<u32>>,
    ipv6: Vec<Net<u128>>,
    /// The first of them: a guess, which is right where there is one.
    first: Source,
}

impl Addresses {
    /// As the port's keys say. Nothing is counted.
    pub(crate) fn new(config: &dray_config::Port, _before: Option<&Addresses>) -> Addresses {
        let mut known = Known { macs: vec![], ipv4: vec![], ipv6: vec![], first: Source::NONE };
        for one in config.allowed() {
            match one {
                Allowed::Any => return Addresses(None),
                Allowed::Mac(mac) => {
                    known.macs.push(mac.0);
                    known.ipv6.push(Net { address: link_local(mac), mask: u128::MAX });
                }
                Allowed::Ip(Prefix { address: IpAddr::V4(address), length }) => {
                    let mask = u32::MAX.checked_shl(32 - u32::from(length)).unwrap_or(0);
                    known.ipv4.push(Net { address: u32::from(address) & mask, mask });
                }
                Allowed::Ip(Prefix { address: IpAddr::V6(address), length }) => {
                    let mask = u128::MAX.checked_shl(128 - u32::from(length)).unwrap_or(0);
                    known.ipv6.push(Net { address: u128::from(address) & mask, mask });
                }
            }
        }
        let mac = known.macs.first().copied().unwrap_or_default();
        known.first = match (known.ipv4.first(), known.ipv6.last()) {
            (Some(&net), _) => Source::ipv4(mac, net),
            (None, Some(&net)) => Source::ipv6(mac, net, wire::TCP),
            (None, None) => Source::NONE,
        };
        Addresses(Some(Arc::new(known)))
    }
}

/// The link-local address that is made from a MAC (RFC 4291, appendix A).
fn link_local(Mac([a, b, c, d, e, f]): Mac) -> u128 {
    0xfe80 << 112 | u128::from(u64::from_be_bytes([a ^ 2, b, c, 0xff, 0xfe, d, e, f]))
}

/// Where the window begins, in a frame: with its source MAC.
const AT: usize = 6;
/// Its bytes: up to the end of IPv6's source.
const WINDOW: usize = ETH + 24 - AT;

/// What frames of one source have in the window, and which bits of it that is.
#[derive(Clone, Copy)]
struct Source {
    bits: [u64; WINDOW / 8],
    mask: [u64; WINDOW / 8],
}

impl Source {
    /// Nobody's.
    const NONE: Source = Source { bits: [1; _], mask: [0; _] };

    /// Of packets of that network with that MAC.
    fn ipv4(mac: [u8; 6], net: Net<u32>) -> Source {
        let version = (0x40, 0xf0);
        Source::new(mac, wire::IPV4, [(8, version)], (20, &net.address.to_be_bytes(), &net.mask.to_be_bytes()))
    }

    /// Of packets of that network with that MAC, whose next header is `next`.
    fn ipv6(mac: [u8; 6], net: Net<u128>, next: u8) -> Source {
        let (version, next) = ((0x60, 0xf0), (next, 0xff));
        Source::new(
            mac,
            wire::IPV6,
            [(8, version), (14, next)],
            (16, &net.address.to_be_bytes(), &net.mask.to_be_bytes()),
        )
    }

    /// With so many bytes and their masks, each at its place in the window, and the address at its place.
    fn new<const N: usize>(
        mac: [u8; 6],
        ether_type: u16,
        bytes: [(usize, (u8, u8)); N],
        (at, address, net_mask): (usize, &[u8], &[u8]),
    ) -> Source {
        let (mut bits, mut mask) = ([0; WINDOW], [0; WINDOW]);
        bits[..6].copy_from_slice(&mac);
        bits[6..8].copy_from_slice(&ether_type.to_be_bytes());
        mask[..8].fill(0xff);
        for (at, byte) in bytes {
            (bits[at], mask[at]) = byte;
        }
        bits[at..at + address.len()].copy_from_slice(address);
        mask[at..at + address.len()].copy_from_slice(net_mask);
        Source { bits: words(&bits), mask: words(&mask) }
    }

    /// Whether the frame is of it. One that is too short to tell is not.
    #[inline(always)]
    fn has(&self, frame: &Frame) -> bool {
        let at = usize::from(frame.start) + AT;
        let Some(window) = frame.bytes.get(at..at + WINDOW).and_then(|bytes| bytes.first_chunk()) else { return false };
        let mut other = 0;
        for (word, (bits, mask)) in words(window).iter().zip(self.bits.iter().zip(&self.mask)) {
            other |= word & mask ^ bits;
        }
        other == 0 && usize::from(frame.end) >= at + WINDOW
    }
}

#[inline(always)]
fn words(window: &[u8; WINDOW]) -> [u64; WINDOW / 8] {
    std::array::from_fn(|n| u64::from_ne_bytes(window[8 * n..8 * n + 8].try_into().expect("eight bytes")))
}

#[derive(Default)]
pub(crate) struct Guard;

impl Process for Guard {
    const REASONS: &[Named] = REASONS;

    fn wanted(port: &Port) -> bool {
        port.stages.guard.0.is_some() && !port.is_underlay()
    }

    #[inline(never)]
    fn run<O: Output>(&mut self, pass: &mut Pass<O>) -> usize {
        let Some(known) = &pass.port.stages.guard.0 else { return 0 };
        let frames = pass.live.len();
        let mut usual = known.first;
        pass.live.each(pass.burst, |burst, i| {
            let frame = &burst.frames[i];
            if usual.has(frame) {
                return Verdict::GO;
            }
            match known.read(frame) {
                Ok(Some(source)) => {
                    usual = source;
                    Verdict::GO
                }
                Ok(None) => Verdict::GO,
                Err(reason) => Verdict::drop(reason),
            }
        });
        pass.unseen = pass.unseen.of(pass.live);
        frames
    }
}

/// ICMPv6's messages (RFC 4861, RFC 2710, RFC 3810).
const MLD_REPORT: u8 = 131;
const MLD_DONE: u8 = 132;
const ROUTER_SOLICITATION: u8 = 133;
const ROUTER_ADVERTISEMENT: u8 = 134;
const NEIGHBOUR_SOLICITATION: u8 = 135;
const NEIGHBOUR_ADVERTISEMENT: u8 = 136;
const REDIRECT: u8 = 137;
const MLDV2_REPORT: u8 = 143;

/// The `N` bytes at `at`.
fn part<const N: usize>(head: &[u8], at: usize) -> Result<&[u8; N], Drop> {
    head.get(at..).and_then(|rest| rest.first_chunk()).ok_or(Drop::GuardUnreadable)
}

impl Known {
    /// Whether the frame has the port's addresses. If its source alone says so, all frames of that source have.
    #[inline(never)]
    fn read(&self, frame: &Frame) -> Result<Option<Source>, Drop> {
        let head = frame.head();
        let mac = part(head, AT)?;
        if !self.macs.contains(mac) {
            return Err(Drop::GuardSourceMac);
        }
        let (ether_type, l3) = layers::network(head).ok_or(Drop::GuardUnreadable)?;
        let source = match ether_type {
            wire::IPV4 => self.ipv4(*mac, head, l3)?,
            wire::IPV6 => self.ipv6(*mac, frame, l3)?,
            wire::ARP => self.arp(head, l3).map(|()| None)?,
            tag if wire::is_tag(tag) => return Err(Drop::GuardUnreadable),
            _ => None,
        };
        // What has a tag has its source elsewhere.
        Ok(source.filter(|_| l3 == ETH))
    }

    fn is_ipv4(&self, address: u32) -> bool {
        self.ipv4.iter().any(|net| net.has(address))
    }

    fn is_ipv6(&self, address: u128) -> bool {
        self.ipv6.iter().any(|net| net.has(address))
    }

    fn ipv4(&self, mac: [u8; 6], head: &[u8], l3: usize) -> Result<Option<Source>, Drop> {
        let ip: &[u8; 20] = part(head, l3)?;
        if ip[0] >> 4 != 4 {
            return Err(Drop::GuardUnreadable);
        }
        let source = be32(ip, 12);
        match self.ipv4.iter().find(|net| net.has(source)) {
            Some(&net) => Ok(Some(Source::ipv4(mac, net))),
            None if source == 0 && is_dhcp(head, l3, ip) => Ok(None),
            None => Err(Drop::GuardSourceIpv4),
        }
    }

    fn arp(&self, head: &[u8], l3: usize) -> Result<(), Drop> {
        /// Ethernet and IPv4, and the lengths of their addresses.
        const KIND: [u8; 6] = [0, 1, 8, 0, 6, 4];
        const REQUEST: u16 = 1;
        let arp: &[u8; 28] = part(head, l3)?;
        let (sender, target) = (be32(arp, 14), be32(arp, 24));
        // A probe claims nothing but what it asks for (RFC 5227, section 2.1.1).
        let is_probe = sender == 0 && be16(arp, 6) == REQUEST;
        let is_own = self.is_ipv4(sender) || is_probe && self.is_ipv4(target);
        let has_mac = self.macs.contains(part(arp, 8)?);
        if arp[..6] == KIND && has_mac && is_own { Ok(()) } else { Err(Drop::GuardArp) }
    }

    fn ipv6(&self, mac: [u8; 6], frame: &Frame, l3: usize) -> Result<Option<Source>, Drop> {
        let head = frame.head();
        // Up to its source.
        let ip: &[u8; 24] = part(head, l3)?;
        if ip[0] >> 4 != 6 {
            return Err(Drop::GuardUnreadable);
        }
        let address = |at| part(head, at).map(|bytes| u128::from_be_bytes(*bytes));
        let source = address(l3 + 8)?;
        let net = self.ipv6.iter().find(|net| net.has(source));
        // Who has no address yet has some things to say all the same, below.
        if net.is_none() && source != 0 {
            return Err(Drop::GuardSourceIpv6);
        }
        let own = || net.map(|_| None).ok_or(Drop::GuardSourceIpv6);
        let Some((at, is_whole)) = icmpv6(head, ip[6], l3 + 40)? else {
            let net = *net.ok_or(Drop::GuardSourceIpv6)?;
            // What the next header is says that it is no neighbour discovery.
            let is_plain = matches!(ip[6], wire::TCP | wire::UDP | wire::SCTP);
            return Ok(is_plain.then(|| Source::ipv6(mac, net, ip[6])));
        };
        let [message] = *part(head, at)?;
        let options = match message {
            ROUTER_ADVERTISEMENT | REDIRECT => return Err(Drop::GuardRouter),
            MLD_REPORT | MLD_DONE | MLDV2_REPORT => return Ok(None),
            ROUTER_SOLICITATION => at + 8,
            NEIGHBOUR_SOLICITATION | NEIGHBOUR_ADVERTISEMENT => at + 24,
            _ => return own(),
        };
        if message == NEIGHBOUR_ADVERTISEMENT {
            own()?;
        }
        // Who solicits from no address asks for one that it is about to take (RFC 4862, section 5.4.2).
        let claims = message == NEIGHBOUR_ADVERTISEMENT || message == NEIGHBOUR_SOLICITATION && net.is_none();
        if !is_whole || claims && !self.is_ipv6(address(at + 8)?) {
            return Err(Drop::GuardNeighbour);
        }
        let end = (l3 + 40 + usize::from(be16(ip, 4))).min(frame.len());
        self.options(head, options, end).map(|()| None)
    }

    /// The link-layer addresses among the options of neighbour discovery from `at` to `end` (RFC 4861, section 4.6.1).
    fn options(&self, head: &[u8], mut at: usize, end: usize) -> Result<(), Drop> {
        const SOURCE: u8 = 1;
        const TARGET: u8 = 2;
        while at < end {
            let [kind, len, mac @ ..] = part::<8>(head, at)?;
            if matches!(*kind, SOURCE | TARGET) && !self.macs.contains(mac) {
                return Err(Drop::GuardNeighbour);
            }
            if *len == 0 {
                return Err(Drop::GuardUnreadable);
            }
            at += usize::from(*len) * 8;
        }
        Ok(())
    }
}

/// Whether a packet without a source address is a DHCP client's, to any server (RFC 2131, section 4.1). It claims nobody's address.
fn is_dhcp(head: &[u8], l3: usize, ip: &[u8; 20]) -> bool {
    const PORTS: [u8; 4] = [0, 68, 0, 67];
    let is_first = be16(ip, 6) & 0x1fff == 0;
    let udp = l3 + usize::from(ip[0] & 15) * 4;
    ip[9] == wire::UDP && is_first && be32(ip, 16) == u32::MAX && part(head, udp) == Ok(&PORTS)
}

/// Where the ICMPv6 message begins of a packet whose first header behind the IP header is `next`, at `at`, and whether the packet is no
/// fragment; none: there is something else.
fn icmpv6(head: &[u8], next: u8, at: usize) -> Result<Option<(usize, bool)>, Drop> {
    let (mut protocol, mut transport) = layers::behind_extensions(head, next, at);
    let mut is_whole = true;
    if let Transport::Fragment(at) = transport {
        let fragment: &[u8; 8] = part(head, at)?;
        if be16(fragment, 2) >> 3 != 0 {
            return Ok(None);
        }
        is_whole = false;
        (protocol, transport) = layers::behind_extensions(head, fragment[0], at + 8);
    }
    match transport {
        Transport::At(at) if protocol == wire::ICMPV6 => Ok(Some((at, is_whole))),
        Transport::At(_) | Transport::Elsewhere => Ok(None),
        Transport::Beyond | Transport::Fragment(_) => Err(Drop::GuardUnreadable),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::burst::{BURST, Burst, HEAD_LONG};
    use crate::clock::Stage;
    use crate::egress::Egress;
    use crate::tables::{NO_BRIDGE, PortTable};
    use crate::tests::{A, ALL, B, C, Switch, frame, three_ports};

    const OURS: [u8; 4] = [10, 0, 0, 1];
    const THEIRS: [u8; 4] = [10, 0, 0, 2];
    const OURS6: [u8; 16] = [0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
    const THEIRS6: [u8; 16] = [0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2];
    /// That of [`A`].
    const LINK: [u8; 16] = [0xfe, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xfe, 0, 0, 0xa];
    const NONE: [u8; 16] = [0; 16];
    const UDP: [u8; 12] = [3, 0xe8, 0, 80, 0, 12, 0, 0, 1, 2, 3, 4];
    const DISCOVER: [u8; 12] = [0, 68, 0, 67, 0, 12, 0, 0, 1, 1, 6, 0];
    const KEYS: &str = "allowed-addresses = ['10.0.0.1', '10.1.0.0/16', 'fd00::1', '02:00:00:00:00:0c']";

    fn port(bridges: PortTable, keys: &str) -> Port {
        let text = format!("[[port]]\nname = 'p'\nkind = 'memif'\nsocket = '@p'\nmac = '02:00:00:00:00:0a'\n{keys}");
        let config = dray_config::parse("test", &text).unwrap_or_else(|errors| panic!("{errors}"));
        Port::new(bridges, &config.ports[0], None)
    }

    /// Port 0 of three with these keys.
    fn guarded(keys: &str) -> Switch {
        let mut s = three_ports();
        s.tables.ports[0] = port(PortTable::Access(1), keys);
        s
    }

    fn ethernet(src: [u8; 6], ether_type: [u8; 2], payload: &[u8]) -> Vec<u8> {
        [&B[..], &src, &ether_type, payload].concat()
    }

    fn ipv4_to(dst: [u8; 4], src: [u8; 4], fragment: [u8; 2], protocol: u8, payload: &[u8]) -> Vec<u8> {
        let [f0, f1] = fragment;
        let header = [0x45, 0, 0, 20 + payload.len() as u8, 0, 7, f0, f1, 64, protocol, 0, 0];
        ethernet(A, [8, 0], &[&header[..], &src, &dst, payload].concat())
    }

    fn ipv4(src: [u8; 4]) -> Vec<u8> {
        ipv4_to(THEIRS, src, [0, 0], 17, &UDP)
    }

    fn ipv6(src: [u8; 16], next: u8, payload: &[u8]) -> Vec<u8> {
        let header = [0x60, 0, 0, 0, 0, payload.len() as u8, next, 255];
        ethernet(A, [0x86, 0xdd], &[&header[..], &src, &THEIRS6, payload].concat())
    }

    /// ICMPv6 of this type about this target, with options.
    fn icmp6(src: [u8; 16], message: u8, target: &[u8], options: &[u8]) -> Vec<u8> {
        ipv6(src, 58, &[&[message, 0, 0, 0, 0, 0, 0, 0], target, options].concat())
    }

    fn arp(operation: u8, sha: [u8; 6], spa: [u8; 4], tpa: [u8; 4]) -> Vec<u8> {
        ethernet(A, [8, 6], &[&[0, 1, 8, 0, 6, 4, 0, operation][..], &sha, &spa, &[0; 6], &tpa].concat())
    }

    /// An option of neighbour discovery.
    fn option(kind: u8, mac: [u8; 6]) -> Vec<u8> {
        [&[kind, 1][..], &mac].concat()
    }

    /// Every rule: what it is, the frame, and why it is dropped if it is.
    fn cases() -> Vec<(&'static str, Vec<u8>, Option<Drop>)> {
        let from = |src: [u8; 6], mut frame: Vec<u8>| {
            frame[6..12].copy_from_slice(&src);
            frame
        };
        let hop_by_hop = [58, 0, 5, 2, 0, 0, 1, 0];
        let nonce = [14, 1, 1, 2, 3, 4, 5, 6];
        let fragment = |next: u8, offset: [u8; 2]| [next, 0, offset[0], offset[1], 0, 0, 0, 7];
        let advert = [134, 0, 0, 0, 64, 0, 7, 8, 0, 0, 0, 0, 0, 0, 0, 0];
        let behind = |tags: &[u8], frame: Vec<u8>| [&frame[..12], tags, &frame[12..]].concat();
        let service = [0x88, 0xa8, 0, 7];
        let mac = Some(Drop::GuardSourceMac);
        let (four, six) = (Some(Drop::GuardSourceIpv4), Some(Drop::GuardSourceIpv6));
        let (arps, neighbour, router) = (Some(Drop::GuardArp), Some(Drop::GuardNeighbour), Some(Drop::GuardRouter));
        let unreadable = Some(Drop::GuardUnreadable);
        vec![
            ("its MAC", frame(B, A, 60), None),
            ("another MAC of its", frame(B, C, 60), None),
            ("not its MAC", frame(B, [2, 0, 0, 0, 0, 0xd], 60), mac),
            ("not its MAC with its address", from([2, 0, 0, 0, 0, 0xd], ipv4(OURS)), mac),
            ("IPv4", ipv4(OURS), None),
            ("IPv4 of another MAC of its", from(C, ipv4(OURS)), None),
            ("IPv4 of a prefix", ipv4([10, 1, 255, 3]), None),
            ("IPv4 beside that prefix", ipv4([10, 2, 0, 0]), four),
            ("another's IPv4", ipv4(THEIRS), four),
            ("IPv4 without payload", ipv4_to(THEIRS, OURS, [0, 0], 59, &[]), None),
            ("another's without payload", ipv4_to(THEIRS, THEIRS, [0, 0], 59, &[]), four),
            ("a fragment", ipv4_to(THEIRS, OURS, [0, 9], 17, &UDP), None),
            ("another's fragment", ipv4_to(THEIRS, THEIRS, [0, 9], 17, &UDP), four),
            ("no IPv4", ipv4([0; 4]), four),
            ("DHCP", ipv4_to([255; 4], [0; 4], [0, 0], 17, &DISCOVER), None),
            ("DHCP to one", ipv4_to(THEIRS, [0; 4], [0, 0], 17, &DISCOVER), four),
            ("DHCP in a fragment", ipv4_to([255; 4], [0; 4], [0, 9], 17, &DISCOVER), four),
            ("BOOTP's server", ipv4_to([255; 4], [0; 4], [0, 0], 17, &[0, 67, 0, 68, 0, 8, 0, 0]), four),
            ("half of IPv4", ipv4(OURS)[..33].to_vec(), unreadable),
            ("not version 4", ethernet(A, [8, 0], &ipv6(OURS6, 17, &UDP)[14..]), unreadable),
            ("ARP", arp(1, A, OURS, THEIRS), None),
            ("an answer", arp(2, C, OURS, THEIRS), None),
            ("gratuitous ARP", arp(1, A, OURS, OURS), None),
            ("a probe", arp(1, A, [0; 4], OURS), None),
            ("a probe for another's", arp(1, A, [0; 4], THEIRS), arps),
            ("an answer of nobody", arp(2, A, [0; 4], OURS), arps),
            ("another's ARP", arp(2, A, THEIRS, OURS), arps),
            ("ARP with another's MAC", arp(2, B, OURS, THEIRS), arps),
            (
                "ARP for something else",
                ethernet(A, [8, 6], &[&[0, 6][..], &arp(1, A, OURS, THEIRS)[16..]].concat()),
                arps,
            ),
            ("half of ARP", arp(1, A, OURS, THEIRS)[..41].to_vec(), unreadable),
            ("IPv6", ipv6(OURS6, 17, &UDP), None),
            ("link-local", ipv6(LINK, 6, &UDP), None),
            ("another's IPv6", ipv6(THEIRS6, 17, &UDP), six),
            ("another's link-local", ipv6([&LINK[..15], &[9]].concat().try_into().unwrap(), 17, &UDP), six),
            ("no IPv6", ipv6(NONE, 17, &UDP), six),
            ("half of IPv6", ipv6(OURS6, 17, &[])[..37].to_vec(), unreadable),
            ("echo", icmp6(OURS6, 128, &[], &[]), None),
            ("echo of nobody", icmp6(NONE, 128, &[], &[]), six),
            ("solicitation", icmp6(LINK, 135, &THEIRS6, &option(1, A)), None),
            ("solicitation with another's MAC", icmp6(LINK, 135, &THEIRS6, &option(1, B)), neighbour),
            (
                "that behind another option",
                icmp6(LINK, 135, &THEIRS6, &[&nonce[..], &option(1, B)].concat()),
                neighbour,
            ),
            ("an option without length", icmp6(LINK, 135, &THEIRS6, &[14, 0, 0, 0, 0, 0, 0, 0]), unreadable),
            ("detection of duplicates", icmp6(NONE, 135, &OURS6, &nonce), None),
            ("that for the link-local one", icmp6(NONE, 135, &LINK, &[]), None),
            ("that for another's", icmp6(NONE, 135, &THEIRS6, &[]), neighbour),
            ("advertisement", icmp6(OURS6, 136, &OURS6, &option(2, A)), None),
            ("advertisement of the link-local one", icmp6(OURS6, 136, &LINK, &option(2, C)), None),
            ("advertisement of another's", icmp6(OURS6, 136, &THEIRS6, &option(2, A)), neighbour),
            ("advertisement with another's MAC", icmp6(OURS6, 136, &OURS6, &option(2, B)), neighbour),
            ("advertisement of nobody", icmp6(NONE, 136, &OURS6, &[]), six),
            ("half an advertisement", icmp6(OURS6, 136, &OURS6[..15], &[]), unreadable),
            ("router solicitation", icmp6(LINK, 133, &[], &option(1, A)), None),
            ("router solicitation of nobody", icmp6(NONE, 133, &[], &[]), None),
            ("router solicitation with another's MAC", icmp6(LINK, 133, &[], &option(1, B)), neighbour),
            ("router advertisement", ipv6(LINK, 58, &advert), router),
            ("redirect", icmp6(LINK, 137, &[OURS6, THEIRS6].concat(), &[]), router),
            ("router advertisement behind options", ipv6(LINK, 60, &[&hop_by_hop[..], &advert].concat()), router),
            (
                "router advertisement in a fragment",
                ipv6(LINK, 44, &[&fragment(58, [0, 1])[..], &advert].concat()),
                router,
            ),
            (
                "advertisement in a fragment",
                ipv6(OURS6, 44, &[&fragment(58, [0, 1])[..], &icmp6(OURS6, 136, &OURS6, &[])[54..]].concat()),
                neighbour,
            ),
            ("echo in a fragment", ipv6(OURS6, 44, &[&fragment(58, [0, 1])[..], &[128; 8]].concat()), None),
            ("a later fragment", ipv6(OURS6, 44, &[&fragment(58, [5, 0])[..], &advert].concat()), None),
            ("another's fragment", ipv6(THEIRS6, 44, &[&fragment(58, [5, 0])[..], &advert].concat()), six),
            ("options that hide", ipv6(LINK, 60, &[&[58, 9][..], &[0; 78], &advert].concat()), unreadable),
            ("options that end the packet", ipv6(LINK, 60, &[58, 0, 1, 4]), unreadable),
            ("listener report", ipv6(NONE, 0, &[&hop_by_hop[..], &[143, 0, 0, 0, 0, 0, 0, 1]].concat()), None),
            ("listener query of nobody", ipv6(NONE, 0, &[&hop_by_hop[..], &[130, 0, 0, 0, 0, 0, 0, 1]].concat()), six),
            ("a service tag", behind(&service, ipv4(OURS)), None),
            ("another's behind a service tag", behind(&service, ipv4(THEIRS)), four),
            (
                "another's ARP behind two tags",
                behind(&[service, [0x81, 0, 0, 7]].concat(), arp(2, A, THEIRS, OURS)),
                arps,
            ),
            ("three tags", behind(&[service, service, [0x81, 0, 0, 7]].concat(), ipv4(OURS)), unreadable),
        ]
    }

    fn expect(s: &mut Switch, what: &str, frames: Vec<Vec<u8>>, reason: Option<Drop>) {
        let n = frames.len();
        let sent = s.run(0, frames).iter().filter(|(port, _)| *port == 1).count();
        assert_eq!(s.drops, reason.iter().map(|&reason| (reason, 1)).collect::<Vec<_>>(), "{what}");
        assert_eq!(sent, n - s.drops.len(), "{what}");
    }

    #[test]
    fn a_port_sends_with_its_own_addresses_only() {
        let mut s = guarded(KEYS);
        for (what, frame, reason) in cases() {
            expect(&mut s, what, vec![frame], reason);
        }
        // No other is learned.
        let learned: Vec<_> = s.fdb.entries(s.now).iter().map(|entry| entry.mac).collect();
        assert!(learned.len() == 2 && learned.contains(&A) && learned.contains(&C), "{learned:02x?}");
        // Others are not its affair.
        s.tables.ports[0] = port(PortTable::Access(1), "");
        for (what, frame, _) in cases() {
            expect(&mut s, what, vec![frame], None);
        }
    }

    /// Whatever was before it in the burst.
    #[test]
    fn what_is_usual_does_not_let_others_pass() {
        let mut s = guarded(KEYS);
        for usual in [ipv4(OURS), ipv4([10, 1, 0, 1]), ipv6(OURS6, 17, &UDP), ipv6(LINK, 6, &UDP)] {
            for (what, frame, reason) in cases() {
                for place in [0, 1, 30, BURST - 1] {
                    let frames = (0..BURST).map(|i| if i == place { frame.clone() } else { usual.clone() });
                    expect(&mut s, what, frames.collect(), reason);
                }
            }
        }
    }

    #[test]
    fn it_looks_behind_a_trunks_tag() {
        let mut s = three_ports();
        let mut vlans = Box::new([NO_BRIDGE; 4096]);
        vlans[10] = 1;
        s.tables.ports[0] = port(PortTable::Trunk(vlans.into()), KEYS);
        s.tables.groups[1].members = [Egress::port(0, 10), Egress::port(1, 0)].into();
        for (what, frame, reason) in cases() {
            let has_tag = frame.get(12..14).is_some_and(|tag| tag == [0x88, 0xa8]);
            let tagged = [&frame[..12], &[0x81, 0, 0, 10], &frame[12..]].concat();
            expect(&mut s, what, vec![tagged], if has_tag { Some(Drop::VlanDoubleTag) } else { reason });
        }
    }

    #[test]
    fn without_addresses_there_is_the_link_local_one() {
        let mut s = guarded("allowed-addresses = []");
        let four = Some(Drop::GuardSourceIpv4);
        for (what, frame, reason) in [
            ("IPv4", ipv4(OURS), four),
            ("none", ipv4([0; 4]), four),
            ("DHCP", ipv4_to([255; 4], [0; 4], [0, 0], 17, &DISCOVER), None),
            ("ARP", arp(1, A, [0; 4], THEIRS), Some(Drop::GuardArp)),
            ("link-local", ipv6(LINK, 17, &UDP), None),
            ("IPv6", ipv6(OURS6, 17, &UDP), Some(Drop::GuardSourceIpv6)),
            ("another protocol", frame(B, A, 60), None),
        ] {
            expect(&mut s, what, vec![frame], reason);
        }
        let mut s = guarded("allowed-addresses = ['0.0.0.0/0', '::/0']");
        for frame in [ipv4(THEIRS), arp(2, A, THEIRS, OURS), ipv6(THEIRS6, 17, &UDP), icmp6(NONE, 136, &THEIRS6, &[])] {
            expect(&mut s, "any address", vec![frame], None);
        }
        expect(&mut s, "not any MAC", vec![frame(B, ALL, 60)], Some(Drop::ParseBadSource));
        expect(&mut s, "not any MAC", vec![frame(B, B, 60)], Some(Drop::GuardSourceMac));
    }

    /// Whatever the bytes are: nothing panics, and what one compare lets pass would pass if it were read.
    #[test]
    fn the_short_way_is_no_other_way() {
        let Addresses(Some(known)) = port(PortTable::Access(1), KEYS).stages.guard else { panic!("it is guarded") };
        let seeds: Vec<Vec<u8>> = cases().into_iter().map(|(_, frame, _)| frame).collect();
        let burst = |frame: &[u8]| {
            let mut burst = Burst::default();
            burst.set_head_len(HEAD_LONG);
            burst.push_owned(frame.to_vec());
            burst
        };
        let sources: Vec<Source> = seeds
            .iter()
            .filter_map(|seed| known.read(&burst(seed).frames[0]).ok().flatten())
            .chain([known.first])
            .collect();
        assert!(sources.len() > 7, "{}", sources.len());
        let mut x = 88172645463325252u64;
        let mut usual = 0;
        for round in 0..100_000 {
            let mut frame = seeds[round % seeds.len()].clone();
            for _ in 0..round % 3 {
                x ^= x << 13;
                x ^= x >> 7;
                x ^= x << 17;
                let at = (x >> 8) as usize % frame.len();
                frame[at] = if x & 3 == 0 { (x >> 32) as u8 } else { frame[at] ^ 1 << (x >> 32 & 7) };
            }
            frame.truncate(if round % 7 == 6 { (x >> 40) as usize % (frame.len() + 1) } else { frame.len() });
            let burst = burst(&frame);
            let read = known.read(&burst.frames[0]);
            for source in &sources {
                let has = source.has(&burst.frames[0]);
                usual += u32::from(has);
                assert!(!has || read.is_ok(), "{frame:02x?}");
            }
        }
        assert!(usual > 10_000, "{usual}");
    }

    #[test]
    fn a_port_that_may_send_with_anything_does_not_want_it() {
        let wants = |bridges, keys| port(bridges, keys).wanted & 1 << Stage::Guard as u32 != 0;
        for (keys, is_wanted) in [("", false), ("allowed-addresses = ['any']", false), (KEYS, true)] {
            assert_eq!(wants(PortTable::Access(1), keys), is_wanted);
            assert_eq!(port(PortTable::Access(1), keys).head_len() == HEAD_LONG, is_wanted);
            assert!(!wants(PortTable::Underlay, keys));
        }
    }
}
