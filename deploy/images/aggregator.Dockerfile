# The aggregator: an interpreter, what it imports, and nothing that could install or compile more.
# `make images`, or: docker build -f deploy/images/aggregator.Dockerfile .
ARG BASE=debian:bookworm-slim
FROM ${BASE} AS build
WORKDIR /src
COPY Makefile ./
COPY deploy/packages deploy/
RUN command -v make >/dev/null || { apt-get update -qq && apt-get install -y -qq make >/dev/null; }
RUN make setup-build
# Where no registry is reached: --no-index --find-links=/wheels, and a volume there.
ARG PIP_OPTIONS=""
# Of files in a wheel; the first that a zip can hold.
ENV SOURCE_DATE_EPOCH=315532800
COPY deploy/images/build.txt deploy/images/run.txt deploy/images/
RUN python3 -m venv /build && python3 -m venv --without-pip /venv && \
    /build/bin/pip install -q --no-cache-dir ${PIP_OPTIONS} --require-hashes --no-deps \
        -r deploy/images/build.txt && \
    /build/bin/pip install -q --no-cache-dir ${PIP_OPTIONS} --require-hashes --no-deps \
        --prefix=/venv --ignore-installed --no-compile -r deploy/images/run.txt
COPY pyproject.toml setup.py MANIFEST.in README.md ./
COPY aggregator aggregator
COPY shared shared
RUN /build/bin/pip install -q --no-index --prefix=/venv --no-deps --no-compile --no-build-isolation .
COPY deploy/images/assemble.py deploy/images/
RUN python3 deploy/images/assemble.py /venv /rootfs

FROM scratch
ARG VERSION=0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="kpod-metrics aggregator" \
      org.opencontainers.image.description="Names containers through Kubernetes and serves them to Prometheus" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
COPY --from=build /rootfs/ /
COPY LICENSE /LICENSE
ENV PATH=/usr/bin
EXPOSE 9090
USER 65534:65534
ENTRYPOINT ["/usr/bin/python3", "-I", "-m", "aggregator"]
