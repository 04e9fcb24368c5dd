/* SPDX-License-Identifier: Apache-2.0 */
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "sources/cgroupfs.h"

struct cgroup_io_row {
	uint64_t read_bytes, written_bytes, discarded_bytes;
	uint64_t reads, writes, discards;
};

#define NAME_WORDS 4 /* a disk's name has 32 bytes at most, NUL included (DISK_NAME_LEN) */

#define TO(field) .word = KPOD_WORD(cgroup_io_row, field)

static const struct kpod_cgroup_file list[] = {
	KPOD_FILE("io.stat", {.sub = "rbytes", TO(read_bytes)},
		  {.sub = "wbytes", TO(written_bytes)}, {.sub = "dbytes", TO(discarded_bytes)},
		  {.sub = "rios", TO(reads)}, {.sub = "wios", TO(writes)},
		  {.sub = "dios", TO(discards)}),
};

/* Names are looked up once in a pass: a number may have another name in the next. */
static struct {
	char number[16];
	uint64_t name[NAME_WORDS];
} known[64];
static size_t known_count;

static void begin(void)
{
	known_count = 0;
}

/* The name of device MAJOR:MINOR, or the number where sysfs has none. */
static void name_device(const char *number, uint64_t *name)
{
	char link[64], target[512];
	char *text = (char *)name, *slash;
	ssize_t size;

	snprintf(link, sizeof(link), "/sys/dev/block/%s", number);
	size = readlink(link, target, sizeof(target) - 1);
	target[size > 0 ? size : 0] = '\0';
	slash = strrchr(target, '/');
	snprintf(text, 8 * NAME_WORDS, "%s", slash && slash[1] ? slash + 1 : number);
	while ((text = strchr(text, '!'))) /* sysfs has it for a slash */
		*text = '/';
}

/* "8:0 rbytes=…"; before 5.14 also "8:16 8:0 rbytes=…", where 8:16 had nothing to tell. */
static bool key(struct kpod_span line, uint64_t *key)
{
	struct kpod_span word, device = {};
	char number[sizeof(known[0].number)] = "";

	while (kpod_next_word(&line, &word) && !memchr(word.at, '=', word.size))
		device = word;
	if (!device.size || device.size >= sizeof(number))
		return false;
	memcpy(number, device.at, device.size);
	if (strspn(number, "0123456789:") != device.size)
		return false;
	for (size_t i = 0; i < known_count; i++) {
		if (!strcmp(known[i].number, number)) {
			memcpy(key, known[i].name, sizeof(known[i].name));
			return true;
		}
	}
	name_device(number, key);
	if (known_count < KPOD_COUNT(known)) {
		memcpy(known[known_count].number, number, sizeof(number));
		memcpy(known[known_count++].name, key, 8 * NAME_WORDS);
	}
	return true;
}

static const struct kpod_cgroup_files files = {
	.controller = "io", KPOD_FILES(list), .key = key, .begin = begin};

#define BYTES "kpod_disk_bytes_total"
#define BYTES_HELP "Bytes read from, written to and discarded on a device (io.stat)."
#define OPERATIONS "kpod_disk_operations_total"
#define OPERATIONS_HELP                                                                            \
	"Bios to a device (io.stat): reads, writes and discards as they were submitted. The "      \
	"kernel merges many into one request, so this is not comparable with the count of "        \
	"kpod_block_io_device_seconds."

static const struct kpod_column columns[] = {
	{BYTES, BYTES_HELP, "operation", "read", .kind = KPOD_COUNTER, TO(read_bytes)},
	{BYTES, BYTES_HELP, "operation", "write", .kind = KPOD_COUNTER, TO(written_bytes)},
	{BYTES, BYTES_HELP, "operation", "discard", .kind = KPOD_COUNTER, TO(discarded_bytes)},
	{OPERATIONS, OPERATIONS_HELP, "operation", "read", .kind = KPOD_COUNTER, TO(reads)},
	{OPERATIONS, OPERATIONS_HELP, "operation", "write", .kind = KPOD_COUNTER, TO(writes)},
	{OPERATIONS, OPERATIONS_HELP, "operation", "discard", .kind = KPOD_COUNTER, TO(discards)},
};

static const struct kpod_key keys[] = {{.label = "device", .words = NAME_WORDS}};

static const struct kpod_table tables[] = {
	{.name = "cgroup_io",
	 .scope = KPOD_PER_SLOT,
	 .since = KPOD_SINCE_CGROUP,
	 .inclusive = true,
	 .row_size = sizeof(struct cgroup_io_row),
	 .words = sizeof(struct cgroup_io_row) / 8,
	 KPOD_COLUMNS(columns),
	 KPOD_KEYS(keys)},
};

static const struct kpod_attachment attachments[] = {{.name = "files"}};

const struct kpod_collector kpod_collector_cgroup_io = {
	.name = "cgroup_io",
	.help = "disk I/O by device, from io.stat",
	.owner = "the cgroup, with all below it",
	.since = "5.10",
	.profile = KPOD_MINIMAL,
	.attachments = attachments,
	.attachment_count = KPOD_COUNT(attachments),
	.tables = tables,
	.table_count = KPOD_COUNT(tables),
	.source = &kpod_cgroup_source,
	.files = &files,
};
