//! What happens, for those who watch: numbered, and kept for a while. Whoever reads has a place of its own among what is kept; one
//! that is too slow loses the oldest and is told how many. The control loop only puts an event in the place of the oldest, and
//! waits for nobody.

use crate::log::timestamp;
use dray_api::{Event, EventKind, Watching};
use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, LazyLock, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Events that are kept.
const KEPT: usize = 4096;
/// Who may watch at a time: each takes one of the control socket's connections.
const MAX_WATCHERS: usize = 16;

/// The process' events.
static EVENTS: LazyLock<Events> = LazyLock::new(|| Events::new(KEPT));

/// Tells all who watch, now or within the next [`KEPT`] events. Number and time are put into it here.
pub fn tell(event: Event) {
    EVENTS.tell(event);
}

/// Begins to watch: with the event number `since`, or with the next one. `None` if there are too many already.
pub fn watch(since: Option<u64>) -> Option<(Watching, Watcher<'static>)> {
    EVENTS.watch(since)
}

struct Events {
    kept: Mutex<Kept>,
    more: Condvar,
    watchers: AtomicUsize,
    most: usize,
    /// Tells this drayd from those before and after it.
    instance: String,
}

struct Kept {
    /// Oldest first; the last has the number `next - 1`.
    events: VecDeque<Arc<Event>>,
    next: u64,
}

impl Events {
    fn new(most: usize) -> Events {
        let started = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Events {
            kept: Mutex::new(Kept { events: VecDeque::new(), next: 1 }),
            more: Condvar::new(),
            watchers: AtomicUsize::new(0),
            most,
            instance: format!("{}-{}", std::process::id(), started.as_millis()),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tell(&self, mut event: Event) {
        event.time = timestamp();
        let mut kept = self.lock();
        event.seq = kept.next;
        kept.next += 1;
        if kept.events.len() == self.most {
            kept.events.pop_front();
        }
        kept.events.push_back(Arc::new(event));
        drop(kept);
        self.more.notify_all();
    }

    fn watch(&self, since: Option<u64>) -> Option<(Watching, Watcher<'_>)> {
        if self.watchers.fetch_add(1, Ordering::Relaxed) >= MAX_WATCHERS {
            self.watchers.fetch_sub(1, Ordering::Relaxed);
            return None;
        }
        let kept = self.lock();
        let first = kept.next - kept.events.len() as u64;
        let wanted = since.unwrap_or(kept.next).min(kept.next);
        let watching =
            Watching { instance: self.instance.clone(), next: wanted.max(first), lost: first.saturating_sub(wanted) };
        Some((watching.clone(), Watcher { of: self, next: watching.next }))
    }
}

/// A place among the events.
pub struct Watcher<'a> {
    of: &'a Events,
    next: u64,
}

impl Drop for Watcher<'_> {
    fn drop(&mut self) {
        self.of.watchers.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Watcher<'_> {
    /// At most so many of the next events, as soon as there is one; none after this time. The first says how many were lost, if
    /// any were.
    pub fn take(&mut self, most: usize, time: Duration) -> Vec<Arc<Event>> {
        let kept = self.of.lock();
        let nothing = |kept: &mut Kept| kept.next == self.next;
        let waited = self.of.more.wait_timeout_while(kept, time, nothing);
        let (kept, _) = waited.unwrap_or_else(PoisonError::into_inner);
        let first = kept.next - kept.events.len() as u64;
        let mut events = Vec::new();
        if self.next < first {
            events.push(Arc::new(lost(first - self.next, first - 1)));
            self.next = first;
        }
        events.extend(kept.events.range((self.next - first) as usize..).take(most).cloned());
        self.next = events.last().map_or(self.next, |last| last.seq + 1);
        events
    }
}

/// That `count` events were lost, of which `seq` was the last.
fn lost(count: u64, seq: u64) -> Event {
    let text = format!("{count} events were lost: they are not read as fast as they come");
    Event { seq, time: timestamp(), kind: EventKind::Lost, text, count: Some(count), ..Event::default() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::thread;

    fn event(text: &str) -> Event {
        Event { kind: EventKind::Link, text: text.into(), ..Event::default() }
    }

    fn seqs(watcher: &mut Watcher<'_>, most: usize) -> Vec<(u64, Option<u64>)> {
        watcher.take(most, Duration::ZERO).iter().map(|event| (event.seq, event.count)).collect()
    }

    #[test]
    fn who_is_too_slow_loses_the_oldest_and_is_told() {
        let events = Events::new(4);
        let (watching, mut fast) = events.watch(None).unwrap();
        assert_eq!((watching.next, watching.lost), (1, 0));
        let (_, mut slow) = events.watch(None).unwrap();
        assert_eq!(seqs(&mut fast, 9), []);
        for n in 1..=3 {
            events.tell(event(&n.to_string()));
            assert_eq!(seqs(&mut fast, 9), [(n, None)]);
        }
        for _ in 4..=10 {
            events.tell(event("more"));
        }
        assert_eq!(seqs(&mut slow, 2), [(6, Some(6)), (7, None), (8, None)]);
        assert_eq!(seqs(&mut slow, 9), [(9, None), (10, None)]);
        assert_eq!(seqs(&mut fast, 9), [(6, Some(3)), (7, None), (8, None), (9, None), (10, None)]);
        assert_eq!(seqs(&mut fast, 9), []);

        // Who was away for a moment goes on where it was.
        let (watching, mut again) = events.watch(Some(9)).unwrap();
        assert_eq!((watching.next, watching.lost, seqs(&mut again, 9)), (9, 0, vec![(9, None), (10, None)]));
        let (watching, mut late) = events.watch(Some(2)).unwrap();
        assert_eq!((watching.next, watching.lost, seqs(&mut late, 1)), (7, 5, vec![(7, None)]));
        assert_eq!(events.watch(Some(99)).unwrap().0.next, 11);
    }

    #[test]
    fn who_waits_is_woken() {
        let events = Events::new(4);
        let (_, mut watcher) = events.watch(None).unwrap();
        thread::scope(|scope| {
            scope.spawn(|| events.tell(event("a")));
            assert_eq!(watcher.take(9, Duration::from_secs(60)).len(), 1);
        });
    }

    #[test]
    fn watchers_are_few() {
        let events = Events::new(4);
        let all: Vec<_> = (0..MAX_WATCHERS).map(|_| events.watch(None).unwrap()).collect();
        assert!(events.watch(None).is_none());
        drop(all);
        assert!(events.watch(None).is_some());
    }
}
