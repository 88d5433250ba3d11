//! Network namespaces that go: noticed as it happens. Of `/proc/PID/ns/net` the process tells (pidfd_open(2)), of any other file its directory
//! (inotify(7)); an open device tells nothing, as it keeps its namespace alive.

use super::mailbox::{Event, Mailbox};
use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::event::{EventfdFlags, eventfd};
use rustix::fs::inotify::{self, Reader, WatchFlags};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};

/// What epoll calls the descriptors that are not of a process.
const INOTIFY: u64 = 0;
const END: u64 = 1;
/// Events taken up in one call.
const EVENTS: usize = 64;

/// The thread that notices.
pub struct Watch {
    notices: Notices,
    end: OwnedFd,
    thread: JoinHandle<()>,
}

/// Where ports say what they want to know of.
#[derive(Clone)]
pub struct Notices(Arc<Shared>);

struct Shared {
    epoll: OwnedFd,
    inotify: OwnedFd,
    table: Mutex<Table>,
    mailbox: Mailbox,
}

#[derive(Default)]
struct Table {
    /// The next number for a port that wants to know.
    next: u64,
    processes: HashMap<u64, (OwnedFd, Wants)>,
    /// By the kernel's number of the watch.
    directories: HashMap<i32, Directory>,
}

/// A directory with files of namespaces.
#[derive(Default)]
struct Directory {
    /// By the file's name and the port's number.
    files: HashMap<OsString, HashMap<u64, Wants>>,
}

#[derive(Clone)]
struct Wants {
    port: String,
    is_news: Arc<AtomicBool>,
}

/// That a port wants to know, until it is dropped.
pub struct Noticed {
    of: Notices,
    number: u64,
    /// Of the file, if it is in a directory that is watched.
    file: Option<(i32, OsString)>,
    is_news: Arc<AtomicBool>,
}

impl Watch {
    /// # Errors
    /// If the kernel gives no thread, epoll, inotify or eventfd.
    pub fn start(mailbox: &Mailbox) -> Result<Watch, String> {
        let failed = |error: std::io::Error| format!("noticing that namespaces go: {error}");
        let make = || -> rustix::io::Result<(Shared, OwnedFd)> {
            let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
            let inotify = inotify::init(inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK)?;
            let end = eventfd(0, EventfdFlags::CLOEXEC)?;
            epoll::add(&epoll, &inotify, EventData::new_u64(INOTIFY), EventFlags::IN)?;
            epoll::add(&epoll, &end, EventData::new_u64(END), EventFlags::IN)?;
            let table = Mutex::new(Table { next: END + 1, ..Table::default() });
            Ok((Shared { epoll, inotify, table, mailbox: mailbox.clone() }, end))
        };
        let (shared, end) = make().map_err(|error| failed(error.into()))?;
        let notices = Notices(Arc::new(shared));
        let shared = notices.0.clone();
        let thread = thread::Builder::new().name("namespaces".into()).spawn(move || shared.run()).map_err(failed)?;
        Ok(Watch { notices, end, thread })
    }

    /// For a port.
    pub fn notices(&self) -> Notices {
        self.notices.clone()
    }

    /// Ends the thread.
    pub fn shutdown(self) {
        if rustix::io::write(&self.end, &1u64.to_ne_bytes()).is_ok() {
            let _ = self.thread.join();
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn run(&self) {
        let mut events = [const { MaybeUninit::<epoll::Event>::uninit() }; EVENTS];
        loop {
            let Ok((events, _)) = epoll::wait(&self.epoll, &mut events, None) else { continue };
            for event in events {
                match event.data.u64() {
                    INOTIFY => self.read(),
                    END => return,
                    number => {
                        // A process ends once.
                        let ended = self.lock().processes.remove(&number);
                        ended.iter().for_each(|(_, wants)| self.tell(wants));
                    }
                }
            }
        }
    }

    /// Reads what happened in directories.
    fn read(&self) {
        let mut buffer = [const { MaybeUninit::uninit() }; 4096];
        let mut reader = Reader::new(&self.inotify, &mut buffer);
        while let Ok(event) = reader.next() {
            let table = self.lock();
            let mut told: Vec<Wants> = Vec::new();
            match (table.directories.get(&event.wd()), event.file_name()) {
                (Some(directory), Some(name)) => {
                    let name = OsStr::from_bytes(name.to_bytes());
                    told.extend(directory.files.get(name).into_iter().flat_map(HashMap::values).cloned());
                }
                // It is gone itself, or too much has happened to tell what.
                _ => {
                    let files = table.directories.values().flat_map(|directory| directory.files.values());
                    told.extend(files.flat_map(HashMap::values).cloned());
                }
            }
            drop(table);
            told.iter().for_each(|wants| self.tell(wants));
        }
    }

    fn tell(&self, Wants { port, is_news }: &Wants) {
        is_news.store(true, Relaxed);
        self.mailbox.post(Event::Wake { port: port.clone() });
    }
}

impl Notices {
    /// Has `port` woken when what is at `path` may be another namespace, or none: what it is now is for the port to look at after this.
    pub fn of(&self, path: &Path, port: &str) -> Noticed {
        let is_news = Arc::new(AtomicBool::new(false));
        let wants = Wants { port: port.to_owned(), is_news: is_news.clone() };
        let mut table = self.0.lock();
        let number = table.next;
        table.next += 1;
        let mut file = None;
        let watched = match process(path) {
            Some(pid) => pidfd_open(pid, PidfdFlags::empty()).and_then(|fd| {
                epoll::add(&self.0.epoll, &fd, EventData::new_u64(number), EventFlags::IN)?;
                table.processes.insert(number, (fd, wants));
                Ok(())
            }),
            None => {
                let directory = path.parent().unwrap_or(Path::new("/"));
                let name = path.file_name().unwrap_or_default().to_owned();
                let flags = WatchFlags::DELETE | WatchFlags::MOVE | WatchFlags::CREATE | WatchFlags::DELETE_SELF;
                inotify::add_watch(&self.0.inotify, directory, flags | WatchFlags::ONLYDIR).map(|wd| {
                    let directory = table.directories.entry(wd).or_default();
                    directory.files.entry(name.clone()).or_default().insert(number, wants);
                    file = Some((wd, name));
                })
            }
        };
        drop(table);
        if watched.is_err() {
            // It has gone by now, or the kernel refuses: the port looks by itself.
            is_news.store(true, Relaxed);
        }
        Noticed { of: self.clone(), number, file, is_news }
    }
}

impl Noticed {
    /// Whether something has happened since this was last called.
    pub fn is_news(&self) -> bool {
        self.is_news.swap(false, Relaxed)
    }
}

impl Drop for Noticed {
    fn drop(&mut self) {
        let shared = &self.of.0;
        let mut table = shared.lock();
        // Its descriptor leaves epoll as it is closed.
        table.processes.remove(&self.number);
        let Some((wd, name)) = &self.file else { return };
        let Some(directory) = table.directories.get_mut(wd) else { return };
        if let Some(ports) = directory.files.get_mut(name) {
            ports.remove(&self.number);
            if ports.is_empty() {
                directory.files.remove(name);
            }
        }
        if directory.files.is_empty() {
            // The kernel's number is the same for as long as there is a watch of that directory.
            let _ = inotify::remove_watch(&shared.inotify, *wd);
            table.directories.remove(wd);
        }
    }
}

/// The process whose namespace the path is.
fn process(path: &Path) -> Option<Pid> {
    let pid = path.to_str()?.strip_prefix("/proc/")?.strip_suffix("/ns/net")?;
    Pid::from_raw(pid.parse().ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;
    use std::time::{Duration, Instant};

    fn wait(noticed: &Noticed) {
        let begin = Instant::now();
        while !noticed.is_news() {
            assert!(begin.elapsed() < Duration::from_secs(10), "nothing was noticed");
            thread::sleep(Duration::from_millis(1));
        }
    }

    #[test]
    fn files_and_processes_that_go_are_noticed_and_nothing_is_left() {
        let mailbox = Mailbox::new();
        let watch = Watch::start(&mailbox).unwrap();
        let notices = watch.notices();
        let dir = tempfile::tempdir().unwrap();
        let (a, b) = (dir.path().join("a"), dir.path().join("b"));
        std::fs::write(&a, "").unwrap();
        std::fs::write(&b, "").unwrap();
        let noticed = [notices.of(&a, "a"), notices.of(&b, "b"), notices.of(&a, "other")];
        std::fs::remove_file(&a).unwrap();
        wait(&noticed[0]);
        wait(&noticed[2]);
        assert!(!noticed[1].is_news());
        let mut child = Command::new("sleep").arg("1000").spawn().unwrap();
        let ended = notices.of(Path::new(&format!("/proc/{}/ns/net", child.id())), "p");
        assert!(!ended.is_news());
        child.kill().unwrap();
        wait(&ended);
        child.wait().unwrap();
        // It can't be noticed any more, so it is to be looked at.
        assert!(notices.of(Path::new(&format!("/proc/{}/ns/net", child.id())), "p").is_news());
        // The directory goes with what is in it.
        dir.close().unwrap();
        wait(&noticed[1]);
        drop((noticed, ended));
        let table = notices.0.lock();
        assert!(table.processes.is_empty() && table.directories.is_empty());
        drop(table);
        watch.shutdown();
    }
}
