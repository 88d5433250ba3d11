//! Messages as a front end sends them (QEMU's `docs/interop/vhost-user.rst`).
//!
//! Nothing is checked before it is sent: tests of back ends send what they like.

use crate::descriptor::text;
use crate::socket::{Listening, dial, show};
use dray_config::{Access, Role, SocketName};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
    SocketFlags, SocketType, accept_with, recv, recvmsg, sendmsg,
};
use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

/// Requests that a front end sends.
pub mod request {
    #![allow(missing_docs)]
    pub const GET_FEATURES: u32 = 1;
    pub const SET_FEATURES: u32 = 2;
    pub const SET_OWNER: u32 = 3;
    pub const SET_MEM_TABLE: u32 = 5;
    pub const SET_LOG_BASE: u32 = 6;
    pub const SET_VRING_NUM: u32 = 8;
    pub const SET_VRING_ADDR: u32 = 9;
    pub const SET_VRING_BASE: u32 = 10;
    pub const GET_VRING_BASE: u32 = 11;
    pub const SET_VRING_KICK: u32 = 12;
    pub const SET_VRING_CALL: u32 = 13;
    pub const SET_VRING_ERR: u32 = 14;
    pub const GET_PROTOCOL_FEATURES: u32 = 15;
    pub const SET_PROTOCOL_FEATURES: u32 = 16;
    pub const GET_QUEUE_NUM: u32 = 17;
    pub const SET_VRING_ENABLE: u32 = 18;
    pub const NET_SET_MTU: u32 = 20;
    pub const GET_MAX_MEM_SLOTS: u32 = 36;
    pub const ADD_MEM_REG: u32 = 37;
    pub const REM_MEM_REG: u32 = 38;
    pub const SET_STATUS: u32 = 39;
    pub const GET_STATUS: u32 = 40;
}

/// Protocol features, as bits.
pub mod protocol {
    #![allow(missing_docs)]
    pub const MQ: u64 = 1 << 0;
    pub const LOG_SHMFD: u64 = 1 << 1;
    pub const REPLY_ACK: u64 = 1 << 3;
    pub const MTU: u64 = 1 << 4;
    pub const CONFIGURE_MEM_SLOTS: u64 = 1 << 15;
    pub const STATUS: u64 = 1 << 16;
}

/// Flags of a message: the version, which is 1.
pub const VERSION: u32 = 1;
/// Flags of a message: it is a reply.
pub const REPLY: u32 = 1 << 2;
/// Flags of a message: a reply is wanted although the request has none of its own.
pub const NEED_REPLY: u32 = 1 << 3;
/// Bytes before a payload.
const HEADER: usize = 12;
/// The longest payload taken from a back end, bytes.
const PAYLOAD_MAX: usize = 4096;
/// Between two attempts to connect.
const RETRY: Duration = Duration::from_millis(20);

/// A region of memory as messages describe it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RegionMessage {
    /// Guest-physical address.
    pub gpa: u64,
    /// Bytes.
    pub size: u64,
    /// The front end's own address.
    pub uva: u64,
    /// Where it begins in its file.
    pub offset: u64,
}

impl RegionMessage {
    fn bytes(&self) -> Vec<u8> {
        [self.gpa, self.size, self.uva, self.offset].map(u64::to_ne_bytes).concat()
    }
}

/// Where a ring is, as `SET_VRING_ADDR` has it: in the front end's own addresses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RingAddresses {
    /// 1: writes to the used ring are to be logged.
    pub flags: u32,
    /// The descriptors.
    pub desc: u64,
    /// Used ring, or device event suppression.
    pub used: u64,
    /// Available ring, or driver event suppression.
    pub avail: u64,
    /// Guest-physical address of the used ring, for the log.
    pub log: u64,
}

/// A message that came.
#[derive(Debug)]
pub struct Reply {
    /// The request that it answers.
    pub request: u32,
    /// [`VERSION`] and [`REPLY`].
    pub flags: u32,
    /// What it says.
    pub payload: Vec<u8>,
}

/// Waits for `events`; whether they came before `deadline`.
pub(super) fn wait(fd: BorrowedFd<'_>, events: PollFlags, deadline: Instant) -> bool {
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let timeout = Timespec { tv_sec: left.as_secs() as i64, tv_nsec: left.subsec_nanos().into() };
        match poll(&mut [PollFd::from_borrowed_fd(fd, events)], Some(&timeout)) {
            Ok(n) if n > 0 => return true,
            Err(Errno::INTR) => {}
            _ => {}
        }
        if left.is_zero() {
            return false;
        }
    }
}

/// Where back ends are met: a listening socket, or a name to connect to.
pub struct Meeting {
    name: SocketName,
    listening: Option<Listening>,
}

impl Meeting {
    /// As a server it listens when this returns.
    ///
    /// # Errors
    /// "listen on NAME: why not".
    pub fn new(name: &SocketName, role: Role) -> Result<Meeting, String> {
        let listening = match role {
            Role::Server => Some(Listening::new(name, SocketType::STREAM, &Access::default())?),
            Role::Client => None,
        };
        Ok(Meeting { name: name.clone(), listening })
    }

    /// Waits for a back end, or connects to one, for at most `timeout`. As long may the connection's replies take.
    ///
    /// # Errors
    /// Why there is none.
    pub fn connection(&self, timeout: Duration) -> Result<Connection, String> {
        let deadline = Instant::now() + timeout;
        let fd = match &self.listening {
            Some(Listening { fd, .. }) => {
                if !wait(fd.as_fd(), PollFlags::IN, deadline) {
                    return Err(format!("no back end connects to {}", show(&self.name)));
                }
                accept_with(fd, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK)
                    .map_err(|e| format!("accept on {}: {}", show(&self.name), text(e)))?
            }
            None => loop {
                match dial(&self.name, SocketType::STREAM) {
                    Ok(fd) => break fd,
                    Err(e) if Instant::now() + RETRY > deadline => return Err(e),
                    Err(_) => std::thread::sleep(RETRY),
                }
            },
        };
        Ok(Connection { fd, timeout, reply_ack: false })
    }
}

/// A connection to a back end.
pub struct Connection {
    fd: OwnedFd,
    timeout: Duration,
    /// Whether every message asks for an answer (`VHOST_USER_PROTOCOL_F_REPLY_ACK` was negotiated).
    pub reply_ack: bool,
}

impl Connection {
    /// Sends a message.
    ///
    /// # Errors
    /// If the back end is gone, or does not read.
    pub fn send(&self, request: u32, flags: u32, payload: &[u8], fds: &[BorrowedFd<'_>]) -> Result<(), String> {
        let mut bytes = [request, flags, payload.len() as u32].map(u32::to_ne_bytes).concat();
        bytes.extend(payload);
        self.send_raw(&bytes, fds)
    }

    /// Sends bytes, and descriptors with the first of them.
    ///
    /// # Errors
    /// If the back end is gone, or does not read.
    pub fn send_raw(&self, mut bytes: &[u8], mut fds: &[BorrowedFd<'_>]) -> Result<(), String> {
        let deadline = Instant::now() + self.timeout;
        while !bytes.is_empty() {
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(253))];
            let mut control = SendAncillaryBuffer::new(&mut space);
            if !fds.is_empty() && !control.push(SendAncillaryMessage::ScmRights(fds)) {
                return Err(format!("{} descriptors are too many for a message", fds.len()));
            }
            match sendmsg(&self.fd, &[IoSlice::new(bytes)], &mut control, SendFlags::NOSIGNAL) {
                Ok(n) => (bytes, fds) = (&bytes[n..], &[]),
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => {
                    if !wait(self.fd.as_fd(), PollFlags::OUT, deadline) {
                        return Err("the back end does not read".into());
                    }
                }
                Err(e) => return Err(format!("send to the back end: {}", text(e))),
            }
        }
        Ok(())
    }

    /// Fills `buffer` with what comes.
    fn read(&self, buffer: &mut [u8]) -> Result<(), String> {
        let deadline = Instant::now() + self.timeout;
        let mut at = 0;
        while at < buffer.len() {
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(8))];
            let mut control = RecvAncillaryBuffer::new(&mut space);
            let mut into = [IoSliceMut::new(&mut buffer[at..])];
            match recvmsg(&self.fd, &mut into, &mut control, RecvFlags::CMSG_CLOEXEC) {
                Ok(got) if got.bytes == 0 => return Err("the back end closed the connection".into()),
                Ok(got) => {
                    at += got.bytes;
                    // No reply that is waited for has descriptors: they are closed.
                    for message in control.drain() {
                        if let RecvAncillaryMessage::ScmRights(fds) = message {
                            fds.for_each(drop);
                        }
                    }
                }
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => {
                    if !wait(self.fd.as_fd(), PollFlags::IN, deadline) {
                        return Err("the back end does not answer".into());
                    }
                }
                Err(e) => return Err(format!("receive from the back end: {}", text(e))),
            }
        }
        Ok(())
    }

    /// The next message of the back end.
    ///
    /// # Errors
    /// If none comes in time, or the connection is closed.
    pub fn recv(&self) -> Result<Reply, String> {
        let mut header = [0; HEADER];
        self.read(&mut header)?;
        let [request, flags, size] = [0, 4, 8].map(|at| u32_at(&header, at));
        if size as usize > PAYLOAD_MAX {
            return Err(format!("the back end's message has {size} bytes"));
        }
        let mut payload = vec![0; size as usize];
        self.read(&mut payload)?;
        Ok(Reply { request, flags, payload })
    }

    /// Sends a request that has a reply, and waits for it.
    ///
    /// # Errors
    /// If there is none, or it answers another request.
    pub fn call(&self, request: u32, payload: &[u8], fds: &[BorrowedFd<'_>]) -> Result<Vec<u8>, String> {
        self.send(request, VERSION, payload, fds)?;
        self.reply(request)
    }

    fn reply(&self, request: u32) -> Result<Vec<u8>, String> {
        let reply = self.recv()?;
        if (reply.request, reply.flags & REPLY) != (request, REPLY) {
            return Err(format!("the back end answers request {request} with {reply:?}"));
        }
        Ok(reply.payload)
    }

    fn number(&self, request: u32) -> Result<u64, String> {
        let payload = self.call(request, &[], &[])?;
        let bytes = payload.as_slice().try_into();
        bytes
            .map(u64::from_ne_bytes)
            .map_err(|_| format!("the answer to request {request} has {} bytes", payload.len()))
    }

    /// Sends a request that has no reply of its own; waits until it is acknowledged if that was negotiated.
    ///
    /// # Errors
    /// If it can't be sent, is not acknowledged, or refused.
    pub fn tell(&self, request: u32, payload: &[u8], fds: &[BorrowedFd<'_>]) -> Result<(), String> {
        if !self.reply_ack {
            return self.send(request, VERSION, payload, fds);
        }
        self.send(request, VERSION | NEED_REPLY, payload, fds)?;
        let payload = self.reply(request)?;
        match payload.as_slice().try_into().map(u64::from_ne_bytes) {
            Ok(0) => Ok(()),
            _ => Err(format!("the back end refuses request {request} ({payload:?})")),
        }
    }

    fn tell_number(&self, request: u32, number: u64) -> Result<(), String> {
        self.tell(request, &number.to_ne_bytes(), &[])
    }

    /// `GET_FEATURES`
    ///
    /// # Errors
    /// As [`Connection::call`]; so for all that ask for something.
    pub fn features(&self) -> Result<u64, String> {
        self.number(request::GET_FEATURES)
    }

    /// `SET_FEATURES`
    ///
    /// # Errors
    /// As [`Connection::tell`]; so for all that tell something.
    pub fn set_features(&self, features: u64) -> Result<(), String> {
        self.tell_number(request::SET_FEATURES, features)
    }

    /// `GET_PROTOCOL_FEATURES`
    ///
    /// # Errors
    /// As [`Connection::call`].
    pub fn protocol_features(&self) -> Result<u64, String> {
        self.number(request::GET_PROTOCOL_FEATURES)
    }

    /// `SET_PROTOCOL_FEATURES`, from which on `REPLY_ACK` is used if it is among them.
    ///
    /// # Errors
    /// As [`Connection::tell`].
    pub fn set_protocol_features(&mut self, features: u64) -> Result<(), String> {
        self.tell_number(request::SET_PROTOCOL_FEATURES, features)?;
        self.reply_ack = features & protocol::REPLY_ACK != 0;
        Ok(())
    }

    /// `GET_QUEUE_NUM`: how many queue pairs the back end takes.
    ///
    /// # Errors
    /// As [`Connection::call`].
    pub fn queue_num(&self) -> Result<u64, String> {
        self.number(request::GET_QUEUE_NUM)
    }

    /// `GET_MAX_MEM_SLOTS`: how many regions the back end takes.
    ///
    /// # Errors
    /// As [`Connection::call`].
    pub fn max_mem_slots(&self) -> Result<u64, String> {
        self.number(request::GET_MAX_MEM_SLOTS)
    }

    /// `SET_OWNER`
    ///
    /// # Errors
    /// As [`Connection::tell`].
    pub fn set_owner(&self) -> Result<(), String> {
        self.tell(request::SET_OWNER, &[], &[])
    }

    /// `SET_MEM_TABLE`, all regions at once.
    ///
    /// # Errors
    /// As [`Connection::tell`].
    pub fn set_mem_table(&self, regions: &[(RegionMessage, BorrowedFd<'_>)]) -> Result<(), String> {
        let mut payload = [regions.len() as u32, 0].map(u32::to_ne_bytes).concat();
        payload.extend(regions.iter().flat_map(|(region, _)| region.bytes()));
        let fds: Vec<_> = regions.iter().map(|(_, fd)| *fd).collect();
        self.tell(request::SET_MEM_TABLE, &payload, &fds)
    }

    /// `ADD_MEM_REG`
    ///
    /// # Errors
    /// As [`Connection::tell`].
    pub fn add_mem_reg(&self, region: &RegionMessage, fd: BorrowedFd<'_>) -> Result<(), String> {
        self.tell(request::ADD_MEM_REG, &[vec![0; 8], region.bytes()].concat(), &[fd])
    }

    /// `REM_MEM_REG`
    ///
    /// # Errors
    /// As [`Connection::tell`].
    pub fn rem_mem_reg(&self, region: &RegionMessage) -> Result<(), String> {
        self.tell(request::REM_MEM_REG, &[vec![0; 8], region.bytes()].concat(), &[])
    }

    fn tell_ring(&self, request: u32, ring: u32, number: u32) -> Result<(), String> {
        self.tell(request, &[ring, number].map(u32::to_ne_bytes).concat(), &[])
    }

    /// `SET_VRING_NUM`: descriptors.
    ///
    /// # Errors
    /// As [`Connection::tell`].
    pub fn set_vring_num(&self, ring: u32, num: u32) -> Result<(), String> {
        self.tell_ring(request::SET_VRING_NUM, ring, num)
    }

    /// `SET_VRING_ADDR`
    ///
    /// # Errors
    /// As [`Connection::tell`].
    pub fn set_vring_addr(&self, ring: u32, at: &RingAddresses) -> Result<(), String> {
        let mut payload = [ring, at.flags].map(u32::to_ne_bytes).concat();
        payload.extend([at.desc, at.used, at.avail, at.log].map(u64::to_ne_bytes).concat());
        self.tell(request::SET_VRING_ADDR, &payload, &[])
    }

    /// `SET_VRING_BASE`: where to begin. Split: the available index. Packed: descriptor (15 bits) and wrap counter to be taken
    /// next, and above these in 16 bits those to be given back next.
    ///
    /// # Errors
    /// As [`Connection::tell`].
    pub fn set_vring_base(&self, ring: u32, base: u32) -> Result<(), String> {
        self.tell_ring(request::SET_VRING_BASE, ring, base)
    }

    /// `GET_VRING_BASE`, which stops a ring: where it would go on.
    ///
    /// # Errors
    /// As [`Connection::call`].
    pub fn vring_base(&self, ring: u32) -> Result<u32, String> {
        let payload = self.call(request::GET_VRING_BASE, &[ring, 0].map(u32::to_ne_bytes).concat(), &[])?;
        if payload.len() != 8 || u32_at(&payload, 0) != ring {
            return Err(format!("the back end's base of ring {ring} is {payload:?}"));
        }
        Ok(u32_at(&payload, 4))
    }

    fn tell_fd(&self, request: u32, ring: u32, fd: Option<BorrowedFd<'_>>) -> Result<(), String> {
        // Bit 8: there is none.
        let number = u64::from(ring) | u64::from(fd.is_none()) << 8;
        self.tell(request, &number.to_ne_bytes(), fd.as_slice())
    }

    /// `SET_VRING_KICK`, which starts a ring.
    ///
    /// # Errors
    /// As [`Connection::tell`].
    pub fn set_vring_kick(&self, ring: u32, fd: Option<BorrowedFd<'_>>) -> Result<(), String> {
        self.tell_fd(request::SET_VRING_KICK, ring, fd)
    }

    /// `SET_VRING_CALL`
    ///
    /// # Errors
    /// As [`Connection::tell`].
    pub fn set_vring_call(&self, ring: u32, fd: Option<BorrowedFd<'_>>) -> Result<(), String> {
        self.tell_fd(request::SET_VRING_CALL, ring, fd)
    }

    /// `SET_VRING_ERR`
    ///
    /// # Errors
    /// As [`Connection::tell`].
    pub fn set_vring_err(&self, ring: u32, fd: Option<BorrowedFd<'_>>) -> Result<(), String> {
        self.tell_fd(request::SET_VRING_ERR, ring, fd)
    }

    /// `SET_VRING_ENABLE`
    ///
    /// # Errors
    /// As [`Connection::tell`].
    pub fn set_vring_enable(&self, ring: u32, enabled: bool) -> Result<(), String> {
        self.tell_ring(request::SET_VRING_ENABLE, ring, enabled.into())
    }

    /// `SET_LOG_BASE`: the log is `size` bytes at `offset` of `fd`. Has a reply.
    ///
    /// # Errors
    /// As [`Connection::call`].
    pub fn set_log_base(&self, size: u64, offset: u64, fd: BorrowedFd<'_>) -> Result<(), String> {
        self.call(request::SET_LOG_BASE, &[size, offset].map(u64::to_ne_bytes).concat(), &[fd]).map(drop)
    }

    /// `NET_SET_MTU`
    ///
    /// # Errors
    /// As [`Connection::tell`].
    pub fn set_mtu(&self, mtu: u16) -> Result<(), String> {
        self.tell_number(request::NET_SET_MTU, mtu.into())
    }

    /// `SET_STATUS`
    ///
    /// # Errors
    /// As [`Connection::tell`].
    pub fn set_status(&self, status: u8) -> Result<(), String> {
        self.tell_number(request::SET_STATUS, status.into())
    }

    /// `GET_STATUS`
    ///
    /// # Errors
    /// As [`Connection::call`].
    pub fn status(&self) -> Result<u64, String> {
        self.number(request::GET_STATUS)
    }

    /// Why the connection is down, if it is.
    pub fn down(&self) -> Option<String> {
        let mut byte = [0u8; 1];
        match recv(&self.fd, &mut byte, RecvFlags::PEEK | RecvFlags::DONTWAIT) {
            Ok((0, _)) => Some("the back end closed the connection".into()),
            Ok(_) => Some("the back end says something unasked".into()),
            Err(Errno::AGAIN | Errno::INTR) => None,
            Err(e) => Some(text(e)),
        }
    }
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_ne_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}
