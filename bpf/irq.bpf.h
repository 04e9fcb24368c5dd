/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * Time between an entry and an exit on one CPU, and from whom it was taken: the container of the
 * task that the CPU was running. The idle task loses nothing. Nor do kernel threads, which belong
 * to no container: in ksoftirqd and in threads of interrupts the work is not even an interruption.
 */
#ifndef KPOD_IRQ_BPF_H
#define KPOD_IRQ_BPF_H

#include "slots.bpf.h"

#include "irq.h"

#define PF_KTHREAD 0x00200000

struct irq_begin {
	__u64 ns; /* 0: none */
	struct kpod_owner owner;
} __attribute__((aligned(64)));

/* Written by its CPU only: handlers and softirqs do not nest in their own kind. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct irq_begin);
} irq_begins SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct irq_stolen_row);
} irq_stolen_rows SEC(".maps");

static __always_inline void irq_enter(void)
{
	__u32 cpu = bpf_get_smp_processor_id();
	struct irq_begin *begin = bpf_map_lookup_elem(&irq_begins, &cpu);

	if (begin)
		begin->ns = bpf_ktime_get_ns();
}

/* False: it began before the loader did. */
static __always_inline bool irq_leave(__u64 *ns)
{
	struct task_struct *task = bpf_get_current_task_btf();
	__u32 cpu = bpf_get_smp_processor_id();
	struct irq_begin *begin = bpf_map_lookup_elem(&irq_begins, &cpu);
	struct irq_stolen_row *row;

	if (!begin || !begin->ns)
		return false;
	*ns = bpf_ktime_get_ns() - begin->ns;
	begin->ns = 0;
	if (!task->pid || task->flags & PF_KTHREAD)
		return true;
	row = kpod_row(irq_stolen_rows, kpod_owner_slot(&begin->owner, task->cgroups->dfl_cgrp));
	if (row)
		kpod_add(row->ns, *ns);
	return true;
}

#endif
