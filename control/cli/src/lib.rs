//! dray, the command.
#![forbid(unsafe_code)]

mod table;

use clap::{CommandFactory, Parser, Subcommand};
use clap_complete::Shell;
use clap_complete::engine::{ArgValueCandidates, CompletionCandidate};
use clap_complete::env::{CompleteEnv, Shells};
use dray_api::schema::Api;
use dray_api::{
    AnyRequest, BAD_FILE, BridgeInfo, BridgeRequest, BridgeShow, ConfigRequest, ConfigSave, ConfigSaved, ConfigShow,
    ConnectInfo, DropInfo, DropRequest, ErrorCode, Event, FdbEntry, FdbLoad, FdbLoaded, FdbRequest, INVALID_PARAMS,
    LogRequest, PortBridge, PortInfo, PortRequest, PortShow, RingInfo, RpcError, Status, UNREACHABLE, VtepInfo,
    VtepRequest, Watch, WorkerInfo, WorkerRequest,
};
use dray_client::{Answer, Client, Error};
use dray_config::schema::{self, Section};
use dray_config::{CONTROL_SOCKET, HIDDEN_SECRET};
use serde::Serialize;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use table::{Table, duration, thousands};

/// Shows and changes what the switch does
#[derive(Parser)]
#[command(
    name = "dray",
    version,
    after_help = "Exit status: 0 done, 1 the switch refused, 2 wrong use or bad file, 3 the switch is not reachable."
)]
struct Args {
    /// The switch's control socket
    #[arg(long, value_name = "PATH", env = "DRAY_SOCKET", default_value = CONTROL_SOCKET)]
    socket: PathBuf,
    /// Print JSON, for programs
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    command: Command,
}

// There is one.
#[allow(clippy::large_enum_variant)]
#[derive(Subcommand)]
enum Command {
    #[command(flatten)]
    Request(AnyRequest),
    /// Print a script for the shell that completes dray's arguments
    Completions {
        /// The shell
        shell: Shell,
    },
    /// Print the JSON Schema of all requests and replies, as an OpenRPC document
    Schema,
}

/// The command line of dray.
pub fn command() -> clap::Command {
    Args::command()
}

/// Runs dray. The status is 0 when it is done, 1 if the switch refused, 2 for wrong use or a wrong file, 3 if the switch is
/// not reachable.
pub fn run() -> ExitCode {
    // The shell asks what may come next; else this does nothing.
    CompleteEnv::with_factory(|| with_candidates(command(), "")).complete();
    let args = match Args::try_parse() {
        Ok(args) => args,
        Err(error) if error.use_stderr() && std::env::args_os().any(|arg| arg == "--json") => return wrong_use(&error),
        Err(error) => error.exit(),
    };
    let request = match args.command {
        Command::Request(request) => request,
        Command::Schema => return print(&format!("{:#}\n", Api::new().openrpc())),
        Command::Completions { shell } => {
            let (mut script, shells) = (Vec::new(), Shells::builtins());
            let completer = shells.completer(&shell.to_string());
            let written = completer
                .map(|completer| completer.write_registration("COMPLETE", "dray", "dray", "dray", &mut script));
            if !matches!(written, Some(Ok(()))) {
                eprintln!("error: there is no completion for {shell}");
                return ExitCode::FAILURE;
            }
            return print(&String::from_utf8_lossy(&script));
        }
    };
    let result = match request {
        AnyRequest::Port(PortRequest::Add(mut port)) => {
            if let Some(name) = port.named.take() {
                port.name = name;
            }
            answer(&args.socket, &port.into(), args.json)
        }
        AnyRequest::Fdb(FdbRequest::Load(request)) => load(&args.socket, request, args.json),
        AnyRequest::Watch(request) => watch(&args.socket, &request, args.json),
        AnyRequest::Config(ConfigRequest::Save(ConfigSave { file: Some(file), secrets })) => {
            save(&args.socket, &file, secrets, args.json)
        }
        request => answer(&args.socket, &request, args.json),
    };
    result.unwrap_or_else(|failure| {
        eprintln!("{}", failure.show(args.json));
        ExitCode::from(failure.status)
    })
}

/// Sends `request` and prints the answer.
fn answer(socket: &Path, request: &AnyRequest, as_json: bool) -> Result<ExitCode, Failure> {
    let answer = Client::connect(socket)?.ask(request)?;
    Ok(print(&if as_json { pretty(&answer.value()?) } else { people(request, &answer) }?))
}

/// A reader that has seen enough (`dray fdb show | head`) is no failure.
fn print(text: &str) -> ExitCode {
    match std::io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
        _ => ExitCode::SUCCESS,
    }
}

/// The command with the values that its arguments may have: names are asked of the switch.
fn with_candidates(command: clap::Command, group: &str) -> clap::Command {
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
    let command = command.mut_args(|arg| match (group, arg.get_id().as_str()) {
        ("port", "kind") => arg.add(fixed(&["memif", "vhost-user", "eth"])),
        ("port", "key") => arg.add(keys(&schema::PORT)),
        ("bridge", "key") => arg.add(keys(&schema::BRIDGE)),
        ("config", "table") => arg.add(fixed(&["balance", "fdb", "log", "vxlan"])),
        ("port", "name") if name != "add" => arg.add(ArgValueCandidates::new(ports)),
        ("bridge", "name") if name != "add" => arg.add(ArgValueCandidates::new(bridges)),
        (_, "port" | "ports") => arg.add(ArgValueCandidates::new(ports)),
        (_, "bridge" | "bridges") => arg.add(ArgValueCandidates::new(bridges)),
        _ => arg,
    });
    command.mut_subcommands(|sub| with_candidates(sub, &name))
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

/// Why a command failed, and the exit status.
#[derive(Debug)]
struct Failure {
    error: RpcError,
    status: u8,
}

impl Failure {
    /// For people; under `--json` an object for programs.
    fn show(&self, as_json: bool) -> String {
        let message = &self.error.message;
        if as_json {
            return json!({ "error": self.error }).to_string();
        }
        // What is at a place in a file has a form of its own.
        if message.starts_with("error: ") { message.clone() } else { format!("error: {message}") }
    }
}

impl From<String> for Failure {
    fn from(message: String) -> Self {
        RpcError::refused(ErrorCode::Failed, message).into()
    }
}

impl From<RpcError> for Failure {
    fn from(error: RpcError) -> Self {
        let status = match error.code {
            BAD_FILE | INVALID_PARAMS => 2,
            UNREACHABLE => 3,
            _ => 1,
        };
        Failure { error, status }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        match error {
            Error::Refused(error) => error.into(),
            Error::Unreachable(why) => RpcError::new(UNREACHABLE, why).into(),
            Error::NotUnderstood(_) => error.to_string().into(),
        }
    }
}

/// What is wrong with the command line, as an object for programs; the status is clap's.
fn wrong_use(error: &clap::Error) -> ExitCode {
    let message = error.render().to_string();
    let message = message.strip_prefix("error: ").unwrap_or(&message).trim_end();
    eprintln!("{}", Failure::from(RpcError::new(INVALID_PARAMS, message.into())).show(true));
    ExitCode::from(2)
}

/// Prints events until the switch, or who reads them, goes.
fn watch(socket: &Path, request: &Watch, as_json: bool) -> Result<ExitCode, Failure> {
    let mut events = Client::connect(socket)?.subscribe(request)?;
    if events.watching.lost > 0 {
        eprintln!("note: {} events are not kept any more", thousands(events.watching.lost));
    }
    loop {
        let line = if as_json {
            events.next_value()?.to_string()
        } else {
            let Event { time, kind, text, by, .. } = events.next_event()?;
            let by = by.map_or_else(String::new, |by| format!(" (by {by})"));
            format!("{time}  {:<7}  {text}{by}", kind.name())
        };
        let mut out = std::io::stdout();
        if writeln!(out, "{line}").and_then(|()| out.flush()).is_err() {
            return Ok(ExitCode::SUCCESS);
        }
    }
}

/// Refused lines that are shown to people.
const REFUSED_SHOWN: usize = 20;

/// Loads or deletes FDB entries. The status is 1 if any was refused.
fn load(socket: &Path, request: FdbLoad, as_json: bool) -> Result<ExitCode, Failure> {
    let FdbLoad { entries: mut batch, delete } = request;
    let mut total = FdbLoaded { done: 0, refused: std::mem::take(&mut batch.refused) };
    let verb = if delete { "deleted" } else { "added" };
    let loaded = Client::connect(socket)?.load(batch, delete, &mut total);
    loaded.map_err(|error| match (Failure::from(error), total.done) {
        (failure, 0) => failure,
        (mut failure, n) => {
            failure.error.message += &format!(" ({} entries were {verb})", thousands(n));
            failure
        }
    })?;
    total.refused.sort_by_key(|refused| refused.line);
    let is_done = total.refused.is_empty();
    let code = if as_json {
        print(&pretty(&total)?)
    } else {
        let code = print(&format!("{} entries {verb}\n", thousands(total.done)));
        for refused in total.refused.iter().take(REFUSED_SHOWN) {
            eprintln!("error: line {}: {}", refused.line, refused.reason);
        }
        if total.refused.len() > REFUSED_SHOWN {
            eprintln!("error: and {} more lines", thousands((total.refused.len() - REFUSED_SHOWN) as u64));
        }
        code
    };
    Ok(if is_done { code } else { ExitCode::FAILURE })
}

/// Writes the running configuration to `file`.
fn save(socket: &Path, file: &Path, secrets: bool, as_json: bool) -> Result<ExitCode, Failure> {
    let text = Client::connect(socket)?.call(&ConfigShow { secrets })?.text;
    let shown = file.display();
    dray_config::save(file, &text).map_err(|why| format!("{shown}: {why}"))?;
    let hidden = format!("secret = \"{HIDDEN_SECRET}\"");
    if text.lines().any(|line| line == hidden) {
        eprintln!("note: {shown} is without the ports' secrets and can't be applied: --secrets writes them");
    }
    let saved = ConfigSaved { file: file.to_owned() };
    Ok(print(&if as_json { pretty(&saved)? } else { saved_text(&saved) }))
}

fn saved_text(saved: &ConfigSaved) -> String {
    format!("saved to {}\n", saved.file.display())
}

fn pretty(value: &impl Serialize) -> Result<String, Failure> {
    Ok(serde_json::to_string_pretty(value).map_err(|error| error.to_string())? + "\n")
}

/// The answer for people.
fn people(request: &AnyRequest, answer: &Answer) -> Result<String, Failure> {
    Ok(match request {
        AnyRequest::Status(show) => status(&answer.of(show)?),
        AnyRequest::Port(PortRequest::Show(show)) => match (answer.of(show)?, &show.name) {
            (shown, _) if show.connect => connects(&shown.connects()),
            (shown, Some(name)) if !name.contains(['*', '?']) => shown.ports().iter().map(port).collect(),
            (shown, _) => ports(&shown.ports()),
        },
        AnyRequest::Bridge(BridgeRequest::Show(show)) => bridges(&answer.of(show)?),
        AnyRequest::Fdb(FdbRequest::Show(show)) => fdb(&answer.of(show)?),
        AnyRequest::Fdb(FdbRequest::Flush(flush)) => {
            format!("{} entries forgotten\n", thousands(answer.of(flush)?.entries))
        }
        AnyRequest::Log(LogRequest::Show(show)) => answer.of(show)?.level + "\n",
        AnyRequest::Vtep(VtepRequest::Show(show)) => vteps(&answer.of(show)?),
        AnyRequest::Worker(WorkerRequest::Show(show)) => workers(&answer.of(show)?),
        AnyRequest::Drop(DropRequest::Show(show)) => drops(&answer.of(show)?),
        AnyRequest::Config(ConfigRequest::Show(show)) => answer.of(show)?.text,
        AnyRequest::Config(ConfigRequest::Save(save)) => saved_text(&answer.of(save)?),
        _ => anything(&answer.value()?),
    })
}

/// Any reply: what was changed, line by line; a list of objects as a table; an object as pairs.
fn anything(reply: &Value) -> String {
    let cell = |value: &Value| match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        Value::Number(n) => n.as_u64().map_or_else(|| n.to_string(), thousands),
        other => other.to_string(),
    };
    if let Some(changes) = reply.get("changes").and_then(Value::as_array) {
        return changes.iter().map(|change| cell(change) + "\n").collect();
    }
    match reply {
        Value::Object(fields) => {
            let lines: Vec<(&str, String)> = fields.iter().map(|(key, value)| (key.as_str(), cell(value))).collect();
            pairs(&lines)
        }
        Value::Array(rows) => {
            let keys: BTreeSet<&str> =
                rows.iter().filter_map(Value::as_object).flatten().map(|(key, _)| key.as_str()).collect();
            let headings: Vec<String> = keys.iter().map(|key| key.to_uppercase().replace('_', " ")).collect();
            let mut table = Table::new(&headings.iter().map(String::as_str).collect::<Vec<_>>());
            rows.iter().for_each(|row| table.row(keys.iter().map(|key| cell(&row[*key]))));
            table.render()
        }
        other => cell(other) + "\n",
    }
}

fn status(s: &Status) -> String {
    let stranger = s.stranger.as_ref().map_or_else(String::new, |why| format!(", last on {why}"));
    let lines = [
        ("drayd", format!("{}, process {}, up {}", s.version, s.pid, duration(s.uptime_seconds))),
        ("workers", workers_line(s)),
        ("ports", format!("{}, {} up", s.ports, s.ports_up)),
        ("bridges", s.bridges.to_string()),
        ("strangers", format!("{} refused{stranger}", thousands(s.strangers))),
        ("vteps", s.vteps.to_string()),
        ("fdb", format!("{} of {} MACs", thousands(s.fdb_used), thousands(s.fdb_size))),
        ("received", thousands(s.received)),
        ("sent", thousands(s.sent)),
        ("dropped", thousands(s.dropped)),
        ("flood copies", thousands(s.flood_copies)),
        ("segments", thousands(s.segments)),
        ("originated", thousands(s.originated)),
        ("consumed", thousands(s.consumed)),
    ];
    pairs(&lines)
}

fn workers_line(s: &Status) -> String {
    let silent = s.silent_workers.iter().map(|w| format!("\n{}", silence(w.cpu, w.seconds, w.waiting)));
    format!("{}{}", s.workers, silent.collect::<String>())
}

/// That a worker does not run.
fn silence(cpu: usize, seconds: f64, waiting: usize) -> String {
    let changes = match waiting {
        0 => String::new(),
        1 => "; a change waits for it".into(),
        n => format!("; {n} changes wait for it"),
    };
    format!("the one on CPU {cpu} has not run for {seconds:.0} s: another process has its CPU{changes}")
}

fn pairs(lines: &[(&str, String)]) -> String {
    let width = lines.iter().map(|(key, _)| key.len()).max().unwrap_or(0);
    let indent = format!("\n{:width$}  ", "");
    lines.iter().map(|(key, value)| format!("{key:<width$}  {}\n", value.replace('\n', &indent))).collect()
}

/// Names with commas between them, on lines of 80 characters or so.
fn wrapped(names: &[Value]) -> String {
    let mut text = String::new();
    let mut column = 0;
    for (i, name) in names.iter().filter_map(Value::as_str).enumerate() {
        let separator = match column + name.len() {
            _ if i == 0 => "",
            0..80 => ", ",
            _ => ",\n",
        };
        column = if separator == ",\n" { 0 } else { column + separator.len() } + name.len();
        text += separator;
        text += name;
    }
    if text.is_empty() { "none".into() } else { text }
}

fn ports(ports: &[PortInfo]) -> String {
    let columns = [
        "NAME",
        "KIND",
        "LINK",
        "BRIDGES",
        "RX PACKETS",
        "RX BYTES",
        "TX PACKETS",
        "TX BYTES",
        "DROPS",
        "MACS",
        "DESCRIPTION",
    ];
    let has_descriptions = ports.iter().any(|p| p.description.is_some());
    let mut table = Table::new(&columns[..columns.len() - usize::from(!has_descriptions)]);
    for p in ports {
        let counts =
            [p.rx_packets, p.rx_bytes, p.tx_packets, p.tx_bytes, p.drops.values().sum(), p.macs].map(thousands);
        let link = if p.admin == "down" { "admin down" } else { &p.link }.to_owned();
        let description = has_descriptions.then(|| p.description.clone().unwrap_or_default());
        let row = [p.name.clone(), p.kind.clone(), link, memberships(p)].into_iter().chain(counts);
        table.row(row.chain(description));
    }
    table.render()
}

/// `blue, red:10`, or that it is the underlay.
fn memberships(port: &PortInfo) -> String {
    if port.underlay {
        return "(underlay)".into();
    }
    let text = |b: &PortBridge| match b.vlan {
        Some(vlan) => format!("{}:{vlan}", b.bridge),
        None => b.bridge.clone(),
    };
    match port.bridges.len() {
        0..=3 => port.bridges.iter().map(text).collect::<Vec<_>>().join(", "),
        n => format!("{} and {} more", text(&port.bridges[0]), n - 1),
    }
}

fn port(p: &PortInfo) -> String {
    let link = p.reason.as_ref().map_or(p.link.clone(), |reason| format!("{}: {reason}", p.link));
    let refusal = p.refusal.as_ref().map_or_else(String::new, |reason| format!(", last: {reason}"));
    let secrets = match p.wrong_secrets {
        0 => String::new(),
        n => format!(", {} for a wrong secret", thousands(n)),
    };
    let bridges = memberships(p);
    let mut lines = vec![
        ("port", p.name.clone()),
        ("kind", p.kind.clone()),
        ("admin", p.admin.clone()),
        ("link", link),
        ("refused", format!("{} peers{secrets}{refusal}", thousands(p.refused))),
        ("bridges", if bridges.is_empty() { "none".into() } else { bridges }),
        ("mac", p.mac.to_string()),
        ("mtu", p.mtu.to_string()),
        ("queues", p.queues.to_string()),
        ("received", format!("{} packets, {} bytes", thousands(p.rx_packets), thousands(p.rx_bytes))),
        ("sent", format!("{} packets, {} bytes", thousands(p.tx_packets), thousands(p.tx_bytes))),
        ("flood copies", thousands(p.flood_copies)),
        ("segments", thousands(p.segments)),
        ("switched", thousands(p.switched)),
        ("consumed", thousands(p.consumed)),
        ("originated", thousands(p.originated)),
        ("macs", format!("{} of {}", thousands(p.macs), thousands(p.max_macs))),
        ("not learned", thousands(p.not_learned)),
        ("over max-macs", thousands(p.over_max_macs)),
    ];
    if let Some(description) = &p.description {
        lines.insert(1, ("description", description.clone()));
    }
    // Counts by name and by reason.
    let mut counted: Vec<(String, String)> =
        p.counters.iter().map(|(name, n)| (name.replace('_', " "), thousands(*n))).collect();
    // Whatever a kind has is shown by its name.
    let detail = serde_json::to_value(&p.detail).unwrap_or_default();
    for (key, value) in detail.as_object().into_iter().flatten() {
        let text = match value {
            Value::String(text) => text.clone(),
            Value::Number(n) => n.as_u64().map_or_else(|| n.to_string(), thousands),
            Value::Null => "unknown".into(),
            // They have a table of their own.
            Value::Array(_) if key == "rings" => continue,
            Value::Array(names) => wrapped(names),
            Value::Object(faults) => {
                let count = |n: &Value| n.as_u64().map_or_else(|| n.to_string(), thousands);
                counted.extend(faults.iter().map(|(reason, n)| (format!("reset {reason}"), count(n))));
                continue;
            }
            Value::Bool(is) => is.to_string(),
        };
        lines.push((key, text));
    }
    counted.extend(p.drops.iter().map(|(reason, n)| (format!("drop {reason}"), thousands(*n))));
    counted.extend(p.warnings.iter().map(|warning| ("warning".into(), warning.clone())));
    lines.extend(counted.iter().map(|(key, n)| (key.as_str(), n.clone())));
    let rings = p.detail.vhost_user().map_or(&[][..], |detail| &detail.rings);
    let rings = if rings.is_empty() { String::new() } else { format!("\n{}", rings_table(rings)) };
    pairs(&lines) + &rings + "\n"
}

/// The rings of a vhost-user port.
fn rings_table(rings: &[RingInfo]) -> String {
    let mut table = Table::new(&["RING", "DIRECTION", "LAYOUT", "SIZE", "STATE", "KICKS", "INTERRUPTS"]);
    for ring in rings {
        let state = match (ring.started, ring.enabled) {
            (true, true) => "enabled",
            (true, false) => "disabled",
            (false, _) => "stopped",
        };
        table.row([
            ring.index.to_string(),
            if ring.index.is_multiple_of(2) { "to VM" } else { "from VM" }.into(),
            if ring.packed { "packed" } else { "split" }.into(),
            thousands(ring.size.into()),
            state.into(),
            thousands(ring.kicks),
            thousands(ring.interrupts),
        ]);
    }
    table.render()
}

fn connects(infos: &[ConnectInfo]) -> String {
    let heading = |info: &ConnectInfo| match &info.note {
        Some(note) => format!("# {} ({note})", info.program),
        None => format!("# {}", info.program),
    };
    infos.iter().map(|info| format!("{}\n{}\n\n", heading(info), info.text)).collect()
}

fn bridges(bridges: &[BridgeInfo]) -> String {
    let columns = ["NAME", "VNI", "MTU", "MACS", "FLOODS TO", "MEMBERS", "DESCRIPTION"];
    let has_descriptions = bridges.iter().any(|b| b.description.is_some());
    let mut table = Table::new(&columns[..columns.len() - usize::from(!has_descriptions)]);
    for b in bridges {
        let members: Vec<String> = b.members.iter().map(|member| member.to_string()).collect();
        let vni = b.vni.map(|vni| vni.to_string()).unwrap_or_default();
        let mtu = b.mtu.map(|mtu| mtu.to_string()).unwrap_or_default();
        let description = has_descriptions.then(|| b.description.clone().unwrap_or_default());
        let row = [b.name.clone(), vni, mtu, thousands(b.macs), b.flood_targets.to_string(), members.join(", ")];
        table.row(row.into_iter().chain(description));
    }
    table.render()
}

fn fdb(entries: &[FdbEntry]) -> String {
    let mut table = Table::new(&["BRIDGE", "MAC", "PORT", "VLAN", "VTEP", "AGE"]);
    for e in entries {
        table.row([
            e.bridge.clone(),
            e.mac.to_string(),
            e.port.clone().unwrap_or_default(),
            e.vlan.map(|vlan| vlan.to_string()).unwrap_or_default(),
            e.vtep.map(|vtep| vtep.to_string()).unwrap_or_default(),
            if e.is_static { "static".into() } else { duration(e.age_seconds) },
        ]);
    }
    table.render()
}

fn vteps(vteps: &[VtepInfo]) -> String {
    let mut table = Table::new(&["VTEP", "NEXT HOP", "MAC", "STATE", "ORIGIN"]);
    for v in vteps {
        table.row([
            v.address.to_string(),
            v.next_hop.map(|hop| hop.to_string()).unwrap_or_default(),
            v.mac.map(|mac| mac.to_string()).unwrap_or_default(),
            v.state.clone(),
            if v.learned { "learned" } else { "configured" }.into(),
        ]);
    }
    table.render()
}

fn workers(workers: &[WorkerInfo]) -> String {
    let decimal = |value: f64| format!("{value:.1}");
    let percent = |share: f64| format!("{:.1} %", share * 100.0);
    let columns = ["CPU", "BUSY", "IDLE", "PACKETS", "BURST", "POLLS", "TICKS/PACKET", "NS/PACKET", "QUEUES"];
    let mut table = Table::new(&columns);
    let mut queues = Table::new(&["CPU", "PORT", "QUEUE", "PACKETS", "SHARE OF CPU"]);
    let mut stages = Table::new(&["CPU", "STAGE", "TICKS/PACKET", "NS/PACKET", "PACKETS/BURST", "SHARE"]);
    for w in workers {
        table.row([
            w.cpu.to_string(),
            percent(w.busy),
            percent(w.idle),
            thousands(w.packets),
            decimal(w.burst),
            thousands(w.polls),
            w.ticks_per_packet.map(decimal).unwrap_or_default(),
            w.ns_per_packet.map(decimal).unwrap_or_default(),
            w.queues.join(", "),
        ]);
        for q in &w.loads {
            let (cpu, queue) = (w.cpu.to_string(), q.queue.to_string());
            queues.row([cpu, q.port.clone(), queue, thousands(q.packets), percent(q.share)]);
        }
        for s in &w.stages {
            stages.row([
                w.cpu.to_string(),
                s.stage.clone(),
                decimal(s.ticks_per_packet),
                decimal(s.ns_per_packet),
                decimal(s.packets_per_burst),
                percent(s.share),
            ]);
        }
    }
    let mut text = table.render();
    for w in workers {
        if let Some(seconds) = w.silent_seconds {
            text = format!("{text}\nworkers: {}\n", silence(w.cpu, seconds, w.waiting));
        }
    }
    for (table, is_empty) in
        [(queues, workers.iter().all(|w| w.loads.is_empty())), (stages, workers.iter().all(|w| w.stages.is_empty()))]
    {
        if !is_empty {
            text = text + "\n" + &table.render();
        }
    }
    text
}

fn drops(drops: &[DropInfo]) -> String {
    let mut table = Table::new(&["PORT", "DROP", "COUNT", "WHAT HAPPENED"]);
    for d in drops {
        table.row([d.port.clone(), d.name.clone(), thousands(d.count), d.description.clone()]);
    }
    let mut text = table.render();
    let reasons: BTreeMap<_, _> = drops.iter().map(|d| (&d.name, d)).collect();
    for (name, d) in reasons {
        text += &format!("\n{name}\n  usual cause: {}\n  what to do:  {}\n", d.cause, d.remedy);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clap_is_sound() {
        Args::command().debug_assert();
    }

    /// What a line makes, without `dray` at its beginning or with it.
    fn request(line: &str) -> AnyRequest {
        let line = line.strip_prefix("dray ").unwrap_or(line);
        match Args::try_parse_from(std::iter::once("dray").chain(line.split(' '))).map(|args| args.command) {
            Ok(Command::Request(request)) => request,
            _ => panic!("{line}"),
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
        for line in [
            "port show --connect",
            "port show web --secrets",
            "config save --secrets",
            "fdb add b 02:00:00:00:00:01",
            "fdb add b 02:00:00:00:00:01 --port a --vtep 10.0.0.1",
            "bridge add b --port a:4095",
            "config apply /nonexistent/dray.toml",
        ] {
            assert!(Args::try_parse_from(std::iter::once("dray").chain(line.split(' '))).is_err(), "{line}");
        }
    }

    #[test]
    fn answers_become_text() {
        let text = |line: &str, answer: &str| match people(
            &request(line),
            &Answer::from(format!("{{\"result\":{answer}}}").into_bytes()),
        ) {
            Ok(text) => text,
            Err(failure) => panic!("{failure:?}"),
        };
        assert_eq!(
            text(
                "dray port show",
                r#"[{"name":"web","kind":"memif","link":"up","rx_packets":1234,"drops":{"a":1,"b":2},"macs":7}]"#
            ),
            "NAME  KIND   LINK  BRIDGES  RX PACKETS  RX BYTES  TX PACKETS  TX BYTES  DROPS  MACS\n\
             web   memif  up          -       1,234         0           0         0      3     7\n"
        );
        assert_eq!(text("dray fdb flush", r#"{"entries":1000}"#), "1,000 entries forgotten\n");
        let vm = r#"[{"name":"vm","kind":"vhost-user","link":"up","queues":1,"drops":{"tx.full":7},"detail":{
            "socket":"/vm.sock","role":"client","connected":true,"device_status":15,"guest_mtu":null,"regions":1,
            "bytes":4096,"sealed":true,"logging":false,"faults":{"bad_descriptor":1},"protocol_features":[],
            "layout":"packed","ring_size":1024,
            "features":["VIRTIO_F_VERSION_1","VIRTIO_NET_F_MRG_RXBUF","VIRTIO_NET_F_CSUM","VIRTIO_NET_F_MQ","VIRTIO_F_IN_ORDER"],
            "rings":[
                {"index":0,"size":256,"packed":true,"started":true,"enabled":true,"kicks":0,"interrupts":1234},
                {"index":1,"size":1024,"packed":true,"started":true,"enabled":false,"kicks":5,"interrupts":0}]}}]"#;
        let shown = text("dray port show vm", vm);
        let (_, detail) = shown.split_once("over max-macs         0\n").unwrap_or_else(|| panic!("{shown}"));
        assert_eq!(
            detail,
            "bytes                 4,096\n\
             connected             true\n\
             device_status         15\n\
             features              VIRTIO_F_VERSION_1, VIRTIO_NET_F_MRG_RXBUF, VIRTIO_NET_F_CSUM, VIRTIO_NET_F_MQ,\n\
             \x20                     VIRTIO_F_IN_ORDER\n\
             guest_mtu             unknown\n\
             layout                packed\n\
             logging               false\n\
             protocol_features     none\n\
             regions               1\n\
             ring_size             1,024\n\
             role                  client\n\
             sealed                true\n\
             socket                /vm.sock\n\
             reset bad_descriptor  1\n\
             drop tx.full          7\n\
             \n\
             RING  DIRECTION  LAYOUT   SIZE  STATE     KICKS  INTERRUPTS\n   \
             0  to VM      packed    256  enabled       0       1,234\n   \
             1  from VM    packed  1,024  disabled      5           0\n\n"
        );
        // Of a kind that a newer drayd has.
        let tap = r#"[{"name":"t","kind":"tap","link":"up","detail":{"device":"tap0","netns":"web"}}]"#;
        let shown = text("dray port show t", tap);
        assert!(shown.contains("\ndevice         tap0\nnetns          web\n"), "{shown}");
        assert_eq!(text("dray bridge del b", r#"{"changes":["- bridge b"]}"#), "- bridge b\n");
        assert_eq!(text("dray config show", r#"{"text":"a = 1\n"}"#), "a = 1\n");
        let entry = r#"[{"bridge":"b","mac":"02:00:00:00:00:01","vtep":"10.9.0.2","age_seconds":0,"static":true}]"#;
        assert_eq!(
            text("dray fdb show", entry),
            "BRIDGE  MAC                PORT  VLAN  VTEP      AGE\n\
             b       02:00:00:00:00:01     -     -  10.9.0.2  static\n"
        );
    }

    #[test]
    fn errors_become_statuses() {
        let answer = |line: &str| Answer::from(line.as_bytes().to_vec());
        let status = |line: &str| people(&request("dray status"), &answer(line)).err().map(|failure| failure.status);
        for (code, expected) in [(-32000, 1), (BAD_FILE, 2), (INVALID_PARAMS, 2), (-32601, 1)] {
            let line = format!(r#"{{"jsonrpc":"2.0","id":1,"error":{{"code":{code},"message":"no"}}}}"#);
            assert_eq!(status(&line), Some(expected));
        }
        assert_eq!(status("{}"), Some(1));
        let gone = Failure::from(Error::Unreachable("gone".into()));
        assert_eq!((gone.status, gone.show(false)), (3, "error: gone".into()));
        let object = r#"{"error":{"code":-32002,"data":{"code":"unreachable"},"message":"gone"}}"#;
        assert_eq!(gone.show(true), object);
        let file = Failure::from(RpcError::new(BAD_FILE, "error: a.toml:1:1: no".into()));
        assert_eq!(file.show(false), "error: a.toml:1:1: no");
    }

    #[test]
    fn any_reply_becomes_text() {
        let text = |reply: &str| anything(&serde_json::from_str(reply).unwrap());
        assert_eq!(text(r#"{"changes":["- bridge b","+ port a"]}"#), "- bridge b\n+ port a\n");
        assert_eq!(text(r#"{"level":"info","lines_dropped":1234}"#), "level          info\nlines_dropped  1,234\n");
        assert_eq!(text(r#"[{"name":"a"},{"name":"b","rx":7}]"#), "NAME  RX\na      -\nb      7\n");
    }

    #[test]
    fn names_are_asked_where_the_line_says() {
        let socket = |line: &str| completed_socket(line.split(' ').map(Into::into));
        assert_eq!(socket("dray -- dray --socket /a/b port show "), Path::new("/a/b"));
        assert_eq!(socket("dray -- dray port show --socket=/a/c "), Path::new("/a/c"));
    }
}
