//! A gate before what a worker uses and its port's thread changes.
//!
//! The worker is inside for the length of a burst. The thread closes the gate, waits until nobody is inside, and changes what is
//! behind it; a worker that comes meanwhile finds it closed. "Inside written, closed read" against "closed written, inside read"
//! needs a full fence on both sides. The worker's would cost it a wait for all stores of the burst before, so the thread, which comes
//! seldom, has the kernel make a fence on every CPU that runs this process (membarrier(2)).
#![allow(unsafe_code)]

#[cfg(feature = "loom")]
use loom::sync::atomic::{AtomicBool, Ordering, fence};
use std::cell::UnsafeCell;
#[cfg(not(feature = "loom"))]
use std::sync::atomic::{AtomicBool, Ordering, fence};
use system::{kernel_fence, kernel_fences, light_fence, pause};

/// The kernel's part.
#[cfg(not(feature = "loom"))]
mod system {
    use std::sync::OnceLock;
    use std::sync::atomic::{Ordering, compiler_fence};
    use std::time::Duration;

    /// Whether the kernel makes fences for us: since Linux 4.14, unless a sandbox forbids it.
    pub fn kernel_fences() -> bool {
        static REGISTERED: OnceLock<bool> = OnceLock::new();
        *REGISTERED.get_or_init(|| membarrier(libc::MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED))
    }

    /// Makes a fence on every CPU that runs this process.
    pub fn kernel_fence() {
        membarrier(libc::MEMBARRIER_CMD_PRIVATE_EXPEDITED);
    }

    fn membarrier(command: libc::c_int) -> bool {
        // SAFETY: the system call takes integers only.
        unsafe { libc::syscall(libc::SYS_membarrier, command, 0, 0) == 0 }
    }

    /// With [`kernel_fence`] on the other side as good as a fence.
    #[inline(always)]
    pub fn light_fence() {
        compiler_fence(Ordering::SeqCst)
    }

    /// Waits a moment, for the `round`th time.
    pub fn pause(round: u32) {
        if round < 100 { std::hint::spin_loop() } else { std::thread::sleep(Duration::from_micros(20)) }
    }
}

/// What the kernel does for us, in the words of the memory model: a fence on each side.
#[cfg(feature = "loom")]
mod system {
    use loom::sync::atomic::{Ordering, fence};

    pub fn kernel_fences() -> bool {
        true
    }

    pub fn kernel_fence() {
        fence(Ordering::SeqCst)
    }

    pub fn light_fence() {
        fence(Ordering::SeqCst)
    }

    pub fn pause(_round: u32) {
        loom::thread::yield_now()
    }
}

#[repr(align(64))]
pub(super) struct Gate<T> {
    inside: AtomicBool,
    closed: AtomicBool,
    /// [`kernel_fences`]
    light: bool,
    value: UnsafeCell<T>,
}

// SAFETY: the value is only used by whoever set `inside`, or by the thread that closed the gate and saw nobody inside.
unsafe impl<T: Send> Sync for Gate<T> {}

impl<T> Gate<T> {
    pub fn new(value: T) -> Gate<T> {
        let light = kernel_fences();
        Gate { inside: AtomicBool::new(false), closed: AtomicBool::new(false), light, value: UnsafeCell::new(value) }
    }

    /// Goes inside, to [`Gate::leave`] it later; unless it is closed. For the only worker that uses this gate.
    #[inline(always)]
    pub fn enter(&self) -> bool {
        self.inside.store(true, Ordering::Relaxed);
        if self.light {
            light_fence()
        } else {
            fence(Ordering::SeqCst)
        }
        self.is_open()
    }

    /// The same for workers that share a gate, of whom one waits for the other. None of them may [`Gate::enter`].
    #[inline(always)]
    pub fn enter_shared(&self) -> bool {
        while self.inside.swap(true, Ordering::SeqCst) {
            std::hint::spin_loop();
        }
        self.is_open()
    }

    #[inline(always)]
    fn is_open(&self) -> bool {
        let closed = self.closed.load(Ordering::SeqCst);
        if closed {
            self.leave();
        }
        !closed
    }

    /// What is behind the gate.
    ///
    /// # Safety
    /// The caller has entered and not left, and has no other reference to it.
    #[inline(always)]
    #[allow(clippy::mut_from_ref)]
    pub unsafe fn value(&self) -> &mut T {
        // SAFETY: whoever is inside is alone, and the caller is inside.
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
        if self.light {
            kernel_fence();
        }
        let mut rounds = 0;
        // Who finds it closed is inside for an instant only, and touches nothing.
        while self.inside.load(Ordering::SeqCst) {
            rounds += 1;
            pause(rounds);
        }
        // SAFETY: the gate is closed and nobody was inside after that; whoever enters now leaves before looking.
        change(unsafe { &mut *self.value.get() })
    }
}

/// In every order of the threads and of what they see of each other's writes that the memory model allows: `make models`.
#[cfg(all(test, feature = "loom"))]
mod models {
    use super::*;
    use loom::cell::UnsafeCell;
    use loom::sync::Arc;

    /// Loom fails whenever one reaches the value without having to come after the other.
    #[test]
    fn a_change_and_who_is_inside_keep_apart() {
        loom::model(|| {
            let gate = Arc::new(Gate::new(UnsafeCell::new(0)));
            let of_worker = gate.clone();
            let worker = loom::thread::spawn(move || {
                for _ in 0..2 {
                    if of_worker.enter() {
                        // SAFETY: entered, and this is the only reference until it is left.
                        unsafe { of_worker.value() }.with_mut(|value| unsafe { *value += 1 });
                        of_worker.leave();
                    }
                }
            });
            gate.change(|value| value.with_mut(|value| unsafe { *value += 1 }));
            worker.join().unwrap();
            gate.change(|value| value.with_mut(|value| assert!((1..=3).contains(unsafe { &*value }))));
        });
    }
}

#[cfg(all(test, not(feature = "loom")))]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicUsize;

    fn changes_keep_out(gate: &Gate<[u64; 2]>, workers: usize, enter: fn(&Gate<[u64; 2]>) -> bool) {
        let (entered, stop) = (AtomicUsize::new(0), AtomicBool::new(false));
        std::thread::scope(|s| {
            for _ in 0..workers {
                s.spawn(|| {
                    while !stop.load(Ordering::Relaxed) {
                        if enter(gate) {
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
    fn a_change_waits_for_who_is_inside_and_keeps_others_out() {
        changes_keep_out(&Gate::new([0; 2]), 1, Gate::enter);
        changes_keep_out(&Gate::new([0; 2]), 2, Gate::enter_shared);
        // As in a sandbox that forbids membarrier.
        changes_keep_out(&Gate { light: false, ..Gate::new([0; 2]) }, 1, Gate::enter);
    }

    #[test]
    fn a_closed_gate_is_not_entered() {
        let gate = Gate::new(());
        gate.change(|()| assert!(!gate.enter() && !gate.enter_shared()));
        assert!(gate.enter());
    }
}
