//! NICs and DPDK's virtual devices. They are opened on a thread of their own, as that can take seconds, and tried again: a
//! device that is missing or refuses costs its own port only.

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, unbounded};
use dray_config::{Eth, Port};
use dray_dataplane::DeviceLosses;
use dray_dpdk::{EthOptions, EthPort, eal, guard_registers};
use dray_vhost::mem::guard::Mapping;
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

/// A port's device, open or to be opened.
pub struct Nic {
    device: String,
    options: EthOptions,
    state: State,
    /// What the device had lost when [`Nic::take_losses`] was last called.
    lost: DeviceLosses,
}

enum State {
    /// Not to be tried before this time.
    Waits(Instant),
    /// The opener has it; with the number of the try.
    Opening(u64),
    Open(EthPort),
}

impl Nic {
    /// The device of `port`, to be opened by [`Nic::poll`].
    ///
    /// # Errors
    /// The port's values can't be right on any machine.
    pub fn new(port: &Port, eth: &Eth, own_mac: bool, workers: usize) -> Result<Nic, String> {
        let options = EthOptions {
            queues: eth.queues,
            workers: workers as u16,
            ring_size: eth.ring_size as u16,
            mtu: port.mtu,
            mac: (!own_mac).then_some(port.mac.0),
        };
        EthPort::check(&eth.device, &options).map_err(|error| error.to_string())?;
        Ok(Nic {
            device: eth.device.clone(),
            options,
            state: State::Waits(Instant::now()),
            lost: DeviceLosses::default(),
        })
    }

    /// The device, if it is open.
    pub fn open(&self) -> Option<&EthPort> {
        match &self.state {
            State::Open(eth) => Some(eth),
            _ => None,
        }
    }

    /// Hands the device to `opener`, if it is neither open nor being opened and may be tried. Why the port is down, if that
    /// is news.
    pub fn poll(&mut self, name: &str, opener: &mut Opener, now: Instant) -> Option<String> {
        let State::Waits(at) = &mut self.state else { return None };
        if let Some(missing) = EthPort::missing(&self.device, &self.options) {
            // As soon as it is there, it may be tried.
            *at = now;
            return Some(missing);
        }
        if now < *at {
            return None;
        }
        opener.tries += 1;
        self.state = State::Opening(opener.tries);
        let job =
            Job { port: name.into(), number: opener.tries, device: self.device.clone(), options: self.options.clone() };
        // The thread ends after all ports.
        let _ = opener.jobs.send(job);
        None
    }

    /// Takes up what became of a try. Why it failed; a try that this port did not start, or gave up, is dropped.
    pub fn opened(&mut self, opened: Opened, now: Instant) -> Option<Result<&mut EthPort, String>> {
        if !matches!(self.state, State::Opening(number) if number == opened.number) {
            return None;
        }
        match opened.result {
            Ok(eth) => {
                (self.state, self.lost) = (State::Open(eth), DeviceLosses::default());
                let State::Open(eth) = &mut self.state else { unreachable!("it was just put there") };
                Some(Ok(eth))
            }
            Err(why) => {
                self.state = State::Waits(now + PAUSE);
                Some(Err(why))
            }
        }
    }

    /// As [`Nic::open`], to be watched.
    pub fn open_mut(&mut self) -> Option<&mut EthPort> {
        match &mut self.state {
            State::Open(eth) => Some(eth),
            _ => None,
        }
    }

    /// Closes the device, whose queues the workers have given back. It is opened anew as soon as it can be.
    pub fn close(&mut self, now: Instant) {
        self.state = State::Waits(now);
    }

    /// What the device has lost since this was last called.
    pub fn take_losses(&mut self) -> DeviceLosses {
        let Some(stats) = self.open().map(EthPort::stats) else { return DeviceLosses::default() };
        let lost =
            DeviceLosses { missed: stats.missed + stats.no_buffer, rx_errors: stats.rx_errors, tx: stats.tx_lost };
        let before = std::mem::replace(&mut self.lost, lost);
        DeviceLosses {
            missed: lost.missed.saturating_sub(before.missed),
            rx_errors: lost.rx_errors.saturating_sub(before.rx_errors),
            tx: lost.tx.saturating_sub(before.tx),
        }
    }
}

/// What became of a try to open a port's device.
pub struct Opened {
    /// The port's name.
    pub port: String,
    number: u64,
    result: Result<EthPort, String>,
}

struct Job {
    port: String,
    number: u64,
    device: String,
    options: EthOptions,
}

/// The thread that opens devices, one after the other, and that writes into the log what DPDK prints.
pub struct Opener {
    jobs: Sender<Job>,
    opened: Receiver<Opened>,
    thread: JoinHandle<()>,
    /// Tries so far.
    tries: u64,
}

impl Opener {
    /// # Errors
    /// If the kernel gives no thread.
    pub fn start() -> Result<Opener, String> {
        // If there is no guard to be had, a NIC that is pulled out may end the process.
        guard_registers(|range| Box::new(Mapping::new(range)));
        let (jobs, todo) = unbounded();
        let (done, opened) = unbounded();
        let thread = thread::Builder::new().name("nics".into()).spawn(move || work(&todo, &done));
        let thread = thread.map_err(|error| format!("a thread that opens NICs: {error}"))?;
        Ok(Opener { jobs, opened, thread, tries: 0 })
    }

    /// What became of the tries, for [`Nic::opened`].
    pub fn opened(&self) -> Receiver<Opened> {
        self.opened.clone()
    }

    /// Ends the thread and, if the data plane and all ports are gone, DPDK. Waits for a device that is being opened, but not
    /// for ever.
    pub fn shutdown(self) {
        let Opener { jobs, opened, thread, .. } = self;
        drop(jobs);
        let deadline = Instant::now() + CLOSING;
        // Ends when the thread does. What was opened too late is closed again.
        while opened.recv_deadline(deadline).is_ok() {}
        if Instant::now() >= deadline {
            warn!(target: "dpdk", "a device that is being opened does not answer: it is left to the process's end");
            return;
        }
        let _ = thread.join();
        if let Err(error) = eal::cleanup() {
            warn!(target: "dpdk", "{error}");
        }
    }
}

fn work(todo: &Receiver<Job>, done: &Sender<Opened>) {
    loop {
        // DPDK prints nothing before it is started.
        let job = if eal::is_up() { todo.recv_timeout(LISTEN) } else { todo.recv().map_err(Into::into) };
        listen();
        match job {
            Ok(Job { port, number, device, options }) => {
                let result =
                    start_eal().and_then(|()| EthPort::open(&device, &options).map_err(|error| error.to_string()));
                let _ = done.send(Opened { port, number, result });
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
