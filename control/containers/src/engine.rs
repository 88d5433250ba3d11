//! How each engine is asked.

use serde_json::Value;
use std::fmt;
use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

/// How long an engine may take to answer.
const ANSWER: Duration = Duration::from_secs(10);
/// The longest answer, bytes: an inspected container has some kilobytes.
const LONGEST: u64 = 4 << 20;
/// How often it is looked whether a command has ended.
const LOOK: Duration = Duration::from_millis(5);

/// What runs containers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Engine {
    /// Docker.
    Docker,
    /// Podman.
    Podman,
    /// containerd, also that of Kubernetes.
    Containerd,
}

impl fmt::Display for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Engine::Docker => "Docker",
            Engine::Podman => "Podman",
            Engine::Containerd => "containerd",
        })
    }
}

impl Engine {
    /// All of them.
    pub const ALL: [Engine; 3] = [Engine::Docker, Engine::Podman, Engine::Containerd];

    /// Its name before a container's.
    pub fn name(self) -> &'static str {
        match self {
            Engine::Docker => "docker",
            Engine::Podman => "podman",
            Engine::Containerd => "containerd",
        }
    }

    /// The container's own name, and the number of its first process if it runs; none if there is no such container.
    ///
    /// # Errors
    /// Why the engine can't be asked.
    pub(crate) fn find(self, name: &str) -> Result<Option<(String, Option<u32>)>, String> {
        match self {
            // It goes into a path, and none of their names has other characters.
            Engine::Docker | Engine::Podman
                if !name.chars().all(|c| c.is_ascii_alphanumeric() || "_.-".contains(c)) =>
            {
                Ok(None)
            }
            Engine::Docker => inspect(&socket("DOCKER_HOST", "/var/run/docker.sock")?, name),
            Engine::Podman => {
                let socket = socket("CONTAINER_HOST", "/run/podman/podman.sock")?;
                if socket.exists() { inspect(&socket, name) } else { podman(name) }
            }
            Engine::Containerd => containerd(name),
        }
    }
}

/// The engine's socket: what the variable says, as for the engine's own command, or where it usually is.
fn socket(variable: &str, usual: &str) -> Result<PathBuf, String> {
    match std::env::var(variable) {
        Ok(host) if !host.is_empty() => match host.strip_prefix("unix://") {
            Some(path) => Ok(path.into()),
            None => Err(format!("{variable} is {host:?}: only a container of this host can be attached, unix://PATH")),
        },
        _ => Ok(usual.into()),
    }
}

/// Asks by the Docker Engine API. HTTP 1.0, so that the answer ends with the connection and comes in one piece.
fn inspect(socket: &Path, name: &str) -> Result<Option<(String, Option<u32>)>, String> {
    let failed = |error: std::io::Error| match error.kind() {
        ErrorKind::NotFound => format!("there is no socket {}", socket.display()),
        _ => format!("{}: {error}", socket.display()),
    };
    let mut stream = UnixStream::connect(socket).map_err(failed)?;
    stream.set_read_timeout(Some(ANSWER)).map_err(failed)?;
    stream.set_write_timeout(Some(ANSWER)).map_err(failed)?;
    let request = format!("GET /containers/{name}/json HTTP/1.0\r\nHost: localhost\r\n\r\n");
    stream.write_all(request.as_bytes()).map_err(failed)?;
    let mut answer = Vec::new();
    stream.take(LONGEST).read_to_end(&mut answer).map_err(failed)?;
    inspected(&answer).map_err(|why| format!("{}: {why}", socket.display()))
}

/// Reads an answer of HTTP with an inspected container.
fn inspected(answer: &[u8]) -> Result<Option<(String, Option<u32>)>, String> {
    let end = answer.windows(4).position(|four| four == b"\r\n\r\n").ok_or("no answer of HTTP")?;
    let head = String::from_utf8_lossy(&answer[..end]);
    let status = head.split(' ').nth(1).unwrap_or_default();
    let body: Value =
        serde_json::from_slice(&answer[end + 4..]).map_err(|error| format!("status {status}: {error}"))?;
    match status {
        "200" => {
            let name = body["Name"].as_str().ok_or("a container without a name")?.trim_start_matches('/').to_owned();
            let pid = body["State"]["Pid"].as_u64().and_then(|pid| u32::try_from(pid).ok());
            Ok(Some((name, pid.filter(|pid| *pid != 0))))
        }
        "404" => Ok(None),
        _ => Err(format!("status {status}: {}", body["message"].as_str().unwrap_or_default())),
    }
}

fn podman(name: &str) -> Result<Option<(String, Option<u32>)>, String> {
    let format = "{{.Name}} {{.State.Pid}}";
    match command("podman", &["container", "inspect", "--format", format, name])? {
        Ok(printed) => {
            let (name, pid) = printed.trim().split_once(' ').ok_or_else(|| format!("podman prints {printed:?}"))?;
            Ok(Some((name.trim_start_matches('/').into(), pid.parse().ok().filter(|pid| *pid != 0))))
        }
        Err(why) if why.contains("no such container") => Ok(None),
        Err(why) => Err(why),
    }
}

/// `name`: a container's id, or `NAMESPACE/ID`. Docker's own namespace is left to Docker, which has names there.
fn containerd(name: &str) -> Result<Option<(String, Option<u32>)>, String> {
    let (namespaces, id) = match name.rsplit_once('/') {
        Some((namespace, id)) => (namespace.to_owned(), id),
        None => (command("ctr", &["namespaces", "ls", "-q"])??, name),
    };
    for namespace in namespaces.lines().filter(|namespace| *namespace != "moby") {
        let containers = command("ctr", &["-n", namespace, "containers", "ls", "-q"])??;
        let mut matching = containers.lines().filter(|other| *other == id || id.len() >= 8 && other.starts_with(id));
        let Some(id) = matching.next() else { continue };
        let tasks = command("ctr", &["-n", namespace, "tasks", "ls"])??;
        return Ok(Some((format!("{namespace}/{id}"), task(&tasks, id))));
    }
    Ok(None)
}

/// The process of container `id` in what `ctr tasks ls` prints: TASK, PID, STATUS.
fn task(printed: &str, id: &str) -> Option<u32> {
    printed.lines().find_map(|line| match line.split_whitespace().collect::<Vec<_>>()[..] {
        [task, pid, "RUNNING" | "CREATED" | "PAUSED"] if task == id => pid.parse().ok().filter(|pid| *pid != 0),
        _ => None,
    })
}

/// What a command prints, or what it says of why not.
///
/// # Errors
/// If it can't be run, or takes too long.
fn command(program: &str, args: &[&str]) -> Result<Result<String, String>, String> {
    let mut command = Command::new(program);
    command.args(args).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().map_err(|error| match error.kind() {
        ErrorKind::NotFound => format!("there is no command {program}"),
        _ => format!("{program}: {error}"),
    })?;
    let read = |from: Option<Box<dyn Read + Send>>| {
        thread::spawn(move || {
            let mut text = Vec::new();
            let _ = from.map(|from| from.take(LONGEST).read_to_end(&mut text));
            String::from_utf8_lossy(&text).into_owned()
        })
    };
    let printed = read(child.stdout.take().map(|out| Box::new(out) as _));
    let said = read(child.stderr.take().map(|err| Box::new(err) as _));
    let end = Instant::now() + ANSWER;
    let status = loop {
        match child.try_wait() {
            Ok(Some(status)) => break status,
            Ok(None) if Instant::now() < end => thread::sleep(LOOK),
            _ => {
                let _ = child.kill();
                let _ = child.wait();
                return Err(format!("{program} does not end"));
            }
        }
    };
    let (printed, said) = (printed.join().unwrap_or_default(), said.join().unwrap_or_default());
    Ok(if status.success() { Ok(printed) } else { Err(said.lines().last().unwrap_or("it failed").trim().into()) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixListener;

    #[test]
    fn docker_is_asked_by_its_socket() {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("docker.sock");
        let listener = UnixListener::bind(&socket).unwrap();
        thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                let mut request = [0; 256];
                let n = stream.read(&mut request).unwrap();
                let request = String::from_utf8_lossy(&request[..n]).into_owned();
                let (status, body) = match request.split(' ').nth(1).unwrap() {
                    "/containers/0a1b2c/json" => ("200 OK", r#"{"Id":"0a1b2c3d","Name":"/web","State":{"Pid":4711}}"#),
                    "/containers/old/json" => ("200 OK", r#"{"Name":"/old","State":{"Pid":0}}"#),
                    "/containers/bad/json" => ("500 Internal Server Error", r#"{"message":"it burns"}"#),
                    _ => ("404 Not Found", r#"{"message":"No such container"}"#),
                };
                let answer = format!("HTTP/1.0 {status}\r\nContent-Type: application/json\r\n\r\n{body}");
                stream.write_all(answer.as_bytes()).unwrap();
            }
        });
        assert_eq!(inspect(&socket, "0a1b2c"), Ok(Some(("web".into(), Some(4711)))));
        assert_eq!(inspect(&socket, "old"), Ok(Some(("old".into(), None))));
        assert_eq!(inspect(&socket, "none"), Ok(None));
        assert!(inspect(&socket, "bad").unwrap_err().ends_with("status 500: it burns"));
        let missing = inspect(&dir.path().join("none"), "web").unwrap_err();
        assert!(missing.starts_with("there is no socket "), "{missing}");
        assert_eq!(Engine::Docker.find("../info"), Ok(None));
    }

    #[test]
    fn what_is_no_answer_is_said() {
        for wrong in ["", "HTTP/1.0 200 OK\r\n", "HTTP/1.0 200 OK\r\n\r\n<html>", "HTTP/1.0 200 OK\r\n\r\n{}"] {
            assert!(inspected(wrong.as_bytes()).is_err(), "{wrong}");
        }
    }

    #[test]
    fn tasks_of_containerd() {
        let printed =
            "TASK    PID     STATUS    \nweb     4711    RUNNING\nold     0       STOPPED\nweb2    5       RUNNING\n";
        assert_eq!([task(printed, "web"), task(printed, "old"), task(printed, "none")], [Some(4711), None, None]);
    }

    #[test]
    fn commands_print_or_say_why_not() {
        assert_eq!(command("echo", &["a"]), Ok(Ok("a\n".into())));
        assert_eq!(command("sh", &["-c", "echo no >&2; exit 3"]), Ok(Err("no".into())));
        assert_eq!(command("dray-none", &[]), Err("there is no command dray-none".into()));
    }
}
