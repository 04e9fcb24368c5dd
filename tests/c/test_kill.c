/* SPDX-License-Identifier: Apache-2.0 */
/* SIGKILL at random points of a writer's work: what is left is whole, or nothing. */
#include <signal.h>
#include <sys/wait.h>

#include "test.h"

#define KILLS 600

static void write_for_ever(void)
{
	struct kpod_writer w;

	if (open_writer(&w, segment_path(), KPOD_RING_MIN))
		_exit(1);
	for (uint64_t n = 1;; n++) {
		if (write_numbered(&w, n) || (n == 1 && kpod_writer_publish(&w)))
			_exit(1);
	}
}

static void only_whole_snapshots_survive(void **state)
{
	unsigned int whole = 0, none = 0, torn = 0;
	struct kpod_reader held;
	char building[80];

	(void)state;
	srand(7);
	kpod_reader_init(&held, segment_path());
	for (int i = 0; i < KILLS; i++) {
		struct kpod_reader r;
		pid_t pid = fork();
		int status;

		if (!pid)
			write_for_ever();
		usleep((useconds_t)(rand() % 4000));
		/* While it writes, and by a reader that has seen other segments before. */
		if (kpod_reader_refresh(&held, now_ns()) == KPOD_LIVE && held.end)
			check_numbered(&held);
		kill(pid, SIGKILL);
		assert_int_equal(waitpid(pid, &status, 0), pid);
		assert_true(WIFSIGNALED(status));

		kpod_reader_init(&r, segment_path());
		if (kpod_reader_refresh(&r, now_ns()) == KPOD_ABSENT) {
			none++;
		} else {
			assert_int_equal(r.state, KPOD_LIVE);
			assert_true(r.end);
			check_numbered(&r);
			whole++;
			/* Bytes of a snapshot that was never finished are there, and not shown. */
			torn += r.map->intent != r.map->published;
			assert_int_equal(kpod_reader_refresh(&r, now_ns() + 61 * SECOND),
					 KPOD_STALE);
			assert_false(r.end);
		}
		kpod_reader_close(&r);
		if (i % 2)
			unlink(segment_path());
	}
	kpod_reader_close(&held);
	print_message("%u kills: %u whole (%u in the middle of a snapshot), %u before the first\n",
		      KILLS, whole, torn, none);
	assert_true(whole > KILLS / 2);
	assert_true(torn > KILLS / 10);
	unlink(segment_path());
	snprintf(building, sizeof(building), "%s.building", segment_path());
	unlink(building);
}

int main(void)
{
	const struct CMUnitTest tests[] = {cmocka_unit_test(only_whole_snapshots_survive)};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
