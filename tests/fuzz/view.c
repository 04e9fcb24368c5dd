/* SPDX-License-Identifier: Apache-2.0 */
/* `kpod-loader dump`, `schema` and `run --print` on any segment with any schema. */
#include "segment.h"

#include "base/clock.h"
#include "base/log.h"
#include "view/view.h"

uint64_t kpod_clock(clockid_t clock)
{
	(void)clock;
	return FUZZ_NOW;
}

void kpod_log(const char *format, ...)
{
	(void)format;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static FILE *out;
	struct fuzz_input in = {data, size};
	struct kpod_view *view = NULL;

	if (!out)
		out = fopen("/dev/null", "w");
	kpod_view_schema(data, size, out);
	for (int part = 0; part < 2; part++) {
		const char *path = fuzz_segment(&in);

		if (!part)
			view = kpod_view_open(path);
		kpod_view_dump(view, &(struct kpod_view_form){}, out);
		kpod_view_dump(view, &(struct kpod_view_form){.json = true, .raw = true}, out);
		kpod_view_rates(view, out);
	}
	kpod_view_close(view);
	return 0;
}
