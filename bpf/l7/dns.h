/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * DNS (RFC 1035), here over TCP: each message after its length. Questions and answers belong
 * together by their number, in any order; a question is told by its type, an answer by its response
 * code, with the upper bits that an OPT record has (RFC 6891) where there is nothing else in it.
 */
#ifndef KPOD_L7_DNS_H
#define KPOD_L7_DNS_H

#include "l7.h"

enum l7_dns_state {
	DNS_LENGTH,
	DNS_HEADER,
	DNS_LABEL,
	DNS_QUESTION, /* type and class */
	DNS_OWNER,    /* of a record: the name's first byte */
	DNS_RECORD,
};

/* value[] */
enum { DNS_ID, DNS_FLAGS, DNS_RECORDS, DNS_TYPE };

#define DNS_QR 0x8000
#define DNS_OPCODE 0x7800
#define DNS_RECORDS_MAX 4 /* of an answer without any in which the code's upper bits are sought */

static L7_INLINE __u16 l7_dns_type(__u32 type)
{
	switch (type) {
	case 1:
		return L7_A;
	case 2:
		return L7_NS;
	case 5:
		return L7_CNAME;
	case 6:
		return L7_SOA;
	case 12:
		return L7_PTR;
	case 15:
		return L7_MX;
	case 16:
		return L7_TXT;
	case 28:
		return L7_AAAA;
	case 33:
		return L7_SRV;
	case 64:
		return L7_SVCB;
	case 65:
		return L7_HTTPS;
	case 255:
		return L7_ANY;
	}
	return L7_OTHER;
}

static L7_INLINE __u16 l7_dns_rcode(__u32 code)
{
	switch (code) {
	case 0:
		return L7_NOERROR;
	case 1:
		return L7_FORMERR;
	case 2:
		return L7_SERVFAIL;
	case 3:
		return L7_NXDOMAIN;
	case 4:
		return L7_NOTIMP;
	case 5:
		return L7_REFUSED;
	case 16:
		return L7_BADVERS;
	case 23:
		return L7_BADCOOKIE;
	}
	return L7_RCODE;
}

/*
 * A header that a question may have (RFC 1035 4.1.1): opcode QUERY or STATUS, one question and
 * nothing that it answers. Without a question there is an OPT record (RFC 6891).
 */
static L7_INLINE bool l7_dns_asks(const __u8 *h)
{
	__u32 questions = l7_be16(h + 4), additional = l7_be16(h + 10);

	return !(l7_be16(h + 2) & 0xeecf) && !l7_be16(h + 6) && !l7_be16(h + 8) &&
	       additional <= 4 && (questions == 1 || (!questions && additional == 1));
}

static L7_INLINE void l7_dns_start(struct l7_conn *c, struct l7_stream *s, __u32 direction)
{
	s->state = DNS_LENGTH;
	l7_take(s, 2);
}

static L7_INLINE void l7_dns_next(struct l7_stream *s)
{
	l7_skip_message(s);
	s->state = DNS_LENGTH;
	l7_take(s, 2);
}

/* What it is of is known. */
static L7_INLINE void l7_dns_end(struct l7_conn *c, struct l7_stream *s, struct l7_token *t)
{
	__u32 flags = s->value[DNS_FLAGS];

	l7_pop_number(c, t, s->value[DNS_ID], l7_dns_rcode((flags & 15) | flags >> 16));
	l7_dns_next(s);
}

static L7_INLINE int l7_dns_header(struct l7_conn *c, struct l7_stream *s, struct l7_token *t)
{
	__u32 questions = l7_be16(t->bytes + 4);

	s->value[DNS_ID] = l7_be16(t->bytes);
	s->value[DNS_FLAGS] = l7_be16(t->bytes + 2);
	s->value[DNS_RECORDS] = 0;
	s->value[DNS_TYPE] = 0;
	if (questions > 1)
		return -1;
	if (!l7_be16(t->bytes + 6) &&
	    l7_be16(t->bytes + 8) + l7_be16(t->bytes + 10) <= DNS_RECORDS_MAX)
		s->value[DNS_RECORDS] = l7_be16(t->bytes + 8) + l7_be16(t->bytes + 10);
	s->state = questions ? DNS_LABEL : DNS_OWNER;
	l7_take(s, 1);
	return 0;
}

static L7_INLINE int l7_dns_response_end(struct l7_conn *c, struct l7_stream *s, struct l7_token *t)
{
	if (!s->value[DNS_RECORDS] || s->left < 11) {
		l7_dns_end(c, s, t);
		return 0;
	}
	s->state = DNS_OWNER;
	l7_take(s, 1);
	return 0;
}

L7_FUNCTION int l7_dns_step(struct l7_conn *c, struct l7_token *t, __u32 direction)
{
	struct l7_stream *s;
	__u32 size;

	if (!c || !t)
		return -1;
	s = direction ? &c->stream[L7_RESPONSE] : &c->stream[L7_REQUEST];
	size = t->bytes[0];
	switch (s->state) {
	case DNS_LENGTH:
		l7_begin(s);
		s->left = l7_be16(t->bytes);
		if (s->left < 12)
			return -1;
		s->state = DNS_HEADER;
		l7_take(s, 12);
		return 0;
	case DNS_HEADER:
		if (direction == L7_REQUEST && !l7_dns_asks(t->bytes))
			return -1;
		if (direction == L7_RESPONSE && !(l7_be16(t->bytes + 2) & DNS_QR))
			return -1;
		if (!l7_be16(t->bytes + 4) && direction == L7_RESPONSE) {
			l7_dns_header(c, s, t);
			return l7_dns_response_end(c, s, t);
		}
		if (!l7_be16(t->bytes + 4)) {
			l7_push_number(c, t, l7_be16(t->bytes), L7_OTHER, 0);
			l7_dns_next(s);
			return 0;
		}
		return l7_dns_header(c, s, t);
	case DNS_LABEL:
		if (size > 63 || s->left < size + 4)
			return -1;
		if (size) {
			l7_skip(s, size);
			l7_take(s, 1);
		} else {
			s->state = DNS_QUESTION;
			l7_take(s, 4);
		}
		return 0;
	case DNS_QUESTION:
		s->value[DNS_TYPE] = l7_be16(t->bytes);
		if (direction == L7_RESPONSE)
			return l7_dns_response_end(c, s, t);
		l7_push_number(c, t, s->value[DNS_ID],
			       s->value[DNS_FLAGS] & DNS_OPCODE ? L7_OTHER
								: l7_dns_type(s->value[DNS_TYPE]),
			       0);
		l7_dns_next(s);
		return 0;
	case DNS_OWNER:
		if (s->left < 10 + (size && size < 64 ? size : 0)) {
			l7_dns_end(c, s, t);
			return 0;
		}
		if (size && size < 64) {
			l7_skip(s, size);
			l7_take(s, 1);
			return 0;
		}
		/* The root, or a pointer, whose second byte comes first. */
		l7_skip(s, size ? 1 : 0);
		s->state = DNS_RECORD;
		l7_take(s, 10);
		return 0;
	case DNS_RECORD:
		if (l7_be16(t->bytes) == 41) { /* OPT */
			s->value[DNS_FLAGS] |= (__u32)t->bytes[4] << 20;
			l7_dns_end(c, s, t);
			return 0;
		}
		size = l7_be16(t->bytes + 8);
		s->value[DNS_RECORDS]--;
		if (size > s->left)
			size = s->left;
		l7_skip(s, size);
		if (!s->value[DNS_RECORDS] || s->left < size + 11) {
			s->skip = 0;
			l7_dns_end(c, s, t);
			return 0;
		}
		s->state = DNS_OWNER;
		l7_take(s, 1);
		return 0;
	}
	return -1;
}

static L7_INLINE __u32 l7_dns_detect(struct l7_token *head, __u32 size, __u32 flags)
{
	__u32 length = l7_be16(head->bytes);

	if (head->kept < 14)
		return head->kept && head->bytes[0] > 2 ? L7_NO : L7_MORE;
	if (flags & L7_KNOWN && l7_be16(head->bytes + 4) & DNS_QR)
		return length >= 12 ? L7_SERVER : L7_NO;
	if (length < 17 || length > 600 || !l7_dns_asks(head->bytes + 2))
		return L7_NO;
	/* The first label: letters, digits and the like. */
	for (__u32 i = 15; i < L7_KEPT; i++)
		if (i < head->kept && i < 15u + head->bytes[14] &&
		    (head->bytes[i] < '!' || head->bytes[i] > 0x7e))
			return L7_NO;
	return head->kept < 15 ? L7_MORE : head->bytes[14] <= 63 ? L7_CLIENT : L7_NO;
}

#endif
