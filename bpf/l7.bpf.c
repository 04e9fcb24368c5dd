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

#include "l7/http2_engine.h"

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

/* What one has beside, if it is HTTP/2. */
struct {
	__uint(type, BPF_MAP_TYPE_SK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, struct l7_h2);
} l7_http2 SEC(".maps");

/*
 * HTTP/2 has programs of its own: what it needs would make those of all payload larger. The loader
 * puts them here. One map for each, as the kernel may want all of a map to be attached alike.
 */
#define TAIL_CALL(program)                                                                         \
	struct {                                                                                   \
		__uint(type, BPF_MAP_TYPE_PROG_ARRAY);                                             \
		__uint(max_entries, 1);                                                            \
		__type(key, __u32);                                                                \
		__type(value, __u32);                                                              \
	} program##_call SEC(".maps")

TAIL_CALL(kpod_l7_http2_in);
TAIL_CALL(kpod_l7_http2_out);

static __u64 live; /* elements of l7_conns */
static __u64 live_http2;

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
	kpod_l7_kind(&unit, c->sends == L7_REQUEST ? KPOD_L7_CLIENT : KPOD_L7_SERVER,
		     s->flags & L7_AS_GRPC ? L7_GRPC : c->protocol, s->booked_operation,
		     s->booked_status);
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

static __always_inline void count_untracked(__u32 slot)
{
	struct l7_slot_row *row = slot_row(slot);

	if (row)
		kpod_add_shared(row->untracked, 1);
}

/* NULL: it is not to be read, or there are too many. */
static __always_inline struct l7_conn *conn_of(struct bpf_sock *sk)
{
	struct l7_conn *c = bpf_sk_storage_get(&l7_conns, sk, NULL, 0);
	struct bpf_tcp_sock *tp;

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
	count_untracked(kpod_l7_slot(sk));
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
static __always_inline bool lock(struct l7_conn *c)
{
	return bpf_loop(SPINS_MAX, try_lock, &c, 0) < SPINS_MAX;
}

static __always_inline void unlock(struct l7_conn *c)
{
	__sync_lock_test_and_set(&c->busy, 0);
}

/*
 * Whether what is sent is looked at for the protocol: both ends of HTTP/2 begin to speak at once,
 * and who finds it sets both streams up.
 */
static __always_inline bool is_looking(const struct l7_conn *c)
{
	return c->protocol == L7_UNKNOWN && (!c->stream[0].state || c->last != 1);
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
	bool locked;

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
	if (c->protocol == L7_HTTP2)
		goto http2;
	locked = received || is_looking(c);
	if (locked && !lock(c))
		return PASS;
	/* Not before: another CPU may have found it, and counted it, meanwhile. */
	protocol = l7_read_once(c->protocol);
	l7_receive(skb, c, p.sequence, p.bytes,
		   p.offset << L7_HOW_SHIFT | received | (c->late ? 0 : L7_BEGINNING));
	if (locked)
		unlock(c);
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
	if (c->protocol != L7_HTTP2)
		return PASS;
http2:
	if (received)
		bpf_tail_call(skb, &kpod_l7_http2_in_call, 0);
	else
		bpf_tail_call(skb, &kpod_l7_http2_out_call, 0);
	return PASS;
}

/* Of a connection that is locked. NULL: there are too many. */
static __always_inline struct l7_h2 *add_http2(struct bpf_sock *sk, struct l7_conn *c)
{
	struct l7_h2 *h2 = bpf_sk_storage_get(&l7_http2, sk, NULL, 0);

	if (h2)
		return h2;
	if (__sync_fetch_and_add(&live_http2, 1) < KPOD_L7_HTTP2_MAX)
		h2 = bpf_sk_storage_get(&l7_http2, sk, NULL, BPF_LOCAL_STORAGE_GET_F_CREATE);
	if (h2) {
		l7_http2_begin(c, h2);
		return h2;
	}
	__sync_fetch_and_add(&live_http2, -1);
	count_untracked(c->slot);
	set_opaque(sk, c, L7_HTTP2);
	return NULL;
}

static __always_inline int http2_payload(struct __sk_buff *skb, bool received)
{
	struct bpf_sock *sk = skb->sk;
	struct tcp_payload p = {};
	struct l7_conn *c;
	struct l7_h2 *h2;
	bool locked;

	if (!sk || !find_payload(skb, &p))
		return PASS;
	sk = bpf_sk_fullsock(sk);
	if (!sk)
		return PASS;
	c = bpf_sk_storage_get(&l7_conns, sk, NULL, 0);
	if (!c)
		return PASS;
	h2 = bpf_sk_storage_get(&l7_http2, sk, NULL, 0);
	locked = received || !h2;
	if (locked && !lock(c))
		return PASS;
	if (!h2)
		h2 = add_http2(sk, c);
	if (h2)
		l7_http2_receive(skb, c, h2, p.sequence, p.bytes,
				 p.offset << L7_HOW_SHIFT | received);
	if (locked)
		unlock(c);
	return PASS;
}

SEC("cgroup_skb/ingress")
int kpod_l7_http2_in(struct __sk_buff *skb)
{
	return http2_payload(skb, true);
}

SEC("cgroup_skb/egress")
int kpod_l7_http2_out(struct __sk_buff *skb)
{
	return http2_payload(skb, false);
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
	struct l7_h2 *h2;

	if (!c)
		return 0;
	l7_end(c);
	h2 = c->protocol == L7_HTTP2 ? bpf_sk_storage_get(&l7_http2, sk, NULL, 0) : NULL;
	if (h2) {
		l7_http2_end(c, h2);
		__sync_fetch_and_add(&live_http2, -1);
	}
	__sync_fetch_and_add(&live, -1);
	return 0;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
