//! The kernel's interfaces, for the drivers that work through them.

use std::ffi::{CStr, CString};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::{fs, io, mem};

/// Asks the kernel about an interface, or has it changed: `request` is an `ioctl` of netdevice(7).
fn interface(iface: &CStr, request: libc::Ioctl, fill: impl FnOnce(&mut libc::ifreq)) -> io::Result<libc::ifreq> {
    // SAFETY: all zeros is a valid ifreq.
    let mut ifreq: libc::ifreq = unsafe { mem::zeroed() };
    for (to, from) in ifreq.ifr_name[..libc::IFNAMSIZ - 1].iter_mut().zip(iface.to_bytes()) {
        *to = *from as libc::c_char;
    }
    fill(&mut ifreq);
    // SAFETY: no preconditions.
    let socket = unsafe { libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0) };
    if socket < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: just made, and nobody else's.
    let socket = unsafe { OwnedFd::from_raw_fd(socket) };
    // SAFETY: an ioctl that reads and writes an ifreq.
    match unsafe { libc::ioctl(socket.as_raw_fd(), request, &mut ifreq) } {
        0 => Ok(ifreq),
        _ => Err(io::Error::last_os_error()),
    }
}

/// The kernel's number of the interface, 0 if there is none. A new one of the same name has another number.
pub(crate) fn index(iface: &CStr) -> u32 {
    // SAFETY: a C string.
    unsafe { libc::if_nametoindex(iface.as_ptr()) }
}

/// Whether the kernel's interface is up and has a carrier.
pub(crate) fn is_running(iface: &CStr) -> bool {
    let both = (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short;
    // SAFETY: SIOCGIFFLAGS fills in the flags.
    interface(iface, libc::SIOCGIFFLAGS, |_| ()).is_ok_and(|is| unsafe { is.ifr_ifru.ifru_flags } & both == both)
}

/// The interface's MTU.
pub(crate) fn mtu(iface: &CStr) -> io::Result<u16> {
    // SAFETY: SIOCGIFMTU fills in the MTU.
    let mtu = interface(iface, libc::SIOCGIFMTU, |_| ()).map(|is| unsafe { is.ifr_ifru.ifru_mtu })?;
    Ok(mtu.clamp(0, u16::MAX.into()) as u16)
}

/// Sees to it that the kernel's interface has an MTU of at least `wanted`, if it can have that. Returns what it has.
pub(crate) fn raise_mtu(iface: &CStr, wanted: u16) -> Result<u16, String> {
    let get = || mtu(iface).map_err(|e| format!("the interface's MTU: {e}"));
    let has = get()?;
    if has >= wanted {
        return Ok(has);
    }
    let _ = set_mtu(iface, wanted);
    get()
}

fn set_mtu(iface: &CStr, mtu: u16) -> io::Result<()> {
    interface(iface, libc::SIOCSIFMTU, |ifreq| ifreq.ifr_ifru.ifru_mtu = mtu.into()).map(drop)
}

/// The interface's own address, as the kernel has it: family and bytes.
fn address(iface: &CStr) -> io::Result<libc::sockaddr> {
    // SAFETY: SIOCGIFHWADDR fills in the address.
    interface(iface, libc::SIOCGIFHWADDR, |_| ()).map(|is| unsafe { is.ifr_ifru.ifru_hwaddr })
}

/// How a kernel's interface was before it was opened. What opening has changed is put back when this is dropped, unless
/// somebody else has changed it since, or it is another interface by now.
pub(crate) struct Before {
    iface: CString,
    index: u32,
    mtu: u16,
    address: libc::sockaddr,
    /// What opening has made of both, once that is done.
    after: Option<(u16, libc::sockaddr)>,
}

impl Before {
    /// Takes a look at `iface`, whose number is `index`.
    ///
    /// # Errors
    /// If the kernel does not tell its MTU or its address.
    pub(crate) fn look(iface: &CStr, index: u32) -> io::Result<Before> {
        Ok(Before { iface: iface.to_owned(), index, mtu: mtu(iface)?, address: address(iface)?, after: None })
    }

    /// Notes what was changed meanwhile. For the log: a line for each change.
    pub(crate) fn opened(&mut self) -> Vec<String> {
        let (Ok(mtu), Ok(address)) = (mtu(&self.iface), address(&self.iface)) else { return Vec::new() };
        self.after = Some((mtu, address));
        let name = self.iface.to_string_lossy();
        let mut lines = Vec::new();
        if mtu != self.mtu {
            lines.push(format!(
                "the interface \"{name}\" has MTU {mtu} now, not {}, until the port is closed",
                self.mtu
            ));
        }
        if address != self.address {
            let (now, was) = (hex(&address), hex(&self.address));
            lines.push(format!("the interface \"{name}\" has address {now} now, not {was}, until the port is closed"));
        }
        lines
    }
}

impl Drop for Before {
    fn drop(&mut self) {
        let Some((mtu_set, address_set)) = self.after.filter(|_| index(&self.iface) == self.index) else { return };
        if mtu_set != self.mtu && mtu(&self.iface).is_ok_and(|now| now == mtu_set) {
            let _ = set_mtu(&self.iface, self.mtu);
        }
        if address_set != self.address && address(&self.iface).is_ok_and(|now| now == address_set) {
            let _ = interface(&self.iface, libc::SIOCSIFHWADDR, |ifreq| ifreq.ifr_ifru.ifru_hwaddr = self.address);
        }
    }
}

/// An Ethernet address as people write it.
fn hex(address: &libc::sockaddr) -> String {
    address.sa_data.iter().take(6).map(|byte| format!("{:02x}", *byte as u8)).collect::<Vec<_>>().join(":")
}

/// Frames that the kernel lost on an interface.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Losses {
    /// Before a packet socket saw them: no room in a queue of the kernel's, or in the device.
    pub rx: u64,
    /// On their way out: no room, or no link.
    pub tx: u64,
}

/// What the kernel has lost on `iface` since that was made (Documentation/networking/statistics.rst); `None` if it doesn't say.
pub(crate) fn losses(iface: &CStr) -> Option<Losses> {
    let count = |name: &str| {
        let path = format!("/sys/class/net/{}/statistics/{name}", iface.to_str().ok()?);
        fs::read_to_string(path).ok()?.trim().parse::<u64>().ok()
    };
    Some(Losses {
        rx: count("rx_dropped")? + count("rx_missed_errors")?,
        tx: count("tx_dropped")? + count("tx_errors")?,
    })
}

/// This process's packet sockets that are bound to the interface `index`.
pub(crate) fn packet_sockets(index: u32) -> Vec<RawFd> {
    let fds = fs::read_dir("/proc/self/fd").into_iter().flatten().flatten();
    let numbers = fds.filter_map(|entry| entry.file_name().to_str()?.parse::<RawFd>().ok());
    numbers
        .filter(|&fd| {
            // SAFETY: all zeros is a valid address.
            let mut address: libc::sockaddr_ll = unsafe { mem::zeroed() };
            let mut size = size_of_val(&address) as libc::socklen_t;
            // SAFETY: the kernel writes at most `size` bytes. What is no socket, or closed by now, is refused.
            let result = unsafe { libc::getsockname(fd, (&raw mut address).cast(), &mut size) };
            result == 0 && address.sll_family == libc::AF_PACKET as u16 && address.sll_ifindex == index as i32
        })
        .collect()
}

/// What is left of a frame whose outer tag is not 802.1Q's: its addresses. With the tag that the driver adds it is shorter than a tagged
/// header, and so dropped as `parse.truncated`.
const CUT: u32 = 12;

/// Has the kernel cut frames with another outer tag than 802.1Q's (802.1ad's 0x88a8), before `socket` gets them: the kernel takes the
/// tag out of a frame, and DPDK's net_af_packet puts it back as 0x8100, whatever it was. That would be another VLAN.
pub(crate) fn cut_other_tags(socket: RawFd) -> io::Result<()> {
    let load = |what: libc::c_int| libc::sock_filter {
        code: (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16,
        jt: 0,
        jf: 0,
        k: (libc::SKF_AD_OFF + what) as u32,
    };
    let jump = |k, jt, jf| libc::sock_filter { code: (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16, jt, jf, k };
    let length = |k| libc::sock_filter { code: (libc::BPF_RET | libc::BPF_K) as u16, jt: 0, jf: 0, k };
    let mut program = [
        load(libc::SKF_AD_VLAN_TAG_PRESENT),
        jump(0, 2, 0),
        load(SKF_AD_VLAN_TPID),
        jump(libc::ETH_P_8021Q as u32, 0, 1),
        length(u32::MAX),
        length(CUT),
    ];
    let program = libc::sock_fprog { len: program.len() as u16, filter: program.as_mut_ptr() };
    let size = size_of_val(&program) as libc::socklen_t;
    // SAFETY: the kernel checks and copies the program, which is alive during the call.
    match unsafe {
        libc::setsockopt(socket, libc::SOL_SOCKET, libc::SO_ATTACH_FILTER, (&raw const program).cast(), size)
    } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// The outer tag's TPID (linux/filter.h).
const SKF_AD_VLAN_TPID: libc::c_int = 60;

/// How many frames found no room in a packet socket's ring since this was last asked (packet(7), PACKET_STATISTICS).
pub(crate) fn take_ring_drops(socket: RawFd) -> u64 {
    // SAFETY: all zeros is a valid tpacket_stats.
    let mut stats: libc::tpacket_stats = unsafe { mem::zeroed() };
    let mut size = size_of_val(&stats) as libc::socklen_t;
    // SAFETY: the kernel writes at most `size` bytes.
    let result = unsafe {
        libc::getsockopt(socket, libc::SOL_PACKET, libc::PACKET_STATISTICS, (&raw mut stats).cast(), &mut size)
    };
    if result == 0 { stats.tp_drops.into() } else { 0 }
}
