#!/bin/bash
# Servers and clients of layer 7's protocols that only PyPI has, into a directory of their own, as
# they want other versions of packages than the project does. What cannot be had is named; its tests
# skip and say so, and the next set-up tries again.
set -uo pipefail
directory=$1
python=$2

get() {
	local name=$1
	shift
	test -e "$directory/$name/ready" && return 0
	rm -rf "${directory:?}/$name"
	"$python" -m pip install -q --disable-pip-version-check --retries 5 \
		--target "$directory/$name" "$@" 2>"$directory/$name.log" && touch "$directory/$name/ready" ||
		echo "layer 7: $* could not be had; $directory/$name.log says why" >&2
}

mkdir -p "$directory"
get mongodb nx-27017==0.8.1 pymongo==4.20.1
get kafka confluent-kafka==2.16.1
get grpc grpcio==1.85.3
exit 0
