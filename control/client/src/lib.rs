//! A client of drayd's control socket: [`Client::call`] for a request and its reply, [`Client::subscribe`] for what happens.
//!
//! Every wait has a limit. A drayd that is stopped or stuck is [`Error::Unreachable`] within five seconds; one that is
//! only busy with a long request is waited for.
#![forbid(unsafe_code)]

use dray_api::{AnyRequest, ErrorCode, Event, FdbBatch, FdbLoaded, Request, RpcError, Terms, Watch, Watching};
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::fmt;
use std::io::{self, BufRead, BufReader, ErrorKind, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// How long a connection, a part of a request or of an answer may take before drayd is asked whether it is there at all.
const QUIET: Duration = Duration::from_secs(3);
/// How long it may take to say that it is.
const PROBE: Duration = Duration::from_secs(1);
/// Longer than drayd takes for any request.
const ANSWER: Duration = Duration::from_secs(60);
/// Between two attempts to reach a drayd that is yet to start.
const AGAIN: Duration = Duration::from_millis(1);

/// Why there is no reply.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Error {
    /// Nobody answers on the socket. What was asked may have been done all the same, if drayd ended or stopped meanwhile.
    Unreachable(String),
    /// drayd refuses.
    Refused(RpcError),
    /// What drayd says is not what this version expects.
    NotUnderstood(String),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Unreachable(why) => f.write_str(why),
            Error::Refused(error) => write!(f, "{error}"),
            Error::NotUnderstood(why) => write!(f, "the switch's answer is not understood: {why}"),
        }
    }
}

impl std::error::Error for Error {}

impl From<Error> for String {
    fn from(error: Error) -> Self {
        error.to_string()
    }
}

/// A connection to drayd.
pub struct Client {
    socket: PathBuf,
    stream: BufReader<UnixStream>,
}

/// What drayd answered to a request: a line.
#[derive(Clone, Debug)]
pub struct Answer(Vec<u8>);

impl Answer {
    /// The reply, as any JSON.
    ///
    /// # Errors
    /// [`Error::Refused`], or it is not understood.
    pub fn value(&self) -> Result<Value, Error> {
        self.read()
    }

    /// The reply to such a request.
    ///
    /// # Errors
    /// [`Error::Refused`], or it is not understood.
    pub fn of<R: Request>(&self, _: &R) -> Result<R::Reply, Error> {
        self.read()
    }

    fn read<T: DeserializeOwned>(&self) -> Result<T, Error> {
        #[derive(Deserialize)]
        struct Line<T> {
            result: Option<T>,
            error: Option<RpcError>,
        }
        let line = serde_json::from_slice(&self.0).map_err(|error| Error::NotUnderstood(error.to_string()))?;
        match line {
            Line { result: Some(result), error: None } => Ok(result),
            Line { error: Some(error), .. } => Err(Error::Refused(error)),
            Line { result: None, error: None } => Err(Error::NotUnderstood("it has no result".into())),
        }
    }
}

impl From<Vec<u8>> for Answer {
    fn from(line: Vec<u8>) -> Self {
        Answer(line)
    }
}

impl Client {
    /// Connects to drayd's `socket`.
    ///
    /// # Errors
    /// [`Error::Unreachable`], with what to do about it; [`Error::Refused`] to who may not.
    pub fn connect(socket: &Path) -> Result<Client, Error> {
        let stream = dial(socket, QUIET).map_err(|error| {
            let no_switch = |hint| format!("no switch at {}: {error}: {hint}", socket.display());
            let hint = match error.kind() {
                ErrorKind::PermissionDenied => {
                    let why = no_switch("only its owner and group may");
                    return Error::Refused(RpcError::refused(ErrorCode::Denied, why));
                }
                _ if is_timeout(&error) => STOPPED,
                _ => "is drayd running? Start it with systemctl start dray, or drayd --config FILE",
            };
            Error::Unreachable(no_switch(hint))
        })?;
        Ok(Client { socket: socket.to_owned(), stream: BufReader::new(stream) })
    }

    /// As [`Client::connect`], to a drayd that may be about to start.
    ///
    /// # Errors
    /// [`Error::Unreachable`], if it is not there in that time.
    pub fn wait(socket: &Path, time: Duration) -> Result<Client, Error> {
        let end = Instant::now() + time;
        loop {
            match Client::connect(socket) {
                Err(Error::Unreachable(_)) if Instant::now() < end => std::thread::sleep(AGAIN),
                result => return result,
            }
        }
    }

    /// The reply to `request`.
    ///
    /// # Errors
    /// Any [`Error`].
    pub fn call<R: Request>(&mut self, request: &R) -> Result<R::Reply, Error> {
        self.send(&request.encode(1))?.of(request)
    }

    /// The answer to any request.
    ///
    /// # Errors
    /// [`Error::Unreachable`]; a refusal is in the answer.
    pub fn ask(&mut self, request: &AnyRequest) -> Result<Answer, Error> {
        self.ask_on(&Terms::default(), request)
    }

    /// The answer to a request that changes something, on these terms.
    ///
    /// # Errors
    /// As [`Client::ask`].
    pub fn ask_on(&mut self, terms: &Terms, request: &AnyRequest) -> Result<Answer, Error> {
        self.send(&terms.put_into(request.encode(1)))
    }

    /// Adds or deletes static FDB entries on these terms, in as many requests as it takes. `loaded` grows by what was done and refused,
    /// also if there is an error in the middle of it.
    ///
    /// # Errors
    /// Any [`Error`]; an entry that is refused is none.
    pub fn load(&mut self, terms: &Terms, batch: FdbBatch, delete: bool, loaded: &mut FdbLoaded) -> Result<(), Error> {
        let mut terms = terms.clone();
        for request in batch.into_requests(delete) {
            let mut part = self.send(&terms.put_into(request.encode(1)))?.of(&request)?;
            // The first one has changed it.
            terms.if_generation = None;
            loaded.done += part.done;
            loaded.refused.append(&mut part.refused);
        }
        Ok(())
    }

    /// Subscribes to what happens.
    ///
    /// # Errors
    /// Any [`Error`].
    pub fn subscribe(mut self, watch: &Watch) -> Result<Subscription, Error> {
        let watching = self.call(watch)?;
        // Nothing may happen for days.
        let forever = self.stream.get_ref().set_read_timeout(None);
        forever.map_err(|error| self.lost(&error))?;
        Ok(Subscription { watching, client: self })
    }

    fn send(&mut self, request: &str) -> Result<Answer, Error> {
        let end = Instant::now() + ANSWER;
        let sent = self.stream.get_mut().write_all((request.to_owned() + "\n").as_bytes());
        if let Err(error) = &sent
            && is_timeout(error)
        {
            return Err(self.lost(error));
        }
        let mut line = Vec::new();
        loop {
            match self.stream.read_until(b'\n', &mut line) {
                Ok(_) if line.ends_with(b"\n") => return Ok(Answer(line)),
                Ok(_) => {
                    // Who refuses the connection has answered already, and read nothing.
                    let closed = || io::Error::new(ErrorKind::UnexpectedEof, "it closed the connection");
                    return Err(self.lost(&sent.err().unwrap_or_else(closed)));
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if is_timeout(&error) && Instant::now() < end && is_alive(&self.socket) => {}
                Err(error) => return Err(self.lost(&error)),
            }
        }
    }

    /// That there was a connection.
    fn lost(&self, error: &io::Error) -> Error {
        let shown = self.socket.display();
        Error::Unreachable(if is_timeout(error) {
            format!("the switch at {shown} does not answer: {STOPPED}")
        } else {
            format!("the switch at {shown} is gone: {error}")
        })
    }
}

const STOPPED: &str =
    "drayd is stopped or stuck, see systemctl status dray, or start it anew with systemctl restart dray";

fn is_timeout(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut)
}

/// Connects within this time, which is also the limit of each read and write after it.
fn dial(socket: &Path, limit: Duration) -> io::Result<UnixStream> {
    let address = SocketAddrUnix::new(socket)?;
    let fd = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    // A stopped process' queue of connections fills up, and then connecting waits as sending does (unix(7)).
    set_socket_timeout(&fd, Timeout::Send, Some(limit))?;
    set_socket_timeout(&fd, Timeout::Recv, Some(limit))?;
    rustix::net::connect(&fd, &address)?;
    Ok(fd.into())
}

/// Whether somebody answers at all. A connection's thread says of an empty line that it is no request, however busy the
/// control loop is.
fn is_alive(socket: &Path) -> bool {
    let ask = || {
        let mut stream = dial(socket, PROBE)?;
        stream.write_all(b"\n")?;
        io::Read::read(&mut stream, &mut [0])
    };
    ask().is_ok_and(|n| n > 0)
}

/// What happens, as it happens.
pub struct Subscription {
    /// The reply to `watch`.
    pub watching: Watching,
    client: Client,
}

impl Subscription {
    /// The next event as any JSON, with what this version does not know.
    ///
    /// # Errors
    /// drayd ended, or what it says is not understood.
    pub fn next_value(&mut self) -> Result<Value, Error> {
        #[derive(Deserialize)]
        struct Notification {
            params: Value,
        }
        let mut line = Vec::new();
        match self.client.stream.read_until(b'\n', &mut line) {
            Ok(0) => Err(self.client.lost(&io::Error::new(ErrorKind::UnexpectedEof, "it closed the connection"))),
            Ok(_) => {
                let event: Result<Notification, _> = serde_json::from_slice(&line);
                event.map(|event| event.params).map_err(|error| Error::NotUnderstood(error.to_string()))
            }
            Err(error) => Err(self.client.lost(&error)),
        }
    }

    /// The next event.
    ///
    /// # Errors
    /// As [`Subscription::next_value`].
    pub fn next_event(&mut self) -> Result<Event, Error> {
        let value = self.next_value()?;
        serde_json::from_value(value).map_err(|error| Error::NotUnderstood(error.to_string()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use dray_api::{EventKind, LogLevel, LogShow, REFUSED};
    use std::os::unix::net::UnixListener;
    use std::thread;

    /// A socket on which `serve` gets each connection, on a thread of its own.
    fn served(serve: fn(usize, BufReader<UnixStream>)) -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("dray.sock");
        let listener = UnixListener::bind(&socket).unwrap();
        thread::spawn(move || {
            for (n, stream) in listener.incoming().enumerate() {
                let stream = BufReader::new(stream.unwrap());
                thread::spawn(move || serve(n, stream));
            }
        });
        (dir, socket)
    }

    fn request(stream: &mut BufReader<UnixStream>) -> String {
        let mut line = String::new();
        stream.read_line(&mut line).unwrap();
        line
    }

    fn say(stream: &mut BufReader<UnixStream>, line: &str) {
        stream.get_mut().write_all(format!("{line}\n").as_bytes()).unwrap();
    }

    #[test]
    fn replies_have_the_types_of_their_requests() {
        let (_dir, socket) = served(|_, mut stream| {
            let wire = r#"{"jsonrpc":"2.0","id":1,"method":"log.show","params":{}}"#;
            assert_eq!(request(&mut stream), format!("{wire}\n"));
            say(&mut stream, r#"{"jsonrpc":"2.0","id":1,"result":{"level":"info","new_field":1}}"#);
            request(&mut stream);
            say(&mut stream, r#"{"jsonrpc":"2.0","id":1,"error":{"code":-32000,"message":"no","new_field":1}}"#);
            request(&mut stream);
            say(&mut stream, "no JSON");
        });
        let mut client = Client::connect(&socket).unwrap();
        assert_eq!(client.call(&LogShow {}).unwrap().level, "info");
        let error = client.call(&LogLevel { level: "warn".into() }).unwrap_err();
        assert!(matches!(&error, Error::Refused(error) if error.code == REFUSED && error.message == "no"), "{error:?}");
        assert!(matches!(client.call(&LogShow {}), Err(Error::NotUnderstood(_))));
        let error = client.call(&LogShow {}).unwrap_err();
        assert!(matches!(&error, Error::Unreachable(why) if why.contains("dray.sock is gone: ")), "{error:?}");
    }

    #[test]
    fn who_is_refused_is_told_why() {
        let (_dir, socket) = served(|_, mut stream| {
            say(&mut stream, r#"{"jsonrpc":"2.0","id":null,"error":{"code":-32000,"message":"too many"}}"#);
        });
        let error = Client::connect(&socket).unwrap().call(&LogShow {}).unwrap_err();
        assert_eq!(error.to_string(), "too many");
    }

    #[test]
    fn events_follow_the_reply() {
        let (_dir, socket) = served(|_, mut stream| {
            request(&mut stream);
            say(&mut stream, r#"{"jsonrpc":"2.0","id":1,"result":{"instance":"1-1","next":7,"lost":0}}"#);
            let event = r#"{"jsonrpc":"2.0","method":"event","params":{"seq":7,"kind":"link","text":"up"}}"#;
            say(&mut stream, event);
            say(&mut stream, event);
        });
        let mut events = Client::connect(&socket).unwrap().subscribe(&Watch::default()).unwrap();
        assert_eq!(events.watching.next, 7);
        let event = events.next_event().unwrap();
        assert_eq!((event.seq, event.kind), (7, EventKind::Link));
        assert_eq!(events.next_value().unwrap()["text"], "up");
        assert!(matches!(events.next_event(), Err(Error::Unreachable(_))));
    }

    #[test]
    fn nobody_is_not_reachable() {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("dray.sock");
        let begin = Instant::now();
        let error = Client::wait(&socket, Duration::from_millis(50)).err().unwrap().to_string();
        assert!(error.starts_with(&format!("no switch at {}: No such file", socket.display())), "{error}");
        assert!(error.ends_with("Start it with systemctl start dray, or drayd --config FILE"), "{error}");
        assert!((50..5000).contains(&begin.elapsed().as_millis()));
        drop(UnixListener::bind(&socket).unwrap());
        assert!(Client::connect(&socket).err().unwrap().to_string().contains("is drayd running?"));
    }

    /// As with a process that is stopped: the kernel connects, and nobody answers.
    #[test]
    fn a_stopped_drayd_is_not_reachable_within_five_seconds() {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("dray.sock");
        let listener =
            rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None).unwrap();
        rustix::net::bind(&listener, &SocketAddrUnix::new(&socket).unwrap()).unwrap();
        rustix::net::listen(&listener, 0).unwrap();
        let begin = Instant::now();
        let mut client = Client::connect(&socket).unwrap();
        let error = client.call(&LogShow {}).unwrap_err().to_string();
        assert!(error.contains("does not answer: drayd is stopped or stuck"), "{error}");
        assert!(begin.elapsed() < Duration::from_secs(5), "{:?}", begin.elapsed());
        // The queue of connections is full.
        let begin = Instant::now();
        let error = Client::connect(&socket).err().unwrap().to_string();
        assert!(error.contains("drayd is stopped or stuck"), "{error}");
        assert!(begin.elapsed() < Duration::from_secs(5), "{:?}", begin.elapsed());
    }

    #[test]
    fn a_busy_drayd_is_waited_for() {
        let (_dir, socket) = served(|n, mut stream| {
            request(&mut stream);
            if n == 0 {
                thread::sleep(QUIET + Duration::from_millis(500));
            }
            say(&mut stream, r#"{"jsonrpc":"2.0","id":1,"result":{"level":"info"}}"#);
        });
        assert_eq!(Client::connect(&socket).unwrap().call(&LogShow {}).unwrap().level, "info");
    }
}
