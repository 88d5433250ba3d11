//! What a user writes and what the switch runs: schema, validation, plan, and the control socket's messages.

mod valid;

pub use valid::*;
