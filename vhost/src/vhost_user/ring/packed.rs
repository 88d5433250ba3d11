//! The packed ring (virtio 1.2, section 2.8): one ring of descriptors, which the driver makes available and the device marks as used
//! in the same place.

use super::{Bad, CHAIN, DESC, DESCS, Head, Heads, INDIRECT, NEXT, Parts, RingConfig, Space, WRITE};
use super::{field, passed, prefetch_buffer, table};
use crate::vhost_user::fault::Fault;
use crate::vhost_user::memory::Memory;
use dray_switch::burst::BURST;
use dray_switch::mem::prefetch_write;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, Ordering};

const AVAIL: u16 = 1 << 7;
const USED: u16 = 1 << 15;

/// In an event suppression structure's flags: no events.
const DISABLE: u16 = 1;
/// Likewise: an event when a certain descriptor is reached.
const AT_DESC: u16 = 2;

/// A place in the ring and the lap's wrap counter.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Position {
    index: u16,
    wrap: bool,
}

impl Position {
    #[inline(always)]
    fn advance(self, n: u16, size: u16) -> Position {
        let index = u32::from(self.index) + u32::from(n);
        if index >= u32::from(size) {
            Position { index: (index - u32::from(size)) as u16, wrap: !self.wrap }
        } else {
            Position { index: index as u16, wrap: self.wrap }
        }
    }

    /// [`AVAIL`] and [`USED`] of what is available in this lap.
    #[inline(always)]
    fn available(self) -> u16 {
        if self.wrap { AVAIL } else { USED }
    }

    /// And of what was given back in it.
    #[inline(always)]
    fn used(self) -> u16 {
        if self.wrap { AVAIL | USED } else { 0 }
    }

    /// As messages have it.
    fn bits(self) -> u16 {
        self.index | u16::from(self.wrap) << 15
    }
}

/// The word of descriptor `index` that has length, id and flags.
///
/// # Safety
/// `desc` is a ring of more descriptors, aligned to 16, and outlives the reference.
#[inline(always)]
unsafe fn word_at<'a>(desc: NonNull<u8>, index: u16) -> &'a AtomicU64 {
    // SAFETY: the caller vouches for it.
    unsafe { AtomicU64::from_ptr(desc.as_ptr().add(usize::from(index) * DESC as usize + 8).cast()) }
}

pub(super) struct Packed {
    desc: NonNull<u8>,
    driver: NonNull<u8>,
    device: NonNull<u8>,
    desc_gpa: u64,
    device_gpa: u64,
    size: u16,
    /// The next chain: all before it were given back.
    next: Position,
    /// The first of what was given back and not yet published: its place and word.
    held: Option<(u16, u64)>,
    /// Whether any of the chains that were gathered last has more than one place.
    chained: bool,
    /// [`Packed::next`] when an interrupt was last considered.
    signalled: u16,
    /// Up to here writes were logged.
    logged: Position,
}

impl Packed {
    pub fn new(config: &RingConfig, memory: &Memory) -> Result<Packed, String> {
        let find = |what: &str, addr: u64, len: u64, align: u64| {
            if !addr.is_multiple_of(align) {
                return Err(format!("its {what} at {addr:#x} is not aligned to {align}"));
            }
            let (ptr, gpa) = memory.uva(addr, len).ok_or_else(|| format!("its {what} is outside the regions"))?;
            if !ptr.as_ptr().addr().is_multiple_of(align as usize) {
                return Err(format!("its {what} at {addr:#x} is not aligned to {align} in its file"));
            }
            Ok((ptr, gpa))
        };
        let (desc, desc_gpa) = find("descriptor ring", config.desc, u64::from(config.size) * DESC, DESC)?;
        let (driver, _) = find("driver event suppression", config.avail, 4, 4)?;
        let (device, device_gpa) = find("device event suppression", config.used, 4, 4)?;
        let start = Position { index: 0, wrap: true };
        Ok(Packed {
            desc,
            driver,
            device,
            desc_gpa,
            device_gpa,
            size: config.size as u16,
            next: start,
            held: None,
            chained: false,
            signalled: 0,
            logged: start,
        })
    }

    /// The word of a descriptor that has length, id and flags.
    #[inline(always)]
    fn word(&self, index: u16) -> &AtomicU64 {
        // SAFETY: `index` is below the ring's size wherever this is called.
        unsafe { word_at(self.desc, index) }
    }

    /// Begins at `base`. If that is a new ring's beginning and the ring has been used, it goes on where everything before was given
    /// back: a front end whose back end was killed doesn't know better.
    pub fn begin(&mut self, base: u32) {
        self.go_on(base);
        if self.next == (Position { index: 0, wrap: true }) {
            self.next = self.find();
            (self.signalled, self.logged) = (self.next.index, self.next);
        }
        // SAFETY: the device's event suppression structure (`new`).
        unsafe { field(self.device, 2) }.store(DISABLE, Ordering::Release);
    }

    /// Where the first descriptor is that was not given back. In every lap each place's used bit becomes that lap's wrap counter, from
    /// the first to the last ([`Packed::complete`] sets it in all places of a chain). So it is where the bit changes; and if it
    /// doesn't, the lap is complete (or, with all bits zero, the first has not begun).
    fn find(&self) -> Position {
        let used = |index: u16| (self.word(index).load(Ordering::Acquire) >> 48) as u16 & USED != 0;
        let first = used(0);
        match (1..self.size).find(|&index| used(index) != first) {
            Some(index) => Position { index, wrap: first },
            None => Position { index: 0, wrap: !first },
        }
    }

    /// Goes on at `base`: place and wrap counter, in the lower 16 bits.
    pub fn go_on(&mut self, base: u32) {
        let index = base as u16 & 0x7fff;
        self.next = Position { index: if index < self.size { index } else { 0 }, wrap: base & 0x8000 != 0 };
        (self.held, self.signalled, self.logged) = (None, self.next.index, self.next);
    }

    pub fn base(&self) -> u32 {
        u32::from(self.next.bits()) | u32::from(self.next.bits()) << 16
    }

    /// Reads up to `most` of the chains that are available.
    #[inline(always)]
    pub fn gather<const WRITABLE: bool>(
        &mut self,
        space: &mut Space,
        heads: &mut [Head; BURST],
        most: usize,
    ) -> Result<Heads, Bad> {
        // Copies, of which the compiler knows that reading what the driver wrote doesn't change them.
        let Packed { desc, size, next: mut at, .. } = *self;
        let most = most.min(BURST);
        // Up to the ring's end, chains of one descriptor, as nearly all are; then whatever there is.
        let run = most.min(usize::from(size - at.index));
        let usual = at.available() | if WRITABLE { WRITE } else { 0 };
        let mut n = 0;
        for head in &mut heads[..run] {
            let index = at.index + n as u16;
            // Flags, id and length in one read, and only then the address: the driver writes the flags last.
            // SAFETY: `run` ends where the ring does.
            let word = unsafe { word_at(desc, index) }.load(Ordering::Acquire);
            let (len, id, flags) = (word as u32, (word >> 32) as u16, (word >> 48) as u16);
            if flags & (AVAIL | USED | NEXT | INDIRECT | WRITE) != usual || len == 0 {
                break;
            }
            // SAFETY: as in `word`: the descriptor's other half.
            let addr = unsafe { read_desc(desc, index.into()).0 };
            let ptr = space.at(addr, len)?;
            *head = Head { ptr, len, id, slots: 1 };
            prefetch_buffer::<WRITABLE>(ptr);
            n += 1;
        }
        at = at.advance(n as u16, size);
        let mut walk = 0;
        // Not beyond one lap.
        let mut left = size - n as u16;
        let mut looked = 0;
        self.chained = false;
        for head in &mut heads[n..most] {
            if left == 0 || looked >= DESCS {
                break;
            }
            // SAFETY: `advance` gives a place in the ring.
            let word = unsafe { word_at(desc, at.index) }.load(Ordering::Acquire);
            let (len, id, flags) = (word as u32, (word >> 32) as u16, (word >> 48) as u16);
            if flags & (AVAIL | USED) != at.available() {
                break;
            }
            (head.id, head.slots, head.len) = (id, 1, len);
            if flags & (NEXT | INDIRECT | WRITE) == if WRITABLE { WRITE } else { 0 } {
                if len == 0 {
                    return Err((Fault::Descriptor, "a descriptor of no length"));
                }
                // SAFETY: as in `word`: the descriptor's other half.
                let addr = unsafe { read_desc(desc, at.index.into()).0 };
                head.ptr = space.at(addr, len)?;
                prefetch_buffer::<WRITABLE>(head.ptr);
            } else {
                walk |= 1 << n;
                if flags & NEXT != 0 {
                    (head.slots, head.id) = self.last(at, left)?;
                    self.chained = true;
                }
            }
            at = at.advance(head.slots, size);
            left -= head.slots;
            looked += usize::from(head.slots);
            n += 1;
        }
        Ok(Heads { n, walk })
    }

    /// How many descriptors the chain at `at` has, at most `most`, and the last one's id, which is the chain's.
    #[cold]
    fn last(&self, at: Position, most: u16) -> Result<(u16, u16), Bad> {
        for n in 0..most.min(CHAIN as u16) {
            let word = self.word(at.advance(n, self.size).index).load(Ordering::Relaxed);
            if (word >> 48) as u16 & NEXT == 0 {
                return Ok((n + 1, (word >> 32) as u16));
            }
        }
        Err((Fault::Chain, "a chain that is circular or too long"))
    }

    /// The buffers of the chain `head`, which is `place` places after the next, as far as they are needed.
    #[cold]
    pub fn walk<const WRITABLE: bool>(
        &self,
        space: &mut Space,
        head: Head,
        place: u16,
        parts: &mut Parts,
    ) -> Result<(), Bad> {
        let start = self.next.advance(place, self.size);
        for n in 0..head.slots {
            // SAFETY: `advance` gives a place in the ring.
            let (addr, rest) = unsafe { read_desc(self.desc, start.advance(n, self.size).index.into()) };
            let (len, flags) = (rest as u32, (rest >> 48) as u16);
            if flags & INDIRECT == 0 {
                parts.add(space, addr, len, flags, WRITABLE)?;
                if parts.enough() {
                    break;
                }
                continue;
            }
            if head.slots != 1 {
                return Err((Fault::Chain, "an indirect table in the middle of a chain"));
            }
            let (descs, size) = table(space, addr, len, flags)?;
            if size > CHAIN as u32 {
                return Err((Fault::Chain, "an indirect table that is too long"));
            }
            for index in 0..size {
                // SAFETY: `index` is below the descriptors of a table that was found in memory, aligned.
                let (addr, rest) = unsafe { read_desc(descs, index) };
                let (len, flags) = (rest as u32, (rest >> 48) as u16);
                if flags & INDIRECT != 0 {
                    return Err((Fault::Chain, "an indirect table in an indirect table"));
                }
                // DPDK's driver says of the header, which we only read, that we write it.
                let flags = if WRITABLE { flags } else { flags & !WRITE };
                parts.add(space, addr, len, flags, WRITABLE)?;
                if parts.enough() {
                    break;
                }
            }
        }
        Ok(())
    }

    /// Gives `heads`, the first of those gathered last, back, with so many bytes written to each. The driver sees it with
    /// [`Packed::publish`]: it looks at the first, which is held back until then.
    #[inline(always)]
    pub fn complete(&mut self, heads: &[Head], lens: &[u32; BURST]) {
        let Packed { desc, size, mut next, .. } = *self;
        let word = |head: &Head, len: u32, flags: u16| {
            let written = if len != 0 { WRITE } else { 0 };
            u64::from(len) | u64::from(head.id) << 32 | u64::from(flags | written) << 48
        };
        let mut done = 0;
        if let Some(head) = heads.first()
            && self.held.is_none()
        {
            self.held = Some((next.index, word(head, lens[0], next.used())));
            self.mark(next, head.slots);
            next = next.advance(head.slots, size);
            done = 1;
        }
        // Up to the ring's end, chains of one descriptor.
        let run = if self.chained { 0 } else { (heads.len() - done).min(usize::from(size - next.index)) };
        let flags = next.used();
        for (n, (head, &len)) in heads[done..][..run].iter().zip(&lens[done..]).enumerate() {
            // SAFETY: `run` ends where the ring does.
            unsafe { word_at(desc, next.index + n as u16) }.store(word(head, len, flags), Ordering::Release);
        }
        next = next.advance(run as u16, size);
        done += run;
        for (head, &len) in heads[done..].iter().zip(&lens[done..]) {
            self.mark(next, head.slots);
            // SAFETY: `advance` gives a place in the ring.
            unsafe { word_at(desc, next.index) }.store(word(head, len, next.used()), Ordering::Release);
            next = next.advance(head.slots, size);
        }
        self.next = next;
    }

    /// Marks the other places of the chain at `first` as used, too, for [`Packed::find`]. The driver does not look at them: it skips as many as it
    /// has put there.
    fn mark(&self, first: Position, slots: u16) {
        for n in 1..slots {
            let at = first.advance(n, self.size);
            self.word(at.index).store(u64::from(at.used()) << 48, Ordering::Release);
        }
    }

    #[inline(always)]
    pub fn publish(&mut self) {
        if let Some((index, word)) = self.held.take() {
            self.word(index).store(word, Ordering::Release);
        }
        for place in (0..self.size.min(BURST as u16)).step_by(64 / DESC as usize) {
            let at = self.next.advance(place, self.size);
            prefetch_write(self.desc.as_ptr().wrapping_add(usize::from(at.index) * 16).cast_const());
        }
    }

    #[inline(always)]
    pub fn wants_interrupt(&mut self, event_idx: bool, _asleep: bool) -> bool {
        // SAFETY: the driver's event suppression structure (`new`).
        let flags = unsafe { field(self.driver, 2) }.load(Ordering::Acquire);
        let (new, mut old) = (self.next.index, std::mem::replace(&mut self.signalled, self.next.index));
        if flags != AT_DESC || !event_idx {
            return flags != DISABLE;
        }
        // SAFETY: as above.
        let event = unsafe { field(self.driver, 0) }.load(Ordering::Relaxed);
        let (mut at, wrap) = (event & 0x7fff, event & 0x8000 != 0);
        if old >= new {
            old = old.wrapping_sub(self.size);
        }
        if wrap != self.next.wrap {
            at = at.wrapping_sub(self.size);
        }
        passed(at, new, old)
    }

    /// Whether the driver wants interrupts, be it for one descriptor.
    pub fn asks(&self, _event_idx: bool) -> bool {
        // SAFETY: the driver's event suppression structure (`new`).
        unsafe { field(self.driver, 2) }.load(Ordering::Acquire) != DISABLE
    }

    /// Hands the guest-physical ranges written since the last time to `mark`. The front end names the device's event suppression
    /// structure as what is to be logged; what is written is the descriptor ring.
    pub fn unlogged(&mut self, _log: Option<u64>, mut mark: impl FnMut(u64, u64)) {
        while self.logged != self.next {
            mark(self.desc_gpa + u64::from(self.logged.index) * DESC, DESC);
            self.logged = self.logged.advance(1, self.size);
        }
    }

    pub fn flags_gpa(&self, _log: Option<u64>, mut mark: impl FnMut(u64, u64)) {
        mark(self.device_gpa, 4);
    }
}

/// A descriptor's two words, each read once.
///
/// # Safety
/// There are 16 readable bytes at `table + index * 16`, aligned to 8.
#[inline(always)]
unsafe fn read_desc(table: NonNull<u8>, index: u32) -> (u64, u64) {
    // SAFETY: the caller vouches for the bytes.
    unsafe {
        let p = table.as_ptr().add(index as usize * DESC as usize).cast::<u64>();
        (p.read_volatile(), p.add(1).read_volatile())
    }
}
