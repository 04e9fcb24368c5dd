/* SPDX-License-Identifier: Apache-2.0 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <bpf/bpf.h>
#include <bpf/libbpf.h>

#include "base/cgroup2.h"
#include "base/clock.h"
#include "base/log.h"
#include "bpf/walk.h"
#include "kernel/load.h"
#include "kernel/preemption.h"
#include "kernel/tracepoint.h"

/* Kernel memory that all rows together may take; more CPUs than fit share rows atomically. */
#define ROWS_BUDGET (12u << 20)

/* Of the process: libbpf_set_print() gives its callback nothing of ours. */
static struct {
	char warning[200]; /* of the object that is being loaded */
	bool verdict;	   /* the verifier's is in it */
	bool verbose;	   /* all is printed instead */
} libbpf;

/* The first warning says what failed; the verifier's last line before its statistics says why. */
static void keep_warning(char *text)
{
	char *end = strstr(text, "\nprocessed "), *line;
	size_t size = strlen(libbpf.warning);

	if (!size) {
		text[strcspn(text, "\n")] = '\0';
		snprintf(libbpf.warning, sizeof(libbpf.warning), "%s", text);
	} else if (end && strstr(text, "PROG LOAD LOG") && !libbpf.verdict) {
		*end = '\0';
		line = strrchr(text, '\n');
		snprintf(libbpf.warning + size, sizeof(libbpf.warning) - size, ": %s",
			 line ? line + 1 : text);
		libbpf.verdict = true;
	}
}

static int on_libbpf(enum libbpf_print_level level, const char *format, va_list args)
{
	char *text, *rest;

	if (level == LIBBPF_DEBUG || vasprintf(&text, format, args) < 0)
		return 0;
	rest = text;
	if (libbpf.verbose)
		for (char *line; (line = strsep(&rest, "\n"));) {
			if (*line)
				kpod_info("%s", line);
		}
	else if (level == LIBBPF_WARN)
		keep_warning(text);
	free(text);
	return 0;
}

#define PROC_PID_INIT_INO 0xEFFFFFFCu /* include/linux/proc_ns.h */

bool kpod_sees_all_tasks(void)
{
	struct stat st;

	return !stat("/proc/self/ns/pid", &st) && st.st_ino == PROC_PID_INIT_INO;
}

static uint32_t whole_windows(uint32_t units)
{
	return (units + KPOD_WINDOW_UNITS - 1) / KPOD_WINDOW_UNITS * KPOD_WINDOW_UNITS;
}

uint32_t kpod_unit_count(const struct kpod_bpf *bpf, const struct kpod_table *table)
{
	uint32_t by_slot = whole_windows(table->units_per_slot * bpf->max_containers), wanted = 1;

	if (table->switched_by)
		memcpy(&wanted, (const char *)&bpf->config + table->switched_by, sizeof(wanted));
	if (!wanted)
		return KPOD_WINDOW_UNITS;
	return table->units    ? (by_slot > table->unit_capacity ? by_slot : table->unit_capacity)
	       : table->direct ? table->direct
	       : table->scope == KPOD_PER_SLOT ? bpf->max_containers
					       : 1;
}

static uint32_t shards_of(const struct kpod_bpf *bpf, const struct kpod_table *table)
{
	return table->unsharded ? 1 : bpf->config.shards;
}

/* Whether a map is `units` of the table with this suffix. */
static bool is_units(const struct kpod_table *table, const char *map, const char *suffix)
{
	size_t size = table->units ? strlen(table->units) : 0;

	return size && !strncmp(map, table->units, size) && !strcmp(map + size, suffix);
}

/* Of a table that was kept while its collector was shed, the map of this name; or -1. */
static int kept_map(const struct kpod_loaded *l, const char *name)
{
	for (size_t i = 0; l->tables && i < l->collector->table_count; i++) {
		const struct kpod_loaded_table *t = &l->tables[i];

		if (!strcmp(name, t->table->map))
			return t->rows.fd;
		if (is_units(t->table, name, "_units"))
			return t->units.fd;
		if (is_units(t->table, name, "_index"))
			return t->index_fd;
		if (is_units(t->table, name, "_free"))
			return t->free_fd;
		if (is_units(t->table, name, "_reserved"))
			return t->reserved_fd;
	}
	return -1;
}

static int size_map(struct kpod_bpf *bpf, const struct kpod_loaded *l, struct bpf_map *map)
{
	const struct kpod_collector *c = l->collector;
	const char *name = bpf_map__name(map);
	int kept = kept_map(l, name);

	if (kept >= 0)
		return bpf_map__reuse_fd(map, kept);
	if (!strcmp(name, "cgroups"))
		return bpf->cgroups_fd >= 0
			       ? bpf_map__reuse_fd(map, bpf->cgroups_fd)
			       : bpf_map__set_max_entries(map, 4 * bpf->max_containers);
	if (!strcmp(name, "slots") && bpf->cgroups_fd >= 0)
		return bpf_map__reuse_fd(map, bpf->slots.fd);
	if (!strcmp(name, "slots") || !strcmp(name, "free_slots"))
		return bpf_map__set_max_entries(map, bpf->max_containers);
	if (c->sized_by_slot && !strcmp(name, c->sized_by_slot))
		return bpf_map__set_max_entries(map, bpf->max_containers);
	if (c->sized_by_sockets && !strcmp(name, c->sized_by_sockets))
		return bpf_map__set_max_entries(map, bpf->config.max_sockets);
	if (c->sized_by_cpu && !strcmp(name, c->sized_by_cpu))
		return bpf_map__set_max_entries(map, (uint32_t)bpf->cpus);
	for (size_t i = 0; i < c->table_count; i++) {
		const struct kpod_table *t = &c->tables[i];

		if (t->map && !strcmp(name, t->map))
			return bpf_map__set_max_entries(
				map, whole_windows(kpod_unit_count(bpf, t)) * shards_of(bpf, t));
		if (is_units(t, name, "_index") || is_units(t, name, "_free") ||
		    is_units(t, name, "_units"))
			return bpf_map__set_max_entries(map, kpod_unit_count(bpf, t));
	}
	return 0;
}

static int set_config(struct kpod_bpf *bpf, struct bpf_object *object)
{
	struct bpf_map *map = bpf_object__find_map_by_name(object, ".rodata.kpod");
	size_t size = 0;
	const void *initial = map ? bpf_map__initial_value(map, &size) : NULL;

	if (!initial || size != sizeof(bpf->config))
		return -ENOENT;
	/* Written through libbpf: it keeps the rest of the section, if there is any. */
	return bpf_map__set_initial_value(map, &bpf->config, size) ? -errno : 0;
}

static void close_tables(struct kpod_loaded *l)
{
	for (size_t i = 0; l->tables && i < l->collector->table_count; i++) {
		struct kpod_loaded_table *t = &l->tables[i];
		const int fds[] = {t->rows.fd, t->units.fd, t->index_fd, t->free_fd,
				   t->reserved_fd};

		kpod_rows_close(&t->rows);
		kpod_rows_close(&t->units);
		kpod_kept_close(&t->kept);
		for (size_t f = 0; f < KPOD_COUNT(fds); f++)
			if (fds[f] > 0)
				close(fds[f]);
	}
	free(l->tables);
	l->tables = NULL;
}

/* What its source reads from files goes on by itself. */
static bool has_only_maps(const struct kpod_collector *c)
{
	for (size_t i = 0; i < c->table_count; i++)
		if (!c->tables[i].map)
			return false;
	return true;
}

/* Runs the collector's programs that are for each CPU. Returns how many did not run. */
static uint64_t run_per_cpu(const struct kpod_loaded *l, int cpus)
{
	uint64_t failures = 0;

	for (size_t p = 0; p < l->per_cpu_count; p++) {
		for (int cpu = 0; cpu < cpus; cpu++) {
			LIBBPF_OPTS(bpf_test_run_opts, opts, .flags = BPF_F_TEST_RUN_ON_CPU,
				    .cpu = (uint32_t)cpu);
			int err = bpf_prog_test_run_opts(l->per_cpu[p], &opts);

			failures += err && err != -ENXIO; /* ENXIO: the CPU is offline */
		}
	}
	return failures;
}

static void detach(struct kpod_loaded *l)
{
	if (l->state)
		l->source->close(l);
	l->state = NULL;
	for (size_t i = 0; i < l->link_count; i++)
		bpf_link__destroy(l->links[i]);
	l->link_count = 0;
}

static void close_object(struct kpod_loaded *l)
{
	free(l->links);
	free(l->per_cpu);
	free(l->walks);
	bpf_object__close(l->object);
	l->object = NULL;
	l->links = NULL;
	l->per_cpu = l->walks = NULL;
	l->per_cpu_count = l->walk_count = 0;
	l->attachment = NULL;
}

void kpod_collector_shed(struct kpod_loaded *l)
{
	detach(l);
	/* What programs keep for each CPU goes with them, and is to be in the rows. */
	run_per_cpu(l, libbpf_num_possible_cpus());
	if (!has_only_maps(l->collector))
		close_tables(l);
	close_object(l);
}

void kpod_collector_unload(struct kpod_loaded *l)
{
	detach(l);
	close_tables(l);
	close_object(l);
}

/* For the next attachment, which goes on with the tables of one that was shed. */
static void make_way(struct kpod_loaded *l, bool goes_on)
{
	if (goes_on)
		kpod_collector_shed(l);
	else
		kpod_collector_unload(l);
}

int kpod_iterate(int link_fd)
{
	int fd = bpf_iter_create(link_fd);
	ssize_t n = fd < 0 ? -1 : 1;
	char buffer[KPOD_WALK_SLICE];

	while (n > 0 || (n < 0 && fd >= 0 && (errno == EAGAIN || errno == EINTR)))
		n = read(fd, buffer, sizeof(buffer));
	if (n < 0)
		n = -errno;
	if (fd >= 0)
		close(fd);
	return (int)n;
}

/* A link is always BPF_F_ALLOW_MULTI: programs of others, there and below, go on as they were. */
static struct bpf_link *attach_cgroup(struct bpf_program *program)
{
	char root[PATH_MAX];
	int err = kpod_find_cgroup2(root, sizeof(root)), fd;
	struct bpf_link *link;

	fd = err ? err : open(root, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (fd < 0) {
		errno = err ? -err : errno;
		return NULL;
	}
	link = bpf_program__attach_cgroup(program, fd);
	err = errno;
	close(fd);
	errno = err;
	return link;
}

static struct bpf_link *attach_to_map(const struct kpod_loaded *l, const char *map,
				      struct bpf_program *program)
{
	int fd = bpf_object__find_map_fd_by_name(l->object, map);
	union bpf_iter_link_info info = {.map.map_fd = (__u32)fd};
	LIBBPF_OPTS(bpf_iter_attach_opts, opts, .link_info = &info, .link_info_len = sizeof(info));

	return bpf_program__attach_iter(program, &opts);
}

static int map_fd(const struct kpod_loaded *l, const char *name, const char *suffix)
{
	char full[64];

	snprintf(full, sizeof(full), "%s%s", name, suffix);
	return bpf_object__find_map_fd_by_name(l->object, full);
}

static int run_check(int program)
{
	LIBBPF_OPTS(bpf_test_run_opts, opts);

	return bpf_prog_test_run_opts(program, &opts) ? -errno : (int)opts.retval;
}

static struct bpf_link *attach(struct kpod_bpf *bpf, const struct kpod_loaded *l,
			       const struct kpod_attachment *a, const struct kpod_step *step,
			       struct bpf_program *program)
{
	if (step->kind == KPOD_ATTACH_CGROUP)
		return attach_cgroup(program);
	if (step->kind == KPOD_WALK && a->walked)
		return attach_to_map(l, a->walked, program);
	/* libbpf would want tracefs to be mounted. */
	if (bpf_program__type(program) == BPF_PROG_TYPE_TRACEPOINT)
		return kpod_attach_tracepoint(program, &bpf->tracefs);
	return bpf_program__attach(program);
}

/* A program that others of its object go on with. */
static int offer_call(const struct kpod_loaded *l, const struct bpf_program *program)
{
	int map = map_fd(l, bpf_program__name(program), "_call"), fd = bpf_program__fd(program);
	__u32 first = 0;

	return map < 0 ? map : bpf_map_update_elem(map, &first, &fd, BPF_ANY) ? -errno : 0;
}

static int take_step(struct kpod_bpf *bpf, struct kpod_loaded *l, const struct kpod_attachment *a,
		     const struct kpod_step *step)
{
	struct bpf_program *program = bpf_object__find_program_by_name(l->object, step->program);
	struct bpf_link *link;
	int err = 0;

	if (!program)
		return -ENOENT;
	if (step->kind == KPOD_LOAD)
		return 0;
	if (step->kind == KPOD_TAIL_CALL)
		return offer_call(l, program);
	if (step->kind == KPOD_CHECK)
		return run_check(bpf_program__fd(program));
	if (step->kind == KPOD_PER_CPU) {
		l->per_cpu[l->per_cpu_count++] = bpf_program__fd(program);
		return 0;
	}
	link = attach(bpf, l, a, step, program);
	if (!link)
		return -errno;
	if (step->kind == KPOD_RUN_ONCE) {
		err = kpod_iterate(bpf_link__fd(link));
		bpf_link__destroy(link);
		return err;
	}
	l->links[l->link_count++] = link;
	if (step->kind == KPOD_WALK)
		l->walks[l->walk_count++] = bpf_link__fd(link);
	return 0;
}

static bool is_step(const struct kpod_attachment *a, const char *program)
{
	for (size_t i = 0; i < a->step_count; i++)
		if (!strcmp(a->steps[i].program, program))
			return true;
	return false;
}

/* Likewise, one that outlives the object. */
static int own_map_fd(const struct kpod_loaded *l, const char *name, const char *suffix)
{
	int fd = map_fd(l, name, suffix);

	return fd < 0 ? fd : fcntl(fd, F_DUPFD_CLOEXEC, 3);
}

/* Gives a unit to whoever is next: the first ones to the host, if there is no other. */
static int push_unit(const struct kpod_loaded_table *t, uint32_t unit)
{
	int fd = unit <= KPOD_UNITS_RESERVED ? t->reserved_fd : t->free_fd;

	return bpf_map_update_elem(fd, NULL, &unit, BPF_ANY) ? -errno : 0;
}

/* Unit 0 is none; the others go to the stacks so that the lowest is taken first. */
static int open_units(const struct kpod_loaded *l, struct kpod_loaded_table *t)
{
	int err = kpod_rows_open(&t->units, own_map_fd(l, t->table->units, "_units"),
				 sizeof(struct kpod_unit), t->unit_count);

	t->index_fd = own_map_fd(l, t->table->units, "_index");
	t->free_fd = own_map_fd(l, t->table->units, "_free");
	t->reserved_fd = own_map_fd(l, t->table->units, "_reserved");
	if (t->units.fd < 0 || t->index_fd < 0 || t->free_fd < 0 || t->reserved_fd < 0)
		return -ENOENT;
	for (uint32_t unit = t->unit_count - 1; !err && unit > 0; unit--)
		err = push_unit(t, unit);
	return err;
}

static int open_tables(struct kpod_bpf *bpf, struct kpod_loaded *l)
{
	const struct kpod_collector *c = l->collector;
	int err = 0;

	if (l->tables) /* it was shed */
		return 0;
	l->tables = calloc(c->table_count ? c->table_count : 1, sizeof(*l->tables));
	if (!l->tables)
		return -ENOMEM;
	for (size_t i = 0; !err && i < c->table_count; i++) {
		struct kpod_loaded_table *t = &l->tables[i];

		t->table = &c->tables[i];
		if (!t->table->map) {
			kpod_kept_open(&t->kept, t->table, kpod_key_words(t->table));
			continue;
		}
		t->shards = shards_of(bpf, t->table);
		t->unit_count = kpod_unit_count(bpf, t->table);
		err = kpod_rows_open(&t->rows, own_map_fd(l, t->table->map, ""),
				     t->table->row_size * t->shards, t->unit_count);
		err = err ? err : t->rows.fd < 0 ? -ENOENT : 0;
		if (!err && t->table->units)
			err = open_units(l, t);
	}
	return err;
}

/* So that programs find it no more. False: the kernel refused. */
static bool forget_key(const struct kpod_loaded_table *t, const struct kpod_unit *u)
{
	return !bpf_map_delete_elem(t->index_fd, &u->key) || errno == ENOENT;
}

/* To whoever is next, without a past. False: the kernel refused, it is as it was. */
static bool free_unit(struct kpod_loaded_table *t, uint32_t unit, struct kpod_unit *u)
{
	struct kpod_unit was = *u;
	void *rows = kpod_rows_of(&t->rows, unit);

	if (!forget_key(t, u))
		return false;
	if (rows)
		memset(rows, 0, t->rows.unit_size);
	memset(u, 0, sizeof(*u));
	/* The map's lock orders all this before whoever takes the unit. */
	if (push_unit(t, unit)) {
		*u = was;
		return false;
	}
	return true;
}

bool kpod_table_forget(struct kpod_loaded_table *t, uint32_t slot)
{
	bool done = true;
	void *rows;

	if (t->table->scope != KPOD_PER_SLOT || !t->table->map)
		return true;
	if (!t->table->units) {
		rows = kpod_rows_of(&t->rows, slot);
		if (rows)
			memset(rows, 0, t->rows.unit_size);
		return true;
	}
	for (uint32_t unit = 1; unit < t->unit_count; unit++) {
		struct kpod_unit *u = kpod_rows_of(&t->units, unit);

		if (u && u->born_ns && u->key.slot == slot)
			done &= free_unit(t, unit, u);
	}
	return done;
}

bool kpod_unit_free(struct kpod_loaded_table *t, uint32_t unit)
{
	struct kpod_unit *u = kpod_rows_of(&t->units, unit);

	return u && u->born_ns && free_unit(t, unit, u);
}

bool kpod_unit_move(struct kpod_loaded_table *t, uint32_t from, uint32_t to)
{
	uint64_t *source = kpod_rows_of(&t->rows, from), *target = kpod_rows_of(&t->rows, to);

	if (!source || !target)
		return false;
	for (size_t i = 0; i < t->rows.unit_size / sizeof(*source); i++)
		__atomic_fetch_add(&target[i], __atomic_exchange_n(&source[i], 0, __ATOMIC_RELAXED),
				   __ATOMIC_RELAXED);
	return true;
}

bool kpod_unit_release(struct kpod_loaded_table *t, uint32_t unit)
{
	struct kpod_unit *u = kpod_rows_of(&t->units, unit);
	void *rows = kpod_rows_of(&t->rows, unit);

	if (!u || !rows)
		return false;
	memset(rows, 0, t->rows.unit_size);
	memset(u, 0, sizeof(*u));
	return !push_unit(t, unit);
}

void kpod_unit_fold(struct kpod_loaded_table *t, uint32_t from, uint32_t to)
{
	if (kpod_unit_move(t, from, to))
		kpod_unit_free(t, from);
}

uint32_t kpod_unit_find(const struct kpod_loaded_table *t, const struct kpod_unit_key *key)
{
	uint32_t unit = 0;

	return bpf_map_lookup_elem(t->index_fd, key, &unit) ? 0 : unit;
}

bool kpod_unit_hide(struct kpod_loaded_table *t, uint32_t unit)
{
	struct kpod_unit *u = kpod_rows_of(&t->units, unit);

	if (!u || !forget_key(t, u))
		return false;
	u->born_ns = 0;
	return true;
}

bool kpod_unit_rename(struct kpod_loaded_table *t, uint32_t unit, const struct kpod_unit *as)
{
	struct kpod_unit *u = kpod_rows_of(&t->units, unit);

	if (!u || bpf_map_update_elem(t->index_fd, &as->key, &unit, BPF_NOEXIST))
		return false;
	bpf_map_delete_elem(t->index_fd, &u->key);
	u->key = as->key;
	memcpy(u->words, as->words, sizeof(u->words));
	return true;
}

void kpod_table_relieve(struct kpod_loaded_table *t, const uint8_t *dead_snapshots, uint8_t enough)
{
	const struct kpod_unit *none;

	if (!t->table->units || t->table->scope != KPOD_PER_SLOT)
		return;
	none = kpod_rows_of(&t->units, 0);
	if (!none || none->words[0] == t->exhausted_relieved)
		return;
	t->exhausted_relieved = none->words[0];
	for (uint32_t unit = 1; unit < t->unit_count; unit++) {
		struct kpod_unit *u = kpod_rows_of(&t->units, unit);

		if (u && u->born_ns && dead_snapshots[u->key.slot] >= enough)
			t->units_evicted += free_unit(t, unit, u);
	}
}

static int load_object(struct kpod_bpf *bpf, struct kpod_loaded *l, const struct kpod_attachment *a,
		       const char **step)
{
	const struct kpod_collector *c = l->collector;
	struct bpf_program *program;
	struct bpf_map *map;
	int err;
	LIBBPF_OPTS(bpf_object_open_opts, opts, .object_name = c->name);

	l->links = calloc(a->step_count, sizeof(*l->links));
	l->per_cpu = calloc(a->step_count, sizeof(*l->per_cpu));
	l->walks = calloc(a->step_count, sizeof(*l->walks));
	l->object = bpf_object__open_mem(c->object, (size_t)(c->object_end - c->object), &opts);
	err = !l->links || !l->per_cpu || !l->walks ? -ENOMEM : l->object ? 0 : -errno;
	err = err ? err : set_config(bpf, l->object);
	if (!err && c->prepare)
		err = c->prepare(l->object);
	if (err)
		return err;
	bpf_object__for_each_map (map, l->object) {
		if (!err && a->omit && !strcmp(bpf_map__name(map), a->omit))
			err = bpf_map__set_autocreate(map, false);
		else if (!err && !strcmp(bpf_map__name(map), "control") && bpf->control)
			err = bpf_map__reuse_fd(map, bpf->control_fd);
		else if (!err)
			err = size_map(bpf, l, map);
	}
	bpf_object__for_each_program (program, l->object)
		bpf_program__set_autoload(program, is_step(a, bpf_program__name(program)));
	*step = "load";
	return err ? err : bpf_object__load(l->object);
}

/*
 * Before any of the programs that use them is attached. Slot 0 is the host's; the others go to the
 * stack so that the lowest is taken first.
 */
static int adopt_shared_maps(struct kpod_bpf *bpf, const struct kpod_loaded *l)
{
	int control_fd = map_fd(l, "control", "");
	int err = kpod_rows_open(&bpf->slots, map_fd(l, "slots", ""), sizeof(struct kpod_slot_info),
				 bpf->max_containers);
	void *control;

	if (err)
		return err;
	control = mmap(NULL, sizeof(*bpf->control), PROT_READ | PROT_WRITE, MAP_SHARED, control_fd,
		       0);
	if (control == MAP_FAILED)
		return -errno;
	bpf->control = control;
	bpf->control_fd = control_fd;
	bpf->cgroups_fd = map_fd(l, "cgroups", "");
	bpf->free_slots_fd = map_fd(l, "free_slots", "");
	bpf->roots_fd = map_fd(l, "roots", "");
	bpf->groups_fd = map_fd(l, "groups", "");
	bpf->instances_fd = map_fd(l, "instances", "");
	for (uint32_t slot = bpf->max_containers - 1; slot > 0; slot--)
		if (bpf_map_update_elem(bpf->free_slots_fd, NULL, &slot, BPF_ANY))
			return -errno;
	return 0;
}

static void disown_shared_maps(struct kpod_bpf *bpf)
{
	if (bpf->control)
		munmap(bpf->control, sizeof(*bpf->control));
	bpf->control = NULL;
	kpod_rows_close(&bpf->slots);
	bpf->cgroups_fd = bpf->free_slots_fd = bpf->control_fd = -1;
	bpf->roots_fd = bpf->groups_fd = bpf->instances_fd = -1;
}

/* For tests: whether attachments of this name are to fail, ":NAME" or, once shed, "::NAME". */
static bool is_injected(const char *injected, const char *prefix, const char *attachment)
{
	size_t size = strlen(prefix);

	return injected && !strncmp(injected, prefix, size) && !strcmp(injected + size, attachment);
}

static int try_attachment(struct kpod_bpf *bpf, struct kpod_loaded *l,
			  const struct kpod_attachment *a, const char *injected)
{
	bool first = l->collector->makes_slots, goes_on = l->tables;
	const char *step = "open";
	int err = 0;

	libbpf.warning[0] = '\0';
	libbpf.verdict = false;
	if (l->collector->object && a->step_count)
		err = load_object(bpf, l, a, &step);
	err = err ? err : open_tables(bpf, l);
	if (!err && first)
		err = adopt_shared_maps(bpf, l);
	for (size_t i = 0; !err && i < a->step_count; i++) {
		step = a->steps[i].program;
		err = take_step(bpf, l, a, &a->steps[i]);
	}
	if (!err && l->sheds && is_injected(injected, "::", a->name))
		err = -ECANCELED;
	if (err) {
		snprintf(l->reason, sizeof(l->reason), "%s: %s: %s%s%s", a->name, step,
			 strerror(-err), libbpf.warning[0] ? ": " : "", libbpf.warning);
		if (first)
			disown_shared_maps(bpf);
		make_way(l, goes_on);
		return err;
	}
	l->reason[0] = '\0';
	l->has_nothing = false;
	l->attachment = a;
	if (!goes_on)
		l->started_ns = kpod_clock(CLOCK_BOOTTIME);
	l->source = a->source ? a->source : l->collector->source;
	if (l->collector->started)
		l->collector->started();
	return 0;
}

#define MADE_TO_FAIL "made to fail by --inject-load-failure"

/* If one that preempted tasks do not harm was wanted, and another was had. */
static void say_preempted(struct kpod_loaded *l, enum kpod_preemption wanted, const char *why)
{
	if (l->attachment->where < wanted && !l->reason[0])
		snprintf(l->reason, sizeof(l->reason),
			 "loses events beside tasks that are preempted in its programs: %s", why);
}

/* The first attachment that works, of those from number `first` on. */
static void load(struct kpod_bpf *bpf, struct kpod_loaded *l, const struct kpod_options *o,
		 size_t first)
{
	enum kpod_preemption wanted = KPOD_NOTHING_PREEMPTS;
	const struct kpod_collector *c = l->collector;
	char why[160] = "";

	if (o->inject_failure && !strcmp(o->inject_failure, c->name)) {
		snprintf(l->reason, sizeof(l->reason), MADE_TO_FAIL);
		return;
	}
	if (!c->makes_slots && bpf->cgroups_fd < 0) {
		snprintf(l->reason, sizeof(l->reason), "needs collector %s",
			 kpod_collectors[0]->name);
		return;
	}
	for (size_t i = first; i < c->attachment_count; i++) {
		const struct kpod_attachment *a = &c->attachments[i];

		if (a->where > bpf->preemption)
			continue;
		if (is_injected(o->inject_failure, ":", a->name)) {
			snprintf(l->reason, sizeof(l->reason), MADE_TO_FAIL);
		} else if (!try_attachment(bpf, l, a, o->inject_failure)) {
			say_preempted(l, wanted, why);
			return;
		}
		if (a->where && !why[0]) {
			wanted = a->where;
			snprintf(why, sizeof(why), "%.150s", l->reason);
		}
	}
}

static uint32_t power_of_two(uint32_t n)
{
	uint32_t p = 1;

	while (p < n)
		p *= 2;
	return p;
}

/* Whether a comma-separated list has this name. */
static bool lists(const char *list, const char *name)
{
	size_t size = strlen(name);

	for (const char *at = list; (at = strstr(at, name)); at += size)
		if ((at == list || at[-1] == ',') && (!at[size] || at[size] == ','))
			return true;
	return false;
}

static int check_names(const char *list)
{
	while (*list) {
		size_t size = strcspn(list, ",");
		bool known = false;

		for (size_t i = 0; i < kpod_collector_count; i++)
			known |= strlen(kpod_collectors[i]->name) == size &&
				 !memcmp(kpod_collectors[i]->name, list, size);
		if (!known) {
			kpod_log("--collectors: there is no collector '%.*s'", (int)size, list);
			return -EINVAL;
		}
		list += size + (list[size] == ',');
	}
	return 0;
}

int kpod_bpf_describe(struct kpod_bpf *bpf, const struct kpod_options *o)
{
	memset(bpf, 0, sizeof(*bpf));
	bpf->cgroups_fd = bpf->free_slots_fd = -1;
	bpf->roots_fd = bpf->groups_fd = bpf->instances_fd = -1;
	bpf->tracefs = -1;
	if (o->collectors && check_names(o->collectors))
		return -EINVAL;
	bpf->loaded = calloc(kpod_collector_count, sizeof(*bpf->loaded));
	if (!bpf->loaded)
		return -ENOMEM;
	for (size_t i = 0; i < kpod_collector_count; i++)
		if (kpod_collectors[i]->makes_slots ||
		    (o->collectors ? lists(o->collectors, kpod_collectors[i]->name)
				   : kpod_collectors[i]->profile <= o->profile))
			bpf->loaded[bpf->loaded_count++].collector = kpod_collectors[i];
	return 0;
}

/* Bytes of all rows that are there once for each shard. */
static uint64_t shard_bytes(const struct kpod_bpf *bpf)
{
	uint64_t bytes = 0;

	for (size_t i = 0; i < bpf->loaded_count; i++) {
		const struct kpod_collector *c = bpf->loaded[i].collector;

		for (size_t t = 0; t < c->table_count; t++)
			if (c->tables[t].map && !c->tables[t].unsharded)
				bytes += (uint64_t)kpod_unit_count(bpf, &c->tables[t]) *
					 c->tables[t].row_size;
	}
	return bytes;
}

int kpod_bpf_open(struct kpod_bpf *bpf, const struct kpod_options *o)
{
	int err = kpod_bpf_describe(bpf, o);

	if (err)
		return err;
	libbpf.verbose = o->verbose;
	libbpf_set_print(on_libbpf);
	bpf->cpus = libbpf_num_possible_cpus();
	if (bpf->cpus < 1)
		return bpf->cpus ? bpf->cpus : -EINVAL;
	bpf->max_containers = whole_windows(o->max_containers + 1);
	bpf->config.shards = power_of_two((uint32_t)bpf->cpus);
	while (bpf->config.shards > 1 && bpf->config.shards * shard_bytes(bpf) > ROWS_BUDGET)
		bpf->config.shards /= 2;
	bpf->config.start_ns = kpod_clock(CLOCK_MONOTONIC);
	bpf->preemption = o->inject_preemption ? KPOD_TRACEPOINTS_PREEMPT : kpod_preemption();
	bpf->config.preemptible = bpf->preemption == KPOD_TRACEPOINTS_PREEMPT;
	bpf->config.shared = bpf->config.shards < (uint32_t)bpf->cpus || bpf->config.preemptible;
	bpf->config.others = o->wanted;
	bpf->config.others_max = (uint32_t)(bpf->max_containers * o->others_share / 100);
	bpf->config.max_sockets = o->max_sockets;
	bpf->config.culprits = o->culprits;
	bpf->config.tcp_peers = o->tcp_peers;
	bpf->config.slots = bpf->max_containers;
	bpf->config.page_size = (uint32_t)getpagesize();

	for (size_t i = 0; i < bpf->loaded_count; i++)
		load(bpf, &bpf->loaded[i], o, 0);
	return 0;
}

void kpod_bpf_close(struct kpod_bpf *bpf)
{
	for (size_t i = bpf->loaded_count; i-- > 0;) {
		kpod_collector_unload(&bpf->loaded[i]);
		free(bpf->loaded[i].programs);
	}
	disown_shared_maps(bpf);
	if (bpf->tracefs >= 0)
		close(bpf->tracefs);
	free(bpf->loaded);
	memset(bpf, 0, sizeof(*bpf));
}

/* Gauges of units, or of the first `slots` slots, to zero: the walk that follows counts them anew.
 */
static void reset_gauges(struct kpod_loaded_table *t, uint32_t slots)
{
	uint32_t count = t->table->units ? t->unit_count : slots;

	for (size_t c = 0; c < t->table->column_count; c++) {
		if (t->table->columns[c].kind != KPOD_GAUGE)
			continue;
		for (uint32_t unit = 0; unit < count; unit++) {
			char *rows = kpod_rows_of(&t->rows, unit);

			for (uint32_t shard = 0; rows && shard < t->shards; shard++) {
				uint64_t *row = (void *)(rows + (size_t)shard * t->table->row_size);

				/* Most units are in use by nobody. */
				if (row[t->table->columns[c].word])
					row[t->table->columns[c].word] = 0;
			}
		}
	}
}

void kpod_bpf_flush(struct kpod_bpf *bpf, uint32_t slots)
{
	for (size_t i = 0; i < bpf->loaded_count; i++) {
		struct kpod_loaded *l = &bpf->loaded[i];

		for (size_t t = 0; l->walk_count && t < l->collector->table_count; t++)
			reset_gauges(&l->tables[t], slots);
		for (size_t w = 0; w < l->walk_count; w++)
			if (kpod_iterate(l->walks[w]))
				bpf->walk_failures++;
		bpf->flush_failures += run_per_cpu(l, bpf->cpus);
	}
}

/* A source that cannot be opened makes way for the collector's next attachment. */
static void open_source(struct kpod_bpf *bpf, struct kpod_loaded *l, struct kpod_slots *slots,
			const struct kpod_options *options, bool goes_on)
{
	while (l->attachment && l->source) {
		size_t next = (size_t)(l->attachment - l->collector->attachments) + 1;
		int err = l->source->open(l, slots, options);

		if (!err)
			return;
		if (!l->reason[0])
			snprintf(l->reason, sizeof(l->reason), "%s: %s", l->attachment->name,
				 strerror(-err));
		make_way(l, goes_on);
		load(bpf, l, options, next);
	}
}

void kpod_sources_open(struct kpod_bpf *bpf, struct kpod_slots *slots,
		       const struct kpod_options *options)
{
	for (size_t i = 0; i < bpf->loaded_count; i++)
		open_source(bpf, &bpf->loaded[i], slots, options, false);
}

void kpod_collector_load(struct kpod_bpf *bpf, struct kpod_loaded *l, struct kpod_slots *slots,
			 const struct kpod_options *options)
{
	bool goes_on = l->tables;

	bpf->config.start_ns = kpod_clock(CLOCK_MONOTONIC);
	load(bpf, l, options, 0);
	open_source(bpf, l, slots, options, goes_on);
	if (!l->attachment)
		kpod_collector_unload(l);
}

void kpod_sources_begin(struct kpod_bpf *bpf, struct kpod_slots *slots)
{
	bpf->snapshots++;
	for (size_t i = 0; i < bpf->loaded_count; i++)
		if (bpf->loaded[i].state && bpf->loaded[i].source->begin)
			bpf->loaded[i].source->begin(&bpf->loaded[i], slots);
}

void kpod_sources_read(struct kpod_bpf *bpf, struct kpod_slots *slots)
{
	for (size_t i = 0; i < bpf->loaded_count; i++)
		if (bpf->loaded[i].state)
			bpf->loaded[i].source->read(&bpf->loaded[i], slots);
}
