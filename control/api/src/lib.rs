//! The control socket's messages: JSON-RPC 2.0, one object a line.
//!
//! [`Request`] is both the request on the wire and the subcommand of `dray`: a command `dray port show web` is
//! `{"jsonrpc":"2.0","id":1,"method":"port.show","params":{"name":"web","connect":false}}`. Methods, parameters and
//! the fields of replies are only ever added, and a client ignores fields that it does not know.
#![forbid(unsafe_code)]

mod bridge;
mod config;
mod drops;
mod error;
mod event;
mod fdb;
mod log;
mod port;
mod status;
mod vtep;
mod wire;
mod worker;

pub use bridge::*;
pub use config::*;
pub use drops::*;
pub use error::*;
pub use event::*;
pub use fdb::*;
pub use log::*;
pub use port::*;
pub use status::*;
pub use vtep::*;
pub use wire::*;
pub use worker::*;

use clap::Subcommand;
use serde::{Deserialize, Serialize};

/// Version of this protocol. It grows if something is changed otherwise than by adding.
pub const VERSION: u32 = 1;

/// The longest request in bytes, newline included.
pub const MAX_REQUEST: usize = 1 << 20;

/// A request to the switch, and the subcommand of `dray` that makes it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, Subcommand)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Request {
    /// What the switch is and does
    Status {},
    /// Show, add, change and delete ports
    #[command(subcommand)]
    Port(PortRequest),
    /// Show, add, change and delete bridges
    #[command(subcommand)]
    Bridge(BridgeRequest),
    /// Show and change the forwarding database
    #[command(subcommand)]
    Fdb(FdbRequest),
    /// Show the other VTEPs, and change the lists of them
    #[command(subcommand)]
    Vtep(VtepRequest),
    /// Show the workers
    #[command(subcommand)]
    Worker(WorkerRequest),
    /// Show what was dropped, and why
    #[command(subcommand)]
    Drop(DropRequest),
    /// Show and change what drayd logs
    #[command(subcommand)]
    Log(LogRequest),
    /// Print what happens, as it happens
    Watch {
        /// Only events of this kind; may be given several times
        #[arg(long = "kind", value_name = "KIND", value_enum)]
        #[serde(default)]
        kinds: Vec<EventKind>,
        /// Begin with the event of this number, if it is still kept; else with the next one
        #[arg(long, value_name = "SEQ")]
        #[serde(default)]
        since: Option<u64>,
    },
    /// Show, change, compare, apply and save the configuration
    #[command(subcommand)]
    Config(ConfigRequest),
}

fn is_false(is: &bool) -> bool {
    !is
}
