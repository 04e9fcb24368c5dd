/* SPDX-License-Identifier: Apache-2.0 */
/* Every state a reader can be in, and files that nobody should have made. */
#include <dirent.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/stat.h>

#include "test.h"

struct pair {
	struct kpod_writer w;
	struct kpod_reader r;
};

static int set_up(void **state)
{
	struct pair *p = calloc(1, sizeof(*p));

	if (!p || open_writer(&p->w, segment_path(), KPOD_RING_MIN) || write_numbered(&p->w, 1) ||
	    kpod_writer_publish(&p->w))
		return -1;
	kpod_reader_init(&p->r, segment_path());
	*state = p;
	return 0;
}

static int tear_down(void **state)
{
	struct pair *p = *state;

	kpod_reader_close(&p->r);
	kpod_writer_close(&p->w);
	unlink(segment_path());
	free(p);
	return 0;
}

static enum kpod_reader_state refresh(struct pair *p)
{
	return kpod_reader_refresh(&p->r, now_ns());
}

static size_t open_files(void)
{
	DIR *dir = opendir("/proc/self/fd");
	size_t n = 0;

	while (readdir(dir))
		n++;
	closedir(dir);
	return n;
}

static void live_then_closed(void **state)
{
	struct pair *p = *state;

	assert_int_equal(refresh(p), KPOD_LIVE);
	assert_int_equal(check_numbered(&p->r), 1);
	for (uint64_t n = 2; n < 500; n++) { /* many times round the ring */
		assert_int_equal(write_numbered(&p->w, n), 0);
		assert_int_equal(refresh(p), KPOD_LIVE);
		assert_int_equal(check_numbered(&p->r), n);
		assert_int_equal(p->r.sequence, n);
	}
	assert_int_equal(p->r.laps, 0);
	kpod_writer_close(&p->w);
	assert_int_equal(refresh(p), KPOD_CLOSED);
	assert_false(p->r.end);
	assert_null(kpod_reader_next(&p->r, NULL));
	assert_int_not_equal(access(segment_path(), F_OK), 0);
}

static void stale_and_back(void **state)
{
	struct pair *p = *state;

	assert_int_equal(kpod_reader_refresh(&p->r, now_ns() + 61 * SECOND), KPOD_STALE);
	assert_null(kpod_reader_next(&p->r, NULL));
	kpod_writer_heartbeat(&p->w, now_ns() + 61 * SECOND);
	assert_int_equal(kpod_reader_refresh(&p->r, now_ns() + 61 * SECOND), KPOD_LIVE);
	assert_int_equal(check_numbered(&p->r), 1);
}

static void replaced_then_the_new_one(void **state)
{
	struct pair *p = *state;
	struct kpod_writer second;

	assert_int_equal(refresh(p), KPOD_LIVE);
	assert_int_equal(open_writer(&second, segment_path(), 4 * KPOD_RING_MIN), 0);
	assert_int_equal(refresh(p), KPOD_LIVE); /* nobody sees one that is being built */
	assert_int_equal(kpod_writer_publish(&second), -EPROTO);
	assert_int_equal(write_numbered(&second, 8), 0);
	assert_int_equal(kpod_writer_publish(&second), 0);
	assert_int_equal(refresh(p), KPOD_REPLACED);
	assert_null(kpod_reader_next(&p->r, NULL));
	assert_int_equal(refresh(p), KPOD_LIVE);
	assert_int_equal(check_numbered(&p->r), 8);
	/* The first writer's end does not take the second one's file away. */
	kpod_writer_close(&p->w);
	assert_int_equal(access(segment_path(), F_OK), 0);
	kpod_writer_close(&second);
}

static void lapped(void **state)
{
	struct pair *p = *state;
	uint64_t intent = p->w.header->intent;

	assert_int_equal(refresh(p), KPOD_LIVE);
	assert_int_equal(write_numbered(&p->w, 2), 0);
	p->w.header->intent += KPOD_RING_MIN; /* as while the writer is a whole ring ahead */
	assert_int_equal(refresh(p), KPOD_LIVE);
	assert_false(p->r.end);
	assert_null(kpod_reader_next(&p->r, NULL));
	assert_true(p->r.laps > 0);
	p->w.header->intent = intent + 4096; /* it overtook something, but not this */
	assert_int_equal(refresh(p), KPOD_LIVE);
	assert_int_equal(check_numbered(&p->r), 2);
}

static void too_large_a_snapshot(void **state)
{
	struct pair *p = *state;
	uint64_t words[1000] = {0};

	/* However often it is tried: the last whole one stays, also for who comes only now. */
	for (int tries = 0; tries < 10; tries++) {
		struct kpod_reader fresh;
		int err = kpod_writer_begin(&p->w, 9, 9);

		for (int i = 0; !err && i < 10; i++)
			err = kpod_writer_row(&p->w, 0, 0, 0, words, 1000);
		assert_int_equal(err, -ENOSPC);
		kpod_reader_init(&fresh, segment_path());
		assert_int_equal(kpod_reader_refresh(&fresh, now_ns()), KPOD_LIVE);
		assert_int_equal(check_numbered(&fresh), 1);
		kpod_reader_close(&fresh);
	}
	for (uint64_t n = 2; n < 50; n++) {
		assert_int_equal(write_numbered(&p->w, n), 0);
		assert_int_equal(refresh(p), KPOD_LIVE);
		assert_int_equal(check_numbered(&p->r), n);
	}
}

static void truncated_under_the_reader(void **state)
{
	struct pair *p = *state;
	const off_t sizes[] = {0, 1, 4095, 4096, 8191, 8192, 12288};

	for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
		struct kpod_reader fresh;

		assert_int_equal(truncate(segment_path(), (off_t)p->w.size), 0);
		kpod_writer_close(&p->w);
		kpod_reader_close(&p->r);
		unlink(segment_path());
		assert_int_equal(open_writer(&p->w, segment_path(), KPOD_RING_MIN), 0);
		assert_int_equal(write_numbered(&p->w, 1), 0);
		assert_int_equal(kpod_writer_publish(&p->w), 0);
		assert_int_equal(refresh(p), KPOD_LIVE);
		assert_int_equal(truncate(segment_path(), sizes[i]), 0);
		assert_int_equal(refresh(p), KPOD_INCOMPATIBLE);
		assert_int_equal(p->r.fault, KPOD_FAULT_TRUNCATED);
		kpod_reader_init(&fresh, segment_path());
		assert_int_equal(kpod_reader_refresh(&fresh, now_ns()), KPOD_INCOMPATIBLE);
		assert_int_equal(fresh.fault, sizes[i] < KPOD_HEADER_SIZE ? KPOD_FAULT_TOO_SHORT
									  : KPOD_FAULT_TRUNCATED);
		kpod_reader_close(&fresh);
		assert_int_equal(truncate(segment_path(), (off_t)p->w.size), 0);
	}
}

static struct sigaction readers_own; /* cmocka replaces the reader's handler by its own */

/* Cut between the size check and the copy: the SIGBUS is caught, and it is a named state. */
static void cut_in_the_middle_of_a_copy(void **state)
{
	struct pair *p = *state;

	sigaction(SIGBUS, &readers_own, NULL);
	assert_int_equal(refresh(p), KPOD_LIVE);
	assert_int_equal(write_numbered(&p->w, 2), 0);
	assert_int_equal(truncate(segment_path(), 4096), 0);
	p->r.header.segment_size = 4096; /* so that the size looks right */
	assert_int_equal(refresh(p), KPOD_INCOMPATIBLE);
	assert_int_equal(p->r.fault, KPOD_FAULT_TRUNCATED);
	p->r.header.segment_size = p->w.size;
	assert_int_equal(truncate(segment_path(), (off_t)p->w.size), 0);
}

static void odd_files(void **state)
{
	struct kpod_reader r;
	size_t files = open_files();

	(void)state;
	for (int kind = 0; kind < 5; kind++) {
		static const enum kpod_reader_state states[] = {KPOD_ABSENT, KPOD_INCOMPATIBLE,
								KPOD_INCOMPATIBLE,
								KPOD_INCOMPATIBLE, KPOD_ABSENT};

		if (kind == 1)
			mkdir(segment_path(), 0755);
		else if (kind == 2)
			mkfifo(segment_path(), 0644);
		else if (kind == 3)
			close(open(segment_path(), O_CREAT | O_WRONLY, 0644));
		else if (kind == 4)
			assert_int_equal(symlink("/nowhere", segment_path()), 0);
		kpod_reader_init(&r, segment_path());
		for (int again = 0; again < 3; again++)
			assert_int_equal(kpod_reader_refresh(&r, now_ns()), states[kind]);
		kpod_reader_close(&r);
		if (unlink(segment_path()))
			rmdir(segment_path());
	}
	assert_int_equal(open_files(), files);
}

/* Every bit that a checksum covers: none can be turned without the reader's noticing. */
static void any_bit_turned(void **state)
{
	struct pair *p = *state;
	unsigned char *base = (unsigned char *)p->w.header;
	const struct {
		size_t from, to;
	} parts[] = {
		{0, offsetof(struct kpod_header, header_crc) + 4},
		{KPOD_HEADER_SIZE, KPOD_HEADER_SIZE + 6},
		{p->w.header->ring_offset, p->w.header->ring_offset + p->w.header->published},
	};

	for (size_t i = 0; i < sizeof(parts) / sizeof(parts[0]); i++) {
		for (size_t bit = parts[i].from * 8; bit < parts[i].to * 8; bit++) {
			struct kpod_reader r;

			base[bit / 8] ^= (unsigned char)(1u << bit % 8);
			kpod_reader_init(&r, segment_path());
			if (kpod_reader_refresh(&r, now_ns()) != KPOD_INCOMPATIBLE &&
			    !(r.state == KPOD_LIVE && !r.end))
				fail_msg("byte %zu bit %zu: %s", bit / 8, bit % 8,
					 kpod_state_name(r.state));
			assert_null(kpod_reader_next(&r, NULL));
			kpod_reader_close(&r);
			base[bit / 8] ^= (unsigned char)(1u << bit % 8);
		}
	}
	assert_int_equal(refresh(p), KPOD_LIVE);
	assert_int_equal(check_numbered(&p->r), 1);
}

/* Random damage anywhere, many times: never a crash, never samples that were not written. */
static void random_damage(void **state)
{
	struct pair *p = *state;
	uint64_t *words = (uint64_t *)p->w.header;
	size_t size = p->w.header->ring_offset + p->w.header->published;

	srand(3);
	for (int round = 0; round < 20000; round++) {
		static const uint64_t odd[] = {
			0, 1, 7, 8, UINT32_MAX, 1ULL << 32, 1ULL << 63, UINT64_MAX, UINT64_MAX - 7};
		size_t at[3];
		uint64_t was[3];
		struct kpod_reader r;

		for (int i = 0; i < 3; i++) {
			at[i] = (size_t)rand() % (size / 8);
			was[i] = words[at[i]];
			words[at[i]] = rand() % 2 ? odd[rand() % 9] : (uint64_t)rand();
		}
		kpod_reader_init(&r, segment_path());
		kpod_reader_refresh(&r, now_ns());
		if (r.end)
			assert_int_equal(check_numbered(&r), 1);
		kpod_reader_close(&r);
		for (int i = 2; i >= 0; i--)
			words[at[i]] = was[i];
	}
}

static void bad_options(void **state)
{
	const uint64_t sizes[] = {0, 1, KPOD_RING_MIN - 1, KPOD_RING_MIN + 1, 2ULL << 30};
	struct kpod_writer w;

	(void)state;
	for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++)
		assert_int_equal(open_writer(&w, segment_path(), sizes[i]), -EINVAL);
	assert_int_equal(open_writer(&w, "/nowhere/segment", KPOD_RING_MIN), -ENOENT);
	assert_int_equal(open_writer(&w, "/proc/segment", KPOD_RING_MIN), -ENOENT);
}

int main(void)
{
#define WITH_SEGMENT(test) cmocka_unit_test_setup_teardown(test, set_up, tear_down)
	const struct CMUnitTest tests[] = {
		WITH_SEGMENT(live_then_closed),
		WITH_SEGMENT(stale_and_back),
		WITH_SEGMENT(replaced_then_the_new_one),
		WITH_SEGMENT(lapped),
		WITH_SEGMENT(too_large_a_snapshot),
		WITH_SEGMENT(truncated_under_the_reader),
		WITH_SEGMENT(cut_in_the_middle_of_a_copy),
		cmocka_unit_test(odd_files),
		WITH_SEGMENT(any_bit_turned),
		WITH_SEGMENT(random_damage),
		cmocka_unit_test(bad_options),
	};

	sigaction(SIGBUS, NULL, &readers_own);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
