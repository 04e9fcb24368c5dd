/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* Block I/O: what the kernel keeps per slot, device and operation. */
#ifndef KPOD_BIOLATENCY_H
#define KPOD_BIOLATENCY_H

#include "histogram.h"

enum kpod_io { KPOD_IO_READ, KPOD_IO_WRITE, KPOD_IO_FLUSH, KPOD_IO_DISCARD, KPOD_IOS };

#define KPOD_DISK_NAME 32 /* DISK_NAME_LEN */

struct biolatency_row {
	__u64 bytes;
	__u64 unattributed;
	__u64 untracked;
	__u64 queue_ns;
	__u64 device_ns;
	__u64 queue[KPOD_HIST_BUCKETS];
	__u64 device[KPOD_HIST_BUCKETS];
	__u64 reserved[7]; /* to a whole number of cache lines */
};

#endif
