//! The client side of the handshake, and a blocking client for tools.

use super::proto::{MODE_ETHERNET, Message, VERSION, secret};
use super::ring::{ClientRings, LOG2_MAX, LOG2_MIN, Layout, RawRx, RawTx, Shared, client_rings, raw_queues};
use super::socket::{KIND, Received, reason, receive, send, send_disconnect};
use super::{LinkInfo, SOFTWARE};
use crate::descriptor::{event, hung_up, text};
use crate::mem::{Region, Regions};
use crate::socket::dial;
use dray_config::SocketName;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::fstat;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::AtomicU32;
use std::time::{Duration, Instant};

/// Between two attempts to connect.
const RETRY: Duration = Duration::from_millis(20);

/// What a client asks for.
#[derive(Clone, Debug)]
pub struct ClientOptions {
    /// Descriptors a ring, a power of two, 256..=16384.
    pub ring_size: u32,
    /// Bytes a buffer.
    pub buffer_size: u32,
    /// Queue pairs, 1..=16.
    pub queues: u16,
    /// At most 23 bytes: peers keep the last of 24 for a NUL.
    pub secret: Option<String>,
    /// The interface's name, shown by the server.
    pub name: String,
    /// How long to try.
    pub timeout: Duration,
    /// A file that the server gets to map as region 1, with frames for [`RawTx::fill`](super::RawTx::fill).
    pub frames: Option<Arc<OwnedFd>>,
}

impl Default for ClientOptions {
    fn default() -> Self {
        ClientOptions {
            ring_size: 1024,
            buffer_size: 2048,
            queues: 1,
            secret: None,
            name: "client".into(),
            timeout: Duration::from_secs(5),
            frames: None,
        }
    }
}

/// What a client has made to offer to a server.
pub(super) struct Offer {
    pub shared: Arc<Shared>,
    pub rings: ClientRings,
    layout: Layout,
    server: String,
    /// Messages that the server has acknowledged: INIT, the region, and then the rings.
    pub acknowledged: u16,
}

impl Offer {
    /// Answers the server's `hello`: makes memory and rings within its limits, and sends their description.
    ///
    /// # Errors
    /// Why not.
    pub fn send(
        fd: BorrowedFd<'_>,
        hello: Message,
        id: u32,
        options: &ClientOptions,
        max_frame: Arc<AtomicU32>,
        wake: Arc<OwnedFd>,
    ) -> Result<Offer, String> {
        let Message::Hello { name, min_version, max_version, max_m2s_ring, max_s2m_ring, max_log2_ring_size, .. } =
            hello
        else {
            return Err("the server does not begin with HELLO".into());
        };
        if !(min_version..=max_version).contains(&VERSION) {
            return Err(format!("the server speaks versions {min_version:#x} to {max_version:#x}, not 2.0"));
        }
        let log2 = options.ring_size.max(1).ilog2() as u8;
        if max_log2_ring_size < LOG2_MIN {
            return Err(format!("the server takes rings of at most 2^{max_log2_ring_size} descriptors"));
        }
        let queues = options.queues.clamp(1, 16);
        let layout = Layout {
            s2m: queues.min(max_s2m_ring.saturating_add(1)),
            m2s: queues.min(max_m2s_ring.saturating_add(1)),
            log2: log2.clamp(LOG2_MIN, LOG2_MAX).min(max_log2_ring_size),
            buffer_size: options.buffer_size.max(1),
        };
        let size = layout.size()?;
        let (region, memory) = Region::create("memif", size)?;
        let events = (0..layout.s2m + layout.m2s).map(|_| event()).collect::<Result<Vec<_>, _>>()?;
        // The server may look at the rings as soon as it knows where they are.
        let passed = events.iter().map(OwnedFd::try_clone).collect::<Result<Vec<_>, _>>().map_err(text)?;
        let shared = Arc::new(Shared::new(Regions::new(vec![region]), max_frame, wake));
        let rings = client_rings(&shared, layout, events);
        let init = Message::Init {
            version: VERSION,
            id,
            mode: MODE_ETHERNET,
            secret: secret(options.secret.as_deref()),
            name: SOFTWARE.into(),
        };
        send(fd, &init, None)?;
        send(fd, &Message::AddRegion { index: 0, size }, Some(memory.as_fd()))?;
        if let Some(frames) = &options.frames {
            let size = fstat(frames).map_err(text)?.st_size as u64;
            send(fd, &Message::AddRegion { index: 1, size }, Some(frames.as_fd()))?;
        }
        for (i, event) in (0..).zip(&passed) {
            let s2m = i < layout.s2m;
            let ring = Message::AddRing {
                s2m,
                index: if s2m { i } else { i - layout.s2m },
                region: 0,
                offset: layout.ring_offset(i),
                log2_size: layout.log2,
                private_header: 0,
            };
            match send(fd, &ring, Some(event.as_fd())) {
                // What it said before is still to be read.
                Err(_) if hung_up(fd) => break,
                sent => sent?,
            }
        }
        match send(fd, &Message::Connect { interface: options.name.clone() }, None) {
            Err(_) if hung_up(fd) => {}
            sent => sent?,
        }
        Ok(Offer { shared, rings, layout, server: name, acknowledged: 0 })
    }

    /// How many queue pairs the server took, if it ended the connection at one of the next pair's rings. libmemif does so, without a word:
    /// its HELLO does not say how many the interface has.
    pub fn taken(&self) -> Option<u16> {
        let Layout { s2m, m2s, .. } = self.layout;
        let rings = self.acknowledged.saturating_sub(2);
        let pairs = if rings < s2m { rings } else { rings - s2m };
        (pairs > 0 && rings < s2m + m2s).then_some(pairs)
    }

    /// What there is to tell about the link.
    pub fn info(&self, interface: String) -> LinkInfo {
        LinkInfo {
            peer: self.server.clone(),
            interface,
            rx_rings: self.layout.m2s,
            tx_rings: self.layout.s2m,
            ring_size: 1 << self.layout.log2,
            buffer_size: self.layout.buffer_size,
            regions: 1,
            bytes: self.shared.regions.list()[0].len() as u64,
            sealed: self.shared.regions.list()[0].sealed(),
        }
    }
}

/// A connected client with raw rings, for tools. Dropping it disconnects.
pub struct Client {
    /// Rings to the server.
    pub tx: Vec<RawTx>,
    /// Rings from the server.
    pub rx: Vec<RawRx>,
    /// What there is to tell about the link.
    pub info: LinkInfo,
    fd: OwnedFd,
}

impl Client {
    /// Connects to interface `id` behind `socket`, trying until the options' timeout.
    ///
    /// # Errors
    /// Why it did not work, at last.
    pub fn connect(socket: &SocketName, id: u32, options: &ClientOptions) -> Result<Client, String> {
        let deadline = Instant::now() + options.timeout;
        let mut last = None;
        loop {
            match Self::try_connect(socket, id, options, deadline) {
                Ok(client) => return Ok(client),
                // Out of time in the middle of an attempt: the reason of the one before says more.
                Err(e) if Instant::now() + RETRY > deadline => return Err(last.unwrap_or(e)),
                Err(e) => last = Some(e),
            }
            std::thread::sleep(RETRY);
        }
    }

    fn try_connect(socket: &SocketName, id: u32, options: &ClientOptions, deadline: Instant) -> Result<Client, String> {
        let fd = dial(socket, KIND)?;
        let hello = wait(&fd, deadline)?;
        let max_frame = Arc::new(AtomicU32::new(u32::MAX));
        let offer = Offer::send(fd.as_fd(), hello, id, options, max_frame, Arc::new(event()?))
            .map_err(|e| reason(fd.as_fd()).0.unwrap_or(e))?;
        loop {
            match wait(&fd, deadline)? {
                Message::Ack => {}
                Message::Connected { interface } => {
                    let info = offer.info(interface);
                    let (tx, rx) = raw_queues(offer.rings);
                    return Ok(Client { tx, rx, info, fd });
                }
                other => return Err(format!("the server answers with {other:?}")),
            }
        }
    }

    /// Why the link is down, if it is.
    pub fn down(&self) -> Option<String> {
        match receive(self.fd.as_fd()) {
            Received::Nothing | Received::Message(Message::Ack, _) => None,
            Received::Message(Message::Disconnect { reason, .. }, _) => Some(reason),
            Received::Closed => Some("the server closed the connection".into()),
            Received::Message(other, _) => Some(format!("unexpected {other:?}")),
            Received::Bad(what, _) => Some(what),
        }
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        send_disconnect(self.fd.as_fd(), "the client disconnects");
    }
}

/// The next message of the server.
fn wait(fd: &OwnedFd, deadline: Instant) -> Result<Message, String> {
    loop {
        match receive(fd.as_fd()) {
            Received::Message(Message::Disconnect { reason, .. }, _) => return Err(reason),
            Received::Message(message, _) => return Ok(message),
            Received::Closed => return Err("the server closed the connection".into()),
            Received::Bad(what, _) => return Err(what),
            Received::Nothing => {}
        }
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err("the server does not answer".into());
        }
        let timeout = Timespec { tv_sec: left.as_secs() as i64, tv_nsec: left.subsec_nanos().into() };
        let _ = poll(&mut [PollFd::new(fd, PollFlags::IN)], Some(&timeout));
    }
}
