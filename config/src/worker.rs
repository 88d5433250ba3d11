//! `[[worker]]`: the threads that move packets.

use crate::ValidConfig;
use crate::error::Report;
use crate::schema::{REQUIRED, Section, Value, key};
use crate::validate::Places;
use std::collections::HashMap;
use std::ops::Range;
use std::sync::OnceLock;

type Span = Range<usize>;

/// `[[worker]]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Worker {
    /// The CPU this worker is pinned to.
    pub cpu: usize,
    /// Microseconds to sleep at a time while there is nothing to do; 0, the default: poll always.
    pub idle_sleep: u16,
}

/// `[[worker]]`
pub static WORKER: Section = Section {
    header: "[[worker]]",
    meaning: "A thread that moves packets, pinned to a CPU and always busy. At most 64. \
              Without any: one on the last CPU the process may use. Changes need a restart.",
    keys: &[
        key(
            "cpu",
            Value::Integer(0, 65535),
            REQUIRED,
            "The CPU. It must be one this process may use, and have no other worker.",
        ),
        key(
            "idle-sleep",
            Value::Integer(0, 1000),
            "0",
            "Microseconds to sleep at a time while there is nothing to do. 0: poll always, for the lowest latency; \
             more where the CPU is shared, at the price of that much latency for the first packet.",
        ),
    ],
};

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

pub(crate) fn workers(config: &ValidConfig, places: &Places, cpus: &[usize], report: &mut Report) {
    let mut used: HashMap<usize, &Span> = HashMap::new();
    for (worker, place) in config.workers.iter().zip(&places.workers) {
        let Some(place) = place else { continue };
        if let Some(first) = used.insert(worker.cpu, place) {
            let message = || format!("cpu = {} already has a worker: every worker needs its own", worker.cpu);
            report.add_with_note(place, message, first, "its first worker");
        }
        if !cpus.is_empty() && !cpus.contains(&worker.cpu) {
            report.add(place, || format!("cpu = {}: this process may only use {}", worker.cpu, cpu_list(cpus)));
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
