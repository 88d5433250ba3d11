//! Prepared frames: Ethernet, IPv4, UDP, and a payload that says which frame it is.

use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create};
use std::fs::File;
use std::io::{BufWriter, Write};
use std::os::fd::OwnedFd;
use std::sync::Arc;

/// The smallest frame in bytes, without FCS.
pub const SIZE_MIN: usize = 60;
/// The largest frame in bytes, without FCS.
pub const SIZE_MAX: usize = 9216;
/// The most flows.
pub const FLOWS_MAX: u32 = 1_000_000;
/// The most bytes of frames: offsets in descriptors have 32 bits.
const REGION_MAX: u64 = 1 << 31;
/// The payload begins with it.
const MAGIC: [u8; 4] = *b"Dray";
/// Ethernet, IPv4 and UDP headers.
const HEADERS: usize = 14 + 20 + 8;

/// What the frames of one direction look like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Bytes without FCS, [`SIZE_MIN`]..=[`SIZE_MAX`].
    pub size: usize,
    /// The 802.1Q tag, if any.
    pub vlan: Option<u16>,
    /// From B to A: source and destination addresses are exchanged.
    pub reverse: bool,
}

/// What the payload says about a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tag {
    /// As in [`Shape`].
    pub reverse: bool,
    /// The queue it was sent on.
    pub queue: u8,
    /// Its place among the queue's prepared frames, from 0 upwards.
    pub sequence: u64,
}

impl Tag {
    /// Bytes of a tag.
    pub const LEN: usize = 14;

    /// The tag in these bytes; `None` if they are not of a frame of ours.
    #[inline]
    pub fn read(b: &[u8; Self::LEN]) -> Option<Tag> {
        if b[..4] != MAGIC {
            return None;
        }
        let sequence = u64::from_be_bytes([b[6], b[7], b[8], b[9], b[10], b[11], b[12], b[13]]);
        Some(Tag { reverse: b[4] != 0, queue: b[5], sequence })
    }

    fn bytes(self) -> [u8; Self::LEN] {
        let mut b = [0; Self::LEN];
        b[..4].copy_from_slice(&MAGIC);
        b[4] = self.reverse.into();
        b[5] = self.queue;
        b[6..].copy_from_slice(&self.sequence.to_be_bytes());
        b
    }
}

/// The Internet checksum (RFC 1071) of `parts` put together; all but the last have an even length.
fn checksum(parts: &[&[u8]]) -> u16 {
    let mut sum = 0u64;
    for part in parts {
        for pair in part.chunks(2) {
            sum += u64::from(u16::from_be_bytes([pair[0], *pair.get(1).unwrap_or(&0)]));
        }
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

impl Shape {
    /// Where the payload begins, and in it the [`Tag`].
    pub fn tag_at(&self) -> usize {
        HEADERS + if self.vlan.is_some() { 4 } else { 0 }
    }

    /// Makes `frame` the frame of `flow` with `tag`.
    ///
    /// Station `i` on side A is 02:a0 and `i`, 10.0.0.1 plus `i`; on side B 02:b0 and `i`, 10.128.0.1 plus `i`. A flow goes
    /// from station `i` of one side to station `i` of the other.
    pub fn build(&self, flow: u32, tag: Tag, frame: &mut Vec<u8>) {
        let mac = |side: u8| [[0x02, side], [(flow >> 24) as u8, (flow >> 16) as u8], [(flow >> 8) as u8, flow as u8]];
        let ip = |side: u8| (u32::from_be_bytes([10, side, 0, 1]) + flow).to_be_bytes();
        let (from, to) = if self.reverse { ((0xb0, 128), (0xa0, 0)) } else { ((0xa0, 0), (0xb0, 128)) };
        frame.clear();
        frame.extend(mac(to.0).as_flattened());
        frame.extend(mac(from.0).as_flattened());
        if let Some(vlan) = self.vlan {
            frame.extend([0x81, 0x00]);
            frame.extend(vlan.to_be_bytes());
        }
        frame.extend([0x08, 0x00]);
        let l3 = frame.len();
        let len = self.size - l3;
        frame.extend([0x45, 0]);
        frame.extend((len as u16).to_be_bytes());
        // Identification 0, DF, TTL 64, UDP.
        frame.extend([0, 0, 0x40, 0, 64, 17, 0, 0]);
        frame.extend(ip(from.1));
        frame.extend(ip(to.1));
        let sum = checksum(&[&frame[l3..]]);
        frame[l3 + 10..l3 + 12].copy_from_slice(&sum.to_be_bytes());
        let l4 = frame.len();
        let len = (self.size - l4) as u16;
        // From a port of the flow's to "discard" (RFC 863).
        frame.extend((49152 + (flow % 16384) as u16).to_be_bytes());
        frame.extend(9u16.to_be_bytes());
        frame.extend(len.to_be_bytes());
        frame.extend([0, 0]);
        frame.extend(tag.bytes());
        frame.resize(self.size, 0);
        let sum = match checksum(&[&frame[l3 + 12..l3 + 20], &[0, 17], &len.to_be_bytes(), &frame[l4..]]) {
            0 => 0xffff,
            sum => sum,
        };
        frame[l4 + 6..l4 + 8].copy_from_slice(&sum.to_be_bytes());
    }
}

/// A walk through the prepared frames of one queue, for ever in the same order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Walk {
    start: u32,
    end: u32,
    stride: u32,
    at: u32,
}

impl Walk {
    /// The offset of the next frame in the region, or of its header if it has one.
    #[inline(always)]
    pub fn step(&mut self) -> u32 {
        let at = self.at;
        self.at += self.stride;
        if self.at == self.end {
            self.at = self.start;
        }
        at
    }

    /// Goes back to the first frame.
    pub fn restart(&mut self) {
        self.at = self.start;
    }

    /// How many frames there are.
    pub fn count(&self) -> u32 {
        (self.end - self.start) / self.stride
    }
}

/// The prepared frames of one direction, in a file to be shared as a region.
#[derive(Clone, Debug)]
pub struct Frames {
    /// The file: sealed against changes of its size.
    pub memory: Arc<OwnedFd>,
    /// The queues' frames.
    pub walks: Vec<Walk>,
}

impl Frames {
    /// Prepares the frames of `flows` flows, dealt out to `queues` queues. Every queue has as many frames of each of its
    /// flows, one flow after the other, and at least `least` in all. Frames lie `stride` bytes apart, and cache lines of
    /// their own for `header` bytes of zeros before each, if there is a header.
    ///
    /// # Errors
    /// If they are more than 2 GiB, or the kernel has no memory.
    pub fn build(
        shape: Shape,
        flows: u32,
        queues: u16,
        least: u32,
        stride: usize,
        header: usize,
    ) -> Result<Frames, String> {
        let io = |e: std::io::Error| format!("prepare frames: {e}");
        let queues = u32::from(queues);
        let lead = header.next_multiple_of(64);
        let stride = stride + lead;
        // Queue q has the flows from here to where those of the next begin; with fewer flows than queues, one of them.
        let first = |q: u32| (u64::from(q) * u64::from(flows) / u64::from(queues)) as u32;
        let counts: Vec<(u32, u32, u32)> = (0..queues)
            .map(|q| {
                let own = (first(q + 1) - first(q)).max(1);
                (first(q).min(flows - 1), own, own * least.div_ceil(own))
            })
            .collect();
        let bytes: u64 = counts.iter().map(|c| u64::from(c.2) * stride as u64).sum();
        if bytes > REGION_MAX {
            return Err(format!(
                "the frames of all flows need {bytes} bytes, more than 2 GiB: take fewer or smaller ones"
            ));
        }
        let memory =
            memfd_create("dray-perf", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING).map_err(|e| io(e.into()))?;
        let mut file = BufWriter::with_capacity(1 << 20, File::from(memory));
        let mut frame = Vec::with_capacity(stride);
        let mut walks = Vec::new();
        let mut at = 0;
        for (queue, (first, own, count)) in (0..).zip(counts) {
            for i in 0..count {
                let tag = Tag { reverse: shape.reverse, queue, sequence: i.into() };
                shape.build(first + i % own, tag, &mut frame);
                frame.resize(stride - lead, 0);
                file.write_all(&[0; 64][..lead]).map_err(io)?;
                file.write_all(&frame).map_err(io)?;
            }
            let stride = stride as u32;
            let start = at + (lead - header) as u32;
            walks.push(Walk { start, end: start + count * stride, stride, at: start });
            at += count * stride;
        }
        // Regions are whole pages.
        let file = file.into_inner().map_err(|e| io(e.into_error()))?;
        file.set_len(bytes.next_multiple_of(4096)).map_err(io)?;
        fcntl_add_seals(&file, SealFlags::SHRINK | SealFlags::GROW).map_err(|e| io(e.into()))?;
        Ok(Frames { memory: Arc::new(file.into()), walks })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::FileExt;

    const A_TO_B: Shape = Shape { size: 60, vlan: None, reverse: false };

    fn build(shape: Shape, flow: u32, tag: Tag) -> Vec<u8> {
        let mut frame = Vec::new();
        shape.build(flow, tag, &mut frame);
        frame
    }

    #[test]
    fn literal_bytes() {
        let frame = build(A_TO_B, 0x0102, Tag { reverse: false, queue: 3, sequence: 0x0405 });
        #[rustfmt::skip]
        let expected = [
            0x02, 0xb0, 0, 0, 1, 2, 0x02, 0xa0, 0, 0, 1, 2, 0x08, 0x00,
            0x45, 0, 0, 46, 0, 0, 0x40, 0, 64, 17, 0x24, 0x3a, 10, 0, 1, 3, 10, 128, 1, 3,
            0xc1, 0x02, 0, 9, 0, 26, 0x7e, 0x35,
            b'D', b'r', b'a', b'y', 0, 3, 0, 0, 0, 0, 0, 0, 4, 5, 0, 0, 0, 0,
        ];
        assert_eq!(frame, expected);
    }

    #[test]
    fn the_other_direction_is_the_reverse() {
        let tag = Tag { reverse: false, queue: 0, sequence: 0 };
        let there = build(A_TO_B, 999_999, tag);
        let back = build(Shape { reverse: true, ..A_TO_B }, 999_999, tag);
        assert_eq!(there[..6], back[6..12]);
        assert_eq!(there[6..12], back[..6]);
        assert_eq!(there[26..30], back[30..34]);
        assert_eq!(there[30..34], back[26..30]);
        assert_eq!(there[..12], [0x02, 0xb0, 0, 0x0f, 0x42, 0x3f, 0x02, 0xa0, 0, 0x0f, 0x42, 0x3f]);
        assert_eq!(there[26..34], [10, 15, 66, 64, 10, 143, 66, 64]);
    }

    #[test]
    fn checksums_are_right_at_all_sizes() {
        for (size, vlan) in [(60, None), (61, None), (60, Some(10)), (1514, None), (9215, Some(4094)), (9216, None)] {
            let shape = Shape { size, vlan, reverse: size % 2 == 1 };
            let tag = Tag { reverse: shape.reverse, queue: 1, sequence: 77 };
            let frame = build(shape, 123_456, tag);
            assert_eq!(frame.len(), size);
            let l3 = shape.tag_at() - 28;
            if let Some(vlan) = vlan {
                assert_eq!(frame[12..16], [0x81, 0, (vlan >> 8) as u8, vlan as u8]);
            }
            // A sum over everything, with the checksum in it, is all ones.
            assert_eq!(checksum(&[&frame[l3..l3 + 20]]), 0);
            let udp = &frame[l3 + 20..];
            assert_eq!(checksum(&[&frame[l3 + 12..l3 + 20], &[0, 17], &(udp.len() as u16).to_be_bytes(), udp]), 0);
            assert_eq!(Tag::read(frame[shape.tag_at()..][..14].try_into().unwrap()), Some(tag));
        }
        assert_eq!(Tag::read(&[0; 14]), None);
    }

    #[test]
    fn flows_are_dealt_out_to_queues() {
        let frames = Frames::build(A_TO_B, 5, 2, 4, 64, 0).unwrap();
        // Flows 0 and 1 twice on queue 0; 2, 3 and 4 twice on queue 1.
        let counts: Vec<u32> = frames.walks.iter().map(Walk::count).collect();
        assert_eq!(counts, [4, 6]);
        let file = File::from(frames.memory.try_clone().unwrap());
        assert_eq!(file.metadata().unwrap().len(), 4096);
        let mut seen = Vec::new();
        for mut walk in frames.walks {
            for i in 0..walk.count() {
                let mut frame = [0; 64];
                file.read_exact_at(&mut frame, walk.step().into()).unwrap();
                assert_eq!(Tag::read(frame[42..56].try_into().unwrap()).unwrap().sequence, u64::from(i));
                seen.push(frame[5]);
            }
            assert_eq!(walk.step(), walk.start);
        }
        assert_eq!(seen, [0, 1, 0, 1, 2, 3, 4, 2, 3, 4]);
    }

    #[test]
    fn headers_are_before_frames() {
        let frames = Frames::build(A_TO_B, 3, 1, 4, 64, 12).unwrap();
        let file = File::from(frames.memory.try_clone().unwrap());
        let mut walk = frames.walks[0];
        for i in 0..12 {
            let (at, mut bytes) = (walk.step(), [1; 72]);
            assert_eq!(u64::from(at), 128 * (i % 6) + 52);
            file.read_exact_at(&mut bytes, at.into()).unwrap();
            assert_eq!((&bytes[..12], bytes[12 + 5]), (&[0; 12][..], (i % 3) as u8));
        }
    }

    #[test]
    fn fewer_flows_than_queues() {
        let frames = Frames::build(A_TO_B, 1, 3, 256, 64, 0).unwrap();
        assert_eq!(frames.walks.iter().map(Walk::count).collect::<Vec<_>>(), [256; 3]);
    }

    #[test]
    fn too_much_is_refused() {
        let shape = Shape { size: 9216, ..A_TO_B };
        assert!(Frames::build(shape, 1_000_000, 1, 1024, 9216, 0).unwrap_err().contains("2 GiB"));
    }
}
