/* SPDX-License-Identifier: Apache-2.0 */
/* Programs started and processes ended. Knows nothing of the other modules. */
#ifndef KPOD_LOADER_VIEW_EVENTS_H
#define KPOD_LOADER_VIEW_EVENTS_H

#include <stdbool.h>

struct bpf_object;

/* Prints a line for each exec and exit until SIGINT or SIGTERM. On an error stderr has a line. */
int kpod_events_exec(bool json);

/* Its programs, for `verify`: opened, not loaded. NULL with errno; bpf_object__close() is due. */
struct bpf_object *kpod_events_open(void);

#endif
