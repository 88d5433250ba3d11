//! What the tests share: a network namespace of one's own, raw sockets, and bursts read and made byte by byte.
#![allow(dead_code)]

use dray_dpdk::{EthOptions, EthPort};
use dray_switch::{Burst, Drops, Frame, Rx, Sent, Tx, mem};
use dray_testing::run;
use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::time::{Duration, Instant};

/// How long anything may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// Moves this thread, and those it starts from now on, into a new network namespace. It goes with the last of them,
/// whatever end the test takes.
pub fn new_namespace() {
    // SAFETY: no memory is involved.
    assert_eq!(unsafe { libc::unshare(libc::CLONE_NEWNET) }, 0, "{}", io::Error::last_os_error());
    // No router solicitations between our frames.
    let _ = std::fs::write("/proc/sys/net/ipv6/conf/default/disable_ipv6", "1");
}

/// Runs `ip` with these arguments.
pub fn ip(args: &str) {
    run(&format!("ip {args}"));
}

/// A veth pair, up.
pub fn veth(a: &str, b: &str) {
    ip(&format!("link add {a} type veth peer name {b}"));
    ip(&format!("link set {a} up"));
    ip(&format!("link set {b} up"));
}

/// A packet socket on one interface.
pub struct Raw(OwnedFd);

impl Raw {
    pub fn new(iface: &str) -> Raw {
        let name = CString::new(iface).unwrap();
        // SAFETY: plain system calls, with structures of the size given.
        unsafe {
            let protocol = (libc::ETH_P_ALL as u16).to_be();
            let fd = libc::socket(libc::AF_PACKET, libc::SOCK_RAW, protocol.into());
            assert!(fd >= 0, "{}", io::Error::last_os_error());
            let fd = OwnedFd::from_raw_fd(fd);
            let mut address: libc::sockaddr_ll = std::mem::zeroed();
            address.sll_family = libc::AF_PACKET as u16;
            address.sll_protocol = protocol;
            address.sll_ifindex = libc::if_nametoindex(name.as_ptr()) as i32;
            let size = size_of_val(&address) as u32;
            assert_eq!(libc::bind(fd.as_raw_fd(), (&raw const address).cast(), size), 0);
            let timeout = libc::timeval { tv_sec: PATIENCE.as_secs() as i64, tv_usec: 0 };
            let size = size_of_val(&timeout) as u32;
            let option = (&raw const timeout).cast();
            assert_eq!(libc::setsockopt(fd.as_raw_fd(), libc::SOL_SOCKET, libc::SO_RCVTIMEO, option, size), 0);
            let one = 1i32;
            const PACKET_IGNORE_OUTGOING: i32 = 23;
            let option = (&raw const one).cast();
            assert_eq!(libc::setsockopt(fd.as_raw_fd(), libc::SOL_PACKET, PACKET_IGNORE_OUTGOING, option, 4), 0);
            Raw(fd)
        }
    }

    pub fn send(&self, frame: &[u8]) {
        // SAFETY: the slice is readable.
        let n = unsafe { libc::send(self.0.as_raw_fd(), frame.as_ptr().cast(), frame.len(), 0) };
        assert_eq!(n, frame.len() as isize, "{}", io::Error::last_os_error());
    }

    /// The next frame.
    pub fn receive(&self) -> Vec<u8> {
        self.recv(0).expect("a frame")
    }

    /// All frames that have arrived.
    pub fn received(&self) -> Vec<Vec<u8>> {
        std::iter::from_fn(|| self.recv(libc::MSG_DONTWAIT).ok()).collect()
    }

    fn recv(&self, flags: i32) -> io::Result<Vec<u8>> {
        let mut frame = vec![0; 65536];
        // SAFETY: the buffer is writable.
        let n = unsafe { libc::recv(self.0.as_raw_fd(), frame.as_mut_ptr().cast(), frame.len(), flags) };
        frame.truncate(usize::try_from(n).map_err(|_| io::Error::last_os_error())?);
        Ok(frame)
    }
}

/// A frame of `len` bytes with an experimental EtherType (IEEE 802, 88-b5), its last bytes counting from `seed`.
pub fn frame(len: usize, seed: u8) -> Vec<u8> {
    let mut frame = vec![0x02, 0, 0, 0, 0, 0x0b, 0x02, 0, 0, 0, 0, 0x0a, 0x88, 0xb5];
    frame.extend((frame.len()..len).map(|i| (i as u8).wrapping_mul(31).wrapping_add(seed)));
    frame
}

/// All bytes of a received frame, head and body.
pub fn bytes(burst: &Burst, frame: &Frame) -> Vec<u8> {
    let mut bytes = vec![0; frame.len()];
    // SAFETY: as long as the frame; the burst is not released.
    unsafe { mem::write_frame(burst, frame, bytes.as_mut_ptr()) };
    bytes
}

/// Waits until `done`.
pub fn wait_for(mut done: impl FnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !done() {
        assert!(Instant::now() < end, "nothing happens");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Receives until the burst has a frame or a drop.
pub fn receive(rx: &mut dyn Rx, burst: &mut Burst) {
    let end = Instant::now() + PATIENCE;
    burst.clear();
    while burst.is_empty() && burst.drops.total() == 0 {
        assert!(Instant::now() < end, "nothing received");
        rx.receive(burst);
    }
}

/// Receives one burst that has one frame, and returns its bytes.
pub fn receive_one(rx: &mut dyn Rx) -> Vec<u8> {
    let mut burst = Burst::default();
    receive(rx, &mut burst);
    assert_eq!((burst.len(), burst.drops.total()), (1, 0));
    let head = burst.frame(0).head().len();
    assert_eq!(head, burst.frame(0).len().min(burst.head_len()));
    let bytes = bytes(&burst, burst.frame(0));
    rx.release(&mut burst);
    bytes
}

/// Sends `frames`, at most 64, as one burst.
pub fn send(tx: &mut dyn Tx, frames: &[Vec<u8>]) -> (Sent, Drops) {
    let mut burst = Burst::default();
    for frame in frames {
        // SAFETY: the vectors outlive the burst.
        unsafe { burst.push(frame.as_ptr(), frame.len() as u32, 0) };
    }
    let names: Vec<u16> = (0..frames.len() as u16).collect();
    let sent = tx.send(&mut burst, &names);
    assert_eq!(sent.packets + burst.tx_drops.total(), frames.len() as u32);
    (sent, std::mem::take(&mut burst.tx_drops))
}

/// What opening `device` is refused with.
pub fn refusal(device: &str) -> String {
    match EthPort::open(device, &EthOptions::default()) {
        Ok(_) => panic!("{device} opens"),
        Err(error) => error.to_string(),
    }
}

/// Open files, mappings and resident KiB of this process.
pub fn resources() -> (usize, usize, usize) {
    let count = |path| std::fs::read_dir(path).unwrap().count();
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let rss = status.lines().find_map(|line| line.strip_prefix("VmRSS:")?.trim().strip_suffix(" kB")).unwrap();
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    (count("/proc/self/fd"), maps.lines().count(), rss.parse().unwrap())
}
