/* SPDX-License-Identifier: Apache-2.0 */
/* Where the cgroup2 hierarchy is. Knows nothing of other modules. */
#ifndef KPOD_LOADER_BASE_CGROUP2_H
#define KPOD_LOADER_BASE_CGROUP2_H

#include <stdbool.h>
#include <stddef.h>

#define KPOD_ROOT_ID 1 /* the root's cgroup id, in every cgroup2 hierarchy */

/*
 * The mount that shows the whole hierarchy, wherever it is: in a cgroup namespace of our own, the
 * usual place shows our own part only. Without one, the first.
 */
int kpod_find_cgroup2(char *root, size_t size);

/*
 * Whether what this mount shows is only the cgroup that this process is in, as in a container that
 * was not given the node's: no other container can be found there.
 */
bool kpod_is_own_cgroup(const char *root);

#endif
