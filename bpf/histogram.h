/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * Exponential time buckets, the same in the kernel and on the wire: Prometheus native histograms,
 * schema 2 (growth 2^(1/4)), upper bounds inclusive.
 *
 *   bucket 0         (-inf, 2^-20 s]       about 1 us and below
 *   bucket i, 1..96  (2^(-20 + (i-1)/4), 2^(-20 + i/4)] s
 *   bucket 97        (2^4 s, inf)
 *
 * Time is scaled to units of 2^-30 s with ns * 1100 / 1024, which is 0.043 % too large; the bounds
 * inside a power of two are rounded to 2^-32 of it.
 */
#ifndef KPOD_HISTOGRAM_H
#define KPOD_HISTOGRAM_H

#define KPOD_HIST_SCHEMA 2
#define KPOD_HIST_FIRST_EXPONENT (-20)
#define KPOD_HIST_LAST_EXPONENT 4
#define KPOD_HIST_BUCKETS                                                                          \
	((KPOD_HIST_LAST_EXPONENT - KPOD_HIST_FIRST_EXPONENT) * (1 << KPOD_HIST_SCHEMA) + 2)

#define KPOD_HIST_LOW (1ULL << (30 + KPOD_HIST_FIRST_EXPONENT))
#define KPOD_HIST_HIGH (1ULL << (30 + KPOD_HIST_LAST_EXPONENT))

static inline __attribute__((always_inline)) unsigned int kpod_log2(unsigned long long v)
{
	unsigned int r = (v > 0xffffffffULL) << 5, s;

	v >>= r;
	s = (v > 0xffff) << 4;
	v >>= s;
	r |= s;
	s = (v > 0xff) << 3;
	v >>= s;
	r |= s;
	s = (v > 0xf) << 2;
	v >>= s;
	r |= s;
	s = (v > 0x3) << 1;
	v >>= s;
	return r | s | (unsigned int)(v >> 1);
}

static inline __attribute__((always_inline)) unsigned int kpod_time_bucket(unsigned long long ns)
{
	unsigned long long units, mantissa;
	unsigned int exponent;

	if (ns >= 1ULL << 40) /* 18 minutes; keeps the product in 64 bits */
		return KPOD_HIST_BUCKETS - 1;
	units = ns * 1100 >> 10;
	if (units <= KPOD_HIST_LOW)
		return 0;
	if (units > KPOD_HIST_HIGH)
		return KPOD_HIST_BUCKETS - 1;
	units -= 1; /* a value on a bound belongs below it */
	exponent = kpod_log2(units);
	mantissa = units << (63 - exponent);
	return 1 + (exponent - 30 - KPOD_HIST_FIRST_EXPONENT) * 4 +
	       (mantissa >= 0x9837f05200000000ULL) + /* 2^63 * 2^(1/4) */
	       (mantissa >= 0xb504f33400000000ULL) + /* 2^63 * 2^(2/4) */
	       (mantissa >= 0xd744fccb00000000ULL);  /* 2^63 * 2^(3/4) */
}

#endif
