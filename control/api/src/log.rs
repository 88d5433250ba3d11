//! `log`: what drayd logs.

use crate::ConfigChange;
use crate::requests::requests;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

requests! {
    /// `log`
    LogRequest in Log {
        "log.show" Show(LogShow) -> LogInfo, "log show";
        "log.level" Level(LogLevel) -> ConfigChange, "log level warn,port=debug";
    }
}

/// Show the level of the lines that are logged
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct LogShow {}

/// Change it
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct LogLevel {
    /// error, warn, info, debug, trace or off; or several TARGET=LEVEL with commas between them
    pub level: String,
}

/// Reply to `log.show`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct LogInfo {
    /// The key `level` of `[log]`.
    pub level: String,
}
