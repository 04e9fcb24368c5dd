/* SPDX-License-Identifier: Apache-2.0 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <sys/mount.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "kernel/mount.h"

int kpod_open_mount(const char *path, const char *type, long magic)
{
	int fd = open(path, O_PATH | O_DIRECTORY | O_CLOEXEC), context, err;
	struct statfs st;

	if (fd >= 0 && !fstatfs(fd, &st) && st.f_type == magic)
		return fd;
	if (fd >= 0)
		close(fd);
	fd = -1;
	context = fsopen(type, FSOPEN_CLOEXEC);
	if (context < 0)
		return -1;
	if (!fsconfig(context, FSCONFIG_CMD_CREATE, NULL, NULL, 0))
		fd = fsmount(context, FSMOUNT_CLOEXEC,
			     MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV |
				     MOUNT_ATTR_NOEXEC);
	err = errno;
	close(context);
	errno = err;
	return fd;
}
