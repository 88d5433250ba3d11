//! `kind = "eth"`: a NIC, an interface of the kernel's, or a DPDK virtual device.

use super::tap::ifname;
use crate::schema::{Takes, integer, key, keys, power_of_two, word};

keys! {
    /// A NIC, an interface of the kernel's, or a DPDK virtual device.
    pub struct Eth {
        /// The device: `"0000:3b:00.0"` is a NIC that DPDK drives; `"eth1"` an interface that the kernel drives, taken up without
        /// DPDK, whose checksums and segments may be left to whoever receives; `"net_ring0"` a virtual device of DPDK's.
        device: String = key("device", word("a PCI address, an interface's name, or a DPDK vdev that begins with `net_`", device_name, String::clone))
            .takes(Takes::Reopen)
            .required();
        /// Descriptors in a queue. The device may have fewer; an interface of the kernel's has its own.
        ring_size: u32 = key("ring-size", power_of_two(64, 4096)).takes(Takes::Reopen).default(1024);
        /// Queue pairs. The device may have fewer; an interface of the kernel's has one.
        queues: u16 = key("queues", integer(1, 16)).takes(Takes::Reopen).default(1);
    }
}

impl Eth {
    /// Whether the device is an interface that the kernel drives.
    pub fn is_kernels(&self) -> bool {
        is_interface(&self.device)
    }
}

/// Whether it is the name of an interface rather than a PCI address or a vdev.
fn is_interface(device: &str) -> bool {
    !device.starts_with("net_") && pci(device).is_none() && ifname(device).is_ok()
}

/// A PCI address, an interface's name or a vdev; the rest is for the device to judge.
fn device_name(s: &str) -> Result<String, String> {
    let name = s.split(',').next().unwrap_or_default();
    let vdev = name.strip_prefix("net_").is_some_and(|rest| {
        !rest.is_empty() && rest.bytes().all(|c| c.is_ascii_alphanumeric() || c == b'_' || c == b'-')
    });
    if (vdev || pci(name).is_some() || is_interface(s)) && !s.contains(char::is_control) {
        Ok(s.to_string())
    } else {
        Err("a PCI address like \"0000:3b:00.0\", an interface's name like \"eth1\", or a DPDK vdev like \"net_ring0\""
            .into())
    }
}

/// A PCI address `[domain:]bus:device.function` with its domain, in lower case.
pub(crate) fn pci(name: &str) -> Option<String> {
    let hex = |s: &str, len: usize| s.len() == len && s.bytes().all(|c| c.is_ascii_hexdigit());
    let (address, function) = name.split_once('.')?;
    let parts: Vec<&str> = address.split(':').collect();
    let (domain, bus, device) = match parts[..] {
        [domain, bus, device] => (domain, bus, device),
        [bus, device] => ("0000", bus, device),
        _ => return None,
    };
    let good = hex(domain, 4) && hex(bus, 2) && hex(device, 2) && matches!(function.as_bytes(), [b'0'..=b'7']);
    good.then(|| format!("{domain}:{bus}:{device}.{function}").to_ascii_lowercase())
}
