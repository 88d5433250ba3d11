//! What the threads of ports have for the control loop: at most one change of the link, one refusal and one wake for each
//! port, whatever its peers do while the loop is busy. A link that went before it was looked at is dropped here, with its
//! rings and descriptors.

use super::Change;
use crossbeam_channel::{Receiver, Sender, bounded};
use dray_vhost::Refusal;
use std::collections::{HashMap, VecDeque};
use std::mem::discriminant;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// What happened.
pub enum Event {
    /// A port's link has changed.
    Change {
        /// The port's name.
        port: String,
        /// How.
        change: Change,
    },
    /// A port's driver has something to look at.
    Wake {
        /// The port's name.
        port: String,
    },
    /// Somebody was not taken as a port's peer. What the port has, it keeps.
    Refused(Refusal),
}

impl Event {
    fn about(&self) -> About {
        match self {
            Event::Change { port, .. } | Event::Wake { port } | Event::Refused(Refusal { port: Some(port), .. }) => {
                About::Port(port.clone())
            }
            Event::Refused(Refusal { port: None, socket, .. }) => About::Socket(socket.clone()),
        }
    }

    /// Whether the newer of both is all that matters.
    fn is_like(&self, other: &Event) -> bool {
        discriminant(self) == discriminant(other)
    }
}

/// Of a port; or of a socket, if it is not known which port was wanted.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum About {
    Port(String),
    Socket(String),
}

/// The newest of some events that were alike.
pub struct News {
    /// That one.
    pub event: Event,
    /// How many there were.
    pub times: u64,
    /// How many of them were for a wrong secret.
    pub secrets: u64,
}

#[derive(Default)]
struct Pending {
    news: HashMap<About, Vec<News>>,
    /// Who has news, in the order in which that began: each gets its turn.
    queue: VecDeque<About>,
}

/// Both ends: who tells has a clone.
#[derive(Clone)]
pub struct Mailbox {
    pending: Arc<Mutex<Pending>>,
    bell: (Sender<()>, Receiver<()>),
}

impl Mailbox {
    pub fn new() -> Mailbox {
        Mailbox { pending: Arc::default(), bell: bounded(1) }
    }

    fn lock(&self) -> MutexGuard<'_, Pending> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has something if there is something for [`Mailbox::take`].
    pub fn bell(&self) -> Receiver<()> {
        self.bell.1.clone()
    }

    fn ring(&self) {
        // If it rings already, that is enough.
        let _ = self.bell.0.try_send(());
    }

    /// Puts `event` in the place of those like it.
    pub fn post(&self, event: Event) {
        let about = event.about();
        let mut pending = self.lock();
        let Pending { news, queue } = &mut *pending;
        let news = news.entry(about.clone()).or_default();
        if news.is_empty() {
            queue.push_back(about);
        }
        let before = news.iter().position(|before| before.event.is_like(&event));
        let before = before.map(|at| news.remove(at));
        let (times, secrets) = before.as_ref().map_or((0, 0), |before| (before.times, before.secrets));
        let secret = matches!(event, Event::Refused(Refusal { secret: true, .. }));
        news.push(News { event, times: times + 1, secrets: secrets + u64::from(secret) });
        drop(pending);
        self.ring();
        // Not with the lock held: there may be a link in it.
        drop(before);
    }

    /// What there is about one port or socket, oldest first.
    pub fn take(&self) -> Vec<News> {
        let mut pending = self.lock();
        let news = pending.queue.pop_front().and_then(|about| pending.news.remove(&about));
        if !pending.queue.is_empty() {
            self.ring();
        }
        news.unwrap_or_default()
    }

    /// Forgets what there is about a port.
    pub fn forget(&self, port: &str) {
        let about = About::Port(port.to_owned());
        let mut pending = self.lock();
        pending.queue.retain(|other| *other != about);
        let news = pending.news.remove(&about);
        drop(pending);
        drop(news);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ports::{Attached, Link};
    use dray_switch::{Burst, Rx};

    /// Stands for the rings and descriptors of a link.
    struct Held {
        _shared: Arc<()>,
    }

    impl Rx for Held {
        fn receive(&mut self, _: &mut Burst) {}
        fn release(&mut self, _: &mut Burst) {}
    }

    fn up(port: &str, held: &Arc<()>) -> Event {
        let rx: Vec<Box<dyn Rx>> = vec![Box::new(Held { _shared: held.clone() })];
        let attached = Attached { rx, tx: vec![], in_order: true, peer: Box::new(|_| {}) };
        Event::Change { port: port.into(), change: Change::Attached(attached, Link::Up(None)) }
    }

    fn down(port: &str, reason: &str) -> Event {
        Event::Change { port: port.into(), change: Change::Detached(reason.into()) }
    }

    fn refused(port: Option<&str>, reason: &str) -> Event {
        let secret = reason == "secret";
        let port = port.map(str::to_owned);
        Event::Refused(Refusal { port, socket: "/s".into(), reason: reason.into(), peer: None, secret })
    }

    fn taken(mailbox: &Mailbox) -> Vec<String> {
        let line = |news: News| match news.event {
            Event::Change { port, change: Change::Detached(reason) } => format!("{port} {reason} {}", news.times),
            Event::Wake { port } => format!("{port} wake {}", news.times),
            Event::Refused(Refusal { port, socket, reason, .. }) => {
                format!("{} refused {reason} {} {}", port.unwrap_or(socket), news.times, news.secrets)
            }
            Event::Change { .. } => unreachable!(),
        };
        mailbox.take().into_iter().map(line).collect()
    }

    #[test]
    fn one_of_each_kind_a_port() {
        let mailbox = Mailbox::new();
        let bell = mailbox.bell();
        assert!(bell.try_recv().is_err());
        (0..10_000).for_each(|n| {
            mailbox.post(down("a", &format!("{n}")));
            mailbox.post(refused(None, "unknown"));
            mailbox.post(refused(Some("a"), "secret"));
            mailbox.post(refused(Some("a"), "version"));
        });
        (0..3).for_each(|_| mailbox.post(Event::Wake { port: "c".into() }));
        mailbox.post(down("b", "gone"));
        // The refusal is the newer one.
        bell.try_recv().unwrap();
        assert_eq!(taken(&mailbox), ["a 9999 10000", "a refused version 20000 10000"]);
        bell.try_recv().unwrap();
        // What begins anew comes after the others.
        mailbox.post(refused(Some("a"), "secret"));
        mailbox.post(down("a", "closed"));
        assert_eq!(taken(&mailbox), ["/s refused unknown 10000 0"]);
        assert_eq!(taken(&mailbox), ["c wake 3"]);
        assert_eq!(taken(&mailbox), ["b gone 1"]);
        bell.try_recv().unwrap();
        assert_eq!(taken(&mailbox), ["a refused secret 1 1", "a closed 1"]);
        assert!(taken(&mailbox).is_empty() && bell.try_recv().is_err());
    }

    #[test]
    fn a_link_that_went_unseen_holds_nothing() {
        let mailbox = Mailbox::new();
        let held = Arc::new(());
        for _ in 0..1000 {
            mailbox.post(up("a", &held));
            assert_eq!(Arc::strong_count(&held), 2);
            mailbox.post(down("a", "closed"));
            assert_eq!(Arc::strong_count(&held), 1);
        }
        mailbox.post(up("a", &held));
        mailbox.post(up("a", &held));
        let news = mailbox.take();
        assert!(matches!(
            news[..],
            [News { event: Event::Change { change: Change::Attached(..), .. }, times: 2002, .. }]
        ));
        assert_eq!(Arc::strong_count(&held), 2);
    }

    #[test]
    fn what_is_forgotten_does_not_come() {
        let mailbox = Mailbox::new();
        mailbox.post(down("a", "closed"));
        mailbox.post(down("b", "closed"));
        mailbox.forget("a");
        mailbox.post(down("a", "anew"));
        assert_eq!(taken(&mailbox), ["b closed 1"]);
        assert_eq!(taken(&mailbox), ["a anew 1"]);
        assert!(taken(&mailbox).is_empty());
    }
}
