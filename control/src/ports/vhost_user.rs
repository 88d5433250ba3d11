//! vhost-user: shared memory with a virtual machine. Each port has a thread of its own.

use super::connect::{DEVARGS, NOT_TRIED, fits_devargs, impossible, noted, quote, tried};
use super::peer::{self, About};
use super::{Claim, Driver, Guest, Host, Kind, Metric, Sample, max_frame};
use dray_api::{ConnectInfo, PortDetail, PortInfo, RingInfo, RingLayout, VhostUserDetail};
use dray_config::{Mac, Port, Role, SocketName, VhostUser};
use dray_vhost::LinkInfo;
use dray_vhost::vhost_user::{self, PortSpec, RingStatus};
use std::collections::BTreeMap;

pub static INTERRUPTS: Metric =
    Metric { name: "dray_port_interrupts", help: "Interrupts sent to a virtual machine, by ring." };
pub static RESETS: Metric = Metric {
    name: "dray_port_resets",
    help: "Connections to a virtual machine reset for what it did wrong, by reason.",
};

impl Kind for VhostUser {
    fn claim(&self) -> Claim {
        Claim { what: format!("socket {}", self.socket), part: None }
    }

    fn descriptors(&self, _common: &mut BTreeMap<String, u64>) -> u64 {
        vhost_user::descriptors_of_port(self.queues)
    }

    fn connect(&self, guest: &Guest<'_>) -> Vec<ConnectInfo> {
        let vm = Vm {
            socket: &self.socket,
            listens: self.role == Role::Client,
            queues: guest.workers.min(self.queues.into()),
            mac: (!guest.is_underlay).then_some(guest.port.mac),
            mtu: guest.mtu,
        };
        let mut infos = vec![tried("QEMU", vm.qemu(self))];
        // The others know no abstract names.
        if let SocketName::Path(path) = &self.socket {
            let path = path.display().to_string();
            infos.push(noted("libvirt", vm.libvirt(&path), NOT_TRIED));
            infos.push(noted("Cloud Hypervisor", vm.cloud_hypervisor(&path), NOT_TRIED));
            infos.push(tried("testpmd", vm.testpmd(&path, &guest.port.name)));
        }
        infos
    }

    fn describe(&self, info: &mut PortInfo) {
        info.queues = self.queues;
        let [socket_mode, socket_owner, socket_group] = peer::access(self.role, &self.socket, &self.access);
        info.detail = PortDetail::VhostUser(VhostUserDetail {
            socket: self.socket.to_string(),
            socket_mode,
            socket_owner,
            socket_group,
            role: self.role,
            ..VhostUserDetail::default()
        });
    }

    fn open(&self, port: &Port, _own_mac: bool, host: &Host) -> Result<(Box<dyn Driver>, String), String> {
        let spec = PortSpec { name: port.name.clone(), vhost_user: self.clone(), max_frame: max_frame(port) };
        let port = vhost_user::Port::open(spec, peer::post(&host.mailbox, host.workers, about))?;
        let reason = match self.role {
            Role::Server => "no front end has connected".into(),
            Role::Client => format!("connecting to {}", self.socket),
        };
        Ok((Box::new(port), reason))
    }
}

impl Driver for vhost_user::Port {
    fn update(&mut self, port: &Port, _host: &Host) {
        self.set_max_frame(max_frame(port));
    }

    fn describe(&self, info: &mut PortInfo) {
        let PortDetail::VhostUser(detail) = &mut info.detail else { return };
        let status = self.status();
        let owned = |names: Vec<&str>| names.into_iter().map(str::to_owned).collect();
        let ring = |ring: &RingStatus| RingInfo {
            index: ring.index,
            size: ring.size,
            packed: ring.packed,
            started: ring.started,
            enabled: ring.enabled,
            kicks: ring.kicks,
            interrupts: ring.interrupts,
        };
        let largest = status.rings.iter().max_by_key(|ring| ring.size);
        detail.layout = largest.map(|ring| if ring.packed { RingLayout::Packed } else { RingLayout::Split });
        detail.ring_size = largest.map(|ring| ring.size);
        detail.rings = status.rings.iter().map(ring).collect();
        detail.connected = status.connected;
        detail.features = owned(status.features);
        detail.protocol_features = owned(status.protocol_features);
        detail.device_status = status.device_status;
        (detail.regions, detail.bytes, detail.sealed) = (status.regions, status.bytes, status.sealed);
        (detail.logging, detail.guest_mtu) = (status.logging, status.mtu);
        detail.faults = status.faults.into_iter().map(|(reason, n)| (reason.to_owned(), n)).collect();
    }

    fn metrics(&self) -> Vec<Sample> {
        let status = self.status();
        let interrupts = |ring: &RingStatus| Sample {
            metric: &INTERRUPTS,
            label: ("ring", ring.index.to_string()),
            value: ring.interrupts,
        };
        let resets = |(reason, &value): (&&'static str, &u64)| Sample {
            metric: &RESETS,
            label: ("reason", (*reason).to_owned()),
            value,
        };
        status.rings.iter().map(interrupts).chain(status.faults.iter().map(resets)).collect()
    }
}

fn about(info: LinkInfo) -> About {
    let LinkInfo::VhostUser(peer) = info else { unreachable!("the thread keeps a vhost-user port") };
    About {
        text: format!(
            "{} receive and {} transmit rings, {}, size {}{}",
            peer.rx_rings,
            peer.tx_rings,
            if peer.packed { "packed" } else { "split" },
            peer.ring_size,
            peer::sealed(peer.sealed)
        ),
        // All workers send a flow through the same ring.
        in_order: true,
        describe: Box::new(move |info| info.queues = peer.rx_rings),
    }
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
    use crate::ports::connect::texts as texts_for;

    fn texts(keys: &str) -> Vec<String> {
        texts_for(keys, false, 1)
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
}
