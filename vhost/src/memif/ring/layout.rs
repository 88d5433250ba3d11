//! How a client lays out its memory.
#![allow(unsafe_code)]

use super::{DESC, HEADER, Ring};
use crate::mem::Regions;
use std::ptr::NonNull;

/// The buffers of a client's ring: one per descriptor, at equal distances in region 0.
#[derive(Clone, Copy)]
pub(crate) struct Buffers {
    base: NonNull<u8>,
    pub(super) offset: u32,
    /// Bytes from one buffer to the next.
    pub(super) stride: u32,
    /// Bytes of a buffer.
    pub(super) size: u32,
}

// SAFETY: as for `Ring`.
unsafe impl Send for Buffers {}

impl Buffers {
    #[inline(always)]
    pub(super) fn at(&self, slot: u16) -> NonNull<u8> {
        // SAFETY: `slot` is a masked index; `Layout::client` resolved stride times ring size bytes at `base`.
        unsafe { self.base.add(slot as usize * self.stride as usize) }
    }
}

/// How a client lays out its one region: all rings, then the buffers of each.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Layout {
    pub s2m: u16,
    pub m2s: u16,
    pub log2: u8,
    pub buffer_size: u32,
}

impl Layout {
    fn ring_bytes(&self) -> u64 {
        (HEADER + (DESC << self.log2)) as u64
    }

    /// An odd number of cache lines, so that the beginnings of buffers spread over all sets of a cache: at 2048 bytes, they would all
    /// fall into two of the 64 sets of an L1 cache and not even a burst of them would fit.
    fn stride(&self) -> u32 {
        (self.buffer_size.div_ceil(64) | 1) * 64
    }

    fn rings(&self) -> u64 {
        u64::from(self.s2m) + u64::from(self.m2s)
    }

    /// Where ring `i` is; the S2M rings come first.
    pub fn ring_offset(&self, i: u16) -> u32 {
        (u64::from(i) * self.ring_bytes()) as u32
    }

    fn buffers_offset(&self, i: u16) -> u64 {
        let area = u64::from(self.stride()) << self.log2;
        (self.rings() * self.ring_bytes()).next_multiple_of(4096) + u64::from(i) * area
    }

    /// Size of the region in bytes.
    ///
    /// # Errors
    /// If it does not fit the protocol's 32-bit offsets.
    pub fn size(&self) -> Result<u64, String> {
        let size = self.buffers_offset(0) + self.rings() * (u64::from(self.stride()) << self.log2);
        if size > u64::from(u32::MAX) {
            return Err(format!("rings and buffers need {size} bytes, more than 4 GiB: take fewer or smaller ones"));
        }
        Ok(size)
    }

    /// Ring `i` with its buffers, made empty, in own memory that was made for this layout.
    pub(super) fn client(&self, regions: &Regions, i: u16) -> (Ring, Buffers) {
        let ring = Ring::new(regions, 0, self.ring_offset(i), self.log2).expect("own memory holds its rings");
        ring.init();
        let offset = self.buffers_offset(i) as u32;
        let base = regions.resolve(0, offset, self.stride() << self.log2).expect("own memory holds its buffers");
        let buffers = Buffers { base, offset, stride: self.stride(), size: self.buffer_size };
        for slot in 0..ring.size() {
            ring.write(slot, 0, 0, buffers.size);
            ring.write_offset(slot, buffers.offset + u32::from(slot) * buffers.stride);
        }
        (ring, buffers)
    }
}
