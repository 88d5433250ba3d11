//! What is not as it should be though frames pass: for the log and `port show`.

use crate::descriptors;
use crate::log::ITSELF;
use crate::switch::Switch;
use dray_config::{Local, Mtus, Port};
use nix::ifaddrs::{InterfaceAddress, getifaddrs};
use tracing::warn;

impl Switch {
    /// The MTUs of the running configuration. A device may carry less than its port was asked for.
    pub(crate) fn mtus(&self) -> Mtus<'_> {
        self.config.mtus(|port| self.ports.device(&port.name).map_or(port.mtu, |device| port.mtu.min(device.mtu)))
    }

    /// That the kernel has the VTEP's address as well.
    fn rival(&self) -> Option<String> {
        let vxlan = self.config.vxlan.as_ref()?;
        let Local { address: local, prefix: length } = vxlan.local;
        // A NIC that DPDK drives is none of the kernel's.
        self.ports.device(&vxlan.port).filter(|device| device.is_kernels)?;
        let has = |entry: &InterfaceAddress| entry.address?.as_sockaddr_in().map(|address| address.ip());
        let iface = getifaddrs().ok()?.find(|entry| has(entry) == Some(local))?.interface_name;
        Some(format!(
            "the kernel has the VTEP's address {local} too, on {iface:?}: it answers ARP and refuses what is for Dray; \
             ip addr del {local}/{length} dev {iface}"
        ))
    }

    /// Says of which bridges members have a larger MTU than fits, and what else is in the way, each once until that changes.
    pub(crate) fn warn(&mut self) {
        let mut warnings = self.mtus().warnings();
        warnings.extend(self.rival().map(|why| format!("vxlan: {why}")));
        warnings.extend(descriptors::warning(&self.config));
        for warning in warnings.iter().filter(|warning| !self.warned.contains(*warning)) {
            warn!(target: ITSELF, "{warning}");
        }
        self.warned = warnings.into_iter().collect();
    }

    /// What is to be said of `port`.
    pub(crate) fn warnings(&self, port: &Port, mtus: &Mtus<'_>) -> Vec<String> {
        let mut warnings = Vec::new();
        if let Some(device) = self.ports.device(&port.name)
            && device.mtu < port.mtu
        {
            warnings.push(format!(
                "the device's MTU is {}, the port's {}: longer frames are dropped as tx.too_big",
                device.mtu, port.mtu
            ));
        }
        warnings.extend(mtus.port_warning(port));
        if self.config.vxlan.as_ref().is_some_and(|vxlan| vxlan.port == port.name) {
            warnings.extend(self.rival());
        }
        warnings
    }
}
