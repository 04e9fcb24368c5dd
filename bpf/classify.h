/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * What a cgroup is, from its name and its nearest known ancestor. One rule, used by the kernel
 * program when a cgroup is made and by the loader when it walks the tree at its start.
 */
#ifndef KPOD_CLASSIFY_H
#define KPOD_CLASSIFY_H

enum kpod_cgroup_kind {
	KPOD_CGROUP_HOST = 0,	       /* no slot of its own */
	KPOD_CGROUP_UNIT = 1,	       /* a systemd service or scope */
	KPOD_CGROUP_CONTAINER = 2,     /* docker, containerd, podman, …: named by a 64-digit id */
	KPOD_CGROUP_POD = 3,	       /* a kubelet pod: no slot, but its children have */
	KPOD_CGROUP_POD_CONTAINER = 4, /* a child of a pod: container, sandbox or conmon */
};

#define KPOD_NAME_TAIL 80 /* bytes of a name the rule looks at, right-aligned, NUL on the left */
#define KPOD_ID_SIZE 64

static inline __attribute__((always_inline)) int kpod_is_hex(char c)
{
	return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f');
}

/* "pod" and a uid that ends at tail[end]: an API uid with - or _, or a static pod's hash. */
static inline __attribute__((always_inline)) int kpod_is_pod_uid(const char *tail, int end)
{
	const char *uid = tail + end - 36, *hash = tail + end - 32;
	int api = uid[-3] == 'p' && uid[-2] == 'o' && uid[-1] == 'd' &&
		  (uid[8] == '-' || uid[8] == '_') && uid[13] == uid[8] && uid[18] == uid[8] &&
		  uid[23] == uid[8];
	int file = hash[-3] == 'p' && hash[-2] == 'o' && hash[-1] == 'd';

	if (!api && !file)
		return 0;
	for (int i = 0; i < 36; i++) {
		if (api && i != 8 && i != 13 && i != 18 && i != 23 && !kpod_is_hex(uid[i]))
			return 0;
		if (!api && i < 32 && !kpod_is_hex(hash[i]))
			return 0;
	}
	return 1;
}

#define KPOD_ENDS(tail, end, a, b, c, d)                                                           \
	((tail)[(end)-4] == (a) && (tail)[(end)-3] == (b) && (tail)[(end)-2] == (c) &&             \
	 (tail)[(end)-1] == (d))

/*
 * The kind that a cgroup below a cgroup of kind `above` has, or KPOD_CGROUP_HOST if it has none of
 * its own and belongs to whatever `above` belongs to. tail: the last KPOD_NAME_TAIL bytes of its
 * name.
 */
static inline __attribute__((always_inline)) enum kpod_cgroup_kind
kpod_classify(enum kpod_cgroup_kind above, const char *tail)
{
	const int end = KPOD_NAME_TAIL;
	int scope, service, slice;

	if (above == KPOD_CGROUP_POD_CONTAINER)
		return KPOD_CGROUP_HOST;
	if (above == KPOD_CGROUP_POD)
		return KPOD_CGROUP_POD_CONTAINER;

	slice = tail[end - 6] == '.' && tail[end - 5] == 's' &&
		KPOD_ENDS(tail, end, 'l', 'i', 'c', 'e');
	if (slice)
		return kpod_is_pod_uid(tail, end - 6) ? KPOD_CGROUP_POD : KPOD_CGROUP_HOST;
	if (kpod_is_pod_uid(tail, end))
		return KPOD_CGROUP_POD;
	/* "kubepods-….slice:cri-containerd:ID": a systemd path given to a runtime on cgroupfs. */
	if (tail[end - KPOD_ID_SIZE - 1] == ':' &&
	    (KPOD_ENDS(tail, end - KPOD_ID_SIZE - 1, 'n', 'e', 'r', 'd') ||
	     KPOD_ENDS(tail, end - KPOD_ID_SIZE - 1, 'c', 'r', 'i', 'o')))
		return KPOD_CGROUP_POD_CONTAINER;
	if (above != KPOD_CGROUP_HOST)
		return KPOD_CGROUP_HOST;

	scope = tail[end - 6] == '.' && tail[end - 5] == 's' &&
		KPOD_ENDS(tail, end, 'c', 'o', 'p', 'e');
	service = tail[end - 8] == '.' && tail[end - 7] == 's' && tail[end - 6] == 'e' &&
		  tail[end - 5] == 'r' && KPOD_ENDS(tail, end, 'v', 'i', 'c', 'e');
	for (int i = 1; i <= KPOD_ID_SIZE; i++) {
		/* Two fixed places rather than one variable one: the verifier sees constants. */
		if (scope ? !kpod_is_hex(tail[end - 6 - i]) : !kpod_is_hex(tail[end - i]))
			return scope || service ? KPOD_CGROUP_UNIT : KPOD_CGROUP_HOST;
	}
	return KPOD_CGROUP_CONTAINER;
}

#endif
