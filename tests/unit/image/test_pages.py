"""Which pages are a process' own, and how they get into a core: tried on this very process' memory."""

from __future__ import annotations

import ctypes
import mmap
import os
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import xxhash
from livecr._native import ffi, lib

PAGE = 4096
PROT_NONE = 0
MAP_NORESERVE = 0x4000
MADV_GUARD_INSTALL = 102
CHUNK_BYTES = 1 << 20
libc = ctypes.CDLL(None, use_errno=True)
Scan = Callable[..., int]


class Memory:
    """A private anonymous mapping of ours, none of whose pages exists yet."""

    def __init__(self, pages: int) -> None:
        self.map = mmap.mmap(-1, pages * PAGE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        # No huge pages, which would bring neighbours along.
        self.map.madvise(mmap.MADV_NOHUGEPAGE)
        self.start = ctypes.addressof(ctypes.c_char.from_buffer(self.map))
        self.end = self.start + pages * PAGE

    def page(self, index: int) -> int:
        return self.start + index * PAGE

    def write(self, *pages: int) -> None:
        for page in pages:
            self.map[page * PAGE : (page + 1) * PAGE] = random.randbytes(PAGE)


@pytest.fixture
def pagemap() -> Iterator[int]:
    fd = os.open("/proc/self/pagemap", os.O_RDONLY)
    yield fd
    os.close(fd)


def scan(function: Scan, pagemap: int, start: int, end: int, room: int = 64) -> list[tuple[int, int]]:
    runs = ffi.new("struct lcr_run[]", room)
    walk_end = ffi.new("uint64_t *")
    found = []
    while start < end:
        count = function(pagemap, start, end, runs, room, walk_end)
        assert count >= 0, os.strerror(-count)
        assert walk_end[0] > start
        found += [(runs[i].start, runs[i].end) for i in range(count)]
        start = walk_end[0]
    return found


SCANS = [lib.lcr_scan_private, lib.lcr_scan_private_entries]
ANONYMOUS_SCANS = [*SCANS, lib.lcr_scan_anonymous]


@pytest.mark.parametrize("function", ANONYMOUS_SCANS)
def test_only_pages_that_were_written_are_found(function: Scan, pagemap: int) -> None:
    memory = Memory(64)
    memory.write(3, 4, 5, 20, 63)
    expected = [(memory.page(a), memory.page(b)) for a, b in ((3, 6), (20, 21), (63, 64))]
    assert scan(function, pagemap, memory.start, memory.end) == expected


@pytest.mark.parametrize("function", ANONYMOUS_SCANS)
def test_a_scan_goes_on_where_its_room_ended(function: Scan, pagemap: int) -> None:
    memory = Memory(3000)
    memory.write(*range(0, 3000, 2))
    found = scan(function, pagemap, memory.start, memory.end, room=7)
    assert found == [(memory.page(i), memory.page(i + 1)) for i in range(0, 3000, 2)]


@pytest.mark.parametrize("function", SCANS)
def test_of_a_mapped_file_only_changed_pages_are_found(function: Scan, pagemap: int, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(random.randbytes(16 * PAGE))
    with path.open("r+b") as file:
        mapped = mmap.mmap(file.fileno(), 16 * PAGE, mmap.MAP_PRIVATE)
    start = ctypes.addressof(ctypes.c_char.from_buffer(mapped))
    assert sum(mapped[i * PAGE] for i in range(16)) >= 0  # all are present now
    mapped[5 * PAGE] = 1
    assert scan(function, pagemap, start, start + 16 * PAGE) == [(start + 5 * PAGE, start + 6 * PAGE)]


@pytest.mark.parametrize("function", [lib.lcr_scan_private, lib.lcr_scan_anonymous])
def test_pages_that_were_only_read_cost_nothing(function: Scan, pagemap: int) -> None:
    if not lib.lcr_has_pagemap_scan():
        pytest.skip("this kernel has no PAGEMAP_SCAN, and entries do not tell the zero page")
    memory = Memory(16)
    assert memory.map[7 * PAGE] == 0
    memory.write(9)
    found = scan(function, pagemap, memory.start, memory.end)
    assert found == [(memory.page(9), memory.page(10))]


def test_a_sparse_terabyte_is_scanned_at_once(pagemap: int) -> None:
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | MAP_NORESERVE
    sparse = mmap.mmap(-1, 1 << 40, flags)
    start = ctypes.addressof(ctypes.c_char.from_buffer(sparse))
    sparse.madvise(mmap.MADV_NOHUGEPAGE)
    sparse[1 << 39] = 1
    middle = start + (1 << 39)
    assert scan(lib.lcr_scan_private, pagemap, start, start + (1 << 40)) == [(middle, middle + PAGE)]


@pytest.mark.parametrize("function", ANONYMOUS_SCANS)
def test_guard_pages_are_not_content(function: Scan, pagemap: int) -> None:
    if not lib.lcr_has_guard_scan():
        pytest.skip("this kernel does not tell guard pages")
    memory = Memory(16)
    memory.write(*range(16))
    assert libc.madvise(ctypes.c_void_p(memory.page(4)), 3 * PAGE, MADV_GUARD_INSTALL) == 0
    assert scan(lib.lcr_scan_guards, pagemap, memory.start, memory.end) == [(memory.page(4), memory.page(7))]
    found = scan(function, pagemap, memory.start, memory.end)
    assert found == [(memory.start, memory.page(4)), (memory.page(7), memory.end)]


def dump(path: Path, head: bytes, runs: list[tuple[int, int]], workers: int, where: Any = None) -> list[int]:
    table, offset = [], len(head)
    for start, end in runs:
        table.append((start, end, offset))
        offset += end - start
    digests = ffi.new("uint64_t[]", -(-offset // CHUNK_BYTES))
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC)
    try:
        result = lib.lcr_dump(
            *(os.getpid(), fd, head, len(head), ffi.new("struct lcr_run[]", table), len(table), offset),
            *(CHUNK_BYTES, digests, len(digests), workers, 0, where or ffi.new("uint64_t *")),
        )
    finally:
        os.close(fd)
    if result < 0:
        raise OSError(-result, os.strerror(-result))
    return list(digests)


def chunk_digests(content: bytes) -> list[int]:
    chunks = range(0, len(content), CHUNK_BYTES)
    return [xxhash.xxh3_64_intdigest(content[at : at + CHUNK_BYTES]) for at in chunks]


@pytest.mark.parametrize("workers", [1, 2, 5])
@pytest.mark.parametrize("head_pages", [1, 3, 300])
def test_a_dump_is_head_and_pages_in_order(workers: int, head_pages: int, tmp_path: Path) -> None:
    memory = Memory(2000)
    memory.write(*range(2000))
    runs, at = [], 0
    while at < 1900:
        length = random.choice((1, 1, 2, 90))
        runs.append((memory.page(at), memory.page(at + length)))
        at += length + random.choice((0, 1, 5))
    head = random.randbytes(head_pages * PAGE)
    digests = dump(tmp_path / "core", head, runs, workers)
    parts = [memory.map[start - memory.start : end - memory.start] for start, end in runs]
    content = head + b"".join(parts)
    assert (tmp_path / "core").read_bytes() == content
    assert digests == chunk_digests(content)


def test_memory_that_may_not_be_read_is_dumped_too(tmp_path: Path) -> None:
    memory = Memory(400)
    memory.write(*range(400))
    before = memory.map[:]
    for page, count in ((0, 1), (7, 2), (100, 150), (399, 1)):
        address = ctypes.c_void_p(memory.page(page))
        assert libc.mprotect(address, count * PAGE, PROT_NONE) == 0
    runs = [(memory.page(a), memory.page(b)) for a, b in ((0, 8), (8, 9), (9, 120), (120, 400))]
    digests = dump(tmp_path / "core", bytes(PAGE), runs, 2)
    assert (tmp_path / "core").read_bytes() == bytes(PAGE) + before
    assert digests == chunk_digests(bytes(PAGE) + before)
    assert libc.mprotect(ctypes.c_void_p(memory.start), 400 * PAGE, mmap.PROT_READ | mmap.PROT_WRITE) == 0


def test_a_dump_says_where_memory_is_missing(tmp_path: Path) -> None:
    memory = Memory(8)
    memory.write(*range(8))
    hole = memory.page(5)
    assert libc.munmap(ctypes.c_void_p(hole), PAGE) == 0
    where = ffi.new("uint64_t *")
    with pytest.raises(OSError):
        dump(tmp_path / "core", bytes(PAGE), [(memory.start, memory.end)], 1, where)
    assert where[0] == hole
    # The mapping object unmaps all of it at the end; what is in the hole by then must be its own.
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | 0x10  # MAP_FIXED
    libc.mmap.restype = ctypes.c_void_p
    assert libc.mmap(ctypes.c_void_p(hole), PAGE, 3, flags, -1, 0) == hole


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("size", [0, 1, CHUNK_BYTES - 1, CHUNK_BYTES, 3 * CHUNK_BYTES + 5])
def test_digests_of_a_file_are_xxh3_of_its_chunks(size: int, workers: int, tmp_path: Path) -> None:
    content = random.randbytes(size)
    (tmp_path / "file").write_bytes(content)
    digests = ffi.new("uint64_t[]", -(-size // CHUNK_BYTES))
    with (tmp_path / "file").open("rb") as file:
        assert lib.lcr_digest(file.fileno(), size, CHUNK_BYTES, digests, len(digests), workers) == 0
    assert list(digests) == chunk_digests(content)


def test_a_file_that_is_shorter_than_said_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(bytes(100))
    digests = ffi.new("uint64_t[]", 1)
    with (tmp_path / "file").open("rb") as file:
        assert lib.lcr_digest(file.fileno(), 101, CHUNK_BYTES, digests, 1, 1) < 0
