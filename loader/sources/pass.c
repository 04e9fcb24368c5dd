/* SPDX-License-Identifier: Apache-2.0 */
#define _GNU_SOURCE
#include "sources/pass.h"

#include <pthread.h>
#include <stdlib.h>

#include "base/clock.h"

#define STACK_SIZE (128 << 10)
#define CLOSE_PATIENCE_NS (KPOD_SECOND / 4)

struct kpod_pass {
	pthread_mutex_t lock; /* of all below */
	pthread_cond_t changed;
	pthread_t thread;
	void (*run)(void *context);
	void *context;
	bool started; /* there is a thread */
	bool running, stop;
};

static void *run(void *argument)
{
	struct kpod_pass *p = argument;

	pthread_mutex_lock(&p->lock);
	while (!p->stop) {
		if (!p->running) {
			pthread_cond_wait(&p->changed, &p->lock);
			continue;
		}
		pthread_mutex_unlock(&p->lock);
		p->run(p->context);
		pthread_mutex_lock(&p->lock);
		p->running = false;
		pthread_cond_broadcast(&p->changed);
	}
	pthread_mutex_unlock(&p->lock);
	return NULL;
}

struct kpod_pass *kpod_pass_new(void (*run_pass)(void *context), void *context)
{
	struct kpod_pass *p = calloc(1, sizeof(*p));
	pthread_condattr_t monotonic;

	if (!p)
		return NULL;
	p->run = run_pass;
	p->context = context;
	pthread_condattr_init(&monotonic);
	pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
	pthread_mutex_init(&p->lock, NULL);
	pthread_cond_init(&p->changed, &monotonic);
	pthread_condattr_destroy(&monotonic);
	return p;
}

static bool start(struct kpod_pass *p)
{
	pthread_attr_t attr;

	pthread_attr_init(&attr);
	pthread_attr_setstacksize(&attr, STACK_SIZE);
	p->started = !pthread_create(&p->thread, &attr, run, p);
	pthread_attr_destroy(&attr);
	return p->started;
}

bool kpod_pass_begin(struct kpod_pass *p)
{
	bool ok;

	pthread_mutex_lock(&p->lock);
	ok = p->started || start(p);
	if (ok && !p->running) {
		p->running = true;
		pthread_cond_broadcast(&p->changed);
	}
	pthread_mutex_unlock(&p->lock);
	return ok;
}

bool kpod_pass_wait(struct kpod_pass *p, uint64_t until_ns)
{
	struct timespec until = {(time_t)(until_ns / KPOD_SECOND), (long)(until_ns % KPOD_SECOND)};
	bool done;

	pthread_mutex_lock(&p->lock);
	while (p->running && !pthread_cond_timedwait(&p->changed, &p->lock, &until))
		;
	done = !p->running;
	pthread_mutex_unlock(&p->lock);
	return done;
}

bool kpod_pass_is_stopping(const struct kpod_pass *p)
{
	return __atomic_load_n(&p->stop, __ATOMIC_RELAXED);
}

bool kpod_pass_close(struct kpod_pass *p)
{
	bool done;

	pthread_mutex_lock(&p->lock);
	__atomic_store_n(&p->stop, true, __ATOMIC_RELAXED);
	pthread_cond_broadcast(&p->changed);
	pthread_mutex_unlock(&p->lock);
	done = kpod_pass_wait(p, kpod_clock(CLOCK_MONOTONIC) + CLOSE_PATIENCE_NS);
	if (!done) {
		pthread_detach(p->thread);
		return false;
	}
	if (p->started)
		pthread_join(p->thread, NULL);
	free(p);
	return true;
}
