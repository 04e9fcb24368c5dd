"""--web.config.file: TLS and basic auth, in the form that Prometheus' exporters share.

The keys are those of exporter-toolkit that apply; any other is an error, as silence would leave a
door open that somebody thinks is shut.
"""

import asyncio
import base64
import binascii
import hashlib
import logging
import re
import ssl
from collections import Counter, OrderedDict
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import bcrypt
import yaml

log = logging.getLogger("kpod")

BCRYPT = re.compile(r"\$2[aby]\$(0[4-9]|[12]\d|3[01])\$[./A-Za-z0-9]{53}\Z")
PASSWORD_MAX = 72  # bytes that bcrypt looks at

CLIENT_AUTH = {
    "NoClientCert": ssl.CERT_NONE,
    "VerifyClientCertIfGiven": ssl.CERT_OPTIONAL,
    "RequireAndVerifyClientCert": ssl.CERT_REQUIRED,
}
VERSIONS = {"TLS12": ssl.TLSVersion.TLSv1_2, "TLS13": ssl.TLSVersion.TLSv1_3}


class WebConfigError(ValueError):
    """The file cannot be used; the message names the place and the cause."""


@dataclass(frozen=True, slots=True)
class Tls:
    cert_file: Path
    key_file: Path
    client_auth_type: str = "NoClientCert"
    client_ca_file: Path | None = None
    min_version: str = "TLS12"
    max_version: str = "TLS13"

    def context(self) -> ssl.SSLContext:
        """For a server. Renewed certificates are used from the next handshake on."""
        context = self._context()
        seen = self._stamps()

        def handshake(connection: ssl.SSLObject, _name: str | None, _: ssl.SSLContext) -> None:
            nonlocal context, seen
            try:
                if (stamps := self._stamps()) != seen:
                    context, seen = self._context(), stamps
                    log.info("%s: read again", self.cert_file)
            except (OSError, WebConfigError) as error:
                log.error("certificates cannot be renewed: %s", error)
            connection.context = context

        context.sni_callback = handshake  # called without SNI too
        return context

    def _stamps(self) -> list[int]:
        files = (self.cert_file, self.key_file, self.client_ca_file)
        return [file.stat().st_mtime_ns for file in files if file]

    def _context(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = VERSIONS[self.min_version]
        context.maximum_version = VERSIONS[self.max_version]
        context.verify_mode = CLIENT_AUTH[self.client_auth_type]
        try:
            context.load_cert_chain(self.cert_file, self.key_file)
            if self.client_ca_file:
                context.load_verify_locations(self.client_ca_file)
        except OSError as error:  # ssl.SSLError is one
            files = f"{self.cert_file}, {self.key_file}, {self.client_ca_file or 'no CA'}"
            raise WebConfigError(f"tls_server_config: {files}: {error}") from error
        return context


class BasicAuth:
    """Users and the bcrypt hashes of their passwords.

    A comparison takes a tenth of a second, by design of bcrypt: one thread makes them, so that an
    attacker gets one CPU at most. A client (an IP address) has `per_client` passwords compared or
    waiting at once, all clients together `at_once`; others are refused without a look. Verdicts are
    remembered by a digest, the last `remembered` wrong ones too.
    """

    class TooManyAttempts(Exception):  # noqa: N818 -- no error: the client may come again
        """This client, or all of them, have passwords waiting that are not compared yet."""

    def __init__(
        self,
        users: Mapping[str, str],
        *,
        per_client: int = 2,
        at_once: int = 32,
        remembered: int = 1024,
    ) -> None:
        self._users = {user: value.encode() for user, value in users.items()}
        # Somebody without a hash must take as long as somebody with one.
        self._nobody = next(iter(self._users.values()))
        self._right: set[bytes] = set()
        self._wrong: OrderedDict[bytes, None] = OrderedDict()
        self._waiting: Counter[str] = Counter()  # comparisons by client
        self._per_client, self._at_once, self._remembered = per_client, at_once, remembered
        self._pool = ThreadPoolExecutor(1, "bcrypt")

    async def allows(self, header: str, client: str = "") -> bool:
        """Whether this Authorization header is one of theirs. TooManyAttempts: not looked at."""
        scheme, _, encoded = header.partition(" ")
        try:
            user, colon, password = base64.b64decode(encoded, validate=True).partition(b":")
            known = self._users.get(user.decode())
        except (binascii.Error, ValueError):
            return False
        if scheme.lower() != "basic" or not colon or len(password) > PASSWORD_MAX:
            return False
        digest = hashlib.sha256(user + b":" + password).digest()
        if digest in self._right:
            return True
        if digest in self._wrong:
            return False
        if self._waiting[client] >= self._per_client or self._waiting.total() >= self._at_once:
            raise self.TooManyAttempts
        self._waiting[client] += 1
        try:
            right = await asyncio.get_running_loop().run_in_executor(
                self._pool, bcrypt.checkpw, password, known or self._nobody
            )
        finally:
            self._waiting[client] -= 1
            if not self._waiting[client]:
                del self._waiting[client]
        if right and known:
            self._right.add(digest)
            return True
        self._wrong[digest] = None
        if len(self._wrong) > self._remembered:
            self._wrong.popitem(last=False)
        return False

    def close(self) -> None:
        """No more comparisons; those that wait are dropped."""
        self._pool.shutdown(wait=False, cancel_futures=True)


class WebConfig:
    """The file as it is now: users are read again when it changes, as exporter-toolkit does.

    What `tls_server_config` says is for the whole life of the listener; a change is named in the
    log. A file that cannot be used any more leaves the last users in force, and the log says so.
    """

    def __init__(self, path: Path) -> None:
        """WebConfigError if the file cannot be used."""
        self._path = path
        self._stamp = self._look()
        self.tls, self._auth = load(path)

    def _look(self) -> tuple[int, int, int] | None:
        # Through the links by which Kubernetes swaps a mounted Secret.
        try:
            status = self._path.stat()
        except OSError:
            return None
        return status.st_ino, status.st_mtime_ns, status.st_size

    @property
    def auth(self) -> BasicAuth | None:
        """The users of now; None if everybody may ask."""
        stamp = self._look()
        if stamp == self._stamp:
            return self._auth
        self._stamp = stamp
        try:
            tls, auth = load(self._path)
        except WebConfigError as error:
            log.error("%s; the users of before stay in force", error)
            return self._auth
        if tls != self.tls:
            log.warning("%s: tls_server_config has changed; restart to use it", self._path)
        log.info("%s: read again", self._path)
        if self._auth:
            self._auth.close()
        self._auth = auth
        return auth


def _section(value: Any, where: str, keys: tuple[str, ...]) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise WebConfigError(f"{where}: not a map")
    for key in value:
        if key not in keys:
            raise WebConfigError(f"{where}: '{key}' is not supported; known: {', '.join(keys)}")
    return value


def _tls(value: Any, directory: Path) -> Tls:
    where = "tls_server_config"
    given = _section(value, where, Tls.__slots__)
    for key, text in given.items():
        if not isinstance(text, str):
            raise WebConfigError(f"{where}.{key}: not a string")
    for key, names in (
        ("client_auth_type", CLIENT_AUTH),
        ("min_version", VERSIONS),
        ("max_version", VERSIONS),
    ):
        if key in given and given[key] not in names:
            raise WebConfigError(f"{where}.{key}: '{given[key]}' is none of {', '.join(names)}")
    for key in ("cert_file", "key_file"):
        if key not in given:
            raise WebConfigError(f"{where}: has no '{key}'")
    # As exporter-toolkit has it: beside the configuration, unless absolute.
    tls = Tls(**{k: directory / v if k.endswith("_file") else v for k, v in given.items()})
    if bool(tls.client_ca_file) != (tls.client_auth_type != "NoClientCert"):
        raise WebConfigError(f"{where}: client_ca_file and client_auth_type need each other")
    return tls


def _auth(value: Any) -> BasicAuth | None:
    where = "basic_auth_users"
    if not isinstance(value, dict):
        raise WebConfigError(f"{where}: not a map")
    for user, hashed in value.items():
        if not isinstance(user, str) or not isinstance(hashed, str) or not BCRYPT.match(hashed):
            raise WebConfigError(f"{where}: what '{user}' has is not a bcrypt hash")
    return BasicAuth(value) if value else None


def load(path: Path) -> tuple[Tls | None, BasicAuth | None]:
    """What the file configures; WebConfigError if it cannot be used."""
    try:
        document = yaml.safe_load(path.read_text())
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise WebConfigError(f"{path}: {' '.join(str(error).split())}") from error
    if document is None:
        document = {}
    try:
        root = _section(document, "file", ("tls_server_config", "basic_auth_users"))
        tls = _tls(root["tls_server_config"], path.parent) if "tls_server_config" in root else None
        if tls:
            tls.context()
        return tls, _auth(root.get("basic_auth_users", {}))
    except WebConfigError as error:
        raise WebConfigError(f"{path}: {error}") from None
