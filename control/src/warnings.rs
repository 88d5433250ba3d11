//! What is not as it should be though frames pass: for the log and `port show`.

use crate::descriptors;
use crate::log::ITSELF;
use crate::ports::Ports;
use dray_config::{Local, Mtus, Port, Running};
use nix::ifaddrs::{InterfaceAddress, getifaddrs};
use std::collections::HashMap;
use std::time::{Duration, Instant};
use tracing::warn;

/// How long bridges may be looked at, at a time: there may be many of them.
pub const LOOK: Duration = Duration::from_micros(500);

/// What was said, each once until it changes.
#[derive(Default)]
pub struct Warnings {
    /// Of bridges, by their names.
    bridges: HashMap<String, String>,
    /// Of the host.
    host: Vec<String>,
    /// The bridge that is looked at next.
    next: usize,
    /// How many are still to be looked at.
    left: usize,
}

impl Warnings {
    /// There may be more to say of any of so many bridges.
    pub fn look_again(&mut self, bridges: usize) {
        // From the last one to the first one is a step.
        self.left = bridges + 1;
    }

    /// Says of which bridges members have a larger MTU than fits, as far as it gets within `time`.
    pub fn of_bridges(&mut self, config: &Running, ports: &Ports, time: Duration) {
        if self.left == 0 {
            return;
        }
        let begin = Instant::now();
        while self.left > 0 && begin.elapsed() < time {
            self.left -= 1;
            let Some(bridge) = config.bridges[..].get(self.next) else {
                self.next = 0;
                continue;
            };
            self.next += 1;
            match config.mtu_warning(bridge, |port| ports.mtu(port)) {
                Some(warning) if self.bridges.get(&bridge.name) != Some(&warning) => {
                    warn!(target: ITSELF, "{warning}");
                    self.bridges.insert(bridge.name.clone(), warning);
                }
                Some(_) => {}
                None => drop(self.bridges.remove(&bridge.name)),
            }
        }
        if self.left == 0 {
            self.bridges.retain(|name, _| config.bridge(name).is_some());
        }
    }

    /// Says what the host has in the way.
    pub fn of_host(&mut self, config: &Running, ports: &Ports) {
        let mut warnings = Vec::from_iter(rival(config, ports).map(|why| format!("vxlan: {why}")));
        warnings.extend(descriptors::warning(config));
        for warning in warnings.iter().filter(|warning| !self.host.contains(warning)) {
            warn!(target: ITSELF, "{warning}");
        }
        self.host = warnings;
    }
}

/// That the kernel has the VTEP's address as well.
fn rival(config: &Running, ports: &Ports) -> Option<String> {
    let vxlan = config.vxlan.as_ref()?;
    let Local { address: local, prefix: length } = vxlan.local;
    // A NIC that DPDK drives is none of the kernel's.
    ports.device(&vxlan.port).filter(|device| device.is_kernels)?;
    let has = |entry: &InterfaceAddress| entry.address?.as_sockaddr_in().map(|address| address.ip());
    let iface = getifaddrs().ok()?.find(|entry| has(entry) == Some(local))?.interface_name;
    Some(format!(
        "the kernel has the VTEP's address {local} too, on {iface:?}: it answers ARP and refuses what is for Dray; \
         ip addr del {local}/{length} dev {iface}"
    ))
}

/// What is to be said of `port`.
pub fn of_port(port: &Port, mtus: &Mtus<'_>, config: &Running, ports: &Ports) -> Vec<String> {
    let mut warnings = Vec::new();
    if let Some(device) = ports.device(&port.name)
        && device.mtu < port.mtu
    {
        warnings.push(format!(
            "the device's MTU is {}, the port's {}: longer frames are dropped as tx.too_big",
            device.mtu, port.mtu
        ));
    }
    warnings.extend(mtus.port_warning(port));
    if config.is_underlay(&port.name) {
        warnings.extend(rival(config, ports));
    }
    warnings
}
