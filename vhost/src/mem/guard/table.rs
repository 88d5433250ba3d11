//! The regions that the handler knows. It finds them without a lock, for it may have interrupted any thread, one that changes the
//! table among them.

use crate::mem::Budget;
#[cfg(feature = "loom")]
use loom::sync::atomic::{AtomicBool, AtomicPtr, AtomicU8, AtomicU32, AtomicUsize, Ordering, fence};
use std::ptr::null_mut;
#[cfg(not(feature = "loom"))]
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU8, AtomicU32, AtomicUsize, Ordering, fence};

pub(super) struct Table {
    slots: Box<[Slot]>,
    /// How many slots from the first were ever used.
    used: AtomicUsize,
}

/// A region known to the handler. `seq` is odd while `start` and `end` are being written, so that the handler, which
/// may run on another thread meanwhile, never mixes the bounds of two regions.
struct Slot {
    taken: AtomicBool,
    seq: AtomicU32,
    start: AtomicUsize,
    end: AtomicUsize,
    page: AtomicUsize,
    budget: AtomicPtr<Budget>,
    lost: AtomicU8,
}

/// A region that was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Found {
    pub slot: usize,
    pub start: usize,
    pub end: usize,
    /// Bytes of its file's pages.
    pub page: usize,
}

impl Table {
    /// An empty one, for at most so many regions.
    pub fn new(slots: usize) -> Table {
        let slot = |_| Slot {
            taken: AtomicBool::new(false),
            seq: AtomicU32::new(0),
            start: AtomicUsize::new(0),
            end: AtomicUsize::new(0),
            page: AtomicUsize::new(0),
            budget: AtomicPtr::new(null_mut()),
            lost: AtomicU8::new(0),
        };
        Table { slots: (0..slots).map(slot).collect(), used: AtomicUsize::new(0) }
    }

    /// A slot that is nobody else's until it is given back, if there is one.
    pub fn take(&self) -> Option<usize> {
        self.slots.iter().position(|slot| {
            !slot.taken.load(Ordering::Relaxed)
                && slot.taken.compare_exchange(false, true, Ordering::Acquire, Ordering::Relaxed).is_ok()
        })
    }

    /// Has a region found in a slot that was taken. Its holes are filled from `budget`, and are not seen if it is null.
    pub fn set(&self, i: usize, start: usize, end: usize, page: usize, budget: *mut Budget) {
        let slot = &self.slots[i];
        slot.budget.store(budget, Ordering::Relaxed);
        slot.page.store(page, Ordering::Relaxed);
        slot.lost.store(0, Ordering::Relaxed);
        slot.write(start, end);
        self.used.fetch_max(i + 1, Ordering::Release);
    }

    /// Has a slot's region, if it has one, found no more, and others take the slot.
    pub fn give_back(&self, i: usize) {
        self.slots[i].write(0, 0);
        self.slots[i].taken.store(false, Ordering::Release);
    }

    /// The region that `addr` is in.
    pub fn find(&self, addr: usize) -> Option<Found> {
        let used = self.used.load(Ordering::Acquire);
        self.slots[..used].iter().enumerate().find_map(|(i, slot)| {
            let (start, end) = slot.read();
            let found = || Found { slot: i, start, end, page: slot.page.load(Ordering::Relaxed) };
            (start..end).contains(&addr).then(found)
        })
    }

    /// What filling the holes of a slot's region takes from; null if they are not seen.
    pub fn budget(&self, i: usize) -> *mut Budget {
        self.slots[i].budget.load(Ordering::Relaxed)
    }

    /// What was told to [`Table::lose`] of the region in a slot; 0 if nothing was.
    pub fn lost(&self, i: usize) -> u8 {
        self.slots[i].lost.load(Ordering::Acquire)
    }

    /// Notes why the region in a slot is lost. Whether nobody has noted anything yet.
    pub fn lose(&self, i: usize, lost: u8) -> bool {
        self.slots[i].lost.compare_exchange(0, lost, Ordering::AcqRel, Ordering::Relaxed).is_ok()
    }
}

impl Slot {
    fn write(&self, start: usize, end: usize) {
        let seq = self.seq.load(Ordering::Relaxed);
        self.seq.store(seq.wrapping_add(1), Ordering::Relaxed);
        fence(Ordering::Release);
        self.start.store(start, Ordering::Relaxed);
        self.end.store(end, Ordering::Relaxed);
        self.seq.store(seq.wrapping_add(2), Ordering::Release);
    }

    /// The bounds of its region; nothing, if that is not the one of a thread that has faulted.
    fn read(&self) -> (usize, usize) {
        loop {
            let seq = self.seq.load(Ordering::Acquire);
            let bounds = (self.start.load(Ordering::Relaxed), self.end.load(Ordering::Relaxed));
            fence(Ordering::Acquire);
            // A slot that is being written is not the one that is being used by the thread that faulted.
            if seq & 1 != 0 {
                return (0, 0);
            }
            if self.seq.load(Ordering::Relaxed) == seq {
                return bounds;
            }
        }
    }
}

/// In every order of the threads and of what they see of each other's writes that the memory model allows: `make models`.
#[cfg(all(test, feature = "loom"))]
mod models {
    use super::*;
    use loom::model::Builder;
    use loom::sync::Arc;
    use loom::thread::spawn;

    /// `body` in all orders in which threads are interrupted at most three times.
    fn explore(body: impl Fn() + Sync + Send + 'static) {
        let mut builder = Builder::new();
        builder.preemption_bound = Some(3);
        builder.check(body);
    }

    const MINE: [usize; 3] = [0x1000, 0x2000, 0x100];
    const OLD: [usize; 3] = [0x3000, 0x5000, 0x200];
    const NEW: [usize; 3] = [0x6000, 0x9000, 0x300];

    fn register(table: &Table, [start, end, page]: [usize; 3]) -> usize {
        let slot = table.take().expect("there is one");
        table.set(slot, start, end, page, null_mut());
        slot
    }

    fn find(table: &Table, addr: usize) -> Option<[usize; 3]> {
        table.find(addr).map(|found| [found.start, found.end, found.page])
    }

    /// A thread finds the region that it holds; of those that come and go meanwhile, it finds none that never was.
    #[test]
    fn bounds_are_of_one_region() {
        explore(|| {
            let table = Arc::new(Table::new(2));
            register(&table, MINE);
            let old = register(&table, OLD);
            let other = table.clone();
            let changes = spawn(move || {
                other.give_back(old);
                register(&other, NEW);
            });
            assert_eq!(find(&table, 0x1800), Some(MINE));
            // Between the old one and the new one.
            assert_eq!(find(&table, 0x5800), None);
            changes.join().unwrap();
            assert_eq!((find(&table, 0x4000), find(&table, 0x8000)), (None, Some(NEW)));
        });
    }

    /// Two that come at a time get a slot each, and are both found.
    #[test]
    fn a_slot_is_one_regions() {
        explore(|| {
            let table = Arc::new(Table::new(2));
            let other = table.clone();
            let second = spawn(move || {
                let slot = register(&other, NEW);
                assert_eq!(find(&other, 0x8000), Some(NEW));
                slot
            });
            let first = register(&table, OLD);
            assert_eq!(find(&table, 0x4000), Some(OLD));
            assert_ne!(second.join().unwrap(), first);
            assert_eq!((find(&table, 0x4000), find(&table, 0x8000)), (Some(OLD), Some(NEW)));
        });
    }

    /// Whoever is first to find a region lost says why, and whoever sees that it is sees that.
    #[test]
    fn a_region_is_lost_once() {
        explore(|| {
            let table = Arc::new(Table::new(1));
            let slot = register(&table, MINE);
            let other = table.clone();
            let second = spawn(move || other.lose(slot, 2));
            let first = table.lose(slot, 1);
            assert_ne!(first, second.join().unwrap());
            assert_eq!(table.lost(slot), if first { 1 } else { 2 });
        });
    }
}
