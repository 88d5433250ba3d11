//! The table's protocols, in every order of the threads and of what they see of each other's writes that the memory model allows
//! (loom): `make models`.

use super::*;
use loom::model::Builder;
use loom::sync::Arc;
use loom::thread::spawn;

const PLACES: [Egress; 2] = [Egress::port(1, 0), Egress::port(2, 0)];

/// `body` in all orders in which threads are interrupted at most so often.
fn explore(interruptions: usize, body: impl Fn() + Sync + Send + 'static) {
    let mut builder = Builder::new();
    builder.preemption_bound = Some(interruptions);
    builder.check(body);
}

/// A table, and two keys that are looked for in the same slot first.
fn table() -> (Arc<Fdb>, [u64; 2]) {
    let fdb = Fdb::new(4, [1, 2]);
    let first = key(1, [2, 0, 0, 0, 0, 0]);
    let view = fdb.view();
    let is_like = |&other: &u64| view.home(other) == view.home(first);
    let second = (1..).map(|n| first + n * SLOTS as u64).find(is_like).expect("half of all keys");
    (Arc::new(fdb), [first, second])
}

fn find(fdb: &Fdb, key: u64) -> Option<Egress> {
    fdb.view().lookup(key, fdb.view().home(key))
}

fn learn(fdb: &Fdb, key: u64, place: Egress) -> Learned {
    fdb.view().learn(key, fdb.view().home(key), place, 1)
}

/// Each place's count is that of its entries, and all together are what is used.
fn assert_counted(fdb: &Fdb) {
    let entries = fdb.entries(1);
    for place in PLACES {
        assert_eq!(entries.iter().filter(|entry| entry.egress == place).count(), fdb.learned(place), "{place:?}");
    }
    assert_eq!(entries.len(), fdb.used());
}

#[test]
fn one_keys_value_is_never_anothers() {
    explore(3, || {
        let (fdb, [old, new]) = table();
        assert_eq!(learn(&fdb, old, PLACES[0]), Learned::Updated);
        let other = fdb.clone();
        let writer = spawn(move || {
            assert!(other.remove(old));
            assert_eq!(learn(&other, new, PLACES[1]), Learned::Updated);
        });
        assert!(find(&fdb, old).is_none_or(|place| place == PLACES[0]));
        assert!(find(&fdb, new).is_none_or(|place| place == PLACES[1]));
        writer.join().unwrap();
        assert_eq!((find(&fdb, old), find(&fdb, new)), (None, Some(PLACES[1])));
        assert_counted(&fdb);
    });
}

#[test]
fn counts_stay_exact() {
    explore(1, || {
        let (fdb, [key, _]) = table();
        assert_eq!(learn(&fdb, key, PLACES[0]), Learned::Updated);
        let (mover, forgetter) = (fdb.clone(), fdb.clone());
        let mover = spawn(move || {
            learn(&mover, key, PLACES[1]);
        });
        let forgetter = spawn(move || {
            forgetter.remove(key);
        });
        learn(&fdb, key, PLACES[0]);
        mover.join().unwrap();
        forgetter.join().unwrap();
        assert_counted(&fdb);
    });
}

#[test]
fn a_limit_is_kept() {
    explore(3, || {
        let (fdb, keys) = table();
        fdb.set_limit(PLACES[0], 1);
        let other = fdb.clone();
        let worker = spawn(move || learn(&other, keys[0], PLACES[0]));
        let learned = [learn(&fdb, keys[1], PLACES[0]), worker.join().unwrap()];
        assert!(learned.contains(&Learned::Updated), "{learned:?}");
        assert!(fdb.entries(1).len() <= 1);
        assert_counted(&fdb);
    });
}

/// What a worker remembers of an address is true until the epoch of its place changes.
#[test]
fn who_sees_the_new_epoch_finds_the_new_place() {
    explore(3, || {
        let (fdb, [key, _]) = table();
        assert_eq!(learn(&fdb, key, PLACES[0]), Learned::Updated);
        let before = fdb.view().epoch(PLACES[0]);
        let other = fdb.clone();
        let mover = spawn(move || learn(&other, key, PLACES[1]));
        if fdb.view().epoch(PLACES[0]) != before {
            assert_eq!(find(&fdb, key), Some(PLACES[1]));
        }
        assert_eq!(mover.join().unwrap(), Learned::Moved);
        assert_counted(&fdb);
    });
}
