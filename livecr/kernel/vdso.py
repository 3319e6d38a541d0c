"""The vDSO: the code that the kernel maps into every process (vdso(7)).

An image is only good under a kernel with the same one: programs keep addresses in it. Called by kinds/memory.
"""

from __future__ import annotations

import os

from livecr._native import ffi, lib
from livecr.kernel import procfs

__all__ = ["NAME", "digest", "digest_of"]

NAME = "[vdso]"  # in maps

_digest: str | None = None


# Where in an ELF32 header e_phoff, e_phentsize and e_phnum are, and the bytes of each (elf(5)).
_PHOFF, _PHENTSIZE, _PHNUM = (28, 4), (42, 2), (44, 2)
_P_OFFSET, _P_FILESZ = 4, 16  # in a program header


def digest_of(content: bytes) -> str:
    """The same of a 32-bit vDSO as a process has it; what stands behind its segments is not the kernel's."""

    def word(at: int, size: int = 4) -> int:
        return int.from_bytes(content[at : at + size], "little")

    table, size = word(*_PHOFF), word(*_PHENTSIZE)
    headers = [table + i * size for i in range(word(*_PHNUM))]
    end = max((word(at + _P_OFFSET) + word(at + _P_FILESZ) for at in headers), default=0)
    return f"{lib.lcr_xxh3(content[:end], min(end, len(content))):016x}"


def digest() -> str:
    """XXH3-64, in hex, of the vDSO that this kernel gives to every process; "" where it gives none."""
    global _digest
    if _digest is None:
        own = procfs.mappings(os.getpid(), with_flags=False)
        vdso = next((m for m in own if m.path == NAME), None)
        size = vdso.end - vdso.start if vdso else 0
        _digest = f"{lib.lcr_xxh3(ffi.cast('void *', vdso.start), size):016x}" if vdso else ""
    return _digest
