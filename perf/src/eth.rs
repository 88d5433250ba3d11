//! The generator's NIC links, through DPDK: physical NICs, or DPDK's virtual devices such as a kernel interface.
//!
//! EAL starts with the first link. Frames are copied into mbufs, so that one core makes fewer of them than over a link of
//! shared memory. What the network sends of its own accord is told apart by looking at every frame, and counted as foreign
//! only.

use crate::frames::{Frames, Read, Tag};
use crate::generator::{self, Link};
use crate::traffic::{TrafficArgs, generate};
use clap::Args;
use dray_dpdk::{EthOptions, EthPort, RawRx, RawTx};
use std::cell::RefCell;
use std::convert::Infallible;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::rc::Rc;
use std::time::{Duration, Instant};

/// Bytes of an Ethernet header, which the MTU doesn't count.
const HEADER: usize = 14;
/// The MTU of most networks, which most devices have whatever they are asked for.
const MTU: usize = 1500;
/// How long the device may take for what it had no room for.
const PATIENCE: Duration = Duration::from_millis(100);

/// A generator on NICs.
pub type Generator = generator::Generator<Eth>;

/// What it is to do. An end is a device: a PCI address (`0000:3b:00.0`), or a virtual device of DPDK with its arguments
/// (`net_af_packet0,iface=eth1`).
pub type Options = generator::Options<String>;

/// `eth`
#[derive(Args, Clone, Debug)]
pub struct EthArgs {
    /// The devices of the first and the second link, PCI addresses or virtual devices of DPDK with their arguments, such as
    /// net_af_packet0,iface=eth1; given twice
    #[arg(long, required = true)]
    device: Vec<String>,
    #[command(flatten)]
    traffic: TrafficArgs,
}

/// Sends between two NICs and reports.
///
/// # Errors
/// What went wrong.
pub fn run(args: &EthArgs) -> Result<(), String> {
    generate::<Eth>(&args.traffic, ends(&args.device)?)
}

/// The devices of both links.
///
/// # Errors
/// If there are not two.
pub fn ends(devices: &[String]) -> Result<[String; 2], String> {
    <[String; 2]>::try_from(devices.to_vec()).map_err(|_| "--device is given twice".into())
}

/// A link.
pub struct Eth {
    tx: Vec<Tx>,
    rx: Vec<RawRx>,
    frames: Rc<RefCell<Vec<u8>>>,
    port: EthPort,
}

/// A transmit queue, and the frames that are sent on it.
pub struct Tx {
    queue: RawTx,
    frames: Rc<RefCell<Vec<u8>>>,
}

impl Eth {
    fn open(options: &Options, device: &str, frames: &Frames) -> Result<Eth, String> {
        let ring_size = u16::try_from(options.ring_size).map_err(|_| "a NIC's ring has at most 32768 descriptors")?;
        let mtu = u16::try_from(frames.longest.saturating_sub(HEADER).max(MTU)).map_err(|e| e.to_string())?;
        let wanted = EthOptions { queues: options.queues, workers: options.queues, ring_size, mtu, mac: None };
        let mut port = EthPort::open(device, &wanted).map_err(|e| e.to_string())?;
        for note in &port.info().notes {
            eprintln!("dray-perf: device {device:?} {note}");
        }
        if frames.longest > port.max_frame() as usize {
            return Err(format!(
                "device {device:?}: its MTU is {} bytes, too little for frames of {}",
                port.info().mtu,
                frames.longest
            ));
        }
        let (rx, tx) = port.raw_queues();
        if tx.len() < frames.walks.len() {
            return Err(format!("device {device:?}: it has only {} transmit queues", tx.len()));
        }
        let read = |e: std::io::Error| format!("read the prepared frames: {e}");
        let memory = File::from(frames.memory.try_clone().map_err(read)?);
        let mut bytes = vec![0; memory.metadata().map_err(read)?.len() as usize];
        memory.read_exact_at(&mut bytes, 0).map_err(read)?;
        let frames = Rc::new(RefCell::new(bytes));
        let tx = tx.into_iter().map(|queue| Tx { queue, frames: frames.clone() }).collect();
        Ok(Eth { tx, rx, frames, port })
    }
}

impl Link for Eth {
    type End = String;
    type Tx = Tx;
    type Rx = RawRx;
    type Null = Infallible;
    const NAME: &str = "eth";
    const HEADER: usize = 0;
    const FILTERS: bool = true;

    fn connect(options: &Options, frames: [&Frames; 2]) -> Result<[Eth; 2], String> {
        let end = Instant::now() + options.timeout;
        let link = |i: usize| Eth::open(options, &options.ends[i], frames[i]);
        let links = [link(0)?, link(1)?];
        // A link may take a second or two to come up.
        while let Some(i) = links.iter().position(|link| !link.port.link().up) {
            if Instant::now() > end {
                return Err(format!("device {:?}: its link does not come up", options.ends[i]));
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(links)
    }

    #[inline(always)]
    fn tx(&mut self) -> &mut [Tx] {
        &mut self.tx
    }

    #[inline(always)]
    fn rx(&mut self) -> &mut [RawRx] {
        &mut self.rx
    }

    fn down(&self) -> Option<String> {
        (!self.port.link().up).then(|| "no carrier".into())
    }

    #[inline(always)]
    fn free(tx: &mut Tx) -> u16 {
        tx.queue.free()
    }

    #[inline(always)]
    fn fill(tx: &mut Tx, frames: impl Iterator<Item = (u32, u32)>) {
        let bytes = tx.frames.borrow();
        tx.queue.send(frames.map(|(at, len)| &bytes[at as usize..][..len as usize]));
    }

    fn write(&mut self, at: usize, bytes: &[u8]) {
        if let Some(to) = self.frames.borrow_mut().get_mut(at..at + bytes.len()) {
            to.copy_from_slice(bytes);
        }
    }

    fn wake(tx: &mut Tx) {
        let end = Instant::now() + PATIENCE;
        while !tx.queue.flush() && Instant::now() < end {
            std::hint::spin_loop();
        }
    }

    #[inline(always)]
    fn take(
        rx: &mut RawRx,
        max: u16,
        count: u64,
        every: u64,
        tag_at: usize,
        mut look: impl FnMut(u64, Read<'_>),
    ) -> (u16, u64) {
        let (mut n, mut bytes) = (0, 0);
        rx.receive(max, |frame, len| {
            let number = count + u64::from(n);
            let read: Read = &|at, to| {
                let bytes = frame.get(at..).unwrap_or_default();
                let n = to.len().min(bytes.len());
                to[..n].copy_from_slice(&bytes[..n]);
                n
            };
            if frame.get(tag_at..).and_then(|bytes| Tag::read(bytes.first_chunk()?)).is_none() {
                look(number, read);
                return;
            }
            if number.is_multiple_of(every) {
                look(number, read);
            }
            n += 1;
            bytes += u64::from(len);
        });
        (n, bytes)
    }

    fn null_switch(_: &Eth, _: &Eth) -> Result<Infallible, String> {
        Err("there is nothing between NICs but what they are connected to".into())
    }

    fn step(null: &mut Infallible) -> usize {
        match *null {}
    }
}
