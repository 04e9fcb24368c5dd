/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* System calls: what the kernel keeps per slot, and per slot and call of the list. */
#ifndef KPOD_SYSCALL_H
#define KPOD_SYSCALL_H

#include "histogram.h"

#define KPOD_SYSCALL_NUMBERS 512 /* calls with a larger number cannot be listed */
#define KPOD_SYSCALL_LISTED 64

/* Of syscall_list[number]: 1 + the place in the list, and: */
#define KPOD_SYSCALL_NO_RESULT 0x80 /* what it returns is another call's (rt_sigreturn) */

/* What went wrong, in few words. Errors that the table below does not name are `other`. */
#define KPOD_ERROR_CLASSES(X)                                                                      \
	X(OTHER, "other")                                                                          \
	X(AGAIN, "again")                                                                          \
	X(INTERRUPTED, "interrupted")                                                              \
	X(TIMEOUT, "timeout")                                                                      \
	X(NOT_FOUND, "not_found")                                                                  \
	X(EXISTS, "exists")                                                                        \
	X(PERMISSION, "permission")                                                                \
	X(BAD_ARGUMENT, "bad_argument")                                                            \
	X(UNSUPPORTED, "unsupported")                                                              \
	X(NO_MEMORY, "no_memory")                                                                  \
	X(NO_SPACE, "no_space")                                                                    \
	X(LIMIT, "limit")                                                                          \
	X(CONNECTION, "connection")                                                                \
	X(IO, "io")

#define KPOD_ERRORS(X)                                                                             \
	X(EAGAIN, AGAIN)                                                                           \
	X(EINPROGRESS, AGAIN)                                                                      \
	X(EALREADY, AGAIN)                                                                         \
	X(EBUSY, AGAIN)                                                                            \
	X(EINTR, INTERRUPTED)                                                                      \
	X(ETIMEDOUT, TIMEOUT)                                                                      \
	X(ETIME, TIMEOUT)                                                                          \
	X(ENOENT, NOT_FOUND)                                                                       \
	X(ENOTDIR, NOT_FOUND)                                                                      \
	X(ESRCH, NOT_FOUND)                                                                        \
	X(ECHILD, NOT_FOUND)                                                                       \
	X(ENODEV, NOT_FOUND)                                                                       \
	X(ENXIO, NOT_FOUND)                                                                        \
	X(ENODATA, NOT_FOUND)                                                                      \
	X(EEXIST, EXISTS)                                                                          \
	X(ENOTEMPTY, EXISTS)                                                                       \
	X(EADDRINUSE, EXISTS)                                                                      \
	X(EISCONN, EXISTS)                                                                         \
	X(EPERM, PERMISSION)                                                                       \
	X(EACCES, PERMISSION)                                                                      \
	X(EROFS, PERMISSION)                                                                       \
	X(EINVAL, BAD_ARGUMENT)                                                                    \
	X(EBADF, BAD_ARGUMENT)                                                                     \
	X(EFAULT, BAD_ARGUMENT)                                                                    \
	X(E2BIG, BAD_ARGUMENT)                                                                     \
	X(EISDIR, BAD_ARGUMENT)                                                                    \
	X(ESPIPE, BAD_ARGUMENT)                                                                    \
	X(ENOTTY, BAD_ARGUMENT)                                                                    \
	X(ERANGE, BAD_ARGUMENT)                                                                    \
	X(ENAMETOOLONG, BAD_ARGUMENT)                                                              \
	X(EMSGSIZE, BAD_ARGUMENT)                                                                  \
	X(ENOTSOCK, BAD_ARGUMENT)                                                                  \
	X(EDESTADDRREQ, BAD_ARGUMENT)                                                              \
	X(ENOSYS, UNSUPPORTED)                                                                     \
	X(EOPNOTSUPP, UNSUPPORTED)                                                                 \
	X(EPROTONOSUPPORT, UNSUPPORTED)                                                            \
	X(EAFNOSUPPORT, UNSUPPORTED)                                                               \
	X(ENOMEM, NO_MEMORY)                                                                       \
	X(ENOBUFS, NO_MEMORY)                                                                      \
	X(ENOSPC, NO_SPACE)                                                                        \
	X(EDQUOT, NO_SPACE)                                                                        \
	X(EFBIG, NO_SPACE)                                                                         \
	X(EMFILE, LIMIT)                                                                           \
	X(ENFILE, LIMIT)                                                                           \
	X(EMLINK, LIMIT)                                                                           \
	X(EPIPE, CONNECTION)                                                                       \
	X(ECONNREFUSED, CONNECTION)                                                                \
	X(ECONNRESET, CONNECTION)                                                                  \
	X(ECONNABORTED, CONNECTION)                                                                \
	X(ENOTCONN, CONNECTION)                                                                    \
	X(EHOSTUNREACH, CONNECTION)                                                                \
	X(ENETUNREACH, CONNECTION)                                                                 \
	X(ENETDOWN, CONNECTION)                                                                    \
	X(EIO, IO)

enum kpod_error {
#define X(class, name) KPOD_ERROR_##class,
	KPOD_ERROR_CLASSES(X)
#undef X
		KPOD_ERROR_COUNT
};

struct syscall_row {
	__u64 calls;
	__u64 errors;
	__u64 ns;
	__u64 foreign;
	__u64 untracked;
	__u64 unfinished;
	__u64 reserved[2]; /* to a whole cache line: shards do not share one */
};

struct syscall_call_row {
	__u64 calls;
	__u64 ns;
	__u64 errors[KPOD_ERROR_COUNT];
	__u64 duration[KPOD_HIST_BUCKETS];
	__u64 reserved[6]; /* to a whole number of cache lines */
};

#endif
