//! A memif client that keeps no rule: messages and descriptors are what the attack writes.
//!
//! Its memory is written through the file, so that nothing that the switch or the attack does to it can harm this process.

use dray_vhost::memif::proto::{COOKIE, MODE_ETHERNET, Message, SIZE, VERSION, secret};
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
use rustix::net::{
    AddressFamily, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags,
    SocketType, connect, recv, sendmsg, socket_with,
};
use std::fs::File;
use std::io::IoSlice;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::{Duration, Instant};

/// How long to wait for an answer.
const PATIENCE: Duration = Duration::from_secs(3);

/// A file in memory whose size can't be sealed: whoever maps it has to live with its shrinking.
pub(super) fn memfd(bytes: u64) -> Result<File, String> {
    let fd = memfd_create("hostile", MemfdFlags::CLOEXEC).map_err(|e| format!("memfd_create: {e}"))?;
    ftruncate(&fd, bytes).map_err(|e| format!("ftruncate: {e}"))?;
    Ok(fd.into())
}

/// An eventfd; blocking and full, whoever writes to it hangs.
pub(super) fn event(hangs: bool) -> Result<OwnedFd, String> {
    let flags = if hangs { EventfdFlags::CLOEXEC } else { EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK };
    let fd = eventfd(0, flags).map_err(|e| format!("eventfd: {e}"))?;
    if hangs {
        rustix::io::write(&fd, &(u64::MAX - 1).to_ne_bytes()).map_err(|e| format!("eventfd: {e}"))?;
    }
    Ok(fd)
}

/// Waits for something to read.
pub(super) fn readable(fd: BorrowedFd<'_>, timeout: Duration) -> bool {
    let timeout = Timespec { tv_sec: timeout.as_secs() as i64, tv_nsec: timeout.subsec_nanos().into() };
    matches!(poll(&mut [PollFd::from_borrowed_fd(fd, PollFlags::IN)], Some(&timeout)), Ok(n) if n > 0)
}

/// What a read of the control channel gave.
pub(super) enum Heard {
    Message(Message),
    Nothing,
    Closed,
}

/// A control channel.
pub(super) struct Raw(OwnedFd);

impl Raw {
    /// Connects, if the socket takes another connection now.
    pub fn dial(socket: &Path) -> Option<Raw> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let fd = socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None).ok()?;
        connect(&fd, &SocketAddrUnix::new(socket).ok()?).ok()?;
        Some(Raw(fd))
    }

    /// Sends bytes and descriptors, if the other end is there and takes them.
    pub fn send_bytes(&self, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> bool {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(253))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !fds.is_empty() && !control.push(SendAncillaryMessage::ScmRights(fds)) {
            return false;
        }
        sendmsg(&self.0, &[IoSlice::new(bytes)], &mut control, SendFlags::NOSIGNAL).is_ok()
    }

    /// Sends a message.
    pub fn send(&self, message: &Message, fds: &[BorrowedFd<'_>]) -> bool {
        self.send_bytes(&message.encode(), fds)
    }

    /// What comes within `timeout`. Descriptors are not taken: the kernel closes them.
    pub fn receive(&self, timeout: Duration) -> Heard {
        if !readable(self.0.as_fd(), timeout) {
            return Heard::Nothing;
        }
        let mut bytes = [0; SIZE];
        match recv(&self.0, &mut bytes, RecvFlags::DONTWAIT) {
            Ok((0, _)) => Heard::Closed,
            Ok(_) => Message::decode(&bytes).map_or(Heard::Nothing, Heard::Message),
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => Heard::Nothing,
            Err(_) => Heard::Closed,
        }
    }

    /// Waits until the switch says that the link is up.
    ///
    /// # Errors
    /// Why it isn't.
    pub fn connected(&self) -> Result<(), String> {
        let end = Instant::now() + PATIENCE;
        while Instant::now() < end {
            match self.receive(end - Instant::now()) {
                Heard::Message(Message::Connected { .. }) => return Ok(()),
                Heard::Message(Message::Disconnect { reason, .. }) => return Err(reason),
                Heard::Closed => return Err("the switch closed the connection".into()),
                Heard::Message(_) | Heard::Nothing => {}
            }
        }
        Err("the switch does not answer".into())
    }
}

/// What a client offers.
#[derive(Clone, Copy)]
pub(super) struct Offer {
    pub id: u32,
    /// Rings of each direction.
    pub queues: u16,
    /// Base-2 logarithm of a ring's size.
    pub log2: u8,
    /// Bytes of the region.
    pub bytes: u64,
    /// Whether the interrupts hang whoever makes them.
    pub hangs: bool,
}

impl Offer {
    pub fn of(id: u32) -> Offer {
        Offer { id, queues: 1, log2: 8, bytes: 1 << 20, hangs: false }
    }

    pub fn init(&self, key: Option<&str>) -> Message {
        let name = "hostile".into();
        Message::Init { version: VERSION, id: self.id, mode: MODE_ETHERNET, secret: secret(key), name }
    }

    /// Where ring `i` is, those to the switch first.
    fn ring(&self, i: u16) -> u64 {
        u64::from(i) * (128 + (16 << self.log2))
    }

    /// Where the buffers begin: each has 2048 bytes, and they are those of the first ring from the switch.
    fn buffers(&self) -> u64 {
        self.ring(2 * self.queues).next_multiple_of(4096)
    }
}

/// The bytes of a descriptor of region 0.
fn descriptor(flags: u16, len: u32, offset: u32) -> Vec<u8> {
    [&flags.to_le_bytes()[..], &[0, 0], &len.to_le_bytes(), &offset.to_le_bytes(), &[0; 4]].concat()
}

/// A link whose rings are written through the file.
pub(super) struct RawLink {
    pub raw: Raw,
    pub memory: File,
    /// The interrupt of all rings.
    pub event: OwnedFd,
    offer: Offer,
    /// Of the ring from the switch: the next slot to be read.
    next: u16,
}

impl RawLink {
    /// Says everything that a client says, without waiting for an answer.
    ///
    /// # Errors
    /// If the switch does not take it.
    pub fn offer(socket: &Path, offer: Offer) -> Result<RawLink, String> {
        let raw = Raw::dial(socket).ok_or("nobody takes the connection")?;
        let (memory, event) = (memfd(offer.bytes)?, event(offer.hangs)?);
        let link = RawLink { raw, memory, event, offer, next: 0 };
        let write = |at: u64, bytes: &[u8]| link.memory.write_all_at(bytes, at).map_err(|e| e.to_string());
        for i in 0..2 * offer.queues {
            write(offer.ring(i), &COOKIE.to_le_bytes())?;
        }
        let size = 1u64 << offer.log2;
        let buffer = |slot| descriptor(0, 2048, (offer.buffers() + slot * 2048) as u32);
        write(offer.ring(offer.queues) + 128, &(0..size).flat_map(buffer).collect::<Vec<u8>>())?;
        // All slots of the rings from the switch are on offer.
        write(offer.ring(offer.queues) + 6, &(size as u16).to_le_bytes())?;
        let mut sent = link.raw.send(&offer.init(None), &[]);
        sent &= link.raw.send(&Message::AddRegion { index: 0, size: offer.bytes }, &[link.memory.as_fd()]);
        for i in 0..2 * offer.queues {
            let s2m = i < offer.queues;
            let ring = Message::AddRing {
                s2m,
                index: if s2m { i } else { i - offer.queues },
                region: 0,
                offset: offer.ring(i) as u32,
                log2_size: offer.log2,
                private_header: 0,
            };
            sent &= link.raw.send(&ring, &[link.event.as_fd()]);
        }
        sent &= link.raw.send(&Message::Connect { interface: "hostile".into() }, &[]);
        if sent { Ok(link) } else { link.raw.connected().map(|()| link) }
    }

    /// The same, and waits until the link is up.
    ///
    /// # Errors
    /// Why it isn't.
    pub fn open(socket: &Path, offer: Offer) -> Result<RawLink, String> {
        let link = Self::offer(socket, offer)?;
        link.raw.connected()?;
        Ok(link)
    }

    /// Writes a descriptor of ring `ring`.
    pub fn describe(&self, ring: u16, slot: u16, flags: u16, len: u32, offset: u32) {
        let slot = u64::from(slot) % (1 << self.offer.log2);
        let _ = self.memory.write_all_at(&descriptor(flags, len, offset), self.offer.ring(ring) + 128 + 16 * slot);
    }

    /// Writes the client's index of ring `ring`.
    pub fn set_head(&self, ring: u16, head: u16) {
        let _ = self.memory.write_all_at(&head.to_le_bytes(), self.offer.ring(ring) + 6);
    }

    /// Writes bytes of a slot's buffer of the first ring from the switch, which serves the ring to it as well.
    pub fn write(&self, slot: u16, bytes: &[u8]) -> u32 {
        let at = self.offer.buffers() + u64::from(slot) * 2048;
        let _ = self.memory.write_all_at(bytes, at);
        at as u32
    }

    /// Takes the next frame from the switch, as far as it fits, and gives its buffer back.
    pub fn take(&mut self, to: &mut [u8]) -> bool {
        let ring = self.offer.ring(self.offer.queues);
        let mut tail = [0; 2];
        if self.memory.read_exact_at(&mut tail, ring + 64).is_err() || u16::from_le_bytes(tail) == self.next {
            return false;
        }
        let size = 1u16 << self.offer.log2;
        let at = self.offer.buffers() + u64::from(self.next % size) * 2048;
        let _ = self.memory.read_exact_at(to, at);
        self.next = self.next.wrapping_add(1);
        self.set_head(self.offer.queues, self.next.wrapping_add(size));
        true
    }
}
