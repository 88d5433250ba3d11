//! The memory that a front end shares: its regions, where addresses are in them, and the log of written pages.
#![allow(unsafe_code)]

use crate::mem::{Budget, Lost, REGION_MAX, Region};
use std::os::fd::OwnedFd;
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use vhost::vhost_user::message::VhostUserMemoryRegion;

/// Regions of a connection.
pub(super) const REGIONS: usize = 64;

/// All memory of a connection, bytes.
const MEMORY_MAX: u64 = 1 << 42;

/// A page of the dirty log, base-2 logarithm of its bytes.
const LOG_PAGE: u32 = 12;

/// A region as its message describes it.
pub(super) struct RegionSpec {
    /// Guest-physical address, by which descriptors name buffers.
    pub gpa: u64,
    /// Bytes.
    pub len: u64,
    /// The front end's own address, by which its messages name rings.
    pub uva: u64,
    /// Where it begins in the file.
    pub offset: u64,
    pub fd: OwnedFd,
}

/// A region, mapped.
#[derive(Debug)]
pub(super) struct MappedRegion {
    pub gpa: u64,
    pub len: u64,
    pub uva: u64,
    pub region: Region,
    base: NonNull<u8>,
}

// SAFETY: `base` is an address in `region`, which stays mapped as long as this; it is only used through raw pointers.
unsafe impl Send for MappedRegion {}
// SAFETY: as above.
unsafe impl Sync for MappedRegion {}

impl MappedRegion {
    /// Maps a region, whose holes are filled as far as `budget` goes.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn map(spec: RegionSpec, budget: &Arc<Budget>) -> Result<MappedRegion, String> {
        let RegionSpec { gpa, len, uva, offset, fd } = spec;
        if gpa.checked_add(len).is_none() || uva.checked_add(len).is_none() {
            return Err(format!("a region of {len} bytes at {gpa:#x} ({uva:#x}) goes beyond the end of all addresses"));
        }
        let (region, skip) = Region::map_part(&fd, offset, len, budget)?;
        // SAFETY: `map_part` mapped `skip + len` bytes.
        let base = unsafe { region.base().add(skip) };
        Ok(MappedRegion { gpa, len, uva, region, base })
    }

    /// Whether it is the region that a message names.
    pub fn is(&self, region: &VhostUserMemoryRegion) -> bool {
        (self.gpa, self.len, self.uva) == (region.guest_phys_addr, region.memory_size, region.user_addr)
    }

    /// Where guest-physical addresses are.
    fn span(&self) -> Span {
        Span { gpa: self.gpa, len: self.len, base: self.base }
    }
}

/// A piece of guest-physical memory.
#[derive(Clone, Copy)]
pub(super) struct Span {
    gpa: u64,
    len: u64,
    base: NonNull<u8>,
}

impl Span {
    /// No memory.
    pub const EMPTY: Span = Span { gpa: 0, len: 0, base: NonNull::dangling() };

    /// Where the `len` bytes at guest-physical address `gpa` are, if all are in this piece.
    #[inline(always)]
    pub fn at(&self, gpa: u64, len: u32) -> Option<NonNull<u8>> {
        // An address below wraps to one far beyond.
        let offset = gpa.wrapping_sub(self.gpa);
        if offset > self.len || u64::from(len) > self.len - offset {
            return None;
        }
        // SAFETY: `offset` is at most the piece's length, so the address is in or one past its mapping.
        Some(unsafe { self.base.add(offset as usize) })
    }
}

/// All regions of a connection at one time. A change makes a new one; regions that stay are shared.
#[derive(Debug, Default)]
pub(super) struct Memory {
    regions: Vec<Arc<MappedRegion>>,
}

impl Memory {
    /// The memory of `regions`.
    ///
    /// # Errors
    /// If there are too many, they overlap or are too large together.
    pub fn new(mut regions: Vec<Arc<MappedRegion>>) -> Result<Memory, String> {
        if regions.len() > REGIONS {
            return Err(format!("{} regions (at most {REGIONS} are taken)", regions.len()));
        }
        let bytes = |huge| regions.iter().filter(|r| r.region.huge() == huge).map(|r| u128::from(r.len)).sum::<u128>();
        let (huge, ordinary) = (bytes(true), bytes(false));
        if huge > MEMORY_MAX.into() || ordinary > REGION_MAX.into() {
            return Err(format!(
                "{huge} bytes of huge pages and {ordinary} of ordinary memory (at most {MEMORY_MAX} and {REGION_MAX})"
            ));
        }
        regions.sort_by_key(|r| r.gpa);
        if let Some(pair) = regions.windows(2).find(|pair| pair[0].gpa + pair[0].len > pair[1].gpa) {
            return Err(format!("the regions at {:#x} and {:#x} overlap", pair[0].gpa, pair[1].gpa));
        }
        Ok(Memory { regions })
    }

    /// The regions, by their guest-physical addresses.
    pub fn regions(&self) -> &[Arc<MappedRegion>] {
        &self.regions
    }

    /// The region that guest-physical address `gpa` is in.
    #[cold]
    pub fn span(&self, gpa: u64) -> Option<Span> {
        self.regions.iter().map(|r| r.span()).find(|span| span.at(gpa, 1).is_some())
    }

    /// Where the `len` bytes at the front end's own address `addr` are, if all are in one region; and their guest-physical address.
    pub fn uva(&self, addr: u64, len: u64) -> Option<(NonNull<u8>, u64)> {
        self.regions.iter().find_map(|r| {
            let offset = addr.checked_sub(r.uva)?;
            if offset > r.len || len > r.len - offset {
                return None;
            }
            // SAFETY: as in `Span::at`.
            Some((unsafe { r.base.add(offset as usize) }, r.gpa + offset))
        })
    }

    /// Why a region can't be used any more, if so.
    pub fn lost(&self) -> Option<Lost> {
        self.regions.iter().find_map(|r| r.region.lost())
    }
}

/// The log of written pages, a bit for each 4 KiB of guest-physical memory.
#[derive(Debug)]
pub(super) struct DirtyLog {
    region: Region,
    base: NonNull<u8>,
    len: u64,
}

// SAFETY: as for `MappedRegion`; it is only used through atomics.
unsafe impl Send for DirtyLog {}
// SAFETY: as above.
unsafe impl Sync for DirtyLog {}

impl DirtyLog {
    /// Maps the log: `size` bytes at `offset` of `fd`.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn map(fd: OwnedFd, offset: u64, size: u64, budget: &Arc<Budget>) -> Result<DirtyLog, String> {
        let (region, skip) = Region::map_part(&fd, offset, size, budget).map_err(|e| format!("the dirty log: {e}"))?;
        // SAFETY: `map_part` mapped `skip + size` bytes.
        let base = unsafe { region.base().add(skip) };
        Ok(DirtyLog { region, base, len: size })
    }

    /// The `len` bytes at guest-physical address `gpa` were written. What the log doesn't cover is the front end's loss.
    #[cold]
    pub fn mark(&self, gpa: u64, len: u64) {
        let Some(last) = len.checked_sub(1).and_then(|n| gpa.checked_add(n)) else { return };
        for page in gpa >> LOG_PAGE..=last >> LOG_PAGE {
            if page / 8 >= self.len {
                return;
            }
            // SAFETY: the byte is within the log, which stays mapped as long as this; bytes need no alignment.
            let byte = unsafe { AtomicU8::from_ptr(self.base.as_ptr().add((page / 8) as usize)) };
            // The bit is set after the page was written: a full fence, as every atomic change on this CPU.
            byte.fetch_or(1 << (page % 8), Ordering::SeqCst);
        }
    }

    /// Why it can't be used any more, if so.
    pub fn lost(&self) -> Option<Lost> {
        self.region.lost()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fs::{MemfdFlags, ftruncate, memfd_create};

    fn memfd(size: u64) -> OwnedFd {
        let fd = memfd_create("test", MemfdFlags::CLOEXEC).unwrap();
        ftruncate(&fd, size).unwrap();
        fd
    }

    fn region(gpa: u64, len: u64, uva: u64, offset: u64) -> Result<Arc<MappedRegion>, String> {
        MappedRegion::map(RegionSpec { gpa, len, uva, offset, fd: memfd(0x10_000) }, &Arc::default()).map(Arc::new)
    }

    #[test]
    fn addresses_are_found_in_their_region_and_nowhere_else() {
        let a = region(0x1000, 0x2000, 0x7f00_0000_0000, 0x1010).unwrap();
        let b = region(0x3000, 0x1000, 0x7e00_0000_0000, 0).unwrap();
        let memory = Memory::new(vec![b, a]).unwrap();
        let span = memory.span(0x2fff).unwrap();
        assert!(span.at(0x1000, 0x2000).is_some());
        assert!(span.at(0x2fff, 1).is_some());
        // Across the border to a region that goes on at the next address, and beyond all addresses (CVE-2018-1059).
        assert!(span.at(0x2fff, 2).is_none());
        assert!(span.at(0xfff, 1).is_none());
        assert!(span.at(u64::MAX, 2).is_none());
        assert!(span.at(0x1000, u32::MAX).is_none());
        assert!(memory.span(0x4000).is_none());
        let (ptr, gpa) = memory.uva(0x7f00_0000_0010, 0x1ff0).unwrap();
        assert_eq!((gpa, ptr), (0x1010, span.at(0x1010, 1).unwrap()));
        assert!(memory.uva(0x7f00_0000_0010, 0x1ff1).is_none());
        assert!(memory.uva(0x7eff_ffff_ffff, 1).is_none());
        assert!(memory.uva(0x7f00_0000_0000, u64::MAX).is_none());
    }

    #[test]
    fn regions_that_cannot_be_are_refused() {
        assert!(region(0, 0x10_001, 0, 0).unwrap_err().contains("its file, which has 65536"));
        assert!(region(0, 0x10_000, 0, 1).unwrap_err().contains("its file, which has 65536"));
        assert!(region(0, 0x1000, 0, u64::MAX).unwrap_err().contains("its file"));
        assert!(region(0, 0, 0, 0).unwrap_err().contains("0 bytes"));
        assert!(region(u64::MAX - 1, 0x1000, 0, 0).unwrap_err().contains("beyond"));
        assert!(region(0, 0x1000, u64::MAX - 1, 0).unwrap_err().contains("beyond"));
        let overlapping = vec![region(0, 0x2000, 0, 0).unwrap(), region(0x1fff, 1, 0, 0).unwrap()];
        assert!(Memory::new(overlapping).unwrap_err().contains("overlap"));
        let many = (0..65).map(|n| region(n << 16, 1, n << 16, 0).unwrap()).collect();
        assert!(Memory::new(many).unwrap_err().contains("65 regions"));
    }

    #[test]
    fn the_log_has_a_bit_for_every_page_that_is_touched() {
        let fd = memfd(0x2000);
        let copy = fd.try_clone().unwrap();
        let log = DirtyLog::map(fd, 0x1001, 16, &Arc::default()).unwrap();
        log.mark(0x3fff, 2);
        log.mark(0x7f000, 1);
        log.mark(0x7ffff, 100_000);
        log.mark(0x1000, 0);
        log.mark(u64::MAX, 2);
        let mut bytes = [0; 0x2000];
        rustix::io::pread(&copy, &mut bytes, 0).unwrap();
        let mut expected = [0; 16];
        (expected[0], expected[15]) = (0b1_1000, 0x80);
        assert_eq!(bytes[0x1001..0x1011], expected);
        assert!(bytes[..0x1001].iter().chain(&bytes[0x1011..]).all(|b| *b == 0));
    }
}
