//! `kind = "memif"`: shared memory with a container.

use crate::schema::{Group, Takes, integer, key, keys, power_of_two, text, word};
use crate::value::{ROLE, SOCKET, role};
use crate::{Access, Role, SocketName};

keys! {
    /// Shared memory with a container.
    pub struct Memif {
        /// The control channel's socket. Several servers may share one.
        socket: SocketName = key("socket", word(SOCKET, str::parse, SocketName::to_string))
            .takes(Takes::Reopen)
            .required_with(SocketName::Abstract(String::new()));
        /// Who may connect to it, if we are the server and it has a path. The ports of one socket have the same.
        access: Access = Group(Some(Takes::Reopen));
        /// Interface id, unique on the socket.
        id: u32 = key("id", integer(0, u32::MAX as u64)).takes(Takes::Reopen).default(0);
        /// A server listens and maps the client's memory; a client connects and brings it. The ports of one socket have
        /// one role.
        role: Role = key("role", word(ROLE, role, Role::to_string)).takes(Takes::Reopen).default(Role::Server);
        /// Must be the same on both sides.
        secret: Option<String> = key("secret", text("1 to 23 bytes", secret)).takes(Takes::Reopen).secret().optional("none");
        /// Descriptors in a ring. The client decides; a server takes what is offered up to this.
        ring_size: u32 = key("ring-size", power_of_two(256, 16384)).takes(Takes::Reopen).default(1024);
        /// Size of a buffer, as a client. Longer frames take several.
        buffer_size: u32 = key("buffer-size", integer(256, 65536)).unit("bytes").takes(Takes::Reopen).default(2048);
        /// Queue pairs. The peer may have fewer.
        queues: u16 = key("queues", integer(1, 16)).takes(Takes::Reopen).default(1);
    }
}

/// What stands for a secret that is not shown. No port can have it, so that a configuration without its secrets is not
/// applied by mistake.
pub const HIDDEN_SECRET: &str = "***";

/// Compared with what the peer sends. `MEMIF_SECRET_SIZE` is 24 (memif.h), but libmemif, VPP and DPDK keep the last byte
/// for a NUL.
fn secret(s: &str) -> Result<String, String> {
    match s.len() {
        _ if s == HIDDEN_SECRET => {
            Err("it was hidden: put the secret itself here, or have the file written with --secrets".into())
        }
        1..=23 if !s.contains('\0') => Ok(s.to_string()),
        24 => Err("1 to 23 bytes without NUL, not 24: the protocol has 24, but peers keep the last for a NUL".into()),
        n => Err(format!("1 to 23 bytes without NUL, not {n}")),
    }
}
