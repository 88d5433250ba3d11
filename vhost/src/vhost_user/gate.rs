//! A gate before what a worker uses and its port's thread changes.
//!
//! The worker is inside for the length of a burst, at the cost of one atomic exchange. The thread closes the gate, waits until nobody is
//! inside, and changes what is behind it; a worker that comes meanwhile finds it closed and goes on with other work.
#![allow(unsafe_code)]

use std::cell::UnsafeCell;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

#[repr(align(64))]
pub(super) struct Gate<T> {
    inside: AtomicBool,
    closed: AtomicBool,
    value: UnsafeCell<T>,
}

// SAFETY: the value is only used by whoever set `inside`, or by the thread that closed the gate and saw nobody inside.
unsafe impl<T: Send> Sync for Gate<T> {}

/// Why a gate can't be entered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shut {
    /// Another worker is inside, and leaves soon.
    Busy,
    /// What is behind it is being changed.
    Closed,
}

impl<T> Gate<T> {
    pub fn new(value: T) -> Gate<T> {
        Gate { inside: AtomicBool::new(false), closed: AtomicBool::new(false), value: UnsafeCell::new(value) }
    }

    /// Goes inside, to [`Gate::leave`] it later.
    #[inline(always)]
    pub fn enter(&self) -> Result<(), Shut> {
        if self.inside.swap(true, Ordering::SeqCst) {
            return Err(Shut::Busy);
        }
        // After the exchange, which is a full fence: either this sees the gate closed, or who closed it sees us inside.
        if self.closed.load(Ordering::SeqCst) {
            self.leave();
            return Err(Shut::Closed);
        }
        Ok(())
    }

    /// What is behind the gate.
    ///
    /// # Safety
    /// The caller has entered and not left, and has no other reference to it.
    #[inline(always)]
    #[allow(clippy::mut_from_ref)]
    pub unsafe fn value(&self) -> &mut T {
        // SAFETY: whoever is inside is alone (`enter`), and the caller is.
        unsafe { &mut *self.value.get() }
    }

    /// Leaves. Only for who has entered.
    #[inline(always)]
    pub fn leave(&self) {
        self.inside.store(false, Ordering::Release);
    }

    /// Closes the gate, waits until nobody is inside, changes what is behind it and opens it again. Only for one thread at a time.
    pub fn change<R>(&self, change: impl FnOnce(&mut T) -> R) -> R {
        struct Open<'a>(&'a AtomicBool);
        impl Drop for Open<'_> {
            fn drop(&mut self) {
                self.0.store(false, Ordering::Release);
            }
        }
        self.closed.store(true, Ordering::SeqCst);
        let _open = Open(&self.closed);
        let mut rounds = 0;
        // Who finds it closed is inside for an instant only, and touches nothing.
        while self.inside.load(Ordering::SeqCst) {
            rounds += 1;
            if rounds < 100 { std::hint::spin_loop() } else { std::thread::sleep(Duration::from_micros(20)) }
        }
        // SAFETY: the gate is closed and nobody was inside after that; whoever enters now leaves before looking.
        change(unsafe { &mut *self.value.get() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicUsize;

    #[test]
    fn a_change_waits_for_who_is_inside_and_keeps_others_out() {
        let gate = Gate::new([0u64; 2]);
        let (entered, stop) = (AtomicUsize::new(0), AtomicBool::new(false));
        std::thread::scope(|s| {
            for _ in 0..2 {
                s.spawn(|| {
                    while !stop.load(Ordering::Relaxed) {
                        if gate.enter().is_ok() {
                            // SAFETY: entered, and this is the only reference until it is left.
                            let value = unsafe { gate.value() };
                            assert_eq!(value[0], value[1]);
                            value[0] += 1;
                            std::hint::black_box(&mut *value);
                            value[1] += 1;
                            gate.leave();
                            entered.fetch_add(1, Ordering::Relaxed);
                        }
                    }
                });
            }
            let mut changes = 0;
            while changes < 1000 || entered.load(Ordering::Relaxed) < 1000 {
                gate.change(|value| {
                    assert_eq!(value[0], value[1]);
                    value[0] = changes;
                    std::hint::black_box(&mut *value);
                    value[1] = changes;
                });
                changes += 1;
            }
            stop.store(true, Ordering::Relaxed);
        });
    }

    #[test]
    fn who_comes_second_is_told_why() {
        let gate = Gate::new(());
        gate.enter().unwrap();
        assert_eq!(gate.enter(), Err(Shut::Busy));
        gate.leave();
        gate.change(|()| assert_eq!(gate.enter(), Err(Shut::Closed)));
        gate.enter().unwrap();
    }
}
