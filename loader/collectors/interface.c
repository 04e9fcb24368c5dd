/* SPDX-License-Identifier: Apache-2.0 */
/*
 * /proc/PID/net/dev of one process in each network namespace. The file is opened for each pass:
 * open, it would keep the namespace, and so the pod's interfaces, alive.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/parse.h"
#include "cgroups/slots.h"
#include "shared/abi.h"
#include "sources/pass.h"
#include "sources/tasks.h"

KPOD_OBJECT(tasks);

struct interface_row {
	uint64_t received_bytes, received_packets, receive_errors, received_dropped;
	uint64_t sent_bytes, sent_packets, send_errors, sent_dropped;
};

struct interface_reads_row {
	uint64_t errors, left_out, stale;
};

#define NAME_WORDS 2 /* IFNAMSIZ is 16 */
#define INTERFACES_MAX 32
#define TEXT_MAX 65536

#define TO(field) .word = KPOD_WORD(interface_row, field)

static const struct kpod_field fields[] = {
	{.at = 1, TO(received_bytes)}, {.at = 2, TO(received_packets)},
	{.at = 3, TO(receive_errors)}, {.at = 4, TO(received_dropped)},
	{.at = 9, TO(sent_bytes)},     {.at = 10, TO(sent_packets)},
	{.at = 11, TO(send_errors)},   {.at = 12, TO(sent_dropped)},
};

/* The container that a network namespace is shown with. */
struct namespace_owner {
	uint64_t since_ns;
	uint64_t net;
	uint32_t slot;
};

struct state {
	struct kpod_bpf *bpf;
	struct kpod_pass *pass;
	uint64_t wait_until_ns;
	uint64_t read_ns; /* when the pass was begun whose rows are shown */
	bool late;	  /* the last pass took longer than was waited for it */
	bool unread;	  /* a pass has ended whose rows are not shown yet */
	uint64_t *net;	  /* [slot]: the namespace of its rows, 0: it has none */
	uint32_t *generation;
	uint64_t stale;
	/* The pass's, while it runs: */
	struct kpod_tasks tasks;
	struct kpod_task_slot *slots;
	size_t slot_count;
	struct namespace_owner *owners; /* by namespace */
	size_t owner_count;
	struct kpod_kept found;
	uint64_t begun_ns;
	bool whole; /* nothing was cut short */
	uint64_t errors, left_out;
	char text[TEXT_MAX];
};

static int by_namespace(const void *a, const void *b)
{
	const struct namespace_owner *x = a, *y = b;

	if (x->net != y->net)
		return x->net < y->net ? -1 : 1;
	return (x->since_ns > y->since_ns) - (x->since_ns < y->since_ns);
}

/* In each namespace but the node's, the container that is oldest by its oldest process. */
static void choose_namespace_owners(struct state *s)
{
	size_t count = 0, kept = 0;

	for (size_t i = 0; i < s->slot_count; i++) {
		uint32_t slot = s->slots[i].slot;
		const struct kpod_task *task = &s->tasks.of[slot];

		if (task->since_ns && task->net != s->tasks.of[0].net)
			s->owners[count++] =
				(struct namespace_owner){task->since_ns, task->net, slot};
	}
	qsort(s->owners, count, sizeof(*s->owners), by_namespace);
	for (size_t i = 0; i < count; i++)
		if (!kept || s->owners[kept - 1].net != s->owners[i].net)
			s->owners[kept++] = s->owners[i];
	s->owner_count = kept;
}

static const struct namespace_owner *namespace_owner_of(const struct state *s, uint64_t net)
{
	size_t low = 0, high = s->owner_count;

	while (low < high) {
		size_t middle = (low + high) / 2;

		if (s->owners[middle].net == net)
			return &s->owners[middle];
		if (s->owners[middle].net < net)
			low = middle + 1;
		else
			high = middle;
	}
	return NULL;
}

/* One line, "  eth0: 1 2 3 …", to a row. False: its name looks like another's. */
static bool add_interface(struct kpod_kept *kept, uint32_t slot, uint32_t generation,
			  struct kpod_span line)
{
	struct kpod_span rest = line, name;
	uint64_t *row;

	if (!kpod_next_word(&rest, &name) || name.at[name.size - 1] != ':')
		return true;
	name.size--;
	if (kpod_span_is(name, "lo"))
		return true;
	row = kpod_kept_add(kept, slot, generation);
	if (!row)
		return false;
	kpod_kept_text(row, NAME_WORDS, name.at, name.size);
	kpod_parse_line(line, fields, KPOD_COUNT(fields), row + NAME_WORDS);
	return kpod_kept_settle(kept);
}

/* Of a process that has no namespace to show any more, or does not let us see it: nothing. */
static void read_interfaces(struct state *s, uint32_t slot, uint32_t generation)
{
	int process = kpod_tasks_open_process(&s->tasks, slot);
	ssize_t size =
		process < 0 ? process : kpod_task_read(process, "net/dev", s->text, TEXT_MAX);
	struct kpod_span text = {s->text, size < 0 ? 0 : (size_t)size}, line;
	size_t first = s->found.now.count;

	if (process >= 0)
		close(process);
	if (size < 0) /* it has ended, or is just ending */
		s->errors += size != -ESRCH && size != -ENOENT && size != -EINVAL;
	while (kpod_next_line(&text, &line))
		s->left_out += s->found.now.count - first >= INTERFACES_MAX ||
			       !add_interface(&s->found, slot, generation, line);
}

/* In the pass's thread: what the namespaces have now. */
static void run_pass(void *context)
{
	struct state *s = context;

	s->begun_ns = kpod_clock(CLOCK_MONOTONIC);
	kpod_kept_begin(&s->found);
	s->whole = kpod_tasks_find(&s->tasks, s->bpf);
	if (!s->whole)
		return;
	choose_namespace_owners(s);
	for (size_t i = 0; i < s->slot_count && !kpod_pass_is_stopping(s->pass); i++) {
		uint32_t slot = s->slots[i].slot;
		uint64_t net = s->tasks.of[slot].net;
		const struct namespace_owner *owner = net ? namespace_owner_of(s, net) : NULL;

		if (owner && owner->slot == slot)
			read_interfaces(s, slot, s->slots[i].generation);
	}
}

/* The rows that the pass has found for this slot, from row *at on. False: there are none. */
static bool copy_found(struct state *s, struct kpod_kept *kept, uint32_t slot, uint32_t generation,
		       size_t *at)
{
	uint32_t owner, its_generation;
	const uint64_t *from;
	bool any = false;

	while ((from = kpod_kept_row(&s->found, *at, &owner, &its_generation)) && owner <= slot) {
		uint64_t *row = owner == slot && its_generation == generation
					? kpod_kept_add(kept, slot, generation)
					: NULL;

		(*at)++;
		if (!row)
			continue;
		memcpy(row, from, (kept->stride - 1) * sizeof(*row));
		any = true;
	}
	return any;
}

/* The rows of a pass that has ended. */
static void show_found(struct state *s, struct kpod_kept *kept, struct kpod_slots *slots)
{
	size_t at = 0;

	for (uint32_t slot = 1; slot < slots->scanned; slot++) {
		const struct kpod_slot_info *info = kpod_slot_info(slots, slot);
		const struct namespace_owner *owner;

		if (!info || !slots->visible[slot])
			continue;
		if (s->generation[slot] != info->generation)
			s->net[slot] = 0;
		s->generation[slot] = info->generation;
		if (copy_found(s, kept, slot, info->generation, &at)) {
			s->net[slot] = s->tasks.of[slot].net;
			continue;
		}
		/* Its last totals stay, unless the namespace is shown with another container now.
		 */
		owner = s->net[slot] ? namespace_owner_of(s, s->net[slot]) : NULL;
		if (owner && owner->slot != slot)
			s->net[slot] = 0;
		if (s->net[slot])
			kpod_kept_keep(kept, slot, info->generation, info->died_ns);
	}
}

/* Those of the pass before, while the next one runs; but not for ever. */
static void show_last(struct state *s, struct kpod_kept *kept, struct kpod_slots *slots)
{
	bool stale = kpod_clock(CLOCK_MONOTONIC) - s->read_ns > KPOD_ANSWER_AGE_MAX_NS;

	for (uint32_t slot = 1; slot < slots->scanned; slot++) {
		const struct kpod_slot_info *info = kpod_slot_info(slots, slot);

		if (!info || !slots->visible[slot] || !s->net[slot] ||
		    s->generation[slot] != info->generation)
			continue;
		if (stale && !info->died_ns)
			s->stale++;
		else
			kpod_kept_keep(kept, slot, info->generation, info->died_ns);
	}
}

static void begin_pass(struct kpod_loaded *l, struct kpod_slots *slots)
{
	struct state *s = l->state;

	if (!kpod_pass_wait(s->pass, 0) || s->unread)
		return;
	s->late = false;
	s->slot_count = kpod_tasks_begin(&s->tasks, slots, s->slots);
	s->unread = kpod_pass_begin(s->pass);
	s->wait_until_ns = kpod_clock(CLOCK_MONOTONIC) + KPOD_PASS_PATIENCE_NS;
}

static void read_all(struct kpod_loaded *l, struct kpod_slots *slots)
{
	struct kpod_kept *kept = &l->tables[0].kept, *own = &l->tables[1].kept;
	struct state *s = l->state;
	bool done = kpod_pass_wait(s->pass, s->late ? 0 : s->wait_until_ns);
	uint64_t *reads;

	s->late = !done;
	kpod_kept_begin(kept);
	if (done && s->unread && s->whole) {
		s->read_ns = s->begun_ns;
		show_found(s, kept, slots);
	} else {
		show_last(s, kept, slots);
	}
	if (done)
		s->unread = false;
	kpod_kept_begin(own);
	reads = kpod_kept_add(own, 0, 0);
	if (!reads)
		return;
	reads[KPOD_WORD(interface_reads_row, errors)] =
		__atomic_load_n(&s->errors, __ATOMIC_RELAXED);
	reads[KPOD_WORD(interface_reads_row, left_out)] =
		__atomic_load_n(&s->left_out, __ATOMIC_RELAXED);
	reads[KPOD_WORD(interface_reads_row, stale)] = s->stale;
}

static void close_state(struct kpod_loaded *l)
{
	struct state *s = l->state;

	if (s->pass && !kpod_pass_close(s->pass))
		return; /* its thread keeps all this */
	kpod_tasks_close(&s->tasks, s->bpf);
	kpod_kept_close(&s->found);
	free(s->slots);
	free(s->owners);
	free(s->net);
	free(s->generation);
	free(s);
}

static int open_state(struct kpod_loaded *l, struct kpod_slots *slots, const struct kpod_options *o)
{
	uint32_t count = slots->bpf->max_containers;
	struct state *s = calloc(1, sizeof(*s));

	if (!s)
		return -ENOMEM;
	l->state = s;
	s->bpf = slots->bpf;
	s->pass = kpod_pass_new(run_pass, s);
	s->slots = calloc(count, sizeof(*s->slots));
	s->owners = calloc(count, sizeof(*s->owners));
	s->net = calloc(count, sizeof(*s->net));
	s->generation = calloc(count, sizeof(*s->generation));
	if (!s->pass || !s->slots || !s->owners || !s->net || !s->generation)
		return -ENOMEM;
	kpod_kept_open(&s->found, l->tables[0].table, NAME_WORDS);
	return kpod_tasks_open(&s->tasks, l, slots->bpf, o);
}

static const struct kpod_source source = {
	.open = open_state, .begin = begin_pass, .read = read_all, .close = close_state};

#define RECEIVED "kpod_interface_receive_"
#define SENT "kpod_interface_transmit_"

static const struct kpod_column columns[] = {
	{RECEIVED "bytes_total", "Bytes received by a pod's interface.", .kind = KPOD_COUNTER,
	 TO(received_bytes)},
	{RECEIVED "packets_total", "Packets received.", .kind = KPOD_COUNTER, TO(received_packets)},
	{RECEIVED "errors_total", "Packets received that were bad.", .kind = KPOD_COUNTER,
	 TO(receive_errors)},
	{RECEIVED "dropped_total", "Good packets received that were dropped.", .kind = KPOD_COUNTER,
	 TO(received_dropped)},
	{SENT "bytes_total", "Bytes sent by a pod's interface.", .kind = KPOD_COUNTER,
	 TO(sent_bytes)},
	{SENT "packets_total", "Packets sent.", .kind = KPOD_COUNTER, TO(sent_packets)},
	{SENT "errors_total", "Packets that could not be sent.", .kind = KPOD_COUNTER,
	 TO(send_errors)},
	{SENT "dropped_total", "Packets dropped before they were sent.", .kind = KPOD_COUNTER,
	 TO(sent_dropped)},
};

static const struct kpod_key keys[] = {{.label = "interface", .words = NAME_WORDS}};

static const struct kpod_column reads_columns[] = {
	{"kpod_interface_read_errors_total", "Network namespaces that could not be looked at.",
	 .kind = KPOD_COUNTER, .word = KPOD_WORD(interface_reads_row, errors)},
	{"kpod_interface_left_out_total",
	 "Interfaces left out of a snapshot: more than 32 in a pod, or two of one name.",
	 .kind = KPOD_COUNTER, .word = KPOD_WORD(interface_reads_row, left_out)},
	{"kpod_interface_stale_total",
	 "Containers whose interfaces were left out of a snapshot, as they were read last over a "
	 "minute before.",
	 .kind = KPOD_COUNTER, .word = KPOD_WORD(interface_reads_row, stale)},
};

static const struct kpod_table tables[] = {
	{.name = "interface",
	 .scope = KPOD_PER_SLOT,
	 .since = KPOD_SINCE_NETWORK,
	 .row_size = sizeof(struct interface_row),
	 .words = sizeof(struct interface_row) / 8,
	 KPOD_COLUMNS(columns),
	 KPOD_KEYS(keys)},
	{.name = "interface_reads",
	 .scope = KPOD_PER_NODE,
	 .row_size = sizeof(struct interface_reads_row),
	 .words = sizeof(struct interface_reads_row) / 8,
	 KPOD_COLUMNS(reads_columns)},
};

static const struct kpod_attachment attachments[] = {KPOD_TASKS_ATTACHMENTS};

const struct kpod_collector kpod_collector_interface = {
	.name = "interface",
	.help = "traffic of each pod's network interfaces, from /proc/PID/net/dev",
	.owner = "the oldest container in the network namespace; the node's own is left out",
	.since = "5.10",
	.profile = KPOD_STANDARD,
	KPOD_EMBEDDED(tasks),
	.attachments = attachments,
	.attachment_count = KPOD_COUNT(attachments),
	.tables = tables,
	.table_count = KPOD_COUNT(tables),
	.sized_by_slot = "tasks",
	.source = &source,
};
