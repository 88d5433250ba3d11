//! tap: the kernel's sockets. Devices are made and removed on a thread of their own, as the kernel may take its time, and tried again: a
//! namespace that is not there yet costs its own port only.

use super::connect::tried;
use super::follow::{Followed, Seen};
use super::made::Journal;
use super::mailbox::Event;
use super::maker::{Hands, Maker};
use super::netns::{Noticed, Notices, Watch};
use super::tried::{Opens, State, Tried};
use super::{Attached, Claim, Driver, Guest, Host, Kind, Link, Mailbox};
use crossbeam_channel::Receiver;
use dray_api::{ConnectInfo, PortDetail, PortInfo, TapDetail};
use dray_config::{LinkFollows, Port, PortKind, Tap as Keys, Transport, ValidConfig};
use dray_containers::{Container, Process};
use dray_dataplane::DeviceLosses;
use dray_tap::{Failure, Losses, Tap, TapOptions};
use dray_vhost::vhost_user::frontend::kernel;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Once};
use std::time::Duration;
use tracing::{info, warn};

/// What all TAP ports have in common.
pub struct Common {
    journal: Journal,
    watch: Watch,
    followed: Followed,
}

impl Common {
    /// `journal`: the file of the devices that were made.
    ///
    /// # Errors
    /// If the kernel gives no thread, epoll, inotify or eventfd.
    pub fn start(mailbox: &Mailbox, journal: &Path) -> Result<Common, String> {
        let (watch, followed) = (Watch::start(mailbox)?, Followed::start(mailbox)?);
        Ok(Common { journal: Journal::read(journal), watch, followed })
    }

    /// Has the devices removed that an earlier drayd has made and that no port of `config` is to have.
    pub fn remove_left(&self, config: &ValidConfig, maker: &Maker) {
        for (port, made) in self.journal.unwanted(config) {
            let journal = self.journal.clone();
            maker.hands().later(move || {
                let place = made.netns.as_ref().map_or_else(|| "this host".into(), |path| path.display().to_string());
                let what =
                    format!("interface \"{}\" in {place}, of a port that is not configured any more", made.ifname);
                match dray_tap::remove_left(&made) {
                    Ok(()) => info!(target: "port", port = %port, "{what}: removed"),
                    Err(why) => warn!(target: "port", port = %port, "{what}: {why}"),
                }
                journal.note(&port, None);
            });
        }
    }

    /// Has the device removed that a port has left, if it has.
    pub fn remove(&self, port: &str, maker: &Maker) {
        let Some(made) = self.journal.of(port) else { return };
        let (journal, port) = (self.journal.clone(), port.to_owned());
        maker.hands().later(move || {
            if let Err(why) = dray_tap::remove_left(&made) {
                warn!(target: "port", port = %port, "interface \"{}\" is left: {why}", made.ifname);
            }
            journal.note(&port, None);
        });
    }

    /// When all ports are closed.
    pub fn shutdown(self) {
        self.watch.shutdown();
    }
}

impl Kind for Keys {
    fn claim(&self) -> Claim {
        let place = self.place().map_or_else(String::new, |path| format!(" in {}", path.display()));
        Claim { what: format!("interface {}{place}", self.ifname), part: None }
    }

    fn descriptors(&self, _common: &mut BTreeMap<String, u64>) -> u64 {
        // Its queues, rtnetlink, the process that it is watched by and, for a moment, the namespace.
        let served = if self.transport == Transport::Syscall { 0 } else { kernel::DESCRIPTORS };
        3 + u64::from(self.queues) * (1 + served)
    }

    fn connect(&self, _guest: &Guest<'_>) -> Vec<ConnectInfo> {
        let place = match (&self.container, &self.netns) {
            (Some(container), _) => format!("what runs in the container {container}"),
            (None, Some(path)) => format!("what runs in the network namespace {}", path.display()),
            (None, None) => "this host's programs".into(),
        };
        vec![tried("sockets", format!("nothing to do: {place} has the interface {:?}", self.ifname))]
    }

    fn describe(&self, info: &mut PortInfo) {
        info.queues = self.queues;
        info.detail = PortDetail::Tap(TapDetail {
            ifname: self.ifname.clone(),
            netns: self.netns.as_ref().map(|path| path.display().to_string()),
            container: self.container.clone(),
            addresses: self.addresses.iter().map(ToString::to_string).collect(),
            routes: self.routes.iter().map(ToString::to_string).collect(),
            link_follows: Some(self.link_follows.to_string()),
            uso: None,
            transport: self.transport.to_string(),
        });
    }

    fn open(&self, port: &Port, _own_mac: bool, host: &Host) -> Result<(Box<dyn Driver>, String), String> {
        let options = TapOptions {
            netns: self.netns.clone(),
            netns_id: self.netns_id.clone(),
            left: None,
            ifname: self.ifname.clone(),
            mac: port.mac.0,
            mtu: port.mtu,
            addresses: self.addresses.clone(),
            routes: self.routes.clone(),
            queues: self.queues,
            transport: self.transport,
            workers: host.cpus.clone(),
            rps: self.rps,
            gro: self.gro,
        };
        let container = self.container.as_deref().filter(|_| self.netns.is_none()).and_then(Container::read);
        let reason = if container.is_some() { ASKED } else { "being made" };
        let follows = container.map(|container| {
            host.tap.followed.follow(&port.name, container);
            host.tap.followed.clone()
        });
        let device = Device {
            port: port.name.clone(),
            options,
            follows,
            workers: host.cpus.len(),
            hands: host.maker.hands(),
            journal: host.tap.journal.clone(),
            notices: host.tap.watch.notices(),
            noticed: None,
            is_over: Arc::default(),
            link_follows: self.link_follows,
            underlay: host.underlay,
            has_carrier: true,
        };
        // It is tried as soon as the workers know the port.
        host.mailbox.post(Event::Wake { port: port.name.clone() });
        Ok((Box::new(Tried::new(device)), reason.into()))
    }
}

/// Until its engine has answered.
const ASKED: &str = "its container is looked for";

/// A port's device.
struct Device {
    port: String,
    options: TapOptions,
    /// If it is to be wherever a container runs.
    follows: Option<Followed>,
    workers: usize,
    hands: Hands,
    journal: Journal,
    notices: Notices,
    /// Of the namespace of a device that is open.
    noticed: Option<Noticed>,
    /// The namespace that it was to be in, and in no other, is gone.
    is_over: Arc<AtomicBool>,
    link_follows: LinkFollows,
    /// Whether the underlay's link is up, or there is none.
    underlay: bool,
    /// Whether the open device has a carrier.
    has_carrier: bool,
}

impl Device {
    /// The process of the container that is followed.
    fn process(&self) -> Option<Process> {
        match self.follows.as_ref()?.seen(&self.port) {
            Seen::Runs(process) => Some(process),
            Seen::Asked | Seen::Waits(_) => None,
        }
    }

    /// Gives the device a carrier, or takes it, if that is to change. The link then.
    fn carry(&mut self, tap: &Tap) -> Option<Link> {
        let carrier = self.underlay || self.link_follows == LinkFollows::Port;
        if carrier == self.has_carrier {
            return None;
        }
        if let Err(why) = tap.set_carrier(carrier) {
            warn!(target: "port", port = %self.port, "its carrier: {why}");
        }
        self.has_carrier = carrier;
        Some(if carrier {
            Link::Up(None)
        } else {
            Link::Down("the underlay is down, which it follows (link-follows)".into())
        })
    }

    /// The namespace is gone. Why, with that.
    fn gone(&self, why: String) -> String {
        if self.options.netns_id.is_some() {
            self.is_over.store(true, Relaxed);
        }
        why
    }
}

impl Opens for Device {
    type Open = Tap;

    const PAUSE: Duration = Duration::from_secs(1);

    fn missing(&self) -> Option<String> {
        if let Some(followed) = &self.follows {
            return match followed.seen(&self.port) {
                Seen::Runs(_) => None,
                Seen::Asked => Some(ASKED.into()),
                Seen::Waits(why) => Some(why),
            };
        }
        let path = self.options.netns.as_ref().filter(|path| !path.exists())?;
        Some(self.gone(format!("there is no network namespace {}", path.display())))
    }

    fn start(&self) -> Receiver<Result<Tap, String>> {
        let mut options = self.options.clone();
        let process = self.process();
        options.netns = process.as_ref().map(Process::netns).or(options.netns);
        let (port, journal, is_over) = (self.port.clone(), self.journal.clone(), self.is_over.clone());
        self.hands.answer(&self.port, move || {
            options.left = journal.of(&port);
            let tap = Tap::open(options).map_err(|failure| match failure {
                Failure::Gone(why) => {
                    is_over.store(true, Relaxed);
                    why
                }
                Failure::Refused(why) => why,
            })?;
            // What was found under its number may be another process by now.
            if process.is_some_and(|process| !process.is_there()) {
                tap.remove();
                return Err("the container has ended".into());
            }
            Ok(tap)
        })
    }

    fn attach(&mut self, tap: &mut Tap, _log: &mut Vec<String>) -> (Attached, Link) {
        if let Some(why) = tap.unserved() {
            static ONCE: Once = Once::new();
            ONCE.call_once(
                || warn!(target: "port", "TAP devices without vhost-net, by a system call for each frame: {why}"),
            );
        }
        let (rx, tx) = (tap.rx_queues(), tap.tx_queues(self.workers));
        // One queue is written to by all workers, and the kernel keeps what they write in order.
        let in_order = self.options.queues == 1;
        // Who waits for the device does not wait for that.
        let (port, journal, made) = (self.port.clone(), self.journal.clone(), tap.made());
        self.hands.later(move || journal.note(&port, Some(made)));
        self.noticed = tap.netns().map(|path: &PathBuf| self.notices.of(path, &self.port));
        // The kernel gives one to a device with queues.
        self.has_carrier = true;
        let link = self.carry(tap).unwrap_or(Link::Up(None));
        (Attached { rx, tx, in_order, peer: Box::new(|_| {}) }, link)
    }

    fn watch(&mut self, tap: &mut Tap, all: bool, _log: &mut Vec<String>) -> Result<Option<Link>, String> {
        // Of its namespace there is news; whoever deletes the device makes none.
        let is_news = self.noticed.as_ref().is_some_and(Noticed::is_news);
        if let Some(why) = tap.is_gone().filter(|_| is_news || all) {
            self.noticed = None;
            return Err(self.gone(why));
        }
        match tap.lost().filter(|_| all) {
            Some(why) => {
                self.noticed = None;
                Err(why)
            }
            None => Ok(self.carry(tap)),
        }
    }

    fn lost(&mut self, tap: Tap) {
        let (port, journal) = (self.port.clone(), self.journal.clone());
        // Nobody finds a device any more whose namespace is not where it was. Other devices don't wait for that.
        let is_gone = tap.is_gone().is_some();
        self.hands.aside(move || {
            if is_gone {
                let made = tap.made();
                tap.remove();
                if journal.of(&port).is_some_and(|other| other == made) {
                    journal.note(&port, None);
                }
            }
        });
    }

    fn is_over(&self) -> bool {
        self.is_over.load(Relaxed)
    }

    fn losses(&self, tap: &Tap) -> Option<DeviceLosses> {
        let Losses { sent, received } = tap.losses()?;
        Some(DeviceLosses { missed: sent, rx_errors: 0, tx: received })
    }

    fn describe(&self, tap: &Tap, info: &mut PortInfo) {
        let PortDetail::Tap(detail) = &mut info.detail else { return };
        detail.uso = Some(tap.has_uso());
        detail.transport = tap.transport().to_string();
        if let Some(name) = tap.name() {
            detail.ifname = name;
        }
        detail.netns = tap.netns().map(|path| path.display().to_string());
    }

    fn update(&mut self, tap: Option<&mut Tap>, port: &Port) {
        (self.options.mac, self.options.mtu) = (port.mac.0, port.mtu);
        if let PortKind::Tap(keys) = &port.kind {
            self.link_follows = keys.link_follows;
        }
        if let Some(Err(why)) = tap.map(|tap| tap.set(port.mac.0, port.mtu)) {
            warn!(target: "port", port = %self.port, "address and MTU: {why}");
        }
    }

    fn follow(&mut self, underlay: bool) {
        self.underlay = underlay;
    }

    fn close(&mut self, state: State<Tap>, stays: bool) {
        if let Some(followed) = &self.follows {
            followed.forget(&self.port);
        }
        let (port, journal) = (self.port.clone(), self.journal.clone());
        let close = move |tap: Tap| {
            if stays {
                return tap.leave();
            }
            tap.remove();
            journal.note(&port, None);
        };
        match state {
            State::Open(tap) => self.hands.later(move || close(tap)),
            // By then it is answered.
            State::Opening(opened) => self.hands.later(move || {
                if let Ok(Ok(tap)) = opened.try_recv() {
                    close(tap);
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
