/* SPDX-License-Identifier: Apache-2.0 */
#include "abi.h"

#include <stdio.h>

#define FIELD(record, field)                                                                       \
	{#record, #field, offsetof(struct record, field), sizeof(((struct record *)0)->field)},

const struct kpod_abi_field kpod_abi_fields[] = {KPOD_ABI_FIELDS(FIELD)};
const size_t kpod_abi_field_count = sizeof(kpod_abi_fields) / sizeof(kpod_abi_fields[0]);

_Static_assert(sizeof(struct kpod_header) <= KPOD_HEADER_SIZE, "header outgrew its page");
_Static_assert(sizeof(struct kpod_end) % KPOD_RECORD_ALIGN == 0, "END is not aligned");

uint64_t kpod_layout_digest(void)
{
	uint64_t hash = 0xcbf29ce484222325ULL;
	char line[128];

	for (size_t i = 0; i < kpod_abi_field_count; i++) {
		const struct kpod_abi_field *f = &kpod_abi_fields[i];

		snprintf(line, sizeof(line), "%s.%s:%u:%u\n", f->record, f->field, f->offset,
			 f->size);
		for (const char *c = line; *c; c++)
			hash = (hash ^ (uint8_t)*c) * 0x100000001b3ULL;
	}
	return hash;
}
