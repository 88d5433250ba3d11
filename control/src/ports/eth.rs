//! eth: NICs, DPDK's virtual devices and, in `interface.rs`, the kernel's interfaces. Devices are opened on a thread of their own, as that can take seconds, and tried again: a
//! device that is missing or refuses costs its own port only.

use super::connect::tried;
use super::interface::Wire;
use super::mailbox::{Event, Mailbox};
use super::{Attached, Change, Claim, Device, Driver, Guest, Host, Kind, Link};
use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded, unbounded};
use dray_api::{ConnectInfo, EthDetail, PortDetail, PortInfo};
use dray_config::{Eth, Mac, Port};
use dray_dataplane::DeviceLosses;
use dray_dpdk::{EthOptions, EthPort, eal, guard_registers};
use dray_vhost::mem::guard::Mapping;
use std::collections::BTreeMap;
use std::convert::Infallible;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};
use tracing::{info, warn};

/// After a refusal the device is tried again after this time. A device that is not there costs nothing: it is tried when
/// it appears.
const PAUSE: Duration = Duration::from_secs(5);
/// How often DPDK is asked what it has printed.
const LISTEN: Duration = Duration::from_secs(1);
/// How long the end waits for a device that is being opened.
const CLOSING: Duration = Duration::from_secs(5);

/// File descriptors of a NIC, beside those of its queues. What DPDK's drivers open is an estimate.
const DESCRIPTORS: u64 = 16;
/// Of a pair of its queues: an interrupt or a socket each.
const DESCRIPTORS_OF_QUEUES: u64 = 4;

impl Kind for Eth {
    fn claim(&self) -> Claim {
        // Without its arguments. Two ways to write a PCI address only cost an error message.
        let name = self.device.split(',').next().unwrap_or_default();
        Claim { what: format!("device {}", name.strip_prefix("0000:").unwrap_or(name)), part: None }
    }

    fn descriptors(&self, _common: &mut BTreeMap<String, u64>) -> u64 {
        DESCRIPTORS + DESCRIPTORS_OF_QUEUES * u64::from(self.queues)
    }

    fn connect(&self, _guest: &Guest<'_>) -> Vec<ConnectInfo> {
        vec![tried("eth", format!("nothing attaches: the port is the device {:?}, which drayd drives", self.device))]
    }

    fn describe(&self, info: &mut PortInfo) {
        info.queues = self.queues;
        let (device, ring_size) = (self.device.clone(), self.ring_size);
        info.detail = PortDetail::Eth(EthDetail { device, ring_size, ..EthDetail::default() });
    }

    fn open(&self, port: &Port, own_mac: bool, host: &Host) -> Result<(Box<dyn Driver>, String), String> {
        if self.is_kernels() {
            let wire = Wire::new(port, &self.device, own_mac, host.workers, host.maker.hands());
            host.mailbox.post(Event::Wake { port: port.name.clone() });
            return Ok((Box::new(wire), "being opened".into()));
        }
        let options = EthOptions {
            queues: self.queues,
            workers: host.workers as u16,
            ring_size: self.ring_size as u16,
            mtu: port.mtu,
            mac: (!own_mac).then_some(port.mac.0),
        };
        EthPort::check(&self.device, &options).map_err(|error| error.to_string())?;
        let nic = Nic {
            port: port.name.clone(),
            device: self.device.clone(),
            options,
            opener: host.eth.jobs.clone(),
            state: State::Waits(Instant::now()),
            counted: DeviceLosses::default(),
            lost: DeviceLosses::default(),
        };
        // It is tried as soon as the workers know the port.
        host.mailbox.post(Event::Wake { port: port.name.clone() });
        Ok((Box::new(nic), "being opened".into()))
    }
}

/// A port's device, open or to be opened.
struct Nic {
    port: String,
    device: String,
    options: EthOptions,
    opener: Sender<Job>,
    state: State,
    /// What the open device had lost when it was last asked.
    counted: DeviceLosses,
    /// What was lost since [`Driver::take_losses`] was last called.
    lost: DeviceLosses,
}

enum State {
    /// Not to be tried before this time.
    Waits(Instant),
    /// The opener has it, and answers there.
    Opening(Receiver<Result<EthPort, String>>),
    /// Dropping it closes it on EAL's thread; whoever opens it next comes after that.
    Open(EthPort),
}

impl Nic {
    /// Hands the device to the opener, if it may be tried. Why the port is down, if it may not as the device is not there.
    fn try_open(&mut self, at: Instant, now: Instant) -> Option<Change> {
        if let Some(missing) = EthPort::missing(&self.device, &self.options) {
            // As soon as it is there, it may be tried.
            self.state = State::Waits(now);
            return Some(Change::Link(Link::Down(missing)));
        }
        if now < at {
            return None;
        }
        let (answer, opened) = bounded(1);
        self.state = State::Opening(opened);
        let job = Job { port: self.port.clone(), device: self.device.clone(), options: self.options.clone(), answer };
        // The thread ends after all ports.
        let _ = self.opener.send(job);
        None
    }

    /// Takes up what became of a try.
    fn opened(&mut self, opened: Result<EthPort, String>, now: Instant, log: &mut Vec<String>) -> Change {
        let mut eth = match opened {
            Ok(eth) => eth,
            Err(why) => {
                self.state = State::Waits(now + PAUSE);
                return Change::Link(Link::Down(why));
            }
        };
        log.extend(open_lines(&eth));
        let attached = Attached {
            rx: eth.rx_queues(),
            tx: eth.tx_queues(self.options.workers.into()),
            // Each of its queues is emptied when the NIC likes.
            in_order: eth.info().tx_queues == 1,
            peer: Box::new(|_| {}),
        };
        let link = link(&mut eth);
        (self.state, self.counted) = (State::Open(eth), DeviceLosses::default());
        Change::Attached(attached, link)
    }

    /// Looks at a device that is open.
    fn watch(&mut self, all: bool, now: Instant, log: &mut Vec<String>) -> Option<Change> {
        let State::Open(eth) = &mut self.state else { return None };
        if !all && !eth.is_cheap() {
            return None;
        }
        if let Some(why) = eth.lost() {
            self.count();
            // It is opened anew as soon as it can be.
            self.state = State::Waits(now);
            return Some(Change::Detached(why));
        }
        let mtu = eth.info().mtu;
        let link = link(eth);
        let fit = eth.info().mtu;
        if fit != mtu {
            log.push(format!("the interface's MTU has changed: {fit} fit now"));
        }
        Some(Change::Link(link))
    }

    /// Asks an open device what it has lost.
    fn count(&mut self) {
        let State::Open(eth) = &self.state else { return };
        let stats = eth.stats();
        let now =
            DeviceLosses { missed: stats.missed + stats.no_buffer, rx_errors: stats.rx_errors, tx: stats.tx_lost };
        let before = std::mem::replace(&mut self.counted, now);
        self.lost.missed += now.missed.saturating_sub(before.missed);
        self.lost.rx_errors += now.rx_errors.saturating_sub(before.rx_errors);
        self.lost.tx += now.tx.saturating_sub(before.tx);
    }
}

impl Driver for Nic {
    fn poll(&mut self, all: bool, now: Instant, log: &mut Vec<String>) -> Option<Change> {
        match &self.state {
            State::Waits(at) => {
                let at = *at;
                self.try_open(at, now)
            }
            State::Opening(opened) => {
                let opened = opened.try_recv().ok()?;
                Some(self.opened(opened, now, log))
            }
            State::Open(_) => self.watch(all, now, log),
        }
    }

    fn take_losses(&mut self) -> DeviceLosses {
        self.count();
        std::mem::take(&mut self.lost)
    }

    fn device(&self) -> Option<Device> {
        let State::Open(eth) = &self.state else { return None };
        Some(Device { mac: Mac(eth.info().mac), mtu: eth.info().mtu, is_kernels: eth.is_cheap() })
    }

    fn describe(&self, info: &mut PortInfo) {
        let State::Open(eth) = &self.state else { return };
        let (is, stats) = (eth.info(), eth.stats());
        (info.mac, info.mtu, info.queues) = (Mac(is.mac), is.mtu, is.rx_queues);
        let PortDetail::Eth(detail) = &mut info.detail else { return };
        detail.driver = Some(is.driver.clone());
        detail.ring_size = is.rx_ring.into();
        detail.rss = Some(is.rss);
        detail.speed_mbps = eth.link().speed_mbps;
        detail.missed = Some(stats.missed);
        detail.no_buffer = Some(stats.no_buffer);
        detail.rx_errors = Some(stats.rx_errors);
        detail.tx_errors = Some(stats.tx_lost);
    }
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

fn link(eth: &mut EthPort) -> Link {
    if eth.watch().up { Link::Up(None) } else { Link::Down("the device has no link".into()) }
}

struct Job {
    port: String,
    device: String,
    options: EthOptions,
    answer: Sender<Result<EthPort, String>>,
}

/// The thread that opens devices, one after the other, and that writes into the log what DPDK prints.
pub struct Opener {
    jobs: Sender<Job>,
    /// Nothing comes: it ends with the thread.
    ended: Receiver<Infallible>,
    thread: JoinHandle<()>,
}

impl Opener {
    /// # Errors
    /// If the kernel gives no thread.
    pub fn start(mailbox: &Mailbox) -> Result<Opener, String> {
        // If there is no guard to be had, a NIC that is pulled out may end the process.
        guard_registers(|range| Box::new(Mapping::new(range)));
        let (jobs, todo) = unbounded();
        let (running, ended) = bounded(0);
        let mailbox = mailbox.clone();
        let work = move || {
            let _running: Sender<Infallible> = running;
            work(&todo, &mailbox);
        };
        let thread = thread::Builder::new().name("nics".into()).spawn(work);
        let thread = thread.map_err(|error| format!("a thread that opens NICs: {error}"))?;
        Ok(Opener { jobs, ended, thread })
    }

    /// Ends the thread and, if the data plane and all ports are gone, DPDK. Waits for a device that is being opened, but not
    /// for ever.
    pub fn shutdown(self) {
        let Opener { jobs, ended, thread } = self;
        drop(jobs);
        if ended.recv_timeout(CLOSING) == Err(RecvTimeoutError::Timeout) {
            warn!(target: "dpdk", "a device that is being opened does not answer: it is left to the process's end");
            return;
        }
        let _ = thread.join();
        if let Err(error) = eal::cleanup() {
            warn!(target: "dpdk", "{error}");
        }
    }
}

fn work(todo: &Receiver<Job>, mailbox: &Mailbox) {
    loop {
        // DPDK prints nothing before it is started.
        let job = if eal::is_up() { todo.recv_timeout(LISTEN) } else { todo.recv().map_err(Into::into) };
        listen();
        match job {
            Ok(Job { port, device, options, answer }) => {
                let opened =
                    start_eal().and_then(|()| EthPort::open(&device, &options).map_err(|error| error.to_string()));
                // What nobody waits for any more is closed again.
                drop(answer.send(opened));
                mailbox.post(Event::Wake { port });
            }
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return,
        }
    }
}

/// What DPDK prints while no device is being opened; else it belongs to what is said of that.
fn listen() {
    if eal::is_up() {
        eal::take_log().lines().for_each(|line| info!(target: "dpdk", "{}", line.trim()));
    }
}

fn start_eal() -> Result<(), String> {
    let was_up = eal::is_up();
    let eal = eal::init().map_err(|error| error.to_string())?;
    if !was_up {
        let memory = if eal.hugepages { "hugepages" } else { "no hugepages: ordinary memory" };
        info!(target: "dpdk", "started, {}, {memory}", eal.version);
        eal.log.lines().for_each(|line| info!(target: "dpdk", "{}", line.trim()));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use crate::ports::connect::texts;

    #[test]
    fn nothing_attaches_to_a_nic() {
        assert!(texts("kind='eth';device='0000:3b:00.0'", false, 1)[0].contains("0000:3b:00.0"));
    }
}
