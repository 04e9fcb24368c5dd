"""docs/cadvisor.md from the table by which the page is made: `python -m docs.cadvisor`."""

# ruff: noqa: E501

from collections.abc import Iterator

from aggregator.compat.cadvisor import MISSING, TABLE

HEAD = """# A drop-in for cAdvisor's page

Made by `make docs` from `aggregator/compat/cadvisor.py`: do not edit. `--compat=cadvisor` serves
`/metrics/cadvisor`, with the names, labels and units of the kubelet's cAdvisor for everything whose meaning is the
same. Dashboards and rules stay as they are; point the scrape job of `/metrics/cadvisor` here.

## Rows
| row | labels | |
|---|---|---|
| a container of a pod | `container`, `id`, `image`, `name`, `namespace`, `pod` | `name` is the id that the runtime gave it; `image` as the pod's status has it, where the runtime may say a digest |
| the sandbox of a pod | `id`, `name`, `namespace`, `pod` | no `container`, as with containerd; cAdvisor has the pause image in `image`, which no API tells. The pod's network is here, or at its oldest container if there is no sandbox |
| a container outside Kubernetes | `id`, `name` | |
| a unit of systemd | `id` | its path; ended units are not shown, as their path may be the next one's |
| a pod's own cgroup | `id`, `namespace`, `pod` | CPU, memory, PIDs, I/O and pressure of the pod with all its containers, its limits and its throttling; not of pods that have ended. `container!=""`, as rules have it, leaves it out of sums. Events (`container_oom_events_total`) and network are of what runs in the pod's cgroup itself |
| slices and the root | | not there: their rows are sums |

A container that has ended stays until each scraper has had its last values twice. cAdvisor drops it at once, and misses
most containers that live for less than its housekeeping interval (10 s or more). An empty label is left out, which is the same
to a query; in Kubernetes `namespace`, `pod` and `container` are written out, so that `honor_labels: true` holds. There is no `node` label: it comes from the scrape job, as with the kubelet.
"""


def render() -> Iterator[str]:
    yield HEAD
    yield "## What is the same\n\n| cAdvisor's | ours | differs in |\n|---|---|---|"
    for rule in TABLE:
        labels = "".join(f', {name}="{value}"' for name, value in rule.labels)
        ours = f"{rule.ours}{{{labels[2:]}}}" if labels else rule.ours
        yield f"| `{rule.name}` | `{ours}` | {rule.differs} |"
    yield "\n## What is missing\n\n| cAdvisor's | |\n|---|---|"
    for names, why in MISSING:
        yield f"| {', '.join(f'`{name}`' for name in names.split(', '))} | {why} |"
    yield "\nThe common Kubernetes mixin's rules and dashboards use none of the missing ones"
    yield "(`tests/aggregator/test_cadvisor.py` has its list)."


if __name__ == "__main__":
    print("\n".join(render()))
