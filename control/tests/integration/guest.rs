//! Virtual machines: QEMU with the kernel and initramfs that `.ci/guest` makes, and a shell in each.

use crate::harness::*;
use dray_api::PortInfo;
use dray_config::Role;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::Instant;

/// How a guest's network device is made.
#[derive(Clone, Copy)]
pub struct Device<'a> {
    /// Queue pairs, and virtual CPUs, as the driver uses no more queues than there are CPUs.
    pub queues: u16,
    /// More of `virtio-net-pci`'s properties, as `packed=on,mrg_rxbuf=off`.
    pub properties: &'a str,
    /// Dray's side of the socket; QEMU has the other.
    pub dray: Role,
}

impl Default for Device<'_> {
    fn default() -> Self {
        Device { queues: 1, properties: "", dray: Role::Client }
    }
}

/// All that the driver and the device would do for TCP, switched off.
pub const NO_OFFLOADS: &str = "csum=off,guest_csum=off,gso=off,guest_tso4=off,guest_tso6=off,guest_ecn=off,guest_ufo=off,\
                               host_tso4=off,host_tso6=off,host_ecn=off,host_ufo=off";

/// Configuration of vhost-user ports on the sockets `DIR/NAME.sock`.
pub fn vhost_ports(names: &[&str]) -> String {
    let port = |name| format!("[[port]]\nname = {name:?}\nkind = \"vhost-user\"\nsocket = \"DIR/{name}.sock\"\n");
    names.iter().map(port).collect()
}

/// A worker that leaves the CPUs to the guests, for which QEMU translates every instruction.
pub const WORKER: &str = "[[worker]]\ncpu = 1\nidle-sleep = 50\n";

/// A running QEMU, whose guest is at its shell's prompt.
pub struct Guest {
    process: Process,
    /// Its port's name.
    name: String,
    shell: BufReader<UnixStream>,
    /// Commands given to the shell so far.
    commands: u32,
    monitor: BufReader<UnixStream>,
    console: PathBuf,
}

impl Guest {
    /// The address of guest `number`.
    pub fn address(number: u8) -> String {
        format!("192.168.7.{}", 10 + number)
    }

    /// Its other address.
    pub fn address6(number: u8) -> String {
        format!("fd00::{number}")
    }

    /// Its MAC address.
    pub fn mac(number: u8) -> String {
        mac(number.into()).map(|byte| format!("{byte:02x}")).join(":")
    }

    /// Boots guest `number` on Dray's port `name`, with the socket `DIR/NAME.sock`. QEMU waits until Dray has connected to it.
    pub fn start(test: &Test, name: &str, number: u8, device: Device) -> Guest {
        let mut guest = Self::launch(test, name, number, device, &[]);
        guest.wait_ready();
        guest
    }

    /// As [`Guest::start`], two that boot beside each other.
    pub fn start_two(test: &Test, [a, b]: [(&str, u8, Device); 2]) -> [Guest; 2] {
        let mut two = [a, b].map(|(name, number, device)| Self::launch(test, name, number, device, &[]));
        two.iter_mut().for_each(Guest::wait_ready);
        two
    }

    /// A QEMU that waits for guest `number` to move in from another, through the socket `DIR/NAME.migration`.
    pub fn incoming(test: &Test, name: &str, number: u8, device: Device) -> Guest {
        let from = format!("unix:{}", test.path(&format!("{name}.migration")).display());
        Self::launch(test, name, number, device, &["-incoming", &from])
    }

    fn launch(test: &Test, name: &str, number: u8, device: Device, more: &[&str]) -> Guest {
        let path = |what: &str| test.path(&format!("{name}.{what}"));
        let role = match device.dray {
            Role::Client => "server=on,wait=off",
            Role::Server => "reconnect=1",
        };
        let Device { queues, properties, .. } = device;
        // There is no KVM to rely on. Debian 12's QEMU ends itself without vectors=0: it has no place for MSI-X' interrupts.
        let mut nic = format!("virtio-net-pci,netdev=net,vectors=0,romfile=,mac={}", Self::mac(number));
        if queues > 1 {
            nic += ",mq=on";
        }
        if !properties.is_empty() {
            nic = format!("{nic},{properties}");
        }
        let addresses = format!("address={}/24 address6={}/64", Self::address(number), Self::address6(number));
        let mut command = Command::new("qemu-system-x86_64");
        command.args(["-smp", &queues.to_string(), "-m", "256"]);
        command.args(["-object", "memory-backend-memfd,id=memory,size=256M,share=on", "-numa", "node,memdev=memory"]);
        command.args(["-chardev", &format!("socket,id=dray,path={},{role}", path("sock").display())]);
        command.args(["-netdev", &format!("vhost-user,id=net,chardev=dray,queues={queues}"), "-device", &nic]);
        command.args(more);
        Self::boot(test, name, command, "", &addresses)
    }

    /// Boots what `.ci/guest` has put into a folder. `command` is a QEMU with the guest's own devices; the kernel gets these
    /// parameters beside those of every guest. Returns when QEMU's devices are there, not yet the guest.
    pub fn boot(test: &Test, name: &str, mut command: Command, folder: &str, parameters: &str) -> Guest {
        let files = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/guest").join(folder);
        assert!(files.join("initramfs").exists(), "there is nothing to boot: run .ci/guest");
        let path = |what: &str| test.path(&format!("{name}.{what}"));
        let (shell, monitor, console) = (path("shell"), path("monitor"), path("console"));
        command.args(["-accel", "tcg", "-nodefaults", "-display", "none"]);
        command.arg("-kernel").arg(files.join("vmlinuz")).arg("-initrd").arg(files.join("initramfs"));
        command.args(["-append", &format!("console=ttyS0 quiet {parameters}")]);
        command.args(["-serial", &format!("file:{}", console.display())]);
        command.args(["-serial", &format!("unix:{},server=on,wait=off", shell.display())]);
        command.args(["-qmp", &format!("unix:{},server=on,wait=off", monitor.display())]);
        command.stdin(Stdio::null());
        let mut process = Process::start(command);
        let mut connect = |path: &Path| {
            let stream = wait_for("QEMU to listen", || {
                let ended = process.ended();
                assert!(ended.is_none(), "QEMU ended: {ended:?}\n{}", process.printed());
                UnixStream::connect(path).ok()
            });
            stream.set_read_timeout(Some(PATIENCE)).unwrap();
            BufReader::new(stream)
        };
        let (shell, monitor) = (connect(&shell), connect(&monitor));
        let mut guest = Guest { process, name: name.into(), shell, commands: 0, monitor, console };
        // It greets once its devices are there, which may take Dray.
        guest.message();
        guest.monitor("qmp_capabilities", json!({}));
        guest
    }

    /// Waits until the guest is at its shell's prompt.
    pub fn wait_ready(&mut self) {
        while self.line() != "ready" {}
    }

    /// The shell's next line.
    fn line(&mut self) -> String {
        let mut line = Vec::new();
        self.shell.read_until(b'\n', &mut line).unwrap_or_else(|why| panic!("{}'s shell: {why}", self.name));
        assert!(line.pop() == Some(b'\n'), "{}'s shell is gone\n{}", self.name, self.process.printed());
        String::from_utf8_lossy(&line).into()
    }

    /// Runs a command in the guest. Panics with its output unless it succeeds.
    pub fn run(&mut self, command: &str) -> String {
        let (status, out) = self.attempt(command);
        assert_eq!(status, 0, "{}: {command}\n{out}", self.name);
        out
    }

    /// Runs a command in the guest: its exit status, and what it printed on standard output and error.
    pub fn attempt(&mut self, command: &str) -> (i32, String) {
        assert!(!command.contains('\n'));
        self.commands += 1;
        // As one piece: what only half arrives before a reset is no command.
        self.shell.get_mut().write_all(format!("{} {command}\n", self.commands).as_bytes()).unwrap();
        let end = format!("end {} ", self.commands);
        let mut out = String::new();
        loop {
            let line = self.line();
            if let Some(status) = line.strip_prefix(&end) {
                let out = out.strip_suffix('\n').unwrap_or(&out);
                return (status.parse().unwrap(), out.into());
            }
            out += &line;
            out.push('\n');
        }
    }

    /// Pings `count` times; every one must be answered.
    pub fn ping(&mut self, to: &str, count: u32, size: u32) {
        let printed = self.run(&format!("ping -q -c {count} -A -W 20 -s {size} {to}"));
        let wanted = format!("{count} packets transmitted, {count} packets received, 0% packet loss");
        assert!(printed.contains(&wanted), "{printed}");
    }

    /// Whether a single ping is answered.
    pub fn answers(&mut self, to: &str) -> bool {
        self.attempt(&format!("ping -q -c 1 -W 1 {to}")).0 == 0
    }

    /// Makes a file of random bytes that [`fetch`] gets. Its SHA-256.
    pub fn make_file(&mut self, megabytes: u32) -> String {
        self.run(&format!("dd if=/dev/urandom of=/srv/file bs=1M count={megabytes} 2>&1"));
        first_word(&self.run("sha256sum /srv/file"))
    }

    /// Gets `host`'s file. Its SHA-256.
    pub fn fetch(&mut self, host: &str) -> String {
        first_word(&self.run(&format!("{} </dev/null | sha256sum", fetch(host))))
    }

    /// The features of its device, as ethtool names them, that are on.
    pub fn features(&mut self) -> Vec<String> {
        let printed = self.run("ethtool -k eth0");
        let on = printed.lines().filter_map(|line| line.trim().split_once(": on"));
        on.map(|(name, _)| name.into()).collect()
    }

    /// Gives QEMU's monitor a command and waits for its answer.
    pub fn monitor(&mut self, command: &str, arguments: Value) -> Value {
        let line = format!("{}\n", json!({ "execute": command, "arguments": arguments }));
        self.monitor.get_mut().write_all(line.as_bytes()).unwrap();
        loop {
            let mut message = self.message();
            assert!(message.get("error").is_none(), "{}: {command}: {message}", self.name);
            if let Some(answer) = message.get_mut("return") {
                return answer.take();
            }
        }
    }

    /// Has QEMU pull out a device, and waits until the guest has let it go.
    pub fn unplug(&mut self, id: &str) {
        self.monitor("device_del", json!({ "id": id }));
        loop {
            let message = self.message();
            if message["event"] == "DEVICE_DELETED" && message["data"]["device"] == id {
                return;
            }
        }
    }

    /// The monitor's next message: an answer, or news.
    fn message(&mut self) -> Value {
        let mut line = String::new();
        self.monitor.read_line(&mut line).unwrap_or_else(|why| panic!("{}'s monitor: {why}", self.name));
        assert!(!line.is_empty(), "{}'s monitor is gone\n{}", self.name, self.process.printed());
        serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line}"))
    }

    /// Presses the reset button. Returns when the guest has booted again.
    pub fn reset(&mut self) {
        self.monitor("system_reset", json!({}));
        self.wait_ready();
    }

    /// The guest boots again of its own accord. Returns when it has.
    pub fn reboot(&mut self) {
        self.shell.get_mut().write_all(b"0 reboot -f\n").unwrap();
        self.wait_ready();
    }

    /// Takes the driver away from the device, and gives it back.
    pub fn rebind(&mut self) {
        let driver = "/sys/bus/virtio/drivers/virtio_net";
        self.run(&format!("cd {driver}; echo virtio0 >unbind; sleep 0.2; echo virtio0 >bind; configure"));
    }

    /// Moves the guest to the QEMU of [`Guest::incoming`], which has its shell from now on. This one stands still.
    pub fn migrate(&mut self, test: &Test, to: &mut Guest) {
        let uri = format!("unix:{}", test.path(&format!("{}.migration", to.name)).display());
        self.monitor("migrate", json!({ "uri": uri }));
        wait_for("the migration", || {
            let state = self.monitor("query-migrate", json!({}));
            let status = state["status"].as_str().unwrap();
            assert!(!["failed", "cancelled"].contains(&status), "{state}\n{}", to.process.printed());
            (status == "completed").then_some(())
        });
        to.commands = self.commands;
    }

    /// QEMU ends as a crash ends it.
    pub fn kill(&mut self) {
        self.process.signal(libc::SIGKILL);
        self.process.wait();
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        if thread::panicking() {
            let console = std::fs::read(&self.console).unwrap_or_default();
            eprintln!("--- {}: QEMU ---\n{}", self.name, self.process.printed());
            eprintln!("--- {}: console ---\n{}\n----------", self.name, String::from_utf8_lossy(&console));
        }
    }
}

/// A guest with this machine's files, in which drayd runs.
pub struct Inside<'a> {
    test: &'a Test,
    pub guest: Guest,
    /// Times that drayd was started in it.
    starts: u32,
}

impl<'a> Inside<'a> {
    /// Boots one; `command` is a QEMU with devices of its own, and these are parameters of its kernel.
    pub fn boot(test: &'a Test, mut command: Command, parameters: &str) -> Inside<'a> {
        // Dray wants AVX2.
        command.args(["-machine", "q35", "-smp", "2", "-cpu", "max", "-m", "1024"]);
        // The programs that the test runs in it, and their libraries, are this machine's.
        command.args(["-fsdev", "local,id=host,path=/,security_model=none,readonly=on,multidevs=remap"]);
        command.args(["-device", "virtio-9p-pci,fsdev=host,mount_tag=host"]);
        let mut guest = Guest::boot(test, "machine", command, "nic", parameters);
        guest.wait_ready();
        Inside { test, guest, starts: 0 }
    }

    /// Starts drayd with these ports and bridges and waits until it is ready.
    pub fn start(&mut self, config: &str) {
        self.start_another("drayd", config);
        wait_for("drayd to be ready", || {
            assert!(self.runs(), "drayd ended:\n{}", self.log());
            self.log().contains("ready: control socket").then_some(())
        });
    }

    /// Starts a drayd of this name and does not wait: /host/run has its log, its number and its socket.
    pub fn start_another(&mut self, name: &str, config: &str) {
        self.starts += 1;
        let worker = "[[worker]]\ncpu = 1\nidle-sleep = 100\n";
        let control = format!("[control]\nsocket = \"/run/{name}.sock\"\n");
        // A new name each time: the guest may believe that it knows what is in a file.
        let file = self.test.file(&format!("{}.toml", self.starts), &format!("{worker}{config}{control}"));
        let drayd = env!("CARGO_BIN_EXE_drayd");
        let run = format!("chroot /host {drayd} --config {} >/host/run/{name}.log 2>&1", file.display());
        self.guest.run(&format!("{run} & echo $! >/host/run/{name}.pid"));
    }

    /// Every packet is accounted for, and SIGTERM ends it cleanly.
    pub fn stop(&mut self) {
        // A frame that moves between the two answers is in one of them only.
        for attempt in 0.. {
            let (status, ports) = (self.json("status"), self.json::<Vec<PortInfo>>("port show"));
            if is_conserved(&status, &ports) {
                break;
            }
            assert!(attempt < 20, "{status:#?}\n{ports:#?}");
            sleep_ms(100);
        }
        self.guest.run("kill $(cat /host/run/drayd.pid)");
        wait_for("drayd to end", || (!self.runs()).then_some(()));
        let log = self.log();
        assert!(log.contains("ended after") && !log.contains("panicked at"), "{log}");
    }

    /// Whether drayd has not ended.
    pub fn runs(&mut self) -> bool {
        self.guest.attempt("test -e /proc/$(cat /host/run/drayd.pid)/exe").0 == 0
    }

    pub fn log(&mut self) -> String {
        self.guest.attempt("cat /host/run/drayd.log").1
    }

    /// What `dray --json ARGS` answers in the guest.
    pub fn json<T: DeserializeOwned>(&mut self, args: &str) -> T {
        let dray = dray().display().to_string();
        let (status, out) = self.guest.attempt(&format!("chroot /host {dray} --socket /run/drayd.sock --json {args}"));
        assert_eq!(status, 0, "dray {args}: {out}\n{}", self.log());
        serde_json::from_str(&out).unwrap_or_else(|error| panic!("dray {args}: {error}\n{out}"))
    }

    pub fn port(&mut self, name: &str) -> PortInfo {
        self.json::<Vec<PortInfo>>(&format!("port show {name}")).remove(0)
    }

    /// Waits until the port is up. Longer than for other things: e1000e's driver takes 100,000 pauses to close a device that
    /// is gone, which are long in a guest.
    pub fn wait_up(&mut self, name: &str) {
        let begin = Instant::now();
        while self.port(name).link != "up" {
            assert!(begin.elapsed() < 3 * PATIENCE, "{name} is not up");
            sleep_ms(200);
        }
    }
}

impl Drop for Inside<'_> {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("--- drayd's log ---\n{}\n-------------------", self.log());
        }
    }
}

/// The command with which a guest, or the kernel with busybox, gets the file of `host`.
pub fn fetch(host: &str) -> String {
    format!("nc -w 30 {host} {FILE_PORT}")
}

/// The first word of what a command printed.
pub fn first_word(text: &str) -> String {
    text.split_whitespace().next().unwrap_or_default().into()
}
