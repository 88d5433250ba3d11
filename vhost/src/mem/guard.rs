//! The process's SIGBUS handler and the table of regions it protects.

mod handler;
mod table;
mod uffd;

use super::{Budget, FILLED_MAX, Lost};
use std::os::fd::{AsRawFd, OwnedFd};
use std::ptr::null_mut;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use table::{Found, Table};

/// Regions at most.
const SLOTS: usize = 8192;
/// x86-64's; the files of huge pages have whole ones, which are multiples of it.
const PAGE: usize = 4096;

/// How many regions were lost since the process began.
static FAULTS: AtomicUsize = AtomicUsize::new(0);

/// What the handler needs.
struct Guard {
    table: Table,
    /// A page for each slot, made when it is taken: what is put in the place of pages that are gone. Mapping it needs no memory, which
    /// there may be none of (`vm.overcommit_memory = 2`), and what one link's peer was sent is not read by another's. Behind its
    /// end, every touch raises SIGBUS.
    pages: OwnedFd,
    /// userfaultfd(2), if this process may have one.
    holes: Option<OwnedFd>,
}

static GUARD: OnceLock<Result<Guard, String>> = OnceLock::new();

/// How many regions were lost since the process began: a queue that sees this change asks its own regions.
#[inline(always)]
pub fn faults() -> usize {
    FAULTS.load(Ordering::Acquire)
}

/// Whether touching a hole of a peer's memory is noticed. Without, the kernel makes pages of any number of them on our account.
pub fn sees_holes() -> bool {
    guard().as_ref().is_ok_and(|guard| guard.holes.is_some())
}

pub(super) fn lost(slot: usize) -> Option<Lost> {
    let lost = guard().as_ref().map_or(0, |guard| guard.table.lost(slot));
    Lost::ALL.into_iter().find(|&l| l as u8 == lost)
}

/// Has the handler answer for a mapping of a file with pages of so many bytes. `budget` has to live until it is unregistered.
pub(super) fn register(start: usize, len: usize, page: usize, budget: Option<&Arc<Budget>>) -> Result<usize, String> {
    let Guard { table, pages, holes } = guard().as_ref().map_err(Clone::clone)?;
    let slot = table.take().ok_or("too many regions are mapped")?;
    let free = |e: std::io::Error| {
        table.give_back(slot);
        format!("a region's memory: {e}")
    };
    // Zeros also for who reads what the one before him was sent.
    rustix::io::pwrite(pages, &[0; PAGE], (slot * PAGE) as u64).map_err(|e| free(e.into()))?;
    let holes = budget.zip(holes.as_ref());
    if let Some((_, holes)) = holes {
        uffd::register(holes, start, len.next_multiple_of(page)).map_err(free)?;
    }
    let budget = holes.map_or(null_mut(), |(budget, _)| Arc::as_ptr(budget).cast_mut());
    table.set(slot, start, start + len.next_multiple_of(PAGE), page, budget);
    Ok(slot)
}

pub(super) fn unregister(slot: usize) {
    if let Ok(guard) = guard() {
        guard.table.give_back(slot);
    }
}

/// A mapping that is no peer's, as of a device's registers, and known to the handler: should it be taken away, it becomes zeros.
pub struct Mapping(usize);

impl Mapping {
    /// Has the handler answer for what is mapped there, until this is dropped.
    ///
    /// # Errors
    /// There are too many of them, or no memory.
    pub fn new(range: std::ops::Range<usize>) -> Result<Mapping, String> {
        register(range.start, range.len(), PAGE, None).map(Mapping)
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        unregister(self.0);
    }
}

fn guard() -> &'static Result<Guard, String> {
    GUARD.get_or_init(|| {
        use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
        let pages = memfd_create("faults", MemfdFlags::CLOEXEC)
            .and_then(|fd| ftruncate(&fd, (SLOTS * PAGE) as u64).map(|()| fd))
            .map_err(|e| format!("memory for faults: {e}"))?;
        handler::install();
        Ok(Guard { table: Table::new(SLOTS), pages, holes: uffd::open() })
    })
}

/// Has the thread that faulted at `addr`, by writing or by reading, go on. Whether there is a region.
fn mend(addr: usize, write: bool, broken: bool) -> bool {
    let Some(Ok(guard)) = GUARD.get() else { return false };
    let Some(found) = guard.table.find(addr) else { return false };
    let lost = if broken { Err(Lost::Broken) } else { fill(guard, &found, addr, write) };
    match lost {
        Ok(()) => true,
        Err(lost) => replace(guard, &found, addr & !(PAGE - 1), lost),
    }
}

/// Has the kernel make the page that `addr` is in if it is a hole.
fn fill(guard: &Guard, &Found { slot, page, .. }: &Found, addr: usize, write: bool) -> Result<(), Lost> {
    // SAFETY: the region, which the faulting thread holds, holds the budget.
    let budget = unsafe { guard.table.budget(slot).as_ref() };
    let (Some(budget), Some(holes)) = (budget, &guard.holes) else { return Err(Lost::Shrunk) };
    if guard.table.lost(slot) != 0 {
        return Err(Lost::Shrunk);
    }
    if page as u64 > FILLED_MAX {
        return Err(Lost::HugeHole);
    }
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the time is written to a valid place; the call is async-signal-safe.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &mut now) };
    if !budget.take(page, page > PAGE, write, now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64) {
        return Err(Lost::Holes);
    }
    loop {
        match uffd::fill(holes, addr & !(page - 1), page, page > PAGE) {
            // Another thread was faster.
            Ok(()) | Err(libc::EEXIST) => return Ok(()),
            Err(libc::EAGAIN) => {}
            Err(libc::ENOMEM | libc::ENOSPC) => return Err(Lost::NoMemory),
            // No hole, but behind the file's end.
            Err(_) => return Err(Lost::Shrunk),
        }
    }
}

/// Puts our own page in the place of the one at `at`. Whether that was possible.
fn replace(guard: &Guard, &Found { slot, start, end, page }: &Found, at: usize, lost: Lost) -> bool {
    // First: another thread may read it as soon as it is there, and is not to take it for the peer's.
    if guard.table.lose(slot, lost as u8) {
        FAULTS.fetch_add(1, Ordering::Release);
    }
    let map = |at: usize, len: usize, offset: usize| {
        // SAFETY: the range is within one of our mappings, which stays ours: the faulting thread holds its region. A page at the
        // same address keeps every pointer into it valid. mmap is a plain system call, safe in a handler.
        let new = unsafe {
            libc::mmap(
                at as *mut libc::c_void,
                len,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED | libc::MAP_FIXED,
                guard.pages.as_raw_fd(),
                offset as i64,
            )
        };
        new != libc::MAP_FAILED
    };
    let own = || map(at, PAGE, slot * PAGE);
    // Nothing: every touch of it comes here again.
    let nothing = |start, end| map(start, end - start, SLOTS * PAGE);
    let around = at & !(page - 1);
    // A huge page can only be replaced whole; and a region in too many pieces is one again.
    own() || nothing(around, around + page) && own() || nothing(start, end) && own()
}
