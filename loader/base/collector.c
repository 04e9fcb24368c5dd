/* SPDX-License-Identifier: Apache-2.0 */
#include "base/collector.h"

const char *const kpod_profile_names[KPOD_PROFILES] = {
	[KPOD_MINIMAL] = "minimal",
	[KPOD_STANDARD] = "standard",
	[KPOD_COMPREHENSIVE] = "comprehensive",
};

uint32_t kpod_key_words(const struct kpod_table *table)
{
	uint32_t words = 0;

	for (size_t i = 0; i < table->key_count; i++)
		words += table->keys[i].words ? table->keys[i].words : 1;
	return words;
}
