/* SPDX-License-Identifier: Apache-2.0 */
/* What happens, as it happens. Knows kernel/ and the collectors' names of reasons. */
#ifndef KPOD_LOADER_VIEW_EVENTS_H
#define KPOD_LOADER_VIEW_EVENTS_H

#include <stdbool.h>
#include <stddef.h>

struct bpf_object;

/* Whether there are events of this name. */
bool kpod_events_are(const char *name);

/*
 * Prints a line for each event until SIGINT or SIGTERM; only those of cgroups that have `container`
 * in their path, if it is not NULL. On an error stderr has a line.
 */
int kpod_events(const char *name, const char *container, bool json);

/*
 * For `verify`: a set of its programs, opened, not loaded. NULL with errno; bpf_object__close() is
 * due.
 */
struct bpf_object *kpod_events_open(size_t set);

/* What a set needs, for people. NULL: there is no such set, nor one after it. */
const char *kpod_events_needs(size_t set);

#endif
