/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the BPF programs cost, and what is done when that is too much.
 *
 * The kernel's statistics of run time cost about as much as a small program each time it runs, so
 * they are on in one tick of ten; what they say of it is taken to be true of all ten.
 */
#include <errno.h>
#include <malloc.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <bpf/bpf.h>
#include <bpf/libbpf.h>

#include "base/clock.h"
#include "base/log.h"
#include "kernel/governor.h"

#define PERIOD 10	 /* ticks from one window to the next */
#define PATIENCE 6	 /* calm windows before a collector comes back, … */
#define PATIENCE_MAX 360 /* … and no more than so many, however often it goes again */

static struct kpod_program *program_of(struct kpod_loaded *l, const char *name)
{
	struct kpod_program *more;

	for (size_t i = 0; i < l->program_count; i++)
		if (!strncmp(l->programs[i].name, name, sizeof(more->name)))
			return &l->programs[i];
	more = realloc(l->programs, (l->program_count + 1) * sizeof(*more));
	if (!more)
		return NULL;
	l->programs = more;
	more += l->program_count++;
	memset(more, 0, sizeof(*more));
	memcpy(more->name, name, strnlen(name, sizeof(more->name)));
	return more;
}

/* Of other programs a miss loses nothing: they are not attached, or another stands in. */
static bool is_counting(const struct kpod_loaded *l, const char *name)
{
	const struct kpod_attachment *a = l->attachment;

	for (size_t i = 0; a && i < a->step_count; i++)
		if (a->steps[i].kind == KPOD_ATTACH && !strcmp(a->steps[i].program, name))
			return true;
	return false;
}

/*
 * What each program has missed since it was looked at last; and, if the statistics are on or were,
 * what it has done since then, which stands for `scale` times as much. Returns its run time.
 */
static uint64_t read_program_stats(struct kpod_loaded *l, bool runs, double scale)
{
	struct bpf_program *program;
	uint64_t cost = 0;

	if (!l->object)
		return 0;
	bpf_object__for_each_program (program, l->object) {
		struct bpf_prog_info info = {};
		__u32 size = sizeof(info);
		struct kpod_program *p;

		if (bpf_program__fd(program) < 0 ||
		    bpf_obj_get_info_by_fd(bpf_program__fd(program), &info, &size))
			continue;
		p = program_of(l, bpf_program__name(program));
		if (!p)
			continue;
		if (info.id != p->id) { /* it was loaded anew */
			p->id = info.id;
			p->seen_ns = p->seen_runs = p->seen_misses = 0;
		}
		if (is_counting(l, bpf_program__name(program)))
			p->misses += info.recursion_misses - p->seen_misses;
		p->seen_misses = info.recursion_misses;
		if (!runs)
			continue;
		cost += info.run_time_ns - p->seen_ns;
		p->run_ns += (uint64_t)((double)(info.run_time_ns - p->seen_ns) * scale);
		p->runs += (uint64_t)((double)(info.run_cnt - p->seen_runs) * scale);
		p->seen_ns = info.run_time_ns;
		p->seen_runs = info.run_cnt;
	}
	return cost;
}

void kpod_programs_read(struct kpod_bpf *bpf)
{
	for (size_t i = 0; i < bpf->loaded_count; i++)
		read_program_stats(&bpf->loaded[i], false, 0);
}

/* Kernel memory of a descriptor's map, as proc(5) has it in fdinfo. */
static uint64_t map_bytes(int fd)
{
	unsigned long long bytes = 0;
	char path[64], line[128];
	FILE *f;

	snprintf(path, sizeof(path), "/proc/self/fdinfo/%d", fd);
	f = fopen(path, "re");
	while (f && fgets(line, sizeof(line), f))
		if (sscanf(line, "memlock: %llu", &bytes) == 1)
			break;
	if (f)
		fclose(f);
	return bytes;
}

/* Maps that all share are those of the first collector. */
static void measure_maps(struct kpod_loaded *l)
{
	struct bpf_map *map;

	l->map_bytes = 0;
	if (!l->object) { /* it is shed: what is there still */
		for (size_t i = 0; l->tables && i < l->collector->table_count; i++)
			l->map_bytes +=
				map_bytes(l->tables[i].rows.fd) + map_bytes(l->tables[i].units.fd);
		return;
	}
	bpf_object__for_each_map (map, l->object) {
		const char *name = bpf_map__name(map);

		if (bpf_map__fd(map) >= 0 && (l->collector->makes_slots ||
					      (strcmp(name, "cgroups") && strcmp(name, "control"))))
			l->map_bytes += map_bytes(bpf_map__fd(map));
	}
}

/* Whether an administrator has switched them on for good. */
static bool always_on(void)
{
	FILE *f = fopen("/proc/sys/kernel/bpf_stats_enabled", "re");
	bool on = f && fgetc(f) == '1';

	if (f)
		fclose(f);
	return on;
}

/* -errno: run time is not measured until the window is closed. */
static int open_window(struct kpod_governor *g)
{
	int err;

	g->window_fd = bpf_enable_stats(BPF_STATS_RUN_TIME);
	err = g->window_fd < 0 ? -errno : 0;
	return err && always_on() ? 0 : err;
}

void kpod_governor_open(struct kpod_governor *g, struct kpod_bpf *bpf, struct kpod_slots *slots,
			const struct kpod_options *o)
{
	int err;

	*g = (struct kpod_governor){.bpf = bpf,
				    .slots = slots,
				    .options = o,
				    .window_fd = -1,
				    .patience = PATIENCE,
				    .closed_ns = kpod_clock(CLOCK_MONOTONIC)};
	for (size_t i = 0; i < bpf->loaded_count; i++)
		measure_maps(&bpf->loaded[i]);
	if (o->max_overhead <= 0)
		return;
	err = open_window(g);
	g->able = !err;
	kpod_governor_close(g);
	if (!g->able)
		kpod_warn(
			"overhead is neither measured nor limited: BPF statistics: %s (they want "
			"CAP_SYS_ADMIN, or sysctl kernel.bpf_stats_enabled=1)",
			strerror(-err));
}

void kpod_governor_close(struct kpod_governor *g)
{
	if (g->window_fd >= 0)
		close(g->window_fd);
	g->window_fd = -1;
}

/* The one that makes the slots is not: all others need it. */
static bool may_be_shed(const struct kpod_loaded *l)
{
	return l->attachment && l->cost_ns && !l->collector->makes_slots &&
	       !l->collector->never_shed;
}

/*
 * The collector whose programs are the cause: what others cost does not matter. Of those that cost
 * at least half as much as the dearest, it is the one of the largest profile, and of these the
 * dearest. A tenth of what all cost is the least that is a gain.
 */
static struct kpod_loaded *to_shed(struct kpod_bpf *bpf, uint64_t all)
{
	struct kpod_loaded *most = NULL;
	uint64_t dearest = 0;

	for (size_t i = 0; i < bpf->loaded_count; i++)
		if (may_be_shed(&bpf->loaded[i]) && bpf->loaded[i].cost_ns > dearest)
			dearest = bpf->loaded[i].cost_ns;
	for (size_t i = 0; dearest >= all / 10 && i < bpf->loaded_count; i++) {
		struct kpod_loaded *l = &bpf->loaded[i];

		if (!may_be_shed(l) || l->cost_ns < dearest / 2)
			continue;
		if (!most || l->collector->profile > most->collector->profile ||
		    (l->collector->profile == most->collector->profile &&
		     l->cost_ns > most->cost_ns))
			most = l;
	}
	return most;
}

static double bound(const struct kpod_options *o, double cpus)
{
	double share = o->max_overhead / 100, floor = o->governor_floor_ms / 1e3 / cpus;

	return share > floor ? share : floor;
}

static bool shed(struct kpod_governor *g, uint64_t all)
{
	struct kpod_loaded *l = to_shed(g->bpf, all);

	g->calm = 0;
	if (!l) {
		if (!g->helpless)
			kpod_warn(
				"BPF programs take %.3g %% of the node's CPU, and no collector is "
				"left to shed",
				100 * g->share);
		g->helpless = true;
		return false;
	}
	/* It was here before, and too much again: wait longer for it. */
	if (l->sheds && g->patience < PATIENCE_MAX)
		g->patience *= 2;
	l->sheds++;
	l->shed_at = ++g->sheds;
	kpod_collector_shed(l);
	snprintf(l->reason, sizeof(l->reason),
		 "shed: its programs took %.3g %% of the node's CPU, those of all collectors "
		 "%.3g %%, and the bound is %.3g %% (--max-overhead)",
		 100 * g->share * (double)l->cost_ns / (double)all, 100 * g->share, 100 * g->bound);
	kpod_warn("collector %s: %s", l->collector->name, l->reason);
	measure_maps(l);
	return true;
}

static bool restore(struct kpod_governor *g)
{
	struct kpod_loaded *last = NULL;
	bool goes_on;

	for (size_t i = 0; i < g->bpf->loaded_count; i++) {
		struct kpod_loaded *l = &g->bpf->loaded[i];

		if (l->shed_at && (!last || l->shed_at > last->shed_at))
			last = l;
	}
	if (!last || ++g->calm < g->patience)
		return false;
	g->calm = 0;
	last->shed_at = 0;
	goes_on = last->tables;
	kpod_collector_load(g->bpf, last, g->slots, g->options);
	malloc_trim(0); /* the kernel's BTF, as at the start */
	if (last->attachment)
		kpod_info("collector %s: back, %s", last->collector->name,
			  goes_on ? "its totals go on" : "its totals are the kernel's");
	else
		kpod_warn("collector %s: down: %s", last->collector->name, last->reason);
	measure_maps(last);
	return true;
}

/* In the last tick of a period the statistics are on; where they cannot be, nothing is judged. */
static void begin_window(struct kpod_governor *g)
{
	int err;

	for (size_t i = 0; i < g->bpf->loaded_count; i++)
		read_program_stats(&g->bpf->loaded[i], true, 0);
	err = open_window(g);
	if (err && err != g->window_err)
		kpod_warn("overhead is not measured now: BPF statistics: %s", strerror(-err));
	g->window_err = err;
	g->opened_ns = err ? 0 : kpod_clock(CLOCK_MONOTONIC);
}

static bool end_window(struct kpod_governor *g)
{
	uint64_t now = kpod_clock(CLOCK_MONOTONIC), all = 0;
	double length = (double)(now - g->opened_ns), cpus = (double)sysconf(_SC_NPROCESSORS_ONLN);
	double scale = (double)(now - g->closed_ns) / length;

	kpod_governor_close(g);
	for (size_t i = 0; i < g->bpf->loaded_count; i++) {
		struct kpod_loaded *l = &g->bpf->loaded[i];

		l->cost_ns = read_program_stats(l, true, scale);
		all += l->cost_ns;
		measure_maps(l);
	}
	g->closed_ns = now;
	g->share = (double)all / length / cpus;
	g->bound = bound(g->options, cpus);
	if (g->share > g->bound)
		return shed(g, all);
	g->helpless = false;
	if (g->share <= g->bound / 2)
		return restore(g);
	g->calm = 0;
	return false;
}

bool kpod_governor_tick(struct kpod_governor *g)
{
	bool window = g->able && g->ticks++ % PERIOD == PERIOD - 1;
	bool changed = false;

	if (g->opened_ns) {
		changed = end_window(g);
		g->opened_ns = 0;
	}
	if (window)
		begin_window(g);
	return changed;
}
