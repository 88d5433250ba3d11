/* What bindgen reads: DPDK's headers, and names for what is inline, thread-local or a macro in them. No logic. */
#ifndef DRAY_SHIM_H
#define DRAY_SHIM_H

#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include <rte_devargs.h>
#include <rte_dev.h>
#include <rte_eal.h>
#include <rte_errno.h>
#include <rte_ethdev.h>
#include <rte_lcore.h>
#include <rte_log.h>
#include <rte_mbuf.h>
#include <rte_mempool.h>
#include <rte_version.h>

/* Thread-local in DPDK. */
int dray_errno(void);
unsigned int dray_lcore_id(void);

/* Inline in DPDK. */
uint16_t dray_eth_rx_burst(uint16_t port, uint16_t queue, struct rte_mbuf **mbufs, uint16_t n);
uint16_t dray_eth_tx_burst(uint16_t port, uint16_t queue, struct rte_mbuf **mbufs, uint16_t n);
int dray_pktmbuf_alloc_bulk(struct rte_mempool *pool, struct rte_mbuf **mbufs, unsigned int n);

/* Bit-fields, laid out differently from one DPDK to the next. */
int dray_eth_link(uint16_t port, uint32_t *mbps, uint16_t *up);

/* Where the fields of an mbuf are: nested differently from one DPDK to the next, so that only C knows by name. */
enum {
	DRAY_MBUF_BUF_ADDR = offsetof(struct rte_mbuf, buf_addr),
	DRAY_MBUF_DATA_OFF = offsetof(struct rte_mbuf, data_off),
	DRAY_MBUF_NB_SEGS = offsetof(struct rte_mbuf, nb_segs),
	DRAY_MBUF_PKT_LEN = offsetof(struct rte_mbuf, pkt_len),
	DRAY_MBUF_DATA_LEN = offsetof(struct rte_mbuf, data_len),
	DRAY_MBUF_NEXT = offsetof(struct rte_mbuf, next),
};

/* Macros that bindgen can't evaluate. */
static const uint64_t DRAY_RSS_IP = RTE_ETH_RSS_IP;
static const uint64_t DRAY_RSS_UDP = RTE_ETH_RSS_UDP;
static const uint64_t DRAY_RSS_TCP = RTE_ETH_RSS_TCP;
static const int DRAY_SOCKET_ID_ANY = SOCKET_ID_ANY;
static const uint32_t DRAY_LCORE_ID_ANY = LCORE_ID_ANY;

#endif
