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
    (
        "[[port]]\nname = \"v\"\nkind = \"vhost-user\"\nsocket = \"/s\"\n[[port]]\nname = \"w\"\nkind = \"vhost-user\"\nsocket = \"/s\"\n",
        "8:10",
        &["\"v\"", "\"w\"", ":4:10"],
    ),
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

/// A vhost-user server finds something in its place: it says what, removes nothing, and the switch goes on as it was.
#[test]
fn a_vhost_user_server_takes_nobody_s_place() {
    let Some(test) = Test::begin() else { return };
    let vm = |name: &str| {
        format!("[[port]]\nname = {name:?}\nkind = \"vhost-user\"\nrole = \"server\"\nsocket = \"DIR/{name}.sock\"\n")
    };
    let drayd = Drayd::start(&test, &(GOOD.to_owned() + &vm("old")));
    let before = drayd.dray("config show");
    let _taken = std::os::unix::net::UnixListener::bind(test.path("taken.sock")).unwrap();
    std::fs::write(test.path("file.sock"), "precious").unwrap();
    for (name, why) in [("taken", "a running process is using it"), ("file", "not a socket")] {
        let text = GOOD.to_owned() + &vm("new") + &vm(name) + "[control]\nsocket = \"DIR/dray.sock\"\n";
        let file = test.file("bad.toml", &text);
        let message = drayd.refused(&format!("config apply {}", file.display()), 1);
        assert!(message.contains(name) && message.contains(why) && message.contains(":14:10: "), "{message}");
        let socket = test.path(&format!("{name}.sock"));
        let message = drayd
            .refused(&format!("port add --name v --kind vhost-user --role server --socket {}", socket.display()), 1);
        assert!(message.contains(why), "{message}");
        assert!(socket.exists());
    }
    // A port that has to be closed to try is opened again.
    let text =
        GOOD.to_owned() + &vm("taken").replace("\"taken\"", "\"old\"") + "[control]\nsocket = \"DIR/dray.sock\"\n";
    let file = test.file("bad.toml", &text);
    drayd.refused(&format!("config apply {}", file.display()), 1);
    assert_eq!(drayd.port("old").reason.as_deref(), Some("no front end has connected"));
    assert_eq!(std::fs::read_to_string(test.path("file.sock")).unwrap(), "precious");
    // What was opened before the other failed is closed again, and what should have gone is still there.
    assert!(!test.path("new.sock").exists());
    assert!(test.path("old.sock").exists());
    assert_eq!(drayd.dray("config show"), before);
    drayd.finish();
}
