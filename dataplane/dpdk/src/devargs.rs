//! Device strings: taking them apart, and finding out beforehand what DPDK would only print, or not even that.

use crate::eal;
use crate::options::{EthOptions, ROOM_MIN};
use crate::{iface, pci};
use dray_dpdk_sys as sys;
use dray_switch::burst::FRAME_MAX;
use dray_switch::wire::OVERHEAD;
use std::ffi::{CStr, CString};

/// A device string, taken apart.
pub(crate) struct Wanted {
    /// The whole of it.
    pub device: String,
    pub bus: &'static CStr,
    pub name: String,
    pub args: String,
    /// The kernel's interface that the device is made of, if it is.
    pub iface: Option<CString>,
    /// The driver, of a virtual device.
    pub driver: String,
    /// Bytes that a buffer must have at least.
    pub room: u32,
}

impl Wanted {
    /// Takes `device` apart, and adds to the arguments what `options` say and the driver wants to know there.
    pub fn parse(device: &str, options: &EthOptions) -> Result<Wanted, String> {
        if device.contains('\0') {
            return Err("has a NUL in it".into());
        }
        let mtu_max = (FRAME_MAX - OVERHEAD as usize) as u16;
        if !(68..=mtu_max).contains(&options.mtu) {
            return Err(format!("an MTU of {} can't be: 68 to {mtu_max} can", options.mtu));
        }
        let (name, args) = device.split_once(',').unwrap_or((device, ""));
        if let Some(address) = pci::address(name) {
            return Ok(Wanted {
                device: device.into(),
                bus: c"pci",
                name: address,
                args: args.into(),
                iface: None,
                driver: String::new(),
                room: ROOM_MIN,
            });
        }
        let driver = name.trim_end_matches(|c: char| c.is_ascii_digit()).to_owned();
        if !driver.starts_with("net_") || name.contains(char::is_whitespace) {
            return Err("is neither a PCI address (\"0000:3b:00.0\") nor a virtual device of DPDK \
                        (\"net_af_packet0,iface=eth1\")"
                .into());
        }
        if driver == "net_bonding" {
            return Err("a bond of DPDK's takes devices that DPDK has opened before and that no port has, and Dray opens none \
                        without a port: bond the interfaces in the kernel, and open that (\"net_af_packet0,iface=bond0\")"
                .into());
        }
        let value = |key: &str| args.split(',').find_map(|arg| arg.strip_prefix(key)?.strip_prefix('='));
        let mut with = args.to_owned();
        // Adds an argument that follows from an option; it may be there already, but must not contradict.
        let mut add = |key: &str, wanted: usize, option: &str| match value(key) {
            Some(given) if given.parse() != Ok(wanted) => {
                Err(format!("leave \"{key}\" out: it follows from {option} and is {wanted}"))
            }
            Some(_) => Ok(()),
            None => {
                with = format!("{with}{}{key}={wanted}", if with.is_empty() { "" } else { "," });
                Ok(())
            }
        };
        let queues = options.queues as usize;
        let mut room = ROOM_MIN;
        match driver.as_str() {
            "net_af_packet" => {
                // A frame that does not fit its slot is cut; that it was too long must be seen all the same, so the
                // slot has the kernel's header (80 bytes) and room to spare. Slots fill blocks, which are pages,
                // without a gap; and the driver wants buffers as large.
                let slot = options.mtu as u32 + OVERHEAD + 128;
                let slot = if slot <= 2048 { 2048 } else { slot.next_multiple_of(4096) };
                room = slot;
                // The kernel spreads frames over all pairs, so there must not be more than are polled.
                add("qpairs", queues, "queues")?;
                add("framesz", slot as usize, "mtu")?;
                add("blocksz", slot.max(4096) as usize, "mtu")?;
                add("framecnt", options.ring_size as usize, "ring-size")?;
            }
            "net_af_xdp" if queues > 1 => add("queue_count", queues, "queues")?,
            _ => {}
        }
        // Others (net_tap) make the interface that they name.
        let exists = matches!(driver.as_str(), "net_af_packet" | "net_af_xdp" | "net_pcap");
        let iface = value("iface").filter(|_| exists).map(|iface| CString::new(iface).expect("no NUL in it"));
        if iface.is_none() && matches!(driver.as_str(), "net_af_packet" | "net_af_xdp") {
            return Err(format!("says no interface: \"{name},iface=eth1\""));
        }
        Ok(Wanted { device: device.into(), bus: c"vdev", name: name.into(), args: with, iface, driver, room })
    }

    /// Finds out beforehand, from the kernel, what DPDK would only print, or not even that.
    pub fn check(&self) -> Result<(), String> {
        if self.bus == c"pci" {
            return pci::check(&self.name);
        }
        if let Some(iface) = self.iface.as_ref().filter(|iface| iface::index(iface) == 0) {
            return Err(format!("there is no interface \"{}\": see \"ip link\"", iface.to_string_lossy()));
        }
        Ok(())
    }

    /// Finds out whether DPDK has a driver for a virtual device. EAL is up, and has loaded the drivers of its folder.
    pub fn check_driver(&self) -> Result<(), String> {
        if self.bus != c"vdev" {
            return Ok(());
        }
        let name = CString::new(format!("vdev:{}", self.name)).expect("parsed, so without NUL");
        let mut devargs = sys::rte_devargs::default();
        // SAFETY: C strings, and a structure of ours that DPDK fills in and empties. The bus takes a name only if one of its
        // drivers has it.
        let result = unsafe {
            let result = sys::rte_devargs_parse(&mut devargs, name.as_ptr());
            sys::rte_devargs_reset(&mut devargs);
            result
        };
        if result == 0 {
            return Ok(());
        }
        // It has printed no more than that it can't parse the name.
        eal::take_log();
        let folder = CStr::from_bytes_with_nul(sys::RTE_EAL_PMD_PATH).expect("a C string").to_string_lossy();
        Err(format!(
            "DPDK has loaded no driver {} from {folder}: if it is one of DPDK's, install it (on Debian, \
             \"apt install librte-meta-net\" brings all) and restart drayd",
            self.driver
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(device: &str, options: &EthOptions) -> Result<String, String> {
        Wanted::parse(device, options)
            .map(|wanted| format!("{} {} {}", wanted.bus.to_string_lossy(), wanted.name, wanted.args))
    }

    #[test]
    fn pci_addresses_take_arguments() {
        let options = EthOptions::default();
        assert_eq!(parse("0000:3b:00.0", &options).unwrap(), "pci 0000:3b:00.0 ");
        assert_eq!(parse("3B:1f.7,key=1", &options).unwrap(), "pci 0000:3b:1f.7 key=1");
        assert!(parse("0000:3b:00", &options).unwrap_err().contains("is neither"));
    }

    #[test]
    fn arguments_follow_from_options() {
        let options = EthOptions { queues: 2, ring_size: 512, ..EthOptions::default() };
        assert_eq!(
            parse("net_af_packet0,iface=eth1", &options).unwrap(),
            "vdev net_af_packet0 iface=eth1,qpairs=2,framesz=2048,blocksz=4096,framecnt=512"
        );
        let jumbo = EthOptions { mtu: 9000, ..EthOptions::default() };
        assert_eq!(
            parse("net_af_packet0,iface=eth1,qpairs=1", &jumbo).unwrap(),
            "vdev net_af_packet0 iface=eth1,qpairs=1,framesz=12288,blocksz=12288,framecnt=1024"
        );
        assert_eq!(parse("net_af_xdp0,iface=eth1", &options).unwrap(), "vdev net_af_xdp0 iface=eth1,queue_count=2");
        assert_eq!(parse("net_null0", &options).unwrap(), "vdev net_null0 ");
        // net_tap makes its interface.
        assert_eq!(Wanted::parse("net_tap0,iface=new", &options).unwrap().iface, None);
    }

    #[test]
    fn contradictions_are_refused() {
        let options = EthOptions::default();
        let error = parse("net_af_packet0,iface=eth1,framesz=4096", &options).unwrap_err();
        assert_eq!(error, "leave \"framesz\" out: it follows from mtu and is 2048");
        assert!(parse("net_af_packet0,iface=eth1,qpairs=x", &options).is_err());
        assert!(parse("net_null0", &EthOptions { mtu: 9199, ..options.clone() }).unwrap_err().contains("68 to 9198"));
        assert!(parse("net_null0", &EthOptions { mtu: 67, ..options }).is_err());
    }
}
