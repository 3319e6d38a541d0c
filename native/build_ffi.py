"""The cffi extension ``livecr._native``: every native/ext/X.c with its declarations in native/ext/X.h.

A header in native/ext holds plain declarations only (no preprocessor lines), since cffi and the C
compiler both read it: there is one place where a native function is declared.
"""

from pathlib import Path

from cffi import FFI

ROOT = Path(__file__).resolve().parent.parent
EXT = ROOT / "native" / "ext"

builder = FFI()
headers = sorted(EXT.glob("*.h"))
for header in headers:
    builder.cdef(header.read_text())

builder.set_source(
    "livecr._native",
    '#include "declarations.inc"\n' + "\n".join(f'#include "{header.name}"' for header in headers),
    sources=[str(source.relative_to(ROOT)) for source in sorted(EXT.glob("*.c"))],
    include_dirs=[str(EXT)],
    libraries=["bpf", "elf", "z"],
    extra_compile_args=["-O2", "-Wall", "-Wextra", "-Werror", "-Wno-unused-parameter", "-std=gnu11"],
    py_limited_api=False,
)
