//! The one audited module of this crate: prefetching, and the copying of bytes that live in other people's memory.
//!
//! A [`Segment`] names bytes that a peer may change at any moment. Nothing here or elsewhere interprets them; they
//! are only ever copied onward, and summed up for a checksum that is right if their owner leaves them alone.
#![allow(unsafe_code)]

use crate::burst::{Burst, Frame};
#[cfg(feature = "loom")]
use loom::sync::atomic::AtomicU64;
use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
use std::ptr;
#[cfg(not(feature = "loom"))]
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Bytes of a frame that are still where they arrived: a peer's shared memory or an mbuf.
#[derive(Clone, Copy, Debug)]
pub struct Segment {
    ptr: *const u8,
    len: u32,
}

// SAFETY: a segment is only a name for memory; whoever reads it vouches for it there (`copy_frame`).
unsafe impl Send for Segment {}

impl Segment {
    /// No bytes.
    pub const EMPTY: Segment = Segment { ptr: ptr::null(), len: 0 };

    /// Names `len` bytes at `ptr`.
    ///
    /// # Safety
    /// The bytes stay mapped and readable until the [`crate::Rx::release`] of the burst that this segment is put into.
    #[inline]
    pub unsafe fn new(ptr: *const u8, len: u32) -> Self {
        Segment { ptr, len }
    }

    /// Length in bytes.
    #[inline]
    pub fn len(self) -> u32 {
        self.len
    }

    /// Whether there are no bytes.
    #[inline]
    pub fn is_empty(self) -> bool {
        self.len == 0
    }

    /// The first `len` bytes, or all if it has fewer.
    #[inline]
    pub fn prefix(self, len: usize) -> Self {
        Segment { len: self.len.min(len as u32), ..self }
    }

    /// The first `len` bytes, or all if it has fewer, and the rest.
    pub(crate) fn split_at(self, len: usize) -> (Self, Self) {
        let first = self.prefix(len);
        (first, Segment { ptr: self.ptr.wrapping_add(first.len as usize), len: self.len - first.len })
    }

    /// Where the bytes are.
    #[inline]
    pub fn as_ptr(self) -> *const u8 {
        self.ptr
    }
}

/// Asks for the cache line of `p`, to be read.
#[inline(always)]
pub fn prefetch_read<T>(p: *const T) {
    // SAFETY: a prefetch never faults.
    unsafe { _mm_prefetch::<_MM_HINT_T0>(p.cast()) }
}

/// Asks for the cache line of `p`, to be written.
#[inline(always)]
pub fn prefetch_write<T>(p: *const T) {
    // `_mm_prefetch` makes this instruction only for CPUs newer than our baseline, which has it all the same: AMD's all, Intel's since
    // 2014, and others take it for nothing.
    // SAFETY: a prefetch never faults, and changes neither memory nor flags.
    unsafe { std::arch::asm!("prefetchw [{}]", in(reg) p, options(nostack, preserves_flags, readonly)) }
}

/// Copies `len` bytes, exactly, with as few and as wide moves as the length allows.
///
/// # Safety
/// `src` is readable and `dst` writable for `len` bytes. Either may be changed by a peer meanwhile, and a peer that names the
/// same memory as source and destination makes them overlap: the bytes are then any mixture, which nobody relies on.
#[inline(always)]
pub unsafe fn copy(src: *const u8, dst: *mut u8, len: usize) {
    // SAFETY: every access below lies within the first `len` bytes; the caller vouches for those.
    unsafe {
        match len {
            33..=64 => {
                copy_n::<32>(src, dst);
                copy_n::<32>(src.add(len - 32), dst.add(len - 32));
            }
            16..=32 => {
                copy_n::<16>(src, dst);
                copy_n::<16>(src.add(len - 16), dst.add(len - 16));
            }
            65..=128 => {
                copy_n::<64>(src, dst);
                copy_n::<64>(src.add(len - 64), dst.add(len - 64));
            }
            _ => copy_any(src, dst, len),
        }
    }
}

/// [`copy`] of any length. A call, for which a loop puts its registers away, so it is kept out of where that is seldom needed.
///
/// # Safety
/// As [`copy`].
#[cold]
#[inline(never)]
unsafe fn copy_any(src: *const u8, dst: *mut u8, len: usize) {
    // SAFETY: as in `copy`.
    unsafe { ptr::copy(src, dst, len) }
}

/// From so many bytes on, registers of 64 bytes were measured to be faster than the C library's copy.
const LONG: usize = 256;

/// Whether such registers are there and do no harm: the first CPUs that had them, without this extension, slowed down their clock
/// for them.
#[inline(always)]
fn has_wide() -> bool {
    is_x86_feature_detected!("avx512vbmi2")
}

/// [`copy`] of what is likely to be long, on a CPU of which [`has_wide`] said `WIDE`.
///
/// # Safety
/// As [`copy`].
#[inline(always)]
unsafe fn copy_long<const WIDE: bool>(src: *const u8, dst: *mut u8, len: usize) {
    // SAFETY: as in `copy`; the CPU was asked for the registers.
    unsafe {
        if WIDE && len >= LONG {
            copy_wide(src, dst, len);
        } else {
            ptr::copy(src, dst, len);
        }
    }
}

/// [`copy`] of 64 bytes or more with registers of 64 bytes.
///
/// # Safety
/// As [`copy`], on a CPU that has them.
#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn copy_wide(src: *const u8, dst: *mut u8, len: usize) {
    const AT_ONCE: usize = 256;
    let mut at = 0;
    // SAFETY: every access below lies within the first `len` bytes, which are 64 or more; the caller vouches for those.
    unsafe {
        while at + AT_ONCE < len {
            copy_n::<AT_ONCE>(src.add(at), dst.add(at));
            at += AT_ONCE;
        }
        while at + 64 < len {
            copy_n::<64>(src.add(at), dst.add(at));
            at += 64;
        }
        copy_n::<64>(src.add(len - 64), dst.add(len - 64));
    }
}

/// Copies `N` bytes as one block: whole vector registers, loaded before anything is stored.
///
/// # Safety
/// As [`copy`], with `N` for `len`.
#[inline(always)]
pub unsafe fn copy_n<const N: usize>(src: *const u8, dst: *mut u8) {
    // SAFETY: the caller vouches for `N` bytes at both; an array of bytes needs no alignment.
    unsafe { dst.cast::<[u8; N]>().write_unaligned(src.cast::<[u8; N]>().read_unaligned()) }
}

/// Writes the whole of `frame` (head, then body) to `dst`.
///
/// # Safety
/// `dst` is writable for [`Frame::len`] bytes and is not part of the frame; `frame` belongs to `burst`, which was
/// received and is not yet released.
#[inline(always)]
pub unsafe fn write_frame(burst: &Burst, frame: &Frame, dst: *mut u8) {
    // SAFETY: the caller vouches for both.
    unsafe {
        if write_head(frame, dst) {
            if has_wide() { write_body::<true>(burst, frame, dst) } else { write_body::<false>(burst, frame, dst) }
        }
    }
}

/// Writes the head of `frame` to `dst`. Whether it has a body.
///
/// # Safety
/// `dst` is writable for as many bytes, at most [`Frame::len`].
#[inline(always)]
pub unsafe fn write_head(frame: &Frame, dst: *mut u8) -> bool {
    let len = frame.head_len();
    // SAFETY: the head is within the frame's bytes (`Burst` keeps that).
    unsafe { copy(frame.bytes.as_ptr().add(frame.start as usize), dst, len) };
    frame.len() > len
}

/// Writes the body of `frame` to where it belongs in the frame that begins at `dst`.
///
/// # Safety
/// As [`write_frame`].
#[inline(always)]
unsafe fn write_body<const WIDE: bool>(burst: &Burst, frame: &Frame, dst: *mut u8) {
    // SAFETY: the head and the segments add up to `Frame::len` (`Burst` keeps that); the segments are readable until release.
    unsafe {
        let at = dst.add(frame.head_len());
        copy_long::<WIDE>(frame.body.ptr, at, frame.body.len as usize);
        if frame.is_chained() {
            write_chain::<WIDE>(burst, frame, at.add(frame.body.len as usize));
        }
    }
}

/// Writes the bodies of frames of `burst`, given by number, each to where it belongs in the frame that begins at its address.
///
/// # Safety
/// As [`write_frame`], for each.
#[inline(always)]
pub unsafe fn write_bodies(burst: &Burst, frames: impl Iterator<Item = (u16, *mut u8)>) {
    #[target_feature(enable = "avx512f")]
    unsafe fn wide(burst: &Burst, frames: impl Iterator<Item = (u16, *mut u8)>) {
        for (i, dst) in frames {
            // SAFETY: as below.
            unsafe { write_body::<true>(burst, burst.frame(i), dst) };
        }
    }
    // SAFETY: the caller vouches for frames and addresses; the CPU was asked for the registers.
    unsafe {
        if has_wide() {
            return wide(burst, frames);
        }
        for (i, dst) in frames {
            write_body::<false>(burst, burst.frame(i), dst);
        }
    }
}

/// Writes the segments beyond the first of `frame` to `dst`.
///
/// # Safety
/// As [`write_frame`].
#[cold]
#[inline(never)]
unsafe fn write_chain<const WIDE: bool>(burst: &Burst, frame: &Frame, mut dst: *mut u8) {
    for segment in burst.chained(frame) {
        // SAFETY: as in `write_body`.
        unsafe {
            copy_long::<WIDE>(segment.ptr, dst, segment.len as usize);
            dst = dst.add(segment.len as usize);
        }
    }
}

/// The one's-complement sum of `len` bytes as 16-bit words in network order, an odd byte at the end with a zero after it (RFC 1071).
///
/// # Safety
/// `data` is readable for `len` bytes. A peer may change them meanwhile: the sum is then any number.
unsafe fn sum(data: *const u8, len: usize) -> u16 {
    // Words may be summed in whatever order their bytes are in memory, and several at a time, for carries come round; no more
    // than 2^32 of 32 bits are in any frame.
    const WIDE: usize = 64;
    let mut total = 0u64;
    let mut at = 0;
    // SAFETY: every access below lies within the first `len` bytes; the caller vouches for those.
    unsafe {
        while at + WIDE <= len {
            let words = data.add(at).cast::<[u32; WIDE / 4]>().read_unaligned();
            total += words.iter().map(|&word| u64::from(word)).sum::<u64>();
            at += WIDE;
        }
        while at + 2 <= len {
            total += u64::from(data.add(at).cast::<u16>().read_unaligned());
            at += 2;
        }
        if at < len {
            total += u64::from(u16::from_ne_bytes([data.add(at).read(), 0]));
        }
    }
    while total > 0xffff {
        total = (total & 0xffff) + (total >> 16);
    }
    u16::from_be_bytes((total as u16).to_ne_bytes())
}

/// The one's-complement sum of `frame` from byte `from` of its head to its end, as 16-bit words in network order (RFC 1071).
/// `frame` belongs to `burst`.
pub fn sum_frame(burst: &Burst, frame: &Frame, from: usize) -> u16 {
    let head = &frame.head()[from..];
    // SAFETY: a slice is readable.
    let mut total = u32::from(unsafe { sum(head.as_ptr(), head.len()) });
    let mut odd = head.len() & 1 == 1;
    for segment in burst.segments(frame) {
        // SAFETY: `Segment::new` vouches for the segments while the burst has them.
        let part = unsafe { sum(segment.ptr, segment.len as usize) };
        // What begins at an odd place has its words' bytes the other way round.
        total += u32::from(if odd { part.swap_bytes() } else { part });
        odd ^= segment.len & 1 == 1;
    }
    crate::wire::fold(total)
}

/// Copies the first bytes of `frame`, which belongs to `burst`, to `into`: as many as both have.
pub fn beginning(burst: &Burst, frame: &Frame, into: &mut [u8]) {
    let head = frame.head();
    let (first, mut rest) = into.split_at_mut(head.len().min(into.len()));
    first.copy_from_slice(&head[..first.len()]);
    for segment in burst.segments(frame) {
        if rest.is_empty() {
            return;
        }
        let part;
        (part, rest) = rest.split_at_mut((segment.len as usize).min(rest.len()));
        // SAFETY: the part has no more bytes than the segment; `Segment::new` vouches for that while the burst has it.
        unsafe { copy(segment.ptr, part.as_mut_ptr(), part.len()) };
    }
}

/// All bytes of `frame` in one piece, for the slow path.
pub fn to_vec(burst: &Burst, frame: &Frame) -> Vec<u8> {
    let mut bytes = vec![0; frame.len()];
    // SAFETY: the vector has the frame's length; `Segment::new` vouches for the segments while the burst has them.
    unsafe { write_frame(burst, frame, bytes.as_mut_ptr()) };
    bytes
}

/// The time-stamp counter: a clock for shares and ticks per frame, not for people.
#[inline(always)]
pub fn ticks() -> u64 {
    // SAFETY: every x86-64 CPU has the instruction.
    unsafe { std::arch::x86_64::_rdtsc() }
}

/// A cache line of words.
#[repr(align(64))]
pub(crate) struct Line(pub [AtomicU64; 8]);

/// Lines, that begin as zeros.
#[cfg(feature = "loom")]
pub(crate) struct Lines(Box<[Line]>);

#[cfg(feature = "loom")]
impl Lines {
    /// `n` lines, whose words loom watches.
    pub(crate) fn zeroed(n: usize) -> Lines {
        Lines((0..n).map(|_| Line(std::array::from_fn(|_| AtomicU64::new(0)))).collect())
    }
}

#[cfg(feature = "loom")]
impl std::ops::Deref for Lines {
    type Target = [Line];

    fn deref(&self) -> &[Line] {
        &self.0
    }
}

/// Lines, that begin as zeros.
#[cfg(not(feature = "loom"))]
pub(crate) struct Lines {
    /// And those before the first, up to where a page begins.
    words: Box<[AtomicU64]>,
    first: usize,
    n: usize,
}

#[cfg(not(feature = "loom"))]
impl Lines {
    /// `n` lines, in huge pages if the kernel has any: a table that is read at random takes fewer TLB misses then. All of it is
    /// there when this returns, so that no worker has to wait for the kernel to find a page.
    pub(crate) fn zeroed(n: usize) -> Lines {
        const PAGE: usize = 4096;
        let bytes = n * size_of::<Line>();
        let align = if bytes < HUGE { align_of::<Line>() } else { HUGE };
        // As words, for memory that is to be aligned the allocator clears by writing to it, when it is too late for advice.
        // SAFETY: words of zeros are words.
        let words = unsafe { Box::<[AtomicU64]>::new_zeroed_slice((bytes + align) / size_of::<u64>()).assume_init() };
        let at = words.as_ptr() as usize;
        let lines = Lines { first: (at.next_multiple_of(align) - at) / size_of::<u64>(), n, words };
        advise_huge(&lines);
        lines.iter().step_by(PAGE / size_of::<Line>()).for_each(|line| line.0[0].store(0, Relaxed));
        lines
    }
}

#[cfg(not(feature = "loom"))]
impl std::ops::Deref for Lines {
    type Target = [Line];

    fn deref(&self) -> &[Line] {
        // SAFETY: `zeroed` made `n` lines of words from the first on, which is aligned; a line is nothing but its words.
        unsafe { std::slice::from_raw_parts(self.words.as_ptr().add(self.first).cast(), self.n) }
    }
}

/// Bytes of a huge page.
const HUGE: usize = 2 << 20;

/// Asks the kernel for huge pages for the part of `table` that fills them. To be done before anything is written there, for the kernel
/// decides when it first gives a page.
pub(crate) fn advise_huge<T>(table: &[T]) {
    let range = table.as_ptr_range();
    let (start, end) = ((range.start as usize).next_multiple_of(HUGE), range.end as usize & !(HUGE - 1));
    if end > start {
        // SAFETY: advice about pages that are wholly the table's changes none of their bytes.
        unsafe { libc::madvise(start as *mut _, end - start, libc::MADV_HUGEPAGE) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::burst::HEAD;

    /// Around every limit of a copy, and at every alignment, a body is where it belongs, and nothing else is written.
    #[test]
    fn bodies_are_written_to_the_byte() {
        let around = |n: usize| n - 3..=n + 3;
        let lengths = (HEAD..=HEAD + 4).chain([128, 256, 320, 512, 576, 1024, 1514, 9000].into_iter().flat_map(around));
        for len in lengths {
            let frame: Vec<u8> = (0..len).map(|i| (i * 7 + i / 256) as u8).collect();
            let mut burst = Burst::default();
            burst.push_owned(frame.clone());
            burst.push_owned(frame.iter().map(|b| !b).collect());
            for shift in [0, 1, 12, 52, 63] {
                const GUARD: u8 = 0xa5;
                let room = len + 64;
                let mut memory = vec![GUARD; 64 + 2 * room];
                let places = [shift, shift + room];
                // SAFETY: there is room for a frame at each place, and both frames are the burst's.
                unsafe {
                    let base = memory.as_mut_ptr();
                    write_bodies(&burst, (0..).zip(places).map(|(i, at)| (i, base.add(at))));
                }
                for (at, flip) in places.into_iter().zip([0, 0xff]) {
                    for (i, &byte) in memory[at..at + room - 63].iter().enumerate() {
                        let wanted = if (HEAD..len).contains(&i) { frame[i] ^ flip } else { GUARD };
                        assert_eq!(byte, wanted, "byte {i} of {len} at {at}");
                    }
                }
                assert!(memory[..shift].iter().all(|&b| b == GUARD));
            }
            assert_eq!(to_vec(&burst, burst.frame(0)), frame);
        }
    }
}
