#!/usr/bin/env bash
# OpenTelemetry's Prometheus exporter for Python drops one of two attributes that become the same label.
#
# Setting   opentelemetry-exporter-prometheus 0.66b2 with opentelemetry-sdk 1.45.2, CPython 3.
# Guess     Attributes k8s.pod="a" and k8s_pod="b" of one measurement become k8s_pod="a;b", as the specification asks
#           (Prometheus and OpenMetrics Compatibility: values of colliding keys are concatenated, separated by ";");
#           a gauge of unit "1" gets the suffix _ratio, as the same page says.
# Seen      k8s_pod="b": the other value is gone without a word. The gauge has no suffix.
# So        Two series that differ in the dropped attribute only become one name twice; a bridge should not be trusted to
#           keep series apart.
set -euo pipefail
skip() { echo "skipped: $*"; exit 77; }
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
python3 -m venv "$dir/venv" || skip "no python3-venv"
"$dir/venv/bin/pip" -q install --disable-pip-version-check opentelemetry-exporter-prometheus==0.66b2 \
	opentelemetry-sdk==1.45.2 2>/dev/null || skip "the pinned packages cannot be had here"
"$dir/venv/bin/python" - <<'PY' | tee "$dir/out"
from opentelemetry.exporter.prometheus import PrometheusMetricReader
from opentelemetry.sdk.metrics import MeterProvider
from prometheus_client import generate_latest

meter = MeterProvider(metric_readers=[PrometheusMetricReader()]).get_meter("finding")
meter.create_counter("kpod.work").add(1, {"k8s.pod": "a", "k8s_pod": "b"})
meter.create_gauge("kpod.share", unit="1").set(0.5)
print(*(line for line in generate_latest().decode().splitlines() if line.startswith("kpod")), sep="\n")
PY
grep -q 'kpod_work_total{k8s_pod="b",' "$dir/out"
grep -q '^kpod_share{' "$dir/out"
echo "as described: the value \"a\" is gone, and there is no _ratio"
