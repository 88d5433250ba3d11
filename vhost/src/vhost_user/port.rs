//! One port: its socket in either role, its connection, and the state that messages change.

use super::backend::Backend;
use super::fault::Fault;
use super::messages::{Messages, Next, lock};
use super::queue::{Shared, rx_queues, tx_queues};
use super::snapshot::Snapshot;
use super::status::Status;
use crate::descriptor::{event, hung_up, is_spare, no_descriptors, ready, text};
use crate::link::{self, Event, Link, Refusal, TxQueues};
use crate::mem::Budget;
use crate::mem::signal::{self, Alarm};
use crate::peers::{Breath, LIVED, Peer};
use crate::quarantine::{self, Leaving, STUCK_OF_PORT, STUCK_PAUSE};
use crate::socket::{Listening, dial};
use dray_config::{Role, VhostUser};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{SocketFlags, SocketType, accept_with};
use std::collections::BTreeMap;
use std::net::Shutdown;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// The first pause between attempts to connect or accept; it doubles.
const RETRY: Duration = Duration::from_millis(50);
/// The longest if nobody is there.
const RETRY_ABSENT: Duration = Duration::from_millis(500);
/// The longest for a peer that is there and does things wrong. One that was up for as long begins anew.
const RETRY_MOST: Duration = Duration::from_secs(1);
/// The least pause after a server's peer is gone: whoever comes next is not to wait. One that comes and goes in a loop is ([`Breath`]).
const BREATH: Duration = Duration::from_millis(2);
/// How long a message may take to come, and a peer to read its answers.
const PATIENCE: Duration = Duration::from_secs(5);
/// Between two looks for the rest of a message.
const PIECE: Duration = Duration::from_millis(5);
/// Messages that are dealt with before other things get their turn.
const TURN: usize = 64;
/// Between two looks for drivers that sleep unnoticed.
const LOOK: Duration = Duration::from_millis(100);
/// How long rings that start are waited for, so that all are told of at once.
const SETTLE: Duration = Duration::from_millis(20);
/// How often a port's peers may disturb workers at once, and how often again for each second that passes. A front end that starts many
/// rings in memory of many regions does so some thousand times; one that goes on and on waits.
const DISTURBANCES: u32 = 4096;
const DISTURBANCES_A_SECOND: u32 = 1000;
/// How long a port's thread is waited for at the port's end. One that still hangs then, in what its peer has the kernel do, is left to it.
const END: Duration = Duration::from_millis(100);
/// Why a link is down whose peer is there.
const IDLE: &str = "the driver has not started the device";

/// File descriptors that a port with so many queue pairs needs at most: its listening socket, its connection and another's, who will close
/// that, and what wakes its thread; what is still to be closed of others; those that one message may have; and three for each ring.
pub fn descriptors_of_port(queues: u16) -> u64 {
    5 + STUCK_OF_PORT as u64 + vhost::vhost_user::message::MAX_ATTACHED_FD_ENTRIES as u64 + 6 * u64::from(queues)
}

/// A port to be kept.
#[derive(Clone, Debug)]
pub struct PortSpec {
    /// Unique name.
    pub name: String,
    /// Socket, role and queues.
    pub vhost_user: VhostUser,
    /// Longest frame in bytes, without FCS, that isn't to be segmented; at most [`dray_switch::burst::FRAME_MAX`].
    pub max_frame: u32,
}

/// Keeps the connection of a port. Dropping it disconnects.
pub struct Port {
    end: Arc<AtomicBool>,
    wake: Arc<OwnedFd>,
    max_frame: Arc<AtomicU32>,
    hurries: Arc<AtomicBool>,
    shown: Arc<Mutex<Shown>>,
    thread: Option<JoinHandle<()>>,
    /// A server's. The thread has it only while it looks at it: it closes with the port, whatever the thread is at.
    _listening: Option<Arc<Listening>>,
}

impl Port {
    /// Begins to keep a port. A server listens when this returns. `events` is called on the port's thread.
    ///
    /// # Errors
    /// If the socket can't be listened on, or the kernel gives no thread.
    pub fn open(spec: PortSpec, events: impl FnMut(Event) + Send + 'static) -> Result<Port, String> {
        quarantine::start()?;
        let listening = match spec.vhost_user.role {
            Role::Server => {
                let port = &spec.vhost_user;
                Some(Arc::new(Listening::new(&port.socket, SocketType::STREAM, &port.access)?))
            }
            Role::Client => None,
        };
        let (wake, end) = (Arc::new(event()?), Arc::new(AtomicBool::new(false)));
        let max_frame = Arc::new(AtomicU32::new(spec.max_frame));
        let (hurries, shown) = (Arc::<AtomicBool>::default(), Arc::new(Mutex::new(Shown::default())));
        let name = format!("vhost-{}", spec.name);
        let keeper = Keeper {
            spec,
            events: Box::new(events),
            end: end.clone(),
            wake: wake.clone(),
            max_frame: max_frame.clone(),
            shown: shown.clone(),
            budget: Arc::default(),
            listening: listening.as_ref().map(Arc::downgrade),
            next: Instant::now(),
            pause: RETRY,
            breath: Breath::default(),
            hurries: hurries.clone(),
            told: None,
            leaving: Vec::new(),
            quiet: Instant::now(),
        };
        let thread = std::thread::Builder::new().name(name).spawn(move || keeper.run()).map_err(text)?;
        Ok(Port { end, wake, max_frame, hurries, shown, thread: Some(thread), _listening: listening })
    }

    /// Changes the longest frame, without the link going down.
    pub fn set_max_frame(&self, max_frame: u32) {
        self.max_frame.store(max_frame, Ordering::Relaxed);
    }

    /// A server's peers need no breath between connections from now on: for tests.
    #[doc(hidden)]
    pub fn hurry(&self) {
        self.hurries.store(true, Ordering::Relaxed);
    }

    /// The port as it was after the last message that was dealt with. Waits for no peer.
    pub fn status(&self) -> Status {
        let (faults, snapshot) = {
            let shown = show_lock(&self.shown);
            (shown.faults.clone(), shown.snapshot.clone())
        };
        Status { faults, ..snapshot.map(|snapshot| snapshot.status()).unwrap_or_default() }
    }
}

impl Drop for Port {
    fn drop(&mut self) {
        self.end.store(true, Ordering::Release);
        let Some(thread) = self.thread.take() else { return };
        let _ = rustix::io::write(&self.wake, &1u64.to_ne_bytes());
        if let Some(stream) = &show_lock(&self.shown).stream {
            let _ = stream.shutdown(Shutdown::Both);
        }
        let begin = Instant::now();
        while !thread.is_finished() {
            if begin.elapsed() >= END {
                return;
            }
            // It may come just before a write to the peer's eventfd, and interrupt nothing: hence again and again.
            signal::interrupt(&thread);
            std::thread::sleep(Duration::from_micros(100));
        }
        let _ = thread.join();
    }
}

/// What [`Port::status`] and [`Port::drop`] see of the thread. It is never locked across anything that takes time.
#[derive(Default)]
struct Shown {
    /// The connection, as long as there is one.
    stream: Option<Arc<UnixStream>>,
    /// Its state after the last message.
    snapshot: Option<Arc<Snapshot>>,
    faults: BTreeMap<&'static str, u64>,
}

fn show_lock(shown: &Mutex<Shown>) -> MutexGuard<'_, Shown> {
    shown.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Why a connection ends.
enum End {
    /// The port does.
    Ours,
    /// The peer closed it.
    Closed,
    /// The peer did something wrong.
    Fault(Fault, String),
}

impl From<(Fault, String)> for End {
    fn from((fault, why): (Fault, String)) -> End {
        End::Fault(fault, why)
    }
}

/// What a port's thread does.
struct Keeper {
    spec: PortSpec,
    events: Box<dyn FnMut(Event) + Send>,
    end: Arc<AtomicBool>,
    wake: Arc<OwnedFd>,
    max_frame: Arc<AtomicU32>,
    shown: Arc<Mutex<Shown>>,
    /// What may be made of the holes in its peers' memory.
    budget: Arc<Budget>,
    /// A server's.
    listening: Option<Weak<Listening>>,
    /// When to connect or accept again.
    next: Instant,
    /// The pause before the time after that.
    pause: Duration,
    /// A server's: what makes a peer wait that comes back again and again.
    breath: Breath,
    hurries: Arc<AtomicBool>,
    /// Why the link is down, as was told last.
    told: Option<String>,
    /// What its peers left that is not closed yet.
    leaving: Vec<Leaving>,
    /// When its peers will have made up for all disturbances of workers.
    quiet: Instant,
}

impl Keeper {
    fn run(mut self) {
        signal::unblock();
        // Without it, a peer that has us hang costs its port until the port is closed.
        let _alarm = Alarm::every(1);
        while !self.end.load(Ordering::Acquire) {
            self.wait_until(self.next);
            if self.end.load(Ordering::Acquire) {
                return;
            }
            if self.stuck() {
                self.next = Instant::now() + STUCK_PAUSE;
                self.down(&quarantine::stuck(STUCK_OF_PORT));
                continue;
            }
            let Some(stream) = self.connect() else { continue };
            self.serve(stream);
        }
    }

    /// Waits for a time; for a peer, if that time has come and we are a server; or for the end.
    fn wait_until(&mut self, time: Instant) {
        while !self.end.load(Ordering::Acquire) {
            self.forget_closed();
            let left = time.saturating_duration_since(Instant::now());
            let listening = self.listening();
            let mut fds = vec![PollFd::new(&*self.wake, PollFlags::IN)];
            match &listening {
                Some(listening) if left.is_zero() => fds.push(PollFd::new(&listening.fd, PollFlags::IN)),
                None if left.is_zero() && self.listening.is_none() => return,
                _ => {}
            }
            let look = (!self.leaving.is_empty()).then_some(LOOK);
            let left = (!left.is_zero()).then_some(left);
            let _ = poll(&mut fds, timeout(left.into_iter().chain(look).min()).as_ref());
            if fds.get(1).is_some_and(|fd| !fd.revents().is_empty()) {
                return;
            }
            let _ = rustix::io::read(&self.wake, &mut [0u8; 8]);
        }
    }

    /// A server's socket, until the port ends.
    fn listening(&self) -> Option<Arc<Listening>> {
        self.listening.as_ref()?.upgrade()
    }

    /// Connects or accepts. If that fails, it is to be tried again later.
    fn connect(&mut self) -> Option<UnixStream> {
        if self.end.load(Ordering::Acquire) {
            return None;
        }
        let stream = match self.listening() {
            Some(listening) => match accept_with(&listening.fd, SocketFlags::CLOEXEC) {
                Err(Errno::AGAIN | Errno::CONNABORTED | Errno::INTR) => return None,
                Ok(fd) if !is_spare(&fd) => {
                    self.close(fd);
                    Err(no_descriptors())
                }
                result => result.map_err(|e| format!("accept: {}", text(e))),
            },
            None => dial(&self.spec.vhost_user.socket, SocketType::STREAM),
        };
        let stream = stream.map(UnixStream::from).and_then(|s| s.set_nonblocking(false).map_err(text).map(|()| s));
        match stream {
            Ok(stream) => Some(stream),
            Err(why) => {
                // The pause for who is not there at all is short enough for who is there to be found within a second.
                self.later(RETRY_ABSENT);
                self.down(&why);
                None
            }
        }
    }

    /// Puts the next attempt off, and the one after that further, to `most` at the most.
    fn later(&mut self, most: Duration) {
        self.next = Instant::now() + self.pause.min(most);
        self.pause = (self.pause * 2).min(most);
    }

    /// [`Keeper::later`], after a connection.
    fn again(&mut self, most: Duration) {
        if self.listening.is_none() {
            return self.later(most);
        }
        let now = Instant::now();
        let at = if self.hurries.load(Ordering::Relaxed) { None } else { self.breath.admit(now) };
        self.next = at.unwrap_or(now).max(now + BREATH);
    }

    fn down(&mut self, why: &str) {
        if self.told.as_deref() != Some(why) {
            self.told = Some(why.to_owned());
            self.event(Event::Down { port: self.spec.name.clone(), reason: why.to_owned() });
        }
    }

    /// Tells what happened, unless the port has ended: there may be another of its name.
    fn event(&mut self, event: Event) {
        if !self.end.load(Ordering::Acquire) {
            (self.events)(event);
        }
    }

    /// Forgets what is closed by now.
    fn forget_closed(&mut self) {
        self.leaving.retain(|leaving| !leaving.is_done());
    }

    /// Whether its peers have left so much that is not closed yet that nobody else is taken.
    fn stuck(&mut self) -> bool {
        self.forget_closed();
        self.leaving.len() >= STUCK_OF_PORT
    }

    /// Closes a connection without waiting. The peer notices at once.
    fn close(&mut self, stream: OwnedFd) {
        self.leaving.extend(quarantine::close(stream));
    }

    /// Shows a connection as it is now.
    fn show(&self, backend: &Mutex<Backend>) {
        let snapshot = Arc::new(lock(backend).snapshot());
        let before = show_lock(&self.shown).snapshot.replace(snapshot);
        drop(before);
    }

    /// Whether peers have disturbed workers so often that their messages wait.
    fn disturbs(&self) -> bool {
        self.quiet > Instant::now() + Duration::from_secs(1) / DISTURBANCES_A_SECOND * DISTURBANCES
    }

    /// Closes a connection that all others have let go of.
    fn close_last(&mut self, stream: Arc<UnixStream>) {
        if let Some(stream) = Arc::into_inner(stream) {
            self.close(stream.into());
        }
    }

    /// Ends a connection that is not shown any more.
    fn part(&mut self, connection: Connection) {
        let Connection { stream, mut messages, .. } = connection;
        self.leaving.extend(messages.leaving.take());
        drop(messages);
        self.close_last(stream);
    }

    /// Serves a connection to its end.
    fn serve(&mut self, stream: UnixStream) {
        let shared =
            Arc::new(Shared { max_frame: self.max_frame.clone(), fault: OnceLock::new(), wake: self.wake.clone() });
        let backend = Arc::new(Mutex::new(Backend::new(self.spec.vhost_user.queues, shared, self.budget.clone())));
        let stream = Arc::new(stream);
        let messages = match Messages::new(stream.clone(), backend.clone()) {
            Ok(messages) => messages,
            Err(why) => {
                self.close_last(stream);
                self.later(RETRY_MOST);
                return self.down(&why);
            }
        };
        show_lock(&self.shown).stream = Some(stream.clone());
        self.show(&backend);
        self.down(IDLE);
        let mut connection = Connection {
            stream,
            messages,
            backend,
            stuck: None,
            up: None,
            up_since: None,
            settled: None,
            look: Instant::now(),
        };
        let begin = Instant::now();
        let end = connection.run(self);
        if begin.elapsed() >= LIVED {
            self.breath = Breath::default();
        }
        // Rings first: the queues that workers have move nothing from now on, whatever comes.
        lock(&connection.backend).stop_all();
        {
            let mut shown = show_lock(&self.shown);
            (shown.stream, shown.snapshot) = (None, None);
        }
        let since = connection.up_since.take();
        if since.is_some_and(|since| since.elapsed() >= RETRY_MOST) {
            self.pause = RETRY;
        }
        match end {
            End::Ours => self.part(connection),
            End::Closed => {
                self.again(RETRY_ABSENT);
                self.part(connection);
                self.down("the peer closed the connection");
            }
            End::Fault(fault, why) => {
                *show_lock(&self.shown).faults.entry(fault.name()).or_default() += 1;
                self.again(RETRY_MOST);
                for err in lock(&connection.backend).errors() {
                    if write_event(&err) == Err(Errno::INTR) {
                        break;
                    }
                }
                self.part(connection);
                self.down(&format!("reset: {why}"));
            }
        }
    }
}

/// Writes to a peer's eventfd. It hangs if the peer wants it to, until the next [`Alarm`].
fn write_event(fd: &OwnedFd) -> Result<(), Errno> {
    match rustix::io::write(fd, &1u64.to_ne_bytes()) {
        // A full counter already says all there is to say.
        Ok(_) | Err(Errno::AGAIN) => Ok(()),
        Err(e) => Err(e),
    }
}

fn timeout(time: Option<Duration>) -> Option<Timespec> {
    time.map(|t| Timespec { tv_sec: t.as_secs() as i64, tv_nsec: t.subsec_nanos().into() })
}

/// A connection.
struct Connection {
    stream: Arc<UnixStream>,
    messages: Messages,
    backend: Arc<Mutex<Backend>>,
    /// What keeps the next message from being dealt with, and since when.
    stuck: Option<(Next, Instant)>,
    /// The rings that were told of with the last [`Event::Up`].
    up: Option<Vec<usize>>,
    /// When the first of them was sent.
    up_since: Option<Instant>,
    /// When to tell of the rings there are: they come one by one.
    settled: Option<Instant>,
    /// When to look for drivers that sleep unnoticed.
    look: Instant,
}

impl Connection {
    fn run(&mut self, keeper: &mut Keeper) -> End {
        loop {
            match self.turn(keeper) {
                Ok(()) => {}
                Err(end) => return end,
            }
        }
    }

    fn turn(&mut self, keeper: &mut Keeper) -> Result<(), End> {
        self.wait(keeper);
        if keeper.end.load(Ordering::Acquire) {
            return Err(End::Ours);
        }
        keeper.forget_closed();
        self.refuse_others(keeper)?;
        self.read(keeper)?;
        self.check_fault()?;
        self.interrupt()?;
        self.tell(keeper);
        Ok(())
    }

    /// Waits for something to do.
    fn wait(&self, keeper: &Keeper) {
        // A message that comes in pieces makes the socket readable: that must not be waited for.
        let (events, pause) = match self.stuck {
            None => (PollFlags::IN, LOOK),
            Some((Next::Unheard, _)) => (PollFlags::OUT, LOOK),
            Some(_) => (PollFlags::empty(), PIECE),
        };
        let (events, pause) = if keeper.disturbs() { (PollFlags::empty(), PIECE) } else { (events, pause) };
        let pause = self.settled.map_or(pause, |at| pause.min(at.saturating_duration_since(Instant::now())));
        let mut fds = vec![PollFd::new(&*keeper.wake, PollFlags::IN), PollFd::new(&*self.stream, events)];
        let listening = keeper.listening().filter(|_| keeper.leaving.len() < STUCK_OF_PORT);
        fds.extend(listening.as_ref().map(|listening| PollFd::new(&listening.fd, PollFlags::IN)));
        let _ = poll(&mut fds, timeout(Some(pause)).as_ref());
        let _ = rustix::io::read(&keeper.wake, &mut [0u8; 8]);
    }

    /// Refuses a second peer; but a peer that comes back finds its old connection closed.
    fn refuse_others(&self, keeper: &mut Keeper) -> Result<(), End> {
        let Some(listening) = keeper.listening() else { return Ok(()) };
        if !ready(listening.fd.as_fd(), PollFlags::IN) {
            return Ok(());
        }
        if hung_up(self.stream.as_fd()) {
            return Err(End::Closed);
        }
        if keeper.stuck() {
            return Ok(());
        }
        match accept_with(&listening.fd, SocketFlags::CLOEXEC) {
            Ok(other) => {
                let peer = Peer::of(&other);
                keeper.close(other);
                keeper.event(Event::Refused(Refusal {
                    port: Some(keeper.spec.name.clone()),
                    socket: keeper.spec.vhost_user.socket.to_string(),
                    reason: "another front end is connected".into(),
                    peer: Some(peer.to_string()),
                    secret: false,
                }));
            }
            // No descriptors: they come back, and asking again at once would only burn the CPU.
            Err(_) => std::thread::sleep(PIECE),
        }
        Ok(())
    }

    /// Deals with messages.
    fn read(&mut self, keeper: &mut Keeper) -> Result<(), End> {
        for _ in 0..TURN {
            let disturbed = lock(&self.backend).take_disturbed();
            keeper.quiet =
                keeper.quiet.max(Instant::now()) + Duration::from_secs(1) / DISTURBANCES_A_SECOND * disturbed;
            if keeper.disturbs() {
                return if hung_up(self.stream.as_fd()) { Err(End::Closed) } else { Ok(()) };
            }
            let next = self.messages.next()?;
            match next {
                Next::Message => {
                    self.stuck = None;
                    keeper.show(&self.backend);
                }
                Next::Nothing => return Ok(()),
                Next::Closed => return Err(End::Closed),
                Next::Part | Next::Unheard => {
                    let (_, since) = *self.stuck.get_or_insert((next, Instant::now()));
                    self.stuck = Some((next, since));
                    if hung_up(self.stream.as_fd()) {
                        return Err(End::Closed);
                    }
                    if since.elapsed() >= PATIENCE {
                        let what = if next == Next::Part { "sent half a message" } else { "does not read its answers" };
                        return Err(End::Fault(Fault::Message, format!("the peer {what}")));
                    }
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    fn check_fault(&self) -> Result<(), End> {
        let backend = lock(&self.backend);
        backend.shared().fault.get().map_or(Ok(()), |(fault, why)| Err(End::Fault(*fault, why.clone())))
    }

    /// Interrupts drivers that are to be.
    fn interrupt(&mut self) -> Result<(), End> {
        let look = self.look <= Instant::now();
        if look {
            self.look = Instant::now() + LOOK;
        }
        let list = lock(&self.backend).interrupts(look);
        for (i, call) in list {
            // Not with the state locked: it may hang.
            match write_event(&call) {
                Ok(()) => lock(&self.backend).interrupted(i),
                // Its counter would take a driver hundreds of years to fill.
                Err(Errno::INTR) => {
                    return Err(End::Fault(Fault::Message, format!("the interrupt of ring {i} is full, and blocks")));
                }
                Err(_) => {}
            }
        }
        Ok(())
    }

    /// Tells of the rings that are started, if there are others than were told of.
    fn tell(&mut self, keeper: &mut Keeper) {
        let backend = lock(&self.backend);
        let rings: Vec<usize> = backend.started(true).chain(backend.started(false)).collect();
        if let Some(up) = &self.up {
            if rings.is_empty() {
                drop(backend);
                (self.up, self.settled) = (None, None);
                return keeper.down(IDLE);
            }
            // A ring that stopped is still in its place, moves nothing, and may come back.
            if rings.iter().all(|ring| up.contains(ring)) {
                self.settled = None;
                return;
            }
        } else if !backend.is_up() {
            self.settled = None;
            return;
        }
        if *self.settled.get_or_insert_with(|| Instant::now() + SETTLE) > Instant::now() {
            return;
        }
        let (rx, tx) = (backend.vrings(backend.started(true)), backend.vrings(backend.started(false)));
        let info = link::LinkInfo::VhostUser(backend.link_info());
        drop(backend);
        let link = Link { rx: rx_queues(&rx), tx: TxQueues::new(move |n| tx_queues(&tx, n)), info };
        (self.up, self.settled) = (Some(rings), None);
        self.up_since.get_or_insert_with(Instant::now);
        keeper.told = None;
        keeper.event(Event::Up { port: keeper.spec.name.clone(), link });
    }
}
