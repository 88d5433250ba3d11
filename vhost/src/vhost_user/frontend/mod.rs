//! The front end's side, as a virtual machine has it: it brings the memory and is the driver of the rings. [`Frontend`] is for tools and
//! tests; with the kernel's vhost-net as back end ([`kernel`]) it is how a TAP device is driven.
//!
//! It trusts its back end no further than its own safety: see [`RawTx`] and [`RawRx`].

pub mod kernel;
pub mod message;
mod ring;

pub use message::{Connection, Meeting};
pub use ring::{CopyTx, NullSwitch, Peek, Queue, RawRx, RawTx};

use crate::mem::{Region, Regions};
use dray_config::{Role, SocketName};
use message::{RegionMessage, RingAddresses, protocol};
use ring::Shape;
use rustix::fs::fstat;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

/// Bytes before every frame: `virtio_net_hdr_mrg_rxbuf` (virtio 1.2, section 5.1.6).
pub const VNET_HEADER: usize = 12;

/// Features of device and transport, as bits (virtio 1.2, sections 5.1.3 and 6; `vhost-user.rst`).
pub mod feature {
    #![allow(missing_docs)]
    pub const NET_CSUM: u64 = 1 << 0;
    pub const NET_GUEST_CSUM: u64 = 1 << 1;
    pub const NET_MTU: u64 = 1 << 3;
    pub const NET_GUEST_TSO4: u64 = 1 << 7;
    pub const NET_GUEST_TSO6: u64 = 1 << 8;
    pub const NET_HOST_TSO4: u64 = 1 << 11;
    pub const NET_HOST_TSO6: u64 = 1 << 12;
    pub const NET_MRG_RXBUF: u64 = 1 << 15;
    pub const LOG_ALL: u64 = 1 << 26;
    pub const INDIRECT_DESC: u64 = 1 << 28;
    pub const EVENT_IDX: u64 = 1 << 29;
    pub const PROTOCOL_FEATURES: u64 = 1 << 30;
    pub const VERSION_1: u64 = 1 << 32;
    pub const RING_PACKED: u64 = 1 << 34;
    pub const IN_ORDER: u64 = 1 << 35;
}

/// Protocol features that are negotiated if the back end has them.
const PROTOCOL: u64 = protocol::MQ
    | protocol::LOG_SHMFD
    | protocol::REPLY_ACK
    | protocol::MTU
    | protocol::CONFIGURE_MEM_SLOTS
    | protocol::STATUS;

/// The first region's guest-physical address; between two is a hole of as much.
const GPA: u64 = 1 << 20;
/// What is added to guest-physical addresses to have what messages call the front end's own: anything but 0 shows who mixes them up.
const UVA: u64 = 0x5500_0000_0000;
/// Acknowledge, driver, features OK, driver OK (virtio 1.2, section 2.1).
const DRIVER_OK: u8 = 1 | 2 | 8 | 4;

/// What a front end asks for. Features that the back end does not have are not used.
#[derive(Clone, Debug)]
pub struct Options {
    /// A server listens and waits for its back end, a client connects to it.
    pub role: Role,
    /// Queue pairs, 1..=128.
    pub queues: u16,
    /// Descriptors a ring, a power of two, 2..=32768.
    pub ring_size: u16,
    /// Bytes a buffer, with the header ([`VNET_HEADER`]).
    pub buffer_size: u32,
    /// Descriptors that make up a receive buffer, a power of two.
    pub rx_parts: u16,
    /// Packed rings; it is an error if the back end has none.
    pub packed: bool,
    /// `VIRTIO_F_IN_ORDER`
    pub in_order: bool,
    /// `VIRTIO_NET_F_MRG_RXBUF`
    pub mergeable: bool,
    /// `VIRTIO_F_EVENT_IDX`
    pub event_idx: bool,
    /// `VIRTIO_F_INDIRECT_DESC`
    pub indirect: bool,
    /// Bits of further features, those of offloads above all.
    pub features: u64,
    /// Whether interrupts are wanted.
    pub interrupts: bool,
    /// Regions that the rings are dealt out to, at least 1.
    pub regions: u16,
    /// How long to wait for a back end, and for each of its answers.
    pub timeout: Duration,
    /// A file to be one more region, the last, with headers and frames for [`RawTx::fill`].
    pub frames: Option<Arc<OwnedFd>>,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            role: Role::Server,
            queues: 1,
            ring_size: 1024,
            buffer_size: 2048,
            rx_parts: 1,
            packed: false,
            in_order: false,
            mergeable: true,
            event_idx: false,
            indirect: false,
            features: 0,
            interrupts: false,
            regions: 1,
            timeout: Duration::from_secs(5),
            frames: None,
        }
    }
}

impl Options {
    /// The features to ask for.
    fn wanted(&self) -> u64 {
        let bit = |on: bool, bit: u64| if on { bit } else { 0 };
        self.features
            | feature::VERSION_1
            | feature::PROTOCOL_FEATURES
            | bit(self.packed, feature::RING_PACKED)
            | bit(self.in_order, feature::IN_ORDER)
            | bit(self.mergeable, feature::NET_MRG_RXBUF)
            | bit(self.event_idx, feature::EVENT_IDX)
            | bit(self.indirect, feature::INDIRECT_DESC)
    }
}

/// All memory of a front end.
#[derive(Debug)]
struct Memory {
    /// All but that of the frames, which nobody here reads.
    mapped: Regions,
    /// The regions, as a back end is told.
    table: Vec<RegionMessage>,
    /// Their files. The kernel needs none.
    files: Vec<Arc<OwnedFd>>,
}

impl Memory {
    /// One region for each of `sizes` in bytes, then `frames`.
    fn new(sizes: &[u64], frames: Option<&Arc<OwnedFd>>) -> Result<Memory, String> {
        let (mut mapped, mut table, mut files, mut gpa) = (Vec::new(), Vec::new(), Vec::new(), GPA);
        let mut add = |size: u64, fd: Arc<OwnedFd>| {
            table.push(RegionMessage { gpa, size, uva: UVA + gpa, offset: 0 });
            files.push(fd);
            gpa += size.next_multiple_of(GPA) + GPA;
        };
        for &size in sizes {
            let (region, fd) = Region::create("vhost-user", size)?;
            mapped.push(region);
            add(size, Arc::new(fd));
        }
        if let Some(frames) = frames {
            let size = fstat(frames).map_err(|e| format!("fstat of the frames: {e}"))?.st_size as u64;
            add(size, frames.clone());
        }
        Ok(Memory { mapped: Regions::new(mapped), table, files })
    }
}

/// A front end with raw rings. Dropping it disconnects.
pub struct Frontend {
    /// Rings to the back end.
    pub tx: Vec<RawTx>,
    /// Rings from the back end.
    pub rx: Vec<RawRx>,
    /// The connection, if there is one.
    pub connection: Option<Connection>,
    /// Negotiated features.
    pub features: u64,
    /// Negotiated protocol features.
    pub protocol_features: u64,
    meeting: Option<Meeting>,
    options: Options,
    memory: Arc<Memory>,
}

impl Frontend {
    /// Waits for a back end on `socket`, or connects to it, and starts the device.
    ///
    /// # Errors
    /// Why it did not work.
    pub fn connect(socket: &SocketName, options: &Options) -> Result<Frontend, String> {
        Self::meet(Meeting::new(socket, options.role)?, options)
    }

    /// As [`Frontend::connect`] where a socket was made before.
    ///
    /// # Errors
    /// Why it did not work.
    pub fn meet(meeting: Meeting, options: &Options) -> Result<Frontend, String> {
        let mut connection = meeting.connection(options.timeout)?;
        let (features, protocol_features) = negotiate(&mut connection, options)?;
        // What was not granted shows in how rings are used.
        let granted = |bit: u64| features & bit != 0;
        let options = Options {
            in_order: granted(feature::IN_ORDER),
            event_idx: granted(feature::EVENT_IDX),
            indirect: granted(feature::INDIRECT_DESC),
            mergeable: granted(feature::NET_MRG_RXBUF),
            ..options.clone()
        };
        let mut frontend = Self::new(options, features)?;
        (frontend.protocol_features, frontend.meeting) = (protocol_features, Some(meeting));
        frontend.start(&connection)?;
        frontend.connection = Some(connection);
        Ok(frontend)
    }

    /// One that has no back end but [`NullSwitch`], and all features that it asks for.
    ///
    /// # Errors
    /// If the kernel has no memory.
    pub fn alone(options: &Options) -> Result<Frontend, String> {
        Self::new(options.clone(), options.wanted())
    }

    fn new(options: Options, features: u64) -> Result<Frontend, String> {
        let size = options.ring_size;
        if !size.is_power_of_two() || !(2..=1 << 15).contains(&size) {
            return Err(format!("a ring of {size} descriptors (a power of two from 2 to 32768 is)"));
        }
        if !options.rx_parts.is_power_of_two() || options.rx_parts > size {
            return Err(format!("receive buffers of {} descriptors", options.rx_parts));
        }
        let shape = Shape {
            size,
            buffer_size: options.buffer_size.max(64).next_multiple_of(options.rx_parts.into()),
            parts: 1,
            packed: options.packed,
            in_order: options.in_order,
            event_idx: options.event_idx,
            interrupts: options.interrupts,
            sleeps: false,
        };
        // Ring i is in region i modulo their number, behind those that are there before it.
        let (rings, regions) = (2 * u64::from(options.queues), u64::from(options.regions.max(1)));
        let in_region = |region: u64| rings / regions + u64::from(region < rings % regions);
        let sizes: Vec<u64> = (0..regions).map(|r| (in_region(r) * shape.bytes()).max(4096)).collect();
        if sizes[0] > 1 << 32 {
            return Err(format!(
                "rings and buffers need {} bytes a region: take more, fewer or smaller ones",
                sizes[0]
            ));
        }
        let memory = Arc::new(Memory::new(&sizes, options.frames.as_ref())?);
        let ring = |i: u64, shape: Shape| {
            Queue::new(memory.clone(), (i % regions) as usize, (i / regions * shape.bytes()) as u32, shape)
        };
        let (mut tx, mut rx) = (Vec::new(), Vec::new());
        for pair in 0..u64::from(options.queues) {
            rx.push(RawRx::new(ring(2 * pair, Shape { parts: options.rx_parts, ..shape })?));
            tx.push(RawTx(ring(2 * pair + 1, shape)?));
        }
        Ok(Frontend { tx, rx, connection: None, features, protocol_features: 0, meeting: None, options, memory })
    }

    /// Waits for another back end when the one before is gone, and starts the device where that left it: no frame is
    /// lost that it had not given back, or sent twice that it had.
    ///
    /// # Errors
    /// Why there is none, or that it lacks features of the one before.
    pub fn reconnect(&mut self) -> Result<(), String> {
        self.connection = None;
        let meeting = self.meeting.as_ref().ok_or("there never was a back end")?;
        let mut connection = meeting.connection(self.options.timeout)?;
        let (features, protocol_features) = negotiate(&mut connection, &self.options)?;
        if features != self.features {
            return Err(format!("features {features:#x} where {:#x} were", self.features));
        }
        self.protocol_features = protocol_features;
        // What the packed rings' position is only shows when they are looked at.
        for tx in &mut self.tx {
            tx.free();
        }
        self.start(&connection)?;
        self.connection = Some(connection);
        Ok(())
    }

    /// Describes memory and rings, and starts these.
    fn start(&self, connection: &Connection) -> Result<(), String> {
        let Memory { table, files, .. } = &*self.memory;
        let table: Vec<_> = table.iter().copied().zip(files.iter().map(AsFd::as_fd)).collect();
        if self.protocol_features & protocol::CONFIGURE_MEM_SLOTS != 0 {
            for (region, fd) in &table {
                connection.add_mem_reg(region, *fd)?;
            }
        } else {
            connection.set_mem_table(&table)?;
        }
        let rings = self.rings();
        for (index, ring) in (0..).zip(&rings) {
            connection.set_vring_num(index, self.options.ring_size.into())?;
            connection.set_vring_base(index, ring.base())?;
            connection.set_vring_addr(index, &ring.addresses(false))?;
            connection.set_vring_kick(index, Some(ring.kick.as_fd()))?;
            connection.set_vring_call(index, Some(ring.call.as_fd()))?;
        }
        if self.features & feature::PROTOCOL_FEATURES != 0 {
            for index in 0..rings.len() as u32 {
                connection.set_vring_enable(index, true)?;
            }
        }
        if self.protocol_features & protocol::STATUS != 0 {
            connection.set_status(DRIVER_OK)?;
        }
        // A ring is started by its first kick (`vhost-user.rst`, "Ring states"). Back ends that poll, such as Dray and DPDK's, need none; VPP
        // waits for it.
        for ring in rings {
            let _ = rustix::io::write(&ring.kick, &1u64.to_ne_bytes());
        }
        Ok(())
    }

    /// All rings, by index.
    fn rings(&self) -> Vec<&Queue> {
        self.rx.iter().zip(&self.tx).flat_map(|(rx, tx)| [&rx.0, &tx.0]).collect()
    }

    /// The regions, as they were told.
    pub fn regions(&self) -> impl Iterator<Item = &RegionMessage> {
        self.memory.table.iter()
    }

    /// Where ring `index` is, as it was told.
    ///
    /// # Panics
    /// If there is no such ring.
    pub fn ring_addresses(&self, index: usize) -> RingAddresses {
        self.rings()[index].addresses(false)
    }

    /// Stops all rings; where each would go on.
    ///
    /// # Errors
    /// If there is no back end, or it does not answer.
    pub fn stop(&self) -> Result<Vec<u32>, String> {
        let connection = self.connection.as_ref().ok_or("there is no back end")?;
        (0..self.rings().len() as u32).map(|index| connection.vring_base(index)).collect()
    }

    /// Lets the back end log the pages that it writes, as a migration does.
    ///
    /// # Errors
    /// If there is no back end, or it has no log.
    pub fn log(&self) -> Result<DirtyLog, String> {
        let connection = self.connection.as_ref().ok_or("there is no back end")?;
        if self.protocol_features & protocol::LOG_SHMFD == 0 {
            return Err("the back end keeps no log".into());
        }
        let end = self.regions().map(|r| r.gpa + r.size).max().unwrap_or(0);
        let size = end.div_ceil(DirtyLog::PAGE * 8).next_multiple_of(4096);
        let (_, fd) = Region::create("vhost-user-log", size)?;
        connection.set_log_base(size, 0, fd.as_fd())?;
        connection.set_features(self.features | feature::LOG_ALL)?;
        for (index, ring) in (0..).zip(self.rings()) {
            connection.set_vring_addr(index, &ring.addresses(true))?;
        }
        Ok(DirtyLog { fd })
    }

    /// Why the link is down, if it is.
    pub fn down(&self) -> Option<String> {
        self.connection.as_ref().and_then(Connection::down)
    }
}

/// Finds out what the back end has, and takes of it what `options` ask for: features, and protocol features.
fn negotiate(connection: &mut Connection, options: &Options) -> Result<(u64, u64), String> {
    connection.set_owner()?;
    let offered = connection.features()?;
    let features = offered & options.wanted();
    let mut protocol_features = 0;
    if features & feature::PROTOCOL_FEATURES != 0 {
        protocol_features = connection.protocol_features()? & PROTOCOL;
        connection.set_protocol_features(protocol_features)?;
    }
    if features & feature::VERSION_1 == 0 || (options.packed && features & feature::RING_PACKED == 0) {
        let what = if options.packed { "packed rings" } else { "VIRTIO_F_VERSION_1" };
        return Err(format!("the back end has no {what} (its features are {offered:#x})"));
    }
    let most = if protocol_features & protocol::MQ != 0 { connection.queue_num()? } else { 1 };
    if most < options.queues.into() {
        return Err(format!("the back end takes only {most} queue pairs"));
    }
    connection.set_features(features)?;
    Ok((features, protocol_features))
}

/// The log of written pages, a bit for each of guest-physical memory.
pub struct DirtyLog {
    fd: OwnedFd,
}

impl DirtyLog {
    /// Bytes of a page (`VHOST_LOG_PAGE`).
    pub const PAGE: u64 = 4096;

    /// Whether the page of this guest-physical address was written.
    ///
    /// # Errors
    /// If the log can't be read there.
    pub fn is_dirty(&self, gpa: u64) -> Result<bool, String> {
        let page = gpa / Self::PAGE;
        let mut byte = [0];
        rustix::io::pread(&self.fd, &mut byte, page / 8).map_err(|e| format!("read the log: {e}"))?;
        Ok(byte[0] >> (page % 8) & 1 != 0)
    }
}
