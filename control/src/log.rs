//! The daemon's log: one line per event on standard error. Whoever starts the daemon decides where that goes.
//!
//! A line has a level and a target, by which it is chosen ([`set_level`]), and it begins with its target: `config: + bridge blue`.
//! Lines about a port have it as a field: `info!(target: "port", port = %name, "up")` is `port web: up`. Those of the target
//! [`ITSELF`] have no such beginning.

use rustix::fs::fstat;
use std::fmt::{self, Write as _};
use std::io::Write;
use std::sync::OnceLock;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};
use tracing_subscriber::registry::Registry;
use tracing_subscriber::reload;

/// The target of lines about drayd as a whole.
pub const ITSELF: &str = "drayd";

static FILTER: OnceLock<reload::Handle<Targets, Registry>> = OnceLock::new();

/// Begins to log lines of `level`, a value of the key `level` of `[log]`.
pub fn start(level: &str) {
    let (filter, handle) = reload::Layer::new(targets(level));
    let lines = Lines { journal: is_journal() };
    if tracing::subscriber::set_global_default(Registry::default().with(filter).with(lines)).is_ok() {
        let _ = FILTER.set(handle);
    }
}

/// From now on lines of `level` are logged.
pub fn set_level(level: &str) {
    if let Some(filter) = FILTER.get() {
        // The subscriber lives as long as the process.
        let _ = filter.reload(targets(level));
    }
}

fn targets(level: &str) -> Targets {
    // The configuration has been checked.
    level.parse().unwrap_or_else(|_| Targets::new().with_default(Level::INFO))
}

/// Whether standard error is journald's (systemd.exec(5), `JOURNAL_STREAM`), which has the time by itself.
fn is_journal() -> bool {
    let Ok(stream) = std::env::var("JOURNAL_STREAM") else { return false };
    fstat(std::io::stderr()).is_ok_and(|stderr| stream == format!("{}:{}", stderr.st_dev, stderr.st_ino))
}

/// Writes lines.
struct Lines {
    journal: bool,
}

impl<S: Subscriber> Layer<S> for Lines {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let mut text = Text::default();
        event.record(&mut text);
        let meta = event.metadata();
        let begin = match (meta.target(), text.port) {
            (ITSELF, _) => String::new(),
            (target, None) => format!("{target}: "),
            (target, Some(port)) => format!("{target} {port}: "),
        };
        // What is not the matter of course is said; journald has a field for it, and people's lines a word.
        let (priority, word) = match *meta.level() {
            Level::ERROR => (3, "error: "),
            Level::WARN => (4, "warning: "),
            Level::INFO => (6, ""),
            Level::DEBUG | Level::TRACE => (7, "debug: "),
        };
        let before = if self.journal { format!("<{priority}>") } else { format!("{} {word}", timestamp()) };
        for (n, line) in text.message.lines().enumerate() {
            let clean: String = line.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
            let begin = if n == 0 { begin.as_str() } else { "" };
            // If it can't be written there is nowhere to say so.
            let _ = std::io::stderr().write_all(format!("{before}{begin}{clean}\n").as_bytes());
        }
    }
}

/// An event's text and fields.
#[derive(Default)]
struct Text {
    message: String,
    port: Option<String>,
}

impl Visit for Text {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        match field.name() {
            "message" => self.message = format!("{value:?}"),
            "port" => self.port = Some(format!("{value:?}")),
            name => drop(write!(self.message, " {name}={value:?}")),
        }
    }
}

/// Lines about one thing, in a time: what others can make happen must not fill the log.
#[derive(Default)]
pub struct Limit {
    since: Option<Instant>,
    lines: u32,
}

impl Limit {
    /// Lines in [`Limit::TIME`].
    const LINES: u32 = 10;
    const TIME: Duration = Duration::from_secs(10);

    /// Whether one more line may be written.
    pub fn admits(&mut self, now: Instant) -> bool {
        self.since.get_or_insert(now);
        self.lines = self.lines.saturating_add(1);
        self.lines <= Self::LINES
    }

    /// To be called now and then: once the time is over, that there were too many lines, if there were.
    pub fn flush(&mut self, now: Instant) -> Option<String> {
        if self.since.is_none_or(|since| now.saturating_duration_since(since) < Self::TIME) {
            return None;
        }
        let more = self.lines.saturating_sub(Self::LINES);
        *self = Limit::default();
        (more > 0).then(|| format!("{more} more changes in {} seconds", Self::TIME.as_secs()))
    }
}

/// The time now (UTC), as RFC 3339 writes it.
pub fn timestamp() -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    rfc3339(now.as_secs(), now.subsec_millis())
}

/// Seconds and milliseconds since 1970 as RFC 3339 writes them.
fn rfc3339(seconds: u64, milliseconds: u32) -> String {
    let (day, second) = ((seconds / 86_400) as i64, seconds % 86_400);
    // Days to civil date, in eras of 400 years that begin in March.
    let shifted = day + 719_468;
    let (era, day) = (shifted.div_euclid(146_097), shifted.rem_euclid(146_097));
    let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let day = day - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    let year = year + era * 400 + i64::from(month <= 2);
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{milliseconds:03}Z")
}

#[cfg(test)]
mod tests {
    #[test]
    fn dates() {
        assert_eq!(super::rfc3339(0, 0), "1970-01-01T00:00:00.000Z");
        assert_eq!(super::rfc3339(951_782_399, 999), "2000-02-28T23:59:59.999Z");
        assert_eq!(super::rfc3339(951_782_400, 1), "2000-02-29T00:00:00.001Z");
        assert_eq!(super::rfc3339(1_735_689_599, 0), "2024-12-31T23:59:59.000Z");
    }
}
