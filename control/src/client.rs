//! dray: the command.

use crate::table::{Table, duration, thousands};
use clap::{CommandFactory, Parser, Subcommand};
use clap_complete::Shell;
use clap_complete::engine::{ArgValueCandidates, CompletionCandidate};
use clap_complete::env::{CompleteEnv, Shells};
use dray_api::{
    BAD_FILE, BridgeInfo, BridgeRequest, ConfigChange, ConfigRequest, ConfigSaved, ConfigText, ConnectInfo, DropInfo,
    Event, FdbBatch, FdbEntry, FdbFlushed, FdbLoaded, FdbRequest, INVALID_PARAMS, LogInfo, LogRequest, PortInfo,
    PortRequest, Request, RpcError, Status, VtepInfo, VtepRequest, Watching, WorkerInfo,
};
use dray_config::schema::{self, Section};
use dray_config::{CONTROL_SOCKET, HIDDEN_SECRET};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, ErrorKind, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

/// Longer than drayd takes for any request.
const PATIENCE: Duration = Duration::from_secs(60);

/// Shows and changes what the switch does
#[derive(Parser)]
#[command(
    name = "dray",
    version,
    after_help = "Exit status: 0 done, 1 the switch refused or can't be reached, 2 wrong use or bad file."
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

#[derive(Subcommand)]
enum Command {
    #[command(flatten)]
    Request(Request),
    /// Print a script for the shell that completes dray's arguments
    Completions {
        /// The shell
        shell: Shell,
    },
}

/// The command line of dray.
pub fn command() -> clap::Command {
    Args::command()
}

/// Runs dray. The status is 0 when it is done, 1 if the switch refused or can't be reached, 2 for wrong use or a wrong
/// file.
pub fn run() -> ExitCode {
    // The shell asks what may come next; else this does nothing.
    CompleteEnv::with_factory(|| with_candidates(command(), "")).complete();
    let args = Args::parse();
    let request = match args.command {
        Command::Request(request) => request,
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
        Request::Port(PortRequest::Add(mut port)) => {
            if let Some(name) = port.named.take() {
                port.name = name;
            }
            answer(&args.socket, &Request::Port(PortRequest::Add(port)), args.json)
        }
        Request::Fdb(FdbRequest::Load { entries, delete }) => load(&args.socket, entries, delete, args.json),
        request @ Request::Watch { .. } => watch(&args.socket, &request, args.json),
        Request::Config(ConfigRequest::Save { file: Some(file), secrets }) => {
            save(&args.socket, &file, secrets, args.json)
        }
        request => answer(&args.socket, &request, args.json),
    };
    result.unwrap_or_else(|Failure { message, status }| {
        eprintln!("{message}");
        ExitCode::from(status)
    })
}

/// Sends `request` and prints the answer.
fn answer(socket: &Path, request: &Request, as_json: bool) -> Result<ExitCode, Failure> {
    let line = call(socket, request)?;
    Ok(print(&if as_json { json(&line) } else { people(request, &line) }?))
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

/// How long the shell waits for names when it completes a line.
const COMPLETION: Duration = Duration::from_secs(1);

/// The command with the values that its arguments may have: names are asked of the switch.
fn with_candidates(command: clap::Command, group: &str) -> clap::Command {
    let name = command.get_name().to_owned();
    let (ports, bridges) = (|| names("port.show"), || names("bridge.show"));
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

/// The names that `method` answers with; none, if the switch can't be asked.
fn names(method: &str) -> Vec<CompletionCandidate> {
    #[derive(Deserialize)]
    struct Named {
        name: String,
    }
    let socket = std::env::var_os("DRAY_SOCKET").map_or_else(|| PathBuf::from(CONTROL_SOCKET), PathBuf::from);
    let ask = || {
        let (_, request) =
            Request::decode(json!({ "jsonrpc": "2.0", "id": 1, "method": method }).to_string().as_bytes());
        let mut connection = Connection::open(&socket)?;
        let limit = connection.stream.get_ref().set_read_timeout(Some(COMPLETION));
        limit.map_err(|error| error.to_string())?;
        result::<Vec<Named>>(&connection.call(&request?)?)
    };
    ask().unwrap_or_default().into_iter().map(|named| CompletionCandidate::new(named.name)).collect()
}

struct Failure {
    message: String,
    status: u8,
}

impl From<String> for Failure {
    fn from(message: String) -> Self {
        Failure { message: format!("error: {message}"), status: 1 }
    }
}

impl From<RpcError> for Failure {
    fn from(error: RpcError) -> Self {
        match error.code {
            // The message has a form of its own.
            BAD_FILE => Failure { message: error.message, status: 2 },
            INVALID_PARAMS => Failure { message: format!("error: {}", error.message), status: 2 },
            // At a place in a file: it has that form too.
            _ if error.message.starts_with("error: ") => Failure { message: error.message, status: 1 },
            _ => error.message.into(),
        }
    }
}

/// A connection to the switch.
struct Connection<'a> {
    socket: &'a Path,
    stream: BufReader<UnixStream>,
}

impl Connection<'_> {
    fn open(socket: &Path) -> Result<Connection<'_>, Failure> {
        let shown = socket.display();
        let stream = UnixStream::connect(socket).map_err(|error| {
            let hint = match error.kind() {
                ErrorKind::NotFound | ErrorKind::ConnectionRefused => ": is drayd running?",
                ErrorKind::PermissionDenied => ": only its owner and group may",
                _ => "",
            };
            format!("no switch at {shown}: {error}{hint}")
        })?;
        let limit = || stream.set_read_timeout(Some(PATIENCE)).and_then(|()| stream.set_write_timeout(Some(PATIENCE)));
        limit().map_err(|error| format!("{shown}: {error}"))?;
        Ok(Connection { socket, stream: BufReader::new(stream) })
    }

    /// Sends `request`; the switch's answer, a line.
    fn call(&mut self, request: &Request) -> Result<String, Failure> {
        let shown = self.socket.display();
        let failed = |error: std::io::Error| match error.kind() {
            ErrorKind::WouldBlock | ErrorKind::TimedOut => format!("the switch at {shown} does not answer"),
            _ => format!("{shown}: {error}"),
        };
        // A switch that refuses the connection has answered already.
        let sent = self.stream.get_mut().write_all((request.encode(1) + "\n").as_bytes());
        let mut line = String::new();
        self.stream.read_line(&mut line).map_err(failed)?;
        if line.is_empty() {
            sent.map_err(failed)?;
            return Err(format!("the switch at {shown} closed the connection").into());
        }
        Ok(line)
    }
}

/// Sends `request`; the switch's answer, a line.
fn call(socket: &Path, request: &Request) -> Result<String, Failure> {
    Connection::open(socket)?.call(request)
}

#[derive(Deserialize)]
struct Notification {
    params: Value,
}

/// Prints events until the switch, or who reads them, goes.
fn watch(socket: &Path, request: &Request, as_json: bool) -> Result<ExitCode, Failure> {
    let mut connection = Connection::open(socket)?;
    let watching = connection.call(request).and_then(|line| result::<Watching>(&line))?;
    if watching.lost > 0 {
        eprintln!("note: {} events are not kept any more", thousands(watching.lost));
    }
    let shown = socket.display();
    connection.stream.get_ref().set_read_timeout(None).map_err(|error| format!("{shown}: {error}"))?;
    for line in connection.stream.lines() {
        let line = line.map_err(|error| format!("{shown}: {error}"))?;
        let event: Notification =
            serde_json::from_str(&line).map_err(|error| format!("the switch's event is not understood: {error}"))?;
        let line = if as_json {
            event.params.to_string()
        } else {
            let event: Event = serde_json::from_value(event.params).map_err(|error| error.to_string())?;
            let by = event.by.map_or_else(String::new, |by| format!(" (by {by})"));
            format!("{}  {:<7}  {}{by}", event.time, event.kind.name(), event.text)
        };
        let mut out = std::io::stdout();
        if writeln!(out, "{line}").and_then(|()| out.flush()).is_err() {
            return Ok(ExitCode::SUCCESS);
        }
    }
    Err(format!("the switch at {shown} closed the connection").into())
}

/// Refused lines that are shown to people.
const REFUSED_SHOWN: usize = 20;

/// Loads or deletes FDB entries, in as many requests as it takes. The status is 1 if any was refused.
fn load(socket: &Path, mut batch: FdbBatch, delete: bool, as_json: bool) -> Result<ExitCode, Failure> {
    let mut total = FdbLoaded { done: 0, refused: std::mem::take(&mut batch.refused) };
    let verb = if delete { "deleted" } else { "added" };
    let mut connection = Connection::open(socket)?;
    for request in batch.into_requests(delete) {
        let answer = connection.call(&request).and_then(|line| result::<FdbLoaded>(&line));
        let mut loaded = answer.map_err(|failure| match total.done {
            0 => failure,
            n => Failure { message: format!("{} ({} entries were {verb})", failure.message, thousands(n)), ..failure },
        })?;
        total.done += loaded.done;
        total.refused.append(&mut loaded.refused);
    }
    total.refused.sort_by_key(|refused| refused.line);
    let is_done = total.refused.is_empty();
    let code = if as_json {
        let result = serde_json::to_string_pretty(&total).map_err(|error| error.to_string())?;
        print(&(result + "\n"))
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
    let text = result::<ConfigText>(&call(socket, &Request::Config(ConfigRequest::Show { secrets }))?)?.text;
    let shown = file.display();
    crate::save::save(file, &text).map_err(|why| format!("{shown}: {why}"))?;
    let hidden = format!("secret = \"{HIDDEN_SECRET}\"");
    if text.lines().any(|line| line == hidden) {
        eprintln!("note: {shown} is without the ports' secrets and can't be applied: --secrets writes them");
    }
    let saved = ConfigSaved { file: file.to_owned() };
    let line = json!({ "result": saved }).to_string();
    let request = Request::Config(ConfigRequest::Save { file: None, secrets: false });
    Ok(print(&if as_json { json(&line) } else { people(&request, &line) }?))
}

#[derive(Deserialize)]
struct Answer<T> {
    result: Option<T>,
    error: Option<RpcError>,
}

fn result<T: DeserializeOwned>(line: &str) -> Result<T, Failure> {
    let answer: Answer<T> =
        serde_json::from_str(line).map_err(|error| format!("the switch's answer is not understood: {error}"))?;
    match (answer.result, answer.error) {
        (Some(result), None) => Ok(result),
        (_, Some(error)) => Err(error.into()),
        (None, None) => Err("the switch's answer has no result".to_owned().into()),
    }
}

fn json(line: &str) -> Result<String, Failure> {
    let value: Value = result(line)?;
    Ok(serde_json::to_string_pretty(&value).map_err(|error| error.to_string())? + "\n")
}

/// The answer for people.
fn people(request: &Request, line: &str) -> Result<String, Failure> {
    Ok(match request {
        Request::Status {} => status(&result(line)?),
        Request::Port(PortRequest::Show { connect: true, .. }) => connects(&result::<Vec<_>>(line)?),
        Request::Port(PortRequest::Show { name: Some(name), .. }) if !name.contains(['*', '?']) => {
            result::<Vec<PortInfo>>(line)?.iter().map(port).collect()
        }
        Request::Port(PortRequest::Show { .. }) => ports(&result::<Vec<_>>(line)?),
        Request::Bridge(BridgeRequest::Show { .. }) => bridges(&result::<Vec<_>>(line)?),
        Request::Fdb(FdbRequest::Show { .. }) => fdb(&result::<Vec<_>>(line)?),
        Request::Fdb(FdbRequest::Flush { .. }) => {
            format!("{} entries forgotten\n", thousands(result::<FdbFlushed>(line)?.entries))
        }
        Request::Log(LogRequest::Show {}) => result::<LogInfo>(line)?.level + "\n",
        Request::Vtep(VtepRequest::Show {}) => vteps(&result::<Vec<_>>(line)?),
        Request::Worker(_) => workers(&result::<Vec<_>>(line)?),
        Request::Drop(_) => drops(&result::<Vec<_>>(line)?),
        // It has no end.
        Request::Watch { .. } => String::new(),
        Request::Config(ConfigRequest::Show { .. }) => result::<ConfigText>(line)?.text,
        Request::Config(ConfigRequest::Save { .. }) => {
            format!("saved to {}\n", result::<ConfigSaved>(line)?.file.display())
        }
        Request::Port(_)
        | Request::Bridge(_)
        | Request::Fdb(_)
        | Request::Vtep(_)
        | Request::Log(_)
        | Request::Config(_) => {
            result::<ConfigChange>(line)?.changes.iter().map(|change| format!("{change}\n")).collect()
        }
    })
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
    let text = |b: &dray_api::PortBridge| match b.vlan {
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
    for (key, value) in &p.detail {
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
    let rings = p.detail.get("rings").and_then(Value::as_array).filter(|rings| !rings.is_empty());
    pairs(&lines) + &rings.map(|rings| format!("\n{}", rings_table(rings))).unwrap_or_default() + "\n"
}

/// The rings of a vhost-user port.
fn rings_table(rings: &[Value]) -> String {
    let mut table = Table::new(&["RING", "DIRECTION", "LAYOUT", "SIZE", "STATE", "KICKS", "INTERRUPTS"]);
    for ring in rings {
        let number = |key: &str| ring[key].as_u64().unwrap_or(0);
        let is = |key: &str| ring[key] == true;
        let state = match (is("started"), is("enabled")) {
            (true, true) => "enabled",
            (true, false) => "disabled",
            (false, _) => "stopped",
        };
        table.row([
            number("index").to_string(),
            if number("index").is_multiple_of(2) { "to VM" } else { "from VM" }.into(),
            if is("packed") { "packed" } else { "split" }.into(),
            thousands(number("size")),
            state.into(),
            thousands(number("kicks")),
            thousands(number("interrupts")),
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
    table.render()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clap_is_sound() {
        Args::command().debug_assert();
    }

    fn request(line: &str) -> Request {
        match Args::try_parse_from(line.split(' ')).map(|args| args.command) {
            Ok(Command::Request(request)) => request,
            _ => panic!("{line}"),
        }
    }

    #[test]
    fn answers_become_text() {
        let text = |line: &str, answer: &str| match people(&request(line), &format!("{{\"result\":{answer}}}")) {
            Ok(text) => text,
            Err(failure) => panic!("{}", failure.message),
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
            "connected":true,"guest_mtu":null,"faults":{"bad_descriptor":1},"protocol_features":[],
            "features":["VIRTIO_F_VERSION_1","VIRTIO_NET_F_MRG_RXBUF","VIRTIO_NET_F_CSUM","VIRTIO_NET_F_MQ","VIRTIO_F_IN_ORDER"],
            "rings":[
                {"index":0,"size":256,"packed":true,"started":true,"enabled":true,"kicks":0,"interrupts":1234},
                {"index":1,"size":1024,"packed":true,"started":true,"enabled":false,"kicks":5,"interrupts":0}]}}]"#;
        let shown = text("dray port show vm", vm);
        let (_, detail) = shown.split_once("over max-macs         0\n").unwrap_or_else(|| panic!("{shown}"));
        assert_eq!(
            detail,
            "connected             true\n\
             features              VIRTIO_F_VERSION_1, VIRTIO_NET_F_MRG_RXBUF, VIRTIO_NET_F_CSUM, VIRTIO_NET_F_MQ,\n\
             \x20                     VIRTIO_F_IN_ORDER\n\
             guest_mtu             unknown\n\
             protocol_features     none\n\
             reset bad_descriptor  1\n\
             drop tx.full          7\n\
             \n\
             RING  DIRECTION  LAYOUT   SIZE  STATE     KICKS  INTERRUPTS\n   \
             0  to VM      packed    256  enabled       0       1,234\n   \
             1  from VM    packed  1,024  disabled      5           0\n\n"
        );
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
        for (code, status) in [(-32000, 1), (BAD_FILE, 2), (INVALID_PARAMS, 2), (-32601, 1)] {
            let line = format!(r#"{{"jsonrpc":"2.0","id":1,"error":{{"code":{code},"message":"no"}}}}"#);
            assert_eq!(json(&line).err().map(|failure| failure.status), Some(status));
            assert_eq!(people(&request("dray status"), &line).err().map(|failure| failure.status), Some(status));
        }
        assert_eq!(json("{}").err().map(|failure| failure.status), Some(1));
    }
}
