//! DPDK's environment: started once, when it is first needed, on a thread of its own.
//!
//! `rte_eal_init` pins its thread to a CPU and makes it an lcore. So that neither the caller nor a worker is touched,
//! a thread named `eal` does that, and stays: it runs whatever configures a device, one after the other.

use crate::error::{Error, strerror};
use crate::wanted_back::want_back;
use dray_dpdk_sys as sys;
use std::cell::Cell;
use std::ffi::{CStr, CString, OsStr, c_char, c_void};
use std::fs::File;
use std::io::Read;
use std::os::fd::{FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;
use std::{fs, io, mem};

/// Free hugepages from which they are used, bytes: enough for a port with 1500-byte frames.
const HUGEPAGES_MIN: u64 = 64 << 20;

/// How long [`cleanup`] waits for devices that are being opened or closed.
const CLOSING: Duration = Duration::from_secs(5);

/// Memory that EAL may use without hugepages, MiB. Only what is used becomes resident, until the first NIC is opened behind
/// an IOMMU: VFIO then pins all of it. So it is no more than a quarter of what the machine has available.
const NO_HUGE_MIB: u64 = 1024;

/// What was decided when EAL started.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Eal {
    /// Whether hugepages are used. Without, everything works but a physical NIC may not.
    pub hugepages: bool,
    /// Whether this machine has a PCI bus, so that NICs can be opened by address.
    pub pci: bool,
    /// The CPU of the thread that configures devices. It sleeps when there is nothing to do.
    pub cpu: usize,
    /// DPDK's version, as it says it: `DPDK 22.11.11`.
    pub version: String,
    /// What DPDK printed meanwhile, warnings and worse; empty if nothing.
    pub log: String,
}

type Job = Box<dyn FnOnce() + Send>;

enum State {
    Down,
    Up {
        eal: Eal,
        jobs: Sender<Job>,
        thread: JoinHandle<()>,
    },
    /// It can't be tried again in this process.
    Failed(Error),
    Gone,
}

static STATE: Mutex<State> = Mutex::new(State::Down);
static UP: AtomicBool = AtomicBool::new(false);
/// Whether EAL uses hugepages; says nothing before it is up.
static HUGEPAGES: AtomicBool = AtomicBool::new(false);
static LOG: Mutex<Option<File>> = Mutex::new(None);
static USERS: AtomicUsize = AtomicUsize::new(0);

/// Keeps EAL from being ended.
pub(crate) struct User(());

impl User {
    /// One more, of EAL started if need be.
    pub fn new() -> Result<User, Error> {
        USERS.fetch_add(1, Ordering::AcqRel);
        let user = User(());
        init().map(|_| user)
    }
}

impl Drop for User {
    fn drop(&mut self) {
        USERS.fetch_sub(1, Ordering::AcqRel);
    }
}

fn state() -> MutexGuard<'static, State> {
    STATE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Starts EAL, unless it is up. Hugepages are used if 64 MiB of them are free, ordinary memory otherwise. No file is
/// left behind in /var/run/dpdk or a hugetlbfs, whatever end the process takes: all memory is anonymous.
///
/// With hugepages, DPDK wants a SIGBUS handler of its own for some milliseconds, here and whenever a pool needs more of
/// them. `dray_vhost::mem::guard` keeps it from the other threads.
///
/// # Errors
/// What DPDK refused. It starts once per process: a failure stays, and so does [`cleanup`].
pub fn init() -> Result<Eal, Error> {
    let mut state = state();
    match &*state {
        State::Up { eal, .. } => return Ok(eal.clone()),
        State::Failed(error) => return Err(error.clone()),
        State::Gone => return Err(Error::new("DPDK was shut down and starts only once per process")),
        State::Down => {}
    }
    match start() {
        Ok((eal, jobs, thread)) => {
            HUGEPAGES.store(eal.hugepages, Ordering::Relaxed);
            *state = State::Up { eal: eal.clone(), jobs, thread };
            UP.store(true, Ordering::Release);
            Ok(eal)
        }
        Err(error) => {
            *state = State::Failed(error.clone());
            Err(error)
        }
    }
}

/// Whether EAL is up.
pub fn is_up() -> bool {
    UP.load(Ordering::Acquire)
}

/// Whether EAL uses hugepages, or would if it were started now. Does not wait.
pub(crate) fn has_hugepages() -> bool {
    if is_up() { HUGEPAGES.load(Ordering::Relaxed) } else { free_hugepages() >= HUGEPAGES_MIN }
}

/// Ends EAL, if it is up. It can't be started again in this process. What has been dropped is closed before.
///
/// # Errors
/// A port or a queue is still there: drop all of them first. Or a device keeps EAL's thread for longer than `CLOSING`:
/// then EAL ends with the process.
pub fn cleanup() -> Result<(), Error> {
    let mut state = state();
    let State::Up { jobs, .. } = &*state else { return Ok(()) };
    let (done, closed) = channel();
    let _ = jobs.send(Box::new(move || {
        let _ = done.send(());
    }));
    if closed.recv_timeout(CLOSING).is_err() {
        return Err(Error::new(format!("a device does not let go within {} seconds", CLOSING.as_secs())));
    }
    if USERS.load(Ordering::Acquire) != 0 {
        return Err(Error::new("DPDK is still in use by a port"));
    }
    UP.store(false, Ordering::Release);
    if let State::Up { jobs, thread, .. } = mem::replace(&mut *state, State::Gone) {
        drop(jobs);
        let _ = thread.join();
    }
    Ok(())
}

/// What DPDK has printed since this was last asked, warnings and worse, one message a line. At most some 64 KiB are
/// kept; what comes then is lost until this is asked.
pub fn take_log() -> String {
    let mut log = LOG.lock().unwrap_or_else(PoisonError::into_inner);
    let mut bytes = Vec::new();
    if let Some(pipe) = log.as_mut() {
        // Ends with "would block" when the pipe is empty; what was read until then is in `bytes`.
        let _ = pipe.read_to_end(&mut bytes);
    }
    String::from_utf8_lossy(&bytes).trim_end().to_owned()
}

/// Runs `job` on EAL's thread and returns what it returned. EAL is up (the caller has a port, or called [`init`]).
pub(crate) fn run<R: Send + 'static>(job: impl FnOnce() -> R + Send + 'static) -> R {
    if IS_EAL.get() {
        return job();
    }
    let (reply, result) = channel();
    post(move || drop(reply.send(job())));
    result.recv().expect("EAL's thread answers")
}

/// Has `job` run on EAL's thread, after all that was asked of it before. EAL is up: the job or the caller has a [`User`].
pub(crate) fn post(job: impl FnOnce() + Send + 'static) {
    match &*state() {
        State::Up { jobs, .. } => jobs.send(Box::new(job)).expect("EAL's thread runs until cleanup"),
        _ => panic!("EAL is not up"),
    }
}

/// Registers this thread with DPDK, which gives it a cache in every mempool, until it ends. Does nothing if EAL
/// isn't up or the thread is known already; queues do it themselves when they are first used. If DPDK knows too
/// many threads (128), this one goes without a cache.
#[inline]
pub fn register_thread() {
    if !REGISTERED.get() && is_up() {
        register();
    }
}

thread_local! {
    /// Whether this is EAL's own thread.
    static IS_EAL: Cell<bool> = const { Cell::new(false) };
    static REGISTERED: Cell<bool> = const { Cell::new(false) };
    static REGISTRATION: Registration = const { Registration };
}

#[cold]
fn register() {
    REGISTERED.set(true);
    // SAFETY: EAL is up. A thread that is an lcore already (EAL's own) is refused, without harm.
    if unsafe { sys::dray_lcore_id() } == sys::DRAY_LCORE_ID_ANY && unsafe { sys::rte_thread_register() } == 0 {
        REGISTRATION.with(|_| ());
    }
}

/// Ends the registration with its thread.
struct Registration;

impl Drop for Registration {
    fn drop(&mut self) {
        if is_up() {
            // SAFETY: this thread was registered.
            unsafe { sys::rte_thread_unregister() }
        }
    }
}

/// Starts EAL's thread and waits until it is up.
fn start() -> Result<(Eal, Sender<Job>, JoinHandle<()>), Error> {
    let allowed = process_cpus().map_err(|e| Error::new(format!("the CPUs of this process: {e}")))?;
    let cpu = (0..libc::CPU_SETSIZE as usize)
        // SAFETY: reads the set within its bounds.
        .find(|&cpu| unsafe { libc::CPU_ISSET(cpu, &allowed) })
        .expect("a process has a CPU");
    let hugepages = has_hugepages();
    let pci = fs::exists("/sys/bus/pci/devices").unwrap_or(false);
    let args = arguments(cpu, hugepages, pci);
    redirect_log().map_err(|e| Error::new(format!("a pipe for DPDK's log: {e}")))?;

    let (jobs, todo) = channel::<Job>();
    let (ready, started) = channel();
    let thread = thread::Builder::new()
        .name("eal".into())
        .spawn(move || {
            let result = eal_init(&args, &allowed);
            let failed = result.is_err();
            let _ = ready.send(result);
            if !failed {
                work(todo);
            }
        })
        .map_err(|e| Error::new(format!("a thread for DPDK: {e}")))?;
    let result = started.recv().unwrap_or_else(|_| Err("its thread ended".into()));
    let log = take_log();
    match result {
        Ok(()) => {
            // SAFETY: a constant string.
            let version = unsafe { CStr::from_ptr(sys::rte_version()) }.to_string_lossy().into_owned();
            Ok((Eal { hugepages, pci, cpu, version, log }, jobs, thread))
        }
        Err(what) => Err(Error::new(with_log(format!("DPDK does not start: {what}"), &log))),
    }
}

/// Runs jobs until there can be no more, then ends EAL.
fn work(todo: Receiver<Job>) {
    IS_EAL.set(true);
    for job in todo {
        job();
    }
    // SAFETY: no port is left (`cleanup` saw to it), so nobody uses DPDK's memory any more.
    unsafe { sys::rte_eal_cleanup() };
}

/// EAL's command line.
fn arguments(cpu: usize, hugepages: bool, pci: bool) -> Vec<CString> {
    let prefix = format!("dray-{}", std::process::id());
    let lcores = format!("0@{cpu}");
    let mib = no_huge_mib().to_string();
    let mut args = vec!["dray", "--no-telemetry", "--file-prefix", &prefix, "--log-level", "warning"];
    args.extend(["--lcores", &lcores]);
    if hugepages {
        args.push("--in-memory");
    } else {
        // "--in-memory" contradicts "--no-huge" (DPDK 22.11); without shared files this leaves none either.
        args.extend(["--no-shconf", "--no-huge", "-m", &mib]);
    }
    if pci {
        // A list of allowed devices that allows none: NICs are probed only when a port asks for them.
        args.extend(["-a", "0000:00:00.0"]);
    } else {
        args.push("--no-pci");
    }
    args.into_iter().map(|arg| CString::new(arg).expect("no NUL in it")).collect()
}

/// Calls `rte_eal_init` on this thread, which is EAL's from now on.
fn eal_init(args: &[CString], allowed: &libc::cpu_set_t) -> Result<(), String> {
    // EAL's other threads (interrupts) go where this one may go before it is pinned. The caller may be pinned.
    // SAFETY: the set is valid; a failure only leaves the affinity as it is.
    unsafe { libc::sched_setaffinity(0, size_of_val(allowed), allowed) };
    // Drivers ask their device again every few microseconds; of one that is gone some do so 100,000 times. With the kernel's
    // usual slack of 50 us each of these takes ten times as long as it should.
    // SAFETY: concerns this thread, and those it starts.
    unsafe { libc::prctl(libc::PR_SET_TIMERSLACK, 1) };
    let mut argv: Vec<*mut c_char> = args.iter().map(|arg| arg.as_ptr().cast_mut()).collect();
    // SAFETY: argc and argv as main() has them; EAL permutes the pointers and does not write to the strings.
    let result = unsafe { sys::rte_eal_init(argv.len() as i32, argv.as_mut_ptr()) };
    if result < 0 {
        // SAFETY: no preconditions.
        return Err(strerror(unsafe { sys::dray_errno() }));
    }
    // EAL makes a folder of its own and puts nothing into it.
    // SAFETY: a C string that EAL keeps.
    let folder = unsafe { CStr::from_ptr(sys::rte_eal_get_runtime_dir()) };
    let _ = fs::remove_dir(OsStr::from_bytes(folder.to_bytes()));
    // SAFETY: no name means all devices; the function is there as long as the process. A failure costs only the news of a
    // NIC that is to be taken away.
    unsafe { sys::rte_dev_event_callback_register(std::ptr::null(), Some(on_device_event), std::ptr::null_mut()) };
    Ok(())
}

/// VFIO says, on EAL's interrupt thread, that the kernel wants a device back.
extern "C" fn on_device_event(name: *const c_char, event: sys::rte_dev_event_type, _: *mut c_void) {
    if event == sys::RTE_DEV_EVENT_REMOVE && !name.is_null() {
        // SAFETY: a C string of DPDK's, valid during the call.
        want_back(&unsafe { CStr::from_ptr(name) }.to_string_lossy());
    }
}

/// The CPUs that the process's first thread may use: a daemon's are those that its workers leave.
fn process_cpus() -> io::Result<libc::cpu_set_t> {
    // SAFETY: all zeros is the empty set.
    let mut set: libc::cpu_set_t = unsafe { mem::zeroed() };
    // SAFETY: the set is as large as said.
    match unsafe { libc::sched_getaffinity(libc::getpid(), size_of_val(&set), &mut set) } {
        0 => Ok(set),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Memory for EAL without hugepages, MiB.
fn no_huge_mib() -> u64 {
    let memory = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let available =
        memory.lines().find_map(|line| line.strip_prefix("MemAvailable:")?.strip_suffix("kB")?.trim().parse().ok());
    available.map_or(NO_HUGE_MIB, |kib: u64| (kib >> 12).clamp(64, NO_HUGE_MIB))
}

/// Bytes in free hugepages of any size.
fn free_hugepages() -> u64 {
    let number = |path: &std::path::Path| fs::read_to_string(path).ok()?.trim().parse::<u64>().ok();
    fs::read_dir("/sys/kernel/mm/hugepages")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| {
            let kib: u64 = entry.file_name().to_str()?.strip_prefix("hugepages-")?.strip_suffix("kB")?.parse().ok()?;
            Some(number(&entry.path().join("free_hugepages"))? * (kib << 10))
        })
        .sum()
}

/// Has DPDK print into a pipe, so that errors can quote it and the daemon's log has one form.
fn redirect_log() -> io::Result<()> {
    let mut log = LOG.lock().unwrap_or_else(PoisonError::into_inner);
    let mut fds = [0; 2];
    // SAFETY: the array has room for two.
    if unsafe { libc::pipe2(fds.as_mut_ptr(), libc::O_CLOEXEC | libc::O_NONBLOCK) } != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: just made, and nobody else's. DPDK keeps the other end until the process ends.
    *log = Some(File::from(unsafe { OwnedFd::from_raw_fd(fds[0]) }));
    // SAFETY: a valid descriptor and mode; the stream is DPDK's from then on. Unbuffered, a message that finds the
    // pipe full is dropped.
    unsafe {
        let stream = libc::fdopen(fds[1], c"w".as_ptr());
        if stream.is_null() {
            return Err(io::Error::last_os_error());
        }
        libc::setvbuf(stream, std::ptr::null_mut(), libc::_IONBF, 0);
        sys::rte_openlog_stream(stream.cast());
    }
    Ok(())
}

/// `what`, with the last lines that DPDK printed.
pub(crate) fn with_log(what: String, log: &str) -> String {
    let lines: Vec<&str> = log.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    match lines.len() {
        0 => what,
        n => format!("{what} (DPDK: {})", lines[n.saturating_sub(4)..].join("; ")),
    }
}
