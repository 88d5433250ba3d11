//! The page `docs/commands.md`, made from the commands themselves and from the source text of the socket's messages.

use crate::{client, daemon};
use clap::{Arg, ArgAction, Command, FromArgMatches, Subcommand};
use dray_api::{
    AnyRequest, CODES, ConfigApply, ConfigDiff, ConfigFile, FdbBatch, FdbLoad, MAX_BATCH, MAX_REQUEST, NUMBERS, VERSION,
};
use dray_config::CONTROL_SOCKET;
use dray_switch::clock::Stage;
use dray_switch::{Count, Drop};
use serde_json::Value;
use std::fmt::Write;

/// Where the replies are declared and described, and [`dray_config::Member`], which is in some of them.
const SOURCES: [&str; 12] = [
    include_str!("../api/src/error.rs"),
    include_str!("../api/src/event.rs"),
    include_str!("../api/src/status.rs"),
    include_str!("../api/src/port.rs"),
    include_str!("../api/src/bridge.rs"),
    include_str!("../api/src/fdb.rs"),
    include_str!("../api/src/vtep.rs"),
    include_str!("../api/src/worker.rs"),
    include_str!("../api/src/drops.rs"),
    include_str!("../api/src/log.rs"),
    include_str!("../api/src/config.rs"),
    include_str!("../../config/src/valid.rs"),
];

/// The page's exchange on the control socket: a request and the answer of a switch that has such a bridge.
pub const EXCHANGE: [&str; 2] = [
    r#"{"jsonrpc":"2.0","id":1,"method":"bridge.show","params":{"name":"blue"}}"#,
    concat!(
        r#"{"jsonrpc":"2.0","id":1,"result":[{"name":"blue","mtu":9198,"members":[{"port":"web"},{"port":"trunk","vlan":10}],"#,
        r#""macs":0,"flood_targets":2,"peers":[]}]}"#
    ),
];

/// The page's use of `watch`: the request, its answer, and an event.
const WATCH: [&str; 3] = [
    r#"{"jsonrpc":"2.0","id":1,"method":"watch","params":{"kinds":["link"]}}"#,
    r#"{"jsonrpc":"2.0","id":1,"result":{"instance":"4711-1764266761123","next":42,"lost":0}}"#,
    concat!(
        r#"{"jsonrpc":"2.0","method":"event","params":{"seq":43,"time":"2026-11-27T18:06:01.123Z","kind":"link","#,
        r#""text":"port web: down: the peer disconnected","port":"web","state":"down"}}"#
    ),
];

/// The reference page of the commands and of their JSON, in Markdown.
///
/// # Panics
/// If a command has no example or a reply has a field of a type without a JSON name: this page is to be completed.
pub fn reference() -> String {
    let (mut drayd, mut dray) = (daemon::command(), client::command());
    drayd.build();
    dray.build();
    let mut leaves = Vec::new();
    collect(&dray, &mut leaves);
    let types = types();

    let mut page = String::from(
        "# The commands

<!-- Made by `cargo run -p dray-control --example commands > docs/commands.md`; do not edit. -->

`drayd` is the switch, `dray` asks and changes it while it runs. Both tell more with `--help`.

| Command | What it does |
|---|---|
",
    );
    for command in [&drayd].into_iter().chain(leaves.iter().copied()) {
        let name = full_name(command);
        let _ = writeln!(page, "| [`{name}`](#{}) | {} |", name.replace(' ', "-"), about(command));
    }

    page += "\n## drayd\n\n";
    describe(&mut page, &drayd);
    page += "\nSIGTERM and SIGINT end it, SIGHUP makes it read the file again and apply what differs,\nas `dray config reload` does, which also says what was wrong with it.\n";
    page += "\n## dray\n\n";
    describe(&mut page, &dray);
    page += "\n`--json` may stand anywhere on the line. The options of `port add` are the keys of\n\
        [the configuration file](configuration.md), where their values are described.\n\
        Below, each has its usage, an example with the request that it makes, and the type of its reply.\n";
    for command in leaves {
        let name = full_name(command);
        let _ = write!(page, "\n### {name}\n\n");
        describe(&mut page, command);
        let method = name.trim_start_matches("dray ").replace(' ', ".");
        let Some(known) = AnyRequest::methods().find(|known| known.name == method) else {
            continue;
        };
        let (line, request) = example(known.example);
        assert_eq!(request.method(), method, "its example is of it");
        let _ = write!(page, "\n```text\ndray {line}\n{}\n```\n", request.encode(1));
        let replies: Vec<String> = replies(&types, &method)
            .into_iter()
            .map(|reply| {
                let array = if reply.is_element { "array of " } else { "" };
                format!("{array}{}{}", link(reply.of.name), reply.condition)
            })
            .collect();
        let _ = write!(page, "\nReply: {}.\n", replies.join("; "));
    }
    json(&mut page, &types);
    names(&mut page);
    socket(&mut page);
    page
}

/// The replies' types.
fn json(page: &mut String, types: &[Type]) {
    let _ = write!(
        page,
        "
## JSON

With `--json` a command prints the reply's object or array. It is additive: within version {VERSION}, which is
`protocol` in `dray status --json`, fields are added, never renamed or removed. A program ignores fields that it does
not know. What is marked optional is left out when there is nothing to tell.
"
    );
    for reply in types.iter().filter(|reply| is_reached(types, reply)) {
        let _ = write!(page, "\n### {}\n\n{}\n\n| Field | Type | Meaning |\n|---|---|---|\n", reply.name, reply.doc);
        for field in &reply.fields {
            let optional = if field.optional { ", optional" } else { "" };
            let _ = writeln!(
                page,
                "| `{}` | {}{optional} | {} |",
                field.key,
                json_type(types, field.rust_type),
                cell(&field.doc)
            );
        }
    }
}

/// The names in replies that are no fields, as the stages declare them.
fn names(page: &mut String) {
    let stages = Stage::ALL.iter().map(|stage| (stage.name(), stage.description()));
    let counters = Count::ALL.iter().map(|count| (count.name(), count.description()));
    let drops = Drop::ALL.iter().map(|drop| (drop.name(), drop.description()));
    type Names = Vec<(&'static str, &'static str)>;
    let lists: [(&str, &str, Names); 3] = [
        (
            "Stages",
            "What a worker does with a burst, in order, as `dray worker show` and the metrics name it.",
            stages.collect(),
        ),
        (
            "Counters",
            "What stages count of the packets that a port receives, in the metrics as `dray_port_NAME_packets`.",
            counters.collect(),
        ),
        (
            "Drop reasons",
            "Those that begin with `tx.` count for the port that packets were to leave through, all others for the one they came from. \
             What usually makes each happen, and what to do about it: [Troubleshooting](troubleshooting.md).",
            drops.collect(),
        ),
    ];
    for (heading, text, names) in lists {
        let _ = write!(page, "\n## {heading}\n\n{text}\n\n| Name | Meaning |\n|---|---|\n");
        for (name, meaning) in names {
            let _ = writeln!(page, "| `{name}` | {} |", cell(meaning));
        }
    }
}

fn socket(page: &mut String) {
    let [request, answer] = EXCHANGE;
    let [watch, watching, event] = WATCH;
    let _ = write!(
            page,
            "
## The control socket

It is a Unix stream socket that speaks [JSON-RPC 2.0](https://www.jsonrpc.org/specification), one object a line. The
method is the command's name with a dot; each command above shows the request that it makes. Parameters have names, and
those that are `null` may be left out; `id` is a number or a string. There are no batches of requests. A
request has at most {MAX_REQUEST} bytes (`MAX_REQUEST`), the newline included, and one `fdb.load` at most {MAX_BATCH} entries
(`MAX_BATCH`); `dray fdb load` sends as many requests as it takes.

```text
$ echo '{request}' | socat - UNIX-CONNECT:{CONTROL_SOCKET}
{answer}
```

After the reply to `watch` the connection has notifications only, until one side closes it: objects without `id`, of the
method `event`, whose `params` are an [Event](#event). They are numbered. A program that knows the number of its last event and
was disconnected asks for those `since` the next one; if `lost` is not 0, an event is of the kind `lost`, or `instance` is another
one, it has missed some, and reads anew what it has to know, on another connection. Who reads too slowly loses the oldest events
and slows nobody else.

```text
$ echo '{watch}' | socat -t 60 - UNIX-CONNECT:{CONTROL_SOCKET}
{watching}
{event}
```

If a request fails, the answer has an `error` with `code`, a number, `message`, for people, and `data`, for programs. With
`--json`, `dray` prints it on standard error, as `{{\"error\":{{...}}}}`.

| Number | Meaning |
|---|---|
"
        );
    for (number, meaning) in NUMBERS {
        let _ = writeln!(page, "| {number} | {} |", meaning.trim());
    }
    *page += "
In `data`, `code` is what a program can act on; codes are only ever added. `path`, if it is there, says what it is about: an object or
its key, as in `port.web.mtu`, or a place in a file, as in `dray.toml:3:7`.

| Code | Meaning |
|---|---|
";
    for (code, meaning) in CODES {
        let _ = writeln!(page, "| `{}` | {} |", code.name(), meaning.trim());
    }
}

/// The commands below `command` that do something.
fn collect<'a>(command: &'a Command, leaves: &mut Vec<&'a Command>) {
    for sub in command.get_subcommands().filter(|sub| sub.get_name() != "help") {
        if sub.has_subcommands() { collect(sub, leaves) } else { leaves.push(sub) }
    }
}

/// Such as `dray port show`.
fn full_name(command: &Command) -> &str {
    command.get_bin_name().unwrap_or(command.get_name())
}

fn about(command: &Command) -> String {
    sentence(&command.get_about().map(ToString::to_string).unwrap_or_default())
}

/// Clap's texts have no full stop.
fn sentence(text: &str) -> String {
    if text.is_empty() || text.ends_with('.') { text.to_owned() } else { format!("{text}.") }
}

/// In a table.
fn cell(text: &str) -> String {
    text.replace('|', "\\|")
}

/// What a command does, its usage, and its arguments.
fn describe(page: &mut String, command: &Command) {
    let usage = command.clone().render_usage().to_string();
    let _ = write!(page, "{}\n\n```text\n{}\n```\n", about(command), usage.trim_start_matches("Usage: "));
    let is_shown = |arg: &&Arg| {
        if arg.is_hide_set() {
            return false;
        }
        let is_usual = matches!(arg.get_action(), ArgAction::Help | ArgAction::HelpShort | ArgAction::Version);
        !is_usual && (!arg.is_global_set() || full_name(command) == "dray")
    };
    let args: Vec<&Arg> = command.get_arguments().filter(is_shown).collect();
    if !args.is_empty() {
        page.push_str("\n| Argument | Default | Meaning |\n|---|---|---|\n");
    }
    for arg in args {
        // Defaults that the switch has, not the command, are part of the text.
        let help = arg.get_help().map(ToString::to_string).unwrap_or_default();
        let (help, stated) = match help.strip_suffix(']').and_then(|help| help.split_once(" [default: ")) {
            Some((help, default)) => (help, Some(default)),
            None => (help.as_str(), None),
        };
        let default = match arg.get_default_values() {
            _ if arg.is_required_set() => "required".to_owned(),
            [value] if arg.get_action().takes_values() => format!("`{}`", value.to_string_lossy()),
            _ => stated.unwrap_or_default().to_owned(),
        };
        let mut meaning = sentence(help);
        if let Some(variable) = arg.get_env() {
            let _ = write!(meaning, " The environment's `{}` replaces the default.", variable.to_string_lossy());
        }
        let values = arg.get_possible_values();
        if arg.get_action().takes_values() && !values.is_empty() {
            let names: Vec<String> = values.iter().map(|value| format!("`{}`", value.get_name())).collect();
            let _ = write!(meaning, " One of {}.", names.join(", "));
        }
        let _ = writeln!(page, "| `{}` | {} | {} |", cell(&argument(arg)), cell(&default), cell(&meaning));
    }
    if let Some(text) = command.get_after_help() {
        let _ = write!(page, "\n{text}\n");
    }
}

/// Such as `--vni VNI`, or `NAME`.
fn argument(arg: &Arg) -> String {
    let value = match arg.get_value_names() {
        Some([name, ..]) => name.to_string(),
        _ => arg.get_id().as_str().to_uppercase(),
    };
    match arg.get_long() {
        Some(long) if arg.get_action().takes_values() => format!("--{long} {value}"),
        Some(long) => format!("--{long}"),
        None => value,
    }
}

/// A command line without `dray`, and the request that it makes.
fn example(line: &str) -> (&str, AnyRequest) {
    // These read the file while they are parsed, and there is none.
    let file = ConfigFile { name: "dray.toml".into(), text: "[[bridge]]\nname = \"blue\"\n".into() };
    let request = match line {
        "fdb load entries.txt" => {
            let entries = FdbBatch::parse("blue 02:00:00:00:00:01 trunk:10\nblue 02:00:00:00:00:02 10.9.0.2\n");
            FdbLoad { entries, delete: false }.into()
        }
        "config diff dray.toml" => ConfigDiff { file: Some(file) }.into(),
        "config apply dray.toml" => ConfigApply { file: Some(file) }.into(),
        _ => {
            let root = AnyRequest::augment_subcommands(Command::new("dray").no_binary_name(true));
            let matches = root.try_get_matches_from(line.split(' '));
            matches.and_then(|matches| AnyRequest::from_arg_matches(&matches)).unwrap_or_else(|error| panic!("{error}"))
        }
    };
    (line, request)
}

/// A struct of the sources.
#[derive(Debug, Default)]
struct Type {
    name: &'static str,
    doc: String,
    fields: Vec<Field>,
}

#[derive(Debug)]
struct Field {
    /// Its name in JSON.
    key: String,
    rust_type: &'static str,
    doc: String,
    /// Left out if it is `None`.
    optional: bool,
}

/// The public structs of the sources. Reads what rustfmt writes, not any Rust: a field's declaration has its own line.
fn types() -> Vec<Type> {
    let mut types = Vec::new();
    for source in SOURCES {
        let (mut doc, mut attributes) = (Vec::new(), String::new());
        let mut open: Option<Type> = None;
        for line in source.lines().take_while(|line| *line != "#[cfg(test)]").map(str::trim) {
            if let Some(text) = line.strip_prefix("///") {
                doc.push(text.trim());
                continue;
            }
            if line.starts_with("#[") {
                attributes += line;
                continue;
            }
            if let Some(name) = line.strip_prefix("pub struct ").and_then(|rest| rest.strip_suffix(" {")) {
                open = Some(Type { name, doc: doc.join(" "), fields: Vec::new() });
            } else if line == "}" {
                types.extend(open.take());
            } else if let Some(of) = &mut open
                && let Some((name, rust_type)) = line.strip_prefix("pub ").and_then(|rest| rest.split_once(": "))
            {
                let renamed = attributes.split_once("rename = \"").and_then(|(_, rest)| rest.split_once('"'));
                of.fields.push(Field {
                    key: renamed.map_or(name, |(key, _)| key).to_owned(),
                    rust_type: rust_type.trim_end_matches(','),
                    doc: doc.join(" "),
                    optional: attributes.contains("skip_serializing_if"),
                });
            }
            doc.clear();
            attributes.clear();
        }
    }
    types
}

/// A type of the replies to a method.
struct Reply<'a> {
    of: &'a Type,
    /// Of an array.
    is_element: bool,
    /// With which parameter, such as `connect`; or nothing.
    condition: &'a str,
}

/// What the structs' docs say of the replies to `method`. Who has no reply of its own says what it changed.
fn replies<'a>(types: &'a [Type], method: &str) -> Vec<Reply<'a>> {
    let quoted = format!("`{method}`");
    let replies = types.iter().filter_map(|of| {
        let (start, end) = of.doc.split_once(&quoted).filter(|_| is_reply(of))?;
        let condition = end.split_once('.').map_or("", |(condition, _)| condition);
        let condition = if condition.starts_with(" with ") { condition } else { "" };
        Some(Reply { of, is_element: start.starts_with("One of "), condition })
    });
    let replies: Vec<Reply> = replies.collect();
    if !replies.is_empty() {
        return replies;
    }
    let of = types.iter().find(|of| of.doc.contains("whatever else changes the configuration"));
    vec![Reply { of: of.expect("ConfigChange is described so"), is_element: false, condition: "" }]
}

fn is_reply(of: &Type) -> bool {
    of.doc.starts_with("Reply to ") || of.doc.starts_with("One of the reply to ")
}

/// What follows the reply to `watch`.
const EVENT: &str = "Event";

/// Whether it is a reply, in one, or follows one.
fn is_reached(types: &[Type], of: &Type) -> bool {
    let has = |other: &Type| other.fields.iter().any(|field| inner(field.rust_type) == of.name);
    is_reply(of) || of.name == EVENT || types.iter().any(|other| is_reply(other) && has(other))
}

/// `T` of `Option<T>` and `Vec<T>`.
fn inner(rust_type: &str) -> &str {
    let generic = rust_type.strip_prefix("Option<").or(rust_type.strip_prefix("Vec<"));
    generic.and_then(|rest| rest.strip_suffix('>')).unwrap_or(rust_type)
}

/// The name of a type of Rust in JSON.
fn json_type(types: &[Type], rust_type: &str) -> String {
    match rust_type {
        "EventKind" | "String" | "Mac" | "Ipv4Addr" | "PathBuf" => "string".into(),
        "u16" | "u32" | "u64" | "usize" => "integer".into(),
        "f64" => "number".into(),
        "bool" => "boolean".into(),
        "BTreeMap<String, u64>" => "object of integers".into(),
        "BTreeMap<String, Value>" => "object".into(),
        list if list.starts_with("Vec<") => format!("array of {}", json_type(types, inner(list))),
        option if option.starts_with("Option<") => json_type(types, inner(option)),
        name if types.iter().any(|of| of.name == name) => link(name),
        other => panic!("how is {other} written in JSON?"),
    }
}

fn link(name: &str) -> String {
    format!("[{name}](#{})", name.to_lowercase())
}

/// Whether `reply` to `method` is as the page says: its type has all of its keys but the optional ones, and no others.
pub fn is_documented(method: &str, reply: &Value) -> bool {
    replies(&types(), method).iter().any(|documented| match reply {
        Value::Array(elements) => documented.is_element && elements.iter().all(|element| fits(documented.of, element)),
        _ => !documented.is_element && fits(documented.of, reply),
    })
}

fn fits(of: &Type, value: &Value) -> bool {
    let Value::Object(map) = value else { return false };
    map.keys().all(|key| of.fields.iter().any(|field| field.key == *key))
        && of.fields.iter().all(|field| field.optional || map.contains_key(&field.key))
}

#[cfg(test)]
mod tests {
    use super::*;
    use dray_api::*;
    use dray_config::{Mac, Member};
    use serde::Serialize;
    use serde_json::{json, to_value};
    use std::net::Ipv4Addr;
    use std::path::Path;

    #[test]
    fn page_is_up_to_date() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/commands.md");
        assert!(
            std::fs::read_to_string(&path).unwrap_or_default() == reference(),
            "docs/commands.md differs from the commands: \
             cargo run -p dray-control --example commands > docs/commands.md"
        );
    }

    /// `full` has all optional fields, `bare` has none.
    fn has_the_documented_keys<T: Serialize>(name: &str, full: T, bare: T) {
        let types = types();
        let of = types.iter().find(|of| of.name == name).unwrap_or_else(|| panic!("{name}"));
        let check = |value: T, keys: &mut dyn Iterator<Item = &Field>| {
            let mut keys: Vec<&str> = keys.map(|field| field.key.as_str()).collect();
            keys.sort_unstable();
            let value = to_value(value).unwrap();
            assert_eq!(value.as_object().unwrap().keys().collect::<Vec<_>>(), keys, "{name}");
        };
        check(full, &mut of.fields.iter());
        check(bare, &mut of.fields.iter().filter(|field| !field.optional));
        assert!(of.fields.iter().all(|field| !field.doc.is_empty()), "{name}");
    }

    #[test]
    fn replies_have_the_documented_keys() {
        fn plain<T: Serialize + Default>(name: &str) {
            has_the_documented_keys(name, T::default(), T::default());
        }
        let status = Status { stranger: Some(String::new()), ..Status::default() };
        has_the_documented_keys("Status", status, Status::default());
        let note = ConnectInfo { note: Some(String::new()), ..ConnectInfo::default() };
        has_the_documented_keys("ConnectInfo", note, ConnectInfo::default());
        let ticks = Some(1.0);
        let worker = WorkerInfo {
            ticks_per_packet: ticks,
            ns_per_packet: ticks,
            silent_seconds: ticks,
            ..WorkerInfo::default()
        };
        has_the_documented_keys("WorkerInfo", worker, WorkerInfo::default());
        plain::<StageInfo>("StageInfo");
        plain::<SilentWorker>("SilentWorker");
        plain::<QueueInfo>("QueueInfo");
        plain::<DropInfo>("DropInfo");
        plain::<LogInfo>("LogInfo");
        plain::<ConfigText>("ConfigText");
        plain::<ConfigChange>("ConfigChange");
        plain::<ConfigSaved>("ConfigSaved");
        plain::<FdbFlushed>("FdbFlushed");
        plain::<FdbLoaded>("FdbLoaded");
        plain::<FdbRefused>("FdbRefused");
        let why = || Some(String::from("why"));
        let warnings = vec![String::new()];
        let port = PortInfo { reason: why(), description: why(), refusal: why(), warnings, ..PortInfo::default() };
        has_the_documented_keys("PortInfo", port, PortInfo::default());
        let bridge = PortBridge { vlan: Some(1), ..PortBridge::default() };
        has_the_documented_keys("PortBridge", bridge, PortBridge::default());
        let bridge =
            BridgeInfo { description: Some(String::new()), vni: Some(1), mtu: Some(1), ..BridgeInfo::default() };
        has_the_documented_keys("BridgeInfo", bridge, BridgeInfo::default());
        let ip = Some(Ipv4Addr::LOCALHOST);
        let entry = FdbEntry { port: Some("web".into()), vtep: ip, vlan: Some(1), ..FdbEntry::default() };
        has_the_documented_keys("FdbEntry", entry, FdbEntry::default());
        let bare = VtepInfo {
            address: Ipv4Addr::LOCALHOST,
            next_hop: None,
            mac: None,
            state: "no route".into(),
            learned: false,
        };
        let vtep = VtepInfo { next_hop: ip, mac: Some(Mac::default()), ..bare.clone() };
        has_the_documented_keys("VtepInfo", vtep, bare);
        plain::<Watching>("Watching");
        let event = Event {
            by: why(),
            port: why(),
            bridge: why(),
            vtep: ip,
            state: why(),
            drop: why(),
            count: Some(1),
            ..Event::default()
        };
        has_the_documented_keys("Event", event, Event::default());
        let member = |vlan| Member { port: "web".into(), vlan };
        has_the_documented_keys("Member", member(Some(1)), member(None));
        // All that the page has were checked.
        assert_eq!(types().iter().filter(|of| is_reached(&types(), of)).count(), 22);
    }

    #[test]
    fn what_is_not_documented_is_seen() {
        assert!(is_documented("fdb.flush", &json!({ "entries": 1 })));
        assert!(is_documented("vtep.show", &json!([])));
        assert!(is_documented("port.del", &json!({ "changes": [] })));
        assert!(is_documented("port.show", &json!([{ "program": "testpmd", "text": "" }])));
        assert!(!is_documented("fdb.flush", &json!([])));
        assert!(!is_documented("fdb.flush", &json!({})));
        assert!(!is_documented("fdb.flush", &json!({ "entries": 1, "more": 1 })));
        assert!(!is_documented("port.del", &json!({ "entries": 1 })));
    }
}
