/* SPDX-License-Identifier: Apache-2.0 */
/* What works on this machine. Knows kernel/ and cgroups/. */
#ifndef KPOD_LOADER_VIEW_DOCTOR_H
#define KPOD_LOADER_VIEW_DOCTOR_H

#include "options.h"

/* Prints a line for everything it looks at; returns the exit status, 0 if all is well. */
int kpod_doctor(const struct kpod_options *options);

#endif
