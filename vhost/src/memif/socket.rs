//! The control channel's messages: one a packet, file descriptors beside.

use super::proto::{Message, SIZE};
use crate::socket::text;
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
    /// Not a message of the protocol.
    Bad(String),
}

/// Reads one message, without blocking.
pub(super) fn receive(fd: BorrowedFd<'_>) -> Received {
    receive_again(fd, false)
}

fn receive_again(fd: BorrowedFd<'_>, again: bool) -> Received {
    let mut bytes = [0; SIZE + 1];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let flags = RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT;
    let got = match recvmsg(fd, &mut [IoSliceMut::new(&mut bytes)], &mut control, flags) {
        Ok(got) => got,
        // A peer that closed while something was on its way to it. What it said before is still to be read.
        Err(Errno::CONNRESET) if !again => return receive_again(fd, true),
        Err(Errno::AGAIN | Errno::INTR) => return Received::Nothing,
        Err(_) => return Received::Closed,
    };
    // Taken out at once: those not kept are closed when this returns.
    let mut fds = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = message {
            fds.extend(rights);
        }
    }
    if got.bytes == 0 {
        return Received::Closed;
    }
    if got.flags.contains(ReturnFlags::CTRUNC) || fds.len() > 1 {
        return Received::Bad("more than one file descriptor in a message".into());
    }
    if got.bytes != SIZE || got.flags.contains(ReturnFlags::TRUNC) {
        return Received::Bad(format!("a message that has not {SIZE} bytes"));
    }
    let mut message = [0; SIZE];
    message.copy_from_slice(&bytes[..SIZE]);
    match Message::decode(&message) {
        Some(message) => Received::Message(message, fds.pop()),
        None => Received::Bad(format!("unknown message type {}", u16::from_le_bytes([message[0], message[1]]))),
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

/// What the peer said when it disconnected, if that is among what is still unread.
pub(super) fn reason(fd: BorrowedFd<'_>) -> Option<String> {
    (0..256).find_map(|_| match receive(fd) {
        Received::Message(Message::Disconnect { reason, .. }, _) => Some(Some(reason)),
        Received::Message(..) => None,
        _ => Some(None),
    })?
}

/// Tells the peer why the link ends. Whether it hears is its own affair.
pub(super) fn send_disconnect(fd: BorrowedFd<'_>, reason: &str) {
    let _ = send(fd, &Message::Disconnect { code: 0, reason: reason.to_owned() }, None);
    // What is still unread when a socket is closed makes its peer see a reset before the message: read it.
    for _ in 0..256 {
        if !matches!(receive(fd), Received::Message(..) | Received::Bad(_)) {
            break;
        }
    }
}
