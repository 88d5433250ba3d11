//! Unix sockets by which peers and ports find each other, whatever is said on them.

use crate::descriptor::text;
use crate::quarantine::{self, Kept};
use dray_config::{Access, SocketName};
use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, Uid};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, Shutdown, SocketAddrUnix, SocketFlags, SocketType, accept_with, bind, connect, listen, shutdown,
    socket_with,
};
use rustix::process::geteuid;
use std::fs::DirBuilder;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt};
use std::path::Path;

/// The name as the configuration writes it.
pub(crate) fn show(name: &SocketName) -> String {
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

fn socket(kind: SocketType) -> Result<OwnedFd, Errno> {
    socket_with(AddressFamily::UNIX, kind, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK, None)
}

/// Connects to a server, without blocking; nor does the socket block afterwards.
///
/// # Errors
/// "connect NAME: why not".
pub(crate) fn dial(name: &SocketName, kind: SocketType) -> Result<OwnedFd, String> {
    let dial = || -> Result<OwnedFd, Errno> {
        let fd = socket(kind)?;
        connect(&fd, &address(name)?)?;
        Ok(fd)
    };
    dial().map_err(|e| format!("connect {}: {}", show(name), text(e)))
}

/// A listening socket. Its file is removed with it. Connections that nobody has accepted then are closed without waiting.
pub struct Listening {
    /// The socket, which doesn't block.
    pub fd: OwnedFd,
    /// At the end, if there are such connections: what closes them after `fd` is closed.
    _last: Option<Kept>,
    name: SocketName,
    /// The file's device and inode: another's file is not removed.
    file: Option<(u64, u64)>,
}

impl Listening {
    /// Listens on `name`, for those whom `access` admits if it is a path. A missing directory is made, a stale socket file
    /// replaced.
    ///
    /// # Errors
    /// "listen on NAME: why not", also if somebody else is listening there.
    pub fn new(name: &SocketName, kind: SocketType, access: &Access) -> Result<Listening, String> {
        Self::listen(name, kind, access).map_err(|e| format!("listen on {}: {e}", show(name)))
    }

    fn listen(name: &SocketName, kind: SocketType, access: &Access) -> Result<Listening, String> {
        let address = address(name).map_err(|_| "the name is too long for a socket".to_owned())?;
        let fd = socket(kind).map_err(text)?;
        match (bind(&fd, &address), name) {
            (Ok(()), _) => {}
            (Err(Errno::NOENT), SocketName::Path(path)) => {
                let directory = path.parent().unwrap_or(Path::new("/"));
                DirBuilder::new().recursive(true).mode(0o755).create(directory).map_err(text)?;
                bind(&fd, &address).map_err(text)?;
            }
            (Err(Errno::ADDRINUSE), SocketName::Path(path)) => {
                if !std::fs::symlink_metadata(path).is_ok_and(|m| m.file_type().is_socket()) {
                    return Err("a file that is not a socket is in the way".into());
                }
                match connect(socket(kind).map_err(text)?, &address) {
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
        let listening = Listening { fd, _last: None, name: name.clone(), file };
        if let SocketName::Path(path) = name {
            admit(path, access)?;
        }
        // Until here whoever connects is refused.
        listen(&listening.fd, BACKLOG).map_err(text)?;
        Ok(listening)
    }

    /// Whether the socket's file is still the one that was made.
    fn is_ours(&self, path: &Path) -> bool {
        std::fs::symlink_metadata(path).is_ok_and(|m| Some((m.dev(), m.ino())) == self.file)
    }
}

impl Drop for Listening {
    fn drop(&mut self) {
        if let SocketName::Path(path) = &self.name
            && self.is_ours(path)
        {
            let _ = std::fs::remove_file(path);
        }
        // Nobody comes from now on. What those have sent who came already may take its time to close.
        let _ = shutdown(&self.fd, Shutdown::Read);
        match accept_with(&self.fd, SocketFlags::CLOEXEC) {
            // Then the name is free at once.
            Err(Errno::AGAIN | Errno::INVAL) => {}
            first => {
                self._last = quarantine::keep(self.fd.as_fd()).ok();
                let _ = first.map(quarantine::close);
            }
        }
    }
}

/// Connections that may wait to be accepted: as many as the system lets (`net.core.somaxconn`).
const BACKLOG: i32 = -1;

/// Gives the socket file `path` its permission bits, owner and group. The directory may be another's, who must not be able to
/// put something else in its place that is changed then.
fn admit(path: &Path, access: &Access) -> Result<(), String> {
    let file =
        rustix::fs::open(path, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty()).map_err(text)?;
    let stat = rustix::fs::fstat(&file).map_err(text)?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::Socket || stat.st_uid != geteuid().as_raw() {
        return Err("something else was put in its place".into());
    }
    // What was opened without the right to read can only be changed by this name. First the bits: they are only its owner's to
    // change.
    let opened = format!("/proc/self/fd/{}", file.as_raw_fd());
    rustix::fs::chmod(opened.as_str(), Mode::from_raw_mode(access.mode)).map_err(|e| format!("mode: {}", text(e)))?;
    let owner = access.owner.as_ref().map(|owner| Uid::from_raw(owner.id));
    let group = access.group.as_ref().map(|group| Gid::from_raw(group.id));
    if owner.is_some() || group.is_some() {
        rustix::fs::chownat(&file, "", owner, group, AtFlags::EMPTY_PATH)
            .map_err(|e| format!("owner and group: {}", text(e)))?;
    }
    Ok(())
}
