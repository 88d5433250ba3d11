//! Network namespaces: which one a file names, and doing something inside of it.

use rustix::fs::{Mode, OFlags, fstat, open, stat};
use rustix::io::Errno;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::thread;

/// A network namespace that is held: it exists as long as this does.
#[derive(Debug)]
pub struct Namespace {
    path: PathBuf,
    fd: OwnedFd,
}

impl Namespace {
    /// That of the file `path`: `/run/netns/NAME`, `/proc/PID/ns/net`.
    ///
    /// # Errors
    /// Why there is none, with the path.
    pub fn open(path: &Path) -> Result<Namespace, String> {
        let fd = open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
            .map_err(|error| format!("network namespace {}: {}", path.display(), text(error)))?;
        Ok(Namespace { path: path.to_owned(), fd })
    }

    /// Device and inode: what tells it from any other namespace that exists.
    pub fn id(&self) -> Option<(u64, u64)> {
        fstat(&self.fd).ok().map(|stat| (stat.st_dev, stat.st_ino))
    }

    /// Does `what` on a thread that is inside.
    ///
    /// # Errors
    /// If the file names no network namespace, or the kernel gives no thread; what `what` returns.
    pub fn inside<R: Send>(&self, what: impl FnOnce() -> Result<R, String> + Send) -> Result<R, String> {
        let enter = || {
            move_into_link_name_space(self.fd.as_fd(), Some(LinkNameSpaceType::Network)).map_err(|error| match error {
                Errno::PERM => format!(
                    "{} can't be entered: drayd needs CAP_SYS_ADMIN for that, and under systemd RestrictNamespaces=net",
                    self.path.display()
                ),
                _ => format!("{} is no network namespace: {}", self.path.display(), text(error)),
            })?;
            what()
        };
        thread::scope(|scope| {
            let thread = thread::Builder::new().name("netns".into()).spawn_scoped(scope, enter);
            let thread = thread.map_err(|error| format!("a thread inside {}: {error}", self.path.display()))?;
            thread.join().unwrap_or_else(|_| Err(format!("a thread inside {} has ended", self.path.display())))
        })
    }
}

/// What [`Namespace::id`] says of the namespace that `path` names now, if it names any.
pub(crate) fn id_of(path: &Path) -> Option<(u64, u64)> {
    stat(path).ok().map(|stat| (stat.st_dev, stat.st_ino))
}

/// What an error means, without its number.
pub(crate) fn text(error: impl Into<std::io::Error>) -> String {
    let text = error.into().to_string();
    text.split(" (os error").next().unwrap_or_default().to_owned()
}
