//! `drop`: what was dropped, and why.

use clap::Subcommand;
use serde::{Deserialize, Serialize};

/// `drop`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, Subcommand)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum DropRequest {
    /// Show drop counters that are not zero
    Show {},
}

/// One of the reply to `drop.show`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct DropInfo {
    /// The counter's name, `stage.reason`: one of the [drop reasons](#drop-reasons).
    pub name: String,
    /// What happened, for people.
    pub description: String,
    /// The port it happened on.
    pub port: String,
    /// How often.
    pub count: u64,
}
