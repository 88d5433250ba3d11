//! What a peer passes us: what it is, before it is ours; and where it is closed.
//!
//! To close a descriptor can take as long as its maker likes. A file of FUSE asks its server at each close, even of a copy, and
//! cannot be killed while it waits; a TCP socket that lingers waits until its other end has read; and a connection has unread
//! messages with more of these. A process that hangs so can not end either: SIGKILL leaves it, its memory, its listening sockets
//! and its locks.
//!
//! So this process never has a descriptor before it is known to be harmless, and is never the last to close a connection. Both is
//! done by small processes that share nothing with it: one for each request that can take its time, forked by a helper that was
//! forked at the start. One that hangs disturbs nobody. `Leaving` tells its end, so that a peer that makes many of them can be
//! refused.
#![allow(unsafe_code)]

use crate::descriptor::{hung_up, text};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{CWD, fcntl_get_seals, readlinkat_raw};
use rustix::io::Errno;
use rustix::net::sockopt::{set_socket_passcred, socket_type};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, Shutdown, SocketFlags, SocketType, recv, recvmsg, send, sendmsg, shutdown,
    socketpair,
};
use std::ffi::CStr;
use std::io::{IoSlice, IoSliceMut, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::OnceLock;
use std::time::Duration;

/// How long an answer is waited for. It depends on nobody but the kernel.
const PATIENCE: Timespec = Timespec { tv_sec: 2, tv_nsec: 0 };
/// Descriptors that one message can have (the kernel's `SCM_MAX_FD`).
const MOST: usize = 253;
/// Bytes that are looked at, at most.
pub(crate) const BYTES: usize = 8192;
/// Unread messages that are taken out of a connection before it is closed.
const UNREAD: usize = 4096;
/// The same, by the thread that has others waiting.
const UNREAD_HERE: usize = 64;
/// Seconds that a close may take which a signal can end.
const LINGER: u32 = 1;

/// What is known of a descriptor, without asking anybody but the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Anything. It must not become ours.
    Other,
    /// A memfd or a file on tmpfs or hugetlbfs.
    Memory,
    /// An eventfd.
    Event,
}

/// What is wrong with what is to be [`Kind::Memory`], behind its name.
pub(crate) const NOT_MEMORY: &str = "is not a memfd nor a file on tmpfs or hugetlbfs";
/// The same of [`Kind::Event`].
pub(crate) const NOT_EVENT: &str = "is not an eventfd";

/// A process that has yet to close what it has of a peer's.
#[derive(Debug)]
pub(crate) struct Leaving(OwnedFd);

impl Leaving {
    /// Whether all of it is closed.
    pub fn is_done(&self) -> bool {
        hung_up(self.0.as_fd())
    }
}

/// What peers of one port may have left that is not closed yet: with as much, nobody is taken for it.
pub(crate) const STUCK_OF_PORT: usize = 4;
/// Until that is looked at again. Mostly it is closed by then: a process does it, and has to begin.
pub(crate) const STUCK_PAUSE: Duration = Duration::from_millis(2);

/// Why nobody is taken for a port whose peers have left so much.
pub(crate) fn stuck(many: usize) -> String {
    format!("{many} earlier connections left what cannot be closed")
}

/// A copy of a connection that is closed after all others.
#[derive(Debug)]
pub(crate) struct Kept(OwnedFd);

impl Kept {
    /// Closes the copy, with all that is unread in it. All other copies are closed.
    pub fn release(self) -> Leaving {
        let _ = shutdown(&self.0, Shutdown::Write);
        Leaving(self.0)
    }
}

/// Forks the helper, if that was not done yet. Best done first of all: it has a copy of all that the process has then.
///
/// # Errors
/// What the kernel refused.
pub fn start() -> Result<(), String> {
    helper().map(drop)
}

/// What kinds of descriptors come with the next message of `socket`, which stays unread: with its first `bytes` bytes, if it
/// is a stream.
///
/// # Errors
/// If that could not be found out.
pub(crate) fn inspect(socket: BorrowedFd<'_>, bytes: u16) -> Result<(Vec<Kind>, Leaving), String> {
    let lease = request(bytes.max(1), socket)?;
    let mut kinds = [0; MOST + 1];
    loop {
        let ready = poll(&mut [PollFd::new(&lease, PollFlags::IN)], Some(&PATIENCE));
        let got = match ready {
            Ok(0) => return Err("descriptors are not checked in time: the host is overloaded".into()),
            _ => recv(&lease, &mut kinds, RecvFlags::DONTWAIT).map(|(_, got)| got),
        };
        match got {
            Err(Errno::INTR | Errno::AGAIN) => continue,
            Err(e) => return Err(format!("descriptors cannot be checked: {}", text(e))),
            // An answer is never empty: it has a byte before the kinds.
            Ok(0) => return Err("descriptors cannot be checked: out of processes or descriptors".into()),
            Ok(got) => {
                let kinds = kinds[1..got].iter().map(|&kind| match kind {
                    b'm' => Kind::Memory,
                    b'e' => Kind::Event,
                    _ => Kind::Other,
                });
                return Ok((kinds.collect(), Leaving(lease)));
            }
        }
    }
}

/// Has a copy of a connection closed after all of ours, so that ours can be closed without waiting.
///
/// # Errors
/// If there is nobody to do that.
pub(crate) fn keep(socket: BorrowedFd<'_>) -> Result<Kept, String> {
    request(0, socket).map(Kept)
}

/// Closes a connection, with all that is unread in it, without waiting. The peer notices at once.
pub(crate) fn close(socket: OwnedFd) -> Option<Leaving> {
    let _ = shutdown(&socket, Shutdown::Both);
    if drain(socket.as_fd()) {
        return None;
    }
    match keep(socket.as_fd()) {
        Ok(kept) => {
            drop(socket);
            Some(kept.release())
        }
        // The helper is gone or overwhelmed. Nobody waits for this thread either, unless it is for the end of the process.
        Err(_) => {
            let _ = std::thread::Builder::new().name("close".into()).spawn(move || drop(socket));
            None
        }
    }
}

/// Takes out of a connection that is shut down what is unread and has no descriptor. Whether nothing is left: then closing it
/// takes no time, and no process.
fn drain(socket: BorrowedFd<'_>) -> bool {
    // Each message has its sender's credentials beside it then: so it is known from the end, even if it is empty. A stream has no
    // empty messages.
    let (true, Ok(kind)) = (set_socket_passcred(socket, true).is_ok(), socket_type(socket)) else { return false };
    let stream = kind == SocketType::STREAM;
    let take = |flags| {
        let mut bytes = [0; BYTES];
        // There is no room for descriptors: of those that are looked at, none is made.
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmCredentials(1))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let flags = flags | RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC;
        let got = recvmsg(socket, &mut [IoSliceMut::new(&mut bytes)], &mut control, flags).ok()?;
        let ends = if stream { got.bytes == 0 } else { control.drain().next().is_none() };
        Some((ends, got.flags.contains(ReturnFlags::CTRUNC)))
    };
    for _ in 0..UNREAD_HERE {
        match take(RecvFlags::PEEK) {
            Some((false, false)) => drop(take(RecvFlags::empty())),
            Some((true, false)) => return true,
            Some((_, true)) | None => return false,
        }
    }
    false
}

/// Asks for a process that does something with `socket`. Our end of the connection to it.
fn request(bytes: u16, socket: BorrowedFd<'_>) -> Result<OwnedFd, String> {
    let failed = |e| format!("descriptors cannot be checked: {}", text(e));
    let (ours, theirs) = pair().map_err(failed)?;
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(2))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let pass = [theirs.as_fd(), socket];
    control.push(SendAncillaryMessage::ScmRights(&pass));
    let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
    let helper = helper()?;
    loop {
        match sendmsg(helper, &[IoSlice::new(&bytes.to_ne_bytes())], &mut control, flags) {
            Ok(_) => return Ok(ours),
            // There are hundreds before us.
            Err(Errno::AGAIN) if poll(&mut [PollFd::new(&helper, PollFlags::OUT)], Some(&PATIENCE)) != Ok(0) => {}
            Err(e) => return Err(failed(e)),
        }
    }
}

fn pair() -> rustix::io::Result<(OwnedFd, OwnedFd)> {
    socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
}

fn helper() -> Result<BorrowedFd<'static>, String> {
    static HELPER: OnceLock<Result<OwnedFd, String>> = OnceLock::new();
    HELPER.get_or_init(begin).as_ref().map(AsFd::as_fd).map_err(String::clone)
}

fn begin() -> Result<OwnedFd, String> {
    let (ours, theirs) = pair().map_err(text)?;
    // SAFETY: the child makes nothing but system calls, on its own copy of this stack. It needs no lock and no memory
    // of the allocator, whatever other threads had of these.
    match unsafe { libc::fork() } {
        -1 => Err(format!("fork: {}", text(std::io::Error::last_os_error()))),
        0 => {
            serve(&theirs);
            exit()
        }
        _ => Ok(ours),
    }
}

fn exit() -> ! {
    // SAFETY: it ends the process, and nothing of what was to be done at its end.
    unsafe { libc::_exit(0) }
}

/// The helper: always has one process that waits for a request. It ends when the process that started it has.
fn serve(requests: &OwnedFd) {
    let own = requests.as_raw_fd() as u32;
    // SAFETY: all of these are calls that change this process alone, with valid arguments: nothing in it uses the descriptors of
    // the process that it is a copy of; the set is initialized before it is used. Signals to all of a group or a terminal are for
    // that process: the helper ends with it.
    unsafe {
        if own > 0 {
            libc::syscall(libc::SYS_close_range, 0, own - 1, 0);
        }
        libc::syscall(libc::SYS_close_range, own + 1, u32::MAX, 0);
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigfillset(&mut set);
        libc::sigdelset(&mut set, libc::SIGALRM);
        libc::sigprocmask(libc::SIG_SETMASK, &set, std::ptr::null_mut());
        libc::signal(libc::SIGALRM, libc::SIG_DFL);
        // Those that have ended need nobody to ask how.
        libc::signal(libc::SIGCHLD, libc::SIG_IGN);
        libc::prctl(libc::PR_SET_NAME, c"dray-quarantine".as_ptr());
    }
    loop {
        let Ok((waiting, waits)) = rustix::pipe::pipe() else { return };
        // SAFETY: this process has one thread.
        match unsafe { libc::fork() } {
            // Out of processes or memory, for now.
            -1 => std::thread::sleep(Duration::from_millis(10)),
            0 => {
                drop(waiting);
                attend(requests, waits);
                exit()
            }
            _ => {
                drop(waits);
                // Until the child has taken a request: then it is time for the next child.
                let _ = rustix::io::read(&waiting, &mut [0u8; 1]);
            }
        }
        let flags = RecvFlags::PEEK | RecvFlags::DONTWAIT;
        if matches!(recv(requests, &mut [0u8; 1], flags), Ok((_, 0))) {
            return;
        }
    }
}

/// Does what is asked, up to the first request that can take its time, or that there is nobody for. It has this process for itself.
fn attend(requests: &OwnedFd, waits: OwnedFd) {
    loop {
        let mut bytes = [0; 2];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(2))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let got = recvmsg(requests, &mut [IoSliceMut::new(&mut bytes)], &mut control, RecvFlags::empty());
        if !matches!(got, Ok(got) if got.bytes == bytes.len()) {
            return;
        }
        let mut passed = control.drain().filter_map(|message| match message {
            RecvAncillaryMessage::ScmRights(rights) => Some(rights),
            _ => None,
        });
        let Some(mut passed) = passed.next() else { return };
        let (Some(lease), Some(socket)) = (passed.next(), passed.next()) else { return };
        match u16::from_ne_bytes(bytes) {
            0 => {
                drop(waits);
                return bury(&lease, socket);
            }
            bytes => {
                let Some(mut fds) = look(&lease, socket, usize::from(bytes).min(BYTES)) else { continue };
                drop(waits);
                limit();
                // One after the other, and before the lease: each may take its time.
                fds.iter_mut().for_each(|fd| drop(fd.take()));
                return;
            }
        }
    }
}

/// Descriptors that came with a message.
type Passed = [Option<OwnedFd>; MOST];

/// Says what comes with the next message. If not all of it is harmless, it is yet to be closed.
fn look(lease: &OwnedFd, socket: OwnedFd, bytes: usize) -> Option<Passed> {
    let mut message = [0; BYTES];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let flags = RecvFlags::PEEK | RecvFlags::DONTWAIT;
    let got = recvmsg(&socket, &mut [IoSliceMut::new(&mut message[..bytes])], &mut control, flags);
    // Those that asked have their own: this is not the last.
    drop(socket);
    let mut fds: Passed = [const { None }; MOST];
    let mut kinds = [0; MOST + 1];
    let mut many = 0;
    for message in control.drain() {
        let RecvAncillaryMessage::ScmRights(rights) = message else { continue };
        for fd in rights.take(MOST - many) {
            kinds[many + 1] = kind(&fd);
            fds[many] = Some(fd);
            many += 1;
        }
    }
    // Some may be missing, for want of descriptors.
    if got.is_ok_and(|got| !got.flags.contains(ReturnFlags::CTRUNC)) {
        let _ = send(lease, &kinds[..=many], SendFlags::NOSIGNAL);
    }
    kinds[1..=many].contains(&b'o').then_some(fds)
}

fn kind(fd: &OwnedFd) -> u8 {
    // The kernel answers this by the file's operations: no file of another kind can say so.
    if fcntl_get_seals(fd).is_ok() {
        return b'm';
    }
    let mut path = [0; 32];
    let mut target = [0; 64];
    let _ = write!(&mut path[..], "/proc/self/fd/{}\0", fd.as_raw_fd());
    // A path begins with a slash: no file can be named so.
    match CStr::from_bytes_until_nul(&path).map(|path| readlinkat_raw(CWD, path, &mut target[..])) {
        Ok(Ok(len)) if target[..len] == *b"anon_inode:[eventfd]" => b'e',
        _ => b'o',
    }
}

/// Closes a connection for good.
fn bury(lease: &OwnedFd, socket: OwnedFd) {
    // Ours is to be the last: the asker has closed its own when this ends.
    let _ = recv(lease, &mut [0u8; 1], RecvFlags::empty());
    limit();
    // What is still unread when a socket is closed makes its peer see a reset, rather than what was said to it last.
    for _ in 0..UNREAD {
        if !matches!(recv(&socket, &mut [0u8; BYTES], RecvFlags::DONTWAIT), Ok((_, 1..))) {
            break;
        }
    }
    drop(socket);
}

/// Has a signal end this process, if one can.
fn limit() {
    // SAFETY: a plain system call. The signal's action is to end the process.
    unsafe { libc::alarm(LINGER) };
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::socket::{Listening, dial};
    use dray_config::{Access, SocketName};
    use std::net::{TcpListener, TcpStream};
    use std::time::Instant;

    fn pass(to: &OwnedFd, fds: &[BorrowedFd<'_>]) {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        control.push(SendAncillaryMessage::ScmRights(fds));
        sendmsg(to, &[IoSlice::new(b"x")], &mut control, SendFlags::empty()).unwrap();
    }

    /// A socket whose close waits for its other end to read, and that end.
    fn lingering() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let ours = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (theirs, _) = listener.accept().unwrap();
        rustix::net::sockopt::set_socket_linger(&ours, Some(Duration::from_secs(3600))).unwrap();
        ours.set_nonblocking(true).unwrap();
        while (&ours).write(&[0; 1 << 16]).is_ok() {}
        (ours, theirs)
    }

    fn wait_done(leaving: &Leaving) {
        let start = Instant::now();
        while !leaving.is_done() {
            assert!(start.elapsed() < Duration::from_secs(20));
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    #[test]
    fn kinds_are_known_before_they_are_ours() {
        let (ours, theirs) = pair().unwrap();
        let memory = rustix::fs::memfd_create("m", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
        let event = crate::descriptor::event().unwrap();
        let file = std::fs::File::open("/proc/self/mem").unwrap();
        pass(&theirs, &[memory.as_fd(), event.as_fd(), file.as_fd(), theirs.as_fd()]);
        pass(&theirs, &[event.as_fd(); MOST]);
        let (kinds, leaving) = inspect(ours.as_fd(), 1).unwrap();
        assert_eq!(kinds, [Kind::Memory, Kind::Event, Kind::Other, Kind::Other]);
        wait_done(&leaving);
        // It is all still there.
        assert_eq!(inspect(ours.as_fd(), 1).unwrap().0.len(), 4);
        recv(&ours, &mut [0u8; 1], RecvFlags::empty()).unwrap();
        assert_eq!(inspect(ours.as_fd(), 1).unwrap().0, [Kind::Event; MOST]);
        recv(&ours, &mut [0u8; 1], RecvFlags::empty()).unwrap();
        assert!(inspect(ours.as_fd(), 1).is_err());
    }

    #[test]
    fn what_passes_nothing_is_closed_at_once() {
        let event = crate::descriptor::event().unwrap();
        let pair = |kind| socketpair(AddressFamily::UNIX, kind, SocketFlags::CLOEXEC, None);
        let kinds = [SocketType::SEQPACKET, SocketType::STREAM];
        let unread = [&[][..], &[&b"x"[..]], &[b"", b"yy", b""], &[&[1; 3 * BYTES], b"z"]];
        for (kind, unread) in kinds.into_iter().flat_map(|kind| unread.map(|unread| (kind, unread))) {
            let (ours, theirs) = pair(kind).unwrap();
            unread.iter().for_each(|bytes| assert!(send(&theirs, bytes, SendFlags::empty()).is_ok()));
            assert!(close(ours).is_none());
            assert!(hung_up(theirs.as_fd()));
            // Behind the same, one that has a descriptor.
            let (ours, theirs) = pair(kind).unwrap();
            unread.iter().for_each(|bytes| assert!(send(&theirs, bytes, SendFlags::empty()).is_ok()));
            pass(&theirs, &[event.as_fd()]);
            wait_done(&close(ours).expect("a process that closes it"));
        }
    }

    #[test]
    fn who_was_not_accepted_is_closed_where_nobody_waits() {
        let dir = tempfile::tempdir().unwrap();
        let abstract_name = format!("dray-{}-quarantine", std::process::id());
        let names = [SocketName::Path(dir.path().join("socket")), SocketName::Abstract(abstract_name)];
        let kinds = [SocketType::SEQPACKET, SocketType::STREAM];
        for (kind, name) in kinds.into_iter().flat_map(|kind| names.clone().map(|name| (kind, name))) {
            let listening = Listening::new(&name, kind, &Access::default()).unwrap();
            let peers = [(); 5].map(|()| dial(&name, kind).unwrap());
            let unread = peers.each_ref().map(|peer| {
                let (lingers, unread) = lingering();
                pass(peer, &[lingers.as_fd()]);
                unread
            });
            let (dropped, is_dropped) = std::sync::mpsc::channel();
            std::thread::spawn(move || {
                drop(listening);
                let _ = dropped.send(());
            });
            is_dropped.recv_timeout(Duration::from_secs(10)).expect("nobody waits");
            let start = Instant::now();
            while !peers.iter().all(|peer| hung_up(peer.as_fd())) {
                assert!(start.elapsed() < Duration::from_secs(20));
                std::thread::sleep(Duration::from_millis(5));
            }
            drop(Listening::new(&name, kind, &Access::default()).expect("the name is free"));
            drop(unread);
        }
    }

    #[test]
    fn closing_waits_for_nobody() {
        let mut leaving = Vec::new();
        for _ in 0..3 {
            let (ours, theirs) = pair().unwrap();
            let (lingers, unread) = lingering();
            pass(&theirs, &[lingers.as_fd()]);
            drop(lingers);
            // A close on this thread takes an hour.
            let start = Instant::now();
            leaving.push((close(ours).unwrap(), unread));
            assert!(start.elapsed() < Duration::from_millis(500));
            assert!(hung_up(theirs.as_fd()));
        }
        // Nor do those that close wait for an hour.
        leaving.iter().for_each(|(leaving, _)| wait_done(leaving));
    }
}
