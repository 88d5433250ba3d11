//! 802.1Q tags: taken out where a frame comes in, just before its addresses are read (`parse`), put in where it leaves (`rewrite`). A
//! priority tag (VLAN 0) counts as none.

use crate::burst::Frame;
use crate::drops::Drop;
use crate::wire::{self, ETH, TAG, be16};

/// Takes the tag out, over which the addresses move up, and returns its TCI: priority in the upper four bits, VLAN in the
/// lower twelve. There is no other tag behind it: behind a port where that is the first one, it would say a VLAN.
pub(crate) fn pop(frame: &mut Frame) -> Result<u16, Drop> {
    let head: &mut [u8; ETH + TAG] = frame.head_mut().first_chunk_mut().ok_or(Drop::ParseTruncated)?;
    if wire::is_tag(be16(head, ETH + TAG - 2)) {
        return Err(Drop::VlanDoubleTag);
    }
    let tci = be16(head, 14);
    let addresses: [u8; 12] = *head.first_chunk().expect("two addresses");
    head[TAG..][..12].copy_from_slice(&addresses);
    frame.pull_front(TAG);
    Ok(tci)
}

/// Puts a tag in: the addresses move down into the headroom.
#[inline(always)]
pub(crate) fn push(frame: &mut Frame, tci: u16) {
    let head = frame.push_front::<TAG, { TAG + 12 }>();
    let addresses: [u8; 12] = *head.last_chunk().expect("two addresses");
    head[..12].copy_from_slice(&addresses);
    head[12..14].copy_from_slice(&wire::VLAN.to_be_bytes());
    head[14..16].copy_from_slice(&tci.to_be_bytes());
}
