/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Programs of classic tracepoints (SEC("tp/GROUP/NAME")), by perf events. The kernel disables
 * preemption while it runs them, which it does not for those of tp_btf since 7.0. Knows libbpf.
 */
#ifndef KPOD_LOADER_KERNEL_TRACEPOINT_H
#define KPOD_LOADER_KERNEL_TRACEPOINT_H

struct bpf_link;
struct bpf_program;

/*
 * Attaches a program; NULL: errno says why not. `tracefs` is a descriptor of that file system's
 * root, or -1: then it is opened, and left there for the next program.
 */
struct bpf_link *kpod_attach_tracepoint(struct bpf_program *program, int *tracefs);

#endif
