//! The command line's traffic: what to send, and the commands that send it over a pair of links.

use crate::cpu;
use crate::frames::{FLOWS_MAX, Sizes};
use crate::generator::{Direction, Generator, Link, Options, Progress, Report, Way};
use crate::rate::Rate;
use crate::vtep::Tunnel;
use crate::workers::{self, Watch, Worker};
use clap::Args;
use dray_config::{Role, SocketName};
use serde::Serialize;
use std::io::{IsTerminal, Write};
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// What frames are, and how they are sent: what all commands have in common that send over a pair of links.
#[derive(Args, Clone, Debug)]
pub struct StreamArgs {
    /// 802.1Q tag of the frames
    #[arg(long, value_name = "ID", value_parser = clap::value_parser!(u16).range(1..=4094))]
    pub vlan: Option<u16>,
    /// The second link is the switch's underlay, and the generator the VTEP at the other end: frames of this network are in VXLAN
    /// there, 50 bytes longer, for which the underlay's MTU has to be enough
    #[arg(long, value_name = "VNI", requires_all = ["vtep", "switch_vtep"], value_parser = clap::value_parser!(u32).range(0..=0xff_ffff))]
    pub vxlan: Option<u32>,
    /// The generator's address on the underlay
    #[arg(long, value_name = "IPV4", requires = "vxlan")]
    pub vtep: Option<Ipv4Addr>,
    /// The switch's address on the underlay, in the same network
    #[arg(long, value_name = "IPV4", requires = "vxlan")]
    pub switch_vtep: Option<Ipv4Addr>,
    /// Flows of each direction, each with its own pair of MAC and IP addresses
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=i64::from(FLOWS_MAX)))]
    pub flows: u32,
    /// Bytes from one prepared frame to the next in memory [default: the largest size, rounded up to 64]
    #[arg(long, value_name = "BYTES")]
    pub stride: Option<usize>,
    /// Which links send: the first is A, the second B
    #[arg(long, value_enum, default_value_t = Way::AToB)]
    pub direction: Way,
    /// Queue pairs of each link
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=16))]
    pub queues: u16,
    /// Descriptors in a ring, a power of two; memif: 256 to 16384, vhost-user: 64 to 32768
    #[arg(long, default_value_t = 1024, value_parser = ring_size)]
    pub ring_size: u32,
    /// Bytes of a receive buffer [default: 2048, or the largest size if that is more]
    #[arg(long)]
    pub buffer_size: Option<u32>,
    /// The CPU to run on
    #[arg(long)]
    pub cpu: Option<usize>,
    /// Frames of each direction that may be under way; 0: as many as the rings hold
    #[arg(long, value_name = "FRAMES", default_value_t = 0)]
    pub window: u64,
    /// Look at one in this many received frames; 0: at none
    #[arg(long, value_name = "N", default_value_t = 64)]
    pub sample: u64,
    /// Read all bytes of every received frame, as a host's network stack does, and not only its length
    #[arg(long)]
    pub read: bool,
}

/// What to send, and for how long.
#[derive(Args, Clone, Debug)]
pub struct TrafficArgs {
    /// Bytes of a frame, without FCS; several with commas between them, or "imix" (7, 4 and 1 of 60, 590 and 1514), are sent
    /// in turn
    #[arg(long, default_value = "60")]
    pub size: Sizes,
    /// How the frames are sent.
    #[command(flatten)]
    pub stream: StreamArgs,
    /// Seconds to send, or a time like 500ms, 10m or 1h
    #[arg(long, value_name = "TIME", default_value = "10", value_parser = seconds)]
    pub duration: f64,
    /// Frames a second of each direction, like 20000, 250k or 1.5M, or what they take up on an Ethernet link, like 2.5Gbit (FCS,
    /// preamble, gap and outer headers included); 0: as fast as possible
    #[arg(long, default_value = "0")]
    pub rate: Rate,
    /// Take the time that frames are under way; always on with --rate
    #[arg(long)]
    pub latency: bool,
    /// Show where the time of the workers goes while frames are sent: the control socket of the drayd that is measured
    #[arg(long, value_name = "SOCKET")]
    pub control: Option<PathBuf>,
    /// Print one JSON object instead of text
    #[arg(long)]
    pub json: bool,
}

/// What `--json` prints.
#[derive(Serialize)]
struct Output<'a> {
    #[serde(flatten)]
    report: &'a Report,
    /// The workers, if they were asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    workers: Option<&'a [Worker]>,
}

impl StreamArgs {
    /// Options for links to these ends, and frames of these sizes: as many as possible, whose time is not taken.
    ///
    /// # Errors
    /// What does not go together.
    pub fn options<E>(&self, sizes: &Sizes, [a, b]: [E; 2]) -> Result<Options<E>, String> {
        let mut options = Options::new(a, b).size(sizes.clone());
        let largest = sizes.max();
        if let Some(stride) = self.stride {
            if stride < largest {
                return Err(format!("--stride {stride}: frames of {largest} bytes do not fit {stride} bytes apart"));
            }
            options.stride = stride;
        }
        if let Some(buffer_size) = self.buffer_size {
            if (buffer_size as usize) < largest {
                return Err(format!(
                    "--buffer-size {buffer_size}: a frame of {largest} bytes does not fit a buffer of {buffer_size}"
                ));
            }
            options.buffer_size = buffer_size;
        }
        options.vlan = self.vlan;
        options.tunnel = match (self.vxlan, self.vtep, self.switch_vtep) {
            (Some(vni), Some(local), Some(switch)) if local != switch => Some(Tunnel { vni, local, switch }),
            (Some(_), Some(local), Some(_)) => {
                return Err(format!("--vtep {local}: the generator's address is to be another than --switch-vtep"));
            }
            _ => None,
        };
        options.flows = self.flows;
        options.way = self.direction;
        options.queues = self.queues;
        options.ring_size = self.ring_size;
        (options.window, options.sample, options.read) = (self.window, self.sample, self.read);
        Ok(options)
    }
}

impl TrafficArgs {
    /// Options for links to these ends.
    ///
    /// # Errors
    /// What does not go together.
    pub fn options<E>(&self, ends: [E; 2]) -> Result<Options<E>, String> {
        let mut options = self.stream.options(&self.size, ends)?;
        options.rate = self.rate.frames(options.mean_length());
        options.latency = self.latency || options.rate != 0;
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

/// The sum of the report, and what became of each direction's frames, for people.
fn print(report: &Report, sizes: &Sizes) {
    let what = if report.mix.is_empty() {
        format!("{} byte frames without FCS", report.size)
    } else {
        format!("{sizes}: {:.1} byte frames on average without FCS", sizes.mean())
    };
    let vlan = report.vlan.map(|id| format!(", VLAN {id}")).unwrap_or_default();
    let vni = report.vni.map(|vni| format!(", VNI {vni}")).unwrap_or_default();
    let read = if report.read { ", read" } else { "" };
    println!(
        "{:.2} Mpps, {:.2} Gbit/s ({what}, {} flows{vlan}{vni}{read}, {:.2} s)",
        report.mpps, report.gbps, report.flows, report.seconds
    );
    for (name, d) in [("A to B", &report.a_to_b), ("B to A", &report.b_to_a)] {
        let Some(d) = d else { continue };
        println!(
            "{name}: {:.2} Mpps, {:.2} Gbit/s, sent {}, received {}, lost {} ({:.4} %), reordered {}, duplicated {}, sampled {}, foreign {}",
            d.mpps,
            d.gbps,
            d.sent,
            d.received,
            d.lost,
            100.0 * d.lost as f64 / d.sent.max(1) as f64,
            d.reordered,
            d.duplicated,
            d.sampled,
            d.foreign
        );
        if let Some(line) = latency(d) {
            println!("{name}: {line}");
        }
    }
}

/// The times of a direction, in microseconds, if there are any.
fn latency(direction: &Direction) -> Option<String> {
    let l = direction.latency?;
    let [min, mean, p50, p90, p99, p99_9, p99_99, max] =
        [l.min, l.mean, l.p50, l.p90, l.p99, l.p99_9, l.p99_99, l.max].map(|ns| format!("{:.2}", ns / 1e3));
    Some(format!(
        "latency in us: min {min}, mean {mean}, p50 {p50}, p90 {p90}, p99 {p99}, p99.9 {p99_9}, p99.99 {p99_99}, max {max} ({} frames)",
        l.count
    ))
}

/// The line that is shown while frames are sent.
fn live(p: &Progress) -> String {
    let missing = p.sent.saturating_sub(p.received);
    let mut line = format!(
        "{:7.1} s  {:8.3} Mpps  {:7.2} Gbit/s  {missing} lost or under way ({:.4} %)",
        p.seconds,
        p.mpps,
        p.gbps,
        100.0 * missing as f64 / p.sent.max(1) as f64
    );
    if let Some(l) = p.latency {
        line += &format!("  p50 {:.1} us  p99 {:.1} us", l.p50 / 1e3, l.p99 / 1e3);
    }
    line
}

/// Sends between these ends and reports.
///
/// # Errors
/// What went wrong.
pub fn generate<L: Link>(args: &TrafficArgs, ends: [L::End; 2]) -> Result<(), String> {
    let options = args.options(ends)?;
    let duration = Duration::from_secs_f64(args.duration);
    let watch = args.control.as_deref().map(|socket| Watch::start(socket).map_err(|e| format!("--control: {e}")));
    let watch = watch.transpose()?;
    if let Some(cpu) = args.stream.cpu {
        cpu::pin(cpu)?;
    }
    let stop = stop_flag()?;
    let mut generator = Generator::<L>::connect(&options)?;
    generator.learn(&stop)?;
    let is_terminal = std::io::stderr().is_terminal();
    let show = |p: Progress| {
        if is_terminal {
            eprint!("\r{}\x1b[K", live(&p));
            let _ = std::io::stderr().flush();
        }
    };
    if let Some(watch) = &watch {
        watch.begin(duration);
    }
    let report = generator.run(duration, &stop, show);
    let watched = watch.map(Watch::end).transpose();
    if is_terminal {
        eprint!("\r\x1b[K");
    }
    let report = report?;
    // What was measured is told even if drayd has gone since.
    let workers = watched.as_ref().ok().and_then(Option::as_deref);
    if args.json {
        let output = Output { report: &report, workers };
        println!("{}", serde_json::to_string(&output).map_err(|e| e.to_string())?);
    } else {
        print(&report, &args.size);
        print!("{}", workers::text(workers.unwrap_or_default()));
    }
    watched.map_err(|e| format!("--control {e}"))?;
    if stop.load(Ordering::Relaxed) { Err("interrupted".into()) } else { Ok(()) }
}

/// A time in seconds, or with a unit: ms, s, m, h or d.
///
/// # Errors
/// If it is none, or 0.
pub fn seconds(s: &str) -> Result<f64, String> {
    let number = s.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = match &s[number.len()..] {
        "ms" => Some(0.001),
        "" | "s" => Some(1.0),
        "m" => Some(60.0),
        "h" => Some(3600.0),
        "d" => Some(86400.0),
        _ => None,
    };
    let time = number.parse::<f64>().ok().zip(unit).map(|(number, unit)| number * unit);
    time.filter(|s| (0.001..=1e8).contains(s)).ok_or_else(|| "a time in seconds, or like 500ms, 10m or 1h".into())
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::latency::Latency;

    #[test]
    fn times() {
        for (text, value) in [("10", 10.0), ("1.5", 1.5), ("500ms", 0.5), ("3s", 3.0), ("10m", 600.0), ("1h", 3600.0)] {
            assert_eq!(seconds(text), Ok(value));
        }
        assert_eq!(seconds("2d"), Ok(172_800.0));
        for text in ["", "h", "0", "-1", "1w", "1 h", "nan", "inf", "1e9h", "10mm"] {
            assert!(seconds(text).is_err(), "{text}");
        }
    }

    #[test]
    fn the_live_line() {
        let mut p = Progress { seconds: 2.0, mpps: 1.5, gbps: 0.72, sent: 4000, received: 3990, latency: None };
        assert_eq!(live(&p), "    2.0 s     1.500 Mpps     0.72 Gbit/s  10 lost or under way (0.2500 %)");
        p.latency = Some(Latency { p50: 1234.0, p99: 56_789.0, ..Latency::default() });
        assert!(live(&p).ends_with("(0.2500 %)  p50 1.2 us  p99 56.8 us"), "{}", live(&p));
    }

    #[test]
    fn options_of_arguments() {
        #[derive(clap::Parser)]
        struct Cli {
            #[command(flatten)]
            traffic: TrafficArgs,
        }
        let options = |args: &str| {
            let args = std::iter::once("x").chain(args.split_whitespace());
            <Cli as clap::Parser>::try_parse_from(args).map_err(|e| e.to_string())?.traffic.options(["a", "b"])
        };
        let plain = options("").unwrap();
        assert_eq!((plain.sizes, plain.rate, plain.way, plain.latency), (Sizes::from(60), 0, Way::AToB, false));
        let some = options("--size imix --rate 1Gbit --direction b-to-a --vlan 7").unwrap();
        assert_eq!((some.rate, some.way, some.latency, some.vlan), (327_368, Way::BToA, true, Some(7)));
        assert_eq!((some.stride, some.buffer_size), (1536, 2048));
        let vxlan = "--vxlan 9 --vtep 10.0.0.2 --switch-vtep 10.0.0.1 --rate 1Gbit";
        assert_eq!(options(vxlan).unwrap().rate, 932_836);
        assert_eq!(options(vxlan).unwrap().tunnel.unwrap().vni, 9);
        assert!(options("--latency").unwrap().latency);
        assert_eq!((plain.read, options("--read").unwrap().read), (false, true));
        assert!(options("--vxlan 16777216 --vtep 10.0.0.2 --switch-vtep 10.0.0.1").unwrap_err().contains("16777215"));
        assert!(options("--direction left").unwrap_err().contains("a-to-b, b-to-a, both"));
        assert!(options("--buffer-size 1000 --size 60,1514").unwrap_err().contains("does not fit a buffer of 1000"));
    }
}
