//! The MTU that fits a bridge: what is longer is lost on the way to some member or tunnel, and TCP, which nobody tells, stalls.

use crate::{Bridge, Port, ValidConfig};
use std::collections::HashMap;

/// Bytes that VXLAN over IPv4 adds to a frame's payload: inner Ethernet header, VXLAN, UDP and IP header (RFC 7348,
/// section 5). The inner frame has no VLAN tag; outside, a tag is no part of an MTU.
pub const VXLAN_OVERHEAD: u16 = 14 + 8 + 8 + 20;

/// How many ports a warning names.
const NAMED: usize = 8;

/// The MTUs of all bridges and ports of a configuration.
pub struct Mtus<'a> {
    config: &'a ValidConfig,
    ports: HashMap<&'a str, u16>,
    bridges: HashMap<&'a str, u16>,
    /// By port: what fits all bridges that it is in, and the first of these that fits no more.
    fits: HashMap<&'a str, (u16, &'a str)>,
}

impl ValidConfig {
    /// What is to be said of `bridge` if some member has more than fits it. The MTU of a port is what `mtu` says, bytes: a device may carry
    /// less than [`Port::mtu`].
    pub fn mtu_warning(&self, bridge: &Bridge, mtu: impl Fn(&Port) -> u16) -> Option<String> {
        let members: Vec<(&str, u16)> = bridge
            .ports
            .iter()
            .filter_map(|member| self.port(&member.port))
            .map(|port| (&*port.name, mtu(port)))
            .collect();
        let underlay = self.vxlan.as_ref().filter(|_| bridge.vni.is_some()).and_then(|vxlan| self.port(&vxlan.port));
        let tunnels = underlay.map(|port| mtu(port).saturating_sub(VXLAN_OVERHEAD));
        let fits = members.iter().map(|(_, has)| *has).chain(tunnels).chain(bridge.mtu).min()?;
        let mut larger = members.iter().filter(|(_, has)| *has > fits).peekable();
        larger.peek()?;
        let limit = match tunnels {
            Some(tunnels) if tunnels == fits => format!("its tunnels (the underlay's less {VXLAN_OVERHEAD})"),
            // What the bridge says itself is no warning.
            _ => format!("port {}", members.iter().find(|(_, has)| *has == fits)?.0),
        };
        let mut names: Vec<String> = larger.by_ref().take(NAMED).map(|(name, has)| format!("{name} ({has})")).collect();
        match larger.count() {
            0 => {}
            more => names.push(format!("{more} more")),
        }
        let (bridge, names) = (&bridge.name, names.join(", "));
        Some(format!(
            "bridge {bridge}: an MTU of {fits} fits {limit}, and more is allowed to {names}: whoever is attached there needs \
             {fits}, as what is longer is dropped"
        ))
    }

    /// What is to be said of all bridges, a line each.
    pub fn mtu_warnings(&self, mtu: impl Fn(&Port) -> u16) -> Vec<String> {
        self.bridges.iter().filter_map(|bridge| self.mtu_warning(bridge, &mtu)).collect()
    }

    /// The MTUs of its bridges, if that of a port is what `mtu` says, bytes.
    pub fn mtus(&self, mtu: impl Fn(&Port) -> u16) -> Mtus<'_> {
        let ports: HashMap<&str, u16> = self.ports.iter().map(|port| (port.name.as_str(), mtu(port))).collect();
        let mut mtus = Mtus { config: self, ports, bridges: HashMap::new(), fits: HashMap::new() };
        for bridge in &self.bridges {
            let members = bridge.ports.iter().filter_map(|member| mtus.ports.get(member.port.as_str()).copied());
            let tunnels = bridge.vni.and_then(|_| mtus.tunnels());
            let Some(smallest) = members.chain(tunnels).chain(bridge.mtu).min() else { continue };
            mtus.bridges.insert(&bridge.name, smallest);
            for member in &bridge.ports {
                let fits = mtus.fits.entry(&member.port).or_insert((smallest, &bridge.name));
                if smallest < fits.0 {
                    *fits = (smallest, &bridge.name);
                }
            }
        }
        mtus
    }
}

impl Mtus<'_> {
    /// What fits the tunnels.
    fn tunnels(&self) -> Option<u16> {
        let underlay = self.ports.get(self.config.vxlan.as_ref()?.port.as_str())?;
        Some(underlay.saturating_sub(VXLAN_OVERHEAD))
    }

    /// The largest MTU that fits all members and tunnels of `bridge` and is no more than its own, bytes; `None` if it has none
    /// of all these.
    pub fn bridge(&self, bridge: &str) -> Option<u16> {
        self.bridges.get(bridge).copied()
    }

    /// What whoever is attached to `port` is to be told: the largest MTU that fits it and all bridges that it is in, bytes.
    pub fn guest(&self, port: &Port) -> u16 {
        self.fits.get(port.name.as_str()).map_or(port.mtu, |(fits, _)| port.mtu.min(*fits))
    }

    /// What is to be said of a port with more than fits a bridge that it is in.
    pub fn port_warning(&self, port: &Port) -> Option<String> {
        let has = *self.ports.get(port.name.as_str())?;
        let (fits, bridge) = *self.fits.get(port.name.as_str())?;
        (has > fits).then(|| {
            format!(
                "an MTU of {fits} fits all of bridge {bridge}, the port's is {has}: whoever is attached needs {fits}"
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::parse_for;

    const FILE: &str = "
[[port]]
name = 'web'
kind = 'memif'
socket = '/a'
[[port]]
name = 'db'
kind = 'memif'
socket = '/b'
mtu = 1450
[[port]]
name = 'nic'
kind = 'eth'
device = 'net_tap0'
mtu = 1400
[[port]]
name = 'up'
kind = 'eth'
device = 'net_tap1'
[[bridge]]
name = 'blue'
vni = 42
ports = ['web', 'db', { port = 'nic', vlan = 3 }]
[[bridge]]
name = 'green'
vni = 43
ports = [{ port = 'web', vlan = 7 }, { port = 'db', vlan = 7 }]
[[bridge]]
name = 'local'
ports = [{ port = 'web', vlan = 8 }]
[[bridge]]
name = 'empty'
[[bridge]]
name = 'tunnels'
vni = 44
[vxlan]
port = 'up'
local = '10.0.0.1/24'
";

    fn config(text: &str) -> ValidConfig {
        parse_for("test", text, &[0]).unwrap_or_else(|errors| panic!("{errors}"))
    }

    #[test]
    fn a_bridge_fits_its_smallest_member_and_its_tunnels() {
        let config = config(FILE);
        let all = |mtus: &Mtus<'_>| ["blue", "green", "local", "empty", "tunnels"].map(|name| mtus.bridge(name));
        let mtus = config.mtus(|port| port.mtu);
        assert_eq!(all(&mtus), [Some(1400), Some(1450), Some(9198), None, Some(1450)]);
        let guests: Vec<u16> = config.ports.iter().map(|port| mtus.guest(port)).collect();
        assert_eq!(guests, [1400, 1400, 1400, 1500]);

        // The underlay's device has less than its port.
        let mtus = config.mtus(|port| if port.name == "up" { 1400 } else { port.mtu });
        assert_eq!(all(&mtus), [Some(1350), Some(1350), Some(9198), None, Some(1350)]);
        assert_eq!(mtus.guest(&config.ports[2]), 1350);
        // No underlay has less than its headers.
        let mtus = config.mtus(|_| 68 - 50);
        assert_eq!(mtus.bridge("tunnels"), Some(0));
    }

    #[test]
    fn a_bridge_is_warned_of_once_with_the_members_that_have_more() {
        let config = config(FILE);
        assert_eq!(
            config.mtu_warnings(|port| port.mtu),
            [
                "bridge blue: an MTU of 1400 fits port nic, and more is allowed to web (9198), db (1450): whoever is \
                 attached there needs 1400, as what is longer is dropped",
                "bridge green: an MTU of 1450 fits its tunnels (the underlay's less 50), and more is allowed to web \
                 (9198): whoever is attached there needs 1450, as what is longer is dropped"
            ]
        );
        assert_eq!(
            config.mtus(|port| port.mtu).port_warning(&config.ports[1]).unwrap(),
            "an MTU of 1400 fits all of bridge blue, the port's is 1450: whoever is attached needs 1400"
        );
        assert_eq!(config.mtus(|port| port.mtu).port_warning(&config.ports[2]), None);
        assert_eq!(config.mtus(|port| port.mtu).port_warning(&config.ports[3]), None);
        // Jumbo frames below: 1,550 and more carry what the containers have.
        assert_eq!(config.mtu_warnings(|port| if port.name == "up" { 1550 } else { 1500 }), [""; 0]);
        assert_eq!(config.mtu_warnings(|port| if port.name == "up" { 1549 } else { 1500 }).len(), 2);
    }

    #[test]
    fn what_a_bridge_says_itself_goes_to_guests_and_is_no_warning() {
        let config = config(&FILE.replace("vni = 43", "vni = 43\nmtu = 1300"));
        let mtus = config.mtus(|port| port.mtu);
        assert_eq!((mtus.bridge("green"), mtus.bridge("blue")), (Some(1300), Some(1400)));
        assert_eq!(config.ports.iter().map(|port| mtus.guest(port)).collect::<Vec<_>>(), [1300, 1300, 1400, 1500]);
        let warnings = config.mtu_warnings(|port| port.mtu);
        assert!(warnings.len() == 1 && warnings[0].starts_with("bridge blue: "), "{warnings:?}");
    }

    #[test]
    fn many_members_are_counted() {
        let mut text = String::new();
        for i in 0..12 {
            text += &format!("[[port]]\nname = 'p{i}'\nkind = 'memif'\nsocket = '/{i}'\n");
        }
        text += "mtu = 1000\n[[bridge]]\nname = 'b'\nports = [";
        (0..12).for_each(|i| text += &format!("'p{i}',"));
        let config = config(&(text + "]\n"));
        let warnings = config.mtu_warnings(|port| port.mtu);
        assert!(warnings[0].contains("fits port p11, ") && warnings[0].contains("p7 (9198), 3 more:"), "{warnings:?}");
    }
}
