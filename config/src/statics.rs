//! Static FDB entries that come in great numbers: the checks of a file, without a file.

use crate::schema::MAX_VTEPS;
use crate::value::{host, station};
use crate::{Bridge, Mac, Member, StaticMac, StaticTo, ValidConfig};
use std::collections::{HashMap, HashSet};
use std::net::Ipv4Addr;

/// Checks entries against a configuration. Each takes about a microsecond, however many bridges and members there are.
pub struct Statics<'a> {
    config: &'a ValidConfig,
    bridges: HashMap<&'a str, usize>,
    /// The members of bridges that were asked for.
    members: HashMap<usize, Members<'a>>,
    /// All that the configuration and the entries so far name, if one was asked for.
    vteps: Option<HashSet<Ipv4Addr>>,
}

/// A bridge's members.
struct Members<'a> {
    all: HashSet<&'a Member>,
    /// Of each port: the first one's VLAN, and how many there are.
    by_port: HashMap<&'a str, (Option<u16>, usize)>,
}

impl<'a> Members<'a> {
    fn new(bridge: &'a Bridge) -> Self {
        let mut by_port = HashMap::new();
        for member in &bridge.ports {
            by_port.entry(member.port.as_str()).or_insert((member.vlan, 0)).1 += 1;
        }
        Members { all: bridge.ports.iter().collect(), by_port }
    }
}

impl<'a> Statics<'a> {
    /// For entries of `config`.
    pub fn new(config: &'a ValidConfig) -> Self {
        let bridges = config.bridges.iter().enumerate().map(|(i, bridge)| (bridge.name.as_str(), i)).collect();
        Statics { config, bridges, members: HashMap::new(), vteps: None }
    }

    /// The place of the bridge `name` among the configuration's.
    ///
    /// # Errors
    /// There is none.
    pub fn bridge(&self, name: &str) -> Result<usize, String> {
        self.bridges.get(name).copied().ok_or_else(|| format!("there is no bridge {name:?}"))
    }

    /// The bridge, and the entry it would get. Whether it has one of that address is not looked at.
    ///
    /// # Errors
    /// What is wrong, as it would be said of a file.
    pub fn check(
        &mut self,
        bridge: &str,
        mac: Mac,
        port: Option<&Member>,
        vtep: Option<Ipv4Addr>,
    ) -> Result<(usize, StaticMac), String> {
        let at = self.bridge(bridge)?;
        station(mac).map_err(|why| format!("mac \"{mac}\": {why}"))?;
        let to = match (port, vtep) {
            (Some(member), None) => StaticTo::Port(self.member(at, member)?),
            (None, Some(vtep)) => {
                self.vtep(at, vtep)?;
                StaticTo::Vtep(vtep)
            }
            _ => return Err("a static entry has either a port or a vtep".into()),
        };
        Ok((at, StaticMac { mac, to }))
    }

    /// The member that is meant.
    fn member(&mut self, at: usize, wanted: &Member) -> Result<Member, String> {
        let bridge = &self.config.bridges[at];
        let (port, name) = (&wanted.port, &bridge.name);
        let members = self.members.entry(at).or_insert_with(|| Members::new(bridge));
        if members.all.contains(wanted) {
            return Ok(wanted.clone());
        }
        match (members.by_port.get(port.as_str()), wanted.vlan) {
            (Some((only, 1)), None) => Ok(Member { port: port.clone(), vlan: *only }),
            (Some(_), None) => Err(format!("port {port:?} is several members of bridge {name:?}: say which by vlan")),
            (Some(_), Some(vlan)) => Err(format!("port {port:?} is not in bridge {name:?} with vlan {vlan}")),
            (None, _) => Err(format!("port {port:?} is not in bridge {name:?}: a static entry's port is a member")),
        }
    }

    /// Whether a bridge can have entries behind `vtep`.
    fn vtep(&mut self, at: usize, vtep: Ipv4Addr) -> Result<(), String> {
        let wrong = |why: &str| Err(format!("vtep \"{vtep}\" {why}"));
        let (Some(_), Some(vxlan)) = (self.config.bridges[at].vni, &self.config.vxlan) else {
            return wrong("is for a bridge in the overlay: give it a vni");
        };
        if let Err(why) = host(vtep) {
            return wrong(&format!("is {why}"));
        }
        if vtep == vxlan.local.address {
            return wrong("is our own address (local): only other VTEPs");
        }
        if vxlan.next_hop(vtep).is_none() {
            return wrong("is not on the underlay's network and there is no gateway: give one in [vxlan]");
        }
        let config = self.config;
        let vteps = self.vteps.get_or_insert_with(|| config.vteps());
        if !vteps.contains(&vtep) && vteps.len() >= MAX_VTEPS {
            return wrong(&format!(
                "is VTEP number {}: at most {MAX_VTEPS} in all lists and entries together",
                vteps.len() + 1
            ));
        }
        vteps.insert(vtep);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::parse_for;

    #[test]
    fn entries_get_the_checks_of_a_file() {
        let mut config = parse_for("example.toml", include_str!("../example.toml"), &[]).unwrap();
        let several = Member { port: "db".into(), vlan: Some(3) };
        config.bridges[0].ports.extend([several.clone(), Member { vlan: Some(4), ..several.clone() }]);
        let mut statics = Statics::new(&config);
        let mut check = |bridge: &str, mac: &str, to: &str| {
            let vtep = to.parse().ok();
            let port = (vtep.is_none() && !to.is_empty()).then(|| to.parse().unwrap());
            statics.check(bridge, mac.parse().unwrap(), port.as_ref(), vtep)
        };
        let good = "02:00:00:00:00:0c";
        let entry = |to| Ok((0, StaticMac { mac: Mac([2, 0, 0, 0, 0, 12]), to }));
        // The port's only membership is meant.
        let trunk = Member { port: "trunk".into(), vlan: Some(10) };
        assert_eq!(check("blue", good, "trunk"), entry(StaticTo::Port(trunk.clone())));
        assert_eq!(check("blue", good, "trunk:10"), entry(StaticTo::Port(trunk)));
        assert_eq!(check("blue", good, "db:3"), entry(StaticTo::Port(several)));
        assert_eq!(check("blue", good, "10.9.0.2"), entry(StaticTo::Vtep(Ipv4Addr::new(10, 9, 0, 2))));

        let mut wrong = |bridge, mac, to| check(bridge, mac, to).unwrap_err();
        assert_eq!(wrong("bleu", good, "web"), "there is no bridge \"bleu\"");
        assert_eq!(
            wrong("blue", "01:00:00:00:00:0c", "web"),
            "mac \"01:00:00:00:00:0c\": a group address: the first byte of a station's is even"
        );
        assert_eq!(
            wrong("blue", "00:00:00:00:00:00", "web"),
            "mac \"00:00:00:00:00:00\": the address of a station is not all zeros"
        );
        assert_eq!(wrong("blue", good, ""), "a static entry has either a port or a vtep");
        assert_eq!(
            wrong("blue", good, "no"),
            "port \"no\" is not in bridge \"blue\": a static entry's port is a member"
        );
        assert_eq!(wrong("blue", good, "trunk:11"), "port \"trunk\" is not in bridge \"blue\" with vlan 11");
        assert_eq!(wrong("blue", good, "db"), "port \"db\" is several members of bridge \"blue\": say which by vlan");
        assert_eq!(wrong("local", good, "10.9.0.2"), "vtep \"10.9.0.2\" is for a bridge in the overlay: give it a vni");
        assert_eq!(
            wrong("blue", good, "224.0.0.1"),
            "vtep \"224.0.0.1\" is not the address of a station: an IPv4 unicast address, like \"10.9.0.2\""
        );
        assert_eq!(wrong("blue", good, "10.9.0.1"), "vtep \"10.9.0.1\" is our own address (local): only other VTEPs");
        config.vxlan.as_mut().unwrap().gateway = None;
        let far = Some(Ipv4Addr::new(192, 0, 2, 1));
        assert_eq!(
            Statics::new(&config).check("blue", Mac([2, 0, 0, 0, 0, 12]), None, far),
            Err("vtep \"192.0.2.1\" is not on the underlay's network and there is no gateway: give one in [vxlan]"
                .into())
        );
    }
}
