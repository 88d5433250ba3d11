//! Rings: reading and writing what is shared with a peer, at burst granularity.
//!
//! A ring is a header of two cache lines (cookie, flags and head in the first, tail in the second) and a power of two of
//! descriptors. Head and tail run freely in 16 bits. The client owns all memory. On a ring from client to server (S2M) the
//! client fills descriptors from `head` on and the server gives them back by moving `tail`. On a ring from server to client (M2S)
//! the client offers empty buffers by moving `head` and the server fills them from `tail` on.
//!
//! A peer can write anything anywhere at any time. So every index and descriptor is read once, checked, and
//! used from the private copy; a client does not read back what only it has to say (where its buffers are).
#![allow(unsafe_code)]

mod build;
mod layout;
mod plain;
mod raw;
mod rx;
mod tx;

pub(crate) use build::{ClientRings, RingSpec, client_queues, client_rings, server_queues};
pub(crate) use layout::Layout;
pub(crate) use raw::raw_queues;
pub use raw::{NullSwitch, Peek, RawRx, RawTx};

use super::kick::Interrupt;
use super::proto::COOKIE;
use crate::mem::{Extent, Regions, guard};
use dray_switch::burst::BURST;
use dray_switch::mem::prefetch_read;
use layout::Buffers;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU16, AtomicU32, Ordering, fence};
use std::sync::{Arc, OnceLock};

/// Bytes before a ring's descriptors.
pub(crate) const HEADER: usize = 128;
/// Bytes of a descriptor.
pub(crate) const DESC: usize = 16;
/// Descriptors of a cache line.
const A_LINE: usize = 64 / DESC;
/// The smallest ring, base-2 logarithm.
pub(crate) const LOG2_MIN: u8 = 8;
/// The largest ring, base-2 logarithm.
pub(crate) const LOG2_MAX: u8 = 14;

const FLAG_NEXT: u16 = 1;
const MASK_INT: u16 = 1;

/// Prefetches the beginning of a frame of `len` bytes that is about to be read: what its head takes, and enough of a long body for
/// the hardware to see the stream.
#[inline(always)]
fn prefetch_frame(ptr: NonNull<u8>, len: u32) {
    let p = ptr.as_ptr().cast_const();
    prefetch_read(p);
    if len > 64 {
        prefetch_read(p.wrapping_add(64));
    }
}

/// What the queues of a link share: its memory, how long a frame may be, and whether the peer broke the rules.
#[derive(Debug)]
pub(crate) struct Shared {
    pub regions: Regions,
    /// Longest frame in bytes, without FCS. It may be changed while the link is up.
    pub max_frame: Arc<AtomicU32>,
    /// What the peer did wrong, if it did.
    fault: OnceLock<String>,
    /// The supervisor's eventfd.
    wake: Arc<OwnedFd>,
}

impl Shared {
    pub fn new(regions: Regions, max_frame: Arc<AtomicU32>, wake: Arc<OwnedFd>) -> Shared {
        Shared { regions, max_frame, fault: OnceLock::new(), wake }
    }

    /// What the peer did wrong, if it did.
    pub fn fault(&self) -> Option<&str> {
        self.fault.get().map(String::as_str)
    }

    /// The connection is closed: no queue moves anything from now on.
    pub fn end(&self) {
        let _ = self.fault.set("the link is down".into());
    }

    /// Ends the link: no queue moves anything from now on, and the supervisor closes the connection.
    #[cold]
    fn set_fault(&self, what: String) {
        if self.fault.set(what).is_ok() {
            self.wake();
        }
    }

    /// Wakes the supervisor. Its eventfd is its own and not blocking.
    pub fn wake(&self) {
        let _ = rustix::io::write(&self.wake, &1u64.to_ne_bytes());
    }
}

/// A descriptor's flags, region and length, in one word as they are in the ring.
#[derive(Clone, Copy)]
#[repr(transparent)]
struct Word(u64);

impl Word {
    #[inline(always)]
    fn new(flags: u16, region: u16, len: u32) -> Word {
        Word(u64::from(flags) | u64::from(region) << 16 | u64::from(len) << 32)
    }

    #[inline(always)]
    fn flags(self) -> u16 {
        self.0 as u16
    }

    #[inline(always)]
    fn region(self) -> u16 {
        (self.0 >> 16) as u16
    }

    #[inline(always)]
    fn len(self) -> u32 {
        (self.0 >> 32) as u32
    }
}

/// A ring in shared memory. All its fields are within one region of the [`Shared`] that its queue or [`Interrupt`] holds.
#[derive(Clone, Copy)]
pub(crate) struct Ring {
    base: NonNull<u8>,
    mask: u16,
}

// SAFETY: a ring is an address; the memory behind it is only touched by atomic and volatile accesses through raw pointers.
unsafe impl Send for Ring {}
// SAFETY: as above.
unsafe impl Sync for Ring {}

impl Ring {
    /// The ring of `1 << log2` descriptors at `offset` of `region`.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn new(regions: &Regions, region: u16, offset: u32, log2: u8) -> Result<Ring, String> {
        if !(LOG2_MIN..=LOG2_MAX).contains(&log2) {
            return Err(format!("a ring of 2^{log2} descriptors (2^{LOG2_MIN} to 2^{LOG2_MAX} are taken)"));
        }
        let len = (HEADER + (DESC << log2)) as u32;
        let base = regions
            .resolve(region, offset, len)
            .ok_or_else(|| format!("a ring at offset {offset} of region {region} is outside the regions"))?;
        if !base.as_ptr().addr().is_multiple_of(DESC) {
            return Err(format!("a ring at offset {offset} is not aligned to {DESC} bytes"));
        }
        Ok(Ring { base, mask: ((1u32 << log2) - 1) as u16 })
    }

    /// Whether the cookie is right.
    pub fn check_cookie(&self) -> bool {
        // SAFETY: offset 0 of the ring, which `new` found within its region and aligned.
        unsafe { self.base.cast::<u32>().read_volatile() == COOKIE }
    }

    /// Makes an empty ring of own memory.
    fn init(&self) {
        // SAFETY: as in `check_cookie`.
        unsafe { self.base.cast::<u32>().write_volatile(COOKIE) };
        self.flags().store(0, Ordering::Relaxed);
        self.head().store(0, Ordering::Relaxed);
        self.tail().store(0, Ordering::Release);
    }

    #[inline(always)]
    fn size(&self) -> u16 {
        self.mask + 1
    }

    #[inline(always)]
    fn field(&self, at: usize) -> &AtomicU16 {
        // SAFETY: `at` is below HEADER and even; the ring is aligned, within its region (`new`), and the queue or interrupt
        // that has it holds the region.
        unsafe { AtomicU16::from_ptr(self.base.add(at).cast().as_ptr()) }
    }

    #[inline(always)]
    fn flags(&self) -> &AtomicU16 {
        self.field(4)
    }

    #[inline(always)]
    fn head(&self) -> &AtomicU16 {
        self.field(6)
    }

    #[inline(always)]
    fn tail(&self) -> &AtomicU16 {
        self.field(64)
    }

    /// Whether the peer does not want to be woken.
    #[inline(always)]
    pub fn masked(&self) -> bool {
        self.flags().load(Ordering::Relaxed) & MASK_INT != 0
    }

    /// The index that the sender of frames moves: a client's head or a server's tail.
    pub fn produced(&self, client: bool) -> u16 {
        if client { self.head() } else { self.tail() }.load(Ordering::Relaxed)
    }

    #[inline(always)]
    fn desc(&self, index: u16) -> *mut u64 {
        // SAFETY: the masked index is below the ring's size, so the descriptor is within the ring (`new`).
        unsafe { self.base.as_ptr().add(HEADER + (index & self.mask) as usize * DESC).cast() }
    }

    /// Reads a descriptor, once: its first word, and its offset.
    #[inline(always)]
    fn read(&self, index: u16) -> (Word, u32) {
        let p = self.desc(index);
        // SAFETY: `desc` is within the ring and aligned to 16 bytes.
        let (word, offset) = unsafe { (p.read_volatile(), p.add(1).read_volatile()) };
        (Word(word), offset as u32)
    }

    /// Writes a descriptor's flags, region and length.
    #[inline(always)]
    fn write(&self, index: u16, flags: u16, region: u16, len: u32) {
        self.write_word(index, Word::new(flags, region, len));
    }

    /// Writes a descriptor's first word.
    #[inline(always)]
    fn write_word(&self, index: u16, word: Word) {
        // SAFETY: as in `read`.
        unsafe { self.desc(index).write_volatile(word.0) }
    }

    /// Writes a descriptor's offset, and 0 to its metadata.
    #[inline(always)]
    fn write_offset(&self, index: u16, offset: u32) {
        // SAFETY: as in `read`.
        unsafe { self.desc(index).add(1).write_volatile(offset.into()) }
    }
}

/// A piece of a frame or an empty buffer: a descriptor that was checked, in the same order.
#[derive(Clone, Copy)]
#[repr(C)]
struct Slot {
    word: Word,
    ptr: NonNull<u8>,
}

/// Room for a burst's: no queue's own, of which each would have to come into the nearest cache.
const NO_SLOTS: [MaybeUninit<Slot>; BURST] = [const { MaybeUninit::uninit() }; BURST];

impl Slot {
    const EMPTY: Slot = Slot { ptr: NonNull::dangling(), word: Word(0) };

    /// Bytes of it.
    #[inline(always)]
    fn len(&self) -> u32 {
        self.word.len()
    }
}

/// What receive and transmit queues have in common. What is looked at in vain is in one cache line: of hundreds of quiet queues none has
/// its lines near.
#[repr(C, align(64))]
pub(crate) struct Queue {
    ring: Ring,
    /// Index of the next descriptor to use.
    next: u16,
    /// The peer's index as last read.
    peer: u16,
    /// A receiving client's own index: buffers up to here were offered.
    offered: u16,
    /// The region that descriptors were last found in.
    region: u16,
    /// [`guard::faults`] as last seen.
    faults: usize,
    shared: Arc<Shared>,
    /// By which a consumer that sleeps is woken.
    interrupt: Arc<Interrupt>,
    /// Whether the peer was ever seen with interrupts unmasked on a ring that we produce on.
    sleeps: bool,
    /// A client's own buffers; a server has none.
    own: Option<Buffers>,
    name: String,
}

// SAFETY: the addresses in a queue are of memory that it holds through `shared`; nothing in it is tied to a thread.
unsafe impl Send for Queue {}

/// What descriptors are read with: a copy, of which the compiler knows that writing to frames and rings doesn't change it.
struct Reader<'a> {
    ring: Ring,
    regions: &'a Regions,
    own: Option<Buffers>,
    /// The region that was last read of, and where it is: descriptors nearly always name the same one.
    region: u16,
    extent: Extent,
}

impl<'a> Reader<'a> {
    fn new(ring: Ring, regions: &'a Regions, own: Option<Buffers>) -> Self {
        Reader { ring, regions, own, region: 0, extent: regions.extent(0) }
    }

    /// Reads and checks descriptor `index`: a piece of a received frame, or an empty buffer to fill.
    #[inline(always)]
    fn read<const CLIENT: bool, const RX: bool>(&mut self, index: u16) -> Option<Slot> {
        if CLIENT {
            let own = self.own?;
            let ptr = own.at(index & self.ring.mask);
            if !RX {
                return Some(Slot { ptr, word: Word::new(0, 0, own.size) });
            }
            let (word, _) = self.ring.read(index);
            (word.len() <= own.size).then_some(Slot { ptr, word })
        } else {
            let (word, offset) = self.ring.read(index);
            if word.region() != self.region {
                (self.region, self.extent) = (word.region(), self.regions.extent(word.region()));
            }
            let ptr = self.extent.at(offset, word.len())?;
            Some(Slot { ptr, word })
        }
    }
}

impl Queue {
    fn new(ring: Ring, shared: &Arc<Shared>, own: Option<Buffers>, event: OwnedFd, name: String) -> Queue {
        let faults = guard::faults();
        let interrupt = Arc::new(Interrupt::new(ring, own.is_some(), shared.clone(), event));
        Queue {
            ring,
            shared: shared.clone(),
            own,
            interrupt,
            next: 0,
            peer: 0,
            offered: 0,
            sleeps: false,
            faults,
            region: 0,
            name,
        }
    }

    #[cold]
    fn fault(&self, what: &str) {
        self.shared.set_fault(format!("{}: {what}", self.name));
    }

    /// Whether the link is still good. Once a burst.
    #[inline(always)]
    fn good(&mut self) -> bool {
        self.check_memory();
        self.shared.fault.get().is_none()
    }

    /// Ends the link if its memory is gone.
    #[inline(always)]
    fn check_memory(&mut self) {
        let faults = guard::faults();
        if faults != self.faults {
            self.faults = faults;
            if let Some(lost) = self.shared.regions.lost() {
                self.fault(lost.text());
            }
        }
    }

    /// What descriptors are read with.
    #[inline(always)]
    fn reader(&self) -> Reader<'_> {
        Reader::new(self.ring, &self.shared.regions, self.own)
    }

    /// [`Reader::read`] of a single descriptor.
    #[inline(always)]
    fn read<const CLIENT: bool, const RX: bool>(&self, index: u16) -> Option<Slot> {
        self.reader().read::<CLIENT, RX>(index)
    }

    /// Offers the buffers of a receiving client that are not with the peer.
    #[inline(always)]
    fn offer(&mut self) {
        let Some(own) = &self.own else { return };
        let head = self.next.wrapping_add(self.ring.size());
        while self.offered != head {
            let slot = self.offered & self.ring.mask;
            self.ring.write(slot, 0, 0, own.size);
            self.ring.write_offset(slot, own.offset + u32::from(slot) * own.stride);
            self.offered = self.offered.wrapping_add(1);
        }
        self.ring.head().store(head, Ordering::Release);
    }

    /// Whether the peer sleeps and is to be woken, after the index was moved.
    #[inline(always)]
    fn asleep(&mut self) -> bool {
        // The order of "index written, flags read" against the peer's "flags written, index read" needs a full fence, or both
        // could miss each other and the peer sleep on. It costs a wait for all stores of the burst, so peers that
        // were never seen to sleep are spared it: rings begin unmasked, so one that sleeps is seen at the first burst. One
        // that falls asleep later may be missed, until the supervisor looks (`Kicker::kick_missed`).
        if self.sleeps {
            fence(Ordering::SeqCst);
        }
        if self.ring.masked() {
            return false;
        }
        self.sleeps = true;
        true
    }
}
