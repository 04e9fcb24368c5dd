/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Threads that ask file systems: this process's own mounts, as those of several containers. What a
 * container's process does not let us see, or what hangs, is made by the function that opens its
 * directory.
 */
#define _GNU_SOURCE
#include "test.h"

#include <fcntl.h>
#include <pthread.h>
#include <sys/statvfs.h>

#include "base/clock.h"
#include "base/parse.h"
#include "sources/statfs.h"

#define CONTAINERS 8
#define POINT "/dev/shm"

static struct {
	pthread_mutex_t lock;
	pthread_cond_t changed;
	unsigned int looks, inside, most; /* of the container that hangs: now, and at most */
	uint32_t gone, hangs;		  /* slots; 0: none */
	bool released;
} world = {.lock = PTHREAD_MUTEX_INITIALIZER, .changed = PTHREAD_COND_INITIALIZER};

/* The thread loses the CPU just after it has read the clock. */
static __thread bool is_interrupted;

uint64_t kpod_clock(clockid_t clock)
{
	struct timespec now;

	clock_gettime(clock, &now);
	if (is_interrupted)
		usleep(2000);
	return (uint64_t)now.tv_sec * KPOD_SECOND + (uint64_t)now.tv_nsec;
}

static int look(void *context, const struct kpod_statfs_container *c)
{
	bool gone;

	(void)context;
	pthread_mutex_lock(&world.lock);
	world.looks++;
	gone = c->slot == world.gone;
	if (c->slot == world.hangs) {
		world.inside++;
		if (world.inside > world.most)
			world.most = world.inside;
		while (!world.released)
			pthread_cond_wait(&world.changed, &world.lock);
		world.inside--;
		pthread_cond_broadcast(&world.changed);
	}
	pthread_mutex_unlock(&world.lock);
	return gone ? -ESRCH : open("/proc/self", O_PATH | O_DIRECTORY | O_CLOEXEC);
}

static void let(uint32_t gone, uint32_t hangs)
{
	pthread_mutex_lock(&world.lock);
	world.gone = gone;
	world.hangs = hangs;
	pthread_mutex_unlock(&world.lock);
}

static void release(void)
{
	pthread_mutex_lock(&world.lock);
	world.released = true;
	pthread_cond_broadcast(&world.changed);
	pthread_mutex_unlock(&world.lock);
}

static unsigned int looks(void)
{
	unsigned int count;

	pthread_mutex_lock(&world.lock);
	count = world.looks;
	pthread_mutex_unlock(&world.lock);
	return count;
}

static char text[1 << 18];

/* The mounts of this process on POINT and below "/", of each container `first` and on. */
static struct kpod_statfs_map *map_of(uint32_t first, size_t limit)
{
	int fd = open("/proc/self/mountinfo", O_RDONLY | O_CLOEXEC);
	ssize_t n, size = 0;
	struct kpod_statfs_map *map = kpod_statfs_map_new();

	while ((n = read(fd, text + size, sizeof(text) - (size_t)size)) > 0)
		size += n;
	close(fd);
	assert_non_null(map);
	for (uint32_t slot = first; slot <= CONTAINERS; slot++) {
		struct kpod_statfs_container c = {.slot = slot, .generation = 1};
		struct kpod_span rest = {text, (size_t)size}, line;
		struct kpod_mount mount, top = {};
		size_t added = 0;

		assert_true(kpod_statfs_map_container(map, &c));
		while (kpod_next_line(&rest, &line)) {
			if (!kpod_parse_mount(line, &mount))
				continue;
			if (kpod_span_is(mount.point, POINT))
				top = mount; /* the last one hides those before */
			else if (added + 1 < limit)
				added += !kpod_statfs_map_mount(map, &mount, false);
		}
		assert_int_equal(kpod_statfs_map_mount(map, &top, false), 0);
	}
	return map;
}

static void settle(struct kpod_statfs *s)
{
	uint64_t end = kpod_clock(CLOCK_MONOTONIC) + 20 * KPOD_SECOND;

	while (!kpod_statfs_is_settled(s))
		assert_true(kpod_clock(CLOCK_MONOTONIC) < end);
}

struct seen {
	unsigned int answered, unknown; /* of POINT */
	uint64_t size;
	uint32_t last_slot;
};

static void visit(void *context, const struct kpod_statfs_seen *m)
{
	struct seen *seen = context;

	assert_true(m->slot >= seen->last_slot);
	seen->last_slot = m->slot;
	if (strcmp(m->point, POINT))
		return;
	if (m->state == KPOD_STATFS_ANSWERED)
		seen->size = m->values.size;
	seen->answered += m->state == KPOD_STATFS_ANSWERED;
	seen->unknown += m->state == KPOD_STATFS_WAITING || m->state == KPOD_STATFS_UNASKED;
}

static struct seen look_at(struct kpod_statfs *s)
{
	struct seen seen = {};

	kpod_statfs_visit(s, visit, &seen);
	return seen;
}

static int fresh_world(void **state)
{
	struct kpod_statfs *s = kpod_statfs_new(look, NULL);

	pthread_mutex_lock(&world.lock);
	while (world.inside) /* those of the last test have been let go */
		pthread_cond_wait(&world.changed, &world.lock);
	world.looks = world.most = world.gone = world.hangs = 0;
	world.released = false;
	pthread_mutex_unlock(&world.lock);
	*state = s;
	return s ? 0 : -1;
}

static void each_volume_is_asked_once_for_all(void **state)
{
	struct kpod_statfs *s = *state;
	struct statvfs st;
	struct seen seen;

	kpod_statfs_ask(s, map_of(1, 1));
	settle(s);
	seen = look_at(s);
	assert_int_equal(looks(), 1);
	assert_int_equal(seen.answered, CONTAINERS);
	assert_int_equal(statvfs(POINT, &st), 0);
	assert_int_equal(seen.size, st.f_blocks * st.f_frsize);
	for (int i = 0; i < 20; i++) {
		kpod_statfs_ask(s, map_of(1, 1));
		settle(s);
	}
	assert_int_equal(looks(), 21);
	kpod_statfs_free(s);
}

/* An answer that comes during the visit is no older than it, so it is not taken for too old. */
static void an_answer_is_never_missing_once_it_was_there(void **state)
{
	struct kpod_statfs *s = *state;

	kpod_statfs_ask(s, map_of(1, 1));
	settle(s);
	for (int i = 0; i < 50; i++) {
		kpod_statfs_ask(s, map_of(1, 1));
		is_interrupted = true;
		assert_int_equal(look_at(s).answered, CONTAINERS);
		is_interrupted = false;
	}
	kpod_statfs_free(s);
}

static void what_one_does_not_see_is_asked_through_another(void **state)
{
	struct kpod_statfs *s = *state;

	let(CONTAINERS, 0); /* the first that is tried */
	kpod_statfs_ask(s, map_of(1, 1));
	settle(s);
	assert_int_equal(look_at(s).answered, CONTAINERS);
	assert_int_equal(looks(), 2);
	kpod_statfs_free(s);
}

static void answers_are_kept_but_not_for_another_s_volume(void **state)
{
	struct kpod_statfs *s = *state;
	struct kpod_statfs_container other = {.slot = 1, .generation = 2};
	struct kpod_statfs_map *map;
	struct kpod_mount mount = {};
	char line[] = "999999 1 0:1 / /dev/shm rw - tmpfs none rw";

	kpod_statfs_ask(s, map_of(1, 1));
	settle(s);
	assert_int_equal(look_at(s).answered, CONTAINERS);
	let(0, CONTAINERS); /* now nobody answers, and what is known stays */
	kpod_statfs_ask(s, map_of(CONTAINERS, 1));
	assert_int_equal(look_at(s).answered, 1);
	settle(s);
	assert_int_equal(look_at(s).answered, 1);
	/* Another mount of another container: nothing is known of it, whatever its number. */
	map = kpod_statfs_map_new();
	let(0, 1);
	assert_true(kpod_statfs_map_container(map, &other));
	assert_true(kpod_parse_mount((struct kpod_span){line, strlen(line)}, &mount));
	assert_int_equal(kpod_statfs_map_mount(map, &mount, false), 0);
	kpod_statfs_ask(s, map);
	settle(s);
	assert_int_equal(look_at(s).answered, 0);
	assert_int_equal(look_at(s).unknown, 1);
	assert_false(kpod_statfs_free(s));
	release();
}

static void what_hangs_costs_its_own_container_only(void **state)
{
	struct kpod_statfs *s = *state;
	uint64_t begun = kpod_clock(CLOCK_MONOTONIC);

	let(0, CONTAINERS);
	kpod_statfs_ask(s, map_of(1, KPOD_STATFS_MOUNTS));
	settle(s);
	/* Through it nothing comes back; but all others have what it has. */
	for (int i = 0; i < 3; i++) {
		kpod_statfs_ask(s, map_of(1, KPOD_STATFS_MOUNTS));
		settle(s);
	}
	assert_true(look_at(s).answered >= CONTAINERS - 1);
	assert_true(world.most >= 1 && world.most <= KPOD_STATFS_PER_CONTAINER);
	/* It is not waited for at the end. */
	begun = kpod_clock(CLOCK_MONOTONIC);
	assert_false(kpod_statfs_free(s));
	assert_true(kpod_clock(CLOCK_MONOTONIC) - begun < KPOD_SECOND / 2);
	release();
}

/* As CephFS, ext4 beyond its reserve, overcommitted and network file systems give them. */
static void what_cannot_be_is_not_shown(void **state)
{
	static const struct {
		int64_t blocks, free, available, files, files_free;
		uint64_t want_used, want_available, want_inodes, want_inodes_used;
	} cases[] = {
		{1000, 600, 600, 33290, -1, 400, 600, 0, 0},
		{1000, 3, -47, 1000, 500, 997, 0, 1000, 500},
		{1000, 1200, 1200, 1000, 2000, 0, 1000, 0, 0},
		{1000, 600, 600, -1, -1, 400, 600, 0, 0},
		{1000, -1, 0, 0, 0, 1000, 0, 0, 0},
		{1000, 0, 0, 1000, 0, 1000, 0, 1000, 1000},
		{1LL << 51, 1LL << 50, 1LL << 49, 10, 10, 1ULL << 50, 1ULL << 49, 10, 0},
	};

	(void)state;
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		struct statfs said = {
			.f_frsize = 4096,
			.f_blocks = (uint64_t)cases[i].blocks,
			.f_bfree = (uint64_t)cases[i].free,
			.f_bavail = (uint64_t)cases[i].available,
			.f_files = (uint64_t)cases[i].files,
			.f_ffree = (uint64_t)cases[i].files_free,
		};
		struct kpod_statfs_values got = kpod_statfs_values(&said);

		assert_int_equal(got.size, (uint64_t)cases[i].blocks * 4096);
		assert_int_equal(got.size - got.free, cases[i].want_used * 4096);
		assert_int_equal(got.available, cases[i].want_available * 4096);
		assert_int_equal(got.inodes, cases[i].want_inodes);
		assert_int_equal(got.inodes ? got.inodes - got.inodes_free : 0,
				 cases[i].want_inodes_used);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(what_cannot_be_is_not_shown),
		cmocka_unit_test_setup(each_volume_is_asked_once_for_all, fresh_world),
		cmocka_unit_test_setup(an_answer_is_never_missing_once_it_was_there, fresh_world),
		cmocka_unit_test_setup(what_one_does_not_see_is_asked_through_another, fresh_world),
		cmocka_unit_test_setup(answers_are_kept_but_not_for_another_s_volume, fresh_world),
		cmocka_unit_test_setup(what_hangs_costs_its_own_container_only, fresh_world),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
