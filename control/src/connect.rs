//! How other programs attach to a port, ready to paste.

use dray_config::rpc::ConnectInfo;
use dray_config::{Memif, Port, PortKind, Role, SocketName};

/// A way to attach to `port` for each program that can.
pub fn connect(port: &Port) -> Vec<ConnectInfo> {
    let info = |program: &str, text: String| ConnectInfo { program: program.into(), text };
    match &port.kind {
        PortKind::Memif(memif) => {
            vec![info("testpmd", testpmd(memif)), info("Pktgen-DPDK", pktgen(memif)), info("VPP", vpp(memif, port.mtu))]
        }
        PortKind::Eth(eth) => {
            let text = format!("nothing attaches: the port is the device {:?}, which drayd drives", eth.device);
            vec![info("eth", text)]
        }
    }
}

/// The role that the peer has.
fn is_peer_client(memif: &Memif) -> bool {
    memif.role == Role::Server
}

/// DPDK's device arguments.
fn vdev(memif: &Memif) -> String {
    let role = if is_peer_client(memif) { "client" } else { "server" };
    let mut vdev = format!("net_memif0,role={role},id={}", memif.id);
    match &memif.socket {
        SocketName::Path(path) => vdev += &format!(",socket={},socket-abstract=no", path.display()),
        SocketName::Abstract(name) => vdev += &format!(",socket={name},socket-abstract=yes"),
    }
    vdev += &format!(",rsize={},bsize={}", memif.ring_size.ilog2(), memif.buffer_size);
    if let Some(secret) = &memif.secret {
        vdev += &format!(",secret={secret}");
    }
    quote(&vdev)
}

/// For a shell.
fn quote(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "=,._/:@-".contains(c);
    if word.chars().all(plain) { word.into() } else { format!("'{}'", word.replace('\'', r"'\''")) }
}

fn testpmd(memif: &Memif) -> String {
    let queues = memif.queues;
    let queues = if queues == 1 { String::new() } else { format!(" --rxq={queues} --txq={queues}") };
    let vdev = vdev(memif);
    format!(
        "dpdk-testpmd --lcores '0@0,1@1' --no-pci --no-huge -m 256 --file-prefix memif{} \\\n  --vdev {vdev} -- -i --total-num-mbufs=16384{queues}",
        memif.id
    )
}

fn pktgen(memif: &Memif) -> String {
    let vdev = vdev(memif);
    format!("pktgen -l 0-1 --no-pci --file-prefix pktgen{} \\\n  --vdev {vdev} -- -P -m '1.0'", memif.id)
}

fn vpp(memif: &Memif, mtu: u16) -> String {
    let (socket, id, queues) = (&memif.socket, memif.id, memif.queues);
    let role = if is_peer_client(memif) { "slave" } else { "master" };
    let secret = memif.secret.as_ref().map(|secret| format!(" secret {secret}")).unwrap_or_default();
    let mtu = mtu.min(9000);
    format!(
        "vppctl create memif socket id 1 filename {socket}\n\
         vppctl create interface memif socket-id 1 id {id} {role} ring-size {} buffer-size {} \
         rx-queues {queues} tx-queues {queues}{secret}\n\
         vppctl set interface mtu packet {mtu} memif1/{id}\n\
         vppctl set interface state memif1/{id} up",
        memif.ring_size, memif.buffer_size
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(keys: &str) -> Vec<String> {
        let text = format!("[[port]]\nname = 'web'\n{}\n", keys.replace(';', "\n"));
        let config = dray_config::parse_for("test", &text, &[]).unwrap_or_else(|errors| panic!("{errors}"));
        connect(&config.ports[0]).into_iter().map(|info| info.text).collect()
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
    fn nothing_attaches_to_a_nic() {
        assert!(texts("kind='eth';device='0000:3b:00.0'")[0].contains("0000:3b:00.0"));
    }
}
