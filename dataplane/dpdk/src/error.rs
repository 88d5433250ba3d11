//! Errors, for people: what was refused, why, and what would be right.

use std::ffi::CStr;
use std::fmt;

/// Why DPDK or a device could not be had. Its text names the device and what would be right, and ends with DPDK's
/// own words if it had any.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error(String);

impl Error {
    pub(crate) fn new(what: impl Into<String>) -> Error {
        Error(what.into())
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Error {}

/// DPDK's text for an error number, of either sign.
pub(crate) fn strerror(errno: i32) -> String {
    // SAFETY: DPDK returns a string of its own, valid until this thread asks again; it is copied at once.
    unsafe { CStr::from_ptr(dray_dpdk_sys::rte_strerror(errno.abs())) }.to_string_lossy().into_owned()
}
