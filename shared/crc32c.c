/* SPDX-License-Identifier: Apache-2.0 */
#include "crc32c.h"

#include <string.h>

#define POLYNOMIAL 0x82f63b78u /* reversed 0x1edc6f41 */

#define T1(n) ((n)&1 ? ((n) >> 1) ^ POLYNOMIAL : (n) >> 1)
#define T4(n) T1(T1(T1(T1(n))))
static const uint32_t nibble[16] = {
	T4(0u), T4(1u), T4(2u),	 T4(3u),  T4(4u),  T4(5u),  T4(6u),  T4(7u),
	T4(8u), T4(9u), T4(10u), T4(11u), T4(12u), T4(13u), T4(14u), T4(15u),
};

uint32_t kpod_crc32c_portable(uint32_t crc, const void *data, size_t size)
{
	const uint8_t *p = data;

	crc = ~crc;
	while (size--) {
		crc ^= *p++;
		crc = nibble[crc & 15] ^ (crc >> 4);
		crc = nibble[crc & 15] ^ (crc >> 4);
	}
	return ~crc;
}

#if defined(__x86_64__)
__attribute__((target("sse4.2"))) static uint32_t crc32c_machine(uint32_t crc, const void *data,
								 size_t size)
{
	const uint8_t *p = data;
	uint64_t wide = ~crc;

	for (; size >= 8; p += 8, size -= 8) {
		uint64_t word;

		memcpy(&word, p, 8);
		wide = __builtin_ia32_crc32di(wide, word);
	}
	crc = (uint32_t)wide;
	while (size--)
		crc = __builtin_ia32_crc32qi(crc, *p++);
	return ~crc;
}

static int has_machine_crc(void)
{
	return __builtin_cpu_supports("sse4.2");
}
#elif defined(__ARM_FEATURE_CRC32)
#include <arm_acle.h>

static uint32_t crc32c_machine(uint32_t crc, const void *data, size_t size)
{
	const uint8_t *p = data;

	crc = ~crc;
	for (; size >= 8; p += 8, size -= 8) {
		uint64_t word;

		memcpy(&word, p, 8);
		crc = __crc32cd(crc, word);
	}
	while (size--)
		crc = __crc32cb(crc, *p++);
	return ~crc;
}

static int has_machine_crc(void)
{
	return 1;
}
#else
#define crc32c_machine kpod_crc32c_portable

static int has_machine_crc(void)
{
	return 0;
}
#endif

uint32_t kpod_crc32c(uint32_t crc, const void *data, size_t size)
{
	return has_machine_crc() ? crc32c_machine(crc, data, size)
				 : kpod_crc32c_portable(crc, data, size);
}
