"""What each kernel gave when somebody last looked and accepted it: tests/vm/kernels.json.

python -m tests.vm.record accepts what this kernel gives now, and what the last `make test-vm` left.
"""

import json
import os
import re
import subprocess
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tests.live import ROOT, TEST_LOADER

RECORD = Path(__file__).parent / "kernels.json"
RESULTS = ROOT / "build/vm"
FOUND = "found.json"  # below RESULTS/KERNEL
GROWTH = 1.25  # of the instructions that the verifier looks at

# What a kernel lacks, in the loader's words and in ours.
LACKS = (
    (r"create_map\w*\(\w+_tasks\)", "no BPF task storage for tracing programs (5.11)"),
    (r"unknown#158", "no `bpf_get_current_task_btf()` (5.11)"),
    (r"BPF_STX uses reserved fields", "no atomic operation that gives back the old value (5.12)"),
    (r"kpod_tcpdrop_free'.* bpf_context", "hook `kfree_skb` does not say why (5.17)"),
    (r"kpod_udp_drop'.* bpf_context", "hook `udp_fail_queue_rcv_skb` leaves out IPv6 (6.10)"),
    (r"Arg#0 type PTR in", "no pointers as arguments of functions that are verified once (5.12)"),
    (r"number of funcs in func_info", "no helper that calls a program's function (5.13)"),
    (r"type ID of '(\w+)'", r"no hook `\1`"),
    (r"relocation <\w+> \[\d+\] struct trace_event_raw_", "the tracepoint has less to give"),
    # Such a line ends the reason: the kernel's verifier said nothing.
    (
        r"prog '\w+': BPF program load failed: (Operation not permitted|-EPERM)$",  # libbpf 1.6
        "no fentry and fexit here",
    ),
    (r"no controller '(\w+)'", r"no controller `\1` in the machine's cgroup2"),
)


def words(reason: str) -> str:
    for pattern, ours in LACKS:
        if found := re.search(pattern, reason):
            return found.expand(ours)
    return reason


def native() -> str:
    """This machine's kernel, as the record calls it."""
    return ".".join(os.uname().release.split(".")[:2]) + " native"


def verified() -> str:
    return subprocess.check_output([TEST_LOADER, "verify"], text=True, stderr=subprocess.DEVNULL)


def summary(lines: Iterable[str], notes: Iterable[tuple[str, str]]) -> dict[str, Any]:
    """Of what `kpod-loader-test verify` says, and of what tests have found lacking in collectors.

    Programs by name: the instructions that the verifier looked at (0: it does not say), or why they
    do not load. Collectors by name: how they are attached, if they are, and what is lacking.
    """
    programs: dict[str, int | str] = {}
    collectors: dict[str, dict[str, Any]] = {}
    for item in map(json.loads, lines):
        if "program" in item:
            if item["instructions"] is not None:
                programs[item["program"]] = item["instructions"]
            else:
                programs.setdefault(item["program"], words(item["reason"]))
        elif item["chosen"]:
            lacks = [words(text) for text in (item["lacks"], item["reason"]) if text]
            attachment = item["attachment"] if item["works"] else None
            collectors[item["collector"]] = {"attachment": attachment, "lacks": lacks}
    for collector, lack in sorted(set(notes)):
        collectors[collector]["lacks"].append(lack)
    return {"collectors": collectors, "programs": programs}


def bad_programs(record: dict[str, Any], found: dict[str, Any]) -> list[str]:
    """Programs that have grown, do not load any more, are not recorded, or are not there."""
    said = []
    for name in sorted(record["programs"].keys() | found["programs"].keys()):
        old, new = record["programs"].get(name), found["programs"].get(name)
        if old is None or new is None or (isinstance(old, int) and isinstance(new, str)):
            said.append(f"{name}: recorded {old}, found {new}")
        elif isinstance(old, int) and new > GROWTH * old:
            said.append(f"{name}: {new} instructions, over {GROWTH} times the recorded {old}")
    return said


def changes(record: dict[str, Any], found: dict[str, Any]) -> list[str]:
    """Likewise, and what else would make docs/kernels.md untrue of this very kernel."""
    said = bad_programs(record, found)
    for name, old in record["programs"].items():
        new = found["programs"].get(name, old)
        if isinstance(old, str) and new != old:
            said.append(f"{name}: recorded {old}, found {new}")
    for name in sorted(record["collectors"].keys() | found["collectors"].keys()):
        old, new = (kernel["collectors"].get(name) for kernel in (record, found))
        if new != old:
            said.append(f"{name}: recorded {old}, found {new}")
    return said


def read() -> dict[str, Any]:
    record: dict[str, Any] = json.loads(RECORD.read_text()) if RECORD.exists() else {}
    return record


def accept() -> None:
    record = read()
    for file in RESULTS.glob(f"*/{FOUND}"):
        record[file.parent.name] = json.loads(file.read_text())
    record[native()] = summary(verified().splitlines(), [])
    ordered = dict(
        sorted(record.items(), key=lambda item: [*map(int, re.findall(r"\d+", item[0]))])
    )
    RECORD.write_text(json.dumps(ordered, indent=1) + "\n")


if __name__ == "__main__":
    accept()
