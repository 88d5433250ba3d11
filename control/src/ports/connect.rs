//! How other programs attach to a port, ready to paste.

use dray_config::rpc::ConnectInfo;
use dray_config::{Mac, Memif, Port, PortKind, Role, SocketName, VhostUser};
use dray_vhost::mem::ORDINARY_MAX;

/// A way to attach to `port` for each program that can. A port that is the underlay uses its address itself. More queue
/// pairs than `workers` gain a VM nothing. `mtu` is what a guest is told, bytes.
pub fn connect(port: &Port, is_underlay: bool, workers: usize, mtu: u16) -> Vec<ConnectInfo> {
    let tried = |program: &str, text: String| ConnectInfo { program: program.into(), text, note: None };
    let noted = |program: &str, text: String, note: &str| ConnectInfo {
        program: program.into(),
        text,
        note: Some(note.into()),
    };
    match &port.kind {
        PortKind::Memif(memif) => vec![
            tried("testpmd", testpmd(memif)),
            noted("Pktgen-DPDK", pktgen(memif), PKTGEN),
            noted("VPP", vpp(memif, mtu), NOT_TRIED),
        ],
        PortKind::VhostUser(vhost_user) => {
            let vm = Vm {
                socket: &vhost_user.socket,
                listens: vhost_user.role == Role::Client,
                queues: workers.min(vhost_user.queues.into()),
                mac: (!is_underlay).then_some(port.mac),
                mtu,
            };
            let mut infos = vec![tried("QEMU", vm.qemu(vhost_user))];
            // The others know no abstract names.
            if let SocketName::Path(path) = &vhost_user.socket {
                let path = path.display().to_string();
                infos.push(noted("libvirt", vm.libvirt(&path), NOT_TRIED));
                infos.push(noted("Cloud Hypervisor", vm.cloud_hypervisor(&path), NOT_TRIED));
                infos.push(tried("testpmd", vm.testpmd(&path, &port.name)));
            }
            infos
        }
        PortKind::Eth(eth) => {
            let text = format!("nothing attaches: the port is the device {:?}, which drayd drives", eth.device);
            vec![tried("eth", text)]
        }
    }
}

const NOT_TRIED: &str = "not run by Dray's tests, as Debian 12 has no package that they could use";

/// `rte_eth_dev_set_mtu` came into Pktgen in 23.03, went in 24.07 and came back in 25.08; DPDK's memif has no such operation.
const PKTGEN: &str = "22.07 and older, and 24.07 to 25.07; the others set an MTU, which DPDK's memif can't, and stop: \
                      in their app/pktgen-port-cfg.c let that be pktgen_log_warning. Tried with 24.07, not by Dray's tests";

/// The role that the peer has.
fn is_peer_client(memif: &Memif) -> bool {
    memif.role == Role::Server
}

/// What a program can't be given, as a comment.
fn impossible(program: &str, cannot: &str) -> String {
    format!("# {program} can't be given this socket or secret: {cannot}")
}

/// DPDK splits a device's arguments at `,` and each at `=`, and nothing quotes these; a `[` hides commas (rte_kvargs, DPDK 22.11).
fn fits_devargs(value: &str) -> bool {
    !value.contains([',', '=', '['])
}

const DEVARGS: &str = "\",\", \"=\" and \"[\" are DPDK's own there; choose others, or another program";

/// DPDK's device arguments, if they can hold what is to be in them.
fn vdev(memif: &Memif) -> Option<String> {
    let role = if is_peer_client(memif) { "client" } else { "server" };
    let (socket, is_abstract) = match &memif.socket {
        SocketName::Path(path) => (path.display().to_string(), "no"),
        SocketName::Abstract(name) => (name.clone(), "yes"),
    };
    if !fits_devargs(&socket) || !memif.secret.as_deref().is_none_or(fits_devargs) {
        return None;
    }
    let mut vdev = format!("net_memif0,role={role},id={},socket={socket},socket-abstract={is_abstract}", memif.id);
    // It keeps the size of a buffer in 16 bits, and all rings' buffers, beside the rings, in one region.
    let buffers = 2 * u64::from(memif.queues) * u64::from(memif.ring_size);
    let buffer_size = u64::from(memif.buffer_size).min(u16::MAX.into()).min(ORDINARY_MAX / 2 / buffers);
    vdev += &format!(",rsize={},bsize={buffer_size}", memif.ring_size.ilog2());
    if let Some(secret) = &memif.secret {
        vdev += &format!(",secret={secret}");
    }
    Some(quote(&vdev))
}

/// For a shell.
fn quote(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "=,._/:@-".contains(c);
    if word.chars().all(plain) { word.into() } else { format!("'{}'", word.replace('\'', r"'\''")) }
}

fn testpmd(memif: &Memif) -> String {
    let queues = memif.queues;
    let queues = if queues == 1 { String::new() } else { format!(" --rxq={queues} --txq={queues}") };
    let Some(vdev) = vdev(memif) else { return impossible("testpmd", DEVARGS) };
    format!(
        "dpdk-testpmd --lcores '0@0,1@1' --no-pci --no-huge -m 256 --file-prefix memif{} \\\n  --vdev {vdev} -- -i --total-num-mbufs=16384{queues}",
        memif.id
    )
}

fn pktgen(memif: &Memif) -> String {
    let Some(vdev) = vdev(memif) else { return impossible("Pktgen-DPDK", DEVARGS) };
    format!(
        "pktgen -l 0-1 --no-pci --no-huge -m 512 --file-prefix pktgen{} \\\n  --vdev {vdev} -- -P -m '1.0'",
        memif.id
    )
}

fn vpp(memif: &Memif, mtu: u16) -> String {
    let (id, queues) = (memif.id, memif.queues);
    let socket = memif.socket.to_string();
    // vppctl hands its arguments on as one line, which VPP splits at blanks.
    if socket.contains(char::is_whitespace) || memif.secret.as_ref().is_some_and(|s| s.contains(char::is_whitespace)) {
        return impossible("VPP", "its command line has no way to write a blank");
    }
    let role = if is_peer_client(memif) { "slave" } else { "master" };
    let secret = memif.secret.as_ref().map(|secret| format!(" secret {}", quote(secret))).unwrap_or_default();
    let mtu = mtu.min(9000);
    format!(
        "vppctl create memif socket id 1 filename {}\n\
         vppctl create interface memif socket-id 1 id {id} {role} ring-size {} buffer-size {} \
         rx-queues {queues} tx-queues {queues}{secret}\n\
         vppctl set interface mtu packet {mtu} memif1/{id}\n\
         vppctl set interface state memif1/{id} up",
        quote(&socket),
        memif.ring_size,
        memif.buffer_size
    )
}

/// The VM's side of a vhost-user port.
struct Vm<'a> {
    socket: &'a SocketName,
    /// Else it connects.
    listens: bool,
    queues: usize,
    mac: Option<Mac>,
    /// Bytes.
    mtu: u16,
}

impl Vm<'_> {
    /// `,mac=..`, if it has one.
    fn mac(&self) -> String {
        self.mac.map(|mac| format!(",mac={mac}")).unwrap_or_default()
    }

    fn qemu(&self, port: &VhostUser) -> String {
        let queues = self.queues;
        let chardev = match self.socket {
            // In QEMU's arguments a comma is written twice.
            SocketName::Path(path) => format!("path={}", path.display().to_string().replace(',', ",,")),
            SocketName::Abstract(name) => format!("path={},abstract=on", name.replace(',', ",,")),
        };
        let role = if self.listens { "server=on,wait=off" } else { "reconnect=1" };
        let chardev = quote(&format!("socket,id=char0,{chardev},{role}"));
        let (of_netdev, of_device) = match queues {
            1 => (String::new(), String::new()),
            // Two vectors for each pair, one for the control queue, one for changes of the configuration.
            n => (format!(",queues={n}"), format!(",mq=on,vectors={}", 2 * n + 2)),
        };
        let more = match port.queues {
            1 => String::new(),
            most => format!("\n# up to queues={most}; for N of them add mq=on,vectors=2N+2"),
        };
        format!(
            "qemu-system-x86_64 -m 1G -object memory-backend-memfd,id=mem,size=1G,share=on -numa node,memdev=mem \\\n  \
             -chardev {chardev} -netdev vhost-user,id=net0,chardev=char0{of_netdev} \\\n  \
             -device virtio-net-pci,netdev=net0{}{of_device},host_mtu={},mrg_rxbuf=on,rx_queue_size=1024,tx_queue_size=1024{more}",
            self.mac(),
            self.mtu
        )
    }

    fn libvirt(&self, path: &str) -> String {
        let path = path.replace('&', "&amp;").replace('\'', "&apos;").replace('<', "&lt;");
        let source = if self.listens {
            format!("<source type='unix' path='{path}' mode='server'/>")
        } else {
            format!(
                "<source type='unix' path='{path}' mode='client'>\n    <reconnect enabled='yes' timeout='1'/>\n  </source>"
            )
        };
        let mac = self.mac.map(|mac| format!("  <mac address='{mac}'/>\n")).unwrap_or_default();
        let queues = if self.queues == 1 { String::new() } else { format!(" queues='{}'", self.queues) };
        format!(
            "<memoryBacking>\n  <source type='memfd'/>\n  <access mode='shared'/>\n</memoryBacking>\n\
             <!-- and among the devices: -->\n\
             <interface type='vhostuser'>\n{mac}  {source}\n  <model type='virtio'/>\n  \
             <driver{queues} rx_queue_size='1024' tx_queue_size='1024'/>\n  <mtu size='{}'/>\n</interface>",
            self.mtu
        )
    }

    fn cloud_hypervisor(&self, path: &str) -> String {
        let mode = if self.listens { "server" } else { "client" };
        // Its option parser has quotes and brackets of its own.
        if path.contains([',', '"', '[']) {
            return impossible("Cloud Hypervisor", "a comma, a quote or a bracket is its own there");
        }
        // It counts rings, not pairs.
        let net = format!(
            "vhost_user=on,socket={path},vhost_mode={mode},num_queues={},queue_size=1024,mtu={}{}",
            2 * self.queues,
            self.mtu,
            self.mac()
        );
        format!("cloud-hypervisor --memory size=1G,shared=on --net {}", quote(&net))
    }

    fn testpmd(&self, path: &str, name: &str) -> String {
        if !fits_devargs(path) {
            return impossible("testpmd", DEVARGS);
        }
        // virtio-user refuses more (VIRTIO_MAX_VIRTQUEUE_PAIRS, DPDK 22.11).
        let queues = self.queues.min(8);
        let server = if self.listens { ",server=1" } else { "" };
        let vdev = format!("net_virtio_user0,path={path}{server},queues={queues},queue_size=1024{}", self.mac());
        let queues = if queues == 1 { String::new() } else { format!(" --rxq={queues} --txq={queues}") };
        format!(
            "dpdk-testpmd --lcores '0@0,1@1' --no-pci --no-huge -m 256 --file-prefix {} \\\n  --vdev {} -- -i --total-num-mbufs=16384{queues}",
            quote(name),
            quote(&vdev)
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(keys: &str) -> Vec<String> {
        texts_for(keys, false, 1)
    }

    fn texts_for(keys: &str, is_underlay: bool, workers: usize) -> Vec<String> {
        let text = format!("[[port]]\nname = 'web'\n{}\n", keys.replace(';', "\n"));
        let config = dray_config::parse_for("test", &text, &[]).unwrap_or_else(|errors| panic!("{errors}"));
        connect(&config.ports[0], is_underlay, workers, 1450).into_iter().map(|info| info.text).collect()
    }

    #[test]
    fn a_server_is_attached_to_by_clients() {
        let texts = texts("kind='memif';socket='/run/m.sock';id=7;ring-size=512;queues=2");
        assert!(texts[0].contains(
            "--vdev net_memif0,role=client,id=7,socket=/run/m.sock,socket-abstract=no,rsize=9,bsize=2048 -- -i --total-num-mbufs=16384 --rxq=2 --txq=2"
        ));
        assert!(texts[2].starts_with("vppctl create memif socket id 1 filename /run/m.sock\n"));
        assert!(
            texts[2].contains("memif socket-id 1 id 7 slave ring-size 512 buffer-size 2048 rx-queues 2 tx-queues 2\n")
        );
    }

    #[test]
    fn a_client_is_attached_to_by_servers() {
        let texts = texts("kind='memif';socket='@fw';role='client';secret=\"it's\"");
        assert!(texts[0].contains(
            r"--vdev 'net_memif0,role=server,id=0,socket=fw,socket-abstract=yes,rsize=10,bsize=2048,secret=it'\''s' -- -i"
        ));
        assert!(texts[2].contains("id 0 master "));
    }

    #[test]
    fn what_a_program_cannot_be_given_is_said() {
        for secret in ["a,b", "a=b", "[a]"] {
            let texts = texts(&format!("kind='memif';socket='/m.sock';secret='{secret}'"));
            assert!(
                texts[0].starts_with("# testpmd can't") && texts[1].starts_with("# Pktgen-DPDK can't"),
                "{texts:?}"
            );
            assert!(texts[2].contains(&format!(" secret {}", quote(secret))), "{texts:?}");
        }
        let texts = texts("kind='memif';socket='/a b.sock';buffer-size=65536");
        assert!(texts[0].contains("'net_memif0,role=client,id=0,socket=/a b.sock,"), "{texts:?}");
        assert!(texts[0].contains(",bsize=65535'") && texts[2].starts_with("# VPP can't"), "{texts:?}");
    }

    #[test]
    fn a_vm_listens_for_a_client() {
        let texts = texts("kind='vhost-user';socket='/run/vm.sock';mac='02:00:00:00:00:07'");
        assert_eq!(
            texts[0],
            "qemu-system-x86_64 -m 1G -object memory-backend-memfd,id=mem,size=1G,share=on -numa node,memdev=mem \\\n  \
             -chardev socket,id=char0,path=/run/vm.sock,server=on,wait=off -netdev vhost-user,id=net0,chardev=char0 \\\n  \
             -device virtio-net-pci,netdev=net0,mac=02:00:00:00:00:07,host_mtu=1450,mrg_rxbuf=on,rx_queue_size=1024,tx_queue_size=1024\n\
             # up to queues=16; for N of them add mq=on,vectors=2N+2"
        );
        assert!(texts[1].contains("<source type='unix' path='/run/vm.sock' mode='server'/>"), "{}", texts[1]);
        assert!(texts[1].contains("<mac address='02:00:00:00:00:07'/>"), "{}", texts[1]);
        assert!(texts[2].contains(",vhost_mode=server,num_queues=2,"), "{}", texts[2]);
        assert!(texts[3].contains(
            "--vdev net_virtio_user0,path=/run/vm.sock,server=1,queues=1,queue_size=1024,mac=02:00:00:00:00:07 -- -i"
        ));
    }

    #[test]
    fn a_vm_connects_to_a_server() {
        let texts = texts_for("kind='vhost-user';role='server';queues=4;socket=\"/it's,&.sock\"", true, 8);
        assert!(texts[0].contains(
            r"-chardev 'socket,id=char0,path=/it'\''s,,&.sock,reconnect=1' -netdev vhost-user,id=net0,chardev=char0,queues=4 "
        ));
        assert!(texts[0].contains(" -device virtio-net-pci,netdev=net0,mq=on,vectors=10,"), "{}", texts[0]);
        assert!(texts[1].contains("path='/it&apos;s,&amp;.sock' mode='client'>\n    <reconnect "), "{}", texts[1]);
        assert!(texts[1].contains("<driver queues='4' ") && !texts[1].contains("<mac"), "{}", texts[1]);
        assert!(
            texts[2].starts_with("# Cloud Hypervisor can't") && texts[3].starts_with("# testpmd can't"),
            "{texts:?}"
        );
        let texts = texts_for("kind='vhost-user';role='server';queues=4;socket=\"/it's.sock\"", true, 8);
        assert!(texts[3].contains(",queues=4,queue_size=1024' -- -i --total-num-mbufs=16384 --rxq=4 --txq=4"));
        assert!(texts_for("kind='vhost-user';socket='/vm.sock'", false, 16)[3].contains(",queues=8,"));
    }

    #[test]
    fn abstract_names_are_for_qemu() {
        let texts = texts("kind='vhost-user';socket='@vm';queues=1");
        assert_eq!(texts.len(), 1);
        assert!(texts[0].contains("path=vm,abstract=on,server=on,wait=off ") && !texts[0].contains('#'));
    }

    #[test]
    fn nothing_attaches_to_a_nic() {
        assert!(texts("kind='eth';device='0000:3b:00.0'")[0].contains("0000:3b:00.0"));
    }
}
