//! Raw bindings to the installed DPDK and a shim for what is inline there.
//!
//! Nothing here is safe to call without reading DPDK's own documentation; `dray-dpdk` wraps it.
#![allow(non_camel_case_types, non_snake_case, non_upper_case_globals, missing_docs)]
#![allow(clippy::all, clippy::undocumented_unsafe_blocks, unnecessary_transmutes, unsafe_op_in_unsafe_fn)]

include!(concat!(env!("OUT_DIR"), "/bindings.rs"));
