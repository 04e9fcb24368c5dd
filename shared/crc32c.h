/* SPDX-License-Identifier: Apache-2.0 */
#ifndef KPOD_CRC32C_H
#define KPOD_CRC32C_H

#include <stddef.h>
#include <stdint.h>

/* CRC32C (Castagnoli, RFC 3720 B.4): start with 0, feed the result back in to continue. */
uint32_t kpod_crc32c(uint32_t crc, const void *data, size_t size);

/* The table-driven form that machines without a CRC instruction use; for the tests. */
uint32_t kpod_crc32c_portable(uint32_t crc, const void *data, size_t size);

#endif
