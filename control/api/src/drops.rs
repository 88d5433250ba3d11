//! `drop`: what was dropped, and why.

use crate::requests::requests;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

requests! {
    /// `drop`
    DropRequest in Drop {
        "drop.show" Show(DropShow) -> Vec<DropInfo>, "drop show";
    }
}

/// Show drop counters that are not zero
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DropShow {}

/// One of the reply to `drop.show`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct DropInfo {
    /// The counter's name, `stage.reason`: one of the [drop reasons](#drop-reasons).
    pub name: String,
    /// What happened, for people.
    pub description: String,
    /// What usually makes it happen.
    pub cause: String,
    /// What to do about it.
    pub remedy: String,
    /// The port it happened on.
    pub port: String,
    /// How often.
    pub count: u64,
}
