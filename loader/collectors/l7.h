/* SPDX-License-Identifier: Apache-2.0 */
/* Labels of layer 7, which two collectors have. */
#ifndef KPOD_LOADER_COLLECTORS_L7_H
#define KPOD_LOADER_COLLECTORS_L7_H

struct kpod_names;

const struct kpod_names *kpod_l7_sides(void);
const struct kpod_names *kpod_l7_protocols(void);
const struct kpod_names *kpod_l7_operations(void);
const struct kpod_names *kpod_l7_statuses(void);

#endif
