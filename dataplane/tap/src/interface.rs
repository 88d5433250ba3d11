//! An interface that the kernel has already, a NIC or a veth device, taken up without a driver of ours: by a packet socket (packet(7)).
#![allow(unsafe_code)]

use crate::namespace::text;
use crate::queue::{RxQueue, Shared, TxQueue, Way};
use crate::rtnetlink::Rtnetlink;
use dray_switch::wire::OVERHEAD;
use dray_switch::{Rx, Tx};
use netlink_packet_route::link::{LinkAttribute, LinkFlags};
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed};

/// Bytes of frames that may wait to be read: what a 100 Gbit/s sender sends in a third of a millisecond.
const WAITING: libc::c_int = 4 << 20;

/// An interface that is open. Its own host goes on using it.
pub struct Interface {
    socket: Arc<OwnedFd>,
    shared: Arc<Shared>,
    name: String,
    /// The kernel's number of it: another one of the same name has another.
    index: u32,
    rtnetlink: Rtnetlink,
    /// Frames that found the socket full.
    overflows: AtomicU64,
}

/// What an interface is now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct State {
    /// Whether it is up and has a carrier.
    pub is_running: bool,
    /// Longest Ethernet payload, bytes.
    pub mtu: u16,
    /// Its address.
    pub mac: [u8; 6],
}

impl Interface {
    /// Takes up the interface `name`, for frames to whatever address. With what it is.
    ///
    /// # Errors
    /// What the kernel refused.
    pub fn open(name: &str) -> Result<(Interface, State), String> {
        let failed = |what: &str, error: io::Error| format!("interface \"{name}\": {what}: {}", text(error));
        let index = crate::device::interface_index(name).ok_or_else(|| format!("there is no interface \"{name}\""))?;
        let rtnetlink = Rtnetlink::new().map_err(|error| failed("rtnetlink", error))?;
        let socket = open_socket(index).map_err(|error| failed("a packet socket", error))?;
        let shared =
            Arc::new(Shared { way: Way::Packet, max_frame: AtomicU32::new(0), uso: AtomicBool::new(true), gro: true });
        let socket = Arc::new(socket);
        let interface = Interface { socket, shared, name: name.into(), index, rtnetlink, overflows: AtomicU64::new(0) };
        let state = interface.look()?;
        Ok((interface, state))
    }

    /// What the interface is now. Longer frames than its MTU allows are dropped from then on. Does not wait.
    ///
    /// # Errors
    /// That it is gone, or another one has its name.
    pub fn look(&self) -> Result<State, String> {
        match crate::device::interface_index(&self.name) {
            Some(index) if index == self.index => {}
            None => return Err(format!("the interface \"{}\" is gone", self.name)),
            Some(_) => return Err(format!("the interface \"{}\" is another one than was opened", self.name)),
        }
        let link = self.rtnetlink.link(self.index).map_err(text)?;
        let running = LinkFlags::Up | LinkFlags::Running;
        let mut state = State { is_running: link.header.flags.contains(running), mtu: 0, mac: [0; 6] };
        for attribute in link.attributes {
            match attribute {
                LinkAttribute::Mtu(mtu) => state.mtu = mtu.min(u16::MAX.into()) as u16,
                LinkAttribute::Address(mac) => state.mac = mac.try_into().unwrap_or_default(),
                _ => {}
            }
        }
        self.shared.max_frame.store(u32::from(state.mtu) + OVERHEAD, Relaxed);
        Ok(state)
    }

    /// Frames that were lost since it was opened, as the socket had no room.
    pub fn losses(&self) -> u64 {
        let mut stats = libc::tpacket_stats { tp_packets: 0, tp_drops: 0 };
        // Reading them sets them back to zero.
        if get_option(&self.socket, libc::PACKET_STATISTICS, &mut stats) {
            self.overflows.fetch_add(stats.tp_drops.into(), Relaxed);
        }
        self.overflows.load(Relaxed)
    }

    /// The receive queue.
    pub fn rx_queue(&self) -> Box<dyn Rx> {
        Box::new(RxQueue::new(self.socket.clone(), self.shared.clone()))
    }

    /// `n` transmit queues, one for each worker.
    pub fn tx_queues(&self, n: usize) -> Vec<Box<dyn Tx>> {
        (0..n).map(|_| Box::new(TxQueue::new(self.socket.clone(), self.shared.clone())) as Box<dyn Tx>).collect()
    }
}

/// A socket for all frames that come in through interface `index`, each with virtio-net's header.
fn open_socket(index: u32) -> io::Result<OwnedFd> {
    let kind = libc::SOCK_RAW | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
    // Of no protocol: until it is bound it receives nothing.
    // SAFETY: no preconditions.
    let socket = unsafe { libc::socket(libc::AF_PACKET, kind, 0) };
    if socket < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: just made, and nobody else's.
    let socket = unsafe { OwnedFd::from_raw_fd(socket) };
    let on: libc::c_int = 1;
    set_option(&socket, libc::SOL_PACKET, libc::PACKET_VNET_HDR, &on)?;
    set_option(&socket, libc::SOL_PACKET, libc::PACKET_AUXDATA, &on)?;
    // What the host itself sends there is not for the switch.
    set_option(&socket, libc::SOL_PACKET, libc::PACKET_IGNORE_OUTGOING, &on)?;
    set_option(&socket, libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, &WAITING)?;
    set_option(&socket, libc::SOL_SOCKET, libc::SO_SNDBUFFORCE, &WAITING)?;
    // SAFETY: all zeros is a valid one.
    let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
    address.sll_family = libc::AF_PACKET as libc::c_ushort;
    address.sll_protocol = (libc::ETH_P_ALL as u16).to_be();
    address.sll_ifindex = index as libc::c_int;
    let len = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
    // SAFETY: an address of that length.
    if unsafe { libc::bind(socket.as_raw_fd(), (&raw const address).cast(), len) } != 0 {
        return Err(io::Error::last_os_error());
    }
    let promiscuous = libc::packet_mreq {
        mr_ifindex: index as libc::c_int,
        mr_type: libc::PACKET_MR_PROMISC as libc::c_ushort,
        mr_alen: 0,
        mr_address: [0; 8],
    };
    set_option(&socket, libc::SOL_PACKET, libc::PACKET_ADD_MEMBERSHIP, &promiscuous)?;
    Ok(socket)
}

fn set_option<T>(socket: &OwnedFd, level: libc::c_int, name: libc::c_int, value: &T) -> io::Result<()> {
    let len = size_of::<T>() as libc::socklen_t;
    // SAFETY: the kernel reads a value of that length.
    match unsafe { libc::setsockopt(socket.as_raw_fd(), level, name, (&raw const *value).cast(), len) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

fn get_option<T>(socket: &OwnedFd, name: libc::c_int, value: &mut T) -> bool {
    let mut len = size_of::<T>() as libc::socklen_t;
    // SAFETY: the kernel writes no more than that length.
    unsafe { libc::getsockopt(socket.as_raw_fd(), libc::SOL_PACKET, name, (&raw mut *value).cast(), &mut len) == 0 }
}
