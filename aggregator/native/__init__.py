"""C sources of aggregator._native and the script that builds it."""
