/* SPDX-License-Identifier: Apache-2.0 */
#define _GNU_SOURCE
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <linux/capability.h>

#include "collectors.h"
#include "loader.h"

#define X(name) extern const struct kpod_collector kpod_collector_##name;
KPOD_COLLECTORS(X)
#undef X

static const struct kpod_collector *const collectors[] = {
#define X(name) &kpod_collector_##name,
	KPOD_COLLECTORS(X)
#undef X
};

/* Kernel memory that all rows together may take; more CPUs than fit share rows atomically. */
#define ROWS_BUDGET (12u << 20)

static char last_warning[200];
static bool verbose;

static int on_libbpf(enum libbpf_print_level level, const char *format, va_list args)
{
	char line[1024];

	if (level == LIBBPF_DEBUG)
		return 0;
	if (verbose)
		return vfprintf(stderr, format, args);
	if (level == LIBBPF_WARN && !last_warning[0]) {
		vsnprintf(line, sizeof(line), format, args);
		line[strcspn(line, "\n")] = '\0';
		snprintf(last_warning, sizeof(last_warning), "%.*s", (int)sizeof(last_warning) - 1,
			 line);
	}
	return 0;
}

const char *kpod_missing_privilege(void)
{
	struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
	struct __user_cap_data_struct data[2] = {};

	if (syscall(SYS_capget, &header, data))
		return "cannot read its own capabilities";
	if (data[CAP_SYS_ADMIN / 32].effective & (1u << CAP_SYS_ADMIN % 32))
		return "";
	if (!(data[CAP_BPF / 32].effective & (1u << CAP_BPF % 32)))
		return "CAP_BPF is missing (run it as root, or give it CAP_BPF and CAP_PERFMON)";
	if (!(data[CAP_PERFMON / 32].effective & (1u << CAP_PERFMON % 32)))
		return "CAP_PERFMON is missing (run it as root, or give it CAP_BPF and "
		       "CAP_PERFMON)";
	return "";
}

void *kpod_rows_of(struct kpod_rows *rows, uint32_t slot)
{
	size_t bytes = (size_t)rows->slot_size * KPOD_WINDOW_SLOTS;
	uint32_t window = slot / KPOD_WINDOW_SLOTS;
	void *at;

	if (!rows->window[window]) {
		at = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, rows->fd,
			  (off_t)(bytes * window));
		if (at == MAP_FAILED)
			return NULL;
		rows->window[window] = at;
	}
	return (char *)rows->window[window] + (size_t)rows->slot_size * (slot % KPOD_WINDOW_SLOTS);
}

static int rows_open(struct kpod_rows *rows, int fd, uint32_t slot_size, uint32_t slots)
{
	rows->fd = fd;
	rows->slot_size = slot_size;
	rows->windows = (slots + KPOD_WINDOW_SLOTS - 1) / KPOD_WINDOW_SLOTS;
	rows->window = calloc(rows->windows, sizeof(*rows->window));
	return rows->window ? 0 : -ENOMEM;
}

static void rows_close(struct kpod_rows *rows)
{
	for (uint32_t i = 0; i < rows->windows; i++)
		if (rows->window[i])
			munmap(rows->window[i], (size_t)rows->slot_size * KPOD_WINDOW_SLOTS);
	free(rows->window);
	memset(rows, 0, sizeof(*rows));
}

static uint32_t row_count(const struct kpod_bpf *bpf, const struct kpod_table *table)
{
	return (table->scope == KPOD_PER_SLOT ? bpf->max_containers : KPOD_WINDOW_SLOTS) *
	       bpf->config.shards;
}

static int size_map(struct kpod_bpf *bpf, const struct kpod_collector *c, struct bpf_map *map)
{
	const char *name = bpf_map__name(map);

	if (!strcmp(name, "cgroups"))
		return bpf->cgroups_fd >= 0
			       ? bpf_map__reuse_fd(map, bpf->cgroups_fd)
			       : bpf_map__set_max_entries(map, 4 * bpf->max_containers);
	if (!strcmp(name, "slots") || !strcmp(name, "free_slots"))
		return bpf_map__set_max_entries(map, bpf->max_containers);
	if (c->sized_by_cpu && !strcmp(name, c->sized_by_cpu))
		return bpf_map__set_max_entries(map, (uint32_t)bpf->cpus);
	for (size_t i = 0; i < c->table_count; i++)
		if (!strcmp(name, c->tables[i].map))
			return bpf_map__set_max_entries(map, row_count(bpf, &c->tables[i]));
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

static void unload(struct kpod_loaded *l)
{
	for (size_t i = 0; i < l->link_count; i++)
		bpf_link__destroy(l->links[i]);
	for (size_t i = 0; l->rows && i < l->collector->table_count; i++)
		if (l->rows[i].window)
			rows_close(&l->rows[i]);
	free(l->rows);
	free(l->links);
	free(l->per_cpu);
	bpf_object__close(l->object);
	l->object = NULL;
	l->rows = NULL;
	l->links = NULL;
	l->per_cpu = NULL;
	l->link_count = l->per_cpu_count = 0;
	l->attachment = NULL;
}

static int run_once(struct bpf_program *program)
{
	struct bpf_link *link = bpf_program__attach_iter(program, NULL);
	char buffer[256];
	ssize_t n;
	int fd;

	if (!link)
		return -errno;
	fd = bpf_iter_create(bpf_link__fd(link));
	n = fd < 0 ? -1 : 1;
	while (n > 0 || (n < 0 && fd >= 0 && (errno == EAGAIN || errno == EINTR)))
		n = read(fd, buffer, sizeof(buffer));
	if (n < 0)
		n = -errno;
	if (fd >= 0)
		close(fd);
	bpf_link__destroy(link);
	return (int)n;
}

static int take_step(struct kpod_loaded *l, const struct kpod_step *step)
{
	struct bpf_program *program = bpf_object__find_program_by_name(l->object, step->program);
	struct bpf_link *link;

	if (!program)
		return -ENOENT;
	switch (step->kind) {
	case KPOD_ATTACH:
		link = bpf_program__attach(program);
		if (!link)
			return -errno;
		l->links[l->link_count++] = link;
		return 0;
	case KPOD_RUN_ONCE:
		return run_once(program);
	case KPOD_PER_CPU:
		l->per_cpu[l->per_cpu_count++] = bpf_program__fd(program);
		return 0;
	}
	return -EINVAL;
}

static bool is_step(const struct kpod_attachment *a, const char *program)
{
	for (size_t i = 0; i < a->step_count; i++)
		if (!strcmp(a->steps[i].program, program))
			return true;
	return false;
}

static int open_rows(struct kpod_bpf *bpf, struct kpod_loaded *l)
{
	const struct kpod_collector *c = l->collector;

	l->rows = calloc(c->table_count ? c->table_count : 1, sizeof(*l->rows));
	if (!l->rows)
		return -ENOMEM;
	for (size_t i = 0; i < c->table_count; i++) {
		int fd = bpf_object__find_map_fd_by_name(l->object, c->tables[i].map);
		int err = fd < 0 ? -ENOENT
				 : rows_open(&l->rows[i], fd,
					     c->tables[i].row_size * bpf->config.shards,
					     bpf->max_containers);

		if (err)
			return err;
	}
	return 0;
}

static int try_attachment(struct kpod_bpf *bpf, struct kpod_loaded *l,
			  const struct kpod_attachment *a)
{
	const struct kpod_collector *c = l->collector;
	struct bpf_program *program;
	struct bpf_map *map;
	const char *step = "open";
	int err;
	LIBBPF_OPTS(bpf_object_open_opts, opts, .object_name = c->name);

	last_warning[0] = '\0';
	l->links = calloc(a->step_count, sizeof(*l->links));
	l->per_cpu = calloc(a->step_count, sizeof(*l->per_cpu));
	l->object = bpf_object__open_mem(c->object, (size_t)(c->object_end - c->object), &opts);
	err = !l->links || !l->per_cpu ? -ENOMEM : l->object ? 0 : -errno;
	if (!err)
		err = set_config(bpf, l->object);
	if (!err) {
		bpf_object__for_each_map (map, l->object) {
			if (!err && !strcmp(bpf_map__name(map), "control") && bpf->control)
				err = bpf_map__reuse_fd(map, bpf->control_fd);
			else if (!err)
				err = size_map(bpf, c, map);
		}
		bpf_object__for_each_program (program, l->object)
			bpf_program__set_autoload(program, is_step(a, bpf_program__name(program)));
		step = "load";
		err = err ? err : bpf_object__load(l->object);
	}
	err = err ? err : open_rows(bpf, l);
	for (size_t i = 0; !err && i < a->step_count; i++) {
		step = a->steps[i].program;
		err = take_step(l, &a->steps[i]);
	}
	if (err) {
		snprintf(l->reason, sizeof(l->reason), "%s: %s: %s%s%s", a->name, step,
			 strerror(-err), last_warning[0] ? ": " : "", last_warning);
		unload(l);
		return err;
	}
	l->reason[0] = '\0';
	l->attachment = a;
	return 0;
}

/* Slot 0 is the host's; the others go to the stack so that the lowest is taken first. */
static int adopt_shared_maps(struct kpod_bpf *bpf, struct kpod_loaded *l)
{
	int slots_fd = bpf_object__find_map_fd_by_name(l->object, "slots");
	int free_fd = bpf_object__find_map_fd_by_name(l->object, "free_slots");
	int cgroups_fd = bpf_object__find_map_fd_by_name(l->object, "cgroups");
	int control_fd = bpf_object__find_map_fd_by_name(l->object, "control");
	int err = rows_open(&bpf->slots, slots_fd, sizeof(struct kpod_slot_info),
			    bpf->max_containers);
	void *control = mmap(NULL, sizeof(*bpf->control), PROT_READ | PROT_WRITE, MAP_SHARED,
			     control_fd, 0);

	if (err || control == MAP_FAILED)
		return err ? err : -errno;
	bpf->control = control;
	bpf->control_fd = control_fd;
	bpf->cgroups_fd = cgroups_fd;
	bpf->free_slots_fd = free_fd;
	for (uint32_t slot = bpf->max_containers - 1; slot > 0; slot--)
		if (bpf_map_update_elem(free_fd, NULL, &slot, BPF_ANY))
			return -errno;
	return 0;
}

static void load(struct kpod_bpf *bpf, struct kpod_loaded *l, const struct kpod_options *o)
{
	const struct kpod_collector *c = l->collector;

	if (o->inject_failure && !strcmp(o->inject_failure, c->name)) {
		snprintf(l->reason, sizeof(l->reason), "made to fail by --inject-load-failure");
		return;
	}
	if (c != collectors[0] && bpf->cgroups_fd < 0) {
		snprintf(l->reason, sizeof(l->reason), "needs collector %s", collectors[0]->name);
		return;
	}
	for (size_t i = 0; i < c->attachment_count; i++)
		if (!try_attachment(bpf, l, &c->attachments[i]))
			return;
}

static uint32_t power_of_two(uint32_t n)
{
	uint32_t p = 1;

	while (p < n)
		p *= 2;
	return p;
}

int kpod_bpf_describe(struct kpod_bpf *bpf)
{
	memset(bpf, 0, sizeof(*bpf));
	bpf->cgroups_fd = bpf->free_slots_fd = -1;
	bpf->loaded = calloc(KPOD_COUNT(collectors), sizeof(*bpf->loaded));
	if (!bpf->loaded)
		return -ENOMEM;
	bpf->loaded_count = KPOD_COUNT(collectors);
	for (size_t i = 0; i < bpf->loaded_count; i++)
		bpf->loaded[i].collector = collectors[i];
	return 0;
}

int kpod_bpf_open(struct kpod_bpf *bpf, const struct kpod_options *o)
{
	uint32_t row_bytes = 0;
	int err = kpod_bpf_describe(bpf);

	if (err)
		return err;
	verbose = o->verbose;
	libbpf_set_print(on_libbpf);
	bpf->cpus = libbpf_num_possible_cpus();
	if (bpf->cpus < 1)
		return bpf->cpus ? bpf->cpus : -EINVAL;
	bpf->max_containers =
		(o->max_containers + KPOD_WINDOW_SLOTS) / KPOD_WINDOW_SLOTS * KPOD_WINDOW_SLOTS;
	for (size_t i = 0; i < bpf->loaded_count; i++)
		for (size_t t = 0; t < collectors[i]->table_count; t++)
			row_bytes += collectors[i]->tables[t].row_size;
	bpf->config.shards = power_of_two((uint32_t)bpf->cpus);
	while (bpf->config.shards > 1 &&
	       (uint64_t)bpf->config.shards * bpf->max_containers * row_bytes > ROWS_BUDGET)
		bpf->config.shards /= 2;
	bpf->config.shared = bpf->config.shards < (uint32_t)bpf->cpus;
	bpf->config.pods_only = o->pods_only;

	for (size_t i = 0; i < bpf->loaded_count; i++) {
		struct kpod_loaded *l = &bpf->loaded[i];

		load(bpf, l, o);
		if (i == 0 && l->attachment) {
			err = adopt_shared_maps(bpf, l);
			if (err)
				return err;
		}
	}
	return 0;
}

void kpod_bpf_close(struct kpod_bpf *bpf)
{
	for (size_t i = bpf->loaded_count; i-- > 0;)
		unload(&bpf->loaded[i]);
	if (bpf->control)
		munmap(bpf->control, sizeof(*bpf->control));
	if (bpf->slots.window)
		rows_close(&bpf->slots);
	free(bpf->loaded);
	memset(bpf, 0, sizeof(*bpf));
}

void kpod_bpf_flush(struct kpod_bpf *bpf)
{
	for (size_t i = 0; i < bpf->loaded_count; i++) {
		for (size_t p = 0; p < bpf->loaded[i].per_cpu_count; p++) {
			for (int cpu = 0; cpu < bpf->cpus; cpu++) {
				LIBBPF_OPTS(bpf_test_run_opts, opts, .flags = BPF_F_TEST_RUN_ON_CPU,
					    .cpu = (uint32_t)cpu);
				int err = bpf_prog_test_run_opts(bpf->loaded[i].per_cpu[p], &opts);

				if (err && err != -ENXIO) /* ENXIO: the CPU is offline */
					bpf->flush_failures++;
			}
		}
	}
}
