/* SPDX-License-Identifier: Apache-2.0 */
/* Cgroup files as kernels write them, and as none should: a tree of our own, read by the real code.
 */
#include "test.h"

#include <fcntl.h>
#include <sys/resource.h>
#include <sys/stat.h>

#include "base/clock.h"
#include "base/kept.h"
#include "base/parse.h"
#include "cgroups/slots.h"
#include "kernel/load.h"
#include "sources/cgroupfs.h"
#include "sources/cgroupwalk.h"

#define NONE KPOD_NO_VALUE

/* Walks are for tests/kernel. */
const struct kpod_source kpod_cgroup_walk_source;

extern const struct kpod_collector kpod_collector_cgroup_cpu, kpod_collector_cgroup_memory,
	kpod_collector_cgroup_io, kpod_collector_cgroup_pids, kpod_collector_cgroup_pressure;

/* ---- a node with one slot for each directory ------------------------------------------------ */

#define SLOTS 64

static struct kpod_slot_info infos[SLOTS];
static uint8_t visible[SLOTS];
static struct kpod_bpf bpf = {.max_containers = SLOTS};
static struct kpod_slots slots = {.bpf = &bpf, .visible = visible, .scanned = SLOTS};
static uint64_t now = SECOND;

struct kpod_slot_info *kpod_slot_info(struct kpod_slots *s, uint32_t slot)
{
	(void)s;
	return &infos[slot];
}

uint64_t kpod_clock(clockid_t clock)
{
	(void)clock;
	return now;
}

static void put(const char *directory, const char *file, const char *text, size_t size)
{
	char path[PATH_MAX];
	FILE *f;

	snprintf(path, sizeof(path), "%s/%s", directory, file);
	f = fopen(path, "w");
	assert_non_null(f);
	assert_int_equal(fwrite(text, 1, size, f), size);
	fclose(f);
}

static void make(uint32_t slot, const char *name)
{
	struct stat st;

	assert_int_equal(mkdir(name, 0755), 0);
	assert_int_equal(stat(name, &st), 0);
	infos[slot].cgroup_id = st.st_ino;
	infos[slot].path_size = (uint32_t)snprintf(infos[slot].path, KPOD_SLOT_PATH, "/%s", name);
	infos[slot].generation++;
	infos[slot].died_ns = 0;
	visible[slot] = 1;
}

static void clear(const char *path)
{
	char command[128];

	snprintf(command, sizeof(command), "rm -rf '%s'", path);
	assert_int_equal(system(command), 0);
}

static char tree[64];

static int set_up(void **state)
{
	(void)state;
	snprintf(tree, sizeof(tree), "/dev/shm/kpod-test-files.%d", (int)getpid());
	strcpy(slots.root, ".");
	memset(visible, 0, sizeof(visible));
	return mkdir(tree, 0755) || chdir(tree);
}

static int tear_down(void **state)
{
	(void)state;
	clear(tree);
	return chdir("/");
}

static struct kpod_loaded_table loaded_table;

static struct kpod_loaded open_collector(const struct kpod_collector *c)
{
	struct kpod_loaded l = {.collector = c, .source = c->source, .tables = &loaded_table};
	uint32_t keys = 0;

	for (size_t i = 0; i < c->tables[0].key_count; i++)
		keys += c->tables[0].keys[i].words;
	loaded_table = (struct kpod_loaded_table){.table = &c->tables[0]};
	kpod_kept_open(&loaded_table.kept, &c->tables[0], keys);
	assert_int_equal(c->source->open(&l, &slots, NULL), 0);
	return l;
}

static void close_collector(struct kpod_loaded *l)
{
	l->collector->source->close(l);
	kpod_kept_close(&loaded_table.kept);
}

static void read_all(struct kpod_loaded *l)
{
	now += SECOND;
	l->collector->source->read(l, &slots);
}

/* Row number n of a slot, keys first; NULL: it has no more. */
static const uint64_t *row_of(uint32_t slot, size_t n)
{
	const uint64_t *words;
	uint32_t of, generation;

	for (size_t i = 0; (words = kpod_kept_row(&loaded_table.kept, i, &of, &generation)); i++)
		if (of == slot && generation == infos[slot].generation && !n--)
			return words;
	return NULL;
}

static uint64_t errors_of(const struct kpod_loaded *l, const char *file)
{
	uint64_t errors;
	const char *name;

	for (size_t i = 0; (name = kpod_cgroup_file_errors(l, i, &errors)); i++)
		if (!strcmp(name, file))
			return errors;
	fail_msg("%s is not read", file);
	return 0;
}

static uint64_t all_errors(const struct kpod_loaded *l)
{
	uint64_t errors, sum = 0;

	for (size_t i = 0; kpod_cgroup_file_errors(l, i, &errors); i++)
		sum += errors;
	return sum;
}

/* Word of the column with this name and last constant label; a slot's only row. */
static uint64_t value(uint32_t slot, const char *name, const char *label)
{
	const struct kpod_table *t = loaded_table.table;
	const uint64_t *row = row_of(slot, 0);

	if (!row)
		return NONE;
	for (size_t i = 0; i < t->column_count; i++) {
		const struct kpod_column *c = &t->columns[i];
		const char *last = c->value2 ? c->value2 : c->value;

		if (!strcmp(c->name, name) && (!label || !strcmp(last, label)))
			return row[loaded_table.kept.key_words + c->word];
	}
	fail_msg("%s is no column", name);
	return 0;
}

#define assert_value(slot, name, label, expected)                                                  \
	assert_true(value(slot, name, label) == (uint64_t)(expected))

/* ---- what kernels write --------------------------------------------------------------------- */

static const char cpu_stat[] =
	"usage_usec 2500000\nuser_usec 2000000\nsystem_usec 500000\n"
	"nice_usec 0\ncore_sched.force_idle_usec 0\nnr_periods 30\n"
	"nr_throttled 7\nthrottled_usec 123456\nnr_bursts 0\nburst_usec 0\n";
static const char memory_stat[] =
	"anon 1048576\nfile 4096000\nkernel 65536\nkernel_stack 16384\n"
	"slab_reclaimable 100\nslab_unreclaimable 200\nslab 300\n"
	"inactive_anon 0\nactive_anon 1048576\ninactive_file 3000000\n"
	"workingset_refault_anon 5\nworkingset_refault_file 6\n";

#define PUT(directory, file, text) put(directory, file, text, sizeof(text) - 1)

static void cpu_of_a_kernel(void **state)
{
	struct kpod_loaded l;

	(void)state;
	make(1, "limited");
	put("limited", "cpu.stat", cpu_stat, sizeof(cpu_stat) - 1);
	PUT("limited", "cpu.max", "50000 100000\n");
	PUT("limited", "cpu.weight", "100\n");
	make(2, "free");
	PUT("free", "cpu.stat", "usage_usec 0\nuser_usec 0\nsystem_usec 0\n");
	PUT("free", "cpu.max", "max 100000\n");
	l = open_collector(&kpod_collector_cgroup_cpu);
	read_all(&l);
	assert_value(1, "kpod_cgroup_cpu_usage_seconds_total", NULL, 2500000);
	assert_value(1, "kpod_cgroup_cpu_user_seconds_total", NULL, 2000000);
	assert_value(1, "kpod_cgroup_cpu_system_seconds_total", NULL, 500000);
	assert_value(1, "kpod_cgroup_cpu_periods_total", NULL, 30);
	assert_value(1, "kpod_cgroup_cpu_throttled_periods_total", NULL, 7);
	assert_value(1, "kpod_cgroup_cpu_throttled_seconds_total", NULL, 123456);
	assert_value(1, "kpod_cgroup_cpu_quota_seconds", NULL, 50000);
	assert_value(1, "kpod_cgroup_cpu_period_seconds", NULL, 100000);
	assert_value(1, "kpod_cgroup_cpu_weight", NULL, 100);
	assert_value(2, "kpod_cgroup_cpu_usage_seconds_total", NULL, 0);
	assert_value(2, "kpod_cgroup_cpu_periods_total", NULL, NONE);
	assert_value(2, "kpod_cgroup_cpu_quota_seconds", NULL, NONE);
	assert_value(2, "kpod_cgroup_cpu_period_seconds", NULL, 100000);
	assert_value(2, "kpod_cgroup_cpu_weight", NULL, NONE);
	assert_int_equal(all_errors(&l), 0);
	assert_null(row_of(0, 0));
	close_collector(&l);
}

static void memory_of_a_kernel(void **state)
{
	struct kpod_loaded l;

	(void)state;
	make(1, "a");
	put("a", "memory.stat", memory_stat, sizeof(memory_stat) - 1);
	PUT("a", "memory.current", "5210112\n");
	PUT("a", "memory.max", "max\n");
	PUT("a", "memory.events", "low 1\nhigh 2\nmax 3\noom 4\noom_kill 5\noom_group_kill 9\n");
	make(2, "less");
	PUT("less", "memory.current", "10\n");
	PUT("less", "memory.stat", "inactive_file 11\n");
	l = open_collector(&kpod_collector_cgroup_memory);
	read_all(&l);
	assert_value(1, "kpod_cgroup_memory_usage_bytes", NULL, 5210112);
	assert_value(1, "kpod_cgroup_memory_working_set_bytes", NULL, 2210112);
	assert_value(1, "kpod_cgroup_memory_limit_bytes", NULL, NONE);
	assert_value(1, "kpod_cgroup_memory_peak_bytes", NULL, NONE);
	assert_value(1, "kpod_cgroup_memory_rss_bytes", NULL, 1048576);
	assert_value(1, "kpod_cgroup_memory_cache_bytes", NULL, 4096000);
	assert_value(1, "kpod_cgroup_memory_kernel_bytes", NULL, 65536);
	assert_value(1, "kpod_cgroup_memory_slab_bytes", NULL, 300);
	assert_value(1, "kpod_cgroup_memory_refaults_total", "anon", 5);
	assert_value(1, "kpod_cgroup_memory_refaults_total", "file", 6);
	assert_value(1, "kpod_cgroup_memory_events_total", "low", 1);
	assert_value(1, "kpod_cgroup_memory_events_total", "max", 3);
	assert_value(1, "kpod_cgroup_memory_events_total", "oom", 4);
	assert_value(1, "kpod_cgroup_memory_events_total", "oom_kill", 5);
	assert_value(2, "kpod_cgroup_memory_working_set_bytes", NULL, 0);
	assert_int_equal(all_errors(&l), 0);
	close_collector(&l);
}

static void io_of_a_kernel(void **state)
{
	static const uint64_t in_row_order[] = {1, 2, 5, 3, 4, 6}; /* bytes, then operations */
	struct kpod_loaded l;
	const uint64_t *row;

	(void)state;
	make(1, "a");
	/* The second is what 5.10 makes of a device without figures beside one with. */
	PUT("a", "io.stat",
	    "999:1 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=5 dios=6\n"
	    "999:2 999:3 rbytes=7 wbytes=0 rios=1 wios=0 dbytes=0 dios=0\n"
	    "999:4\n"
	    "(unknown) rbytes=1\n"
	    "0123456789:0123456789 rbytes=1\n");
	make(2, "idle");
	PUT("idle", "io.stat", "");
	l = open_collector(&kpod_collector_cgroup_io);
	read_all(&l);
	row = row_of(1, 0);
	assert_non_null(row);
	assert_string_equal((const char *)row, "999:1");
	for (uint32_t i = 0; i < 6; i++)
		assert_int_equal(row[4 + i], in_row_order[i]);
	row = row_of(1, 1);
	assert_non_null(row);
	assert_string_equal((const char *)row, "999:3");
	assert_int_equal(row[4], 7);
	assert_null(row_of(1, 2));
	assert_null(row_of(2, 0));
	assert_int_equal(all_errors(&l), 0);
	close_collector(&l);
}

static void pressure_and_pids_of_a_kernel(void **state)
{
	struct kpod_loaded l;

	(void)state;
	make(1, "a");
	PUT("a", "cpu.pressure", "some avg10=0.00 avg60=1.50 avg300=0.10 total=42\n"); /* 5.10 */
	PUT("a", "memory.pressure",
	    "some avg10=0.00 avg60=0.00 avg300=0.00 total=8\n"
	    "full avg10=0.00 avg60=0.00 avg300=0.00 total=0\n");
	PUT("a", "pids.current", "0\n");
	PUT("a", "pids.max", "100\n");
	PUT("a", "pids.events", "max 3\n");
	l = open_collector(&kpod_collector_cgroup_pressure);
	read_all(&l);
	assert_int_equal(all_errors(&l), 0);
	assert_int_equal(row_of(1, 0)[0], 42);
	assert_true(row_of(1, 0)[1] == NONE);
	assert_int_equal(row_of(1, 0)[2], 8);
	assert_int_equal(row_of(1, 0)[3], 0);
	assert_true(row_of(1, 0)[4] == NONE);
	close_collector(&l);
	l = open_collector(&kpod_collector_cgroup_pids);
	read_all(&l);
	assert_value(1, "kpod_cgroup_pids", NULL, 0);
	assert_value(1, "kpod_cgroup_pids_limit", NULL, 100);
	assert_value(1, "kpod_cgroup_pids_limit_hits_total", NULL, 3);
	close_collector(&l);
}

/* ---- what none should ----------------------------------------------------------------------- */

static void odd_texts_cost_only_their_value(void **state)
{
	static const struct {
		const char *text;
		size_t size;
		uint64_t current, errors;
	} odd[] = {
#define TEXT(s) s, sizeof(s) - 1
		{TEXT("12\n"), 12, 0},
		{TEXT("12"), 12, 0},
		{TEXT("12\r\n"), 12, 0},
		{TEXT("  12\t\n"), 12, 0},
		{TEXT("12 34\n"), 12, 0},
		{TEXT("max\n"), NONE, 0},
		{TEXT("max"), NONE, 0},
		{TEXT(""), NONE, 1},
		{TEXT("\n"), NONE, 0},
		{TEXT("-1\n"), NONE, 1},
		{TEXT("+1\n"), NONE, 1},
		{TEXT("0x10\n"), NONE, 1},
		{TEXT("12a\n"), NONE, 1},
		{TEXT("1.5\n"), NONE, 1},
		{TEXT("maximum\n"), NONE, 1},
		{TEXT("12\0\n"), NONE, 1},
		{TEXT("\xff\xfe\x00\x01"), NONE, 1},
		{TEXT("00012\n"), 12, 0},
		{TEXT("18446744073709551614\n"), UINT64_MAX - 1, 0},
		{TEXT("18446744073709551615\n"), NONE, 1}, /* it means that there is none */
		{TEXT("18446744073709551616\n"), NONE, 1},
		{TEXT("99999999999999999999999999\n"), NONE, 1},
	};
	struct kpod_loaded l;

	(void)state;
	make(1, "a");
	PUT("a", "pids.max", "7\n");
	for (size_t i = 0; i < KPOD_COUNT(odd); i++) {
		put("a", "pids.current", odd[i].text, odd[i].size);
		l = open_collector(&kpod_collector_cgroup_pids);
		read_all(&l);
		if (value(1, "kpod_cgroup_pids", NULL) != odd[i].current ||
		    errors_of(&l, "pids.current") != odd[i].errors)
			fail_msg("odd text %zu: '%s'", i, odd[i].text);
		assert_value(1, "kpod_cgroup_pids_limit", NULL, 7);
		assert_int_equal(errors_of(&l, "pids.max"), 0);
		close_collector(&l);
	}
}

static void huge_text_is_cut_at_a_line(void **state)
{
	size_t size = 300000;
	char *text = malloc(size);
	struct kpod_loaded l;
	uint64_t lines = 0;

	(void)state;
	assert_non_null(text);
	make(1, "a");
	for (size_t at = 0; at + 41 < size; at += 40)
		snprintf(text + at, 41, "999:%05zu rbytes=1111111 wbytes=2222222\n", at / 40);
	put("a", "io.stat", text, size / 41 * 40);
	l = open_collector(&kpod_collector_cgroup_io);
	read_all(&l);
	for (const uint64_t *row; (row = row_of(1, lines)); lines++)
		assert_true(row[4] == 1111111 && row[5] == 2222222);
	assert_int_equal(lines, 65536 / 40);
	assert_int_equal(errors_of(&l, "io.stat"), 1);
	close_collector(&l);
	free(text);
}

static void unreadable_and_missing_are_told_apart(void **state)
{
	struct kpod_loaded l;

	(void)state;
	make(1, "a");
	assert_int_equal(mkdir("a/pids.current", 0755), 0); /* read() says EISDIR */
	PUT("a", "pids.max", "7\n");
	l = open_collector(&kpod_collector_cgroup_pids);
	read_all(&l);
	read_all(&l);
	assert_value(1, "kpod_cgroup_pids", NULL, NONE);
	assert_value(1, "kpod_cgroup_pids_limit", NULL, 7);
	assert_int_equal(errors_of(&l, "pids.current"), 2);
	assert_int_equal(errors_of(&l, "pids.events"), 0);
	assert_value(1, "kpod_cgroup_pids_limit_hits_total", NULL, NONE);

	/* What was not there is looked for again, but not each time. */
	PUT("a", "pids.events", "max 3\n");
	read_all(&l);
	assert_value(1, "kpod_cgroup_pids_limit_hits_total", NULL, NONE);
	now += 60 * SECOND;
	read_all(&l);
	assert_value(1, "kpod_cgroup_pids_limit_hits_total", NULL, 3);
	close_collector(&l);
}

/* ---- lives ---------------------------------------------------------------------------------- */

/* As many descriptors for cgroup files, and no more. */
static void leave_descriptors(rlim_t room)
{
	struct rlimit limit;

	assert_int_equal(getrlimit(RLIMIT_NOFILE, &limit), 0);
	limit.rlim_cur = KPOD_DESCRIPTORS_RESERVED + room;
	assert_int_equal(setrlimit(RLIMIT_NOFILE, &limit), 0);
}

static void vanished_cgroup_keeps_its_counters(void **state)
{
	struct kpod_loaded l;

	(void)state;
	for (uint32_t slot = 1; slot <= 3; slot++) {
		char name[8];

		snprintf(name, sizeof(name), "c%u", slot);
		make(slot, name);
		PUT(name, "memory.current", "100\n");
		PUT(name, "memory.peak", "200\n");
		PUT(name, "memory.events", "oom_kill 1\n");
	}
	leave_descriptors(0); /* here, unlike in cgroup2, an open file outlives its directory */
	l = open_collector(&kpod_collector_cgroup_memory);
	read_all(&l);
	infos[2].died_ns = now; /* the kernel said so */
	clear("c3");		/* … and here it has not yet: the files are just gone */
	make(4, "c3");		/* one of the same name */
	PUT("c3", "memory.current", "5\n");
	infos[3].path_size = infos[4].path_size;
	for (int i = 0; i < 3; i++) {
		read_all(&l);
		assert_value(1, "kpod_cgroup_memory_usage_bytes", NULL, 100);
		assert_value(2, "kpod_cgroup_memory_usage_bytes", NULL, NONE);
		assert_value(2, "kpod_cgroup_memory_peak_bytes", NULL, 200);
		assert_value(2, "kpod_cgroup_memory_events_total", "oom_kill", 1);
		assert_value(3, "kpod_cgroup_memory_usage_bytes", NULL, NONE);
		assert_value(3, "kpod_cgroup_memory_events_total", "oom_kill", 1);
		assert_value(4, "kpod_cgroup_memory_usage_bytes", NULL, 5);
		assert_null(row_of(2, 1));
	}
	visible[2] = 0;
	read_all(&l);
	assert_null(row_of(2, 0));
	/* A new owner of the slot starts from nothing. */
	make(2, "new");
	PUT("new", "pids.max", "1\n");
	read_all(&l);
	assert_null(row_of(2, 0));
	assert_int_equal(all_errors(&l), 0);
	close_collector(&l);
}

static size_t open_descriptors(void)
{
	size_t n = 0;

	for (int fd = 0; fd < 1024; fd++)
		n += fcntl(fd, F_GETFD) >= 0;
	return n;
}

static void few_descriptors_are_enough(void **state)
{
	struct kpod_loaded l;

	(void)state;
	for (uint32_t slot = 1; slot < SLOTS; slot++) {
		char name[8];

		snprintf(name, sizeof(name), "c%u", slot);
		make(slot, name);
		PUT(name, "pids.current", "1\n");
		PUT(name, "pids.max", "2\n");
	}
	for (rlim_t room = 0; room <= 200; room += 40) {
		size_t before = open_descriptors(), most;

		leave_descriptors(room);
		l = open_collector(&kpod_collector_cgroup_pids);
		for (int pass = 0; pass < 3; pass++) {
			read_all(&l);
			for (uint32_t slot = 1; slot < SLOTS; slot++) {
				assert_value(slot, "kpod_cgroup_pids", NULL, 1);
				assert_value(slot, "kpod_cgroup_pids_limit", NULL, 2);
			}
		}
		most = 2 * (SLOTS - 1);
		assert_int_equal(open_descriptors() - before - 1, room < most ? room : most);
		assert_int_equal(all_errors(&l), 0);
		close_collector(&l);
		assert_int_equal(open_descriptors(), before);
	}
}

/* ---- mountinfo ------------------------------------------------------------------------------ */

static struct kpod_span span(const char *text)
{
	return (struct kpod_span){text, strlen(text)};
}

static void mounts_are_read(void **state)
{
	struct kpod_mount m;
	char path[16];

	(void)state;
	assert_true(kpod_parse_mount(span("36 35 98:0 /mnt1 /my\\040vol rw,noatime master:1 - ext3 "
					  "/dev/root rw,errors=continue"),
				     &m));
	assert_true(kpod_span_is(m.device, "98:0"));
	assert_true(kpod_span_is(m.type, "ext3"));
	assert_true(kpod_unescape(m.point, path, sizeof(path)));
	assert_string_equal(path, "/my vol");
	assert_true(kpod_parse_mount(span("1 2 0:5 / / rw - tmpfs none rw"), &m));
	assert_true(kpod_span_is(m.type, "tmpfs"));
	assert_false(kpod_parse_mount(span("1 2 0:5 / / rw"), &m));
	assert_false(kpod_parse_mount(span("1 2 0:5 / / rw -"), &m));
	assert_false(kpod_parse_mount(span("- - - - - - -"), &m));
	assert_false(kpod_parse_mount(span(""), &m));
	assert_true(kpod_unescape(span("/0123456789abcd"), path, 16));
	assert_false(kpod_unescape(span("/0123456789abcde"), path, 16));
	assert_true(kpod_unescape(span("/a\\04"), path, 16));
	assert_string_equal(path, "/a\\04");
	assert_false(kpod_unescape(span(""), path, 0));
}

int main(void)
{
#define TEST(f) cmocka_unit_test_setup_teardown(f, set_up, tear_down)
	const struct CMUnitTest tests[] = {
		TEST(cpu_of_a_kernel),
		TEST(memory_of_a_kernel),
		TEST(io_of_a_kernel),
		TEST(pressure_and_pids_of_a_kernel),
		TEST(odd_texts_cost_only_their_value),
		TEST(huge_text_is_cut_at_a_line),
		TEST(unreadable_and_missing_are_told_apart),
		TEST(vanished_cgroup_keeps_its_counters),
		TEST(few_descriptors_are_enough),
		cmocka_unit_test(mounts_are_read),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
