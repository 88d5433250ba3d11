//! The kernel's vhost-net as back end: a thread of the kernel's moves frames between a pair of rings and a TAP device, so that whoever
//! drives the rings makes no system call for a frame. `vhost-user.rst` has its messages from the ioctls used here (`linux/vhost.h`).
#![allow(unsafe_code)]

use super::message::{RegionMessage, RingAddresses};
use super::ring::fake::FakeKernel;
use super::ring::{CopyTx, Queue, RawRx, Shape};
use super::{GPA, Memory, VNET_HEADER, feature};
use crate::mem::{Region, Regions};
use rustix::fs::{Mode, OFlags, open};
use rustix::ioctl::{Getter, NoArg, Opcode, Setter, ioctl, opcode};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

/// The device of whose driver each open file is a pair of rings.
pub const PATH: &str = "/dev/vhost-net";

/// File descriptors of a pair: the device, and an eventfd for each ring and direction.
pub const DESCRIPTORS: u64 = 5;

/// Descriptors of a ring.
const RING: u16 = 256;
/// Bytes of a frame in a receive buffer; longer ones take several. A burst of the longest frames that all have is 15.
const RX_BUFFER: u32 = 4096;
/// Bytes of the frames that are being sent: 64 of the longest. The kernel makes pages only of what is used.
const TX_BYTES: u32 = 4 << 20;

/// What the kernel must have: the header with the number of buffers, and a frame in several of them. What may be left undone is between the
/// TAP device and us.
const FEATURES: u64 = feature::VERSION_1 | feature::NET_MRG_RXBUF;

/// The rings, as the kernel counts them.
const RX: u32 = 0;
const TX: u32 = 1;

const fn set<T>(number: u8) -> Opcode {
    opcode::write::<T>(b'\xaf', number)
}

const GET_FEATURES: Opcode = opcode::read::<u64>(b'\xaf', 0x00);
const SET_FEATURES: Opcode = set::<u64>(0x00);
const SET_OWNER: Opcode = opcode::none(b'\xaf', 0x01);
/// Its size is that of a table of no regions.
const SET_MEM_TABLE: Opcode = set::<[u32; 2]>(0x03);
const SET_VRING_NUM: Opcode = set::<State>(0x10);
const SET_VRING_ADDR: Opcode = set::<Addresses>(0x11);
const SET_VRING_BASE: Opcode = set::<State>(0x12);
const SET_VRING_KICK: Opcode = set::<File>(0x20);
const NET_SET_BACKEND: Opcode = set::<File>(0x30);

/// `struct vhost_memory` with one region.
#[repr(C)]
struct Table {
    regions: u32,
    padding: u32,
    gpa: u64,
    size: u64,
    uva: u64,
    flags: u64,
}

/// `struct vhost_vring_state`
#[repr(C)]
struct State {
    index: u32,
    number: u32,
}

/// `struct vhost_vring_file`
#[repr(C)]
struct File {
    index: u32,
    fd: i32,
}

/// `struct vhost_vring_addr`
#[repr(C)]
struct Addresses {
    index: u32,
    flags: u32,
    desc: u64,
    used: u64,
    avail: u64,
    log: u64,
}

/// A pair of rings, and who has their other side.
#[derive(Debug)]
pub struct Pair {
    /// From the device.
    pub rx: RawRx,
    /// To the device.
    pub tx: CopyTx,
    /// To be kept as long as frames are to be moved.
    pub kernel: Kernel,
}

/// The kernel's side. It moves nothing more once this is dropped, which takes as long as the kernel's RCU: tens of milliseconds.
#[derive(Debug)]
pub struct Kernel {
    // Closed before the memory goes that the kernel reads and writes: fields are dropped in this order.
    device: OwnedFd,
    _memory: Arc<Memory>,
}

impl Pair {
    /// Rings with the kernel behind them, which moves nothing yet ([`Kernel::attach`]). Its thread runs on the CPUs of the calling one from
    /// Linux 6.4 on.
    ///
    /// # Errors
    /// What the kernel refused; that it has no vhost-net is [`io::ErrorKind::NotFound`].
    pub fn open() -> io::Result<Pair> {
        let device = open(PATH, OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?;
        // SAFETY: these take nothing, fill in a word and read a word.
        let offered = unsafe {
            ioctl(&device, NoArg::<SET_OWNER>::new())?;
            ioctl(&device, Getter::<GET_FEATURES, u64>::new())?
        };
        if offered & FEATURES != FEATURES {
            return Err(io::Error::other(format!("its features are {offered:#x}: {FEATURES:#x} is not among them")));
        }
        // SAFETY: it reads a word.
        unsafe { ioctl(&device, Setter::<SET_FEATURES, u64>::new(FEATURES))? };
        let (memory, [rx, tx]) = rings().map_err(io::Error::other)?;
        let region = &memory.table[0];
        let table = Table { regions: 1, padding: 0, gpa: region.gpa, size: region.size, uva: region.uva, flags: 0 };
        // SAFETY: it reads a table of one region, as that says.
        unsafe { ioctl(&device, Setter::<SET_MEM_TABLE, Table>::new(table))? };
        for (index, ring) in [(RX, &rx), (TX, &tx)] {
            let RingAddresses { flags, desc, used, avail, log } = ring.addresses(false);
            let (kick, size) = (ring.kick.as_raw_fd(), RING.into());
            // SAFETY: each reads the structure that it is given. The addresses are of the ring's memory, which stays until the device is closed.
            // Nobody is interrupted, as no eventfd is given for that.
            unsafe {
                ioctl(&device, Setter::<SET_VRING_NUM, State>::new(State { index, number: size }))?;
                ioctl(&device, Setter::<SET_VRING_BASE, State>::new(State { index, number: 0 }))?;
                let addresses = Addresses { index, flags, desc, used, avail, log };
                ioctl(&device, Setter::<SET_VRING_ADDR, Addresses>::new(addresses))?;
                ioctl(&device, Setter::<SET_VRING_KICK, File>::new(File { index, fd: kick }))?;
            }
        }
        let kernel = Kernel { device, _memory: memory };
        Ok(Pair { rx: RawRx::new(rx), tx: CopyTx::new(tx), kernel })
    }
}

impl Kernel {
    /// Has the kernel move frames from and to the queue `tap` of a TAP device, with headers of [`VNET_HEADER`] bytes.
    ///
    /// # Errors
    /// What the kernel refused.
    pub fn attach(&self, tap: BorrowedFd<'_>) -> io::Result<()> {
        for index in [RX, TX] {
            // SAFETY: it reads the structure.
            unsafe { ioctl(&self.device, Setter::<NET_SET_BACKEND, File>::new(File { index, fd: tap.as_raw_fd() }))? };
        }
        Ok(())
    }
}

/// Rings behind which there is what a test says.
///
/// # Errors
/// If there is no memory for them.
#[doc(hidden)]
pub fn fake() -> Result<(RawRx, CopyTx, FakeKernel), String> {
    let (_, [rx, tx]) = rings()?;
    let kernel = FakeKernel::new(&rx, &tx)?;
    Ok((RawRx::new(rx), CopyTx::new(tx), kernel))
}

/// The rings from and to a device, and their memory.
fn rings() -> Result<(Arc<Memory>, [Queue; 2]), String> {
    let rx = Shape {
        size: RING,
        buffer_size: VNET_HEADER as u32 + RX_BUFFER,
        parts: 1,
        packed: false,
        in_order: false,
        event_idx: false,
        interrupts: false,
        sleeps: true,
    };
    let tx = Shape { buffer_size: TX_BYTES / u32::from(RING), ..rx };
    let size = rx.bytes() + tx.bytes();
    let region = Region::private(size)?;
    // The kernel reads and writes the rings at our own addresses.
    let uva = region.base().as_ptr() as u64;
    let table = vec![RegionMessage { gpa: GPA, size, uva, offset: 0 }];
    let memory = Arc::new(Memory { mapped: Regions::new(vec![region]), table, files: Vec::new() });
    let rx_queue = Queue::new(memory.clone(), 0, 0, rx)?;
    let tx_queue = Queue::new(memory.clone(), 0, rx.bytes() as u32, tx)?;
    Ok((memory, [rx_queue, tx_queue]))
}
