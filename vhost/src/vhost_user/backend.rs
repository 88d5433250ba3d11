//! The state of a connection, which messages change: what was negotiated, the memory, and the rings.

use super::fault::Fault;
use super::features::{
    F_LOG_ALL, F_PROTOCOL_FEATURES, F_RING_PACKED, OFFERED, PROTOCOL_F_REPLY_ACK, PROTOCOL_OFFERED, device_names,
    protocol_names,
};
use super::memory::{DirtyLog, MappedRegion, Memory, RegionSpec};
use super::queue::{Shared, Vring};
use super::ring::{Ring, RingConfig};
use super::snapshot::{Counters, Snapshot};
use super::status::{LinkInfo, RingStatus, Status};
use crate::descriptor::{check_event, is_spare, no_descriptors};
use crate::mem::Budget;
use std::fs::File;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use vhost::VhostUserMemoryRegionBase;
use vhost::vhost_user::message::{
    VhostTransferStateDirection, VhostTransferStatePhase, VhostUserConfigFlags, VhostUserInflight, VhostUserLog,
    VhostUserMemoryRegion, VhostUserProtocolFeatures, VhostUserShMemConfig, VhostUserSharedMsg,
    VhostUserSingleMemoryRegion, VhostUserVringAddrFlags, VhostUserVringState,
};
use vhost::vhost_user::{Error, GpuBackend, Result, VhostUserBackendReqHandlerMut};

/// Regions that a front end may add one by one.
const MEM_SLOTS: u64 = 64;
/// Descriptors of a ring (virtio 1.2, sections 2.7 and 2.8).
const SIZE_MAX: u32 = 32768;

/// What is wrong with a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Wrong {
    /// The connection has to end.
    Fault(Fault, String),
    /// It asks for what there isn't. A front end that wants to know is told; one that doesn't ask goes on as if there were.
    Refused(String),
}

/// Where a ring is, as the front end sees it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Addresses {
    desc: u64,
    avail: u64,
    used: u64,
}

/// What messages told about a ring.
#[derive(Default)]
struct RingState {
    size: u32,
    at: Option<Addresses>,
    /// Guest-physical address of the used ring, if it is to be logged.
    log_used: Option<u64>,
    base: u32,
    /// A kick descriptor came since the ring was last stopped: that starts it. It may be none if the driver never kicks.
    kick: Option<Option<Arc<OwnedFd>>>,
    call: Option<Arc<OwnedFd>>,
    /// The call descriptor came while the ring was running: what was to be told the driver before is told now.
    call_is_new: bool,
    err: Option<Arc<OwnedFd>>,
    enabled: bool,
    started: bool,
    interrupts: Arc<AtomicU64>,
}

/// The state of a connection.
pub(super) struct Backend {
    shared: Arc<Shared>,
    /// The port's, for the holes in its peers' memory.
    budget: Arc<Budget>,
    vrings: Vec<Arc<Vring>>,
    rings: Vec<RingState>,
    /// The front end has asked for the features.
    asked: bool,
    /// The features it has acknowledged.
    features: Option<u64>,
    protocol_features: u64,
    memory: Arc<Memory>,
    log: Option<Arc<DirtyLog>>,
    mtu: Option<u16>,
    device_status: u8,
    wrong: Option<Wrong>,
    /// [`Backend::take_disturbed`]
    disturbed: u32,
}

impl Backend {
    /// The state of a new connection that may use `queues` pairs of rings.
    pub fn new(queues: u16, shared: Arc<Shared>, budget: Arc<Budget>) -> Backend {
        let rings = 0..queues * 2;
        Backend {
            vrings: rings.clone().map(|i| Arc::new(Vring::new(i, shared.clone()))).collect(),
            rings: rings.map(|_| RingState::default()).collect(),
            shared,
            budget,
            asked: false,
            features: None,
            protocol_features: 0,
            memory: Arc::default(),
            log: None,
            mtu: None,
            device_status: 0,
            wrong: None,
            disturbed: 0,
        }
    }

    /// What the rings of the connection share.
    pub fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    /// How often workers were disturbed since this was last asked: a ring changed or memory mapped, for each of which the kernel
    /// interrupts their CPUs.
    pub fn take_disturbed(&mut self) -> u32 {
        std::mem::take(&mut self.disturbed)
    }

    /// Changes what is in a ring's place, while no worker uses it.
    fn change<R>(&mut self, i: usize, change: impl FnOnce(&mut Option<Ring>) -> R) -> R {
        self.disturbed += 1;
        self.vrings[i].change(change)
    }

    /// Maps a region.
    fn map(&mut self, region: &VhostUserMemoryRegion, file: File) -> std::result::Result<Arc<MappedRegion>, String> {
        self.disturbed += 1;
        MappedRegion::map(spec(region, file), &self.budget).map(Arc::new)
    }

    /// What was wrong with the last message, if it was.
    pub fn take_wrong(&mut self) -> Option<Wrong> {
        self.wrong.take()
    }

    /// Whether a front end that asks for an answer to a message gets one.
    pub fn acknowledges(&self) -> bool {
        self.asked && self.has_protocol(PROTOCOL_F_REPLY_ACK)
    }

    /// Whether a protocol feature was negotiated.
    pub fn has_protocol(&self, feature: u64) -> bool {
        self.protocol_features & feature != 0
    }

    fn wrong(&mut self, wrong: Wrong) -> Error {
        self.wrong = Some(wrong);
        Error::InvalidParam
    }

    fn fault(&mut self, why: impl Into<String>) -> Error {
        self.wrong(Wrong::Fault(Fault::Message, why.into()))
    }

    fn bad_memory(&mut self, why: String) -> Error {
        self.wrong(Wrong::Fault(Fault::Memory, why))
    }

    /// Refuses what was not offered.
    pub fn refuse<T>(&mut self, what: &str) -> Result<T> {
        Err(self.wrong(Wrong::Refused(format!("the front end asks for {what}, which was not offered"))))
    }

    /// Checks a ring's index.
    fn index(&mut self, index: u32) -> Result<usize> {
        let i = index as usize;
        if i >= self.rings.len() {
            let queues = self.rings.len() / 2;
            return Err(
                self.fault(format!("ring {index}, the port's `queues` is {queues}, which are {} rings", 2 * queues))
            );
        }
        Ok(i)
    }

    /// Rings that the driver sends on (odd ones, which we receive on) or receives on (even ones) and that are started.
    pub fn started(&self, receive: bool) -> impl Iterator<Item = usize> {
        (0..self.rings.len()).filter(move |&i| (i % 2 == 1) == receive && self.rings[i].started)
    }

    /// Whether frames can be received and sent.
    pub fn is_up(&self) -> bool {
        [true, false].iter().all(|&receive| self.started(receive).any(|i| self.enabled(i)))
    }

    /// The places of some rings.
    pub fn vrings(&self, indices: impl Iterator<Item = usize>) -> Vec<Arc<Vring>> {
        indices.map(|i| self.vrings[i].clone()).collect()
    }

    fn has(&self, feature: u64) -> bool {
        self.features.unwrap_or(0) & feature != 0
    }

    /// Without protocol features there is no message to enable a ring: it is from the start.
    fn enabled(&self, i: usize) -> bool {
        self.rings[i].enabled || !self.has(F_PROTOCOL_FEATURES)
    }

    fn logging(&self) -> bool {
        self.has(F_LOG_ALL)
    }

    fn active_log(&self) -> Option<Arc<DirtyLog>> {
        self.log.clone().filter(|_| self.logging())
    }

    /// What was told about a ring, if that is all it needs.
    fn ring_config(&self, i: usize) -> Option<RingConfig> {
        let ring = &self.rings[i];
        let (Some(features), Some(at), Some(_)) = (self.features, ring.at, &ring.kick) else { return None };
        Some(RingConfig {
            index: i as u16,
            size: ring.size,
            features,
            desc: at.desc,
            avail: at.avail,
            used: at.used,
            log_used: ring.log_used,
            base: ring.base,
        })
    }

    /// Starts a ring if all it needs has come. If its addresses are not in memory, memory is still to come.
    fn start(&mut self, i: usize) -> Result<()> {
        let Some(config) = self.ring_config(i).filter(|config| config.size != 0 && !self.rings[i].started) else {
            return Ok(());
        };
        if [config.desc, config.avail, config.used].iter().any(|&at| self.memory.uva(at, 1).is_none()) {
            return Ok(());
        }
        match Ring::start(&config, self.memory.clone(), self.active_log()) {
            Ok(ring) => {
                self.change(i, |place| *place = Some(ring));
                self.rings[i].started = true;
                self.vrings[i].set_enabled(self.enabled(i));
                Ok(())
            }
            Err(why) => Err(self.fault(format!("ring {i}: {why}"))),
        }
    }

    fn start_all(&mut self) -> Result<()> {
        (0..self.rings.len()).try_for_each(|i| self.start(i))
    }

    /// Takes a ring away from the workers. It can be started again where it was.
    fn pause(&mut self, i: usize) {
        if !self.rings[i].started {
            return;
        }
        if let Some(ring) = self.change(i, Option::take) {
            self.rings[i].base = ring.base();
        }
        self.rings[i].started = false;
        self.vrings[i].set_enabled(false);
    }

    /// Stops a ring. It starts when there is a kick descriptor again.
    fn stop(&mut self, i: usize) {
        self.pause(i);
        (self.rings[i].kick, self.rings[i].call) = (None, None);
    }

    /// Stops all rings.
    pub fn stop_all(&mut self) {
        (0..self.rings.len()).for_each(|i| self.stop(i));
    }

    /// Goes on with other memory. What was mapped before is unmapped when no ring uses it any more.
    fn set_memory(&mut self, memory: Memory) -> Result<()> {
        let memory = Arc::new(memory);
        for i in (0..self.rings.len()).filter(|&i| self.rings[i].started).collect::<Vec<_>>() {
            let anew = memory.clone();
            let stays = self.change(i, |place| match place {
                Some(ring) => ring.set_memory(anew).is_ok(),
                None => false,
            });
            // The front end may say anew where the ring is.
            if !stays {
                self.pause(i);
            }
        }
        self.memory = memory;
        self.start_all()
    }

    /// Tells a ring, if it runs, what to log.
    fn set_log_of(&mut self, i: usize) {
        if !self.rings[i].started {
            return;
        }
        let (log, used) = (self.active_log(), self.rings[i].log_used);
        self.change(i, |place| {
            if let Some(ring) = place {
                ring.set_log(log, used);
            }
        });
    }

    /// Tells the running rings what to log.
    fn set_log(&mut self) {
        (0..self.rings.len()).for_each(|i| self.set_log_of(i));
    }

    fn set_event(&mut self, i: u8, file: Option<File>) -> Result<(usize, Option<OwnedFd>)> {
        let i = self.index(i.into())?;
        let fd = file.map(OwnedFd::from);
        if let Some(fd) = &fd {
            check_event(fd).map_err(|e| self.fault(e))?;
            if !is_spare(fd) {
                return Err(self.fault(no_descriptors()));
            }
        }
        Ok((i, fd))
    }

    /// `NET_SET_MTU`.
    pub fn set_mtu(&mut self, mtu: u64) -> Result<()> {
        match u16::try_from(mtu) {
            Ok(mtu @ 68..) => self.mtu = Some(mtu),
            _ => return Err(self.wrong(Wrong::Refused(format!("an MTU of {mtu}")))),
        }
        Ok(())
    }

    /// `SET_STATUS` (virtio 1.2, section 2.1). 0 resets the device.
    pub fn set_status(&mut self, status: u64) -> Result<()> {
        let Ok(status) = u8::try_from(status) else {
            return Err(self.fault(format!("a device status of {status:#x}")));
        };
        self.device_status = status;
        if status == 0 {
            self.stop_all();
        }
        Ok(())
    }

    /// `GET_STATUS`.
    pub fn status_byte(&self) -> u8 {
        self.device_status
    }

    /// Whether a driver waits for an interrupt that no worker saw it want. The gate stays open for this: a closed one can cost frames.
    fn missed_interrupt(&self, i: usize) -> bool {
        self.rings[i].started
            && self.vrings[i].take_unsaid()
            && self.ring_config(i).is_some_and(|config| Ring::asks(&config, &self.memory))
    }

    /// Call descriptors to write to now, with their rings; `look`, about ten times a second: also of drivers that wait for what no
    /// worker noticed.
    pub fn interrupts(&mut self, look: bool) -> Vec<(usize, Arc<OwnedFd>)> {
        let mut list = Vec::new();
        for i in 0..self.rings.len() {
            // All are asked, for asking clears.
            let wanted = self.vrings[i].take_interrupt() | (look && self.missed_interrupt(i));
            let ring = &mut self.rings[i];
            let wanted = wanted | std::mem::take(&mut ring.call_is_new);
            if let Some(call) = ring.call.as_ref().filter(|_| wanted && ring.started) {
                list.push((i, call.clone()));
            }
        }
        list
    }

    /// Counts an interrupt that was sent.
    pub fn interrupted(&self, i: usize) {
        self.rings[i].interrupts.fetch_add(1, Ordering::Relaxed);
    }

    /// The descriptors by which rings tell errors.
    pub fn errors(&self) -> Vec<Arc<OwnedFd>> {
        self.rings.iter().filter_map(|r| r.err.clone()).collect()
    }

    /// What there is to tell about the link.
    pub fn link_info(&self) -> LinkInfo {
        let size = |receive| self.started(receive).map(|i| self.rings[i].size).max().unwrap_or(0);
        LinkInfo {
            rx_rings: self.started(true).count() as u16,
            tx_rings: self.started(false).count() as u16,
            packed: self.has(F_RING_PACKED),
            ring_size: size(true).max(size(false)),
            sealed: self.memory.regions().iter().all(|r| r.region.sealed()),
        }
    }

    /// What there is to tell about the connection.
    pub fn snapshot(&self) -> Snapshot {
        let regions = self.memory.regions();
        let described = |ring: &RingState| ring.size != 0 || ring.at.is_some() || ring.kick.is_some();
        let rings = || self.rings.iter().enumerate().filter(|(_, ring)| described(ring));
        let status = Status {
            connected: true,
            features: device_names(self.features.unwrap_or(0)),
            protocol_features: protocol_names(self.protocol_features),
            rings: rings()
                .map(|(i, ring)| RingStatus {
                    index: i as u16,
                    size: ring.size,
                    packed: self.has(F_RING_PACKED),
                    started: ring.started,
                    enabled: self.enabled(i),
                    ..RingStatus::default()
                })
                .collect(),
            regions: regions.len(),
            bytes: regions.iter().map(|r| r.len).sum(),
            sealed: regions.iter().all(|r| r.region.sealed()),
            logging: self.active_log().is_some(),
            mtu: self.mtu,
            device_status: self.device_status,
            ..Status::default()
        };
        let counters =
            |ring: &RingState| Counters { kick: ring.kick.clone().flatten(), interrupts: ring.interrupts.clone() };
        Snapshot { status, counters: rings().map(|(_, ring)| counters(ring)).collect() }
    }
}

fn spec(region: &VhostUserMemoryRegion, file: File) -> RegionSpec {
    RegionSpec {
        gpa: region.guest_phys_addr,
        len: region.memory_size,
        uva: region.user_addr,
        offset: region.mmap_offset,
        fd: file.into(),
    }
}

impl VhostUserBackendReqHandlerMut for Backend {
    fn set_owner(&mut self) -> Result<()> {
        Ok(())
    }

    fn reset_owner(&mut self) -> Result<()> {
        self.stop_all();
        Ok(())
    }

    fn reset_device(&mut self) -> Result<()> {
        self.refuse("RESET_DEVICE")
    }

    fn get_features(&mut self) -> Result<u64> {
        self.asked = true;
        Ok(OFFERED)
    }

    fn set_features(&mut self, features: u64) -> Result<()> {
        if features & !OFFERED != 0 {
            return Err(self.fault(format!("features {:#x} were not offered", features & !OFFERED)));
        }
        let changed = self.features.unwrap_or(0) ^ features;
        self.features = Some(features);
        if changed & !(F_LOG_ALL | F_PROTOCOL_FEATURES) != 0 {
            // Not what a driver may do, but a ring that starts again does as told.
            (0..self.rings.len())
                .filter(|&i| self.rings[i].started)
                .collect::<Vec<_>>()
                .into_iter()
                .for_each(|i| self.pause(i));
        } else if changed & F_LOG_ALL != 0 {
            self.set_log();
        }
        for i in (0..self.rings.len()).filter(|&i| self.rings[i].started) {
            self.vrings[i].set_enabled(self.enabled(i));
        }
        self.start_all()
    }

    fn set_mem_table(
        &mut self,
        regions: &[VhostUserMemoryRegion],
        files: Vec<File>,
        _postcopy: Option<bool>,
    ) -> Result<Option<Vec<VhostUserMemoryRegionBase>>> {
        let mapped = regions.iter().zip(files).map(|(region, file)| self.map(region, file));
        let memory = mapped.collect::<std::result::Result<Vec<_>, _>>().and_then(Memory::new);
        let memory = memory.map_err(|e| self.bad_memory(e))?;
        self.set_memory(memory)?;
        Ok(None)
    }

    fn set_vring_num(&mut self, index: u32, num: u32) -> Result<()> {
        let i = self.index(index)?;
        if num == 0 || num > SIZE_MAX {
            return Err(self.fault(format!("ring {i} has {num} descriptors")));
        }
        if self.rings[i].started && self.rings[i].size != num {
            return Err(self.fault(format!("ring {i} changes its size while it runs")));
        }
        self.rings[i].size = num;
        self.start(i)
    }

    fn set_vring_addr(
        &mut self,
        index: u32,
        flags: VhostUserVringAddrFlags,
        descriptor: u64,
        used: u64,
        available: u64,
        log: u64,
    ) -> Result<()> {
        let i = self.index(index)?;
        let at = Some(Addresses { desc: descriptor, avail: available, used });
        let log_used = flags.contains(VhostUserVringAddrFlags::VHOST_VRING_F_LOG).then_some(log);
        let other_log = std::mem::replace(&mut self.rings[i].log_used, log_used) != log_used;
        if self.rings[i].at != at {
            self.pause(i);
            self.rings[i].at = at;
        } else if other_log {
            // A migration begins or ends.
            self.set_log_of(i);
        }
        self.start(i)
    }

    fn set_vring_base(&mut self, index: u32, base: u32) -> Result<()> {
        let i = self.index(index)?;
        if self.rings[i].started {
            return Err(self.fault(format!("ring {i} is moved while it runs")));
        }
        self.rings[i].base = base;
        Ok(())
    }

    fn get_vring_base(&mut self, index: u32) -> Result<VhostUserVringState> {
        let i = self.index(index)?;
        self.stop(i);
        Ok(VhostUserVringState::new(index, self.rings[i].base))
    }

    fn set_vring_kick(&mut self, index: u8, fd: Option<File>) -> Result<()> {
        let (i, kick) = self.set_event(index, fd)?;
        self.rings[i].kick = Some(kick.map(Arc::new));
        self.start(i)
    }

    fn set_vring_call(&mut self, index: u8, fd: Option<File>) -> Result<()> {
        let (i, call) = self.set_event(index, fd)?;
        self.rings[i].call_is_new = self.rings[i].started;
        self.rings[i].call = call.map(Arc::new);
        Ok(())
    }

    fn set_vring_err(&mut self, index: u8, fd: Option<File>) -> Result<()> {
        let (i, err) = self.set_event(index, fd)?;
        self.rings[i].err = err.map(Arc::new);
        Ok(())
    }

    fn get_protocol_features(&mut self) -> Result<VhostUserProtocolFeatures> {
        Ok(VhostUserProtocolFeatures::from_bits_truncate(PROTOCOL_OFFERED))
    }

    fn set_protocol_features(&mut self, features: u64) -> Result<()> {
        if features & !PROTOCOL_OFFERED != 0 {
            return Err(self.fault(format!("protocol features {:#x} were not offered", features & !PROTOCOL_OFFERED)));
        }
        self.protocol_features = features;
        Ok(())
    }

    fn get_queue_num(&mut self) -> Result<u64> {
        Ok(self.rings.len() as u64 / 2)
    }

    fn set_vring_enable(&mut self, index: u32, enable: bool) -> Result<()> {
        let i = self.index(index)?;
        self.rings[i].enabled = enable;
        if self.rings[i].started {
            self.vrings[i].set_enabled(self.enabled(i));
        }
        Ok(())
    }

    fn get_max_mem_slots(&mut self) -> Result<u64> {
        Ok(MEM_SLOTS)
    }

    fn add_mem_region(
        &mut self,
        region: &VhostUserSingleMemoryRegion,
        file: File,
        _postcopy: Option<bool>,
    ) -> Result<Option<VhostUserMemoryRegionBase>> {
        let mut regions = self.memory.regions().to_vec();
        // QEMU (7.2) adds and removes every region once for each pair of rings.
        if regions.iter().any(|r| r.is(region)) {
            return Ok(None);
        }
        if regions.len() as u64 >= MEM_SLOTS {
            return Err(self.fault(format!("more than {MEM_SLOTS} memory regions")));
        }
        let memory = self.map(region, file).and_then(|new| {
            regions.push(new);
            Memory::new(regions)
        });
        let memory = memory.map_err(|e| self.bad_memory(e))?;
        self.set_memory(memory)?;
        Ok(None)
    }

    fn remove_mem_region(&mut self, region: &VhostUserSingleMemoryRegion) -> Result<()> {
        let mut regions = self.memory.regions().to_vec();
        let Some(i) = regions.iter().position(|r| r.is(region)) else { return Ok(()) };
        regions.remove(i);
        let memory = Memory::new(regions).map_err(|e| self.bad_memory(e))?;
        self.set_memory(memory)
    }

    fn set_log_base(&mut self, log: &VhostUserLog, file: File) -> Result<()> {
        self.disturbed += 1;
        let mapped = DirtyLog::map(file.into(), log.mmap_offset, log.mmap_size, &self.budget);
        self.log = Some(Arc::new(mapped.map_err(|e| self.bad_memory(e))?));
        self.set_log();
        Ok(())
    }

    // The rest is not offered, and refused before it gets here.

    fn get_config(&mut self, _offset: u32, _size: u32, _flags: VhostUserConfigFlags) -> Result<Vec<u8>> {
        self.refuse("GET_CONFIG")
    }

    fn set_config(&mut self, _offset: u32, _buf: &[u8], _flags: VhostUserConfigFlags) -> Result<()> {
        self.refuse("SET_CONFIG")
    }

    fn set_gpu_socket(&mut self, _gpu: GpuBackend) -> Result<()> {
        self.refuse("GPU_SET_SOCKET")
    }

    fn get_shared_object(&mut self, _uuid: VhostUserSharedMsg) -> Result<File> {
        self.refuse("GET_SHARED_OBJECT")
    }

    fn get_inflight_fd(&mut self, _inflight: &VhostUserInflight) -> Result<(VhostUserInflight, File)> {
        self.refuse("GET_INFLIGHT_FD")
    }

    fn set_inflight_fd(&mut self, _inflight: &VhostUserInflight, _file: File) -> Result<()> {
        self.refuse("SET_INFLIGHT_FD")
    }

    fn set_device_state_fd(
        &mut self,
        _direction: VhostTransferStateDirection,
        _phase: VhostTransferStatePhase,
        _file: File,
    ) -> Result<Option<File>> {
        self.refuse("SET_DEVICE_STATE_FD")
    }

    fn check_device_state(&mut self) -> Result<()> {
        self.refuse("CHECK_DEVICE_STATE")
    }

    fn get_shmem_config(&mut self) -> Result<VhostUserShMemConfig> {
        self.refuse("GET_SHMEM_CONFIG")
    }
}

#[cfg(test)]
mod tests {
    use super::super::features::{F_VERSION_1, PROTOCOL_F_MQ};
    use super::*;
    use crate::descriptor::event;
    use std::sync::OnceLock;

    fn backend(queues: u16) -> Backend {
        let shared = Shared { max_frame: Arc::default(), fault: OnceLock::new(), wake: Arc::new(event().unwrap()) };
        Backend::new(queues, Arc::new(shared), Arc::default())
    }

    fn fault(backend: &mut Backend) -> String {
        match backend.take_wrong() {
            Some(Wrong::Fault(Fault::Message, why)) => why,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn answers_are_only_for_who_negotiated_them() {
        let mut b = backend(1);
        b.set_protocol_features(PROTOCOL_F_REPLY_ACK).unwrap();
        assert!(!b.acknowledges(), "the crate sends none before it was asked for features");
        assert_eq!(b.get_features().unwrap(), OFFERED);
        assert!(b.acknowledges());
        b.set_protocol_features(PROTOCOL_F_MQ).unwrap();
        assert!(!b.acknowledges());
    }

    #[test]
    fn what_is_wrong_is_told_once_and_changes_nothing() {
        let mut b = backend(2);
        assert_eq!(b.get_queue_num().unwrap(), 2);
        assert!(b.set_features(1 << 5).is_err());
        assert_eq!(fault(&mut b), "features 0x20 were not offered");
        assert!(b.features.is_none());
        assert!(b.set_vring_num(4, 256).is_err());
        assert_eq!(fault(&mut b), "ring 4, the port's `queues` is 2, which are 4 rings");
        assert!(b.set_vring_num(3, 256).is_ok() && b.set_vring_num(3, 65536).is_err());
        assert_eq!(fault(&mut b), "ring 3 has 65536 descriptors");
        assert_eq!(b.rings[3].size, 256);
        assert!(b.set_mtu(67).is_err() && b.mtu.is_none());
        assert_eq!(b.take_wrong(), Some(Wrong::Refused("an MTU of 67".into())));
        assert_eq!(b.take_wrong(), None);
    }

    #[test]
    fn rings_are_enabled_by_message_or_if_there_is_none() {
        let mut b = backend(1);
        assert!(b.enabled(0), "nothing is negotiated");
        b.set_features(F_VERSION_1 | F_PROTOCOL_FEATURES).unwrap();
        assert!(!b.enabled(0));
        b.set_vring_enable(0, true).unwrap();
        assert!(b.enabled(0) && !b.enabled(1));
        // A base that was told is the answer for a ring that never ran.
        b.set_vring_base(1, 77).unwrap();
        assert_eq!({ b.get_vring_base(1).unwrap().num }, 77);
    }

    #[test]
    fn kicks_are_counted_by_their_eventfd() {
        let kick = event().unwrap();
        for n in [1u64, 19] {
            rustix::io::write(&kick, &n.to_ne_bytes()).unwrap();
        }
        let mut b = backend(1);
        b.set_vring_kick(1, Some(File::from(kick))).unwrap();
        assert_eq!(
            b.snapshot().status().rings,
            [RingStatus { index: 1, enabled: true, kicks: 20, ..RingStatus::default() }]
        );
    }
}
