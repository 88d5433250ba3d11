//! A peer's memory, mapped; and the addresses in it.

use super::{Budget, Lost, ORDINARY_MAX, REGION_MAX, guard};
use crate::quarantine::NOT_MEMORY;
use rustix::fs::{SealFlags, fcntl_add_seals, fcntl_get_seals, fstat, fstatfs};
use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap, mmap_anonymous, munmap};
use std::os::fd::{AsFd, OwnedFd};
use std::ptr::{NonNull, null_mut};
use std::sync::Arc;

/// A file of a peer (or our own memfd), mapped shared and writable; or memory that no other process has.
#[derive(Debug)]
pub struct Region {
    base: NonNull<u8>,
    len: usize,
    /// Its place in the handler's table; none if nobody can take it away.
    slot: Option<usize>,
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

    /// Memory of `size` bytes for the kernel and us alone, of which pages are made when they are touched.
    ///
    /// # Errors
    /// What the kernel refused, for people.
    pub fn private(size: u64) -> Result<Region, String> {
        let len = usize::try_from(size).map_err(|_| "the region is too large")?;
        let failed = |e: rustix::io::Errno| format!("{size} bytes of memory: {e}");
        // SAFETY: a new mapping at an address of the kernel's choice touches nothing that exists.
        let base = unsafe { mmap_anonymous(null_mut(), len, ProtFlags::READ | ProtFlags::WRITE, MapFlags::PRIVATE) }
            .map_err(failed)?;
        // A process that is forked would make the next write of each page a copy.
        // SAFETY: the advice changes what a forked process has, which does not look there.
        let _ = unsafe { madvise(base, len, Advice::LinuxDontFork) };
        let base = NonNull::new(base.cast()).expect("mmap without a hint never maps address 0");
        Ok(Region { base, len, slot: None, sealed: true, huge: false, _budget: None })
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
        Ok(Region { base, len, slot: Some(slot), sealed: file.sealed, huge: file.huge, _budget: budget.cloned() })
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
        self.slot.and_then(guard::lost)
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
        if let Some(slot) = self.slot {
            guard::unregister(slot);
        }
        // SAFETY: the mapping made in `mapping` or `private`; whoever uses its addresses holds this region (in an `Arc`).
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
