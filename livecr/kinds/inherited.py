"""Memory that a process still shares with its parent since fork(2), page by page, until one of them writes.

Found by the frames of the pages (/proc/PID/pagemap). Such pages are not stored a second time: at restore the
process is born of its parent when that has its memory, and keeps them. Called by process and memory.
"""

from __future__ import annotations

import os

from livecr._native import lib
from livecr.errors import BadImage
from livecr.image.record import Record
from livecr.kernel import procfs
from livecr.kinds.pages import Runs
from livecr.target.program import Program

TYPE_CHECKING = False
if TYPE_CHECKING:
    from livecr.kernel.procfs import Mapping
    from livecr.kinds.memory import Memory
    from livecr.target.spawn import Seed

__all__ = ["Inherited", "drop_the_rest", "keep", "save"]

_MADV_DONTNEED = 4
_USER_END = 0x7FFFFFFFF000
#: VmFlags in which the VMAs of parent and child must agree, besides what maps tells; permissions may differ.
_DECISIVE = frozenset({"gd", "nr", "dp", "ac", "dc", "wf"})
_CALLS_AT_ONCE = 1000


class Inherited(Record):
    """A mapping that parent and child have alike, and the runs of pages in it that are the parent's."""

    start: int
    end: int
    runs: list[list[int]]


def save(
    pid: int, mappings: list[Mapping], parent: int, parents: list[Mapping]
) -> tuple[list[Inherited], Runs]:
    """Of a frozen process and its frozen parent: by mapping for the manifest, and all runs."""
    alike = {_identity(m) for m in parents if not m.shared}
    mine = os.open(procfs.path(pid, "pagemap"), os.O_RDONLY | os.O_CLOEXEC)
    theirs = os.open(procfs.path(parent, "pagemap"), os.O_RDONLY | os.O_CLOEXEC)
    found, runs = [], Runs()

    def common(pagemap: int, *args: object) -> int:
        return int(lib.lcr_common_pages(pagemap, theirs, *args))

    try:
        for m in mappings:
            if not m.shared and m.end <= _USER_END and _identity(m) in alike:
                before = runs.count
                runs.scan(common, mine, m.start, m.end)
                if runs.count > before:
                    pairs = [[start, end] for start, end in runs.pairs(before)]
                    found.append(Inherited(start=m.start, end=m.end, runs=pairs))
    finally:
        os.close(mine)
        os.close(theirs)
    return found, runs


def _identity(m: Mapping) -> tuple[object, ...]:
    return m.start, m.end, m.offset, m.device, m.inode, m.name, frozenset(m.flags) & _DECISIVE


# -- loading -----------------------------------------------------------------------------------------------


def keep(
    inherited: list[Inherited], memory: Memory, parents: Memory | None, seed: Seed
) -> set[tuple[int, int]]:
    """Unmap all that a newly born process has but what it inherits: the mappings that stay, as (start, end).

    The kernel's own ones stay where the parent has them at the same place. ``parents``: the memory that it
    was born with, None for a process that was made empty.
    """
    if parents is None:
        if inherited:
            raise BadImage("it inherits memory of no parent", where=f"process {seed.pid}")
        return set()
    there = {(v.start, v.end) for v in parents.vmas}
    staying = {(i.start, i.end) for i in inherited}
    own = {(v.start, v.end) for v in memory.vmas if v.kind != "kernel" and v.perms[3:4] == "p"}
    if not staying <= own & there:
        raise BadImage("it inherits what its parent does not have", where=f"process {seed.pid}")
    kernels = [{(v.start, v.end) for v in m.vmas if v.kind == "kernel"} for m in (memory, parents)]
    if kernels[0] == kernels[1]:
        staying |= kernels[0]
    program, at = Program(), 0
    limit = seed.task_size
    for start, end in [*sorted([*staying, seed.engine_range]), (limit, limit)]:
        if start > at:
            program.add("munmap", at, start - at)
        at = end
    seed.run(program)
    return staying


def drop_the_rest(inherited: list[Inherited], seed: Seed) -> None:
    """Of the mappings that stay, drop every page that is the parent's alone."""
    program = Program()
    for one in inherited:
        at = one.start
        for start, end in [*one.runs, [one.end, one.end]]:
            if not at <= start <= end <= one.end:
                raise BadImage("what it inherits is out of order", where=f"process {seed.pid}")
            if start > at:
                program.add("madvise", at, start - at, _MADV_DONTNEED)
            at = end
            if len(program) >= _CALLS_AT_ONCE:
                seed.run(program)
                program = Program()
    seed.run(program)
