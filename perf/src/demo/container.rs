//! A container of the demo: a TCP/IP stack of its own (smoltcp) on a memif interface, driven line by line.
//!
//! It stands for a network function that links a memif client. It answers ping and ARP by itself; everything else it is told
//! on standard input ([`Command`], one JSON object a line) and answers on standard output ([`Reply`]). The end of standard input
//! ends it.

use dray_config::{Mac, SocketName};
use dray_vhost::memif::{Client, ClientOptions, RawRx, RawTx};
use serde::{Deserialize, Serialize};
use smoltcp::iface::{Config, Interface, PollResult, SocketHandle, SocketSet};
use smoltcp::phy::{self, Device, DeviceCapabilities, Medium};
use smoltcp::socket::{icmp, tcp};
use smoltcp::time::Instant;
use smoltcp::wire::{EthernetAddress, Icmpv4Packet, Icmpv4Repr, IpAddress, IpCidr, IpListenEndpoint};
use std::io::{BufRead, Write};
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, TryRecvError, channel};
use std::time::Duration;

/// How a container is started.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// The switch's memif socket, a path or "@name"
    #[arg(long)]
    pub socket: SocketName,
    /// Interface id on that socket
    #[arg(long)]
    pub id: u32,
    /// Own address, like 10.1.0.1/24
    #[arg(long, value_parser = cidr)]
    pub ip: IpCidr,
    /// Own MAC address
    #[arg(long)]
    pub mac: Mac,
    /// Longest IP packet in bytes; the underlay's MTU less 50 bytes of VXLAN
    #[arg(long, default_value_t = 1450)]
    pub mtu: usize,
}

/// What a container is told to do.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Command {
    /// Send echo requests to `to`, one every 20 ms; answered by [`Reply::Pinged`].
    Ping {
        /// Whom.
        to: Ipv4Addr,
        /// How many.
        count: u16,
    },
    /// Send a file to whoever connects next to TCP port `port`; answered by [`Reply::Listening`].
    Serve {
        /// The file.
        file: PathBuf,
        /// The port.
        port: u16,
    },
    /// Connect, and write all that comes to a file; answered by [`Reply::Moved`].
    Fetch {
        /// From whom.
        from: Ipv4Addr,
        /// The port.
        port: u16,
        /// The file.
        file: PathBuf,
    },
    /// Take and forget what the next connection to TCP port `port` brings; answered by [`Reply::Listening`].
    Sink {
        /// The port.
        port: u16,
    },
    /// Connect, and send as much as goes; answered by [`Reply::Moved`] when all of it is acknowledged.
    Blast {
        /// To whom.
        to: Ipv4Addr,
        /// The port.
        port: u16,
        /// How long.
        seconds: f64,
    },
}

/// What a container answers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reply {
    /// The memif link is up; the first line.
    Up {
        /// How the switch calls itself.
        peer: String,
    },
    /// Round-trip times in microseconds, in the order sent; none for a request that was not answered within a second.
    Pinged {
        /// The times.
        rtts: Vec<Option<f64>>,
    },
    /// The port is open.
    Listening,
    /// The connection has ended as it should.
    Moved {
        /// Bytes of payload.
        bytes: u64,
        /// Seconds from the first packet sent to the last one needed.
        seconds: f64,
    },
    /// It did not work.
    Failed {
        /// Why.
        reason: String,
    },
}

/// Reads an address with prefix length.
fn cidr(s: &str) -> Result<IpCidr, String> {
    s.parse().map_err(|()| "an address with prefix length is like 10.1.0.1/24".into())
}

/// Connects to the switch, and runs until standard input ends.
///
/// # Errors
/// Why the link did not come up, or went down.
pub fn run(options: &Options) -> Result<(), String> {
    // Whoever started this process reads its answers; without a reader there is nothing to do.
    let _ = rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL));
    let client_options = ClientOptions { name: "dray-demo".into(), ..ClientOptions::default() };
    let client = Client::connect(&options.socket, options.id, &client_options)?;
    reply(&Reply::Up { peer: client.info.peer.clone() });
    let (send, commands) = channel();
    std::thread::spawn(move || {
        for line in std::io::stdin().lock().lines() {
            let Ok(line) = line else { return };
            let sent = match serde_json::from_str(&line) {
                Ok(command) => send.send(command).is_ok(),
                Err(error) => {
                    reply(&Reply::Failed { reason: format!("{line:?}: {error}") });
                    true
                }
            };
            if !sent {
                return;
            }
        }
    });
    Stack::new(client, options).run(&commands)
}

/// Writes a line to standard output; if nobody reads it any more, standard input has ended as well.
fn reply(reply: &Reply) {
    let line = serde_json::to_string(reply).expect("no map keys that are not strings, no failing types");
    let mut out = std::io::stdout().lock();
    let _ = writeln!(out, "{line}").and_then(|()| out.flush());
}

/// The memif interface as smoltcp sees it.
struct Nic {
    client: Client,
    mtu: usize,
    buffer: Vec<u8>,
    /// Frames received and sent so far.
    frames: u64,
}

impl Device for Nic {
    type RxToken<'a> = RxToken<'a>;
    type TxToken<'a> = TxToken<'a>;

    fn receive(&mut self, _: Instant) -> Option<(RxToken<'_>, TxToken<'_>)> {
        let Nic { client, buffer, frames, .. } = self;
        let (rx, tx): (&mut RawRx, &mut RawTx) = (&mut client.rx[0], &mut client.tx[0]);
        // What arrives may have to be answered: without room for that it waits.
        if tx.free() == 0 {
            return None;
        }
        let len = rx.recv(buffer)?.min(buffer.len());
        *frames += 1;
        Some((RxToken(&buffer[..len]), TxToken { tx, frames }))
    }

    fn transmit(&mut self, _: Instant) -> Option<TxToken<'_>> {
        let tx = &mut self.client.tx[0];
        (tx.free() > 0).then_some(TxToken { tx, frames: &mut self.frames })
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ethernet;
        capabilities.max_transmission_unit = self.mtu + 14;
        capabilities
    }
}

/// A frame that has arrived.
struct RxToken<'a>(&'a [u8]);

impl phy::RxToken for RxToken<'_> {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, f: F) -> R {
        f(self.0)
    }
}

/// Room for a frame to be sent.
struct TxToken<'a> {
    tx: &'a mut RawTx,
    frames: &'a mut u64,
}

impl phy::TxToken for TxToken<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, f: F) -> R {
        let mut frame = [0; 2048];
        let r = f(&mut frame[..len]);
        *self.frames += u64::from(self.tx.send(&frame[..len]));
        r
    }
}

/// What is being done.
enum Job {
    Ping { socket: SocketHandle, to: Ipv4Addr, sent: Vec<Instant>, rtts: Vec<Option<f64>> },
    Serve { socket: SocketHandle, data: Vec<u8>, sent: usize },
    Sink { socket: SocketHandle },
    Fetch { socket: SocketHandle, file: PathBuf, data: Vec<u8>, start: Instant },
    Blast { socket: SocketHandle, bytes: u64, start: Instant, end: Instant },
}

/// What has become of a job.
enum Step {
    Goes,
    Ends(Option<Reply>),
}

/// Identifier of our echo requests.
const IDENT: u16 = 0x6472;
/// Bytes of a TCP socket's send buffer, and so under way at most: less than a memif ring of 1024 frames holds.
const TCP_SEND: usize = 256 << 10;
/// Bytes of its receive buffer. Much more than the other side sends at once: smoltcp also sends a FIN for which the window has
/// no room, which is then dropped, and repeated only a second later.
const TCP_RECEIVE: usize = 1 << 20;

struct Stack {
    nic: Nic,
    iface: Interface,
    sockets: SocketSet<'static>,
    jobs: Vec<Job>,
    next_port: u16,
}

impl Stack {
    fn new(client: Client, options: &Options) -> Stack {
        // The largest frame that goes into one of our transmit buffers.
        let mtu = options.mtu.clamp(576, 2034);
        let mut nic = Nic { client, mtu, buffer: vec![0; 16384], frames: 0 };
        let mut config = Config::new(EthernetAddress(options.mac.0).into());
        config.random_seed = Instant::now().total_micros() as u64 ^ u64::from(std::process::id()) << 32;
        let mut iface = Interface::new(config, &mut nic, Instant::now());
        iface.update_ip_addrs(|ips| {
            // There is room for the first address.
            let _ = ips.push(options.ip);
        });
        Stack { nic, iface, sockets: SocketSet::new(Vec::new()), jobs: Vec::new(), next_port: 49152 }
    }

    /// Polls until the commands end.
    fn run(mut self, commands: &Receiver<Command>) -> Result<(), String> {
        let mut idle = 0u32;
        let mut looked = Instant::now();
        loop {
            match commands.try_recv() {
                Ok(command) => {
                    if let Err(reason) = self.begin(command) {
                        reply(&Reply::Failed { reason });
                    }
                }
                Err(TryRecvError::Empty) => {}
                Err(TryRecvError::Disconnected) => return Ok(()),
            }
            let now = Instant::now();
            let frames = self.nic.frames;
            let changed = self.iface.poll(now, &mut self.nic, &mut self.sockets) == PollResult::SocketStateChanged;
            self.step(now);
            if changed || self.nic.frames != frames {
                idle = 0;
            } else {
                idle = idle.saturating_add(1);
            }
            // The demo has more processes than CPUs. Sleeping, not yielding: a task that yields all the time is put behind
            // every other one.
            match idle {
                0..20 => {}
                20..10_000 => std::thread::sleep(Duration::from_micros(50)),
                _ => std::thread::sleep(Duration::from_micros(500)),
            }
            if (now - looked).total_millis() >= 100 {
                looked = now;
                if let Some(reason) = self.nic.client.down() {
                    return Err(format!("the link is down: {reason}"));
                }
            }
        }
    }

    fn tcp_socket(&mut self) -> tcp::Socket<'static> {
        let buffer = |size| tcp::SocketBuffer::new(vec![0; size]);
        let mut socket = tcp::Socket::new(buffer(TCP_RECEIVE), buffer(TCP_SEND));
        socket.set_timeout(Some(smoltcp::time::Duration::from_secs(5)));
        socket.set_nagle_enabled(false);
        socket
    }

    fn listen(&mut self, port: u16) -> Result<SocketHandle, String> {
        let mut socket = self.tcp_socket();
        // The timeout would also end the waiting for a connection.
        socket.set_timeout(None);
        socket.listen(IpListenEndpoint::from(port)).map_err(|e| format!("listen on {port}: {e}"))?;
        reply(&Reply::Listening);
        Ok(self.sockets.add(socket))
    }

    fn connect(&mut self, to: Ipv4Addr, port: u16) -> Result<SocketHandle, String> {
        let mut socket = self.tcp_socket();
        let local = self.next_port;
        self.next_port = local.checked_add(1).unwrap_or(49152);
        let to = (IpAddress::Ipv4(to), port);
        socket.connect(self.iface.context(), to, local).map_err(|e| format!("connect to {}:{port}: {e}", to.0))?;
        Ok(self.sockets.add(socket))
    }

    fn begin(&mut self, command: Command) -> Result<(), String> {
        let start = Instant::now();
        let job = match command {
            Command::Ping { to, count } => {
                let buffer = || icmp::PacketBuffer::new(vec![icmp::PacketMetadata::EMPTY; 16], vec![0; 4096]);
                let mut socket = icmp::Socket::new(buffer(), buffer());
                socket.bind(icmp::Endpoint::Ident(IDENT)).map_err(|e| format!("ping: {e}"))?;
                let socket = self.sockets.add(socket);
                Job::Ping { socket, to, sent: Vec::new(), rtts: vec![None; count.into()] }
            }
            Command::Serve { file, port } => {
                let data = std::fs::read(&file).map_err(|e| format!("{}: {e}", file.display()))?;
                Job::Serve { socket: self.listen(port)?, data, sent: 0 }
            }
            Command::Sink { port } => Job::Sink { socket: self.listen(port)? },
            Command::Fetch { from, port, file } => {
                Job::Fetch { socket: self.connect(from, port)?, file, data: Vec::new(), start }
            }
            Command::Blast { to, port, seconds } => {
                let end = start + smoltcp::time::Duration::from_micros((seconds.clamp(0.0, 60.0) * 1e6) as u64);
                Job::Blast { socket: self.connect(to, port)?, bytes: 0, start, end }
            }
        };
        self.jobs.push(job);
        Ok(())
    }

    fn step(&mut self, now: Instant) {
        let checksums = self.nic.capabilities().checksum;
        let sockets = &mut self.sockets;
        self.jobs.retain_mut(|job| match job.step(now, sockets, &checksums) {
            Step::Goes => true,
            Step::Ends(answer) => {
                answer.iter().for_each(reply);
                false
            }
        });
    }
}

impl Job {
    fn step(&mut self, now: Instant, sockets: &mut SocketSet<'_>, checksums: &phy::ChecksumCapabilities) -> Step {
        match self {
            Job::Ping { socket: handle, to, sent, rtts } => {
                let socket = sockets.get_mut::<icmp::Socket>(*handle);
                while let Ok((bytes, from)) = socket.recv() {
                    let packet = Icmpv4Packet::new_checked(bytes).ok();
                    let repr = packet.and_then(|p| Icmpv4Repr::parse(&p, checksums).ok());
                    if let Some(Icmpv4Repr::EchoReply { ident: IDENT, seq_no, .. }) = repr
                        && from == IpAddress::Ipv4(*to)
                        && let Some(&at) = sent.get(usize::from(seq_no))
                    {
                        rtts[usize::from(seq_no)].get_or_insert((now - at).total_micros() as f64);
                    }
                }
                let due = sent.last().is_none_or(|&at| (now - at).total_millis() >= 20);
                if sent.len() < rtts.len() && due && socket.can_send() {
                    let request =
                        Icmpv4Repr::EchoRequest { ident: IDENT, seq_no: sent.len() as u16, data: &[0xd7; 56] };
                    if let Ok(room) = socket.send(request.buffer_len(), IpAddress::Ipv4(*to)) {
                        request.emit(&mut Icmpv4Packet::new_unchecked(room), checksums);
                        sent.push(now);
                    }
                }
                let late = sent.last().is_some_and(|&at| (now - at).total_millis() >= 1000);
                let all = rtts.iter().all(Option::is_some);
                if sent.len() == rtts.len() && (all || late) {
                    sockets.remove(*handle);
                    return Step::Ends(Some(Reply::Pinged { rtts: std::mem::take(rtts) }));
                }
            }
            Job::Serve { socket: handle, data, sent } => {
                let socket = sockets.get_mut::<tcp::Socket>(*handle);
                if socket.may_send() {
                    *sent += socket.send_slice(&data[*sent..]).unwrap_or(0);
                    if *sent == data.len() {
                        socket.close();
                    }
                }
                if !socket.is_open() {
                    sockets.remove(*handle);
                    return Step::Ends(None);
                }
            }
            Job::Sink { socket: handle } => {
                let socket = sockets.get_mut::<tcp::Socket>(*handle);
                while socket.can_recv() && socket.recv(|bytes| (bytes.len(), ())).is_ok() {}
                if socket.state() == tcp::State::CloseWait {
                    socket.close();
                }
                if !socket.is_open() {
                    sockets.remove(*handle);
                    return Step::Ends(None);
                }
            }
            Job::Fetch { socket: handle, file, data, start } => {
                let socket = sockets.get_mut::<tcp::Socket>(*handle);
                while socket.can_recv() && socket.recv(|b| (b.len(), data.extend_from_slice(b))).is_ok() {}
                let answer = match socket.state() {
                    tcp::State::CloseWait if !socket.can_recv() => {
                        let seconds = (now - *start).total_micros() as f64 / 1e6;
                        // Closing takes another packet or two; the socket is dropped when they are through.
                        socket.close();
                        match std::fs::write(&*file, &data) {
                            Ok(()) => Reply::Moved { bytes: data.len() as u64, seconds },
                            Err(e) => Reply::Failed { reason: format!("{}: {e}", file.display()) },
                        }
                    }
                    tcp::State::Closed => {
                        Reply::Failed { reason: format!("connection lost after {} bytes", data.len()) }
                    }
                    _ => return Step::Goes,
                };
                reply(&answer);
                *self = Job::Sink { socket: *handle };
            }
            Job::Blast { socket: handle, bytes, start, end } => {
                let socket = sockets.get_mut::<tcp::Socket>(*handle);
                if now < *end {
                    while socket.can_send()
                        && let Ok(n) = socket.send(|room| (room.len(), room.len()))
                        && n > 0
                    {
                        *bytes += n as u64;
                    }
                } else if socket.may_send() {
                    socket.close();
                }
                let seconds = (now - *start).total_micros() as f64 / 1e6;
                let answer = match socket.state() {
                    tcp::State::FinWait2 | tcp::State::TimeWait => Reply::Moved { bytes: *bytes, seconds },
                    tcp::State::Closed => Reply::Failed { reason: format!("connection lost after {bytes} bytes") },
                    _ => return Step::Goes,
                };
                reply(&answer);
                *self = Job::Sink { socket: *handle };
            }
        }
        Step::Goes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_stable() {
        let ping = Command::Ping { to: Ipv4Addr::new(10, 1, 0, 2), count: 3 };
        let line = r#"{"ping":{"to":"10.1.0.2","count":3}}"#;
        assert_eq!(serde_json::to_string(&ping).unwrap(), line);
        assert_eq!(serde_json::from_str::<Command>(line).unwrap(), ping);
        assert_eq!(serde_json::to_string(&Reply::Listening).unwrap(), r#""listening""#);
        let line = r#"{"pinged":{"rtts":[12.0,null]}}"#;
        assert_eq!(serde_json::from_str::<Reply>(line).unwrap(), Reply::Pinged { rtts: vec![Some(12.0), None] });
    }

    #[test]
    fn addresses_have_a_prefix() {
        assert_eq!(cidr("10.1.0.1/24").unwrap().to_string(), "10.1.0.1/24");
        assert!(cidr("10.1.0.1").is_err() && cidr("x/24").is_err() && cidr("10.1.0.1/33").is_err());
    }
}
