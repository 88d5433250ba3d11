//! What workers leave to the control thread. Why is declared where it happens, in a stage's file.

use crate::names::numbered;
use crate::stages::PUNTS;

numbered! {
    /// Why a frame is left to the control thread.
    PuntReason of PUNTS
}

/// A frame that is left to the control thread, or that it is to know of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Punt {
    /// Why.
    pub reason: PuntReason,
    /// Port number that it came from.
    pub port: u16,
    /// Bridge number; [`NO_BRIDGE`](crate::tables::NO_BRIDGE) if it is in none.
    pub bridge: u16,
    /// The frame, behind priority tags, without FCS; of one that only is to be known of its head.
    pub frame: Vec<u8>,
}
