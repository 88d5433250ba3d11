//! The figures as a report.

use super::{Figures, Measure, Results};
use crate::stats::{Estimate, median};
use dray_report::{Column, Document, Table};

impl Measure {
    /// What it is, and its unit.
    fn words(&self) -> (String, &'static str) {
        match self {
            Measure::Tcp(congestion) => (format!("one TCP stream ({congestion})"), "Gbit/s"),
            Measure::TcpBack(congestion) => (format!("one TCP stream to the container ({congestion})"), "Gbit/s"),
            Measure::Udp => ("datagrams of 18 bytes that arrive".into(), "Mpps"),
            Measure::Ping => ("ping, round trip".into(), "us"),
        }
    }
}

/// One measurement in a line.
pub(super) fn line(figures: &Figures) -> String {
    let (what, unit) = figures.measure.words();
    let all: Vec<String> = figures.ways.iter().map(|(name, rounds)| format!("{name} {:.2}", median(rounds))).collect();
    format!("{}: {what}: {} {unit}", figures.place, all.join(", "))
}

/// All of them.
pub(super) fn document(results: &Results) -> Document {
    let mut document = Document::new("Dray: what programs with sockets get");
    document.fact("Dray", &results.dray);
    document.fact("CPU", &results.cpu);
    document.fact("Kernel", &results.kernel);
    for why in &results.absent {
        document.fact("Not measured", why);
    }
    let mut places: Vec<&str> = Vec::new();
    for figures in &results.figures {
        if !places.contains(&figures.place.as_str()) {
            places.push(&figures.place);
        }
    }
    for place in places {
        let section = document.section(format!("Between {place}"));
        section.paragraph(
            "Medians of rounds in turn, and the ratio to the kernel in the same round: its median, and the interval it lies in. The \
             other switches are stopped meanwhile. Softirq: how much of the switch's CPU that had.",
        );
        let columns = [
            Column::left("what"),
            Column::left("by"),
            Column::right("figure"),
            Column::left("unit"),
            Column::right("from"),
            Column::right("to"),
            Column::right("ratio"),
            Column::left("interval"),
            Column::right("softirq %"),
        ];
        let mut table = Table::new(place, columns);
        for figures in results.figures.iter().filter(|figures| figures.place == place) {
            let (what, unit) = figures.measure.words();
            for (i, (name, rounds)) in figures.ways.iter().enumerate() {
                let [least, most] = [f64::min, f64::max].map(|f| rounds.iter().copied().reduce(f).unwrap_or(0.0));
                let Estimate { median: ratio, low, high, .. } = figures.ratio(i);
                table.row([
                    what.clone(),
                    name.clone(),
                    format!("{:.2}", median(rounds)),
                    unit.into(),
                    format!("{least:.2}"),
                    format!("{most:.2}"),
                    format!("{ratio:.2}"),
                    format!("{low:.2} to {high:.2}"),
                    format!("{:.0}", figures.softirq[i]),
                ]);
            }
        }
        section.add(table);
    }
    document
}
