//! NICs that the kernel wants back: it takes one away (hot unplug, or another driver) once nobody uses it.

use std::collections::BTreeSet;
use std::sync::{Mutex, MutexGuard, PoisonError};

static WANTED_BACK: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());

/// Their addresses, to look at and to change.
pub(crate) fn wanted_back() -> MutexGuard<'static, BTreeSet<String>> {
    WANTED_BACK.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The kernel wants this NIC back.
pub(crate) fn want_back(address: &str) {
    wanted_back().insert(address.to_owned());
}
