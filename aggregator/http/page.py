"""The page at / and that of one row, as HTML. No text from outside gets in but through escape()."""

import math
from collections.abc import Callable, Iterable
from functools import lru_cache
from html import escape
from importlib import resources
from urllib.parse import quote, urlencode

from aggregator.http import edges
from aggregator.http.edges import Edge
from aggregator.http.pairs import SHOWN, Pair
from aggregator.http.rows import SHORT_ID, Row, Who
from aggregator.http.state import State
from aggregator.pods.addresses import POD
from aggregator.segment.history import QUANTITIES, History
from aggregator.segment.schema import Collector

# Nothing from elsewhere, nothing inline, and no other site's frame.
POLICY = (
    "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self'; connect-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
HEADERS = (
    (b"content-security-policy", POLICY.encode()),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cache-control", b"no-store"),
)

# What the page is made of, by path.
FILES = {
    f"/{name}": (kind, (resources.files("aggregator.http") / "static" / name).read_bytes())
    for name, kind in (
        ("page.css", "text/css; charset=utf-8"),
        ("page.js", "text/javascript; charset=utf-8"),
        ("icon.svg", "image/svg+xml"),
    )
}

DEFAULT_SORT = "cpu"
UP, DOWN = "\N{BLACK UP-POINTING TRIANGLE}", "\N{BLACK DOWN-POINTING TRIANGLE}"
LEAST_WAIT = 1e-5  # seconds per second; less disturbs nobody
CHART = (600, 100)  # units of a chart's graph


def document(title: str, top: str, main: str) -> bytes:
    page = f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{escape(title)}</title>
<link rel="stylesheet" href="page.css">
<link rel="icon" href="icon.svg">
<script src="page.js" defer></script>
</head>
<body>
<header>
<h1>{top}</h1>
<nav aria-label="Other pages">
<a href="./">Node</a> <a href="metrics">Metrics</a> <a href="api/v1/pods">JSON</a>
</nav>
</header>
<main>
{main}</main>
<footer><p>kpod-metrics: eBPF metrics of every container of this node.
<a href="metrics">/metrics</a> is for Prometheus, <a href="api/v1/status">/api/v1/status</a> for
scripts, <a href="readyz">/readyz</a> and <a href="healthz">/healthz</a> for probes.</p></footer>
</body>
</html>
"""
    return page.encode()


def plural(count: int, what: str) -> str:
    return f"{count} {what}" if count == 1 else f"{count} {what}s"


def duration(seconds: float) -> str:
    if seconds < 99.5:
        return f"{seconds:.1f} s" if seconds < 9.95 else f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h"


def share(value: float | None, of: str) -> str:
    if value is None:
        return "not known"
    percent = 100 * value
    return f"{percent:.2g} % of {of}" if percent < 9.95 else f"{percent:.0f} % of {of}"


def state_line(state: State, on: str) -> str:
    """What is down first, marked; what runs, `on` how many pods and containers."""
    up = sum(collector.up for collector in state.collectors)
    runs = f"{up} of {plural(len(state.collectors), 'collector')} run" if state.collectors else ""
    if not state.problems:
        line = f"<strong>\N{CHECK MARK} All works:</strong> {runs}{on}."
        return f'<p class="state good">{line}</p>\n'
    first = escape(state.problems[0].what)
    rest = f" {runs}{on}." if runs else ""
    more = f" (and {len(state.problems) - 1} more)" if len(state.problems) > 1 else ""
    items = "".join(
        f"<li>{f'<strong>{escape(p.what)}</strong>: ' if i else ''}"  # the first is the line above
        f"{escape(p.cause)}<br>{escape(p.do)}</li>\n"
        for i, p in enumerate(state.problems)
    )
    return (
        f'<p class="state bad"><strong>\N{BALLOT X} Down: {first}</strong>{more}.{rest}</p>\n'
        f'<ul class="problems">\n{items}</ul>\n'
    )


def facts(pairs: Iterable[tuple[str, str]]) -> str:
    cells = "".join(
        f"<div><dt>{escape(name)}</dt><dd>{escape(value)}</dd></div>\n" for name, value in pairs
    )
    return f'<dl class="facts">\n{cells}</dl>\n'


def state_facts(state: State) -> str:
    cost = state.cost
    pairs = [
        ("Snapshot", f"{duration(state.age)} old" if state.age is not None else "none"),
        ("Series", str(state.series)),
        ("Loader", share(cost.loader_cpu, "a CPU")),
        ("BPF programs", share(cost.bpf_share, "all CPUs")),
        (
            "Aggregator",
            f"{share(cost.aggregator_cpu, 'a CPU')}, {cost.aggregator_bytes >> 20} MiB",
        ),
        ("Version", f"aggregator {state.version}, loader {state.loader_version or 'unknown'}"),
        ("Kernel", state.kernel or "not known"),
        ("Names", state.names),
    ]
    return facts(pairs)


def span(history: History) -> str:
    times = history.times()
    if len(times) < 2:
        return "The graphs begin with the second snapshot."
    return f"Graphs: the last {duration((times[-1] - times[0]) / 1e9)}."


def name_cell(row: Row) -> str:
    who = row.who
    beside = [who.namespace] if who.namespace else []
    if who.scope == "pod":
        beside.append(plural(row.containers, "container"))
    elif who.scope != "host":
        beside.append(who.scope)
    small = f"<small>{escape(', '.join(beside))}</small>" if beside else ""
    return f'<th scope="row">{row_link(who.id, who.name)}{small}</th>'


@lru_cache(4096)
def row_link(id_: str, name: str) -> str:
    """To the page of one row; half of what a row costs in Python, and always the same."""
    key = escape(quote(id_, safe=""))
    return f'<a data-key="{key}" href="pod?id={key}">{escape(name)}</a>'


def member_cell(row: Row) -> str:
    labels = row.who.labels
    name = labels.get("container") or labels.get("container_id", "")[:SHORT_ID]
    if labels.get("scope") == "pod":
        name = "beside its containers"
    return f'<th scope="row">{escape(name or row.who.name)}</th>'


def heads(first: str, link: Callable[[str], str] | None, sort: str, descending: bool) -> str:
    """Column heads; with links that sort, and the column that it is sorted by marked."""
    columns = [("name", first, "")] + [(q.key, q.title, q.help) for q in QUANTITIES]
    out = []
    for key, title, help_text in columns:
        about = f' title="{escape(help_text)}"' if help_text else ""
        sorted_by = "descending" if descending else "ascending"
        mark = f' aria-sort="{sorted_by}"' if link and key == sort else ""
        text = f"{title} {DOWN if descending else UP}" if mark else title
        if link:
            text = f'<a data-key="{key}" href="{escape(link(key))}">{text}</a>'
        out.append(f'<th scope="col"{mark}{about}>{text}</th>')
    return f"<thead><tr>{''.join(out)}</tr></thead>\n"


def body(
    rows: list[Row], history: History, sort: str, descending: bool, name: Callable[[Row], str]
) -> str:
    index = next((i for i, q in enumerate(QUANTITIES) if q.key == sort), None)
    made: list[tuple[float, str, str, Row]] = []
    for row in rows:
        cells, last = history.cells(row.tracks)
        value = 0.0 if index is None else last[index]
        if value != value:  # not known: last, whichever the order
            value = -math.inf if descending else math.inf
        made.append((-value if descending else value, row.who.namespace, cells, row))
    if index is None:
        made.sort(key=lambda m: (m[3].who.name, m[1]), reverse=descending)
    else:
        made.sort(key=lambda m: (m[0], m[3].who.name, m[1]))
    return "".join([f"<tr>{name(row)}{cells}</tr>\n" for _, _, cells, row in made])


def matches(row: Row, wanted: str) -> bool:
    who = row.who
    return wanted in who.name.lower() or wanted in who.namespace.lower() or wanted in who.id.lower()


def who_cell(who: Who) -> str:
    name = row_link(who.id, who.name) if who.id else escape(who.name)
    return f"{name}<small>{escape(who.namespace)}</small>" if who.namespace else name


def disturbed(pairs: list[Pair] | None) -> str:
    """The worst pairs; nothing if the loader does not tell."""
    if pairs is None:
        return ""
    shown = [pair for pair in pairs if pair.wait >= LEAST_WAIT][:SHOWN]
    rows = "".join(
        f'<tr><th scope="row">{who_cell(pair.victim)}</th><td>{who_cell(pair.culprit)}</td>'
        f"<td>{1000 * pair.wait:.3g} ms/s</td></tr>\n"
        for pair in shown
    )
    table = (
        f"""<table class="text" aria-labelledby="disturbed">
<thead><tr><th scope="col">Waited</th><th scope="col">for</th><th scope="col">CPU wait</th></tr>
</thead>
<tbody>
{rows}</tbody>
</table>
"""
        if shown
        else "<p>Nobody, as far as is known of the last minute.</p>\n"
    )
    return f"""<h2 id="disturbed">Who disturbs whom</h2>
<p class="quiet">Whose tasks were ready to run, and who had the CPU meanwhile; in the last minute.
All pairs: <a href="api/v1/pairs">JSON</a>.</p>
{table}"""


def bytes_a_second(value: float) -> str:
    for unit in ("B", "KiB", "MiB"):
        if value < 1024:
            return f"{value:.3g} {unit}/s"
        value /= 1024
    return f"{value:.3g} GiB/s"


def peer_cell(edge: Edge) -> str:
    if edge.peer.kind == POD:
        name = row_link(f"pod:{edge.peer.uid}", edge.peer.name)
        return f"{name}<small>{escape(edge.peer.namespace)}</small>"
    if edge.peer.kind == edges.OTHER:
        return "others, together"
    return f"{escape(edge.address)}<small>{escape(edge.peer.kind)}</small>"


def talk(found: list[Edge] | None, seconds: float) -> str:
    """The busiest edges; nothing if the loader does not tell."""
    if found is None:
        return ""
    shown = [edge for edge in found if edge.moved][: edges.SHOWN] if seconds else []
    rows = "".join(
        f'<tr><th scope="row">{who_cell(edge.who)}</th>'
        f"<td>{'serves' if edge.side == 'server' else 'asks'}</td><td>{peer_cell(edge)}</td>"
        f"<td>{f'port {edge.port}' if edge.port else ''}</td>"
        f"<td>sent {bytes_a_second(edge.sent / seconds)}</td>"
        f"<td>received {bytes_a_second(edge.received / seconds)}</td>"
        f"<td>{edge.open} open</td></tr>\n"
        for edge in shown
    )
    names = ("Who", "does", "whom", "Server's port", "Sent", "Received", "Connections")
    columns = "".join(f'<th scope="col">{name}</th>' for name in names)
    table = (
        f"""<table class="text" aria-labelledby="talks">
<thead><tr>{columns}</tr>
</thead>
<tbody>
{rows}</tbody>
</table>
"""
        if shown
        else "<p>Nobody, as far as is known of the last minute. The loader tells peers apart with "
        "<code>--tcp-peers=8</code>, or <code>--profile=comprehensive</code>.</p>\n"
    )
    return f"""<h2 id="talks">Who talks to whom</h2>
<p class="quiet">TCP of the last minute; the port is the server's. Outside is what is no pod of
this node. All: <a href="api/v1/edges">JSON</a>.</p>
{table}"""


def node_page(
    state: State,
    rows: list[Row],
    history: History,
    pairs: list[Pair] | None,
    found: list[Edge] | None,
    seconds: float,
    node: str,
    query: dict[str, str],
) -> bytes:
    sort = query.get("sort", DEFAULT_SORT)
    if sort != "name" and all(q.key != sort for q in QUANTITIES):
        sort = DEFAULT_SORT
    descending = query.get("order", "asc" if sort == "name" else "desc") == "desc"
    wanted = query.get("q", "").strip()

    def link(key: str) -> str:
        to = {"sort": key}
        if key == sort:
            to["order"] = "asc" if descending else "desc"
        if wanted:
            to["q"] = wanted
        return "?" + urlencode(to)

    shown = [row for row in rows if matches(row, wanted.lower())] if wanted else rows
    pods = sum(row.who.scope == "pod" for row in rows)
    containers = sum(row.containers for row in rows)
    on = f"; {plural(pods, 'pod')}, {plural(containers, 'container')}"
    count = f"{len(shown)} of {len(rows)}" if wanted else str(len(rows))
    about = f"{count} shown. {span(history)} Each graph has a scale of its own, from zero."
    table = (
        f'<p class="quiet">{about}</p>\n<table class="rows" aria-labelledby="rows">\n'
        f"{heads('Name', link, sort, descending)}"
        f"<tbody>\n{body(shown, history, sort, descending, name_cell)}</tbody>\n</table>\n"
        if shown
        else f"<p>{'Nothing matches.' if rows else 'Nothing is shown yet.'}</p>\n"
    )
    main = f"""<div id="state" data-live>
{state_line(state, on)}{state_facts(state)}</div>
<h2 id="rows">Pods and others</h2>
<form id="controls" role="search">
<label for="q">Name or namespace</label>
<input id="q" name="q" type="search" value="{escape(wanted)}">
<input type="hidden" name="sort" value="{sort}">
<button>Show</button>
</form>
<div id="table" data-live>
{table}</div>
<p class="lost" id="lost" role="status"></p>
<div id="pairs" data-live>
{disturbed(pairs)}</div>
<div id="edges" data-live>
{talk(found, seconds)}</div>
<div id="collectors" data-live>
{collectors(state)}</div>
"""
    title = f"kpod-metrics: {node}" if node else "kpod-metrics"
    return document(title, escape(title), main)


def running(c: Collector) -> str:
    return "has nothing to read" if c.has_nothing else "runs" if c.up else "down"


def collectors(state: State) -> str:
    if not state.collectors:
        return ""
    rows = "".join(
        f'<tr><th scope="row">{escape(c.name)}</th><td>{running(c)}</td>'
        f"<td>{escape(c.attach if c.up and not c.has_nothing else c.reason)}</td>"
        f"<td>{escape(c.help)}</td></tr>\n"
        for c in sorted(state.collectors, key=lambda c: c.up)
    )
    return f"""<h2 id="what">Collectors</h2>
<table class="text" aria-labelledby="what">
<thead><tr><th scope="col">Name</th><th scope="col">State</th><th scope="col">How, or why not</th>
<th scope="col">What it counts</th></tr></thead>
<tbody>
{rows}</tbody>
</table>
"""


def chart(history: History, tracks: list[int], index: int) -> str:
    quantity = QUANTITIES[index]
    values = [v for v in history.series(tracks, index) if v == v]
    last = history.text(index, values[-1]) if values else "-"
    most = history.text(index, max(values)) if values else "-"
    least = history.text(index, min(values)) if values else "-"
    width, height = CHART
    about = f"{quantity.title}: now {last}, least {least}, most {most}"
    path = history.path(tracks, index, width, height)
    return (
        f'<figure class="chart"><figcaption><strong>{quantity.title}</strong> <span>{last}</span>'
        f'</figcaption><svg viewBox="0 -2 {width} {height + 4}" preserveAspectRatio="none" '
        f'role="img" aria-label="{escape(about)}"><path d="{path}"/></svg>'
        f'<span class="quiet">{least} to {most}. {escape(quantity.help)}.</span></figure>\n'
    )


def row_page(
    state: State, row: Row, history: History, node: str, known: Iterable[tuple[str, str]]
) -> bytes:
    who = row.who
    title = f"{who.namespace}/{who.name}" if who.namespace else who.name
    parts = [Row(m, [t], [m]) for m, t in zip(row.members, row.tracks, strict=True)]
    charts = "".join(chart(history, row.tracks, i) for i in range(len(QUANTITIES)))
    pairs = [("scope", who.scope), *known]
    if node:
        pairs.append(("node", node))
    age = f"Snapshot {duration(state.age)} old. " if state.age is not None else ""
    main = f"""{facts(pairs)}<p id="controls"></p>
<div id="charts" data-live>
<p class="quiet">{age}{span(history)} Each graph is from zero to its highest value.</p>
<div class="charts">
{charts}</div></div>
<h2 id="parts">Containers</h2>
<div id="table" data-live>
<table class="rows" aria-labelledby="parts">
{heads("Container", None, "", True)}<tbody>
{body(parts, history, DEFAULT_SORT, True, member_cell)}</tbody>
</table></div>
<p class="lost" id="lost" role="status"></p>
"""
    return document(f"{title}: kpod-metrics", escape(title), main)


def missing_page(state: State) -> bytes:
    main = (
        f"{state_line(state, '') if state.problems else ''}"
        "<p>No such pod, unit or container lives on this node now. It may have ended: its last "
        'totals are in <a href="metrics">/metrics</a> for some minutes.</p>\n'
        '<p><a href="./">What is there</a></p>\n<p id="controls"></p><p id="lost"></p>\n'
    )
    return document("Not found: kpod-metrics", "Not found", main)
