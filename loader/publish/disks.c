/* SPDX-License-Identifier: Apache-2.0 */
#define _GNU_SOURCE
#include "publish/disks.h"

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

void kpod_disks_open(struct kpod_disks *d, const char *directory)
{
	memset(d, 0, sizeof(*d));
	d->directory = open(directory, O_PATH | O_DIRECTORY | O_CLOEXEC);
	d->is_open = true;
}

void kpod_disks_close(struct kpod_disks *d)
{
	if (d->is_open && d->directory >= 0)
		close(d->directory);
	free(d->of);
	memset(d, 0, sizeof(*d));
}

void kpod_disks_begin(struct kpod_disks *d)
{
	d->count = 0;
	memset(d->asked, 0, sizeof(d->asked));
}

bool kpod_disks_has(struct kpod_disks *d, const uint64_t *name)
{
	char text[KPOD_DISK_NAME + 1] = "";
	struct kpod_disk_asked *a;

	if (d->directory < 0)
		return true;
	for (size_t i = 0; i < KPOD_DISKS_ASKED; i++)
		if (!memcmp(name, d->asked[i].name, sizeof(d->asked[i].name)))
			return d->asked[i].there;
	a = &d->asked[d->next++ % KPOD_DISKS_ASKED];
	memcpy(text, name, KPOD_DISK_NAME);
	for (char *slash = text; (slash = strchr(slash, '/'));)
		*slash = '!'; /* as sysfs has it */
	memcpy(a->name, name, sizeof(a->name));
	a->there = !faccessat(d->directory, text, F_OK, 0) || errno != ENOENT;
	return a->there;
}

static const char *digits(const char *at)
{
	while (isdigit((unsigned char)*at))
		at++;
	return at;
}

/*
 * With native multipath the requests of NVMe are those of a hidden disk for each path, nvme0c1n2;
 * /dev, io.stat and people have the device, nvme0n2 (nvme_mpath_set_disk_name()).
 */
static void show_device(char *name)
{
	const char *path, *rest;

	if (strncmp(name, "nvme", 4))
		return;
	path = digits(name + 4);
	rest = *path == 'c' ? digits(path + 1) : path;
	if (path > name + 4 && rest > path + 1 && *rest == 'n') {
		size_t size = strlen(rest);

		memmove(name + (path - name), rest, size);
		memset(name + (path - name) + size, 0, (size_t)(rest - path));
	}
}

int kpod_disks_add(struct kpod_disks *d, const struct kpod_disk_unit *unit)
{
	char name[KPOD_DISK_NAME + 1] = "";
	struct kpod_disk_unit *added;

	if (d->count == d->room) {
		size_t room = d->room ? 2 * d->room : 64;
		struct kpod_disk_unit *larger = reallocarray(d->of, room, sizeof(*larger));

		if (!larger)
			return -ENOMEM;
		d->of = larger;
		d->room = room;
	}
	added = &d->of[d->count++];
	*added = *unit;
	memcpy(added->name, unit->key, sizeof(added->name));
	memcpy(name, unit->key, KPOD_DISK_NAME);
	show_device(name);
	memcpy(added->key, name, KPOD_DISK_NAME);
	return 0;
}

static int by_row(const struct kpod_disk_unit *a, const struct kpod_disk_unit *b)
{
	if (a->slot != b->slot)
		return a->slot < b->slot ? -1 : 1;
	return memcmp(a->key, b->key, sizeof(a->key));
}

static int by_row_and_age(const void *x, const void *y)
{
	const struct kpod_disk_unit *a = x, *b = y;
	int order = by_row(a, b);

	order = order ? order : memcmp(a->name, b->name, sizeof(a->name));
	return order ? order : (a->born_ns < b->born_ns) - (a->born_ns > b->born_ns);
}

void kpod_disks_group(struct kpod_disks *d)
{
	if (d->count)
		qsort(d->of, d->count, sizeof(*d->of), by_row_and_age);
}

size_t kpod_disks_alike(const struct kpod_disks *d, size_t first)
{
	size_t end = first + 1;

	while (end < d->count && !by_row(&d->of[first], &d->of[end]))
		end++;
	return end - first;
}

bool kpod_disk_is_successor(const struct kpod_disk_unit *newer, const struct kpod_disk_unit *older)
{
	return !memcmp(newer->name, older->name, sizeof(newer->name));
}
