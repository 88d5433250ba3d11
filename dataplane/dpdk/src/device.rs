//! A device of DPDK's from probing to removal, outside of which EAL knows nothing of it.

use crate::devargs::Wanted;
use crate::error::strerror;
use crate::mempool::Mempool;
use crate::{eal, iface, pci};
use dray_dpdk_sys as sys;
use std::any::Any;
use std::ffi::{CStr, CString};
use std::mem::ManuallyDrop;
use std::sync::atomic::{AtomicBool, AtomicU32};

/// A device that is started.
pub(crate) struct Device {
    /// DPDK's number of the port.
    pub id: u16,
    /// The longest frame received, and that there is room for, bytes.
    pub max_frame: u32,
    /// The longest Ethernet payload that is sent, bytes: the device's MTU, which may be lowered while it is open.
    pub tx_mtu: AtomicU32,
    /// Whether frames can pass, as was last seen.
    pub up: AtomicBool,
    pub origin: Origin,
    pub probed: ManuallyDrop<Probed>,
    /// What it receives into and what is sent is copied into.
    pub pool: ManuallyDrop<Mempool>,
    pub user: ManuallyDrop<eal::User>,
}

/// What a device is made of outside of DPDK: that can go away, or be replaced by another one of the same name.
pub(crate) struct Origin {
    pub wanted: Wanted,
    /// The kernel's number of the interface that it was made of; 0 if it is made of none.
    pub index: u32,
}

/// A device that DPDK has probed. Stopped, closed and removed again when dropped, on EAL's thread.
pub(crate) struct Probed {
    bus: &'static CStr,
    name: CString,
    /// DPDK's number of its port.
    pub id: u16,
    /// What guards a NIC's registers.
    guards: Vec<Box<dyn Any + Send + Sync>>,
    /// How the kernel's interface was, if it is made of one.
    pub before: Option<iface::Before>,
}

impl Drop for Device {
    fn drop(&mut self) {
        // SAFETY: each is taken once: here.
        let (probed, pool, user) = unsafe {
            let Device { probed, pool, user, .. } = self;
            (ManuallyDrop::take(probed), ManuallyDrop::take(pool), ManuallyDrop::take(user))
        };
        eal::post(move || {
            // In this order: nothing of the device uses the pool any more, and the pool needs EAL.
            drop(probed);
            drop(pool);
            drop(user);
        });
    }
}

impl Drop for Probed {
    fn drop(&mut self) {
        let (bus, id) = (self.bus, self.id);
        // SAFETY: this is EAL's thread. The port is this device's; whoever used it held the `Device` that is gone. A step
        // that fails (a NIC that was pulled out) leaves nothing better to do than the next.
        unsafe {
            sys::rte_eth_dev_stop(id);
            // A kernel interface keeps this. On UIO the NIC may be gone, whose answer virtio's driver would wait for without end.
            if self.guards.is_empty() {
                sys::rte_eth_promiscuous_disable(id);
            }
            sys::rte_eth_dev_close(id);
            sys::rte_eal_hotplug_remove(bus.as_ptr(), self.name.as_ptr());
        }
        // Then the interface is put back as it was, with `before`.
    }
}

impl Probed {
    /// Has DPDK probe a device and finds its port.
    pub fn new(wanted: &Wanted) -> Result<Probed, String> {
        let c_string = |s: &str| CString::new(s).expect("parsed, so without NUL");
        let (bus, name, args) = (wanted.bus, c_string(&wanted.name), c_string(&wanted.args));
        // To probe a device again is no error for DPDK.
        if port_of(&name).is_some() {
            return Err("is in use already".into());
        }
        if wanted.bus == c"pci" {
            pci::check_unused(&wanted.name)?;
        }
        // SAFETY: C strings, copied.
        let result = unsafe { sys::rte_eal_hotplug_add(bus.as_ptr(), name.as_ptr(), args.as_ptr()) };
        check("DPDK can't have it", result)?;
        match port_of(&name) {
            Some(id) => Ok(Probed { bus, name, id, guards: pci::guard(&wanted.name), before: None }),
            None => {
                // SAFETY: C strings.
                unsafe { sys::rte_eal_hotplug_remove(bus.as_ptr(), name.as_ptr()) };
                Err("DPDK has no driver for it, or it is no network device".into())
            }
        }
    }
}

/// DPDK's number of the first port of the device `name`.
fn port_of(name: &CStr) -> Option<u16> {
    let mut iter = sys::rte_dev_iterator::default();
    // SAFETY: the iterator is ours; the name outlives it; it is cleaned up, also if it didn't come to its end.
    unsafe {
        if sys::rte_eth_iterator_init(&mut iter, name.as_ptr()) != 0 {
            return None;
        }
        let id = sys::rte_eth_iterator_next(&mut iter);
        sys::rte_eth_iterator_cleanup(&mut iter);
        (id < sys::RTE_MAX_ETHPORTS as u16).then_some(id)
    }
}

/// Turns DPDK's result into an error: `what` could not be done.
pub(crate) fn check(what: &str, result: i32) -> Result<(), String> {
    if result < 0 { Err(format!("{what}: {}", strerror(result))) } else { Ok(()) }
}
