"""Memory protection keys, pkeys(7): which a process has allocated, and which of them each mapping has.

Which are allocated the kernel tells to pkey_mprotect only: before it looks for the mapping it refuses a key
that is not (mm/mprotect.c, do_mprotect_pkey). What a key forbids is in the PKRU register, with the FPU state.
Called by process.
"""

from __future__ import annotations

from livecr.target.program import Program

TYPE_CHECKING = False
if TYPE_CHECKING:
    from livecr.kernel.procfs import Mapping
    from livecr.kinds.memory import Memory
    from livecr.target.engine import Borrowed
    from livecr.target.spawn import Seed

__all__ = ["load", "save", "save_mapped"]

_KEYS = range(1, 16)  # 0 is everybody's
_NOWHERE = 0x7FFFFFFFF000  # the end of user space: nothing is ever mapped there
_PAGE = 4096
_ENOMEM = -12
_BITS = (("r", 1), ("w", 2), ("x", 4))


def save(borrowed: Borrowed, mappings: list[Mapping], *, confined: bool) -> list[int]:
    """The keys that are allocated; those in use if the process has filters, which may forbid to ask."""
    if borrowed.registers.is_compat:
        return []  # 32-bit programs have no such call
    if confined:
        return sorted({m.protection_key for m in mappings} - {0})
    program = Program()
    for key in _KEYS:
        program.add("pkey_mprotect", _NOWHERE, _PAGE, 0, key, must=False)
    results = borrowed.run(program)
    return [key for key, result in zip(_KEYS, results, strict=True) if result == _ENOMEM]


def save_mapped(mappings: list[Mapping]) -> list[list[int]]:
    """Of the mappings with a key of their own: start, end and key."""
    return [[m.start, m.end, m.protection_key] for m in mappings if m.protection_key]


def load(allocated: list[int], mapped: list[list[int]], memory: Memory, seed: Seed) -> None:
    """Allocate the same keys, and give them to their mappings, whose pages are in place."""
    if not allocated:
        return
    program = Program()
    for _ in range(max(allocated)):
        program.add("pkey_alloc", 0, 0)
    got = seed.run(program)
    program = Program()
    for key in got:
        if key not in allocated:
            program.add("pkey_free", key)
    protections = {v.start: sum(bit for letter, bit in _BITS if letter in v.perms) for v in memory.vmas}
    for start, end, key in mapped:
        if key in allocated:
            program.add("pkey_mprotect", start, end - start, protections[start], key)
    seed.run(program)
