//! eth by the kernel: an interface that the kernel drives, named as it is, without DPDK. It is looked at ten times a second: it may go
//! down, be deleted and made anew, or get another MTU or address at any time.

use super::maker::Hands;
use super::{Attached, Change, Device, Driver, Link};
use crossbeam_channel::Receiver;
use dray_api::{PortDetail, PortInfo};
use dray_config::{Mac, Port};
use dray_dataplane::DeviceLosses;
use dray_tap::{Interface, State as Seen};
use std::path::Path;
use std::time::{Duration, Instant};

/// After a refusal the interface is tried again after this time.
const PAUSE: Duration = Duration::from_secs(1);

/// A port's interface, open or to be opened.
pub struct Wire {
    port: String,
    name: String,
    /// The port's own address, if it is not to be the interface's.
    mac: Option<Mac>,
    /// Longest Ethernet payload that the port is to have, bytes.
    mtu: u16,
    workers: usize,
    hands: Hands,
    state: State,
    /// What the socket had lost when it was last asked.
    counted: u64,
    lost: DeviceLosses,
}

enum State {
    /// Not to be tried before this time.
    Waits(Instant),
    Opening(Receiver<Result<Interface, String>>),
    Open(Interface, Seen),
}

impl Wire {
    /// For `port`, whose device is the interface `name`.
    pub fn new(port: &Port, name: &str, own_mac: bool, workers: usize, hands: Hands) -> Wire {
        Wire {
            port: port.name.clone(),
            name: name.into(),
            mac: (!own_mac).then_some(port.mac),
            mtu: port.mtu,
            workers,
            hands,
            state: State::Waits(Instant::now()),
            counted: 0,
            lost: DeviceLosses::default(),
        }
    }

    fn try_open(&mut self, at: Instant, now: Instant) -> Option<Change> {
        if !Path::new("/sys/class/net").join(&self.name).exists() {
            self.state = State::Waits(now);
            return Some(Change::Link(Link::Down(format!("there is no interface \"{}\"", self.name))));
        }
        if now < at {
            return None;
        }
        let name = self.name.clone();
        self.state = State::Opening(self.hands.answer(&self.port, move || Interface::open(&name)));
        None
    }

    fn opened(&mut self, opened: Result<Interface, String>, now: Instant, log: &mut Vec<String>) -> Change {
        let opened = opened.and_then(|interface| interface.look().map(|seen| (interface, seen)));
        let (interface, seen) = match opened {
            Ok(opened) => opened,
            Err(why) => {
                self.state = State::Waits(now + PAUSE);
                return Change::Link(Link::Down(why));
            }
        };
        log.push(format!("open, a packet socket on the kernel's interface, mac {}, mtu {}", Mac(seen.mac), seen.mtu));
        if seen.mtu < self.mtu {
            log.push(format!("the interface has an MTU of {}, not {}", seen.mtu, self.mtu));
        }
        // All workers write to one socket, which keeps what they write in order.
        let attached = Attached {
            rx: vec![interface.rx_queue()],
            tx: interface.tx_queues(self.workers),
            in_order: true,
            peer: Box::new(|_| {}),
        };
        self.counted = 0;
        self.state = State::Open(interface, seen);
        Change::Attached(attached, link(seen))
    }

    fn watch(&mut self, now: Instant, log: &mut Vec<String>) -> Option<Change> {
        let State::Open(interface, before) = &mut self.state else { return None };
        match interface.look() {
            Ok(seen) => {
                if seen.mtu != before.mtu {
                    log.push(format!("the interface's MTU has changed: {} fit now", seen.mtu));
                }
                *before = seen;
                Some(Change::Link(link(seen)))
            }
            Err(why) => {
                self.count();
                // It is opened anew as soon as it can be.
                self.state = State::Waits(now);
                Some(Change::Detached(why))
            }
        }
    }

    fn count(&mut self) {
        let State::Open(interface, _) = &self.state else { return };
        let now = interface.losses().sent;
        self.lost.missed += now.saturating_sub(std::mem::replace(&mut self.counted, now));
    }
}

fn link(seen: Seen) -> Link {
    if seen.is_running { Link::Up(None) } else { Link::Down("the interface has no link".into()) }
}

impl Driver for Wire {
    fn poll(&mut self, _all: bool, now: Instant, log: &mut Vec<String>) -> Option<Change> {
        match &self.state {
            State::Waits(at) => {
                let at = *at;
                self.try_open(at, now)
            }
            State::Opening(opened) => {
                let opened = opened.try_recv().ok()?;
                Some(self.opened(opened, now, log))
            }
            State::Open(..) => self.watch(now, log),
        }
    }

    fn update(&mut self, port: &Port, _host: &super::Host) {
        self.mtu = port.mtu;
    }

    fn take_losses(&mut self) -> DeviceLosses {
        self.count();
        std::mem::take(&mut self.lost)
    }

    fn describe(&self, info: &mut PortInfo) {
        let State::Open(interface, seen) = &self.state else { return };
        (info.mac, info.mtu, info.queues) = (self.mac.unwrap_or(Mac(seen.mac)), seen.mtu.min(self.mtu), 1);
        let PortDetail::Eth(detail) = &mut info.detail else { return };
        detail.driver = Some("packet".into());
        detail.missed = Some(interface.losses().sent);
    }

    fn device(&self) -> Option<Device> {
        let State::Open(_, seen) = &self.state else { return None };
        let mac = self.mac.unwrap_or(Mac(seen.mac));
        Some(Device { mac, mtu: seen.mtu.min(self.mtu), is_kernels: true })
    }
}
