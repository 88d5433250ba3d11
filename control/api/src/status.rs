//! `status`: what the switch is and does.

use crate::requests::requests;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

requests! {
    /// `status`
    StatusRequest in Status {
        "status" Show(StatusShow) -> Status, "status";
    }
}

/// What the switch is and does
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct StatusShow {}

/// Reply to `status`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Status {
    /// Version of drayd.
    pub version: String,
    /// Version of the control protocol.
    pub protocol: u32,
    /// Process id of drayd.
    pub pid: u32,
    /// Seconds since drayd started.
    pub uptime_seconds: u64,
    /// Number of workers.
    pub workers: usize,
    /// Workers that do not run.
    pub silent_workers: Vec<SilentWorker>,
    /// The configuration's generation: another number, and a greater one, after every change of it.
    pub generation: u64,
    /// Number of ports.
    pub ports: usize,
    /// Ports whose link is up.
    pub ports_up: usize,
    /// Number of bridges.
    pub bridges: usize,
    /// Who was refused on a socket and is not known to have wanted any port.
    pub strangers: u64,
    /// Why the last of them was, on which socket, and its process.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stranger: Option<String>,
    /// Other VTEPs known.
    pub vteps: usize,
    /// MAC addresses in the FDB.
    pub fdb_used: u64,
    /// MAC addresses it can hold.
    pub fdb_size: u64,
    /// Packets received on all ports. `received + originated + flood_copies + segments = sent + dropped + consumed`.
    pub received: u64,
    /// Packets sent on all ports.
    pub sent: u64,
    /// Packets dropped, for whatever reason.
    pub dropped: u64,
    /// Copies made by flooding: one less than the receivers of a flooded packet.
    pub flood_copies: u64,
    /// Packets added by segmentation: one less than the pieces that a packet was cut into.
    pub segments: u64,
    /// Packets the switch made itself, such as ARP.
    pub originated: u64,
    /// Packets addressed to the switch itself, such as ARP, that it took in.
    pub consumed: u64,
}

/// A worker that gets no CPU time: its ports' packets wait, and so do changes of the configuration.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct SilentWorker {
    /// The CPU it is pinned to.
    pub cpu: usize,
    /// Seconds for which it has not run, 1 or more.
    pub seconds: f64,
    /// Changes that wait until it runs.
    pub waiting: usize,
}
