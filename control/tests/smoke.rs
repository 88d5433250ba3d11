//! The life of a drayd with two memif ports, as its user sees it. Needs neither root nor DPDK.

use dray_api::schema::{Api, fields, reference};
use dray_testing::dray_beside;
use serde_json::{Value, json};
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};
use tempfile::TempDir;

const DRAYD: &str = env!("CARGO_BIN_EXE_drayd");

/// A folder, and the drayd that runs there. Both go with it.
struct Switch {
    dir: TempDir,
    drayd: Option<Child>,
}

impl Switch {
    /// Starts drayd with `config`, in which DIR is the folder, and waits until it answers.
    fn start(config: &str) -> Switch {
        let mut switch = Switch { dir: tempfile::tempdir().unwrap(), drayd: None };
        switch.file("dray.toml", config);
        switch.again(config);
        switch
    }

    /// Starts drayd with the file that is there.
    fn again(&mut self, config: &str) {
        let switch = self;
        let file = switch.path("dray.toml");
        let log = fs::File::create(switch.path("log")).unwrap();
        let mut drayd = Command::new(DRAYD);
        // As systemd does for whom it writes into the journal.
        if config.contains("journal") {
            let meta = log.metadata().unwrap();
            drayd.env("JOURNAL_STREAM", format!("{}:{}", meta.dev(), meta.ino()));
        }
        switch.drayd = Some(drayd.arg("--config").arg(file).stderr(log).spawn().unwrap());
        let start = Instant::now();
        while !switch.command(&["status"]).output().unwrap().status.success() {
            assert!(start.elapsed() < Duration::from_secs(20), "{}", switch.log());
            sleep(Duration::from_millis(20));
        }
    }

    /// Kills it.
    fn kill(&mut self) {
        let mut drayd = self.drayd.take().unwrap();
        drayd.kill().unwrap();
        drayd.wait().unwrap();
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn file(&self, name: &str, text: &str) -> PathBuf {
        let file = self.path(name);
        fs::write(&file, text.replace("DIR", self.dir.path().to_str().unwrap())).unwrap();
        file
    }

    fn log(&self) -> String {
        fs::read_to_string(self.path("log")).unwrap()
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(dray_beside(DRAYD));
        command.arg("--socket").arg(self.path("dray.sock")).args(args).current_dir(self.dir.path());
        command
    }

    fn output(&self, args: &str) -> Output {
        self.command(&args.split(' ').collect::<Vec<_>>()).output().unwrap()
    }

    /// What `dray ARGS` prints; it must succeed.
    fn dray(&self, args: &str) -> String {
        let output = self.output(args);
        assert_eq!(output.status.code(), Some(0), "{args}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    fn json(&self, args: &str) -> Value {
        serde_json::from_str(&self.dray(&format!("{args} --json"))).unwrap()
    }

    /// The answer to a line on the control socket.
    fn exchange(&self, request: &str) -> String {
        let mut stream = UnixStream::connect(self.path("dray.sock")).unwrap();
        stream.write_all(format!("{request}\n").as_bytes()).unwrap();
        let mut line = String::new();
        BufReader::new(stream).read_line(&mut line).unwrap();
        line
    }

    /// What `dray ARGS` says when it fails with `status`.
    fn refused(&self, args: &str, status: i32) -> String {
        let output = self.output(args);
        let error = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(status), "{args}: {error}");
        assert_eq!(output.stdout, b"");
        error
    }

    fn signal(&self, name: &str) {
        let pid = self.drayd.as_ref().unwrap().id().to_string();
        assert!(Command::new("kill").args([name, &pid]).status().unwrap().success());
    }

    /// Ends it with SIGTERM. Its status.
    fn terminate(&mut self) -> Option<i32> {
        self.signal("-TERM");
        let start = Instant::now();
        let mut drayd = self.drayd.take().unwrap();
        loop {
            if let Some(status) = drayd.try_wait().unwrap() {
                return status.code();
            }
            if start.elapsed() > Duration::from_secs(5) {
                self.drayd = Some(drayd);
                panic!("drayd does not end\n{}", self.log());
            }
            sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Switch {
    fn drop(&mut self) {
        if let Some(drayd) = &mut self.drayd {
            let _ = drayd.kill();
            let _ = drayd.wait();
        }
    }
}

const TWO_PORTS: &str = r#"
[control]
socket = "DIR/dray.sock"

[fdb]
size = 65536

[[port]]
name = "web"
kind = "memif"
socket = "DIR/memif.sock"
id = 0

[[port]]
name = "db"
kind = "memif"
socket = "DIR/memif.sock"
id = 1

[[bridge]]
name = "blue"
ports = ["web", "db"]
"#;

#[test]
fn it_is_configured_asked_and_ended() {
    let mut switch = Switch::start(TWO_PORTS);
    let mode = |name: &str| fs::symlink_metadata(switch.path(name)).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode("dray.sock"), 0o660);
    assert!(switch.path("memif.sock").exists());

    // Every question has an answer, for people and for programs.
    for command in ["status", "port show", "bridge show", "fdb show", "vtep show", "worker show", "drop show"] {
        assert_ne!(switch.dray(command), "", "{command}");
        switch.json(command);
    }
    let status = switch.json("status");
    assert_eq!([&status["ports"], &status["ports_up"], &status["bridges"]], [&json!(2), &json!(0), &json!(1)]);
    let port = &switch.json("port show web")[0];
    for key in ["name", "kind", "link", "rx_packets", "rx_bytes", "tx_packets", "tx_bytes", "drops"] {
        assert!(port.get(key).is_some(), "{key}");
    }
    assert_eq!([&port["kind"], &port["link"], &port["drops"]], [&json!("memif"), &json!("down"), &json!({})]);
    assert!(switch.dray("port show").contains("web   memif  down"));
    assert!(switch.dray("port show web --connect").contains("--vdev net_memif0,role=client,id=0,socket="));

    // Commands change the running configuration, which can be shown and saved.
    switch.dray("port add --name third --kind memif --socket @dray-smoke --role client --bridge blue:7");
    switch.dray("fdb add blue 02:00:00:00:00:0a --port db");
    let entry = json!([{"bridge": "blue", "mac": "02:00:00:00:00:0a", "port": "db", "age_seconds": 0, "static": true}]);
    assert_eq!(switch.json("fdb show --bridge blue"), entry);
    switch.dray("config save saved.toml");
    let saved = fs::read_to_string(switch.path("saved.toml")).unwrap();
    assert_eq!(saved, switch.dray("config show"));
    assert!(saved.contains("name = \"third\"") && saved.contains("02:00:00:00:00:0a"));
    assert_eq!(switch.dray("config diff saved.toml"), "");
    switch.dray("fdb del blue 02:00:00:00:00:0a");
    switch.dray("port del third");
    assert_eq!(switch.json("fdb show"), json!([]));

    // What was saved is applied again: only what differs.
    assert_eq!(
        switch.dray("config apply saved.toml"),
        "+ port third: memif client @dray-smoke id 0\n\
         ~ bridge blue: +third:7, +static 02:00:00:00:00:0a at db\n"
    );
    assert_eq!(switch.dray("config apply saved.toml"), "");

    // It writes its own file, and keeps what was there; it is told of no other.
    let started = fs::read_to_string(switch.path("dray.toml")).unwrap();
    let modes = || ["dray.toml", "dray.toml~"].map(&mode);
    assert_eq!(switch.dray("config save"), format!("saved to {}\n", switch.path("dray.toml").display()));
    assert_eq!(fs::read_to_string(switch.path("dray.toml~")).unwrap(), started);
    assert_eq!(switch.dray("config diff"), "");
    assert_eq!((modes()[0], mode("saved.toml")), (0o640, 0o640));
    let path = r#"{"jsonrpc":"2.0","id":1,"method":"config.save","params":{"file":"/tmp/dray-planted"}}"#;
    assert!(switch.exchange(path).contains("-32602") && !Path::new("/tmp/dray-planted").exists());
    fs::rename(switch.path("dray.toml~"), switch.path("dray.toml")).unwrap();

    // The file that it was started with, by a signal.
    switch.signal("-HUP");
    let start = Instant::now();
    while switch.json("status")["ports"] != 2 {
        assert!(start.elapsed() < Duration::from_secs(5), "{}", switch.log());
        sleep(Duration::from_millis(20));
    }

    assert_eq!(switch.terminate(), Some(0));
    assert!(!switch.path("dray.sock").exists() && !switch.path("memif.sock").exists());
    let error = switch.refused("status", 3);
    assert!(error.contains("dray.sock") && error.contains("is drayd running? Start it with"), "{error}");
}

#[test]
fn a_stopped_drayd_is_not_reachable() {
    let mut switch = Switch::start(TWO_PORTS);
    switch.signal("-STOP");
    for command in ["status", "watch"] {
        let start = Instant::now();
        let error = switch.refused(command, 3);
        let took = start.elapsed();
        assert!(error.contains("dray.sock does not answer: drayd is stopped or stuck"), "{command}: {error}");
        assert!(took < Duration::from_secs(5), "{command}: {took:?}");
    }
    let error = |args: &str, status| serde_json::from_str::<Value>(&switch.refused(args, status)).unwrap();
    assert_eq!(error("--json drop show", 3)["error"]["data"], json!({ "code": "unreachable" }));
    switch.signal("-CONT");
    assert_eq!(switch.json("status")["ports"], 2);
    let gone = error("port del nothing --json", 1);
    assert_eq!(gone["error"]["data"], json!({ "code": "not-found", "path": "port.nothing" }));
    assert_eq!(gone["error"]["message"], "there is no port \"nothing\"");
    assert_eq!(error("--json port dell x", 2)["error"]["data"], json!({ "code": "invalid" }));
    assert_eq!(switch.terminate(), Some(0));
}

#[test]
fn secrets_are_shown_to_who_asks_for_them() {
    let switch = Switch::start(&TWO_PORTS.replace("id = 1", "id = 1\nsecret = \"battery staple\""));
    for hidden in ["config show", "port show db", "port show db --connect", "config show --json", "port show --json"] {
        assert!(!switch.dray(hidden).contains("battery"), "{hidden}");
    }
    for shown in ["config show --secrets", "port show db --connect --secrets"] {
        assert!(switch.dray(shown).contains("battery staple"), "{shown}");
    }
    // What was saved without them can't be applied by mistake, as it would cut off all peers.
    let output = switch.output("config save hidden.toml");
    let note = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success() && note.contains("--secrets writes them"), "{note}");
    let error = switch.refused("config apply hidden.toml", 2);
    assert!(error.contains("secret = \"***\": it was hidden"), "{error}");
    switch.dray("config save all.toml --secrets");
    assert_eq!(switch.dray("config diff all.toml"), "");
    switch.dray("config save");
    assert!(fs::read_to_string(switch.path("dray.toml")).unwrap().contains("battery staple"));
}

#[test]
fn a_wrong_file_is_not_reloaded_and_says_so() {
    let switch = Switch::start(TWO_PORTS);
    assert_eq!(switch.dray("config reload"), "");
    switch.file("dray.toml", &TWO_PORTS.replace("id = 1", "id = 2"));
    let change = switch.dray("config reload");
    assert!(change.starts_with("- port db\n+ port db: ") && change.ends_with("id 2\n"), "{change}");
    switch.file("dray.toml", &TWO_PORTS.replace("kind = \"memif\"", "knid = \"memif\""));
    let error = switch.refused("config reload", 2);
    assert!(error.contains("dray.toml:10:1: unknown key \"knid\""), "{error}");
    switch.file("dray.toml", &TWO_PORTS.replace("65536", "32768"));
    assert!(switch.refused("config reload", 1).contains("needs a restart of drayd"));
    assert_eq!(switch.json("status")["ports"], 2);
}

#[test]
fn what_is_wrong_is_refused_and_changes_nothing() {
    let switch = Switch::start(TWO_PORTS);
    let before = switch.dray("config show");

    switch.file("key.toml", &TWO_PORTS.replace("kind = \"memif\"", "knid = \"memif\""));
    for command in ["config apply key.toml", "config diff key.toml"] {
        let error = switch.refused(command, 2);
        assert!(error.contains("error: key.toml:10:1: ") && error.contains("^^^^"), "{error}");
    }
    switch.file("worker.toml", &TWO_PORTS.replace("65536", "32768"));
    let error = switch.refused("config apply worker.toml", 1);
    assert!(error.starts_with("error: worker.toml: [fdb]: size 65536 -> 32768: needs a restart"), "{error}");
    // A port that can't be opened, beside changes that could be made.
    switch.file("precious", "no socket");
    let more = "[[port]]\nname='c'\nkind='memif'\nsocket='DIR/new.sock'\n\
                [[port]]\nname='d'\nkind='memif'\nsocket='DIR/precious'\n[[bridge]]\nname='red'\nports=['c']\n";
    switch.file("half.toml", &(TWO_PORTS.replace("id = 1", "id = 5") + more));
    let error = switch.refused("config apply half.toml", 1);
    let place = "error: half.toml:30:8: port \"d\" can't be opened: ";
    assert!(error.starts_with(place) && error.contains("precious"), "{error}");
    assert!(!switch.path("new.sock").exists(), "what was opened is closed again");
    assert_eq!(fs::read_to_string(switch.path("precious")).unwrap(), "no socket");
    // The same when an old port must be closed first and the new one fails then.
    let taken = TWO_PORTS.replace("DIR/memif.sock", "DIR/precious");
    switch.file("taken.toml", &taken);
    switch.refused("config apply taken.toml", 1);
    assert!(switch.path("memif.sock").exists(), "what was closed is open again");
    assert_eq!(switch.json("port show db")[0]["reason"], "no peer has connected");

    assert!(switch.refused("port del wbe", 1).contains("did you mean \"web\"?"));
    assert!(switch.refused("port show nobody", 1).contains("nobody"));
    assert!(switch.refused("fdb flush --bridge nothing", 1).contains("nothing"));
    assert!(switch.refused("fdb del blue 02:00:00:00:00:0a", 1).contains("02:00:00:00:00:0a"));
    switch.refused("port add --name x --kind token-ring", 1);
    switch.refused("port sho", 2);
    switch.refused("config apply nonexistent.toml", 2);
    assert_eq!(switch.dray("config show"), before);
}

#[test]
fn a_second_one_is_refused_and_a_killed_one_replaced() {
    let mut switch = Switch::start(TWO_PORTS);
    let file = switch.path("dray.toml");
    let second = Command::new(DRAYD).arg("--config").arg(&file).output().unwrap();
    assert_eq!(second.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&second.stderr).contains("dray.sock: a running process is using it"));
    assert_eq!(switch.json("status")["ports"], 2);

    // A crash leaves sockets behind. They are no obstacle.
    let drayd = switch.drayd.as_mut().unwrap();
    drayd.kill().unwrap();
    drayd.wait().unwrap();
    assert!(switch.path("dray.sock").exists());
    switch.drayd = Some(Command::new(DRAYD).arg("--config").arg(&file).stderr(Stdio::null()).spawn().unwrap());
    let start = Instant::now();
    while !switch.output("status").status.success() {
        assert!(start.elapsed() < Duration::from_secs(20));
        sleep(Duration::from_millis(20));
    }
    assert_eq!(switch.terminate(), Some(0));
}

fn check(file: &Path) -> Output {
    Command::new(DRAYD).arg("--check").arg("--config").arg(file).output().unwrap()
}

#[test]
fn files_are_checked() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("dray.toml");
    fs::write(&file, TWO_PORTS.replace("DIR", "/run/dray")).unwrap();
    let output = check(&file);
    assert_eq!(output.status.code(), Some(0));
    let expected = format!("{}: ok: 1 worker, 2 ports, 1 bridge\n", file.display());
    assert_eq!(String::from_utf8_lossy(&output.stdout), expected);

    fs::write(&file, TWO_PORTS.replace("DIR", "/run/dray").replace("[\"web\"", "[\"wbe\"")).unwrap();
    let output = check(&file);
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("did you mean \"web\"?"));
    assert_eq!(check(&dir.path().join("none.toml")).status.code(), Some(2));
}

/// Two containers and a VM that may send what their bridge's tunnels can't take.
const MTUS: &str = r#"
[control]
socket = "DIR/dray.sock"

[fdb]
size = 65536

[[port]]
name = "web"
kind = "memif"
socket = "DIR/memif.sock"
mtu = 1500

[[port]]
name = "vm"
kind = "vhost-user"
socket = "DIR/vm.sock"
mtu = 1500

[[port]]
name = "db"
kind = "memif"
socket = "DIR/memif.sock"
id = 1
mtu = 1450

[[port]]
name = "up"
kind = "memif"
socket = "DIR/memif.sock"
id = 2
mtu = 1500

[[bridge]]
name = "blue"
vni = 42
ports = ["web", { port = "vm", vlan = 7 }, "db"]

[vxlan]
port = "up"
local = "10.9.0.1/24"
"#;

#[test]
fn the_mtu_that_fits_a_bridge_is_shown_warned_of_and_proposed() {
    let switch = Switch::start(MTUS);
    let warning = "bridge blue: an MTU of 1450 fits its tunnels (the underlay's less 50), and more is allowed to \
                   web (1500), vm (1500): ";
    let output = check(&switch.path("dray.toml"));
    assert_eq!(output.status.code(), Some(0));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.starts_with("warning: ") && said.contains(warning) && said.lines().count() == 1, "{said}");

    assert_eq!(switch.json("bridge show")[0]["mtu"], json!(1450));
    let table = switch.dray("bridge show");
    assert!(table.contains("blue   42  1450 "), "{table}");
    let warnings = |port: &str| switch.json(&format!("port show {port}"))[0]["warnings"].clone();
    let of_port = "an MTU of 1450 fits all of bridge blue, the port's is 1500: whoever is attached needs 1450";
    assert_eq!([warnings("web"), warnings("vm")], [json!([of_port]), json!([of_port])]);
    assert_eq!([warnings("db"), warnings("up")], [Value::Null, Value::Null]);
    assert!(switch.dray("port show vm").contains(of_port));
    let proposed = |port: &str| switch.dray(&format!("port show {port} --connect"));
    assert!(proposed("web").contains("set interface mtu packet 1450 "), "{}", proposed("web"));
    for mtu in [",host_mtu=1450,", "<mtu size='1450'/>", ",mtu=1450"] {
        assert!(proposed("vm").contains(mtu), "{mtu}: {}", proposed("vm"));
    }
    assert!(proposed("up").contains("set interface mtu packet 1500 "));

    // Once, not with every change.
    switch.dray("port add --name other --kind memif --socket @other --role client");
    assert_eq!(switch.log().matches(warning).count(), 1, "{}", switch.log());

    // An underlay with room for the header.
    switch.file("new.toml", &MTUS.replace("id = 2\nmtu = 1500", "id = 2\nmtu = 1550").replace("1450", "1500"));
    switch.dray("config apply new.toml");
    assert_eq!(switch.json("bridge show")[0]["mtu"], json!(1500));
    assert_eq!(warnings("web"), Value::Null);
    assert_eq!(check(&switch.path("new.toml")).stderr, b"");
}

#[test]
fn metrics_are_served() {
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let socket = "socket = \"DIR/dray.sock\"";
    let config = TWO_PORTS.replace(socket, &format!("{socket}\nmetrics = \"127.0.0.1:{port}\""));
    let switch = Switch::start(&config);
    let get = |path: &str| {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
        stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: dray\r\n\r\n").as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    };
    let answer = get("/metrics");
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\nContent-Type: application/openmetrics-text;"), "{answer}");
    assert!(answer.contains("\n# TYPE dray_port_received_packets counter\n"));
    assert!(answer.contains("\ndray_port_received_packets_total{port=\"web\"} 0\n"));
    assert!(answer.contains("\ndray_port_up{port=\"db\"} 0\n") && answer.contains("\ndray_fdb_size 65536\n"));
    assert!(answer.contains("\ndray_port_mac_moves_packets_total{port=\"web\"} 0\n"));
    assert!(answer.ends_with("\n# EOF\n"));
    assert!(get("/").starts_with("HTTP/1.1 404 "));
    // A client that says nothing holds up the next one for two seconds at most.
    let _silent = TcpStream::connect(("127.0.0.1", port)).unwrap();
    let start = Instant::now();
    assert!(get("/metrics").ends_with("# EOF\n"));
    assert!(start.elapsed() < Duration::from_secs(5));
    drop(switch);
}

/// What the shell offers behind `words`, of which the last is not complete.
fn completed(socket: &Path, words: &[&str]) -> Vec<String> {
    let mut dray = Command::new(dray_beside(DRAYD));
    dray.env("COMPLETE", "fish").env("DRAY_SOCKET", socket).args(["--", "dray"]).args(words);
    let output = dray.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    text.lines().map(|line| line.split('\t').next().unwrap_or_default().to_owned()).collect()
}

#[test]
fn lines_are_completed_with_the_names_that_there_are() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let output = Command::new(dray_beside(DRAYD)).args(["completions", shell]).output().unwrap();
        assert!(output.status.success());
        assert!(String::from_utf8(output.stdout).unwrap().contains("COMPLETE"), "{shell}");
    }
    let mut switch = Switch::start(TWO_PORTS);
    let socket = switch.path("dray.sock");
    let offered = |words: &[&str]| completed(&socket, words);
    assert_eq!(offered(&["port", "show", "w"]), ["web"]);
    for words in [&["port", "down", ""][..], &["fdb", "show", "--port", ""], &["bridge", "join", "blue", ""]] {
        let offered = offered(words);
        assert!(["web", "db"].iter().all(|name| offered.iter().any(|other| other == name)), "{words:?}: {offered:?}");
    }
    assert_eq!(offered(&["bridge", "del", "b"]), ["blue"]);
    assert_eq!(offered(&["port", "add", "x", "--kind", "v"]), ["vhost-user"]);
    assert_eq!(offered(&["port", "set", "web", "mt"]), ["mtu"]);
    assert_eq!(offered(&["config", "set", "f"]), ["fdb"]);
    assert!(offered(&["wor"]).contains(&"worker".to_owned()));
    // Without a switch there are no names, and no noise.
    assert_eq!(switch.terminate(), Some(0));
    assert!(!completed(&socket, &["port", "show", "w"]).contains(&"web".to_owned()));
}

const TAGGED: &str = r#"
[control]
socket = "DIR/dray.sock"

[fdb]
size = 65536

[[port]]
name = "web"
kind = "memif"
socket = "DIR/memif.sock"
id = 0

[[port]]
name = "trunk"
kind = "memif"
socket = "DIR/memif.sock"
id = 1

[[bridge]]
name = "blue"
ports = ["web", { port = "trunk", vlan = 10 }]
"#;

#[test]
fn replies_are_as_documented() {
    let switch = Switch::start(TAGGED);
    let page = include_str!("../../docs/commands.md");
    let (request, answer) = page.split_once("$ echo '").unwrap().1.split_once("' | ").unwrap();
    let answer = answer.lines().nth(1).unwrap();
    assert_eq!(switch.exchange(request), format!("{answer}\n"));
    let api = Api::new();

    switch.file("new.toml", &TAGGED.replace("10", "20"));
    switch.file("entries.txt", "blue 02:00:00:00:00:02 web\n");
    for line in [
        "status",
        "port show",
        "port show web --connect",
        "port add --name db --kind memif --socket @db --role client --bridge blue",
        "port del db",
        "bridge show",
        "bridge add red",
        "bridge del red",
        "fdb add blue 02:00:00:00:00:01 --port trunk:10",
        "fdb show",
        "fdb del blue 02:00:00:00:00:01",
        "fdb load entries.txt",
        "fdb load entries.txt --delete",
        "fdb flush",
        "vtep show",
        "worker show",
        "drop show",
        "config show",
        "config diff new.toml",
        "config apply new.toml",
        "config save saved.toml",
        "config reload",
        "config save",
    ] {
        let method = line.split(' ').take(if line == "status" { 1 } else { 2 }).collect::<Vec<_>>().join(".");
        let reply = switch.json(line);
        let schema = &api.methods.iter().find(|known| known.name == method).unwrap().reply;
        assert!(fits(&reply, schema, &api), "{line}: {reply} is not as in {schema}");
    }
    // What is not documented is seen.
    let flushed = &api.types["FdbFlushed"];
    assert!(fits(&json!({ "entries": 1 }), flushed, &api));
    for wrong in [json!([]), json!({}), json!({ "entries": "1" }), json!({ "entries": 1, "more": 1 })] {
        assert!(!fits(&wrong, flushed, &api), "{wrong}");
    }
}

/// Whether a value is as its schema says, and has no field that is not in it.
fn fits(value: &Value, schema: &Value, api: &Api) -> bool {
    if let Some(name) = reference(schema) {
        return fits(value, &api.types[name], api);
    }
    if let Some(several) = ["allOf", "anyOf", "oneOf"].iter().find_map(|of| schema[*of].as_array()) {
        return several.iter().any(|schema| fits(value, schema, api));
    }
    let is_of = |name: &str| match name {
        "null" => value.is_null(),
        "boolean" => value.is_boolean(),
        "string" => value.is_string(),
        "integer" => value.is_u64(),
        "number" => value.is_number(),
        "array" => value.as_array().is_some_and(|items| items.iter().all(|item| fits(item, &schema["items"], api))),
        _ => value.as_object().is_some_and(|object| {
            let fields = fields(schema);
            let known = |key: &String| fields.iter().any(|field| field.name == *key);
            (fields.is_empty() || object.keys().all(known))
                && fields.iter().all(|field| match object.get(&field.name) {
                    Some(value) => fits(value, &field.schema, api),
                    None => !field.required,
                })
        }),
    };
    match &schema["type"] {
        Value::Array(names) => names.iter().filter_map(Value::as_str).any(is_of),
        name => name.as_str().is_some_and(is_of) && schema.get("const").is_none_or(|right| right == value),
    }
}

/// A whole rack's worth of configuration: ready in a moment.
#[test]
fn hundreds_of_ports_and_thousands_of_bridges_start_at_once() {
    let mut config = String::from("[fdb]\nsize = 4096\n");
    for id in 0..256 {
        config += &format!("[[port]]\nname = \"p{id}\"\nkind = \"memif\"\nsocket = \"DIR/memif.sock\"\nid = {id}\n");
    }
    for n in 0..4096 {
        let (port, vlan) = (n % 256, 1 + n / 256);
        config += &format!("[[bridge]]\nname = \"b{n}\"\nports = [{{ port = \"p{port}\", vlan = {vlan} }}]\n");
    }
    config += "[control]\nsocket = \"DIR/dray.sock\"\n";
    let start = Instant::now();
    let switch = Switch::start(&config);
    let took = start.elapsed();
    println!("256 ports and 4,096 bridges: started and answered in {took:?}");
    // It is said to take less than a second; other tests have the CPU too.
    assert!(took < Duration::from_secs(10), "{took:?}");
    let status = switch.json("status");
    assert_eq!((&status["ports"], &status["bridges"]), (&json!(256), &json!(4096)));
}

/// As many of everything as there may be: shown, changed one by one and as a whole.
#[test]
fn thousands_of_ports_and_a_hundred_thousand_static_entries_change_one_by_one() {
    let mac = |n: u32| dray_config::Mac([2, 0, (n >> 24) as u8, (n >> 16) as u8, (n >> 8) as u8, n as u8]);
    let mut config = String::from("[control]\nsocket = \"DIR/dray.sock\"\n");
    for id in 0..4000 {
        config += &format!("[[port]]\nname = \"p{id}\"\nkind = \"memif\"\nsocket = \"DIR/memif.sock\"\nid = {id}\n");
        let entry = |n: u32| format!("{{ mac = \"{}\", port = \"p{id}\" }}", mac(25 * id + n));
        let entries: Vec<String> = (0..25).map(entry).collect();
        config += &format!("[[bridge]]\nname = \"b{id}\"\nports = [\"p{id}\"]\nstatic = [{}]\n", entries.join(", "));
    }
    let switch = Switch::start(&config);
    let status = || switch.json("status");
    assert_eq!(
        (&status()["ports"], &status()["bridges"], &status()["fdb_used"]),
        (&json!(4000), &json!(4000), &json!(100_000))
    );
    assert_eq!(switch.json("port show p3999")[0]["bridges"], json!([{ "bridge": "b3999" }]));
    assert_eq!(switch.json("port show").as_array().unwrap().len(), 4000);
    assert_eq!(switch.json("fdb show --bridge b7").as_array().unwrap().len(), 25);

    assert_eq!(
        switch.dray("port add --name new --kind memif --socket @new --bridge b0"),
        "+ port new: memif server @new id 0\n~ bridge b0: +new\n"
    );
    switch.dray(&format!("fdb add b0 {} --port new", mac(u32::MAX)));
    assert_eq!(switch.dray("port del new").lines().count(), 2);
    assert_eq!(switch.dray("port del p5").lines().count(), 2);
    assert_eq!((&status()["ports"], &status()["fdb_used"]), (&json!(3999), &json!(99_975)));

    // A file and a request of more than a mebibyte.
    let file = config.replace("DIR", switch.path("").display().to_string().trim_end_matches('/'));
    std::fs::write(switch.path("big.toml"), &file).unwrap();
    assert_eq!(switch.dray("config apply big.toml").lines().count(), 2);
    assert_eq!((&status()["ports"], &status()["fdb_used"]), (&json!(4000), &json!(100_000)));
    let entry = |n: u32| json!({ "bridge": "b9", "mac": mac(1_000_000 + n).to_string(), "port": { "port": "p9" } });
    let entries: Vec<Value> = (0..100_000).map(entry).collect();
    let request =
        json!({ "jsonrpc": "2.0", "id": 1, "method": "fdb.load", "params": { "entries": entries } }).to_string();
    assert!(request.len() > 5 << 20);
    let answer = switch.exchange(&request);
    assert!(answer.contains("\"done\":100000"), "{answer:.200}");
    assert_eq!(status()["fdb_used"], json!(200_000));
}

#[test]
fn what_a_program_has_added_is_its_own() {
    let mut switch = Switch::start(TWO_PORTS);
    let file = fs::read_to_string(switch.path("dray.toml")).unwrap();
    let conflict = |args: &str, whose: &str| {
        let error: Value = serde_json::from_str(&switch.refused(&format!("{args} --json"), 1)).unwrap();
        let error = &error["error"];
        assert_eq!(error["data"]["code"], "conflict", "{args}: {error}");
        assert!(error["message"].as_str().unwrap().contains(whose), "{args}: {error}");
    };
    switch.dray("port add c1 --kind memif --socket @c1 --bridge blue --owner cni");
    switch.dray("bridge add net1 --port c1:5 --owner docker");
    switch.dray("fdb add net1 02:00:00:00:00:07 --port c1:5 --owner docker");
    assert_eq!(switch.json("port show c1")[0]["owner"], "cni");
    assert_eq!(switch.json("bridge show net1")[0]["owner"], "docker");
    assert_eq!(switch.json("port show web")[0].get("owner"), None);
    assert!(switch.dray("port show c1").contains("cni"));
    let of_docker = &switch.json("fdb show --bridge net1")[0];
    assert_eq!((&of_docker["mac"], &of_docker["owner"]), (&json!("02:00:00:00:00:07"), &json!("docker")));
    assert!(switch.dray("fdb show --bridge net1").contains("docker"));

    // Nobody changes what is another's.
    conflict("port del c1", "belongs to owner \"cni\": the configuration file can't");
    conflict("port down c1 --owner docker", "belongs to owner \"cni\"");
    conflict("bridge leave blue c1", "belongs to owner \"cni\"");
    conflict("port del web --owner cni", "belongs to the configuration file");
    conflict("bridge set blue mtu 1400 --owner cni", "belongs to the configuration file");
    conflict("bridge join net1 web:9", "belongs to owner \"docker\"");
    conflict("config set fdb ageing 60 --owner cni", "belongs to the configuration file");
    conflict("fdb del net1 02:00:00:00:00:07 --owner cni", "belongs to owner \"docker\"");
    fs::write(switch.path("batch.txt"), "net1 02:00:00:00:00:07 c1:5\nnet1 02:00:00:00:00:08 c1:5\n").unwrap();
    for args in ["fdb load batch.txt", "fdb load batch.txt --delete --owner cni"] {
        let output = switch.output(args);
        let error = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{error}");
        assert!(error.contains("line 1: the static entry 02:00:00:00:00:07 of bridge \"net1\" belongs to"), "{error}");
    }
    // Neither can the file have something in what it does not have.
    assert_eq!(switch.json("fdb show --bridge net1").as_array().unwrap().len(), 1);
    switch.dray("fdb load batch.txt --owner docker");
    assert_eq!(switch.json("fdb show --bridge net1")[1]["owner"], "docker");
    switch.dray("fdb load batch.txt --delete --owner docker");
    switch.dray("fdb load batch.txt --delete --owner docker --ensure");
    assert_eq!(switch.output("fdb load batch.txt --delete --owner docker").status.code(), Some(1));
    switch.dray("fdb load batch.txt --owner docker");
    switch.dray("fdb del net1 02:00:00:00:00:08 --owner docker");
    let error = switch.refused("port del c1 --owner A_B", 1);
    assert!(error.contains("an owner's name is 1 to 32 of a-z 0-9 -"), "{error}");
    assert!(switch.refused("port add c1 --kind memif --socket @c2 --owner docker", 1).contains("already used"));

    // The file is the file's.
    assert_eq!(switch.dray("config diff dray.toml"), "");
    switch.dray("config apply dray.toml");
    switch.dray("config save");
    assert_eq!(fs::read_to_string(switch.path("dray.toml")).unwrap(), file);
    switch.dray("config save copy.toml");
    let copy = fs::read_to_string(switch.path("copy.toml")).unwrap();
    assert!(copy.contains("\"web\"") && !copy.contains("c1") && !copy.contains("net1"), "{copy}");
    let of_cni = switch.dray("config show --owner cni");
    assert!(of_cni.contains("name = \"c1\"") && !of_cni.contains("name = \"web\""), "{of_cni}");
    assert_eq!(switch.json("status")["ports"], 3);
    let taken = file.clone() + "[[port]]\nname = \"c1\"\nkind = \"memif\"\nsocket = \"@other\"\n";
    fs::write(switch.path("taken.toml"), taken).unwrap();
    conflict("config apply taken.toml", "owner \"cni\" has what does not fit: port name \"c1\" is already used");
    fs::write(switch.path("gone.toml"), file.split("[[bridge]]").next().unwrap()).unwrap();
    conflict("config apply gone.toml", "owner \"cni\" has what does not fit: there is no bridge \"blue\"");
    assert_eq!(switch.json("status")["ports"], 3);

    // Again and again, and only if nothing has changed meanwhile.
    let generation = switch.json("status")["generation"].as_u64().unwrap();
    assert_eq!(switch.dray("port add c1 --kind memif --socket @c1 --bridge blue --owner cni --ensure"), "");
    assert_eq!(switch.dray("port del c9 --owner cni --ensure"), "");
    conflict("port add c1 --kind memif --socket @c1 --bridge blue --ensure", "belongs to owner \"cni\"");
    assert!(switch.refused("port add c1 --kind memif --socket @c3 --owner cni --ensure", 1).contains("already used"));
    assert_eq!(switch.json("status")["generation"], generation);
    switch.dray(&format!("port down c1 --owner cni --if-generation {generation}"));
    assert!(switch.json("status")["generation"].as_u64().unwrap() > generation);
    conflict(&format!("port up c1 --owner cni --if-generation {generation}"), "generation is");

    // It outlives drayd.
    assert_eq!(switch.terminate(), Some(0));
    switch.again(TWO_PORTS);
    let port = &switch.json("port show c1")[0];
    assert_eq!((&port["owner"], &port["admin"]), (&json!("cni"), &json!("down")));
    assert_eq!(port["bridges"], json!([{ "bridge": "blue" }, { "bridge": "net1", "vlan": 5 }]));
    assert_eq!(switch.json("fdb show --bridge net1")[0]["mac"], "02:00:00:00:00:07");
    assert!(switch.json("status")["generation"].as_u64().unwrap() > generation);

    // What goes takes with it what others have put there; and what is nobody's any more leaves no file.
    switch.dray("port del c1 --owner cni");
    assert_eq!(switch.json("bridge show net1")[0]["members"], json!([]));
    switch.dray("bridge del net1 --owner docker");
    assert_eq!(fs::read_dir(switch.path("dray.toml.d")).unwrap().count(), 0);

    // What fits no more is left out, and keeps nothing from running.
    fs::write(switch.path("dray.toml.d/old.toml"), "[[port]]\nname = \"web\"\nkind = \"memif\"\nsocket = \"@x\"\n")
        .unwrap();
    fs::write(switch.path("dray.toml.d/bad.toml"), "= x").unwrap();
    assert_eq!(switch.terminate(), Some(0));
    switch.again(TWO_PORTS);
    let log = switch.log();
    assert!(
        log.contains("owner \"old\": left out: port name \"web\" is already used")
            && log.contains("bad.toml: left out: not TOML"),
        "{log}"
    );
}

/// Whenever it is killed: there is what was before, or what was to be.
#[test]
fn a_drayd_that_is_killed_while_it_writes_leaves_the_old_or_the_new() {
    let mut switch = Switch::start(TWO_PORTS);
    let socket = switch.path("dray.sock");
    for round in 0..50u64 {
        let socket = socket.clone();
        let writer = std::thread::spawn(move || {
            let Ok(stream) = UnixStream::connect(socket) else { return };
            let mut lines = BufReader::new(stream.try_clone().unwrap()).lines();
            let mut ask = |method: &str, params: Value| {
                let request = json!({ "jsonrpc": "2.0", "id": 1, "method": method, "params": params });
                (&stream).write_all(format!("{request}\n").as_bytes()).is_ok()
                    && lines.next().is_some_and(|line| line.is_ok())
            };
            loop {
                // Two ports are one's, both or none are in the file after each step.
                let add = |name: &str| json!({ "name": name, "kind": "memif", "socket": format!("@{name}-kill"), "owner": "cni", "ensure": true });
                let del = |name: &str| json!({ "name": name, "owner": "cni", "ensure": true });
                let age = |seconds: &str| json!({ "table": "fdb", "key": "ageing", "values": [seconds] });
                let all = ask("port.add", add("c1"))
                    && ask("port.add", add("c2"))
                    && ask("config.set", age("60"))
                    && ask("config.save", json!({}))
                    && ask("port.del", del("c1"))
                    && ask("port.del", del("c2"))
                    && ask("config.set", age("70"))
                    && ask("config.save", json!({}));
                if !all {
                    return;
                }
            }
        });
        // At another moment each time.
        sleep(Duration::from_micros(500 + round * 7919 % 20_000));
        switch.kill();
        writer.join().unwrap();
        switch.again(TWO_PORTS);
        let log = switch.log();
        assert!(!log.contains("left out"), "round {round}: {log}");
        let ageing = switch.dray("config show");
        assert!(
            ["ageing = 60", "ageing = 70"].iter().any(|line| ageing.contains(line)) || !ageing.contains("ageing"),
            "{ageing}"
        );
        let names: Vec<String> = switch
            .json("port show")
            .as_array()
            .unwrap()
            .iter()
            .map(|port| port["name"].as_str().unwrap().to_owned())
            .collect();
        let own: Vec<&str> = names.iter().map(String::as_str).filter(|name| name.starts_with('c')).collect();
        assert!([&[][..], &["c1"], &["c1", "c2"], &["c2"]].contains(&&own[..]), "round {round}: {names:?}");
        assert_eq!(names.len(), 2 + own.len(), "round {round}");
    }
}

/// DPDK sets a SIGBUS handler while it takes huge pages, onto which no worker may fall: its `sigaction` has to be drayd's.
#[test]
fn drayd_answers_for_the_handlers_of_dpdk() {
    let symbols = Command::new("nm").args(["--dynamic", "--defined-only", DRAYD]).output().unwrap();
    let symbols = String::from_utf8(symbols.stdout).unwrap();
    assert!(symbols.lines().any(|line| line.ends_with(" T sigaction")), "{symbols}");
}

/// A connection that watches.
struct Watch {
    lines: std::io::Lines<BufReader<UnixStream>>,
}

impl Watch {
    /// With the answer to its request.
    fn begin(switch: &Switch, params: Value) -> (Watch, Value) {
        let mut stream = UnixStream::connect(switch.path("dray.sock")).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        let request = json!({"jsonrpc": "2.0", "id": 1, "method": "watch", "params": params});
        stream.write_all(format!("{request}\n").as_bytes()).unwrap();
        let mut watch = Watch { lines: BufReader::new(stream).lines() };
        let answer = watch.line();
        (watch, answer["result"].clone())
    }

    fn line(&mut self) -> Value {
        serde_json::from_str(&self.lines.next().expect("the connection is open").unwrap()).unwrap()
    }

    /// The next event.
    fn event(&mut self) -> Value {
        let line = self.line();
        assert_eq!((line["method"].as_str(), line.get("id")), (Some("event"), None), "{line}");
        line["params"].clone()
    }
}

#[test]
fn who_watches_is_told_what_happens_and_who_did_it() {
    let switch = Switch::start(TWO_PORTS);
    let (mut watch, began) = Watch::begin(&switch, json!({}));
    assert_eq!(began["lost"], 0);
    let mut next = began["next"].as_u64().unwrap();
    let mut expect = |what: Value, text: &str| {
        let event = watch.event();
        assert_eq!(event["seq"], next, "{event}");
        next += 1;
        for (key, value) in what.as_object().unwrap() {
            assert_eq!(event.get(key).unwrap_or(&Value::Null), value, "{key} of {event}");
        }
        assert!(event["text"].as_str().unwrap().contains(text), "{text} in {event}");
        event
    };
    switch.dray("bridge add red");
    let event = expect(json!({"kind": "bridge", "bridge": "red"}), "+ bridge red");
    let by = event["by"].as_str().unwrap();
    assert!(by.contains(", process ") && by.ends_with(" (dray)"), "{by}");
    assert!(switch.log().contains(&format!("config: + bridge red (by {by})")), "{}", switch.log());
    switch.dray("port down db");
    expect(json!({"kind": "port", "port": "db"}), "admin up -> down");
    switch.dray("config set fdb ageing 60");
    expect(json!({"kind": "config", "port": null}), "ageing 300 -> 60");

    let socket = dray_config::SocketName::Path(switch.path("memif.sock"));
    let connect = |id| dray_vhost::memif::Client::connect(&socket, id, &Default::default());
    let client = connect(0).unwrap();
    expect(json!({"kind": "link", "port": "web", "state": "up"}), "port web: up");
    drop(client);
    expect(json!({"kind": "link", "port": "web", "state": "down"}), "disconnect");
    let client = connect(0).unwrap();
    expect(json!({"kind": "link", "state": "up"}), "port web: up");
    switch.dray("port down web");
    expect(json!({"kind": "link", "port": "web", "state": "down"}), "closed");
    expect(json!({"kind": "port", "port": "web"}), "admin up -> down");
    drop(client);

    switch.dray("config save");
    expect(json!({"kind": "config"}), "saved to ");
    switch.file("dray.toml", TWO_PORTS);
    switch.signal("-HUP");
    for kind in ["bridge", "port", "port", "config"] {
        expect(json!({"kind": kind, "by": "SIGHUP"}), "");
    }

    // Somebody was away for a moment and goes on where it was; another only wants some of it.
    let (mut again, answer) = Watch::begin(&switch, json!({"since": began["next"]}));
    assert_eq!(
        (&answer["next"], &answer["lost"], &answer["instance"]),
        (&began["next"], &json!(0), &began["instance"])
    );
    assert_eq!(again.event()["bridge"], "red");
    let (mut links, _) = Watch::begin(&switch, json!({"since": began["next"], "kinds": ["link"]}));
    assert_eq!([(); 4].map(|()| links.event()["state"].clone()), ["up", "down", "up", "down"]);

    // For people.
    let mut dray = switch.command(&["watch", "--kind", "bridge"]).stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(dray.stdout.take().unwrap()).lines();
    // It may begin a little later than this.
    let found = std::thread::scope(|scope| {
        let reader = scope.spawn(move || lines.next().unwrap().unwrap());
        for n in 0.. {
            switch.dray(&format!("bridge add b{n}"));
            sleep(Duration::from_millis(20));
            if reader.is_finished() {
                break;
            }
        }
        reader.join().unwrap()
    });
    assert!(found.contains("Z  bridge   + bridge b"), "{found}");
    dray.kill().unwrap();
    dray.wait().unwrap();
}

/// One that does not read loses events and learns how many; others, and the switch, go on.
#[test]
fn a_slow_watcher_loses_events_and_slows_nobody() {
    const COUNT: u64 = 20_000;
    let switch = Switch::start(TWO_PORTS);
    let ((mut slow, began), (mut fast, _)) = (Watch::begin(&switch, json!({})), Watch::begin(&switch, json!({})));
    let first = began["next"].as_u64().unwrap();
    let reader =
        std::thread::spawn(move || (0..COUNT).map(|_| fast.event()["seq"].as_u64().unwrap()).collect::<Vec<_>>());
    let mut stream = UnixStream::connect(switch.path("dray.sock")).unwrap();
    let mut answers = BufReader::new(stream.try_clone().unwrap());
    let mut line = String::new();
    for _ in 0..COUNT {
        let load = "{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"fdb.load\",\"params\":{\"entries\":[]}}\n";
        stream.write_all(load.as_bytes()).unwrap();
        line.clear();
        answers.read_line(&mut line).unwrap();
    }
    assert!(reader.join().unwrap().into_iter().eq(first..first + COUNT), "who reads gets each one");
    let (mut next, mut lost) = (first, 0);
    while next < first + COUNT {
        let event = slow.event();
        let seq = event["seq"].as_u64().unwrap();
        let missed = if event["kind"] == "lost" { event["count"].as_u64().unwrap() } else { 0 };
        assert_eq!(seq, next + missed.saturating_sub(1), "{event}");
        lost += missed;
        next = seq + 1;
    }
    assert!(lost > 0 && lost < COUNT, "{lost} lost");

    // They are few, so that they don't take all connections; who goes makes room.
    drop(slow);
    let mut watching: Vec<Watch> = Vec::new();
    let start = Instant::now();
    while watching.len() < 16 {
        let (watch, answer) = Watch::begin(&switch, json!({}));
        if answer.is_object() {
            watching.push(watch);
        }
        assert!(start.elapsed() < Duration::from_secs(20), "the first ones are gone, and still count");
    }
    let refused = switch.exchange(r#"{"jsonrpc":"2.0","id":1,"method":"watch","params":{}}"#);
    assert!(refused.contains("too many are watching"), "{refused}");
    switch.dray("status");
}

#[test]
fn what_is_logged_is_chosen_while_it_runs() {
    let mut switch = Switch::start(TWO_PORTS);
    // Lines begin with the time and their target.
    let log = switch.log();
    let line =
        log.lines().find(|line| line.ends_with("Z config: + bridge blue: web, db")).unwrap_or_else(|| panic!("{log}"));
    assert_eq!(line.find(' '), Some("2026-11-27T18:06:01.123Z".len()), "{line}");
    assert_eq!(switch.dray("log show"), "info\n");
    assert!(!log.contains("debug: "), "{log}");

    assert_eq!(switch.dray("log level warn,control=debug"), "~ log: level info -> warn,control=debug\n");
    let since = |mark: usize| switch.log()[mark..].to_owned();
    let mark = switch.log().len();
    switch.dray("bridge add red");
    let said = since(mark);
    assert!(said.contains("Z debug: control: bridge.add (by "), "{said}");
    assert!(!said.contains("config: + bridge red"), "{said}");
    switch.dray("log level config=info");
    let mark = switch.log().len();
    switch.dray("bridge del red");
    assert!(since(mark).contains("Z config: - bridge red (by ") && !since(mark).contains("control"), "{}", since(mark));
    assert!(switch.refused("log level loud", 1).contains("\"loud\" is no level: off, error, warn"));
    // It is a key of the configuration as others are.
    switch.dray("config save saved.toml");
    assert!(fs::read_to_string(switch.path("saved.toml")).unwrap().contains("[log]\nlevel = \"config=info\"\n"));
    assert_eq!(switch.dray("config set log level"), "~ log: level config=info -> info\n");
    assert_eq!(switch.terminate(), Some(0));
    assert!(switch.log().contains("Z SIGTERM: shutting down\n"), "{}", switch.log());
}

#[test]
fn the_journal_gets_levels_and_no_second_time() {
    let switch = Switch::start(&format!("# journal\n{TWO_PORTS}\n[log]\nlevel = \"debug\"\n"));
    switch.dray("bridge add red");
    let log = switch.log();
    assert!(log.lines().all(|line| line.starts_with('<')), "{log}");
    for line in ["<6>config: + port web: memif server ", "<6>config: + bridge red (by ", "<7>control: bridge.add (by "]
    {
        assert!(log.contains(&format!("\n{line}")), "{line} in {log}");
    }
}

#[test]
fn saving_keeps_the_comments_of_the_file() {
    let switch =
        Switch::start(&TWO_PORTS.replace("id = 1\n", "id = 1     # Bob's\n").replace("[fdb]", "# Small.\n[fdb]"));
    let before = fs::read_to_string(switch.path("dray.toml")).unwrap();
    // Without a change nothing changes.
    switch.dray("config save");
    assert_eq!(fs::read_to_string(switch.path("dray.toml")).unwrap(), before);
    switch.dray("port set db mtu 1500");
    switch.dray("port add c --kind memif --socket @c --role client --bridge blue");
    assert_eq!(switch.dray("config diff"), "- port c\n~ port db: mtu 1500 -> 9198\n~ bridge blue: -c\n");
    // Another file's, too.
    switch.file("other.toml", &before);
    for name in ["dray.toml", "other.toml"] {
        switch.dray(if name == "dray.toml" { "config save" } else { "config save other.toml" });
        let after = fs::read_to_string(switch.path(name)).unwrap();
        assert!(after.contains("id = 1     # Bob's\nmtu = 1500\n") && after.contains("# Small.\n[fdb]\n"), "{after}");
        assert!(
            after.contains("[[port]]\nname = \"c\"\n") && after.contains("ports = [\"web\", \"db\", \"c\"]\n"),
            "{after}"
        );
        assert_eq!(fs::read_to_string(switch.path(&format!("{name}~"))).unwrap(), before);
    }
    assert_eq!(switch.dray("config diff"), "");
    // Applied without naming it.
    fs::write(switch.path("dray.toml"), &before).unwrap();
    assert_eq!(switch.dray("config apply"), "- port c\n~ port db: mtu 1500 -> 9198\n~ bridge blue: -c\n");
    fs::write(switch.path("dray.toml"), "[[prot]]\n").unwrap();
    for command in ["config diff", "config apply"] {
        assert!(switch.refused(command, 2).contains("dray.toml:1:3: unknown table \"prot\""), "{command}");
    }
}

/// Whenever it is killed, the file is the old one or the new one, and the next one saves.
#[test]
fn a_kill_while_it_saves_leaves_a_whole_file() {
    let mut switch = Switch::start(TWO_PORTS);
    let whole = |switch: &Switch| {
        let text = fs::read_to_string(switch.path("dray.toml")).unwrap();
        dray_config::parse("dray.toml", &text).unwrap_or_else(|errors| panic!("{errors}"));
        text
    };
    for round in 0..10u64 {
        let socket = switch.path("dray.sock");
        let saver = std::thread::spawn(move || {
            for n in 1..=1_000 {
                let Ok(mut stream) = UnixStream::connect(&socket) else { return };
                let set = json!({"table": "fdb", "key": "ageing", "values": [n.to_string()]});
                for (method, params) in [("config.set", set), ("config.save", json!({}))] {
                    let line = json!({"jsonrpc": "2.0", "id": 1, "method": method, "params": params});
                    let mut answer = String::new();
                    let sent = stream.write_all(format!("{line}\n").as_bytes());
                    if sent.is_err() || BufReader::new(&stream).read_line(&mut answer).unwrap_or(0) == 0 {
                        return;
                    }
                }
            }
        });
        sleep(Duration::from_millis(20 + 7 * round));
        let mut drayd = switch.drayd.take().unwrap();
        drayd.kill().unwrap();
        drayd.wait().unwrap();
        saver.join().unwrap();
        let text = whole(&switch);
        assert!(text.contains("name = \"db\"\nkind = \"memif\"\n"), "{text}");
        let log = fs::File::create(switch.path("log")).unwrap();
        let file = switch.path("dray.toml");
        switch.drayd = Some(Command::new(DRAYD).arg("--config").arg(file).stderr(log).spawn().unwrap());
        let start = Instant::now();
        while !switch.command(&["status"]).output().unwrap().status.success() {
            assert!(start.elapsed() < Duration::from_secs(20), "{}", switch.log());
            sleep(Duration::from_millis(5));
        }
    }
    switch.dray("config save");
    whole(&switch);
}

#[test]
fn drops_that_begin_and_vteps_are_told() {
    let overlay = "[[port]]\nname = \"under\"\nkind = \"memif\"\nsocket = \"DIR/memif.sock\"\nid = 2\n\
                   [vxlan]\nport = \"under\"\nlocal = \"10.9.0.1/24\"\n";
    let switch = Switch::start(&format!("{TWO_PORTS}{overlay}"));
    let kinds = ["drop", "vtep"];
    let (mut watch, _) = Watch::begin(&switch, json!({"kinds": kinds}));
    switch.dray("vtep add 10.9.0.3");
    let event = watch.event();
    assert_eq!((&event["vtep"], &event["state"]), (&json!("10.9.0.3"), &json!("resolving")), "{event}");
    let neighbours = "{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"config.set\",\"params\":{\"table\":\"vxlan\",\
                      \"key\":\"neighbours\",\"values\":[\"{ address = '10.9.0.3', mac = '02:00:00:00:00:09' }\"]}}";
    assert!(switch.exchange(neighbours).contains("result"));
    let event = watch.event();
    assert_eq!((&event["state"], &event["kind"]), (&json!("static"), &json!("vtep")), "{event}");
    assert!(event["text"].as_str().unwrap().ends_with("mac 02:00:00:00:00:09"), "{event}");
    switch.dray("vtep del 10.9.0.3");
    assert_eq!(watch.event()["state"], "gone");

    let socket = dray_config::SocketName::Path(switch.path("memif.sock"));
    let mut client = dray_vhost::memif::Client::connect(&socket, 0, &Default::default()).unwrap();
    // A VLAN that no bridge has.
    let mut frame = vec![2u8; 60];
    frame[..16].copy_from_slice(&[2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 0x81, 0x00, 0x00, 99]);
    assert!((0..3).all(|_| client.tx[0].send(&frame)));
    let event = watch.event();
    let drop = event["drop"].as_str().unwrap();
    assert_eq!((&event["port"], &event["kind"]), (&json!("web"), &json!("drop")), "{event}");
    assert!((1..=3).contains(&event["count"].as_u64().unwrap()), "{event}");
    assert_eq!(switch.json("port show web")[0]["drops"][drop], 3, "{event}");
    // More of the same is no news; another reason is.
    assert!((0..3).all(|_| client.tx[0].send(&frame)));
    assert!(client.tx[0].send(&[2; 9]));
    let event = watch.event();
    assert!(event["drop"].as_str().is_some_and(|other| other != drop), "{event}");
    let request = r#"{"jsonrpc":"2.0","id":1,"method":"watch","params":{"kinds":["nonsense"]}}"#;
    assert!(switch.exchange(request).contains("-32602"));
}
