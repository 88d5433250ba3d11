//! A worker as the control thread sees it. It is given one command at a time; what is to be said to it meanwhile waits here. So nobody
//! waits for a worker that gets no CPU time, and however long that lasts, no more than the newest tables and links are kept for it.

use crate::channel::{Receiver, RecvTimeoutError, Sender};
use crate::counters::Counters;
use crate::worker::{Command, Reply};
use std::collections::VecDeque;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// A worker that has not gone round its queues for so long does not run: a burst takes a thousandth of that, and it sleeps no longer.
const SILENCE: Duration = Duration::from_secs(1);

/// Commands that aren't answered a worker may have before it; more are not sent.
const UNANSWERED: usize = 256;

pub(crate) struct Handle {
    pub(crate) cpu: usize,
    pub(crate) counters: Arc<Counters>,
    /// Time-stamp ticks when it started.
    pub(crate) started: u64,
    commands: Sender<Command>,
    replies: Receiver<Reply>,
    thread: Option<JoinHandle<()>>,
    /// Whether it has a command that it has not answered.
    is_asked: bool,
    /// Whether it did not answer in time: nobody waits for it again until it does.
    is_late: bool,
    /// What comes after that command.
    backlog: VecDeque<Command>,
    /// Its rounds when they were last looked at, and since when they have been so many.
    rounds: (u64, Instant),
}

impl Handle {
    pub(crate) fn new(
        cpu: usize,
        counters: Arc<Counters>,
        (commands, replies): (Sender<Command>, Receiver<Reply>),
        thread: JoinHandle<()>,
    ) -> Handle {
        Handle {
            cpu,
            counters,
            started: dray_switch::mem::ticks(),
            commands,
            replies,
            thread: Some(thread),
            is_asked: false,
            is_late: false,
            backlog: VecDeque::new(),
            rounds: (0, Instant::now()),
        }
    }

    /// Says `command` to the worker when it has answered all that was said before. It is not waited for.
    pub(crate) fn say(&mut self, command: Command) {
        if !self.is_asked {
            return self.ask(command);
        }
        match &command {
            // In the place of older tables, before the links that came after those.
            Command::Publish(_) => {
                if let Some(older) = self.backlog.iter_mut().find(|older| matches!(older, Command::Publish(_))) {
                    *older = command;
                    return;
                }
            }
            // Links that it never had are dropped here and now.
            Command::Detach { port } => self.backlog.retain(|older| match older {
                Command::Attach { port: of, .. } | Command::Take { port: of, .. } | Command::Detach { port: of } => {
                    of != port
                }
                _ => true,
            }),
            _ => {}
        }
        self.backlog.push_back(command);
    }

    fn ask(&mut self, command: Command) {
        // If it is gone, so are its replies, which tells as much.
        let _ = self.commands.send(command);
        self.is_asked = true;
    }

    /// Sends a command that is not answered, unless the worker is behind. Whether it was sent.
    pub(crate) fn tell(&self, command: Command) -> bool {
        !self.is_asked && self.commands.len() < UNANSWERED && self.commands.send(command).is_ok()
    }

    /// Takes the worker's answers, and says what comes next, until it has answered everything; until `deadline` at most, and not at all
    /// if it was late before.
    pub(crate) fn collect(&mut self, deadline: Instant, mut take: impl FnMut(Reply)) {
        while self.is_asked {
            let wait = if self.is_late { Duration::ZERO } else { deadline.saturating_duration_since(Instant::now()) };
            match self.replies.recv_timeout(wait) {
                Ok(reply) => {
                    (self.is_asked, self.is_late) = (false, false);
                    if let Some(next) = self.backlog.pop_front() {
                        self.ask(next);
                    }
                    take(reply);
                }
                Err(RecvTimeoutError::Timeout) => return self.is_late = true,
                Err(RecvTimeoutError::Disconnected) => panic!("the worker on CPU {} is gone", self.cpu),
            }
        }
    }

    /// Whether it has answered everything.
    pub(crate) fn is_done(&self) -> bool {
        !self.is_asked
    }

    /// Commands that it has not answered.
    pub(crate) fn unanswered(&self) -> usize {
        usize::from(self.is_asked) + self.backlog.len()
    }

    /// To be called about ten times a second: whether it goes round its queues.
    pub(crate) fn watch(&mut self) {
        let rounds = self.counters.worker.loops.get();
        if rounds != self.rounds.0 {
            self.rounds = (rounds, Instant::now());
        }
    }

    /// For how long it has not run, if that is long.
    pub(crate) fn silence(&self) -> Option<Duration> {
        let (rounds, since) = self.rounds;
        Some(since.elapsed()).filter(|time| *time >= SILENCE && rounds == self.counters.worker.loops.get())
    }

    /// Has it end, whatever it was to do.
    pub(crate) fn stop(&mut self) {
        self.backlog.clear();
        let _ = self.commands.send(Command::Stop);
    }

    /// Waits for the end, until `deadline`. Whether it has ended: if not, it goes on to hold what it has.
    pub(crate) fn join(&mut self, deadline: Instant) -> bool {
        // It lets go of its replies when it ends.
        loop {
            match self.replies.recv_deadline(deadline) {
                Ok(reply) => drop(reply),
                Err(RecvTimeoutError::Disconnected) => break,
                Err(RecvTimeoutError::Timeout) => return false,
            }
        }
        self.thread.take().is_none_or(|thread| thread.join().is_ok())
    }
}

#[cfg(all(test, not(feature = "loom")))]
mod tests {
    use super::*;
    use crate::channel::unbounded;
    use dray_switch::pipeline::Entry;
    use dray_switch::tables::Tables;

    /// A worker that does nothing by itself.
    fn worker() -> (Handle, Receiver<Command>, Sender<Reply>) {
        let ((commands, got), (answer, replies)) = (unbounded(), unbounded());
        let thread = std::thread::spawn(|| {});
        (Handle::new(3, Arc::new(Counters::new()), (commands, replies), thread), got, answer)
    }

    fn attach(port: u16) -> Command {
        let tx = Box::new(Nobody);
        Command::Attach { port, rx: Vec::new(), tx }
    }

    struct Nobody;

    impl dray_switch::Tx for Nobody {
        fn send(&mut self, _: &mut dray_switch::Burst, _: &[u16]) -> dray_switch::Sent {
            unreachable!()
        }
    }

    /// Each command as a letter, with the port.
    fn name(command: Command) -> String {
        match command {
            Command::Publish(tables) => format!("P{}", tables.ports.len()),
            Command::Attach { port, .. } => format!("A{port}"),
            Command::Detach { port } => format!("D{port}"),
            _ => "?".into(),
        }
    }

    fn tables(ports: usize) -> Command {
        let ports = vec![dray_switch::tables::PortTable::Unused.into(); ports];
        Command::Publish(Arc::new(Tables { ports, ..Tables::default() }))
    }

    #[test]
    fn a_late_worker_is_waited_for_once_and_gets_the_newest() {
        let (mut handle, got, answer) = worker();
        handle.say(tables(1));
        assert_eq!(got.try_iter().map(name).collect::<Vec<_>>(), ["P1"]);
        let begin = Instant::now();
        handle.collect(begin + Duration::from_millis(30), |_| unreachable!());
        assert!(begin.elapsed() >= Duration::from_millis(30) && !handle.is_done());
        for n in 2..100 {
            for command in [Command::Detach { port: 7 }, tables(n), attach(7), attach(8), Command::Detach { port: 8 }] {
                handle.say(command);
                // If this waited, the test would not end.
                handle.collect(Instant::now() + Duration::from_secs(3600), |_| unreachable!());
            }
        }
        assert_eq!(handle.unanswered(), 5);
        assert!(!handle.tell(Command::Inject { entry: Entry::Bridge(7), frame: Vec::new() }));
        let mut said = Vec::new();
        while handle.unanswered() > 0 {
            answer.send(Reply::default()).unwrap();
            handle.collect(Instant::now(), |_| {});
            let next: Vec<String> = got.try_iter().map(name).collect();
            assert!(next.len() <= 1, "one at a time");
            said.extend(next);
        }
        assert_eq!(said, ["P99", "D7", "A7", "D8"]);
        assert!(handle.is_done());
    }

    #[test]
    fn silence_is_told_from_the_rounds() {
        let (mut handle, ..) = worker();
        handle.rounds.1 -= 2 * SILENCE;
        assert!(handle.silence().is_some_and(|time| time >= 2 * SILENCE));
        handle.counters.worker.loops.add(1);
        assert_eq!(handle.silence(), None);
        handle.watch();
        assert_eq!(handle.silence(), None);
        handle.rounds.1 -= SILENCE;
        assert!(handle.silence().is_some());
    }

    #[test]
    fn the_end_of_a_worker_is_waited_for_until_a_deadline() {
        let (mut handle, got, answer) = worker();
        handle.say(tables(1));
        handle.say(tables(2));
        handle.stop();
        assert_eq!(got.try_iter().count(), 2);
        answer.send(Reply::default()).unwrap();
        assert!(!handle.join(Instant::now() + Duration::from_millis(10)));
        drop(answer);
        assert!(handle.join(Instant::now() + Duration::from_secs(60)));
    }
}
