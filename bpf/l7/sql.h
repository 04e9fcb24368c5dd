/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* What the protocols of SQL databases share: the verbs of statements, the classes of errors. */
#ifndef KPOD_L7_SQL_H
#define KPOD_L7_SQL_H

#include "l7.h"

/* The verb of a statement or of a CommandComplete tag. */
L7_FUNCTION __u32 l7_sql_verb(struct l7_token *t)
{
	__u64 word = 0;
	__u32 size = 0;

	if (!t)
		return L7_OTHER;
	for (__u32 i = 0; i < 24; i++) {
		__u8 byte = t->bytes[i], upper = byte & 0xdf;
		bool letter = (upper >= 'A' && upper <= 'Z') || (size && byte == '_');

		if (i >= t->kept || (size && !letter))
			break;
		if (letter && size < 8)
			word |= (__u64)upper << 8 * size;
		if (letter)
			size++;
		else if (byte != ' ' && byte != '\n' && byte != '\t' && byte != '\r' && byte != '(')
			break;
	}
	if (size > 8)
		return L7_OTHER;
#define IS(text, number)                                                                           \
	if (word == L7_WORD(text))                                                                 \
		return number;
	IS("SELECT", L7_SELECT)
	IS("INSERT", L7_INSERT)
	IS("UPDATE", L7_UPDATE)
	IS("DELETE", L7_DELETE)
	IS("BEGIN", L7_BEGIN)
	IS("START", L7_BEGIN)
	IS("COMMIT", L7_COMMIT)
	IS("END", L7_COMMIT)
	IS("ROLLBACK", L7_ROLLBACK)
	IS("ABORT", L7_ROLLBACK)
	IS("SET", L7_SET)
	IS("SHOW", L7_SHOW)
	IS("COPY", L7_COPY)
	IS("FETCH", L7_FETCH)
	IS("MERGE", L7_MERGE)
	IS("WITH", L7_SELECT)
	IS("CALL", L7_CALL)
	IS("DO", L7_DO)
	IS("CREATE", L7_CREATE)
	IS("ALTER", L7_ALTER)
	IS("DROP", L7_DROP)
	IS("TRUNCATE", L7_TRUNCATE)
	IS("LISTEN", L7_LISTEN)
	IS("NOTIFY", L7_NOTIFY)
	IS("VACUUM", L7_VACUUM)
	IS("EXPLAIN", L7_EXPLAIN)
	IS("REPLACE", L7_REPLACE)
	IS("LOAD", L7_LOAD)
	IS("USE", L7_USE)
#undef IS
	return L7_OTHER;
}

/* The class of an SQLSTATE, `error` if it is none that is listed. */
L7_FUNCTION __u32 l7_sql_class(struct l7_token *t, __u32 at)
{
	if (!t || at > 8)
		return L7_ERROR;
#define X(a, b, name)                                                                              \
	if (t->bytes[at] == (a) && t->bytes[at + 1] == (b))                                        \
		return L7_SQL_##name;
	X('0', '8', 08)
	X('0', 'A', 0A)
	X('2', '1', 21)
	X('2', '2', 22)
	X('2', '3', 23)
	X('2', '5', 25)
	X('2', '6', 26)
	X('2', '8', 28)
	X('2', 'B', 2B)
	X('3', 'D', 3D)
	X('3', 'F', 3F)
	X('4', '0', 40)
	X('4', '2', 42)
	X('5', '3', 53)
	X('5', '4', 54)
	X('5', '5', 55)
	X('5', '7', 57)
	X('5', '8', 58)
	X('7', '0', 70)
	X('P', '0', P0)
	X('X', 'X', XX)
	X('H', 'Y', HY)
#undef X
	return L7_ERROR;
}

#endif
