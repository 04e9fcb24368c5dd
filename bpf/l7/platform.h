/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* What differs between the kernel and a process. */
#ifndef KPOD_L7_PLATFORM_H
#define KPOD_L7_PLATFORM_H

#ifdef __bpf__
#include "../kernel.h"
#include <bpf/bpf_helpers.h>

#define L7_INLINE __always_inline
/* Verified once, for any arguments. */
#define L7_FUNCTION __attribute__((noinline))
/* Hides from the compiler how a number came about, so that the verifier sees the check of it. */
#define l7_hide(variable) asm volatile("" : "+r"(variable))
#else
#include <stdbool.h>
#include <stddef.h>
#include <string.h>

#include <linux/types.h>

#define L7_INLINE inline __attribute__((always_inline))
#define L7_FUNCTION static __attribute__((unused, noinline))
#define l7_hide(variable) (void)(variable)
#endif

#define l7_read_once(field) (*(volatile __typeof__(field) *)&(field))
/* A store that no CPU sees before those above it. BPF has no release store; x86 needs none. */
#if defined(__bpf__) && defined(__TARGET_ARCH_x86)
#define l7_publish(field, value)                                                                   \
	do {                                                                                       \
		asm volatile("" ::: "memory");                                                     \
		*(volatile __typeof__(field) *)&(field) = (value);                                 \
	} while (0)
#elif defined(__bpf__)
#define l7_publish(field, value) __sync_lock_test_and_set(&(field), value)
#else
#define l7_publish(field, value) __atomic_store_n(&(field), value, __ATOMIC_RELEASE)
#endif

/* Eight bytes, wherever they are. Of a copy clang would make eight loads, not knowing the machine.
 */
static L7_INLINE __u64 l7_word_at(const void *at)
{
#ifdef __bpf__
	return *(const volatile __u64 *)at;
#else
	__u64 word;

	memcpy(&word, at, sizeof(word));
	return word;
#endif
}

static L7_INLINE void l7_put_word(void *at, __u64 word)
{
#ifdef __bpf__
	*(volatile __u64 *)at = word;
#else
	memcpy(at, &word, sizeof(word));
#endif
}

#ifndef NULL
#define NULL ((void *)0)
#endif

#endif
