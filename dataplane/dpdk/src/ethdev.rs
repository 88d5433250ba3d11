//! Ports: NICs and DPDK's virtual devices.

use crate::devargs::Wanted;
use crate::device::{Device, Origin, Probed, check};
use crate::eal;
use crate::error::{Error, strerror};
use crate::iface::{self, Losses};
use crate::mempool::{CACHE, Mempool};
use crate::options::EthOptions;
use crate::pci;
use crate::queue::{RxQueue, TxQueue};
use crate::raw::{RawRx, RawTx};
use dray_dpdk_sys as sys;
use dray_switch::burst::BURST;
use dray_switch::wire::OVERHEAD;
use dray_switch::{Rx, Tx};
use std::ffi::CStr;
use std::mem::{self, ManuallyDrop};
use std::os::fd::RawFd;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};

/// What a port turned out to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EthInfo {
    /// DPDK's name of the driver.
    pub driver: String,
    /// The device's address.
    pub mac: [u8; 6],
    /// Largest Ethernet payload sent and received, bytes.
    pub mtu: u16,
    /// Receive queues.
    pub rx_queues: u16,
    /// Transmit queues.
    pub tx_queues: u16,
    /// Descriptors of a receive queue.
    pub rx_ring: u16,
    /// Descriptors of a transmit queue.
    pub tx_ring: u16,
    /// Whether the device spreads flows over its receive queues (receive-side scaling).
    pub rss: bool,
    /// What was asked for and can't be had, and what DPDK warned of; for the log.
    pub notes: Vec<String>,
}

/// State of the link.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Link {
    /// Whether frames can pass.
    pub up: bool,
    /// Mbit/s, if the device knows.
    pub speed_mbps: Option<u32>,
}

/// What the device and, below it, the kernel did with frames since it was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EthStats {
    /// Frames lost before they were received: a ring or queue was full.
    pub missed: u64,
    /// Frames lost because there was no buffer.
    pub no_buffer: u64,
    /// Frames received with an error.
    pub rx_errors: u64,
    /// Frames that the device took and did not send after all: its queue was full, or it was down.
    pub tx_lost: u64,
    /// Buffers in use now: in rings, in hand, or on their way.
    pub buffers_used: u32,
}

/// A port that is open. It and its queues hold the device together: when the last of them is dropped, EAL's thread stops
/// and closes it and removes it from DPDK. Nobody waits for that, but what is opened later is opened after it.
pub struct EthPort {
    device: Arc<Device>,
    info: EthInfo,
    kernel: Mutex<Kernel>,
    /// Whether the queues are still to be handed out.
    rx: bool,
    tx: bool,
}

/// What the kernel has lost, of a device that is made of an interface.
struct Kernel {
    /// The packet sockets behind it.
    sockets: Vec<RawFd>,
    /// The kernel's counts when it was opened, and when they were last to be had.
    first: Losses,
    last: Losses,
    /// Frames that found no room in the sockets' rings.
    ring: u64,
}

impl EthPort {
    /// Opens and starts `device`: a PCI address (`0000:3b:00.0`) or a virtual device of DPDK with its arguments
    /// (`net_af_packet0,iface=eth1`). Starts EAL if it isn't up. Frames come in promiscuously, with their VLAN tags.
    ///
    /// # Errors
    /// What is wrong and what would be right, with the device's name.
    pub fn open(device: &str, options: &EthOptions) -> Result<EthPort, Error> {
        let named = |what: String| Error::new(format!("device {device:?}: {what}"));
        let wanted = Wanted::parse(device, options).map_err(named)?;
        wanted.check().map_err(named)?;
        let user = eal::User::new()?;
        let options = options.clone();
        eal::run(move || {
            // What was printed before is not about this device.
            eal::take_log();
            open(wanted, &options, user).map_err(|what| eal::with_log(what, &eal::take_log()))
        })
        .map_err(named)
    }

    /// Whether `device` and `options` say something that could be opened, on some machine. Asks neither DPDK nor the kernel.
    ///
    /// # Errors
    /// What is wrong and what would be right, with the device's name.
    pub fn check(device: &str, options: &EthOptions) -> Result<(), Error> {
        match Wanted::parse(device, options) {
            Ok(_) => Ok(()),
            Err(what) => Err(Error::new(format!("device {device:?}: {what}"))),
        }
    }

    /// Why `device` can't be opened yet, as far as the kernel knows that without DPDK: there is no such interface or NIC,
    /// or a driver of the kernel has it. Does not wait.
    pub fn missing(device: &str, options: &EthOptions) -> Option<String> {
        let what = Wanted::parse(device, options).and_then(|wanted| wanted.check()).err()?;
        Some(format!("device {device:?}: {what}"))
    }

    /// Why this is no longer what was opened: the interface or NIC is gone, or another one has its name. Such a port
    /// carries nothing any more; it can only be closed. Does not wait.
    pub fn lost(&self) -> Option<String> {
        let Origin { wanted, index } = &self.device.origin;
        match &wanted.iface {
            Some(iface) => {
                let name = iface.to_string_lossy();
                match iface::index(iface) {
                    0 => Some(format!("the interface \"{name}\" is gone")),
                    now if now != *index => Some(format!("the interface \"{name}\" is another one than was opened")),
                    _ => None,
                }
            }
            None if wanted.bus == c"pci" && pci::is_lost(&wanted.name) => {
                let why = wanted.check().err().unwrap_or_else(|| "it was taken away".into());
                Some(format!("device {:?}: {why}", wanted.device))
            }
            None => None,
        }
    }

    /// What the port turned out to be.
    pub fn info(&self) -> &EthInfo {
        &self.info
    }

    /// The longest frame received or sent, bytes without FCS: MTU, header and one VLAN tag.
    pub fn max_frame(&self) -> u32 {
        self.device.max_frame
    }

    /// The receive queues. They are handed out once: the next time there are none.
    pub fn rx_queues(&mut self) -> Vec<Box<dyn Rx>> {
        let n = if mem::take(&mut self.rx) { self.info.rx_queues } else { 0 };
        (0..n).map(|queue| Box::new(RxQueue::new(self.device.clone(), queue)) as Box<dyn Rx>).collect()
    }

    /// `n` transmit queues, one for each worker. Where the device has fewer, several share one and a lock. They are
    /// handed out once: the next time there are none.
    pub fn tx_queues(&mut self, n: usize) -> Vec<Box<dyn Tx>> {
        let n = if mem::take(&mut self.tx) { n } else { 0 };
        let queues = self.info.tx_queues as usize;
        let locks: Vec<_> = (0..queues).map(|queue| (queue + queues < n).then(|| Arc::new(Mutex::new(())))).collect();
        (0..n)
            .map(|i| {
                let queue = i % queues;
                Box::new(TxQueue::new(self.device.clone(), queue as u16, locks[queue].clone())) as Box<dyn Tx>
            })
            .collect()
    }

    /// The queues, for who makes and looks at frames itself. They are handed out once, as bursts' queues or as these: the
    /// next time there are none.
    pub fn raw_queues(&mut self) -> (Vec<RawRx>, Vec<RawTx>) {
        let rx = if mem::take(&mut self.rx) { self.info.rx_queues } else { 0 };
        let tx = if mem::take(&mut self.tx) { self.info.tx_queues } else { 0 };
        let rx = (0..rx).map(|queue| RawRx::new(self.device.clone(), queue)).collect();
        (rx, (0..tx).map(|queue| RawTx::new(self.device.clone(), queue)).collect())
    }

    #[cfg(test)]
    pub(crate) fn device(&self) -> Arc<Device> {
        self.device.clone()
    }

    /// The link's state, as the device knows it now. Does not wait.
    pub fn link(&self) -> Link {
        let (mut mbps, mut up) = (0, 0);
        // SAFETY: the port is there as long as `self.device`.
        unsafe { sys::dray_eth_link(self.device.id, &mut mbps, &mut up) };
        // The drivers over a kernel interface say "up" whatever it does.
        let running = self.iface().is_none_or(iface::is_running);
        Link { up: up != 0 && running, speed_mbps: (mbps != 0 && mbps != u32::MAX).then_some(mbps) }
    }

    /// As [`EthPort::link`]. While it is down, frames for the queues that [`EthPort::tx_queues`] has handed out are dropped as
    /// `tx.link_down`; and if somebody has changed the interface's MTU, [`EthInfo::mtu`] follows it, down from what was asked
    /// for, and longer frames are dropped as `tx.too_big`. To be called often: what happens in between is the device's loss.
    pub fn watch(&mut self) -> Link {
        let link = self.link();
        self.device.up.store(link.up, Relaxed);
        if let Some(mtu) = self.iface().and_then(|iface| iface::mtu(iface).ok()) {
            self.info.mtu = mtu.min((self.device.max_frame - OVERHEAD) as u16);
            self.device.tx_mtu.store(self.info.mtu.into(), Relaxed);
        }
        link
    }

    /// Whether [`EthPort::watch`] costs no more than a few system calls: the device is made of a kernel's interface.
    pub fn is_cheap(&self) -> bool {
        self.iface().is_some()
    }

    fn iface(&self) -> Option<&CStr> {
        self.device.origin.wanted.iface.as_deref()
    }

    /// What the device did with frames.
    pub fn stats(&self) -> EthStats {
        let mut stats = sys::rte_eth_stats::default();
        // SAFETY: the port is there as long as `self.device`.
        unsafe { sys::rte_eth_stats_get(self.device.id, &mut stats) };
        let mut kernel = self.kernel.lock().unwrap_or_else(PoisonError::into_inner);
        // Of an interface that is gone or another one nothing is known any more.
        if let Some(iface) = self.iface().filter(|iface| iface::index(iface) == self.device.origin.index) {
            kernel.last = iface::losses(iface).unwrap_or(kernel.last);
        }
        kernel.ring += kernel.sockets.iter().map(|&socket| iface::take_ring_drops(socket)).sum::<u64>();
        EthStats {
            missed: stats.imissed + kernel.ring + kernel.last.rx.saturating_sub(kernel.first.rx),
            no_buffer: stats.rx_nombuf,
            rx_errors: stats.ierrors,
            tx_lost: stats.oerrors + kernel.last.tx.saturating_sub(kernel.first.tx),
            buffers_used: self.device.pool.size - self.device.pool.available(),
        }
    }
}

/// Probes, configures and starts a device. Runs on EAL's thread.
fn open(wanted: Wanted, options: &EthOptions, user: eal::User) -> Result<EthPort, String> {
    let iface = wanted.iface.clone();
    // Before it is opened: should it be replaced meanwhile, that is seen.
    let index = iface.as_deref().map_or(0, iface::index);
    let first = iface.as_deref().and_then(iface::losses).unwrap_or_default();
    let before = if index == 0 { Vec::new() } else { iface::packet_sockets(index) };
    let mut notes = Vec::new();
    // Declared first, so that it goes last if the device is given up half-way: the driver may have buffers of it.
    let pool;
    wanted.check_driver()?;
    let was = iface.as_deref().and_then(|iface| iface::Before::look(iface, index).ok());
    let mut probed = Probed::new(&wanted)?;
    probed.before = was;
    let id = probed.id;

    let mut dev = sys::rte_eth_dev_info::default();
    // SAFETY: the port was just probed.
    check("its properties", unsafe { sys::rte_eth_dev_info_get(id, &mut dev) })?;
    // SAFETY: a C string of the driver's.
    let driver = unsafe { CStr::from_ptr(dev.driver_name) }.to_string_lossy().into_owned();

    let rx_queues = options.queues.clamp(1, dev.max_rx_queues.max(1));
    let tx_queues = options.workers.clamp(1, dev.max_tx_queues.max(1));
    if rx_queues < options.queues {
        notes.push(format!("has {rx_queues} receive queues, not {}", options.queues));
    }

    // What DPDK lets us say, and what is true: af_packet says 1500 and takes what the interface takes.
    let dpdk_mtu = options.mtu.min(max_mtu(&dev)).max(dev.min_mtu);
    let mtu = match &iface {
        Some(iface) if driver == "net_af_packet" => options.mtu.min(iface::raise_mtu(iface, options.mtu)?),
        Some(iface) => dpdk_mtu.min(iface::raise_mtu(iface, dpdk_mtu)?),
        None => dpdk_mtu,
    };

    let mut conf = sys::rte_eth_conf::default();
    // No offload is asked for: VLAN tags stay in, nothing is merged, split or checked.
    conf.rxmode.mtu = dpdk_mtu.into();
    let hash = dev.flow_type_rss_offloads & (sys::DRAY_RSS_IP | sys::DRAY_RSS_UDP | sys::DRAY_RSS_TCP);
    let rss = rx_queues > 1 && hash != 0;
    if rss {
        conf.rxmode.mq_mode = sys::RTE_ETH_MQ_RX_RSS;
        conf.rx_adv_conf.rss_conf.rss_hf = hash;
    } else if rx_queues > 1 && iface.is_none() {
        notes.push("does not spread flows over its receive queues (no RSS)".into());
    }
    // SAFETY: the port is not started; DPDK copies the configuration.
    check("its configuration", unsafe { sys::rte_eth_dev_configure(id, rx_queues, tx_queues, &conf) })?;
    let mut mtu = mtu;
    if iface.is_none() {
        // SAFETY: the port is there. Drivers that took the MTU when configured may not have this.
        let result = unsafe { sys::rte_eth_dev_set_mtu(id, mtu) };
        if result < 0 && result != -libc::ENOTSUP {
            // SAFETY: as above.
            unsafe { sys::rte_eth_dev_get_mtu(id, &mut mtu) };
        }
    }
    if mtu < options.mtu {
        notes.push(format!("has an MTU of {mtu}, not {}", options.mtu));
    }
    let max_frame = mtu as u32 + OVERHEAD;

    let (mut rx_ring, mut tx_ring) = (options.ring_size, options.ring_size);
    // SAFETY: the port is there; the numbers are ours.
    let result = unsafe { sys::rte_eth_dev_adjust_nb_rx_tx_desc(id, &mut rx_ring, &mut tx_ring) };
    check("its ring sizes", result)?;
    if (rx_ring, tx_ring) != (options.ring_size, options.ring_size) {
        notes.push(format!("has rings of {rx_ring} and {tx_ring}, not {}", options.ring_size));
    }

    // Full rings, a burst in hand at both ends of each queue, and what the threads keep for themselves: DPDK lets a
    // cache grow to half as much again.
    let burst = BURST as u32;
    let threads = options.workers.max(rx_queues) as u32 + 1;
    let buffers = rx_queues as u32 * (rx_ring as u32 + 2 * burst)
        + tx_queues as u32 * (tx_ring as u32 + 2 * burst)
        + threads * CACHE * 3 / 2;
    let room = max_frame.max(wanted.room).next_multiple_of(64) as u16;
    // SAFETY: the port is there.
    let socket = unsafe { sys::rte_eth_dev_socket_id(id) };
    pool = Mempool::new(buffers, room, socket).map_err(|e| e.to_string())?;

    let any = sys::DRAY_SOCKET_ID_ANY as u32;
    let socket = u32::try_from(socket).unwrap_or(any);
    for queue in 0..rx_queues {
        // SAFETY: the port is configured with this queue and not started; the pool outlives it (`Device`).
        let result =
            unsafe { sys::rte_eth_rx_queue_setup(id, queue, rx_ring, socket, &dev.default_rxconf, pool.as_ptr()) };
        check("a receive queue", result)?;
    }
    for queue in 0..tx_queues {
        // SAFETY: the port is configured with this queue and not started.
        let result = unsafe { sys::rte_eth_tx_queue_setup(id, queue, tx_ring, socket, &dev.default_txconf) };
        check("a transmit queue", result)?;
    }

    let mac = set_mac(id, options.mac, &mut notes);
    // SAFETY: configured, with all its queues.
    check("its start", unsafe { sys::rte_eth_dev_start(id) })?;
    // SAFETY: the port is there.
    let result = unsafe { sys::rte_eth_promiscuous_enable(id) };
    if result < 0 {
        notes.push(format!("is not promiscuous ({}): it receives what is sent to its own address", strerror(result)));
    }
    // The driver keeps them to itself; they are there as long as the device is.
    let mut sockets = if index == 0 { Vec::new() } else { iface::packet_sockets(index) };
    sockets.retain(|socket| !before.contains(socket));
    if driver == "net_af_packet" {
        for &socket in &sockets {
            iface::cut_other_tags(socket).map_err(|e| format!("its packet socket's filter: {e}"))?;
        }
    }
    notes.extend(eal::take_log().lines().map(str::to_owned));
    notes.extend(probed.before.iter_mut().flat_map(iface::Before::opened));

    let info = EthInfo { driver, mac, mtu, rx_queues, tx_queues, rx_ring, tx_ring, rss, notes };
    let kernel = Mutex::new(Kernel { sockets, first, last: first, ring: 0 });
    let device = Device {
        id,
        max_frame,
        tx_mtu: AtomicU32::new(mtu.into()),
        // Until it is watched.
        up: AtomicBool::new(true),
        origin: Origin { wanted, index },
        probed: ManuallyDrop::new(probed),
        pool: ManuallyDrop::new(pool),
        user: ManuallyDrop::new(user),
    };
    Ok(EthPort { device: Arc::new(device), info, kernel, rx: true, tx: true })
}

/// The largest MTU that `rte_eth_dev_configure` takes, by its own reckoning of the frame's overhead.
fn max_mtu(dev: &sys::rte_eth_dev_info) -> u16 {
    let overhead = match dev.max_mtu {
        max if max != u16::MAX && dev.max_rx_pktlen > max as u32 => dev.max_rx_pktlen - max as u32,
        _ => OVERHEAD,
    };
    let by_frame = dev.max_rx_pktlen.saturating_sub(overhead).min(u16::MAX as u32) as u16;
    dev.max_mtu.min(by_frame)
}

/// Gives the port `wanted` as its address, if it will have it. Returns what it has then.
fn set_mac(id: u16, wanted: Option<[u8; 6]>, notes: &mut Vec<String>) -> [u8; 6] {
    let mut own = sys::rte_ether_addr::default();
    // SAFETY: the port is there.
    unsafe { sys::rte_eth_macaddr_get(id, &mut own) };
    let Some(wanted) = wanted.filter(|wanted| *wanted != own.addr_bytes) else {
        return own.addr_bytes;
    };
    let mut address = sys::rte_ether_addr { addr_bytes: wanted };
    // SAFETY: the port is there; DPDK copies the address.
    let result = unsafe { sys::rte_eth_dev_default_mac_addr_set(id, &mut address) };
    if result == 0 {
        return wanted;
    }
    let hex = own.addr_bytes.map(|byte| format!("{byte:02x}")).join(":");
    notes.push(format!("keeps its own address {hex} ({})", strerror(result)));
    own.addr_bytes
}
