//! `kind = "tap"`: the kernel's sockets, a container's or the host's.

use crate::Port;
use crate::error::{Report, quote};
use crate::read::{Item, Table, items, show};
use crate::render;
use crate::schema::{Takes, array, boolean, integer, key, keys, word};
use crate::validate::{Places, Span, Taken};
use std::fmt;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use toml::Spanned;
use toml::de::DeValue;

/// Addresses of a device, and routes through it.
const MOST: usize = 64;

keys! {
    /// A network device of the kernel's, for sockets: those of a container, or of this host.
    pub struct Tap {
        /// The file of the container's network namespace, in which the device is made: `"/run/netns/web"`,
        /// `"/proc/4711/ns/net"`. Without it the device is this host's own.
        netns: Option<PathBuf> = key("netns", word("an absolute path", netns, |path| path.display().to_string()))
            .takes(Takes::Reopen)
            .optional("none");
        /// Which namespace `netns` must be, as `dray attach` has found it: later the same path may be that of another. The port is
        /// deleted when that namespace is gone.
        netns_id: Option<String> = key("netns-id", word("as `dray attach` writes it", netns_id, String::clone))
            .takes(Takes::Reopen)
            .optional("any");
        /// The container, as `dray port show` has it. Without `netns` its engine is asked for its namespace, and asked again whenever
        /// that is gone: `"docker:web"`, `"podman:web"`, `"containerd:default/web"`.
        container: Option<String> = key("container", word("a container's name", container, String::clone))
            .takes(Takes::Reopen)
            .optional("none");
        /// The device's name there.
        ifname: String = key("ifname", word("1 to 15 bytes without white space, `/` and `:`", ifname, String::clone))
            .takes(Takes::Reopen)
            .default("eth0".into());
        /// The device's addresses, IPv4 and IPv6, each with the length of its network's prefix.
        addresses: Vec<Prefix> = key("addresses", array("at most 64, like `\"10.32.7.9/12\"`", addresses, |all| written(all)))
            .takes(Takes::Reopen)
            .default(vec![]);
        /// Routes through the device.
        routes: Vec<Route> =
            key("routes", array("at most 64, like `\"default via 10.32.0.1\"`, `\"10.8.0.0/16\"`", routes, |all| written(all)))
                .takes(Takes::Reopen)
                .default(vec![]);
        /// Pairs of queues. One serves all workers.
        queues: u16 = key("queues", integer(1, 16)).takes(Takes::Reopen).default(1);
        /// Who copies frames between the switch and the kernel: a worker, by a system call for each (`"syscall"`); or
        /// for each queue a thread of the kernel's (`"vhost-net"`), which takes a CPU's time that is not the worker's.
        /// `"auto"`: vhost-net where there is `/dev/vhost-net`.
        transport: Transport = key("transport", word("`\"auto\"`, `\"vhost-net\"`, `\"syscall\"`", transport, Transport::to_string))
            .takes(Takes::Reopen)
            .default(Transport::Auto);
        /// Who handles what the device receives (receive packet steering): `on`: CPUs that are no workers', `off`: the worker that
        /// sends it, `auto`: `on` where the workers leave two CPUs or more.
        rps: Rps = key("rps", word("`\"auto\"`, `\"on\"`, `\"off\"`", rps, |rps| rps.name().into()))
            .takes(Takes::Reopen)
            .default(Rps::Auto);
        /// Whether segments of one TCP flow that come together are given to the device as one (generic receive offload).
        gro: bool = key("gro", boolean()).takes(Takes::Reopen).default(true);
        /// Without what the device has no carrier, so that its owner sees at once that the network is gone, and may take
        /// another way: `port` alone, that is, while it is administratively down or drayd does not run; or the `underlay`'s
        /// link, too.
        link_follows: LinkFollows = key("link-follows", word("`\"port\"`, `\"underlay\"`", str::parse, LinkFollows::to_string))
            .default(LinkFollows::Port);
    }
}

/// Whose state a device's carrier is, beside that of its port.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LinkFollows {
    /// Nobody's.
    #[default]
    Port,
    /// That of the link of the overlay's underlay; if there is no overlay, nobody's.
    Underlay,
}

impl fmt::Display for LinkFollows {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            LinkFollows::Port => "port",
            LinkFollows::Underlay => "underlay",
        })
    }
}

impl FromStr for LinkFollows {
    type Err = String;

    fn from_str(s: &str) -> Result<Self, String> {
        match s {
            "port" => Ok(LinkFollows::Port),
            "underlay" => Ok(LinkFollows::Underlay),
            _ => Err("what a link follows: \"port\" or \"underlay\"".into()),
        }
    }
}

/// Who handles what a device receives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rps {
    /// [`Rps::On`] where the workers leave two CPUs or more: one alone would have the receiver's programs to run, too.
    Auto,
    /// CPUs that are no workers', if there are any.
    On,
    /// The worker that sends it.
    Off,
}

impl Rps {
    fn name(self) -> &'static str {
        match self {
            Rps::Auto => "auto",
            Rps::On => "on",
            Rps::Off => "off",
        }
    }
}

fn rps(s: &str) -> Result<Rps, String> {
    let all = [Rps::Auto, Rps::On, Rps::Off];
    all.into_iter().find(|rps| rps.name() == s).ok_or_else(|| "\"auto\", \"on\" or \"off\"".into())
}

/// Who copies frames between the switch and the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// vhost-net, where the kernel has it.
    Auto,
    /// A thread of the kernel's for each queue.
    VhostNet,
    /// The worker, by a system call for each.
    Syscall,
}

impl fmt::Display for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Transport::Auto => "auto",
            Transport::VhostNet => "vhost-net",
            Transport::Syscall => "syscall",
        })
    }
}

fn transport(s: &str) -> Result<Transport, String> {
    let all = [Transport::Auto, Transport::VhostNet, Transport::Syscall];
    let wrong = || "\"auto\", \"vhost-net\" or \"syscall\"".into();
    all.into_iter().find(|transport| transport.to_string() == s).ok_or_else(wrong)
}

impl Tap {
    /// What tells the device's namespace from those of others; none: it is this host's.
    pub fn place(&self) -> Option<PathBuf> {
        self.netns.clone().or_else(|| self.container.as_ref().map(PathBuf::from))
    }
}

/// An address and the length of its network's prefix, bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Prefix {
    /// The address.
    pub address: IpAddr,
    /// At most 32 (IPv4) or 128 (IPv6).
    pub length: u8,
}

impl Prefix {
    /// The address alone.
    pub(crate) fn host(address: IpAddr) -> Prefix {
        Prefix { address, length: if address.is_ipv4() { 32 } else { 128 } }
    }

    /// Itself, if the address has no bits beyond the prefix.
    pub(super) fn without_host(self) -> Result<Prefix, String> {
        if self.network() != self.address {
            let network = Prefix { address: self.network(), ..self };
            return Err(format!("{self} has bits beyond its prefix: \"{network}\""));
        }
        Ok(self)
    }

    /// The address without the bits beyond the prefix.
    fn network(self) -> IpAddr {
        match self.address {
            IpAddr::V4(ip) => {
                IpAddr::V4((u32::from(ip) & u32::MAX.checked_shl(32 - u32::from(self.length)).unwrap_or(0)).into())
            }
            IpAddr::V6(ip) => {
                IpAddr::V6((u128::from(ip) & u128::MAX.checked_shl(128 - u32::from(self.length)).unwrap_or(0)).into())
            }
        }
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.length)
    }
}

impl FromStr for Prefix {
    type Err = String;

    /// Reads `ADDRESS/LENGTH`.
    fn from_str(s: &str) -> Result<Self, String> {
        let Some((address, length)) = s.split_once('/') else {
            return Err(match s.parse::<IpAddr>() {
                Ok(IpAddr::V4(ip)) => format!("the prefix length is missing: \"{ip}/24\", say"),
                Ok(IpAddr::V6(ip)) => format!("the prefix length is missing: \"{ip}/64\", say"),
                Err(_) => "an address with the length of its prefix, like \"10.32.7.9/12\" or \"fd00::9/64\"".into(),
            });
        };
        let address: IpAddr = address.parse().map_err(|_| format!("{address:?} is no IP address"))?;
        let most = if address.is_ipv4() { 32 } else { 128 };
        match length.parse::<u8>() {
            Ok(length) if length <= most => Ok(Prefix { address, length }),
            _ => Err(format!("a prefix length is 0 to {most}, as in \"{address}/{}\"", most / 4 * 3)),
        }
    }
}

/// A route through a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Route {
    /// Where to. Its address has no bits beyond its length.
    pub to: Prefix,
    /// The gateway; none: it is on this link.
    pub via: Option<IpAddr>,
}

impl fmt::Display for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Route { to: Prefix { length: 0, .. }, via: Some(_) } => f.write_str("default")?,
            Route { to, .. } => write!(f, "{to}")?,
        }
        self.via.map_or(Ok(()), |via| write!(f, " via {via}"))
    }
}

impl FromStr for Route {
    type Err = String;

    /// Reads `PREFIX`, `PREFIX via GATEWAY` or `default via GATEWAY`.
    fn from_str(s: &str) -> Result<Self, String> {
        let words: Vec<&str> = s.split_whitespace().collect();
        let (to, via) = match words[..] {
            [to] => (to, None),
            [to, "via", via] => (to, Some(via.parse::<IpAddr>().map_err(|_| format!("{via:?} is no IP address"))?)),
            _ => {
                return Err(
                    "\"10.8.0.0/16 via 10.32.0.1\", \"default via 10.32.0.1\", or without via what is on the link"
                        .into(),
                );
            }
        };
        let to: Prefix = match (to, via) {
            ("default", Some(IpAddr::V4(_))) => Prefix { address: IpAddr::from([0; 4]), length: 0 },
            ("default", Some(IpAddr::V6(_))) => Prefix { address: IpAddr::from([0; 16]), length: 0 },
            ("default", None) => return Err("the gateway is missing: \"default via 10.32.0.1\", say".into()),
            (to, _) => to.parse()?,
        };
        let to = to.without_host()?;
        match via {
            Some(via) if via.is_ipv4() != to.address.is_ipv4() => {
                Err(format!("the gateway {via} is of another family than {to}"))
            }
            via => Ok(Route { to, via }),
        }
    }
}

/// Whether nothing is wrong with what says which device it is.
pub(crate) fn tap_is_right(t: &dyn Places) -> bool {
    ["ifname", "netns", "container"].iter().all(|key| !t.is_wrong(key))
}

/// Where a file says which device it is; two ports that leave that out collide just as two that say it.
pub(crate) fn tap_place(t: &dyn Places) -> Span {
    ["ifname", "netns", "container"].iter().find_map(|key| t.at(key)).unwrap_or_else(|| t.whole())
}

/// Where the device is.
pub(super) fn check_tap(port: &Port, tap: &Tap, t: &dyn Places, taken: &Taken, report: &mut Report) {
    let name = &port.name;
    if tap.netns_id.is_some() && tap.netns.is_none() && !t.is_wrong("netns") {
        let at = t.at("netns-id").unwrap_or_else(|| t.whole());
        report.add(&at, || format!("netns-id of port {name:?} says nothing without netns"));
    }
    let container = tap.container.as_ref().filter(|_| tap.netns.is_none() && !t.is_wrong("netns"));
    if let Some(container) = container.filter(|container| engine(container).is_none()) {
        let at = t.at("container").unwrap_or_else(|| t.whole());
        report.add(&at, || {
            let engines = ENGINES.map(|engine| format!("\"{engine}:{container}\"")).join(", ");
            format!(
                "container = {} of port {name:?}: without netns it says which engine has it: {engines}",
                quote(container)
            )
        });
    }
    if !tap_is_right(t) {
        return;
    }
    let place = tap.place();
    if place.is_none() && t.at("ifname").is_none() {
        report.add(&t.whole(), || {
            format!("ifname of port {name:?} is missing: without netns the device is one of this host's")
        });
    } else if let Some(first) = taken.interfaces.get(&(place.clone(), tap.ifname.clone())) {
        let message = || {
            let place = place.map_or("this host".into(), |path| path.display().to_string());
            format!("ifname = {} is already a port's in {place}: give each its own", quote(&tap.ifname))
        };
        report.add_with_note(&tap_place(t), message, first, "first used here");
    }
}

/// The engines whose containers a port can follow.
pub const ENGINES: [&str; 3] = ["docker", "podman", "containerd"];

/// The engine that `container` names, and what the container is called there.
pub fn engine(container: &str) -> Option<(&str, &str)> {
    container.split_once(':').filter(|(engine, name)| ENGINES.contains(engine) && !name.is_empty())
}

fn container(s: &str) -> Result<String, String> {
    if (1..=255).contains(&s.len()) && !s.starts_with('-') && !s.contains(|c: char| c.is_control() || c.is_whitespace())
    {
        Ok(s.into())
    } else {
        Err("1 to 255 bytes without white space, that don't begin with \"-\"".into())
    }
}

fn netns_id(s: &str) -> Result<String, String> {
    match s.split_once(':') {
        Some((boot, number)) if s.len() <= 80 && !boot.is_empty() && number.parse::<u64>().is_ok() => Ok(s.into()),
        _ => {
            Err("the host's boot id, \":\" and the number that the kernel gives a network namespace (SO_NETNS_COOKIE)"
                .into())
        }
    }
}

fn netns(s: &str) -> Result<PathBuf, String> {
    if Path::new(s).is_absolute() && !s.contains(char::is_control) {
        Ok(s.into())
    } else {
        Err("the absolute path of a network namespace's file, like \"/run/netns/web\"".into())
    }
}

/// As the kernel's `dev_valid_name` has it.
pub(super) fn ifname(s: &str) -> Result<String, String> {
    let wrong = s.is_empty()
        || s.len() > 15
        || s.contains(|c: char| c.is_whitespace() || c == '/' || c == ':' || c.is_control());
    if wrong || s == "." || s == ".." {
        Err("an interface's name has 1 to 15 bytes, and no white space, \"/\" or \":\"".into())
    } else {
        Ok(s.into())
    }
}

fn addresses<'a>(
    key: &'static str,
    list: &'a [Spanned<DeValue<'a>>],
    t: &mut Table<'a>,
    report: &mut Report,
) -> Vec<Prefix> {
    texts(key, list, t, report)
}

fn routes<'a>(
    key: &'static str,
    list: &'a [Spanned<DeValue<'a>>],
    t: &mut Table<'a>,
    report: &mut Report,
) -> Vec<Route> {
    texts(key, list, t, report)
}

/// A list of what is written as texts.
pub(super) fn texts<'a, T: FromStr<Err = String>>(
    key: &'static str,
    list: &'a [Spanned<DeValue<'a>>],
    t: &mut Table<'a>,
    report: &mut Report,
) -> Vec<T> {
    items(key, list, t, report, MOST, |item, _, report| {
        let read = match item.get_ref() {
            DeValue::String(s) => s.parse(),
            _ => Err("a text in quotes".into()),
        };
        match read {
            Ok(value) => Some((value, Item::of(item))),
            Err(why) => {
                report.add(&item.span(), || format!("{key}: {}: {why}", show(item.get_ref())));
                None
            }
        }
    })
}

pub(super) fn written<T: fmt::Display>(all: &[T]) -> Vec<String> {
    all.iter().map(render::text).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn routes_are_read_as_they_are_written() {
        for text in [
            "default via 10.0.0.1",
            "default via fd00::1",
            "10.8.0.0/16 via 10.0.0.1",
            "fd01::/64",
            "10.8.0.0/32",
            "0.0.0.0/0",
        ] {
            assert_eq!(text.parse::<Route>().unwrap().to_string(), text);
        }
        let wrong = |text: &str| text.parse::<Route>().unwrap_err();
        assert_eq!(wrong("10.8.0.1/16 via 10.0.0.1"), "10.8.0.1/16 has bits beyond its prefix: \"10.8.0.0/16\"");
        assert_eq!(wrong("default via 10.0.0"), "\"10.0.0\" is no IP address");
        assert!(wrong("default").contains("gateway is missing"));
        assert!(wrong("10.8.0.0/16 via fd00::1").contains("another family"));
        assert!(wrong("10.8.0.0/33").contains("0 to 32"));
        assert!(wrong("10.8.0.0").contains("\"10.8.0.0/24\", say"));
    }
}
