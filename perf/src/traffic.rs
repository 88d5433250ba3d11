//! The command line's traffic: what to send, and the commands that send it over a pair of links.

use crate::cpu;
use crate::frames::{FLOWS_MAX, SIZE_MAX, SIZE_MIN};
use crate::generator::{Generator, Link, Options, Progress, Report};
use clap::Args;
use dray_config::{Role, SocketName};
use std::io::{IsTerminal, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// What to send.
#[derive(Args, Clone, Debug)]
pub struct TrafficArgs {
    /// Bytes of a frame, without FCS
    #[arg(long, default_value_t = 60, value_parser = size)]
    pub size: usize,
    /// 802.1Q tag of the frames
    #[arg(long, value_name = "ID", value_parser = clap::value_parser!(u16).range(1..=4094))]
    pub vlan: Option<u16>,
    /// Flows of each direction, each with its own pair of MAC and IP addresses
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=i64::from(FLOWS_MAX)))]
    pub flows: u32,
    /// Bytes from one prepared frame to the next in memory [default: the size, rounded up to 64]
    #[arg(long, value_name = "BYTES")]
    pub stride: Option<usize>,
    /// Seconds to send
    #[arg(long, default_value_t = 10.0, value_parser = seconds)]
    pub duration: f64,
    /// Send from both links
    #[arg(long)]
    pub bidirectional: bool,
    /// Queue pairs of each link
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=16))]
    pub queues: u16,
    /// Descriptors in a ring, a power of two; memif: 256 to 16384, vhost-user: 64 to 32768
    #[arg(long, default_value_t = 1024, value_parser = ring_size)]
    pub ring_size: u32,
    /// Bytes of a receive buffer [default: 2048, or the size if that is more]
    #[arg(long)]
    pub buffer_size: Option<u32>,
    /// The CPU to run on
    #[arg(long)]
    pub cpu: Option<usize>,
    /// Frames a second of each direction; 0: as fast as possible
    #[arg(long, value_name = "PPS", default_value_t = 0)]
    pub rate: u64,
    /// Frames of each direction that may be under way; 0: as many as the rings hold
    #[arg(long, value_name = "FRAMES", default_value_t = 0)]
    pub window: u64,
    /// Look at one in this many received frames; 0: at none
    #[arg(long, value_name = "N", default_value_t = 64)]
    pub sample: u64,
    /// Print one JSON object instead of text
    #[arg(long)]
    pub json: bool,
}

impl TrafficArgs {
    /// Options for links to these ends.
    ///
    /// # Errors
    /// What does not go together.
    pub fn options<E>(&self, [a, b]: [E; 2]) -> Result<Options<E>, String> {
        let mut options = Options::new(a, b).size(self.size);
        if let Some(stride) = self.stride {
            if stride < self.size {
                return Err(format!("frames of {} bytes do not fit {stride} bytes apart", self.size));
            }
            options.stride = stride;
        }
        if let Some(buffer_size) = self.buffer_size {
            if (buffer_size as usize) < self.size {
                return Err(format!("a frame of {} bytes does not fit a buffer of {buffer_size}", self.size));
            }
            options.buffer_size = buffer_size;
        }
        options.vlan = self.vlan;
        options.flows = self.flows;
        options.bidirectional = self.bidirectional;
        options.queues = self.queues;
        options.ring_size = self.ring_size;
        (options.rate, options.window, options.sample) = (self.rate, self.window, self.sample);
        Ok(options)
    }
}

/// Becomes true when the user interrupts.
///
/// # Errors
/// If there can be no handler.
pub fn stop_flag() -> Result<Arc<AtomicBool>, String> {
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
        // The second time it ends the process at once.
        signal_hook::flag::register_conditional_default(signal, stop.clone()).map_err(|e| e.to_string())?;
        signal_hook::flag::register(signal, stop.clone()).map_err(|e| e.to_string())?;
    }
    Ok(stop)
}

/// The sum of the report, and what each direction lost, for people.
fn print(report: &Report) {
    println!(
        "{:.2} Mpps, {:.2} Gbit/s ({} byte frames without FCS, {} flows, {:.2} s)",
        report.mpps, report.gbps, report.size, report.flows, report.seconds
    );
    for (name, d) in [("A to B", Some(report.a_to_b)), ("B to A", report.b_to_a)] {
        let Some(d) = d else { continue };
        println!(
            "{name}: sent {}, received {}, lost {} ({:.4} %), reordered {}, duplicated {}, sampled {}, foreign {}",
            d.sent,
            d.received,
            d.lost,
            100.0 * d.lost as f64 / d.sent.max(1) as f64,
            d.reordered,
            d.duplicated,
            d.sampled,
            d.foreign
        );
    }
}

/// Sends between these ends and reports.
///
/// # Errors
/// What went wrong.
pub fn generate<L: Link>(args: &TrafficArgs, ends: [L::End; 2]) -> Result<(), String> {
    let options = args.options(ends)?;
    if let Some(cpu) = args.cpu {
        cpu::pin(cpu)?;
    }
    let stop = stop_flag()?;
    let mut generator = Generator::<L>::connect(&options)?;
    generator.learn(&stop)?;
    let live = std::io::stderr().is_terminal();
    let show = |p: Progress| {
        if live {
            let under_way = p.sent.saturating_sub(p.received);
            eprint!("\r{:7.1} s  {:8.3} Mpps  {under_way} lost or under way\x1b[K", p.seconds, p.mpps);
            let _ = std::io::stderr().flush();
        }
    };
    let report = generator.run(Duration::from_secs_f64(args.duration), &stop, show);
    if live {
        eprint!("\r\x1b[K");
    }
    let report = report?;
    if args.json {
        println!("{}", serde_json::to_string(&report).map_err(|e| e.to_string())?);
    } else {
        print(&report);
    }
    if stop.load(Ordering::Relaxed) { Err("interrupted".into()) } else { Ok(()) }
}

/// A frame's size.
///
/// # Errors
/// Which there are.
pub fn size(s: &str) -> Result<usize, String> {
    let size = s.parse().ok().filter(|size| (SIZE_MIN..=SIZE_MAX).contains(size));
    size.ok_or_else(|| format!("a frame has {SIZE_MIN} to {SIZE_MAX} bytes"))
}

/// A time in seconds.
///
/// # Errors
/// If it is none, or 0.
pub fn seconds(s: &str) -> Result<f64, String> {
    s.parse().ok().filter(|s| (0.001..=1e6).contains(s)).ok_or_else(|| "seconds, more than 0".into())
}

/// Descriptors of a ring.
///
/// # Errors
/// How many there may be.
pub fn ring_size(s: &str) -> Result<u32, String> {
    let size = s.parse().ok().filter(|n: &u32| n.is_power_of_two() && (64..=32768).contains(n));
    size.ok_or_else(|| "a ring has 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384 or 32768 descriptors".into())
}

/// A role.
///
/// # Errors
/// Which there are.
pub fn role(s: &str) -> Result<Role, String> {
    match s {
        "server" => Ok(Role::Server),
        "client" => Ok(Role::Client),
        _ => Err("server or client".into()),
    }
}

/// A socket's name.
///
/// # Errors
/// If it can't be one.
pub fn socket(s: &str) -> Result<SocketName, String> {
    // A path may be relative on the command line.
    if s.starts_with('@') || s.starts_with('/') {
        return s.parse();
    }
    std::path::absolute(s).map_err(|e| e.to_string())?.to_string_lossy().parse()
}
