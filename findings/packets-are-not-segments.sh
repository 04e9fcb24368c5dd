#!/usr/bin/env bash
# node_exporter's packets of an interface and TCP's segments are not the same thing, by a factor of tens.
#
# Setting   Linux 6.18, prometheus-node-exporter 1.5.0-1+b6 (Debian 12), loopback of a network namespace of its own, with an MTU of
#           1,500. One TCP connection carries 64 MiB, written 256 KiB at a time.
# Guess     With an MTU of 1,500 each packet has at most 1,448 bytes of payload, so node_network_transmit_packets_total of lo rises by
#           46,000 or more, and node_netstat_Tcp_OutSegs by the same, but for acknowledgements, which both count.
# Seen      OutSegs is as guessed. The interface counts buffers: the kernel hands up to 64 KiB and more to an interface that can
#           segment (TSO), also one that never does, and lo has some thousands of packets. Its bytes have one header for each of these.
# So        Packets per second, bytes per packet and "retransmitted segments per packet" of an interface of a pod (veth does the
#           same) say nothing of what is on a wire. Retransmissions belong divided by OutSegs.
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
import threading
import time
import urllib.request

SIOCSIFFLAGS, SIOCSIFMTU, IFF_UP = 0x8914, 0x8922, 1
SIZE, MSS = 64 << 20, 1448
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
    fcntl.ioctl(any_socket, SIOCSIFFLAGS, struct.pack("16sh14x", b"lo", IFF_UP))
    fcntl.ioctl(any_socket, SIOCSIFMTU, struct.pack("16si12x", b"lo", 1500))
address = "127.0.0.1:9100"
exporter = subprocess.Popen(
    ["usr/bin/prometheus-node-exporter", f"--web.listen-address={address}", "--collector.disable-defaults",
     "--collector.netdev", "--collector.netdev.device-exclude=^$", "--collector.netstat"],
    stderr=subprocess.DEVNULL,
)
fetch = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def counters() -> tuple[int, int]:
    page = fetch.open(f"http://{address}/metrics", timeout=10).read().decode()
    packets = re.search(r'(?m)^node_network_transmit_packets_total\{device="lo"\} (\S+)', page)
    segments = re.search(r"(?m)^node_netstat_Tcp_OutSegs (\S+)", page)
    return int(float(packets[1])), int(float(segments[1]))


def drain(listener: socket.socket) -> None:
    with listener.accept()[0] as connection:
        while connection.recv(1 << 20):
            pass


try:
    for _ in range(100):
        try:
            before = counters()
            break
        except OSError:
            time.sleep(0.1)
    listener = socket.create_server(("127.0.0.1", 0))
    reader = threading.Thread(target=drain, args=[listener])
    reader.start()
    with socket.create_connection(listener.getsockname()) as connection:
        for _ in range(SIZE // (256 << 10)):
            connection.sendall(bytes(256 << 10))
    reader.join()
    packets, segments = (b - a for a, b in zip(before, counters()))
finally:
    exporter.terminate()
    exporter.wait()
print(f"64 MiB: {SIZE // MSS} segments of payload at least; OutSegs +{segments}, packets of lo +{packets}")
sys.exit(not (segments >= SIZE // MSS and packets < segments / 4))
PY
echo "as described: packets are far fewer than segments"
