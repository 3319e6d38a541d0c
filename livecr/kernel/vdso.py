"""The vDSO: the code that the kernel maps into every process (vdso(7)).

An image is only good under a kernel with the same one: programs keep addresses in it. Called by kinds/memory.
"""

from __future__ import annotations

import os

from livecr._native import ffi, lib
from livecr.kernel import procfs

__all__ = ["NAME", "digest"]

NAME = "[vdso]"  # in maps

_digest: str | None = None


def digest() -> str:
    """XXH3-64, in hex, of the vDSO that this kernel gives to every process; "" where it gives none."""
    global _digest
    if _digest is None:
        own = procfs.mappings(os.getpid(), with_flags=False)
        vdso = next((m for m in own if m.path == NAME), None)
        size = vdso.end - vdso.start if vdso else 0
        _digest = f"{lib.lcr_xxh3(ffi.cast('void *', vdso.start), size):016x}" if vdso else ""
    return _digest
