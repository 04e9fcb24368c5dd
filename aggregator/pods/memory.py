"""A private file with the names that are known, for an aggregator that is started anew."""

import logging
import os
from pathlib import Path

import msgspec

from aggregator.pods.table import Known, PodTable

log = logging.getLogger("kpod")

VERSION = 2
SIZE_MAX = 64 << 20  # bytes; 500 pods take 1 MB


class _File(msgspec.Struct, frozen=True):
    version: int
    pods: tuple[Known, ...]


class Memory:
    """Replaced as a whole, so that whoever reads it has all of one moment."""

    def __init__(self, path: Path, table: PodTable) -> None:
        self.failures = 0
        self._path = path
        self._table = table
        self._error = ""

    def load(self) -> None:
        """What cannot be read is as if it were not there: names come from the source again."""
        try:
            if self._path.stat().st_size > SIZE_MAX:
                raise ValueError(f"more than {SIZE_MAX} bytes")
            file = msgspec.json.decode(self._path.read_bytes(), type=_File)
            if file.version != VERSION:
                raise ValueError(f"version {file.version}")
        except FileNotFoundError:
            return
        except (OSError, ValueError, RecursionError) as error:
            self._fail(error)
            return
        self._table.restore(file.pods)
        log.info("pods: %d remembered from %s", len(file.pods), self._path)

    def save(self) -> None:
        new = self._path.with_name(f"{self._path.name}.{os.getpid()}")
        try:
            content = msgspec.json.encode(_File(VERSION, tuple(self._table.known())))
            descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
            with os.fdopen(descriptor, "wb") as file:
                file.write(content)
            os.replace(new, self._path)
        except OSError as error:
            new.unlink(missing_ok=True)
            self._fail(error)
        else:
            self._error = ""

    def _fail(self, error: Exception) -> None:
        self.failures += 1
        text = getattr(error, "strerror", None) or str(error)
        if text != self._error:
            log.warning("names are not remembered: %s: %s", self._path, text)
        self._error = text
