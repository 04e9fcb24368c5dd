/* SPDX-License-Identifier: Apache-2.0 */
#define _GNU_SOURCE
#include "sources/cgroupwalk.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include <bpf/bpf.h>
#include <bpf/libbpf.h>

#include "base/clock.h"
#include "cgroups/slots.h"
#include "kernel/load.h"
#include "sources/cgroupfs.h"

enum { FIND, WALK }; /* steps of the attachment */

struct walk {
	const struct kpod_cgroup_walk *spec;
	struct kpod_walk *shared; /* with the programs: mapped */
	struct kpod_rows rows;
	struct bpf_link *root, *all; /* of the finder */
	int program;		     /* the reader */
	int flush;		     /* the file that is read first; -1: none */
	uint64_t *sought;	     /* by slot: the cgroup that the finder was last run for */
};

/*
 * Runs the finder: on all cgroups if there is a slot whose cgroup it was not run for yet, else on
 * the root alone. It does not find every slot's cgroup: the members of a group of units have none
 * of their own.
 */
static int find(struct walk *w, struct kpod_slots *slots)
{
	struct bpf_link *link = w->root;
	int err;

	for (uint32_t slot = 1; slot < slots->scanned; slot++) {
		const struct kpod_slot_info *info = kpod_slot_info(slots, slot);

		if (info && slots->visible[slot] && !info->died_ns &&
		    w->sought[slot] != info->cgroup_id) {
			w->sought[slot] = info->cgroup_id;
			link = w->all;
		}
	}
	err = kpod_iterate(bpf_link__fd(link));
	if (err) /* so that the next walk looks for all of them again */
		memset(w->sought, 0, slots->scanned * sizeof(*w->sought));
	return err;
}

/* Has the kernel fill in the rows. */
static void walk(struct walk *w, struct kpod_slots *slots)
{
	LIBBPF_OPTS(bpf_test_run_opts, opts);
	uint64_t torn = w->shared->torn;
	char text[4096];

	w->shared->pass++;
	if (w->flush >= 0 && pread(w->flush, text, sizeof(text), 0) < 0)
		slots->bpf->walk_failures++;
	if (find(w, slots))
		slots->bpf->walk_failures++;
	if (w->spec->clock)
		sched_yield();
	for (uint32_t slot = 0; slot < slots->scanned; slot += KPOD_WALK_SLICE) {
		uint32_t rest = slots->scanned - slot;

		w->shared->slot = slot;
		w->shared->slots = rest < KPOD_WALK_SLICE ? rest : KPOD_WALK_SLICE;
		if (bpf_prog_test_run_opts(w->program, &opts))
			slots->bpf->walk_failures++;
	}
	slots->bpf->walk_failures += w->shared->torn - torn;
}

/* False: the cgroup is gone, or was not found. */
static bool take_row(struct walk *w, struct kpod_loaded *l, uint32_t slot,
		     const struct kpod_slot_info *info)
{
	const struct kpod_cgroup_files *files = l->collector->files;
	struct kpod_kept *kept = &l->tables[0].kept;
	struct kpod_walked *found = kpod_rows_of(&w->rows, slot);
	uint64_t *row;

	if (!found || found->cgroup_id != info->cgroup_id ||
	    (!found->ended && (info->died_ns || found->pass != w->shared->pass)))
		return false;
	row = kpod_kept_add(kept, slot, info->generation);
	if (!row)
		return false;
	if (w->spec->finish)
		w->spec->finish(found);
	memcpy(row, found + 1, kept->table->row_size);
	if (files->derive)
		files->derive(row);
	if (found->ended)
		kpod_kept_end(kept, row);
	kpod_kept_settle(kept);
	return true;
}

static void read_all(struct kpod_loaded *l, struct kpod_slots *slots)
{
	struct kpod_kept *kept = &l->tables[0].kept;
	struct walk *w = l->state;

	walk(w, slots);
	kpod_kept_begin(kept);
	for (uint32_t slot = 1; slot < slots->scanned; slot++) {
		const struct kpod_slot_info *info = kpod_slot_info(slots, slot);

		if (info && slots->visible[slot] && !take_row(w, l, slot, info))
			kpod_kept_keep(kept, slot, info->generation, info->died_ns);
	}
}

static void close_walk(struct kpod_loaded *l)
{
	struct walk *w = l->state;

	if (w->flush >= 0)
		close(w->flush);
	bpf_link__destroy(w->root);
	bpf_link__destroy(w->all);
	kpod_rows_close(&w->rows);
	if (w->shared)
		munmap(w->shared, sizeof(*w->shared));
	free(w->sought);
	free(w);
}

static struct bpf_program *program_of(const struct kpod_loaded *l, size_t step)
{
	return bpf_object__find_program_by_name(l->object, l->attachment->steps[step].program);
}

static int attach(const struct kpod_loaded *l, int root, enum bpf_cgroup_iter_order order,
		  struct bpf_link **link)
{
	union bpf_iter_link_info info = {.cgroup = {.order = order, .cgroup_fd = (__u32)root}};
	LIBBPF_OPTS(bpf_iter_attach_opts, opts, .link_info = &info, .link_info_len = sizeof(info));

	*link = bpf_program__attach_iter(program_of(l, FIND), &opts);
	return *link ? 0 : -errno;
}

static int open_walk(struct kpod_loaded *l, struct kpod_slots *slots,
		     const struct kpod_options *options)
{
	struct walk *w = calloc(1, sizeof(*w));
	struct timespec tick;
	void *shared;
	int err, root;

	(void)options;
	if (!w)
		return -ENOMEM;
	l->state = w;
	w->flush = -1;
	w->spec = l->attachment->walk;
	w->program = bpf_program__fd(program_of(l, WALK));
	w->sought = calloc(slots->bpf->max_containers, sizeof(*w->sought));
	if (!w->sought)
		return -ENOMEM;
	err = kpod_rows_open(&w->rows, bpf_object__find_map_fd_by_name(l->object, w->spec->rows),
			     (uint32_t)w->spec->row_size, slots->bpf->max_containers);
	if (err)
		return err;
	shared = mmap(NULL, sizeof(*w->shared), PROT_READ | PROT_WRITE, MAP_SHARED,
		      bpf_object__find_map_fd_by_name(l->object, ".data.walk"), 0);
	if (shared == MAP_FAILED)
		return -errno;
	w->shared = shared;
	w->shared->cpus = (uint32_t)slots->bpf->cpus;
	clock_getres(CLOCK_MONOTONIC_COARSE, &tick); /* TICK_NSEC */
	w->shared->hz =
		(uint32_t)((KPOD_SECOND + (uint64_t)tick.tv_nsec / 2) / (uint64_t)tick.tv_nsec);
	root = open(slots->root, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (root < 0)
		return -errno;
	err = attach(l, root, BPF_CGROUP_ITER_SELF_ONLY, &w->root);
	err = err ? err : attach(l, root, BPF_CGROUP_ITER_DESCENDANTS_PRE, &w->all);
	if (!err && w->spec->flush) {
		w->flush = openat(root, w->spec->flush, O_RDONLY | O_CLOEXEC);
		err = w->flush < 0 ? -errno : 0;
	}
	if (!err)
		kpod_cgroup_note_controller(l, root, slots->root);
	close(root);
	return err;
}

const struct kpod_source kpod_cgroup_walk_source = {
	.open = open_walk, .read = read_all, .close = close_walk};
