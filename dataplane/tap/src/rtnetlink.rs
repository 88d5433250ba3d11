//! What rtnetlink(7) is asked for: an interface's address, MTU and state, its IP addresses and routes, what it has lost.

use crate::device::Losses;
use dray_config::{Prefix, Route};
use netlink_packet_core::{
    NLM_F_ACK, NLM_F_CREATE, NLM_F_REPLACE, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload,
};
use netlink_packet_route::address::{AddressAttribute, AddressFlags, AddressMessage};
use netlink_packet_route::link::{LinkAttribute, LinkFlags, LinkMessage};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteProtocol, RouteScope, RouteType,
};
use netlink_packet_route::stats::{StatsAttribute, StatsFilterMask, StatsMessage};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};
use std::io;
use std::net::IpAddr;

/// A socket to the kernel, in the network namespace of the thread that makes it.
pub(crate) struct Rtnetlink(Socket);

impl Rtnetlink {
    pub(crate) fn new() -> io::Result<Rtnetlink> {
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        Ok(Rtnetlink(socket))
    }

    /// Asks, and waits until the kernel has done it. With what it answers, if it answers.
    fn ask(&self, message: RouteNetlinkMessage, flags: u16) -> io::Result<Option<RouteNetlinkMessage>> {
        let mut header = NetlinkHeader::default();
        header.flags = NLM_F_REQUEST | NLM_F_ACK | flags;
        let mut message = NetlinkMessage::new(header, NetlinkPayload::from(message));
        message.finalize();
        let mut bytes = vec![0; message.buffer_len()];
        message.serialize(&mut bytes);
        self.0.send(&bytes, 0)?;
        let mut answer = None;
        loop {
            let (bytes, _) = self.0.recv_from_full()?;
            let mut rest = &bytes[..];
            while !rest.is_empty() {
                let message = NetlinkMessage::<RouteNetlinkMessage>::deserialize(rest)
                    .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error.to_string()))?;
                let len = (message.header.length as usize).next_multiple_of(4).clamp(1, rest.len());
                rest = &rest[len..];
                match message.payload {
                    NetlinkPayload::Error(error) if error.code.is_some() => return Err(error.to_io()),
                    NetlinkPayload::Error(_) => return Ok(answer),
                    NetlinkPayload::InnerMessage(message) => answer = Some(message),
                    _ => {}
                }
            }
        }
    }

    /// Interface `index`, as it is.
    pub(crate) fn link(&self, index: u32) -> io::Result<LinkMessage> {
        let mut message = LinkMessage::default();
        message.header.index = index;
        match self.ask(RouteNetlinkMessage::GetLink(message), 0)? {
            Some(RouteNetlinkMessage::NewLink(link)) => Ok(link),
            _ => Err(io::ErrorKind::NotFound.into()),
        }
    }

    /// The name of interface `index`; none if there is no such interface.
    pub(crate) fn name(&self, index: u32) -> Option<String> {
        let name = |attribute| if let LinkAttribute::IfName(name) = attribute { Some(name) } else { None };
        self.link(index).ok()?.attributes.into_iter().find_map(name)
    }

    /// What the kernel has lost at interface `index` since it was made.
    pub(crate) fn losses(&self, index: u32) -> io::Result<Losses> {
        // Its counters alone: it is asked of each device whenever somebody looks at the switch.
        let mut message = StatsMessage::default();
        message.header.ifindex = index;
        message.header.filter_mask = StatsFilterMask::Link64;
        let Some(RouteNetlinkMessage::NewStats(stats)) = self.ask(RouteNetlinkMessage::GetStats(message), 0)? else {
            return Err(io::ErrorKind::NotFound.into());
        };
        let counted = stats.attributes.into_iter().find_map(|attribute| match attribute {
            StatsAttribute::Link64(stats) => Some(Losses { sent: stats.tx_dropped, received: stats.rx_dropped }),
            _ => None,
        });
        Ok(counted.unwrap_or_default())
    }

    /// Gives interface `index` address and MTU, and sets it up.
    pub(crate) fn set_up(&self, index: u32, mac: [u8; 6], mtu: u16) -> io::Result<()> {
        let mut message = LinkMessage::default();
        message.header.index = index;
        message.header.flags = LinkFlags::Up;
        message.header.change_mask = LinkFlags::Up;
        message.attributes = vec![LinkAttribute::Address(mac.to_vec()), LinkAttribute::Mtu(mtu.into())];
        self.ask(RouteNetlinkMessage::SetLink(message), 0).map(drop)
    }

    /// Gives interface `index` an address. Nobody is asked whether it is a duplicate: it is usable at once.
    pub(crate) fn add_address(&self, index: u32, Prefix { address, length }: Prefix) -> io::Result<()> {
        let mut message = AddressMessage::default();
        message.header.family = family(address);
        message.header.prefix_len = length;
        message.header.index = index;
        message.attributes = vec![AddressAttribute::Local(address), AddressAttribute::Address(address)];
        if let IpAddr::V4(address) = address
            && length < 31
        {
            let host = u32::MAX >> length;
            message.attributes.push(AddressAttribute::Broadcast((u32::from(address) | host).into()));
        } else if address.is_ipv6() {
            message.attributes.push(AddressAttribute::Flags(AddressFlags::Nodad));
        }
        self.ask(RouteNetlinkMessage::NewAddress(message), NLM_F_CREATE | NLM_F_REPLACE).map(drop)
    }

    /// Routes to a prefix through interface `index`.
    pub(crate) fn add_route(&self, index: u32, Route { to, via }: Route) -> io::Result<()> {
        let mut message = RouteMessage::default();
        message.header.address_family = family(to.address);
        message.header.destination_prefix_length = to.length;
        message.header.table = RouteHeader::RT_TABLE_MAIN;
        message.header.protocol = RouteProtocol::Static;
        message.header.scope = if via.is_some() { RouteScope::Universe } else { RouteScope::Link };
        message.header.kind = RouteType::Unicast;
        message.attributes = vec![RouteAttribute::Oif(index)];
        if to.length != 0 {
            message.attributes.push(RouteAttribute::Destination(route_address(to.address)));
        }
        message.attributes.extend(via.map(|via| RouteAttribute::Gateway(route_address(via))));
        self.ask(RouteNetlinkMessage::NewRoute(message), NLM_F_CREATE | NLM_F_REPLACE).map(drop)
    }
}

fn family(address: IpAddr) -> AddressFamily {
    if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 }
}

fn route_address(address: IpAddr) -> RouteAddress {
    match address {
        IpAddr::V4(address) => RouteAddress::Inet(address),
        IpAddr::V6(address) => RouteAddress::Inet6(address),
    }
}
