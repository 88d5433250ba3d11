//! Whatever bytes a configuration file is made of, there is an answer: no panic, no hang.

use dray_config::{EXAMPLE, parse_for, plan, render};

/// SplitMix64 (Steele et al. 2014): the same mutations on every run.
struct Random(u64);

impl Random {
    /// A number below `n`.
    fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) % n.max(1) as u64) as usize
    }

    fn range(&mut self, len: usize) -> std::ops::Range<usize> {
        let (a, b) = (self.below(len + 1), self.below(40));
        a..(a + b).min(len)
    }
}

const BYTES: &[u8] = b"\0\t\n\r \"#',-.0189:=@AZ[\\]_az{}\x7f\x80\xc3\xff";
const PIECES: &[&str] = &[
    "[[port]]",
    "[[bridge]]",
    "[vxlan]",
    "[fdb]",
    "[control]",
    "[[worker]]",
    "\"web\"",
    "\"trunk\"",
    "\"uplink\"",
    "99999999999999999999",
    "-1",
    "0",
    "4095",
    "\"\"",
    "\"10.9.0.1\"",
    "\"::1\"",
    "vlan = 10",
    "{ port = \"web\" }",
    "\"eth\"",
    "\"memif\"",
    "\"vhost-user\"",
    "'''",
    "\"\"\"",
    "inf",
    "1979-05-27",
    "true",
    "[[[[[[[[[[[[[[[[",
    "{{{{",
    "mtu",
    "\u{feff}",
    "日本",
];

fn mutate(random: &mut Random, text: &str) -> Vec<u8> {
    let mut bytes = text.as_bytes().to_vec();
    for _ in 0..1 + random.below(4) {
        let at = random.below(bytes.len() + 1);
        match random.below(8) {
            0 if at < bytes.len() => bytes[at] = BYTES[random.below(BYTES.len())],
            1 => bytes.insert(at, BYTES[random.below(BYTES.len())]),
            2 => drop(bytes.drain(random.range(bytes.len()))),
            3 => {
                let copy = bytes[random.range(bytes.len())].to_vec();
                bytes.splice(at..at, copy);
            }
            4 => {
                let piece = PIECES[random.below(PIECES.len())];
                bytes.splice(at..at, piece.bytes());
            }
            5 => {
                // In place of another value, so that the file stays TOML.
                let value = bytes[at..].iter().position(|b| *b == b'=').map(|i| at + i + 1);
                if let Some(start) = value {
                    let end = bytes[start..].iter().position(|b| *b == b'\n').map_or(bytes.len(), |i| start + i);
                    let piece = PIECES[random.below(PIECES.len())];
                    bytes.splice(start..end, piece.bytes());
                }
            }
            _ => {
                let mut lines: Vec<Vec<u8>> = bytes.split(|b| *b == b'\n').map(<[u8]>::to_vec).collect();
                let (a, b) = (random.below(lines.len()), random.below(lines.len()));
                match random.below(3) {
                    0 => lines.swap(a, b),
                    1 => drop(lines.remove(a)),
                    _ => lines.insert(b, lines[a].clone()),
                }
                bytes = lines.join(&b'\n');
            }
        }
    }
    bytes
}

#[test]
fn mutated_configurations() {
    let base = parse_for("example.toml", EXAMPLE, &[]).unwrap();
    let mut random = Random(1);
    let (mut right, mut wrong) = (0, 0);
    for _ in 0..50_000 {
        let bytes = mutate(&mut random, EXAMPLE);
        let text = String::from_utf8_lossy(&bytes);
        match parse_for("fuzz.toml", &text, &[]) {
            Ok(config) => {
                right += 1;
                let rendered = render(&config);
                assert_eq!(parse_for("rendered", &rendered, &[]).as_ref(), Ok(&config), "{text}");
                assert_eq!(plan(&config, &config), vec![]);
                let actions = plan(&base, &config);
                actions.iter().for_each(|action| assert_eq!(action.to_string().lines().count(), 1));
            }
            Err(errors) => {
                wrong += 1;
                assert!(errors.to_string().starts_with("error: fuzz.toml:"));
                let lines = text.matches('\n').count() + 1;
                for error in &errors.errors {
                    assert!((1..=lines).contains(&error.place.line) && error.place.column >= 1);
                    assert!(error.place.span.end <= text.len());
                }
            }
        }
    }
    assert!(right > 1000 && wrong > 1000, "the mutations are too tame or too wild: {right} right, {wrong} wrong");
}

#[test]
fn large_files_are_read_in_time() {
    // A megabyte of each: what a request can carry.
    let many = |piece: &str| piece.repeat((1 << 20) / piece.len());
    let start = std::time::Instant::now();
    for text in [
        many("["),
        many("a."),
        many("{a="),
        many("[[port]]\n"),
        many("[[bridge]]\nports = [\"x\"]\n"),
        many("x = \"\n"),
        format!("[[bridge]]\nname = \"b\"\nports = [{}]", many("\"unknown\",")),
        format!("[[bridge]]\nname = \"b\"\npeers = [{}]", many("\"10.0.0.1\",")),
        format!("[fdb]\n{}", (0..80_000).map(|i| format!("key{i} = 1\n")).collect::<String>()),
        format!("[[port]]\nname = \"{}\"\n{} = 1", many("x"), many("y")),
        format!("# {}\n[[port]]", many("x")),
    ] {
        assert!(parse_for("large.toml", &text, &[]).is_err());
    }
    assert!(start.elapsed().as_secs() < 60, "{:?}", start.elapsed());
}
