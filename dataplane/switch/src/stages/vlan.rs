//! 802.1Q tags: taken out where a frame comes in, put in where it leaves. A priority tag (VLAN 0) counts as none.
//!
//! It is done for each frame just before its addresses are read (`parse`), in one pass.
//!
//! Drops: `vlan.unknown_vlan`, `parse.truncated`.

use crate::burst::Frame;
use crate::drops::Drop;
use crate::wire::{self, ETH, TAG, be16};

/// Takes the tag out, over which the addresses move up, and returns its TCI: priority in the upper four bits, VLAN in the
/// lower twelve.
pub(crate) fn pop(frame: &mut Frame) -> Result<u16, Drop> {
    if frame.head().len() < ETH + TAG {
        return Err(Drop::ParseTruncated);
    }
    let tci = be16(frame.head(), 14);
    frame.head_mut().copy_within(0..12, TAG);
    frame.pull_front(TAG);
    Ok(tci)
}

/// Puts a tag in: the addresses move down into the headroom.
#[inline(never)]
pub(crate) fn push(frame: &mut Frame, tci: u16) {
    frame.push_front::<TAG>();
    let head = frame.head_mut();
    head.copy_within(TAG..TAG + 12, 0);
    head[12..14].copy_from_slice(&wire::VLAN.to_be_bytes());
    head[14..16].copy_from_slice(&tci.to_be_bytes());
}
