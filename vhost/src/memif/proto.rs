//! Messages of the control channel: memif protocol 2.0 (VPP's `memif.h`), 128 bytes each, little-endian, packed.

/// Size of every message.
pub const SIZE: usize = 128;
/// Protocol version 2.0, the only one.
pub const VERSION: u16 = 0x200;
/// What a ring begins with.
pub const COOKIE: u32 = 0x3E3_1F20;
/// Bytes of a secret (`MEMIF_SECRET_SIZE`).
pub const SECRET_SIZE: usize = 24;
/// Interface mode: frames with an Ethernet header.
pub const MODE_ETHERNET: u8 = 0;

/// One message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    /// Server to client: done.
    Ack,
    /// Server to client, first: what it can do.
    Hello {
        /// The server's software.
        name: String,
        /// Lowest protocol version.
        min_version: u16,
        /// Highest protocol version.
        max_version: u16,
        /// Highest region index.
        max_region: u16,
        /// Highest index of a ring from server to client.
        max_m2s_ring: u16,
        /// Highest index of a ring from client to server.
        max_s2m_ring: u16,
        /// Base-2 logarithm of the largest ring size.
        max_log2_ring_size: u8,
    },
    /// Client to server: which interface it wants.
    Init {
        /// Protocol version.
        version: u16,
        /// Interface id.
        id: u32,
        /// 0: Ethernet.
        mode: u8,
        /// Padded with zeros.
        secret: [u8; SECRET_SIZE],
        /// The client's software.
        name: String,
    },
    /// Client to server, with the region's file.
    AddRegion {
        /// Index, from 0 upwards.
        index: u16,
        /// Bytes.
        size: u64,
    },
    /// Client to server, with the ring's eventfd.
    AddRing {
        /// Whether the client sends on it.
        s2m: bool,
        /// Index among the rings of its direction, from 0 upwards.
        index: u16,
        /// Region the ring is in.
        region: u16,
        /// Where in the region.
        offset: u32,
        /// Base-2 logarithm of its size.
        log2_size: u8,
        /// Bytes of private metadata in front of frames.
        private_header: u16,
    },
    /// Client to server: everything was said.
    Connect {
        /// The client's interface.
        interface: String,
    },
    /// Server to client: the link is up.
    Connected {
        /// The server's interface.
        interface: String,
    },
    /// Either to the other: the link goes down.
    Disconnect {
        /// Unused.
        code: u32,
        /// Why.
        reason: String,
    },
}

/// A name of the peer's: up to its first zero byte, with everything that is not printable ASCII replaced, because it
/// is shown and logged.
fn text(bytes: &[u8]) -> String {
    let clean = |&b: &u8| if (0x20..0x7f).contains(&b) { b as char } else { '?' };
    bytes.iter().take_while(|&&b| b != 0).map(clean).collect()
}

/// As much of `s` as leaves room for a zero byte.
fn put_text(at: &mut [u8], s: &str) {
    let n = s.len().min(at.len() - 1);
    at[..n].copy_from_slice(&s.as_bytes()[..n]);
}

fn u16_at(b: &[u8; SIZE], at: usize) -> u16 {
    u16::from_le_bytes([b[at], b[at + 1]])
}

fn u32_at(b: &[u8; SIZE], at: usize) -> u32 {
    u32::from_le_bytes([b[at], b[at + 1], b[at + 2], b[at + 3]])
}

impl Message {
    /// The bytes on the wire.
    pub fn encode(&self) -> [u8; SIZE] {
        let mut b = [0; SIZE];
        let mut at = 2;
        let mut put = |b: &mut [u8; SIZE], v: &[u8]| {
            b[at..at + v.len()].copy_from_slice(v);
            at += v.len();
        };
        match self {
            Message::Ack => b[0] = 1,
            Message::Hello {
                name,
                min_version,
                max_version,
                max_region,
                max_m2s_ring,
                max_s2m_ring,
                max_log2_ring_size,
            } => {
                b[0] = 2;
                put_text(&mut b[2..34], name);
                for (i, v) in [min_version, max_version, max_region, max_m2s_ring, max_s2m_ring].into_iter().enumerate()
                {
                    b[34 + 2 * i..36 + 2 * i].copy_from_slice(&v.to_le_bytes());
                }
                b[44] = *max_log2_ring_size;
            }
            Message::Init { version, id, mode, secret, name } => {
                b[0] = 3;
                put(&mut b, &version.to_le_bytes());
                put(&mut b, &id.to_le_bytes());
                put(&mut b, &[*mode]);
                put(&mut b, secret);
                put_text(&mut b[33..65], name);
            }
            Message::AddRegion { index, size } => {
                b[0] = 4;
                put(&mut b, &index.to_le_bytes());
                put(&mut b, &size.to_le_bytes());
            }
            Message::AddRing { s2m, index, region, offset, log2_size, private_header } => {
                b[0] = 5;
                put(&mut b, &u16::from(*s2m).to_le_bytes());
                put(&mut b, &index.to_le_bytes());
                put(&mut b, &region.to_le_bytes());
                put(&mut b, &offset.to_le_bytes());
                put(&mut b, &[*log2_size]);
                put(&mut b, &private_header.to_le_bytes());
            }
            Message::Connect { interface } => {
                b[0] = 6;
                put_text(&mut b[2..34], interface);
            }
            Message::Connected { interface } => {
                b[0] = 7;
                put_text(&mut b[2..34], interface);
            }
            Message::Disconnect { code, reason } => {
                b[0] = 8;
                put(&mut b, &code.to_le_bytes());
                put_text(&mut b[6..102], reason);
            }
        }
        b
    }

    /// Reads what a peer sent; `None` if there is no such message.
    pub fn decode(b: &[u8; SIZE]) -> Option<Message> {
        Some(match u16_at(b, 0) {
            1 => Message::Ack,
            2 => Message::Hello {
                name: text(&b[2..34]),
                min_version: u16_at(b, 34),
                max_version: u16_at(b, 36),
                max_region: u16_at(b, 38),
                max_m2s_ring: u16_at(b, 40),
                max_s2m_ring: u16_at(b, 42),
                max_log2_ring_size: b[44],
            },
            3 => Message::Init {
                version: u16_at(b, 2),
                id: u32_at(b, 4),
                mode: b[8],
                secret: std::array::from_fn(|i| b[9 + i]),
                name: text(&b[33..65]),
            },
            4 => Message::AddRegion {
                index: u16_at(b, 2),
                size: u64::from(u32_at(b, 4)) | u64::from(u32_at(b, 8)) << 32,
            },
            5 => Message::AddRing {
                s2m: u16_at(b, 2) & 1 != 0,
                index: u16_at(b, 4),
                region: u16_at(b, 6),
                offset: u32_at(b, 8),
                log2_size: b[12],
                private_header: u16_at(b, 13),
            },
            6 => Message::Connect { interface: text(&b[2..34]) },
            7 => Message::Connected { interface: text(&b[2..34]) },
            8 => Message::Disconnect { code: u32_at(b, 2), reason: text(&b[6..102]) },
            _ => return None,
        })
    }
}

/// A secret as it is sent: padded with zeros, cut after [`SECRET_SIZE`] bytes.
pub fn secret(s: Option<&str>) -> [u8; SECRET_SIZE] {
    let mut out = [0; SECRET_SIZE];
    for (to, from) in out.iter_mut().zip(s.unwrap_or("").bytes()) {
        *to = from;
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The message of these first bytes, and zeros.
    fn bytes(first: &[u8]) -> [u8; SIZE] {
        let mut b = [0; SIZE];
        b[..first.len()].copy_from_slice(first);
        b
    }

    fn check(first: &[u8], message: Message) {
        assert_eq!(message.encode(), bytes(first), "{message:?}");
        assert_eq!(Message::decode(&bytes(first)), Some(message));
    }

    #[test]
    fn literal_bytes() {
        check(&[1], Message::Ack);
        let mut hello = [0; 45];
        hello[..9].copy_from_slice(b"\x02\x00VPP 1.0");
        hello[34..].copy_from_slice(&[0, 2, 0, 2, 0xff, 0, 0x0f, 0, 0x0e, 0, 14]);
        check(
            &hello,
            Message::Hello {
                name: "VPP 1.0".into(),
                min_version: 0x200,
                max_version: 0x200,
                max_region: 255,
                max_m2s_ring: 15,
                max_s2m_ring: 14,
                max_log2_ring_size: 14,
            },
        );
        let mut init = [0; 37];
        init[..13].copy_from_slice(&[3, 0, 0, 2, 4, 3, 2, 1, 0, b's', b'e', b'c', b'r']);
        init[33..].copy_from_slice(b"DPDK");
        check(
            &init,
            Message::Init {
                version: 0x200,
                id: 0x0102_0304,
                mode: 0,
                secret: secret(Some("secr")),
                name: "DPDK".into(),
            },
        );
        check(
            &[4, 0, 1, 0, 0x88, 0x77, 0x66, 0x55, 0x44, 0x33, 0x22, 0x11],
            Message::AddRegion { index: 1, size: 0x1122_3344_5566_7788 },
        );
        check(
            &[5, 0, 1, 0, 2, 0, 3, 0, 0x80, 0x10, 0, 0, 10, 6, 5],
            Message::AddRing { s2m: true, index: 2, region: 3, offset: 0x1080, log2_size: 10, private_header: 0x506 },
        );
        check(b"\x06\x00net_memif0", Message::Connect { interface: "net_memif0".into() });
        check(b"\x07\x00web", Message::Connected { interface: "web".into() });
        check(b"\x08\x00\x01\x00\x00\x00bye", Message::Disconnect { code: 1, reason: "bye".into() });
        assert_eq!(Message::decode(&bytes(&[0])), None);
        assert_eq!(Message::decode(&bytes(&[9])), None);
        assert_eq!(Message::decode(&bytes(&[1, 1])), None);
    }

    #[test]
    fn names_are_cut_and_cleaned() {
        let long = "x".repeat(200);
        let b = Message::Disconnect { code: 0, reason: long }.encode();
        assert_eq!(b[6 + 94..6 + 97], [b'x', 0, 0]);
        let b = bytes(b"\x06\x00a\x1b[31m\n\xff\x00zz");
        assert_eq!(Message::decode(&b), Some(Message::Connect { interface: "a?[31m??".into() }));
    }
}
