/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * HTTP/1.x (RFC 9112). A request begins with its request line and ends with the last byte of its
 * final answer (an answer that lasts until the close: with the last byte before it). An answer may
 * come before the request has ended (413), and still is its. 101 and a CONNECT that succeeded end
 * the protocol; after 101 of an upgrade to HTTP/2 the request's answer comes in that. An answer
 * that nobody waits for (408 to silence) is an event of the connection.
 */
#ifndef KPOD_L7_HTTP_H
#define KPOD_L7_HTTP_H

#include "l7.h"

enum l7_http_state {
	HTTP_LINE, /* request or status line */
	HTTP_HEADERS,
	HTTP_BODY, /* its end is next */
	HTTP_CHUNK,
	HTTP_TRAILERS,
	HTTP_TO_CLOSE,
};

/* Of a request, as its answer's length depends on it. */
enum l7_http_flags { HTTP_HEAD = 1, HTTP_CONNECT = 2 };

/* value[]: HTTP_LENGTH and the next: 64 bits */
enum { HTTP_LENGTH, HTTP_LENGTH_HIGH, HTTP_BODY_KIND, HTTP_CODE };
enum l7_http_body { HTTP_NO_LENGTH, HTTP_HAS_LENGTH, HTTP_CHUNKED, HTTP_TO_HTTP2 };

static L7_INLINE void l7_http_start(struct l7_conn *c, struct l7_stream *s, __u32 direction)
{
	l7_line(s);
}

/* The method of a request line, L7_OTHER for those that are none of RFC 9110's; -1: it is none. */
L7_FUNCTION int l7_http_method(struct l7_token *t)
{
	__u64 word;
	__u32 size;

	if (!t)
		return -1;
	size = l7_find(t, ' ');
	if (size < 3 || size > 17 || size + 1 >= t->kept)
		return -1;
	for (__u32 i = 0; i < size && i < 17; i++) {
		__u8 byte = t->bytes[i];

		if ((byte < 'A' || byte > 'Z') && byte != '-' && byte != '_')
			return -1;
	}
	word = l7_first(t->words[0], size);
#define IS(text)                                                                                   \
	if (word == L7_WORD(#text))                                                                \
		return L7_##text;
	IS(GET)
	IS(HEAD)
	IS(POST)
	IS(PUT)
	IS(DELETE)
	IS(CONNECT)
	IS(OPTIONS)
	IS(TRACE)
	IS(PATCH)
#undef IS
	return L7_OTHER;
}

/* The number of a status line; 0: it is none. */
static L7_INLINE __u32 l7_http_code(const struct l7_token *t)
{
	__u32 a = t->bytes[9] - '0', b = t->bytes[10] - '0', c = t->bytes[11] - '0';

	if (t->kept < 12 || (t->words[0] & ~(0xffULL << 56)) != L7_WORD("HTTP/1.") ||
	    t->bytes[7] < '0' || t->bytes[7] > '1' || t->bytes[8] != ' ' || a < 1 || a > 5 ||
	    b > 9 || c > 9)
		return 0;
	return a * 100 + b * 10 + c;
}

/* Only methods of RFC 9110, of which NATS' CONNECT is none: it is followed by JSON. */
L7_FUNCTION __u32 l7_http_begins(struct l7_token *head, __u32 flags)
{
	__u32 at, first;
	int method;

	if (!head)
		return L7_NO;
	first = head->bytes[0];
	if (l7_http_code(head))
		return L7_SERVER;
	method = l7_http_method(head);
	if (method > L7_OTHER || (flags & L7_KNOWN && method >= 0)) {
		at = l7_find(head, ' ') + 1;
		at = at < L7_KEPT ? at : 0;
		return head->bytes[at] > ' ' && head->bytes[at] < 0x7f && head->bytes[at] != '{'
			       ? L7_CLIENT
			       : L7_NO;
	}
	if (flags & L7_KNOWN && (first == '\r' || first == '\n'))
		return L7_CLIENT;
	if (head->kept >= 12 || head->kept < 1)
		return L7_NO;
	/* The beginning of a method, or of a status line. */
	for (__u32 i = 0; i < head->kept && i < 12; i++) {
		__u8 byte = head->bytes[i];

		if ((byte < 'A' || byte > 'Z') &&
		    (i < 3 || (byte != ' ' && (byte < '.' || byte > '9'))))
			return L7_NO;
	}
	return L7_MORE;
}

static L7_INLINE __u32 l7_http_detect(struct l7_token *head, __u32 size, __u32 flags)
{
	return l7_http_begins(head, flags);
}

static L7_INLINE __u32 l7_http_status(__u32 code)
{
	return code < 200   ? L7_1XX
	       : code < 300 ? L7_2XX
	       : code < 400 ? L7_3XX
	       : code < 500 ? L7_4XX
			    : L7_5XX;
}

#define HTTP_LOWER(word) ((word) | 0x20 * L7_EACH_BYTE)

/* What a header says of the body's length. */
static L7_INLINE int l7_http_header(struct l7_stream *s, struct l7_token *t)
{
	__u64 first = HTTP_LOWER(t->words[0]), second = HTTP_LOWER(t->words[1]), length, last;

	if (first == HTTP_LOWER(L7_WORD("content-")) &&
	    l7_first(second, 7) == l7_first(HTTP_LOWER(L7_WORD("length:")), 7)) {
		__u32 from = 15;

		if (t->bytes[15] == ' ' || t->bytes[15] == '\t')
			from = t->bytes[16] == ' ' ? 17 : 16;
		length = l7_decimal(t, from);
		if (length == L7_NO_NUMBER)
			return -1;
		if (s->value[HTTP_BODY_KIND] == HTTP_CHUNKED)
			return 0;
		s->value[HTTP_LENGTH] = (__u32)length;
		s->value[HTTP_LENGTH_HIGH] = length >> 32;
		s->value[HTTP_BODY_KIND] = HTTP_HAS_LENGTH;
	} else if (first == HTTP_LOWER(L7_WORD("transfer")) &&
		   second == HTTP_LOWER(L7_WORD("-encodin"))) {
		__u32 end = t->kept;

		/* The last coding is chunked, or there is no length. A line that is cut cannot be
		 * judged by its end. */
		if (end && end <= L7_KEPT && t->bytes[end - 1] == '\r')
			end--;
		end -= 7;
		if (end > L7_KEPT - 8)
			return -1;
		last = l7_word_at(t->bytes + end);
		s->value[HTTP_BODY_KIND] =
			l7_first(HTTP_LOWER(last), 7) == L7_WORD("chunked") || t->cut
				? HTTP_CHUNKED
				: HTTP_NO_LENGTH;
	} else if (s->value[HTTP_CODE] == 101 && first == HTTP_LOWER(L7_WORD("upgrade:")) &&
		   l7_first(second, 4) == L7_WORD(" h2c") && t->kept <= 13) {
		s->value[HTTP_BODY_KIND] = HTTP_TO_HTTP2; /* RFC 7540 3.2 */
	}
	return 0;
}

static L7_INLINE bool l7_http_is_empty(const struct l7_token *t)
{
	return !t->kept || (t->kept == 1 && t->bytes[0] == '\r');
}

/* The request or answer is whole. */
static L7_INLINE void l7_http_end(struct l7_conn *c, struct l7_stream *s, struct l7_token *t,
				  __u32 direction)
{
	if (direction == L7_RESPONSE && s->status)
		l7_pop(c, t, s->status);
	s->status = 0;
	s->state = HTTP_LINE;
	l7_line(s);
}

static L7_INLINE int l7_http_line(struct l7_conn *c, struct l7_stream *s, struct l7_token *t,
				  __u32 direction)
{
	struct l7_request *asked;
	__u32 code;
	int method;

	if (l7_http_is_empty(t)) /* RFC 9112 2.2 */
		return 0;
	l7_begin(s);
	s->value[HTTP_LENGTH] = s->value[HTTP_LENGTH_HIGH] = 0;
	s->value[HTTP_BODY_KIND] = HTTP_NO_LENGTH;
	s->state = HTTP_HEADERS;
	if (direction == L7_REQUEST) {
		method = l7_http_method(t);
		if (method < 0)
			return -1;
		l7_push(c, t, method,
			method == L7_HEAD      ? HTTP_HEAD
			: method == L7_CONNECT ? HTTP_CONNECT
					       : 0);
		return 0;
	}
	code = l7_http_code(t);
	if (!code)
		return -1;
	s->value[HTTP_CODE] = code;
	s->status = l7_http_status(code);
	asked = l7_oldest(c);
	if (!asked && code >= 200) {
		t->event = code >= 400 ? L7_UNSOLICITED : L7_UNMATCHED;
		s->status = 0;
	}
	if (code < 200 && code != 101)
		s->status = 0;
	return 0;
}

/* After the empty line: RFC 9112 6.3. */
static L7_INLINE void l7_http_body(struct l7_conn *c, struct l7_stream *s, struct l7_token *t,
				   __u32 direction)
{
	__u64 length = (__u64)s->value[HTTP_LENGTH_HIGH] << 32 | s->value[HTTP_LENGTH];
	__u32 kind = s->value[HTTP_BODY_KIND], code = s->value[HTTP_CODE], flags = 0;
	struct l7_request *asked;

	if (direction == L7_RESPONSE) {
		asked = l7_oldest(c);
		flags = asked ? asked->flags : 0;
		if (code == 101 && kind == HTTP_TO_HTTP2 && asked) {
			c->opaque = L7_UPGRADED;
			return;
		}
		if (code == 101 || (flags & HTTP_CONNECT && code / 100 == 2)) {
			l7_http_end(c, s, t, direction);
			c->opaque = 1;
			return;
		}
		if (code < 200 || code == 204 || code == 304 || flags & HTTP_HEAD) {
			l7_http_end(c, s, t, direction);
			return;
		}
	}
	if (kind == HTTP_CHUNKED) {
		s->state = HTTP_CHUNK;
		l7_line(s);
	} else if (kind == HTTP_HAS_LENGTH && length) {
		s->state = HTTP_BODY;
		l7_skip(s, length);
		l7_take(s, 0);
	} else if (kind == HTTP_NO_LENGTH && direction == L7_RESPONSE) {
		s->state = HTTP_TO_CLOSE;
		if (s->status)
			s->flags |= L7_TO_CLOSE;
		l7_skip(s, ~0ULL);
	} else {
		l7_http_end(c, s, t, direction);
	}
}

L7_FUNCTION int l7_http_step(struct l7_conn *c, struct l7_token *t, __u32 direction)
{
	struct l7_stream *s;
	__u64 size;

	if (!c || !t)
		return -1;
	s = direction ? &c->stream[L7_RESPONSE] : &c->stream[L7_REQUEST];
	switch (s->state) {
	case HTTP_LINE:
		return l7_http_line(c, s, t, direction);
	case HTTP_HEADERS:
		if (!l7_http_is_empty(t))
			return l7_http_header(s, t);
		l7_http_body(c, s, t, direction);
		return 0;
	case HTTP_CHUNK:
		size = l7_hexadecimal(t);
		if (size == L7_NO_NUMBER)
			return -1;
		if (size)
			l7_skip(s, size + 2);
		else
			s->state = HTTP_TRAILERS;
		return 0;
	case HTTP_TRAILERS:
		if (l7_http_is_empty(t))
			l7_http_end(c, s, t, direction);
		return 0;
	case HTTP_BODY:
		l7_http_end(c, s, t, direction);
		return 0;
	}
	return -1;
}

#endif
