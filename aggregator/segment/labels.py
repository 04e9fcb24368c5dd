"""Label values that come from outside, as every reader can take them."""

import re
from collections.abc import Iterable

Labels = tuple[tuple[str, str], ...]

# C0 (CR and LF among them), DEL, C1 (NEL among them) and the Unicode line and paragraph separators.
# Datadog's check splits its page as Python's str.splitlines() does and loses what follows; a
# terminal obeys them. Whoever may make a cgroup chooses its name. Lone surrogates are not UTF-8.
_UNSAFE = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


def clean(value: str) -> str:
    """The value with an underscore for each character that some reader takes for an end of line."""
    return _UNSAFE.sub("_", value)


def cleaned(labels: Iterable[tuple[str, str]]) -> Labels:
    return tuple((name, clean(value)) for name, value in labels)
