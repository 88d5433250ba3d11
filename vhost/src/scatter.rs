//! Writing a frame to a peer's buffers when it needs several of them.
#![allow(unsafe_code)]

use dray_switch::mem::copy;
use dray_switch::{Burst, Frame};
use std::ptr::NonNull;

/// Writes `header` and the whole of `frame` to `parts` (address and bytes), filling one after the other, and sets their bytes to
/// what is in them.
///
/// # Safety
/// The parts are writable and together have room for everything; none is part of the frame, or the frame is its sender's loss. `frame`
/// belongs to `burst`, which was received and is not yet released.
pub(crate) unsafe fn scatter(header: &[u8], burst: &Burst, frame: &Frame, parts: &mut [(NonNull<u8>, u32)]) {
    let head = frame.head();
    let own = [(header.as_ptr(), header.len()), (head.as_ptr(), head.len())];
    let body = burst.segments(frame).map(|s| (s.as_ptr(), s.len() as usize));
    let (mut part, mut filled) = (0, 0);
    for (mut src, mut left) in own.into_iter().chain(body) {
        while left != 0 {
            let room = parts[part].1 as usize - filled;
            if room == 0 {
                (part, filled) = (part + 1, 0);
                continue;
            }
            let n = left.min(room);
            // SAFETY: `n` bytes are left of this piece and free in this part (the caller vouches for both).
            unsafe {
                copy(src, parts[part].0.as_ptr().add(filled), n);
                src = src.add(n);
            }
            left -= n;
            filled += n;
        }
    }
    parts[part].1 = filled as u32;
    parts[part + 1..].iter_mut().for_each(|part| part.1 = 0);
}
