//! The kernel's interfaces, for the drivers that work through them.

use std::ffi::CStr;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::{io, mem};

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

/// Sees to it that the kernel's interface has an MTU of at least `wanted`, if it can have that. Returns what it has.
pub(crate) fn raise_mtu(iface: &CStr, wanted: u16) -> Result<u16, String> {
    let get = || {
        // SAFETY: SIOCGIFMTU fills in the MTU.
        interface(iface, libc::SIOCGIFMTU, |_| ()).map(|is| unsafe { is.ifr_ifru.ifru_mtu })
    };
    let mut mtu = get().map_err(|e| format!("the interface's MTU: {e}"))?;
    if mtu < wanted.into() {
        let _ = interface(iface, libc::SIOCSIFMTU, |ifreq| ifreq.ifr_ifru.ifru_mtu = wanted.into());
        mtu = get().map_err(|e| format!("the interface's MTU: {e}"))?;
    }
    Ok(mtu.clamp(0, u16::MAX.into()) as u16)
}
