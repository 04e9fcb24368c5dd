# kpod-metrics. `make run` and `make test` do all their own set-up on Debian 12.

SHELL := /bin/bash
.DEFAULT_GOAL := all
.DELETE_ON_ERROR:

B := build
VENV := .venv
PY := $(VENV)/bin/python
SUDO := $(if $(filter 0,$(shell id -u)),,sudo)

APT_BUILD := clang llvm gcc libbpf-dev libelf-dev zlib1g-dev libmsgpack-dev linux-libc-dev \
	python3 python3-venv python3-dev util-linux
APT_TEST := clang-format libcmocka-dev protobuf-compiler runc strace
APT_BENCH := libbpf-tools bpftool

ARCH_x86_64 := x86
ARCH_aarch64 := arm64
ARCH ?= $(ARCH_$(shell uname -m))
CLANG ?= clang
LLVM_STRIP ?= llvm-strip

WARN := -Wall -Wextra -Werror
CFLAGS ?= -O2 -g
CFLAGS += -std=gnu11 $(WARN)
BPF_CFLAGS := -g -O2 -target bpf -mcpu=v3 -D__TARGET_ARCH_$(ARCH) $(WARN) \
	-Wno-unused-parameter # BPF_PROG() always has ctx
LDLIBS := -lbpf -lelf -lz -lmsgpackc

BPF_OBJECTS := $(patsubst bpf/%.bpf.c,$(B)/bpf/%.bpf.o,$(wildcard bpf/*.bpf.c))
SHARED_C := shared/abi.c shared/crc32c.c shared/reader.c shared/writer.c
LOADER_C := $(wildcard loader/*.c loader/collectors/*.c) $(SHARED_C)
LOADER_O := $(LOADER_C:%.c=$(B)/%.o)
TEST_LOADER_O := $(LOADER_C:%.c=$(B)/testing/%.o)
C_SOURCES := $(wildcard bpf/*.[ch] loader/*.[ch] loader/*/*.[ch] shared/*.[ch] \
	aggregator/native/*.[ch] tests/*/*.[ch] tests/*/*/*.[ch])
PYTHON_SOURCES := aggregator tests

.PHONY: all run test test-c test-python check bench setup setup-test setup-bench native clean format

all: $(B)/kpod-loader native

# ---- set-up: only what is missing -------------------------------------------------------------

# $(call apt,PACKAGES)
define apt
@missing=$$(for p in $(1); do dpkg -s $$p >/dev/null 2>&1 || echo $$p; done); \
if [ -n "$$missing" ]; then \
	$(SUDO) apt-get update -qq && \
	DEBIAN_FRONTEND=noninteractive $(SUDO) apt-get install -y -qq --no-install-recommends \
		$$missing >/dev/null; \
fi
endef

setup:
	$(call apt,$(APT_BUILD))
	@$(MAKE) --no-print-directory $(VENV)/ready

setup-test: setup .cache/prometheus/usr/bin/promtool .cache/client-model/usr
	$(call apt,$(APT_TEST))
	@$(MAKE) --no-print-directory $(VENV)/ready-dev

setup-bench: setup-test
	$(call apt,$(APT_BENCH))

$(VENV)/ready: pyproject.toml
	/usr/bin/python3 -m venv $(VENV)
	$(VENV)/bin/pip install -q --disable-pip-version-check -e .
	touch $@

$(VENV)/ready-dev: $(VENV)/ready
	$(VENV)/bin/pip install -q --disable-pip-version-check -e '.[dev,otlp]'
	touch $@

# Unpacked, not installed: the package would start a server on our port.
.cache/prometheus/usr/bin/promtool: DEB := prometheus
# Of this, only io/prometheus/client/metrics.proto is wanted.
.cache/client-model/usr: DEB := golang-github-prometheus-client-model-dev

.cache/prometheus/usr/bin/promtool .cache/client-model/usr:
	mkdir -p .cache
	cd .cache && { apt-get download -qq $(DEB) || \
		{ $(SUDO) apt-get update -qq && apt-get download -qq $(DEB); }; }
	dpkg-deb -x .cache/$(DEB)_*.deb .cache/$(word 2,$(subst /, ,$@))
	touch $@

# ---- build ------------------------------------------------------------------------------------

$(B)/bpf/%.bpf.o: bpf/%.bpf.c $(wildcard bpf/*.h)
	@mkdir -p $(@D)
	@echo '  BPF  $@'
	@$(CLANG) $(BPF_CFLAGS) -c $< -o $@
	@$(LLVM_STRIP) -g $@

# A collector embeds its object.
$(foreach o,$(BPF_OBJECTS),$(eval \
	$(B)/loader/collectors/$(notdir $(o:.bpf.o=.o)) \
	$(B)/testing/loader/collectors/$(notdir $(o:.bpf.o=.o)): $(o)))

$(B)/testing/%.o: %.c
	@mkdir -p $(@D)
	@echo '  CC   $@'
	@$(CC) $(CFLAGS) -DKPOD_TESTING -MMD -Wa,-I$(B)/bpf -c $< -o $@

$(B)/%.o: %.c
	@mkdir -p $(@D)
	@echo '  CC   $@'
	@$(CC) $(CFLAGS) -MMD -Wa,-I$(B)/bpf -c $< -o $@

$(B)/kpod-loader: $(LOADER_O)
	@echo '  LD   $@'
	@$(CC) $(CFLAGS) $(LDFLAGS) $^ $(LDLIBS) -o $@

$(B)/kpod-loader-test: $(TEST_LOADER_O)
	@echo '  LD   $@'
	@$(CC) $(CFLAGS) $(LDFLAGS) $^ $(LDLIBS) -o $@

-include $(LOADER_O:.o=.d) $(TEST_LOADER_O:.o=.d)

native: $(B)/native.stamp
$(B)/native.stamp: $(VENV)/ready $(wildcard aggregator/native/*.[ch] aggregator/native/*.py shared/*.[ch])
	@mkdir -p $(B)
	$(PY) -m aggregator.native.build
	touch $@

# ---- run --------------------------------------------------------------------------------------

run: setup
	@$(MAKE) --no-print-directory all
	@$(SUDO) deploy/run-local

# ---- test -------------------------------------------------------------------------------------

CMOCKA := -lcmocka -lpthread -lm
SAN_address := -fsanitize=address,undefined -fno-sanitize-recover=all -fno-omit-frame-pointer
SAN_thread := -fsanitize=thread
TEST_C := $(patsubst tests/c/%.c,%,$(wildcard tests/c/test_*.c))
TEST_BIN := $(TEST_C:%=$(B)/c/plain/%) $(TEST_C:%=$(B)/c/address/%) $(B)/c/thread/test_ring

.SECONDEXPANSION:
$(B)/c/%: tests/c/$$(notdir $$*).c $(SHARED_C) $(wildcard shared/*.h bpf/*.h tests/c/*.h)
	@mkdir -p $(@D)
	@echo '  CC   $@'
	@$(CC) $(CFLAGS) $(SAN_$(notdir $(@D))) -Ishared -Ibpf -o $@ $< $(SHARED_C) $(CMOCKA)

test: setup-test
	@$(MAKE) --no-print-directory check test-c test-python

test-c: $(TEST_BIN)
	@for t in $^; do echo "== $$t"; $$t || exit 1; done

test-python: all $(B)/kpod-loader-test
	$(SUDO) $(PY) -m pytest -ra tests

check: all
	$(VENV)/bin/ruff check $(PYTHON_SOURCES)
	$(VENV)/bin/ruff format --check $(PYTHON_SOURCES)
	$(VENV)/bin/mypy
	clang-format --dry-run -Werror $(C_SOURCES)

format:
	$(VENV)/bin/ruff format $(PYTHON_SOURCES)
	clang-format -i $(C_SOURCES)

bench: setup-bench
	@$(MAKE) --no-print-directory all $(B)/bench/empty
	$(SUDO) $(PY) -m tests.bench

$(B)/bench/empty.bpf.o: tests/bench/empty.bpf.c
	@mkdir -p $(@D)
	$(CLANG) $(BPF_CFLAGS) -Ibpf -c $< -o $@

$(B)/bench/empty: tests/bench/empty.c $(B)/bench/empty.bpf.o
	$(CC) $(CFLAGS) -o $@ $< -lbpf

clean:
	rm -rf $(B) aggregator/*.so
