//! Safe wrappers of what Dray uses of DPDK: EAL, mempool, mbuf, ethdev.
