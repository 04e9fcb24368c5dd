"""The unprivileged half of kpod-metrics: reads the loader's segment and serves it to Prometheus."""

__version__ = "0.1.0"
