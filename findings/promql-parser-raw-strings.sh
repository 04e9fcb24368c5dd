#!/usr/bin/env bash
# promql-parser takes a backslash for an escape between backticks, where PromQL has none.
#
# Setting   promql-parser 0.12.0 (PyPI), promtool of Prometheus 2.42.0+ds-5+deb12u1 (Debian 12).
# Guess     Both take the selector path=`C:\` ("No escaping is processed inside backticks", Prometheus' documentation): the value is
#           C and a colon and a backslash.
# Seen      promtool takes it. promql-parser says "unterminated quoted string": the backslash has escaped the closing backtick.
#           With the same text in double quotes and doubled backslashes it agrees.
# So        A linter of rules built on it refuses what the server runs. Regular expressions with backslashes, for which backticks are
#           used, pass unless a backslash stands last; our rules have double quotes.
set -euo pipefail
skip() { echo "skipped: $*"; exit 77; }
[ "$(uname -m)" = x86_64 ] || skip "the pinned package is of amd64"
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
apt-get download -qq prometheus=2.42.0+ds-5+deb12u1 2>/dev/null || skip "Prometheus 2.42.0 of Debian 12 cannot be had here"
dpkg-deb -x prometheus_*.deb .
python3 -m venv v && v/bin/pip install -q --disable-pip-version-check promql-parser==0.12.0 2>/dev/null ||
	skip "promql-parser 0.12.0 cannot be had here"
cat >parse.py <<'PY'
import json
import subprocess
import sys

import promql_parser

found = []
for query in ("files{path=`C:\\`}", 'files{path="C:\\\\"}', "files{path=~`C:\\\\d+`}"):
    rules = {"groups": [{"name": "g", "rules": [{"record": "r", "expr": query}]}]}
    check = ["usr/bin/promtool", "check", "rules", "/dev/stdin"]
    done = subprocess.run(check, input=json.dumps(rules), text=True, capture_output=True)
    try:
        promql_parser.parse(query)
        said = "takes it"
    except ValueError as error:
        said = str(error).strip()
    print(f"{query}: promtool {'takes it' if done.returncode == 0 else done.stderr}; promql-parser: {said}")
    found.append((done.returncode == 0, said == "takes it"))
sys.exit(found != [(True, False), (True, True), (True, True)])
PY
v/bin/python parse.py
echo "as described"
