"""`kpod-aggregator bundle`: one text for a bug report, without secrets.

What is known to hold none is said in full; options that are free text, and the environment, by name
only. All of it, and what others have said that comes in on stdin (`kpod-loader doctor`, logs), is
then searched for what looks like a secret.
"""

import argparse
import http.client
import importlib.metadata
import os
import platform
import re
import ssl
import sys
import time
import urllib.parse
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path

from aggregator import __version__, cli
from aggregator.pods.resolver import standalone
from aggregator.segment.schema import Schema
from aggregator.segment.store import Store

SCRUBBED = "<scrubbed>"
STDIN_MAX = 1 << 20  # of what comes in, the last so many bytes
TIMEOUT = 5.0  # seconds, for each answer of the aggregator that is at work
SECRET_SIZE = 4  # a shorter value of a variable is no secret, and would be found everywhere
TOKEN = Path("/var/run/secrets/kubernetes.io/serviceaccount/token")

# Options that are free text, but that are needed and are nobody's secret.
SHOWN = ("segment", "listen")
PACKAGES = (
    *("cffi", "kubernetes", "msgpack", "opentelemetry-proto", "prometheus-client"),
    *("uvicorn", "uvloop"),
)
# Families of the aggregator itself; those of the loader are in its schema.
OWN = re.compile(
    r"kpod_(?:aggregator|bpf|collector|history|http|identity|loader|otlp|pods|reader|scrapes|"
    r"segment|series|snapshot)_?\w*|process_\w+"
)

_NAME = r"passw(?:or)?d|passphrase|secret|token|credential|api[_-]?key|private[_-]?key|key-data"
SECRET_VARIABLE = re.compile(r"PASS|PWD|SECRET|TOKEN|CRED|KEY|AUTH|COOKIE|DSN|HEADERS")
SECRETS = (
    # Keys in PEM (RFC 7468).
    (re.compile(r"-----BEGIN [A-Z ]*KEY-----.*?(?:-----END [A-Z ]*KEY-----|\Z)", re.S), SCRUBBED),
    # Of HTTP (RFC 9110, 11.4 and 11.6.2; RFC 6265): to the line's end.
    (re.compile(r"(?i)\b((?:proxy-)?authorization|(?:set-)?cookie|x-api-key)(['\"]?\s*[:=]).*"),
     rf"\1\2 {SCRUBBED}"),
    (re.compile(r"(?i)\b(bearer|basic|digest|negotiate) [\w.~+/=-]{4,}"), rf"\1 {SCRUBBED}"),
    # JSON web tokens (RFC 7519), and hashes of passwords as crypt(5) and bcrypt have them.
    (re.compile(r"\beyJ[\w-]{4,}\.[\w-]+\.[\w-]*"), SCRUBBED),
    (re.compile(r"\$(?:2[abxy]?|5|6|y|argon2\w+)\$[\w./$=,+-]+"), SCRUBBED),
    # In URLs: who asks, and what is asked.
    (re.compile(r"(://)[^/\s@\"']{1,128}@"), rf"\1{SCRUBBED}@"),
    (re.compile(r"(://[^\s\"'?#]{1,128})\?[^\s\"']+"), rf"\1?{SCRUBBED}"),
    # NAME=VALUE, "NAME": "VALUE".
    (re.compile(
        rf"(?i)((?:{_NAME})[\w.-]{{0,64}}[\"']?\s{{0,8}}[:=]\s{{0,8}})"
        r"(?:\"[^\"\n]*\"|'[^'\n]*'|[^\s,;}&\"']+)"), rf"\1{SCRUBBED}"),
)  # fmt: skip
# --NAME VALUE: in words without dashes before it is a sentence.
FLAG = re.compile(rf"(?i)((?:{_NAME})[\w-]{{0,64}} {{1,8}})\S+")


def known_secrets(environment: Mapping[str, str], token: Path = TOKEN) -> Iterator[str]:
    """What this process has been told in confidence."""
    for name, value in environment.items():
        if SECRET_VARIABLE.search(name.upper()):
            yield value
            # key=value,key=value of OTEL_EXPORTER_OTLP_HEADERS, percent-encoded.
            for part in value.split(","):
                yield part.partition("=")[2]
                yield urllib.parse.unquote(part.partition("=")[2])
    try:
        yield token.read_text().strip()
    except OSError:
        return


def scrub(text: str, known: Iterable[str] = ()) -> str:
    for secret in sorted({k.strip() for k in known}, key=len, reverse=True):
        if len(secret) >= SECRET_SIZE:
            text = text.replace(secret, SCRUBBED)
    for pattern, instead in SECRETS:
        text = pattern.sub(instead, text)
    return FLAG.sub(_without_value, text)


def _without_value(found: re.Match[str]) -> str:
    before = found.string[max(found.start() - 64, 0) : found.start()]
    is_option = re.search(r"(?:^|\s)--?[\w-]*$", before)
    return found[1] + SCRUBBED if is_option else found[0]


def versions() -> Iterator[str]:
    kernel = os.uname()
    yield f"kpod-aggregator {__version__}"
    yield f"{platform.python_implementation()} {platform.python_version()}"
    yield f"{kernel.sysname} {kernel.release} {kernel.version} {kernel.machine}"
    yield " ".join(platform.libc_ver())
    for name in PACKAGES:
        try:
            yield f"{name} {importlib.metadata.version(name)}"
        except importlib.metadata.PackageNotFoundError:
            yield f"{name}: not installed"


def configuration(options: argparse.Namespace, environment: Mapping[str, str]) -> Iterator[str]:
    for action in cli.make_parser()._actions:
        if action.dest in ("help", "version"):
            continue
        value = getattr(options, action.dest)
        plain = action.choices or isinstance(value, bool | int | float) or action.dest in SHOWN
        if value == action.default:
            shown = "default"
        elif action.dest == "listen":
            shown = f"{value[0]}:{value[1]}"
        else:
            shown = str(value) if plain else "set"
        yield f"{action.option_strings[-1]}: {shown}"
    names = sorted(n for n in environment if n.startswith(("KPOD_", "OTEL_", "KUBE", "SSL_")))
    yield f"variables that are set: {', '.join(names) or 'none'}"


def segment(store: Store) -> Iterator[str]:
    state = store.refresh()
    yield f"{store.path}: {state}{store.cause and f': {store.cause}'}"
    schema, age = store.schema, store.age_ns
    if not schema:
        return
    yield f"written by kpod-loader {schema.loader_version} on {schema.kernel}"
    yield f"age of the snapshot: {'none' if age is None else f'{age / 1e9:.1f} s'}"
    for c in schema.collectors:
        how = f"up ({c.attach})" if c.up else "down"
        yield f"collector {c.name}: {how}{c.reason and f': {c.reason}'}"
    for table in schema.tables:
        columns = ", ".join(dict.fromkeys(c.name for c in table.columns))
        keys = "".join(f" {key.label}" for key in table.keys)
        yield f"table {table.name} of {table.collector}, by{keys or ' nothing'}: {columns}"


def ask(address: tuple[str, int], path: str, tls: bool) -> tuple[int, str]:
    """Status and text of an answer; status 0: there is none, and the text says why."""
    host = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}.get(address[0], address[0])
    connection: http.client.HTTPConnection
    if tls:
        # It is asked how it is, and told nothing.
        context = ssl._create_unverified_context()
        connection = http.client.HTTPSConnection(host, address[1], timeout=TIMEOUT, context=context)
    else:
        connection = http.client.HTTPConnection(host, address[1], timeout=TIMEOUT)
    try:
        connection.request("GET", path, headers={"Accept": "text/plain"})
        answer = connection.getresponse()
        return answer.status, answer.read().decode(errors="replace")
    except (OSError, http.client.HTTPException) as error:
        return 0, str(error)
    finally:
        connection.close()


def own_samples(page: str, schema: Schema | None) -> Iterator[str]:
    """The lines that are about the agent itself: no pod's name is in them."""
    tables = schema.tables if schema else ()
    loader = {c.name for t in tables if t.collector == "loader" for c in t.columns}
    for line in page.splitlines():
        name = re.match(r"\w*", line)
        if name and (name[0] in loader or OWN.fullmatch(name[0])):
            yield line


def answers(options: argparse.Namespace, schema: Schema | None) -> Iterator[str]:
    """Of the aggregator that is at work, as these options have it."""
    status, text = ask(options.listen, "/readyz", tls=False)
    tls = not status or status == 400
    if tls and options.web_config:
        status, text = ask(options.listen, "/readyz", tls=True)
    yield f"/readyz: {status or 'no answer'}: {text.strip()}"
    if not status:
        return
    status, page = ask(options.listen, "/metrics", tls=tls and bool(options.web_config))
    yield f"/metrics: {status or 'no answer'}, {len(page)} bytes; of the agent itself:"
    yield from own_samples(page, schema) if status == 200 else ()


def told() -> Iterator[str]:
    """What comes in, if that is no terminal."""
    if not sys.stdin or sys.stdin.isatty():
        yield "nothing: kpod-loader doctor 2>&1 | kpod-aggregator bundle has what the loader says"
        return
    data = sys.stdin.buffer.read()
    if len(data) > STDIN_MAX:
        yield f"the last {STDIN_MAX} bytes of {len(data)}:"
    yield data[-STDIN_MAX:].decode(errors="replace").rstrip("\n")


def sections(
    options: argparse.Namespace, environment: Mapping[str, str]
) -> Iterator[tuple[str, Iterator[str]]]:
    store = Store(options.segment, clock=time.monotonic_ns, resolver=standalone)
    yield "versions", versions()
    yield "options", configuration(options, environment)
    yield "segment", segment(store)
    yield "aggregator", answers(options, store.schema)
    yield "stdin", told()


def main() -> None:
    options = cli.arguments(sys.argv[2:])
    known = tuple(known_secrets(os.environ))
    print(
        f"kpod-metrics bundle, {datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}. Read it before you send it."
    )
    for title, lines in sections(options, os.environ):
        print(f"\n== {title}")
        print(scrub("\n".join(lines), known))
