//! The memory that a front end shares: its regions, where addresses are in them, and the log of written pages.
#![allow(unsafe_code)]

use crate::mem::Region;
use std::os::fd::OwnedFd;
use std::ptr::NonNull;
use std::sync::Arc;

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
}

impl MappedRegion {
    /// Maps a region.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn map(spec: RegionSpec) -> Result<MappedRegion, String> {
        let _ = (spec.gpa, spec.len, spec.uva, spec.offset, spec.fd);
        todo!()
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
    pub fn new(regions: Vec<Arc<MappedRegion>>) -> Result<Memory, String> {
        Ok(Memory { regions })
    }

    /// The regions.
    pub fn regions(&self) -> &[Arc<MappedRegion>] {
        &self.regions
    }

    /// Where the `len` bytes at the front end's own address `addr` are, if all are in one region.
    pub fn uva(&self, addr: u64, len: u64) -> Option<NonNull<u8>> {
        let _ = (addr, len);
        todo!()
    }
}

/// The log of written pages, a bit for each 4 KiB of guest-physical memory.
#[derive(Debug)]
pub(super) struct DirtyLog {}

impl DirtyLog {
    /// Maps the log: `size` bytes at `offset` of `fd`.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn map(fd: OwnedFd, offset: u64, size: u64) -> Result<DirtyLog, String> {
        let _ = (fd, offset, size);
        todo!()
    }
}
