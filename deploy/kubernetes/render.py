"""The chart with its default values as plain objects, for kustomize.

python -m deploy.kubernetes.render HELM [--check]
"""

import subprocess
import sys
from pathlib import Path

import yaml

HERE = Path(__file__).parent
CHART = HERE.parent / "helm/kpod-metrics"
OPERATOR = "monitoring.coreos.com/v1"
HEAD = "# Made by `make deploy` from the chart: do not edit.\n"
# Of helm's: its tests, and what says that helm manages an object.
HELMS_LABELS = ("app.kubernetes.io/managed-by", "helm.sh/chart")


def objects(helm: str) -> list[dict[str, object]]:
    command = [helm, "template", "kpod-metrics", str(CHART), "--namespace=kpod-metrics"]
    command += [f"--api-versions={OPERATOR}", "--set=tests.enabled=false"]
    text = subprocess.check_output(command, text=True, stderr=subprocess.DEVNULL)
    found = [o for o in yaml.safe_load_all(text) if o]
    for raw in found:
        labels = [raw["metadata"]["labels"]]
        if raw["kind"] == "DaemonSet":
            labels.append(raw["spec"]["template"]["metadata"]["labels"])
        for some in labels:
            for name in HELMS_LABELS:
                some.pop(name, None)
    return found


def text_of(found: list[dict[str, object]]) -> str:
    return HEAD + yaml.safe_dump_all(found, sort_keys=False, width=100)


def main() -> None:
    found = objects(sys.argv[1])
    files = {
        HERE / "agent.yaml": [o for o in found if o["apiVersion"] != OPERATOR],
        HERE / "monitoring/objects.yaml": [o for o in found if o["apiVersion"] == OPERATOR],
    }
    stale = False
    for path, some in files.items():
        text = text_of(some)
        if "--check" not in sys.argv:
            path.write_text(text)
        elif path.read_text() != text:
            stale = True
            print(f"{path}: not what the chart renders; run make deploy", file=sys.stderr)
    sys.exit(stale)


if __name__ == "__main__":
    main()
