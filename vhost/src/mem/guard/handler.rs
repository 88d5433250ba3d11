//! The process's SIGBUS handler, which stays ours whoever else sets one.

use super::mend;
use std::ptr::null_mut;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

/// Sets it.
pub(super) fn install() {
    let guard = OTHER.lock().unwrap_or_else(PoisonError::into_inner);
    // SAFETY: `on_sigbus` has the signature that SA_SIGINFO promises and calls only what is async-signal-safe; an
    // all-zero sigaction is a valid one (empty mask).
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = on_sigbus as extern "C" fn(_, _, _) as usize;
        action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
        __sigaction(libc::SIGBUS, &action, null_mut());
    }
    INSTALLED.store(true, Ordering::Release);
    drop(guard);
}

// glibc's second name of `sigaction`.
unsafe extern "C" {
    fn __sigaction(signal: i32, action: *const libc::sigaction, old: *mut libc::sigaction) -> i32;
}

/// Whether the process has our handler.
static INSTALLED: AtomicBool = AtomicBool::new(false);
/// What others wanted done with SIGBUS since then: an address and flags, as in a `sigaction`.
static OTHER: Mutex<(usize, i32)> = Mutex::new((libc::SIG_DFL, 0));
/// The same for the handler, if it is a function without arguments of its own; and the thread that set it. Written with `OTHER` locked.
static OTHER_HANDLER: AtomicUsize = AtomicUsize::new(0);
static OTHER_THREAD: AtomicI32 = AtomicI32::new(0);

/// Stands in the place of libc's for the whole process. DPDK sets a SIGBUS handler of its own whenever it takes huge pages, which
/// jumps to the stack of the thread that does that, whoever was interrupted. With this, ours stays, and passes on to
/// another only what happened to the thread that set it, and not in a region.
///
/// # Safety
/// As for sigaction(2).
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sigaction(signal: i32, action: *const libc::sigaction, old: *mut libc::sigaction) -> i32 {
    if signal != libc::SIGBUS || !INSTALLED.load(Ordering::Acquire) {
        // SAFETY: the caller vouches for it.
        return unsafe { __sigaction(signal, action, old) };
    }
    let mut other = OTHER.lock().unwrap_or_else(PoisonError::into_inner);
    // SAFETY: the caller vouches for what it points to, if that is not null; all zeros is a valid one.
    unsafe {
        if !old.is_null() {
            *old = std::mem::zeroed();
            ((*old).sa_sigaction, (*old).sa_flags) = *other;
        }
        if let Some(action) = action.as_ref() {
            *other = (action.sa_sigaction, action.sa_flags);
            let function = action.sa_flags & libc::SA_SIGINFO == 0
                && ![libc::SIG_DFL, libc::SIG_IGN].contains(&action.sa_sigaction);
            OTHER_THREAD.store(libc::gettid(), Ordering::Relaxed);
            OTHER_HANDLER.store(if function { action.sa_sigaction } else { 0 }, Ordering::Release);
        }
    }
    0
}

/// Calls the handler that somebody else set, if it was this thread.
fn pass_on(signal: i32) -> bool {
    let handler = OTHER_HANDLER.load(Ordering::Acquire);
    // SAFETY: the call takes nothing.
    if handler == 0 || OTHER_THREAD.load(Ordering::Relaxed) != unsafe { libc::gettid() } {
        return false;
    }
    // SAFETY: whoever set it, without SA_SIGINFO, vouched for a function of this signature; it may jump to where it likes.
    unsafe { std::mem::transmute::<usize, extern "C-unwind" fn(i32)>(handler)(signal) };
    true
}

extern "C" fn on_sigbus(signal: i32, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    /// In a page fault's error code: it was a write.
    const WRITE: i64 = 1 << 1;
    // SAFETY: the kernel hands a valid siginfo and context to a SA_SIGINFO handler; errno is this thread's; the calls are
    // async-signal-safe.
    unsafe {
        let errno = *libc::__errno_location();
        let code = (*info).si_code;
        let from_kernel = code > 0;
        let error = (*context.cast::<libc::ucontext_t>()).uc_mcontext.gregs[libc::REG_ERR as usize];
        let mended = from_kernel
            && (mend((*info).si_addr() as usize, error & WRITE != 0, code == libc::BUS_MCEERR_AR) || pass_on(signal));
        if !mended {
            // Not ours: the access is tried again with the default action, or the signal somebody sent is raised again.
            let mut action: libc::sigaction = std::mem::zeroed();
            action.sa_sigaction = libc::SIG_DFL;
            __sigaction(signal, &action, null_mut());
            if !from_kernel {
                libc::raise(signal);
            }
        }
        *libc::__errno_location() = errno;
    }
}
