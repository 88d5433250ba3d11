//! `kind = "vhost-user"`: shared memory with a virtual machine.

use crate::{Access, Role, SocketName};

/// `kind = "vhost-user"`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VhostUser {
    /// The socket.
    pub socket: SocketName,
    /// Who may connect to it, if we are the server and it has a path.
    pub access: Access,
    /// Which side of the connection we are; default client: the VM's side listens, so that our restart does not hurt it.
    pub role: Role,
    /// The most queue pairs that the VM may use, 1..=16, default 16.
    pub queues: u16,
}
