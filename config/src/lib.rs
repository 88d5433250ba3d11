//! What a user writes and what the switch runs: schema, validation and plan.
#![forbid(unsafe_code)]

mod error;
mod locate;
mod merge;
mod mtu;
mod plan;
mod read;
mod reference;
mod render;
pub mod schema;
mod statics;
mod valid;
mod validate;

pub use error::{Error, Errors, Place, suggest};
pub use locate::error_at_port;
pub use merge::merge;
pub use mtu::{Mtus, VXLAN_OVERHEAD};
pub use plan::{Action, BridgeChange, plan};
pub use read::{allowed_cpus, parse, parse_for};
pub use reference::{EXAMPLE, reference};
pub use render::{render, text};
pub use statics::Statics;
pub use valid::*;
