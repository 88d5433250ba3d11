//! Literal frames, made and checked by others: a script of struct.pack, and tshark, which finds all checksums right where they are
//! complete.

use super::*;
use crate::burst::{ADDED_MAX, FRAME_MAX, GSO_MAX, HEAD_MAX};
use crate::egress::Egress;
use crate::mem::to_vec;
use crate::port::Output;
use crate::stages::Selection;
use crate::stages::leaving::Leaving;
use crate::stages::send::Send;
use crate::{PuntReason, Sent, Tx};
use std::collections::HashMap;

/// UDP over IPv4 with an odd payload; in the checksum field the sum of the pseudo-header.
#[rustfmt::skip]
pub(crate) const UDP4: &[u8] = &[
    0x02, 0x00, 0x00, 0x00, 0x00, 0x0b, 0x02, 0x00, 0x00, 0x00, 0x00, 0x0a, 0x08, 0x00, 0x45, 0x02,
    0x00, 0x1f, 0x00, 0x07, 0x40, 0x00, 0x40, 0x11, 0x4e, 0x89, 0xc0, 0x00, 0x02, 0x01, 0xc6, 0x33,
    0x64, 0x07, 0x14, 0xe9, 0x01, 0xbb, 0x00, 0x0b, 0xec, 0x58, 0x6f, 0x64, 0x64,
];

/// The same, complete.
#[rustfmt::skip]
pub(crate) const UDP4_DONE: &[u8] = &[
    0x02, 0x00, 0x00, 0x00, 0x00, 0x0b, 0x02, 0x00, 0x00, 0x00, 0x00, 0x0a, 0x08, 0x00, 0x45, 0x02,
    0x00, 0x1f, 0x00, 0x07, 0x40, 0x00, 0x40, 0x11, 0x4e, 0x89, 0xc0, 0x00, 0x02, 0x01, 0xc6, 0x33,
    0x64, 0x07, 0x14, 0xe9, 0x01, 0xbb, 0x00, 0x0b, 0x29, 0x93, 0x6f, 0x64, 0x64,
];

/// UDP whose checksum comes out as zero.
#[rustfmt::skip]
pub(crate) const UDP4_ZERO: &[u8] = &[
    0x02, 0x00, 0x00, 0x00, 0x00, 0x0b, 0x02, 0x00, 0x00, 0x00, 0x00, 0x0a, 0x08, 0x00, 0x45, 0x02,
    0x00, 0x1e, 0x00, 0x07, 0x40, 0x00, 0x40, 0x11, 0x4e, 0x8a, 0xc0, 0x00, 0x02, 0x01, 0xc6, 0x33,
    0x64, 0x07, 0x14, 0xe9, 0x01, 0xbb, 0x00, 0x0a, 0xec, 0x57, 0xfc, 0xf9,
];

/// The same, complete.
#[rustfmt::skip]
pub(crate) const UDP4_ZERO_DONE: &[u8] = &[
    0x02, 0x00, 0x00, 0x00, 0x00, 0x0b, 0x02, 0x00, 0x00, 0x00, 0x00, 0x0a, 0x08, 0x00, 0x45, 0x02,
    0x00, 0x1e, 0x00, 0x07, 0x40, 0x00, 0x40, 0x11, 0x4e, 0x8a, 0xc0, 0x00, 0x02, 0x01, 0xc6, 0x33,
    0x64, 0x07, 0x14, 0xe9, 0x01, 0xbb, 0x00, 0x0a, 0xff, 0xff, 0xfc, 0xf9,
];

/// TCP over IPv4 with CWR, PSH and FIN, 21 bytes; identification and sequence number are about to wrap.
#[rustfmt::skip]
pub(crate) const TSO4: &[u8] = &[
    0x02, 0x00, 0x00, 0x00, 0x00, 0x0b, 0x02, 0x00, 0x00, 0x00, 0x00, 0x0a, 0x08, 0x00, 0x45, 0x02,
    0x00, 0x3d, 0xff, 0xff, 0x40, 0x00, 0x40, 0x06, 0x4e, 0x7d, 0xc0, 0x00, 0x02, 0x01, 0xc6, 0x33,
    0x64, 0x07, 0xc3, 0x50, 0x00, 0x50, 0xff, 0xff, 0xff, 0xf8, 0x11, 0x22, 0x33, 0x44, 0x50, 0x99,
    0x01, 0xf5, 0xec, 0x6b, 0x00, 0x00, 0x54, 0x6f, 0x20, 0x62, 0x65, 0x20, 0x63, 0x75, 0x74, 0x20,
    0x69, 0x6e, 0x20, 0x74, 0x68, 0x72, 0x65, 0x65, 0x21, 0x21, 0x0a,
];

/// Piece 0 of 8 bytes.
#[rustfmt::skip]
pub(crate) const TSO4_0: &[u8] = &[
    0x02, 0x00, 0x00, 0x00, 0x00, 0x0b, 0x02, 0x00, 0x00, 0x00, 0x00, 0x0a, 0x08, 0x00, 0x45, 0x02,
    0x00, 0x30, 0xff, 0xff, 0x40, 0x00, 0x40, 0x06, 0x4e, 0x8a, 0xc0, 0x00, 0x02, 0x01, 0xc6, 0x33,
    0x64, 0x07, 0xc3, 0x50, 0x00, 0x50, 0xff, 0xff, 0xff, 0xf8, 0x11, 0x22, 0x33, 0x44, 0x50, 0x90,
    0x01, 0xf5, 0x7b, 0xb4, 0x00, 0x00, 0x54, 0x6f, 0x20, 0x62, 0x65, 0x20, 0x63, 0x75,
];

/// Piece 1 of 8 bytes.
#[rustfmt::skip]
pub(crate) const TSO4_1: &[u8] = &[
    0x02, 0x00, 0x00, 0x00, 0x00, 0x0b, 0x02, 0x00, 0x00, 0x00, 0x00, 0x0a, 0x08, 0x00, 0x45, 0x02,
    0x00, 0x30, 0x00, 0x00, 0x40, 0x00, 0x40, 0x06, 0x4e, 0x8a, 0xc0, 0x00, 0x02, 0x01, 0xc6, 0x33,
    0x64, 0x07, 0xc3, 0x50, 0x00, 0x50, 0x00, 0x00, 0x00, 0x00, 0x11, 0x22, 0x33, 0x44, 0x50, 0x10,
    0x01, 0xf5, 0x53, 0x1f, 0x00, 0x00, 0x74, 0x20, 0x69, 0x6e, 0x20, 0x74, 0x68, 0x72,
];

/// Piece 2, the last, 5 bytes.
#[rustfmt::skip]
pub(crate) const TSO4_2: &[u8] = &[
    0x02, 0x00, 0x00, 0x00, 0x00, 0x0b, 0x02, 0x00, 0x00, 0x00, 0x00, 0x0a, 0x08, 0x00, 0x45, 0x02,
    0x00, 0x2d, 0x00, 0x01, 0x40, 0x00, 0x40, 0x06, 0x4e, 0x8c, 0xc0, 0x00, 0x02, 0x01, 0xc6, 0x33,
    0x64, 0x07, 0xc3, 0x50, 0x00, 0x50, 0x00, 0x00, 0x00, 0x08, 0x11, 0x22, 0x33, 0x44, 0x50, 0x19,
    0x01, 0xf5, 0x29, 0x00, 0x00, 0x00, 0x65, 0x65, 0x21, 0x21, 0x0a,
];

/// TCP with a time stamp over IPv6 with a hop-by-hop header.
#[rustfmt::skip]
pub(crate) const TSO6: &[u8] = &[
    0x02, 0x00, 0x00, 0x00, 0x00, 0x0b, 0x02, 0x00, 0x00, 0x00, 0x00, 0x0a, 0x86, 0xdd, 0x60, 0x21,
    0x23, 0x45, 0x00, 0x3d, 0x00, 0x3f, 0x20, 0x01, 0x0d, 0xb8, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00,
    0x00, 0x00, 0x00, 0x00, 0x00, 0x01, 0x20, 0x01, 0x0d, 0xb8, 0x00, 0x00, 0x00, 0x05, 0x00, 0x00,
    0x00, 0x00, 0x00, 0x00, 0xbe, 0xef, 0x06, 0x00, 0x01, 0x04, 0x00, 0x00, 0x00, 0x00, 0xc3, 0x50,
    0x00, 0x50, 0x00, 0x00, 0x03, 0xe8, 0x11, 0x22, 0x33, 0x44, 0x80, 0x18, 0x01, 0xf5, 0x1a, 0xa3,
    0x00, 0x00, 0x01, 0x01, 0x08, 0x0a, 0x00, 0x00, 0x00, 0x09, 0x00, 0x00, 0x00, 0x08, 0x54, 0x6f,
    0x20, 0x62, 0x65, 0x20, 0x63, 0x75, 0x74, 0x20, 0x69, 0x6e, 0x20, 0x74, 0x68, 0x72, 0x65, 0x65,
    0x21, 0x21, 0x0a,
];

/// Piece 0 of 7 bytes.
#[rustfmt::skip]
pub(crate) const TSO6_0: &[u8] = &[
    0x02, 0x00, 0x00, 0x00, 0x00, 0x0b, 0x02, 0x00, 0x00, 0x00, 0x00, 0x0a, 0x86, 0xdd, 0x60, 0x21,
    0x23, 0x45, 0x00, 0x2f, 0x00, 0x3f, 0x20, 0x01, 0x0d, 0xb8, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00,
    0x00, 0x00, 0x00, 0x00, 0x00, 0x01, 0x20, 0x01, 0x0d, 0xb8, 0x00, 0x00, 0x00, 0x05, 0x00, 0x00,
    0x00, 0x00, 0x00, 0x00, 0xbe, 0xef, 0x06, 0x00, 0x01, 0x04, 0x00, 0x00, 0x00, 0x00, 0xc3, 0x50,
    0x00, 0x50, 0x00, 0x00, 0x03, 0xe8, 0x11, 0x22, 0x33, 0x44, 0x80, 0x10, 0x01, 0xf5, 0x11, 0x68,
    0x00, 0x00, 0x01, 0x01, 0x08, 0x0a, 0x00, 0x00, 0x00, 0x09, 0x00, 0x00, 0x00, 0x08, 0x54, 0x6f,
    0x20, 0x62, 0x65, 0x20, 0x63,
];

/// Piece 1 of 7 bytes.
#[rustfmt::skip]
pub(crate) const TSO6_1: &[u8] = &[
    0x02, 0x00, 0x00, 0x00, 0x00, 0x0b, 0x02, 0x00, 0x00, 0x00, 0x00, 0x0a, 0x86, 0xdd, 0x60, 0x21,
    0x23, 0x45, 0x00, 0x2f, 0x00, 0x3f, 0x20, 0x01, 0x0d, 0xb8, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00,
    0x00, 0x00, 0x00, 0x00, 0x00, 0x01, 0x20, 0x01, 0x0d, 0xb8, 0x00, 0x00, 0x00, 0x05, 0x00, 0x00,
    0x00, 0x00, 0x00, 0x00, 0xbe, 0xef, 0x06, 0x00, 0x01, 0x04, 0x00, 0x00, 0x00, 0x00, 0xc3, 0x50,
    0x00, 0x50, 0x00, 0x00, 0x03, 0xef, 0x11, 0x22, 0x33, 0x44, 0x80, 0x10, 0x01, 0xf5, 0xd6, 0x54,
    0x00, 0x00, 0x01, 0x01, 0x08, 0x0a, 0x00, 0x00, 0x00, 0x09, 0x00, 0x00, 0x00, 0x08, 0x75, 0x74,
    0x20, 0x69, 0x6e, 0x20, 0x74,
];

/// Piece 2 of 7 bytes.
#[rustfmt::skip]
pub(crate) const TSO6_2: &[u8] = &[
    0x02, 0x00, 0x00, 0x00, 0x00, 0x0b, 0x02, 0x00, 0x00, 0x00, 0x00, 0x0a, 0x86, 0xdd, 0x60, 0x21,
    0x23, 0x45, 0x00, 0x2f, 0x00, 0x3f, 0x20, 0x01, 0x0d, 0xb8, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00,
    0x00, 0x00, 0x00, 0x00, 0x00, 0x01, 0x20, 0x01, 0x0d, 0xb8, 0x00, 0x00, 0x00, 0x05, 0x00, 0x00,
    0x00, 0x00, 0x00, 0x00, 0xbe, 0xef, 0x06, 0x00, 0x01, 0x04, 0x00, 0x00, 0x00, 0x00, 0xc3, 0x50,
    0x00, 0x50, 0x00, 0x00, 0x03, 0xf6, 0x11, 0x22, 0x33, 0x44, 0x80, 0x18, 0x01, 0xf5, 0x55, 0x4b,
    0x00, 0x00, 0x01, 0x01, 0x08, 0x0a, 0x00, 0x00, 0x00, 0x09, 0x00, 0x00, 0x00, 0x08, 0x68, 0x72,
    0x65, 0x65, 0x21, 0x21, 0x0a,
];

/// UDP over IPv4, 21 bytes.
#[rustfmt::skip]
pub(crate) const USO4: &[u8] = &[
    0x02, 0x00, 0x00, 0x00, 0x00, 0x0b, 0x02, 0x00, 0x00, 0x00, 0x00, 0x0a, 0x08, 0x00, 0x45, 0x02,
    0x00, 0x31, 0x00, 0x07, 0x40, 0x00, 0x40, 0x11, 0x4e, 0x77, 0xc0, 0x00, 0x02, 0x01, 0xc6, 0x33,
    0x64, 0x07, 0x14, 0xe9, 0x01, 0xbb, 0x00, 0x1d, 0xec, 0x6a, 0x54, 0x6f, 0x20, 0x62, 0x65, 0x20,
    0x63, 0x75, 0x74, 0x20, 0x69, 0x6e, 0x20, 0x74, 0x68, 0x72, 0x65, 0x65, 0x21, 0x21, 0x0a,
];

/// Piece 0 of 10 bytes.
#[rustfmt::skip]
pub(crate) const USO4_0: &[u8] = &[
    0x02, 0x00, 0x00, 0x00, 0x00, 0x0b, 0x02, 0x00, 0x00, 0x00, 0x00, 0x0a, 0x08, 0x00, 0x45, 0x02,
    0x00, 0x26, 0x00, 0x07, 0x40, 0x00, 0x40, 0x11, 0x4e, 0x82, 0xc0, 0x00, 0x02, 0x01, 0xc6, 0x33,
    0x64, 0x07, 0x14, 0xe9, 0x01, 0xbb, 0x00, 0x12, 0x4b, 0x62, 0x54, 0x6f, 0x20, 0x62, 0x65, 0x20,
    0x63, 0x75, 0x74, 0x20,
];

/// Piece 1 of 10 bytes.
#[rustfmt::skip]
pub(crate) const USO4_1: &[u8] = &[
    0x02, 0x00, 0x00, 0x00, 0x00, 0x0b, 0x02, 0x00, 0x00, 0x00, 0x00, 0x0a, 0x08, 0x00, 0x45, 0x02,
    0x00, 0x26, 0x00, 0x08, 0x40, 0x00, 0x40, 0x11, 0x4e, 0x81, 0xc0, 0x00, 0x02, 0x01, 0xc6, 0x33,
    0x64, 0x07, 0x14, 0xe9, 0x01, 0xbb, 0x00, 0x12, 0x84, 0x0e, 0x69, 0x6e, 0x20, 0x74, 0x68, 0x72,
    0x65, 0x65, 0x21, 0x21,
];

/// Piece 2, the last, 1 byte.
#[rustfmt::skip]
pub(crate) const USO4_2: &[u8] = &[
    0x02, 0x00, 0x00, 0x00, 0x00, 0x0b, 0x02, 0x00, 0x00, 0x00, 0x00, 0x0a, 0x08, 0x00, 0x45, 0x02,
    0x00, 0x1d, 0x00, 0x09, 0x40, 0x00, 0x40, 0x11, 0x4e, 0x89, 0xc0, 0x00, 0x02, 0x01, 0xc6, 0x33,
    0x64, 0x07, 0x14, 0xe9, 0x01, 0xbb, 0x00, 0x09, 0xf2, 0xfb, 0x0a,
];

/// UDP over IPv6, 21 bytes.
#[rustfmt::skip]
pub(crate) const USO6: &[u8] = &[
    0x02, 0x00, 0x00, 0x00, 0x00, 0x0b, 0x02, 0x00, 0x00, 0x00, 0x00, 0x0a, 0x86, 0xdd, 0x60, 0x21,
    0x23, 0x45, 0x00, 0x1d, 0x11, 0x3f, 0x20, 0x01, 0x0d, 0xb8, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00,
    0x00, 0x00, 0x00, 0x00, 0x00, 0x01, 0x20, 0x01, 0x0d, 0xb8, 0x00, 0x00, 0x00, 0x05, 0x00, 0x00,
    0x00, 0x00, 0x00, 0x00, 0xbe, 0xef, 0x14, 0xe9, 0x01, 0xbb, 0x00, 0x1d, 0x1a, 0x96, 0x54, 0x6f,
    0x20, 0x62, 0x65, 0x20, 0x63, 0x75, 0x74, 0x20, 0x69, 0x6e, 0x20, 0x74, 0x68, 0x72, 0x65, 0x65,
    0x21, 0x21, 0x0a,
];

/// Piece 0 of 11 bytes.
#[rustfmt::skip]
pub(crate) const USO6_0: &[u8] = &[
    0x02, 0x00, 0x00, 0x00, 0x00, 0x0b, 0x02, 0x00, 0x00, 0x00, 0x00, 0x0a, 0x86, 0xdd, 0x60, 0x21,
    0x23, 0x45, 0x00, 0x13, 0x11, 0x3f, 0x20, 0x01, 0x0d, 0xb8, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00,
    0x00, 0x00, 0x00, 0x00, 0x00, 0x01, 0x20, 0x01, 0x0d, 0xb8, 0x00, 0x00, 0x00, 0x05, 0x00, 0x00,
    0x00, 0x00, 0x00, 0x00, 0xbe, 0xef, 0x14, 0xe9, 0x01, 0xbb, 0x00, 0x13, 0xb4, 0x34, 0x54, 0x6f,
    0x20, 0x62, 0x65, 0x20, 0x63, 0x75, 0x74, 0x20, 0x69,
];

/// Piece 1, the last, 10 bytes.
#[rustfmt::skip]
pub(crate) const USO6_1: &[u8] = &[
    0x02, 0x00, 0x00, 0x00, 0x00, 0x0b, 0x02, 0x00, 0x00, 0x00, 0x00, 0x0a, 0x86, 0xdd, 0x60, 0x21,
    0x23, 0x45, 0x00, 0x12, 0x11, 0x3f, 0x20, 0x01, 0x0d, 0xb8, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00,
    0x00, 0x00, 0x00, 0x00, 0x00, 0x01, 0x20, 0x01, 0x0d, 0xb8, 0x00, 0x00, 0x00, 0x05, 0x00, 0x00,
    0x00, 0x00, 0x00, 0x00, 0xbe, 0xef, 0x14, 0xe9, 0x01, 0xbb, 0x00, 0x12, 0xf3, 0xa4, 0x6e, 0x20,
    0x74, 0x68, 0x72, 0x65, 0x65, 0x21, 0x21, 0x0a,
];

/// What `TSO4` and the others ask for.
pub(crate) const ASK_TSO4: Offload = ask(34, Gso::Tcp4, 8);
const ASK_TSO6: Offload = ask(62, Gso::Tcp6, 7);
const ASK_USO4: Offload = ask(34, Gso::Udp4, 10);
const ASK_USO6: Offload = ask(54, Gso::Udp6, 11);
pub(crate) const ASK_UDP: Offload = Offload { csum_start: 34, csum_offset: 6, gso: Gso::None, gso_size: 0, ecn: false };

const fn ask(csum_start: u16, gso: Gso, gso_size: u16) -> Offload {
    let csum_offset = if matches!(gso, Gso::Tcp4 | Gso::Tcp6) { 16 } else { 6 };
    Offload { csum_start, csum_offset, gso, gso_size, ecn: matches!(gso, Gso::Tcp4) }
}

/// A frame, how it is to be cut, and its pieces.
type Cut = (&'static [u8], Offload, &'static [&'static [u8]]);

const CUT: [Cut; 4] = [
    (TSO4, ASK_TSO4, &[TSO4_0, TSO4_1, TSO4_2]),
    (TSO6, ASK_TSO6, &[TSO6_0, TSO6_1, TSO6_2]),
    (USO4, ASK_USO4, &[USO4_0, USO4_1, USO4_2]),
    (USO6, ASK_USO6, &[USO6_0, USO6_1]),
];

const ALL: Accepts = Accepts { csum: true, tso4: true, tso6: true, ecn: true, uso4: true, uso6: true };
const NOTHING: Accepts = Accepts { csum: false, tso4: false, tso6: false, ecn: false, uso4: false, uso6: false };

/// A port that notes what it is given, and has room for `room` frames.
pub(crate) struct Port {
    pub(crate) accepts: Accepts,
    pub(crate) sent: Vec<(Vec<u8>, Option<Offload>)>,
    /// Where the heads of these were.
    heads: Vec<usize>,
    pub(crate) room: usize,
}

impl Port {
    pub(crate) fn new(accepts: Accepts) -> Port {
        Port { accepts, sent: Vec::new(), heads: Vec::new(), room: usize::MAX }
    }

    fn frames(&self) -> Vec<&[u8]> {
        self.sent.iter().map(|(bytes, _)| &bytes[..]).collect()
    }
}

impl Tx for Port {
    fn send(&mut self, burst: &mut Burst, frames: &[u16]) -> Sent {
        assert!(!frames.is_empty());
        let mut sent = Sent::default();
        for &i in frames {
            if self.sent.len() == self.room {
                burst.drop(i, crate::Drop::TxRingFull);
                continue;
            }
            let frame = burst.frame(i);
            self.sent.push((to_vec(burst, frame), frame.offload()));
            self.heads.push(frame.head().as_ptr() as usize);
            sent.packets += 1;
            sent.bytes += frame.len() as u64;
        }
        sent
    }

    fn accepts(&self) -> Accepts {
        self.accepts
    }
}

/// Appends `bytes` with a head of `head` bytes, in segments as long as `lengths` says, again and again.
#[allow(unsafe_code)]
fn push(burst: &mut Burst, bytes: &'static [u8], head: usize, lengths: &[usize]) {
    burst.set_head_len(head);
    let mut lengths = lengths.iter().cycle();
    let mut rest = bytes;
    for n in 0.. {
        let part = rest.split_off(..rest.len().min(*lengths.next().unwrap())).unwrap();
        // SAFETY: the bytes are static.
        unsafe {
            match n {
                0 => burst.push(part.as_ptr(), part.len() as u32, 0),
                _ => burst.chain(part.as_ptr(), part.len() as u32),
            }
        }
        if rest.is_empty() {
            return;
        }
    }
}

/// Sends one frame to a port that takes `accepts`; how many frames that added.
fn send_one(port: &mut Port, bytes: &'static [u8], offload: Offload, head: usize, lengths: &[usize]) -> u32 {
    let mut burst = Burst::default();
    push(&mut burst, bytes, head, lengths);
    assert!(burst.set_offload(offload), "{offload:?}");
    let (sent, added, drops) = send(&mut [port], &mut burst, &[0]);
    assert_eq!(sent.packets + drops.values().sum::<u32>(), 1 + added);
    assert_eq!(sent.bytes, port.sent.iter().map(|(bytes, _)| bytes.len() as u64).sum::<u64>());
    added
}

/// Sends these frames of `burst` to all `ports`. What was sent, how many frames segmentation added, and what was dropped.
fn send(ports: &mut [&mut Port], burst: &mut Burst, frames: &[u16]) -> (Sent, u32, HashMap<&'static str, u32>) {
    let mut all = Selection::NONE;
    frames.iter().for_each(|&i| all.add(i));
    let to = |port| Leaving { port, ..Leaving::new(Egress::port(port, 0), all) };
    let mut leaving = (0..ports.len() as u16).map(to).collect();
    let mut out = Ports { ports, sent: Sent::default(), drops: HashMap::new(), added: 0 };
    let switched = Send::default().send(burst, &mut leaving, &mut out);
    assert_eq!(switched as usize, out.ports.len() * frames.len());
    (out.sent, out.added, out.drops)
}

/// Ports by number, and what they were given.
struct Ports<'a, 'b> {
    ports: &'a mut [&'b mut Port],
    sent: Sent,
    drops: HashMap<&'static str, u32>,
    added: u32,
}

impl Output for Ports<'_, '_> {
    fn send(&mut self, port: u16, burst: &mut Burst, frames: &[u16]) {
        let sent = self.ports[port as usize].send(burst, frames);
        self.dropped(port, burst);
        self.sent.packets += sent.packets;
        self.sent.bytes += sent.bytes;
    }

    fn accepts(&self, port: u16) -> Option<Accepts> {
        Some(self.ports[port as usize].accepts)
    }

    fn segmented(&mut self, _: u16, added: u32) {
        self.added += added;
    }

    fn dropped(&mut self, _: u16, burst: &mut Burst) {
        burst.tx_drops.take(|reason, n| *self.drops.entry(reason.name()).or_default() += n);
    }

    fn punt(&mut self, _: PuntReason, _: u16, _: u16, _: impl FnOnce() -> Vec<u8>) -> bool {
        false
    }
}

/// The one's-complement sum of 16-bit words, a word at a time.
fn naive(parts: &[&[u8]]) -> u16 {
    let bytes = parts.concat();
    bytes.chunks(2).fold(0, |sum: u16, word| {
        let (sum, carry) = sum.overflowing_add(u16::from_be_bytes([word[0], *word.get(1).unwrap_or(&0)]));
        sum + u16::from(carry)
    })
}

/// Checks lengths and checksums of an untagged TCP or UDP frame without extension headers, and returns its payload.
fn payload(frame: &[u8]) -> &[u8] {
    let ip = &frame[14..];
    let v4 = ip[0] >> 4 == 4;
    let (protocol, l4, addresses) = if v4 { (ip[9], 20, &ip[12..20]) } else { (ip[6], 40, &ip[8..40]) };
    if v4 {
        assert_eq!(be16(ip, 2) as usize, ip.len());
        assert_eq!(naive(&[&ip[..20]]), 0xffff);
    } else {
        assert_eq!(be16(ip, 4) as usize, ip.len() - 40);
    }
    let segment = &ip[l4..];
    let length = (segment.len() as u16).to_be_bytes();
    assert_eq!(naive(&[addresses, &[0, protocol], &length, segment]), 0xffff);
    if protocol == 17 {
        assert_eq!(be16(segment, 4) as usize, segment.len());
        return &segment[8..];
    }
    &segment[(segment[12] >> 4) as usize * 4..]
}

/// How the bytes of a frame may lie in memory.
const LENGTHS: [&[usize]; 5] = [&[9999], &[1], &[7, 1, 2], &[60, 3], &[33, 4, 1]];

#[test]
fn checksums_are_completed_wherever_the_bytes_are() {
    for (frame, done) in [(UDP4, UDP4_DONE), (UDP4_ZERO, UDP4_ZERO_DONE)] {
        for lengths in LENGTHS {
            for head in 42..=46 {
                let mut port = Port::new(NOTHING);
                assert_eq!(send_one(&mut port, frame, ASK_UDP, head, lengths), 0);
                assert_eq!(port.sent, [(done.to_vec(), None)], "{head} bytes of head, segments of {lengths:?}");
            }
        }
        let mut port = Port::new(Accepts { csum: true, ..NOTHING });
        send_one(&mut port, frame, ASK_UDP, HEAD_MAX, &[9999]);
        assert_eq!(port.sent, [(frame.to_vec(), Some(ASK_UDP))]);
    }
}

#[test]
fn frames_are_cut_wherever_the_bytes_are() {
    for (frame, offload, pieces) in CUT {
        let headers = frame.len() - 21;
        for lengths in LENGTHS {
            for head in headers..=frame.len() {
                let mut port = Port::new(NOTHING);
                let added = send_one(&mut port, frame, offload, head, lengths);
                assert_eq!(port.frames(), pieces, "{offload:?}, {head} bytes of head, segments of {lengths:?}");
                assert_eq!(added as usize, pieces.len() - 1);
                assert!(port.sent.iter().all(|(_, left)| left.is_none()));
            }
        }
    }
}

#[test]
fn a_receiver_gets_undone_what_it_takes() {
    let but = |change: fn(&mut Accepts)| {
        let mut accepts = ALL;
        change(&mut accepts);
        accepts
    };
    let lacks = [
        but(|a| (a.tso4, a.ecn) = (false, true)),
        but(|a| a.tso6 = false),
        but(|a| a.uso4 = false),
        but(|a| a.uso6 = false),
    ];
    for ((frame, offload, pieces), lacks) in CUT.into_iter().zip(lacks) {
        let mut port = Port::new(ALL);
        assert_eq!(send_one(&mut port, frame, offload, HEAD_MAX, &[9999]), 0);
        assert_eq!(port.sent, [(frame.to_vec(), Some(offload))]);
        for accepts in [lacks, but(|a| a.csum = false)] {
            let mut port = Port::new(accepts);
            send_one(&mut port, frame, offload, HEAD_MAX, &[9999]);
            assert_eq!(port.frames(), pieces);
        }
    }
    let mut port = Port::new(but(|a| a.ecn = false));
    assert_eq!(send_one(&mut port, TSO4, ASK_TSO4, HEAD_MAX, &[9999]), 2);
    let mut port = Port::new(but(|a| a.ecn = false));
    assert_eq!(send_one(&mut port, TSO4, Offload { ecn: false, ..ASK_TSO4 }, HEAD_MAX, &[9999]), 0);
}

#[test]
fn without_ecn_all_segments_keep_cwr() {
    let mut port = Port::new(NOTHING);
    send_one(&mut port, TSO4, Offload { ecn: false, ..ASK_TSO4 }, HEAD_MAX, &[9999]);
    let flags: Vec<u8> = port.frames().iter().map(|f| f[47]).collect();
    assert_eq!(flags, [0x90, 0x90, 0x99]);
    let payloads: Vec<&[u8]> = port.frames().into_iter().map(payload).collect();
    assert_eq!(payloads.concat(), TSO4[54..]);
}

#[test]
fn order_is_kept_and_what_is_shared_is_completed_once() {
    let mut burst = Burst::default();
    for (frame, offload) in [
        (UDP4_DONE, None),
        (TSO4, Some(ASK_TSO4)),
        (UDP4, Some(ASK_UDP)),
        (USO6, Some(ASK_USO6)),
        (USO4, Some(ASK_USO4)),
        (TSO6_0, None),
    ] {
        push(&mut burst, frame, HEAD_MAX, &[9999]);
        assert!(offload.is_none_or(|offload| burst.set_offload(offload)));
    }
    let frames = [0, 1, 2, 3, 4, 5];
    let mut port = Port::new(Accepts { csum: true, uso6: true, ..NOTHING });
    let (sent, added, drops) = send(&mut [&mut port], &mut burst, &frames);
    assert_eq!((sent.packets, added, drops), (10, 4, HashMap::new()));
    let expected = [UDP4_DONE, TSO4_0, TSO4_1, TSO4_2, UDP4, USO6, USO4_0, USO4_1, USO4_2, TSO6_0];
    assert_eq!(port.frames(), expected);
    // A frame is as good for the next port as it was for the first.
    for _ in 0..2 {
        let mut port = Port::new(NOTHING);
        send(&mut [&mut port], &mut burst, &frames);
        let whole = [UDP4_DONE, TSO4_0, TSO4_1, TSO4_2, UDP4_DONE];
        assert_eq!(port.frames(), [&whole[..], &[USO6_0, USO6_1, USO4_0, USO4_1, USO4_2, TSO6_0]].concat());
    }
    // What doesn't fit is the port's to count.
    let mut port = Port { room: 4, ..Port::new(NOTHING) };
    let (sent, added, drops) = send(&mut [&mut port], &mut burst, &frames);
    assert_eq!((sent.packets, added, drops), (4, 5, HashMap::from([("tx.ring_full", 7)])));
}

/// Each receiver gets all in order, in pieces or whole, whatever the others take; the pieces are made once.
#[test]
fn pieces_are_made_once_for_all_receivers() {
    let mut burst = Burst::default();
    for (frame, offload) in
        [(TSO6_0, None), (TSO4, Some(ASK_TSO4)), (UDP4_DONE, None), (USO6, Some(ASK_USO6)), (TSO6_1, None)]
    {
        push(&mut burst, frame, HEAD_MAX, &[9999]);
        assert!(offload.is_none_or(|offload| burst.set_offload(offload)));
    }
    let mut ports = [NOTHING, ALL, Accepts { uso6: true, csum: true, ..NOTHING }, NOTHING].map(Port::new);
    send(&mut ports.each_mut(), &mut burst, &[0, 1, 2, 3, 4]);
    let cut = [TSO6_0, TSO4_0, TSO4_1, TSO4_2, UDP4_DONE, USO6_0, USO6_1, TSO6_1];
    assert_eq!(ports[0].frames(), cut);
    assert_eq!(ports[1].frames(), [TSO6_0, TSO4, UDP4_DONE, USO6, TSO6_1]);
    assert_eq!(ports[2].frames(), [TSO6_0, TSO4_0, TSO4_1, TSO4_2, UDP4_DONE, USO6, TSO6_1]);
    assert_eq!(ports[3].frames(), cut);
    // It is the same piece that both are given: the place that its head is in says so.
    assert_eq!(ports[0].heads[1..4], ports[3].heads[1..4]);
    assert_eq!(burst.pieces, 2 * (3 + 2) + 3);
}

/// However many frames, receivers and pieces there are: so many pieces, and what is refused has its reason.
#[test]
fn a_burst_makes_a_bounded_number_of_pieces() {
    let frame = long(&TSO4[..54], 40 + 512);
    for (gso_size, frames, receivers) in [(1, 1, 16), (1, 1, 17), (1, 64, 1), (8, 64, 2), (8, 64, 3), (512, 64, 40)] {
        let mut burst = Burst::default();
        for _ in 0..frames {
            push(&mut burst, frame, HEAD_MAX, &[9999]);
            assert!(burst.set_offload(Offload { gso_size, ..ASK_TSO4 }));
        }
        let mut ports: Vec<Port> = (0..receivers).map(|_| Port::new(NOTHING)).collect();
        let mut ports: Vec<&mut Port> = ports.iter_mut().collect();
        let all: Vec<u16> = (0..frames).collect();
        let (sent, added, drops) = send(&mut ports, &mut burst, &all);
        let pieces = 512 / u32::from(gso_size);
        let wanted = u32::from(frames) * receivers;
        let whole = wanted.min(ADDED_MAX / pieces);
        assert_eq!((sent.packets, added), (whole * pieces, whole * (pieces - 1)));
        let refused = drops.values().sum();
        assert_eq!((wanted - whole, drops.get("tx.too_many_pieces").copied().unwrap_or(0)), (refused, refused));
    }
    // The next burst begins anew.
    let mut burst = Burst::default();
    for _ in 0..3 {
        burst.clear();
        push(&mut burst, frame, HEAD_MAX, &[9999]);
        assert!(burst.set_offload(Offload { gso_size: 1, ..ASK_TSO4 }));
        let mut port = Port::new(NOTHING);
        assert_eq!(send(&mut [&mut port], &mut burst, &[0]).0.packets, 512);
    }
}

/// Headers of `TSO4` or another, and a payload that makes the IP packet `ip_len` bytes long.
fn long(headers: &[u8], ip_len: usize) -> &'static [u8] {
    let mut frame = headers.to_vec();
    frame.extend((headers.len()..14 + ip_len).map(|i| (i * 7 / 3) as u8));
    frame.leak()
}

#[test]
fn the_longest_frames_arrive_in_pieces() {
    for (headers, mut offload) in [(&TSO4[..54], ASK_TSO4), (&USO6[..62], ASK_USO6)] {
        let frame = long(headers, IP_MAX);
        assert!(frame.len() <= GSO_MAX);
        // Many pieces, an ordinary size, one that leaves a byte, all in one.
        for gso_size in [64, 1448, (IP_MAX - 41) as u16, 65_535] {
            offload.gso_size = gso_size;
            for lengths in [&[4099][..], &[2048]] {
                let mut port = Port::new(NOTHING);
                let added = send_one(&mut port, frame, offload, HEAD_MAX, lengths) as usize;
                let bytes = frame.len() - headers.len();
                assert_eq!(added + 1, bytes.div_ceil(gso_size as usize));
                let sent: Vec<&[u8]> = port.frames().into_iter().map(payload).collect();
                assert!(sent[..added].iter().all(|p| p.len() == gso_size as usize));
                assert!(sent.concat() == frame[headers.len()..], "the payload is as it was");
            }
        }
    }
}

#[test]
fn requests_that_contradict_the_frame_are_refused() {
    let takes = |frame: &[u8], offload: Offload, head: usize| {
        let mut burst = Burst::default();
        push(&mut burst, frame.to_vec().leak(), head, &[9999]);
        let taken = burst.set_offload(offload);
        assert_eq!(burst.len(), usize::from(taken));
        assert_eq!(burst.has_offloads(), taken);
        taken
    };
    let at = |csum_start, csum_offset| Offload { csum_start, csum_offset, ..ASK_UDP };
    // Where the checksum is.
    assert!(takes(UDP4, at(34, 9), HEAD_MAX) && !takes(UDP4, at(34, 10), HEAD_MAX), "beyond the frame");
    assert!(takes(UDP4, at(34, 6), 42) && !takes(UDP4, at(34, 6), 41), "beyond the head");
    assert!(takes(UDP4, at(14, 0), 42) && !takes(UDP4, at(13, 0), 42), "within the Ethernet header");
    assert!(!takes(UDP4, at(0xffff, 0xffff), 42));
    assert!(!takes(&UDP4[..13], at(4, 0), 42) && !takes(&UDP4[..15], at(14, 0), 42));
    let tagged = |n: usize| [&UDP4[..12], &[0x81, 0, 0, 7, 0x88, 0xa8, 0, 7][..4 * n], &UDP4[12..]].concat();
    assert!(takes(&tagged(1), at(18, 0), 42) && !takes(&tagged(1), at(17, 0), 42), "within a tag");
    assert!(takes(&tagged(2), at(22, 0), 42) && !takes(&tagged(2), at(21, 0), 42), "within a second tag");

    // How it is cut.
    for (frame, offload, _) in CUT {
        let is_tcp = offload.csum_offset == 16;
        let headers = frame.len() - 21;
        assert!(takes(frame, offload, headers) && !takes(frame, offload, headers - 1), "headers beyond the head");
        assert!(!takes(&frame[..headers], offload, headers), "no payload");
        assert!(takes(&frame[..headers + 1], offload, headers), "one byte of it");
        assert!(!takes(frame, Offload { gso_size: 0, ..offload }, HEAD_MAX));
        assert!(!takes(frame, Offload { csum_offset: offload.csum_offset ^ 22, ..offload }, HEAD_MAX));
        assert!(!takes(frame, Offload { csum_start: offload.csum_start + 2, ..offload }, HEAD_MAX));
        assert!(!takes(frame, Offload { csum_start: offload.csum_start - 2, ..offload }, HEAD_MAX));
        assert_eq!(takes(frame, Offload { ecn: true, ..offload }, HEAD_MAX), is_tcp);
        for gso in [Gso::Tcp4, Gso::Tcp6, Gso::Udp4, Gso::Udp6] {
            assert_eq!(takes(frame, Offload { gso, ecn: false, ..offload }, HEAD_MAX), gso == offload.gso);
        }
        let tagged = [&frame[..12], &[0x88, 0xa8, 0, 7, 0x81, 0, 0, 7], &frame[12..]].concat();
        assert!(takes(&tagged, Offload { csum_start: offload.csum_start + 8, ..offload }, HEAD_MAX));
        let changed = |at: usize, byte: u8| {
            let mut frame = frame.to_vec();
            frame[at] = byte;
            takes(&frame, offload, HEAD_MAX)
        };
        assert!(!changed(13, 6), "EtherType");
        assert!(!changed(14, 0x55), "version");
        if offload.gso.is_ipv6() {
            assert!(!changed(20, 44), "a fragment header");
        } else {
            assert!(!changed(14, 0x44) && !changed(14, 0x46), "header length");
            assert!(!changed(20, 0x20) && !changed(21, 1), "a fragment");
            assert!(!changed(23, 1), "protocol");
        }
        if is_tcp {
            let at = offload.csum_start as usize + 12;
            assert!(!changed(at, 0x40) && !changed(at, 0xf0), "data offset");
        }
    }
    let three = [&TSO4[..12], &[0x81, 0, 0, 7].repeat(3), &TSO4[12..]].concat();
    assert!(!takes(&three, Offload { csum_start: 46, ..ASK_TSO4 }, HEAD_MAX), "three tags");
    let mut short = USO4.to_vec();
    short[14] = 0x44;
    assert!(!takes(&short, Offload { csum_start: 30, ..ASK_USO4 }, HEAD_MAX), "an IPv4 header of 16 bytes");
    let mut routed = TSO6.to_vec();
    (routed[20], routed[57]) = (43, 0);
    assert!(takes(&routed, ASK_TSO6, HEAD_MAX));
    routed[57] = 1;
    assert!(!takes(&routed, ASK_TSO6, HEAD_MAX), "segments left in a routing header");
    let endless = [&TSO6[..54], &[0; 200]].concat();
    assert!(!takes(&endless, ASK_TSO6, HEAD_MAX), "extension headers beyond the head");

    // How many pieces, and of what.
    let some = |payload: usize| long(&TSO4[..54], 40 + payload);
    let bytes = |gso_size| Offload { gso_size, ..ASK_TSO4 };
    assert!(takes(some(1024), bytes(1), HEAD_MAX) && !takes(some(1025), bytes(1), HEAD_MAX));
    assert!(takes(some(2048), bytes(2), HEAD_MAX) && !takes(some(2049), bytes(2), HEAD_MAX));
    assert!(takes(long(TSO4, IP_MAX), bytes(64), HEAD_MAX) && !takes(long(TSO4, IP_MAX), bytes(63), HEAD_MAX));
    assert!(!takes(long(TSO4, IP_MAX + 1), bytes(1448), HEAD_MAX), "no IP packet is that long");
}

#[test]
fn a_burst_that_is_cleared_forgets_what_was_undone() {
    let mut burst = Burst::default();
    push(&mut burst, UDP4, HEAD_MAX, &[9999]);
    assert!(burst.set_offload(ASK_UDP));
    assert_eq!((burst.has_offloads(), burst.frame(0).offload()), (true, Some(ASK_UDP)));
    burst.clear();
    push(&mut burst, UDP4, HEAD_MAX, &[9999]);
    assert_eq!((burst.has_offloads(), burst.frame(0).offload()), (false, None));
}

/// The outer headers of a frame of `len` bytes that VXLAN carries, without checksums.
fn outer(len: usize) -> Vec<u8> {
    let [ip, udp] = [len as u16 + 36, len as u16 + 16].map(u16::to_be_bytes);
    let mut bytes = vec![2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1, 8, 0, 0x45, 0, ip[0], ip[1], 0, 0, 0x40, 0, 64, 17, 0, 0];
    bytes.extend([10, 9, 0, 1, 10, 9, 0, 2, 0xc0, 0, 0x12, 0xb5, udp[0], udp[1], 0, 0, 8, 0, 0, 0, 0, 0, 42, 0]);
    bytes
}

/// 100,000 requests, random and mutated from valid ones: no panic, and what is accepted is sent, whole.
#[test]
fn any_request_is_refused_or_done() {
    let mut x = 0x9e37_79b9_7f4a_7c15u64;
    let mut random = move |n: usize| {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        (x >> 11) as usize % n
    };
    let mut burst = Burst::default();
    let (mut done, mut refused) = (0, 0);
    for _ in 0..100_000 {
        burst.clear();
        burst.set_head_len([HEAD_MAX, 64, 1 + random(HEAD_MAX)][random(3)]);
        let (frame, mut offload, _) = CUT[random(4)];
        let mut frame = frame.to_vec();
        if random(4) == 0 {
            frame = [outer(frame.len()), frame].concat();
            offload.csum_start += OUTER as u16;
        }
        match random(4) {
            0 => (0..random(100)).for_each(|_| frame[random(60)] = random(256) as u8),
            1 => frame.truncate(random(frame.len() + 1)),
            2 => frame[random(60)] ^= 1 << random(8),
            _ => frame.resize(random(FRAME_MAX), 0x5a),
        }
        match random(6) {
            0 => offload.csum_start = random(300) as u16,
            1 => offload.csum_offset = random(300) as u16,
            2 => (offload.csum_start, offload.csum_offset) = (random(65_536) as u16, random(65_536) as u16),
            3 => offload.gso = [Gso::None, Gso::Tcp4, Gso::Tcp6, Gso::Udp4, Gso::Udp6][random(5)],
            4 => offload.gso_size = random(65_536) as u16,
            _ => {}
        }
        let len = frame.len();
        burst.push_owned(frame);
        if !burst.set_offload(offload) {
            refused += 1;
            continue;
        }
        done += 1;
        let mut port = Port::new(NOTHING);
        let (sent, added, _) = send(&mut [&mut port], &mut burst, &[0]);
        assert_eq!(sent.packets, 1 + added);
        assert!(added < PIECES_MAX as u32);
        if offload.gso == Gso::None {
            assert_eq!(sent.bytes, len as u64);
        } else {
            let transport =
                if offload.csum_offset == 6 { 8 } else { (port.sent[0].0[offload.csum_start as usize + 12] >> 4) * 4 };
            let headers = offload.csum_start as u64 + transport as u64;
            assert_eq!(sent.bytes, len as u64 + added as u64 * headers);
        }
    }
    assert!(done > 10_000 && refused > 10_000, "{done} done, {refused} refused");
}
