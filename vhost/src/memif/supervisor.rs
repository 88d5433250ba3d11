//! The control channels of all memif ports of a process, on one thread.

use super::SOFTWARE;
use super::client::{ClientOptions, Offer};
use super::kick::Kicker;
use super::proto::{MODE_ETHERNET, Message, VERSION, secret};
use super::ring::{LOG2_MAX, RingSpec, Shared, client_queues, server_queues};
use super::socket::{KIND, Received, reason, receive, send, send_disconnect};
use crate::descriptor::{event, hung_up, is_spare, no_descriptors, text};
use crate::link::{self, Event, Link, Refusal, TxQueues};
use crate::mem::{Budget, ORDINARY_MAX, REGION_MAX, Region, Regions};
use crate::peers::{Attempts, LIVED, Peer, greediest};
use crate::quarantine::{self, Leaving, STUCK_OF_PORT, STUCK_PAUSE};
use crate::socket::{Listening, dial, show};
use dray_config::{Memif, Role, SocketName};
use dray_switch::Rx;
use rustix::event::{Timespec, epoll};
use rustix::net::{SocketFlags, accept_with};
use std::collections::HashMap;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, SyncSender, channel, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How long a handshake may take.
const HANDSHAKE: Duration = Duration::from_secs(5);
/// Connections of one socket that have not finished their handshake. With more, one of whoever has most is given up.
const HALF_OPEN: usize = 64;
/// Why it is.
const GREEDY: &str = "too many half-open connections: the oldest one of who has most is given up";
/// Why those are refused that do not wait for their turn.
const BREATHLESS: &str = "too many connections for this port in a short time";
/// What is said to who guesses.
const WRONG_SECRET: &str = "secret does not match";
/// Rings of one direction.
const RINGS: usize = 16;
/// Regions of a link.
const REGIONS: usize = 256;
/// Between a client's attempts to connect.
const RETRY: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(1));
/// As [`STUCK_OF_PORT`], of one socket.
const STUCK: usize = 32;
/// Out of descriptors: until somebody else is accepted.
const NO_DESCRIPTORS_PAUSE: Duration = Duration::from_millis(100);
/// Messages of one connection that are read before the others get their turn.
const TURN: usize = 64;
/// Between two attempts to end a thread that wakes peers.
const END: Duration = Duration::from_millis(1);
/// Between two looks for peers that fell asleep unnoticed, and for what is closed by now.
const LOOK: Duration = Duration::from_millis(100);

/// How long the thread is waited for. It waits for no peer, but the kernel can have it wait.
const ANSWER: Duration = Duration::from_secs(1);

/// File descriptors that a server's socket needs at most: itself, its half-open connections and one more, and what is still to be
/// closed of others.
pub const DESCRIPTORS_OF_SOCKET: u64 = 1 + HALF_OPEN as u64 + 1 + STUCK as u64;

/// File descriptors that a port with so many queue pairs needs at most: its connection, what a client that connects may describe, and
/// the rings of a link that workers have and of one that they have not yet.
pub fn descriptors_of_port(queues: u16) -> u64 {
    1 + 2 * RINGS as u64 + 4 * u64::from(queues)
}

/// A port to be kept.
#[derive(Clone, Debug)]
pub struct PortSpec {
    /// Unique name, told to the peer.
    pub name: String,
    /// Socket, id, role and sizes.
    pub memif: Memif,
    /// Longest frame in bytes, without FCS; at most [`dray_switch::burst::FRAME_MAX`].
    pub max_frame: u32,
}

/// What there is to tell about a link that is up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LinkInfo {
    /// The peer's software.
    pub peer: String,
    /// The peer's name of the interface.
    pub interface: String,
    /// Rings we receive on.
    pub rx_rings: u16,
    /// Rings we send on.
    pub tx_rings: u16,
    /// Descriptors of the largest ring.
    pub ring_size: u32,
    /// Bytes of our buffers if we are the client; 0: the peer's, which may all differ.
    pub buffer_size: u32,
    /// Regions of shared memory.
    pub regions: usize,
    /// Their bytes.
    pub bytes: u64,
    /// Whether none of them can shrink.
    pub sealed: bool,
}

/// State of a port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LinkState {
    /// Connected.
    Up(LinkInfo),
    /// Not connected, and why.
    Down(String),
}

type States = Arc<Mutex<HashMap<String, LinkState>>>;

fn lock(states: &States) -> MutexGuard<'_, HashMap<String, LinkState>> {
    states.lock().unwrap_or_else(PoisonError::into_inner)
}

enum Command {
    Add(PortSpec, SyncSender<Result<(), String>>),
    Remove(String, SyncSender<bool>),
    MaxFrame(String, u32),
    Forgive(String),
    Shutdown,
}

/// Keeps the links of a process's memif ports. Dropping it disconnects all.
pub struct Supervisor {
    commands: Sender<Command>,
    wake: Arc<OwnedFd>,
    states: States,
    thread: Option<JoinHandle<()>>,
}

impl Supervisor {
    /// Starts the thread. `events` is called on it, and must not call back into the supervisor (but for [`Supervisor::state`]).
    ///
    /// # Errors
    /// If the kernel gives no epoll, eventfd or thread.
    pub fn start(events: impl FnMut(Event) + Send + 'static) -> Result<Supervisor, String> {
        quarantine::start()?;
        let (commands, receiver) = channel();
        let wake = Arc::new(event()?);
        let states = States::default();
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC).map_err(text)?;
        let mut inner = Inner {
            epoll,
            wake: wake.clone(),
            commands: receiver,
            events: Box::new(events),
            states: states.clone(),
            ports: HashMap::new(),
            listeners: HashMap::new(),
            conns: HashMap::new(),
            ending: Vec::new(),
            leaving: Vec::new(),
            token: 0,
            look: Instant::now(),
        };
        inner.watch(&wake, 0)?;
        let thread = std::thread::Builder::new().name("memif".into()).spawn(move || inner.run()).map_err(text)?;
        Ok(Supervisor { commands, wake, states, thread: Some(thread) })
    }

    fn command(&self, command: Command) {
        // The thread ends only when it is told to; a command after that has no effect.
        let _ = self.commands.send(command);
        let _ = rustix::io::write(&self.wake, &1u64.to_ne_bytes());
    }

    /// Begins to keep a port. A server listens when this returns.
    ///
    /// # Errors
    /// If the name or the id on the socket is taken, the socket can't be listened on, or the thread does not answer within a
    /// second.
    pub fn add(&self, spec: PortSpec) -> Result<(), String> {
        // Of no capacity: an answer is either taken or known not to be.
        let (reply, result) = sync_channel(0);
        self.command(Command::Add(spec, reply));
        result.recv_timeout(ANSWER).unwrap_or_else(|e| match e {
            RecvTimeoutError::Timeout => Err(format!("the memif thread has not answered for {ANSWER:?}")),
            RecvTimeoutError::Disconnected => Err("the memif thread has ended".into()),
        })
    }

    /// Disconnects a port's peer and forgets the port; its socket is closed with the last port on it. No event
    /// follows. Whether there was such a port; if the thread does not answer within a second, it does this later.
    pub fn remove(&self, port: &str) -> bool {
        let (reply, result) = sync_channel(0);
        self.command(Command::Remove(port.to_owned(), reply));
        result.recv_timeout(ANSWER).unwrap_or(false)
    }

    /// Changes the longest frame of a port, in bytes without FCS. The link stays up.
    pub fn set_max_frame(&self, port: &str, max_frame: u32) {
        self.command(Command::MaxFrame(port.to_owned(), max_frame));
    }

    /// Forgets who connected to a port how often: for tests that do so without a breath.
    #[doc(hidden)]
    pub fn forgive(&self, port: &str) {
        self.command(Command::Forgive(port.to_owned()));
    }

    /// State of a port, if there is such a port.
    pub fn state(&self, port: &str) -> Option<LinkState> {
        lock(&self.states).get(port).cloned()
    }

    /// Disconnects all peers, removes all sockets and ends the thread, as dropping does. A thread that takes longer than a second
    /// is left to it.
    pub fn shutdown(self) {
        drop(self);
    }
}

impl Drop for Supervisor {
    fn drop(&mut self) {
        self.command(Command::Shutdown);
        let Some(thread) = self.thread.take() else { return };
        let begin = Instant::now();
        while !thread.is_finished() {
            if begin.elapsed() >= ANSWER {
                return;
            }
            std::thread::sleep(Duration::from_micros(100));
        }
        let _ = thread.join();
    }
}

struct Port {
    spec: PortSpec,
    max_frame: Arc<AtomicU32>,
    /// What may be made of the holes in its peers' memory.
    budget: Arc<Budget>,
    /// Its connection, from INIT (server) or connect (client) on.
    conn: Option<u64>,
    /// A server's: who tried to connect.
    attempts: Attempts,
    /// Queue pairs that a client's server took before it ended the connection, until a link has come up and ended.
    taken: Option<u16>,
    /// A client's next attempt, and the pause before the one after that.
    retry: Option<Instant>,
    pause: Duration,
}

struct Listener {
    socket: Listening,
    token: u64,
    /// Out of descriptors: accepts again at this time.
    paused: Option<Instant>,
}

/// What a client has described so far.
#[derive(Default)]
struct Described {
    peer: String,
    regions: Vec<Region>,
    s2m: Vec<RingSpec>,
    m2s: Vec<RingSpec>,
}

/// What a client begins with.
struct Init {
    version: u16,
    id: u32,
    mode: u8,
    secret: [u8; super::proto::SECRET_SIZE],
    name: String,
}

/// How far a connection has come.
enum Stage {
    /// Server: waits for INIT.
    Accepted,
    /// Server: INIT is looked at when the connection's deadline has come. Nothing is read until then.
    Waiting(Init),
    /// Server: the client describes its memory.
    Describing(Described),
    /// Client: waits for HELLO.
    Dialled,
    /// Client: waits for CONNECTED.
    Offered(Box<Offer>),
    /// Either, since when.
    Up(Arc<Shared>, Kicker, Instant),
}

impl Stage {
    /// Whether it is a server's that has not finished its handshake.
    fn is_half_open(&self) -> bool {
        matches!(self, Stage::Accepted | Stage::Waiting(_) | Stage::Describing(_))
    }
}

struct Conn {
    fd: OwnedFd,
    /// A server's.
    peer: Option<Peer>,
    socket: SocketName,
    /// The port it is for, once known.
    port: Option<String>,
    stage: Stage,
    deadline: Instant,
}

struct Inner {
    epoll: OwnedFd,
    wake: Arc<OwnedFd>,
    commands: Receiver<Command>,
    events: Box<dyn FnMut(Event) + Send>,
    states: States,
    ports: HashMap<String, Port>,
    listeners: HashMap<SocketName, Listener>,
    conns: HashMap<u64, Conn>,
    /// Of links that have ended.
    ending: Vec<Kicker>,
    /// What peers left, by socket and, if known, port.
    leaving: Vec<(SocketName, Option<String>, Leaving)>,
    /// The last epoll token given out; 0 is `wake`.
    token: u64,
    /// When to do what is done from time to time, if there is anything to look for.
    look: Instant,
}

impl Inner {
    fn watch(&self, fd: &impl AsFd, token: u64) -> Result<(), String> {
        epoll::add(&self.epoll, fd, epoll::EventData::new_u64(token), epoll::EventFlags::IN).map_err(text)
    }

    fn run(&mut self) {
        let mut ready = Vec::with_capacity(64);
        loop {
            let timeout = self.next_time().map(|at| {
                let left = at.saturating_duration_since(Instant::now());
                Timespec { tv_sec: left.as_secs() as i64, tv_nsec: left.subsec_nanos().into() }
            });
            ready.clear();
            let _ = epoll::wait(&self.epoll, rustix::buffer::spare_capacity(&mut ready), timeout.as_ref());
            for event in &ready {
                let token = event.data.u64();
                if token == 0 {
                    let _ = rustix::io::read(&self.wake, &mut [0u8; 8]);
                } else if let Some(socket) =
                    self.listeners.iter().find(|(_, l)| l.token == token).map(|(name, _)| name.clone())
                {
                    self.accept(&socket);
                } else {
                    self.read(token);
                }
            }
            while let Ok(command) = self.commands.try_recv() {
                match command {
                    Command::Add(spec, reply) => {
                        let name = spec.name.clone();
                        let added = self.add(spec);
                        let is_new = added.is_ok();
                        if reply.send(added).is_err() && is_new {
                            self.remove(&name);
                        }
                    }
                    Command::Remove(port, reply) => {
                        let _ = reply.send(self.remove(&port));
                    }
                    Command::MaxFrame(port, max) => {
                        if let Some(port) = self.ports.get(&port) {
                            port.max_frame.store(max, Ordering::Relaxed);
                        }
                    }
                    Command::Forgive(port) => {
                        if let Some(port) = self.ports.get_mut(&port) {
                            port.attempts = Attempts::default();
                        }
                    }
                    Command::Shutdown => {
                        for (_, conn) in self.conns.drain() {
                            send_disconnect(conn.fd.as_fd(), "the switch shuts down");
                            quarantine::close(conn.fd);
                        }
                        self.listeners.clear();
                        return;
                    }
                }
            }
            self.check_faults();
            self.kick();
            self.check_times();
        }
    }

    /// When something is due at the latest.
    fn next_time(&self) -> Option<Instant> {
        let conns = self.conns.values().filter(|c| !matches!(c.stage, Stage::Up(..))).map(|c| c.deadline);
        let ports = self.ports.values().filter(|p| p.conn.is_none()).filter_map(|p| p.retry);
        let up = |c: &Conn| matches!(c.stage, Stage::Up(..));
        let look = (!self.leaving.is_empty() || self.conns.values().any(up)).then_some(self.look);
        let ending = (!self.ending.is_empty()).then(|| Instant::now() + END);
        conns.chain(ports).chain(self.listeners.values().filter_map(|l| l.paused)).chain(look).chain(ending).min()
    }

    /// Has peers woken for which a worker asked, and from time to time those that fell asleep while no worker saw it. Ends the threads
    /// of links that have ended.
    fn kick(&mut self) {
        let look = self.look <= Instant::now();
        if look {
            self.look = Instant::now() + LOOK;
            self.leaving.retain(|(.., leaving)| !leaving.is_done());
        }
        for conn in self.conns.values_mut() {
            let Stage::Up(_, kicker, _) = &mut conn.stage else { continue };
            if look { kicker.kick_missed() } else { kicker.kick() }
        }
        self.ending.retain_mut(|kicker| !kicker.end());
    }

    /// Closes the links whose peers broke the rules of the rings.
    fn check_faults(&mut self) {
        let fault = |(&token, conn): (&u64, &Conn)| match &conn.stage {
            Stage::Up(shared, ..) => shared.fault().map(|f| (token, f.to_owned())),
            _ => None,
        };
        for (token, what) in self.conns.iter().filter_map(fault).collect::<Vec<_>>() {
            self.close(token, &what, true);
        }
    }

    /// Does what is due.
    fn check_times(&mut self) {
        let now = Instant::now();
        let late = |c: &Conn| !matches!(c.stage, Stage::Up(..)) && c.deadline <= now;
        for token in self.conns.iter().filter(|(_, c)| late(c)).map(|(&t, _)| t).collect::<Vec<_>>() {
            match self.conns.get(&token).map(|conn| &conn.stage) {
                Some(Stage::Waiting(_)) => self.go_on(token),
                _ => self.close(token, "the handshake takes too long", true),
            }
        }
        let due = |p: &Port| p.conn.is_none() && p.retry.is_some_and(|at| at <= now);
        for port in self.ports.iter().filter(|(_, p)| due(p)).map(|(name, _)| name.clone()).collect::<Vec<_>>() {
            self.dial(&port);
        }
        for listener in self.listeners.values_mut() {
            if listener.paused.is_some_and(|at| at <= now) {
                listener.paused = None;
                let data = epoll::EventData::new_u64(listener.token);
                let _ = epoll::modify(&self.epoll, &listener.socket.fd, data, epoll::EventFlags::IN);
            }
        }
    }

    fn add(&mut self, spec: PortSpec) -> Result<(), String> {
        let name = spec.name.clone();
        if self.ports.contains_key(&name) {
            return Err(format!("port {name:?} is there already"));
        }
        let server = spec.memif.role == Role::Server;
        if server {
            if let Some(other) = self.server_port(&spec.memif.socket, spec.memif.id) {
                let socket = show(&spec.memif.socket);
                return Err(format!("id {} of {socket} is port {other:?}'s already", spec.memif.id));
            }
            if !self.listeners.contains_key(&spec.memif.socket) {
                let socket = Listening::new(&spec.memif.socket, KIND, &spec.memif.access)?;
                self.token += 1;
                self.watch(&socket.fd, self.token)?;
                let listener = Listener { socket, token: self.token, paused: None };
                self.listeners.insert(spec.memif.socket.clone(), listener);
            }
        }
        let reason = if server { "no peer has connected" } else { "not connected yet" };
        lock(&self.states).insert(name.clone(), LinkState::Down(reason.into()));
        let port = Port {
            max_frame: Arc::new(AtomicU32::new(spec.max_frame)),
            budget: Arc::default(),
            conn: None,
            attempts: Attempts::default(),
            taken: None,
            retry: (!server).then(Instant::now),
            pause: RETRY.0,
            spec,
        };
        self.ports.insert(name, port);
        Ok(())
    }

    fn remove(&mut self, name: &str) -> bool {
        let Some(port) = self.ports.remove(name) else { return false };
        lock(&self.states).remove(name);
        for token in self.tokens(|conn| conn.port.as_deref() == Some(name)) {
            self.close(token, "the port is removed", true);
        }
        let socket = port.spec.memif.socket;
        if !self.ports.values().any(|p| p.spec.memif.role == Role::Server && p.spec.memif.socket == socket) {
            self.listeners.remove(&socket);
            // Those that have not said yet which id they want.
            for token in self.tokens(|conn| conn.socket == socket && matches!(conn.stage, Stage::Accepted)) {
                self.close(token, "the port is removed", true);
            }
        }
        true
    }

    /// Those connections.
    fn tokens(&self, which: impl Fn(&Conn) -> bool) -> Vec<u64> {
        self.conns.iter().filter(|(_, conn)| which(conn)).map(|(&token, _)| token).collect()
    }

    fn server_port(&self, socket: &SocketName, id: u32) -> Option<&str> {
        let is = |m: &Memif| m.role == Role::Server && m.id == id && m.socket == *socket;
        self.ports.iter().find(|(_, p)| is(&p.spec.memif)).map(|(name, _)| name.as_str())
    }

    fn insert(
        &mut self,
        fd: OwnedFd,
        peer: Option<Peer>,
        socket: SocketName,
        port: Option<String>,
        stage: Stage,
    ) -> Result<u64, String> {
        self.token += 1;
        self.watch(&fd, self.token)?;
        self.conns.insert(self.token, Conn { fd, peer, socket, port, stage, deadline: Instant::now() + HANDSHAKE });
        Ok(self.token)
    }

    /// How much peers have left that is not closed yet.
    fn stuck(&mut self, is: impl Fn(&SocketName, Option<&str>) -> bool) -> usize {
        self.leaving.retain(|(.., leaving)| !leaving.is_done());
        self.leaving.iter().filter(|(socket, port, _)| is(socket, port.as_deref())).count()
    }

    /// Closes a connection without waiting.
    fn bury(&mut self, fd: OwnedFd, socket: &SocketName, port: Option<&str>) {
        let leaving = quarantine::close(fd).map(|leaving| (socket.clone(), port.map(str::to_owned), leaving));
        self.leaving.extend(leaving);
    }

    /// Accepts nobody for a while.
    fn pause(&mut self, name: &SocketName, time: Duration) {
        let Some(listener) = self.listeners.get_mut(name) else { return };
        listener.paused = Some(Instant::now() + time);
        let data = epoll::EventData::new_u64(listener.token);
        let _ = epoll::modify(&self.epoll, &listener.socket.fd, data, epoll::EventFlags::empty());
    }

    fn accept(&mut self, name: &SocketName) {
        if self.stuck(|socket, _| socket == name) >= STUCK {
            return self.pause(name, STUCK_PAUSE);
        }
        let Some(listener) = self.listeners.get_mut(name) else { return };
        let fd = match accept_with(&listener.socket.fd, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK) {
            Ok(fd) => fd,
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::CONNABORTED | rustix::io::Errno::INTR) => return,
            // No descriptors: they come back, and asking again at once would only burn the CPU.
            Err(_) => {
                self.refuse(None, name, None, &no_descriptors());
                return self.pause(name, NO_DESCRIPTORS_PAUSE);
            }
        };
        let peer = Peer::of(&fd);
        if !is_spare(&fd) {
            let reason = no_descriptors();
            send_disconnect(fd.as_fd(), &reason);
            self.bury(fd, name, None);
            self.refuse(None, name, Some(&peer), &reason);
            return self.pause(name, NO_DESCRIPTORS_PAUSE);
        }
        // Which port it is for is not known yet: what any port on this socket takes.
        let ports = || self.ports.values().map(|p| &p.spec.memif).filter(|m| m.socket == *name);
        let last_ring = ports().map(|m| m.queues).max().unwrap_or(1).clamp(1, RINGS as u16) - 1;
        let ring_size = ports().map(|m| m.ring_size).max().unwrap_or(1024).max(1);
        let hello = Message::Hello {
            name: SOFTWARE.into(),
            min_version: VERSION,
            max_version: VERSION,
            max_region: REGIONS as u16 - 1,
            max_m2s_ring: last_ring,
            max_s2m_ring: last_ring,
            max_log2_ring_size: ring_size.ilog2().min(LOG2_MAX.into()) as u8,
        };
        match send(fd.as_fd(), &hello, None) {
            Ok(()) => drop(self.insert(fd, Some(peer), name.clone(), None, Stage::Accepted)),
            Err(_) => self.bury(fd, name, None),
        }
        let half_open = |conn: &&Conn| conn.socket == *name && conn.stage.is_half_open();
        if self.conns.values().filter(half_open).count() > HALF_OPEN {
            let half_open = self.conns.iter().filter(|(_, conn)| half_open(conn));
            let mut half_open: Vec<_> =
                half_open.filter_map(|(&token, conn)| Some((token, conn.peer.as_ref()?))).collect();
            half_open.sort_unstable_by_key(|(token, _)| *token);
            if let Some(token) = greediest(&half_open) {
                self.close(token, GREEDY, true);
            }
        }
    }

    /// Tries to connect a client's port.
    fn dial(&mut self, name: &str) {
        let Some(port) = self.ports.get_mut(name) else { return };
        port.retry = None;
        let socket = port.spec.memif.socket.clone();
        let result =
            dial(&socket, KIND).and_then(|fd| self.insert(fd, None, socket, Some(name.to_owned()), Stage::Dialled));
        match result {
            Ok(token) => {
                if let Some(port) = self.ports.get_mut(name) {
                    port.conn = Some(token);
                }
            }
            Err(why) => self.down(name, &why),
        }
    }

    /// Reads what a peer sent.
    fn read(&mut self, token: u64) {
        for _ in 0..TURN {
            let Some(conn) = self.conns.get(&token) else { return };
            if matches!(conn.stage, Stage::Waiting(_)) {
                if hung_up(conn.fd.as_fd()) {
                    self.close(token, "the peer closed the connection", false);
                }
                return;
            }
            let result = match receive(conn.fd.as_fd()) {
                Received::Nothing => return,
                Received::Closed => return self.close(token, "the peer closed the connection", false),
                Received::Bad(what, leaving) => {
                    // It stays where it is, and nothing behind it can be heard.
                    let left = leaving.map(|leaving| (conn.socket.clone(), conn.port.clone(), leaving));
                    self.leaving.extend(left);
                    return self.close(token, &what, true);
                }
                Received::Message(Message::Disconnect { reason, .. }, _) => {
                    return self.close(token, &format!("the peer disconnected: {reason}"), false);
                }
                Received::Message(message, fd) => self.message(token, message, fd),
            };
            if let Err(what) = result {
                return self.fail(token, &what);
            }
        }
    }

    /// A message can't be taken: ends the connection, unless the peer does.
    fn fail(&mut self, token: u64, what: &str) {
        let Some(conn) = self.conns.get(&token) else { return };
        let (heard, leaving) = reason(conn.fd.as_fd());
        let left = leaving.map(|leaving| (conn.socket.clone(), conn.port.clone(), leaving));
        self.leaving.extend(left);
        match heard {
            Some(reason) => self.close(token, &format!("the peer disconnected: {reason}"), false),
            None => self.close(token, what, true),
        }
    }

    fn message(&mut self, token: u64, message: Message, fd: Option<OwnedFd>) -> Result<(), String> {
        let Some(conn) = self.conns.get_mut(&token) else { return Ok(()) };
        match (&mut conn.stage, message) {
            (Stage::Accepted, Message::Init { version, id, mode, secret, name }) => {
                self.meet(token, Init { version, id, mode, secret, name })
            }
            (Stage::Describing(d), Message::AddRegion { index, size }) => {
                let fd = fd.ok_or("ADD_REGION without a file descriptor")?;
                if index as usize != d.regions.len() || d.regions.len() >= REGIONS {
                    return Err(format!("unexpected region index {index}"));
                }
                let port = conn.port.as_ref().and_then(|p| self.ports.get(p)).ok_or("the port is gone")?;
                d.regions.push(Region::map(&fd, size, &port.budget)?);
                let bytes = |huge| d.regions.iter().filter(|r| r.huge() == huge).map(|r| r.len() as u64).sum::<u64>();
                if bytes(true) > REGION_MAX || bytes(false) > ORDINARY_MAX {
                    return Err(format!(
                        "regions of {} bytes of huge pages and {} of ordinary memory (at most {REGION_MAX} and {ORDINARY_MAX})",
                        bytes(true),
                        bytes(false)
                    ));
                }
                send(conn.fd.as_fd(), &Message::Ack, None)
            }
            (Stage::Describing(d), Message::AddRing { s2m, index, region, offset, log2_size, private_header }) => {
                let event = fd.ok_or("ADD_RING without a file descriptor")?;
                let rings = if s2m { &mut d.s2m } else { &mut d.m2s };
                if index as usize != rings.len() || rings.len() >= RINGS {
                    return Err(format!("unexpected ring index {index}"));
                }
                if private_header != 0 {
                    return Err("private headers are not supported".into());
                }
                rings.push(RingSpec { region, offset, log2: log2_size, event });
                send(conn.fd.as_fd(), &Message::Ack, None)
            }
            (Stage::Describing(d), Message::Connect { interface }) => {
                let described = std::mem::take(d);
                self.serve(token, described, interface)
            }
            (Stage::Dialled, hello @ Message::Hello { .. }) => {
                let port = conn.port.as_ref().and_then(|p| self.ports.get(p)).ok_or("the port is gone")?;
                let memif = &port.spec.memif;
                let options = ClientOptions {
                    ring_size: memif.ring_size,
                    buffer_size: memif.buffer_size,
                    queues: port.taken.unwrap_or(memif.queues),
                    secret: memif.secret.clone(),
                    name: port.spec.name.clone(),
                    timeout: HANDSHAKE,
                    frames: None,
                };
                let (max_frame, wake) = (port.max_frame.clone(), self.wake.clone());
                let offer = Offer::send(conn.fd.as_fd(), hello, memif.id, &options, max_frame, wake)?;
                conn.stage = Stage::Offered(Box::new(offer));
                Ok(())
            }
            (Stage::Offered(offer), Message::Ack) => {
                offer.acknowledged = offer.acknowledged.saturating_add(1);
                Ok(())
            }
            (Stage::Up(..), Message::Ack) => Ok(()),
            (Stage::Offered(_), Message::Connected { interface }) => {
                let Stage::Offered(offer) = std::mem::replace(&mut conn.stage, Stage::Dialled) else {
                    return Ok(());
                };
                let info = offer.info(interface);
                let (rx, tx, kicker) = client_queues(offer.rings);
                let shared = offer.shared;
                self.up(token, Stage::Up(shared, kicker, Instant::now()), rx, tx, info);
                Ok(())
            }
            (_, message) => {
                let message = format!("{message:?}");
                Err(format!("unexpected message {}", message.split(' ').next().unwrap_or_default()))
            }
        }
    }

    /// Looks at INIT, now or when it is its tenant's turn: who comes back again and again, or guesses at a secret, waits.
    fn meet(&mut self, token: u64, init: Init) -> Result<(), String> {
        let conn = self.conns.get(&token).ok_or("the connection is gone")?;
        if init.version != VERSION {
            return Err(format!("version {:#x} is not 2.0", init.version));
        }
        let name = self.server_port(&conn.socket, init.id);
        let name = name.ok_or_else(|| format!("id {} is not served here", init.id))?.to_owned();
        let port = self.ports.get_mut(&name).ok_or("the port is gone")?;
        let conn = self.conns.get_mut(&token).ok_or("the connection is gone")?;
        conn.port = Some(name);
        let now = Instant::now();
        let at = conn.peer.as_ref().map_or(Some(now), |peer| port.attempts.admit(&peer.tenant, now));
        let at = at.ok_or(BREATHLESS)?;
        if at <= now {
            return self.init(token, init);
        }
        (conn.stage, conn.deadline) = (Stage::Waiting(init), at);
        let data = epoll::EventData::new_u64(token);
        epoll::modify(&self.epoll, &conn.fd, data, epoll::EventFlags::empty()).map_err(text)
    }

    /// It is the turn of a connection that waits.
    fn go_on(&mut self, token: u64) {
        let Some(conn) = self.conns.get_mut(&token) else { return };
        let Stage::Waiting(init) = std::mem::replace(&mut conn.stage, Stage::Accepted) else { return };
        conn.deadline = Instant::now() + HANDSHAKE;
        let data = epoll::EventData::new_u64(token);
        let result = epoll::modify(&self.epoll, &conn.fd, data, epoll::EventFlags::IN).map_err(text);
        if let Err(what) = result.and_then(|()| self.init(token, init)) {
            self.fail(token, &what);
        }
    }

    /// Checks INIT, and answers. The port that it is for is taken by this connection then.
    fn init(&mut self, token: u64, init: Init) -> Result<(), String> {
        let Init { id, mode, secret: given, name: peer, .. } = init;
        let conn = self.conns.get(&token).ok_or("the connection is gone")?;
        let name = conn.port.clone().ok_or("the port is gone")?;
        if mode != MODE_ETHERNET {
            return Err(format!("mode {mode} is not Ethernet"));
        }
        let stuck = self.stuck(|_, port| port == Some(&name));
        if stuck >= STUCK_OF_PORT {
            return Err(quarantine::stuck(stuck));
        }
        let port = self.ports.get(&name).ok_or("the port is gone")?;
        if let Some(wanted) = &port.spec.memif.secret {
            // All bytes are compared, whatever the first difference: time tells nothing.
            let wanted = secret(Some(wanted));
            if wanted.iter().zip(&given).fold(0, |diff, (a, b)| diff | (a ^ b)) != 0 {
                return Err(WRONG_SECRET.into());
            }
        }
        if let Some(other) = port.conn {
            if !self.conns.get(&other).is_some_and(|conn| hung_up(conn.fd.as_fd())) {
                return Err(format!("id {id} is already connected"));
            }
            // The old connection of a peer that comes back at once.
            self.close(other, "the peer closed the connection", false);
        }
        let port = self.ports.get_mut(&name).ok_or("the port is gone")?;
        port.conn = Some(token);
        let conn = self.conns.get_mut(&token).ok_or("the connection is gone")?;
        conn.stage = Stage::Describing(Described { peer, ..Default::default() });
        send(conn.fd.as_fd(), &Message::Ack, None)
    }

    /// The client has described everything: makes the queues.
    fn serve(&mut self, token: u64, described: Described, interface: String) -> Result<(), String> {
        let Described { peer, regions, s2m, m2s } = described;
        let bytes = regions.iter().map(|r| r.len() as u64).sum();
        if s2m.is_empty() || m2s.is_empty() {
            return Err("a link needs a ring in each direction".into());
        }
        let rings = || s2m.iter().chain(&m2s);
        let (queues, log2) = (s2m.len().max(m2s.len()), rings().map(|r| r.log2.min(LOG2_MAX)).max().unwrap_or(0));
        let conn = self.conns.get(&token).ok_or("the connection is gone")?;
        let (name, port) = conn.port.as_ref().and_then(|p| self.ports.get_key_value(p)).ok_or("the port is gone")?;
        let memif = &port.spec.memif;
        if queues > memif.queues.into() {
            return Err(format!("{queues} queues, the port's `queues` is {}", memif.queues));
        }
        let info = LinkInfo {
            peer,
            interface,
            rx_rings: s2m.len() as u16,
            tx_rings: m2s.len() as u16,
            ring_size: 1 << log2,
            buffer_size: 0,
            regions: regions.len(),
            bytes,
            sealed: regions.iter().all(Region::sealed),
        };
        let shared = Arc::new(Shared::new(Regions::new(regions), port.max_frame.clone(), self.wake.clone()));
        let (rx, tx, kicker) = server_queues(&shared, s2m, m2s)?;
        if 1 << log2 > memif.ring_size {
            return Err(format!("a ring of {} descriptors, the port's `ring-size` is {}", 1 << log2, memif.ring_size));
        }
        send(conn.fd.as_fd(), &Message::Connected { interface: name.clone() }, None)?;
        self.up(token, Stage::Up(shared, kicker, Instant::now()), rx, tx, info);
        Ok(())
    }

    fn up(&mut self, token: u64, stage: Stage, rx: Vec<Box<dyn Rx>>, tx: TxQueues, info: LinkInfo) {
        let Some(conn) = self.conns.get_mut(&token) else { return };
        conn.stage = stage;
        let Some((name, port)) = conn.port.as_ref().and_then(|n| Some((n.clone(), self.ports.get_mut(n)?))) else {
            return;
        };
        port.pause = RETRY.0;
        lock(&self.states).insert(name.clone(), LinkState::Up(info.clone()));
        let link = Link { rx, tx, info: link::LinkInfo::Memif(info) };
        (self.events)(Event::Up { port: name, link });
    }

    /// Ends a connection; `tell`: the peer hears why.
    fn close(&mut self, token: u64, reason: &str, tell: bool) {
        let Some(conn) = self.conns.remove(&token) else { return };
        if tell {
            send_disconnect(conn.fd.as_fd(), reason);
        }
        let _ = epoll::delete(&self.epoll, &conn.fd);
        self.bury(conn.fd, &conn.socket, conn.port.as_deref());
        let refused = tell && conn.stage.is_half_open();
        let taken = if let Stage::Offered(offer) = &conn.stage { offer.taken() } else { None };
        if let Stage::Up(shared, mut kicker, since) = conn.stage {
            shared.end();
            if since.elapsed() >= LIVED
                && let Some(peer) = &conn.peer
                && let Some(port) = conn.port.as_ref().and_then(|port| self.ports.get_mut(port))
            {
                port.attempts.lived(&peer.tenant);
            }
            if !kicker.end() {
                self.ending.push(kicker);
            }
        }
        if refused {
            self.refuse(conn.port.as_deref(), &conn.socket, conn.peer.as_ref(), reason);
        }
        let Some(name) = conn.port else { return };
        if let Some(port) = self.ports.get_mut(&name)
            && port.conn == Some(token)
        {
            port.conn = None;
            port.taken = taken;
            if refused {
                lock(&self.states).insert(name, LinkState::Down(reason.to_owned()));
            } else {
                self.down(&name, reason);
            }
        }
    }

    /// Tells that somebody was not taken.
    fn refuse(&mut self, port: Option<&str>, socket: &SocketName, peer: Option<&Peer>, reason: &str) {
        (self.events)(Event::Refused(Refusal {
            port: port.map(str::to_owned),
            socket: show(socket),
            reason: reason.to_owned(),
            peer: peer.map(Peer::to_string),
            secret: reason == WRONG_SECRET,
        }));
    }

    /// A port is not connected: says so, if that is new, and has a client try again.
    fn down(&mut self, name: &str, reason: &str) {
        let Some(port) = self.ports.get_mut(name) else { return };
        if port.spec.memif.role == Role::Client {
            port.retry = Some(Instant::now() + port.pause);
            port.pause = (port.pause * 2).min(RETRY.1);
        }
        let state = LinkState::Down(reason.to_owned());
        let before = lock(&self.states).insert(name.to_owned(), state.clone());
        if before.as_ref() != Some(&state) {
            (self.events)(Event::Down { port: name.to_owned(), reason: reason.to_owned() });
        }
    }
}
