"""The exact versions that the aggregator's image has: what this environment has of our own
requirements.

    python -m deploy.images.requirements >deploy/images/requirements.txt
"""

import importlib.metadata as metadata

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

# kubernetes requires these for kubernetes.aio, which the aggregator does not import.
LEFT_OUT = {
    *("aiohttp", "aiohttp-retry", "aiohappyeyeballs", "aiosignal", "frozenlist", "multidict"),
    *("propcache", "yarl"),
}


def required(name: str, extras: frozenset[str], found: dict[str, str]) -> dict[str, str]:
    for text in metadata.requires(name) or ():
        one = Requirement(text)
        wanted = not one.marker or any(one.marker.evaluate({"extra": e}) for e in extras or {""})
        key = canonicalize_name(one.name)
        if wanted and key not in found and key not in LEFT_OUT:
            found[key] = metadata.version(key)
            required(key, frozenset(one.extras), found)
    return found


def main() -> None:
    print("# Made by `make deploy`: every package of the aggregator's image.")
    for name, version in sorted(required("kpod-metrics", frozenset({"otlp"}), {}).items()):
        print(f"{name}=={version}")


if __name__ == "__main__":
    main()
