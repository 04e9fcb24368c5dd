/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Every ordering between writer and reader is one of these, and each use names its pair:
 *
 *   [intent]   writer: kpod_intend() before it overwrites ring bytes
 *              reader: kpod_fence_loads() between copying ring bytes and loading the intent
 *              If the reader saw any byte written after an intent, it sees that intent.
 *   [publish]  writer: kpod_publish() after the snapshot's bytes
 *              reader: kpod_fence_loads() between loading the position and copying the bytes
 *              If the reader sees the position, it sees the bytes (or newer ones).
 *
 * Ring bytes are copied as relaxed 8-byte atomics on both sides: a torn copy is possible (and is
 * detected), undefined behaviour is not. See Boehm, "Can seqlocks get along with programming
 * language memory models?" (MSPC 2012), whose reader this is.
 */
#ifndef KPOD_BARRIER_H
#define KPOD_BARRIER_H

#include <stddef.h>
#include <stdint.h>

/* TSan does not model fences; every access here is atomic, so it needs none to find races. */
#if defined(__SANITIZE_THREAD__)
#define kpod_fence(order) __atomic_signal_fence(order)
#else
#define kpod_fence(order) __atomic_thread_fence(order)
#endif

static inline uint64_t kpod_load(const uint64_t *p)
{
	return __atomic_load_n(p, __ATOMIC_RELAXED);
}

static inline void kpod_store(uint64_t *p, uint64_t value)
{
	__atomic_store_n(p, value, __ATOMIC_RELAXED);
}

static inline void kpod_intend(uint64_t *intent, uint64_t position)
{
	kpod_store(intent, position);
	kpod_fence(__ATOMIC_RELEASE);
}

static inline void kpod_publish(uint64_t *published, uint64_t position)
{
	__atomic_store_n(published, position, __ATOMIC_RELEASE);
}

static inline void kpod_fence_loads(void)
{
	kpod_fence(__ATOMIC_ACQUIRE);
}

/* size is a multiple of 8; both sides are 8-aligned. */
static inline void kpod_copy_to_ring(uint64_t *ring, const void *from, size_t size)
{
	const uint64_t *src = from;

	for (size_t i = 0; i < size / 8; i++)
		kpod_store(ring + i, src[i]);
}

static inline void kpod_copy_from_ring(void *to, const uint64_t *ring, size_t size)
{
	uint64_t *dst = to;

	for (size_t i = 0; i < size / 8; i++)
		dst[i] = kpod_load(ring + i);
}

#endif
