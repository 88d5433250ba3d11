//! Rings, split and packed: reading and writing what is shared with a driver, at burst granularity.
//!
//! A driver can write anything anywhere at any time. So every index, descriptor and header is read once, checked, and used from the
//! private copy. Everything is completed in the order in which it was made available, burst by burst, so one position says all
//! about a ring.
#![allow(unsafe_code)]

mod packed;
mod split;

use super::fault::Fault;
use super::features::{self, F_RING_PACKED, F_VERSION_1, NET_F_MRG_RXBUF, RING_F_EVENT_IDX};
use super::memory::{DirtyLog, Memory, Span};
use crate::mem::guard;
use crate::scatter::scatter;
use dray_switch::burst::{BURST, CHAIN_MAX, GSO_MAX, HEAD_MAX};
use dray_switch::mem::{prefetch_read, prefetch_write, write_frame};
use dray_switch::offload::Gso;
use dray_switch::virtio_net::{self as header, LONG, PLAIN, SHORT};
use dray_switch::{Burst, Drop as Reason, Dropped, Sent};
use packed::Packed;
use split::Split;
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering, fence};

/// The most descriptors of a ring (virtio 1.2, sections 2.7 and 2.8).
pub(super) const SIZE_MAX: u32 = 32_768;

/// Bytes of a descriptor, of either layout.
const DESC: u64 = 16;
/// The chain goes on.
const NEXT: u16 = 1;
/// The device writes the buffer.
const WRITE: u16 = 2;
/// The buffer is a table of descriptors.
const INDIRECT: u16 = 4;

/// The longest chain, descriptors: a header of its own and as many pieces as a frame may have, twice.
const CHAIN: usize = 128;
/// Descriptors that are looked at for a burst, beyond those of its last chain. Chains behind that come with the next burst: so no
/// burst takes much longer than that of another queue. Four for each frame is more than most drivers use.
const DESCS: usize = 256;

/// Buffers that a frame of so many bytes, with its header, may be spread over. With smaller ones, looking for them would take longer than
/// copying what they hold.
fn pieces(bytes: usize) -> usize {
    16 + bytes / 128
}

/// What a driver did wrong.
pub(super) type Bad = (Fault, &'static str);

/// What a ring is made of, as messages told it.
#[derive(Clone, Debug, Default)]
pub(super) struct RingConfig {
    /// Its index: even ones the driver receives on, odd ones it sends on.
    pub index: u16,
    /// Descriptors, not yet checked.
    pub size: u32,
    /// The negotiated features.
    pub features: u64,
    /// The front end's own addresses of descriptor table, available and used ring (packed: driver and device event suppression).
    pub desc: u64,
    pub avail: u64,
    pub used: u64,
    /// Guest-physical address of the used ring, if writes to it are to be logged.
    pub log_used: Option<u64>,
    /// Where to begin, as `SET_VRING_BASE` has it.
    pub base: u32,
}

/// Chains that are looked at together after one did not do for a frame: those behind it were looked at in vain.
const FEW: usize = 8;

/// Guest-physical memory, with the piece of it that was last used.
struct Space {
    memory: Arc<Memory>,
    span: Span,
}

impl Space {
    /// Where the `len` bytes at guest-physical address `gpa` are.
    #[inline(always)]
    fn at(&mut self, gpa: u64, len: u32) -> Result<NonNull<u8>, Bad> {
        match self.span.at(gpa, len) {
            Some(ptr) => Ok(ptr),
            None => self.look(gpa, len),
        }
    }

    #[cold]
    fn look(&mut self, gpa: u64, len: u32) -> Result<NonNull<u8>, Bad> {
        const BAD: Bad = (Fault::Descriptor, "a descriptor names memory outside the regions");
        self.span = self.memory.span(gpa).ok_or(BAD)?;
        self.span.at(gpa, len).ok_or(BAD)
    }
}

/// A chain of descriptors that was made available. Of one descriptor, `ptr` and `len` are its buffer; of others it has to be walked.
#[derive(Clone, Copy)]
struct Head {
    ptr: NonNull<u8>,
    len: u32,
    /// By which it is given back in a packed ring.
    id: u16,
    /// Places it takes there.
    slots: u16,
}

impl Head {
    const EMPTY: Head = Head { ptr: NonNull::dangling(), len: 0, id: 0, slots: 1 };
}

// SAFETY: an address in memory that the ring holds; nothing in it is tied to a thread.
unsafe impl Send for Head {}

/// Chains that were made available: how many, and a bit for each that has to be walked.
#[derive(Clone, Copy, Default)]
struct Heads {
    n: usize,
    walk: u64,
}

impl Heads {
    /// How many there are before the first that has to be walked.
    #[inline(always)]
    fn straight(self) -> usize {
        self.n.min(self.walk.trailing_zeros() as usize)
    }
}

/// The buffers of chains that were walked.
#[derive(Default)]
struct Parts {
    list: Vec<(NonNull<u8>, u32)>,
    gpas: Vec<u64>,
    /// Bytes of all.
    bytes: usize,
    /// No more descriptors are looked at when there are so many bytes.
    need: usize,
}

impl Parts {
    /// Begins anew, with what is enough.
    fn clear(&mut self, need: usize) {
        self.list.clear();
        self.gpas.clear();
        (self.bytes, self.need) = (0, need);
    }

    /// Whether there is enough.
    fn enough(&self) -> bool {
        self.bytes >= self.need
    }

    /// Adds what a descriptor names; `writable`: as it should be.
    fn add(&mut self, space: &mut Space, addr: u64, len: u32, flags: u16, writable: bool) -> Result<(), Bad> {
        if len == 0 {
            return Err((Fault::Descriptor, "a descriptor of no length"));
        }
        if (flags & WRITE != 0) != writable {
            return Err((Fault::Descriptor, "a descriptor for the wrong direction"));
        }
        self.list.push((space.at(addr, len)?, len));
        self.gpas.push(addr);
        self.bytes += len as usize;
        Ok(())
    }
}

/// Where an indirect table is, and its descriptors.
fn table(space: &mut Space, addr: u64, len: u32, flags: u16) -> Result<(NonNull<u8>, u32), Bad> {
    if flags & NEXT != 0 {
        return Err((Fault::Chain, "an indirect table in the middle of a chain"));
    }
    if len == 0 || !len.is_multiple_of(DESC as u32) || !addr.is_multiple_of(DESC) {
        return Err((Fault::Chain, "an indirect table of a length or at an address that is no multiple of 16"));
    }
    Ok((space.at(addr, len)?, len / DESC as u32))
}

enum Layout {
    Split(Split),
    Packed(Packed),
}

/// Calls a method of whichever layout it is.
macro_rules! each {
    ($layout:expr, $ring:ident => $call:expr) => {
        match $layout {
            Layout::Split($ring) => $call,
            Layout::Packed($ring) => $call,
        }
    };
}

/// A ring that was started.
pub(super) struct Ring {
    config: RingConfig,
    space: Space,
    layout: Layout,
    /// Bytes of the header before a frame.
    header: u32,
    mergeable: bool,
    log: Option<Arc<DirtyLog>>,
    /// [`guard::faults`] as last seen.
    faults: usize,
    /// Whether the driver was ever seen to want an interrupt.
    sleeps: bool,
    heads: [Head; BURST],
    /// Those of a received burst that are still to be given back.
    received: usize,
    parts: Parts,
}

// SAFETY: the addresses in a ring are of memory that it holds through `space`; nothing in it is tied to a thread.
unsafe impl Send for Ring {}

impl Ring {
    /// Starts a ring.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn start(config: &RingConfig, memory: Arc<Memory>, log: Option<Arc<DirtyLog>>) -> Result<Ring, String> {
        let has = |bit: u64| config.features & bit != 0;
        if config.size == 0 || config.size > SIZE_MAX {
            return Err(format!("ring {} of {} descriptors (1 to {SIZE_MAX} are taken)", config.index, config.size));
        }
        let layout = Self::resolve(config, &memory)?;
        let mut ring = Ring {
            config: config.clone(),
            space: Space { memory, span: Span::EMPTY },
            layout,
            header: if has(F_VERSION_1 | NET_F_MRG_RXBUF) { LONG } else { SHORT } as u32,
            mergeable: has(NET_F_MRG_RXBUF),
            log,
            faults: guard::faults(),
            sleeps: false,
            heads: [Head::EMPTY; BURST],
            received: 0,
            parts: Parts::default(),
        };
        each!(&mut ring.layout, r => r.begin(config.base));
        ring.log_flags();
        Ok(ring)
    }

    fn resolve(config: &RingConfig, memory: &Memory) -> Result<Layout, String> {
        let layout = if config.features & F_RING_PACKED != 0 {
            Packed::new(config, memory).map(Layout::Packed)
        } else {
            Split::new(config, memory).map(Layout::Split)
        };
        layout.map_err(|what| format!("ring {}: {what}", config.index))
    }

    /// What it was made of.
    pub fn config(&self) -> &RingConfig {
        &self.config
    }

    /// Where it would go on, as `GET_VRING_BASE` wants it.
    pub fn base(&self) -> u32 {
        each!(&self.layout, r => r.base())
    }

    /// Goes on with other memory.
    ///
    /// # Errors
    /// If the ring is not in it; it must not be used any more.
    pub fn set_memory(&mut self, memory: Arc<Memory>) -> Result<(), String> {
        let base = self.base();
        self.layout = Self::resolve(&self.config, &memory)?;
        each!(&mut self.layout, r => r.go_on(base));
        self.space = Space { memory, span: Span::EMPTY };
        Ok(())
    }

    /// Logs writes from now on, or doesn't; `log_used` as in [`RingConfig`].
    pub fn set_log(&mut self, log: Option<Arc<DirtyLog>>, log_used: Option<u64>) {
        self.log = log;
        self.config.log_used = log_used;
        self.log_flags();
    }

    /// Whether memory that it uses was found gone. Once a burst.
    #[inline(always)]
    fn check_memory(&mut self) -> Result<(), Bad> {
        let faults = guard::faults();
        if faults != self.faults {
            self.faults = faults;
            if let Some(lost) = self.lost() {
                return Err(lost);
            }
        }
        Ok(())
    }

    #[cold]
    fn lost(&self) -> Option<Bad> {
        let lost = self.space.memory.lost().or_else(|| self.log.as_ref()?.lost())?;
        Some((Fault::Memory, lost.text()))
    }

    /// What the driver is to be blamed for, when `bad` was found: what is read of memory that is gone looks like other mistakes.
    #[cold]
    pub fn blame(&self, bad: Bad) -> Bad {
        self.lost().unwrap_or(bad)
    }

    /// Appends frames that the driver sent to `burst`; none is longer than `max` but those that are to be segmented.
    ///
    /// # Errors
    /// What the driver did wrong. Nothing of the ring is used any more.
    pub fn receive(&mut self, burst: &mut Burst, max: u32) -> Result<(), Bad> {
        self.check_memory()?;
        let room = burst.room();
        let ready = each!(&mut self.layout, r => r.gather::<false>(&mut self.space, &mut self.heads, room))?;
        self.received = ready.n;
        // Nearly always each frame is one buffer, of which nothing is left to be done.
        // SAFETY: `gather` found the heads' bytes in the ring's memory, which stays mapped until the burst is released, for nobody changes it
        // while a worker is behind the gate; there is room, as `n` is at most `burst.room()`.
        let plain = unsafe { receive_plain(&self.heads[..ready.straight()], self.header, max, burst) };
        if plain < ready.n { self.receive_rest(burst, max, plain, ready) } else { Ok(()) }
    }

    /// Goes on from the frame of chain number `from`, for which that doesn't do.
    #[cold]
    #[inline(never)]
    fn receive_rest(&mut self, burst: &mut Burst, max: u32, from: usize, Heads { n, walk }: Heads) -> Result<(), Bad> {
        self.received = from;
        let header = self.header;
        let mut looked = 0;
        let mut place = self.heads[..from].iter().map(|head| head.slots).sum();
        for i in from..n {
            let Head { ptr, len, slots, .. } = self.heads[i];
            if walk >> i & 1 != 0 {
                if looked >= DESCS {
                    self.received = i;
                    return Ok(());
                }
                self.parts.clear(usize::MAX);
                let head = self.heads[i];
                each!(&self.layout, r => r.walk::<false>(&mut self.space, head, place, &mut self.parts))?;
                looked += self.parts.list.len();
                self.receive_parts(burst, max)?;
                place += slots;
                continue;
            }
            place += slots;
            if len < header {
                return Err((Fault::Chain, "a chain shorter than its header"));
            }
            // SAFETY: `gather` found `len` bytes, which are at least the header, in the ring's memory; a packed array of one
            // word needs no alignment.
            let first = unsafe { ptr.cast::<Unaligned>().read_volatile().0 };
            if header::asks(first) {
                self.parts.clear(usize::MAX);
                self.parts.list.push((ptr, len));
                self.receive_parts(burst, max)?;
            } else if len == header {
                burst.drop(Dropped::Count(1), Reason::RxBadDescriptor);
            } else if len - header > max {
                burst.drop(Dropped::Count(1), Reason::RxTooBig);
            } else {
                // SAFETY: as above; the memory stays mapped until the burst is released, for nobody changes it while a worker
                // is behind the gate; there is room, as `n` is at most `burst.room()`.
                unsafe { burst.push(ptr.as_ptr().add(header as usize), len - header, 0) };
            }
        }
        self.received = n;
        Ok(())
    }

    /// Takes what the driver sent, to be given back unread.
    ///
    /// # Errors
    /// As [`Ring::receive`].
    #[cold]
    pub fn discard(&mut self, burst: &mut Burst) -> Result<(), Bad> {
        self.check_memory()?;
        let Heads { n, .. } =
            each!(&mut self.layout, r => r.gather::<false>(&mut self.space, &mut self.heads, burst.room()))?;
        burst.drop(Dropped::Count(n as u32), Reason::RxDisabled);
        self.received = n;
        Ok(())
    }

    /// Receives the frame in `self.parts`, before which is its header.
    #[cold]
    fn receive_parts(&mut self, burst: &mut Burst, max: u32) -> Result<(), Bad> {
        let mut header = [0; LONG];
        let (mut have, mut first) = (0, 0);
        while have < self.header as usize {
            let Some((ptr, len)) = self.parts.list.get_mut(first) else {
                return Err((Fault::Chain, "a chain shorter than its header"));
            };
            let n = (self.header as usize - have).min(*len as usize);
            // SAFETY: the part has `len` bytes in the ring's memory (`Parts::add`), and `header` has room for what is missing.
            unsafe {
                std::ptr::copy_nonoverlapping(ptr.as_ptr(), header[have..].as_mut_ptr(), n);
                *ptr = ptr.add(n);
            }
            *len -= n as u32;
            have += n;
            first += usize::from(*len == 0);
        }
        let parts = &self.parts.list[first..];
        let total: u64 = parts.iter().map(|part| u64::from(part.1)).sum();
        let Some(((ptr, len), rest)) = parts.split_first() else {
            burst.drop(Dropped::Count(1), Reason::RxBadDescriptor);
            return Ok(());
        };
        let asks = header::asks(u64::from_le_bytes(*header.first_chunk().expect("longer than 8")));
        let offload = header::read(&header);
        if asks && offload.is_none() {
            burst.drop(Dropped::Count(1), Reason::RxBadOffload);
            return Ok(());
        }
        let whole = if offload.is_some_and(|o| o.gso != Gso::None) { GSO_MAX as u64 } else { max.into() };
        if total > whole || rest.len() > CHAIN_MAX {
            burst.drop(Dropped::Count(1), Reason::RxTooBig);
            return Ok(());
        }
        let head_len = burst.head_len();
        if offload.is_some() {
            burst.set_head_len(HEAD_MAX);
        }
        // SAFETY: the parts are in the ring's memory, which stays mapped until the burst is released; there is room (`receive`), and
        // not more than CHAIN_MAX are chained.
        unsafe {
            burst.push(ptr.as_ptr(), *len, 0);
            for (ptr, len) in rest {
                burst.chain(ptr.as_ptr(), *len);
            }
        }
        burst.set_head_len(head_len);
        if let Some(offload) = offload {
            let head = burst.frame(burst.len() as u16 - 1).head();
            if !burst.set_offload(header::of_frame(offload, head)) {
                burst.drop(Dropped::Count(1), Reason::RxBadOffload);
            }
        }
        Ok(())
    }

    /// Gives back what was received last. Whether the driver wants an interrupt.
    #[inline(always)]
    pub fn release(&mut self) -> bool {
        let n = std::mem::take(&mut self.received);
        if n == 0 {
            return false;
        }
        each!(&mut self.layout, r => r.complete(&self.heads[..n], &[0; BURST]));
        self.publish()
    }

    /// Makes what was completed visible to the driver. Whether it wants an interrupt.
    #[inline(always)]
    fn publish(&mut self) -> bool {
        if self.log.is_some() {
            self.log_used();
        }
        each!(&mut self.layout, r => r.publish());
        self.wants_interrupt()
    }

    /// Whether the driver wants an interrupt for what was given back since it was last asked.
    #[inline(always)]
    fn wants_interrupt(&mut self) -> bool {
        // The order of "used index written, flags read" against the driver's "flags written, used index read" needs a full
        // fence. It costs a wait for all stores of the burst, so drivers that were never seen to want interrupts are spared
        // it. One that wants them later may be missed, until the port's thread looks (`Ring::asks`).
        if self.sleeps {
            fence(Ordering::SeqCst);
        }
        let event_idx = self.config.features & RING_F_EVENT_IDX != 0;
        let wants = each!(&mut self.layout, r => r.wants_interrupt(event_idx, self.sleeps));
        self.sleeps |= wants;
        wants
    }

    /// Whether the driver of a ring that was started wants interrupts, as it looks to another thread than the worker's: for what was
    /// given back within the last lap.
    pub fn asks(config: &RingConfig, memory: &Memory) -> bool {
        let event_idx = config.features & RING_F_EVENT_IDX != 0;
        Self::resolve(config, memory).is_ok_and(|layout| each!(&layout, r => r.asks(event_idx)))
    }

    /// Writes the frames of `burst` named by `frames` to the driver's buffers, none longer than `max` but those that are to be
    /// segmented. Whether the driver wants an interrupt.
    ///
    /// # Errors
    /// What the driver did wrong. Nothing of the ring is used any more, and nothing of this was sent.
    pub fn send(&mut self, burst: &mut Burst, frames: &[u16], sent: &mut Sent, max: u32) -> Result<bool, Bad> {
        self.check_memory()?;
        let header = self.header as usize;
        // Nearly always each frame fits the buffer of a chain, and nothing is left to be done to it.
        let mut used = 0;
        let plain = !burst.has_offloads() && self.log.is_none();
        if plain {
            let want = frames.len().min(BURST);
            let ready = each!(&mut self.layout, r => r.gather::<true>(&mut self.space, &mut self.heads, want))?;
            let mut lens = [0; BURST];
            for ((&i, head), written) in frames.iter().zip(&self.heads[..ready.straight()]).zip(&mut lens) {
                let frame = burst.frame(i);
                let len = frame.len();
                if len > max as usize || len + header > head.len as usize {
                    break;
                }
                // SAFETY: `gather` found `head.len` bytes in the ring's memory, and header and frame are not more. A packed word needs
                // no alignment. The frame is in other buffers than the driver offers to be filled, or its sender's loss.
                unsafe {
                    write_header(head.ptr, PLAIN, header);
                    write_frame(burst, frame, head.ptr.as_ptr().add(header));
                }
                *written = (len + header) as u32;
                used += 1;
            }
            each!(&mut self.layout, r => r.complete(&self.heads[..used], &lens));
            sent.packets += used as u32;
            sent.bytes += u64::from(lens.iter().sum::<u32>()) - (used * header) as u64;
        }
        let mut any = used != 0;
        if used < frames.len() {
            let look = if plain { FEW } else { frames.len() };
            any |= self.send_rest(burst, &frames[used..], sent, max, look)?;
        }
        Ok(any && self.publish())
    }

    /// Goes on from the frame for which that doesn't do, looking at so many chains first. Whether any was sent.
    #[cold]
    #[inline(never)]
    fn send_rest(
        &mut self,
        burst: &mut Burst,
        frames: &[u16],
        sent: &mut Sent,
        max: u32,
        mut look: usize,
    ) -> Result<bool, Bad> {
        let accepts = burst.has_offloads().then(|| features::accepts(self.config.features));
        let header = self.header as usize;
        let mut ready = Heads::default();
        let mut used = 0;
        let mut lens = [0u32; BURST];
        let mut any = false;
        let mut full = false;
        for (nth, &i) in frames.iter().enumerate() {
            let frame = burst.frame(i);
            let len = frame.len();
            let mut plain = PLAIN;
            let mut longest = max as usize;
            if let Some(accepts) = accepts
                && let Some(offload) = frame.offload()
            {
                if !accepts.takes(offload) {
                    // The driver has just negotiated anew.
                    burst.drop(i, Reason::TxLinkDown);
                    continue;
                }
                plain = header::write(offload, frame.head());
                if offload.gso != Gso::None {
                    longest = GSO_MAX;
                }
            }
            if len > longest {
                burst.drop(i, Reason::TxTooBig);
                continue;
            }
            if used == ready.n && !full {
                if used != 0 {
                    each!(&mut self.layout, r => r.complete(&self.heads[..used], &lens));
                }
                used = 0;
                let want = look.min(frames.len() - nth).min(BURST);
                ready = each!(&mut self.layout, r => r.gather::<true>(&mut self.space, &mut self.heads, want))?;
                full = ready.n == 0;
            }
            if full {
                burst.drop(i, Reason::TxRingFull);
                continue;
            }
            let head = self.heads[used];
            if ready.walk >> used & 1 == 0 && len + header <= head.len as usize && self.log.is_none() {
                // SAFETY: `gather` found `head.len` bytes in the ring's memory, and header and frame are not more. A packed word needs
                // no alignment. The frame is in other buffers than the driver offers to be filled, or its sender's loss.
                unsafe {
                    write_header(head.ptr, plain, header);
                    write_frame(burst, frame, head.ptr.as_ptr().add(header));
                }
                lens[used] = (len + header) as u32;
                used += 1;
            } else {
                if used != 0 {
                    each!(&mut self.layout, r => r.complete(&self.heads[..used], &lens));
                    any = true;
                }
                (used, ready, look) = (0, Heads::default(), FEW);
                match self.send_parts(burst, i, plain)? {
                    Ok(()) => {}
                    Err(reason) => {
                        full = reason == Reason::TxRingFull;
                        burst.drop(i, reason);
                        continue;
                    }
                }
            }
            any = true;
            sent.packets += 1;
            sent.bytes += len as u64;
        }
        if used != 0 {
            each!(&mut self.layout, r => r.complete(&self.heads[..used], &lens));
        }
        Ok(any)
    }

    /// Writes frame `i` with `header` to chains of several descriptors, or (mergeable) to several chains. Why it was dropped, if it
    /// was.
    #[cold]
    fn send_parts(&mut self, burst: &Burst, i: u16, mut header: [u8; LONG]) -> Result<Result<(), Reason>, Bad> {
        let frame = burst.frame(i);
        let total = frame.len() + self.header as usize;
        // Chains as far as they are needed, and where the parts of each begin.
        let mut ends = [0usize; BURST];
        self.parts.clear(total);
        let pieces = pieces(total);
        let most = if self.mergeable { pieces.min(BURST) } else { 1 };
        let Heads { n, .. } = each!(&mut self.layout, r => r.gather::<true>(&mut self.space, &mut self.heads, most))?;
        let (mut chains, mut place) = (0, 0);
        while !self.parts.enough() {
            if chains == n {
                // All there are, or all that a frame may take.
                let reason = if most == pieces { Reason::TxTooManyPieces } else { Reason::TxTooBig };
                return Ok(Err(if n == most { reason } else { Reason::TxRingFull }));
            }
            let head = self.heads[chains];
            each!(&self.layout, r => r.walk::<true>(&mut self.space, head, place, &mut self.parts))?;
            place += head.slots;
            if self.parts.list.len() > pieces {
                return Ok(Err(Reason::TxTooManyPieces));
            }
            ends[chains] = self.parts.list.len();
            chains += 1;
        }
        header[10..12].copy_from_slice(&(chains as u16).to_le_bytes());
        // SAFETY: the parts are in the ring's memory (`walk`) and have room for header and frame.
        unsafe { scatter(&header[..self.header as usize], burst, frame, &mut self.parts.list) };
        let mut lens = [0; BURST];
        let mut begin = 0;
        for (len, end) in lens.iter_mut().zip(ends).take(chains) {
            *len = self.parts.list[begin..end].iter().map(|part| part.1).sum();
            begin = end;
        }
        if let Some(log) = &self.log {
            for ((_, len), gpa) in self.parts.list.iter().zip(&self.parts.gpas) {
                log.mark(*gpa, u64::from(*len));
            }
        }
        each!(&mut self.layout, r => r.complete(&self.heads[..chains], &lens));
        Ok(Ok(()))
    }

    /// Logs what was written where completion is told: before it is seen.
    #[cold]
    fn log_used(&mut self) {
        if let Some(log) = &self.log {
            let from = self.config.log_used;
            each!(&mut self.layout, r => r.unlogged(from, |gpa, len| log.mark(gpa, len)));
        }
    }

    /// Logs the notification flags, which are written at the start.
    fn log_flags(&self) {
        if let Some(log) = &self.log {
            each!(&self.layout, r => r.flags_gpa(self.config.log_used, |gpa, len| log.mark(gpa, len)));
        }
    }
}

/// Appends the frames in `heads`, behind headers of so many bytes, to `burst`, up to the first that is longer than `max` or of which something
/// is left to be done. How many. A function of its own, for its loop needs all registers.
///
/// # Safety
/// As [`Burst::push`] for the bytes of each head.
#[inline(never)]
unsafe fn receive_plain(heads: &[Head], header: u32, max: u32, burst: &mut Burst) -> usize {
    let before = burst.len();
    let plain = heads.iter().map_while(|&Head { ptr, len, .. }| {
        // With more than the header.
        if len.wrapping_sub(header + 1) >= max {
            return None;
        }
        // SAFETY: the caller vouches for `len` bytes, which are more than the header; a packed array of one word needs no alignment.
        let word = unsafe { ptr.cast::<Unaligned>().read_volatile().0 };
        // SAFETY: as above.
        (!header::asks(word)).then(|| (unsafe { ptr.as_ptr().cast_const().add(header as usize) }, len - header))
    });
    // SAFETY: the caller vouches for it.
    unsafe { burst.push_all(plain) };
    burst.len() - before
}

/// A word at any address.
#[derive(Clone, Copy)]
#[repr(C, packed)]
struct Unaligned(u64);

/// Writes the first `len` bytes (10 or 12) of `header` at `ptr`.
///
/// # Safety
/// There are `len` writable bytes.
#[inline(always)]
unsafe fn write_header(ptr: NonNull<u8>, header: [u8; LONG], len: usize) {
    // SAFETY: the caller vouches for the bytes; arrays of bytes need no alignment.
    unsafe {
        if len == LONG {
            ptr.cast::<[u8; LONG]>().write_unaligned(header);
        } else {
            ptr.cast::<[u8; SHORT]>().write_unaligned(*header.first_chunk().expect("shorter"));
        }
    }
}

/// A 16-bit field of a ring.
///
/// # Safety
/// It is within the ring, which stays mapped, and aligned.
#[inline(always)]
unsafe fn field<'a>(base: NonNull<u8>, at: usize) -> &'a AtomicU16 {
    // SAFETY: the caller vouches for it; a peer's accesses are what atomics are for.
    unsafe { AtomicU16::from_ptr(base.as_ptr().add(at).cast()) }
}

/// Whether the index `event` was passed on the way from `old` to `new` (virtio 1.2, section 2.7.7.2).
#[inline(always)]
fn passed(event: u16, new: u16, old: u16) -> bool {
    new.wrapping_sub(event).wrapping_sub(1) < new.wrapping_sub(old)
}

/// Asks for a buffer that is about to be read: its header and what a frame's head takes.
#[inline(always)]
fn prefetch_buffer<const WRITABLE: bool>(ptr: NonNull<u8>) {
    let p = ptr.as_ptr().cast_const();
    if WRITABLE {
        prefetch_write(p);
        prefetch_write(p.wrapping_add(64));
    } else {
        prefetch_read(p);
        prefetch_read(p.wrapping_add(64));
    }
}

#[cfg(test)]
mod tests;
