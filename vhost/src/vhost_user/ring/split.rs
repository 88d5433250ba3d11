//! The split ring (virtio 1.2, section 2.7): a table of descriptors, a ring of chains made available by the driver, a ring of
//! used ones.

use super::{Bad, CHAIN, DESC, Head, Heads, INDIRECT, NEXT, Parts, RingConfig, Space, WRITE};
use super::{field, passed, prefetch_buffer, table};
use crate::vhost_user::fault::Fault;
use crate::vhost_user::memory::Memory;
use dray_switch::burst::BURST;
use dray_switch::mem::{copy, prefetch_read, prefetch_write};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU16, Ordering};

/// In the available ring's flags: no interrupts.
const NO_INTERRUPT: u16 = 1;
/// In the used ring's flags: no notifications.
const NO_NOTIFY: u16 = 1;

/// Descriptors of a cache line.
const A_LINE: usize = 64 / DESC as usize;

pub(super) struct Split {
    desc: NonNull<u8>,
    avail: NonNull<u8>,
    used: NonNull<u8>,
    used_gpa: u64,
    mask: u16,
    /// Index of the next chain: all before it were given back.
    next: u16,
    /// The driver's index and flags as last read.
    peer: u16,
    flags: u16,
    /// Up to here the driver knows what was given back.
    published: u16,
    /// [`Split::next`] when an interrupt was last considered.
    signalled: u16,
    /// Up to here the used ring's writes were logged.
    logged: u16,
    /// Of the chains that were gathered last: by these they are given back.
    ids: [u16; BURST],
    /// The last of those.
    last: u16,
}

impl Split {
    pub fn new(config: &RingConfig, memory: &Memory) -> Result<Split, String> {
        let size = u64::from(config.size);
        if !size.is_power_of_two() {
            return Err(format!("{size} descriptors is no power of two, as a split ring's must be"));
        }
        let find = |what: &str, addr: u64, len: u64, align: u64| {
            if !addr.is_multiple_of(align) {
                return Err(format!("its {what} at {addr:#x} is not aligned to {align}"));
            }
            let (ptr, gpa) = memory.uva(addr, len).ok_or_else(|| format!("its {what} is outside the regions"))?;
            // Regions may lie in a file as they like.
            if !ptr.as_ptr().addr().is_multiple_of(align as usize) {
                return Err(format!("its {what} at {addr:#x} is not aligned to {align} in its file"));
            }
            Ok((ptr, gpa))
        };
        let (desc, _) = find("descriptor table", config.desc, size * DESC, DESC)?;
        let (avail, _) = find("available ring", config.avail, 4 + 2 * size + 2, 2)?;
        let (used, used_gpa) = find("used ring", config.used, 4 + 8 * size + 2, 4)?;
        let mask = (size - 1) as u16;
        Ok(Split {
            desc,
            avail,
            used,
            used_gpa,
            mask,
            next: 0,
            peer: 0,
            flags: 0,
            published: 0,
            signalled: 0,
            logged: 0,
            ids: [0; BURST],
            last: 0,
        })
    }

    fn size(&self) -> u16 {
        self.mask + 1
    }

    /// Reads the available ring's index, and its flags, which share a cache line.
    #[inline(always)]
    fn look(&mut self) {
        // SAFETY: both are within the available ring, which is aligned to 2 (`new`).
        unsafe {
            self.peer = field(self.avail, 2).load(Ordering::Acquire);
            self.flags = field(self.avail, 0).load(Ordering::Relaxed);
        }
    }

    fn used_idx(&self) -> &AtomicU16 {
        // SAFETY: within the used ring (`new`).
        unsafe { field(self.used, 2) }
    }

    /// Begins at `base`, or where the used ring says that everything before was given back: a front end whose back end was
    /// killed doesn't know better.
    pub fn begin(&mut self, base: u32) {
        let used = self.used_idx().load(Ordering::Acquire);
        self.go_on(if used != base as u16 { used.into() } else { base });
        // SAFETY: the used ring's flags and the available event behind its entries (`new`).
        unsafe {
            field(self.used, 0).store(NO_NOTIFY, Ordering::Relaxed);
            // With VIRTIO_F_EVENT_IDX: an index that was passed long ago.
            field(self.used, 4 + 8 * usize::from(self.mask) + 8).store(self.next.wrapping_sub(1), Ordering::Release);
        }
    }

    /// Goes on at `base`.
    pub fn go_on(&mut self, base: u32) {
        self.next = base as u16;
        (self.peer, self.published, self.signalled, self.logged) = (self.next, self.next, self.next, self.next);
    }

    pub fn base(&self) -> u32 {
        self.next.into()
    }

    /// Reads up to `most` of the chains that are available.
    #[inline(always)]
    pub fn gather<const WRITABLE: bool>(
        &mut self,
        space: &mut Space,
        heads: &mut [Head; BURST],
        most: usize,
    ) -> Result<Heads, Bad> {
        let mut available = self.peer.wrapping_sub(self.next);
        if usize::from(available) < most {
            self.look();
            available = self.peer.wrapping_sub(self.next);
            if available > self.size() {
                return Err((Fault::Index, "the available index jumped"));
            }
        }
        let n = usize::from(available).min(most).min(BURST);
        if n == 0 {
            return Ok(Heads::default());
        }
        // Copies, of which the compiler knows that writing to `heads` doesn't change them.
        let Split { desc, avail, mask, .. } = *self;
        let (at, first) = self.run(n);
        let ids = &mut self.ids[..n];
        // SAFETY: these entries, from the next one on and from the first one, are within the available ring (`new`).
        unsafe {
            let entries = avail.as_ptr().add(4).cast_const();
            copy(entries.add(2 * at), ids.as_mut_ptr().cast(), 2 * first);
            copy(entries, ids[first..].as_mut_ptr().cast(), 2 * (n - first));
        }
        // One less than a power of two: so many bits have those that aren't beyond it.
        if ids.iter().fold(0, |all, id| all | id) > mask {
            return Err((Fault::Index, "an available entry beyond the ring"));
        }
        self.last = ids[n - 1];
        prefetch_descs(desc, ids);
        let (heads, ids) = (&mut heads[..n], &ids[..n]);
        let mut walk = 0;
        for i in 0..n {
            // SAFETY: the id was found below the ring's size.
            let (addr, len, flags) = unsafe { read_desc(desc, ids[i].into()) };
            if flags != if WRITABLE { WRITE } else { 0 } {
                walk |= 1 << i;
                continue;
            }
            if len == 0 {
                return Err((Fault::Descriptor, "a descriptor of no length"));
            }
            let ptr = space.at(addr, len)?;
            (heads[i].ptr, heads[i].len) = (ptr, len);
            prefetch_buffer::<WRITABLE>(ptr);
        }
        Ok(Heads { n, walk })
    }

    /// The buffers of the chain that was gathered last as number `place`, as far as they are needed.
    #[cold]
    pub fn walk<const WRITABLE: bool>(
        &self,
        space: &mut Space,
        _head: Head,
        place: u16,
        parts: &mut Parts,
    ) -> Result<(), Bad> {
        let (mut descs, mut size, mut indirect) = (self.desc, u32::from(self.mask) + 1, false);
        let mut index = u32::from(self.ids[usize::from(place)]);
        for _ in 0..CHAIN {
            // SAFETY: `index` is below `size`, the descriptors of a table that was found in memory, aligned.
            let ((addr, len, flags), next) = unsafe { (read_desc(descs, index), read_next(descs, index)) };
            if flags & INDIRECT != 0 {
                if indirect {
                    return Err((Fault::Chain, "an indirect table in an indirect table"));
                }
                ((descs, size), indirect, index) = (table(space, addr, len, flags)?, true, 0);
                continue;
            }
            parts.add(space, addr, len, flags, WRITABLE)?;
            if flags & NEXT == 0 || parts.enough() {
                return Ok(());
            }
            index = next.into();
            if index >= size {
                return Err((Fault::Index, "a descriptor's successor is beyond the table"));
            }
        }
        Err((Fault::Chain, "a chain that is circular or too long"))
    }

    /// Gives `heads`, the first of those gathered last, back, with so many bytes written to each. The driver sees it with
    /// [`Split::publish`].
    #[inline(always)]
    pub fn complete(&mut self, heads: &[Head], lens: &[u32; BURST]) {
        let n = heads.len();
        let (at, first) = self.run(n);
        // SAFETY: these entries, from the next one on and from the first one, are within the used ring (`new`).
        unsafe {
            let entries = self.used.as_ptr().add(4);
            write_used(entries.add(8 * at), &self.ids[..first], &lens[..first]);
            write_used(entries, &self.ids[first..n], &lens[first..n]);
        }
        self.next = self.next.wrapping_add(n as u16);
    }

    /// The place of the next entry, and how many of the next `n` come before the ring's end.
    #[inline(always)]
    fn run(&self, n: usize) -> (usize, usize) {
        let at = usize::from(self.next & self.mask);
        (at, n.min(usize::from(self.mask) + 1 - at))
    }

    #[inline(always)]
    pub fn publish(&mut self) {
        self.published = self.next;
        self.used_idx().store(self.next, Ordering::Release);
        self.prefetch();
    }

    /// Asks for what the next burst will use.
    #[inline(always)]
    fn prefetch(&self) {
        let at = usize::from(self.next & self.mask);
        prefetch_read(self.avail.as_ptr().wrapping_add(4 + 2 * at).cast_const());
        prefetch_read(self.avail.as_ptr().wrapping_add(4 + 2 * at + 64).cast_const());
        for line in 0..8 {
            prefetch_write(self.used.as_ptr().wrapping_add(4 + 8 * at + 64 * line).cast_const());
        }
        // Descriptors, if the driver is known to have filled them: those of one that uses its buffers in turn.
        if usize::from(self.peer.wrapping_sub(self.next)) >= BURST {
            for line in 0..BURST / A_LINE + 1 {
                let id = (usize::from(self.last) + 1 + line * A_LINE) & usize::from(self.mask);
                prefetch_read(self.desc.as_ptr().wrapping_add(id * DESC as usize).cast_const());
            }
        }
    }

    /// Whether the driver wants an interrupt; `asleep`: it was seen to want one. Of one that wasn't, the flags are asked for as last
    /// read: the driver writes the index beside them all the time, so to read them again is to wait for the cache line.
    #[inline(always)]
    pub fn wants_interrupt(&mut self, event_idx: bool, asleep: bool) -> bool {
        if !event_idx {
            if asleep {
                // SAFETY: the available ring's flags (`new`).
                self.flags = unsafe { field(self.avail, 0) }.load(Ordering::Relaxed);
            }
            return self.flags & NO_INTERRUPT == 0;
        }
        // SAFETY: the used event behind the available ring's entries (`new`).
        let event = unsafe { field(self.avail, 4 + 2 * usize::from(self.mask) + 2) }.load(Ordering::Relaxed);
        let old = std::mem::replace(&mut self.signalled, self.published);
        passed(event, self.published, old)
    }

    /// Whether the driver wants interrupts; with an event index, whether it is one of the last lap.
    pub fn asks(&self, event_idx: bool) -> bool {
        // SAFETY: the available ring's flags, and the used event behind its entries (`new`).
        let avail = |at| unsafe { field(self.avail, at) }.load(Ordering::Relaxed);
        if !event_idx {
            return avail(0) & NO_INTERRUPT == 0;
        }
        let used = self.used_idx().load(Ordering::Relaxed);
        passed(avail(4 + 2 * usize::from(self.mask) + 2), used, used.wrapping_sub(self.size()))
    }

    /// Hands the guest-physical ranges written since the last time to `mark`. `log` is where the front end says that the used ring is.
    pub fn unlogged(&mut self, log: Option<u64>, mut mark: impl FnMut(u64, u64)) {
        let base = log.unwrap_or(self.used_gpa);
        mark(base.wrapping_add(2), 2);
        while self.logged != self.next {
            mark(base.wrapping_add(4 + 8 * u64::from(self.logged & self.mask)), 8);
            self.logged = self.logged.wrapping_add(1);
        }
    }

    pub fn flags_gpa(&self, log: Option<u64>, mut mark: impl FnMut(u64, u64)) {
        let base = log.unwrap_or(self.used_gpa);
        mark(base, 2);
        mark(base.wrapping_add(4 + 8 * (u64::from(self.mask) + 1)), 2);
    }
}

/// Asks for the descriptors `ids`, all at once rather than as many as the CPU looks ahead: for their lines, if they follow each other, as
/// those of a driver do that uses its buffers in turn.
///
/// # Panics
/// Without ids.
#[inline(always)]
fn prefetch_descs(desc: NonNull<u8>, ids: &[u16]) {
    let ask = |id: usize| prefetch_read(desc.as_ptr().wrapping_add(id * DESC as usize).cast_const());
    let (first, last) = (usize::from(ids[0]), usize::from(ids[ids.len() - 1]));
    if first + ids.len() == last + 1 {
        (first..last).step_by(A_LINE).for_each(ask);
        ask(last);
    } else {
        ids.iter().for_each(|&id| ask(id.into()));
    }
}

/// A descriptor's address, length and flags, each read once.
///
/// # Safety
/// There are 16 readable bytes at `table + index * 16`, aligned to 8.
#[inline(always)]
unsafe fn read_desc(table: NonNull<u8>, index: u32) -> (u64, u32, u16) {
    // SAFETY: the caller vouches for the bytes.
    unsafe {
        let p = table.as_ptr().add(index as usize * DESC as usize);
        (
            p.cast::<u64>().read_volatile(),
            p.add(8).cast::<u32>().read_volatile(),
            p.add(12).cast::<u16>().read_volatile(),
        )
    }
}

/// A descriptor's successor, if its flags say that there is one.
///
/// # Safety
/// As [`read_desc`].
unsafe fn read_next(table: NonNull<u8>, index: u32) -> u16 {
    // SAFETY: the caller vouches for the bytes.
    unsafe { table.as_ptr().add(index as usize * DESC as usize + 14).cast::<u16>().read_volatile() }
}

/// Writes entries of a used ring: ids and lengths. They are as many as make whole registers, for a peer that has a line holds up all writes
/// behind one to it, of which a CPU remembers few.
///
/// # Safety
/// There are writable bytes for them at `entries`. These are aligned to 4 only; that the driver sees all of one is for the index to say.
#[inline(always)]
unsafe fn write_used(entries: *mut u8, ids: &[u16], lens: &[u32]) {
    for (i, (&id, &len)) in ids.iter().zip(lens).enumerate() {
        // SAFETY: the caller vouches for it.
        unsafe { entries.cast::<u64>().add(i).write_unaligned(u64::from(id) | u64::from(len) << 32) };
    }
}
