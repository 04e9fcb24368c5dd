#!/usr/bin/env bash
# One line of /proc/net/sockstat speaks of the network namespace and of the node, and so does node_exporter.
#
# Setting   Linux 6.18, prometheus-node-exporter 1.5.0-1+b6 (Debian 12). node_exporter runs in a new network namespace, where nothing
#           else is. In another new one a process has 50 TCP connections over loopback, 100 sockets.
# Guess     /proc/net is a namespace's own: all of node_sockstat_TCP_* are 0, but for the exporter's own one or two sockets, as
#           node_sockstat_sockets_used is; so is node_softnet_processed_total.
# Seen      inuse and tw are the namespace's, alloc, orphan and mem are of all namespaces together: alloc is at least 100.
#           softnet_stat, too, is the same file in each namespace.
# So        In a pod the sum of alloc over pods counts each socket of the node once for each pod, and memory likewise. A
#           pod's own sockets are inuse and tw only.
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
cat >up.py <<'PY'
import fcntl
import socket
import struct

SIOCSIFFLAGS, IFF_UP = 0x8914, 1
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
    fcntl.ioctl(any_socket, SIOCSIFFLAGS, struct.pack("16sh14x", b"lo", IFF_UP))
PY
cat >busy.py <<'PY'
import socket
import sys

import up

listener = socket.create_server(("127.0.0.1", 0), backlog=100)
sockets = []
for _ in range(50):
    sockets.append(socket.create_connection(listener.getsockname()))
    sockets.append(listener.accept()[0])
print("there", flush=True)
sys.stdin.read()
PY
cat >scrape.py <<'PY'
import re
import subprocess
import sys
import time
import urllib.request

import up

busy = subprocess.Popen(
    ["unshare", "--net", sys.executable, "busy.py"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
)
address = "127.0.0.1:9100"
exporter = subprocess.Popen(
    ["usr/bin/prometheus-node-exporter", f"--web.listen-address={address}", "--collector.disable-defaults",
     "--collector.sockstat", "--collector.softnet"],
    stderr=subprocess.DEVNULL,
)
fetch = urllib.request.build_opener(urllib.request.ProxyHandler({}))
try:
    assert busy.stdout.readline() == "there\n"
    for _ in range(100):
        try:
            page = fetch.open(f"http://{address}/metrics", timeout=10).read().decode()
            break
        except OSError:
            time.sleep(0.1)
finally:
    busy.stdin.close()
    busy.wait()
    exporter.terminate()
    exporter.wait()
seen = {name: int(float(value)) for name, value in re.findall(r"(?m)^node_sockstat_(TCP_\w+|sockets_used) (\S+)", page)}
packets = sum(float(value) for value in re.findall(r"(?m)^node_softnet_processed_total\{.*\} (\S+)", page))
print(seen, "packets:", int(packets))
sys.exit(not (seen["TCP_alloc"] >= 100 and seen["TCP_inuse"] < 10 and seen["sockets_used"] < 20 and packets > 1000))
PY
unshare --net python3 scrape.py
echo "as described: alloc and mem are the node's"
