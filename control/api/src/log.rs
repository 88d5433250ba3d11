//! `log`: what drayd logs.

use clap::Subcommand;
use serde::{Deserialize, Serialize};

/// `log`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, Subcommand)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum LogRequest {
    /// Show the level of the lines that are logged
    Show {},
    /// Change it
    Level {
        /// error, warn, info, debug, trace or off; or several TARGET=LEVEL with commas between them
        level: String,
    },
}

/// Reply to `log.show`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct LogInfo {
    /// The key `level` of `[log]`.
    pub level: String,
}
