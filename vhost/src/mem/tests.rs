use super::*;
use rustix::fs::{FallocateFlags, MemfdFlags, fallocate, fstat, ftruncate, memfd_create};
use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};
use std::os::fd::{AsFd, OwnedFd};
use std::ptr::null_mut;
use std::sync::Arc;

fn memfd(size: u64, flags: MemfdFlags) -> OwnedFd {
    let fd = memfd_create("test", MemfdFlags::CLOEXEC | flags).unwrap();
    ftruncate(&fd, size).unwrap();
    fd
}

fn map(fd: &OwnedFd, size: u64) -> Result<Region, String> {
    Region::map(fd, size, &Arc::default())
}

/// A memfd of so many bytes, mapped.
fn region(size: u64) -> Region {
    map(&memfd(size, MemfdFlags::empty()), size).unwrap()
}

/// Bytes of a file that are there.
fn present(fd: &OwnedFd) -> u64 {
    fstat(fd).unwrap().st_blocks as u64 * 512
}

/// Reads, or writes, a byte of each page until the region is lost. How many pages that were.
fn touch(region: &Region, write: bool) -> usize {
    let pages = region.len() / 4096;
    (0..pages)
        .find(|page| {
            // SAFETY: within the region, which is alive; the handler answers for holes.
            unsafe {
                let p = region.base().as_ptr().add(page * 4096);
                if write { p.write_volatile(1) } else { assert_eq!(p.read_volatile(), 0) }
            }
            region.lost().is_some()
        })
        .unwrap_or(pages)
}

#[test]
fn bounds_are_checked_in_64_bits() {
    let regions = Regions::new(vec![region(8192)]);
    assert!(regions.resolve(0, 0, 8192).is_some());
    assert!(regions.resolve(0, 8191, 1).is_some());
    assert!(regions.resolve(0, 8192, 0).is_some());
    assert!(regions.resolve(0, 8191, 2).is_none());
    assert!(regions.resolve(0, u32::MAX, 1).is_none());
    assert!(regions.resolve(0, u32::MAX, u32::MAX).is_none());
    assert!(regions.resolve(0, 1, u32::MAX).is_none());
    assert!(regions.resolve(1, 0, 0).is_none());
}

#[test]
fn writes_stay_within_the_region() {
    let fd = memfd(4096, MemfdFlags::empty());
    let mut region = map(&fd, 4096).unwrap();
    region.write(4093, &[1, 2, 3]);
    region.write(4094, &[9; 3]);
    region.write(usize::MAX, &[9; 3]);
    let mut end = [0; 4];
    rustix::io::pread(&fd, &mut end, 4092).unwrap();
    assert_eq!(end, [0, 1, 2, 3]);
}

#[test]
fn size_must_be_the_files() {
    let of = |file, size| map(&memfd(file, MemfdFlags::empty()), size);
    assert!(of(8192, 8193).unwrap_err().contains("8192"));
    assert!(of(8192, 4096).is_err());
    assert!(of(0, 0).is_err());
    assert!(of(REGION_MAX + 4096, REGION_MAX + 4096).is_err());
    assert!(of(ORDINARY_MAX + 4096, ORDINARY_MAX + 4096).unwrap_err().contains("ordinary memory"));
    let (_, pipe) = rustix::pipe::pipe().unwrap();
    assert!(map(&pipe, 4096).is_err());
}

#[test]
fn only_memory_is_mapped() {
    let proc = std::fs::File::open("/proc/self/mem").unwrap();
    assert!(map(&proc.into(), 4096).unwrap_err().contains("not a memfd"));
}

/// tmpfs that prefers huge pages says a block of 2 MiB, as hugetlbfs does.
#[test]
fn only_hugetlbfs_has_huge_pages() {
    let dir = tempfile::tempdir().unwrap();
    let path = std::ffi::CString::new(dir.path().to_str().unwrap()).unwrap();
    // On a thread of its own, whose mounts nobody else sees.
    std::thread::scope(|s| {
        s.spawn(|| {
            // SAFETY: the calls take constant strings and one that lives as long as they do.
            let mounted = unsafe {
                libc::unshare(libc::CLONE_NEWNS) == 0
                    && libc::mount(null_mut(), c"/".as_ptr(), null_mut(), libc::MS_REC | libc::MS_PRIVATE, null_mut())
                        == 0
                    && libc::mount(
                        c"tmpfs".as_ptr(),
                        path.as_ptr(),
                        c"tmpfs".as_ptr(),
                        0,
                        c"huge=always".as_ptr().cast(),
                    ) == 0
            };
            if !mounted {
                return eprintln!("SKIPPED: needs to mount a tmpfs with huge pages");
            }
            let file = std::fs::File::create_new(dir.path().join("file")).unwrap();
            file.set_len(ORDINARY_MAX + 4096).unwrap();
            let fd = OwnedFd::from(file);
            assert_eq!(fstat(&fd).unwrap().st_blksize, 2 << 20, "the test is of no use on this kernel");
            assert!(map(&fd, ORDINARY_MAX + 4096).unwrap_err().contains("ordinary memory"));
            ftruncate(&fd, 8192).unwrap();
            assert!(!map(&fd, 8192).unwrap().huge());
        });
    });
}

#[test]
fn a_file_is_sealed_where_it_can_be() {
    let fd = memfd(4096, MemfdFlags::ALLOW_SEALING);
    assert!(map(&fd, 4096).unwrap().sealed());
    assert!(ftruncate(&fd, 0).is_err());
    assert!(!region(4096).sealed());
}

#[test]
fn only_pages_that_are_gone_are_replaced() {
    let fd = memfd(4 * 4096, MemfdFlags::empty());
    let other = region(4096);
    let region = map(&fd, 4 * 4096).unwrap();
    let p = region.base().as_ptr();
    // SAFETY: within the region, which is alive; the handler answers for pages that are gone.
    unsafe {
        p.write_volatile(7);
        p.add(8192).write_volatile(9);
        assert!(region.lost().is_none());
        ftruncate(&fd, 4096).unwrap();
        assert_eq!(p.read_volatile(), 7);
        let before = guard::faults();
        assert_eq!(p.add(8192).read_volatile(), 0);
        assert_eq!(p.read_volatile(), 7);
        p.add(5000).write_volatile(1);
        p.add(3 * 4096).write_volatile(1);
        assert!(guard::faults() > before);
    }
    assert_eq!(region.lost(), Some(Lost::Shrunk));
    assert!(other.lost().is_none());
}

/// As with `vm.overcommit_memory = 2`, but for one process.
#[test]
fn pages_are_replaced_where_no_memory_can_be_had() {
    const CHILD: &str = "DRAY_TEST_NO_MEMORY";
    if std::env::var_os(CHILD).is_none() {
        let name = "mem::tests::pages_are_replaced_where_no_memory_can_be_had";
        let mut child = std::process::Command::new(std::env::current_exe().unwrap());
        return assert!(child.args(["--exact", name]).env(CHILD, "1").output().unwrap().status.success());
    }
    let fd = memfd(4096, MemfdFlags::empty());
    let region = map(&fd, 4096).unwrap();
    ftruncate(&fd, 0).unwrap();
    // SAFETY: the limits are valid; within the region, which is alive.
    unsafe {
        let mut old = std::mem::zeroed();
        libc::getrlimit(libc::RLIMIT_DATA, &mut old);
        libc::setrlimit(libc::RLIMIT_DATA, &libc::rlimit { rlim_cur: 4096, ..old });
        region.base().as_ptr().write_volatile(1);
        libc::setrlimit(libc::RLIMIT_DATA, &old);
    }
    assert_eq!(region.lost(), Some(Lost::Shrunk));
}

/// As DPDK's does while it takes huge pages.
#[test]
fn another_handler_gets_its_own_threads_faults_only() {
    static PAGE: AtomicU64 = AtomicU64::new(0);
    /// Makes the access succeed.
    extern "C" fn theirs(_signal: i32) {
        // SAFETY: nothing but the page of the test is replaced.
        unsafe {
            let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED;
            libc::mmap(PAGE.load(Ordering::Relaxed) as *mut _, 4096, 3, flags, -1, 0);
        }
    }
    let fd = memfd(4096, MemfdFlags::empty());
    let region = map(&fd, 4096).unwrap();
    ftruncate(&fd, 0).unwrap();
    // SAFETY: valid actions; mappings of the test, of which nobody else knows.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        let mut old: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = theirs as extern "C" fn(i32) as usize;
        assert_eq!(libc::sigaction(libc::SIGBUS, &action, &mut old), 0);
        assert_eq!(old.sa_sigaction, libc::SIG_DFL, "it sees ours");
        // A region's fault is ours whatever the thread.
        region.base().as_ptr().write_volatile(1);
        assert_eq!(region.lost(), Some(Lost::Shrunk));
        let flags = MapFlags::SHARED;
        let page = mmap(null_mut(), 4096, ProtFlags::READ | ProtFlags::WRITE, flags, fd.as_fd(), 0).unwrap();
        PAGE.store(page as u64, Ordering::Relaxed);
        page.cast::<u8>().write_volatile(7);
        assert_eq!(page.cast::<u8>().read_volatile(), 7, "theirs was not called");
        libc::sigaction(libc::SIGBUS, &old, &mut action);
        assert_eq!(action.sa_sigaction, theirs as extern "C" fn(i32) as usize);
        munmap(page, 4096).unwrap();
    }
}

#[test]
fn a_hole_that_is_written_is_the_peers_page() {
    let fd = memfd(3 * 4096, MemfdFlags::empty());
    let mut region = map(&fd, 3 * 4096).unwrap();
    for byte in [1, 2] {
        region.write(4096, &[byte]);
        let mut found = [0];
        rustix::io::pread(&fd, &mut found, 4096).unwrap();
        assert_eq!(found, [byte]);
        assert_eq!(present(&fd), 4096);
        // Once more.
        fallocate(&fd, FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE, 4096, 4096).unwrap();
        assert_eq!(present(&fd), 0);
    }
    assert!(region.lost().is_none());
}

#[test]
fn huge_pages_have_holes_and_ends_as_well() {
    const HUGE: u64 = 2 << 20;
    let free = std::fs::read_to_string("/sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages");
    if free.ok().and_then(|n| n.trim().parse::<u64>().ok()).is_none_or(|n| n < 2) {
        return eprintln!("SKIPPED: needs two free huge pages");
    }
    let fd = memfd(2 * HUGE, MemfdFlags::HUGETLB);
    let mut region = map(&fd, 2 * HUGE).unwrap();
    assert!(region.huge() && present(&fd) == 0);
    region.write(HUGE as usize + 5000, &[1]);
    assert_eq!((present(&fd), region.lost()), (HUGE, None));
    region.write(5000, &[1]);
    ftruncate(&fd, HUGE).unwrap();
    region.write(HUGE as usize + 5000, &[1]);
    region.write(2 * HUGE as usize - 1, &[1]);
    assert_eq!(region.lost(), Some(Lost::Shrunk));
    // SAFETY: within the region, which is alive.
    assert_eq!(unsafe { region.base().add(5000).read_volatile() }, 1);
}

#[test]
fn a_port_has_a_budget_for_holes_whatever_its_peers_bring() {
    assert!(guard::sees_holes(), "this kernel has no userfaultfd");
    let budget = Arc::new(Budget::default());
    // A quarter, for they are read; what is given back while the test runs is less than a sixteenth.
    let most = Budget::BYTES / Budget::READ;
    let mut made = 0;
    let files: Vec<OwnedFd> = (0..4).map(|_| memfd(1 << 28, MemfdFlags::empty())).collect();
    for fd in &files {
        let region = Region::map(fd, 1 << 28, &budget).unwrap();
        let pages = touch(&region, false);
        assert!(pages < region.len() / 4096, "all of it was made");
        assert_eq!(region.lost(), Some(Lost::Holes));
        made += present(fd);
    }
    assert!((most..most + most / 16).contains(&made), "{made} bytes were made");
    // Another port's is its own.
    let fd = memfd(Budget::BYTES, MemfdFlags::empty());
    let region = map(&fd, Budget::BYTES).unwrap();
    assert_eq!(touch(&region, true), region.len() / 4096);
    assert_eq!(present(&fd), Budget::BYTES);
}

#[test]
fn a_budget_fills_again_with_time() {
    let budget = Budget::default();
    let now = 1 << 40;
    assert!((0..Budget::BYTES >> 21).all(|_| budget.take(2 << 20, false, true, now)));
    assert!(!budget.take(4096, false, true, now));
    let second = now + 1_000_000_000;
    assert!((0..Budget::BYTES_A_SECOND >> 12).all(|_| budget.take(4096, false, true, second)));
    assert!(!budget.take(4096, false, true, second));
    assert!((0..16).all(|_| budget.take(4096, true, false, second + 1_000_000_000)));
}
