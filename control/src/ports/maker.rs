//! A thread that has the kernel make, take up and remove devices, one after the other: it may take its time. And a second one, for what
//! nobody waits for.

use super::mailbox::{Event, Mailbox};
use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded, unbounded};
use std::convert::Infallible;
use std::thread::{self, JoinHandle};
use std::time::Duration;
use tracing::warn;

/// How long the end waits for what is being done.
const CLOSING: Duration = Duration::from_secs(5);

type Job = Box<dyn FnOnce() + Send>;

/// The threads.
pub struct Maker {
    hands: Hands,
    /// Nothing comes: it ends with the threads.
    ended: Receiver<Infallible>,
    threads: [JoinHandle<()>; 2],
}

/// What ports give them to do. They end after all of them.
#[derive(Clone)]
pub struct Hands {
    jobs: Sender<Job>,
    aside: Sender<Job>,
    mailbox: Mailbox,
}

impl Maker {
    /// # Errors
    /// If the kernel gives no thread.
    pub fn start(mailbox: &Mailbox) -> Result<Maker, String> {
        let (running, ended) = bounded(0);
        let start = |name: &str| {
            let (jobs, todo) = unbounded::<Job>();
            let running: Sender<Infallible> = running.clone();
            let work = move || {
                let _running = running;
                todo.iter().for_each(|job| job());
            };
            let thread = thread::Builder::new().name(name.into()).spawn(work);
            thread.map(|thread| (jobs, thread)).map_err(|error| format!("a thread that makes devices: {error}"))
        };
        let ((jobs, first), (aside, second)) = (start("devices")?, start("old devices")?);
        drop(running);
        Ok(Maker { hands: Hands { jobs, aside, mailbox: mailbox.clone() }, ended, threads: [first, second] })
    }

    /// For a port.
    pub fn hands(&self) -> Hands {
        self.hands.clone()
    }

    /// Ends the threads when they have done what was to be done, but waits for that no longer than some seconds.
    pub fn shutdown(self) {
        let Maker { hands, ended, threads } = self;
        drop(hands);
        if ended.recv_timeout(CLOSING) == Err(RecvTimeoutError::Timeout) {
            warn!(target: "port", "a device that is being made or removed is left to the kernel");
            return;
        }
        threads.into_iter().for_each(|thread| drop(thread.join()));
    }
}

impl Hands {
    /// Does this after everything that was asked for before.
    pub fn later(&self, job: impl FnOnce() + Send + 'static) {
        let _ = self.jobs.send(Box::new(job));
    }

    /// Does this some time; what is done later may be done before it.
    pub fn aside(&self, job: impl FnOnce() + Send + 'static) {
        let _ = self.aside.send(Box::new(job));
    }

    /// Does this, has `port` polled then, and answers.
    pub fn answer<T: Send + 'static>(&self, port: &str, job: impl FnOnce() -> T + Send + 'static) -> Receiver<T> {
        let (answer, answers) = bounded(1);
        let (mailbox, port) = (self.mailbox.clone(), port.to_owned());
        self.later(move || {
            let _ = answer.send(job());
            mailbox.post(Event::Wake { port });
        });
        answers
    }
}
