#!/bin/bash
# Downloads the readers of tests/readers into a directory: programs of three suites of Debian, each
# with package lists of its own so that the system's are not touched, and parsers of PyPI and npm.
# What cannot be had is named; its tests skip and say so.
set -uo pipefail
directory=$1
mkdir -p "$directory"
cd "$directory" || exit 1

# Where this machine gets Debian from, and by which keys it knows it.
mirror=$(cat /etc/apt/sources.list /etc/apt/sources.list.d/* 2>/dev/null |
	grep -oE 'https?://[^ ]+/debian/?( |$)' | head -1)
keys=/usr/share/keyrings/debian-archive-keyring.gpg
failed=0

get() {
	local suite=$1 apt package program missing=
	shift
	for package in "$@"; do
		program=$suite/${package#*=}
		test -x "$program" || missing+=" ${package%%=*}"
	done
	test -n "$missing" || return 0
	mkdir -p "$suite"/{lists,archives}/partial
	echo "deb [signed-by=$keys] $mirror $suite main" >"$suite/sources.list"
	apt="apt-get -qq -o Dir::Etc::sourcelist=$PWD/$suite/sources.list -o Dir::Etc::sourceparts=-
		-o Dir::State::lists=$PWD/$suite/lists -o Dir::State::status=/dev/null
		-o Dir::Cache=$PWD/$suite -o APT::Sandbox::User=root"
	$apt update || return 1
	for package in "$@"; do
		program=${package#*=}
		test -x "$suite/$program" && continue
		(cd "$suite" && $apt download "${package%%=*}" && dpkg-deb --fsys-tarfile ./*.deb |
			tar -xO "./usr/bin/$program" >"$program.new") || return 1
		rm "$suite"/*.deb
		chmod +x "$suite/$program.new" && mv "$suite/$program.new" "$suite/$program"
	done
	rm -rf "$suite"/{lists,archives,*.bin,sources.list}
}

VM=victoria-metrics=victoria-metrics
GATEWAY=prometheus-pushgateway=prometheus-pushgateway
# Debian 12 has its own Prometheus unpacked already.
OLD=$(grep -q '^VERSION_CODENAME=bookworm' /etc/os-release || echo prometheus=prometheus)
for wanted in "bookworm $VM $GATEWAY $OLD" "trixie prometheus=prometheus" \
	"sid prometheus=prometheus $VM $GATEWAY"; do
	# shellcheck disable=SC2086
	get $wanted || { echo "readers: not everything could be had of Debian ${wanted%% *}" >&2; failed=1; }
done

# A virtual environment of its own: Datadog's checks want other versions than the project. Its extra
# [deps] has packages that must be compiled; these are the ones that the check of OpenMetrics uses.
if ! test -e venv/ready; then
	/usr/bin/python3 -m venv venv && venv/bin/pip install -q --disable-pip-version-check \
		'datadog-checks-base==38.7.0' requests prometheus-client pydantic pyyaml cachetools \
		simplejson wrapt python-dateutil binary lazy-loader requests-unixsocket2 jellyfish &&
		touch venv/ready || { echo "readers: Datadog's check could not be had" >&2; failed=1; }
fi

if ! command -v npm >/dev/null; then
	echo "readers: no npm here: the parser for JavaScript is not tested" >&2
elif ! test -d node_modules/parse-prometheus-text-format; then
	npm install --silent --no-audit --no-fund --prefix . parse-prometheus-text-format@1.1.1 >/dev/null ||
		{ echo "readers: parse-prometheus-text-format could not be had" >&2; failed=1; }
fi

test $failed = 0 && touch ready
exit 0
