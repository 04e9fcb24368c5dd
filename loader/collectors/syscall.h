/* SPDX-License-Identifier: Apache-2.0 */
/* Which system calls collector syscall measures by name. */
#ifndef KPOD_LOADER_COLLECTORS_SYSCALL_H
#define KPOD_LOADER_COLLECTORS_SYSCALL_H

/* Which calls are measured by name; NULL: those that matter most. On an error one line on stderr
 * has said which. */
int kpod_syscalls_choose(const char *comma_separated);

#endif
