//! What is measured beside an attack, and how much of it there may be.

use serde::Serialize;

/// What an attack did to others. Times are the longest of all that were measured, but for the percentile.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Figures {
    /// Frames of the honest ports that were to be sent, at a rate far below what a worker can move.
    pub offered: u64,
    /// Of these, those that found no room in the ring to the switch, or never came out of it.
    pub lost: u64,
    /// Of these, those that came twice or out of order.
    pub again: u64,
    /// Frames to a known or just learned station that came out of a port where it is not.
    pub flooded: u64,
    /// Microseconds that 99 % of the honest frames were under way at most.
    pub p99_us: f64,
    /// Microseconds that the slowest honest frame was under way: no worker's round lasted longer than this.
    pub longest_us: f64,
    /// Of the honest frames, the share whose time is not known, as the test itself did not get to run.
    pub unmeasured: f64,
    /// Million frames a second of an honest port that sends as many as it can, if that was measured.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mpps: Option<f64>,
    /// The same just before the attack.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub alone_mpps: Option<f64>,
    /// Share of the worker's time that it got for that.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub share: Option<f64>,
    /// Milliseconds until the control socket answered `status` or `port show`.
    pub control_ms: f64,
    /// Milliseconds until an honest memif client was connected.
    pub connect_ms: f64,
    /// Connections of that client that were not made within `super::probes::CONNECT`.
    pub refused: u64,
    /// Milliseconds from the sending of a frame to a memif peer that sleeps until it was awake.
    pub wake_ms: f64,
    /// Milliseconds that `port del` of the attacked port took.
    pub delete_ms: f64,
    /// Milliseconds from SIGTERM until the process had ended.
    pub end_ms: f64,
    /// MiB of private memory more than before the attack.
    pub memory_mib: f64,
    /// Open descriptors more than before the attack.
    pub files: u64,
    /// Inter-processor interrupts a second on the worker's CPU.
    pub interrupts: f64,
    /// How often the attack was made.
    pub tries: u64,
    /// The same a second.
    pub tries_per_second: f64,
    /// What the attacker got that it must not get.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub won: Option<String>,
}

/// The most there may be of each; of `share` the least.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Limits {
    /// Share of the offered frames.
    pub lost: f64,
    /// As in [`Figures`]; so are all that follow.
    pub again: u64,
    #[allow(missing_docs)]
    pub flooded: u64,
    #[allow(missing_docs)]
    pub p99_us: f64,
    #[allow(missing_docs)]
    pub longest_us: f64,
    #[allow(missing_docs)]
    pub share: f64,
    #[allow(missing_docs)]
    pub control_ms: f64,
    #[allow(missing_docs)]
    pub connect_ms: f64,
    #[allow(missing_docs)]
    pub refused: u64,
    #[allow(missing_docs)]
    pub wake_ms: f64,
    #[allow(missing_docs)]
    pub delete_ms: f64,
    #[allow(missing_docs)]
    pub end_ms: f64,
    #[allow(missing_docs)]
    pub memory_mib: f64,
    #[allow(missing_docs)]
    pub files: u64,
    #[allow(missing_docs)]
    pub interrupts: f64,
    #[allow(missing_docs)]
    pub tries_per_second: f64,
}

impl Limits {
    /// What an attack may do to others on a machine that does nothing else.
    ///
    /// The share is half of the worker, less what two measurements of it differ by.
    pub const FULL: Limits = Limits {
        lost: 0.0,
        again: 0,
        flooded: 0,
        p99_us: 1000.0,
        longest_us: 10_000.0,
        share: 0.45,
        control_ms: 100.0,
        connect_ms: 1000.0,
        refused: 0,
        wake_ms: 100.0,
        delete_ms: 1000.0,
        end_ms: 2000.0,
        memory_mib: 64.0,
        files: 512,
        interrupts: 20_000.0,
        tries_per_second: f64::INFINITY,
    };

    /// The same on one that is busy with other tests: only what is wrong by orders of magnitude shows.
    pub const QUICK: Limits = Limits {
        lost: 0.05,
        flooded: 5,
        p99_us: 200_000.0,
        longest_us: 2_000_000.0,
        share: 0.05,
        control_ms: 3000.0,
        connect_ms: 4000.0,
        wake_ms: 2000.0,
        delete_ms: 4000.0,
        end_ms: 5000.0,
        interrupts: f64::INFINITY,
        ..Limits::FULL
    };

    /// The limits that are broken, each with its figure.
    pub fn broken(&self, figures: &Figures) -> Vec<String> {
        let mut broken = Vec::new();
        if figures.lost as f64 > self.lost * figures.offered as f64 {
            let percent = 100.0 * figures.lost as f64 / figures.offered.max(1) as f64;
            broken.push(format!("lost {} frames ({percent:.2} %, at most {:.2} %)", figures.lost, 100.0 * self.lost));
        }
        let at_most = |what: &str, is: f64, most: f64, unit: &str| {
            (is > most).then(|| format!("{what} {} (at most {most}{unit})", amount(is) + unit))
        };
        let f = figures;
        broken.extend(
            [
                at_most("out of order", f.again as f64, self.again as f64, ""),
                at_most("flooded", f.flooded as f64, self.flooded as f64, ""),
                at_most("p99", f.p99_us, self.p99_us, " us"),
                at_most("longest", f.longest_us, self.longest_us, " us"),
                at_most("control", f.control_ms, self.control_ms, " ms"),
                at_most("connect", f.connect_ms, self.connect_ms, " ms"),
                at_most("refused", f.refused as f64, self.refused as f64, ""),
                at_most("wake", f.wake_ms, self.wake_ms, " ms"),
                at_most("delete", f.delete_ms, self.delete_ms, " ms"),
                at_most("end", f.end_ms, self.end_ms, " ms"),
                at_most("memory", f.memory_mib, self.memory_mib, " MiB"),
                at_most("files", f.files as f64, self.files as f64, ""),
                at_most("interrupts", f.interrupts, self.interrupts, "/s"),
                at_most("tries", f.tries_per_second, self.tries_per_second, "/s"),
            ]
            .into_iter()
            .flatten(),
        );
        if let Some(share) = figures.share.filter(|&share| share < self.share) {
            broken.push(format!("share {:.1} % (at least {} %)", 100.0 * share, 100.0 * self.share));
        }
        broken.extend(figures.won.clone());
        broken
    }
}

/// A figure with three digits, or all of those before the point.
pub(super) fn amount(figure: f64) -> String {
    match figure {
        f if f == f.trunc() || f.abs() >= 100.0 => format!("{f:.0}"),
        f if f.abs() >= 10.0 => format!("{f:.1}"),
        f => format!("{f:.2}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_broken_is_named() {
        let good = Figures { offered: 100, share: Some(0.5), ..Figures::default() };
        assert_eq!(Limits::FULL.broken(&good), Vec::<String>::new());
        let bad = Figures {
            offered: 100,
            lost: 1,
            p99_us: 1234.5,
            control_ms: 100.5,
            files: 513,
            share: Some(0.25),
            won: Some("a frame of another bridge".into()),
            ..Figures::default()
        };
        assert_eq!(
            Limits::FULL.broken(&bad),
            [
                "lost 1 frames (1.00 %, at most 0.00 %)",
                "p99 1234 us (at most 1000 us)",
                "control 100 ms (at most 100 ms)",
                "files 513 (at most 512)",
                "share 25.0 % (at least 45 %)",
                "a frame of another bridge"
            ]
        );
        assert_eq!(Limits { lost: 0.01, ..Limits::FULL }.broken(&Figures { offered: 100, lost: 1, ..good }), [""; 0]);
    }
}
