//! The command line, made from the methods of the control socket: `port.show` is `dray port show`, and its parameters are the
//! command's arguments.
//!
//! A parameter that must be given is positional, and so are `name`, `file` and `values`; the others are options. A list's option
//! has the name of one item, and may be given several times. What else there is to an argument is in [`particular`].

use crate::complete;
use clap::builder::{PossibleValue, PossibleValuesParser, TypedValueParser, ValueParser};
use clap::error::ErrorKind;
use clap::{Arg, ArgAction, ArgGroup, ArgMatches, Command, ValueHint, value_parser};
use clap_complete::Shell;
use dray_api::schema::{Api, MethodInfo, Param, description, reference};
use dray_api::{AnyRequest, ConfigFile, FdbBatch, FdbLoad, Terms};
use dray_config::{CONTROL_SOCKET, Mac, Member};
use serde::Serialize;
use serde_json::{Map, Value, to_value};
use std::ffi::OsString;
use std::fmt::Display;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::str::FromStr;

/// What a line asks for.
#[derive(Clone, Debug, PartialEq)]
pub struct Line {
    /// The switch's control socket.
    pub socket: PathBuf,
    /// Whether to print JSON.
    pub json: bool,
    /// On what terms, if that is a change.
    pub terms: Terms,
    /// What to do.
    pub task: Task,
}

/// What to do.
#[derive(Clone, Debug, PartialEq)]
// There is one.
#[allow(clippy::large_enum_variant)]
pub enum Task {
    /// Ask the switch.
    Request(AnyRequest),
    /// Write the running configuration to a file.
    Save {
        /// The file.
        file: PathBuf,
        /// With the ports' secrets.
        secrets: bool,
    },
    /// Print a script that completes arguments.
    Completions(Shell),
    /// Print the schema.
    Schema,
}

/// The command line of dray.
pub fn command() -> Command {
    of(&Api::new())
}

fn of(api: &Api) -> Command {
    let mut root = Command::new("dray")
        .version(env!("CARGO_PKG_VERSION"))
        .about("Shows and changes what the switch does")
        .after_help(
            "Exit status: 0 done, 1 the switch refused, 2 wrong use or bad file, 3 the switch is not reachable.",
        )
        .subcommand_required(true)
        .arg_required_else_help(true);
    let socket = Arg::new("socket").long("socket").value_name("PATH").value_parser(value_parser!(PathBuf));
    root = root.arg(socket.env("DRAY_SOCKET").default_value(CONTROL_SOCKET).help("The switch's control socket"));
    let json = Arg::new("json").long("json").global(true).action(ArgAction::SetTrue);
    root = root.arg(json.help("Print JSON, for programs"));
    for (group, about) in AnyRequest::GROUPS {
        let of_group: Vec<&MethodInfo> = api.methods.iter().filter(|method| method.group() == *group).collect();
        root = root.subcommand(match of_group[..] {
            [method] if method.name == *group => leaf(api, method, group),
            _ => {
                let of_group = of_group.iter().map(|method| leaf(api, method, &method.name[group.len() + 1..]));
                let group = Command::new(*group).about(about.trim());
                group.subcommand_required(true).arg_required_else_help(true).subcommands(of_group)
            }
        });
    }
    let shell =
        Arg::new("shell").value_name("SHELL").required(true).value_parser(value_parser!(Shell)).help("The shell");
    root.subcommand(
        Command::new("completions").about("Print a script for the shell that completes dray's arguments").arg(shell),
    )
    .subcommand(
        Command::new("schema").about("Print the JSON Schema of all requests and replies, as an OpenRPC document"),
    )
}

/// The command of a method.
fn leaf(api: &Api, method: &MethodInfo, name: &'static str) -> Command {
    let command = Command::new(name).about(method.meaning.clone()).args(api.params(method).map(argument));
    complete::with_candidates(particular(method.name, command), method.group())
}

/// What does not follow from a method's parameters.
fn particular(method: &str, command: Command) -> Command {
    match method {
        "port.show" => command.mut_args(|arg| match arg.get_id().as_str() {
            "connect" => arg.requires("name"),
            "down" => arg.conflicts_with("up"),
            "secrets" => arg.requires("connect"),
            _ => arg,
        }),
        "port.add" => {
            // As the name was given before it was positional.
            let named = Arg::new("named").long("name").hide(true).conflicts_with("name");
            command.arg(named).mut_args(|arg| match arg.get_id().as_str() {
                "name" => arg.required(false).required_unless_present("named"),
                "kind" => arg.long("kind"),
                "bridges" => arg.value_name("BRIDGE[:VLAN]"),
                "socket" => arg.value_hint(ValueHint::AnyPath),
                _ => arg,
            })
        }
        // What must be given is an option here, too: the container alone stands for itself.
        "attach" | "detach" | "expose" => command.mut_args(|arg| match arg.get_id().as_str() {
            "bridge" => arg.long("bridge"),
            "name" => arg.long("name"),
            "ips" => arg.value_name("ADDRESS/LENGTH"),
            _ => arg,
        }),
        "fdb.add" => command.group(ArgGroup::new("to").required(true).args(["port", "vtep"])),
        // The switch writes its own file only; any other is written with the rights of who asks.
        "config.save" => {
            let file = Arg::new("file").value_name("FILE").value_parser(value_parser!(PathBuf));
            let file = file.value_hint(ValueHint::FilePath).help(
                "The file, which dray writes itself [default: the one drayd was started with, which drayd writes]",
            );
            let secrets = Arg::new("secrets").long("secrets").action(ArgAction::SetTrue).requires("file");
            let help = "Write the ports' secrets into FILE, not \"***\", with which it can't be applied";
            command.arg(file).arg(secrets.help(help))
        }
        _ => command,
    }
}

/// What a value is on the command line.
enum Form {
    /// There or not.
    Flag,
    Number,
    Text,
    /// One of these.
    Word(Vec<PossibleValue>),
    Mac,
    Ip,
    Member,
    /// A configuration file, which is read here.
    ConfigFile,
    /// A file of FDB entries, which is read here.
    Entries,
}

impl Form {
    /// Of a value, and whether there may be several of them.
    fn of(schema: &Value) -> (Form, bool) {
        // An option that is left out is null.
        if let Some(several) = ["allOf", "anyOf"].iter().find_map(|of| schema[*of].as_array()) {
            return several.iter().find(|schema| schema["type"] != "null").map_or((Form::Text, false), Form::of);
        }
        let is_of = |of: &str| schema["type"] == of || schema["type"].as_array().is_some_and(|all| all[0] == of);
        let form = match (reference(schema), schema["format"].as_str()) {
            (Some("Member"), _) => Form::Member,
            (Some("ConfigFile"), _) => Form::ConfigFile,
            (_, Some("mac")) => Form::Mac,
            (_, Some("ipv4")) => Form::Ip,
            _ if is_of("array") && reference(&schema["items"]) == Some("FdbStatic") => Form::Entries,
            _ if is_of("array") => return (Form::of(&schema["items"]).0, true),
            _ if is_of("boolean") => Form::Flag,
            _ if is_of("integer") => Form::Number,
            _ => match schema["oneOf"].as_array() {
                Some(words) => Form::Word(words.iter().filter_map(possible).collect()),
                None => Form::Text,
            },
        };
        (form, false)
    }

    fn value_name(&self, param: &str) -> String {
        match self {
            Form::Member => "PORT[:VLAN]".into(),
            Form::ConfigFile | Form::Entries => "FILE".into(),
            Form::Ip => "IP".into(),
            _ => param.to_uppercase(),
        }
    }

    fn parser(self) -> ValueParser {
        match self {
            Form::Flag => ValueParser::bool(),
            Form::Number => ValueParser::new(read::<u64>),
            Form::Text => ValueParser::new(read::<String>),
            Form::Word(words) => ValueParser::new(PossibleValuesParser::new(words).map(Value::from)),
            Form::Mac => ValueParser::new(read::<Mac>),
            Form::Ip => ValueParser::new(read::<Ipv4Addr>),
            Form::Member => ValueParser::new(read::<Member>),
            Form::ConfigFile => ValueParser::new(|name: &str| ConfigFile::read(name).and_then(json)),
            Form::Entries => ValueParser::new(FdbBatch::read),
        }
    }
}

fn possible(word: &Value) -> Option<PossibleValue> {
    Some(PossibleValue::new(word["const"].as_str()?.to_owned()).help(description(word).to_owned()))
}

fn read<T: FromStr<Err: Display> + Serialize>(word: &str) -> Result<Value, String> {
    json(word.parse::<T>().map_err(|why| why.to_string())?)
}

fn json(value: impl Serialize) -> Result<Value, String> {
    to_value(value).map_err(|why| why.to_string())
}

/// The argument that gives a parameter its value.
fn argument(param: &Param) -> Arg {
    let (form, is_many) = Form::of(&param.schema);
    let name = param.name.as_str();
    let one = name.strip_suffix(if name.ends_with("sses") { "es" } else { "s" });
    let one = one.filter(|_| is_many).unwrap_or(name);
    let is_positional = param.required || ["name", "file", "values"].contains(&name);
    let mut arg = Arg::new(name.to_owned()).required(param.required).help(description(&param.schema).to_owned());
    if !is_positional {
        arg = arg.long(one.replace('_', "-"));
    }
    if matches!(form, Form::Flag) {
        return arg.action(ArgAction::SetTrue);
    }
    if matches!(form, Form::ConfigFile | Form::Entries) {
        arg = arg.value_hint(ValueHint::FilePath);
    }
    if is_many {
        arg = arg.action(ArgAction::Append);
    }
    if is_many && is_positional {
        arg = arg.num_args(1..);
    }
    arg.value_name(form.value_name(one)).value_parser(form.parser())
}

/// What a line asks for.
///
/// # Errors
/// What is wrong with it; also if it asks for help, which is in the error.
pub fn parse(words: impl IntoIterator<Item: Into<OsString> + Clone>) -> Result<Line, clap::Error> {
    let api = Api::new();
    let mut command = of(&api);
    let matches = command.try_get_matches_from_mut(words)?;
    let (mut method, mut args) = (String::new(), &matches);
    while let Some((name, sub)) = args.subcommand() {
        method = if method.is_empty() { name.into() } else { format!("{method}.{name}") };
        args = sub;
    }
    let known = api.methods.iter().find(|known| known.name == method);
    let task = match method.as_str() {
        "completions" => args.get_one("shell").map(|shell| Task::Completions(*shell)),
        "schema" => Some(Task::Schema),
        "fdb.load" => {
            let entries = args.get_one::<FdbBatch>("entries").cloned().unwrap_or_default();
            Some(Task::Request(FdbLoad { entries, delete: args.get_flag("delete") }.into()))
        }
        "config.save" if args.contains_id("file") => {
            let secrets = args.get_flag("secrets");
            args.get_one::<PathBuf>("file").map(|file| Task::Save { file: file.clone(), secrets })
        }
        _ => None,
    };
    let wrong = |command: &mut Command, error| command.error(ErrorKind::ValueValidation, error);
    let terms = match known.filter(|known| known.has_terms) {
        Some(_) => Terms::take(&mut params(api.terms.iter(), args)).map_err(|error| wrong(&mut command, error))?,
        None => Terms::default(),
    };
    let task = match task {
        Some(task) => task,
        None => {
            let params = params(known.into_iter().flat_map(|known| &known.params), args);
            let request = AnyRequest::from_params(&method, Value::Object(params));
            Task::Request(request.map_err(|error| wrong(&mut command, error))?)
        }
    };
    let socket = matches.get_one::<PathBuf>("socket").cloned().unwrap_or_default();
    Ok(Line { socket, json: matches.get_flag("json"), terms, task })
}

/// The parameters that a line has.
fn params<'a>(known: impl Iterator<Item = &'a Param>, args: &ArgMatches) -> Map<String, Value> {
    let mut params = Map::new();
    for Param { name, schema, .. } in known {
        let value = match Form::of(schema) {
            (Form::Flag, _) => args.get_flag(name).then_some(Value::Bool(true)),
            (_, true) => args.get_many::<Value>(name).map(|all| all.cloned().collect()),
            (_, false) => args.get_one::<Value>(name).cloned(),
        };
        params.extend(value.map(|value| (name.clone(), value)));
    }
    if let Ok(Some(name)) = args.try_get_one::<String>("named") {
        params.insert("name".into(), name.as_str().into());
    }
    params
}

#[cfg(test)]
mod tests {
    use super::*;
    use dray_api::{Request, StatusShow};
    use dray_config::schema;
    use serde_json::json;

    #[test]
    fn clap_is_sound() {
        command().debug_assert();
    }

    fn line(line: &str) -> Result<Line, clap::Error> {
        parse(std::iter::once("dray").chain(line.split(' ')))
    }

    fn request(words: &str) -> AnyRequest {
        match line(words) {
            Ok(Line { task: Task::Request(request), .. }) => request,
            other => panic!("{words}: {other:?}"),
        }
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
            let request = request(line);
            let value = |line: &str| serde_json::from_str::<Value>(line).unwrap();
            assert_eq!(value(&request.encode(1)), value(wire));
            assert_eq!(AnyRequest::decode(wire.as_bytes()), (json!(1), Ok(request)));
        }
    }

    #[test]
    fn every_method_is_reached_by_its_name() {
        let file = std::env::temp_dir().join(format!("dray-command-{}", std::process::id()));
        std::fs::write(&file, "# nothing\n").unwrap();
        let lines = [
            "status".to_string(),
            "attach web --bridge b --ip 10.0.0.1/24 --ip fd00::1/64 --gateway 10.0.0.254 --vlan 5 --name eth1 --keep"
                .into(),
            "detach web --name eth1".into(),
            "expose --bridge b --ip 10.0.0.254/24".into(),
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
            let request = request(line);
            let (id, decoded) = AnyRequest::decode(request.encode(7).as_bytes());
            assert_eq!((id, decoded), (json!(7), Ok(request.clone())), "{line}");
            methods.push(request.method());
        }
        std::fs::remove_file(&file).unwrap();
        assert_eq!(methods, AnyRequest::methods().map(|method| method.name).collect::<Vec<_>>());
    }

    #[test]
    fn wrong_commands_are_refused() {
        for (words, why) in [
            ("bridge add b --vni -1", "unexpected argument '-1'"),
            ("port show --connect", "<NAME>"),
            ("port show web --secrets", "--connect"),
            ("port add --kind eth", "<NAME>"),
            ("port add web", "--kind"),
            ("config save --secrets", "<FILE>"),
            ("fdb add b 02:00:00:00:00:01", "--vtep"),
            ("fdb add b 02:00:00:00:00:01 --port a --vtep 10.0.0.1", "--vtep"),
            ("fdb del b 02:00:00:00:00", "six hexadecimal bytes"),
            ("bridge add b --port a:4095", "a VLAN is 1 to 4094"),
            ("bridge add b --vni x", "'x' for '--vni"),
            ("bridge join b", "<PORT[:VLAN]>"),
            ("watch --kind nonsense", "link"),
            ("config apply /nonexistent/dray.toml", "No such file"),
        ] {
            let error = line(words).unwrap_err().to_string();
            assert!(error.contains(why), "{words}: {error}");
        }
    }

    #[test]
    fn what_is_no_request_is_done_here() {
        let task = |words: &str| line(words).unwrap().task;
        assert_eq!(task("schema"), Task::Schema);
        assert_eq!(task("completions bash"), Task::Completions(Shell::Bash));
        assert_eq!(task("config save a.toml --secrets"), Task::Save { file: "a.toml".into(), secrets: true });
        let status = line("--socket /x status --json").unwrap();
        let (socket, terms) = ("/x".into(), Terms::default());
        assert_eq!(status, Line { socket, json: true, terms, task: Task::Request(StatusShow {}.into()) });
    }

    #[test]
    fn changes_have_terms() {
        let terms = line("port del web --owner cni --if-generation 5 --ensure").unwrap().terms;
        assert_eq!(terms, Terms { owner: Some("cni".into()), if_generation: Some(5), ensure: true });
        assert!(line("port show web --owner cni").is_err() && line("fdb flush --ensure").is_err());
        assert_eq!(line("fdb load /dev/null --owner cni").unwrap().terms.owner.as_deref(), Some("cni"));
    }

    #[test]
    fn a_port_may_be_named_as_it_was_before() {
        let add = |line| request(line).encode(1);
        assert_eq!(add("port add web --kind memif --socket @a"), add("port add --name web --kind memif --socket @a"));
        assert!(add("port add a --kind eth --device net_tap0 --mtu 1500").contains(r#""mtu":1500"#));
    }

    #[test]
    fn keys_of_the_file_are_options() {
        let bridge = request("bridge add b --mtu 1450 --peer 10.0.0.1 --peer 10.0.0.2 --port a").encode(1);
        let params = r#""params":{"name":"b","mtu":1450,"peers":["10.0.0.1","10.0.0.2"],"ports":[{"port":"a"}]}"#;
        assert!(bridge.contains(params), "{bridge}");
        let tap = request("port add t --kind tap --address 10.0.0.1/24").encode(1);
        assert!(tap.contains(r#""addresses":["10.0.0.1/24"]"#), "{tap}");
        for (group, section) in [("port", &schema::PORT), ("bridge", &schema::BRIDGE)] {
            let command = command();
            let add = command.find_subcommand(group).and_then(|group| group.find_subcommand("add")).unwrap();
            for key in section.keys.iter() {
                let id = key.name.replace('-', "_");
                assert!(add.get_arguments().any(|arg| arg.get_id() == id.as_str()), "{id}");
            }
        }
    }

    #[test]
    fn examples_are_of_their_methods() {
        for method in Api::new().methods.iter().filter(|method| !method.example.contains(".t")) {
            assert_eq!(request(method.example).method(), method.name);
        }
        assert_eq!(StatusShow::EXAMPLE, "status");
    }
}
