//! eth by the kernel: an interface that the kernel drives, named as it is, without DPDK. It is looked at ten times a second: it may go
//! down, be deleted and made anew, or get another MTU or address at any time.

use super::maker::Hands;
use super::tried::Opens;
use super::{Attached, Device, Link};
use crossbeam_channel::Receiver;
use dray_api::{PortDetail, PortInfo};
use dray_config::{Mac, Port};
use dray_dataplane::DeviceLosses;
use dray_tap::{Interface, State as Seen, interface_index};
use std::time::Duration;

/// A port's interface.
pub struct Wire {
    port: String,
    name: String,
    /// The port's own address, if it is not to be the interface's.
    mac: Option<Mac>,
    /// Longest Ethernet payload that the port is to have, bytes.
    mtu: u16,
    workers: usize,
    hands: Hands,
}

impl Wire {
    /// For `port`, whose device is the interface `name`.
    pub fn new(port: &Port, name: &str, own_mac: bool, workers: usize, hands: Hands) -> Wire {
        let mac = (!own_mac).then_some(port.mac);
        Wire { port: port.name.clone(), name: name.into(), mac, mtu: port.mtu, workers, hands }
    }
}

fn link(seen: Seen) -> Link {
    if seen.is_running { Link::Up(None) } else { Link::Down("the interface has no link".into()) }
}

impl Opens for Wire {
    /// With what it was when it was last looked at.
    type Open = (Interface, Seen);

    const PAUSE: Duration = Duration::from_secs(1);

    fn missing(&self) -> Option<String> {
        // Not by /sys, which may show another network namespace than this one.
        interface_index(&self.name).is_none().then(|| format!("there is no interface \"{}\"", self.name))
    }

    fn start(&self) -> Receiver<Result<(Interface, Seen), String>> {
        let name = self.name.clone();
        self.hands.answer(&self.port, move || Interface::open(&name))
    }

    fn attach(&mut self, (interface, seen): &mut (Interface, Seen), log: &mut Vec<String>) -> (Attached, Link) {
        log.push(format!("open, a packet socket on the kernel's interface, mac {}, mtu {}", Mac(seen.mac), seen.mtu));
        if seen.mtu < self.mtu {
            log.push(format!("the interface has an MTU of {}, not {}", seen.mtu, self.mtu));
        }
        // All workers write to one socket, which keeps what they write in order.
        let (rx, tx) = (vec![interface.rx_queue()], interface.tx_queues(self.workers));
        (Attached { rx, tx, in_order: true, peer: Box::new(|_| {}) }, link(*seen))
    }

    fn watch(
        &mut self,
        (interface, before): &mut (Interface, Seen),
        _all: bool,
        log: &mut Vec<String>,
    ) -> Result<Option<Link>, String> {
        let seen = interface.look()?;
        if seen.mtu != before.mtu {
            log.push(format!("the interface's MTU has changed: {} fit now", seen.mtu));
        }
        *before = seen;
        Ok(Some(link(seen)))
    }

    fn losses(&self, (interface, _): &(Interface, Seen)) -> Option<DeviceLosses> {
        Some(DeviceLosses { missed: interface.losses(), ..DeviceLosses::default() })
    }

    fn device(&self, (_, seen): &(Interface, Seen)) -> Option<Device> {
        let mac = self.mac.unwrap_or(Mac(seen.mac));
        Some(Device { mac, mtu: seen.mtu.min(self.mtu), is_kernels: true })
    }

    fn describe(&self, (interface, seen): &(Interface, Seen), info: &mut PortInfo) {
        (info.mac, info.mtu, info.queues) = (self.mac.unwrap_or(Mac(seen.mac)), seen.mtu.min(self.mtu), 1);
        let PortDetail::Eth(detail) = &mut info.detail else { return };
        detail.driver = Some("packet".into());
        detail.missed = Some(interface.losses());
    }

    fn update(&mut self, _open: Option<&mut (Interface, Seen)>, port: &Port) {
        self.mtu = port.mtu;
    }
}
