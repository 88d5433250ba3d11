//! `bridge`: bridges and their members.

use clap::Subcommand;
use dray_config::Member;
use serde::{Deserialize, Serialize};
use std::net::Ipv4Addr;

/// `bridge`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, Subcommand)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum BridgeRequest {
    /// Show bridges
    Show {
        /// Only this bridge, or those that match a pattern with * and ?
        name: Option<String>,
    },
    /// Add a bridge
    Add {
        /// Its name
        name: String,
        /// What people call it
        #[arg(long, value_name = "TEXT")]
        #[serde(default, skip_serializing_if = "Option::is_none")]
        description: Option<String>,
        /// VXLAN network identifier with which it joins the overlay
        #[arg(long)]
        vni: Option<u32>,
        /// A member, untagged or with a VLAN; may be given several times
        #[arg(long = "port", value_name = "PORT[:VLAN]")]
        #[serde(default)]
        ports: Vec<Member>,
    },
    /// Delete a bridge; its ports stay
    Del {
        /// Its name
        name: String,
    },
    /// Put ports into a bridge
    Join {
        /// The bridge's name
        name: String,
        /// A port, untagged or with a VLAN
        #[arg(value_name = "PORT[:VLAN]", required = true)]
        ports: Vec<Member>,
    },
    /// Take ports out of a bridge, and its static entries that lead there
    Leave {
        /// The bridge's name
        name: String,
        /// A port; with the VLAN, if it is there with several
        #[arg(value_name = "PORT[:VLAN]", required = true)]
        ports: Vec<Member>,
    },
    /// Change a key of a bridge
    Set {
        /// Its name
        name: String,
        /// The key, as in the configuration file
        key: String,
        /// Its value, several for a list; its default without one
        #[arg(value_name = "VALUE")]
        #[serde(default)]
        values: Vec<String>,
    },
}

/// One of the reply to `bridge.show`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct BridgeInfo {
    /// Its name.
    pub name: String,
    /// What people call it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
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
