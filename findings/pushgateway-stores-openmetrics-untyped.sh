#!/usr/bin/env bash
# One push of OpenMetrics text to the Pushgateway is accepted, and then everybody else's counter of that name is refused.
#
# Setting   prometheus-pushgateway 1.5.1-2+b5 (Debian 12).
# Guess     A body with Content-Type application/openmetrics-text is either understood or refused (415 or 400).
# Seen      200. The content type is not looked at and the body is read as text 0.0.4, where `# TYPE work counter` does not
#           describe `work_total`: it is stored untyped. From then on the correct text push of counter work_total by another
#           job is answered 400 ("inconsistent with existing metrics"), until the first group is deleted.
# So        An agent that pushes has to send text 0.0.4 there, whatever else it can speak.
set -euo pipefail
skip() { echo "skipped: $*"; exit 77; }
[ "$(uname -m)" = x86_64 ] || skip "the pinned package is of amd64"
command -v curl >/dev/null || skip "needs curl"
dir=$(mktemp -d)
gateway=
trap '[ -z "$gateway" ] || kill "$gateway"; rm -rf "$dir"' EXIT
cd "$dir"
apt-get download -qq prometheus-pushgateway=1.5.1-2+b5 2>/dev/null || skip "prometheus-pushgateway 1.5.1-2+b5 cannot be had here"
dpkg-deb -x prometheus-pushgateway_*.deb .
port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
usr/bin/prometheus-pushgateway --web.listen-address="127.0.0.1:$port" 2>log & gateway=$!
base=http://127.0.0.1:$port/metrics
for _ in $(seq 100); do curl -sf "$base" >/dev/null && break; sleep 0.1; done
push() { # JOB CONTENT-TYPE: the status, and the answer in ./answer
	curl -s -o answer -w '%{http_code}' --data-binary @- -H "Content-Type: $2" "$base/job/$1"
}
first=$(printf '# TYPE work counter\nwork_total 3\n# EOF\n' | push a 'application/openmetrics-text; version=1.0.0')
stored=$(curl -s "$base" | grep -A1 '# TYPE work_total')
second=$(printf '# TYPE work_total counter\nwork_total 5\n' | push b 'text/plain; version=0.0.4')
echo "OpenMetrics: $first"; echo "$stored"; echo "text of another job: $second"; cat answer
[ "$first" = 200 ] && [ "$second" = 400 ]
grep -q '# TYPE work_total untyped' <<<"$stored"
grep -qE 'is not a (UNTYPED|COUNTER)' answer # whichever of the two it looks at first
echo "as described"
