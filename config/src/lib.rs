//! What a user writes and what the switch runs: schema, validation, plan, and the control socket's messages.
#![forbid(unsafe_code)]

mod edit;
mod error;
mod locate;
mod merge;
mod mtu;
mod plan;
mod read;
mod reference;
mod render;
pub mod rpc;
pub mod schema;
mod statics;
mod valid;
mod validate;

pub use edit::edit;
pub use error::{Error, Errors, Place};
pub use locate::error_at_port;
pub use merge::merge;
pub use mtu::{Mtus, VXLAN_OVERHEAD};
pub use plan::{Action, BridgeChange, plan};
pub use read::{allowed_cpus, parse, parse_for};
pub use reference::{EXAMPLE, reference};
pub use render::render;
pub use statics::Statics;
pub use valid::*;
