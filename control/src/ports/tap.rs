//! tap: the kernel's sockets. Devices are made and removed on a thread of their own, as the kernel may take its time, and tried again: a
//! namespace that is not there yet costs its own port only.

use super::connect::tried;
use super::mailbox::Event;
use super::maker::Hands;
use super::tried::{Opens, State, Tried};
use super::{Attached, Claim, Driver, Guest, Host, Kind, Link};
use crossbeam_channel::Receiver;
use dray_api::{ConnectInfo, PortDetail, PortInfo, TapDetail};
use dray_config::{Port, Tap as Keys};
use dray_dataplane::DeviceLosses;
use dray_tap::{Losses, Tap, TapOptions};
use std::collections::BTreeMap;
use std::time::Duration;
use tracing::warn;

impl Kind for Keys {
    fn claim(&self) -> Claim {
        let place = self.netns.as_ref().map_or_else(String::new, |path| format!(" in {}", path.display()));
        Claim { what: format!("interface {}{place}", self.ifname), part: None }
    }

    fn descriptors(&self, _common: &mut BTreeMap<String, u64>) -> u64 {
        // Its queues, rtnetlink and, for a moment, the namespace.
        2 + u64::from(self.queues)
    }

    fn connect(&self, _guest: &Guest<'_>) -> Vec<ConnectInfo> {
        let place = self.netns.as_ref().map_or_else(
            || "this host's programs".into(),
            |path| format!("what runs in the network namespace {}", path.display()),
        );
        vec![tried("sockets", format!("nothing to do: {place} has the interface {:?}", self.ifname))]
    }

    fn describe(&self, info: &mut PortInfo) {
        info.queues = self.queues;
        info.detail = PortDetail::Tap(TapDetail {
            ifname: self.ifname.clone(),
            netns: self.netns.as_ref().map(|path| path.display().to_string()),
            addresses: self.addresses.iter().map(ToString::to_string).collect(),
            routes: self.routes.iter().map(ToString::to_string).collect(),
            uso: None,
        });
    }

    fn open(&self, port: &Port, _own_mac: bool, host: &Host) -> Result<(Box<dyn Driver>, String), String> {
        let options = TapOptions {
            netns: self.netns.clone(),
            ifname: self.ifname.clone(),
            mac: port.mac.0,
            mtu: port.mtu,
            addresses: self.addresses.clone(),
            routes: self.routes.clone(),
            queues: self.queues,
            workers: host.cpus.clone(),
        };
        let device = Device { port: port.name.clone(), options, workers: host.cpus.len(), hands: host.maker.hands() };
        // It is tried as soon as the workers know the port.
        host.mailbox.post(Event::Wake { port: port.name.clone() });
        Ok((Box::new(Tried::new(device)), "being made".into()))
    }
}

/// A port's device.
struct Device {
    port: String,
    options: TapOptions,
    workers: usize,
    hands: Hands,
}

impl Opens for Device {
    type Open = Tap;

    const PAUSE: Duration = Duration::from_secs(1);

    fn missing(&self) -> Option<String> {
        let path = self.options.netns.as_ref().filter(|path| !path.exists())?;
        Some(format!("there is no network namespace {}", path.display()))
    }

    fn start(&self) -> Receiver<Result<Tap, String>> {
        let options = self.options.clone();
        self.hands.answer(&self.port, move || Tap::open(options))
    }

    fn attach(&mut self, tap: &mut Tap, _log: &mut Vec<String>) -> (Attached, Link) {
        let (rx, tx) = (tap.rx_queues(), tap.tx_queues(self.workers));
        // One queue is written to by all workers, and the kernel keeps what they write in order.
        let in_order = self.options.queues == 1;
        (Attached { rx, tx, in_order, peer: Box::new(|_| {}) }, Link::Up(None))
    }

    fn watch(&mut self, tap: &mut Tap, _all: bool, _log: &mut Vec<String>) -> Result<Option<Link>, String> {
        tap.lost().map_or(Ok(None), Err)
    }

    fn losses(&self, tap: &Tap) -> Option<DeviceLosses> {
        let Losses { sent, received } = tap.losses()?;
        Some(DeviceLosses { missed: sent, rx_errors: 0, tx: received })
    }

    fn describe(&self, tap: &Tap, info: &mut PortInfo) {
        let PortDetail::Tap(detail) = &mut info.detail else { return };
        detail.uso = Some(tap.has_uso());
        if let Some(name) = tap.name() {
            detail.ifname = name;
        }
    }

    fn update(&mut self, tap: Option<&mut Tap>, port: &Port) {
        (self.options.mac, self.options.mtu) = (port.mac.0, port.mtu);
        if let Some(Err(why)) = tap.map(|tap| tap.set(port.mac.0, port.mtu)) {
            warn!(target: "port", port = %self.port, "address and MTU: {why}");
        }
    }

    fn close(&mut self, state: State<Tap>) {
        match state {
            State::Open(tap) => self.hands.later(|| tap.remove()),
            // By then it is answered.
            State::Opening(opened) => self.hands.later(move || {
                if let Ok(Ok(tap)) = opened.try_recv() {
                    tap.remove();
                }
            }),
            State::Waits(_) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::ports::connect::texts;

    #[test]
    fn whoever_runs_in_the_namespace_is_attached() {
        let text = &texts("kind='tap';netns='/run/netns/web'", false, 1)[0];
        assert!(text.contains("/run/netns/web has the interface \"eth0\""), "{text}");
    }
}
