//! The latency regime: how long what one CPU writes takes to reach the other.
//!
//! On a virtual machine that changes: the host moves the CPUs to other cores, and everything that passes between them takes up
//! to twice or half the time. Figures from before and after such a change can't be compared.

use crate::cpu;
use crate::stats::median;
use std::hint::spin_loop;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// How long a probe takes.
const PROBE: Duration = Duration::from_millis(15);
/// Round trips between two looks at the clock.
const BLOCK: u64 = 256;
/// Probes that differ by no more than this factor are of one regime: several in a row on a quiet machine differ by a tenth.
const STEADY: f64 = 1.25;
/// Rounds that may not count, for each that does.
const REPEATS: usize = 2;
/// The number that ends a probe.
const END: u64 = u64::MAX;

/// On cache lines of its own, and of the one that is prefetched with it.
#[derive(Default)]
#[repr(align(128))]
struct Line(AtomicU64);

/// Nanoseconds that a number takes from `here` to `there` and back: the median of many. Nothing else is to run on either CPU.
///
/// # Errors
/// If this process may not run there.
pub fn probe(here: usize, there: usize) -> Result<f64, String> {
    let (ask, answer) = (Line::default(), Line::default());
    std::thread::scope(|scope| {
        let (ask, answer) = (&ask.0, &answer.0);
        let echo = scope.spawn(move || {
            let pinned = cpu::pin(there);
            let mut last = 0;
            while last != END {
                let number = ask.load(Ordering::Acquire);
                if number == last {
                    spin_loop();
                } else {
                    last = number;
                    answer.store(number, Ordering::Release);
                }
            }
            pinned
        });
        let asked = cpu::on(here, || {
            let mut number = 0;
            let mut block = || {
                let begin = Instant::now();
                for _ in 0..BLOCK {
                    number += 1;
                    ask.store(number, Ordering::Release);
                    while answer.load(Ordering::Acquire) != number {
                        spin_loop();
                    }
                }
                begin.elapsed().as_nanos() as f64 / BLOCK as f64
            };
            // The first waits for the other thread to begin.
            block();
            let end = Instant::now() + PROBE;
            let mut blocks = Vec::new();
            while blocks.is_empty() || Instant::now() < end {
                blocks.push(block());
            }
            Ok(median(&blocks))
        });
        ask.store(END, Ordering::Release);
        echo.join().unwrap_or_else(|_| Err("the probe's other half panicked".into()))?;
        asked
    })
}

/// Whether these probes are of one regime.
pub fn steady(probes: &[f64]) -> bool {
    let least = probes.iter().copied().fold(f64::INFINITY, f64::min);
    probes.iter().all(|&p| p <= least * STEADY)
}

/// The indices of the largest group of these that are of one regime.
pub fn most_of_one(probes: &[f64]) -> Vec<usize> {
    let with = |least: f64| -> Vec<usize> {
        probes.iter().enumerate().filter(|(_, m)| (least..=least * STEADY).contains(*m)).map(|(i, _)| i).collect()
    };
    probes.iter().map(|&least| with(least)).max_by_key(Vec::len).unwrap_or_default()
}

/// As many rounds as are wanted, all of one regime if that is asked for; fewer if the machine changes too often. `round` is told how
/// many there were before it, and gives none if it does not count; `probes` are those of a round.
///
/// # Errors
/// Those of `round`.
pub fn collect<R>(
    wanted: usize,
    of_one_regime: bool,
    mut round: impl FnMut(usize) -> Result<Option<R>, String>,
    probes: impl Fn(&R) -> &[f64],
) -> Result<Vec<R>, String> {
    let (mut rounds, mut which) = (Vec::new(), Vec::new());
    for tried in 0..wanted * (1 + REPEATS) {
        let Some(round) = round(tried)? else { continue };
        rounds.push(round);
        which = if of_one_regime {
            most_of_one(&rounds.iter().map(|round| median(probes(round))).collect::<Vec<_>>())
        } else {
            (0..rounds.len()).collect()
        };
        if which.len() == wanted {
            break;
        }
    }
    Ok(rounds.into_iter().enumerate().filter(|(i, _)| which.contains(i)).map(|(_, round)| round).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpus_talk() {
        let cpus = dray_config::allowed_cpus();
        let ns = probe(cpus[0], cpus[cpus.len() - 1]).unwrap();
        assert!(ns > 1.0 && ns < 1e9, "{ns}");
        assert!(probe(cpus[0], 1 << 20).is_err());
    }

    #[test]
    fn regimes() {
        assert!(steady(&[]) && steady(&[100.0, 110.0, 96.0]));
        assert!(!steady(&[100.0, 110.0, 200.0]) && !steady(&[200.0, 100.0]));
        assert_eq!(most_of_one(&[500.0, 100.0, 110.0, 520.0, 95.0]), [1, 2, 4]);
        assert_eq!(most_of_one(&[500.0, 100.0, 490.0]), [0, 2]);
        assert!(most_of_one(&[]).is_empty());
    }
}
