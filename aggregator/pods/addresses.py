"""Whose an address is, as far as it is sure."""

from collections.abc import Collection, Mapping, Set
from dataclasses import dataclass

from aggregator.pods.table import Pod

POD, NODE, LOOPBACK, OUTSIDE, UNSURE = "pod", "node", "loopback", "outside", "unsure"


@dataclass(frozen=True, slots=True)
class Holder:
    """uid: of a pod, as its cgroup has it."""

    kind: str
    namespace: str = ""
    name: str = ""
    uid: str = ""


def _pod(pod: Pod) -> Holder:
    return Holder(POD, pod.namespace, pod.name, pod.cgroup_uid)


def holders(pods: Collection[Pod], living: Set[str]) -> dict[str, Holder]:
    """By address, of pods that are there and have a cgroup that lives (by its uid).

    A pod that has finished has its address in its status as long as it is listed, though another
    may have got it; so may one whose cgroup has ended. Who has the node's address is the node. An
    address that two pods have is nobody's.
    """
    found: dict[str, Holder] = {}
    for pod in pods:
        if pod.host_ip:
            found[pod.host_ip] = Holder(NODE)
    for pod in pods:
        if pod.finished or pod.cgroup_uid not in living:
            continue
        if pod.host_ip and pod.host_ip in pod.ips:  # hostNetwork: the others are the node's, too
            found.update(dict.fromkeys(pod.ips, Holder(NODE)))
            continue
        for ip in pod.ips:
            known = found.get(ip)
            if known and known.kind != NODE and known.uid != pod.cgroup_uid:
                found[ip] = Holder(UNSURE)
            elif not known:
                found[ip] = _pod(pod)
    return found


def is_loopback(address: str) -> bool:
    return address.startswith("127.") or address == "::1"


def holder(address: str, before: Mapping[str, Holder], after: Mapping[str, Holder]) -> Holder:
    """Who had the address all the time between two looks.

    A pod that has it in both, and whose cgroup lived in both, has kept it: an address is given back
    when the pod's sandbox ends. Who has it in one of them only, has had it for a part of the time,
    and somebody else for the rest.
    """
    if is_loopback(address):
        return Holder(LOOPBACK)
    first, last = before.get(address), after.get(address)
    return (last or Holder(OUTSIDE)) if first == last else Holder(UNSURE)
