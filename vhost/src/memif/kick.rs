//! Interrupts to peers that sleep.
//!
//! A peer is woken by a write to the eventfd that came with the ring. The peer shares that eventfd's flags: it can make
//! it blocking and fill its counter, and then whoever writes to it hangs until the peer reads. So neither
//! workers nor the supervisor write there. A worker marks the [`Interrupt`] and wakes the supervisor, which
//! passes it on to the link's own thread. That thread is started by the link's first interrupt (peers that poll never have
//! one) and ends with the link, whatever it hangs in.

use super::ring::{Ring, Shared};
use crate::mem::signal;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU16, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

/// The peer's interrupt on one ring.
pub(crate) struct Interrupt {
    ring: Ring,
    /// Whether we are the link's client, who moves a transmit ring's head; a server moves its tail.
    client: bool,
    /// Holds the ring's memory.
    shared: Arc<Shared>,
    event: OwnedFd,
    /// It is to be written.
    pending: AtomicBool,
    /// Our index when it was last written.
    index: AtomicU16,
}

impl Interrupt {
    pub fn new(ring: Ring, client: bool, shared: Arc<Shared>, event: OwnedFd) -> Interrupt {
        Interrupt { ring, client, shared, event, pending: AtomicBool::new(false), index: AtomicU16::new(0) }
    }

    /// Has the peer woken by the link's [`Kicker`]. Never blocks.
    #[cold]
    pub fn raise(&self) {
        // Always a swap: it orders the index just written before the kicker's clearing of the flag or, if that came first,
        // sees that it did.
        if !self.pending.swap(true, Ordering::AcqRel) {
            self.shared.wake();
        }
    }

    /// Wakes the peer. Blocks if the peer wants it to: not for workers.
    #[cold]
    pub fn write(&self) -> rustix::io::Result<()> {
        match rustix::io::write(&self.event, &1u64.to_ne_bytes()) {
            // A full counter already says all there is to say.
            Ok(_) | Err(rustix::io::Errno::AGAIN) => Ok(()),
            Err(e) => Err(e),
        }
    }

    /// Whether the peer sleeps, and frames were sent since it was last woken: it fell asleep while the last were sent, and both
    /// sides missed it. (65,536 frames, or a multiple, look like none.)
    fn missed(&self) -> bool {
        !self.ring.masked() && self.ring.produced(self.client) != self.index.load(Ordering::Relaxed)
    }
}

/// Writes the interrupts of one link, on a thread of its own.
pub(crate) struct Kicker {
    interrupts: Arc<[Arc<Interrupt>]>,
    end: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Kicker {
    /// For the transmit rings of a link.
    pub fn new(interrupts: Vec<Arc<Interrupt>>) -> Kicker {
        Kicker { interrupts: interrupts.into(), end: Arc::default(), thread: None }
    }

    /// Has what is pending written. Without memory for a thread it stays pending.
    pub fn kick(&mut self) {
        if !self.interrupts.iter().any(|i| i.pending.load(Ordering::Acquire)) {
            return;
        }
        if let Some(thread) = &self.thread {
            return thread.thread().unpark();
        }
        let (interrupts, end) = (self.interrupts.clone(), self.end.clone());
        let builder = std::thread::Builder::new().name("memif-kick".into()).stack_size(64 << 10);
        self.thread = builder.spawn(move || run(&interrupts, &end)).ok();
    }

    /// [`Kicker::kick`] for peers that fell asleep unnoticed, too. A worker that writes its index and reads the ring's flags without
    /// a fence between can miss it; this, done regularly, bounds how long such a peer sleeps.
    pub fn kick_missed(&mut self) {
        for i in self.interrupts.iter().filter(|i| i.missed()) {
            i.pending.store(true, Ordering::Release);
        }
        self.kick();
    }

    /// Ends the thread, also out of a write that hangs. Whether it has ended; if not, this is to be called again.
    pub fn end(&mut self) -> bool {
        self.end.store(true, Ordering::Release);
        let Some(thread) = self.thread.take_if(|t| t.is_finished()) else {
            if let Some(thread) = &self.thread {
                thread.thread().unpark();
                // It may come just before the write, and interrupt nothing: hence again and again.
                signal::interrupt(thread);
            }
            return self.thread.is_none();
        };
        let _ = thread.join();
        true
    }
}

impl Drop for Kicker {
    fn drop(&mut self) {
        while !self.end() {
            std::thread::sleep(Duration::from_micros(100));
        }
    }
}

fn run(interrupts: &[Arc<Interrupt>], end: &AtomicBool) {
    signal::unblock();
    while !end.load(Ordering::Acquire) {
        for i in interrupts.iter().filter(|i| i.pending.swap(false, Ordering::AcqRel)) {
            i.index.store(i.ring.produced(i.client), Ordering::Relaxed);
            while i.write() == Err(rustix::io::Errno::INTR) && !end.load(Ordering::Acquire) {}
            if end.load(Ordering::Acquire) {
                return;
            }
        }
        // Returns at once if there was an `unpark` since the last time.
        std::thread::park();
    }
}
