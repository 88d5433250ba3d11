//! `port`: ports, and how others attach to them.

use crate::requests::{is_false, requests};
use crate::{ConfigChange, PortDetail, PortKeys};
use dray_config::Mac;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

requests! {
    /// `port`
    PortRequest in Port {
        "port.show" Show(PortShow) -> PortShown, "port show web";
        "port.add" Add(PortAdd) -> ConfigChange,
            "port add web --kind memif --socket /run/dray/web/memif.sock --bridge blue";
        "port.del" Del(PortDel) -> ConfigChange, "port del web";
        "port.set" Set(PortSet) -> ConfigChange, "port set web description Web server";
        "port.up" Up(PortUp) -> ConfigChange, "port up web";
        "port.down" Down(PortDown) -> ConfigChange, "port down web";
        "port.clear" Clear(PortClear) -> ConfigChange, "port clear web";
    }
}

/// Show ports
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PortShow {
    /// Only this port, or those that match a pattern with * and ?
    pub name: Option<String>,
    /// Only those in this bridge, or in any that matches
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bridge: Option<String>,
    /// Only those whose link is up
    #[serde(default, skip_serializing_if = "is_false")]
    pub up: bool,
    /// Only those whose link is down
    #[serde(default, skip_serializing_if = "is_false")]
    pub down: bool,
    /// Show how other programs attach to it, ready to paste
    #[serde(default)]
    pub connect: bool,
    /// Show the secret in it, not "***"
    #[serde(default, skip_serializing_if = "is_false")]
    pub secrets: bool,
}

/// Delete a port, and take it out of its bridges
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PortDel {
    /// Its name
    pub name: String,
}

/// Change a key of a port
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PortSet {
    /// Its name
    pub name: String,
    /// The key, as in the configuration file
    pub key: String,
    /// Its value; its default without one
    #[serde(default)]
    pub values: Vec<String>,
}

/// Open a port that is administratively down
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PortUp {
    /// Its name
    pub name: String,
}

/// Close a port and keep it closed: its peer is told, and no frame is taken or sent
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PortDown {
    /// Its name
    pub name: String,
}

/// Count a port's packets and drops from zero again; the metrics and the switch's sums go on
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PortClear {
    /// Its name, or a pattern with * and ? [default: all ports]
    pub name: Option<String>,
}

/// Add a port; the flags are the keys of the configuration file
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PortAdd {
    /// Its name
    pub name: String,
    /// Its keys.
    #[serde(flatten)]
    pub keys: PortKeys,
    /// Put it in this bridge, untagged or with a VLAN; may be given several times
    #[serde(default)]
    pub bridges: Vec<String>,
}

/// Reply to `port.show`: the ports, or with `connect` how others attach to one.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
#[schemars(inline)]
pub enum PortShown {
    /// With `connect`: a way for each program that can. Without ports there is nothing to tell this by, and nothing to tell.
    Connects(Vec<ConnectInfo>),
    /// The ports, in the order of the configuration.
    Ports(Vec<PortInfo>),
}

impl PortShown {
    /// The ports; none, if `connect` was asked.
    pub fn ports(self) -> Vec<PortInfo> {
        match self {
            PortShown::Ports(ports) => ports,
            PortShown::Connects(_) => Vec::new(),
        }
    }

    /// How others attach; nothing, if `connect` was not asked.
    pub fn connects(self) -> Vec<ConnectInfo> {
        match self {
            PortShown::Connects(connects) => connects,
            PortShown::Ports(_) => Vec::new(),
        }
    }
}

/// One of the reply to `port.show`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct PortInfo {
    /// Its name.
    pub name: String,
    /// `memif`, `vhost-user` or `eth`.
    pub kind: String,
    /// What people call it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// Whose it is, if it is not the configuration file's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub owner: Option<String>,
    /// Whether it is to be open: `up` or `down`.
    pub admin: String,
    /// `up` or `down`.
    pub link: String,
    /// Why it is down. If somebody was refused since, why that was.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Peers that were refused, since the port was opened.
    pub refused: u64,
    /// Of these, those with a wrong secret.
    pub wrong_secrets: u64,
    /// Why the last of them was, and its process.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub refusal: Option<String>,
    /// Packets received.
    pub rx_packets: u64,
    /// Bytes received, without FCS.
    pub rx_bytes: u64,
    /// Packets sent.
    pub tx_packets: u64,
    /// Bytes sent, without FCS.
    pub tx_bytes: u64,
    /// Packets dropped, by reason; reasons that never occurred are left out. Drops on reception and of packets
    /// received here, and drops of packets on their way out here.
    pub drops: BTreeMap<String, u64>,
    /// Copies made of packets received here by flooding.
    pub flood_copies: u64,
    /// Packets added by segmentation of packets on their way out here.
    pub segments: u64,
    /// Packets received here, copies included, that were handed to other ports.
    /// `rx_packets + flood_copies = switched + consumed + drops` (but those of `tx.`).
    pub switched: u64,
    /// Packets received here that were addressed to the switch itself.
    pub consumed: u64,
    /// Packets that the switch itself made to be sent here.
    pub originated: u64,
    /// Packets received here whose source address found no room in the FDB. They were forwarded all the same.
    pub not_learned: u64,
    /// Packets received here whose source address was not learned, or was left at another port, because as many as may be (`max_macs`)
    /// are learned here already. They were forwarded all the same.
    pub over_max_macs: u64,
    /// What else is counted of packets received here: those of the [counters](#counters) that have no field of their own.
    pub counters: BTreeMap<String, u64>,
    /// MAC addresses learned behind it now; for the underlay behind all VTEPs.
    pub macs: u64,
    /// How many may be.
    pub max_macs: u64,
    /// The port's own MAC address.
    pub mac: Mac,
    /// What it may send with: MAC addresses, with the link-local addresses that are made from them, and IP addresses and prefixes; `any`
    /// if nobody looks.
    pub allowed_addresses: Vec<String>,
    /// Longest Ethernet payload, bytes.
    pub mtu: u16,
    /// Queue pairs in use, or configured while the link is down.
    pub queues: u16,
    /// The bridges it is in, and with which VLAN.
    pub bridges: Vec<PortBridge>,
    /// Whether it is the underlay.
    pub underlay: bool,
    /// What is not as it should be though frames pass, in words.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
    /// What only this kind has.
    pub detail: PortDetail,
}

/// A bridge that a port is in.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct PortBridge {
    /// The bridge's name.
    pub bridge: String,
    /// The VLAN, if the port is tagged in it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vlan: Option<u16>,
}

/// One of the reply to `port.show` with `connect`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ConnectInfo {
    /// The program that would attach to the port, such as `testpmd`.
    pub program: String,
    /// What to paste. Only comments, if the program can't be given the port's socket or secret.
    pub text: String,
    /// What to know before: which versions work, or that Dray's tests can't run these lines.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
}
