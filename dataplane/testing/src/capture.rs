//! Captures, and what tshark thinks of them.

use crate::{Netns, Process, texts, wait_for};
use rustix::process::Signal;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// tshark capturing on a device.
pub struct Capture {
    process: Process,
    file: PathBuf,
}

impl Capture {
    /// Captures what passes `device`, from when this returns, in a file in `dir`.
    pub fn start(dir: impl AsRef<Path>, ns: &Netns, device: &str) -> Capture {
        let file = dir.as_ref().join(format!("{device}.pcap"));
        let mut command = ns.command("tshark");
        command.args(["-q", "-n", "-i", device, "-F", "pcap", "-w"]).arg(&file).stdin(Stdio::null());
        let process = Process::start(command);
        // It says so a little before it is true: the file has its header once the device is open.
        wait_for("tshark to capture", || {
            let header = std::fs::metadata(&file).is_ok_and(|file| file.len() >= 24);
            (header && process.printed().contains("Capturing on")).then_some(())
        });
        Capture { process, file }
    }

    /// Ends it, and hands what it captured to the judge.
    pub fn stop(mut self) -> Frames {
        // What has passed reaches the file a little later.
        let mut last = (0, Instant::now());
        wait_for("an end of the frames", || {
            let len = std::fs::metadata(&self.file).unwrap().len();
            if len != last.0 {
                last = (len, Instant::now());
            }
            (last.1.elapsed() > Duration::from_secs(1)).then_some(())
        });
        self.process.signal(Signal::INT.as_raw());
        let status = self.process.wait();
        assert!(status.success(), "tshark: {status}\n{}", self.process.printed());
        Frames { file: self.file.clone() }
    }
}

/// The display filter for malformed frames and wrong checksums. 0xffff is as right as 0 for TCP, which tshark denies: Linux writes
/// it where it has no other device to complete checksums (`skb_checksum_help`), for one segment of 65,536.
const WRONG: &str = "_ws.malformed || ip.checksum.status == 0 || udp.checksum.status == 0 || icmp.checksum.status == 0 \
                     || (tcp.checksum.status == 0 && !tcp.checksum.ffff)";

/// Captured frames, and tshark's judgement of them.
pub struct Frames {
    file: PathBuf,
}

impl Frames {
    /// Frames that were not captured but are at hand, by way of a file in `dir`.
    pub fn of(dir: impl AsRef<Path>, frames: &[Vec<u8>]) -> Frames {
        let file = dir.as_ref().join("frames.pcap");
        // Version 2.4, frames of at most 256 KiB, Ethernet.
        let header: [u32; 6] = [0xa1b2_c3d4, 0x0004_0002, 0, 0, 1 << 18, 1];
        let mut bytes: Vec<u8> = header.iter().flat_map(|word| word.to_le_bytes()).collect();
        for frame in frames {
            let len = frame.len() as u32;
            bytes.extend([0, 0, len, len].iter().flat_map(|word| word.to_le_bytes()));
            bytes.extend(frame);
        }
        std::fs::write(&file, bytes).unwrap();
        Frames { file }
    }

    /// For every frame that the display filter takes, these fields; several of one name are joined by commas.
    pub fn fields(&self, filter: &str, fields: &[&str]) -> Vec<Vec<String>> {
        let mut command = Self::tshark(&self.file);
        command.args(["-Y", filter, "-T", "fields"]);
        for field in fields {
            command.args(["-e", field]);
        }
        let output = command.output().unwrap();
        let (out, err) = texts(&output);
        assert!(output.status.success(), "tshark -Y {filter:?}: {err}");
        out.lines().map(|line| line.split('\t').map(str::to_string).collect()).collect()
    }

    /// How many frames the display filter takes.
    pub fn count(&self, filter: &str) -> usize {
        self.fields(filter, &["frame.number"]).len()
    }

    /// Asserts that there are frames and that not one is malformed, has a wrong checksum or length, or anything else that tshark
    /// would warn of.
    pub fn assert_clean(&self) {
        assert!(self.count("frame") > 0, "nothing was captured");
        self.assert_none(&format!("_ws.expert.severity >= warning || {WRONG}"));
    }

    /// Asserts that not one is malformed or has a wrong checksum.
    pub fn assert_correct(&self) {
        self.assert_none(WRONG);
    }

    /// Asserts that the display filter takes no frame; else shows those that it takes.
    fn assert_none(&self, filter: &str) {
        let output = Self::tshark(&self.file).args(["-V", "-Y", filter]).output().unwrap();
        let (out, err) = texts(&output);
        assert!(output.status.success(), "{err}");
        assert!(out.is_empty(), "tshark finds fault with:\n{out}");
    }

    fn tshark(file: &Path) -> Command {
        let mut command = Command::new("tshark");
        command.arg("-n").arg("-r").arg(file).stdin(Stdio::null());
        for preference in ["ip.check_checksum", "udp.check_checksum", "tcp.check_checksum"] {
            command.args(["-o", &format!("{preference}:TRUE")]);
        }
        // What is in a file is nothing that it might look like: dissected as some protocol it can take minutes.
        command.args(["-d", &format!("tcp.port=={FILE_PORT},data")]);
        command
    }
}

/// The TCP port at which files are to be had; `.ci/guest` serves them there, too.
pub const FILE_PORT: u16 = 9000;
