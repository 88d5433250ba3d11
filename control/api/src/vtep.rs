//! `vtep`: the other VTEPs.

use crate::ConfigChange;
use crate::requests::requests;
use dray_config::Mac;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::net::Ipv4Addr;

requests! {
    /// `vtep`
    VtepRequest in Vtep {
        "vtep.show" Show(VtepShow) -> Vec<VtepInfo>, "vtep show";
        "vtep.add" Add(VtepAdd) -> ConfigChange, "vtep add 10.9.0.4";
        "vtep.del" Del(VtepDel) -> ConfigChange, "vtep del 10.9.0.4 --bridge blue";
    }
}

/// Show the other VTEPs
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct VtepShow {}

/// Add VTEPs to the head-end replication list of the table vxlan, or of a bridge
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct VtepAdd {
    /// A VTEP's address
    pub vteps: Vec<Ipv4Addr>,
    /// The bridge; if it has no list of its own, it gets one with those of the table vxlan
    #[serde(default)]
    pub bridge: Option<String>,
}

/// Take VTEPs out of the head-end replication list of the table vxlan, or of a bridge
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct VtepDel {
    /// A VTEP's address
    pub vteps: Vec<Ipv4Addr>,
    /// The bridge; if it has no list of its own, it gets one with the others of the table vxlan
    #[serde(default)]
    pub bridge: Option<String>,
}

/// One of the reply to `vtep.show`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct VtepInfo {
    /// Its address.
    pub address: Ipv4Addr,
    /// Itself if it is on-link, else the gateway; absent if there is no route.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_hop: Option<Ipv4Addr>,
    /// The next hop's MAC address, once it is resolved.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mac: Option<Mac>,
    /// `resolved`, `resolving`, `static` (configured in `neighbours`) or `no route`.
    pub state: String,
    /// Whether it was learned from a packet, not configured.
    pub learned: bool,
    /// The owners, beside the configuration file, that have it in a list or a static entry.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub owners: Vec<String>,
}
