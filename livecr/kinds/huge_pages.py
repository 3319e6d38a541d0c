"""Huge pages for memory that is being filled: made elsewhere, then moved into place.

Faulting 512 small pages in takes longer than copying their content. MADV_HUGEPAGE would have the kernel make
huge ones, but its flag on a mapping cannot be taken away again; so another mapping has it, and UFFDIO_MOVE
(6.8) moves the pages over, which changes page tables and copies nothing. Called by kinds/pages.
"""

from __future__ import annotations

import os

from livecr._native import ffi, lib
from livecr.target.program import Program

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from livecr.image.elfcore import Core
    from livecr.kinds.memory import Memory
    from livecr.target.spawn import Seed

__all__ = ["Huge", "move", "places", "prepare"]

_HUGE_BYTES = 2 << 20  # PMD_SIZE
_PROGRAM_CALLS = 1000
_PROT_READ_WRITE = 3
_MAP_PRIVATE_ANONYMOUS_FIXED = 0x100022  # MAP_FIXED_NOREPLACE
_MADV_HUGEPAGE = 14
# Not for these VmFlags: locked, no huge pages wanted, droppable, grows downwards.
_NOT_PLAIN = {"lo", "nh", "dp", "gd"}

# <linux/userfaultfd.h>
UFFD_API = 0xAA
UFFDIO_API, UFFDIO_REGISTER, UFFDIO_MOVE = 0xC018AA3F, 0xC020AA00, 0xC028AA05
_MODE_MISSING = 1


class Huge:
    """Whole huge pages of anonymous memory: filled at ``there``, then moved to ``start`` … ``end``."""

    def __init__(self, start: int, end: int, there: int) -> None:
        self.start = start
        self.end = end
        self.there = there


def prepare(core: Core, memory: Memory, seed: Seed) -> list[Huge]:
    """Map memory in which the kernel makes huge pages, for the parts of runs that will fill some."""
    ranges = _huge_ranges(core, memory)
    total = sum(end - start for start, end in ranges)
    if not total or not _allowed() or not lib.lcr_can_move_pages():
        return []
    taken = [(vma.start, vma.end) for vma in memory.vmas]
    base = -(-seed.free_range(taken, total + _HUGE_BYTES) // _HUGE_BYTES) * _HUGE_BYTES
    program = Program()
    program.add("mmap", base, total, _PROT_READ_WRITE, _MAP_PRIVATE_ANONYMOUS_FIXED, -1, 0)
    program.add("madvise", base, total, _MADV_HUGEPAGE, must=False)
    seed.run(program)
    seed.borrowed.append((base, base + total))
    found = []
    for start, end in ranges:
        found.append(Huge(start, end, base))
        base += end - start
    return found


def _allowed() -> bool:
    """Whether this machine wants huge pages at all (Documentation/admin-guide/mm/transhuge.rst)."""
    try:
        with open("/sys/kernel/mm/transparent_hugepage/enabled", encoding="ascii") as file:
            return "[never]" not in file.read()
    except OSError:
        return False


def _huge_ranges(core: Core, memory: Memory) -> list[tuple[int, int]]:
    """The parts of runs that are whole huge pages of plain read-write anonymous memory."""
    found = []
    runs, at = core.runs, 0
    for vma in memory.vmas:
        plain = vma.kind == "anonymous" and vma.perms == "rw-p" and not _NOT_PLAIN.intersection(vma.flags)
        while at < core.run_count and runs[at].start < vma.end:
            start = -(-runs[at].start // _HUGE_BYTES) * _HUGE_BYTES
            end = runs[at].end // _HUGE_BYTES * _HUGE_BYTES
            if plain and start < end:
                found.append((start, end))
            at += 1
    return found


def places(core: Core, huge: list[Huge]) -> Any:
    """The runs, with the parts that go elsewhere first taken out of them: ``struct lcr_run[]``."""
    if not huge:
        return core.runs
    split: list[tuple[int, int, int]] = []
    parts = iter([*huge, None])
    part = next(parts)
    for i in range(core.run_count):
        run = core.runs[i]
        at, offset = run.start, run.offset
        while part is not None and part.start < run.end:
            split.append((at, part.start, offset + at - run.start))
            split.append((part.there, part.there + part.end - part.start, offset + part.start - run.start))
            at, part = part.end, next(parts)
        split.append((at, run.end, offset + at - run.start))
    return ffi.new("struct lcr_run[]", [place for place in split if place[0] < place[1]])


def move(huge: list[Huge], seed: Seed) -> None:
    """UFFDIO_MOVE (6.8) in the target: page tables change, nothing is copied."""
    if not huge:
        return
    program = Program()
    program.add("userfaultfd", os.O_CLOEXEC)
    (uffd,) = seed.run(program)
    program = Program()
    program.add("ioctl", uffd, UFFDIO_API, seed.put(_words(UFFD_API, 0, 0)))
    for part in huge:
        size = part.end - part.start
        program.add("ioctl", uffd, UFFDIO_REGISTER, seed.put(_words(part.start, size, _MODE_MISSING, 0)))
        program.add("ioctl", uffd, UFFDIO_MOVE, seed.put(_words(part.start, part.there, size, 0, 0)))
        if len(program) > _PROGRAM_CALLS:
            seed.run(program)
            program = Program()
    program.add("munmap", huge[0].there, sum(part.end - part.start for part in huge))
    program.add("close", uffd)  # the last descriptor of it: the kernel forgets the registrations
    seed.run(program)


def _words(*values: int) -> bytes:
    return b"".join(value.to_bytes(8, "little") for value in values)
