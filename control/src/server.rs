//! The control socket: JSON-RPC 2.0, one object a line, over a Unix stream socket.
//!
//! A thread for each connection reads and checks requests, hands them to the control loop one by one, and writes the
//! replies. Sizes, times and the number of connections are bounded, so that a client can only hurt itself.

use crate::attach;
use crate::events;
use crate::ports::Waiter;
use crate::rpc::Reply;
use crossbeam_channel::{Receiver, Sender, bounded};
use dray_api::{
    AnyRequest, AttachRequest, DetachRequest, ErrorCode, EventKind, ExposeRequest, INVALID_PARAMS, INVALID_REQUEST,
    LONG_REQUEST, MAX_REQUEST, Response, RpcError, Terms, Watch, WatchRequest,
};
use dray_config::{Access, SocketName};
use dray_vhost::Listening;
use nix::unistd::{Uid, User};
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fs::{FlockOperation, Mode, OFlags};
use rustix::net::SocketType;
use rustix::net::sockopt::socket_peercred;
use serde::Serialize;
use serde_json::Value;
use std::cmp::Reverse;
use std::fs;
use std::io::{self, ErrorKind, Read, Write};
use std::net::Shutdown;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt, chown};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};
use tracing::{debug, warn};

/// Connections at a time. For one more, one that asks nothing is closed; if there is none, the new one is told so.
const MAX_CONNECTIONS: usize = 64;
/// How long the control loop may take for a request.
const ANSWER: Duration = Duration::from_secs(30);

/// What a connection may take.
#[derive(Clone, Copy)]
struct Limits {
    /// Between two requests.
    idle: Duration,
    /// From the first byte of a request to its newline.
    line: Duration,
    /// Until the client has taken at least a part of what is written.
    write: Duration,
}

const LIMITS: Limits =
    Limits { idle: Duration::from_secs(300), line: Duration::from_secs(5), write: Duration::from_secs(5) };

/// A request on its way to the control loop.
pub struct Call {
    /// What is asked.
    pub request: AnyRequest,
    /// On what terms, if that is a change.
    pub terms: Terms,
    /// Who asks: user and process.
    pub by: Arc<str>,
    /// Who is told what becomes of the link of a port that is added.
    pub waiter: Option<(String, Waiter)>,
    /// Where the reply goes. Nobody waits there any more if it took too long.
    pub reply: Sender<Reply>,
}

/// The control socket. It is removed when this is dropped, and its directory if that was made for it.
pub struct Socket {
    listening: Listening,
    _directory: Option<Directory>,
}

impl Socket {
    /// Listens on `path` for those whom `access` admits. A missing directory is made for them alone; a socket that nobody
    /// listens on any more is replaced.
    ///
    /// # Errors
    /// Why it can't, for people: above all if another drayd is there.
    pub fn bind(path: &Path, access: &Access) -> Result<Socket, String> {
        let failed = |error: io::Error| format!("control socket {}: {error}", path.display());
        let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let directory = Directory::make(dir, access).map_err(failed)?;
        // Of two that start at the same time, one looks and binds after the other.
        let lock = rustix::fs::open(dir, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
            .map_err(|error| failed(error.into()))?;
        rustix::fs::flock(&lock, FlockOperation::LockExclusive).map_err(|error| failed(error.into()))?;
        let listening = Listening::new(&SocketName::Path(path.to_owned()), SocketType::STREAM, access)
            .map_err(|why| format!("control socket: {why}"))?;
        Ok(Socket { listening, _directory: directory })
    }

    /// Serves requests to the receiver, on threads of its own, as long as the process runs.
    ///
    /// # Errors
    /// If there is no thread to be had.
    pub fn serve(&self) -> io::Result<Receiver<Call>> {
        self.serve_within(LIMITS)
    }

    fn serve_within(&self, limits: Limits) -> io::Result<Receiver<Call>> {
        let (calls, receiver) = bounded(MAX_CONNECTIONS);
        let listener = UnixListener::from(self.listening.fd.try_clone()?);
        listener.set_nonblocking(false)?;
        thread::Builder::new().name("control".into()).spawn(move || accept(&listener, &calls, limits))?;
        Ok(receiver)
    }
}

/// A directory that was made for the socket.
struct Directory(PathBuf);

impl Directory {
    /// Makes `dir` if there is none. One that is there stays as it is.
    fn make(dir: &Path, access: &Access) -> io::Result<Option<Directory>> {
        if let Some(parent) = dir.parent() {
            fs::DirBuilder::new().recursive(true).mode(0o755).create(parent)?;
        }
        match fs::create_dir(dir) {
            Ok(()) => {
                let directory = Directory(dir.to_owned());
                fs::set_permissions(dir, fs::Permissions::from_mode(0o750))?;
                chown(dir, access.owner.as_ref().map(|user| user.id), access.group.as_ref().map(|group| group.id))?;
                Ok(Some(directory))
            }
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {
                let meta = fs::metadata(dir)?;
                if let Some(group) =
                    access.group.as_ref().filter(|group| group.id != meta.gid() && meta.mode() & 1 == 0)
                {
                    warn!(target: "control", "group {} can't enter the socket's {}: chgrp it", group.name, dir.display());
                }
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        // Unless there is something else in it.
        let _ = fs::remove_dir(&self.0);
    }
}

/// A client, as the thread that accepts others sees it.
struct Connection {
    stream: UnixStream,
    /// Whose process is at the other end, if that is known.
    user: Option<u32>,
    state: Mutex<State>,
}

enum State {
    /// It asks nothing, or has not asked to the end, since then.
    Silent(Instant),
    /// It is answered, or watches.
    Served,
    /// It is closed, for another one.
    GivenUp,
}

impl Connection {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Says whether it still has its place, which it then keeps until it is [silent](Connection::silent) again.
    fn begin(&self) -> bool {
        let mut state = self.state();
        if matches!(*state, State::GivenUp) {
            return false;
        }
        *state = State::Served;
        true
    }

    fn silent(&self) {
        *self.state() = State::Silent(Instant::now());
    }

    fn silent_since(&self) -> Option<Instant> {
        match *self.state() {
            State::Silent(since) => Some(since),
            State::Served | State::GivenUp => None,
        }
    }

    /// Closes it, unless it is served meanwhile. Its thread sees the end and goes.
    fn give_up(&self) -> bool {
        let mut state = self.state();
        let State::Silent(since) = *state else { return false };
        *state = State::GivenUp;
        let _ = self.stream.shutdown(Shutdown::Both);
        debug!(target: "control", "a client silent for {:?} is closed for another one: {}", since.elapsed(), peer(&self.stream));
        true
    }
}

/// Those who have a place.
#[derive(Default)]
struct Connections(Mutex<Vec<Arc<Connection>>>);

impl Connections {
    fn all(&self) -> MutexGuard<'_, Vec<Arc<Connection>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives `new` a place; if there is none left, that of the one that has been silent for longest, of the user who has most
    /// connections first.
    fn admit(&self, new: &Arc<Connection>) -> bool {
        let mut all = self.all();
        if all.len() >= MAX_CONNECTIONS {
            let of_user = |user| all.iter().filter(|other| other.user == user).count();
            let silent = all.iter().enumerate().filter_map(|(at, one)| Some((at, one.user, one.silent_since()?)));
            let first = silent.min_by_key(|(_, user, since)| (Reverse(of_user(*user)), *since));
            let Some((at, ..)) = first.filter(|(at, ..)| all[*at].give_up()) else { return false };
            all.swap_remove(at);
        }
        all.push(new.clone());
        true
    }

    fn remove(&self, gone: &Arc<Connection>) {
        self.all().retain(|other| !Arc::ptr_eq(other, gone));
    }
}

fn accept(listener: &UnixListener, calls: &Sender<Call>, limits: Limits) {
    let connections = Arc::new(Connections::default());
    let long = Arc::new(Turns::default());
    for stream in listener.incoming() {
        let Ok(stream) = stream else {
            // Out of descriptors, mostly: asking again at once would not help.
            thread::sleep(Duration::from_millis(100));
            continue;
        };
        let user = socket_peercred(&stream).ok().map(|peer| peer.uid.as_raw());
        let connection = Arc::new(Connection { stream, user, state: Mutex::new(State::Silent(Instant::now())) });
        if !connections.admit(&connection) {
            let why = format!("there are {MAX_CONNECTIONS} connections already, and each is being answered");
            let response = Response::new(Value::Null, Err(RpcError::refused(ErrorCode::Busy, why)));
            let _ = connection.stream.set_nonblocking(true);
            let _ = (&connection.stream).write_all((response.encode() + "\n").as_bytes());
            continue;
        }
        let thread = thread::Builder::new().name("client".into()).spawn({
            let (calls, connections, connection) = (calls.clone(), connections.clone(), connection.clone());
            let long = long.clone();
            move || {
                // A client that goes away or is too slow is no event for the log.
                let _ = converse(&connection, &calls, limits, &long);
                connections.remove(&connection);
            }
        });
        if let Err(error) = thread {
            connections.remove(&connection);
            warn!(target: "control", "no thread for a client: {error}");
        }
    }
}

/// Serves a connection to its end.
fn converse(connection: &Connection, calls: &Sender<Call>, limits: Limits, long: &Arc<Turns>) -> io::Result<()> {
    let stream = &connection.stream;
    stream.set_write_timeout(Some(limits.write))?;
    let by: Arc<str> = peer(stream).into();
    let mut buffer = Vec::new();
    loop {
        let line = read_line(stream, &mut buffer, limits, long)?;
        // Who is given up meanwhile must not change anything: nobody would be told.
        if !connection.begin() {
            return Ok(());
        }
        let line = match line {
            Line::End => return Ok(()),
            Line::Is(line, turn) => (line, turn),
            Line::TooLong => {
                let error = RpcError::new(INVALID_REQUEST, format!("a request has at most {MAX_REQUEST} bytes"));
                return write(stream, Response::new(Value::Null, Err(error)).encode(), limits);
            }
            Line::Busy => {
                let why = format!("others' requests of more than {LONG_REQUEST} bytes are under way: one at a time");
                let error = RpcError::refused(ErrorCode::Busy, why);
                return write(stream, Response::new(Value::Null, Err(error)).encode(), limits);
            }
        };
        let (line, _turn) = line;
        let (id, request) = AnyRequest::decode_on_terms(&line);
        drop(line);
        let request = match request {
            Ok((AnyRequest::Watch(WatchRequest::Watch(Watch { kinds, since })), _)) => match begin_watch(&kinds, since)
            {
                Ok((result, watcher)) => {
                    write(stream, Response::new(id, Ok(result)).encode(), limits)?;
                    return watch(stream, watcher, &kinds, limits);
                }
                Err(error) => Err(error),
            },
            request => request,
        };
        let answer = match request.and_then(|(request, terms)| answer(request, terms, &by, calls)) {
            Ok(result) => format!(r#"{{"jsonrpc":"2.0","id":{id},"result":{result}}}"#),
            Err(error) => Response::new(id, Err(error)).encode(),
        };
        write(stream, answer, limits)?;
        connection.silent();
    }
}

/// A place among those who watch, and the reply.
fn begin_watch(kinds: &[EventKind], since: Option<u64>) -> Result<(Value, events::Watcher<'static>), RpcError> {
    if kinds.contains(&EventKind::Other) {
        return Err(RpcError::new(INVALID_PARAMS, "watch: kinds has one that there is not".into()));
    }
    let refused = |why: String| RpcError::refused(ErrorCode::Busy, why);
    let (watching, watcher) = events::watch(since).ok_or_else(|| refused("too many are watching already".into()))?;
    let result = serde_json::to_value(watching).map_err(|error| refused(error.to_string()))?;
    Ok((result, watcher))
}

/// Events that are written at once.
const EVENTS: usize = 64;
/// How often it is looked whether somebody who watches is still there.
const LOOK: Duration = Duration::from_millis(500);

/// Writes events until the client goes. One that does not read loses events, and is given up only after the time for the next
/// request.
fn watch(stream: &UnixStream, mut watcher: events::Watcher<'_>, kinds: &[EventKind], limits: Limits) -> io::Result<()> {
    let limits = Limits { write: limits.idle, ..limits };
    stream.set_write_timeout(Some(limits.write))?;
    loop {
        let mut lines = Vec::new();
        for event in watcher.take(EVENTS, LOOK) {
            if kinds.is_empty() || kinds.contains(&event.kind) || event.kind == EventKind::Lost {
                let params = serde_json::to_string(&*event)?;
                lines.push(format!(r#"{{"jsonrpc":"2.0","method":"event","params":{params}}}"#));
            }
        }
        if !lines.is_empty() {
            write(stream, lines.join("\n"), limits)?;
        } else if is_gone(stream)? {
            return Ok(());
        }
    }
}

/// Whether the other end is closed, not only for writing.
fn is_gone(stream: &UnixStream) -> io::Result<bool> {
    let mut poll = [PollFd::new(stream, PollFlags::empty())];
    rustix::event::poll(&mut poll, Some(&Timespec { tv_sec: 0, tv_nsec: 0 }))?;
    Ok(poll[0].revents().intersects(PollFlags::HUP | PollFlags::ERR))
}

/// User and process at the other end: `root, process 123 (dray)`.
fn peer(stream: &UnixStream) -> String {
    let Ok(peer) = socket_peercred(stream) else { return "unknown".into() };
    let (uid, pid) = (peer.uid, peer.pid.as_raw_nonzero());
    let user = User::from_uid(Uid::from_raw(uid.as_raw())).ok().flatten();
    let user = user.map_or_else(|| format!("user {}", uid.as_raw()), |user| user.name);
    let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    let name: String = name.trim().chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    format!("{user}, process {pid}{}", if name.is_empty() { String::new() } else { format!(" ({name})") })
}

/// The reply, as JSON.
fn answer(request: AnyRequest, terms: Terms, by: &Arc<str>, calls: &Sender<Call>) -> Result<String, RpcError> {
    let asks = |request, terms, waiter| ask(request, terms, by, waiter, calls);
    match request {
        AnyRequest::Attach(AttachRequest::Attach(request)) => json(&attach::attach(request, &terms, &asks)?),
        AnyRequest::Detach(DetachRequest::Detach(request)) => json(&attach::detach(request, &terms, &asks)?),
        AnyRequest::Expose(ExposeRequest::Expose(request)) => json(&attach::expose(request, &terms, &asks)?),
        request => asks(request, terms, None),
    }
}

fn json(reply: &impl Serialize) -> Result<String, RpcError> {
    serde_json::to_string(reply).map_err(|error| RpcError::refused(ErrorCode::Failed, error.to_string()))
}

/// The control loop's reply, as JSON.
fn ask(
    request: AnyRequest,
    terms: Terms,
    by: &Arc<str>,
    waiter: Option<(String, Waiter)>,
    calls: &Sender<Call>,
) -> Result<String, RpcError> {
    let failed = |why: &str| RpcError::refused(ErrorCode::Busy, why);
    let (reply, replies) = bounded(1);
    calls
        .send_timeout(Call { request, terms, by: by.clone(), waiter, reply }, ANSWER)
        .map_err(|_| failed("drayd is busy or shutting down"))?;
    let reply = replies.recv_timeout(ANSWER).map_err(|_| failed("drayd did not answer in time"))??;
    reply().map_err(|error| RpcError::refused(ErrorCode::Failed, error.to_string()))
}

/// Long requests take turns, so that clients together take little memory.
#[derive(Default)]
struct Turns {
    is_taken: Mutex<bool>,
    is_over: Condvar,
}

/// That it is the turn of a long request, until this is dropped.
struct Turn(Arc<Turns>);

impl Turns {
    /// Waits for a turn, until `deadline`.
    fn take(self: &Arc<Self>, deadline: Instant) -> Option<Turn> {
        let left = deadline.saturating_duration_since(Instant::now());
        let is_taken = self.is_taken.lock().unwrap_or_else(PoisonError::into_inner);
        let (mut is_taken, _) =
            self.is_over.wait_timeout_while(is_taken, left, |is| *is).unwrap_or_else(PoisonError::into_inner);
        (!std::mem::replace(&mut *is_taken, true)).then(|| Turn(self.clone()))
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        *self.0.is_taken.lock().unwrap_or_else(PoisonError::into_inner) = false;
        self.0.is_over.notify_one();
    }
}

enum Line {
    /// A request, and its turn if it is long.
    Is(Vec<u8>, Option<Turn>),
    TooLong,
    /// It is long, and others' turn was not over in time.
    Busy,
    /// The client has closed, or said nothing for too long.
    End,
}

/// Reads up to the next newline; what follows it stays in `buffer`.
fn read_line(mut stream: &UnixStream, buffer: &mut Vec<u8>, limits: Limits, long: &Arc<Turns>) -> io::Result<Line> {
    let mut deadline = Instant::now() + if buffer.is_empty() { limits.idle } else { limits.line };
    let mut searched = 0;
    let mut chunk = [0; 16384];
    let mut turn = None;
    loop {
        if let Some(end) = buffer[searched..].iter().position(|byte| *byte == b'\n').map(|at| searched + at) {
            let rest = buffer.split_off(end + 1);
            let mut line = std::mem::replace(buffer, rest);
            line.pop();
            return Ok(if end < MAX_REQUEST { Line::Is(line, turn) } else { Line::TooLong });
        }
        searched = buffer.len();
        if buffer.len() >= MAX_REQUEST {
            return Ok(Line::TooLong);
        }
        if buffer.len() >= LONG_REQUEST && turn.is_none() {
            turn = long.take(deadline);
            if turn.is_none() {
                return Ok(Line::Busy);
            }
            // Waiting was not the client's fault.
            deadline = Instant::now() + limits.line;
        }
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(Line::End);
        }
        stream.set_read_timeout(Some(left))?;
        match stream.read(&mut chunk) {
            Ok(0) => return Ok(Line::End),
            Ok(n) => {
                if buffer.is_empty() {
                    deadline = Instant::now() + limits.line;
                }
                buffer.extend_from_slice(&chunk[..n]);
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => return Ok(Line::End),
            Err(error) => return Err(error),
        }
    }
}

/// Writes a line. A client that takes less than a mebibyte in the time for a write is given up.
fn write(mut stream: &UnixStream, mut line: String, limits: Limits) -> io::Result<()> {
    line.push('\n');
    for part in line.as_bytes().chunks(1 << 20) {
        let deadline = Instant::now() + limits.write;
        let mut left = part;
        while !left.is_empty() {
            match stream.write(left) {
                Ok(n) => left = &left[n..],
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
            if !left.is_empty() && Instant::now() >= deadline {
                return Err(ErrorKind::TimedOut.into());
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{BufRead, BufReader};

    /// A socket that answers every request with its method, for as long as the test runs.
    struct Fixture {
        socket: Option<Socket>,
        dir: tempfile::TempDir,
    }

    impl Fixture {
        fn new(limits: Limits) -> Self {
            let dir = tempfile::tempdir().unwrap();
            let socket = Socket::bind(&dir.path().join("run/dray.sock"), &Access::default()).unwrap();
            let calls = socket.serve_within(limits).unwrap();
            thread::spawn(move || {
                for Call { request, reply, .. } in calls {
                    let method = request.method();
                    let _ = reply.send(Ok(Box::new(move || serde_json::to_string(&method))));
                }
            });
            Fixture { socket: Some(socket), dir }
        }

        fn path(&self) -> PathBuf {
            self.dir.path().join("run/dray.sock")
        }

        fn connect(&self) -> UnixStream {
            let stream = UnixStream::connect(self.path()).unwrap();
            stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
            stream
        }
    }

    impl Drop for Fixture {
        fn drop(&mut self) {
            self.socket = None;
            assert!(!self.path().exists(), "the socket is removed");
            assert!(!self.dir.path().join("run").exists(), "and the directory that was made for it");
        }
    }

    const STATUS: &[u8] = b"{\"jsonrpc\":\"2.0\",\"id\":7,\"method\":\"status\"}\n";
    const ANSWERED: &str = "{\"jsonrpc\":\"2.0\",\"id\":7,\"result\":\"status\"}\n";

    fn line(stream: &UnixStream) -> String {
        let mut line = String::new();
        // Byte by byte, so that nothing is lost between two calls.
        BufReader::with_capacity(1, stream).read_line(&mut line).unwrap();
        line
    }

    fn is_closed(stream: &UnixStream) -> bool {
        let mut stream = stream;
        // Closing with something unread resets the connection.
        matches!(stream.read(&mut [0]), Ok(0)) || stream.write(b"x").is_err()
    }

    #[test]
    fn answers_several_requests_however_they_are_cut() {
        let fixture = Fixture::new(LIMITS);
        let mut stream = fixture.connect();
        stream.write_all(&[STATUS, STATUS].concat()).unwrap();
        assert_eq!((line(&stream), line(&stream)), (ANSWERED.into(), ANSWERED.into()));
        for byte in STATUS {
            stream.write_all(&[*byte]).unwrap();
        }
        assert_eq!(line(&stream), ANSWERED);
    }

    #[test]
    fn garbage_gets_an_error_and_harms_nobody() {
        let fixture = Fixture::new(LIMITS);
        let mut stream = fixture.connect();
        let cases: [(&[u8], &str); 6] = [
            (b"\n", "-32700"),
            (b"\xff\xfe\x00\n", "-32700"),
            (b"[[[[[[[[\n", "-32700"),
            (b"[{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"status\"}]\n", "-32600"),
            (b"{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"reboot\"}\n", "-32601"),
            (b"{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"status\",\"params\":3}\n", "-32602"),
        ];
        for (request, code) in cases {
            stream.write_all(request).unwrap();
            let answer = line(&stream);
            assert!(answer.contains(code), "{answer}");
        }
        stream.write_all(STATUS).unwrap();
        assert_eq!(line(&stream), ANSWERED);
    }

    #[test]
    fn a_line_without_end_is_refused() {
        let fixture = Fixture::new(LIMITS);
        let mut stream = fixture.connect();
        let writer = stream.try_clone().unwrap();
        let thread = thread::spawn(move || {
            let mut writer = writer;
            let junk = vec![b'x'; 1 << 16];
            while writer.write_all(&junk).is_ok() {}
        });
        assert!(line(&stream).contains("-32600"));
        assert!(is_closed(&stream));
        thread.join().unwrap();

        // The longest that is allowed passes.
        stream = fixture.connect();
        let mut longest = STATUS[..STATUS.len() - 1].to_vec();
        longest.resize(MAX_REQUEST - 1, b' ');
        longest.push(b'\n');
        stream.write_all(&longest).unwrap();
        assert_eq!(line(&stream), ANSWERED);
    }

    #[test]
    fn long_requests_take_turns() {
        let line_time = Duration::from_millis(500);
        let fixture = Fixture::new(Limits { line: line_time, ..LIMITS });
        let long = || {
            let mut request = STATUS[..STATUS.len() - 1].to_vec();
            request.resize(2 * LONG_REQUEST, b' ');
            request.push(b'\n');
            request
        };
        // Begins, and does not go on.
        let mut first = fixture.connect();
        first.write_all(&long()[..LONG_REQUEST + 1]).unwrap();
        thread::sleep(line_time / 5);
        let mut second = fixture.connect();
        let writer = second.try_clone().unwrap();
        let start = Instant::now();
        let thread = thread::spawn(move || (&writer).write_all(&long()).is_ok());
        // Short ones don't wait for it.
        let mut short = fixture.connect();
        short.write_all(STATUS).unwrap();
        assert_eq!(line(&short), ANSWERED);
        assert!(start.elapsed() < line_time / 2);
        // The first is given up, and the second one's turn is.
        assert_eq!(line(&second), ANSWERED);
        assert!(thread.join().unwrap() && start.elapsed() >= line_time / 2);
        assert!(is_closed(&first));
        // Whoever holds it for longer than others wait has them told so.
        let turns = Arc::new(Turns::default());
        let now = Instant::now;
        let turn = turns.take(now());
        assert!(turn.is_some() && turns.take(now() + line_time / 10).is_none());
        drop(turn);
        assert!(turns.take(now()).is_some());
        second.write_all(STATUS).unwrap();
        assert_eq!(line(&second), ANSWERED);
    }

    #[test]
    fn slow_clients_are_given_up() {
        let short = Duration::from_millis(200);
        let fixture = Fixture::new(Limits { idle: short, line: short, write: short });
        let silent = fixture.connect();
        let mut partial = fixture.connect();
        partial.write_all(b"{\"jsonrpc\"").unwrap();
        let mut trickle = fixture.connect();
        let start = Instant::now();
        while trickle.write_all(b" ").is_ok() && start.elapsed() < Duration::from_secs(10) {
            thread::sleep(Duration::from_millis(20));
        }
        assert!(start.elapsed() < Duration::from_secs(5), "a byte now and then must not hold a connection");
        assert!(is_closed(&silent) && is_closed(&partial));
        // Asks and asks, and never reads.
        let mut deaf = fixture.connect();
        let start = Instant::now();
        while deaf.write_all(STATUS).is_ok() && start.elapsed() < Duration::from_secs(10) {}
        assert!(start.elapsed() < Duration::from_secs(5));
    }

    #[test]
    fn silent_clients_lock_out_nobody() {
        let fixture = Fixture::new(LIMITS);
        let streams: Vec<UnixStream> = (0..300).map(|_| fixture.connect()).collect();
        let asking: Vec<UnixStream> = (0..3).map(|_| fixture.connect()).collect();
        for mut stream in &asking {
            stream.write_all(STATUS).unwrap();
            assert_eq!(line(stream), ANSWERED);
        }
        // Those that have been silent for longest went.
        assert!(streams[..300 + 3 - MAX_CONNECTIONS].iter().all(is_closed));
        for mut stream in &streams[300 + 3 - MAX_CONNECTIONS..] {
            stream.write_all(STATUS).unwrap();
            assert_eq!(line(stream), ANSWERED);
        }
    }

    #[test]
    fn who_is_served_keeps_his_place() {
        let all = Connections::default();
        let connect = |user| {
            let (stream, other) = UnixStream::pair().unwrap();
            let connection = Connection { stream, user: Some(user), state: Mutex::new(State::Silent(Instant::now())) };
            (Arc::new(connection), other)
        };
        let first: Vec<_> = (0..MAX_CONNECTIONS as u32).map(|at| connect(u32::from(at > 0))).collect();
        assert!(first.iter().all(|(connection, _)| all.admit(connection)));
        // User 1 has more than user 0, whose connection is older; its oldest one is served.
        assert!(first[1].0.begin());
        assert!(all.admit(&connect(0).0));
        assert!(first[0].0.begin() && !first[2].0.begin());
        assert!(is_closed(&first[2].1));
        assert!(first[3..].iter().all(|(connection, _)| connection.begin()));
        assert!(all.admit(&connect(2).0));
        assert!(!all.all().iter().any(|other| other.user == Some(0) && !matches!(*other.state(), State::Served)));
        assert!(all.all().last().unwrap().begin());
        assert!(!all.admit(&connect(2).0));
        // Who has been answered and asks nothing more can be given up again.
        first[1].0.silent();
        assert!(all.admit(&connect(2).0));
        assert_eq!(all.all().len(), MAX_CONNECTIONS);
    }

    #[test]
    fn a_live_socket_is_refused_and_a_stale_one_replaced() {
        let fixture = Fixture::new(LIMITS);
        let path = fixture.path();
        let mode = |path: &Path| fs::symlink_metadata(path).unwrap().mode() & 0o777;
        assert_eq!((mode(&path), mode(path.parent().unwrap())), (0o660, 0o750));
        let bind = |path: &Path| Socket::bind(path, &Access::default());
        let error = bind(&path).err().unwrap();
        assert!(error.ends_with("run/dray.sock: a running process is using it"), "{error}");

        let stale = fixture.dir.path().join("stale.sock");
        drop(UnixListener::bind(&stale).unwrap());
        assert!(stale.exists());
        drop(bind(&stale).unwrap());
        assert!(!stale.exists());

        fs::write(&stale, "precious").unwrap();
        assert!(bind(&stale).err().unwrap().contains("not a socket"));
        assert_eq!(fs::read_to_string(&stale).unwrap(), "precious");
    }

    #[test]
    fn the_socket_and_its_directory_are_for_whom_it_says() {
        if !dray_testing::is_root() {
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let account = |id: u32| Some(dray_config::Account { name: id.to_string(), id });
        let access = Access { mode: 0o600, owner: account(1234), group: account(4321) };
        // Not one of the bits depends on the umask, and several processes' sockets don't mind each other.
        thread::scope(|scope| {
            for worker in 0..4 {
                let path = dir.path().join(format!("{worker}/dray.sock"));
                let access = &access;
                scope.spawn(move || {
                    for _ in 0..100 {
                        let _socket = Socket::bind(&path, access).unwrap();
                        let meta = fs::symlink_metadata(&path).unwrap();
                        assert_eq!((meta.mode() & 0o777, meta.uid(), meta.gid()), (0o600, 1234, 4321));
                        let meta = fs::metadata(path.parent().unwrap()).unwrap();
                        assert_eq!((meta.mode() & 0o777, meta.uid(), meta.gid()), (0o750, 1234, 4321));
                    }
                });
            }
        });
    }
}
