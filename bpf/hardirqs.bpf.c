// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/* Handlers of interrupts, by name. Interrupts of one name, such as a device's queues, share it. */
#include "irq.bpf.h"
#include "units.bpf.h"

/* Without shards: an interrupt comes to one CPU, mostly, and large nodes have many of both. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct irq_row);
} hardirq_rows SEC(".maps");

KPOD_UNITS(hardirq);

/* A name is told from others by a hash of what fits into the key. */
static __always_inline void name_unit(struct kpod_unit *unit, struct irqaction *action)
{
	bpf_probe_read_kernel_str(unit->words, sizeof(unit->words), action->name);
	for (int i = 0; i < KPOD_UNIT_WORDS; i++) {
		unit->key.major = (unit->key.major ^ unit->words[i]) * 0x9e3779b97f4a7c15ULL;
		unit->key.major ^= unit->key.major >> 32;
	}
}

SEC("tp_btf/irq_handler_entry")
int BPF_PROG(kpod_hardirqs_entry)
{
	irq_enter();
	return 0;
}

SEC("tp_btf/irq_handler_exit")
int BPF_PROG(kpod_hardirqs_exit, int irq, struct irqaction *action)
{
	struct kpod_unit unit = {};
	struct irq_row *row;
	__u32 number;
	__u64 ns;

	if (!irq_leave(&ns))
		return 0;
	name_unit(&unit, action);
	number = kpod_unit_find(hardirq, &unit.key);
	if (!number)
		number = kpod_unit_add(hardirq, &unit);
	row = number ? kpod_shared_row(hardirq_rows, number) : NULL;
	if (!row)
		return 0;
	kpod_add_shared(row->ns, ns);
	kpod_add_shared(row->duration[kpod_bucket(ns)], 1);
	return 0;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
