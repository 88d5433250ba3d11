//! Prepared frames: Ethernet, IPv4, UDP, and a payload that says which frame it is; in VXLAN if there is a tunnel.

use crate::vtep::{self, Tunnel};
use dray_vhost::mem::Region;
use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create};
use std::fs::File;
use std::io::{BufWriter, Write};
use std::os::fd::OwnedFd;
use std::sync::Arc;

/// The smallest frame in bytes, without FCS.
pub const SIZE_MIN: usize = 60;
/// The largest frame in bytes, without FCS.
pub const SIZE_MAX: usize = 9216;
/// The most sizes that are mixed.
pub const MIX_MAX: usize = 64;
/// The most flows.
pub const FLOWS_MAX: u32 = 1_000_000;
/// The simple Internet mix: 7, 4 and 1 in 12 frames of 64, 594 and 1518 bytes with FCS, in the order in which they are sent.
pub const IMIX: [usize; 12] = [60, 590, 60, 60, 590, 60, 590, 60, 60, 590, 60, 1514];
/// Bytes of an 802.1Q tag.
pub const VLAN_TAG: usize = 4;
/// The most bytes of frames: offsets in descriptors have 32 bits.
const REGION_MAX: u64 = 1 << 31;
/// The payload begins with it.
const MAGIC: [u8; 4] = *b"Dray";
/// Ethernet, IPv4 and UDP headers.
const HEADERS: usize = 14 + 20 + 8;
/// Places for frames that are not prepared.
const SCRATCH: u32 = 16;
/// Bytes of each.
const SCRATCH_SIZE: usize = 64;

/// The sizes of frames, sent in turn. Bytes without FCS.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sizes(Vec<usize>);

impl Sizes {
    /// The sizes in the order in which they are sent.
    pub fn list(&self) -> &[usize] {
        &self.0
    }

    /// The largest.
    pub fn max(&self) -> usize {
        self.0.iter().copied().max().unwrap_or(SIZE_MIN)
    }

    /// The mean, in bytes.
    pub fn mean(&self) -> f64 {
        self.0.iter().sum::<usize>() as f64 / self.0.len().max(1) as f64
    }
}

impl From<usize> for Sizes {
    fn from(size: usize) -> Sizes {
        Sizes(vec![size])
    }
}

impl std::str::FromStr for Sizes {
    type Err = String;

    /// Reads "imix", a size, or several with commas between them.
    fn from_str(s: &str) -> Result<Sizes, String> {
        if s.eq_ignore_ascii_case("imix") {
            return Ok(Sizes(IMIX.to_vec()));
        }
        let size = |s: &str| {
            let size = s.trim().parse().ok().filter(|size| (SIZE_MIN..=SIZE_MAX).contains(size));
            size.ok_or_else(|| {
                format!("\"{s}\": a frame has {SIZE_MIN} to {SIZE_MAX} bytes, or the sizes are \"imix\"")
            })
        };
        let sizes: Vec<usize> = s.split(',').map(size).collect::<Result<_, _>>()?;
        if sizes.len() > MIX_MAX {
            return Err(format!("{} sizes are too many: at most {MIX_MAX} are mixed", sizes.len()));
        }
        Ok(Sizes(sizes))
    }
}

impl std::fmt::Display for Sizes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.0 == IMIX {
            return f.write_str("IMIX");
        }
        for (i, size) in self.0.iter().enumerate() {
            write!(f, "{}{size}", if i == 0 { "" } else { "," })?;
        }
        Ok(())
    }
}

/// What the frames of one direction look like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// The 802.1Q tag, if any.
    pub vlan: Option<u16>,
    /// From B to A: source and destination addresses are exchanged.
    pub reverse: bool,
    /// The tunnel that frames are in, if any.
    pub tunnel: Option<Tunnel>,
}

/// Copies bytes of a received frame from an offset on; how many there were.
pub type Read<'a> = &'a dyn Fn(usize, &mut [u8]) -> usize;

/// What the payload says about a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tag {
    /// As in [`Shape`].
    pub reverse: bool,
    /// The queue it was sent on, at most 15.
    pub queue: u8,
    /// Its place among the queue's prepared frames, from 0 upwards.
    pub sequence: u32,
    /// When it was sent: the lowest 40 bits of the time-stamp counter. Only some of the prepared frames have a time.
    pub time: Option<u64>,
}

impl Tag {
    /// Bytes of a tag.
    pub const LEN: usize = 14;
    /// Where the time is in it, if there is one.
    pub const TIME: usize = 9;
    /// Bits that are kept of a time.
    pub const TIME_BITS: u32 = 40;
    const REVERSE: u8 = 0x80;
    const TIMED: u8 = 0x40;

    /// The tag in these bytes; `None` if they are not of a frame of ours.
    #[inline]
    pub fn read(b: &[u8; Self::LEN]) -> Option<Tag> {
        if b[..4] != MAGIC {
            return None;
        }
        let time = (b[4] & Self::TIMED != 0).then(|| u64::from_be_bytes([0, 0, 0, b[9], b[10], b[11], b[12], b[13]]));
        let sequence = u32::from_be_bytes([b[5], b[6], b[7], b[8]]);
        Some(Tag { reverse: b[4] & Self::REVERSE != 0, queue: b[4] & 15, sequence, time })
    }

    /// The tag of a received frame, which has it at `at` bytes if it is one of ours.
    #[inline]
    pub fn of(frame: Read<'_>, at: usize) -> Option<Tag> {
        let mut bytes = [0; Self::LEN];
        let whole = frame(at, &mut bytes) == Self::LEN;
        Self::read(&bytes).filter(|_| whole)
    }

    fn bytes(self) -> [u8; Self::LEN] {
        let mut b = [0; Self::LEN];
        b[..4].copy_from_slice(&MAGIC);
        b[4] = self.queue & 15;
        b[4] |= if self.reverse { Self::REVERSE } else { 0 };
        b[5..9].copy_from_slice(&self.sequence.to_be_bytes());
        if let Some(time) = self.time {
            b[4] |= Self::TIMED;
            b[9..].copy_from_slice(&Self::time_bytes(time));
        }
        b
    }

    /// A time as it is in a tag.
    #[inline]
    pub fn time_bytes(time: u64) -> [u8; 5] {
        let [_, _, _, bytes @ ..] = time.to_be_bytes();
        bytes
    }
}

/// The Internet checksum (RFC 1071) of `parts` put together; all but the last have an even length.
pub(crate) fn checksum(parts: &[&[u8]]) -> u16 {
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
    /// Bytes before the frame itself: a tunnel's outer headers.
    pub fn outer(&self) -> usize {
        if self.tunnel.is_some() { vtep::OUTER } else { 0 }
    }

    /// Where the payload begins, and in it the [`Tag`].
    pub fn tag_at(&self) -> usize {
        self.outer() + HEADERS + if self.vlan.is_some() { VLAN_TAG } else { 0 }
    }

    /// Makes `frame` the frame of `flow` with `tag`, of `size` bytes and those before it ([`Shape::outer`]). A frame with a
    /// time has no UDP checksum (0, RFC 768), because the time changes.
    ///
    /// Station `i` on side A is 02:a0 and `i`, 10.0.0.1 plus `i`; on side B 02:b0 and `i`, 10.128.0.1 plus `i`. A flow goes
    /// from station `i` of one side to station `i` of the other.
    pub fn build(&self, size: usize, flow: u32, tag: Tag, frame: &mut Vec<u8>) {
        let mac = |side: u8| [[0x02, side], [(flow >> 24) as u8, (flow >> 16) as u8], [(flow >> 8) as u8, flow as u8]];
        let ip = |side: u8| (u32::from_be_bytes([10, side, 0, 1]) + flow).to_be_bytes();
        let (from, to) = if self.reverse { ((0xb0, 128), (0xa0, 0)) } else { ((0xa0, 0), (0xb0, 128)) };
        frame.clear();
        if let Some(tunnel) = &self.tunnel {
            frame.extend(tunnel.outer(size, flow));
        }
        let end = frame.len() + size;
        frame.extend(mac(to.0).as_flattened());
        frame.extend(mac(from.0).as_flattened());
        if let Some(vlan) = self.vlan {
            frame.extend([0x81, 0x00]);
            frame.extend(vlan.to_be_bytes());
        }
        frame.extend([0x08, 0x00]);
        let l3 = frame.len();
        let len = end - l3;
        frame.extend([0x45, 0]);
        frame.extend((len as u16).to_be_bytes());
        // Identification 0, DF, TTL 64, UDP.
        frame.extend([0, 0, 0x40, 0, 64, 17, 0, 0]);
        frame.extend(ip(from.1));
        frame.extend(ip(to.1));
        let sum = checksum(&[&frame[l3..]]);
        frame[l3 + 10..l3 + 12].copy_from_slice(&sum.to_be_bytes());
        let l4 = frame.len();
        let len = (end - l4) as u16;
        // From a port of the flow's to "discard" (RFC 863).
        frame.extend((49152 + (flow % 16384) as u16).to_be_bytes());
        frame.extend(9u16.to_be_bytes());
        frame.extend(len.to_be_bytes());
        frame.extend([0, 0]);
        frame.extend(tag.bytes());
        frame.resize(end, 0);
        if tag.time.is_some() {
            return;
        }
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
    /// Whose turn it is of the sizes of a mix.
    turn: u32,
}

impl Walk {
    fn new(start: u32, count: u32, stride: u32) -> Walk {
        Walk { start, end: start + count * stride, stride, at: start, turn: 0 }
    }

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

    /// The same, and how long the frame is if the frames have these lengths in turn.
    #[inline(always)]
    pub fn step_mixed(&mut self, lengths: &[u32]) -> (u32, u32) {
        let length = lengths[self.turn as usize];
        let at = self.step();
        self.turn += 1;
        if self.turn as usize == lengths.len() || self.at == self.start {
            self.turn = 0;
        }
        (at, length)
    }

    /// Goes back to the first frame.
    pub fn restart(&mut self) {
        (self.at, self.turn) = (self.start, 0);
    }

    /// How many frames there are.
    pub fn count(&self) -> u32 {
        (self.end - self.start) / self.stride
    }

    /// Which of them is next.
    pub fn index(&self) -> u32 {
        (self.at - self.start) / self.stride
    }
}

/// How many frames are prepared, and how they lie in memory.
#[derive(Clone, Copy, Debug)]
pub struct Layout<'a> {
    /// Their sizes, in turn.
    pub sizes: &'a [usize],
    /// Flows, dealt out to the queues.
    pub flows: u32,
    /// Queues.
    pub queues: u16,
    /// The least number of frames of a queue.
    pub least: u32,
    /// Bytes from one frame to the next, without their headers; at least the largest size and what is before it.
    pub stride: usize,
    /// Bytes of zeros before each, in cache lines of their own.
    pub header: usize,
    /// One in this many frames of a queue has a time, 0: none.
    pub timed: u32,
}

impl Layout<'_> {
    /// For each queue its first flow, its flows, and its frames.
    ///
    /// Every queue has as many frames of each of its flows, one flow after the other. If it has its flows often enough for
    /// that, sizes are mixed exactly; else the last turn is not whole.
    fn queues(&self) -> Vec<(u32, u32, u32)> {
        let queues = u32::from(self.queues);
        // Queue q has the flows from here to where those of the next begin; with fewer flows than queues, one of them.
        let first = |q: u32| (u64::from(q) * u64::from(self.flows) / u64::from(queues)) as u32;
        let mixed = self.sizes.len() as u32;
        let queue = |q| {
            let own = (first(q + 1) - first(q)).max(1);
            let mut rounds = self.least.div_ceil(own);
            if rounds >= mixed {
                rounds = rounds.next_multiple_of(mixed);
            }
            (first(q).min(self.flows - 1), own, own * rounds)
        };
        (0..queues).map(queue).collect()
    }
}

/// The prepared frames of one direction, in a file to be shared as a region.
#[derive(Clone, Debug)]
pub struct Frames {
    /// The file: sealed against changes of its size.
    pub memory: Arc<OwnedFd>,
    /// The queues' frames.
    pub walks: Vec<Walk>,
    /// Places for frames of at most 64 bytes that are not prepared.
    pub scratch: Walk,
    /// Bytes of the longest frame, outer headers included.
    pub longest: usize,
}

impl Frames {
    /// Prepares frames.
    ///
    /// # Errors
    /// If they are more than 2 GiB, or the kernel has no memory.
    pub fn build(shape: Shape, layout: Layout) -> Result<Frames, String> {
        let queues = layout.queues();
        let counts: Vec<u32> = queues.iter().map(|&(_, _, count)| count).collect();
        Frames::lay_out(&counts, layout.stride, layout.header, |queue, i, frame| {
            let (first, own, _) = queues[queue];
            let time = (layout.timed != 0 && i.is_multiple_of(layout.timed)).then_some(0);
            let tag = Tag { reverse: shape.reverse, queue: queue as u8, sequence: i, time };
            let size = layout.sizes[i as usize % layout.sizes.len()];
            shape.build(size, first + i % own, tag, frame);
        })
    }

    /// As many frames for each walk as `counts` says, as `make` makes them, which gets the walk's number, the frame's number and the
    /// frame. Frames lie `stride` bytes apart, which is at least their length, and cache lines of their own for `header` bytes
    /// of zeros before each, if there is a header.
    ///
    /// # Errors
    /// As [`Frames::build`].
    pub fn lay_out(
        counts: &[u32],
        stride: usize,
        header: usize,
        mut make: impl FnMut(usize, u32, &mut Vec<u8>),
    ) -> Result<Frames, String> {
        let io = |e: std::io::Error| format!("prepare frames: {e}");
        let lead = header.next_multiple_of(64);
        let stride = stride + lead;
        let scratch = lead + SCRATCH_SIZE;
        let frames: u64 = counts.iter().map(|&count| u64::from(count) * stride as u64).sum();
        let bytes = frames + u64::from(SCRATCH) * scratch as u64;
        if bytes > REGION_MAX {
            return Err(format!("the frames need {bytes} bytes, more than 2 GiB: take fewer flows or smaller frames"));
        }
        let memory =
            memfd_create("dray-perf", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING).map_err(|e| io(e.into()))?;
        let mut file = BufWriter::with_capacity(1 << 20, File::from(memory));
        let mut frame = Vec::with_capacity(stride);
        let (mut walks, mut longest) = (Vec::new(), 0);
        let mut at = (lead - header) as u32;
        for (number, &count) in counts.iter().enumerate() {
            for i in 0..count {
                make(number, i, &mut frame);
                longest = longest.max(frame.len());
                frame.resize(stride - lead, 0);
                file.write_all(&[0; 64][..lead]).map_err(io)?;
                file.write_all(&frame).map_err(io)?;
            }
            walks.push(Walk::new(at, count, stride as u32));
            at += count * stride as u32;
        }
        // Regions are whole pages.
        let file = file.into_inner().map_err(|e| io(e.into_error()))?;
        file.set_len(bytes.next_multiple_of(4096)).map_err(io)?;
        fcntl_add_seals(&file, SealFlags::SHRINK | SealFlags::GROW).map_err(|e| io(e.into()))?;
        let scratch = Walk::new(at, SCRATCH, scratch as u32);
        Ok(Frames { memory: Arc::new(file.into()), walks, scratch, longest })
    }

    /// The file's memory, to be written to.
    ///
    /// # Errors
    /// If it can't be mapped.
    pub fn map(&self) -> Result<Region, String> {
        let size = rustix::fs::fstat(&self.memory).map_err(|e| format!("prepared frames: {e}"))?.st_size;
        Region::map(&self.memory, size as u64, &Arc::default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;
    use std::os::unix::fs::FileExt;

    const A_TO_B: Shape = Shape { vlan: None, reverse: false, tunnel: None };
    const TUNNEL: Tunnel = Tunnel { vni: 42, local: Ipv4Addr::new(10, 9, 0, 2), switch: Ipv4Addr::new(10, 9, 0, 1) };
    const LAYOUT: Layout = Layout { sizes: &[60], flows: 1, queues: 1, least: 4, stride: 64, header: 0, timed: 0 };

    fn build(shape: Shape, size: usize, flow: u32, tag: Tag) -> Vec<u8> {
        let mut frame = Vec::new();
        shape.build(size, flow, tag, &mut frame);
        frame
    }

    #[test]
    fn literal_bytes() {
        let tag = Tag { reverse: false, queue: 3, sequence: 0x0405, time: None };
        let frame = build(A_TO_B, 60, 0x0102, tag);
        #[rustfmt::skip]
        let expected = [
            0x02, 0xb0, 0, 0, 1, 2, 0x02, 0xa0, 0, 0, 1, 2, 0x08, 0x00,
            0x45, 0, 0, 46, 0, 0, 0x40, 0, 64, 17, 0x24, 0x3a, 10, 0, 1, 3, 10, 128, 1, 3,
            0xc1, 0x02, 0, 9, 0, 26, 0x7a, 0x39,
            b'D', b'r', b'a', b'y', 3, 0, 0, 4, 5, 0, 0, 0, 0, 0, 0, 0, 0, 0,
        ];
        assert_eq!(frame, expected);
        // With a time there is no checksum.
        let timed = build(A_TO_B, 60, 0x0102, Tag { reverse: true, time: Some(0x01_0203_0405), ..tag });
        assert_eq!(timed[..40], expected[..40]);
        assert_eq!(timed[40..], [0, 0, b'D', b'r', b'a', b'y', 0xc3, 0, 0, 4, 5, 1, 2, 3, 4, 5, 0, 0, 0, 0]);
    }

    #[test]
    fn a_tunnel_is_around_the_frame() {
        let shape = Shape { reverse: true, tunnel: Some(TUNNEL), ..A_TO_B };
        let tag = Tag { reverse: true, queue: 0, sequence: 9, time: None };
        let frame = build(shape, 60, 7, tag);
        assert_eq!(frame.len(), 110);
        #[rustfmt::skip]
        let outer = [
            0, 0, 0, 0, 0, 0, 0x02, 0xc0, 0, 0, 0, 1, 0x08, 0x00,
            0x45, 0, 0, 96, 0, 0, 0x40, 0, 64, 17, 0x26, 0x79, 10, 9, 0, 2, 10, 9, 0, 1,
            0xc0, 0x07, 0x12, 0xb5, 0, 76, 0, 0,
            0x08, 0, 0, 0, 0, 0, 42, 0,
        ];
        assert_eq!(frame[..50], outer);
        assert_eq!(frame[50..], build(Shape { reverse: true, ..A_TO_B }, 60, 7, tag));
        assert_eq!(Tag::read(frame[shape.tag_at()..][..14].try_into().unwrap()), Some(tag));
    }

    #[test]
    fn the_other_direction_is_the_reverse() {
        let tag = Tag { reverse: false, queue: 0, sequence: 0, time: None };
        let there = build(A_TO_B, 60, 999_999, tag);
        let back = build(Shape { reverse: true, ..A_TO_B }, 60, 999_999, tag);
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
            let shape = Shape { vlan, reverse: size % 2 == 1, tunnel: None };
            let tag = Tag { reverse: shape.reverse, queue: 1, sequence: 77, time: None };
            let frame = build(shape, size, 123_456, tag);
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
        let frames = Frames::build(A_TO_B, Layout { flows: 5, queues: 2, ..LAYOUT }).unwrap();
        // Flows 0 and 1 twice on queue 0; 2, 3 and 4 twice on queue 1.
        let counts: Vec<u32> = frames.walks.iter().map(Walk::count).collect();
        assert_eq!(counts, [4, 6]);
        let file = File::from(frames.memory.try_clone().unwrap());
        assert_eq!(file.metadata().unwrap().len(), 4096);
        let mut seen = Vec::new();
        for mut walk in frames.walks {
            for i in 0..walk.count() {
                assert_eq!(walk.index(), i);
                let mut frame = [0; 64];
                file.read_exact_at(&mut frame, walk.step().into()).unwrap();
                assert_eq!(Tag::read(frame[42..56].try_into().unwrap()).unwrap().sequence, i);
                seen.push(frame[5]);
            }
            assert_eq!(walk.step(), walk.start);
        }
        assert_eq!(seen, [0, 1, 0, 1, 2, 3, 4, 2, 3, 4]);
        // Behind them there is room for others.
        assert_eq!((frames.scratch.start, frames.scratch.count()), (640, 16));
    }

    #[test]
    fn headers_are_before_frames() {
        let frames = Frames::build(A_TO_B, Layout { flows: 3, header: 12, ..LAYOUT }).unwrap();
        let file = File::from(frames.memory.try_clone().unwrap());
        let mut walk = frames.walks[0];
        for i in 0..12 {
            let (at, mut bytes) = (walk.step(), [1; 72]);
            assert_eq!(u64::from(at), 128 * (i % 6) + 52);
            file.read_exact_at(&mut bytes, at.into()).unwrap();
            assert_eq!((&bytes[..12], bytes[12 + 5]), (&[0; 12][..], (i % 3) as u8));
        }
        assert_eq!(frames.scratch.start, 6 * 128 + 52);
    }

    #[test]
    fn fewer_flows_than_queues() {
        let frames = Frames::build(A_TO_B, Layout { queues: 3, least: 256, ..LAYOUT }).unwrap();
        assert_eq!(frames.walks.iter().map(Walk::count).collect::<Vec<_>>(), [256; 3]);
    }

    #[test]
    fn too_much_is_refused() {
        let layout = Layout { sizes: &[9216], flows: 1_000_000, stride: 9216, ..LAYOUT };
        assert!(Frames::build(A_TO_B, layout).unwrap_err().contains("2 GiB"));
    }

    #[test]
    fn sizes() {
        let sizes = |s: &str| s.parse::<Sizes>();
        assert_eq!(sizes("60").unwrap().list(), [60]);
        let list = sizes("60,512, 1514").unwrap();
        assert_eq!((list.list(), list.max(), list.to_string().as_str()), (&[60, 512, 1514][..], 1514, "60,512,1514"));
        let imix = sizes("IMIX").unwrap();
        let of = |size| imix.list().iter().filter(|&&s| s == size).count();
        assert_eq!([of(60), of(590), of(1514), imix.list().len()], [7, 4, 1, 12]);
        assert_eq!((imix.mean() * 12.0, imix.max(), imix.to_string().as_str()), (4294.0, 1514, "IMIX"));
        for bad in ["", "59", "9217", "60,", "60;512", "mix"] {
            assert!(sizes(bad).unwrap_err().contains("a frame has 60 to 9216 bytes"), "{bad}");
        }
        assert!(sizes(&["60"; 65].join(",")).unwrap_err().contains("at most 64"));
    }

    #[test]
    fn a_mix_is_mixed() {
        let layout = Layout { sizes: &IMIX, least: 100, stride: 1536, timed: 8, ..LAYOUT };
        let frames = Frames::build(A_TO_B, layout).unwrap();
        let file = File::from(frames.memory.try_clone().unwrap());
        let lengths = IMIX.map(|size| size as u32);
        let mut walk = frames.walks[0];
        // Whole turns, so that the mix is exact.
        assert_eq!(walk.count(), 108);
        for i in 0..250 {
            let (at, length) = walk.step_mixed(&lengths);
            assert_eq!((at, length as usize), (i % 108 * 1536, IMIX[i as usize % 108 % 12]));
            let mut frame = [0; 1536];
            file.read_exact_at(&mut frame, at.into()).unwrap();
            assert_eq!(usize::from(u16::from_be_bytes([frame[16], frame[17]])), length as usize - 14);
            let tag = Tag::read(frame[42..56].try_into().unwrap()).unwrap();
            assert_eq!(tag, Tag { reverse: false, queue: 0, sequence: i % 108, time: (i % 108 % 8 == 0).then_some(0) });
        }
        // More flows than that: a flow is not sent so often.
        let frames = Frames::build(A_TO_B, Layout { flows: 40, ..layout }).unwrap();
        assert_eq!(frames.walks[0].count(), 120);
        let mut walk = Walk::new(0, 15, 10);
        let turns: Vec<u32> = (0..30).map(|_| walk.step_mixed(&lengths).1).collect();
        assert_eq!((turns[14], turns[15], &turns[..15]), (60, 60, &turns[15..]));
    }
}
