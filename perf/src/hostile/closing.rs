//! Descriptors that are not what they should be, and whose closing takes as long as the attacker likes.

use super::memif::{Offer, Raw, event, memfd};
use super::place::{Place, Urgency, X, bridge, memif, vhost_user};
use super::vm::{UVA, negotiate, words};
use super::{Case, fuse, place};
use dray_vhost::memif::proto::Message;
use dray_vhost::vhost_user::frontend::message::{VERSION, protocol, request};
use rustix::net::sockopt::{set_socket_linger, set_socket_recv_buffer_size, set_socket_send_buffer_size};
use std::io::Write;
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::Mutex;
use std::time::Duration;

/// How long closing such a socket takes.
const LINGER: Duration = Duration::from_secs(20);
/// Between two connections.
const PAUSE: Duration = Duration::from_millis(20);

pub(super) const CASES: &[Case] = &[
    Case {
        name: "memif-linger",
        what: "memif messages with a TCP socket that has unsent data and SO_LINGER: closing it takes 20 s",
        configuration: memif_port,
        attack: |place| with_sockets(place, memif_messages),
        ..Case::NOTHING
    },
    Case {
        name: "vm-linger",
        what: "the same in vhost-user messages",
        configuration: vm_port,
        attack: |place| with_sockets(place, vhost_user_messages),
        ..Case::NOTHING
    },
    Case {
        name: "memif-fuse",
        what: "memif messages with a file of a FUSE file system that never answers: closing it never ends",
        configuration: memif_port,
        attack: |place| with_files(place, memif_messages),
        lacks: fuse::check,
        ..Case::NOTHING
    },
    Case {
        name: "vm-fuse",
        what: "the same in vhost-user messages",
        configuration: vm_port,
        attack: |place| with_files(place, vhost_user_messages),
        lacks: fuse::check,
        ..Case::NOTHING
    },
    Case {
        name: "memif-descriptors",
        what: "memif messages with 253 descriptors each, without end",
        configuration: memif_port,
        attack: memif_descriptors,
        ..Case::NOTHING
    },
    Case {
        name: "vm-descriptors",
        what: "the same in vhost-user messages",
        configuration: vm_port,
        attack: vhost_user_descriptors,
        ..Case::NOTHING
    },
];

pub(super) fn memif_port(dir: &Path) -> String {
    memif(dir, "x", X, "") + &bridge("\"x\"")
}

pub(super) fn vm_port(dir: &Path) -> String {
    vhost_user(dir, "x", place::VM) + &bridge("\"x\"")
}

/// Makes a descriptor to be sent; `None` if there can be no more.
type Make<'a> = &'a (dyn Fn() -> Option<OwnedFd> + Sync);

/// Sends TCP sockets, of whose other ends nobody reads.
fn with_sockets(place: &Place, send: fn(&Place, Make<'_>)) -> Result<(), String> {
    let io = |e: std::io::Error| format!("a TCP socket: {e}");
    let listener = TcpListener::bind("127.0.0.1:0").map_err(io)?;
    let address = listener.local_addr().map_err(io)?;
    let others = Mutex::new(Vec::new());
    let make = || {
        let mut socket = TcpStream::connect(address).ok()?;
        let (other, _) = listener.accept().ok()?;
        let _ = set_socket_recv_buffer_size(&other, 4096);
        let _ = set_socket_send_buffer_size(&socket, 4096);
        socket.set_nonblocking(true).ok()?;
        while socket.write(&[0; 4096]).is_ok() {}
        set_socket_linger(&socket, Some(LINGER)).ok()?;
        others.lock().ok()?.push(other);
        Some(socket.into())
    };
    std::thread::scope(|scope| {
        scope.spawn(|| {
            place.take_place(Urgency::Attack);
            send(place, &make);
        });
        place.begin();
        while place.pause(PAUSE) {}
        // Whoever still closes one may go on: the other end is gone.
        others.lock().iter_mut().for_each(|others| others.clear());
    });
    Ok(())
}

/// Sends files that never answer.
fn with_files(place: &Place, send: fn(&Place, Make<'_>)) -> Result<(), String> {
    let files = fuse::Silent::mount()?;
    place.begin();
    send(place, &|| files.file().ok().map(OwnedFd::from));
    // Only when the daemon has ended, or can't: then it is freed by this.
    Ok(())
}

/// Says what a client says, with the descriptor beside one of the messages, and then leaves.
fn memif_messages(place: &Place, make: Make<'_>) {
    for which in (0..6).cycle() {
        if !place.pause(PAUSE) {
            return;
        }
        let Some(raw) = Raw::dial(&place.memif()) else { continue };
        let Some(fd) = make() else { continue };
        let ring = |s2m| Message::AddRing { s2m, index: 0, region: 0, offset: 0, log2_size: 8, private_header: 0 };
        let messages = [
            Offer::of(X).init(None),
            Message::AddRegion { index: 0, size: 1 << 20 },
            ring(true),
            ring(false),
            Message::Connect { interface: "hostile".into() },
            Message::Ack,
        ];
        let good = memfd(1 << 20).ok();
        for (i, message) in messages.iter().enumerate() {
            let fds: Vec<BorrowedFd<'_>> = match (i == which, &good) {
                (true, _) => vec![fd.as_fd()],
                (_, Some(file)) if i == 1 => vec![file.as_fd()],
                _ => vec![],
            };
            raw.send(message, &fds);
            if i == which {
                break;
            }
        }
        // Before the switch's: the last to close has to wait.
        drop(fd);
        place.tried(1);
        place.pause(PAUSE);
    }
}

/// The same as a virtual machine.
fn vhost_user_messages(place: &Place, make: Make<'_>) {
    for which in (0..5).cycle() {
        if !place.pause(PAUSE) {
            return;
        }
        let Ok(connection) = negotiate(&place.vm(), 0, protocol::CONFIGURE_MEM_SLOTS) else { continue };
        let Some(fd) = make() else { continue };
        let region = [&words(&[1, 0])[..], &region_bytes()].concat();
        let (number, body) = match which {
            0 => (request::SET_VRING_CALL, 0u64.to_ne_bytes().to_vec()),
            1 => (request::SET_VRING_KICK, 0u64.to_ne_bytes().to_vec()),
            2 => (request::SET_VRING_ERR, 0u64.to_ne_bytes().to_vec()),
            3 => (request::SET_MEM_TABLE, region),
            // One that has no descriptor.
            _ => (request::SET_VRING_NUM, words(&[0, 256])),
        };
        let _ = connection.send(number, VERSION, &body, &[fd.as_fd()]);
        drop(fd);
        place.tried(1);
        place.pause(PAUSE);
    }
}

fn region_bytes() -> Vec<u8> {
    [1u64 << 20, 1 << 20, UVA, 0].iter().flat_map(|n| n.to_ne_bytes()).collect()
}

fn memif_descriptors(place: &Place) -> Result<(), String> {
    let event = event(false)?;
    place.begin();
    while place.goes_on() {
        let Some(raw) = Raw::dial(&place.memif()) else {
            place.pause(Duration::from_millis(1));
            continue;
        };
        raw.send(&Offer::of(X).init(None), &[event.as_fd(); 253]);
        place.tried(1);
    }
    Ok(())
}

fn vhost_user_descriptors(place: &Place) -> Result<(), String> {
    let event = event(false)?;
    place.begin();
    while place.goes_on() {
        if let Ok(connection) = negotiate(&place.vm(), 0, protocol::CONFIGURE_MEM_SLOTS) {
            let _ = connection.send(request::SET_VRING_CALL, VERSION, &[0; 8], &[event.as_fd(); 253]);
        }
        place.tried(1);
    }
    Ok(())
}
