/* SPDX-License-Identifier: Apache-2.0 */
/* People's view of a segment. Knows the reader of shared/ only. */
#ifndef KPOD_LOADER_VIEW_VIEW_H
#define KPOD_LOADER_VIEW_VIEW_H

#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>

struct kpod_view;

struct kpod_view *kpod_view_open(const char *path);
void kpod_view_close(struct kpod_view *view);

/* Whether a loader is writing the segment. -ENODATA: it is not, and one line on stderr has said
 * why. */
int kpod_view_check(struct kpod_view *view);

/* All rows of the last snapshot. -ENODATA: not LIVE, and one line on stderr has said so. */
int kpod_view_dump(struct kpod_view *view, bool json, FILE *out);

/* Bytes as a JSON string, printable ASCII: what is not is escaped byte by byte. */
void kpod_print_text(FILE *out, const char *text, size_t size);

/* A schema document as JSON. */
int kpod_view_schema(const void *document, size_t size, FILE *out);

/* Rates since the last call, the busiest slots first. */
int kpod_view_rates(struct kpod_view *view, FILE *out);

#endif
