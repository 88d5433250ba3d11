//! Memory shared with a peer: mapping it, finding addresses in it, and surviving its disappearance.
//!
//! A peer can truncate a file that we have mapped. Touching what is gone raises SIGBUS, which would kill the process. A
//! region is therefore sealed against shrinking where the file allows that, and every region is known to a SIGBUS handler
//! ([`guard`]) that puts a page of our own in the place of one that is gone, so that the thread goes on and the link is closed.
//!
//! A peer's file may have holes: pages that nobody wrote yet. The kernel would make them when we touch them, and charge them to us
//! for as long as the peer keeps the file. Touching a hole therefore raises SIGBUS too (userfaultfd), and the handler has the page made
//! if the port's [`Budget`] allows it. Pages that are there cost nothing of this.
#![allow(unsafe_code)]

use crate::quarantine::NOT_MEMORY;
use rustix::fs::{SealFlags, fcntl_add_seals, fcntl_get_seals, fstat, fstatfs};
use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};
use std::os::fd::{AsFd, OwnedFd};
use std::ptr::{NonNull, null_mut};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// The largest region taken, bytes: a peer can name a sparse file of any size, and addresses are finite.
pub const REGION_MAX: u64 = 1 << 36;

/// The most ordinary memory taken from a peer, bytes: descriptors reach 4 GiB of a region at most.
pub const ORDINARY_MAX: u64 = 1 << 32;

/// The largest pages whose holes are filled, bytes: a worker clears them.
const FILLED_MAX: u64 = 2 << 20;

/// What may be made of the holes in a port's peers' memory, whatever links it has one after the other. The kernel charges such pages to
/// our control group until the peer gives up its file, which we are not told.
///
/// A token bucket (GCRA: the one word is the time at which it will be full again), as the handler of a signal takes from it.
#[derive(Debug, Default)]
pub struct Budget(AtomicU64);

impl Budget {
    /// Bytes that may be made at once, of holes that are written.
    pub const BYTES: u64 = 256 << 20;
    /// Bytes that may be made again for each second that passes.
    pub const BYTES_A_SECOND: u64 = 256 << 10;
    /// How many times a byte of a hole counts that is read: there is nothing in it, so only a peer that wants to do harm sends many.
    const READ: u64 = 4;
    /// How many bytes of huge pages count as one: their pool is bounded by itself.
    const HUGE: u64 = 16;
    const NANOS_A_BYTE: u64 = 1_000_000_000 / Self::BYTES_A_SECOND;

    /// Takes what making a page costs at a time in nanoseconds, if it is there. Safe in a signal's handler.
    fn take(&self, page: usize, huge: bool, write: bool, now: u64) -> bool {
        let bytes = page as u64 * if write { 1 } else { Self::READ } / if huge { Self::HUGE } else { 1 };
        let cost = bytes * Self::NANOS_A_BYTE;
        let most = now + Self::BYTES * Self::NANOS_A_BYTE;
        let due = |full: u64| Some(full.max(now) + cost).filter(|&due| due <= most);
        self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, due).is_ok()
    }
}

/// Why a region can't be used any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Lost {
    /// A part of the file is not there any more.
    Shrunk = 1,
    /// More of its holes were touched than the port's [`Budget`] has room for.
    Holes,
    /// It has a hole of a huge page that is too large to be made by a worker.
    HugeHole,
    /// The kernel has no memory for a hole.
    NoMemory,
    /// The memory itself is broken.
    Broken,
}

impl Lost {
    const ALL: [Lost; 5] = [Lost::Shrunk, Lost::Holes, Lost::HugeHole, Lost::NoMemory, Lost::Broken];

    /// What happened, for people.
    pub fn text(self) -> &'static str {
        match self {
            Lost::Shrunk => "a region's file was shrunk",
            Lost::Holes => {
                "more holes in its memory were touched than the switch makes pages for (256 MiB at once, 256 KiB a second; \
                 holes that are read count four times): the peer is to allocate its memory (QEMU: prealloc=on)"
            }
            Lost::HugeHole => {
                "a hole in its huge pages of more than 2 MiB was touched: the peer is to allocate its memory (QEMU: prealloc=on)"
            }
            Lost::NoMemory => "this machine, or the switch's control group, has no memory for a hole in its memory",
            Lost::Broken => "this machine reports an error of the hardware in its memory",
        }
    }
}

/// A file of a peer (or our own memfd), mapped shared and writable.
#[derive(Debug)]
pub struct Region {
    base: NonNull<u8>,
    len: usize,
    slot: usize,
    sealed: bool,
    huge: bool,
    /// What the handler of its faults takes from; none if it is our own.
    _budget: Option<Arc<Budget>>,
}

// SAFETY: a region is an address range that stays mapped until it is dropped; it is read and written through raw
// pointers by whoever vouches for that.
unsafe impl Send for Region {}
// SAFETY: as above; there are no references into it.
unsafe impl Sync for Region {}

impl Region {
    /// Maps `fd`, whose file has to have exactly `size` bytes. It is sealed against shrinking if it can be. Its holes are filled as far
    /// as `budget` goes.
    ///
    /// # Errors
    /// What is wrong with the file, for people.
    pub fn map(fd: &OwnedFd, size: u64, budget: &Arc<Budget>) -> Result<Region, String> {
        Self::map_with(fd, size, MapFlags::empty(), Some(budget))
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
        Ok((Self::map_with(&fd, size, populate, None)?, fd))
    }

    fn map_with(fd: &OwnedFd, size: u64, flags: MapFlags, budget: Option<&Arc<Budget>>) -> Result<Region, String> {
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
        Self::mapping(fd, &file, 0, size, flags, budget)
    }

    /// Maps the `len` bytes at `offset` of `fd`, whose file may have more; and says where they begin in the region, for
    /// only whole pages can be mapped. The rest is as for [`Region::map`].
    ///
    /// # Errors
    /// What is wrong with the file, for people.
    pub fn map_part(fd: &OwnedFd, offset: u64, len: u64, budget: &Arc<Budget>) -> Result<(Region, usize), String> {
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
        let region = Self::mapping(fd, &file, start, end - start, MapFlags::empty(), Some(budget))?;
        Ok((region, (offset - start) as usize))
    }

    fn mapping(
        fd: &OwnedFd,
        file: &File,
        offset: u64,
        len: u64,
        flags: MapFlags,
        budget: Option<&Arc<Budget>>,
    ) -> Result<Region, String> {
        let len = usize::try_from(len).map_err(|_| "the region is too large")?;
        // Huge pages that are not there yet are not reserved for us, but taken by whoever touches them.
        let flags = MapFlags::SHARED | MapFlags::NORESERVE | flags;
        // SAFETY: a new mapping at an address of the kernel's choice touches nothing that exists.
        let base = unsafe { mmap(null_mut(), len, ProtFlags::READ | ProtFlags::WRITE, flags, fd.as_fd(), offset) }
            .map_err(|e| format!("mmap of a region: {e}"))?;
        let slot = guard::register(base as usize, len, file.page as usize, budget).inspect_err(|_| {
            // SAFETY: the mapping just made, which nobody else knows.
            let _ = unsafe { munmap(base, len) };
        })?;
        let base = NonNull::new(base.cast()).expect("mmap without a hint never maps address 0");
        Ok(Region { base, len, slot, sealed: file.sealed, huge: file.huge, _budget: budget.cloned() })
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

    /// Why it can't be used any more, if so. Pages of it then hold what a peer never wrote, though nothing of another port.
    pub fn lost(&self) -> Option<Lost> {
        guard::lost(self.slot)
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
        fcntl_get_seals(fd.as_fd()).map_err(|_| format!("a region {NOT_MEMORY}"))?;
        // Best effort, and before the size is looked at: what is sealed now stays as large as it is found.
        let _ = fcntl_add_seals(fd.as_fd(), SealFlags::SHRINK);
        let sealed = fcntl_get_seals(fd.as_fd()).is_ok_and(|s| s.contains(SealFlags::SHRINK));
        let stat = fstat(fd.as_fd()).map_err(|e| format!("fstat of a region: {e}"))?;
        // tmpfs may give the size of a huge page as the best for I/O, too: only the file system's type tells. Its block is a page.
        let system = fstatfs(fd.as_fd()).map_err(|e| format!("fstatfs of a region: {e}"))?;
        let huge = system.f_type == libc::HUGETLBFS_MAGIC;
        let page = if huge { system.f_bsize as u64 } else { 4096 };
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

    /// Why a region can't be used any more, if so.
    pub fn lost(&self) -> Option<Lost> {
        self.list.iter().find_map(Region::lost)
    }
}

/// The process's SIGBUS handler and the table of regions it protects.
pub mod guard {
    use super::{Budget, FILLED_MAX, Lost};
    use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
    use std::ptr::null_mut;
    use std::sync::atomic::{AtomicBool, AtomicI32, AtomicPtr, AtomicU8, AtomicU32, AtomicUsize, Ordering, fence};
    use std::sync::{Arc, Mutex, OnceLock, PoisonError};

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
        /// Bytes of its file's pages.
        page: AtomicUsize,
        /// What filling its holes takes from; null if they are not seen.
        budget: AtomicPtr<Budget>,
        /// A [`Lost`], or 0.
        lost: AtomicU8,
    }

    static TABLE: [Slot; SLOTS] = [const {
        Slot {
            used: AtomicBool::new(false),
            seq: AtomicU32::new(0),
            start: AtomicUsize::new(0),
            end: AtomicUsize::new(0),
            page: AtomicUsize::new(0),
            budget: AtomicPtr::new(null_mut()),
            lost: AtomicU8::new(0),
        }
    }; SLOTS];

    /// How many slots from the first were ever used.
    static USED: AtomicUsize = AtomicUsize::new(0);
    /// How many regions were lost since the process began.
    static FAULTS: AtomicUsize = AtomicUsize::new(0);

    /// What the handler needs.
    struct Files {
        /// A page for each slot, made when it is taken: what is put in the place of pages that are gone. Mapping it needs no memory, which
        /// there may be none of (`vm.overcommit_memory = 2`), and what one link's peer was sent is not read by another's. Behind its
        /// end, every touch raises SIGBUS.
        pages: OwnedFd,
        /// userfaultfd(2), if this process may have one.
        holes: Option<OwnedFd>,
    }

    static FILES: OnceLock<Result<Files, String>> = OnceLock::new();

    /// How many regions were lost since the process began: a queue that sees this change asks its own regions.
    #[inline(always)]
    pub fn faults() -> usize {
        FAULTS.load(Ordering::Acquire)
    }

    /// Whether touching a hole of a peer's memory is noticed. Without, the kernel makes pages of any number of them on our account.
    pub fn sees_holes() -> bool {
        files().as_ref().is_ok_and(|files| files.holes.is_some())
    }

    pub(super) fn lost(slot: usize) -> Option<Lost> {
        let lost = TABLE[slot].lost.load(Ordering::Acquire);
        Lost::ALL.into_iter().find(|&l| l as u8 == lost)
    }

    fn write(slot: &Slot, start: usize, end: usize) {
        let seq = slot.seq.load(Ordering::Relaxed);
        slot.seq.store(seq.wrapping_add(1), Ordering::Relaxed);
        fence(Ordering::Release);
        slot.start.store(start, Ordering::Relaxed);
        slot.end.store(end, Ordering::Relaxed);
        slot.seq.store(seq.wrapping_add(2), Ordering::Release);
    }

    /// Has the handler answer for a mapping of a file with pages of so many bytes. `budget` has to live until it is unregistered.
    pub(super) fn register(
        start: usize,
        len: usize,
        page: usize,
        budget: Option<&Arc<Budget>>,
    ) -> Result<usize, String> {
        let files = files().as_ref().map_err(Clone::clone)?;
        let i = TABLE
            .iter()
            .position(|s| {
                !s.used.load(Ordering::Relaxed)
                    && s.used.compare_exchange(false, true, Ordering::Acquire, Ordering::Relaxed).is_ok()
            })
            .ok_or("too many regions are mapped")?;
        let slot = &TABLE[i];
        let free = |e: std::io::Error| {
            slot.used.store(false, Ordering::Release);
            format!("a region's memory: {e}")
        };
        // Zeros also for who reads what the one before him was sent.
        rustix::io::pwrite(&files.pages, &[0; PAGE], (i * PAGE) as u64).map_err(|e| free(e.into()))?;
        let holes = budget.zip(files.holes.as_ref());
        if let Some((_, holes)) = holes {
            uffd::register(holes, start, len.next_multiple_of(page)).map_err(free)?;
        }
        slot.budget.store(holes.map_or(null_mut(), |(budget, _)| Arc::as_ptr(budget).cast_mut()), Ordering::Relaxed);
        slot.page.store(page, Ordering::Relaxed);
        slot.lost.store(0, Ordering::Relaxed);
        write(slot, start, start + len.next_multiple_of(PAGE));
        USED.fetch_max(i + 1, Ordering::Release);
        Ok(i)
    }

    pub(super) fn unregister(slot: usize) {
        write(&TABLE[slot], 0, 0);
        TABLE[slot].used.store(false, Ordering::Release);
    }

    /// A mapping that is no peer's, as of a device's registers, and known to the handler: should it be taken away, it becomes zeros.
    pub struct Mapping(usize);

    impl Mapping {
        /// Has the handler answer for what is mapped there, until this is dropped.
        ///
        /// # Errors
        /// There are too many of them, or no memory.
        pub fn new(range: std::ops::Range<usize>) -> Result<Mapping, String> {
            register(range.start, range.len(), PAGE, None).map(Mapping)
        }
    }

    impl Drop for Mapping {
        fn drop(&mut self) {
            unregister(self.0);
        }
    }

    fn files() -> &'static Result<Files, String> {
        FILES.get_or_init(|| {
            use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
            let pages = memfd_create("faults", MemfdFlags::CLOEXEC)
                .and_then(|fd| ftruncate(&fd, (SLOTS * PAGE) as u64).map(|()| fd))
                .map_err(|e| format!("memory for faults: {e}"))?;
            install();
            Ok(Files { pages, holes: uffd::open() })
        })
    }

    fn install() {
        let guard = OTHER.lock().unwrap_or_else(PoisonError::into_inner);
        // SAFETY: `on_sigbus` has the signature that SA_SIGINFO promises and calls only what is async-signal-safe; an
        // all-zero sigaction is a valid one (empty mask).
        unsafe {
            let mut action: libc::sigaction = std::mem::zeroed();
            action.sa_sigaction = on_sigbus as extern "C" fn(_, _, _) as usize;
            action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
            __sigaction(libc::SIGBUS, &action, null_mut());
        }
        INSTALLED.store(true, Ordering::Release);
        drop(guard);
    }

    // glibc's second name of `sigaction`.
    unsafe extern "C" {
        fn __sigaction(signal: i32, action: *const libc::sigaction, old: *mut libc::sigaction) -> i32;
    }

    /// Whether the process has our handler.
    static INSTALLED: AtomicBool = AtomicBool::new(false);
    /// What others wanted done with SIGBUS since then: an address and flags, as in a `sigaction`.
    static OTHER: Mutex<(usize, i32)> = Mutex::new((libc::SIG_DFL, 0));
    /// The same for the handler, if it is a function without arguments of its own; and the thread that set it. Written with `OTHER` locked.
    static OTHER_HANDLER: AtomicUsize = AtomicUsize::new(0);
    static OTHER_THREAD: AtomicI32 = AtomicI32::new(0);

    /// Stands in the place of libc's for the whole process. DPDK sets a SIGBUS handler of its own whenever it takes huge pages, which
    /// jumps to the stack of the thread that does that, whoever was interrupted. With this, ours stays, and passes on to
    /// another only what happened to the thread that set it, and not in a region.
    ///
    /// # Safety
    /// As for sigaction(2).
    #[unsafe(no_mangle)]
    pub unsafe extern "C" fn sigaction(signal: i32, action: *const libc::sigaction, old: *mut libc::sigaction) -> i32 {
        if signal != libc::SIGBUS || !INSTALLED.load(Ordering::Acquire) {
            // SAFETY: the caller vouches for it.
            return unsafe { __sigaction(signal, action, old) };
        }
        let mut other = OTHER.lock().unwrap_or_else(PoisonError::into_inner);
        // SAFETY: the caller vouches for what it points to, if that is not null; all zeros is a valid one.
        unsafe {
            if !old.is_null() {
                *old = std::mem::zeroed();
                ((*old).sa_sigaction, (*old).sa_flags) = *other;
            }
            if let Some(action) = action.as_ref() {
                *other = (action.sa_sigaction, action.sa_flags);
                let function = action.sa_flags & libc::SA_SIGINFO == 0
                    && ![libc::SIG_DFL, libc::SIG_IGN].contains(&action.sa_sigaction);
                OTHER_THREAD.store(libc::gettid(), Ordering::Relaxed);
                OTHER_HANDLER.store(if function { action.sa_sigaction } else { 0 }, Ordering::Release);
            }
        }
        0
    }

    /// Calls the handler that somebody else set, if it was this thread.
    fn pass_on(signal: i32) -> bool {
        let handler = OTHER_HANDLER.load(Ordering::Acquire);
        // SAFETY: the call takes nothing.
        if handler == 0 || OTHER_THREAD.load(Ordering::Relaxed) != unsafe { libc::gettid() } {
            return false;
        }
        // SAFETY: whoever set it, without SA_SIGINFO, vouched for a function of this signature; it may jump to where it likes.
        unsafe { std::mem::transmute::<usize, extern "C-unwind" fn(i32)>(handler)(signal) };
        true
    }

    /// The slot of the region that `addr` is in, and its bounds.
    fn find(addr: usize) -> Option<(usize, usize, usize)> {
        let used = USED.load(Ordering::Acquire);
        TABLE[..used].iter().enumerate().find_map(|(i, slot)| {
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
            (start..end).contains(&addr).then_some((i, start, end))
        })
    }

    /// Has the thread that faulted at `addr`, by writing or by reading, go on. Whether there is a region.
    fn mend(addr: usize, write: bool, broken: bool) -> bool {
        let (Some((i, start, end)), Some(Ok(files))) = (find(addr), FILES.get()) else { return false };
        let slot = &TABLE[i];
        let page = slot.page.load(Ordering::Relaxed);
        let lost = if broken { Err(Lost::Broken) } else { fill(slot, addr & !(page - 1), page, write, files) };
        match lost {
            Ok(()) => true,
            Err(lost) => replace(i, addr & !(PAGE - 1), page, (start, end), lost, files),
        }
    }

    /// Has the kernel make the page at `at` if it is a hole.
    fn fill(slot: &Slot, at: usize, page: usize, write: bool, files: &Files) -> Result<(), Lost> {
        // SAFETY: the region, which the faulting thread holds, holds the budget.
        let budget = unsafe { slot.budget.load(Ordering::Relaxed).as_ref() };
        let (Some(budget), Some(holes)) = (budget, &files.holes) else { return Err(Lost::Shrunk) };
        if slot.lost.load(Ordering::Relaxed) != 0 {
            return Err(Lost::Shrunk);
        }
        if page as u64 > FILLED_MAX {
            return Err(Lost::HugeHole);
        }
        let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        // SAFETY: the time is written to a valid place; the call is async-signal-safe.
        unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &mut now) };
        if !budget.take(page, page > PAGE, write, now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64) {
            return Err(Lost::Holes);
        }
        loop {
            match uffd::fill(holes, at, page, page > PAGE) {
                // Another thread was faster.
                Ok(()) | Err(libc::EEXIST) => return Ok(()),
                Err(libc::EAGAIN) => {}
                Err(libc::ENOMEM | libc::ENOSPC) => return Err(Lost::NoMemory),
                // No hole, but behind the file's end.
                Err(_) => return Err(Lost::Shrunk),
            }
        }
    }

    /// Puts our own page in the place of the one at `at`. Whether that was possible.
    fn replace(i: usize, at: usize, page: usize, (start, end): (usize, usize), lost: Lost, files: &Files) -> bool {
        // First: another thread may read it as soon as it is there, and is not to take it for the peer's.
        let first = TABLE[i].lost.compare_exchange(0, lost as u8, Ordering::AcqRel, Ordering::Relaxed).is_ok();
        if first {
            FAULTS.fetch_add(1, Ordering::Release);
        }
        let map = |at: usize, len: usize, offset: usize| {
            // SAFETY: the range is within one of our mappings, which stays ours: the faulting thread holds its region. A page at the
            // same address keeps every pointer into it valid. mmap is a plain system call, safe in a handler.
            let new = unsafe {
                libc::mmap(
                    at as *mut libc::c_void,
                    len,
                    libc::PROT_READ | libc::PROT_WRITE,
                    libc::MAP_SHARED | libc::MAP_FIXED,
                    files.pages.as_raw_fd(),
                    offset as i64,
                )
            };
            new != libc::MAP_FAILED
        };
        let own = || map(at, PAGE, i * PAGE);
        // Nothing: every touch of it comes here again.
        let nothing = |start, end| map(start, end - start, SLOTS * PAGE);
        let around = at & !(page - 1);
        // A huge page can only be replaced whole; and a region in too many pieces is one again.
        own() || nothing(around, around + page) && own() || nothing(start, end) && own()
    }

    extern "C" fn on_sigbus(signal: i32, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
        /// In a page fault's error code: it was a write.
        const WRITE: i64 = 1 << 1;
        // SAFETY: the kernel hands a valid siginfo and context to a SA_SIGINFO handler; errno is this thread's; the calls are
        // async-signal-safe.
        unsafe {
            let errno = *libc::__errno_location();
            let code = (*info).si_code;
            let from_kernel = code > 0;
            let error = (*context.cast::<libc::ucontext_t>()).uc_mcontext.gregs[libc::REG_ERR as usize];
            let mended = from_kernel
                && (mend((*info).si_addr() as usize, error & WRITE != 0, code == libc::BUS_MCEERR_AR)
                    || pass_on(signal));
            if !mended {
                // Not ours: the access is tried again with the default action, or the signal somebody sent is raised again.
                let mut action: libc::sigaction = std::mem::zeroed();
                action.sa_sigaction = libc::SIG_DFL;
                __sigaction(signal, &action, null_mut());
                if !from_kernel {
                    libc::raise(signal);
                }
            }
            *libc::__errno_location() = errno;
        }
    }

    /// userfaultfd(2): SIGBUS for who touches a hole of a shared mapping. For this process's own code only, not for what the kernel
    /// reads and writes for it, so that no privilege is needed.
    mod uffd {
        use super::{AsRawFd, FromRawFd, OwnedFd};

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
            ioctl(fd, UFFDIO_REGISTER, [start as u64, len as u64, MODE_MISSING, 0])
                .map_err(std::io::Error::from_raw_os_error)
        }

        /// Makes a page of zeros of the hole at `at`. Why not: an error's number.
        pub fn fill(fd: &OwnedFd, at: usize, page: usize, huge: bool) -> Result<(), i32> {
            if huge {
                ioctl(fd, UFFDIO_COPY, [at as u64, ZEROS.as_ptr() as u64, page as u64, 0, 0])
            } else {
                ioctl(fd, UFFDIO_ZEROPAGE, [at as u64, page as u64, 0, 0])
            }
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
    use rustix::fs::{FallocateFlags, MemfdFlags, fallocate, ftruncate, memfd_create};

    fn memfd(size: u64, flags: MemfdFlags) -> OwnedFd {
        let fd = memfd_create("test", MemfdFlags::CLOEXEC | flags).unwrap();
        ftruncate(&fd, size).unwrap();
        fd
    }

    fn map(fd: &OwnedFd, size: u64) -> Result<Region, String> {
        Region::map(fd, size, &Arc::default())
    }

    /// A memfd of so many bytes, mapped.
    fn region(size: u64) -> Region {
        map(&memfd(size, MemfdFlags::empty()), size).unwrap()
    }

    /// Bytes of a file that are there.
    fn present(fd: &OwnedFd) -> u64 {
        fstat(fd).unwrap().st_blocks as u64 * 512
    }

    /// Reads, or writes, a byte of each page until the region is lost. How many pages that were.
    fn touch(region: &Region, write: bool) -> usize {
        let pages = region.len() / 4096;
        (0..pages)
            .find(|page| {
                // SAFETY: within the region, which is alive; the handler answers for holes.
                unsafe {
                    let p = region.base().as_ptr().add(page * 4096);
                    if write { p.write_volatile(1) } else { assert_eq!(p.read_volatile(), 0) }
                }
                region.lost().is_some()
            })
            .unwrap_or(pages)
    }

    #[test]
    fn bounds_are_checked_in_64_bits() {
        let regions = Regions::new(vec![region(8192)]);
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
        let mut region = map(&fd, 4096).unwrap();
        region.write(4093, &[1, 2, 3]);
        region.write(4094, &[9; 3]);
        region.write(usize::MAX, &[9; 3]);
        let mut end = [0; 4];
        rustix::io::pread(&fd, &mut end, 4092).unwrap();
        assert_eq!(end, [0, 1, 2, 3]);
    }

    #[test]
    fn size_must_be_the_files() {
        let of = |file, size| map(&memfd(file, MemfdFlags::empty()), size);
        assert!(of(8192, 8193).unwrap_err().contains("8192"));
        assert!(of(8192, 4096).is_err());
        assert!(of(0, 0).is_err());
        assert!(of(REGION_MAX + 4096, REGION_MAX + 4096).is_err());
        assert!(of(ORDINARY_MAX + 4096, ORDINARY_MAX + 4096).unwrap_err().contains("ordinary memory"));
        let (_, pipe) = rustix::pipe::pipe().unwrap();
        assert!(map(&pipe, 4096).is_err());
    }

    #[test]
    fn only_memory_is_mapped() {
        let proc = std::fs::File::open("/proc/self/mem").unwrap();
        assert!(map(&proc.into(), 4096).unwrap_err().contains("not a memfd"));
    }

    /// tmpfs that prefers huge pages says a block of 2 MiB, as hugetlbfs does.
    #[test]
    fn only_hugetlbfs_has_huge_pages() {
        let dir = tempfile::tempdir().unwrap();
        let path = std::ffi::CString::new(dir.path().to_str().unwrap()).unwrap();
        // On a thread of its own, whose mounts nobody else sees.
        std::thread::scope(|s| {
            s.spawn(|| {
                // SAFETY: the calls take constant strings and one that lives as long as they do.
                let mounted = unsafe {
                    libc::unshare(libc::CLONE_NEWNS) == 0
                        && libc::mount(
                            null_mut(),
                            c"/".as_ptr(),
                            null_mut(),
                            libc::MS_REC | libc::MS_PRIVATE,
                            null_mut(),
                        ) == 0
                        && libc::mount(
                            c"tmpfs".as_ptr(),
                            path.as_ptr(),
                            c"tmpfs".as_ptr(),
                            0,
                            c"huge=always".as_ptr().cast(),
                        ) == 0
                };
                if !mounted {
                    return eprintln!("SKIPPED: needs to mount a tmpfs with huge pages");
                }
                let file = std::fs::File::create_new(dir.path().join("file")).unwrap();
                file.set_len(ORDINARY_MAX + 4096).unwrap();
                let fd = OwnedFd::from(file);
                assert_eq!(fstat(&fd).unwrap().st_blksize, 2 << 20, "the test is of no use on this kernel");
                assert!(map(&fd, ORDINARY_MAX + 4096).unwrap_err().contains("ordinary memory"));
                ftruncate(&fd, 8192).unwrap();
                assert!(!map(&fd, 8192).unwrap().huge());
            });
        });
    }

    #[test]
    fn a_file_is_sealed_where_it_can_be() {
        let fd = memfd(4096, MemfdFlags::ALLOW_SEALING);
        assert!(map(&fd, 4096).unwrap().sealed());
        assert!(ftruncate(&fd, 0).is_err());
        assert!(!region(4096).sealed());
    }

    #[test]
    fn only_pages_that_are_gone_are_replaced() {
        let fd = memfd(4 * 4096, MemfdFlags::empty());
        let other = region(4096);
        let region = map(&fd, 4 * 4096).unwrap();
        let p = region.base.as_ptr();
        // SAFETY: within the region, which is alive; the handler answers for pages that are gone.
        unsafe {
            p.write_volatile(7);
            p.add(8192).write_volatile(9);
            assert!(region.lost().is_none());
            ftruncate(&fd, 4096).unwrap();
            assert_eq!(p.read_volatile(), 7);
            let before = guard::faults();
            assert_eq!(p.add(8192).read_volatile(), 0);
            assert_eq!(p.read_volatile(), 7);
            p.add(5000).write_volatile(1);
            p.add(3 * 4096).write_volatile(1);
            assert!(guard::faults() > before);
        }
        assert_eq!(region.lost(), Some(Lost::Shrunk));
        assert!(other.lost().is_none());
    }

    /// As with `vm.overcommit_memory = 2`, but for one process.
    #[test]
    fn pages_are_replaced_where_no_memory_can_be_had() {
        const CHILD: &str = "DRAY_TEST_NO_MEMORY";
        if std::env::var_os(CHILD).is_none() {
            let name = "mem::tests::pages_are_replaced_where_no_memory_can_be_had";
            let mut child = std::process::Command::new(std::env::current_exe().unwrap());
            return assert!(child.args(["--exact", name]).env(CHILD, "1").output().unwrap().status.success());
        }
        let fd = memfd(4096, MemfdFlags::empty());
        let region = map(&fd, 4096).unwrap();
        ftruncate(&fd, 0).unwrap();
        // SAFETY: the limits are valid; within the region, which is alive.
        unsafe {
            let mut old = std::mem::zeroed();
            libc::getrlimit(libc::RLIMIT_DATA, &mut old);
            libc::setrlimit(libc::RLIMIT_DATA, &libc::rlimit { rlim_cur: 4096, ..old });
            region.base.as_ptr().write_volatile(1);
            libc::setrlimit(libc::RLIMIT_DATA, &old);
        }
        assert_eq!(region.lost(), Some(Lost::Shrunk));
    }

    /// As DPDK's does while it takes huge pages.
    #[test]
    fn another_handler_gets_its_own_threads_faults_only() {
        static PAGE: AtomicU64 = AtomicU64::new(0);
        /// Makes the access succeed.
        extern "C" fn theirs(_signal: i32) {
            // SAFETY: nothing but the page of the test is replaced.
            unsafe {
                let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED;
                libc::mmap(PAGE.load(Ordering::Relaxed) as *mut _, 4096, 3, flags, -1, 0);
            }
        }
        let fd = memfd(4096, MemfdFlags::empty());
        let region = map(&fd, 4096).unwrap();
        ftruncate(&fd, 0).unwrap();
        // SAFETY: valid actions; mappings of the test, of which nobody else knows.
        unsafe {
            let mut action: libc::sigaction = std::mem::zeroed();
            let mut old: libc::sigaction = std::mem::zeroed();
            action.sa_sigaction = theirs as extern "C" fn(i32) as usize;
            assert_eq!(libc::sigaction(libc::SIGBUS, &action, &mut old), 0);
            assert_eq!(old.sa_sigaction, libc::SIG_DFL, "it sees ours");
            // A region's fault is ours whatever the thread.
            region.base().as_ptr().write_volatile(1);
            assert_eq!(region.lost(), Some(Lost::Shrunk));
            let flags = MapFlags::SHARED;
            let page = mmap(null_mut(), 4096, ProtFlags::READ | ProtFlags::WRITE, flags, fd.as_fd(), 0).unwrap();
            PAGE.store(page as u64, Ordering::Relaxed);
            page.cast::<u8>().write_volatile(7);
            assert_eq!(page.cast::<u8>().read_volatile(), 7, "theirs was not called");
            libc::sigaction(libc::SIGBUS, &old, &mut action);
            assert_eq!(action.sa_sigaction, theirs as extern "C" fn(i32) as usize);
            munmap(page, 4096).unwrap();
        }
    }

    #[test]
    fn a_hole_that_is_written_is_the_peers_page() {
        let fd = memfd(3 * 4096, MemfdFlags::empty());
        let mut region = map(&fd, 3 * 4096).unwrap();
        for byte in [1, 2] {
            region.write(4096, &[byte]);
            let mut found = [0];
            rustix::io::pread(&fd, &mut found, 4096).unwrap();
            assert_eq!(found, [byte]);
            assert_eq!(present(&fd), 4096);
            // Once more.
            fallocate(&fd, FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE, 4096, 4096).unwrap();
            assert_eq!(present(&fd), 0);
        }
        assert!(region.lost().is_none());
    }

    #[test]
    fn huge_pages_have_holes_and_ends_as_well() {
        const HUGE: u64 = 2 << 20;
        let free = std::fs::read_to_string("/sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages");
        if free.ok().and_then(|n| n.trim().parse::<u64>().ok()).is_none_or(|n| n < 2) {
            return eprintln!("SKIPPED: needs two free huge pages");
        }
        let fd = memfd(2 * HUGE, MemfdFlags::HUGETLB);
        let mut region = map(&fd, 2 * HUGE).unwrap();
        assert!(region.huge() && present(&fd) == 0);
        region.write(HUGE as usize + 5000, &[1]);
        assert_eq!((present(&fd), region.lost()), (HUGE, None));
        region.write(5000, &[1]);
        ftruncate(&fd, HUGE).unwrap();
        region.write(HUGE as usize + 5000, &[1]);
        region.write(2 * HUGE as usize - 1, &[1]);
        assert_eq!(region.lost(), Some(Lost::Shrunk));
        // SAFETY: within the region, which is alive.
        assert_eq!(unsafe { region.base().add(5000).read_volatile() }, 1);
    }

    #[test]
    fn a_port_has_a_budget_for_holes_whatever_its_peers_bring() {
        assert!(guard::sees_holes(), "this kernel has no userfaultfd");
        let budget = Arc::new(Budget::default());
        // A quarter, for they are read; what is given back while the test runs is less than a sixteenth.
        let most = Budget::BYTES / Budget::READ;
        let mut made = 0;
        let files: Vec<OwnedFd> = (0..4).map(|_| memfd(1 << 28, MemfdFlags::empty())).collect();
        for fd in &files {
            let region = Region::map(fd, 1 << 28, &budget).unwrap();
            let pages = touch(&region, false);
            assert!(pages < region.len() / 4096, "all of it was made");
            assert_eq!(region.lost(), Some(Lost::Holes));
            made += present(fd);
        }
        assert!((most..most + most / 16).contains(&made), "{made} bytes were made");
        // Another port's is its own.
        let fd = memfd(Budget::BYTES, MemfdFlags::empty());
        let region = map(&fd, Budget::BYTES).unwrap();
        assert_eq!(touch(&region, true), region.len() / 4096);
        assert_eq!(present(&fd), Budget::BYTES);
    }

    #[test]
    fn a_budget_fills_again_with_time() {
        let budget = Budget::default();
        let now = 1 << 40;
        assert!((0..Budget::BYTES >> 21).all(|_| budget.take(2 << 20, false, true, now)));
        assert!(!budget.take(4096, false, true, now));
        let second = now + 1_000_000_000;
        assert!((0..Budget::BYTES_A_SECOND >> 12).all(|_| budget.take(4096, false, true, second)));
        assert!(!budget.take(4096, false, true, second));
        assert!((0..16).all(|_| budget.take(4096, true, false, second + 1_000_000_000)));
    }
}
