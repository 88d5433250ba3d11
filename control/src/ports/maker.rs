//! A thread that has the kernel make, take up and remove devices, one after the other: it may take its time.

use super::mailbox::{Event, Mailbox};
use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded, unbounded};
use std::convert::Infallible;
use std::thread::{self, JoinHandle};
use std::time::Duration;
use tracing::warn;

/// How long the end waits for what is being done.
const CLOSING: Duration = Duration::from_secs(5);

type Job = Box<dyn FnOnce() + Send>;

/// The thread.
pub struct Maker {
    hands: Hands,
    /// Nothing comes: it ends with the thread.
    ended: Receiver<Infallible>,
    thread: JoinHandle<()>,
}

/// What ports give it to do. It ends after all of them.
#[derive(Clone)]
pub struct Hands {
    jobs: Sender<Job>,
    mailbox: Mailbox,
}

impl Maker {
    /// # Errors
    /// If the kernel gives no thread.
    pub fn start(mailbox: &Mailbox) -> Result<Maker, String> {
        let (jobs, todo) = unbounded::<Job>();
        let (running, ended) = bounded(0);
        let work = move || {
            let _running: Sender<Infallible> = running;
            todo.iter().for_each(|job| job());
        };
        let thread = thread::Builder::new().name("devices".into()).spawn(work);
        let thread = thread.map_err(|error| format!("a thread that makes devices: {error}"))?;
        Ok(Maker { hands: Hands { jobs, mailbox: mailbox.clone() }, ended, thread })
    }

    /// For a port.
    pub fn hands(&self) -> Hands {
        self.hands.clone()
    }

    /// Ends the thread when it has done what was to be done, but waits for that no longer than some seconds.
    pub fn shutdown(self) {
        let Maker { hands, ended, thread } = self;
        drop(hands);
        if ended.recv_timeout(CLOSING) == Err(RecvTimeoutError::Timeout) {
            warn!(target: "port", "a device that is being made or removed is left to the kernel");
            return;
        }
        let _ = thread.join();
    }
}

impl Hands {
    /// Does this after everything that was asked for before.
    pub fn later(&self, job: impl FnOnce() + Send + 'static) {
        let _ = self.jobs.send(Box::new(job));
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
