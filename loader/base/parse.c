/* SPDX-License-Identifier: Apache-2.0 */
#include "base/parse.h"

#include <string.h>

#include "shared/abi.h"

bool kpod_next_line(struct kpod_span *text, struct kpod_span *line)
{
	const char *end = text->size ? memchr(text->at, '\n', text->size) : NULL;

	if (!text->size)
		return false;
	*line = (struct kpod_span){text->at, end ? (size_t)(end - text->at) : text->size};
	text->at += line->size + (end != NULL);
	text->size -= line->size + (end != NULL);
	return true;
}

static bool is_space(char c)
{
	return c == ' ' || c == '\t' || c == '\r';
}

bool kpod_next_word(struct kpod_span *line, struct kpod_span *word)
{
	const char *at = line->at, *end = at + line->size;

	while (at < end && is_space(*at))
		at++;
	word->at = at;
	while (at < end && !is_space(*at))
		at++;
	word->size = (size_t)(at - word->at);
	*line = (struct kpod_span){at, (size_t)(end - at)};
	return word->size;
}

bool kpod_span_is(struct kpod_span span, const char *text)
{
	return span.size == strlen(text) && !memcmp(span.at, text, span.size);
}

bool kpod_number(struct kpod_span span, uint64_t *number)
{
	uint64_t n = 0;

	if (!span.size)
		return false;
	for (size_t i = 0; i < span.size; i++) {
		unsigned int digit = (unsigned int)(unsigned char)span.at[i] - '0';

		if (digit > 9 || n > (KPOD_NO_VALUE - 1 - digit) / 10)
			return false;
		n = 10 * n + digit;
	}
	*number = n;
	return true;
}

/* The part of SUB=VALUE after the '='. */
static bool sub_value(struct kpod_span word, const char *sub, struct kpod_span *value)
{
	size_t size = strlen(sub);

	if (word.size <= size || word.at[size] != '=' || memcmp(word.at, sub, size))
		return false;
	*value = (struct kpod_span){word.at + size + 1, word.size - size - 1};
	return true;
}

uint32_t kpod_parse_line(struct kpod_span line, const struct kpod_field *fields, size_t count,
			 uint64_t *words)
{
	struct kpod_span first, word, rest = line;
	uint32_t bad = 0;

	if (!kpod_next_word(&rest, &first))
		return 0;
	for (size_t i = 0; i < count; i++) {
		const struct kpod_field *f = &fields[i];
		struct kpod_span all = line, value = {};

		if (f->line && !kpod_span_is(first, f->line))
			continue;
		for (uint32_t at = 0; kpod_next_word(&all, &word); at++) {
			if (f->sub ? !sub_value(word, f->sub, &value) : at != f->at)
				continue;
			if (!f->sub)
				value = word;
			if (!kpod_number(value, &words[f->word]))
				bad += !kpod_span_is(value, "max");
			break;
		}
	}
	return bad;
}

uint32_t kpod_parse(struct kpod_span text, const struct kpod_field *fields, size_t count,
		    uint64_t *words)
{
	struct kpod_span line;
	uint32_t bad = 0;

	while (kpod_next_line(&text, &line))
		bad += kpod_parse_line(line, fields, count, words);
	return bad;
}

bool kpod_parse_mount(struct kpod_span line, struct kpod_mount *mount)
{
	struct kpod_span word;
	uint32_t at = 0;

	*mount = (struct kpod_mount){};
	for (; kpod_next_word(&line, &word); at++) {
		if (at == 0)
			mount->id = word;
		else if (at == 1)
			mount->parent = word;
		else if (at == 2)
			mount->device = word;
		else if (at == 3)
			mount->root = word;
		else if (at == 4)
			mount->point = word;
		else if (at > 5 && kpod_span_is(word, "-"))
			return kpod_next_word(&line, &mount->type);
	}
	return false;
}

bool kpod_unescape(struct kpod_span escaped, char *out, size_t room)
{
	const char *at = escaped.at, *end = at + escaped.size;
	size_t size = 0;

	while (at < end) {
		if (size + 1 >= room)
			return false;
		if (*at == '\\' && end - at > 3) {
			out[size++] = (char)((at[1] - '0') * 64 + (at[2] - '0') * 8 + at[3] - '0');
			at += 4;
		} else {
			out[size++] = *at++;
		}
	}
	if (!room)
		return false;
	out[size] = '\0';
	return true;
}
