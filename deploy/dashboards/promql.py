"""Expressions over our metrics, with the dashboards' variables in them."""

RATE = "$__rate_interval"
# Rows of a pod's containers. Its own row and the sandbox's have an empty container, so that a sum
# over containers counts nothing twice.
PODS = 'namespace=~"$namespace", pod=~"$pod", node=~"$node", container!=""'
# Of what belongs to the pod as a whole, as its network namespace does.
WHOLE_PODS = 'namespace=~"$namespace", pod=~"$pod", node=~"$node", pod!=""'
NODES = 'node=~"$node"'
NAMESPACES = 'namespace=~"$namespace", node=~"$node", container!=""'


def _select(selector: str, more: str) -> str:
    return ", ".join(part for part in (selector, more) if part)


def rate(metric: str, selector: str = PODS, *, by: str, more: str = "") -> str:
    return f"sum by ({by}) (rate({metric}{{{_select(selector, more)}}}[{RATE}]))"


def total(metric: str, selector: str = PODS, *, by: str, more: str = "") -> str:
    return f"sum by ({by}) ({metric}{{{_select(selector, more)}}})"


def ratio(above: str, below: str) -> str:
    """Nothing where there is nothing to divide by."""
    return f"{above} / ({below} > 0)"


def quantile(q: float, metric: str, selector: str = PODS, *, by: str, more: str = "") -> str:
    """Of a histogram that the server has as a classic or as a native one."""
    where = f"{{{_select(selector, more)}}}[{RATE}]"
    classic = f"histogram_quantile({q}, sum by ({by}, le) (rate({metric}_bucket{where})))"
    native = f"histogram_quantile({q}, sum by ({by}) (rate({metric}{where})))"
    return f"{classic} or {native}"


def mean(metric: str, selector: str = PODS, *, by: str, more: str = "") -> str:
    """The same for the mean."""
    where = f"{{{_select(selector, more)}}}[{RATE}]"
    classic = ratio(
        f"sum by ({by}) (rate({metric}_sum{where}))", f"sum by ({by}) (rate({metric}_count{where}))"
    )
    summed = f"sum by ({by}) (rate({metric}{where}))"
    return f"{classic} or {ratio(f'histogram_sum({summed})', f'histogram_count({summed})')}"


def top(count: int, expression: str) -> str:
    return f"topk({count}, {expression})"
