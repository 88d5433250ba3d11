//! What may come next on the command line. Names are asked of the switch.

use clap::Command;
use clap_complete::engine::{ArgValueCandidates, CompletionCandidate};
use dray_api::{BridgeShow, PortShow};
use dray_client::{Client, Error};
use dray_config::CONTROL_SOCKET;
use dray_config::schema::{self, Section};
use std::ffi::OsString;
use std::path::PathBuf;

/// A command of `group` with the values that its arguments may have.
pub fn with_candidates(command: Command, group: &str) -> Command {
    let name = command.get_name().to_owned();
    let ports =
        || names(|client| Ok(client.call(&PortShow::default())?.ports().into_iter().map(|port| port.name).collect()));
    let bridges =
        || names(|client| Ok(client.call(&BridgeShow::default())?.into_iter().map(|bridge| bridge.name).collect()));
    let fixed = |of: &'static [&'static str]| {
        ArgValueCandidates::new(move || of.iter().map(CompletionCandidate::new).collect::<Vec<_>>())
    };
    let keys = |section: &'static Section| {
        ArgValueCandidates::new(move || {
            section.keys.iter().map(|key| CompletionCandidate::new(key.name)).collect::<Vec<_>>()
        })
    };
    command.mut_args(|arg| match (group, arg.get_id().as_str()) {
        ("port", "kind") => arg.add(fixed(schema::KINDS)),
        ("port", "key") => arg.add(keys(&schema::PORT)),
        ("bridge", "key") => arg.add(keys(&schema::BRIDGE)),
        ("config", "table") => arg.add(fixed(&["balance", "fdb", "log", "vxlan"])),
        ("port", "name") if name != "add" => arg.add(ArgValueCandidates::new(ports)),
        ("bridge", "name") if name != "add" => arg.add(ArgValueCandidates::new(bridges)),
        (_, "port" | "ports") => arg.add(ArgValueCandidates::new(ports)),
        (_, "bridge" | "bridges") => arg.add(ArgValueCandidates::new(bridges)),
        _ => arg,
    })
}

/// The names that the switch has; none, if it can't be asked.
fn names(ask: impl FnOnce(&mut Client) -> Result<Vec<String>, Error>) -> Vec<CompletionCandidate> {
    let names = Client::connect(&completed_socket(std::env::args_os())).and_then(|mut client| ask(&mut client));
    names.unwrap_or_default().into_iter().map(CompletionCandidate::new).collect()
}

/// The socket that is meant by the line that is being completed: the words after `--`.
fn completed_socket(args: impl Iterator<Item = OsString>) -> PathBuf {
    let mut words = args.skip_while(|arg| arg != "--").skip(2);
    while let Some(word) = words.next() {
        let given = match word.to_str() {
            Some("--socket") => words.next(),
            Some(word) => word.strip_prefix("--socket=").map(OsString::from),
            None => None,
        };
        if let Some(socket) = given {
            return socket.into();
        }
    }
    std::env::var_os("DRAY_SOCKET").map_or_else(|| PathBuf::from(CONTROL_SOCKET), PathBuf::from)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    #[test]
    fn names_are_asked_where_the_line_says() {
        let socket = |line: &str| completed_socket(line.split(' ').map(Into::into));
        assert_eq!(socket("dray -- dray --socket /a/b port show "), Path::new("/a/b"));
        assert_eq!(socket("dray -- dray port show --socket=/a/c "), Path::new("/a/c"));
    }
}
