// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/*
 * DNS over UDP, by what datagrams are and not by their ports, at the socket that asks and at the
 * one that answers: each question once at each end, however many devices it passes. A question
 * without an answer is no_response when its time is over. Programs return 1 whatever happens.
 */
#include "rows.bpf.h"

#include <bpf/bpf_endian.h>

#include "l7/dns.h"
#include "l7/l7.h"

#define PASS 1
#define IPPROTO_UDP 17
#define LABELS_MAX 40 /* of a name; the longest there are in use have 34 (ip6.arpa) */

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct l7_row);
} dns_rows SEC(".maps");

KPOD_UNITS(dns);

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct dns_slot_row);
} dns_slot_rows SEC(".maps");

/*
 * Who asks is told by its socket and the number: an answer may come from another address than the
 * question went to, as it does where addresses are translated. Who answers, by the peer too.
 */
struct question_key {
	__u64 socket;
	__u32 peer[4];
	__u16 port;
	__u16 id;
	__u32 side;
};

struct question {
	__u64 ns;
	__u32 slot;
	__u16 type;
	__u16 side;
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 16384);
	__type(key, struct question_key);
	__type(value, struct question);
} dns_questions SEC(".maps");

static __always_inline struct dns_slot_row *first_row(__u32 slot)
{
	__u32 number = slot * kpod_config.shards;

	return bpf_map_lookup_elem(&dns_slot_rows, &number);
}

static __always_inline void book(const struct question *q, __u16 status, __u64 ns)
{
	struct kpod_unit unit = {.key = {.slot = q->slot}};
	struct dns_slot_row *slot = first_row(q->slot);
	struct l7_row *row;
	__u32 number;

	if (!slot)
		return;
	kpod_add_shared(slot->pending, -1);
	kpod_l7_kind(&unit, q->side, L7_DNS, l7_dns_type(q->type), status);
	number = kpod_l7_unit(dns, &unit, &slot->units);
	row = number ? kpod_shared_row(dns_rows, number) : NULL;
	if (row)
		kpod_l7_add(row, 1, ns, status == L7_NO_RESPONSE);
}

struct datagram {
	struct question_key key;
	__u32 offset; /* of the DNS message */
	__u32 size;
	__u8 header[12];
};

/* Not what goes to a group: mDNS and LLMNR answer whom they like, and their numbers mean nothing.
 */
static __always_inline bool find_message(struct __sk_buff *skb, bool received, struct datagram *d)
{
	const __u8 *data = (const __u8 *)(long)skb->data, *end = (const __u8 *)(long)skb->data_end;
	const __u8 *to, *peer;
	__u32 size;

	if (data + 28 > end)
		return false;
	if (data[0] >> 4 == 4) {
		size = (data[0] & 15) * 4;
		if (data[9] != IPPROTO_UDP || size < 20 || data[16] >> 4 == 14)
			return false;
		d->key.peer[0] = *(const __u32 *)(data + (received ? 12 : 16));
	} else {
		size = 40;
		if (data[0] >> 4 != 6 || data[6] != IPPROTO_UDP || data + 48 > end ||
		    data[24] == 0xff)
			return false;
		peer = data + (received ? 8 : 24);
		for (int i = 0; i < 4; i++)
			d->key.peer[i] = *(const __u32 *)(peer + 4 * i);
	}
	to = data + size;
	if (to + 8 > end)
		return false;
	d->key.port = *(const __u16 *)(to + (received ? 0 : 2));
	d->offset = size + 8;
	if (skb->len < d->offset + 12)
		return false;
	d->size = skb->len - d->offset;
	return !bpf_skb_load_bytes(skb, d->offset, d->header, sizeof(d->header));
}

/* Where the question's type is; 0: this is no name. */
static __always_inline __u32 after_name(struct __sk_buff *skb, const struct datagram *d)
{
	__u32 at = d->offset + 12;

	for (int i = 0; i < LABELS_MAX; i++) {
		__u8 size = 0;

		if (bpf_skb_load_bytes(skb, at, &size, 1) || size > 63)
			return 0;
		at += 1 + size;
		if (!size)
			return at;
	}
	return 0;
}

/*
 * The upper bits of the response code, shifted to their place, of an answer that has nothing but an
 * OPT record, which has the root's name (RFC 6891 6.1.2).
 */
static __always_inline __u32 extended_code(struct __sk_buff *skb, const struct datagram *d)
{
	__u32 at = d->offset + 12;
	__u8 record[6];

	if (l7_be16(d->header + 6) || l7_be16(d->header + 8) || !l7_be16(d->header + 10))
		return 0;
	if (l7_be16(d->header + 4)) {
		at = after_name(skb, d);
		if (!at)
			return 0;
		at += 4;
	}
	if (bpf_skb_load_bytes(skb, at, record, sizeof(record)) || record[0] ||
	    l7_be16(record + 1) != 41)
		return 0;
	if (bpf_skb_load_bytes(skb, at + 5, record, 1))
		return 0;
	return (__u32)record[0] << 4;
}

static __always_inline void answered(struct __sk_buff *skb, struct datagram *d, __u64 now)
{
	struct question *q = bpf_map_lookup_elem(&dns_questions, &d->key), done;
	__u32 code = l7_be16(d->header + 2) & 15;

	if (!q)
		return;
	done = *q;
	code |= extended_code(skb, d);
	/* Who deletes it books it. */
	if (!bpf_map_delete_elem(&dns_questions, &d->key))
		book(&done, l7_dns_rcode(code), now > done.ns ? now - done.ns : 0);
}

/* False: it is no question after all. Of another opcode than QUERY, or of none, it is 0. */
static __always_inline bool question_type(struct __sk_buff *skb, const struct datagram *d,
					  __u16 *type)
{
	__u8 question[4];
	__u32 at;

	*type = 0;
	if (!l7_be16(d->header + 4)) /* an OPT record, of the root's name */
		return !bpf_skb_load_bytes(skb, d->offset + 12, question, 3) && !question[0] &&
		       !question[1] && question[2] == 41;
	at = after_name(skb, d);
	if (!at || bpf_skb_load_bytes(skb, at, question, sizeof(question)))
		return false;
	if (!(l7_be16(d->header + 2) & DNS_OPCODE))
		*type = l7_be16(question);
	/* Class IN, and nothing behind it but what the header says. */
	return l7_be16(question + 2) == 1 &&
	       (l7_be16(d->header + 10) || at + 4 == d->offset + d->size);
}

static __always_inline void asked(struct __sk_buff *skb, struct bpf_sock *sk, struct datagram *d,
				  __u64 now)
{
	struct question fresh = {.ns = now, .side = (__u16)d->key.side};
	struct dns_slot_row *slot;
	struct question *old;

	if (!question_type(skb, d, &fresh.type))
		return;
	fresh.slot = kpod_l7_slot(sk);
	slot = first_row(fresh.slot);
	if (!slot)
		return;
	old = bpf_map_lookup_elem(&dns_questions, &d->key);
	if (old && old->type == fresh.type) {
		/* It waits since it was asked first. */
		kpod_add_shared(slot->repeated, 1);
		return;
	}
	if (old) {
		struct question before = *old;

		if (!bpf_map_delete_elem(&dns_questions, &d->key))
			book(&before, L7_NO_RESPONSE, 0);
	}
	if ((__s64)slot->pending >= KPOD_DNS_PENDING_MAX ||
	    bpf_map_update_elem(&dns_questions, &d->key, &fresh, BPF_NOEXIST)) {
		kpod_add_shared(slot->untracked, 1);
		return;
	}
	kpod_add_shared(slot->pending, 1);
}

static __always_inline int datagram(struct __sk_buff *skb, bool received)
{
	struct datagram d = {};
	struct bpf_sock *sk;
	bool answer;

	if (!find_message(skb, received, &d))
		return PASS;
	answer = d.header[2] >> 7;
	if (!answer && !l7_dns_asks(d.header))
		return PASS;
	/* Opcode QUERY or STATUS, at most one question; the zero bit is zero. */
	if (answer && (d.header[2] & 0x68 || d.header[3] & 0x40 || l7_be16(d.header + 4) > 1))
		return PASS;
	sk = skb->sk;
	if (!sk)
		return PASS;
	sk = bpf_sk_fullsock(sk);
	if (!sk)
		return PASS;
	d.key.id = l7_be16(d.header);
	d.key.socket = bpf_get_socket_cookie(skb);
	/* Received answers and sent questions are the client's. */
	d.key.side = received == answer ? KPOD_L7_CLIENT : KPOD_L7_SERVER;
	if (d.key.side == KPOD_L7_CLIENT) {
		d.key.port = 0;
		for (int i = 0; i < 4; i++)
			d.key.peer[i] = 0;
	}
	if (answer)
		answered(skb, &d, bpf_ktime_get_ns());
	else
		asked(skb, sk, &d, bpf_ktime_get_ns());
	return PASS;
}

SEC("cgroup_skb/ingress")
int kpod_dns_ingress(struct __sk_buff *skb)
{
	return datagram(skb, true);
}

SEC("cgroup_skb/egress")
int kpod_dns_egress(struct __sk_buff *skb)
{
	return datagram(skb, false);
}

/*
 * Before each snapshot, for every question. The byte is for the loader: a read ends when its buffer
 * is full, and the next one goes on from there, so that others get the CPU in between. If questions
 * come into or leave just the bucket at which a read has ended, others in it may wait for the next
 * snapshot. The kernel holds no lock of the map while the program runs.
 */
SEC("iter/bpf_map_elem")
int kpod_dns_expire(struct bpf_iter__bpf_map_elem *ctx)
{
	const struct question_key *key = ctx->key;
	const struct question *q = ctx->value;
	struct question_key gone;
	struct question done;
	char byte = 0;

	if (!key || !q)
		return 0;
	bpf_seq_write(ctx->meta->seq, &byte, sizeof(byte));
	done = *q;
	if (done.ns + KPOD_DNS_TIMEOUT_NS >= bpf_ktime_get_ns())
		return 0;
	gone = *key;
	/* Who deletes it books it. */
	if (!bpf_map_delete_elem(&dns_questions, &gone))
		book(&done, L7_NO_RESPONSE, 0);
	return 0;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
