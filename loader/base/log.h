/* SPDX-License-Identifier: Apache-2.0 */
/* The loader's log: lines on stderr. Knows nothing of the other modules. */
#ifndef KPOD_LOADER_BASE_LOG_H
#define KPOD_LOADER_BASE_LOG_H

#include <stdbool.h>

/* Print one line on stderr, with the name of the program before it: of an error, … */
__attribute__((format(printf, 1, 2))) void kpod_log(const char *format, ...);
/* … of what costs something, while the rest goes on, … */
__attribute__((format(printf, 1, 2))) void kpod_warn(const char *format, ...);
/* … and of what is as it should be. */
__attribute__((format(printf, 1, 2))) void kpod_info(const char *format, ...);

/* From now on this is a program that runs for long: lines have time and level, or are JSON. */
void kpod_log_start(bool json);

#endif
