//! What a port's link is to the data plane, whatever its kind.

use crate::{memif, vhost_user};
use dray_switch::{Rx, Tx};

/// A link that has come up: its queues, to be polled by workers.
pub struct Link {
    /// Receive queues. All are to be polled: a peer sends on whichever it likes.
    pub rx: Vec<Box<dyn Rx>>,
    /// Transmit queues.
    pub tx: TxQueues,
    /// What there is to tell about it.
    pub info: LinkInfo,
}

/// What there is to tell about a link, by kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LinkInfo {
    /// Of a memif port.
    Memif(memif::LinkInfo),
    /// Of a vhost-user port.
    VhostUser(vhost_user::LinkInfo),
}

impl LinkInfo {
    /// If it is a memif port's.
    pub fn memif(&self) -> Option<&memif::LinkInfo> {
        match self {
            LinkInfo::Memif(info) => Some(info),
            LinkInfo::VhostUser(_) => None,
        }
    }
}

/// What happened to a port.
pub enum Event {
    /// The peer is there.
    Up {
        /// The port's name.
        port: String,
        /// Its queues, in the place of those of an earlier link.
        link: Link,
    },
    /// The peer is gone, or (a client's port) can't be reached, or for another reason than before. The queues of the link
    /// move nothing from now on and are to be dropped.
    Down {
        /// The port's name.
        port: String,
        /// Why, for people.
        reason: String,
    },
    /// Somebody was not taken as a server's peer. What the port has, it keeps.
    Refused(Refusal),
}

/// Who was not taken as a peer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The port, if it is known which one was wanted.
    pub port: Option<String>,
    /// The socket it came to, as the configuration writes it.
    pub socket: String,
    /// Why, for people.
    pub reason: String,
    /// Who that was, for people, if it came that far: "pid 12, uid 0".
    pub peer: Option<String>,
    /// Whether it was for a wrong secret.
    pub secret: bool,
}

/// All transmit queues of a link.
pub struct TxQueues(Box<dyn FnOnce(usize) -> Vec<Box<dyn Tx>> + Send>);

impl Default for TxQueues {
    /// None, for any number of workers.
    fn default() -> Self {
        TxQueues::new(|_| Vec::new())
    }
}

impl TxQueues {
    /// `handles` makes one handle for each of as many workers as it is told.
    pub(crate) fn new(handles: impl FnOnce(usize) -> Vec<Box<dyn Tx>> + Send + 'static) -> TxQueues {
        TxQueues(Box::new(handles))
    }

    /// One handle for each of `n` workers. With fewer rings than workers, workers share rings.
    pub fn handles(self, n: usize) -> Vec<Box<dyn Tx>> {
        (self.0)(n)
    }
}
