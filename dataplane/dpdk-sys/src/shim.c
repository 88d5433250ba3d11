#include "shim.h"

int dray_errno(void)
{
	return rte_errno;
}

unsigned int dray_lcore_id(void)
{
	return rte_lcore_id();
}

uint16_t dray_eth_rx_burst(uint16_t port, uint16_t queue, struct rte_mbuf **mbufs, uint16_t n)
{
	return rte_eth_rx_burst(port, queue, mbufs, n);
}

uint16_t dray_eth_tx_burst(uint16_t port, uint16_t queue, struct rte_mbuf **mbufs, uint16_t n)
{
	return rte_eth_tx_burst(port, queue, mbufs, n);
}

int dray_pktmbuf_alloc_bulk(struct rte_mempool *pool, struct rte_mbuf **mbufs, unsigned int n)
{
	return rte_pktmbuf_alloc_bulk(pool, mbufs, n);
}

int dray_eth_link(uint16_t port, uint32_t *mbps, uint16_t *up)
{
	struct rte_eth_link link;
	int ret = rte_eth_link_get_nowait(port, &link);
	*mbps = ret == 0 ? link.link_speed : 0;
	*up = ret == 0 && link.link_status;
	return ret;
}
