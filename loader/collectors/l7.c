/* SPDX-License-Identifier: Apache-2.0 */
#include "collectors/l7.h"
#include "base/collector.h"

#include "bpf/l7.h"

KPOD_OBJECT(l7);

#define NAMES(function, ...)                                                                       \
	const struct kpod_names *function(void)                                                    \
	{                                                                                          \
		static const char *const names[] = {__VA_ARGS__};                                  \
		static const struct kpod_names all = {names, KPOD_COUNT(names)};                   \
                                                                                                   \
		return &all;                                                                       \
	}

NAMES(kpod_l7_sides, [KPOD_L7_CLIENT] = "client", [KPOD_L7_SERVER] = "server")
#define X(number, name, prefix) [L7_##number] = name,
NAMES(kpod_l7_protocols, [L7_UNKNOWN] = "unknown",
      L7_PROTOCOLS(X)[L7_TLS] = "tls", [L7_HTTP2] = "http2", [L7_GRPC] = "grpc")
#undef X
#define X(number, name) [L7_##number] = name,
NAMES(kpod_l7_operations, L7_OPERATIONS(X))
NAMES(kpod_l7_statuses, L7_STATUSES(X))
#undef X

static const struct kpod_key keys[] = {
	{.label = "side", .values = kpod_l7_sides},
	{.label = "protocol", .values = kpod_l7_protocols},
	{.label = "operation", .values = kpod_l7_operations},
	{.label = "status", .values = kpod_l7_statuses},
};

static const struct kpod_column columns[] = {
	{"kpod_l7_requests_total",
	 "Requests over TCP that have ended, read from the payload: answered, or with the status "
	 "no_response when the connection ended first. docs/l7.md says for each protocol what "
	 "counts as a request.",
	 .kind = KPOD_COUNTER, .word = KPOD_WORD(l7_row, requests)},
	{"kpod_l7_request_duration_seconds",
	 "Time from the first byte of a request to the last byte of its answer, as this end of the "
	 "connection sends and receives them. Requests that wait by design or get no answer are "
	 "not in it.",
	 KPOD_TIME_HISTOGRAM(l7_row, duration, ns)},
};

#define CONNECTIONS(number, name_)                                                                 \
	{                                                                                          \
		"kpod_l7_connections_total",                                                       \
			"TCP connections with payload, by the protocol that was recognised in "    \
			"it, whatever the "                                                        \
			"ports. The payload of tls and unknown is not read.",                      \
			"protocol", name_,                                                         \
			.kind = KPOD_COUNTER,                                                      \
			.word = KPOD_WORD(l7_slot_row, connections[L7_##number])                   \
	}
#define LOST(reason_, event)                                                                       \
	{                                                                                          \
		"kpod_l7_requests_lost_total",                                                     \
			"Requests that are not in kpod_l7_requests_total: the answer was in a "    \
			"missing segment "                                                         \
			"(gap), or there were too many outstanding (overflow), or an answer "      \
			"belonged to no "                                                          \
			"request that was seen (unmatched).",                                      \
			"reason", reason_, .kind = KPOD_COUNTER,                                   \
					   .word = KPOD_WORD(l7_slot_row, events[event])           \
	}

/* enum l7_event of bpf/l7/l7.h, which programs include. */
enum { UNSOLICITED = 1, UNMATCHED, GAP, OVERFLOW, BROKEN };

static const struct kpod_column slot_columns[] = {
#define X(number, name, prefix) CONNECTIONS(number, name),
	L7_PROTOCOLS(X)
#undef X
		CONNECTIONS(HTTP2, "http2"),
	CONNECTIONS(TLS, "tls"),
	CONNECTIONS(UNKNOWN, "unknown"),
	LOST("gap", GAP),
	LOST("overflow", OVERFLOW),
	LOST("unmatched", UNMATCHED),
	{"kpod_l7_unsolicited_errors_total",
	 "Errors that a server sent although no request was outstanding, such as HTTP 408 to a "
	 "silent client or the end of an idle PostgreSQL session.",
	 .kind = KPOD_COUNTER, .word = KPOD_WORD(l7_slot_row, events[UNSOLICITED])},
	{"kpod_l7_streams_broken_total",
	 "Times that a connection's bytes were not of the protocol that it had been recognised as.",
	 .kind = KPOD_COUNTER, .word = KPOD_WORD(l7_slot_row, events[BROKEN])},
	{"kpod_l7_untracked_connections_total",
	 "TCP connections whose payload is not read because too many are read already.",
	 .kind = KPOD_COUNTER, .word = KPOD_WORD(l7_slot_row, untracked)},
	{"kpod_l7_early_segments_total",
	 "Segments with payload that came to a listening socket, before their connection was made "
	 "(TCP_DEFER_ACCEPT, TCP Fast Open): the request in them is not read.",
	 .kind = KPOD_COUNTER, .word = KPOD_WORD(l7_slot_row, early)},
};

static const struct kpod_table tables[] = {
	{.name = "l7",
	 .scope = KPOD_PER_SLOT,
	 .map = "l7_rows",
	 .row_size = sizeof(struct l7_row),
	 .words = KPOD_WORD(l7_row, reserved),
	 KPOD_COLUMNS(columns),
	 KPOD_KEYS(keys),
	 .units = "l7",
	 .unit_capacity = 4096,
	 .unsharded = true},
	{.name = "l7_connections",
	 .scope = KPOD_PER_SLOT,
	 .map = "l7_slot_rows",
	 .row_size = sizeof(struct l7_slot_row),
	 .words = KPOD_WORD(l7_slot_row, units),
	 KPOD_COLUMNS(slot_columns)},
};

static const struct kpod_attachment attachments[] = {
	{.name = "cgroup_skb",
	 KPOD_STEPS({"kpod_l7_http2_in", KPOD_TAIL_CALL}, {"kpod_l7_http2_out", KPOD_TAIL_CALL},
		    {"kpod_l7_destroy", KPOD_ATTACH}, {"kpod_l7_egress", KPOD_ATTACH_CGROUP},
		    {"kpod_l7_ingress", KPOD_ATTACH_CGROUP})},
};

const struct kpod_collector kpod_collector_l7 = {
	.name = "l7",
	.help = "requests over TCP, read from the payload: HTTP/1, Redis, PostgreSQL, MySQL, "
		"MongoDB, "
		"Kafka, DNS, HTTP/2, gRPC",
	.owner = "the cgroup of the socket, at either end",
	.since = "5.17",
	.profile = KPOD_COMPREHENSIVE,
	KPOD_EMBEDDED(l7),
	.attachments = attachments,
	.attachment_count = KPOD_COUNT(attachments),
	.tables = tables,
	.table_count = KPOD_COUNT(tables),
};
