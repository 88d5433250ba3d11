//! Messages: whether one is there in full, and who understands it. The `vhost` crate takes them from the socket and answers them but for
//! a few that it doesn't know, or takes for an error where front ends in use send them.

use super::backend::{Backend, Wrong};
use super::fault::Fault;
use super::features::{
    PROTOCOL_F_CONFIGURE_MEM_SLOTS, PROTOCOL_F_LOG_SHMFD, PROTOCOL_F_MQ, PROTOCOL_F_MTU, PROTOCOL_F_STATUS,
};
use crate::descriptor::{ready, text};
use crate::quarantine::{self, BYTES, Kind, Leaving, NOT_EVENT, NOT_MEMORY};
use rustix::event::PollFlags;
use rustix::io::{Errno, ioctl_fionread};
use rustix::net::{RecvAncillaryBuffer, RecvFlags, ReturnFlags, SendFlags, recv, recvmsg, send};
use std::io::IoSliceMut;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use vhost::vhost_user::message::{FrontendReq, MAX_ATTACHED_FD_ENTRIES, MAX_MSG_SIZE};
use vhost::vhost_user::{BackendReqHandler, Error, VhostUserBackendReqHandlerMut};

/// Bytes of a message's header: request, flags and size of the body, 32 bits each.
const HEADER: usize = 12;
/// Flags: the version, in the two lowest bits; a reply; a reply is wanted.
const VERSION: u32 = 1;
const REPLY: u32 = 1 << 2;
const NEED_REPLY: u32 = 1 << 3;

/// What there was to read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// A message, which is dealt with.
    Message,
    /// Nothing.
    Nothing,
    /// Not all of a message.
    Part,
    /// A message, and the front end does not read the answers to earlier ones.
    Unheard,
    /// The end.
    Closed,
}

struct Header {
    request: u32,
    flags: u32,
    size: usize,
}

impl Header {
    fn of(bytes: &[u8; HEADER]) -> Header {
        let field = |i: usize| u32::from_ne_bytes([bytes[i], bytes[i + 1], bytes[i + 2], bytes[i + 3]]);
        Header { request: field(0), flags: field(4), size: field(8) as usize }
    }
}

/// The messages of a connection.
pub(super) struct Messages {
    stream: Arc<UnixStream>,
    crate_handler: BackendReqHandler<Mutex<Backend>>,
    backend: Arc<Mutex<Backend>>,
    /// How many of the next bytes may be taken: the descriptors that come with them, if any do, are harmless.
    clear: usize,
    /// Who looked at descriptors that are refused, and has yet to close them.
    pub leaving: Option<Leaving>,
}

/// Looks at the next bytes of a stream, up to the end of what was first sent with descriptors. How many there are, and whether there are
/// descriptors, none of which becomes ours: there is no room for them. They may have been sent with what is behind these bytes: Linux
/// looks on (up to 6.18 at least) until it finds some.
fn peek(stream: BorrowedFd<'_>, bytes: &mut [u8]) -> Result<(usize, bool), Errno> {
    let flags = RecvFlags::PEEK | RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC;
    let mut control = RecvAncillaryBuffer::default();
    let got = recvmsg(stream, &mut [IoSliceMut::new(bytes)], &mut control, flags)?;
    Ok((got.bytes, got.flags.contains(ReturnFlags::CTRUNC)))
}

/// The state, whatever became of who had it last.
pub(super) fn lock(backend: &Mutex<Backend>) -> MutexGuard<'_, Backend> {
    backend.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Messages {
    /// The messages on `stream`, which blocks.
    ///
    /// # Errors
    /// If there are no more descriptors.
    pub fn new(stream: Arc<UnixStream>, backend: Arc<Mutex<Backend>>) -> Result<Messages, String> {
        let crate_handler = BackendReqHandler::from_stream(stream.try_clone().map_err(text)?, backend.clone());
        Ok(Messages { stream, crate_handler, backend, clear: 0, leaving: None })
    }

    /// Deals with the next message if all of it has come, without blocking.
    ///
    /// # Errors
    /// What the front end did wrong.
    pub fn next(&mut self) -> Result<Next, (Fault, String)> {
        let header = match self.header() {
            Ok(header) => header,
            Err(next) => return Ok(next),
        };
        if header.flags & !NEED_REPLY != VERSION {
            return Err((Fault::Message, format!("message {} has flags {:#x}", header.request, header.flags)));
        }
        if header.size > MAX_MSG_SIZE {
            return Err((Fault::Message, format!("message {} has {} bytes", header.request, header.size)));
        }
        // The crate neither waits for the rest of a message nor gives up on a socket that is full.
        if ioctl_fionread(&*self.stream).is_ok_and(|bytes| bytes < (HEADER + header.size) as u64) {
            return Ok(Next::Part);
        }
        if !ready(self.stream.as_fd(), PollFlags::OUT) {
            return Ok(Next::Unheard);
        }
        self.check_descriptors(HEADER + header.size)?;
        self.clear -= HEADER + header.size;
        if self.is_for_crate(&header) { self.pass(&header) } else { self.answer(&header) }
    }

    /// The header of the next message, which stays in the socket.
    fn header(&self) -> Result<Header, Next> {
        let mut bytes = [0; HEADER];
        match peek(self.stream.as_fd(), &mut bytes) {
            Ok((HEADER, _)) => {}
            Ok((0, _)) => return Err(Next::Closed),
            Ok(_) => return Err(Next::Part),
            Err(Errno::AGAIN | Errno::INTR) => return Err(Next::Nothing),
            Err(_) => return Err(Next::Closed),
        }
        Ok(Header::of(&bytes))
    }

    /// Checks the descriptors that come with the next `len` bytes, a message, before any of them is taken. If one could take its time when it
    /// is closed, all stay where they are, for [`quarantine`] to close.
    fn check_descriptors(&mut self, len: usize) -> Result<(), (Fault, String)> {
        if len <= self.clear {
            return Ok(());
        }
        let mut bytes = [0; BYTES];
        let (got, passes) = peek(self.stream.as_fd(), &mut bytes).map_err(|e| (Fault::Message, text(e)))?;
        let message = bearer(&bytes[..got]).request;
        if passes {
            let (kinds, leaving) =
                quarantine::inspect(self.stream.as_fd(), got as u16).map_err(|why| (Fault::Message, why))?;
            if let Some(wrong) = wrong_with(message, &kinds) {
                self.leaving = Some(leaving);
                return Err(wrong);
            }
        }
        // There may be more of them behind these.
        if got < len {
            return Err((Fault::Message, format!("message {message} has file descriptors with a part of it only")));
        }
        self.clear = got;
        Ok(())
    }

    /// Whether the crate is to deal with a message: one that it knows, and that was offered.
    fn is_for_crate(&self, header: &Header) -> bool {
        use FrontendReq as R;
        let has = |feature| lock(&self.backend).has_protocol(feature);
        match FrontendReq::try_from(header.request) {
            Ok(R::GET_FEATURES | R::SET_FEATURES | R::SET_OWNER | R::RESET_OWNER | R::SET_MEM_TABLE) => true,
            Ok(R::SET_VRING_NUM | R::SET_VRING_ADDR | R::SET_VRING_BASE | R::GET_VRING_BASE) => true,
            Ok(R::SET_VRING_KICK | R::SET_VRING_CALL | R::SET_VRING_ERR) => true,
            Ok(R::GET_PROTOCOL_FEATURES | R::SET_PROTOCOL_FEATURES) => true,
            Ok(R::GET_QUEUE_NUM) => has(PROTOCOL_F_MQ),
            Ok(R::SET_LOG_BASE) => has(PROTOCOL_F_LOG_SHMFD),
            Ok(R::GET_MAX_MEM_SLOTS | R::ADD_MEM_REG | R::REM_MEM_REG) => has(PROTOCOL_F_CONFIGURE_MEM_SLOTS),
            _ => false,
        }
    }

    /// Lets the crate deal with a message.
    fn pass(&mut self, header: &Header) -> Result<Next, (Fault, String)> {
        let result = self.crate_handler.handle_request();
        let mut backend = lock(&self.backend);
        let wrong = backend.take_wrong();
        match (result, wrong) {
            (Ok(()), _) => Ok(Next::Message),
            (Err(_), Some(wrong)) => judge(wrong, header, &backend),
            (Err(Error::Disconnected | Error::SocketBroken(_)), None) => Ok(Next::Closed),
            (Err(e), None) => Err((Fault::Message, format!("message {}: {e}", header.request))),
        }
    }

    /// Deals with a message that is not for the crate.
    fn answer(&mut self, header: &Header) -> Result<Next, (Fault, String)> {
        let mut bytes = vec![0; HEADER + header.size];
        let mut filled = 0;
        while filled < bytes.len() {
            // Descriptors that come with it are closed by the kernel: there is no place for them.
            match recv(&*self.stream, &mut bytes[filled..], RecvFlags::DONTWAIT) {
                Ok((_, 0)) => return Ok(Next::Closed),
                Ok((_, got)) => filled += got,
                Err(Errno::INTR) => {}
                Err(e) => return Err((Fault::Message, format!("message {}: {}", header.request, text(e)))),
            }
        }
        let mut backend = lock(&self.backend);
        let (value, wrong) = match act(&mut backend, header.request, &bytes[HEADER..]) {
            Ok(value) => (value, None),
            Err(e) => (None, backend.take_wrong().or(Some(Wrong::Fault(Fault::Message, e.to_string())))),
        };
        let asked = header.flags & NEED_REPLY != 0 && backend.acknowledges();
        if let Some(value) = value.or_else(|| asked.then_some(wrong.is_some().into())) {
            let mut reply = [0; HEADER + 8];
            reply[..4].copy_from_slice(&header.request.to_ne_bytes());
            reply[4..8].copy_from_slice(&(VERSION | REPLY).to_ne_bytes());
            reply[8..12].copy_from_slice(&8u32.to_ne_bytes());
            reply[HEADER..].copy_from_slice(&value.to_ne_bytes());
            if send(&*self.stream, &reply, SendFlags::DONTWAIT | SendFlags::NOSIGNAL).is_err() {
                return Ok(Next::Closed);
            }
        }
        wrong.map_or(Ok(Next::Message), |wrong| judge(wrong, header, &backend))
    }
}

/// The message that descriptors are for which came with the last of `bytes`, which begin with a message.
fn bearer(bytes: &[u8]) -> Header {
    let mut rest = bytes;
    loop {
        let mut header = [0; HEADER];
        header.copy_from_slice(&rest[..HEADER]);
        let header = Header::of(&header);
        match rest.get(HEADER + header.size..) {
            Some(behind) if behind.len() >= HEADER => rest = behind,
            _ => return header,
        }
    }
}

/// What is wrong with the descriptors of a message, if one of them must not become ours. All else is looked at when they are used.
fn wrong_with(message: u32, kinds: &[Kind]) -> Option<(Fault, String)> {
    use FrontendReq as R;
    if kinds.len() > MAX_ATTACHED_FD_ENTRIES {
        return Some((Fault::Message, format!("more than {MAX_ATTACHED_FD_ENTRIES} file descriptors in a message")));
    }
    kinds.contains(&Kind::Other).then(|| match FrontendReq::try_from(message) {
        Ok(R::SET_MEM_TABLE | R::ADD_MEM_REG) => (Fault::Memory, format!("a region {NOT_MEMORY}")),
        Ok(R::SET_LOG_BASE) => (Fault::Memory, format!("the dirty log {NOT_MEMORY}")),
        Ok(R::SET_VRING_KICK | R::SET_VRING_CALL | R::SET_VRING_ERR) => {
            (Fault::Message, format!("a ring's interrupt {NOT_EVENT}"))
        }
        _ => {
            let what = format!("message {message} has a file descriptor that is neither memory nor an eventfd");
            (Fault::Message, what)
        }
    })
}

/// Whether the connection survives what was wrong with a message.
fn judge(wrong: Wrong, header: &Header, backend: &Backend) -> Result<Next, (Fault, String)> {
    match wrong {
        Wrong::Fault(fault, why) => Err((fault, why)),
        // It knows.
        Wrong::Refused(_) if header.flags & NEED_REPLY != 0 && backend.acknowledges() => Ok(Next::Message),
        Wrong::Refused(why) => Err((Fault::Message, why)),
    }
}

/// Does what a message says that is not for the crate. The value to answer with, if it asks for one.
fn act(backend: &mut Backend, request: u32, body: &[u8]) -> Result<Option<u64>, Error> {
    use FrontendReq as R;
    let value = || body.try_into().map(u64::from_ne_bytes).map_err(|_| Error::InvalidMessage);
    match FrontendReq::try_from(request) {
        // Front ends that have it tell where to write when the log was written. Nobody needs that: they look.
        Ok(R::SET_LOG_FD) => {}
        // QEMU enables the first pair of rings before it acknowledges any feature, which the crate minds.
        Ok(R::SET_VRING_ENABLE) => {
            // The index, then the value, 32 bits each (and only little-endian machines run this).
            let (index, enable) = (value()? as u32, value()? >> 32);
            if enable > 1 {
                return Err(Error::InvalidMessage);
            }
            backend.set_vring_enable(index, enable == 1)?;
        }
        Ok(R::NET_SET_MTU) if backend.has_protocol(PROTOCOL_F_MTU) => backend.set_mtu(value()?)?,
        Ok(R::SET_STATUS) if backend.has_protocol(PROTOCOL_F_STATUS) => backend.set_status(value()?)?,
        Ok(R::GET_STATUS) if backend.has_protocol(PROTOCOL_F_STATUS) => return Ok(Some(backend.status_byte().into())),
        Ok(request) => return backend.refuse(&format!("{request:?}")),
        Err(_) => return backend.refuse(&format!("message {request}")),
    }
    Ok(None)
}
