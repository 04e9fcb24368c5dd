/* SPDX-License-Identifier: Apache-2.0 */
#define _GNU_SOURCE
#include "sources/tasks.h"
#include "base/clock.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <bpf/bpf.h>
#include <bpf/libbpf.h>

#include "base/parse.h"
#include "cgroups/slots.h"

#define STARTTIME 22 /* field of /proc/PID/stat (proc(5)), in clock ticks since boot */
#define COMM 2	     /* ends with the last ')' */

/* Enough for two walks over as many processes as Linux can have (PID_MAX_LIMIT, 4,194,304). */
#define SLICES_MAX 8192

/* How many PID namespaces below the procfs's we are: one number of ours for each, and one more. */
static int find_depth(int proc)
{
	struct kpod_span text, line, word;
	char buffer[8192];
	ssize_t size = kpod_task_read(proc, "self/status", buffer, sizeof(buffer));
	int depth = -1;

	if (size < 0)
		return (int)size;
	text = (struct kpod_span){buffer, (size_t)size};
	while (kpod_next_line(&text, &line)) {
		if (!kpod_next_word(&line, &word) || !kpod_span_is(word, "NSpid:"))
			continue;
		while (kpod_next_word(&line, &word))
			depth++;
		return depth;
	}
	return -ENOENT;
}

static void *map_memory(const struct kpod_loaded *l, const char *name, size_t size)
{
	int fd = bpf_object__find_map_fd_by_name(l->object, name);
	void *at = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);

	return at == MAP_FAILED ? NULL : at;
}

struct kpod_tasks_answer {
	pthread_mutex_t lock; /* of all but users; the walk holds it too, and never blocks */
	size_t users;
	uint64_t snapshot; /* 0: there was none yet */
	bool whole;
	struct kpod_task of[];
};

static struct kpod_tasks_answer *share_answer(struct kpod_bpf *bpf, size_t size)
{
	if (!bpf->tasks) {
		bpf->tasks = calloc(1, sizeof(*bpf->tasks) + size);
		if (!bpf->tasks)
			return NULL;
		pthread_mutex_init(&bpf->tasks->lock, NULL);
	}
	bpf->tasks->users++;
	return bpf->tasks;
}

static void leave_answer(struct kpod_bpf *bpf)
{
	if (--bpf->tasks->users)
		return;
	pthread_mutex_destroy(&bpf->tasks->lock);
	free(bpf->tasks);
	bpf->tasks = NULL;
}

int kpod_tasks_open(struct kpod_tasks *t, struct kpod_loaded *l, struct kpod_bpf *bpf,
		    const struct kpod_options *o)
{
	int depth;

	/* A copy: a thread that does not come back may outlive the collector. */
	t->program = fcntl(bpf_program__fd(bpf_object__find_program_by_name(
				   l->object, l->attachment->steps[0].program)),
			   F_DUPFD_CLOEXEC, 3);
	t->size = bpf->max_containers * sizeof(*t->of);
	t->of = map_memory(l, "tasks", t->size);
	t->walk = map_memory(l, ".bss", sizeof(*t->walk));
	if (t->program < 0 || !t->of || !t->walk)
		return -errno;
	t->last = share_answer(bpf, t->size);
	t->unseen = calloc(bpf->max_containers, sizeof(*t->unseen));
	if (!t->last || !t->unseen)
		return -ENOMEM;
	t->proc = open(o->proc, O_PATH | O_DIRECTORY | O_CLOEXEC);
	depth = t->proc < 0 ? -errno : find_depth(t->proc);
	if (depth < 0) {
		snprintf(l->reason, sizeof(l->reason),
			 "%.150s/self/status: %s: --proc is to be a procfs that shows this process",
			 o->proc, strerror(-depth));
		return depth;
	}
	t->walk->depth = (uint32_t)depth;
	/*
	 * Process 1 is always there, and on a node kthreadd: whoever is not let see them does not
	 * see those of containers either. A security module may hide one of them from everybody.
	 */
	if (faccessat(t->proc, "1", F_OK, 0) && faccessat(t->proc, "2", F_OK, 0)) {
		snprintf(
			l->reason, sizeof(l->reason),
			"%.150s does not show the processes of others (hidepid, proc(5)): it wants "
			"CAP_SYS_PTRACE",
			o->proc);
		return -EACCES;
	}
	return 0;
}

void kpod_tasks_close(struct kpod_tasks *t, struct kpod_bpf *bpf)
{
	if (t->last)
		leave_answer(bpf);
	free(t->unseen);
	if (t->of)
		munmap(t->of, t->size);
	if (t->walk)
		munmap(t->walk, sizeof(*t->walk));
	if (t->proc > 0)
		close(t->proc);
	if (t->program > 0)
		close(t->program);
}

size_t kpod_tasks_begin(struct kpod_tasks *t, struct kpod_slots *slots, struct kpod_task_slot *out)
{
	size_t count = 0;

	t->snapshot = slots->bpf->snapshots;
	for (uint32_t slot = 1; slot < slots->scanned; slot++) {
		const struct kpod_slot_info *info = kpod_slot_info(slots, slot);

		if (info && slots->visible[slot] && !info->died_ns)
			out[count++] = (struct kpod_task_slot){slot, info->generation, info->kind};
	}
	return count;
}

/* Runs the program until it has seen all processes. Between the runs, others get the CPU. */
static bool walk(struct kpod_tasks *t)
{
	LIBBPF_OPTS(bpf_test_run_opts, opts);

	memset(t->of, 0, t->size);
	t->walk->slice = t->walk->done = 0;
	while (!t->walk->done)
		if (t->walk->slice == SLICES_MAX || bpf_prog_test_run_opts(t->program, &opts))
			return false;
	return t->of[0].since_ns;
}

bool kpod_tasks_find(struct kpod_tasks *t, struct kpod_bpf *bpf)
{
	struct kpod_tasks_answer *last = t->last;
	bool whole;

	pthread_mutex_lock(&last->lock);
	if (last->snapshot < t->snapshot) {
		last->whole = walk(t);
		last->snapshot = t->snapshot;
		memcpy(last->of, t->of, t->size);
		if (!last->whole)
			__atomic_fetch_add(&bpf->walk_failures, 1, __ATOMIC_RELAXED);
	} else {
		memcpy(t->of, last->of, t->size);
	}
	whole = last->whole;
	pthread_mutex_unlock(&last->lock);
	return whole;
}

/* Whether the process with this number is still the one that was found. */
static bool is_same(int directory, uint64_t start_ns)
{
	uint64_t tick = KPOD_SECOND / (uint64_t)sysconf(_SC_CLK_TCK), started = 0;
	struct kpod_field field = {.at = STARTTIME - COMM - 1};
	char text[1024];
	ssize_t size = kpod_task_read(directory, "stat", text, sizeof(text));
	const char *name_end = size < 0 ? NULL : memrchr(text, ')', (size_t)size);

	if (!name_end)
		return false;
	name_end++;
	kpod_parse((struct kpod_span){name_end, (size_t)(text + size - name_end)}, &field, 1,
		   &started);
	return started == start_ns / tick;
}

int kpod_task_open(int proc, uint32_t pid, uint64_t start_ns)
{
	char number[16];
	int fd;

	snprintf(number, sizeof(number), "%u", pid);
	fd = openat(proc, number, O_PATH | O_DIRECTORY | O_CLOEXEC);
	if (fd < 0)
		return errno == ENOENT ? -ESRCH : -errno;
	if (is_same(fd, start_ns))
		return fd;
	close(fd);
	return -ESRCH;
}

int kpod_tasks_open_process(struct kpod_tasks *t, uint32_t slot)
{
	const struct kpod_task *task = &t->of[slot];
	int fd = kpod_task_open(t->proc, task->pid, task->start_ns);

	if (fd == -ESRCH && t->unseen[slot] == task->start_ns)
		return -EACCES;
	t->unseen[slot] = fd == -ESRCH ? task->start_ns : 0;
	return fd;
}

ssize_t kpod_task_read(int directory, const char *file, char *text, size_t room)
{
	int fd = openat(directory, file, O_RDONLY | O_CLOEXEC);
	size_t size = 0;
	ssize_t n = 1;

	if (fd < 0)
		return -errno;
	while (n > 0 && size < room) {
		n = read(fd, text + size, room - size);
		size += n > 0 ? (size_t)n : 0;
	}
	n = n < 0 ? -errno : (ssize_t)size;
	close(fd);
	return n;
}
