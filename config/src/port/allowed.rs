//! `allowed-addresses`: what a port may send with.

use super::{Port, PortKind, Prefix, tap::texts};
use crate::Mac;
use crate::error::Report;
use crate::read::Table;
use crate::validate::Places;
use crate::value::station;
use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;
use toml::Spanned;
use toml::de::DeValue;

/// What a port may send with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Allowed {
    /// Anything: nobody looks.
    Any,
    /// This MAC address.
    Mac(Mac),
    /// These IP addresses.
    Ip(Prefix),
}

impl fmt::Display for Allowed {
    /// As it is read. An IP address alone has no length.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Allowed::Any => f.write_str("any"),
            Allowed::Mac(mac) => mac.fmt(f),
            Allowed::Ip(prefix) if *prefix == Prefix::host(prefix.address) => prefix.address.fmt(f),
            Allowed::Ip(prefix) => prefix.fmt(f),
        }
    }
}

impl FromStr for Allowed {
    type Err = String;

    /// Reads `any`, a MAC address, an IP address, or a prefix.
    fn from_str(s: &str) -> Result<Self, String> {
        if s == "any" {
            return Ok(Allowed::Any);
        }
        if let Ok(mac) = s.parse::<Mac>() {
            return station(mac).map(|()| Allowed::Mac(mac));
        }
        if let Ok(address) = s.parse::<IpAddr>() {
            return Ok(Allowed::Ip(Prefix::host(address)));
        }
        if !s.contains('/') {
            return Err(
                "\"any\", or an address or prefix like \"10.32.7.9\", \"fd00::/64\", \"02:00:00:00:00:01\"".into()
            );
        }
        s.parse::<Prefix>()?.without_host().map(Allowed::Ip)
    }
}

pub(super) fn allowed<'a>(
    key: &'static str,
    list: &'a [Spanned<DeValue<'a>>],
    t: &mut Table<'a>,
    report: &mut Report,
) -> Vec<Allowed> {
    let mut all: Vec<Allowed> = texts(key, list, t, report);
    if let Some(n) = all.iter().position(|one| *one == Allowed::Any).filter(|_| all.len() > 1) {
        report.add(&t.item(key, n, ""), || format!("{key}: \"any\" stands alone: with it no address is looked at"));
    }
    // Their order means nothing.
    all.sort_unstable();
    all.dedup();
    all
}

impl Port {
    /// All that it may send with: its own address, those that its device is given, and `allowed-addresses`. [`Allowed::Any`] alone, if
    /// nobody is to look.
    pub fn allowed(&self) -> Vec<Allowed> {
        let own: &[Prefix] = if let PortKind::Tap(tap) = &self.kind { &tap.addresses } else { &[] };
        let is_containers =
            matches!(&self.kind, PortKind::Tap(tap) if tap.place().is_some() && !tap.addresses.is_empty());
        let more = match &self.allowed_addresses {
            Some(more) => &more[..],
            None if is_containers => &[],
            None => &[Allowed::Any],
        };
        if more.contains(&Allowed::Any) {
            return vec![Allowed::Any];
        }
        let own = own.iter().map(|prefix| Allowed::Ip(Prefix::host(prefix.address)));
        let mut all: Vec<Allowed> = Vec::new();
        for one in [Allowed::Mac(self.mac)].into_iter().chain(own).chain(more.iter().copied()) {
            if !all.contains(&one) {
                all.push(one);
            }
        }
        all
    }
}

/// What must fit together. `is_underlay`: whether the port is the overlay's.
pub(super) fn check(port: &Port, is_underlay: bool, t: &dyn Places, report: &mut Report) {
    let is_looked_at = port.allowed_addresses.as_ref().is_some_and(|list| !list.contains(&Allowed::Any));
    if is_underlay && is_looked_at {
        report.add(&t.at("allowed-addresses").unwrap_or_else(|| t.whole()), || {
            let name = &port.name;
            format!(
                "allowed-addresses of port {name:?}: it is the underlay, whose frames are the tunnels': leave it out"
            )
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::parse_for;

    #[test]
    fn they_are_read_as_they_are_written() {
        for text in ["any", "02:00:00:00:00:01", "10.0.0.1", "fd00::1", "10.0.0.0/8", "::/0", "fe80::/10"] {
            assert_eq!(text.parse::<Allowed>().unwrap().to_string(), text);
        }
        assert_eq!("10.0.0.1/32".parse::<Allowed>().unwrap().to_string(), "10.0.0.1");
        let wrong = |text: &str| text.parse::<Allowed>().unwrap_err();
        assert_eq!(wrong("10.0.0.1/24"), "10.0.0.1/24 has bits beyond its prefix: \"10.0.0.0/24\"");
        assert!(wrong("03:00:00:00:00:01").contains("group address"));
        assert!(wrong("all").starts_with("\"any\", or an address or prefix"), "{}", wrong("all"));
        assert!(wrong("fd00::/129").contains("0 to 128"));
    }

    /// What a port with these keys may send with, but for its MAC.
    fn of(keys: &str) -> String {
        let text = format!("[[port]]\nname = 'p'\nmac = '02:00:00:00:00:01'\n{keys}");
        let config = parse_for("test", &text, &[0]).unwrap_or_else(|errors| panic!("{errors}"));
        let all = config.ports[0].allowed();
        if all == [Allowed::Any] {
            return "any".into();
        }
        assert_eq!(all[0].to_string(), "02:00:00:00:00:01");
        all[1..].iter().map(Allowed::to_string).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn a_container_has_what_its_device_has_and_others_are_not_looked_at() {
        let container = "kind = 'tap'\nnetns = '/n'\naddresses = ['10.0.0.1/24', 'fd00::1/64']\n";
        assert_eq!(of(container), "10.0.0.1 fd00::1");
        assert_eq!(
            of(&format!("{container}allowed-addresses = ['10.0.0.1', '10.0.9.0/24', '02:00:00:00:00:09']")),
            "10.0.0.1 fd00::1 02:00:00:00:00:09 10.0.9.0/24"
        );
        assert_eq!(of(&format!("{container}allowed-addresses = ['any']")), "any");
        assert_eq!(of("kind = 'tap'\ncontainer = 'docker:web'\naddresses = ['10.0.0.1/24']"), "10.0.0.1");
        assert_eq!(of("kind = 'tap'\nnetns = '/n'"), "any");
        let host = "kind = 'tap'\nifname = 'h'\naddresses = ['10.0.0.1/24']\n";
        assert_eq!(of(host), "any");
        assert_eq!(of(&format!("{host}allowed-addresses = []")), "10.0.0.1");
        for kind in
            ["kind = 'memif'\nsocket = '/m'\n", "kind = 'vhost-user'\nsocket = '/m'\n", "kind = 'eth'\ndevice = 'x'\n"]
        {
            assert_eq!(of(kind), "any");
            assert_eq!(of(&format!("{kind}allowed-addresses = []")), "");
            assert_eq!(of(&format!("{kind}allowed-addresses = ['fd00::1']")), "fd00::1");
        }
    }
}
