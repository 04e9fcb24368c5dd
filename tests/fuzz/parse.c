/* SPDX-License-Identifier: Apache-2.0 */
/* Any bytes are fine for the parser of cgroup files, /proc/PID/net/dev and mountinfo. */
#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "base/parse.h"
#include "shared/abi.h"

static const struct kpod_field fields[] = {
	{.at = 0, .word = 0},
	{.at = 1, .word = 1},
	{.line = "usage_usec", .at = 1, .word = 2},
	{.line = "some", .sub = "total", .word = 3},
	{.sub = "rbytes", .word = 4},
	{.line = "eth0:", .at = 16, .word = 5},
};

#define COUNT (sizeof(fields) / sizeof(fields[0]))

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct kpod_span text = {(const char *)data, size}, rest = text, line, word;
	uint64_t words[COUNT + 1], number;
	struct kpod_mount mount;
	size_t seen = 0;
	char path[64];

	memset(words, 0xff, sizeof(words));
	kpod_parse(text, fields, COUNT, words);
	assert(words[COUNT] == KPOD_NO_VALUE);
	while (kpod_next_line(&rest, &line)) {
		seen += line.size + 1;
		kpod_parse_line(line, fields, COUNT, words);
		if (kpod_parse_mount(line, &mount) &&
		    kpod_unescape(mount.point, path, sizeof(path)))
			assert(strlen(path) <= mount.point.size);
		while (kpod_next_word(&line, &word)) {
			assert(word.size && !memchr(word.at, ' ', word.size));
			if (kpod_number(word, &number))
				assert(number < KPOD_NO_VALUE);
		}
	}
	assert(seen == size || seen == size + 1);
	return 0;
}
