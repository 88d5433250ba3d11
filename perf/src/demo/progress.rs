//! What the demo shows while it works: a line for every step.

use std::fmt;
use std::io::{IsTerminal, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::{Duration, Instant};

/// Why the demo ends before its end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stop {
    /// Something did not work.
    Failed(String),
    /// This machine or user lacks something.
    Needs(String),
    /// A signal asked for the end.
    Signal(i32),
}

impl From<String> for Stop {
    fn from(why: String) -> Stop {
        Stop::Failed(why)
    }
}

/// The signals that end the demo; they are looked at wherever it waits, so that it always cleans up.
#[derive(Clone, Debug)]
pub struct Interrupt {
    /// The last signal, or 0.
    seen: Arc<AtomicUsize>,
    /// Whether there was one.
    flag: Arc<AtomicBool>,
}

impl Interrupt {
    /// Takes over SIGINT, SIGTERM and SIGHUP.
    ///
    /// # Errors
    /// The system's reason.
    pub fn install() -> Result<Interrupt, String> {
        use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
        let interrupt = Interrupt { seen: Arc::default(), flag: Arc::default() };
        for signal in [SIGINT, SIGTERM, SIGHUP] {
            signal_hook::flag::register_usize(signal, Arc::clone(&interrupt.seen), signal as usize)
                .and_then(|_| signal_hook::flag::register(signal, Arc::clone(&interrupt.flag)))
                .map_err(|e| format!("handling signal {signal}: {e}"))?;
        }
        Ok(interrupt)
    }

    /// Becomes true with the first signal.
    pub fn flag(&self) -> &AtomicBool {
        &self.flag
    }

    /// # Errors
    /// [`Stop::Signal`] once there was one.
    pub fn check(&self) -> Result<(), Stop> {
        match self.seen.load(Relaxed) {
            0 => Ok(()),
            signal => Err(Stop::Signal(signal as i32)),
        }
    }

    /// Asks `ready` every 20 ms until it has an answer.
    ///
    /// # Errors
    /// Those of `ready`; a signal; or that there was no answer before `timeout`, with what was waited for.
    pub fn wait<T>(
        &self,
        what: &str,
        timeout: Duration,
        mut ready: impl FnMut() -> Result<Option<T>, Stop>,
    ) -> Result<T, Stop> {
        let end = Instant::now() + timeout;
        loop {
            self.check()?;
            if let Some(answer) = ready()? {
                return Ok(answer);
            }
            if Instant::now() > end {
                return Err(Stop::Failed(format!("{what}: not within {} seconds", timeout.as_secs())));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

/// Colours and weights of a terminal (ECMA-48, SGR).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Style {
    /// As it is.
    #[default]
    Plain,
    /// What things are called.
    Bold,
    /// What frames the rest.
    Dim,
    /// What went well.
    Good,
    /// What did not.
    Bad,
    /// Figures.
    Figure,
}

impl Style {
    /// Begins this style.
    pub fn code(self) -> &'static str {
        match self {
            Style::Plain => "\x1b[0m",
            Style::Bold => "\x1b[1m",
            Style::Dim => "\x1b[2m",
            Style::Good => "\x1b[32m",
            Style::Bad => "\x1b[31m",
            Style::Figure => "\x1b[36m",
        }
    }

    /// `text` in this style, if there are colours at all.
    pub fn paint(self, text: impl fmt::Display, colours: bool) -> String {
        if colours && self != Style::Plain { format!("{}{text}\x1b[0m", self.code()) } else { text.to_string() }
    }
}

/// The lines of the steps.
#[derive(Debug)]
pub struct Progress {
    total: usize,
    step: usize,
    /// Whether standard output is a terminal.
    terminal: bool,
    /// Whether it shows colours: a terminal, and `NO_COLOR` is not set.
    pub colours: bool,
}

const SPINNER: [&str; 8] = ["⣷", "⣯", "⣟", "⡿", "⢿", "⣻", "⣽", "⣾"];

impl Progress {
    /// There will be `total` steps.
    pub fn new(total: usize) -> Progress {
        let terminal = std::io::stdout().is_terminal() && std::env::var_os("TERM").is_none_or(|t| t != "dumb");
        Progress { total, step: 0, terminal, colours: terminal && std::env::var_os("NO_COLOR").is_none() }
    }

    /// Does `work`, which says in a few words what came of it, and shows that.
    ///
    /// # Errors
    /// Those of `work`.
    pub fn step<T>(&mut self, title: &str, work: impl FnOnce() -> Result<(T, String), Stop>) -> Result<T, Stop> {
        self.step += 1;
        let width = self.total.to_string().len();
        let line = format!("[{:>width$}/{}] {title:<36}", self.step, self.total);
        let start = Instant::now();
        let result = std::thread::scope(|scope| {
            // Dropped when the work is done, even if it panics.
            let (working, done) = channel::<()>();
            show(&line);
            if self.terminal {
                let line = &line;
                scope.spawn(move || {
                    for frame in SPINNER.iter().cycle() {
                        if done.recv_timeout(Duration::from_millis(80)) != Err(RecvTimeoutError::Timeout) {
                            return;
                        }
                        show(&format!("\r{line}{frame} {:.0} s", start.elapsed().as_secs_f64()));
                    }
                });
            }
            let result = work();
            drop(working);
            result
        });
        let clear = if self.terminal { format!("\r\x1b[K{line}") } else { String::new() };
        let (word, style, said) = match &result {
            Ok((_, said)) => ("ok", Style::Good, said.as_str()),
            Err(Stop::Signal(_)) => ("interrupted", Style::Bad, ""),
            Err(_) => ("failed", Style::Bad, ""),
        };
        let time = format!("{:5.1} s", start.elapsed().as_secs_f64());
        show(&format!("{clear}{} {time}  {said}\n", style.paint(word, self.colours)));
        result.map(|(value, _)| value)
    }
}

/// Writes at once; a reader that has gone away must not keep the demo from cleaning up.
pub fn show(text: &str) {
    let mut out = std::io::stdout().lock();
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waiting_ends() {
        let interrupt = Interrupt { seen: Arc::default(), flag: Arc::default() };
        let mut asked = 0;
        let third = interrupt.wait("x", Duration::from_secs(5), || {
            asked += 1;
            Ok((asked == 3).then_some(asked))
        });
        assert_eq!(third, Ok(3));
        let never: Result<(), Stop> = interrupt.wait("the moon", Duration::ZERO, || Ok(None));
        assert_eq!(never, Err(Stop::Failed("the moon: not within 0 seconds".into())));
        interrupt.seen.store(15, Relaxed);
        assert_eq!(interrupt.wait("x", Duration::from_secs(5), || Ok(Some(()))), Err(Stop::Signal(15)));
    }
}
