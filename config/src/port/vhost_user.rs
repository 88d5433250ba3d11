//! `kind = "vhost-user"`: shared memory with a virtual machine.

use crate::schema::{Group, Takes, integer, key, keys, word};
use crate::value::{ROLE, SOCKET, role};
use crate::{Access, Role, SocketName};

keys! {
    /// Shared memory with a virtual machine.
    pub struct VhostUser {
        /// The control channel's socket. No other port has it.
        socket: SocketName = key("socket", word(SOCKET, str::parse, SocketName::to_string))
            .takes(Takes::Reopen)
            .required_with(SocketName::Abstract(String::new()));
        /// Who may connect to it, if we are the server and it has a path.
        access: Access = Group(Some(Takes::Reopen));
        /// A client connects to the VM's side, which listens: then a restart of the switch does not hurt the VM. A
        /// server listens.
        role: Role = key("role", word(ROLE, role, Role::to_string)).takes(Takes::Reopen).default(Role::Client);
        /// The most queue pairs that the VM may use.
        queues: u16 = key("queues", integer(1, 16)).takes(Takes::Reopen).default(16);
    }
}
