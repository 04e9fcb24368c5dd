// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/* Softirqs, by vector. */
#include "irq.bpf.h"

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct irq_row);
} softirq_rows SEC(".maps");

SEC("tp_btf/softirq_entry")
int BPF_PROG(kpod_softirqs_entry)
{
	irq_enter();
	return 0;
}

SEC("tp_btf/softirq_exit")
int BPF_PROG(kpod_softirqs_exit, unsigned int vector)
{
	struct irq_row *row;
	__u64 ns;

	if (!irq_leave(&ns) || vector >= KPOD_SOFTIRQS)
		return 0;
	row = kpod_row(softirq_rows, vector);
	if (!row)
		return 0;
	kpod_add(row->ns, ns);
	kpod_add(row->duration[kpod_bucket(ns)], 1);
	return 0;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
