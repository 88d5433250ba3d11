//! `config`: the running configuration.

use crate::MAX_REQUEST;
use crate::requests::{is_false, requests};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

requests! {
    /// `config`
    ConfigRequest in Config {
        "config.show" Show(ConfigShow) -> ConfigText, "config show";
        "config.diff" Diff(ConfigDiff) -> ConfigChange, "config diff dray.toml";
        "config.apply" Apply(ConfigApply) -> ConfigChange, "config apply dray.toml";
        "config.set" Set(ConfigSet) -> ConfigChange, "config set fdb ageing 60";
        "config.reload" Reload(ConfigReload) -> ConfigChange, "config reload";
        "config.save" Save(ConfigSave) -> ConfigSaved, "config save";
    }
}

/// Show the running configuration
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ConfigShow {
    /// With the ports' secrets, not "***", with which it can't be applied
    #[serde(default, skip_serializing_if = "is_false")]
    pub secrets: bool,
    /// Only what is this owner's; "file": the configuration file's
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<String>,
}

/// Show what applying a file would change
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ConfigDiff {
    /// The file; "-" reads standard input [default: the one drayd was started with]
    pub file: Option<ConfigFile>,
}

/// Make the running configuration that of a file, touching only what differs
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ConfigApply {
    /// The file; "-" reads standard input [default: the one drayd was started with]
    pub file: Option<ConfigFile>,
}

/// Change a key of the tables fdb, balance, log or vxlan
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ConfigSet {
    /// The table, without brackets
    pub table: String,
    /// The key, as in the configuration file
    pub key: String,
    /// Its value, several for a list; its default without one
    #[serde(default)]
    pub values: Vec<String>,
}

/// Apply the file that drayd was started with, as SIGHUP does, and say what was wrong with it
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ConfigReload {}

/// Write the running configuration, without what owners have added, to a file, whose comments and order stay; what it was before becomes FILE~
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ConfigSave {}

/// A configuration file as it is sent: the client reads it, so that errors name the file as the user did.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ConfigFile {
    /// Its name, for messages.
    pub name: String,
    /// Its text.
    pub text: String,
}

impl ConfigFile {
    /// Reads the file `name`, or standard input for `-`.
    ///
    /// # Errors
    /// The system's reason why it can't be read; or it is not UTF-8; or it can't fit a request.
    pub fn read(name: &str) -> Result<ConfigFile, String> {
        let text = if name == "-" { std::io::read_to_string(std::io::stdin()) } else { std::fs::read_to_string(name) };
        let text = text.map_err(|error| error.to_string())?;
        if text.len() > MAX_REQUEST - 4096 {
            return Err(format!("{} bytes are too many for a request of {MAX_REQUEST}", text.len()));
        }
        Ok(ConfigFile { name: if name == "-" { "stdin".into() } else { name.into() }, text })
    }
}

/// Reply to `config.show`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct ConfigText {
    /// The running configuration as a file, defaults left out.
    pub text: String,
}

/// Reply to `config.diff`, `config.apply`, `config.reload`, and to whatever else changes the configuration.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct ConfigChange {
    /// One line for each change, beginning with `+`, `-` or `~`; none if nothing differs. What takes a restart of drayd begins
    /// with `!`, and as long as there is such a line, nothing of the rest is applied either.
    pub changes: Vec<String>,
}

/// Reply to `config.save`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct ConfigSaved {
    /// The file that was written.
    pub file: PathBuf,
}
