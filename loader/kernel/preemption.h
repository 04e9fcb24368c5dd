/* SPDX-License-Identifier: Apache-2.0 */
/* Which programs the kernel may preempt. Knows libbpf. */
#ifndef KPOD_LOADER_KERNEL_PREEMPTION_H
#define KPOD_LOADER_KERNEL_PREEMPTION_H

#include "base/collector.h"

/*
 * Of the running kernel. `version` is what uname(2) says of it, `commandline` what it was booted
 * with, and `modes` what it says of its modes ("none voluntary (full)"), as far as they are known.
 */
enum kpod_preemption kpod_preemption(void);
bool kpod_functions_preempt(const char *version, const char *commandline, const char *modes);

#endif
