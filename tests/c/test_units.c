/* SPDX-License-Identifier: Apache-2.0 */
/* Checksum, histogram buckets, names of cgroups: pure functions against independent answers. */
#include <math.h>

#include "crc32c.h"
#include "test.h"

#include "classify.h"
#include "histogram.h"

static uint32_t crc_by_bits(uint32_t crc, const unsigned char *data, size_t size)
{
	crc = ~crc;
	for (size_t i = 0; i < size; i++) {
		crc ^= data[i];
		for (int bit = 0; bit < 8; bit++)
			crc = crc >> 1 ^ (crc & 1 ? 0x82f63b78 : 0);
	}
	return ~crc;
}

static void crc_of_the_rfc(void **state)
{
	unsigned char data[32] = {0};

	(void)state;
	assert_int_equal(kpod_crc32c(0, "123456789", 9), 0xe3069283);
	assert_int_equal(kpod_crc32c(0, data, 32), 0x8a9136aa); /* RFC 3720 B.4 */
	memset(data, 0xff, 32);
	assert_int_equal(kpod_crc32c(0, data, 32), 0x62a8ab43);
	for (unsigned char i = 0; i < 32; i++)
		data[i] = i;
	assert_int_equal(kpod_crc32c(0, data, 32), 0x46dd794e);
}

static void crc_of_any_size_and_place(void **state)
{
	unsigned char data[400];

	(void)state;
	srand(1);
	for (size_t i = 0; i < sizeof(data); i++)
		data[i] = (unsigned char)rand();
	for (size_t at = 0; at < 9; at++) {
		for (size_t size = 0; size < sizeof(data) - at; size++) {
			uint32_t whole = crc_by_bits(0, data + at, size);

			assert_int_equal(kpod_crc32c(0, data + at, size), whole);
			assert_int_equal(kpod_crc32c(kpod_crc32c(0, data + at, size / 3),
						     data + at + size / 3, size - size / 3),
					 whole);
		}
	}
}

/* The bucket by its definition, in seconds; the scaling's 0.043 % and rounding are allowed for. */
static void buckets_hold_what_they_say(void **state)
{
	unsigned int last = 0;

	(void)state;
	for (double ns = 1; ns < 4e12; ns *= 1.0007) {
		uint64_t v = (uint64_t)ns;
		unsigned int bucket = kpod_time_bucket(v);
		double seconds = (double)v / 1e9;

		assert_true(bucket >= last);
		assert_true(bucket < KPOD_HIST_BUCKETS);
		last = bucket;
		if (bucket < KPOD_HIST_BUCKETS - 1)
			assert_true(seconds <= exp2(-20 + bucket / 4.0) * 1.0005);
		if (bucket)
			assert_true(seconds > exp2(-20 + (bucket - 1) / 4.0) * 0.998);
	}
	assert_int_equal(last, KPOD_HIST_BUCKETS - 1);
	assert_int_equal(kpod_time_bucket(0), 0);
	assert_int_equal(kpod_time_bucket(UINT64_MAX), KPOD_HIST_BUCKETS - 1);
}

static void log2_is_exact(void **state)
{
	(void)state;
	for (unsigned int i = 0; i < 64; i++) {
		assert_int_equal(kpod_log2(1ULL << i), i);
		assert_int_equal(kpod_log2((1ULL << i) | ((1ULL << i) - 1)), i);
	}
}

#define ID "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
#define UID "12345678-1234-1234-1234-1234567890ab"
#define UID_ "12345678_1234_1234_1234_1234567890ab"
#define HASH "0123456789abcdef0123456789abcdef"

static struct kpod_name named(const char *text)
{
	size_t size = strlen(text), kept = size < KPOD_NAME_TAIL ? size : KPOD_NAME_TAIL;
	struct kpod_name name = {0};

	memcpy(name.tail + KPOD_NAME_TAIL - kept, text + size - kept, kept);
	memcpy(name.head, text, size < KPOD_NAME_HEAD ? size : KPOD_NAME_HEAD - 1);
	return name;
}

static void names_are_classified(void **state)
{
	static const struct {
		int above, flags;
		const char *name;
		int kind;
	} cases[] = {
		{KPOD_CGROUP_HOST, 0, "nginx.service", KPOD_CGROUP_UNIT},
		{KPOD_CGROUP_HOST, 0, "session-1.scope", KPOD_CGROUP_UNIT},
		{KPOD_CGROUP_HOST, 0, "system.slice", KPOD_CGROUP_HOST},
		{KPOD_CGROUP_HOST, 0, "x", KPOD_CGROUP_HOST},
		{KPOD_CGROUP_HOST, 0, "", KPOD_CGROUP_HOST},
		{KPOD_CGROUP_HOST, 0, ID, KPOD_CGROUP_CONTAINER},
		{KPOD_CGROUP_HOST, 0, "docker-" ID ".scope", KPOD_CGROUP_CONTAINER},
		{KPOD_CGROUP_HOST, 0, "libpod-" ID ".scope", KPOD_CGROUP_CONTAINER},
		{KPOD_CGROUP_HOST, 0, "libpod-conmon-" ID ".scope", KPOD_CGROUP_UNIT},
		{KPOD_CGROUP_HOST, 0, "docker-g" ID, KPOD_CGROUP_CONTAINER},
		{KPOD_CGROUP_HOST, 0, "0123456789abcdef", KPOD_CGROUP_HOST},
		{KPOD_CGROUP_HOST, 0, "docker-" HASH ".scope", KPOD_CGROUP_UNIT},
		{KPOD_CGROUP_HOST, 0, "system.slice:docker:" ID, KPOD_CGROUP_CONTAINER},
		{KPOD_CGROUP_HOST, KPOD_PLACE_LIBPOD, ID, KPOD_CGROUP_HOST},
		{KPOD_CGROUP_HOST, KPOD_PLACE_LIBPOD, "libpod-" ID, KPOD_CGROUP_CONTAINER},
		{KPOD_CGROUP_HOST, KPOD_PLACE_LXC, "101", KPOD_CGROUP_MACHINE},
		{KPOD_CGROUP_HOST, 0, "lxc.payload.web", KPOD_CGROUP_MACHINE},
		{KPOD_CGROUP_HOST, 0, "machine-c1.scope", KPOD_CGROUP_MACHINE},
		{KPOD_CGROUP_HOST, 0, "systemd-nspawn@c1.service", KPOD_CGROUP_MACHINE},
		{KPOD_CGROUP_HOST, 0, "user-1000.slice", KPOD_CGROUP_USER},
		{KPOD_CGROUP_HOST, 0, "user-.slice", KPOD_CGROUP_HOST},
		{KPOD_CGROUP_HOST, 0, "user-x.slice", KPOD_CGROUP_HOST},
		/* Names of the kubelet's mean nothing where no kubelet is. */
		{KPOD_CGROUP_HOST, 0, "kubepods", KPOD_CGROUP_HOST},
		{KPOD_CGROUP_HOST, 0, "pod" UID, KPOD_CGROUP_HOST},
		{KPOD_CGROUP_HOST, 0, "kubepods-burstable-pod" UID_ ".slice", KPOD_CGROUP_HOST},
		{KPOD_CGROUP_HOST, 0, "kubepods-pod" UID_ ".slice:cri-containerd:" ID,
		 KPOD_CGROUP_CONTAINER},
		{KPOD_CGROUP_USER, 0, "kubepods", KPOD_CGROUP_HOST},
		{KPOD_CGROUP_USER, 0, "pod" UID, KPOD_CGROUP_HOST},
		{KPOD_CGROUP_USER, 0, "kubepods-pod" UID_ ".slice:crio:" ID, KPOD_CGROUP_CONTAINER},
		{KPOD_CGROUP_USER, 0, "a.service", KPOD_CGROUP_HOST},
		{KPOD_CGROUP_USER, 0, "libpod-" ID ".scope", KPOD_CGROUP_CONTAINER},
		{KPOD_CGROUP_CONTAINER, 0, "pod" UID, KPOD_CGROUP_HOST},
		{KPOD_CGROUP_CONTAINER, 0, "kubepods.slice", KPOD_CGROUP_HOST},
		{KPOD_CGROUP_UNIT, 0, "kubepods-besteffort-pod" UID_ ".slice:crio:" ID,
		 KPOD_CGROUP_HOST},
		/* Where one is. */
		{KPOD_CGROUP_HOST, KPOD_PLACE_NODE, "kubepods", KPOD_CGROUP_KUBELET},
		{KPOD_CGROUP_HOST, KPOD_PLACE_NODE, "kubelet.slice", KPOD_CGROUP_KUBELET},
		{KPOD_CGROUP_HOST, KPOD_PLACE_NODE, "kubepods2", KPOD_CGROUP_HOST},
		{KPOD_CGROUP_HOST, KPOD_PLACE_NODE, "pod" UID, KPOD_CGROUP_HOST},
		{KPOD_CGROUP_UNIT, KPOD_PLACE_NODE, "kubepods", KPOD_CGROUP_KUBELET},
		{KPOD_CGROUP_CONTAINER, KPOD_PLACE_NODE, "kubelet.slice", KPOD_CGROUP_KUBELET},
		{KPOD_CGROUP_UNIT, KPOD_PLACE_NODE, "kubepods-pod" UID_ ".slice:docker:" ID,
		 KPOD_CGROUP_POD_CONTAINER},
		{KPOD_CGROUP_KUBELET, 0, "burstable", KPOD_CGROUP_HOST},
		{KPOD_CGROUP_KUBELET, 0, "kubepods-burstable.slice", KPOD_CGROUP_HOST},
		{KPOD_CGROUP_KUBELET, 0, "kubelet-kubepods.slice", KPOD_CGROUP_HOST},
		{KPOD_CGROUP_KUBELET, 0, "pod" UID, KPOD_CGROUP_POD},
		{KPOD_CGROUP_KUBELET, 0, "pod" HASH, KPOD_CGROUP_POD},
		{KPOD_CGROUP_KUBELET, 0, "podmy-static-uid", KPOD_CGROUP_POD},
		{KPOD_CGROUP_KUBELET, 0, "pod", KPOD_CGROUP_HOST},
		{KPOD_CGROUP_KUBELET, 0, "kubepods-burstable-pod" UID_ ".slice", KPOD_CGROUP_POD},
		{KPOD_CGROUP_KUBELET, 0, "kubepods-podmy_static_uid.slice", KPOD_CGROUP_POD},
		{KPOD_CGROUP_KUBELET, 0, "kubepods-pod.slice", KPOD_CGROUP_HOST},
		{KPOD_CGROUP_KUBELET, 0, "kubelet.service", KPOD_CGROUP_UNIT},
		{KPOD_CGROUP_KUBELET, KPOD_PLACE_INNER, "kubelet.service", KPOD_CGROUP_HOST},
		{KPOD_CGROUP_POD, 0, "cri-containerd-" ID ".scope", KPOD_CGROUP_POD_CONTAINER},
		{KPOD_CGROUP_POD, 0, ID, KPOD_CGROUP_POD_CONTAINER},
		{KPOD_CGROUP_POD, 0, "anything", KPOD_CGROUP_POD_CONTAINER},
		{KPOD_CGROUP_POD_CONTAINER, 0, "init.scope", KPOD_CGROUP_HOST},
		{KPOD_CGROUP_POD_CONTAINER, 0, ID, KPOD_CGROUP_HOST},
		{KPOD_CGROUP_POD_CONTAINER, KPOD_PLACE_NODE, "kubepods", KPOD_CGROUP_HOST},
		{KPOD_CGROUP_CONTAINER, 0, "a.service", KPOD_CGROUP_HOST},
		{KPOD_CGROUP_UNIT, 0, ID, KPOD_CGROUP_HOST},
	};

	(void)state;
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		struct kpod_name name = named(cases[i].name);
		int kind = kpod_classify(cases[i].above, cases[i].flags, &name);

		if (kind != cases[i].kind)
			fail_msg("'%s' below %d with flags %d is %d", cases[i].name, cases[i].above,
				 cases[i].flags, kind);
	}
}

static void made_up_names_are_summed(void **state)
{
	static const struct {
		const char *name, *prefix;
	} cases[] = {
		{"sshd@12-10.0.0.5:22-203.0.113.7:4711.service", "sshd@"},
		{"run-r0123456789abcdef0123456789abcdef.scope", "run-"},
		{"run-u7.service", "run-"},
		{"session-77.scope", "session-"},
		{"libpod-conmon-" ID ".scope", "libpod-conmon-"},
		{"nginx.service", ""},
		{"runner.service", ""},
		{"init.scope", ""},
	};

	(void)state;
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		struct kpod_name name = named(cases[i].name);
		struct kpod_group group;

		assert_int_equal(kpod_group_of(&name, &group), strlen(cases[i].prefix));
		assert_string_equal(group.prefix, cases[i].prefix);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(crc_of_the_rfc),
		cmocka_unit_test(crc_of_any_size_and_place),
		cmocka_unit_test(buckets_hold_what_they_say),
		cmocka_unit_test(log2_is_exact),
		cmocka_unit_test(names_are_classified),
		cmocka_unit_test(made_up_names_are_summed),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
