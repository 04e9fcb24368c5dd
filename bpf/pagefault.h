/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* Page faults: what the kernel keeps per slot. */
#ifndef KPOD_PAGEFAULT_H
#define KPOD_PAGEFAULT_H

struct pagefault_row {
	__u64 minor;
	__u64 major;
	__u64 untracked;
	__u64 reserved[5]; /* to a whole cache line */
};

#endif
