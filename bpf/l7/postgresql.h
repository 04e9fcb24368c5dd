/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * PostgreSQL's protocol 3 (its documentation, "Frontend/Backend Protocol"). A request is what one
 * ReadyForQuery answers: a Query, a FunctionCall, or all messages up to a Sync. It has at most one
 * error, whatever else of a pipeline is left out because of it. Log-in is no request; an error that
 * nobody waits for is an event. Connections that are encrypted or begin to replicate are left.
 */
#ifndef KPOD_L7_POSTGRESQL_H
#define KPOD_L7_POSTGRESQL_H

#include "l7.h"
#include "sql.h"

enum l7_postgresql_state {
	PG_STARTUP, /* length and code, before there are types */
	PG_HEADER,  /* type and length */
	PG_VERB,    /* the beginning of a Query's text */
	PG_NAME,    /* a Parse's: of the statement, before its text */
	PG_TYPE,    /* answers, until log-in is done: one byte may be the answer to an SSLRequest */
	PG_LENGTH,
	PG_TAG,
	PG_FIELD, /* of an error: its code, … */
	PG_VALUE, /* … and its value */
};

/* value[] */
enum { PG_MESSAGE, PG_UNIT_OPERATION, PG_ERROR_FIELD, PG_LOGIN };

/* request_notes */
enum {
	PG_UNIT = 1,	   /* of the extended protocol, and not at its Sync */
	PG_AFTER_COPY = 2, /* the Sync that follows is not answered, as the first one was not */
	PG_ASKED_TLS = 4,
	PG_STARTED = 8,
};

#define PG_SSL 80877103
#define PG_GSS 80877104
#define PG_CANCEL 80877102
#define PG_VERSION_3 (3u << 16)
#define PG_LENGTH_MAX (1u << 30)

static L7_INLINE void l7_postgresql_start(struct l7_conn *c, struct l7_stream *s, __u32 direction)
{
	if (direction == L7_REQUEST) {
		/* Taken up again in the midst, or found there: then startup is over. */
		s->state = c->late || c->request_notes & PG_STARTED ? PG_HEADER : PG_STARTUP;
		l7_take(s, s->state == PG_HEADER ? 5 : 8);
		c->request_notes &= ~PG_UNIT;
	} else {
		s->state = PG_TYPE;
		l7_take(s, 1);
	}
	for (__u32 i = 0; i < 4; i++)
		s->value[i] = 0;
}

static L7_INLINE void l7_postgresql_next(struct l7_stream *s)
{
	l7_skip_message(s);
	s->state = PG_HEADER;
	l7_take(s, 5);
}

/* A unit's verb is that of its first statement; it may be known after it has begun. */
static L7_INLINE void l7_postgresql_name(struct l7_conn *c, __u32 verb)
{
	struct l7_request *last = &c->pending[(c->pushed - 1) & (L7_PENDING - 1)];

	if (last->operation == L7_OTHER && last->count == 1)
		last->operation = (__u16)verb;
}

static L7_INLINE int l7_postgresql_startup(struct l7_conn *c, struct l7_stream *s,
					   struct l7_token *t)
{
	__u32 size = l7_be32(t->bytes), code = l7_be32(t->bytes + 4);

	if (size == 8 && (code == PG_SSL || code == PG_GSS)) {
		c->request_notes |= PG_ASKED_TLS;
		l7_take(s, 8);
		return 0;
	}
	if (code == PG_CANCEL) { /* answered by the close */
		c->opaque = 1;
		return 0;
	}
	if (code >> 16 != 3 || size < 8 || size > 10000)
		return -1;
	c->request_notes = PG_STARTED;
	l7_skip(s, size - 8);
	s->state = PG_HEADER;
	l7_take(s, 5);
	return 0;
}

static L7_INLINE int l7_postgresql_request(struct l7_conn *c, struct l7_stream *s,
					   struct l7_token *t)
{
	__u32 size;

	switch (s->state) {
	case PG_STARTUP:
		return l7_postgresql_startup(c, s, t);
	case PG_HEADER:
		break;
	case PG_NAME:
		s->state = PG_VERB;
		l7_take(s, s->left < 24 ? s->left : 24);
		return 0;
	case PG_VERB:
		l7_postgresql_name(c, l7_sql_verb(t));
		l7_postgresql_next(s);
		return 0;
	default:
		return -1;
	}
	size = l7_be32(t->bytes + 1);
	if (size < 4 || size > PG_LENGTH_MAX)
		return -1;
	s->left = size - 4;
	switch (t->bytes[0]) {
	case 'Q': /* Query */
	case 'F': /* FunctionCall */
		l7_begin(s);
		l7_push(c, t, L7_OTHER, 0);
		c->request_notes &= ~(PG_UNIT | PG_AFTER_COPY);
		if (t->bytes[0] == 'F')
			break;
		s->state = PG_VERB;
		l7_take(s, s->left < 24 ? s->left : 24);
		return 0;
	case 'P': /* Parse */
	case 'B': /* Bind */
	case 'D': /* Describe */
	case 'E': /* Execute */
	case 'C': /* Close */
		c->request_notes &= ~PG_AFTER_COPY;
		if (!(c->request_notes & PG_UNIT)) {
			c->request_notes |= PG_UNIT;
			l7_begin(s);
			l7_push(c, t, L7_OTHER, 0);
		}
		if (t->bytes[0] == 'P') {
			s->state = PG_NAME;
			l7_text(s);
			return 0;
		}
		break;
	case 'S': /* Sync */
		if (!(c->request_notes & (PG_UNIT | PG_AFTER_COPY))) {
			l7_begin(s);
			l7_push(c, t, L7_OTHER, 0);
		}
		c->request_notes &= ~(PG_UNIT | PG_AFTER_COPY);
		break;
	case 'c': /* CopyDone */
	case 'f': /* CopyFail */
		c->request_notes |= PG_AFTER_COPY;
		break;
	case 'd': /* CopyData */
	case 'H': /* Flush */
	case 'p': /* of log-in */
	case 'X': /* Terminate */
		break;
	default:
		return -1;
	}
	l7_postgresql_next(s);
	return 0;
}

static L7_INLINE void l7_postgresql_ready(struct l7_conn *c, struct l7_stream *s,
					  struct l7_token *t)
{
	/* The first one says that log-in is done. */
	if (s->value[PG_LOGIN]) {
		s->value[PG_LOGIN] = 0;
	} else if (l7_pop(c, t, s->status ? s->status : L7_OK)) {
		if (s->value[PG_UNIT_OPERATION])
			t->operation = (__u16)s->value[PG_UNIT_OPERATION] - 1;
	}
	s->status = 0;
	s->value[PG_UNIT_OPERATION] = 0;
}

static L7_INLINE int l7_postgresql_answer(struct l7_conn *c, struct l7_stream *s,
					  struct l7_token *t, __u8 type, __u32 size)
{
	if (size < 4 || size > PG_LENGTH_MAX)
		return -1;
	s->left = size - 4;
	switch (type) {
	case 'E':
		s->state = PG_FIELD;
		l7_take(s, 1);
		return s->left ? 0 : -1;
	case 'C':
		if (s->value[PG_UNIT_OPERATION])
			break;
		s->state = PG_TAG;
		l7_take(s, s->left < 24 ? s->left : 24);
		return 0;
	case 'R':
		/* AuthenticationOk and what comes before it: the ReadyForQuery is the log-in's. */
		s->value[PG_LOGIN] = 1;
		break;
	case 'Z':
		l7_postgresql_ready(c, s, t);
		break;
	case 'W': /* CopyBothResponse */
		l7_pop(c, t, L7_OK);
		t->untimed = 1;
		c->opaque = 1;
		return 0;
	default:
		if (type < '1' || type > 'z')
			return -1;
	}
	l7_postgresql_next(s);
	return 0;
}

static L7_INLINE int l7_postgresql_response(struct l7_conn *c, struct l7_stream *s,
					    struct l7_token *t)
{
	__u32 verb;

	switch (s->state) {
	case PG_TYPE:
		if (l7_read_once(c->request_notes) & PG_ASKED_TLS) {
			if (t->bytes[0] == 'S' || t->bytes[0] == 'G') {
				c->protocol = L7_TLS;
				c->opaque = 1;
				return 0;
			}
			if (t->bytes[0] == 'N') {
				l7_take(s, 1);
				return 0;
			}
		}
		s->value[PG_MESSAGE] = t->bytes[0];
		s->state = PG_LENGTH;
		l7_take(s, 4);
		return 0;
	case PG_LENGTH:
		return l7_postgresql_answer(c, s, t, (__u8)s->value[PG_MESSAGE], l7_be32(t->bytes));
	case PG_HEADER:
		return l7_postgresql_answer(c, s, t, t->bytes[0], l7_be32(t->bytes + 1));
	case PG_TAG:
		verb = l7_sql_verb(t);
		s->value[PG_UNIT_OPERATION] = verb + 1;
		l7_postgresql_next(s);
		return 0;
	case PG_FIELD:
		if (!t->bytes[0] || !s->left) {
			l7_postgresql_next(s);
			return 0;
		}
		s->value[PG_ERROR_FIELD] = t->bytes[0];
		s->state = PG_VALUE;
		l7_text(s);
		return 0;
	case PG_VALUE:
		if (s->value[PG_ERROR_FIELD] == 'C') {
			if (l7_oldest(c))
				s->status = (__u16)l7_sql_class(t, 0);
			else
				t->event = L7_UNSOLICITED;
			l7_postgresql_next(s);
			return 0;
		}
		if (!s->left) {
			l7_postgresql_next(s);
			return 0;
		}
		s->state = PG_FIELD;
		l7_take(s, 1);
		return 0;
	}
	return -1;
}

L7_FUNCTION int l7_postgresql_step(struct l7_conn *c, struct l7_token *t, __u32 direction)
{
	if (!c || !t)
		return -1;
	return direction ? l7_postgresql_response(c, &c->stream[L7_RESPONSE], t)
			 : l7_postgresql_request(c, &c->stream[L7_REQUEST], t);
}

/*
 * At the beginning: length and code. In the midst: a Query that is a segment, or a Parse or Bind
 * whose segment ends with a Sync, as far as its first bytes say.
 */
static L7_INLINE __u32 l7_postgresql_detect(struct l7_token *head, __u32 size, __u32 flags)
{
	__u32 first = l7_be32(head->bytes), code = l7_be32(head->bytes + 4);
	__u32 typed = l7_be32(head->bytes + 1);
	__u8 type = head->bytes[0];

	if (flags & L7_FRESH) {
		if (head->kept < 8 || (head->kept < 12 && code >> 16 == 3))
			return head->kept && head->bytes[0] ? L7_NO : L7_MORE;
		if ((first == 8 && (code == PG_SSL || code == PG_GSS)) ||
		    (code == PG_CANCEL && first >= 16 && first <= 268) ||
		    ((code == PG_VERSION_3 || code == PG_VERSION_3 + 2) && first >= 16 &&
		     first <= 10000 && head->kept >= 12 && head->bytes[8] >= 'a' &&
		     head->bytes[8] <= 'z' && head->bytes[9] >= '_'))
			return L7_CLIENT;
		return L7_NO;
	}
	if (head->kept < 5 || typed < 4 || typed > PG_LENGTH_MAX)
		return L7_NO;
	if (flags & L7_KNOWN) {
		switch (type) {
		case 'Q':
		case 'P':
		case 'B':
			return L7_CLIENT;
		case '1':
		case '2':
		case 'T':
		case 'C':
		case 'E':
		case 'Z':
			return L7_SERVER;
		}
		return L7_NO;
	}
	if (type == 'Q' && typed + 1 == size && head->kept >= 9 && head->bytes[5] >= ' ' &&
	    head->bytes[6] >= ' ' && head->bytes[7] >= ' ')
		return L7_CLIENT;
	return L7_NO;
}

#endif
