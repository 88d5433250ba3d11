//! Frames of any kind, and the links that they are sent and received on as fast as the generator does.

use crate::frames::{Frames, Walk};
use crate::scale::case::{Case, GATEWAY, LOCAL};
use crate::vtep::Tunnel;
use dray_config::SocketName;
use dray_vhost::memif::{Client, ClientOptions};
use std::net::Ipv4Addr;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Descriptors written at a time, as in [`crate::generator`].
const BATCH: u16 = 128;
/// Frames sent at a time while the switch learns.
const LESSON: usize = 256;
/// The frames' region: the rings are in the first.
const REGION: u16 = 1;
/// How long links, neighbours and entries may take.
const PATIENCE: Duration = Duration::from_secs(20);

/// A frame, without FCS.
pub(super) struct Frame(Vec<u8>);

impl Frame {
    /// 60 bytes with an IPv4 header and UDP ports that differ from flow to flow; 64 with a tag.
    pub fn ethernet(to: [u8; 6], from: [u8; 6], vlan: Option<u16>, flow: u32) -> Frame {
        let mut bytes = [to, from].concat();
        if let Some(vlan) = vlan {
            bytes.extend([0x81, 0x00]);
            bytes.extend(vlan.to_be_bytes());
        }
        let n = flow.to_be_bytes();
        bytes.extend([8, 0, 0x45, 0, 0, 46, 0, 0, 0x40, 0, 64, 17, 0, 0]);
        bytes.extend([10, n[1], n[2], n[3], 10, n[1] | 128, n[2], n[3]]);
        bytes.extend([0xc0 | n[2] & 0x3f, n[3], 0, 9, 0, 26, 0, 0]);
        bytes.resize(if vlan.is_some() { 64 } else { 60 }, 0);
        Frame(bytes)
    }

    /// From the VTEP `from` behind the gateway, to the switch's `to` with this MAC.
    pub fn vxlan(self, mac: [u8; 6], from: Ipv4Addr, to: Ipv4Addr, vni: u32, flow: u32) -> Frame {
        let mut bytes = Tunnel { vni, local: from, switch: to }.outer(self.0.len(), flow).to_vec();
        bytes[..6].copy_from_slice(&mac);
        bytes.extend(self.0);
        Frame(bytes)
    }
}

/// Frames in a region of their own, all of one length.
struct Prepared {
    memory: Arc<OwnedFd>,
    walk: Walk,
    len: u32,
}

impl Prepared {
    fn new(frames: &[Frame]) -> Result<Option<Prepared>, String> {
        let Some(Frame(first)) = frames.first() else { return Ok(None) };
        let stride = first.len().next_multiple_of(64);
        let laid = Frames::lay_out(&[frames.len() as u32], stride, 0, |_, i, frame| {
            frame.clone_from(&frames[i as usize].0);
        })?;
        Ok(Some(Prepared { memory: laid.memory, walk: laid.walks[0], len: first.len() as u32 }))
    }
}

/// What was sent and received in some time.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Counts {
    /// Seconds of sending.
    pub seconds: f64,
    /// Frames received in that time.
    pub received: u64,
    /// Frames sent.
    pub sent: u64,
    /// Frames received in all.
    pub arrived: u64,
}

impl Counts {
    pub fn add(&mut self, more: Counts) {
        self.seconds += more.seconds;
        self.received += more.received;
        self.sent += more.sent;
        self.arrived += more.arrived;
    }
}

/// All links to a switch.
pub(super) struct Links {
    clients: Vec<Client>,
    /// What each of the first two sends.
    prepared: [Option<Prepared>; 2],
    /// Whether the second one's frames are measured.
    reverse: bool,
}

impl Links {
    /// Connects to all memif ports of `case` on `socket`.
    ///
    /// # Errors
    /// Why not.
    pub fn connect(case: Case, socket: &SocketName) -> Result<Links, String> {
        let (frames, lessons) = (Prepared::new(&case.frames())?, Prepared::new(&case.lessons())?);
        let prepared = if case.is_reverse() { [lessons, frames] } else { [frames, lessons] };
        let client = |id: u32| {
            let frames = prepared.get(id as usize).and_then(Option::as_ref).map(|p| p.memory.clone());
            let options =
                ClientOptions { name: format!("p{id}"), timeout: PATIENCE, frames, ..ClientOptions::default() };
            Client::connect(socket, id, &options)
        };
        let clients = (0..case.ports()).map(client).collect::<Result<Vec<_>, _>>()?;
        Ok(Links { clients, prepared, reverse: case.is_reverse() })
    }

    /// Writes at most `max` descriptors of side `side`. How many there were.
    #[inline(always)]
    fn send(&mut self, side: usize, max: u16) -> u16 {
        let (Some(client), Some(frames)) = (self.clients.get_mut(side), &mut self.prepared[side]) else { return 0 };
        let tx = &mut client.tx[0];
        let n = tx.free().min(max);
        if n == 0 || n < max.min(BATCH / 2) {
            return 0;
        }
        let Prepared { len, mut walk, .. } = *frames;
        tx.fill(REGION, (0..n).map(|_| (walk.step(), len)));
        frames.walk = walk;
        n
    }

    /// Takes what has come from the first `ports` ports.
    #[inline(always)]
    fn receive(&mut self, ports: usize) -> u64 {
        let mut received = 0;
        for client in &mut self.clients[..ports] {
            received += u64::from(client.rx[0].take(2 * BATCH, 1, u64::MAX / 2, |_, _| {}).0);
        }
        received
    }

    /// Receives until nothing has come for `quiet`.
    fn drain(&mut self, quiet: Duration) -> u64 {
        for client in &mut self.clients {
            client.tx[0].wake();
        }
        let (mut since, mut received) = (Instant::now(), 0);
        let end = since + Duration::from_secs(5);
        while since.elapsed() < quiet && Instant::now() < end {
            let n = self.receive(self.clients.len());
            received += n;
            if n != 0 {
                since = Instant::now();
            }
        }
        received
    }

    /// Sends every frame once, so that the switch has learned all MACs: first those of the lessons.
    pub fn teach(&mut self) {
        let first = usize::from(!self.reverse);
        for side in [first, 1 - first] {
            let count = self.prepared[side].as_ref().map_or(0, |p| p.walk.count() as usize);
            let mut sent = 0;
            let end = Instant::now() + PATIENCE;
            while sent < count && Instant::now() < end {
                sent += usize::from(self.send(side, (count - sent).min(LESSON) as u16));
                self.drain(Duration::from_micros(100));
            }
            if let Some(frames) = &mut self.prepared[side] {
                frames.walk.restart();
            }
        }
        self.drain(Duration::from_millis(20));
    }

    /// Sends for `duration` as fast as the switch takes frames, and receives at the first `ports` ports.
    pub fn run(&mut self, duration: Duration, ports: usize) -> Counts {
        let side = usize::from(self.reverse);
        let mut counts = Counts::default();
        let begin = Instant::now();
        loop {
            for _ in 0..32 {
                counts.sent += u64::from(self.send(side, BATCH));
                counts.received += self.receive(ports);
            }
            let elapsed = begin.elapsed();
            if elapsed >= duration {
                counts.seconds = elapsed.as_secs_f64();
                break;
            }
        }
        counts.arrived = counts.received + self.drain(Duration::from_millis(5));
        counts
    }

    /// Answers the switch's question for its gateway on the second port (ARP, RFC 826).
    ///
    /// # Errors
    /// If it doesn't ask.
    pub fn answer_arp(&mut self) -> Result<(), String> {
        let end = Instant::now() + PATIENCE;
        let mut buffer = [0; 2048];
        let gateway = Tunnel { vni: 0, local: GATEWAY, switch: LOCAL };
        while Instant::now() < end {
            let client = &mut self.clients[1];
            while let Some(len) = client.rx[0].recv(&mut buffer) {
                if let Some(answer) = gateway.read(&buffer[..len]).and_then(|heard| heard.reply) {
                    client.tx[0].send(&answer);
                    return Ok(());
                }
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        Err("drayd does not ask for its gateway's address".into())
    }
}
