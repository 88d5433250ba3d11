//! What `dray port show NAME --connect` and docs/attach.md print is pasted into a shell, letter by letter, and connects.

use crate::harness::*;
use dray_api::ConnectInfo;
use std::io::Write;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};

/// Lines in a shell, and what they started. All of it ends with this, and nothing of it is left.
struct Pasted {
    shell: Child,
    stdin: Option<ChildStdin>,
    printed: std::path::PathBuf,
}

impl Pasted {
    /// `around` is what the shell is started by, if anything.
    fn new(test: &Test, name: &str, around: &[&str], text: &str) -> Pasted {
        let printed = test.path(&format!("{name}.printed"));
        let out = std::fs::File::create(&printed).unwrap();
        let words: Vec<&str> = around.iter().copied().chain(["sh", "-c", text]).collect();
        let mut command = Command::new(words[0]);
        command.args(&words[1..]).stdin(Stdio::piped()).stdout(out.try_clone().unwrap()).stderr(out);
        // What a shell starts is of its group.
        let mut shell = command.process_group(0).spawn().unwrap();
        let stdin = shell.stdin.take();
        Pasted { shell, stdin, printed }
    }
}

impl Drop for Pasted {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- pasted ---\n{}", std::fs::read_to_string(&self.printed).unwrap_or_default());
        }
        // testpmd cleans up when it is told to; QEMU reads nothing.
        let _ = self.stdin.take().map(|mut stdin| writeln!(stdin, "quit"));
        let group = rustix::process::Pid::from_child(&self.shell);
        let ended = || matches!(self.shell.try_wait(), Ok(Some(_)));
        let mut ended = ended;
        for _ in 0..300 {
            if ended() {
                break;
            }
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
        let _ = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
        let _ = self.shell.wait();
    }
}

/// A port, and whether testpmd can be given its values.
struct Case {
    name: String,
    keys: String,
    possible: bool,
}

fn case(name: &str, keys: &str, possible: bool) -> Case {
    Case { name: name.into(), keys: keys.into(), possible }
}

fn configuration(kind: &str, cases: &[Case]) -> String {
    let port = |Case { name, keys, .. }: &Case| format!("[[port]]\nname = {name:?}\nkind = {kind:?}\n{keys}\n");
    TWO_WORKERS.to_string() + &cases.iter().map(port).collect::<String>()
}

const TWO_WORKERS: &str = "[[worker]]\ncpu = 0\nidle-sleep = 50\n[[worker]]\ncpu = 1\nidle-sleep = 50\n";

/// The lines for `program`.
fn lines(drayd: &Drayd, port: &str, program: &str) -> String {
    let programs: Vec<ConnectInfo> = drayd.json(&format!("port show {port} --connect --secrets"));
    programs.into_iter().find(|info| info.program == program).unwrap_or_else(|| panic!("{program} of {port}")).text
}

/// Pastes all lines for `program`, each when the port of the one before is up: a peer of many large rings needs a CPU to be done
/// in the time that a handshake may take. Of every port to which something was pasted: `look`.
fn connects(test: &Test, drayd: &Drayd, program: &str, cases: &[Case], look: impl Fn(&str)) {
    let mut pasted = Vec::new();
    for case in cases {
        let text = lines(drayd, &case.name, program);
        assert_eq!(text.starts_with('#'), !case.possible, "{text}");
        if case.possible {
            pasted.push((&case.name, Pasted::new(test, &case.name.replace(':', ""), &[], &text)));
            drayd.wait_link(&case.name, "up");
            look(&case.name);
        }
    }
    let names: Vec<String> = pasted.iter().map(|(name, _)| name.to_string()).collect();
    drop(pasted);
    names.iter().for_each(|name| drayd.wait_link(name, "down"));
}

#[test]
fn testpmd_attaches_to_memif_as_connect_says() {
    let Some(test) = Test::begin() else { return };
    // The lines name the processes by the ids: no two are the same here.
    let cases = [
        case("plain", "socket = 'DIR/m.sock'\nid = 9001", true),
        // All together are a gigabyte, which DPDK makes in more time than a handshake may take if the machine is busy.
        case("most-queues", "socket = 'DIR/m.sock'\nid = 4294967295\nqueues = 16\nring-size = 256", true),
        case("largest-ring", "socket = 'DIR/m.sock'\nid = 9012\nring-size = 16384", true),
        case("largest-buffer", "socket = 'DIR/m.sock'\nid = 9013\nring-size = 256\nbuffer-size = 65536", true),
        case("smallest", "socket = 'DIR/m.sock'\nid = 9002\nring-size = 256\nbuffer-size = 256\nmtu = 68", true),
        case("blank", "socket = \"DIR/it's a $HOME \\\"socket\\\".sock\"\nid = 9003", true),
        case("abstract", "socket = \"@dray test 'abstract'\"\nid = 9004", true),
        case("client", "socket = 'DIR/c.sock'\nrole = 'client'\nid = 9005\nqueues = 2", true),
        case("abstract-client", "socket = '@dray-test-client'\nrole = 'client'\nid = 9006\nsecret = 'k&k'", true),
        case("secret", "socket = 'DIR/m.sock'\nid = 9007\nsecret = \"it's `1` \\\"$HOME\\\"!#*\\\\\"", true),
        case("other-letters", "socket = 'DIR/m.sock'\nid = 9008\nsecret = 'Größe ]-/;|<>{}~'", true),
        case("comma", "socket = 'DIR/m.sock'\nid = 9009\nsecret = 'a,b'", false),
        case("equals", "socket = 'DIR/m.sock'\nid = 9010\nsecret = 'a=b'", false),
        case("bracket", "socket = 'DIR/[m],.sock'\nid = 9011", false),
    ];
    let drayd = Drayd::start(&test, &configuration("memif", &cases));
    connects(&test, &drayd, "testpmd", &cases, |name| {
        let queues = match name {
            "most-queues" => 16,
            "client" => 2,
            _ => 1,
        };
        assert_eq!(drayd.port(name).queues, queues, "{name}");
    });
    drayd.finish();
}

#[test]
fn testpmd_attaches_to_vhost_user_as_connect_says() {
    let Some(test) = Test::begin() else { return };
    let cases = [
        case("vm-client", "socket = 'DIR/c.sock'\nqueues = 1", true),
        case("vm-server", "socket = 'DIR/s.sock'\nrole = 'server'", true),
        case("x:-y_z.", "socket = \"DIR/it's a $HOME \\\"socket\\\".sock\"", true),
        case("comma", "socket = 'DIR/a,b.sock'", false),
    ];
    let drayd = Drayd::start(&test, &configuration("vhost-user", &cases));
    connects(&test, &drayd, "testpmd", &cases, |name| {
        // As many as there are workers, if there may be.
        assert_eq!(drayd.port(name).queues, if name == "vm-client" { 1 } else { 2 }, "{name}");
    });
    drayd.finish();
}

/// The driver is that of the firmware, iPXE, which looks for a server to boot from for some seconds.
#[test]
fn qemu_attaches_as_connect_says() {
    let Some(test) = Test::guests() else { return };
    let cases = [
        case("vm-client", "socket = 'DIR/c.sock'\nqueues = 1\nmtu = 1450", true),
        case("vm-server", "socket = 'DIR/s.sock'\nrole = 'server'", true),
        case("odd", "socket = \"DIR/it's a, $HOME =[\\\"socket\\\"].sock\"", true),
        case("abstract", "socket = '@dray test, vm'\nqueues = 2", true),
    ];
    let drayd = Drayd::start(&test, &configuration("vhost-user", &cases));
    for case in cases.chunks(1) {
        connects(&test, &drayd, "QEMU", case, |name| {
            let port = drayd.port(name);
            assert_eq!(vm(&port).guest_mtu, Some(port.mtu), "{port:?}");
        });
    }
    drayd.finish();
}

/// A block of code of the page: its language and its text.
fn blocks(page: &str) -> Vec<(String, String)> {
    let mut blocks = Vec::new();
    let mut lines = page.lines();
    while let Some(line) = lines.next() {
        if let Some(language) = line.strip_prefix("```") {
            let text: Vec<&str> = lines.by_ref().take_while(|line| *line != "```").collect();
            blocks.push((language.to_string(), text.join("\n")));
        }
    }
    blocks
}

/// The page's own configuration runs, and the page's own lines attach to it; those of programs that are not here are marked.
#[test]
fn the_page_about_attaching_is_ready_to_paste() {
    let Some(test) = Test::begin() else { return };
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/attach.md");
    let page = std::fs::read_to_string(page).unwrap();
    let blocks = blocks(&page);
    let toml = blocks.iter().filter(|(language, _)| language == "toml").map(|(_, text)| text.clone() + "\n");
    let config = TWO_WORKERS.to_string() + &toml.collect::<String>();
    // Its paths are those of a host, so the switch and its peers have a /run of their own.
    let drayd = Drayd::start_around(&test, &["unshare", "-m", "sh", "-c", OWN_RUN, "sh"], &config);
    let pid = drayd.pid().to_string();
    let inside = ["nsenter", "-m", "-t", &pid];
    // QEMU's own, as the page says.
    run(&format!("{} mkdir -p /run/dray/vm1", inside.join(" ")));
    let mut pasted = 0;
    for (number, (_, text)) in blocks.iter().filter(|(language, _)| language == "sh").enumerate() {
        let program = text.split_whitespace().next().unwrap();
        let port = match program {
            "dpdk-testpmd" if text.contains("net_memif") => "web",
            "dpdk-testpmd" | "qemu-system-x86_64" => "vm1",
            // They can't be had here, and the page says so.
            "pktgen" | "vppctl" | "cloud-hypervisor" => {
                let after = &page[page.find(text.as_str()).unwrap()..];
                let section = after.split("\n### ").next().unwrap();
                assert!(section.contains("ot run by the tests"), "{program} is not marked");
                continue;
            }
            // How a NIC is bound to a driver: the tests of NICs by PCI address do that in a guest.
            "modprobe" | "driverctl" | "echo" | "sysctl" | "lspci" | "ip" => continue,
            other => panic!("docs/attach.md has lines for {other:?}, which this test can't try"),
        };
        let lines = Pasted::new(&test, &format!("block{number}"), &inside, text);
        drayd.wait_link(port, "up");
        drop(lines);
        drayd.wait_link(port, "down");
        // A QEMU that is killed leaves its socket, which is in the next one's way.
        if port == "vm1" {
            run(&format!("{} rm -f {}", inside.join(" "), vm(&drayd.port(port)).socket));
        }
        pasted += 1;
    }
    assert_eq!(pasted, 3);
    drayd.finish();
}

/// Begins with a /run of its own, and is then the program that follows.
const OWN_RUN: &str = "mount -t tmpfs none /run && exec \"$@\"";

/// As the page about attaching says: DPDK's client has to be told, its server has not.
#[test]
fn dpdk_comes_back_after_a_restart_as_the_page_says() {
    let Some(test) = Test::begin() else { return };
    let config = memif_ports(&["server"])
        + "[[port]]\nname = 'client'\nkind = 'memif'\nsocket = 'DIR/c.sock'\nrole = 'client'\n";
    let mut server = Testpmd::server(&test, "c.sock", "io");
    let drayd = Drayd::start(&test, &config);
    let mut client = Testpmd::client(&test, 0, "io");
    server.wait_up();
    drayd.finish();

    let drayd = Drayd::start(&test, &config);
    server.wait_up();
    drayd.wait_link("client", "up");
    assert_eq!(drayd.port("server").link, "down", "it connects again by itself: the page says that it doesn't");
    client.command("port stop 0");
    client.command("port start 0");
    drayd.wait_link("server", "up");
    drop((client, server));
    drayd.finish();
}

/// The page runs from its first line to its last, on a host of its own: network, /run and folder.
#[test]
fn the_first_hour_goes_as_the_page_says() {
    let Some(test) = Test::begin() else { return };
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/first-hour.md");
    follow(&test, &std::fs::read_to_string(page).unwrap());
}

/// As far as it is about the command, and not about the file, which a host has to be made for.
#[test]
fn containers_are_attached_as_the_page_says() {
    let Some(test) = Test::begin() else { return };
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/containers.md");
    let page = std::fs::read_to_string(page).unwrap();
    let (first, _) = page.split_once("## In the configuration file").unwrap();
    // The other engines' commands are marked as a console's.
    follow(&test, &first.replace("```console", "```no terminal"));
}

/// Does what a page says, in its folder and on a host of its own, and then ends drayd.
fn follow(test: &Test, page: &str) {
    // Other terminals are where the first one doesn't see them: there nothing is printed, and nothing is typed.
    let mut script = String::from("set -ex\nmount -t tmpfs none /run\nip link set lo up\ncd \"$1\"\nPATH=$2:$PATH\n");
    for (language, text) in blocks(page) {
        match language.as_str() {
            "no terminal" => {}
            "toml" => {
                let name = text.lines().next().unwrap().trim_start_matches("# ");
                script += &format!("cat >{name} <<'END'\n{text}\nEND\n");
            }
            "sh" => script += &(text + "\n"),
            terminal if terminal.ends_with(" terminal") => {
                script += &format!("(sleep 1000 | {text}) >/dev/null 2>&1 &\n")
            }
            other => panic!("a block of {other:?}"),
        }
    }
    script += "kill %1\nwait %1\n";
    let programs = Path::new(env!("CARGO_BIN_EXE_drayd")).parent().unwrap().display().to_string();
    let folder = test.path("").display().to_string();
    // All that runs in there ends with its first process.
    let around = "timeout -s KILL 300 unshare -m -n -p -f --kill-child --mount-proc bash -c";
    let mut words = around.split(' ');
    let mut command = Command::new(words.next().unwrap());
    command.args(words).args([&script, "bash", &folder, &programs]).stdin(Stdio::null());
    let mut process = Process::start(command);
    let status = process.wait();
    assert!(status.success(), "{status}\n{}", process.printed());
}
