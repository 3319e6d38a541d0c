"""The pages that travel in the core file: what private mappings hold of their own, and shared anonymous ones.

Relies on PAGEMAP_SCAN for private pages (terabytes of nothing cost nothing) and on SEEK_DATA for shared
memory, whose pages exist without being mapped. Loading is preadv in the target itself, by as many tasks as
there are CPUs: the kernel copies from the page cache straight into place.
"""

from __future__ import annotations

import os

from livecr._native import ffi, lib
from livecr.errors import Failed
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
_IOVECS = 1024  # UIO_MAXIOV
_CALL_BYTES_MAX = 1 << 28  # per preadv; the kernel's own limit is just under 2 GiB
_HUGE_BYTES = 2 << 20  # PMD_SIZE
_MADV_COLLAPSE = 25
_PARALLEL_BYTES = 4 << 20  # less than this is loaded sooner than another thread is made


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
            larger = ffi.new("struct lcr_run[]", 4 * len(self.native))
            ffi.memmove(larger, self.native, self.count * ffi.sizeof("struct lcr_run"))
            self.native = larger

    def pairs(self) -> list[tuple[int, int]]:
        """As (start, end)."""
        return [(self.native[i].start, self.native[i].end) for i in range(self.count)]


def stored(pid: int, mappings: list[Mapping]) -> Runs:
    """Which pages of a frozen process have to travel."""
    runs = Runs()
    pagemap = os.open(f"/proc/{pid}/pagemap", os.O_RDONLY | os.O_CLOEXEC)
    try:
        for m in mappings:
            if m.path in ("[vvar]", "[vvar_vclock]", "[vdso]", "[vsyscall]"):
                continue
            if not m.shared:
                # Of anonymous memory every page counts, which is told sooner than whose a file's page is.
                how = lib.lcr_scan_private if m.path.startswith("/") else lib.lcr_scan_anonymous
                runs.scan(how, pagemap, m.start, m.end)
            elif m.path == "/dev/zero (deleted)":
                for start, end in _shared_extents(pid, m):
                    runs.add(start, end)
    finally:
        os.close(pagemap)
    return runs


def _shared_extents(pid: int, m: Mapping) -> list[tuple[int, int]]:
    """Where the part of the shmem object that ``m`` shows has pages, as addresses."""
    fd = os.open(f"/proc/{pid}/map_files/{m.start:x}-{m.end:x}", os.O_RDONLY | os.O_CLOEXEC)
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
    pagemap = os.open(f"/proc/{pid}/pagemap", os.O_RDONLY | os.O_CLOEXEC)
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


def load(core: Core, memory: Memory, seed: Seed) -> None:
    """Read every stored page into its place. Raises Failed if the file gives less than it promised."""
    if not core.run_count:
        return
    if _huge_pages_allowed():
        _make_huge_pages(core, memory, seed)
    first = core.runs[0].offset
    last = core.runs[core.run_count - 1]
    end = last.offset + last.end - last.start
    workers = [seed.leader]
    if end - first > _PARALLEL_BYTES:
        workers += [seed.add_thread() for _ in range(len(os.sched_getaffinity(0)) - 1)]
    try:
        _load(core, seed, workers, first, end)
    finally:
        for task in workers[1:]:
            seed.end_thread(task)


def _huge_pages_allowed() -> bool:
    """Whether this machine wants huge pages at all (Documentation/admin-guide/mm/transhuge.rst)."""
    try:
        with open("/sys/kernel/mm/transparent_hugepage/enabled", encoding="ascii") as file:
            return "[never]" not in file.read()
    except OSError:
        return False


def _make_huge_pages(core: Core, memory: Memory, seed: Seed) -> None:
    """Where whole huge pages of anonymous memory will be filled, have the kernel make them at once.

    Faulting 512 small pages in takes longer than reading their content. MADV_COLLAPSE leaves no flag on the
    mapping; but it wants a page table to be there, so the first page of each is written to before.
    """
    ranges = _huge_ranges(core, memory)
    starts = [at for start, end in ranges for at in range(start, end, _HUGE_BYTES)]
    fd, first = seed.fetch([core.fd])[core.fd], core.runs[0].offset
    for i in range(0, len(starts), _IOVECS):
        some = starts[i : i + _IOVECS]
        pairs = b"".join(at.to_bytes(8, "little") + _PAGE_BYTES.to_bytes(8, "little") for at in some)
        program = Program()
        program.add("preadv", fd, seed.put(pairs), len(some), first, 0)
        seed.run(program)
    program = Program()
    for start, end in ranges:
        program.add("madvise", start, end - start, _MADV_COLLAPSE, must=False)
    seed.run(program)


def _huge_ranges(core: Core, memory: Memory) -> list[tuple[int, int]]:
    """The parts of runs that are whole huge pages of private anonymous mappings which do not forbid them."""
    found = []
    runs, at = core.runs, 0
    for vma in memory.vmas:
        while at < core.run_count and runs[at].start < vma.end:
            start = -(-runs[at].start // _HUGE_BYTES) * _HUGE_BYTES
            end = runs[at].end // _HUGE_BYTES * _HUGE_BYTES
            if start < end and vma.kind == "anonymous" and "nh" not in vma.flags:
                found.append((start, end))
            at += 1
    return found


def _load(core: Core, seed: Seed, workers: list[Any], first: int, end: int) -> None:
    """All workers read at the same time, each its own slice of the file, round by round."""
    fd = seed.fetch([core.fd])[core.fd]
    iovecs = ffi.new("uint64_t[]", 2 * _IOVECS)
    after = ffi.new("uint64_t *")
    share = min(_CALL_BYTES_MAX, -(-(end - first) // len(workers) // _PAGE_BYTES) * _PAGE_BYTES)
    at = first
    while at < end:
        seed.reset_scratch()
        tasks, calls, wanted = [], [], []
        for task in workers:
            if at >= end:
                break
            limit = min(end, at + share)
            count = lib.lcr_iovecs(core.runs, core.run_count, at, limit, iovecs, _IOVECS, after)
            where = seed.put(bytes(ffi.buffer(iovecs, 16 * count)))
            tasks.append(task)
            calls.append(("preadv", (fd, where, count, at, 0)))
            wanted.append(after[0] - at)
            at = after[0]
        got = seed.run_each(tasks, calls)
        if got != wanted:
            raise Failed("the core file ends too soon", where=core.where)
