#!/usr/bin/env bash
# tcplife of libbpf-tools gives a server's connections to whoever has the CPU, if the server closes first.
#
# Setting   libbpf-tools 0.26.0+ds-1 (Debian 12), Linux 6.18. A server and a client in two processes on loopback; the server sends
#           5,000 bytes and closes, the client reads to the end and closes 0.2 s later. Ten connections.
# Guess     tcplife prints twenty lines, ten with the server's PID and the server's port as the local one, ten with the client's: the
#           process that a socket belongs to was seen when it was accepted and when it was closed.
# Seen      The server's ten lines have PID 0 (swapper), the client's PID, or any other's: the last state of a connection that was closed
#           actively is entered in a softirq, and tcplife asks who is on the CPU then, unless the socket has connected
#           (SYN_SENT) or was closed second (LAST_ACK).
# So        Bytes and lifetimes by process are wrong for every server that closes its connections itself (HTTP/1.0, a keep-alive that
#           ends). A socket's own cgroup or owner does not depend on who has the CPU.
set -euo pipefail
skip() { echo "skipped: $*"; exit 77; }
[ "$(id -u)" = 0 ] || skip "needs root"
[ "$(uname -m)" = x86_64 ] || skip "the pinned package is of amd64"
[ -r /sys/kernel/btf/vmlinux ] || skip "the kernel has no BTF"
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
apt-get download -qq libbpf-tools=0.26.0+ds-1 2>/dev/null || skip "libbpf-tools 0.26.0+ds-1 cannot be had here"
dpkg-deb -x libbpf-tools_*.deb .
cat >talk.py <<'PY'
import os
import socket
import time

listener = socket.create_server(("127.0.0.1", 0))
port = listener.getsockname()[1]
client = os.getpid()
server = os.fork()
if not server:
    for _ in range(10):
        with listener.accept()[0] as connection:
            connection.sendall(bytes(5000))
    os._exit(0)
for _ in range(10):
    with socket.create_connection(("127.0.0.1", port)) as connection:
        while connection.recv(65536):
            pass
        time.sleep(0.2)
os.waitpid(server, 0)
print(port, server, client)
PY
# tracefs in a mount namespace of our own: the machine may have none.
unshare -m bash -c '
	mount -t tracefs none /sys/kernel/tracing || exit 77
	timeout -s INT 30 usr/sbin/tcplife >out 2>err & tool=$!
	for _ in $(seq 200); do grep -q LADDR out && break; sleep 0.05; done
	sleep 0.5
	python3 talk.py >who
	sleep 1; kill -INT $tool; wait $tool || true' || skip "no tracefs"
grep -q LADDR out || skip "tcplife does not start here: $(head -1 err)"
read -r port server client <who
echo "server $server has port $port, client $client; PIDs that tcplife gives to connections of"
echo "the server's end:" $(awk -v port="$port" '$4 == port { print $1 }' out)
echo "the client's end:" $(awk -v port="$port" '$6 == port { print $1 }' out)
awk -v port="$port" -v server="$server" -v client="$client" '
	$4 == port { ends++; right += $1 == server }
	$6 == port { others++; known += $1 == client }
	END { exit !(ends >= 8 && right == 0 && others >= 8 && known == others) }' out
echo "as described: none of the server's is the server's"
