//! The generator's memif links.

use crate::frames::{Frames, Read};
use crate::generator::{self, Link};
use dray_config::SocketName;
use dray_vhost::mem::Region;
use dray_vhost::memif::{Client, ClientOptions, NullSwitch, RawRx, RawTx};

/// The frames' region.
const REGION: u16 = 1;

/// A generator on memif links.
pub type Generator = generator::Generator<Memif>;

/// What it is to do.
pub type Options = generator::Options<End>;

/// An interface of a switch.
#[derive(Clone, Debug)]
pub struct End {
    /// Its socket.
    pub socket: SocketName,
    /// Its id.
    pub id: u32,
    /// Its secret.
    pub secret: Option<String>,
}

impl End {
    /// The interface `id` behind `socket`, which has no secret.
    pub fn new(socket: SocketName, id: u32) -> End {
        End { socket, id, secret: None }
    }
}

/// A link.
pub struct Memif {
    client: Client,
    frames: Region,
}

impl Link for Memif {
    type End = End;
    type Tx = RawTx;
    type Rx = RawRx;
    type Null = NullSwitch;
    const NAME: &str = "memif";
    const HEADER: usize = 0;

    fn connect(options: &Options, frames: [&Frames; 2]) -> Result<[Memif; 2], String> {
        let link = |i: usize| -> Result<Memif, String> {
            let end = &options.ends[i];
            let client = ClientOptions {
                ring_size: options.ring_size,
                buffer_size: options.buffer_size,
                queues: options.queues,
                secret: end.secret.clone(),
                name: ["dray-perf-a", "dray-perf-b"][i].into(),
                timeout: options.timeout,
                frames: Some(frames[i].memory.clone()),
            };
            let client = Client::connect(&end.socket, end.id, &client)?;
            // A server may take fewer queues than it is offered.
            if client.tx.len() < options.queues.into() {
                return Err(format!("the server takes only {} queues", client.tx.len()));
            }
            Ok(Memif { client, frames: frames[i].map()? })
        };
        Ok([link(0)?, link(1)?])
    }

    #[inline(always)]
    fn tx(&mut self) -> &mut [RawTx] {
        &mut self.client.tx
    }

    #[inline(always)]
    fn rx(&mut self) -> &mut [RawRx] {
        &mut self.client.rx
    }

    fn down(&self) -> Option<String> {
        self.client.down()
    }

    #[inline(always)]
    fn free(tx: &mut RawTx) -> u16 {
        tx.free()
    }

    #[inline(always)]
    fn fill(tx: &mut RawTx, frames: impl Iterator<Item = (u32, u32)>) {
        tx.fill(REGION, frames);
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
        rx.take(max, count, every, |number, frame| look(number, &|at, to| frame.read(at, to)))
    }

    fn null_switch(a: &Memif, b: &Memif) -> Result<NullSwitch, String> {
        Ok(NullSwitch::new(&a.client, &b.client))
    }

    #[inline]
    fn step(null: &mut NullSwitch) -> usize {
        null.step()
    }
}
