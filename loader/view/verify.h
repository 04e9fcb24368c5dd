/* SPDX-License-Identifier: Apache-2.0 */
/* Test builds: every program shown to the verifier. Knows kernel/ and cgroups/. */
#ifndef KPOD_LOADER_VIEW_VERIFY_H
#define KPOD_LOADER_VIEW_VERIFY_H

#include "options.h"

/* For tests: tries all programs and attachments there are. Returns the exit status. */
int kpod_verify(const struct kpod_options *options);

#endif
