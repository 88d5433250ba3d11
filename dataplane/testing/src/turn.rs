//! Which tests run beside each other, of this program and all others: `cargo test` starts as many at a time as there are CPUs, and
//! so does whoever else works on this machine.

use rustix::fs::FlockOperation::{LockExclusive, LockShared};
use rustix::fs::{FlockOperation, flock};
use std::env::{temp_dir, var_os};
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::thread;
use std::time::Instant;

/// A test's turn, which ends when this is dropped.
pub struct Turn {
    begin: Instant,
    _locks: Vec<File>,
}

impl Turn {
    /// For what has namespaces, sockets and files of its own, and waits as long as it takes: beside others of its kind.
    pub fn shared() -> Turn {
        Turn::new(LockShared, Vec::new())
    }

    /// For virtual machines, each of which takes a CPU: beside others, but one such test at a time.
    pub fn guests() -> Turn {
        let guests = lock("guests", LockExclusive);
        Turn::new(LockShared, vec![guests])
    }

    /// For what measures, or needs every CPU: with the machine for itself.
    pub fn alone() -> Turn {
        Turn::new(LockExclusive, Vec::new())
    }

    fn new(how: FlockOperation, mut locks: Vec<File>) -> Turn {
        // Whoever wants to be alone waits in here for those that run, and others for him: he would wait for ever if they went past.
        let queue = lock("queue", LockExclusive);
        locks.push(lock("machine", how));
        drop(queue);
        Turn { begin: Instant::now(), _locks: locks }
    }
}

fn lock(name: &str, how: FlockOperation) -> File {
    let file = temp_dir().join(format!("dray-tests-{name}.lock"));
    // It may be another user's.
    let file = File::open(&file).or_else(|_| File::create(&file)).unwrap();
    flock(&file, how).unwrap();
    file
}

impl Drop for Turn {
    /// Adds a line, the seconds it took and the test's name, to the file that `TEST_TIMES` names, if it is in the environment.
    fn drop(&mut self) {
        let Some(times) = var_os("TEST_TIMES") else { return };
        let line =
            format!("{:6.1} {}\n", self.begin.elapsed().as_secs_f64(), thread::current().name().unwrap_or_default());
        let file = OpenOptions::new().create(true).append(true).open(times);
        let _ = file.and_then(|mut file| file.write_all(line.as_bytes()));
    }
}
