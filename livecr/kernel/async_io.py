"""io_uring instances and AIO contexts of a process, and their requests in flight, as the kernel has them.

Read by the BPF iterators of native/bpf/async.bpf.c, since nothing else tells them: fdinfo does not know
timeouts, reads from disk, eventfds or restrictions. Needs what kernel/bpf needs. Used by kinds/io_uring and
kinds/aio, only for programs that have any.
"""

from __future__ import annotations

import os

from livecr._native import ffi, lib
from livecr.kernel.bpf import Unavailable, switched_off

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

__all__ = [
    *("AIO_PATH", "RING_PATH", "AsyncIo", "Buffer", "Context", "Reader", "RegisteredFile", "Ring", "reader"),
]

#: How the kernel names the mappings of either, and the descriptors of io_uring.
RING_PATH, AIO_PATH = "anon_inode:[io_uring]", "/[aio] (deleted)"

OBJECT = os.path.join(os.path.dirname(os.path.dirname(__file__)), "native", "async.bpf.o")
_PROGRAMS = 3  # report_tasks, report_files, report_mappings
_TASK, _AIO, _FILE, _RING, _REGISTERED_FILE, _REGISTERED_BUFFER, _MAPPING = range(1, 8)
_ENOSPC = 28
_ROOM_BYTES = 64 << 10
_RING_FDS = 16  # IO_RINGFD_REG_MAX


class RegisteredFile:
    """A slot of a ring's file table: ``file`` is the kernel's address of the open file description."""

    __slots__ = ("file", "index", "tag")

    def __init__(self, index: int, tag: int, file: int) -> None:
        self.index = index
        self.tag = tag
        self.file = file


class Buffer:
    """A slot of a ring's buffer table. ``is_kernels``: it is no memory of the program's."""

    __slots__ = ("address", "index", "is_kernels", "size_bytes", "tag")

    def __init__(self, index: int, tag: int, address: int, size_bytes: int, is_kernels: int) -> None:
        self.index = index
        self.tag = tag
        self.address = address
        self.size_bytes = size_bytes
        self.is_kernels = bool(is_kernels)


#: The words of a RING report behind its descriptor, by their names (struct io_ring_ctx).
_RING_WORDS = (
    *("flags", "sq_entries", "cq_entries", "cached_sq_head", "cached_cq_tail", "submitter", "clockid"),
    *("eventfd", "eventfd_async", "file_slots", "buffer_slots", "file_alloc_start", "file_alloc_end"),
    *("restricted", "has_personalities", "has_provided_buffers", "has_zcrx", "has_timeouts"),
    *("has_overflown", "bounded_workers", "unbounded_workers", "napi_busy_poll_ns", "region_pages"),
)


class Ring:
    """struct io_ring_ctx. ``submitter`` and ``eventfd`` are addresses of the kernel, 0 for none."""

    __slots__ = (*_RING_WORDS, "buffers", "file", "files")

    if TYPE_CHECKING:
        flags: int
        sq_entries: int
        cq_entries: int
        cached_sq_head: int
        cached_cq_tail: int
        submitter: int
        clockid: int
        eventfd: int
        eventfd_async: int
        file_slots: int
        buffer_slots: int
        file_alloc_start: int
        file_alloc_end: int
        restricted: int
        has_personalities: int
        has_provided_buffers: int
        has_zcrx: int
        has_timeouts: int
        has_overflown: int
        bounded_workers: int
        unbounded_workers: int
        napi_busy_poll_ns: int
        region_pages: int

    def __init__(self, words: list[int]) -> None:
        for name, word in zip(_RING_WORDS, words, strict=True):
            setattr(self, name, word)
        self.file = 0
        self.files: list[RegisteredFile] = []
        self.buffers: list[Buffer] = []


class Context:
    """struct kioctx: ``address`` is its id, and where its ring is mapped."""

    __slots__ = ("address", "in_flight", "max_reqs")

    def __init__(self, address: int, max_reqs: int, in_flight: int) -> None:
        self.address = address
        self.max_reqs = max_reqs
        self.in_flight = in_flight


class AsyncIo:
    """What one process has. Addresses of the kernel only serve to tell which are the same.

    ``in_flight``: requests of io_uring by TID. ``tasks``: address of a task -> its TID. ``files``: descriptor
    -> address of its file, and ``private`` -> of its private_data. ``registered_rings``: by TID and index,
    the file. ``mappings``: start of a mapping of a ring -> the file.
    """

    def __init__(self) -> None:
        self.in_flight: dict[int, int] = {}
        self.tasks: dict[int, int] = {}
        self.registered_rings: dict[tuple[int, int], int] = {}
        self.contexts: list[Context] = []
        self.files: dict[int, int] = {}
        self.private: dict[int, int] = {}
        self.rings: dict[int, Ring] = {}  # by descriptor
        self.mappings: dict[int, int] = {}

    def take(self, kind: int, words: list[int]) -> None:
        """One report of the iterators."""
        if kind == _TASK:
            tid, self.tasks[words[1]] = words[0], words[0]
            self.in_flight[tid] = _signed(words[2])
            rings = words[3 : 3 + _RING_FDS]
            self.registered_rings |= {(tid, i): file for i, file in enumerate(rings) if file}
        elif kind == _AIO:
            self.contexts.append(Context(words[0], words[1], _signed(words[2])))
        elif kind == _FILE:
            self.files[words[0]], self.private[words[0]] = words[1:3]
        elif kind == _RING:
            self.rings[words[0]] = Ring(words[1:])
            self.rings[words[0]].file = self.files[words[0]]
        elif kind == _REGISTERED_FILE:
            self.rings[words[0]].files.append(RegisteredFile(*words[1:4]))
        elif kind == _REGISTERED_BUFFER:
            self.rings[words[0]].buffers.append(Buffer(*words[1:6]))
        elif kind == _MAPPING:
            self.mappings[words[0]] = words[1]


class Reader:
    """The loaded iterators; see ``reader``."""

    def __init__(self) -> None:
        """Raises Unavailable with the reason."""
        if switched_off("bpf"):
            raise Unavailable("switched off by LIVECR_WITHOUT")
        self._programs: Any = ffi.new("int[]", _PROGRAMS)
        result = lib.lcr_bpf_open_all(OBJECT.encode(), self._programs, _PROGRAMS)
        if result < 0:
            said = ffi.string(lib.lcr_bpf_message()).decode(errors="replace")
            raise Unavailable(f"{os.strerror(-result)}{f' ({said})' if said else ''}")

    def close(self) -> None:
        """Unload them."""
        for program in self._programs:
            lib.lcr_bpf_close(program)

    def read(self, pid: int) -> AsyncIo:
        """All of the process. Raises Unavailable where the kernel cannot."""
        told = AsyncIo()
        for program in self._programs:
            words = memoryview(_read_all(program, pid)).cast("Q")
            at = 0
            while at < len(words):
                count, kind = divmod(words[at], 1 << 32)
                told.take(kind, list(words[at + 1 : at + 1 + count]))
                at += 1 + count
        return told


_opened: list[Reader] = []


def reader() -> Reader:
    """The iterators, loaded once: that takes longer than a freeze may. Raises Unavailable."""
    if not _opened:
        _opened.append(Reader())
    return _opened[0]


def _read_all(program: int, pid: int) -> bytes:
    room = _ROOM_BYTES
    while True:
        buffer = ffi.new("char[]", room)
        got = lib.lcr_bpf_read(program, pid, buffer, room)
        if got >= 0:
            return bytes(ffi.buffer(buffer, got))
        if got != -_ENOSPC:
            raise Unavailable(f"reading the iterator: {os.strerror(-got)}")
        room *= 4


def _signed(word: int) -> int:
    return word - (1 << 64) if word >> 63 else word
