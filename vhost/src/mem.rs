//! Memory shared with a peer: mapping it, finding addresses in it, and surviving its disappearance.
//!
//! A peer can truncate a file that we have mapped. Touching what is gone raises SIGBUS, which would kill the process. A
//! region is therefore sealed against shrinking where the file allows that, and every region is known to a SIGBUS handler
//! ([`guard`]) that puts zero pages in the place of what is gone, so that the thread goes on and the link is closed.
#![allow(unsafe_code)]

use rustix::fs::{SealFlags, fcntl_add_seals, fcntl_get_seals, fstat};
use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};
use std::os::fd::{AsFd, OwnedFd};
use std::ptr::{NonNull, null_mut};

/// The largest region taken, bytes: a peer can name a sparse file of any size, and addresses are finite.
pub const REGION_MAX: u64 = 1 << 36;

/// The most ordinary memory taken from a peer, bytes. Pages that we write to in a sparse file come into being on our account,
/// not on the peer's; huge pages come from a pool that is bounded by itself. Descriptors reach 4 GiB of a region at most.
pub const ORDINARY_MAX: u64 = 1 << 32;

/// A file of a peer (or our own memfd), mapped shared and writable.
#[derive(Debug)]
pub struct Region {
    base: NonNull<u8>,
    len: usize,
    slot: usize,
    sealed: bool,
    huge: bool,
}

// SAFETY: a region is an address range that stays mapped until it is dropped; it is read and written through raw
// pointers by whoever vouches for that.
unsafe impl Send for Region {}
// SAFETY: as above; there are no references into it.
unsafe impl Sync for Region {}

impl Region {
    /// Maps `fd`, whose file has to have exactly `size` bytes. It is sealed against shrinking if it can be.
    ///
    /// # Errors
    /// What is wrong with the file, for people.
    pub fn map(fd: OwnedFd, size: u64) -> Result<Region, String> {
        Self::map_with(&fd, size, MapFlags::empty())
    }

    /// Makes a sealed memfd of `size` bytes for a peer to map, and maps it with its pages present.
    ///
    /// # Errors
    /// What the kernel refused, for people.
    pub fn create(name: &str, size: u64) -> Result<(Region, OwnedFd), String> {
        use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
        let fd = memfd_create(name, MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)
            .map_err(|e| format!("memfd_create: {e}"))?;
        ftruncate(&fd, size).map_err(|e| format!("memfd of {size} bytes: {e}"))?;
        fcntl_add_seals(&fd, SealFlags::SHRINK | SealFlags::GROW).map_err(|e| format!("seal a memfd: {e}"))?;
        let populate = if size <= 1 << 28 { MapFlags::POPULATE } else { MapFlags::empty() };
        Ok((Self::map_with(&fd, size, populate)?, fd))
    }

    fn map_with(fd: &OwnedFd, size: u64, flags: MapFlags) -> Result<Region, String> {
        let file = File::of(fd)?;
        if file.size != size {
            return Err(format!("the region is said to have {size} bytes, its file has {}", file.size));
        }
        if size == 0 || size > REGION_MAX {
            return Err(format!("a region of {size} bytes (1 to {REGION_MAX} are taken)"));
        }
        if !file.huge && size > ORDINARY_MAX {
            return Err(format!(
                "{size} bytes of ordinary memory (at most {ORDINARY_MAX} are taken; huge pages may be more)"
            ));
        }
        Self::mapping(fd, &file, 0, size, flags)
    }

    /// Maps the `len` bytes at `offset` of `fd`, whose file may have more; and says where they begin in the region, for
    /// only whole pages can be mapped. The file is sealed against shrinking if it can be.
    ///
    /// # Errors
    /// What is wrong with the file, for people.
    pub fn map_part(fd: &OwnedFd, offset: u64, len: u64) -> Result<(Region, usize), String> {
        let file = File::of(fd)?;
        let end = offset.checked_add(len).filter(|&end| end <= file.size && len != 0);
        let Some(end) = end else {
            return Err(format!(
                "the region is said to have {len} bytes at {offset} of its file, which has {}",
                file.size
            ));
        };
        if len > REGION_MAX {
            return Err(format!("a region of {len} bytes (at most {REGION_MAX} are taken)"));
        }
        let start = offset / file.page * file.page;
        // Whole pages; the last of an ordinary file may be more than the file has.
        let end = end.next_multiple_of(file.page);
        let region = Self::mapping(fd, &file, start, end - start, MapFlags::empty())?;
        Ok((region, (offset - start) as usize))
    }

    fn mapping(fd: &OwnedFd, file: &File, offset: u64, len: u64, flags: MapFlags) -> Result<Region, String> {
        let len = usize::try_from(len).map_err(|_| "the region is too large")?;
        // SAFETY: a new mapping at an address of the kernel's choice touches nothing that exists.
        let base = unsafe {
            mmap(null_mut(), len, ProtFlags::READ | ProtFlags::WRITE, MapFlags::SHARED | flags, fd.as_fd(), offset)
        }
        .map_err(|e| format!("mmap of a region: {e}"))?;
        let Some(slot) = guard::register(base as usize, len) else {
            // SAFETY: the mapping just made, which nobody else knows.
            let _ = unsafe { munmap(base, len) };
            return Err("too many regions are mapped".into());
        };
        let base = NonNull::new(base.cast()).expect("mmap without a hint never maps address 0");
        Ok(Region { base, len, slot, sealed: file.sealed, huge: file.huge })
    }

    /// Its first byte. What is behind it is valid as long as the region, and is the peer's to change at any time.
    pub fn base(&self) -> NonNull<u8> {
        self.base
    }

    /// Writes `bytes` from byte `at` on; nothing if they are not all within the region. Whoever else maps the file may see
    /// them half written.
    #[inline]
    pub fn write(&mut self, at: usize, bytes: &[u8]) {
        if at.checked_add(bytes.len()).is_some_and(|end| end <= self.len) {
            // SAFETY: the bytes are within the mapping (above), which is nobody's else in this process while it is borrowed
            // as mutable, and apart from `bytes`, for there are no references into it.
            unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), self.base.as_ptr().add(at), bytes.len()) };
        }
    }

    /// Size in bytes.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Never: an empty file is refused.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Whether it is of huge pages.
    pub fn huge(&self) -> bool {
        self.huge
    }

    /// Whether its file is sealed against shrinking.
    pub fn sealed(&self) -> bool {
        self.sealed
    }

    /// Whether some of it was found gone. All of it then is private zero pages.
    pub fn faulted(&self) -> bool {
        guard::faulted(self.slot)
    }
}

/// What a peer's file is.
struct File {
    size: u64,
    sealed: bool,
    huge: bool,
    /// Bytes of a page.
    page: u64,
}

impl File {
    fn of(fd: &OwnedFd) -> Result<File, String> {
        // Only memory: shmem and hugetlbfs know seals, and this asks nobody but the kernel. Any other file, FUSE above all,
        // would let a peer answer (or not) for its size and every page of it, and so stop whoever touches it.
        let not_memory = |_| "a region is not a memfd nor a file on tmpfs or hugetlbfs".to_string();
        fcntl_get_seals(fd.as_fd()).map_err(not_memory)?;
        // Best effort, and before the size is looked at: what is sealed now stays as large as it is found.
        let _ = fcntl_add_seals(fd.as_fd(), SealFlags::SHRINK);
        let sealed = fcntl_get_seals(fd.as_fd()).is_ok_and(|s| s.contains(SealFlags::SHRINK));
        let stat = fstat(fd.as_fd()).map_err(|e| format!("fstat of a region: {e}"))?;
        // hugetlbfs gives its page size as the best size for I/O.
        let huge = stat.st_blksize >= 2 << 20;
        let page = if huge { stat.st_blksize as u64 } else { 4096 };
        Ok(File { size: u64::try_from(stat.st_size).unwrap_or(0), sealed, huge, page })
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        guard::unregister(self.slot);
        // SAFETY: the mapping made in `map_with`; whoever uses its addresses holds this region (in an `Arc`).
        let _ = unsafe { munmap(self.base.as_ptr().cast(), self.len) };
    }
}

/// Where a region is, if it is there.
#[derive(Clone, Copy, Debug)]
pub struct Extent {
    base: NonNull<u8>,
    /// What the end of a piece is below: its length and one, or nothing.
    limit: u64,
}

impl Extent {
    /// Where it begins.
    #[inline(always)]
    pub(crate) fn base(&self) -> NonNull<u8> {
        self.base
    }

    /// Its length in bytes; -1 if it isn't there.
    #[inline(always)]
    pub(crate) fn len(&self) -> i64 {
        self.limit as i64 - 1
    }

    /// The address of `len` bytes at `offset`, or `None` if that is not all within the region.
    #[inline(always)]
    pub fn at(&self, offset: u32, len: u32) -> Option<NonNull<u8>> {
        if u64::from(offset) + u64::from(len) >= self.limit {
            return None;
        }
        // SAFETY: `offset` is at most the region's length (64-bit sum above, which can't overflow), so the address is in
        // or one past the same mapping.
        Some(unsafe { self.base.add(offset as usize) })
    }
}

/// The regions of one link, by index.
#[derive(Debug, Default)]
pub struct Regions {
    list: Vec<Region>,
}

impl Regions {
    /// The regions, in the order of their indices.
    pub fn new(list: Vec<Region>) -> Regions {
        Regions { list }
    }

    /// The regions.
    pub fn list(&self) -> &[Region] {
        &self.list
    }

    /// The address of `len` bytes at `offset` of `region`, or `None` if that is not all within the region. It is valid as
    /// long as `self`.
    #[inline(always)]
    pub fn resolve(&self, region: u16, offset: u32, len: u32) -> Option<NonNull<u8>> {
        self.extent(region).at(offset, len)
    }

    /// Where `region` is. It is valid as long as `self`.
    #[inline(always)]
    pub fn extent(&self, region: u16) -> Extent {
        match self.list.get(region as usize) {
            Some(region) => Extent { base: region.base, limit: region.len as u64 + 1 },
            None => Extent { base: NonNull::dangling(), limit: 0 },
        }
    }

    /// Whether a part of any region was found gone.
    pub fn faulted(&self) -> bool {
        self.list.iter().any(Region::faulted)
    }
}

/// The process's SIGBUS handler and the table of regions it protects.
pub mod guard {
    use std::ptr::null_mut;
    use std::sync::Once;
    use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering, fence};

    const SLOTS: usize = 8192;
    /// x86-64's; the files of huge pages have whole ones, which are multiples of it.
    const PAGE: usize = 4096;

    /// A region known to the handler. `seq` is odd while `start` and `end` are being written, so that the handler, which
    /// may run on another thread meanwhile, never mixes the bounds of two regions.
    struct Slot {
        used: AtomicBool,
        seq: AtomicU32,
        start: AtomicUsize,
        end: AtomicUsize,
        faulted: AtomicBool,
    }

    static TABLE: [Slot; SLOTS] = [const {
        Slot {
            used: AtomicBool::new(false),
            seq: AtomicU32::new(0),
            start: AtomicUsize::new(0),
            end: AtomicUsize::new(0),
            faulted: AtomicBool::new(false),
        }
    }; SLOTS];

    /// How many slots from the first were ever used.
    static USED: AtomicUsize = AtomicUsize::new(0);
    /// How many regions were found gone since the process began.
    static FAULTS: AtomicUsize = AtomicUsize::new(0);

    /// How many regions were found gone since the process began: a queue that sees this change asks its own regions.
    #[inline(always)]
    pub fn faults() -> usize {
        FAULTS.load(Ordering::Acquire)
    }

    pub(super) fn faulted(slot: usize) -> bool {
        TABLE[slot].faulted.load(Ordering::Acquire)
    }

    fn write(slot: &Slot, start: usize, end: usize) {
        let seq = slot.seq.load(Ordering::Relaxed);
        slot.seq.store(seq.wrapping_add(1), Ordering::Relaxed);
        fence(Ordering::Release);
        slot.start.store(start, Ordering::Relaxed);
        slot.end.store(end, Ordering::Relaxed);
        slot.seq.store(seq.wrapping_add(2), Ordering::Release);
    }

    pub(super) fn register(start: usize, len: usize) -> Option<usize> {
        static INSTALL: Once = Once::new();
        INSTALL.call_once(install);
        let i = TABLE.iter().position(|s| {
            !s.used.load(Ordering::Relaxed)
                && s.used.compare_exchange(false, true, Ordering::Acquire, Ordering::Relaxed).is_ok()
        })?;
        TABLE[i].faulted.store(false, Ordering::Relaxed);
        write(&TABLE[i], start, start + len.next_multiple_of(PAGE));
        USED.fetch_max(i + 1, Ordering::Release);
        Some(i)
    }

    pub(super) fn unregister(slot: usize) {
        write(&TABLE[slot], 0, 0);
        TABLE[slot].used.store(false, Ordering::Release);
    }

    fn install() {
        // SAFETY: `on_sigbus` has the signature that SA_SIGINFO promises and calls only what is async-signal-safe; an
        // all-zero sigaction is a valid one (empty mask).
        unsafe {
            let mut action: libc::sigaction = std::mem::zeroed();
            action.sa_sigaction = on_sigbus as extern "C" fn(_, _, _) as usize;
            action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
            libc::sigaction(libc::SIGBUS, &action, null_mut());
        }
    }

    /// Puts zero pages in the place of the region that `addr` is in. Whether there was one.
    fn replace(addr: usize) -> bool {
        let used = USED.load(Ordering::Acquire);
        for slot in &TABLE[..used] {
            let (start, end) = loop {
                let seq = slot.seq.load(Ordering::Acquire);
                let bounds = (slot.start.load(Ordering::Relaxed), slot.end.load(Ordering::Relaxed));
                fence(Ordering::Acquire);
                // A slot that is being written is not the one that is being used by the thread that faulted.
                if seq & 1 != 0 {
                    break (0, 0);
                }
                if slot.seq.load(Ordering::Relaxed) == seq {
                    break bounds;
                }
            };
            if !(start..end).contains(&addr) {
                continue;
            }
            // First: another thread may read the zeros as soon as they are there, and is not to take them for the peer's.
            slot.faulted.store(true, Ordering::Release);
            FAULTS.fetch_add(1, Ordering::Release);
            // SAFETY: the range is one of our mappings, which stays ours: the faulting thread holds its region. Zero pages
            // at the same addresses keep every pointer into it valid. mmap is a plain system call, safe in a handler.
            let new = unsafe {
                libc::mmap(
                    start as *mut libc::c_void,
                    end - start,
                    libc::PROT_READ | libc::PROT_WRITE,
                    libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED | libc::MAP_NORESERVE,
                    -1,
                    0,
                )
            };
            return new != libc::MAP_FAILED;
        }
        false
    }

    extern "C" fn on_sigbus(signal: i32, info: *mut libc::siginfo_t, _context: *mut libc::c_void) {
        // SAFETY: the kernel hands a valid siginfo to a SA_SIGINFO handler; errno is this thread's; the calls are
        // async-signal-safe.
        unsafe {
            let errno = *libc::__errno_location();
            let from_kernel = (*info).si_code > 0;
            if !(from_kernel && replace((*info).si_addr() as usize)) {
                // Not ours: the access is tried again with the default action, or the signal somebody sent is raised again.
                let mut action: libc::sigaction = std::mem::zeroed();
                action.sa_sigaction = libc::SIG_DFL;
                libc::sigaction(signal, &action, null_mut());
                if !from_kernel {
                    libc::raise(signal);
                }
            }
            *libc::__errno_location() = errno;
        }
    }
}

/// Interrupting a thread that hangs in a system call.
pub(crate) mod signal {
    use std::os::unix::thread::JoinHandleExt;
    use std::ptr::null_mut;
    use std::sync::Once;
    use std::thread::JoinHandle;

    /// Nobody uses it, and it is ignored by default: one that is astray does no harm.
    const SIGNAL: i32 = libc::SIGURG;

    extern "C" fn nothing(_signal: i32) {}

    /// Has [`interrupt`] interrupt this thread: threads inherit a mask, and the signal must not be in it.
    pub fn unblock() {
        static INSTALL: Once = Once::new();
        // SAFETY: an all-zero sigaction is a valid one, and without SA_RESTART: a system call ends with EINTR. The handler
        // has the signature of a plain one and does nothing. The set is initialized before it is used.
        unsafe {
            INSTALL.call_once(|| {
                let mut action: libc::sigaction = std::mem::zeroed();
                action.sa_sigaction = nothing as extern "C" fn(_) as usize;
                libc::sigaction(SIGNAL, &action, null_mut());
            });
            let mut set: libc::sigset_t = std::mem::zeroed();
            libc::sigemptyset(&mut set);
            libc::sigaddset(&mut set, SIGNAL);
            libc::pthread_sigmask(libc::SIG_UNBLOCK, &set, null_mut());
        }
    }

    /// Interrupts the thread that made it from time to time.
    pub struct Alarm(libc::timer_t);

    impl Alarm {
        /// Ends the system call that this thread, which called [`unblock`], is in `seconds` from now, and again and again.
        ///
        /// # Errors
        /// If the kernel gives no timer.
        pub fn every(seconds: i64) -> std::io::Result<Alarm> {
            // SAFETY: an all-zero sigevent and itimerspec are valid ones; the kernel writes the timer's id before it is used, and
            // reads the rest only during the calls.
            unsafe {
                let mut event: libc::sigevent = std::mem::zeroed();
                event.sigev_notify = libc::SIGEV_THREAD_ID;
                event.sigev_signo = SIGNAL;
                event.sigev_notify_thread_id = libc::gettid();
                let mut timer = null_mut();
                if libc::timer_create(libc::CLOCK_MONOTONIC, &mut event, &mut timer) != 0 {
                    return Err(std::io::Error::last_os_error());
                }
                let mut spec: libc::itimerspec = std::mem::zeroed();
                (spec.it_value.tv_sec, spec.it_interval.tv_sec) = (seconds, seconds);
                libc::timer_settime(timer, 0, &spec, null_mut());
                Ok(Alarm(timer))
            }
        }
    }

    impl Drop for Alarm {
        fn drop(&mut self) {
            // SAFETY: the timer was made by `every`, and nobody else deletes it.
            unsafe { libc::timer_delete(self.0) };
        }
    }

    /// Ends the system call that `thread`, which called [`unblock`], is in now, if it is in one that can be interrupted.
    pub fn interrupt(thread: &JoinHandle<()>) {
        // SAFETY: the handle was not joined, so its pthread_t is valid, also if the thread has ended.
        unsafe { libc::pthread_kill(thread.as_pthread_t(), SIGNAL) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fs::{MemfdFlags, ftruncate, memfd_create};

    fn memfd(size: u64, flags: MemfdFlags) -> OwnedFd {
        let fd = memfd_create("test", MemfdFlags::CLOEXEC | flags).unwrap();
        ftruncate(&fd, size).unwrap();
        fd
    }

    #[test]
    fn bounds_are_checked_in_64_bits() {
        let regions = Regions::new(vec![Region::map(memfd(8192, MemfdFlags::empty()), 8192).unwrap()]);
        assert!(regions.resolve(0, 0, 8192).is_some());
        assert!(regions.resolve(0, 8191, 1).is_some());
        assert!(regions.resolve(0, 8192, 0).is_some());
        assert!(regions.resolve(0, 8191, 2).is_none());
        assert!(regions.resolve(0, u32::MAX, 1).is_none());
        assert!(regions.resolve(0, u32::MAX, u32::MAX).is_none());
        assert!(regions.resolve(0, 1, u32::MAX).is_none());
        assert!(regions.resolve(1, 0, 0).is_none());
    }

    #[test]
    fn writes_stay_within_the_region() {
        let fd = memfd(4096, MemfdFlags::empty());
        let file = std::fs::File::from(fd.try_clone().unwrap());
        let mut region = Region::map(fd, 4096).unwrap();
        region.write(4093, &[1, 2, 3]);
        region.write(4094, &[9; 3]);
        region.write(usize::MAX, &[9; 3]);
        let mut end = [0; 4];
        std::os::unix::fs::FileExt::read_exact_at(&file, &mut end, 4092).unwrap();
        assert_eq!(end, [0, 1, 2, 3]);
    }

    #[test]
    fn size_must_be_the_files() {
        assert!(Region::map(memfd(8192, MemfdFlags::empty()), 8193).unwrap_err().contains("8192"));
        assert!(Region::map(memfd(8192, MemfdFlags::empty()), 4096).is_err());
        assert!(Region::map(memfd(0, MemfdFlags::empty()), 0).is_err());
        assert!(Region::map(memfd(REGION_MAX + 4096, MemfdFlags::empty()), REGION_MAX + 4096).is_err());
        let sparse = Region::map(memfd(ORDINARY_MAX + 4096, MemfdFlags::empty()), ORDINARY_MAX + 4096);
        assert!(sparse.unwrap_err().contains("ordinary memory"));
        let (_, pipe) = rustix::pipe::pipe().unwrap();
        assert!(Region::map(pipe, 4096).is_err());
    }

    #[test]
    fn only_memory_is_mapped() {
        let proc = std::fs::File::open("/proc/self/mem").unwrap();
        assert!(Region::map(proc.into(), 4096).unwrap_err().contains("not a memfd"));
    }

    #[test]
    fn a_file_is_sealed_where_it_can_be() {
        let fd = memfd(4096, MemfdFlags::ALLOW_SEALING);
        let theirs = fd.try_clone().unwrap();
        assert!(Region::map(fd, 4096).unwrap().sealed());
        assert!(ftruncate(&theirs, 0).is_err());
        assert!(!Region::map(memfd(4096, MemfdFlags::empty()), 4096).unwrap().sealed());
    }

    #[test]
    fn a_shrunk_file_becomes_zeros() {
        let fd = memfd(3 * 4096, MemfdFlags::empty());
        let theirs = fd.try_clone().unwrap();
        let other = Region::map(memfd(4096, MemfdFlags::empty()), 4096).unwrap();
        let region = Region::map(fd, 3 * 4096).unwrap();
        let p = region.base.as_ptr();
        // SAFETY: within the region, which is alive; the handler answers for pages that are gone.
        unsafe {
            p.write_volatile(7);
            p.add(8192).write_volatile(9);
            assert!(!region.faulted());
            ftruncate(&theirs, 4096).unwrap();
            assert_eq!(p.read_volatile(), 7);
            let before = guard::faults();
            assert_eq!(p.add(8192).read_volatile(), 0);
            assert_eq!(p.read_volatile(), 0);
            p.add(5000).write_volatile(1);
            assert!(guard::faults() > before);
        }
        assert!(region.faulted());
        assert!(!other.faulted());
    }
}
