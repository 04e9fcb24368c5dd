/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * MySQL and MariaDB (their documentation of the client/server protocol). A request is a command: a
 * packet of the client's with sequence number 0. Its answer ends with an OK or EOF packet without
 * SERVER_MORE_RESULTS_EXISTS, or with an ERR packet, which may come after rows. Answers are in
 * order, and several commands may be outstanding. Log-in is no request. Connections that are
 * encrypted or compressed after it are left.
 */
#ifndef KPOD_L7_MYSQL_H
#define KPOD_L7_MYSQL_H

#include "l7.h"
#include "sql.h"

enum l7_mysql_state {
	/* of requests */
	MY_LOGIN,  /* the header of the client's first packet, and its capabilities */
	MY_HEADER, /* length and sequence number */
	MY_COMMAND,
	/* of answers */
	MY_GREETING,
	MY_VERSION,
	MY_CAPABILITIES,
	MY_PACKET,    /* a header, and the first byte of what is in it */
	MY_CONTINUED, /* the header of the rest of a packet of 16 MiB */
	MY_STATUS,    /* of an OK or EOF packet */
	MY_PREPARED,
	MY_ERROR,
};

/* value[] of requests, … */
enum { MY_SEQUENCE, MY_SIZE };
/* … and of answers */
enum { MY_PHASE, MY_LENGTH, MY_LEFT };

/* Where an answer is. */
enum l7_mysql_phase {
	MY_FIRST, /* before it, or between two results of it */
	MY_AUTHENTICATION,
	MY_DEFINITIONS, /* of columns, up to an EOF packet */
	MY_ROWS,	/* also definitions, where no EOF packet ends them */
	MY_COUNTED,	/* packets of which the number is known */
};

/* Of a request, as its answer depends on it. */
enum l7_mysql_flags {
	MY_PREPARES = 1,
	MY_HAS_ROWS = 2, /* there is nothing before them */
	MY_HAS_TEXT = 4, /* that ends with its first packet */
	MY_LOGS_IN = 8,
	MY_NO_ANSWER = 16,
	MY_LAST = 32, /* a stream of events follows it */
	MY_SQL = 64,  /* a statement follows it */
};

/* request_notes */
enum { MY_LOGGED_IN = 1, MY_NO_EOF = 2 };
/* response_notes */
enum { MY_GREETED = 1, MY_MAY_COMPRESS = 2, MY_MAY_ZSTD = 4, MY_MAY_NO_EOF = 8 };

/* Capabilities. */
#define MY_COMPRESS (1u << 5)
#define MY_SSL (1u << 11)
#define MY_DEPRECATE_EOF (1u << 24)
#define MY_ZSTD (1u << 26)

/* Status flags. */
#define MY_MORE_RESULTS 0x08
#define MY_CURSOR_EXISTS 0x40

#define MY_WHOLE 0xffffff
#define MY_PROGRESS 0xffff /* MariaDB: the number of an ERR packet that ends nothing */

static L7_INLINE __u32 l7_le24(const __u8 *b)
{
	return (__u32)b[2] << 16 | (__u32)b[1] << 8 | b[0];
}

static L7_INLINE __u32 l7_le16(const __u8 *b)
{
	return (__u32)b[1] << 8 | b[0];
}

static L7_INLINE void l7_mysql_start(struct l7_conn *c, struct l7_stream *s, __u32 direction)
{
	for (__u32 i = 0; i < 4; i++)
		s->value[i] = 0;
	if (direction == L7_REQUEST) {
		s->state = c->request_notes & MY_LOGGED_IN ? MY_HEADER : MY_LOGIN;
		l7_take(s, s->state == MY_HEADER ? 4 : 8);
	} else {
		s->state = c->response_notes & MY_GREETED ? MY_PACKET : MY_GREETING;
		l7_take(s, 5);
	}
}

/* Its operation and, in the upper half, enum l7_mysql_flags; L7_NO_COMMAND: it is none. */
#define L7_NO_COMMAND (~0u)
L7_FUNCTION __u32 l7_mysql_command(__u32 command)
{
	switch (command) {
	case 0x01:
		return L7_QUIT | MY_NO_ANSWER << 16;
	case 0x02: /* INIT_DB */
		return L7_USE;
	case 0x03:
		return L7_OTHER | MY_SQL << 16;
	case 0x04: /* FIELD_LIST */
	case 0x1c:
		return (command == 0x04 ? L7_SHOW : L7_FETCH) | MY_HAS_ROWS << 16;
	case 0x09: /* STATISTICS */
		return L7_OTHER | MY_HAS_TEXT << 16;
	case 0x0e:
		return L7_PING;
	case 0x11: /* CHANGE_USER */
		return L7_AUTH | MY_LOGS_IN << 16;
	case 0x12: /* BINLOG_DUMP */
	case 0x1e: /* BINLOG_DUMP_GTID */
		return L7_OTHER | MY_LAST << 16;
	case 0x16:
		return L7_PREPARE | MY_PREPARES << 16;
	case 0x17:
	case 0xfa: /* STMT_BULK_EXECUTE */
		return L7_EXECUTE;
	case 0x18:
		return L7_SEND_LONG_DATA | MY_NO_ANSWER << 16;
	case 0x19:
		return L7_CLOSE | MY_NO_ANSWER << 16;
	case 0x1a: /* STMT_RESET */
	case 0x1f: /* RESET_CONNECTION */
		return L7_RESET;
	}
	return command && (command < 0x21 || command > 0xfa) ? L7_OTHER : L7_NO_COMMAND;
}

/* SSLRequest has nothing but the fixed part of the client's answer to the greeting. */
static L7_INLINE int l7_mysql_login(struct l7_conn *c, struct l7_stream *s, struct l7_token *t)
{
	__u32 size = l7_le24(t->bytes), wants = l7_le32(t->bytes + 4);
	__u8 offers = l7_read_once(c->response_notes);

	if (size < 32)
		return -1;
	if (size == 32 && wants & MY_SSL) {
		c->protocol = L7_TLS;
		c->opaque = 1;
		return 0;
	}
	if ((wants & MY_COMPRESS && offers & MY_MAY_COMPRESS) ||
	    (wants & MY_ZSTD && offers & MY_MAY_ZSTD)) {
		c->protocol = L7_UNKNOWN;
		c->opaque = 1;
		return 0;
	}
	c->request_notes = MY_LOGGED_IN;
	if (wants & MY_DEPRECATE_EOF && offers & MY_MAY_NO_EOF)
		c->request_notes |= MY_NO_EOF;
	l7_skip(s, size - 4);
	s->state = MY_HEADER;
	l7_take(s, 4);
	return 0;
}

static L7_INLINE int l7_mysql_request(struct l7_conn *c, struct l7_stream *s, struct l7_token *t)
{
	__u32 size, command, last;

	switch (s->state) {
	case MY_LOGIN:
		return l7_mysql_login(c, s, t);
	case MY_HEADER:
		size = l7_le24(t->bytes);
		last = s->value[MY_SEQUENCE];
		s->value[MY_SEQUENCE] = t->bytes[3];
		/* Of a file (LOAD DATA LOCAL), 0 comes after 255. */
		if (t->bytes[3] || (last == 255 && s->value[MY_SIZE])) {
			s->value[MY_SIZE] = size;
			l7_skip(s, size);
			return 0;
		}
		s->value[MY_SIZE] = size;
		s->left = size;
		if (!size)
			return -1;
		l7_begin(s);
		s->state = MY_COMMAND;
		l7_take(s, size);
		return 0;
	case MY_COMMAND:
		command = l7_mysql_command(t->bytes[0]);
		if (command == L7_NO_COMMAND)
			return -1;
		if (command >> 16 & MY_SQL) {
			t->bytes[0] = ' ';
			/* No query attributes (MySQL 8.0.23), where they could be. */
			if (!t->bytes[1] && t->bytes[2] == 1)
				t->bytes[1] = t->bytes[2] = ' ';
			command = l7_sql_verb(t);
		}
		if (command >> 16 & MY_NO_ANSWER)
			l7_one_way(c, t, (__u16)command);
		else
			l7_push(c, t, (__u16)command, command >> 16);
		c->opaque = !!(command >> 16 & MY_LAST);
		l7_skip_message(s);
		s->state = MY_HEADER;
		l7_take(s, 4);
		return 0;
	}
	return -1;
}

/* The packet is done with. */
static L7_INLINE void l7_mysql_next(struct l7_stream *s)
{
	bool more = s->value[MY_LENGTH] == MY_WHOLE;

	l7_skip_message(s);
	s->state = more ? MY_CONTINUED : MY_PACKET;
	l7_take(s, more ? 4 : 5);
}

static L7_INLINE void l7_mysql_end(struct l7_conn *c, struct l7_stream *s, struct l7_token *t,
				   __u16 status)
{
	s->value[MY_PHASE] = MY_FIRST;
	if (status != L7_OK && !c->unaligned && !l7_oldest(c))
		t->event = L7_UNSOLICITED;
	else
		l7_pop(c, t, status);
}

/* The bytes that a number takes ("length-encoded integer"). */
static L7_INLINE __u32 l7_mysql_width(__u8 first)
{
	return first < 0xfb ? 1 : first == 0xfc ? 3 : first == 0xfd ? 4 : 9;
}

/* Status flags behind the first byte of an OK or EOF packet. */
L7_FUNCTION __u32 l7_mysql_status(struct l7_token *t, __u32 size)
{
	__u32 at = 0;

	if (!t)
		return 0;
	if (size < 7) /* EOF: warnings, and the flags */
		return size < 5 ? 0 : l7_le16(t->bytes + 2);
	at = l7_mysql_width(t->bytes[0]);	 /* affected rows */
	at += l7_mysql_width(t->bytes[at & 15]); /* last number inserted */
	at &= 31;
	return at + 1 < L7_KEPT ? l7_le16(t->bytes + at) : 0;
}

/* The rest of a packet, as far as it can matter. */
static L7_INLINE int l7_mysql_look(struct l7_stream *s, __u8 state, __u32 least)
{
	s->state = state;
	l7_take(s, s->left < 24 ? s->left : 24);
	return s->left < least ? -1 : 0;
}

/* The first packet of an answer, or of a result of it. */
static L7_INLINE int l7_mysql_first(struct l7_conn *c, struct l7_stream *s, struct l7_token *t,
				    __u32 size)
{
	struct l7_request *asked = l7_oldest(c);
	__u32 flags = asked ? asked->flags : 0;
	__u8 first = t->bytes[4];

	/* The rest of an answer of which the beginning or the request is lost. */
	if (!asked && t->bytes[3] > 1) {
		l7_mysql_next(s);
		return 0;
	}
	if (flags & MY_HAS_TEXT || (!asked && (first == 0xfb || (first == 0xfe && size >= 9)))) {
		l7_mysql_end(c, s, t, L7_OK);
	} else if (flags & MY_LOGS_IN && first) {
		/* The server asks for more. */
	} else if (!first && flags & MY_PREPARES) {
		return l7_mysql_look(s, MY_PREPARED, 8);
	} else if ((!first && size >= 7) || (first == 0xfe && size < 9)) {
		return l7_mysql_look(s, MY_STATUS, 0);
	} else if (first != 0xfb) { /* a file is wanted; its answer comes after it */
		s->value[MY_PHASE] =
			l7_read_once(c->request_notes) & MY_NO_EOF ? MY_ROWS : MY_DEFINITIONS;
	}
	l7_mysql_next(s);
	return 0;
}

static L7_INLINE int l7_mysql_packet(struct l7_conn *c, struct l7_stream *s, struct l7_token *t)
{
	__u32 size = l7_le24(t->bytes), phase = s->value[MY_PHASE];
	bool no_eof = l7_read_once(c->request_notes) & MY_NO_EOF;
	__u8 first = t->bytes[4];
	struct l7_request *asked;

	if (!size)
		return -1;
	s->left = size - 1;
	s->value[MY_LENGTH] = size;
	if (first == 0xff && size >= 3)
		return l7_mysql_look(s, MY_ERROR, 2);
	if (phase == MY_FIRST) {
		asked = l7_oldest(c);
		if (!asked || !(asked->flags & MY_HAS_ROWS))
			return l7_mysql_first(c, s, t, size);
		phase = s->value[MY_PHASE] = MY_ROWS;
	}
	switch (phase) {
	case MY_AUTHENTICATION:
		if (!first)
			s->value[MY_PHASE] = MY_FIRST;
		break;
	case MY_DEFINITIONS:
		if (first == 0xfe && size < 9)
			return l7_mysql_look(s, MY_STATUS, 0);
		break;
	case MY_ROWS:
		if (first == 0xfe && size < (no_eof ? MY_WHOLE : 9))
			return l7_mysql_look(s, MY_STATUS, 0);
		break;
	case MY_COUNTED:
		if (!--s->value[MY_LEFT])
			l7_mysql_end(c, s, t, L7_OK);
		break;
	}
	l7_mysql_next(s);
	return 0;
}

/* Definitions of parameters and of columns, each with an EOF packet if there are any. */
static L7_INLINE void l7_mysql_prepared(struct l7_conn *c, struct l7_stream *s, struct l7_token *t)
{
	__u32 columns = l7_le16(t->bytes + 4), parameters = l7_le16(t->bytes + 6);

	s->value[MY_LEFT] = columns + parameters;
	if (!(l7_read_once(c->request_notes) & MY_NO_EOF))
		s->value[MY_LEFT] += !!columns + !!parameters;
	if (s->value[MY_LEFT])
		s->value[MY_PHASE] = MY_COUNTED;
	else
		l7_mysql_end(c, s, t, L7_OK);
}

static L7_INLINE int l7_mysql_response(struct l7_conn *c, struct l7_stream *s, struct l7_token *t)
{
	__u32 flags;

	switch (s->state) {
	case MY_GREETING:
		s->left = l7_le24(t->bytes) - 1;
		s->state = MY_VERSION;
		if (t->bytes[4] == 0xff) { /* too many connections, or not from this host */
			t->event = L7_UNSOLICITED;
			c->opaque = 1;
			return 0;
		}
		l7_text(s);
		return t->bytes[4] == 0x0a && s->left < 1000 ? 0 : -1;
	case MY_VERSION:
		s->state = MY_CAPABILITIES;
		l7_take(s, 20);
		return s->left < 20 ? -1 : 0;
	case MY_CAPABILITIES:
		flags = l7_le16(t->bytes + 13) | l7_le16(t->bytes + 18) << 16;
		c->response_notes = MY_GREETED | (flags & MY_COMPRESS ? MY_MAY_COMPRESS : 0) |
				    (flags & MY_ZSTD ? MY_MAY_ZSTD : 0) |
				    (flags & MY_DEPRECATE_EOF ? MY_MAY_NO_EOF : 0);
		s->value[MY_PHASE] = MY_AUTHENTICATION;
		break;
	case MY_PACKET:
		return l7_mysql_packet(c, s, t);
	case MY_CONTINUED:
		s->value[MY_LENGTH] = s->left = l7_le24(t->bytes);
		break;
	case MY_STATUS:
		flags = l7_mysql_status(t, s->value[MY_LENGTH]);
		if (s->value[MY_PHASE] == MY_DEFINITIONS && !(flags & MY_CURSOR_EXISTS))
			s->value[MY_PHASE] = MY_ROWS;
		else if (flags & MY_MORE_RESULTS)
			s->value[MY_PHASE] = MY_FIRST;
		else
			l7_mysql_end(c, s, t, L7_OK);
		break;
	case MY_PREPARED:
		l7_mysql_prepared(c, s, t);
		break;
	case MY_ERROR:
		if (l7_le16(t->bytes) == MY_PROGRESS)
			break;
		l7_mysql_end(c, s, t,
			     t->kept >= 8 && t->bytes[2] == '#' ? (__u16)l7_sql_class(t, 3)
								: L7_ERROR);
		break;
	default:
		return -1;
	}
	l7_mysql_next(s);
	return 0;
}

L7_FUNCTION int l7_mysql_step(struct l7_conn *c, struct l7_token *t, __u32 direction)
{
	if (!c || !t)
		return -1;
	return direction ? l7_mysql_response(c, &c->stream[L7_RESPONSE], t)
			 : l7_mysql_request(c, &c->stream[L7_REQUEST], t);
}

/*
 * The server speaks first: a greeting, or an error with the number of one that takes its place.
 * Without either, nothing tells these packets from other bytes.
 */
static L7_INLINE __u32 l7_mysql_detect(struct l7_token *head, __u32 size, __u32 flags)
{
	__u32 length = l7_le24(head->bytes), there = head->kept, number;

	if (flags & L7_KNOWN) {
		if (there < 5 || !length || length + 4 > size)
			return L7_NO;
		if (head->bytes[3] == 1)
			return L7_SERVER;
		return !head->bytes[3] && l7_mysql_command(head->bytes[4]) != L7_NO_COMMAND
			       ? L7_CLIENT
			       : L7_NO;
	}
	if (!(flags & L7_FRESH) || (there > 2 && (length < 8 || length > 600)) ||
	    (there > 3 && head->bytes[3]) ||
	    (there > 4 && head->bytes[4] != 0x0a && head->bytes[4] != 0xff))
		return L7_NO;
	if (there < 7)
		return L7_MORE;
	number = l7_le16(head->bytes + 5);
	if (head->bytes[4] == 0xff) /* ER_CON_COUNT_ERROR, ER_HOST_IS_BLOCKED, … NOT_PRIVILEGED */
		return number == 1040 || number == 1129 || number == 1130 ? L7_SERVER : L7_NO;
	return length >= 20 && head->bytes[5] >= '1' && head->bytes[5] <= '9' ? L7_SERVER : L7_NO;
}

#endif
