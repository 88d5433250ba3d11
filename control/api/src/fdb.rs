//! `fdb`: the forwarding database.

use crate::requests::requests;
use crate::{ConfigChange, ErrorCode, LONG_REQUEST};
use dray_config::{Mac, Member};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::net::Ipv4Addr;

/// The most entries of one `fdb.load`: what the switch does between two requests of others.
pub const MAX_BATCH: usize = 100_000;

/// Entries in one of the requests that [`FdbBatch::into_requests`] makes: so many that others don't wait for long.
const PART: usize = 10_000;

requests! {
    /// `fdb`
    FdbRequest in Fdb {
        "fdb.show" Show(FdbShow) -> Vec<FdbEntry>, "fdb show --bridge blue";
        "fdb.add" Add(FdbAdd) -> ConfigChange, "fdb add blue 02:00:00:00:00:01 --port trunk:10";
        "fdb.del" Del(FdbDel) -> ConfigChange, "fdb del blue 02:00:00:00:00:01";
        "fdb.load" Load(FdbLoad) -> FdbLoaded, "fdb load entries.txt";
        "fdb.flush" Flush(FdbFlush) -> FdbFlushed, "fdb flush --port web";
    }
}

/// Show entries
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct FdbShow {
    /// Only this bridge, or those that match a pattern with * and ?
    pub bridge: Option<String>,
    /// Only what is behind this port, or behind any that matches
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<String>,
    /// Only this address, or those that match
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mac: Option<String>,
    /// Only what is behind this VTEP
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vtep: Option<Ipv4Addr>,
}

/// Add a static entry
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct FdbAdd {
    /// The bridge's name
    pub bridge: String,
    /// The MAC address
    pub mac: Mac,
    /// The member it is behind
    pub port: Option<Member>,
    /// The VTEP it is behind
    pub vtep: Option<Ipv4Addr>,
}

/// Delete an entry, learned or static
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct FdbDel {
    /// The bridge's name
    pub bridge: String,
    /// The MAC address
    pub mac: Mac,
}

/// Add many static entries; one that is there already gets its new place
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct FdbLoad {
    /// A file of lines `BRIDGE MAC PORT[:VLAN]` or `BRIDGE MAC IP`, the IP being a VTEP's; "-" reads standard input
    pub entries: FdbBatch,
    /// Delete these entries instead, learned or static; lines need no place then
    #[serde(default)]
    pub delete: bool,
}

/// Forget learned entries
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct FdbFlush {
    /// Only those of this bridge
    pub bridge: Option<String>,
    /// Only those behind this port
    pub port: Option<String>,
}

/// Entries for `fdb.load`: an array on the wire.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(transparent)]
#[schemars(inline)]
pub struct FdbBatch {
    /// The entries.
    pub entries: Vec<FdbStatic>,
    /// Lines of the file that are no entries. They stay with the client.
    #[serde(skip)]
    pub refused: Vec<FdbRefused>,
}

/// An entry of `fdb.load`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct FdbStatic {
    /// The bridge's name.
    pub bridge: String,
    /// The MAC address.
    pub mac: Mac,
    /// The member it is behind.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<Member>,
    /// The VTEP it is behind.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vtep: Option<Ipv4Addr>,
    /// How the answer names the entry; 0 or left out: by its place in the array, from 1.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub line: usize,
}

fn is_zero(n: &usize) -> bool {
    *n == 0
}

impl FdbBatch {
    /// Reads the file `name`, or standard input for `-`.
    ///
    /// # Errors
    /// The system's reason why it can't be read, or it is not UTF-8.
    pub fn read(name: &str) -> Result<FdbBatch, String> {
        let text = if name == "-" { std::io::read_to_string(std::io::stdin()) } else { std::fs::read_to_string(name) };
        Ok(FdbBatch::parse(&text.map_err(|error| error.to_string())?))
    }

    /// Reads lines of a bridge, a MAC and a place, with white space between them. Empty lines and those that begin with `#`
    /// are nothing.
    pub fn parse(text: &str) -> FdbBatch {
        let mut batch = FdbBatch::default();
        for (line, words) in (1..).zip(text.lines()) {
            let words = words.trim();
            if words.is_empty() || words.starts_with('#') {
                continue;
            }
            match FdbStatic::parse(words, line) {
                Ok(entry) => batch.entries.push(entry),
                Err(reason) => batch.refused.push(FdbRefused { line, code: ErrorCode::Invalid, reason }),
            }
        }
        batch
    }

    /// As requests that the switch takes at any time: each of at most 10,000 entries and [`LONG_REQUEST`] bytes.
    pub fn into_requests(self, delete: bool) -> impl Iterator<Item = FdbLoad> {
        // As much as JSON has to add to any entry, however each byte of the names is escaped.
        let bytes = |entry: &FdbStatic| {
            let port = entry.port.as_ref().map_or(0, |member| member.port.len());
            112 + 6 * (entry.bridge.len() + port)
        };
        let mut entries = self.entries.into_iter().peekable();
        std::iter::from_fn(move || {
            let (mut part, mut size) = (Vec::new(), 4096);
            while let Some(entry) = entries.next_if(|entry| {
                size += bytes(entry);
                part.is_empty() || part.len() < PART && size <= LONG_REQUEST
            }) {
                part.push(entry);
            }
            let entries = FdbBatch { entries: part, refused: Vec::new() };
            (!entries.entries.is_empty()).then_some(FdbLoad { entries, delete })
        })
    }
}

impl FdbStatic {
    /// Reads the line number `line`.
    fn parse(words: &str, line: usize) -> Result<FdbStatic, String> {
        let mut parts = words.split_whitespace();
        let (Some(bridge), Some(mac), place, None) = (parts.next(), parts.next(), parts.next(), parts.next()) else {
            return Err("a line is a bridge, a MAC and a port or VTEP, like \"blue 02:00:00:00:00:01 web\"".into());
        };
        let mac = mac.parse().map_err(|why| format!("mac {mac:?}: {why}"))?;
        let (port, vtep) = match place.map(|place| (place, place.parse::<Ipv4Addr>())) {
            None => (None, None),
            Some((_, Ok(vtep))) => (None, Some(vtep)),
            Some((port, Err(_))) => (Some(port.parse().map_err(|why| format!("port {port:?}: {why}"))?), None),
        };
        Ok(FdbStatic { bridge: bridge.into(), mac, port, vtep, line })
    }
}

/// One of the reply to `fdb.show`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct FdbEntry {
    /// The bridge's name.
    pub bridge: String,
    /// The MAC address.
    pub mac: Mac,
    /// The port it is behind, if not a VTEP.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub port: Option<String>,
    /// The VTEP it is behind, if not a port.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vtep: Option<Ipv4Addr>,
    /// The VLAN on that port, if tagged.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vlan: Option<u16>,
    /// Seconds since it was last seen, to about a second; 0 for a static entry.
    pub age_seconds: u64,
    /// Whether it was configured, and so neither moves nor ages.
    #[serde(rename = "static")]
    pub is_static: bool,
    /// Whose it is, if it was configured and is not the configuration file's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub owner: Option<String>,
}

/// Reply to `fdb.load`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct FdbLoaded {
    /// How many entries were added, changed or (with `delete`) deleted, those that were as they should be among them.
    pub done: u64,
    /// The others.
    pub refused: Vec<FdbRefused>,
}

/// An entry that was refused.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct FdbRefused {
    /// Its line in the file, or its place in the array from 1.
    pub line: usize,
    /// What a program can act on: one of the [codes](#the-control-socket).
    pub code: ErrorCode,
    /// Why.
    pub reason: String,
}

/// Reply to `fdb.flush`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct FdbFlushed {
    /// How many entries were forgotten.
    pub entries: u64,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{AnyRequest, Request};
    use serde_json::json;

    #[test]
    fn batches_are_read_line_by_line() {
        let text = "# comment\n\nblue 02:00:00:00:00:01 web\n blue\t02:00:00:00:00:02  trunk:10 \r\n\
                    blue 02:00:00:00:00:03 10.9.0.2\nblue 02:00:00:00:00:04\n\
                    blue 02:00:00:00:00 web\nblue\na b c d\nblue 02:00:00:00:00:05 web:4095\n";
        let batch = FdbBatch::parse(text);
        let entry =
            |n, line| FdbStatic { bridge: "blue".into(), mac: Mac([2, 0, 0, 0, 0, n]), line, ..FdbStatic::default() };
        let port = |port: &str, vlan| Some(Member { port: port.into(), vlan });
        assert_eq!(
            batch.entries,
            [
                FdbStatic { port: port("web", None), ..entry(1, 3) },
                FdbStatic { port: port("trunk", Some(10)), ..entry(2, 4) },
                FdbStatic { vtep: Some(Ipv4Addr::new(10, 9, 0, 2)), ..entry(3, 5) },
                entry(4, 6),
            ]
        );
        let refused: Vec<String> = batch.refused.iter().map(|r| format!("{}: {}", r.line, r.reason)).collect();
        let form = "a line is a bridge, a MAC and a port or VTEP, like \"blue 02:00:00:00:00:01 web\"";
        assert_eq!(
            refused,
            [
                "7: mac \"02:00:00:00:00\": a MAC address is six hexadecimal bytes, like \"02:00:00:00:00:01\"",
                &format!("8: {form}"),
                &format!("9: {form}"),
                "10: port \"web:4095\": a VLAN is 1 to 4094",
            ]
        );
    }

    #[test]
    fn batches_are_cut_into_requests_that_are_taken() {
        let wire = r#"{"jsonrpc":"2.0","id":1,"method":"fdb.load","params":{"entries":[{"bridge":"b","mac":"02:00:00:00:00:01"}]}}"#;
        let entry = FdbStatic { bridge: "b".into(), mac: Mac([2, 0, 0, 0, 0, 1]), ..FdbStatic::default() };
        let batch = FdbBatch { entries: vec![entry], refused: vec![] };
        let one = FdbLoad { entries: batch, delete: false }.into();
        assert_eq!(AnyRequest::decode(wire.as_bytes()), (json!(1), Ok(one)));

        // Names that JSON makes six times as long, and short ones.
        for (name, requests) in [("\u{1}".repeat(60), 15..25), ("b".into(), 3..8)] {
            let entry = |n: u32| FdbStatic {
                bridge: name.clone(),
                mac: "02:00:00:00:00:01".parse().unwrap(),
                port: Some(Member { port: name.clone(), vlan: Some(4094) }),
                vtep: None,
                line: n as usize + 999_999,
            };
            let batch = FdbBatch { entries: (0..25_000).map(entry).collect(), refused: vec![] };
            let mut seen = Vec::new();
            let mut count = 0;
            for request in batch.clone().into_requests(true) {
                let line = request.encode(u64::MAX);
                assert!(line.len() < LONG_REQUEST, "{}", line.len());
                let (_, Ok(AnyRequest::Fdb(FdbRequest::Load(FdbLoad { entries, delete: true })))) =
                    AnyRequest::decode(line.as_bytes())
                else {
                    panic!("{line:.200}")
                };
                assert!((1..=PART).contains(&entries.entries.len()));
                seen.extend(entries.entries);
                count += 1;
            }
            assert!(seen == batch.entries && requests.contains(&count), "{count} requests");
        }
        assert_eq!(FdbBatch::default().into_requests(false).count(), 0);
    }
}
