//! What a user writes and what the switch runs: schema, validation, plan, and the control socket's messages.
#![forbid(unsafe_code)]

mod error;
mod read;
pub mod rpc;
pub mod schema;
mod valid;
mod validate;

pub use error::{Error, Errors, Place};
pub use read::{allowed_cpus, parse, parse_for};
pub use valid::*;
