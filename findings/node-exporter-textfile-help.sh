#!/usr/bin/env bash
# node_exporter leaves out a text file's metric whose HELP another file has in other words, and calls the file read without error.
#
# Setting   prometheus-node-exporter 1.5.0-1+b6 (Debian 12), collector textfile. Two files have jobs_total, each a series of its own; the
#           HELP of one is "Jobs.", that of the other "All jobs.". Two more have depth, with TYPE in one of them only.
# Guess     HELP is a comment: both series of each metric are on the page. If not, node_textfile_scrape_error is 1.
# Seen      Of each metric the page has the first file's series only. node_textfile_scrape_error is 0, node_scrape_collector_success
#           1, and node_textfile_mtime_seconds names all four files. The registry finds the contradiction after the collector is done:
#           a line in the log, and promhttp_metric_handler_errors_total{cause="gathering"}.
# So        What several jobs write into one directory must agree in HELP and TYPE to the letter. An alert on the collector's own
#           metrics does not see it; who renders our page writes each family's HELP once, from one table.
set -euo pipefail
skip() { echo "skipped: $*"; exit 77; }
[ "$(uname -m)" = x86_64 ] || skip "the pinned package is of amd64"
dir=$(mktemp -d)
trap 'kill "${exporter:-}" 2>/dev/null || true; rm -rf "$dir"' EXIT
cd "$dir"
apt-get download -qq prometheus-node-exporter=1.5.0-1+b6 2>/dev/null || skip "node_exporter 1.5.0 of Debian 12 cannot be had here"
dpkg-deb -x prometheus-node-exporter_*.deb .
mkdir text
printf '# HELP jobs_total Jobs.\n# TYPE jobs_total counter\njobs_total{job="a"} 1\n' >text/1.prom
printf '# HELP jobs_total All jobs.\n# TYPE jobs_total counter\njobs_total{job="b"} 2\n' >text/2.prom
printf '# TYPE depth gauge\ndepth{job="a"} 3\n' >text/3.prom
printf 'depth{job="b"} 4\n' >text/4.prom
usr/bin/prometheus-node-exporter --web.listen-address=127.0.0.1:19111 --collector.disable-defaults --collector.textfile \
	--collector.textfile.directory=text 2>log & exporter=$!
fetch() { python3 -c 'import urllib.request as u; print(u.build_opener(u.ProxyHandler({})).open("http://127.0.0.1:19111/metrics").read().decode())'; }
for _ in $(seq 100); do fetch >page 2>/dev/null && break; sleep 0.1; done
fetch >page # the second page counts what was wrong with the first
grep -E '^(jobs_total|depth|node_textfile|node_scrape_collector_success|promhttp_metric_handler_errors)' page
has() { grep -qF "$1" page; }
has 'jobs_total{job="a"} 1' && has 'depth{job="a"} 3' && ! has 'job="b"'
has 'node_textfile_scrape_error 0' && has 'node_scrape_collector_success{collector="textfile"} 1'
has 'node_textfile_mtime_seconds{file="text/2.prom"}' && has 'node_textfile_mtime_seconds{file="text/4.prom"}'
! has 'promhttp_metric_handler_errors_total{cause="gathering"} 0'
echo "as described"
