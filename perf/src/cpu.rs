//! On which CPU a thread runs.

use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

/// The name of this machine's CPUs; empty if that is not known.
pub fn model() -> String {
    let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let name = info.lines().find_map(|line| line.strip_prefix("model name"));
    name.map(|name| name.trim_start_matches([' ', '\t', ':']).to_owned()).unwrap_or_default()
}

/// Lets this thread, and the threads and processes that it starts, run on `cpu` only.
///
/// # Errors
/// If there is no such CPU, or this process may not use it.
pub fn pin(cpu: usize) -> Result<(), String> {
    let mut set = CpuSet::new();
    if cpu >= CpuSet::MAX_CPU {
        return Err(format!("there is no CPU {cpu}"));
    }
    set.set(cpu);
    sched_setaffinity(None, &set).map_err(|_| format!("CPU {cpu} is not there, or not for this process"))
}

/// Calls `f` on `cpu` and lets this thread run where it could before. What `f` starts stays there.
///
/// # Errors
/// As [`pin`], and those of `f`.
pub fn on<T>(cpu: usize, f: impl FnOnce() -> Result<T, String>) -> Result<T, String> {
    let before = sched_getaffinity(None).map_err(|e| e.to_string())?;
    pin(cpu)?;
    let result = f();
    sched_setaffinity(None, &before).map_err(|e| e.to_string())?;
    result
}
