//! `worker`: the workers, and where their time goes.

use crate::requests::requests;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

requests! {
    /// `worker`
    WorkerRequest in Worker {
        "worker.show" Show(WorkerShow) -> Vec<WorkerInfo>, "worker show";
    }
}

/// Show the workers, and where their time goes
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct WorkerShow {
    /// Since the workers started, not in the last second
    #[serde(default)]
    pub total: bool,
}

/// One of the reply to `worker.show`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct WorkerInfo {
    /// The CPU it is pinned to.
    pub cpu: usize,
    /// The receive queues it polls: the port's name, and ` xN` if it has several of them.
    pub queues: Vec<String>,
    /// What each of them brings.
    pub loads: Vec<QueueInfo>,
    /// Times it went round all its queues.
    pub polls: u64,
    /// Share of the last second that it spent on packets, 0..=1; with `total`, of the time since it started.
    pub busy: f64,
    /// Share of the time in which it found nothing to do: `1 - busy`.
    pub idle: f64,
    /// Packets received since it started.
    pub packets: u64,
    /// Packets per poll that found some, since it started.
    pub burst: f64,
    /// Ticks of the CPU's time-stamp counter spent on each packet received in that time; left out if there were none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ticks_per_packet: Option<f64>,
    /// The same in nanoseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ns_per_packet: Option<f64>,
    /// Where they were spent, in a packet's order: the stages that had any packets.
    pub stages: Vec<StageInfo>,
    /// Seconds for which it has not run, 1 or more; left out if it runs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub silent_seconds: Option<f64>,
    /// Changes that it has yet to take up.
    pub waiting: usize,
}

/// A receive queue of a worker.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct QueueInfo {
    /// The port's name.
    pub port: String,
    /// Which of the port's receive queues, from 0.
    pub queue: u16,
    /// Packets received since the link came up, on whichever worker.
    pub packets: u64,
    /// Share of the worker's time that they took in the last second, 0..=1; with `total`, of all its time.
    pub share: f64,
    /// Ticks of the CPU's time-stamp counter that they took since the link came up, on whichever worker.
    pub ticks: u64,
}

/// What a stage of a worker takes, found in a sample of the bursts (one of 31).
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct StageInfo {
    /// Its name: one of the [stages](#stages).
    pub stage: String,
    /// Ticks of the CPU's time-stamp counter for each packet that the stage had to do with.
    pub ticks_per_packet: f64,
    /// The same in nanoseconds.
    pub ns_per_packet: f64,
    /// Packets per burst, of the bursts in which the stage had any.
    pub packets_per_burst: f64,
    /// Its share of the time of all stages, 0..=1.
    pub share: f64,
    /// Packets in the sample.
    pub sampled: u64,
}
