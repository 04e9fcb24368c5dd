/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* Where each CPU has its part of what the kernel has once for each (5.19). */
#ifndef KPOD_PERCPU_BPF_H
#define KPOD_PERCPU_BPF_H

#include "kernel.h"
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_helpers.h>

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u64);
} per_cpu SEC(".maps");

/* An address to count with: the verifier lets nobody count with pointers. */
static __always_inline __u64 kpod_as_number(void *pointer)
{
	__u64 number = 0;

	bpf_probe_read_kernel(&number, sizeof(number), &pointer);
	return number;
}

/*
 * What the kernel adds to a per-CPU pointer to come to a CPU's part (__per_cpu_offset[]): found by
 * a map whose pointer and parts are both known, as not every /proc/kallsyms has the kernel's
 * variables.
 */
static __always_inline bool kpod_cpu_offset(__u32 cpu, __u64 *offset)
{
	struct bpf_array *array = (void *)kpod_as_number(&per_cpu);
	__u32 zero = 0;
	void *part = bpf_map_lookup_percpu_elem(&per_cpu, &zero, cpu);

	if (!part)
		return false;
	*offset = kpod_as_number(part) - (__u64)BPF_CORE_READ(array, pptrs[0]);
	return true;
}

#endif
