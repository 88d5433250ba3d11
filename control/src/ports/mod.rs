//! Ports: what the switch does with any of them. What is particular to a kind is in the kind's file, which implements
//! [`Kind`] for the kind's keys in the configuration and [`Driver`] for an open port. The lists of kinds are in this file:
//! [`kind`], [`Host`], [`METRICS`].

mod connect;
mod eth;
mod follow;
mod interface;
mod made;
mod mailbox;
mod maker;
mod memif;
mod netns;
mod peer;
mod tap;
mod tried;
mod vhost_user;

use crate::events::tell;
use crate::log::Limit;
use crossbeam_channel::{Receiver, Sender};
use dray_api::{ConnectInfo, Event as Told, EventKind, PortInfo};
use dray_config::{Mac, Port, PortKind, Role, ValidConfig};
use dray_dataplane::{Dataplane, DeviceLosses};
use dray_switch::wire::OVERHEAD;
use dray_switch::{Rx, Tx};
use dray_vhost::Refusal;
use dray_vhost::memif::Supervisor;
use eth::Opener;
use mailbox::{Event, Mailbox, News};
use maker::Maker;
use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};
use tracing::info;

/// How long drivers may look at what takes time, at a time: there may be many of them.
const LOOK: Duration = Duration::from_micros(500);

/// The kind that a port is of.
fn kind(port: &Port) -> &dyn Kind {
    match &port.kind {
        PortKind::Memif(memif) => memif,
        PortKind::VhostUser(vhost_user) => vhost_user,
        PortKind::Tap(tap) => tap,
        PortKind::Eth(eth) => eth,
    }
}

/// What ports find in the switch.
struct Host {
    workers: usize,
    /// Theirs.
    cpus: Vec<usize>,
    mailbox: Mailbox,
    /// What all memif ports have in common.
    memif: Supervisor,
    /// What all NICs have in common.
    eth: Opener,
    /// What all ports of the kernel's have in common.
    maker: Maker,
    /// What all TAP ports have in common.
    tap: tap::Common,
    /// Whether the link of the overlay's underlay is up, or there is no overlay.
    underlay: bool,
}

impl Host {
    fn start(cpus: Vec<usize>, journal: &Path) -> Result<Host, String> {
        let mailbox = Mailbox::new();
        let workers = cpus.len();
        let memif = memif::start(&mailbox, workers)?;
        let (eth, maker) = (Opener::start(&mailbox)?, Maker::start(&mailbox)?);
        let tap = tap::Common::start(&mailbox, journal)?;
        Ok(Host { memif, eth, maker, tap, workers, cpus, mailbox, underlay: true })
    }

    /// When all ports are closed.
    fn shutdown(self) {
        self.memif.shutdown();
        self.eth.shutdown();
        self.maker.shutdown();
        self.tap.shutdown();
    }
}

/// The families of metrics that only ports of one kind have.
pub static METRICS: &[&Metric] = &[&vhost_user::INTERRUPTS, &vhost_user::RESETS];

/// A kind of port: what the keys of a port mean, whether it is open or not.
trait Kind {
    /// What no other port can have while this one is open.
    fn claim(&self) -> Claim;

    /// How many file descriptors the port may need at most. Of what several ports use together, a socket, the number goes
    /// into `common`, under its name.
    fn descriptors(&self, common: &mut BTreeMap<String, u64>) -> u64;

    /// A way to attach to the port for each program that can.
    fn connect(&self, guest: &Guest<'_>) -> Vec<ConnectInfo>;

    /// What the keys say, for `port show`.
    fn describe(&self, info: &mut PortInfo);

    /// Opens the port. With why its link is down until something is heard of it. `own_mac`: a device keeps its own address
    /// rather than taking the port's. What can take long happens on another
    /// thread, which tells the mailbox when it is done.
    ///
    /// # Errors
    /// What is wrong with the port on any machine, or with its socket. A device that is missing or refuses is no error: the
    /// link is down, and the driver tries again.
    fn open(&self, port: &Port, own_mac: bool, host: &Host) -> Result<(Box<dyn Driver>, String), String>;
}

/// An open port.
trait Driver {
    /// Looks at the link, about ten times a second and after [`Event::Wake`]; what takes time only if `all`, once a second.
    /// Lines for the log go into `log`. Does not wait.
    fn poll(&mut self, _all: bool, _now: Instant, _log: &mut Vec<String>) -> Option<Change> {
        None
    }

    /// The port's MTU or address has changed, without its link going down.
    fn update(&mut self, _port: &Port, _host: &Host) {}

    /// What the device has lost since this was last called, if it says so.
    fn take_losses(&mut self) -> DeviceLosses {
        DeviceLosses::default()
    }

    /// Whether it can never be up (again), and the port is to be deleted.
    fn is_over(&self) -> bool {
        false
    }

    /// What the device turned out to be, if the port is one.
    fn device(&self) -> Option<Device> {
        None
    }

    /// What it is now, for `port show`.
    fn describe(&self, _info: &mut PortInfo) {}

    /// Samples of the families in [`METRICS`].
    fn metrics(&self) -> Vec<Sample> {
        Vec::new()
    }

    /// Whether the link of the overlay's underlay is up, or there is no overlay.
    fn follow(&mut self, _underlay: bool) {}

    /// Tells the peer, releases socket or device, as far as dropping the driver does not do that. `stays`: the port is administratively
    /// down only, and a device that it has made stays, without a carrier.
    fn close(&mut self, _host: &Host, _stays: bool) {}
}

/// What happened to a port's link.
pub enum Change {
    /// There are queues, in the place of those of an earlier link.
    Attached(Attached, Link),
    /// The queues of the link move nothing from now on and are to be dropped. Why, for people.
    Detached(String),
    /// The link is another one, and its queues stay.
    Link(Link),
}

/// What a link brings.
pub struct Attached {
    /// Receive queues. All are to be polled: a peer sends on whichever it likes.
    rx: Vec<Box<dyn Rx>>,
    /// Transmit queues, one for each worker.
    tx: Vec<Box<dyn Tx>>,
    /// Whether what one worker has sent is received before what another one sends later, if they are of one flow.
    in_order: bool,
    /// What there is to tell about the peer.
    peer: Describe,
}

/// Puts into a reply what is known of a link's peer.
pub type Describe = Box<dyn Fn(&mut PortInfo) + Send>;

/// A port's link, as the workers have it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Link {
    /// Frames can pass. With what is known of the peer, if there is one, for people.
    Up(Option<String>),
    /// They can't, and why.
    Down(String),
}

impl Link {
    /// Whether frames can pass.
    pub fn is_up(&self) -> bool {
        matches!(self, Link::Up(_))
    }

    /// In words.
    fn text(&self) -> String {
        match self {
            Link::Up(None) => "up".into(),
            Link::Up(Some(peer)) => format!("up, {peer}"),
            Link::Down(reason) => format!("down: {reason}"),
        }
    }
}

/// What a device turned out to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Device {
    /// Its MAC address.
    pub mac: Mac,
    /// The longest Ethernet payload, bytes.
    pub mtu: u16,
    /// Whether it is made of an interface that the kernel has too.
    pub is_kernels: bool,
}

/// What a port has for itself while it is open.
struct Claim {
    /// Such as a socket or a device.
    what: String,
    /// The part of it that the port has, if others can have other parts: one of a number. All that share it have one role.
    part: Option<(Role, u32)>,
}

impl Claim {
    fn excludes(&self, other: &Claim) -> bool {
        let shared = match (self.part, other.part) {
            (Some((role, part)), Some((other_role, other_part))) => role == other_role && part != other_part,
            _ => false,
        };
        self.what == other.what && !shared
    }
}

/// A port that is to be opened or closed.
pub struct Wanted<'a> {
    /// The port.
    pub port: &'a Port,
    /// Whether it goes administratively down or up only.
    pub stays: bool,
    claim: Claim,
}

impl<'a> Wanted<'a> {
    /// With what `port` has for itself.
    pub fn by(port: &'a Port) -> Wanted<'a> {
        Wanted { port, stays: false, claim: kind(port).claim() }
    }

    /// Which goes administratively down or up only, if `stays`.
    pub fn staying(self, stays: bool) -> Self {
        Wanted { stays, ..self }
    }

    /// Whether only one of both can be open.
    pub fn excludes(&self, other: &Wanted<'_>) -> bool {
        self.port.name == other.port.name || self.claim.excludes(&other.claim)
    }
}

/// How many file descriptors the ports of `config` may need at most.
pub fn descriptors(config: &ValidConfig) -> u64 {
    let mut common = BTreeMap::new();
    let own: u64 = config.ports.iter().map(|port| kind(port).descriptors(&mut common)).sum();
    own + common.values().sum::<u64>()
}

/// What is to be known of a port and the switch by whoever attaches.
pub struct Guest<'a> {
    /// The port.
    pub port: &'a Port,
    /// Whether it is the underlay, which uses its address itself.
    pub is_underlay: bool,
    /// More queue pairs than workers gain a VM nothing.
    pub workers: usize,
    /// What a guest is told, bytes.
    pub mtu: u16,
}

/// A way to attach to a port for each program that can, ready to paste.
pub fn connect(guest: &Guest<'_>) -> Vec<ConnectInfo> {
    kind(guest.port).connect(guest)
}

/// A family of counters.
#[derive(Debug)]
pub struct Metric {
    /// Without `_total`.
    pub name: &'static str,
    /// For people.
    pub help: &'static str,
}

/// A value of a [`Metric`].
pub struct Sample {
    /// Its family.
    pub metric: &'static Metric,
    /// The label that it has beside the port's: name and value.
    pub label: (&'static str, String),
    /// The count.
    pub value: u64,
}

/// All ports that are open.
pub struct Ports {
    host: Host,
    open: BTreeMap<String, Open>,
    /// Of a round over all ports in which drivers look at what takes time: the port at which it goes on.
    round: Option<String>,
    /// By socket: those of whom it is not known which port they wanted.
    strangers: BTreeMap<String, Refused>,
    /// They must not fill the log.
    news: Limit,
    /// Ports that are to be deleted.
    over: Vec<String>,
}

/// Who waits until it is known what becomes of a port's link.
pub type Waiter = Sender<Result<(), String>>;

/// Peers that were refused.
#[derive(Clone, Debug)]
pub struct Refused {
    /// How many.
    pub count: u64,
    /// How many of them for a wrong secret.
    pub secrets: u64,
    /// Why the last of them was, and who that is if it is known.
    pub reason: String,
    /// When.
    pub last: Instant,
}

impl Refused {
    /// So many more.
    fn note(before: Option<&Refused>, times: u64, secrets: u64, reason: String) -> Refused {
        let (count, guessed) = before.map_or((0, 0), |before| (before.count, before.secrets));
        Refused { count: count + times, secrets: guessed + secrets, reason, last: Instant::now() }
    }
}

struct Open {
    /// None: the port is administratively down.
    driver: Option<Box<dyn Driver>>,
    link: Link,
    /// Of the peer of a link that is up.
    peer: Option<Describe>,
    refused: Option<Refused>,
    /// A peer that comes and goes all the time must not fill the log.
    news: Limit,
    waiter: Option<Waiter>,
}

impl Open {
    /// Has the workers know what happened to the link. Whether it has come up, or has new queues.
    fn take(&mut self, name: &str, change: Change, dataplane: &mut Dataplane, now: Instant) -> bool {
        let (link, is_news, rises) = match change {
            Change::Attached(Attached { rx, tx, in_order, peer }, link) => {
                dataplane.link_up(name, rx, tx, in_order);
                self.peer = Some(peer);
                (link, true, true)
            }
            Change::Detached(why) => {
                self.count_losses(name, dataplane);
                dataplane.link_down(name);
                self.peer = None;
                (Link::Down(why), true, false)
            }
            Change::Link(link) => {
                // What was learned behind it may be back behind another port.
                if self.link.is_up() && !link.is_up() {
                    dataplane.forget(name);
                }
                let rises = link.is_up() && !self.link.is_up();
                let is_news = link != self.link;
                (link, is_news, rises)
            }
        };
        if is_news {
            self.tell(name, &link, now);
            self.link = link;
            if let Some(waiter) = self.waiter.take() {
                answer(&waiter, &self.link);
            }
        }
        rises
    }

    /// Has the driver look at the link. Whether it has come up, or has new queues.
    fn poll(&mut self, name: &str, all: bool, dataplane: &mut Dataplane, now: Instant) -> bool {
        let Some(driver) = &mut self.driver else { return false };
        let mut log = Vec::new();
        let change = driver.poll(all, now, &mut log);
        for line in log {
            if self.news.admits(now) {
                info!(target: "port", port = %name, "{line}");
            }
        }
        change.is_some_and(|change| self.take(name, change, dataplane, now))
    }

    /// Says what the link is now.
    fn tell(&mut self, name: &str, link: &Link, now: Instant) {
        let text = link.text();
        if self.news.admits(now) {
            info!(target: "port", port = %name, "{text}");
        }
        tell(link_event(name, link.is_up(), &text));
    }

    fn count_losses(&mut self, name: &str, dataplane: &mut Dataplane) {
        if let Some(driver) = &mut self.driver {
            dataplane.device_lost(name, driver.take_losses());
        }
    }
}

/// Says what a link is.
fn answer(waiter: &Waiter, link: &Link) {
    let _ = waiter.send(match link {
        Link::Up(_) => Ok(()),
        Link::Down(why) => Err(why.clone()),
    });
}

/// That a port's link has changed.
fn link_event(name: &str, up: bool, text: &str) -> Told {
    let text = format!("port {name}: {text}");
    let state = Some(if up { "up" } else { "down" }.to_owned());
    Told { kind: EventKind::Link, text, port: Some(name.into()), state, ..Told::default() }
}

impl Ports {
    /// No ports yet. `cpus`: the workers'. `journal`: the file of the devices that were made.
    ///
    /// # Errors
    /// If the kernel gives no thread, epoll, inotify or eventfd.
    pub fn new(cpus: Vec<usize>, journal: &Path) -> Result<Ports, String> {
        let host = Host::start(cpus, journal)?;
        let (open, strangers) = Default::default();
        Ok(Ports { host, open, round: None, strangers, news: Limit::default(), over: Vec::new() })
    }

    /// Has what an earlier drayd has left removed, if no port of `config` is to have it.
    pub fn remove_left(&self, config: &ValidConfig) {
        self.host.tap.remove_left(config, &self.host.maker);
    }

    /// Has `waiter` told what the link of a port is: now if it is up, else when that is known.
    pub fn tell_link(&mut self, name: &str, waiter: Waiter) {
        let Some(open) = self.open.get_mut(name) else { return };
        if open.link.is_up() || open.driver.is_none() {
            answer(&waiter, &open.link);
        } else {
            open.waiter = Some(waiter);
        }
    }

    /// The ports that can never be up (again) and are to be deleted.
    pub fn take_over(&mut self) -> Vec<String> {
        std::mem::take(&mut self.over)
    }

    /// Has something if something happened to a port, for [`Ports::news`].
    pub fn bell(&self) -> Receiver<()> {
        self.host.mailbox.bell()
    }

    /// What happened to one port, oldest first, for [`Ports::event`].
    pub fn news(&self) -> Vec<News> {
        self.host.mailbox.take()
    }

    /// Opens `port`, if it is not administratively down. Its link comes up later, with [`Ports::event`]. `own_mac`: a device
    /// keeps its own address rather than taking the port's.
    ///
    /// # Errors
    /// Why it can't be opened; nothing is left of it then. A device that is missing or refuses is no error: it is tried again.
    pub fn open(&mut self, port: &Port, own_mac: bool) -> Result<(), String> {
        let (driver, reason) = if port.admin_up {
            let (driver, reason) = kind(port).open(port, own_mac, &self.host)?;
            (Some(driver), reason)
        } else {
            (None, "it is administratively down: dray port up opens it".into())
        };
        let (link, news) = (Link::Down(reason), Limit::default());
        let open = Open { driver, link, peer: None, refused: None, news, waiter: None };
        self.open.insert(port.name.clone(), open);
        Ok(())
    }

    /// Has the ports that follow the underlay know whether its link is up; so it is if there is none.
    pub fn follow(&mut self, underlay: bool) {
        if std::mem::replace(&mut self.host.underlay, underlay) != underlay {
            self.open.values_mut().filter_map(|open| open.driver.as_mut()).for_each(|driver| driver.follow(underlay));
        }
    }

    /// Closes a port: its peer is told, its socket or device released. The workers lose its queues. `stays`: it goes administratively down
    /// or up, and what it has made stays.
    pub fn close(&mut self, name: &str, stays: bool, dataplane: &mut Dataplane) {
        let Some(mut open) = self.open.remove(name) else { return };
        open.count_losses(name, dataplane);
        dataplane.link_down(name);
        if open.link.is_up() {
            tell(link_event(name, false, "down: it is closed"));
        }
        match open.driver {
            Some(mut driver) => driver.close(&self.host, stays),
            None if stays => {}
            None => self.host.tap.remove(name, &self.host.maker),
        }
        // What was said about it before must not be taken for news of a port of the same name.
        self.host.mailbox.forget(name);
    }

    /// The port's MTU or address has changed, without its link going down.
    pub fn update(&mut self, port: &Port) {
        if let Some(driver) = self.open.get_mut(&port.name).and_then(|open| open.driver.as_mut()) {
            driver.update(port, &self.host);
        }
    }

    /// Takes up what happened to a port. The name of the port, if its link has come up or it has new queues.
    pub fn event(&mut self, news: News, dataplane: &mut Dataplane) -> Option<String> {
        let now = Instant::now();
        let News { event, times, secrets } = news;
        match event {
            Event::Change { port, change } => {
                self.open.get_mut(&port)?.take(&port, change, dataplane, now).then_some(port)
            }
            Event::Wake { port } => {
                let open = self.open.get_mut(&port)?;
                let rises = open.poll(&port, false, dataplane, now);
                if open.driver.as_ref().is_some_and(|driver| driver.is_over()) {
                    self.over.push(port.clone());
                }
                rises.then_some(port)
            }
            Event::Refused(Refusal { port, socket, reason, peer, .. }) => {
                let peers = if times == 1 {
                    "a peer was refused".into()
                } else {
                    format!("{times} peers were refused, the last")
                };
                let shown = peer.map_or_else(|| reason.clone(), |peer| format!("{reason} ({peer})"));
                let text = format!("{peers}: {shown}");
                let Some(name) = port else {
                    if self.news.admits(now) {
                        info!(target: "socket", "{socket}: {text}");
                        tell(refused_event(None, format!("socket {socket}: {text}"), times));
                    }
                    let refused = Refused::note(self.strangers.get(&socket), times, secrets, shown);
                    self.strangers.insert(socket, refused);
                    return None;
                };
                let open = self.open.get_mut(&name)?;
                if open.news.admits(now) {
                    info!(target: "port", port = %name, "{text}");
                    tell(refused_event(Some(name.clone()), format!("port {name}: {text}"), times));
                }
                open.refused = Some(Refused::note(open.refused.as_ref(), times, secrets, shown));
                if !open.link.is_up() {
                    open.link = Link::Down(reason);
                }
                None
            }
        }
    }

    /// What takes time is to be looked at once at each port, if that is not being done already.
    pub fn begin_round(&mut self) {
        self.round.get_or_insert_default();
    }

    /// Has drivers look at their links. Those that have come up or have new queues.
    pub fn poll(&mut self, dataplane: &mut Dataplane) -> Vec<String> {
        let mut up = Vec::new();
        let now = Instant::now();
        let (mut round, mut spent) = (self.round.take(), Duration::ZERO);
        if let Some(more) = self.news.flush(now) {
            info!(target: "socket", "{more}");
        }
        for (name, open) in &mut self.open {
            if let Some(more) = open.news.flush(now) {
                info!(target: "port", port = %name, "{more}");
            }
            // What takes time: where the round goes on, and as long as there is time.
            let mut all = round.as_ref().is_some_and(|next| name >= next);
            if all && spent >= LOOK {
                (self.round, round, all) = (Some(name.clone()), None, false);
            }
            let begin = all.then(Instant::now);
            if open.poll(name, all, dataplane, now) {
                up.push(name.clone());
            }
            if open.driver.as_ref().is_some_and(|driver| driver.is_over()) {
                self.over.push(name.clone());
            }
            spent += begin.map_or(Duration::ZERO, |begin| begin.elapsed());
        }
        up
    }

    /// Who was refused as a port's peer, if anybody was.
    pub fn refused(&self, name: &str) -> Option<&Refused> {
        self.open.get(name)?.refused.as_ref()
    }

    /// Who was refused without being known to have wanted any port, by socket.
    pub fn strangers(&self) -> &BTreeMap<String, Refused> {
        &self.strangers
    }

    /// Has the counts say what devices have lost.
    pub fn count_losses(&mut self, dataplane: &mut Dataplane) {
        for (name, open) in &mut self.open {
            open.count_losses(name, dataplane);
        }
    }

    /// A port's link.
    pub fn link(&self, name: &str) -> Option<&Link> {
        self.open.get(name).map(|open| &open.link)
    }

    /// A port's device, if it is one and open.
    pub fn device(&self, name: &str) -> Option<Device> {
        self.open.get(name)?.driver.as_ref()?.device()
    }

    /// What a port carries, bytes: a device may carry less than its port was asked for.
    pub fn mtu(&self, port: &Port) -> u16 {
        self.device(&port.name).map_or(port.mtu, |device| port.mtu.min(device.mtu))
    }

    /// Puts into `info` what only ports of this kind have.
    pub fn describe(&self, port: &Port, info: &mut PortInfo) {
        kind(port).describe(info);
        let Some(open) = self.open.get(&port.name) else { return };
        if let Some(driver) = &open.driver {
            driver.describe(info);
        }
        if let Some(peer) = &open.peer {
            peer(info);
        }
    }

    /// A port's samples of the families in [`METRICS`].
    pub fn metrics(&self, name: &str) -> Vec<Sample> {
        self.open.get(name).and_then(|open| open.driver.as_ref()).map(|driver| driver.metrics()).unwrap_or_default()
    }

    /// Closes all ports, whose peers are told, and what they have in common. The workers have given back all queues: the
    /// data plane is gone.
    pub fn shutdown(self) {
        let Ports { host, open, .. } = self;
        drop(open);
        host.shutdown();
    }
}

/// The longest frame, bytes.
fn max_frame(port: &Port) -> u32 {
    u32::from(port.mtu) + OVERHEAD
}

fn refused_event(port: Option<String>, text: String, times: u64) -> Told {
    Told { kind: EventKind::Refused, text, port, count: Some(times), ..Told::default() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn port(keys: &str) -> Port {
        let text = format!("[[port]]\n{}\n", keys.replace(';', "\n"));
        let config = dray_config::parse_for("test", &text, &[]).unwrap_or_else(|errors| panic!("{errors}"));
        config.ports.into_iter().next().expect("there is one")
    }

    #[test]
    fn ports_exclude_each_other() {
        let excludes = |old: &Port, new: &Port| Wanted::by(old).excludes(&Wanted::by(new));
        let a = port("name='a';kind='memif';socket='/m';id=0");
        assert!(excludes(&a, &port("name='a';kind='memif';socket='/n';id=1")));
        assert!(excludes(&a, &port("name='b';kind='memif';socket='/m';id=0")));
        assert!(excludes(&a, &port("name='b';kind='memif';socket='/m';id=1;role='client'")));
        assert!(!excludes(&a, &port("name='b';kind='memif';socket='/m';id=1")));
        let v = port("name='v';kind='vhost-user';socket='/m'");
        assert!(excludes(&a, &v) && excludes(&v, &a));
        assert!(excludes(&v, &port("name='w';kind='vhost-user';socket='/m';role='server'")));
        assert!(!excludes(&v, &port("name='w';kind='vhost-user';socket='@m'")));
        assert!(!excludes(&a, &port("name='b';kind='memif';socket='@m';id=0")));
        let nic = port("name='n';kind='eth';device='0000:3b:00.0'");
        assert!(excludes(&nic, &port("name='m';kind='eth';device='3b:00.0'")));
        assert!(!excludes(&nic, &port("name='m';kind='eth';device='0000:3b:00.1'")));
        let tap = port("name='t';kind='eth';device='net_tap0,iface=a'");
        assert!(excludes(&tap, &port("name='u';kind='eth';device='net_tap0,iface=b'")));
    }
}
