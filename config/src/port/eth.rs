//! `kind = "eth"`: a NIC or a DPDK virtual device.

/// `kind = "eth"`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Eth {
    /// A PCI address or a DPDK vdev string, `net_af_packet0,iface=eth1`.
    pub device: String,
    /// Queue pairs asked for, 1..=16, default 1; the device may have fewer.
    pub queues: u16,
    /// Descriptors a queue, a power of two 64..=4096, default 1024; the device may have fewer.
    pub ring_size: u32,
}

/// A PCI address or a vdev; the rest is for the device to judge.
pub(super) fn device_name(s: &str) -> Result<String, String> {
    let name = s.split(',').next().unwrap_or_default();
    let vdev = name.strip_prefix("net_").is_some_and(|rest| {
        !rest.is_empty() && rest.bytes().all(|c| c.is_ascii_alphanumeric() || c == b'_' || c == b'-')
    });
    if (vdev || pci(name).is_some()) && !s.contains(char::is_control) {
        Ok(s.to_string())
    } else {
        Err("a PCI address like \"0000:3b:00.0\", or a DPDK vdev like \"net_af_packet0,iface=eth1\"".into())
    }
}

/// A PCI address `[domain:]bus:device.function` with its domain, in lower case.
pub(super) fn pci(name: &str) -> Option<String> {
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
