"""Serves a loader's segment to Prometheus: `kpod-aggregator` or `python -m aggregator`."""

import os
import signal
import sys


def run() -> None:
    """Start the program. Also the entry point of the installed command."""
    # At once: the import below takes a second, and a container's first process gets no signal that
    # it does not handle. Until uvicorn takes over there is nothing to end in order; when it has
    # ended in order, it raises the signal again.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: os._exit(0))

    if sys.argv[1:2] == ["bundle"]:
        from aggregator.bundle import main
    else:
        from aggregator.app import main

    main()


if __name__ == "__main__":
    run()
