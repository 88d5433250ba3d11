//! `bridge`: bridges and their members.

use crate::requests::requests;
use crate::{BridgeKeys, ConfigChange};
use dray_config::Member;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::net::Ipv4Addr;

requests! {
    /// `bridge`
    BridgeRequest in Bridge {
        "bridge.show" Show(BridgeShow) -> Vec<BridgeInfo>, "bridge show";
        "bridge.add" Add(BridgeAdd) -> ConfigChange, "bridge add blue --vni 42 --port web --port trunk:10";
        "bridge.del" Del(BridgeDel) -> ConfigChange, "bridge del blue";
        "bridge.join" Join(BridgeJoin) -> ConfigChange, "bridge join blue web trunk:10";
        "bridge.leave" Leave(BridgeLeave) -> ConfigChange, "bridge leave blue trunk:10";
        "bridge.set" Set(BridgeSet) -> ConfigChange, "bridge set blue vni 42";
    }
}

/// Show bridges
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct BridgeShow {
    /// Only this bridge, or those that match a pattern with * and ?
    pub name: Option<String>,
}

/// Add a bridge; the flags are the keys of the configuration file
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct BridgeAdd {
    /// Its name
    pub name: String,
    /// Its keys.
    #[serde(flatten)]
    pub keys: BridgeKeys,
    /// A member, untagged or with a VLAN; may be given several times
    #[serde(default)]
    pub ports: Vec<Member>,
}

/// Delete a bridge; its ports stay
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct BridgeDel {
    /// Its name
    pub name: String,
}

/// Put ports into a bridge
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct BridgeJoin {
    /// The bridge's name
    pub name: String,
    /// A port, untagged or with a VLAN
    pub ports: Vec<Member>,
}

/// Take ports out of a bridge, and its static entries that lead there
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct BridgeLeave {
    /// The bridge's name
    pub name: String,
    /// A port; with the VLAN, if it is there with several
    pub ports: Vec<Member>,
}

/// Change a key of a bridge
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct BridgeSet {
    /// Its name
    pub name: String,
    /// The key, as in the configuration file
    pub key: String,
    /// Its value, several for a list; its default without one
    #[serde(default)]
    pub values: Vec<String>,
}

/// One of the reply to `bridge.show`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct BridgeInfo {
    /// Its name.
    pub name: String,
    /// What people call it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// Whose it is, if it is not the configuration file's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub owner: Option<String>,
    /// Its VXLAN network identifier.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vni: Option<u32>,
    /// Largest MTU that fits all members and tunnels, bytes; absent if there are none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mtu: Option<u16>,
    /// Its members.
    pub members: Vec<Member>,
    /// MAC addresses known in it.
    pub macs: u64,
    /// Where a broadcast goes: members, and VTEPs of the head-end replication list.
    pub flood_targets: usize,
    /// Its head-end replication list.
    pub peers: Vec<Ipv4Addr>,
}
