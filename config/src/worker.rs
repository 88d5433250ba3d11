//! `[[worker]]`: the threads that move packets.

use crate::error::Report;
use crate::read::Table;
use crate::schema::{Takes, integer, key, keys};
use crate::validate::{Places, first_use};
use std::collections::HashMap;
use std::sync::OnceLock;

keys! {
    /// A thread that moves packets, pinned to a CPU and always busy. At most 64. Without any: one on the last CPU the
    /// process may use. To add or delete one takes a restart, too.
    pub struct Worker = WORKER "[[worker]]" {
        /// The CPU. It must be one this process may use, and have no other worker.
        cpu: usize = key("cpu", integer(0, 65535)).takes(Takes::Restart).required();
        /// How long it sleeps at a time while there is nothing to do. 0: it polls always, for the lowest latency; more
        /// where the CPU is shared, at the price of that much latency for the first packet.
        idle_sleep: u16 = key("idle-sleep", integer(0, 1000)).unit("microseconds").takes(Takes::Restart).default(0);
    }
}

/// The CPUs that this process may use, ascending: those that the thread which asks first may run on. Later each thread may be kept
/// to some of them.
pub fn allowed_cpus() -> Vec<usize> {
    static CPUS: OnceLock<Vec<usize>> = OnceLock::new();
    let ask = || {
        let mut cpus: Vec<usize> =
            core_affinity::get_core_ids().unwrap_or_default().into_iter().map(|id| id.id).collect();
        cpus.sort_unstable();
        cpus
    };
    CPUS.get_or_init(ask).clone()
}

/// Every worker has a CPU of its own, and one that there is.
pub(crate) fn check(workers: &[Worker], tables: &[Table<'_>], cpus: &[usize], report: &mut Report) {
    let mut used = HashMap::new();
    for (worker, t) in workers.iter().zip(tables) {
        let Some(place) = t.at("cpu") else { continue };
        if let Some(first) = first_use(&mut used, worker.cpu, &place) {
            let message = || format!("cpu = {} already has a worker: every worker needs its own", worker.cpu);
            report.add_with_note(&place, message, &first, "its first worker");
        }
        if !cpus.is_empty() && !cpus.contains(&worker.cpu) {
            report.add(&place, || format!("cpu = {}: this process may only use {}", worker.cpu, cpu_list(cpus)));
        }
    }
}

/// CPUs as the kernel lists them, `0-3,8`; `cpus` is ascending.
fn cpu_list(cpus: &[usize]) -> String {
    let ranges = cpus.chunk_by(|a, b| a + 1 == *b);
    let text = |range: &[usize]| match range {
        [one] => one.to_string(),
        _ => format!("{}-{}", range[0], range[range.len() - 1]),
    };
    ranges.map(text).collect::<Vec<_>>().join(",")
}
