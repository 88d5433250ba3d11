//! Ports whose peer shares memory with us through a Unix socket: what the vhost crate tells of them, and what there is to tell
//! of their sockets.

use super::mailbox::{Event, Mailbox};
use super::{Attached, Change, Describe, Link};
use dray_config::{Access, Account, Role, SocketName};
use dray_vhost::LinkInfo;

/// What there is to tell of a link that has come up.
pub struct About {
    /// For people.
    pub text: String,
    /// As in [`Attached`].
    pub in_order: bool,
    /// As in [`Attached`].
    pub describe: Describe,
}

/// Has the mailbox get what happens to ports, of whose links `about` tells.
pub fn post(
    mailbox: &Mailbox,
    workers: usize,
    about: fn(LinkInfo) -> About,
) -> impl Fn(dray_vhost::Event) + Send + use<> {
    let mailbox = mailbox.clone();
    move |event| {
        mailbox.post(match event {
            dray_vhost::Event::Up { port, link } => {
                let About { text, in_order, describe } = about(link.info);
                let attached = Attached { rx: link.rx, tx: link.tx.handles(workers), in_order, peer: describe };
                Event::Change { port, change: Change::Attached(attached, Link::Up(Some(text))) }
            }
            dray_vhost::Event::Down { port, reason } => Event::Change { port, change: Change::Detached(reason) },
            dray_vhost::Event::Refused(refusal) => Event::Refused(refusal),
        });
    }
}

/// That memory may shrink, if it may.
pub fn sealed(sealed: bool) -> &'static str {
    if sealed { "" } else { ", memory not sealed" }
}

/// Mode, owner and group of a server's socket, if it is a file, as far as they are configured.
pub fn access(role: Role, socket: &SocketName, access: &Access) -> [Option<String>; 3] {
    if role == Role::Client || matches!(socket, SocketName::Abstract(_)) {
        return [None, None, None];
    }
    let name = |account: &Option<Account>| account.as_ref().map(|account| account.name.clone());
    [Some(format!("{:04o}", access.mode)), name(&access.owner), name(&access.group)]
}
