/* SPDX-License-Identifier: Apache-2.0 */
#define _GNU_SOURCE
#include "sources/statfs.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <linux/openat2.h>

#include "base/clock.h"
#include "sources/pass.h"

#define STACK_SIZE (64 << 10)
#define SETTLE_NS 5000000ULL /* how often it is seen to whether there are enough threads */
#define FAILURES_MAX 4	     /* mounts that may fail before a volume is left for the next pass */
#define NONE UINT32_MAX

/* One directory of one file system. */
struct volume {
	char device[KPOD_STATFS_DEVICE]; /* its number and the kind of file system */
	size_t root;			 /* its name, in the map's text */
	uint32_t next;			 /* volume of the same hash, or NONE */
	uint32_t first;			 /* mount through which it may be asked, or NONE */
	uint32_t failures;		 /* of mounts, in this pass */
	uint64_t tried_ns;		 /* when it was given to a thread last; 0: never */
	uint64_t answered_ns;
	int err;
	bool done; /* in this pass: it is asked, or was */
	struct kpod_statfs_values values;
};

struct mount {
	uint64_t id; /* of mountinfo */
	uint32_t container, volume;
	uint32_t next; /* mount of the same volume, or NONE */
	size_t point;  /* in the map's text */
	bool hidden;   /* by another mount, as mountinfo tells it */
	bool failed;   /* in this pass: through it, the volume cannot be asked */
};

struct container {
	struct kpod_statfs_container who;
	uint32_t first, count; /* mounts */
};

/* An array that grows. */
struct array {
	void *at;
	size_t count, room;
};

struct kpod_statfs_map {
	struct array containers, mounts, volumes, order, text;
	uint32_t *buckets;
	uint32_t bucket_count; /* a power of two */
	size_t first;	       /* in order: those before are done */
};

/* A thread, and what it is asking. */
struct asker {
	struct kpod_statfs *owner;
	bool exists, asks;
	uint64_t since_ns;
	struct kpod_statfs_container who;
	uint64_t id;
	char device[KPOD_STATFS_DEVICE];
	char root[KPOD_STATFS_POINT], point[KPOD_STATFS_POINT];
};

struct kpod_statfs {
	pthread_mutex_t lock; /* of all below, but for what a thread reads of its own asker */
	pthread_cond_t work, answer;
	int (*look)(void *context, const struct kpod_statfs_container *c);
	void *context;
	struct kpod_statfs_map *map; /* of the last pass, or NULL */
	struct asker askers[KPOD_STATFS_THREADS];
	unsigned int idle;
	bool stop, abandoned; /* abandoned: the last thread frees all this */
};

/* ---- the map -------------------------------------------------------------------------------- */

/* NULL: no memory. */
static void *grow(struct array *a, size_t more, size_t size)
{
	if (a->count + more > a->room) {
		size_t room = a->room ? 2 * a->room : 64;
		void *larger;

		while (room < a->count + more)
			room *= 2;
		larger = reallocarray(a->at, room, size);
		if (!larger)
			return NULL;
		a->at = larger;
		a->room = room;
	}
	a->count += more;
	return (char *)a->at + (a->count - more) * size;
}

static struct volume *volume_at(const struct kpod_statfs_map *m, uint32_t i)
{
	return (struct volume *)m->volumes.at + i;
}

static struct mount *mount_at(const struct kpod_statfs_map *m, uint32_t i)
{
	return (struct mount *)m->mounts.at + i;
}

static struct container *container_at(const struct kpod_statfs_map *m, uint32_t i)
{
	return (struct container *)m->containers.at + i;
}

static const char *text_at(const struct kpod_statfs_map *m, size_t at)
{
	return (const char *)m->text.at + at;
}

struct kpod_statfs_map *kpod_statfs_map_new(void)
{
	return calloc(1, sizeof(struct kpod_statfs_map));
}

void kpod_statfs_map_free(struct kpod_statfs_map *m)
{
	if (!m)
		return;
	free(m->containers.at);
	free(m->mounts.at);
	free(m->volumes.at);
	free(m->order.at);
	free(m->text.at);
	free(m->buckets);
	free(m);
}

bool kpod_statfs_map_container(struct kpod_statfs_map *m, const struct kpod_statfs_container *who)
{
	struct container *c = grow(&m->containers, 1, sizeof(*c));

	if (!c)
		return false;
	*c = (struct container){.who = *who, .first = (uint32_t)m->mounts.count};
	return true;
}

/* FNV-1a, over both with their NULs. */
static uint32_t hash(const char *device, const char *root)
{
	uint32_t h = 2166136261u;
	const char *const texts[] = {device, root};

	for (size_t i = 0; i < 2; i++) {
		const char *at = texts[i];

		do
			h = (h ^ (unsigned char)*at) * 16777619u;
		while (*at++);
	}
	return h;
}

static bool rehash(struct kpod_statfs_map *m)
{
	uint32_t count = m->bucket_count ? 2 * m->bucket_count : 256;
	uint32_t *buckets = malloc(count * sizeof(*buckets));

	if (!buckets)
		return false;
	memset(buckets, 0xff, count * sizeof(*buckets));
	for (uint32_t i = 0; i < m->volumes.count; i++) {
		struct volume *v = volume_at(m, i);
		uint32_t *bucket = &buckets[hash(v->device, text_at(m, v->root)) & (count - 1)];

		v->next = *bucket;
		*bucket = i;
	}
	free(m->buckets);
	m->buckets = buckets;
	m->bucket_count = count;
	return true;
}

static uint32_t find_volume(const struct kpod_statfs_map *m, const char *device, const char *root)
{
	uint32_t i =
		m->bucket_count ? m->buckets[hash(device, root) & (m->bucket_count - 1)] : NONE;

	while (i != NONE && (strcmp(volume_at(m, i)->device, device) ||
			     strcmp(text_at(m, volume_at(m, i)->root), root)))
		i = volume_at(m, i)->next;
	return i;
}

static uint32_t add_volume(struct kpod_statfs_map *m, const char *device, size_t root)
{
	uint32_t i = (uint32_t)m->volumes.count, *bucket;
	struct volume *v;

	if (m->volumes.count >= m->bucket_count && !rehash(m))
		return NONE;
	v = grow(&m->volumes, 1, sizeof(*v));
	if (!v)
		return NONE;
	*v = (struct volume){.root = root, .first = NONE};
	memcpy(v->device, device, sizeof(v->device));
	bucket = &m->buckets[hash(device, text_at(m, root)) & (m->bucket_count - 1)];
	v->next = *bucket;
	*bucket = i;
	return i;
}

/* Unescaped, with its NUL; where it stands in `at`. */
static int add_text(struct kpod_statfs_map *m, struct kpod_span span, size_t *at)
{
	char text[KPOD_STATFS_POINT], *copy;
	size_t size;

	if (!kpod_unescape(span, text, sizeof(text)))
		return -ENAMETOOLONG;
	size = strlen(text) + 1;
	copy = grow(&m->text, size, 1);
	if (!copy)
		return -ENOMEM;
	memcpy(copy, text, size);
	*at = (size_t)(copy - (char *)m->text.at);
	return 0;
}

int kpod_statfs_map_mount(struct kpod_statfs_map *m, const struct kpod_mount *line, bool hidden)
{
	struct container *c = container_at(m, (uint32_t)m->containers.count - 1);
	char device[KPOD_STATFS_DEVICE] = "";
	struct mount new = {.container = (uint32_t)m->containers.count - 1, .hidden = hidden};
	size_t root, text = m->text.count;
	struct mount *added;
	struct volume *v;
	int err;

	if (c->count == KPOD_STATFS_MOUNTS)
		return -E2BIG;
	if (!kpod_number(line->id, &new.id) ||
	    snprintf(device, sizeof(device), "%.*s %.*s", (int)line->device.size, line->device.at,
		     (int)line->type.size, line->type.at) >= (int)sizeof(device))
		return -ENAMETOOLONG;
	err = add_text(m, line->point, &new.point);
	err = err ? err : add_text(m, line->root, &root);
	if (err) {
		m->text.count = text;
		return err;
	}
	new.volume = find_volume(m, device, text_at(m, root));
	if (new.volume != NONE)
		m->text.count = root; /* its name is there already */
	else
		new.volume = add_volume(m, device, root);
	added = new.volume == NONE ? NULL : grow(&m->mounts, 1, sizeof(*added));
	if (!added)
		return -ENOMEM;
	v = volume_at(m, new.volume);
	new.next = v->first;
	if (!new.hidden)
		v->first = (uint32_t)m->mounts.count - 1;
	*added = new;
	c->count++;
	return 0;
}

/* ---- asking --------------------------------------------------------------------------------- */

/*
 * Through the process's root, so it is its mount namespace; and never out of it again, whatever
 * links the container makes there. The id says whether this mount is what one sees at this path.
 */
static int ask_mount(int process, const struct asker *a, struct kpod_statfs_values *values)
{
	struct open_how how = {
		.flags = O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC,
		.resolve = RESOLVE_IN_ROOT | RESOLVE_NO_SYMLINKS,
	};
	int root = openat(process, "root", O_PATH | O_DIRECTORY | O_CLOEXEC);
	int fd = root < 0 ? -1 : (int)syscall(SYS_openat2, root, a->point, &how, sizeof(how));
	int err = fd < 0 ? -errno : 0;
	struct statx stx;
	struct statfs st;

	if (root >= 0)
		close(root);
	if (err)
		return err;
	if (statx(fd, "", AT_EMPTY_PATH | AT_STATX_DONT_SYNC, STATX_MNT_ID, &stx) ||
	    fstatfs(fd, &st))
		err = -errno;
	else if (stx.stx_mnt_id != a->id)
		err = -ENOENT;
	close(fd);
	if (err)
		return err;
	*values = kpod_statfs_values(&st);
	return 0;
}

/* Of a number that may be negative, and of no more than there is. */
static uint64_t at_most(uint64_t all, uint64_t part)
{
	return (int64_t)part < 0 ? 0 : part < all ? part : all;
}

struct kpod_statfs_values kpod_statfs_values(const struct statfs *said)
{
	uint64_t blocks = said->f_blocks, size = (uint64_t)said->f_frsize;
	bool knows_inodes = said->f_ffree <= said->f_files;

	return (struct kpod_statfs_values){
		.size = blocks * size,
		.free = at_most(blocks, said->f_bfree) * size,
		.available = at_most(blocks, said->f_bavail) * size,
		.inodes = knows_inodes && (int64_t)said->f_files > 0 ? said->f_files : 0,
		.inodes_free = knows_inodes ? said->f_ffree : 0,
	};
}

/* Whether a thread may ask through this container, and of this device, now. */
static bool is_allowed(const struct kpod_statfs *s, const struct kpod_statfs_container *who,
		       const char *device)
{
	unsigned int container = 0, same_device = 0;

	for (size_t i = 0; i < KPOD_STATFS_THREADS; i++) {
		const struct asker *a = &s->askers[i];
		bool same = a->asks && !strcmp(a->device, device);

		if (!a->asks)
			continue;
		if (a->who.slot == who->slot && a->who.generation == who->generation) {
			container++;
			if (same)
				return false;
		}
		same_device += same;
	}
	return container < KPOD_STATFS_PER_CONTAINER && same_device < KPOD_STATFS_PER_CONTAINER;
}

/* The mount through which this volume can be asked now, or NONE. */
static uint32_t candidate_of(const struct kpod_statfs *s, const struct volume *v)
{
	for (uint32_t i = v->first; i != NONE; i = mount_at(s->map, i)->next)
		if (!mount_at(s->map, i)->failed &&
		    is_allowed(s, &container_at(s->map, mount_at(s->map, i)->container)->who,
			       v->device))
			return i;
	return NONE;
}

/* Whether it is this mount of this container. */
static bool is_mount(const struct kpod_statfs_map *m, const struct mount *mount, uint64_t id,
		     const struct kpod_statfs_container *who)
{
	const struct kpod_statfs_container *its = &container_at(m, mount->container)->who;

	return mount->id == id && its->slot == who->slot && its->generation == who->generation;
}

/* Of a volume, the mount that was asked. NULL: it is another volume, which has its number now. */
static struct mount *asked_mount(const struct kpod_statfs_map *m, const struct volume *v,
				 const struct asker *a)
{
	for (uint32_t i = v->first; i != NONE; i = mount_at(m, i)->next)
		if (is_mount(m, mount_at(m, i), a->id, &a->who))
			return mount_at(m, i);
	return NULL;
}

/* Another container may see what this one does not. False: there is none to ask. */
static bool ask_another(struct kpod_statfs_map *m, struct volume *v)
{
	bool another = false;

	for (uint32_t i = v->first; i != NONE && !another; i = mount_at(m, i)->next)
		another = !mount_at(m, i)->failed;
	v->failures++;
	v->done = !another || v->failures >= FAILURES_MAX;
	m->first = 0;
	return !v->done;
}

/* A mount to ask, NONE if there is none at this time. */
static uint32_t pick(struct kpod_statfs *s)
{
	struct kpod_statfs_map *m = s->map;
	const uint32_t *order = m ? m->order.at : NULL;

	while (m && m->first < m->order.count && volume_at(m, order[m->first])->done)
		m->first++;
	for (size_t i = m ? m->first : 0; m && i < m->order.count; i++) {
		struct volume *v = volume_at(m, order[i]);
		uint32_t mount = v->done ? NONE : candidate_of(s, v);

		if (mount != NONE)
			return mount;
	}
	return NONE;
}

static void take(struct kpod_statfs *s, struct asker *a, uint32_t number)
{
	const struct mount *mount = mount_at(s->map, number);
	struct volume *v = volume_at(s->map, mount->volume);

	v->done = true;
	v->tried_ns = a->since_ns = kpod_clock(CLOCK_MONOTONIC);
	a->who = container_at(s->map, mount->container)->who;
	a->id = mount->id;
	memcpy(a->device, v->device, sizeof(a->device));
	strcpy(a->root, text_at(s->map, v->root));
	strcpy(a->point, text_at(s->map, mount->point));
	a->asks = true;
}

/* Into the map of now, which may be a later one. */
static void put(struct kpod_statfs *s, const struct asker *a, int err,
		const struct kpod_statfs_values *values)
{
	uint32_t i = s->map ? find_volume(s->map, a->device, a->root) : NONE;
	struct volume *v = i == NONE ? NULL : volume_at(s->map, i);
	struct mount *mount = v ? asked_mount(s->map, v, a) : NULL;

	if (!mount)
		return;
	mount->failed = err;
	if (err && ask_another(s->map, v))
		return;
	v->err = err;
	v->answered_ns = kpod_clock(CLOCK_MONOTONIC);
	if (!err)
		v->values = *values;
}

static void free_all(struct kpod_statfs *s)
{
	kpod_statfs_map_free(s->map);
	free(s);
}

static void *run(void *argument)
{
	struct asker *a = argument;
	struct kpod_statfs *s = a->owner;
	bool last = true;

	pthread_mutex_lock(&s->lock);
	while (!s->stop) {
		struct kpod_statfs_values values = {};
		uint32_t mount = pick(s);
		int process, err;

		if (mount == NONE) {
			if (s->idle >= KPOD_STATFS_IDLE_THREADS)
				break;
			s->idle++;
			pthread_cond_wait(&s->work, &s->lock);
			s->idle--;
			continue;
		}
		take(s, a, mount);
		pthread_mutex_unlock(&s->lock);
		process = s->look(s->context, &a->who);
		err = process < 0 ? process : ask_mount(process, a, &values);
		if (process >= 0)
			close(process);
		pthread_mutex_lock(&s->lock);
		a->asks = false;
		put(s, a, err, &values);
		pthread_cond_signal(&s->answer);
	}
	a->exists = false;
	for (size_t i = 0; i < KPOD_STATFS_THREADS; i++)
		last &= !s->askers[i].exists;
	pthread_cond_signal(&s->answer);
	last &= s->abandoned;
	pthread_mutex_unlock(&s->lock);
	if (last)
		free_all(s);
	return NULL;
}

struct kpod_statfs *
kpod_statfs_new(int (*look)(void *context, const struct kpod_statfs_container *c), void *context)
{
	struct kpod_statfs *s = calloc(1, sizeof(*s));
	pthread_condattr_t monotonic;

	if (!s)
		return NULL;
	s->look = look;
	s->context = context;
	pthread_condattr_init(&monotonic);
	pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
	pthread_mutex_init(&s->lock, NULL);
	pthread_cond_init(&s->work, NULL);
	pthread_cond_init(&s->answer, &monotonic);
	pthread_condattr_destroy(&monotonic);
	return s;
}

static bool are_all_gone(const struct kpod_statfs *s)
{
	for (size_t i = 0; i < KPOD_STATFS_THREADS; i++)
		if (s->askers[i].exists)
			return false;
	return true;
}

static bool wait_until(struct kpod_statfs *s, uint64_t until_ns)
{
	struct timespec until = {(time_t)(until_ns / KPOD_SECOND), (long)(until_ns % KPOD_SECOND)};

	return !pthread_cond_timedwait(&s->answer, &s->lock, &until);
}

bool kpod_statfs_free(struct kpod_statfs *s)
{
	uint64_t until = kpod_clock(CLOCK_MONOTONIC) + KPOD_PASS_PATIENCE_NS;
	bool gone;

	pthread_mutex_lock(&s->lock);
	s->stop = true;
	pthread_cond_broadcast(&s->work);
	while (!are_all_gone(s) && wait_until(s, until))
		;
	gone = are_all_gone(s);
	s->abandoned = !gone;
	pthread_mutex_unlock(&s->lock);
	if (gone)
		free_all(s);
	return gone;
}

/* One more, if there is room. */
static void add_thread(struct kpod_statfs *s)
{
	pthread_attr_t attr;
	pthread_t thread;
	size_t i = 0;

	while (i < KPOD_STATFS_THREADS && s->askers[i].exists)
		i++;
	if (i == KPOD_STATFS_THREADS)
		return;
	s->askers[i] = (struct asker){.owner = s, .exists = true};
	pthread_attr_init(&attr);
	pthread_attr_setstacksize(&attr, STACK_SIZE);
	pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
	s->askers[i].exists = !pthread_create(&thread, &attr, run, &s->askers[i]);
	pthread_attr_destroy(&attr);
}

/*
 * Whether it is the volume of the last pass, and not one that has its device's number now: then one
 * of its mounts is the same. Of each, the mounts are in the order of slots, the last first.
 */
static bool is_same_volume(const struct kpod_statfs_map *m, const struct volume *v,
			   const struct kpod_statfs_map *old, const struct volume *o)
{
	uint32_t i = v->first, j = o->first;

	while (i != NONE && j != NONE) {
		const struct mount *now = mount_at(m, i), *then = mount_at(old, j);
		const struct kpod_statfs_container *who = &container_at(m, now->container)->who;

		if (is_mount(old, then, now->id, who))
			return true;
		if (container_at(old, then->container)->who.slot > who->slot)
			j = then->next;
		else
			i = now->next;
	}
	return false;
}

static void keep_answers(struct kpod_statfs_map *m, const struct kpod_statfs_map *old)
{
	for (uint32_t i = 0; old && i < m->volumes.count; i++) {
		struct volume *v = volume_at(m, i);
		uint32_t was = find_volume(old, v->device, text_at(m, v->root));
		const struct volume *o = was == NONE ? NULL : volume_at(old, was);

		if (!o || !is_same_volume(m, v, old, o))
			continue;
		v->tried_ns = o->tried_ns;
		v->answered_ns = o->answered_ns;
		v->err = o->err;
		v->values = o->values;
	}
}

static int by_time_tried(const void *a, const void *b, void *map)
{
	uint64_t x = volume_at(map, *(const uint32_t *)a)->tried_ns;
	uint64_t y = volume_at(map, *(const uint32_t *)b)->tried_ns;

	return (x > y) - (x < y);
}

void kpod_statfs_ask(struct kpod_statfs *s, struct kpod_statfs_map *map)
{
	struct kpod_statfs_map *old;
	uint32_t *order =
		map->volumes.count ? grow(&map->order, map->volumes.count, sizeof(*order)) : NULL;

	for (uint32_t i = 0; order && i < map->volumes.count; i++)
		order[i] = i;
	pthread_mutex_lock(&s->lock);
	old = s->map;
	keep_answers(map, old);
	/* What the last pass did not come to is first now. */
	if (order)
		qsort_r(order, map->volumes.count, sizeof(*order), by_time_tried, map);
	s->map = map;
	pthread_cond_broadcast(&s->work);
	if (order && !s->idle)
		add_thread(s);
	pthread_mutex_unlock(&s->lock);
	kpod_statfs_map_free(old);
}

bool kpod_statfs_is_settled(struct kpod_statfs *s)
{
	bool settled;
	uint64_t now;

	pthread_mutex_lock(&s->lock);
	now = kpod_clock(CLOCK_MONOTONIC); /* with the lock: no time under it is later */
	settled = pick(s) == NONE;
	for (size_t i = 0; settled && i < KPOD_STATFS_THREADS; i++)
		settled = !s->askers[i].asks || now - s->askers[i].since_ns > KPOD_STATFS_STUCK_NS;
	/* No thread has come back since the last time: one more, for those that others could do. */
	if (!settled && !wait_until(s, now + SETTLE_NS) && !s->idle && pick(s) != NONE)
		add_thread(s);
	pthread_mutex_unlock(&s->lock);
	return settled;
}

static bool is_being_asked(const struct kpod_statfs *s, const struct volume *v)
{
	for (size_t i = 0; i < KPOD_STATFS_THREADS; i++)
		if (s->askers[i].asks && !strcmp(s->askers[i].device, v->device))
			return true;
	return false;
}

static void see(const struct kpod_statfs *s, const struct volume *v, uint64_t now,
		struct kpod_statfs_seen *seen)
{
	bool known = v->answered_ns && now - v->answered_ns < KPOD_ANSWER_AGE_MAX_NS;

	seen->err = v->err;
	seen->values = v->values;
	if (!known)
		seen->state = is_being_asked(s, v) ? KPOD_STATFS_WAITING : KPOD_STATFS_UNASKED;
	else
		seen->state = v->err ? KPOD_STATFS_FAILED : KPOD_STATFS_ANSWERED;
}

void kpod_statfs_visit(struct kpod_statfs *s,
		       void (*visit)(void *context, const struct kpod_statfs_seen *seen),
		       void *context)
{
	struct kpod_statfs_map *m;
	uint64_t now;

	pthread_mutex_lock(&s->lock);
	now = kpod_clock(CLOCK_MONOTONIC); /* with the lock: no answer is later */
	m = s->map;
	for (uint32_t i = 0; m && i < m->mounts.count; i++) {
		const struct mount *mount = mount_at(m, i);
		const struct container *c = container_at(m, mount->container);
		struct kpod_statfs_seen seen = {.slot = c->who.slot,
						.generation = c->who.generation,
						.point = text_at(m, mount->point)};

		if (mount->hidden)
			continue;
		see(s, volume_at(m, mount->volume), now, &seen);
		visit(context, &seen);
	}
	pthread_mutex_unlock(&s->lock);
}
