//! Containers that ports follow, whenever they start: their engines are asked on a thread of its own, once a second while one does not run.

use super::mailbox::{Event, Mailbox};
use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};
use dray_containers::{Container, Process};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

/// How often engines are asked for what does not run.
const PAUSE: Duration = Duration::from_secs(1);

/// What is known of the containers.
#[derive(Clone)]
pub struct Followed {
    known: Arc<Mutex<Known>>,
    /// Has something when there is something to ask.
    bell: Sender<()>,
}

#[derive(Default)]
struct Known {
    /// By port.
    ports: BTreeMap<String, (Container, Seen)>,
}

/// What an engine said of a container, for a port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Seen {
    /// Nothing yet.
    Asked,
    /// It runs.
    Runs(Process),
    /// It does not, or that is not known, and why.
    Waits(String),
}

impl Followed {
    /// # Errors
    /// If the kernel gives no thread.
    pub fn start(mailbox: &Mailbox) -> Result<Followed, String> {
        let (bell, rings) = bounded(1);
        let followed = Followed { known: Arc::default(), bell };
        let (known, mailbox) = (Arc::downgrade(&followed.known), mailbox.clone());
        // It ends when there is nobody any more to ask for, at the latest when the engine has answered.
        let work = move || {
            while let Some(known) = known.upgrade() {
                let waits = ask(&known, &mailbox);
                drop(known);
                if !wait(&rings, waits) {
                    return;
                }
            }
        };
        thread::Builder::new()
            .name("containers".into())
            .spawn(work)
            .map_err(|error| format!("a thread that asks for containers: {error}"))?;
        Ok(followed)
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has `port` woken when the container runs.
    pub fn follow(&self, port: &str, container: Container) {
        self.lock().ports.insert(port.to_owned(), (container, Seen::Asked));
        let _ = self.bell.try_send(());
    }

    /// Where the container of `port` runs. One that has ended is asked for anew.
    pub fn seen(&self, port: &str) -> Seen {
        let mut known = self.lock();
        let Some((container, seen)) = known.ports.get_mut(port) else { return Seen::Asked };
        if let Seen::Runs(process) = seen
            && !process.is_there()
        {
            *seen = Seen::Waits(format!("{container} does not run"));
            let _ = self.bell.try_send(());
        }
        seen.clone()
    }

    /// The port is closed.
    pub fn forget(&self, port: &str) {
        self.lock().ports.remove(port);
    }
}

/// Until something is to be asked. Whether there is still somebody who wants to know.
fn wait(rings: &Receiver<()>, waits: bool) -> bool {
    let rung = if waits { rings.recv_timeout(PAUSE) } else { rings.recv().map_err(|_| RecvTimeoutError::Disconnected) };
    rung != Err(RecvTimeoutError::Disconnected)
}

/// Asks for each container that is not known to run. Whether there is one that does not.
fn ask(known: &Mutex<Known>, mailbox: &Mailbox) -> bool {
    let lock = || known.lock().unwrap_or_else(PoisonError::into_inner);
    let is_open = |seen: &Seen| !matches!(seen, Seen::Runs(_));
    let wanted: Vec<(String, Container)> = lock()
        .ports
        .iter()
        .filter(|(_, (_, seen))| is_open(seen))
        .map(|(port, (of, _))| (port.clone(), of.clone()))
        .collect();
    let mut waits = false;
    // Several ports of one container are one question.
    let mut answers: BTreeMap<Container, Seen> = BTreeMap::new();
    for (port, container) in wanted {
        let seen = answers.entry(container).or_insert_with_key(|container| match container.process() {
            Ok(Some(process)) => Seen::Runs(process),
            Ok(None) => Seen::Waits(format!("{container} does not run")),
            Err(why) => Seen::Waits(why),
        });
        waits |= is_open(seen);
        // Unless nobody wants to know any more.
        if let Some((_, place)) = lock().ports.get_mut(&port)
            && place != seen
        {
            *place = seen.clone();
            mailbox.post(Event::Wake { port });
        }
    }
    waits
}
