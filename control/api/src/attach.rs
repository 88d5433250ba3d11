//! `attach`, `detach` and `expose`: containers, and the host itself, get a device in a bridge while they run.

use crate::ConfigChange;
use crate::requests::{is_false, requests};
use dray_config::Mac;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::net::IpAddr;

requests! {
    /// `attach`
    AttachRequest in Attach {
        "attach" Attach(Attach) -> Attached, "attach web --bridge blue --ip 10.32.0.1/24";
    }
}

requests! {
    /// `detach`
    DetachRequest in Detach {
        "detach" Detach(Detach) -> ConfigChange, "detach web";
    }
}

requests! {
    /// `expose`
    ExposeRequest in Expose {
        "expose" Expose(Expose) -> Attached, "expose --bridge blue --ip 10.32.0.254/24";
    }
}

/// Give a running container a network device in a bridge
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Attach {
    /// A name or id of Docker, Podman or containerd, a process id, or a network namespace's name or path
    pub container: String,
    /// The bridge
    pub bridge: String,
    /// An address with the length of its network's prefix; may be given several times
    #[serde(default)]
    pub ips: Vec<String>,
    /// Where its default route leads, one for IPv4 and one for IPv6
    #[serde(default)]
    pub gateways: Vec<IpAddr>,
    /// The device's MAC address [default: made from the port's name]
    #[serde(default)]
    pub mac: Option<Mac>,
    /// The VLAN with which the container tags what is for the bridge
    #[serde(default)]
    pub vlan: Option<u16>,
    /// The device's name in the container [default: the next free of eth0, eth1, ...]
    #[serde(default)]
    pub name: Option<String>,
    /// Longest Ethernet payload (bytes) [default: 1500 or what fits the tunnels]
    #[serde(default)]
    pub mtu: Option<u16>,
    /// Attach it again whenever a container of that name starts
    #[serde(default, skip_serializing_if = "is_false")]
    pub keep: bool,
    /// The file of the container's network namespace [default: what CONTAINER stands for]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub netns: Option<String>,
}

/// Take a container's devices away that attach has given it
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Detach {
    /// The container, as for attach
    pub container: String,
    /// The device's name in the container [default: all of them]
    #[serde(default)]
    pub name: Option<String>,
}

/// Give this host a network device in a bridge, or take it away
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Expose {
    /// The bridge
    pub bridge: String,
    /// An address with the length of its network's prefix; may be given several times
    #[serde(default)]
    pub ips: Vec<String>,
    /// The device's MAC address [default: made from the port's name]
    #[serde(default)]
    pub mac: Option<Mac>,
    /// The VLAN with which the host tags what is for the bridge
    #[serde(default)]
    pub vlan: Option<u16>,
    /// The device's name [default: the next free of dray0, dray1, ...]
    #[serde(default)]
    pub name: Option<String>,
    /// Longest Ethernet payload (bytes) [default: 1500 or what fits the tunnels]
    #[serde(default)]
    pub mtu: Option<u16>,
    /// Take the host's devices in this bridge away, or the one of this name
    #[serde(default, skip_serializing_if = "is_false")]
    pub remove: bool,
}

/// Reply to `attach` and `expose`: what there is now.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Attached {
    /// The port.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub port: String,
    /// The device's name in the container, or on the host.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub ifname: String,
    /// Why there is no device yet: the container does not run.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub waits: Option<String>,
    /// What was changed of the configuration.
    pub changes: Vec<String>,
}
