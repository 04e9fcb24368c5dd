/* SPDX-License-Identifier: Apache-2.0 */
#define _GNU_SOURCE
#include "sources/statfs.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include <linux/openat2.h>

#define STACK_SIZE (128 << 10)

/* A thread and its batch, which is the thread's while `asked`. */
struct worker {
	struct kpod_statfs *owner;
	pthread_t thread;
	bool asked, abandoned, stop;
	size_t at; /* the mount that is being asked */
	struct kpod_statfs_batch batch;
};

struct kpod_statfs {
	pthread_mutex_t lock; /* of all below, but for `last`, and of every worker but its batch */
	pthread_cond_t work, answer;
	struct worker *worker;
	struct worker *stuck[KPOD_STATFS_STUCK_MAX];
	struct kpod_statfs_batch last; /* what is known of a batch that was abandoned */
};

/*
 * Through the process's root, so it is its mount namespace; and never out of it again, whatever
 * links the container makes there. The id says whether this mount is what one sees at this path.
 */
static int ask(int root, struct kpod_statfs_mount *m)
{
	struct open_how how = {
		.flags = O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC,
		.resolve = RESOLVE_IN_ROOT | RESOLVE_NO_SYMLINKS,
	};
	int fd = (int)syscall(SYS_openat2, root, m->point, &how, sizeof(how));
	struct statx stx;
	struct statfs st;
	int err = 0;

	if (fd < 0)
		return -errno;
	if (statx(fd, "", AT_EMPTY_PATH | AT_STATX_DONT_SYNC, STATX_MNT_ID, &stx) ||
	    fstatfs(fd, &st))
		err = -errno;
	else if (stx.stx_mnt_id != m->id)
		err = -ENOENT;
	close(fd);
	if (err)
		return err;
	m->size = st.f_blocks * (uint64_t)st.f_frsize;
	m->free = st.f_bfree * (uint64_t)st.f_frsize;
	m->available = st.f_bavail * (uint64_t)st.f_frsize;
	m->inodes = st.f_files;
	m->inodes_free = st.f_ffree;
	return 0;
}

static void answer_batch(struct worker *w)
{
	struct kpod_statfs_batch *b = &w->batch;
	int root = openat(b->process, "root", O_PATH | O_DIRECTORY | O_CLOEXEC);
	int err = root < 0 ? -errno : 0;

	for (size_t i = 0; i < b->count; i++) {
		struct kpod_statfs_mount *m = &b->mounts[i];
		bool abandoned;

		if (m->err != -ETIMEDOUT)
			m->err = err ? err : ask(root, m);
		pthread_mutex_lock(&w->owner->lock);
		abandoned = w->abandoned;
		w->at += !abandoned;
		pthread_mutex_unlock(&w->owner->lock);
		if (abandoned)
			break;
	}
	if (root >= 0)
		close(root);
	close(b->process);
}

static void *run(void *argument)
{
	struct worker *w = argument;
	struct kpod_statfs *s = w->owner;

	pthread_mutex_lock(&s->lock);
	while (!w->stop && !w->abandoned) {
		if (!w->asked) {
			pthread_cond_wait(&s->work, &s->lock);
			continue;
		}
		pthread_mutex_unlock(&s->lock);
		answer_batch(w);
		pthread_mutex_lock(&s->lock);
		w->asked = false;
		pthread_cond_signal(&s->answer);
	}
	for (size_t i = 0; i < KPOD_STATFS_STUCK_MAX; i++)
		if (s->stuck[i] == w)
			s->stuck[i] = NULL;
	pthread_mutex_unlock(&s->lock);
	free(w);
	return NULL;
}

struct kpod_statfs *kpod_statfs_new(void)
{
	struct kpod_statfs *s = calloc(1, sizeof(*s));
	pthread_condattr_t monotonic;

	if (!s)
		return NULL;
	pthread_condattr_init(&monotonic);
	pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
	pthread_mutex_init(&s->lock, NULL);
	pthread_cond_init(&s->work, NULL);
	pthread_cond_init(&s->answer, &monotonic);
	pthread_condattr_destroy(&monotonic);
	return s;
}

void kpod_statfs_free(struct kpod_statfs *s)
{
	size_t stuck = 0;
	pthread_t thread;

	pthread_mutex_lock(&s->lock);
	for (size_t i = 0; i < KPOD_STATFS_STUCK_MAX; i++)
		stuck += s->stuck[i] != NULL;
	if (s->worker) {
		thread = s->worker->thread;
		s->worker->stop = true;
		pthread_cond_broadcast(&s->work);
		pthread_mutex_unlock(&s->lock);
		pthread_join(thread, NULL);
	} else {
		pthread_mutex_unlock(&s->lock);
	}
	if (!stuck) /* else they need it still, should they come back before the process ends */
		free(s);
}

static struct worker *new_worker(struct kpod_statfs *s)
{
	struct worker *w = calloc(1, sizeof(*w));
	pthread_attr_t attr;
	int err;

	if (!w)
		return NULL;
	w->owner = s;
	pthread_attr_init(&attr);
	pthread_attr_setstacksize(&attr, STACK_SIZE);
	err = pthread_create(&w->thread, &attr, run, w);
	pthread_attr_destroy(&attr);
	if (!err)
		return w;
	free(w);
	return NULL;
}

struct kpod_statfs_batch *kpod_statfs_batch(struct kpod_statfs *s)
{
	bool room = false;

	pthread_mutex_lock(&s->lock);
	for (size_t i = 0; i < KPOD_STATFS_STUCK_MAX; i++)
		room |= !s->stuck[i];
	pthread_mutex_unlock(&s->lock);
	if (!s->worker && room)
		s->worker = new_worker(s);
	if (!s->worker)
		return NULL;
	s->worker->batch.count = 0;
	return &s->worker->batch;
}

static bool is_stuck(const struct kpod_statfs *s, const char *device)
{
	for (size_t i = 0; i < KPOD_STATFS_STUCK_MAX; i++)
		if (s->stuck[i] &&
		    !strcmp(s->stuck[i]->batch.mounts[s->stuck[i]->at].device, device))
			return true;
	return false;
}

/* Waits for as long as there is an answer in time. */
static void await(struct kpod_statfs *s, const struct worker *w)
{
	struct timespec end;
	size_t at;

	do {
		at = w->at;
		clock_gettime(CLOCK_MONOTONIC, &end);
		end.tv_sec += KPOD_STATFS_TIMEOUT_SECONDS;
		while (w->asked && !pthread_cond_timedwait(&s->answer, &s->lock, &end))
			;
	} while (w->asked && w->at != at);
}

/* Leaves the worker alone with its batch. Of that, what is answered is kept in `last`. */
static void abandon(struct kpod_statfs *s)
{
	struct worker *w = s->worker;
	size_t i = 0;

	while (s->stuck[i])
		i++;
	s->stuck[i] = w;
	s->worker = NULL;
	w->abandoned = true;
	pthread_detach(w->thread);
	memcpy(s->last.mounts, w->batch.mounts, w->at * sizeof(w->batch.mounts[0]));
	s->last.count = w->at;
}

const struct kpod_statfs_batch *kpod_statfs_ask(struct kpod_statfs *s)
{
	struct worker *w = s->worker;
	const struct kpod_statfs_batch *answers = &w->batch;

	pthread_mutex_lock(&s->lock);
	for (size_t i = 0; i < w->batch.count; i++)
		w->batch.mounts[i].err = is_stuck(s, w->batch.mounts[i].device) ? -ETIMEDOUT : 0;
	w->at = 0;
	w->asked = true;
	pthread_cond_broadcast(&s->work);
	await(s, w);
	if (w->asked) {
		abandon(s);
		answers = &s->last;
	}
	pthread_mutex_unlock(&s->lock);
	return answers;
}
