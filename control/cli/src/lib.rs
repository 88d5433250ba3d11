//! dray, the command.
#![forbid(unsafe_code)]

mod args;
mod complete;
mod show;
mod table;

pub use args::{Line, Task, command, parse};

use clap_complete::Shell;
use clap_complete::env::{CompleteEnv, Shells};
use dray_api::schema::Api;
use dray_api::{
    AnyRequest, Attach, AttachRequest, BAD_FILE, ConfigSaved, ConfigShow, ErrorCode, Event, FdbLoad, FdbLoaded,
    FdbRequest, INVALID_PARAMS, RpcError, Terms, UNREACHABLE, Watch, WatchRequest,
};
use dray_client::{Client, Error};
use dray_config::HIDDEN_SECRET;
use serde::Serialize;
use serde_json::json;
use show::{people, saved_text};
use std::io::{ErrorKind, Write};
use std::path::Path;
use std::process::ExitCode;
use table::thousands;

/// Runs dray. The status is 0 when it is done, 1 if the switch refused, 2 for wrong use or a wrong file, 3 if the switch is
/// not reachable.
pub fn run() -> ExitCode {
    // The shell asks what may come next; else this does nothing.
    CompleteEnv::with_factory(command).complete();
    let Line { socket, json, terms, task } = match parse(std::env::args_os()) {
        Ok(line) => line,
        Err(error) if error.use_stderr() && std::env::args_os().any(|arg| arg == "--json") => return wrong_use(&error),
        Err(error) => error.exit(),
    };
    let result = match task {
        Task::Completions(shell) => completions(shell),
        Task::Schema => Ok(print(&format!("{:#}\n", Api::new().openrpc()))),
        Task::Save { file, secrets } => save(&socket, &file, secrets, json),
        Task::Request(AnyRequest::Fdb(FdbRequest::Load(request))) => load(&socket, &terms, request, json),
        Task::Request(AnyRequest::Watch(WatchRequest::Watch(request))) => watch(&socket, &request, json),
        Task::Request(AnyRequest::Attach(AttachRequest::Attach(request))) => attach(&socket, &terms, request, json),
        Task::Request(request) => answer(&socket, &terms, &request, json),
    };
    result.unwrap_or_else(|failure| {
        eprintln!("{}", failure.show(json));
        ExitCode::from(failure.status)
    })
}

/// Prints a script that completes arguments.
fn completions(shell: Shell) -> Result<ExitCode, Failure> {
    let (mut script, shells) = (Vec::new(), Shells::builtins());
    let completer = shells.completer(&shell.to_string());
    let written =
        completer.map(|completer| completer.write_registration("COMPLETE", "dray", "dray", "dray", &mut script));
    match written {
        Some(Ok(())) => Ok(print(&String::from_utf8_lossy(&script))),
        _ => Err(format!("there is no completion for {shell}").into()),
    }
}

/// Sends `request` and prints the answer.
fn answer(socket: &Path, terms: &Terms, request: &AnyRequest, as_json: bool) -> Result<ExitCode, Failure> {
    let answer = Client::connect(socket)?.ask_on(terms, request)?;
    Ok(print(&if as_json { pretty(&answer.value()?)? } else { people(request, &answer)? }))
}

/// Has a container attached that is found here: with the rights and the environment of who asks.
fn attach(socket: &Path, terms: &Terms, mut request: Attach, as_json: bool) -> Result<ExitCode, Failure> {
    if request.netns.is_none() {
        let place = dray_containers::find(&request.container);
        let place = place.map_err(|why| RpcError::refused(ErrorCode::NotFound, why).at("container"))?;
        request.container = place.name;
        request.netns = place.netns.map(|netns| netns.display().to_string());
    }
    answer(socket, terms, &request.into(), as_json)
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

/// As whose the configuration file's things are shown: no owner has this name.
const FILE: &str = "file";
/// Refused lines that are shown to people.
const REFUSED_SHOWN: usize = 20;

/// Loads or deletes FDB entries. The status is 1 if any was refused.
fn load(socket: &Path, terms: &Terms, request: FdbLoad, as_json: bool) -> Result<ExitCode, Failure> {
    let FdbLoad { entries: mut batch, delete } = request;
    let mut total = FdbLoaded { done: 0, refused: std::mem::take(&mut batch.refused) };
    let verb = if delete { "deleted" } else { "added" };
    let loaded = Client::connect(socket)?.load(terms, batch, delete, &mut total);
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

/// Writes the running configuration to `file`, without what owners have added: that is in files of their own.
fn save(socket: &Path, file: &Path, secrets: bool, as_json: bool) -> Result<ExitCode, Failure> {
    let text = Client::connect(socket)?.call(&ConfigShow { secrets, owner: Some(FILE.into()) })?.text;
    let shown = file.display();
    dray_config::save(file, &text).map_err(|why| format!("{shown}: {why}"))?;
    let hidden = format!("secret = \"{HIDDEN_SECRET}\"");
    if text.lines().any(|line| line == hidden) {
        eprintln!("note: {shown} is without the ports' secrets and can't be applied: --secrets writes them");
    }
    let saved = ConfigSaved { file: file.to_owned() };
    Ok(print(&if as_json { pretty(&saved)? } else { saved_text(&saved) }))
}

fn pretty(value: &impl Serialize) -> Result<String, Failure> {
    Ok(serde_json::to_string_pretty(value).map_err(|error| error.to_string())? + "\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use dray_api::StatusShow;
    use dray_client::Answer;

    #[test]
    fn errors_become_statuses() {
        let answer = |line: &str| Answer::from(line.as_bytes().to_vec());
        let status =
            |line: &str| people(&StatusShow {}.into(), &answer(line)).err().map(|error| Failure::from(error).status);
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
}
