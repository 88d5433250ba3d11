//! eth: NICs, DPDK's virtual devices and, in `interface.rs`, the kernel's interfaces. Devices are opened on a thread of their own, as that can take seconds, and tried again: a
//! device that is missing or refuses costs its own port only.

use super::connect::tried;
use super::interface::Wire;
use super::mailbox::{Event, Mailbox};
use super::tried::{Opens, Tried};
use super::{Attached, Claim, Device, Driver, Guest, Host, Kind, Link};
use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded, unbounded};
use dray_api::{ConnectInfo, EthDetail, PortDetail, PortInfo};
use dray_config::{Eth, Mac, Port};
use dray_dataplane::DeviceLosses;
use dray_dpdk::{EthOptions, EthPort, eal, guard_registers};
use dray_vhost::mem::guard::Mapping;
use std::collections::BTreeMap;
use std::convert::Infallible;
use std::thread::{self, JoinHandle};
use std::time::Duration;
use tracing::{info, warn};

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
            return Ok((Box::new(Tried::new(wire)), "being opened".into()));
        }
        let options = EthOptions {
            queues: self.queues,
            workers: host.workers as u16,
            ring_size: self.ring_size as u16,
            mtu: port.mtu,
            mac: (!own_mac).then_some(port.mac.0),
        };
        EthPort::check(&self.device, &options).map_err(|error| error.to_string())?;
        let nic = Nic { port: port.name.clone(), device: self.device.clone(), options, opener: host.eth.jobs.clone() };
        // It is tried as soon as the workers know the port.
        host.mailbox.post(Event::Wake { port: port.name.clone() });
        Ok((Box::new(Tried::new(nic)), "being opened".into()))
    }
}

/// A port's device.
struct Nic {
    port: String,
    device: String,
    options: EthOptions,
    opener: Sender<Job>,
}

/// Dropping a device closes it on EAL's thread; whoever opens it next comes after that.
impl Opens for Nic {
    type Open = EthPort;

    const PAUSE: Duration = Duration::from_secs(5);

    fn missing(&self) -> Option<String> {
        EthPort::missing(&self.device, &self.options)
    }

    fn start(&self) -> Receiver<Result<EthPort, String>> {
        let (answer, opened) = bounded(1);
        let job = Job { port: self.port.clone(), device: self.device.clone(), options: self.options.clone(), answer };
        // The thread ends after all ports.
        let _ = self.opener.send(job);
        opened
    }

    fn attach(&mut self, eth: &mut EthPort, log: &mut Vec<String>) -> (Attached, Link) {
        log.extend(open_lines(eth));
        let attached = Attached {
            rx: eth.rx_queues(),
            tx: eth.tx_queues(self.options.workers.into()),
            // Each of its queues is emptied when the NIC likes.
            in_order: eth.info().tx_queues == 1,
            peer: Box::new(|_| {}),
        };
        (attached, link(eth))
    }

    fn watch(&mut self, eth: &mut EthPort, all: bool, log: &mut Vec<String>) -> Result<Option<Link>, String> {
        if !all && !eth.is_cheap() {
            return Ok(None);
        }
        if let Some(why) = eth.lost() {
            return Err(why);
        }
        let mtu = eth.info().mtu;
        let link = link(eth);
        let fit = eth.info().mtu;
        if fit != mtu {
            log.push(format!("the interface's MTU has changed: {fit} fit now"));
        }
        Ok(Some(link))
    }

    fn losses(&self, eth: &EthPort) -> Option<DeviceLosses> {
        let stats = eth.stats();
        let missed = stats.missed + stats.no_buffer;
        Some(DeviceLosses { missed, rx_errors: stats.rx_errors, tx: stats.tx_lost })
    }

    fn device(&self, eth: &EthPort) -> Option<Device> {
        Some(Device { mac: Mac(eth.info().mac), mtu: eth.info().mtu, is_kernels: eth.is_cheap() })
    }

    fn describe(&self, eth: &EthPort, info: &mut PortInfo) {
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
