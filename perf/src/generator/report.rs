//! What a run gave.

use crate::latency::Latency;
use serde::Serialize;

/// What became of one direction's frames.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Direction {
    /// Frames sent.
    pub sent: u64,
    /// Frames received, those that came after the end of sending included.
    pub received: u64,
    /// Frames that never came: sent minus received.
    pub lost: u64,
    /// Frames received that were looked at.
    pub sampled: u64,
    /// Of those: times that a frame came later than its successors, which may be of other flows.
    pub reordered: u64,
    /// Frames that came more than once, seen in the sample or by more frames received than sent.
    pub duplicated: u64,
    /// Of those looked at: not ours.
    pub foreign: u64,
    /// Million frames received a second while sending.
    pub mpps: f64,
    /// Gigabit received a second while sending: frames as they come, without FCS, preamble and gap.
    pub gbps: f64,
    /// Percent of the attempts to send that found too little room in the ring: if it is most of them, the switch is what is
    /// waited for.
    pub held_up: f64,
    /// How long frames were under way, if that was asked for and any came.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub latency: Option<Latency>,
}

/// What a run gave.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Report {
    /// Kind of the links: "memif" or "vhost-user".
    pub link: &'static str,
    /// Bytes of a frame, without FCS and outer headers; of a mix, the mean, rounded.
    pub size: usize,
    /// The sizes that are sent in turn, if they are several.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub mix: Vec<usize>,
    /// 802.1Q tag of the frames.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vlan: Option<u16>,
    /// VXLAN network identifier of link B's frames.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vni: Option<u32>,
    /// Flows of each direction.
    pub flows: u32,
    /// Whether all bytes of every received frame were read.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub read: bool,
    /// Frames a second of each direction that were asked for; 0: as many as possible.
    pub rate: u64,
    /// Seconds of sending.
    pub seconds: f64,
    /// Million frames received a second, all directions.
    pub mpps: f64,
    /// Gigabit received a second, all directions.
    pub gbps: f64,
    /// From A to B, if A sent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub a_to_b: Option<Direction>,
    /// From B to A, if B sent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub b_to_a: Option<Direction>,
}

impl Direction {
    /// What this run and another gave together, of whose time the first has the share `own`.
    fn and(self, other: Direction, own: f64) -> Direction {
        let mean = |a: f64, b: f64| own * a + (1.0 - own) * b;
        Direction {
            sent: self.sent + other.sent,
            received: self.received + other.received,
            lost: self.lost + other.lost,
            sampled: self.sampled + other.sampled,
            reordered: self.reordered + other.reordered,
            duplicated: self.duplicated + other.duplicated,
            foreign: self.foreign + other.foreign,
            mpps: mean(self.mpps, other.mpps),
            gbps: mean(self.gbps, other.gbps),
            held_up: mean(self.held_up, other.held_up),
            // Percentiles can't be added.
            latency: None,
        }
    }
}

impl Report {
    /// What this run and another of the same frames gave together, but for how long they were under way.
    pub fn and(self, other: Report) -> Report {
        let seconds = self.seconds + other.seconds;
        let own = self.seconds / seconds;
        let both = |a: Option<Direction>, b: Option<Direction>| a.zip(b).map(|(a, b)| a.and(b, own));
        let mut report = Report {
            seconds,
            a_to_b: both(self.a_to_b, other.a_to_b),
            b_to_a: both(self.b_to_a, other.b_to_a),
            ..self
        };
        report.sum();
        report
    }

    /// Adds up the directions' rates.
    pub(super) fn sum(&mut self) {
        self.mpps = self.directions().map(|d| d.mpps).sum();
        self.gbps = self.directions().map(|d| d.gbps).sum();
    }

    /// The directions that there were.
    pub fn directions(&self) -> impl Iterator<Item = &Direction> {
        self.a_to_b.iter().chain(&self.b_to_a)
    }
}
