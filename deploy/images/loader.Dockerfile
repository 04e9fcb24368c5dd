# The loader alone, linked statically: no shell, no library, no package manager.
# `make images`, or: docker build -f deploy/images/loader.Dockerfile .
ARG BASE=debian:bookworm-slim
FROM ${BASE} AS build
WORKDIR /src
COPY Makefile ./
COPY deploy/packages deploy/
RUN command -v make >/dev/null || { apt-get update -qq && apt-get install -y -qq make >/dev/null; }
RUN make setup-build
COPY bpf bpf
COPY loader loader
COPY shared shared
RUN make -j"$(nproc)" LDFLAGS=-static build/kpod-loader && strip build/kpod-loader

FROM scratch
ARG VERSION=0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="kpod-metrics loader" \
      org.opencontainers.image.description="Attaches eBPF programs and writes snapshots of every container's totals" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
COPY --from=build /src/build/kpod-loader /kpod-loader
COPY LICENSE /LICENSE
# Capabilities are in force at the start for uid 0 only; which ones, the manifest says.
USER 0:0
ENTRYPOINT ["/kpod-loader"]
