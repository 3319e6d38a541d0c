"""The pages that travel in the core file: what private mappings hold of their own, and shared anonymous ones.

Relies on PAGEMAP_SCAN for private pages (terabytes of nothing cost nothing) and on SEEK_DATA for shared
memory, whose pages exist without being mapped. Loading is done by the filler (native/seed/fill.c), which runs
in the half-built process itself: preadv(2) copies from the page cache straight into place.
"""

from __future__ import annotations

import os

from livecr._native import ffi, lib
from livecr.errors import Failed
from livecr.image.integrity import CHUNK_BYTES
from livecr.kernel import procfs
from livecr.kernel.async_io import AIO_PATH, RING_PATH
from livecr.kinds import huge_pages
from livecr.target import blobs
from livecr.target.program import Program

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from livecr.image.elfcore import Core
    from livecr.kernel.procfs import Mapping
    from livecr.kinds.memory import Memory
    from livecr.target.spawn import Seed

__all__ = ["Runs", "guards", "holding", "load", "stored"]

_PAGE_BYTES = 4096
_PARALLEL_BYTES = 4 << 20  # less than this is loaded sooner than another thread is made
_PROT_READ, _PROT_WRITE, _PROT_EXEC = 1, 2, 4
_MAP_PRIVATE_ANONYMOUS_FIXED = 0x100022  # MAP_FIXED_NOREPLACE
_STACK_BYTES = 64 << 10


class Runs:
    """Runs of pages, ascending: the first ``count`` of ``native``, a ``struct lcr_run[]``."""

    def __init__(self) -> None:
        self.native: Any = ffi.new("struct lcr_run[]", 1024)
        self.count = 0

    def add(self, start: int, end: int) -> None:
        """Append one run."""
        self._room(1)
        run = self.native[self.count]
        run.start, run.end = start, end
        self.count += 1

    def scan(self, how: Any, pagemap: int, start: int, end: int) -> None:
        """Append what one of the native scans finds in [start, end). Raises OSError."""
        walk_end = ffi.new("uint64_t *")
        while start < end:
            self._room(64)
            free = len(self.native) - self.count
            found = how(pagemap, start, end, self.native + self.count, free, walk_end)
            if found < 0:
                raise OSError(-found, os.strerror(-found))
            self.count += found
            start = walk_end[0]

    def _room(self, wanted: int) -> None:
        if len(self.native) - self.count < wanted:
            larger = ffi.new("struct lcr_run[]", max(4 * len(self.native), self.count + wanted))
            ffi.memmove(larger, self.native, self.count * ffi.sizeof("struct lcr_run"))
            self.native = larger

    def without(self, others: Runs) -> Runs:
        """What is left when the pages of ``others`` are taken out."""
        left = Runs()
        left._room(self.count + others.count)
        left.count = lib.lcr_without(self.native, self.count, others.native, others.count, left.native)
        return left

    def pairs(self, first: int = 0) -> list[tuple[int, int]]:
        """As (start, end), from the run ``first`` on."""
        return [(self.native[i].start, self.native[i].end) for i in range(first, self.count)]


def stored(pid: int, mappings: list[Mapping], shared_stored: dict[int, list[tuple[int, int]]]) -> Runs:
    """Which pages of a frozen process have to travel.

    ``shared_stored``: by inode, the ranges of shared anonymous memory that another process of the tree has
    stored already; those stored now are added.
    """
    runs = Runs()
    pagemap = os.open(procfs.path(pid, "pagemap"), os.O_RDONLY | os.O_CLOEXEC)
    try:
        for m in mappings:
            if m.path in ("[vvar]", "[vvar_vclock]", "[vdso]", "[vsyscall]"):
                continue
            if not m.shared:
                # Of anonymous memory every page counts, which is told sooner than whose a file's page is.
                how = lib.lcr_scan_private if m.path.startswith("/") else lib.lcr_scan_anonymous
                runs.scan(how, pagemap, m.start, m.end)
            elif m.path in (RING_PATH, AIO_PATH):
                runs.add(m.start, m.end)
            elif m.path == "/dev/zero (deleted)":
                before = shared_stored.setdefault(m.inode, [])
                part = (m.offset, m.offset + m.end - m.start)
                if not any(start <= part[0] and part[1] <= end for start, end in before):
                    before.append(part)
                    for start, end in _shared_extents(pid, m):
                        runs.add(start, end)
    finally:
        os.close(pagemap)
    return runs


def _shared_extents(pid: int, m: Mapping) -> list[tuple[int, int]]:
    """Where the part of the shmem object that ``m`` shows has pages, as addresses."""
    fd = os.open(procfs.path(pid, f"map_files/{m.start:x}-{m.end:x}"), os.O_RDONLY | os.O_CLOEXEC)
    found = []
    limit = m.offset + m.end - m.start
    try:
        at = m.offset
        while at < limit:
            try:
                data = os.lseek(fd, at, os.SEEK_DATA)
            except OSError:  # ENXIO: nothing but a hole from here on
                break
            if data >= limit:
                break
            at = min(os.lseek(fd, data, os.SEEK_HOLE), limit)
            end = -(-at // _PAGE_BYTES) * _PAGE_BYTES
            found.append((m.start + data - m.offset, m.start + end - m.offset))
    finally:
        os.close(fd)
    return found


def guards(pid: int, mappings: list[Mapping]) -> list[tuple[int, int]]:
    """The ranges that MADV_GUARD_INSTALL made. Kernels that mark the VMA ("gu") need not be searched."""
    if not lib.lcr_has_guard_scan():
        return []
    marked = [m for m in mappings if "gu" in m.flags]
    if not marked:
        return []
    runs = Runs()
    pagemap = os.open(procfs.path(pid, "pagemap"), os.O_RDONLY | os.O_CLOEXEC)
    try:
        for m in marked:
            runs.scan(lib.lcr_scan_guards, pagemap, m.start, m.end)
    finally:
        os.close(pagemap)
    return runs.pairs()


# -- loading -----------------------------------------------------------------------------------------------


def holding(core: Core, memory: Memory) -> set[int]:
    """The start addresses of the VMAs that have stored pages: these must be writable while loading."""
    found = set()
    runs, at = core.runs, 0
    for vma in memory.vmas:
        while at < core.run_count and runs[at].start < vma.start:
            at += 1
        if at < core.run_count and runs[at].start < vma.end:
            found.add(vma.start)
    return found


def load(core: Core, memory: Memory, seed: Seed) -> list[int]:
    """Put every stored page into its place. Raises Failed if the file gives less than it promised.

    Returns the XXH3-64 of every chunk of the core file, made on the way.
    """
    huge = huge_pages.prepare(core, memory, seed)
    places = huge_pages.places(core, huge)
    workers = [seed.leader]
    if core.size - core.head_bytes > _PARALLEL_BYTES:
        workers += [seed.add_thread() for _ in range(len(os.sched_getaffinity(0)) - 1)]
    try:
        digests = _fill(core, memory, seed, places, workers)
    finally:
        for task in workers[1:]:
            seed.end_thread(task)
    huge_pages.move(huge, seed)
    return digests


def _fill(core: Core, memory: Memory, seed: Seed, places: Any, workers: list[Any]) -> list[int]:
    """Lend the process the filler, and memory for what that works with; run it; take both back."""
    code = blobs.read("fill-avx2.bin" if lib.lcr_has_avx2() else "fill.bin")
    chunks = -(-core.size // CHUNK_BYTES)
    table = bytes(ffi.buffer(places)) if core.run_count else b""
    sizes = [
        len(code),
        ffi.sizeof("struct lcr_fill"),
        len(table),
        8 * chunks,
        core.head_bytes,
        _STACK_BYTES * len(workers),
    ]
    rooms = [-(-size // _PAGE_BYTES) * _PAGE_BYTES for size in sizes]
    taken = [(vma.start, vma.end) for vma in memory.vmas]
    begin = seed.free_range([*taken, *seed.borrowed], sum(rooms))
    at = [begin + sum(rooms[:i]) for i in range(len(rooms))]
    told = ffi.new("struct lcr_fill *")
    told.fd = seed.fetch([core.fd])[core.fd]
    told.size, told.chunk_bytes, told.head_bytes = core.size, CHUNK_BYTES, core.head_bytes
    told.place_count, told.chunk_count = (len(places) if core.run_count else 0), chunks
    told.places, told.digests, told.head = at[2], at[3], at[4]
    mapping = Program()
    flags = _MAP_PRIVATE_ANONYMOUS_FIXED
    mapping.add("mmap", begin, rooms[0], _PROT_READ | _PROT_EXEC, flags, -1, 0)
    mapping.add("mmap", at[1], sum(rooms[1:]), _PROT_READ | _PROT_WRITE, flags, -1, 0)
    seed.run(mapping)
    seed.leader.write(begin, code)
    seed.leader.write(at[1], bytes(ffi.buffer(told)))
    seed.leader.write(at[2], table)
    seed.run_each(workers, begin, at[1], (at[5], _STACK_BYTES))
    ffi.memmove(told, seed.leader.read(at[1], ffi.sizeof("struct lcr_fill")), ffi.sizeof("struct lcr_fill"))
    if told.error:
        raise Failed(f"reading its pages: {os.strerror(-told.error)}", where=core.where)
    digests = seed.leader.read(at[3], 8 * chunks)
    unmapping = Program()
    unmapping.add("munmap", begin, sum(rooms))
    seed.run(unmapping)
    return [int.from_bytes(digests[8 * i : 8 * i + 8], "little") for i in range(chunks)]
