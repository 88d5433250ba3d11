//! Reading frames from the kernel and writing frames to it: a system call for each.
#![allow(unsafe_code)]

use crate::coalesce::{HEADERS, Run, Segment};
use crate::datagrams::{self, Datagrams};
use crate::device::HEADER;
use crate::readiness::{Readiness, is_ready};
use dray_switch::burst::{BURST, CHAIN_MAX, FRAME_MAX, FRAMES, GSO_MAX, HEAD_MAX};
use dray_switch::mem::{beginning, sum_frame};
use dray_switch::offload::{Accepts, Gso, Offload};
use dray_switch::wire::{TAG, VLAN, fold};
use dray_switch::{Burst, Drop as Reason, Dropped, Frame, Rx, Sent, Tx, virtio_net};
use std::io;
use std::marker::PhantomData;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed};

/// Bytes of a frame that are read into memory that all frames use in turn, so that it stays in the cache: all of an ordinary one.
const SMALL: usize = 2048;
/// Where a frame begins in there, so that it does on a cache line; its header is before it.
const AT: usize = 64;
/// Bytes of a frame beyond that.
const LARGE: usize = GSO_MAX - SMALL;
/// Longer frames in a burst. Few, so that what was read is still in the nearest cache when it is written, and the first does not wait for
/// the others.
const LARGES: usize = 2;

/// How frames come and go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    /// By a TAP device.
    Tap,
    /// By a packet socket.
    Packet,
}

impl Way {
    /// Bytes of virtio-net's header before each frame.
    fn header(self) -> usize {
        match self {
            Way::Tap => HEADER,
            Way::Packet => virtio_net::SHORT,
        }
    }
}

/// What the queues of a device have in common.
pub(crate) struct Shared {
    pub way: Way,
    /// Longest frame in bytes that isn't to be segmented. It may be changed while the device is open.
    pub max_frame: AtomicU32,
    /// Whether the kernel segments UDP, as far as is known.
    pub uso: AtomicBool,
    /// Whether TCP segments that follow each other are written as one.
    pub gro: bool,
}

impl Shared {
    /// Appends a frame of `len` bytes to the burst, with what its header asks for; or drops it, if it can't be taken.
    ///
    /// # Safety
    /// As [`Burst::push`], for each of its pieces, of which there are at most [`CHAIN_MAX`] and one.
    #[inline]
    pub(crate) unsafe fn take(
        &self,
        burst: &mut Burst,
        header: &[u8; HEADER],
        len: usize,
        mut pieces: impl Iterator<Item = (*const u8, u32)>,
    ) -> bool {
        let Some((first, size)) = pieces.next().filter(|_| len != 0) else {
            burst.drop(Dropped::Count(1), Reason::RxBadDescriptor);
            return false;
        };
        let asks = virtio_net::asks(u64::from_le_bytes(*header.first_chunk().expect("longer than 8")));
        let offload = if asks { virtio_net::read(header) } else { None };
        if asks && offload.is_none() {
            burst.drop(Dropped::Count(1), Reason::RxBadOffload);
            return false;
        }
        let max = self.max_frame.load(Relaxed) as usize;
        let whole = offload.is_some_and(|offload| offload.gso != Gso::None);
        if len > if whole { GSO_MAX } else { max.min(FRAME_MAX) } {
            burst.drop(Dropped::Count(1), Reason::RxTooBig);
            return false;
        }
        let head_len = burst.head_len();
        if offload.is_some() {
            burst.set_head_len(HEAD_MAX);
        }
        // SAFETY: the caller vouches for the pieces.
        unsafe {
            burst.push(first, size, 0);
            pieces.for_each(|(piece, size)| burst.chain(piece, size));
        }
        burst.set_head_len(head_len);
        if let Some(offload) = offload {
            let head = burst.frame(burst.len() as u16 - 1).head();
            if !burst.set_offload(virtio_net::of_frame(offload, head)) {
                burst.drop(Dropped::Count(1), Reason::RxBadOffload);
                return false;
            }
        }
        true
    }

    /// Has frames of a burst written, each or several of one flow at once.
    pub(crate) fn send(&self, burst: &mut Burst, frames: &[u16], write: &mut impl Write) -> Sent {
        let mut sent = Sent::default();
        let mut rest = frames;
        while !rest.is_empty() {
            match self.write_run(burst, rest, write) {
                Ok(n) => {
                    sent.packets += n as u32;
                    sent.bytes += rest[..n].iter().map(|&i| burst.frame(i).len() as u64).sum::<u64>();
                    rest = &rest[n..];
                }
                Err((n, reason)) => {
                    burst.drop(&rest[..n], reason);
                    rest = &rest[n..];
                }
            }
        }
        sent
    }

    /// What the kernel takes undone.
    pub(crate) fn accepts(&self) -> Accepts {
        let uso = self.uso.load(Relaxed);
        Accepts { csum: true, tso4: true, tso6: true, ecn: true, uso4: uso, uso6: uso }
    }

    /// Writes frame `i`.
    fn write(&self, burst: &Burst, i: u16, write: &mut impl Write) -> Result<(), Reason> {
        let frame = burst.frame(i);
        let offload = frame.offload();
        let whole = offload.is_some_and(|offload| offload.gso != Gso::None);
        if !whole && frame.len() > self.max_frame.load(Relaxed) as usize {
            return Err(Reason::TxTooBig);
        }
        let header = offload.map_or(virtio_net::PLAIN, |offload| virtio_net::write(offload, frame.head()));
        let mut parts = Parts::new(&header[..self.way.header()], frame.head());
        burst.segments(frame).for_each(|segment| parts.add(segment.as_ptr(), segment.len() as usize));
        write(&parts)
    }

    /// Writes the first of `frames` and those that follow it in one flow, as far as it goes. How many.
    fn write_run(&self, burst: &Burst, frames: &[u16], write: &mut impl Write) -> Result<usize, (usize, Reason)> {
        let written = match frames.len() {
            1 => None,
            _ => self.write_segments(burst, frames, write).or_else(|| self.write_datagrams(burst, frames, write)),
        };
        let (n, result) = written.unwrap_or_else(|| (1, self.write(burst, frames[0], write)));
        result.map(|()| n).map_err(|reason| (n, reason))
    }

    /// Writes a run of TCP segments, if `frames` begin with one: how many, and what came of it.
    fn write_segments(
        &self,
        burst: &Burst,
        frames: &[u16],
        write: &mut impl Write,
    ) -> Option<(usize, Result<(), Reason>)> {
        let (first, headers) = self.segment(burst, frames[0])?;
        let mut run = Run::new(headers, first);
        let follows = |&&i: &&u16| self.segment(burst, i).is_some_and(|(next, headers)| run.take(&headers, next));
        let n = 1 + frames[1..].iter().take_while(follows).count();
        if n == 1 {
            return None;
        }
        let (offload, payload) = run.finish();
        Some((n, self.write_all(burst, &frames[..n], offload, &run.headers[..payload], write)))
    }

    /// The same of UDP datagrams, if the kernel takes these.
    fn write_datagrams(
        &self,
        burst: &Burst,
        frames: &[u16],
        write: &mut impl Write,
    ) -> Option<(usize, Result<(), Reason>)> {
        let headers = |i: u16| {
            let frame = burst.frame(i);
            let fits = frame.len() <= self.max_frame.load(Relaxed) as usize;
            let plain = fits && frame.offload().is_none() && burst.segments(frame).count() < PIECES;
            frame
                .head()
                .first_chunk()
                .filter(|_| plain)
                .map(|headers: &[u8; datagrams::HEADERS]| (headers, frame.len()))
        };
        if !self.uso.load(Relaxed) {
            return None;
        }
        let (first, len) = headers(frames[0])?;
        let mut run = Datagrams::new(first, len)?;
        let follows = |&&i: &&u16| headers(i).is_some_and(|(headers, len)| run.take(headers, len));
        let n = 1 + frames[1..].iter().take_while(follows).count();
        if n == 1 {
            return None;
        }
        let offload = run.finish();
        let result = self.write_all(burst, &frames[..n], offload, &run.headers, write);
        if result == Err(Reason::TxDevice) {
            // A kernel that does not know it (before Linux 6.2).
            self.uso.store(false, Relaxed);
            return None;
        }
        Some((n, result))
    }

    /// Writes what `frames` carry behind their headers as one packet with `headers`, to which `offload` is left to be done.
    fn write_all(
        &self,
        burst: &Burst,
        frames: &[u16],
        offload: Offload,
        headers: &[u8],
        write: &mut impl Write,
    ) -> Result<(), Reason> {
        let header = virtio_net::write(offload, headers);
        let mut parts = Parts::new(&header[..self.way.header()], headers);
        for &i in frames {
            parts.add_from(burst, burst.frame(i), headers.len());
        }
        write(&parts)
    }

    /// Frame `i`, if it can be part of a run, and the headers that it begins with. Its checksum is right: nobody looks at it again.
    fn segment(&self, burst: &Burst, i: u16) -> Option<(Segment, [u8; HEADERS])> {
        let frame = burst.frame(i);
        if !self.gro || frame.offload().is_some() || frame.len() > self.max_frame.load(Relaxed) as usize {
            return None;
        }
        let mut headers = [0; HEADERS];
        beginning(burst, frame, &mut headers);
        let segment = Segment::read(&headers, frame.len())?;
        let l4 = segment.l4;
        let sum = u32::from(sum_frame(burst, frame, l4)) + segment.pseudo(&headers, frame.len() - l4);
        (fold(sum) == 0xffff && burst.segments(frame).count() < PIECES).then_some((segment, headers))
    }
}

/// Writes a frame, of which these are the parts.
pub(crate) trait Write: FnMut(&Parts<'_>) -> Result<(), Reason> {}

impl<F: FnMut(&Parts<'_>) -> Result<(), Reason>> Write for F {}

/// A receive queue: what the device's owner sends.
pub(crate) struct RxQueue {
    fd: Arc<OwnedFd>,
    shared: Arc<Shared>,
    place: Option<Readiness>,
    small: Box<[[u8; AT + SMALL]]>,
    large: Box<[[u8; LARGE]]>,
}

impl RxQueue {
    pub(crate) fn new(fd: Arc<OwnedFd>, shared: Arc<Shared>) -> RxQueue {
        let small = vec![[0; AT + SMALL]; BURST].into_boxed_slice();
        let large = vec![[0; LARGE]; LARGES].into_boxed_slice();
        RxQueue { fd, shared, place: None, small, large }
    }
}

/// A frame that was read.
struct Read {
    header: [u8; HEADER],
    /// Where it begins.
    at: usize,
    /// Its bytes.
    len: usize,
}

/// Reads a frame into the place that begins `small` and, if it is longer, `large`. None if there is none, or the device is gone.
#[inline]
fn read(way: Way, fd: &OwnedFd, small: &mut [u8; AT + SMALL], large: &mut [u8; LARGE]) -> Option<Read> {
    let (first, second) = (&mut small[AT - way.header()..], &mut large[..]);
    let mut parts = [
        libc::iovec { iov_base: first.as_mut_ptr().cast(), iov_len: first.len() },
        libc::iovec { iov_base: second.as_mut_ptr().cast(), iov_len: second.len() },
    ];
    let (n, tag) = match way {
        // SAFETY: two parts, each writable for as long as it says.
        Way::Tap => (unsafe { libc::readv(fd.as_raw_fd(), parts.as_ptr(), 2) }, None),
        Way::Packet => receive(fd, &mut parts),
    };
    let mut len = usize::try_from(n).ok()?.checked_sub(way.header())?.min(SMALL + LARGE);
    let mut header = virtio_net::PLAIN;
    header[..way.header()].copy_from_slice(&small[AT - way.header()..AT]);
    let mut at = AT;
    if let Some([tpid, tci]) = tag.filter(|_| len >= 12) {
        at -= TAG;
        len += TAG;
        small.copy_within(AT..AT + 12, at);
        small[at + 12..at + 14].copy_from_slice(&tpid.to_be_bytes());
        small[at + 14..at + 16].copy_from_slice(&tci.to_be_bytes());
        let csum_start = u16::from_le_bytes([header[6], header[7]]).wrapping_add(TAG as u16);
        header[6..8].copy_from_slice(&csum_start.to_le_bytes());
    }
    Some(Read { header, at, len })
}

/// Receives from a packet socket. With the result, TPID and TCI of the tag that the kernel has taken out of the frame, if it has.
fn receive(fd: &OwnedFd, parts: &mut [libc::iovec; 2]) -> (isize, Option<[u16; 2]>) {
    #[repr(C, align(8))]
    struct Control([u8; 64]);
    let mut control = Control([0; 64]);
    // SAFETY: all zeros is a valid one.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    (message.msg_iov, message.msg_iovlen) = (parts.as_mut_ptr(), parts.len());
    (message.msg_control, message.msg_controllen) = (control.0.as_mut_ptr().cast(), control.0.len());
    // SAFETY: the parts are writable for as long as they say, and so is the control buffer.
    let n = unsafe { libc::recvmsg(fd.as_raw_fd(), &mut message, 0) };
    if n < 0 {
        return (n, None);
    }
    // SAFETY: the kernel has filled in the control buffer, as far as it says.
    let first = unsafe { libc::CMSG_FIRSTHDR(&message).as_ref() };
    let auxiliary = first.filter(|first| {
        (first.cmsg_level, first.cmsg_type) == (libc::SOL_PACKET, libc::PACKET_AUXDATA)
            && first.cmsg_len >= size_of::<libc::cmsghdr>() + size_of::<libc::tpacket_auxdata>()
    });
    let tag = auxiliary.and_then(|first| {
        // SAFETY: it is that long.
        let data = unsafe { libc::CMSG_DATA(first).cast::<libc::tpacket_auxdata>().read_unaligned() };
        let tpid = if data.tp_status & libc::TP_STATUS_VLAN_TPID_VALID != 0 { data.tp_vlan_tpid } else { VLAN };
        (data.tp_status & libc::TP_STATUS_VLAN_VALID != 0).then_some([tpid, data.tp_vlan_tci])
    });
    (n, tag)
}

impl Rx for RxQueue {
    fn receive(&mut self, burst: &mut Burst) {
        if !is_ready(&mut self.place, &self.fd) {
            return;
        }
        let mut larges = self.large.iter_mut();
        let mut large = larges.next().expect("there are some");
        for small in self.small.iter_mut().take(burst.room()) {
            let Some(Read { header, at, len }) = read(self.shared.way, &self.fd, small, large) else {
                if let Some(place) = &self.place {
                    place.exhausted();
                }
                return;
            };
            let rest = (at + len).saturating_sub(AT + SMALL);
            let pieces = [(small[at..].as_ptr(), (len - rest) as u32), (large.as_ptr(), rest as u32)];
            let pieces = pieces.into_iter().take(1 + usize::from(rest != 0));
            // SAFETY: the queue's memory, written to only by the next `receive`; of another frame each. There is room, as no more frames were
            // read than that.
            let taken = unsafe { self.shared.take(burst, &header, len, pieces) };
            if taken && rest != 0 {
                match larges.next() {
                    Some(next) => large = next,
                    None => return,
                }
            }
        }
    }

    fn release(&mut self, _burst: &mut Burst) {}
}

impl Drop for RxQueue {
    fn drop(&mut self) {
        if let Some(place) = self.place.take() {
            place.leave(&self.fd);
        }
    }
}

/// A transmit queue: what the device's owner receives.
pub(crate) struct TxQueue {
    fd: Arc<OwnedFd>,
    shared: Arc<Shared>,
}

impl TxQueue {
    pub(crate) fn new(fd: Arc<OwnedFd>, shared: Arc<Shared>) -> TxQueue {
        TxQueue { fd, shared }
    }
}

/// Writes a frame to the kernel.
fn write(fd: &OwnedFd, parts: &Parts<'_>) -> Result<(), Reason> {
    // SAFETY: `n` parts, each readable for as long as it says until the burst is released. What a peer writes there meanwhile is its own
    // frame's: the kernel reads each byte once.
    let written = unsafe { libc::writev(fd.as_raw_fd(), parts.all.as_ptr().cast(), parts.n as libc::c_int) };
    if written >= 0 {
        return Ok(());
    }
    Err(match io::Error::last_os_error().raw_os_error() {
        // It is down, or gone.
        Some(libc::EIO | libc::EBADFD | libc::ENODEV | libc::ENETDOWN | libc::ENXIO) => Reason::TxLinkDown,
        Some(libc::EMSGSIZE) => Reason::TxTooBig,
        Some(libc::EAGAIN | libc::ENOBUFS | libc::ENOMEM) => Reason::TxRingFull,
        _ => Reason::TxDevice,
    })
}

/// Pieces of the body of a frame in a run, at most: less than this.
const PIECES: usize = 4;

/// What is written at once: a header, and frames' bytes where they are.
pub(crate) struct Parts<'a> {
    all: [MaybeUninit<libc::iovec>; 2 + FRAMES * PIECES],
    n: usize,
    of: PhantomData<&'a [u8]>,
}

impl<'a> Parts<'a> {
    fn new(header: &'a [u8], head: &'a [u8]) -> Parts<'a> {
        let mut parts = Parts { all: [const { MaybeUninit::uninit() }; 2 + FRAMES * PIECES], n: 0, of: PhantomData };
        parts.add(header.as_ptr(), header.len());
        parts.add(head.as_ptr(), head.len());
        parts
    }

    /// Bytes of all.
    pub(crate) fn len(&self) -> usize {
        self.iter().map(|part| part.iov_len).sum()
    }

    /// The parts, which are readable for as long as they say until the burst is released.
    pub(crate) fn iter(&self) -> impl Iterator<Item = libc::iovec> {
        // SAFETY: the first `n` were written.
        self.all[..self.n].iter().map(|part| unsafe { part.assume_init() })
    }

    fn add(&mut self, at: *const u8, len: usize) {
        self.all[self.n].write(libc::iovec { iov_base: at.cast_mut().cast(), iov_len: len });
        self.n += 1;
    }

    /// Adds the bytes of `frame` from number `from` on.
    fn add_from(&mut self, burst: &'a Burst, frame: &'a Frame, from: usize) {
        let head = frame.head();
        let mut skip = from.saturating_sub(head.len());
        if from < head.len() {
            self.add(head[from..].as_ptr(), head.len() - from);
        }
        for segment in burst.segments(frame) {
            let len = segment.len() as usize;
            if skip < len {
                self.add(segment.as_ptr().wrapping_add(skip), len - skip);
            }
            skip = skip.saturating_sub(len);
        }
    }
}

const _: () = assert!(2 + FRAMES * PIECES >= 3 + CHAIN_MAX);

impl Tx for TxQueue {
    fn send(&mut self, burst: &mut Burst, frames: &[u16]) -> Sent {
        self.shared.send(burst, frames, &mut |parts| write(&self.fd, parts))
    }

    fn accepts(&self) -> Accepts {
        self.shared.accepts()
    }
}
