//! Which devices have something to read: one call to the kernel tells a worker that of all of its own, however many are quiet.

use rustix::event::Timespec;
use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};
use rustix::io::Errno;
use std::cell::RefCell;
use std::collections::HashMap;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// Events taken up in one call; those that there are more wait for the next.
const EVENTS: usize = 64;

/// What a worker and one of its queues share.
#[derive(Default)]
struct Flag {
    /// There may be something to read.
    ready: AtomicBool,
    /// Another worker has the queue now, or nobody.
    gone: AtomicBool,
}

/// The queues of one worker.
struct Waiting {
    epoll: Arc<OwnedFd>,
    flags: HashMap<u64, Arc<Flag>>,
    /// How many queues with nothing to read have been asked for since the kernel was.
    asked: usize,
}

impl Waiting {
    fn new() -> Result<Waiting, Errno> {
        let epoll = Arc::new(epoll::create(CreateFlags::CLOEXEC)?);
        Ok(Waiting { epoll, flags: HashMap::new(), asked: 0 })
    }

    /// Asks the kernel, and waits for it to say something at most so long.
    fn ask(&mut self, most: Duration) {
        self.asked = 0;
        let mut events = [const { MaybeUninit::<Event>::uninit() }; EVENTS];
        let most = Timespec { tv_sec: most.as_secs() as i64, tv_nsec: most.subsec_nanos().into() };
        let Ok((events, _)) = epoll::wait(&*self.epoll, &mut events, Some(&most)) else { return };
        for event in events {
            if let Some(flag) = self.flags.get(&event.data.u64()) {
                flag.ready.store(true, Relaxed);
            }
        }
    }
}

thread_local! {
    static WAITING: RefCell<Option<Waiting>> = const { RefCell::new(None) };
}

/// A queue's place among those of the worker that polls it.
pub(crate) struct Readiness {
    epoll: Arc<OwnedFd>,
    flag: Arc<Flag>,
}

impl Readiness {
    /// A place among those of this thread, for the queue of `fd`, of which nothing is known yet: it may have something to read.
    fn here(waiting: &mut Waiting, fd: &OwnedFd) -> Result<Readiness, Errno> {
        static KEYS: AtomicU64 = AtomicU64::new(0);
        let key = KEYS.fetch_add(1, Relaxed);
        waiting.flags.retain(|_, flag| !flag.gone.load(Relaxed));
        epoll::add(&*waiting.epoll, fd, EventData::new_u64(key), EventFlags::IN)?;
        let flag = Arc::new(Flag { ready: AtomicBool::new(true), gone: AtomicBool::new(false) });
        waiting.flags.insert(key, flag.clone());
        Ok(Readiness { epoll: waiting.epoll.clone(), flag })
    }

    /// There was nothing more to read.
    pub(crate) fn exhausted(&self) {
        self.flag.ready.store(false, Relaxed);
    }

    /// Gives the place back. `fd`: of the queue.
    pub(crate) fn leave(self, fd: &OwnedFd) {
        self.flag.gone.store(true, Relaxed);
        let _ = epoll::delete(&*self.epoll, fd.as_fd());
    }
}

/// Whether the queue of `fd` may have something to read. `place` is its own, and is made or moved to this thread if need be. Asks the
/// kernel only once for all queues of the thread, and says yes where the kernel refuses to be asked.
#[inline]
pub(crate) fn is_ready(place: &mut Option<Readiness>, fd: &OwnedFd) -> bool {
    WAITING.with_borrow_mut(|waiting| {
        if let (Some(waiting), Some(place)) = (&mut *waiting, &*place)
            && Arc::ptr_eq(&waiting.epoll, &place.epoll)
        {
            if place.flag.ready.load(Relaxed) {
                return true;
            }
            waiting.asked += 1;
            if waiting.asked >= waiting.flags.len() {
                waiting.ask(Duration::ZERO);
            }
            return place.flag.ready.load(Relaxed);
        }
        arrive(waiting, place, fd);
        true
    })
}

/// Sleeps for `time`, or until a queue of this thread has something to read. Other threads' commands, and queues that aren't the kernel's,
/// don't end it.
pub fn sleep(time: Duration) {
    WAITING.with_borrow_mut(|waiting| match waiting {
        Some(waiting) if !waiting.flags.is_empty() => waiting.ask(time),
        _ => std::thread::sleep(time),
    });
}

/// The queue is new to this thread.
#[cold]
fn arrive(waiting: &mut Option<Waiting>, place: &mut Option<Readiness>, fd: &OwnedFd) {
    if let Some(old) = place.take() {
        old.leave(fd);
    }
    if waiting.is_none() {
        *waiting = Waiting::new().ok();
    }
    *place = waiting.as_mut().and_then(|waiting| Readiness::here(waiting, fd).ok());
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::pipe::pipe;

    /// One that sleeps is woken by what comes, not when its time is over.
    #[test]
    fn what_comes_ends_the_sleep() {
        let (read, write) = pipe().unwrap();
        let mut place = None;
        assert!(is_ready(&mut place, &read));
        place.as_ref().unwrap().exhausted();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                std::thread::sleep(Duration::from_millis(20));
                rustix::io::write(&write, b"x").unwrap();
            });
            sleep(Duration::from_secs(3600));
        });
        assert!(place.as_ref().unwrap().flag.ready.load(Relaxed));
    }

    /// One thread's queues are told apart, and one that another thread has taken is no longer this one's.
    #[test]
    fn what_is_ready_is_found_by_one_call_for_all() {
        let pipes: Vec<_> = (0..3).map(|_| pipe().unwrap()).collect();
        let mut places = [None, None, None];
        for ((read, _), place) in pipes.iter().zip(&mut places) {
            assert!(is_ready(place, read), "nothing is known of a new one");
            place.as_ref().unwrap().exhausted();
        }
        rustix::io::write(&pipes[1].1, b"x").unwrap();
        let mut round =
            || -> Vec<bool> { pipes.iter().zip(&mut places).map(|((read, _), place)| is_ready(place, read)).collect() };
        round();
        assert_eq!(round(), [false, true, false]);
        let flag = places[1].as_ref().unwrap().flag.clone();
        std::thread::scope(|scope| {
            let (place, read) = (&mut places[1], &pipes[1].0);
            scope.spawn(move || {
                assert!(is_ready(place, read));
                place.as_ref().unwrap().exhausted();
                is_ready(place, read);
                assert!(is_ready(place, read), "it is still to be read");
            });
        });
        // The next that comes takes the one that is gone out.
        let (read, _write) = pipe().unwrap();
        is_ready(&mut None, &read);
        let is_here = |waiting: &Waiting| waiting.flags.values().any(|other| Arc::ptr_eq(other, &flag));
        WAITING.with_borrow(|waiting| assert!(!waiting.as_ref().is_some_and(is_here)));
    }
}
