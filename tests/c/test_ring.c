/* SPDX-License-Identifier: Apache-2.0 */
/* A writer at full speed and readers beside it, as threads: also under ThreadSanitizer. */
#include <pthread.h>
#include <stdatomic.h>

#include "test.h"

#define SNAPSHOTS 60000
#define READERS 2

#define ENOUGH 20 /* that a reader is to see while there is a writer */

static struct outcome {
	uint64_t laps;
	atomic_uint seen;
	bool ordered;
} outcome[READERS];

static atomic_bool done;
static atomic_ullong written;

static bool all_have_seen(unsigned int snapshots)
{
	for (int i = 0; i < READERS; i++)
		if (atomic_load(&outcome[i].seen) < snapshots)
			return false;
	return true;
}

static void *write_all(void *arg)
{
	struct kpod_writer *w = arg;

	while (!all_have_seen(1))
		usleep(100);
	/* A busy machine may not let a reader run for long. */
	for (uint64_t n = 2; n < SNAPSHOTS || !all_have_seen(ENOUGH); n++) {
		assert_int_equal(write_numbered(w, n), 0);
		atomic_store(&written, n);
	}
	atomic_store(&done, true);
	return NULL;
}

static void *read_all(void *arg)
{
	struct outcome *o = arg;
	struct kpod_reader r;
	uint64_t last = 0;
	bool finish = false;

	o->ordered = true;
	kpod_reader_init(&r, segment_path());
	while (!finish) {
		finish = atomic_load(&done);
		assert_int_equal(kpod_reader_refresh(&r, now_ns()), KPOD_LIVE);
		if (r.end) {
			uint64_t n = check_numbered(&r);

			o->ordered = o->ordered && n >= last && r.sequence == n;
			atomic_fetch_add(&o->seen, n != last);
			last = n;
		}
	}
	assert_true(last == atomic_load(&written));
	o->laps = r.laps;
	kpod_reader_close(&r);
	return NULL;
}

/* The smallest ring: the writer goes round it every few snapshots. */
static void readers_see_whole_snapshots_only(void **state)
{
	pthread_t writer, readers[READERS];
	struct kpod_writer w;

	(void)state;
	assert_int_equal(open_writer(&w, segment_path(), KPOD_RING_MIN), 0);
	assert_int_equal(write_numbered(&w, 1), 0);
	assert_int_equal(kpod_writer_publish(&w), 0);
	pthread_create(&writer, NULL, write_all, &w);
	for (int i = 0; i < READERS; i++)
		pthread_create(&readers[i], NULL, read_all, &outcome[i]);
	pthread_join(writer, NULL);
	for (int i = 0; i < READERS; i++) {
		pthread_join(readers[i], NULL);
		assert_true(outcome[i].ordered);
		print_message("reader %d: %u snapshots, %llu laps\n", i,
			      atomic_load(&outcome[i].seen), (unsigned long long)outcome[i].laps);
	}
	kpod_writer_close(&w);
	assert_int_not_equal(access(segment_path(), F_OK), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {cmocka_unit_test(readers_see_whole_snapshots_only)};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
