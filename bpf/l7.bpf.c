// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/*
 * Layer 7 of TCP: the payload of every connection, where it enters and leaves its socket's cgroup,
 * is read by the parsers of bpf/l7, in the kernel. Nothing is copied to processes, and nothing is
 * ever changed: these programs return 1 whatever happens.
 */
#include "rows.bpf.h"

#include <bpf/bpf_endian.h>

#define PASS 1
#define TCP_LISTEN 10
#define IPPROTO_TCP 6
#define TCP_SYN 2
#define SPINS_MAX 5000

#include "l7/l7.h"

#define l7_packet __sk_buff
#define l7_load bpf_skb_load_bytes
#define l7_now bpf_ktime_get_ns
int l7_book(struct l7_conn *c, __u32 direction);
int l7_count(struct l7_conn *c, __u32 event, __u32 times);

#define l7_loop(turns, function, run) bpf_loop(turns, function, run, 0)

#include "l7/engine.h"

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct l7_row);
} l7_rows SEC(".maps");

KPOD_UNITS(l7);

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct l7_slot_row);
} l7_slot_rows SEC(".maps");

/* A connection whose payload is read. */
struct {
	__uint(type, BPF_MAP_TYPE_SK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, struct l7_conn);
} l7_conns SEC(".maps");

/* One whose payload is not read any more. */
struct {
	__uint(type, BPF_MAP_TYPE_SK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, __u32);
} l7_opaque SEC(".maps");

static __u64 live; /* elements of l7_conns */

static __always_inline struct l7_slot_row *slot_row(__u32 slot)
{
	return kpod_row(l7_slot_rows, slot);
}

int l7_count(struct l7_conn *c, __u32 event, __u32 times)
{
	struct l7_slot_row *row = c ? slot_row(c->slot) : NULL;

	l7_hide(event);
	if (row && event < KPOD_L7_EVENTS)
		kpod_add_shared(row->events[event], times);
	return 0;
}

int l7_book(struct l7_conn *c, __u32 direction)
{
	struct kpod_unit unit = {};
	struct l7_slot_row *slot;
	struct l7_stream *s;
	struct l7_row *row;
	__u32 number;

	if (!c)
		return 0;
	s = direction ? &c->stream[L7_RESPONSE] : &c->stream[L7_REQUEST];
	number = c->slot * kpod_config.shards;
	slot = bpf_map_lookup_elem(&l7_slot_rows, &number);
	if (!slot)
		return 0;
	unit.key.slot = c->slot;
	kpod_l7_kind(&unit, c->sends == L7_REQUEST ? KPOD_L7_CLIENT : KPOD_L7_SERVER, c->protocol,
		     s->booked_operation, s->booked_status);
	number = kpod_l7_unit(l7, &unit, &slot->units);
	row = number ? kpod_shared_row(l7_rows, number) : NULL;
	if (row)
		kpod_l7_add(row, s->booked_count,
			    s->last_ns > s->booked_ns ? s->last_ns - s->booked_ns : 0,
			    s->flags & L7_UNTIMED);
	return 0;
}

static __always_inline void check_owner(struct l7_conn *c, struct bpf_sock *sk)
{
	struct kpod_control *control = kpod_control();
	__u32 epoch = control ? (__u32)control->epoch + 1 : 1;

	if (c->epoch == epoch)
		return;
	c->epoch = epoch;
	c->slot = kpod_l7_slot(sk);
}

static __always_inline void set_opaque(struct bpf_sock *sk, struct l7_conn *c, __u32 protocol)
{
	if (!bpf_sk_storage_get(&l7_opaque, sk, &protocol, BPF_LOCAL_STORAGE_GET_F_CREATE))
		return;
	if (!bpf_sk_storage_delete(&l7_conns, sk))
		__sync_fetch_and_add(&live, -1);
}

/* NULL: it is not to be read, or there are too many. */
static __always_inline struct l7_conn *conn_of(struct bpf_sock *sk)
{
	struct l7_conn *c = bpf_sk_storage_get(&l7_conns, sk, NULL, 0);
	struct bpf_tcp_sock *tp;
	struct l7_slot_row *row;

	if (c)
		return c;
	if (bpf_sk_storage_get(&l7_opaque, sk, NULL, 0))
		return NULL;
	if (__sync_fetch_and_add(&live, 1) >= KPOD_L7_CONNECTIONS_MAX)
		goto untracked;
	c = bpf_sk_storage_get(&l7_conns, sk, NULL, BPF_LOCAL_STORAGE_GET_F_CREATE);
	if (!c)
		goto untracked;
	tp = bpf_tcp_sock(sk);
	c->late = !tp || tp->bytes_received > 1 || tp->bytes_acked > 1;
	if (tp)
		l7_expect(c, true, tp->rcv_nxt);
	return c;
untracked:
	__sync_fetch_and_add(&live, -1);
	row = slot_row(kpod_l7_slot(sk));
	if (row)
		kpod_add_shared(row->untracked, 1);
	bpf_sk_storage_get(&l7_opaque, sk, NULL, BPF_LOCAL_STORAGE_GET_F_CREATE);
	return NULL;
}

static long try_lock(__u32 number, void *context)
{
	struct l7_conn **c = context;

	return !__sync_lock_test_and_set(&(*c)->busy, 1);
}

/*
 * Two CPUs may receive for one connection at once, as on loopback when the sender has moved. Who
 * comes second waits a little; if that is not enough, its segment is as one that was not seen. What
 * is sent comes with the socket's lock held.
 */
static __always_inline bool lock_received(struct l7_conn *c)
{
	return bpf_loop(SPINS_MAX, try_lock, &c, 0) < SPINS_MAX;
}

struct tcp_payload {
	__u32 offset;
	__u32 bytes;
	__u32 sequence;
};

/* The headers are linear at both hooks, as TCP itself wants them so. */
static __always_inline bool find_payload(struct __sk_buff *skb, struct tcp_payload *p)
{
	const __u8 *data = (const __u8 *)(long)skb->data, *end = (const __u8 *)(long)skb->data_end;
	__u32 size, head;

	if (data + 20 > end)
		return false;
	if (data[0] >> 4 == 4) {
		size = (data[0] & 15) * 4;
		if (data[9] != IPPROTO_TCP || size < 20)
			return false;
	} else {
		size = 40;
		if (data[0] >> 4 != 6 || data[6] != IPPROTO_TCP)
			return false;
	}
	data += size;
	if (data + 20 > end)
		return false;
	head = (data[12] >> 4) * 4;
	p->offset = size + head;
	/* Not by the packet's own length: that of BIG TCP is 0. */
	if (skb->len <= p->offset)
		return false;
	p->bytes = skb->len - p->offset;
	p->sequence = bpf_ntohl(*(const __be32 *)(data + 4)) + !!(data[13] & TCP_SYN);
	return true;
}

static __always_inline int payload(struct __sk_buff *skb, bool received)
{
	struct tcp_payload p = {};
	struct l7_conn *c;
	struct bpf_sock *sk;
	struct l7_slot_row *row;
	__u32 protocol;

	if (!find_payload(skb, &p))
		return PASS;
	sk = skb->sk;
	if (!sk)
		return PASS;
	sk = bpf_sk_fullsock(sk);
	if (!sk)
		return PASS;
	if (sk->state == TCP_LISTEN) {
		/* TCP_DEFER_ACCEPT, TCP Fast Open, a lost ACK: the connection is not there yet. */
		row = slot_row(kpod_l7_slot(sk));
		if (row)
			kpod_add_shared(row->early, 1);
		return PASS;
	}
	c = conn_of(sk);
	if (!c)
		return PASS;
	check_owner(c, sk);
	protocol = c->protocol;
	if (received && !lock_received(c))
		return PASS;
	l7_receive(skb, c, p.sequence, p.bytes,
		   p.offset << L7_HOW_SHIFT | received | (c->late ? 0 : L7_BEGINNING));
	if (received)
		__sync_lock_test_and_set(&c->busy, 0);
	/* Once; one that turns out to be encrypted or compressed is what it was, and tls or
	 * unknown. */
	if (c->protocol != protocol || (c->opaque && c->protocol == L7_UNKNOWN)) {
		row = slot_row(c->slot);
		protocol = c->protocol;
		l7_hide(protocol);
		if (row && protocol < L7_PROTOCOL_COUNT)
			kpod_add_shared(row->connections[protocol], 1);
	}
	if (c->opaque)
		set_opaque(sk, c, protocol);
	return PASS;
}

SEC("cgroup_skb/ingress")
int kpod_l7_ingress(struct __sk_buff *skb)
{
	return payload(skb, true);
}

SEC("cgroup_skb/egress")
int kpod_l7_egress(struct __sk_buff *skb)
{
	return payload(skb, false);
}

SEC("tp_btf/tcp_destroy_sock")
int BPF_PROG(kpod_l7_destroy, struct sock *sk)
{
	struct l7_conn *c = bpf_sk_storage_get(&l7_conns, sk, NULL, 0);

	if (!c)
		return 0;
	l7_end(c);
	__sync_fetch_and_add(&live, -1);
	return 0;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
