/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Text that the kernel writes for people, read into words by declaration. One parser for all
 *formats of Documentation/admin-guide/cgroup-v2.rst, "Format", and for /proc/PID/net/dev:
 *
 *	single value, or values in a line	.at
 *	KEY VALUE (flat keyed)			.line, .at = 1
 *	KEY SUB=VALUE … (nested keyed)		.line, .sub
 *
 * Trusts nothing: any bytes of any size are fine. No function allocates or prints.
 */
#ifndef KPOD_LOADER_BASE_PARSE_H
#define KPOD_LOADER_BASE_PARSE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct kpod_field {
	const char *line; /* first word of its line; NULL: of any line */
	const char *sub;  /* its word is SUB=VALUE; NULL: it is word number `at`, from 0 */
	uint8_t at;
	uint16_t word; /* of the row it goes to */
};

/* A piece of somebody else's text, without a NUL. */
struct kpod_span {
	const char *at;
	size_t size;
};

/* Takes the next line off the text, without its end. False: there is none. */
bool kpod_next_line(struct kpod_span *text, struct kpod_span *line);

/* Takes the next word off the line; spaces, tabs and CRs separate. False: there is none. */
bool kpod_next_word(struct kpod_span *line, struct kpod_span *word);

bool kpod_span_is(struct kpod_span span, const char *text);

/* A decimal number below KPOD_NO_VALUE, and nothing else. */
bool kpod_number(struct kpod_span span, uint64_t *number);

/*
 * Puts what the fields find in a line, or in all lines of a text, into words[]. What is not there,
 * "max" and what is no number leave their word alone. Returns how many were no number.
 */
uint32_t kpod_parse_line(struct kpod_span line, const struct kpod_field *fields, size_t count,
			 uint64_t *words);
uint32_t kpod_parse(struct kpod_span text, const struct kpod_field *fields, size_t count,
		    uint64_t *words);

/* A line of mountinfo (proc(5)). */
struct kpod_mount {
	struct kpod_span id;
	struct kpod_span parent; /* the id of the mount that it is mounted on */
	struct kpod_span device; /* MAJOR:MINOR */
	struct kpod_span root;	 /* of the file system, what is mounted here; escaped */
	struct kpod_span point;	 /* escaped */
	struct kpod_span type;
};

bool kpod_parse_mount(struct kpod_span line, struct kpod_mount *mount);

/* Undoes the octal escapes of a mount point. False: it and its NUL do not fit into `room` bytes. */
bool kpod_unescape(struct kpod_span escaped, char *out, size_t room);

#endif
