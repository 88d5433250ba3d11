//! Rings, split and packed: reading and writing what is shared with a driver, at burst granularity.

use super::memory::{DirtyLog, Memory};
use std::sync::Arc;

/// What a ring is made of, as messages told it.
#[derive(Clone, Debug, Default)]
pub(super) struct RingConfig {
    /// Its index: even ones the driver receives on, odd ones it sends on.
    pub index: u16,
    /// Descriptors, not yet checked.
    pub size: u32,
    /// The negotiated features.
    pub features: u64,
    /// The front end's own addresses of descriptor table, available and used ring (packed: driver and device event suppression).
    pub desc: u64,
    pub avail: u64,
    pub used: u64,
    /// Guest-physical address of the used ring, if writes to it are to be logged.
    pub log_used: Option<u64>,
    /// Where to begin, as `SET_VRING_BASE` has it.
    pub base: u32,
}

/// A ring that was started.
pub(super) struct Ring {}

impl Ring {
    /// Starts a ring.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn start(config: &RingConfig, memory: Arc<Memory>, log: Option<Arc<DirtyLog>>) -> Result<Ring, String> {
        let _ = (config, memory, log);
        todo!()
    }

    /// Where it would go on, as `GET_VRING_BASE` wants it.
    pub fn base(&self) -> u32 {
        todo!()
    }

    /// Goes on with other memory.
    ///
    /// # Errors
    /// If the ring is not in it; it must not be used any more.
    pub fn set_memory(&mut self, memory: Arc<Memory>) -> Result<(), String> {
        let _ = memory;
        todo!()
    }

    /// Logs writes from now on, or doesn't; `log_used` as in [`RingConfig`].
    pub fn set_log(&mut self, log: Option<Arc<DirtyLog>>, log_used: Option<u64>) {
        let _ = (log, log_used);
        todo!()
    }
}
