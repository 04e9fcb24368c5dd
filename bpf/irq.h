/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* Interrupt handlers and softirqs: what the kernel keeps per name or vector, and per slot. */
#ifndef KPOD_IRQ_H
#define KPOD_IRQ_H

#include "histogram.h"

#define KPOD_SOFTIRQS 10 /* vectors; enum in include/linux/interrupt.h, the same since 4.2 */

struct irq_row {
	__u64 ns;
	__u64 duration[KPOD_HIST_BUCKETS];
	__u64 reserved[5]; /* to a whole number of cache lines: shards do not share one */
};

struct irq_stolen_row {
	__u64 ns;
	__u64 reserved[7];
};

#endif
