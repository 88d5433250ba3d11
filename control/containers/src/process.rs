//! A process that is told from a later one of the same number.

use std::fs;
use std::path::PathBuf;

/// A process, by its number and when it was started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Process {
    /// Its number.
    pub pid: u32,
    /// Clock ticks from the start of the host (proc(5), `starttime` of `/proc/PID/stat`).
    started: u64,
}

impl Process {
    /// The one that has this number now; none if there is none.
    pub fn of(pid: u32) -> Option<Process> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // The name, in parentheses, may have anything in it. The next field is the third.
        let started = stat.rsplit_once(") ")?.1.split(' ').nth(22 - 3)?.parse().ok()?;
        Some(Process { pid, started })
    }

    /// Whether it is still there.
    pub fn is_there(&self) -> bool {
        Process::of(self.pid) == Some(*self)
    }

    /// The file of its network namespace.
    pub fn netns(&self) -> PathBuf {
        format!("/proc/{}/ns/net", self.pid).into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_no_other_of_its_number() {
        let own = Process::of(std::process::id()).unwrap();
        assert!(own.is_there());
        assert!(!Process { started: own.started + 1, ..own }.is_there());
        assert_eq!(Process::of(0), None);
    }
}
