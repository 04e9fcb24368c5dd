"""The lines on stderr: with time and level, as text or as JSON."""

import json
import logging
import sys
from datetime import UTC, datetime

PROGRAM = "kpod-aggregator"


def _time(record: logging.LogRecord) -> str:
    """RFC 3339, in UTC, with milliseconds."""
    at = datetime.fromtimestamp(record.created, UTC)
    return at.strftime("%Y-%m-%dT%H:%M:%S.") + f"{at.microsecond // 1000:03d}Z"


class Text(logging.Formatter):
    """TIME LEVEL kpod-aggregator: MESSAGE."""

    def format(self, record: logging.LogRecord) -> str:
        message = super().format(record)
        return f"{_time(record)} {record.levelname.lower()} {PROGRAM}: {message}"


class Json(logging.Formatter):
    """An object on one line."""

    def format(self, record: logging.LogRecord) -> str:
        return json.dumps(
            {
                "time": _time(record),
                "level": record.levelname.lower(),
                "program": PROGRAM,
                "message": super().format(record),
            }
        )


FORMATS = {"text": Text, "json": Json}


def start(level: str, format_: str) -> None:
    """For the whole process."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(FORMATS[format_]())
    logging.basicConfig(level=level.upper(), handlers=[handler])
