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

static void names_are_classified(void **state)
{
	static const struct {
		int above;
		const char *name;
		int kind;
	} cases[] = {
		{KPOD_CGROUP_HOST, "nginx.service", KPOD_CGROUP_UNIT},
		{KPOD_CGROUP_HOST, "session-1.scope", KPOD_CGROUP_UNIT},
		{KPOD_CGROUP_HOST, "system.slice", KPOD_CGROUP_HOST},
		{KPOD_CGROUP_HOST, "kubepods", KPOD_CGROUP_HOST},
		{KPOD_CGROUP_HOST, "x", KPOD_CGROUP_HOST},
		{KPOD_CGROUP_HOST, "", KPOD_CGROUP_HOST},
		{KPOD_CGROUP_HOST, ID, KPOD_CGROUP_CONTAINER},
		{KPOD_CGROUP_HOST, "docker-" ID ".scope", KPOD_CGROUP_CONTAINER},
		{KPOD_CGROUP_HOST, "libpod-" ID ".scope", KPOD_CGROUP_CONTAINER},
		{KPOD_CGROUP_HOST, "docker-g" ID, KPOD_CGROUP_CONTAINER},
		{KPOD_CGROUP_HOST, "0123456789abcdef", KPOD_CGROUP_HOST},
		{KPOD_CGROUP_HOST, "docker-" HASH ".scope", KPOD_CGROUP_UNIT},
		{KPOD_CGROUP_HOST, "pod" UID, KPOD_CGROUP_POD},
		{KPOD_CGROUP_HOST, "pod" HASH, KPOD_CGROUP_POD},
		{KPOD_CGROUP_HOST, "kubepods-burstable-pod" UID_ ".slice", KPOD_CGROUP_POD},
		{KPOD_CGROUP_HOST, "kubepods-pod" HASH ".slice", KPOD_CGROUP_POD},
		{KPOD_CGROUP_HOST, "pod1234-5678", KPOD_CGROUP_HOST},
		{KPOD_CGROUP_HOST, "podXXXXXXXX-1234-1234-1234-1234567890ab", KPOD_CGROUP_HOST},
		{KPOD_CGROUP_POD, "cri-containerd-" ID ".scope", KPOD_CGROUP_POD_CONTAINER},
		{KPOD_CGROUP_POD, ID, KPOD_CGROUP_POD_CONTAINER},
		{KPOD_CGROUP_POD, "anything", KPOD_CGROUP_POD_CONTAINER},
		{KPOD_CGROUP_POD_CONTAINER, "init.scope", KPOD_CGROUP_HOST},
		{KPOD_CGROUP_POD_CONTAINER, ID, KPOD_CGROUP_HOST},
		{KPOD_CGROUP_CONTAINER, "a.service", KPOD_CGROUP_HOST},
		{KPOD_CGROUP_UNIT, ID, KPOD_CGROUP_HOST},
		{KPOD_CGROUP_HOST, "kubepods-pod" UID_ ".slice:cri-containerd:" ID,
		 KPOD_CGROUP_POD_CONTAINER},
		{KPOD_CGROUP_UNIT, "kubepods-besteffort-pod" UID_ ".slice:crio:" ID,
		 KPOD_CGROUP_POD_CONTAINER},
		{KPOD_CGROUP_POD_CONTAINER, "kubepods-pod" UID_ ".slice:cri-containerd:" ID,
		 KPOD_CGROUP_HOST},
		{KPOD_CGROUP_HOST, "system.slice:docker:" ID, KPOD_CGROUP_CONTAINER},
		/* kind: a node in a container */
		{KPOD_CGROUP_CONTAINER, "pod" UID, KPOD_CGROUP_POD},
	};

	(void)state;
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		char tail[KPOD_NAME_TAIL] = {0};
		size_t size = strlen(cases[i].name);
		size_t kept = size < sizeof(tail) ? size : sizeof(tail);

		memcpy(tail + sizeof(tail) - kept, cases[i].name + size - kept, kept);
		if ((int)kpod_classify(cases[i].above, tail) != cases[i].kind)
			fail_msg("'%s' below %d is %d", cases[i].name, cases[i].above,
				 kpod_classify(cases[i].above, tail));
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
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
