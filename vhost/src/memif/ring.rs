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

mod plain;
mod raw;

pub use raw::NullSwitch;

use super::kick::{Interrupt, Kicker};
use super::proto::COOKIE;
use crate::link::TxQueues;
use crate::mem::{Extent, Regions, guard};
use crate::scatter::scatter;
use dray_switch::burst::{BURST, CHAIN_MAX, Frame};
use dray_switch::mem::{copy, prefetch_read, prefetch_write, write_bodies, write_frame, write_head};
use dray_switch::{Burst, Drop as Reason, Dropped, Rx, Sent, Tx};
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU16, AtomicU32, Ordering, fence};
use std::sync::{Arc, Mutex, OnceLock};

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

/// The buffers of a client's ring: one per descriptor, at equal distances in region 0.
#[derive(Clone, Copy)]
pub(crate) struct Buffers {
    base: NonNull<u8>,
    offset: u32,
    /// Bytes from one buffer to the next.
    stride: u32,
    /// Bytes of a buffer.
    size: u32,
}

// SAFETY: as for `Ring`.
unsafe impl Send for Buffers {}

impl Buffers {
    #[inline(always)]
    fn at(&self, slot: u16) -> NonNull<u8> {
        // SAFETY: `slot` is a masked index; `Layout::client` resolved stride times ring size bytes at `base`.
        unsafe { self.base.add(slot as usize * self.stride as usize) }
    }
}

/// How a client lays out its one region: all rings, then the buffers of each.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Layout {
    pub s2m: u16,
    pub m2s: u16,
    pub log2: u8,
    pub buffer_size: u32,
}

impl Layout {
    fn ring_bytes(&self) -> u64 {
        (HEADER + (DESC << self.log2)) as u64
    }

    /// An odd number of cache lines, so that the beginnings of buffers spread over all sets of a cache: at 2048 bytes, they would all
    /// fall into two of the 64 sets of an L1 cache and not even a burst of them would fit.
    fn stride(&self) -> u32 {
        (self.buffer_size.div_ceil(64) | 1) * 64
    }

    fn rings(&self) -> u64 {
        u64::from(self.s2m) + u64::from(self.m2s)
    }

    /// Where ring `i` is; the S2M rings come first.
    pub fn ring_offset(&self, i: u16) -> u32 {
        (u64::from(i) * self.ring_bytes()) as u32
    }

    fn buffers_offset(&self, i: u16) -> u64 {
        let area = u64::from(self.stride()) << self.log2;
        (self.rings() * self.ring_bytes()).next_multiple_of(4096) + u64::from(i) * area
    }

    /// Size of the region in bytes.
    ///
    /// # Errors
    /// If it does not fit the protocol's 32-bit offsets.
    pub fn size(&self) -> Result<u64, String> {
        let size = self.buffers_offset(0) + self.rings() * (u64::from(self.stride()) << self.log2);
        if size > u64::from(u32::MAX) {
            return Err(format!("rings and buffers need {size} bytes, more than 4 GiB: take fewer or smaller ones"));
        }
        Ok(size)
    }

    /// Ring `i` with its buffers, made empty, in own memory that was made for this layout.
    fn client(&self, regions: &Regions, i: u16) -> (Ring, Buffers) {
        let ring = Ring::new(regions, 0, self.ring_offset(i), self.log2).expect("own memory holds its rings");
        ring.init();
        let offset = self.buffers_offset(i) as u32;
        let base = regions.resolve(0, offset, self.stride() << self.log2).expect("own memory holds its buffers");
        let buffers = Buffers { base, offset, stride: self.stride(), size: self.buffer_size };
        for slot in 0..ring.size() {
            ring.write(slot, 0, 0, buffers.size);
            ring.write_offset(slot, buffers.offset + u32::from(slot) * buffers.stride);
        }
        (ring, buffers)
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

/// A receive queue; `CLIENT`: of the side that owns the memory.
struct RxQueue<const CLIENT: bool>(Queue);

/// A transmit queue; `CLIENT`: of the side that owns the memory.
struct TxQueue<const CLIENT: bool>(Queue);

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

impl<const CLIENT: bool> Rx for RxQueue<CLIENT> {
    fn receive(&mut self, burst: &mut Burst) {
        let q = &mut self.0;
        let ring = q.ring;
        q.check_memory();
        // The peer moves its index all the time, so to read it is to wait for the cache line.
        let mut available = q.peer.wrapping_sub(q.next);
        if usize::from(available) < BURST {
            q.peer = if CLIENT { ring.tail() } else { ring.head() }.load(Ordering::Acquire);
            available = q.peer.wrapping_sub(q.next);
        }
        if available == 0 || q.shared.fault.get().is_some() {
            return;
        }
        if available > ring.size() {
            burst.drop(Dropped::Count(1), Reason::RxBadDescriptor);
            return q.fault("the ring's index jumped");
        }
        let max = q.shared.max_frame.load(Ordering::Relaxed);

        // First all descriptors, so that the fetching of the frames' bytes overlaps.
        let room = (available as usize).min(burst.room()).min(BURST);
        let mut slots = NO_SLOTS;
        if !CLIENT {
            let place = (q.region, q.shared.regions.extent(q.region));
            // SAFETY: AVX2 is in the baseline.
            if let Some(slots) = unsafe { plain::read::<true>(ring, q.next, place, max, &mut slots[..room]) } {
                let frames = slots.iter().map(|slot| (slot.ptr.as_ptr().cast_const(), slot.len()));
                // SAFETY: the frames are within a region that `shared` keeps mapped; there is room.
                unsafe { burst.push_all(frames) };
                q.next = q.next.wrapping_add(room as u16);
                return;
            }
        }
        let (mut n, mut bad) = (0, false);
        let mut words = 0;
        let mut reader = q.reader();
        for place in &mut slots[..room] {
            let Some(slot) = reader.read::<CLIENT, true>(q.next.wrapping_add(n as u16)) else {
                bad = true;
                break;
            };
            prefetch_frame(slot.ptr, slot.len());
            words |= slot.word.0;
            place.write(slot);
            n += 1;
        }
        q.region = reader.region;
        // SAFETY: so many were just written.
        let slots = unsafe { slots[..n].assume_init_ref() };

        if Word(words).flags() & FLAG_NEXT == 0 {
            for slot in slots {
                if slot.len() == 0 {
                    burst.drop(Dropped::Count(1), Reason::RxBadDescriptor);
                } else if slot.len() > max {
                    burst.drop(Dropped::Count(1), Reason::RxTooBig);
                } else {
                    // SAFETY: `read` found the piece within a region that `shared` keeps mapped; there is room, as `n` is
                    // at most `burst.room()`.
                    unsafe { burst.push(slot.ptr.as_ptr(), slot.len(), 0) };
                }
            }
            q.next = q.next.wrapping_add(n as u16);
        } else {
            bad |= !receive_chains::<CLIENT>(q, burst, slots, available, max);
        }
        if bad {
            burst.drop(Dropped::Count(1), Reason::RxBadDescriptor);
            q.fault("a bad descriptor");
        }
    }

    fn release(&mut self, _burst: &mut Burst) {
        if CLIENT {
            self.0.offer()
        } else {
            self.0.ring.tail().store(self.0.next, Ordering::Release)
        }
        let Queue { ring, next, peer, .. } = self.0;
        // The next burst's descriptors, if the peer is known to have filled them: before that it would have to fetch them back.
        if usize::from(peer.wrapping_sub(next)) >= BURST {
            for line in 0..=BURST / A_LINE {
                prefetch_read(ring.desc(next.wrapping_add((line * A_LINE) as u16)));
            }
        }
    }

    fn watched(&self) -> *const u8 {
        let ring = &self.0.ring;
        if CLIENT { ring.tail() } else { ring.head() }.as_ptr().cast()
    }
}

/// Receives when some of the descriptors in `slots` have a successor. Whether all were in order. A chain whose end is not published yet stays
/// in the ring, as peers may publish descriptors one by one: its sender waits for nobody but itself.
#[cold]
fn receive_chains<const CLIENT: bool>(
    q: &mut Queue,
    burst: &mut Burst,
    slots: &[Slot],
    available: u16,
    max: u32,
) -> bool {
    let (base, n) = (q.next, slots.len());
    let mut i = 0;
    let mut parts = [Slot::EMPTY; CHAIN_MAX + 1];
    while i < n {
        let (mut count, mut len) = (0, 0);
        loop {
            if count > CHAIN_MAX {
                return false;
            }
            if i >= available as usize {
                return true;
            }
            let next = || q.read::<CLIENT, true>(base.wrapping_add(i as u16));
            let slot = slots.get(i).copied().or_else(next);
            let Some(slot) = slot else { return false };
            parts[count] = slot;
            count += 1;
            i += 1;
            len += u64::from(slot.len());
            if slot.word.flags() & FLAG_NEXT == 0 {
                break;
            }
        }
        q.next = base.wrapping_add(i as u16);
        if len == 0 {
            burst.drop(Dropped::Count(1), Reason::RxBadDescriptor);
        } else if len > max.into() {
            burst.drop(Dropped::Count(1), Reason::RxTooBig);
        } else {
            // SAFETY: as in `receive`: the parts are within regions; frames are at most `n`.
            unsafe {
                burst.push(parts[0].ptr.as_ptr(), parts[0].len(), 0);
                for part in &parts[1..count] {
                    burst.chain(part.ptr.as_ptr(), part.len());
                }
            }
        }
    }
    true
}

impl<const CLIENT: bool> TxQueue<CLIENT> {
    /// How many descriptors can be filled, by the peer's index as last read.
    #[inline(always)]
    fn seen(&self) -> usize {
        let q = &self.0;
        let n =
            if CLIENT { q.ring.size().wrapping_sub(q.next.wrapping_sub(q.peer)) } else { q.peer.wrapping_sub(q.next) };
        n.into()
    }

    /// Reads the peer's index; how many descriptors can be filled.
    #[inline(always)]
    fn free(&mut self) -> Result<usize, &'static str> {
        let q = &mut self.0;
        q.peer = if CLIENT { q.ring.tail() } else { q.ring.head() }.load(Ordering::Acquire);
        let free = self.seen();
        if free > self.0.ring.size().into() { Err("the ring's index jumped") } else { Ok(free) }
    }

    /// As [`Tx::send`] for at most [`BURST`] frames. Whether the peer kept the rules.
    #[inline(always)]
    fn send_some(&mut self, burst: &mut Burst, frames: &[u16], sent: &mut Sent) -> Result<(), &'static str> {
        // What was free when last asked still is: only we use it up.
        let mut free = self.seen();
        if free < frames.len() {
            free = self.free()?;
        }
        let q = &mut self.0;
        let max = q.shared.max_frame.load(Ordering::Relaxed) as usize;
        let base = q.next;
        let ready = free.min(frames.len()).min(BURST);
        let place = (q.region, q.shared.regions.extent(q.region));
        let mut slots = NO_SLOTS;
        let slots = &mut slots[..ready];
        // SAFETY: AVX2 is in the baseline.
        if CLIENT || unsafe { plain::read::<false>(q.ring, base, place, 0, slots) }.is_none() {
            let mut reader = q.reader();
            for (place, i) in slots.iter_mut().zip(0..) {
                let slot = reader.read::<CLIENT, false>(base.wrapping_add(i)).ok_or("a bad descriptor")?;
                prefetch_write(slot.ptr.as_ptr());
                place.write(slot);
            }
            q.region = reader.region;
        }
        // SAFETY: all were written, by this loop or before it.
        let slots = unsafe { slots.assume_init_mut() };
        let ring = q.ring;

        // Nearly always each frame fits the buffer that was prepared for it. Bodies are a loop of their own: frames that have none are
        // written without a call.
        let (mut used, mut bytes, mut bodies) = (0, 0, false);
        for (&i, slot) in frames.iter().zip(&mut *slots) {
            let frame = burst.frame(i);
            let len = frame.len();
            if len > max.min(slot.len() as usize) {
                break;
            }
            // SAFETY: `read` found `slot.len` bytes within a region that `shared` keeps mapped, and the frame has no
            // more; its pieces are in other buffers than those the peer offered to be filled, or the peer's frame is
            // the peer's loss.
            bodies |= unsafe { write_head(frame, slot.ptr.as_ptr()) };
            slot.word = Word::new(0, slot.word.region(), len as u32);
            used += 1;
            bytes += len as u64;
        }
        if bodies {
            // SAFETY: as above.
            unsafe { write_bodies(burst, frames[..used].iter().zip(&*slots).map(|(&i, slot)| (i, slot.ptr.as_ptr()))) };
        }
        // The descriptors at last, all at once: the peer is at work on those before them, and has their cache lines again and again.
        for (slot, i) in slots[..used].iter().zip(0..) {
            ring.write_word(base.wrapping_add(i), slot.word);
        }
        sent.packets += used as u32;
        sent.bytes += bytes;
        if used < frames.len() {
            (used, free) = self.send_rest(burst, frames, slots, (used, free), sent)?;
        }

        let q = &mut self.0;
        if used != 0 {
            q.next = base.wrapping_add(used as u16);
            if CLIENT { q.ring.head() } else { q.ring.tail() }.store(q.next, Ordering::Release);
            if q.asleep() {
                q.interrupt.raise();
            }
            // The next burst's descriptors, as far as the peer is known to have filled them: owned by the time they are used, in one
            // transfer instead of one to read and one to write.
            let ahead = free.saturating_sub(used).min(BURST);
            for i in (0..ahead).step_by(A_LINE) {
                prefetch_write(q.ring.desc(q.next.wrapping_add(i as u16)));
            }
        }
        Ok(())
    }

    /// Goes on from the frame that does not fit its buffer, or has none; the `used` before it do. How many descriptors are used
    /// in the end, of how many that were free.
    #[cold]
    #[inline(never)]
    fn send_rest(
        &mut self,
        burst: &mut Burst,
        frames: &[u16],
        slots: &[Slot],
        (mut used, mut free): (usize, usize),
        sent: &mut Sent,
    ) -> Result<(usize, usize), &'static str> {
        let max = self.0.shared.max_frame.load(Ordering::Relaxed) as usize;
        let base = self.0.next;
        let mut asked = false;
        for &i in &frames[used..] {
            let frame = burst.frame(i);
            let len = frame.len();
            if len > max {
                burst.drop(i, Reason::TxTooBig);
                continue;
            }
            let q = &mut self.0;
            if let Some(slot) = slots.get(used).filter(|slot| len <= slot.len() as usize) {
                // SAFETY: as in `send_some`.
                unsafe { write_frame(burst, frame, slot.ptr.as_ptr()) };
                q.ring.write(base.wrapping_add(used as u16), 0, slot.word.region(), len as u32);
                used += 1;
            } else {
                // The room may not do after all, for there are frames that need several buffers: looks again, once a burst.
                if !asked {
                    asked = true;
                    free = self.free()?;
                }
                if used >= free {
                    burst.drop(i, Reason::TxRingFull);
                    continue;
                }
                match self.0.send_chained::<CLIENT>(burst, frame, base, slots, used, free)? {
                    Ok(n) => used += n,
                    Err(reason) => {
                        burst.drop(i, reason);
                        continue;
                    }
                }
            }
            sent.packets += 1;
            sent.bytes += len as u64;
        }
        Ok((used, free))
    }
}

impl Queue {
    /// Writes a frame that needs several buffers, or for which none was prepared, to those from `used` on. How many it took,
    /// or why it was dropped.
    #[cold]
    fn send_chained<const CLIENT: bool>(
        &mut self,
        burst: &Burst,
        frame: &Frame,
        base: u16,
        slots: &[Slot],
        used: usize,
        free: usize,
    ) -> Result<Result<usize, Reason>, &'static str> {
        let mut parts = [Slot::EMPTY; CHAIN_MAX + 1];
        let (mut n, mut room) = (0, 0);
        while n == 0 || room < frame.len() {
            let i = used + n;
            if n > CHAIN_MAX {
                return Ok(Err(Reason::TxTooBig));
            }
            if i >= free {
                return Ok(Err(Reason::TxRingFull));
            }
            let next = || self.read::<CLIENT, false>(base.wrapping_add(i as u16));
            let slot = slots.get(i).copied().or_else(next).ok_or("a bad descriptor")?;
            if slot.len() == 0 {
                return Err("a buffer of no length");
            }
            parts[n] = slot;
            n += 1;
            room += slot.len() as usize;
        }
        let mut filled = parts.map(|part| (part.ptr, part.len()));
        // SAFETY: the parts are within regions (`read`) and have room for the whole frame; else as in `send_some`.
        unsafe { scatter(&[], burst, frame, &mut filled[..n]) };
        for (i, (part, (_, len))) in parts.iter().zip(filled).take(n).enumerate() {
            let flags = if i + 1 < n { FLAG_NEXT } else { 0 };
            self.ring.write(base.wrapping_add((used + i) as u16), flags, part.word.region(), len);
        }
        Ok(Ok(n))
    }
}

impl<const CLIENT: bool> Tx for TxQueue<CLIENT> {
    fn send(&mut self, burst: &mut Burst, frames: &[u16]) -> Sent {
        let mut sent = Sent::default();
        for frames in frames.chunks(BURST) {
            if !self.0.good() {
                burst.drop(frames, Reason::TxLinkDown);
                continue;
            }
            let before = (sent, burst.tx_drops.total());
            if let Err(what) = self.send_some(burst, frames, &mut sent) {
                // Nothing of this burst was published.
                self.0.fault(what);
                sent = before.0;
                let named = burst.tx_drops.total() - before.1;
                burst.drop(Dropped::Count(frames.len() as u32 - named), Reason::TxBadDescriptor);
            }
        }
        sent
    }
}

/// A transmit queue that several workers share.
struct SharedTx(Arc<Mutex<Box<dyn Tx>>>);

impl Tx for SharedTx {
    fn send(&mut self, burst: &mut Burst, frames: &[u16]) -> Sent {
        match self.0.lock() {
            Ok(mut tx) => tx.send(burst, frames),
            Err(_) => {
                burst.drop(frames, Reason::TxLinkDown);
                Sent::default()
            }
        }
    }
}

/// One handle for each of `n` workers. With fewer rings than workers, workers share rings behind a lock.
fn handles(rings: Vec<Box<dyn Tx>>, n: usize) -> Vec<Box<dyn Tx>> {
    if rings.is_empty() {
        return Vec::new();
    }
    if rings.len() >= n {
        return rings.into_iter().take(n).collect();
    }
    let shared: Vec<_> = rings.into_iter().map(|tx| Arc::new(Mutex::new(tx))).collect();
    (0..n).map(|i| Box::new(SharedTx(shared[i % shared.len()].clone())) as Box<dyn Tx>).collect()
}

/// A ring as its `ADD_RING` message tells it.
pub(crate) struct RingSpec {
    pub region: u16,
    pub offset: u32,
    pub log2: u8,
    pub event: OwnedFd,
}

/// The queues of one side of a link, and who wakes its peer.
pub(crate) type Queues = (Vec<Box<dyn Rx>>, TxQueues, Kicker);

/// A server's queues on the rings that its client described.
///
/// # Errors
/// What is wrong with a ring.
pub(crate) fn server_queues(shared: &Arc<Shared>, s2m: Vec<RingSpec>, m2s: Vec<RingSpec>) -> Result<Queues, String> {
    let open = |spec: RingSpec, name: String| -> Result<Queue, String> {
        let ring =
            Ring::new(&shared.regions, spec.region, spec.offset, spec.log2).map_err(|e| format!("{name}: {e}"))?;
        if !ring.check_cookie() {
            return Err(format!("{name}: wrong cookie"));
        }
        Ok(Queue::new(ring, shared, None, spec.event, name))
    };
    let mut rx: Vec<Box<dyn Rx>> = Vec::new();
    for (i, spec) in s2m.into_iter().enumerate() {
        let queue = open(spec, format!("ring s2m {i}"))?;
        queue.ring.flags().store(MASK_INT, Ordering::Release);
        rx.push(Box::new(RxQueue::<false>(queue)));
    }
    let mut tx: Vec<Box<dyn Tx>> = Vec::new();
    let mut interrupts = Vec::new();
    for (i, spec) in m2s.into_iter().enumerate() {
        let queue = open(spec, format!("ring m2s {i}"))?;
        interrupts.push(queue.interrupt.clone());
        tx.push(Box::new(TxQueue::<false>(queue)));
    }
    Ok((rx, TxQueues::new(|n| handles(tx, n)), Kicker::new(interrupts)))
}

/// A client's queues on its rings.
pub(crate) fn client_queues(rings: ClientRings) -> Queues {
    rings.offer_again();
    let kicker = Kicker::new(rings.s2m.iter().map(|q| q.interrupt.clone()).collect());
    let rx = rings.m2s.into_iter().map(|q| Box::new(RxQueue::<true>(q)) as Box<dyn Rx>);
    let tx: Vec<_> = rings.s2m.into_iter().map(|q| Box::new(TxQueue::<true>(q)) as Box<dyn Tx>).collect();
    (rx.collect(), TxQueues::new(|n| handles(tx, n)), kicker)
}

/// A client's rings.
pub(crate) struct ClientRings {
    s2m: Vec<Queue>,
    m2s: Vec<Queue>,
}

impl ClientRings {
    /// Writes the indices once more, when the server is connected: DPDK's zeroes them as it connects.
    fn offer_again(&self) {
        for q in &self.m2s {
            q.ring.head().store(q.offered, Ordering::Release);
        }
    }
}

/// Makes a client's rings in its own memory, which was made for `layout`: S2M empty, M2S with all buffers on offer and interrupts
/// masked. `events` are their eventfds, S2M first.
pub(crate) fn client_rings(shared: &Arc<Shared>, layout: Layout, events: Vec<OwnedFd>) -> ClientRings {
    let mut rings = ClientRings { s2m: Vec::new(), m2s: Vec::new() };
    for (i, event) in (0..layout.s2m + layout.m2s).zip(events) {
        let (ring, buffers) = layout.client(&shared.regions, i);
        if i < layout.s2m {
            rings.s2m.push(Queue::new(ring, shared, Some(buffers), event, format!("ring s2m {i}")));
        } else {
            let name = format!("ring m2s {}", i - layout.s2m);
            let mut queue = Queue::new(ring, shared, Some(buffers), event, name);
            ring.flags().store(MASK_INT, Ordering::Release);
            queue.offer();
            rings.m2s.push(queue);
        }
    }
    rings
}

/// A client's transmit ring for tools: frames are prepared in its buffers and published without touching them again.
/// It trusts its server: waking one that sleeps may block.
pub struct RawTx(Queue);

/// A client's receive ring for tools: frames are looked at where they arrived.
pub struct RawRx(Queue);

/// A client's raw rings.
pub(crate) fn raw_queues(rings: ClientRings) -> (Vec<RawTx>, Vec<RawRx>) {
    rings.offer_again();
    (rings.s2m.into_iter().map(RawTx).collect(), rings.m2s.into_iter().map(RawRx).collect())
}

impl RawTx {
    /// Descriptors, and buffers.
    pub fn size(&self) -> u16 {
        self.0.ring.size()
    }

    /// Bytes of a buffer.
    pub fn buffer_size(&self) -> usize {
        self.0.own.map_or(0, |own| own.size as usize)
    }

    /// The slot (index of a buffer) that is published next.
    #[inline]
    pub fn next(&self) -> u16 {
        self.0.next & self.0.ring.mask
    }

    /// How many slots are free. 0 when the peer broke the ring.
    #[inline]
    pub fn free(&mut self) -> u16 {
        self.0.peer = self.0.ring.tail().load(Ordering::Acquire);
        let busy = self.0.next.wrapping_sub(self.0.peer);
        self.0.ring.size().saturating_sub(busy)
    }

    /// Copies `frame` into the buffer of `slot` (modulo the ring's size) at byte `at`, and as much as fits.
    #[inline]
    pub fn write(&mut self, slot: u16, at: usize, frame: &[u8]) {
        let Some(own) = &self.0.own else { return };
        let at = at.min(own.size as usize);
        let n = frame.len().min(own.size as usize - at);
        // SAFETY: `at + n` is at most the buffer's size; `frame` is private memory.
        unsafe { copy(frame.as_ptr(), own.at(slot & self.0.ring.mask).as_ptr().add(at), n) }
    }

    /// Makes the frame in `slot` `len` bytes long, in its own buffer (as it is not after [`RawTx::fill`]); `more`: it goes on in the
    /// next slot. This stays so until it is set again.
    #[inline]
    pub fn set_len(&mut self, slot: u16, len: u32, more: bool) {
        let Some(own) = &self.0.own else { return };
        let slot = slot & self.0.ring.mask;
        self.0.ring.write(slot, u16::from(more) & FLAG_NEXT, 0, len);
        self.0.ring.write_offset(slot, own.offset + u32::from(slot) * own.stride);
    }

    /// Hands the next `n` slots (at most [`RawTx::free`]) to the peer.
    #[inline]
    pub fn publish(&mut self, n: u16) {
        self.0.next = self.0.next.wrapping_add(n);
        self.0.ring.head().store(self.0.next, Ordering::Release);
        self.wake();
    }

    /// Sends a copy of `frame`, over several buffers if need be. `false` if there is no room (now, or ever if it is longer than all
    /// buffers together).
    pub fn send(&mut self, frame: &[u8]) -> bool {
        let size = self.buffer_size();
        let n = frame.len().div_ceil(size).max(1);
        if n > self.free() as usize {
            return false;
        }
        for (i, part) in frame.chunks(size).enumerate() {
            let slot = self.next().wrapping_add(i as u16);
            self.write(slot, 0, part);
            self.set_len(slot, part.len() as u32, i + 1 < n);
        }
        self.publish(n as u16);
        true
    }

    /// Writes whatever it is given into a descriptor, for tests of the other side.
    #[doc(hidden)]
    pub fn set_raw(&mut self, slot: u16, words: [u64; 2]) {
        let p = self.0.ring.desc(slot);
        // SAFETY: `desc` is within the ring and aligned to 16 bytes.
        unsafe {
            p.write_volatile(words[0]);
            p.add(1).write_volatile(words[1]);
        }
    }

    /// Writes whatever it is given as head, for tests of the other side.
    #[doc(hidden)]
    pub fn set_head(&mut self, head: u16) {
        self.0.next = head;
        self.0.ring.head().store(head, Ordering::Release);
    }
}

/// A received piece, where it arrived. The peer can still change it.
pub struct Peek<'a> {
    slot: Slot,
    queue: std::marker::PhantomData<&'a RawRx>,
}

impl Peek<'_> {
    /// Length in bytes.
    #[inline]
    pub fn len(&self) -> usize {
        self.slot.len() as usize
    }

    /// Whether there are no bytes.
    pub fn is_empty(&self) -> bool {
        self.slot.len() == 0
    }

    /// Whether the frame goes on in the next slot.
    #[inline]
    pub fn more(&self) -> bool {
        self.slot.word.flags() & FLAG_NEXT != 0
    }

    /// Copies the bytes from `at` on to `to`; how many there were.
    #[inline]
    pub fn read(&self, at: usize, to: &mut [u8]) -> usize {
        let at = at.min(self.len());
        let n = to.len().min(self.len() - at);
        // SAFETY: `at + n` is at most the piece's length, which was found within its buffer; the queue, and so the memory,
        // is borrowed; `to` is private memory.
        unsafe { copy(self.slot.ptr.as_ptr().add(at), to.as_mut_ptr(), n) };
        n
    }
}

impl RawRx {
    /// Descriptors, and buffers.
    pub fn size(&self) -> u16 {
        self.0.ring.size()
    }

    /// How many slots have arrived and were not given back. 0 when the peer broke the ring.
    #[inline]
    pub fn available(&mut self) -> u16 {
        self.0.peer = self.0.ring.tail().load(Ordering::Acquire);
        let n = self.0.peer.wrapping_sub(self.0.next);
        if n > self.0.ring.size() { 0 } else { n }
    }

    /// The `i`th slot that was not given back; a length beyond the buffer's reads as 0.
    #[inline]
    pub fn peek(&self, i: u16) -> Peek<'_> {
        let slot = self.0.read::<true, true>(self.0.next.wrapping_add(i)).unwrap_or(Slot::EMPTY);
        Peek { slot, queue: std::marker::PhantomData }
    }

    /// Gives the first `n` slots (at most [`RawRx::available`]) back to the peer, to be filled again.
    #[inline]
    pub fn give_back(&mut self, n: u16) {
        self.0.next = self.0.next.wrapping_add(n);
        self.0.offer();
    }

    /// Receives a frame into `to`, cut if it is longer; its length, if there was one.
    pub fn recv(&mut self, to: &mut [u8]) -> Option<usize> {
        let available = self.available();
        let (mut n, mut len) = (0, 0);
        while n < available {
            let piece = self.peek(n);
            len += piece.read(0, &mut to[len..]);
            let more = piece.more();
            n += 1;
            if !more {
                break;
            }
        }
        self.give_back(n);
        (n != 0).then_some(len)
    }
}
