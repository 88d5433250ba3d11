//! `[log]`: what is written to standard error.

use crate::error::quote;
use crate::schema::{Keys, key, keys, word};

keys! {
    /// What `drayd` writes to standard error, a line an event; `dray log level` changes it.
    pub struct Log = LOG "[log]" {
        /// The least important lines that are written: those of the level `error`, `warn`, `info`, `debug` or `trace`, or
        /// `off`. A target is what a line begins with, such as `port`, `config`, `vxlan` or `control`;
        /// `"warn,config=info"` has one level for it and another for the rest.
        level: String = key("level", word("a level, or several `target=level` with commas between them", log_level, String::clone))
            .default("info".into());
    }
}

impl Default for Log {
    fn default() -> Self {
        Log::initial()
    }
}

/// Which lines are logged: `level` and `target=level`, with commas between them.
fn log_level(s: &str) -> Result<String, String> {
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
