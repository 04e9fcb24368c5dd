/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* All protocols: one header each, and what the engine asks of them. */
#ifndef KPOD_L7_PROTOCOLS_H
#define KPOD_L7_PROTOCOLS_H

#include "l7.h"

/* All have the same parameters, whether they need them or not. */
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wunused-parameter"
#include "dns.h"
#include "http.h"
#include "http2.h"
#include "kafka.h"
#include "mongodb.h"
#include "mysql.h"
#include "postgresql.h"
#include "redis.h"
#pragma GCC diagnostic pop

/* Answers are matched by numbers, and not by their order. */
static L7_INLINE bool l7_has_numbers(__u32 protocol)
{
	return protocol == L7_DNS;
}

/* An error that a stream's end follows is the answer of who waits: the stream's `status`. */
static L7_INLINE bool l7_ends_with(__u32 protocol)
{
	return protocol == L7_POSTGRESQL;
}

static L7_INLINE int l7_step(struct l7_conn *c, struct l7_token *t, __u32 direction)
{
	switch (c->protocol) {
#define X(number, name, prefix)                                                                    \
	case L7_##number:                                                                          \
		return l7_##prefix##_step(c, t, direction);
		L7_PROTOCOLS(X)
#undef X
	}
	return -1;
}

/* enum l7_verdict of one protocol, on the first bytes of `size` that are there. */
static L7_INLINE __u32 l7_detect_one(__u32 protocol, struct l7_token *head, __u32 size, __u32 flags)
{
	switch (protocol) {
#define X(number, name, prefix)                                                                    \
	case L7_##number:                                                                          \
		return l7_##prefix##_detect(head, size, flags);
		L7_PROTOCOLS(X)
#undef X
	}
	return L7_NO;
}

/* A message begins: the first token of a stream. */
L7_FUNCTION int l7_start(struct l7_conn *c, __u32 direction)
{
	struct l7_stream *s;

	if (!c)
		return 0;
	s = direction ? &c->stream[L7_RESPONSE] : &c->stream[L7_REQUEST];
	s->state = 0;
	s->skip = 0;
	s->left = L7_UNBOUND;
	switch (c->protocol) {
#define X(number, name, prefix)                                                                    \
	case L7_##number:                                                                          \
		l7_##prefix##_start(c, s, direction);                                              \
		break;
		L7_PROTOCOLS(X)
#undef X
	case L7_HTTP2:
		l7_http2_start(c, s, direction);
		break;
	}
	return 0;
}

#endif
