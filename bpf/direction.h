/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
#ifndef KPOD_DIRECTION_H
#define KPOD_DIRECTION_H

enum kpod_direction { KPOD_SENT, KPOD_RECEIVED, KPOD_DIRECTIONS };

#endif
