//! A virtual machine that keeps no rule: a vhost-user front end whose messages and split rings are what the attack writes.
//!
//! Its memory is written through the file, so that nothing that the switch or the attack does to it can harm this process.

use super::memif::{event, memfd};
use dray_config::{Role, SocketName};
use dray_vhost::vhost_user::frontend::feature;
use dray_vhost::vhost_user::frontend::message::{Connection, Meeting, RegionMessage, RingAddresses, protocol};
use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::time::Duration;

/// The memory's guest-physical address, and its address in the messages.
pub(super) const GPA: u64 = 0x10_0000;
pub(super) const UVA: u64 = 0x7f00_0000_0000;
/// Descriptors of a ring.
pub(super) const RING: u16 = 1024;
/// From one ring to the next, and where in it the available and the used part are.
const STRIDE: u64 = 0x1_0000;
const AVAIL: u64 = 0x8000;
const USED: u64 = 0xa000;
/// Where an attack's tables and frames may be.
pub(super) const DATA: u64 = 4 * STRIDE;
/// Bytes of the memory, if an attack wants no more.
pub(super) const BYTES: u64 = 8 << 20;
/// How long the switch may take to answer.
const PATIENCE: Duration = Duration::from_secs(3);

/// Flags of descriptors (virtio 1.2, section 2.7.5).
pub(super) const NEXT: u16 = 1;
pub(super) const WRITE: u16 = 2;
pub(super) const INDIRECT: u16 = 4;

/// The protocol features that are negotiated: no acknowledgements, so that messages need not wait for each other.
const PROTOCOL: u64 = protocol::MQ | protocol::MTU | protocol::CONFIGURE_MEM_SLOTS | protocol::STATUS;

/// Connects to the port's socket, and says nothing.
///
/// # Errors
/// If nobody listens.
pub(super) fn dial(socket: &SocketName) -> Result<Connection, String> {
    Meeting::new(socket, Role::Client)?.connection(PATIENCE)
}

/// The same, and negotiates.
///
/// # Errors
/// If the switch does not answer.
pub(super) fn negotiate(socket: &SocketName, features: u64, protocol_features: u64) -> Result<Connection, String> {
    let mut connection = dial(socket)?;
    let offered = connection.features()?;
    connection.set_protocol_features(protocol_features)?;
    connection.set_features(offered & (feature::VERSION_1 | feature::PROTOCOL_FEATURES | features))?;
    Ok(connection)
}

/// A virtual machine with a queue pair. It receives on ring 0 and sends on ring 1.
pub(super) struct Vm {
    pub connection: Connection,
    pub memory: File,
    bytes: u64,
    kicks: [OwnedFd; 2],
    call: OwnedFd,
}

/// Where a ring is, in memory.
fn ring(index: u32) -> u64 {
    u64::from(index) * STRIDE
}

/// Where ring `index` is, or (`other`) a second place for it.
pub(super) fn addresses(index: u32, other: bool) -> RingAddresses {
    let at = UVA + ring(index + if other { 2 } else { 0 });
    RingAddresses { flags: 0, desc: at, avail: at + AVAIL, used: at + USED, log: 0 }
}

impl Vm {
    /// Connects, and describes memory and rings but for what starts them. `hangs`: interrupts hang whoever makes them.
    ///
    /// # Errors
    /// If the switch refuses.
    pub fn new(socket: &SocketName, features: u64, bytes: u64, hangs: bool) -> Result<Vm, String> {
        let connection = negotiate(socket, features, PROTOCOL)?;
        let kicks = [event(false)?, event(false)?];
        let vm = Vm { connection, memory: memfd(bytes)?, bytes, kicks, call: event(hangs)? };
        vm.set_memory(&vm.memory)?;
        for index in 0..2 {
            let entries: Vec<u8> = (0..RING).flat_map(u16::to_le_bytes).collect();
            vm.write(ring(index) + AVAIL + 4, &entries)?;
            vm.connection.set_vring_num(index, RING.into())?;
            vm.connection.set_vring_base(index, 0)?;
            vm.connection.set_vring_addr(index, &addresses(index, false))?;
            vm.connection.set_vring_call(index, Some(vm.call.as_fd()))?;
        }
        // Room for frames of at most 4 KiB.
        for slot in 0..RING {
            vm.describe(ring(0), slot, vm.gpa(bytes - u64::from(slot % 256 + 1) * 4096), 4096, WRITE, 0)?;
        }
        vm.offer(0, RING)?;
        Ok(vm)
    }

    /// Starts the rings.
    ///
    /// # Errors
    /// If the connection is closed.
    pub fn start(&self) -> Result<(), String> {
        for (index, kick) in (0..).zip(&self.kicks) {
            self.connection.set_vring_enable(index, true)?;
            self.connection.set_vring_kick(index, Some(kick.as_fd()))?;
        }
        self.connection.set_status(0xf)
    }

    /// Makes this file the memory.
    ///
    /// # Errors
    /// If the connection is closed.
    pub fn set_memory(&self, file: &File) -> Result<(), String> {
        let region = RegionMessage { gpa: GPA, size: self.bytes, uva: UVA, offset: 0 };
        self.connection.set_mem_table(&[(region, file.as_fd())])
    }

    /// The guest-physical address of a place in memory.
    pub fn gpa(&self, at: u64) -> u64 {
        GPA + at
    }

    /// Writes to memory.
    ///
    /// # Errors
    /// If it is full.
    pub fn write(&self, at: u64, bytes: &[u8]) -> Result<(), String> {
        self.memory.write_all_at(bytes, at).map_err(|e| format!("the attacker's memory: {e}"))
    }

    /// Writes descriptor `slot` of the table at `table`.
    ///
    /// # Errors
    /// As [`Vm::write`].
    pub fn describe(&self, table: u64, slot: u16, gpa: u64, len: u32, flags: u16, next: u16) -> Result<(), String> {
        self.write(table + 16 * u64::from(slot), &descriptor(gpa, len, flags, next))
    }

    /// The same of the ring to the switch.
    ///
    /// # Errors
    /// As [`Vm::write`].
    pub fn describe_sent(&self, slot: u16, gpa: u64, len: u32, flags: u16, next: u16) -> Result<(), String> {
        self.describe(ring(1), slot, gpa, len, flags, next)
    }

    /// Makes the chains before `index` available.
    ///
    /// # Errors
    /// As [`Vm::write`].
    pub fn offer(&self, index: u32, available: u16) -> Result<(), String> {
        self.write(ring(index) + AVAIL + 2, &available.to_le_bytes())
    }

    /// Offers whatever the switch has given back once more. How many chains it had given back until now, modulo 2^16.
    ///
    /// # Errors
    /// As [`Vm::write`].
    pub fn offer_again(&self, index: u32, chains: u16) -> Result<u16, String> {
        let mut used = [0; 2];
        self.memory.read_exact_at(&mut used, ring(index) + USED + 2).map_err(|e| e.to_string())?;
        let used = u16::from_le_bytes(used);
        self.offer(index, used.wrapping_add(chains))?;
        Ok(used)
    }
}

/// The bytes of a descriptor.
pub(super) fn descriptor(gpa: u64, len: u32, flags: u16, next: u16) -> Vec<u8> {
    [&gpa.to_le_bytes()[..], &len.to_le_bytes(), &flags.to_le_bytes(), &next.to_le_bytes()].concat()
}

/// The bytes of a message's body.
pub(super) fn words(words: &[u32]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_ne_bytes()).collect()
}
