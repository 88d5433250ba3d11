//! `[log]`: what is written to standard error.

use crate::error::quote;
use crate::schema::{Section, Value, key};

/// `[log]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Log {
    /// A level or several `target=level`; default `info`.
    pub level: String,
}

impl Default for Log {
    fn default() -> Self {
        Log { level: "info".into() }
    }
}

/// `[log]`
pub static LOG: Section = Section {
    header: "[log]",
    meaning: "What `drayd` writes to standard error, a line an event; `dray log level` changes it.",
    keys: &[key(
        "level",
        Value::String("a level, or several `target=level` with commas between them"),
        "\"info\"",
        "The least important lines that are written: those of the level `error`, `warn`, `info`, `debug` or `trace`, or `off`. A \
         target is what a line begins with, such as `port`, `config`, `vxlan` or `control`; `\"warn,config=info\"` has one level \
         for it and another for the rest.",
    )],
};

/// Which lines are logged: `level` and `target=level`, with commas between them.
pub(crate) fn log_level(s: &str) -> Result<String, String> {
    for part in s.split(',') {
        let (target, level) = part.split_once('=').unwrap_or(("all", part));
        let is_target = !target.is_empty() && target.bytes().all(|c| c.is_ascii_alphanumeric());
        if !is_target || !["off", "error", "warn", "info", "debug", "trace"].contains(&level) {
            return Err(format!(
                "{} is no level: off, error, warn, info, debug, trace, or one of them for a target, like \"port=debug\"",
                quote(part)
            ));
        }
    }
    Ok(s.into())
}
