//! The control channel's messages: one a packet, file descriptors beside.

use super::proto::{Message, SIZE};
use crate::descriptor::{is_spare, no_descriptors, text};
use crate::quarantine::{self, Kind, Leaving, NOT_EVENT, NOT_MEMORY};
use rustix::io::Errno;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, SocketType, recvmsg, sendmsg,
};
use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{BorrowedFd, OwnedFd};

/// Of the control channel's sockets.
pub(super) const KIND: SocketType = SocketType::SEQPACKET;

/// What a read of a connection gave.
pub(super) enum Received {
    /// A message, and at most one file descriptor.
    Message(Message, Option<OwnedFd>),
    /// Nothing yet.
    Nothing,
    /// The peer is gone.
    Closed,
    /// Not a message of the protocol, or none that can be taken; with what looked at its descriptors.
    Bad(String, Option<Leaving>),
}

/// Reads one message, without blocking. A descriptor becomes ours only if it is harmless and belongs to the message; if not, the
/// message stays where it is, and the connection is to be closed by [`quarantine`] alone.
pub(super) fn receive(fd: BorrowedFd<'_>) -> Received {
    // Without a place for descriptors none is made, but it is said that there are some.
    let (message, passes) = match read(fd, true, &mut []) {
        Ok((message, _, more)) => (message, more),
        Err(end) => return end,
    };
    if !passes {
        return match read(fd, false, &mut []) {
            Ok(_) => Received::Message(message, None),
            Err(end) => end,
        };
    }
    let (wanted, what) = match message {
        Message::AddRegion { .. } => (Kind::Memory, format!("a region {NOT_MEMORY}")),
        Message::AddRing { .. } => (Kind::Event, format!("a ring's interrupt {NOT_EVENT}")),
        _ => return Received::Bad("a file descriptor in a message that has none".into(), None),
    };
    match quarantine::inspect(fd, SIZE as u16) {
        Ok((kinds, _)) if kinds == [wanted] => {}
        Ok((kinds, leaving)) if kinds.len() == 1 => return Received::Bad(what, Some(leaving)),
        Ok((_, leaving)) => {
            return Received::Bad("more than one file descriptor in a message".into(), Some(leaving));
        }
        Err(why) => return Received::Bad(why, None),
    }
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    match read(fd, false, &mut space) {
        Ok((_, Some(passed), _)) if is_spare(&passed) => Received::Message(message, Some(passed)),
        Ok(_) => Received::Bad(no_descriptors(), None),
        Err(end) => end,
    }
}

/// Takes one message, or looks at it; with the descriptor that there is `space` for, and whether there are more.
fn read(
    fd: BorrowedFd<'_>,
    peek: bool,
    space: &mut [MaybeUninit<u8>],
) -> Result<(Message, Option<OwnedFd>, bool), Received> {
    let mut bytes = [0; SIZE + 1];
    let mut control = RecvAncillaryBuffer::new(space);
    let mut flags = RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT;
    flags.set(RecvFlags::PEEK, peek);
    let mut recv = || recvmsg(fd, &mut [IoSliceMut::new(&mut bytes)], &mut control, flags);
    let got = match recv() {
        // A peer that closed while something was on its way to it. What it said before is still to be read.
        Err(Errno::CONNRESET) => recv(),
        got => got,
    };
    let got = match got {
        Ok(got) if got.bytes == 0 => return Err(Received::Closed),
        Ok(got) => got,
        Err(Errno::AGAIN | Errno::INTR) => return Err(Received::Nothing),
        Err(_) => return Err(Received::Closed),
    };
    let passed = control.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut rights) => rights.next(),
        _ => None,
    });
    if got.bytes != SIZE || got.flags.contains(ReturnFlags::TRUNC) {
        return Err(Received::Bad(format!("a message that has not {SIZE} bytes"), None));
    }
    let mut message = [0; SIZE];
    message.copy_from_slice(&bytes[..SIZE]);
    match Message::decode(&message) {
        Some(message) => Ok((message, passed, got.flags.contains(ReturnFlags::CTRUNC))),
        None => {
            let kind = u16::from_le_bytes([message[0], message[1]]);
            Err(Received::Bad(format!("unknown message type {kind}"), None))
        }
    }
}

/// Sends one message, without blocking.
///
/// # Errors
/// Why not. A peer that does not read is one.
pub(super) fn send(fd: BorrowedFd<'_>, message: &Message, pass: Option<BorrowedFd<'_>>) -> Result<(), String> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let pass: Vec<BorrowedFd<'_>> = pass.into_iter().collect();
    if !pass.is_empty() {
        control.push(SendAncillaryMessage::ScmRights(&pass));
    }
    let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
    match sendmsg(fd, &[IoSlice::new(&message.encode())], &mut control, flags) {
        Ok(_) => Ok(()),
        Err(Errno::AGAIN) => Err("the peer does not read its messages".into()),
        Err(Errno::PIPE | Errno::CONNRESET) => Err("the peer closed the connection".into()),
        Err(e) => Err(text(e)),
    }
}

/// What the peer said when it disconnected, if that is among what is still unread; with what looked at descriptors on the way.
pub(super) fn reason(fd: BorrowedFd<'_>) -> (Option<String>, Option<Leaving>) {
    for _ in 0..256 {
        match receive(fd) {
            Received::Message(Message::Disconnect { reason, .. }, _) => return (Some(reason), None),
            Received::Message(..) => {}
            Received::Bad(_, leaving) => return (None, leaving),
            Received::Nothing | Received::Closed => break,
        }
    }
    (None, None)
}

/// Tells the peer why the link ends. Whether it hears is its own affair.
pub(super) fn send_disconnect(fd: BorrowedFd<'_>, reason: &str) {
    let _ = send(fd, &Message::Disconnect { code: 0, reason: reason.to_owned() }, None);
}
