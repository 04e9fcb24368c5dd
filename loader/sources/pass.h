/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A thread that reads for a source what may take long, one pass after the other, so that the
 * snapshot waits for it no longer than it likes.
 *
 * While a pass runs, what it works on is the thread's; between passes it is the caller's.
 * Knows base/clock.h.
 */
#ifndef KPOD_LOADER_SOURCES_PASS_H
#define KPOD_LOADER_SOURCES_PASS_H

#include <stdbool.h>
#include <stdint.h>

struct kpod_pass;

/* For how long a snapshot waits for the passes that it has begun, all together. */
#define KPOD_PASS_PATIENCE_NS 50000000ULL

/* An answer that is older is not shown any more. */
#define KPOD_ANSWER_AGE_MAX_NS 60000000000ULL

/* NULL: no memory. There is no thread before the first pass. */
struct kpod_pass *kpod_pass_new(void (*run)(void *context), void *context);

/* Begins a pass if none is running. False: there can be no thread. */
bool kpod_pass_begin(struct kpod_pass *p);

/* Waits for the end of the pass. False: it still runs at this time (CLOCK_MONOTONIC). */
bool kpod_pass_wait(struct kpod_pass *p, uint64_t until_ns);

/* For run(): the pass is to end early. */
bool kpod_pass_is_stopping(const struct kpod_pass *p);

/* False: the pass does not end; it and what it works on must be left alone for good. */
bool kpod_pass_close(struct kpod_pass *p);

#endif
