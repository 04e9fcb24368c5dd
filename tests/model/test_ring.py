"""The ring protocol, checked by spin in all its states; and each known mistake in it is found."""

import re
import subprocess
from pathlib import Path

import pytest

MODEL = Path(__file__).parent / "ring.pml"
SHARED = Path(__file__).parent.parent.parent / "shared"

ATTEMPTS = "-DATTEMPTS=4"  # the fewest by which a reader can be lapped and the ring goes round
UNSAFE = (
    *("NO_INTENT", "INTENT_UNFENCED", "INTENT_BACK", "PUBLISH_EARLY", "PUBLISH_RELAXED"),
    *("NO_RECHECK", "COPY_UNFENCED", "LOAD_UNFENCED"),
)
STARVING = ("BEGIN_AT_TAIL", "WHOLE_RING", "LAPPED_EARLY")


def spin(directory: Path, *flags: str) -> str:
    """What the verifier says of the model with these macros."""
    live = "-DKEEPS_UP" in flags
    made = ["-DNFAIR=3"] if live else ["-DSAFETY"]
    search = ["-a", "-f"] if live else []
    commands = [
        ["spin", "-a", *flags, str(MODEL)],
        ["gcc", "-w", "-O1" if live else "-O0", "-DCOLLAPSE", *made, "-o", "pan", "pan.c"],
        ["./pan", "-m200000", *search],
    ]
    for command in commands:
        done = subprocess.run(command, cwd=directory, capture_output=True, text=True, check=True)
    return done.stdout


def errors(said: str) -> int:
    found = re.search(r"errors: (\d+)", said)
    assert found, said
    return int(found[1])


def test_no_torn_or_reordered_snapshot_is_accepted(tmp_path: Path) -> None:
    said = spin(tmp_path, ATTEMPTS)
    assert errors(said) == 0, said
    assert "search depth too small" not in said
    assert "Search not completed" not in said
    # All of the reader was reached but its end, for which there is none: so it was lapped too.
    unreached = said.partition("unreached in proctype reader")[2]
    assert re.fullmatch(r'\s+\S+, state \d+, "-end-"\s+\(1 of \d+ states\)\s+.*', unreached, re.S)


def test_a_reader_that_keeps_up_is_never_starved(tmp_path: Path) -> None:
    said = spin(tmp_path, "-DKEEPS_UP")
    assert errors(said) == 0, said
    assert "search depth too small" not in said
    assert "Search not completed" not in said


@pytest.mark.parametrize("mutant", UNSAFE)
def test_mistake_is_found(tmp_path: Path, mutant: str) -> None:
    said = spin(tmp_path, ATTEMPTS, f"-D{mutant}")
    assert "assertion violated" in said


@pytest.mark.parametrize("mutant", STARVING)
def test_starvation_is_found(tmp_path: Path, mutant: str) -> None:
    assert errors(spin(tmp_path, "-DKEEPS_UP", f"-D{mutant}")) == 1


def test_every_mutant_is_tried() -> None:
    model = MODEL.read_text()
    listed = re.findall(
        r"\b[A-Z]+(?:_[A-Z]+)+\b", model.partition("writer:")[2].partition(" * Without")[0]
    )
    assert sorted(listed) == sorted(UNSAFE + STARVING)
    assert all(re.search(rf"#ifn?def {mutant}\b", model) for mutant in listed)


def test_steps_are_those_of_the_code() -> None:
    code = "".join(f.read_text() for f in SHARED.glob("*.[ch]"))
    steps = re.findall(r"(?m)^inline (kpod_\w+|reserve|put|check_snapshot)\(", MODEL.read_text())
    assert len(set(steps)) == 8
    assert not [step for step in steps if not re.search(rf"\b{step}\(", code)]
