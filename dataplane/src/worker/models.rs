//! How tables are published, in every order of the control thread and the workers (loom): `make models`.

use super::*;
use crate::channel::unbounded;
use crate::handle::Handle;
use dray_switch::tables::PortTable;
use loom::thread::spawn;
use std::sync::{LazyLock, Weak};
use std::time::Instant;

/// What is not looked at here is made once.
static SHARED: LazyLock<(Arc<Fdb>, Arc<Counters>)> =
    LazyLock::new(|| (Arc::new(Fdb::new(1024, [1, 2])), Arc::new(Counters::new())));

/// A worker without queues, between two of whose bursts a step is.
struct Idle {
    worker: Worker,
    hands: Box<Hands>,
}

impl Idle {
    fn new() -> (Handle, Idle) {
        let ((commands, asked), (replies, answers)) = (unbounded(), unbounded());
        let (fdb, counters) = SHARED.clone();
        let handle = Handle::new(0, counters.clone(), (commands, answers), std::thread::spawn(|| {}));
        let (punts, _) = crate::punts::channel();
        let (tables, clock, idle_sleep) = (Arc::default(), Arc::default(), Duration::ZERO);
        let worker = Worker { commands: asked, replies, punts, tables, fdb, counters, clock, idle_sleep };
        // On a stack of the usual size, which loom's threads don't have.
        let hands = std::thread::spawn(|| Box::new(Hands::default()));
        (handle, Idle { worker, hands: hands.join().unwrap() })
    }

    fn step(&mut self) {
        if !self.worker.commands.is_empty() {
            self.worker.obey(&mut Rotation::default(), &mut self.hands);
        }
    }
}

/// What follows an apply may be done as soon as all handles are done: nobody looks anything up in older tables, which are gone.
fn settle(handles: &mut [Handle], published: &[Weak<Tables>]) -> bool {
    handles.iter_mut().for_each(|handle| handle.collect(Instant::now(), drop));
    let is_settled = handles.iter().all(Handle::is_done);
    if let (true, Some((newest, older))) = (is_settled, published.split_last()) {
        assert!(older.iter().all(|tables| tables.strong_count() == 0), "older ones are freed");
        assert_eq!(newest.strong_count(), 1 + handles.len(), "every worker has the newest");
    }
    is_settled
}

/// With so many workers, in all orders in which threads are interrupted at most so often.
fn publish(workers: usize, interruptions: usize) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(interruptions);
    builder.check(move || {
        let (mut handles, workers): (Vec<Handle>, Vec<Idle>) = (0..workers).map(|_| Idle::new()).unzip();
        let working = workers.into_iter().map(|mut idle| {
            spawn(move || {
                (0..2).for_each(|_| idle.step());
                idle
            })
        });
        let working: Vec<_> = working.collect();
        let mut published = Vec::new();
        let mut newest: Arc<Tables> = Arc::default();
        // Tables are told apart by how many ports they have.
        for n in 1..=3 {
            let ports = (0..n).map(|_| PortTable::Unused.into()).collect();
            newest = Arc::new(Tables { ports, ..Tables::default() });
            published.push(Arc::downgrade(&newest));
            handles.iter_mut().for_each(|handle| handle.say(Command::Publish(newest.clone())));
            settle(&mut handles, &published);
        }
        let mut workers: Vec<Idle> = working.into_iter().map(|thread| thread.join().unwrap()).collect();
        for _ in 0..3 {
            workers.iter_mut().for_each(Idle::step);
            settle(&mut handles, &published);
        }
        assert!(settle(&mut handles, &published));
        assert!(workers.iter().all(|idle| Arc::ptr_eq(&idle.worker.tables, &newest)));
    });
}

#[test]
fn tables_are_freed_when_every_worker_has_newer_ones() {
    publish(1, 4);
    publish(2, 2);
}
