//! The picture at the end: who could reach whom, what went through which port, and the topology with rates on its links.

use super::hosts::{HOSTS, KERNEL, KERNEL_VTEP, STATIONS, VNI};
use super::progress::Style;
use dray_api::PortInfo;
use std::collections::BTreeMap;

/// What the demo has found out.
#[derive(Debug, Default)]
pub struct Findings {
    /// Median round-trip time in microseconds by sender and receiver (indices of [`STATIONS`]); none if nothing came back.
    pub rtts: BTreeMap<(usize, usize), Option<f64>>,
    /// The ports of each host at the end.
    pub ports: Vec<(&'static str, Vec<PortInfo>)>,
    /// Highest rate of a step by host and port, bits a second in the busier direction.
    pub rates: BTreeMap<(String, String), f64>,
    /// Sentences about files and throughput.
    pub remarks: Vec<String>,
}

/// All of it, at most 100 columns wide, each line ended.
pub fn draw(findings: &Findings, colours: bool) -> String {
    let mut all = String::from("\n");
    all += &matrix(findings, colours);
    all += "\n";
    all += &ports(findings, colours);
    all += "\n";
    all += &topology(findings, colours);
    for remark in &findings.remarks {
        all += &format!("  {remark}\n");
    }
    all
}

/// A figure with three digits and a decimal prefix.
pub fn si(value: f64, unit: &str) -> String {
    let (scaled, prefix) = match value {
        v if v >= 1e9 => (v / 1e9, "G"),
        v if v >= 1e6 => (v / 1e6, "M"),
        v if v >= 1e3 => (v / 1e3, "k"),
        v => (v, ""),
    };
    let digits = if scaled >= 100.0 || prefix.is_empty() { 0 } else { 1 + usize::from(scaled < 10.0) };
    format!("{scaled:.digits$} {prefix}{unit}")
}

fn matrix(findings: &Findings, colours: bool) -> String {
    let mut all = Style::Bold.paint(format!("  {:<24}", "ping, median ms"), colours);
    for to in &STATIONS {
        all += &Style::Bold.paint(format!("{:>10}", format!("to {}", to.name)), colours);
    }
    all.push('\n');
    for (i, from) in STATIONS.iter().enumerate() {
        all += &format!("  {:<24}", format!("from {} {:<5} {}", from.name, from.kind.label(), from.ip));
        for j in 0..STATIONS.len() {
            let (text, style) = match findings.rtts.get(&(i, j)) {
                None => ("·".into(), Style::Dim),
                Some(None) => ("lost".into(), Style::Bad),
                Some(Some(us)) => (format!("{:.2}", us / 1000.0), Style::Figure),
            };
            all += &style.paint(format!("{text:>10}"), colours);
        }
        all.push('\n');
    }
    all
}

fn ports(findings: &Findings, colours: bool) -> String {
    let head = format!(
        "  {:<5}{:<8}{:<7}{:<5}{:>12}{:>12}{:>11}{:>11}  {}",
        "host", "port", "kind", "link", "rx packets", "tx packets", "rx", "tx", "drops"
    );
    let mut all = Style::Bold.paint(head, colours) + "\n";
    for (host, ports) in &findings.ports {
        for port in ports {
            let dropped: u64 = port.drops.values().sum();
            let mut reasons: Vec<(&String, &u64)> = port.drops.iter().collect();
            reasons.sort_by_key(|(_, n)| std::cmp::Reverse(**n));
            let drops = match reasons.first() {
                None => "0".into(),
                Some((reason, _)) => format!("{dropped} {reason}"),
            };
            let style = if port.link == "up" { Style::Good } else { Style::Bad };
            all += &format!("  {host:<5}{:<8}{:<7}", port.name, port.kind);
            all += &style.paint(format!("{:<5}", port.link), colours);
            all += &format!("{:>12}{:>12}", port.rx_packets, port.tx_packets);
            all += &format!("{:>11}{:>11}  ", si(port.rx_bytes as f64, "B"), si(port.tx_bytes as f64, "B"));
            all += &drops.chars().take(25).collect::<String>();
            all.push('\n');
        }
    }
    all
}

const WIDTH: usize = 100;
const HEIGHT: usize = 16;

/// A grid of characters to draw on.
struct Canvas(Vec<Vec<(char, Style)>>);

impl Canvas {
    fn put(&mut self, x: usize, y: usize, text: &str, style: Style) {
        for (cell, c) in self.0[y][x..].iter_mut().zip(text.chars()) {
            *cell = (c, style);
        }
    }

    /// Puts `text` with its middle at `x`.
    fn centre(&mut self, x: usize, y: usize, text: &str, style: Style) {
        self.put(x.saturating_sub(text.chars().count() / 2), y, text, style);
    }

    /// A box from column `x` and row `y`, `w` columns and `h` rows with its frame.
    fn frame(&mut self, x: usize, y: usize, w: usize, h: usize) {
        let line = "─".repeat(w - 2);
        self.put(x, y, &format!("┌{line}┐"), Style::Dim);
        for row in y + 1..y + h - 1 {
            self.put(x, row, "│", Style::Dim);
            self.put(x + w - 1, row, "│", Style::Dim);
        }
        self.put(x, y + h - 1, &format!("└{line}┘"), Style::Dim);
    }

    /// A vertical line from a box's lower edge in row `from` to another's upper edge in row `to`, with a rate (bits a second) on it.
    fn link(&mut self, x: usize, from: usize, to: usize, rate: Option<f64>) {
        self.put(x, from, "┬", Style::Dim);
        for row in from + 1..to {
            self.put(x, row, "│", Style::Dim);
        }
        self.put(x, to, "┴", Style::Dim);
        if let Some(rate) = rate {
            self.put(x + 2, from + 1, &si(rate, "").replace(' ', ""), Style::Figure);
        }
    }

    fn text(&self, colours: bool) -> String {
        let mut all = String::new();
        for row in &self.0 {
            let end = row.iter().rposition(|(c, _)| *c != ' ').map_or(0, |i| i + 1);
            let mut style = Style::Plain;
            for &(c, now) in &row[..end] {
                if colours && now != style {
                    all += Style::Plain.code();
                    all += now.code();
                }
                style = now;
                all.push(c);
            }
            if colours && style != Style::Plain {
                all += Style::Plain.code();
            }
            all.push('\n');
        }
        all
    }
}

fn topology(findings: &Findings, colours: bool) -> String {
    let mut c = Canvas(vec![vec![(' ', Style::Plain); WIDTH]; HEIGHT]);
    let rate = |host: &str, port: &str| findings.rates.get(&(host.into(), port.into())).copied();
    // Left edge and width of each host, and the middles of what is in it.
    let hosts = [("a", 2, 51, vec![9, 21, 33, 45]), ("b", 54, 27, vec![61, 73]), ("k", 82, 18, vec![])];
    for (host, x, w, middles) in &hosts {
        c.frame(*x, 0, *w, 12);
        c.put(x + 2, 0, &format!(" host {host} "), Style::Bold);
        let middle = x + (w - 1) / 2;
        let vtep = HOSTS.iter().find(|h| h.name == *host).map_or(KERNEL_VTEP, |h| h.vtep);
        if *host == "k" {
            c.centre(middle, 2, "the kernel", Style::Bold);
            c.centre(middle, 3, &KERNEL.ip.to_string(), Style::Plain);
            c.frame(x + 2, 6, w - 4, 4);
            c.centre(middle, 7, &format!("vx{VNI}"), Style::Bold);
            c.centre(middle, 8, "Linux vxlan", Style::Plain);
        } else {
            c.frame(x + 2, 6, w - 4, 4);
            c.centre(middle, 7, "dray", Style::Bold);
            c.centre(middle, 8, &format!("bridge blue VNI {VNI}"), Style::Plain);
            for (station, &x) in STATIONS.iter().filter(|s| s.host == *host).zip(middles) {
                c.frame(x - 5, 1, 11, 4);
                c.centre(x, 2, &format!("{} {}", station.name, station.kind.label()), Style::Bold);
                c.centre(x, 3, &station.ip.to_string(), Style::Plain);
                c.link(x, 4, 6, rate(host, &station.port()));
            }
        }
        let port = if *host == KERNEL.host { KERNEL.port() } else { "uplink".into() };
        c.link(middle, 9, 13, rate(host, &port));
        c.put(middle, 11, "┼", Style::Dim);
        c.put(middle + 2, 12, &vtep.to_string(), Style::Plain);
    }
    c.put(2, 13, &"═".repeat(WIDTH - 2), Style::Dim);
    for (_, x, w, _) in &hosts {
        c.put(x + (w - 1) / 2, 13, "╧", Style::Dim);
    }
    c.put(
        2,
        14,
        &format!("underlay with the VTEPs' addresses; VXLAN, VNI {VNI}; highest bit/s of a step, busier direction"),
        Style::Plain,
    );
    c.text(colours)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn findings() -> Findings {
        let mut findings = Findings::default();
        for i in 0..7 {
            for j in (0..7).filter(|&j| j != i) {
                findings.rtts.insert((i, j), (i != 4).then_some(210.0));
            }
        }
        let drops = [("encap.too_big_for_the_underlay_mtu".to_string(), 12)].into();
        let port =
            PortInfo { name: "uplink".into(), kind: "eth".into(), link: "up".into(), drops, ..PortInfo::default() };
        let port = PortInfo { rx_packets: 123_456_789_012, tx_bytes: 999_999_999_999, ..port };
        findings.ports = vec![("a", vec![port])];
        findings.rates.insert(("a".into(), "a1".into()), 12.3e9);
        findings.rates.insert(("a".into(), "a3.eth0".into()), 4.56e9);
        findings.rates.insert(("k".into(), "vx".into()), 512e6);
        findings.remarks.push("done".into());
        findings
    }

    #[test]
    fn it_fits_a_terminal_of_100_columns() {
        let text = draw(&findings(), false);
        assert!(text.lines().all(|line| line.chars().count() <= 100), "{text}");
        assert!(!text.contains('\x1b'));
        for part in [
            "from b1 memif 10.1.0.21       lost",
            "from a3 tap   10.1.0.13       0.21",
            "│ 12.3G ",
            "│ 4.56G ",
            "│ 512M ",
            "│ 10.9.0.3",
            "12 encap.too_big",
        ] {
            assert!(text.contains(part), "{part}\n{text}");
        }
    }

    #[test]
    fn colours_change_nothing_but_colours() {
        let mut coloured = draw(&findings(), true);
        while let Some(start) = coloured.find('\x1b') {
            let end = coloured[start..].find('m').unwrap() + start;
            coloured.replace_range(start..=end, "");
        }
        assert_eq!(coloured, draw(&findings(), false));
    }

    #[test]
    fn figures_have_prefixes() {
        let all = [(0.0, "0 B"), (999.0, "999 B"), (1000.0, "1.00 kB"), (12_345_678.0, "12.3 MB"), (1.5e11, "150 GB")];
        for (value, text) in all {
            assert_eq!(si(value, "B"), text);
        }
    }
}
