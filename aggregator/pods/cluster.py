"""How to reach the API server and the kubelet, by the kubernetes package's configuration."""

import os
import ssl
from collections.abc import Callable
from typing import Any

import httpx
from kubernetes import client, config
from kubernetes.client.rest import should_bypass_proxies

from aggregator.pods.source import SILENCE

CONNECT = 10.0  # s


def in_cluster() -> bool:
    return bool(os.environ.get("KUBERNETES_SERVICE_HOST"))


def configuration(kubeconfig: str = "") -> Any:
    """Read anew each time: a rotated token or CA counts from the next request on."""
    found = client.Configuration()
    if kubeconfig or not in_cluster():
        config.load_kube_config(kubeconfig or None, client_configuration=found)
    else:
        config.load_incluster_config(client_configuration=found)
    return found


def connector(
    kubeconfig: str = "", *, url: str = "", insecure: bool = False, silence: float = SILENCE
) -> Callable[[], httpx.AsyncClient]:
    """Makes clients for the API server, or for another server of the cluster at this URL.

    silence: s without a byte after which a connection is dead.
    """

    def connect() -> httpx.AsyncClient:
        found = configuration(kubeconfig)
        base = url or found.host
        verify: ssl.SSLContext | bool = False
        if base.startswith("https:") and found.verify_ssl and not insecure:
            verify = ssl.create_default_context(cafile=found.ssl_ca_cert)
            # Set since Python 3.13, which refuses certificates that client-go takes.
            verify.verify_flags &= ~ssl.VERIFY_X509_STRICT
            if found.cert_file:
                verify.load_cert_chain(found.cert_file, found.key_file)
        # A file that an editor wrote ends with a newline, which no header may have.
        token = found.auth_settings().get("BearerToken", {}).get("value", "").strip()
        proxy = None if url or should_bypass_proxies(base, found.no_proxy or "") else found.proxy

        async def name_server(request: httpx.Request) -> None:
            if found.tls_server_name and not url:
                request.extensions["sni_hostname"] = found.tls_server_name

        return httpx.AsyncClient(
            base_url=base,
            event_hooks={"request": [name_server]},
            verify=verify,
            headers={"authorization": token} if token else {},
            timeout=httpx.Timeout(CONNECT, read=silence),
            trust_env=False,
            proxy=proxy,
        )

    return connect
