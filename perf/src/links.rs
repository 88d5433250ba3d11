//! What the links of the judging commands are connected to: memif, vhost-user or NICs, all told in one way.

use crate::eth::{self, Eth};
use crate::frames::Sizes;
use crate::generator::{Generator, Link, Options, Progress, Report};
use crate::learning::{LearningArgs, Stations, Teach};
use crate::memif::{self, Memif};
use crate::traffic::{StreamArgs, role, socket};
use crate::vhost::{self, VhostUser};
use clap::{Args, ValueEnum};
use dray_config::{Role, SocketName};
use std::sync::atomic::AtomicBool;
use std::time::Duration;

/// How long after [`Source::learn`] it is time for another: switches forget who sends nothing, after 300 seconds if nothing else
/// is said (IEEE 802.1Q, 8.8.3), and where one link only receives its stations send nothing.
pub const RELEARN: Duration = Duration::from_secs(60);

/// A kind of link.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Kind {
    /// memif interfaces of a switch
    Memif,
    /// vhost-user ports of a switch, as a virtual machine
    Vhost,
    /// NICs, through DPDK
    Eth,
}

/// A pair of links.
#[derive(Args, Clone, Debug)]
pub struct LinkArgs {
    /// Kind of the links
    #[arg(long = "link", value_name = "KIND")]
    kind: Kind,
    /// memif, vhost: the socket, a path or "@name"; given twice: the sockets of the first and the second link
    #[arg(long, value_parser = socket)]
    socket: Vec<SocketName>,
    /// memif: the links' interface ids; given twice [default: 0 and 1]
    #[arg(long)]
    id: Vec<u32>,
    /// memif: the links' secret
    #[arg(long)]
    secret: Option<String>,
    /// vhost: whether to listen on the sockets (server), as virtual machines do for drayd's default, or to connect (client)
    #[arg(long, value_name = "ROLE", default_value = "server", value_parser = role)]
    role: Role,
    /// vhost: packed rings instead of split ones
    #[arg(long)]
    packed: bool,
    /// eth: the devices of the first and the second link, PCI addresses or virtual devices of DPDK with their arguments, such as
    /// net_af_packet0,iface=eth1; given twice
    #[arg(long)]
    device: Vec<String>,
}

/// The memif interfaces of both links, which get rings of this size.
///
/// # Errors
/// What is missing or too much.
pub fn memif(
    sockets: &[SocketName],
    ids: &[u32],
    secret: Option<&String>,
    ring_size: u32,
) -> Result<[memif::End; 2], String> {
    if !(256..=16384).contains(&ring_size) {
        return Err(format!("--ring-size {ring_size}: a memif ring has 256 to 16384 descriptors"));
    }
    let sockets = match sockets {
        [both] => [both, both],
        [a, b] => [a, b],
        _ => return Err("--socket is given once or twice".into()),
    };
    let ids = match *ids {
        [] if sockets[0] != sockets[1] => [0, 0],
        [] => [0, 1],
        [a, b] => [a, b],
        _ => return Err("--id is given twice".into()),
    };
    let end = |i: usize| memif::End { socket: sockets[i].clone(), id: ids[i], secret: secret.cloned() };
    Ok([end(0), end(1)])
}

/// The vhost-user ports of both links.
///
/// # Errors
/// If there are not two.
pub fn vhost(sockets: &[SocketName], role: Role, packed: bool) -> Result<[vhost::End; 2], String> {
    let [a, b] = sockets else { return Err("--socket is given twice".into()) };
    Ok([a, b].map(|socket| vhost::End { socket: Some(socket.clone()), role, packed }))
}

/// The ends of both links.
enum Ends {
    Memif([memif::End; 2]),
    Vhost([vhost::End; 2]),
    Eth([String; 2]),
}

impl LinkArgs {
    /// What the links' kind is called in reports.
    pub fn name(&self) -> &'static str {
        match self.kind {
            Kind::Memif => Memif::NAME,
            Kind::Vhost => VhostUser::NAME,
            Kind::Eth => Eth::NAME,
        }
    }

    /// Whether frames that are not the generator's are told apart, and not counted as received.
    pub fn filters(&self) -> bool {
        match self.kind {
            Kind::Memif => Memif::FILTERS,
            Kind::Vhost => VhostUser::FILTERS,
            Kind::Eth => Eth::FILTERS,
        }
    }

    fn ends(&self, ring_size: u32) -> Result<Ends, String> {
        let (kind, sockets, devices) = (self.kind, !self.socket.is_empty(), !self.device.is_empty());
        let name = kind.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default();
        let wrong = [
            ("--socket", sockets, kind != Kind::Eth),
            ("--id", !self.id.is_empty(), kind == Kind::Memif),
            ("--secret", self.secret.is_some(), kind == Kind::Memif),
            ("--packed", self.packed, kind == Kind::Vhost),
            ("--device", devices, kind == Kind::Eth),
        ];
        if let Some((option, ..)) = wrong.iter().find(|(_, given, right)| *given && !right) {
            return Err(format!("{option} means nothing with --link {name}"));
        }
        Ok(match kind {
            Kind::Memif => Ends::Memif(memif(&self.socket, &self.id, self.secret.as_ref(), ring_size)?),
            Kind::Vhost => Ends::Vhost(vhost(&self.socket, self.role, self.packed)?),
            Kind::Eth => Ends::Eth(eth::ends(&self.device)?),
        })
    }

    /// Connects both links, to send frames of these sizes. `latency`: and take their time.
    ///
    /// # Errors
    /// Why not.
    pub fn connect(&self, stream: &StreamArgs, sizes: &Sizes, latency: bool) -> Result<Box<dyn Source>, String> {
        fn source<L: Link + 'static>(options: Options<L::End>, latency: bool) -> Result<Box<dyn Source>, String> {
            Ok(Box::new(Generator::<L>::connect(&Options { latency, ..options })?))
        }
        match self.ends(stream.ring_size)? {
            Ends::Memif(ends) => source::<Memif>(stream.options(sizes, ends)?, latency),
            Ends::Vhost(ends) => source::<VhostUser>(stream.options(sizes, ends)?, latency),
            Ends::Eth(ends) => source::<Eth>(stream.options(sizes, ends)?, latency),
        }
    }

    /// Connects both links, with this many stations behind the second.
    ///
    /// # Errors
    /// Why not.
    pub fn stations(&self, args: &LearningArgs, addresses: u32) -> Result<Box<dyn Teach>, String> {
        fn stations<L: Link + 'static>(options: &Options<L::End>, addresses: u32) -> Result<Box<dyn Teach>, String> {
            Ok(Box::new(Stations::<L>::connect(options, addresses)?))
        }
        match self.ends(args.ring_size)? {
            Ends::Memif(ends) => stations::<Memif>(&args.options(ends), addresses),
            Ends::Vhost(ends) => stations::<VhostUser>(&args.options(ends), addresses),
            Ends::Eth(ends) => stations::<Eth>(&args.options(ends), addresses),
        }
    }
}

/// A [`Generator`] on links of any kind.
pub trait Source {
    /// As [`Generator::learn`].
    ///
    /// # Errors
    /// As there.
    fn learn(&mut self, stop: &AtomicBool) -> Result<(), String>;

    /// As [`Generator::set_rate`].
    fn set_rate(&mut self, frames_per_second: u64);

    /// As [`Generator::run`].
    ///
    /// # Errors
    /// As there.
    fn run(
        &mut self,
        duration: Duration,
        stop: &AtomicBool,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<Report, String>;
}

impl<L: Link> Source for Generator<L> {
    fn learn(&mut self, stop: &AtomicBool) -> Result<(), String> {
        self.learn(stop)
    }

    fn set_rate(&mut self, frames_per_second: u64) {
        self.set_rate(frames_per_second);
    }

    fn run(
        &mut self,
        duration: Duration,
        stop: &AtomicBool,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<Report, String> {
        self.run(duration, stop, progress)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        links: LinkArgs,
    }

    fn ends(args: &str) -> Result<Ends, String> {
        let words = std::iter::once("x").chain(args.split_whitespace());
        Cli::try_parse_from(words).map_err(|e| e.to_string())?.links.ends(1024)
    }

    #[test]
    fn each_kind_has_its_options() {
        let Ok(Ends::Memif([a, b])) = ends("--link memif --socket /m --secret s") else { panic!() };
        assert_eq!((a.id, b.id, a.secret.as_deref()), (0, 1, Some("s")));
        let Ok(Ends::Memif([a, b])) = ends("--link memif --socket /m --socket @n") else { panic!() };
        assert_eq!((a.id, b.id, b.socket.to_string().as_str()), (0, 0, "@n"));
        let Ok(Ends::Vhost([a, _])) = ends("--link vhost --socket /a --socket /b --role client --packed") else {
            panic!()
        };
        assert_eq!((a.role, a.packed), (Role::Client, true));
        let Ok(Ends::Eth([_, b])) = ends("--link eth --device 0000:3b:00.0 --device net_null0,size=64") else {
            panic!()
        };
        assert_eq!(b, "net_null0,size=64");
        for (args, what) in [
            ("--socket /m", "--link"),
            ("--link memif", "--socket is given once or twice"),
            ("--link memif --socket /m --id 3", "--id is given twice"),
            ("--link memif --socket /m --device x", "--device means nothing with --link memif"),
            ("--link vhost --socket /a", "--socket is given twice"),
            ("--link vhost --socket /a --socket /b --id 1", "--id means nothing with --link vhost"),
            ("--link eth --device x", "--device is given twice"),
            ("--link eth --packed", "--packed means nothing with --link eth"),
        ] {
            let error = ends(args).err().unwrap();
            assert!(error.contains(what), "{args}: {error}");
        }
        let socket = ["@m".parse().unwrap()];
        assert!(memif(&socket, &[], None, 64).unwrap_err().contains("--ring-size 64"));
    }
}
