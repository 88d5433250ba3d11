//! What is asked of a port, and the sizes that it goes by.

/// Every buffer has room for this at least: many NICs can't be given less than 2 KiB.
pub(crate) const ROOM_MIN: u32 = 2048;

/// What is asked of a port. A device may give less: see [`EthInfo`](crate::EthInfo).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EthOptions {
    /// Receive queues.
    pub queues: u16,
    /// Threads that will send, each on a transmit queue of its own if the device has so many.
    pub workers: u16,
    /// Descriptors a queue.
    pub ring_size: u16,
    /// Largest Ethernet payload, bytes.
    pub mtu: u16,
    /// The address that the device is to have; its own if `None`. A kernel interface keeps it after the port is closed.
    pub mac: Option<[u8; 6]>,
}

impl Default for EthOptions {
    fn default() -> Self {
        EthOptions { queues: 1, workers: 1, ring_size: 1024, mtu: 1500, mac: None }
    }
}
