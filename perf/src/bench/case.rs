//! What is sent, and what is to be reached.

use crate::frames::{FLOWS_MAX, SIZE_MAX, SIZE_MIN};
use crate::peer::Kind;
use serde::Serialize;
use std::fmt;
use std::str::FromStr;

/// What a switch does to frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Way {
    /// Passes them on.
    Plain,
    /// Wraps them in VXLAN.
    Encapsulate,
    /// Unwraps them.
    Decapsulate,
}

/// Frames of a size, in a number of flows, between ports of a kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Case {
    /// The ports.
    pub link: Kind,
    /// vhost-user: packed rings instead of split ones.
    pub packed: bool,
    /// What becomes of the frames.
    pub way: Way,
    /// Bytes of a frame, without FCS; with VXLAN, of the inner one.
    pub size: usize,
    /// Flows; a switch learns two MACs of each.
    pub flows: u32,
    /// Whether the generator reads all bytes of what it receives, and not only their lengths.
    pub read: bool,
}

/// The cases of a whole run: the least that Dray is to reach in each, as a multiple of what testpmd io reaches with frames of
/// that size between ports of that kind.
pub const CASES: [(Case, Option<f64>); 17] = [
    (Case::memif(60, 1), Some(1.25)),
    (Case::memif(60, 1_000), Some(1.25)),
    (Case::memif(60, 10_000), Some(1.05)),
    (Case::memif(60, 100_000), Some(0.95)),
    (Case::memif(60, 1_000_000), Some(0.5)),
    (Case::memif(512, 1_000), Some(2.0)),
    (Case::memif(1514, 1_000), Some(1.7)),
    (Case { read: true, ..Case::memif(1514, 1_000) }, None),
    (Case { way: Way::Encapsulate, ..Case::memif(60, 1_000) }, Some(1.0)),
    (Case { way: Way::Decapsulate, ..Case::memif(60, 1_000) }, Some(1.0)),
    (Case::vhost_user(60, 1), Some(2.0)),
    (Case::vhost_user(60, 1_000), Some(2.0)),
    (Case::vhost_user(60, 100_000), None),
    (Case::vhost_user(512, 1_000), None),
    (Case::vhost_user(1514, 1_000), Some(2.2)),
    (Case { read: true, ..Case::vhost_user(1514, 1_000) }, None),
    (Case { packed: true, ..Case::vhost_user(60, 1_000) }, None),
];

impl Case {
    /// Between memif ports.
    pub const fn memif(size: usize, flows: u32) -> Case {
        Case { link: Kind::Memif, packed: false, way: Way::Plain, size, flows, read: false }
    }

    /// Between vhost-user ports.
    pub const fn vhost_user(size: usize, flows: u32) -> Case {
        Case { link: Kind::VhostUser, ..Case::memif(size, flows) }
    }

    /// The same without VXLAN.
    pub fn plain(self) -> Case {
        Case { way: Way::Plain, ..self }
    }

    /// What is to be reached, as a multiple of testpmd io.
    pub fn target(self) -> Option<f64> {
        CASES.iter().find(|(case, _)| *case == self).and_then(|(_, target)| *target)
    }

    /// The ports and what becomes of frames, such as "memif" or "VXLAN encapsulation".
    pub fn path(self) -> &'static str {
        match (self.way, self.link, self.packed) {
            (Way::Encapsulate, _, _) => "VXLAN encapsulation",
            (Way::Decapsulate, _, _) => "VXLAN decapsulation",
            (Way::Plain, Kind::VhostUser, true) => "vhost-user packed",
            (Way::Plain, kind, _) => kind.name(),
        }
    }

    /// Room that a switch's FDB needs, and not less than most users have.
    pub fn macs(self) -> usize {
        (2 * self.flows as usize).max(1 << 20).next_power_of_two()
    }
}

impl FromStr for Case {
    type Err = String;

    /// Reads SIZExFLOWS, with what [`Case::path`] is not "memif" for before it, and what is not usual behind it.
    fn from_str(s: &str) -> Result<Case, String> {
        let (s, read) = s.strip_suffix("+read").map_or((s, false), |s| (s, true));
        let (what, rest) = s.split_once(':').unwrap_or(("memif", s));
        let memif = Case::memif(60, 1);
        let case = match what {
            "memif" => Some(memif),
            "vhost" => Some(Case::vhost_user(60, 1)),
            "packed" => Some(Case { packed: true, ..Case::vhost_user(60, 1) }),
            "encap" => Some(Case { way: Way::Encapsulate, ..memif }),
            "decap" => Some(Case { way: Way::Decapsulate, ..memif }),
            _ => None,
        };
        let figures = rest.split_once('x').and_then(|(size, flows)| Some((size.parse().ok()?, flows.parse().ok()?)));
        case.zip(figures)
            .map(|(case, (size, flows))| Case { size, flows, read, ..case })
            .filter(|c| (SIZE_MIN..=SIZE_MAX).contains(&c.size) && (1..=FLOWS_MAX).contains(&c.flows))
            .ok_or_else(|| {
                "a case is SIZExFLOWS, like 60x1000, between memif ports, or vhost:, packed:, encap: or decap: and that; \
                 with +read behind it the generator reads what it receives"
                    .into()
            })
    }
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} B, {}{}", self.path(), self.size, flows(self.flows), if self.read { ", read" } else { "" })
    }
}

/// 1,000 flows.
pub fn flows(n: u32) -> String {
    if n == 1 { "1 flow".into() } else { format!("{} flows", thousands(n.into())) }
}

/// 1234567 as 1,234,567.
pub fn thousands(n: u64) -> String {
    let digits = n.to_string();
    let mut out = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i != 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        let name = |s: &str| s.parse::<Case>().unwrap().to_string();
        assert_eq!(name("60x1"), "memif 60 B, 1 flow");
        assert_eq!(name("vhost:60x1000"), "vhost-user 60 B, 1,000 flows");
        assert_eq!(name("packed:60x1000"), "vhost-user packed 60 B, 1,000 flows");
        assert_eq!(name("encap:1400x1000000"), "VXLAN encapsulation 1400 B, 1,000,000 flows");
        assert_eq!(name("decap:60x1"), "VXLAN decapsulation 60 B, 1 flow");
        assert_eq!(name("vhost:1514x1000+read"), "vhost-user 1514 B, 1,000 flows, read");
        for wrong in ["59x1", "60", "60x0", "60x1000001", "veth:60x1", "60x1+write"] {
            assert!(wrong.parse::<Case>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn targets() {
        assert_eq!(Case::memif(60, 1_000).target(), Some(1.25));
        assert_eq!("encap:60x1000".parse::<Case>().unwrap().target(), Some(1.0));
        assert_eq!("packed:60x1000".parse::<Case>().unwrap().target(), None);
        assert_eq!(Case::memif(61, 1_000).target(), None);
        let mut cases: Vec<String> = CASES.iter().map(|(case, _)| case.to_string()).collect();
        cases.sort();
        cases.dedup();
        assert_eq!(cases.len(), CASES.len());
    }
}
