//! `make install`, and the systemd unit in a booted systemd.

use crate::harness::*;
use dray_config::SocketName;
use dray_vhost::memif::{Client, ClientOptions};
use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

/// `make TARGET` with the programs of this build, `root` in the place of `/`.
fn make(test: &Test, target: &str, root: &Path) {
    let release = test.path("release");
    if !release.exists() {
        fs::create_dir(&release).unwrap();
        symlink(env!("CARGO_BIN_EXE_drayd"), release.join("drayd")).unwrap();
        symlink(dray(), release.join("dray")).unwrap();
        // Another package's; nothing here runs it.
        fs::write(release.join("dray-perf"), "").unwrap();
    }
    let (release, root) = (release.display(), root.display());
    let repository = concat!(env!("CARGO_MANIFEST_DIR"), "/..");
    run(&format!(
        "make -s -C {repository} {target} RELEASE={release} DESTDIR={root} PREFIX=/opt/dray SYSCONFDIR=/opt/etc"
    ));
}

#[test]
fn what_is_installed_can_be_uninstalled() {
    let Some(test) = Test::begin() else { return };
    let root = test.path("root");
    let files = || run(&format!("find {} -type f", root.display())).lines().count();
    make(&test, "install-files", &root);
    let is = |path: &str| fs::metadata(root.join(path)).unwrap_or_else(|why| panic!("{path}: {why}")).mode() & 0o777;
    assert_eq!((is("opt/dray/bin/drayd"), is("opt/etc/dray/dray.toml.example")), (0o755, 0o644));
    let unit = fs::read_to_string(root.join("opt/dray/lib/systemd/system/dray.service")).unwrap();
    assert!(unit.contains("\nExecStart=/opt/dray/bin/drayd --config /opt/etc/dray/dray.toml\n"), "{unit}");
    // What a user made of it stays, whatever is installed or removed.
    let own = root.join("opt/etc/dray/dray.toml");
    fs::write(&own, "precious").unwrap();
    make(&test, "install-files", &root);
    make(&test, "uninstall", &root);
    assert_eq!((files(), fs::read_to_string(&own).unwrap()), (1, "precious".into()));
    fs::remove_file(own).unwrap();
    make(&test, "install-files", &root);
    make(&test, "uninstall", &root);
    assert_eq!(files(), 0);
    assert!(!root.join("opt/etc/dray").exists());
}

/// A container that is booted with systemd: its own root, the host's `/usr` and the host's network.
struct Machine {
    nspawn: Process,
    /// Its first process.
    init: u32,
    /// Of the control groups that are made for it.
    name: String,
}

/// Where control groups may be made, of whichever version.
const CGROUPS: [&str; 3] = ["/sys/fs/cgroup", "/sys/fs/cgroup/systemd", "/sys/fs/cgroup/unified"];

impl Machine {
    fn boot(root: &Path) -> Machine {
        for dir in ["usr", "etc/systemd/system", "var/log", "root", "proc", "sys", "dev", "run", "tmp"] {
            fs::create_dir_all(root.join(dir)).unwrap();
        }
        for link in ["bin", "sbin", "lib", "lib64"] {
            symlink(format!("usr/{link}"), root.join(link)).unwrap();
        }
        let file = |name: &str, text: &str| fs::write(root.join("etc").join(name), text).unwrap();
        file("os-release", "ID=dray-test\n");
        file("machine-id", "");
        file("passwd", "root:x:0:0::/root:/bin/sh\nmessagebus:x:100:100::/:/bin/false\n");
        file("group", "root:x:0:\nmessagebus:x:100:\ntenants:x:4242:\n");
        // No logins, no clean-up of old files: only what every service stands on.
        symlink("/lib/systemd/system/basic.target", root.join("etc/systemd/system/default.target")).unwrap();

        let name = format!("dray-test-{}", std::process::id());
        let mut command = Command::new("sh");
        let groups = CGROUPS.join(" ");
        let enter = format!(
            "for c in {groups}; do \
             if [ -e $c/cgroup.procs ]; then mkdir -p $c/{name} && echo $$ > $c/{name}/cgroup.procs; fi; done; \
             exec \"$@\""
        );
        command.args([
            "-c",
            &enter,
            "sh",
            "systemd-nspawn",
            "--quiet",
            "--register=no",
            "--keep-unit",
            "--machine",
            &name,
        ]);
        command
            .arg("--directory")
            .arg(root)
            .args(["--bind-ro=/usr", "--capability=CAP_NET_ADMIN", "--boot"])
            .stdin(Stdio::null());
        let mut machine = Machine { nspawn: Process::start(command), init: 0, name };
        machine.init = wait_for("the container to have a first process", || {
            let ended = machine.nspawn.ended();
            assert!(ended.is_none(), "systemd-nspawn: {ended:?}\n{}", machine.nspawn.printed());
            let child = run_any(&format!("pgrep --exact --parent {} systemd", machine.nspawn.id()));
            String::from_utf8_lossy(&child.stdout).trim().parse().ok()
        });
        wait_for("the container to be up", || {
            machine.run_any("systemctl is-active basic.target").status.success().then_some(())
        });
        machine
    }

    /// Runs a command in it.
    fn run_any(&self, command: &str) -> Output {
        run_any(&format!("nsenter --target {} --mount --pid --uts --ipc {command}", self.init))
    }

    /// What a command in it prints; it must succeed.
    fn run(&self, command: &str) -> String {
        let output = self.run_any(command);
        let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "{command}: {}\n{out}{err}\n{}", output.status, self.log());
        out.trim().into()
    }

    /// What a command in it says when it fails.
    fn fails(&self, command: &str) -> String {
        let output = self.run_any(command);
        assert!(!output.status.success(), "{command}: {}", String::from_utf8_lossy(&output.stdout));
        String::from_utf8_lossy(&output.stderr).into()
    }

    /// What the switch logged.
    fn log(&self) -> String {
        let output = self.run_any("journalctl --no-pager --output=cat --unit=dray --lines=60");
        String::from_utf8_lossy(&output.stdout).into()
    }

    /// A property of the unit.
    fn property(&self, name: &str) -> String {
        self.run(&format!("systemctl show --value --property={name} dray"))
    }

    fn main_pid(&self) -> u32 {
        self.property("MainPID").parse().unwrap()
    }

    /// The switch's process, as the host numbers it.
    fn host_pid(&self) -> u32 {
        run(&format!("pgrep --exact --parent {} drayd", self.init)).trim().parse().unwrap()
    }

    /// A file of it, as the host sees it.
    fn path(&self, path: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/root{path}", self.init))
    }

    fn inode(&self, path: &str) -> u64 {
        fs::symlink_metadata(self.path(path)).unwrap_or_else(|why| panic!("{path}: {why}\n{}", self.log())).ino()
    }

    /// Waits until another process than `old` is the switch and answers.
    fn wait_restarted(&self, old: u32) {
        let begin = Instant::now();
        loop {
            let status = self.run_any("/opt/dray/bin/dray status").status;
            if status.success() && ![0, old].contains(&self.main_pid()) {
                break;
            }
            assert!(begin.elapsed() < PATIENCE, "it does not come back\n{}", self.log());
            std::thread::sleep(Duration::from_millis(10));
        }
        assert_eq!(self.run("systemctl is-active dray"), "active");
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        // An orderly end takes a second or two.
        self.nspawn.signal(libc::SIGTERM);
        let begin = Instant::now();
        while self.nspawn.ended().is_none() && begin.elapsed() < Duration::from_secs(20) {
            std::thread::sleep(Duration::from_millis(50));
        }
        self.nspawn.signal(libc::SIGKILL);
        self.nspawn.wait();
        // It would go on without systemd-nspawn. The number is its own as long as the switch's machine has that root.
        if fs::read_to_string(format!("/proc/{}/cgroup", self.init)).is_ok_and(|groups| groups.contains(&self.name)) {
            run_any(&format!("kill -KILL {}", self.init));
        }
        for groups in CGROUPS {
            run_any(&format!("find {groups}/{} -depth -type d -exec rmdir {{}} +", self.name));
        }
    }
}

fn run_any(command: &str) -> Output {
    let words: Vec<&str> = command.split_whitespace().collect();
    Command::new(words[0]).args(&words[1..]).stdin(Stdio::null()).output().unwrap()
}

/// Stops one thread of a process until that is killed, as a CPU does that is given to something else.
fn stop_thread(tid: u32) {
    let (sender, stopped) = std::sync::mpsc::channel();
    // Whoever traces a thread is a thread.
    std::thread::spawn(move || {
        // SAFETY: both requests take numbers only.
        let done = unsafe {
            libc::ptrace(libc::PTRACE_SEIZE, tid, 0, 0) == 0 && libc::ptrace(libc::PTRACE_INTERRUPT, tid, 0, 0) == 0
        };
        sender.send(done).unwrap();
        let mut status = 0;
        // SAFETY: the status outlives the call. The first report is of the stop, the last of the end, which the process waits for.
        while unsafe { libc::waitpid(tid as i32, &mut status, libc::__WALL) } > 0 && libc::WIFSTOPPED(status) {}
    });
    assert!(stopped.recv().unwrap(), "tracing {tid}: {}", std::io::Error::last_os_error());
}

/// A pair of veth devices in the host's namespace, of which a port has one.
struct Veth(String);

impl Veth {
    fn new() -> Veth {
        let veth = Veth(format!("dr{}a", std::process::id()));
        run(&format!("ip link add {0} type veth peer name {0}b", veth.0));
        run(&format!("ip link set {} up", veth.0));
        run(&format!("ip link set {}b up", veth.0));
        veth
    }
}

impl Drop for Veth {
    fn drop(&mut self) {
        run_any(&format!("ip link del {}", self.0));
    }
}

#[test]
fn the_unit_in_a_booted_systemd() {
    let Some(test) = Test::alone() else { return };
    let root = test.path("root");
    make(&test, "install-files", &root);
    let machine = Machine::boot(&root);
    let veth = Veth::new();
    let config = format!(
        "[[worker]]\ncpu = 0\nidle-sleep = 200\n\
         [[port]]\nname = \"web\"\nkind = \"memif\"\nsocket = \"/run/dray/web/memif.sock\"\nsocket-group = \"tenants\"\n\
         [[port]]\nname = \"vm\"\nkind = \"vhost-user\"\nsocket = \"/run/dray/vm/vm.sock\"\n\
         [[port]]\nname = \"nic\"\nkind = \"eth\"\ndevice = \"net_af_packet0,iface={}\"\n\
         [[bridge]]\nname = \"blue\"\nports = [\"web\", \"vm\", \"nic\"]\n",
        veth.0
    );
    let file = root.join("opt/etc/dray/dray.toml");
    fs::write(&file, &config).unwrap();
    let unit = "/opt/dray/lib/systemd/system/dray.service";
    machine.run(&format!("systemctl link {unit}"));

    // A unit that has started answers; the devices, sockets and system calls that the switch needs are left to it.
    machine.run("systemctl start dray");
    assert_eq!(machine.run("systemctl is-active dray"), "active");
    assert!(machine.property("StatusText").contains("3 ports"), "{}", machine.property("StatusText"));
    machine.run("/opt/dray/bin/dray status");
    let up = |name: &str| {
        wait_for(&format!("{name} to be up\n{}", machine.log()), || {
            let text = machine.run(&format!("/opt/dray/bin/dray --json port show {name}"));
            text.contains("\"link\": \"up\"").then_some(())
        })
    };
    up("nic");
    // What it gets is for the machine to say that the test runs on.
    assert_eq!(machine.property("LimitNOFILE"), "1048576");
    let socket = fs::symlink_metadata(machine.path("/run/dray/web/memif.sock")).unwrap();
    assert_eq!((socket.mode() & 0o777, socket.gid()), (0o660, 4242));
    let attach = || {
        let options = ClientOptions { timeout: PATIENCE, ..ClientOptions::default() };
        let client = Client::connect(&SocketName::Path(machine.path("/run/dray/web/memif.sock")), 0, &options);
        let client = client.unwrap_or_else(|why| panic!("{why}\n{}", machine.log()));
        up("web");
        client
    };
    drop(attach());

    // What VMs and containers hold on to outlives a restart: their sockets, and the directory that they have mounted.
    fs::create_dir(machine.path("/run/dray/vm")).unwrap();
    let listener = UnixListener::bind(machine.path("/run/dray/vm/vm.sock")).unwrap();
    drop(listener.accept().unwrap());
    let inodes = || ["/run/dray", "/run/dray/web", "/run/dray/vm/vm.sock"].map(|path| machine.inode(path));
    let before = inodes();
    machine.run("systemctl restart dray");
    assert_eq!(inodes(), before);
    drop(listener.accept().unwrap());
    drop(attach());

    // It comes back however often it crashes.
    for _ in 0..7 {
        let pid = machine.main_pid();
        machine.run(&format!("kill -KILL {pid}"));
        machine.wait_restarted(pid);
    }
    assert_eq!(inodes(), before);

    // A file with a mistake is refused, and the old one runs on.
    let pid = machine.main_pid();
    fs::write(&file, config.replace("nic", "uplink")).unwrap();
    machine.run("systemctl reload dray");
    assert!(machine.run("/opt/dray/bin/dray port show").contains("uplink"));
    fs::write(&file, config.replace("kind", "knid")).unwrap();
    machine.fails("systemctl reload dray");
    assert!(machine.log().contains("unknown key \"knid\""), "{}", machine.log());
    assert_eq!((machine.run("systemctl is-active dray"), machine.main_pid()), ("active".into(), pid));
    assert!(machine.run("/opt/dray/bin/dray port show").contains("uplink"));
    fs::write(&file, &config).unwrap();
    // It saves its own file, for which it may write there.
    machine.run("/opt/dray/bin/dray config save");
    assert!(root.join("opt/etc/dray/dray.toml~").exists());

    let security = machine.run("systemd-analyze --no-pager security dray.service");
    let overall = security.lines().find_map(|line| line.split_once("Overall exposure level for dray.service: "));
    let level: f64 = overall.unwrap_or_else(|| panic!("{security}")).1.split(' ').next().unwrap().parse().unwrap();
    assert!(level <= 3.0, "{security}");

    // The watchdog is told for as long as all is well, and not once a worker stands still.
    fs::create_dir(root.join("etc/systemd/system/dray.service.d")).unwrap();
    fs::write(root.join("etc/systemd/system/dray.service.d/watchdog.conf"), "[Service]\nWatchdogSec=4\n").unwrap();
    machine.run("systemctl daemon-reload");
    machine.run("systemctl restart dray");
    let (pid, restarts) = (machine.main_pid(), machine.property("NRestarts"));
    std::thread::sleep(Duration::from_secs(9));
    assert_eq!((machine.main_pid(), machine.property("NRestarts")), (pid, restarts), "{}", machine.log());
    let threads =
        fs::read_dir(format!("/proc/{}/task", machine.host_pid())).unwrap().map(|entry| entry.unwrap().path());
    let is_worker = |path: &PathBuf| fs::read_to_string(path.join("comm")).unwrap().contains("worker");
    let worker = threads.into_iter().find(is_worker).expect("a worker");
    stop_thread(worker.file_name().unwrap().to_str().unwrap().parse().unwrap());
    machine.wait_restarted(pid);
    let log = machine.log();
    assert!(log.contains("watchdog: the worker on CPU "), "{log}");

    // A stop leaves nothing of the switch's own, and what is others'.
    machine.run("systemctl stop dray");
    assert!(
        !machine.path("/run/dray/control/dray.sock").exists() && !machine.path("/run/dray/web/memif.sock").exists()
    );
    assert_eq!(inodes(), before);
    // Not `Result`: in a container with control groups of version 1, nobody tells systemd of the end of what it has killed.
    let log = machine.log();
    assert!(log.trim_end().lines().rev().take(8).any(|line| line.starts_with("ended after ")), "{log}");
    // A signal's number, had one ended it.
    assert_eq!(machine.property("ExecMainStatus"), "0", "{log}");
}
