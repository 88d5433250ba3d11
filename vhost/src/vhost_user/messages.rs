//! Messages: whether one is there in full, and who understands it. The `vhost` crate takes them from the socket and answers them but for
//! a few that it doesn't know, or takes for an error where front ends in use send them.

use super::backend::{Backend, Wrong};
use super::features::{
    PROTOCOL_F_CONFIGURE_MEM_SLOTS, PROTOCOL_F_LOG_SHMFD, PROTOCOL_F_MQ, PROTOCOL_F_MTU, PROTOCOL_F_STATUS,
};
use super::queue::Fault;
use crate::socket::{ready, text};
use rustix::event::PollFlags;
use rustix::io::{Errno, ioctl_fionread};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendFlags, recv, recvmsg, send};
use std::io::IoSliceMut;
use std::mem::MaybeUninit;
use std::os::fd::AsFd;
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

/// The messages of a connection.
pub(super) struct Messages {
    stream: Arc<UnixStream>,
    crate_handler: BackendReqHandler<Mutex<Backend>>,
    backend: Arc<Mutex<Backend>>,
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
        Ok(Messages { stream, crate_handler, backend })
    }

    /// Deals with the next message if all of it has come, without blocking.
    ///
    /// # Errors
    /// What the front end did wrong.
    pub fn next(&mut self) -> Result<Next, (Fault, String)> {
        let header = match self.peek()? {
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
        if self.is_for_crate(&header) { self.pass(&header) } else { self.answer(&header) }
    }

    /// The header of the next message, which stays in the socket.
    fn peek(&self) -> Result<Result<Header, Next>, (Fault, String)> {
        let mut bytes = [0; HEADER];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_ATTACHED_FD_ENTRIES))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let flags = RecvFlags::PEEK | RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC;
        let got = match recvmsg(&*self.stream, &mut [IoSliceMut::new(&mut bytes)], &mut control, flags) {
            Ok(got) => got,
            Err(Errno::AGAIN | Errno::INTR) => return Ok(Err(Next::Nothing)),
            Err(_) => return Ok(Err(Next::Closed)),
        };
        // Copies of those with the message, closed here. The crate would go on to wait for a message that it had lost.
        let fds: usize =
            control.drain().map(|m| if let RecvAncillaryMessage::ScmRights(fds) = m { fds.count() } else { 0 }).sum();
        if fds > MAX_ATTACHED_FD_ENTRIES || got.flags.contains(ReturnFlags::CTRUNC) {
            return Err((Fault::Message, format!("more than {MAX_ATTACHED_FD_ENTRIES} file descriptors in a message")));
        }
        if got.bytes < HEADER {
            return Ok(Err(if got.bytes == 0 { Next::Closed } else { Next::Part }));
        }
        let field = |i: usize| u32::from_ne_bytes([bytes[i], bytes[i + 1], bytes[i + 2], bytes[i + 3]]);
        Ok(Ok(Header { request: field(0), flags: field(4), size: field(8) as usize }))
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
