/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Rows by disk, whatever disks do: come, go, swap names, have several paths. The oracle is a model
 * of the same events that knows only names. No name may be there twice for a slot, the sum is what
 * was done under that name, and disks that are gone have no rows.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <sys/stat.h>

#include "publish/disks.h"
#include "test.h"

#define DISKS 4
#define SLOTS 3
#define UNITS 4096

static const char *const names[DISKS] = {"nvme0n1", "nvme1n1", "loop7", "cciss/c0d0"};

struct node {
	char directory[64];
	int sequence[DISKS]; /* identity of the disk that has the name, 0: none has */
	int last_sequence;
	struct {
		struct kpod_disk_unit of;
		int sequence;
		uint64_t count;
	} units[UNITS];
	size_t unit_count;
	uint64_t truth[SLOTS][DISKS];
};

static void place(const struct node *n, int disk, char *path)
{
	sprintf(path, "%s/%s", n->directory, names[disk]);
	for (char *slash = path + strlen(n->directory) + 1; (slash = strchr(slash, '/'));)
		*slash = '!';
}

static void plug(struct node *n, int disk)
{
	char path[128];

	place(n, disk, path);
	close(open(path, O_CREAT | O_WRONLY, 0600));
	n->sequence[disk] = ++n->last_sequence;
}

static void unplug(struct node *n, int disk)
{
	char path[128];

	place(n, disk, path);
	unlink(path);
	n->sequence[disk] = 0;
}

/* As bpf/biolatency.bpf.c does: a unit for each slot and identity. */
static void request(struct node *n, int disk, uint32_t slot)
{
	size_t i = 0;

	n->truth[slot][disk]++;
	while (i < n->unit_count &&
	       (n->units[i].sequence != n->sequence[disk] || n->units[i].of.slot != slot))
		i++;
	if (i == n->unit_count) {
		assert_true(i < UNITS);
		memset(&n->units[i], 0, sizeof(n->units[i]));
		n->units[i].sequence = n->sequence[disk];
		n->units[i].of.slot = slot;
		n->units[i].of.born_ns = (uint64_t)n->last_sequence * 1000 + i;
		memcpy(n->units[i].of.key, names[disk], strlen(names[disk]));
		n->unit_count++;
	}
	n->units[i].count++;
}

static void drop_unit(struct node *n, size_t i)
{
	n->units[i] = n->units[--n->unit_count];
}

static void snapshot(struct node *n, struct kpod_disks *d)
{
	bool seen[SLOTS][DISKS] = {};

	kpod_disks_begin(d);
	for (size_t i = 0; i < n->unit_count;) {
		if (!kpod_disks_has(d, n->units[i].of.key)) {
			drop_unit(n, i);
			continue;
		}
		n->units[i].of.unit = (uint32_t)i;
		assert_int_equal(kpod_disks_add(d, &n->units[i].of), 0);
		i++;
	}
	kpod_disks_group(d);
	for (size_t i = 0, count; i < d->count; i += count) {
		const char *name = (const char *)d->of[i].key;
		uint64_t sum = 0;
		int disk = 0;

		count = kpod_disks_alike(d, i);
		while (strcmp(names[disk], name))
			assert_true(++disk < DISKS);
		for (size_t k = 0; k < count; k++)
			sum += n->units[d->of[i + k].unit].count;
		assert_false(seen[d->of[i].slot][disk]); /* never there twice */
		assert_int_not_equal(n->sequence[disk], 0);
		assert_int_equal(sum, n->truth[d->of[i].slot][disk]);
		seen[d->of[i].slot][disk] = true;
	}
	for (int disk = 0; disk < DISKS; disk++)
		for (int slot = 0; slot < SLOTS; slot++) {
			if (!n->sequence[disk])
				n->truth[slot][disk] = 0; /* the series has ended */
			assert_int_equal(seen[slot][disk], n->truth[slot][disk] > 0);
		}
}

static void no_disk_is_there_twice(void **state)
{
	struct node *n = calloc(1, sizeof(*n));
	struct kpod_disks d;

	(void)state;
	assert_non_null(n);
	strcpy(n->directory, "/dev/shm/kpod-test-disks-XXXXXX");
	assert_non_null(mkdtemp(n->directory));
	kpod_disks_open(&d, n->directory);
	srand(7);
	for (int step = 0; step < 20000; step++) {
		int disk = rand() % DISKS, what = rand() % 20;

		if (what == 0)
			snapshot(n, &d);
		else if (what == 1 && n->sequence[disk])
			unplug(n, disk);
		else if (what <= 3 && !n->sequence[disk])
			plug(n, disk);
		else if (what == 4 && n->sequence[disk])
			n->sequence[disk] = ++n->last_sequence; /* other media, as of loop */
		else if (n->sequence[disk])
			request(n, disk, (uint32_t)rand() % SLOTS);
	}
	snapshot(n, &d);
	for (int disk = 0; disk < DISKS; disk++)
		unplug(n, disk);
	snapshot(n, &d);
	assert_int_equal(n->unit_count, 0);
	kpod_disks_close(&d);
	rmdir(n->directory);
	free(n);
}

static void paths_are_shown_as_their_device(void **state)
{
	static const char *const cases[][2] = {
		{"nvme0c1n2", "nvme0n2"}, {"nvme10c11n12", "nvme10n12"},
		{"nvme0n1", "nvme0n1"},	  {"nvme0c1", "nvme0c1"},
		{"nvmec1n1", "nvmec1n1"}, {"nvme0cn1", "nvme0cn1"},
		{"vdc1n1", "vdc1n1"},	  {"dm-0", "dm-0"},
	};
	struct kpod_disks d;

	(void)state;
	kpod_disks_open(&d, "/nowhere");
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		struct kpod_disk_unit unit = {.unit = (uint32_t)i};

		memcpy(unit.key, cases[i][0], strlen(cases[i][0]));
		assert_true(kpod_disks_has(&d, unit.key)); /* not known, so it stays */
		assert_int_equal(kpod_disks_add(&d, &unit), 0);
		assert_string_equal((const char *)d.of[i].key, cases[i][1]);
		assert_string_equal((const char *)d.of[i].name, cases[i][0]);
	}
	kpod_disks_close(&d);
}

static void two_paths_are_one_row_and_stay_two_units(void **state)
{
	struct kpod_disk_unit a = {.unit = 1, .born_ns = 1}, b = {.unit = 2, .born_ns = 2};
	struct kpod_disks d;

	(void)state;
	memcpy(a.key, "nvme0c0n1", 9);
	memcpy(b.key, "nvme0c1n1", 9);
	kpod_disks_open(&d, "/nowhere");
	assert_int_equal(kpod_disks_add(&d, &a), 0);
	assert_int_equal(kpod_disks_add(&d, &b), 0);
	kpod_disks_group(&d);
	assert_int_equal(kpod_disks_alike(&d, 0), 2);
	assert_false(kpod_disk_is_successor(&d.of[0], &d.of[1]));
	kpod_disks_close(&d);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(no_disk_is_there_twice),
		cmocka_unit_test(paths_are_shown_as_their_device),
		cmocka_unit_test(two_paths_are_one_row_and_stay_two_units),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
