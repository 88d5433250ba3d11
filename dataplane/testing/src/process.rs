//! Processes.

use crate::wait_for;
use rustix::process::{Pid, Signal, kill_process};
use std::io::{BufRead, BufReader};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::{self, sleep};
use std::time::{Duration, Instant};

/// A child process that does not outlive the test, with what it printed.
pub struct Process {
    child: Child,
    printed: Arc<Mutex<String>>,
}

impl Process {
    /// Starts it.
    pub fn start(mut command: Command) -> Process {
        let printed = Arc::new(Mutex::new(String::new()));
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}"));
        fn keep(from: impl std::io::Read + Send + 'static, to: &Arc<Mutex<String>>) {
            let to = to.clone();
            thread::spawn(move || {
                let mut from = BufReader::new(from);
                let mut line = Vec::new();
                while from.read_until(b'\n', &mut line).is_ok_and(|n| n > 0) {
                    to.lock().unwrap().push_str(&String::from_utf8_lossy(&line));
                    line.clear();
                }
            });
        }
        keep(child.stdout.take().unwrap(), &printed);
        keep(child.stderr.take().unwrap(), &printed);
        Process { child, printed }
    }

    /// Standard output and error so far.
    pub fn printed(&self) -> String {
        self.printed.lock().unwrap().clone()
    }

    /// Its end, if it came.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().unwrap()
    }

    /// Its number.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Waits for its end.
    pub fn wait(&mut self) -> ExitStatus {
        wait_for("the process to end", || self.ended())
    }

    /// What it reads. Once.
    pub fn stdin(&mut self) -> ChildStdin {
        self.child.stdin.take().expect("a process that is given what it reads")
    }

    /// Sends it a signal, by its number.
    pub fn signal(&self, signal: i32) {
        let signal = Signal::from_named_raw(signal).expect("a signal");
        // It may have ended.
        let _ = kill_process(Pid::from_child(&self.child), signal);
    }

    /// Gives it a moment to end as it was told to, then kills it.
    pub fn end_within(&mut self, time: Duration) {
        let begin = Instant::now();
        while begin.elapsed() < time && matches!(self.child.try_wait(), Ok(None)) {
            sleep(Duration::from_millis(10));
        }
        self.kill();
    }

    /// Kills it, unless it has ended.
    pub fn kill(&mut self) {
        if !matches!(self.child.try_wait(), Ok(Some(_))) {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}
