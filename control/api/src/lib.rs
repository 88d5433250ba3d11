//! The control socket's messages: JSON-RPC 2.0, one object a line.
//!
//! A [`Request`] has its subcommand of `dray`, which is made from it: a command `dray port show web` is
//! `{"jsonrpc":"2.0","id":1,"method":"port.show","params":{"name":"web","connect":false}}`. Its type names the type of its
//! reply. Methods, parameters and the fields of replies are only ever added, and a client ignores fields that it does not
//! know. [`schema`] has all of that as JSON Schema.
#![forbid(unsafe_code)]

mod attach;
mod bridge;
mod config;
mod detail;
mod drops;
mod error;
mod event;
mod fdb;
mod keys;
mod log;
mod port;
mod requests;
pub mod schema;
mod status;
mod terms;
mod vtep;
mod wire;
mod worker;

pub use attach::*;
pub use bridge::*;
pub use config::*;
pub use detail::*;
pub use drops::*;
pub use error::*;
pub use event::*;
pub use fdb::*;
pub use keys::*;
pub use log::*;
pub use port::*;
pub use requests::{AnyRequest, Method, Request};
pub use status::*;
pub use terms::Terms;
pub use vtep::*;
pub use wire::*;
pub use worker::*;

/// Version of this protocol. It grows if something is changed otherwise than by adding.
pub const VERSION: u32 = 1;

/// The longest request in bytes, newline included.
pub const MAX_REQUEST: usize = 1 << 24;

/// Of the requests that are longer, bytes, the switch takes one at a time: others wait for a few seconds, or are told that it is busy.
pub const LONG_REQUEST: usize = 1 << 20;
