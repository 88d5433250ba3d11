//! userfaultfd(2): SIGBUS for who touches a hole of a shared mapping. For this process's own code only, not for what the kernel
//! reads and writes for it, so that no privilege is needed.

use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

const USER_MODE_ONLY: i32 = 1;
const API: u64 = 0xaa;
const MISSING_HUGETLBFS: u64 = 1 << 4;
const MISSING_SHMEM: u64 = 1 << 5;
const SIGBUS: u64 = 1 << 7;
const MODE_MISSING: u64 = 1;
/// Numbers of ioctls, as <linux/userfaultfd.h> makes them: both directions, the size of the argument, the type 0xaa.
const UFFDIO_API: u64 = 0xc018_aa3f;
const UFFDIO_REGISTER: u64 = 0xc020_aa00;
const UFFDIO_COPY: u64 = 0xc028_aa03;
const UFFDIO_ZEROPAGE: u64 = 0xc020_aa04;

/// What pages of 2 MiB are made of: huge ones can only be copied.
static ZEROS: [u8; super::FILLED_MAX as usize] = [0; super::FILLED_MAX as usize];

fn ioctl<const N: usize>(fd: &OwnedFd, request: u64, argument: [u64; N]) -> Result<(), i32> {
    let mut argument = argument;
    // SAFETY: every structure of these calls is of 64-bit words, as many as the number of its call says, of which the kernel
    // writes the last ones.
    match unsafe { libc::ioctl(fd.as_raw_fd(), request as _, argument.as_mut_ptr()) } {
        // SAFETY: errno is this thread's.
        -1 => Err(unsafe { *libc::__errno_location() }),
        _ => Ok(()),
    }
}

/// One for the whole process, if the kernel has it and lets us.
pub fn open() -> Option<OwnedFd> {
    let flags = libc::O_CLOEXEC | libc::O_NONBLOCK | USER_MODE_ONLY;
    // SAFETY: the system call takes an integer only, and returns a new descriptor.
    let fd = unsafe {
        let fd = libc::syscall(libc::SYS_userfaultfd, flags);
        (fd >= 0).then(|| OwnedFd::from_raw_fd(fd as i32))?
    };
    ioctl(&fd, UFFDIO_API, [API, SIGBUS | MISSING_SHMEM | MISSING_HUGETLBFS, 0]).ok().map(|()| fd)
}

/// Has touching a hole in the mapping at `start` raise SIGBUS.
pub fn register(fd: &OwnedFd, start: usize, len: usize) -> Result<(), std::io::Error> {
    ioctl(fd, UFFDIO_REGISTER, [start as u64, len as u64, MODE_MISSING, 0]).map_err(std::io::Error::from_raw_os_error)
}

/// Makes a page of zeros of the hole at `at`. Why not: an error's number.
pub fn fill(fd: &OwnedFd, at: usize, page: usize, huge: bool) -> Result<(), i32> {
    if huge {
        ioctl(fd, UFFDIO_COPY, [at as u64, ZEROS.as_ptr() as u64, page as u64, 0, 0])
    } else {
        ioctl(fd, UFFDIO_ZEROPAGE, [at as u64, page as u64, 0, 0])
    }
}
