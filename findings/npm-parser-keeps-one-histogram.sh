#!/usr/bin/env bash
# The npm parser of Prometheus' text format keeps one histogram of a family, the last, without its labels, sum and count.
#
# Setting   parse-prometheus-text-format 1.1.1, Node.js. A page with work_seconds of pod="a" and of pod="b".
# Guess     Two entries in `metrics`, each with its label pod, its buckets, sum and count, as for counters and gauges.
# Seen      One entry: the buckets of pod="b". Neither label, nor sum and count, are anywhere in the result.
# So        What such a reader shows for a family is one series' buckets, whichever comes last on the page; docs/readers.md says so.
set -euo pipefail
skip() { echo "skipped: $*"; exit 77; }
command -v npm >/dev/null || skip "needs npm"
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
npm install --silent --no-audit --no-fund parse-prometheus-text-format@1.1.1 >/dev/null 2>&1 || skip "the pinned package cannot be had here"
cat >parse.js <<'JS'
const found = require('parse-prometheus-text-format');
const parse = found.default || found;
const series = (pod, n) =>
	`work_seconds_bucket{pod="${pod}",le="1"} ${n}\nwork_seconds_bucket{pod="${pod}",le="+Inf"} ${3 * n}\n` +
	`work_seconds_sum{pod="${pod}"} ${4 * n}\nwork_seconds_count{pod="${pod}"} ${3 * n}\n`;
const page = '# HELP work_seconds Time.\n# TYPE work_seconds histogram\n' + series('a', 1) + series('b', 10);
console.log(JSON.stringify(parse(page)));
JS
node parse.js | tee out
[ "$(cat out)" = '[{"name":"work_seconds","help":"Time.","type":"HISTOGRAM","metrics":[{"buckets":{"1":"10","+Inf":"30"}}]}]' ]
echo "as described"
