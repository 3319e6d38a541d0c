"""ELF64 core files: how a process' memory and registers lie in the image; gdb and readelf read them too.

A core is: ELF header, program headers, (section 0), notes, padding to a page, then all stored pages without
a hole. Relies on elf(5) and, for more than 65534 program headers, on the PN_XNUM rule of Linux' own cores.
Called by livecr.kinds.memory and by whoever restores; the pages themselves are written by integrity.NewImage.
"""

from __future__ import annotations

import os
from struct import Struct

from livecr._native import ffi, lib
from livecr.errors import BadImage
from livecr.image import notes
from livecr.image.notes import Process, Thread

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import TracebackType
    from typing import Any

__all__ = ["Core", "Layout", "Mapping", "Process", "Thread", "layout"]

PAGE_BYTES = 4096
_EHDR = Struct("<16sHHIQQQIHHHHHH")
_PHDR = Struct("<IIQQQQQQ")
_SHDR = Struct("<IIQQQQIIQQ")
_IDENT = b"\x7fELF\x02\x01\x01".ljust(16, b"\0")  # 64 bits, little-endian, version 1, System V
_ET_CORE = 4
_EM_X86_64 = 62
_PT_LOAD = 1
_PT_NOTE = 4
_PN_XNUM = 0xFFFF  # the true number is in section 0's sh_info
_PHDR_WORDS = _PHDR.size // 8
_ADDRESS_END = 1 << 56  # five-level page tables end here
_HEAD_BYTES_MAX = 1 << 30  # so that a damaged count does not ask for all memory


class Mapping:
    """One mapping: ``prot`` as of mmap(2), ``path`` empty unless it is a file's, ``offset`` in bytes."""

    __slots__ = ("end", "offset", "path", "prot", "start")

    def __init__(self, start: int, end: int, prot: int, path: str = "", offset: int = 0) -> None:
        self.start = start
        self.end = end
        self.prot = prot
        self.path = path
        self.offset = offset


class Layout:
    """A core file about to be written: ``head`` is all before the pages, ``size`` the whole file in bytes.

    ``runs`` is a ``struct lcr_run[]`` with the offsets filled in, ``run_count`` how many of it count.
    """

    __slots__ = ("head", "run_count", "runs", "size")

    def __init__(self, head: bytes, runs: Any, run_count: int, size: int) -> None:
        self.head = head
        self.runs = runs
        self.run_count = run_count
        self.size = size


def layout(
    process: Process,
    threads: Sequence[Thread],
    mappings: Sequence[Mapping],
    runs: Any,
    run_count: int | None = None,
) -> Layout:
    """Say where everything lies in the core file.

    ``runs``: what to store, ascending, each inside one mapping; a ``struct lcr_run[]`` (its offsets are
    filled in, the first ``run_count`` are taken) or a list of (start, end). Raises ValueError if they
    are not.
    """
    if isinstance(runs, list):
        runs = ffi.new("struct lcr_run[]", [(start, end, 0) for start, end in runs])
    count = len(runs) if run_count is None else run_count
    vmas = ffi.new("struct lcr_vma[]", [(vma.start, vma.end, vma.prot, 0) for vma in mappings])
    loads = lib.lcr_core_headers(vmas, len(vmas), runs, count, 0, ffi.NULL)
    if loads < 0:
        raise ValueError("runs and mappings must ascend, and each run lie inside one mapping")
    note_segment = notes.pack(process, threads, mappings)
    extended = loads + 1 >= _PN_XNUM
    notes_at = _EHDR.size + (loads + 1) * _PHDR.size + (_SHDR.size if extended else 0)
    data_at = -(-(notes_at + len(note_segment)) // PAGE_BYTES) * PAGE_BYTES

    head = bytearray(data_at)
    section_at = notes_at - _SHDR.size if extended else 0
    _EHDR.pack_into(
        *(head, 0, _IDENT, _ET_CORE, _EM_X86_64, 1, 0, _EHDR.size, section_at, 0, _EHDR.size, _PHDR.size),
        *((_PN_XNUM, _SHDR.size, 1, 0) if extended else (loads + 1, 0, 0, 0)),
    )
    _PHDR.pack_into(head, _EHDR.size, _PT_NOTE, 0, notes_at, 0, 0, len(note_segment), 0, 4)
    table = ffi.from_buffer(memoryview(head)[_EHDR.size + _PHDR.size :]) if loads else ffi.NULL
    lib.lcr_core_headers(vmas, len(vmas), runs, count, data_at, table)
    if extended:
        _SHDR.pack_into(head, section_at, 0, 0, 0, 0, 0, 0, 0, loads + 1, 0, 0)
    head[notes_at : notes_at + len(note_segment)] = note_segment
    size = runs[count - 1].offset + runs[count - 1].end - runs[count - 1].start if count else data_at
    return Layout(bytes(head), runs, count, size)


class Core:
    """A core file of an image, read and found sound.

    ``runs``: ``struct lcr_run[run_count]``, ascending in memory and in the file. ``threads`` in the order of
    the file. ``fd``: open for reading the pages from.
    """

    __slots__ = ("auxv", "fd", "run_count", "runs", "size", "threads", "where")

    def __init__(self, fd: int, where: str) -> None:
        """Takes over ``fd``. Raises BadImage (and closes it) unless all parts of the file are in place."""
        self.fd = fd
        self.where = where
        try:
            self.size = os.fstat(fd).st_size
            self._read()
        except OSError as error:
            self.close()
            raise BadImage(f"reading it: {error.strerror}", where=where) from None
        except BaseException:
            self.close()
            raise

    @classmethod
    def open(cls, path: str) -> Core:
        """Open a core file by its path; a symbolic link is refused. Raises BadImage."""
        try:
            return cls(os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK), path)
        except OSError as error:
            raise BadImage(f"opening it: {error.strerror}", where=path) from None

    def __enter__(self) -> Core:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close ``fd``; twice does no harm."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def _read(self) -> None:
        count, table_at = self._table()
        table = self._bytes(table_at, count * _PHDR.size, "its program headers")
        kind, _, notes_at, _, _, note_bytes, _, _ = _PHDR.unpack_from(table)
        if kind != _PT_NOTE:
            raise BadImage("its first program header is not the notes", where=self.where)
        self._loads(table)
        self.threads, self.auxv = notes.unpack(self._bytes(notes_at, note_bytes, "its notes"), self.where)

    def _table(self) -> tuple[int, int]:
        """How many program headers there are, and where."""
        header = _EHDR.unpack(self._bytes(0, _EHDR.size, "its ELF header"))
        ident, kind, machine, version, _, table_at, section_at, _, _, entry_bytes, count, _, _, _ = header
        if ident != _IDENT or (kind, machine, version, entry_bytes) != (_ET_CORE, _EM_X86_64, 1, _PHDR.size):
            raise BadImage("it is not an ELF core file for x86-64", where=self.where)
        if count == _PN_XNUM:
            section = _SHDR.unpack(self._bytes(section_at, _SHDR.size, "its section header"))
            count = section[7]
        if not count:
            raise BadImage("it has no program headers", where=self.where)
        return count, table_at

    def _loads(self, table: bytes) -> None:
        """Fill ``runs`` from the PT_LOAD entries that have bytes in the file."""
        from array import array  # brings collections.abc, which a checkpoint has no use for
        from operator import add, le

        # A program header is seven words; columns of them are quick also for a hundred thousand.
        words = array("Q", table[_PHDR.size :])
        kinds = words[0::_PHDR_WORDS]
        if any(word & 0xFFFFFFFF != _PT_LOAD for word in set(kinds)):
            raise BadImage("it has a program header that is neither notes nor memory", where=self.where)
        offsets, starts = words[1::_PHDR_WORDS], words[2::_PHDR_WORDS]
        stored, sizes = words[4::_PHDR_WORDS], words[5::_PHDR_WORDS]
        ends = list(map(add, starts, sizes))
        if any(word % PAGE_BYTES for column in (starts, sizes, offsets, stored) for word in column):
            raise BadImage("a range of memory does not lie on page boundaries", where=self.where)
        if not all(map(le, ends, starts[1:])) or not all(sizes) or (ends and ends[-1] > _ADDRESS_END):
            raise BadImage("its ranges of memory overlap or are out of order", where=self.where)
        runs = [
            (start, end, offset)
            for start, end, offset, bytes_, size in zip(starts, ends, offsets, stored, sizes, strict=True)
            if bytes_ and (bytes_ == size or self._cut(start))
        ]
        at = runs[0][2] if runs else self.size
        for start, end, offset in runs:
            if offset != at:
                raise BadImage(f"the pages at {start:#x} lie elsewhere than they should", where=self.where)
            at += end - start
        if at != self.size:
            raise BadImage("it is longer or shorter than its program headers say", where=self.where)
        self.runs = ffi.new("struct lcr_run[]", runs)
        self.run_count = len(runs)

    @property
    def head_bytes(self) -> int:
        """How much comes before the pages."""
        return int(self.runs[0].offset) if self.run_count else self.size

    def _cut(self, start: int) -> bool:
        raise BadImage(f"the memory at {start:#x} is stored in part only", where=self.where)

    def _bytes(self, at: int, size: int, what: str) -> bytes:
        if at + size > self.size or size > _HEAD_BYTES_MAX:
            raise BadImage(f"{what} would lie outside the file", where=self.where)
        content = os.pread(self.fd, size, at)
        if len(content) != size:
            raise BadImage(f"{what} cannot be read: the file is cut short", where=self.where)
        return content
