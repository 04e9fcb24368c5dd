#!/usr/bin/env bash
# rchar and wchar of /proc/PID/io have read() and write() of a socket, and not recv(), send() or splice().
#
# Setting   Linux 6.18, a pair of UNIX sockets, CPython 3's os and socket modules.
# Guess     proc_pid_io(5): rchar is "the number of bytes returned by successful read(2) and similar system calls", so what recv()
#           returns is in it, and what send() and splice() take is in wchar.
# Seen      The kernel counts in vfs_read() and vfs_write(), and in sendfile() and copy_file_range(). recv(), recvmsg(), send(), sendmsg() and
#           splice() move the same bytes through the same socket and count nothing.
# So        The same traffic is shown or not, by the program's taste in system calls: no measure of network I/O.
set -euo pipefail
[ -r /proc/self/io ] || { echo "skipped: the kernel has no task I/O accounting"; exit 77; }
python3 - <<'PY'
import os
import socket
import sys
import tempfile
from collections.abc import Callable

SIZE = 5000
near, far = socket.socketpair()
file = tempfile.TemporaryFile()
file.write(b"x" * SIZE)
file.flush()
reader, writer = os.pipe()


def counters() -> tuple[int, int]:
    with open("/proc/self/io") as io:
        found = dict(line.split(": ") for line in io.read().splitlines())
    return int(found["rchar"]), int(found["wchar"])


def counted(call: Callable[[], object]) -> tuple[int, int]:
    """What a call adds, less what looking adds: under a hundred or so bytes of reading."""
    read, written = counters()
    call()
    read_after, written_after = counters()
    return (read_after - read) // SIZE * SIZE, written_after - written


calls: list[tuple[str, Callable[[], object], tuple[int, int]]] = [
    ("write", lambda: os.write(near.fileno(), b"x" * SIZE), (0, SIZE)),
    ("read", lambda: os.read(far.fileno(), SIZE), (SIZE, 0)),
    ("send", lambda: near.send(b"x" * SIZE), (0, 0)),
    ("recv", lambda: far.recv(SIZE), (0, 0)),
    ("sendmsg", lambda: near.sendmsg([b"x" * SIZE]), (0, 0)),
    ("recvmsg", lambda: far.recvmsg(SIZE), (0, 0)),
    ("sendfile", lambda: os.sendfile(near.fileno(), file.fileno(), 0, SIZE), (SIZE, SIZE)),
    ("recv", lambda: far.recv(SIZE), (0, 0)),
    ("splice", lambda: os.splice(file.fileno(), writer, SIZE, 0), (0, 0)),
]
same = True
for name, call, wanted in calls:
    seen = counted(call)
    print(f"{name:9} of {SIZE} bytes: rchar {seen[0]}, wchar {seen[1]}")
    same &= seen == wanted
sys.exit(not same)
PY
echo "as described"
