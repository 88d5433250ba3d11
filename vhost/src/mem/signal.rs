//! Interrupting a thread that hangs in a system call.

use std::os::unix::thread::JoinHandleExt;
use std::ptr::null_mut;
use std::sync::Once;
use std::thread::JoinHandle;

/// Nobody uses it, and it is ignored by default: one that is astray does no harm.
const SIGNAL: i32 = libc::SIGURG;

extern "C" fn nothing(_signal: i32) {}

/// Has [`interrupt`] interrupt this thread: threads inherit a mask, and the signal must not be in it.
pub fn unblock() {
    static INSTALL: Once = Once::new();
    // SAFETY: an all-zero sigaction is a valid one, and without SA_RESTART: a system call ends with EINTR. The handler
    // has the signature of a plain one and does nothing. The set is initialized before it is used.
    unsafe {
        INSTALL.call_once(|| {
            let mut action: libc::sigaction = std::mem::zeroed();
            action.sa_sigaction = nothing as extern "C" fn(_) as usize;
            libc::sigaction(SIGNAL, &action, null_mut());
        });
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&mut set);
        libc::sigaddset(&mut set, SIGNAL);
        libc::pthread_sigmask(libc::SIG_UNBLOCK, &set, null_mut());
    }
}

/// Interrupts the thread that made it from time to time.
pub struct Alarm(libc::timer_t);

impl Alarm {
    /// Ends the system call that this thread, which called [`unblock`], is in `seconds` from now, and again and again.
    ///
    /// # Errors
    /// If the kernel gives no timer.
    pub fn every(seconds: i64) -> std::io::Result<Alarm> {
        // SAFETY: an all-zero sigevent and itimerspec are valid ones; the kernel writes the timer's id before it is used, and
        // reads the rest only during the calls.
        unsafe {
            let mut event: libc::sigevent = std::mem::zeroed();
            event.sigev_notify = libc::SIGEV_THREAD_ID;
            event.sigev_signo = SIGNAL;
            event.sigev_notify_thread_id = libc::gettid();
            let mut timer = null_mut();
            if libc::timer_create(libc::CLOCK_MONOTONIC, &mut event, &mut timer) != 0 {
                return Err(std::io::Error::last_os_error());
            }
            let mut spec: libc::itimerspec = std::mem::zeroed();
            (spec.it_value.tv_sec, spec.it_interval.tv_sec) = (seconds, seconds);
            libc::timer_settime(timer, 0, &spec, null_mut());
            Ok(Alarm(timer))
        }
    }
}

impl Drop for Alarm {
    fn drop(&mut self) {
        // SAFETY: the timer was made by `every`, and nobody else deletes it.
        unsafe { libc::timer_delete(self.0) };
    }
}

/// Ends the system call that `thread`, which called [`unblock`], is in now, if it is in one that can be interrupted.
pub fn interrupt(thread: &JoinHandle<()>) {
    // SAFETY: the handle was not joined, so its pthread_t is valid, also if the thread has ended.
    unsafe { libc::pthread_kill(thread.as_pthread_t(), SIGNAL) };
}
