//! Prints the page docs/commands.md, made from the commands themselves and from the schema of the socket's messages.

use clap::{Arg, ArgAction, Command};
use dray_api::schema::{Api, MethodInfo, description, fields, reference};
use dray_api::{
    AnyRequest, CODES, ConfigApply, ConfigDiff, ConfigFile, FdbBatch, FdbLoad, LONG_REQUEST, MAX_BATCH, MAX_REQUEST,
    NUMBERS, VERSION,
};
use dray_cli::Task;
use dray_config::CONTROL_SOCKET;
use dray_control::daemon;
use dray_switch::clock::Stage;
use dray_switch::{Count, Drop};
use serde_json::{Value, json};
use std::fmt::Write;

/// The page's exchange on the control socket: a request and the answer of a switch that has such a bridge.
const EXCHANGE: [&str; 2] = [
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

/// In Markdown.
fn main() {
    let (mut drayd, mut dray) = (daemon::command(), dray_cli::command());
    drayd.build();
    dray.build();
    let mut leaves = Vec::new();
    collect(&dray, &mut leaves);
    let api = Api::new();

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
    page += "\n`--json` may stand anywhere on the line. The options of `port add` and `bridge add` are the keys of\n\
        [the configuration file](configuration.md), where their values are described.\n\
        Below, each has its usage, an example with the request that it makes, and the type of its reply.\n";
    for command in leaves {
        let name = full_name(command);
        let _ = write!(page, "\n### {name}\n\n");
        describe(&mut page, command);
        let method = name.trim_start_matches("dray ").replace(' ', ".");
        let Some(known) = api.methods.iter().find(|known| known.name == method) else {
            continue;
        };
        let (line, request) = example(known);
        assert_eq!(request.method(), method, "its example is of it");
        let _ = write!(page, "\n```text\ndray {line}\n{}\n```\n", request.encode(1));
        let _ = write!(page, "\nReply: {}.\n", type_of(&known.reply));
    }
    types(&mut page, &api);
    names(&mut page);
    socket(&mut page);
    print!("{page}");
}

/// The replies' types, in the order of the methods.
fn types(page: &mut String, api: &Api) {
    let _ = write!(
        page,
        "
## JSON

With `--json` a command prints the reply's object or array. It is additive: within version {VERSION}, which is
`protocol` in `dray status --json`, fields are added, never renamed or removed. A program ignores fields that it does
not know. What is marked optional is left out when there is nothing to tell. `dray schema` prints all of this as JSON Schema,
requests included.
"
    );
    let mut names = Vec::new();
    // What follows the reply to `watch`.
    let event = json!({ "$ref": "#/components/schemas/Event" });
    for method in &api.methods {
        reach(&method.reply, api, &mut names);
        if method.name == "watch" {
            reach(&event, api, &mut names);
        }
    }
    for name in names {
        let of = &api.types[name];
        let _ = write!(page, "\n### {name}\n\n{}\n\n| Field | Type | Meaning |\n|---|---|---|\n", description(of));
        for field in fields(of) {
            let optional = if field.required { "" } else { ", optional" };
            let meaning = cell(description(&field.schema));
            let _ = writeln!(page, "| `{}` | {}{optional} | {meaning} |", field.name, type_of(&field.schema));
        }
    }
}

/// Appends the types that `schema` names, and those that are in these.
fn reach<'a>(schema: &'a Value, api: &'a Api, names: &mut Vec<&'a str>) {
    if let Some((name, of)) = reference(schema).and_then(|name| api.types.get_key_value(name)) {
        if !names.contains(&name.as_str()) {
            names.push(name);
            fields(of).iter().for_each(|field| reach(&of["properties"][&field.name], api, names));
        }
        return;
    }
    match schema {
        Value::Object(all) => all.values().for_each(|schema| reach(schema, api, names)),
        Value::Array(all) => all.iter().for_each(|schema| reach(schema, api, names)),
        _ => {}
    }
}

/// A schema's type in words.
fn type_of(schema: &Value) -> String {
    if let Some(name) = reference(schema) {
        return format!("[{name}](#{})", name.to_lowercase());
    }
    let several = ["allOf", "anyOf", "oneOf"].iter().find_map(|of| schema[*of].as_array());
    if let Some(several) = several {
        let values: Vec<String> =
            several.iter().filter_map(|of| Some(format!("`{}`", of["const"].as_str()?))).collect();
        if !values.is_empty() {
            return alternatives(&values);
        }
        let types: Vec<String> = several.iter().map(type_of).filter(|name| name != "null").collect();
        return alternatives(&types);
    }
    let is_of = |of: &str| schema["type"] == of || schema["type"].as_array().is_some_and(|all| all[0] == of);
    match &schema["type"] {
        _ if is_of("array") => format!("array of {}", type_of(&schema["items"])),
        _ if is_of("object") && schema["additionalProperties"]["type"] == "integer" => "object of integers".into(),
        Value::Array(all) => all[0].as_str().expect("a type's name").into(),
        name => name.as_str().unwrap_or_else(|| panic!("how is {schema} called?")).into(),
    }
}

/// `a, b or c`.
fn alternatives(all: &[String]) -> String {
    match all {
        [rest @ .., last] if !rest.is_empty() => format!("{} or {last}", rest.join(", ")),
        _ => all.concat(),
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
(`MAX_BATCH`). Of the requests with more than {LONG_REQUEST} bytes (`LONG_REQUEST`) one at a time is taken: others wait, and are told
after 5 seconds that the switch is `busy`.

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
    let mut args: Vec<&Arg> = command.get_arguments().filter(is_shown).collect();
    args.sort_by_key(|arg| !arg.is_positional());
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
fn example(method: &MethodInfo) -> (&str, AnyRequest) {
    let line = method.example;
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
            let parsed = dray_cli::parse(format!("dray {line}").split(' ')).unwrap_or_else(|error| panic!("{error}"));
            let Task::Request(request) = parsed.task else { panic!("{line} is no request") };
            request
        }
    };
    (line, request)
}
