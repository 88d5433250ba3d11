//! The process's SIGBUS handler and the table of regions it protects.

mod handler;
mod uffd;

use super::{Budget, FILLED_MAX, Lost};
use std::os::fd::{AsRawFd, OwnedFd};
use std::ptr::null_mut;
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU8, AtomicU32, AtomicUsize, Ordering, fence};
use std::sync::{Arc, OnceLock};

const SLOTS: usize = 8192;
/// x86-64's; the files of huge pages have whole ones, which are multiples of it.
const PAGE: usize = 4096;

/// A region known to the handler. `seq` is odd while `start` and `end` are being written, so that the handler, which
/// may run on another thread meanwhile, never mixes the bounds of two regions.
struct Slot {
    used: AtomicBool,
    seq: AtomicU32,
    start: AtomicUsize,
    end: AtomicUsize,
    /// Bytes of its file's pages.
    page: AtomicUsize,
    /// What filling its holes takes from; null if they are not seen.
    budget: AtomicPtr<Budget>,
    /// A [`Lost`], or 0.
    lost: AtomicU8,
}

static TABLE: [Slot; SLOTS] = [const {
    Slot {
        used: AtomicBool::new(false),
        seq: AtomicU32::new(0),
        start: AtomicUsize::new(0),
        end: AtomicUsize::new(0),
        page: AtomicUsize::new(0),
        budget: AtomicPtr::new(null_mut()),
        lost: AtomicU8::new(0),
    }
}; SLOTS];

/// How many slots from the first were ever used.
static USED: AtomicUsize = AtomicUsize::new(0);
/// How many regions were lost since the process began.
static FAULTS: AtomicUsize = AtomicUsize::new(0);

/// What the handler needs.
struct Files {
    /// A page for each slot, made when it is taken: what is put in the place of pages that are gone. Mapping it needs no memory, which
    /// there may be none of (`vm.overcommit_memory = 2`), and what one link's peer was sent is not read by another's. Behind its
    /// end, every touch raises SIGBUS.
    pages: OwnedFd,
    /// userfaultfd(2), if this process may have one.
    holes: Option<OwnedFd>,
}

static FILES: OnceLock<Result<Files, String>> = OnceLock::new();

/// How many regions were lost since the process began: a queue that sees this change asks its own regions.
#[inline(always)]
pub fn faults() -> usize {
    FAULTS.load(Ordering::Acquire)
}

/// Whether touching a hole of a peer's memory is noticed. Without, the kernel makes pages of any number of them on our account.
pub fn sees_holes() -> bool {
    files().as_ref().is_ok_and(|files| files.holes.is_some())
}

pub(super) fn lost(slot: usize) -> Option<Lost> {
    let lost = TABLE[slot].lost.load(Ordering::Acquire);
    Lost::ALL.into_iter().find(|&l| l as u8 == lost)
}

fn write(slot: &Slot, start: usize, end: usize) {
    let seq = slot.seq.load(Ordering::Relaxed);
    slot.seq.store(seq.wrapping_add(1), Ordering::Relaxed);
    fence(Ordering::Release);
    slot.start.store(start, Ordering::Relaxed);
    slot.end.store(end, Ordering::Relaxed);
    slot.seq.store(seq.wrapping_add(2), Ordering::Release);
}

/// Has the handler answer for a mapping of a file with pages of so many bytes. `budget` has to live until it is unregistered.
pub(super) fn register(start: usize, len: usize, page: usize, budget: Option<&Arc<Budget>>) -> Result<usize, String> {
    let files = files().as_ref().map_err(Clone::clone)?;
    let i = TABLE
        .iter()
        .position(|s| {
            !s.used.load(Ordering::Relaxed)
                && s.used.compare_exchange(false, true, Ordering::Acquire, Ordering::Relaxed).is_ok()
        })
        .ok_or("too many regions are mapped")?;
    let slot = &TABLE[i];
    let free = |e: std::io::Error| {
        slot.used.store(false, Ordering::Release);
        format!("a region's memory: {e}")
    };
    // Zeros also for who reads what the one before him was sent.
    rustix::io::pwrite(&files.pages, &[0; PAGE], (i * PAGE) as u64).map_err(|e| free(e.into()))?;
    let holes = budget.zip(files.holes.as_ref());
    if let Some((_, holes)) = holes {
        uffd::register(holes, start, len.next_multiple_of(page)).map_err(free)?;
    }
    slot.budget.store(holes.map_or(null_mut(), |(budget, _)| Arc::as_ptr(budget).cast_mut()), Ordering::Relaxed);
    slot.page.store(page, Ordering::Relaxed);
    slot.lost.store(0, Ordering::Relaxed);
    write(slot, start, start + len.next_multiple_of(PAGE));
    USED.fetch_max(i + 1, Ordering::Release);
    Ok(i)
}

pub(super) fn unregister(slot: usize) {
    write(&TABLE[slot], 0, 0);
    TABLE[slot].used.store(false, Ordering::Release);
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

fn files() -> &'static Result<Files, String> {
    FILES.get_or_init(|| {
        use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
        let pages = memfd_create("faults", MemfdFlags::CLOEXEC)
            .and_then(|fd| ftruncate(&fd, (SLOTS * PAGE) as u64).map(|()| fd))
            .map_err(|e| format!("memory for faults: {e}"))?;
        handler::install();
        Ok(Files { pages, holes: uffd::open() })
    })
}

/// The slot of the region that `addr` is in, and its bounds.
fn find(addr: usize) -> Option<(usize, usize, usize)> {
    let used = USED.load(Ordering::Acquire);
    TABLE[..used].iter().enumerate().find_map(|(i, slot)| {
        let (start, end) = loop {
            let seq = slot.seq.load(Ordering::Acquire);
            let bounds = (slot.start.load(Ordering::Relaxed), slot.end.load(Ordering::Relaxed));
            fence(Ordering::Acquire);
            // A slot that is being written is not the one that is being used by the thread that faulted.
            if seq & 1 != 0 {
                break (0, 0);
            }
            if slot.seq.load(Ordering::Relaxed) == seq {
                break bounds;
            }
        };
        (start..end).contains(&addr).then_some((i, start, end))
    })
}

/// Has the thread that faulted at `addr`, by writing or by reading, go on. Whether there is a region.
fn mend(addr: usize, write: bool, broken: bool) -> bool {
    let (Some((i, start, end)), Some(Ok(files))) = (find(addr), FILES.get()) else { return false };
    let slot = &TABLE[i];
    let page = slot.page.load(Ordering::Relaxed);
    let lost = if broken { Err(Lost::Broken) } else { fill(slot, addr & !(page - 1), page, write, files) };
    match lost {
        Ok(()) => true,
        Err(lost) => replace(i, addr & !(PAGE - 1), page, (start, end), lost, files),
    }
}

/// Has the kernel make the page at `at` if it is a hole.
fn fill(slot: &Slot, at: usize, page: usize, write: bool, files: &Files) -> Result<(), Lost> {
    // SAFETY: the region, which the faulting thread holds, holds the budget.
    let budget = unsafe { slot.budget.load(Ordering::Relaxed).as_ref() };
    let (Some(budget), Some(holes)) = (budget, &files.holes) else { return Err(Lost::Shrunk) };
    if slot.lost.load(Ordering::Relaxed) != 0 {
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
        match uffd::fill(holes, at, page, page > PAGE) {
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
fn replace(i: usize, at: usize, page: usize, (start, end): (usize, usize), lost: Lost, files: &Files) -> bool {
    // First: another thread may read it as soon as it is there, and is not to take it for the peer's.
    let first = TABLE[i].lost.compare_exchange(0, lost as u8, Ordering::AcqRel, Ordering::Relaxed).is_ok();
    if first {
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
                files.pages.as_raw_fd(),
                offset as i64,
            )
        };
        new != libc::MAP_FAILED
    };
    let own = || map(at, PAGE, i * PAGE);
    // Nothing: every touch of it comes here again.
    let nothing = |start, end| map(start, end - start, SLOTS * PAGE);
    let around = at & !(page - 1);
    // A huge page can only be replaced whole; and a region in too many pieces is one again.
    own() || nothing(around, around + page) && own() || nothing(start, end) && own()
}
