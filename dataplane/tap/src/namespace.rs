//! Network namespaces: which one a file names, and doing something inside of it.

use crate::device::{interface_names, namespace_cookie};
use rustix::fs::{Mode, OFlags, fstat, open, stat};
use rustix::io::Errno;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

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

    /// Does `what` inside; this thread is where it was then.
    ///
    /// # Errors
    /// If the file names no network namespace, or it can't be entered; what `what` returns.
    ///
    /// # Panics
    /// If the kernel does not let the thread return.
    pub fn inside<R>(&self, what: impl FnOnce() -> Result<R, String>) -> Result<R, String> {
        let own = Path::new("/proc/thread-self/ns/net");
        let home = open(own, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
            .map_err(|error| format!("{}: {}", own.display(), text(error)))?;
        enter(&self.fd).map_err(|error| match error {
            Errno::PERM => format!(
                "{} can't be entered: drayd needs CAP_SYS_ADMIN for that, and under systemd RestrictNamespaces=net",
                self.path.display()
            ),
            _ => format!("{} is no network namespace: {}", self.path.display(), text(error)),
        })?;
        let _visit = Visit(home);
        what()
    }
}

fn enter(namespace: &OwnedFd) -> Result<(), Errno> {
    move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))
}

/// That this thread is in another namespace than it was, until this is dropped.
struct Visit(OwnedFd);

impl Drop for Visit {
    fn drop(&mut self) {
        // Whatever the thread did next would be done to a container.
        enter(&self.0).expect("a thread may return to where it came from");
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
