//! `watch`: what happens, as it happens.

use crate::requests::requests;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::net::Ipv4Addr;

requests! {
    /// `watch`. Notifications follow the reply: see [`Watching`].
    WatchRequest in Watch {
        "watch" Watch(Watch) -> Watching, "watch --kind link --kind vtep";
    }
}

/// Print what happens, as it happens
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Watch {
    /// Only events of this kind; may be given several times
    #[serde(default)]
    pub kinds: Vec<EventKind>,
    /// Begin with the event of this number, if it is still kept; else with the next one
    #[serde(default)]
    pub since: Option<u64>,
}

/// What an event is about.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
#[schemars(inline)]
pub enum EventKind {
    /// A port's link came up or went down
    Link,
    /// A port was added, changed or deleted
    Port,
    /// A bridge was added, changed or deleted
    Bridge,
    /// Another VTEP came, went, or has another state
    Vtep,
    /// Static entries came or went, MAC addresses moved to another port, or a port has more of them than it may
    Fdb,
    /// Packets of a port are dropped for a reason that did not occur in the minute before
    Drop,
    /// A peer was refused
    Refused,
    /// A worker gets no CPU time, or gets some again
    Worker,
    /// Anything else of the configuration was changed, or it was saved
    #[default]
    Config,
    /// Events were lost, as they were not read as fast as they came
    Lost,
    /// Of a kind that this version does not know
    #[serde(other)]
    #[schemars(skip)]
    Other,
}

impl EventKind {
    /// Its name, as in JSON.
    pub fn name(self) -> String {
        serde_json::to_value(self).ok().and_then(|name| name.as_str().map(str::to_owned)).unwrap_or_default()
    }
}

/// Reply to `watch`. Notifications of the method `event` follow, whose `params` are an [`Event`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Watching {
    /// Which drayd it is: another one begins again with the event number 1.
    pub instance: String,
    /// The number of the first event that follows.
    pub next: u64,
    /// How many since the wanted one are not kept any more.
    pub lost: u64,
}

/// Something that happened: what `dray watch --json` prints, one a line.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Event {
    /// Its number: one more than that of the event before it.
    pub seq: u64,
    /// When, UTC, as RFC 3339 writes it.
    pub time: String,
    /// What it is about.
    pub kind: EventKind,
    /// What happened, for people.
    pub text: String,
    /// Who changed the configuration: user and process on the control socket, or `SIGHUP`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub by: Option<String>,
    /// The port it is about.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub port: Option<String>,
    /// The bridge it is about.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bridge: Option<String>,
    /// The VTEP it is about.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vtep: Option<Ipv4Addr>,
    /// What it is now: of a link `up` or `down`, of a VTEP its state, or `gone`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub state: Option<String>,
    /// The drop counter, `stage.reason`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub drop: Option<String>,
    /// How many packets, peers, entries or events.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub count: Option<u64>,
}
