/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* What is exported of a request: protocol, operation and status, each one of a list. */
#ifndef KPOD_L7_NAMES_H
#define KPOD_L7_NAMES_H

/* X(number, name, header's prefix): bpf/l7/protocols.h includes each one's header. */
#define L7_PROTOCOLS(X)                                                                            \
	X(HTTP, "http", http)                                                                      \
	X(REDIS, "redis", redis)                                                                   \
	X(POSTGRESQL, "postgresql", postgresql)                                                    \
	X(DNS, "dns", dns)                                                                         \
	X(MYSQL, "mysql", mysql)                                                                   \
	X(MONGODB, "mongodb", mongodb)                                                             \
	X(KAFKA, "kafka", kafka)

enum l7_protocol {
	L7_UNKNOWN, /* not yet, or never */
#define X(number, name, prefix) L7_##number,
	L7_PROTOCOLS(X)
#undef X
		L7_TLS, /* not to be read */
	L7_HTTP2,	/* bpf/l7/http2.h, a program of its own */
	L7_GRPC,	/* streams of HTTP/2; no connection is this */
	L7_PROTOCOL_COUNT
};

/* Protocols may share an operation: a name is in the list once. */
#define L7_OPERATIONS(X)                                                                           \
	X(OTHER, "other")                                                                          \
	X(UNKNOWN_OPERATION, "unknown") /* it cannot be seen */                                    \
	/* http */                                                                                 \
	X(GET, "GET")                                                                              \
	X(HEAD, "HEAD")                                                                            \
	X(POST, "POST")                                                                            \
	X(PUT, "PUT")                                                                              \
	X(DELETE, "DELETE")                                                                        \
	X(CONNECT, "CONNECT")                                                                      \
	X(OPTIONS, "OPTIONS")                                                                      \
	X(TRACE, "TRACE")                                                                          \
	X(PATCH, "PATCH")                                                                          \
	/* redis, beside GET */                                                                    \
	X(SET, "SET")                                                                              \
	X(SETEX, "SETEX")                                                                          \
	X(SETNX, "SETNX")                                                                          \
	X(MGET, "MGET")                                                                            \
	X(MSET, "MSET")                                                                            \
	X(DEL, "DEL")                                                                              \
	X(UNLINK, "UNLINK")                                                                        \
	X(EXISTS, "EXISTS")                                                                        \
	X(EXPIRE, "EXPIRE")                                                                        \
	X(TTL, "TTL")                                                                              \
	X(INCR, "INCR")                                                                            \
	X(INCRBY, "INCRBY")                                                                        \
	X(DECR, "DECR")                                                                            \
	X(HGET, "HGET")                                                                            \
	X(HSET, "HSET")                                                                            \
	X(HMGET, "HMGET")                                                                          \
	X(HGETALL, "HGETALL")                                                                      \
	X(HDEL, "HDEL")                                                                            \
	X(HINCRBY, "HINCRBY")                                                                      \
	X(LPUSH, "LPUSH")                                                                          \
	X(RPUSH, "RPUSH")                                                                          \
	X(LPOP, "LPOP")                                                                            \
	X(RPOP, "RPOP")                                                                            \
	X(LRANGE, "LRANGE")                                                                        \
	X(LLEN, "LLEN")                                                                            \
	X(SADD, "SADD")                                                                            \
	X(SREM, "SREM")                                                                            \
	X(SMEMBERS, "SMEMBERS")                                                                    \
	X(SISMEMBER, "SISMEMBER")                                                                  \
	X(ZADD, "ZADD")                                                                            \
	X(ZRANGE, "ZRANGE")                                                                        \
	X(ZREM, "ZREM")                                                                            \
	X(XADD, "XADD")                                                                            \
	X(XREAD, "XREAD")                                                                          \
	X(XACK, "XACK")                                                                            \
	X(XREADGROUP, "XREADGROUP")                                                                \
	X(BLPOP, "BLPOP")                                                                          \
	X(BRPOP, "BRPOP")                                                                          \
	X(WAIT, "WAIT")                                                                            \
	X(EVAL, "EVAL")                                                                            \
	X(EVALSHA, "EVALSHA")                                                                      \
	X(MULTI, "MULTI")                                                                          \
	X(EXEC, "EXEC")                                                                            \
	X(DISCARD, "DISCARD")                                                                      \
	X(WATCH, "WATCH")                                                                          \
	X(PUBLISH, "PUBLISH")                                                                      \
	X(SUBSCRIBE, "SUBSCRIBE")                                                                  \
	X(UNSUBSCRIBE, "UNSUBSCRIBE")                                                              \
	X(PING, "PING")                                                                            \
	X(AUTH, "AUTH")                                                                            \
	X(HELLO, "HELLO")                                                                          \
	X(CLIENT_COMMAND, "CLIENT")                                                                \
	X(COMMAND, "COMMAND")                                                                      \
	X(SCAN, "SCAN")                                                                            \
	X(CONFIG, "CONFIG")                                                                        \
	X(INFO, "INFO")                                                                            \
	X(MONITOR, "MONITOR")                                                                      \
	X(REPLCONF, "REPLCONF")                                                                    \
	X(PSYNC, "PSYNC")                                                                          \
	/* SQL, beside SET and DELETE */                                                           \
	X(SELECT, "SELECT")                                                                        \
	X(INSERT, "INSERT")                                                                        \
	X(UPDATE, "UPDATE")                                                                        \
	X(MERGE, "MERGE")                                                                          \
	X(BEGIN, "BEGIN")                                                                          \
	X(COMMIT, "COMMIT")                                                                        \
	X(ROLLBACK, "ROLLBACK")                                                                    \
	X(COPY, "COPY")                                                                            \
	X(CREATE, "CREATE")                                                                        \
	X(ALTER, "ALTER")                                                                          \
	X(DROP, "DROP")                                                                            \
	X(TRUNCATE, "TRUNCATE")                                                                    \
	X(FETCH, "FETCH")                                                                          \
	X(CALL, "CALL")                                                                            \
	X(DO, "DO")                                                                                \
	X(SHOW, "SHOW")                                                                            \
	X(LISTEN, "LISTEN")                                                                        \
	X(NOTIFY, "NOTIFY")                                                                        \
	X(VACUUM, "VACUUM")                                                                        \
	X(EXPLAIN, "EXPLAIN")                                                                      \
	X(REPLACE, "REPLACE")                                                                      \
	X(LOAD, "LOAD")                                                                            \
	X(USE, "USE")                                                                              \
	/* mysql: commands, beside FETCH, PING, AUTH */                                            \
	X(PREPARE, "PREPARE")                                                                      \
	X(EXECUTE, "EXECUTE")                                                                      \
	X(CLOSE, "CLOSE")                                                                          \
	X(RESET, "RESET")                                                                          \
	X(QUIT, "QUIT")                                                                            \
	X(SEND_LONG_DATA, "SEND_LONG_DATA")                                                        \
	/* mongodb, beside AUTH */                                                                 \
	X(M_FIND, "find")                                                                          \
	X(M_INSERT, "insert")                                                                      \
	X(M_UPDATE, "update")                                                                      \
	X(M_DELETE, "delete")                                                                      \
	X(M_AGGREGATE, "aggregate")                                                                \
	X(M_GET_MORE, "getMore")                                                                   \
	X(M_COUNT, "count")                                                                        \
	X(M_DISTINCT, "distinct")                                                                  \
	X(M_FIND_AND_MODIFY, "findAndModify")                                                      \
	X(M_BULK_WRITE, "bulkWrite")                                                               \
	X(M_KILL_CURSORS, "killCursors")                                                           \
	X(M_CREATE_INDEXES, "createIndexes")                                                       \
	X(M_COMMIT_TRANSACTION, "commitTransaction")                                               \
	X(M_ABORT_TRANSACTION, "abortTransaction")                                                 \
	X(M_PING, "ping")                                                                          \
	X(M_HELLO, "hello")                                                                        \
	/* kafka, beside AUTH */                                                                   \
	X(K_PRODUCE, "Produce")                                                                    \
	X(K_FETCH, "Fetch")                                                                        \
	X(K_LIST_OFFSETS, "ListOffsets")                                                           \
	X(K_METADATA, "Metadata")                                                                  \
	X(K_OFFSET_COMMIT, "OffsetCommit")                                                         \
	X(K_OFFSET_FETCH, "OffsetFetch")                                                           \
	X(K_FIND_COORDINATOR, "FindCoordinator")                                                   \
	X(K_JOIN_GROUP, "JoinGroup")                                                               \
	X(K_HEARTBEAT, "Heartbeat")                                                                \
	X(K_LEAVE_GROUP, "LeaveGroup")                                                             \
	X(K_SYNC_GROUP, "SyncGroup")                                                               \
	X(K_API_VERSIONS, "ApiVersions")                                                           \
	X(K_CREATE_TOPICS, "CreateTopics")                                                         \
	X(K_DELETE_TOPICS, "DeleteTopics")                                                         \
	X(K_INIT_PRODUCER_ID, "InitProducerId")                                                    \
	X(K_ADD_PARTITIONS_TO_TXN, "AddPartitionsToTxn")                                           \
	X(K_END_TXN, "EndTxn")                                                                     \
	X(K_TXN_OFFSET_COMMIT, "TxnOffsetCommit")                                                  \
	/* dns: types of the question */                                                           \
	X(A, "A")                                                                                  \
	X(AAAA, "AAAA")                                                                            \
	X(PTR, "PTR")                                                                              \
	X(SRV, "SRV")                                                                              \
	X(TXT, "TXT")                                                                              \
	X(MX, "MX")                                                                                \
	X(CNAME, "CNAME")                                                                          \
	X(NS, "NS")                                                                                \
	X(SOA, "SOA")                                                                              \
	X(SVCB, "SVCB")                                                                            \
	X(HTTPS, "HTTPS")                                                                          \
	X(ANY, "ANY")

enum l7_operation {
#define X(number, name) L7_##number,
	L7_OPERATIONS(X)
#undef X
		L7_OPERATION_COUNT
};

#define L7_STATUSES(X)                                                                             \
	X(OK, "ok")                                                                                \
	X(ERROR, "error")                                                                          \
	X(NO_RESPONSE, "no_response") /* the connection ended, or time ran out */                  \
	X(ONE_WAY, "one_way")	      /* a request that gets no answer by design */                \
	X(ANSWERED, "answered")	      /* whether by an error is not looked at */                   \
	/* http */                                                                                 \
	X(1XX, "1xx")                                                                              \
	X(2XX, "2xx")                                                                              \
	X(3XX, "3xx")                                                                              \
	X(4XX, "4xx")                                                                              \
	X(5XX, "5xx")                                                                              \
	/* http2, grpc: how a stream ended without an answer, or nobody can tell how */            \
	X(CANCELLED, "cancelled") /* RST_STREAM of the client, or CANCEL of the server */          \
	X(STREAM_RESET, "reset")  /* RST_STREAM of the server */                                   \
	X(UNKNOWN_STATUS, "unknown")                                                               \
	/* grpc: codes, in the order of their numbers */                                           \
	X(GRPC_OK, "OK")                                                                           \
	X(GRPC_CANCELLED, "CANCELLED")                                                             \
	X(GRPC_UNKNOWN, "UNKNOWN")                                                                 \
	X(GRPC_INVALID_ARGUMENT, "INVALID_ARGUMENT")                                               \
	X(GRPC_DEADLINE_EXCEEDED, "DEADLINE_EXCEEDED")                                             \
	X(GRPC_NOT_FOUND, "NOT_FOUND")                                                             \
	X(GRPC_ALREADY_EXISTS, "ALREADY_EXISTS")                                                   \
	X(GRPC_PERMISSION_DENIED, "PERMISSION_DENIED")                                             \
	X(GRPC_RESOURCE_EXHAUSTED, "RESOURCE_EXHAUSTED")                                           \
	X(GRPC_FAILED_PRECONDITION, "FAILED_PRECONDITION")                                         \
	X(GRPC_ABORTED, "ABORTED")                                                                 \
	X(GRPC_OUT_OF_RANGE, "OUT_OF_RANGE")                                                       \
	X(GRPC_UNIMPLEMENTED, "UNIMPLEMENTED")                                                     \
	X(GRPC_INTERNAL, "INTERNAL")                                                               \
	X(GRPC_UNAVAILABLE, "UNAVAILABLE")                                                         \
	X(GRPC_DATA_LOSS, "DATA_LOSS")                                                             \
	X(GRPC_UNAUTHENTICATED, "UNAUTHENTICATED")                                                 \
	/* redis */                                                                                \
	X(MOVED, "moved")	/* MOVED, ASK: of a cluster's client, which asks elsewhere */      \
	X(NOSCRIPT, "noscript") /* of EVALSHA: the client sends the script */                      \
	X(UNSUPPORTED, "unsupported") /* of what a library tries when it connects */               \
	/* mongodb */                                                                              \
	X(WRITE_ERROR, "write_error") /* some writes of a command failed */                        \
	/* dns: response codes */                                                                  \
	X(NOERROR, "NOERROR")                                                                      \
	X(FORMERR, "FORMERR")                                                                      \
	X(SERVFAIL, "SERVFAIL")                                                                    \
	X(NXDOMAIN, "NXDOMAIN")                                                                    \
	X(NOTIMP, "NOTIMP")                                                                        \
	X(REFUSED, "REFUSED")                                                                      \
	X(BADVERS, "BADVERS")                                                                      \
	X(BADCOOKIE, "BADCOOKIE")                                                                  \
	X(RCODE, "other")                                                                          \
	/* SQLSTATE classes (PostgreSQL's appendix A, MariaDB's error codes) */                    \
	X(SQL_08, "08")                                                                            \
	X(SQL_0A, "0A")                                                                            \
	X(SQL_21, "21")                                                                            \
	X(SQL_22, "22")                                                                            \
	X(SQL_23, "23")                                                                            \
	X(SQL_25, "25")                                                                            \
	X(SQL_26, "26")                                                                            \
	X(SQL_28, "28")                                                                            \
	X(SQL_2B, "2B")                                                                            \
	X(SQL_3D, "3D")                                                                            \
	X(SQL_3F, "3F")                                                                            \
	X(SQL_40, "40")                                                                            \
	X(SQL_42, "42")                                                                            \
	X(SQL_53, "53")                                                                            \
	X(SQL_54, "54")                                                                            \
	X(SQL_55, "55")                                                                            \
	X(SQL_57, "57")                                                                            \
	X(SQL_58, "58")                                                                            \
	X(SQL_70, "70")                                                                            \
	X(SQL_P0, "P0")                                                                            \
	X(SQL_XX, "XX")                                                                            \
	X(SQL_HY, "HY")

enum l7_status {
#define X(number, name) L7_##number,
	L7_STATUSES(X)
#undef X
		L7_STATUS_COUNT
};

#endif
