/* SPDX-License-Identifier: Apache-2.0 */
#define _GNU_SOURCE
#include "publish/lock.h"

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

/* Of the open file description (fcntl(2), F_OFD_SETLK): a thread's close() elsewhere keeps it. */
static int take(int fd)
{
	struct flock whole = {.l_type = F_WRLCK, .l_whence = SEEK_SET};

	return fcntl(fd, F_OFD_SETLK, &whole) ? -errno : 0;
}

static int read_holder(int fd)
{
	char text[16] = "";

	return pread(fd, text, sizeof(text) - 1, 0) > 0 ? atoi(text) : 0;
}

/* Whether the path still names what is open: its last holder may have removed it meanwhile. */
static bool is_named(int fd, const char *path)
{
	struct stat opened, named;

	return !fstat(fd, &opened) && !lstat(path, &named) && opened.st_ino == named.st_ino &&
	       opened.st_dev == named.st_dev;
}

int kpod_lock_open(struct kpod_lock *l, const char *segment, int *holder)
{
	char text[16];
	int err, size;

	l->fd = -1;
	if (snprintf(l->path, sizeof(l->path), "%s" KPOD_LOCK_SUFFIX, segment) >=
	    (int)sizeof(l->path))
		return -ENAMETOOLONG;
	for (;;) {
		int fd = open(l->path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);

		if (fd < 0)
			return -errno;
		err = take(fd);
		if (!err && is_named(fd, l->path)) {
			l->fd = fd;
			break;
		}
		if (err)
			*holder = read_holder(fd);
		close(fd);
		if (err)
			return err == -EAGAIN || err == -EACCES ? -EBUSY : err;
	}
	size = snprintf(text, sizeof(text), "%d\n", (int)getpid());
	/* Who it is, is only for people: it need not succeed, on a full tmpfs say. */
	if (ftruncate(l->fd, 0) || pwrite(l->fd, text, (size_t)size, 0) != size)
		return 0;
	return 0;
}

void kpod_lock_close(struct kpod_lock *l)
{
	if (l->fd < 0)
		return;
	if (is_named(l->fd, l->path))
		unlink(l->path);
	close(l->fd);
	l->fd = -1;
}
