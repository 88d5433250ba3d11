//! The control channel's sockets: Unix, SOCK_SEQPACKET, one message a packet, file descriptors beside.

use super::proto::{Message, SIZE};
use dray_config::SocketName;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags, SocketType, bind, connect, listen, recvmsg, sendmsg,
    socket_with,
};
use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

/// What an error means, without its number.
pub(super) fn text(e: impl Into<std::io::Error>) -> String {
    let s = e.into().to_string();
    s.split(" (os error").next().unwrap_or_default().to_owned()
}

/// The name as the configuration writes it.
pub(super) fn show(name: &SocketName) -> String {
    match name {
        SocketName::Path(path) => path.display().to_string(),
        SocketName::Abstract(name) => format!("@{name}"),
    }
}

fn address(name: &SocketName) -> Result<SocketAddrUnix, Errno> {
    match name {
        SocketName::Path(path) => SocketAddrUnix::new(path.as_path()),
        SocketName::Abstract(name) => SocketAddrUnix::new_abstract_name(name.as_bytes()),
    }
}

fn socket() -> Result<OwnedFd, Errno> {
    socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK, None)
}

/// Connects to a server, without blocking.
///
/// # Errors
/// "connect NAME: why not".
pub(super) fn dial(name: &SocketName) -> Result<OwnedFd, String> {
    let dial = || -> Result<OwnedFd, Errno> {
        let fd = socket()?;
        connect(&fd, &address(name)?)?;
        Ok(fd)
    };
    dial().map_err(|e| format!("connect {}: {}", show(name), text(e)))
}

/// A listening socket. Its file is removed with it.
pub(super) struct Listening {
    pub fd: OwnedFd,
    name: SocketName,
    /// The file's device and inode: another's file is not removed.
    file: Option<(u64, u64)>,
}

impl Listening {
    /// Listens on `name`. A missing directory is made, a stale socket file replaced.
    ///
    /// # Errors
    /// "listen on NAME: why not", also if somebody else is listening there.
    pub fn new(name: &SocketName) -> Result<Listening, String> {
        Self::listen(name).map_err(|e| format!("listen on {}: {e}", show(name)))
    }

    fn listen(name: &SocketName) -> Result<Listening, String> {
        let address = address(name).map_err(|_| "the name is too long for a socket".to_owned())?;
        let fd = socket().map_err(text)?;
        match (bind(&fd, &address), name) {
            (Ok(()), _) => {}
            (Err(Errno::NOENT), SocketName::Path(path)) => {
                std::fs::create_dir_all(path.parent().unwrap_or(Path::new("/"))).map_err(text)?;
                bind(&fd, &address).map_err(text)?;
            }
            (Err(Errno::ADDRINUSE), SocketName::Path(path)) => {
                if !std::fs::symlink_metadata(path).is_ok_and(|m| m.file_type().is_socket()) {
                    return Err("a file that is not a socket is in the way".into());
                }
                match connect(socket().map_err(text)?, &address) {
                    Err(Errno::CONNREFUSED) => {}
                    _ => return Err("a running process is using it".into()),
                }
                std::fs::remove_file(path).map_err(text)?;
                bind(&fd, &address).map_err(text)?;
            }
            (Err(Errno::ADDRINUSE), SocketName::Abstract(_)) => return Err("a running process is using it".into()),
            (Err(e), _) => return Err(text(e)),
        }
        let file = match name {
            SocketName::Path(path) => std::fs::symlink_metadata(path).ok().map(|m| (m.dev(), m.ino())),
            SocketName::Abstract(_) => None,
        };
        let listening = Listening { fd, name: name.clone(), file };
        listen(&listening.fd, 128).map_err(text)?;
        Ok(listening)
    }
}

impl Drop for Listening {
    fn drop(&mut self) {
        if let SocketName::Path(path) = &self.name
            && std::fs::symlink_metadata(path).is_ok_and(|m| Some((m.dev(), m.ino())) == self.file)
        {
            let _ = std::fs::remove_file(path);
        }
    }
}

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

/// Whether the peer is gone.
pub(super) fn hung_up(fd: BorrowedFd<'_>) -> bool {
    let mut fds = [PollFd::from_borrowed_fd(fd, PollFlags::empty())];
    poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })).is_ok() && fds[0].revents().contains(PollFlags::HUP)
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

/// Checks that a peer's file descriptor is an eventfd: a write to anything else could block for ever, and not every such write can be
/// interrupted. The descriptor's flags stay as they are: the peer shares them, and may want to block.
///
/// # Errors
/// What it is instead.
pub(super) fn check_event(fd: &OwnedFd) -> Result<(), String> {
    let target = std::fs::read_link(format!("/proc/self/fd/{}", fd.as_raw_fd())).map_err(text)?;
    if target.as_os_str() != "anon_inode:[eventfd]" {
        return Err(format!("a ring's interrupt is not an eventfd but {target:?}"));
    }
    Ok(())
}
