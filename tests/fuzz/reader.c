/* SPDX-License-Identifier: Apache-2.0 */
/* The segment reader on any file: it names a fault, or what it holds may be walked to the end. */
#include "segment.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct fuzz_input in = {data, size};
	struct kpod_reader r;

	for (int part = 0; part < 2; part++) {
		const char *path = fuzz_segment(&in);
		const struct kpod_record *rec = NULL;
		uint32_t crc = 0;

		if (!part)
			kpod_reader_init(&r, path);
		kpod_reader_refresh(&r, FUZZ_NOW);
		if ((r.state == KPOD_INCOMPATIBLE) != (r.fault != KPOD_FAULT_NONE) ||
		    (r.end && r.state != KPOD_LIVE))
			abort();
		while ((rec = kpod_reader_next(&r, rec)))
			crc = kpod_crc32c(crc, rec, rec->size);
	}
	kpod_reader_close(&r);
	return 0;
}
