#!/usr/bin/env bash
# UDP's InDatagrams, and node_exporter's node_netstat_Udp_InDatagrams, count what programs have read.
#
# Setting   Linux 6.18, prometheus-node-exporter 1.5.0-1+b6 (Debian 12), loopback of a network namespace of its own. 100 datagrams are
#           sent to a socket that nobody reads; then 40 of them are read, 10 of these after a look with MSG_PEEK; then the socket is closed.
# Guess     InDatagrams counts arrivals, as IP's InReceives does: 100 at once, and no more for reading. (RFC 4113: "the total number of
#           UDP datagrams delivered to UDP users".)
# Seen      It stands at 0 until somebody reads, and then at 40: the kernel counts in recvmsg(). The other 60 are in no counter of UDP,
#           not even an error's, when the socket is closed; OutDatagrams is 100.
# So        A service that has stopped reading looks like one that nobody talks to. Sent less received is not loss. What arrives is in
#           the interface's packets, or has to be counted where the datagram is queued.
set -euo pipefail
skip() { echo "skipped: $*"; exit 77; }
[ "$(uname -m)" = x86_64 ] || skip "the pinned package is of amd64"
[ "$(id -u)" = 0 ] || skip "a network namespace needs root"
unshare --net true 2>/dev/null || skip "may not make a network namespace"
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
apt-get download -qq prometheus-node-exporter=1.5.0-1+b6 2>/dev/null || skip "node_exporter 1.5.0 of Debian 12 cannot be had here"
dpkg-deb -x prometheus-node-exporter_*.deb .
unshare --net python3 - <<'PY'
import fcntl
import re
import socket
import struct
import subprocess
import sys
import time
import urllib.request

SIOCSIFFLAGS, IFF_UP = 0x8914, 1
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
    fcntl.ioctl(any_socket, SIOCSIFFLAGS, struct.pack("16sh14x", b"lo", IFF_UP))
address = "127.0.0.1:9100"
exporter = subprocess.Popen(
    ["usr/bin/prometheus-node-exporter", f"--web.listen-address={address}", "--collector.disable-defaults", "--collector.netstat"],
    stderr=subprocess.DEVNULL,
)
fetch = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def counters() -> dict[str, int]:
    page = fetch.open(f"http://{address}/metrics", timeout=10).read().decode()
    return {name: int(float(value)) for name, value in re.findall(r"(?m)^node_netstat_Udp_(\w+) (\S+)", page)}


def moved(before: dict[str, int]) -> dict[str, int]:
    return {name: value - before[name] for name, value in counters().items() if value != before[name]}


try:
    for _ in range(100):
        try:
            start = counters()
            break
        except OSError:
            time.sleep(0.1)
    receiver, sender = (socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(2))
    receiver.bind(("127.0.0.1", 0))
    receiver.settimeout(5)
    for _ in range(100):
        sender.sendto(b"datagram", receiver.getsockname())
    unread = moved(start)
    for n in range(40):
        if n < 10:
            receiver.recv(100, socket.MSG_PEEK)
        receiver.recv(100)
    read = moved(start)
    receiver.close()
    closed = moved(start)
finally:
    exporter.terminate()
    exporter.wait()
print("100 sent, none read:", unread)
print("40 read:            ", read)
print("closed:             ", closed)
sys.exit(not (unread == {"OutDatagrams": 100} and read == closed == {"OutDatagrams": 100, "InDatagrams": 40}))
PY
echo "as described: reads are counted"
