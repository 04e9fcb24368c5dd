"""The description of aggregator._native for cffi's API mode; setup.py builds it."""

import re
from pathlib import Path

from cffi import FFI

# From the project's root: setuptools refuses absolute paths, as a source distribution has none.
HERE = Path("aggregator/native")
SHARED = Path("shared")

# Of the reader, what Python looks at; the C compiler fills in the dots and checks the rest.
READER = """
enum kpod_reader_state { KPOD_ABSENT, KPOD_INCOMPATIBLE, KPOD_LIVE, KPOD_STALE, KPOD_REPLACED,
    KPOD_CLOSED, ... };
enum kpod_fault { KPOD_FAULT_NONE, KPOD_FAULT_SCHEMA, ... };

struct kpod_header {
    uint64_t generation;
    uint64_t start_realtime_ns;
    uint64_t interval_ns;
    uint32_t schema_size;
    uint64_t segment_size;
    ...;
};

struct kpod_reader {
    enum kpod_reader_state state;
    enum kpod_fault fault;
    struct kpod_header header;
    uint8_t *schema;
    uint64_t laps;
    uint64_t *data;
    uint64_t end;
    ...;
};

const char *kpod_state_name(enum kpod_reader_state state);
const char *kpod_fault_text(enum kpod_fault fault);
void kpod_reader_init(struct kpod_reader *r, const char *path);
enum kpod_reader_state kpod_reader_refresh(struct kpod_reader *r, uint64_t monotonic_ns);
bool kpod_reader_has_news(const struct kpod_reader *r, uint64_t monotonic_ns);
void kpod_reader_reject(struct kpod_reader *r, enum kpod_fault fault);
void kpod_reader_close(struct kpod_reader *r);
"""

MALLOC = """
#define M_MMAP_THRESHOLD ...
int mallopt(int param, int value);
void *aligned_alloc(size_t alignment, size_t size);
void free(void *memory);
"""


def builder() -> FFI:
    """The description of the extension."""
    header = (HERE / "native.h").read_text()
    header = re.sub(r"(?m)^#(if|endif|include|define KPOD_NATIVE_H).*$", "", header)
    ffi = FFI()
    ffi.cdef(MALLOC + READER + header)
    ffi.set_source(
        "aggregator._native",
        '#include <malloc.h>\n#include <stdlib.h>\n#include "native.h"\n',
        sources=[
            *(str(HERE / name) for name in ("confine.c", "history.c", "render.c", "snapshot.c")),
            *(str(SHARED / name) for name in ("abi.c", "crc32c.c", "reader.c")),
        ],
        include_dirs=[str(HERE)],
        libraries=["seccomp"],
        extra_compile_args=["-std=gnu11", "-O2", "-Wall", "-Wextra", "-Werror"],
    )
    return ffi
