//! Pools of mbufs.

use crate::error::{Error, strerror};
use crate::mbuf::Mbuf;
use dray_dpdk_sys as sys;
use std::ffi::CString;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, Ordering};

/// Mbufs that a registered thread keeps for itself, so that threads seldom meet at the pool.
pub(crate) const CACHE: u32 = 256;

/// A pool of mbufs, each of one buffer. Freed when dropped: no mbuf of it may then be in use.
pub(crate) struct Mempool {
    pool: NonNull<sys::rte_mempool>,
    /// How many mbufs it has.
    pub size: u32,
}

// SAFETY: a pool may be used by any thread at once; threads without a cache of their own meet at its ring.
unsafe impl Send for Mempool {}
// SAFETY: as above.
unsafe impl Sync for Mempool {}

impl Mempool {
    /// A pool of `size` mbufs with room for `room` bytes each, besides the headroom, near NUMA node `socket`
    /// (-1: anywhere). EAL is up.
    pub fn new(size: u32, room: u16, socket: i32) -> Result<Mempool, Error> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let name = CString::new(format!("dray-{}", NUMBER.fetch_add(1, Ordering::Relaxed))).expect("no NUL in it");
        let room = room + sys::RTE_PKTMBUF_HEADROOM as u16;
        // SAFETY: the name outlives the call, which copies it.
        let pool = unsafe { sys::rte_pktmbuf_pool_create(name.as_ptr(), size, CACHE, 0, room, socket) };
        // SAFETY: no preconditions.
        let errno = unsafe { sys::dray_errno() };
        NonNull::new(pool).map(|pool| Mempool { pool, size }).ok_or_else(|| {
            Error::new(format!(
                "no memory for {size} packet buffers of {room} bytes: {}; reserve hugepages \
                 (/proc/sys/vm/nr_hugepages), or lower ring-size, queues or mtu",
                strerror(errno)
            ))
        })
    }

    /// DPDK's handle.
    pub fn as_ptr(&self) -> *mut sys::rte_mempool {
        self.pool.as_ptr()
    }

    /// How many mbufs are in the pool or its caches, not in use.
    pub fn available(&self) -> u32 {
        // SAFETY: the pool is there as long as `self`.
        unsafe { sys::rte_mempool_avail_count(self.as_ptr()) }
    }

    /// Fills `mbufs` with empty mbufs, which are the caller's then; false, and none, if there are not enough.
    #[inline]
    pub fn alloc(&self, mbufs: &mut [Mbuf]) -> bool {
        // SAFETY: `Mbuf` is transparent; DPDK writes `mbufs.len()` of them or none.
        unsafe { sys::dray_pktmbuf_alloc_bulk(self.as_ptr(), mbufs.as_mut_ptr().cast(), mbufs.len() as u32) == 0 }
    }
}

impl Drop for Mempool {
    fn drop(&mut self) {
        // SAFETY: made by `new` and not used after this; its owner has seen to its mbufs being back.
        unsafe { sys::rte_mempool_free(self.as_ptr()) }
    }
}
