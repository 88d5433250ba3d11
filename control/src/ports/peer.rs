//! Ports whose peer shares memory with us through a Unix socket: what the vhost crate tells of them, and what there is to tell
//! of their sockets.

use super::mailbox::{Event, Mailbox};
use super::{Attached, Change, Describe, Link};
use dray_api::PortInfo;
use dray_config::{Access, Role, SocketName};
use dray_vhost::LinkInfo;
use serde_json::{Value, json};

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

/// Puts values into the detail of `info`.
pub fn put(info: &mut PortInfo) -> impl FnMut(&str, Value) {
    |key, value| drop(info.detail.insert(key.into(), value))
}

/// Who may connect to a server's socket, if it is a file.
pub fn put_access(role: Role, socket: &SocketName, access: &Access, put: &mut impl FnMut(&str, Value)) {
    if role == Role::Client || matches!(socket, SocketName::Abstract(_)) {
        return;
    }
    put("socket_mode", json!(format!("{:04o}", access.mode)));
    for (key, account) in [("socket_owner", &access.owner), ("socket_group", &access.group)] {
        if let Some(account) = account {
            put(key, json!(account.name));
        }
    }
}
