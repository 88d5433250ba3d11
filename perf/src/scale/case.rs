//! What grows, and the switch, the frames and the FDB entries of each size.

use crate::scale::wire::Frame;
use clap::ValueEnum;
use dray_api::FdbStatic;
use dray_config::{Mac, Member};
use serde::{Deserialize, Serialize};
use std::fmt::Write;
use std::net::Ipv4Addr;
use std::path::Path;

/// What grows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Axis {
    /// memif ports, all but two of them idle
    Ports,
    /// TAP ports that nobody uses, beside two memif ports
    Taps,
    /// Bridges between two trunks, each a VLAN of both
    Bridges,
    /// VNIs, from a trunk into one tunnel
    Vnis,
    /// Tunnels, from one bridge
    Tunnels,
    /// VNIs and tunnels, out of the tunnels
    Decap,
    /// MACs in one bridge
    Macs,
    /// Receivers of a broadcast
    Flood,
}

/// The overlay's addresses: ours, and the gateway that all other VTEPs are behind.
pub(super) const LOCAL: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 1);
pub(super) const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 254);
/// The underlay port's MAC.
const VTEP_MAC: [u8; 6] = [2, 9, 0, 0, 0, 1];
const VNI: u32 = 1000;

impl Axis {
    /// What it counts.
    pub fn what(self) -> &'static str {
        match self {
            Axis::Ports => "memif ports, two of them busy",
            Axis::Taps => "TAP ports, all quiet, beside two memif ports",
            Axis::Bridges => "bridges, each a VLAN of two trunks",
            Axis::Vnis => "VNIs, from a trunk's VLANs into one tunnel",
            Axis::Tunnels => "tunnels, from one bridge",
            Axis::Decap => "VNIs and tunnels, to a trunk's VLANs",
            Axis::Macs => "MACs in one bridge",
            Axis::Flood => "receivers of a broadcast",
        }
    }

    /// The sizes that are measured; the first is the one that others are compared with.
    pub fn sizes(self, quick: bool) -> &'static [u32] {
        match (self, quick) {
            (Axis::Ports, false) => &[2, 16, 64, 256],
            (Axis::Ports, true) => &[2, 16],
            (Axis::Taps, false) => &[1, 16, 64, 256],
            (Axis::Taps, true) => &[1, 4],
            (Axis::Bridges | Axis::Vnis | Axis::Decap, false) => &[1, 64, 1024, 4094],
            (Axis::Tunnels, false) => &[1, 64, 1024, 4096],
            (Axis::Bridges | Axis::Vnis | Axis::Decap | Axis::Tunnels, true) => &[1, 64],
            (Axis::Macs, false) => &[1_000, 10_000, 100_000, 1_000_000],
            (Axis::Macs, true) => &[1_000, 2_000],
            (Axis::Flood, false) => &[1, 8, 64],
            (Axis::Flood, true) => &[1, 4],
        }
    }

    /// Whether it needs a flow for each at least.
    pub(super) fn is_by_flow(self) -> bool {
        !matches!(self, Axis::Ports | Axis::Taps | Axis::Macs | Axis::Flood)
    }

    /// Whether frames have a VLAN on the first port.
    fn is_tagged(self) -> bool {
        matches!(self, Axis::Bridges | Axis::Vnis | Axis::Decap)
    }
}

/// One size on one axis.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Case {
    pub axis: Axis,
    pub n: u32,
    /// Flows, where it is not these that grow: with two MACs each, so that the FDB is the same for all sizes.
    pub flows: u32,
}

impl Case {
    /// How many memif ports there are, with ids from 0. Frames come from the first, those that are forwarded go to the second.
    pub fn ports(self) -> u32 {
        match self.axis {
            Axis::Ports => self.n,
            Axis::Flood => self.n + 1,
            _ => 2,
        }
    }

    /// How many TAP ports there are besides.
    pub fn taps(self) -> u32 {
        if self.axis == Axis::Taps { self.n } else { 0 }
    }

    /// The port that frames are sent to: of those that come out of tunnels, the first.
    pub fn is_reverse(self) -> bool {
        self.axis == Axis::Decap
    }

    /// Whether the second port is the underlay.
    pub fn has_overlay(self) -> bool {
        matches!(self.axis, Axis::Vnis | Axis::Tunnels | Axis::Decap)
    }

    /// Frames that one that is sent becomes.
    pub fn copies(self) -> u32 {
        if self.axis == Axis::Flood { self.n } else { 1 }
    }

    /// Flows.
    pub fn flows(self) -> u32 {
        match self.axis {
            Axis::Macs => self.n / 2,
            Axis::Flood => 1,
            _ => self.flows,
        }
    }

    /// Which of `n` things flow `i` uses: neighbours use different ones, in no order that a prefetcher would know.
    fn share(self, i: u32) -> u32 {
        (i.wrapping_mul(0x9e37_79b1) % self.flows().next_power_of_two()) % self.n
    }

    /// The VLAN of flow `i` on a trunk.
    fn vlan(self, i: u32) -> Option<u16> {
        self.axis.is_tagged().then(|| 1 + self.share(i) as u16)
    }

    /// The bridge of flow `i`.
    fn bridge(self, i: u32) -> String {
        format!("b{}", self.vlan(i).unwrap_or(1))
    }

    /// The VTEP of flow `i`.
    fn vtep(self, i: u32) -> Ipv4Addr {
        let n = if self.axis == Axis::Vnis { 0 } else { self.share(i) };
        Ipv4Addr::from(u32::from(Ipv4Addr::new(10, 64, 1, 0)) + n)
    }

    /// drayd's configuration, with sockets in `dir`, its worker on `cpu`, and TAP devices in the network namespace `netns`.
    pub fn configuration(self, dir: &Path, cpu: usize, netns: &str) -> String {
        let mut text = head(dir, cpu, (2 * self.flows() as usize).max(1 << 20).next_power_of_two());
        for id in 0..self.ports() {
            memif(&mut text, dir, id);
        }
        for n in 0..self.taps() {
            let _ = writeln!(text, "[[port]]\nname = \"t{n}\"\nkind = \"tap\"\nnetns = \"{netns}\"\nifname = \"t{n}\"");
        }
        match self.axis {
            Axis::Ports | Axis::Taps | Axis::Macs | Axis::Flood => {
                let members: Vec<String> = (0..self.ports()).map(|id| format!("\"p{id}\"")).collect();
                let _ = writeln!(text, "[[bridge]]\nname = \"b1\"\nports = [{}]", members.join(", "));
            }
            Axis::Bridges => {
                for v in 1..=self.n {
                    let _ = writeln!(
                        text,
                        "[[bridge]]\nname = \"b{v}\"\nports = [{{ port = \"p0\", vlan = {v} }}, {{ port = \"p1\", vlan = {v} }}]"
                    );
                }
            }
            Axis::Vnis | Axis::Decap => {
                for v in 1..=self.n {
                    let _ = writeln!(
                        text,
                        "[[bridge]]\nname = \"b{v}\"\nvni = {}\nports = [{{ port = \"p0\", vlan = {v} }}]",
                        VNI + v
                    );
                }
            }
            Axis::Tunnels => {
                let _ = writeln!(text, "[[bridge]]\nname = \"b1\"\nvni = {}\nports = [\"p0\"]", VNI + 1);
            }
        }
        if self.has_overlay() {
            let _ = writeln!(text, "[vxlan]\nport = \"p1\"\nlocal = \"{LOCAL}/24\"\ngateway = \"{GATEWAY}\"");
        }
        text
    }

    /// The MAC of flow `i`'s sender (0xa0) or receiver (0xb0). MACs that count up share cache lines in one bridge, and are read
    /// one line after the other, and in many they aren't: but where MACs themselves grow in number they are in no order.
    fn mac(self, side: u8, i: u32) -> [u8; 6] {
        let n = if self.axis == Axis::Macs { i } else { i.wrapping_mul(0x9e37_79b1) }.to_be_bytes();
        [2, side, n[0], n[1], n[2], n[3]]
    }

    /// The frames that are measured.
    pub fn frames(self) -> Vec<Frame> {
        // As many as a ring has at least, so that none is sent twice at a time.
        let count = self.flows() * 1024u32.div_ceil(self.flows());
        (0..count).map(|i| self.frame(i % self.flows())).collect()
    }

    fn frame(self, i: u32) -> Frame {
        let (from, to) = (self.mac(0xa0, i), self.mac(0xb0, i));
        match self.axis {
            Axis::Flood => Frame::ethernet([0xff; 6], from, None, i),
            Axis::Decap => {
                let inner = Frame::ethernet(to, from, None, i);
                let vni = VNI + u32::from(self.vlan(i).unwrap_or(1));
                inner.vxlan(VTEP_MAC, self.vtep(i), LOCAL, vni, i)
            }
            _ => Frame::ethernet(to, from, self.vlan(i), i),
        }
    }

    /// The frames that teach the switch where those that are measured go to: the other way.
    pub fn lessons(self) -> Vec<Frame> {
        if self.has_overlay() || self.axis == Axis::Flood {
            return Vec::new();
        }
        (0..self.flows()).map(|i| Frame::ethernet(self.mac(0xa0, i), self.mac(0xb0, i), self.vlan(i), i)).collect()
    }

    /// Static entries: with an overlay, where frames go to, and which VTEPs they come from.
    pub fn statics(self) -> Vec<FdbStatic> {
        if !self.has_overlay() {
            return Vec::new();
        }
        let mut entries = Vec::new();
        for i in 0..self.flows() {
            let entry =
                |side| FdbStatic { bridge: self.bridge(i), mac: Mac(self.mac(side, i)), ..FdbStatic::default() };
            let (here, there) = if self.is_reverse() { (0xb0, 0xa0) } else { (0xa0, 0xb0) };
            entries.push(FdbStatic { vtep: Some(self.vtep(i)), ..entry(there) });
            entries.push(FdbStatic { port: Some(Member { port: "p0".into(), vlan: self.vlan(i) }), ..entry(here) });
        }
        entries
    }
}

/// The head of a configuration: control socket, worker, and an FDB of `macs` MACs.
pub(super) fn head(dir: &Path, cpu: usize, macs: usize) -> String {
    let control = dir.join("dray.sock");
    format!("[control]\nsocket = {control:?}\n[fdb]\nsize = {macs}\nageing = 3600\n[[worker]]\ncpu = {cpu}\n")
}

/// Adds memif port `p{id}`.
pub(super) fn memif(text: &mut String, dir: &Path, id: u32) {
    let socket = dir.join("memif.sock");
    let mac = Mac(if id == 1 { VTEP_MAC } else { [2, 9, 1, 0, (id >> 8) as u8, id as u8] });
    // What is measured is not the limit.
    let _ = writeln!(
        text,
        "[[port]]\nname = \"p{id}\"\nkind = \"memif\"\nsocket = {socket:?}\nid = {id}\nmac = \"{mac}\"\nmax-macs = 67108864"
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn configurations_are_valid_and_entries_fit_them() {
        for axis in Axis::value_variants() {
            for &n in axis.sizes(true) {
                let case = Case { axis: *axis, n, flows: 4096 };
                let text = case.configuration(Path::new("/tmp/a \"dir\""), 1, "/run/netns/taps");
                let config = dray_config::parse_for("dray.toml", &text, &[0, 1]).unwrap_or_else(|e| panic!("{e}"));
                assert_eq!(config.ports.len(), (case.ports() + case.taps()) as usize);
                let running = dray_config::Running::new(config);
                for entry in case.statics() {
                    let checked = running.static_entry(&entry.bridge, entry.mac, entry.port.as_ref(), entry.vtep);
                    checked.unwrap_or_else(|e| panic!("{e}"));
                }
                let used: std::collections::HashSet<_> =
                    (0..case.flows()).map(|i| (case.bridge(i), case.vtep(i))).collect();
                let uses = match axis {
                    Axis::Bridges | Axis::Vnis | Axis::Tunnels | Axis::Decap => n,
                    _ => used.len() as u32,
                };
                assert_eq!(used.len() as u32, uses, "{axis:?} {n}");
                assert!(case.frames().len() >= 1024);
            }
        }
    }
}
