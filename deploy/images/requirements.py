"""The exact versions that the aggregator's image has, and what it is built with: what this
environment has of our own requirements.

    python -m deploy.images.requirements run
    python -m deploy.images.requirements build

`make deploy` has uv add the hashes of each version's files, so that pip refuses any other.
"""

import importlib.metadata as metadata
import sys

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

# kubernetes requires these for kubernetes.aio, which the aggregator does not import.
LEFT_OUT = {
    *("aiohttp", "aiohttp-retry", "aiohappyeyeballs", "aiosignal", "frozenlist", "multidict"),
    *("propcache", "yarl"),
}
BUILD = ("setuptools", "cffi")  # as pyproject.toml has them for the build


def required(name: str, extras: frozenset[str], found: dict[str, str]) -> dict[str, str]:
    for text in metadata.requires(name) or ():
        one = Requirement(text)
        wanted = not one.marker or any(one.marker.evaluate({"extra": e}) for e in extras or {""})
        key = canonicalize_name(one.name)
        if wanted and key not in found and key not in LEFT_OUT:
            found[key] = metadata.version(key)
            required(key, frozenset(one.extras), found)
    return found


def versions(which: str) -> dict[str, str]:
    """By name, of what the image has (run), or what it is built with (build)."""
    found: dict[str, str] = {}
    if which == "run":
        return required("kpod-metrics", frozenset({"otlp"}), found)
    for name in BUILD:
        found[name] = metadata.version(name)
        required(name, frozenset(), found)
    return found


def main() -> None:
    (which,) = sys.argv[1:]
    for name, version in sorted(versions(which).items()):
        print(f"{name}=={version}")


if __name__ == "__main__":
    main()
