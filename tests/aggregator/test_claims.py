"""Who has an identity that several cgroups claim by their names, and what the others are called."""

import itertools
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aggregator.compat.cadvisor import namer
from aggregator.http.rows import Rows
from aggregator.pods.claims import Claims, ClaimsCollector
from aggregator.pods.kinds import CONTAINER, POD, POD_CONTAINER, UNIT
from aggregator.pods.resolver import standalone
from aggregator.segment.history import History
from aggregator.segment.owner import Owner
from aggregator.segment.store import owner_of
from tests.aggregator.paths import ID, KIND, OUTER, UID, USER
from tests.aggregator.test_names import World
from tests.aggregator.test_pods import pod
from tests.segment import Slot

KUBEPODS = f"/kubepods/burstable/pod{UID}"
# Of an identity, who has it before whom: (what, path, kind).
RANKS = [
    ("the kubelet's", f"{KUBEPODS}/{ID}", POD_CONTAINER),
    ("docker's", f"/system.slice/docker-{ID}.scope", CONTAINER),
    ("a node's in a container", f"{KIND}{KUBEPODS}/{ID}", POD_CONTAINER),
    ("a user's node's", f"{USER}/app.slice/k3s-rootless.service{KUBEPODS}/{ID}", POD_CONTAINER),
    ("a user's", f"{USER}/user.slice/libpod-{ID}.scope", CONTAINER),
]
FORGED = RANKS[-1][1]


def look(claims: Claims, *owners: Owner, before: Iterable[Owner] = ()) -> set[int]:
    """Who is outdone in a snapshot of these and of those of the one before."""
    present = {owner.cgroup_id for owner in (*owners, *before)}
    return set(claims(present, owners))


@pytest.mark.parametrize("at_once", [True, False])
@pytest.mark.parametrize("late", [True, False], ids=["forged first", "forged last"])
@pytest.mark.parametrize(
    ("better", "worse"),
    list(itertools.combinations(RANKS, 2)),
    ids=lambda rank: rank[0],
)
def test_where_it_is_decides(
    better: tuple[str, str, int], worse: tuple[str, str, int], late: bool, at_once: bool
) -> None:
    claims = Claims()
    has, loses = (Owner(rank[2], 10 + i, rank[1]) for i, rank in enumerate((better, worse)))
    if late:
        loses = replace(loses, cgroup_id=9)
    if at_once:
        assert look(claims, has, loses) == {loses.cgroup_id}
    else:
        first, second = (loses, has) if late else (has, loses)
        assert look(claims, first) == set()
        assert look(claims, second, before=[first]) == {loses.cgroup_id}
    assert claims.refused == 1
    # It does not come back when the other is gone: labels of a row do not move twice.
    assert look(claims, before=[loses]) == {loses.cgroup_id}
    assert look(claims) == set()
    assert look(claims, loses) == set(), "it is the only one now"


def test_of_two_alike_the_older_has_it() -> None:
    """By their ids, as a loader that starts finds both at once; and the order of slots is none."""
    claims = Claims()
    first, second = (
        Owner(CONTAINER, i, f"/user.slice/user-{uid}.slice/libpod-{ID}.scope")
        for i, uid in ((5, 1001), (6, 1000))
    )
    assert look(claims, second, first) == {6}
    assert look(Claims(), first, second) == {6}


def test_one_owner_is_no_conflict() -> None:
    """A container started again, dead and alive; all pods of one kubelet, whatever its driver."""
    claims = Claims()
    path = f"/system.slice/docker-{ID}.scope"
    assert not look(claims, Owner(CONTAINER, 5, path, dead=True), Owner(CONTAINER, 6, path))
    u = UID.replace("-", "_")
    slice_ = f"/kubepods.slice/kubepods-pod{u}.slice"
    pods = [
        Owner(POD, 7, KUBEPODS),
        Owner(POD_CONTAINER, 8, f"{KUBEPODS}/{OUTER}"),
        Owner(POD, 9, slice_),
        Owner(POD_CONTAINER, 10, f"{slice_}/cri-containerd-{OUTER}.scope"),
        Owner(POD_CONTAINER, 11, f"/system.slice/k3s.service{KUBEPODS}/{OUTER}"),
        Owner(POD_CONTAINER, 12, f"/kubepods-pod{u}.slice:cri-containerd:{OUTER}"),
    ]
    assert not look(claims, *pods)
    # What has no id of its own is no claim: kata_overhead is in each pod of kata's.
    other = UID.replace("1", "2")
    overhead = [
        Owner(POD_CONTAINER, i, f"/kubepods/pod{uid}/kata_overhead")
        for i, uid in ((13, UID), (14, other))
    ]
    assert not look(claims, *overhead)
    assert not look(claims, Owner(UNIT, 15, path), Owner(CONTAINER, 16, ""), Owner(POD, 17, ""))
    assert claims.refused == 0


def test_a_pod_of_another_node_has_nothing_of_it() -> None:
    """All that is in it, also what comes later."""
    claims = Claims()
    real, forged = Owner(POD, 20, KUBEPODS), f"{KIND}{KUBEPODS}"
    assert look(claims, Owner(POD, 10, forged), Owner(POD_CONTAINER, 11, f"{forged}/{ID}")) == set()
    before = [Owner(POD, 10, forged), Owner(POD_CONTAINER, 11, f"{forged}/{ID}")]
    assert look(claims, real, before=before) == {10, 11}
    late = Owner(POD_CONTAINER, 30, f"{forged}/{OUTER}", outdone=True)
    assert look(claims, late, before=[real, *before]) == {10, 11, 30}
    assert claims.refused == 3
    labels = dict(standalone(late))
    assert labels == {"scope": "container", "pod_uid": forged, "container_id": late.path}
    assert dict(standalone(replace(before[0], outdone=True))) == {"scope": "pod", "pod_uid": forged}
    colons = f"{KIND}/kubepods-podx.slice:crio:{ID}"
    labels = dict(standalone(Owner(POD_CONTAINER, 31, colons, outdone=True)))
    assert labels["pod_uid"] == f"{KIND}/kubepods-podx.slice"


OWNERS = st.lists(
    st.tuples(st.sampled_from(RANKS), st.booleans(), st.integers(0, 2)), min_size=1, max_size=30
)


@given(OWNERS)
def test_at_most_one_place_has_an_identity(
    steps: list[tuple[tuple[str, str, int], bool, int]],
) -> None:
    """However they come and go: of those that are there and not outdone, all are at one place; and
    the host's pod always has its own."""
    claims, there, number = Claims(), dict[int, Owner](), itertools.count(100)
    for (_, path, kind), comes, which in steps:
        new = []
        if comes:
            owner = Owner(kind, next(number), path)
            there[owner.cgroup_id] = owner
            new = [owner]
        elif there:
            del there[sorted(there)[which % len(there)]]
        outdone = claims(there.keys(), new)
        assert outdone <= there.keys()
        have = {owner.path for i, owner in there.items() if i not in outdone}
        assert len(have) <= 1
        if any(owner.path == RANKS[0][1] for owner in there.values()):
            assert have == {RANKS[0][1]}
    claims(set(), [])
    assert not claims._places
    assert not claims._claims


@pytest.mark.parametrize("first", [True, False], ids=["forged first", "forged last"])
def test_a_users_container_with_a_pods_id(tmp_path: Path, first: bool) -> None:
    """Its row says where it is, and not the id: a query for the id finds the pod's container."""
    world = World(tmp_path)
    uid = "0000abcd-1111-2222-3333-444444444444"
    world.table.put(pod(uid, "web-0", {"web": ID}))
    cgroups = [
        Slot(1, FORGED, CONTAINER, cgroup_id=70),
        Slot(2, f"/kubepods/pod{uid}/{ID}", POD_CONTAINER, cgroup_id=80),
    ]
    for slot in cgroups if first else reversed(cgroups):
        world.slots.append(slot)
        world.scrape()
    rows = {
        labels.get("cgroup_id") or labels["pod"]: labels
        for labels, _ in world.series()
        if labels["scope"] == "container"
    }
    assert rows["web-0"]["container_id"] == ID
    assert rows["web-0"]["container"] == "web"
    assert rows["70"]["container_id"] == FORGED
    assert rows["70"]["unit"] == "user-1000.slice"
    assert rows["70"]["container"] == rows["70"]["pod"] == ""
    assert world.claims.refused == 1
    (family,) = ClaimsCollector(world.claims).collect()
    assert family.samples[0].value == 1
    # It dies and is gone; the other's name was never another.
    world.slots.remove(cgroups[0])
    assert [x["container_id"] for x, _ in world.series() if x["scope"] == "container"] == [ID]


def test_other_pages_do_not_borrow_it_either(tmp_path: Path) -> None:
    """cAdvisor's names, and the page for people, where all of one pod is one row."""
    world = World(tmp_path)
    uid = "0000abcd-1111-2222-3333-444444444444"
    world.table.put(pod(uid, "web-0", {"web": ID}))
    forged = f"{KIND}/kubepods/pod{uid}/{ID}"
    world.slots += [
        Slot(1, forged, POD_CONTAINER, cgroup_id=90),
        Slot(2, FORGED, CONTAINER, cgroup_id=70),
        Slot(3, f"/kubepods/pod{uid}/{ID}", POD_CONTAINER, cgroup_id=80),
    ]
    world.scrape()
    world.now += 60 * 10**9  # nobody's name is waited for any more
    assert {x.get("pod", "") for x, _ in world.series() if x.get("pod_uid")} == {"web-0", ""}
    snapshot = world.store.snapshot
    assert snapshot
    said = namer(lambda _, container: f"image of {container}")
    owners = [owner_of(snapshot.native.owners + i, snapshot.outdone) for i in range(4)]
    names = {o.cgroup_id: dict(said(o, ()) or ()) for o in owners}
    assert names[80]["name"] == ID
    assert [names[i]["name"] for i in (90, 70)] == [forged, FORGED]
    assert names[90]["image"] == f"image of {forged}"
    rows = {row.who.id: row for row in Rows(History(world.store.clock)).of(snapshot)}
    assert rows[f"pod:{uid}"].containers == 1
    assert f"pod:{forged.rpartition('/')[0]}" in rows
    assert rows[f"container:{FORGED}"].who.name == FORGED
