//! Descriptors as nearly all are, read and checked two at a time.

use super::{Ring, Slot, Word, prefetch_frame};
use crate::mem::Extent;
use dray_switch::mem::prefetch_write;
use std::arch::x86_64::*;
use std::mem::MaybeUninit;

/// Reads descriptors from `index` on, as many as there are `slots`, which are not more than the ring has, and asks for what they
/// name. They are returned if each of them is wholly within `region`, which is at `extent`; of received frames (`RX`), if each also is one
/// of 1 to `max` bytes that doesn't go on in the next descriptor.
///
/// # Safety
/// The CPU has AVX2, as our baseline has.
#[inline]
#[target_feature(enable = "avx2")]
pub(super) unsafe fn read<const RX: bool>(
    ring: Ring,
    index: u16,
    (region, extent): (u16, Extent),
    max: u32,
    slots: &mut [MaybeUninit<Slot>],
) -> Option<&mut [Slot]> {
    // Of the two 64-bit words of a descriptor and of a slot the first has flags, region and length, the second offset or address.
    let both = |first: i64, second: i64| _mm256_set_epi64x(second, first, second, first);
    let wanted = both(Word::new(0, region, 0).0 as i64, 0);
    let told = both(Word::new(if RX { u16::MAX } else { 0 }, u16::MAX, 0).0 as i64, 0);
    let offset = both(-1, u32::MAX.into());
    let limits = both(max.into(), extent.len());
    let shortest = both(-i64::from(RX), 0);
    let base = both(0, extent.base().as_ptr() as i64);
    let (mut other, mut beyond) = (_mm256_setzero_si256(), _mm256_setzero_si256());
    let mut check = |descs: __m256i| {
        other = _mm256_or_si256(other, _mm256_and_si256(_mm256_xor_si256(descs, wanted), told));
        let lens = _mm256_srli_epi64::<32>(descs);
        let words = _mm256_and_si256(descs, offset);
        let ends = _mm256_add_epi64(words, _mm256_shuffle_epi32::<0b01_00_11_10>(lens));
        // A difference below zero is a length or an end that is not allowed. What a buffer to be filled is long doesn't matter.
        let room = _mm256_sub_epi64(limits, _mm256_blend_epi32::<0b1100_1100>(if RX { lens } else { limits }, ends));
        beyond = _mm256_or_si256(beyond, _mm256_or_si256(room, _mm256_add_epi64(lens, shortest)));
        _mm256_add_epi64(words, base)
    };
    let ask = |slot: &Slot| {
        if RX { prefetch_frame(slot.ptr, slot.len()) } else { prefetch_write(slot.ptr.as_ptr().cast_const()) }
    };
    let (first, second) = slots.split_at_mut(slots.len().min(usize::from(ring.mask - (index & ring.mask)) + 1));
    for (run, index) in [(first, index), (second, 0)] {
        let mut descs = ring.desc(index).cast_const();
        let mut pairs = run.chunks_exact_mut(2);
        for pair in &mut pairs {
            // SAFETY: the run ends with the ring, so there are two more descriptors, which are aligned to 16 bytes at least; a slot has the
            // size of a descriptor and is valid whatever its length says, and its address is that of the region or above.
            unsafe {
                let read = descs.cast::<[__m128i; 2]>().read_volatile();
                _mm256_storeu_si256(pair.as_mut_ptr().cast(), check(_mm256_set_m128i(read[1], read[0])));
                descs = descs.add(4);
                pair.assume_init_ref().iter().for_each(ask);
            }
        }
        for single in pairs.into_remainder() {
            // SAFETY: as above, for one.
            unsafe {
                let read = descs.cast::<__m128i>().read_volatile();
                let slot = check(_mm256_set_m128i(read, read));
                _mm_storeu_si128(single.as_mut_ptr().cast(), _mm256_castsi256_si128(slot));
                ask(single.assume_init_ref());
            }
        }
    }
    let good = _mm256_testz_si256(other, other) != 0 && _mm256_movemask_pd(_mm256_castsi256_pd(beyond)) == 0;
    // SAFETY: all were just written.
    good.then(|| unsafe { slots.assume_init_mut() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mem::{Region, Regions};
    use std::ptr::NonNull;

    /// One descriptor among good ones, at every place of a run that is around the ring's end: flags, region, length, offset and metadata
    /// as they are in memory, and whether it is taken as a received frame and as a buffer to be filled.
    #[test]
    fn one_of_a_run_decides() {
        let cases: [(&[u8; 16], bool, bool); 14] = [
            (b"\0\0\x01\0\x3c\0\0\0\0\0\0\0\0\0\0\0", true, true),
            // The longest, up to the region's end; one byte more, and one further.
            (b"\0\0\x01\0\0\x08\0\0\0\x08\0\0\0\0\0\0", true, true),
            (b"\0\0\x01\0\x01\x08\0\0\0\0\0\0\0\0\0\0", false, true),
            (b"\0\0\x01\0\0\x08\0\0\x01\x08\0\0\0\0\0\0", false, false),
            (b"\0\0\x01\0\x01\0\0\0\xff\x0f\0\0\0\0\0\0", true, true),
            (b"\0\0\x01\0\x02\0\0\0\xff\x0f\0\0\0\0\0\0", false, false),
            // Of no length.
            (b"\0\0\x01\0\0\0\0\0\0\0\0\0\0\0\0\0", false, true),
            // Sums that don't fit 32 bits.
            (b"\0\0\x01\0\xff\xff\xff\xff\x01\0\0\0\0\0\0\0", false, false),
            (b"\0\0\x01\0\x01\0\0\0\xff\xff\xff\xff\0\0\0\0", false, false),
            // Other regions.
            (b"\0\0\0\0\x3c\0\0\0\0\0\0\0\0\0\0\0", false, false),
            (b"\0\0\x01\x80\x3c\0\0\0\0\0\0\0\0\0\0\0", false, false),
            // It goes on, and a flag that nobody knows.
            (b"\x01\0\x01\0\x3c\0\0\0\0\0\0\0\0\0\0\0", false, true),
            (b"\0\x80\x01\0\x3c\0\0\0\0\0\0\0\0\0\0\0", false, true),
            // Metadata is nobody's.
            (b"\0\0\x01\0\x3c\0\0\0\x40\0\0\0\xff\xff\xff\xff", true, true),
        ];
        let good = b"\0\0\x01\0\x40\0\0\0\x80\0\0\0\xff\0\0\x80";
        let (mut rings, _) = Region::create("rings", 8192).unwrap();
        let ring = Ring { base: rings.base(), mask: 255 };
        let (frames, _) = Region::create("frames", 4096).unwrap();
        let base = frames.base();
        let regions = Regions::new(vec![Region::create("other", 4096).unwrap().0, frames]);
        for (desc, rx, tx) in cases {
            for (first, n, place) in
                (250..257u16).flat_map(|f| (1..9).flat_map(move |n| (0..n).map(move |p| (f, n, p))))
            {
                for i in 0..n {
                    let index = usize::from(first + i) % 256;
                    rings.write(super::super::HEADER + 16 * index, if i == place { desc } else { good });
                }
                let region = (1, regions.extent(1));
                let mut slots = [MaybeUninit::new(Slot { word: Word(!0), ptr: NonNull::dangling() }); 8];
                let slots = &mut slots[..n.into()];
                let what = format!("{desc:?}, number {place} of {n} from {first}");
                // SAFETY: tests run where drayd would.
                unsafe {
                    assert_eq!(read::<true>(ring, first, region, 2048, slots).is_some(), rx, "{what}");
                    assert_eq!(read::<false>(ring, first, region, 0, slots).is_some(), tx, "{what}");
                }
                // SAFETY: they were before.
                let slots = unsafe { slots.assume_init_ref() };
                for (i, slot) in slots.iter().enumerate().filter(|_| tx) {
                    let bytes = if i == usize::from(place) { desc } else { good };
                    let offset = u32::from_le_bytes(*bytes[8..].first_chunk().unwrap());
                    assert_eq!(slot.word.0.to_le_bytes(), bytes[..8], "{what}");
                    assert_eq!(slot.ptr.as_ptr(), base.as_ptr().wrapping_add(offset as usize), "{what}");
                }
            }
        }
        // A region that isn't there has no descriptors in it.
        let mut slots = [MaybeUninit::new(Slot { word: Word(0), ptr: base }); 2];
        rings.write(super::super::HEADER, b"\0\0\x07\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\x07\0\0\0\0\0\0\0\0\0\0\0\0\0");
        // SAFETY: as above.
        assert!(unsafe { read::<false>(ring, 0, (7, regions.extent(7)), 0, &mut slots) }.is_none());
    }
}
