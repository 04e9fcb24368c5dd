/* SPDX-License-Identifier: Apache-2.0 */
#define _GNU_SOURCE
#include "publish/pacer.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/inotify.h>
#include <sys/stat.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include "base/clock.h"
#include "shared/abi.h"

static int watch(int epoll, int operation, int fd)
{
	struct epoll_event event = {.events = EPOLLIN, .data.fd = fd};

	return epoll_ctl(epoll, operation, fd, &event) ? -errno : 0;
}

static void wake_at(const struct kpod_pacer *p, uint64_t ns)
{
	struct itimerspec spec = {
		.it_value = {(time_t)(ns / KPOD_SECOND), (long)(ns % KPOD_SECOND)}};

	timerfd_settime(p->timer, TFD_TIMER_ABSTIME, &spec, NULL);
}

static void listen_for_rings(struct kpod_pacer *p, bool listens)
{
	if (p->inotify >= 0 && p->listening != listens &&
	    !watch(p->epoll, listens ? EPOLL_CTL_ADD : EPOLL_CTL_DEL, p->inotify))
		p->listening = listens;
}

/* Forgets all rings so far. True: there was one. */
static bool drain(const struct kpod_pacer *p)
{
	char events[4096];
	bool rung = false;

	/* Twice at most: equal events are one, and a flood must not hold us here. */
	for (int i = 0; i < 2 && p->inotify >= 0; i++) {
		ssize_t size = read(p->inotify, events, sizeof(events));

		if (size <= 0)
			break;
		for (ssize_t at = 0; at < size;) {
			const struct inotify_event *e = (const void *)(events + at);

			rung |= (e->mask & (IN_OPEN | IN_Q_OVERFLOW)) != 0;
			at += (ssize_t)sizeof(*e) + (ssize_t)e->len;
		}
	}
	return rung;
}

static void stop_listening(struct kpod_pacer *p)
{
	listen_for_rings(p, false);
	if (p->inotify >= 0)
		close(p->inotify);
	p->inotify = -1;
	p->inode = 0;
}

static int make_doorbell(struct kpod_pacer *p)
{
	struct stat st;
	int fd, err = 0;

	p->inotify = inotify_init1(IN_NONBLOCK | IN_CLOEXEC);
	if (p->inotify < 0)
		return -errno;
	unlink(p->path);
	fd = open(p->path, O_RDONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0444);
	if (fd < 0 || fchmod(fd, 0444) || fstat(fd, &st) ||
	    inotify_add_watch(p->inotify, p->path, IN_OPEN | IN_DONT_FOLLOW) < 0)
		err = -errno;
	if (fd >= 0)
		close(fd);
	if (err && fd >= 0)
		unlink(p->path); /* nobody would hear it */
	if (!err)
		p->inode = st.st_ino;
	return err;
}

int kpod_pacer_doorbell(struct kpod_pacer *p)
{
	struct stat st;
	int err;

	if (p->inode && !lstat(p->path, &st) && st.st_ino == p->inode)
		return 0;
	stop_listening(p);
	err = make_doorbell(p);
	if (err)
		stop_listening(p);
	return err;
}

int kpod_pacer_open(struct kpod_pacer *p, int epoll, const char *segment, uint64_t min_interval_ns,
		    uint64_t interval_ns)
{
	*p = (struct kpod_pacer){.epoll = epoll,
				 .min_interval_ns = min_interval_ns,
				 .interval_ns = interval_ns,
				 .inotify = -1};
	p->timer = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
	if (p->timer < 0)
		return -errno;
	if (snprintf(p->path, sizeof(p->path), "%s" KPOD_DOORBELL_SUFFIX, segment) >=
	    (int)sizeof(p->path))
		return -ENAMETOOLONG;
	return watch(epoll, EPOLL_CTL_ADD, p->timer);
}

void kpod_pacer_close(struct kpod_pacer *p)
{
	struct stat st;

	if (p->inode && !lstat(p->path, &st) && st.st_ino == p->inode)
		unlink(p->path);
	stop_listening(p);
	if (p->timer >= 0)
		close(p->timer);
	p->timer = -1;
}

static uint64_t latest(const struct kpod_pacer *p)
{
	uint64_t interval = p->interval_ns;

	if ((p->hurry || p->inotify < 0) && interval > KPOD_HURRY_INTERVAL_NS)
		interval = KPOD_HURRY_INTERVAL_NS;
	return p->begun_ns + interval;
}

bool kpod_pacer_is_due(struct kpod_pacer *p, int fd, uint64_t now_ns)
{
	uint64_t ticks;

	if (fd == p->inotify) {
		listen_for_rings(p, now_ns >= p->earliest_ns);
		if (now_ns < p->earliest_ns || !drain(p))
			return false;
		p->rung++;
		return true;
	}
	if (fd != p->timer || read(p->timer, &ticks, sizeof(ticks)) != sizeof(ticks))
		return false;
	if (now_ns >= p->earliest_ns && now_ns >= latest(p))
		return true;
	/* The pause is over. Who has rung meanwhile is heard at once. */
	if (now_ns >= p->earliest_ns)
		listen_for_rings(p, true);
	wake_at(p, now_ns >= p->earliest_ns ? latest(p) : p->earliest_ns);
	return false;
}

void kpod_pacer_taken(struct kpod_pacer *p, uint64_t begun_ns, uint64_t ended_ns)
{
	uint64_t pause = begun_ns + p->min_interval_ns, rest = ended_ns + (ended_ns - begun_ns);

	/* One that takes long is not followed at once: at most half of the time is spent on them.
	 */
	p->begun_ns = begun_ns;
	p->earliest_ns = pause > rest ? pause : rest;
	listen_for_rings(p, false);
	drain(p);
	wake_at(p, p->earliest_ns);
}
