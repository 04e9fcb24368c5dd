"""The C extension; everything else is in pyproject.toml, which has no word for cffi's modules."""

from setuptools import setup

setup(cffi_modules=["aggregator/native/build.py:builder"])
