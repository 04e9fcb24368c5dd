"""Serves a loader's segment to Prometheus: `python -m aggregator --segment PATH`."""

import os
import signal

if __name__ == "__main__":
    # At once: the imports below take a second, and a container's first process gets no signal that
    # it does not handle. Until uvicorn takes over there is nothing to end in order; when it has
    # ended in order, it raises the signal again.
    for _number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(_number, lambda *_: os._exit(0))

    from aggregator.app import main

    main()
