//! The links of all ports: memif by its supervisor, NICs by DPDK, which is started with the first of them.

use crate::log::{Limit, log};
use crossbeam_channel::{Receiver, unbounded};
use dray_config::{Mac, Port, PortKind};
use dray_dataplane::Dataplane;
use dray_dpdk::{EthOptions, EthPort, Link as EthLink, eal};
use dray_vhost::memif::{PortSpec, Supervisor};
use dray_vhost::{Event, LinkInfo};
use std::collections::BTreeMap;
use std::time::Instant;

/// Bytes of a frame beyond its MTU: Ethernet header and one VLAN tag.
const OVERHEAD: u32 = 18;

/// A port's link, as the workers have it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Link {
    /// Frames can pass. For memif with what is known of the peer.
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
    events: Receiver<Event>,
    /// Events that were taken out of turn.
    early: Vec<Event>,
    open: BTreeMap<String, Open>,
}

struct Open {
    link: Link,
    /// None: memif.
    eth: Option<EthPort>,
    /// A peer that comes and goes all the time must not fill the log.
    news: Limit,
}

impl Ports {
    /// No ports yet.
    ///
    /// # Errors
    /// If the kernel gives no thread, epoll or eventfd.
    pub fn new() -> Result<Ports, String> {
        let (sender, events) = unbounded();
        let memif = Supervisor::start(move |event| {
            // The receiver goes after the supervisor; nothing is to be told then.
            let _ = sender.send(event);
        })?;
        Ok(Ports { memif, events, early: Vec::new(), open: BTreeMap::new() })
    }

    /// What happens to memif ports, for [`Ports::event`].
    pub fn events(&self) -> Receiver<Event> {
        self.events.clone()
    }

    /// Opens `port`. Its link comes up later: a memif's with [`Ports::event`], a NIC's with [`Ports::attach`].
    /// `own_mac`: a NIC keeps its own address rather than taking the port's.
    ///
    /// # Errors
    /// Why it can't be opened; nothing is left of it then.
    pub fn open(&mut self, port: &Port, own_mac: bool, workers: usize) -> Result<(), String> {
        let open = match &port.kind {
            PortKind::Memif(memif) => {
                let spec = PortSpec { name: port.name.clone(), memif: memif.clone(), max_frame: max_frame(port) };
                self.memif.add(spec)?;
                let reason = match memif.role {
                    dray_config::Role::Server => "no peer has connected",
                    dray_config::Role::Client => "not connected yet",
                };
                Open { link: Link::Down(reason.into()), eth: None, news: Limit::default() }
            }
            PortKind::Eth(eth) => {
                start_eal()?;
                let options = EthOptions {
                    queues: eth.queues,
                    workers: workers as u16,
                    ring_size: eth.ring_size as u16,
                    mtu: port.mtu,
                    mac: (!own_mac).then_some(port.mac.0),
                };
                let device = EthPort::open(&eth.device, &options).map_err(|error| error.to_string())?;
                device.info().notes.iter().for_each(|note| log(format!("port {}: {note}", port.name)));
                Open { link: Link::Down("not started yet".into()), eth: Some(device), news: Limit::default() }
            }
        };
        self.open.insert(port.name.clone(), open);
        Ok(())
    }

    /// Gives a NIC's queues to the workers, whose tables know the port by now. They poll it from now on, whatever its link.
    pub fn attach(&mut self, name: &str, dataplane: &mut Dataplane) {
        let Some(Open { link, eth: Some(eth), .. }) = self.open.get_mut(name) else { return };
        let (rx, tx) = (eth.rx_queues(), eth.tx_queues(dataplane.workers()));
        let info = eth.info();
        log(format!(
            "port {name}: open, driver {}, mac {}, mtu {}, {} receive and {} transmit queues of {} and {}{}",
            info.driver,
            Mac(info.mac),
            info.mtu,
            info.rx_queues,
            info.tx_queues,
            info.rx_ring,
            info.tx_ring,
            if info.rss { ", RSS" } else { "" }
        ));
        dataplane.link_up(name, rx, tx);
        *link = eth_link(eth.link());
        log(link_line(name, link));
    }

    /// Closes a port: its peer is told, its socket or device released. The workers lose its queues.
    pub fn close(&mut self, name: &str, dataplane: &mut Dataplane) {
        let Some(open) = self.open.remove(name) else { return };
        dataplane.link_down(name);
        if open.eth.is_none() {
            self.memif.remove(name);
            // What was said about it before must not be taken for news of a port of the same name. What was said about
            // others has to wait: the workers' tables may not know them yet.
            self.early.extend(self.events.try_iter());
            self.early.retain(|event| port_of(event) != name);
        }
    }

    /// Events that came while ports were closed, older than all that [`Ports::events`] will give.
    pub fn take_early(&mut self) -> Vec<Event> {
        std::mem::take(&mut self.early)
    }

    /// The port's MTU or address has changed, without its link going down.
    pub fn update(&mut self, port: &Port) {
        if let PortKind::Memif(_) = port.kind {
            self.memif.set_max_frame(&port.name, max_frame(port));
        }
    }

    /// Takes up what happened to a memif port. The name of the port, if its link is up now.
    pub fn event(&mut self, event: Event, dataplane: &mut Dataplane) -> Option<String> {
        let name = port_of(&event).to_owned();
        let open = self.open.get_mut(&name)?;
        let link = match event {
            Event::Up { link, .. } => {
                dataplane.link_up(&name, link.rx, link.tx.handles(dataplane.workers()));
                Link::Up(Some(link.info))
            }
            Event::Down { reason, .. } => {
                dataplane.link_down(&name);
                Link::Down(reason)
            }
        };
        open.link = link;
        open.news.log(Instant::now(), link_line(&name, &open.link));
        open.link.is_up().then_some(name)
    }

    /// Looks at the links of NICs. Those that have just come up.
    pub fn poll(&mut self) -> Vec<String> {
        let mut up = Vec::new();
        let now = Instant::now();
        for (name, open) in &mut self.open {
            open.news.flush(now, || format!("port {name}"));
            let Some(eth) = &open.eth else { continue };
            let link = eth_link(eth.link());
            if link != open.link {
                open.news.log(now, link_line(name, &link));
                if link.is_up() {
                    up.push(name.clone());
                }
                open.link = link;
            }
        }
        if eal::is_up() {
            eal::take_log().lines().for_each(|line| log(format!("dpdk: {}", line.trim())));
        }
        up
    }

    /// A port's link.
    pub fn link(&self, name: &str) -> Option<&Link> {
        self.open.get(name).map(|open| &open.link)
    }

    /// A port's device, if it is a NIC.
    pub fn eth(&self, name: &str) -> Option<&EthPort> {
        self.open.get(name)?.eth.as_ref()
    }

    /// Closes all ports, whose peers are told, and ends DPDK. The workers have given back all queues: the data plane is
    /// gone.
    pub fn shutdown(self) {
        let Ports { memif, open, .. } = self;
        memif.shutdown();
        drop(open);
        if let Err(error) = eal::cleanup() {
            log(format!("dpdk: {error}"));
        }
    }
}

fn max_frame(port: &Port) -> u32 {
    u32::from(port.mtu) + OVERHEAD
}

fn port_of(event: &Event) -> &str {
    match event {
        Event::Up { port, .. } | Event::Down { port, .. } => port,
    }
}

fn start_eal() -> Result<(), String> {
    let was_up = eal::is_up();
    let eal = eal::init().map_err(|error| error.to_string())?;
    if !was_up {
        let memory = if eal.hugepages { "hugepages" } else { "no hugepages: ordinary memory" };
        log(format!("dpdk: started, {}, {memory}", eal.version));
        eal.log.lines().for_each(|line| log(format!("dpdk: {}", line.trim())));
    }
    Ok(())
}

fn eth_link(link: EthLink) -> Link {
    if link.up { Link::Up(None) } else { Link::Down("the device has no link".into()) }
}

fn link_line(name: &str, link: &Link) -> String {
    match link {
        Link::Up(Some(LinkInfo::Memif(info))) => {
            let rings = |n: u16| if n == 1 { "1 ring".to_owned() } else { format!("{n} rings") };
            format!(
                "port {name}: up, peer {:?}, {} in, {} out, ring size {}{}",
                info.peer,
                rings(info.rx_rings),
                rings(info.tx_rings),
                info.ring_size,
                if info.sealed { "" } else { ", memory not sealed" }
            )
        }
        Link::Up(_) => format!("port {name}: up"),
        Link::Down(reason) => format!("port {name}: down: {reason}"),
    }
}
