//! What a service manager is told and asks for: the protocol of sd_notify(3), a datagram to the socket that it names.

use crate::switch::Switch;
use rustix::time::{ClockId, clock_gettime};
use std::env;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::sync::LazyLock;
use std::time::{Duration, Instant};
use tracing::{error, info, warn};

static MANAGER: LazyLock<Option<UnixDatagram>> = LazyLock::new(|| {
    let name = env::var("NOTIFY_SOCKET").ok()?;
    let address = match name.strip_prefix('@') {
        Some(name) => SocketAddr::from_abstract_name(name),
        None => SocketAddr::from_pathname(&name),
    };
    let connect = || {
        let socket = UnixDatagram::unbound()?;
        socket.connect_addr(&address?)?;
        // A manager that does not read must not hold up the control loop.
        socket.set_nonblocking(true)?;
        Ok::<_, std::io::Error>(socket)
    };
    connect().inspect_err(|error| warn!(target: "systemd", "NOTIFY_SOCKET {name}: {error}")).ok()
});

fn tell(state: &str) {
    if let Some(manager) = &*MANAGER {
        // It asks for nothing twice: the watchdog's next sign comes soon.
        let _ = manager.send(state.as_bytes());
    }
}

/// drayd has started or has ended a reload, and `status` is what there is to say of it.
pub fn ready(status: &str) {
    tell(&format!("READY=1\nSTATUS={status}"));
}

/// A reload begins.
pub fn reloading() {
    let now = clock_gettime(ClockId::Monotonic);
    let microseconds = now.tv_sec * 1_000_000 + now.tv_nsec / 1_000;
    tell(&format!("RELOADING=1\nMONOTONIC_USEC={microseconds}\nSTATUS=reading the configuration"));
}

/// drayd ends.
pub fn stopping() {
    tell("STOPPING=1\nSTATUS=shutting down");
}

/// The manager's watchdog: it restarts what gives no sign of life. The control loop gives one now and then, as long as all
/// workers go round their queues.
pub struct Watchdog {
    /// A sign is due within it.
    period: Duration,
    told: Instant,
    /// Of each worker its CPU, how often it went round, and when that was last seen to be more.
    workers: Vec<(usize, u64, Instant)>,
    /// Since when a worker stands still that the log knows of.
    stalled: Option<usize>,
}

impl Watchdog {
    /// The watchdog, if the manager has one (`WATCHDOG_USEC`, sd_watchdog_enabled(3)).
    pub fn from_environment() -> Option<Watchdog> {
        let number = |name: &str| env::var(name).ok()?.parse::<u64>().ok();
        if number("WATCHDOG_PID").is_some_and(|pid| pid != u64::from(std::process::id())) {
            return None;
        }
        let period = Duration::from_micros(number("WATCHDOG_USEC").filter(|n| *n > 0)?);
        Some(Watchdog { period, told: Instant::now(), workers: Vec::new(), stalled: None })
    }

    /// To be called by the control loop, several times in a period: gives a sign of life if one is due and all is well.
    pub fn tick(&mut self, switch: &Switch, now: Instant) {
        if now.duration_since(self.told) < self.period / 4 {
            return;
        }
        let workers = switch.dataplane.worker_stats();
        match self.check(workers.iter().map(|worker| (worker.cpu, worker.loops)), now) {
            None => {
                if let Some(cpu) = self.stalled.take() {
                    info!(target: "watchdog", "the worker on CPU {cpu} goes on");
                }
                self.told = now;
                tell(&format!("WATCHDOG=1\nSTATUS={}", switch.summary()));
            }
            Some(cpu) => {
                if self.stalled != Some(cpu) {
                    self.stalled = Some(cpu);
                    let why = format!("the worker on CPU {cpu} has stood still for {:?}", self.period / 2);
                    error!(target: "watchdog", "{why}: the service manager will restart drayd unless it goes on");
                    tell(&format!("STATUS={why}"));
                }
            }
        }
    }

    /// The CPU of a worker that has not gone round its queues for half a period.
    fn check(&mut self, loops: impl Iterator<Item = (usize, u64)>, now: Instant) -> Option<usize> {
        let mut stalled = None;
        for (i, (cpu, loops)) in loops.enumerate() {
            if self.workers.len() <= i {
                self.workers.push((cpu, loops, now));
            }
            let worker = &mut self.workers[i];
            if worker.1 != loops {
                *worker = (cpu, loops, now);
            } else if now.duration_since(worker.2) >= self.period / 2 {
                stalled = Some(cpu);
            }
        }
        stalled
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_worker_that_stands_still_is_found() {
        let start = Instant::now();
        let at = |seconds: u64| start + Duration::from_secs(seconds);
        let mut watchdog = Watchdog { period: Duration::from_secs(30), told: start, workers: vec![], stalled: None };
        let mut check =
            |second, loops: [u64; 2]| watchdog.check([(4, loops[0]), (7, loops[1])].into_iter(), at(second));
        assert_eq!(check(0, [5, 5]), None);
        assert_eq!(check(14, [6, 5]), None);
        assert_eq!(check(15, [7, 5]), Some(7));
        assert_eq!(check(16, [7, 6]), None);
        assert_eq!(check(30, [7, 7]), Some(4));
    }
}
