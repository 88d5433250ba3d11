//! The control socket's messages: JSON-RPC 2.0, one object a line.
//!
//! [`Request`] is both the request on the wire and the subcommand of `dray`: a command `dray port show web` is
//! `{"jsonrpc":"2.0","id":1,"method":"port.show","params":{"name":"web","connect":false}}`. Methods, parameters and
//! the fields of replies are only ever added, and a client ignores fields that it does not know.

use crate::{Mac, Member};
use clap::{Args, Subcommand, ValueEnum, ValueHint};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::sync::LazyLock;

/// Version of this protocol. It grows if something is changed otherwise than by adding.
pub const VERSION: u32 = 1;

/// The longest request in bytes, newline included.
pub const MAX_REQUEST: usize = 1 << 20;

/// The most entries of one `fdb.load`: what the switch does between two requests of others.
pub const MAX_BATCH: usize = 10_000;

/// Not JSON (JSON-RPC 2.0, section 5.1).
pub const PARSE_ERROR: i64 = -32700;
/// JSON, but not a request; or one longer than [`MAX_REQUEST`].
pub const INVALID_REQUEST: i64 = -32600;
/// There is no such method.
pub const METHOD_NOT_FOUND: i64 = -32601;
/// The method takes other parameters.
pub const INVALID_PARAMS: i64 = -32602;
/// The switch refused; the message says why.
pub const REFUSED: i64 = -32000;
/// The configuration file that was sent is wrong; the message says where, and what would be right.
pub const BAD_FILE: i64 = -32001;

/// A request to the switch, and the subcommand of `dray` that makes it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, Subcommand)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Request {
    /// What the switch is and does
    Status {},
    /// Show, add, change and delete ports
    #[command(subcommand)]
    Port(PortRequest),
    /// Show, add, change and delete bridges
    #[command(subcommand)]
    Bridge(BridgeRequest),
    /// Show and change the forwarding database
    #[command(subcommand)]
    Fdb(FdbRequest),
    /// Show the other VTEPs, and change the lists of them
    #[command(subcommand)]
    Vtep(VtepRequest),
    /// Show the workers
    #[command(subcommand)]
    Worker(WorkerRequest),
    /// Show what was dropped, and why
    #[command(subcommand)]
    Drop(DropRequest),
    /// Show and change what drayd logs
    #[command(subcommand)]
    Log(LogRequest),
    /// Print what happens, as it happens
    Watch {
        /// Only events of this kind; may be given several times
        #[arg(long = "kind", value_name = "KIND", value_enum)]
        #[serde(default)]
        kinds: Vec<EventKind>,
        /// Begin with the event of this number, if it is still kept; else with the next one
        #[arg(long, value_name = "SEQ")]
        #[serde(default)]
        since: Option<u64>,
    },
    /// Show, change, compare, apply and save the configuration
    #[command(subcommand)]
    Config(ConfigRequest),
}

/// `port`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, Subcommand)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum PortRequest {
    /// Show ports
    Show {
        /// Only this port, or those that match a pattern with * and ?
        name: Option<String>,
        /// Only those in this bridge, or in any that matches
        #[arg(long)]
        #[serde(default, skip_serializing_if = "Option::is_none")]
        bridge: Option<String>,
        /// Only those whose link is up
        #[arg(long)]
        #[serde(default, skip_serializing_if = "is_false")]
        up: bool,
        /// Only those whose link is down
        #[arg(long, conflicts_with = "up")]
        #[serde(default, skip_serializing_if = "is_false")]
        down: bool,
        /// Show how other programs attach to it, ready to paste
        #[arg(long, requires = "name")]
        #[serde(default)]
        connect: bool,
        /// Show the secret in it, not "***"
        #[arg(long, requires = "connect")]
        #[serde(default, skip_serializing_if = "is_false")]
        secrets: bool,
    },
    /// Add a port; the flags are the keys of the configuration file
    Add(Box<PortAdd>),
    /// Delete a port, and take it out of its bridges
    Del {
        /// Its name
        name: String,
    },
    /// Change a key of a port
    Set {
        /// Its name
        name: String,
        /// The key, as in the configuration file
        key: String,
        /// Its value; its default without one
        #[arg(value_name = "VALUE")]
        #[serde(default)]
        values: Vec<String>,
    },
    /// Open a port that is administratively down
    Up {
        /// Its name
        name: String,
    },
    /// Close a port and keep it closed: its peer is told, and no frame is taken or sent
    Down {
        /// Its name
        name: String,
    },
    /// Count a port's packets and drops from zero again; the metrics and the switch's sums go on
    Clear {
        /// Its name, or a pattern with * and ? [default: all ports]
        name: Option<String>,
    },
}

/// The keys of `[[port]]`; the switch checks them as it checks a file.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, Args)]
#[serde(deny_unknown_fields)]
pub struct PortAdd {
    /// Its name
    #[arg(required_unless_present = "named", default_value = "", hide_default_value = true)]
    pub name: String,
    /// Its name, as it was given before
    #[arg(long = "name", hide = true, conflicts_with = "name")]
    #[serde(skip)]
    pub named: Option<String>,
    /// "memif", "vhost-user" or "eth"
    #[arg(long)]
    pub kind: String,
    /// What people call it
    #[arg(long, value_name = "TEXT")]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// "up" or "down": down keeps it closed [default: up]
    #[arg(long)]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub admin: Option<String>,
    /// memif, vhost-user: the control channel's socket, a path or "@name"
    #[arg(long, value_hint = ValueHint::AnyPath)]
    pub socket: Option<String>,
    /// memif, vhost-user: who may connect to a server's socket, its permission bits [default: 0660]
    #[arg(long)]
    pub socket_mode: Option<String>,
    /// memif, vhost-user: the owner of a server's socket, name or number [default: drayd's user]
    #[arg(long)]
    pub socket_owner: Option<String>,
    /// memif, vhost-user: the group of a server's socket, name or number [default: drayd's group]
    #[arg(long)]
    pub socket_group: Option<String>,
    /// memif: interface id on that socket [default: 0]
    #[arg(long)]
    pub id: Option<u64>,
    /// memif, vhost-user: "server" or "client" [default: server for memif, client for vhost-user]
    #[arg(long)]
    pub role: Option<String>,
    /// memif: must be the same on both sides
    #[arg(long)]
    pub secret: Option<String>,
    /// memif, eth: descriptors in a ring or queue [default: 1024]
    #[arg(long)]
    pub ring_size: Option<u64>,
    /// memif: bytes in a buffer, as a client [default: 2048]
    #[arg(long)]
    pub buffer_size: Option<u64>,
    /// Queue pairs; for vhost-user the most that the VM may use [default: 1, 16 for vhost-user]
    #[arg(long)]
    pub queues: Option<u64>,
    /// The port's own MAC address [default: made from the name]
    #[arg(long)]
    pub mac: Option<String>,
    /// Longest Ethernet payload in bytes [default: 9198 for memif and vhost-user, 1500 for eth]
    #[arg(long)]
    pub mtu: Option<u64>,
    /// How many MAC addresses are learned behind it [default: half of the FDB's size, at most 4096 for memif and vhost-user]
    #[arg(long)]
    pub max_macs: Option<u64>,
    /// How many broadcasts it may send in a second [default: no limit]
    #[arg(long)]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_broadcast: Option<u64>,
    /// How many multicasts it may send in a second [default: no limit]
    #[arg(long)]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_multicast: Option<u64>,
    /// How many unicasts to unknown addresses it may send in a second [default: no limit]
    #[arg(long)]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_unknown_unicast: Option<u64>,
    /// eth: a PCI address or a DPDK vdev
    #[arg(long)]
    pub device: Option<String>,
    /// Put it in this bridge, untagged or with a VLAN; may be given several times
    #[arg(long = "bridge", value_name = "BRIDGE[:VLAN]")]
    #[serde(default)]
    pub bridges: Vec<String>,
}

/// `bridge`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, Subcommand)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum BridgeRequest {
    /// Show bridges
    Show {
        /// Only this bridge, or those that match a pattern with * and ?
        name: Option<String>,
    },
    /// Add a bridge
    Add {
        /// Its name
        name: String,
        /// What people call it
        #[arg(long, value_name = "TEXT")]
        #[serde(default, skip_serializing_if = "Option::is_none")]
        description: Option<String>,
        /// VXLAN network identifier with which it joins the overlay
        #[arg(long)]
        vni: Option<u32>,
        /// A member, untagged or with a VLAN; may be given several times
        #[arg(long = "port", value_name = "PORT[:VLAN]")]
        #[serde(default)]
        ports: Vec<Member>,
    },
    /// Delete a bridge; its ports stay
    Del {
        /// Its name
        name: String,
    },
    /// Put ports into a bridge
    Join {
        /// The bridge's name
        name: String,
        /// A port, untagged or with a VLAN
        #[arg(value_name = "PORT[:VLAN]", required = true)]
        ports: Vec<Member>,
    },
    /// Take ports out of a bridge, and its static entries that lead there
    Leave {
        /// The bridge's name
        name: String,
        /// A port; with the VLAN, if it is there with several
        #[arg(value_name = "PORT[:VLAN]", required = true)]
        ports: Vec<Member>,
    },
    /// Change a key of a bridge
    Set {
        /// Its name
        name: String,
        /// The key, as in the configuration file
        key: String,
        /// Its value, several for a list; its default without one
        #[arg(value_name = "VALUE")]
        #[serde(default)]
        values: Vec<String>,
    },
}

/// `fdb`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, Subcommand)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum FdbRequest {
    /// Show entries
    Show {
        /// Only this bridge, or those that match a pattern with * and ?
        #[arg(long)]
        bridge: Option<String>,
        /// Only what is behind this port, or behind any that matches
        #[arg(long)]
        #[serde(default, skip_serializing_if = "Option::is_none")]
        port: Option<String>,
        /// Only this address, or those that match
        #[arg(long)]
        #[serde(default, skip_serializing_if = "Option::is_none")]
        mac: Option<String>,
        /// Only what is behind this VTEP
        #[arg(long, value_name = "IP")]
        #[serde(default, skip_serializing_if = "Option::is_none")]
        vtep: Option<Ipv4Addr>,
    },
    /// Add a static entry
    #[command(group(clap::ArgGroup::new("to").required(true).args(["port", "vtep"])))]
    Add {
        /// The bridge's name
        bridge: String,
        /// The MAC address
        mac: Mac,
        /// The member it is behind
        #[arg(long, value_name = "PORT[:VLAN]")]
        port: Option<Member>,
        /// The VTEP it is behind
        #[arg(long, value_name = "IP")]
        vtep: Option<Ipv4Addr>,
    },
    /// Delete an entry, learned or static
    Del {
        /// The bridge's name
        bridge: String,
        /// The MAC address
        mac: Mac,
    },
    /// Add many static entries; one that is there already gets its new place
    Load {
        /// A file of lines `BRIDGE MAC PORT[:VLAN]` or `BRIDGE MAC IP`, the IP being a VTEP's; "-" reads standard input
        #[arg(value_name = "FILE", value_parser = FdbBatch::read, value_hint = ValueHint::FilePath)]
        entries: FdbBatch,
        /// Delete these entries instead, learned or static; lines need no place then
        #[arg(long)]
        #[serde(default)]
        delete: bool,
    },
    /// Forget learned entries
    Flush {
        /// Only those of this bridge
        #[arg(long)]
        bridge: Option<String>,
        /// Only those behind this port
        #[arg(long)]
        port: Option<String>,
    },
}

/// `vtep`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, Subcommand)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum VtepRequest {
    /// Show the other VTEPs
    Show {},
    /// Add VTEPs to the head-end replication list of the table vxlan, or of a bridge
    Add {
        /// A VTEP's address
        #[arg(value_name = "IP", required = true)]
        vteps: Vec<Ipv4Addr>,
        /// The bridge; if it has no list of its own, it gets one with those of the table vxlan
        #[arg(long)]
        #[serde(default)]
        bridge: Option<String>,
    },
    /// Take VTEPs out of the head-end replication list of the table vxlan, or of a bridge
    Del {
        /// A VTEP's address
        #[arg(value_name = "IP", required = true)]
        vteps: Vec<Ipv4Addr>,
        /// The bridge; if it has no list of its own, it gets one with the others of the table vxlan
        #[arg(long)]
        #[serde(default)]
        bridge: Option<String>,
    },
}

/// `worker`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, Subcommand)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum WorkerRequest {
    /// Show the workers, and where their time goes
    Show {
        /// Since the workers started, not in the last second
        #[arg(long)]
        #[serde(default)]
        total: bool,
    },
}

/// `drop`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, Subcommand)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum DropRequest {
    /// Show drop counters that are not zero
    Show {},
}

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

/// `config`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, Subcommand)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum ConfigRequest {
    /// Show the running configuration
    Show {
        /// With the ports' secrets, not "***", with which it can't be applied
        #[arg(long)]
        #[serde(default, skip_serializing_if = "is_false")]
        secrets: bool,
    },
    /// Show what applying a file would change
    Diff {
        /// The file; "-" reads standard input [default: the one drayd was started with]
        #[arg(value_parser = ConfigFile::read, value_hint = ValueHint::FilePath)]
        file: Option<ConfigFile>,
    },
    /// Make the running configuration that of a file, touching only what differs
    Apply {
        /// The file; "-" reads standard input [default: the one drayd was started with]
        #[arg(value_parser = ConfigFile::read, value_hint = ValueHint::FilePath)]
        file: Option<ConfigFile>,
    },
    /// Change a key of the tables fdb, balance, log or vxlan
    Set {
        /// The table, without brackets
        table: String,
        /// The key, as in the configuration file
        key: String,
        /// Its value, several for a list; its default without one
        #[arg(value_name = "VALUE")]
        #[serde(default)]
        values: Vec<String>,
    },
    /// Apply the file that drayd was started with, as SIGHUP does, and say what was wrong with it
    Reload {},
    /// Write the running configuration to a file, whose comments and order stay; what it was before becomes FILE~
    Save {
        /// The file, which dray writes itself [default: the one drayd was started with, which drayd writes]
        #[arg(value_hint = ValueHint::FilePath)]
        #[serde(skip)]
        file: Option<PathBuf>,
        /// Write the ports' secrets into FILE, not "***", with which it can't be applied
        #[arg(long, requires = "file")]
        #[serde(skip)]
        secrets: bool,
    },
}

/// A configuration file as it is sent: the client reads it, so that errors name the file as the user did.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
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

/// Entries for `fdb.load`: an array on the wire.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct FdbBatch {
    /// The entries.
    pub entries: Vec<FdbStatic>,
    /// Lines of the file that are no entries. They stay with the client.
    #[serde(skip)]
    pub refused: Vec<FdbRefused>,
}

/// An entry of `fdb.load`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
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

fn is_false(is: &bool) -> bool {
    !is
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
                Err(reason) => batch.refused.push(FdbRefused { line, reason }),
            }
        }
        batch
    }

    /// As requests that the switch takes: each of at most [`MAX_BATCH`] entries and [`MAX_REQUEST`] bytes.
    pub fn into_requests(self, delete: bool) -> impl Iterator<Item = Request> {
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
                part.is_empty() || part.len() < MAX_BATCH && size <= MAX_REQUEST
            }) {
                part.push(entry);
            }
            let entries = FdbBatch { entries: part, refused: Vec::new() };
            (!entries.entries.is_empty()).then_some(Request::Fdb(FdbRequest::Load { entries, delete }))
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

impl Request {
    /// The method's name on the wire, such as `port.show`.
    pub fn method(&self) -> String {
        self.method_and_params().0
    }

    fn method_and_params(&self) -> (String, Value) {
        let open = |value: Value| match value {
            Value::Object(map) => map.into_iter().next().expect("serde writes a variant as an object of one key"),
            other => unreachable!("a variant with fields became {other}"),
        };
        let (method, inner) =
            open(serde_json::to_value(self).expect("no map keys that are not strings, no failing types"));
        if matches!(self, Request::Status {} | Request::Watch { .. }) {
            return (method, inner);
        }
        let (command, params) = open(inner);
        (format!("{method}.{command}"), params)
    }

    /// The request as a line, without the newline.
    pub fn encode(&self, id: u64) -> String {
        let (method, params) = self.method_and_params();
        json!({ "jsonrpc": "2.0", "id": id, "method": method, "params": params }).to_string()
    }

    /// Reads a line: the request's id, and the request or what is wrong with it. The id is null if it can't be read.
    pub fn decode(line: &[u8]) -> (Value, Result<Request, RpcError>) {
        let call: Value = match serde_json::from_slice(line) {
            Ok(call) => call,
            Err(error) => return (Value::Null, Err(RpcError::new(PARSE_ERROR, format!("not JSON: {error}")))),
        };
        let id = match call.get("id") {
            Some(id @ (Value::String(_) | Value::Number(_))) => id.clone(),
            _ => Value::Null,
        };
        let request = Self::from_call(call, id.is_null());
        (id, request)
    }

    fn from_call(mut call: Value, no_id: bool) -> Result<Request, RpcError> {
        let invalid = |why: &str| Err(RpcError::new(INVALID_REQUEST, why.into()));
        if !call.is_object() {
            return invalid("a request is an object, and one at a time");
        }
        if call.get("jsonrpc").and_then(Value::as_str) != Some("2.0") {
            return invalid("jsonrpc must be \"2.0\"");
        }
        if no_id {
            return invalid("id must be a number or a string");
        }
        let params = call.get_mut("params").map_or(Value::Null, Value::take);
        let Some(method) = call.get("method").and_then(Value::as_str) else {
            return invalid("method must be a string");
        };
        // Making the list takes longer than most requests.
        static METHODS: LazyLock<Vec<String>> = LazyLock::new(Request::methods);
        if !METHODS.iter().any(|known| known == method) {
            let short: String = method.chars().take(64).collect();
            return Err(RpcError::new(METHOD_NOT_FOUND, format!("there is no method {short:?}")));
        }
        let params = match params {
            Value::Null => Value::Object(Map::new()),
            Value::Object(_) => params,
            _ => return Err(RpcError::new(INVALID_PARAMS, "params must be an object: they have names".into())),
        };
        let request = match method.split_once('.') {
            Some((group, command)) => json!({ group: { command: params } }),
            None => json!({ method: params }),
        };
        serde_json::from_value(request).map_err(|error| RpcError::new(INVALID_PARAMS, format!("{method}: {error}")))
    }

    /// The names of all methods.
    pub fn methods() -> Vec<String> {
        let root = Request::augment_subcommands(clap::Command::new("dray"));
        let mut methods = Vec::new();
        for group in root.get_subcommands() {
            if group.get_subcommands().next().is_none() {
                methods.push(group.get_name().to_string());
            }
            for command in group.get_subcommands() {
                methods.push(format!("{}.{}", group.get_name(), command.get_name()));
            }
        }
        methods
    }
}

/// What the switch answers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Response {
    jsonrpc: String,
    /// The request's id; null if it could not be read.
    pub id: Value,
    /// The reply or why there is none.
    #[serde(flatten)]
    pub outcome: Outcome,
}

/// The reply or why there is none.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// The reply; its type depends on the method.
    Result(Value),
    /// Why there is none.
    Error(RpcError),
}

/// Why a request failed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RpcError {
    /// Such as [`REFUSED`].
    pub code: i64,
    /// For people.
    pub message: String,
}

impl RpcError {
    /// An error.
    pub fn new(code: i64, message: String) -> Self {
        RpcError { code, message }
    }
}

impl std::fmt::Display for RpcError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for RpcError {}

impl Response {
    /// The answer to the request `id`.
    pub fn new(id: Value, outcome: Result<Value, RpcError>) -> Self {
        let outcome = match outcome {
            Ok(reply) => Outcome::Result(reply),
            Err(error) => Outcome::Error(error),
        };
        Response { jsonrpc: "2.0".into(), id, outcome }
    }

    /// The answer as a line, without the newline.
    pub fn encode(&self) -> String {
        serde_json::to_string(self).expect("no map keys that are not strings, no failing types")
    }

    /// Reads a line.
    ///
    /// # Errors
    /// It is no JSON-RPC response.
    pub fn decode(line: &[u8]) -> Result<Self, serde_json::Error> {
        serde_json::from_slice(line)
    }
}

/// What an event is about.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum EventKind {
    /// A port's link came up or went down
    Link,
    /// A port was added, changed or deleted
    Port,
    /// A bridge was added, changed or deleted
    Bridge,
    /// Another VTEP came, went, or has another state
    Vtep,
    /// Static entries came or went, MAC addresses moved to another port, or a port has more of them than it may
    Fdb,
    /// Packets of a port are dropped for a reason that did not occur in the minute before
    Drop,
    /// A peer was refused
    Refused,
    /// A worker gets no CPU time, or gets some again
    Worker,
    /// Anything else of the configuration was changed, or it was saved
    #[default]
    Config,
    /// Events were lost, as they were not read as fast as they came
    Lost,
    /// Of a kind that this version does not know
    #[serde(other)]
    #[value(skip)]
    Other,
}

impl EventKind {
    /// Its name, as in JSON.
    pub fn name(self) -> String {
        serde_json::to_value(self).ok().and_then(|name| name.as_str().map(str::to_owned)).unwrap_or_default()
    }
}

/// Reply to `watch`. Notifications of the method `event` follow, whose `params` are an [`Event`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Watching {
    /// Which drayd it is: another one begins again with the event number 1.
    pub instance: String,
    /// The number of the first event that follows.
    pub next: u64,
    /// How many since the wanted one are not kept any more.
    pub lost: u64,
}

/// Something that happened: what `dray watch --json` prints, one a line.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Event {
    /// Its number: one more than that of the event before it.
    pub seq: u64,
    /// When, UTC, as RFC 3339 writes it.
    pub time: String,
    /// `link`, `port`, `bridge`, `vtep`, `fdb`, `drop`, `refused`, `worker`, `config` or `lost`.
    pub kind: EventKind,
    /// What happened, for people.
    pub text: String,
    /// Who changed the configuration: user and process on the control socket, or `SIGHUP`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub by: Option<String>,
    /// The port it is about.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub port: Option<String>,
    /// The bridge it is about.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bridge: Option<String>,
    /// The VTEP it is about.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vtep: Option<Ipv4Addr>,
    /// What it is now: of a link `up` or `down`, of a VTEP its state, or `gone`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub state: Option<String>,
    /// The drop counter, `stage.reason`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub drop: Option<String>,
    /// How many packets, peers, entries or events.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub count: Option<u64>,
}

/// Reply to `status`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Status {
    /// Version of drayd.
    pub version: String,
    /// Version of the control protocol.
    pub protocol: u32,
    /// Process id of drayd.
    pub pid: u32,
    /// Seconds since drayd started.
    pub uptime_seconds: u64,
    /// Number of workers.
    pub workers: usize,
    /// Workers that do not run.
    pub silent_workers: Vec<SilentWorker>,
    /// Number of ports.
    pub ports: usize,
    /// Ports whose link is up.
    pub ports_up: usize,
    /// Number of bridges.
    pub bridges: usize,
    /// Who was refused on a socket and is not known to have wanted any port.
    pub strangers: u64,
    /// Why the last of them was, on which socket, and its process.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stranger: Option<String>,
    /// Other VTEPs known.
    pub vteps: usize,
    /// MAC addresses in the FDB.
    pub fdb_used: u64,
    /// MAC addresses it can hold.
    pub fdb_size: u64,
    /// Packets received on all ports. `received + originated + flood_copies + segments = sent + dropped + consumed`.
    pub received: u64,
    /// Packets sent on all ports.
    pub sent: u64,
    /// Packets dropped, for whatever reason.
    pub dropped: u64,
    /// Copies made by flooding: one less than the receivers of a flooded packet.
    pub flood_copies: u64,
    /// Packets added by segmentation: one less than the pieces that a packet was cut into.
    pub segments: u64,
    /// Packets the switch made itself, such as ARP.
    pub originated: u64,
    /// Packets addressed to the switch itself, such as ARP, that it took in.
    pub consumed: u64,
}

/// A worker that gets no CPU time: its ports' packets wait, and so do changes of the configuration.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct SilentWorker {
    /// The CPU it is pinned to.
    pub cpu: usize,
    /// Seconds for which it has not run, 1 or more.
    pub seconds: f64,
    /// Changes that wait until it runs.
    pub waiting: usize,
}

/// One of the reply to `port.show`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct PortInfo {
    /// Its name.
    pub name: String,
    /// `memif`, `vhost-user` or `eth`.
    pub kind: String,
    /// What people call it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// Whether it is to be open: `up` or `down`.
    pub admin: String,
    /// `up` or `down`.
    pub link: String,
    /// Why it is down. If somebody was refused since, why that was.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Peers that were refused, since the port was opened.
    pub refused: u64,
    /// Of these, those with a wrong secret.
    pub wrong_secrets: u64,
    /// Why the last of them was, and its process.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub refusal: Option<String>,
    /// Packets received.
    pub rx_packets: u64,
    /// Bytes received, without FCS.
    pub rx_bytes: u64,
    /// Packets sent.
    pub tx_packets: u64,
    /// Bytes sent, without FCS.
    pub tx_bytes: u64,
    /// Packets dropped, by reason; reasons that never occurred are left out. Drops on reception and of packets
    /// received here, and drops of packets on their way out here.
    pub drops: BTreeMap<String, u64>,
    /// Copies made of packets received here by flooding.
    pub flood_copies: u64,
    /// Packets added by segmentation of packets on their way out here.
    pub segments: u64,
    /// Packets received here, copies included, that were handed to other ports.
    /// `rx_packets + flood_copies = switched + consumed + drops` (but those of `tx.`).
    pub switched: u64,
    /// Packets received here that were addressed to the switch itself.
    pub consumed: u64,
    /// Packets that the switch itself made to be sent here.
    pub originated: u64,
    /// Packets received here whose source address found no room in the FDB. They were forwarded all the same.
    pub not_learned: u64,
    /// Packets received here whose source address was not learned, or was left at another port, because as many as may be (`max_macs`)
    /// are learned here already. They were forwarded all the same.
    pub over_max_macs: u64,
    /// What else is counted of packets received here: those of the [counters](#counters) that have no field of their own.
    pub counters: BTreeMap<String, u64>,
    /// MAC addresses learned behind it now; for the underlay behind all VTEPs.
    pub macs: u64,
    /// How many may be.
    pub max_macs: u64,
    /// The port's own MAC address.
    pub mac: Mac,
    /// Longest Ethernet payload, bytes.
    pub mtu: u16,
    /// Queue pairs in use, or configured while the link is down.
    pub queues: u16,
    /// The bridges it is in, and with which VLAN.
    pub bridges: Vec<PortBridge>,
    /// Whether it is the underlay.
    pub underlay: bool,
    /// What is not as it should be though frames pass, in words.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
    /// What only this kind has: for memif `socket`, `id`, `role`, `ring_size`, `buffer_size`, and while the link is up
    /// `peer`, `peer_interface`, `rx_rings`, `tx_rings`, `sealed`; for eth `device`, `driver`, `ring_size`, `rss`,
    /// `speed_mbps`, and what the device and the kernel
    /// have lost since it was opened: `missed`, `no_buffer`, `rx_errors`, `tx_errors` (the drops `rx.missed`, `rx.error` and
    /// `tx.device`); for vhost-user
    /// `socket`, `role`, `connected` (whether a front end is), `features` and `protocol_features` (names of the negotiated
    /// ones), `device_status` (virtio 1.2, section 2.1), `rings` (of each the driver has described: `index`, even where it
    /// receives, odd where it sends, `size`, `packed`, `started`, `enabled`, and counts of `kicks` from the driver and
    /// `interrupts` to it), with rings `layout` (`split` or `packed`) and `ring_size` (of the largest), `regions` and `bytes`
    /// of shared memory, `sealed` (none of it can shrink), `logging` (a migration is under way), `guest_mtu` (as the front
    /// end told it, else null), and `faults` (connections that were reset for what the peer did wrong, by reason).
    pub detail: BTreeMap<String, Value>,
}

/// A bridge that a port is in.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct PortBridge {
    /// The bridge's name.
    pub bridge: String,
    /// The VLAN, if the port is tagged in it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vlan: Option<u16>,
}

/// One of the reply to `port.show` with `connect`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ConnectInfo {
    /// The program that would attach to the port, such as `testpmd`.
    pub program: String,
    /// What to paste. Only comments, if the program can't be given the port's socket or secret.
    pub text: String,
    /// What to know before: which versions work, or that Dray's tests can't run these lines.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
}

/// One of the reply to `bridge.show`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct BridgeInfo {
    /// Its name.
    pub name: String,
    /// What people call it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// Its VXLAN network identifier.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vni: Option<u32>,
    /// Largest MTU that fits all members and tunnels, bytes; absent if there are none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mtu: Option<u16>,
    /// Its members.
    pub members: Vec<Member>,
    /// MAC addresses known in it.
    pub macs: u64,
    /// Where a broadcast goes: members, and VTEPs of the head-end replication list.
    pub flood_targets: usize,
    /// Its head-end replication list.
    pub peers: Vec<Ipv4Addr>,
}

/// One of the reply to `fdb.show`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
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
}

/// One of the reply to `vtep.show`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VtepInfo {
    /// Its address.
    pub address: Ipv4Addr,
    /// Itself if it is on-link, else the gateway; absent if there is no route.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_hop: Option<Ipv4Addr>,
    /// The next hop's MAC address, once it is resolved.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mac: Option<Mac>,
    /// `resolved`, `resolving`, `static` (configured in `neighbours`) or `no route`.
    pub state: String,
    /// Whether it was learned from a packet, not configured.
    pub learned: bool,
}

/// One of the reply to `worker.show`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct WorkerInfo {
    /// The CPU it is pinned to.
    pub cpu: usize,
    /// The receive queues it polls: the port's name, and ` xN` if it has several of them.
    pub queues: Vec<String>,
    /// What each of them brings.
    pub loads: Vec<QueueInfo>,
    /// Times it went round all its queues.
    pub polls: u64,
    /// Share of the last second that it spent on packets, 0..=1; with `total`, of the time since it started.
    pub busy: f64,
    /// Share of the time in which it found nothing to do: `1 - busy`.
    pub idle: f64,
    /// Packets received since it started.
    pub packets: u64,
    /// Packets per poll that found some, since it started.
    pub burst: f64,
    /// Ticks of the CPU's time-stamp counter spent on each packet received in that time; left out if there were none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ticks_per_packet: Option<f64>,
    /// The same in nanoseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ns_per_packet: Option<f64>,
    /// Where they were spent, in a packet's order: the stages that had any packets.
    pub stages: Vec<StageInfo>,
    /// Seconds for which it has not run, 1 or more; left out if it runs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub silent_seconds: Option<f64>,
    /// Changes that it has yet to take up.
    pub waiting: usize,
}

/// A receive queue of a worker.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct QueueInfo {
    /// The port's name.
    pub port: String,
    /// Which of the port's receive queues, from 0.
    pub queue: u16,
    /// Packets received since the link came up, on whichever worker.
    pub packets: u64,
    /// Share of the worker's time that they took in the last second, 0..=1; with `total`, of all its time.
    pub share: f64,
    /// Ticks of the CPU's time-stamp counter that they took since the link came up, on whichever worker.
    pub ticks: u64,
}

/// What a stage of a worker takes, found in a sample of the bursts (one of 31).
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct StageInfo {
    /// Its name: one of the [stages](#stages).
    pub stage: String,
    /// Ticks of the CPU's time-stamp counter for each packet that the stage had to do with.
    pub ticks_per_packet: f64,
    /// The same in nanoseconds.
    pub ns_per_packet: f64,
    /// Packets per burst, of the bursts in which the stage had any.
    pub packets_per_burst: f64,
    /// Its share of the time of all stages, 0..=1.
    pub share: f64,
    /// Packets in the sample.
    pub sampled: u64,
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

/// Reply to `log.show`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct LogInfo {
    /// The key `level` of `[log]`.
    pub level: String,
}

/// Reply to `config.show`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ConfigText {
    /// The running configuration as a file, defaults left out.
    pub text: String,
}

/// Reply to `config.diff`, `config.apply`, `config.reload`, and to whatever else changes the configuration.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ConfigChange {
    /// One line for each change, beginning with `+`, `-` or `~`; none if nothing differs.
    pub changes: Vec<String>,
}

/// Reply to `config.save`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ConfigSaved {
    /// The file that was written.
    pub file: PathBuf,
}

/// Reply to `fdb.load`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct FdbLoaded {
    /// How many entries were added, changed or (with `delete`) deleted, those that were as they should be among them.
    pub done: u64,
    /// The others.
    pub refused: Vec<FdbRefused>,
}

/// An entry that was refused.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct FdbRefused {
    /// Its line in the file, or its place in the array from 1.
    pub line: usize,
    /// Why.
    pub reason: String,
}

/// Reply to `fdb.flush`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct FdbFlushed {
    /// How many entries were forgotten.
    pub entries: u64,
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Dray {
        #[command(subcommand)]
        request: Request,
    }

    fn command(line: &str) -> Request {
        let words = std::iter::once("dray").chain(line.split(' '));
        Dray::try_parse_from(words).unwrap_or_else(|error| panic!("{line}: {error}")).request
    }

    #[test]
    fn clap_is_sound() {
        <Dray as clap::CommandFactory>::command().debug_assert();
    }

    #[test]
    fn commands_are_methods() {
        let lines = [
            ("status", r#"{"id":1,"jsonrpc":"2.0","method":"status","params":{}}"#),
            (
                "port show web --connect",
                r#"{"id":1,"jsonrpc":"2.0","method":"port.show","params":{"connect":true,"name":"web"}}"#,
            ),
            ("port del web", r#"{"id":1,"jsonrpc":"2.0","method":"port.del","params":{"name":"web"}}"#),
            (
                "bridge add blue --vni 42 --port web --port trunk:10",
                concat!(
                    r#"{"id":1,"jsonrpc":"2.0","method":"bridge.add","params":{"name":"blue","#,
                    r#""ports":[{"port":"web"},{"port":"trunk","vlan":10}],"vni":42}}"#
                ),
            ),
            (
                "fdb add blue 02:00:00:00:00:0a --vtep 10.9.0.2",
                concat!(
                    r#"{"id":1,"jsonrpc":"2.0","method":"fdb.add","params":{"bridge":"blue","#,
                    r#""mac":"02:00:00:00:00:0a","port":null,"vtep":"10.9.0.2"}}"#
                ),
            ),
        ];
        for (line, wire) in lines {
            let request = command(line);
            assert_eq!(request.encode(1), wire);
            assert_eq!(Request::decode(wire.as_bytes()), (json!(1), Ok(request)));
        }
    }

    #[test]
    fn every_method_is_reached_by_its_name() {
        let file = std::env::temp_dir().join(format!("dray-config-rpc-{}", std::process::id()));
        std::fs::write(&file, "# nothing\n").unwrap();
        let lines = [
            "status".to_string(),
            "port show".into(),
            "port add a --kind memif --socket /a --ring-size 512 --bridge blue:10".into(),
            "port del a".into(),
            "port set a mtu 1500".into(),
            "port up a".into(),
            "port down a".into(),
            "port clear".into(),
            "bridge show".into(),
            "bridge add b".into(),
            "bridge del b".into(),
            "bridge join b a c:10".into(),
            "bridge leave b a".into(),
            "bridge set b peers 10.0.0.1 10.0.0.2".into(),
            "fdb show --bridge b".into(),
            "fdb add b 02:00:00:00:00:01 --port a:10".into(),
            "fdb del b 02:00:00:00:00:01".into(),
            format!("fdb load {} --delete", file.display()),
            "fdb flush --port a".into(),
            "vtep show".into(),
            "vtep add 10.0.0.1 10.0.0.2".into(),
            "vtep del 10.0.0.1 --bridge b".into(),
            "worker show".into(),
            "drop show".into(),
            "log show".into(),
            "log level warn,port=debug".into(),
            "watch --kind link --kind vtep --since 7".into(),
            "config show".into(),
            format!("config diff {}", file.display()),
            format!("config apply {}", file.display()),
            "config set fdb ageing 60".into(),
            "config reload".into(),
            "config save".into(),
        ];
        let mut methods = Vec::new();
        for line in &lines {
            let request = command(line);
            let (id, decoded) = Request::decode(request.encode(7).as_bytes());
            assert_eq!((id, decoded), (json!(7), Ok(request.clone())), "{line}");
            methods.push(request.method());
        }
        std::fs::remove_file(&file).unwrap();
        assert_eq!(methods, Request::methods());
    }

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
        let one = Request::Fdb(FdbRequest::Load { entries: batch, delete: false });
        assert_eq!(Request::decode(wire.as_bytes()), (json!(1), Ok(one)));

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
                assert!(line.len() < MAX_REQUEST, "{}", line.len());
                let (_, Ok(Request::Fdb(FdbRequest::Load { entries, delete: true }))) =
                    Request::decode(line.as_bytes())
                else {
                    panic!("{line:.200}")
                };
                assert!((1..=MAX_BATCH).contains(&entries.entries.len()));
                seen.extend(entries.entries);
                count += 1;
            }
            assert!(seen == batch.entries && requests.contains(&count), "{count} requests");
        }
        assert_eq!(FdbBatch::default().into_requests(false).count(), 0);
    }

    #[test]
    fn optional_parameters_may_be_left_out() {
        let show = command("port show");
        assert_eq!(Request::decode(br#"{"jsonrpc":"2.0","id":"a","method":"port.show"}"#), (json!("a"), Ok(show)));
        let add = Request::Port(PortRequest::Add(Box::new(PortAdd {
            name: "a".into(),
            kind: "eth".into(),
            ..PortAdd::default()
        })));
        let line = br#"{"jsonrpc":"2.0","id":2,"method":"port.add","params":{"name":"a","kind":"eth"}}"#;
        assert_eq!(Request::decode(line), (json!(2), Ok(add)));
    }

    #[test]
    fn wrong_requests_have_their_codes() {
        let cases = [
            ("", PARSE_ERROR),
            ("{\"jsonrpc\":", PARSE_ERROR),
            ("\u{0}", PARSE_ERROR),
            ("[]", INVALID_REQUEST),
            ("3", INVALID_REQUEST),
            (r#"{"id":1,"method":"status"}"#, INVALID_REQUEST),
            (r#"{"jsonrpc":"2.0","method":"status"}"#, INVALID_REQUEST),
            (r#"{"jsonrpc":"2.0","id":[],"method":"status"}"#, INVALID_REQUEST),
            (r#"{"jsonrpc":"2.0","id":1,"method":3}"#, INVALID_REQUEST),
            (r#"{"jsonrpc":"2.0","id":1,"method":"port"}"#, METHOD_NOT_FOUND),
            (r#"{"jsonrpc":"2.0","id":1,"method":"status."}"#, METHOD_NOT_FOUND),
            (r#"{"jsonrpc":"2.0","id":1,"method":"port.show.x"}"#, METHOD_NOT_FOUND),
            (r#"{"jsonrpc":"2.0","id":1,"method":"status","params":[]}"#, INVALID_PARAMS),
            (r#"{"jsonrpc":"2.0","id":1,"method":"status","params":{"x":1}}"#, INVALID_PARAMS),
            (r#"{"jsonrpc":"2.0","id":1,"method":"port.del"}"#, INVALID_PARAMS),
            // The daemon writes no file but its own.
            (r#"{"jsonrpc":"2.0","id":1,"method":"config.save","params":{"file":"/etc/passwd"}}"#, INVALID_PARAMS),
            (r#"{"jsonrpc":"2.0","id":1,"method":"port.add","params":{"name":"a","kind":"b","x":1}}"#, INVALID_PARAMS),
            (r#"{"jsonrpc":"2.0","id":1,"method":"fdb.del","params":{"bridge":"b","mac":"02:00"}}"#, INVALID_PARAMS),
        ];
        for (line, code) in cases {
            assert_eq!(Request::decode(line.as_bytes()).1.unwrap_err().code, code, "{line}");
        }
        let deep = "[".repeat(100_000);
        assert_eq!(Request::decode(deep.as_bytes()).1.unwrap_err().code, PARSE_ERROR);
    }

    #[test]
    fn wrong_commands_are_refused() {
        for line in [
            "port show --connect",
            "port show web --secrets",
            "config save --secrets",
            "fdb add b 02:00:00:00:00:01",
            "fdb add b 02:00:00:00:00:01 --port a --vtep 10.0.0.1",
            "bridge add b --port a:4095",
            "config apply /nonexistent/dray.toml",
        ] {
            assert!(Dray::try_parse_from(std::iter::once("dray").chain(line.split(' '))).is_err(), "{line}");
        }
    }

    #[test]
    fn responses() {
        let done = Response::new(json!(1), Ok(json!([])));
        assert_eq!(done.encode(), r#"{"jsonrpc":"2.0","id":1,"result":[]}"#);
        assert_eq!(Response::decode(done.encode().as_bytes()).unwrap(), done);
        let refused = Response::new(json!(1), Err(RpcError::new(REFUSED, "no".into())));
        assert_eq!(refused.encode(), r#"{"jsonrpc":"2.0","id":1,"error":{"code":-32000,"message":"no"}}"#);
        assert_eq!(Response::decode(refused.encode().as_bytes()).unwrap(), refused);
    }

    #[test]
    fn replies_tolerate_other_versions() {
        let port: PortInfo = serde_json::from_value(json!({ "name": "web", "link": "up", "new_field": 1 })).unwrap();
        assert_eq!((port.name.as_str(), port.link.as_str(), port.rx_packets), ("web", "up", 0));
        let entry = FdbEntry { bridge: "b".into(), is_static: true, ..FdbEntry::default() };
        assert_eq!(
            serde_json::to_value(entry).unwrap(),
            json!({ "bridge": "b", "mac": "00:00:00:00:00:00", "age_seconds": 0, "static": true })
        );
    }
}
