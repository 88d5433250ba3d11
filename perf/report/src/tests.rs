//! A whole report, with made-up figures, as page, text and JSON.

use super::*;
use roxmltree::{Node, ParsingOptions};

const SWITCHES: [&str; 4] = ["Dray", "testpmd io", "OVS-DPDK", "VPP"];

/// Every figure in it is made up.
fn example() -> Document {
    let mut d = Document::new("Dray and its peers");
    d.summary(
        "Made-up figures for a test. Dray reaches 1.25 times what testpmd io does between memif ports, at one and at a \
         thousand flows, and more than twice of it between vhost-user ports.",
    );
    d.fact("Date", "2026-01-01 12:00 UTC");
    d.fact("Machine", "Example CPU at 2.6 GHz, 2 cores, 24 GiB; Linux 6.18");
    d.fact("Versions", "Dray 0.1.0, DPDK 22.11.11, Open vSwitch 3.1.0, VPP 26.10");
    d.fact("Measured", "5 interleaved rounds of 1.5 s; rings of 1,024 descriptors, buffers of 2,048 bytes");
    let section = d.section("All cases");
    section.paragraph(
        "Medians of the rounds, with 95% confidence intervals; what is to be reached is a share of testpmd's.",
    );
    let head = ["Dray", "testpmd", "Dray / testpmd", "interval", "to reach"];
    let mut table = Table::new(
        "Million frames a second of one worker.",
        std::iter::once(Column::left("frames")).chain(head.map(Column::right)),
    );
    table.verdict(Tone::Good, ["memif, 60 B, 1 flow", "86.3", "48.0", "1.80", "1.77 to 1.82", "1.25"]);
    table.verdict(Tone::Good, ["memif, 60 B, 1,000 flows", "77.1", "49.6", "1.55", "1.54 to 1.57", "1.25"]);
    table.verdict(Tone::Bad, ["memif, 60 B, 1,000,000 flows", "22.2", "49.3", "0.45", "0.44 to 0.46", "0.50"]);
    table.row(["memif, 1514 B, 1,000 flows", "26.5", "13.3", "1.99", "1.95 to 2.03", ""]);
    table.verdict(Tone::Strong, ["geometric mean", "", "", "1.26", "", ""]);
    section.add(table);
    let mut bars = Bars::new("Throughput of all cases", Axis::linear("throughput", "Mpps"), SWITCHES);
    let of = |v: f64| Some(Bar::within(v, (v * 97.0).round() / 100.0, (v * 102.0).round() / 100.0));
    bars.group("memif, 60 B, 1 flow", Some(60.0), [of(86.3), of(48.0), of(12.8), of(29.8)]);
    bars.group("memif, 60 B, 1,000,000 flows", Some(24.7), [of(22.2), of(49.3), None, of(4.9)]);
    bars.group("vhost-user, 1514 B, 1,000 flows <&>", None, [of(26.6), of(9.8), of(8.4), Some(Bar::new(11.9))]);
    bars.group("VXLAN encapsulation, 60 B, 1,000 flows", Some(50.0), [of(68.2), None, None, of(18.1)]);
    section.add(bars);

    let section = d.section("Throughput by MACs");
    let mut lines = Lines::new(
        "Throughput between memif ports by MACs, 60-byte frames",
        Axis::log("MACs", ""),
        Axis::linear("throughput", "Mpps"),
    );
    let macs = [2.0, 2e3, 2e4, 2e5, 2e6];
    for (name, mpps) in SWITCHES.into_iter().zip([
        [86.3, 77.1, 65.2, 61.1, 32.2],
        [48.0, 49.6, 49.3, 49.0, 48.1],
        [12.8, 10.0, 9.1, 6.0, 4.0],
        [29.8, 25.3, 17.2, 6.5, 4.9],
    ]) {
        lines.series(
            name,
            macs.iter()
                .zip(mpps)
                .map(|(&x, y)| Point::within(x, y, (96.0 * y).round() / 100.0, (103.0 * y).round() / 100.0)),
        );
    }
    section.add(lines);

    let section = d.section("Throughput by frame size");
    let mut lines = Lines::new(
        "Throughput by frame size",
        Axis::linear("frame size", "bytes"),
        Axis::linear("throughput", "Gbit/s"),
    );
    let sizes = [60.0, 128.0, 256.0, 512.0, 1024.0, 1280.0, 1514.0];
    for (name, rate) in SWITCHES.into_iter().zip([80.0, 50.0, 12.0, 28.0]) {
        lines.series(name, sizes.map(|x| Point::new(x, (0.8 * x * rate / (1.0 + x / 600.0)).round() / 100.0)));
    }
    lines.series("Snabb", []);
    section.add(lines);

    let section = d.section("Latency by load");
    let mut lines = Lines::new("Latency percentiles by load", Axis::linear("load", "%"), Axis::log("latency", "µs"));
    for (i, name) in ["p50", "p90", "p99", "p99.9", "p99.99", "largest"].into_iter().enumerate() {
        let loads = [10.0, 25.0, 50.0, 75.0, 90.0, 99.0];
        lines.series(
            name,
            loads.map(|x| Point::new(x, ((2.0 + (i * i) as f64) / (1.02 - x / 100.0) * 10.0).round() / 10.0)),
        );
    }
    section.add(lines);

    let section = d.section("Where the time goes");
    let stages = ["receive", "parse", "VLAN", "L2 lookup", "learn", "ACL", "VXLAN encapsulation", "send", "give back"];
    let mut stacks = Stacks::new("Time of a frame by stage", Axis::linear("time of a frame", "ns"), stages);
    stacks.stack("memif, 1 flow", [3.1, 0.9, 0.2, 1.9, 0.4, 0.0, 0.0, 4.1, 0.9]);
    stacks.stack("memif, 1,000,000 flows", [3.2, 0.9, 0.2, 18.2, 2.4, 0.0, 0.0, 4.6, 0.9]);
    stacks.stack("VXLAN, 1,000 flows", [3.1, 0.9, 0.2, 2.2, 0.4, 0.5, 2.1, 4.9, 0.9]);
    section.add(stacks);
    section.listing(
        "How testpmd was started.",
        "dpdk-testpmd --lcores '0@1,1@0' --no-pci \\\n    -- --forward-mode=io <&>",
    );
    d
}

/// The page's elements, if it is well-formed.
fn parsed<T>(page: &str, look: impl FnOnce(Node) -> T) -> T {
    let tree = roxmltree::Document::parse_with_options(page, ParsingOptions { allow_dtd: true, ..Default::default() });
    look(tree.unwrap().root_element())
}

/// How many elements have this name.
fn count(root: Node, name: &str) -> usize {
    root.descendants().filter(|n| n.has_tag_name(name)).count()
}

#[test]
fn the_page_is_whole() {
    let page = example().html().unwrap();
    parsed(&page, |root| {
        // Each chart for wide and for narrow windows.
        let charts =
            [("h1", 1), ("h2", 5), ("table", 1), ("figure", 6), ("svg", 10), ("script", 0), ("link", 0), ("img", 0)];
        for (name, n) in charts {
            assert_eq!(count(root, name), n, "{name}");
        }
        let mut ids: Vec<_> = root.descendants().filter_map(|n| n.attribute("id")).collect();
        let all = ids.len();
        ids.sort();
        ids.dedup();
        assert_eq!(ids.len(), all, "ids are unique");
        for svg in root.descendants().filter(|n| n.has_tag_name("svg")) {
            for id in svg.attribute("aria-labelledby").unwrap().split(' ') {
                assert!(ids.binary_search(&id).is_ok(), "{id}");
            }
        }
        for used in root.descendants().filter_map(|n| n.attribute("fill")) {
            let id = used.strip_prefix("url(#").and_then(|u| u.strip_suffix(')')).unwrap();
            assert!(ids.binary_search(&id).is_ok(), "{id}");
        }
    });
    // Nothing outside: the only addresses are names of XML.
    let addresses = page.matches("://").count();
    assert_eq!(addresses, page.matches("xmlns=\"http://www.w3.org/").count());
    assert!(!page.contains("@import") && !page.contains("NaN") && !page.contains("inf "));
}

#[test]
fn marks_lie_within_their_charts() {
    let page = example().html().unwrap();
    parsed(&page, |root| {
        for svg in root.descendants().filter(|n| n.has_tag_name("svg")) {
            let size: Vec<f64> = svg.attribute("viewBox").unwrap().split(' ').map(|n| n.parse().unwrap()).collect();
            for n in svg.descendants() {
                for (name, most) in
                    [("x", size[2]), ("x1", size[2]), ("cx", size[2]), ("y", size[3]), ("y2", size[3]), ("cy", size[3])]
                {
                    if let Some(v) = n.attribute(name) {
                        let v: f64 = v.parse().unwrap();
                        assert!((0.0..=most).contains(&v), "{name} {v} of {n:?}");
                    }
                }
            }
        }
    });
}

#[test]
fn what_is_pointed_at_says_its_figures() {
    let page = example().html().unwrap();
    let tips: Vec<String> = parsed(&page, |root| {
        let titles = root.descendants().filter(|n| n.has_tag_name("title"));
        titles.filter_map(|n| n.text().map(Into::into)).collect()
    });
    for tip in [
        "Dray, 2,000,000: 32.2 (30.9 to 33.2) Mpps",
        "p99, 50 %: 11.5 µs",
        "VPP, memif, 60 B, 1,000,000 flows: 4.90 (4.75 to 5.00) Mpps, to reach 24.7",
        "L2 lookup, memif, 1,000,000 flows: 18.2 ns (60 %)",
    ] {
        assert_eq!(tips.iter().filter(|t| *t == tip).count(), 2, "{tip}");
    }
}

#[test]
fn everything_is_escaped() {
    let evil = "<script>\"&'\u{1b}[0m</title>]]>";
    let mut d = Document::new(evil);
    d.summary(evil);
    d.fact(evil, evil);
    let s = d.section(evil);
    s.paragraph(evil);
    s.listing(evil, evil);
    let mut table = Table::new(evil, [Column::left(evil)]);
    table.row([evil]);
    s.add(table);
    let mut lines = Lines::new(evil, Axis::linear(evil, evil), Axis::linear(evil, evil));
    lines.series(evil, [Point::new(1.0, 1.0)]);
    s.add(lines);
    let mut bars = Bars::new(evil, Axis::linear(evil, evil), [evil]);
    bars.group(evil, Some(1.0), [Some(Bar::new(1.0))]);
    s.add(bars);
    let mut stacks = Stacks::new(evil, Axis::linear(evil, evil), [evil]);
    stacks.stack(evil, [1.0]);
    s.add(stacks);
    let page = d.html().unwrap();
    assert!(!page.contains("<script") && !page.contains('\u{1b}'));
    parsed(&page, |root| {
        let heading = root.descendants().find(|n| n.has_tag_name("h1")).unwrap();
        assert_eq!(heading.text(), Some("<script>\"&'\u{fffd}[0m</title>]]>"));
    });
    assert!(!d.text().unwrap().contains('\u{1b}'));
}

#[test]
fn empty_charts_are_shown() {
    let mut d = Document::new("Nothing");
    let s = d.section("Nothing");
    s.add(Table::new("", []));
    s.add(Lines::new("none", Axis::log("x", ""), Axis::log("y", "")));
    let mut lines = Lines::new("no points", Axis::linear("x", ""), Axis::linear("y", ""));
    lines.series("a", []);
    s.add(lines);
    let mut zero = Lines::new("one point", Axis::linear("x", ""), Axis::linear("y", ""));
    zero.series("a", [Point::new(0.0, 0.0)]);
    s.add(zero);
    s.add(Bars::new::<String>("none", Axis::linear("y", ""), []));
    let mut bars = Bars::new("zero", Axis::linear("y", ""), ["a", "b"]);
    bars.group("case", Some(0.0), [Some(Bar::new(0.0)), None]);
    s.add(bars);
    let mut stacks = Stacks::new("zero", Axis::linear("y", ""), ["a"]);
    stacks.stack("case", [0.0]);
    s.add(stacks);
    let page = d.html().unwrap();
    assert!(!page.contains("NaN") && !page.contains("inf"), "{page}");
    assert_eq!(page.matches(">nothing measured<").count(), 4);
    let text = d.text().unwrap();
    assert!(text.contains("a: nothing measured") && text.contains("b not measured"), "{text}");
}

#[test]
fn what_cannot_be_shown_is_refused() {
    let lines = |x, y, points: Vec<Point>| {
        let mut lines = Lines::new("rates", x, y);
        lines.series("Dray", points);
        Block::from(lines)
    };
    let linear = || Axis::linear("rate", "Mpps");
    let log = || Axis::log("MACs", "");
    let bar = |target, bar| {
        let mut bars = Bars::new("rates", linear(), ["Dray"]);
        bars.group("60 B", target, [Some(bar)]);
        Block::from(bars)
    };
    let mut narrow = Table::new("rates", [Column::left("a"), Column::left("b")]);
    narrow.row(["1"]);
    let mut few = Bars::new("rates", linear(), ["Dray", "VPP"]);
    few.group("60 B", None, [None]);
    let mut parts = Stacks::new("rates", linear(), ["a"]);
    parts.stack("60 B", [1.0, 2.0]);
    let mut negative = Stacks::new("rates", linear(), ["a"]);
    negative.stack("60 B", [-1.0]);
    for (block, expected) in [
        (
            lines(linear(), linear(), vec![Point::new(1.0, f64::NAN)]),
            "chart \"rates\", Dray: rate of NaN, which is no figure",
        ),
        (
            lines(log(), linear(), vec![Point::new(f64::INFINITY, 1.0)]),
            "chart \"rates\", Dray: MACs of inf, which is no figure",
        ),
        (
            lines(log(), linear(), vec![Point::new(0.0, 1.0)]),
            "chart \"rates\", Dray: MACs of 0e0 on a logarithmic axis, which begins above 0",
        ),
        (
            lines(log(), linear(), vec![Point::within(1.0, 1.0, f64::NAN, 2.0)]),
            "chart \"rates\", Dray: rate of NaN, which is no figure",
        ),
        (
            lines(log(), linear(), vec![Point::within(1.0, 1.0, 2.0, 3.0)]),
            "chart \"rates\", Dray: 1 is not between 2 and 3",
        ),
        (
            lines(log(), linear(), vec![Point::new(2.0, 1.0), Point::new(1.0, 1.0)]),
            "chart \"rates\", Dray: points are not in the order of MACs",
        ),
        (bar(None, Bar::new(-1.0)), "chart \"rates\", 60 B: rate of -1, which is below 0"),
        (bar(Some(f64::NAN), Bar::new(1.0)), "chart \"rates\", 60 B: rate of NaN, which is no figure"),
        (bar(None, Bar::within(1.0, 1.5, 2.0)), "chart \"rates\", 60 B: 1 is not between 1.5 and 2"),
        (narrow.into(), "table \"rates\": a row has 1 cells for 2 columns"),
        (few.into(), "chart \"rates\", 60 B: 1 bars for 2 series"),
        (parts.into(), "chart \"rates\", 60 B: 2 values for 1 parts"),
        (negative.into(), "chart \"rates\", 60 B: rate of -1, which is below 0"),
        (
            Bars::new("rates", log(), ["Dray"]).into(),
            "chart \"rates\": bars begin at zero, which a logarithmic axis does not have",
        ),
    ] {
        let mut d = Document::new("refused");
        d.section("refused").add(block);
        assert_eq!(d.html(), Err(expected.into()));
        assert_eq!(d.text(), Err(expected.into()));
    }
}

#[test]
fn json_and_back() {
    let document = example();
    let json = serde_json::to_string(&document).unwrap();
    assert_eq!(serde_json::from_str::<Document>(&json).unwrap(), document);
    assert!(json.contains(
        r#"{"bars":{"title":"Throughput of all cases","y":{"label":"throughput","unit":"Mpps","scale":"linear"}"#
    ));
}

#[test]
fn text_fits_the_terminal() {
    let text = example().text().unwrap();
    for line in text.lines() {
        assert!(line.chars().count() <= 100, "{line}");
    }
    let expected = "
  frames                        Dray  testpmd  Dray / testpmd      interval  to reach
  ────────────────────────────  ────  ───────  ──────────────  ────────────  ────────
✓ memif, 60 B, 1 flow           86.3     48.0            1.80  1.77 to 1.82      1.25
✓ memif, 60 B, 1,000 flows      77.1     49.6            1.55  1.54 to 1.57      1.25
✗ memif, 60 B, 1,000,000 flows  22.2     49.3            0.45  0.44 to 0.46      0.50
  memif, 1514 B, 1,000 flows    26.5     13.3            1.99  1.95 to 2.03
▸ geometric mean                                         1.26
";
    assert!(text.contains(expected), "{text}");
    let expected = "
Figure 1. Throughput of all cases (throughput, Mpps)

memif, 60 B, 1 flow (to reach, │: 60.0)
";
    assert!(text.contains(expected), "{text}");
    let expected = "
memif, 60 B, 1,000,000 flows (to reach, │: 24.7)
  Dray       ██████████▎│                             22.2 (21.5 to 22.6)
  testpmd io ███████████│██████████▉                  49.3 (47.8 to 50.3)
  OVS-DPDK   not measured
  VPP        ██▎        │                             4.90 (4.75 to 5.00)
";
    assert!(text.contains(expected), "{text}");
    let expected = "
     MACs             throughput, Mpps
        2  Dray       ████████████████████████████████████████ 86.3 (82.8 to 88.9)
           testpmd io ██████████████████████▎                  48.0 (46.1 to 49.4)
";
    assert!(text.contains(expected), "{text}");
    let expected = "
load, %          latency, µs, bars on a logarithmic scale
     10  p50     ███████████▏                             2.20
";
    assert!(text.contains(expected), "{text}");
    let expected = "
memif, 1 flow: 11.5 ns
  receive             ████▏                                    3.10 (27 %)
  parse                   █▎                                   0.900 (8 %)
";
    assert!(text.contains(expected), "{text}");
}

#[test]
fn bars_leave_room_for_names_and_figures() {
    let mut d = Document::new("Long names");
    let (x, y) = (Axis::linear("a quantity with a very long name", "bytes"), Axis::linear("rate", "Mpps"));
    let mut lines = Lines::new("rates", x, y);
    lines.series("a switch with a very long name", [Point::within(123_456_789_000.0, 123_456.7, 123_455.1, 123_457.9)]);
    d.section("Long").add(lines);
    let text = d.text().unwrap();
    assert!(text.lines().all(|line| line.chars().count() <= 100), "{text}");
    let expected = "
a quantity with a very …                           rate, Mpps
         123,456,789,000  a switch with a very lo… ";
    assert!(text.contains(expected) && text.contains("█ 123,457 (123,455 to 123,458)\n"), "{text}");
}

#[test]
fn long_cells_are_wrapped() {
    let mut d = Document::new("Long");
    let mut table = Table::new("", [Column::left("what"), Column::right("figure")]);
    table.row(["word ".repeat(40), "1".repeat(12)]);
    table.row(["x".repeat(300), "2".into()]);
    d.section("Long").add(table);
    let text = d.text().unwrap();
    assert!(text.lines().all(|line| line.chars().count() <= 100), "{text}");
    assert_eq!(text.matches('x').count(), 300);
    assert_eq!(text.matches("word").count(), 40);
}
