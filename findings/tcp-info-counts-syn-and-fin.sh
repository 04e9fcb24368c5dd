#!/usr/bin/env bash
# TCP_INFO's tcpi_bytes_acked and tcpi_bytes_received are not bytes of payload, and the two ends disagree.
#
# Setting   Linux 6.18, loopback, CPython 3's socket module. 1,000 bytes one way, 500 back, then the client's FIN.
# Guess     RFC 4898 (ThruOctetsAcked, ThruOctetsReceived) counts data: client 1000 acked and 500 received, server 500 and
#           1000, whenever one looks.
# Seen      The end that opened has one more acked than it sent, from the start (its SYN), and two more after its FIN. The
#           other end has none for its SYN, and one more *received* after the FIN. tcpi_bytes_sent has neither.
# So        A sum of bytes over connections is off by up to two a connection and end, by who opened and who closed: subtract
#           SYN and FIN by state, or count copied_seq and write_seq.
set -euo pipefail
python3 - <<'PY' || { [ $? = 77 ] && exit 77 || exit 1; }
import socket
import struct
import sys
import time


def info(s: socket.socket) -> tuple[int, int, int]:
    data = s.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 512)
    if len(data) < 208:
        print("skipped: TCP_INFO of this kernel has no tcpi_bytes_sent (before 4.19)")
        sys.exit(77)
    acked, received = struct.unpack_from("QQ", data, 120)
    return acked, received, struct.unpack_from("Q", data, 200)[0]


def until(s: socket.socket, wanted: tuple[int, int, int]) -> tuple[int, int, int]:
    end = time.monotonic() + 5  # acknowledgements may be late
    while info(s) != wanted and time.monotonic() < end:
        time.sleep(0.01)
    return info(s)


listener = socket.create_server(("127.0.0.1", 0))
client = socket.create_connection(listener.getsockname())
server, _ = listener.accept()
# (acked, received, sent) as seen on 6.18
expected = {
    "opened": ((1, 0, 0), (0, 0, 0)),
    "data": ((1001, 500, 1000), (500, 1000, 500)),
    "client's FIN": ((1002, 500, 1000), (500, 1001, 500)),
}
same = True
for step, (at_client, at_server) in expected.items():
    if step == "data":
        client.sendall(b"x" * 1000)
        server.recv(1000, socket.MSG_WAITALL)
        server.sendall(b"y" * 500)
        client.recv(500, socket.MSG_WAITALL)
    elif step == "client's FIN":
        client.shutdown(socket.SHUT_WR)
    seen = until(client, at_client), until(server, at_server)
    print(f"{step}: client acked, received, sent {seen[0]}; server {seen[1]}")
    same &= seen == (at_client, at_server)
sys.exit(not same)
PY
echo "as described"
