//! The page `docs/configuration.md`, made from the schema.

use crate::schema::{DefaultValue, KINDS, Key, SECTIONS, Takes};
use std::fmt::Write;

/// A complete configuration file, as the reference page shows it.
pub const EXAMPLE: &str = include_str!("../example.toml");

/// The reference page of the configuration file, in Markdown.
pub fn reference() -> String {
    let mut page = format!(
        "# The configuration file

<!-- Made by `cargo run -p dray-config --example reference > docs/configuration.md`; do not edit. -->

`drayd --config FILE` runs a file, `drayd --check --config FILE` only checks it. The file is
[TOML](https://toml.io). Unknown keys are refused, and every error is shown with its line and what would be right:

```text
{}
```

`dray config diff FILE` shows what a changed file would change, and `dray config apply FILE` changes it while packets
flow: what is the same in both files is not touched. `dray config show` prints the running configuration, and
`dray config save` writes it into this file, or another one, whose comments and order stay.

## A complete example

```toml
{EXAMPLE}```

## Keys

A key without a default must be given. *Change* says what it takes to give a key another value with `dray config apply` and the
like: *live*, packets and links go on; *reopens*, the port is closed and opened anew, and its peer connects again; *restart*, `drayd`
has to be restarted.
",
        crate::parse_for("dray.toml", WRONG, &[0]).expect_err("it is wrong on purpose")
    );
    for section in SECTIONS {
        let header = match section.header {
            table if table.starts_with('[') => format!("`{table}`"),
            words => words.to_string(),
        };
        let _ = write!(page, "\n### {header}\n\n{}\n\n", section.meaning);
        rows(&mut page, section.keys.iter().filter(|key| key.kind.is_none()));
        for kind in KINDS {
            let mut keys = section.keys.iter().filter(|key| key.kind == Some(*kind)).peekable();
            if keys.peek().is_some() {
                let _ = write!(page, "\n#### `kind = \"{kind}\"`\n\n");
                rows(&mut page, keys);
            }
        }
    }
    page
}

/// A table of keys.
fn rows<'a>(page: &mut String, keys: impl Iterator<Item = &'a Key>) {
    page.push_str("| Key | Type | Value | Default | Change | Meaning |\n|---|---|---|---|---|---|\n");
    for key in keys {
        let default = match &key.default {
            DefaultValue::Required => String::new(),
            DefaultValue::Toml(value) => format!("`{value}`"),
            DefaultValue::Words(words) => (*words).to_string(),
        };
        let takes = match key.takes {
            Takes::Live => "live".into(),
            Takes::Reopen => "reopens".into(),
            Takes::ReopenOf(kind) => format!("live; reopens `{kind}`"),
            Takes::Restart => "restart".into(),
        };
        let (name, kind, range, unit) = (key.name, key.value.type_name(), key.value.range(), key.unit);
        let range = if unit.is_empty() { range } else { format!("{range} {unit}") };
        let _ = writeln!(page, "| `{name}` | {kind} | {range} | {default} | {takes} | {} |", key.meaning);
    }
}

/// The page's example of an error.
const WRONG: &str =
    "[[port]]\nname = \"web\"\nkind = \"memif\"\nsocket = \"/run/dray/web/memif.sock\"\nring_size = 1024\n";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schema::{MEMBER, Section};
    use crate::{allowed_cpus, parse_for};
    use std::path::Path;

    #[test]
    fn page_is_up_to_date() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/configuration.md");
        let page = std::fs::read_to_string(&path).unwrap_or_default();
        assert!(
            page == reference(),
            "docs/configuration.md differs from the schema: \
             cargo run -p dray-config --example reference > docs/configuration.md"
        );
    }

    #[test]
    fn example_is_right_and_uses_every_table() {
        let config = parse_for("example.toml", EXAMPLE, &[0, 1]).unwrap_or_else(|errors| panic!("{errors}"));
        assert_eq!((config.ports.len(), config.bridges.len(), config.workers.len()), (5, 2, 1));
        for Section { header, .. } in SECTIONS.iter().filter(|section| section.header.starts_with('[')) {
            assert!(EXAMPLE.contains(header), "{header}");
        }
        assert!(MEMBER.keys.iter().all(|key| EXAMPLE.contains(key.name)));
    }

    #[test]
    fn this_process_may_use_some_cpu() {
        assert!(!allowed_cpus().is_empty());
    }

    #[test]
    fn defaults_of_the_schema_are_the_readers() {
        let file = "[[port]]\nname = \"m\"\nkind = \"memif\"\nsocket = \"/m\"\n\
                    [[port]]\nname = \"v\"\nkind = \"vhost-user\"\nsocket = \"/v\"\n\
                    [[port]]\nname = \"e\"\nkind = \"eth\"\ndevice = \"net_tap0\"\n\
                    [vxlan]\nport = \"e\"\nlocal = \"10.0.0.1/8\"\n[control]\n[fdb]\n";
        let implicit = parse_for("", file, &[0]).unwrap();
        // The same with every default that is a TOML value written out.
        let mut explicit = String::new();
        for line in file.lines() {
            explicit += &format!("{line}\n");
            let (section, kind) = match line {
                "kind = \"memif\"" => ("[[port]]", Some("memif")),
                "kind = \"vhost-user\"" => ("[[port]]", Some("vhost-user")),
                "kind = \"eth\"" => ("[[port]]", Some("eth")),
                header => (header, None),
            };
            let Some(section) =
                SECTIONS.iter().find(|s| s.header == section && (kind.is_some() || s.header != "[[port]]"))
            else {
                continue;
            };
            for key in section.keys_for(kind) {
                if let DefaultValue::Toml(value) = &key.default {
                    explicit += &format!("{} = {value}\n", key.name);
                }
            }
        }
        for key in [
            "role = \"server\"",
            "role = \"client\"",
            "queues = 16",
            "ring-size = 1024",
            "ageing = 300",
            "udp-port = 4789",
            "size = 1048576",
        ] {
            assert!(explicit.contains(key), "{explicit}");
        }
        assert_eq!(parse_for("", &explicit, &[0]).unwrap_or_else(|errors| panic!("{errors}")), implicit);
    }
}
