//! `vtep`: the other VTEPs.

use clap::Subcommand;
use dray_config::Mac;
use serde::{Deserialize, Serialize};
use std::net::Ipv4Addr;

/// `vtep`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, Subcommand)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum VtepRequest {
    /// Show the other VTEPs
    Show {},
    /// Add VTEPs to the head-end replication list of the table vxlan, or of a bridge
    Add {
        /// A VTEP's address
        #[arg(value_name = "IP", required = true)]
        vteps: Vec<Ipv4Addr>,
        /// The bridge; if it has no list of its own, it gets one with those of the table vxlan
        #[arg(long)]
        #[serde(default)]
        bridge: Option<String>,
    },
    /// Take VTEPs out of the head-end replication list of the table vxlan, or of a bridge
    Del {
        /// A VTEP's address
        #[arg(value_name = "IP", required = true)]
        vteps: Vec<Ipv4Addr>,
        /// The bridge; if it has no list of its own, it gets one with the others of the table vxlan
        #[arg(long)]
        #[serde(default)]
        bridge: Option<String>,
    },
}

/// One of the reply to `vtep.show`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
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
}
