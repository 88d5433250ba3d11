//! File descriptors: how many there are, and what can be seen of one.

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use rustix::process::{Resource, getrlimit};
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};

/// What an error means, without its number.
pub(crate) fn text(e: impl Into<std::io::Error>) -> String {
    let e = e.into();
    if e.raw_os_error() == Some(libc::EMFILE) {
        return no_descriptors();
    }
    let s = e.to_string();
    s.split(" (os error").next().unwrap_or_default().to_owned()
}

/// That we are out of descriptors: the peer is not to blame.
pub(crate) fn no_descriptors() -> String {
    let limit = getrlimit(Resource::Nofile).current;
    let limit = limit.map_or("no limit".into(), |limit| limit.to_string());
    format!("the switch has no file descriptors left (RLIMIT_NOFILE is {limit})")
}

/// Descriptors that peers don't get, or a quarter of few: so that the control socket can still be asked what is wrong.
pub const RESERVED_DESCRIPTORS: u64 = 128;

/// Whether a peer may have us keep `fd`, which is new: the kernel gives the lowest number that is free.
pub(crate) fn is_spare(fd: &OwnedFd) -> bool {
    let limit = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    (fd.as_raw_fd() as u64) < limit - RESERVED_DESCRIPTORS.min(limit / 4)
}

/// Whether there is `what` to be seen of a descriptor now.
pub(crate) fn ready(fd: BorrowedFd<'_>, what: PollFlags) -> bool {
    let mut fds = [PollFd::from_borrowed_fd(fd, what)];
    poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })).is_ok() && fds[0].revents().contains(what)
}

/// Whether the peer is gone.
pub(crate) fn hung_up(fd: BorrowedFd<'_>) -> bool {
    ready(fd, PollFlags::HUP)
}

/// An own eventfd.
///
/// # Errors
/// Why the kernel gives none.
pub(crate) fn event() -> Result<OwnedFd, String> {
    eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).map_err(|e| format!("eventfd: {}", text(e)))
}

/// Checks that a peer's file descriptor is an eventfd: a write to anything else could block for ever, and not every such write can be
/// interrupted. The descriptor's flags stay as they are: the peer shares them, and may want to block.
///
/// # Errors
/// What it is instead.
pub(crate) fn check_event(fd: &OwnedFd) -> Result<(), String> {
    let target = std::fs::read_link(format!("/proc/self/fd/{}", fd.as_raw_fd())).map_err(text)?;
    if target.as_os_str() != "anon_inode:[eventfd]" {
        return Err(format!("a ring's interrupt is not an eventfd but {target:?}"));
    }
    Ok(())
}
