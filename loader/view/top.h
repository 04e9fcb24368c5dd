/* SPDX-License-Identifier: Apache-2.0 */
/* A table of containers that moves, in a terminal. Knows view/view.h. */
#ifndef KPOD_LOADER_VIEW_TOP_H
#define KPOD_LOADER_VIEW_TOP_H

#include "options.h"

/* Returns the exit status: 0, 1 if there is no live segment, 2 if an option is wrong. */
int kpod_top(const struct kpod_options *options);

#endif
