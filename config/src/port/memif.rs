//! `kind = "memif"`: shared memory with a container.

use crate::{Access, Role, SocketName};

/// `kind = "memif"`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Memif {
    /// The control channel's socket.
    pub socket: SocketName,
    /// Who may connect to it, if we are the server and it has a path. The ports of one socket have the same.
    pub access: Access,
    /// Interface id on that socket, unique per socket.
    pub id: u32,
    /// Which side of the connection we are.
    pub role: Role,
    /// At most 23 bytes, compared with what the peer sends (memif.h: `MEMIF_SECRET_SIZE` is 24, but libmemif, VPP and DPDK keep
    /// the last for a NUL).
    pub secret: Option<String>,
    /// Descriptors a ring, a power of two, 256..=16384, default 1024. Only the client decides; a
    /// server takes what the client offers up to this.
    pub ring_size: u32,
    /// Bytes a buffer when we are the client, 2^8..=2^16 power of two not needed; default 2048.
    pub buffer_size: u32,
    /// Queue pairs, 1..=16, default 1.
    pub queues: u16,
}

/// What stands for a secret that is not shown. No port can have it, so that a configuration without its secrets is not
/// applied by mistake.
pub const HIDDEN_SECRET: &str = "***";
