//! Making, taking up and removing a TAP device.
#![allow(unsafe_code)]

use crate::namespace::{Namespace, id_here, id_of, text};
use crate::queue::{RxQueue, Shared, TxQueue, Way};
use crate::rtnetlink::Rtnetlink;
use crate::vhost_net::{self, Fault};
use dray_config::{Prefix, Route, Rps, Transport};
use dray_switch::wire::OVERHEAD;
use dray_switch::{Rx, Tx};
use dray_vhost::vhost_user::frontend::kernel::{Kernel, PATH, Pair};
use dray_vhost::vhost_user::frontend::{CopyTx, RawRx};
use rustix::fs::{Mode, OFlags, open};
use rustix::net::{AddressFamily, SocketType};
use std::ffi::CStr;
use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

/// What the kernel may leave undone (`TUNSETOFFLOAD`): checksums, and segmentation of TCP with ECN and, from Linux 6.2 on, of UDP. The first
/// set that it knows is taken.
const OFFLOADS: [libc::c_uint; 3] = [
    libc::TUN_F_CSUM | libc::TUN_F_TSO4 | libc::TUN_F_TSO6 | libc::TUN_F_TSO_ECN | libc::TUN_F_USO4 | libc::TUN_F_USO6,
    libc::TUN_F_CSUM | libc::TUN_F_TSO4 | libc::TUN_F_TSO6 | libc::TUN_F_TSO_ECN,
    libc::TUN_F_CSUM,
];

/// `_IOW('T', 226, int)` of linux/if_tun.h, which the libc crate does not have.
const TUNSETCARRIER: libc::Ioctl = 0x4004_54e2;

/// Bytes of the header before each frame.
pub(crate) const HEADER: usize = dray_switch::virtio_net::LONG;

/// How long removing a device waits for its queues: a worker gives them back between two bursts, if it has a CPU.
const GIVEN_BACK: Duration = Duration::from_secs(1);

/// What a device is to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TapOptions {
    /// The file of its network namespace; none: the host's own.
    pub netns: Option<PathBuf>,
    /// Which namespace that must be, as [`Namespace::look`] says; none: any.
    pub netns_id: Option<String>,
    /// The device that it may be, if that is there: it may have another name by now.
    pub left: Option<Made>,
    /// Its name there, at most 15 bytes.
    pub ifname: String,
    /// Its address.
    pub mac: [u8; 6],
    /// Longest Ethernet payload, bytes.
    pub mtu: u16,
    /// Its IP addresses.
    pub addresses: Vec<Prefix>,
    /// Routes through it.
    pub routes: Vec<Route>,
    /// Pairs of queues, at least one.
    pub queues: u16,
    /// Who copies frames between us and the kernel.
    pub transport: Transport,
    /// CPUs that are the workers'. vhost-net's threads are to run on others, if there are any.
    pub workers: Vec<usize>,
    /// Whether the receiver's stack is to run on others.
    pub rps: Rps,
    /// Whether segments that follow each other are written as one.
    pub gro: bool,
}

/// What the kernel has lost at a device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Losses {
    /// Frames that its own senders sent and nobody read in time.
    pub sent: u64,
    /// Frames that were written to it and not received.
    pub received: u64,
}

/// A device that was made, for whoever takes it up or removes it later.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Made {
    /// Its namespace, as [`Namespace::look`] says.
    pub netns_id: String,
    /// The kernel's number of the interface there: its name may change.
    pub index: u32,
    /// The file of the namespace; none: the host's own.
    pub netns: Option<PathBuf>,
    /// The name that it was made with.
    pub ifname: String,
}

/// Why there is no device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    /// The namespace that it was to be in is not there any more.
    Gone(String),
    /// What the kernel refused.
    Refused(String),
}

impl From<String> for Failure {
    fn from(why: String) -> Self {
        Failure::Refused(why)
    }
}

/// A device that is open. Dropping it leaves it in its namespace with its addresses and routes, without a carrier, and it can be opened again
/// under the same name; [`Tap::remove`] does not. With vhost-net that blocks, too, for some ten milliseconds.
pub struct Tap {
    /// vhost-net's side of each queue, if it serves the device.
    served: Vec<Served>,
    /// Why it does not, if it is there and was to be used then.
    unserved: Option<String>,
    fault: Fault,
    queues: Vec<Arc<OwnedFd>>,
    shared: Arc<Shared>,
    options: TapOptions,
    /// The kernel's number of the interface.
    index: u32,
    /// What the file named when it was opened.
    namespace: Option<(u64, u64)>,
    /// What tells that from any other namespace.
    netns_id: String,
    rtnetlink: Rtnetlink,
    /// What had been lost before it was opened, if it was there then.
    first: Losses,
}

/// A queue that vhost-net serves.
struct Served {
    /// Until it is handed out.
    rx: Option<RawRx>,
    tx: Arc<Mutex<CopyTx>>,
    _kernel: Kernel,
}

impl Tap {
    /// Makes the device, or takes it up if it is there and nobody has it, and gives it all that `options` say. Blocks for some hundred
    /// microseconds.
    ///
    /// # Errors
    /// Why there is none; nothing is left of it then.
    pub fn open(options: TapOptions) -> Result<Tap, Failure> {
        let auto = options.transport == Transport::Auto;
        let refused = |why: String| Failure::Refused(format!("transport \"vhost-net\": {why}"));
        // Before there is a device, which is not made for nothing.
        let (pairs, unserved) = match vhost_net_for(&options) {
            Ok(pairs) => (pairs, None),
            Err(why) if auto => (Vec::new(), Some(why)),
            Err(why) => return Err(refused(why)),
        };
        let mut tap = Tap::open_there(options)?;
        tap.unserved = unserved;
        match tap.serve(pairs) {
            Err(why) if auto => tap.unserved = Some(why),
            Err(why) => {
                tap.remove();
                return Err(refused(why));
            }
            Ok(()) => {}
        }
        Ok(tap)
    }

    /// Has vhost-net serve its queues, all or none.
    fn serve(&mut self, pairs: Vec<Pair>) -> Result<(), String> {
        let served = pairs.into_iter().zip(&self.queues).map(|(Pair { rx, tx, kernel }, queue)| {
            kernel.attach(queue.as_fd()).map_err(|error| format!("{PATH}: {}", text(error)))?;
            Ok(Served { rx: Some(rx), tx: Arc::new(Mutex::new(tx)), _kernel: kernel })
        });
        self.served = served.collect::<Result<_, String>>()?;
        Ok(())
    }

    /// In the network namespace that it is to be in.
    fn open_there(options: TapOptions) -> Result<Tap, Failure> {
        let Some(path) = &options.netns else { return Ok(Tap::open_here(options, None, id_here()?)?) };
        let namespace = Namespace::open(path)?;
        let id = namespace.id();
        let open = move || {
            let here = id_here()?;
            if let (Some(wanted), Some(path)) = (&options.netns_id, &options.netns)
                && *wanted != here
            {
                return Ok(Err(Failure::Gone(format!("the network namespace {} is another one", path.display()))));
            }
            Tap::open_here(options, id, here).map(Ok)
        };
        namespace.inside(open)?
    }

    /// In the network namespace of this thread: a device belongs to that in which `/dev/net/tun` was opened.
    fn open_here(options: TapOptions, namespace: Option<(u64, u64)>, netns_id: String) -> Result<Tap, String> {
        let mask = free_cpus(&options.workers, options.rps);
        if let (Some(mask), Some(_)) = (&mask, namespace) {
            // Before there is a device: those that are made later inherit it. It is in Linux 6.3 and later; what can't be had is left.
            let _ = fs::write("/proc/sys/net/core/rps_default_mask", mask);
        }
        let rtnetlink = Rtnetlink::new().map_err(|error| format!("rtnetlink: {}", text(error)))?;
        let left = options.left.as_ref().filter(|left| left.netns_id == netns_id && left.ifname == options.ifname);
        let name = &left.and_then(|left| rtnetlink.name(left.index)).unwrap_or_else(|| options.ifname.clone());
        let failed = |what: &str, error: io::Error| format!("interface \"{name}\": {what}: {}", text(error));
        let mut queues = Vec::new();
        let mut offloads = 0;
        for _ in 0..options.queues.max(1) {
            let (fd, left) = open_queue(name, options.queues > 1)?;
            offloads = left;
            queues.push(Arc::new(fd));
        }
        let index = interface_index(name).ok_or_else(|| format!("interface \"{name}\" has gone at once"))?;
        if let (Some(mask), None) = (&mask, namespace) {
            // The host's other devices are not ours to steer.
            for queue in 0..options.queues.max(1) {
                let _ = fs::write(format!("/sys/class/net/{name}/queues/rx-{queue}/rps_cpus"), mask);
            }
        }
        rtnetlink.set_up(index, options.mac, options.mtu).map_err(|error| failed("address and MTU", error))?;
        for &address in &options.addresses {
            rtnetlink.add_address(index, address).map_err(|error| failed(&format!("address {address}"), error))?;
        }
        for &route in &options.routes {
            rtnetlink.add_route(index, route).map_err(|error| failed(&format!("route {route}"), error))?;
        }
        let shared = Arc::new(Shared {
            way: Way::Tap,
            max_frame: AtomicU32::new(u32::from(options.mtu) + OVERHEAD),
            uso: AtomicBool::new(offloads & libc::TUN_F_USO4 != 0),
            gro: options.gro,
        });
        let first = rtnetlink.losses(index).map_err(|error| failed("its counters", error))?;
        // Not before it is whole: one that is given up half-way goes with its queues.
        if !persist(&queues[0], true) {
            return Err(failed("it can't outlive the process", io::Error::last_os_error()));
        }
        let (served, unserved, fault) = (Vec::new(), None, Fault::default());
        Ok(Tap { served, unserved, fault, queues, shared, options, index, namespace, netns_id, rtnetlink, first })
    }

    /// What is to be known of it by whoever removes it when this process does not.
    pub fn made(&self) -> Made {
        let TapOptions { netns, ifname, .. } = &self.options;
        Made { netns_id: self.netns_id.clone(), index: self.index, netns: netns.clone(), ifname: ifname.clone() }
    }

    /// The file of its namespace; none: the host's own.
    pub fn netns(&self) -> Option<&PathBuf> {
        self.options.netns.as_ref()
    }

    /// Why its namespace is no longer to be found where it was, if it is not. Does not wait.
    pub fn is_gone(&self) -> Option<String> {
        let path = self.options.netns.as_ref().filter(|path| id_of(path) != self.namespace)?;
        Some(format!("the network namespace {} is gone", path.display()))
    }

    /// Why this is no longer what was opened, if it is not. Does not wait.
    pub fn lost(&self) -> Option<String> {
        if let Some(gone) = self.is_gone() {
            return Some(gone);
        }
        if let Some(fault) = self.fault.get() {
            return Some(format!("{PATH} broke a ring: {fault}"));
        }
        // An open queue of a device that was deleted is no device any more.
        match self.name() {
            None => Some(format!("the interface \"{}\" was deleted", self.options.ifname)),
            Some(_) => None,
        }
    }

    /// The interface's name now: whoever is root in the container may have changed it.
    pub fn name(&self) -> Option<String> {
        let mut ifreq = request("");
        // SAFETY: TUNGETIFF fills in an ifreq.
        let result = unsafe { libc::ioctl(self.queues[0].as_raw_fd(), libc::TUNGETIFF, &mut ifreq) };
        let bytes: Vec<u8> = ifreq.ifr_name.iter().map(|&c| c as u8).take_while(|&c| c != 0).collect();
        (result == 0).then(|| String::from_utf8_lossy(&bytes).into_owned())
    }

    /// What the kernel has lost since the device was opened; none if the interface is gone.
    pub fn losses(&self) -> Option<Losses> {
        let now = self.rtnetlink.losses(self.index).ok()?;
        let Losses { sent, received } = self.first;
        Some(Losses { sent: now.sent.saturating_sub(sent), received: now.received.saturating_sub(received) })
    }

    /// Changes address and MTU.
    ///
    /// # Errors
    /// What the kernel refused.
    pub fn set(&mut self, mac: [u8; 6], mtu: u16) -> Result<(), String> {
        self.rtnetlink.set_up(self.index, mac, mtu).map_err(text)?;
        (self.options.mac, self.options.mtu) = (mac, mtu);
        self.shared.max_frame.store(u32::from(mtu) + OVERHEAD, Relaxed);
        Ok(())
    }

    /// Whether UDP datagrams may be left unsegmented, in both directions.
    pub fn has_uso(&self) -> bool {
        self.shared.uso.load(Relaxed)
    }

    /// Who copies frames between us and the kernel: what was asked for, or found out.
    pub fn transport(&self) -> Transport {
        if self.served.is_empty() { Transport::Syscall } else { Transport::VhostNet }
    }

    /// Why vhost-net does not serve it, if it was to be used where it is there, and is there.
    pub fn unserved(&self) -> Option<&str> {
        self.unserved.as_deref()
    }

    /// The receive queues, the first time.
    pub fn rx_queues(&mut self) -> Vec<Box<dyn Rx>> {
        if !self.served.is_empty() {
            let (shared, fault) = (&self.shared, &self.fault);
            let rings = self.served.iter_mut().filter_map(|served| served.rx.take());
            return rings
                .map(|ring| Box::new(vhost_net::RxQueue::new(ring, shared.clone(), fault.clone())) as _)
                .collect();
        }
        let rx = |fd: &Arc<OwnedFd>| Box::new(RxQueue::new(fd.clone(), self.shared.clone())) as Box<dyn Rx>;
        self.queues.iter().map(rx).collect()
    }

    /// `n` transmit queues, one for each worker.
    pub fn tx_queues(&self, n: usize) -> Vec<Box<dyn Tx>> {
        if !self.served.is_empty() {
            let (shared, fault) = (&self.shared, &self.fault);
            let rings = self.served.iter().cycle().take(n).map(|served| served.tx.clone());
            return rings
                .map(|ring| Box::new(vhost_net::TxQueue::new(ring, shared.clone(), fault.clone())) as _)
                .collect();
        }
        let fds = self.queues.iter().cycle().take(n);
        fds.map(|fd| Box::new(TxQueue::new(fd.clone(), self.shared.clone())) as Box<dyn Tx>).collect()
    }

    /// Gives the device a carrier, or takes it, as if a cable were pulled.
    ///
    /// # Errors
    /// What the kernel refused.
    pub fn set_carrier(&self, on: bool) -> Result<(), String> {
        let on = libc::c_int::from(on);
        // SAFETY: TUNSETCARRIER reads a number.
        match unsafe { libc::ioctl(self.queues[0].as_raw_fd(), TUNSETCARRIER, &on) } {
            0 => Ok(()),
            _ => Err(text(io::Error::last_os_error())),
        }
    }

    /// Leaves the device in its namespace, without a carrier. Blocks, as [`Tap::remove`] does.
    pub fn leave(self) {
        // It goes with the last queue at the latest.
        let _ = self.set_carrier(false);
        self.wait_for_queues();
    }

    /// Removes the device, when the queues that were handed out are given back. Blocks: the kernel takes some ten milliseconds for it.
    pub fn remove(self) {
        persist(&self.queues[0], false);
        self.wait_for_queues();
    }

    /// Whoever closes the last queue waits for the kernel: that must not be a worker.
    fn wait_for_queues(&self) {
        let end = Instant::now() + GIVEN_BACK;
        while self.queues.iter().any(|queue| Arc::strong_count(queue) > 1) && Instant::now() < end {
            thread::sleep(Duration::from_millis(1));
        }
    }
}

/// Whether the device of a queue outlives its queues. Whether the kernel has done that.
fn persist(queue: &OwnedFd, is: bool) -> bool {
    // SAFETY: TUNSETPERSIST takes a number.
    unsafe { libc::ioctl(queue.as_raw_fd(), libc::TUNSETPERSIST, libc::c_ulong::from(is)) == 0 }
}

/// Removes a device that an earlier process has made, if it is still there and nobody has it. Blocks, as [`Tap::remove`] does.
///
/// # Errors
/// What the kernel refused. That it, or its namespace, is not there is no error.
pub fn remove_left(made: &Made) -> Result<(), String> {
    let remove = || {
        if id_here()? != made.netns_id {
            return Ok(());
        }
        let Ok(rtnetlink) = Rtnetlink::new() else { return Ok(()) };
        let Some(name) = rtnetlink.name(made.index) else { return Ok(()) };
        let opened = open_queue(&name, false).or_else(|_| open_queue(&name, true));
        opened.map(|(queue, _)| {
            persist(&queue, false);
        })
    };
    match &made.netns {
        Some(path) if !path.exists() => Ok(()),
        Some(path) => Namespace::open(path)?.inside(remove),
        None => remove(),
    }
}

/// vhost-net's side of each queue; none if it is not to be used, or is not there and need not be.
fn vhost_net_for(options: &TapOptions) -> Result<Vec<Pair>, String> {
    if options.transport == Transport::Syscall {
        return Ok(Vec::new());
    }
    match vhost_net::open(options.queues.max(1), &options.workers)? {
        Some(pairs) => Ok(pairs),
        None if options.transport == Transport::Auto => Ok(Vec::new()),
        None => Err(format!("there is no {PATH}: it is the kernel's module vhost_net that makes it")),
    }
}

/// A queue of the device `name`, which is made if there is none, and what may be left undone on it.
fn open_queue(name: &str, several: bool) -> Result<(OwnedFd, libc::c_uint), String> {
    let flags = OFlags::RDWR | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let fd = open("/dev/net/tun", flags, Mode::empty()).map_err(|error| format!("/dev/net/tun: {}", text(error)))?;
    let failed = |what: &str| {
        let error = io::Error::last_os_error();
        let why = match error.raw_os_error() {
            Some(libc::EBUSY) => "another process has it, or it is no TAP device".into(),
            Some(libc::EINVAL) => {
                "an interface of that name is there, and is no TAP device or one of another kind".into()
            }
            _ => text(error),
        };
        format!("interface \"{name}\": {what}: {why}")
    };
    let mut ifreq = request(name);
    let kind = libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR | if several { libc::IFF_MULTI_QUEUE } else { 0 };
    ifreq.ifr_ifru.ifru_flags = kind as libc::c_short;
    // SAFETY: TUNSETIFF reads an ifreq and writes it.
    if unsafe { libc::ioctl(fd.as_raw_fd(), libc::TUNSETIFF, &mut ifreq) } != 0 {
        return Err(failed("it can't be opened"));
    }
    let header = HEADER as libc::c_int;
    // SAFETY: TUNSETVNETHDRSZ reads a number.
    if unsafe { libc::ioctl(fd.as_raw_fd(), libc::TUNSETVNETHDRSZ, &header) } != 0 {
        return Err(failed("the header before frames"));
    }
    // SAFETY: TUNSETOFFLOAD takes a number.
    let offloads =
        OFFLOADS.into_iter().find(|&set| unsafe { libc::ioctl(fd.as_raw_fd(), libc::TUNSETOFFLOAD, set) } == 0);
    Ok((fd, offloads.unwrap_or(0)))
}

fn request(name: &str) -> libc::ifreq {
    // SAFETY: all zeros is a valid ifreq.
    let mut ifreq: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in ifreq.ifr_name[..libc::IFNAMSIZ - 1].iter_mut().zip(name.bytes()) {
        *to = from as libc::c_char;
    }
    ifreq
}

/// The number that the kernel has given this thread's network namespace, and gives no other.
pub(crate) fn namespace_cookie() -> io::Result<u64> {
    let socket = rustix::net::socket(AddressFamily::UNIX, SocketType::DGRAM, None)?;
    let mut cookie = 0u64;
    let mut len = size_of::<u64>() as libc::socklen_t;
    let place = (&raw mut cookie).cast();
    // SAFETY: the kernel writes no more than that length.
    match unsafe { libc::getsockopt(socket.as_raw_fd(), libc::SOL_SOCKET, libc::SO_NETNS_COOKIE, place, &mut len) } {
        0 => Ok(cookie),
        _ => Err(io::Error::last_os_error()),
    }
}

/// The names of the interfaces in this thread's network namespace.
///
/// # Errors
/// The kernel's reason.
pub fn interface_names() -> io::Result<Vec<String>> {
    // SAFETY: no preconditions.
    let all = unsafe { libc::if_nameindex() };
    if all.is_null() {
        return Err(io::Error::last_os_error());
    }
    let mut names = Vec::new();
    // SAFETY: an array that ends with an entry whose index is 0 and name is null; each name ends with a NUL.
    unsafe {
        let mut entry = all;
        while (*entry).if_index != 0 && !(*entry).if_name.is_null() {
            names.push(CStr::from_ptr((*entry).if_name).to_string_lossy().into_owned());
            entry = entry.add(1);
        }
        libc::if_freenameindex(all);
    }
    Ok(names)
}

/// The kernel's number of the interface `name` in this thread's network namespace, if there is one.
pub fn interface_index(name: &str) -> Option<u32> {
    let ifreq = request(name);
    // SAFETY: `request` ends the name with a NUL.
    match unsafe { libc::if_nametoindex(ifreq.ifr_name.as_ptr()) } {
        0 => None,
        index => Some(index),
    }
}

/// The mask of CPUs other than `workers`, by which what is received is to be handled: the thread that writes a frame to a device would do it
/// else (receive packet steering). None if it is not to be.
fn free_cpus(workers: &[usize], rps: Rps) -> Option<String> {
    let online = fs::read_to_string("/sys/devices/system/cpu/online").ok()?;
    mask(&cpus(online.trim()), workers, rps)
}

/// The numbers in a list such as `0-3,8`.
fn cpus(list: &str) -> Vec<usize> {
    let range = |part: &str| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        Some(first.parse().ok()?..=last.parse().ok()?)
    };
    list.split(',').filter_map(range).flatten().collect()
}

/// The mask of those of `online` that are not `workers`', as the kernel reads it: words of 32 bits, the highest first. None if there are fewer
/// of them than `rps` wants.
fn mask(online: &[usize], workers: &[usize], rps: Rps) -> Option<String> {
    let mut words = vec![0u32; online.iter().max()? / 32 + 1];
    for cpu in online.iter().filter(|cpu| !workers.contains(cpu)) {
        words[cpu / 32] |= 1 << (cpu % 32);
    }
    let free: u32 = words.iter().map(|word| word.count_ones()).sum();
    let text: Vec<String> = words.iter().rev().map(|word| format!("{word:08x}")).collect();
    let wanted = match rps {
        Rps::Auto => free >= 2,
        Rps::On => free >= 1,
        Rps::Off => false,
    };
    wanted.then(|| text.join(","))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpus_that_are_nobodys() {
        assert_eq!(cpus("0-2,8"), [0, 1, 2, 8]);
        for rps in [Rps::Auto, Rps::On] {
            assert_eq!(mask(&cpus("0-3"), &[1], rps).unwrap(), "0000000d");
            assert_eq!(mask(&cpus("0-39"), &[0, 32], rps).unwrap(), "000000fe,fffffffe");
            assert_eq!(mask(&cpus("0-1"), &[0, 1], rps), None);
        }
        assert_eq!(mask(&cpus("0-1"), &[1], Rps::On).unwrap(), "00000001");
        assert_eq!(mask(&cpus("0-1"), &[1], Rps::Auto), None);
        assert_eq!(mask(&cpus("0-3"), &[1], Rps::Off), None);
    }
}
