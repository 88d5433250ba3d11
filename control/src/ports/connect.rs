//! How other programs attach to a port, ready to paste: what kinds of ports have in common.

use dray_api::ConnectInfo;

/// A way that Dray's tests go.
pub fn tried(program: &str, text: String) -> ConnectInfo {
    ConnectInfo { program: program.into(), text, note: None }
}

/// A way of which something is to be known.
pub fn noted(program: &str, text: String, note: &str) -> ConnectInfo {
    ConnectInfo { note: Some(note.into()), ..tried(program, text) }
}

/// The note on programs that Dray's tests can't have.
pub const NOT_TRIED: &str = "not run by Dray's tests, as Debian 12 has no package that they could use";

/// What a program can't be given, as a comment.
pub fn impossible(program: &str, cannot: &str) -> String {
    format!("# {program} can't be given this socket or secret: {cannot}")
}

/// DPDK splits a device's arguments at `,` and each at `=`, and nothing quotes these; a `[` hides commas (rte_kvargs, DPDK 22.11).
pub fn fits_devargs(value: &str) -> bool {
    !value.contains([',', '=', '['])
}

/// Why others don't.
pub const DEVARGS: &str = "\",\", \"=\" and \"[\" are DPDK's own there; choose others, or another program";

/// For a shell.
pub fn quote(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "=,._/:@-".contains(c);
    if word.chars().all(plain) { word.into() } else { format!("'{}'", word.replace('\'', r"'\''")) }
}

/// The texts for a port with these keys, which have `;` between them.
#[cfg(test)]
pub fn texts(keys: &str, is_underlay: bool, workers: usize) -> Vec<String> {
    let text = format!("[[port]]\nname = 'web'\n{}\n", keys.replace(';', "\n"));
    let config = dray_config::parse_for("test", &text, &[]).unwrap_or_else(|errors| panic!("{errors}"));
    let guest = super::Guest { port: &config.ports[0], is_underlay, workers, mtu: 1450 };
    super::connect(&guest).into_iter().map(|info| info.text).collect()
}
