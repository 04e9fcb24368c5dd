/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * Redis and Valkey, RESP2 and RESP3 (redis.io's protocol specification). A request is a command,
 * answered by one value at the top level; pushes answer nothing but (P/S)SUBSCRIBE and
 * (P/S)UNSUBSCRIBE, which end with their first confirmation. CLIENT REPLY OFF and SKIP make
 * commands one-way. After MONITOR, SYNC and PSYNC the connection is no conversation any more.
 */
#ifndef KPOD_L7_REDIS_H
#define KPOD_L7_REDIS_H

#include "l7.h"

enum l7_redis_state {
	REDIS_VALUE, /* of requests: a command; of answers: the next value */
	REDIS_NAME_SIZE,
	REDIS_NAME,
	REDIS_ARGUMENT,	 /* the size of one */
	REDIS_WORD_SIZE, /* of an argument that matters */
	REDIS_WORD,
	REDIS_BULK,	  /* of answers: behind the bytes of a string */
	REDIS_FIRST_SIZE, /* the first element of what may be a confirmation or a message */
	REDIS_FIRST,
};

/* value[] of requests, … */
enum { REDIS_LEFT, REDIS_COMMAND, REDIS_ARGUMENTS, REDIS_REPLY };
/* … and of answers */
enum { REDIS_ELEMENTS, REDIS_KIND, REDIS_INSIDE, REDIS_EXPECTED };

enum l7_redis_kind { REDIS_PLAIN, REDIS_PUSH, REDIS_CONFIRMATION, REDIS_MESSAGE };

/* Of a request. */
enum l7_redis_flags {
	REDIS_UNTIMED = 1,   /* it may wait by design */
	REDIS_HANDSHAKE = 2, /* a library's own: servers need not know it */
	REDIS_LAST = 4,	     /* what comes after its answer is no conversation */
	REDIS_SUBSCRIBES = 8,
	REDIS_SCRIPT = 16,
};

/* request_notes */
enum { REDIS_SUBSCRIBED = 1, REDIS_REPLY_OFF = 2, REDIS_REPLY_SKIP = 4, REDIS_SKIPPING = 8 };

static L7_INLINE void l7_redis_start(struct l7_conn *c, struct l7_stream *s, __u32 direction)
{
	for (__u32 i = 0; i < 4; i++)
		s->value[i] = 0;
	s->value[REDIS_ELEMENTS] = direction == L7_RESPONSE;
	l7_line(s);
}

/*
 * Number of the command and, in the upper half, enum l7_redis_flags, by the first eight bytes of
 * its name, the next eight, and its size.
 */
L7_FUNCTION __u32 l7_redis_command(__u64 first, __u64 second, __u32 size)
{
	if (size > 16)
		return L7_OTHER;
	first = L7_UPPER(l7_first(first, size));
	second = size > 8 ? L7_UPPER(l7_first(second, size - 8)) : 0;
#define IS(text, number, flags)                                                                    \
	if (first == L7_WORD(text) && !second)                                                     \
		return (number) | (flags) << 16;
#define IS_LONG(text, rest, number, flags)                                                         \
	if (first == L7_WORD(text) && second == L7_WORD(rest))                                     \
		return (number) | (flags) << 16;
	IS("GET", L7_GET, 0)
	IS("SET", L7_SET, 0)
	IS("MGET", L7_MGET, 0)
	IS("MSET", L7_MSET, 0)
	IS("DEL", L7_DEL, 0)
	IS("EXPIRE", L7_EXPIRE, 0)
	IS("INCR", L7_INCR, 0)
	IS("HGET", L7_HGET, 0)
	IS("HSET", L7_HSET, 0)
	IS("HGETALL", L7_HGETALL, 0)
	IS("LPUSH", L7_LPUSH, 0)
	IS("RPUSH", L7_RPUSH, 0)
	IS("LPOP", L7_LPOP, 0)
	IS("RPOP", L7_RPOP, 0)
	IS("LRANGE", L7_LRANGE, 0)
	IS("SADD", L7_SADD, 0)
	IS("ZADD", L7_ZADD, 0)
	IS("PING", L7_PING, 0)
	IS("SETEX", L7_SETEX, 0)
	IS("SETNX", L7_SETNX, 0)
	IS("UNLINK", L7_UNLINK, 0)
	IS("EXISTS", L7_EXISTS, 0)
	IS("TTL", L7_TTL, 0)
	IS("INCRBY", L7_INCRBY, 0)
	IS("DECR", L7_DECR, 0)
	IS("HMGET", L7_HMGET, 0)
	IS("HDEL", L7_HDEL, 0)
	IS("HINCRBY", L7_HINCRBY, 0)
	IS("LLEN", L7_LLEN, 0)
	IS("SREM", L7_SREM, 0)
	IS("SMEMBERS", L7_SMEMBERS, 0)
	IS("ZRANGE", L7_ZRANGE, 0)
	IS("ZREM", L7_ZREM, 0)
	IS("XADD", L7_XADD, 0)
	IS("XACK", L7_XACK, 0)
	IS("XREAD", L7_XREAD, REDIS_UNTIMED)
	IS("BLPOP", L7_BLPOP, REDIS_UNTIMED)
	IS("BRPOP", L7_BRPOP, REDIS_UNTIMED)
	IS("BLMOVE", L7_OTHER, REDIS_UNTIMED)
	IS("BLMPOP", L7_OTHER, REDIS_UNTIMED)
	IS("BZMPOP", L7_OTHER, REDIS_UNTIMED)
	IS("BZPOPMIN", L7_OTHER, REDIS_UNTIMED)
	IS("BZPOPMAX", L7_OTHER, REDIS_UNTIMED)
	IS("WAIT", L7_WAIT, REDIS_UNTIMED)
	IS("WAITAOF", L7_WAIT, REDIS_UNTIMED)
	IS("EVAL", L7_EVAL, 0)
	IS("EVALSHA", L7_EVALSHA, REDIS_SCRIPT)
	IS("MULTI", L7_MULTI, 0)
	IS("EXEC", L7_EXEC, 0)
	IS("DISCARD", L7_DISCARD, 0)
	IS("WATCH", L7_WATCH, 0)
	IS("PUBLISH", L7_PUBLISH, 0)
	IS("AUTH", L7_AUTH, 0)
	IS("HELLO", L7_HELLO, REDIS_HANDSHAKE)
	IS("CLIENT", L7_CLIENT_COMMAND, REDIS_HANDSHAKE)
	IS("COMMAND", L7_COMMAND, REDIS_HANDSHAKE)
	IS("SCAN", L7_SCAN, 0)
	IS("CONFIG", L7_CONFIG, 0)
	IS("INFO", L7_INFO, 0)
	IS("MONITOR", L7_MONITOR, REDIS_LAST)
	IS("REPLCONF", L7_REPLCONF, 0)
	IS("PSYNC", L7_PSYNC, REDIS_LAST | REDIS_UNTIMED)
	IS("SYNC", L7_PSYNC, REDIS_LAST | REDIS_UNTIMED)
	IS_LONG("SISMEMBE", "R", L7_SISMEMBER, 0)
	IS_LONG("XREADGRO", "UP", L7_XREADGROUP, REDIS_UNTIMED)
	IS_LONG("BRPOPLPU", "SH", L7_OTHER, REDIS_UNTIMED)
	IS_LONG("SUBSCRIB", "E", L7_SUBSCRIBE, REDIS_SUBSCRIBES)
	IS_LONG("PSUBSCRI", "BE", L7_SUBSCRIBE, REDIS_SUBSCRIBES)
	IS_LONG("SSUBSCRI", "BE", L7_SUBSCRIBE, REDIS_SUBSCRIBES)
	IS_LONG("UNSUBSCR", "IBE", L7_UNSUBSCRIBE, REDIS_SUBSCRIBES)
	IS_LONG("PUNSUBSC", "RIBE", L7_UNSUBSCRIBE, REDIS_SUBSCRIBES)
	IS_LONG("SUNSUBSC", "RIBE", L7_UNSUBSCRIBE, REDIS_SUBSCRIBES)
#undef IS
#undef IS_LONG
	return L7_OTHER;
}

/*
 * Flags of a request beside the number of confirmations that it gets, each UNSUBSCRIBE at least
 * one: it answers for its channels, or for those there are.
 */
#define REDIS_CONFIRMATIONS_SHIFT 6
#define REDIS_CONFIRMATIONS_MAX 1023

/* A command that is whole but for its arguments. */
static L7_INLINE void l7_redis_push(struct l7_conn *c, struct l7_token *t, __u32 command,
				    __u32 arguments)
{
	__u32 flags = command >> 16;

	if (c->request_notes & REDIS_SKIPPING) {
		c->request_notes &= ~REDIS_SKIPPING;
		l7_one_way(c, t, (__u16)command);
		return;
	}
	if (c->request_notes & REDIS_REPLY_OFF) {
		l7_one_way(c, t, (__u16)command);
		return;
	}
	if (flags & REDIS_SUBSCRIBES) {
		c->request_notes |= REDIS_SUBSCRIBED;
		if (arguments > REDIS_CONFIRMATIONS_MAX)
			arguments = REDIS_CONFIRMATIONS_MAX;
		flags |= arguments << REDIS_CONFIRMATIONS_SHIFT;
	}
	l7_push(c, t, (__u16)command, (__u16)flags);
}

/* Where the command's name is in a line of words, and, from bit 8 on, its size. -1: no command. */
L7_FUNCTION int l7_redis_inline_name(struct l7_token *t)
{
	__u32 from, size;

	if (!t)
		return -1;
	for (from = 0; from < 8; from++)
		if (from >= t->kept || t->bytes[from] > ' ')
			break;
	for (size = 0; size < 17; size++) {
		__u32 at = from + size, letter;

		l7_hide(at);
		if (at >= t->kept || at >= L7_KEPT || t->bytes[at] <= ' ')
			break;
		letter = (t->bytes[at] | 0x20) - 'a';
		if (letter > 25)
			return -1;
	}
	return (int)(from | size << 8);
}

static L7_INLINE int l7_redis_request_line(struct l7_conn *c, struct l7_stream *s,
					   struct l7_token *t)
{
	__u64 count;
	__u32 from;
	int name;

	l7_begin(s);
	if (t->kept && t->bytes[0] == '*') {
		if (t->kept > 1 && t->bytes[1] == '-')
			return 0;
		count = l7_decimal(t, 1);
		if (count > 1u << 20 || t->cut) /* Redis' own bound: 1024 * 1024 */
			return -1;
		s->value[REDIS_LEFT] = (__u32)count;
		if (count)
			s->state = REDIS_NAME_SIZE;
		return 0;
	}
	name = l7_redis_inline_name(t);
	if (name < 0)
		return -1;
	from = name & 15;
	if (name >> 8)
		l7_redis_push(c, t,
			      l7_redis_command(l7_word_at(t->bytes + from),
					       l7_word_at(t->bytes + from + 8), name >> 8),
			      1);
	return 0;
}

/* The size of a string: "$3". */
static L7_INLINE __u64 l7_redis_size(struct l7_token *t)
{
	__u64 size = t->bytes[0] == '$' && t->kept > 1 && !t->cut ? l7_decimal(t, 1) : L7_NO_NUMBER;

	return size > 1ULL << 32 ? L7_NO_NUMBER : size;
}

static L7_INLINE void l7_redis_next_argument(struct l7_stream *s)
{
	s->state = s->value[REDIS_LEFT] ? REDIS_ARGUMENT : REDIS_VALUE;
	l7_line(s);
}

static L7_INLINE int l7_redis_request(struct l7_conn *c, struct l7_stream *s, struct l7_token *t)
{
	__u64 size, word;
	__u32 command;

	switch (s->state) {
	case REDIS_VALUE:
		return l7_redis_request_line(c, s, t);
	case REDIS_NAME_SIZE:
		size = l7_redis_size(t);
		if (size == L7_NO_NUMBER)
			return -1;
		s->value[REDIS_ARGUMENTS] = (__u32)size;
		s->state = REDIS_NAME;
		l7_take(s, size + 2 < 18 ? (__u32)size + 2 : 18);
		return 0;
	case REDIS_NAME:
		command = l7_redis_command(t->words[0], t->words[1], s->value[REDIS_ARGUMENTS]);
		if (s->value[REDIS_ARGUMENTS] > 16)
			l7_skip(s, s->value[REDIS_ARGUMENTS] - 16);
		s->value[REDIS_LEFT]--;
		s->value[REDIS_COMMAND] = command;
		if ((__u16)command == L7_CLIENT_COMMAND && s->value[REDIS_LEFT]) {
			s->state = REDIS_WORD_SIZE;
			l7_line(s);
			return 0;
		}
		l7_redis_push(c, t, command, s->value[REDIS_LEFT]);
		l7_redis_next_argument(s);
		return 0;
	case REDIS_ARGUMENT:
		size = l7_redis_size(t);
		if (size == L7_NO_NUMBER)
			return -1;
		s->value[REDIS_LEFT]--;
		l7_skip(s, size + 2);
		l7_redis_next_argument(s);
		return 0;
	case REDIS_WORD_SIZE:
		size = l7_redis_size(t);
		if (size == L7_NO_NUMBER)
			return -1;
		s->value[REDIS_ARGUMENTS] = (__u32)size;
		s->state = REDIS_WORD;
		l7_take(s, size + 2 < 18 ? (__u32)size + 2 : 18);
		return 0;
	case REDIS_WORD:
		size = s->value[REDIS_ARGUMENTS];
		word = size <= 8 ? L7_UPPER(l7_first(t->words[0], (__u32)size)) : 0;
		if (size > 16)
			l7_skip(s, size - 16);
		s->value[REDIS_LEFT]--;
		if (word == L7_WORD("REPLY") && s->value[REDIS_LEFT]) {
			s->value[REDIS_COMMAND] = 0;
			s->state = REDIS_WORD_SIZE;
			l7_line(s);
			return 0;
		}
		/* Also a second word is done with: REPLY's, if the command is none any more. */
		if (!s->value[REDIS_COMMAND] && word == L7_WORD("OFF")) {
			c->request_notes |= REDIS_REPLY_OFF;
		} else if (!s->value[REDIS_COMMAND] && word == L7_WORD("ON")) {
			c->request_notes &= ~(REDIS_REPLY_OFF | REDIS_SKIPPING);
		} else if (!s->value[REDIS_COMMAND] && word == L7_WORD("SKIP") &&
			   !(c->request_notes & REDIS_REPLY_OFF)) {
			l7_one_way(c, t, L7_CLIENT_COMMAND);
			c->request_notes |= REDIS_SKIPPING;
			l7_redis_next_argument(s);
			return 0;
		}
		l7_redis_push(c, t, L7_CLIENT_COMMAND | REDIS_HANDSHAKE << 16, 0);
		l7_redis_next_argument(s);
		return 0;
	}
	return -1;
}

/* The value at the top level is whole. */
static L7_INLINE void l7_redis_answered(struct l7_conn *c, struct l7_stream *s, struct l7_token *t)
{
	struct l7_request *asked = l7_oldest(c);
	__u32 flags = asked ? asked->flags : 0;
	bool subscribes = flags & REDIS_SUBSCRIBES;
	__u16 status = s->status;

	s->value[REDIS_ELEMENTS] = 1;
	s->value[REDIS_INSIDE] = 0;
	s->state = REDIS_VALUE;
	l7_line(s);
	if (s->value[REDIS_KIND] == REDIS_CONFIRMATION && s->value[REDIS_EXPECTED]) {
		s->value[REDIS_EXPECTED]--;
		return;
	}
	if (s->value[REDIS_KIND] == REDIS_PUSH || s->value[REDIS_KIND] == REDIS_MESSAGE)
		return;
	/* Later confirmations of an UNSUBSCRIBE without channels. */
	if (s->value[REDIS_KIND] == REDIS_CONFIRMATION && !subscribes)
		return;
	if (!asked) {
		t->event = status == L7_OK ? L7_UNMATCHED : L7_UNSOLICITED;
		return;
	}
	if (status == L7_NOSCRIPT && !(flags & REDIS_SCRIPT))
		status = L7_ERROR;
	if (status == L7_ERROR && flags & REDIS_HANDSHAKE)
		status = L7_UNSUPPORTED;
	l7_pop(c, t, status);
	t->untimed = flags & REDIS_UNTIMED;
	if (s->value[REDIS_KIND] == REDIS_CONFIRMATION && flags >> REDIS_CONFIRMATIONS_SHIFT)
		s->value[REDIS_EXPECTED] = (flags >> REDIS_CONFIRMATIONS_SHIFT) - 1;
	if (flags & REDIS_LAST && status == L7_OK)
		c->opaque = 1;
}

static L7_INLINE __u16 l7_redis_error(const struct l7_token *t)
{
	if (l7_first(t->words[0], 7) == L7_WORD("-MOVED ") ||
	    l7_first(t->words[0], 5) == L7_WORD("-ASK "))
		return L7_MOVED;
	return t->words[0] == L7_WORD("-NOSCRIP") ? L7_NOSCRIPT : L7_ERROR;
}

/* One line that begins a value, or is it. */
static L7_INLINE int l7_redis_value(struct l7_conn *c, struct l7_stream *s, struct l7_token *t)
{
	bool top = s->value[REDIS_ELEMENTS] == 1 && !s->value[REDIS_INSIDE];
	bool null = t->kept > 1 && t->bytes[1] == '-';
	__u64 count = 0;

	if (!t->kept)
		return -1;
	if (top) {
		s->status = L7_OK;
		s->value[REDIS_KIND] = REDIS_PLAIN;
	}
	switch (t->bytes[0]) {
	case '-':
		if (top)
			s->status = l7_redis_error(t);
		break;
	case '+':
	case ':':
	case '_':
	case ',':
	case '#':
	case '(':
		break;
	case '!':
	case '$':
	case '=':
		count = null ? 0 : l7_decimal(t, 1);
		if (count > 1ULL << 40)
			return -1;
		if (top && t->bytes[0] == '!')
			s->status = L7_ERROR;
		if (null)
			break;
		s->state = REDIS_BULK;
		l7_skip(s, count + 2);
		l7_take(s, 0);
		return 0;
	case '%':
	case '|':
	case '*':
	case '~':
	case '>':
		count = null ? 0 : l7_decimal(t, 1);
		if (count > 1u << 24 || s->value[REDIS_ELEMENTS] > 1u << 28)
			return -1;
		if (t->bytes[0] == '%' || t->bytes[0] == '|')
			count *= 2;
		if (top && t->bytes[0] == '>')
			s->value[REDIS_KIND] = REDIS_PUSH;
		s->value[REDIS_ELEMENTS] += (__u32)count;
		if (t->bytes[0] == '|') {
			/* The value that they belong to is still to come. */
			return 0;
		}
		s->value[REDIS_INSIDE] = 1;
		if (top && count > 1 && count < 5 &&
		    (t->bytes[0] == '>' ||
		     (t->bytes[0] == '*' && l7_read_once(c->request_notes) & REDIS_SUBSCRIBED)))
			s->state = REDIS_FIRST_SIZE;
		break;
	default:
		return -1;
	}
	if (!--s->value[REDIS_ELEMENTS])
		l7_redis_answered(c, s, t);
	return 0;
}

/* What the first element of an array says: "subscribe", "message", … */
static L7_INLINE __u32 l7_redis_kind_of(struct l7_stream *s, const struct l7_token *t)
{
	__u64 word = t->words[0];
	__u8 first = t->bytes[0];
	__u32 was = s->value[REDIS_KIND];

	if (word == L7_WORD("subscrib") || word == L7_WORD("unsubscr") ||
	    word == L7_WORD("psubscri") || word == L7_WORD("punsubsc") ||
	    word == L7_WORD("ssubscri") || word == L7_WORD("sunsubsc"))
		return REDIS_CONFIRMATION;
	if (l7_first(word, 7) == L7_WORD("message") ||
	    ((first == 'p' || first == 's') && l7_first(word >> 8, 7) == L7_WORD("message")))
		return REDIS_MESSAGE;
	return was;
}

static L7_INLINE int l7_redis_response(struct l7_conn *c, struct l7_stream *s, struct l7_token *t)
{
	__u64 size;

	switch (s->state) {
	case REDIS_VALUE:
		return l7_redis_value(c, s, t);
	case REDIS_BULK:
		s->state = REDIS_VALUE;
		l7_line(s);
		if (!--s->value[REDIS_ELEMENTS])
			l7_redis_answered(c, s, t);
		return 0;
	case REDIS_FIRST_SIZE:
		size = l7_redis_size(t);
		/* Another kind of element, or one that is no word of these. */
		if (size < 7 || size > 12) {
			s->state = REDIS_VALUE;
			return l7_redis_value(c, s, t);
		}
		s->state = REDIS_FIRST;
		l7_take(s, (__u32)size + 2);
		return 0;
	case REDIS_FIRST:
		s->value[REDIS_KIND] = l7_redis_kind_of(s, t);
		s->state = REDIS_VALUE;
		l7_line(s);
		if (!--s->value[REDIS_ELEMENTS])
			l7_redis_answered(c, s, t);
		return 0;
	}
	return -1;
}

L7_FUNCTION int l7_redis_step(struct l7_conn *c, struct l7_token *t, __u32 direction)
{
	if (!c || !t)
		return -1;
	return direction ? l7_redis_response(c, &c->stream[L7_RESPONSE], t)
			 : l7_redis_request(c, &c->stream[L7_REQUEST], t);
}

/*
 * A type, a number and the end of a line from this byte: where it ends, L7_MORE: there are too few
 * bytes, L7_NO: it is something else.
 */
L7_FUNCTION __u32 l7_redis_sized(struct l7_token *t, __u32 from, __u32 type)
{
	__u32 i;

	if (!t || from > 8)
		return L7_NO;
	if (from >= t->kept)
		return L7_MORE;
	if (t->bytes[from] != (__u8)type)
		return L7_NO;
	for (i = 1; i < 8; i++) {
		if (from + i >= t->kept)
			return L7_MORE;
		if (t->bytes[from + i] < '0' || t->bytes[from + i] > '9')
			break;
	}
	if (i < 2 || i > 7 || t->bytes[from + i] != '\r')
		return L7_NO;
	if (from + i + 1 >= t->kept)
		return L7_MORE;
	return t->bytes[from + i + 1] == '\n' ? from + i + 2 : L7_NO;
}

/* "*3\r\n$3\r\n": an array of strings. */
static L7_INLINE __u32 l7_redis_is_array(struct l7_token *head)
{
	__u32 at = l7_redis_sized(head, 0, '*');

	if (at > L7_MORE)
		at = l7_redis_sized(head, at, '$');
	return at > L7_MORE ? L7_CLIENT : at;
}

static L7_INLINE __u32 l7_redis_detect(struct l7_token *head, __u32 size, __u32 flags)
{
	__u32 array = l7_redis_is_array(head);

	/* Perhaps inline commands: the answer will tell. */
	if (flags & L7_FRESH && (head->bytes[0] | 0x20) >= 'a' && (head->bytes[0] | 0x20) <= 'z')
		return L7_MORE;
	if (!(flags & L7_KNOWN) || array == L7_CLIENT || !head->kept)
		return array;
	switch (head->bytes[0]) {
	case '+':
	case '-':
	case ':':
	case '$':
	case '*':
	case '_':
	case '%':
	case '>':
	case ',':
	case '#':
	case '~':
		return L7_SERVER;
	}
	return L7_NO;
}

/* Whether a line of words is one of commands, by what begins the answer. */
L7_FUNCTION bool l7_redis_answers(struct l7_token *head, __u8 first, __u8 second)
{
	int name = head ? l7_redis_inline_name(head) : -1;
	bool upper = second >= 'A' && second <= 'Z';
	bool number = (second >= '0' && second <= '9') || second == '-';
	bool answer = first == '+' || first == '-'
			      ? upper
			      : (first == '$' || first == ':' || first == '*') && number;

	return head && answer && name >> 8 > 0 && head->kept &&
	       head->bytes[(head->kept - 1) & (L7_KEPT - 1)] == '\n';
}

#endif
