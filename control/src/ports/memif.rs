//! memif: shared memory with a container. One thread keeps the links of all ports.

use super::connect::{DEVARGS, NOT_TRIED, fits_devargs, impossible, noted, quote, tried};
use super::mailbox::Mailbox;
use super::peer::{self, About};
use super::{Claim, Driver, Guest, Host, Kind, max_frame};
use dray_api::{ConnectInfo, MemifDetail, PortDetail, PortInfo};
use dray_config::{Memif, Port, Role, SocketName};
use dray_vhost::LinkInfo;
use dray_vhost::mem::ORDINARY_MAX;
use dray_vhost::memif::{self, PortSpec, Supervisor};
use std::collections::BTreeMap;

/// Starts the thread.
///
/// # Errors
/// If the kernel gives no thread, epoll or eventfd.
pub fn start(mailbox: &Mailbox, workers: usize) -> Result<Supervisor, String> {
    Supervisor::start(peer::post(mailbox, workers, about))
}

impl Kind for Memif {
    fn claim(&self) -> Claim {
        Claim { what: format!("socket {}", self.socket), part: Some((self.role, self.id)) }
    }

    fn descriptors(&self, common: &mut BTreeMap<String, u64>) -> u64 {
        if self.role == Role::Server {
            common.insert(format!("memif {}", self.socket), memif::DESCRIPTORS_OF_SOCKET);
        }
        memif::descriptors_of_port(self.queues)
    }

    fn connect(&self, guest: &Guest<'_>) -> Vec<ConnectInfo> {
        vec![
            tried("testpmd", testpmd(self)),
            noted("Pktgen-DPDK", pktgen(self), PKTGEN),
            noted("VPP", vpp(self, guest.mtu), NOT_TRIED),
        ]
    }

    fn describe(&self, info: &mut PortInfo) {
        info.queues = self.queues;
        let [socket_mode, socket_owner, socket_group] = peer::access(self.role, &self.socket, &self.access);
        info.detail = PortDetail::Memif(MemifDetail {
            socket: self.socket.to_string(),
            socket_mode,
            socket_owner,
            socket_group,
            id: self.id,
            role: self.role,
            ring_size: self.ring_size,
            buffer_size: self.buffer_size,
            ..MemifDetail::default()
        });
    }

    fn open(&self, port: &Port, _own_mac: bool, host: &Host) -> Result<(Box<dyn Driver>, String), String> {
        let spec = PortSpec { name: port.name.clone(), memif: self.clone(), max_frame: max_frame(port) };
        host.memif.add(spec)?;
        let reason = match self.role {
            Role::Server => "no peer has connected",
            Role::Client => "not connected yet",
        };
        Ok((Box::new(Kept { name: port.name.clone() }), reason.into()))
    }
}

/// A port whose link the thread keeps.
struct Kept {
    name: String,
}

impl Driver for Kept {
    fn update(&mut self, port: &Port, host: &Host) {
        host.memif.set_max_frame(&self.name, max_frame(port));
    }

    fn close(&mut self, host: &Host, _stays: bool) {
        host.memif.remove(&self.name);
    }
}

fn about(info: LinkInfo) -> About {
    let LinkInfo::Memif(peer) = info else { unreachable!("the thread keeps memif ports") };
    let rings = |n: u16| if n == 1 { "1 ring".to_owned() } else { format!("{n} rings") };
    About {
        text: format!(
            "peer {:?}, {} in, {} out, ring size {}{}",
            peer.peer,
            rings(peer.rx_rings),
            rings(peer.tx_rings),
            peer.ring_size,
            peer::sealed(peer.sealed)
        ),
        // Workers have rings of their own, and the peer looks at them in whatever order it likes.
        in_order: peer.tx_rings == 1,
        describe: Box::new(move |info| {
            info.queues = peer.rx_rings.max(peer.tx_rings);
            let PortDetail::Memif(detail) = &mut info.detail else { return };
            (detail.ring_size, detail.buffer_size) = (peer.ring_size, peer.buffer_size);
            detail.peer = Some(peer.peer.clone());
            detail.peer_interface = Some(peer.interface.clone());
            (detail.rx_rings, detail.tx_rings) = (Some(peer.rx_rings), Some(peer.tx_rings));
            detail.sealed = Some(peer.sealed);
        }),
    }
}

/// `rte_eth_dev_set_mtu` came into Pktgen in 23.03, went in 24.07 and came back in 25.08; DPDK's memif has no such operation.
const PKTGEN: &str = "22.07 and older, and 24.07 to 25.07; the others set an MTU, which DPDK's memif can't, and stop: \
                      in their app/pktgen-port-cfg.c let that be pktgen_log_warning. Tried with 24.07, not by Dray's tests";

/// The role that the peer has.
fn is_peer_client(memif: &Memif) -> bool {
    memif.role == Role::Server
}

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

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(keys: &str) -> Vec<String> {
        crate::ports::connect::texts(keys, false, 1)
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
}
