//! A file system that does not answer: whoever closes a file of it, or asks how large it is, waits for ever and can't be killed.
//!
//! Raw messages over /dev/fuse (Linux's `include/uapi/linux/fuse.h`). Only this process gets answers. Closing the device ends all
//! waiting.

use crate::peer::TempDir;
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
use std::ffi::CString;
use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::path::Path;
use std::time::Duration;

const LOOKUP: u32 = 1;
const FORGET: u32 = 2;
const GETATTR: u32 = 3;
const OPEN: u32 = 14;
const INIT: u32 = 26;
const BATCH_FORGET: u32 = 42;
/// Bytes before a request, and before an answer.
const HEADER: usize = 40;
const ANSWER: usize = 16;

/// Whether there can be one here.
///
/// # Errors
/// Why not.
pub(super) fn check() -> Result<(), String> {
    if !rustix::process::geteuid().is_root() {
        return Err("mounting a file system needs root".into());
    }
    File::open("/dev/fuse").map(drop).map_err(|e| format!("/dev/fuse: {e}"))
}

/// The mounted file system.
pub(super) struct Silent {
    /// Closed before the directory is removed.
    _device: File,
    dir: TempDir,
}

impl Silent {
    /// Mounts it.
    ///
    /// # Errors
    /// If it can't be.
    pub fn mount() -> Result<Silent, String> {
        let dir = TempDir::new()?;
        let device =
            OpenOptions::new().read(true).write(true).open("/dev/fuse").map_err(|e| format!("/dev/fuse: {e}"))?;
        let options = format!("fd={},rootmode=40000,user_id=0,group_id=0", device.as_raw_fd());
        let options = CString::new(options).map_err(|e| e.to_string())?;
        let flags = MountFlags::NOSUID | MountFlags::NODEV;
        mount("dray-hostile", dir.path(), "fuse", flags, options.as_c_str()).map_err(|e| format!("mount fuse: {e}"))?;
        let server = device.try_clone().map_err(|e| e.to_string())?;
        // It ends when the file system is unmounted.
        std::thread::spawn(move || serve(server));
        Ok(Silent { _device: device, dir })
    }

    /// A file of it, opened. As blocking as any: who closes it, waits.
    ///
    /// # Errors
    /// If it can't be opened.
    pub fn file(&self) -> Result<File, String> {
        let options = OpenOptions::new().read(true).write(true).clone();
        options.open(self.dir.path().join("file")).map_err(|e| format!("open a file that does not answer: {e}"))
    }
}

impl Drop for Silent {
    fn drop(&mut self) {
        // Forced: all that wait get an error.
        let _ = unmount(self.dir.path(), UnmountFlags::FORCE | UnmountFlags::DETACH);
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_ne_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

/// `fuse_attr` of the root or the file.
fn attributes(node: u64) -> Vec<u8> {
    let (mode, links) = if node == 1 { (0o40755u32, 2u32) } else { (0o100_666, 1) };
    let mut bytes: Vec<u8> = [node, 1 << 20, 2048, 0, 0, 0].iter().flat_map(|n| n.to_ne_bytes()).collect();
    bytes.extend([0, 0, 0, mode, links, 0, 0, 0, 4096, 0].iter().flat_map(|n: &u32| n.to_ne_bytes()));
    bytes
}

/// Answers this process, and nobody else.
fn serve(mut device: File) {
    let mut request = vec![0; 1 << 20];
    loop {
        let Ok(length) = device.read(&mut request) else { return };
        if length < HEADER {
            return;
        }
        let operation = u32_at(&request, 4);
        // What is named is the thread.
        let is_own = Path::new(&format!("/proc/self/task/{}", u32_at(&request, 32))).exists();
        if matches!(operation, FORGET | BATCH_FORGET) || !is_own && operation != INIT {
            continue;
        }
        let body = match operation {
            INIT => {
                // Version 7.31, no flags, at most 4 KiB a write.
                let mut body: Vec<u8> = [7u32, 31, 0, 0].iter().flat_map(|n| n.to_ne_bytes()).collect();
                body.extend([8u16, 8].iter().flat_map(|n| n.to_ne_bytes()));
                body.extend([4096u32, 1].iter().flat_map(|n| n.to_ne_bytes()));
                body.resize(64, 0);
                body
            }
            LOOKUP => {
                // Node 2, valid for no time: whoever asks again has to wait.
                let mut body: Vec<u8> = [2u64, 0, 0, 0, 0].iter().flat_map(|n| n.to_ne_bytes()).collect();
                body.extend(attributes(2));
                body
            }
            GETATTR => {
                let mut body = vec![0; 16];
                let node = if u32_at(&request, 16) == 1 { 1 } else { 2 };
                body.extend(attributes(node));
                body
            }
            OPEN => vec![0; 16],
            _ => Vec::new(),
        };
        let mut answer = ((ANSWER + body.len()) as u32).to_ne_bytes().to_vec();
        answer.extend([0; 4]);
        answer.extend(&request[8..16]);
        answer.extend(body);
        let _ = device.write_all(&answer);
    }
}
