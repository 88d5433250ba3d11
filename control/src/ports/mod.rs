//! The links of all ports: memif by its supervisor, each vhost-user port by its own thread, NICs by DPDK, which is
//! started with the first of them.

pub mod connect;
mod eth;
mod mailbox;

pub use eth::Opened;

use crate::events::tell;
use crate::log::Limit;
use crossbeam_channel::Receiver;
use dray_config::rpc::{Event as Told, EventKind};
use dray_config::{Mac, Port, PortKind, Role};
use dray_dataplane::Dataplane;
use dray_dpdk::{EthPort, Link as EthLink};
use dray_vhost::memif::{self, Supervisor};
use dray_vhost::{Event, LinkInfo, vhost_user};
use eth::{Nic, Opener};
use mailbox::{Mailbox, News};
use std::collections::BTreeMap;
use std::time::Instant;
use tracing::info;

/// Bytes of a frame beyond its MTU: Ethernet header and one VLAN tag.
const OVERHEAD: u32 = 18;

/// A port's link, as the workers have it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Link {
    /// Frames can pass. With what is known of the peer, if the port has one.
    Up(Option<LinkInfo>),
    /// They can't, and why.
    Down(String),
}

impl Link {
    /// Whether frames can pass.
    pub fn is_up(&self) -> bool {
        matches!(self, Link::Up(_))
    }
}

/// All ports that are open.
pub struct Ports {
    memif: Supervisor,
    mailbox: Mailbox,
    opener: Opener,
    open: BTreeMap<String, Open>,
    /// By socket: those of whom it is not known which port they wanted.
    strangers: BTreeMap<String, Refused>,
    /// They must not fill the log.
    news: Limit,
}

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
    link: Link,
    refused: Option<Refused>,
    device: Device,
    /// A peer that comes and goes all the time must not fill the log.
    news: Limit,
}

/// What keeps a port's link.
enum Device {
    /// Nothing: the port is administratively down.
    Closed,
    /// The supervisor does.
    Memif,
    VhostUser(vhost_user::Port),
    Eth(Nic),
}

impl Open {
    fn eth(&self) -> Option<&EthPort> {
        match &self.device {
            Device::Eth(nic) => nic.open(),
            _ => None,
        }
    }

    /// Has a NIC opened that may be tried.
    fn try_nic(&mut self, name: &str, opener: &mut Opener, now: Instant) {
        if let Device::Eth(nic) = &mut self.device
            && let Some(why) = nic.poll(name, opener, now)
        {
            self.set(name, Link::Down(why), now);
        }
    }

    /// The link has changed. It says so if it was another one before.
    fn set(&mut self, name: &str, link: Link, now: Instant) {
        if self.link != link {
            self.tell(name, &link, now);
            self.link = link;
        }
    }
}

impl Open {
    /// Says what the link is now.
    fn tell(&mut self, name: &str, link: &Link, now: Instant) {
        let text = link_text(link);
        if self.news.admits(now) {
            info!(target: "port", port = %name, "{text}");
        }
        tell(link_event(name, link.is_up(), &text));
    }
}

/// That a port's link has changed.
fn link_event(name: &str, up: bool, text: &str) -> Told {
    let text = format!("port {name}: {text}");
    let state = Some(if up { "up" } else { "down" }.to_owned());
    Told { kind: EventKind::Link, text, port: Some(name.into()), state, ..Told::default() }
}

impl Ports {
    /// No ports yet.
    ///
    /// # Errors
    /// If the kernel gives no thread, epoll or eventfd.
    pub fn new() -> Result<Ports, String> {
        let mailbox = Mailbox::new();
        let memif = Supervisor::start(into(&mailbox))?;
        let opener = Opener::start()?;
        Ok(Ports { memif, mailbox, opener, open: BTreeMap::new(), strangers: BTreeMap::new(), news: Limit::default() })
    }

    /// Has something if something happened to memif or vhost-user ports, for [`Ports::news`].
    pub fn bell(&self) -> Receiver<()> {
        self.mailbox.bell()
    }

    /// What happened to one of those ports, oldest first, for [`Ports::event`].
    pub fn news(&self) -> Vec<News> {
        self.mailbox.take()
    }

    /// What became of NICs that were to be opened, for [`Ports::opened`].
    pub fn openings(&self) -> Receiver<Opened> {
        self.opener.opened()
    }

    /// Opens `port`. Its link comes up later: a NIC's with [`Ports::opened`], all others' with [`Ports::event`].
    /// `own_mac`: a NIC keeps its own address rather than taking the port's.
    ///
    /// # Errors
    /// Why it can't be opened; nothing is left of it then. A NIC that is missing or refuses is no error: it is tried again.
    pub fn open(&mut self, port: &Port, own_mac: bool, workers: usize) -> Result<(), String> {
        let name = port.name.clone();
        let (reason, device) = match &port.kind {
            _ if !port.admin_up => ("it is administratively down: dray port up opens it".into(), Device::Closed),
            PortKind::Memif(memif) => {
                self.memif.add(memif::PortSpec { name, memif: memif.clone(), max_frame: max_frame(port) })?;
                let reason = match memif.role {
                    Role::Server => "no peer has connected",
                    Role::Client => "not connected yet",
                };
                (reason.into(), Device::Memif)
            }
            PortKind::VhostUser(vhost_user) => {
                let reason = match vhost_user.role {
                    Role::Server => "no front end has connected".into(),
                    Role::Client => format!("connecting to {}", vhost_user.socket),
                };
                let spec = vhost_user::PortSpec { name, vhost_user: vhost_user.clone(), max_frame: max_frame(port) };
                (reason, Device::VhostUser(vhost_user::Port::open(spec, into(&self.mailbox))?))
            }
            PortKind::Eth(eth) => ("being opened".into(), Device::Eth(Nic::new(port, eth, own_mac, workers)?)),
        };
        let mut open = Open { link: Link::Down(reason), refused: None, device, news: Limit::default() };
        open.try_nic(&port.name, &mut self.opener, Instant::now());
        self.open.insert(port.name.clone(), open);
        Ok(())
    }

    /// Takes up what became of a NIC that was to be opened: the workers poll its queues from now on, whatever its link. The
    /// name of the port, if it is open.
    pub fn opened(&mut self, opened: Opened, dataplane: &mut Dataplane) -> Option<String> {
        let name = opened.port.clone();
        let open = self.open.get_mut(&name)?;
        let Device::Eth(nic) = &mut open.device else { return None };
        let now = Instant::now();
        let link = match nic.opened(opened, now)? {
            Err(why) => {
                open.set(&name, Link::Down(why), now);
                return None;
            }
            Ok(eth) => {
                let (rx, tx) = (eth.rx_queues(), eth.tx_queues(dataplane.workers()));
                // Each of its queues is emptied when the NIC likes.
                dataplane.link_up(&name, rx, tx, eth.info().tx_queues == 1);
                for line in open_lines(eth) {
                    if open.news.admits(now) {
                        info!(target: "port", port = %name, "{line}");
                    }
                }
                eth_link(eth.watch())
            }
        };
        open.set(&name, link, now);
        Some(name)
    }

    /// Closes a port: its peer is told, its socket or device released. The workers lose its queues.
    pub fn close(&mut self, name: &str, dataplane: &mut Dataplane) {
        let Some(mut open) = self.open.remove(name) else { return };
        if let Device::Eth(nic) = &mut open.device {
            dataplane.device_lost(name, nic.take_losses());
        }
        dataplane.link_down(name);
        if open.link.is_up() {
            tell(link_event(name, false, "down: it is closed"));
        }
        match open.device {
            Device::Closed => {}
            Device::Memif => {
                self.memif.remove(name);
            }
            // Its thread has ended after this.
            Device::VhostUser(port) => drop(port),
            // EAL's thread closes it; whoever opens it next comes after that.
            Device::Eth(_) => return,
        }
        // What was said about it before must not be taken for news of a port of the same name.
        self.mailbox.forget(name);
    }

    /// The port's MTU or address has changed, without its link going down.
    pub fn update(&mut self, port: &Port) {
        match self.open.get(&port.name).map(|open| &open.device) {
            Some(Device::Memif) => self.memif.set_max_frame(&port.name, max_frame(port)),
            Some(Device::VhostUser(device)) => device.set_max_frame(max_frame(port)),
            // Neither changes while it is open.
            Some(Device::Eth(_) | Device::Closed) | None => {}
        }
    }

    /// Takes up what happened to a memif or vhost-user port. The name of the port, if its link is up now.
    pub fn event(&mut self, news: News, dataplane: &mut Dataplane) -> Option<String> {
        let now = Instant::now();
        let News { event, times, secrets } = news;
        let peers =
            if times == 1 { "a peer was refused".into() } else { format!("{times} peers were refused, the last") };
        let Some(name) = port_of(&event).map(str::to_owned) else {
            if let Event::Refused { socket, reason, peer, .. } = event {
                let reason = refusal(&reason, peer);
                let text = format!("{socket}: {peers}: {reason}");
                if self.news.admits(now) {
                    info!(target: "socket", "{text}");
                    tell(refused_event(None, format!("socket {text}"), times));
                }
                let refused = Refused::note(self.strangers.get(&socket), times, secrets, reason);
                self.strangers.insert(socket, refused);
            }
            return None;
        };
        let open = self.open.get_mut(&name)?;
        let link = match event {
            Event::Up { link, .. } => {
                let in_order = match &link.info {
                    // Workers have rings of their own, and the peer looks at them in whatever order it likes.
                    LinkInfo::Memif(info) => info.tx_rings == 1,
                    // All workers send a flow through the same ring.
                    LinkInfo::VhostUser(_) => true,
                };
                dataplane.link_up(&name, link.rx, link.tx.handles(dataplane.workers()), in_order);
                Link::Up(Some(link.info))
            }
            Event::Down { reason, .. } => {
                dataplane.link_down(&name);
                Link::Down(reason)
            }
            Event::Refused { reason, peer, .. } => {
                let shown = refusal(&reason, peer);
                if open.news.admits(now) {
                    info!(target: "port", port = %name, "{peers}: {shown}");
                    let text = format!("port {name}: {peers}: {shown}");
                    tell(refused_event(Some(name), text, times));
                }
                open.refused = Some(Refused::note(open.refused.as_ref(), times, secrets, shown));
                if !open.link.is_up() {
                    open.link = Link::Down(reason);
                }
                return None;
            }
        };
        open.tell(&name, &link, now);
        open.link = link;
        open.link.is_up().then_some(name)
    }

    /// Looks at the links of NICs, gives up those that are gone, and has those opened that are there again. Those whose link
    /// has just come up; what was learned behind those that went down is forgotten. `all`: not only those that take no time.
    pub fn poll(&mut self, all: bool, dataplane: &mut Dataplane) -> Vec<String> {
        let mut up = Vec::new();
        let now = Instant::now();
        if let Some(more) = self.news.flush(now) {
            info!(target: "socket", "{more}");
        }
        for (name, open) in &mut self.open {
            if let Some(more) = open.news.flush(now) {
                info!(target: "port", port = %name, "{more}");
            }
            if let Device::Eth(nic) = &mut open.device
                && let Some(eth) = nic.open_mut().filter(|eth| all || eth.is_cheap())
            {
                let mtu = eth.info().mtu;
                let link = match eth.lost() {
                    Some(why) => {
                        dataplane.device_lost(name, nic.take_losses());
                        dataplane.link_down(name);
                        nic.close(now);
                        Link::Down(why)
                    }
                    None => {
                        let link = eth_link(eth.watch());
                        let fit = eth.info().mtu;
                        if fit != mtu && open.news.admits(now) {
                            info!(target: "port", port = %name, "the interface's MTU has changed: {fit} fit now");
                        }
                        link
                    }
                };
                if link.is_up() && !open.link.is_up() {
                    up.push(name.clone());
                } else if open.link.is_up() && !link.is_up() {
                    dataplane.forget(name);
                }
                open.set(name, link, now);
            }
            open.try_nic(name, &mut self.opener, now);
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
            if let Device::Eth(nic) = &mut open.device {
                dataplane.device_lost(name, nic.take_losses());
            }
        }
    }

    /// A port's link.
    pub fn link(&self, name: &str) -> Option<&Link> {
        self.open.get(name).map(|open| &open.link)
    }

    /// A port's device, if it is a NIC and open.
    pub fn eth(&self, name: &str) -> Option<&EthPort> {
        self.open.get(name)?.eth()
    }

    /// A port's front end and rings, if it is a vhost-user port.
    pub fn vhost_user(&self, name: &str) -> Option<vhost_user::Status> {
        match &self.open.get(name)?.device {
            Device::VhostUser(port) => Some(port.status()),
            _ => None,
        }
    }

    /// Closes all ports, whose peers are told, and ends DPDK. The workers have given back all queues: the data plane is
    /// gone.
    pub fn shutdown(self) {
        let Ports { memif, open, opener, .. } = self;
        memif.shutdown();
        drop(open);
        opener.shutdown();
    }
}

/// Events go there.
fn into(mailbox: &Mailbox) -> impl Fn(Event) + Send + use<> {
    let mailbox = mailbox.clone();
    move |event| mailbox.post(event)
}

fn max_frame(port: &Port) -> u32 {
    u32::from(port.mtu) + OVERHEAD
}

fn port_of(event: &Event) -> Option<&str> {
    match event {
        Event::Up { port, .. } | Event::Down { port, .. } => Some(port),
        Event::Refused { port, .. } => port.as_deref(),
    }
}

fn refused_event(port: Option<String>, text: String, times: u64) -> Told {
    Told { kind: EventKind::Refused, text, port, count: Some(times), ..Told::default() }
}

/// Why a peer was refused, and who it is.
fn refusal(reason: &str, peer: Option<String>) -> String {
    peer.map_or_else(|| reason.to_owned(), |peer| format!("{reason} ({peer})"))
}

/// What a device turned out to be, for the log.
fn open_lines(eth: &EthPort) -> Vec<String> {
    let info = eth.info();
    let open = format!(
        "open, driver {}, mac {}, mtu {}, {} receive and {} transmit queues of {} and {}{}",
        info.driver,
        Mac(info.mac),
        info.mtu,
        info.rx_queues,
        info.tx_queues,
        info.rx_ring,
        info.tx_ring,
        if info.rss { ", RSS" } else { "" }
    );
    info.notes.iter().cloned().chain([open]).collect()
}

fn eth_link(link: EthLink) -> Link {
    if link.up { Link::Up(None) } else { Link::Down("the device has no link".into()) }
}

/// What a link is, in words.
fn link_text(link: &Link) -> String {
    let sealed = |sealed: bool| if sealed { "" } else { ", memory not sealed" };
    match link {
        Link::Up(Some(LinkInfo::Memif(info))) => {
            let rings = |n: u16| if n == 1 { "1 ring".to_owned() } else { format!("{n} rings") };
            format!(
                "up, peer {:?}, {} in, {} out, ring size {}{}",
                info.peer,
                rings(info.rx_rings),
                rings(info.tx_rings),
                info.ring_size,
                sealed(info.sealed)
            )
        }
        Link::Up(Some(LinkInfo::VhostUser(info))) => {
            format!(
                "up, {} receive and {} transmit rings, {}, size {}{}",
                info.rx_rings,
                info.tx_rings,
                if info.packed { "packed" } else { "split" },
                info.ring_size,
                sealed(info.sealed)
            )
        }
        Link::Up(None) => "up".into(),
        Link::Down(reason) => format!("down: {reason}"),
    }
}
