/* SPDX-License-Identifier: Apache-2.0 */
/* Shows a segment to people, by its own schema: any loader's, not just this one's. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include <msgpack.h>

#include "base/clock.h"
#include "base/collector.h"
#include "base/log.h"
#include "shared/reader.h"
#include "view/view.h"

#define SLOTS_SHOWN 20
#define COLUMNS_SHOWN 6
#define DECIMALS_MOST 19 /* of a power of ten in 64 bits */

struct kpod_view {
	struct kpod_reader reader;
	msgpack_unpacked document;
	uint64_t *before; /* a copy of the snapshot shown last, for rates */
	size_t before_size;
	uint64_t before_ns;
};

static const msgpack_object *get(const msgpack_object *map, const char *key)
{
	if (map->type != MSGPACK_OBJECT_MAP)
		return NULL;
	for (uint32_t i = 0; i < map->via.map.size; i++) {
		const msgpack_object *k = &map->via.map.ptr[i].key;

		if (k->type == MSGPACK_OBJECT_STR && k->via.str.size == strlen(key) &&
		    !memcmp(k->via.str.ptr, key, k->via.str.size))
			return &map->via.map.ptr[i].val;
	}
	return NULL;
}

static uint64_t get_int(const msgpack_object *map, const char *key)
{
	const msgpack_object *v = get(map, key);

	return v && v->type == MSGPACK_OBJECT_POSITIVE_INTEGER ? v->via.u64 : 0;
}

/* For printf's %.*s. */
#define TEXT(map, key) text_size(map, key), text_of(map, key)

static int text_size(const msgpack_object *map, const char *key)
{
	const msgpack_object *v = get(map, key);

	return v && v->type == MSGPACK_OBJECT_STR ? (int)v->via.str.size : 0;
}

static const char *text_of(const msgpack_object *map, const char *key)
{
	const msgpack_object *v = get(map, key);

	return v && v->type == MSGPACK_OBJECT_STR ? v->via.str.ptr : "";
}

static bool is_text(const msgpack_object *map, const char *key, const char *wanted)
{
	return text_size(map, key) == (int)strlen(wanted) &&
	       !strncmp(text_of(map, key), wanted, strlen(wanted));
}

static const msgpack_object *item(const msgpack_object *array, uint64_t index)
{
	return array && array->type == MSGPACK_OBJECT_ARRAY && index < array->via.array.size
		       ? &array->via.array.ptr[index]
		       : NULL;
}

struct kpod_view *kpod_view_open(const char *path)
{
	struct kpod_view *v = calloc(1, sizeof(*v));

	if (!v)
		return NULL;
	kpod_reader_init(&v->reader, path);
	msgpack_unpacked_init(&v->document);
	return v;
}

void kpod_view_close(struct kpod_view *v)
{
	kpod_reader_close(&v->reader);
	msgpack_unpacked_destroy(&v->document);
	free(v->before);
	free(v);
}

/* The snapshot and the schema it is to be read by; the schema again whenever it may be new. */
int kpod_view_refresh(struct kpod_view *v)
{
	bool opened = v->reader.map;
	enum kpod_reader_state state = kpod_reader_refresh(&v->reader, kpod_clock(CLOCK_MONOTONIC));

	if (state == KPOD_REPLACED) {
		opened = false;
		state = kpod_reader_refresh(&v->reader, kpod_clock(CLOCK_MONOTONIC));
	}
	if (state == KPOD_LIVE && !opened) {
		if (msgpack_unpack_next(&v->document, (const char *)v->reader.schema,
					v->reader.header.schema_size,
					NULL) != MSGPACK_UNPACK_SUCCESS ||
		    !get(&v->document.data, "tables")) {
			kpod_reader_reject(&v->reader, KPOD_FAULT_SCHEMA);
			state = v->reader.state;
		}
		free(v->before);
		v->before = NULL;
		v->before_size = 0;
	}
	if (state == KPOD_LIVE && v->reader.end)
		return 0;
	kpod_log("%s: %s%s%s", v->reader.path, kpod_state_name(state), v->reader.fault ? ": " : "",
		 v->reader.fault      ? kpod_fault_text(v->reader.fault)
		 : state == KPOD_LIVE ? ", but the loader overtook every copy"
				      : "");
	return -ENODATA;
}

/* Words of one key; what is too large for any row stays too large when it is added up. */
static uint64_t key_size(const msgpack_object *key)
{
	uint64_t words = get_int(key, "words");

	return !words ? 1 : words < UINT32_MAX ? words : UINT32_MAX;
}

static uint64_t key_words(const msgpack_object *table)
{
	const msgpack_object *keys = get(table, "keys"), *key;
	uint64_t words = 0;

	for (uint64_t i = 0; (key = item(keys, i)); i++)
		words += key_size(key);
	return words;
}

/* A ROW of a table the schema has, and long enough for what the schema says it holds. */
static const msgpack_object *table_of(const struct kpod_view *v, const struct kpod_record *record,
				      const uint64_t **words, uint64_t *count)
{
	const msgpack_object *table = item(get(&v->document.data, "tables"), record->table);
	uint64_t skip = table ? key_words(table) : 0;
	uint64_t have = (record->size - sizeof(struct kpod_row)) / 8;

	if (record->type != KPOD_RECORD_ROW || !table || have < skip)
		return NULL;
	*words = (const uint64_t *)((const struct kpod_row *)record + 1) + skip;
	*count = have - skip;
	return table;
}

void kpod_print_text(FILE *out, const char *text, size_t size)
{
	fputc('"', out);
	for (size_t i = 0; i < size; i++) {
		unsigned char c = (unsigned char)text[i];

		if (c == '"' || c == '\\' || c < 0x20 || c >= 0x7f)
			fprintf(out, "\\u%04x", c);
		else
			fputc(c, out);
	}
	fputc('"', out);
}

static void print_json(FILE *out, const msgpack_object *v)
{
	switch (v->type) {
	case MSGPACK_OBJECT_MAP:
		fputc('{', out);
		for (uint32_t i = 0; i < v->via.map.size; i++) {
			fputs(i ? "," : "", out);
			print_json(out, &v->via.map.ptr[i].key);
			fputc(':', out);
			print_json(out, &v->via.map.ptr[i].val);
		}
		fputc('}', out);
		break;
	case MSGPACK_OBJECT_ARRAY:
		fputc('[', out);
		for (uint32_t i = 0; i < v->via.array.size; i++) {
			fputs(i ? "," : "", out);
			print_json(out, &v->via.array.ptr[i]);
		}
		fputc(']', out);
		break;
	case MSGPACK_OBJECT_STR:
		kpod_print_text(out, v->via.str.ptr, v->via.str.size);
		break;
	default: /* numbers, true, false and null look the same in both */
		msgpack_object_print(out, *v);
	}
}

int kpod_view_schema(const void *document, size_t size, FILE *out)
{
	msgpack_unpacked unpacked;
	int err = 0;

	msgpack_unpacked_init(&unpacked);
	if (msgpack_unpack_next(&unpacked, document, size, NULL) == MSGPACK_UNPACK_SUCCESS) {
		print_json(out, &unpacked.data);
		fputc('\n', out);
	} else {
		err = -EBADMSG;
	}
	msgpack_unpacked_destroy(&unpacked);
	return err;
}

static bool get_flag(const msgpack_object *map, const char *key)
{
	const msgpack_object *v = get(map, key);

	return v && v->type == MSGPACK_OBJECT_BOOLEAN && v->via.boolean;
}

static bool is_none(const msgpack_object *column, uint64_t word)
{
	return word == KPOD_NO_VALUE && get_flag(column, "optional");
}

static void print_name(FILE *out, const msgpack_object *column)
{
	const msgpack_object *labels = get(column, "labels");

	fprintf(out, "%.*s", TEXT(column, "name"));
	if (!labels || labels->type != MSGPACK_OBJECT_MAP || !labels->via.map.size)
		return;
	for (uint32_t i = 0; i < labels->via.map.size; i++) {
		const msgpack_object *value = &labels->via.map.ptr[i].val;

		if (value->type == MSGPACK_OBJECT_STR)
			fprintf(out, "%c%.*s", i ? ',' : '{', (int)value->via.str.size,
				value->via.str.ptr);
	}
	fputc('}', out);
}

/* word / 10^decimals, every digit of it. */
static void print_scaled(FILE *out, uint64_t word, uint64_t decimals)
{
	char digits[24];
	uint64_t unit = 1;
	int size;

	for (uint64_t i = 0; i < decimals; i++)
		unit *= 10;
	fprintf(out, "%" PRIu64, word / unit);
	if (!(word % unit))
		return;
	size = snprintf(digits, sizeof(digits), "%0*" PRIu64, (int)decimals, word % unit);
	while (digits[size - 1] == '0')
		size--;
	fprintf(out, ".%.*s", size, digits);
}

static void print_column(FILE *out, const msgpack_object *column, const uint64_t *words,
			 uint64_t count, const struct kpod_view_form *form)
{
	uint64_t word = get_int(column, "word"), buckets = get_int(column, "buckets");
	uint64_t decimals = form->raw ? 0 : get_int(column, "decimals");

	fputs(form->json ? "\"" : " ", out);
	print_name(out, column);
	fprintf(out, form->json ? "\":" : "=");
	if (!buckets) {
		print_scaled(out, word < count ? words[word] : 0,
			     decimals < DECIMALS_MOST ? decimals : DECIMALS_MOST);
		return;
	}
	fputc('[', out);
	for (uint64_t i = 0; i < buckets && word + i < count; i++)
		fprintf(out, "%s%" PRIu64, i ? "," : "", words[word + i]);
	fputc(']', out);
}

/* The labels that differ from row to row; their words come just before the values. */
static void print_keys(FILE *out, const msgpack_object *table, const uint64_t *words, bool json)
{
	const msgpack_object *keys = get(table, "keys"), *key, *value;

	words -= key_words(table);
	if (json)
		fputs(",\"keys\":[", out);
	for (uint64_t i = 0; (key = item(keys, i)); i++) {
		bool is_text = get_int(key, "words"), is_owner = get_flag(key, "owner");

		if (json)
			fputs(i ? "," : "", out);
		else
			fprintf(out, " %.*s=", TEXT(key, "label"));
		value = is_text ? NULL : item(get(key, "values"), is_owner ? ~*words : *words);
		if (is_text)
			kpod_print_text(out, (const char *)words,
					strnlen((const char *)words, 8 * key_size(key)));
		else if (value && value->type == MSGPACK_OBJECT_STR)
			kpod_print_text(out, value->via.str.ptr, value->via.str.size);
		else if (is_owner)
			fprintf(out, "\"%" PRIu32 ":%" PRIu32 "\"", (uint32_t)*words,
				(uint32_t)(*words >> 32));
		else
			fprintf(out, "\"%" PRIu64 "\"", *words);
		words += key_size(key);
	}
	if (json)
		fputc(']', out);
}

static void dump_row(FILE *out, const msgpack_object *table, const struct kpod_row *row,
		     const uint64_t *words, uint64_t count, const struct kpod_view_form *form)
{
	const msgpack_object *columns = get(table, "columns"), *column;

	fprintf(out,
		form->json ? "{\"type\":\"row\",\"table\":\"%.*s\",\"slot\":%u,\"generation\":%u"
			   : "row %.*s slot=%u generation=%u",
		TEXT(table, "name"), row->slot, row->generation);
	print_keys(out, table, words, form->json);
	for (uint64_t i = 0; (column = item(columns, i)); i++) {
		uint64_t word = get_int(column, "word");

		/* People want what happened; programs want every column. */
		if (!form->json && (get(column, "buckets") || word >= count || !words[word]))
			continue;
		if (word < count && is_none(column, words[word]))
			continue;
		if (form->json)
			fputc(',', out);
		print_column(out, column, words, count, form);
	}
	fputs(form->json ? "}\n" : "\n", out);
}

static void dump_slot(FILE *out, const struct kpod_slot *slot, bool json)
{
	const struct {
		const char *name;
		uint64_t ns;
	} times[] = {
		{"born", slot->born_ns},       {"died", slot->died_ns},
		{"counted", slot->counted_ns}, {"cgroup", slot->cgroup_ns},
		{"network", slot->network_ns},
	};

	fprintf(out,
		json ? "{\"type\":\"slot\",\"slot\":%u,\"generation\":%u,\"kind\":%u,"
		       "\"cgroup_id\":%" PRIu64
		     : "slot %u generation=%u kind=%u cgroup_id=%" PRIu64,
		slot->slot, slot->generation, slot->kind, slot->cgroup_id);
	for (size_t i = 0; i < KPOD_COUNT(times); i++) {
		fprintf(out, json ? ",\"%s_ns\":" : " %s=", times[i].name);
		print_scaled(out, times[i].ns, json ? 0 : KPOD_SECONDS);
	}
	fputs(json ? ",\"path\":" : " path=", out);
	kpod_print_text(out, (const char *)(slot + 1), slot->path_size);
	fputs(json ? "}\n" : "\n", out);
}

int kpod_view_dump(struct kpod_view *v, const struct kpod_view_form *form, FILE *out)
{
	const struct kpod_record *record = NULL;
	int err = kpod_view_refresh(v);

	if (err)
		return err;
	fprintf(out,
		form->json ? "{\"type\":\"snapshot\",\"sequence\":%" PRIu64
			     ",\"generation\":%" PRIu64 ",\"monotonic_ns\":"
			   : "snapshot %" PRIu64 " of segment %" PRIu64 ", taken at ",
		v->reader.sequence, v->reader.header.generation);
	print_scaled(out, v->reader.monotonic_ns, form->json ? 0 : KPOD_SECONDS);
	fputs(form->json ? "}\n" : " s\n", out);
	while ((record = kpod_reader_next(&v->reader, record))) {
		const uint64_t *words = NULL;
		uint64_t count = 0;
		const msgpack_object *table = table_of(v, record, &words, &count);

		if (table)
			dump_row(out, table, (const void *)record, words, count, form);
		else if (record->type == KPOD_RECORD_SLOT)
			dump_slot(out, (const void *)record, form->json);
	}
	return 0;
}

void kpod_view_ring(struct kpod_view *v)
{
	char path[PATH_MAX + sizeof(KPOD_DOORBELL_SUFFIX)];
	int fd;

	snprintf(path, sizeof(path), "%s" KPOD_DOORBELL_SUFFIX, v->reader.path);
	fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
	if (fd >= 0)
		close(fd);
}

bool kpod_view_has_news(struct kpod_view *v)
{
	return kpod_reader_has_news(&v->reader, kpod_clock(CLOCK_MONOTONIC));
}

struct kpod_view_head kpod_view_head(const struct kpod_view *v)
{
	return (struct kpod_view_head){
		.sequence = v->reader.sequence,
		.monotonic_ns = v->reader.monotonic_ns,
		.generation = v->reader.header.generation,
	};
}

static bool is_named(const msgpack_object *column, const char *name)
{
	return is_text(column, "name", name) && !get(column, "buckets");
}

static void visit_row(const msgpack_object *table, const struct kpod_row *row,
		      const uint64_t *words, uint64_t count, const char *const *names, size_t known,
		      const struct kpod_view_visitor *visitor)
{
	const msgpack_object *columns = get(table, "columns"), *column;

	for (uint64_t i = 0; (column = item(columns, i)); i++) {
		uint64_t word = get_int(column, "word");

		if (word >= count || is_none(column, words[word]))
			continue;
		for (size_t n = 0; n < known; n++)
			if (is_named(column, names[n]))
				visitor->value(
					visitor->context, row->slot, row->generation, n,
					(double)words[word] /
						pow(10, (double)get_int(column, "decimals")));
	}
}

void kpod_view_visit(const struct kpod_view *v, const char *const *names, size_t count,
		     const struct kpod_view_visitor *visitor)
{
	const struct kpod_record *record = NULL;

	while ((record = kpod_reader_next(&v->reader, record)))
		if (record->type == KPOD_RECORD_SLOT)
			visitor->slot(visitor->context, (const void *)record,
				      (const char *)((const struct kpod_slot *)record + 1));
	while ((record = kpod_reader_next(&v->reader, record))) {
		const uint64_t *words = NULL;
		uint64_t have = 0;
		const msgpack_object *table = table_of(v, record, &words, &have);

		if (table && is_text(table, "scope", "slot"))
			visit_row(table, (const void *)record, words, have, names, count, visitor);
	}
}

struct line {
	const struct kpod_slot *slot;
	double rate[COLUMNS_SHOWN];
};

static int by_first_rate(const void *a, const void *b)
{
	double x = ((const struct line *)a)->rate[0], y = ((const struct line *)b)->rate[0];

	return (x < y) - (x > y);
}

/* In records[0..size): the SLOT or ROW that is like `like`, of a table without keys. */
static const struct kpod_row *find(const uint64_t *records, size_t size, uint16_t type,
				   const struct kpod_row *like)
{
	for (size_t at = 0; at < size;) {
		const struct kpod_row *r = (const void *)((const char *)records + at);

		if (r->record.type == type && r->slot == like->slot &&
		    r->generation == like->generation &&
		    (type == KPOD_RECORD_SLOT || r->record.table == like->record.table))
			return r;
		at += r->record.size;
	}
	return NULL;
}

static void fill_line(const struct kpod_view *v, struct line *line, const struct kpod_row *row,
		      const msgpack_object *const *shown, size_t width, double seconds)
{
	const struct kpod_row *then = find(v->before, v->before_size, KPOD_RECORD_ROW, row);
	const uint64_t *now_words, *then_words = NULL;
	uint64_t count, then_count = 0;

	line->slot = (const void *)find(v->reader.data, v->reader.size - sizeof(struct kpod_end),
					KPOD_RECORD_SLOT, row);
	if (!line->slot || !table_of(v, &row->record, &now_words, &count))
		return;
	if (then)
		table_of(v, &then->record, &then_words, &then_count);
	for (size_t i = 0; i < width; i++) {
		uint64_t word = get_int(shown[i], "word");
		uint64_t old = word < then_count && !is_none(shown[i], then_words[word])
				       ? then_words[word]
				       : 0;

		if (word < count && !is_none(shown[i], now_words[word]))
			line->rate[i] = (double)(now_words[word] - old) / seconds /
					pow(10, (double)get_int(shown[i], "decimals"));
	}
}

static void print_table(const struct kpod_view *v, const msgpack_object *table, uint16_t index,
			double seconds, FILE *out)
{
	const struct kpod_record *record = NULL;
	const msgpack_object *shown[COLUMNS_SHOWN], *column;
	struct line *lines = NULL;
	size_t width = 0, n = 0;

	for (uint64_t i = 0; width < COLUMNS_SHOWN && (column = item(get(table, "columns"), i));
	     i++)
		if (*text_of(column, "kind") == 'c') /* a counter: it has a rate */
			shown[width++] = column;
	if (!width)
		return;
	while ((record = kpod_reader_next(&v->reader, record))) {
		struct line *more;

		if (record->type != KPOD_RECORD_ROW || record->table != index)
			continue;
		more = realloc(lines, (n + 1) * sizeof(*lines));
		if (!more)
			break;
		lines = more;
		memset(&lines[n], 0, sizeof(lines[n]));
		fill_line(v, &lines[n], (const void *)record, shown, width, seconds);
		n += lines[n].slot != NULL;
	}
	fprintf(out, "\n%.*s, per second:", TEXT(table, "name"));
	for (size_t i = 0; i < width; i++) {
		fprintf(out, "%s[%zu] ", i % 2 ? "  " : "\n  ", i + 1);
		print_name(out, shown[i]);
	}
	fputc('\n', out);
	if (n)
		qsort(lines, n, sizeof(*lines), by_first_rate);
	for (size_t i = 0; i < n && i < SLOTS_SHOWN; i++) {
		for (size_t c = 0; c < width; c++)
			fprintf(out, "%12.4f", lines[i].rate[c]);
		fputs(lines[i].slot->died_ns ? "  (ended) " : "  ", out);
		/* Whoever may make cgroups chooses their names, and this goes to root's terminal.
		 */
		kpod_print_text(out, (const char *)(lines[i].slot + 1), lines[i].slot->path_size);
		fputc('\n', out);
	}
	free(lines);
}

int kpod_view_rates(struct kpod_view *v, FILE *out)
{
	const msgpack_object *tables, *table;
	int err = kpod_view_refresh(v);
	double seconds;

	if (err)
		return err;
	tables = get(&v->document.data, "tables");
	seconds = (double)(v->reader.monotonic_ns - v->before_ns) / 1e9;
	for (uint16_t i = 0; v->before && i < KPOD_TABLES_MAX && (table = item(tables, i)); i++)
		if (is_text(table, "scope", "slot") && !key_words(table))
			print_table(v, table, i, seconds, out);
	fflush(out);
	/* The END goes too: what remains is records only. */
	v->before_size = v->reader.size - sizeof(struct kpod_end);
	v->before_ns = v->reader.monotonic_ns;
	free(v->before);
	v->before = malloc(v->before_size);
	if (!v->before)
		v->before_size = 0;
	else
		memcpy(v->before, v->reader.data, v->before_size);
	return 0;
}
