// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/* What a program costs that does nothing: the floor that measurements are net of. */
#include "slots.bpf.h"

SEC("tp_btf")
int empty(void *ctx)
{
	return 0;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
