// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/*
 * Layer 7 of TCP: the payload of every connection, where it enters and leaves its socket's cgroup,
 * is read by the parsers of bpf/l7, in the kernel. Nothing is copied to processes, and nothing is
 * ever changed: these programs return 1 whatever happens.
 */
#include "slots.bpf.h"
#include "units.bpf.h"

#include <bpf/bpf_endian.h>

#include "l7.h"

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

/* The unit of a kind of request. A slot that has too many gets `other` for those that are new. */
static __always_inline __u32 unit_of(struct l7_conn *c, __u32 side, __u32 operation, __u32 status)
{
	struct kpod_unit unit = {};
	struct l7_slot_row *row;
	__u32 first = c->slot * kpod_config.shards, number;

	unit.key.slot = c->slot;
	unit.key.minor = side << 8 | c->protocol;
	unit.key.major = operation << 16 | status;
	number = kpod_unit_find(l7, &unit.key);
	if (number)
		return number;
	row = bpf_map_lookup_elem(&l7_slot_rows, &first);
	if (!row)
		return 0;
	if (row->units >= KPOD_L7_UNITS_OF_SLOT) {
		operation = L7_OTHER;
		status = status == L7_OK || status == L7_NO_RESPONSE ? status : L7_RCODE;
		unit.key.major = operation << 16 | status;
		number = kpod_unit_find(l7, &unit.key);
		if (number)
			return number;
	}
	unit.words[0] = side;
	unit.words[1] = c->protocol;
	unit.words[2] = operation;
	unit.words[3] = status;
	number = kpod_unit_add(l7, &unit);
	if (number)
		kpod_add_shared(row->units, 1);
	return number;
}

int l7_book(struct l7_conn *c, __u32 direction)
{
	struct l7_stream *s;
	struct l7_row *row;
	__u32 number, count;
	__u64 ns;

	if (!c)
		return 0;
	s = direction ? &c->stream[L7_RESPONSE] : &c->stream[L7_REQUEST];
	count = s->booked_count;
	number = unit_of(c, c->sends == L7_REQUEST ? KPOD_L7_CLIENT : KPOD_L7_SERVER,
			 s->booked_operation, s->booked_status);
	row = number ? kpod_shared_row(l7_rows, number) : NULL;
	if (!row)
		return 0;
	kpod_add_shared(row->requests, count);
	if (s->flags & L7_UNTIMED)
		return 0;
	ns = s->last_ns > s->booked_ns ? s->last_ns - s->booked_ns : 0;
	kpod_add_shared(row->duration[kpod_bucket(ns)], count);
	kpod_add_shared(row->ns, ns * count);
	return 0;
}

/* Whose a socket is: its cgroup's, or the nearest ancestor's that has a slot. */
static __always_inline __u32 slot_of(struct bpf_sock *sk)
{
	__u64 id = bpf_sk_cgroup_id(sk);
	struct kpod_cgroup *found = bpf_map_lookup_elem(&cgroups, &id);

	for (int level = KPOD_LEVELS_MAX; !found && level > 0; level--) {
		id = bpf_sk_ancestor_cgroup_id(sk, level);
		if (id)
			found = bpf_map_lookup_elem(&cgroups, &id);
	}
	return found ? found->slot : 0;
}

static __always_inline void check_owner(struct l7_conn *c, struct bpf_sock *sk)
{
	struct kpod_control *control = kpod_control();
	__u32 epoch = control ? (__u32)control->epoch + 1 : 1;

	if (c->epoch == epoch)
		return;
	c->epoch = epoch;
	c->slot = slot_of(sk);
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
	if (__sync_fetch_and_add(&live, 1) >= KPOD_L7_CONNECTIONS)
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
	row = slot_row(slot_of(sk));
	if (row)
		kpod_add_shared(row->untracked, 1);
	bpf_sk_storage_get(&l7_opaque, sk, NULL, BPF_LOCAL_STORAGE_GET_F_CREATE);
	return NULL;
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
	if (!sk || sk->state == TCP_LISTEN)
		return PASS;
	c = conn_of(sk);
	if (!c)
		return PASS;
	check_owner(c, sk);
	protocol = c->protocol;
	l7_receive(skb, c, p.sequence, p.bytes,
		   p.offset << L7_HOW_SHIFT | received | (c->late ? 0 : L7_BEGINNING));
	if (c->protocol != protocol || c->opaque) {
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
