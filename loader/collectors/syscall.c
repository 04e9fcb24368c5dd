/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <string.h>

#include <asm/unistd.h>
#include <bpf/libbpf.h>

#include "base/collector.h"
#include "base/log.h"
#include "collectors/syscall.h"

#include "bpf/syscall.h"

KPOD_OBJECT(syscall);

/* The build makes it from asm/unistd.h: what this architecture has, as of the build's headers. */
static const char *const numbers[KPOD_SYSCALL_NUMBERS] = {
#include "syscalls.inc"
};

static const char *chosen[KPOD_SYSCALL_LISTED];
static struct kpod_names names = {.names = chosen};
static uint8_t list[KPOD_SYSCALL_NUMBERS] = {
	[__NR_rt_sigreturn] = KPOD_SYSCALL_NO_RESULT,
};

static int choose(const char *name, size_t size)
{
	for (size_t number = 0; number < KPOD_COUNT(numbers); number++) {
		if (!numbers[number] || strlen(numbers[number]) != size ||
		    memcmp(numbers[number], name, size))
			continue;
		if (list[number] & ~KPOD_SYSCALL_NO_RESULT)
			return 0;
		if (names.count == KPOD_SYSCALL_LISTED)
			return -E2BIG;
		chosen[names.count++] = numbers[number];
		list[number] |= (uint8_t)names.count;
		return 0;
	}
	return -ENOENT;
}

/* These need not exist: arm64 has no epoll_wait. */
static const char *const defaults[] = {
	"read",	     "write",  "pread64",  "pwrite64", "openat",     "close",	    "fsync",
	"fdatasync", "futex",  "poll",	   "ppoll",    "epoll_wait", "epoll_pwait", "connect",
	"accept4",   "sendto", "recvfrom", "sendmsg",  "recvmsg",    "execve",
};

int kpod_syscalls_choose(const char *comma_separated)
{
	for (size_t i = 0; !comma_separated && i < KPOD_COUNT(defaults); i++)
		choose(defaults[i], strlen(defaults[i]));
	for (const char *at = comma_separated; at && *at;) {
		size_t size = strcspn(at, ",");
		int err = choose(at, size);

		if (err == -E2BIG)
			kpod_log("--syscalls: more than %d", KPOD_SYSCALL_LISTED);
		else if (err)
			kpod_log("--syscalls: there is no system call '%.*s' here", (int)size, at);
		if (err)
			return err;
		at += size + (at[size] == ',');
	}
	return 0;
}

static const struct kpod_names *listed(void)
{
	return &names;
}

static int prepare(struct bpf_object *object)
{
	struct bpf_map *map = bpf_object__find_map_by_name(object, ".rodata.syscall");

	return !map ? -ENOENT : bpf_map__set_initial_value(map, list, sizeof(list)) ? -errno : 0;
}

static const struct kpod_column columns[] = {
	{"kpod_syscalls_total", "System calls, all of them.", .kind = KPOD_COUNTER,
	 .word = KPOD_WORD(syscall_row, calls)},
	{"kpod_syscalls_errors_total", "System calls that returned an error.", .kind = KPOD_COUNTER,
	 .word = KPOD_WORD(syscall_row, errors)},
	{"kpod_syscalls_seconds_total", "Time in system calls that have returned, waits included.",
	 .kind = KPOD_COUNTER, .decimals = KPOD_SECONDS, .word = KPOD_WORD(syscall_row, ns)},
	{"kpod_syscalls_foreign_total",
	 "System calls of another table (32-bit, x32): in the totals, but not by name.",
	 .kind = KPOD_COUNTER, .word = KPOD_WORD(syscall_row, foreign)},
	{"kpod_syscalls_untracked_total", "System calls not counted, for want of kernel memory.",
	 .kind = KPOD_COUNTER, .word = KPOD_WORD(syscall_row, untracked)},
	{"kpod_syscalls_unfinished_total",
	 "System calls counted without error or duration, as the kernel left out our programs when "
	 "they returned.",
	 .kind = KPOD_COUNTER, .word = KPOD_WORD(syscall_row, unfinished)},
};

static const struct kpod_key keys[] = {{.label = "call", .values = listed}};

static const struct kpod_column call_columns[] = {
	{"kpod_syscall_calls_total",
	 "System calls of this name (--syscalls), counted when they return or their task ends.",
	 .kind = KPOD_COUNTER, .word = KPOD_WORD(syscall_call_row, calls)},
#define X(class, name_)                                                                            \
	{"kpod_syscall_errors_total",                                                              \
	 "System calls that returned an error, by class of errno (bpf/syscall.h).",                \
	 "class",                                                                                  \
	 name_,                                                                                    \
	 .kind = KPOD_COUNTER,                                                                     \
	 .word = KPOD_WORD(syscall_call_row, errors[KPOD_ERROR_##class])},
	KPOD_ERROR_CLASSES(X)
#undef X
		{"kpod_syscall_duration_seconds",
		 "Time from the entry of system calls to their return, waits included.",
		 KPOD_TIME_HISTOGRAM(syscall_call_row, duration, ns)},
};

static const struct kpod_table tables[] = {
	{.name = "syscalls",
	 .scope = KPOD_PER_SLOT,
	 .map = "syscall_rows",
	 .row_size = sizeof(struct syscall_row),
	 .words = KPOD_WORD(syscall_row, reserved),
	 KPOD_COLUMNS(columns)},
	{.name = "syscall",
	 .scope = KPOD_PER_SLOT,
	 .map = "syscall_call_rows",
	 .row_size = sizeof(struct syscall_call_row),
	 .words = KPOD_WORD(syscall_call_row, reserved),
	 KPOD_COLUMNS(call_columns),
	 KPOD_KEYS(keys),
	 .units = "syscall",
	 .unit_capacity = 4096,
	 .unsharded = true},
};

static const struct kpod_attachment attachments[] = {
	{.name = "tp_btf twins",
	 .where = KPOD_TRACEPOINTS_PREEMPT,
	 KPOD_STEPS({"kpod_syscall_end", KPOD_ATTACH_TWIN}, {"kpod_syscall_end2", KPOD_ATTACH_TWIN},
		    {"kpod_syscall_exit", KPOD_ATTACH_TWIN},
		    {"kpod_syscall_exit2", KPOD_ATTACH_TWIN},
		    {"kpod_syscall_enter", KPOD_ATTACH_TWIN},
		    {"kpod_syscall_enter2", KPOD_ATTACH_TWIN})},
	{.name = "tp_btf",
	 KPOD_STEPS({"kpod_syscall_end", KPOD_ATTACH}, {"kpod_syscall_exit", KPOD_ATTACH},
		    {"kpod_syscall_enter", KPOD_ATTACH})},
};

const struct kpod_collector kpod_collector_syscall = {
	.name = "syscall",
	.help = "system calls: count, errors and duration",
	.owner = "the calling task",
	.since = "5.12",
	.profile = KPOD_COMPREHENSIVE,
	KPOD_EMBEDDED(syscall),
	.attachments = attachments,
	.attachment_count = KPOD_COUNT(attachments),
	.tables = tables,
	.table_count = KPOD_COUNT(tables),
	.prepare = prepare,
};
