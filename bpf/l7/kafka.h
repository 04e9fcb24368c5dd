/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * Kafka's protocol (kafka.apache.org/protocol). A request is one by its key; brokers answer the
 * requests of a connection in order, and each answer has its request's number. Errors are inside of
 * the bodies, which differ with each version, and are not looked for. A Produce with acks=0 is
 * one-way, although some brokers answer it. Fetch, JoinGroup and SyncGroup wait by design, and what
 * was asked behind one of them has waited for it.
 */
#ifndef KPOD_L7_KAFKA_H
#define KPOD_L7_KAFKA_H

#include "l7.h"

enum l7_kafka_state {
	KF_HEADER, /* of requests: also the size of the client's name; of answers: size and number
		    */
	KF_ACKS,   /* of a Produce */
	KF_END,	   /* behind the answer's last byte */
};

/* value[] of requests: the number and version of this one, how many are answered by nobody, … */
enum { KF_NUMBER, KF_VERSION, KF_LATEST, KF_UNASKED };
/* … and of answers: its number, and how many were nobody's */
enum { KF_ANSWERS, KF_IGNORED };

/* Of a request. */
#define KF_WAITS 1

/* request_notes */
#define KF_ASKED 1

#define KF_PRODUCE 0
#define KF_SASL_HANDSHAKE 17
#define KF_KEY_MAX 127	  /* those of Kafka 4 are below 100, … */
#define KF_VERSION_MAX 31 /* … and their versions below 20 */
#define KF_SIZE_MAX (1u << 30)
#define KF_APART_MAX 65536 /* between an answer's number and the latest request's */

static L7_INLINE void l7_kafka_start(struct l7_conn *c, struct l7_stream *s, __u32 direction)
{
	l7_take(s, direction == L7_REQUEST ? 14 : 8);
}

/* Operation and, in the upper half, KF_WAITS. */
L7_FUNCTION __u32 l7_kafka_operation(__u32 key)
{
	switch (key) {
	case 0:
		return L7_K_PRODUCE;
	case 1:
	case 78: /* ShareFetch */
		return L7_K_FETCH | KF_WAITS << 16;
	case 2:
		return L7_K_LIST_OFFSETS;
	case 3:
		return L7_K_METADATA;
	case 8:
		return L7_K_OFFSET_COMMIT;
	case 9:
		return L7_K_OFFSET_FETCH;
	case 10:
		return L7_K_FIND_COORDINATOR;
	case 11:
		return L7_K_JOIN_GROUP | KF_WAITS << 16;
	case 12:
	case 68: /* ConsumerGroupHeartbeat */
		return L7_K_HEARTBEAT;
	case 13:
		return L7_K_LEAVE_GROUP;
	case 14:
		return L7_K_SYNC_GROUP | KF_WAITS << 16;
	case 17: /* SaslHandshake */
	case 36: /* SaslAuthenticate */
		return L7_AUTH;
	case 18:
		return L7_K_API_VERSIONS;
	case 19:
		return L7_K_CREATE_TOPICS;
	case 20:
		return L7_K_DELETE_TOPICS;
	case 22:
		return L7_K_INIT_PRODUCER_ID;
	case 24:
		return L7_K_ADD_PARTITIONS_TO_TXN;
	case 26:
		return L7_K_END_TXN;
	case 28:
		return L7_K_TXN_OFFSET_COMMIT;
	}
	return L7_OTHER;
}

static L7_INLINE void l7_kafka_push(struct l7_conn *c, struct l7_stream *s, struct l7_token *t,
				    __u16 operation, __u16 waits)
{
	s->value[KF_LATEST] = s->value[KF_NUMBER];
	c->request_notes |= KF_ASKED;
	l7_push_ordered(c, t, s->value[KF_NUMBER], operation, waits);
	if (t->event == L7_OVERFLOW)
		l7_publish(s->value[KF_UNASKED], s->value[KF_UNASKED] + 1);
}

static L7_INLINE void l7_kafka_next(struct l7_stream *s)
{
	l7_skip_message(s);
	s->state = KF_HEADER;
	l7_take(s, 14);
}

static L7_INLINE int l7_kafka_header(struct l7_conn *c, struct l7_stream *s, struct l7_token *t)
{
	__u32 size = l7_be32(t->bytes), key = l7_be16(t->bytes + 4);
	__u32 version = l7_be16(t->bytes + 6), name = l7_be16(t->bytes + 12), operation;

	if (size < 10 || size > KF_SIZE_MAX || key > KF_KEY_MAX || version > KF_VERSION_MAX)
		return -1;
	if (name == 0xffff)
		name = 0;
	s->left = size - 10;
	if (name > s->left)
		return -1;
	l7_begin(s);
	s->value[KF_NUMBER] = l7_be32(t->bytes + 8);
	s->value[KF_VERSION] = version;
	if (key == KF_PRODUCE && s->left - name >= 4) {
		l7_skip(s, name);
		s->state = KF_ACKS;
		l7_take(s, 4);
		return 0;
	}
	operation = l7_kafka_operation(key);
	l7_kafka_push(c, s, t, (__u16)operation, operation >> 16);
	/* What follows that version has no header. */
	if (key == KF_SASL_HANDSHAKE && !version)
		c->opaque = 1;
	l7_kafka_next(s);
	return 0;
}

/*
 * Before the acks there is, since version 3, a transaction's name, and in a transaction acks are
 * not 0. So only if there is none do they matter.
 */
static L7_INLINE bool l7_kafka_is_one_way(struct l7_stream *s, struct l7_token *t)
{
	__u32 version = s->value[KF_VERSION];

	if (version < 3)
		return !l7_be16(t->bytes);
	if (version < 9)
		return l7_be32(t->bytes) == 0xffff0000;
	/* No tags, and a name that is null. */
	return !l7_be32(t->bytes);
}

static L7_INLINE int l7_kafka_request(struct l7_conn *c, struct l7_stream *s, struct l7_token *t)
{
	if (s->state == KF_HEADER)
		return l7_kafka_header(c, s, t);
	if (l7_kafka_is_one_way(s, t)) {
		l7_one_way(c, t, L7_K_PRODUCE);
		s->value[KF_LATEST] = s->value[KF_NUMBER];
		l7_publish(s->value[KF_UNASKED], s->value[KF_UNASKED] + 1);
	} else {
		l7_kafka_push(c, s, t, L7_K_PRODUCE, 0);
	}
	l7_kafka_next(s);
	return 0;
}

static L7_INLINE void l7_kafka_answered(struct l7_conn *c, struct l7_stream *s, struct l7_token *t)
{
	__u32 order = l7_order_of(c, s->value[KF_ANSWERS]), flags;

	if (order == L7_BEHIND_OLDEST) {
		/* The oldest has lost its answer; this token again. */
		c->taken++;
		t->event = L7_GAP;
		return;
	}
	if (order == L7_OLDEST) {
		flags = c->pending[c->popped & (L7_PENDING - 1)].flags;
		l7_pop(c, t, L7_ANSWERED);
		/* begin_ns: when the last answer came that had waited by design. */
		if (flags & KF_WAITS) {
			t->untimed = 1;
			s->begin_ns = s->last_ns;
		} else if (t->start_ns < s->begin_ns) {
			t->start_ns = s->begin_ns;
		}
	} else if (s->value[KF_IGNORED] != l7_read_once(c->stream[L7_REQUEST].value[KF_UNASKED])) {
		s->value[KF_IGNORED]++;
	} else {
		t->event = L7_UNMATCHED;
	}
	s->state = KF_HEADER;
	l7_take(s, 8);
}

static L7_INLINE int l7_kafka_response(struct l7_conn *c, struct l7_stream *s, struct l7_token *t)
{
	__u32 size = l7_be32(t->bytes), number = l7_be32(t->bytes + 4);

	if (s->state == KF_END) {
		l7_kafka_answered(c, s, t);
		return 0;
	}
	if (size < 4 || size > KF_SIZE_MAX ||
	    (l7_read_once(c->request_notes) & KF_ASKED &&
	     l7_read_once(c->stream[L7_REQUEST].value[KF_LATEST]) + KF_APART_MAX - number >
		     2 * KF_APART_MAX))
		return -1;
	s->left = size - 4;
	s->value[KF_ANSWERS] = number;
	l7_skip_message(s);
	s->state = KF_END;
	l7_take(s, 0);
	return 0;
}

L7_FUNCTION int l7_kafka_step(struct l7_conn *c, struct l7_token *t, __u32 direction)
{
	if (!c || !t)
		return -1;
	return direction ? l7_kafka_response(c, &c->stream[L7_RESPONSE], t)
			 : l7_kafka_request(c, &c->stream[L7_REQUEST], t);
}

/*
 * Size, key, version, number, and the client's name, of which there have to be some letters. In the
 * midst of a connection the size has to fit as well: frames of HTTP/2 have such bytes.
 */
L7_FUNCTION __u32 l7_kafka_begins(struct l7_token *head, __u32 size, __u32 flags)
{
	__u32 length, there, name, end;

	if (!head)
		return L7_NO;
	there = head->kept;
	length = l7_be32(head->bytes);
	name = l7_be16(head->bytes + 12);
	if ((there > 3 && (length < 10 || length > KF_SIZE_MAX)) || (there > 4 && head->bytes[4]) ||
	    (there > 5 && head->bytes[5] > KF_KEY_MAX) || (there > 6 && head->bytes[6]) ||
	    (there > 7 && head->bytes[7] > KF_VERSION_MAX) || (there > 8 && head->bytes[8] > 0x7f))
		return L7_NO;
	if (there < 14)
		return L7_MORE;
	if (!(flags & (L7_FRESH | L7_KNOWN)) && length + 4 > size)
		return L7_NO;
	if (!name || name > 200)
		return (!name || name == 0xffff) && length + 4 == size ? L7_CLIENT : L7_NO;
	if (name + 10 > length)
		return L7_NO;
	end = 14 + name < L7_KEPT ? 14 + name : L7_KEPT;
	for (__u32 i = 14; i < L7_KEPT; i++)
		if (i < end && i < there && (head->bytes[i] < ' ' || head->bytes[i] > '~'))
			return L7_NO;
	return there < end && there < 24 ? L7_MORE : L7_CLIENT;
}

static L7_INLINE __u32 l7_kafka_detect(struct l7_token *head, __u32 size, __u32 flags)
{
	__u32 found = l7_kafka_begins(head, size, flags);

	if (found != L7_NO || !(flags & L7_KNOWN))
		return found;
	return head->kept >= 8 && l7_be32(head->bytes) >= 4 && l7_be32(head->bytes) < KF_SIZE_MAX
		       ? L7_SERVER
		       : L7_NO;
}

#endif
