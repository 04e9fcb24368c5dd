/* SPDX-License-Identifier: Apache-2.0 */
/* File systems of the kernel that a container does not have. */
#ifndef KPOD_LOADER_KERNEL_MOUNT_H
#define KPOD_LOADER_KERNEL_MOUNT_H

/*
 * The root of such a file system, to open files below: where it is mounted at `path`, else a mount
 * of our own, which is nowhere in the tree of files and ends with its descriptor. That needs
 * CAP_SYS_ADMIN. -1 with errno. `magic` as in statfs(2).
 */
int kpod_open_mount(const char *path, const char *type, long magic);

#endif
