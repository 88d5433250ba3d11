//! Raw bindings to the installed DPDK and a shim for what is inline there.
