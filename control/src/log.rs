//! The daemon's log: one line per event on standard error. Whoever starts the daemon decides where that goes.

use std::io::Write;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Writes each line of `message`, with the time (UTC) before it. If it can't be written there is nowhere to say so.
pub fn log(message: impl AsRef<str>) {
    let time = timestamp();
    for line in message.as_ref().lines() {
        let clean: String = line.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
        let _ = std::io::stderr().write_all(format!("{time} {clean}\n").as_bytes());
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

    /// As [`log`], unless there were too many; whether it was.
    pub fn log(&mut self, now: Instant, message: impl AsRef<str>) -> bool {
        self.since.get_or_insert(now);
        self.lines = self.lines.saturating_add(1);
        let is_logged = self.lines <= Self::LINES;
        if is_logged {
            log(message);
        }
        is_logged
    }

    /// To be called now and then: says how many lines about `what` there were too many, once the time is over.
    pub fn flush(&mut self, now: Instant, what: impl FnOnce() -> String) {
        if self.since.is_some_and(|since| now.saturating_duration_since(since) >= Self::TIME) {
            if let more @ 1.. = self.lines.saturating_sub(Self::LINES) {
                log(format!("{}: {more} more changes in {} seconds", what(), Self::TIME.as_secs()));
            }
            *self = Limit::default();
        }
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
