//! Network namespaces: which one a file names, and doing something inside of it.

use crate::device::{interface_names, namespace_cookie};
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

    /// What tells it from any other that ever is, on any host and after any restart of it: the host's boot id, and the number that the
    /// kernel gives each network namespace once (`SO_NETNS_COOKIE`, Linux 5.14). With it, the names of the interfaces in there.
    ///
    /// # Errors
    /// As [`Namespace::inside`]; what the kernel refused.
    pub fn look(&self) -> Result<(String, Vec<String>), String> {
        self.inside(|| {
            let id = id_here()?;
            let names = interface_names()
                .map_err(|error| format!("the interfaces of {}: {}", self.path.display(), text(error)))?;
            Ok((id, names))
        })
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

/// [`Namespace::look`]'s, of this thread's namespace.
pub(crate) fn id_here() -> Result<String, String> {
    let failed = |error: std::io::Error| format!("which network namespace this is: {}", text(error));
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").map_err(failed)?;
    Ok(format!("{}:{}", boot.trim(), namespace_cookie().map_err(failed)?))
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
