/* SPDX-License-Identifier: Apache-2.0 */
/* The loader's log: lines on stderr. Knows nothing of the other modules. */
#ifndef KPOD_LOADER_BASE_LOG_H
#define KPOD_LOADER_BASE_LOG_H

/* Prints one line on stderr, with the name of the program before it. */
__attribute__((format(printf, 1, 2))) void kpod_log(const char *format, ...);

#endif
