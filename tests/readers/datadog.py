"""In the virtual environment of Datadog's check: one run over URL, what it submits as JSON lines.

datadog.py URL latest|standard
"""

import json
import sys

from datadog_checks.base import OpenMetricsBaseCheckV2
from datadog_checks.base.stubs import aggregator

instance = {
    "openmetrics_endpoint": sys.argv[1],
    "namespace": "dd",
    "metrics": ["^r_.+"],
    "use_latest_spec": sys.argv[2] == "latest",
    "tag_by_endpoint": False,
    "enable_health_service_check": False,
}
check = OpenMetricsBaseCheckV2("test", {}, [instance])
if error := check.run():
    sys.exit(error)
for name in aggregator.metric_names:
    for metric in aggregator.metrics(name):
        tags = sorted(metric.tags)
        print(json.dumps([name, metric.type, metric.value, tags]))
