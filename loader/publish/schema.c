/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/utsname.h>

#include <bpf/libbpf.h>
#include <msgpack.h>

#include "kernel/privileges.h"
#include "publish/schema.h"

static void text(msgpack_packer *pk, const char *s)
{
	msgpack_pack_str_with_body(pk, s, strlen(s));
}

static void text_entry(msgpack_packer *pk, const char *key, const char *value)
{
	text(pk, key);
	text(pk, value);
}

static void int_entry(msgpack_packer *pk, const char *key, int64_t value)
{
	text(pk, key);
	msgpack_pack_int64(pk, value);
}

static void bool_entry(msgpack_packer *pk, const char *key, bool value)
{
	text(pk, key);
	if (value)
		msgpack_pack_true(pk);
	else
		msgpack_pack_false(pk);
}

/* The name of a table or column that is of pods. */
static const char *pod_name(const char *name, char *to, size_t size)
{
	static const char *const prefixes[][2] = {
		{"kpod_cgroup_", "kpod_pod_"}, {"kpod_", "kpod_pod_"}, {"cgroup_", "pod_"}};

	for (size_t i = 0; i < KPOD_COUNT(prefixes); i++) {
		size_t length = strlen(prefixes[i][0]);

		if (strncmp(name, prefixes[i][0], length))
			continue;
		snprintf(to, size, "%s%s", prefixes[i][1], name + length);
		return to;
	}
	return name;
}

static void pack_column(msgpack_packer *pk, const struct kpod_column *c, bool optional, bool pods)
{
	static const char *const kinds[] = {"counter", "gauge", "histogram"};
	char name[128];

	msgpack_pack_map(pk, c->kind == KPOD_HISTOGRAM ? 12 : 7);
	text_entry(pk, "name", pods ? pod_name(c->name, name, sizeof(name)) : c->name);
	text_entry(pk, "help", c->help);
	text_entry(pk, "kind", kinds[c->kind]);
	int_entry(pk, "decimals", c->decimals);
	int_entry(pk, "word", c->word);
	bool_entry(pk, "optional", optional);
	text(pk, "labels");
	msgpack_pack_map(pk, (c->label != NULL) + (c->label2 != NULL));
	if (c->label)
		text_entry(pk, c->label, c->value);
	if (c->label2)
		text_entry(pk, c->label2, c->value2);
	if (c->kind == KPOD_HISTOGRAM) {
		int_entry(pk, "schema", KPOD_HIST_SCHEMA);
		int_entry(pk, "first_exponent", KPOD_HIST_FIRST_EXPONENT);
		int_entry(pk, "buckets", KPOD_HIST_BUCKETS);
		int_entry(pk, "sum", c->sum);
		int_entry(pk, "sum_words", c->sum_words);
	}
}

static void pack_key(msgpack_packer *pk, const struct kpod_key *key)
{
	const struct kpod_names *values = key->values && !key->words ? key->values() : NULL;

	msgpack_pack_map(pk, 4);
	text_entry(pk, "label", key->label);
	int_entry(pk, "words", key->words);
	bool_entry(pk, "owner", key->owner);
	text(pk, "values");
	msgpack_pack_array(pk, values ? values->count : 0);
	for (size_t i = 0; values && i < values->count; i++)
		text(pk, values->names[i]);
}

static void pack_table(msgpack_packer *pk, const char *collector, const struct kpod_table *t,
		       bool pods)
{
	char name[64];

	static const char *const since[] = {[KPOD_SINCE_COLLECTOR] = "collector",
					    [KPOD_SINCE_CGROUP] = "cgroup",
					    [KPOD_SINCE_NETWORK] = "network"};

	msgpack_pack_map(pk, 7);
	text_entry(pk, "name", pods ? pod_name(t->name, name, sizeof(name)) : t->name);
	text_entry(pk, "collector", collector);
	text_entry(pk, "scope", t->scope == KPOD_PER_SLOT ? "slot" : "node");
	text_entry(pk, "since", since[t->since]);
	text(pk, "keys");
	msgpack_pack_array(pk, t->key_count);
	for (size_t i = 0; i < t->key_count; i++)
		pack_key(pk, &t->keys[i]);
	int_entry(pk, "words", t->words);
	text(pk, "columns");
	msgpack_pack_array(pk, t->column_count);
	for (size_t i = 0; i < t->column_count; i++)
		pack_column(pk, &t->columns[i], !t->map, pods);
}

/* The hooks of each way to attach, as the sections of its programs name them. */
static void pack_attachments(msgpack_packer *pk, const struct kpod_collector *c)
{
	LIBBPF_OPTS(bpf_object_open_opts, opts, .object_name = c->name);
	struct bpf_object *object =
		c->object ? bpf_object__open_mem(c->object, (size_t)(c->object_end - c->object),
						 &opts)
			  : NULL;

	msgpack_pack_array(pk, c->attachment_count);
	for (size_t i = 0; i < c->attachment_count; i++) {
		const struct kpod_attachment *a = &c->attachments[i];

		msgpack_pack_map(pk, 2);
		text_entry(pk, "name", a->name);
		text(pk, "hooks");
		msgpack_pack_array(pk, a->step_count);
		for (size_t s = 0; s < a->step_count; s++) {
			const struct bpf_program *program =
				object ? bpf_object__find_program_by_name(object,
									  a->steps[s].program)
				       : NULL;

			text(pk, program ? bpf_program__section_name(program) : "");
		}
	}
	bpf_object__close(object);
}

int kpod_schema_encode(const struct kpod_bpf *bpf, const struct kpod_wall *wall,
		       uint64_t min_interval_ns, void **document, size_t *size)
{
	struct utsname kernel;
	msgpack_sbuffer buffer;
	msgpack_packer packer, *pk = &packer;
	size_t tables = KPOD_OWN_TABLES;

	uname(&kernel);
	msgpack_sbuffer_init(&buffer);
	msgpack_packer_init(pk, &buffer, msgpack_sbuffer_write);
	msgpack_pack_map(pk, 5);
	int_entry(pk, "format", 1);
	text(pk, "loader");
	msgpack_pack_map(pk, 2);
	text_entry(pk, "version", KPOD_VERSION);
	int_entry(pk, "min_interval_ns", (int64_t)min_interval_ns);
	text_entry(pk, "kernel", kernel.release);
	text(pk, "collectors");
	msgpack_pack_array(pk, bpf->loaded_count);
	for (size_t i = 0; i < bpf->loaded_count; i++) {
		const struct kpod_loaded *l = &bpf->loaded[i];

		for (size_t t = 0; t < l->collector->table_count; t++)
			tables += 1 + l->collector->tables[t].inclusive;
		msgpack_pack_map(pk, 11);
		text_entry(pk, "name", l->collector->name);
		text_entry(pk, "help", l->collector->help);
		text_entry(pk, "owner", l->collector->owner);
		text_entry(pk, "since", l->collector->since);
		text_entry(pk, "profile", kpod_profile_names[l->collector->profile]);
		bool_entry(pk, "up", l->attachment);
		bool_entry(pk, "has_nothing", l->attachment && l->has_nothing);
		text_entry(pk, "reason", l->reason);
		text_entry(pk, "attach", l->attachment ? l->attachment->name : "");
		int_entry(pk, "started_ns",
			  l->attachment ? (int64_t)kpod_wall_of(wall, l->started_ns) : 0);
		text(pk, "attachments");
		pack_attachments(pk, l->collector);
	}
	text(pk, "tables");
	msgpack_pack_array(pk, tables);
	for (size_t i = 0; i < KPOD_OWN_TABLES; i++)
		pack_table(pk, "loader", &kpod_own_tables[i], false);
	for (size_t i = 0; i < bpf->loaded_count; i++) {
		const struct kpod_collector *c = bpf->loaded[i].collector;

		for (size_t t = 0; t < c->table_count; t++)
			for (int pods = 0; pods <= c->tables[t].inclusive; pods++)
				pack_table(pk, c->name, &c->tables[t], pods);
	}
	*size = buffer.size;
	*document = msgpack_sbuffer_release(&buffer);
	msgpack_sbuffer_destroy(&buffer);
	return *document ? 0 : -ENOMEM;
}
