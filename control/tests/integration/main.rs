//! Stories of users, told with the real daemon, the real command and real peers: testpmd, the kernel, tshark.
//!
//! They need root and the packages of `.ci/deps test`; without root they fail, unless `SKIP_ROOT` leaves them out. In each of them packets
//! are conserved at the end.

mod access;
mod attach;
mod bridge;
mod closing;
mod commands;
mod containers;
mod cpu;
mod daemon;
mod fdb;
mod guard;
mod guest;
mod harness;
mod interface;
mod nic;
mod overlay;
mod pci;
mod reconfigure;
mod refuse;
mod service;
mod survive;
mod tap;
mod vhost_net;
mod vhost_user;
mod vlan;
mod vm;
mod workers;
