//! NICs on the PCI bus: who has them, and whether DPDK can work through the kernel's driver that they are bound to.

use crate::eal;
use crate::wanted_back::wanted_back;
use std::any::Any;
use std::collections::BTreeSet;
use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

/// The kernel's folder of a PCI device.
fn folder(address: &str) -> PathBuf {
    Path::new("/sys/bus/pci/devices").join(address)
}

/// The last part of what a symbolic link points to.
fn link_name(path: &Path) -> Option<String> {
    Some(fs::read_link(path).ok()?.file_name()?.to_str()?.to_owned())
}

/// The names in a folder; none if there is no such folder.
fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().into_string().ok()).collect()
}

/// `name` as a full PCI address, if it is one: `[domain:]bus:device.function`.
pub(crate) fn address(name: &str) -> Option<String> {
    let hex = |s: &str, len: std::ops::RangeInclusive<usize>| {
        len.contains(&s.len()) && s.bytes().all(|b| b.is_ascii_hexdigit())
    };
    let (rest, function) = name.rsplit_once('.')?;
    let mut parts = rest.rsplit(':');
    let (device, bus) = (parts.next()?, parts.next()?);
    let domain = parts.next().unwrap_or("0000");
    (parts.next().is_none() && hex(domain, 4..=8) && hex(bus, 2..=2) && hex(device, 2..=2) && hex(function, 1..=1))
        .then(|| format!("{domain}:{bus}:{device}.{function}").to_ascii_lowercase())
}

/// Whether DPDK can no longer use a NIC that it has: it is gone, or the kernel wants it back.
pub(crate) fn is_lost(address: &str) -> bool {
    !folder(address).exists() || wanted_back().contains(address)
}

/// Has SIGBUS on a range of addresses not end the process as long as what is returned exists.
pub type Guard = fn(Range<usize>) -> Box<dyn Any + Send + Sync>;

static GUARD: OnceLock<Guard> = OnceLock::new();

/// NICs' registers are to be guarded so: the kernel takes their mapping away, under whoever uses it, when a NIC on UIO is pulled
/// out. The process says so before it opens the first one.
pub fn guard_registers(guard: Guard) {
    let _ = GUARD.set(guard);
}

/// Guards the registers of a NIC that DPDK has just mapped through UIO. VFIO lets nothing go that is in use.
pub(crate) fn guard(address: &str) -> Vec<Box<dyn Any + Send + Sync>> {
    let Some(guard) = GUARD.get() else { return Vec::new() };
    let maps = fs::read_to_string("/proc/self/maps").unwrap_or_default();
    let file = format!("/{address}/resource");
    let range = |line: &str| {
        let (start, end) = line.split_whitespace().next()?.split_once('-')?;
        Some(usize::from_str_radix(start, 16).ok()?..usize::from_str_radix(end, 16).ok()?)
    };
    maps.lines().filter(|line| line.contains(&file)).filter_map(range).map(guard).collect()
}

/// Whether the NIC is there, bound to a driver of the kernel through which DPDK can have it. Asks only the kernel's files,
/// and does not wait.
pub(crate) fn check(address: &str) -> Result<(), String> {
    let device = folder(address);
    if !device.exists() {
        wanted_back().remove(address);
        return Err("there is no such PCI device: see \"dpdk-devbind.py --status\"".into());
    }
    let driver = link_name(&device.join("driver"));
    // Until it is gone, or bound to another driver.
    match driver.as_deref() {
        Some("vfio-pci") if wanted_back().contains(address) => return Err("the kernel takes it away".into()),
        _ => wanted_back().remove(address),
    };
    let interfaces = interfaces(&device);
    if let Some(interface) = interfaces.iter().find(|interface| carries_default_route(interface)) {
        return Err(format!(
            "this host's default route goes through it (interface \"{interface}\"), so the host would be cut off: take \
             another one, or give the host another route first"
        ));
    }
    let iommu = device.join("iommu_group").exists();
    match driver.as_deref() {
        // Mellanox' drivers share the device with the kernel's.
        Some("mlx4_core" | "mlx5_core") => Ok(()),
        Some("vfio-pci") if iommu && !without_iommu(&device) => Ok(()),
        Some(driver @ ("vfio-pci" | "igb_uio" | "uio_pci_generic")) => check_physical(driver, address),
        Some(other) => {
            let interface = interfaces.first().map_or_else(String::new, |name| format!(" as interface \"{name}\""));
            Err(format!("the kernel's driver {other} has it{interface}: {}", bind(address, iommu)))
        }
        None => Err(format!("no driver has it: {}", bind(address, iommu))),
    }
}

/// How it is bound to a driver through which DPDK can have it.
fn bind(address: &str, iommu: bool) -> String {
    let bind = |driver: &str, module: &str| {
        format!("bind it to {driver} with \"modprobe {module}; dpdk-devbind.py -b {driver} {address}\"")
    };
    if iommu {
        bind("vfio-pci", "vfio-pci")
    } else {
        format!(
            "{}, as this machine has no IOMMU, or it is off (\"intel_iommu=on\" on the kernel's command line)",
            bind("uio_pci_generic", "uio_pci_generic")
        )
    }
}

/// Whether VFIO has it in its mode without an IOMMU.
fn without_iommu(device: &Path) -> bool {
    fs::read_to_string(device.join("iommu_group/name")).is_ok_and(|name| name.trim() == "vfio-noiommu")
}

/// Whether a NIC can work without an IOMMU, by physical addresses: only hugepages stay where they are. If the machine has
/// an IOMMU, EAL wants it used.
fn check_physical(driver: &str, address: &str) -> Result<(), String> {
    if !eal::has_hugepages() {
        let restart = if eal::is_up() { " and restart drayd" } else { "" };
        return Err(format!(
            "through {driver} it works without an IOMMU, so it needs hugepages: reserve some \
             (\"echo 512 > /proc/sys/vm/nr_hugepages\"){restart}, or use an IOMMU and vfio-pci"
        ));
    }
    if !names(Path::new("/sys/class/iommu")).is_empty() {
        return Err(format!("{driver} does not use this machine's IOMMU: {}", bind(address, true)));
    }
    Ok(())
}

/// The kernel's interfaces on a PCI device; virtio has them one level down.
fn interfaces(device: &Path) -> Vec<String> {
    let below = names(device).into_iter().filter(|name| name.starts_with("virtio"));
    let folders = below.map(|name| device.join(name).join("net")).chain([device.join("net")]);
    folders.flat_map(|folder| names(&folder)).collect()
}

/// Whether the host's default route goes through an interface, or one above it (bridge, bond, VLAN).
fn carries_default_route(interface: &str) -> bool {
    let fields = |file: &str, at: &[usize]| -> Vec<Vec<String>> {
        let text = fs::read_to_string(file).unwrap_or_default();
        let line = |line: &str| {
            let words: Vec<&str> = line.split_whitespace().collect();
            at.iter().map(|&at| words.get(at).copied().unwrap_or_default().to_owned()).collect()
        };
        text.lines().map(line).collect()
    };
    // Interface, destination, mask; destination, prefix, interface.
    let ipv4 = fields("/proc/net/route", &[0, 1, 7]).into_iter();
    let ipv4 = ipv4.filter(|line| line[1] == "00000000" && line[2] == "00000000").map(|line| line[0].clone());
    let ipv6 = fields("/proc/net/ipv6_route", &[0, 1, 9]).into_iter();
    let ipv6 = ipv6.filter(|line| line[0] == "0".repeat(32) && line[1] == "00").map(|line| line[2].clone());
    let routes: BTreeSet<String> = ipv4.chain(ipv6).filter(|interface| interface != "lo").collect();

    let mut seen = BTreeSet::new();
    let mut todo = vec![interface.to_owned()];
    while let Some(interface) = todo.pop() {
        if routes.contains(&interface) {
            return true;
        }
        let above = names(&Path::new("/sys/class/net").join(&interface));
        if seen.insert(interface) {
            todo.extend(above.iter().filter_map(|name| name.strip_prefix("upper_")).map(str::to_owned));
        }
    }
    false
}

/// Whether no other process has the NIC. UIO lets several have it, who then destroy each other's rings; VFIO says no more
/// than "busy". Looks at the open files of all processes that it may see, so it takes some milliseconds.
pub(crate) fn check_unused(address: &str) -> Result<(), String> {
    let device = folder(address);
    let group = link_name(&device.join("iommu_group"));
    let vfio = group.map(|group| match without_iommu(&device) {
        true => format!("/dev/vfio/noiommu-{group}"),
        false => format!("/dev/vfio/{group}"),
    });
    let files: Vec<PathBuf> =
        names(&device.join("uio")).iter().map(|uio| format!("/dev/{uio}")).chain(vfio).map(PathBuf::from).collect();
    let own = std::process::id().to_string();
    let processes = names(Path::new("/proc")).into_iter().filter(|name| name.bytes().all(|b| b.is_ascii_digit()));
    for process in processes.filter(|process| *process != own) {
        let folder = Path::new("/proc").join(&process);
        let fds = folder.join("fd");
        // What is read is the link's text: the file behind it is not touched.
        if names(&fds).iter().any(|fd| fs::read_link(fds.join(fd)).is_ok_and(|file| files.contains(&file))) {
            let name = fs::read_to_string(folder.join("comm")).unwrap_or_default();
            return Err(format!("another process has it: {process} ({})", name.trim()));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses() {
        assert_eq!(address("0000:3b:00.0").unwrap(), "0000:3b:00.0");
        assert_eq!(address("3B:1f.7").unwrap(), "0000:3b:1f.7");
        for no in ["0000:3b:00", "3b:00.00", "3b.0", "0:0000:3b:00.0", "zz:00.0", ":.", "."] {
            assert_eq!(address(no), None, "{no}");
        }
    }

    #[test]
    fn what_is_wanted_back_is_lost() {
        crate::wanted_back::want_back("ffff:ff:1f.7");
        assert!(is_lost("ffff:ff:1f.7"));
        assert!(check("ffff:ff:1f.7").unwrap_err().contains("no such PCI device"));
        assert!(wanted_back().is_empty(), "it is gone now");
    }
}
