//! Wrong configurations are refused with the line and what would be right.

use crate::harness::*;
use std::process::Command;

const GOOD: &str = "[[port]]\nname = \"a\"\nkind = \"memif\"\nsocket = \"DIR/memif.sock\"\n";

/// A wrong configuration, where its error is (`line:column`), and what the message must say.
const WRONG: &[(&str, &str, &[&str])] = &[
    (
        "[[port]]\nname = \"a\"\nkind = \"memif\"\nsocket = \"/s\"\nringsize = 512\n",
        "5:1",
        &["ringsize", "did you mean \"ring-size\""],
    ),
    (
        "[[port]]\nname = \"a\"\nkind = \"memif\"\nsocket = \"/s\"\n\n[[port]]\nname = \"a\"\nkind = \"memif\"\nsocket = \"/s\"\nid = 1\n",
        "7:8",
        &["\"a\"", ":2:8"],
    ),
    (
        "[[port]]\nname = \"a\"\nkind = \"memif\"\nsocket = \"/s\"\n[[bridge]]\nname = \"x\"\nports = [\"a\"]\n[[bridge]]\nname = \"y\"\nports = [\"a\"]\n",
        "10:10",
        &["\"a\"", "vlan", ":7:10"],
    ),
    (
        "[[port]]\nname = \"u\"\nkind = \"memif\"\nsocket = \"/s\"\n[vxlan]\nport = \"u\"\nlocal = \"10.9.0.1\"\n",
        "7:9",
        &["10.9.0.1/24"],
    ),
    ("[[port]]\nname = \"u\"\nkind = \"eth\"\n", "1:1", &["device", "PCI address"]),
];

#[test]
fn drayd_check_says_where_and_what_would_be_right() {
    let Some(test) = Test::begin() else { return };
    let check = |text: &str| {
        let file = test.file("check.toml", text);
        let output =
            Command::new(env!("CARGO_BIN_EXE_drayd")).arg("--check").arg("--config").arg(&file).output().unwrap();
        (output.status.code(), String::from_utf8(output.stderr).unwrap(), file.display().to_string())
    };
    let (status, message, _) = check(GOOD);
    assert_eq!(status, Some(0), "{message}");
    for (text, place, says) in WRONG {
        let (status, message, file) = check(text);
        assert_eq!(status, Some(2), "{message}");
        assert!(message.contains(&format!("{file}:{place}: ")), "{place} of {file} in:\n{message}");
        assert!(message.contains('^'), "{message}");
        says.iter().for_each(|what| assert!(message.contains(what), "{what:?} in:\n{message}"));
    }
    // All at once.
    let (status, message, _) =
        check("[[port]]\nname = \"a\"\nkind = \"memfi\"\n[[bridge]]\nname = \"x\"\nports = [\"b\"]\nvni = 0\n");
    assert_eq!(status, Some(2));
    assert!(message.matches("error: ").count() >= 3, "{message}");
}

#[test]
fn config_apply_refuses_the_same_and_changes_nothing() {
    let Some(test) = Test::begin() else { return };
    let drayd = Drayd::start(&test, GOOD);
    let before = drayd.dray("config show");
    for (text, place, says) in WRONG {
        let file = test.file("wrong.toml", text);
        for command in ["apply", "diff"] {
            let message = drayd.refused(&format!("config {command} {}", file.display()), 2);
            assert!(message.contains(&format!("{}:{place}: ", file.display())), "{place} in:\n{message}");
            says.iter().for_each(|what| assert!(message.contains(what), "{what:?} in:\n{message}"));
        }
    }
    assert_eq!(drayd.dray("config show"), before);
    drayd.refused("config apply /nonexistent", 2);
    drayd.refused("port show nobody", 1);
    drayd.refused("prot show", 2);
    drayd.finish();
}

/// A device that is not there is only found when it is opened: the switch that runs says why and goes on; one that starts, ends.
#[test]
fn a_missing_device_is_named() {
    let Some(test) = Test::begin() else { return };
    let bad = format!("{GOOD}[[port]]\nname = \"nic\"\nkind = \"eth\"\ndevice = \"net_af_packet0,iface=nosuch0\"\n");
    let drayd = Drayd::start(&test, GOOD);
    let file = test.file("bad.toml", &format!("{bad}[control]\nsocket = \"DIR/dray.sock\"\n"));
    let message = drayd.refused(&format!("config apply {}", file.display()), 1);
    assert!(message.contains("nic") && message.contains("nosuch0"), "{message}");
    assert_eq!(drayd.ports().len(), 1);
    drayd.finish();
}
