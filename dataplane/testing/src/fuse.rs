//! A file system with one file, which answers what it likes: whoever asks for anything else waits for ever and can't be killed.
//!
//! Raw messages over /dev/fuse (Linux's `include/uapi/linux/fuse.h`, version 7.31).

use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
use std::ffi::CString;
use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Read, Write};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::thread::{JoinHandle, spawn};

const LOOKUP: u32 = 1;
const FORGET: u32 = 2;
const GETATTR: u32 = 3;
const OPEN: u32 = 14;
const RELEASE: u32 = 18;
/// A descriptor of the file is closed.
pub const FLUSH: u32 = 25;
const INIT: u32 = 26;
const INTERRUPT: u32 = 36;
const BATCH_FORGET: u32 = 42;
/// Function not implemented.
const ENOSYS: i32 = 38;
/// Bytes before a request, and before an answer.
const HEADER: usize = 40;
const ANSWER: usize = 16;

/// What is asked for.
#[derive(Clone, Copy, Debug)]
pub struct Request {
    /// As [`FLUSH`].
    pub operation: u32,
    /// The thread that asks; 0 if it can't be seen from here.
    pub thread: u32,
}

/// The mounted file system. All that waits is over when it is dropped.
pub struct Fuse {
    mount: PathBuf,
    server: Option<JoinHandle<()>>,
}

impl Fuse {
    /// Whether there can be one here.
    ///
    /// # Errors
    /// Why not.
    pub fn check() -> Result<(), String> {
        if !rustix::process::geteuid().is_root() {
            return Err("mounting a file system needs root".into());
        }
        File::open("/dev/fuse").map(drop).map_err(|e| format!("/dev/fuse: {e}"))
    }

    /// Mounts it on a directory that is there. A request gets an answer if `answers` says so.
    ///
    /// # Errors
    /// If it can't be.
    pub fn mount(directory: &Path, answers: impl Fn(Request) -> bool + Send + 'static) -> Result<Fuse, String> {
        let device = OpenOptions::new().read(true).write(true).open("/dev/fuse");
        let device = device.map_err(|e| format!("/dev/fuse: {e}"))?;
        let options = format!("fd={},rootmode=40000,user_id=0,group_id=0", device.as_raw_fd());
        let options = CString::new(options).expect("no zero byte");
        let flags = MountFlags::NOSUID | MountFlags::NODEV;
        mount("dray-test", directory, "fuse", flags, options.as_c_str()).map_err(|e| format!("mount fuse: {e}"))?;
        let server = Some(spawn(move || serve(device, answers)));
        Ok(Fuse { mount: directory.into(), server })
    }

    /// The file.
    pub fn file(&self) -> PathBuf {
        self.mount.join("file")
    }
}

impl Drop for Fuse {
    fn drop(&mut self) {
        // Forced: all that wait get an error, and so does the server, which ends.
        if unmount(&self.mount, UnmountFlags::FORCE | UnmountFlags::DETACH).is_ok() {
            let _ = self.server.take().map(JoinHandle::join);
        }
    }
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_ne_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

/// `fuse_attr` of the root (node 1) or the file.
fn attributes(node: u64) -> Vec<u8> {
    let (mode, links) = if node == 1 { (0o40755u32, 2u32) } else { (0o100_666, 1) };
    let mut bytes: Vec<u8> = [node, 1 << 20, 2048, 0, 0, 0].iter().flat_map(|n| n.to_ne_bytes()).collect();
    bytes.extend([0, 0, 0, mode, links, 0, 0, 0, 4096, 0].iter().flat_map(|n: &u32| n.to_ne_bytes()));
    bytes
}

fn serve(mut device: File, answers: impl Fn(Request) -> bool) {
    let mut request = vec![0; 1 << 20];
    loop {
        let length = match device.read(&mut request) {
            Ok(length) => length,
            // Who asked has given up, or this was interrupted.
            Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::Interrupted) => continue,
            // It is unmounted.
            Err(_) => return,
        };
        if length < HEADER {
            return;
        }
        let operation = u32_at(&request, 4);
        if matches!(operation, FORGET | INTERRUPT | BATCH_FORGET)
            || operation != INIT && !answers(Request { operation, thread: u32_at(&request, 32) })
        {
            continue;
        }
        let (error, body) = match operation {
            INIT => {
                // Version 7.31, no flags, at most 4 KiB a write.
                let mut body: Vec<u8> = [7u32, 31, 0, 0].iter().flat_map(|n| n.to_ne_bytes()).collect();
                body.extend([8u16, 8].iter().flat_map(|n| n.to_ne_bytes()));
                body.extend([4096u32, 1].iter().flat_map(|n| n.to_ne_bytes()));
                body.resize(64, 0);
                (0, body)
            }
            LOOKUP => {
                // Node 2, valid for no time: whoever asks again has to wait.
                let mut body: Vec<u8> = [2u64, 0, 0, 0, 0].iter().flat_map(|n| n.to_ne_bytes()).collect();
                body.extend(attributes(2));
                (0, body)
            }
            GETATTR => {
                let mut body = vec![0; 16];
                body.extend(attributes(if u32_at(&request, 16) == 1 { 1 } else { 2 }));
                (0, body)
            }
            OPEN => (0, vec![0; 16]),
            FLUSH | RELEASE => (0, vec![]),
            _ => (-ENOSYS, vec![]),
        };
        let mut answer = ((ANSWER + body.len()) as u32).to_ne_bytes().to_vec();
        answer.extend(error.to_ne_bytes());
        answer.extend(&request[8..16]);
        answer.extend(body);
        let _ = device.write_all(&answer);
    }
}
