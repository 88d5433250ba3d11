//! The generator's vhost-user links: it is the virtual machine.

use crate::frames::{Frames, Read};
use crate::generator::{self, Link};
use dray_config::{Role, SocketName};
use dray_vhost::mem::Region;
use dray_vhost::vhost_user::frontend::{self, Frontend, Meeting, NullSwitch, RawRx, RawTx, VNET_HEADER};

/// The frames' region: the rings are in the first.
const REGION: u16 = 1;

/// A generator on vhost-user links.
pub type Generator = generator::Generator<VhostUser>;

/// What it is to do.
pub type Options = generator::Options<End>;

/// A port of a switch.
#[derive(Clone, Debug)]
pub struct End {
    /// The socket; without one nothing is at the other end but the least that a switch could do.
    pub socket: Option<SocketName>,
    /// Which side of it we are.
    pub role: Role,
    /// Packed rings, else split ones.
    pub packed: bool,
}

/// A link.
pub struct VhostUser {
    front: Frontend,
    frames: Region,
}

impl Link for VhostUser {
    type End = End;
    type Tx = RawTx;
    type Rx = RawRx;
    type Null = NullSwitch;
    const NAME: &str = "vhost-user";
    const HEADER: usize = VNET_HEADER;

    fn connect(options: &Options, frames: [&Frames; 2]) -> Result<[VhostUser; 2], String> {
        // Both listen before either waits: a switch may look for its second port no sooner than it has the first.
        let meet = |end: &End| end.socket.as_ref().map(|socket| Meeting::new(socket, end.role)).transpose();
        let meetings = [meet(&options.ends[0])?, meet(&options.ends[1])?];
        let link = |i: usize, meeting: Option<Meeting>| -> Result<VhostUser, String> {
            let front = frontend::Options {
                role: options.ends[i].role,
                queues: options.queues,
                ring_size: u16::try_from(options.ring_size).map_err(|e| e.to_string())?,
                buffer_size: options.buffer_size + VNET_HEADER as u32,
                packed: options.ends[i].packed,
                in_order: true,
                timeout: options.timeout,
                frames: Some(frames[i].memory.clone()),
                ..frontend::Options::default()
            };
            let front = match meeting {
                Some(meeting) => Frontend::meet(meeting, &front)?,
                None => Frontend::alone(&front)?,
            };
            Ok(VhostUser { front, frames: frames[i].map()? })
        };
        let [a, b] = meetings;
        Ok([link(0, a)?, link(1, b)?])
    }

    #[inline(always)]
    fn tx(&mut self) -> &mut [RawTx] {
        &mut self.front.tx
    }

    #[inline(always)]
    fn rx(&mut self) -> &mut [RawRx] {
        &mut self.front.rx
    }

    fn down(&self) -> Option<String> {
        let fault = || {
            let faults = self
                .front
                .tx
                .iter()
                .filter_map(|tx| tx.fault())
                .chain(self.front.rx.iter().filter_map(|rx| rx.fault()));
            faults.map(str::to_owned).next()
        };
        self.front.down().or_else(fault)
    }

    #[inline(always)]
    fn free(tx: &mut RawTx) -> u16 {
        tx.free()
    }

    #[inline(always)]
    fn fill(tx: &mut RawTx, frames: impl Iterator<Item = (u32, u32)>) {
        tx.fill(REGION, frames.map(|(offset, len)| (offset, len + VNET_HEADER as u32)));
    }

    #[inline(always)]
    fn write(&mut self, at: usize, bytes: &[u8]) {
        self.frames.write(at, bytes);
    }

    fn wake(tx: &mut RawTx) {
        tx.wake();
    }

    #[inline(always)]
    fn take(
        rx: &mut RawRx,
        max: u16,
        count: u64,
        every: u64,
        _tag_at: usize,
        mut look: impl FnMut(u64, Read<'_>),
    ) -> (u16, u64) {
        let (n, bytes) = rx.take(max, count, every, |number, frame| {
            look(number, &|at, to| frame.read(VNET_HEADER + at, to));
        });
        // Buffers are as long as frames, so that each has a header.
        (n, bytes.saturating_sub(u64::from(n) * VNET_HEADER as u64))
    }

    fn null_switch(a: &VhostUser, b: &VhostUser) -> Result<NullSwitch, String> {
        NullSwitch::new(&a.front, &b.front)
    }

    #[inline]
    fn step(null: &mut NullSwitch) -> usize {
        null.step()
    }
}
