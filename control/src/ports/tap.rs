//! tap: the kernel's sockets. Devices are made and removed on a thread of their own, as the kernel may take its time, and tried again: a
//! namespace that is not there yet costs its own port only.

use super::connect::tried;
use super::mailbox::Event;
use super::maker::Hands;
use super::{Attached, Change, Claim, Driver, Guest, Host, Kind, Link};
use crossbeam_channel::Receiver;
use dray_api::{ConnectInfo, PortDetail, PortInfo, TapDetail};
use dray_config::{Port, Tap as Keys};
use dray_dataplane::DeviceLosses;
use dray_tap::{Losses, Tap, TapOptions};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};
use tracing::warn;

/// After a refusal the device is tried again after this time, or as soon as its namespace is there.
const PAUSE: Duration = Duration::from_secs(1);

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
        let device = Device {
            port: port.name.clone(),
            options,
            workers: host.cpus.len(),
            hands: host.maker.hands(),
            state: State::Waits(Instant::now()),
            counted: Losses::default(),
            lost: DeviceLosses::default(),
        };
        // It is tried as soon as the workers know the port.
        host.mailbox.post(Event::Wake { port: port.name.clone() });
        Ok((Box::new(device), "being made".into()))
    }
}

/// A port's device, made or to be made.
struct Device {
    port: String,
    options: TapOptions,
    workers: usize,
    hands: Hands,
    state: State,
    /// What the kernel had lost at the open device when it was last asked.
    counted: Losses,
    /// What was lost since [`Driver::take_losses`] was last called.
    lost: DeviceLosses,
}

enum State {
    /// Not to be tried before this time.
    Waits(Instant),
    /// The maker has it, and answers there.
    Opening(Receiver<Result<Tap, String>>),
    Open(Tap),
}

impl Device {
    /// Hands the device to the maker, if it may be tried. Why the port is down, if its namespace is not there.
    fn try_open(&mut self, at: Instant, now: Instant) -> Option<Change> {
        if let Some(path) = self.options.netns.as_ref().filter(|path| !path.exists()) {
            self.state = State::Waits(now);
            return Some(Change::Link(Link::Down(format!("there is no network namespace {}", path.display()))));
        }
        if now < at {
            return None;
        }
        let options = self.options.clone();
        self.state = State::Opening(self.hands.answer(&self.port, move || Tap::open(options)));
        None
    }

    /// Takes up what became of a try.
    fn opened(&mut self, opened: Result<Tap, String>, now: Instant) -> Change {
        let tap = match opened {
            Ok(tap) => tap,
            Err(why) => {
                self.state = State::Waits(now + PAUSE);
                return Change::Link(Link::Down(why));
            }
        };
        let (rx, tx) = (tap.rx_queues(), tap.tx_queues(self.workers));
        // One queue is written to by all workers, and the kernel keeps what they write in order.
        let in_order = self.options.queues == 1;
        self.counted = tap.look().map(|(losses, _)| losses).unwrap_or_default();
        self.state = State::Open(tap);
        Change::Attached(Attached { rx, tx, in_order, peer: Box::new(|_| {}) }, Link::Up(None))
    }

    /// Looks at a device that is open.
    fn watch(&mut self, all: bool, now: Instant) -> Option<Change> {
        let State::Open(tap) = &mut self.state else { return None };
        if let Some(why) = tap.lost() {
            // It is made anew as soon as it can be.
            self.state = State::Waits(now);
            return Some(Change::Detached(why));
        }
        if all {
            self.count();
        }
        None
    }

    /// Asks what the kernel has lost.
    fn count(&mut self) {
        let State::Open(tap) = &self.state else { return };
        let Ok((now, _)) = tap.look() else { return };
        let before = std::mem::replace(&mut self.counted, now);
        self.lost.missed += now.sent.saturating_sub(before.sent);
        self.lost.tx += now.received.saturating_sub(before.received);
    }
}

impl Driver for Device {
    fn poll(&mut self, all: bool, now: Instant, _log: &mut Vec<String>) -> Option<Change> {
        match &self.state {
            State::Waits(at) => {
                let at = *at;
                self.try_open(at, now)
            }
            State::Opening(opened) => {
                let opened = opened.try_recv().ok()?;
                Some(self.opened(opened, now))
            }
            State::Open(_) => self.watch(all, now),
        }
    }

    fn update(&mut self, port: &Port, _host: &Host) {
        (self.options.mac, self.options.mtu) = (port.mac.0, port.mtu);
        if let State::Open(tap) = &mut self.state
            && let Err(why) = tap.set(port.mac.0, port.mtu)
        {
            warn!(target: "port", port = %self.port, "address and MTU: {why}");
        }
    }

    fn take_losses(&mut self) -> DeviceLosses {
        self.count();
        std::mem::take(&mut self.lost)
    }

    fn describe(&self, info: &mut PortInfo) {
        let (State::Open(tap), PortDetail::Tap(detail)) = (&self.state, &mut info.detail) else { return };
        detail.uso = Some(tap.has_uso());
        if let Some(name) = tap.name() {
            detail.ifname = name;
        }
    }

    fn close(&mut self, _host: &Host) {
        match std::mem::replace(&mut self.state, State::Waits(Instant::now())) {
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
