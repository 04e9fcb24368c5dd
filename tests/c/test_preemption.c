/* SPDX-License-Identifier: Apache-2.0 */
/* Whether a kernel preempts programs of functions, by what kernels of distributions say. */
#include "test.h"

#include "kernel/preemption.h"

#define DYNAMIC "#1 SMP PREEMPT_DYNAMIC Debian 6.12.57-1 (2025-11-05)"
#define VOLUNTARY "#1 SMP Debian 5.10.249-1"

static const struct {
	const char *version, *commandline, *modes;
	bool preempts;
} kernels[] = {
	{VOLUNTARY, "quiet", "", false},
	{VOLUNTARY, "quiet preempt=full", "", false}, /* it does not know the option */
	{"#1 SMP PREEMPT Thu Jan  1", "", "", true},
	{"#1 SMP PREEMPT_RT Debian 6.12.57-1", "", "", true},
	{DYNAMIC, "quiet", "", true}, /* it does not say */
	{DYNAMIC, "preempt=full", "", true},
	{DYNAMIC, "preempt=full quiet\n", "", true},
	{DYNAMIC, "quiet preempt=lazy\n", "", true},
	{DYNAMIC, "quiet preempt=voluntary", "", false},
	{DYNAMIC, "preempt=full preempt=none", "", false},
	{DYNAMIC, "preempt=none preempt=full", "", true},
	{DYNAMIC, "nopreempt=none rcu.preempt=none", "", true},
	/* What it says itself is what somebody has set since. */
	{DYNAMIC, "preempt=full", "none (voluntary) full\n", false},
	{DYNAMIC, "", "none voluntary (full) \n", true},
	{DYNAMIC, "preempt=none", "full (lazy)\n", true},
};

static void preemption_of_functions(void **state)
{
	(void)state;
	for (size_t i = 0; i < KPOD_COUNT(kernels); i++)
		assert_int_equal(kpod_functions_preempt(kernels[i].version, kernels[i].commandline,
							kernels[i].modes),
				 kernels[i].preempts);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(preemption_of_functions),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
