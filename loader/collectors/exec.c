/* SPDX-License-Identifier: Apache-2.0 */
#include "base/collector.h"

#include "bpf/exec.h"

KPOD_OBJECT(exec);

#define FORKS "kpod_process_forks_total"
#define FORKS_HELP "Processes and threads started, by the container they start in."
#define EXITS "kpod_process_exits_total"
#define EXITS_HELP                                                                                 \
	"Processes ended, counted with their last thread: with exit status 0 (success), another "  \
	"status (failure), or by a signal (signal)."

static const struct kpod_column columns[] = {
	{"kpod_process_execs_total", "Programs started: execve() that succeeded.",
	 .kind = KPOD_COUNTER, .word = KPOD_WORD(exec_row, execs)},
	{FORKS, FORKS_HELP, "kind", "process", .kind = KPOD_COUNTER,
	 .word = KPOD_WORD(exec_row, processes)},
	{FORKS, FORKS_HELP, "kind", "thread", .kind = KPOD_COUNTER,
	 .word = KPOD_WORD(exec_row, threads)},
	{EXITS, EXITS_HELP, "outcome", "success", .kind = KPOD_COUNTER,
	 .word = KPOD_WORD(exec_row, exits[KPOD_EXIT_SUCCESS])},
	{EXITS, EXITS_HELP, "outcome", "failure", .kind = KPOD_COUNTER,
	 .word = KPOD_WORD(exec_row, exits[KPOD_EXIT_FAILURE])},
	{EXITS, EXITS_HELP, "outcome", "signal", .kind = KPOD_COUNTER,
	 .word = KPOD_WORD(exec_row, exits[KPOD_EXIT_SIGNAL])},
};

static const struct kpod_table tables[] = {
	{.name = "exec",
	 .scope = KPOD_PER_SLOT,
	 .map = "exec_rows",
	 .row_size = sizeof(struct exec_row),
	 .words = KPOD_WORD(exec_row, reserved),
	 KPOD_COLUMNS(columns)},
};

static const struct kpod_attachment attachments[] = {
	{.name = "tracepoint",
	 .where = KPOD_TRACEPOINTS_PREEMPT,
	 KPOD_STEPS({"kpod_exec_exec_tp", KPOD_ATTACH}, {"kpod_exec_wake", KPOD_ATTACH},
		    {"kpod_exec_exit_tp", KPOD_ATTACH})},
	{.name = "tp_btf",
	 KPOD_STEPS({"kpod_exec_exec", KPOD_ATTACH}, {"kpod_exec_fork", KPOD_ATTACH},
		    {"kpod_exec_exit", KPOD_ATTACH})},
};

const struct kpod_collector kpod_collector_exec = {
	.name = "exec",
	.help = "processes started, replaced and ended",
	.owner = "the task that starts, is replaced or ends",
	.since = "5.10",
	KPOD_EMBEDDED(exec),
	.attachments = attachments,
	.attachment_count = KPOD_COUNT(attachments),
	.tables = tables,
	.table_count = KPOD_COUNT(tables),
};
