//! Packet buffers.

use dray_dpdk_sys as sys;
use std::ptr;

/// An mbuf of DPDK: a header and, behind a headroom, its data.
///
/// A name for it, not its owner: the functions say who must own it.
#[derive(Clone, Copy)]
#[repr(transparent)]
pub(crate) struct Mbuf(*mut sys::rte_mbuf);

impl Mbuf {
    pub const NULL: Mbuf = Mbuf(ptr::null_mut());

    /// The inverse of [`Mbuf::addr`].
    pub fn from_addr(addr: usize) -> Mbuf {
        Mbuf(ptr::with_exposed_provenance_mut(addr))
    }

    /// Its address, as a burst keeps it.
    pub fn addr(self) -> usize {
        self.0.expose_provenance()
    }

    /// The field of type `T` at `offset`.
    ///
    /// # Safety
    /// It points to an mbuf that the caller owns, and `offset` is one of shim.h's, of a field of this type.
    #[inline(always)]
    pub unsafe fn field<T>(self, offset: u32) -> *mut T {
        // SAFETY: within the mbuf, by the C compiler's own offset.
        unsafe { self.0.byte_add(offset as usize).cast() }
    }

    /// The first byte of its data.
    ///
    /// # Safety
    /// It points to an mbuf that the caller owns.
    #[inline(always)]
    pub unsafe fn data(self) -> *mut u8 {
        // SAFETY: the caller owns the mbuf; `data_off` lies within its buffer (DPDK and the driver keep that).
        unsafe {
            let start = *self.field::<*mut u8>(sys::DRAY_MBUF_BUF_ADDR);
            start.add(*self.field::<u16>(sys::DRAY_MBUF_DATA_OFF) as usize)
        }
    }

    /// Bytes of data in this segment.
    ///
    /// # Safety
    /// It points to an mbuf that the caller owns.
    #[inline(always)]
    pub unsafe fn data_len(self) -> u32 {
        // SAFETY: the caller owns the mbuf.
        unsafe { *self.field::<u16>(sys::DRAY_MBUF_DATA_LEN) as u32 }
    }

    /// Bytes in all its segments.
    ///
    /// # Safety
    /// It points to an mbuf that the caller owns, the first of its chain.
    #[inline(always)]
    pub unsafe fn pkt_len(self) -> u32 {
        // SAFETY: the caller owns the mbuf.
        unsafe { *self.field::<u32>(sys::DRAY_MBUF_PKT_LEN) }
    }

    /// How many segments it has, itself included.
    ///
    /// # Safety
    /// It points to an mbuf that the caller owns, the first of its chain.
    #[inline(always)]
    pub unsafe fn segments(self) -> u16 {
        // SAFETY: the caller owns the mbuf.
        unsafe { *self.field::<u16>(sys::DRAY_MBUF_NB_SEGS) }
    }

    /// The next segment.
    ///
    /// # Safety
    /// It points to an mbuf that the caller owns and that is not the last of its chain.
    #[inline(always)]
    pub unsafe fn next(self) -> Mbuf {
        // SAFETY: the caller owns the mbuf.
        unsafe { Mbuf(*self.field::<*mut sys::rte_mbuf>(sys::DRAY_MBUF_NEXT)) }
    }

    /// Says that it is one segment with `len` bytes of data.
    ///
    /// # Safety
    /// It points to an mbuf that the caller owns, fresh from its pool, with room for `len` bytes.
    #[inline(always)]
    pub unsafe fn set_len(self, len: u16) {
        // SAFETY: the caller owns the mbuf.
        unsafe {
            *self.field::<u16>(sys::DRAY_MBUF_DATA_LEN) = len;
            *self.field::<u32>(sys::DRAY_MBUF_PKT_LEN) = len as u32;
        }
    }
}

/// Gives mbufs, with all their segments, back to their pools.
///
/// # Safety
/// The caller owns them, and does no longer after this.
pub(crate) unsafe fn free(mbufs: &[Mbuf]) {
    if !mbufs.is_empty() {
        // SAFETY: `Mbuf` is transparent; the array is only read; the caller gives the mbufs up.
        unsafe { sys::rte_pktmbuf_free_bulk(mbufs.as_ptr() as *mut *mut sys::rte_mbuf, mbufs.len() as u32) }
    }
}

/// Takes what a queue has received, at most `mbufs.len()`, and returns how many.
///
/// # Safety
/// The port is started and has this queue, and nobody else receives from it meanwhile. The mbufs are the caller's.
#[inline]
pub(crate) unsafe fn rx_burst(port: u16, queue: u16, mbufs: &mut [Mbuf]) -> usize {
    // SAFETY: `Mbuf` is transparent; the driver writes at most `mbufs.len()` of them; the caller keeps the rest.
    unsafe { sys::dray_eth_rx_burst(port, queue, mbufs.as_mut_ptr().cast(), mbufs.len() as u16) as usize }
}

/// Sends what a queue has room for, and returns how many: those are the driver's now, the rest still the caller's.
///
/// # Safety
/// The port is started and has this queue, and nobody else sends on it meanwhile. The caller owns the mbufs.
#[inline]
pub(crate) unsafe fn tx_burst(port: u16, queue: u16, mbufs: &mut [Mbuf]) -> usize {
    // SAFETY: as said above.
    unsafe { sys::dray_eth_tx_burst(port, queue, mbufs.as_mut_ptr().cast(), mbufs.len() as u16) as usize }
}
