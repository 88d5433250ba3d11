//! What the pipeline needs of a port, whatever its kind: one receive queue, one transmit queue; and where its frames leave. What rings of all
//! kinds drop frames for.

use crate::names::declare;
use crate::offload::Accepts;
use crate::{Burst, PuntReason};

declare! { RX_REASONS of Drop;
    /// The peer's descriptor named memory outside its regions, an endless chain or a frame of no length.
    RxBadDescriptor = "rx.bad_descriptor" {
        cause: "A fault in the peer's driver, or a peer that attacks. If the frame only had no length the link \
            stays up; else it ends, and the peer connects again.",
        remedy: "`dray port show NAME` says what was wrong. Update the peer's driver (memif client, virtio \
            driver, QEMU).",
    };
    /// The frame is longer than the port's MTU allows.
    RxTooBig = "rx.too_big" {
        cause: "The peer's MTU is larger than the port's; rarely, a frame that is spread over more than 64 \
            buffers.",
        remedy: "`dray port show NAME --connect` has the MTU for the peer. Or `dray port set NAME mtu N` raises \
            the port's.",
    };
    /// The frame's checksum or segmentation request contradicts its headers, points beyond their first 192 bytes, or asks for more
    /// than 1,024 segments (virtio 1.2, section 5.1.6.2).
    RxBadOffload = "rx.bad_offload" {
        cause: "The guest leaves checksums or segmentation of its own tunnels to the device; or a fault in its \
            driver.",
        remedy: "In the guest, for its device: `ethtool -K DEV tx off tso off gso off`.",
    };
    /// The driver sent it on a ring that is not enabled.
    RxDisabled = "rx.disabled" {
        cause: "A guest whose driver is starting or is changing its number of queues: a few of these do no \
            harm.",
        remedy: "If it grows: `ethtool -l DEV` in the guest shows its queues, `ethtool -L DEV combined N` sets \
            them.",
    };
    /// The NIC or the kernel had no room or no buffer, by their own counters; counted as received, too.
    RxMissed = "rx.missed" {
        cause: "The port's worker has too much to do, or something else runs on its CPU.",
        remedy: "`dray worker show`: at 100 % give it less to do (another `[[worker]]`, `queues` of the port). \
            Below that, a larger `ring-size` takes longer bursts, and docs/tuning.md keeps others off \
            its CPU.",
    };
    /// The NIC received it with an error, by its own counter; counted as received, too.
    RxError = "rx.error" {
        cause: "A damaged cable or transceiver, or a neighbour that sends longer frames than the device takes.",
        remedy: "`ethtool -S DEV`, if the device is the kernel's too, or the neighbour's counters name the \
            error.",
    };
}

declare! { TX_REASONS of Drop;
    /// The egress port has no peer.
    TxLinkDown = "tx.link_down" {
        cause: "The container or virtual machine behind the port is not running. Broadcasts go to every member \
            of a bridge, so one that is down counts them.",
        remedy: "`dray port show NAME` says why it is down. `dray bridge leave` takes out of the bridge what is \
            not to come back.",
    };
    /// The receiver's ring had no free slot.
    TxRingFull = "tx.ring_full" {
        cause: "The receiver is slower than what it is sent: the switch waits for nobody.",
        remedy: "Give the receiver more CPU. Against short bursts, a longer ring: `ring-size` of the port \
            (memif, eth), `rx_queue_size` of the VM's device.",
    };
    /// The frame is longer than the egress port's MTU or buffers allow.
    TxTooBig = "tx.too_big" {
        cause: "Members of one bridge have different MTUs; or the VM's buffers are short and its device can't \
            use several for a frame.",
        remedy: "`dray bridge show` has the MTU that fits all of a bridge: set it in the senders, or raise the \
            port's by `dray port set NAME mtu N`. For a VM, `mrg_rxbuf=on`.",
    };
    /// The receiver's descriptor named memory outside its regions.
    TxBadDescriptor = "tx.bad_descriptor" {
        cause: "A fault in the receiver's driver, or a peer that attacks. Its link ends, and it connects again.",
        remedy: "`dray port show NAME` says what was wrong. Update the peer's driver (memif client, virtio \
            driver, QEMU).",
    };
    /// The NIC or the kernel took the frame and did not send it after all, by their own counters: no room, or no link.
    TxDevice = "tx.device" {
        cause: "The kernel's interface behind the port is down, or has no room: the other end of its veth pair, \
            or its NIC, is slower.",
        remedy: "`ip -s link show DEV` has the kernel's counters, and says whether it is up. `ip link set DEV \
            up` if it is not.",
    };
    /// No mbuf was left for the frame.
    TxNoBuffer = "tx.no_buffer" {
        cause: "The device holds more buffers than its rings have places, which is what is set aside: a fault \
            in its driver, or it hangs.",
        remedy: "`dray port down NAME` and `dray port up NAME` open it anew. If it comes back, look for the \
            device in `journalctl -k`.",
    };
}

/// One receive queue, owned by one worker. One dynamic call a burst.
pub trait Rx: Send {
    /// Appends up to [`Burst::room`] frames to `burst`, which is empty. Of each frame the first
    /// [`Burst::head_len`] bytes (or all, if it has fewer) are copied into its head; the rest stays where it
    /// is as segments. Frames that can't be taken are dropped ([`Burst::drop`]); their slots are given back.
    fn receive(&mut self, burst: &mut Burst);

    /// Gives the slots of the last burst back to the peer. Nothing reads the burst's segments after this.
    /// Called once after every [`Rx::receive`] that returned frames or drops.
    fn release(&mut self, burst: &mut Burst);

    /// Where [`Rx::receive`] looks first, beside in the queue itself; null if nowhere. Nobody reads there: the cache is asked for it
    /// ahead of time.
    fn watched(&self) -> *const u8 {
        std::ptr::null()
    }
}

/// What one [`Tx::send`] got rid of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sent {
    /// Frames handed to the peer.
    pub packets: u32,
    /// Their bytes, without FCS.
    pub bytes: u64,
}

/// One transmit queue, owned by one worker (which may share what is behind it with others).
pub trait Tx: Send {
    /// Writes the frames of `burst` named by `frames` (indices, in this order) to the peer. Those that can't be sent are dropped
    /// ([`Burst::drop`]) with a reason named `tx.`: `packets` and what that adds to [`Burst::tx_drops`] are `frames.len()`.
    fn send(&mut self, burst: &mut Burst, frames: &[u16]) -> Sent;

    /// What it can be given undone. Asked only for bursts that have such frames.
    fn accepts(&self) -> Accepts {
        Accepts::default()
    }
}

/// What leaves the pipeline.
pub trait Output {
    /// Sends the frames of `burst` named by `frames` through `port`.
    fn send(&mut self, port: u16, burst: &mut Burst, frames: &[u16]);

    /// What `port` can be given undone; `None` if nobody is there, so that whatever it is given is dropped. Asked only for bursts that
    /// have such frames.
    fn accepts(&self, port: u16) -> Option<Accepts>;

    /// Counts `added` frames that segmentation adds to those that leave through `port`.
    fn segmented(&mut self, port: u16, added: u32);

    /// Takes [`Burst::tx_drops`]: frames that were to leave through `port`, and were dropped before it was asked to send them.
    fn dropped(&mut self, port: u16, burst: &mut Burst);

    /// Leaves a frame that came from `port`, and is in `bridge` if it is in one, to the control thread. False if so many of the port and
    /// for this reason wait already: then nobody asks for `frame`.
    fn punt(&mut self, reason: PuntReason, port: u16, bridge: u16, frame: impl FnOnce() -> Vec<u8>) -> bool;
}
