/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * What a cgroup is. One rule, used by the kernel program when a cgroup is made and by the loader
 * when it walks the tree. Where the cgroup is comes first and its name second: a pod is only what
 * the kubelet made below its root, whatever others call their cgroups.
 */
#ifndef KPOD_CLASSIFY_H
#define KPOD_CLASSIFY_H

/* The first six are in snapshots; the segment's specification (shared/README.md) lists them. */
enum kpod_cgroup_kind {
	KPOD_CGROUP_HOST = 0,	       /* no slot of its own */
	KPOD_CGROUP_UNIT = 1,	       /* a systemd service or scope, or a login user's slice */
	KPOD_CGROUP_CONTAINER = 2,     /* docker, containerd, podman, …: named by a 64-digit id */
	KPOD_CGROUP_POD = 3,	       /* a kubelet's pod: what runs beside its containers */
	KPOD_CGROUP_POD_CONTAINER = 4, /* a child of a pod: container, sandbox or conmon */
	KPOD_CGROUP_MACHINE = 5,       /* LXC, Incus, systemd-nspawn, libvirt */
	KPOD_CGROUP_KUBELET = 6,       /* the kubelet's root: no slot, but pods are below it */
	KPOD_CGROUP_USER = 7,	       /* a login user's slice; in snapshots, KPOD_CGROUP_UNIT */
};

/* How a cgroup is placed: flags for kpod_classify(). */
enum {
	KPOD_PLACE_NODE = 1,   /* its parent is the root of a node: a kubelet's root may be here */
	KPOD_PLACE_LIBPOD = 2, /* its parent is podman's libpod_parent: a bare id is a pod's */
	KPOD_PLACE_LXC = 4,    /* its parent is lxc or lxc.payload: every child is a machine */
	KPOD_PLACE_INNER = 8,  /* something above it has a slot */
};

/* What has slots beside pods (--others). */
enum kpod_others { KPOD_OTHERS_NONE, KPOD_OTHERS_SERVICES, KPOD_OTHERS_ALL };

#define KPOD_NAME_HEAD 64 /* bytes of a name's start, NUL on the right */
#define KPOD_NAME_TAIL 80 /* bytes of a name's end, NUL on the left */
#define KPOD_ID_SIZE 64
#define KPOD_GROUP_SIZE 48

struct kpod_name {
	char head[KPOD_NAME_HEAD];
	char tail[KPOD_NAME_TAIL];
};

/* "sshd@" of sshd@1-10.0.0.5:22.service: what the cgroups that are summed have in common. */
struct kpod_group {
	char prefix[KPOD_GROUP_SIZE]; /* NUL-padded */
};

/* Whole, for the verifier of 7.2, which wants to see constant offsets. */
#ifdef __bpf__
#define KPOD_UNROLL _Pragma("clang loop unroll(full)")
/* Bytes of the name are read again for each question: kept, they would not fit on 6.1's stack. */
#define KPOD_FRESH() asm volatile("" ::: "memory")
#else
#define KPOD_UNROLL
#define KPOD_FRESH()
#endif

#define KPOD_RULE static inline __attribute__((always_inline))

KPOD_RULE int kpod_is_hex(char c)
{
	return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f');
}

KPOD_RULE int kpod_is_digit(char c)
{
	return c >= '0' && c <= '9';
}

/* Whether text[0..] is the literal `with`; its NUL too counts if the size is that of the array. */
#define KPOD_STARTS(text, with) kpod_equal((text), (with), (int)sizeof(with) - 1)
#define KPOD_EQUAL(text, with) kpod_equal((text), (with), (int)sizeof(with))
#define KPOD_ENDS_AT(tail, end, with)                                                              \
	kpod_equal((tail) + (end) - ((int)sizeof(with) - 1), (with), (int)sizeof(with) - 1)
#define KPOD_ENDS(tail, with) KPOD_ENDS_AT((tail), KPOD_NAME_TAIL, (with))

KPOD_RULE int kpod_equal(const char *a, const char *b, int size)
{
	KPOD_FRESH();
	for (int i = 0; i < size; i++)
		if (a[i] != b[i])
			return 0;
	return 1;
}

/* Whether the 64 bytes that end at tail[end] are a container's id. */
KPOD_RULE int kpod_is_id(const char *tail, int end)
{
	KPOD_FRESH();
	KPOD_UNROLL
	for (int i = 1; i <= KPOD_ID_SIZE; i++)
		if (!kpod_is_hex(tail[end - i]))
			return 0;
	return 1;
}

/*
 * A pod below the kubelet's root: "pod" and a uid (pkg/kubelet/cm: GetPodContainerNameSuffix()).
 * The systemd driver writes the names of all its parents before it, and of the uid each '-' as '_':
 * kubepods-burstable-podUID.slice. A static pod's uid is whatever its manifest says.
 */
KPOD_RULE int kpod_is_pod(const struct kpod_name *name)
{
	const char *tail = name->tail;

	if (!KPOD_ENDS(tail, ".slice"))
		return KPOD_STARTS(name->head, "pod") && name->head[3];
	KPOD_UNROLL
	for (int i = KPOD_NAME_TAIL - 7; i >= 3; i--) {
		if (tail[i] == '-')
			return i <= KPOD_NAME_TAIL - 11 && KPOD_STARTS(tail + i + 1, "pod");
	}
	return 0;
}

/* "kubepods-….slice:cri-containerd:ID": a systemd path given to a runtime on cgroupfs. */
KPOD_RULE int kpod_is_colon_pod(const struct kpod_name *name)
{
	const int end = KPOD_NAME_TAIL - KPOD_ID_SIZE;

	return KPOD_STARTS(name->head, "kubepods-") && name->tail[end - 1] == ':' &&
	       (KPOD_ENDS_AT(name->tail, end, "nerd:") || KPOD_ENDS_AT(name->tail, end, "crio:") ||
		KPOD_ENDS_AT(name->tail, end, "cker:")) &&
	       kpod_is_id(name->tail, KPOD_NAME_TAIL);
}

/* The child of a node's root below which a kubelet has its pods. */
KPOD_RULE int kpod_is_kubelet(const char *head)
{
	return KPOD_EQUAL(head, "kubepods") || KPOD_EQUAL(head, "kubepods.slice") ||
	       KPOD_EQUAL(head, "kubelet") || KPOD_EQUAL(head, "kubelet.slice");
}

/* user-1000.slice: sessions and services of one login user. */
KPOD_RULE int kpod_is_user(const char *head)
{
	if (!KPOD_STARTS(head, "user-"))
		return 0;
	KPOD_UNROLL
	for (int i = 5; i < 16; i++)
		if (!kpod_is_digit(head[i]))
			return i > 5 && KPOD_EQUAL(head + i, ".slice");
	return 0;
}

/* conmon watches a container and has its id in its name, but is not the container. */
KPOD_RULE int kpod_is_conmon(const char *head)
{
	return KPOD_STARTS(head, "libpod-conmon-") || KPOD_STARTS(head, "crio-conmon-");
}

KPOD_RULE int kpod_is_container(const struct kpod_name *name, int flags)
{
	const char *tail = name->tail;

	if (kpod_is_conmon(name->head))
		return 0;
	/* Two fixed places rather than one variable one: the verifier sees constants. */
	if (KPOD_ENDS(tail, ".scope"))
		return kpod_is_id(tail, KPOD_NAME_TAIL - 6);
	return kpod_is_id(tail, KPOD_NAME_TAIL) &&
	       !(flags & KPOD_PLACE_LIBPOD && !tail[KPOD_NAME_TAIL - KPOD_ID_SIZE - 1]);
}

KPOD_RULE int kpod_is_machine(const struct kpod_name *name, int flags)
{
	return flags & KPOD_PLACE_LXC || KPOD_STARTS(name->head, "lxc.payload.") ||
	       (KPOD_STARTS(name->head, "machine-") && KPOD_ENDS(name->tail, ".scope")) ||
	       (KPOD_STARTS(name->head, "systemd-nspawn@") && KPOD_ENDS(name->tail, ".service"));
}

/*
 * The kind that a cgroup has whose nearest ancestor with a kind has kind `above`; or
 * KPOD_CGROUP_HOST if it has none of its own and belongs to whatever `above` belongs to.
 */
KPOD_RULE enum kpod_cgroup_kind kpod_classify(enum kpod_cgroup_kind above, int flags,
					      const struct kpod_name *name)
{
	int unit;

	if (above == KPOD_CGROUP_POD_CONTAINER)
		return KPOD_CGROUP_HOST;
	if (above == KPOD_CGROUP_POD)
		return KPOD_CGROUP_POD_CONTAINER;
	if (flags & KPOD_PLACE_NODE && kpod_is_kubelet(name->head))
		return KPOD_CGROUP_KUBELET;
	if ((above == KPOD_CGROUP_KUBELET || flags & KPOD_PLACE_NODE) && kpod_is_colon_pod(name))
		return KPOD_CGROUP_POD_CONTAINER;
	if (above == KPOD_CGROUP_KUBELET && kpod_is_pod(name))
		return KPOD_CGROUP_POD;

	/* A user may run containers, and calls its units and slices what it likes. */
	if (above == KPOD_CGROUP_USER)
		return kpod_is_container(name, flags) ? KPOD_CGROUP_CONTAINER : KPOD_CGROUP_HOST;
	if (above != KPOD_CGROUP_HOST && (above != KPOD_CGROUP_KUBELET || flags & KPOD_PLACE_INNER))
		return KPOD_CGROUP_HOST;
	if (kpod_is_user(name->head))
		return KPOD_CGROUP_USER;
	if (kpod_is_machine(name, flags))
		return KPOD_CGROUP_MACHINE;
	if (kpod_is_container(name, flags))
		return KPOD_CGROUP_CONTAINER;
	unit = KPOD_ENDS(name->tail, ".scope") || KPOD_ENDS(name->tail, ".service");
	return unit ? KPOD_CGROUP_UNIT : KPOD_CGROUP_HOST;
}

/*
 * Of a unit: whether it is one of many that come and go under made-up names; the size of what they
 * have in common, or 0. Instances of a template (sshd@….service), transient units of systemd-run
 * and the kubelet's mounts (run-….scope), login sessions (session-….scope) and conmon.
 */
KPOD_RULE int kpod_group_of(const struct kpod_name *name, struct kpod_group *group)
{
	int size = 0;

	if (KPOD_STARTS(name->head, "run-"))
		size = 4;
	else if (KPOD_STARTS(name->head, "session-"))
		size = 8;
	else if (KPOD_STARTS(name->head, "libpod-conmon-"))
		size = 14;
	else if (KPOD_STARTS(name->head, "crio-conmon-"))
		size = 12;
	KPOD_UNROLL
	for (int i = 0; i < KPOD_GROUP_SIZE - 1; i++) {
		KPOD_FRESH();
		if (!size && name->head[i] == '@')
			size = i + 1;
	}
	KPOD_UNROLL
	for (int i = 0; i < KPOD_GROUP_SIZE; i++) {
		KPOD_FRESH();
		group->prefix[i] = (char)(i < size ? name->head[i] : 0);
	}
	return size;
}

/* Flags that the name of the parent gives; its size is at least 16, NUL-padded. */
KPOD_RULE int kpod_place_below(const char *parent)
{
	return (KPOD_EQUAL(parent, "libpod_parent") ? KPOD_PLACE_LIBPOD : 0) |
	       (KPOD_EQUAL(parent, "lxc") || KPOD_EQUAL(parent, "lxc.payload") ? KPOD_PLACE_LXC
									       : 0);
}

/* Whether nothing below a cgroup of this kind has a kind of its own, but below a node's root. */
KPOD_RULE int kpod_is_last(enum kpod_cgroup_kind kind)
{
	return kind == KPOD_CGROUP_UNIT || kind == KPOD_CGROUP_CONTAINER ||
	       kind == KPOD_CGROUP_POD_CONTAINER || kind == KPOD_CGROUP_MACHINE;
}

/* Whether it is a kubelet's: what the budget for everything else does not touch. */
KPOD_RULE int kpod_is_kubelets(enum kpod_cgroup_kind kind)
{
	return kind == KPOD_CGROUP_KUBELET || kind == KPOD_CGROUP_POD ||
	       kind == KPOD_CGROUP_POD_CONTAINER;
}

/* Whether it is to have a slot: pods always have, the rest as --others says. */
KPOD_RULE int kpod_is_wanted(unsigned int others, enum kpod_cgroup_kind kind)
{
	return kpod_is_kubelets(kind) || others == KPOD_OTHERS_ALL ||
	       (others == KPOD_OTHERS_SERVICES && kind == KPOD_CGROUP_UNIT);
}

#endif
