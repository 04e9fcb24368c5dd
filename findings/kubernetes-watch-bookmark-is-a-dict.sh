#!/usr/bin/env bash
# A watch of the Kubernetes client for Python gives pods as V1Pod and bookmarks as dict, and asks again with the version that was refused.
#
# Setting   kubernetes 37.0.2 (PyPI), a server on loopback. Watch().stream(list_pod_for_all_namespaces, allow_watch_bookmarks=True)
#           gets ADDED of a pod and a BOOKMARK, then 410 Gone at each further request.
# Guess     Bookmarks, which have nothing but a version, are the client's business and never reach the caller, or do as V1Pod like all
#           others. 410 ends the stream with ApiException at once.
# Seen      The BOOKMARK reaches the caller, its object a dict. After the first 410 the client sends the same request once more, with the
#           version that it was just told is gone, and raises only then.
# So        `event["object"].metadata` breaks at the first bookmark, minutes after the start. A loop that lists anew after ApiException
#           is right; each 410 costs a request more. Our watcher reads the stream itself.
set -euo pipefail
skip() { echo "skipped: $*"; exit 77; }
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
python3 -m venv v && v/bin/pip install -q --disable-pip-version-check kubernetes==37.0.2 2>/dev/null ||
	skip "kubernetes 37.0.2 cannot be had here"
cat >watch.py <<'PY'
import http.server
import json
import sys
import threading

from kubernetes import client, watch

META = {"apiVersion": "v1", "kind": "Pod"}
POD = META | {"metadata": {"name": "web-0", "resourceVersion": "5"}, "spec": {"containers": []}}
MARK = META | {"metadata": {"resourceVersion": "77"}, "spec": {"containers": None}, "status": {}}
GONE = {"apiVersion": "v1", "kind": "Status", "status": "Failure", "reason": "Expired", "code": 410, "message": "too old"}
asked: list[str] = []


class Server(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        asked.append(self.path.partition("resourceVersion=")[2].partition("&")[0])
        events = [("ADDED", POD), ("BOOKMARK", MARK)] if len(asked) == 1 else [("ERROR", GONE)]
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.end_headers()
        for kind, what in events:
            self.wfile.write(json.dumps({"type": kind, "object": what}).encode() + b"\n")

    def log_message(self, *_: object) -> None:
        pass


server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Server)
threading.Thread(target=server.serve_forever, daemon=True).start()
configuration = client.Configuration()
configuration.host = f"http://127.0.0.1:{server.server_port}"
configuration.proxy = None
pods = client.CoreV1Api(client.ApiClient(configuration))
seen, status = [], None
try:
    for event in watch.Watch().stream(pods.list_pod_for_all_namespaces, allow_watch_bookmarks=True, resource_version="1"):
        seen.append((event["type"], type(event["object"]).__name__))
except client.ApiException as error:
    status = error.status
print("events:", seen, "end:", status, "versions asked for:", asked)
sys.exit(not (seen == [("ADDED", "V1Pod"), ("BOOKMARK", "dict")] and status == 410 and asked == ["1", "77", "77"]))
PY
v/bin/python watch.py
echo "as described"
