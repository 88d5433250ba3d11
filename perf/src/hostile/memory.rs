//! Memory that is charged to the switch, that is larger than it says, and that goes away.

use super::Case;
use super::closing::{memif_port, vm_port};
use super::memif::memfd;
use super::place::{Place, X};
use super::vm::{BYTES, RING, Vm};
use crate::peer::TempDir;
use dray_vhost::memif::{Client, ClientOptions};
use rustix::fs::{fstat, ftruncate};
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
use std::fs::{File, OpenOptions};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// Bytes of a file full of holes.
const HOLES: u64 = 256 << 20;
/// Bytes of the attacker's files that the switch may bring into being.
const CHARGED: u64 = 72 << 20;
/// Bytes of a region that shrinks.
const SHRINKS: u64 = 2 << 30;
/// More than is taken of ordinary memory.
const HUGE: u64 = 8 << 30;
/// The region that frames are in.
const REGION: u16 = 1;
const FRAME: u32 = 1514;

pub(super) const CASES: &[Case] = &[
    Case {
        name: "memory-holes",
        what: "memif frames in holes of sparse files, four times anew: each page that is read is charged to the switch (72 MiB at most)",
        configuration: memif_port,
        attack: holes,
        ..Case::NOTHING
    },
    Case {
        name: "memory-huge",
        what: "a memif region of 8 GiB of ordinary memory, on a tmpfs that says it has huge pages",
        configuration: memif_port,
        attack: huge,
        lacks: needs_root,
        ..Case::NOTHING
    },
    Case {
        name: "memif-shrinks",
        what: "a memif region of 2 GiB that is truncated while frames in it are moved, again and again",
        configuration: memif_port,
        attack: memif_shrinks,
        ..Case::NOTHING
    },
    Case {
        name: "vm-shrinks",
        what: "a virtual machine's memory that is truncated while its rings run, again and again",
        configuration: vm_port,
        attack: vm_shrinks,
        ..Case::NOTHING
    },
];

fn needs_root() -> Result<(), String> {
    if rustix::process::geteuid().is_root() { Ok(()) } else { Err("mounting a tmpfs needs root".into()) }
}

/// A client whose frames are in this file.
fn client(place: &Place, file: &File) -> Result<Client, String> {
    let frames = file.try_clone().map_err(|e| e.to_string())?;
    let options = ClientOptions {
        name: "hostile".into(),
        timeout: Duration::from_secs(2),
        frames: Some(Arc::new(OwnedFd::from(frames))),
        ..ClientOptions::default()
    };
    Client::connect(&place.memif_name(), X, &options)
}

fn holes(place: &Place) -> Result<(), String> {
    place.begin();
    let mut files = Vec::new();
    for _ in 0..4 {
        let file = memfd(HOLES)?;
        place.tried(1);
        if let Ok(mut client) = client(place, &file) {
            let mut page = 0;
            while page < HOLES / 4096 && client.down().is_none() && place.goes_on() {
                let free = u64::from(client.tx[0].free()).min(HOLES / 4096 - page);
                client.tx[0].fill(REGION, (page..page + free).map(|page| ((page * 4096) as u32, FRAME)));
                page += free;
                std::thread::sleep(Duration::from_micros(100));
            }
            place.pause(Duration::from_millis(20));
        }
        files.push(file);
    }
    // Who attacked has not written a byte.
    let charged: u64 = files.iter().map(|file| fstat(file).map_or(0, |stat| stat.st_blocks as u64 * 512)).sum();
    if charged > CHARGED {
        place.won(format!("{} MiB charged to the switch (at most {})", charged >> 20, CHARGED >> 20));
    }
    while place.pause(Duration::from_millis(20)) {}
    Ok(())
}

/// A tmpfs, unmounted when this is dropped.
struct Tmpfs(TempDir);

impl Tmpfs {
    fn mount() -> Result<Tmpfs, String> {
        let dir = TempDir::new()?;
        let flags = MountFlags::NOSUID | MountFlags::NODEV;
        let wrong = |e| format!("mount a tmpfs with huge pages: {e}");
        mount("dray-hostile", dir.path(), "tmpfs", flags, c"huge=always,size=16g").map_err(wrong)?;
        Ok(Tmpfs(dir))
    }

    fn path(&self) -> &Path {
        self.0.path()
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        let _ = unmount(self.path(), UnmountFlags::DETACH);
    }
}

fn huge(place: &Place) -> Result<(), String> {
    let tmpfs = Tmpfs::mount()?;
    let path = tmpfs.path().join("memory");
    let file = OpenOptions::new().create_new(true).read(true).write(true).open(path).map_err(|e| e.to_string())?;
    file.set_len(HUGE).map_err(|e| e.to_string())?;
    place.begin();
    while place.pause(Duration::from_millis(20)) {
        place.tried(1);
        if client(place, &file).is_ok() {
            place.won(format!("{} GiB of ordinary memory were taken", HUGE >> 30));
        }
    }
    Ok(())
}

fn memif_shrinks(place: &Place) -> Result<(), String> {
    place.begin();
    while place.goes_on() {
        let file = memfd(SHRINKS)?;
        place.tried(1);
        if let Ok(mut client) = client(place, &file) {
            for _ in 0..4 {
                let free = client.tx[0].free();
                client.tx[0].fill(REGION, (0..u32::from(free)).map(|i| (i << 20, FRAME)));
                place.pause(Duration::from_millis(1));
                let _ = ftruncate(&file, 0);
            }
        }
        place.pause(Duration::from_millis(1));
    }
    Ok(())
}

fn vm_shrinks(place: &Place) -> Result<(), String> {
    place.begin();
    while place.goes_on() {
        place.tried(1);
        let Ok(vm) = Vm::new(&place.vm(), 0, BYTES, false) else { continue };
        for slot in 0..RING {
            vm.describe_sent(slot, vm.gpa(BYTES / 2 + u64::from(slot) * 2048), 12 + FRAME, 0, 0)?;
        }
        let _ = vm.offer(1, RING);
        let _ = vm.start();
        place.pause(Duration::from_millis(2));
        let _ = ftruncate(&vm.memory, BYTES / 4);
        place.pause(Duration::from_millis(2));
        let _ = ftruncate(&vm.memory, 0);
        place.pause(Duration::from_millis(2));
    }
    Ok(())
}
