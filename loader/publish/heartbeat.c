/* SPDX-License-Identifier: Apache-2.0 */
#define _GNU_SOURCE
#include "publish/heartbeat.h"

#include <errno.h>
#include <signal.h>
#include <string.h>

#include "base/clock.h"
#include "shared/abi.h"
#include "shared/barrier.h"

#define STACK_SIZE (64 << 10)

static void beat(const struct kpod_heartbeat *h)
{
	uint64_t now = kpod_clock(CLOCK_MONOTONIC);

	if (h->header && (!h->busy_since_ns || now - h->busy_since_ns < KPOD_HANG_NS))
		kpod_store(&h->header->heartbeat, now);
}

static void *run(void *argument)
{
	struct kpod_heartbeat *h = argument;

	pthread_mutex_lock(&h->lock);
	while (!h->stop) {
		uint64_t next = kpod_clock(CLOCK_MONOTONIC) + KPOD_BEAT_NS;
		struct timespec until = {(time_t)(next / KPOD_SECOND), (long)(next % KPOD_SECOND)};

		beat(h);
		while (!h->stop && !pthread_cond_timedwait(&h->changed, &h->lock, &until))
			;
	}
	pthread_mutex_unlock(&h->lock);
	return NULL;
}

int kpod_heartbeat_open(struct kpod_heartbeat *h)
{
	pthread_condattr_t monotonic;
	pthread_attr_t attr;
	int err;

	memset(h, 0, sizeof(*h));
	pthread_condattr_init(&monotonic);
	pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
	pthread_mutex_init(&h->lock, NULL);
	pthread_cond_init(&h->changed, &monotonic);
	pthread_condattr_destroy(&monotonic);
	pthread_attr_init(&attr);
	pthread_attr_setstacksize(&attr, STACK_SIZE);
	err = pthread_create(&h->thread, &attr, run, h);
	pthread_attr_destroy(&attr);
	h->runs = !err;
	return -err;
}

void kpod_heartbeat_close(struct kpod_heartbeat *h)
{
	if (!h->runs)
		return;
	pthread_mutex_lock(&h->lock);
	h->stop = true;
	pthread_cond_signal(&h->changed);
	pthread_mutex_unlock(&h->lock);
	pthread_join(h->thread, NULL);
	h->runs = false;
}

void kpod_heartbeat_of(struct kpod_heartbeat *h, struct kpod_header *header)
{
	if (!h->runs)
		return;
	pthread_mutex_lock(&h->lock);
	h->header = header;
	beat(h);
	pthread_mutex_unlock(&h->lock);
}

void kpod_heartbeat_busy(struct kpod_heartbeat *h, uint64_t since_ns)
{
	if (!h->runs)
		return;
	pthread_mutex_lock(&h->lock);
	h->busy_since_ns = since_ns;
	pthread_mutex_unlock(&h->lock);
}
