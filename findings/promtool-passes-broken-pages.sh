#!/usr/bin/env bash
# `promtool check metrics` passes pages that no exporter should serve.
#
# Setting   promtool 2.42.0 (prometheus 2.42.0+ds-5+deb12u1 of Debian 12). Six small pages in the text format, each
#           with one fault, and a sound one.
# Guess     "Pass Prometheus metrics over stdin to lint them for consistency and correctness": a series that is there twice, a family
#           that is cut in two, buckets that fall, a missing +Inf bucket, a count that is not the last bucket's, and a counter
#           below zero are each named, with an exit status that is not 0.
# Seen      All six pass without a word and with status 0; of a series that is there twice or a torn family the parser keeps what it
#           likes. It does find a second HELP line, and names that break conventions.
# So        As a check of an exporter it looks at names and at HELP. That a page has each series once, and histograms that add up,
#           has to be asserted by the exporter's own tests.
set -euo pipefail
skip() { echo "skipped: $*"; exit 77; }
[ "$(uname -m)" = x86_64 ] || skip "the pinned package is of amd64"
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
version=2.42.0+ds-5+deb12u1
apt-get download -qq "prometheus=$version" 2>/dev/null || skip "prometheus $version of Debian 12 cannot be had here"
dpkg-deb -x prometheus_*.deb .
promtool=usr/bin/promtool
$promtool --version 2>&1 | head -n 1
counter='# HELP a_total A.\n# TYPE a_total counter\n'
histogram='# HELP h_seconds H.\n# TYPE h_seconds histogram\n'
failed=0
page() { # NAME STATUS TEXT
	local status=0 said
	said=$(printf "$3" | $promtool check metrics 2>&1) || status=$?
	echo "$1: status $status ${said:-(nothing said)}"
	[ "$status" = "$2" ] && { [ "$status" != 0 ] || [ -z "$said" ]; } || failed=1
}
page 'a sound page' 0 "${counter}a_total{x=\"1\"} 1\na_total{x=\"2\"} 2\n"
page 'a series twice' 0 "${counter}a_total{x=\"1\"} 1\na_total{x=\"1\"} 2\n"
page 'a family in two parts' 0 "${counter}a_total{x=\"1\"} 1\n# HELP b_total B.\n# TYPE b_total counter\nb_total 1\na_total{x=\"2\"} 1\n"
page 'buckets that fall' 0 "${histogram}h_seconds_bucket{le=\"1\"} 5\nh_seconds_bucket{le=\"2\"} 3\nh_seconds_bucket{le=\"+Inf\"} 5\nh_seconds_sum 3\nh_seconds_count 5\n"
page 'no bucket for all' 0 "${histogram}h_seconds_bucket{le=\"1\"} 5\nh_seconds_sum 3\nh_seconds_count 5\n"
page 'another count than the last bucket' 0 "${histogram}h_seconds_bucket{le=\"1\"} 5\nh_seconds_bucket{le=\"+Inf\"} 5\nh_seconds_sum 3\nh_seconds_count 9\n"
page 'a counter below zero' 0 "${counter}a_total -1\n"
page 'HELP twice' 1 "# HELP a_total A.\n# HELP a_total B.\n# TYPE a_total counter\na_total 1\n"
[ $failed = 0 ]
echo "as described: names and HELP are looked at, series are not"
