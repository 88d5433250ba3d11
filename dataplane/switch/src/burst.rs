//! Bursts and frames: what the stages hand on.
//!
//! A frame is a *head* (a private copy of its first bytes), a *body* (the rest, where it arrived) and metadata.
//! Every decision is made on the head, which its sender can no longer change.

use crate::drops::Drops;
use crate::egress::Egress;
use crate::layers::Known;
use crate::mem::Segment;
use crate::offload::{Offload, Pending};

/// Frames taken from a queue at a time.
pub const BURST: usize = 64;

/// Bytes free before a frame's first received byte: room for VXLAN over IPv6 and a tag (74), rounded up
/// so that the head begins on a cache line.
pub const HEADROOM: usize = 128;

/// The longest head, bytes.
pub const HEAD_MAX: usize = 192;

/// Head length of an ordinary port: Ethernet, a tag, IPv6 and ports (62), rounded up to a cache line.
pub const HEAD: usize = 64;

/// Head length of the underlay port: the outer headers over IPv6 (70), a tag, and the inner Ethernet header with a tag (18). And of a port
/// whose addresses are guarded: IPv6 with a tag (58) and a neighbour advertisement with its options (RFC 4861, section 4.4: 32, and what
/// others add).
pub const HEAD_LONG: usize = 128;

/// The longest frame in bytes, without FCS, that goes onto a wire.
pub const FRAME_MAX: usize = 9216;

/// The longest frame in bytes that is still to be segmented ([`Offload::gso`]): an IP packet of 65,535 bytes and Ethernet with tags.
pub const GSO_MAX: usize = 65_535 + 14 + 8;

/// Segments a frame may have beyond its first; a longer chain is refused.
pub const CHAIN_MAX: usize = 63;

/// Frames of a burst with the copies that flooding makes of them when a copy needs its own head.
pub const FRAMES: usize = 2 * BURST;

/// Frames that flooding may add to a burst, and segmentation, those for each receiver counted. That takes some 0.3 ms, and so long others
/// may have to wait for a burst. It is enough to flood a burst to 128 members; for the longest frame in the smallest pieces to eight
/// receivers; and for a burst of the longest frames to one in pieces of 536 bytes, the least that every host takes (RFC 9293, section
/// 3.7.1). A port whose bursts are long has shorter ones from then on, so that where it is not enough little is lost.
pub const ADDED_MAX: u32 = 8192;

/// One frame: head, body and what the stages have found out about it.
#[repr(C, align(64))]
#[derive(Clone)]
pub struct Frame {
    pub(crate) bytes: [u8; HEADROOM + HEAD_MAX],
    pub(crate) start: u16,
    pub(crate) end: u16,
    pub(crate) len: u32,
    pub(crate) body: Segment,
    pub(crate) more: (u16, u16),
    /// What its sender left to be done; positions are in `bytes`, so that tags and outer headers don't move them.
    pub(crate) pending: Pending,
    /// An ethdev's mbuf if the body is in one (0: none): its owner may take it out to send it on without a copy.
    pub mbuf: usize,
}

/// What the stages have found out about the frames: an array for each, so that it can be worked on for several frames at a time.
pub(crate) struct Meta {
    /// FDB keys: bridge and destination address.
    pub dst: Lanes<u64>,
    /// FDB keys: bridge and source address. Copies have none.
    pub src: Lanes<u64>,
    /// Home buckets of `dst` in the FDB.
    pub dst_bucket: Lanes<u32>,
    /// Where the frames came from, as others reach it.
    pub ingress: Lanes<Egress>,
    /// Priority and drop eligibility of the tags that were taken out (the upper four bits of their TCI), for the next one.
    pub priority: Lanes<u16>,
    /// What they carry, of those that somebody asked for: [`Burst::layers`].
    pub layers: Known,
}

impl Default for Meta {
    fn default() -> Self {
        Meta {
            dst: Lanes([0; FRAMES]),
            src: Lanes([0; FRAMES]),
            dst_bucket: Lanes([0; FRAMES]),
            ingress: Lanes([Egress::NOWHERE; FRAMES]),
            priority: Lanes([0; FRAMES]),
            layers: Known::default(),
        }
    }
}

impl Meta {
    /// The bridge that frame `i` is in.
    #[inline(always)]
    pub fn bridge(&self, i: u16) -> u16 {
        (self.dst[i] >> 48) as u16
    }

    /// Says of the copy `to` what is known of frame `from`.
    fn copy(&mut self, from: u16, to: u16) {
        self.dst[to] = self.dst[from];
        self.ingress[to] = self.ingress[from];
        self.priority[to] = self.priority[from];
        self.layers.hand_on(self.layers.get(from), to);
    }
}

impl Frame {
    /// Its length in bytes: head and body.
    #[inline(always)]
    pub fn len(&self) -> usize {
        self.len as usize
    }

    /// Whether it has no bytes.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// What its sender left to be done, if anything.
    pub fn offload(&self) -> Option<Offload> {
        self.pending.offload(self.start)
    }

    /// The private first bytes.
    #[inline(always)]
    pub fn head(&self) -> &[u8] {
        &self.bytes[self.start as usize..self.end as usize]
    }

    /// Whether its body has more than one segment.
    #[inline(always)]
    pub(crate) fn is_chained(&self) -> bool {
        self.more.1 != 0
    }

    /// How many bytes are private.
    #[inline(always)]
    pub(crate) fn head_len(&self) -> usize {
        usize::from(self.end) - usize::from(self.start)
    }

    /// The first bytes of a frame as it was received, if it has so many.
    #[inline(always)]
    pub(crate) fn received<const N: usize>(&self) -> Option<&[u8; N]> {
        debug_assert!(self.start == HEADROOM as u16);
        let (bytes, all) = self.beginning();
        all.then_some(bytes)
    }

    /// What is where a frame as it was received begins, and whether all of that is the frame's.
    #[inline(always)]
    pub(crate) fn beginning<const N: usize>(&self) -> (&[u8; N], bool) {
        let bytes = self.bytes[HEADROOM..].first_chunk().expect("longer than N");
        (bytes, self.end >= (HEADROOM + N) as u16)
    }

    /// The private first bytes, to be rewritten.
    #[inline(always)]
    pub(crate) fn head_mut(&mut self) -> &mut [u8] {
        &mut self.bytes[self.start as usize..self.end as usize]
    }

    /// Puts `N` bytes of headroom before the frame and returns the first `M` bytes, which are these and what follows them. The headroom
    /// is fixed; what the stages push at most (a tag, VXLAN) is less.
    #[inline(always)]
    pub(crate) fn push_front<const N: usize, const M: usize>(&mut self) -> &mut [u8; M] {
        self.start -= N as u16;
        self.len += N as u32;
        let start = self.start as usize;
        self.bytes.get_mut(start..start + M).and_then(|bytes| bytes.try_into().ok()).expect("a frame's bytes are more")
    }

    /// Cuts `n` bytes of the head off.
    #[inline(always)]
    pub(crate) fn pull_front(&mut self, n: usize) {
        debug_assert!(n <= (self.end - self.start) as usize);
        self.start += n as u16;
        self.len -= n as u32;
    }
}

/// One of something for each frame and copy of a burst. Indices are masked, so that the stages' loops need no checks.
pub(crate) struct Lanes<T>(pub(crate) [T; FRAMES]);

impl<T> std::ops::Index<u16> for Lanes<T> {
    type Output = T;

    #[inline(always)]
    fn index(&self, i: u16) -> &T {
        &self.0[i as usize % FRAMES]
    }
}

impl<T> std::ops::IndexMut<u16> for Lanes<T> {
    #[inline(always)]
    fn index_mut(&mut self, i: u16) -> &mut T {
        &mut self.0[i as usize % FRAMES]
    }
}

/// Up to [`BURST`] frames of one receive queue, and the copies that flooding makes of them. All in one piece of some 50
/// KiB, made once a worker.
pub struct Burst {
    pub(crate) frames: Lanes<Frame>,
    pub(crate) meta: Meta,
    n: usize,
    copies: usize,
    chain: Vec<Segment>,
    owned: Vec<Vec<u8>>,
    head_len: usize,
    /// Whether any frame has something pending.
    offloads: bool,
    /// Pieces that left in place of frames of this burst, those for each receiver counted.
    pub(crate) pieces: u32,
    /// How many frames are taken at most.
    most: usize,
    /// Frames of this burst given up so far, by reason: the receiving port's.
    pub drops: Drops,
    /// Frames that a port did not send, by reason. Whoever had it send takes them as that port's.
    pub tx_drops: Drops,
}

impl Default for Burst {
    fn default() -> Self {
        let frame = Frame {
            bytes: [0; HEADROOM + HEAD_MAX],
            start: HEADROOM as u16,
            end: HEADROOM as u16,
            len: 0,
            body: Segment::EMPTY,
            more: (0, 0),
            pending: Pending::NONE,
            mbuf: 0,
        };
        Burst {
            frames: Lanes(std::array::from_fn(|_| frame.clone())),
            meta: Meta::default(),
            n: 0,
            copies: 0,
            chain: Vec::new(),
            owned: Vec::new(),
            head_len: HEAD,
            offloads: false,
            pieces: 0,
            most: BURST,
            drops: Drops::default(),
            tx_drops: Drops::default(),
        }
    }
}

impl Burst {
    /// Forgets all frames.
    #[inline(always)]
    pub fn clear(&mut self) {
        self.n = 0;
        self.copies = 0;
        self.meta.layers.forget();
        self.owned.clear();
        // What few bursts have is taken out of the frames here, and not written into each frame that doesn't have it.
        if self.offloads | !self.chain.is_empty() {
            self.clear_extras();
        }
    }

    #[cold]
    fn clear_extras(&mut self) {
        self.offloads = false;
        self.pieces = 0;
        self.chain.clear();
        for frame in &mut self.frames.0 {
            (frame.pending, frame.more) = (Pending::NONE, (0, 0));
        }
    }

    /// How much of each frame [`crate::Rx::receive`] copies into the head, in bytes: what the port needs ([`crate::tables::Port::head_len`]).
    #[inline(always)]
    pub fn head_len(&self) -> usize {
        self.head_len
    }

    /// Sets it, to [`HEAD_MAX`] at most.
    #[inline(always)]
    pub fn set_head_len(&mut self, bytes: usize) {
        self.head_len = bytes.min(HEAD_MAX);
    }

    /// Says what is left to be done to the frame pushed last, of which up to [`HEAD_MAX`] bytes should be in the head. If that
    /// contradicts the frame, it is taken out again and false returned.
    pub fn set_offload(&mut self, offload: Offload) -> bool {
        let i = self.n as u16 - 1;
        let frame = &mut self.frames[i];
        match Pending::new(offload, frame) {
            Some(pending) => {
                frame.pending = pending;
                self.offloads = true;
                true
            }
            None => {
                // The next frame takes its place, and is not to have its chain.
                frame.more = (0, 0);
                self.n -= 1;
                false
            }
        }
    }

    /// Whether any frame has an [`Frame::offload`].
    #[inline(always)]
    pub fn has_offloads(&self) -> bool {
        self.offloads
    }

    /// How many frames were received.
    #[inline(always)]
    pub fn len(&self) -> usize {
        self.n
    }

    /// Whether no frame was received.
    #[inline(always)]
    pub fn is_empty(&self) -> bool {
        self.n == 0
    }

    /// The received frames' bytes, without FCS.
    #[inline]
    pub fn bytes(&self) -> u64 {
        self.frames.0[..self.n].iter().map(|f| f.len as u64).sum()
    }

    /// How many more frames can be received.
    #[inline(always)]
    pub fn room(&self) -> usize {
        self.most - self.n
    }

    /// Says how many frames may be received, up to [`BURST`], before there are any.
    #[inline(always)]
    pub fn set_most(&mut self, frames: usize) {
        debug_assert!(self.n == 0 && (1..=BURST).contains(&frames));
        self.most = frames;
    }

    /// Frame `i` of the burst or of its copies.
    #[inline(always)]
    pub fn frame(&self, i: u16) -> &Frame {
        &self.frames[i]
    }

    /// Takes the mbuf out of frame `i`, which then is the taker's to free or send; 0 if it has none.
    #[inline]
    pub fn take_mbuf(&mut self, i: u16) -> usize {
        std::mem::take(&mut self.frames[i].mbuf)
    }

    /// Appends a frame that is wholly in one piece of `len` bytes at `data` and whose owner is `mbuf` (or 0). The
    /// first [`Burst::head_len`] bytes are copied now.
    ///
    /// # Safety
    /// As [`Segment::new`], for the whole piece. There is [`Burst::room`].
    #[inline(always)]
    #[allow(unsafe_code)]
    pub unsafe fn push(&mut self, data: *const u8, len: u32, mbuf: usize) {
        // SAFETY: the caller vouches for the piece.
        unsafe { self.push_all(std::iter::once((data, len))) };
        // Its owner takes it out again when the burst is released.
        if mbuf != 0 {
            self.frames[self.n as u16 - 1].mbuf = mbuf;
        }
    }

    /// Appends frames that are each in one piece without an owner, given as address and length in bytes, as [`Burst::push`] does.
    ///
    /// # Safety
    /// As [`Burst::push`], for each.
    #[inline(always)]
    #[allow(unsafe_code)]
    pub unsafe fn push_all(&mut self, pieces: impl Iterator<Item = (*const u8, u32)>) {
        // Copies, of which the compiler knows that writing to frames doesn't change them.
        let (mut n, head_len) = (self.n, self.head_len);
        for (frame, (data, len)) in self.frames.0[n..BURST].iter_mut().zip(pieces) {
            let take = (len as usize).min(head_len);
            // SAFETY: `take` bytes are readable (the caller) and fit the head (`set_head_len` sets HEAD_MAX at most).
            unsafe {
                let head = frame.bytes.as_mut_ptr().add(HEADROOM);
                crate::mem::copy(data, head, take);
                frame.body = Segment::new(data.add(take), len - take as u32);
            }
            frame.start = HEADROOM as u16;
            frame.end = (HEADROOM + take) as u16;
            frame.len = len;
            n += 1;
        }
        self.n = n;
    }

    /// Appends a segment to the body of the frame pushed last. Where the pieces so far are shorter than the head
    /// should be, the head is completed from this one.
    ///
    /// # Safety
    /// As [`Segment::new`]. A frame was pushed, and it has fewer than [`CHAIN_MAX`] segments beyond its first.
    #[allow(unsafe_code)]
    pub unsafe fn chain(&mut self, data: *const u8, len: u32) {
        let frame = &mut self.frames[self.n as u16 - 1];
        frame.len += len;
        let take = (self.head_len.saturating_sub((frame.end - frame.start) as usize)).min(len as usize);
        // SAFETY: `take` bytes are readable (the caller); the head ends at most `head_len` <= HEAD_MAX after HEADROOM.
        let rest = unsafe {
            crate::mem::copy(data, frame.bytes[frame.end as usize..][..take].as_mut_ptr(), take);
            Segment::new(data.add(take), len - take as u32)
        };
        frame.end += take as u16;
        self.attach(rest);
    }

    /// Puts `segment` at the end of the body of the frame pushed last, whose length has it already.
    #[inline(always)]
    fn attach(&mut self, segment: Segment) {
        let frame = &mut self.frames[self.n as u16 - 1];
        if segment.is_empty() {
            return;
        }
        if frame.body.is_empty() && frame.more.1 == 0 {
            frame.body = segment;
            return;
        }
        if frame.more.1 == 0 {
            frame.more.0 = self.chain.len() as u16;
        }
        frame.more.1 += 1;
        self.chain.push(segment);
    }

    /// Appends a frame whose head is that of `of` up to `at` in its bytes, in the same place, and after it `payload`. There is
    /// [`Burst::room`], and a head has room for both.
    pub(crate) fn push_piece(&mut self, of: &Frame, at: usize, payload: &[u8]) {
        let frame = &mut self.frames[self.n as u16];
        let headers = of.start as usize..at;
        let end = at + payload.len();
        frame.bytes[headers.clone()].copy_from_slice(&of.bytes[headers]);
        frame.bytes[at..end].copy_from_slice(payload);
        (frame.start, frame.end, frame.len) = (of.start, end as u16, (end - of.start as usize) as u32);
        (frame.body, frame.more, frame.mbuf) = (Segment::EMPTY, (0, 0), 0);
        self.n += 1;
    }

    /// Appends a segment of another burst to the frame pushed last, which has fewer than [`CHAIN_MAX`] beyond its first, as
    /// [`Burst::chain`] does. It is to be sent before that burst is released.
    #[allow(unsafe_code)]
    pub(crate) fn extend(&mut self, segment: Segment) {
        // SAFETY: `Segment::new` vouches for it while the other burst has it.
        unsafe { self.chain(segment.as_ptr(), segment.len()) };
    }

    /// Appends frame `i` of the burst `of`, which is released later. There is [`Burst::room`].
    pub(crate) fn push_frame(&mut self, of: &Burst, i: u16) {
        let from = of.frame(i);
        let frame = &mut self.frames[self.n as u16];
        let head = from.start as usize..from.end as usize;
        frame.bytes[head.clone()].copy_from_slice(&from.bytes[head]);
        (frame.start, frame.end, frame.len, frame.pending) = (from.start, from.end, from.len, from.pending);
        (frame.body, frame.more, frame.mbuf) = (Segment::EMPTY, (0, 0), 0);
        self.offloads |= from.pending != Pending::NONE;
        self.n += 1;
        of.segments(from).for_each(|segment| self.attach(segment));
    }

    /// Appends a frame that lives in the burst itself until [`Burst::clear`]: one that Dray makes, or a test.
    #[allow(unsafe_code)]
    pub fn push_owned(&mut self, bytes: Vec<u8>) {
        assert!(self.room() > 0 && bytes.len() <= FRAME_MAX);
        // SAFETY: `owned` keeps the bytes, which don't move with their Vec, until the burst is cleared.
        unsafe { self.push(bytes.as_ptr(), bytes.len() as u32, 0) };
        self.owned.push(bytes);
    }

    /// The body of `frame`: what follows its head.
    #[inline(always)]
    pub fn segments(&self, frame: &Frame) -> impl Iterator<Item = Segment> {
        std::iter::once(frame.body).filter(|s| !s.is_empty()).chain(self.chained(frame).iter().copied())
    }

    /// Those beyond the first.
    #[inline(always)]
    pub(crate) fn chained(&self, frame: &Frame) -> &[Segment] {
        &self.chain[frame.more.0 as usize..][..frame.more.1 as usize]
    }

    /// Shortens frame `i` to `len` bytes, cutting at its end.
    pub(crate) fn truncate(&mut self, i: u16, len: usize) {
        let frame = &mut self.frames[i];
        debug_assert!(len <= frame.len());
        frame.len = len as u32;
        let mut left = len;
        let head = (frame.end - frame.start) as usize;
        frame.end = frame.start + head.min(left) as u16;
        left -= head.min(left);
        frame.body = frame.body.prefix(left);
        left -= frame.body.len() as usize;
        for segment in &mut self.chain[frame.more.0 as usize..][..frame.more.1 as usize] {
            *segment = segment.prefix(left);
            left -= segment.len() as usize;
        }
    }

    /// A copy of frame `i` with a head of its own and the same body, if there is room for one more copy.
    pub(crate) fn copy(&mut self, i: u16) -> Option<u16> {
        let at = BURST + self.copies;
        if at == FRAMES {
            return None;
        }
        self.copies += 1;
        let (originals, copies) = self.frames.0.split_at_mut(BURST);
        let (from, to) = (&originals[i as usize], &mut copies[at - BURST]);
        let head = from.start as usize..from.end as usize;
        to.bytes[head.clone()].copy_from_slice(&from.bytes[head]);
        (to.start, to.end, to.len) = (from.start, from.end, from.len);
        (to.body, to.more, to.pending, to.mbuf) = (from.body, from.more, from.pending, 0);
        self.meta.copy(i, at as u16);
        Some(at as u16)
    }

    /// Forgets the copies; nothing names them any more.
    pub(crate) fn forget_copies(&mut self) {
        self.copies = 0;
        self.meta.layers.forget_copies();
    }
}
