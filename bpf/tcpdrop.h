/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* TCP packets dropped: what the kernel keeps per slot and reason. */
#ifndef KPOD_TCPDROP_H
#define KPOD_TCPDROP_H

struct tcpdrop_row {
	__u64 packets;
	__u64 reserved[7]; /* to a whole cache line */
};

#endif
