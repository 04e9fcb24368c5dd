/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * MongoDB's wire protocol: OP_MSG, OP_COMPRESSED and, for old servers and the first hello, OP_QUERY
 * and OP_REPLY. A request is a command, named by the first key of its document; an answer names the
 * request. It failed if `ok` in the document is 0, or in part if there are writeErrors. What is
 * compressed is not looked into.
 */
#ifndef KPOD_L7_MONGODB_H
#define KPOD_L7_MONGODB_H

#include "l7.h"

enum l7_mongodb_state {
	MG_HEADER,   /* and four bytes: flags, or what was compressed */
	MG_SECTION,  /* its kind, and a size */
	MG_NAME,     /* OP_QUERY: of the collection */
	MG_QUERY,    /* OP_QUERY: two numbers, and the document's size */
	MG_DOCUMENT, /* of requests: its first element */
	MG_REPLY,    /* OP_REPLY: three numbers, and the first document's size */
	MG_ELEMENT,  /* of answers: type and key */
	MG_VALUE,    /* the size of an element */
	MG_OK,	     /* of `ok` */
	MG_END,	     /* behind the answer's last byte */
};

/* value[] of requests, … */
enum { MG_NUMBER, MG_REQUEST_FLAGS };
/* … and of answers */
enum { MG_ANSWERS, MG_MORE, MG_TYPE, MG_STREAMS };

/* Of a request. */
enum l7_mongodb_flags {
	MG_WAITS = 1,  /* it may be a long poll */
	MG_HIDDEN = 2, /* compressed: perhaps it gets no answer */
};

#define MG_OP_REPLY 1
#define MG_OP_UPDATE 2001
#define MG_OP_INSERT 2002
#define MG_OP_QUERY 2004
#define MG_OP_GET_MORE 2005
#define MG_OP_DELETE 2006
#define MG_OP_KILL_CURSORS 2007
#define MG_OP_COMPRESSED 2012
#define MG_OP_MSG 2013

#define MG_MORE_TO_COME 2      /* a flag of OP_MSG */
#define MG_QUERY_FAILURE 2     /* a flag of OP_REPLY */
#define MG_LENGTH_MAX 48000000 /* maxMessageSizeBytes of all servers */

static L7_INLINE void l7_mongodb_start(struct l7_conn *c, struct l7_stream *s, __u32 direction)
{
	for (__u32 i = 0; i < 4; i++)
		s->value[i] = 0;
	l7_take(s, 20);
}

/* Operation and, in the upper half, enum l7_mongodb_flags, by sixteen bytes of a name. */
L7_FUNCTION __u32 l7_mongodb_command(__u64 first, __u64 second, __u32 size)
{
	first = l7_first(first, size);
	second = size > 8 ? l7_first(second, size - 8) : 0;
#define IS(text, rest, number)                                                                     \
	if (first == L7_WORD(text) && second == L7_WORD(rest))                                     \
		return number;
	IS("find", "", L7_M_FIND)
	IS("insert", "", L7_M_INSERT)
	IS("update", "", L7_M_UPDATE)
	IS("delete", "", L7_M_DELETE)
	IS("aggregat", "e", L7_M_AGGREGATE)
	IS("getMore", "", L7_M_GET_MORE)
	IS("count", "", L7_M_COUNT)
	IS("distinct", "", L7_M_DISTINCT)
	IS("findAndM", "odify", L7_M_FIND_AND_MODIFY)
	IS("bulkWrit", "e", L7_M_BULK_WRITE)
	IS("killCurs", "ors", L7_M_KILL_CURSORS)
	IS("createIn", "dexes", L7_M_CREATE_INDEXES)
	IS("commitTr", "ansactio", L7_M_COMMIT_TRANSACTION)
	IS("abortTra", "nsaction", L7_M_ABORT_TRANSACTION)
	IS("ping", "", L7_M_PING)
	IS("saslStar", "t", L7_AUTH)
	IS("saslCont", "inue", L7_AUTH)
	IS("hello", "", L7_M_HELLO | MG_WAITS << 16)
	IS("isMaster", "", L7_M_HELLO | MG_WAITS << 16)
	IS("ismaster", "", L7_M_HELLO | MG_WAITS << 16)
#undef IS
	return L7_OTHER;
}

/* The first element of a command. */
L7_FUNCTION __u32 l7_mongodb_name(struct l7_token *t)
{
	__u32 end;

	if (!t || !t->kept || !t->bytes[0])
		return L7_OTHER;
	end = l7_find(t, 0);
	if (end < 2 || end >= t->kept)
		return L7_OTHER;
	return l7_mongodb_command(l7_word_at(t->bytes + 1), l7_word_at(t->bytes + 9), end - 1);
}

static L7_INLINE void l7_mongodb_next(struct l7_stream *s)
{
	l7_skip_message(s);
	s->state = MG_HEADER;
	l7_take(s, 20);
}

static L7_INLINE void l7_mongodb_asked(struct l7_conn *c, struct l7_stream *s, struct l7_token *t,
				       __u32 command)
{
	if (s->value[MG_REQUEST_FLAGS] & MG_MORE_TO_COME)
		l7_one_way(c, t, (__u16)command);
	else
		l7_push_ordered(c, t, s->value[MG_NUMBER], (__u16)command, command >> 16);
	l7_mongodb_next(s);
}

/* Of OP_MSG. 1: a document, whose size was taken; 0: documents of the command's; -1: neither. */
static L7_INLINE int l7_mongodb_section(struct l7_stream *s, const struct l7_token *t)
{
	__u32 size = l7_le32(t->bytes + 1);

	if (size < 4 || size - 4 > s->left)
		return -1;
	if (t->bytes[0] != 1)
		return 1;
	l7_skip(s, size - 4);
	return 0;
}

static L7_INLINE int l7_mongodb_request(struct l7_conn *c, struct l7_stream *s, struct l7_token *t)
{
	__u32 size = l7_le32(t->bytes), opcode = l7_le32(t->bytes + 12);
	int ahead;

	switch (s->state) {
	case MG_HEADER:
		if (size <= 20 || size > MG_LENGTH_MAX)
			return -1;
		l7_begin(s);
		s->left = size - 20;
		s->value[MG_NUMBER] = l7_le32(t->bytes + 4);
		s->value[MG_REQUEST_FLAGS] = 0;
		switch (opcode) {
		case MG_OP_MSG:
			s->value[MG_REQUEST_FLAGS] = l7_le32(t->bytes + 16);
			s->state = MG_SECTION;
			l7_take(s, 5);
			return 0;
		case MG_OP_COMPRESSED:
			l7_mongodb_asked(c, s, t, L7_UNKNOWN_OPERATION | MG_HIDDEN << 16);
			return 0;
		case MG_OP_QUERY:
			s->state = MG_NAME;
			l7_text(s);
			return 0;
		case MG_OP_GET_MORE:
			l7_mongodb_asked(c, s, t, L7_M_GET_MORE);
			return 0;
		case MG_OP_INSERT:
		case MG_OP_UPDATE:
		case MG_OP_DELETE:
		case MG_OP_KILL_CURSORS:
			s->value[MG_REQUEST_FLAGS] = MG_MORE_TO_COME;
			l7_mongodb_asked(c, s, t,
					 opcode == MG_OP_INSERT	  ? L7_M_INSERT
					 : opcode == MG_OP_UPDATE ? L7_M_UPDATE
					 : opcode == MG_OP_DELETE ? L7_M_DELETE
								  : L7_M_KILL_CURSORS);
			return 0;
		}
		return -1;
	case MG_SECTION:
		ahead = l7_mongodb_section(s, t);
		if (ahead <= 0)
			return ahead;
		break;
	case MG_NAME:
		s->state = MG_QUERY;
		l7_take(s, 12);
		return s->left < 13 ? -1 : 0;
	case MG_QUERY:
		break;
	case MG_DOCUMENT:
		l7_mongodb_asked(c, s, t, l7_mongodb_name(t));
		return 0;
	default:
		return -1;
	}
	if (!s->left)
		return -1;
	s->state = MG_DOCUMENT;
	l7_take(s, s->left);
	return 0;
}

/* The bytes of a value (bsonspec.org); with the upper bit: beside the size before them. -1: … */
#define MG_SIZED 0x80000000u
L7_FUNCTION __u32 l7_mongodb_size(__u32 type)
{
	switch (type) {
	case 1:	 /* double */
	case 9:	 /* date */
	case 17: /* timestamp */
	case 18: /* int64 */
		return 8;
	case 2:	 /* string */
	case 13: /* code */
	case 14: /* symbol */
		return MG_SIZED | 4;
	case 3:	 /* document */
	case 4:	 /* array */
	case 15: /* code with scope */
		return MG_SIZED;
	case 5: /* binary */
		return MG_SIZED | 5;
	case 6:	   /* undefined */
	case 10:   /* null */
	case 0x7f: /* the largest key */
	case 0xff: /* the smallest key */
		return 0;
	case 7: /* object id */
		return 12;
	case 8: /* boolean */
		return 1;
	case 16: /* int32 */
		return 4;
	case 19: /* decimal128 */
		return 16;
	}
	return ~0u; /* … regular expressions, pointers: in no answer */
}

/* The answer is known. */
static L7_INLINE void l7_mongodb_known(struct l7_stream *s)
{
	l7_skip_message(s);
	s->state = MG_END;
	l7_take(s, 0);
}

static L7_INLINE void l7_mongodb_element(struct l7_stream *s, struct l7_token *t)
{
	bool is_ok = t->kept == 3 && t->bytes[1] == 'o' && t->bytes[2] == 'k';
	bool is_errors = t->kept == 12 && t->bytes[0] == 4 &&
			 l7_word_at(t->bytes + 1) == L7_WORD("writeErr");
	__u32 size;

	if (!t->kept) {
		l7_mongodb_known(s);
		return;
	}
	size = l7_mongodb_size(t->bytes[0]);
	if (size == ~0u) {
		s->status = L7_ANSWERED;
		l7_mongodb_known(s);
	} else if (size & MG_SIZED) {
		s->value[MG_TYPE] = size << 1 | is_errors;
		s->state = MG_VALUE;
		l7_take(s, 4);
	} else if (is_ok && size) {
		s->state = MG_OK;
		l7_take(s, size);
	} else {
		l7_skip(s, size);
		s->state = MG_ELEMENT;
		l7_text(s);
	}
}

static L7_INLINE void l7_mongodb_answered(struct l7_conn *c, struct l7_stream *s,
					  struct l7_token *t)
{
	__u32 order = l7_order_of(c, s->value[MG_ANSWERS]);
	__u32 flags = c->pending[c->popped & (L7_PENDING - 1)].flags;

	if (order == L7_BEHIND_OLDEST && flags & MG_HIDDEN) {
		/* What is compressed and was passed over wanted no answer; this token again. */
		l7_pop(c, t, L7_ONE_WAY);
		t->untimed = 1;
		return;
	}
	if (order == L7_BEHIND_OLDEST) {
		c->taken++;
		t->event = L7_GAP;
		return;
	}
	if (order == L7_OLDEST) {
		l7_pop(c, t, s->status);
		t->untimed = flags & MG_WAITS;
	} else if (!s->value[MG_STREAMS]) { /* else it is more of an answer */
		t->event = L7_UNMATCHED;
	}
	s->value[MG_STREAMS] = s->value[MG_MORE];
	s->state = MG_HEADER;
	l7_take(s, 20);
}

static L7_INLINE int l7_mongodb_response(struct l7_conn *c, struct l7_stream *s, struct l7_token *t)
{
	__u32 size = l7_le32(t->bytes), opcode = l7_le32(t->bytes + 12), flags;
	int ahead;

	switch (s->state) {
	case MG_HEADER:
		if (size <= 20 || size > MG_LENGTH_MAX)
			return -1;
		s->left = size - 20;
		s->value[MG_ANSWERS] = l7_le32(t->bytes + 8);
		flags = l7_le32(t->bytes + 16);
		s->value[MG_MORE] = opcode == MG_OP_MSG && flags & MG_MORE_TO_COME;
		s->status = L7_OK;
		switch (opcode) {
		case MG_OP_MSG:
			s->state = MG_SECTION;
			l7_take(s, 5);
			return 0;
		case MG_OP_COMPRESSED:
			s->status = L7_ANSWERED;
			l7_mongodb_known(s);
			return 0;
		case MG_OP_REPLY:
			if (flags & MG_QUERY_FAILURE)
				s->status = L7_ERROR;
			if (s->left < 21) { /* no document */
				l7_mongodb_known(s);
				return 0;
			}
			s->state = MG_REPLY;
			l7_take(s, 20);
			return 0;
		}
		return -1;
	case MG_SECTION:
		ahead = l7_mongodb_section(s, t);
		if (ahead <= 0)
			return ahead;
		break;
	case MG_REPLY:
		break;
	case MG_ELEMENT:
		l7_mongodb_element(s, t);
		return 0;
	case MG_VALUE:
		/* The size of a document or array has its own four bytes in it. */
		if (s->value[MG_TYPE] & 1 && size > 5 && s->status == L7_OK)
			s->status = L7_WRITE_ERROR;
		size += (s->value[MG_TYPE] >> 1 & 7);
		if (size < 4 || size - 4 > s->left)
			return -1;
		l7_skip(s, size - 4);
		break;
	case MG_OK:
		/* Of the types that there are, 0 is nothing but zeroes. */
		if (!l7_first(t->words[0], t->kept))
			s->status = L7_ERROR;
		break;
	case MG_END:
		l7_mongodb_answered(c, s, t);
		return 0;
	default:
		return -1;
	}
	s->state = MG_ELEMENT;
	l7_text(s);
	return 0;
}

L7_FUNCTION int l7_mongodb_step(struct l7_conn *c, struct l7_token *t, __u32 direction)
{
	if (!c || !t)
		return -1;
	return direction ? l7_mongodb_response(c, &c->stream[L7_RESPONSE], t)
			 : l7_mongodb_request(c, &c->stream[L7_REQUEST], t);
}

static L7_INLINE __u32 l7_mongodb_detect(struct l7_token *head, __u32 size, __u32 flags)
{
	__u32 length = l7_le32(head->bytes), answers = l7_le32(head->bytes + 8);
	__u32 opcode = l7_le32(head->bytes + 12), there = head->kept;

	if (there > 3 && (length <= 20 || length > MG_LENGTH_MAX))
		return L7_NO;
	if (there < 16)
		return there > 11 && answers ? L7_NO : L7_MORE;
	if (opcode != MG_OP_MSG && opcode != MG_OP_COMPRESSED && opcode != MG_OP_QUERY &&
	    opcode != MG_OP_REPLY)
		return L7_NO;
	if (!answers)
		return opcode == MG_OP_REPLY ? L7_NO : L7_CLIENT;
	return flags & L7_KNOWN ? L7_SERVER : L7_NO;
}

#endif
