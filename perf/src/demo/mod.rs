//! The demo: three hosts, an overlay, and traffic, on one machine.

pub mod container;
pub mod hosts;
pub mod picture;
pub mod progress;

use crate::cpu;
use crate::memif::Generator;
use container::{Command as Say, Reply};
use hosts::{HOSTS, KERNEL, Kind, Lab, STATIONS, Station, run, worker_cpu};
use picture::{Findings, si};
use progress::{Interrupt, Progress, Stop, Style, show};
use std::io::Read;
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// Programs that the demo uses, and the Debian packages that have them.
const TOOLS: [(&str, &str); 7] = [
    ("ip", "iproute2"),
    ("bridge", "iproute2"),
    ("ping", "iputils-ping"),
    ("iperf3", "iperf3"),
    ("setpriv", "util-linux"),
    ("unshare", "util-linux"),
    ("sha256sum", "coreutils"),
];
/// Bytes of the file that is moved.
const FILE_SIZE: u64 = 16 << 20;
/// Echo requests of a pair.
const PINGS: u16 = 5;
/// Seconds of each throughput test.
const SECONDS: u64 = 3;

/// Runs the demo with the executables in `bin`, and cleans up whatever happens. Returns the exit status: 0 done, 1 something did
/// not work, 2 something is missing, 128 and the signal's number if there was one.
pub fn main(bin: &Path) -> u8 {
    let interrupt = match Interrupt::install() {
        Ok(interrupt) => interrupt,
        Err(why) => {
            eprintln!("dray-demo: {why}");
            return 1;
        }
    };
    let start = Instant::now();
    let mut progress = Progress::new(11);
    let mut lab = None;
    let result = tour(&mut progress, &mut lab, interrupt, bin);
    if let (Err(Stop::Failed(_)), Some(lab)) = (&result, &lab) {
        show(&lab.logs());
    }
    let left = lab.as_mut().map(Lab::clean_up).unwrap_or_default();
    for what in &left {
        eprintln!("dray-demo: cleaning up: {what}");
    }
    match result {
        Ok(findings) => {
            show(&picture::draw(&findings, progress.colours));
            let lost = findings.rtts.values().filter(|rtt| rtt.is_none()).count();
            show(&format!("  {:.0} seconds in all\n", start.elapsed().as_secs_f64()));
            u8::from(lost > 0 || !left.is_empty())
        }
        Err(Stop::Needs(what)) => {
            eprintln!("dray-demo: {what}");
            2
        }
        Err(Stop::Failed(why)) => {
            eprintln!("dray-demo: {}", Style::Bad.paint(why, progress.colours));
            1
        }
        Err(Stop::Signal(signal)) => {
            show("everything is cleaned up\n");
            128u8.saturating_add(signal as u8)
        }
    }
}

/// The steps.
fn tour(progress: &mut Progress, slot: &mut Option<Lab>, interrupt: Interrupt, bin: &Path) -> Result<Findings, Stop> {
    let mut findings = Findings::default();
    progress.step("look for what is needed", || {
        needs(bin)?;
        Ok(((), String::new()))
    })?;
    let lab = slot.insert(Lab::new(interrupt, bin.to_path_buf())?);
    progress.step("make three hosts and a network", || {
        lab.make_network()?;
        Ok(((), "namespaces a, b, k; veth and bridge".into()))
    })?;
    progress.step("start a switch on hosts a and b", || {
        lab.start_switches()?;
        Ok(((), "VXLAN by dray; on host k by the kernel".into()))
    })?;
    progress.step("start three containers on memif", || {
        lab.start_containers()?;
        Ok(((), "TCP/IP by smoltcp, no kernel network".into()))
    })?;
    progress.step("attach three ordinary containers", || {
        let slowest = lab.attach_containers()?;
        Ok(((), format!("dray attach: a TAP device in {} ms at most", slowest.as_millis() + 1)))
    })?;
    progress.step("wait for the links", || {
        let up = lab.wait_for_links()?;
        Ok(((), format!("{up} up")))
    })?;
    progress.step("ping all pairs through the overlay", || {
        let said = ping_all(lab, &mut findings)?;
        Ok(((), said))
    })?;
    progress.step("move a file: a1 to b1 to the kernel", || {
        let said = move_file(lab, &mut findings)?;
        Ok(((), said))
    })?;
    progress.step("iperf3 between sockets", || {
        let said = sockets(lab, &mut findings)?;
        Ok(((), said))
    })?;
    progress.step("throughput on one host", || {
        let said = throughput(lab, &mut findings)?;
        Ok(((), said))
    })?;
    progress.step("clean up", || {
        let left = lab.clean_up();
        if left.is_empty() { Ok(((), "nothing is left".into())) } else { Err(Stop::Failed(left.join(", "))) }
    })?;
    Ok(findings)
}

/// Whether all is there that the demo needs.
fn needs(bin: &Path) -> Result<(), Stop> {
    let mut missing = Vec::new();
    if !rustix::process::geteuid().is_root() {
        missing.push("root, to make network namespaces (`sudo make demo`)".to_string());
    }
    for program in ["drayd", "dray"] {
        if !executable(&bin.join(program)) {
            missing.push(format!("{program} in {} (`make demo` builds it)", bin.display()));
        }
    }
    // A user's search path often leaves out the administrator's programs; as root they are found.
    let path = std::env::var("PATH").unwrap_or_default() + ":/usr/sbin:/sbin";
    for (tool, package) in TOOLS {
        if !path.split(':').any(|dir| executable(&Path::new(dir).join(tool))) {
            missing.push(format!("{tool} (Debian package {package})"));
        }
    }
    if missing.is_empty() { Ok(()) } else { Err(Stop::Needs(format!("the demo needs:\n  {}", missing.join("\n  ")))) }
}

fn executable(path: &Path) -> bool {
    path.metadata().is_ok_and(|m| m.is_file() && m.permissions().mode() & 0o111 != 0)
}

/// Does `work`, and keeps for every port the rate if it is the highest so far.
fn measured<T>(
    lab: &mut Lab,
    findings: &mut Findings,
    work: impl FnOnce(&mut Lab) -> Result<T, Stop>,
) -> Result<T, Stop> {
    // Bytes received and sent, by host and port.
    type Counted = Vec<((String, String), (u64, u64))>;
    let counters = |lab: &Lab| -> Result<Counted, Stop> {
        let mut all = vec![((KERNEL.host.into(), KERNEL.port()), lab.kernel_bytes()?)];
        for host in &HOSTS {
            let ports = lab.ports(host.name)?.into_iter();
            all.extend(ports.map(|p| ((host.name.into(), p.name), (p.rx_bytes, p.tx_bytes))));
        }
        Ok(all)
    };
    let (before, start) = (counters(lab)?, Instant::now());
    let result = work(lab)?;
    let seconds = start.elapsed().as_secs_f64();
    for ((key, (rx, tx)), (_, (rx0, tx0))) in counters(lab)?.into_iter().zip(before) {
        let rate = rx.saturating_sub(rx0).max(tx.saturating_sub(tx0)) as f64 * 8.0 / seconds;
        let best = findings.rates.entry(key).or_default();
        *best = best.max(rate);
    }
    Ok(result)
}

/// Pings every station from every other.
fn ping_all(lab: &mut Lab, findings: &mut Findings) -> Result<String, Stop> {
    let pairs = || (0..STATIONS.len()).flat_map(|i| (0..STATIONS.len()).map(move |j| (i, j))).filter(|(i, j)| i != j);
    // The first packets wait for ARP, in the overlay and in the underlay; that is not what is measured. The kernel begins: it
    // asks again sooner than the others.
    for (i, j) in pairs().collect::<Vec<_>>().into_iter().rev() {
        ping(lab, &STATIONS[i], &STATIONS[j], 1)?;
    }
    let mut answered = 0;
    for (i, j) in pairs() {
        let mut rtts = ping(lab, &STATIONS[i], &STATIONS[j], PINGS)?;
        answered += rtts.len();
        rtts.sort_by(f64::total_cmp);
        findings.rtts.insert((i, j), rtts.get(rtts.len() / 2).copied());
    }
    let pairs = findings.rtts.len();
    Ok(format!("{pairs} pairs, {answered} of {} answered", pairs * usize::from(PINGS)))
}

/// Round-trip times in microseconds of the requests that were answered.
fn ping(lab: &mut Lab, from: &Station, to: &Station, count: u16) -> Result<Vec<f64>, Stop> {
    lab.interrupt.check()?;
    if from.kind == Kind::Memif {
        return match lab.say(from.name, &Say::Ping { to: to.ip, count }, Duration::from_secs(10))? {
            Reply::Pinged { rtts } => Ok(rtts.into_iter().flatten().collect()),
            other => Err(Stop::Failed(format!("container {}: {other:?}", from.name))),
        };
    }
    let (requests, to) = (count.to_string(), to.ip.to_string());
    // Its exit status says whether there was an answer at all, and so does what it prints. Without a deadline it ends two round trips after
    // the last request, however late the answers are on a busy machine; with one it goes on asking until there are enough.
    let output = lab.inside(from.name, || {
        let mut ping = Command::new("ping");
        ping.args(["-n", "-i", "0.02", "-w", "2", "-c", &requests, &to]).env("LC_ALL", "C").process_group(0);
        Ok(ping.stdin(Stdio::null()).output().map_err(|e| format!("ping: {e}"))?)
    })?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let times = text.lines().filter_map(|line| {
        let field = |name: &str| line.split_once(name)?.1.split(' ').next()?.parse::<f64>().ok();
        field("time=").filter(|_| field("icmp_seq=").is_some_and(|number| number <= count.into()))
    });
    Ok(times.map(|ms| ms * 1000.0).collect())
}

/// Moves a file from a1 to b1, and from there to the kernel's TCP; all three must be the same.
fn move_file(lab: &mut Lab, findings: &mut Findings) -> Result<String, Stop> {
    let [sent, moved, again] = ["sent", "moved", "again"].map(|name| lab.dir.join(name));
    let random = std::fs::File::open("/dev/urandom").map_err(|e| format!("/dev/urandom: {e}"))?;
    std::fs::File::create(&sent)
        .and_then(|mut file| std::io::copy(&mut random.take(FILE_SIZE), &mut file))
        .map_err(|e| format!("{}: {e}", sent.display()))?;
    let [a1, _, _, _, b1, ..] = &STATIONS;
    let timeout = Duration::from_secs(30);

    let serve = |lab: &mut Lab, station: &Station, file: &Path| {
        lab.say(station.name, &Say::Serve { file: file.into(), port: 8000 }, timeout).map(drop)
    };
    serve(lab, a1, &sent)?;
    let fetch = Say::Fetch { from: a1.ip, port: 8000, file: moved.clone() };
    let first = match measured(lab, findings, |lab| lab.say(b1.name, &fetch, timeout))? {
        Reply::Moved { bytes, seconds } => bytes as f64 * 8.0 / seconds,
        other => return Err(Stop::Failed(format!("container b1: {other:?}"))),
    };
    serve(lab, b1, &moved)?;
    let second = measured(lab, findings, |lab| {
        let interrupt = lab.interrupt.clone();
        lab.inside(KERNEL.host, || kernel_fetch(&interrupt, (b1.ip, 8000).into(), &again))
    })?;
    let hashes = [&sent, &moved, &again].map(|file| hash(file));
    let [one, two, three] = hashes;
    let (one, two, three) = (one?, two?, three?);
    if one != two || one != three {
        return Err(Stop::Failed(format!("the file has changed on its way: sha256 {one}, {two}, {three}")));
    }
    findings.remarks.push(format!(
        "file       16 MiB by TCP in VXLAN: a1 to b1 {}, b1 to k {}, equal sha256",
        si(first, "bit/s"),
        si(second, "bit/s")
    ));
    Ok(format!("16 MiB each, equal sha256 {}", &one[..12]))
}

/// Fetches with the kernel's TCP; bits a second.
fn kernel_fetch(interrupt: &Interrupt, from: SocketAddr, file: &PathBuf) -> Result<f64, Stop> {
    let io = |e: std::io::Error| Stop::Failed(format!("host k fetches from {from}: {e}"));
    let start = Instant::now();
    let mut stream = TcpStream::connect_timeout(&from, Duration::from_secs(5)).map_err(io)?;
    stream.set_read_timeout(Some(Duration::from_secs(5))).map_err(io)?;
    let (mut data, mut buffer) = (Vec::new(), vec![0; 1 << 16]);
    loop {
        interrupt.check()?;
        match stream.read(&mut buffer).map_err(io)? {
            0 => break,
            n => data.extend_from_slice(&buffer[..n]),
        }
    }
    let rate = data.len() as f64 * 8.0 / start.elapsed().as_secs_f64();
    std::fs::write(file, &data).map_err(io)?;
    Ok(rate)
}

/// sha256 in hexadecimal, by coreutils.
fn hash(file: &Path) -> Result<String, Stop> {
    let text = run("sha256sum", &["--", file.to_str().unwrap_or_default()])?;
    match text.split_whitespace().next() {
        Some(hash) if hash.len() == 64 => Ok(hash.into()),
        _ => Err(Stop::Failed(format!("sha256sum: {text}"))),
    }
}

/// TCP between two containers with sockets: on host a, and from there to host b.
fn sockets(lab: &mut Lab, findings: &mut Findings) -> Result<String, Stop> {
    let [_, _, a3, a4, _, b2, _] = &STATIONS;
    let near = measured(lab, findings, |lab| lab.iperf3(a3, a4, SECONDS))?;
    let far = measured(lab, findings, |lab| lab.iperf3(a3, b2, SECONDS))?;
    let (near, far) = (si(near, "bit/s"), si(far, "bit/s"));
    findings.remarks.push(format!("iperf3     {near} from a3 to a4, {far} in VXLAN from a3 to b2, the kernel's TCP"));
    Ok(format!("a3 to a4 {near}, a3 to b2 {far}"))
}

/// TCP between the two containers on memif of host a; then what the switch itself can do, between two memif ports of a generator.
fn throughput(lab: &mut Lab, findings: &mut Findings) -> Result<String, Stop> {
    let [a1, a2, ..] = &STATIONS;
    let timeout = Duration::from_secs(SECONDS + 10);
    lab.say(a2.name, &Say::Sink { port: 9000 }, timeout)?;
    let blast = Say::Blast { to: a2.ip, port: 9000, seconds: SECONDS as f64 };
    let tcp = match measured(lab, findings, |lab| lab.say(a1.name, &blast, timeout))? {
        Reply::Moved { bytes, seconds } => bytes as f64 * 8.0 / seconds,
        other => return Err(Stop::Failed(format!("container a1: {other:?}"))),
    };
    findings
        .remarks
        .push(format!("TCP        {} from a1 to a2 through one worker, both ends smoltcp", si(tcp, "bit/s")));
    let mut generator = Generator::connect(&lab.bench_options())?;
    let stop = lab.interrupt.flag();
    // Host b has nothing to do now, and leaves its worker's CPU to the generator.
    let report = cpu::on(worker_cpu(1), || {
        generator.learn(stop)?;
        generator.run(Duration::from_secs(SECONDS), stop, |_| ())
    });
    lab.interrupt.check()?;
    let report = report?;
    let received = lab.accounts()?;
    // While its links are still up.
    for host in &HOSTS {
        findings.ports.push((host.name, lab.ports(host.name)?));
    }
    let direction = report.a_to_b.unwrap_or_default();
    findings.remarks.push(format!(
        "packets    {:.2} Mpps, memif to memif, one worker, {}-byte frames, {} flows, {:.3} % lost",
        report.mpps,
        report.size,
        report.flows,
        100.0 * direction.lost as f64 / direction.sent.max(1) as f64
    ));
    findings.remarks.push(format!(
        "accounts   {received} packets received on both hosts: sent, dropped or consumed, none is missing"
    ));
    Ok(format!("TCP {}, {:.2} Mpps", si(tcp, "bit/s"), report.mpps))
}
